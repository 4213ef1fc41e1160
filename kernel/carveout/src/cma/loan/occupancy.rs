//! Occupancy: which frames of an area are held, lent or open, and to whom they are lent.
//!
//! Guarantees:
//!
//! - A lent frame has a tenant, and no other frame has one.
//! - The searches are exact: they find a window if there is one that is idle or lent, of which nothing is open.
//! - Every call is O(blocks) at most, where a block is 32 frames.
//!
//! A frame's *position* is its number in the lists here. Each run of the area begins at a multiple of 32, so no block
//! is of two runs.

use super::cost::{FORGETS, FrameBits, LEVELS, Spared};
use super::kind::{CHEAPEST, PageKind};
use super::tenant::Tenant;
use crate::addr::{Frame, FrameRange};
use crate::carve_out::CarveOut;
use crate::cma::reach::Reachable;
use crate::heap::filled;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::iter;
use core::mem;
use core::ops::Range;

/// The runs of an area.
pub(crate) type Runs = ArrayVec<FrameRange, { CarveOut::RANGES }>;

/// Keeps what is known of each frame of an area.
#[derive(Debug)]
pub(crate) struct Occupancy {
    /// Each run of the area, and the position of its first frame.
    runs: ArrayVec<(FrameRange, u32), { CarveOut::RANGES }>,
    tenants: Vec<Tenant>,
    blocks: Vec<FrameBits>,
    lent: u32,
    /// Of those, frames that an allocation may have.
    lent_available: u32,
}

/// Returns a frame of the area as a range.
pub(super) fn one(frame: u32) -> FrameRange {
    FrameRange::new(frame, 1).expect("a frame of the area")
}

/// Yields each block of a range of positions, with a mask of its bits that are in the range.
fn masks(range: Range<u32>) -> impl Iterator<Item = (usize, u32)> {
    let mut at = range.start;
    iter::from_fn(move || {
        let count = (range.end.checked_sub(at).filter(|&left| left > 0)?).min(32 - at % 32);
        let mask = (u32::MAX >> (32 - count)) << (at % 32);
        let block = at / 32;
        at += count;
        Some((block as usize, mask))
    })
}

/// Yields the numbers of the set bits of a word.
fn bits_of(mut word: u32) -> impl Iterator<Item = usize> {
    iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
        word &= word - 1;
        Some(bit)
    })
}

impl Occupancy {
    /// Makes the lists for these runs, all held.
    pub(super) fn new(runs: Runs) -> Result<Self, TryReserveError> {
        let mut positions = 0;
        let runs = runs
            .into_iter()
            .map(|frames| {
                let at = positions;
                positions += frames.count().next_multiple_of(32);
                (frames, at)
            })
            .collect();
        Ok(Self {
            runs,
            tenants: filled(positions as usize, Tenant::NONE)?,
            blocks: filled(positions as usize / 32, FrameBits::all_held())?,
            lent: 0,
            lent_available: 0,
        })
    }

    /// Returns how many frames are lent.
    pub(crate) const fn lent(&self) -> u32 {
        self.lent
    }

    /// Returns how many of these no contract holds.
    pub(crate) const fn lent_available(&self) -> u32 {
        self.lent_available
    }

    /// Returns the positions of frames, which are of one run.
    fn positions(&self, frames: FrameRange) -> Range<u32> {
        let (run, first) = self.runs.iter().find(|(run, _)| run.covers(frames)).expect("frames of this area");
        let start = first + (frames.start() - run.start());
        start..start + frames.count()
    }

    // --- states of frames ---

    /// Notes that no allocation can have these frames from now on, or that one can again.
    pub(crate) fn set_held(&mut self, frames: FrameRange, held: bool) {
        let Range { start, end } = self.positions(frames);
        let (mut mask, mut left) = (u32::MAX << (start % 32), end - start / 32 * 32);
        for block in &mut self.blocks[start as usize / 32..] {
            if left < 32 {
                mask &= !(u32::MAX << left);
            }
            // Most frames are not lent.
            if block.lent & mask != 0 {
                let others = self.lent_available - (block.lent & mask & !block.held).count_ones();
                self.lent_available = others + if held { 0 } else { (block.lent & mask).count_ones() };
            }
            block.held = if held { block.held | mask } else { block.held & !mask };
            if left <= 32 {
                break;
            }
            (mask, left) = (u32::MAX, left - 32);
        }
    }

