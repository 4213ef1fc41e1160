//! ARMv7-A: Cortex-A8 and Cortex-A9.

#[cfg(feature = "rt")]
pub mod address_space;
pub mod cache;
#[cfg(feature = "rt")]
pub mod exceptions;
pub mod l2c310;
pub mod mmu;
#[cfg(feature = "rt")]
pub mod probe;
#[cfg(feature = "rt")]
pub mod start;
