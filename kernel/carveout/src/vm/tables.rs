//! A window as a kernel gives it: addresses that nothing else uses, and the tables that translate them.
//!
//! Guarantees: [`Window::check`] finds every table where the machine can reach it and every first-level entry unused,
//! in each root, before a word is written.

use crate::addr::{PhysAddr, SECTION_SIZE, VirtAddr};
use crate::machine::Mmu;
use crate::vm::desc::{L1Desc, L2_TABLE_SIZE};
use crate::vm::range::VirtRange;
use crate::vm::walk::Ttbr;
use core::fmt;

/// The first-level tables that translate a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Roots<'r> {
    /// One translates it for the whole life of the machine: the root in force when the window is checked. TTBR1's is
    /// such a root, and so is the only root that a kernel has. Its entries change at run time: large buffers are mapped
    /// by sections.
    One,
    /// Each of these translates it, and each root that will be copied from one of them: a kernel with a root for each
    /// process, whose kernel half is a copy. The entries are written once, before the first buffer is made, and never
    /// change. So a copy that was made later needs no word from this crate. Large buffers are mapped by large pages of
    /// 64 KiB.
    Each(&'r [PhysAddr]),
}

/// Addresses that belong to this crate alone, and their tables.
///
/// ```
/// use carveout::addr::PhysAddr;
/// use carveout::embed::{Roots, Window};
/// use carveout::vm::range::VirtRange;
///
/// // SAFETY: the kernel uses none of these addresses, and no other part of it names the 15 KiB of tables.
/// let window = unsafe { Window::assume(VirtRange::new(0xc000_0000, 15), Roots::One, PhysAddr::new(0x6001_0000)) };
/// assert_eq!(window.range().sections(), 15);
/// ```
#[derive(Debug)]
pub struct Window<'r> {
    range: VirtRange,
    roots: Roots<'r>,
    tables: PhysAddr,
}

impl<'r> Window<'r> {
    /// Makes a window of `range`, which `roots` translate. Its second-level tables stand at `tables`, a multiple of
    /// 1 KiB: one KiB for each MiB of `range`, one after another. They need not be cleared.
    ///
    /// # Safety
    ///
    /// For as long as the machine runs:
    ///
    /// - Nothing but this crate writes a first-level entry of `range`, in any root that is or comes into force. A root
    ///   that translates `range` is one of `roots`, or a copy of one that was made after the window was taken over.
    /// - Nothing but this crate names the second-level tables. Their memory is mapped write-back.
    pub const unsafe fn assume(range: VirtRange, roots: Roots<'r>, tables: PhysAddr) -> Self {
        Self { range, roots, tables }
    }

    /// Returns the addresses.
    pub const fn range(&self) -> VirtRange {
        self.range
    }

    /// Returns the first-level tables.
    pub(crate) const fn roots(&self) -> Roots<'r> {
        self.roots
    }

    /// Returns where the second-level tables begin.
    pub const fn tables(&self) -> PhysAddr {
        self.tables
    }

    /// Returns the first `sections` of the window, or all of it if it has no more.
    pub(crate) fn first(self, sections: u32) -> Self {
        Self { range: self.range.first(sections), ..self }
    }

    /// Refuses a window whose tables cannot be used as they are. Nothing is written.
    ///
    /// # Errors
    ///
    /// [`WindowError`] says which table, and why.
    pub fn check<M: Mmu>(&self, mmu: &M) -> Result<(), WindowError> {
        let (registers, sections) = (mmu.registers(), self.range.sections());
        let section = |n: u32| VirtAddr::new(self.range.start().raw() + n * SECTION_SIZE);
        let ttbr = registers.ttbr_of(self.range.start());
        if registers.ttbr_of(section(sections.saturating_sub(1))) != ttbr {
            return Err(WindowError::Straddles { range: self.range, n: registers.n() });
        }
        let (tables, bytes) = (self.tables, sections * L2_TABLE_SIZE);
        aligned(tables, L2_TABLE_SIZE)?;
        if tables.raw().checked_add(bytes).is_none() || mmu.table(tables, bytes).is_none() {
            return Err(WindowError::OutOfReach { at: tables, bytes });
        }
        let (in_force, root_bytes) = (registers.table(ttbr), registers.table_bytes(ttbr));
        for &root in self.roots.of(&in_force) {
            aligned(root, root_bytes)?;
            if tables.raw() < root.raw() + root_bytes && root.raw() < tables.raw() + bytes {
                return Err(WindowError::Overlap { tables, root });
            }
            for va in (0..sections).map(section) {
                match mmu.table_word(entry(root, va)) {
                    Some(word) if word == L1Desc::FAULT.raw() => {}
                    Some(word) => return Err(WindowError::Used { va, root, word }),
                    None => return Err(WindowError::OutOfReach { at: root, bytes: root_bytes }),
                }
            }
        }
        if !self.roots.of(&in_force).contains(&in_force) {
            return Err(WindowError::NotInForce { ttbr, root: in_force });
        }
        Ok(())
    }
}

