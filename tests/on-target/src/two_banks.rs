//! Two banks of RAM, of which one has a second address: areas in one and in both, a bus master between them, and I1
//! through the alias. This program needs realview-pb-a8 with the areas that tests/cases/two-banks.toml adds to its
//! tree: `both` over both banks, `low` and `high` in one bank each.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use carveout::addr::{BusAddr, FRAME_SIZE, Frame, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use carveout::dma::{
    AllocError, Contiguous, Cpu, FromDevice, Master, NoRun, Reach, ScatterError, ScatterTable, Stream, ToDevice,
    TypedDirection,
};
use carveout::vm::alias::Alias;
use carveout::vm::attr::{Access, MemoryType};
use carveout::vm::audit::Finding;
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::drivers::dma::CopyError;
use carveout_boards::drivers::dma::pl081::ListError;
use carveout_boards::drivers::wait::Failed;
use carveout_boards::kernel::known::{self, BoardCopier};
use carveout_boards::kernel::state::Kernel;
use carveout_rt::address_space::DeviceError;
use on_target::tables::{Place, Plant, finds, must_find, nobodys, section};
use on_target::{Verdict, after, audit, checks, direct_map_place, ensure, ensure_eq, read};

checks![
    one_area_spans_both_banks,
    a_device_that_reaches_one_bank_gets_that_one,
    two_areas_serve_two_devices,
    the_dma_controller_copies_from_bank_to_bank,
    a_list_longer_than_a_page_is_copied_in_parts,
    what_is_no_copy_is_refused_and_nothing_moves,
    the_alias_is_the_memory_that_the_tree_says,
    i1_the_audit_finds_every_mapping_through_the_alias,
    i1_registers_are_never_mapped_through_the_alias,
    the_ledger_knows_frames_by_their_first_name_only,
];

const MIB: u32 = SECTION_SIZE;

/// Returns the bank at 0x20000000 and the one at 0x70000000.
fn banks(kernel: &Kernel) -> Result<[FrameRange; 2], String> {
    let at = |base| kernel.info.banks().iter().find(|bank| bank.base() == PhysAddr::new(base)).copied();
    at(0x2000_0000).zip(at(0x7000_0000)).map(|(low, high)| [low, high]).ok_or_else(|| "not the two banks".into())
}

#[expect(clippy::needless_pass_by_value, reason = "passed to map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

/// `both` is 8 MiB in each bank, the low one first.
fn one_area_spans_both_banks(kernel: &'static Kernel) -> Verdict {
    let [low, high] = banks(kernel)?;
    let master = kernel.master("/camera");
    let area = kernel.dma.area("both").ok_or("no area of that name")?;
    ensure_eq!(kernel.dma.free_bytes(area), (u64::from(16 * MIB), u64::from(8 * MIB)), "bytes free, and in one run");
    let refused = kernel.dma.alloc(&master, 9 * MIB, 1).map(drop);
    let wanted = u64::from(9 * MIB);
    let (align, reach, bank) = (FRAME_SIZE, Reach::ALL, 8 << 20);
    let no_run = NoRun { wanted, align, reach, free: 16 << 20, largest: bank, any: bank };
    let fragmented = AllocError::Fragmented(no_run);
    ensure_eq!(refused, Err(fragmented), "more than a bank holds, in one run");
    let mut buffers = Vec::new();
    for n in 0..16u8 {
        let mut buffer = kernel.dma.alloc(&master, MIB, 1).map_err(text)?.into_stream::<ToDevice>();
        buffer.bytes_mut().fill(n);
        buffers.push(buffer);
    }
    let full = AllocError::NoCapacity { wanted: FRAME_SIZE.into(), free: 0 };
    ensure_eq!(kernel.dma.alloc(&master, 1, 1).map(drop), Err(full), "a frame more than there is");
    let within = |bank: FrameRange| buffers.iter().filter(|buffer| bank.covers(buffer.frames())).count();
    ensure_eq!((within(low), within(high)), (8, 8), "buffers in each bank");
    // All buffers of both banks are mapped, and each has its own bytes.
    audit(kernel)?;
    for (n, buffer) in buffers.iter().enumerate() {
        ensure!(buffer.bytes().iter().all(|&byte| usize::from(byte) == n), "buffer {n} holds another's bytes");
    }
    Ok(())
}

