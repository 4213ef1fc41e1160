//! Pools of blocks that belong to the CPU and to the device in turns: packets of a network device.
//!
//! Guarantees, beside those of [every pool](super):
//!
//! - A block is whole cache lines, of the largest line that any level has. So what is done to a block's lines touches
//!   no byte of another block.
//! - All mappings of the pool's memory are write-back, from the time it is made until it ends (I1).
//! - While a device owns a block, no value of this API names its bytes (I4), and no line of it is dirty. So nothing is
//!   evicted over what the device writes.
//! - What the CPU wrote is in memory before the device owns the block. Lines that the CPU speculated in while the
//!   device owned it are gone before the CPU looks (I3).
//! - The memory is zeroed once, when the pool is made. From then on it is the pool's own: whoever gets a block finds
//!   zeros in it, or what an earlier block of the same pool held (I5).
//!
//! A block costs its own size: no page, no guard, and no record among those of the buffers. A hand-over maps nothing.
//! It takes neither a lock nor a TLB invalidate. What is given up, against a [`Stream`] of whole pages, is the fault:
//! the pool's memory stays mapped, so a pointer that outlived its view reads or writes a block that the device owns,
//! and nobody notices. The types forbid it, as they forbid it for a `Stream`; only the second fence is missing. Every
//! look at what a device wrote costs an invalidate too, for the CPU may speculate at any time.
//!
//! ```compile_fail,E0599
//! use carveout::{dma::{Device, FromDevice, StreamBlock}, machine::Machine};
//! fn read_while_the_device_owns_it<M: Machine>(packet: StreamBlock<M, FromDevice, Device>) {
//!     let _ = packet.bytes();
//! }
//! ```
//!
//! ```compile_fail,E0599
//! use carveout::{dma::{Cpu, FromDevice, StreamBlock}, machine::Machine};
//! fn write_what_only_the_device_writes<M: Machine>(mut packet: StreamBlock<M, FromDevice, Cpu>) {
//!     packet.bytes_mut();
//! }
//! ```
//!
//! ```compile_fail,E0505
//! use carveout::{dma::{Cpu, StreamBlock, ToDevice}, machine::Machine};
//! fn keep_a_view_across_the_hand_over<M: Machine>(packet: StreamBlock<M, ToDevice, Cpu>) -> u8 {
//!     let view = packet.bytes();
//!     let _device = packet.for_device();
//!     view[0]
//! }
//! ```
//!
//! ```compile_fail,E0382
//! use carveout::{dma::{Cpu, StreamBlock, ToDevice}, machine::Machine};
//! fn two_owners<M: Machine>(packet: StreamBlock<M, ToDevice, Cpu>) {
//!     let one = packet.for_device();
//!     let two = packet.for_device();
//! }
//! ```
//!
//! ```compile_fail,E0599
//! use carveout::{dma::{Cpu, StreamBlock, ToDevice}, machine::Machine};
//! fn tell_a_device_what_the_cpu_owns<M: Machine>(packet: StreamBlock<M, ToDevice, Cpu>) {
//!     let _ = packet.bus();
//! }
//! ```

use super::shape::{BlockShape, PoolError};
use super::store::{Backing, BlocksOut, Held, PoolExhausted, Share};
use crate::addr::{BusAddr, VirtAddr};
use crate::dma::buffer::{
    Contiguous, Cpu, DataDirection, Device, Direction, DirectionError, Stream, TypedDirection, Yes,
};
use crate::dma::exec::{Done, Subject, run};
use crate::dma::master::Master;
use crate::dma::registry::Dma;
use crate::machine::Machine;
use crate::protocol::{Knowledge, Op, Span, Transition};
use crate::vm::attr::MemoryType;
use crate::vm::ledger::Residue;
use crate::vm::mapped::Mapped;
use core::convert::Infallible;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;

impl<M: Machine> Backing for Stream<M, DataDirection, Cpu> {
    type Shared = Mapped;

    fn share(&self) -> Mapped {
        self.open_for_blocks()
    }

    fn end(&self, mapped: Mapped, lost: bool) {
        self.end_blocks(mapped, lost);
    }
}

