//! Pools of small coherent blocks for descriptors and command tables: Linux's `dma_pool`.
//!
//! Guarantees, beside those of [every pool](super): whoever gets a block finds zeros in it (I5). [`Pool::alloc`] and
//! [`PoolBlock::free`] maintain no cache line.
//!
//! Blocks stay mapped. So a core that another core gave a pool needs one context synchronisation before its first
//! block: the exception that woke it, or an ISB (ARM ARM B3.10.1).
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

use super::shape::{BlockShape, PoolError};
use super::store::{Backing, BlocksOut, Held, PoolExhausted, Share};
use crate::addr::BusAddr;
use crate::dma::access::coherent_access;
use crate::dma::buffer::{Coherent, Contiguous};
use crate::dma::master::Master;
use crate::dma::registry::Dma;
use crate::dma::word::Bytes;
use crate::machine::Machine;
use core::fmt;
use core::ptr::NonNull;

/// The first byte of a buffer.
pub(super) struct First(NonNull<u8>);

// SAFETY: an address is not an access; those go through the one block that has the bytes.
unsafe impl Send for First {}
// SAFETY: as above.
unsafe impl Sync for First {}

impl<M: Machine> Backing for Coherent<M> {
    type Shared = First;

    fn share(&self) -> First {
        First(self.as_ptr())
    }

    fn end(&self, _: First, lost: bool) {
        if lost {
            // The buffer counts as told from here on, so that its drop quarantines it.
            let _ = self.bus();
        }
    }
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
    store: Share<M, Coherent<M>>,
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
    pub fn new(dma: &'static Dma<M>, master: &Master, shape: BlockShape, blocks: u32) -> Result<Self, PoolError> {
        Ok(Self { store: Share::make(dma, master, shape, 1, blocks, Contiguous::into_coherent)? })
    }

    /// Takes a block, filled with zeros: `dma_pool_zalloc`. It never waits and never maps. The device finds the zeros
    /// after [`PoolBlock::device_barrier`], as it finds all that the CPU writes.
    ///
    /// # Errors
    ///
    /// [`PoolExhausted`] if no block is free.
    pub fn alloc(&self) -> Result<PoolBlock<M>, PoolExhausted> {
        let block = PoolBlock { held: self.store.take()? };
        // SAFETY: a block's bytes are mapped, writable, while it lives; off the free list they are its alone, and no
        // device uses them (I4).
        unsafe { block.as_ptr().write_bytes(0, block.len()) };
        Ok(block)
    }

    /// Returns how many blocks somebody holds.
    pub fn held(&self) -> u32 {
        self.store.held()
    }

    /// Returns how many blocks were dropped while a device may have known their address. They are never used again.
    pub fn lost(&self) -> u32 {
        self.store.lost()
    }

    /// Frees the pool's memory: `dma_pool_destroy`. This is safe, because each [`PoolBlock::free`] promised that the
    /// device has done with that block.
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

impl<M: Machine> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.debug("Pool", f)
    }
}

/// A block of a pool. It is Normal non-cacheable memory, as [`Coherent`] is: what CPU or device writes, the other sees
/// after the barriers below. A barrier is the core's: one on any block or buffer serves all.
///
/// Dropping it puts it back, unless a device was told its address. Then it is lost, and [`Pool::lost`] counts it.
/// [`free`](Self::free) is the way back.
pub struct PoolBlock<M: Machine + 'static> {
    held: Held<M, Coherent<M>>,
}

coherent_access!(PoolBlock);

impl<M: Machine> PoolBlock<M> {
    /// Returns the address to program into the device. From here on a drop loses the block.
    pub fn bus(&self) -> BusAddr {
        self.held.told.set(true);
        self.held.place().bus
    }

    /// Returns the first byte, for drivers that lay out descriptors themselves. It is valid for reads and writes of
    /// [`len`](Self::len) bytes while the block lives, by volatile accesses: the device may change any byte.
    pub fn as_ptr(&self) -> NonNull<u8> {
        let First(first) = self.held.shared();
        // SAFETY: the place is inside of the buffer, which is one object.
        unsafe { first.add(self.held.place().offset as usize) }
    }

    /// Returns the bytes of the block: the size in the pool's shape.
    pub fn len(&self) -> usize {
        self.held.store.size as usize
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

    /// Orders two writes that the device must see in this order, such as a descriptor and the word that hands it over.
    /// It stands between them: Linux's `dma_wmb`.
    pub fn dma_wmb(&self) {
        self.held.store.dma.machine.dma_wmb();
    }

    /// Orders two reads of what the device wrote, such as a completion word and what it announces. It stands between
    /// them: Linux's `dma_rmb`.
    pub fn dma_rmb(&self) {
        self.held.store.dma.machine.dma_rmb();
    }

    /// Passes the barrier after which the device sees what was written. It stands before the register write that tells
    /// the device to look: Linux's `wmb`.
    pub fn device_barrier(&self) {
        self.held.store.dma.machine.device_barrier();
    }

    /// Puts the block back into its pool: `dma_pool_free`. It never waits.
    ///
    /// # Safety
    ///
    /// I4: the device will not access the block any more, and forgot its address.
    pub unsafe fn free(self) {
        self.held.told.set(false);
    }
}

impl<M: Machine> fmt::Debug for PoolBlock<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held.debug("PoolBlock", f)
    }
}
