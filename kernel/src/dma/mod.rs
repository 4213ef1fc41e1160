//! The DMA API: contiguous buffers in states, with the least maintenance that suffices.
//!
//! Guarantees: a buffer's frames have at most one mapping, with one attribute (I1), claimed in the ledger before it
//! is made and released after it is gone from every TLB (I3); while a device owns a buffer no value of this API names
//! its bytes and no mapping of them exists (I4); whoever gets a buffer finds zeros in it (I5). The lock is held over
//! updates of indexes, ledger and descriptors, never over zeroing, copying or cache work; a change of hands that maps and
//! unmaps nothing takes none.
//!
//! Any core may call anything here at any time, and so may interrupt handlers: the lock masks interrupts
//! ([`sync`](crate::sync)). What takes long takes long there too: making a buffer zeroes it, a hand-over maintains its
//! lines. Not for handlers are [`Dma::new`], making and ending contracts and pools, making borrowers and scatter tables,
//! which use the heap; [loans](loan), which may have to wait; and the audit, which walks all tables with interrupts masked.
//!
//! Nothing here prints or logs, and nothing but what was just named uses the heap. So all of it may be called under the
//! embedding kernel's locks of ranks 0 to 3, drops included, whatever rank its console has. A buffer that was lost is told
//! by [`Dma::next_quarantined`], which is there to be asked.

pub mod buffer;
pub mod contract;
pub mod loan;
pub mod master;
pub mod pool;
pub mod port;
pub mod scatter;
pub mod word;

use crate::addr::{Bytes, FRAME_SHIFT, Frame, FrameRange, VirtAddr};
use crate::arch::{Lines, Machine};
use crate::boot::directmap::CarveOut;
use crate::cma::area::{AllocError, Area, Taken};
use crate::cma::contract::SlotId;
use crate::heap::{collected, filled, room};
use crate::sync::{Lock, Rank};
use crate::vm::alias::Aliases;
use crate::vm::attr::{Access, MemoryType};
use crate::vm::audit::{Expect, Finding, Findings, Report, audit};
use crate::vm::layout::VirtRange;
use crate::vm::ledger::{Carved, Cell, Ledger, Residue};
use crate::vm::space::{Mapped, Region};
use crate::vm::window::{IMAGES, Images, image_sections};
use alloc::vec::Vec;
use buffer::{Body, Contiguous};
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use loan::{Lanes, Turns};
use master::{AreaId, Master};

/// Of a master whose area is another `Dma`'s.
const NOT_OURS: AllocError = AllocError::NoArea(Some("the one it has is another `Dma`'s"));

/// Buffers that can exist at a time.
pub const MAX_BUFFERS: usize = 1024;

/// Who may touch a buffer's bytes now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Holder {
    /// Allocated, in no state yet.
    Nobody,
    /// The CPU.
    Cpu,
    /// The device alone.
    Device,
    /// CPU and device, through non-cacheable memory.
    Both,
    /// Dropped while a device owned it: never reused.
    Quarantine,
}

impl Holder {
    const ALL: [Self; 5] = [Self::Nobody, Self::Cpu, Self::Device, Self::Both, Self::Quarantine];
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nobody => "allocated",
            Self::Cpu => "CPU-owned",
            Self::Device => "device-owned",
            Self::Both => "coherent",
            Self::Quarantine => "quarantined",
        })
    }
}

/// What is known of a buffer while it lives, at a moment that may have passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its frames.
    pub frames: FrameRange,
    /// Where it is mapped whenever it is; `None` before it is for the first time, and of a buffer for devices alone.
    pub va: Option<VirtAddr>,
    /// The device it was allocated for.
    pub owner: &'static str,
    /// Who may touch it.
    pub holder: Holder,
    /// Bytes asked for.
    pub bytes: u32,
    /// How many buffers were allocated before it, since boot: its age is how many came after.
    pub born: u64,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} buffer {} of {}", self.holder, self.frames, self.owner)
    }
}

/// Of a buffer, what the lock keeps.
#[derive(Debug)]
struct Kept {
    frames: FrameRange,
    va: Option<VirtAddr>,
    owner: &'static str,
    bytes: u32,
    born: u64,
    area: AreaId,
    /// The contract's slot it is in.
    slot: Option<SlotId>,
    ported: bool,
    /// It is in quarantine, and nobody was told.
    untold: bool,
}

