//! Buffers in their states (DESIGN section 5): each state a type, each transition a move.
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
//! use carveout::{arch::Machine, dma::buffer::{Device, FromDevice, Stream}};
//! fn read_while_the_device_owns_it<M: Machine>(buffer: Stream<M, FromDevice, Device>) {
//!     let _ = buffer.bytes();
//! }
//! ```
//!
//! ```compile_fail,E0271
//! use carveout::{arch::Machine, dma::buffer::{Cpu, FromDevice, Stream}};
//! fn write_what_only_the_device_writes<M: Machine>(mut buffer: Stream<M, FromDevice, Cpu>) {
//!     buffer.bytes_mut();
//! }
//! ```
//!
//! ```compile_fail,E0382
//! use carveout::{arch::Machine, dma::buffer::{Contiguous, ToDevice}};
//! fn two_owners<M: Machine>(buffer: Contiguous<M>) {
//!     let one = buffer.into_coherent();
//!     let two = buffer.into_stream::<ToDevice>();
//! }
//! ```
//!
//! ```compile_fail,E0505
//! use carveout::{arch::Machine, dma::buffer::{Cpu, Stream, ToDevice}};
//! fn keep_a_view_across_the_hand_over<M: Machine>(buffer: Stream<M, ToDevice, Cpu>) -> u8 {
//!     let view = buffer.bytes();
//!     let _device = buffer.for_device();
//!     view[0]
//! }
//! ```

use crate::addr::{BusAddr, FrameRange};
use crate::arch::{Lines, Machine};
use crate::dma::master::Master;
use crate::dma::{Dma, Holder, Record, Slot, whole_frames};
use crate::vm::attr::MemoryType;
use crate::vm::ledger::Residue;
use crate::vm::space::Mapped;
use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

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
    /// Cache lines maintained.
    pub lines: Lines,
}

impl core::ops::Add for Effort {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            transitions: self.transitions + more.transitions,
            map_changes: self.map_changes + more.map_changes,
            lines: self.lines + more.lines,
        }
    }
}

/// What all states share. Its drop frees the frames, or quarantines them if a device may still use them.
struct Raw<M: Machine + 'static> {
    dma: &'static Dma<M>,
    slot: Slot,
    frames: FrameRange,
    va: crate::addr::VirtAddr,
    bytes: u32,
    bus: BusAddr,
    mapped: Cell<Option<Mapped>>,
    residue: Cell<Residue>,
    /// A device wrote since the caches last agreed with memory.
    stale: Cell<bool>,
    /// A device was told the address and not yet made to forget it.
    exposed: Cell<bool>,
    effort: Cell<Effort>,
}

impl<M: Machine> Raw<M> {
    fn map(&self, memory: MemoryType) {
        let mapped = self.dma.map(self.va, self.frames, memory);
        let mapped = mapped.unwrap_or_else(|error| panic!("frames this buffer owns: {error}"));
        self.mapped.set(Some(mapped));
        self.tally(|effort| effort.map_changes += 1);
    }

    fn unmap(&self) {
        if let Some(mapped) = self.mapped.take() {
            self.dma.unmap(mapped);
            self.tally(|effort| effort.map_changes += 1);
        }
    }

    /// Runs cache work on the mapping, which must exist, and counts its lines.
    fn maintain(&self, work: impl FnOnce(&M, &Mapped) -> Lines) {
        let mapped = self.mapped.take().expect("maintenance needs a mapping (I3)");
        let lines = work(self.dma.machine, &mapped);
        self.mapped.set(Some(mapped));
        self.dma.count(lines);
        self.tally(|effort| effort.lines += lines);
    }

    fn tally(&self, add: impl FnOnce(&mut Effort)) {
        let mut effort = self.effort.get();
        add(&mut effort);
        self.effort.set(effort);
    }

    fn set_holder(&self, holder: Holder) {
        self.dma.set_holder(self.slot, holder, self.residue.get());
        self.tally(|effort| effort.transitions += 1);
    }

    fn pointer(&self) -> *mut u8 {
        self.dma.machine.reach(self.va)
    }

