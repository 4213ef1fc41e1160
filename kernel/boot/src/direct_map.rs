//! The plan of the direct map, and the proof that a carve-out is not in it.
//!
//! Guarantees I2 by construction: a [`CarveOut`](carveout::carve_out::CarveOut) is made only of a
//! [`Layout`](super::layout::Layout) that is in force, and the direct map of that layout leaves its frames out. Nothing
//! else is ever mapped as direct map. This module touches no table.
//!
//! RAM banks may lie far apart, so each has an offset of its own. Banks follow one another in the direct map. Each lies
//! at an address that equals its physical address modulo 1 MiB, so that sections map it. A carve-out leaves a hole.
//!
//! The window gets what the direct map leaves of [`SHARED`]. Banks with their holes may leave it too
//! little for guards between all buffers ([`Needs`]). Then the holes take no addresses:
//! each part between two holes becomes a bank of its own. If that is not enough, RAM in the direct map comes before
//! guards between buffers. But one image comes before RAM in the direct map, because an area could not be used at all
//! without an image.
//!
//! RAM is left out of the map if there is no room for it, no entry in a list or no second-level table. Such RAM is
//! listed as far as the list goes, and reserved, so that nobody allocates what nothing maps.

use crate::bootinfo;
use crate::memblock::RUNS;
use crate::upper_half::SHARED;
use arrayvec::ArrayVec;
use carveout::addr::{FRAME_SHIFT, Frame, FrameRange, SECTION_SIZE, VirtAddr};
use carveout::embed::Needs;
use carveout::machine::LinearMap;
use carveout::vm::range::VirtRange;
use carveout::vm::window::{IMAGES, image_sections};

/// The most runs of mapped frames in a plan: as many as memblock's marks and the image can make.
pub const MAX_RUNS: usize = RUNS + bootinfo::MAX_BANKS + 2;
/// The most banks in a plan. Where holes take no addresses, each part of a bank counts. What is beyond is left out.
const MAX_BANKS: usize = 64;
/// The most parts of RAM that [`DirectMap::left_out`] lists.
const MAX_LEFT_OUT: usize = bootinfo::MAX_BANKS;
/// The most sections that are mapped in part. Each takes a second-level table. What is beyond is left out.
pub const MAX_RAGGED: usize = 256;

/// A run of RAM, and its address in the direct map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Bank {
    frames: FrameRange,
    va: VirtAddr,
}

impl Bank {
    const fn va_of(&self, frame: u32) -> VirtAddr {
        VirtAddr::new(self.va.raw() + ((frame - self.frames.start()) << FRAME_SHIFT))
    }
}

/// The frames that the direct map holds, and their addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DirectMap {
    banks: ArrayVec<Bank, MAX_BANKS>,
    runs: ArrayVec<FrameRange, MAX_RUNS>,
    left_out: ArrayVec<FrameRange, MAX_LEFT_OUT>,
    /// Bytes that are left out and not listed.
    more_left_out: u64,
    /// The number of sections that are mapped in part, and the last of them.
    ragged: usize,
    last_ragged: Option<u32>,
    /// Sections of [`SHARED`], from its start on.
    sections: u32,
}

/// A run of the direct map to be mapped: read, write, execute-never, write-back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First address.
    pub va: VirtAddr,
    /// The frames.
    pub frames: FrameRange,
}

impl DirectMap {
    /// Plans a direct map of the RAM in `banks` that maps `mapped` of it, beside a window for these areas. The kernel's
    /// image is left out: it has a window of its own.
    ///
    /// Both yield disjoint runs in ascending order, as memblock's do.
    pub(super) fn beside<B: Iterator<Item = FrameRange>, I: Iterator<Item = FrameRange>>(
        areas: impl Iterator<Item = FrameRange>,
        banks: impl Fn() -> B,
        mapped: impl Fn() -> I,
        image: FrameRange,
    ) -> Self {
        let one = image_sections(areas);
        // One section between direct map and window stays unused.
        let room = |images: u32| {
            let window = one.saturating_mul(images).saturating_add(Needs::LANES);
            SHARED.sections().saturating_sub(window.saturating_add(1))
        };
        let with_holes = Self::new(banks(), &mapped, image, room(IMAGES));
        if with_holes.left_out.is_empty() {
            return with_holes;
        }
        Self::new(without_holes(banks, &mapped), &mapped, image, room(1))
    }

