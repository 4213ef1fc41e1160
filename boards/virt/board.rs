//! QEMU's machine that is no board: cores of any kind, entered in any state. Everything it has is found through its
//! device tree.

use crate::Board;

pub(crate) const BOARD: Board = Board { compatible: "linux,dummy-virt" };
