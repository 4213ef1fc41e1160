//! Mapping and unmapping: the only place that writes descriptors.
//!
//! Guarantees: a [`Region`] owns its run of first-level entries exclusively; a mapping is made only where nothing was
//! mapped (break-before-make by construction, ARM ARM B3.10.1); [`Mapped`] is the proof that a translation exists,
//! and it ends by being moved into [`Region::unmap`], which returns when no observer can use the translation any
//! more: unmap, DSB, TLB invalidate, DSB (the first half of I3).

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::arch::Mmu;
use crate::vm::attr::{Access, MemoryType, Shareability};
use crate::vm::desc::{L1Desc, L1Entry, L2_ENTRIES, L2_TABLE_SIZE, L2Desc, L2Table, LARGE_PAGE_SIZE};
use crate::vm::layout::VirtRange;
use core::fmt;

/// The proof that `frames` are mapped at `va` with this memory type and nothing unmapped them since. Not `Clone`.
///
/// Only a [`Region`] makes one for memory it mapped.
#[derive(PartialEq, Eq, Debug)]
pub struct Mapped {
    va: VirtAddr,
    frames: FrameRange,
    memory: MemoryType,
}

impl Mapped {
    /// First address, a multiple of 4 KiB.
    pub const fn va(&self) -> VirtAddr {
        self.va
    }

    /// The frames behind it, in order.
    pub const fn frames(&self) -> FrameRange {
        self.frames
    }

    /// Bytes mapped.
    pub const fn bytes(&self) -> u32 {
        self.frames.count() << FRAME_SHIFT
    }

    /// How they are mapped.
    pub const fn memory(&self) -> MemoryType {
        self.memory
    }

    /// All of it.
    pub const fn all(&self) -> Part<'_> {
        Part { mapped: self, start: 0, end: self.bytes() }
    }

    /// The bytes `[start, end)` of it, or `None` if they are not in order and inside.
    pub const fn part(&self, start: u32, end: u32) -> Option<Part<'_>> {
        if start <= end && end <= self.bytes() { Some(Part { mapped: self, start, end }) } else { None }
    }
}

/// A mapping of nothing that exists, for tests that only pass it on.
#[cfg(test)]
pub(crate) const fn mapped_for_tests(frames: FrameRange) -> Mapped {
    Mapped { va: VirtAddr::new(0xc000_0000), frames, memory: MemoryType::WriteBack }
}

/// Bytes of a mapping that exists: what maintenance works on (I3). It goes by whole lines, and as a mapping is of
/// whole pages, the lines it touches hold nothing else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part<'m> {
    mapped: &'m Mapped,
    start: u32,
    end: u32,
}

impl Part<'_> {
    /// The mapping it is of.
    pub const fn mapped(&self) -> &Mapped {
        self.mapped
    }

    /// Address of the first byte.
    pub const fn va(&self) -> VirtAddr {
        VirtAddr::new(self.mapped.va.raw() + self.start)
    }

    /// Physical address of the first byte.
    pub const fn pa(&self) -> PhysAddr {
        PhysAddr::new(self.mapped.frames.base().raw() + self.start)
    }

    /// Bytes.
    pub const fn bytes(&self) -> u32 {
        self.end - self.start
    }
}

/// Why a mapping was refused. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No frame to map.
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
        /// The first address that is.
        va: VirtAddr,
    },
    /// No second-level table is left.
    NoTable {
        /// The section that needs one.
        va: VirtAddr,
        /// Tables the region has.
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

/// How a region comes by second-level tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tables {
    /// Taken from the front as sections need them, never given back; this many are taken.
    OnDemand { used: u32 },
    /// One for each section, in place from the start; a section descriptor may stand in for one while it is mapped.
    OneEach,
}

/// A run of virtual addresses and the descriptors that translate them.
#[derive(Debug)]
pub struct Region<'m> {
    range: VirtRange,
    share: Shareability,
    l1: &'m mut [L1Desc],
    l1_at: PhysAddr,
    l2: &'m mut [L2Table],
    l2_at: PhysAddr,
    tables: Tables,
}

/// One leaf to be written.
enum Unit {
    Section,
    Large,
    Small,
}

