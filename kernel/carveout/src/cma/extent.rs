//! Extents: frames of an area, with the run that they are of.
//!
//! Guarantees: whoever has an extent need not look for its run, which was found once, when the frames were chosen. Only
//! an area makes extents.

use crate::addr::FrameRange;

/// Names frames of an area by the number of their run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    run: usize,
    frames: FrameRange,
}

impl Extent {
    /// Names frames of the run of that number.
    pub(super) const fn new(run: usize, frames: FrameRange) -> Self {
        Self { run, frames }
    }

    /// Returns the frames.
    pub(crate) const fn frames(self) -> FrameRange {
        self.frames
    }

    /// Returns the number of their run.
    pub(super) const fn run(self) -> usize {
        self.run
    }
}
