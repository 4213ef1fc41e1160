//! Where a device's buffers may lie.
//!
//! Guarantee: what is found in a `Reachable` is aligned where the device sees it.

use crate::addr::{BusAddr, Bytes, FrameRange};
use crate::cma::index::Index;
use core::fmt;

/// Limits where a device's buffers may lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    /// The last bus address that it drives: its mask.
    pub last: BusAddr,
    /// Its bus has `dma-ranges`.
    pub ranges: bool,
    /// No buffer crosses a multiple of this, in bytes.
    pub boundary: Option<u32>,
}

impl Reach {
    /// Sets no limits.
    pub const ALL: Self = Self { last: BusAddr::new(u32::MAX), ranges: false, boundary: None };
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.last != Self::ALL.last {
            write!(f, " at bus addresses up to {}", self.last)?;
        }
        if self.ranges {
            write!(f, " within its dma-ranges")?;
        }
        match self.boundary {
            Some(boundary) => write!(f, " without crossing a multiple of {}", Bytes(boundary.into())),
            None => Ok(()),
        }
    }
}

/// Frames where a device's buffer may lie, and where the device sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reachable {
    pub(crate) frames: FrameRange,
    /// What is added to a frame's number to get that of the bus, modulo 2^32.
    pub(crate) shift: u32,
}

impl Reachable {
    /// Makes a place that the device sees where the CPU does.
    pub(crate) const fn unshifted(frames: FrameRange) -> Self {
        Self { frames, shift: 0 }
    }

    /// Returns the first frame from `frame` on whose number on the bus is a multiple of 2^`order`.
    pub(crate) const fn align_up(self, frame: u32, order: u8) -> u32 {
        frame + (frame.wrapping_add(self.shift).wrapping_neg() & ((1 << order) - 1))
    }

    /// Returns whether what is a multiple of 2^`order` on the bus is one for the CPU too.
    pub(crate) const fn keeps(self, order: u8) -> bool {
        self.shift & ((1 << order) - 1) == 0
    }

    /// Returns where `count` free frames begin at such a multiple, by the index's choice.
    pub(crate) fn find(self, index: &mut Index<'_>, count: u32, order: u8) -> Option<u32> {
        let within = self.frames.start()..self.frames.end();
        if self.keeps(order) {
            index.find(count, order, within)
        } else {
            index.find_by(count, within, |frame| self.align_up(frame, order))
        }
    }

    /// Returns whether there are such frames.
    pub(crate) fn has(self, index: &mut Index<'_>, count: u32, order: u8) -> bool {
        if self.keeps(order) {
            index.has(count, order, self.frames.start()..self.frames.end())
        } else {
            self.find(index, count, order).is_some()
        }
    }

    /// Takes such frames. `liked` is an order, `order` or more, that frames should be aligned to for the CPU, if the
    /// bus's alignment leaves the choice.
    pub(crate) fn take(self, index: &mut Index<'_>, count: u32, liked: u8, order: u8) -> Option<u32> {
        if self.keeps(order) {
            return index.alloc(count, liked, self.frames.start()..self.frames.end());
        }
        let start = self.find(index, count, order)?;
        index.take(start, count).ok()?;
        Some(start)
    }
}
