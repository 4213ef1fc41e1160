//! The host's stand-in for MMU, caches and DRAM: stricter than hardware.
//!
//! Guarantees: what hardware merely allows to go wrong, goes wrong here at once, with a panic that names the invariant.
//! - A frame that two translations reach with two attributes, stale TLB entries included: panic (I1).
//! - A translation replaced while a TLB may hold the old one: panic (break-before-make, I3).
//! - Maintenance of an address that does not translate to those frames: panic (I3).
//! - A non-cacheable access while a line is present, a cacheable one while a line is stale: panic (I3).
//! - A device that reads what is dirty in a cache, or writes under a dirty line: panic (I4).
//! - A device access with no barrier since the CPU's last preparation: panic.
//!
//! Every translation ever valid stays in the TLB until invalidated by its address. An adversary fills and evicts lines
//! of whatever a write-back translation, live or stale, reaches, at every operation, by a seed.
//!
//! Memory has two copies, as bus masters see it and as the CPU sees it through cacheable mappings; views are real
//! slices of one or the other.

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::arch::{Cache, Lines, Mmu, Root};
use crate::vm::attr::MemoryType;
use crate::vm::desc::{L1_ENTRIES, L1Desc, L1Entry, L2_ENTRIES, L2_TABLE_SIZE, L2Desc, L2Entry, Leaf};
use crate::vm::space::Mapped;
use std::boxed::Box;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

/// Bytes of a cache line, as Cortex-A9.
pub const LINE: usize = 32;

/// What the fake was asked to do, for tests of order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Table words were published.
    Publish,
    /// Translations were forgotten.
    InvalidateTlb,
    /// Lines were cleaned.
    Clean(FrameRange),
    /// Lines were discarded.
    Invalidate(FrameRange),
    /// The device barrier.
    Barrier,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Translation {
    frame: u32,
    memory: MemoryType,
}

#[derive(Debug)]
struct Sim {
    base: u32,
    size: usize,
    /// As bus masters see it. Raw, because views alias it: the fake only touches it between accesses.
    dram: *mut u8,
    /// As the CPU sees it through write-back mappings.
    cpu: *mut u8,
    /// Per present line, its bytes when it last agreed with the next level: it is dirty where the CPU's differ.
    present: BTreeMap<usize, [u8; LINE]>,
    l1: PhysAddr,
    /// Translations by page number.
    live: BTreeMap<u32, Translation>,
    /// Translations no longer in the tables but not yet invalidated.
    stale: BTreeMap<u32, Translation>,
    /// Sections whose first-level entry changed kind with no invalidate since: a walk cache may hold the old one.
    walks: BTreeSet<u32>,
    barrier_due: bool,
    seed: u64,
    log: Vec<Op>,
}

/// The fake machine.
#[derive(Debug)]
pub struct Fake {
    sim: RefCell<Sim>,
}

impl Fake {
    /// `size` bytes of memory, a multiple of 1 MiB, at `base`, zeroed; a first-level table is wanted at `l1`; the
    /// adversary goes by `seed`. Its memory is never given back.
    pub fn new(base: PhysAddr, size: u32, l1: PhysAddr, seed: u64) -> Self {
        assert!(size.is_multiple_of(SECTION_SIZE) && l1.is_aligned(16 << 10));
        let memory = || Box::leak(std::vec![0u8; size as usize].into_boxed_slice()).as_mut_ptr();
        let sim = Sim {
            base: base.raw(),
            size: size as usize,
            dram: memory(),
            cpu: memory(),
            present: BTreeMap::new(),
            l1,
            live: BTreeMap::new(),
            stale: BTreeMap::new(),
            walks: BTreeSet::new(),
            barrier_due: false,
            seed: seed | 1,
            log: Vec::new(),
        };
        Self { sim: RefCell::new(sim) }
    }

    /// What a bus master reads at `at`.
    pub fn device_read(&self, at: PhysAddr, len: usize) -> Vec<u8> {
        let sim = &mut *self.sim.borrow_mut();
        assert!(!sim.barrier_due, "a device reads, but no barrier came after the CPU's last preparation");
        sim.disturb();
        for line in sim.lines(at.raw(), len) {
            assert!(!sim.is_dirty(line), "I4: a device reads {}, which is dirty in a cache", sim.address(line));
        }
        let from = sim.offset(at.raw());
        (from..from + len).map(|n| sim.peek(sim.dram, n)).collect()
    }

