//! SP804 dual timer (Arm DDI 0271): its first timer as a free-running count of microseconds.
//!
//! Guarantees: [`Sp804::micros`] never goes back but by wrapping at 2^32 microseconds (71 minutes). They are microseconds
//! if the board clocks the timer at 1 MHz.

use core::ptr::NonNull;

use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite},
};

register_bitfields! [u32,
    CONTROL [SIZE32 OFFSET(1) NUMBITS(1) [], ENABLE OFFSET(7) NUMBITS(1) []],
];

register_structs! {
    /// The registers of the first timer (DDI 0271, 3.2).
    pub Registers {
        (0x000 => load: ReadWrite<u32>),
        (0x004 => value: ReadOnly<u32>),
        (0x008 => control: ReadWrite<u32, CONTROL::Register>),
        (0x00c => @END),
    }
}

/// A running timer.
pub struct Sp804 {
    registers: &'static Registers,
}

// SAFETY: the timer belongs to this driver alone (contract of `new`), whichever core runs it.
unsafe impl Send for Sp804 {}
// SAFETY: after `new` the driver only reads the count, which any core may do at any time.
unsafe impl Sync for Sp804 {}

impl Sp804 {
    /// Starts the timer, undivided and without its interrupt.
    ///
    /// # Safety
    /// `base` is a device mapping of an SP804 that lasts for ever and whose first timer this driver alone uses.
    pub unsafe fn new(base: NonNull<Registers>) -> Self {
        // SAFETY: a mapping that lasts and is this driver's alone (contract of `new`).
        let registers = unsafe { base.as_ref() };
        // SIZE must not change while the timer runs (DDI 0271, 3.3.3).
        registers.control.set(0);
        registers.load.set(u32::MAX);
        registers.control.write(CONTROL::SIZE32::SET + CONTROL::ENABLE::SET);
        Self { registers }
    }

    /// Microseconds since the start, modulo 2^32. Differences by `wrapping_sub` are right for spans under 71 minutes.
    pub fn micros(&self) -> u32 {
        // The timer counts down from its largest value.
        !self.registers.value.get()
    }
}
