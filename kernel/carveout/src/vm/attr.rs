//! What a mapping can be: closed enums, and never bits that could be combined at will.
//!
//! Guarantees: no value stands for a mapping that is both writable and executable. A memory type is one of four, each
//! with one encoding (ARM ARM B3.8.2, TEX remap off). So two mappings agree exactly when their [`MemoryType`]s do.

use crate::addr::{FRAME_SIZE, SECTION_SIZE};
use core::fmt;

/// A memory type with its cacheability, which is one for the inner and the outer caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum MemoryType {
    /// Normal, write-back, write-allocate. It is Shareable on an MPCore.
    WriteBack,
    /// Normal, non-cacheable. It is bufferable: writes combine, and need a barrier before a device is told.
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

/// The kernel's rights through a mapping. Users have none.
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

/// Whether Normal memory is marked Shareable. It is one choice for the whole machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Shareability {
    /// The machine has one core, such as a Cortex-A8.
    NonShareable,
    /// An SCU keeps the machine's cores coherent, as in a Cortex-A9 MPCore.
    Shareable,
}

/// The size of what a leaf maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeafSize {
    /// A small page: 4 KiB.
    Page,
    /// A large page: 64 KiB.
    LargePage,
    /// A section: 1 MiB.
    Section,
}

impl LeafSize {
    /// Returns the number of bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Page => FRAME_SIZE,
            Self::LargePage => 64 << 10,
            Self::Section => SECTION_SIZE,
        }
    }
}
