//! The books of the DMA API: areas, window, ledger and a record for each buffer.
//!
//! Guarantees: frames are claimed in the ledger before a mapping of them is made, and released after it is gone from
//! every TLB (I1, I3). The lock is held over updates of the books and of descriptors, never over zeroing, copying or
//! cache work.

use crate::addr::{FrameRange, VirtAddr};
use crate::carve_out::CarveOut;
use crate::cma::area::{AllocError, Area};
use crate::cma::contract::{ContractBook, SlotId};
use crate::dma::body::Body;
use crate::dma::lanes::{Lanes, Tickets};
use crate::dma::master::AreaId;
use crate::heap::{collected, filled, room};
use crate::holder::Holder;
use crate::machine::{Lines, Machine};
use crate::sync::{Lock, Rank};
use crate::vm::alias::Aliases;
use crate::vm::attr::{Access, MemoryType};
use crate::vm::ledger::{Cell, Ledger, Residue};
use crate::vm::mapped::Mapped;
use crate::vm::range::VirtRange;
use crate::vm::space::Region;
use crate::vm::window::{IMAGES, Images, image_sections};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The book of a contract: a slot has its buffer's record for good.
pub(super) type Book = ContractBook<Slot>;

/// Of a master whose area is another `Dma`'s.
pub(super) const NOT_OURS: AllocError = AllocError::NoArea(Some("the one it has is another `Dma`'s"));

/// Buffers that can exist at a time.
pub const MAX_BUFFERS: usize = 1024;

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
pub(super) struct Kept {
    pub(super) frames: FrameRange,
    pub(super) va: Option<VirtAddr>,
    pub(super) owner: &'static str,
    pub(super) bytes: u32,
    pub(super) born: u64,
    pub(super) area: AreaId,
    /// The contract's slot it is in.
    pub(super) slot: Option<SlotId>,
    pub(super) ported: bool,
    /// It is in quarantine, and nobody was told.
    pub(super) untold: bool,
}

/// Who may touch a buffer's bytes, and what the caches may hold of them: written by the buffer as it changes hands,
/// without the lock, read by reports and ports.
#[derive(Debug)]
pub(super) struct Standing(AtomicU8);

impl Standing {
    const RESIDUES: [Residue; 4] = [Residue::Zeroed, Residue::Nothing, Residue::Clean, Residue::Dirty];

    pub(super) const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    pub(super) fn set(&self, holder: Holder, residue: Residue) {
        self.0.store((holder as u8) << 2 | residue as u8, Ordering::Release);
    }

    pub(super) fn get(&self) -> (Holder, Residue) {
        let word = usize::from(self.0.load(Ordering::Acquire));
        (Holder::ALL[word >> 2], Self::RESIDUES[word & 3])
    }
}

/// A buffer's place among the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Slot(pub(super) usize);

/// How long a mapping stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stay {
    /// The call that makes it ends it.
    InPassing,
    /// It outlasts the call.
    ToLast,
}

#[derive(Debug)]
pub(super) enum Entry {
    Free {
        next: Option<Slot>,
    },
    /// An idle contract slot's.
    Promised,
    Used(Kept),
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) areas: Vec<Area>,
    pub(super) ledger: Ledger<'static>,
    pub(super) window: Region<'static>,
    pub(super) images: Images,
    pub(super) entries: Vec<Entry>,
    /// Those of no buffer: as many as there are entries that no buffer has.
    pub(super) bodies: Vec<&'static mut Body>,
    pub(super) free: Option<Slot>,
    pub(super) contracts: Vec<Book>,
    pub(super) lanes: Lanes,
    pub(super) map_changes: u64,
    pub(super) allocations: u64,
    pub(super) unguarded: u64,
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
    /// Buffers that got addresses right beside another buffer's, without a page between: the window has too few images
    /// of the carve-outs. None where it has [`Dma::window_sections`].
    pub unguarded: u64,
    /// The most turns of the work lane that passed while a recall waited for its own: fewer than there are cores
    /// ([`loan`](crate::dma::loan)).
    pub worst_wait: u32,
}

