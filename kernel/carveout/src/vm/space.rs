//! Mapping and unmapping: the only place that writes descriptors.
//!
//! Guarantees: a [`Region`] alone writes its run of first-level entries. A mapping is made only where nothing was
//! mapped (break-before-make by construction, ARM ARM B3.10.1). [`Mapped`] is the proof that a translation exists, and
//! it ends by being moved into [`Region::unmap`]. When that returns, no observer can use the translation any more:
//! unmap, DSB, TLB invalidate, DSB (the first half of I3). Mappings are made and ended by the steps of [`MAP`] and
//! [`UNMAP`], in their order. These steps also claim carved frames in the [`Ledger`] and release them (I1).

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::heap::filled;
use crate::machine::Mmu;
use crate::protocol::{MAP, MapRow, MapStep, UNMAP};
use crate::vm::attr::{Access, MemoryType, Shareability};
use crate::vm::desc::{L1Desc, L1Entry, L2_ENTRIES, L2_TABLE_SIZE, L2Desc, L2Table, LARGE_PAGE_SIZE};
use crate::vm::ledger::{Ledger, LedgerError};
use crate::vm::mapped::{Mapped, RegionId};
use crate::vm::range::VirtRange;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// Why a mapping was refused. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// There is no frame to map.
    Empty,
    /// The addresses are not all in the region.
    OutsideRegion {
        /// First address asked for.
        va: VirtAddr,
        /// Frames to be mapped there.
        frames: FrameRange,
    },
    /// The virtual address is not a multiple of 4 KiB.
    Misaligned {
        /// The address.
        va: VirtAddr,
    },
    /// Something is mapped there already.
    Occupied {
        /// The first address at which something is mapped.
        va: VirtAddr,
    },
    /// No second-level table is left.
    NoTable {
        /// The section that needs one.
        va: VirtAddr,
        /// The number of tables that the region has.
        tables: u32,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "cannot map: no frames"),
            Self::OutsideRegion { va, frames } => write!(f, "cannot map {frames} at {va}: outside the region"),
            Self::Misaligned { va } => write!(f, "cannot map at {va}: not a multiple of 4 KiB"),
            Self::Occupied { va } => write!(f, "cannot map at {va}: already mapped"),
            Self::NoTable { va, tables } => {
                write!(f, "cannot map at {va}: all {tables} second-level tables of the region are in use")
            }
        }
    }
}

impl core::error::Error for MapError {}

/// How a region gets its second-level tables.
#[derive(Debug)]
enum Tables {
    /// They are taken from the front as sections need them, and never given back. `used` are taken.
    OnDemand { used: u32 },
    /// Each section has one from the start. A section descriptor may stand in the place of its pointer while it is
    /// mapped.
    OneEach {
        /// Pages mapped in each section.
        mapped: Vec<u16>,
    },
}

/// A run of virtual addresses and the descriptors that translate them.
#[derive(Debug)]
pub struct Region<'m> {
    id: RegionId,
    range: VirtRange,
    share: Shareability,
    l1: &'m mut [L1Desc],
    l1_at: PhysAddr,
    l2: &'m mut [L2Table],
    l2_at: PhysAddr,
    tables: Tables,
}

/// Pages of a section.
const SECTION_PAGES: u32 = SECTION_SIZE >> FRAME_SHIFT;
/// Pages of a large page. It has as many entries.
const LARGE_PAGES: u32 = LARGE_PAGE_SIZE >> FRAME_SHIFT;

/// A part of a mapping that lies in one section of its region.
#[derive(Clone, Copy)]
struct Chunk {
    section: usize,
    /// The first page, counted from the section's start.
    page: u32,
    pa: PhysAddr,
    /// At least one.
    pages: u32,
}

impl Chunk {
    /// Returns whether a section descriptor can map it.
    const fn is_section(self) -> bool {
        self.pages == SECTION_PAGES && self.pa.is_aligned(SECTION_SIZE)
    }

    /// Returns its entries of the section's table.
    const fn entries(self) -> Range<usize> {
        self.page as usize..(self.page + self.pages) as usize
    }

