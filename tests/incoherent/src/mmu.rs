//! Translation by the short-descriptor format (ARM ARM B3.5), and what the TLB may hold.
//!
//! Guarantees: a translation that could ever have been in the TLB stays there until an invalidate that names it is
//! complete; a translation that the live tables hold is taken up at the next DSB after its descriptor was written, as a
//! speculative walk would, or at its first use. This is the worst the architecture allows, so a missing or wrong
//! TLB invalidate shows.
//!
//! Walks read at the point of unification: the core's `ID_MMFR3[23:20]` is 0 here (as under QEMU, though not on a real
//! Cortex-A9), so a kernel that goes by it cleans each descriptor, and one that forgets is seen.
//!
//! The same goes for the pointer to a second-level table, which a walk cache may hold.
//!
//! Not modelled: ASIDs (the kernel uses one), domains other than client, TEX remap, access flags, 40-bit supersections.

use crate::cache::Caches;
use crate::report::Rule;
use std::collections::HashMap;

/// What a translation says of the memory behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// Normal, write-back or write-through.
    Cacheable,
    /// Normal, non-cacheable.
    NonCacheable,
    /// Device or Strongly-ordered.
    Device,
}

/// A page's translation, packed: frame, then kind, type and permissions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry(u32);

const VALID: u32 = 1;
const TYPE_SHIFT: u32 = 1;
const WRITE: u32 = 1 << 3;
const EXECUTE: u32 = 1 << 4;
const READ: u32 = 1 << 5;
const KIND_SHIFT: u32 = 6;

impl Entry {
    /// No translation.
    const NONE: Self = Self(0);

    const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// The frame's first address.
    pub const fn frame(self) -> u32 {
        self.0 & !0xfff
    }

    /// Its memory type.
    pub const fn memory_type(self) -> Type {
        match (self.0 >> TYPE_SHIFT) & 3 {
            0 => Type::Cacheable,
            1 => Type::NonCacheable,
            _ => Type::Device,
        }
    }

    /// Whether it may be read, written, executed.
    pub const fn permits(self) -> (bool, bool, bool) {
        (self.0 & READ != 0, self.0 & WRITE != 0, self.0 & EXECUTE != 0)
    }

    /// Whether a section, so that a fault is one of the first level.
    pub const fn is_section(self) -> bool {
        (self.0 >> KIND_SHIFT) & 3 == 2
    }

    /// Pages that one TLB entry covers: 1, 16 or 256.
    const fn span(self) -> u32 {
        match (self.0 >> KIND_SHIFT) & 3 {
            0 => 1,
            1 => 16,
            _ => 256,
        }
    }

    const fn new(frame: u32, kind: u32, tex_cb: u32, ap: u32, xn: bool) -> Self {
        let memory = match tex_cb {
            // TEX[2:0] C B (table B3-10, without TEX remap).
            0b00010 | 0b00011 | 0b00111 | 0b10000..=0b11111 => 0,
            0b00100 => 1,
            _ => 2,
        };
        let (read, write) = match ap {
            0b001..=0b011 => (true, true),
            0b101..=0b111 => (true, false),
            _ => (false, false),
        };
        let mut word = frame & !0xfff | VALID | memory << TYPE_SHIFT | kind << KIND_SHIFT;
        if read {
            word |= READ;
        }
        if write {
            word |= WRITE;
        }
        if read && !xn {
            word |= EXECUTE;
        }
        Self(word)
    }
}

/// Why there is no translation: the level the walk stopped at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoEntry {
    /// First-level descriptor.
    First,
    /// Second-level descriptor.
    Second,
}

/// The MMU's registers and the TLB's possible contents.
pub struct Mmu {
    /// SCTLR.
    pub sctlr: u32,
    /// TTBR0.
    pub ttbr0: u32,
    /// TTBR1.
    pub ttbr1: u32,
    /// TTBCR.
    pub ttbcr: u32,
    /// By virtual page.
    tlb: Vec<Entry>,
    /// What a walk cache may hold: pointers to second-level tables by first-level slot, 0 where none was seen.
    pointers: Vec<u32>,
    /// First-level slots with anything in `tlb`.
    used: Vec<bool>,
    /// Second-level tables by address, and the first-level slots that point to them.
    tables: HashMap<u32, Vec<u32>>,
    /// Frames of RAM that hold tables, by frame number from the base of RAM.
    table_frames: Vec<bool>,
    /// Descriptors written since the last DSB.
    written: Vec<u32>,
    /// TLB invalidates since the last DSB: pages.
    pages: Vec<u32>,
    /// TLB invalidates since the last DSB: all.
    all: bool,
    /// Translations of each frame of RAM that are not cacheable, by frame.
    uncacheable: Vec<u16>,
}

