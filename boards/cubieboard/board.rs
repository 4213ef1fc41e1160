//! Cubietech Cubieboard (Allwinner A10, Cortex-A8). Everything it has is found through its device tree, be it the one
//! beside this file or a distribution's.

use crate::Board;

pub(crate) const BOARD: Board = Board { compatible: "cubietech,a10-cubieboard" };
