//! Pools of blocks that are smaller than a page: for descriptors ([`Pool`]) and for packets ([`StreamPool`]).
//!
//! Guarantees:
//!
//! - Every block has the size, alignment and boundary of the pool's [`BlockShape`] on the bus.
//! - No two blocks that are held share a byte. No two blocks of a [`StreamPool`] share a cache line.
//! - A pool takes its memory once, when it is made. (`dma_pool_create` allocates later, page by page.) So an allocation
//!   is refused only if no block is free.
//! - To allocate a block and to free one maps nothing and takes no lock. Both change one entry of the free list,
//!   however many blocks there are. So interrupt handlers and other contexts that must neither wait nor map may do it.
//! - The free list stands outside the blocks' memory, where no device can write to it.
//!
//! A mistake that `dma_pool_free` leaves to the caller does not compile here. A block knows its pool, so it cannot be
//! freed to another one. Freeing consumes the block. A block keeps its pool's memory mapped, so no block outlives its
//! bytes.
//!
//! An interrupt handler may allocate, free, drop and access blocks, and hand them over. It must not make a pool or drop
//! one, and it must not drop the last block of a pool that was dropped: these calls use the heap.

mod coherent;
mod list;
mod shape;
mod store;
mod stream;

pub use coherent::{Pool, PoolBlock};
pub use shape::{BlockShape, PoolError};
pub use store::{BlocksOut, PoolExhausted};
pub use stream::{StreamBlock, StreamPool};
