//! Late carve-out on the machine itself (I1, I2, I3, I5): the default area becomes RAM of the kernel's, which every
//! core uses, is taken and given back. `src/planted` does so with a disk as the bus master.
//!
//! On one core, or on a board that has no more, a missing broadcast has nothing to show.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use carveout::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use carveout::cpu::CoreId;
use carveout::dma::{AllocError, AreaId, Bidirectional, TakeError};
use carveout::machine::Mmu;
use carveout::vm::attr::{Access, MemoryType};
use carveout::vm::desc::L1Desc;
use carveout_boards::kernel::cores;
use carveout_boards::kernel::state::Kernel;
use carveout_boards::println;
use on_target::tables::{Place, section};
use on_target::{Verdict, after, alloc, audit, checks, ensure, ensure_eq, is_unmapped, master, read};
use spin::Mutex;

checks![an_area_that_is_mapped_is_refused, the_kernels_translations_are_gone_from_every_core, the_kernel_finds_zeros,];

/// Where the kernel maps the area: the lower half is nobody's.
const FIRST: VirtAddr = VirtAddr::new(0x4000_0000);

/// The area, and its only run.
fn area(kernel: &'static Kernel) -> Result<(AreaId, FrameRange), String> {
    let area = kernel.default_area().ok_or("no default area")?;
    let plan = kernel.layout.areas().iter().enumerate().find(|&(n, _)| kernel.dma.area_at(n) == Some(area));
    let (_, plan) = plan.ok_or("the area has no plan")?;
    let &[run] = plan.ranges.as_slice() else { return Err("an area of several runs".into()) };
    ensure!(
        run.base().is_aligned(SECTION_SIZE) && run.bytes() % u64::from(SECTION_SIZE) == 0,
        "{run} is not of sections"
    );
    Ok((area, run))
}

/// Writes the first-level words at which the kernel has the run, and invalidates no TLB.
fn write_words(kernel: &'static Kernel, run: FrameRange, word: impl Fn(PhysAddr) -> u32) -> Verdict {
    for offset in (0..run.count() << FRAME_SHIFT).step_by(SECTION_SIZE as usize) {
        let place = Place::first_level(kernel, after(FIRST, offset));
        let pointer = place.pointer(kernel).ok_or("the first-level table is out of reach")?;
        let word = word(PhysAddr::new(run.base().raw() + offset));
        // SAFETY: a word of the live table, mapped writable for good, of a section that is this test's.
        unsafe { pointer.write_volatile(word) };
        // SAFETY: as above; the reference ends with this call, in which nothing writes.
        kernel.machine.publish(place.at(), core::slice::from_ref(unsafe { pointer.as_ref() }));
    }
    Ok(())
}

/// The kernel maps the run, cached, as all its RAM.
fn map(kernel: &'static Kernel, run: FrameRange) -> Verdict {
    write_words(kernel, run, |at| section(at, MemoryType::WriteBack, Access::ReadWrite))
}

/// The kernel ends that.
fn unmap(kernel: &'static Kernel, run: FrameRange) -> Verdict {
    write_words(kernel, run, |_| L1Desc::FAULT.raw())
}

/// The first and the last word of each section.
fn words(run: FrameRange) -> impl Iterator<Item = VirtAddr> {
    let sections = (0..run.count() << FRAME_SHIFT).step_by(SECTION_SIZE as usize);
    sections.flat_map(|offset| [after(FIRST, offset), after(FIRST, offset + SECTION_SIZE - 4)])
}

/// Runs a check on every core; the first that fails is told.
fn on_every_core(check: impl Fn(CoreId) -> Verdict + Sync) -> Verdict {
    let failed = Mutex::new(Ok(()));
    cores::on_all(&|core| {
        if let Err(why) = check(core) {
            *failed.lock() = Err(format!("{core}: {why}"));
        }
    });
    failed.into_inner()
}

