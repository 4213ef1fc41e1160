//! Who has the frames of an area, for reports.
//!
//! Guarantees: a report changes nothing. It is told which idle frames are warm and which frames are idle contract
//! slots, for others keep these.

use super::{Area, Whose};
use crate::addr::{Frame, FrameRange};

/// Says who has a frame of an area.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Occupant {
    /// A buffer has it, or had it until it went into quarantine. It may also be on its way to a buffer, or wait for a
    /// page that is being moved there.
    Held,
    /// Idle time zeroes it. It is nobody's until that is done.
    Zeroing,
    /// A contract keeps it for a buffer that is not allocated now.
    Contract,
    /// A borrower has it. It may be of an idle contract slot, too.
    Lent,
    /// It is idle, and the mapping of its last buffer waits for the next one.
    Warm,
    /// It is idle, and nothing maps it.
    Idle,
    /// The kernel has it, and the whole area: [`Dma::take_area`](crate::dma::Dma::take_area) was not called yet, or the
    /// area was given back.
    Kernel,
}

impl Occupant {
    /// All of them, in the order in which they stand between a device and the memory.
    pub const ALL: [Self; 7] =
        [Self::Held, Self::Zeroing, Self::Contract, Self::Lent, Self::Warm, Self::Idle, Self::Kernel];
}

impl Area {
    /// Returns who has the first of some frames, which are of one run, and how many of them from the first on it has at
    /// least. `warm` and `slots` are the frames of warm buffers and of idle contract slots, in any order. Frames of
    /// other areas may be among them.
    pub(crate) fn occupant(
        &mut self,
        frames: FrameRange,
        warm: impl Iterator<Item = FrameRange>,
        slots: impl Iterator<Item = FrameRange>,
    ) -> (Occupant, u32) {
        if self.whose != Whose::Ours {
            return (Occupant::Kernel, frames.count());
        }
        let first_of = |runs: &mut dyn Iterator<Item = FrameRange>| {
            runs.map(|run| run.intersection(frames)).filter(|run| !run.is_empty()).min_by_key(|run| run.start())
        };
        let idle = self.runs.iter_mut().find(|run| run.frames.covers(frames)).and_then(|run| {
            let free = run.idle.first_run(frames.start()..frames.end())?;
            FrameRange::between(free.start, free.end)
        });
        let lent = self.lending.as_ref().and_then(|lending| lending.occupancy.first_lent(frames, frames.count()));
        // An earlier one is more than a later one says: a slot's frame may be lent, and a warm one is idle.
        let found = [
            (Occupant::Zeroing, first_of(&mut self.reserve.zeroing.iter().map(|extent| extent.frames()))),
            (Occupant::Lent, lent),
            (Occupant::Warm, first_of(&mut warm.into_iter())),
            (Occupant::Idle, idle),
            (Occupant::Contract, first_of(&mut slots.into_iter())),
        ];
        let mut end = frames.end();
        for (occupant, run) in found {
            let Some(run) = run else { continue };
            if Frame::from_number(frames.start()).is_some_and(|first| run.contains(first)) {
                return (occupant, end.min(run.end()) - frames.start());
            }
            end = end.min(run.start());
        }
        (Occupant::Held, end - frames.start())
    }
}
