//! The stand-in: bytes that a driver holds a slice of while the device works on a stream.
//!
//! Guarantees: one stream at a time has it. Nothing that the device reads or writes is ever in it.
//!
//! Drivers name memory by slices. A slice of a stream that the device owns may not exist, for nothing maps it. So the
//! driver gets a slice of the stand-in, and the device the address of the stream.

use alloc::boxed::Box;
use alloc::vec::Vec;
use carveout::addr::BusAddr;
use carveout::dma::DataDirection;
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut, Range};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Why a stream was not handed to a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandError {
    /// Another stream has the stand-in.
    Busy,
    /// The range is not inside of the stream, or is empty.
    Outside {
        /// The first byte of the range.
        start: usize,
        /// The first byte after it.
        end: usize,
        /// The bytes of the stream.
        bytes: usize,
    },
    /// The range is longer than the stand-in.
    TooLong {
        /// The bytes of the range.
        bytes: usize,
        /// The bytes of the stand-in.
        most: usize,
    },
    /// The device does not write a stream of this direction.
    Direction {
        /// The stream's direction.
        has: DataDirection,
    },
}

impl fmt::Display for HandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("stand-in: another stream has it"),
            Self::Outside { start, end, bytes } => {
                write!(f, "stand-in: bytes {start} to {end} are no part of a stream of {bytes} bytes")
            }
            Self::TooLong { bytes, most } => {
                write!(f, "stand-in: a request of {bytes} bytes is longer than its {most} bytes")
            }
            Self::Direction { has } => write!(f, "stand-in: the device does not write a stream {has}"),
        }
    }
}

impl core::error::Error for HandError {}

/// The stand-in of a device.
pub(crate) struct StandIn {
    bytes: Box<[UnsafeCell<u8>]>,
    busy: AtomicBool,
    /// The bus address for which its first byte stands, while it is busy.
    target: AtomicU32,
}

// SAFETY: the bytes are accessed through the one `Handed` there is at a time, which `busy` guards.
unsafe impl Sync for StandIn {}

impl StandIn {
    /// Makes a stand-in of so many bytes. Returns `None` if the heap has no room for it.
    pub(crate) fn new(bytes: usize) -> Option<Self> {
        let mut list = Vec::new();
        list.try_reserve_exact(bytes).ok()?;
        list.resize_with(bytes, || UnsafeCell::new(0));
        Some(Self { bytes: list.into(), busy: AtomicBool::new(false), target: AtomicU32::new(0) })
    }

    /// Lends it to `range` of a stream of `bytes` bytes at `bus`.
    pub(crate) fn hand(&self, bus: BusAddr, bytes: usize, range: Range<usize>) -> Result<Handed<'_>, HandError> {
        if range.is_empty() || range.end > bytes {
            return Err(HandError::Outside { start: range.start, end: range.end, bytes });
        }
        if range.len() > self.bytes.len() {
            return Err(HandError::TooLong { bytes: range.len(), most: self.bytes.len() });
        }
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(HandError::Busy);
        }
        self.target.store(bus.raw() + range.start as u32, Ordering::Relaxed);
        Ok(Handed { stand_in: self, bytes: range.len() })
    }

    /// Lends it as [`hand`](Self::hand) does, if the device writes what goes in this direction.
    pub(crate) fn hand_mut(
        &self,
        has: DataDirection,
        bus: BusAddr,
        bytes: usize,
        range: Range<usize>,
    ) -> Result<HandedMut<'_>, HandError> {
        if !has.device_writes() {
            return Err(HandError::Direction { has });
        }
        self.hand(bus, bytes, range).map(HandedMut)
    }

    fn first(&self) -> *mut u8 {
        UnsafeCell::raw_get(self.bytes.as_ptr())
    }

    /// Returns the bus address for which a slice stands, or `None` if it is no slice of the stand-in.
    pub(crate) fn target_of(&self, slice: NonNull<[u8]>) -> Option<BusAddr> {
        let offset = slice.addr().get().checked_sub(self.first().addr()).filter(|&at| at < self.bytes.len())?;
        // A slice of it exists only while it is busy.
        Some(BusAddr::new(self.target.load(Ordering::Relaxed) + offset as u32))
    }
}

/// A part of a stream, for a driver whose device reads it. The driver sees other bytes.
pub struct Handed<'s> {
    stand_in: &'s StandIn,
    bytes: usize,
}

impl Deref for Handed<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes of the stand-in, which this value has for itself.
        unsafe { core::slice::from_raw_parts(self.stand_in.first(), self.bytes) }
    }
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        self.stand_in.busy.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Handed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handed").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A part of a stream, for a driver whose device writes it. The driver sees other bytes.
#[derive(Debug)]
pub struct HandedMut<'s>(pub(crate) Handed<'s>);

impl Deref for HandedMut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for HandedMut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes of the stand-in, which this value has for itself and which is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.0.stand_in.first(), self.0.bytes) }
    }
}
