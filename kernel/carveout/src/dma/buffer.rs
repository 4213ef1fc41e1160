//! Buffers in their states: each state a type, each transition a move.
//!
//! What holding one proves:
//! - [`Contiguous`]: the frames are this value's alone; no mapping exists.
//! - [`Coherent`]: mapped non-cacheable, zeroed first; CPU and device see the same bytes, after the barriers named.
//! - [`Stream<_, Cpu>`](Stream): no device accesses the bytes; mapped write-back from the first view on.
//! - [`Stream<_, Device>`](Stream) and [`DeviceOnly`]: no mapping exists, so a stray pointer faults (I4).
//!
//! Least maintenance: a stream is mapped only when the CPU first looks at it, so a hand-over from device to device
//! touches no line and no descriptor, and a capture cycle costs one invalidate, at the CPU's first look.
//!
//! ```compile_fail,E0599
//! use carveout::{machine::Machine, dma::buffer::{Device, FromDevice, Stream}};
//! fn read_while_the_device_owns_it<M: Machine>(buffer: Stream<M, FromDevice, Device>) {
//!     let _ = buffer.bytes();
//! }
//! ```
//!
//! ```compile_fail,E0599
//! use carveout::{machine::Machine, dma::buffer::{Cpu, FromDevice, Stream}};
//! fn write_what_only_the_device_writes<M: Machine>(mut buffer: Stream<M, FromDevice, Cpu>) {
//!     buffer.bytes_mut();
//! }
//! ```
//!
//! ```compile_fail,E0382
//! use carveout::{machine::Machine, dma::buffer::{Contiguous, ToDevice}};
//! fn two_owners<M: Machine>(buffer: Contiguous<M>) {
//!     let one = buffer.into_coherent();
//!     let two = buffer.into_stream::<ToDevice>();
//! }
//! ```
//!
//! ```compile_fail,E0505
//! use carveout::{machine::Machine, dma::buffer::{Cpu, Stream, ToDevice}};
//! fn keep_a_view_across_the_hand_over<M: Machine>(buffer: Stream<M, ToDevice, Cpu>) -> u8 {
//!     let view = buffer.bytes();
//!     let _device = buffer.for_device();
//!     view[0]
//! }
//! ```
//!
//! ```compile_fail,E0382
//! use carveout::{machine::Machine, dma::buffer::Coherent};
//! fn use_after_free<M: Machine>(buffer: Coherent<M>) {
//!     drop(buffer);
//!     buffer.dma_wmb();
//! }
//! ```
//!
//! ```compile_fail,E0599
//! use carveout::{machine::Machine, dma::buffer::{Cpu, Stream, ToDevice}};
//! fn tell_a_device_what_the_cpu_owns<M: Machine>(buffer: Stream<M, ToDevice, Cpu>) {
//!     let _ = buffer.bus();
//! }
//! ```
//!
//! ```compile_fail,E0277
//! use carveout::{machine::Machine, dma::buffer::{Cpu, FromDevice, Stream}};
//! fn views_of_what_is_not_plain_old_data<M: Machine>(buffer: Stream<M, FromDevice, Cpu>) {
//!     let _ = buffer.values::<bool>();
//! }
//! ```

use crate::addr::{BusAddr, FRAME_SHIFT, FrameRange, VirtAddr};
use crate::dma::master::Master;
use crate::dma::segment::{ScatterError, Segment, segments_of};
use crate::dma::word::{Bytes, Word};
use crate::dma::{Dma, Slot, Stay};
use crate::machine::{Lines, Machine};
use crate::protocol::{Due, Knowledge, Op, Span, Transition, When};
use crate::vm::ledger::Residue;
use crate::vm::mapped::{Mapped, Part};
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::{Deref, Range};
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

mod sealed {
    pub trait Sealed {}
}

/// Which way a stream's data goes: a closed set of types.
pub trait Direction: sealed::Sealed {
    /// Marks a direction in which the CPU writes and the device reads.
    type CpuWrites;
    /// Whether the device writes, so that the CPU's lines are stale afterwards.
    const DEVICE_WRITES: bool;
}

/// Said of a direction: yes.
#[derive(Debug)]
pub enum Yes {}
/// Said of a direction: no.
#[derive(Debug)]
pub enum No {}

