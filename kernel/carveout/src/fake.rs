//! The host's stand-in for MMU, caches and DRAM: stricter than hardware.
//!
//! Guarantees: what may go wrong on hardware does go wrong here, at once, with a panic that names the invariant,
//! whatever the seed.
//! - A frame that two translations reach with two attributes, stale TLB entries included: panic (I1).
//! - A frame mapped anew while a TLB may hold an old translation of it, at whatever address: panic (I3).
//! - A translation replaced while a TLB may hold the old one: panic (break-before-make, I3).
//! - Maintenance of an address that does not translate to those frames: panic (I3).
//! - A non-cacheable access to a frame that may have lines left: panic (I3).
//! - A write-back access to what a device wrote under lines that may be present, with no invalidate since: panic (I3).
//! - A device that reads, or writes over, what the CPU wrote and nothing cleaned: panic (I4).
//! - A device access to what the CPU prepared with no barrier since: panic (I4).
//! - A number (ASID) given to a process while a TLB may hold a translation of another with it: panic (I3).
//! - A write through a pointer that outlived its mapping: panic when the frame is mapped again (I4); a read finds
//!   [`POISON`].
//!
//! "May" is about every history of speculation and eviction that the architecture permits, not about the one that
//! happened. Beside these rules an adversary acts at every operation, by a seed. It fills lines of whatever a
//! write-back translation reaches, live or stale, and evicts lines, mostly near what was last maintained. So not only
//! broken rules show, but wrong data too. Every translation that was ever valid stays in the TLB until it is
//! invalidated by its address.
//!
//! Addresses of processes are translated beside the kernel's, each by its number, from [`Fake::begin_user`] to
//! [`Fake::end_user`]: as if some core ran each of them all the time.
//!
//! Memory has two copies: one as bus masters see it, and one as the CPU sees it. The CPU sees memory through caches
//! where it is mapped write-back, and otherwise through a write buffer that only the device barrier drains. Views are
//! real slices of the CPU's copy. The fake learns what was written through them by comparing the copies. So a write
//! that changes no byte is not seen.

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::machine::{Cache, Lines, Mmu, Registers};
use crate::vm::attr::{Access, LeafSize, MemoryType, Shareability};
use crate::vm::desc::{L1_ENTRIES, L1Desc, L1Entry, L2_ENTRIES, L2_TABLE_SIZE, L2Desc, L2Entry, LARGE_PAGE_SIZE, Leaf};
use crate::vm::mapped::Part;
use crate::vm::user::{Asid, UserAccess, UserRoot};
use core::ops::Range;
use core::ptr::NonNull;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

/// The bytes of a cache line, as on Cortex-A9.
pub const LINE: usize = 32;
/// The byte that a pointer reads after its mapping ended.
pub const POISON: u8 = 0xdb;

const FRAME: usize = FRAME_SIZE as usize;
const FRAME_LINES: usize = FRAME / LINE;
/// Pages of an address space. The pages of all spaces are numbered through: the kernel's first, then by ASID.
const SPACE_PAGES: u32 = 1 << 20;
/// Sections of an address space, which are numbered through likewise.
const SPACE_SECTIONS: u32 = SPACE_PAGES / L2_ENTRIES as u32;
/// First-level entries of a process (TTBCR.N = 1).
const USER_ENTRIES: u32 = 2048;
/// Entries a large page's descriptor stands in.
const LARGE_ENTRIES: u32 = LARGE_PAGE_SIZE / FRAME_SIZE;
/// Ranges near which the adversary prefers to act.
const RECENT: usize = 4;

/// Mark of a line a device wrote while a present one might hold the old bytes, with no invalidate since.
const OUTDATED: u8 = 1;
/// Mark of a line that was dirty and reached memory by an eviction only, with no clean since: by luck.
const LUCKY: u8 = 2;

/// An operation that the fake was asked for, for tests of order.
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
    /// Whole caches were emptied.
    Flush,
    /// The device barrier was passed.
    Barrier,
}

/// What I1 wants to be one for all translations of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Attribute {
    memory: MemoryType,
    share: Shareability,
}

/// A page's translation: its frame, and all that the descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Translation {
    frame: u32,
    leaf: Leaf,
}

impl Translation {
    /// Of page number `page`, which lies in what `leaf` maps.
    fn of(page: u32, leaf: Leaf) -> Self {
        let within = (page << FRAME_SHIFT) % leaf.size;
        Self { frame: (leaf.base.raw() + within) >> FRAME_SHIFT, leaf }
    }

    fn attribute(&self) -> Attribute {
        Attribute { memory: self.leaf.memory, share: self.leaf.shareability }
    }
}

/// The translations of one frame, live or stale: they agree, or the fake has panicked.
#[derive(Clone, Copy, Debug)]
struct Use {
    attribute: Attribute,
    count: u32,
    /// The CPU was given a pointer to it.
    viewed: bool,
}

impl Use {
    fn is_cacheable(self) -> bool {
        self.attribute.memory == MemoryType::WriteBack
    }
}

/// The lines present somewhere in the caches: a set that gives a random member.
#[derive(Debug)]
struct Present {
    lines: Vec<u32>,
    /// For each line of memory, one more than its place in `lines`; 0 if it is not present.
    place: Vec<u32>,
    /// For each present line, its bytes when it last agreed with the next level: it is dirty where the CPU's differ.
    filled: Vec<u8>,
}

impl Present {
    fn contains(&self, line: usize) -> bool {
        self.place[line] != 0
    }

