//! Address spaces of users: pages of carved memory in the lower half of a process.
//!
//! Guarantees: a user's page is a second translation of frames that the kernel has mapped. It takes type, cacheability
//! and shareability from the kernel's mapping, and begins after that and ends before it ([`Part`] is the proof). So all
//! translations of a frame agree (I1), and the ledger needs one claim for all of them. A user never executes such a
//! page.

use crate::addr::{Frame, PhysAddr, VirtAddr};
use crate::vm::mapped::Part;
use core::fmt;

/// A user's rights through a mapping. There is none to execute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum UserAccess {
    /// The user reads.
    Read,
    /// The user reads and writes.
    ReadWrite,
}

impl fmt::Display for UserAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "r--",
            Self::ReadWrite => "rw-",
        })
    }
}

/// The address space of a process. The embedding kernel has one a process, and the module asks it to map and unmap.
///
/// # Safety
///
/// The implementer's duties, on which I1, I3 and I4 rest:
/// - Addresses that [`reserve`](Self::reserve) returned are nobody else's until [`release`](Self::release).
/// - After [`map`](Self::map), the process finds exactly the part's frames there, with the memory type of
///   [`part.mapped()`](Part::mapped) and the shareability that the machine's Normal memory has. It has these rights and
///   no others. The descriptors are not global (nG) and never execute (XN).
/// - After [`unmap`](Self::unmap), no core translates these addresses for this process, and every access made through
///   an older translation is complete.
/// - An address space number (ASID) that another process had is used after every core forgot its translations.
/// - [`root`](Self::root) is the first-level table that TTBR0 holds while the process runs.
pub unsafe trait UserSpace: Sync {
    /// Returns where the space's first-level table is.
    fn root(&self) -> PhysAddr;

    /// Reserves addresses for so many pages, and what tables their mappings need. Returns `None` if there is no room.
    fn reserve(&self, pages: u32) -> Option<VirtAddr>;

    /// Gives reserved addresses back, at which nothing is mapped.
    fn release(&self, va: VirtAddr, pages: u32);

    /// Maps a part of whole pages at reserved addresses, at which nothing is mapped. It takes no memory and does not
    /// fail.
    fn map(&self, va: VirtAddr, part: Part<'_>, access: UserAccess);

    /// Ends the mappings of so many pages. Some of them may not be mapped. It takes no memory and does not fail.
    fn unmap(&self, va: VirtAddr, pages: u32);
}

/// Who knows which carved pages users may have, for the [audit](super::audit).
pub trait UserPages: fmt::Debug {
    /// Returns the rights that a process may have to a frame at an address, by its first-level table.
    fn permitted(&self, root: PhysAddr, va: VirtAddr, frame: Frame) -> Option<UserAccess>;
}
