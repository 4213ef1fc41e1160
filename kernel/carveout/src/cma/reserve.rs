//! The reserve: what idle time prepares, so that a typical allocation touches no page and searches no index.
//!
//! Guarantees: nothing here decides where an allocation goes, nor whether there is room for it. It goes where it would
//! without a reserve, except round the few frames that another core is zeroing. Idle time finds the place for each of
//! the last few kinds of request beforehand, and zeroes idle frames where they lie. A request asks in a time that does
//! not depend on the area's size.

use crate::cma::extent::Extent;
use arrayvec::ArrayVec;

/// Kinds of request that are remembered: a camera's pipeline has fewer sizes of buffer.
pub(crate) const REQUEST_KINDS: usize = 16;

/// What requests of one kind have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    pub(crate) count: u32,
    pub(crate) order: u8,
    /// Of the places the device reaches, the first that is large enough.
    pub(crate) place: Extent,
}

/// A kind of request that was made lately.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestKind {
    pub(crate) request: Request,
    /// A version of the index of its place, and where the next request would go while the index is at that version.
    pub(crate) foreseen: Option<(u32, Option<u32>)>,
    /// When it was made last, in requests.
    made: u32,
}

/// What idle time is to prepare, and has.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    /// Frames that are not lent while they are idle.
    pub(crate) stock: u32,
    /// Frames that are being zeroed, and meanwhile nobody's.
    pub(crate) zeroing: Option<Extent>,
    pub(crate) kinds: ArrayVec<RequestKind, REQUEST_KINDS>,
    requests: u32,
}

impl Reserve {
    /// Returns where a request goes, if that was foreseen for this version of the index. Remembers its kind.
    pub(crate) fn place_of(&mut self, request: Request, version: u32) -> Option<u32> {
        self.requests = self.requests.wrapping_add(1);
        let made = self.requests;
        if let Some(kind) = self.kinds.iter_mut().find(|kind| kind.request == request) {
            kind.made = made;
            return kind.foreseen.filter(|foreseen| foreseen.0 == version)?.1;
        }
        if let Err(full) = self.kinds.try_push(RequestKind { request, foreseen: None, made })
            && let Some(oldest) = self.kinds.iter_mut().min_by_key(|kind| kind.made)
        {
            *oldest = full.element();
        }
        None
    }
}
