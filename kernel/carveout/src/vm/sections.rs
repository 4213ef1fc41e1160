//! How the sections of a region get second-level tables, and what a mapping writes in which of its tables.
//!
//! Guarantees: a section of a window has its table from the start, so a mapping there never lacks one (I6).

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::machine::Mmu;
use crate::vm::attr::{Access, LeafSize, MemoryType, Shareability};
use crate::vm::desc::{L1Desc, L1Entry, L2_TABLE_SIZE, L2Desc, L2Table, LARGE_PAGE_SIZE};
use alloc::vec::Vec;
use core::ops::Range;

/// Pages of a section.
pub(super) const SECTION_PAGES: u32 = SECTION_SIZE >> FRAME_SHIFT;
/// Pages of a large page. It has as many entries.
const LARGE_PAGES: u32 = LARGE_PAGE_SIZE >> FRAME_SHIFT;

/// A part of a mapping that lies in one section of its region, or whole sections one after another that section
/// descriptors can map.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) section: usize,
    /// The first page, counted from the section's start.
    pub(super) page: u32,
    pub(super) pa: PhysAddr,
    /// At least one.
    pub(super) pages: u32,
}

impl Chunk {
    /// Returns whether section descriptors can map it.
    pub(super) const fn is_section(self) -> bool {
        self.pages.is_multiple_of(SECTION_PAGES) && self.pa.is_aligned(SECTION_SIZE)
    }

    /// Returns the sections that it is in.
    pub(super) const fn sections(self) -> Range<usize> {
        self.section..self.section + self.pages.div_ceil(SECTION_PAGES) as usize
    }

    /// Returns its entries of the section's table.
    pub(super) const fn entries(self) -> Range<usize> {
        self.page as usize..(self.page + self.pages) as usize
    }

    /// Returns how many small pages, then large pages, then small pages are the largest leaves that fit.
    const fn leaves(self) -> [usize; 3] {
        if self.pages < LARGE_PAGES {
            return [self.pages as usize, 0, 0];
        }
        // Both advance together. So they agree modulo a large page always or never.
        let alike = (self.page << FRAME_SHIFT) % LARGE_PAGE_SIZE == self.pa.raw() % LARGE_PAGE_SIZE;
        let before = self.page.wrapping_neg() % LARGE_PAGES;
        if !alike || before + LARGE_PAGES > self.pages {
            return [self.pages as usize, 0, 0];
        }
        let rest = self.pages - before;
        [before as usize, (rest / LARGE_PAGES) as usize, (rest % LARGE_PAGES) as usize]
    }

    /// Writes the largest leaves that fit to its entries of a table.
    #[inline]
    pub(super) fn describe(self, table: &mut L2Table, memory: MemoryType, access: Access, share: Shareability) {
        const ZERO: PhysAddr = PhysAddr::new(0);
        let small = L2Desc::small(ZERO, memory, access, share).raw();
        let mut pa = self.pa.raw();
        if self.pages == 1 {
            table[self.page as usize] = L2Desc::from_raw(pa | small);
            return;
        }
        let [before, large, after] = self.leaves();
        let one_by_one = |entries: &mut [L2Desc], pa: &mut u32| {
            for entry in entries {
                *entry = L2Desc::from_raw(*pa | small);
                // The last page may end with the address space.
                *pa = pa.wrapping_add(FRAME_SIZE);
            }
        };
        let entries = &mut table[self.entries()];
        if large == 0 {
            return one_by_one(entries, &mut pa);
        }
        let (first, rest) = entries.split_at_mut(before);
        one_by_one(first, &mut pa);
        let (middle, last) = rest.split_at_mut(rest.len() - after);
        let word = pa | L2Desc::large(ZERO, memory, access, share).raw();
        pa = fill_sixteens(middle.as_chunks_mut().0, word, LARGE_PAGE_SIZE) & !(LARGE_PAGE_SIZE - 1);
        one_by_one(last, &mut pa);
    }
}

/// Makes entries fault.
#[inline]
pub(super) fn erase(entries: &mut [L2Desc]) {
    let (sixteens, rest) = entries.as_chunks_mut();
    if !sixteens.is_empty() {
        clear_sixteens(sixteens);
    }
    rest.fill(L2Desc::FAULT);
}

/// Entries that the descriptor of a large page stands in.
type Sixteen = [L2Desc; LARGE_PAGES as usize];

/// Makes sixteens of entries fault. There is at least one.
#[inline(never)]
fn clear_sixteens(entries: &mut [Sixteen]) {
    const { assert!(L2Desc::FAULT.raw() == 0) };
    #[cfg(target_arch = "arm")]
    {
        let Range { start, end } = entries.as_mut_ptr_range();
        // SAFETY: stores to the entries, of which there are whole sixteens, at least one; eight registers a store, two
        // stores a turn. A descriptor is a word.
        unsafe {
            core::arch::asm!(
                "2:",
                "stm {at}!, {{r0, r1, r2, r3, r4, r5, r8, r9}}",
                "stm {at}!, {{r0, r1, r2, r3, r4, r5, r8, r9}}",
                "cmp {at}, {end}",
                "bne 2b",
                at = inout(reg) start => _,
                end = in(reg) end,
                in("r0") 0, in("r1") 0, in("r2") 0, in("r3") 0, in("r4") 0, in("r5") 0, in("r8") 0, in("r9") 0,
                options(nostack)
            );
        }
    }
    #[cfg(not(target_arch = "arm"))]
    entries.as_flattened_mut().fill(L2Desc::FAULT);
}

