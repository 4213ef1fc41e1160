//! One or two levels of data cache and write buffers over DRAM, as an adversary would have them, and the judge of what
//! is read.
//!
//! Guarantees: every behaviour of the model is one that the architecture or the controller's manual allows. A line is
//! cached by an access or a speculation through a cacheable translation that the TLB may hold, and only by these; a
//! cached line may leave at any moment; a maintenance operation by address is complete at the next DSB and not surely
//! before; a write past the caches reaches DRAM at the next DSB, in any order but that of DMBs, and not surely before.
//! With an outer controller, what its line operations clean and what the core's DSB has pushed out may wait in the
//! controller's buffers until a cache sync and a DSB; a load past the caches may have been done early, before what a
//! device wrote since the last DMB or DSB. So what the model reports can happen.
//!
//! Each level has its own copy of memory; behind the last is `memory`, as the core sees it past the caches, and `dram`,
//! as bus masters see it: they differ by what is buffered. Copies of lines a level does not hold equal the next
//! level's, so that a fill changes a state and nothing else. A further copy, `ideal`, is what a coherent machine would
//! hold: a read that differs from it is stale. Rules are also judged by state, because a stale byte often equals the
//! fresh one.

use crate::model::{Model, Outer};
use crate::report::Rule;
use std::collections::VecDeque;

const FRAME: usize = 4096;
/// Bytes of the longest line of any model.
const LINE_MAX: usize = 64;
/// Writes that buffers hold at most; the oldest goes when another comes.
const BUFFERED_MAX: usize = 32;
/// Writes of devices that loads may be too early for, at most.
const FRESH_MAX: usize = 64;

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

/// All of RAM as one level has it: memory of the host, aligned for the emulator, whose pages exist once touched.
struct View {
    store: Vec<u8>,
    from: usize,
    bytes: usize,
}

impl View {
    fn new(bytes: usize) -> Self {
        let store = vec![0; bytes + FRAME];
        let from = store.as_ptr().align_offset(FRAME);
        Self { store, from, bytes }
    }

    fn all(&self) -> &[u8] {
        &self.store[self.from..self.from + self.bytes]
    }