/// The CPU writes, the device reads.
#[derive(Debug)]
pub enum ToDevice {}
/// The device writes, the CPU reads.
#[derive(Debug)]
pub enum FromDevice {}
/// Both write and read, in turns.
#[derive(Debug)]
pub enum Bidirectional {}

impl sealed::Sealed for ToDevice {}
impl sealed::Sealed for FromDevice {}
impl sealed::Sealed for Bidirectional {}

impl Direction for ToDevice {
    type CpuWrites = Yes;
    const DEVICE_WRITES: bool = false;
}
impl Direction for FromDevice {
    type CpuWrites = No;
    const DEVICE_WRITES: bool = true;
}
impl Direction for Bidirectional {
    type CpuWrites = Yes;
    const DEVICE_WRITES: bool = true;
}

/// Owner of a stream: the CPU.
#[derive(Debug)]
pub enum Cpu {}
/// Owner of a stream: the device.
#[derive(Debug)]
pub enum Device {}

/// What a buffer went through: for tables, and for tests of "least".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effort {
    /// Changes of state.
    pub transitions: u32,
    /// Mappings made and ended.
    pub map_changes: u32,
    /// Cache lines cleaned.
    pub cleaned: Lines,
    /// Cache lines invalidated.
    pub invalidated: Lines,
}

impl Effort {
    /// Cache lines maintained, whatever the operation.
    pub fn lines(&self) -> Lines {
        self.cleaned + self.invalidated
    }
}

impl core::ops::Add for Effort {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            transitions: self.transitions + more.transitions,
            map_changes: self.map_changes + more.map_changes,
            cleaned: self.cleaned + more.cleaned,
            invalidated: self.invalidated + more.invalidated,
        }
    }
}

/// What all states share. Its drop frees the frames, or quarantines them if a device may still use them.
struct Raw<M: Machine + 'static> {
    dma: &'static Dma<M>,
    slot: Slot,
    /// There until it is dropped.
    body: Option<&'static mut Body>,
}

/// What a buffer consists of. It stays where it is while the buffer moves from state to state, or each move would copy
/// it.
///
/// In this order no two counters of lines are next to each other: zeroing them is a store each, and no call that fills
/// memory.
#[repr(C)]
pub(super) struct Body {
    cleaned: Cell<Lines>,
    frames: FrameRange,
    /// Where it is mapped, or was last.
    va: Cell<VirtAddr>,
    bytes: u32,
    invalidated: Cell<Lines>,
    bus: BusAddr,
    mapped: Cell<Option<Mapped>>,
    knows: Cell<Knowledge>,
    /// The ledger has each frame's residue, which need not be the same: until it is in a state.
    in_ledger: Cell<bool>,
    /// A device was told the address and not yet made to forget it.
    exposed: Cell<bool>,
    /// It has addresses: those of `va`, whenever it is mapped.
    placed: Cell<bool>,
    transitions: Cell<u32>,
    map_changes: Cell<u32>,
}

const NO_LINES: Lines = Lines { inner: 0, outer: 0 };

impl Body {
    /// Nobody's.
    pub(super) const fn vacant() -> Self {
        Self {
            frames: FrameRange::EMPTY,
            va: Cell::new(VirtAddr::new(0)),
            bytes: 0,
            bus: BusAddr::new(0),
            mapped: Cell::new(None),
            knows: Cell::new(Knowledge::new(Residue::Nothing)),
            in_ledger: Cell::new(true),
            exposed: Cell::new(false),
            placed: Cell::new(false),
            cleaned: Cell::new(NO_LINES),
            invalidated: Cell::new(NO_LINES),
            transitions: Cell::new(0),
            map_changes: Cell::new(0),
        }
    }

    /// Of a new buffer from now on.
    pub(super) const fn place(&mut self, frames: FrameRange, bytes: u32) {
        (self.frames, self.bytes) = (frames, bytes);
    }

    pub(super) const fn frames(&self) -> FrameRange {
        self.frames
    }

