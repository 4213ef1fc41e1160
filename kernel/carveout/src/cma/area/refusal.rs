//! Refusals: why an area gave nothing, with the figures that say so.
//!
//! Guarantees: a refusal took nothing from anybody, and its figures are those of the moment. Each text says what was
//! asked for and what there is.

use crate::addr::{Bytes, FRAME_SIZE, PhysAddr};
use crate::cma::index::MAX_ALIGN_ORDER;
use crate::cma::reach::Reach;
use core::fmt;

/// Gives the largest alignment an allocation can ask for, in bytes.
pub const MAX_ALIGN: u32 = FRAME_SIZE << MAX_ALIGN_ORDER;

/// Says why an allocation was refused. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocError {
    /// No bytes were asked for.
    ZeroSize,
    /// The alignment is not a power of two, or larger than [`MAX_ALIGN`].
    Alignment {
        /// What was asked for, in bytes.
        align: u32,
    },
    /// The device has no area. Either there is no default one, or the device names one that was refused: then the text
    /// says why.
    NoArea(Option<&'static str>),
    /// The area is the kernel's now. [`Dma::take_area`](crate::dma::Dma::take_area) makes it ours.
    NotTaken,
    /// Fewer bytes are free than asked for.
    NoCapacity {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// Bytes free.
        free: u64,
    },
    /// Enough is free, but no run of it is long enough at that alignment, anywhere in the area.
    Fragmented(NoRun),
    /// There is a run, but the device cannot use it: it does not reach the last byte, or the run crosses its boundary,
    /// or the run is not aligned where the device sees it.
    OutOfReach(NoRun),
    /// There would be a run if a lent frame were not open now: to a closure, or to another core's copy.
    Open {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// Address of the frame.
        frame: PhysAddr,
    },
    /// All buffers of this size that the contract declares are allocated.
    ContractExceeded {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// Buffers declared for them.
        declared: u32,
    },
    /// The contract declares no buffer as large as this at this alignment.
    NotDeclared {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// The alignment asked for, in bytes, at least a frame.
        align: u32,
        /// Bytes of the largest buffer that it declares at that alignment, or 0 if it declares none.
        largest: u64,
    },
    /// There are as many buffers as records.
    TooManyBuffers {
        /// How many records there are.
        limit: usize,
    },
}

impl AllocError {
    /// Returns whether more free frames could have changed it.
    pub(crate) const fn is_of_room(&self) -> bool {
        matches!(self, Self::NoCapacity { .. } | Self::Fragmented(_) | Self::OutOfReach(_) | Self::Open { .. })
    }

    /// Adds the limits of the device that asked, if the text says them.
    pub(crate) fn within(mut self, reach: impl FnOnce() -> Reach) -> Self {
        if let Self::Fragmented(no_run) | Self::OutOfReach(no_run) = &mut self {
            no_run.reach = reach();
        }
        self
    }
}

/// Says what was asked for and what there is, where no free run fits a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRun {
    /// Bytes asked for, in whole frames.
    pub wanted: u64,
    /// The alignment asked for, in bytes, at least a frame. The address that the device is told has it.
    pub align: u32,
    /// What the device reaches.
    pub reach: Reach,
    /// Bytes free.
    pub free: u64,
    /// The largest free run at that alignment that the device reaches, in bytes. It is the most that would be given.
    pub largest: u64,
    /// The largest free run at any address, in bytes.
    pub any: u64,
}

impl NoRun {
    /// Makes the error of it. `elsewhere`: there is a run that the device cannot use.
    pub(super) const fn refusal(self, elsewhere: bool) -> AllocError {
        if elsewhere { AllocError::OutOfReach(self) } else { AllocError::Fragmented(self) }
    }
}

impl fmt::Display for NoRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { wanted, align, reach, free, largest, any } = self;
        write!(f, "no run of {}", Bytes(wanted))?;
        let aligned = align > FRAME_SIZE;
        if aligned {
            write!(f, " aligned to {}", Bytes(align.into()))?;
        }
        write!(f, "{reach}: {} free in the area, the largest ", Bytes(free))?;
        match (reach == Reach::ALL, aligned) {
            (true, false) => return write!(f, "run {}", Bytes(largest)),
            (true, true) => write!(f, "run at that alignment")?,
            (false, false) => write!(f, "such run")?,
            (false, true) => write!(f, "such run at that alignment")?,
        }
        write!(f, " {}, the largest of any kind {}", Bytes(largest), Bytes(any))
    }
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ZeroSize => write!(f, "allocation of no bytes"),
            Self::Alignment { align } => {
                let most = Bytes(MAX_ALIGN.into());
                write!(f, "alignment of {align:#x} bytes is not a power of two up to {most}")
            }
            Self::NoArea(None) => {
                write!(f, "the device has no area to allocate from; give it one, or make one the default")
            }
            Self::NoArea(Some(why)) => write!(f, "the device has no area to allocate from: {why}"),
            Self::NotTaken => write!(f, "the device's area is the kernel's now; it can be had once it is taken"),
            Self::NoCapacity { wanted, free } => {
                write!(f, "no room for {}: {} free in the area", Bytes(wanted), Bytes(free))
            }
            Self::Fragmented(no_run) | Self::OutOfReach(no_run) => write!(f, "{no_run}"),
            Self::Open { wanted, frame } => {
                write!(f, "no run of {} until the lent frame {frame} is closed, which is open just now", Bytes(wanted))
            }
            Self::NotDeclared { wanted, align, largest } if align > FRAME_SIZE => write!(
                f,
                "no buffer of {} aligned to {} is declared: the contract's largest at that alignment are of {}",
                Bytes(wanted),
                Bytes(align.into()),
                Bytes(largest)
            ),
            Self::NotDeclared { wanted, largest, .. } => write!(
                f,
                "no buffer of {} is declared: the contract's largest are of {}",
                Bytes(wanted),
                Bytes(largest)
            ),
            Self::ContractExceeded { wanted, declared } => {
                write!(f, "no room for {}: all {declared} that the contract declares are allocated", Bytes(wanted))
            }
            Self::TooManyBuffers { limit } => write!(
                f,
                "all {limit} buffer records are in use, and more come from the heap where interrupts are not masked \
                 alone; free a buffer, or ask with interrupts on"
            ),
        }
    }
}

impl core::error::Error for AllocError {}
