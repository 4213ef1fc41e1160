//! A published driver of dma-api over `carveout-dma-api`: eth-intel's for the Intel 82540. QEMU's card reads and writes
//! the rings and packets itself. This program needs the `RealView` baseboard with PCI and the card that
//! tests/cases/adapters.toml attaches.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use carveout::addr::PhysAddr;
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::drivers::mmio::Mmio;
use carveout_boards::drivers::wait::until;
use carveout_boards::kernel::state::{Kernel, kernel};
use carveout_dma_api::DeviceMemory;
use core::alloc::Layout;
use dma_api::{ContiguousBufferPool, DmaDirection};
use eth_intel::E1000;
use mmio_api::{MapError, MmioAddr, MmioOp, MmioRaw};
use on_target::{Verdict, checks, ensure, ensure_eq};
use rdif_eth::{DmaBuffer, NetDevice, NetPollGroupParts};
use spin::Mutex;

checks![i4_a_published_driver_exchanges_packets_and_gives_all_back, i4_a_second_driver_finds_the_card_free];

/// Bytes of a packet's buffer.
const ROOM: usize = 2048;
const OURS: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];

/// The baseboard's PCI bridge (Arm DUI 0411, 4.14): its registers, its devices' configuration, a window of memory.
mod pci {
    pub(super) const REGISTERS: u32 = 0x1001_9000;
    pub(super) const CONFIGURATION: u32 = 0x6100_0000;
    pub(super) const WINDOW: u32 = 0x6400_0000;
    /// The register that says what the window shows.
    pub(super) const MAP: usize = 1;
    /// Words of a device's configuration. Each device has one function.
    pub(super) const DEVICE_WORDS: usize = 0x200;
    pub(super) const COMMAND: usize = 1;
    pub(super) const FIRST_BAR: usize = 4;
    /// The card answers to memory accesses, and may be bus master.
    pub(super) const ON: u32 = 6;
}

/// Bytes of the card's registers.
const CARD_BYTES: usize = 128 << 10;

#[expect(clippy::needless_pass_by_value, reason = "passed to map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

/// The card's registers, for one driver at a time.
struct Registers {
    taken: Mutex<Option<Mmio<u32>>>,
}

static REGISTERS: Registers = Registers { taken: Mutex::new(None) };

impl MmioOp for Registers {
    fn ioremap(&self, addr: MmioAddr, size: usize) -> Result<MmioRaw, MapError> {
        let at = PhysAddr::new(u32::try_from(addr.as_usize()).map_err(|_| MapError::Invalid)?);
        let kernel = kernel().ok_or(MapError::NoMemory)?;
        // SAFETY: the card has registers there, each of a word.
        let registers = unsafe { kernel.registers::<u32>(at, size as u32) }.ok_or(MapError::Busy)?;
        let first = registers.pointer().cast();
        *self.taken.lock() = Some(registers);
        // SAFETY: the registers are mapped there until `iounmap`.
        Ok(unsafe { MmioRaw::new(addr, first, size) })
    }

    fn iounmap(&self, _: &MmioRaw) {
        *self.taken.lock() = None;
    }
}

/// The lock of dma-api's pools. One core runs, and no interrupt handler here has a pool.
#[expect(clippy::used_underscore_binding, reason = "the macro passes all of them on")]
mod pool_lock {
    use ax_sync::interface::{AcquireResult, ContextState, LockMetadata, SpinOps};
    use core::panic::Location;
    use core::sync::atomic::{AtomicBool, Ordering};

    struct Spin;

    #[ax_crate_interface::impl_interface]
    impl SpinOps for Spin {
        fn acquire(
            locked: &AtomicBool,
            _metadata: &LockMetadata,
            _at: usize,
            _context: u8,
            _subclass: u32,
            _caller: &'static Location<'static>,
        ) -> ContextState {
            while locked.swap(true, Ordering::Acquire) {
                core::hint::spin_loop();
            }
            ContextState::new(0, 0)
        }

        fn try_acquire(
            locked: &AtomicBool,
            _metadata: &LockMetadata,
            _at: usize,
            _context: u8,
            _subclass: u32,
            _caller: &'static Location<'static>,
        ) -> AcquireResult {
            AcquireResult::new(!locked.swap(true, Ordering::Acquire), ContextState::new(0, 0))
        }

        fn release(locked: &AtomicBool, _at: usize, _context: u8, _state: ContextState) {
            locked.store(false, Ordering::Release);
        }

        fn force_release(locked: &AtomicBool, _at: usize, _context: u8) {
            locked.store(false, Ordering::Release);
        }

        fn is_locked(locked: &AtomicBool) -> bool {
            locked.load(Ordering::Relaxed)
        }
    }
}

/// Finds the card on its bus, and lets it answer at the window.
fn find_card(kernel: &'static Kernel) -> Result<u32, String> {
    let words = |at, bytes| {
        // SAFETY: the bridge has words there. Each access below is to one word of configuration or to one register.
        unsafe { kernel.registers::<u32>(PhysAddr::new(at), bytes) }.ok_or_else(|| format!("no registers at {at:#x}"))
    };
    let (bridge, devices) = (words(pci::REGISTERS, 0x1000)?, words(pci::CONFIGURATION, 0x1_0000)?);
    let word = |device: usize, n: usize| devices.pointer().as_ptr().wrapping_add(device * pci::DEVICE_WORDS + n);
    let is_card = |&device: &usize| {
        // SAFETY: as above.
        let id = unsafe { word(device, 0).read_volatile() };
        E1000::check_vid_did(id as u16, (id >> 16) as u16)
    };
    let card = (0..32).find(is_card).ok_or("no card on the bus")?;
    for (at, value) in [
        (bridge.pointer().as_ptr().wrapping_add(pci::MAP), pci::WINDOW),
        (word(card, pci::FIRST_BAR), pci::WINDOW),
        (word(card, pci::COMMAND), pci::ON),
    ] {
        // SAFETY: as above.
        unsafe { at.write_volatile(value) };
    }
    Ok(pci::WINDOW)
}