    /// Whether none of these, at most a frame's, is present.
    fn none_of(&self, lines: &Range<usize>) -> bool {
        self.place[lines.clone()] == [0; FRAME_LINES][..lines.len()]
    }

    fn insert(&mut self, line: usize, filled: [u8; LINE]) {
        assert!(!self.contains(line));
        self.lines.push(line as u32);
        self.place[line] = self.lines.len() as u32;
        self.set_filled(line, filled);
    }

    fn remove(&mut self, line: usize) {
        let place = self.place[line] as usize - 1;
        self.place[line] = 0;
        self.lines.swap_remove(place);
        if let Some(&moved) = self.lines.get(place) {
            self.place[moved as usize] = place as u32 + 1;
        }
    }

    fn set_filled(&mut self, line: usize, filled: [u8; LINE]) {
        self.filled[line * LINE..][..LINE].copy_from_slice(&filled);
    }
}

#[derive(Debug)]
struct Sim {
    base: u32,
    /// As bus masters see it.
    dram: Vec<u8>,
    /// As the CPU sees it: `dram.len()` bytes, aligned to a frame. Raw, because views alias it.
    cpu: *mut u8,
    /// What `cpu` points into. Never named again.
    _cpu: Vec<u8>,
    present: Present,
    l1: PhysAddr,
    /// The first-level tables of processes, by ASID.
    users: BTreeMap<u8, PhysAddr>,
    /// Sections that point to a second-level table, by the table's address.
    tables: BTreeMap<u32, BTreeSet<u32>>,
    /// Translations by page number.
    live: BTreeMap<u32, Translation>,
    /// Translations no longer in the tables but not yet invalidated.
    stale: BTreeMap<u32, Translation>,
    /// Sections whose table pointer changed with no invalidate since: a walk cache may hold the old one.
    walks: BTreeSet<u32>,
    /// By frame number.
    uses: BTreeMap<u32, Use>,
    /// Frames of memory mapped write-back, in no order.
    cacheable: Vec<u32>,
    /// Frames whose CPU copy is poisoned, where no line is present: mapped once, now not.
    poisoned: BTreeSet<u32>,
    /// Frames that may have lines: mapped write-back with no invalidate through another type since.
    cached: BTreeSet<u32>,
    /// By line.
    marks: Vec<u8>,
    /// Frames cleaned, or written and unmapped, with no device barrier since.
    unordered: BTreeSet<u32>,
    /// The bytes `reach` gave last, if nothing happened since.
    reached: Option<(u32, VirtAddr, u32)>,
    /// Where something happened last.
    recent: [FrameRange; RECENT],
    seed: u64,
    log: Vec<Op>,
    /// Operations until the one that will be left out.
    leave_out: Option<usize>,
    /// The lines that whole caches are said to have, if they can be emptied.
    flush_lines: Option<u32>,
}

/// The fake machine.
#[derive(Debug)]
pub struct Fake {
    sim: RefCell<Sim>,
}

impl Fake {
    /// Makes a machine with `size` zeroed bytes of memory at `base`. Its first-level table is at `l1`. The adversary
    /// goes by `seed`. A pointer that [`reach`](Mmu::reach) gives is good while the fake lives.
    ///
    /// # Panics
    ///
    /// Unless `base` and `size` are multiples of 1 MiB and `l1` is a multiple of 16 KiB.
    pub fn new(base: PhysAddr, size: u32, l1: PhysAddr, seed: u64) -> Self {
        assert!(base.is_aligned(SECTION_SIZE) && size.is_multiple_of(SECTION_SIZE) && l1.is_aligned(16 << 10));
        let bytes = size as usize;
        let mut cpu = std::vec![0; bytes + FRAME];
        let start = cpu.as_mut_ptr();
        let sim = Sim {
            base: base.raw(),
            dram: std::vec![0; bytes],
            cpu: start.wrapping_add(start.align_offset(FRAME)),
            _cpu: cpu,
            present: Present { lines: Vec::new(), place: std::vec![0; bytes / LINE], filled: std::vec![0; bytes] },
            l1,
            users: BTreeMap::new(),
            tables: BTreeMap::new(),
            live: BTreeMap::new(),
            stale: BTreeMap::new(),
            walks: BTreeSet::new(),
            uses: BTreeMap::new(),
            cacheable: Vec::new(),
            poisoned: BTreeSet::new(),
            cached: BTreeSet::new(),
            marks: std::vec![0; bytes / LINE],
            unordered: BTreeSet::new(),
            reached: None,
            recent: [FrameRange::EMPTY; RECENT],
            seed,
            log: Vec::new(),
            leave_out: None,
            flush_lines: None,
        };
        Self { sim: RefCell::new(sim) }
    }

    /// Returns what a bus master reads at `at`.
    pub fn device_read(&self, at: PhysAddr, len: usize) -> Vec<u8> {
        let sim = &mut *self.sim.borrow_mut();
        let from = sim.before_device(at, len, "reads");
        sim.dram[from..from + len].to_vec()
    }

    /// Writes at `at`, as a bus master does.
    pub fn device_write(&self, at: PhysAddr, bytes: &[u8]) {
        let sim = &mut *self.sim.borrow_mut();
        let to = sim.before_device(at, bytes.len(), "writes");
        sim.dram[to..to + bytes.len()].copy_from_slice(bytes);
        for (frame, lines) in sim.lines_by_frame(at.raw(), bytes.len()) {
            if sim.cached.contains(&frame) {
                sim.marks[lines.clone()].iter_mut().for_each(|mark| *mark |= OUTDATED);
            }
            sim.settle(frame, lines);
        }
        sim.disturb();
    }

