//! Requests: what a driver asks of a buffer, and what its device can drive, made one.
//!
//! Guarantees: the [`Master`] of a request reaches nothing that the device does not reach or the driver did not allow.
//! What no buffer can satisfy is refused before anything is allocated.

use carveout::addr::{BusAddr, FRAME_SIZE};
use carveout::dma::{AllocError, Master};
use core::fmt;
use dma_api::{DmaAddr, DmaConstraints, DmaError};

/// Why a driver got no memory. dma-api passes on no more than that there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The area has no such run.
    Alloc(AllocError),
    /// The request is longer than the largest segment.
    Segment {
        /// The bytes of the request.
        bytes: usize,
        /// The bytes of the largest segment of the device, or of the driver's constraints.
        most: usize,
    },
    /// The boundary is not a power of two, or the request is longer than it.
    Boundary {
        /// The bytes of the request.
        bytes: usize,
        /// The boundary in bytes.
        boundary: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alloc(error) => error.fmt(f),
            Self::Segment { bytes, most } => {
                write!(f, "a request of {bytes} bytes is longer than a segment of {most} bytes: ask for several")
            }
            Self::Boundary { bytes, boundary } => {
                write!(
                    f,
                    "a request of {bytes} bytes fits no boundary of {boundary:#x} bytes, which must be a power of "
                )?;
                f.write_str("two and hold it")
            }
        }
    }
}

impl core::error::Error for Refusal {}

impl From<Refusal> for DmaError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Segment { bytes, most } => Self::SegmentTooLarge { size: bytes, max: most },
            Refusal::Boundary { bytes, boundary } => {
                Self::BoundaryCross { addr: DmaAddr::from(0), size: bytes, boundary }
            }
            Refusal::Alloc(_) => Self::NoMemory,
        }
    }
}

/// A request that an area may be asked for.
#[derive(Debug)]
pub(crate) struct Request {
    /// The device, with what the driver's constraints leave of its reach.
    pub(crate) master: Master,
    /// In bytes.
    pub(crate) bytes: u32,
    /// In bytes. The area looks at it.
    pub(crate) align: u32,
}

impl Request {
    /// Makes a request for `bytes` of `device`, aligned to `align` or to what the constraints say, whichever is more.
    pub(crate) fn new(
        device: &Master,
        constraints: &DmaConstraints,
        bytes: usize,
        align: usize,
    ) -> Result<Self, Refusal> {
        let most = constraints.max_segment_size.unwrap_or(usize::MAX).min(device.max_segment() as usize);
        if bytes > most {
            return Err(Refusal::Segment { bytes, most });
        }
        let last = u32::try_from(constraints.addr_mask).unwrap_or(u32::MAX);
        let master = device.clone().with_mask(device.mask().min(BusAddr::new(last)));
        let master = match constraints.boundary {
            Some(boundary) => bounded(master, bytes, boundary)?,
            None => master,
        };
        // What does not fit into 32 bits is more than any area has, or an alignment that it refuses.
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Ok(Self { master, bytes: narrow(bytes), align: narrow(align.max(constraints.align).max(1)) })
    }
}

/// Keeps a device's buffer of so many bytes from crossing a boundary of the driver's, beside those of its own.
fn bounded(master: Master, bytes: usize, boundary: usize) -> Result<Master, Refusal> {
    if !boundary.is_power_of_two() || bytes > boundary {
        return Err(Refusal::Boundary { bytes, boundary });
    }
    match u32::try_from(boundary) {
        // Each boundary is a power of two, so whoever keeps the smaller one keeps both.
        Ok(boundary) if boundary >= FRAME_SIZE => {
            let least = master.boundary().map_or(boundary, |own| own.min(boundary));
            Ok(master.with_boundary(least).expect("a power of two of a frame or more"))
        }
        // A buffer begins on a frame, so it crosses no boundary within one; and its bus ends before any larger one.
        _ => Ok(master),
    }
}