    /// A bus master writes at `at`.
    pub fn device_write(&self, at: PhysAddr, bytes: &[u8]) {
        let sim = &mut *self.sim.borrow_mut();
        assert!(!sim.barrier_due, "a device writes, but no barrier came after the CPU's last preparation");
        sim.disturb();
        for line in sim.lines(at.raw(), bytes.len()) {
            assert!(!sim.is_dirty(line), "I4: a device writes {} under a dirty line", sim.address(line));
        }
        let to = sim.offset(at.raw());
        for (n, &byte) in bytes.iter().enumerate() {
            sim.poke(sim.dram, to + n, byte);
        }
        for line in sim.lines(at.raw(), bytes.len()) {
            if !sim.present.contains_key(&line) {
                sim.refresh(line);
            }
        }
        sim.disturb();
    }

    /// What was done since the last call.
    pub fn take_log(&self) -> Vec<Op> {
        core::mem::take(&mut self.sim.borrow_mut().log)
    }

    /// Lets the adversary act.
    pub fn disturb(&self) {
        self.sim.borrow_mut().disturb();
    }
}

impl Sim {
    fn offset(&self, at: u32) -> usize {
        let offset = at.wrapping_sub(self.base) as usize;
        assert!(offset < self.size, "{:#010x} is not memory", at);
        offset
    }

    fn address(&self, line: usize) -> PhysAddr {
        PhysAddr::new(self.base + (line * LINE) as u32)
    }

    fn lines(&self, at: u32, len: usize) -> core::ops::Range<usize> {
        let from = self.offset(at);
        from / LINE..(from + len).div_ceil(LINE)
    }

    fn peek(&self, copy: *mut u8, n: usize) -> u8 {
        assert!(n < self.size);
        // SAFETY: inside the copy; volatile, as views of it may exist outside.
        unsafe { copy.add(n).read_volatile() }
    }

    fn poke(&self, copy: *mut u8, n: usize, byte: u8) {
        assert!(n < self.size);
        // SAFETY: inside the copy; volatile, as views of it may exist outside.
        unsafe { copy.add(n).write_volatile(byte) };
    }

    fn line_of(&self, copy: *mut u8, line: usize) -> [u8; LINE] {
        assert!((line + 1) * LINE <= self.size);
        // SAFETY: inside the copy; volatile, as views of it may exist outside.
        unsafe { copy.add(line * LINE).cast::<[u8; LINE]>().read_volatile() }
    }

    fn copy_line(&self, from: *mut u8, to: *mut u8, line: usize) {
        let bytes = self.line_of(from, line);
        if self.line_of(to, line) != bytes {
            // SAFETY: inside the copy, as `line_of` asserted; volatile, as views of it may exist outside.
            unsafe { to.add(line * LINE).cast::<[u8; LINE]>().write_volatile(bytes) };
        }
    }

    /// A line that is not present has no bytes of its own: the CPU's copy follows memory.
    fn refresh(&self, line: usize) {
        self.copy_line(self.dram, self.cpu, line);
    }

    fn is_dirty(&self, line: usize) -> bool {
        self.present.get(&line).is_some_and(|filled| *filled != self.line_of(self.cpu, line))
    }

    fn is_stale(&self, line: usize) -> bool {
        self.present.contains_key(&line)
            && !self.is_dirty(line)
            && self.line_of(self.cpu, line) != self.line_of(self.dram, line)
    }

    fn fill(&mut self, line: usize) {
        if !self.present.contains_key(&line) {
            // What differs was written by the CPU just now, through a mapping the fake cannot watch: then the line is
            // present and dirty already, and what it was filled with is memory.
            let filled = self.line_of(self.dram, line);
            self.present.insert(line, filled);
        }
    }

    fn evict(&mut self, line: usize) {
        if self.is_dirty(line) {
            self.copy_line(self.cpu, self.dram, line);
        }
        self.present.remove(&line);
        self.refresh(line);
    }

