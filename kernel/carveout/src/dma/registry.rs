//! The books of the DMA API: areas, window, ledger, and a record for each buffer.
//!
//! Guarantees: frames are claimed in the ledger before a mapping of them is made. They are released after it is gone
//! from every TLB (I1, I3). The lock is held over updates of the books and of descriptors, and never over zeroing,
//! copying or cache work.

use crate::addr::{FRAME_SHIFT, FrameRange, VirtAddr};
use crate::carve_out::CarveOut;
use crate::cma::area::{AllocError, Area};
use crate::cma::contract::ContractBook;
use crate::dma::body::Body;
use crate::dma::lanes::{Lanes, Tickets};
use crate::dma::master::AreaId;
use crate::dma::records::{BufferSlot, Entry, Kept, MOST_RECORDS, Record, RecordList, Records};
use crate::dma::shelf::{Shelves, most_shelved};
use crate::dma::warm::{AfterFree, Warm};
use crate::events::{EventKind, note_frames};
use crate::heap::room;
use crate::holder::Holder;
use crate::machine::{Lines, Machine, Registers};
use crate::name::Name;
use crate::protocol::FLUSH_FROM;
use crate::sync::{Lock, Rank};
use crate::vm::attr::MemoryType;
use crate::vm::ledger::{Ledger, LedgerError, LedgerPlace, Residue};
use crate::vm::mapped::Mapped;
use crate::vm::range::VirtRange;
use crate::vm::space::{OneEach, Region};
use crate::vm::window::Images;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The book of a contract. Each slot keeps the record of its buffer.
pub(super) type Book = ContractBook<BufferSlot>;

/// The refusal of a master whose area is another `Dma`'s.
pub(super) const NOT_OURS: AllocError = AllocError::NoArea(Some("the one it has is another `Dma`'s"));

/// What is known of a live buffer. It may be out of date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufferRecord {
    /// Its frames.
    pub frames: FrameRange,
    /// The address at which it is mapped whenever it is mapped. It is `None` before the first time, and does not change
    /// afterwards.
    pub va: Option<VirtAddr>,
    /// The device that it was allocated for.
    pub owner: Name,
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

/// How long a mapping stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stay {
    /// The call that makes it ends it.
    InPassing,
    /// The mapping outlasts the call.
    ToLast,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) areas: Vec<Area>,
    pub(super) ledger: Ledger<'static>,
    pub(super) window: Region<'static, OneEach>,
    pub(super) images: Images,
    pub(super) records: Records,
    pub(super) contracts: Vec<Book>,
    pub(super) lanes: Lanes,
    pub(super) warm: Warm,
    pub(super) map_changes: u64,
    pub(super) unguarded: u64,
}

/// What was counted since boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DmaStats {
    /// Cache lines cleaned for buffers.
    pub cleaned: Lines,
    /// Cache lines invalidated for buffers, those of emptied caches among them.
    pub invalidated: Lines,
    /// How often whole caches were emptied. Their lines are among those invalidated.
    pub flushes: u64,
    /// Mappings made and ended.
    pub map_changes: u64,
    /// Bytes in quarantine.
    pub quarantined: u64,
    /// Buffers allocated.
    pub allocations: u64,
    /// Bytes zeroed before a new owner or a device got them (I5).
    pub zeroed: u64,
    /// Buffers that got addresses right beside another buffer's, without a page between them, because the window has
    /// too few images of the carve-outs. There are none if it has
    /// the [sections](crate::embed::Needs::sections) for guards.
    pub unguarded: u64,
    /// The most turns of the work lane that passed while a recall waited for its own turn. There are fewer than cores
    /// ([`Borrower`](crate::dma::Borrower)).
    pub worst_wait: u32,
    /// Mappings that wait for the next buffer of their frames.
    pub warm: u32,
    /// Coherent buffers that found such a mapping.
    pub reused: u64,
    /// Coherent buffers that came from a core's shelf, without a turn of the lock.
    pub served: u32,
    /// Frames of buffers on shelves.
    pub shelved: u32,
    /// Such mappings that ended because somebody else got the frames, or might have.
    pub evicted: u64,
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
    pub(super) flushes: AtomicU64,
    pub(super) zeroed: AtomicU64,
    pub(super) allocations: AtomicU64,
}

