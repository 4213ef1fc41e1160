//! The boot path of a bare-metal image over [`carveout`], for kernels without one of their own.
//!
//! Guarantees: from the instruction that turns the MMU on, what is mapped is mapped by the plan alone (I1, I2).
//! [`start`] has the contract with the boot loader, [`address_space`] takes the head's tables over, [`exceptions`]
//! makes every [`fault`] a report, [`secondary`] lets the other cores in.
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
