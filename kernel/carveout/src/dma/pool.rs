//! Pools of small coherent blocks for descriptors and command tables: Linux's `dma_pool`.
//!
//! Guarantees:
//!
//! - Every block has the size, alignment and boundary of the pool's [`BlockShape`] on the bus.
//! - No two blocks that are held share a byte. Whoever gets a block finds zeros in it (I5).
//! - A pool takes its memory once, when it is made. (`dma_pool_create` allocates later, page by page.) So an allocation
//!   is refused only if no block is free.
//! - [`Pool::alloc`] and [`PoolBlock::free`] map nothing, maintain no cache line and take no lock. They change one
//!   entry of the free list, however many blocks there are. So interrupt handlers and other contexts that must neither
//!   wait nor map may call them.
//! - The free list stands outside the coherent memory, where no device can write to it.
//!
//! Two mistakes that `dma_pool_free` leaves to the caller do not compile here. A block knows its pool, so it cannot be
//! freed to another one. Freeing consumes the block. A block keeps its pool's memory mapped, so no block outlives its
//! bytes.
//!
//! Blocks stay mapped. So a core that another core gave a pool needs one context synchronisation before its first
//! block: the exception that woke it, or an ISB (ARM ARM B3.10.1).
//!
//! An interrupt handler may allocate, free, drop and access blocks. It must not make a pool or drop one, and it must
//! not drop the last block of a pool that was dropped: these calls use the heap.
//!
//! ```compile_fail,E0382
//! use carveout::{dma::PoolBlock, machine::Machine};
//! fn double_free<M: Machine>(block: PoolBlock<M>) {
//!     unsafe { block.free() };
//!     unsafe { block.free() };
//! }
//! ```
//!
//! ```compile_fail,E0382
//! use carveout::{addr::BusAddr, dma::PoolBlock, machine::Machine};
//! fn use_after_free<M: Machine>(block: PoolBlock<M>) -> BusAddr {
//!     unsafe { block.free() };
//!     block.bus()
//! }
//! ```
//!
//! ```compile_fail,E0599
//! use carveout::{dma::PoolBlock, machine::Machine};
//! fn two_owners<M: Machine>(block: PoolBlock<M>) -> (PoolBlock<M>, PoolBlock<M>) {
//!     (block.clone(), block)
//! }
//! ```

use crate::addr::{BusAddr, FRAME_SIZE};
use crate::cma::area::AllocError;
use crate::dma::buffer::Coherent;
use crate::dma::master::Master;
use crate::dma::registry::Dma;
use crate::dma::word::{Bytes, Word};
use crate::heap::room;
use crate::machine::Machine;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;
#[cfg(not(all(test, loom)))]
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use spin::Mutex;

/// The shape of a pool's blocks, in bytes, at the addresses that the device sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockShape {
    /// The size of a block, 1 or more.
    pub size: u32,
    /// A power of two. The bus address of each block is a multiple of it.
    pub align: u32,
    /// A power of two, `size` or more. No block crosses a multiple of it. With `None` a block may cross any.
    pub boundary: Option<u32>,
}

impl BlockShape {
    fn check(self) -> Result<(), PoolError> {
        let Self { size, align, boundary } = self;
        if size == 0 {
            return Err(PoolError::ZeroSize);
        }
        if !align.is_power_of_two() {
            return Err(PoolError::Alignment { align });
        }
        match boundary {
            Some(boundary) if !boundary.is_power_of_two() => Err(PoolError::Boundary { boundary }),
            Some(boundary) if size > boundary => Err(PoolError::Crossing { size, boundary }),
            _ => Ok(()),
        }
    }

    /// Returns the first place for a block at bus address `from` or after.
    fn place(self, from: u64) -> u64 {
        let start = from.next_multiple_of(self.align.into());
        match self.boundary.map(u64::from) {
            // A block that would cross a boundary moves up to it. A boundary is coarser than the alignment then, so the
            // block stays aligned.
            Some(boundary) if start % boundary + u64::from(self.size) > boundary => start.next_multiple_of(boundary),
            _ => start,
        }
    }

