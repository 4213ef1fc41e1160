//! The DMA API: contiguous buffers in states, with the least maintenance that suffices.
//!
//! Guarantees: a buffer's frames have at most one mapping, with one attribute (I1), claimed in the ledger before it is
//! made and released after it is gone from every TLB (I3); while a device owns a buffer no value of this API names its
//! bytes and no mapping of them exists (I4); whoever gets a buffer finds zeros in it (I5). The lock is held over
//! updates of indexes, ledger and descriptors, never over zeroing, copying or cache work; a change of hands that maps
//! and unmaps nothing takes none.
//!
//! Any core may call anything here at any time, and so may interrupt handlers: the lock masks interrupts
//! ([`sync`](crate::sync)). What takes long takes long there too: making a buffer zeroes it, a hand-over maintains its
//! lines. Not for handlers are [`Dma::new`], making and ending contracts and pools, making borrowers and scatter
//! tables, which use the heap; [loans](loan), which may have to wait; and the audit, which walks all tables with
//! interrupts masked.
//!
//! Nothing here prints or logs, and nothing but what was just named uses the heap. So all of it may be called under the
//! embedding kernel's locks of ranks 0 to 3, drops included, whatever rank its console has. A buffer that was lost is
//! told by [`Dma::next_quarantined`], which is there to be asked.

mod alloc;
#[cfg(feature = "audit")]
mod audit;
mod body;
pub mod buffer;
pub mod contract;
mod idle;
mod lanes;
#[cfg(feature = "loans")]
pub mod loan;
#[cfg(not(feature = "loans"))]
#[path = "loan/left_out.rs"]
mod loan;
pub mod master;
pub mod pool;
pub mod port;
mod registry;
mod report;
pub mod scatter;
pub mod segment;
pub mod word;

pub use crate::holder::Holder;
pub use registry::{Dma, DmaError, MAX_BUFFERS, Record, Stats};
pub use report::{Holders, Place};
