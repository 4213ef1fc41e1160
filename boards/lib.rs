//! The minimal kernel: boots a board by its device tree and runs a demo of the DMA API on it.
//!
//! [`drivers`] know hardware, the [`kernel`] brings the board up with them, and the [`demo`] runs on the kernel. One
//! folder a board holds what is particular to it.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod demo;
pub mod drivers;
pub mod kernel;

#[path = "beaglebone-black/board.rs"]
mod beaglebone_black;
#[path = "cubieboard/board.rs"]
mod cubieboard;
#[path = "orangepi-pc/board.rs"]
mod orangepi_pc;
#[path = "realview-pb-a8/board.rs"]
mod realview_pb_a8;
#[path = "vexpress-a15/board.rs"]
mod vexpress_a15;
#[path = "vexpress-a9/board.rs"]
mod vexpress_a9;
#[path = "virt/board.rs"]
mod virt;

/// What a board is known by.
pub struct Board {
    /// One of the root's `compatible` strings.
    pub compatible: &'static str,
}

/// The boards known.
pub const BOARDS: &[Board] = &[
    beaglebone_black::BOARD,
    cubieboard::BOARD,
    orangepi_pc::BOARD,
    realview_pb_a8::BOARD,
    vexpress_a15::BOARD,
    vexpress_a9::BOARD,
    virt::BOARD,
];
