//! The runs of an area: one for each range of its carve-out, with the indexes of its free frames.
//!
//! Guarantees: a frame is free in one index of its run at most. The indexes lie on the heap and are never given back.

use crate::addr::FrameRange;
use crate::cma::extent::Extent;
use crate::cma::index::{Index, Node};
use crate::cma::reach::Reachable;
use crate::heap::filled;
use alloc::collections::TryReserveError;
use core::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

/// Keeps which frames of a run are free.
#[derive(Debug)]
pub(super) struct AreaRun {
    pub(super) frames: FrameRange,
    /// Frames that are neither held, lent, being zeroed, nor a contract's.
    pub(super) idle: Index<'static>,
    /// A range that holds all frames that became idle since idle time last went through it.
    pub(super) unseen: Range<u32>,
    /// Frames of idle contract slots that are not lent. It exists once a contract does, if the area is lendable.
    pub(super) spare: Option<Index<'static>>,
}

impl AreaRun {
    /// Makes a run whose frames are all idle.
    pub(super) fn new(frames: FrameRange) -> Result<Self, TryReserveError> {
        let idle = heap_index(frames)?;
        Ok(Self { frames, unseen: idle.units(), idle, spare: None })
    }

    /// Makes a run of which no frame is idle.
    pub(super) fn taken(frames: FrameRange) -> Result<Self, TryReserveError> {
        Ok(Self { frames, unseen: 0..0, idle: taken_index(frames)?, spare: None })
    }

    /// Has idle time go through these frames.
    #[inline]
    pub(super) fn note_unseen(&mut self, frames: FrameRange) {
        let Range { start, end } = self.unseen;
        self.unseen =
            if start < end { start.min(frames.start())..end.max(frames.end()) } else { frames.start()..frames.end() };
    }

    /// Returns the index of idle frames, or (`contracted`) that of idle contract slots' frames.
    pub(super) fn index_mut(&mut self, contracted: bool) -> &mut Index<'static> {
        if contracted { self.spare.as_mut().expect("made with the first contract") } else { &mut self.idle }
    }

    /// Makes the index of idle contract slots' frames, of none yet, if there is none.
    pub(super) fn prepare_spare(&mut self) -> Result<(), TryReserveError> {
        if self.spare.is_none() {
            self.spare = Some(taken_index(self.frames)?);
        }
        Ok(())
    }
}

/// Returns the nodes of the index of a run, or `None` if the run is empty. No run has more than an index holds.
pub(super) fn nodes(frames: FrameRange) -> Option<usize> {
    Index::nodes_needed(frames.start(), frames.count())
}

/// Makes an index whose nodes are taken from the heap for good.
///
/// # Panics
///
/// If there are no frames. The ledger refuses such a run.
fn heap_index(frames: FrameRange) -> Result<Index<'static>, TryReserveError> {
    let (first, units) = (frames.start(), frames.count());
    let nodes = nodes(frames).expect("a run of some frames");
    // Words are filled by one call of a function that fills memory, and nodes by one each.
    let words = filled(nodes * (size_of::<Node>() / size_of::<u32>()), 0u32)?.leak();
    let nodes = <[Node]>::mut_from_bytes(words.as_mut_bytes()).ok().expect("whole nodes, aligned as words are");
    Ok(Index::new(first, units, nodes).ok().expect("storage as large as asked for"))
}

/// Makes an index as [`heap_index`] does, of which nothing is free.
fn taken_index(frames: FrameRange) -> Result<Index<'static>, TryReserveError> {
    let mut index = heap_index(frames)?;
    index.take(frames.start(), frames.count()).ok().expect("a fresh index is free");
    Ok(index)
}

/// Frees frames that were taken: they are idle, or (`contracted`) an idle contract slot's.
pub(super) fn free_in(runs: &mut [AreaRun], extent: Extent, contracted: bool) {
    let (run, frames) = (&mut runs[extent.run()], extent.frames());
    if !contracted {
        run.note_unseen(frames);
    }
    let index = run.index_mut(contracted);
    index.free(frames.start(), frames.count()).ok().expect("frames that were taken");
}

/// Returns the length of the longest free run in `place` from a multiple of 2^`order` of the bus on, if that is more
/// than `known`. Else returns `known`.
pub(super) fn largest_in(index: &mut Index<'_>, place: Reachable, order: u8, known: u32) -> u32 {
    // At least `least`, at most `most`. What has a run of so many has one of fewer.
    let (mut least, mut most) = (known, index.largest_run_in(place.frames.start()..place.frames.end()));
    while least < most {
        // The first look is whether there are more than are known at all.
        let count = if least == known { known + 1 } else { least + (most - least).div_ceil(2) };
        if place.has(index, count, order) { least = count } else { most = count - 1 }
    }
    least
}
