//! The store of a pool: the buffers that its blocks lie in, and who has which block.
//!
//! Guarantees:
//!
//! - Every block has the size, alignment and boundary of the pool's [`BlockShape`] on the bus.
//! - No two blocks that are held share a byte.
//! - A pool takes its memory once, when it is made. So a block is refused only if none is free.
//! - The store lives as long as the pool or one of its blocks. No block outlives its bytes.
//! - A buffer with a block that a device may still use is quarantined at the end.

use super::list::FreeList;
use super::shape::{BlockShape, PoolError};
use crate::addr::{BusAddr, FRAME_SIZE};
use crate::cma::area::AllocError;
use crate::dma::buffer::Contiguous;
use crate::dma::master::Master;
use crate::dma::registry::Dma;
use crate::heap::room;
use crate::machine::Machine;
use crate::name::Name;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::mem;
use core::ops::Deref;
use core::ptr::NonNull;
#[cfg(not(all(test, loom)))]
use core::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use spin::Mutex;

/// The refusal of a block: all blocks of the pool are held or lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolExhausted {
    /// The device that the pool was made for.
    pub owner: Name,
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
    pub owner: Name,
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

/// A buffer in the state that the blocks of a pool need.
pub(super) trait Backing {
    /// What the blocks use of it, on whatever core.
    type Shared: Send + Sync;

    /// Hands out what the blocks use, once.
    fn share(&self) -> Self::Shared;

    /// Takes back what the blocks used. `lost`: a device may still use part of the buffer, so it must not be freed.
    fn end(&self, shared: Self::Shared, lost: bool);
}

/// The place of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockPlace {
    pub(super) bus: BusAddr,
    /// Bytes from the start of its buffer on.
    pub(super) offset: u32,
    buffer: usize,
}

/// The parts that the pool and its blocks share.
pub(super) struct Store<M: Machine + 'static, B: Backing> {
    /// How many shares there are.
    shares: AtomicU32,
    pub(super) dma: &'static Dma<M>,
    pub(super) owner: Name,
    pub(super) size: u32,
    places: Vec<BlockPlace>,
    free: FreeList,
    lost: AtomicU32,
    /// What the blocks use of each buffer.
    shared: Vec<B::Shared>,
    /// The buffers. The mutex makes the store `Sync` and is never locked: only the drop, which has the store alone,
    /// uses them.
    buffers: Mutex<Vec<B>>,
}

impl<M: Machine, B: Backing> Drop for Store<M, B> {
    fn drop(&mut self) {
        // No block is held any more, and a free block is used by no device.
        for (n, shared) in mem::take(&mut self.shared).into_iter().enumerate() {
            let lost = self.free.lost().any(|block| self.places[block].buffer == n);
            self.buffers.get_mut()[n].end(shared, lost);
        }
    }
}

/// A share of a store, which is dropped with the last one. An `Arc` would end the program where the heap is full.
pub(super) struct Share<M: Machine + 'static, B: Backing>(NonNull<Store<M, B>>);

// SAFETY: as `Arc`: whoever has a share has a reference to the store, and the last one drops it.
unsafe impl<M: Machine, B: Backing> Send for Share<M, B> where Store<M, B>: Send + Sync {}
// SAFETY: as above.
unsafe impl<M: Machine, B: Backing> Sync for Share<M, B> where Store<M, B>: Send + Sync {}

