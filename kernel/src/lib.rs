//! Carveout: a contiguous memory allocator for ARMv7-A that is `no-map` *and* `reusable`.
#![no_std]

extern crate alloc;

#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod addr;
pub mod arch;
pub mod boot;
pub mod cma;
pub mod dma;
pub mod vm;