impl Mmu {
    /// Off.
    pub fn new(frames: usize) -> Self {
        Self {
            sctlr: 0,
            ttbr0: 0,
            ttbr1: 0,
            ttbcr: 0,
            tlb: vec![Entry::NONE; 1 << 20],
            pointers: vec![0; 4096],
            used: vec![false; 4096],
            tables: HashMap::new(),
            table_frames: vec![false; frames],
            written: Vec::new(),
            pages: Vec::new(),
            all: false,
            uncacheable: vec![0; frames],
        }
    }

    /// Whether translation is on.
    pub const fn is_on(&self) -> bool {
        self.sctlr & 1 != 0
    }

    /// Whether the data cache is on.
    pub const fn caches_on(&self) -> bool {
        self.sctlr & 4 != 0
    }

    fn first_level(&self, va: u32) -> u32 {
        let n = self.ttbcr & 7;
        let base =
            if n == 0 || va >> (32 - n) == 0 { self.ttbr0 >> (14 - n) << (14 - n) } else { self.ttbr1 & !0x3fff };
        base.wrapping_add((va >> 20) * 4)
    }

    fn word(caches: &mut Caches, pa: u32) -> u32 {
        if caches.has(pa) { caches.unified_word(pa) } else { 0 }
    }

    /// Walks the live tables.
    fn walk(&self, caches: &mut Caches, va: u32) -> Result<Entry, NoEntry> {
        let first = match self.pointers[(va >> 20) as usize] {
            0 => Self::word(caches, self.first_level(va)),
            held => held,
        };
        match first & 3 {
            0 => Err(NoEntry::First),
            1 => {
                let second = Self::word(caches, (first & !0x3ff) + ((va >> 12) & 0xff) * 4);
                let (tex, ap, cb) = ((second >> 6) & 7, (second >> 4) & 3 | (second >> 7) & 4, (second >> 2) & 3);
                match second & 3 {
                    0 => Err(NoEntry::Second),
                    1 => {
                        let tex = (second >> 12) & 7;
                        let frame = second & 0xffff_0000 | va & 0xf000;
                        Ok(Entry::new(frame, 1, tex << 2 | cb, ap, second & 1 << 15 != 0))
                    }
                    _ => Ok(Entry::new(second, 0, tex << 2 | cb, ap, second & 1 != 0)),
                }
            }
            _ => {
                let (tex, ap) = ((first >> 12) & 7, (first >> 10) & 3 | (first >> 13) & 4);
                let frame = first & 0xfff0_0000 | va & 0x000f_f000;
                Ok(Entry::new(frame, 2, tex << 2 | (first >> 2) & 3, ap, first & 1 << 4 != 0))
            }
        }
    }

    /// A descriptor that translates `va` and that a walk does not see as it was written.
    fn unclean(&self, caches: &mut Caches, va: u32) -> Option<u32> {
        let first = self.first_level(va);
        let is_unclean = |caches: &mut Caches, pa| caches.has(pa) && caches.word(pa, true) != caches.unified_word(pa);
        let held = self.pointers[(va >> 20) as usize];
        if held == 0 && is_unclean(caches, first) {
            return Some(first);
        }
        let table = if held == 0 { Self::word(caches, first) } else { held };
        let second = (table & !0x3ff) + ((va >> 12) & 0xff) * 4;
        (table & 3 == 1 && is_unclean(caches, second)).then_some(second)
    }

    /// The translation of `va`: what the TLB holds, stale or not, else the tables'.
    pub fn translate(&mut self, caches: &mut Caches, va: u32) -> Result<Result<Entry, NoEntry>, (Rule, u32)> {
        let held = self.tlb[(va >> 12) as usize];
        if held.is_valid() {
            return Ok(Ok(held));
        }
        if let Some(pa) = self.unclean(caches, va) {
            return Err((Rule::StaleWalk { va }, pa));
        }
        match self.walk(caches, va) {
            Err(none) => Ok(Err(none)),
            Ok(entry) => {
                self.set(caches, va, entry)?;
                Ok(Ok(entry))
            }
        }
    }

