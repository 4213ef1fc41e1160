//! The boot path of a bare-metal image over [`carveout`], for kernels without one of their own.
//!
//! Guarantees: from the instruction that turns the MMU on, only the plan decides what is mapped (I1, I2). [`start`] has
//! the contract with the boot loader. [`address_space`] takes over the head's tables. [`exceptions`] makes a report of
//! every [`fault`]. [`secondary`] lets the other cores in.
#![no_std]

#[cfg(test)]
extern crate std;

#[cfg(target_arch = "arm")]
pub mod address_space;
#[cfg(target_arch = "arm")]
pub mod exceptions;
pub mod fault;
#[cfg(test)]
mod head;
#[cfg(target_arch = "arm")]
pub mod probe;
#[cfg(target_arch = "arm")]
pub mod secondary;
#[cfg(target_arch = "arm")]
pub mod start;
