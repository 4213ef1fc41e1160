//! BeagleBone Black (TI AM335x, Cortex-A8). Everything it has is found through the distribution's device tree.

use crate::Board;

pub(crate) const BOARD: Board = Board { compatible: "ti,am335x-bone-black" };