    /// Calls `each` for each of the largest leaves that fit, with its first page in the section, its frame, and its
    /// pages: 16 or 1.
    fn for_each_leaf(self, mut each: impl FnMut(usize, PhysAddr, u32)) {
        let Self { mut page, mut pa, pages: mut left, .. } = self;
        // Both advance together. So they agree modulo a large page always or never.
        let alike = (page << FRAME_SHIFT) % LARGE_PAGE_SIZE == pa.raw() % LARGE_PAGE_SIZE;
        while left > 0 {
            let pages = if alike && left >= LARGE_PAGES && page % LARGE_PAGES == 0 { LARGE_PAGES } else { 1 };
            each(page as usize, pa, pages);
            page += pages;
            pa = PhysAddr::new(pa.raw().wrapping_add(pages << FRAME_SHIFT));
            left -= pages;
        }
    }
}

/// The words that translate a chunk.
#[derive(Clone, Copy)]
enum Words {
    /// The first-level entry of its section.
    Section,
    /// Entries of this one of the region's tables.
    Table(usize),
}

/// The rows as they are taken.
const TO_MAP: MapRow = MapRow::of(&MAP);
const TO_UNMAP: MapRow = MapRow::of(&UNMAP);

impl<'m> Region<'m> {
    /// Makes a region whose sections get second-level tables from `l2` as they need them. This is for what is mapped
    /// once: the direct map, devices.
    ///
    /// `l1` are the first-level entries of `range`, one a MiB, at physical address `l1_at`. `l2` stands at `l2_at`, a
    /// multiple of 1 KiB. Entries of `l1` may be valid already. They are left alone.
    ///
    /// # Safety
    ///
    /// `l1` and `l2` are the only names of those tables, and the tables stand at `l1_at` and `l2_at`.
    ///
    /// # Panics
    ///
    /// If `l1` has not one entry for each section of `range`, or if `l2_at` is not a multiple of 1 KiB.
    pub unsafe fn on_demand(
        range: VirtRange,
        share: Shareability,
        l1: &'m mut [L1Desc],
        l1_at: PhysAddr,
        l2: &'m mut [L2Table],
        l2_at: PhysAddr,
    ) -> Self {
        assert!(l1.len() == range.sections() as usize && l2_at.is_aligned(L2_TABLE_SIZE));
        let tables = Tables::OnDemand { used: 0 };
        Self { id: RegionId::next(), range, share, l1, l1_at, l2, l2_at, tables }
    }

    /// Makes a region that holds a second-level table for each of its sections from the start. So a mapping at run time
    /// never lacks one (I6). The tables are cleared and published here. It takes two bytes a section from the heap. If
    /// the heap is full, nothing is written and the region is refused.
    ///
    /// # Safety
    ///
    /// As [`on_demand`](Self::on_demand).
    ///
    /// # Errors
    ///
    /// [`TryReserveError`] if the heap has no room for two bytes a section.
    ///
    /// # Panics
    ///
    /// If `l1` or `l2` has not one entry for each section of `range`, if an entry of `l1` is in use, or if `l2_at` is
    /// not a multiple of 1 KiB.
    #[cold]
    pub unsafe fn one_each<M: Mmu>(
        mmu: &M,
        range: VirtRange,
        share: Shareability,
        l1: &'m mut [L1Desc],
        l1_at: PhysAddr,
        l2: &'m mut [L2Table],
        l2_at: PhysAddr,
    ) -> Result<Self, TryReserveError> {
        assert!(l1.len() == range.sections() as usize && l2.len() == l1.len() && l2_at.is_aligned(L2_TABLE_SIZE));
        let tables = Tables::OneEach { mapped: filled(l1.len(), 0)? };
        let region = Self { id: RegionId::next(), range, share, l1, l1_at, l2, l2_at, tables };
        for section in 0..region.l1.len() {
            assert!(region.l1[section] == L1Desc::FAULT, "the window's entries are unused");
            region.l2[section] = [L2Desc::FAULT; L2_ENTRIES];
            region.publish_l2(mmu, section, 0..L2_ENTRIES);
            region.l1[section] = L1Desc::table(region.table_at(section));
        }
        region.publish_l1(mmu, 0, region.l1.len());
        Ok(region)
    }

