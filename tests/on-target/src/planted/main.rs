//! A short workload over a real bus master, virtio-blk. With a planted bug it breaks one rule, and the machine with
//! modelled caches must find that (tests/incoherent). The boot argument `plant=NAME` names the bug.
//! tests/incoherent/plants.txt lists the bugs. Without the argument, or with `plant=none`, the program is correct on
//! every board that has a disk.
//!
//! Guarantees: the correct program and the planted ones differ only in [`careless`] and in the conditions on a [`Bug`]
//! here. Each step that a bug spoils is taken several times, on different lines.
#![no_std]
#![no_main]

extern crate alloc;

mod blk;
mod by_hand;
mod careless;
mod late;
mod many;
mod shared;
mod through_the_api;
mod warm;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use blk::{Disk, SECTOR};
use by_hand::Hand;
use careless::{BUGS, Bug, Careless};
use carveout::addr::{FRAME_SIZE, FrameRange, SECTION_SIZE, VirtAddr};
use carveout::carve_out::CarveOut;
use carveout::dma::{Dma, Master};
use carveout::embed::{Builder, Roots, Window};
use carveout::vm::attr::MemoryType;
use carveout::vm::desc::{L2_ENTRIES, L2Desc, L2Table};
use carveout::vm::range::VirtRange;
use carveout::vm::space::Region;
use carveout_boards::kernel::console;
use carveout_boards::kernel::{bring_up, state::Kernel};
use carveout_boards::println;
use carveout_rt::start::{BootHandover, translate_image};
use core::cell::UnsafeCell;
use core::ops::Range;
use late::Late;
use many::Many;
use on_target::{Verdict, alloc, ensure};
use shared::Shared;
use through_the_api::Bench;
use warm::Warm;

carveout_rt::entry!(main);

/// The bugs, each with the models on which it is a bug.
const PLANTS: [&str; 2] =
    [include_str!("../../../incoherent/plants.txt"), include_str!("../../../incoherent/plants-of-many-cores.txt")];

/// Frames of the area that the bugs are planted in, and frames beside it.
const AREA_FRAMES: u32 = 32;
const OWN_FRAMES: u32 = 4;
/// Frames that are this program's RAM at first, and an area later. They are as many as its buffers take, so that the
/// program looks at each.
const LATE_FRAMES: u32 = 3;
/// Bytes that go to the disk and back. Any file of 4 KiB can be the disk.
const BYTES: u32 = 8 * SECTOR;
const _: () = assert!(BYTES == FRAME_SIZE);
const ROUNDS: u32 = 4;

fn main(handover: BootHandover) -> ! {
    let kernel = bring_up::start(handover);
    let name = kernel.info.bootargs().get("plant").and_then(|arg| arg.value).unwrap_or("none");
    let bug = BUGS.iter().find(|(known, _)| *known == name).map(|&(_, bug)| bug);
    if bug.is_none() && name != "none" {
        console::die(format_args!("plant={name}: no such bug"));
    }
    match every_bug_is_listed().and_then(|()| run(kernel, bug)) {
        Ok(()) => println!("plant={name}: ok"),
        Err(why) => console::die(format_args!("plant={name}: {why}")),
    }
    console::exit(0)
}

fn every_bug_is_listed() -> Verdict {
    let lines = PLANTS.iter().flat_map(|list| list.lines()).filter(|line| !line.starts_with('#'));
    let listed = lines.filter_map(|line| line.split_whitespace().next());
    ensure!(listed.eq(BUGS.iter().map(|&(name, _)| name)), "the lists name other bugs, or in another order");
    Ok(())
}

// The stack frame of this function must not be on the stack while the kernel boots.
#[inline(never)]
fn run(kernel: &'static Kernel, bug: Option<Bug>) -> Verdict {
    let outer = kernel.outer.map(|outer| outer.registers().cast());
    // SAFETY: the mapping of the controller's registers lasts (`L2c310::enable`).
    let machine = unsafe { Careless::new(kernel.machine, bug, outer) };
    let machine: &Careless = Box::leak(Box::new(machine));

    // Frames of the kernel's own area. The kernel never maps them again, because this program keeps them to its end.
    let buffer = alloc(kernel, (AREA_FRAMES + OWN_FRAMES + LATE_FRAMES) * FRAME_SIZE)?.into_device();
    let frames = buffer.frames();
    core::mem::forget(buffer);
    let (own, rest) = frames.split_at(OWN_FRAMES).ok_or("too few frames")?;
    let (area, late) = rest.split_at(AREA_FRAMES).ok_or("too few frames")?;
    let own_region =
        Region::one_each(machine, &window(WINDOW_SECTIONS..SECTIONS)?).map_err(|error| error.to_string())?;
    let mut hand = Hand { machine, region: own_region, master: Master::new("virtio-blk", None) };

    if machine.has(Bug::NeverFlushed) {
        let mapped = hand.map(0, area, MemoryType::WriteBack);
        by_hand::fill(machine, mapped.all(), 1);
        hand.unmap(mapped);
    }
    if machine.has(Bug::Alias) {
        // This mapping stays for ever, away from later mappings.
        hand.map(OWN_FRAMES, area, MemoryType::WriteBack);
    }
    // SAFETY: the kernel carved the frames out of the direct map and gave them to this program alone (I2).
    let carved = unsafe { CarveOut::assume("planted", &[area], true) };
    let carved = [carved, CarveOut::late("late", &[late], false)];
    let dma = Builder::new(machine, carved, window(0..WINDOW_SECTIONS)?).build();
    let dma: &'static Dma<Careless> = Box::leak(Box::new(dma.map_err(|error| error.to_string())?));
    let went = work(kernel, dma, hand, (own, late), bug);
    // The console asks the kernel's own areas only.
    while let Some(lost) = dma.next_quarantined() {
        log::warn!(target: "carveout::dma", "{lost} was dropped: it is lost until reset, for the device may still use it");
    }
    went
}

