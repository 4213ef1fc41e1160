//! One or two levels of data cache over DRAM, as an adversary would have them, and the judge of what is read.
//!
//! Guarantees: every behaviour of the model is one that the architecture allows. A line is cached by an access or a
//! speculation through a cacheable translation that the TLB may hold, and only by these; a cached line may leave at any
//! moment; a maintenance operation by address is complete at the next DSB and not surely before. So what the model
//! reports can happen.
//!
//! Each level has its own copy of memory. Copies of lines a level does not hold equal the next level's, so that a fill
//! changes a state and nothing else. A further copy, `ideal`, is what a coherent machine would hold: a read that differs
//! from it is stale. Rules are also judged by state, because a stale byte often equals the fresh one.

use crate::report::Rule;

/// Bytes of a line: Cortex-A9 and PL310.
pub const LINE: u32 = 32;
const LINE_BYTES: usize = LINE as usize;

/// Marsaglia's xorshift64*.
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 32 random bits.
    pub const fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A number below `bound`.
    pub const fn below(&mut self, bound: u32) -> u32 {
        ((self.next() as u64 * bound as u64) >> 32) as u32
    }
}

/// What a level holds of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum State {
    Absent = 0,
    Clean = 1,
    Dirty = 2,
}

/// All of RAM as one level has it: memory of the host, aligned for the emulator.
struct View {
    store: Vec<u8>,
    from: usize,
    bytes: usize,
}

impl View {
    fn new(bytes: usize) -> Self {
        let store = vec![0; bytes + 4096];
        let from = store.as_ptr().align_offset(4096);
        Self { store, from, bytes }
    }

    fn all(&self) -> &[u8] {
        &self.store[self.from..self.from + self.bytes]
    }

    fn all_mut(&mut self) -> &mut [u8] {
        &mut self.store[self.from..self.from + self.bytes]
    }

    fn line(&self, line: usize) -> [u8; LINE_BYTES] {
        self.all()[line * LINE_BYTES..][..LINE_BYTES].try_into().expect("a line")
    }

    fn set_line(&mut self, line: usize, bytes: &[u8; LINE_BYTES]) {
        self.all_mut()[line * LINE_BYTES..][..LINE_BYTES].copy_from_slice(bytes);
    }
}

/// A maintenance operation of the inner cache, queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maintain {
    /// Writes the line to the next level if dirty.
    Clean,
    /// Drops the line, dirty or not.
    Invalidate,
    /// Both.
    Flush,
}

/// What happened to a line, for the report.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A CPU access through a cacheable mapping.
    Cacheable {
        /// A store.
        write: bool,
    },
    /// A CPU access through any other mapping, straight to memory.
    Uncached {
        /// A store.
        write: bool,
    },
    /// An operation was issued.
    Issued(Maintain),
    /// An operation took effect.
    Done(Maintain),
    /// The adversary filled the line, into this level.
    Filled(u8),
    /// The adversary evicted the line from this level; it was dirty.
    Evicted(u8, bool),
    /// A bus master's access.
    Device {
        /// A write.
        write: bool,
    },
    /// The outer controller was told so.
    Outer(Maintain),
}

/// The caches and all copies of memory.
pub struct Caches {
    /// First physical address of RAM.
    pub base: u32,
    /// RAM as the CPU sees it through cacheable mappings.
    cpu: View,
    outer: Option<View>,
    dram: View,
    ideal: View,
    inner_state: Vec<u8>,
    outer_state: Vec<u8>,
    outer_on: bool,
    queue: Vec<(Maintain, usize)>,
    /// Lines lately maintained or accessed uncached.
    recent: [u32; 64],
    next_recent: usize,
    /// Whether a frame of RAM may be in the TLB with a cacheable translation: how often.
    cacheable: Vec<u16>,
    random: Random,
    period: u32,
    until_next: u32,
    /// The line whose events are wanted.
    pub watch: Option<u32>,
    /// The events of the watched line, each with the address of its instruction.
    pub events: Vec<(u32, Event)>,
    /// The instruction under way.
    pub pc: u32,
    /// Fills and evictions by the adversary, so far.
    pub moves: u64,
}

