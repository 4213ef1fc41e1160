//! Idle work: what is prepared while nobody asks, so that the next allocation touches no page and searches no index.
//!
//! Guarantees: it decides nothing. An allocation goes where it would without it, except round the few frames that
//! another core is zeroing. Frames are zeroed one run at a time.

use super::Area;
use super::run::AreaRun;
use crate::addr::FrameRange;
use crate::cma::extent::Extent;
use crate::cma::reserve::Request;

impl Area {
    /// Says how many frames are to be kept unlent while they are idle. With 0 nothing is prepared.
    pub(crate) const fn set_stock(&mut self, frames: u32) {
        self.reserve.stock = frames;
    }

    /// Returns whether another core has frames in hand that an allocation may have soon: it zeroes them, or moves pages
    /// there. Meanwhile it has the work lane ([`crate::dma::loan`]). So whoever has the lane finds none.
    pub(crate) fn has_in_hand(&self) -> bool {
        self.reserve.zeroing.is_some() || self.lending.as_ref().is_some_and(|lending| lending.arriving() > 0)
    }

    /// Takes up to `most` frames that may not be zeroed yet: idle ones or, if fewer are idle than are to be, those of
    /// loans that are forgotten. They are nobody's until [`end_zeroing`](Self::end_zeroing).
    pub(crate) fn begin_zeroing(&mut self, most: u32) -> Option<Extent> {
        if self.reserve.stock == 0 {
            return None;
        }
        let next = |(number, run): (usize, &mut AreaRun)| {
            let Some(free) = run.idle.first_run(run.unseen.clone()) else {
                run.unseen = 0..0;
                return None;
            };
            let count = most.min(free.end - free.start);
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

    /// Makes frames idle that were taken and are zeroed now.
    pub(crate) fn end_zeroing(&mut self, extent: Extent) {
        self.reserve.zeroing = None;
        let (frames, idle) = (extent.frames(), &mut self.runs[extent.run()].idle);
        idle.free(frames.start(), frames.count()).ok().expect("frames that were taken");
        if let Some(lending) = &mut self.lending {
            lending.occupancy.set_held(frames, false);
        }
    }

    /// Finds the place for one of the kinds of request that are remembered. Returns whether one was left to do.
    pub(crate) fn foresee(&mut self) -> bool {
        if self.reserve.stock == 0 {
            return false;
        }
        for kind in &mut self.reserve.kinds {
            let Request { count, order, place } = kind.request;
            let (place, idle) = (place.frames(), &mut self.runs[place.run()].idle);
            if kind.foreseen.is_none_or(|(version, _)| version != idle.version()) {
                kind.foreseen = Some((idle.version(), idle.find(count, order, place.start()..place.end())));
                return true;
            }
        }
        false
    }
}
