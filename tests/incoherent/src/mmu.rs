//! Translation by the short-descriptor format (ARM ARM B3.5), and what the TLB may hold.
//!
//! Guarantees: a translation that could ever have been in the TLB stays there until an invalidate that names it is
//! complete; a translation that the live tables hold is taken up at the next DSB after its descriptor was written, as a
//! speculative walk would, or at its first use. This is the worst the architecture allows, so a missing or wrong
//! TLB invalidate shows.
//!
//! Where walks read is what the core's `ID_MMFR3[23:20]` says. It is 0 on Cortex-A8 and Cortex-A9 (as under QEMU,
//! though not on a real Cortex-A9): walks read at the point of unification, so a kernel that goes by it cleans each
//! descriptor, and one that forgets is seen. It is 1 on Cortex-A7 and Cortex-A15: walks look in the caches, as far as
//! TTBR's attributes have them cacheable, and behind them otherwise.
//!
//! The same goes for the pointer to a second-level table, which a walk cache may hold.
//!
//! Address spaces: what the TLB holds below TTBR1's addresses, and is not global, is of the space whose number (ASID)
//! CONTEXTIDR has. The translations of other spaces stay, and are there again when their number is. A table that TTBR0
//! gets must not translate what it translates otherwise than the TLB still does for that number.
//!
//! Not modelled: domains other than client, TEX remap, access flags, 40-bit supersections.