/// Who may touch a buffer's bytes, and what the caches may hold of them: written by the buffer as it changes hands,
/// without the lock, read by reports and ports.
#[derive(Debug)]
struct Standing(AtomicU8);

impl Standing {
    const RESIDUES: [Residue; 4] = [Residue::Zeroed, Residue::Nothing, Residue::Clean, Residue::Dirty];

    const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    fn set(&self, holder: Holder, residue: Residue) {
        self.0.store((holder as u8) << 2 | residue as u8, Ordering::Release);
    }

    fn get(&self) -> (Holder, Residue) {
        let word = usize::from(self.0.load(Ordering::Acquire));
        (Holder::ALL[word >> 2], Self::RESIDUES[word & 3])
    }
}

/// A buffer's place among the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot(usize);

/// How long a mapping stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stay {
    /// The call that makes it ends it.
    InPassing,
    /// It outlasts the call.
    ToLast,
}

#[derive(Debug)]
enum Entry {
    Free {
        next: Option<Slot>,
    },
    /// An idle contract slot's.
    Promised,
    Used(Kept),
}

#[derive(Debug)]
struct State {
    areas: Vec<Area>,
    ledger: Ledger<'static>,
    window: Region<'static>,
    images: Images,
    entries: Vec<Entry>,
    /// Those of no buffer: as many as there are entries that no buffer has.
    bodies: Vec<&'static mut Body>,
    free: Option<Slot>,
    contracts: Vec<contract::Book>,
    lanes: Lanes,
    map_changes: u64,
    allocations: u64,
    unguarded: u64,
}

/// Why areas are not taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DmaError {
    /// The window has no room for the images of the carve-outs that it must hold.
    Window {
        /// Sections of 1 MiB that it has.
        given: u32,
        /// Sections that it must have.
        needed: u32,
        /// Sections that it must have where guards may be given up: [`Dma::sparing_guards`].
        least: u32,
    },
    /// The window for lent frames has no section.
    LoanWindow {
        /// Sections that it has.
        given: u32,
        /// Sections that it must have.
        needed: u32,
    },
    /// The heap has no room for the books of the carve-outs. What was taken of it is lost.
    Heap,
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window { given, needed, least } if needed == least => write!(
                f,
                "the window of the areas has {given} sections of 1 MiB; it needs {needed} to have each carved frame once"
            ),
            Self::Window { given, needed, least } => write!(
                f,
                "the window of the areas has {given} sections of 1 MiB; it needs {needed} for a guard on either side of \
                 every buffer, or {least} where guards may be given up"
            ),
            Self::LoanWindow { given, needed } => {
                write!(f, "the window of lent frames has {given} sections of 1 MiB; it needs {needed}")
            }
            Self::Heap => write!(f, "no heap left for the books of the carve-outs"),
        }
    }
}

/// Counters since boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Cache lines cleaned for buffers.
    pub cleaned: Lines,
    /// Cache lines invalidated for buffers.
    pub invalidated: Lines,
    /// Mappings made and ended.
    pub map_changes: u64,
    /// Bytes in quarantine.
    pub quarantined: u64,
    /// Buffers allocated.
    pub allocations: u64,
    /// Bytes zeroed before a new owner or a device got them (I5).
    pub zeroed: u64,
    /// Buffers that got addresses right beside another buffer's, without a page between: the window has too few images of
    /// the carve-outs. None where it has [`Dma::window_sections`].
    pub unguarded: u64,
    /// The most turns of the work lane that passed while a recall waited for its own: fewer than there are cores
    /// ([`loan`]).
    pub worst_wait: u32,
}

/// Lines, counted from anywhere.
#[derive(Debug, Default)]
struct LineCounter {
    inner: AtomicU64,
    outer: AtomicU64,
}

impl LineCounter {
    fn add(&self, lines: Lines) {
        self.inner.fetch_add(lines.inner, Ordering::Relaxed);
        self.outer.fetch_add(lines.outer, Ordering::Relaxed);
    }

    fn get(&self) -> Lines {
        Lines { inner: self.inner.load(Ordering::Relaxed), outer: self.outer.load(Ordering::Relaxed) }
    }
}