    /// Returns the bytes that `blocks`, 1 or more, take from a multiple of both alignment and boundary on.
    fn span(self, blocks: u32) -> u64 {
        let (size, align) = (u64::from(self.size), u64::from(self.align));
        let stride = size.next_multiple_of(align);
        let (together, period) = match self.boundary.map(u64::from) {
            Some(boundary) if boundary > align => ((boundary - size) / stride + 1, boundary),
            _ => (1, stride),
        };
        let last = u64::from(blocks) - 1;
        last / together * period + last % together * stride + size
    }
}

/// Why a pool was not made. It keeps no memory. A pool takes its buffers one after another, so loans may have been
/// recalled for those that came before the refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoolError {
    /// The blocks would have no bytes.
    ZeroSize,
    /// The pool would have no blocks.
    NoBlocks,
    /// The alignment is not a power of two.
    Alignment {
        /// What was asked for, in bytes.
        align: u32,
    },
    /// The boundary is not a power of two.
    Boundary {
        /// What was asked for, in bytes.
        boundary: u32,
    },
    /// Every block would cross the boundary.
    Crossing {
        /// Bytes of a block.
        size: u32,
        /// The boundary, in bytes.
        boundary: u32,
    },
    /// The heap has no room for the pool's lists.
    Heap {
        /// The blocks asked for.
        blocks: u32,
    },
    /// The area refused the memory.
    Alloc(AllocError),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroSize => write!(f, "pool of blocks of no bytes"),
            Self::NoBlocks => write!(f, "pool of no blocks"),
            Self::Alignment { align } => write!(f, "pool: alignment of {align:#x} bytes is not a power of two"),
            Self::Boundary { boundary } => write!(f, "pool: boundary of {boundary:#x} bytes is not a power of two"),
            Self::Crossing { size, boundary } => {
                write!(f, "pool: a block of {size:#x} bytes crosses every boundary of {boundary:#x} bytes")
            }
            Self::Heap { blocks } => write!(f, "pool: no heap left to keep {blocks} blocks in"),
            Self::Alloc(error) => write!(f, "pool: {error}"),
        }
    }
}

impl core::error::Error for PoolError {}

/// The refusal of a block: all blocks of the pool are held or lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolExhausted {
    /// The device that the pool was made for.
    pub owner: &'static str,
    /// The number of blocks of the pool.
    pub blocks: u32,
    /// How many of them were dropped while a device may have known their address.
    pub lost: u32,
}

impl fmt::Display for PoolExhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, blocks, lost } = self;
        write!(f, "all {blocks} blocks of the pool of {owner} are out, {lost} of them lost")
    }
}

impl core::error::Error for PoolExhausted {}

/// The refusal to free a pool: some of its blocks did not come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlocksOut {
    /// The device that the pool was made for.
    pub owner: &'static str,
    /// Blocks that somebody holds.
    pub held: u32,
    /// Blocks that were dropped while a device may have known their address.
    pub lost: u32,
}

impl fmt::Display for BlocksOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, held, lost } = self;
        write!(f, "the pool of {owner} has {held} blocks held and {lost} lost")
    }
}

impl core::error::Error for BlocksOut {}

/// What follows the last free block in the list.
const END: u32 = u32::MAX;
/// The mark of a block that never comes back. No block has this number: a pool that large has no memory.
const LOST: u32 = u32::MAX - 1;

/// The numbers of free blocks, last in first out.
#[derive(Debug)]
struct FreeList {
    /// The first free block and, in the upper half, a count of changes. Without the count, an update could succeed
    /// although others took that block and gave it back meanwhile, and would bring back an old list. With it, that
    /// takes exactly 2^32 changes meanwhile.
    head: AtomicU64,
    /// The next free block, for each free block.
    next: Vec<AtomicU32>,
}

impl FreeList {
    /// Makes a list of all blocks, or returns `None` if the heap has no room for it.
    fn new(blocks: u32) -> Option<Self> {
        let mut next = Vec::new();
        next.try_reserve_exact(blocks as usize).ok()?;
        next.extend((1..=blocks).map(|n| AtomicU32::new(if n < blocks { n } else { END })));
        Some(Self { head: AtomicU64::new(0), next })
    }