/// Blocks of one shape for one device, which go back and forth in the direction `D`: packets, such as a network
/// device's.
///
/// When it and all its blocks are dropped, its memory is freed. Buffers with lost blocks are quarantined.
///
/// ```
/// use carveout::dma::{BlockShape, FromDevice, StreamPool};
/// # use carveout::{addr::PhysAddr, setup::Setup};
/// # let setup = Setup::new(1);
/// # let ethernet = setup.master("ethernet");
///
/// let shape = BlockShape { size: 1536, align: 64, boundary: None };
/// let pool = StreamPool::<_, FromDevice>::new(setup.dma, &ethernet, shape, 64).expect("24 pages");
///
/// let packet = pool.alloc().expect("all 64 are free").for_device();
/// setup.fake.device_write(PhysAddr::new(packet.bus().raw()), b"a frame");
///
/// // SAFETY: the descriptor says that the device is done, and wrote 7 bytes (I4).
/// let packet = unsafe { packet.for_cpu_part(0..7) };
/// assert_eq!(&packet.bytes()[..7], b"a frame");
/// ```
pub struct StreamPool<M: Machine + 'static, D: Direction> {
    store: Share<M, Stream<M, DataDirection, Cpu>>,
    direction: D,
}

impl<M: Machine, D: TypedDirection> StreamPool<M, D> {
    /// Makes a pool of `blocks` blocks for a device. It takes their memory from the device's area, in as few buffers as
    /// its boundary permits, and 16 bytes of heap for each block. The pool takes nothing more afterwards. Blocks are
    /// aligned to the largest cache line, or more if their shape says so.
    ///
    /// # Errors
    ///
    /// [`PoolError::NoBlocks`], [`PoolError::ZeroSize`], [`PoolError::Alignment`], [`PoolError::Boundary`] and
    /// [`PoolError::Crossing`] if the request itself is wrong. [`PoolError::Heap`] if the heap has no room for the
    /// lists. [`PoolError::Alloc`] if the area refuses a buffer. The pool keeps no memory then. Loans that were
    /// recalled for it stay recalled.
    pub fn new(dma: &'static Dma<M>, master: &Master, shape: BlockShape, blocks: u32) -> Result<Self, PoolError> {
        Self::make(dma, master, D::default(), shape, blocks)
    }
}

impl<M: Machine> StreamPool<M, DataDirection> {
    /// Makes a pool as [`new`](Self::new) does, whose direction is a value.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn of(
        dma: &'static Dma<M>,
        master: &Master,
        direction: DataDirection,
        shape: BlockShape,
        blocks: u32,
    ) -> Result<Self, PoolError> {
        Self::make(dma, master, direction, shape, blocks)
    }
}

impl<M: Machine, D: Direction> StreamPool<M, D> {
    fn make(
        dma: &'static Dma<M>,
        master: &Master,
        direction: D,
        shape: BlockShape,
        blocks: u32,
    ) -> Result<Self, PoolError> {
        let back = |buffer: Contiguous<M>| buffer.into_stream_of(direction.value());
        Ok(Self { store: Share::make(dma, master, shape, dma.machine.line(), blocks, back)?, direction })
    }

    /// Takes a block, which is the CPU's. Its bytes are zeros, or what an earlier block of this pool held. It never
    /// waits, never maps and maintains no line.
    ///
    /// # Errors
    ///
    /// [`PoolExhausted`] if no block is free.
    pub fn alloc(&self) -> Result<StreamBlock<M, D, Cpu>, PoolExhausted> {
        let held = self.store.take()?;
        // All that was written to a free block is in memory, and none of its lines is stale.
        let knows = Knowledge::new(Residue::Nothing).after(Op::Map(MemoryType::WriteBack));
        Ok(StreamBlock { block: Block { held, knows }, direction: self.direction, owner: PhantomData })
    }

    /// Returns how many blocks somebody holds.
    pub fn held(&self) -> u32 {
        self.store.held()
    }

    /// Returns how many blocks were dropped while a device owned them. They are never used again.
    pub fn lost(&self) -> u32 {
        self.store.lost()
    }

    /// Frees the pool's memory: `dma_pool_destroy`. This is safe, for a block goes back to its pool as the CPU's alone.
    ///
    /// # Errors
    ///
    /// [`BlocksOut`] and the pool itself if blocks are held or lost.
    pub fn destroy(self) -> Result<(), (BlocksOut, Self)> {
        match self.store.out() {
            None => Ok(()),
            Some(out) => Err((out, self)),
        }
    }
}

