//! The boot path of a bare-metal image over [`carveout`], for kernels without one of their own.
//!
//! Guarantees: from the instruction that turns the MMU on, only the plan decides what is mapped (I1, I2). [`start`] has
//! the contract with the boot loader. [`address_space`] takes over the head's tables. [`exceptions`] makes a report of
//! every [`fault`]. [`secondary`] lets the other cores in. [`user`] runs programs in User mode.
//!
//! [`fault`] is built for the host too:
//!
//! ```
//! use carveout::addr::VirtAddr;
//! use carveout_rt::fault::{Access, Fault, FaultStatus, Level};
//!
//! // A write through a pointer to a buffer that is the device's: nothing maps it (I4).
//! let fault = Fault::from_dfsr(1 << 11 | 0b0111, VirtAddr::new(0xc000_1000));
//! assert_eq!((fault.status, fault.access), (FaultStatus::Translation(Level::Second), Access::Write));
//! assert_eq!(fault.address, Some(VirtAddr::new(0xc000_1000)));
//! ```
//!
//! The kernel may be in ARM or in Thumb instructions (`armv7a-none-eabi`, `thumbv7a-none-eabi`). The head and the
//! vectors are in ARM ones. The vectors save no floating-point registers, so a target that passes numbers in them is
//! refused.
#![no_std]

#[cfg(test)]
extern crate std;

#[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
compile_error!("carveout-rt saves no floating-point registers: build for armv7a-none-eabi or thumbv7a-none-eabi");

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
#[cfg(target_arch = "arm")]
pub mod user;