fn a_device_that_reaches_one_bank_gets_that_one(kernel: &'static Kernel) -> Verdict {
    let [low, high] = banks(kernel)?;
    let last = low.last_byte().ok_or("an empty bank")?;
    let short = kernel.master("/camera").with_mask(BusAddr::new(last.raw()));
    let mut buffers = Vec::new();
    for _ in 0..8 {
        buffers.push(kernel.dma.alloc(&short, MIB, 1).map_err(text)?);
    }
    ensure!(buffers.iter().all(|buffer| low.covers(buffer.frames())), "a buffer out of the device's reach");
    let refused = kernel.dma.alloc(&short, FRAME_SIZE, 1).map(drop);
    let full = matches!(refused, Err(AllocError::OutOfReach(NoRun { largest: 0, .. })));
    ensure!(full, "the bank it reaches is full: {refused:?}");
    let far = kernel.dma.alloc(&kernel.master("/camera"), FRAME_SIZE, 1).map_err(text)?;
    ensure!(high.covers(far.frames()), "{} is not in the other bank", far.frames());
    Ok(())
}

fn two_areas_serve_two_devices(kernel: &'static Kernel) -> Verdict {
    let [low, high] = banks(kernel)?;
    for (device, name, bank) in [("/codec", "low", low), ("/scaler", "high", high)] {
        let area = kernel.dma.area(name).ok_or("no area of that name")?;
        let all = kernel.dma.free_bytes(area).0;
        let buffer = kernel.dma.alloc(&kernel.master(device), 3 * MIB, MIB).map_err(text)?;
        ensure!(bank.covers(buffer.frames()), "{device}: {} is not in {bank}", buffer.frames());
        ensure_eq!(kernel.dma.free_bytes(area).0, all - u64::from(3 * MIB), "bytes left to {device}");
        let refused = kernel.dma.alloc(&kernel.master(device), 8 * MIB, 1).map(drop);
        let no_room = AllocError::NoCapacity { wanted: 8 << 20, free: all - u64::from(3 * MIB) };
        ensure_eq!(refused, Err(no_room), "{device}, of more than its own area");
    }
    Ok(())
}

fn copier(kernel: &'static Kernel) -> Result<BoardCopier, String> {
    known::copier(kernel).map_err(text)?.ok_or_else(|| "the board has no DMA controller".into())
}

/// Returns streams of these sizes for the device. Each word has a value of its own.
fn streams<D: TypedDirection>(
    kernel: &'static Kernel,
    device: &'static str,
    sizes: &[u32],
) -> Result<Vec<Stream<Armv7a, D, Cpu>>, String> {
    let alloc = |&bytes: &u32| kernel.dma.alloc(&kernel.master(device), bytes, 1).map(Contiguous::into_stream);
    sizes.iter().map(alloc).collect::<Result<_, _>>().map_err(text)
}

const fn word(n: u32) -> u32 {
    n.wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995
}

/// Copies from streams of `from` sizes in one device's area to streams of `to` sizes in another's, and compares.
fn copies(kernel: &'static Kernel, from: (&'static str, &[u32]), to: (&'static str, &[u32])) -> Verdict {
    let mut source = ScatterTable::new(streams::<ToDevice>(kernel, from.0, from.1)?);
    let mut n = 0;
    for view in source.views_mut() {
        for bytes in view.chunks_exact_mut(4) {
            bytes.copy_from_slice(&word(n).to_le_bytes());
            n += 1;
        }
    }
    let source = source.for_device();
    let target = ScatterTable::new(streams::<FromDevice>(kernel, to.0, to.1)?).for_device();
    let (source, target) = copier(kernel)?.copy(source, target).map_err(|failed| text(failed.error))?;
    // SAFETY: `copy` gave it back: the controller has stopped (I4).
    let source = unsafe { source.for_cpu() };
    // SAFETY: as above.
    let target = unsafe { target.for_cpu() };
    let mut n = 0;
    for view in target.views() {
        for bytes in view.chunks_exact(4) {
            let found = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            ensure!(found == word(n), "word {n:#x} is {found:#010x}, not {:#010x}", word(n));
            n += 1;
        }
    }
    ensure_eq!(u64::from(n) * 4, source.bytes(), "bytes compared");
    Ok(())
}

fn the_dma_controller_copies_from_bank_to_bank(kernel: &'static Kernel) -> Verdict {
    let pieces = [20_000, FRAME_SIZE, 3 * FRAME_SIZE - 100, 130_000];
    let total: u32 = pieces.iter().sum();
    // Copies in both directions, of one buffer and of several, with equal and with different ends, and of less than a
    // page.
    copies(kernel, ("/codec", &pieces), ("/scaler", &[total - 8, 8]))?;
    copies(kernel, ("/scaler", &[total]), ("/codec", &pieces))?;
    copies(kernel, ("/codec", &[4]), ("/scaler", &[4]))?;
    copies(kernel, ("/codec", &[MIB]), ("/codec", &[MIB]))
}

