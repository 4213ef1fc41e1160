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
//! Nothing here reads a register or writes a table.
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