    /// Plans the map in the first `room` sections of [`SHARED`].
    fn new<I: Iterator<Item = FrameRange>>(
        banks: impl Iterator<Item = FrameRange>,
        mapped: impl Fn() -> I,
        image: FrameRange,
        room: u32,
    ) -> Self {
        let mut plan = Self::default();
        let start = u64::from(SHARED.start().raw());
        let limit = start + SHARED.first(room).bytes();
        let mut next = start;
        for frames in banks {
            let va = next + u64::from(frames.base().raw() % SECTION_SIZE);
            let fit = (limit.saturating_sub(va) >> FRAME_SHIFT).min(u64::from(frames.count())) as u32;
            let Some((held, rest)) = frames.split_at(fit) else { continue };
            // A bank for which the list of banks has no room is left out whole.
            let bank = Bank { frames: held, va: VirtAddr::new(va as u32) };
            let rest = if held.is_empty() || plan.banks.try_push(bank).is_err() { frames } else { rest };
            plan.leave_out(rest);
            if rest != frames {
                next = (va + held.bytes()).next_multiple_of(u64::from(SECTION_SIZE));
            }
        }
        plan.sections = ((next - start) / u64::from(SECTION_SIZE)) as u32;
        for n in 0..plan.banks.len() {
            let bank = plan.banks[n];
            for frames in mapped().map(|frames| frames.intersection(bank.frames)) {
                let below = FrameRange::between(frames.start(), frames.end().min(image.start()));
                let above = FrameRange::between(frames.start().max(image.end()), frames.end());
                let runs = if frames.overlaps(image) { [below, above] } else { [Some(frames), None] };
                for run in runs.into_iter().flatten().filter(|run| !run.is_empty()) {
                    plan.enter(bank, run);
                }
            }
        }
        plan
    }

    /// Enters a run of `bank`, which lies above all others of that bank. An end is left out if it would take one table
    /// too many.
    fn enter(&mut self, bank: Bank, run: FrameRange) {
        let pages = SECTION_SIZE >> FRAME_SHIFT;
        let page = |frame: u32| (bank.va.raw() >> FRAME_SHIFT) + (frame - bank.frames.start());
        let into = page(run.start()) % pages;
        let head = if into == 0 { 0 } else { (pages - into).min(run.count()) };
        let tail = page(run.end()) % pages;
        let mut kept = run;
        if head > 0 && !self.take_table(page(run.start()) / pages) {
            let (cut, rest) = kept.split_at(head).unwrap_or((kept, FrameRange::EMPTY));
            self.leave_out(cut);
            kept = rest;
        }
        if tail > 0 && tail <= kept.count() && !self.take_table(page(run.end()) / pages) {
            let (rest, cut) = kept.split_at(kept.count() - tail).unwrap_or((FrameRange::EMPTY, kept));
            self.leave_out(cut);
            kept = rest;
        }
        if !kept.is_empty() && self.runs.try_push(kept).is_err() {
            self.leave_out(kept);
        }
    }

    /// Returns whether there is a table for a part of this section. Sections come in ascending order.
    fn take_table(&mut self, section: u32) -> bool {
        if self.last_ragged != Some(section) {
            if self.ragged == MAX_RAGGED {
                return false;
            }
            (self.ragged, self.last_ragged) = (self.ragged + 1, Some(section));
        }
        true
    }

    fn leave_out(&mut self, frames: FrameRange) {
        if !frames.is_empty() && self.left_out.try_push(frames).is_err() {
            self.more_left_out += frames.bytes();
        }
    }

    /// Yields the runs to be mapped.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs.iter().filter_map(|&frames| Some(Run { va: self.place(frames)?, frames }))
    }

    /// Returns the direct map's addresses.
    pub const fn range(&self) -> VirtRange {
        SHARED.first(self.sections)
    }

    /// Returns the addresses that it leaves for the window of the areas.
    pub const fn window(&self) -> VirtRange {
        SHARED.after(self.sections + 1)
    }

    /// Returns the RAM that there was no room for. Where there is much, this is only the first of it.
    pub fn left_out(&self) -> &[FrameRange] {
        &self.left_out
    }

    /// Returns how many bytes there was no room for, beside [`DirectMap::left_out`].
    pub const fn more_left_out(&self) -> u64 {
        self.more_left_out
    }

    /// Returns the frame whose place in the direct map is `va`, and whether the direct map holds it. A carve-out leaves
    /// a hole at the place of its frame.
    pub fn frame_at(&self, va: VirtAddr) -> Option<(Frame, bool)> {
        self.banks.iter().find_map(|bank| {
            let offset = va.raw().checked_sub(bank.va.raw())? >> FRAME_SHIFT;
            let frame = (offset < bank.frames.count()).then(|| bank.frames.start() + offset)?;
            let frame = Frame::from_number(frame)?;
            Some((frame, self.runs.iter().any(|run| run.contains(frame))))
        })
    }

    fn place(&self, frames: FrameRange) -> Option<VirtAddr> {
        let bank = self.banks.iter().find(|bank| bank.frames.covers(frames) && !frames.is_empty())?;
        Some(bank.va_of(frames.start()))
    }
}