    /// Leaves out the operation that comes after `count` others, like a machine that never got it. Tests of necessity
    /// use this. The operation is still logged.
    pub fn leave_out(&self, count: usize) {
        self.sim.borrow_mut().leave_out = Some(count);
    }

    /// Makes it a machine that empties whole caches, and says that they have so many lines. They hold any number here.
    pub fn can_flush(&self, lines: u32) {
        self.sim.borrow_mut().flush_lines = Some(lines);
    }

    /// Returns the operations since the last call, and forgets them.
    pub fn take_log(&self) -> Vec<Op> {
        core::mem::take(&mut self.sim.borrow_mut().log)
    }

    /// Begins to translate the addresses of a process.
    ///
    /// # Panics
    ///
    /// If a TLB may hold translations of another process with that number, or if that process was not ended (I3).
    pub fn begin_user(&self, root: UserRoot<'_>) {
        let sim = &mut *self.sim.borrow_mut();
        let (asid, table) = (root.asid(), root.table());
        let pages = space_of(asid)..space_of(asid) + SPACE_PAGES;
        let old = sim.stale.range(pages.clone()).next().is_some() || sim.live.range(pages).next().is_some();
        assert!(!old, "I3: {asid} is given to a process while a TLB may hold translations of another one");
        let known = sim.users.insert(asid.number(), table);
        assert!(known.is_none(), "I3: {asid} is given to a process while another one has it");
        for entry in 0..USER_ENTRIES {
            let section = space_of(asid) / L2_ENTRIES as u32 + entry;
            if let L1Entry::Table(second) = L1Desc::from_raw(sim.word(table.raw() + 4 * entry)).decode() {
                sim.tables.entry(second.raw()).or_default().insert(section);
            }
            for page in section * L2_ENTRIES as u32..(section + 1) * L2_ENTRIES as u32 {
                sim.update(page);
            }
        }
    }

    /// Ends that: no core runs the process again. What TLBs hold of it stays until it is invalidated.
    ///
    /// # Panics
    ///
    /// If no process has that number.
    pub fn end_user(&self, asid: Asid) {
        let sim = &mut *self.sim.borrow_mut();
        sim.users.remove(&asid.number()).expect("a process that was begun");
        let first = space_of(asid) / L2_ENTRIES as u32;
        for sections in sim.tables.values_mut() {
            sections.retain(|section| !(first..first + SPACE_SECTIONS).contains(section));
        }
        let pages = space_of(asid)..space_of(asid) + SPACE_PAGES;
        for (page, old) in sim.live.extract_if(pages, |_, _| true).collect::<Vec<_>>() {
            sim.stale.insert(page, old);
        }
    }

    /// Returns the pointer with which a process reads `[va, va + bytes)`, or also writes there.
    ///
    /// # Panics
    ///
    /// If the process has no such right there: on a core that is a fault.
    pub fn reach_user(&self, asid: Asid, va: VirtAddr, bytes: u32, access: UserAccess) -> *mut u8 {
        let first = va.raw() >> FRAME_SHIFT;
        for page in first..(va.raw() + bytes).div_ceil(FRAME_SIZE) {
            let may = self.user_page(asid, VirtAddr::new(page << FRAME_SHIFT)).map(|leaf| leaf.access);
            let may = may.is_some_and(|may| access == UserAccess::Read || may == Access::ReadWrite);
            assert!(may, "fault: {asid} has no {access} at {va}");
        }
        self.reach_in(space_of(asid), va, bytes)
    }

    /// Returns what a process finds at an address: nothing, or how it is mapped. The rights are the process's own.
    pub fn user_page(&self, asid: Asid, va: VirtAddr) -> Option<Leaf> {
        let sim = self.sim.borrow();
        sim.live.get(&(space_of(asid) + (va.raw() >> FRAME_SHIFT))).map(|live| live.leaf)
    }

    /// Lets the adversary act.
    pub fn disturb(&self) {
        self.sim.borrow_mut().disturb();
    }

    /// Returns the pointer to what is translated in the address space whose pages begin with number `space`.
    fn reach_in(&self, space: u32, va: VirtAddr, bytes: u32) -> *mut u8 {
        let sim = &mut *self.sim.borrow_mut();
        let first = space + (va.raw() >> FRAME_SHIFT);
        let start = *sim.live.get(&first).unwrap_or_else(|| panic!("fault: {va} does not translate"));
        let at = (start.frame << FRAME_SHIFT) + va.raw() % FRAME_SIZE;
        if sim.reached != Some((space, va, bytes)) {
            sim.disturb();
            for (frame, lines) in sim.lines_by_frame(at, bytes as usize) {
                let page = first + (frame - start.frame);
                let found = sim.live.get(&page).filter(|t| t.frame == frame && t.attribute() == start.attribute());
                assert!(found.is_some(), "fault: {} is not mapped with {va}", VirtAddr::new(page << FRAME_SHIFT));
                sim.check_walk(page);
                let used = sim.uses.get_mut(&frame).expect("a translation is a use");
                used.viewed = true;
                if used.is_cacheable() {
                    if !sim.is_quiet(&lines)
                        && let Some(line) = lines.into_iter().find(|&line| sim.marks[line] & OUTDATED != 0)
                    {
                        panic!("I3: the CPU may read a stale line at {}", sim.address(line));
                    }
                } else {
                    let at = PhysAddr::new(frame << FRAME_SHIFT);
                    assert!(!sim.cached.contains(&frame), "I3: non-cacheable access to {at}, which may have lines");
                }
            }
            sim.reached = Some((space, va, bytes));
        }
        sim.cpu.wrapping_add(sim.offset(at))
    }
}

