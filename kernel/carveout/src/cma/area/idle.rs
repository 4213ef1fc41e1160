//! Idle work: what is prepared while nobody asks, so that the next allocation touches no page and searches no index.
//!
//! Guarantees: it decides nothing. An allocation goes where it would without it, except round the few frames that
//! another core is zeroing. Frames are zeroed one run at a time.

use super::Area;
use super::run::AreaRun;
use crate::addr::FrameRange;
use crate::cma::extent::Extent;
use crate::cma::reserve::Known;

impl Area {
    /// Says how many frames are to be kept unlent while they are idle. With 0 nothing is prepared.
    pub(crate) const fn set_stock(&mut self, frames: u32) {
        self.reserve.stock = frames;
    }

    /// Returns whether anything is prepared.
    pub(crate) const fn prepares(&self) -> bool {
        self.reserve.stock > 0
    }

    /// Returns whether another core has frames in hand that an allocation may have soon: it zeroes them, or moves pages
    /// there. Meanwhile it has the work lane ([`crate::dma::loan`]). So whoever has the lane finds none.
    pub(crate) fn has_in_hand(&self) -> bool {
        self.reserve.zeroing.is_some() || self.lending.as_ref().is_some_and(|lending| lending.arriving() > 0)
    }

    /// Takes up to `most` frames that may not be zeroed yet: idle ones or, if fewer are idle than are to be, those of
    /// loans that are forgotten. They are nobody's until [`end_zeroing`](Self::end_zeroing). None is of the `warm`
    /// runs, which stay mapped.
    pub(crate) fn begin_zeroing(
        &mut self,
        most: u32,
        warm: &(impl Iterator<Item = FrameRange> + Clone),
    ) -> Option<Extent> {
        if self.reserve.stock == 0 {
            return None;
        }
        let next = |(number, run): (usize, &mut AreaRun)| {
            if run.unseen.is_empty() {
                return None;
            }
            let free = loop {
                let Some(free) = run.idle.first_run(run.unseen.clone()) else {
                    run.unseen = 0..0;
                    return None;
                };
                let is_at = |warm: &FrameRange| warm.start() <= free.start && free.start < warm.end();
                let Some(warm) = warm.clone().find(is_at) else { break free };
                run.unseen.start = warm.end().min(run.unseen.end);
                if run.unseen.is_empty() {
                    run.unseen = 0..0;
                    return None;
                }
            };
            let warm = warm.clone().map(FrameRange::start).filter(|&start| start > free.start);
            let end = warm.fold(free.end, u32::min);
            let count = most.min(end - free.start);
            run.unseen.start = free.start + count;
            run.idle.take(free.start, count).ok()?;
            Some(Extent::new(number, FrameRange::new(free.start, count)?))
        };
        let extent = if let Some(extent) = self.runs.iter_mut().enumerate().find_map(next) {
            self.hold(extent.frames());
            extent
        } else {
            let count = self.reserve.stock.saturating_sub(self.idle_frames()).min(most);
            if count == 0 {
                return None;
            }
            let lending = self.lending.as_ref()?;
            let mut forgotten = self.runs.iter().map(|run| lending.occupancy.first_forgotten(run.frames)).enumerate();
            let (number, found) = forgotten.find_map(|(number, found)| Some((number, found?)))?;
            let (frames, _) = found.split_at(count.min(found.count()))?;
            let extent = Extent::new(number, frames);
            let moves = self.take_window(extent);
            debug_assert!(!moves, "only loans that are forgotten");
            extent
        };
        self.reserve.zeroing = Some(extent);
        Some(extent)
    }

    /// Takes all frames of a run that stays mapped, until [`end_zeroing`](Self::end_zeroing). Returns whether there is
    /// anything to be prepared for.
    pub(crate) fn begin_zeroing_warm(&mut self, extent: Extent) -> bool {
        let frames = extent.frames();
        let taken = self.reserve.stock > 0 && self.runs[extent.run()].idle.take(frames.start(), frames.count()).is_ok();
        if taken {
            self.hold(frames);
            self.reserve.zeroing = Some(extent);
        }
        taken
    }

    /// Tells the indexes of the last changes, so that the next need not.
    pub(crate) fn settle(&mut self) {
        self.runs.iter_mut().for_each(|run| run.idle.settle());
    }

    /// Returns whether a request is foreseen for just these frames, as far as idle time has found places.
    pub(crate) fn foresees(&self, frames: FrameRange) -> bool {
        let mut kinds = self.reserve.kinds.iter();
        kinds.any(|kind| {
            kind.count == frames.count() && matches!(kind.foreseen, Some((_, Some(place))) if place == frames.start())
        })
    }

    /// Makes frames idle that were taken and are zeroed now.
    pub(crate) fn end_zeroing(&mut self, extent: Extent) {
        self.reserve.zeroing = None;
        let (frames, idle) = (extent.frames(), &mut self.runs[extent.run()].idle);
        idle.free(frames.start(), frames.count()).ok().expect("frames that were taken");
        if let Some(lending) = &mut self.lending {
            lending.occupancy.set_held(frames, false);
        }
    }

    /// Keeps the places that were found for kinds of request, where the changes since then leave them as they are.
    pub(crate) fn carry(&mut self) {
        for (number, run) in self.runs.iter_mut().enumerate() {
            let kinds = self.reserve.kinds.iter_mut().filter(|known| known.place.run() == number);
            run.idle.carry(kinds.map(|known| (known.count, known.order, &mut known.found)));
            for known in self.reserve.kinds.iter_mut().filter(|known| known.place.run() == number) {
                if let Some(found) = known.found {
                    known.foreseen = Some((run.idle.version(), Some(run.idle.place_of(found))));
                }
            }
        }
    }

    /// Finds the place for one of the kinds of request that came again. Returns whether one was left to do.
    pub(crate) fn foresee(&mut self) -> bool {
        if self.reserve.stock == 0 {
            return false;
        }
        for known in self.reserve.kinds.iter_mut().filter(|known| known.again) {
            let &mut Known { count, order, place, .. } = known;
            let (place, idle) = (place.frames(), &mut self.runs[place.run()].idle);
            if known.foreseen.is_none_or(|(version, _)| version != idle.version()) {
                known.found = idle.foresee(count, order, place.start()..place.end());
                known.foreseen = Some((idle.version(), known.found.map(|found| idle.place_of(found))));
                return true;
            }
        }
        false
    }
}
