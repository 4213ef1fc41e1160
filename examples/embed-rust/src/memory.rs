//! The kernel's heap, and Carveout over the board's carve-out.
//!
//! Guarantees: there is one [`Dma`], made after MMU and caches are on. Its outer cache is on before it is made.

use alloc::boxed::Box;
use core::ptr::NonNull;

use arbitrary_int::u3;
use carveout::carve_out::CarveOut;
use carveout::dma::{AreaId, Dma};
use carveout::embed::{Builder, Roots, Window};
use carveout_armv7a::cores::World;
use carveout_armv7a::l2c310::{L2c310, Unusable};
use carveout_armv7a::mmu::Armv7a;
use embedded_alloc::LlffHeap;
use zynq7000::{l2_cache, slcr};

use crate::board::{CARVED, HEAP, PL310, TABLES, WINDOW};
use crate::{mmu, println};

#[global_allocator]
static ALLOCATOR: LlffHeap = LlffHeap::empty();

/// The kernel's allocator of DMA memory, and its only area.
#[derive(Clone, Copy)]
pub struct Memory {
    /// The DMA API.
    pub dma: &'static Dma<Armv7a>,
    /// The board's carve-out.
    pub area: AreaId,
    /// Whether there is an outer cache.
    pub outer: bool,
}

/// Makes the heap, turns the outer cache on, and gives Carveout what it takes.
///
/// # Safety
///
/// This is called once, after [`mmu::enable`].
pub unsafe fn init() -> Memory {
    // SAFETY: the heap is mapped, and nothing else uses it.
    unsafe { ALLOCATOR.init(HEAP.base().raw() as usize, HEAP.bytes() as usize) };

    // SAFETY: `mmu::enable` mapped it write-back, for good. A Cortex-A9 has the Security Extensions.
    let machine = Box::leak(Box::new(unsafe { Armv7a::new(&mmu::kernel_address) }));
    outer_latencies();
    let registers = NonNull::new(PL310 as *mut _).expect("not null");
    // SAFETY: the registers are mapped for good, and nothing else writes them from here on.
    let outer = match unsafe { L2c310::enable(registers, World::Secure) } {
        Ok(outer) => {
            // SAFETY: no `Dma` was made yet (I3).
            unsafe { machine.set_outer(Box::leak(Box::new(outer))) };
            true
        }
        // QEMU's Zynq has none.
        Err(unusable @ Unusable::Absent { .. }) => {
            println!("embed-rust: outer cache: {unusable}");
            false
        }
        Err(unusable) => panic!("{unusable}"),
    };

    // SAFETY: `mmu::map` refuses the carve-out, and nothing else maps memory (I2).
    let carved = unsafe { CarveOut::assume("dma", &[CARVED], false) };
    // SAFETY: the kernel uses none of these addresses, and nothing else names the tables.
    let window = unsafe { Window::assume(WINDOW, Roots::One, TABLES.base()) };
    let dma = Builder::new(machine, [carved], window).build();
    let dma = Box::leak(Box::new(dma.unwrap_or_else(|error| panic!("{error}"))));
    let area = dma.area("dma").expect("the carve-out's name");
    Memory { dma, area, outer }
}

/// Sets how long the outer cache waits for its RAM, before the cache is on (UG585 3.4.10).
fn outer_latencies() {
    // SAFETY: nothing else uses the controller yet.
    let mut outer = unsafe { l2_cache::Registers::new_mmio_fixed() };
    let latency = |read: u8| {
        let config = l2_cache::LatencyConfig::new_with_raw_value(0);
        config
            .with_setup_latency(u3::new(1))
            .with_read_access_latency(u3::new(read))
            .with_write_access_latency(u3::new(1))
    };
    outer.write_tag_ram_latency(latency(1));
    outer.write_data_ram_latency(latency(2));
    // SAFETY: nothing else uses the SLCR.
    let mut slcr = unsafe { slcr::Registers::new_mmio_fixed() };
    slcr.write_unlock(0xdf0d);
    slcr.write_magic_l2c_register(0x0002_0202);
    slcr.write_lock(0x767b);
}