/// Returns the number of the first page of a process.
fn space_of(asid: Asid) -> u32 {
    u32::from(asid.number()) * SPACE_PAGES
}

/// Places in memory.
impl Sim {
    fn offset(&self, at: u32) -> usize {
        let offset = at.wrapping_sub(self.base) as usize;
        assert!(offset < self.dram.len(), "{at:#010x} is not memory");
        offset
    }

    fn is_memory(&self, frame: u32) -> bool {
        ((frame << FRAME_SHIFT).wrapping_sub(self.base) as usize) < self.dram.len()
    }

    fn address(&self, line: usize) -> PhysAddr {
        PhysAddr::new(self.base + (line * LINE) as u32)
    }

    fn frame_of(&self, line: usize) -> u32 {
        self.address(line).raw() >> FRAME_SHIFT
    }

    fn lines(&self, at: u32, len: usize) -> Range<usize> {
        let from = self.offset(at);
        assert!(len <= self.dram.len() - from, "{len} bytes at {at:#010x} are not all memory");
        from / LINE..(from + len).div_ceil(LINE)
    }

    fn lines_of(&self, frame: u32) -> Range<usize> {
        self.lines(frame << FRAME_SHIFT, FRAME)
    }

    /// The lines of `len` bytes at `at`, frame by frame.
    fn lines_by_frame(&self, at: u32, len: usize) -> impl Iterator<Item = (u32, Range<usize>)> + use<> {
        let (lines, first) = (self.lines(at, len), self.base >> FRAME_SHIFT);
        (lines.start / FRAME_LINES..lines.end.div_ceil(FRAME_LINES)).map(move |n| {
            let within = lines.start.max(n * FRAME_LINES)..lines.end.min((n + 1) * FRAME_LINES);
            (first + n as u32, within)
        })
    }

    /// Whether no line of these, at most a frame's, is present or marked.
    fn is_quiet(&self, lines: &Range<usize>) -> bool {
        self.present.none_of(lines) && self.marks[lines.clone()] == [0; FRAME_LINES][..lines.len()]
    }

    /// Where the CPU's bytes are.
    fn at(&self, bytes: &Range<usize>) -> *mut u8 {
        assert!(bytes.start <= bytes.end && bytes.end <= self.dram.len());
        self.cpu.wrapping_add(bytes.start)
    }

    /// The CPU's bytes. The reference must end before a view is used again.
    fn cpu(&self, bytes: Range<usize>) -> &[u8] {
        let at = self.at(&bytes);
        // SAFETY: inside the CPU's copy; its owner is not named while this struct lives; and a view is not used while
        // the fake runs, for it is not `Sync` and never calls out.
        unsafe { core::slice::from_raw_parts(at, bytes.len()) }
    }

    /// Bytes as bus masters see them become those the CPU sees.
    fn load(&mut self, bytes: Range<usize>) {
        if self.differs(bytes.clone()) {
            let (from, to) = (&self.dram[bytes.clone()], self.at(&bytes));
            // SAFETY: inside the CPU's copy, and the copies are two allocations.
            unsafe { to.copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        }
    }

    /// Bytes as the CPU sees them become those bus masters see.
    fn store(&mut self, bytes: Range<usize>) {
        let (from, to) = (self.at(&bytes), &mut self.dram[bytes]);
        // SAFETY: inside the CPU's copy, and the copies are two allocations.
        unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), to.len()) };
    }

    fn poison(&mut self, bytes: Range<usize>) {
        let at = self.at(&bytes);
        // SAFETY: inside the CPU's copy.
        unsafe { at.write_bytes(POISON, bytes.len()) };
    }

    fn differs(&self, bytes: Range<usize>) -> bool {
        self.cpu(bytes.clone()) != &self.dram[bytes]
    }

    fn dram_line(&self, line: usize) -> [u8; LINE] {
        self.dram[bytes_of(line)].try_into().expect("a line")
    }

    /// A word the CPU wrote and cleaned: both copies have it, and the line's other bytes stay as they are.
    fn write_word(&mut self, from: usize, word: u32) {
        let (bytes, word) = (from..from + 4, word.to_le_bytes());
        self.dram[bytes.clone()].copy_from_slice(&word);
        if self.uses.contains_key(&self.frame_of(from / LINE)) {
            self.load(bytes.clone());
            self.present.filled[bytes].copy_from_slice(&word);
        }
    }

    fn word(&self, at: u32) -> u32 {
        let from = self.offset(at);
        u32::from_le_bytes(self.dram[from..from + 4].try_into().expect("a word"))
    }
}

fn bytes_of(line: usize) -> Range<usize> {
    line * LINE..(line + 1) * LINE
}

/// The caches, the write buffer and the adversary.
impl Sim {
    /// Logs an operation; whether it is the one to be left out.
    fn is_left_out(&mut self, op: Op) -> bool {
        self.log.push(op);
        let left_out = self.leave_out == Some(0);
        self.leave_out = self.leave_out.and_then(|count| count.checked_sub(1));
        left_out
    }

    /// Lines of a frame that are not present have no bytes of their own: the CPU sees memory, or nothing if the frame
    /// is not mapped.
    fn settle(&mut self, frame: u32, lines: Range<usize>) {
        let mapped = self.uses.contains_key(&frame);
        if !mapped && !self.poisoned.contains(&frame) {
            return;
        }
        for bytes in self.absent(lines) {
            if mapped { self.load(bytes) } else { self.poison(bytes) }
        }
    }

