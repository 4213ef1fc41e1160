//! Timers of the Allwinner A10 (A10 User Manual V1.20, chapter 12; `allwinner,sun4i-a10-timer`): timer 1 as a
//! free-running count.
//!
//! Guarantees: the count never goes back, except that it wraps at 2^32, after 23 minutes.
//!
//! This driver is ours, because a search of the documentation of crates found no driver to use.

use super::Counter;
use crate::drivers::mmio::Mmio;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::ReadWrite,
};

register_bitfields! [u32,
    CONTROL [
        ENABLE OFFSET(0) NUMBITS(1) [],
        RELOAD OFFSET(1) NUMBITS(1) [],
        SOURCE OFFSET(2) NUMBITS(2) [Osc24M = 1],
        PRESCALE OFFSET(4) NUMBITS(3) [By8 = 3],
        ONE_SHOT OFFSET(7) NUMBITS(1) [],
    ],
];

register_structs! {
    /// The register block, up to timer 1. Timer 0 is not touched.
    pub Registers {
        (0x00 => _reserved0),
        (0x20 => control: ReadWrite<u32, CONTROL::Register>),
        (0x24 => interval: ReadWrite<u32>),
        (0x28 => value: ReadWrite<u32>),
        (0x2c => @END),
    }
}

/// A running timer 1.
pub struct Sun4iTimer {
    registers: Mmio<Registers>,
}

// SAFETY: after `new` the driver only reads the count, which any core may do at any time.
unsafe impl Sync for Sun4iTimer {}

impl Sun4iTimer {
    /// Ticks a microsecond: the 24 MHz oscillator, which every A10 has, divided by 8.
    const PER_MICROSECOND: u32 = 3;

    /// Starts timer 1 over its whole range, without its interrupt.
    pub fn new(registers: Mmio<Registers>) -> Self {
        registers.control.set(0);
        registers.interval.set(u32::MAX);
        registers
            .control
            .write(CONTROL::ENABLE::SET + CONTROL::RELOAD::SET + CONTROL::SOURCE::Osc24M + CONTROL::PRESCALE::By8);
        Self { registers }
    }

    /// Returns the ticks since the start, modulo 2^32: 23 minutes.
    fn ticks(&self) -> u32 {
        // The timer counts down from its largest value.
        !self.registers.value.get()
    }
}

impl Counter for Sun4iTimer {
    fn nanos(&self) -> u64 {
        u64::from(self.ticks()) * 1000 / u64::from(Self::PER_MICROSECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;

    #[test]
    fn timer_1_runs_down_from_the_24_mhz_oscillator_by_8() {
        let registers = fake::block::<Registers>(0x90);
        let timer = Sun4iTimer::new(registers.mmio());
        // Enabled, reloaded, source 1, prescaler 2^3, continuous.
        assert_eq!((registers.read(0x20), registers.read(0x24)), (0b0011_0111, u32::MAX));
        assert_eq!(registers.read(0x10), 0, "timer 0 is left alone");
        registers.write(0x28, u32::MAX - 5);
        assert_eq!(timer.ticks(), 5);
    }
}