    /// Where it is mapped whenever it is.
    pub(super) fn address(&self) -> Option<VirtAddr> {
        self.placed.get().then(|| self.va.get())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl<M: Machine> Deref for Raw<M> {
    type Target = Body;

    fn deref(&self) -> &Body {
        self.body.as_deref().expect("there until it is dropped")
    }
}

impl<M: Machine> Raw<M> {
    /// Does what is due of a transition, in the order of its row.
    ///
    /// Step by step and inlined: each transition is known where it is made, so that of its row the compiler leaves what
    /// may be due. As a loop over the row its questions cost as much as the answers.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a matter of hundreds of instructions: BENCH.md")]
    fn run(&self, transition: Transition) {
        const { assert!(Transition::LONGEST == 6) };
        let row = transition.row();
        let stay = match transition {
            Transition::IntoStream | Transition::IntoDevice => Stay::InPassing,
            _ => Stay::ToLast,
        };
        self.step(row.first(), stay);
        self.step(row.get(1), stay);
        self.step(row.get(2), stay);
        self.step(row.get(3), stay);
        self.step(row.get(4), stay);
        self.step(row.get(5), stay);
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `run`")]
    fn step(&self, due: Option<&Due>, stay: Stay) {
        if let Some(&(when, op)) = due
            && self.knows.get().due(when)
        {
            self.execute(op, stay);
            self.knows.set(self.knows.get().after(op));
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `run`")]
    fn execute(&self, op: Op, stay: Stay) {
        let knows = self.knows.get();
        match op {
            Op::Map(memory) => {
                let mapped = self.dma.map(self.slot, self, memory, stay);
                self.va.set(mapped.va());
                if stay == Stay::ToLast {
                    self.placed.set(true);
                }
                self.mapped.set(Some(mapped));
                self.map_changes.set(self.map_changes.get() + 1);
            }
            Op::Unmap => {
                // It is missing only where a panic unwinds that began with it taken.
                if let Some(mapped) = self.mapped.take() {
                    self.dma.unmap(mapped);
                    self.map_changes.set(self.map_changes.get() + 1);
                }
            }
            Op::Clean => {
                let lines = self.maintain(knows.written, M::clean);
                self.dma.counters.cleaned.add(lines);
                self.cleaned.set(self.cleaned.get() + lines);
            }
            Op::Invalidate => self.drop_lines(knows.stale, M::invalidate),
            Op::Discard => self.for_each_residue(|run, residue| {
                if residue > Residue::Nothing {
                    self.drop_lines(self.span_of(run), M::discard);
                }
            }),
            Op::Zero => {
                let start = self.pointer();
                self.for_each_residue(|run, residue| {
                    if residue > Residue::Zeroed {
                        let first = start.wrapping_add(self.span_of(run).start as usize);
                        // SAFETY: the frames are mapped at `va` for their whole length, writable, and this value owns
                        // them.
                        unsafe { self.dma.machine.zero(first, run.bytes() as usize) };
                        self.dma.counters.zeroed.fetch_add(run.bytes(), Ordering::Relaxed);
                    }
                });
            }
            Op::DeviceBarrier => self.dma.machine.device_barrier(),
            Op::Mark(_) => unreachable!("in no row of a buffer: it is `give_back` that tells the ledger"),
            Op::Hold(holder) => {
                // All of it went through the same from here on.
                self.in_ledger.set(false);
                self.dma.standings[self.slot.0].set(holder, knows.residue);
                self.transitions.set(self.transitions.get() + 1);
            }
        }
    }

    /// Calls `each` with runs of frames that have the same residue: a fresh buffer goes by what each frame's last owner
    /// left, for none had all of them.
    fn for_each_residue(&self, each: impl FnMut(FrameRange, Residue)) {
        if self.in_ledger.get() {
            self.dma.for_each_residue(self.frames, each);
        } else {
            let mut each = each;
            each(self.frames, self.knows.get().residue);
        }
    }

    fn drop_lines(&self, span: Span, work: impl FnOnce(&M, Part<'_>) -> Lines) {
        let lines = self.maintain(span, work);
        self.dma.counters.invalidated.add(lines);
        self.invalidated.set(self.invalidated.get() + lines);
    }

    fn maintain(&self, span: Span, work: impl FnOnce(&M, Part<'_>) -> Lines) -> Lines {
        let mapped = self.mapped.take().expect("maintenance needs a mapping (I3)");
        let part = mapped.part(span.start, span.end).expect("spans are cut to the buffer");
        let lines = work(self.dma.machine, part);
        self.mapped.set(Some(mapped));
        lines
    }

    /// Where some of its frames are.
    fn span_of(&self, run: FrameRange) -> Span {
        let start = (run.start() - self.frames.start()) << FRAME_SHIFT;
        Span { start, end: start + (run.count() << FRAME_SHIFT) }
    }

    /// The bytes asked for: a device has no business beyond.
    fn asked(&self) -> Span {
        Span { start: 0, end: self.bytes }
    }

    fn pointer(&self) -> *mut u8 {
        self.dma.machine.reach(self.va.get())
    }

    /// Makes the CPU's look possible.
    fn open(&self) -> *mut u8 {
        self.run(Transition::Look);
        self.pointer()
    }

    /// The same for writing to a span.
    fn open_mut(&self, span: Span) -> *mut u8 {
        let bytes = self.open();
        self.knows.set(self.knows.get().writable(span));
        bytes
    }

    /// `range` of the bytes asked for, or `None` if it is not in order and inside.
    fn inside(&self, range: &Range<usize>) -> Option<Span> {
        let inside = range.start <= range.end && range.end <= self.bytes as usize;
        inside.then_some(Span { start: range.start as u32, end: range.end as u32 })
    }
}

impl<M: Machine> Drop for Raw<M> {
    fn drop(&mut self) {
        if self.exposed.get() {
            self.run(Transition::Quarantine);
            self.dma.quarantine(self.slot, self.knows.get().residue);
        } else {
            self.run(Transition::Free);
            let residue = self.knows.get().residue;
            let body = self.body.take().expect("there until it is dropped");
            let residue = if body.in_ledger.get() { None } else { Some(residue) };
            self.dma.give_back(self.slot, residue, body);
        }
    }
}

macro_rules! common {
    ($($state:ty: [$($generics:tt)*]),*) => {$(
        impl<M: Machine, $($generics)*> $state {
            /// Bytes asked for when it was allocated. The frames go on to the end of the last page.
            pub fn len(&self) -> usize {
                self.raw.bytes as usize
            }

            /// Never: an allocation of no bytes is refused.
            pub const fn is_empty(&self) -> bool {
                false
            }

            /// The frames.
            pub fn frames(&self) -> FrameRange {
                self.raw.frames
            }

            /// What it took so far.
            pub fn effort(&self) -> Effort {
                Effort {
                    transitions: self.raw.transitions.get(),
                    map_changes: self.raw.map_changes.get(),
                    cleaned: self.raw.cleaned.get(),
                    invalidated: self.raw.invalidated.get(),
                }
            }
        }

        impl<M: Machine, $($generics)*> fmt::Debug for $state {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($state)).field("frames", &self.raw.frames).finish_non_exhaustive()
            }
        }
    )*};
}

common!(Contiguous<M>: [], Coherent<M>: [], DeviceOnly<M>: [], Stream<M, D, O>: [D: Direction, O]);

/// Frames of an area, contiguous, in no state yet: nobody can touch them. Dropping frees them.
pub struct Contiguous<M: Machine + 'static> {
    raw: Raw<M>,
}

impl<M: Machine> Contiguous<M> {
    /// Of a body that has its place.
    pub(super) fn new(
        dma: &'static Dma<M>,
        slot: Slot,
        master: &Master,
        body: &'static mut Body,
        residue: Residue,
    ) -> Self {
        body.bus = master.bus(body.frames.base()).expect("frames within the reach it was allocated in");
        body.mapped.set(None);
        body.knows.set(Knowledge::new(residue));
        body.in_ledger.set(true);
        body.exposed.set(false);
        body.placed.set(false);
        body.cleaned.set(NO_LINES);
        body.invalidated.set(NO_LINES);
        body.transitions.set(0);
        body.map_changes.set(0);
        Self { raw: Raw { dma, slot, body: Some(body) } }
    }

    /// Maps the buffer non-cacheable for CPU and device alike; zeroed.
    pub fn into_coherent(self) -> Coherent<M> {
        self.raw.run(Transition::IntoCoherent);
        Coherent { raw: self.raw }
    }

    /// Makes it a stream, the CPU's at first; zeroed, not mapped until the CPU looks.
    pub fn into_stream<D: Direction>(self) -> Stream<M, D, Cpu> {
        self.raw.run(Transition::IntoStream);
        Stream { raw: self.raw, state: PhantomData }
    }

    /// Gives it to devices for good; zeroed, never mapped for the CPU.
    pub fn into_device(self) -> DeviceOnly<M> {
        self.raw.run(Transition::IntoDevice);
        if self.raw.placed.replace(false) {
            self.raw.dma.give_up_addresses(self.raw.slot);
        }
        DeviceOnly { raw: self.raw }
    }
}

/// A buffer CPU and device share, Normal non-cacheable: what one writes the other sees, after the barriers below. Writes
/// combine, so it is Linux's `WRITE_COMBINE` too: on ARMv7 the two are one memory type.
///
/// Dropping frees it, unless a device was told its address: then it is quarantined, and
/// [`release`](Self::release) is the way to free it.
pub struct Coherent<M: Machine + 'static> {
    raw: Raw<M>,
}

impl<M: Machine> Coherent<M> {
    /// The address to program into the device.
    pub fn bus(&self) -> BusAddr {
        self.raw.exposed.set(true);
        self.raw.bus
    }

    /// The same as a list for a device that takes segments, `master`, as [`Table::segments`](super::scatter::Table::segments)
    /// gives it: of a buffer that was allocated for another device it says whether `master` reaches it. From here on a
    /// drop quarantines.
    pub fn segments<'m>(&self, master: &'m Master) -> Result<impl Iterator<Item = Segment> + use<'m, M>, ScatterError> {
        let segments = segments_of(master, self.raw.frames, self.len())?;
        self.raw.exposed.set(true);
        Ok(segments)
    }

    /// The first byte, for drivers that lay out shared structures themselves. Valid for reads and writes of
    /// [`len`](Self::len) bytes while the buffer lives, by volatile accesses: the device may change any byte.
    pub fn as_ptr(&self) -> NonNull<u8> {
        NonNull::new(self.raw.pointer()).expect("a mapped address is not null")
    }

    fn access(&self) -> Bytes {
        // SAFETY: the buffer is mapped non-cacheable and writable for its whole length while it lives, and this type gives
        // out no reference to its bytes.
        unsafe { Bytes::new(self.raw.pointer(), self.len()) }
    }

    /// Reads the word at `offset` by one access, which sees no half of what the device writes there.
    ///
    /// # Panics
    ///
    /// If the word is not inside of the buffer, or its address is not a multiple of its size.
    pub fn read_word<W: Word>(&self, offset: usize) -> W {
        self.access().read_word(offset)
    }

    /// Writes the word at `offset` by one access, of which the device sees no half.
    ///
    /// # Panics
    ///
    /// If the word is not inside of the buffer, or its address is not a multiple of its size.
    pub fn write_word<W: Word>(&mut self, offset: usize, word: W) {
        self.access().write_word(offset, word);
    }

    /// Copies bytes out, from `offset` on, as far as both reach; returns how many. This is for bytes in bulk, and goes by
    /// words wherever words fit. A word that the device writes while the CPU polls it is read by
    /// [`read_word`](Self::read_word).
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        self.access().read_at(offset, to)
    }