    /// Returns the region's number, which no other region has.
    pub(crate) const fn id(&self) -> RegionId {
        self.id
    }

    /// Returns the region's addresses.
    pub const fn range(&self) -> VirtRange {
        self.range
    }

    /// Maps `frames`, none of which is carved, at `va`. Takes sections, large pages and small pages, the largest that
    /// fit. Nothing may be mapped there before: the entries go from fault to valid.
    ///
    /// # Safety
    ///
    /// No other translation of the frames has another type while this one lasts (I1). The walks of `mmu` read this
    /// region's tables, and the mapping is ended through that machine.
    ///
    /// # Errors
    ///
    /// [`MapError::Empty`] if there are no frames. [`MapError::Misaligned`] if `va` is not a multiple of 4 KiB.
    /// [`MapError::OutsideRegion`] if the mapping would leave the region. [`MapError::Occupied`] if something is mapped
    /// there. [`MapError::NoTable`] if a section needs a second-level table and none is left. Nothing is written then.
    pub unsafe fn map<M: Mmu>(
        &mut self,
        mmu: &M,
        va: VirtAddr,
        frames: FrameRange,
        memory: MemoryType,
        access: Access,
    ) -> Result<Mapped, MapError> {
        // No ledger has the frames: the caller's promise stands in for the claim.
        self.make_room(mmu, va, frames)?;
        self.map_sections(mmu, va, frames, memory, access);
        Ok(Mapped { va, frames, memory, by: self.id })
    }

    /// Maps carved frames for reads and writes, as [`map`](Self::map) does, once the ledger has given them to this
    /// mapping alone.
    ///
    /// # Errors
    ///
    /// The ledger refuses. Nothing was written.
    ///
    /// # Panics
    ///
    /// If the region has no place for the frames there.
    ///
    /// # Safety
    ///
    /// `mmu` is the machine whose walks read this region's tables. The mapping is ended through it and this ledger,
    /// which is the only one of these frames.
    #[inline]
    pub(crate) unsafe fn map_carved<M: Mmu>(
        &mut self,
        mmu: &M,
        ledger: &mut Ledger<'_>,
        va: VirtAddr,
        frames: FrameRange,
        memory: MemoryType,
    ) -> Result<Mapped, LedgerError> {
        const { assert!(TO_MAP.before.len() == 1 && TO_MAP.after.is_empty()) };
        match TO_MAP.before[0] {
            MapStep::Claim => ledger.claim(frames, memory)?,
            _ => unreachable!("no step for all frames of a mapping"),
        }
        assert!(self.make_room(mmu, va, frames).is_ok(), "frames without a place at these addresses");
        self.map_sections(mmu, va, frames, memory, Access::ReadWrite);
        Ok(Mapped { va, frames, memory, by: self.id })
    }

    /// Refuses a mapping that has no place here, before the first write. Gives each section that will hold pages a table.
    #[inline]
    fn make_room<M: Mmu>(&mut self, mmu: &M, va: VirtAddr, frames: FrameRange) -> Result<(), MapError> {
        self.check(va, frames)?;
        match self.tables {
            Tables::OnDemand { used } => self.provide_tables(mmu, va, frames, used),
            Tables::OneEach { .. } => Ok(()),
        }
    }

    /// Takes the steps of [`MAP`] on descriptors, for which there is room.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a fortieth of an allocation's instructions: BENCH.md")]
    fn map_sections<M: Mmu>(&mut self, mmu: &M, va: VirtAddr, frames: FrameRange, memory: MemoryType, access: Access) {
        const { assert!(TO_MAP.by_section.len() == 3) };
        for chunk in self.chunks(va, frames) {
            let words = if chunk.is_section() && !self.keeps_table(chunk.section) {
                Words::Section
            } else {
                Words::Table(self.table_of(chunk.section).expect("tables were provided"))
            };
            self.map_step(mmu, TO_MAP.by_section[0], words, chunk, memory, access);
            self.map_step(mmu, TO_MAP.by_section[1], words, chunk, memory, access);
            self.map_step(mmu, TO_MAP.by_section[2], words, chunk, memory, access);
        }
    }

