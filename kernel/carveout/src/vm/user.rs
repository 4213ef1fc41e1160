//! Address spaces of users: pages of carved memory in the lower half of a process.
//!
//! Guarantees: a user's page is a second translation of frames that the kernel has mapped. It takes type, cacheability
//! and shareability from the kernel's mapping, and begins after that and ends before it ([`Part`] is the proof). So all
//! translations of a frame agree (I1), and the ledger needs one claim for all of them. A user never executes such a
//! page.

use crate::addr::{Frame, PhysAddr, VirtAddr};
use crate::vm::mapped::Part;
use core::fmt;
use core::marker::PhantomData;
use core::num::NonZeroU8;

/// A user's rights through a mapping. There is none to execute.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
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

/// The number of an address space (ASID, ARM ARM B3.9.1). The number 0 is no process's: it is in force while none runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Asid(NonZeroU8);

impl Asid {
    /// Makes a number, from 1 to 255.
    pub const fn new(number: u8) -> Option<Self> {
        match NonZeroU8::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Returns the number.
    pub const fn number(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for Asid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ASID {}", self.0)
    }
}

/// What a core needs to translate the addresses of a process: its first-level table and its number. While a core runs
/// by it, the tables live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UserRoot<'t> {
    table: PhysAddr,
    asid: Asid,
    tables: PhantomData<&'t ()>,
}

impl UserRoot<'_> {
    /// Makes the root of a table.
    ///
    /// # Safety
    ///
    /// While the value lives:
    /// - At `table`, a multiple of 8 KiB, stands a first-level table of the addresses below 2 GiB (TTBCR.N = 1). The
    ///   machine's walks read it.
    /// - Its mappings are not global. They agree with all other translations of their frames (I1). They give a user
    ///   nothing of the kernel's.
    /// - No other table is in force with that number, and no core remembers translations of another one.
    pub const unsafe fn assume(table: PhysAddr, asid: Asid) -> Self {
        Self { table, asid, tables: PhantomData }
    }

    /// Returns the address of the first-level table.
    pub const fn table(&self) -> PhysAddr {
        self.table
    }

    /// Returns the number.
    pub const fn asid(&self) -> Asid {
        self.asid
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
/// - [`first_level`](Self::first_level) is the table that TTBR0 holds while the process runs.
pub unsafe trait UserSpace: Send + Sync {
    /// Returns where the space's first-level table is.
    fn first_level(&self) -> PhysAddr;

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
