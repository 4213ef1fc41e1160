//! I1 and I3 at the seams: a second mapping is refused by the ledger before a descriptor is written, and a mapping
//! that ended is in no TLB.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use carveout::addr::{BusAddr, FRAME_SIZE, Frame, SECTION_SIZE, VirtAddr};
use carveout::dma::{Bidirectional, FromDevice, Holder, Port, PortError};
use carveout::machine::Mmu;
use carveout::vm::attr::{Access, LeafSize, MemoryType};
use carveout::vm::desc::L1Desc;
use carveout::vm::ledger::{Carved, LedgerError};
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::kernel::state::Kernel;
use carveout_boot::upper_half::DEVICES;
use on_target::tables::{Place, Plant};
use on_target::{
    Verdict, address_of, after, alloc, audit, checks, ensure, ensure_eq, is_unmapped, master, read, share,
};

checks![
    a_second_mapping_is_refused_by_the_ledger,
    the_port_maps_what_the_device_owns_and_nothing_else,
    the_tlb_keeps_what_is_not_invalidated,
    a_mapping_that_ended_is_in_no_tlb,
    a_mapping_that_ended_is_in_no_tlb_whatever_its_size,
];

fn refusal(port: &Port<Armv7a>, at: BusAddr, len: u32) -> Option<PortError> {
    port.open(at, len).err()
}

fn a_second_mapping_is_refused_by_the_ledger(kernel: &'static Kernel) -> Verdict {
    // SAFETY: the tests keep a device's promise: a port is closed before its buffer changes hands.
    let port = unsafe { Port::new(kernel.dma, master(kernel)) };
    let bytes = 3 * FRAME_SIZE;
    let buffer = alloc(kernel, bytes)?.into_stream::<Bidirectional>().for_device();
    let at = buffer.bus();
    ensure_eq!(refusal(&port, at, bytes), None, "the port, of a device-owned stream");

    // SAFETY: the device is the port, and it is closed.
    let buffer = unsafe { buffer.for_cpu() };
    ensure_eq!(read(address_of(buffer.bytes())), Ok(0), "the CPU's view");
    let (frames, has, wants) = (buffer.frames(), MemoryType::WriteBack, MemoryType::NonCacheable);
    let refused = LedgerError::Mapped { frames, frame: Frame::containing(frames.base()), has, wants };
    ensure_eq!(refusal(&port, at, bytes), Some(PortError::Mapped(refused)), "the port, of a stream that is mapped");
    let line = format!("{}", PortError::Mapped(refused));
    ensure!(line.ends_with("is mapped write-back already (I1)"), "the refusal reads: {line}");

    // Nothing changed: one mapping, the CPU's.
    ensure_eq!(read(address_of(buffer.bytes())), Ok(0), "the CPU's view");
    for frame in frames.iter() {
        ensure_eq!(kernel.dma.state_of(frame), Some(Carved::Mapped(has)), "the state of frame {}", frame.base());
    }
    audit(kernel)?;

    let buffer = buffer.for_device();
    ensure_eq!(refusal(&port, at, bytes), None, "the port, once the stream is the device's again");
    // SAFETY: the device is the port, and it is closed.
    drop(unsafe { buffer.for_cpu() });
    Ok(())
}