/// Of what [`Stats`] reads, what is counted without the lock.
#[derive(Debug, Default)]
struct Counters {
    cleaned: LineCounter,
    invalidated: LineCounter,
    quarantined: AtomicU64,
    /// Buffers in quarantine of which nobody was told: written under the lock.
    untold: AtomicU32,
    zeroed: AtomicU64,
}

/// What lies at an address in or near the carved memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a buffer's frames or addresses.
    Buffer(Record),
    /// The guard page after a buffer.
    Guard(Record),
    /// A frame of an area, lent to a borrower of that name.
    Lent(Frame, &'static str),
    /// A frame of an area that no buffer holds and nobody borrows.
    FreeFrame(Frame),
    /// An address of the window that no buffer has.
    UnusedWindow,
    /// Not to be told: another context holds the records.
    Busy,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Buffer(record) => write!(f, "{record}"),
            Self::Guard(record) => write!(f, "guard page of the {record}"),
            Self::Lent(frame, borrower) => write!(f, "carved frame {}, lent to {borrower}", frame.base()),
            Self::FreeFrame(frame) => write!(f, "free carved frame {}", frame.base()),
            Self::UnusedWindow => write!(f, "unused part of the CMA window"),
            Self::Busy => write!(f, "the CMA (its records are locked)"),
        }
    }
}

/// Areas, window and ledger: one for the whole machine.
#[derive(Debug)]
pub struct Dma<M: 'static> {
    machine: &'static M,
    state: Lock<State>,
    turns: Turns,
    window: VirtRange,
    guarded: bool,
    /// By [`Slot`].
    standings: Vec<Standing>,
    counters: Counters,
}

impl<M: Machine> Dma<M> {
    /// Takes over the carve-outs, the window they will be mapped in, and the one lent frames will be: of that a section
    /// is enough. `aliases` are the board's: by them refusals and the audit know second names of a frame. I1 does not rest on
    /// them, for what a [`CarveOut`] proves holds by every name. Metadata comes from the heap once, here.
    ///
    /// The window must have [`window_sections`](Self::window_sections): then each buffer has a guard on either side, for
    /// ever.
    ///
    /// # Panics
    ///
    /// If carve-outs overlap, are named by an alias, or are more than the ledger holds: each would break what a
    /// [`CarveOut`] proves.
    pub fn new(
        machine: &'static M,
        carved: impl Iterator<Item = CarveOut>,
        aliases: Aliases,
        window: Region<'static>,
        loans: Region<'static>,
    ) -> Result<Self, DmaError> {
        Self::with_images(machine, carved, aliases, window, loans, IMAGES)
    }

    /// Does the same with a window that may be too small for every guard: it must have each carved frame once. No
    /// allocation is refused for that: where a buffer's neighbours leave it no place with guards, it lies right beside
    /// one of them, and is counted in [`Stats::unguarded`].
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    pub fn sparing_guards(
        machine: &'static M,
        carved: impl Iterator<Item = CarveOut>,
        aliases: Aliases,
        window: Region<'static>,
        loans: Region<'static>,
    ) -> Result<Self, DmaError> {
        Self::with_images(machine, carved, aliases, window, loans, 1)
    }