    /// The bytes of those of these lines, at most a frame's, that are not present: in one run if none is.
    fn absent(&self, lines: Range<usize>) -> Vec<Range<usize>> {
        if self.present.none_of(&lines) {
            return std::vec![lines.start * LINE..lines.end * LINE];
        }
        lines.filter(|&line| !self.present.contains(line)).map(bytes_of).collect()
    }

    fn is_dirty(&self, line: usize) -> bool {
        let bytes = bytes_of(line);
        self.present.contains(line) && self.present.filled[bytes.clone()] != *self.cpu(bytes)
    }

    fn fill(&mut self, line: usize) {
        if !self.present.contains(line) {
            // Where the CPU's copy differs, it was written just now: the line is dirty, and was filled with memory.
            let filled = self.dram_line(line);
            self.present.insert(line, filled);
        }
    }

    fn evict(&mut self, line: usize) {
        if self.is_dirty(line) {
            self.store(bytes_of(line));
            self.marks[line] |= LUCKY;
        }
        self.present.remove(line);
        self.settle(self.frame_of(line), line..line + 1);
    }

    /// Notes what the CPU wrote through write-back views since the last operation, as lines present and dirty.
    fn observe(&mut self) {
        let viewed = |(&frame, used): (&u32, &Use)| (used.viewed && used.is_cacheable()).then_some(frame);
        for frame in self.uses.iter().filter_map(viewed).collect::<Vec<_>>() {
            let from = self.offset(frame << FRAME_SHIFT);
            if self.differs(from..from + FRAME) {
                for bytes in self.absent(self.lines_of(frame)) {
                    for line in bytes.start / LINE..bytes.end / LINE {
                        if self.differs(bytes_of(line)) {
                            self.fill(line);
                        }
                    }
                }
            }
        }
    }

    /// What the write buffer holds goes to memory, and everything prepared so far is in order.
    fn drain(&mut self) {
        let viewed = |(&frame, used): (&u32, &Use)| (used.viewed && !used.is_cacheable()).then_some(frame);
        for frame in self.uses.iter().filter_map(viewed).collect::<Vec<_>>() {
            let from = self.offset(frame << FRAME_SHIFT);
            self.store(from..from + FRAME);
        }
        self.unordered.clear();
    }

    /// splitmix64: any seed will do.
    fn random(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }

    fn note(&mut self, frames: FrameRange) {
        self.recent.rotate_right(1);
        self.recent[0] = frames;
    }

    /// A frame the adversary may speculate from: three times in four one where something happened lately.
    fn target(&mut self) -> Option<u32> {
        if self.random(4) != 0 {
            let pick = self.random(RECENT);
            let near = self.recent[pick];
            if !near.is_empty() {
                let frame = near.start() + self.random(near.count() as usize) as u32;
                if self.uses.get(&frame).is_some_and(|used| used.is_cacheable()) {
                    return Some(frame);
                }
            }
        }
        let pick = self.random(self.cacheable.len().max(1));
        self.cacheable.get(pick).copied()
    }

    /// The adversary: speculates lines in wherever it may, evicts lines whenever it likes.
    fn disturb(&mut self) {
        self.reached = None;
        self.observe();
        for _ in 0..8 {
            if let Some(frame) = self.target() {
                let line = self.lines_of(frame).start + self.random(FRAME / LINE);
                self.fill(line);
            }
            if !self.present.lines.is_empty() && self.random(2) == 0 {
                let pick = self.random(self.present.lines.len());
                self.evict(self.present.lines[pick] as usize);
            }
        }
    }

    /// Refuses what a device must not find; gives the offset of `at`.
    fn before_device(&mut self, at: PhysAddr, len: usize, does: &str) -> usize {
        self.disturb();
        for (frame, lines) in self.lines_by_frame(at.raw(), len) {
            let unordered = self.unordered.contains(&frame);
            let buffered = self.uses.get(&frame).is_some_and(|used| used.viewed && !used.is_cacheable());
            if !unordered && !buffered && self.is_quiet(&lines) {
                continue;
            }
            for line in lines {
                let at = self.address(line);
                let unclean = self.is_dirty(line) || self.marks[line] & LUCKY != 0;
                assert!(!unclean, "I4: a device {does} {at}, which the CPU wrote and nothing cleaned");
                let unordered = unordered || buffered && self.differs(bytes_of(line));
                assert!(!unordered, "I4: a device {does} {at}, with no barrier since the CPU prepared it");
            }
        }
        self.note(FrameRange::covering(at.raw().into(), len as u64));
        self.offset(at.raw())
    }
}

/// Translations.
impl Sim {
    /// Walks the tables for one page.
    fn translate(&self, page: u32) -> Option<Translation> {
        let (section, n) = (page / L2_ENTRIES as u32, page % L2_ENTRIES as u32);
        if section >= SPACE_SECTIONS {
            return self.translate_user(page);
        }
        let leaf = match L1Desc::from_raw(self.word(self.l1.raw() + 4 * section)).decode() {
            L1Entry::Fault => return None,
            L1Entry::Section(leaf) => leaf,
            L1Entry::Table(table) => {
                let entry = |n: u32| self.word(table.raw() + 4 * n);
                match L2Desc::from_raw(entry(n)).decode() {
                    L2Entry::Fault => return None,
                    L2Entry::Page(leaf) => {
                        let first = n - n % LARGE_ENTRIES;
                        let all =
                            leaf.size == FRAME_SIZE || (first..first + LARGE_ENTRIES).all(|m| entry(m) == entry(n));
                        assert!(all, "page {page:#x}: a large page's descriptor does not stand in all 16 entries");
                        leaf
                    }
                    L2Entry::Foreign(word) => panic!("page {page:#x}: foreign descriptor {word:#010x}"),
                }
            }
            L1Entry::Foreign(word) => panic!("page {page:#x}: foreign descriptor {word:#010x}"),
        };
        Some(Translation::of(page, leaf))
    }