    /// Where the TLB may translate to this address from, at most four places.
    pub fn mappings(&self, pa: u32) -> Vec<(u32, Type)> {
        let held = self.tlb.iter().enumerate();
        held.filter(|(_, held)| held.is_valid() && held.frame() == pa & !0xfff)
            .map(|(page, held)| ((page as u32) << 12 | pa & 0xfff, held.memory_type()))
            .take(4)
            .collect()
    }

    fn count(&mut self, caches: &mut Caches, entry: Entry, more: bool) -> Option<usize> {
        let frame = entry.frame();
        if !entry.is_valid() || !caches.has(frame) {
            return None;
        }
        let n = ((frame - caches.base) >> 12) as usize;
        if entry.memory_type() == Type::Cacheable {
            caches.count_cacheable(frame, more);
        } else {
            let count = &mut self.uncacheable[n];
            *count = if more { *count + 1 } else { *count - 1 };
        }
        Some(n)
    }

    fn set(&mut self, caches: &mut Caches, va: u32, entry: Entry) -> Result<(), (Rule, u32)> {
        let old = core::mem::replace(&mut self.tlb[(va >> 12) as usize], entry);
        if old == entry {
            return Ok(());
        }
        self.used[(va >> 20) as usize] |= entry.is_valid();
        self.count(caches, old, false);
        if let Some(n) = self.count(caches, entry, true)
            && caches.is_cacheable(entry.frame())
            && self.uncacheable[n] > 0
        {
            let find = |cacheable: bool| {
                let is = |held: &Entry| {
                    held.is_valid()
                        && held.frame() == entry.frame()
                        && (held.memory_type() == Type::Cacheable) == cacheable
                };
                self.tlb.iter().position(is).map_or(0, |page| (page as u32) << 12)
            };
            return Err((Rule::Alias { first: find(true), second: find(false) }, entry.frame()));
        }
        Ok(())
    }

    /// A store to `pa`: of a descriptor, perhaps.
    pub fn stored(&mut self, caches: &Caches, pa: u32) {
        if self.table_frames[((pa - caches.base) >> 12) as usize] {
            self.written.push(pa & !3);
        }
    }

    /// A TLB invalidate by address was issued.
    pub fn invalidate_page(&mut self, va: u32) {
        self.pages.push(va & !0xfff);
    }

    /// A TLB invalidate of everything was issued.
    pub const fn invalidate_all(&mut self) {
        self.all = true;
    }

    /// DSB: invalidates are done, written descriptors are seen. Says whether any translation may have gone.
    pub fn complete(&mut self, caches: &mut Caches) -> Result<bool, (Rule, u32)> {
        let gone = self.all || !self.pages.is_empty();
        if !self.is_on() {
            self.all = false;
            self.pages.clear();
            self.written.clear();
            return Ok(gone);
        }
        if core::mem::take(&mut self.all) {
            self.pages.clear();
            self.written.clear();
            self.rebuild(caches)?;
            return Ok(true);
        }
        let pages = core::mem::take(&mut self.pages);
        for &va in &pages {
            self.pointers[(va >> 20) as usize] = 0;
            let span = self.tlb[(va >> 12) as usize].span() << 12;
            for n in 0..span >> 12 {
                self.set(caches, (va & !(span - 1)) + (n << 12), Entry::NONE)?;
            }
        }
        let mut slots: Vec<u32> = pages.iter().map(|va| va >> 20).collect();
        slots.dedup();
        for slot in slots {
            self.take_up_section(caches, slot)?;
        }
        for pa in core::mem::take(&mut self.written) {
            if caches.word(pa, true) != caches.unified_word(pa) {
                // Walks do not see it yet.
                self.written.push(pa);
                continue;
            }
            let first = pa.wrapping_sub(self.ttbr1 & !0x3fff);
            if first < 0x4000 {
                self.take_up_section(caches, first / 4)?;
                for page in 0..256 {
                    self.remapped(caches, first << 18 | page << 12)?;
                }
            }
            if let Some(slots) = self.tables.get(&(pa & !0x3ff)) {
                for slot in slots.clone() {
                    self.remapped(caches, slot << 20 | (pa & 0x3ff) << 10)?;
                }
            }
        }
        Ok(gone)
    }

