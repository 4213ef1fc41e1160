//! Whose an area is: ours, or the kernel's for a time.
//!
//! Guarantees: while it is not ours, none of its frames is idle or lent. So nothing gives one out, lends one or
//! prepares one. For the index the kernel is one more owner: it has all frames at once, or none.

use super::Area;
use crate::addr::{Frame, FrameRange};
use crate::carve_out::CarveOut;
use crate::cma::extent::Extent;
use crate::cma::reach::Reachable;
use arrayvec::ArrayVec;

/// Who may use an area's frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    /// This crate, which gives them to devices and lends them.
    Ours,
    /// The kernel, which maps them as it likes.
    Kernels,
    /// Nobody yet: the area is on its way from one to the other.
    Between,
}

impl Area {
    /// Returns whose the area is.
    pub(crate) const fn whose(&self) -> Whose {
        self.whose
    }

    /// Returns its runs.
    pub(crate) fn runs(&self) -> ArrayVec<FrameRange, { CarveOut::RANGES }> {
        self.ranges().collect()
    }

    /// Begins to take the area from the kernel. Returns `false`, and changes nothing, if it is not the kernel's.
    pub(crate) fn begin_taking(&mut self) -> bool {
        let is_kernels = self.whose == Whose::Kernels;
        if is_kernels {
            self.whose = Whose::Between;
        }
        is_kernels
    }

    /// Makes all frames idle: they were taken from the kernel.
    pub(crate) fn end_taking(&mut self) {
        self.whose = Whose::Ours;
        for number in 0..self.runs.len() {
            self.give_back(Extent::new(number, self.runs[number].frames));
        }
    }

    /// Makes the area the kernel's: it was not taken after all, or it was given back.
    pub(crate) const fn leave_to_kernel(&mut self) {
        self.whose = Whose::Kernels;
    }

    /// Begins to give the area to the kernel: takes all frames, and recalls what is lent. Returns whether loans are to
    /// be moved, or `None`, and changes nothing, if the area is not ours or somebody holds a frame.
    pub(crate) fn begin_leaving(&mut self) -> Option<bool> {
        if self.whose != Whose::Ours || !(0..self.runs.len()).all(|number| self.is_free(number)) {
            return None;
        }
        self.whose = Whose::Between;
        let mut moves = false;
        for number in 0..self.runs.len() {
            moves |= self.take_window(Extent::new(number, self.runs[number].frames));
        }
        Some(moves)
    }

    /// Returns a lent frame that is open.
    pub(crate) fn open_frame(&self) -> Option<Frame> {
        let lending = self.lending.as_ref()?;
        self.ranges().find_map(|run| lending.occupancy.open_in(run)).and_then(Frame::from_number)
    }

    /// Returns whether an allocation could have all frames of a run.
    fn is_free(&self, number: usize) -> bool {
        let run = &self.runs[number];
        let count = run.frames.count();
        let lending = self.lending.as_ref().filter(|lending| lending.occupancy.lent_available() > 0);
        match lending {
            Some(lending) => lending.occupancy.search(Reachable::unshifted(run.frames), count, 0).is_some(),
            None => run.idle.free_units() == count,
        }
    }
}
