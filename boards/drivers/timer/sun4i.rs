//! Timers of the Allwinner A10 (A10 User Manual V1.20, chapter 12; `allwinner,sun4i-a10-timer`): timer 1 as a
//! free-running count, and timer 0 as an alarm.
//!
//! Guarantees: the count never goes back, except that it wraps at 2^32, after 23 minutes. An alarm interrupts once a
//! start. Neither driver touches the other's registers.
//!
//! This driver is ours, because a search of the documentation of crates found no driver to use.

use super::{Alarm, Counter};
use crate::drivers::mmio::Mmio;
use core::ops::Range;
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
    /// The registers of a timer.
    pub Registers {
        (0x0 => control: ReadWrite<u32, CONTROL::Register>),
        (0x4 => interval: ReadWrite<u32>),
        (0x8 => value: ReadWrite<u32>),
        (0xc => @END),
    },
    /// The registers of all timers' interrupts, and of timer 0.
    pub AlarmRegisters {
        (0x00 => interrupts: ReadWrite<u32>),
        (0x04 => over: ReadWrite<u32>),
        (0x08 => _reserved0),
        (0x10 => control: ReadWrite<u32, CONTROL::Register>),
        (0x14 => interval: ReadWrite<u32>),
        (0x18 => value: ReadWrite<u32>),
        (0x1c => @END),
    }
}

/// Ticks a microsecond: the 24 MHz oscillator, which every A10 has, by 8.
const PER_MICROSECOND: u32 = 3;

/// A running timer 1.
pub struct Sun4iTimer {
    registers: Mmio<Registers>,
}

// SAFETY: after `new` the driver only reads the count, which any core may do at any time.
unsafe impl Sync for Sun4iTimer {}

impl Sun4iTimer {
    /// Where its registers are in the block of all timers.
    pub const AT: Range<u32> = 0x20..0x30;

    /// Starts timer 1 over its whole range, without its interrupt.
    pub fn new(registers: Mmio<Registers>) -> Self {
        registers.control.set(0);
        registers.interval.set(u32::MAX);
        registers
            .control
            .write(CONTROL::ENABLE::SET + CONTROL::RELOAD::SET + CONTROL::SOURCE::Osc24M + CONTROL::PRESCALE::By8);
        Self { registers }
    }
}

impl Counter for Sun4iTimer {
    /// Returns the ticks since the start, modulo 2^32: 23 minutes.
    fn ticks(&self) -> u64 {
        // The timer counts down from its largest value.
        u64::from(!self.registers.value.get())
    }

    fn hertz(&self) -> u32 {
        PER_MICROSECOND * 1_000_000
    }
}

/// Timer 0, which interrupts.
pub struct Sun4iAlarm {
    registers: Mmio<AlarmRegisters>,
}

// SAFETY: an A10 has one core.
unsafe impl Sync for Sun4iAlarm {}

impl Sun4iAlarm {
    /// Where its registers are in the block of all timers.
    pub const AT: Range<u32> = 0..0x20;
    /// The bit of timer 0 in the registers of interrupts.
    const TIMER: u32 = 1;

    /// Takes the timer and stops it. No other timer interrupts from here on.
    pub fn new(registers: Mmio<AlarmRegisters>) -> Self {
        let alarm = Self { registers };
        alarm.stop();
        alarm.registers.interrupts.set(Self::TIMER);
        alarm
    }
}

impl Alarm for Sun4iAlarm {
    fn start(&self, micros: u32) {
        self.stop();
        self.registers.interval.set(micros.saturating_mul(PER_MICROSECOND).max(1));
        let rate = CONTROL::SOURCE::Osc24M + CONTROL::PRESCALE::By8;
        self.registers.control.write(CONTROL::ENABLE::SET + CONTROL::RELOAD::SET + CONTROL::ONE_SHOT::SET + rate);
    }

    fn is_over(&self) -> bool {
        self.registers.over.get() & Self::TIMER != 0
    }

    fn stop(&self) {
        self.registers.control.set(0);
        // Writing 1 clears it.
        self.registers.over.set(Self::TIMER);
    }
}

const _: () = assert!(Sun4iAlarm::AT.end <= Sun4iTimer::AT.start, "neither has the other's registers");
const _: () = assert!(size_of::<AlarmRegisters>() <= Sun4iAlarm::AT.end as usize);
const _: () = assert!(size_of::<Registers>() <= (Sun4iTimer::AT.end - Sun4iTimer::AT.start) as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;

    #[test]
    fn timer_1_runs_down_from_the_24_mhz_oscillator_by_8() {
        let registers = fake::block::<Registers>(0x10);
        let timer = Sun4iTimer::new(registers.mmio());
        // Enabled, reloaded, source 1, prescaler 2^3, continuous.
        assert_eq!((registers.read(0), registers.read(4)), (0b0011_0111, u32::MAX));
        registers.write(8, u32::MAX - 5);
        assert_eq!(timer.ticks(), 5);
    }

    #[test]
    fn timer_0_counts_down_once_and_interrupts() {
        let registers = fake::block::<AlarmRegisters>(0x20);
        let alarm = Sun4iAlarm::new(registers.mmio());
        assert_eq!((registers.read(0), registers.read(4), registers.read(0x10)), (1, 1, 0));
        alarm.start(5000);
        // Enabled, loaded, source 1, prescaler 2^3, one shot.
        assert_eq!((registers.read(0x14), registers.read(0x10)), (15_000, 0b1011_0111));
        assert!(alarm.is_over());
        registers.write(4, 0);
        assert!(!alarm.is_over());
        alarm.start(u32::MAX);
        assert_eq!(registers.read(0x14), u32::MAX);
    }
}