    const fn changed(head: u64, first: u32) -> u64 {
        ((head >> 32).wrapping_add(1) << 32) | first as u64
    }

    fn pop(&self) -> Option<u32> {
        let after = |head: u64| {
            let next = self.next.get(head as u32 as usize)?.load(Ordering::Relaxed);
            Some(Self::changed(head, next))
        };
        // Acquire: what was done to the block before it was freed comes first.
        self.head.fetch_update(Ordering::Acquire, Ordering::Acquire, after).ok().map(|head| head as u32)
    }

    /// Puts back a block that was popped and not pushed since.
    fn push(&self, block: u32) {
        let before = |head: u64| {
            self.next[block as usize].store(head as u32, Ordering::Relaxed);
            Some(Self::changed(head, block))
        };
        self.head.fetch_update(Ordering::Release, Ordering::Relaxed, before).expect("there is always a head");
    }

    /// Marks a block that was popped as lost. It is never pushed again.
    fn lose(&self, block: u32) {
        self.next[block as usize].store(LOST, Ordering::Relaxed);
    }

    fn lost(&self) -> impl Iterator<Item = usize> + '_ {
        self.next.iter().enumerate().filter_map(|(n, next)| (next.load(Ordering::Relaxed) == LOST).then_some(n))
    }
}

/// The place of a block.
#[derive(Debug)]
struct BlockPlace {
    at: NonNull<u8>,
    bus: BusAddr,
    buffer: usize,
}

// SAFETY: an address is not an access; those go through the one `PoolBlock` of this place.
unsafe impl Send for BlockPlace {}
// SAFETY: as above.
unsafe impl Sync for BlockPlace {}

/// The parts that the pool and its blocks share. They live as long as any of those.
struct Store<M: Machine + 'static> {
    /// How many shares there are.
    shares: AtomicU32,
    dma: &'static Dma<M>,
    owner: &'static str,
    size: u32,
    places: Vec<BlockPlace>,
    free: FreeList,
    lost: AtomicU32,
    /// The buffers. The mutex makes the store `Sync` and is never locked: only the drop, which has the store alone,
    /// uses them.
    buffers: Mutex<Vec<Coherent<M>>>,
}

impl<M: Machine> Drop for Store<M> {
    fn drop(&mut self) {
        // No block is held any more. A free block is used by no device. The buffer of a lost block counts as told here,
        // so that its drop quarantines it.
        for n in self.free.lost() {
            let _ = self.buffers.get_mut()[self.places[n].buffer].bus();
        }
    }
}

/// A share of a store, which is dropped with the last one. An `Arc` would end the program where the heap is full.
struct Share<M: Machine + 'static>(NonNull<Store<M>>);

// SAFETY: as `Arc`: whoever has a share has a reference to the store, and the last one drops it.
unsafe impl<M: Machine> Send for Share<M> where Store<M>: Send + Sync {}
// SAFETY: as above.
unsafe impl<M: Machine> Sync for Share<M> where Store<M>: Send + Sync {}

impl<M: Machine> Share<M> {
    /// Makes a store and its first share. `place` is an empty list with room for it.
    fn first(mut place: Vec<Store<M>>, store: Store<M>) -> Self {
        place.push(store);
        Self(NonNull::from(Box::leak(place.into_boxed_slice())).cast())
    }
}