    /// A descriptor that translates `va` was written: another translation may not be held now.
    fn remapped(&mut self, caches: &mut Caches, va: u32) -> Result<(), (Rule, u32)> {
        let held = self.tlb[(va >> 12) as usize];
        match self.walk(caches, va) {
            Ok(entry) if held.is_valid() && entry != held => Err((Rule::StaleTranslation { va }, held.frame())),
            Ok(entry) => self.set(caches, va, entry),
            Err(_) => Ok(()),
        }
    }

    fn take_up(&mut self, caches: &mut Caches, va: u32) -> Result<(), (Rule, u32)> {
        if !self.tlb[(va >> 12) as usize].is_valid()
            && let Ok(entry) = self.walk(caches, va)
        {
            self.set(caches, va, entry)?;
        }
        Ok(())
    }

    fn take_up_section(&mut self, caches: &mut Caches, slot: u32) -> Result<(), (Rule, u32)> {
        let first = Self::word(caches, self.first_level(slot << 20));
        if first & 3 == 1 {
            let table = first & !0x3ff;
            let slots = self.tables.entry(table).or_default();
            if !slots.contains(&slot) {
                slots.push(slot);
            }
            if caches.has(table) {
                self.table_frames[((table - caches.base) >> 12) as usize] = true;
            }
            let pointer = &mut self.pointers[slot as usize];
            if *pointer == 0 {
                *pointer = first;
            }
        }
        for page in 0..256 {
            self.take_up(caches, slot << 20 | page << 12)?;
        }
        Ok(())
    }

