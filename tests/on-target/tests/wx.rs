//! W^X as the hardware enforces it, and the audit: what must never be in the tables is planted there, and found.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use carveout::addr::{FRAME_SIZE, Frame, PhysAddr, SECTION_SIZE, VirtAddr};
use carveout::arch::armv7a::address_space::DeviceError;
use carveout::arch::armv7a::cores::CoreId;
use carveout::arch::armv7a::mmu::Armv7a;
use carveout::arch::armv7a::probe::probe_exec;
use carveout::arch::armv7a::start::{ImageMap, translate_image};
use carveout::vm::attr::{Access, MemoryType};
use carveout::vm::audit::Finding;
use carveout::vm::desc::{L1Desc, L2Desc};
use carveout::vm::layout::{IMAGE, LOAN_WINDOW, SHARED};
use carveout::vm::ledger::Carved;
use carveout_boards::support::bring_up::{Kernel, Unsound};
use core::sync::atomic::{AtomicU32, Ordering};
use on_target::tables::{Place, Plant, finds, nobodys, section};
use on_target::{
    RETURN, Verdict, address_of, after, alloc, audit, checks, direct_map_place, ensure, ensure_eq, is_execute_never,
    is_read_only,
};

checks![
    text_executes_and_is_read_only,
    constants_are_read_only_and_execute_never,
    data_heap_stack_and_direct_map_are_execute_never,
    the_audit_finds_a_page_that_is_writable_and_executable,
    the_audit_finds_executable_memory_outside_the_text,
    the_audit_finds_a_writable_view_of_the_text,
    the_audit_finds_a_carved_frame_in_the_direct_map,
    the_audit_finds_an_alias_of_an_unmapped_frame,
    the_audit_finds_an_alias_of_another_type,
    the_audit_finds_a_second_mapping_of_the_same_type,
    the_audit_finds_a_second_mapping_that_another_frame_makes_up_for,
    the_audit_finds_ram_of_the_wrong_type,
    the_audit_finds_registers_mapped_as_memory,
    the_audit_finds_the_wrong_shareability,
    the_audit_finds_a_table_in_no_known_memory,
    registers_are_never_mapped_over_ram,
];

static CONSTANT: [u32; 1] = [RETURN];
static DATA: AtomicU32 = AtomicU32::new(RETURN);

extern "C" fn nothing() {}

fn text_executes_and_is_read_only(_: &'static Kernel) -> Verdict {
    let text = ImageMap::get().text;
    let code = VirtAddr::new(nothing as *const () as u32);
    ensure!(text.contains(&code), "{code} is not in the text");
    // SAFETY: a function that takes nothing and returns.
    ensure_eq!(unsafe { probe_exec(code) }, Ok(()), "a fetch from {code}");
    let pages = (text.end.raw() - text.start.raw()) / FRAME_SIZE;
    for page in 0..pages {
        is_read_only(after(text.start, page * FRAME_SIZE))?;
    }
    is_read_only(code)
}

fn constants_are_read_only_and_execute_never(_: &'static Kernel) -> Verdict {
    let (rodata, constant) = (ImageMap::get().rodata, address_of(&CONSTANT));
    ensure!(rodata.contains(&constant), "{constant} is not among the constants");
    let pages = (rodata.end.raw() - rodata.start.raw()) / FRAME_SIZE;
    for page in 0..pages {
        is_read_only(after(rodata.start, page * FRAME_SIZE))?;
    }
    is_execute_never(constant)
}

fn data_heap_stack_and_direct_map_are_execute_never(kernel: &'static Kernel) -> Verdict {
    // Stored, not only initialised, or the compiler may take it for a constant.
    DATA.store(RETURN, Ordering::Relaxed);
    ensure!(ImageMap::get().data.contains(&address_of(&DATA)), "the static is not in the data");
    is_execute_never(address_of(&DATA))?;
    let on_stack = core::hint::black_box(RETURN);
    is_execute_never(address_of(&on_stack))?;
    let on_heap = Box::new(core::hint::black_box(RETURN));
    let va = address_of(&*on_heap);
    let (frame, held) = kernel.machine.direct_map().and_then(|map| map.frame_at(va)).ok_or("the heap is elsewhere")?;
    ensure!(held && kernel.heap.contains(frame), "{va} is not in the heap's part of the direct map");
    is_execute_never(va)
}

/// The section of RAM, not carved, that the heap starts in, and a frame in it.
fn ram(kernel: &Kernel) -> PhysAddr {
    PhysAddr::new(kernel.heap.base().raw().next_multiple_of(SECTION_SIZE))
}

/// XN of a section (ARM ARM B3.5.1).
const SECTION_XN: u32 = 1 << 4;
/// S of a section.
const SECTION_S: u32 = 1 << 16;
/// XN of a small page.
const PAGE_XN: u32 = 1;

