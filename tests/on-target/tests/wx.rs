//! W^X as the hardware enforces it, and the audit: what must never be in the tables is planted there, and found.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::addr::{FRAME_SIZE, Frame, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use carveout::machine::{Mmu, Registers};
use carveout::vm::attr::{Access, MemoryType, Shareability};
use carveout::vm::audit::{Finding, Findings};
use carveout::vm::desc::{L1Desc, L2Desc};
use carveout::vm::ledger::Carved;
use carveout::vm::registers::RegisterError;
use carveout::vm::walk::{Domain, Memory, Sharing, Ttbr};
use carveout_boards::drivers::mmio::Mmio;
use carveout_boards::kernel::devices;
use carveout_boards::kernel::state::Kernel;
use carveout_boot::upper_half::{IMAGE, SHARED};
use carveout_rt::address_space::DeviceError;
use carveout_rt::address_space::direct_map;
use carveout_rt::probe::probe_exec;
use carveout_rt::start::{ImageMap, translate_image};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};
use on_target::tables::{Place, Plant, finds, must_find, nobodys, section, set_registers};
use on_target::{
    RETURN, Verdict, address_of, after, alloc, audit, checks, direct_map_place, ensure, ensure_eq, is_execute_never,
    is_read_only, share,
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
    what_users_have_is_their_kernels_business,
    the_audit_finds_what_users_may_not_reach,
    the_audit_finds_a_supersection_over_a_carved_frame,
    the_audit_finds_one_entry_of_a_large_page,
    the_audit_finds_one_entry_of_a_supersection,
    the_audit_finds_a_table_in_a_guard,
    the_audit_finds_tex_remap_that_changes_our_types,
    the_audit_finds_registers_that_a_core_did_not_come_with,
    the_audit_finds_caches_that_are_off,
    the_audit_finds_walks_that_are_off,
    the_audit_finds_walks_with_other_attributes,
    the_audit_finds_a_domain_that_nobody_checks,
    registers_have_one_holder,
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
    let (frame, held) = direct_map().and_then(|map| map.frame_at(va)).ok_or("the heap is elsewhere")?;
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
    unsafe { finds(kernel, place, word, Finding::Executable { va, frame: Frame::containing(at) }) }?;

    // A page in the image's window, above the image.
    let va = after(IMAGE.start(), IMAGE.sections() * SECTION_SIZE - FRAME_SIZE);
    let word = L2Desc::small(at, MemoryType::WriteBack, Access::ReadWrite, share()).raw() & !PAGE_XN;
    let place = Place::second_level(kernel, va).ok_or("the image's window has no table there")?;
    // SAFETY: as above, of the page.
    unsafe { finds(kernel, place, word, Finding::Executable { va, frame: Frame::containing(at) }) }
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
    let va = direct_map_place(frame).ok_or("no place for the frame")?;
    ensure!(SHARED.contains(va) && !kernel.dma.window().contains(va), "{va} is not in the direct map");
    let word = section(at, MemoryType::WriteBack, Access::ReadWrite);
    // SAFETY: the direct map never changes, and nothing uses this hole in it.
    unsafe { finds(kernel, Place::first_level(kernel, va), word, Finding::CarvedOutside { va, frame }) }
}