impl<M: Machine, D: Direction> fmt::Debug for StreamPool<M, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.debug("StreamPool", f)
    }
}

/// A block of a pool of streams. Its direction is `D`, a type or [`DataDirection`]. Its owner `O` is [`Cpu`] or
/// [`Device`].
///
/// Dropping one that the CPU owns puts it back into its pool, and cleans what was written since the last hand-over.
/// Dropping one that a device owns loses it, and [`StreamPool::lost`] counts it.
pub struct StreamBlock<M: Machine + 'static, D: Direction, O> {
    block: Block<M>,
    direction: D,
    owner: PhantomData<O>,
}

/// A block, whoever owns it, and what the caches may hold of it. Spans count from the start of its buffer on.
struct Block<M: Machine + 'static> {
    held: Held<M, Stream<M, DataDirection, Cpu>>,
    knows: Knowledge,
}

impl<M: Machine> Block<M> {
    /// Does what is due of a transition.
    fn run(&mut self, transition: Transition) {
        let Ok(()) = run(self, transition);
    }

    fn len(&self) -> usize {
        self.held.store.size as usize
    }

    fn bus(&self) -> BusAddr {
        self.held.place().bus
    }

    /// Returns the place of all bytes.
    fn all(&self) -> Span {
        let start = self.held.place().offset;
        Span { start, end: start + self.held.store.size }
    }

    /// Returns the place of `range`, or `None` if it is not in order and inside.
    fn inside(&self, range: &Range<usize>) -> Option<Span> {
        let inside = range.start <= range.end && range.end <= self.len();
        let start = self.held.place().offset;
        inside.then(|| Span { start: start + range.start as u32, end: start + range.end as u32 })
    }

    /// Returns the pointer to a span that is inside.
    fn pointer(&self, span: Span) -> *mut u8 {
        let first = self.held.shared().va();
        self.held.store.dma.machine.reach(VirtAddr::new(first.raw() + span.start), span.end - span.start)
    }
}

impl<M: Machine> Subject<M> for Block<M> {
    type Refused = Infallible;

    fn dma(&self) -> &Dma<M> {
        self.held.store.dma
    }

    fn knows(&self) -> Knowledge {
        self.knows
    }

    fn learn(&mut self, knows: Knowledge) {
        self.knows = knows;
    }

    /// The mapping is the pool's, and its lock is not held.
    fn through_mapping(&mut self, work: impl FnOnce(&Self, &Mapped)) {
        work(self, self.held.shared());
    }

    fn count(&self, done: Done) {
        done.add_to(&self.held.store.dma.counters, 0);
    }
}

impl<M: Machine> Drop for Block<M> {
    fn drop(&mut self) {
        // What a device owns is lost, and stays as it is.
        if !self.held.told.get() {
            self.run(Transition::GiveBlock);
        }
    }
}

impl<M: Machine, D: Direction, O> StreamBlock<M, D, O> {
    /// Returns the bytes of the block: the size in the pool's shape.
    pub fn len(&self) -> usize {
        self.block.len()
    }

    /// Returns `false`: a pool of empty blocks is refused.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Returns the direction as a value.
    pub fn direction(&self) -> DataDirection {
        self.direction.value()
    }
}

impl<M: Machine, D: Direction> StreamBlock<M, D, Cpu> {
    /// Returns the bytes, read-only.
    pub fn bytes(&self) -> &[u8] {
        let bytes = self.block.pointer(self.block.all());
        // SAFETY: the pool's memory is mapped write-back while the block lives; off the free list its bytes are the
        // block's alone; no device accesses them (what `StreamBlock<_, Cpu>` proves, I4), and no line of them is stale
        // (I3); zeroed once (I5).
        unsafe { core::slice::from_raw_parts(bytes, self.len()) }
    }

    /// Returns the address at which the device will find the block once it is handed over, for a descriptor that is
    /// written before. The device must not be told of it before [`for_device`](Self::for_device), and not at all if the
    /// block ends otherwise: no type looks after that (I4).
    pub fn future_bus(&self) -> BusAddr {
        self.block.bus()
    }