impl<M: Machine, B: Backing> Clone for Share<M, B> {
    fn clone(&self) -> Self {
        // There are fewer blocks than the counter can count.
        self.shares.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl<M: Machine, B: Backing> Deref for Share<M, B> {
    type Target = Store<M, B>;

    fn deref(&self) -> &Store<M, B> {
        // SAFETY: the store lives as long as this share, and is only ever shared.
        unsafe { self.0.as_ref() }
    }
}

impl<M: Machine, B: Backing> Drop for Share<M, B> {
    fn drop(&mut self) {
        // Release and acquire: what was done through other shares comes before the store's drop.
        if self.shares.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            // SAFETY: `make` leaked it as a list of one, which has the layout of one; no other share is left.
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

impl<M: Machine, B: Backing> Share<M, B> {
    /// Makes the store of a pool of `blocks` blocks, and its first share. Blocks are aligned to `granule` bytes, a
    /// power of two, or more if their shape says so. `back` brings each buffer into its state.
    pub(super) fn make(
        dma: &'static Dma<M>,
        master: &Master,
        shape: BlockShape,
        granule: u32,
        blocks: u32,
        back: impl Fn(Contiguous<M>) -> B,
    ) -> Result<Self, PoolError> {
        shape.check()?;
        if blocks == 0 {
            return Err(PoolError::NoBlocks);
        }
        let shape = BlockShape { align: shape.align.max(granule), ..shape };
        let BlockShape { size, align, .. } = shape;
        // No buffer crosses the master's boundary, so none is larger.
        let largest = master.boundary().map_or(u32::MAX, |boundary| boundary.max(size));
        // This comes first, so that the heap is not asked for a list of more blocks than the area has memory for.
        if let Ok(area) = master.area() {
            let wanted = shape.span(blocks).next_multiple_of(u64::from(FRAME_SIZE));
            let (free, _) = dma.free_bytes(area);
            if wanted > free {
                return Err(PoolError::Alloc(AllocError::NoCapacity { wanted, free }));
            }
        }
        let full = |_| PoolError::Heap { blocks };
        let mut places: Vec<BlockPlace> = room(blocks as usize).map_err(full)?;
        let free = FreeList::new(blocks).ok_or(PoolError::Heap { blocks })?;
        let mut place = room(1).map_err(full)?;
        let mut buffers = Vec::new();
        while let left @ 1.. = blocks - places.len() as u32 {
            let span = shape.span(left);
            let bytes = span.min(largest.into()) as u32;
            // Blocks that all fit between two boundaries are put there. Otherwise a buffer holds a block wherever it
            // begins.
            let confined = match shape.boundary {
                Some(boundary) if span <= boundary.into() => between(master, boundary),
                _ => master.clone(),
            };
            buffers.try_reserve(1).map_err(full)?;
            let buffer = dma.alloc(&confined, bytes, align).map_err(PoolError::Alloc)?;
            // Nobody is told yet, and a pool that is refused half-way just frees its buffers.
            let bus = master.bus(buffer.frames().base()).expect("frames within the reach they were allocated in");
            let first = u64::from(bus.raw());
            let mut next = first;
            while places.len() < blocks as usize {
                let start = shape.place(next);
                next = start + u64::from(size);
                if next > first + u64::from(bytes) {
                    break;
                }
                let (bus, offset) = (BusAddr::new(start as u32), (start - first) as u32);
                places.push(BlockPlace { bus, offset, buffer: buffers.len() });
            }
            let holds_one = places.last().is_some_and(|place| place.buffer == buffers.len());
            assert!(holds_one, "a buffer begins at the alignment on the bus, so a block fits it");
            buffers.push(back(buffer));
        }
        let mut shared = room(buffers.len()).map_err(full)?;
        shared.extend(buffers.iter().map(B::share));
        let (shares, lost, buffers) = (AtomicU32::new(1), AtomicU32::new(0), Mutex::new(buffers));
        place.push(Store { shares, dma, owner: master.name(), size, places, free, lost, shared, buffers });
        Ok(Self(NonNull::from(Box::leak(place.into_boxed_slice())).cast()))
    }

    /// Takes a block off the free list, which no device uses: whoever put it there promised that, or none was ever told
    /// of it.
    pub(super) fn take(&self) -> Result<Held<M, B>, PoolExhausted> {
        match self.free.pop() {
            Some(number) => Ok(Held { store: self.clone(), number, told: Cell::new(false) }),
            None => Err(PoolExhausted { owner: self.owner, blocks: self.free.len(), lost: self.lost() }),
        }
    }

    /// Returns how many blocks somebody holds.
    pub(super) fn held(&self) -> u32 {
        // Only the blocks and the pool share the store.
        self.shares.load(Ordering::Relaxed) - 1
    }

    /// Returns how many blocks were lost.
    pub(super) fn lost(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Says what is out, if anything is.
    pub(super) fn out(&self) -> Option<BlocksOut> {
        let (held, lost) = (self.held(), self.lost());
        (held > 0 || lost > 0).then_some(BlocksOut { owner: self.owner, held, lost })
    }

    pub(super) fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, lost) = (self.held(), self.lost());
        f.debug_struct(name).field("owner", &self.owner).field("held", &held).field("lost", &lost).finish()
    }
}

/// A block that is off the free list: its bytes are the holder's alone. Dropping it puts it back, or loses it if a
/// device was told its address.
pub(super) struct Held<M: Machine + 'static, B: Backing> {
    pub(super) store: Share<M, B>,
    number: u32,
    pub(super) told: Cell<bool>,
}

impl<M: Machine, B: Backing> Held<M, B> {
    pub(super) fn place(&self) -> BlockPlace {
        self.store.places[self.number as usize]
    }

    /// Returns what blocks use of this one's buffer.
    pub(super) fn shared(&self) -> &B::Shared {
        &self.store.shared[self.place().buffer]
    }

    pub(super) fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name).field("owner", &self.store.owner).field("number", &self.number).finish_non_exhaustive()
    }
}

impl<M: Machine, B: Backing> Drop for Held<M, B> {
    fn drop(&mut self) {
        if self.told.get() {
            self.store.free.lose(self.number);
            self.store.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            self.store.free.push(self.number);
        }
    }
}