/// Lines, counted from anywhere.
#[derive(Debug, Default)]
pub(super) struct LineCounter {
    pub(super) inner: AtomicU64,
    pub(super) outer: AtomicU64,
}

impl LineCounter {
    pub(super) fn add(&self, lines: Lines) {
        self.inner.fetch_add(lines.inner, Ordering::Relaxed);
        self.outer.fetch_add(lines.outer, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Lines {
        Lines { inner: self.inner.load(Ordering::Relaxed), outer: self.outer.load(Ordering::Relaxed) }
    }
}

/// Of what [`Stats`] reads, what is counted without the lock.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) cleaned: LineCounter,
    pub(super) invalidated: LineCounter,
    pub(super) quarantined: AtomicU64,
    /// Buffers in quarantine of which nobody was told: written under the lock.
    pub(super) untold: AtomicU32,
    pub(super) zeroed: AtomicU64,
}

/// Areas, window and ledger: one for the whole machine.
#[derive(Debug)]
pub struct Dma<M: 'static> {
    pub(super) machine: &'static M,
    pub(super) state: Lock<State>,
    /// Of the work lane.
    pub(super) work: Tickets,
    pub(super) window: VirtRange,
    pub(super) guarded: bool,
    /// By [`Slot`].
    pub(super) standings: Vec<Standing>,
    pub(super) counters: Counters,
}

impl<M: Machine> Dma<M> {
    /// Takes over the carve-outs, the window they will be mapped in, and the one lent frames will be: of that a section
    /// is enough. `aliases` are the board's: by them refusals and the audit know second names of a frame. I1 does not
    /// rest on them, for what a [`CarveOut`] proves holds by every name. Metadata comes from the heap once, here.
    ///
    /// The window must have [`window_sections`](Self::window_sections): then each buffer has a guard on either side,
    /// for ever.
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
    #[cold]
    pub(super) fn with_images(
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
        let ledger = ledger.ok().expect("disjoint carve-outs by their first names, no more than the ledger holds");
        let (images, range) = (Images::new(ranges(), window.range()), window.range());
        let entry = |n: usize| Entry::Free { next: (n + 1 < MAX_BUFFERS).then_some(Slot(n + 1)) };
        let (mut bodies, mut free_bodies) = (room(MAX_BUFFERS).map_err(full)?, room(MAX_BUFFERS).map_err(full)?);
        let (mut entries, mut standings) = (room(MAX_BUFFERS).map_err(full)?, room(MAX_BUFFERS).map_err(full)?);
        let areas = collected(carved.into_iter().map(Area::new)).map_err(full)?;
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
        let work = Tickets::new();
        Ok(Self { machine, state, work, window: range, guarded, standings, counters: Counters::default() })
    }

    /// Returns the sections of window that these carve-outs need for a guard on either side of every buffer: three
    /// images of them ([`window`](crate::vm::window)).
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

    /// Claims and maps a buffer: at the addresses it has, else at ones that it has from now on or, of a mapping that
    /// the same call ends, in passing.
    pub(super) fn map(&self, slot: Slot, body: &Body, memory: MemoryType, stay: Stay) -> Mapped {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let frames = body.frames();
        state.ledger.claim(frames, memory).ok().expect("frames that this buffer owns are unmapped");
        state.map_changes += 1;
        let va = match (body.address(), stay) {
            (Some(va), _) => va,
            (None, Stay::InPassing) => state.images.homes(frames).address(0),
            (None, Stay::ToLast) => state.take_addresses(slot, frames),
        };
        // No other frames have these addresses and the window has all its tables, so nothing is in the way.
        // SAFETY: the ledger gave the frames to this mapping alone (I1).
        let mapped = unsafe { state.window.map(self.machine, va, frames, memory, Access::ReadWrite) };
        mapped.ok().expect("the buffer's own addresses are unmapped")
    }

