//! An area: the frames of one carve-out and which of them are free.
//!
//! Guarantees: only a [`CarveOut`] becomes an area (I2). Frames given out are the caller's alone until they are given
//! back. A refusal says why and takes nothing from anybody. The indexes of free frames stand outside the carved memory,
//! which nobody can read while it is idle.
//!
//! Each frame is one of:
//!
//! - held by a buffer;
//! - idle;
//! - being zeroed in idle time, and nobody's until that is done;
//! - [lent](super::loan);
//! - a contract slot's, and then held, idle or lent for that slot alone;
//! - the kernel's, and then all of them are.
//!
//! The parts, each with what it does for the area:
//!
//! - `refusal`: why it gave nothing;
//! - `run`: the indexes of its free frames;
//! - `alloc`: buffers' frames, from what is idle or else from the cheapest window of what is idle and lent;
//! - `slots`: contracts' frames;
//! - `borrow`: frames for loans, and where their pages move;
//! - `idle`: what idle time prepares. It zeroes frames where they lie, and finds places for the last kinds of request;
//! - `occupant`: who has a frame, for reports;
//! - `whose`: the area comes from the kernel, and goes back to it.

mod alloc;
#[cfg(feature = "loans")]
mod borrow;
mod idle;
mod occupant;
mod refusal;
mod run;
mod slots;
mod whose;

#[cfg(all(test, loom, feature = "loans"))]
mod interleavings;
#[cfg(all(test, not(loom), feature = "loans"))]
mod tests;

pub(crate) use self::alloc::{Taken, shape};
pub use occupant::Occupant;
pub use refusal::{AllocError, MAX_ALIGN, NoRun};
pub(crate) use slots::{PlanError, Wanted};
pub(crate) use whose::Whose;

use crate::addr::{FRAME_SHIFT, Frame, FrameRange};
use crate::carve_out::CarveOut;
use crate::cma::index::Node;
use crate::cma::loan::Lending;
use crate::cma::reach::Reachable;
use crate::cma::reserve::Reserve;
use crate::heap::room;
use crate::name::Name;
use ::alloc::collections::TryReserveError;
use ::alloc::vec::Vec;
use run::{AreaRun, largest_in};

/// Keeps who has which frames of one carve-out.
///
/// ```
/// use carveout::cma::Area;
/// # use carveout::{addr::FrameRange, carve_out::CarveOut};
/// # let bank = FrameRange::within(0x6400_0000, 64 << 20);
/// # // SAFETY: nothing maps these addresses, and nothing here accesses them (I2).
/// # let carved = unsafe { CarveOut::assume("camera", &[bank], true) };
///
/// let mut area = Area::new(carved)?; // the carve-out is consumed
/// assert_eq!(area.free_bytes(), 64 << 20);
/// assert_eq!(area.largest_run(), 64 << 20);
/// # Ok::<(), std::collections::TryReserveError>(())
/// ```
#[derive(Debug)]
pub struct Area {
    carved: CarveOut,
    runs: Vec<AreaRun>,
    reserve: Reserve,
    /// Exists once a borrower is registered.
    lending: Option<Lending>,
    whose: Whose,
}

impl Area {
    /// The bytes of heap that each run of an area takes, in one list, beside its index.
    pub(crate) const RUN_BYTES: usize = size_of::<AreaRun>();

    /// The bytes of heap that each area takes in one block, for the kinds of request that it remembers.
    pub(crate) const KINDS_BYTES: usize = Reserve::BYTES;

    /// Makes the area of a carve-out, which is consumed. No frame of a [late](CarveOut::late) one is free. Its indexes
    /// are taken from the heap here, and never given back.
    ///
    /// # Errors
    ///
    /// [`TryReserveError`] if the heap has no room for the indexes.
    #[cold]
    pub fn new(carved: CarveOut) -> Result<Self, TryReserveError> {
        let mut runs = room(carved.ranges().len())?;
        let late = carved.is_late();
        for &frames in carved.ranges() {
            runs.push(if late { AreaRun::taken(frames)? } else { AreaRun::new(frames)? });
        }
        let whose = if late { Whose::Kernels } else { Whose::Ours };
        Ok(Self { carved, runs, reserve: Reserve::new()?, lending: None, whose })
    }

    /// Returns the bytes that the index of a run takes from the heap.
    pub(crate) fn index_bytes(frames: FrameRange) -> usize {
        run::nodes(frames).unwrap_or(0) * size_of::<Node>()
    }

    /// Returns its name in the device tree, or `cma` for the area of the command line.
    pub fn name(&self) -> &str {
        self.carved.name()
    }

    /// Returns whether idle frames may be lent.
    pub const fn is_lendable(&self) -> bool {
        self.carved.is_lendable()
    }

    /// Yields its runs of frames.
    pub fn ranges(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.runs.iter().map(|run| run.frames)
    }

    /// Returns how many bytes no buffer and no contract holds: they are idle or lent.
    pub fn free_bytes(&self) -> u64 {
        let mut frames = self.idle_frames();
        if let Some(lending) = &self.lending {
            frames += lending.occupancy.lent_available() + lending.arriving();
        }
        u64::from(frames) << FRAME_SHIFT
    }

    /// Returns the number of idle frames, those that are being zeroed included.
    pub(crate) fn idle_frames(&self) -> u32 {
        let zeroing = self.reserve.zeroing.map_or(0, |extent| extent.frames().count());
        self.runs.iter().map(|run| run.idle.free_units()).sum::<u32>() + zeroing
    }

    /// Returns the length of the largest run that no buffer and no contract holds, in bytes.
    pub fn largest_run(&mut self) -> u64 {
        self.largest_of(0, |run| core::iter::once(Reachable::unshifted(run)))
    }

    /// Returns the length of the largest available run, in bytes: from a multiple of 2^`order` frames of the bus on,
    /// within one of the places that `places` finds in a run of the area.
    fn largest_of<P: Iterator<Item = Reachable>>(&mut self, order: u8, places: impl Fn(FrameRange) -> P) -> u64 {
        let lending = self.lending.as_ref().filter(|lending| lending.occupancy.lent_available() > 0);
        let mut largest = 0;
        for run in &mut self.runs {
            for place in places(run.frames) {
                largest = match lending {
                    Some(lending) => lending.occupancy.largest_available(place, order).max(largest),
                    None => largest_in(&mut run.idle, place, order, largest),
                };
            }
        }
        u64::from(largest) << FRAME_SHIFT
    }

    /// Returns the name of the borrower that has a frame, if one has and the frame is of this area.
    pub(crate) fn borrower_of(&self, frame: Frame) -> Option<Name> {
        self.ranges().find(|run| run.contains(frame))?;
        self.lending.as_ref()?.borrower_of(frame.number())
    }

    /// Calls `each` with the runs of frames that an allocation can have.
    fn for_each_available(&mut self, each: impl FnMut(FrameRange)) {
        if let Some(lending) = &self.lending {
            return lending.occupancy.for_each_available(each);
        }
        let runs = self.runs.iter_mut().flat_map(|run| run.idle.runs());
        runs.filter_map(|free| FrameRange::between(free.start, free.end)).for_each(each);
    }
}
