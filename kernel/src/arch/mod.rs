//! The only seam between this crate and a machine.

#[cfg(target_arch = "arm")]
pub mod armv7a;