impl<M: Machine> Clone for Share<M> {
    fn clone(&self) -> Self {
        // There are fewer blocks than the counter can count.
        self.shares.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl<M: Machine> Deref for Share<M> {
    type Target = Store<M>;

    fn deref(&self) -> &Store<M> {
        // SAFETY: the store lives as long as this share, and is only ever shared.
        unsafe { self.0.as_ref() }
    }
}

impl<M: Machine> Drop for Share<M> {
    fn drop(&mut self) {
        // Release and acquire: what was done through other shares comes before the store's drop.
        if self.shares.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: `first` leaked it as a list of one, which has the layout of one; no other share is left.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

/// Confines the master between multiples of `boundary`. That is at least a frame, for buffers begin at frames.
fn between(master: &Master, boundary: u32) -> Master {
    let own = master.boundary().unwrap_or(boundary);
    let confined = master.clone().with_boundary(boundary.min(own).max(FRAME_SIZE));
    confined.expect("a power of two, a frame or more")
}

/// Blocks of one shape for one device.
///
/// When it and all its blocks are dropped, its memory is freed. Buffers with lost blocks are quarantined.
///
/// ```
/// use carveout::dma::{BlockShape, Pool};
/// use carveout::setup::Setup;
///
/// let setup = Setup::new(1);
/// let shape = BlockShape { size: 64, align: 32, boundary: None };
/// let pool = Pool::new(setup.dma, &setup.master("ethernet"), shape, 128).expect("two pages");
///
/// let mut descriptor = pool.alloc().expect("all 128 are free");
/// descriptor.write_word(0, 0x6020_0000u32);
/// descriptor.device_barrier(); // before the device is told of `descriptor.bus()`
/// assert_eq!((pool.held(), pool.lost()), (1, 0));
/// ```
pub struct Pool<M: Machine + 'static> {
    store: Share<M>,
}

impl<M: Machine> Pool<M> {
    /// Makes a pool of `blocks` blocks for a device. It takes their memory from the device's area, in as few buffers as
    /// its boundary permits, and 16 bytes of heap for each block. The pool takes nothing more afterwards.
    ///
    /// # Errors
    ///
    /// [`PoolError::NoBlocks`], [`PoolError::ZeroSize`], [`PoolError::Alignment`], [`PoolError::Boundary`] and
    /// [`PoolError::Crossing`] if the request itself is wrong. [`PoolError::Heap`] if the heap has no room for the
    /// lists. [`PoolError::Alloc`] if the area refuses a buffer. The pool keeps no memory then. Loans that were
    /// recalled for it stay recalled.
    #[expect(clippy::missing_panics_doc, reason = "a buffer lies within its device's reach, and holds a block")]
    pub fn new(dma: &'static Dma<M>, master: &Master, shape: BlockShape, blocks: u32) -> Result<Self, PoolError> {
        shape.check()?;
        if blocks == 0 {
            return Err(PoolError::NoBlocks);
        }
        let BlockShape { size, align, .. } = shape;
        // No buffer crosses the master's boundary, so none is larger.
        let largest = master.boundary().map_or(u32::MAX, |boundary| boundary.max(size));
        let mut buffers = Vec::new();
        // This comes first, so that the heap is not asked for a list of more blocks than the area has memory for.
        if let Ok(area) = master.area() {
            let wanted = shape.span(blocks).next_multiple_of(u64::from(FRAME_SIZE));
            let (free, _) = dma.free_bytes(area);
            if wanted > free {
                return Err(PoolError::Alloc(AllocError::NoCapacity { wanted, free }));
            }
        }
        let mut places: Vec<BlockPlace> = Vec::new();
        places.try_reserve_exact(blocks as usize).map_err(|_| PoolError::Heap { blocks })?;
        let free = FreeList::new(blocks).ok_or(PoolError::Heap { blocks })?;
        let place = room(1).map_err(|_| PoolError::Heap { blocks })?;
        while let left @ 1.. = blocks - places.len() as u32 {
            let span = shape.span(left);
            let bytes = span.min(largest.into()) as u32;
            // Blocks that all fit between two boundaries are put there. Otherwise a buffer holds a block wherever it
            // begins.
            let confined = match shape.boundary {
                Some(boundary) if span <= boundary.into() => between(master, boundary),
                _ => master.clone(),
            };
            buffers.try_reserve(1).map_err(|_| PoolError::Heap { blocks })?;
            let buffer = dma.alloc(&confined, bytes, align).map_err(PoolError::Alloc)?.into_coherent();
            // The buffer's own `bus` would count as told. Nobody is told yet, and a pool that is refused half-way just
            // frees its buffers.
            let bus = master.bus(buffer.frames().base()).expect("frames within the reach they were allocated in");
            let first = u64::from(bus.raw());
            let mut next = first;
            while places.len() < blocks as usize {
                let start = shape.place(next);
                next = start + u64::from(size);
                if next > first + u64::from(bytes) {
                    break;
                }
                let at = buffer.as_ptr().as_ptr().wrapping_add((start - first) as usize);
                let at = NonNull::new(at).expect("a mapped address is not null");
                places.push(BlockPlace { at, bus: BusAddr::new(start as u32), buffer: buffers.len() });
            }
            let holds_one = places.last().is_some_and(|place| place.buffer == buffers.len());
            assert!(holds_one, "a buffer begins at the alignment on the bus, so a block fits it");
            buffers.push(buffer);
        }
        let (shares, lost, buffers) = (AtomicU32::new(1), AtomicU32::new(0), Mutex::new(buffers));
        let store = Store { shares, dma, owner: master.name(), size, places, free, lost, buffers };
        Ok(Self { store: Share::first(place, store) })
    }

    /// Takes a block, filled with zeros: `dma_pool_zalloc`. It never waits and never maps. The device finds the zeros
    /// after [`PoolBlock::device_barrier`], as it finds all that the CPU writes.
    ///
    /// # Errors
    ///
    /// [`PoolExhausted`] if no block is free.
    pub fn alloc(&self) -> Result<PoolBlock<M>, PoolExhausted> {
        let store = &self.store;
        let Some(number) = store.free.pop() else {
            return Err(PoolExhausted { owner: store.owner, blocks: store.free.next.len() as u32, lost: self.lost() });
        };
        let block = PoolBlock { store: store.clone(), number, told: Cell::new(false) };
        // SAFETY: a block's bytes are mapped, writable, while it lives; off the free list they are its alone, and no
        // device uses them: whoever freed the block promised it, or none was ever told of it.
        unsafe { block.place().at.write_bytes(0, block.len()) };
        Ok(block)
    }

    /// Returns how many blocks somebody holds.
    pub fn held(&self) -> u32 {
        // Only the blocks and this pool share the store.
        self.store.shares.load(Ordering::Relaxed) - 1
    }

    /// Returns how many blocks were dropped while a device may have known their address. They are never used again.
    pub fn lost(&self) -> u32 {
        self.store.lost.load(Ordering::Relaxed)
    }

    /// Frees the pool's memory: `dma_pool_destroy`. This is safe, because each [`PoolBlock::free`] promised that the
    /// device has done with that block.
    ///
    /// # Errors
    ///
    /// [`BlocksOut`] and the pool itself if blocks are held or lost.
    pub fn destroy(self) -> Result<(), (BlocksOut, Self)> {
        match (self.held(), self.lost()) {
            (0, 0) => Ok(()),
            (held, lost) => Err((BlocksOut { owner: self.store.owner, held, lost }, self)),
        }
    }
}

impl<M: Machine> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, lost) = (self.held(), self.lost());
        f.debug_struct("Pool").field("owner", &self.store.owner).field("held", &held).field("lost", &lost).finish()
    }
}

