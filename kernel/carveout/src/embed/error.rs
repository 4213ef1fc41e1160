//! Why what a kernel gave cannot be taken over.

use super::needs::MOST_RECORDS;
use crate::addr::{FrameRange, PhysAddr};
use crate::carve_out::CarveOut;
use crate::vm::alias::Alias;
use crate::vm::ledger::LedgerError;
use crate::vm::registers::RegisterError;
use crate::vm::tables::WindowError;
use alloc::collections::TryReserveError;
use core::fmt;

/// Why what a kernel gave cannot be taken over. No table was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EmbedError {
    /// A register of the core that this runs on.
    Register(RegisterError),
    /// The tables of the window.
    Window(WindowError),
    /// The carved runs.
    CarveOut(LedgerError),
    /// There are more carve-outs than [`CarveOut::MAX`].
    TooManyAreas {
        /// The number of them.
        given: usize,
    },
    /// The window has no room for the images of the carve-outs that it must hold.
    TooFewSections {
        /// The sections of 1 MiB that it has.
        given: u32,
        /// The sections that it must have.
        needed: u32,
        /// The sections that it must have where guards may be given up:
        /// [`Builder::sparing_guards`](crate::embed::Builder::sparing_guards).
        least: u32,
    },
    /// The number of records is 0, or more than [`Builder::MOST_RECORDS`](crate::embed::Builder::MOST_RECORDS).
    Records {
        /// The number asked for.
        given: usize,
    },
    /// A table lies in a carve-out, whose frames nothing may map (I2).
    TableCarved {
        /// Where the table begins.
        at: PhysAddr,
        /// The carved run.
        frames: FrameRange,
    },
    /// A table lies in RAM by its second name, whose cache lines are not those of the first (I1).
    TableAlias {
        /// Where the table begins.
        at: PhysAddr,
        /// The names.
        alias: Alias,
    },
    /// The heap has no room for the books of the carve-outs.
    Heap,
}

impl fmt::Display for EmbedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(error) => error.fmt(f),
            Self::Window(error) => error.fmt(f),
            Self::CarveOut(error) => error.fmt(f),
            Self::TooManyAreas { given } => {
                write!(f, "{given} carve-outs; {} are possible: give one several ranges", CarveOut::MAX)
            }
            Self::TooFewSections { given, needed, least } if needed == least => {
                write!(f, "the window has {given} sections of 1 MiB; it needs {needed} to have each carved frame once")
            }
            Self::TooFewSections { given, needed, least } => write!(
                f,
                "the window has {given} sections of 1 MiB; it needs {needed} for a guard on either side of every buffer, \
                 or {least} where guards may be given up"
            ),
            Self::Records { given } => {
                write!(f, "records for {given} buffers; between 1 and {MOST_RECORDS} are possible")
            }
            Self::TableCarved { at, frames } => {
                write!(f, "I2: the table at {at} lies in carved {frames}; put it in RAM that is not carved out")
            }
            Self::TableAlias { at, alias } => {
                write!(f, "I1: the table at {at} is named by an alias, for {alias}; give its first name")
            }
            Self::Heap => f.write_str("no heap left for the books of the carve-outs"),
        }
    }
}

impl core::error::Error for EmbedError {}

impl From<WindowError> for EmbedError {
    fn from(error: WindowError) -> Self {
        match error {
            WindowError::Heap => Self::Heap,
            error => Self::Window(error),
        }
    }
}

impl From<LedgerError> for EmbedError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Heap { .. } => Self::Heap,
            error => Self::CarveOut(error),
        }
    }
}

impl From<TryReserveError> for EmbedError {
    fn from(_: TryReserveError) -> Self {
        Self::Heap
    }
}
