//! Xunlong Orange Pi PC (Allwinner H3, four Cortex-A7). Everything it has is found through its device tree, be it the one
//! beside this file or a distribution's.

use crate::Board;

pub(crate) const BOARD: Board = Board { compatible: "xunlong,orangepi-pc" };