    fn random(&mut self, below: usize) -> usize {
        // xorshift64
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed % below as u64) as usize
    }

    /// Pages of memory that a write-back translation reaches, live or stale.
    fn cacheable(&self) -> impl Iterator<Item = u32> + '_ {
        let translations = self.live.values().chain(self.stale.values());
        translations.filter(|t| t.memory == MemoryType::WriteBack).map(|t| t.frame)
    }

    /// Notes what the CPU wrote through write-back views since the last operation, as lines present and dirty.
    fn observe(&mut self) {
        let frames: Vec<u32> = self.cacheable().collect();
        for frame in frames {
            for line in self.lines(frame << FRAME_SHIFT, FRAME_SIZE as usize) {
                if !self.present.contains_key(&line) && self.line_of(self.cpu, line) != self.line_of(self.dram, line) {
                    self.fill(line);
                }
            }
        }
    }

    /// The adversary: speculates lines in wherever it may, evicts lines whenever it likes.
    fn disturb(&mut self) {
        self.observe();
        let frames: Vec<u32> = self.cacheable().collect();
        for _ in 0..8 {
            if !frames.is_empty() {
                let pick = self.random(frames.len());
                let line = self.lines(frames[pick] << FRAME_SHIFT, 1).start + self.random(FRAME_SIZE as usize / LINE);
                self.fill(line);
            }
            if !self.present.is_empty() && self.random(2) == 0 {
                let pick = self.random(self.present.len());
                let line = *self.present.keys().nth(pick).expect("in range");
                self.evict(line);
            }
        }
    }

    fn word(&self, at: u32) -> u32 {
        let from = self.offset(at);
        u32::from_le_bytes(core::array::from_fn(|n| self.peek(self.dram, from + n)))
    }

    /// Walks one section and takes note of what changed.
    fn walk(&mut self, section: u32) {
        let mut now = BTreeMap::new();
        let mut page = |n: u32, leaf: Leaf| {
            let within = (n << FRAME_SHIFT) % leaf.size;
            let frame = (leaf.base.raw() + within) >> FRAME_SHIFT;
            now.insert(section * L2_ENTRIES as u32 + n, Translation { frame, memory: leaf.memory });
        };
        match L1Desc::from_raw(self.word(self.l1.raw() + 4 * section)).decode() {
            L1Entry::Fault => {}
            L1Entry::Section(leaf) => (0..L2_ENTRIES as u32).for_each(|n| page(n, leaf)),
            L1Entry::Table(at) => {
                for n in 0..L2_ENTRIES as u32 {
                    match L2Desc::from_raw(self.word(at.raw() + 4 * n)).decode() {
                        L2Entry::Fault => {}
                        L2Entry::Page(leaf) => page(n, leaf),
                        L2Entry::Foreign(word) => panic!("foreign descriptor {word:#010x}"),
                    }
                }
            }
            L1Entry::Foreign(word) => panic!("foreign descriptor {word:#010x}"),
        }
        let first = section * L2_ENTRIES as u32;
        let pages = first..first + L2_ENTRIES as u32;
        let before: Vec<_> = self.live.range(pages.clone()).map(|(&page, &t)| (page, t)).collect();
        for (page, old) in before {
            match now.get(&page) {
                Some(new) if *new == old => {}
                Some(new) => panic!("break-before-make: page {page:#x} went from {old:?} to {new:?}"),
                None => {
                    self.live.remove(&page);
                    self.stale.insert(page, old);
                }
            }
        }
        for (page, new) in now {
            if self.live.insert(page, new).is_none() {
                if let Some(old) = self.stale.get(&page) {
                    panic!("I3: page {page:#x} mapped {new:?} while a TLB may hold {old:?}");
                }
                self.check_one_attribute(page, new);
                if new.memory == MemoryType::WriteBack {
                    for line in self.lines(new.frame << FRAME_SHIFT, FRAME_SIZE as usize) {
                        if !self.present.contains_key(&line) {
                            self.refresh(line);
                        }
                    }
                }
            }
        }
    }

    fn check_one_attribute(&self, page: u32, new: Translation) {
        for (other, old) in self.live.iter().chain(self.stale.iter()) {
            assert!(
                old.frame != new.frame || old.memory == new.memory,
                "I1: frame {:#x} mapped {} at page {page:#x} and {} at page {other:#x}",
                new.frame,
                new.memory,
                old.memory
            );
        }
    }

    /// Refuses maintenance of anything but a live translation of exactly those frames, and before it is sure that no
    /// cacheable translation elsewhere brings the lines back.
    fn check_mapped(&self, range: &Mapped) {
        let first = range.va().raw() >> FRAME_SHIFT;
        for (n, frame) in range.frames().iter().enumerate() {
            let found = self.live.get(&(first + n as u32));
            let wanted = Translation { frame: frame.number(), memory: range.memory() };
            assert!(found == Some(&wanted), "I3: maintenance of {:?}, which translates to {found:?}", range.va());
            if range.memory() != MemoryType::WriteBack {
                let refill = self.stale.values().any(|t| t.frame == frame.number() && t.memory == MemoryType::WriteBack);
                assert!(!refill, "I3: maintenance while a TLB may still refill frame {:#x}", frame.number());
            }
        }
    }
}