/// Every core finds zeros and leaves words of its own, so that its TLB knows the mapping.
fn every_core_uses(run: FrameRange) -> Verdict {
    on_every_core(|_| {
        for va in words(run) {
            ensure_eq!(read(va), Ok(0), "the word at {va}");
        }
        Ok(())
    })?;
    on_every_core(|core| {
        for va in words(run) {
            let mine = va.raw() as *mut u32;
            // SAFETY: mapped for the kernel, which has the memory alone; the cores write different bytes.
            unsafe { mine.cast::<u8>().wrapping_add(core.index() % 4).write_volatile(0xa5) };
        }
        Ok(())
    })
}

fn kernel_gets(kernel: &'static Kernel) -> Result<(AreaId, FrameRange), String> {
    let (area, run) = area(kernel)?;
    kernel.dma.give_back_area(area).map_err(|error| error.to_string())?;
    ensure_eq!(kernel.dma.alloc(&master(kernel), 1, 1).err(), Some(AllocError::NotTaken), "an allocation");
    is_unmapped(FIRST)?;
    map(kernel, run)?;
    every_core_uses(run)?;
    audit(kernel)?;
    Ok((area, run))
}

fn take(kernel: &'static Kernel, area: AreaId) -> Verdict {
    // SAFETY: the only mapping of the area ends, and nothing is in it (I2).
    unsafe { kernel.dma.take_area(area, &[], |run| unmap(kernel, run)) }.map_err(|error| error.to_string())
}

/// I2: the tables are read before the area is touched.
fn an_area_that_is_mapped_is_refused(kernel: &'static Kernel) -> Verdict {
    let (area, run) = kernel_gets(kernel)?;
    // SAFETY: it is refused.
    let refused = unsafe { kernel.dma.take_area(area, &[], |_| Verdict::Ok(())) };
    let frame = run.iter().next().ok_or("an empty run")?;
    ensure_eq!(refused, Err(TakeError::StillMapped { va: FIRST, frame }), "a take of what is mapped");
    on_every_core(|_| {
        ensure!(matches!(read(FIRST), Ok(word) if word != 0), "the kernel's bytes are gone");
        Ok(())
    })?;
    take(kernel, area)
}

/// I3: an invalidate of this core's TLB alone would leave the other ones what they know, and a take does not.
fn the_kernels_translations_are_gone_from_every_core(kernel: &'static Kernel) -> Verdict {
    let (area, run) = kernel_gets(kernel)?;
    let others = cores::online().count() > 1;
    let left = |run| {
        // QEMU's TLBs are small: this is what they know best.
        on_every_core(|_| read(FIRST).map(drop).map_err(|fault| fault.to_string()))?;
        unmap(kernel, run)?;
        for va in words(run) {
            // SAFETY: TLBIMVA between DSBs: forgetting translations is always allowed.
            unsafe {
                core::arch::asm!("dsb", "mcr p15, 0, {0}, c8, c7, 1", "dsb", "isb", in(reg) va.raw(), options(nostack));
            };
        }
        is_unmapped(FIRST)?;
        on_every_core(|core| {
            let stale = core.index() > 0;
            ensure!(!stale || read(FIRST).is_ok(), "its TLB forgot what only this core was told to forget");
            Ok(())
        })
    };
    // SAFETY: the only mapping of the area ends, and nothing is in it (I2).
    unsafe { kernel.dma.take_area(area, &[], left) }.map_err(|error| error.to_string())?;
    on_every_core(|_| words(run).try_for_each(is_unmapped))?;
    println!("late: {run}, taken from {} cores; stale before: {others}", cores::online().count());
    // The CPU's own mapping is another one, and finds zeros (I5).
    let coherent = alloc(kernel, 3 << 20)?.into_coherent();
    for offset in (0..coherent.len()).step_by(FRAME_SIZE as usize) {
        ensure_eq!(coherent.read_word::<u32>(offset), 0, "a word at {offset:#x}");
    }
    // SAFETY: no device was told.
    drop(unsafe { coherent.release() });
    Ok(())
}

/// I5: whatever lines and bytes a stream left.
fn the_kernel_finds_zeros(kernel: &'static Kernel) -> Verdict {
    let mut stream = alloc(kernel, 1 << 20)?.into_stream::<Bidirectional>();
    stream.bytes_mut().fill(0x5a);
    drop(stream);
    // Every core looks, in `every_core_uses`.
    let (area, _) = kernel_gets(kernel)?;
    take(kernel, area)
}