    /// Copies bytes in, from `offset` on, as far as both reach; returns how many. This is for bytes in bulk, and goes by
    /// words wherever words fit. A word that the device polls is written by [`write_word`](Self::write_word).
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> usize {
        self.access().write_at(offset, from)
    }

    /// Between two writes that a device polls: what came before is seen before what comes after.
    pub fn dma_wmb(&self) {
        self.raw.dma.machine.dma_wmb();
    }

    /// Between two reads of what a device writes: what comes after is read after what came before.
    pub fn dma_rmb(&self) {
        self.raw.dma.machine.dma_rmb();
    }

    /// Before the register write that tells a device to go: everything written so far is seen by it.
    pub fn device_barrier(&self) {
        self.raw.run(Transition::Tell);
    }

    /// Takes the buffer back from the device.
    ///
    /// # Safety
    ///
    /// I4: the device will not access the buffer any more, and forgot its address.
    pub unsafe fn release(self) -> Contiguous<M> {
        self.raw.run(Transition::IntoContiguous);
        self.raw.exposed.set(false);
        Contiguous { raw: self.raw }
    }
}

/// A buffer that goes back and forth: write-back while the CPU's, unmapped while the device's.
#[repr(transparent)]
pub struct Stream<M: Machine + 'static, D: Direction, O> {
    raw: Raw<M>,
    state: PhantomData<(D, O)>,
}