    /// Maps non-cacheable, sees to it that no line of former owners is left (I3), and zeroes (I5).
    fn map_zeroed(&self) {
        self.map(MemoryType::NonCacheable);
        if self.residue.get() != Residue::Nothing {
            // Their data is dead, dirty or not.
            self.maintain(M::invalidate);
            self.residue.set(Residue::Nothing);
        }
        // SAFETY: the frames are mapped at `va` for the whole of their length, writable, and this value owns them.
        unsafe { self.pointer().write_bytes(0, (self.frames.bytes()) as usize) };
        self.dma.machine.device_barrier();
    }

    /// Makes the CPU's first look possible: maps write-back and drops what the device made stale.
    fn open(&self) -> *mut u8 {
        let mapped = self.mapped.take();
        let open = mapped.is_some();
        self.mapped.set(mapped);
        if !open {
            self.map(MemoryType::WriteBack);
            // From here on the CPU may speculate lines in.
            self.residue.set(self.residue.get().max(Residue::Clean));
        }
        if self.stale.replace(false) {
            self.maintain(M::invalidate);
        }
        self.pointer()
    }

    fn close(&self) {
        if self.residue.get() == Residue::Dirty {
            self.maintain(M::clean);
            self.residue.set(Residue::Clean);
        }
        self.unmap();
    }
}

impl<M: Machine> Drop for Raw<M> {
    fn drop(&mut self) {
        self.unmap();
        if self.exposed.get() {
            self.dma.quarantine(self.slot);
        } else {
            self.dma.give_back(self.slot, self.residue.get());
        }
    }
}

macro_rules! common {
    ($($state:ty: [$($generics:tt)*]),*) => {$(
        impl<M: Machine, $($generics)*> $state {
            /// Bytes asked for when it was allocated. The frames go on to the end of the last page.
            pub const fn len(&self) -> usize {
                self.raw.bytes as usize
            }

            /// Never: an allocation of no bytes is refused.
            pub const fn is_empty(&self) -> bool {
                false
            }

            /// The frames.
            pub const fn frames(&self) -> FrameRange {
                self.raw.frames
            }

            /// What it took so far.
            pub fn effort(&self) -> Effort {
                self.raw.effort.get()
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
    pub(super) fn new(dma: &'static Dma<M>, slot: Slot, record: Record, bytes: u32, master: &Master) -> Self {
        debug_assert_eq!(whole_frames(bytes), record.frames.count());
        let raw = Raw {
            dma,
            slot,
            frames: record.frames,
            va: record.va,
            bytes,
            bus: master.bus(record.frames.base()).expect("frames within the reach it was allocated in"),
            mapped: Cell::new(None),
            residue: Cell::new(record.residue),
            stale: Cell::new(false),
            exposed: Cell::new(false),
            effort: Cell::new(Effort::default()),
        };
        Self { raw }
    }

    /// Maps the buffer non-cacheable for CPU and device alike; zeroed.
    pub fn into_coherent(self) -> Coherent<M> {
        self.raw.map_zeroed();
        self.raw.set_holder(Holder::Both);
        Coherent { raw: self.raw }
    }

    /// Makes it a stream, the CPU's at first; zeroed, not mapped until the CPU looks.
    pub fn into_stream<D: Direction>(self) -> Stream<M, D, Cpu> {
        self.raw.map_zeroed();
        self.raw.unmap();
        self.raw.set_holder(Holder::Cpu);
        Stream { raw: self.raw, state: PhantomData }
    }

    /// Gives it to devices for good; zeroed, never mapped for the CPU.
    pub fn into_device(self) -> DeviceOnly<M> {
        self.raw.map_zeroed();
        self.raw.unmap();
        self.raw.set_holder(Holder::Device);
        DeviceOnly { raw: self.raw }
    }
}

/// A buffer CPU and device share, Normal non-cacheable: what one writes the other sees, after
/// [`Cache::device_barrier`](crate::arch::Cache::device_barrier).
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

    /// The first byte, for drivers that lay out shared structures themselves. Valid for reads and writes of
    /// [`len`](Self::len) bytes while the buffer lives, by volatile accesses: the device may change any byte.
    pub fn as_ptr(&self) -> NonNull<u8> {
        NonNull::new(self.raw.pointer()).expect("a mapped address is not null")
    }

    /// Copies bytes out, from `offset` on, as far as both reach; returns how many.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        let count = to.len().min(self.len().saturating_sub(offset));
        for (n, byte) in to[..count].iter_mut().enumerate() {
            let at = self.raw.pointer().wrapping_add(offset + n);
            // SAFETY: `offset + n` is less than `len`, and the buffer is mapped while it lives.
            *byte = unsafe { at.read_volatile() };
        }
        count
    }

    /// Copies bytes in, from `offset` on, as far as both reach; returns how many.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> usize {
        let count = from.len().min(self.len().saturating_sub(offset));
        for (n, &byte) in from[..count].iter().enumerate() {
            let at = self.raw.pointer().wrapping_add(offset + n);
            // SAFETY: `offset + n` is less than `len`, and the buffer is mapped while it lives.
            unsafe { at.write_volatile(byte) };
        }
        count
    }

    /// Takes the buffer back from the device.
    ///
    /// # Safety
    ///
    /// The caller's duty is I4: the device will not access the buffer any more, and forgot its address.
    pub unsafe fn release(self) -> Contiguous<M> {
        self.raw.unmap();
        self.raw.exposed.set(false);
        self.raw.set_holder(Holder::Nobody);
        Contiguous { raw: self.raw }
    }
}

/// A buffer that goes back and forth: write-back while the CPU's, unmapped while the device's.
pub struct Stream<M: Machine + 'static, D: Direction, O> {
    raw: Raw<M>,
    state: PhantomData<(D, O)>,
}

