//! The tables of a process, for kernels without tables of their own: a [`UserSpace`] over memory that the kernel gives.
//!
//! Guarantees: the tables translate what was mapped and is not unmapped yet, and nothing else. Entries go from fault to
//! valid and back (break-before-make, ARM ARM B3.10.1). No entry is global, and a user writes nothing that it can
//! execute. A table of either level is taken and given back with every core's memory of it gone, so that a number
//! (ASID) can have another process after this one.

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr, VirtAddr};
use crate::heap::filled;
use crate::machine::Mmu;
use crate::sync::{Lock, Rank};
use crate::vm::attr::{MemoryType, Shareability};
use crate::vm::desc::{L1Desc, L2_ENTRIES, L2_TABLE_SIZE, L2Desc, L2Table, UserLeaf};
use crate::vm::mapped::Part;
use crate::vm::sections::as_words;
use crate::vm::user::{Asid, UserAccess, UserRoot, UserSpace};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// First-level entries of the addresses below 2 GiB (TTBCR.N = 1).
const ROOT_ENTRIES: usize = 2048;
/// Frames of the first-level table.
const ROOT_FRAMES: u32 = 2;
/// Second-level tables in a frame.
const TABLES_A_FRAME: u32 = FRAME_SIZE / L2_TABLE_SIZE;
/// Pages that a second-level table translates.
const SECTION_PAGES: u32 = L2_ENTRIES as u32;
/// The pages that a process may have. The first MiB is nobody's, so that a null pointer faults.
const PAGES: Range<u32> = SECTION_PAGES..SECTION_PAGES * ROOT_ENTRIES as u32;

/// The address space of a process below 2 GiB, where TTBCR.N is 1.
pub struct UserTables<M: Mmu + 'static> {
    machine: &'static M,
    asid: Asid,
    root: PhysAddr,
    share: Shareability,
    books: Lock<Books>,
}

struct Books {
    first: &'static mut [L1Desc],
    first_at: PhysAddr,
    second: &'static mut [L2Table],
    second_at: PhysAddr,
    pxn: bool,
    /// The section that each second-level table translates, or 0.
    sections: Vec<u32>,
    /// The pages that are reserved, in order.
    reserved: Vec<Range<u32>>,
}

// SAFETY: the lock keeps users of the tables apart. `new` says that the value stays with its machine's thread if the
// machine is not for several.
unsafe impl<M: Mmu> Sync for UserTables<M> {}
// SAFETY: as above.
unsafe impl<M: Mmu> Send for UserTables<M> {}

impl<M: Mmu> fmt::Debug for UserTables<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tables of {} at {}", self.asid, self.root)
    }
}

impl<M: Mmu> UserTables<M> {
    /// Makes an address space in which nothing is mapped. The first 8 KiB of `memory` become its first-level table.
    /// Each KiB of the rest becomes a table for 1 MiB of addresses. Returns `None` if the heap is full.
    ///
    /// # Safety
    ///
    /// Until the value is dropped:
    /// - Nothing but it names the memory, which is mapped write-back.
    /// - No other address space has this number. Every core has forgotten the translations of one that had it, as it
    ///   has when a value of this type was dropped.
    /// - Unless cores may share the machine, the value stays on the thread that has it.
    ///
    /// # Panics
    ///
    /// If `memory` does not begin at a multiple of 8 KiB, if it has fewer than three frames, or if the machine does not
    /// reach it.
    pub unsafe fn new(machine: &'static M, asid: Asid, memory: FrameRange) -> Option<Self> {
        let (root, registers) = (memory.base(), machine.registers());
        assert!(root.is_aligned(ROOT_FRAMES * FRAME_SIZE) && memory.count() > ROOT_FRAMES, "{memory} holds no tables");
        let bytes = memory.count() << FRAME_SHIFT;
        let words = machine.table(root, bytes).expect("the machine reaches the tables");
        let count = ((memory.count() - ROOT_FRAMES) * TABLES_A_FRAME) as usize;
        let sections = filled(count, 0).ok()?;
        // SAFETY: the machine gave a pointer to all of the memory, which nothing else names (this function's contract).
        unsafe { words.as_ptr().write_bytes(0, bytes as usize / 4) };
        // SAFETY: as above: its first 8 KiB, and zeros are descriptors that fault.
        let first = unsafe { core::slice::from_raw_parts_mut(words.cast::<L1Desc>().as_ptr(), ROOT_ENTRIES) };
        let second = words.as_ptr().wrapping_add(ROOT_ENTRIES).cast::<L2Table>();
        // SAFETY: as above: the rest.
        let second = unsafe { core::slice::from_raw_parts_mut(second, count) };
        machine.publish(root, as_words(first));
        let second_at = PhysAddr::new(root.raw() + ROOT_FRAMES * FRAME_SIZE);
        machine.publish(second_at, as_words(second.as_flattened()));
        let reserved = Vec::new();
        let books = Books { first, first_at: root, second, second_at, pxn: registers.pxn, sections, reserved };
        Some(Self { machine, asid, root, share: registers.shareability(), books: Lock::new(Rank::USER, books) })
    }

