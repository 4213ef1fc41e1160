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

/// The guide for writers of drivers, compiled and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/writing-a-driver.md")]
pub mod guide {}