/// A block of a pool. It is Normal non-cacheable memory, as [`Coherent`] is: what CPU or device writes, the other sees
/// after the barriers below. A barrier is the core's: one on any block or buffer serves all.
///
/// Dropping it puts it back, unless a device was told its address. Then it is lost, and [`Pool::lost`] counts it.
/// [`free`](Self::free) is the way back.
pub struct PoolBlock<M: Machine + 'static> {
    store: Share<M>,
    number: u32,
    told: Cell<bool>,
}

impl<M: Machine> PoolBlock<M> {
    fn place(&self) -> &BlockPlace {
        &self.store.places[self.number as usize]
    }

    /// Returns the address to program into the device. From here on a drop loses the block.
    pub fn bus(&self) -> BusAddr {
        self.told.set(true);
        self.place().bus
    }

    /// Returns the first byte, for drivers that lay out descriptors themselves. It is valid for reads and writes of
    /// [`len`](Self::len) bytes while the block lives, by volatile accesses: the device may change any byte.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.place().at
    }

    /// Returns the bytes of the block: the size in the pool's shape.
    pub fn len(&self) -> usize {
        self.store.size as usize
    }

    /// Returns `false`: a pool of empty blocks is refused.
    pub const fn is_empty(&self) -> bool {
        false
    }

    fn access(&self) -> Bytes {
        // SAFETY: the block's buffer is mapped non-cacheable and writable while the store lives, which the block
        // shares. Off the free list its bytes are the block's alone, and this type gives out no reference to them.
        unsafe { Bytes::new(self.as_ptr().as_ptr(), self.len()) }
    }

    /// Reads the word at `offset` by one access. So it is never half old and half new where the device writes it.
    ///
    /// # Panics
    ///
    /// If the word is not inside of the block, or its address is not a multiple of its size.
    pub fn read_word<W: Word>(&self, offset: usize) -> W {
        self.access().read_word(offset)
    }

    /// Writes the word at `offset` by one access. So the device never sees it half written.
    ///
    /// # Panics
    ///
    /// If the word is not inside of the block, or its address is not a multiple of its size.
    pub fn write_word<W: Word>(&mut self, offset: usize, word: W) {
        self.access().write_word(offset, word);
    }

    /// Copies bytes out, from `offset` on, up to the end of the block or of `to`. Returns how many. This is for bytes
    /// in bulk, and goes by words wherever words fit. Use [`read_word`](Self::read_word) for a word that the CPU polls
    /// and the device writes.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        self.access().read_at(offset, to)
    }

    /// Copies bytes in, from `offset` on, up to the end of the block or of `from`. Returns how many. This is for bytes
    /// in bulk, and goes by words wherever words fit. Use [`write_word`](Self::write_word) for a word that the device
    /// polls.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> usize {
        self.access().write_at(offset, from)
    }

    /// Orders two writes that the device must see in this order, such as a descriptor and the word that hands it over.
    /// It stands between them: Linux's `dma_wmb`.
    pub fn dma_wmb(&self) {
        self.store.dma.machine.dma_wmb();
    }

    /// Orders two reads of what the device wrote, such as a completion word and what it announces. It stands between
    /// them: Linux's `dma_rmb`.
    pub fn dma_rmb(&self) {
        self.store.dma.machine.dma_rmb();
    }

    /// Passes the barrier after which the device sees what was written. It stands before the register write that tells
    /// the device to look: Linux's `wmb`.
    pub fn device_barrier(&self) {
        self.store.dma.machine.device_barrier();
    }

    /// Puts the block back into its pool: `dma_pool_free`. It never waits.
    ///
    /// # Safety
    ///
    /// I4: the device will not access the block any more, and forgot its address.
    pub unsafe fn free(self) {
        self.told.set(false);
    }
}

