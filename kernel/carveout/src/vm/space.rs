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
use crate::vm::attr::{Access, LeafSize, MemoryType, Shareability};
use crate::vm::desc::{L1Desc, L2_TABLE_SIZE, L2Desc, L2Table};
use crate::vm::ledger::{Ledger, LedgerError, LedgerPlace};
use crate::vm::mapped::{Mapped, RegionId};
use crate::vm::range::VirtRange;
use crate::vm::sections::{Chunk, FirstLevel, SECTION_PAGES, Second, Standing, Tables, Words, as_words, erase};
pub use crate::vm::sections::{OnDemand, OneEach};
use crate::vm::tables::{Roots, Window, WindowError, entry};
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
            Self::Occupied { va } => write!(f, "cannot map at {va}: already mapped; unmap it first"),
            Self::NoTable { va, tables } => {
                write!(
                    f,
                    "cannot map at {va}: all {tables} second-level tables of the region are in use; unmap something, or give \
                     it more"
                )
            }
        }
    }
}

impl core::error::Error for MapError {}

/// A run of virtual addresses and the descriptors that translate them. `T` is how its sections get second-level tables:
/// [`OnDemand`] or [`OneEach`].
#[derive(Debug)]
pub struct Region<'m, T> {
    id: RegionId,
    range: VirtRange,
    share: Shareability,
    l2: &'m mut [L2Table],
    l2_at: PhysAddr,
    tables: T,
}

/// The rows as they are taken.
const TO_MAP: MapRow = MapRow::of(&MAP);
const TO_UNMAP: MapRow = MapRow::of(&UNMAP);

impl<'m> Region<'m, OnDemand<'m>> {
    /// Makes a region whose sections get second-level tables from `l2` as they need them.
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
        let tables = OnDemand { first: FirstLevel { entries: l1, at: l1_at }, used: 0 };
        Self { id: RegionId::next(), range, share, l2, l2_at, tables }
    }
}

impl Region<'static, OneEach> {
    /// Makes the region of a window, whose tables are cleared and published here. So are the pointers to them, in each
    /// root. It takes two bytes a section from the heap.
    ///
    /// # Errors
    ///
    /// [`WindowError`] says what of the window cannot be used, or that the heap is full. Nothing was written then.
    #[cold]
    pub fn one_each<M: Mmu>(mmu: &M, window: &Window<'_>) -> Result<Self, WindowError> {
        window.check(mmu)?;
        let (registers, range, l2_at) = (mmu.registers(), window.range(), window.tables());
        let count = range.sections() as usize;
        let reached = |at, bytes| mmu.table(at, bytes).ok_or(WindowError::OutOfReach { at, bytes });
        let first = reached(l2_at, count as u32 * L2_TABLE_SIZE)?.cast::<L2Table>();
        let mapped = filled(count, 0).map_err(|_| WindowError::Heap)?;
        // SAFETY: `table` gave a pointer to all of them, to whom they stand; any word is a descriptor; the window says
        // that nothing else names them, for good (I1).
        let l2 = unsafe { core::slice::from_raw_parts_mut(first.as_ptr(), count) };
        let share = registers.shareability();
        let mut region =
            Self { id: RegionId::next(), range, share, l2, l2_at, tables: OneEach { first: None, mapped } };
        region.clear_tables(mmu, 0..count);
        let root = registers.table(registers.ttbr_of(range.start()));
        for &root in window.roots().of(&root) {
            let at = entry(root, range.start());
            let entries = reached(at, 4 * count as u32)?.cast::<L1Desc>();
            // SAFETY: as of the second-level tables.
            let entries = unsafe { core::slice::from_raw_parts_mut(entries.as_ptr(), count) };
            let first = FirstLevel { entries, at };
            for section in 0..count {
                first.entries[section] = region.tables.vacant(region.second(), section);
            }
            first.publish(mmu, 0..count);
            if matches!(window.roots(), Roots::One) {
                region.tables.first = Some(first);
            }
        }
        Ok(region)
    }
}

