//! Snoop Control Unit of a Cortex-A9 `MPCore` (Arm DDI 0407, 2.2): how many cores there are. The head turns it on.

use core::ptr::NonNull;

use tock_registers::{interfaces::Readable, register_bitfields, register_structs, registers::ReadOnly};

register_bitfields! [u32,
    CONFIG [CORES OFFSET(0) NUMBITS(2) []],
];

register_structs! {
    /// The registers at PERIPHBASE, as far as they are read here.
    pub Registers {
        (0x000 => _control),
        (0x004 => config: ReadOnly<u32, CONFIG::Register>),
        (0x008 => @END),
    }
}

/// Cores of the `MPCore`, 1 to 4.
///
/// # Safety
/// `base` is a device mapping of the unit's registers.
pub unsafe fn cores(base: NonNull<Registers>) -> usize {
    // SAFETY: a mapping of these registers, which are only read (contract of `cores`).
    let registers = unsafe { base.as_ref() };
    registers.config.read(CONFIG::CORES) as usize + 1
}
