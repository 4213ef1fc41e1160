//! Allocation: frames for a buffer, from what is idle or lent.
//!
//! Guarantees: it takes what is idle if that suffices, else the window whose loans cost least to recall. It fails only
//! if no window would do, and then says why. Nothing is zeroed, copied or waited for here.

use super::refusal::{AllocError, MAX_ALIGN, NoRun};
use super::{Area, Whose};
use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange};
use crate::cma::extent::Extent;
use crate::cma::reach::{Reach, Reachable};
use crate::cma::reserve::{Kind, Known};

/// What an allocation got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) extent: Extent,
    /// The frames are known to be zeroed.
    pub(crate) zeroed: bool,
    /// Loans among them are to be moved before their first use.
    pub(crate) moves: bool,
}

/// Returns an allocation's count of frames, and the order of its alignment in frames.
pub(crate) fn shape(bytes: u32, align: u32) -> Result<(u32, u8), AllocError> {
    if bytes == 0 {
        return Err(AllocError::ZeroSize);
    }
    if !align.is_power_of_two() || align > MAX_ALIGN {
        return Err(AllocError::Alignment { align });
    }
    Ok((bytes.div_ceil(FRAME_SIZE), (align.trailing_zeros().max(FRAME_SHIFT) - FRAME_SHIFT) as u8))
}

/// Returns the order of the alignment that a run should have where that costs nothing: 64 KiB from 64 KiB on, for large
/// pages and sections.
pub(super) const fn liked(count: u32, order: u8) -> u8 {
    if count >= 16 && order < 4 { 4 } else { order }
}

impl Area {
    /// Takes a run of frames for `bytes`, more than 0, aligned to `align` on the bus. The run lies in one of the places
    /// that `places` finds in a run of the area: what the device reaches of it, cut at its boundary. The first place
    /// that has room is taken. `kind` is the request's, if requests like it are to be remembered.
    #[inline]
    pub(crate) fn alloc<P: Iterator<Item = Reachable>>(
        &mut self,
        kind: Option<Kind>,
        bytes: u32,
        align: u32,
        places: impl Fn(FrameRange) -> P,
    ) -> Result<Taken, AllocError> {
        if let Some(taken) = kind.and_then(|kind| self.take_known(kind)) {
            return Ok(taken);
        }
        self.find(kind, bytes, align, places)
    }

    /// Takes what [`take_idle`](Self::take_idle) would take, if that is known.
    #[inline]
    fn take_known(&mut self, kind: Kind) -> Option<Taken> {
        let &mut Known { count, place, foreseen: Some((version, Some(start))), .. } = self.reserve.known(kind)? else {
            return None;
        };
        let run = self.runs.get_mut(place.run())?;
        if version != run.idle.version() {
            return None;
        }
        let frames = FrameRange::new(start, count)?;
        run.idle.take_found(start, count);
        let zeroed = run.unseen.is_empty();
        self.hold(frames);
        Some(Taken { extent: Extent::new(place.run(), frames), zeroed, moves: false })
    }

    #[inline(never)]
    fn find<P: Iterator<Item = Reachable>>(
        &mut self,
        kind: Option<Kind>,
        bytes: u32,
        align: u32,
        places: impl Fn(FrameRange) -> P,
    ) -> Result<Taken, AllocError> {
        let (count, order) = shape(bytes, align)?;
        let (wanted, free) = (u64::from(count) << FRAME_SHIFT, self.free_bytes());
        if free < wanted {
            return Err(self.too_little(wanted, free));
        }
        if let Some(kind) = kind.filter(|&kind| self.reserve.turn_to(kind))
            && let Some(taken) = self.take_known(kind)
        {
            return Ok(taken);
        }
        if let Some(extent) = self.take_idle(kind, count, order, &places) {
            let zeroed = self.runs[extent.run()].unseen.is_empty();
            self.hold(extent.frames());
            return Ok(Taken { extent, zeroed, moves: false });
        }
        match self.window(count, order, &places) {
            Some(extent) => Ok(Taken { extent, zeroed: false, moves: self.take_window(extent) }),
            None => Err(self.why_not(count, order, places)),
        }
    }

    /// Takes a run of idle frames, if there is one.
    fn take_idle<P: Iterator<Item = Reachable>>(
        &mut self,
        kind: Option<Kind>,
        count: u32,
        order: u8,
        places: impl Fn(FrameRange) -> P,
    ) -> Option<Extent> {
        let liked = liked(count, order);
        let found = self.take_aligned(kind, count, liked, order, &places);
        if found.is_some() || liked == order { found } else { self.take_aligned(None, count, order, order, &places) }
    }

