//! What a mapping can be: closed enums, never OR-able bits.
//!
//! Guarantees: a mapping that is writable and executable cannot be expressed; a memory type is one of four, each with
//! one encoding (ARM ARM B3.8.2, TEX remap off), so that two mappings agree exactly when their [`MemoryType`]s do.

use core::fmt;

/// Memory type and cacheability, inner and outer alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum MemoryType {
    /// Normal, write-back, write-allocate. Shareable on an MPCore.
    WriteBack,
    /// Normal, non-cacheable: bufferable, so writes combine and need a barrier before a device is told.
    NonCacheable,
    /// Device: registers.
    Device,
    /// Strongly-ordered.
    StronglyOrdered,
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteBack => "write-back",
            Self::NonCacheable => "non-cacheable",
            Self::Device => "device",
            Self::StronglyOrdered => "strongly-ordered",
        })
    }
}

/// What the kernel may do through a mapping. Users may do nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Access {
    /// Read only, execute-never.
    Read,
    /// Read and write, execute-never.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "r--",
            Self::ReadWrite => "rw-",
            Self::ReadExecute => "r-x",
        })
    }
}

/// Whether Normal write-back memory is marked Shareable: the whole machine's choice, made once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Shareability {
    /// One core, as Cortex-A8.
    NonShareable,
    /// Cores kept coherent by an SCU, as Cortex-A9 MPCore.
    Shareable,
}
