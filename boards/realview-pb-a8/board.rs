//! Arm `RealView` Platform Baseboard for Cortex-A8: the on-target tests run on it. It has no disk for the demo.

use crate::Board;

pub(crate) const BOARD: Board = Board { name: "realview-pb-a8", compatible: "arm,realview-pba8" };
