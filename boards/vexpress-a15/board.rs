//! Arm Versatile Express with a CoreTile Express A15x2, or with Cortex-A7 in its place. Everything it has is found
//! through its device tree.

use crate::Board;

pub(crate) const BOARD: Board = Board { compatible: "arm,vexpress,v2p-ca15" };