    /// Takes over the carve-outs with a window that holds `least` images or more.
    fn with_images(
        machine: &'static M,
        carved: impl Iterator<Item = CarveOut>,
        aliases: Aliases,
        window: Region<'static>,
        loans: Region<'static>,
        least: u32,
    ) -> Result<Self, DmaError> {
        let full = |_| DmaError::Heap;
        let carved = collected(carved.map(Ok)).map_err(full)?;
        let ranges = || carved.iter().flat_map(|carved| carved.ranges().iter().copied());
        let (given, one) = (window.range().sections(), image_sections(ranges()));
        let needed = one.saturating_mul(least);
        let guarded = given >= one.saturating_mul(IMAGES);
        if given < needed {
            return Err(DmaError::Window { given, needed, least: one });
        }
        let (given, needed) = (loans.range().sections(), Lanes::SECTIONS);
        if given < needed {
            return Err(DmaError::LoanWindow { given, needed });
        }
        let cells = filled(Ledger::cells_needed(ranges()), Cell::default()).map_err(full)?.leak();
        let ledger = Ledger::new(ranges(), aliases, cells);
        let ledger = ledger.expect("disjoint carve-outs by their first names, no more than the ledger holds");
        let (images, range) = (Images::new(ranges(), window.range()), window.range());
        let entry = |n: usize| Entry::Free { next: (n + 1 < MAX_BUFFERS).then_some(Slot(n + 1)) };
        let (mut bodies, mut free_bodies) = (room(MAX_BUFFERS).map_err(full)?, room(MAX_BUFFERS).map_err(full)?);
        let (mut entries, mut standings) = (room(MAX_BUFFERS).map_err(full)?, room(MAX_BUFFERS).map_err(full)?);
        let areas = collected(carved.iter().map(Area::new)).map_err(full)?;
        bodies.extend((0..MAX_BUFFERS).map(|_| Body::vacant()));
        free_bodies.extend(bodies.leak());
        entries.extend((0..MAX_BUFFERS).map(entry));
        standings.extend((0..MAX_BUFFERS).map(|_| Standing::new()));
        let state = State {
            areas,
            ledger,
            window,
            images,
            entries,
            bodies: free_bodies,
            free: Some(Slot(0)),
            contracts: Vec::new(),
            lanes: Lanes::new(loans),
            map_changes: 0,
            allocations: 0,
            unguarded: 0,
        };
        let state = Lock::new(Rank::DMA, state);
        let turns = Turns::new();
        Ok(Self { machine, state, turns, window: range, guarded, standings, counters: Counters::default() })
    }