    /// Returns whether a frame is held: no allocation can have it, lent or not.
    pub(crate) fn is_held(&self, frame: u32) -> bool {
        let at = self.positions(one(frame)).start;
        self.blocks[at as usize / 32].held & 1 << (at % 32) != 0
    }

    /// Notes that frames are open, or are not any more. An open frame is in no window of an allocation.
    pub(super) fn set_open(&mut self, frames: FrameRange, open: bool) {
        for (block, mask) in masks(self.positions(frames)) {
            let block = &mut self.blocks[block];
            block.open = block.open & !mask | if open { mask } else { 0 };
        }
    }

    /// Returns a frame of `window` that is open.
    pub(crate) fn open_in(&self, window: FrameRange) -> Option<u32> {
        let range = self.positions(window);
        let at = self.next(range.start, range.end, |block| block.open);
        (at < range.end).then(|| window.start() + (at - range.start))
    }

    /// Notes that caches may hold lines of these lent frames.
    pub(crate) fn set_cached(&mut self, frames: FrameRange) {
        for (block, mask) in masks(self.positions(frames)) {
            self.blocks[block].set_cached(mask);
        }
    }

    // --- tenants ---

    /// Returns who has a frame.
    pub(super) fn tenant(&self, frame: u32) -> Tenant {
        self.tenants[self.positions(one(frame)).start as usize]
    }

    /// Returns who has each of these frames.
    pub(super) fn tenants(&self, frames: FrameRange) -> &[Tenant] {
        let Range { start, end } = self.positions(frames);
        &self.tenants[start as usize..end as usize]
    }

    /// Returns the tenants of these frames, to be changed. Whoever changes them also calls [`enter`](Self::enter) or
    /// [`leave`](Self::leave), so that the two agree.
    pub(super) fn tenants_mut(&mut self, frames: FrameRange) -> &mut [Tenant] {
        let Range { start, end } = self.positions(frames);
        &mut self.tenants[start as usize..end as usize]
    }

    /// Gives the frames `to` the tenants of `from`, which are as many.
    pub(super) fn copy_tenants(&mut self, from: FrameRange, to: FrameRange) {
        let (from, to) = (self.positions(from), self.positions(to));
        self.tenants.copy_within(from.start as usize..from.end as usize, to.start as usize);
    }

    /// Notes that frames are lent. The caller enters their tenants.
    pub(super) fn enter(&mut self, frames: FrameRange, kind: PageKind, high: bool, cached: bool) {
        for (block, mask) in masks(self.positions(frames)) {
            let block = &mut self.blocks[block];
            self.lent += mask.count_ones();
            self.lent_available += (mask & !block.held).count_ones();
            block.enter(mask, kind, high, cached);
        }
    }

    /// Notes that frames are not lent any more. The caller takes their tenants.
    pub(super) fn leave(&mut self, frames: FrameRange) {
        for (block, mask) in masks(self.positions(frames)) {
            let block = &mut self.blocks[block];
            self.lent -= (block.lent & mask).count_ones();
            self.lent_available -= (block.lent & mask & !block.held).count_ones();
            block.leave(mask);
        }
    }