impl Counters {
    /// Counts a buffer. Returns how many were allocated before it.
    #[inline]
    pub(super) fn born(&self) -> u64 {
        self.allocations.fetch_add(1, Ordering::Relaxed)
    }
}

/// The DMA API of a machine: its areas, window and ledger. There is one for the whole machine.
///
/// ```
/// use carveout::setup::Setup;
///
/// let dma = Setup::new(1).dma; // on a board: `embed::Builder` makes it
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
    pub(super) lanes: VirtRange,
    built_by: BuiltBy,
    pub(super) guarded: bool,
    /// Whether freed coherent buffers keep their mappings.
    pub(super) keeps_mapped: AtomicBool,
    pub(super) shelves: Shelves,
    /// Of each area, the most frames on a shelf.
    pub(super) most_shelved: [u32; CarveOut::MAX],
    pub(super) counters: Counters,
}

/// What is known of the core that built a [`Dma`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct BuiltBy {
    pub(crate) registers: Registers,
    /// Whether another core may have another root in TTBR0.
    pub(crate) any_root: bool,
}

/// The sizes of the books, whatever the machine.
pub(crate) struct BookSizes;

impl BookSizes {
    /// The sections of the window that lent frames are mapped in.
    pub(crate) const LANES: u32 = Lanes::SECTIONS;
    /// The bytes that a record takes in each block of its list.
    pub(crate) const RECORD: [usize; 3] = RecordList::RECORD;
    /// The bytes that the lists of buffers take that nobody has: the shelves of all cores, and warm buffers.
    pub(crate) const SPARE: [usize; 2] = [Shelves::BYTES, Warm::BYTES];
    /// The most records.
    pub(crate) const MOST_RECORDS: usize = MOST_RECORDS;

    /// Returns the bytes of the chains of buffers that are put away, and of the list of lists of records, for so many
    /// carved frames and records from the start.
    pub(crate) const fn by_frames(records: usize, frames: u32) -> [usize; 2] {
        [Records::chains(frames) * size_of::<u16>(), Records::lists(records, frames)]
    }
}

impl<M: Machine> Dma<M> {
    /// Takes over the carve-outs, whose frames the ledger has, and a window that is made last. All else is taken from
    /// the heap first.
    #[cold]
    pub(crate) fn assemble<E: From<TryReserveError>>(
        machine: &'static M,
        carved: impl Iterator<Item = CarveOut>,
        ledger: Ledger<'static>,
        records: usize,
        built_by: BuiltBy,
        after_free: AfterFree,
        window: impl FnOnce() -> Result<Region<'static, OneEach>, E>,
    ) -> Result<Self, E> {
        let records = Records::new(records, ledger.ranges().map(FrameRange::count).sum())?;
        let image_runs = room(ledger.ranges().count())?;
        let (shelves, warm) = (Shelves::new()?, Warm::new()?);
        let mut areas = room(carved.size_hint().0)?;
        for carved in carved {
            areas.push(Area::new(carved)?);
        }
        let window = window()?;
        let mut most = [0; CarveOut::MAX];
        let frames = areas.iter().map(|area: &Area| area.ranges().map(FrameRange::count).sum());
        most.iter_mut().zip(frames).for_each(|(most, frames)| *most = most_shelved(frames));
        let (images, lanes) = window.range().split_last(Lanes::SECTIONS);
        let state = State {
            areas,
            images: Images::new(image_runs, ledger.ranges(), images),
            ledger,
            window,
            records,
            contracts: Vec::new(),
            lanes: Lanes::new(lanes),
            warm,
            map_changes: 0,
            unguarded: 0,
        };
        Ok(Self {
            machine,
            built_by,
            guarded: state.images.are_whole(),
            state: Lock::new(Rank::DMA, state),
            work: Tickets::new(),
            shelves,
            most_shelved: most,
            keeps_mapped: AtomicBool::new(after_free.keeps_mapped()),
            window: images,
            lanes,
            counters: Counters::default(),
        })
    }

