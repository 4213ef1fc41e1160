//! I2: what is carved out is out of the direct map, from the start; and so is all else that must not be mapped.
#![no_std]
#![no_main]

extern crate alloc;

use carveout::addr::{FRAME_SIZE, Frame, FrameRange, SECTION_SIZE, VirtAddr};
use carveout::machine::Mmu;
use carveout::vm::desc::L1Desc;
use carveout_boards::kernel::state::Kernel;
use carveout_boot::layout::AreaPlan;
use carveout_boot::upper_half::SHARED;
use carveout_rt::start::{ImageMap, translate_image};
use on_target::tables::Place;
use on_target::{Verdict, after, checks, direct_map_place, ensure, ensure_eq, is_unmapped, read};

checks![
    no_carved_frame_can_be_reached_through_the_direct_map,
    frames_beside_a_carve_out_can_be_reached,
    the_image_is_not_in_the_direct_map_too,
    the_identity_map_is_gone,
    the_lower_half_is_empty,
    guards_of_the_stacks_are_unmapped,
];

fn carved(kernel: &Kernel) -> impl Iterator<Item = FrameRange> + '_ {
    kernel.layout.areas().iter().flat_map(|area| area.ranges.iter().copied())
}

/// Each frame, not a sample: 16,384 reads and as many writes, at least.
fn no_carved_frame_can_be_reached_through_the_direct_map(kernel: &'static Kernel) -> Verdict {
    let mut probed = 0u32;
    for frame in carved(kernel).flat_map(FrameRange::iter) {
        let va = direct_map_place(frame);
        let va = va.ok_or_else(|| alloc::format!("frame {} has no place in the direct map", frame.base()))?;
        is_unmapped(va)?;
        probed += 1;
    }
    let planned: u64 = kernel.layout.areas().iter().map(AreaPlan::bytes).sum();
    ensure!(planned >= 64 << 20, "{planned:#x} bytes are carved out, but cma=64M");
    ensure_eq!(u64::from(probed) * u64::from(FRAME_SIZE), planned, "bytes probed");
    Ok(())
}

fn frames_beside_a_carve_out_can_be_reached(kernel: &'static Kernel) -> Verdict {
    let mut beside = 0;
    for range in carved(kernel) {
        let below = range.start().checked_sub(1).and_then(Frame::from_number);
        for frame in [below, Frame::from_number(range.end())].into_iter().flatten() {
            // Where the bank ends there is nothing beside.
            if !kernel.info.banks().iter().any(|bank| bank.contains(frame)) {
                continue;
            }
            let va = direct_map_place(frame).map(|va| after(va, FRAME_SIZE - 4));
            let word = va.map(read);
            ensure!(matches!(word, Some(Ok(_))), "frame {} beside {range}: {word:?}", frame.base());
            beside += 1;
        }
    }
    ensure!(beside > 0, "no frame is beside a carve-out");
    Ok(())
}

fn the_image_is_not_in_the_direct_map_too(kernel: &'static Kernel) -> Verdict {
    let image = ImageMap::get();
    for va in [image.text.start, image.rodata.start, after(image.data.end, 0u32.wrapping_sub(FRAME_SIZE))] {
        let at = translate_image(va).ok_or("not part of the image")?;
        let place = direct_map_place(Frame::containing(at)).ok_or("the image is in no bank")?;
        ensure!(SHARED.contains(place) && !kernel.dma.window().contains(place), "{place} is not in the direct map");
        is_unmapped(place)?;
    }
    Ok(())
}

/// The head maps its own page at its physical address while it turns the MMU on.
fn the_identity_map_is_gone(_: &'static Kernel) -> Verdict {
    let head = translate_image(ImageMap::get().text.start).ok_or("the head is part of the image")?;
    is_unmapped(VirtAddr::new(head.raw()))
}

fn the_lower_half_is_empty(kernel: &'static Kernel) -> Verdict {
    let registers = kernel.machine.registers();
    ensure_eq!((registers.n(), registers.ttbr0), (1, registers.ttbr1), "TTBCR.N and the one table");
    for section in 0..2048 {
        let va = VirtAddr::new(section * SECTION_SIZE);
        let word = Place::first_level(kernel, va).word(kernel);
        ensure_eq!(word, Some(L1Desc::FAULT.raw()), "the descriptor of {va}");
        is_unmapped(va)?;
        is_unmapped(after(va, SECTION_SIZE - 4))?;
    }
    Ok(())
}

fn guards_of_the_stacks_are_unmapped(_: &'static Kernel) -> Verdict {
    let local = 0u32;
    let image = ImageMap::get();
    ensure!(
        image.guards[0][0].end < on_target::address_of(&local),
        "the guard of the boot stack is not below the stack"
    );
    for guard in image.guards.into_iter().flatten() {
        let pages = (guard.end.raw() - guard.start.raw()) / FRAME_SIZE;
        ensure!(pages > 0, "the guard at {} is empty", guard.start);
        for page in 0..pages {
            is_unmapped(after(guard.start, page * FRAME_SIZE))?;
        }
        is_unmapped(after(guard.end, 0u32.wrapping_sub(4)))?;
        ensure!(read(guard.end).is_ok(), "the stack above the guard at {} is unmapped", guard.start);
    }
    Ok(())
}