/// Does the work by the API and by hand. If something goes wrong, buffers that a device still has are dropped.
fn work(
    kernel: &'static Kernel,
    dma: &'static Dma<Careless>,
    mut hand: Hand,
    (own, late): (FrameRange, FrameRange),
    bug: Option<Bug>,
) -> Verdict {
    let master = Master::new("virtio-blk", dma.area("planted"));
    let page = dma.alloc(&master, FRAME_SIZE, 1).map_err(|error| error.to_string())?;
    let mut disk = Disk::open(kernel, page.into_coherent())?;

    if !bug.is_some_and(Bug::is_of_many) {
        with_one_core(dma, master, &mut hand, &mut disk, own, late)?;
    }
    if !many::is_alone() {
        Many { machine: kernel.machine, hand: &mut hand, disk: &mut disk }.work(own)?;
    }
    disk.close();
    Ok(())
}

/// Does the work of one core alone.
fn with_one_core(
    dma: &'static Dma<Careless>,
    master: Master,
    hand: &mut Hand,
    disk: &mut Disk,
    own: FrameRange,
    late: FrameRange,
) -> Verdict {
    let mut bench = Bench { machine: hand.machine, dma, master: master.clone(), disk };
    let went = (0..ROUNDS).try_for_each(|round| {
        bench.streams_go_there_and_back(round)?;
        bench.a_stream_goes_both_ways(round)?;
        bench.coherent_memory_is_one_for_both(round)?;
        bench.the_cpu_may_play_a_device(round)?;
        bench.packets_share_a_page(round)
    });
    let went = went.and_then(|()| bench.whole_caches_are_emptied(ROUNDS));
    let went = went.and_then(|()| Warm { machine: hand.machine, dma, master: master.clone(), disk }.work());
    let went = went.and_then(|()| Shared { machine: hand.machine, dma, master, disk }.work());
    // The console asks the kernel's own areas only.
    while let Some(lost) = dma.next_quarantined() {
        log::warn!(target: "carveout::dma", "{lost} was dropped: it is lost until reset, for the device may still use it");
    }
    went?;
    let (first, rest) = own.split_at(2).ok_or("too few frames")?;
    hand.frames_change_their_type(first)?;
    hand.pages_stay_mapped(rest, disk)?;
    hand.a_buffer_lies_between_data(first, disk)?;
    let area = dma.area("late").ok_or("no late area")?;
    Late { dma, area, frames: late, hand, disk }.comes_and_goes()
}

/// The sections of the unused lower half in which this program maps. The areas' window holds their frames three times,
/// and has a section for lent frames ([`Needs`](carveout::embed::Needs)). One more section is for mappings by hand.
const SECTIONS: usize = WINDOW_SECTIONS + 1;
const WINDOW_SECTIONS: usize = 7;
const FIRST: VirtAddr = VirtAddr::new(0x4000_0000);

/// The second-level tables of these sections.
#[repr(C, align(1024))]
struct Tables([UnsafeCell<L2Table>; SECTIONS]);

// SAFETY: only `window` takes tables, and takes each once.
unsafe impl Sync for Tables {}

static TABLES: Tables = Tables([const { UnsafeCell::new([L2Desc::FAULT; L2_ENTRIES]) }; SECTIONS]);

/// Returns a window over some of these sections. Each section may be asked for once.
fn window(sections: Range<usize>) -> Result<Window<'static>, String> {
    let va = on_target::after(FIRST, sections.start as u32 * SECTION_SIZE);
    let table = UnsafeCell::raw_get(TABLES.0.as_ptr().wrapping_add(sections.start));
    let table_at = translate_image(VirtAddr::new(table.addr() as u32)).ok_or("not part of the image")?;
    let range = VirtRange::new(va.raw(), sections.len() as u32);
    // SAFETY: the kernel does not use its lower half. Nothing else uses these tables, because no section is asked for
    // twice.
    Ok(unsafe { Window::assume(range, Roots::One, table_at) })
}

/// Returns word `n`. It differs from its neighbours, and from word `n` with another salt.
const fn word(n: usize, salt: u32) -> u32 {
    (n as u32 + 1).wrapping_mul(0x9e37_79b1) ^ salt.wrapping_add(1).wrapping_mul(0x85eb_ca6b)
}

/// Checks the words of a buffer.
fn has_words(words: impl Iterator<Item = (usize, u32)>, salt: u32) -> Verdict {
    for (n, found) in words {
        let wanted = word(n, salt);
        ensure!(found == wanted, "word {n} is {found:#010x}, not {wanted:#010x}");
    }
    Ok(())
}