impl LinearMap for DirectMap {
    fn va_of(&self, frames: FrameRange) -> Option<VirtAddr> {
        self.runs.iter().find(|run| run.covers(frames))?;
        self.place(frames)
    }
}

/// Yields the banks in parts, each at least a section from the next. What is not mapped between two parts takes no
/// addresses.
fn without_holes<B: Iterator<Item = FrameRange>, I: Iterator<Item = FrameRange>>(
    banks: impl Fn() -> B,
    mapped: impl Fn() -> I,
) -> impl Iterator<Item = FrameRange> {
    let mut runs = mapped().peekable();
    core::iter::from_fn(move || {
        let mut part = runs.next()?;
        let bank = banks().find(|bank| bank.covers(part)).unwrap_or(part);
        let near = |part: FrameRange, next: FrameRange| {
            bank.covers(next) && next.start() - part.end() < SECTION_SIZE >> FRAME_SHIFT
        };
        while let Some(next) = runs.next_if(|&next| near(part, next)) {
            part = FrameRange::between(part.start(), next.end()).unwrap_or(part);
        }
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn run(start: u32, count: u32) -> FrameRange {
        FrameRange::new(start, count).unwrap()
    }

    const NO_IMAGE: FrameRange = FrameRange::EMPTY;

    #[test]
    fn each_bank_has_an_offset_of_its_own() {
        let banks = [run(0x20000, 0x20000), run(0x70000, 0x10000)];
        let plan = DirectMap::new(banks.into_iter(), || banks.into_iter(), run(0x70010, 0x40), 1024);
        assert_eq!(plan.va_of(run(0x20000, 1)), Some(VirtAddr::new(0x8000_0000)));
        assert_eq!(plan.va_of(run(0x70000, 1)), Some(VirtAddr::new(0xa000_0000)));
        assert_eq!(plan.va_of(run(0x70010, 1)), None, "the image is mapped in its own window");
        assert_eq!(plan.va_of(run(0x70050, 1)), Some(VirtAddr::new(0xa005_0000)));
        assert_eq!(plan.frame_at(VirtAddr::new(0xa000_0fff)), Some((Frame::from_number(0x70000).unwrap(), true)));
        assert_eq!(plan.frame_at(VirtAddr::new(0xb000_0000)), None);
    }

    #[test]
    fn i2_a_carve_out_is_a_hole() {
        let bank = run(0x60000, 0x10000);
        let mapped = [run(0x60000, 0x4000), run(0x68000, 0x8000)];
        let plan = DirectMap::new([bank].into_iter(), || mapped.into_iter(), NO_IMAGE, 1024);
        let hole = VirtAddr::new(0x8400_0000);
        assert_eq!(plan.frame_at(hole), Some((Frame::from_number(0x64000).unwrap(), false)));
        assert_eq!(plan.va_of(run(0x63fff, 2)), None);
    }

    #[test]
    fn ram_beyond_the_region_is_left_out_and_listed() {
        let banks = [run(0x20000, 0x30000), run(0x60000, 0x20000)];
        let plan = DirectMap::new(banks.into_iter(), || banks.into_iter(), NO_IMAGE, 1024);
        assert_eq!(plan.left_out(), &[run(0x70000, 0x10000)]);
        assert_eq!(plan.va_of(run(0x6ffff, 1)), Some(VirtAddr::new(0xbfff_f000)));
        assert_eq!(plan.va_of(run(0x70000, 1)), None);
    }

    /// 1 GiB from 0x60000 on, of which the last `mib` MiB but one are carved out.
    fn gib_with(mib: u32) -> DirectMap {
        let bank = run(0x60000, 0x40000);
        let area = run(0x9ff00 - mib * 256, mib * 256);
        let mapped = [run(0x60000, area.start() - 0x60000), run(0x9ff00, 0x100)];
        DirectMap::beside([area].into_iter(), || [bank].into_iter(), || mapped.into_iter(), NO_IMAGE)
    }

    #[test]
    fn the_upper_half_is_shared_as_the_machine_needs_it() {
        for mib in [32, 171, 254, 255, 256, 382, 383, 512, 768, 1000] {
            let (plan, one) = (gib_with(mib), mib + 1);
            assert!(plan.left_out().is_empty(), "{mib} MiB: all RAM that is not carved has its place");
            assert_eq!(plan.runs().map(|run| run.frames.count()).sum::<u32>(), (1024 - mib) * 256);
            let holes_stay = 1024 + 1 + 3 * one + Needs::LANES <= SHARED.sections();
            assert_eq!(plan.range().sections(), if holes_stay { 1024 } else { 1024 - mib }, "{mib} MiB");
            let (direct, window) = (plan.range(), plan.window());
            assert_eq!(window.start().raw(), direct.start().raw() + ((direct.sections() + 1) << 20), "a gap between");
            assert_eq!(direct.sections() + 1 + window.sections(), SHARED.sections());
            // A GiB in all leaves every area two images but for a few sections.
            assert!(window.sections() + 6 >= 2 * one || mib > 768, "{mib} MiB: {} for {one}", window.sections());
            assert!(window.sections() > one);
            let hole = VirtAddr::new(plan.va_of(run(0x60000, 1)).unwrap().raw() + ((1024 - 2 - mib) << 20));
            assert_eq!(plan.frame_at(hole).map(|(_, held)| held), Some(true), "below the area");
            // Above it: where it would be in one bank, or right behind.
            let above = plan.va_of(run(0x9ff00, 1)).unwrap().raw() - direct.start().raw();
            assert_eq!(above >> 20, if holes_stay { 1023 } else { 1023 - mib });
        }
    }

    #[test]
    fn an_area_has_an_image_before_the_last_of_much_ram_is_mapped() {
        let bank = run(0x40000, 0x80000);
        let area = run(0xb0000, 0x10000);
        let mapped = [run(0x40000, 0x70000)];
        let plan = DirectMap::beside([area].into_iter(), || [bank].into_iter(), || mapped.into_iter(), NO_IMAGE);
        assert_eq!(plan.window().sections(), 257 + Needs::LANES);
        assert_eq!(plan.range().sections(), SHARED.sections() - 259);
        let lost: u64 = plan.left_out().iter().map(|frames| frames.bytes()).sum();
        assert_eq!(lost >> 20, u64::from(0x700 - plan.range().sections()));
    }

    #[test]
    fn parts_of_banks_keep_small_holes() {
        let banks = [run(0x20000, 0x1000), run(0x21000, 0x1000)];
        let mapped = [run(0x20000, 0x100), run(0x20110, 0x100), run(0x20500, 0xb00), run(0x21000, 0x1000)];
        let parts: std::vec::Vec<_> = without_holes(|| banks.into_iter(), || mapped.into_iter()).collect();
        assert_eq!(parts, [run(0x20000, 0x210), run(0x20500, 0xb00), run(0x21000, 0x1000)]);
    }

    proptest! {
        /// Random banks, carve-outs and image against a map of single frames.
        #[test]
        fn i2_holds_frame_by_frame(
            starts in prop::collection::vec((0u32..64, 1u32..1500), 1..4),
            holes in prop::collection::vec((0u32..4096, 1u32..700), 0..6),
            image in (0u32..4096, 1u32..200),
        ) {
            let mut ram = std::vec![false; 8192];
            let mut mapped = std::vec![false; 8192];
            let mut at = 0;
            for (gap, count) in starts {
                for frame in at + gap..at + gap + count { ram[frame as usize] = true; mapped[frame as usize] = true; }
                at += gap + count + 1;
            }
            for (start, count) in holes {
                mapped[start as usize..(start + count) as usize].fill(false);
            }
            let runs = |bits: &[bool]| {
                let mut runs = Vec::new();
                let mut start = None;
                for (frame, &bit) in bits.iter().chain([&false]).enumerate() {
                    match (bit, start) {
                        (true, None) => start = Some(frame as u32),
                        (false, Some(from)) => { runs.push(FrameRange::between(from, frame as u32).unwrap()); start = None; }
                        _ => {}
                    }
                }
                runs
            };
            let image = run(image.0, image.1);
            let plan = DirectMap::new(runs(&ram).into_iter(), || runs(&mapped).into_iter(), image, 1024);
            prop_assert!(plan.left_out().is_empty() && plan.more_left_out() == 0);
            let mut held = std::collections::HashMap::new();
            for Run { va, frames } in plan.runs() {
                for (n, frame) in frames.iter().enumerate() {
                    let va = VirtAddr::new(va.raw() + ((n as u32) << FRAME_SHIFT));
                    prop_assert!(plan.range().contains(va));
                    prop_assert!(held.insert(va, frame).is_none(), "two frames at one address");
                    prop_assert_eq!(plan.frame_at(va), Some((frame, true)));
                    prop_assert_eq!(va.raw() % SECTION_SIZE, frame.base().raw() % SECTION_SIZE);
                }
            }
            for frame in 0..8192 {
                let one = run(frame, 1);
                let wanted = mapped[frame as usize] && !image.covers(one);
                prop_assert_eq!(plan.va_of(one).is_some(), wanted, "frame {:#x}", frame);
            }
            let wanted = (0..8192).filter(|&f| mapped[f] && !image.covers(run(f as u32, 1))).count();
            prop_assert_eq!(held.len(), wanted);
        }
    }
}
