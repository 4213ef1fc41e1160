//! Carveout for kernels in C: a static library, and its header `include/carveout.h`.
//!
//! Guarantees: what Rust's types forbid is refused here, with a number and a line that says why: a free of what was
//! freed, a buffer of another kind, device, size or direction, a hand-over out of turn. While a device owns a stream
//! its address faults (I4). A pointer may be NULL. No other bad argument panics, and none changes anything.
//!
//! Names, arguments and their order are Linux's where the idea is the same. The types of this crate are C's: their
//! fields are private, so that only C makes them, and it is C that the duties in the header are for.
//!
//! A kernel builds the library for its target and links it:
//!
//! ```text
//! cargo build --release -p carveout-c --target armv7a-none-eabi    # libcarveout_c.a
//! ```
//!
//! On the host the machine is the fake one, one for each thread. The tests run there.
#![no_std]

extern crate alloc;

#[cfg(not(target_os = "none"))]
extern crate std;

// In the order in which the header has them.

pub mod failure;

pub mod outer;

pub mod kernel;

pub mod init;

pub mod cores;

pub mod emptying;

pub mod area;

pub mod promise;

pub mod device;

pub mod dma_handle;

pub mod buffer;

pub mod blocks;

pub mod pool;

pub mod contract;

pub mod space;

pub mod sharing;

pub mod clients;

pub mod share;

pub mod report;

pub mod audit;

#[cfg(target_os = "none")]
pub mod panic;

#[cfg(target_os = "none")]
mod heap;
mod instance;
mod machine;
mod table;
mod text;
mod written;

#[cfg(test)]
mod tests;