/// Returns the one's complement of the sum of words (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| low.into())).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes()
}

/// Returns a request for the address of the gateway (RFC 826).
fn who_has(mac: [u8; 6]) -> Vec<u8> {
    let head = [&[0xff; 6][..], &mac, &[8, 6], &[0, 1, 8, 0, 6, 4, 0, 1]].concat();
    [&head[..], &mac, &OURS, &[0; 6], &GATEWAY, &[0; 18]].concat()
}

/// Returns an echo request to the gateway (RFC 791, RFC 792).
fn echo(mac: [u8; 6], gateway: &[u8], data: &[u8]) -> Vec<u8> {
    let mut icmp = [&[8, 0, 0, 0, 0, 7, 0, 1][..], data].concat();
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let length = (20 + icmp.len() as u16).to_be_bytes();
    let mut ip = [&[0x45, 0][..], &length, &[0, 1, 0, 0, 64, 1, 0, 0], &OURS, &GATEWAY].concat();
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    [gateway, &mac, &[8, 0], &ip, &icmp].concat()
}

/// Sends a packet, and returns the next one that comes.
fn exchange(
    kernel: &Kernel,
    card: &mut NetPollGroupParts,
    pool: &ContiguousBufferPool,
    packet: &[u8],
) -> Result<Vec<u8>, String> {
    let buffer = |bytes| DmaBuffer::new(pool.alloc().map_err(text)?, bytes).map_err(|_| "too long".to_string());
    let empty = buffer(ROOM)?;
    empty.prepare_for_device();
    card.queues.rx.submit(empty).map_err(|error| error.error().to_string())?;
    let mut full = buffer(packet.len())?;
    full.write_with_cpu(|bytes| bytes.copy_from_slice(packet));
    full.prepare_for_device();
    card.queues.tx.submit(full).map_err(|error| error.error().to_string())?;
    let mut came = None;
    until(
        || kernel.micros(),
        10_000_000,
        || {
            came = card.queues.rx.reclaim();
            came.is_some()
        },
    );
    let came = came.ok_or("no packet came in ten seconds")?;
    ensure!(card.queues.tx.reclaim().is_some(), "an answer, and nothing was sent");
    came.buffer.complete_for_cpu(came.packet_len);
    Ok(came.buffer.read_with_cpu(came.packet_len, <[u8]>::to_vec))
}

/// Asks for the gateway's address, and has it echo packets of 1400 bytes.
fn talk(kernel: &Kernel, card: &mut NetPollGroupParts, pool: &ContiguousBufferPool, mac: [u8; 6]) -> Verdict {
    let answer = exchange(kernel, card, pool, &who_has(mac))?;
    ensure_eq!(answer.get(..6), Some(&mac[..]), "to whom the answer goes");
    ensure_eq!(answer.get(12..22), Some(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2][..]), "an ARP answer");
    ensure_eq!(answer.get(28..32), Some(&GATEWAY[..]), "whose address the answer tells");
    let gateway = &answer[22..28];
    for round in 0..32_usize {
        let data: Vec<u8> = (0..1400).map(|n: usize| (n * 7 + round * 31) as u8).collect();
        let answer = exchange(kernel, card, pool, &echo(mac, gateway, &data))?;
        ensure_eq!(answer.get(34..36), Some(&[0, 0][..]), "an echo reply, round {round}");
        ensure!(answer[42..].starts_with(&data), "round {round}: other bytes came back");
    }
    Ok(())
}

fn i4_a_published_driver_exchanges_packets_and_gives_all_back(kernel: &'static Kernel) -> Verdict {
    let at = find_card(kernel)?;
    let before = kernel.dma.stats();
    // SAFETY: the card is reset before rings and buffers are dropped, below. If it is not reset, they are never dropped
    // (I4).
    let memory: &'static DeviceMemory<Armv7a> =
        Box::leak(Box::new(unsafe { DeviceMemory::new(kernel.dma, kernel.master("e1000")) }));
    let device = memory.device();
    let card = E1000::new(u64::from(at), CARD_BYTES, device.clone(), &REGISTERS).map_err(text)?;
    let mut parts = Box::new(card).into_parts().map_err(text)?;
    let mac = parts.control.mac_address().map_err(text)?;
    let mut card = parts.poll_groups.pop().ok_or("a card without queues")?;
    let layout = Layout::from_size_align(ROOM, 16).map_err(text)?;
    let pool = device.contiguous_buffer_pool(layout, DmaDirection::Bidirectional, 2);

    let verdict = talk(kernel, &mut card, &pool, mac);
    if let Err(error) = card.irq_control.shutdown() {
        // The card may still use them.
        core::mem::forget((card, pool));
        return Err(text(error));
    }
    verdict?;
    drop((card, pool));
    let after = kernel.dma.stats();
    ensure_eq!(after.quarantined, before.quarantined, "bytes in quarantine");
    let lines = |stats: carveout::dma::DmaStats| stats.cleaned + stats.invalidated;
    ensure_eq!(lines(after), lines(before), "lines that were maintained");
    Ok(())
}

fn i4_a_second_driver_finds_the_card_free(kernel: &'static Kernel) -> Verdict {
    i4_a_published_driver_exchanges_packets_and_gives_all_back(kernel)
}