fn the_audit_finds_a_page_that_is_writable_and_executable(kernel: &'static Kernel) -> Verdict {
    let (va, at) = (nobodys(), ram(kernel));
    let word = section(at, MemoryType::WriteBack, Access::ReadWrite) & !SECTION_XN;
    let place = Place::first_level(kernel, va);
    // SAFETY: nothing uses the section, and the word translates RAM as the direct map does.
    unsafe { finds(kernel, place, word, Finding::Foreign { va, word }) }?;

    // A page in the image's window, above the image.
    let va = after(IMAGE.start(), IMAGE.sections() * SECTION_SIZE - FRAME_SIZE);
    let word = L2Desc::small(at, MemoryType::WriteBack, Access::ReadWrite, Armv7a::shareability()).raw() & !PAGE_XN;
    let place = Place::second_level(kernel, va).ok_or("the image's window has no table there")?;
    // SAFETY: as above, of the page.
    unsafe { finds(kernel, place, word, Finding::Foreign { va, word }) }
}

fn the_audit_finds_executable_memory_outside_the_text(kernel: &'static Kernel) -> Verdict {
    let (va, at) = (nobodys(), ram(kernel));
    let word = section(at, MemoryType::WriteBack, Access::ReadExecute);
    let expected = Finding::Executable { va, frame: Frame::containing(at) };
    // SAFETY: nothing uses the section, and the word translates RAM as the direct map does.
    unsafe { finds(kernel, Place::first_level(kernel, va), word, expected) }
}

fn the_audit_finds_a_writable_view_of_the_text(kernel: &'static Kernel) -> Verdict {
    let text = translate_image(ImageMap::get().text.start).ok_or("the text is part of the image")?;
    let va = nobodys();
    let word = section(PhysAddr::new(text.raw() & !(SECTION_SIZE - 1)), MemoryType::WriteBack, Access::ReadWrite);
    let first = after(va, text.raw() % SECTION_SIZE);
    let expected = Finding::WritableText { va: first, frame: Frame::containing(text) };
    // SAFETY: nothing uses the section, and the word translates RAM as the direct map does.
    unsafe { finds(kernel, Place::first_level(kernel, va), word, expected) }
}

/// The first whole section of the first area.
fn carved(kernel: &Kernel) -> Option<PhysAddr> {
    let range = kernel.layout.areas().first()?.ranges.first()?;
    Some(PhysAddr::new(range.base().raw().next_multiple_of(SECTION_SIZE)))
}

fn the_audit_finds_a_carved_frame_in_the_direct_map(kernel: &'static Kernel) -> Verdict {
    let at = carved(kernel).ok_or("no area")?;
    let frame = Frame::containing(at);
    let va = direct_map_place(kernel, frame).ok_or("no place for the frame")?;
    ensure!(SHARED.contains(va) && !kernel.dma.window().contains(va), "{va} is not in the direct map");
    let word = section(at, MemoryType::WriteBack, Access::ReadWrite);
    // SAFETY: the direct map never changes, and nothing uses this hole in it.
    unsafe { finds(kernel, Place::first_level(kernel, va), word, Finding::CarvedOutside { va, frame }) }
}

fn the_audit_finds_an_alias_of_an_unmapped_frame(kernel: &'static Kernel) -> Verdict {
    let at = carved(kernel).ok_or("no area")?;
    let (va, frame) = (LOAN_WINDOW.start(), Frame::containing(at));
    for has in [MemoryType::WriteBack, MemoryType::NonCacheable] {
        let expected = Finding::Alias { va, frame, has, ledger: Carved::Unmapped };
        let word = section(at, has, Access::ReadWrite);
        // SAFETY: nothing uses the loan window.
        unsafe { finds(kernel, Place::first_level(kernel, va), word, expected) }?;
    }
    Ok(())
}

fn the_audit_finds_an_alias_of_another_type(kernel: &'static Kernel) -> Verdict {
    let buffer = alloc(kernel, SECTION_SIZE)?.into_coherent();
    let at = buffer.frames().base();
    ensure!(at.is_aligned(SECTION_SIZE), "the buffer at {at} is not a section");
    let (va, has, ledger) = (LOAN_WINDOW.start(), MemoryType::WriteBack, Carved::Mapped(MemoryType::NonCacheable));
    let expected = Finding::Alias { va, frame: Frame::containing(at), has, ledger };
    let word = section(at, has, Access::ReadWrite);
    // SAFETY: nothing uses the loan window, nor the buffer meanwhile.
    unsafe { finds(kernel, Place::first_level(kernel, va), word, expected) }
}

fn the_audit_finds_a_second_mapping_of_the_same_type(kernel: &'static Kernel) -> Verdict {
    let buffer = alloc(kernel, SECTION_SIZE)?.into_coherent();
    let at = buffer.frames().base();
    ensure!(at.is_aligned(SECTION_SIZE), "the buffer at {at} is not a section");
    let expected = Finding::Count { ledger: buffer.frames().count(), found: 2 * buffer.frames().count() };
    let word = section(at, MemoryType::NonCacheable, Access::ReadWrite);
    // SAFETY: nothing uses the loan window, nor the buffer meanwhile.
    unsafe { finds(kernel, Place::first_level(kernel, LOAN_WINDOW.start()), word, expected) }
}