impl<M: Machine, D: Direction, O> Stream<M, D, O> {
    /// Names the new owner of streams whose transition was run. The list stays where it is: `collect` may ask the heap,
    /// and ends the program where that is full.
    fn owned_by<P>(streams: Vec<Self>) -> Vec<Stream<M, D, P>> {
        let mut streams = ManuallyDrop::new(streams);
        let (first, count, capacity) = (streams.as_mut_ptr().cast(), streams.len(), streams.capacity());
        // SAFETY: the list's own memory, which nothing else frees; a `Stream` is a `Raw`, whoever owns it
        // (`repr(transparent)`).
        unsafe { Vec::from_raw_parts(first, count, capacity) }
    }
}

impl<M: Machine, D: Direction> Stream<M, D, Cpu> {
    /// The bytes, read-only: afterwards the caches may hold clean lines of them.
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.raw.open();
        // SAFETY: the buffer is mapped write-back for its whole length and stays so while `self` is borrowed, for
        // every transition takes it by value; no device accesses it (what `Stream<_, Cpu>` proves, I4); zeroed (I5).
        unsafe { core::slice::from_raw_parts(bytes, self.len()) }
    }

    /// The bytes as values of plain old data, as many as fit, read-only.
    ///
    /// The buffer starts on a page, so that any `T` of alignment up to 4 KiB is aligned.
    pub fn values<T: FromBytes + Immutable>(&self) -> &[T] {
        let count = self.len().checked_div(size_of::<T>()).unwrap_or(0);
        <[T]>::ref_from_prefix_with_elems(self.bytes(), count).map_or(&[], |(values, _)| values)
    }

    /// Hands the buffer to the device: cleans what the CPU may have written, and unmaps.
    ///
    /// After this returns, the device reads what the CPU wrote, and no line is evicted over what the device writes.
    pub fn for_device(self) -> Stream<M, D, Device> {
        self.raw.run(Transition::ForDevice);
        self.grant();
        Stream { raw: self.raw, state: PhantomData }
    }

    /// Hands several over, with one barrier for all, if it is due for any: one for each run of buffers of a machine.
    pub(super) fn all_for_device(streams: Vec<Self>) -> Vec<Stream<M, D, Device>> {
        for stream in &streams {
            stream.raw.run(Transition::ForDevice);
        }
        // The machine that passed a barrier last, since all were cleaned.
        let mut ordered: Option<&'static M> = None;
        for stream in &streams {
            let machine = stream.raw.dma.machine;
            if ordered.is_some_and(|ordered| ptr::eq(ordered, machine)) {
                stream.raw.knows.set(stream.raw.knows.get().after(Op::DeviceBarrier));
            } else if stream.raw.knows.get().due(When::Unordered) {
                ordered = Some(machine);
            }
            stream.grant();
        }
        Self::owned_by(streams)
    }

    /// Ends the hand-over: from here on the buffer is the device's.
    fn grant(&self) {
        self.raw.run(Transition::Grant);
        self.raw.exposed.set(true);
    }

    /// Gives up the stream for another state, which will find zeros. No device knows it: what owning it proves.
    pub fn into_contiguous(self) -> Contiguous<M> {
        self.raw.run(Transition::IntoContiguous);
        Contiguous { raw: self.raw }
    }
}