impl Unit {
    const fn bytes(&self) -> u32 {
        match self {
            Self::Section => SECTION_SIZE,
            Self::Large => LARGE_PAGE_SIZE,
            Self::Small => FRAME_SIZE,
        }
    }

    /// The largest unit that fits at this place.
    const fn at(va: VirtAddr, pa: PhysAddr, left: u32) -> Self {
        if left >= SECTION_SIZE && va.is_aligned(SECTION_SIZE) && pa.is_aligned(SECTION_SIZE) {
            Self::Section
        } else if left >= LARGE_PAGE_SIZE && va.is_aligned(LARGE_PAGE_SIZE) && pa.is_aligned(LARGE_PAGE_SIZE) {
            Self::Large
        } else {
            Self::Small
        }
    }
}

impl<'m> Region<'m> {
    /// A region whose sections get second-level tables from `l2` as they need them. For what is mapped once: the
    /// direct map, devices.
    ///
    /// `l1` are the first-level entries of `range`, one a MiB, at physical address `l1_at`; `l2` stands at `l2_at`, a
    /// multiple of 1 KiB. Entries of `l1` may be valid already; they are left alone.
    ///
    /// # Safety
    ///
    /// The caller's duty: `l1` and `l2` are the only names of those tables, and stand where it says.
    pub unsafe fn on_demand(
        range: VirtRange,
        share: Shareability,
        l1: &'m mut [L1Desc],
        l1_at: PhysAddr,
        l2: &'m mut [L2Table],
        l2_at: PhysAddr,
    ) -> Self {
        assert!(l1.len() == range.sections() as usize && l2_at.is_aligned(L2_TABLE_SIZE));
        Self { range, share, l1, l1_at, l2, l2_at, tables: Tables::OnDemand { used: 0 } }
    }

    /// A region that holds a second-level table for each of its sections from the start, so that mapping at run time
    /// never lacks one (I6). The tables are cleared and published here.
    ///
    /// # Safety
    ///
    /// As [`on_demand`](Self::on_demand).
    pub unsafe fn one_each<M: Mmu>(
        mmu: &M,
        range: VirtRange,
        share: Shareability,
        l1: &'m mut [L1Desc],
        l1_at: PhysAddr,
        l2: &'m mut [L2Table],
        l2_at: PhysAddr,
    ) -> Self {
        assert!(l1.len() == range.sections() as usize && l2.len() == l1.len() && l2_at.is_aligned(L2_TABLE_SIZE));
        let region = Self { range, share, l1, l1_at, l2, l2_at, tables: Tables::OneEach };
        for section in 0..region.l1.len() {
            assert!(region.l1[section] == L1Desc::FAULT, "the window's entries are unused");
            region.l2[section] = [L2Desc::FAULT; L2_ENTRIES];
            region.publish_l2(mmu, section, 0, L2_ENTRIES);
            region.l1[section] = L1Desc::table(region.table_at(section));
        }
        region.publish_l1(mmu, 0, region.l1.len());
        region
    }

    /// Where the region is.
    pub const fn range(&self) -> VirtRange {
        self.range
    }

    /// Maps `frames` at `va` with sections, large pages and small pages, the largest that fit. Nothing may be mapped
    /// there: this is fault-to-valid.
    ///
    /// # Safety
    ///
    /// The caller's duty is I1: no other translation of the frames has another type, while this one lasts.
    pub unsafe fn map<M: Mmu>(
        &mut self,
        mmu: &M,
        va: VirtAddr,
        frames: FrameRange,
        memory: MemoryType,
        access: Access,
    ) -> Result<Mapped, MapError> {
        self.check(va, frames)?;
        self.provide_tables(mmu, va, frames)?;
        self.for_each_unit(va, frames, |region, va, pa, unit| {
            let (section, page) = region.slot(va);
            match unit {
                Unit::Section => {
                    region.l1[section] = L1Desc::section(pa, memory, access, region.share);
                    region.publish_l1(mmu, section, 1);
                    if region.tables == Tables::OneEach {
                        // The entry pointed to a table. No leaf of it was valid, but a walk cache may hold the pointer.
                        mmu.invalidate_tlb(va, FRAME_SIZE);
                    }
                }
                Unit::Large => {
                    let word = L2Desc::large(pa, memory, access, region.share);
                    region.table(section)[page..page + 16].fill(word);
                }
                Unit::Small => region.table(section)[page] = L2Desc::small(pa, memory, access, region.share),
            }
        });
        self.publish_pages(mmu, va, frames.count() << FRAME_SHIFT);
        Ok(Mapped { va, frames, memory })
    }

