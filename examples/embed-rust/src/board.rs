//! The board, by hand: a Zynq-7000 with 128 MiB of RAM, as QEMU's `xilinx-zynq-a9` is.
//!
//! Guarantees: no two constants of memory here overlap. All addresses are physical ones. The kernel reaches its own
//! memory and the devices at equal virtual addresses.

use carveout::addr::FrameRange;
use carveout::vm::range::VirtRange;

/// All RAM (UG585 table 4-1: DDR from address 0 on).
pub const RAM: FrameRange = FrameRange::within(0, 128 << 20);

/// The kernel's heap. `memory.x` has what lies below it: the image, with its stacks.
pub const HEAP: FrameRange = FrameRange::within(32 << 20, 1 << 20);

/// The second-level tables of [`WINDOW`]: 1 KiB for each of its sections.
pub const TABLES: FrameRange = FrameRange::within(33 << 20, WINDOW.sections() as u64 * 1024);

/// The carve-out: the buffers of all devices. The kernel's tables never map it (I2).
pub const CARVED: FrameRange = FrameRange::within(64 << 20, 32 << 20);

/// The addresses at which Carveout maps buffers, as many as `carveout::embed::Needs` says: room for each buffer to have
/// an unmapped page on either side.
pub const WINDOW: VirtRange = VirtRange::new(0xc000_0000, 100);

/// The sections with the registers of devices that this kernel uses: UARTs and Ethernet; SLCR, DMA controller, and the
/// private memory of the cores with GIC, timers and PL310 (UG585 table 4-1).
pub const DEVICES: [u32; 3] = [0xe000_0000, 0xf800_0000, 0xf8f0_0000];

/// The outer cache's controller.
pub const PL310: u32 = 0xf8f0_2000;

/// Bytes of a line of either cache level.
pub const LINE: usize = 32;

/// Interrupts, by their numbers in the GIC (UG585 table 7-4).
pub mod interrupt {
    /// The global timer's comparator.
    pub const TIMER: usize = 27;
    /// The first Ethernet port.
    pub const ETHERNET: usize = 54;
}

/// Ticks of the global timer in a millisecond. The emulator's runs at 100 MHz. A board's runs at half of its cores'
/// clock.
pub const TICKS_PER_MS: u64 = 100_000;

/// The Ethernet port's address: one of the locally administered ones.
pub const MAC: [u8; 6] = [0x02, 0x00, 0x00, 0xca, 0x7e, 0x01];
/// The kernel's IPv4 address and its prefix length, as QEMU's user network gives it.
pub const IPV4: ([u8; 4], u8) = ([10, 0, 2, 15], 24);
/// The router's address.
pub const ROUTER: [u8; 4] = [10, 0, 2, 2];
