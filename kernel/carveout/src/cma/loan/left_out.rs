//! What stands for the books of loans in a build without the feature `loans`.
//!
//! Guarantees: there is no [`Lending`], so no area has one, and the compiler leaves out all that an area does for
//! loans.

use crate::addr::{Frame, FrameRange};
use crate::cma::reach::Reachable;
use crate::name::Name;

/// Pages that are open at a time.
pub(crate) const SPARES: u32 = 0;

/// Which frames of an area are held, lent or open. There is none.
#[derive(Debug)]
pub(crate) enum Occupancy {}

/// The books of an area's loans. There are none.
#[derive(Debug)]
pub(crate) struct Lending {
    pub(crate) occupancy: Occupancy,
}

impl Lending {
    pub(crate) const fn arriving(&self) -> u32 {
        match self.occupancy {}
    }

    pub(crate) const fn await_slots(&mut self, _: bool) {
        match self.occupancy {}
    }

    pub(crate) const fn borrower_of(&self, _: u32) -> Option<Name> {
        match self.occupancy {}
    }

    pub(crate) const fn recall(&mut self, _: FrameRange) -> bool {
        match self.occupancy {}
    }
}

impl Occupancy {
    pub(crate) fn barred_by_open(&self, _: Reachable, _: u32, _: u8) -> Option<Frame> {
        match *self {}
    }

    pub(crate) fn cost(&self, _: FrameRange) -> u32 {
        match *self {}
    }

    pub(crate) fn first_forgotten(&self, _: FrameRange) -> Option<FrameRange> {
        match *self {}
    }

    pub(crate) fn first_lent(&self, _: FrameRange, _: u32) -> Option<FrameRange> {
        match *self {}
    }

    pub(crate) fn for_each_available(&self, _: impl FnMut(FrameRange)) {
        match *self {}
    }

    pub(crate) fn for_each_unlent(&self, _: FrameRange, _: impl FnMut(FrameRange)) {
        match *self {}
    }

    pub(crate) fn largest_available(&self, _: Reachable, _: u8) -> u32 {
        match *self {}
    }

    pub(crate) fn lent_available(&self) -> u32 {
        match *self {}
    }

    pub(crate) fn open_in(&self, _: FrameRange) -> Option<u32> {
        match *self {}
    }

    pub(crate) fn search(&self, _: Reachable, _: u32, _: u8) -> Option<(FrameRange, u32)> {
        match *self {}
    }

    pub(crate) fn set_held(&mut self, _: FrameRange, _: bool) {
        match *self {}
    }
}
