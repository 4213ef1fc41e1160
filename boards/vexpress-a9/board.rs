//! Arm Versatile Express with a CoreTile Express A9x4. Everything it has is found through its device tree.

use crate::Board;

pub(crate) const BOARD: Board = Board { compatible: "arm,vexpress,v2p-ca9" };
