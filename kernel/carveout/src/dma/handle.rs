//! Handles: numbers that stand for buffers where no value can be kept, in C and behind other crates' traits.
//!
//! Guarantees: a [`Handle`] is a name, not a right. A buffer that was put away under its handle (`into_raw`) is in the
//! records of its [`Dma`](crate::dma::Dma), in its state. Who names its handle and its state takes it out as a value
//! (`from_raw`), once. All else is a [`HandleError`], and changes nothing.
//!
//! ```
//! use carveout::dma::{Coherent, DataDirection, HandleError, Stream};
//! use carveout::setup::Setup;
//!
//! let setup = Setup::new(1);
//! let (dma, codec) = (setup.dma, setup.master("codec"));
//! let handle = dma.alloc(&codec, 4096, 1)?.into_coherent().into_raw();
//!
//! // Later, elsewhere: all that was kept is the number.
//! let mut table = Coherent::from_raw(dma, handle)?;
//! table.write_word(0, 7u32);
//! assert_eq!(Coherent::from_raw(dma, handle).unwrap_err(), HandleError::Taken { handle });
//! drop(table);
//! assert_eq!(Coherent::from_raw(dma, handle).unwrap_err(), HandleError::Stale { handle });
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```

use crate::dma::buffer::direction::DirectionError;
use core::fmt;
use core::num::NonZeroU64;

/// The name of a buffer: one for as long as the buffer lives, in whatever state. It is a 64-bit number that is not 0,
/// and no other buffer's before 2^36 more were allocated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(NonZeroU64);

impl Handle {
    /// The buffer's place among the records takes the lowest bits.
    pub(super) const SLOT_BITS: u32 = 16;
    /// The number of its `Dma`, as far as these bits hold it, comes next. All above them is the buffer's birth.
    const DMA_BITS: u32 = 12;
    const BIRTH_BITS: u32 = u64::BITS - Self::SLOT_BITS - Self::DMA_BITS;

    /// Names the buffer of this place that was born after so many others.
    pub(super) fn new(slot: usize, dma: u32, born: u64) -> Self {
        let birth = (born + 1) << (u64::BITS - Self::BIRTH_BITS);
        let dma = (u64::from(dma) % (1 << Self::DMA_BITS)) << Self::SLOT_BITS;
        Self(NonZeroU64::new(birth | dma | slot as u64).unwrap_or(NonZeroU64::MAX))
    }

    /// Returns the buffer's place.
    pub(super) const fn slot(self) -> usize {
        (self.to_bits() % (1 << Self::SLOT_BITS)) as usize
    }

    /// Returns whether it is of the `Dma` of this number, as far as the bits tell.
    pub(super) fn is_of(self, dma: u32) -> bool {
        let dma = u64::from(dma) << Self::SLOT_BITS;
        (self.to_bits() ^ dma) >> Self::SLOT_BITS & ((1 << Self::DMA_BITS) - 1) == 0
    }

    /// Returns the number, for who keeps numbers alone. It is never 0.
    pub const fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// Returns the handle of this number, or `None` for 0. Whether it names a buffer is seen when it is used.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match NonZeroU64::new(bits) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({self})")
    }
}

/// The state of a buffer that was put away: which of the types takes it out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BufferState {
    /// [`Contiguous`](crate::dma::Contiguous).
    Contiguous,
    /// [`Coherent`](crate::dma::Coherent).
    Coherent,
    /// [`Stream<_, Cpu>`](crate::dma::Stream).
    CpuStream,
    /// [`Stream<_, Device>`](crate::dma::Stream).
    DeviceStream,
    /// [`DeviceOnly`](crate::dma::DeviceOnly).
    DeviceOnly,
}

impl fmt::Display for BufferState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Contiguous => "in no state yet",
            Self::Coherent => "coherent",
            Self::CpuStream => "a stream of the CPU",
            Self::DeviceStream => "a stream of a device",
            Self::DeviceOnly => "of devices alone",
        })
    }
}

/// Why a handle gave no buffer. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandleError {
    /// It is of another `Dma`.
    Foreign {
        /// The handle.
        handle: Handle,
    },
    /// It names no buffer: its own was freed, or there never was one.
    Stale {
        /// The handle.
        handle: Handle,
    },
    /// Somebody has the buffer as a value.
    Taken {
        /// The handle.
        handle: Handle,
    },
    /// The buffer is in quarantine: it was dropped as a value while a device could reach it.
    Quarantined {
        /// The handle.
        handle: Handle,
    },
    /// The buffer is in another state than the one that was named.
    State {
        /// The handle.
        handle: Handle,
        /// The buffer's state.
        has: BufferState,
        /// The state that was named.
        wanted: BufferState,
    },
    /// The buffer is a stream of another direction than the one that was named.
    Direction {
        /// The handle.
        handle: Handle,
        /// The two directions.
        error: DirectionError,
    },
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { handle } => write!(f, "handle {handle} is another `Dma`'s: ask the one that it came from"),
            Self::Stale { handle } => write!(f, "handle {handle} names no buffer: its own was freed"),
            Self::Taken { handle } => {
                write!(f, "handle {handle}: somebody has its buffer as a value, who must put it away first")
            }
            Self::Quarantined { handle } => {
                write!(
                    f,
                    "handle {handle}: its buffer was dropped while a device could reach it, and is lost until reset"
                )
            }
            Self::State { handle, has, wanted } => {
                write!(f, "handle {handle}: its buffer is {has}, and was named as {wanted}")
            }
            Self::Direction { handle, error } => write!(f, "handle {handle}: {error}"),
        }
    }
}

impl core::error::Error for HandleError {}