    /// Returns the machine. Its barriers serve all buffers.
    pub const fn machine(&self) -> &'static M {
        self.machine
    }

    /// Returns whether whole caches are emptied where the lines of so many bytes are due.
    #[inline]
    pub(super) fn empties_caches_for(&self, bytes: u64) -> bool {
        let from = |all| FLUSH_FROM * u64::from(all) * u64::from(self.machine.line());
        self.machine.flush_lines().is_some_and(|all| bytes >= from(all))
    }

    /// Returns what is known of the core that built this.
    pub(crate) const fn built_by(&self) -> &BuiltBy {
        &self.built_by
    }

    /// Returns the window that the areas' buffers are mapped in.
    pub const fn window(&self) -> VirtRange {
        self.window
    }

    /// Returns the addresses that lent frames are mapped at, and frames that idle time prepares.
    pub const fn lanes(&self) -> VirtRange {
        self.lanes
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

    /// Returns the first area that is called so before its unit address, with its runs.
    pub(super) fn area_named(&self, name: &str) -> Option<(AreaId, ArrayVec<FrameRange, { CarveOut::RANGES }>)> {
        let state = self.state.lock();
        let place = state.areas.iter().position(|area| area.name().split('@').next() == Some(name))?;
        Some((AreaId(place, state.window.id()), state.areas[place].ranges().collect()))
    }

    /// Returns the area of that place among the carve-outs the machine was built with. Names need not be unique.
    pub fn area_at(&self, place: usize) -> Option<AreaId> {
        let state = self.state.lock();
        (place < state.areas.len()).then_some(AreaId(place, state.window.id()))
    }

    /// Returns the bytes that are free in an area, and those in its largest run. The shelves are emptied for that.
    pub fn free_bytes(&self, area: AreaId) -> (u64, u64) {
        self.empty_shelves();
        self.state.lock().area_mut(area).map_or((0, 0), |area| (area.free_bytes(), area.largest_run()))
    }

    /// Maps a buffer, at the addresses that it has. If it has none, a mapping that is to last gives it some.
    /// A mapping that this very call ends does not.
    #[inline]
    pub(super) fn map(&self, state: &mut State, body: &Body, memory: MemoryType, stay: Stay) -> Mapped {
        state.map_changes += 1;
        let va = match (body.address(), stay) {
            (Some(va), _) => va,
            (None, Stay::InPassing) => state.images.homes(body.place.run(), body.frames()).address(0),
            (None, Stay::ToLast) => state.take_addresses(body),
        };
        // No other frames have these addresses.
        let Ok(mapped) = self.map_carved(state, va, body.place, memory) else {
            panic!("frames of a buffer that are mapped already")
        };
        mapped
    }

    /// Maps some of a buffer's frames, at the addresses that they have in it. If the buffer has none, it gets some.
    ///
    /// # Errors
    ///
    /// The ledger refuses: a port has the buffer mapped.
    pub(super) fn map_part(&self, body: &Body, part: FrameRange, memory: MemoryType) -> Result<Mapped, LedgerError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let frames = body.frames();
        if let Some(refused) = state.ledger.refusal(part, memory) {
            return Err(refused);
        }
        state.map_changes += 1;
        let first = body.address().unwrap_or_else(|| state.take_addresses(body));
        let va = VirtAddr::new(first.raw() + ((part.start() - frames.start()) << FRAME_SHIFT));
        let place = state.ledger.place(part).expect("a part of carved frames");
        self.map_carved(state, va, place, memory)
    }

    /// Ends the mapping of a buffer.
    #[inline]
    pub(super) fn unmap(&self, state: &mut State, place: LedgerPlace, mapped: Mapped) {
        state.map_changes += 1;
        self.unmap_carved(state, place, mapped);
    }

    /// Ends the mapping of some of a buffer's frames.
    pub(super) fn unmap_part(&self, state: &mut State, mapped: Mapped) {
        let place = state.ledger.place(mapped.frames()).expect("carved frames were mapped");
        self.unmap(state, place, mapped);
    }

    /// Maps frames in the window, which has all its tables, once the ledger has given them to this mapping alone.
    ///
    /// # Errors
    ///
    /// The ledger refuses. Nothing was written.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call for each mapping: BENCH.md")]
    pub(super) fn map_carved(
        &self,
        state: &mut State,
        va: VirtAddr,
        place: LedgerPlace,
        memory: MemoryType,
    ) -> Result<Mapped, LedgerError> {
        note_frames(EventKind::Map, u32::from(memory == MemoryType::WriteBack), 0, place.frames());
        // SAFETY: the window's tables are this machine's, and its mappings are ended through it and this ledger, which
        // gives a frame to one mapping at a time (I1).
        unsafe { state.window.map_carved(self.machine, &mut state.ledger, va, place, memory) }
    }

    /// Ends a mapping that [`map_carved`](Self::map_carved) made.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `map_carved`")]
    pub(super) fn unmap_carved(&self, state: &mut State, place: LedgerPlace, mapped: Mapped) {
        note_frames(EventKind::Unmap, 0, 0, place.frames());
        state.window.unmap_carved(self.machine, &mut state.ledger, place, mapped);
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
    pub(super) fn quarantine(&self, state: &mut State, slot: BufferSlot, residue: Residue) {
        state.records.get(slot).standing.set(Holder::Quarantine, residue);
        let kept = state.kept_mut(slot);
        kept.untold = true;
        self.counters.quarantined.fetch_add(kept.extent.frames().bytes(), Ordering::Relaxed);
        self.counters.untold.fetch_add(1, Ordering::Relaxed);
    }
}