// SAFETY: publishing changes the words the walk reads, at once; an invalidate forgets exactly the range; `reach` gives
// the copy of memory that the translation's type sees.
unsafe impl Mmu for Fake {
    fn publish(&self, at: PhysAddr, words: &[u32]) {
        let sim = &mut *self.sim.borrow_mut();
        sim.log.push(Op::Publish);
        sim.observe();
        let mut sections = BTreeSet::new();
        for (n, &word) in words.iter().enumerate() {
            let place = at.raw() + 4 * n as u32;
            let old = sim.word(place);
            let from = sim.offset(place);
            for (n, byte) in word.to_le_bytes().into_iter().enumerate() {
                sim.poke(sim.dram, from + n, byte);
            }
            let index = place.wrapping_sub(sim.l1.raw()) / 4;
            if (index as usize) < L1_ENTRIES {
                sections.insert(index);
                let was_table = matches!(L1Desc::from_raw(old).decode(), L1Entry::Table(_));
                if was_table && word != old {
                    sim.walks.insert(index);
                }
            }
        }
        if sections.is_empty() {
            let table = at.raw() & !(L2_TABLE_SIZE - 1);
            for section in 0..L1_ENTRIES as u32 {
                let entry = L1Desc::from_raw(sim.word(sim.l1.raw() + 4 * section)).decode();
                if entry == L1Entry::Table(PhysAddr::new(table)) {
                    sections.insert(section);
                }
            }
        }
        for section in sections {
            sim.walk(section);
        }
        sim.disturb();
    }

    fn invalidate_tlb(&self, va: VirtAddr, bytes: u32) {
        let sim = &mut *self.sim.borrow_mut();
        assert!(va.is_aligned(FRAME_SIZE) && bytes.is_multiple_of(FRAME_SIZE));
        sim.log.push(Op::InvalidateTlb);
        // The adversary's last chance to use what is about to go.
        sim.disturb();
        let first = va.raw() >> FRAME_SHIFT;
        for page in first..first + (bytes >> FRAME_SHIFT) {
            sim.stale.remove(&page);
            sim.walks.remove(&(page / L2_ENTRIES as u32));
        }
    }

    fn reach(&self, va: VirtAddr) -> *mut u8 {
        let sim = &mut *self.sim.borrow_mut();
        let first = va.raw() >> FRAME_SHIFT;
        let start = *sim.live.get(&first).unwrap_or_else(|| panic!("fault: {va} does not translate"));
        sim.disturb();
        // The run that goes on from here with adjacent frames is what a slice may reach.
        let mut page = first;
        while let Some(t) = sim.live.get(&page).copied() {
            if t.memory != start.memory || t.frame.wrapping_sub(start.frame) != page - first {
                break;
            }
            assert!(!sim.walks.contains(&(page / L2_ENTRIES as u32)), "a walk cache may hold an old entry for {va}");
            for line in sim.lines(t.frame << FRAME_SHIFT, FRAME_SIZE as usize) {
                if t.memory == MemoryType::WriteBack {
                    assert!(!sim.is_stale(line), "I3: the CPU would read a stale line at {}", sim.address(line));
                } else {
                    let present = sim.present.contains_key(&line);
                    assert!(!present, "I3: non-cacheable access to {} while a line of it is present", sim.address(line));
                }
            }
            page += 1;
        }
        if start.memory != MemoryType::WriteBack {
            sim.barrier_due = true;
        }
        let copy = if start.memory == MemoryType::WriteBack { sim.cpu } else { sim.dram };
        copy.wrapping_add(sim.offset(start.frame << FRAME_SHIFT) + (va.raw() % FRAME_SIZE) as usize)
    }

    fn root(&self) -> Root {
        let l1 = self.sim.borrow().l1;
        Root { ttbr0: l1, ttbr1: l1, n: 1 }
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        let sim = self.sim.borrow();
        let known = at.raw().wrapping_sub(sim.base) as usize;
        (known < sim.size).then(|| sim.word(at.raw()))
    }
}

// SAFETY: one level; clean copies outward, invalidate copies inward, both at once.
unsafe impl Cache for Fake {
    fn clean(&self, range: &Mapped) -> Lines {
        let sim = &mut *self.sim.borrow_mut();
        sim.check_mapped(range);
        sim.log.push(Op::Clean(range.frames()));
        sim.disturb();
        let lines = sim.lines(range.frames().base().raw(), range.bytes() as usize);
        for line in lines.clone() {
            if sim.is_dirty(line) {
                sim.copy_line(sim.cpu, sim.dram, line);
                let filled = sim.line_of(sim.cpu, line);
                sim.present.insert(line, filled);
            }
        }
        sim.barrier_due = true;
        sim.disturb();
        Lines { inner: lines.len() as u64, outer: 0 }
    }

    fn invalidate(&self, range: &Mapped) -> Lines {
        let sim = &mut *self.sim.borrow_mut();
        sim.check_mapped(range);
        sim.log.push(Op::Invalidate(range.frames()));
        sim.disturb();
        let lines = sim.lines(range.frames().base().raw(), range.bytes() as usize);
        for line in lines.clone() {
            sim.present.remove(&line);
            sim.refresh(line);
        }
        sim.disturb();
        Lines { inner: lines.len() as u64, outer: 0 }
    }

    fn device_barrier(&self) {
        let sim = &mut *self.sim.borrow_mut();
        sim.log.push(Op::Barrier);
        sim.disturb();
        sim.barrier_due = false;
    }
}
