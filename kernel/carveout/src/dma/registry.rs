//! The books of the DMA API: areas, window, ledger, and a record for each buffer.
//!
//! Guarantees: frames are claimed in the ledger before a mapping of them is made. They are released after it is gone
//! from every TLB (I1, I3). The lock is held over updates of the books and of descriptors, and never over zeroing,
//! copying or cache work.

use crate::addr::{FrameRange, VirtAddr};
use crate::carve_out::CarveOut;
use crate::cma::area::{AllocError, Area};
use crate::cma::contract::{ContractBook, SlotId};
use crate::cma::extent::Extent;
use crate::dma::body::Body;
use crate::dma::lanes::{Lanes, Tickets};
use crate::dma::master::AreaId;
use crate::heap::{collected, filled, room};
use crate::holder::Holder;
use crate::machine::{Lines, Machine};
use crate::sync::{Lock, Rank};
use crate::vm::alias::Aliases;
use crate::vm::attr::MemoryType;
use crate::vm::ledger::{Cell, Ledger, Residue};
use crate::vm::mapped::Mapped;
use crate::vm::range::VirtRange;
use crate::vm::space::Region;
use crate::vm::window::{IMAGES, Images, image_sections};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The book of a contract. Each slot keeps the record of its buffer.
pub(super) type Book = ContractBook<BufferSlot>;

/// The refusal of a master whose area is another `Dma`'s.
pub(super) const NOT_OURS: AllocError = AllocError::NoArea(Some("the one it has is another `Dma`'s"));

/// The most buffers that can exist at a time.
pub const MAX_BUFFERS: usize = 1024;

/// What is known of a live buffer. It may be out of date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferRecord {
    /// Its frames.
    pub frames: FrameRange,
    /// The address at which it is mapped whenever it is mapped. It is `None` before the first time, and for a buffer of
    /// devices alone.
    pub va: Option<VirtAddr>,
    /// The device that it was allocated for.
    pub owner: &'static str,
    /// Who may access it.
    pub holder: Holder,
    /// The bytes asked for.
    pub bytes: u32,
    /// How many buffers were allocated before it, since boot. Its age is how many were allocated after it.
    pub born: u64,
}

impl fmt::Display for BufferRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} buffer {} of {}", self.holder, self.frames, self.owner)
    }
}

/// The part of a buffer's record that the lock protects.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) extent: Extent,
    pub(super) va: Option<VirtAddr>,
    pub(super) owner: &'static str,
    pub(super) bytes: u32,
    pub(super) born: u64,
    pub(super) area: AreaId,
    /// The contract's slot that it is in, if it is in one.
    pub(super) slot: Option<SlotId>,
    pub(super) ported: bool,
    /// Whether it is in quarantine and nobody was told yet.
    pub(super) untold: bool,
}

/// Who may access a buffer's bytes, and what the caches may hold of them. The buffer writes it as it changes hands,
/// without the lock. Reports and ports read it.
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
pub(super) struct BufferSlot(pub(super) usize);

/// How long a mapping stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stay {
    /// The call that makes it ends it.
    InPassing,
    /// The mapping outlasts the call.
    ToLast,
}

#[derive(Debug)]
pub(super) enum Entry {
    Free {
        next: Option<BufferSlot>,
    },
    /// The record of an idle contract slot.
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
    /// The bodies of no buffer: as many as there are entries that no buffer has.
    pub(super) bodies: Vec<&'static mut Body>,
    pub(super) free: Option<BufferSlot>,
    pub(super) contracts: Vec<Book>,
    pub(super) lanes: Lanes,
    pub(super) map_changes: u64,
    pub(super) allocations: u64,
    pub(super) unguarded: u64,
}

/// Why areas were not taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DmaError {
    /// The window has no room for the images of the carve-outs that it must hold.
    Window {
        /// The sections of 1 MiB that it has.
        given: u32,
        /// The sections that it must have.
        needed: u32,
        /// The sections that it must have where guards may be given up: [`Dma::sparing_guards`].
        least: u32,
    },
    /// The window for lent frames has no section.
    LoanWindow {
        /// The sections that it has.
        given: u32,
        /// The sections that it must have.
        needed: u32,
    },
    /// The heap has no room for the books of the carve-outs. What was taken of the heap is lost.
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

impl core::error::Error for DmaError {}

/// What was counted since boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DmaStats {
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
    /// Buffers that got addresses right beside another buffer's, without a page between them, because the window has
    /// too few images of the carve-outs. There are none if it has [`Dma::window_sections`].
    pub unguarded: u64,
    /// The most turns of the work lane that passed while a recall waited for its own turn. There are fewer than cores
    /// ([`Borrower`](crate::dma::Borrower)).
    pub worst_wait: u32,
}