    /// Returns the sections of window that these carve-outs need for a guard on either side of every buffer: three images
    /// of them ([`window`](crate::vm::window)).
    pub fn window_sections<'c>(carved: impl Iterator<Item = &'c CarveOut>) -> u32 {
        image_sections(carved.flat_map(CarveOut::ranges).copied()).saturating_mul(IMAGES)
    }

    /// Returns the window that the areas' buffers are mapped in.
    pub const fn window(&self) -> VirtRange {
        self.window
    }

    /// Returns whether the window has room for a guard on either side of every buffer.
    pub const fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// The area of that name.
    pub fn area(&self, name: &str) -> Option<AreaId> {
        let state = self.state.lock();
        let place = state.areas.iter().position(|area| area.name() == name)?;
        Some(AreaId(place, state.window.id()))
    }

    /// Returns the area of that place among the carve-outs the machine was built with. Names need not be unique.
    pub fn area_at(&self, place: usize) -> Option<AreaId> {
        let state = self.state.lock();
        (place < state.areas.len()).then_some(AreaId(place, state.window.id()))
    }

    /// Bytes free in an area, and in its largest run.
    pub fn free_bytes(&self, area: AreaId) -> (u64, u64) {
        self.state.lock().area_mut(area).map_or((0, 0), |area| (area.free_bytes(), area.largest_run()))
    }

    /// Allocates `bytes`, rounded up to whole frames and physically contiguous, from the device's area and within its
    /// reach and shape. `align` is a power of two in bytes, at most [`MAX_ALIGN`](crate::cma::area::MAX_ALIGN), that the
    /// address which the device is told is a multiple of; 1 means a frame. The physical address is a multiple too, unless
    /// the device's `dma-ranges` shift memory by part of `align`: then such places are searched run by run.
    ///
    /// Where too little is idle, loans are recalled: that takes a bounded time (docs/src/loans.md) and never fails (I6).
    pub fn alloc(&'static self, master: &Master, bytes: u32, align: u32) -> Result<Contiguous<M>, AllocError> {
        // Dropped after the guard.
        let mut turn = None;
        let mut guard = self.state.lock();
        let area = master.area()?;
        let (slot, taken) = loop {
            let state = &mut *guard;
            let Some(slot) = state.free else { return Err(AllocError::TooManyBuffers { limit: MAX_BUFFERS }) };
            let Some(memory) = state.area_mut(area) else { return Err(NOT_OURS) };
            match memory.alloc(bytes, align, |run| master.places(run)) {
                // In this core's turn nobody has any in hand, so it is tried once more.
                Err(error) if error.is_of_room() && memory.has_in_hand() => {
                    drop(guard);
                    turn = Some(self.turns.wait());
                    guard = self.state.lock();
                }
                Err(error) => return Err(error.within(|| master.limits())),
                Ok(taken) => break (slot, taken),
            }
        };
        let state = &mut *guard;
        let Taken { frames, moves, .. } = taken;
        let residue = if taken.zeroed { Residue::Zeroed } else { state.ledger.residue(frames) };
        let Entry::Free { next } = state.entries[slot.0] else { unreachable!("the free list holds free entries") };
        state.free = next;
        let owner = master.name();
        let born = state.allocations;
        let kept = Kept { frames, va: None, owner, bytes, born, area, slot: None, ported: false, untold: false };
        let body = state.occupy(slot, kept);
        self.standings[slot.0].set(Holder::Nobody, residue);
        drop(guard);
        drop(turn);
        Ok(self.handed_out(slot, master, area, body, residue, moves))
    }

    /// A buffer whose record stands, once what was lent of its frames is out of the way.
    fn handed_out(
        &'static self,
        slot: Slot,
        master: &Master,
        area: AreaId,
        body: &'static mut Body,
        mut residue: Residue,
        moves: bool,
    ) -> Contiguous<M> {
        if moves {
            self.move_out(area, body.frames());
            // Reading the pages left lines behind.
            residue = self.state.lock().ledger.residue(body.frames());
        }
        Contiguous::new(self, slot, master, body, residue)
    }

    /// Walks the live tables and compares them with the ledger (I1, I2, W^X). Shows `each` every finding.
    ///
    /// `each` runs under the lock. So it prints nothing where the console's lock comes before the lock's rank
    /// ([`sync`](crate::sync)), and calls nothing of this crate: it keeps what is to be printed.
    ///
    /// # Errors
    ///
    /// The first finding, and how many there are of each kind.
    pub fn audit(&self, expect: &Expect<'_>, each: impl FnMut(Finding)) -> Result<Report, Findings> {
        let mut state = self.state.lock();
        let windows = [self.window, state.lanes.range()];
        audit(self.machine, expect, &windows, &mut state.ledger, each)
    }

    /// Counters since boot.
    pub fn stats(&self) -> Stats {
        let counters = &self.counters;
        let (map_changes, allocations, unguarded) = {
            let state = self.state.lock();
            (state.map_changes, state.allocations, state.unguarded)
        };
        Stats {
            cleaned: counters.cleaned.get(),
            invalidated: counters.invalidated.get(),
            map_changes,
            quarantined: counters.quarantined.load(Ordering::Relaxed),
            allocations,
            zeroed: counters.zeroed.load(Ordering::Relaxed),
            unguarded,
            worst_wait: self.turns.worst_wait(),
        }
    }

    /// Who holds what, as a table with a line a buffer.
    pub const fn holders(&self) -> Holders<'_, M> {
        Holders { dma: self, owner: None }
    }

    /// Says that a device goes away: whatever it was given and not yet gave back is a leak, and the table of it the
    /// error.
    pub fn retire(&self, master: &Master) -> Result<(), Holders<'_, M>> {
        let none = self.state.lock().buffers().all(|(_, kept)| kept.owner != master.name());
        if none { Ok(()) } else { Err(Holders { dma: self, owner: Some(master.name()) }) }
    }

    /// Returns a buffer that was dropped while a device may still use it, each once, in no particular order. It is lost until
    /// reset. Ask in the idle loop or wherever a line is printed, until there is none.
    ///
    /// Never waits, so a fault report may ask too: while another context has the records there is none, and a later call
    /// returns it. Where no buffer was lost, no lock is looked at.
    pub fn next_quarantined(&self) -> Option<Record> {
        if self.counters.untold.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut state = self.state.try_lock()?;
        let slot = state.buffers().find(|(_, kept)| kept.untold).map(|(slot, _)| slot)?;
        self.counters.untold.fetch_sub(1, Ordering::Relaxed);
        let kept = state.kept_mut(slot);
        kept.untold = false;
        Some(self.record(slot, kept))
    }

    /// What lies at an address of the window, for a fault report. Never waits.
    pub fn place_of(&self, va: VirtAddr) -> Place {
        let Some(state) = self.state.try_lock() else { return Place::Busy };
        let page = va.raw() >> FRAME_SHIFT;
        let mut place = Place::UnusedWindow;
        for (slot, kept) in state.buffers() {
            let Some(va) = kept.va else { continue };
            let first = va.raw() >> FRAME_SHIFT;
            let end = first + kept.frames.count();
            if (first..end).contains(&page) {
                return Place::Buffer(self.record(slot, kept));
            }
            // Another buffer's, where a guard was given up.
            if page == end {
                place = Place::Guard(self.record(slot, kept));
            }
        }
        place
    }

    /// What lies at a frame; `None` if it is not carved. Never waits.
    pub fn place_of_frame(&self, frame: Frame) -> Option<Place> {
        let Some(state) = self.state.try_lock() else { return Some(Place::Busy) };
        state.ledger.state(frame)?;
        if let Some((slot, kept)) = state.buffers().find(|(_, kept)| kept.frames.contains(frame)) {
            return Some(Place::Buffer(self.record(slot, kept)));
        }
        let borrower = state.areas.iter().find_map(|area| area.borrower_of(frame));
        Some(borrower.map_or(Place::FreeFrame(frame), |borrower| Place::Lent(frame, borrower)))
    }

    /// How a carved frame is mapped now; `None` if it is not carved.
    pub fn state_of(&self, frame: Frame) -> Option<Carved> {
        self.state.lock().ledger.state(frame)
    }

    /// Claims and maps a buffer: at the addresses it has, else at ones that it has from now on or, of a mapping that the
    /// same call ends, in passing.
    fn map(&self, slot: Slot, body: &Body, memory: MemoryType, stay: Stay) -> Mapped {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let frames = body.frames();
        state.ledger.claim(frames, memory).unwrap_or_else(|error| panic!("frames this buffer owns: {error}"));
        state.map_changes += 1;
        let va = match (body.address(), stay) {
            (Some(va), _) => va,
            (None, Stay::InPassing) => state.images.homes(frames).address(0),
            (None, Stay::ToLast) => state.take_addresses(slot, frames),
        };
        // No other frames have these addresses and the window has all its tables, so nothing is in the way.
        // SAFETY: the ledger gave the frames to this mapping alone (I1).
        let mapped = unsafe { state.window.map(self.machine, va, frames, memory, Access::ReadWrite) };
        mapped.expect("the buffer's own addresses are unmapped")
    }

    /// Ends that a buffer, which is unmapped, has addresses.
    fn give_up_addresses(&self, slot: Slot) {
        self.state.lock().give_addresses(slot);
    }

    /// Unmaps, then releases the claim: in this order, or another mapping could precede the TLB invalidate (I3).
    fn unmap(&self, mapped: Mapped) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.map_changes += 1;
        let frames = state.window.unmap(self.machine, mapped);
        state.ledger.release(frames);
    }

    /// Frees a buffer that no device can reach and nothing maps. `residue` is `None` where the ledger has it.
    fn give_back(&self, slot: Slot, residue: Option<Residue>, body: &'static mut Body) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.bodies.push(body);
        let &mut Kept { frames, va, area, slot: promised, .. } = state.kept_mut(slot);
        if let Some(residue) = residue {
            state.ledger.set_residue(frames, residue);
        }
        if va.is_some() {
            state.ledger.give_image(frames);
        }
        if let Some(id) = promised
            && state.contracts[id.contract].give_back(id)
        {
            state.entries[slot.0] = Entry::Promised;
            state.areas[area.0].give_slot_back(frames);
            return;
        }
        state.free_entry(slot);
        state.areas[area.0].give_back(frames);
    }

    /// Calls `each` with runs of frames that have the same residue, in order. Nobody else may own or map them.
    fn for_each_residue(&self, frames: FrameRange, mut each: impl FnMut(FrameRange, Residue)) {
        let mut left = frames;
        while !left.is_empty() {
            let (count, residue) = self.state.lock().ledger.residue_run(left);
            let (run, rest) = left.split_at(count).expect("a part of it");
            each(run, residue);
            left = rest;
        }
    }

    /// Keeps the frames for ever. Telling of it is for who asks: this may run under any lock of the embedding kernel.
    fn quarantine(&self, slot: Slot, residue: Residue) {
        self.standings[slot.0].set(Holder::Quarantine, residue);
        let mut state = self.state.lock();
        let kept = state.kept_mut(slot);
        kept.untold = true;
        self.counters.quarantined.fetch_add(kept.frames.bytes(), Ordering::Relaxed);
        self.counters.untold.fetch_add(1, Ordering::Relaxed);
    }
}