    /// Walks the tables of the process that the page is of.
    fn translate_user(&self, page: u32) -> Option<Translation> {
        let (section, n) = (page / L2_ENTRIES as u32, page % L2_ENTRIES as u32);
        let root = self.users.get(&((section / SPACE_SECTIONS) as u8))?;
        let table = match L1Desc::from_raw(self.word(root.raw() + 4 * (section % SPACE_SECTIONS))).decode() {
            L1Entry::Fault => return None,
            L1Entry::Table(table) => table,
            other => panic!("page {page:#x} of a process: {other:?}"),
        };
        let word = L2Desc::from_raw(self.word(table.raw() + 4 * n));
        if word == L2Desc::FAULT {
            return None;
        }
        let leaf = word.decode_user().unwrap_or_else(|| panic!("page {page:#x} of a process: {word:?}"));
        let access = match leaf.access {
            Some(UserAccess::Read) => Access::Read,
            Some(UserAccess::ReadWrite) => Access::ReadWrite,
            None => Access::ReadExecute,
        };
        let (base, memory, shareability) = (leaf.base, leaf.memory, leaf.shareability);
        Some(Translation::of(page, Leaf { base, size: FRAME_SIZE, memory, access, shareability }))
    }

    /// Takes note of what the tables now say of a page.
    fn update(&mut self, page: u32) {
        match (self.live.get(&page).copied(), self.translate(page)) {
            (None, None) => {}
            (Some(old), None) => {
                self.live.remove(&page);
                self.stale.insert(page, old);
            }
            (Some(old), Some(new)) => {
                assert!(old == new, "break-before-make: page {page:#x} went from {old:?} to {new:?}");
            }
            (None, Some(new)) => {
                if let Some(old) = self.stale.get(&page) {
                    panic!("I3: page {page:#x} mapped {new:?} while a TLB may hold {old:?}");
                }
                self.enter(page, new);
                self.live.insert(page, new);
            }
        }
    }

    /// Forgets what may be stale of `[va, va + bytes)` in a space, one address a leaf.
    fn invalidate(&mut self, space: u32, va: VirtAddr, bytes: u32, leaf: LeafSize) {
        assert!(va.is_aligned(leaf.bytes()) && bytes.is_multiple_of(leaf.bytes()));
        if self.is_left_out(Op::InvalidateTlb) {
            return;
        }
        // The adversary's last chance to use what is about to go.
        self.disturb();
        let first = space + (va.raw() >> FRAME_SHIFT);
        for page in first..first + (bytes >> FRAME_SHIFT) {
            let start_of = |size: u32| (page << FRAME_SHIFT) & !(size - 1);
            let goes = |old: &Translation| start_of(leaf.bytes()) >= start_of(old.leaf.size);
            if self.stale.get(&page).is_some_and(goes)
                && let Some(old) = self.stale.remove(&page)
            {
                self.leave(old);
            }
            self.walks.remove(&(page / L2_ENTRIES as u32));
        }
    }

    /// Returns the section whose first-level entry stands at a place, in whatever space.
    fn section_of(&self, place: u32) -> Option<u32> {
        let within = |table: PhysAddr, entries: u32| {
            let index = place.wrapping_sub(table.raw()) / 4;
            (index < entries).then_some(index)
        };
        within(self.l1, L1_ENTRIES as u32).or_else(|| {
            let of = |(&asid, &table): (&u8, &PhysAddr)| {
                Some(u32::from(asid) * SPACE_SECTIONS + within(table, USER_ENTRIES)?)
            };
            self.users.iter().find_map(of)
        })
    }

    /// A translation appears.
    fn enter(&mut self, page: u32, new: Translation) {
        let attribute = new.attribute();
        if let Some(used) = self.uses.get_mut(&new.frame) {
            let at = |(&page, old): (&u32, &Translation)| (old.frame == new.frame).then_some(page);
            if used.attribute != attribute {
                let other = self.live.iter().chain(&self.stale).find_map(at).expect("a use has a translation");
                panic!(
                    "I1: frame {:#x} mapped {attribute:?} at page {page:#x} and {:?} at page {other:#x}",
                    new.frame, used.attribute
                );
            }
            if let Some(other) = self.stale.iter().find_map(at) {
                panic!(
                    "I3: frame {:#x} mapped at page {page:#x} while a TLB may hold it at page {other:#x}",
                    new.frame
                );
            }
            used.count += 1;
            return;
        }
        self.uses.insert(new.frame, Use { attribute, count: 1, viewed: false });
        if attribute.memory == MemoryType::WriteBack {
            self.offset(new.frame << FRAME_SHIFT);
            self.cacheable.push(new.frame);
            self.cached.insert(new.frame);
        }
        if self.is_memory(new.frame) {
            let poisoned = self.poisoned.remove(&new.frame);
            for bytes in self.absent(self.lines_of(new.frame)) {
                if poisoned && *self.cpu(bytes.clone()) != [POISON; FRAME][..bytes.len()] {
                    let wrong = self.cpu(bytes.clone()).iter().position(|&byte| byte != POISON).expect("just seen");
                    let at = self.address((bytes.start + wrong) / LINE);
                    panic!("I4: {at} was written through a pointer that outlived its mapping");
                }
                self.load(bytes);
            }
        }
    }