/// A page has 256 items of at most 16380 bytes: a little less than 4 MiB.
fn a_list_longer_than_a_page_is_copied_in_parts(kernel: &'static Kernel) -> Verdict {
    for bytes in [256 * 16380, 256 * 16380 + 4, 5 * MIB + 12] {
        copies(kernel, ("/codec", &[bytes]), ("/scaler", &[bytes]))?;
    }
    Ok(())
}

fn what_is_no_copy_is_refused_and_nothing_moves(kernel: &'static Kernel) -> Verdict {
    let mut copier = copier(kernel)?;
    let from = kernel.dma.alloc(&kernel.master("/codec"), 100, 1).map_err(text)?.into_coherent();
    let mut to = kernel.dma.alloc(&kernel.master("/scaler"), 102, 1).map_err(text)?.into_coherent();
    to.write_at(0, &[0x77; 102]);
    let Err(Failed { error, given: Some((from, to)) }) = copier.copy(from, to) else {
        return Err("a ragged copy".into());
    };
    ensure!(matches!(error, CopyError::List(ListError::Ragged(_))), "a ragged copy: {error:?}");
    let longer = kernel.dma.alloc(&kernel.master("/scaler"), 104, 1).map_err(text)?.into_coherent();
    let Err(Failed { error, given: Some((from, longer)) }) = copier.copy(from, longer) else {
        return Err("an uneven copy".into());
    };
    let line = text(error);
    ensure!(line.starts_with("4 bytes at 0x"), "an uneven copy: {line}");
    // A controller that does not reach the second bank.
    let short: Master = copier.master().clone().with_mask(BusAddr::new(0x3fff_ffff));
    let refused = to.segments(&short).map(drop);
    ensure!(matches!(refused, Err(ScatterError::OutOfReach { .. })), "out of reach: {refused:?}");
    let mut seen = [0; 102];
    to.read_at(0, &mut seen);
    drop(copier);
    for buffer in [from, to, longer] {
        // SAFETY: the controller was not told of the buffers.
        drop(unsafe { buffer.release() });
    }
    ensure!(seen == [0x77; 102], "bytes were moved");
    Ok(())
}

/// Returns the board's only alias.
fn alias(kernel: &Kernel) -> Result<Alias, String> {
    let all: Vec<Alias> = kernel.info.aliases().iter().collect();
    ensure_eq!(all.len(), 1, "aliases of the board");
    Ok(all[0])
}

/// Returns the second address of a byte in the aliased part of RAM.
fn second_name(kernel: &Kernel, first: PhysAddr) -> Result<PhysAddr, String> {
    let alias = alias(kernel)?;
    ensure!(alias.of.contains(Frame::containing(first)), "{first} has one name");
    Ok(PhysAddr::new(first.raw() - alias.of.base().raw() + alias.frames.base().raw()))
}

/// Returns a whole section of RAM in the aliased part that nobody holds, and its address in the direct map.
fn plain(kernel: &Kernel) -> Result<(PhysAddr, VirtAddr), String> {
    let alias = alias(kernel)?;
    let free = kernel.layout.memblock().free_ranges().map(|run| run.intersection(alias.of));
    let section = free.map(|run| (run, run.base().raw().next_multiple_of(SECTION_SIZE))).find_map(|(run, at)| {
        let frames = FrameRange::covering(at.into(), SECTION_SIZE.into());
        run.covers(frames).then_some(PhysAddr::new(at))
    });
    let at = section.ok_or("no free section has a second name")?;
    let va = direct_map_place(Frame::containing(at)).ok_or("it has no place in the direct map")?;
    Ok((at, va))
}

/// Checks that a word that is written by one address is read by the other. (QEMU has no caches, so both accesses reach
/// memory.)
fn the_alias_is_the_memory_that_the_tree_says(kernel: &'static Kernel) -> Verdict {
    let (at, direct) = plain(kernel)?;
    let word = section(second_name(kernel, at)?, MemoryType::WriteBack, Access::Read);
    for value in [0x600d_f00d, 0x0bad_cafe] {
        // SAFETY: the direct map holds the word, writable, and nobody else uses it.
        unsafe { (direct.raw() as *mut u32).write_volatile(value) };
        // SAFETY: nothing uses the section, and only a probe accesses what it translates.
        let plant = unsafe { Plant::new(kernel, Place::first_level(kernel, nobodys()), word) };
        let seen = plant.as_ref().map(|_| read(nobodys()));
        drop(plant);
        ensure_eq!(seen, Some(Ok(value)), "the word at {at} by its second name");
    }
    Ok(())
}