/// Writes `word` to the first sixteen entries, and to each sixteen after them a word that is larger by `step`. Returns
/// the word that would come next. There is at least one sixteen.
#[inline(never)]
fn fill_sixteens(entries: &mut [Sixteen], word: u32, step: u32) -> u32 {
    let mut word = word;
    #[cfg(target_arch = "arm")]
    {
        let Range { start, end } = entries.as_mut_ptr_range();
        // SAFETY: stores to the entries, of which there are whole sixteens, at least one; four registers a store, four
        // stores a turn. A descriptor is a word.
        unsafe {
            core::arch::asm!(
                "2:",
                "mov r1, r0",
                "mov r2, r0",
                "mov r3, r0",
                "stm {at}!, {{r0, r1, r2, r3}}",
                "stm {at}!, {{r0, r1, r2, r3}}",
                "stm {at}!, {{r0, r1, r2, r3}}",
                "stm {at}!, {{r0, r1, r2, r3}}",
                "add r0, r0, {step}",
                "cmp {at}, {end}",
                "bne 2b",
                at = inout(reg) start => _,
                end = in(reg) end,
                step = in(reg) step,
                inout("r0") word, out("r1") _, out("r2") _, out("r3") _,
                options(nostack)
            );
        }
    }
    #[cfg(not(target_arch = "arm"))]
    for sixteen in entries {
        sixteen.fill(L2Desc::from_raw(word));
        word = word.wrapping_add(step);
    }
    word
}

/// The words that translate a chunk.
#[derive(Clone, Copy)]
pub(super) enum Words {
    /// The first-level entry of its section.
    Section,
    /// Entries of this one of the region's tables.
    Table(usize),
}

/// Tables that are taken from the front as sections need them, and never given back. This is for what is mapped once:
/// the direct map, devices.
#[derive(Debug)]
pub struct OnDemand<'m> {
    pub(super) first: FirstLevel<'m>,
    /// The tables that are taken.
    pub(super) used: u32,
}

/// A table for each section, from the start. So a mapping at run time never lacks one (I6).
#[derive(Debug)]
pub struct OneEach {
    /// The first-level entries, if they may change. Then a section descriptor may stand in the place of a pointer while
    /// it is mapped.
    pub(super) first: Option<FirstLevel<'static>>,
    /// The pages mapped in each section.
    pub(super) mapped: Vec<u16>,
}

/// First-level entries of a region, one a MiB, and where they stand.
#[derive(Debug)]
pub(super) struct FirstLevel<'m> {
    pub(super) entries: &'m mut [L1Desc],
    pub(super) at: PhysAddr,
}

impl FirstLevel<'_> {
    fn standing(&self, second: Second, section: usize) -> Standing {
        match self.entries[section].decode() {
            L1Entry::Fault => Standing::Fault,
            L1Entry::Table(at) => second.index_of(at).map_or(Standing::Other, Standing::Table),
            L1Entry::Section(_) | L1Entry::Foreign(_) => Standing::Other,
        }
    }

    pub(super) fn publish<M: Mmu>(&self, mmu: &M, sections: Range<usize>) {
        let at = PhysAddr::new(self.at.raw() + 4 * sections.start as u32);
        mmu.publish(at, as_words(&self.entries[sections]));
    }
}

/// What a first-level entry says.
pub(super) enum Standing {
    Fault,
    /// A section, or what the region did not write.
    Other,
    /// It leads to this one of the region's tables.
    Table(usize),
}

/// The second-level tables of a region: where the first one stands, and how many there are.
#[derive(Clone, Copy)]
pub(super) struct Second {
    pub(super) at: PhysAddr,
    pub(super) count: usize,
}

impl Second {
    pub(super) const fn table_at(self, table: usize) -> PhysAddr {
        PhysAddr::new(self.at.raw() + table as u32 * L2_TABLE_SIZE)
    }

    /// Returns which of the tables stands at `at`.
    pub(super) const fn index_of(self, at: PhysAddr) -> Option<usize> {
        let Some(offset) = at.raw().checked_sub(self.at.raw()) else { return None };
        let table = (offset / L2_TABLE_SIZE) as usize;
        if table < self.count { Some(table) } else { None }
    }
}

/// How the sections of a region get second-level tables: [`OnDemand`] or [`OneEach`].
pub(super) trait Tables {
    /// Whether sections get tables as they need them. Otherwise each has one, and its first-level entry leads there
    /// while no section descriptor stands in it.
    const ON_DEMAND: bool;

    /// Returns whether a chunk needs a table that its section has not.
    fn lacks(&self, chunk: Chunk) -> bool;

    /// Returns the number of tables that are taken.
    fn taken(&self) -> usize;