    fn all_mut(&mut self) -> &mut [u8] {
        &mut self.store[self.from..self.from + self.bytes]
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.all_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// A maintenance operation by address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maintain {
    /// Writes the line to memory, as far as the operation reaches, if dirty.
    Clean,
    /// Writes the line to the level behind the inner one.
    CleanToUnification,
    /// Drops the line, dirty or not.
    Invalidate,
    /// Cleans and drops.
    Flush,
}

/// An order to the outer controller.
#[derive(Clone, Copy, Debug)]
enum Order {
    Line(Maintain, usize),
    Sync,
}

/// A write on its way to DRAM.
struct Buffered {
    at: usize,
    bytes: [u8; LINE_MAX],
    len: usize,
    /// DMBs before it, if it is one of the core's: an older one goes first where these differ.
    fence: Option<u32>,
    /// In the controller's buffers, which a DSB does not empty.
    outside: bool,
}

impl Buffered {
    const fn overlaps(&self, at: usize, len: usize) -> bool {
        self.at < at + len && at < self.at + self.len
    }
}

/// What a device wrote since the last barrier.
struct Fresh {
    at: usize,
    len: usize,
    /// How many writes of devices there were, with this one.
    number: u64,
    /// Loads of the line are early: they find what was there before.
    early: bool,
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
    Ordered(Maintain),
    /// The outer controller did so.
    Outer(Maintain),
    /// A write left its buffer for DRAM.
    Drained,
}

/// A device's look at memory, in the middle of something.
pub type Look<'a> = dyn FnMut(&mut Caches) -> Result<(), (Rule, u32)> + 'a;

/// The caches and all copies of memory.
pub struct Caches {
    /// First physical address of RAM.
    pub base: u32,
    line: usize,
    kind: Outer,
    salt: u32,
    /// Frames that hold what they held at power-on, or anything since; the others do as soon as they are looked at.
    ready: Vec<bool>,
    /// RAM as the CPU sees it through cacheable mappings.
    cpu: View,
    outer: Option<View>,
    /// RAM as the CPU sees it past the caches.
    memory: View,
    /// RAM as bus masters see it.
    dram: View,
    ideal: View,
    inner_state: Vec<u8>,
    outer_state: Vec<u8>,
    outer_on: bool,
    queue: Vec<(Maintain, usize)>,
    /// Orders to the outer controller that it has not taken, in order.
    orders: VecDeque<Order>,
    /// An operation by way, which goes on by itself.
    background: Option<Maintain>,
    buffered: Vec<Buffered>,
    fences: u32,
    /// Where a device looks for work, and whether a write has arrived there that it did not look at.
    polled: usize,
    rung: bool,
    fresh: VecDeque<Fresh>,
    /// Writes of devices, and of these how many the CPU knows of: it read the last of them, or was told of it.
    device_writes: u64,
    known: u64,
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
}

impl Caches {
    /// RAM of `bytes` with what it held at power-on, nothing cached. `period` is the mean number of accesses between
    /// two moves of the adversary.
    pub fn new(model: &Model, bytes: u32, seed: u64, period: u32) -> Self {
        let size = bytes as usize;
        let lines = size / model.line as usize;
        let mut random = Random::new(seed);
        let two = model.outer != Outer::None;
        Self {
            base: model.ram,
            line: model.line as usize,
            kind: model.outer,
            salt: random.next(),
            ready: vec![false; size / FRAME],
            cpu: View::new(size),
            outer: two.then(|| View::new(size)),
            memory: View::new(size),
            dram: View::new(size),
            ideal: View::new(size),
            inner_state: vec![0; lines],
            outer_state: vec![0; if two { lines } else { 0 }],
            outer_on: model.outer == Outer::Integrated,
            queue: Vec::new(),
            orders: VecDeque::new(),
            background: None,
            buffered: Vec::new(),
            fences: 0,
            polled: usize::MAX,
            rung: false,
            fresh: VecDeque::new(),
            device_writes: 0,
            known: 0,
            recent: [0; 64],
            next_recent: 0,
            cacheable: vec![0; size / FRAME],
            random,
            period,
            until_next: period,
            watch: None,
            events: Vec::new(),
            pc: 0,
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

    /// Puts into a frame what it held at power-on, unless that was done: before anyone looks at it.
    #[inline]
    pub fn look_at(&mut self, pa: u32) {
        let frame = (pa - self.base) as usize / FRAME;
        if !self.ready[frame] {
            self.power_on(frame);
        }
    }

    fn power_on(&mut self, frame: usize) {
        self.ready[frame] = true;
        let mut garbage = [0; FRAME];
        for (n, word) in garbage.chunks_exact_mut(4).enumerate() {
            let n = (frame * FRAME / 4 + n) as u32 ^ self.salt;
            word.copy_from_slice(&(n.wrapping_mul(0x9e37_79b9) ^ n.wrapping_mul(0x85eb_ca6b) >> 15).to_le_bytes());
        }
        self.put_everywhere(frame * FRAME, &garbage);
    }

    fn put_everywhere(&mut self, at: usize, bytes: &[u8]) {
        for copy in
            [&mut self.cpu, &mut self.memory, &mut self.dram, &mut self.ideal].into_iter().chain(&mut self.outer)
        {
            copy.put(at, bytes);
        }
    }

    /// Puts the boot loader's bytes into memory, nothing cached.
    pub fn put(&mut self, pa: u32, bytes: &[u8]) {
        for pa in (pa..pa + bytes.len() as u32).step_by(FRAME).chain([pa + bytes.len() as u32 - 1]) {
            self.look_at(pa);
        }
        self.put_everywhere((pa - self.base) as usize, bytes);
    }

    /// Host addresses of the CPU's copy and of memory past the caches, for the emulator to map.
    pub fn hosts(&mut self) -> (*mut u8, *mut u8) {
        (self.cpu.all_mut().as_mut_ptr(), self.memory.all_mut().as_mut_ptr())
    }

    /// A word as the CPU reads it.
    pub fn word(&mut self, pa: u32, cacheable: bool) -> u32 {
        self.look_at(pa);
        self.word_of(if cacheable { &self.cpu } else { &self.memory }, pa)
    }

    /// A word at the point of unification, behind the inner cache: what a table walk reads.
    pub fn unified_word(&mut self, pa: u32) -> u32 {
        self.look_at(pa);
        self.word_of(self.outer.as_ref().unwrap_or(&self.memory), pa)
    }

    /// What the emulator does for a store through a cacheable mapping.
    #[cfg(test)]
    pub fn poke(&mut self, pa: u32, word: u32) {
        self.cpu.put((pa - self.base) as usize, &word.to_le_bytes());
    }

    fn word_of(&self, copy: &View, pa: u32) -> u32 {
        let at = (pa - self.base) as usize;
        u32::from_le_bytes(copy.all()[at..at + 4].try_into().expect("four bytes"))
    }

    /// A translation of the frame came to or left what the TLB may hold.
    pub fn count_cacheable(&mut self, pa: u32, more: bool) {
        let count = &mut self.cacheable[(pa - self.base) as usize / FRAME];
        *count = if more { *count + 1 } else { *count - 1 };
    }

    /// Whether the TLB may hold a cacheable translation of the frame: the adversary speculates through it.
    pub fn is_cacheable(&self, pa: u32) -> bool {
        self.cacheable[(pa - self.base) as usize / FRAME] > 0
    }

    fn index(&self, pa: u32) -> usize {
        (pa - self.base) as usize / self.line
    }

    fn pa(&self, line: usize) -> u32 {
        self.base + (line * self.line) as u32
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

    fn bytes_of(&self, copy: &View, line: usize) -> [u8; LINE_MAX] {
        let mut bytes = [0; LINE_MAX];
        bytes[..self.line].copy_from_slice(&copy.all()[line * self.line..][..self.line]);
        bytes
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
        let bytes = self.bytes_of(&self.cpu, line);
        if let Some(outer) = &mut self.outer {
            outer.put(line * self.line, &bytes[..self.line]);
        }
        if self.outer_on {
            self.outer_state[line] = State::Dirty as u8;
        } else {
            self.write_memory(line, &bytes, false);
        }
        self.inner_state[line] = State::Clean as u8;
    }

    fn write_back_outer(&mut self, line: usize, late: bool) {
        let bytes = self.bytes_of(self.outer.as_ref().expect("an outer cache"), line);
        self.write_memory(line, &bytes, late);
        self.outer_state[line] = State::Clean as u8;
    }

    /// A line goes to memory; what was buffered for it went before. `late`: it may wait in the controller.
    fn write_memory(&mut self, line: usize, bytes: &[u8; LINE_MAX], late: bool) {
        let at = line * self.line;
        self.see(line);
        while let Some(n) = self.buffered.iter().position(|one| one.overlaps(at, self.line)) {
            self.drain(n);
        }
        self.memory.put(at, &bytes[..self.line]);
        if late {
            self.buffer(Buffered { at, bytes: *bytes, len: self.line, fence: None, outside: true });
        } else {
            self.dram.put(at, &bytes[..self.line]);
        }
    }

    fn drop_inner(&mut self, line: usize) {
        self.inner_state[line] = State::Absent as u8;
        self.see(line);
        let bytes = self.bytes_of(self.outer.as_ref().unwrap_or(&self.memory), line);
        self.cpu.put(line * self.line, &bytes[..self.line]);
    }

    fn drop_outer(&mut self, line: usize) {
        self.outer_state[line] = State::Absent as u8;
        self.see(line);
        let bytes = self.bytes_of(&self.memory, line);
        if let Some(outer) = &mut self.outer {
            outer.put(line * self.line, &bytes[..self.line]);
        }
        if self.inner_state[line] == State::Absent as u8 {
            self.cpu.put(line * self.line, &bytes[..self.line]);
        }
    }

    // --- write buffers ----------------------------------------------------------------------------------------------

    fn buffer(&mut self, one: Buffered) {
        if self.buffered.len() == BUFFERED_MAX {
            self.drain(0);
        }
        self.buffered.push(one);
    }

    /// One buffered write reaches DRAM, after those that must go before it: older ones of the same bytes, and those
    /// that a DMB stands between. Says how many went.
    fn drain(&mut self, mut n: usize) -> usize {
        let mut gone = 1;
        let (at, len, fence) = (self.buffered[n].at, self.buffered[n].len, self.buffered[n].fence);
        let before =
            |one: &Buffered| one.overlaps(at, len) || fence.is_some() && one.fence.is_some() && one.fence < fence;
        while let Some(first) = self.buffered[..n].iter().position(before) {
            let went = self.drain(first);
            (n, gone) = (n - went, gone + went);
        }
        let one = self.buffered.remove(n);
        self.dram.put(one.at, &one.bytes[..one.len]);
        self.note(one.at / self.line, Event::Drained);
        self.rung |= one.overlaps(self.polled, 1);
        gone
    }

    /// What is buffered for any of these bytes.
    fn is_buffered(&self, at: usize, len: usize) -> bool {
        self.buffered.iter().any(|one| one.overlaps(at, len))
    }

    /// DMB: buffered writes go before later ones, and no later load is early for what a device wrote before.
    pub fn fence(&mut self) {
        self.fences += 1;
        while let Some(one) = self.fresh.pop_front() {
            self.see(one.at / self.line);
        }
    }

    /// Loads of the line find what is there: DRAM, and what the core buffered since.
    fn see(&mut self, line: usize) {
        let at = line * self.line;
        let bytes = self.bytes_of(&self.dram, line);
        self.memory.put(at, &bytes[..self.line]);
        for one in self.buffered.iter().filter(|one| one.overlaps(at, self.line)) {
            self.memory.put(one.at, &one.bytes[..one.len]);
        }
        self.fresh.iter_mut().filter(|one| one.at / self.line == line).for_each(|one| one.early = false);
    }

    /// The CPU was told that the devices' writes so far are done.
    pub const fn know(&mut self) {
        self.known = self.device_writes;
    }

    /// A load past the caches, of what a device may just have written. Whether it is early.
    fn load(&mut self, at: usize, len: usize) -> Result<bool, (Rule, u32)> {
        let overlaps = |one: &&Fresh| one.at < at + len && at < one.at + one.len;
        let line = at / self.line;
        let Some(number) = self.fresh.iter().filter(overlaps).map(|one| one.number).max() else {
            return Ok(self.fresh.iter().any(|one| one.early && one.at / self.line == line));
        };
        if self.fresh.iter().filter(overlaps).any(|one| one.early) {
            let oldest = self.fresh.iter().filter(overlaps).map(|one| one.number).min();
            if oldest.is_some_and(|oldest| oldest <= self.known) {
                return Err((Rule::EarlyLoad, self.pa(line)));
            }
            if self.random.below(2) == 0 {
                return Ok(true);
            }
            self.see(line);
        }
        self.known = self.known.max(number);
        Ok(false)
    }

    // --- maintenance ------------------------------------------------------------------------------------------------

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

    /// DSB: everything issued is done, the outer controller has taken its orders, and the core's buffers are empty.
    /// What they held is in DRAM, or with an outer controller in its buffers. That takes its time: a device may `look`
    /// in the middle of it.
    pub fn complete(&mut self, look: &mut Look<'_>) -> Result<(), (Rule, u32)> {
        for n in 0..self.queue.len() {
            let (operation, line) = self.queue[n];
            self.perform(operation, line);
        }
        self.queue.clear();
        while let Some(order) = self.orders.pop_front() {
            self.obey(order, look)?;
        }
        self.fence();
        if self.kind == Outer::Controller && self.outer_on {
            self.buffered.iter_mut().for_each(|one| one.outside = true);
            return Ok(());
        }
        while !self.buffered.is_empty() {
            let one = self.random.below(self.buffered.len() as u32) as usize;
            self.drain(one);
            if self.is_rung() {
                look(self)?;
            }
        }
        Ok(())
    }

    /// A device looks for work at `pa`.
    pub fn poll(&mut self, pa: u32) {
        self.polled = (pa - self.base) as usize;
    }

    /// Whether a write has arrived there since this was last asked.
    #[inline]
    pub const fn is_rung(&mut self) -> bool {
        core::mem::replace(&mut self.rung, false)
    }

    fn perform(&mut self, operation: Maintain, line: usize) {
        self.note(line, Event::Done(operation));
        if operation != Maintain::Invalidate && self.inner_state[line] == State::Dirty as u8 {
            self.write_back_inner(line);
        }
        let drops = matches!(operation, Maintain::Invalidate | Maintain::Flush);
        // The integrated level is part of the core: operations by address to the point of coherency go through both.
        if self.kind == Outer::Integrated && operation != Maintain::CleanToUnification {
            self.outer_operation(operation, line);
        }
        if drops {
            self.drop_inner(line);
        }
    }

    fn outer_operation(&mut self, operation: Maintain, line: usize) {
        if operation != Maintain::Invalidate && self.outer_state[line] == State::Dirty as u8 {
            self.write_back_outer(line, self.kind == Outer::Controller);
        }
        if operation != Maintain::Clean && self.outer_state[line] != State::Absent as u8 {
            self.drop_outer(line);
        }
    }

    // --- the outer controller ---------------------------------------------------------------------------------------

    /// Turns the outer cache on or off. It holds nothing when it comes on.
    pub fn set_outer(&mut self, on: bool) {
        if self.kind == Outer::Controller {
            self.outer_on = on;
        }
    }

    /// A store to the outer controller: an operation on the line of `pa`. The store may be late; the operation is
    /// atomic.
    pub fn order_line(&mut self, operation: Maintain, pa: u32) {
        if self.has(pa) && self.outer_on {
            self.tick();
            let line = self.index(pa);
            self.interesting(line);
            self.note(line, Event::Ordered(operation));
            self.orders.push_back(Order::Line(operation, line));
        }
    }

    /// A store to the outer controller: empty the buffers.
    pub fn order_sync(&mut self) {
        self.orders.push_back(Order::Sync);
    }

    /// A store to the outer controller: an operation on all lines, in the background.
    pub fn order_ways(&mut self, operation: Maintain) {
        self.end_ways();
        self.background = Some(operation);
    }

    /// Whether an operation by way goes on; it ends soon after.
    pub fn poll_ways(&mut self) -> bool {
        let busy = self.background.is_some() && self.random.below(4) > 0;
        if !busy {
            self.end_ways();
        }
        busy
    }

    fn end_ways(&mut self) {
        let Some(operation) = self.background.take() else { return };
        for line in 0..self.outer_state.len() {
            if self.outer_state[line] != State::Absent as u8 {
                self.note(line, Event::Outer(operation));
                self.outer_operation(operation, line);
            }
        }
    }

    fn obey(&mut self, order: Order, look: &mut Look<'_>) -> Result<(), (Rule, u32)> {
        match order {
            Order::Line(operation, line) => {
                self.note(line, Event::Outer(operation));
                self.outer_operation(operation, line);
            }
            Order::Sync => {
                while self.buffered.iter().any(|one| one.outside) {
                    let one = self.random.below(self.buffered.len() as u32) as usize;
                    if self.buffered[one].outside {
                        self.drain(one);
                    }
                    if self.is_rung() {
                        look(self)?;
                    }
                }
            }
        }
        Ok(())
    }

    // --- accesses ---------------------------------------------------------------------------------------------------

    /// A load or store of `size` bytes at `pa`, about to happen. `value` is what a store writes; past the caches it is
    /// `buffered` unless memory is Strongly-ordered.
    #[inline]
    pub fn access(
        &mut self,
        pa: u32,
        size: u32,
        value: Option<u64>,
        cacheable: bool,
        buffered: bool,
    ) -> Result<(), (Rule, u32)> {
        self.tick();
        self.look_at(pa);
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
            let value = value.to_le_bytes();
            let bytes = &value[..size as usize];
            self.ideal.put(at, bytes);
            if !cacheable {
                // Not held anywhere, as just checked: every copy equals memory, which the emulator writes next.
                self.cpu.put(at, bytes);
                if let Some(outer) = &mut self.outer {
                    outer.put(at, bytes);
                }
                if buffered {
                    let mut line = [0; LINE_MAX];
                    line[..bytes.len()].copy_from_slice(bytes);
                    let fence = Some(self.fences);
                    self.buffer(Buffered { at, bytes: line, len: bytes.len(), fence, outside: false });
                } else {
                    self.dram.put(at, bytes);
                }
            }
            return Ok(());
        }
        if !cacheable && !self.fresh.is_empty() && self.load(at, size as usize)? {
            return Ok(());
        }
        let copy = if cacheable { &self.cpu } else { &self.memory };
        if copy.all()[range.clone()] != self.ideal.all()[range] {
            return Err((Rule::StaleRead { cacheable }, self.pa(first)));
        }
        Ok(())
    }

    /// A bus master reads up to four bytes. `told`: it was told that they are there; otherwise it only looks whether
    /// the CPU's write has arrived yet.
    pub fn device_read(&mut self, pa: u32, size: u32, told: bool) -> Result<u32, (Rule, u32)> {
        if !self.has(pa) || !self.has(pa + size - 1) {
            return Ok(0);
        }
        self.look_at(pa);
        let line = self.index(pa);
        self.interesting(line);
        self.note(line, Event::Device { write: false });
        let at = (pa - self.base) as usize;
        let range = at..at + size as usize;
        let buffered = self.is_buffered(at, size as usize);
        let bytes = &self.dram.all()[range.clone()];
        if buffered && told || !buffered && *bytes != self.ideal.all()[range] {
            return Err((Rule::DeviceReadsStale { buffered }, self.pa(line)));
        }
        let mut word = [0; 4];
        word[..size as usize].copy_from_slice(bytes);
        Ok(u32::from_le_bytes(word))
    }

    /// A bus master writes.
    pub fn device_write(&mut self, pa: u32, bytes: &[u8]) -> Result<(), (Rule, u32)> {
        let mut done = 0;
        while done < bytes.len() {
            let pa = pa + done as u32;
            let len = (self.line - pa as usize % self.line).min(bytes.len() - done);
            if self.has(pa) {
                self.device_write_line(pa, &bytes[done..done + len])?;
            }
            done += len;
        }
        Ok(())
    }

    fn device_write_line(&mut self, pa: u32, bytes: &[u8]) -> Result<(), (Rule, u32)> {
        self.look_at(pa);
        let (line, at, len) = (self.index(pa), (pa - self.base) as usize, bytes.len());
        self.interesting(line);
        self.note(line, Event::Device { write: true });
        let outer_state = if self.outer_on { self.outer_state[line] } else { State::Absent as u8 };
        let buffered = self.is_buffered(at, len);
        if outer_state == State::Dirty as u8 || self.inner_state[line] == State::Dirty as u8 || buffered {
            return Err((Rule::DeviceWritesOverDirty { buffered }, self.pa(line)));
        }
        self.dram.put(at, bytes);
        self.ideal.put(at, bytes);
        // Copies of levels that do not hold the line follow the next level's.
        if outer_state == State::Absent as u8 {
            if let Some(outer) = &mut self.outer {
                outer.put(at, bytes);
            }
            if self.inner_state[line] == State::Absent as u8 {
                self.cpu.put(at, bytes);
            }
        }
        self.device_writes += 1;
        let number = self.device_writes;
        if self.fresh.len() == FRESH_MAX
            && let Some(oldest) = self.fresh.pop_front()
        {
            self.see(oldest.at / self.line);
        }
        let early = self.random.below(2) == 0;
        self.fresh.push_back(Fresh { at, len, number, early });
        if !early {
            self.see(line);
        }
        Ok(())
    }

    // --- the adversary ----------------------------------------------------------------------------------------------

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
        let lines = self.inner_state.len() as u32;
        let line = if self.random.below(4) < 3 && self.next_recent > 0 {
            let known = self.next_recent.min(self.recent.len()) as u32;
            let near = self.recent[self.random.below(known) as usize];
            (near + self.random.below(5)).saturating_sub(2).min(lines - 1)
        } else {
            self.random.below(lines)
        } as usize;
        let speculates = self.is_cacheable(self.pa(line));
        match self.random.below(10) {
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
                    self.write_back_outer(line, false);
                }
                self.drop_outer(line);
            }
            7 if !self.queue.is_empty() => {
                // An operation may be done at any time before the barrier.
                let one = self.random.below(self.queue.len() as u32) as usize;
                let (operation, line) = self.queue.remove(one);
                self.perform(operation, line);
            }
            8 if !self.buffered.is_empty() => {
                let one = self.random.below(self.buffered.len() as u32) as usize;
                self.drain(one);
            }
            9 if !self.orders.is_empty() => {
                if let Some(order) = self.orders.pop_front() {
                    // Whoever was rung for looks before the next instruction.
                    let rung = self.rung;
                    let _ = self.obey(order, &mut |_| Ok(()));
                    self.rung |= rung;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u32 = 0x6000_0000;
    const LINE: u32 = 32;

    /// Two pages with a still adversary, the first of which is all `0x11`.
    fn caches(outer: bool) -> Caches {
        caches_of(if outer { "a9-pl310" } else { "a9" })
    }

    fn caches_of(model: &str) -> Caches {
        let mut model = *crate::model::find(model).unwrap();
        model.ram = BASE;
        let model = &model;
        let mut caches = Caches::new(model, 2 << 12, 1, 1 << 30);
        caches.put(BASE, &[0x11; 4096]);
        caches.set_outer(true);
        caches
    }

    fn store(caches: &mut Caches, value: u32) {
        caches.access(BASE, 4, Some(value.into()), true, true).unwrap();
        caches.cpu.all_mut()[..4].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn a_store_reaches_memory_by_a_clean_that_is_complete() {
        for outer in [false, true] {
            let mut caches = caches(outer);
            store(&mut caches, 0x2222_2222);
            assert_eq!(caches.device_read(BASE, 4, true), Err((Rule::DeviceReadsStale { buffered: false }, BASE)));
            caches.issue(Maintain::Clean, BASE);
            assert_eq!(
                caches.device_read(BASE, 4, true),
                Err((Rule::DeviceReadsStale { buffered: false }, BASE)),
                "no DSB yet"
            );
            caches.complete(&mut |_| Ok(())).unwrap();
            assert_eq!(caches.unified_word(BASE), 0x2222_2222);
            assert_eq!(caches.device_read(BASE, 4, true).is_ok(), !outer, "past the outer level only if there is none");
            caches.order_line(Maintain::Clean, BASE);
            caches.order_sync();
            caches.complete(&mut |_| Ok(())).unwrap();
            assert_eq!(caches.device_read(BASE, 4, true), Ok(0x2222_2222));
        }
    }

    #[test]
    fn a_line_that_stays_cached_is_stale_after_a_device_write() {
        let mut caches = caches(false);
        caches.access(BASE, 4, None, true, true).unwrap();
        caches.device_write(BASE, &[0x33; 64]).unwrap();
        let stale = Err((Rule::StaleRead { cacheable: true }, BASE));
        assert_eq!(caches.access(BASE, 4, None, true, true), stale);
        assert_eq!(caches.access(BASE + LINE, 4, None, true, true), Ok(()), "the next line was not cached");
        caches.issue(Maintain::Invalidate, BASE);
        caches.complete(&mut |_| Ok(())).unwrap();
        assert_eq!(caches.access(BASE, 4, None, true, true), Ok(()));
    }

    #[test]
    fn an_inner_line_is_refilled_from_a_stale_outer_one() {
        let mut caches = caches(true);
        caches.access(BASE, 4, None, true, true).unwrap();
        caches.device_write(BASE, &[0x33; 4]).unwrap();
        caches.issue(Maintain::Invalidate, BASE);
        caches.complete(&mut |_| Ok(())).unwrap();
        caches.access(BASE, 1, None, true, true).unwrap_err();
        caches.order_line(Maintain::Invalidate, BASE);
        caches.complete(&mut |_| Ok(())).unwrap();
        caches.access(BASE, 1, None, true, true).unwrap_err();
        caches.issue(Maintain::Invalidate, BASE);
        caches.complete(&mut |_| Ok(())).unwrap();
        assert_eq!(caches.access(BASE, 1, None, true, true), Ok(()));
    }

    #[test]
    fn an_uncached_access_meets_a_line() {
        let mut caches = caches(true);
        caches.access(BASE, 4, None, true, true).unwrap();
        caches.issue(Maintain::Invalidate, BASE);
        caches.complete(&mut |_| Ok(())).unwrap();
        let met = Err((Rule::UncachedWhileCached { level: 2 }, BASE));
        assert_eq!(caches.access(BASE, 4, None, false, true), met, "the outer level still holds it");
        caches.order_line(Maintain::Invalidate, BASE);
        caches.complete(&mut |_| Ok(())).unwrap();
        assert_eq!(caches.access(BASE, 4, None, false, true), Ok(()));
    }

    #[test]
    fn a_device_may_not_write_over_a_dirty_line() {
        let mut caches = caches(false);
        store(&mut caches, 1);
        assert_eq!(caches.device_write(BASE + 8, &[0]), Err((Rule::DeviceWritesOverDirty { buffered: false }, BASE)));
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

    fn done(caches: &mut Caches) {
        caches.complete(&mut |_| Ok(())).unwrap();
    }

    fn put_past(caches: &mut Caches, pa: u32, value: u32) {
        caches.access(pa, 4, Some(value.into()), false, true).unwrap();
        let at = (pa - BASE) as usize;
        caches.memory.put(at, &value.to_le_bytes());
    }

    #[test]
    fn a_write_past_the_caches_reaches_a_device_after_a_barrier() {
        for model in ["a9", "a8", "a9-pl310"] {
            let mut caches = caches_of(model);
            put_past(&mut caches, BASE, 1);
            let buffered = Err((Rule::DeviceReadsStale { buffered: true }, BASE));
            assert_eq!(caches.device_read(BASE, 4, true), buffered);
            assert_eq!(caches.device_read(BASE, 4, false), Ok(0x1111_1111), "one that only looks finds the old");
            let over = Err((Rule::DeviceWritesOverDirty { buffered: true }, BASE));
            assert_eq!(caches.device_write(BASE, &[0; 8]), over);
            assert_eq!(caches.access(BASE, 4, None, false, true), Ok(()), "the core sees its own writes");
            done(&mut caches);
            if model == "a9-pl310" {
                assert_eq!(caches.device_read(BASE, 4, true), buffered, "it waits in the controller");
                caches.order_sync();
                assert_eq!(caches.device_read(BASE, 4, true), buffered, "the store of the order may be late");
                done(&mut caches);
            }
            assert_eq!(caches.device_read(BASE, 4, true), Ok(1), "{model}");
        }
    }

    #[test]
    fn what_the_controller_cleans_waits_for_a_sync() {
        let mut caches = caches(true);
        store(&mut caches, 2);
        caches.issue(Maintain::Clean, BASE);
        done(&mut caches);
        caches.order_line(Maintain::Clean, BASE);
        done(&mut caches);
        assert_eq!(caches.device_read(BASE, 4, true), Err((Rule::DeviceReadsStale { buffered: true }, BASE)));
        caches.order_sync();
        done(&mut caches);
        assert_eq!(caches.device_read(BASE, 4, true), Ok(2));
    }

    #[test]
    fn a_dmb_orders_writes_past_the_caches_and_nothing_else_does() {
        let mut caches = caches(false);
        put_past(&mut caches, BASE, 1);
        put_past(&mut caches, BASE + 64, 2);
        caches.drain(1);
        assert_eq!(caches.device_read(BASE, 4, false), Ok(0x1111_1111), "the later one went first");
        caches.fence();
        put_past(&mut caches, BASE + 128, 3);
        caches.drain(1);
        assert_eq!(caches.device_read(BASE, 4, true), Ok(1), "what was before the DMB went before");
    }

    #[test]
    fn a_load_may_be_early_until_a_barrier() {
        let (mut old, mut early) = (0, 0);
        for seed in 0..100 {
            let mut caches = Caches::new(crate::model::find("a9").unwrap(), 2 << 12, seed, 1 << 30);
            caches.device_write(BASE, &[7; 4]).unwrap();
            // It polls, and what it finds may be old; that is no bug.
            old += u32::from(caches.load(0, 4).unwrap());
            caches.device_write(BASE + 64, &[7; 4]).unwrap();
            caches.know();
            early += u32::from(caches.access(BASE + 64, 4, None, false, true) == Err((Rule::EarlyLoad, BASE + 64)));
            caches.fence();
            assert_eq!(caches.access(BASE + 64, 4, None, false, true), Ok(()));
            assert_eq!(caches.word(BASE + 64, false), 0x0707_0707);
        }
        assert!((10..60).contains(&old) && (30..70).contains(&early), "{old} {early}");
    }

    #[test]
    fn an_integrated_level_is_maintained_by_address_to_the_point_of_coherency_only() {
        let mut caches = caches_of("a8");
        store(&mut caches, 2);
        caches.issue(Maintain::CleanToUnification, BASE);
        done(&mut caches);
        assert_eq!(caches.unified_word(BASE), 2, "a walk sees it");
        let stale = Err((Rule::DeviceReadsStale { buffered: false }, BASE));
        assert_eq!(caches.device_read(BASE, 4, true), stale, "a device does not");
        caches.issue(Maintain::Clean, BASE);
        done(&mut caches);
        assert_eq!(caches.device_read(BASE, 4, true), Ok(2));
        caches.issue(Maintain::Invalidate, BASE);
        done(&mut caches);
        assert_eq!(caches.access(BASE, 4, None, false, true), Ok(()), "no level holds it");
        // Lines are of 64 bytes.
        store(&mut caches, 3);
        assert_eq!(caches.access(BASE + 60, 4, None, false, true), Err((Rule::UncachedWhileCached { level: 1 }, BASE)));
    }
}