/// A count of cache lines. Any core may add to it.
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

/// The part of [`DmaStats`] that is counted without the lock.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) cleaned: LineCounter,
    pub(super) invalidated: LineCounter,
    pub(super) quarantined: AtomicU64,
    /// Buffers in quarantine of which nobody was told. It is written under the lock.
    pub(super) untold: AtomicU32,
    pub(super) zeroed: AtomicU64,
}

/// The DMA API of a machine: its areas, window and ledger. There is one for the whole machine.
///
/// ```
/// use carveout::setup::Setup;
///
/// let dma = Setup::new(1).dma; // on a board: `Dma::new` over its machine and carve-outs
/// let camera = carveout::dma::Master::new("camera", dma.area("test"));
/// let buffer = dma.alloc(&camera, 1 << 20, 1)?;
/// assert_eq!(dma.free_bytes(dma.area("test").unwrap()).0, 3 << 20);
///
/// let refused = dma.alloc(&camera, 4 << 20, 1).unwrap_err();
/// assert_eq!(refused.to_string(), "no room for 4 MiB: 3 MiB free in the area");
/// # drop(buffer);
/// # Ok::<(), carveout::dma::AllocError>(())
/// ```
#[derive(Debug)]
pub struct Dma<M: 'static> {
    pub(super) machine: &'static M,
    pub(super) state: Lock<State>,
    /// The tickets of the work lane.
    pub(super) work: Tickets,
    pub(super) window: VirtRange,
    pub(super) guarded: bool,
    /// The standings, by [`BufferSlot`].
    pub(super) standings: Vec<Standing>,
    pub(super) counters: Counters,
}

impl<M: Machine> Dma<M> {
    /// Takes over the carve-outs, the window in which they will be mapped, and the window for lent frames, of which a
    /// section is enough. `aliases` are the board's. By them refusals and the audit know second names of a frame. I1
    /// does not rest on them, for what a [`CarveOut`] proves holds by every name. Metadata is taken from the heap once,
    /// here.
    ///
    /// The window must have [`window_sections`](Self::window_sections). Then each buffer has a guard on either side,
    /// for ever.
    ///
    /// # Panics
    ///
    /// If carve-outs overlap, are named by an alias, or are more than the ledger holds: each would break what a
    /// [`CarveOut`] proves.
    ///
    /// # Errors
    ///
    /// [`DmaError::Window`] if the window has fewer sections than [`window_sections`](Self::window_sections).
    /// [`DmaError::LoanWindow`] if the window of loans has none. [`DmaError::Heap`] if the heap has no room for the
    /// metadata.
    pub fn new(
        machine: &'static M,
        carved: impl Iterator<Item = CarveOut>,
        aliases: Aliases,
        window: Region<'static>,
        loans: Region<'static>,
    ) -> Result<Self, DmaError> {
        Self::with_images(machine, carved, aliases, window, loans, IMAGES)
    }

    /// Takes over the carve-outs as [`new`](Self::new) does, with a window that may be too small for every guard. It
    /// must have each carved frame once. No allocation is refused for want of a guard. If a buffer's neighbours leave
    /// it no place with guards, it lies right beside one of them, and [`DmaStats::unguarded`] counts it.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), except that one image of the carve-outs is window enough.
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
        let entry = |n: usize| Entry::Free { next: (n + 1 < MAX_BUFFERS).then_some(BufferSlot(n + 1)) };
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
            free: Some(BufferSlot(0)),
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

    /// Returns the area of that name.
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

    /// Returns the bytes that are free in an area, and those in its largest run.
    pub fn free_bytes(&self, area: AreaId) -> (u64, u64) {
        self.state.lock().area_mut(area).map_or((0, 0), |area| (area.free_bytes(), area.largest_run()))
    }

    /// Maps a buffer, at the addresses that it has. If it has none, a mapping that is to last gives it some.
    /// A mapping that this very call ends does not.
    pub(super) fn map(&self, slot: BufferSlot, body: &Body, memory: MemoryType, stay: Stay) -> Mapped {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let frames = body.frames();
        state.map_changes += 1;
        let va = match (body.address(), stay) {
            (Some(va), _) => va,
            (None, Stay::InPassing) => state.images.homes(frames).address(0),
            (None, Stay::ToLast) => state.take_addresses(slot, frames),
        };
        // No other frames have these addresses, and the window has all its tables.
        // SAFETY: the tables are this machine's, and the mapping is ended through it and this ledger, which gives a
        // frame to one mapping at a time (I1).
        let mapped = unsafe { state.window.map_carved(self.machine, &mut state.ledger, va, frames, memory) };
        let Ok(mapped) = mapped else { panic!("frames of a buffer that are mapped already") };
        mapped
    }