impl<M> Dma<M> {
    fn record(&self, slot: Slot, kept: &Kept) -> Record {
        let &Kept { frames, va, owner, bytes, born, .. } = kept;
        Record { frames, va, owner, holder: self.standings[slot.0].get().0, bytes, born }
    }
}

impl State {
    /// The area, if it is of this `Dma`.
    fn area(&self, area: AreaId) -> Option<&Area> {
        if area.1 == self.window.id() { self.areas.get(area.0) } else { None }
    }

    fn area_mut(&mut self, area: AreaId) -> Option<&mut Area> {
        if area.1 == self.window.id() { self.areas.get_mut(area.0) } else { None }
    }

    fn buffers(&self) -> impl Iterator<Item = (Slot, &Kept)> {
        self.entries.iter().enumerate().filter_map(|(n, entry)| match entry {
            Entry::Used(kept) => Some((Slot(n), kept)),
            Entry::Free { .. } | Entry::Promised => None,
        })
    }

    fn kept_mut(&mut self, slot: Slot) -> &mut Kept {
        match &mut self.entries[slot.0] {
            Entry::Used(kept) => kept,
            Entry::Free { .. } | Entry::Promised => unreachable!("a buffer has a record"),
        }
    }

    /// A buffer comes to be, in an entry that was taken for it.
    #[inline]
    fn occupy(&mut self, slot: Slot, kept: Kept) -> &'static mut Body {
        self.allocations += 1;
        let body = self.bodies.pop().expect("as many as records to be had");
        body.place(kept.frames, kept.bytes);
        self.entries[slot.0] = Entry::Used(kept);
        body
    }

    fn free_entry(&mut self, slot: Slot) {
        self.entries[slot.0] = Entry::Free { next: self.free };
        self.free = Some(slot);
    }

    /// Addresses for a buffer, until it is freed or the devices' for good: with a guard on either side if there are such.
    fn take_addresses(&mut self, slot: Slot, frames: FrameRange) -> VirtAddr {
        let homes = self.images.homes(frames);
        let (image, guarded) = self.ledger.take_image(frames, homes.images);
        self.unguarded += u64::from(!guarded);
        let va = homes.address(image);
        self.kept_mut(slot).va = Some(va);
        va
    }

    fn give_addresses(&mut self, slot: Slot) {
        let kept = self.kept_mut(slot);
        let frames = kept.frames;
        if kept.va.take().is_some() {
            self.ledger.give_image(frames);
        }
    }
}

