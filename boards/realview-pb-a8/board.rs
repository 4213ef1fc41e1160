//! Arm `RealView` Platform Baseboard for Cortex-A8: two banks of RAM, one of which answers at address 0 too; a DMA
//! controller and a display as bus masters, a memory card that the CPU reads. All of it is found through its device
//! tree.

use crate::Board;

pub(crate) const BOARD: Board = Board { compatible: "arm,realview-pba8" };