    /// Takes a run of idle frames, aligned to `liked`, if there is one. Remembers it, if it is in the first place
    /// that is large enough.
    #[inline]
    fn take_aligned<P: Iterator<Item = Reachable>>(
        &mut self,
        mut kind: Option<Kind>,
        count: u32,
        liked: u8,
        order: u8,
        places: impl Fn(FrameRange) -> P,
    ) -> Option<Extent> {
        for (number, run) in self.runs.iter_mut().enumerate() {
            for place in places(run.frames).filter(|place| place.frames.count() >= count) {
                let version = run.idle.version();
                if let Some(start) = place.take(&mut run.idle, count, liked, order) {
                    if let Some(kind) = kind.filter(|_| place.keeps(order)) {
                        let place = Extent::new(number, place.frames);
                        self.reserve.remember(kind, (count, liked), place, (version, start));
                    }
                    return Some(Extent::new(number, FrameRange::new(start, count).expect("inside the area")));
                }
                kind = None;
            }
        }
        None
    }

    /// Returns the cheapest window of what is idle and lent, if anything is lent.
    fn window<P: Iterator<Item = Reachable>>(
        &self,
        count: u32,
        order: u8,
        places: impl Fn(FrameRange) -> P,
    ) -> Option<Extent> {
        let lending = self.lending.as_ref().filter(|lending| lending.occupancy.lent_available() > 0)?;
        let search = |place| lending.occupancy.search(place, count, order);
        let found = self.runs.iter().enumerate().filter_map(|(number, run)| {
            let (frames, cost) = places(run.frames).filter_map(search).min_by_key(|found| found.1)?;
            Some((Extent::new(number, frames), cost))
        });
        found.min_by_key(|found| found.1).map(|found| found.0)
    }

    /// Takes a window that is idle or lent. Returns whether loans in it are to be moved.
    pub(super) fn take_window(&mut self, extent: Extent) -> bool {
        self.hold(extent.frames());
        self.reclaim(extent, false)
    }

    /// Takes what is idle of these frames and recalls what is lent. Returns whether loans among them are to be moved.
    pub(super) fn reclaim(&mut self, extent: Extent, contracted: bool) -> bool {
        let (frames, index) = (extent.frames(), self.runs[extent.run()].index_mut(contracted));
        let mut take = |unlent: FrameRange| {
            index.take(unlent.start(), unlent.count()).ok().expect("frames that are idle");
        };
        let Some(lending) = &mut self.lending else {
            take(frames);
            return false;
        };
        lending.occupancy.for_each_unlent(frames, take);
        lending.recall(frames)
    }

    /// Notes that no other allocation can have these frames.
    pub(super) fn hold(&mut self, frames: FrameRange) {
        if let Some(lending) = &mut self.lending {
            lending.occupancy.set_held(frames, true);
        }
    }

    /// Says why there is no room where too little is free.
    #[cold]
    pub(super) fn too_little(&self, wanted: u64, free: u64) -> AllocError {
        match self.whose {
            Whose::Ours => AllocError::NoCapacity { wanted, free },
            Whose::Kernels | Whose::Between => AllocError::NotTaken,
        }
    }

    /// Says why there is no room, although enough is idle or lent.
    #[cold]
    fn why_not<P: Iterator<Item = Reachable>>(
        &mut self,
        count: u32,
        order: u8,
        places: impl Fn(FrameRange) -> P,
    ) -> AllocError {
        let wanted = u64::from(count) << FRAME_SHIFT;
        let lending = self.lending.as_ref().filter(|lending| lending.occupancy.lent_available() > 0);
        let elsewhere = if let Some(lending) = lending {
            let barred = |place| lending.occupancy.barred_by_open(place, count, order);
            if let Some(frame) = self.runs.iter().find_map(|run| places(run.frames).find_map(barred)) {
                return AllocError::Open { wanted, frame: frame.base() };
            }
            self.runs
                .iter()
                .any(|run| lending.occupancy.search(Reachable::unshifted(run.frames), count, order).is_some())
        } else {
            self.runs.iter_mut().any(|run| Reachable::unshifted(run.frames).has(&mut run.idle, count, order))
        };
        let (free, largest, any) = (self.free_bytes(), self.largest_of(order, places), self.largest_run());
        let no_run = NoRun { wanted, align: FRAME_SIZE << order, reach: Reach::ALL, free, largest, any };
        no_run.refusal(elsewhere)
    }

    /// Gives a run back.
    ///
    /// # Panics
    ///
    /// If the frames are not the area's or not taken: a run is given back once, by the one value that owns it.
    #[inline]
    pub(crate) fn give_back(&mut self, extent: Extent) {
        self.note_unseen(extent);
        self.give_back_seen(extent);
    }

    /// Has idle time go through these frames: some of them may not be zeroed.
    #[inline]
    pub(crate) fn note_unseen(&mut self, extent: Extent) {
        self.runs[extent.run()].note_unseen(extent.frames());
    }

    /// Gives a run back that stays mapped. Idle time zeroes it through that mapping.
    ///
    /// # Panics
    ///
    /// As [`give_back`](Self::give_back).
    #[inline]
    pub(crate) fn give_back_seen(&mut self, extent: Extent) {
        let frames = extent.frames();
        let idle = &mut self.runs[extent.run()].idle;
        idle.free(frames.start(), frames.count()).ok().expect("frames that were taken");
        if let Some(lending) = &mut self.lending {
            lending.occupancy.set_held(extent.frames(), false);
        }
    }
}