    /// Ends a mapping that [`map`](Self::map) made, and returns its frames. When this returns, no access reaches the
    /// frames through it, and none is in flight.
    ///
    /// # Panics
    ///
    /// If another region made the mapping, even at these addresses. Nothing was written then.
    pub fn unmap<M: Mmu>(&mut self, mmu: &M, mapped: Mapped) -> FrameRange {
        self.end(mmu, None, mapped)
    }

    /// Ends a mapping that [`map_carved`](Self::map_carved) made: then the ledger may give its frames to another.
    ///
    /// # Panics
    ///
    /// As [`unmap`](Self::unmap).
    pub(crate) fn unmap_carved<M: Mmu>(&mut self, mmu: &M, ledger: &mut Ledger<'_>, mapped: Mapped) {
        self.end(mmu, Some(ledger), mapped);
    }

    /// Runs [`UNMAP`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "whether there is a ledger is known where it is called")]
    #[expect(clippy::needless_pass_by_value, reason = "consumed: what it stands for is gone")]
    fn end<M: Mmu>(&mut self, mmu: &M, mut ledger: Option<&mut Ledger<'_>>, mapped: Mapped) -> FrameRange {
        const { assert!(TO_UNMAP.before.is_empty() && TO_UNMAP.after.len() == 2) };
        let Mapped { va, frames, by, .. } = mapped;
        assert!(by == self.id, "a mapping of this region");
        self.unmap_sections(mmu, va, frames);
        let mut step = |step| match (step, &mut ledger) {
            (MapStep::InvalidateTlb, _) => mmu.invalidate_tlb(va, frames.count() << FRAME_SHIFT),
            (MapStep::Release, Some(ledger)) => ledger.release(frames),
            (MapStep::Release, None) => {}
            _ => unreachable!("no step for all frames of a mapping that ends"),
        };
        step(TO_UNMAP.after[0]);
        step(TO_UNMAP.after[1]);
        frames
    }