/// A table of buffers: device, bytes, who may touch it, age, frames. Displaying it takes the lock once for each record
/// there can be, never over the writing: a buffer that comes or goes meanwhile may be in it or not.
pub struct Holders<'d, M: 'static> {
    dma: &'d Dma<M>,
    owner: Option<&'static str>,
}

impl<M> Holders<'_, M> {
    /// Calls `each` with every buffer of the table, in no particular order. The lock is not held meanwhile.
    pub fn for_each(&self, mut each: impl FnMut(&Record)) {
        for slot in 0..MAX_BUFFERS {
            let record = match &self.dma.state.lock().entries[slot] {
                Entry::Used(kept) => self.dma.record(Slot(slot), kept),
                Entry::Free { .. } | Entry::Promised => continue,
            };
            if self.owner.is_none_or(|owner| record.owner == owner) {
                each(&record);
            }
        }
    }
}

impl<M> fmt::Debug for Holders<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<M> fmt::Display for Holders<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.dma.state.lock().allocations;
        let (mut result, mut count, mut bytes) = (Ok(()), 0, 0);
        writeln!(f, "{:<12} {:>10} {:<12} {:>6}  frames", "device", "bytes", "state", "age")?;
        self.for_each(|record| {
            let Record { frames, owner, holder, bytes: wanted, born, .. } = record;
            count += 1;
            bytes += frames.bytes();
            let age = now - born;
            if result.is_ok() {
                result = writeln!(f, "{owner:<12} {wanted:>10} {holder:<12} {age:>6}  {frames}");
            }
        });
        result?;
        write!(f, "{count} buffers, {}", Bytes(bytes))
    }
}