    /// Ends a mapping: when this returns, no access reaches the frames through it, and none is in flight.
    #[expect(clippy::needless_pass_by_value, reason = "consumed: what it stands for is gone")]
    ///
    /// # Panics
    ///
    /// If another region made the mapping.
    pub fn unmap<M: Mmu>(&mut self, mmu: &M, mapped: Mapped) -> FrameRange {
        assert!(self.range.contains(mapped.va), "a mapping of this region");
        let Mapped { va, frames, .. } = mapped;
        let bytes = frames.count() << FRAME_SHIFT;
        self.for_each_unit(va, frames, |region, va, _, unit| {
            let (section, page) = region.slot(va);
            match unit {
                Unit::Section => {
                    region.l1[section] = match region.tables {
                        Tables::OneEach => L1Desc::table(region.table_at(section)),
                        Tables::OnDemand { .. } => L1Desc::FAULT,
                    };
                    region.publish_l1(mmu, section, 1);
                }
                Unit::Large => region.table(section)[page..page + 16].fill(L2Desc::FAULT),
                Unit::Small => region.table(section)[page] = L2Desc::FAULT,
            }
        });
        self.publish_pages(mmu, va, bytes);
        mmu.invalidate_tlb(va, bytes);
        frames
    }

    /// Refuses what does not fit or is not free, before the first write.
    fn check(&self, va: VirtAddr, frames: FrameRange) -> Result<(), MapError> {
        if frames.is_empty() {
            return Err(MapError::Empty);
        }
        if !va.is_aligned(FRAME_SIZE) {
            return Err(MapError::Misaligned { va });
        }
        let offset = u64::from(va.raw()).wrapping_sub(u64::from(self.range.start().raw()));
        if !self.range.contains(va) || offset + frames.bytes() > self.range.bytes() {
            return Err(MapError::OutsideRegion { va, frames });
        }
        let first = va.raw() >> FRAME_SHIFT;
        match (first..first + frames.count())
            .map(|page| VirtAddr::new(page << FRAME_SHIFT))
            .find(|&va| self.is_mapped(va))
        {
            Some(va) => Err(MapError::Occupied { va }),
            None => Ok(()),
        }
    }

    /// Whether the page at `va`, in the region, translates.
    fn is_mapped(&self, va: VirtAddr) -> bool {
        let (section, page) = self.slot(va);
        match self.l1[section].decode() {
            L1Entry::Fault => false,
            L1Entry::Table(at) => match self.index_of(at) {
                Some(table) => self.l2[table][page] != L2Desc::FAULT,
                None => true,
            },
            L1Entry::Section(_) | L1Entry::Foreign(_) => true,
        }
    }

    /// Gives every section that will hold pages a table, or none of them if there are too few.
    fn provide_tables<M: Mmu>(&mut self, mmu: &M, va: VirtAddr, frames: FrameRange) -> Result<(), MapError> {
        let Tables::OnDemand { used } = self.tables else { return Ok(()) };
        let mut next = used;
        let mut lacking = None;
        let mut last = None;
        self.for_each_unit(va, frames, |region, va, _, unit| {
            let (section, _) = region.slot(va);
            if !matches!(unit, Unit::Section) && region.l1[section] == L1Desc::FAULT && last != Some(section) {
                last = Some(section);
                if next as usize == region.l2.len() {
                    lacking = lacking.or(Some(va));
                } else {
                    next += 1;
                }
            }
        });
        if let Some(va) = lacking {
            return Err(MapError::NoTable { va, tables: self.l2.len() as u32 });
        }
        self.for_each_unit(va, frames, |region, va, _, unit| {
            let (section, _) = region.slot(va);
            let Tables::OnDemand { used } = &mut region.tables else { return };
            if !matches!(unit, Unit::Section) && region.l1[section] == L1Desc::FAULT {
                let table = *used as usize;
                *used += 1;
                region.l2[table] = [L2Desc::FAULT; L2_ENTRIES];
                region.publish_l2(mmu, table, 0, L2_ENTRIES);
                region.l1[section] = L1Desc::table(region.table_at(table));
                region.publish_l1(mmu, section, 1);
            }
        });
        Ok(())
    }

