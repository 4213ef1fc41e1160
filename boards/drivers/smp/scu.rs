//! Snoop Control Unit of a Cortex-A9 `MPCore` (Arm DDI 0407, 2.2): how many cores there are. The head turns it on.
//!
//! This driver is ours. The crate zynq7000 has these registers for one chip only, and no other crate was found.

use crate::drivers::mmio::Mmio;
use tock_registers::{interfaces::Readable, register_bitfields, register_structs, registers::ReadOnly};

register_bitfields! [u32,
    CONFIG [CORES OFFSET(0) NUMBITS(2) []],
];

register_structs! {
    /// The registers at PERIPHBASE that are read here.
    pub Registers {
        (0x000 => _control),
        (0x004 => config: ReadOnly<u32, CONFIG::Register>),
        (0x008 => @END),
    }
}

/// Returns how many cores the `MPCore` has, 1 to 4.
pub fn cores(registers: &Mmio<Registers>) -> usize {
    registers.config.read(CONFIG::CORES) as usize + 1
}