impl Caches {
    /// RAM of `bytes` at `base` with what it held at power-on, nothing cached. `period` is the mean number of accesses
    /// between two moves of the adversary.
    pub fn new(base: u32, bytes: u32, outer: bool, seed: u64, period: u32) -> Self {
        let size = bytes as usize;
        let lines = size / LINE_BYTES;
        let mut random = Random::new(seed);
        let mut dram = View::new(size);
        let salt = random.next();
        for (n, word) in dram.all_mut().chunks_exact_mut(4).enumerate() {
            let n = n as u32 ^ salt;
            word.copy_from_slice(&(n.wrapping_mul(0x9e37_79b9) ^ n.wrapping_mul(0x85eb_ca6b) >> 15).to_le_bytes());
        }
        let copy = || {
            let mut copy = View::new(size);
            copy.all_mut().copy_from_slice(dram.all());
            copy
        };
        Self {
            base,
            cpu: copy(),
            outer: outer.then(copy),
            ideal: copy(),
            dram,
            inner_state: vec![0; lines],
            outer_state: vec![0; if outer { lines } else { 0 }],
            outer_on: false,
            queue: Vec::new(),
            recent: [0; 64],
            next_recent: 0,
            cacheable: vec![0; size >> 12],
            random,
            period,
            until_next: period,
            watch: None,
            events: Vec::new(),
            pc: 0,
            moves: 0,
        }
    }

    /// Bytes of RAM.
    pub fn bytes(&self) -> u32 {
        self.dram.bytes as u32
    }

    /// Whether RAM is at `pa`.
    pub fn has(&self, pa: u32) -> bool {
        pa.wrapping_sub(self.base) < self.bytes()
    }