    /// Takes the addresses from a buffer that is unmapped.
    pub(super) fn give_up_addresses(&self, slot: BufferSlot) {
        self.state.lock().give_addresses(slot);
    }

    /// Ends the mapping of a buffer.
    pub(super) fn unmap(&self, mapped: Mapped) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.map_changes += 1;
        state.window.unmap_carved(self.machine, &mut state.ledger, mapped);
    }

    /// Frees a buffer that no device can reach and nothing maps. `residue` is `None` if the ledger has it already.
    pub(super) fn give_back(&self, slot: BufferSlot, residue: Option<Residue>, body: &'static mut Body) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.bodies.push(body);
        let &mut Kept { extent, va, area, slot: promised, .. } = state.kept_mut(slot);
        let frames = extent.frames();
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
            state.areas[area.0].give_slot_back(extent);
            return;
        }
        state.free_entry(slot);
        state.areas[area.0].give_back(extent);
    }

    /// Calls `each` with runs of frames of one residue, in order. Nobody else may own or map the frames.
    pub(super) fn for_each_residue(&self, frames: FrameRange, mut each: impl FnMut(FrameRange, Residue)) {
        let mut left = frames;
        while !left.is_empty() {
            let (count, residue) = self.state.lock().ledger.residue_run(left);
            let (run, rest) = left.split_at(count).expect("a part of it");
            each(run, residue);
            left = rest;
        }
    }

    /// Keeps the frames for ever. This prints nothing, for it may run under any lock of the embedding kernel.
    /// [`next_quarantined`](Self::next_quarantined) tells of it.
    pub(super) fn quarantine(&self, slot: BufferSlot, residue: Residue) {
        self.standings[slot.0].set(Holder::Quarantine, residue);
        let mut state = self.state.lock();
        let kept = state.kept_mut(slot);
        kept.untold = true;
        self.counters.quarantined.fetch_add(kept.extent.frames().bytes(), Ordering::Relaxed);
        self.counters.untold.fetch_add(1, Ordering::Relaxed);
    }
}

impl<M> Dma<M> {
    pub(super) fn record(&self, slot: BufferSlot, kept: &Kept) -> BufferRecord {
        let &Kept { extent, va, owner, bytes, born, .. } = kept;
        let frames = extent.frames();
        BufferRecord { frames, va, owner, holder: self.standings[slot.0].get().0, bytes, born }
    }
}

impl State {
    /// Returns the area, if it is of this `Dma`.
    pub(super) fn area_mut(&mut self, area: AreaId) -> Option<&mut Area> {
        if area.1 == self.window.id() { self.areas.get_mut(area.0) } else { None }
    }

    pub(super) fn buffers(&self) -> impl Iterator<Item = (BufferSlot, &Kept)> {
        self.entries.iter().enumerate().filter_map(|(n, entry)| match entry {
            Entry::Used(kept) => Some((BufferSlot(n), kept)),
            Entry::Free { .. } | Entry::Promised => None,
        })
    }

    pub(super) fn kept_mut(&mut self, slot: BufferSlot) -> &mut Kept {
        match &mut self.entries[slot.0] {
            Entry::Used(kept) => kept,
            Entry::Free { .. } | Entry::Promised => unreachable!("a buffer has a record"),
        }
    }

    /// Enters a new buffer in an entry that was taken for it. Returns its body.
    #[inline]
    pub(super) fn occupy(&mut self, slot: BufferSlot, kept: Kept) -> &'static mut Body {
        self.allocations += 1;
        let body = self.bodies.pop().expect("as many as records to be had");
        body.place(kept.extent.frames(), kept.bytes);
        self.entries[slot.0] = Entry::Used(kept);
        body
    }

    pub(super) fn free_entry(&mut self, slot: BufferSlot) {
        self.entries[slot.0] = Entry::Free { next: self.free };
        self.free = Some(slot);
    }

    /// Takes addresses for a buffer, until it is freed or becomes the devices' for good. There is a guard on either
    /// side if the window has such addresses.
    pub(super) fn take_addresses(&mut self, slot: BufferSlot, frames: FrameRange) -> VirtAddr {
        let homes = self.images.homes(frames);
        let (image, guarded) = self.ledger.take_image(frames, homes.images);
        self.unguarded += u64::from(!guarded);
        let va = homes.address(image);
        self.kept_mut(slot).va = Some(va);
        va
    }

    pub(super) fn give_addresses(&mut self, slot: BufferSlot) {
        let kept = self.kept_mut(slot);
        let frames = kept.extent.frames();
        if kept.va.take().is_some() {
            self.ledger.give_image(frames);
        }
    }
}