fn the_port_maps_what_the_device_owns_and_nothing_else(kernel: &'static Kernel) -> Verdict {
    // SAFETY: the tests keep a device's promise: a port is closed before its buffer changes hands.
    let port = unsafe { Port::new(kernel.dma, master(kernel)) };
    let buffer = alloc(kernel, FRAME_SIZE)?.into_stream::<FromDevice>().for_device();
    let (at, frames) = (buffer.bus(), buffer.frames());
    let frame = Frame::containing(frames.base());
    {
        let open = port.open(at, FRAME_SIZE).map_err(|error| format!("{error}"))?;
        let mapped = Some(Carved::Mapped(MemoryType::NonCacheable));
        ensure_eq!(kernel.dma.state_of(frame), mapped, "the state while the port is open");
        ensure_eq!(refusal(&port, at, FRAME_SIZE), Some(PortError::InUse { frames }), "the port, opened twice");
        // The audit sees the port's mapping too.
        audit(kernel)?;
        drop(open);
    }
    ensure_eq!(kernel.dma.state_of(frame), Some(Carved::Unmapped), "the state once the port is closed");

    let over = FRAME_SIZE + 1;
    ensure_eq!(refusal(&port, at, over), Some(PortError::NoBuffer { at, len: over }), "a transfer past the end");
    ensure_eq!(refusal(&port, at, 0), Some(PortError::Length { at, len: 0 }), "a transfer of no bytes");
    // SAFETY: the device is the port, and it is closed.
    let buffer = unsafe { buffer.for_cpu() };
    let expected = PortError::NotGranted { frames, holder: Holder::Cpu };
    ensure_eq!(refusal(&port, at, FRAME_SIZE), Some(expected), "the port, of the CPU's stream not looked at");
    drop(buffer);
    let expected = PortError::NoBuffer { at, len: FRAME_SIZE };
    ensure_eq!(refusal(&port, at, FRAME_SIZE), Some(expected), "the port, of a buffer that was freed");
    Ok(())
}

/// The next two checks can fail only where the TLB keeps a translation whose descriptor is gone, as QEMU's does.
fn the_tlb_keeps_what_is_not_invalidated(kernel: &'static Kernel) -> Verdict {
    // A section that is nobody's, of memory that is mapped write-back elsewhere too.
    let va = after(DEVICES.start(), DEVICES.sections() * SECTION_SIZE);
    let at = carveout::addr::PhysAddr::new(kernel.heap.base().raw().next_multiple_of(SECTION_SIZE));
    let word = L1Desc::section(at, MemoryType::WriteBack, Access::Read, share()).raw();
    is_unmapped(va)?;
    // SAFETY: nothing uses the section, and the word translates RAM with the attributes of the direct map.
    let plant = unsafe { Plant::new(kernel, Place::first_level(kernel, va), word) }.ok_or("no table")?;
    ensure!(read(va).is_ok(), "the planted section cannot be read");
    plant.withdraw_from_memory_only();
    ensure!(read(va).is_ok(), "the TLB forgot by itself: a missing invalidate does not show here");
    kernel.machine.invalidate_tlb(va, FRAME_SIZE, LeafSize::Page);
    is_unmapped(va)
}

fn a_mapping_that_ended_is_in_no_tlb(kernel: &'static Kernel) -> Verdict {
    let mut buffer = alloc(kernel, FRAME_SIZE)?.into_stream::<Bidirectional>();
    let va = address_of(buffer.bytes());
    // The TLB is filled and emptied anew in each round.
    for round in 0..100 {
        buffer.bytes_mut()[0] = round;
        ensure_eq!(read(va), Ok(u32::from(round)), "the CPU's view");
        let device = buffer.for_device();
        is_unmapped(va)?;
        // SAFETY: no device was told the address.
        buffer = unsafe { device.for_cpu() };
        is_unmapped(va)?;
    }
    Ok(())
}

fn a_mapping_that_ended_is_in_no_tlb_whatever_its_size(kernel: &'static Kernel) -> Verdict {
    // Small pages, large pages, sections, and more pages than are invalidated one by one.
    for bytes in [5 * FRAME_SIZE, 64 << 10, 40 * FRAME_SIZE, SECTION_SIZE, 3 * SECTION_SIZE] {
        let coherent = alloc(kernel, bytes)?.into_coherent();
        let va = VirtAddr::new(coherent.as_ptr().addr().get() as u32);
        let pages = || (0..bytes / FRAME_SIZE).map(|page| after(va, page * FRAME_SIZE));
        for page in pages() {
            ensure_eq!(read(page), Ok(0), "the word at {page}");
        }
        // SAFETY: no device was told the address.
        let raw = unsafe { coherent.release() };
        for page in pages() {
            is_unmapped(page)?;
        }
        drop(raw);
    }
    Ok(())
}
