//! ARMv7-A: Cortex-A8 and Cortex-A9.

#[cfg(feature = "rt")]
pub mod exceptions;
#[cfg(feature = "rt")]
pub mod start;