    /// Gives a section the next table.
    fn take(&mut self, second: Second, section: usize);

    /// Returns the words that translate a chunk, or will. Its section lacks no table.
    fn words(&self, second: Second, chunk: Chunk) -> Words;

    /// Returns whether every chunk that section descriptors can map is mapped by them.
    fn has_sections(&self) -> bool;

    /// Returns a size that no leaf of a mapping falls below.
    #[inline]
    fn leaf(&self, va: VirtAddr, frames: FrameRange) -> LeafSize {
        let ends = va.raw() | frames.base().raw() | frames.count() << FRAME_SHIFT;
        if ends.is_multiple_of(SECTION_SIZE) && self.has_sections() {
            LeafSize::Section
        } else if ends.is_multiple_of(LARGE_PAGE_SIZE) {
            LeafSize::LargePage
        } else {
            LeafSize::Page
        }
    }

    /// Returns what stands in a section's first-level entry.
    fn standing(&self, second: Second, section: usize) -> Standing;

    /// Returns what stands in a section's entry while no section descriptor does.
    fn vacant(&self, second: Second, section: usize) -> L1Desc;

    /// Writes a first-level entry.
    fn set_first(&mut self, section: usize, entry: L1Desc);

    /// Publishes first-level entries.
    fn publish_first<M: Mmu>(&self, mmu: &M, sections: Range<usize>);

    /// Returns whether it is known that nothing is mapped in the section.
    fn is_empty(&self, section: usize) -> bool;

    /// Takes note that so many pages of the section are mapped more, or fewer.
    fn note(&mut self, section: usize, change: i32);
}

impl Tables for OnDemand<'_> {
    const ON_DEMAND: bool = true;

    fn lacks(&self, chunk: Chunk) -> bool {
        !chunk.is_section() && self.first.entries[chunk.section] == L1Desc::FAULT
    }

    fn taken(&self) -> usize {
        self.used as usize
    }

    fn take(&mut self, second: Second, section: usize) {
        self.first.entries[section] = L1Desc::table(second.table_at(self.taken()));
        self.used += 1;
    }

    fn words(&self, second: Second, chunk: Chunk) -> Words {
        // A section that has a table keeps it even where a section descriptor would fit: the pointer would be lost, and
        // a walk cache may hold it.
        match self.standing(second, chunk.section) {
            Standing::Table(table) => Words::Table(table),
            Standing::Fault | Standing::Other => Words::Section,
        }
    }

    fn has_sections(&self) -> bool {
        false
    }

    fn standing(&self, second: Second, section: usize) -> Standing {
        self.first.standing(second, section)
    }

    fn vacant(&self, _: Second, _: usize) -> L1Desc {
        L1Desc::FAULT
    }

    fn set_first(&mut self, section: usize, entry: L1Desc) {
        self.first.entries[section] = entry;
    }

    fn publish_first<M: Mmu>(&self, mmu: &M, sections: Range<usize>) {
        self.first.publish(mmu, sections);
    }

    fn is_empty(&self, _: usize) -> bool {
        false
    }

    fn note(&mut self, _: usize, _: i32) {}
}

impl Tables for OneEach {
    const ON_DEMAND: bool = false;

    fn lacks(&self, _: Chunk) -> bool {
        false
    }

    fn taken(&self) -> usize {
        self.mapped.len()
    }

    fn take(&mut self, _: Second, _: usize) {}

    #[inline]
    fn words(&self, _: Second, chunk: Chunk) -> Words {
        if chunk.is_section() && self.has_sections() { Words::Section } else { Words::Table(chunk.section) }
    }

    #[inline]
    fn has_sections(&self) -> bool {
        self.first.is_some()
    }

    fn standing(&self, second: Second, section: usize) -> Standing {
        self.first.as_ref().map_or(Standing::Table(section), |first| first.standing(second, section))
    }

    fn vacant(&self, second: Second, section: usize) -> L1Desc {
        L1Desc::table(second.table_at(section))
    }

    fn set_first(&mut self, section: usize, entry: L1Desc) {
        if let Some(first) = &mut self.first {
            first.entries[section] = entry;
        }
    }

    fn publish_first<M: Mmu>(&self, mmu: &M, sections: Range<usize>) {
        if let Some(first) = &self.first {
            first.publish(mmu, sections);
        }
    }

    #[inline]
    fn is_empty(&self, section: usize) -> bool {
        self.mapped[section] == 0
    }

    #[inline]
    fn note(&mut self, section: usize, change: i32) {
        self.mapped[section] = self.mapped[section].wrapping_add_signed(change as i16);
    }
}

/// Descriptors are one word each.
pub(super) trait Word: Copy {}
impl Word for L1Desc {}
impl Word for L2Desc {}

pub(super) fn as_words<W: Word>(descriptors: &[W]) -> &[u32] {
    const { assert!(size_of::<W>() == 4 && align_of::<W>() == 4) };
    // SAFETY: `W` is one of the two descriptor types, each a transparent u32; length and lifetime are the slice's.
    unsafe { core::slice::from_raw_parts(descriptors.as_ptr().cast(), descriptors.len()) }
}
