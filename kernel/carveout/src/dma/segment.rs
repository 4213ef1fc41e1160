//! Segments: a buffer's bytes as a device transfers them.
//!
//! Guarantees: the [`Segment`]s of a device cover exactly the bytes asked for, in order. All are within its reach. No
//! segment is longer than the device's largest, and none crosses its boundary. There are as few as these limits permit:
//! buffers that are adjacent on the bus share one.

use crate::addr::{BusAddr, FrameRange, PhysAddr};
use crate::dma::master::Master;
use crate::name::Name;
use core::fmt;

/// Bytes that a device transfers as one: an entry of its descriptor list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The first byte.
    pub bus: BusAddr,
    /// The number of bytes, 1 or more.
    pub bytes: u32,
}

/// Why a device cannot be given a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScatterError {
    /// The device does not reach a byte of the buffer, by its mask or apertures. The buffer was allocated for another
    /// device.
    OutOfReach {
        /// The device.
        master: Name,
        /// The buffer.
        frames: FrameRange,
        /// The first byte that it does not reach.
        at: PhysAddr,
    },
}

impl fmt::Display for ScatterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::OutOfReach { master, frames, at } = self;
        write!(f, "{master} does not reach {at} in buffer {frames}")
    }
}

impl core::error::Error for ScatterError {}

/// Bytes consecutive on the bus.
#[derive(Clone, Copy)]
pub(super) struct Run {
    bus: u64,
    bytes: u64,
}

/// Cuts a buffer's first `bytes` where the device's windows do.
pub(super) fn runs(
    master: &Master,
    frames: FrameRange,
    bytes: usize,
) -> impl Iterator<Item = Result<Run, ScatterError>> + '_ {
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = bytes as u64 - done;
        if left == 0 {
            return None;
        }
        let at = PhysAddr::new(frames.base().raw() + done as u32);
        let Some((bus, goes_on)) = master.bus_run(at) else {
            done = bytes as u64;
            return Some(Err(ScatterError::OutOfReach { master: master.name(), frames, at }));
        };
        let run = Run { bus: bus.raw().into(), bytes: goes_on.min(left) };
        done += run.bytes;
        Some(Ok(run))
    })
}

/// Yields runs as segments, once all of them are known to be within reach.
pub(super) fn segments<R: Iterator<Item = Result<Run, ScatterError>>, F: Fn() -> R>(
    master: &Master,
    all: F,
) -> Result<impl Iterator<Item = Segment> + use<'_, R, F>, ScatterError> {
    all().try_for_each(|run| run.map(drop))?;
    let boundary = master.boundary().map_or(1 << 32, u64::from);
    let mut ahead = all().map_while(Result::ok).peekable();
    let mut now = Run { bus: 0, bytes: 0 };
    Ok(core::iter::from_fn(move || {
        if now.bytes == 0 {
            now = ahead.next()?;
        }
        let most = u64::from(master.max_segment()).min(boundary - now.bus % boundary);
        while now.bytes < most
            && let Some(more) = ahead.next_if(|more| more.bus == now.bus + now.bytes)
        {
            now.bytes += more.bytes;
        }
        let bytes = now.bytes.min(most);
        let segment = Segment { bus: BusAddr::new(now.bus as u32), bytes: bytes as u32 };
        now = Run { bus: now.bus + bytes, bytes: now.bytes - bytes };
        Some(segment)
    }))
}

/// Yields the segments of one buffer.
pub(super) fn segments_of(
    master: &Master,
    frames: FrameRange,
    bytes: usize,
) -> Result<impl Iterator<Item = Segment> + '_, ScatterError> {
    segments(master, move || runs(master, frames, bytes))
}