    /// A translation is gone from the TLB too.
    fn leave(&mut self, old: Translation) {
        let frame = old.frame;
        let used = self.uses.get_mut(&frame).expect("a translation is a use");
        used.count -= 1;
        if used.count > 0 {
            return;
        }
        let used = self.uses.remove(&frame).expect("just seen");
        if used.is_cacheable() {
            let place = self.cacheable.iter().rposition(|&other| other == frame).expect("it is cacheable");
            self.cacheable.swap_remove(place);
        }
        if self.is_memory(frame) {
            for bytes in self.absent(self.lines_of(frame)) {
                if used.viewed && !used.is_cacheable() && self.differs(bytes.clone()) {
                    // Still in the write buffer: it gets there, but not in order.
                    self.store(bytes.clone());
                    self.unordered.insert(frame);
                }
                self.poison(bytes);
            }
            self.poisoned.insert(frame);
        }
    }

    /// Refuses maintenance of anything but live translations of exactly those frames.
    fn check_mapped(&self, part: Part<'_>) {
        let range = part.mapped();
        let first = range.va().raw() >> FRAME_SHIFT;
        for (n, frame) in range.frames().iter().enumerate() {
            let page = first + n as u32;
            let va = VirtAddr::new(page << FRAME_SHIFT);
            let found = self.live.get(&page);
            let wanted = |t: &Translation| t.frame == frame.number() && t.leaf.memory == range.memory();
            assert!(found.is_some_and(wanted), "I3: maintenance of {va}, which translates to {found:?}");
            self.check_walk(page);
        }
    }

    fn check_walk(&self, page: u32) {
        let old = self.walks.contains(&(page / L2_ENTRIES as u32));
        assert!(!old, "I3: a walk cache may hold an old table for {}", VirtAddr::new(page << FRAME_SHIFT));
    }
}

// SAFETY: publishing changes the words the walk reads, at once; an invalidate forgets exactly the range; `reach` gives
// the CPU's copy of what the address translates to.
unsafe impl Mmu for Fake {
    fn publish(&self, at: PhysAddr, words: &[u32]) {
        let sim = &mut *self.sim.borrow_mut();
        if sim.is_left_out(Op::Publish) {
            return;
        }
        sim.disturb();
        let mut pages = BTreeSet::new();
        for (n, &word) in words.iter().enumerate() {
            let place = at.raw() + 4 * n as u32;
            let (old, from) = (sim.word(place), sim.offset(place));
            if word == old {
                continue;
            }
            sim.write_word(from, word);
            let entries = L2_ENTRIES as u32;
            if let Some(index) = sim.section_of(place) {
                if let L1Entry::Table(table) = L1Desc::from_raw(old).decode() {
                    sim.walks.insert(index);
                    sim.tables.entry(table.raw()).or_default().remove(&index);
                }
                if let L1Entry::Table(table) = L1Desc::from_raw(word).decode() {
                    sim.tables.entry(table.raw()).or_default().insert(index);
                }
                pages.extend(index * entries..(index + 1) * entries);
            } else if let Some(sections) = sim.tables.get(&(place & !(L2_TABLE_SIZE - 1))) {
                pages.extend(sections.iter().map(|section| section * entries + place / 4 % entries));
            }
        }
        for page in pages {
            sim.update(page);
        }
        sim.disturb();
    }

    /// Invalidates one address a leaf. A translation goes if the address is in the leaf that it came from, and in the
    /// range. So a leaf that was smaller than `leaf` stays in the TLB.
    fn invalidate_tlb(&self, va: VirtAddr, bytes: u32, leaf: LeafSize) {
        self.sim.borrow_mut().invalidate(0, va, bytes, leaf);
    }

    fn invalidate_tlb_all(&self) {
        let sim = &mut *self.sim.borrow_mut();
        if sim.is_left_out(Op::InvalidateTlb) {
            return;
        }
        // The adversary's last chance, as above.
        sim.disturb();
        for old in core::mem::take(&mut sim.stale).into_values() {
            sim.leave(old);
        }
        sim.walks.clear();
    }

    /// Invalidates what was by small pages, in that space alone.
    fn invalidate_user(&self, asid: Asid, va: VirtAddr, bytes: u32) {
        self.sim.borrow_mut().invalidate(space_of(asid), va, bytes, LeafSize::Page);
    }

    fn invalidate_asid(&self, asid: Asid) {
        let sim = &mut *self.sim.borrow_mut();
        if sim.is_left_out(Op::InvalidateTlb) {
            return;
        }
        // The adversary's last chance, as above.
        sim.disturb();
        let pages = space_of(asid)..space_of(asid) + SPACE_PAGES;
        for (_, old) in sim.stale.extract_if(pages, |_, _| true).collect::<Vec<_>>() {
            sim.leave(old);
        }
        let first = space_of(asid) / L2_ENTRIES as u32;
        sim.walks.retain(|section| !(first..first + SPACE_SECTIONS).contains(section));
    }

    fn reach(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.reach_in(0, va, bytes)
    }

