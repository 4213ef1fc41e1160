//! From a device tree to a plan of memory: each module consumes what the one before it made.

pub mod bootargs;
pub mod bootinfo;
pub mod directmap;
pub mod layout;
pub mod memblock;
pub mod memory;