use crate::cache::{Caches, Walk};
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
const USER_READ: u32 = 1 << 8;
const USER_WRITE: u32 = 1 << 9;
const GLOBAL: u32 = 1 << 10;

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

    /// Whether it may be read, written, executed: by the kernel, or by a user.
    pub const fn permits(self, user: bool) -> (bool, bool, bool) {
        let (read, write) = if user { (USER_READ, USER_WRITE) } else { (READ, WRITE) };
        (self.0 & read != 0, self.0 & write != 0, self.0 & EXECUTE != 0 && self.0 & read != 0)
    }

    /// Whether a section, so that a fault is one of the first level.
    pub const fn is_section(self) -> bool {
        (self.0 >> KIND_SHIFT) & 3 == 2
    }

    /// Whether it is there for every space.
    const fn is_global(self) -> bool {
        self.0 & GLOBAL != 0
    }

    /// Returns it as a space's own if `of_a_space` is set (nG), else as one for every space.
    const fn of(self, of_a_space: bool) -> Self {
        if of_a_space { self } else { Self(self.0 | GLOBAL) }
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
        if matches!(ap, 0b010 | 0b011 | 0b110 | 0b111) {
            word |= USER_READ;
        }
        if ap == 0b011 {
            word |= USER_WRITE;
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

/// TLB invalidates.
#[derive(Default)]
struct Invalidates {
    /// Addresses, each of one space or of all.
    pages: Vec<(u32, Option<u8>)>,
    /// Spaces.
    spaces: Vec<u8>,
    all: bool,
}

impl Invalidates {
    const fn is_empty(&self) -> bool {
        !self.all && self.pages.is_empty() && self.spaces.is_empty()
    }
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
    /// Whose it is.
    core: usize,
    /// Whether walks look in the caches.
    coherent: bool,
    /// By virtual page.
    tlb: Vec<Entry>,
    /// The number of the space that runs.
    space: u8,
    /// What is held of the other spaces: page and translation.
    others: HashMap<u8, Vec<(u32, Entry)>>,
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
    /// TLB invalidates since the last DSB, of this core alone and of all that they reach.
    local: Invalidates,
    broadcast: Invalidates,
}

impl Mmu {
    /// A core's, off, over so many frames of RAM. `coherent`: walks look in the caches.
    pub fn new(core: usize, frames: usize, coherent: bool) -> Self {
        Self {
            sctlr: 0,
            ttbr0: 0,
            ttbr1: 0,
            ttbcr: 0,
            core,
            coherent,
            tlb: vec![Entry::NONE; 1 << 20],
            space: 0,
            others: HashMap::new(),
            pointers: vec![0; 4096],
            used: vec![false; 4096],
            tables: HashMap::new(),
            table_frames: vec![false; frames],
            written: Vec::new(),
            local: Invalidates::default(),
            broadcast: Invalidates::default(),
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

    /// First-level slots that TTBR0 has; the others are TTBR1's.
    const fn split(&self) -> u32 {
        4096 >> (self.ttbcr & 7)
    }

    /// The table that has a first-level slot: its address if it had all, and the register's attributes.
    const fn root(&self, slot: u32) -> (u32, u32) {
        let n = 14 - (self.ttbcr & 7);
        if slot < self.split() { (self.ttbr0 >> n << n, self.ttbr0) } else { (self.ttbr1 & !0x3fff, self.ttbr1) }
    }

    const fn first_level(&self, va: u32) -> u32 {
        let slot = va >> 20;
        self.root(slot).0.wrapping_add(slot * 4)
    }

    /// First-level slots whose descriptor is at `pa`.
    fn slots_at(&self, pa: u32) -> impl Iterator<Item = u32> + use<> {
        let split = self.split();
        [(0..split, self.root(0).0), (split..4096, self.ttbr1 & !0x3fff)].into_iter().filter_map(
            move |(slots, base)| {
                let slot = pa.wrapping_sub(base) / 4;
                slots.contains(&slot).then_some(slot)
            },
        )
    }

    /// Where walks for `va` read (ARM ARM B4.1.154: IRGN in bits 0 and 6, RGN in bits 4 and 3).
    const fn walk_of(&self, va: u32) -> Walk {
        let (_, attributes) = self.root(va >> 20);
        match (self.coherent, attributes & (1 << 6 | 1) != 0, attributes & 3 << 3 != 0) {
            (false, ..) | (true, false, true) => Walk::Unified,
            (true, true, _) => Walk::Cached,
            (true, false, false) => Walk::Memory,
        }
    }

    /// A descriptor that a walk for `va` reads.
    fn word(&self, caches: &mut Caches, va: u32, pa: u32) -> u32 {
        if caches.has(pa) { caches.walked_word(pa, self.walk_of(va)) } else { 0 }
    }

    /// Walks the live tables.
    fn walk(&self, caches: &mut Caches, va: u32) -> Result<Entry, NoEntry> {
        let first = match self.pointers[(va >> 20) as usize] {
            0 => self.word(caches, va, self.first_level(va)),
            held => held,
        };
        match first & 3 {
            0 => Err(NoEntry::First),
            1 => {
                let second = self.word(caches, va, (first & !0x3ff) + ((va >> 12) & 0xff) * 4);
                let (tex, ap, cb) = ((second >> 6) & 7, (second >> 4) & 3 | (second >> 7) & 4, (second >> 2) & 3);
                let own = second & 1 << 11 != 0;
                match second & 3 {
                    0 => Err(NoEntry::Second),
                    1 => {
                        let tex = (second >> 12) & 7;
                        let frame = second & 0xffff_0000 | va & 0xf000;
                        Ok(Entry::new(frame, 1, tex << 2 | cb, ap, second & 1 << 15 != 0).of(own))
                    }
                    _ => Ok(Entry::new(second, 0, tex << 2 | cb, ap, second & 1 != 0).of(own)),
                }
            }
            _ => {
                let (tex, ap) = ((first >> 12) & 7, (first >> 10) & 3 | (first >> 13) & 4);
                let frame = first & 0xfff0_0000 | va & 0x000f_f000;
                let entry = Entry::new(frame, 2, tex << 2 | (first >> 2) & 3, ap, first & 1 << 4 != 0);
                Ok(entry.of(first & 1 << 17 != 0))
            }
        }
    }

    fn is_unclean(&self, caches: &mut Caches, va: u32, pa: u32) -> bool {
        caches.has(pa) && caches.word(pa, true) != caches.walked_word(pa, self.walk_of(va))
    }

    /// A descriptor that translates `va` and that a walk does not see as it was written.
    fn unclean(&self, caches: &mut Caches, va: u32) -> Option<u32> {
        let first = self.first_level(va);
        let is_unclean = |caches: &mut Caches, pa| self.is_unclean(caches, va, pa);
        let held = self.pointers[(va >> 20) as usize];
        if held == 0 && is_unclean(caches, first) {
            return Some(first);
        }
        let table = if held == 0 { self.word(caches, va, first) } else { held };
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

    fn count(&self, caches: &mut Caches, entry: Entry, more: bool) {
        let frame = entry.frame();
        if entry.is_valid() && caches.has(frame) {
            caches.count(self.core, frame, entry.memory_type() == Type::Cacheable, more);
        }
    }

    fn set(&mut self, caches: &mut Caches, va: u32, entry: Entry) -> Result<(), (Rule, u32)> {
        let old = core::mem::replace(&mut self.tlb[(va >> 12) as usize], entry);
        if old == entry {
            return Ok(());
        }
        self.used[(va >> 20) as usize] |= entry.is_valid();
        self.count(caches, old, false);
        self.count(caches, entry, true);
        if entry.is_valid() && caches.has(entry.frame()) && caches.is_mismatched(entry.frame()) {
            let [first, second] = [true, false].map(|cacheable| self.find(entry.frame(), cacheable).unwrap_or(0));
            return Err((Rule::Alias { first, second }, entry.frame()));
        }
        Ok(())
    }

    /// Where the TLB may translate to this frame from, cacheable or not.
    pub fn find(&self, frame: u32, cacheable: bool) -> Option<u32> {
        let is = |held: &Entry| {
            held.is_valid() && held.frame() == frame && (held.memory_type() == Type::Cacheable) == cacheable
        };
        self.tlb.iter().position(is).map(|page| (page as u32) << 12)
    }

    /// A store to `pa`: of a descriptor, perhaps.
    pub fn stored(&mut self, caches: &Caches, pa: u32) {
        if self.table_frames[((pa - caches.base) >> 12) as usize] {
            self.written.push(pa & !3);
        }
    }

    /// A TLB invalidate by address was issued, of one space or of all, and of this core alone or of all.
    pub fn invalidate_page(&mut self, va: u32, space: Option<u8>, broadcast: bool) {
        self.issued(broadcast).pages.push((va & !0xfff, space));
    }

    /// A TLB invalidate of a space was issued, of this core alone or of all.
    pub fn invalidate_space(&mut self, space: u8, broadcast: bool) {
        self.issued(broadcast).spaces.push(space);
    }

    /// A TLB invalidate of everything was issued, of this core alone or of all.
    pub const fn invalidate_all(&mut self, broadcast: bool) {
        self.issued(broadcast).all = true;
    }

    const fn issued(&mut self, broadcast: bool) -> &mut Invalidates {
        if broadcast { &mut self.broadcast } else { &mut self.local }
    }

    /// DSB of one of the cores: its invalidates are done on all that they reach, the descriptors that it wrote are
    /// seen. Returns a bit for each core of which any translation may have gone.
    pub fn complete(cores: &mut [Self], by: usize, caches: &mut Caches) -> Result<u8, (Rule, u32)> {
        let (local, broadcast) = (core::mem::take(&mut cores[by].local), core::mem::take(&mut cores[by].broadcast));
        let mut gone = 0;
        if !local.is_empty() || !broadcast.is_empty() {
            let reached: Vec<usize> = (0..cores.len()).filter(|&to| caches.reaches(by, to)).collect();
            let of = |to: usize| [&broadcast, &local].into_iter().take(if to == by { 2 } else { 1 });
            // A translation that one core takes up meets none that another has still to forget.
            for &to in &reached {
                for invalidates in of(to).filter(|one| !one.is_empty()) {
                    gone |= 1 << to;
                    cores[to].forget(caches, invalidates)?;
                }
            }
            for &to in &reached {
                for invalidates in of(to) {
                    cores[to].take_up_again(caches, invalidates)?;
                }
            }
            if (local.all || broadcast.all) && cores[by].is_on() {
                // All tables were walked.
                cores[by].written.clear();
            }
        }
        let written = core::mem::take(&mut cores[by].written);
        if !cores[by].is_on() {
            return Ok(gone);
        }
        for pa in written {
            let mut seen = true;
            for core in cores.iter_mut().filter(|core| core.is_on()) {
                seen &= core.see(caches, pa)?;
            }
            if !seen {
                cores[by].written.push(pa);
            }
        }
        Ok(gone)
    }

    fn forget(&mut self, caches: &mut Caches, invalidates: &Invalidates) -> Result<(), (Rule, u32)> {
        if invalidates.all {
            return self.forget_all(caches);
        }
        for &space in &invalidates.spaces {
            self.others.remove(&space);
            if space == self.space {
                self.put_by(caches)?;
            }
        }
        for &(va, space) in &invalidates.pages {
            if va >> 20 < self.split() {
                let others = self.others.iter_mut().filter(|(other, _)| space.is_none_or(|space| space == **other));
                others.for_each(|(_, held)| held.retain(|&(page, _)| page != va >> 12));
                if space.is_some_and(|space| space != self.space) && !self.tlb[(va >> 12) as usize].is_global() {
                    continue;
                }
            }
            self.pointers[(va >> 20) as usize] = 0;
            let span = self.tlb[(va >> 12) as usize].span() << 12;
            for n in 0..span >> 12 {
                self.set(caches, (va & !(span - 1)) + (n << 12), Entry::NONE)?;
            }
        }
        Ok(())
    }

    fn take_up_again(&mut self, caches: &mut Caches, invalidates: &Invalidates) -> Result<(), (Rule, u32)> {
        if !self.is_on() {
            return Ok(());
        }
        if invalidates.all {
            return self.take_up_all(caches);
        }
        if invalidates.spaces.contains(&self.space) {
            self.take_up_space(caches)?;
        }
        let mut slots: Vec<u32> = invalidates.pages.iter().map(|(va, _)| va >> 20).collect();
        slots.dedup();
        slots.into_iter().try_for_each(|slot| self.take_up_section(caches, slot))
    }

    /// A descriptor that was written is seen, unless walks read an old one still. Whether it is.
    fn see(&mut self, caches: &mut Caches, pa: u32) -> Result<bool, (Rule, u32)> {
        let mut slots: Vec<(u32, bool)> = self.slots_at(pa).map(|slot| (slot, true)).collect();
        slots.extend(self.tables.get(&(pa & !0x3ff)).into_iter().flatten().map(|&slot| (slot, false)));
        if slots.iter().any(|&(slot, _)| self.is_unclean(caches, slot << 20, pa)) {
            return Ok(false);
        }
        for (slot, first) in slots {
            if first {
                self.take_up_section(caches, slot)?;
                for page in 0..256 {
                    self.remapped(caches, slot << 20 | page << 12)?;
                }
            } else {
                self.remapped(caches, slot << 20 | (pa & 0x3ff) << 10)?;
            }
        }
        Ok(true)
    }

    /// What translates `va` was written, or came into force: another translation may not be held now.
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
        let first = self.word(caches, slot << 20, self.first_level(slot << 20));
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

    /// Another space runs from now on, by its number. What is held of it is there again.
    pub fn switch(&mut self, caches: &mut Caches, space: u8) -> Result<(), (Rule, u32)> {
        let held = self.put_by(caches)?;
        self.others.insert(self.space, held);
        self.space = space;
        for (page, entry) in self.others.remove(&space).unwrap_or_default() {
            self.set(caches, page << 12, entry)?;
        }
        Ok(())
    }

    /// Forgets what is held below TTBR1's addresses and is not global, and returns it.
    fn put_by(&mut self, caches: &mut Caches) -> Result<Vec<(u32, Entry)>, (Rule, u32)> {
        let mut held = Vec::new();
        for slot in 0..self.split() {
            self.pointers[slot as usize] = 0;
            if core::mem::take(&mut self.used[slot as usize]) {
                for page in slot << 8..(slot + 1) << 8 {
                    let entry = self.tlb[page as usize];
                    self.used[slot as usize] |= entry.is_global();
                    if entry.is_valid() && !entry.is_global() {
                        held.push((page, entry));
                        self.set(caches, page << 12, Entry::NONE)?;
                    }
                }
            }
        }
        Ok(held)
    }

    /// Takes up what TTBR0's table has now. What is held of the space stays, and must not be another process's.
    pub fn take_up_space(&mut self, caches: &mut Caches) -> Result<(), (Rule, u32)> {
        for slot in 0..self.split() {
            let first = self.first_level(slot << 20);
            if let Some(is) = self.table_frames.get_mut((first.wrapping_sub(caches.base) >> 12) as usize) {
                *is = true;
            }
            if self.word(caches, slot << 20, first) & 3 != 0 {
                self.take_up_section(caches, slot)?;
                for page in 0..256 {
                    self.remapped(caches, slot << 20 | page << 12)?;
                }
            }
        }
        Ok(())
    }

    /// Forgets everything and takes up the live tables: when the MMU comes on, or other tables do.
    pub fn rebuild(&mut self, caches: &mut Caches) -> Result<(), (Rule, u32)> {
        self.forget_all(caches)?;
        self.take_up_all(caches)
    }

    fn forget_all(&mut self, caches: &mut Caches) -> Result<(), (Rule, u32)> {
        for slot in 0..4096u32 {
            if core::mem::take(&mut self.used[slot as usize]) {
                for page in 0..256 {
                    self.set(caches, slot << 20 | page << 12, Entry::NONE)?;
                }
            }
        }
        self.pointers.fill(0);
        self.tables.clear();
        self.others.clear();
        Ok(())
    }

    fn take_up_all(&mut self, caches: &mut Caches) -> Result<(), (Rule, u32)> {
        self.table_frames.fill(false);
        for slot in 0..4096u32 {
            let frame = self.first_level(slot << 20).wrapping_sub(caches.base) >> 12;
            if let Some(is) = self.table_frames.get_mut(frame as usize) {
                *is = true;
            }
        }
        for slot in 0..4096 {
            if self.word(caches, slot << 20, self.first_level(slot << 20)) & 3 != 0 {
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
        let mut mmu = Mmu::new(0, 1024, false);
        (mmu.ttbr0, mmu.ttbr1, mmu.ttbcr, mmu.sctlr) = (BASE, BASE, 1, 5);
        mmu.rebuild(&mut caches).unwrap();
        (mmu, caches)
    }

    /// A descriptor, written and cleaned.
    fn write(mmu: &mut Mmu, caches: &mut Caches, pa: u32, word: u32) {
        caches.put(pa, &word.to_le_bytes());
        mmu.stored(caches, pa);
    }

    fn complete(mmu: &mut Mmu, caches: &mut Caches) -> Result<u8, (Rule, u32)> {
        Mmu::complete(core::slice::from_mut(mmu), 0, caches)
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
        complete(&mut mmu, &mut caches).unwrap();
        write(&mut mmu, &mut caches, first_level(VA), 0);
        complete(&mut mmu, &mut caches).unwrap();
        assert_eq!(frame(&mut mmu, &mut caches, VA + 0x3000), Some(BASE + 0x10_3000), "no invalidate");
        mmu.invalidate_page(VA + 0x10_0000, None, true);
        complete(&mut mmu, &mut caches).unwrap();
        assert!(frame(&mut mmu, &mut caches, VA).is_some(), "another section's");
        mmu.invalidate_page(VA, None, true);
        assert!(frame(&mut mmu, &mut caches, VA).is_some(), "not complete");
        complete(&mut mmu, &mut caches).unwrap();
        assert_eq!(frame(&mut mmu, &mut caches, VA + 0x3000), None, "one invalidate takes the whole section");
    }

    #[test]
    fn a_new_translation_beside_an_old_one_is_told() {
        let (mut mmu, mut caches) = machine();
        write(&mut mmu, &mut caches, first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
        complete(&mut mmu, &mut caches).unwrap();
        write(&mut mmu, &mut caches, first_level(VA), (BASE + 0x20_0000) | WRITE_BACK);
        let told = complete(&mut mmu, &mut caches).unwrap_err();
        assert_eq!(told, (Rule::StaleTranslation { va: VA }, BASE + 0x10_0000));
    }

    #[test]
    fn two_types_for_a_frame_are_told() {
        let (mut mmu, mut caches) = machine();
        write(&mut mmu, &mut caches, first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
        complete(&mut mmu, &mut caches).unwrap();
        let second = VA + 0x10_0000;
        write(&mut mmu, &mut caches, first_level(second), (BASE + 0x10_0000) | NON_CACHEABLE);
        let told = complete(&mut mmu, &mut caches).unwrap_err();
        assert_eq!(told, (Rule::Alias { first: VA, second }, BASE + 0x10_0000));
    }

    #[test]
    fn a_walk_cache_keeps_the_pointer_to_a_table() {
        let (mut mmu, mut caches) = machine();
        write(&mut mmu, &mut caches, first_level(VA), SECOND | 1);
        complete(&mut mmu, &mut caches).unwrap();
        write(&mut mmu, &mut caches, first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
        complete(&mut mmu, &mut caches).unwrap();
        assert_eq!(frame(&mut mmu, &mut caches, VA), None, "the table's own descriptors are empty");
        mmu.invalidate_page(VA, None, true);
        complete(&mut mmu, &mut caches).unwrap();
        assert_eq!(frame(&mut mmu, &mut caches, VA), Some(BASE + 0x10_0000));
    }

    #[test]
    fn a_descriptor_that_was_not_cleaned_is_told_at_its_use() {
        let (mut mmu, mut caches) = machine();
        let (pa, word) = (first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
        caches.access(pa, 4, Some(word.into()), true, true).unwrap();
        caches.poke(pa, word);
        mmu.stored(&caches, pa);
        complete(&mut mmu, &mut caches).unwrap();
        assert!(matches!(mmu.translate(&mut caches, VA), Err((Rule::StaleWalk { va: VA }, line)) if line == pa));
        caches.issue(crate::cache::Maintain::CleanToUnification, pa);
        caches.complete(&mut |_| Ok(())).unwrap();
        complete(&mut mmu, &mut caches).unwrap();
        assert_eq!(frame(&mut mmu, &mut caches, VA), Some(BASE + 0x10_0000));
    }

    /// With TTBCR.N = 0, whatever TTBR1 holds.
    #[test]
    fn one_table_may_translate_all_addresses() {
        let (mut mmu, mut caches) = machine();
        (mmu.ttbr0, mmu.ttbr1, mmu.ttbcr) = (BASE, 0, 0);
        mmu.rebuild(&mut caches).unwrap();
        for va in [VA, 0x10_0000] {
            write(&mut mmu, &mut caches, first_level(va), (BASE + 0x10_0000) | WRITE_BACK);
            complete(&mut mmu, &mut caches).unwrap();
            write(&mut mmu, &mut caches, first_level(va), 0);
            complete(&mut mmu, &mut caches).unwrap();
            assert_eq!(frame(&mut mmu, &mut caches, va), Some(BASE + 0x10_0000), "taken up, and held");
            write(&mut mmu, &mut caches, first_level(va), (BASE + 0x20_0000) | WRITE_BACK);
            let told = complete(&mut mmu, &mut caches).unwrap_err();
            assert_eq!(told, (Rule::StaleTranslation { va }, BASE + 0x10_0000));
        }
    }

    /// As `ID_MMFR3` and the attributes in TTBR say.
    #[test]
    fn coherent_walks_see_what_is_cached_if_they_are_cacheable() {
        for (attributes, sees) in [(1 << 6 | 1 << 3, true), (1, true), (0, false)] {
            let (mut mmu, mut caches) = machine();
            (mmu.coherent, mmu.ttbr0, mmu.ttbr1) = (true, BASE | attributes, BASE | attributes);
            mmu.rebuild(&mut caches).unwrap();
            let (pa, word) = (first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
            caches.access(pa, 4, Some(word.into()), true, true).unwrap();
            caches.poke(pa, word);
            mmu.stored(&caches, pa);
            complete(&mut mmu, &mut caches).unwrap();
            let found = mmu.translate(&mut caches, VA).map(|found| found.ok().map(Entry::frame));
            let expected = if sees { Ok(Some(BASE + 0x10_0000)) } else { Err((Rule::StaleWalk { va: VA }, pa)) };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn attributes_and_permissions_are_decoded() {
        let (mut mmu, mut caches) = machine();
        write(&mut mmu, &mut caches, first_level(VA), SECOND | 1);
        // Small pages: write-back read-write XN; Device; write-back read-only.
        for (page, word) in [(0, 0x457 | 8), (1, 0x017 | 0x4), (2, 0x65e)] {
            write(&mut mmu, &mut caches, SECOND + 4 * page, (BASE + ((page + 16) << 12)) | word);
        }
        complete(&mut mmu, &mut caches).unwrap();
        let mut entry = |page: u32| mmu.translate(&mut caches, VA + (page << 12)).unwrap().unwrap();
        assert_eq!((entry(0).memory_type(), entry(0).permits(false)), (Type::Cacheable, (true, true, false)));
        assert_eq!(entry(1).memory_type(), Type::Device);
        assert_eq!((entry(2).memory_type(), entry(2).permits(false)), (Type::Cacheable, (true, false, true)));
    }

    /// Sections of a process's own, by tables of its own, and what TLB operations of a space take.
    #[test]
    fn a_number_that_another_process_had_is_told() {
        const LOW: u32 = 0x0010_0000;
        const OWN: u32 = 1 << 17;
        let roots = [BASE + 0x8000, BASE + 0xa000];
        for (invalidates, told) in [(false, true), (true, false)] {
            let (mut mmu, mut caches) = machine();
            caches.put(roots[0], &[0; 0x4000]);
            // One for every space, in the kernel's table and so in the TLB.
            write(&mut mmu, &mut caches, first_level(LOW + 0x10_0000), (BASE + 0x30_0000) | WRITE_BACK);
            complete(&mut mmu, &mut caches).unwrap();
            for (n, root) in roots.into_iter().enumerate() {
                let word = (BASE + 0x10_0000 * (n as u32 + 1)) | WRITE_BACK | OWN;
                caches.put(root + 4 * (LOW >> 20), &word.to_le_bytes());
            }
            let enter = |mmu: &mut Mmu, caches: &mut Caches, root, space| {
                mmu.switch(caches, space).unwrap();
                mmu.ttbr0 = root;
                mmu.take_up_space(caches)
            };
            enter(&mut mmu, &mut caches, roots[0], 1).unwrap();
            assert_eq!(frame(&mut mmu, &mut caches, LOW), Some(BASE + 0x10_0000));
            assert_eq!(frame(&mut mmu, &mut caches, LOW + 0x10_0000), Some(BASE + 0x30_0000), "global");
            enter(&mut mmu, &mut caches, BASE, 0).unwrap();
            assert_eq!(frame(&mut mmu, &mut caches, LOW), None, "another space's");
            enter(&mut mmu, &mut caches, roots[1], 2).unwrap();
            assert_eq!(frame(&mut mmu, &mut caches, LOW), Some(BASE + 0x20_0000), "another number");
            if invalidates {
                mmu.invalidate_space(1, true);
                complete(&mut mmu, &mut caches).unwrap();
                assert_eq!(frame(&mut mmu, &mut caches, LOW + 0x10_0000), Some(BASE + 0x30_0000), "global");
            }
            let found = enter(&mut mmu, &mut caches, roots[1], 1);
            let stale = Err((Rule::StaleTranslation { va: LOW }, BASE + 0x10_0000));
            assert_eq!(found, if told { stale } else { Ok(()) });
        }
    }

    #[test]
    fn a_local_invalidate_leaves_another_cores_translation() {
        for broadcast in [false, true] {
            let (first, mut caches) = machine();
            let mut second = Mmu::new(1, 1024, false);
            (second.ttbr0, second.ttbr1, second.ttbcr, second.sctlr) = (BASE, BASE, 1, 5);
            (0..2).for_each(|core| caches.join(core, true, true));
            let mut both = [first, second];
            write(&mut both[0], &mut caches, first_level(VA), (BASE + 0x10_0000) | WRITE_BACK);
            Mmu::complete(&mut both, 0, &mut caches).unwrap();
            write(&mut both[0], &mut caches, first_level(VA), 0);
            Mmu::complete(&mut both, 0, &mut caches).unwrap();
            both[0].invalidate_page(VA, None, broadcast);
            let gone = Mmu::complete(&mut both, 0, &mut caches).unwrap();
            assert_eq!(gone, if broadcast { 3 } else { 1 });
            assert_eq!(frame(&mut both[0], &mut caches, VA), None);
            assert_eq!(frame(&mut both[1], &mut caches, VA).is_some(), !broadcast);
        }
    }
}