    /// Recalls what is lent of `window`, which is held and of which nothing is open. Calls `each` with every tenant,
    /// and whether it is to be moved. A tenant that is to be moved stays until then; the others leave.
    pub(super) fn recall(&mut self, window: FrameRange, mut each: impl FnMut(Tenant, bool)) {
        for (n, mask) in masks(self.positions(window)) {
            let block = &mut self.blocks[n];
            debug_assert!(block.open & mask == 0 && block.held & mask == mask, "held, and not open");
            let forgotten = block.forgotten() & mask;
            block.leave(forgotten);
            self.lent -= forgotten.count_ones();
            let moving = block.lent & mask;
            let tenants = &mut self.tenants[n * 32..];
            if forgotten == u32::MAX {
                // Most blocks of a large window: no bit need be found.
                tenants.iter_mut().take(32).for_each(|tenant| each(mem::replace(tenant, Tenant::NONE), false));
            } else {
                bits_of(forgotten).for_each(|bit| each(mem::replace(&mut tenants[bit], Tenant::NONE), false));
            }
            for bit in bits_of(moving) {
                each(self.tenants[n * 32 + bit], true);
            }
        }
    }

    // --- runs of frames ---

    /// Returns whether a run of the area begins with a frame. Two runs may touch in number, and be two banks.
    pub(super) fn is_run_start(&self, frame: u32) -> bool {
        self.runs.iter().any(|(run, _)| run.start() == frame)
    }

    /// Returns the first position of `[from, to)` whose bit is set in what `bits` makes of its block, or else `to`.
    fn next(&self, from: u32, to: u32, bits: impl Fn(&FrameBits) -> u32) -> u32 {
        if from >= to {
            return to;
        }
        let mut wanted = u32::MAX << (from % 32);
        for (n, block) in (from / 32..).zip(&self.blocks[from as usize / 32..to.div_ceil(32) as usize]) {
            let word = bits(block) & wanted;
            if word != 0 {
                return (n * 32 + word.trailing_zeros()).min(to);
            }
            wanted = u32::MAX;
        }
        to
    }