    /// Hands the block to the device. This cleans what the CPU may have written, and passes the device barrier if it
    /// did.
    ///
    /// After reads alone it passes no barrier. So the driver passes
    /// [`device_barrier`](crate::machine::Cache::device_barrier) before it writes the word that lets the device write
    /// the block again: a store may be seen before an earlier load is done (ARM ARM A3.8.2).
    pub fn for_device(mut self) -> StreamBlock<M, D, Device> {
        self.block.run(Transition::GiveBlock);
        self.block.held.told.set(true);
        StreamBlock { block: self.block, direction: self.direction, owner: PhantomData }
    }

    /// Returns a span of the bytes, which is inside, for the CPU to write.
    fn written(&mut self, span: Span) -> &mut [u8] {
        let bytes = self.block.pointer(span);
        self.block.knows = self.block.knows.writable(span);
        // SAFETY: as in `bytes`; and `self` is borrowed mutably, so this is the only view. The span is inside.
        unsafe { core::slice::from_raw_parts_mut(bytes, (span.end - span.start) as usize) }
    }
}

impl<M: Machine> StreamBlock<M, DataDirection, Cpu> {
    /// Returns the bytes, writable, if the CPU writes in this direction.
    ///
    /// # Errors
    ///
    /// [`DirectionError::ReadOnly`] if it does not.
    pub fn try_bytes_mut(&mut self) -> Result<&mut [u8], DirectionError> {
        self.direction.check_writable()?;
        Ok(self.written(self.block.all()))
    }

    /// Returns a part of the bytes, writable, if the CPU writes in this direction, or `None` if it is not inside.
    ///
    /// # Errors
    ///
    /// [`DirectionError::ReadOnly`] if the CPU does not write.
    pub fn try_part_mut(&mut self, range: Range<usize>) -> Result<Option<&mut [u8]>, DirectionError> {
        self.direction.check_writable()?;
        let span = self.block.inside(&range);
        Ok(span.map(|span| self.written(span)))
    }
}

impl<M: Machine, D: Direction<CpuWrites = Yes>> StreamBlock<M, D, Cpu> {
    /// Returns the bytes, writable. The hand-over cleans the lines of all of them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.written(self.block.all())
    }

    /// Returns a part of the bytes, writable, or `None` if it is not inside. The hand-over cleans only the lines of
    /// this part.
    pub fn part_mut(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        let span = self.block.inside(&range)?;
        Some(self.written(span))
    }
}

impl<M: Machine, D: Direction> StreamBlock<M, D, Device> {
    /// Returns the address to program into the device.
    pub fn bus(&self) -> BusAddr {
        self.block.bus()
    }

    /// Takes the block back for the CPU. If the device writes in this direction, this drops the lines of all its bytes.
    ///
    /// # Safety
    ///
    /// I4: the device has finished with the block. It said so in a register, or in memory that was read before this
    /// call. It will not access the block until it is handed over again.
    pub unsafe fn for_cpu(self) -> StreamBlock<M, D, Cpu> {
        let all = self.block.all();
        self.take_back(all)
    }

    /// Takes the block back for the CPU from a device that wrote only `written` of the bytes, such as a packet that is
    /// shorter than its block. This drops the lines of these bytes alone. A range that is not inside counts as all.
    ///
    /// # Safety
    ///
    /// As [`for_cpu`](Self::for_cpu), and the device wrote nothing outside the range.
    pub unsafe fn for_cpu_part(self, written: Range<usize>) -> StreamBlock<M, D, Cpu> {
        let span = self.block.inside(&written).unwrap_or_else(|| self.block.all());
        self.take_back(span)
    }

    /// Makes the block the CPU's again. The device wrote at most `written` of it.
    fn take_back(mut self, written: Span) -> StreamBlock<M, D, Cpu> {
        if self.direction().device_writes() {
            self.block.knows = self.block.knows.device_wrote(written);
        }
        self.block.run(Transition::TakeBlock);
        self.block.held.told.set(false);
        StreamBlock { block: self.block, direction: self.direction, owner: PhantomData }
    }
}

impl<M: Machine, D: Direction, O> fmt::Debug for StreamBlock<M, D, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.block.held.debug("StreamBlock", f)
    }
}