impl<M: Machine> Drop for PoolBlock<M> {
    fn drop(&mut self) {
        if self.told.get() {
            self.store.free.lose(self.number);
            self.store.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            self.store.free.push(self.number);
        }
    }
}

impl<M: Machine> fmt::Debug for PoolBlock<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBlock")
            .field("owner", &self.store.owner)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn an_allocation_and_a_free_touch_one_entry_whatever_the_number_of_blocks() {
        let list = FreeList::new(1 << 16).unwrap();
        let taken: Vec<_> = (0..3).map_while(|_| list.pop()).collect();
        assert_eq!(taken, [0, 1, 2]);
        // Whoever walks on from any entry but the one at the head now meets a number that is no block.
        for n in 4..1 << 16 {
            list.next[n].store(1 << 20, Ordering::Relaxed);
        }
        list.push(1);
        assert_eq!(list.pop(), Some(1));
        assert_eq!(list.pop(), Some(3));
        list.push(3);
        list.push(0);
        assert_eq!((list.pop(), list.pop()), (Some(0), Some(3)));
    }

    #[test]
    fn a_pop_that_slept_through_others_does_not_revive_an_old_list() {
        let list = FreeList::new(3).unwrap();
        let slept = list.head.load(Ordering::Relaxed);
        let (first, second) = (list.pop().unwrap(), list.pop());
        list.push(first);
        assert_eq!((second, list.head.load(Ordering::Relaxed) as u32), (Some(1), slept as u32));
        // The sleeper would now make block 1 the first, which is out.
        let wakes =
            list.head.compare_exchange(slept, FreeList::changed(slept, 1), Ordering::Relaxed, Ordering::Relaxed);
        assert!(wakes.is_err());
    }

    #[test]
    fn no_block_has_two_owners_on_two_cores() {
        let list = FreeList::new(3).unwrap();
        let out: Vec<_> = (0..3).map(|_| AtomicBool::new(false)).collect();
        let work = || {
            for n in 0..50_000 {
                let taken: Vec<_> = (0..=n % 2).filter_map(|_| list.pop()).collect();
                for &block in &taken {
                    assert!(!out[block as usize].swap(true, Ordering::Relaxed), "block {block} has two owners");
                }
                for block in taken {
                    out[block as usize].store(false, Ordering::Relaxed);
                    list.push(block);
                }
            }
        };
        std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(work))));
        let mut free: Vec<_> = core::iter::from_fn(|| list.pop()).collect();
        free.sort_unstable();
        assert_eq!(free, [0, 1, 2]);
    }

    /// Compiles only if cores can share a pool and hand blocks to each other, where they share the machine.
    fn _cores_share_pools<M: Machine + Sync + 'static>() {
        fn shared<T: Send + Sync>() {}
        fn handed<T: Send>() {}
        shared::<Pool<M>>();
        handed::<PoolBlock<M>>();
    }

    #[test]
    fn a_span_is_what_placing_one_by_one_takes() {
        for size in [1, 7, 16, 24, 100, 4096] {
            for align in [1, 8, 64, 8192] {
                for boundary in [None, Some(128), Some(4096), Some(1 << 16)] {
                    let shape = BlockShape { size, align, boundary };
                    if shape.check().is_err() {
                        continue;
                    }
                    let mut end = 1 << 20;
                    for blocks in 1..200 {
                        end = shape.place(end) + u64::from(size);
                        assert_eq!(shape.span(blocks), end - (1 << 20), "{blocks} of {shape:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn refusals_are_one_clear_line() {
        let check = |size, align, boundary| BlockShape { size, align, boundary }.check().unwrap_err().to_string();
        assert_eq!(check(0, 1, None), "pool of blocks of no bytes");
        assert_eq!(check(1, 0, None), "pool: alignment of 0x0 bytes is not a power of two");
        assert_eq!(check(1, 24, None), "pool: alignment of 0x18 bytes is not a power of two");
        assert_eq!(check(1, 1, Some(0)), "pool: boundary of 0x0 bytes is not a power of two");
        assert_eq!(check(17, 1, Some(16)), "pool: a block of 0x11 bytes crosses every boundary of 0x10 bytes");
        assert_eq!(PoolError::NoBlocks.to_string(), "pool of no blocks");
        assert_eq!(
            PoolError::Alloc(AllocError::NoArea(None)).to_string(),
            "pool: the device has no area to allocate from"
        );
    }
}

/// Every interleaving of a few threads (crate loom), by `tests/run.sh`.
#[cfg(all(test, loom))]
mod interleavings {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::thread;

    /// Two threads take blocks, use them as their own and put them back: with as many blocks as make an update sleep
    /// while others take and give back the block it saw.
    fn explore(blocks: u32, list: impl Fn(u32) -> FreeList + Sync + Send + 'static) {
        loom::model(move || {
            let list = loom::sync::Arc::new(list(blocks));
            let bytes: Vec<_> = (0..blocks).map(UnsafeCell::new).collect();
            let bytes = loom::sync::Arc::new(bytes);
            let work = |most: usize| {
                let (list, bytes) = (list.clone(), bytes.clone());
                move || {
                    let taken: Vec<_> = (0..most).filter_map(|_| list.pop()).collect();
                    for &block in &taken {
                        // SAFETY: the block is this thread's; loom panics if another uses it now.
                        bytes[block as usize].with_mut(|bytes| unsafe { *bytes += 1 });
                    }
                    for block in taken {
                        list.push(block);
                    }
                }
            };
            let other = thread::spawn(work(2));
            work(1)();
            other.join().unwrap();
            let mut free: Vec<_> = core::iter::from_fn(|| list.pop()).collect();
            free.sort_unstable();
            assert_eq!(free, (0..blocks).collect::<Vec<_>>());
        });
    }

    #[test]
    fn no_block_has_two_owners() {
        explore(2, |blocks| FreeList::new(blocks).unwrap());
        explore(3, |blocks| FreeList::new(blocks).unwrap());
    }
}