/// Plants mappings through the alias, of each type: of RAM in the direct map, of an idle frame of an area, and of a
/// frame that is mapped.
fn i1_the_audit_finds_every_mapping_through_the_alias(kernel: &'static Kernel) -> Verdict {
    let buffer = kernel.dma.alloc(&kernel.master("/scaler"), MIB, MIB).map_err(text)?.into_coherent();
    let (held, idle) = (buffer.frames().base(), kernel.dma.alloc(&kernel.master("/scaler"), MIB, MIB).map_err(text)?);
    for of in [plain(kernel)?.0, held, idle.frames().base()] {
        let at = second_name(kernel, of)?;
        ensure!(at.is_aligned(SECTION_SIZE), "{at} is not a section");
        for va in [nobodys(), kernel.dma.lanes().start()] {
            for has in [MemoryType::WriteBack, MemoryType::NonCacheable, MemoryType::Device] {
                let (frame, of) = (Frame::containing(at), Frame::containing(of));
                let expected = Finding::SecondName { va, frame, of, has: has.into() };
                let word = section(at, has, Access::ReadWrite);
                // SAFETY: nothing uses the section, nor the buffer meanwhile.
                unsafe { finds(kernel, Place::first_level(kernel, va), word, expected) }?;
            }
        }
        // In place of a buffer's own mapping: the word of its section, with the other address.
        if of == held {
            let va = VirtAddr::new(buffer.as_ptr().addr().get() as u32);
            ensure!(
                kernel.dma.window().contains(va) && va.is_aligned(SECTION_SIZE),
                "{va} is no section of the window"
            );
            let has = MemoryType::NonCacheable;
            let (frame, of) = (Frame::containing(at), Frame::containing(of));
            let expected = Finding::SecondName { va, frame, of, has: has.into() };
            let word = section(at, has, Access::ReadWrite);
            // SAFETY: nothing uses the buffer meanwhile.
            let plant = unsafe { Plant::new(kernel, Place::first_level(kernel, va), word) };
            let found = plant.as_ref().map(|_| kernel.audit());
            drop(plant);
            let findings = must_find(found.ok_or("the table cannot be written")?)?;
            // The ledger's frames there are not reached meanwhile. Each of them is a finding.
            let pages = SECTION_SIZE / FRAME_SIZE;
            let counts = (findings.like(&expected), findings.total());
            ensure_eq!((findings.first, counts), (expected, (pages, 2 * pages)), "the audit of {word:#010x} at {va}");
            audit(kernel)?;
        }
    }
    Ok(())
}

fn i1_registers_are_never_mapped_through_the_alias(kernel: &'static Kernel) -> Verdict {
    let alias = alias(kernel)?;
    let last = alias.frames.last_byte().ok_or("an empty alias")?;
    for (at, bytes) in [(alias.frames.base(), 4), (second_name(kernel, plain(kernel)?.0)?, MIB), (last, 2)] {
        let refused = kernel.space.lock().map_device(at, bytes);
        let over = matches!(refused, Err(DeviceError::OverRam { bank, .. }) if bank == alias.frames);
        ensure!(over, "registers at {at}: {refused:?}");
        // SAFETY: nothing accesses this byte.
        let registers = unsafe { kernel.registers::<u8>(at, bytes) };
        ensure!(registers.is_none(), "registers over RAM at {at}");
    }
    // The first block above RAM is the board's system registers.
    let above = after(VirtAddr::new(last.raw()), 1).raw();
    ensure!(kernel.space.lock().map_device(PhysAddr::new(above), FRAME_SIZE).is_ok(), "{above:#010x} is no RAM");
    Ok(())
}

fn the_ledger_knows_frames_by_their_first_name_only(kernel: &'static Kernel) -> Verdict {
    let buffer = kernel.dma.alloc(&kernel.master("/scaler"), FRAME_SIZE, 1).map_err(text)?;
    let first = buffer.frames().base();
    let second = Frame::containing(second_name(kernel, first)?);
    ensure!(kernel.dma.state_of(Frame::containing(first)).is_some(), "{first} is not carved");
    ensure_eq!(kernel.dma.state_of(second), None, "the state of its second name");
    ensure_eq!(kernel.info.aliases().first_name(second), Some(Frame::containing(first)), "its first name");
    let line = format!("{}", alias(kernel)?);
    let must = "0x00000000-0x10000000 (256 MiB) is 0x70000000-0x80000000 (256 MiB) by another name";
    ensure!(line == must, "the alias reads: {line}");
    Ok(())
}