#[expect(private_bounds, reason = "sealed: `OnDemand` and `OneEach` are all that there are")]
impl<T: Tables> Region<'_, T> {
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
        self.check(va, frames)?;
        if T::ON_DEMAND {
            self.provide_tables(mmu, va, frames)?;
        }
        // No ledger has the frames: the caller's promise stands in for the claim.
        self.map_sections(mmu, va, frames, memory, access);
        Ok(Mapped { va, frames, memory, by: self.id })
    }

    /// Gives every section that will hold pages a table, or none of them if there are too few.
    #[inline(never)]
    fn provide_tables<M: Mmu>(&mut self, mmu: &M, va: VirtAddr, frames: FrameRange) -> Result<(), MapError> {
        let left = self.l2.len() - self.tables.taken();
        if let Some(chunk) = self.chunks(va, frames).filter(|&chunk| self.tables.lacks(chunk)).nth(left) {
            let va = self.address_of(chunk.section, chunk.page);
            return Err(MapError::NoTable { va, tables: self.l2.len() as u32 });
        }
        for chunk in self.chunks(va, frames) {
            if self.tables.lacks(chunk) {
                let table = self.tables.taken();
                self.clear_tables(mmu, table..table + 1);
                self.tables.take(self.second(), chunk.section);
                self.tables.publish_first(mmu, chunk.sections());
            }
        }
        Ok(())
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
    /// which is the only one of these frames. The addresses are the frames' own, as those of [`super::window`] are: so
    /// nothing is mapped there while the ledger has the frames for nobody.
    #[inline]
    pub(crate) unsafe fn map_carved<M: Mmu>(
        &mut self,
        mmu: &M,
        ledger: &mut Ledger<'_>,
        va: VirtAddr,
        place: LedgerPlace,
        memory: MemoryType,
    ) -> Result<Mapped, LedgerError> {
        let frames = place.frames();
        const { assert!(TO_MAP.before.len() == 1 && TO_MAP.after.is_empty()) };
        match TO_MAP.before[0] {
            MapStep::Claim => ledger.claim_at(place, memory)?,
            _ => unreachable!("no step for all frames of a mapping"),
        }
        assert!(self.has_place(va, frames), "frames without a place at these addresses");
        debug_assert!(self.check(va, frames).is_ok(), "another mapping at the addresses of free frames");
        self.map_sections(mmu, va, frames, memory, Access::ReadWrite);
        Ok(Mapped { va, frames, memory, by: self.id })
    }

    /// Takes the steps of [`MAP`] on descriptors, for which there is room.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a fortieth of an allocation's instructions: BENCH.md")]
    fn map_sections<M: Mmu>(&mut self, mmu: &M, va: VirtAddr, frames: FrameRange, memory: MemoryType, access: Access) {
        if let Some(chunk) = self.only_chunk(va, frames) {
            return self.map_chunk(mmu, Words::Table(chunk.section), chunk, memory, access);
        }
        self.map_chunks(mmu, va, frames, memory, access);
    }

    /// Maps what is in several sections, or may be mapped by section descriptors.
    #[inline(never)]
    fn map_chunks<M: Mmu>(&mut self, mmu: &M, va: VirtAddr, frames: FrameRange, memory: MemoryType, access: Access) {
        for chunk in self.chunks(va, frames) {
            match self.tables.words(self.second(), chunk) {
                Words::Table(table) => self.map_chunk(mmu, Words::Table(table), chunk, memory, access),
                Words::Section => self.map_chunk(mmu, Words::Section, chunk, memory, access),
            }
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "which words it is of is known where it is called")]
    fn map_chunk<M: Mmu>(&mut self, mmu: &M, words: Words, chunk: Chunk, memory: MemoryType, access: Access) {
        const { assert!(TO_MAP.by_section.len() == 3) };
        self.map_step(mmu, TO_MAP.by_section[0], words, chunk, memory, access);
        self.map_step(mmu, TO_MAP.by_section[1], words, chunk, memory, access);
        self.map_step(mmu, TO_MAP.by_section[2], words, chunk, memory, access);
    }

    /// Returns the only part of a mapping, if it is in one section that has a table of its own, and smaller than that.
    #[inline]
    fn only_chunk(&self, va: VirtAddr, frames: FrameRange) -> Option<Chunk> {
        let first = (va.raw() - self.range.start().raw()) >> FRAME_SHIFT;
        let (page, pages) = (first % SECTION_PAGES, frames.count());
        let only = !T::ON_DEMAND && page + pages <= SECTION_PAGES && pages < SECTION_PAGES;
        only.then(|| Chunk { section: (first / SECTION_PAGES) as usize, page, pa: frames.base(), pages })
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
    pub(crate) fn unmap_carved<M: Mmu>(
        &mut self,
        mmu: &M,
        ledger: &mut Ledger<'_>,
        place: LedgerPlace,
        mapped: Mapped,
    ) {
        debug_assert!(place.frames() == mapped.frames, "the place of the frames that are mapped");
        self.end(mmu, Some((ledger, place)), mapped);
    }

    /// Runs [`UNMAP`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "whether there is a ledger is known where it is called")]
    #[expect(clippy::needless_pass_by_value, reason = "consumed: what it stands for is gone")]
    fn end<M: Mmu>(
        &mut self,
        mmu: &M,
        mut ledger: Option<(&mut Ledger<'_>, LedgerPlace)>,
        mapped: Mapped,
    ) -> FrameRange {
        const { assert!(TO_UNMAP.before.is_empty() && TO_UNMAP.after.len() == 2) };
        let Mapped { va, frames, by, .. } = mapped;
        assert!(by == self.id, "a mapping of this region");
        let leaf = self.tables.leaf(va, frames);
        self.unmap_sections(mmu, va, frames);
        let mut step = |step| match (step, &mut ledger) {
            (MapStep::InvalidateTlb, _) => mmu.invalidate_tlb(va, frames.count() << FRAME_SHIFT, leaf),
            (MapStep::Release, Some((ledger, place))) => ledger.release_at(*place),
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
        if let Some(chunk) = self.only_chunk(va, frames) {
            return self.unmap_chunk(mmu, Words::Table(chunk.section), chunk);
        }
        self.unmap_chunks(mmu, va, frames);
    }

    #[inline(never)]
    fn unmap_chunks<M: Mmu>(&mut self, mmu: &M, va: VirtAddr, frames: FrameRange) {
        for chunk in self.chunks(va, frames) {
            match self.tables.words(self.second(), chunk) {
                Words::Table(table) => self.unmap_chunk(mmu, Words::Table(table), chunk),
                Words::Section => self.unmap_chunk(mmu, Words::Section, chunk),
            }
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "which words it is of is known where it is called")]
    fn unmap_chunk<M: Mmu>(&mut self, mmu: &M, words: Words, chunk: Chunk) {
        const { assert!(TO_UNMAP.by_section.len() == 2) };
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
        let share = self.share;
        match words {
            Words::Section => {
                let mut word = L1Desc::section(chunk.pa, memory, access, share).raw();
                for section in chunk.sections() {
                    self.tables.set_first(section, L1Desc::from_raw(word));
                    self.tables.note(section, SECTION_PAGES.cast_signed());
                    // The last section may end with the address space.
                    word = word.wrapping_add(SECTION_SIZE);
                }
            }
            Words::Table(table) => {
                chunk.describe(&mut self.l2[table], memory, access, share);
                self.tables.note(chunk.section, chunk.pages.cast_signed());
            }
        }
    }

    /// Writes over the descriptors of a chunk what stands there when nothing is mapped.
    #[inline]
    fn erase(&mut self, words: Words, chunk: Chunk) {
        match words {
            Words::Section => {
                for section in chunk.sections() {
                    self.tables.set_first(section, self.tables.vacant(self.second(), section));
                    self.tables.note(section, -(SECTION_PAGES.cast_signed()));
                }
            }
            Words::Table(table) => {
                erase(&mut self.l2[table][chunk.entries()]);
                self.tables.note(chunk.section, -(chunk.pages.cast_signed()));
            }
        }
    }

    /// Publishes what was written of a chunk.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `map_step`")]
    fn publish<M: Mmu>(&self, mmu: &M, words: Words, chunk: Chunk) {
        match words {
            Words::Section => self.tables.publish_first(mmu, chunk.sections()),
            Words::Table(table) => self.publish_l2(mmu, table, chunk.entries()),
        }
    }

    /// Has every core forget the pointers to tables, of which no leaf was valid, where sections took their place.
    #[inline]
    fn forget_table<M: Mmu>(&self, mmu: &M, words: Words, chunk: Chunk) {
        if !T::ON_DEMAND && matches!(words, Words::Section) {
            mmu.invalidate_tlb(self.address_of(chunk.section, 0), chunk.pages << FRAME_SHIFT, LeafSize::Section);
        }
    }

    /// Refuses what does not fit or is not free, before the first write.
    fn check(&self, va: VirtAddr, frames: FrameRange) -> Result<(), MapError> {
        self.fits(va, frames)?;
        let occupied = self
            .parts(va, frames, false)
            .find_map(|chunk| if self.tables.is_empty(chunk.section) { None } else { self.occupied(chunk) });
        occupied.map_or(Ok(()), |va| Err(MapError::Occupied { va }))
    }

    /// Refuses what does not fit.
    #[inline]
    fn fits(&self, va: VirtAddr, frames: FrameRange) -> Result<(), MapError> {
        if frames.is_empty() {
            return Err(MapError::Empty);
        }
        if !va.is_aligned(FRAME_SIZE) {
            return Err(MapError::Misaligned { va });
        }
        if self.has_place(va, frames) { Ok(()) } else { Err(MapError::OutsideRegion { va, frames }) }
    }

    /// Returns whether these pages are all in the region.
    #[inline]
    const fn has_place(&self, va: VirtAddr, frames: FrameRange) -> bool {
        // An address before the region wraps to a page beyond every region.
        let last = (va.raw().wrapping_sub(self.range.start().raw()) >> FRAME_SHIFT) + frames.count();
        last <= self.range.sections() * SECTION_PAGES
    }

    /// Returns the first address of a chunk where something is mapped.
    #[inline(never)]
    fn occupied(&self, chunk: Chunk) -> Option<VirtAddr> {
        let page = match self.tables.standing(self.second(), chunk.section) {
            Standing::Table(table) => {
                self.l2[table][chunk.entries()].iter().position(|&entry| entry != L2Desc::FAULT)?
            }
            Standing::Fault => return None,
            Standing::Other => 0,
        };
        Some(self.address_of(chunk.section, chunk.page + page as u32))
    }

    /// Yields the parts of a mapping, which is inside the region, from the lowest: what is in one section each, and in
    /// one part the sections that section descriptors map.
    fn chunks(&self, va: VirtAddr, frames: FrameRange) -> impl Iterator<Item = Chunk> + use<T> {
        self.parts(va, frames, self.tables.has_sections())
    }

    fn parts(&self, va: VirtAddr, frames: FrameRange, runs: bool) -> impl Iterator<Item = Chunk> + use<T> {
        let mut next = (va.raw() - self.range.start().raw()) >> FRAME_SHIFT;
        let (mut pa, mut left) = (frames.base().raw(), frames.count());
        core::iter::from_fn(move || {
            let page = next % SECTION_PAGES;
            let run =
                if runs && page == 0 && pa.is_multiple_of(SECTION_SIZE) { left & !(SECTION_PAGES - 1) } else { 0 };
            let pages = if run > 0 { run } else { left.min(SECTION_PAGES - page) };
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

    const fn second(&self) -> Second {
        Second { at: self.l2_at, count: self.l2.len() }
    }

    /// Makes tables that translate nothing.
    fn clear_tables<M: Mmu>(&mut self, mmu: &M, tables: Range<usize>) {
        let at = self.second().table_at(tables.start);
        let words = self.l2[tables].as_flattened_mut();
        erase(words);
        mmu.publish(at, as_words(words));
    }

    fn publish_l2<M: Mmu>(&self, mmu: &M, table: usize, entries: Range<usize>) {
        let at = PhysAddr::new(self.second().table_at(table).raw() + 4 * entries.start as u32);
        mmu.publish(at, as_words(&self.l2[table][entries]));
    }
}