impl<M: Machine, D: Direction> Stream<M, D, Cpu> {
    /// The bytes, read-only: afterwards the caches may hold clean lines of them.
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.raw.open();
        // SAFETY: the buffer is mapped write-back for its whole length and stays so while `self` is borrowed, for
        // every transition takes it by value; no device accesses it (what `Stream<_, Cpu>` proves, I4); zeroed (I5).
        unsafe { core::slice::from_raw_parts(bytes, self.len()) }
    }

    /// Hands the buffer to the device: cleans what the CPU may have written, and unmaps.
    ///
    /// After this returns, the device reads what the CPU wrote, and no line is evicted over what the device writes.
    pub fn for_device(self) -> Stream<M, D, Device> {
        self.raw.close();
        self.raw.dma.machine.device_barrier();
        self.raw.exposed.set(true);
        self.raw.set_holder(Holder::Device);
        Stream { raw: self.raw, state: PhantomData }
    }
}

impl<M: Machine, D: Direction<CpuWrites = Yes>> Stream<M, D, Cpu> {
    /// The bytes, writable: afterwards the caches may hold dirty lines of them, and the hand-over cleans.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.raw.open();
        self.raw.residue.set(Residue::Dirty);
        // SAFETY: as in `bytes`; and `self` is borrowed mutably, so this is the only view.
        unsafe { core::slice::from_raw_parts_mut(bytes, self.len()) }
    }
}

impl<M: Machine, D: Direction> Stream<M, D, Device> {
    /// The address to program into the device.
    pub const fn bus(&self) -> BusAddr {
        self.raw.bus
    }

    /// Takes the buffer back for the CPU. Costs nothing yet: mapping and invalidate wait for the CPU's first look.
    ///
    /// # Safety
    ///
    /// The caller's duty is I4: the device has finished with the buffer, which it said in a register or in memory read
    /// before this call, and will not access it until it is handed over again.
    pub unsafe fn for_cpu(self) -> Stream<M, D, Cpu> {
        if D::DEVICE_WRITES && self.raw.residue.get() != Residue::Nothing {
            self.raw.stale.set(true);
        }
        self.raw.exposed.set(false);
        self.raw.set_holder(Holder::Cpu);
        Stream { raw: self.raw, state: PhantomData }
    }
}

/// A buffer for devices alone: one writes it, another reads it, the CPU never does. Dropping quarantines it once its
/// address was told.
pub struct DeviceOnly<M: Machine + 'static> {
    raw: Raw<M>,
}

impl<M: Machine> DeviceOnly<M> {
    /// The address to program into the devices. From here on a drop quarantines.
    pub fn bus(&self) -> BusAddr {
        self.raw.exposed.set(true);
        self.raw.bus
    }

    /// Takes the buffer back from its devices.
    ///
    /// # Safety
    ///
    /// The caller's duty is I4: no device will access the buffer any more.
    pub unsafe fn release(self) -> Contiguous<M> {
        self.raw.exposed.set(false);
        self.raw.set_holder(Holder::Nobody);
        Contiguous { raw: self.raw }
    }
}