    fn for_each_unit(
        &mut self,
        va: VirtAddr,
        frames: FrameRange,
        mut each: impl FnMut(&mut Self, VirtAddr, PhysAddr, &Unit),
    ) {
        let total = frames.bytes();
        let mut done = 0u64;
        while done < total {
            let va = VirtAddr::new(va.raw() + done as u32);
            let pa = PhysAddr::new(frames.base().raw() + done as u32);
            let left = u32::try_from(total - done).unwrap_or(u32::MAX);
            let unit = match Unit::at(va, pa, left) {
                Unit::Section if self.keeps_table(va) => Unit::Large,
                unit => unit,
            };
            each(self, va, pa, &unit);
            done += u64::from(unit.bytes());
        }
    }

    /// Whether the section at `va` has a table that a section descriptor may not stand in for: on demand, the pointer
    /// would be lost, and a walk cache may hold it.
    fn keeps_table(&self, va: VirtAddr) -> bool {
        let (section, _) = self.slot(va);
        matches!(self.tables, Tables::OnDemand { .. }) && matches!(self.l1[section].decode(), L1Entry::Table(_))
    }

    /// The section and the page in it of an address in the region.
    const fn slot(&self, va: VirtAddr) -> (usize, usize) {
        let offset = va.raw() - self.range.start().raw();
        ((offset / SECTION_SIZE) as usize, ((offset % SECTION_SIZE) / FRAME_SIZE) as usize)
    }

    const fn table_at(&self, table: usize) -> PhysAddr {
        PhysAddr::new(self.l2_at.raw() + table as u32 * L2_TABLE_SIZE)
    }

    /// Which of the region's tables stands at `at`.
    fn index_of(&self, at: PhysAddr) -> Option<usize> {
        let table = (at.raw().checked_sub(self.l2_at.raw())? / L2_TABLE_SIZE) as usize;
        (table < self.l2.len()).then_some(table)
    }

    /// The table of a section that has one; `check` and `provide_tables` saw to that.
    fn table(&mut self, section: usize) -> &mut L2Table {
        let L1Entry::Table(at) = self.l1[section].decode() else { unreachable!("a page in a section without table") };
        let table = self.index_of(at).expect("the region's entries point to its own tables");
        &mut self.l2[table]
    }

    fn publish_l1<M: Mmu>(&self, mmu: &M, first: usize, count: usize) {
        let at = PhysAddr::new(self.l1_at.raw() + 4 * first as u32);
        mmu.publish(at, as_words(&self.l1[first..first + count]));
    }

    fn publish_l2<M: Mmu>(&self, mmu: &M, table: usize, first: usize, count: usize) {
        let at = PhysAddr::new(self.table_at(table).raw() + 4 * first as u32);
        mmu.publish(at, as_words(&self.l2[table][first..first + count]));
    }

    /// Publishes the second-level words of a range; sections in it published themselves.
    fn publish_pages<M: Mmu>(&self, mmu: &M, va: VirtAddr, bytes: u32) {
        let (mut at, end) = (u64::from(va.raw()), u64::from(va.raw()) + u64::from(bytes));
        while at < end {
            let next = end.min((at / u64::from(SECTION_SIZE) + 1) * u64::from(SECTION_SIZE));
            let (section, page) = self.slot(VirtAddr::new(at as u32));
            if let L1Entry::Table(table) = self.l1[section].decode()
                && let Some(table) = self.index_of(table)
            {
                self.publish_l2(mmu, table, page, ((next - at) >> FRAME_SHIFT) as usize);
            }
            at = next;
        }
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