    /// Takes the steps of [`UNMAP`] on descriptors.
    #[inline]
    fn unmap_sections<M: Mmu>(&mut self, mmu: &M, va: VirtAddr, frames: FrameRange) {
        const { assert!(TO_UNMAP.by_section.len() == 2) };
        for chunk in self.chunks(va, frames) {
            match self.table_of(chunk.section) {
                Some(table) => self.unmap_chunk(mmu, Words::Table(table), chunk),
                None => self.unmap_chunk(mmu, Words::Section, chunk),
            }
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "which words it is of is known where it is called")]
    fn unmap_chunk<M: Mmu>(&mut self, mmu: &M, words: Words, chunk: Chunk) {
        self.unmap_step(mmu, TO_UNMAP.by_section[0], words, chunk);
        self.unmap_step(mmu, TO_UNMAP.by_section[1], words, chunk);
    }

    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "its step is known where it is taken: a tenth of a mapping's instructions"
    )]
    fn map_step<M: Mmu>(
        &mut self,
        mmu: &M,
        step: MapStep,
        words: Words,
        chunk: Chunk,
        memory: MemoryType,
        access: Access,
    ) {
        match step {
            MapStep::Describe => self.describe(words, chunk, memory, access),
            MapStep::Publish => self.publish(mmu, words, chunk),
            MapStep::ForgetTable => self.forget_table(mmu, words, chunk),
            _ => unreachable!("no step on descriptors of a mapping that is made"),
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `map_step`")]
    fn unmap_step<M: Mmu>(&mut self, mmu: &M, step: MapStep, words: Words, chunk: Chunk) {
        match step {
            MapStep::Erase => self.erase(words, chunk),
            MapStep::Publish => self.publish(mmu, words, chunk),
            _ => unreachable!("no step on descriptors of a mapping that ends"),
        }
    }

    /// Writes the descriptors of a chunk.
    #[inline]
    fn describe(&mut self, words: Words, chunk: Chunk, memory: MemoryType, access: Access) {
        let (section, share) = (chunk.section, self.share);
        match words {
            Words::Section => self.l1[section] = L1Desc::section(chunk.pa, memory, access, share),
            Words::Table(table) => {
                let entries = &mut self.l2[table];
                chunk.for_each_leaf(|page, pa, pages| match pages {
                    1 => entries[page] = L2Desc::small(pa, memory, access, share),
                    pages => entries[page..page + pages as usize].fill(L2Desc::large(pa, memory, access, share)),
                });
            }
        }
        if let Tables::OneEach { mapped } = &mut self.tables {
            mapped[section] += chunk.pages as u16;
        }
    }

    /// Writes fault descriptors over those of a chunk.
    #[inline]
    fn erase(&mut self, words: Words, chunk: Chunk) {
        let section = chunk.section;
        match (words, &self.tables) {
            (Words::Table(table), _) => self.l2[table][chunk.entries()].fill(L2Desc::FAULT),
            (Words::Section, Tables::OneEach { .. }) => self.l1[section] = L1Desc::table(self.table_at(section)),
            (Words::Section, Tables::OnDemand { .. }) => self.l1[section] = L1Desc::FAULT,
        }
        if let Tables::OneEach { mapped } = &mut self.tables {
            mapped[section] -= chunk.pages as u16;
        }
    }

    /// Publishes what was written of a chunk.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `map_step`")]
    fn publish<M: Mmu>(&self, mmu: &M, words: Words, chunk: Chunk) {
        match words {
            Words::Section => self.publish_l1(mmu, chunk.section, 1),
            Words::Table(table) => self.publish_l2(mmu, table, chunk.entries()),
        }
    }

    /// Has every core forget the pointer to a table, of which no leaf was valid, where a section took its place.
    #[inline]
    fn forget_table<M: Mmu>(&self, mmu: &M, words: Words, chunk: Chunk) {
        if matches!((words, &self.tables), (Words::Section, Tables::OneEach { .. })) {
            mmu.invalidate_tlb(self.address_of(chunk.section, 0), FRAME_SIZE);
        }
    }

    /// Refuses what does not fit or is not free, before the first write.
    #[inline]
    fn check(&self, va: VirtAddr, frames: FrameRange) -> Result<(), MapError> {
        if frames.is_empty() {
            return Err(MapError::Empty);
        }
        if !va.is_aligned(FRAME_SIZE) {
            return Err(MapError::Misaligned { va });
        }
        // An address before the region wraps to a page beyond every region.
        let last = (va.raw().wrapping_sub(self.range.start().raw()) >> FRAME_SHIFT) + frames.count();
        if last > self.range.sections() * SECTION_PAGES {
            return Err(MapError::OutsideRegion { va, frames });
        }
        let occupied = self.chunks(va, frames).find_map(|chunk| {
            let empty = matches!(&self.tables, Tables::OneEach { mapped } if mapped[chunk.section] == 0);
            if empty { None } else { self.occupied(chunk) }
        });
        occupied.map_or(Ok(()), |va| Err(MapError::Occupied { va }))
    }

    /// Returns the first address of a chunk where something is mapped.
    #[inline(never)]
    fn occupied(&self, chunk: Chunk) -> Option<VirtAddr> {
        let page = match self.table_of(chunk.section) {
            Some(table) => self.l2[table][chunk.entries()].iter().position(|&entry| entry != L2Desc::FAULT)?,
            None if self.l1[chunk.section] == L1Desc::FAULT => return None,
            None => 0,
        };
        Some(self.address_of(chunk.section, chunk.page + page as u32))
    }

    /// Yields the parts of a mapping, which is inside the region: a section each, from the lowest.
    fn chunks(&self, va: VirtAddr, frames: FrameRange) -> impl Iterator<Item = Chunk> + use<> {
        let mut next = (va.raw() - self.range.start().raw()) >> FRAME_SHIFT;
        let (mut pa, mut left) = (frames.base().raw(), frames.count());
        core::iter::from_fn(move || {
            let page = next % SECTION_PAGES;
            let pages = left.min(SECTION_PAGES - page);
            let section = (next / SECTION_PAGES) as usize;
            let chunk = (pages > 0).then_some(Chunk { section, page, pa: PhysAddr::new(pa), pages });
            next += pages;
            // The last part may end with the address space.
            pa = pa.wrapping_add(pages << FRAME_SHIFT);
            left -= pages;
            chunk
        })
    }

    /// Returns the address of a page of a section.
    const fn address_of(&self, section: usize, page: u32) -> VirtAddr {
        VirtAddr::new(self.range.start().raw() + section as u32 * SECTION_SIZE + page * FRAME_SIZE)
    }

    /// Gives every section that will hold pages a table, or none of them if there are too few.
    #[inline(never)]
    fn provide_tables<M: Mmu>(&mut self, mmu: &M, va: VirtAddr, frames: FrameRange, used: u32) -> Result<(), MapError> {
        let lacks = |region: &Self, chunk: &Chunk| !chunk.is_section() && region.l1[chunk.section] == L1Desc::FAULT;
        let left = self.l2.len() - used as usize;
        if let Some(chunk) = self.chunks(va, frames).filter(|chunk| lacks(self, chunk)).nth(left) {
            let va = self.address_of(chunk.section, chunk.page);
            return Err(MapError::NoTable { va, tables: self.l2.len() as u32 });
        }
        for chunk in self.chunks(va, frames) {
            if !lacks(self, &chunk) {
                continue;
            }
            if let Tables::OnDemand { used } = &mut self.tables {
                let table = *used as usize;
                *used += 1;
                let section = chunk.section;
                self.l2[table] = [L2Desc::FAULT; L2_ENTRIES];
                self.publish_l2(mmu, table, 0..L2_ENTRIES);
                self.l1[section] = L1Desc::table(self.table_at(table));
                self.publish_l1(mmu, section, 1);
            }
        }
        Ok(())
    }

    /// Returns whether a section keeps its pointer to a table even where a section descriptor would fit. A table that
    /// was taken on demand does: the pointer would be lost, and a walk cache may hold it.
    fn keeps_table(&self, section: usize) -> bool {
        matches!(self.tables, Tables::OnDemand { .. }) && self.table_of(section).is_some()
    }

    /// Returns which of the region's tables translates a section, if one does.
    fn table_of(&self, section: usize) -> Option<usize> {
        match self.l1[section].decode() {
            L1Entry::Table(at) => self.index_of(at),
            _ => None,
        }
    }

    const fn table_at(&self, table: usize) -> PhysAddr {
        PhysAddr::new(self.l2_at.raw() + table as u32 * L2_TABLE_SIZE)
    }

    /// Returns which of the region's tables stands at `at`.
    fn index_of(&self, at: PhysAddr) -> Option<usize> {
        let table = (at.raw().checked_sub(self.l2_at.raw())? / L2_TABLE_SIZE) as usize;
        (table < self.l2.len()).then_some(table)
    }

    fn publish_l1<M: Mmu>(&self, mmu: &M, first: usize, count: usize) {
        let at = PhysAddr::new(self.l1_at.raw() + 4 * first as u32);
        mmu.publish(at, as_words(&self.l1[first..first + count]));
    }

    fn publish_l2<M: Mmu>(&self, mmu: &M, table: usize, entries: Range<usize>) {
        let at = PhysAddr::new(self.table_at(table).raw() + 4 * entries.start as u32);
        mmu.publish(at, as_words(&self.l2[table][entries]));
    }
}

/// Descriptors are one word each.
pub(crate) trait Word: Copy {}
impl Word for L1Desc {}
impl Word for L2Desc {}

pub(crate) fn as_words<W: Word>(descriptors: &[W]) -> &[u32] {
    const { assert!(size_of::<W>() == 4 && align_of::<W>() == 4) };
    // SAFETY: `W` is one of the two descriptor types, each a transparent u32; length and lifetime are the slice's.
    unsafe { core::slice::from_raw_parts(descriptors.as_ptr().cast(), descriptors.len()) }
}
