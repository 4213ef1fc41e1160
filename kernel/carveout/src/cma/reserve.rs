//! What is known of requests, so that a typical allocation searches no index, and touches no page either if idle time
//! prepares.
//!
//! Guarantees: nothing here decides where an allocation goes, nor whether there is room for it. It goes where it would
//! without a reserve, except round the few frames that another core is zeroing. The place of a request is kept from the
//! last search of its kind, and holds while the same frames are free. Idle time finds the places of kinds that came
//! again, and zeroes idle frames where they lie. A request asks in a time that does not depend on the area's size.

use crate::cma::extent::Extent;
use crate::cma::index::Found;
use crate::heap::room;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// Kinds of request that are remembered: a camera's pipeline has fewer sizes of buffer.
pub(crate) const REQUEST_KINDS: usize = 16;

/// What requests have in common that one buffer can serve: the master, the frames and the alignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kind {
    master: NonZeroU32,
    /// The number of the last frame, and the order of the alignment in frames.
    shape: u32,
}

impl Kind {
    /// Makes the kind of requests for `count` frames, at least one, aligned to 2^`order` frames. Masters of one number
    /// reach the same places.
    #[inline]
    pub(crate) const fn new(master: NonZeroU32, count: u32, order: u8) -> Self {
        Self { master, shape: (count - 1) << 4 | order as u32 }
    }

    /// Returns whether it is of the same master as another.
    #[inline]
    pub(crate) fn is_of(self, other: Self) -> bool {
        self.master == other.master
    }
}

/// What is known of a kind of request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) kind: Kind,
    /// The frames, and the order of the alignment that they should have.
    pub(crate) count: u32,
    pub(crate) order: u8,
    /// Of the places that the device reaches, the first that is large enough.
    pub(crate) place: Extent,
    /// A version of the index of its place, and where the next request goes while the index is at that version.
    pub(crate) foreseen: Option<(u32, Option<u32>)>,
    /// What idle time found for that.
    pub(crate) found: Option<Found>,
    /// Whether the kind came again since it was remembered.
    pub(crate) again: bool,
    /// Whether it came since its turn to be forgotten passed.
    recent: bool,
}

/// What idle time is to prepare, and has.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// Frames that are not lent while they are idle.
    pub(crate) stock: u32,
    /// Frames that are being zeroed, and meanwhile nobody's.
    pub(crate) zeroing: Option<Extent>,
    /// [`REQUEST_KINDS`] of them at most, for which it has room.
    pub(crate) kinds: Vec<Known>,
    /// The place of the kind that was asked for last.
    last: usize,
    /// The place of the kind whose turn it is to be forgotten.
    next: usize,
}

impl Reserve {
    /// The bytes that the list of kinds takes of the heap.
    pub(crate) const BYTES: usize = REQUEST_KINDS * size_of::<Known>();

    /// Makes a reserve of nothing, which knows no kind of request.
    pub(crate) fn new() -> Result<Self, TryReserveError> {
        Ok(Self { stock: 0, zeroing: None, kinds: room(REQUEST_KINDS)?, last: 0, next: 0 })
    }

    /// Returns what is known of a kind of request that is made now, if the last request was of that kind.
    #[inline]
    pub(crate) fn known(&mut self, kind: Kind) -> Option<&mut Known> {
        let known = self.kinds.get_mut(self.last).filter(|known| known.kind == kind)?;
        (known.again, known.recent) = (true, true);
        Some(known)
    }

    /// Makes a kind the last. Returns whether it was another one and is remembered.
    pub(crate) fn turn_to(&mut self, kind: Kind) -> bool {
        let at = self.kinds.iter().position(|known| known.kind == kind);
        at.is_some_and(|at| core::mem::replace(&mut self.last, at) != at)
    }

    /// Remembers where a request of this kind went, which was made at that version of the index of its place.
    pub(crate) fn remember(&mut self, kind: Kind, (count, order): (u32, u8), place: Extent, found: (u32, u32)) {
        let foreseen = Some((found.0, Some(found.1)));
        if let Some(known) = self.kinds.get_mut(self.last)
            && known.kind == kind
        {
            (known.place, known.foreseen, known.found) = (place, foreseen, None);
            return;
        }
        let new = Known { kind, count, order, place, foreseen, found: None, again: false, recent: true };
        if self.kinds.len() == REQUEST_KINDS {
            // Each is passed by once at most.
            while core::mem::take(&mut self.kinds[self.next].recent) {
                self.next = (self.next + 1) % REQUEST_KINDS;
            }
            self.kinds[self.next] = new;
            self.last = self.next;
            self.next = (self.next + 1) % REQUEST_KINDS;
        } else {
            self.last = self.kinds.len();
            self.kinds.push(new);
        }
    }
}