    /// Forgets everything and takes up the live tables: after an invalidate of all, or when the MMU comes on.
    pub fn rebuild(&mut self, caches: &mut Caches) -> Result<(), (Rule, u32)> {
        for slot in 0..4096u32 {
            if core::mem::take(&mut self.used[slot as usize]) {
                for page in 0..256 {
                    self.set(caches, slot << 20 | page << 12, Entry::NONE)?;
                }
            }
        }
        self.pointers.fill(0);
        self.tables.clear();
        self.table_frames.fill(false);
        for table in [self.ttbr0, self.ttbr1] {
            let n = (table & !0x3fff).wrapping_sub(caches.base) >> 12;
            for frame in n..n + 4 {
                if let Some(is) = self.table_frames.get_mut(frame as usize) {
                    *is = true;
                }
            }
        }
        for slot in 0..4096 {
            if Self::word(caches, self.first_level(slot << 20)) & 3 != 0 {
                self.take_up_section(caches, slot)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u32 = 0x6000_0000;
    /// One table for both halves, in the first 16 KiB; a second-level one behind it.
    const SECOND: u32 = BASE + 0x4000;
    const VA: u32 = 0xc000_0000;
    const WRITE_BACK: u32 = 0x0005_140e;
    const NON_CACHEABLE: u32 = 0x0005_1402;

    /// Empty tables, MMU and caches on.
    fn machine() -> (Mmu, Caches) {
        let mut caches = Caches::new(crate::model::find("a9").unwrap(), 4 << 20, 1, 1 << 30);
        caches.put(BASE, &[0; 0x5000]);
        let mut mmu = Mmu::new(1024);
        (mmu.ttbr0, mmu.ttbr1, mmu.ttbcr, mmu.sctlr) = (BASE, BASE, 1, 5);
        mmu.rebuild(&mut caches).unwrap();
        (mmu, caches)
    }

    /// A descriptor, written and cleaned.
    fn write(mmu: &mut Mmu, caches: &mut Caches, pa: u32, word: u32) {
        caches.put(pa, &word.to_le_bytes());
        mmu.stored(caches, pa);
    }

    fn first_level(va: u32) -> u32 {
        BASE + (va >> 20) * 4
    }

    fn frame(mmu: &mut Mmu, caches: &mut Caches, va: u32) -> Option<u32> {
        mmu.translate(caches, va).unwrap().ok().map(Entry::frame)
    }

    #[test]
    fn a_translation_stays_until_an_invalidate_of_it_is_complete() {
        let (mut mmu, mut caches) = machine();
        write(&mut mmu, &mut caches, first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
        mmu.complete(&mut caches).unwrap();
        write(&mut mmu, &mut caches, first_level(VA), 0);
        mmu.complete(&mut caches).unwrap();
        assert_eq!(frame(&mut mmu, &mut caches, VA + 0x3000), Some(BASE + 0x10_3000), "no invalidate");
        mmu.invalidate_page(VA + 0x10_0000);
        mmu.complete(&mut caches).unwrap();
        assert!(frame(&mut mmu, &mut caches, VA).is_some(), "another section's");
        mmu.invalidate_page(VA);
        assert!(frame(&mut mmu, &mut caches, VA).is_some(), "not complete");
        mmu.complete(&mut caches).unwrap();
        assert_eq!(frame(&mut mmu, &mut caches, VA + 0x3000), None, "one invalidate takes the whole section");
    }

    #[test]
    fn a_new_translation_beside_an_old_one_is_told() {
        let (mut mmu, mut caches) = machine();
        write(&mut mmu, &mut caches, first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
        mmu.complete(&mut caches).unwrap();
        write(&mut mmu, &mut caches, first_level(VA), (BASE + 0x20_0000) | WRITE_BACK);
        let told = mmu.complete(&mut caches).unwrap_err();
        assert_eq!(told, (Rule::StaleTranslation { va: VA }, BASE + 0x10_0000));
    }

    #[test]
    fn two_types_for_a_frame_are_told() {
        let (mut mmu, mut caches) = machine();
        write(&mut mmu, &mut caches, first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
        mmu.complete(&mut caches).unwrap();
        let second = VA + 0x10_0000;
        write(&mut mmu, &mut caches, first_level(second), (BASE + 0x10_0000) | NON_CACHEABLE);
        let told = mmu.complete(&mut caches).unwrap_err();
        assert_eq!(told, (Rule::Alias { first: VA, second }, BASE + 0x10_0000));
    }

    #[test]
    fn a_walk_cache_keeps_the_pointer_to_a_table() {
        let (mut mmu, mut caches) = machine();
        write(&mut mmu, &mut caches, first_level(VA), SECOND | 1);
        mmu.complete(&mut caches).unwrap();
        write(&mut mmu, &mut caches, first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
        mmu.complete(&mut caches).unwrap();
        assert_eq!(frame(&mut mmu, &mut caches, VA), None, "the table's own descriptors are empty");
        mmu.invalidate_page(VA);
        mmu.complete(&mut caches).unwrap();
        assert_eq!(frame(&mut mmu, &mut caches, VA), Some(BASE + 0x10_0000));
    }

    #[test]
    fn a_descriptor_that_was_not_cleaned_is_told_at_its_use() {
        let (mut mmu, mut caches) = machine();
        let (pa, word) = (first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
        caches.access(pa, 4, Some(word.into()), true, true).unwrap();
        caches.poke(pa, word);
        mmu.stored(&caches, pa);
        mmu.complete(&mut caches).unwrap();
        assert!(matches!(mmu.translate(&mut caches, VA), Err((Rule::StaleWalk { va: VA }, line)) if line == pa));
        caches.issue(crate::cache::Maintain::CleanToUnification, pa);
        caches.complete(&mut |_| Ok(())).unwrap();
        mmu.complete(&mut caches).unwrap();
        assert_eq!(frame(&mut mmu, &mut caches, VA), Some(BASE + 0x10_0000));
    }

    #[test]
    fn attributes_and_permissions_are_decoded() {
        let (mut mmu, mut caches) = machine();
        write(&mut mmu, &mut caches, first_level(VA), SECOND | 1);
        // Small pages: write-back read-write XN; Device; write-back read-only.
        for (page, word) in [(0, 0x457 | 8), (1, 0x017 | 0x4), (2, 0x65e)] {
            write(&mut mmu, &mut caches, SECOND + 4 * page, (BASE + ((page + 16) << 12)) | word);
        }
        mmu.complete(&mut caches).unwrap();
        let mut entry = |page: u32| mmu.translate(&mut caches, VA + (page << 12)).unwrap().unwrap();
        assert_eq!((entry(0).memory_type(), entry(0).permits()), (Type::Cacheable, (true, true, false)));
        assert_eq!(entry(1).memory_type(), Type::Device);
        assert_eq!((entry(2).memory_type(), entry(2).permits()), (Type::Cacheable, (true, false, true)));
    }
}