impl<'r> Roots<'r> {
    /// Returns the roots, if `in_force` is the root that translates the window now.
    pub(crate) const fn of(self, in_force: &'r PhysAddr) -> &'r [PhysAddr] {
        match self {
            Self::One => core::slice::from_ref(in_force),
            Self::Each(each) => each,
        }
    }
}

/// Returns where a root has the entry of an address.
pub(super) const fn entry(root: PhysAddr, va: VirtAddr) -> PhysAddr {
    PhysAddr::new(root.raw() + 4 * (va.raw() / SECTION_SIZE))
}

fn aligned(at: PhysAddr, to: u32) -> Result<(), WindowError> {
    if at.is_aligned(to) { Ok(()) } else { Err(WindowError::Misaligned { at, to }) }
}

/// Why the tables of a window cannot be used. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowError {
    /// TTBR0 translates a part of the window, and TTBR1 the rest.
    Straddles {
        /// The window.
        range: VirtRange,
        /// TTBCR.N: TTBR0 translates the addresses below 4 GiB / 2^N, or all of them if N is 0.
        n: u32,
    },
    /// A table does not stand on a multiple of its alignment.
    Misaligned {
        /// Where it stands.
        at: PhysAddr,
        /// Its alignment in bytes.
        to: u32,
    },
    /// The machine does not reach a table: [`Mmu::table`].
    OutOfReach {
        /// Where it stands.
        at: PhysAddr,
        /// Its bytes.
        bytes: u32,
    },
    /// The second-level tables lie over a first-level one.
    Overlap {
        /// Where the second-level tables begin.
        tables: PhysAddr,
        /// The first-level table.
        root: PhysAddr,
    },
    /// A first-level entry of the window is in use.
    Used {
        /// The first address that the entry translates.
        va: VirtAddr,
        /// The first-level table.
        root: PhysAddr,
        /// The entry.
        word: u32,
    },
    /// The root in force is not among the roots given.
    NotInForce {
        /// The register that translates the window.
        ttbr: Ttbr,
        /// The table that it names.
        root: PhysAddr,
    },
    /// The heap has no room for what is kept of each section.
    Heap,
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Straddles { range, n } => write!(
                f,
                "a window of {} sections at {} has a part in either half of the addresses with TTBCR.N = {n}; move it",
                range.sections(),
                range.start()
            ),
            Self::Misaligned { at, to } => write!(f, "the table at {at} is not a multiple of {to} bytes; align it"),
            Self::OutOfReach { at, bytes } => {
                write!(f, "the table at {at}, of {bytes} bytes: the machine has no address for it; map it for good")
            }
            Self::Overlap { tables, root } => {
                write!(f, "the second-level tables at {tables} lie over the first-level table at {root}; move them")
            }
            Self::Used { va, root, word } => {
                write!(
                    f,
                    "the entry of {va} in the table at {root} is {word:#010x}, and must be 0; choose other addresses"
                )
            }
            Self::NotInForce { ttbr, root } => write!(f, "{ttbr} has the table at {root}, which is not given; give it"),
            Self::Heap => f.write_str("no heap left for the books of the window"),
        }
    }
}

impl core::error::Error for WindowError {}