impl Record {
    /// Returns what is known of the buffer.
    pub(super) fn of(&self, kept: &Kept) -> BufferRecord {
        let &Kept { extent, owner, .. } = kept;
        let standing = self.standing;
        let (holder, bytes, born) = (standing.get().0, standing.bytes(), standing.born());
        BufferRecord { frames: extent.frames(), va: standing.va(), owner, holder, bytes, born }
    }
}

impl State {
    /// Returns the area, if it is of this `Dma`.
    pub(super) fn area_mut(&mut self, area: AreaId) -> Option<&mut Area> {
        if area.1 == self.window.id() { self.areas.get_mut(area.0) } else { None }
    }

    /// Yields the buffers that somebody has, or a device may have.
    pub(super) fn buffers(&self) -> impl Iterator<Item = (BufferSlot, &Record, &Kept)> {
        self.records.buffers()
    }

    pub(super) fn kept_mut(&mut self, slot: BufferSlot) -> &mut Kept {
        match &mut self.records.get_mut(slot).entry {
            Entry::Used(kept) => kept,
            Entry::Free { .. } | Entry::Promised => unreachable!("a buffer has a record"),
        }
    }

    /// Frees a buffer that no device can reach and nothing maps. `residue` is `None` if the ledger has it already.
    #[inline]
    pub(super) fn give_back(&mut self, residue: Option<Residue>, body: &'static mut Body) {
        let (slot, place) = (body.slot, body.place);
        let record = self.records.get_mut(slot);
        record.body = Some(body);
        let placed = record.standing.va().is_some();
        let Entry::Used(Kept { extent, area, slot: promised, .. }) = record.entry else {
            unreachable!("a buffer has a record")
        };
        if let Some(residue) = residue {
            self.ledger.set_residue_at(place, residue);
        }
        if placed {
            self.ledger.give_image_at(place);
        }
        if let Some(id) = promised
            && self.contracts[id.contract].give_back(id)
        {
            self.records.get_mut(slot).entry = Entry::Promised;
            self.areas[area.0].give_slot_back(extent);
            return;
        }
        self.records.give_back(slot);
        self.areas[area.0].give_back(extent);
    }

    /// Takes addresses for a buffer, until it is freed. There is a guard on either side if the window has such
    /// addresses.
    pub(super) fn take_addresses(&mut self, body: &Body) -> VirtAddr {
        let homes = self.images.homes(body.place.run(), body.frames());
        let (image, guarded) = self.ledger.take_image_at(body.place, homes.images);
        self.unguarded += u64::from(!guarded);
        let va = homes.address(image);
        body.standing.set_va(Some(va));
        va
    }
}
