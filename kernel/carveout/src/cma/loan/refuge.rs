//! The refuge: memory outside the area. A page goes there if no frame of the area is left for it.
//!
//! Guarantees: all of its memory is taken from the heap when borrowers register, and never given back. To take a frame
//! and to leave it are O(1). Pages that are forgotten on recall are *guests* of it, in a list from the one that came
//! first, so that their frames are found at once when a page that is moved needs one.

use super::kind::PageKind;
use super::tenant::{MAX_BUDGET, Tenant};
use crate::addr::FRAME_SIZE;
use crate::heap::{filled, room};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::iter;

/// Gives the frames of refuge beyond the borrowers' own: as many as pages can be open at a time.
pub const SPARES: u32 = 7;

/// Frames outside the area. A frame's number is its part's in the upper eight bits, and its own in that part.
#[derive(Debug)]
pub(super) struct Refuge {
    /// [`SPARES`] frames, then those that each borrower brought.
    parts: Vec<RefugePart>,
    /// Parts before this one have no frame that was never lent.
    fresh: usize,
    /// Frames that were lent before, from the one that was left last.
    left: u32,
    /// Guests' frames, from the one that came first.
    first_guest: u32,
    last_guest: u32,
    pub(super) all: u32,
    pub(super) used: u32,
}

/// Frames of refuge that came together.
#[derive(Debug)]
pub(super) struct RefugePart {
    berths: Vec<Berth>,
    /// How many were ever lent.
    lent: u32,
    /// Room for a page each. Who has the page open, or moves it, reaches them by pointers. A page that was never
    /// written is not read.
    memory: Vec<HeapPage>,
}

/// What is known of a frame of refuge.
#[derive(Clone, Copy, Debug)]
struct Berth {
    tenant: Tenant,
    /// Of a frame that was left, or a guest's: the next such.
    next: u32,
    /// Of a guest's: the one before.
    before: u32,
}

/// The end of a list of frames of refuge.
const END: u32 = u32::MAX;

#[repr(align(4096))]
#[expect(dead_code, reason = "a layout; its bytes are reached by pointers")]
#[derive(Debug)]
struct HeapPage([u8; FRAME_SIZE as usize]);

impl RefugePart {
    pub(super) fn new(frames: u32) -> Result<Self, TryReserveError> {
        let berth = Berth { tenant: Tenant::NONE, next: END, before: END };
        Ok(Self { berths: filled(frames as usize, berth)?, lent: 0, memory: room(frames as usize)? })
    }
}

impl Refuge {
    /// Makes a refuge of [`SPARES`] frames, with room in the list for another part.
    pub(super) fn new() -> Result<Self, TryReserveError> {
        let mut parts = room(2)?;
        parts.push(RefugePart::new(SPARES)?);
        Ok(Self { parts, fresh: 0, left: END, first_guest: END, last_guest: END, all: SPARES, used: 0 })
    }

    /// Makes room in the list for another part.
    pub(super) fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.parts.try_reserve(1)
    }

    /// Adds a part, for which the list has room.
    pub(super) fn add(&mut self, part: RefugePart) {
        self.all += part.berths.len() as u32;
        self.parts.push(part);
    }

    fn berth(&self, frame: u32) -> &Berth {
        &self.parts[(frame >> 24) as usize].berths[(frame & (MAX_BUDGET - 1)) as usize]
    }

    fn berth_mut(&mut self, frame: u32) -> &mut Berth {
        &mut self.parts[(frame >> 24) as usize].berths[(frame & (MAX_BUDGET - 1)) as usize]
    }

    /// Returns the first byte of a frame.
    pub(super) fn pointer(&mut self, frame: u32) -> *mut u8 {
        let memory = self.parts[(frame >> 24) as usize].memory.as_mut_ptr();
        memory.wrapping_add((frame & (MAX_BUDGET - 1)) as usize).cast()
    }

    /// Takes a frame that nobody has, if there is one.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.left != END {
            let frame = self.left;
            self.left = self.berth(frame).next;
            self.used += 1;
            return Some(frame);
        }
        while let Some(part) = self.parts.get_mut(self.fresh) {
            if (part.lent as usize) < part.berths.len() {
                part.lent += 1;
                self.used += 1;
                return Some((self.fresh as u32) << 24 | (part.lent - 1));
            }
            self.fresh += 1;
        }
        None
    }

    /// Yields the guests' frames and who they are, from the one that came first.
    pub(super) fn guests(&self) -> impl Iterator<Item = (u32, (usize, usize))> + '_ {
        let mut frame = self.first_guest;
        iter::from_fn(move || {
            let at = (frame != END).then_some(frame)?;
            let Berth { tenant, next, .. } = *self.berth(at);
            frame = next;
            Some((at, tenant.of_lent()))
        })
    }

    /// Gives a frame that was taken to a page.
    pub(super) fn enter(&mut self, frame: u32, tenant: Tenant, kind: PageKind) {
        let last = self.last_guest;
        let berth = self.berth_mut(frame);
        berth.tenant = tenant;
        if kind.is_forgotten() {
            (berth.next, berth.before) = (END, last);
            self.last_guest = frame;
            match last {
                END => self.first_guest = frame,
                last => self.berth_mut(last).next = frame,
            }
        }
    }

    /// Takes a frame from its page, which is of this kind. Nobody has it then.
    pub(super) fn leave(&mut self, frame: u32, kind: PageKind) {
        let left = self.left;
        let berth = self.berth_mut(frame);
        let Berth { next, before, .. } = *berth;
        (berth.tenant, berth.next) = (Tenant::NONE, left);
        self.left = frame;
        self.used -= 1;
        if kind.is_forgotten() {
            match before {
                END => self.first_guest = next,
                before => self.berth_mut(before).next = next,
            }
            match next {
                END => self.last_guest = before,
                next => self.berth_mut(next).before = before,
            }
        }
    }
}
