//! SP804 dual timer (Arm DDI 0271): its first timer as a free-running count of microseconds.
//!
//! Guarantees: the count never goes back but by wrapping at 2^32 microseconds (71 minutes). They are microseconds
//! if the board clocks the timer at 1 MHz.
//!
//! This driver is ours: a search of the documentation of crates found none to use.

use super::Counter;
use crate::drivers::mmio::Mmio;
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
    registers: Mmio<Registers>,
}

// SAFETY: after `new` the driver only reads the count, which any core may do at any time.
unsafe impl Sync for Sp804 {}

impl Sp804 {
    /// Starts the timer, undivided and without its interrupt.
    pub fn new(registers: Mmio<Registers>) -> Self {
        // SIZE must not change while the timer runs (DDI 0271, 3.3.3).
        registers.control.set(0);
        registers.load.set(u32::MAX);
        registers.control.write(CONTROL::SIZE32::SET + CONTROL::ENABLE::SET);
        Self { registers }
    }

    /// Returns the microseconds since the start, modulo 2^32.
    fn ticks(&self) -> u32 {
        // The timer counts down from its largest value.
        !self.registers.value.get()
    }
}

impl Counter for Sp804 {
    fn nanos(&self) -> u64 {
        u64::from(self.ticks()) * 1000
    }
}