    /// Ends that a buffer, which is unmapped, has addresses.
    pub(super) fn give_up_addresses(&self, slot: Slot) {
        self.state.lock().give_addresses(slot);
    }

    /// Unmaps, then releases the claim: in this order, or another mapping could precede the TLB invalidate (I3).
    pub(super) fn unmap(&self, mapped: Mapped) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.map_changes += 1;
        let frames = state.window.unmap(self.machine, mapped);
        state.ledger.release(frames);
    }

    /// Frees a buffer that no device can reach and nothing maps. `residue` is `None` where the ledger has it.
    pub(super) fn give_back(&self, slot: Slot, residue: Option<Residue>, body: &'static mut Body) {
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
    pub(super) fn for_each_residue(&self, frames: FrameRange, mut each: impl FnMut(FrameRange, Residue)) {
        let mut left = frames;
        while !left.is_empty() {
            let (count, residue) = self.state.lock().ledger.residue_run(left);
            let (run, rest) = left.split_at(count).expect("a part of it");
            each(run, residue);
            left = rest;
        }
    }

    /// Keeps the frames for ever. Telling of it is for who asks: this may run under any lock of the embedding kernel.
    pub(super) fn quarantine(&self, slot: Slot, residue: Residue) {
        self.standings[slot.0].set(Holder::Quarantine, residue);
        let mut state = self.state.lock();
        let kept = state.kept_mut(slot);
        kept.untold = true;
        self.counters.quarantined.fetch_add(kept.frames.bytes(), Ordering::Relaxed);
        self.counters.untold.fetch_add(1, Ordering::Relaxed);
    }
}

impl<M> Dma<M> {
    pub(super) fn record(&self, slot: Slot, kept: &Kept) -> Record {
        let &Kept { frames, va, owner, bytes, born, .. } = kept;
        Record { frames, va, owner, holder: self.standings[slot.0].get().0, bytes, born }
    }
}

impl State {
    /// The area, if it is of this `Dma`.
    pub(super) fn area_mut(&mut self, area: AreaId) -> Option<&mut Area> {
        if area.1 == self.window.id() { self.areas.get_mut(area.0) } else { None }
    }

    pub(super) fn buffers(&self) -> impl Iterator<Item = (Slot, &Kept)> {
        self.entries.iter().enumerate().filter_map(|(n, entry)| match entry {
            Entry::Used(kept) => Some((Slot(n), kept)),
            Entry::Free { .. } | Entry::Promised => None,
        })
    }

    pub(super) fn kept_mut(&mut self, slot: Slot) -> &mut Kept {
        match &mut self.entries[slot.0] {
            Entry::Used(kept) => kept,
            Entry::Free { .. } | Entry::Promised => unreachable!("a buffer has a record"),
        }
    }

    /// A buffer comes to be, in an entry that was taken for it.
    #[inline]
    pub(super) fn occupy(&mut self, slot: Slot, kept: Kept) -> &'static mut Body {
        self.allocations += 1;
        let body = self.bodies.pop().expect("as many as records to be had");
        body.place(kept.frames, kept.bytes);
        self.entries[slot.0] = Entry::Used(kept);
        body
    }

    pub(super) fn free_entry(&mut self, slot: Slot) {
        self.entries[slot.0] = Entry::Free { next: self.free };
        self.free = Some(slot);
    }

    /// Addresses for a buffer, until it is freed or the devices' for good: with a guard on either side if there are
    /// such.
    pub(super) fn take_addresses(&mut self, slot: Slot, frames: FrameRange) -> VirtAddr {
        let homes = self.images.homes(frames);
        let (image, guarded) = self.ledger.take_image(frames, homes.images);
        self.unguarded += u64::from(!guarded);
        let va = homes.address(image);
        self.kept_mut(slot).va = Some(va);
        va
    }

    pub(super) fn give_addresses(&mut self, slot: Slot) {
        let kept = self.kept_mut(slot);
        let frames = kept.frames;
        if kept.va.take().is_some() {
            self.ledger.give_image(frames);
        }
    }
}