impl<M: Machine, D: Direction<CpuWrites = Yes>> Stream<M, D, Cpu> {
    /// The bytes, writable: afterwards the caches may hold dirty lines of them, and the hand-over cleans them all.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.raw.open_mut(self.raw.asked());
        // SAFETY: as in `bytes`; and `self` is borrowed mutably, so this is the only view.
        unsafe { core::slice::from_raw_parts_mut(bytes, self.len()) }
    }

    /// A part of the bytes, writable, of which alone the hand-over cleans lines; `None` if it is not inside.
    pub fn part_mut(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        let span = self.raw.inside(&range)?;
        let bytes = self.raw.open_mut(span).wrapping_add(range.start);
        // SAFETY: as in `bytes_mut`; the range is inside.
        Some(unsafe { core::slice::from_raw_parts_mut(bytes, range.len()) })
    }

    /// The bytes as values of plain old data, as many as fit, writable.
    pub fn values_mut<T: FromBytes + IntoBytes + Immutable + KnownLayout>(&mut self) -> &mut [T] {
        let count = self.len().checked_div(size_of::<T>()).unwrap_or(0);
        <[T]>::mut_from_prefix_with_elems(self.bytes_mut(), count).map_or(&mut [], |(values, _)| values)
    }
}

impl<M: Machine, D: Direction> Stream<M, D, Device> {
    /// The address to program into the device.
    pub fn bus(&self) -> BusAddr {
        self.raw.bus
    }