    /// What was there is made unreadable, so that a byte that is not overwritten shows.
    fn reach_to_overwrite(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        for page in va.raw() >> FRAME_SHIFT..(va.raw() + bytes) >> FRAME_SHIFT {
            let sim = &mut *self.sim.borrow_mut();
            let Some(frame) = sim.live.get(&page).map(|t| t.frame) else { break };
            for line in sim.lines_of(frame) {
                sim.marks[line] &= !OUTDATED;
                if sim.present.contains(line) {
                    // Whatever it was filled with counts for nothing: it is dirty where it will differ from memory.
                    let filled = sim.dram_line(line);
                    sim.present.set_filled(line, filled);
                }
                sim.poison(bytes_of(line));
            }
        }
        self.reach(va, bytes)
    }

    fn registers(&self) -> Registers {
        Registers::plain(self.sim.borrow().l1)
    }

    /// The CPU's copy of the words. Walks read them once they are published.
    fn table(&self, at: PhysAddr, bytes: u32) -> Option<NonNull<u32>> {
        let sim = self.sim.borrow();
        let from = at.raw().wrapping_sub(sim.base) as usize;
        let known = from < sim.dram.len() && bytes as usize <= sim.dram.len() - from;
        known.then(|| NonNull::new(sim.cpu.wrapping_add(from).cast()))?
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        let sim = self.sim.borrow();
        sim.is_memory(at.raw() >> FRAME_SHIFT).then(|| sim.word(at.raw()))
    }
}

// SAFETY: one level; clean copies outward, invalidate copies inward, both at once.
unsafe impl Cache for Fake {
    fn line(&self) -> u32 {
        LINE as u32
    }

    fn clean(&self, part: Part<'_>) -> Lines {
        let sim = &mut *self.sim.borrow_mut();
        sim.check_mapped(part);
        let range = part.mapped();
        if sim.is_left_out(Op::Clean(range.frames())) {
            return Lines::default();
        }
        sim.note(range.frames());
        sim.disturb();
        let mut asked = 0;
        for (frame, lines) in sim.lines_by_frame(part.pa().raw(), part.bytes() as usize) {
            asked += lines.len() as u64;
            if sim.is_quiet(&lines) {
                continue;
            }
            let mut wrote = false;
            for line in lines {
                wrote |= sim.marks[line] & LUCKY != 0;
                sim.marks[line] &= !LUCKY;
                if sim.is_dirty(line) {
                    wrote = true;
                    sim.store(bytes_of(line));
                    let filled = sim.dram_line(line);
                    sim.present.set_filled(line, filled);
                }
            }
            if wrote {
                sim.unordered.insert(frame);
            }
        }
        sim.disturb();
        Lines { inner: asked, outer: 0 }
    }

    fn invalidate(&self, part: Part<'_>) -> Lines {
        let sim = &mut *self.sim.borrow_mut();
        sim.check_mapped(part);
        let range = part.mapped();
        if sim.is_left_out(Op::Invalidate(range.frames())) {
            return Lines::default();
        }
        sim.note(range.frames());
        sim.disturb();
        let mut asked = 0;
        for (frame, lines) in sim.lines_by_frame(part.pa().raw(), part.bytes() as usize) {
            asked += lines.len() as u64;
            let whole = lines.len() == FRAME_LINES;
            if !sim.is_quiet(&lines) {
                for line in lines.clone() {
                    // Dirty data may be lost or written back, by chance.
                    if sim.is_dirty(line) && sim.random(2) == 0 {
                        sim.store(bytes_of(line));
                    }
                    if sim.present.contains(line) {
                        sim.present.remove(line);
                    }
                }
                sim.settle(frame, lines.clone());
                sim.marks[lines].fill(0);
            }
            if whole && range.memory() != MemoryType::WriteBack {
                sim.cached.remove(&frame);
            }
        }
        sim.disturb();
        Lines { inner: asked, outer: 0 }
    }

    /// With one level the two are one: what may be dirty is lost or written back, by chance.
    fn discard(&self, part: Part<'_>) -> Lines {
        self.invalidate(part)
    }

    fn flush_lines(&self) -> Option<u32> {
        self.sim.borrow().flush_lines
    }

    /// Drops the lines of what no write-back translation reaches, live or stale. Others stay as they are: they may have
    /// come back, dirty ones too.
    fn flush(&self) -> Lines {
        let sim = &mut *self.sim.borrow_mut();
        let asked = sim.flush_lines.expect("this machine can empty its caches");
        if sim.is_left_out(Op::Flush) {
            return Lines::default();
        }
        sim.disturb();
        for frame in core::mem::take(&mut sim.cached) {
            if sim.uses.get(&frame).is_some_and(|used| used.is_cacheable()) {
                sim.cached.insert(frame);
                continue;
            }
            let lines = sim.lines_of(frame);
            for line in lines.clone() {
                if sim.is_dirty(line) {
                    sim.store(bytes_of(line));
                }
                if sim.present.contains(line) {
                    sim.present.remove(line);
                }
                sim.marks[line] = 0;
            }
            sim.settle(frame, lines);
        }
        sim.disturb();
        Lines { inner: asked.into(), outer: 0 }
    }

    fn device_barrier(&self) {
        let sim = &mut *self.sim.borrow_mut();
        if sim.is_left_out(Op::Barrier) {
            return;
        }
        sim.disturb();
        sim.drain();
    }

    /// Orders writes to coherent memory as a device sees them: what is in the write buffer stays in order.
    fn dma_wmb(&self) {
        self.sim.borrow_mut().disturb();
    }

    fn dma_rmb(&self) {
        self.sim.borrow_mut().disturb();
    }
}