    /// Returns what a core needs to run by these tables.
    pub const fn root(&self) -> UserRoot<'_> {
        // SAFETY: the table stands there, published, until this value is dropped. It has user mappings alone, which are
        // not global. No other one has the number (contract of `new`). Part and `map_own` vouch for the types (I1).
        unsafe { UserRoot::assume(self.root, self.asid) }
    }

    /// Maps memory of the process's own at `va`: for `None` its code, which it reads and executes. The addresses are
    /// reserved by this. [`UserSpace::unmap`] and [`UserSpace::release`] end it. Returns whether the addresses were
    /// free, and tables for them.
    ///
    /// # Safety
    ///
    /// The frames are the process's until they are unmapped. All other translations of them are write-back, and have
    /// the shareability of the machine's Normal memory (I1). What they hold is for the process to see (I5). Code that
    /// was just written there is published to instruction fetches.
    ///
    /// # Panics
    ///
    /// If `va` is not a multiple of 4 KiB.
    pub unsafe fn map_own(&self, va: VirtAddr, frames: FrameRange, access: Option<UserAccess>) -> bool {
        assert!(va.is_aligned(FRAME_SIZE), "{va} is within a page");
        let first = va.raw() >> FRAME_SHIFT;
        let mut books = self.books.lock();
        if books.take(self.machine, first..first + frames.count()).is_none() {
            return false;
        }
        let share = self.share;
        books.map(self.machine, first, frames, |base| match access {
            Some(access) => L2Desc::user(base, MemoryType::WriteBack, access, share),
            None => L2Desc::user_code(base, share),
        });
        true
    }

    /// Returns what the process finds at an address, or `None` if nothing is mapped there. The physical address is that
    /// of the byte.
    pub fn translate(&self, va: VirtAddr) -> Option<(PhysAddr, UserLeaf)> {
        let page = va.raw() >> FRAME_SHIFT;
        let books = self.books.lock();
        let table = books.table_of(page / SECTION_PAGES)?;
        let leaf = books.second[table][(page % SECTION_PAGES) as usize].decode_user()?;
        Some((PhysAddr::new(leaf.base.raw() + va.raw() % FRAME_SIZE), leaf))
    }
}

impl Books {
    /// Returns the second-level table of a section, if it has one.
    fn table_of(&self, section: u32) -> Option<usize> {
        self.sections.iter().position(|&of| of == section && section != 0)
    }

    /// Returns the first page of the lowest gap of so many pages, with a free page on either side of them.
    fn gap(&self, pages: u32) -> Option<u32> {
        let mut start = PAGES.start;
        for taken in &self.reserved {
            if taken.start.checked_sub(start).is_some_and(|free| free > pages) {
                break;
            }
            start = taken.end + 1;
        }
        (pages <= PAGES.end.saturating_sub(start)).then_some(start)
    }

    /// Reserves pages, and gives each of their sections a table. Returns `None`, and changes nothing, if they are not
    /// free or if there are too few tables.
    fn take<M: Mmu>(&mut self, machine: &M, pages: Range<u32>) -> Option<()> {
        let place = self.reserved.partition_point(|taken| taken.end <= pages.start);
        let after = self.reserved.get(place).map_or(PAGES.end, |taken| taken.start);
        if pages.is_empty() || pages.start < PAGES.start || pages.end > after {
            return None;
        }
        let lacking = sections(&pages).filter(|&section| self.table_of(section).is_none()).count();
        if lacking > self.sections.iter().filter(|&&of| of == 0).count() {
            return None;
        }
        self.reserved.try_reserve(1).ok()?;
        for section in sections(&pages) {
            if self.table_of(section).is_none() {
                let free = self.sections.iter().position(|&of| of == 0).expect("there are enough");
                self.sections[free] = section;
                let table = PhysAddr::new(self.second_at.raw() + free as u32 * L2_TABLE_SIZE);
                self.link(machine, section, L1Desc::user_table(table, self.pxn));
            }
        }
        self.reserved.insert(place, pages);
        Some(())
    }

    /// Writes the first-level entry of a section.
    fn link<M: Mmu>(&mut self, machine: &M, section: u32, entry: L1Desc) {
        let words = &mut self.first[section as usize..][..1];
        words[0] = entry;
        machine.publish(PhysAddr::new(self.first_at.raw() + 4 * section), as_words(words));
    }

