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
//! With several cores, [`inner`] has who holds which line, and [`stores`] when a core sees what another stored.
//!
//! Each level has its own copy of memory; behind the last is `memory`, as the core sees it past the caches, and `dram`,
//! as bus masters see it: they differ by what is buffered. Copies of lines a level does not hold equal the next
//! level's, so that a fill changes a state and nothing else. A further copy, `ideal`, is what a coherent machine would
//! hold: a read that differs from it is stale. Rules are also judged by state, because a stale byte often equals the
//! fresh one.

mod inner;
mod stores;

use crate::model::{Model, Outer};
use crate::report::Rule;
use inner::Inner;
use std::collections::VecDeque;
use stores::{Late, Store};

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

/// A bus master that writes. Its writes are in order with each other, and with no other master's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Master {
    /// The disk.
    Disk,
    /// The half of the network controller that receives.
    Receiver,
    /// The half that sends.
    Transmitter,
    /// A channel of the DMA controller.
    Channel(u8),
}

impl Master {
    /// The disk, two halves of a network controller and eight channels.
    const COUNT: usize = 3 + 8;

    const fn index(self) -> usize {
        match self {
            Self::Disk => 0,
            Self::Receiver => 1,
            Self::Transmitter => 2,
            Self::Channel(n) => 3 + (n % 8) as usize,
        }
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

/// The most cores of any model.
pub const CORES_MAX: usize = 4;

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

/// Where table walks read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walk {
    /// In the core's caches, as loads do.
    Cached,
    /// At the point of unification, behind the inner cache.
    Unified,
    /// Behind all caches.
    Memory,
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

/// What an operation of a core works on.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// The line, in every cache that the operation reaches.
    Line(usize),
    /// Whatever lines the core's own first level has there.
    SetWay { set: u32, way: u32 },
}

/// An operation that is under way.
#[derive(Clone, Copy, Debug)]
struct Issued {
    core: usize,
    operation: Maintain,
    target: Target,
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
    /// The core, and how many DMBs it had executed, if it is a core's: an older one of it goes first where these
    /// differ.
    fence: Option<(usize, u32)>,
    /// Its place in the order in which these came, and that of the last one before its core's last DMB: those that
    /// another core's DMB may have observed go before what follows that (ARM ARM A3.8.3).
    id: u64,
    after: u64,
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
    by: Master,
    /// How many writes of this master there were, with this one.
    number: u64,
    /// Loads of it are early: they find what was there before.
    early: bool,
}

impl Fresh {
    const fn overlaps(&self, at: usize, len: usize) -> bool {
        self.at < at + len && at < self.at + self.len
    }
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
    /// An operation by set and way took effect.
    DoneBySet(Maintain),
    /// A core got the line from another one that had it dirty, and has it dirty now.
    Moved,
    /// The same, and both have it clean: it was written to the next level.
    Shared,
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
    /// RAM as the cores see it through cacheable mappings, once their stores are performed.
    cpu: View,
    /// Where there are several, the same as each of them sees it: with its own stores, and without those of others that
    /// it does not see yet.
    views: Vec<View>,
    /// And past the caches.
    past: Vec<View>,
    /// Each core's in order.
    stores: Vec<Store>,
    /// In the order in which they were performed.
    late: Vec<Late>,
    /// The store under way is one of the exclusive kind, which is performed at once.
    pub atomic: bool,
    outer: Option<View>,
    /// RAM as the CPU sees it past the caches.
    memory: View,
    /// RAM as bus masters see it.
    dram: View,
    ideal: View,
    inner: Inner,
    outer_state: Vec<u8>,
    outer_on: bool,
    queue: Vec<Issued>,
    /// Orders of each core to the outer controller that it has not taken, in order.
    orders: VecDeque<(usize, Order)>,
    /// An operation by way, which goes on by itself.
    background: Option<Maintain>,
    buffered: Vec<Buffered>,
    fences: [u32; CORES_MAX],
    /// Writes that were buffered, and how many were at each core's last DMB.
    writes: u64,
    fenced: [u64; CORES_MAX],
    /// Where each master looks for work, and whether a write has arrived there that it did not look at.
    polled: [Option<usize>; Master::COUNT],
    rung: bool,
    fresh: VecDeque<Fresh>,
    /// Writes of each master, and of these how many the CPU knows of: it read the last of them, or was told of it.
    device_writes: [u64; Master::COUNT],
    known: [[u64; Master::COUNT]; CORES_MAX],
    /// Lines lately maintained or accessed uncached.
    recent: [u32; 64],
    next_recent: usize,
    /// How often a frame of RAM may be in each core's TLB with a cacheable translation.
    cacheable: Vec<[u16; CORES_MAX]>,
    /// How often it may be in any with another one.
    uncacheable: Vec<u16>,
    random: Random,
    period: u32,
    until_next: u32,
    /// The line whose events are wanted.
    pub watch: Option<u32>,
    /// The events of the watched line, each with its core and the address of the instruction under way.
    pub events: Vec<(usize, u32, Event)>,
    /// The instruction under way.
    pub pc: u32,
    /// Whose it is.
    pub core: usize,
    cores: usize,
    /// The line that each core's exclusive monitor has marked, and whether the load under way marks one.
    monitors: [Option<usize>; CORES_MAX],
    marks: bool,
    /// A bit for each core whose first level is snooped, and for each that has its maintenance broadcast.
    coherent: u8,
    broadcasts: u8,
    /// Sets and ways of a core's first level.
    sets: u32,
    ways: u32,
}

impl Caches {
    /// RAM of `bytes` with what it held at power-on, nothing cached. `period` is the mean number of accesses between
    /// two moves of the adversary.
    pub fn new(model: &Model, bytes: u32, seed: u64, period: u32) -> Self {
        let size = bytes as usize;
        let lines = size / model.core.line as usize;
        let mut random = Random::new(seed);
        let two = model.outer != Outer::None;
        let own = || (0..if model.cores > 1 { model.cores } else { 0 }).map(|_| View::new(size));
        Self {
            base: model.ram,
            line: model.core.line as usize,
            kind: model.outer,
            salt: random.next(),
            ready: vec![false; size / FRAME],
            cpu: View::new(size),
            views: own().collect(),
            past: own().collect(),
            stores: Vec::new(),
            late: Vec::new(),
            atomic: false,
            outer: two.then(|| View::new(size)),
            memory: View::new(size),
            dram: View::new(size),
            ideal: View::new(size),
            inner: Inner::new(lines, FRAME / model.core.line as usize),
            outer_state: vec![0; if two { lines } else { 0 }],
            outer_on: model.outer == Outer::Integrated,
            queue: Vec::new(),
            orders: VecDeque::new(),
            background: None,
            buffered: Vec::new(),
            fences: [0; CORES_MAX],
            writes: 0,
            fenced: [0; CORES_MAX],
            polled: [None; Master::COUNT],
            rung: false,
            fresh: VecDeque::new(),
            device_writes: [0; Master::COUNT],
            known: [[0; Master::COUNT]; CORES_MAX],
            recent: [0; 64],
            next_recent: 0,
            cacheable: vec![[0; CORES_MAX]; size / FRAME],
            uncacheable: vec![0; size / FRAME],
            random,
            period,
            until_next: period,
            watch: None,
            events: Vec::new(),
            pc: 0,
            core: 0,
            cores: model.cores,
            monitors: [None; CORES_MAX],
            marks: false,
            // A single core's is coherent with itself whatever it says.
            coherent: u8::from(model.cores == 1),
            broadcasts: u8::from(model.cores == 1),
            sets: model.core.sets,
            ways: model.core.ways,
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
        for copy in [&mut self.cpu, &mut self.memory, &mut self.dram, &mut self.ideal]
            .into_iter()
            .chain(&mut self.outer)
            .chain(&mut self.views)
            .chain(&mut self.past)
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

    /// Host addresses of a core's copies, through the caches and past them, for its emulator to map.
    pub fn hosts(&mut self, core: usize) -> (*mut u8, *mut u8) {
        let (cpu, memory) = match (self.views.get_mut(core), self.past.get_mut(core)) {
            (Some(view), Some(past)) => (view, past),
            _ => (&mut self.cpu, &mut self.memory),
        };
        (cpu.all_mut().as_mut_ptr(), memory.all_mut().as_mut_ptr())
    }

    /// What the core whose turn it is sees, through the caches or past them.
    fn view(&self, cacheable: bool) -> &View {
        let (views, shared) = if cacheable { (&self.views, &self.cpu) } else { (&self.past, &self.memory) };
        views.get(self.core).unwrap_or(shared)
    }

    /// A word as the core reads it whose turn it is.
    pub fn read_word(&mut self, pa: u32, cacheable: bool) -> u32 {
        self.look_at(pa);
        self.word_of(self.view(cacheable), pa)
    }

    /// A word as all cores read it once stores are performed.
    pub fn word(&mut self, pa: u32, cacheable: bool) -> u32 {
        self.look_at(pa);
        self.word_of(if cacheable { &self.cpu } else { &self.memory }, pa)
    }

    /// A word as a table walk reads it.
    pub fn walked_word(&mut self, pa: u32, walk: Walk) -> u32 {
        self.look_at(pa);
        let copy = match walk {
            Walk::Cached => &self.cpu,
            Walk::Unified => self.outer.as_ref().unwrap_or(&self.memory),
            Walk::Memory => &self.memory,
        };
        self.word_of(copy, pa)
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

    /// A translation of the frame came to or left what a core's TLB may hold.
    pub fn count(&mut self, core: usize, pa: u32, cacheable: bool, more: bool) {
        let frame = (pa - self.base) as usize / FRAME;
        let count = if cacheable { &mut self.cacheable[frame][core] } else { &mut self.uncacheable[frame] };
        *count = if more { *count + 1 } else { *count - 1 };
    }

    /// Whether TLBs may hold both a cacheable translation of the frame and another.
    pub fn is_mismatched(&self, pa: u32) -> bool {
        let frame = (pa - self.base) as usize / FRAME;
        self.uncacheable[frame] > 0 && self.cacheable[frame].iter().any(|&count| count > 0)
    }

    /// Whether a core's TLB may hold a cacheable translation of the frame: the adversary speculates through it.
    fn speculates(&self, core: usize, pa: u32) -> bool {
        self.cacheable[(pa - self.base) as usize / FRAME][core] > 0
    }

    /// Whether a core's first level is snooped, and whether it has its maintenance broadcast, from here on.
    pub fn join(&mut self, core: usize, coherent: bool, broadcasts: bool) {
        let put = |mask: &mut u8, on: bool| *mask = *mask & !(1 << core) | u8::from(on) << core;
        put(&mut self.coherent, coherent);
        put(&mut self.broadcasts, coherent && broadcasts);
    }

    /// Whether an operation of one core reaches another.
    pub const fn reaches(&self, from: usize, to: usize) -> bool {
        from == to || self.broadcasts & 1 << from != 0 && self.coherent & 1 << to != 0
    }

    /// Whether a core's first level is snooped: if not it does not hold Shareable lines.
    pub const fn is_coherent(&self, core: usize) -> bool {
        self.coherent & 1 << core != 0
    }

    fn index(&self, pa: u32) -> usize {
        (pa - self.base) as usize / self.line
    }

    fn pa(&self, line: usize) -> u32 {
        self.base + (line * self.line) as u32
    }

    fn note(&mut self, line: usize, event: Event) {
        self.note_of(self.core, line, event);
    }

    fn note_of(&mut self, core: usize, line: usize, event: Event) {
        if self.watch == Some(self.pa(line)) {
            self.events.push((core, self.pc, event));
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

    /// A core's cache gets the line, from another one if that has it.
    fn fill(&mut self, core: usize, line: usize) {
        if self.inner.is_held_by(core, line) {
            return;
        }
        if self.inner.is_dirty(line) {
            if self.random.below(2) == 0 {
                self.note_of(core, line, Event::Moved);
                self.inner.own(core, line);
                return;
            }
            self.note_of(core, line, Event::Shared);
            self.write_back_inner(line);
        } else if !self.inner.is_held(line) {
            self.fill_outer(line);
        }
        self.inner.share(core, line);
    }

    fn fill_outer(&mut self, line: usize) {
        if self.outer_on && self.outer_state[line] == State::Absent as u8 {
            self.outer_state[line] = State::Clean as u8;
        }
    }

    fn write_back_inner(&mut self, line: usize) {
        self.settle(line * self.line, self.line);
        let bytes = self.bytes_of(&self.cpu, line);
        if let Some(outer) = &mut self.outer {
            outer.put(line * self.line, &bytes[..self.line]);
        }
        if self.outer_on {
            self.outer_state[line] = State::Dirty as u8;
        } else {
            self.write_memory(line, &bytes, false);
        }
        self.inner.clean(line);
    }

    fn write_back_outer(&mut self, line: usize, late: bool) {
        let bytes = self.bytes_of(self.outer.as_ref().expect("an outer cache"), line);
        self.write_memory(line, &bytes, late);
        self.outer_state[line] = State::Clean as u8;
    }

    /// A line goes to memory; what was buffered for it went before. `late`: it may wait in the controller.
    fn write_memory(&mut self, line: usize, bytes: &[u8; LINE_MAX], late: bool) {
        let at = line * self.line;
        self.see_line(line);
        while let Some(n) = self.buffered.iter().position(|one| one.overlaps(at, self.line)) {
            self.drain(n);
        }
        self.put_past(at, &bytes[..self.line]);
        if late {
            self.buffer(at, *bytes, self.line, None);
        } else {
            self.dram.put(at, &bytes[..self.line]);
        }
    }

    /// One core drops it.
    fn leave_inner(&mut self, core: usize, line: usize) {
        self.settle(line * self.line, self.line);
        self.inner.leave(core, line);
        if !self.inner.is_held(line) {
            self.refresh(line);
        }
    }

    /// No core holds the line: the copy is the next level's.
    fn refresh(&mut self, line: usize) {
        self.see_line(line);
        let bytes = self.bytes_of(self.outer.as_ref().unwrap_or(&self.memory), line);
        self.put_cached(line * self.line, &bytes[..self.line]);
    }

    /// Writes what all cores see through cacheable mappings.
    fn put_cached(&mut self, at: usize, bytes: &[u8]) {
        self.settle(at, bytes.len());
        self.cpu.put(at, bytes);
        self.views.iter_mut().for_each(|view| view.put(at, bytes));
    }

    fn drop_outer(&mut self, line: usize) {
        self.outer_state[line] = State::Absent as u8;
        self.see_line(line);
        let bytes = self.bytes_of(&self.memory, line);
        if let Some(outer) = &mut self.outer {
            outer.put(line * self.line, &bytes[..self.line]);
        }
        if !self.inner.is_held(line) {
            self.put_cached(line * self.line, &bytes[..self.line]);
        }
    }

    // --- write buffers ----------------------------------------------------------------------------------------------

    /// A write waits on its way to DRAM: one of a core, with its fence, or one of the outer controller.
    fn buffer(&mut self, at: usize, bytes: [u8; LINE_MAX], len: usize, fence: Option<(usize, u32)>) {
        if self.buffered.len() == BUFFERED_MAX {
            self.drain(0);
        }
        self.writes += 1;
        let after = fence.map_or(0, |(core, _)| self.fenced[core]);
        self.buffered.push(Buffered { at, bytes, len, fence, id: self.writes, after, outside: fence.is_none() });
    }

    /// One buffered write reaches DRAM, after those that must go before it: older ones of the same bytes, and those
    /// that a DMB stands between. Says how many went.
    fn drain(&mut self, mut n: usize) -> usize {
        let mut gone = 1;
        let (at, len, fence) = (self.buffered[n].at, self.buffered[n].len, self.buffered[n].fence);
        let after = self.buffered[n].after;
        let fenced = |one: &Buffered| match (one.fence, fence) {
            (Some((core, before)), Some((other, now))) => {
                if core == other {
                    before < now
                } else {
                    one.id <= after
                }
            }
            _ => false,
        };
        let before = |one: &Buffered| one.overlaps(at, len) || fenced(one);
        while let Some(first) = self.buffered[..n].iter().position(before) {
            let went = self.drain(first);
            (n, gone) = (n - went, gone + went);
        }
        let one = self.buffered.remove(n);
        self.dram.put(one.at, &one.bytes[..one.len]);
        self.note(one.at / self.line, Event::Drained);
        self.rung |= self.polled.iter().flatten().any(|&at| one.overlaps(at, 1));
        gone
    }

    /// What is buffered for any of these bytes.
    fn is_buffered(&self, at: usize, len: usize) -> bool {
        self.buffered.iter().any(|one| one.overlaps(at, len))
    }

    /// DMB: buffered writes go before later ones. If it orders `loads` too, none that follows is early for what a
    /// device wrote before.
    pub fn fence(&mut self, loads: bool) {
        self.fences[self.core] += 1;
        self.fenced[self.core] = self.writes;
        self.show_all(self.core);
        if !loads {
            return;
        }
        while let Some(one) = self.fresh.pop_front() {
            self.see(one.at, one.len);
        }
    }

    /// Loads of these bytes find what is there: DRAM, and what the core buffered since. So do those of whatever else a
    /// device wrote with any of them.
    fn see(&mut self, at: usize, len: usize) {
        let (mut from, mut to) = (at, at + len);
        for one in self.fresh.iter_mut().filter(|one| one.overlaps(at, len)) {
            one.early = false;
            (from, to) = (from.min(one.at), to.max(one.at + one.len));
        }
        self.memory.all_mut()[from..to].copy_from_slice(&self.dram.all()[from..to]);
        for one in self.buffered.iter().filter(|one| one.overlaps(from, to - from)) {
            self.memory.put(one.at, &one.bytes[..one.len]);
        }
        for core in 0..self.past.len() {
            self.show(core, from, to - from);
            self.past[core].all_mut()[from..to].copy_from_slice(&self.memory.all()[from..to]);
            self.show_own(core, from, to - from);
        }
    }

    /// The same of a whole line.
    fn see_line(&mut self, line: usize) {
        self.see(line * self.line, self.line);
    }

    /// The CPU was told that this master's writes so far are done.
    pub const fn know(&mut self, master: Master) {
        self.known[self.core][master.index()] = self.device_writes[master.index()];
    }

    /// A load past the caches, of what a device may just have written. Whether it is early.
    fn load(&mut self, at: usize, len: usize) -> Result<bool, (Rule, u32)> {
        let overlaps = |one: &&Fresh| one.overlaps(at, len);
        let known = self.known[self.core];
        let mut early = self.fresh.iter().filter(overlaps).filter(|one| one.early).peekable();
        if early.peek().is_some() {
            if early.any(|one| one.number <= known[one.by.index()]) {
                return Err((Rule::EarlyLoad, self.pa(at / self.line)));
            }
            if self.random.below(2) == 0 {
                return Ok(true);
            }
            self.see(at, len);
        }
        for one in self.fresh.iter().filter(overlaps) {
            let known = &mut self.known[self.core][one.by.index()];
            *known = one.number.max(*known);
        }
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
        self.queue.push(Issued { core: self.core, operation, target: Target::Line(line) });
    }

    /// Issues an operation by set and way (ARM ARM B4.2.1), on the first level of the core that executes it.
    pub fn issue_by_set(&mut self, operation: Maintain, word: u32) {
        if self.inner.of_all[self.core] == 0 || (word >> 1) & 7 != 0 {
            return;
        }
        self.tick();
        let set = (word >> self.line.trailing_zeros()) & (self.sets - 1);
        let way = if self.ways > 1 { word >> (32 - self.ways.trailing_zeros()) } else { 0 };
        self.queue.push(Issued { core: self.core, operation, target: Target::SetWay { set, way } });
    }

    /// Everything that this core issued is done.
    pub fn perform_all(&mut self) {
        let core = self.core;
        for n in 0..self.queue.len() {
            if self.queue[n].core == core {
                self.perform(self.queue[n]);
            }
        }
        self.queue.retain(|one| one.core != core);
    }

    /// DSB: everything issued is done, the outer controller has taken its orders, and the core's buffers are empty.
    /// What they held is in DRAM, or with an outer controller in its buffers. That takes its time: a device may `look`
    /// in the middle of it.
    pub fn complete(&mut self, look: &mut Look<'_>) -> Result<(), (Rule, u32)> {
        let core = self.core;
        self.perform_stores(core);
        self.perform_all();
        while let Some(n) = self.orders.iter().position(|&(by, _)| by == core)
            && let Some((_, order)) = self.orders.remove(n)
        {
            self.obey(order, look)?;
        }
        self.fence(true);
        // Those of other cores too: this one may have observed them.
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

    /// This master looks for work at `pa`, or nowhere.
    pub fn poll(&mut self, master: Master, pa: Option<u32>) {
        self.polled[master.index()] = pa.filter(|&pa| self.has(pa)).map(|pa| (pa - self.base) as usize);
    }

    /// Whether a write has arrived there since this was last asked.
    #[inline]
    pub const fn is_rung(&mut self) -> bool {
        core::mem::replace(&mut self.rung, false)
    }

    fn perform(&mut self, Issued { core, operation, target }: Issued) {
        let drops = matches!(operation, Maintain::Invalidate | Maintain::Flush);
        match target {
            Target::Line(line) => {
                self.note_of(core, line, Event::Done(operation));
                self.settle(line * self.line, self.line);
                let reached = |inner: &Self, to| inner.inner.is_held_by(to, line) && inner.reaches(core, to);
                if operation != Maintain::Invalidate
                    && self.inner.is_dirty(line)
                    && (0..self.cores).any(|to| reached(self, to))
                {
                    self.write_back_inner(line);
                }
                // The integrated level is part of the core: operations by address to the point of coherency go through
                // both.
                if self.kind == Outer::Integrated && operation != Maintain::CleanToUnification {
                    self.outer_operation(operation, line);
                }
                if drops {
                    for to in 0..self.cores {
                        if self.reaches(core, to) {
                            self.inner.leave(to, line);
                        }
                    }
                    if !self.inner.is_held(line) {
                        self.refresh(line);
                    }
                }
            }
            Target::SetWay { set, way } => {
                for line in self.inner.of_set(core, set as usize, self.sets as usize) {
                    if self.way_of(line) != way {
                        continue;
                    }
                    self.interesting(line);
                    self.note_of(core, line, Event::DoneBySet(operation));
                    if operation != Maintain::Invalidate && self.inner.is_dirty(line) {
                        self.write_back_inner(line);
                    }
                    if drops {
                        self.leave_inner(core, line);
                    }
                }
            }
        }
    }

    /// The way that a line is in wherever it is held: any, and always the same.
    const fn way_of(&self, line: usize) -> u32 {
        ((line as u32 ^ self.salt).wrapping_mul(0x9e37_79b9) >> 16) % self.ways
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
            self.orders.push_back((self.core, Order::Line(operation, line)));
        }
    }

    /// A store to the outer controller: empty the buffers.
    pub fn order_sync(&mut self) {
        self.orders.push_back((self.core, Order::Sync));
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

    // --- exclusive monitors -----------------------------------------------------------------------------------------

    /// The next load of this core marks its line.
    pub const fn mark(&mut self) {
        self.marks = true;
    }

    /// The mark of this core is gone, whether or not it had one: it stored, or gave it up. Whether it had one.
    pub const fn unmark(&mut self) -> bool {
        self.marks = false;
        self.monitors[self.core].take().is_some()
    }

    /// A store to a line takes the marks of all other cores (ARM ARM A3.4.2).
    fn unmark_others(&mut self, by: usize, line: usize) {
        for (_, monitor) in self.monitors.iter_mut().enumerate().filter(|&(core, _)| core != by) {
            if *monitor == Some(line) {
                *monitor = None;
            }
        }
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
                self.fill(self.core, line);
                if value.is_some() {
                    self.inner.own(self.core, line);
                }
            } else {
                self.interesting(line);
                self.note(line, Event::Uncached { write: value.is_some() });
                // With translation off a core only reads what was put into memory for it: another may have read it too.
                if !buffered && value.is_none() {
                    continue;
                }
                if self.inner.is_held(line) {
                    return Err((Rule::UncachedWhileCached { level: 1 }, self.pa(line)));
                }
                if self.outer_on && self.outer_state[line] != State::Absent as u8 {
                    return Err((Rule::UncachedWhileCached { level: 2 }, self.pa(line)));
                }
            }
        }
        let at = (pa - self.base) as usize;
        if self.cores > 1 {
            self.move_stores();
            if value.is_some() && !cacheable {
                // At once, though it may be performed later: to lose a mark does no harm.
                (first..=last).for_each(|line| self.unmark_others(self.core, line));
            } else if value.is_none() && core::mem::take(&mut self.marks) {
                self.show(self.core, at, size as usize);
                self.monitors[self.core] = Some(first);
            }
        }
        let range = at..at + size as usize;
        if let Some(value) = value {
            let value = value.to_le_bytes();
            let bytes = &value[..size as usize];
            // Without translation memory is Strongly-ordered.
            if self.cores > 1 && (cacheable || buffered) {
                self.store(at, bytes, cacheable);
                return Ok(());
            }
            self.ideal.put(at, bytes);
            if !cacheable {
                // Not held anywhere, as just checked: every copy equals memory, which the emulator writes next.
                self.put_cached(at, bytes);
                if let Some(outer) = &mut self.outer {
                    outer.put(at, bytes);
                }
                if self.cores > 1 {
                    self.put_past(at, bytes);
                }
                if buffered {
                    let mut line = [0; LINE_MAX];
                    line[..bytes.len()].copy_from_slice(bytes);
                    self.buffer(at, line, bytes.len(), Some((self.core, self.fences[self.core])));
                } else {
                    self.dram.put(at, bytes);
                }
            }
            return Ok(());
        }
        if !cacheable && !self.fresh.is_empty() && self.load(at, size as usize)? {
            return Ok(());
        }
        if self.view(cacheable).all()[range.clone()] != self.ideal.all()[range]
            && !self.is_early(self.core, at, size as usize)
        {
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
        if told && let Some(cacheable) = self.is_stored(at, size as usize) {
            return Err((Rule::DeviceReadsStale { buffered: !cacheable }, self.pa(line)));
        }
        if buffered && told || !buffered && *bytes != self.ideal.all()[range] {
            return Err((Rule::DeviceReadsStale { buffered }, self.pa(line)));
        }
        let mut word = [0; 4];
        word[..size as usize].copy_from_slice(bytes);
        Ok(u32::from_le_bytes(word))
    }

    /// A bus master writes.
    pub fn device_write(&mut self, master: Master, pa: u32, bytes: &[u8]) -> Result<(), (Rule, u32)> {
        let mut done = 0;
        while done < bytes.len() {
            let pa = pa + done as u32;
            let len = (self.line - pa as usize % self.line).min(bytes.len() - done);
            if self.has(pa) {
                self.device_write_line(master, pa, &bytes[done..done + len])?;
            }
            done += len;
        }
        Ok(())
    }

    fn device_write_line(&mut self, master: Master, pa: u32, bytes: &[u8]) -> Result<(), (Rule, u32)> {
        self.look_at(pa);
        let (line, at, len) = (self.index(pa), (pa - self.base) as usize, bytes.len());
        self.interesting(line);
        self.note(line, Event::Device { write: true });
        let outer_state = if self.outer_on { self.outer_state[line] } else { State::Absent as u8 };
        let buffered = self.is_buffered(at, len);
        let stored = self.is_stored(at, len);
        let (dirty, buffered) = (self.inner.is_dirty(line) || stored == Some(true), buffered || stored == Some(false));
        if outer_state == State::Dirty as u8 || dirty || buffered {
            return Err((Rule::DeviceWritesOverDirty { buffered }, self.pa(line)));
        }
        self.dram.put(at, bytes);
        self.ideal.put(at, bytes);
        // Copies of levels that do not hold the line follow the next level's.
        if outer_state == State::Absent as u8 {
            if let Some(outer) = &mut self.outer {
                outer.put(at, bytes);
            }
            if !self.inner.is_held(line) {
                self.put_cached(at, bytes);
            }
        }
        let writes = &mut self.device_writes[master.index()];
        *writes += 1;
        let number = *writes;
        if self.fresh.len() == FRESH_MAX
            && let Some(oldest) = self.fresh.pop_front()
        {
            self.see(oldest.at, oldest.len);
        }
        let early = self.random.below(2) == 0;
        self.fresh.push_back(Fresh { at, len, by: master, number, early });
        if !early {
            self.see(at, len);
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
        let lines = self.inner.lines.len() as u32;
        let line = if self.random.below(4) < 3 && self.next_recent > 0 {
            let known = self.next_recent.min(self.recent.len()) as u32;
            let near = self.recent[self.random.below(known) as usize];
            (near + self.random.below(5)).saturating_sub(2).min(lines - 1)
        } else {
            self.random.below(lines)
        } as usize;
        let core = if self.cores > 1 { self.random.below(self.cores as u32) as usize } else { 0 };
        let speculates = self.speculates(core, self.pa(line)) && self.is_coherent(core);
        match self.random.below(10) {
            0..=2 if speculates => {
                self.note_of(core, line, Event::Filled(1));
                self.fill(core, line);
            }
            3 if speculates && self.outer_on => {
                self.note_of(core, line, Event::Filled(2));
                self.fill_outer(line);
            }
            4 | 5 if self.inner.is_held_by(core, line) => {
                let dirty = self.inner.is_dirty(line);
                self.note_of(core, line, Event::Evicted(1, dirty));
                if dirty {
                    self.write_back_inner(line);
                }
                self.leave_inner(core, line);
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
                let issued = self.queue.remove(one);
                self.perform(issued);
            }
            8 if !self.buffered.is_empty() => {
                let one = self.random.below(self.buffered.len() as u32) as usize;
                self.drain(one);
            }
            9 if !self.orders.is_empty() => {
                if let Some((_, order)) = self.orders.pop_front() {
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
            assert_eq!(caches.walked_word(BASE, Walk::Unified), 0x2222_2222);
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
        caches.device_write(Master::Disk, BASE, &[0x33; 64]).unwrap();
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
        caches.device_write(Master::Disk, BASE, &[0x33; 4]).unwrap();
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
        assert_eq!(
            caches.device_write(Master::Disk, BASE + 8, &[0]),
            Err((Rule::DeviceWritesOverDirty { buffered: false }, BASE))
        );
    }

    #[test]
    fn the_adversary_speculates_only_where_a_cacheable_translation_may_be_held() {
        let mut caches = caches(false);
        caches.period = 1;
        caches.until_next = 1;
        caches.count(0, BASE + 4096, true, true);
        for _ in 0..10_000 {
            caches.tick();
        }
        let held = |page: usize| caches.inner.lines[page * 128..][..128].iter().any(|&state| state != 0);
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
            assert_eq!(caches.device_write(Master::Disk, BASE, &[0; 8]), over);
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
        caches.fence(true);
        put_past(&mut caches, BASE + 128, 3);
        caches.drain(1);
        assert_eq!(caches.device_read(BASE, 4, true), Ok(1), "what was before the DMB went before");
    }

    #[test]
    fn a_load_may_be_early_until_a_barrier() {
        let (mut old, mut early) = (0, 0);
        for seed in 0..100 {
            let mut caches = Caches::new(crate::model::find("a9").unwrap(), 2 << 12, seed, 1 << 30);
            caches.device_write(Master::Disk, BASE, &[7; 4]).unwrap();
            // It polls, and what it finds may be old; that is no bug.
            old += u32::from(caches.load(0, 4).unwrap());
            caches.device_write(Master::Disk, BASE + 64, &[7; 4]).unwrap();
            caches.know(Master::Disk);
            early += u32::from(caches.access(BASE + 64, 4, None, false, true) == Err((Rule::EarlyLoad, BASE + 64)));
            caches.fence(true);
            assert_eq!(caches.access(BASE + 64, 4, None, false, true), Ok(()));
            assert_eq!(caches.word(BASE + 64, false), 0x0707_0707);
        }
        assert!((10..60).contains(&old) && (30..70).contains(&early), "{old} {early}");
    }

    /// What stands in one line need not be seen at once: two loads of it have no order.
    #[test]
    fn a_load_may_be_early_beside_one_that_is_not() {
        let told = (0..100).filter(|&seed| {
            let mut caches = Caches::new(crate::model::find("a9").unwrap(), 2 << 12, seed, 1 << 30);
            caches.device_write(Master::Disk, BASE, &[7; 4]).unwrap();
            caches.device_write(Master::Disk, BASE + 4, &[7; 4]).unwrap();
            // Until it is seen, as a driver polls.
            while caches.load(4, 4).unwrap() {}
            caches.access(BASE, 4, None, false, true) == Err((Rule::EarlyLoad, BASE))
        });
        let told = told.count();
        assert!((30..70).contains(&told), "{told}");
    }

    #[test]
    fn one_master_tells_nothing_of_another() {
        for seed in 0..100 {
            let mut caches = Caches::new(crate::model::find("a9").unwrap(), 2 << 12, seed, 1 << 30);
            caches.device_write(Master::Receiver, BASE, &[7; 4]).unwrap();
            caches.device_write(Master::Transmitter, BASE + 64, &[7; 4]).unwrap();
            caches.know(Master::Transmitter);
            caches.load(0, 4).unwrap();
        }
    }

    /// An index that counts up and is polled meanwhile.
    #[test]
    fn to_poll_what_is_written_again_is_no_bug() {
        for seed in 0..100 {
            let mut caches = Caches::new(crate::model::find("a9").unwrap(), 2 << 12, seed, 1 << 30);
            for value in 1..4 {
                caches.device_write(Master::Disk, BASE, &[value; 4]).unwrap();
                caches.load(0, 4).unwrap();
                caches.load(0, 4).unwrap();
            }
        }
    }

    #[test]
    fn a_dmb_for_stores_alone_leaves_loads_early() {
        let told = (0..100).filter(|&seed| {
            let mut caches = Caches::new(crate::model::find("a9").unwrap(), 2 << 12, seed, 1 << 30);
            caches.device_write(Master::Disk, BASE, &[7; 4]).unwrap();
            caches.know(Master::Disk);
            caches.fence(false);
            caches.access(BASE, 4, None, false, true).is_err()
        });
        assert!((30..70).contains(&told.count()));
    }

    #[test]
    fn an_integrated_level_is_maintained_by_address_to_the_point_of_coherency_only() {
        let mut caches = caches_of("a8");
        store(&mut caches, 2);
        caches.issue(Maintain::CleanToUnification, BASE);
        done(&mut caches);
        assert_eq!(caches.walked_word(BASE, Walk::Unified), 2, "a walk sees it");
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

    /// Two cores, both coherent, of which the second has the first line dirty with this in it.
    fn two(outer: bool, value: u32) -> Caches {
        let mut caches = caches_of(if outer { "a9x4-pl310" } else { "a9x2" });
        (0..2).for_each(|core| caches.join(core, true, true));
        caches.core = 1;
        caches.access(BASE, 4, Some(value.into()), true, true).unwrap();
        caches.views[1].all_mut()[..4].copy_from_slice(&value.to_le_bytes());
        done(&mut caches);
        (0..caches.cores).for_each(|core| caches.show_all(core));
        caches
    }

    /// All sets and ways of the core whose turn it is.
    fn by_set(caches: &mut Caches, operation: Maintain) {
        for way in 0..4 {
            (0..128).for_each(|set| caches.issue_by_set(operation, way << 30 | set << 5));
        }
        done(caches);
    }

    #[test]
    fn a_dirty_line_moves_or_is_cleaned_when_another_core_reads_it() {
        let (mut moved, mut shared) = (0, 0);
        for seed in 0..100 {
            let mut caches = two(false, 2);
            caches.random = Random::new(seed);
            caches.core = 0;
            assert_eq!(caches.access(BASE, 4, None, true, true), Ok(()));
            assert_eq!(caches.read_word(BASE, true), 2);
            match (caches.inner.is_dirty(0), caches.inner.is_held_by(0, 0), caches.inner.is_held_by(1, 0)) {
                (true, true, false) => moved += 1,
                (false, true, true) => shared += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(moved > 20 && shared > 20, "{moved} {shared}");
    }

    #[test]
    fn maintenance_by_address_reaches_every_core() {
        let mut caches = two(false, 2);
        caches.core = 0;
        caches.issue(Maintain::Clean, BASE);
        done(&mut caches);
        assert_eq!(caches.device_read(BASE, 4, true), Ok(2));
        caches.issue(Maintain::Invalidate, BASE);
        done(&mut caches);
        assert_eq!(caches.access(BASE, 4, None, false, true), Ok(()), "no core holds it");
    }

    /// What one core wrote, another saw, and a barrier of that core stands before what it tells.
    #[test]
    fn a_barrier_orders_what_its_core_observed() {
        for barrier in [false, true] {
            let mut caches = two(false, 2);
            let put = |caches: &mut Caches, core: usize, pa: u32| {
                caches.core = core;
                caches.access(pa, 4, Some(7), false, true).unwrap();
                caches.perform_stores(core);
            };
            put(&mut caches, 0, BASE + 64);
            if barrier {
                caches.core = 1;
                caches.fence(true);
            }
            put(&mut caches, 1, BASE + 128);
            caches.drain(1);
            let first = caches.device_read(BASE + 64, 4, false);
            assert_eq!(first, Ok(if barrier { 7 } else { 0x1111_1111 }));
        }
    }

    #[test]
    fn maintenance_is_local_where_it_is_not_broadcast() {
        let mut caches = two(false, 2);
        caches.core = 0;
        caches.join(0, true, false);
        caches.issue(Maintain::Flush, BASE);
        done(&mut caches);
        let stale = Err((Rule::DeviceReadsStale { buffered: false }, BASE));
        assert_eq!(caches.device_read(BASE, 4, true), stale);
        assert!(caches.inner.is_dirty(0));
    }

    #[test]
    fn operations_by_set_and_way_work_on_one_core() {
        let mut caches = two(true, 2);
        caches.core = 0;
        by_set(&mut caches, Maintain::Flush);
        assert!(caches.inner.is_dirty(0), "the other core's");
        caches.core = 1;
        by_set(&mut caches, Maintain::Clean);
        assert!(caches.inner.is_held_by(1, 0) && !caches.inner.is_dirty(0));
        by_set(&mut caches, Maintain::Flush);
        assert!(!caches.inner.is_held(0));
        assert_eq!(caches.outer_state[0], State::Dirty as u8, "the outer level has it now");
        assert_eq!(caches.walked_word(BASE, Walk::Unified), 2);
    }

    #[test]
    fn to_drop_lines_by_set_and_way_loses_what_they_hold() {
        let mut caches = two(false, 2);
        by_set(&mut caches, Maintain::Invalidate);
        let stale = Err((Rule::StaleRead { cacheable: true }, BASE));
        assert_eq!(caches.access(BASE, 4, None, true, true), stale);
    }

    #[test]
    fn one_set_or_one_way_is_not_all() {
        let mut caches = two(false, 2);
        let way = caches.way_of(0);
        for (set, other, left) in [(1, way, true), (0, way ^ 1, true), (0, way, false)] {
            caches.issue_by_set(Maintain::Flush, other << 30 | set << 5);
            done(&mut caches);
            assert_eq!(caches.inner.is_held(0), left, "set {set}, way {other}");
        }
    }
}
