//! The plan of memory, by a device tree and a command line, for a kernel that boots with [`carveout`].
//!
//! Guarantees: each module consumes what the one before it made. What somebody asked to be kept stays kept, whatever
//! else is refused. A [`CarveOut`](carveout::carve_out::CarveOut) comes only of a plan whose direct map leaves its
//! frames out (I2).
//!
//! ```text
//! device tree + command line -> bootinfo, bootargs -> layout (memblock, direct_map) -> memory (CarveOuts, RAM)
//! ```
//!
//! Nothing here reads a register or writes a table. An example:
//!
//! ```
//! use carveout_boot::bootargs::{BootArgs, Cma, CmaPlace};
//!
//! let args = BootArgs::new(b"console=ttyAMA0 cma=64M@0x60000000-0x70000000");
//! let Some(Cma::Request(request)) = args.cma()? else { panic!("the argument is there") };
//! assert_eq!(request.size, 64 << 20);
//! assert_eq!(request.place, CmaPlace::Within { start: 0x6000_0000, end: 0x7000_0000 });
//!
//! let refused = BootArgs::new(b"cma=64M@").cma().unwrap_err();
//! assert_eq!(refused.text, "cma=64M@");
//! # Ok::<(), carveout_boot::bootargs::ArgError<'_>>(())
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

pub mod bootargs;
pub mod bootinfo;
pub mod byte_range;
pub mod direct_map;
pub mod layout;
pub mod memblock;
pub mod memory;
pub mod upper_half;