    /// Takes the buffer back for the CPU. Costs nothing yet: mapping and invalidate wait for the CPU's first look.
    ///
    /// # Safety
    ///
    /// I4: the device has finished with the buffer, which it said in a register or in memory read
    /// before this call, and will not access it until it is handed over again.
    pub unsafe fn for_cpu(self) -> Stream<M, D, Cpu> {
        self.take_back(self.raw.asked());
        Stream { raw: self.raw, state: PhantomData }
    }

    /// Takes several back for the CPU.
    ///
    /// # Safety
    ///
    /// As [`for_cpu`](Self::for_cpu), of each.
    pub(super) unsafe fn all_for_cpu(streams: Vec<Self>) -> Vec<Stream<M, D, Cpu>> {
        for stream in &streams {
            stream.take_back(stream.raw.asked());
        }
        Self::owned_by(streams)
    }

    /// The same for a device that wrote only `written` of the bytes, as a packet that filled part of its buffer: lines
    /// elsewhere still equal memory, and the invalidate leaves them alone. A range not inside counts as all.
    ///
    /// # Safety
    ///
    /// As [`for_cpu`](Self::for_cpu), and the device wrote nothing outside the range.
    pub unsafe fn for_cpu_part(self, written: Range<usize>) -> Stream<M, D, Cpu> {
        let span = self.raw.inside(&written).unwrap_or_else(|| self.raw.asked());
        self.take_back(span);
        Stream { raw: self.raw, state: PhantomData }
    }

    /// The buffer is the CPU's again, of which the device wrote `written` at most.
    fn take_back(&self, written: Span) {
        if D::DEVICE_WRITES {
            self.raw.knows.set(self.raw.knows.get().device_wrote(written));
        }
        self.raw.run(Transition::ForCpu);
        self.raw.exposed.set(false);
    }
}

/// A buffer for devices alone: one writes it, another reads it, the CPU never does: Linux's `NO_KERNEL_MAPPING`, but
/// zeroed when it is made. Dropping quarantines it once its address was told.
///
/// Kept for the next job of the same owner it is not zeroed again, and no line is touched: that is the way to do
/// without zeroing.
pub struct DeviceOnly<M: Machine + 'static> {
    raw: Raw<M>,
}

impl<M: Machine> DeviceOnly<M> {
    /// The address to program into the devices. From here on a drop quarantines.
    pub fn bus(&self) -> BusAddr {
        self.raw.exposed.set(true);
        self.raw.bus
    }

    /// The same as a list for a device that takes segments, `master`, as [`Table::segments`](super::scatter::Table::segments)
    /// gives it: of a buffer that was allocated for another device it says whether `master` reaches it. From here on a
    /// drop quarantines.
    pub fn segments<'m>(&self, master: &'m Master) -> Result<impl Iterator<Item = Segment> + use<'m, M>, ScatterError> {
        let segments = segments_of(master, self.raw.frames, self.len())?;
        self.raw.exposed.set(true);
        Ok(segments)
    }

    /// Takes the buffer back from its devices.
    ///
    /// # Safety
    ///
    /// I4: no device will access the buffer any more.
    pub unsafe fn release(self) -> Contiguous<M> {
        self.raw.run(Transition::IntoContiguous);
        self.raw.exposed.set(false);
        Contiguous { raw: self.raw }
    }
}
