//! The reserve: idle frames set apart, zeroed, with no line cached, so that a typical allocation touches no page.
//!
//! Guarantees: its frames are taken in the area's index and never lent; it holds at most its stock; looking for a run in
//! it costs the same whatever the area's size, for it is a few extents.

use crate::addr::FrameRange;
use arrayvec::ArrayVec;

/// Extents it can hold: what would make more of them goes back to the area, zeroed as it is.
const EXTENTS: usize = 16;

/// Frames set apart.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    /// Frames wanted.
    stock: u32,
    extents: ArrayVec<FrameRange, EXTENTS>,
}

impl Reserve {
    pub(crate) const fn set_stock(&mut self, frames: u32) {
        self.stock = frames;
    }

    /// Frames in it.
    pub(crate) fn frames(&self) -> u32 {
        self.extents.iter().map(|extent| extent.count()).sum()
    }

    /// Frames short of the stock.
    pub(crate) fn missing(&self) -> u32 {
        self.stock.saturating_sub(self.frames())
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    pub(crate) fn extents(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.extents.iter().copied()
    }

    /// Adds a run. What it touches of the same run of the area, as `joins` says, becomes one extent with it. Given back
    /// if there are too many extents.
    pub(crate) fn add(&mut self, mut run: FrameRange, joins: impl Fn(u32) -> bool) -> Result<(), FrameRange> {
        while let Some(n) = self.extents.iter().position(|extent| {
            extent.end() == run.start() && joins(run.start()) || run.end() == extent.start() && joins(run.end())
        }) {
            let other = self.extents.swap_remove(n);
            let (start, end) = (run.start().min(other.start()), run.end().max(other.end()));
            run = FrameRange::between(start, end).expect("two runs that touch");
        }
        self.extents.try_push(run).map_err(arrayvec::CapacityError::element)
    }

    /// Takes `count` frames from a multiple of 2^`order`, inside one of the `places` of an extent: from the smallest
    /// extent that has them. `spill` gets what would be an extent too many.
    pub(crate) fn take<P: Iterator<Item = FrameRange>>(
        &mut self,
        count: u32,
        order: u32,
        places: impl Fn(FrameRange) -> P,
        mut spill: impl FnMut(FrameRange),
    ) -> Option<FrameRange> {
        let fit = |place: FrameRange| {
            let start = u64::from(place.start()).next_multiple_of(1 << order);
            (start + u64::from(count) <= place.end().into()).then_some(start as u32)
        };
        let fits = self.extents.iter().enumerate().filter(|(_, extent)| extent.count() >= count);
        let found = fits.filter_map(|(n, &extent)| Some((n, extent, places(extent).find_map(fit)?)));
        let (n, extent, start) = found.min_by_key(|(_, extent, _)| extent.count())?;
        self.extents.swap_remove(n);
        let taken = FrameRange::new(start, count)?;
        for left in [(extent.start(), taken.start()), (taken.end(), extent.end())] {
            let left = FrameRange::between(left.0, left.1).expect("a part of the extent");
            if !left.is_empty()
                && let Err(full) = self.extents.try_push(left)
            {
                spill(full.element());
            }
        }
        Some(taken)
    }

    /// Empties it.
    pub(crate) fn dissolve(&mut self, mut each: impl FnMut(FrameRange)) {
        self.extents.drain(..).for_each(&mut each);
    }
}