    /// Changes the entries of pages, by section.
    fn change<M: Mmu>(&mut self, machine: &M, pages: &Range<u32>, mut change: impl FnMut(u32, &mut [L2Desc])) {
        for section in sections(pages) {
            let first = section * SECTION_PAGES;
            let of = pages.start.max(first)..pages.end.min(first + SECTION_PAGES);
            let table = self.table_of(section).expect("reserved pages have tables");
            let from = (of.start - first) as usize;
            let entries = &mut self.second[table][from..from + of.len()];
            change(of.start - pages.start, entries);
            let at = self.second_at.raw() + table as u32 * L2_TABLE_SIZE + 4 * from as u32;
            machine.publish(PhysAddr::new(at), as_words(entries));
        }
    }

    fn map<M: Mmu>(&mut self, machine: &M, first: u32, frames: FrameRange, desc: impl Fn(PhysAddr) -> L2Desc) {
        let pages = first..first + frames.count();
        assert!(self.reserved.iter().any(|taken| taken.start <= first && pages.end <= taken.end), "not reserved");
        self.change(machine, &pages, |from, entries| {
            for (n, entry) in (from..).zip(entries) {
                assert!(*entry == L2Desc::FAULT, "a page is mapped already");
                *entry = desc(PhysAddr::new(frames.base().raw() + (n << FRAME_SHIFT)));
            }
        });
    }
}

/// Returns the sections that hold some of these pages.
fn sections(pages: &Range<u32>) -> Range<u32> {
    pages.start / SECTION_PAGES..pages.end.div_ceil(SECTION_PAGES)
}

// SAFETY: `Books` gives each page to one reservation, and each section of it a table. `map` writes the part's type and
// the machine's shareability, not global and execute-never. `unmap` is fault, publish, invalidate by the number and the
// addresses, all under the lock. The number is this value's alone (contract of `new`), and dropping it makes every core
// forget it.
unsafe impl<M: Mmu> UserSpace for UserTables<M> {
    fn first_level(&self) -> PhysAddr {
        self.root
    }

    fn reserve(&self, pages: u32) -> Option<VirtAddr> {
        let mut books = self.books.lock();
        let first = books.gap(pages)?;
        books.take(self.machine, first..first + pages)?;
        Some(VirtAddr::new(first << FRAME_SHIFT))
    }

    /// Gives reserved addresses back, at which nothing is mapped.
    ///
    /// # Panics
    ///
    /// If they were not reserved as they are given back.
    fn release(&self, va: VirtAddr, pages: u32) {
        let first = va.raw() >> FRAME_SHIFT;
        let pages = first..first + pages;
        let mut books = self.books.lock();
        let place = books.reserved.iter().position(|taken| *taken == pages).expect("given back as reserved");
        books.reserved.remove(place);
        let mut unlinked = false;
        for section in sections(&pages) {
            if !books.reserved.iter().any(|taken| sections(taken).contains(&section)) {
                let table = books.table_of(section).expect("reserved pages have tables");
                books.link(self.machine, section, L1Desc::FAULT);
                books.sections[table] = 0;
                unlinked = true;
            }
        }
        if unlinked {
            // A core may remember where the second-level table was.
            self.machine.invalidate_asid(self.asid);
        }
    }

    /// Maps a part of whole pages at reserved addresses.
    ///
    /// # Panics
    ///
    /// If the part is not of whole pages, or if the addresses are not reserved or something is mapped there.
    fn map(&self, va: VirtAddr, part: Part<'_>, access: UserAccess) {
        assert!(part.pa().is_aligned(FRAME_SIZE) && part.bytes().is_multiple_of(FRAME_SIZE), "not of whole pages");
        let frames = FrameRange::covering(part.pa().raw().into(), part.bytes().into());
        let (memory, share) = (part.mapped().memory(), self.share);
        let mut books = self.books.lock();
        books.map(self.machine, va.raw() >> FRAME_SHIFT, frames, |base| L2Desc::user(base, memory, access, share));
    }

    fn unmap(&self, va: VirtAddr, pages: u32) {
        let first = va.raw() >> FRAME_SHIFT;
        let mut books = self.books.lock();
        books.change(self.machine, &(first..first + pages), |_, entries| entries.fill(L2Desc::FAULT));
        self.machine.invalidate_user(self.asid, va, pages << FRAME_SHIFT);
    }
}

impl<M: Mmu> Drop for UserTables<M> {
    fn drop(&mut self) {
        let books = &mut *self.books.lock();
        books.first.fill(L1Desc::FAULT);
        self.machine.publish(self.root, as_words(books.first));
        self.machine.invalidate_asid(self.asid);
    }
}