    /// Puts the boot loader's bytes into memory, nothing cached.
    pub fn put(&mut self, pa: u32, bytes: &[u8]) {
        let at = (pa - self.base) as usize;
        let copies = [Some(&mut self.cpu), self.outer.as_mut(), Some(&mut self.dram), Some(&mut self.ideal)];
        for copy in copies.into_iter().flatten() {
            copy.all_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Host addresses of the CPU's copy and of DRAM, for the emulator to map.
    pub fn hosts(&mut self) -> (*mut u8, *mut u8) {
        (self.cpu.all_mut().as_mut_ptr(), self.dram.all_mut().as_mut_ptr())
    }

    /// A word as the CPU reads it.
    pub fn word(&self, pa: u32, cacheable: bool) -> u32 {
        self.word_of(if cacheable { &self.cpu } else { &self.dram }, pa)
    }

    /// A word at the point of unification, behind the inner cache: what a table walk reads.
    pub fn unified_word(&self, pa: u32) -> u32 {
        self.word_of(self.outer.as_ref().unwrap_or(&self.dram), pa)
    }

    fn word_of(&self, copy: &View, pa: u32) -> u32 {
        let at = (pa - self.base) as usize;
        u32::from_le_bytes(copy.all()[at..at + 4].try_into().expect("four bytes"))
    }

    /// A translation of the frame came to or left what the TLB may hold.
    pub fn count_cacheable(&mut self, pa: u32, more: bool) {
        let count = &mut self.cacheable[((pa - self.base) >> 12) as usize];
        *count = if more { *count + 1 } else { *count - 1 };
    }

    /// Whether the TLB may hold a cacheable translation of the frame: the adversary speculates through it.
    pub fn is_cacheable(&self, pa: u32) -> bool {
        self.cacheable[((pa - self.base) >> 12) as usize] > 0
    }

    fn index(&self, pa: u32) -> usize {
        ((pa - self.base) / LINE) as usize
    }

    fn pa(&self, line: usize) -> u32 {
        self.base + line as u32 * LINE
    }

    fn note(&mut self, line: usize, event: Event) {
        if self.watch == Some(self.pa(line)) {
            self.events.push((self.pc, event));
        }
    }

    fn interesting(&mut self, line: usize) {
        self.recent[self.next_recent % self.recent.len()] = line as u32;
        self.next_recent += 1;
    }

    fn copy_in(&mut self, line: usize) {
        // Into the CPU's copy, from the level behind it.
        let bytes = match &self.outer {
            Some(outer) => outer.line(line),
            None => self.dram.line(line),
        };
        self.cpu.set_line(line, &bytes);
    }

    fn outer_copy_in(&mut self, line: usize) {
        let bytes = self.dram.line(line);
        if let Some(outer) = &mut self.outer {
            outer.set_line(line, &bytes);
        }
        if self.inner_state[line] == State::Absent as u8 {
            self.cpu.set_line(line, &bytes);
        }
    }

    fn fill(&mut self, line: usize) {
        if self.inner_state[line] == State::Absent as u8 {
            self.inner_state[line] = State::Clean as u8;
            self.fill_outer(line);
        }
    }

    fn fill_outer(&mut self, line: usize) {
        if self.outer_on && self.outer_state[line] == State::Absent as u8 {
            self.outer_state[line] = State::Clean as u8;
        }
    }

    fn write_back_inner(&mut self, line: usize) {
        let bytes = self.cpu.line(line);
        match &mut self.outer {
            Some(outer) if self.outer_on => {
                outer.set_line(line, &bytes);
                self.outer_state[line] = State::Dirty as u8;
            }
            outer => {
                self.dram.set_line(line, &bytes);
                if let Some(outer) = outer {
                    outer.set_line(line, &bytes);
                }
            }
        }
        self.inner_state[line] = State::Clean as u8;
    }

    fn write_back_outer(&mut self, line: usize) {
        let bytes = self.outer.as_ref().expect("an outer cache").line(line);
        self.dram.set_line(line, &bytes);
        self.outer_state[line] = State::Clean as u8;
    }

    fn drop_inner(&mut self, line: usize) {
        self.inner_state[line] = State::Absent as u8;
        self.copy_in(line);
    }

    fn drop_outer(&mut self, line: usize) {
        self.outer_state[line] = State::Absent as u8;
        self.outer_copy_in(line);
    }

    /// Issues an operation on the line of `pa`; it is done at the next DSB, unless the adversary has it done before.
    pub fn issue(&mut self, operation: Maintain, pa: u32) {
        if !self.has(pa) {
            return;
        }
        self.tick();
        let line = self.index(pa);
        self.interesting(line);
        self.note(line, Event::Issued(operation));
        self.queue.push((operation, line));
    }

    /// DSB: everything issued is done.
    pub fn complete(&mut self) {
        for n in 0..self.queue.len() {
            let (operation, line) = self.queue[n];
            self.perform(operation, line);
        }
        self.queue.clear();
    }

    fn perform(&mut self, operation: Maintain, line: usize) {
        self.note(line, Event::Done(operation));
        if operation != Maintain::Invalidate && self.inner_state[line] == State::Dirty as u8 {
            self.write_back_inner(line);
        }
        if operation != Maintain::Clean {
            self.drop_inner(line);
        }
    }

    /// Turns the outer cache on or off. It holds nothing when it comes on.
    pub fn set_outer(&mut self, on: bool) {
        self.outer_on = on && self.outer.is_some();
    }

    /// An operation of the outer controller on the line of `pa`.
    pub fn outer_line(&mut self, operation: Maintain, pa: u32) {
        if !self.has(pa) || !self.outer_on {
            return;
        }
        self.tick();
        let line = self.index(pa);
        self.interesting(line);
        self.note(line, Event::Outer(operation));
        if operation != Maintain::Invalidate && self.outer_state[line] == State::Dirty as u8 {
            self.write_back_outer(line);
        }
        if operation != Maintain::Clean && self.outer_state[line] != State::Absent as u8 {
            self.drop_outer(line);
        }
    }

    /// The same on every line.
    pub fn outer_all(&mut self, operation: Maintain) {
        for line in 0..self.outer_state.len() {
            if self.outer_state[line] != State::Absent as u8 {
                self.outer_line(operation, self.pa(line));
            }
        }
    }

    /// A load or store of `size` bytes at `pa`, about to happen. `value` is what a store writes.
    #[inline]
    pub fn access(&mut self, pa: u32, size: u32, value: Option<u64>, cacheable: bool) -> Result<(), (Rule, u32)> {
        self.tick();
        let (first, last) = (self.index(pa), self.index(pa + size - 1));
        for line in first..=last {
            if cacheable {
                self.note(line, Event::Cacheable { write: value.is_some() });
                self.fill(line);
                if value.is_some() {
                    self.inner_state[line] = State::Dirty as u8;
                }
            } else {
                self.interesting(line);
                self.note(line, Event::Uncached { write: value.is_some() });
                if self.inner_state[line] != State::Absent as u8 {
                    return Err((Rule::UncachedWhileCached { level: 1 }, self.pa(line)));
                }
                if self.outer_on && self.outer_state[line] != State::Absent as u8 {
                    return Err((Rule::UncachedWhileCached { level: 2 }, self.pa(line)));
                }
            }
        }
        let at = (pa - self.base) as usize;
        let range = at..at + size as usize;
        if let Some(value) = value {
            let bytes = &value.to_le_bytes()[..size as usize];
            self.ideal.all_mut()[range.clone()].copy_from_slice(bytes);
            if !cacheable {
                // Not held anywhere, as just checked: every copy equals DRAM, which the emulator writes next.
                self.cpu.all_mut()[range.clone()].copy_from_slice(bytes);
                if let Some(outer) = &mut self.outer {
                    outer.all_mut()[range].copy_from_slice(bytes);
                }
            }
            return Ok(());
        }
        let copy = if cacheable { &self.cpu } else { &self.dram };
        if copy.all()[range.clone()] != self.ideal.all()[range] {
            return Err((Rule::StaleRead { cacheable }, pa & !(LINE - 1)));
        }
        Ok(())
    }

    /// A bus master reads up to four bytes.
    pub fn device_read(&mut self, pa: u32, size: u32) -> Result<u32, (Rule, u32)> {
        if !self.has(pa) || !self.has(pa + size - 1) {
            return Ok(0);
        }
        let line = self.index(pa);
        self.interesting(line);
        self.note(line, Event::Device { write: false });
        let range = (pa - self.base) as usize..(pa - self.base + size) as usize;
        let bytes = &self.dram.all()[range.clone()];
        if *bytes != self.ideal.all()[range] {
            return Err((Rule::DeviceReadsStale, self.pa(line)));
        }
        let mut word = [0; 4];
        word[..size as usize].copy_from_slice(bytes);
        Ok(u32::from_le_bytes(word))
    }

    /// A bus master writes.
    pub fn device_write(&mut self, pa: u32, bytes: &[u8]) -> Result<(), (Rule, u32)> {
        for (n, &byte) in bytes.iter().enumerate() {
            let pa = pa + n as u32;
            if !self.has(pa) {
                continue;
            }
            let (line, at) = (self.index(pa), (pa - self.base) as usize);
            if n == 0 || pa.is_multiple_of(LINE) {
                self.interesting(line);
                self.note(line, Event::Device { write: true });
                let outer = self.outer_on && self.outer_state[line] == State::Dirty as u8;
                if outer || self.inner_state[line] == State::Dirty as u8 {
                    return Err((Rule::DeviceWritesOverDirty, self.pa(line)));
                }
            }
            self.dram.all_mut()[at] = byte;
            self.ideal.all_mut()[at] = byte;
            // Copies of levels that do not hold the line follow the next level's.
            let outer_holds = self.outer_on && self.outer_state[line] != State::Absent as u8;
            if let Some(outer) = &mut self.outer
                && !outer_holds
            {
                outer.all_mut()[at] = byte;
            }
            if !outer_holds && self.inner_state[line] == State::Absent as u8 {
                self.cpu.all_mut()[at] = byte;
            }
        }
        Ok(())
    }

    /// Time passes, by an access or an operation: the adversary may move.
    #[inline]
    fn tick(&mut self) {
        self.until_next -= 1;
        if self.until_next == 0 {
            self.until_next = 1 + self.random.below(2 * self.period - 1);
            self.move_one();
        }
    }

    /// One move of the adversary. Three in four are near lines lately maintained or accessed uncached.
    fn move_one(&mut self) {
        self.moves += 1;
        let lines = self.inner_state.len() as u32;
        let line = if self.random.below(4) < 3 && self.next_recent > 0 {
            let known = self.next_recent.min(self.recent.len()) as u32;
            let near = self.recent[self.random.below(known) as usize];
            (near + self.random.below(5)).saturating_sub(2).min(lines - 1)
        } else {
            self.random.below(lines)
        } as usize;
        let speculates = self.is_cacheable(self.pa(line));
        match self.random.below(8) {
            0..=2 if speculates => {
                self.note(line, Event::Filled(1));
                self.fill(line);
            }
            3 if speculates && self.outer_on => {
                self.note(line, Event::Filled(2));
                self.fill_outer(line);
            }
            4 | 5 if self.inner_state[line] != State::Absent as u8 => {
                let dirty = self.inner_state[line] == State::Dirty as u8;
                self.note(line, Event::Evicted(1, dirty));
                if dirty {
                    self.write_back_inner(line);
                }
                self.drop_inner(line);
            }
            6 if self.outer_on && self.outer_state[line] != State::Absent as u8 => {
                let dirty = self.outer_state[line] == State::Dirty as u8;
                self.note(line, Event::Evicted(2, dirty));
                if dirty {
                    self.write_back_outer(line);
                }
                self.drop_outer(line);
            }
            7 if !self.queue.is_empty() => {
                // An operation may be done at any time before the barrier.
                let one = self.random.below(self.queue.len() as u32) as usize;
                let (operation, line) = self.queue.remove(one);
                self.perform(operation, line);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u32 = 0x6000_0000;

    /// Two pages with a still adversary, the first of which is all `0x11`.
    fn caches(outer: bool) -> Caches {
        let mut caches = Caches::new(BASE, 2 << 12, outer, 1, 1 << 30);
        caches.put(BASE, &[0x11; 4096]);
        caches.set_outer(true);
        caches
    }

    fn store(caches: &mut Caches, value: u32) {
        caches.access(BASE, 4, Some(value.into()), true).unwrap();
        caches.cpu.all_mut()[..4].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn a_store_reaches_memory_by_a_clean_that_is_complete() {
        for outer in [false, true] {
            let mut caches = caches(outer);
            store(&mut caches, 0x2222_2222);
            assert_eq!(caches.device_read(BASE, 4), Err((Rule::DeviceReadsStale, BASE)));
            caches.issue(Maintain::Clean, BASE);
            assert_eq!(caches.device_read(BASE, 4), Err((Rule::DeviceReadsStale, BASE)), "no DSB yet");
            caches.complete();
            assert_eq!(caches.unified_word(BASE), 0x2222_2222);
            assert_eq!(caches.device_read(BASE, 4).is_ok(), !outer, "past the outer level only if there is none");
            caches.outer_line(Maintain::Clean, BASE);
            assert_eq!(caches.device_read(BASE, 4), Ok(0x2222_2222));
        }
    }

    #[test]
    fn a_line_that_stays_cached_is_stale_after_a_device_write() {
        let mut caches = caches(false);
        caches.access(BASE, 4, None, true).unwrap();
        caches.device_write(BASE, &[0x33; 64]).unwrap();
        let stale = Err((Rule::StaleRead { cacheable: true }, BASE));
        assert_eq!(caches.access(BASE, 4, None, true), stale);
        assert_eq!(caches.access(BASE + LINE, 4, None, true), Ok(()), "the next line was not cached");
        caches.issue(Maintain::Invalidate, BASE);
        caches.complete();
        assert_eq!(caches.access(BASE, 4, None, true), Ok(()));
    }

    #[test]
    fn an_inner_line_is_refilled_from_a_stale_outer_one() {
        let mut caches = caches(true);
        caches.access(BASE, 4, None, true).unwrap();
        caches.device_write(BASE, &[0x33; 4]).unwrap();
        caches.issue(Maintain::Invalidate, BASE);
        caches.complete();
        caches.access(BASE, 1, None, true).unwrap_err();
        caches.outer_line(Maintain::Invalidate, BASE);
        caches.access(BASE, 1, None, true).unwrap_err();
        caches.issue(Maintain::Invalidate, BASE);
        caches.complete();
        assert_eq!(caches.access(BASE, 1, None, true), Ok(()));
    }

    #[test]
    fn an_uncached_access_meets_a_line() {
        let mut caches = caches(true);
        caches.access(BASE, 4, None, true).unwrap();
        caches.issue(Maintain::Invalidate, BASE);
        caches.complete();
        let met = Err((Rule::UncachedWhileCached { level: 2 }, BASE));
        assert_eq!(caches.access(BASE, 4, None, false), met, "the outer level still holds it");
        caches.outer_line(Maintain::Invalidate, BASE);
        assert_eq!(caches.access(BASE, 4, None, false), Ok(()));
    }

    #[test]
    fn a_device_may_not_write_over_a_dirty_line() {
        let mut caches = caches(false);
        store(&mut caches, 1);
        assert_eq!(caches.device_write(BASE + 8, &[0]), Err((Rule::DeviceWritesOverDirty, BASE)));
    }

    #[test]
    fn the_adversary_speculates_only_where_a_cacheable_translation_may_be_held() {
        let mut caches = caches(false);
        caches.period = 1;
        caches.until_next = 1;
        caches.count_cacheable(BASE + 4096, true);
        for _ in 0..10_000 {
            caches.tick();
        }
        let held = |page: usize| caches.inner_state[page * 128..][..128].iter().any(|&state| state != 0);
        assert!(!held(0) && held(1));
    }
}