/// As many translations as the ledger counts, but two of one buffer and none of the other.
fn the_audit_finds_a_second_mapping_that_another_frame_makes_up_for(kernel: &'static Kernel) -> Verdict {
    let (lost, twice) = (alloc(kernel, SECTION_SIZE)?.into_coherent(), alloc(kernel, SECTION_SIZE)?.into_coherent());
    let at = twice.frames().base();
    ensure!(at.is_aligned(SECTION_SIZE), "the buffer at {at} is not a section");
    let (second, first) = (LOAN_WINDOW.start(), VirtAddr::new(lost.as_ptr().addr().get() as u32));
    let word = section(at, MemoryType::NonCacheable, Access::ReadWrite);
    // SAFETY: nothing uses the loan window, nor the buffer meanwhile.
    let twice_mapped = unsafe { Plant::new(kernel, Place::first_level(kernel, second), word) };
    // SAFETY: nothing uses the buffer meanwhile, and nothing else is mapped in its section.
    let unmapped = unsafe { Plant::new(kernel, Place::first_level(kernel, first), L1Desc::FAULT.raw()) };
    let planted = twice_mapped.is_some() && unmapped.is_some();
    let found = kernel.audit();
    drop((twice_mapped, unmapped));
    ensure!(planted, "the table cannot be written");
    let frame = Frame::containing(lost.frames().base());
    let (core, finding) = (CoreId::current(), Finding::Unreached { frame });
    ensure_eq!(found, Err(Unsound::Found { core, finding }), "the audit");
    audit(kernel)
}

fn the_audit_finds_ram_of_the_wrong_type(kernel: &'static Kernel) -> Verdict {
    let (va, at) = (nobodys(), ram(kernel));
    for has in [MemoryType::NonCacheable, MemoryType::Device, MemoryType::StronglyOrdered] {
        let expected = Finding::WrongType { va, frame: Frame::containing(at), has };
        let word = section(at, has, Access::ReadWrite);
        // SAFETY: nothing uses the section; the audit reads tables through the direct map only.
        unsafe { finds(kernel, Place::first_level(kernel, va), word, expected) }?;
    }
    Ok(())
}

fn the_audit_finds_registers_mapped_as_memory(kernel: &'static Kernel) -> Verdict {
    // The board's peripherals begin there: no RAM.
    let (va, at, has) = (nobodys(), PhysAddr::new(0x1000_0000), MemoryType::WriteBack);
    let expected = Finding::WrongType { va, frame: Frame::containing(at), has };
    // SAFETY: nothing uses the section.
    unsafe { finds(kernel, Place::first_level(kernel, va), section(at, has, Access::ReadWrite), expected) }
}

fn the_audit_finds_the_wrong_shareability(kernel: &'static Kernel) -> Verdict {
    let (va, at) = (nobodys(), ram(kernel));
    let word = section(at, MemoryType::WriteBack, Access::ReadWrite) ^ SECTION_S;
    let expected = Finding::WrongShareability { va, frame: Frame::containing(at) };
    // SAFETY: nothing uses the section.
    unsafe { finds(kernel, Place::first_level(kernel, va), word, expected) }
}

fn the_audit_finds_a_table_in_no_known_memory(kernel: &'static Kernel) -> Verdict {
    // A table in a carve-out: nobody can say what it holds.
    let at = carved(kernel).ok_or("no area")?;
    let word = L1Desc::table(at).raw();
    // SAFETY: nothing uses the section.
    unsafe { finds(kernel, Place::first_level(kernel, nobodys()), word, Finding::UnknownTable { at }) }
}

fn registers_are_never_mapped_over_ram(kernel: &'static Kernel) -> Verdict {
    let bank = kernel.info.banks()[0];
    let last = bank.last_byte().ok_or("an empty bank")?;
    let carved = carved(kernel).ok_or("no area")?;
    let bank_of = |at| kernel.info.banks().iter().find(|bank| bank.contains(Frame::containing(at))).copied();
    // Memory in use, a carve-out, the last frame, and a block that only ends in RAM.
    let below = PhysAddr::new(bank.base().raw() - FRAME_SIZE);
    for (at, bytes) in [(ram(kernel), FRAME_SIZE), (carved, FRAME_SIZE), (last, 1), (below, FRAME_SIZE + 1)] {
        ensure!(kernel.registers::<u8>(at, bytes).is_none(), "registers over RAM at {at}");
        let refused = kernel.space.lock().map_device(at, bytes);
        let wanted = bank_of(at).unwrap_or(bank);
        ensure!(
            matches!(refused, Err(DeviceError::OverRam { bank, .. }) if bank == wanted),
            "registers over RAM at {at}: {refused:?}"
        );
    }
    let error = kernel.space.lock().map_device(carved, FRAME_SIZE).err().ok_or("registers over a carve-out")?;
    ensure!(format!("{error}").contains("overlap RAM at"), "the refusal reads: {error}");
    Ok(())
}
