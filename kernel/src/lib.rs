//! Carveout: a contiguous memory allocator for ARMv7-A that is `no-map` *and* `reusable`.
//!
//! Guarantees, each named where it is defended:
//!
//! - **I1 One frame, one attribute.** All valid translations of a physical frame carry the same memory type,
//!   cacheability and shareability.
//! - **I2 Carved frames are never in the direct map**, from the instruction that turns the MMU on.
//! - **I3 No line survives a change.** When a frame changes attribute or owner: unmap, DSB, TLB invalidate, DSB, then
//!   maintenance to the point of coherency through the new mapping, before its first use.
//! - **I4 The device's buffer is not the CPU's.** While a device owns a buffer no CPU code can name its bytes, and no
//!   mapping of them exists.
//! - **I5 No leaks between owners.** Whoever gets a frame reads zeros or its own data.
//! - **I6 A recall never fails.** Taking back a loan allocates nothing and waits for nobody but a bounded copy.
//! - **I7 A contract holds.** A set of buffers declared up front (count x size) can always be allocated.
//!
//! Data flows one way; each step consumes what the one before it made:
//!
//! ```text
//! DTB + bootargs -> boot::bootinfo -> boot::layout (memblock, the direct map) -> vm::space
//!     -> boot::memory (CarveOut, RAM) -> cma::area (of a CarveOut)
//!     -> dma (Contiguous, then a buffer in a state) -> device -> back
//! ```
//!
//! A kernel that maps the direct map itself, by the plan, begins at [`boot::layout::Layout::mapped`]. One that did its
//! own reservation begins at [`boot::directmap::CarveOut::assume`]. Either implements
//! [`arch::Mmu`] and [`arch::Cache`] or takes [`arch`]'s `armv7a`, and gives [`dma::Dma::new`] a window of addresses
//! that is its alone. The crate needs a global allocator for its metadata, taken at that call
//! and when a contract, a borrower or a pool is made.
#![no_std]

extern crate alloc;

#[cfg(any(test, loom, feature = "fake"))]
extern crate std;

pub mod addr;
pub mod arch;
pub mod boot;
pub mod cma;
pub mod dma;
mod heap;
pub mod protocol;
pub mod sync;
pub mod vm;
