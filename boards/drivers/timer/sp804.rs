//! SP804 dual timer (Arm DDI 0271): its first timer as a free-running count of microseconds, or as an alarm.
//!
//! Guarantees: the count never goes back, except that it wraps at 2^32 microseconds (71 minutes). It counts
//! microseconds if the board clocks the timer at 1 MHz. An alarm interrupts once for each start.
//!
//! This driver is ours, because a search of the documentation of crates found no driver to use.

use super::{Alarm, Counter};
use crate::drivers::mmio::Mmio;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

register_bitfields! [u32,
    CONTROL [
        ONE_SHOT OFFSET(0) NUMBITS(1) [],
        SIZE32 OFFSET(1) NUMBITS(1) [],
        INTERRUPT OFFSET(5) NUMBITS(1) [],
        ENABLE OFFSET(7) NUMBITS(1) [],
    ],
    STATUS [OVER OFFSET(0) NUMBITS(1) []],
];

register_structs! {
    /// The registers of the first timer (DDI 0271, 3.2).
    pub Registers {
        (0x000 => load: ReadWrite<u32>),
        (0x004 => value: ReadOnly<u32>),
        (0x008 => control: ReadWrite<u32, CONTROL::Register>),
        (0x00c => clear: WriteOnly<u32>),
        (0x010 => status: ReadOnly<u32, STATUS::Register>),
        (0x014 => @END),
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
}

impl Counter for Sp804 {
    /// Returns the microseconds since the start, modulo 2^32.
    fn ticks(&self) -> u64 {
        // The timer counts down from its largest value.
        u64::from(!self.registers.value.get())
    }

    fn hertz(&self) -> u32 {
        1_000_000
    }
}

/// A timer that interrupts.
pub struct Sp804Alarm {
    registers: Mmio<Registers>,
}

// SAFETY: the timer's interrupt goes to one core, and only that core starts and stops the timer.
unsafe impl Sync for Sp804Alarm {}

impl Sp804Alarm {
    /// Takes the timer and stops it.
    pub fn new(registers: Mmio<Registers>) -> Self {
        let alarm = Self { registers };
        alarm.stop();
        alarm
    }
}

impl Alarm for Sp804Alarm {
    fn start(&self, micros: u32) {
        self.stop();
        self.registers.load.set(micros.max(1));
        let shape = CONTROL::ONE_SHOT::SET + CONTROL::SIZE32::SET + CONTROL::INTERRUPT::SET;
        self.registers.control.write(shape + CONTROL::ENABLE::SET);
    }

    fn is_over(&self) -> bool {
        self.registers.status.is_set(STATUS::OVER)
    }

    fn stop(&self) {
        self.registers.control.set(0);
        self.registers.clear.set(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;

    #[test]
    fn an_alarm_counts_down_once_and_interrupts() {
        let registers = fake::block::<Registers>(0x20);
        let alarm = Sp804Alarm::new(registers.mmio());
        assert_eq!((registers.read(8), registers.read(0xc)), (0, 1));
        alarm.start(5000);
        // Enabled, interrupt, 32 bits, one shot.
        assert_eq!((registers.read(0), registers.read(8)), (5000, 0b1010_0011));
        assert!(!alarm.is_over());
        registers.write(0x10, 1);
        assert!(alarm.is_over());
    }
}
