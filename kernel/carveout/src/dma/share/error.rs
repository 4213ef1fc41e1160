//! Why a call on shared buffers was refused.

use crate::cma::area::AllocError;
use crate::dma::buffer::shared::{MAX_PARTS, PartError};
use crate::dma::share::rights::{ClientId, ShareHandle, ShareRights};
use crate::name::Name;
use core::fmt;

/// Why a call on shared buffers was refused. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShareError {
    /// There is no such client.
    NoClient {
        /// The client that was named.
        client: ClientId,
    },
    /// The client has no address space.
    NoSpace {
        /// The client.
        client: ClientId,
    },
    /// The handle names nothing of this client's: it was given up or revoked, or it is another client's.
    Stale {
        /// The handle.
        handle: ShareHandle,
    },
    /// Nothing of this name was granted to the client.
    NoName {
        /// The name.
        name: Name,
    },
    /// The handle does not give these rights.
    Rights {
        /// The handle.
        handle: ShareHandle,
        /// The rights that it gives.
        has: ShareRights,
        /// The rights that were needed.
        wanted: ShareRights,
    },
    /// The pages are none, or not all inside of what was granted.
    Outside {
        /// The first page.
        start: u32,
        /// The page after the last.
        end: u32,
        /// The pages that were granted.
        pages: u32,
    },
    /// The client may not pay for so many frames.
    Quota {
        /// The frames asked for.
        frames: u32,
        /// The frames that it pays for.
        paid: u32,
        /// The most frames that it may pay for.
        quota: u32,
    },
    /// A table is full ([`ShareLimits`](crate::dma::ShareLimits)).
    Full {
        /// What it is of.
        what: &'static str,
    },
    /// A device has some of the pages.
    Device {
        /// The device.
        master: Name,
    },
    /// The buffer would fall into more parts than [`MAX_PARTS`] of different histories.
    TooManyParts,
    /// The device does not reach the pages.
    OutOfReach {
        /// The device.
        master: Name,
    },
    /// The client's address space has no room.
    NoRoom {
        /// The pages.
        pages: u32,
    },
    /// The client has the pages mapped already.
    Mapped {
        /// The handle.
        handle: ShareHandle,
    },
    /// There is no memory.
    Alloc(AllocError),
}

impl fmt::Display for ShareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClient { client } => write!(f, "there is no client {client}: it is gone, or never was"),
            Self::NoSpace { client } => write!(f, "client {client} has no address space: a driver maps nothing"),
            Self::Stale { handle } => {
                write!(f, "handle {handle} names nothing of this client's: it was given up or revoked")
            }
            Self::NoName { name } => write!(f, "nothing named {name:?} was granted to this client"),
            Self::Rights { handle, has, wanted } => {
                write!(f, "handle {handle} gives {has}, and {wanted} is needed: ask its owner for more")
            }
            Self::Outside { start, end, pages } => {
                write!(f, "pages {start} to {end} are not in the {pages} pages that were granted")
            }
            Self::Quota { frames, paid, quota } => {
                write!(f, "{frames} frames are over the quota: {paid} of {quota} are in use; give some up")
            }
            Self::Full { what } => write!(f, "no room for more {what}: `ShareLimits` says how many there may be"),
            Self::Device { master } => write!(f, "{master} has some of the pages: wait until it has finished"),
            Self::TooManyParts => {
                write!(
                    f,
                    "the buffer would fall into more than {MAX_PARTS} parts: name the pages of several calls in one"
                )
            }
            Self::OutOfReach { master } => {
                write!(f, "{master} does not reach the pages; make the buffer for that device")
            }
            Self::NoRoom { pages } => write!(f, "the address space has no room for {pages} pages; unmap something"),
            Self::Mapped { handle } => write!(f, "handle {handle} is mapped already"),
            Self::Alloc(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ShareError {}

impl From<AllocError> for ShareError {
    fn from(error: AllocError) -> Self {
        Self::Alloc(error)
    }
}

impl From<PartError> for ShareError {
    fn from(error: PartError) -> Self {
        match error {
            PartError::Device(master) => Self::Device { master },
            PartError::TooMany => Self::TooManyParts,
        }
    }
}