fn the_audit_finds_an_alias_of_an_unmapped_frame(kernel: &'static Kernel) -> Verdict {
    let at = carved(kernel).ok_or("no area")?;
    let (va, frame) = (kernel.dma.lanes().start(), Frame::containing(at));
    for has in [MemoryType::WriteBack, MemoryType::NonCacheable] {
        let expected = Finding::Alias { va, frame, has: has.into(), ledger: Carved::Unmapped };
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
    let (va, has, ledger) =
        (kernel.dma.lanes().start(), MemoryType::WriteBack, Carved::Mapped(MemoryType::NonCacheable));
    let expected = Finding::Alias { va, frame: Frame::containing(at), has: has.into(), ledger };
    let word = section(at, has, Access::ReadWrite);
    // SAFETY: nothing uses the loan window, nor the buffer meanwhile.
    unsafe { finds(kernel, Place::first_level(kernel, va), word, expected) }
}

fn the_audit_finds_a_second_mapping_of_the_same_type(kernel: &'static Kernel) -> Verdict {
    let buffer = alloc(kernel, SECTION_SIZE)?.into_coherent();
    let at = buffer.frames().base();
    ensure!(at.is_aligned(SECTION_SIZE), "the buffer at {at} is not a section");
    // The loan window is above the CMA window: what is met second is there.
    let expected = Finding::Twice { va: kernel.dma.lanes().start(), frame: Frame::containing(at) };
    let word = section(at, MemoryType::NonCacheable, Access::ReadWrite);
    // SAFETY: nothing uses the loan window, nor the buffer meanwhile.
    unsafe { finds(kernel, Place::first_level(kernel, kernel.dma.lanes().start()), word, expected) }
}

/// As many translations as the ledger counts, but two of one buffer and none of the other.
fn the_audit_finds_a_second_mapping_that_another_frame_makes_up_for(kernel: &'static Kernel) -> Verdict {
    let (lost, twice) = (alloc(kernel, SECTION_SIZE)?.into_coherent(), alloc(kernel, SECTION_SIZE)?.into_coherent());
    let at = twice.frames().base();
    ensure!(at.is_aligned(SECTION_SIZE), "the buffer at {at} is not a section");
    let (second, first) = (kernel.dma.lanes().start(), VirtAddr::new(lost.as_ptr().addr().get() as u32));
    let word = section(at, MemoryType::NonCacheable, Access::ReadWrite);
    // SAFETY: nothing uses the loan window, nor the buffer meanwhile.
    let twice_mapped = unsafe { Plant::new(kernel, Place::first_level(kernel, second), word) };
    // SAFETY: nothing uses the buffer meanwhile, and nothing else is mapped in its section.
    let unmapped = unsafe { Plant::new(kernel, Place::first_level(kernel, first), L1Desc::FAULT.raw()) };
    let planted = twice_mapped.is_some() && unmapped.is_some();
    let found = kernel.audit();
    drop((twice_mapped, unmapped));
    ensure!(planted, "the table cannot be written");
    let findings = must_find(found)?;
    let unreached = Finding::Unreached { frame: Frame::containing(lost.frames().base()) };
    ensure_eq!(findings.first, Finding::Twice { va: second, frame: Frame::containing(at) }, "the first finding");
    let counts = (findings.total(), findings.like(&findings.first), findings.like(&unreached));
    ensure_eq!(counts, (512, 256, 256), "findings, second mappings, frames not reached");
    audit(kernel)
}

fn the_audit_finds_ram_of_the_wrong_type(kernel: &'static Kernel) -> Verdict {
    let (va, at) = (nobodys(), ram(kernel));
    for has in [MemoryType::NonCacheable, MemoryType::Device, MemoryType::StronglyOrdered] {
        let expected = Finding::WrongType { va, frame: Frame::containing(at), has: has.into() };
        let word = section(at, has, Access::ReadWrite);
        // SAFETY: nothing uses the section; the audit reads tables through the direct map only.
        unsafe { finds(kernel, Place::first_level(kernel, va), word, expected) }?;
    }
    Ok(())
}

fn the_audit_finds_registers_mapped_as_memory(kernel: &'static Kernel) -> Verdict {
    // The board's peripherals begin there: no RAM.
    let (va, at, has) = (nobodys(), PhysAddr::new(0x1000_0000), MemoryType::WriteBack);
    let expected = Finding::WrongType { va, frame: Frame::containing(at), has: has.into() };
    // SAFETY: nothing uses the section.
    unsafe { finds(kernel, Place::first_level(kernel, va), section(at, has, Access::ReadWrite), expected) }
}

fn the_audit_finds_the_wrong_shareability(kernel: &'static Kernel) -> Verdict {
    let (va, at) = (nobodys(), ram(kernel));
    let word = section(at, MemoryType::WriteBack, Access::ReadWrite) ^ SECTION_S;
    let has = match share() {
        Shareability::Shareable => Sharing::NonShareable,
        Shareability::NonShareable => Sharing::Outer,
    };
    let expected = Finding::WrongShareability { va, frame: Frame::containing(at), has };
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

/// AP\[1:0\] of a section: users read and write.
const USERS: u32 = 0b11 << 10;
/// Domain 1 of a section: DACR gives it no access.
const DOMAIN_1: u32 = 1 << 5;
/// nG of a section.
const NOT_GLOBAL: u32 = 1 << 17;
/// A section's bit that makes it one of 16.
const SUPERSECTION: u32 = 1 << 18;
/// Where a process would have its memory: TTBR0's half, 16 MiB aligned.
const PROCESS: VirtAddr = VirtAddr::new(0x0100_0000);

fn what_users_have_is_their_kernels_business(kernel: &'static Kernel) -> Verdict {
    let ours = section(ram(kernel), MemoryType::WriteBack, Access::ReadWrite);
    for word in [ours | USERS, (ours | USERS) & !SECTION_XN, ours | USERS | DOMAIN_1 | NOT_GLOBAL] {
        // SAFETY: nothing uses the lower half, and the word translates RAM as the direct map does.
        let plant = unsafe { Plant::new(kernel, Place::first_level(kernel, PROCESS), word) };
        let found = plant.as_ref().map(|_| audit(kernel));
        drop(plant);
        ensure_eq!(found, Some(Ok(())), "the audit of {word:#010x} at {PROCESS}");
    }
    Ok(())
}

fn the_audit_finds_what_users_may_not_reach(kernel: &'static Kernel) -> Verdict {
    let at = carved(kernel).ok_or("no area")?;
    let (place, frame) = (Place::first_level(kernel, PROCESS), Frame::containing(at));
    for flags in [USERS, USERS | DOMAIN_1 | NOT_GLOBAL] {
        let word = section(at, MemoryType::WriteBack, Access::ReadWrite) | flags;
        // SAFETY: nothing uses the lower half.
        unsafe { finds(kernel, place, word, Finding::CarvedOutside { va: PROCESS, frame }) }?;
    }
    // The first-level table: beside it, in its MiB, are text and other tables.
    let table = kernel.machine.registers().table(Ttbr::Ttbr1);
    let word = section(PhysAddr::new(table.raw() & !(SECTION_SIZE - 1)), MemoryType::WriteBack, Access::Read) | USERS;
    // SAFETY: nothing uses the lower half.
    let plant = unsafe { Plant::new(kernel, place, word) }.ok_or("the table cannot be written")?;
    let found = kernel.audit();
    drop(plant);
    let exposed = Finding::TableExposed { va: PROCESS, frame: Frame::containing(table) };
    let findings = must_find(found)?;
    ensure!(findings.like(&exposed) >= 4, "tables that users reach: {findings}");
    audit(kernel)
}

/// All 16 words of it, over the area's first 16 MiB.
fn the_audit_finds_a_supersection_over_a_carved_frame(kernel: &'static Kernel) -> Verdict {
    const SIZE: u32 = 16 << 20;
    let at = sixteen_mib_of_an_area(kernel).ok_or("no area has 16 MiB for a supersection")?;
    let word = section(at, MemoryType::WriteBack, Access::ReadWrite) | SUPERSECTION | USERS;
    let plant = |n| {
        let place = Place::first_level(kernel, after(PROCESS, n * SECTION_SIZE));
        // SAFETY: nothing uses the lower half.
        unsafe { Plant::new(kernel, place, word) }
    };
    let whole: Option<Vec<Plant>> = (0..16).map(plant).collect();
    let found = whole.as_ref().map(|_| kernel.audit());
    drop(whole);
    let findings = must_find(found.ok_or("the table cannot be written")?)?;
    let first = Finding::CarvedOutside { va: PROCESS, frame: Frame::containing(at) };
    ensure_eq!((findings.first, findings.total()), (first, SIZE / FRAME_SIZE), "the audit");
    // 15 of the 16, of registers: what they translate is nobody's, and any of them may translate the rest.
    let word = section(PhysAddr::new(0x1000_0000), MemoryType::Device, Access::ReadWrite) | SUPERSECTION;
    let plant = |n| {
        let place = Place::first_level(kernel, after(PROCESS, n * SECTION_SIZE));
        // SAFETY: nothing uses the lower half.
        unsafe { Plant::new(kernel, place, word) }
    };
    let torn: Option<Vec<Plant>> = (0..15).map(plant).collect();
    let found = torn.as_ref().map(|_| kernel.audit());
    drop(torn);
    let findings = must_find(found.ok_or("the table cannot be written")?)?;
    ensure_eq!((findings.first, findings.total()), (Finding::Torn { va: PROCESS, size: SIZE }, 1), "the audit");
    audit(kernel)
}

fn the_audit_finds_one_entry_of_a_large_page(kernel: &'static Kernel) -> Verdict {
    const SIZE: u32 = 64 << 10;
    let va = after(IMAGE.start(), IMAGE.sections() * SECTION_SIZE - FRAME_SIZE);
    let first = VirtAddr::new(va.raw() & !(SIZE - 1));
    let large = |at| L2Desc::large(at, MemoryType::WriteBack, Access::ReadWrite, share()).raw();
    let place = Place::second_level(kernel, va).ok_or("the image's window has no table there")?;
    let torn = Finding::Torn { va: first, size: SIZE };
    let word = large(PhysAddr::new(ram(kernel).raw() & !(SIZE - 1)));
    // SAFETY: nothing uses the page, and the word translates RAM as the direct map does.
    unsafe { finds(kernel, place, word, torn) }?;
    // The last of 16: the 15 before it have no descriptor, and all 16 frames are carved.
    let at = carved(kernel).ok_or("no area")?;
    // SAFETY: nothing uses the 64 KiB around the page.
    let plant = unsafe { Plant::new(kernel, place, large(at)) }.ok_or("the table cannot be written")?;
    let found = kernel.audit();
    drop(plant);
    let findings = must_find(found)?;
    let covered = findings.like(&Finding::CarvedOutside { va: first, frame: Frame::containing(at) });
    ensure_eq!((findings.first, covered, findings.total()), (torn, 16, 17), "the audit");
    audit(kernel)
}

/// 16 MiB of an area, aligned.
fn sixteen_mib_of_an_area(kernel: &Kernel) -> Option<PhysAddr> {
    const SIZE: u32 = 16 << 20;
    let aligned = |range: &FrameRange| {
        let at = PhysAddr::new(range.base().raw().next_multiple_of(SIZE));
        range.covers(FrameRange::within(at.raw().into(), SIZE.into())).then_some(at)
    };
    kernel.layout.areas().iter().flat_map(|area| &area.ranges).find_map(aligned)
}

fn the_audit_finds_one_entry_of_a_supersection(kernel: &'static Kernel) -> Verdict {
    const SIZE: u32 = 16 << 20;
    let at = sixteen_mib_of_an_area(kernel).ok_or("no area has 16 MiB for a supersection")?;
    let word = section(at, MemoryType::WriteBack, Access::ReadWrite) | SUPERSECTION;
    let place = Place::first_level(kernel, after(PROCESS, 11 * SECTION_SIZE));
    // SAFETY: nothing uses the lower half.
    let plant = unsafe { Plant::new(kernel, place, word) }.ok_or("the table cannot be written")?;
    let found = kernel.audit();
    drop(plant);
    let findings = must_find(found)?;
    let covered = findings.like(&Finding::CarvedOutside { va: PROCESS, frame: Frame::containing(at) });
    let (torn, frames) = (Finding::Torn { va: PROCESS, size: SIZE }, SIZE / FRAME_SIZE);
    ensure_eq!((findings.first, covered, findings.total()), (torn, frames, frames + 1), "the audit");
    audit(kernel)
}

/// A table in a page that is never mapped: to read it would be a fault.
fn the_audit_finds_a_table_in_a_guard(kernel: &'static Kernel) -> Verdict {
    for guard in ImageMap::get().guards.iter().flatten() {
        let at = translate_image(guard.start).ok_or("the guard is part of the image")?;
        let (at, last) = (at.raw(), at.raw() + (guard.end.raw() - guard.start.raw()) - 0x400);
        for at in [at, at + 0x400, last].map(PhysAddr::new) {
            let word = L1Desc::table(at).raw();
            // SAFETY: nothing uses the section.
            unsafe { finds(kernel, Place::first_level(kernel, nobodys()), word, Finding::UnknownTable { at }) }?;
        }
    }
    // A first-level table: of a process, which no address in use needs.
    let [guard, _] = &ImageMap::get().guards[0];
    let at = translate_image(guard.start).ok_or("the guard is part of the image")?.raw().next_multiple_of(0x4000);
    let was = kernel.machine.registers();
    let ttbr0 = at | was.ttbr0 & 0x7f;
    // SAFETY: nothing uses the lower half.
    let findings = unsafe { audit_under(kernel, Registers { ttbr0, ..was }) }?;
    ensure_eq!(findings.first, Finding::UnknownTable { at: PhysAddr::new(at) }, "the audit");
    audit(kernel)
}

/// Looks at something while other values stand in this core's registers.
///
/// # Safety
///
/// Under these values text, stack, data and tables can be reached as before, and nothing uses a mapping that they
/// change: no interrupt comes, and no device is spoken to.
unsafe fn under<T>(kernel: &'static Kernel, registers: Registers, look: impl FnOnce() -> T) -> T {
    let (prrr, nmrr, cpsr): (u32, u32, u32);
    // SAFETY: reads PRRR.
    unsafe { asm!("mrc p15, 0, {0}, c10, c2, 0", out(reg) prrr, options(nomem, nostack, preserves_flags)) };
    // SAFETY: reads NMRR.
    unsafe { asm!("mrc p15, 0, {0}, c10, c2, 1", out(reg) nmrr, options(nomem, nostack, preserves_flags)) };
    let was = Registers { prrr, nmrr, ..kernel.machine.registers() };
    // SAFETY: reads CPSR and masks interrupts until it is written back.
    unsafe { asm!("mrs {0}, cpsr", "cpsid i", out(reg) cpsr, options(nostack, preserves_flags)) };
    // SAFETY: this function's contract says that all in use can be reached under them; interrupts are masked.
    unsafe { set_registers(&registers) };
    let seen = look();
    // SAFETY: what was there before.
    unsafe { set_registers(&was) };
    // SAFETY: what it was.
    unsafe { asm!("msr cpsr_c, {0}", in(reg) cpsr, options(nostack, preserves_flags)) };
    seen
}

/// What the audit finds while other values stand in this core's registers.
///
/// # Safety
///
/// That of [`under`].
unsafe fn audit_under(kernel: &'static Kernel, registers: Registers) -> Result<Findings, String> {
    // SAFETY: `under` asks for what this function asks for.
    must_find(unsafe { under(kernel, registers, || kernel.audit()) })
}

/// Linux's PRRR and NMRR: our non-cacheable type becomes device memory, and our device memory is Normal.
fn the_audit_finds_tex_remap_that_changes_our_types(kernel: &'static Kernel) -> Verdict {
    let was = kernel.machine.registers();
    let remap = |prrr, nmrr| Registers { sctlr: was.sctlr | SCTLR_TRE, prrr, nmrr, ..was };
    let buffer = alloc(kernel, FRAME_SIZE)?.into_coherent();
    audit(kernel)?;
    // SAFETY: what is mapped write-back stays so (region 7), and that is all that an audit uses; interrupts are masked.
    let findings = unsafe { audit_under(kernel, remap(0xff0a_81a8, 0x40e0_40e0)) }?;
    let Finding::Register(RegisterError::Remap { memory, means }) = findings.first else {
        return Err(format!("the audit: {findings}"));
    };
    ensure_eq!((memory, means.memory), (MemoryType::NonCacheable, Memory::Device), "the remap");
    let frame = Frame::containing(buffer.frames().base());
    let va = VirtAddr::new(buffer.as_ptr().addr().get() as u32);
    let ledger = Carved::Mapped(MemoryType::NonCacheable);
    let alias = Finding::Alias { va, frame, has: Memory::Device, ledger };
    ensure!(findings.like(&alias) >= 1, "no alias: {findings}");
    audit(kernel)
}

/// Registers under which the tables mean what they did, but not those that this core, or another one, came with.
fn the_audit_finds_registers_that_a_core_did_not_come_with(kernel: &'static Kernel) -> Verdict {
    let was = kernel.machine.registers();
    let remap = Registers { sctlr: was.sctlr | SCTLR_TRE, prrr: 0xff0a_8204, nmrr: 0x4000_4000, ..was };
    let access_flag = Registers { sctlr: was.sctlr | SCTLR_AFE, ..was };
    // A manager's domain that nothing is in.
    let domain = Registers { dacr: was.dacr | 3 << 30, ..was };
    for (register, registers) in [("SCTLR", remap), ("SCTLR", access_flag), ("DACR", domain)] {
        // SAFETY: regions 0, 1, 4 and 7 are our types as they are, our descriptors have the access flag, and they are
        // in domain 0.
        let findings = unsafe { audit_under(kernel, registers) }?;
        let Finding::OtherCore { core: 0, register: found, .. } = findings.first else {
            return Err(format!("the audit: {findings}"));
        };
        ensure_eq!(found, register, "the register");
        ensure_eq!(findings.like(&findings.first), findings.total(), "findings of that kind");
    }
    audit(kernel)
}

/// QEMU has no caches, so the bits change nothing there. On a core with caches, data accessed past them would be stale:
/// this program runs in QEMU alone.
fn the_audit_finds_caches_that_are_off(kernel: &'static Kernel) -> Verdict {
    let was = kernel.machine.registers();
    for (bit, fetches) in [(SCTLR_C, false), (SCTLR_I, true)] {
        // SAFETY: tables and permissions stay as they are, and memory holds what is read, for there are no caches.
        let findings = unsafe { audit_under(kernel, Registers { sctlr: was.sctlr & !bit, ..was }) }?;
        ensure_eq!(
            findings.first,
            Finding::Register(RegisterError::CacheOff { fetches }),
            "the audit with SCTLR {bit:#x} clear"
        );
    }
    audit(kernel)
}

/// PD1 and the MMU's own bit cannot be planted: this code would not go on. The host's tests have them.
fn the_audit_finds_walks_that_are_off(kernel: &'static Kernel) -> Verdict {
    let (was, at) = (kernel.machine.registers(), carved(kernel).ok_or("no area")?);
    let off = Registers { ttbcr: was.ttbcr | TTBCR_PD0, ..was };
    // SAFETY: nothing uses the lower half.
    let kept = unsafe { under(kernel, off, || kernel.machine.registers().ttbcr) };
    // A core without the Security Extensions has no PD0 (B4.1.153).
    if kept != off.ttbcr {
        return Ok(());
    }
    // SAFETY: nothing uses the lower half.
    let findings = unsafe { audit_under(kernel, off) }?;
    ensure_eq!(findings.first, Finding::Register(RegisterError::WalksOff { ttbr: Ttbr::Ttbr0 }), "the audit");
    // What the table holds is found, though no walk reads it now.
    let word = section(at, MemoryType::WriteBack, Access::ReadWrite);
    // SAFETY: nothing uses the lower half.
    let plant = unsafe { Plant::new(kernel, Place::first_level(kernel, PROCESS), word) };
    // SAFETY: as above.
    let found = plant.as_ref().map(|_| unsafe { audit_under(kernel, off) });
    drop(plant);
    let findings = found.ok_or("the table cannot be written")??;
    let carved = findings.like(&Finding::CarvedOutside { va: PROCESS, frame: Frame::containing(at) });
    ensure_eq!(
        (findings.first, carved),
        (Finding::Register(RegisterError::WalksOff { ttbr: Ttbr::Ttbr0 }), 256),
        "the audit"
    );
    audit(kernel)
}

fn the_audit_finds_walks_with_other_attributes(kernel: &'static Kernel) -> Verdict {
    let was = kernel.machine.registers();
    // IRGN, RGN, S: one after the other, and all of them. The cacheability is taken away, and S is turned round.
    for bits in [0x41, 0x18, 0x02, 0x5b] {
        let wrong = |ttbr: u32| ttbr & !bits | !ttbr & bits & 0x02;
        for (ttbr, registers) in [
            (Ttbr::Ttbr0, Registers { ttbr0: wrong(was.ttbr0), ..was }),
            (Ttbr::Ttbr1, Registers { ttbr1: wrong(was.ttbr1), ..was }),
        ] {
            let has = registers.walk_attributes(ttbr);
            // SAFETY: the same tables, walked in a machine without caches.
            let findings = unsafe { audit_under(kernel, registers) }?;
            ensure_eq!(
                findings.first,
                Finding::Register(RegisterError::WalkAttributes { ttbr, has }),
                "the audit with {bits:#x} changed"
            );
        }
    }
    audit(kernel)
}

const SCTLR_C: u32 = 1 << 2;
const SCTLR_I: u32 = 1 << 12;
const SCTLR_TRE: u32 = 1 << 28;
const SCTLR_AFE: u32 = 1 << 29;
const TTBCR_PD0: u32 = 1 << 4;

fn the_audit_finds_a_domain_that_nobody_checks(kernel: &'static Kernel) -> Verdict {
    let was = kernel.machine.registers();
    // SAFETY: what could be accessed can be.
    let findings = unsafe { audit_under(kernel, Registers { dacr: 3, ..was }) }?;
    let Finding::Unchecked { domain, .. } = findings.first else { return Err(format!("the audit: {findings}")) };
    ensure_eq!(domain, Domain { number: 0, access: 3 }, "the domain");
    let text = translate_image(ImageMap::get().text.start).ok_or("the text is part of the image")?;
    let written = Finding::WritableText { va: ImageMap::get().text.start, frame: Frame::containing(text) };
    ensure!(findings.like(&written) >= 1, "the text can be written: {findings}");
    audit(kernel)
}

/// Takes registers, at which nobody looks.
fn registers<R>(kernel: &'static Kernel, at: PhysAddr, bytes: u32) -> Option<Mmio<R>> {
    // SAFETY: integers, at which nobody looks.
    unsafe { kernel.registers(at, bytes) }
}

fn registers_have_one_holder(kernel: &'static Kernel) -> Verdict {
    let uarts = ["arm,pl011", "snps,dw-apb-uart"];
    let uart = uarts.iter().find_map(|name| devices::find(&kernel.info, name)).ok_or("no UART")?;
    let block = *uart.blocks.first().ok_or("a UART without registers")?;
    // The boot took it for good: whole, in part, or from below.
    let (at, last) = (block.at, PhysAddr::new(block.at.raw() + block.bytes - 1));
    let below = PhysAddr::new(at.raw() - 4);
    for (from, bytes) in [(at, block.bytes), (at, 4), (last, 1), (below, 5), (below, block.bytes + 8)] {
        let refused = kernel.space.lock().map_device(from, bytes);
        let held = DeviceError::Held { at: from, held: at, bytes: block.bytes };
        ensure_eq!(refused.map(drop), Err(held), "{bytes} bytes at {from}");
        ensure!(registers::<u8>(kernel, from, bytes).is_none(), "the UART's registers at {from}");
    }
    // Beside it, byte by byte.
    let free = registers::<[u32; 2]>(kernel, PhysAddr::new(at.raw() - 8), 8).ok_or("8 bytes below the UART")?;
    let first = free.pointer();
    let again = registers::<u32>(kernel, below, 4).map(|registers| registers.pointer());
    ensure_eq!(again, None, "half of what is held");
    // Given back, they are found where they were: a device that is opened often takes no further addresses.
    drop(free);
    for _ in 0..200 {
        let again = registers::<[u32; 2]>(kernel, PhysAddr::new(at.raw() - 8), 8).ok_or("they were given back")?;
        ensure_eq!(again.pointer(), first, "where they are mapped");
    }
    let mut kept = registers::<u32>(kernel, below, 4).ok_or("a part of what was given back")?;
    kept.keep();
    ensure!(kept.pointer().cast::<[u32; 2]>() != first, "one mapping a block");
    drop(kept);
    ensure!(registers::<u32>(kernel, below, 4).is_none(), "what is kept is not given back");
    ensure!(registers::<u64>(kernel, PhysAddr::new(at.raw() - 12), 8).is_none(), "misaligned for their type");
    ensure!(registers::<u64>(kernel, PhysAddr::new(at.raw() - 16), 4).is_none(), "too few for their type");
    ensure!(registers::<u32>(kernel, PhysAddr::new(at.raw() - 16), 4).is_some(), "a refusal holds nothing");
    audit(kernel)
}

fn registers_are_never_mapped_over_ram(kernel: &'static Kernel) -> Verdict {
    let bank = kernel.info.banks()[0];
    let last = bank.last_byte().ok_or("an empty bank")?;
    let carved = carved(kernel).ok_or("no area")?;
    let bank_of = |at| kernel.info.banks().iter().find(|bank| bank.contains(Frame::containing(at))).copied();
    // Memory in use, a carve-out, the last frame, and a block that only ends in RAM.
    let below = PhysAddr::new(bank.base().raw() - FRAME_SIZE);
    for (at, bytes) in [(ram(kernel), FRAME_SIZE), (carved, FRAME_SIZE), (last, 1), (below, FRAME_SIZE + 1)] {
        ensure!(registers::<u8>(kernel, at, bytes).is_none(), "registers over RAM at {at}");
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