    /// Yields the runs of positions in a range whose bits are set in what `bits` makes of their blocks.
    fn runs_of<'s>(
        &'s self,
        range: Range<u32>,
        bits: impl Fn(&FrameBits) -> u32 + Copy + 's,
    ) -> impl Iterator<Item = Range<u32>> + 's {
        let mut from = range.start;
        iter::from_fn(move || {
            let start = self.next(from, range.end, bits);
            from = self.next(start, range.end, move |block| !bits(block));
            (start < range.end).then_some(start..from)
        })
    }

    /// Calls `each` with the runs of `window` that are not lent, in order.
    pub(crate) fn for_each_unlent(&self, window: FrameRange, mut each: impl FnMut(FrameRange)) {
        let range = self.positions(window);
        for run in self.runs_of(range.clone(), |block| !block.lent) {
            let start = window.start() + (run.start - range.start);
            each(FrameRange::new(start, run.end - run.start).expect("inside the area"));
        }
    }

    /// Returns the first run of `window` that is lent, cut to at most `most` frames.
    pub(crate) fn first_lent(&self, window: FrameRange, most: u32) -> Option<FrameRange> {
        let range = self.positions(window);
        let first = self.next(range.start, range.end, |block| block.lent);
        if first == range.end {
            return None;
        }
        let end = self.next(first, range.end.min(first + most), |block| !block.lent);
        FrameRange::new(window.start() + (first - range.start), end - first)
    }

    /// Calls `each` with the runs of frames that an allocation can have: they are idle or lent.
    pub(crate) fn for_each_available(&self, mut each: impl FnMut(FrameRange)) {
        for &(frames, first) in &self.runs {
            for run in self.runs_of(first..first + frames.count(), FrameBits::available) {
                let start = frames.start() + (run.start - first);
                each(FrameRange::new(start, run.end - run.start).expect("inside the area"));
            }
        }
    }

    /// Returns the length of the longest run in `place`, from a multiple of 2^`order` of the bus on, that an allocation
    /// can have.
    pub(crate) fn largest_available(&self, place: Reachable, order: u8) -> u32 {
        let range = self.positions(place.frames);
        if order > 0 {
            let runs = self.runs_of(range.clone(), FrameBits::available);
            let frame = |at: u32| place.frames.start() + (at - range.start);
            let length = |run: Range<u32>| frame(run.end).saturating_sub(place.align_up(frame(run.start), order));
            return runs.map(length).max().unwrap_or(0);
        }
        let (mut longest, mut before) = (0, 0);
        for (block, mask) in masks(range) {
            let mut bits = self.blocks[block].available() & mask;
            if bits == u32::MAX {
                before += 32;
                continue;
            }
            longest = longest.max(before + bits.trailing_ones());
            before = bits.leading_ones();
            // A run that touches neither end of the block is at most 30 long.
            while longest < 30 && bits != 0 {
                bits >>= bits.trailing_zeros();
                longest = longest.max(bits.trailing_ones());
                bits = bits.unbounded_shr(bits.trailing_ones());
            }
        }
        longest.max(before)
    }

    /// Returns an open frame without which `place` would hold such a window.
    pub(crate) fn barred_by_open(&self, place: Reachable, count: u32, order: u8) -> Option<Frame> {
        let range = self.positions(place.frames);
        let frame = |at: u32| place.frames.start() + (at - range.start);
        self.runs_of(range.clone(), |block| !block.held).find_map(|run| {
            let window = FrameRange::new(place.align_up(frame(run.start), order), count)?;
            let fits = window.end() <= frame(run.end);
            if fits { self.open_in(window).and_then(Frame::from_number) } else { None }
        })
    }

    // --- the search for a window ---

    /// Returns what a recall of these frames costs.
    pub(crate) fn cost(&self, frames: FrameRange) -> u32 {
        masks(self.positions(frames)).map(|(block, mask)| self.blocks[block].cost_of(mask)).sum()
    }

    /// Returns a window in `place` whose recall is cheap, and its cost: `count` frames from a multiple of 2^`order` of
    /// the bus on, all idle or lent and none open. Exact: there is none if this finds none.
    ///
    /// Up to 32 frames, it is the first window at the lowest [level](super::cost) that has one. For more, it is the
    /// cheapest of windows a block apart.
    pub(crate) fn search(&self, place: Reachable, count: u32, order: u8) -> Option<(FrameRange, u32)> {
        let Reachable { frames, .. } = place;
        if frames.count() < count {
            return None;
        }
        let range = self.positions(frames);
        let up = |at: u32| place.align_up(frames.start() + (at - range.start), order) - frames.start() + range.start;
        let found = if count <= 32 {
            // Level 0 is a constant, so that the compiler makes the most frequent search the fastest.
            let first = self.first_window(|block| block.but(const { Spared::at(0) }), range.clone(), count, up);
            first.or_else(|| {
                let present = self.levels_present(range.clone());
                let mut levels = (1..LEVELS).filter(|level| present & 1 << level != 0);
                levels.find_map(|level| {
                    let spared = Spared::at(level);
                    self.first_window(move |block| block.but(spared), range.clone(), count, up)
                })
            })
        } else {
            self.cheapest_window(range.clone(), count, order, up)
        };
        let start = frames.start() + (found? - range.start);
        let window = FrameRange::new(start, count)?;
        Some((window, self.cost(window)))
    }

    /// Returns the first run in `place` of loans that an allocation can have and that a recall forgets, at the lowest
    /// level that has one.
    pub(crate) fn first_forgotten(&self, place: FrameRange) -> Option<FrameRange> {
        let range = self.positions(place);
        (0..=FORGETS).find_map(|level| {
            let spared = Spared::at(level);
            let run = self.runs_of(range.clone(), move |block| block.lent & block.but(spared)).next()?;
            FrameRange::new(place.start() + (run.start - range.start), run.end - run.start)
        })
    }

    /// Returns the levels after the first, a bit each, at which there may be more than at those before. There need not
    /// be: loans in contract memory count too.
    fn levels_present(&self, range: Range<u32>) -> u32 {
        let blocks = &self.blocks[range.start as usize / 32..range.end.div_ceil(32) as usize];
        let levels = blocks.iter().fold(0, |levels, block| levels | block.levels);
        // Level 1 has no loans of level 2, nor the other way round. A window with loans of both is found at level 3.
        if levels & 0b110 == 0b110 { levels | 1 << 3 } else { levels }
    }

    /// Returns the first window of frames whose bits are set in what `allowed` makes of their blocks.
    fn first_window(
        &self,
        allowed: impl Fn(&FrameBits) -> u32 + Copy,
        range: Range<u32>,
        count: u32,
        up: impl Fn(u32) -> u32,
    ) -> Option<u32> {
        self.runs_of(range, allowed).find_map(|run| {
            let start = up(run.start);
            (start + count <= run.end).then_some(start)
        })
    }

    /// Returns the cheapest of some windows: of each run, the first window and those that begin with a block. A window
    /// counts with what its blocks cost in all, so that from one to the next one block leaves and one enters.
    ///
    /// An example: 40 frames are wanted, and positions 16 to 159 can be had.
    ///
    /// ```text
    ///     position       0       32      64      96      128     160
    ///     block's cost   |   32  |  704  |   64  |   64  |  448  |
    ///     first window       [16 ..... 55]                          32 + 704 = 736
    ///     with a block           [32 ..... 71]                      704 + 64 = 768
    ///                                    [64 ..... 103]              64 + 64 = 128, the cheapest
    ///                                            [96 ..... 135]     64 + 448 = 512
    /// ```
    fn cheapest_window(&self, range: Range<u32>, count: u32, order: u8, up: impl Fn(u32) -> u32) -> Option<u32> {
        let sum = |blocks: &[FrameBits]| blocks.iter().map(|block| block.cost).sum::<u32>();
        let blocks_of = |at: u32| at as usize / 32..(at + count).div_ceil(32) as usize;
        // The distance between two windows that begin with a block.
        let step = 32.max(1 << order);
        let mut best: Option<(u32, u32)> = None;
        for run in self.runs_of(range, FrameBits::available) {
            let Some(last) = run.end.checked_sub(count) else { continue };
            let first = up(run.start);
            let second = up((first / 32 + 1) * 32);
            for at in [first, second].into_iter().filter(|&at| at <= last) {
                let cost = sum(&self.blocks[blocks_of(at)]);
                if best.is_none_or(|(least, _)| cost < least) {
                    best = Some((cost, at));
                }
                // A window that is lent throughout costs no less, so this one is good enough.
                if cost <= blocks_of(at).len() as u32 * 32 * CHEAPEST {
                    return Some(at);
                }
            }
            if second > last {
                continue;
            }
            let Range { start, end } = blocks_of(second);
            let (mut cost, mut at) = (sum(&self.blocks[start..end]), second);
            let leaving = self.blocks[start..].chunks(step as usize / 32);
            for (leaving, entering) in leaving.zip(self.blocks[end..].chunks(step as usize / 32)) {
                at += step;
                if at > last {
                    break;
                }
                cost = cost + sum(entering) - sum(leaving);
                if best.is_none_or(|(least, _)| cost < least) {
                    best = Some((cost, at));
                }
            }
        }
        best.map(|(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of `cheapest_window`'s documentation.
    #[test]
    fn the_worked_example_of_the_cheapest_window_is_right() {
        let all = FrameRange::new(0x60000, 160).unwrap();
        let mut occupancy = Occupancy::new(iter::once(all).collect()).unwrap();
        let frames = |from: u32, to: u32| FrameRange::between(all.start() + from, all.start() + to).unwrap();
        occupancy.set_held(frames(16, 160), false);
        for (from, to, kind, cached) in [
            (16, 32, PageKind::Discardable, false),
            (32, 64, PageKind::Movable, false),
            (64, 128, PageKind::Discardable, false),
            (128, 160, PageKind::Discardable, true),
        ] {
            occupancy.enter(frames(from, to), kind, false, cached);
        }
        let costs: Vec<_> = occupancy.blocks.iter().map(|block| block.cost).collect();
        assert_eq!(costs, [32, 704, 64, 64, 448]);
        let found = occupancy.search(Reachable::unshifted(all), 40, 0);
        assert_eq!(found, Some((frames(64, 104), 80)));
    }
}
