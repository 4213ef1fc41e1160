//! Contract slots: frames that are one contract's until it ends (I7).
//!
//! Guarantees: a slot's frames go to nobody else's allocation, lent or not. A plan changes nothing. To take a planned
//! slot cannot fail, because all that lies in it is idle or lent.

use super::Area;
use super::alloc::liked;
use super::refusal::{AllocError, NoRun};
use super::run::{AreaRun, free_in, largest_in};
use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange};
use crate::carve_out::CarveOut;
use crate::cma::extent::Extent;
use crate::cma::index::{Index, Node};
use crate::cma::reach::{Reach, Reachable};
use crate::heap::{filled, room};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use arrayvec::ArrayVec;

/// Why a contract's slots were not planned.
#[derive(Debug)]
pub(crate) enum PlanError {
    /// The heap has no room to plan them in.
    Heap,
    /// The slot of this number has no place.
    Slot(usize, AllocError),
    /// The slot of this number cannot have the place that was chosen for it.
    Place(usize),
}

impl From<TryReserveError> for PlanError {
    fn from(_: TryReserveError) -> Self {
        Self::Heap
    }
}

/// A slot that is to be planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) frames: u32,
    /// The order of its alignment in frames.
    pub(crate) order: u8,
    /// The number of its first frame, if that is chosen already.
    pub(crate) at: Option<u32>,
}

impl Area {
    /// Finds disjoint runs for buffers of these shapes, in the order given: where they could be once all loans are
    /// recalled. Changes nothing, but takes scratch memory from the heap.
    pub(crate) fn plan<P: Iterator<Item = Reachable>>(
        &mut self,
        shapes: &[Wanted],
        places: impl Fn(FrameRange) -> P,
    ) -> Result<Vec<Extent>, PlanError> {
        let mut nodes: ArrayVec<Vec<Node>, { CarveOut::RANGES }> = ArrayVec::new();
        for run in &self.runs {
            let needed = Index::nodes_needed(run.frames.start(), run.frames.count()).expect("as its own index");
            nodes.push(filled(needed, Node::EMPTY)?);
        }
        let mut scratch: ArrayVec<(FrameRange, Index<'_>), { CarveOut::RANGES }> = ArrayVec::new();
        for (run, nodes) in self.runs.iter().zip(&mut nodes) {
            let (start, count) = (run.frames.start(), run.frames.count());
            let mut index = Index::new(start, count, nodes).ok().expect("storage as large as asked for");
            index.take(start, count).ok().expect("a fresh index is free");
            scratch.push((run.frames, index));
        }
        self.for_each_available(|frames| {
            let (_, index) = scratch.iter_mut().find(|(run, _)| run.covers(frames)).expect("frames of this area");
            index.free(frames.start(), frames.count()).ok().expect("each frame is available once");
        });
        let mut planned = room(shapes.len())?;
        for (n, &Wanted { frames: count, order, at }) in shapes.iter().enumerate() {
            if let Some(start) = at {
                let chosen = FrameRange::new(start, count).ok_or(PlanError::Place(n))?;
                let fits = |place: Reachable| place.frames.covers(chosen) && place.align_up(start, order) == start;
                let (number, (_, index)) = scratch
                    .iter_mut()
                    .enumerate()
                    .find(|(_, (run, _))| places(*run).any(fits))
                    .ok_or(PlanError::Place(n))?;
                index.take(start, count).map_err(|_| PlanError::Place(n))?;
                planned.push(Extent::new(number, chosen));
                continue;
            }
            let liked = liked(count, order);
            let mut find = |liked| {
                scratch.iter_mut().enumerate().find_map(|(number, (run, index))| {
                    Some((number, places(*run).find_map(|place| place.take(index, count, liked, order))?))
                })
            };
            let found = find(liked).or_else(|| find(order));
            let Some((number, start)) = found else {
                let wanted = u64::from(count) << FRAME_SHIFT;
                let free = scratch.iter().map(|(_, index)| u64::from(index.free_units())).sum::<u64>() << FRAME_SHIFT;
                if free < wanted {
                    return Err(PlanError::Slot(n, self.too_little(wanted, free)));
                }
                let anywhere = |(run, index): &mut (FrameRange, _)| Reachable::unshifted(*run).has(index, count, order);
                let elsewhere = scratch.iter_mut().any(anywhere);
                let any = scratch.iter_mut().map(|(_, index)| u64::from(index.largest_run())).max().unwrap_or(0);
                let mut largest = 0;
                for (run, index) in &mut scratch {
                    largest = places(*run).fold(largest, |largest, place| largest_in(index, place, order, largest));
                }
                let (largest, any) = (u64::from(largest) << FRAME_SHIFT, any << FRAME_SHIFT);
                let no_run = NoRun { wanted, align: FRAME_SIZE << order, reach: Reach::ALL, free, largest, any };
                return Err(PlanError::Slot(n, no_run.refusal(elsewhere)));
            };
            planned.push(Extent::new(number, FrameRange::new(start, count).expect("inside the area")));
        }
        Ok(planned)
    }

    /// Takes from the heap what an area with contracts needs, if it has not.
    pub(crate) fn prepare_slots(&mut self) -> Result<(), TryReserveError> {
        if !self.is_lendable() {
            return Ok(());
        }
        self.runs.iter_mut().try_for_each(AreaRun::prepare_spare)
    }

    /// Takes planned runs for a contract's slots, until [`end_slot`](Self::end_slot). The area is
    /// [prepared](Self::prepare_slots). Returns whether loans in them are to be moved.
    pub(crate) fn take_planned(&mut self, planned: &[Extent]) -> bool {
        planned.iter().fold(false, |moves, &extent| self.take_window(extent) | moves)
    }

    /// Gives a slot its frames back, none of them lent. From now on they may be.
    pub(crate) fn give_slot_back(&mut self, extent: Extent) {
        if self.is_lendable() {
            free_in(&mut self.runs, extent, true);
        }
    }

    /// Takes an idle slot's frames, and recalls what is lent of them. Returns whether loans among them are to be moved.
    pub(crate) fn take_slot(&mut self, extent: Extent) -> bool {
        self.is_lendable() && self.reclaim(extent, true)
    }

    /// Returns what a recall of an idle slot's loans costs, or `None` while a page of them is open for a bounded copy.
    pub(crate) fn slot_cost(&self, frames: FrameRange) -> Option<u32> {
        let Some(lending) = &self.lending else { return Some(0) };
        if lending.occupancy.open_in(frames).is_some() { None } else { Some(lending.occupancy.cost(frames)) }
    }

    /// Notes that one more caller waits for a slot without open pages, or (`false`) that one has stopped. While anybody
    /// waits, no page of a slot is opened.
    pub(crate) fn await_slots(&mut self, waits: bool) {
        if let Some(lending) = &mut self.lending {
            lending.await_slots(waits);
        }
    }

    /// Ends an idle slot: its frames are anybody's, and what is lent of them stays lent.
    pub(crate) fn end_slot(&mut self, extent: Extent) {
        let (lendable, runs) = (self.is_lendable(), &mut self.runs);
        let mut free = |unlent: FrameRange| {
            if lendable {
                let spare = runs[extent.run()].index_mut(true);
                spare.take(unlent.start(), unlent.count()).ok().expect("frames of an idle slot");
            }
            free_in(runs, Extent::new(extent.run(), unlent), false);
        };
        let frames = extent.frames();
        match &mut self.lending {
            Some(lending) => {
                lending.occupancy.for_each_unlent(frames, free);
                lending.occupancy.set_held(frames, false);
            }
            None => free(frames),
        }
    }
}
