//! `DMTimer` of the AM335x (TRM SPRUH73, 20.1; `ti,am335x-timer`) as a free-running count.
//!
//! Guarantees: the count never goes back, except that it wraps at 2^32, after 3 minutes. The boot loader sets up the
//! timer's clock: U-Boot counts with DMTIMER2, the first that a device tree names, from the board's crystal. U-Boot
//! divides the clock by 8. This driver does not divide it.
//!
//! This driver is ours, because a search of the documentation of crates found no driver to use.

use super::Counter;
use crate::drivers::mmio::Mmio;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

register_bitfields! [u32,
    TCLR [START OFFSET(0) NUMBITS(1) [], AUTO_RELOAD OFFSET(1) NUMBITS(1) []],
];

register_structs! {
    /// The registers (SPRUH73, 20.1.5) that a counter needs.
    pub Registers {
        (0x00 => _reserved0),
        (0x30 => disable_irqs: WriteOnly<u32>),
        (0x34 => _reserved1),
        (0x38 => control: ReadWrite<u32, TCLR::Register>),
        (0x3c => count: ReadWrite<u32>),
        (0x40 => load: ReadWrite<u32>),
        (0x44 => _reserved2),
        (0x48 => posted_writes: ReadOnly<u32>),
        (0x4c => @END),
    }
}

/// A running timer.
pub struct DmTimer {
    registers: Mmio<Registers>,
}

// SAFETY: after `new` the driver only reads the count, which any core may do at any time.
unsafe impl Sync for DmTimer {}

impl DmTimer {
    /// Every BeagleBone has a crystal of 24 MHz.
    const HERTZ: u32 = 24_000_000;

    /// Restarts the timer over its whole range, undivided and without interrupts.
    ///
    /// # Safety
    ///
    /// The timer's clocks run. Without them an access aborts.
    pub unsafe fn new(registers: Mmio<Registers>) -> Self {
        let timer = Self { registers };
        timer.registers.disable_irqs.set(0b111);
        timer.settled().control.set(0);
        timer.settled().load.set(0);
        timer.settled().count.set(0);
        timer.settled().control.write(TCLR::START::SET + TCLR::AUTO_RELOAD::SET);
        timer
    }

    /// Returns the registers after the functional clock has taken earlier writes (SPRUH73, 20.1.3.10). A write takes a
    /// few cycles of that clock. The wait is limited, for hardware that is broken.
    fn settled(&self) -> &Registers {
        for _ in 0..10_000 {
            if self.registers.posted_writes.get() == 0 {
                break;
            }
        }
        &self.registers
    }
}

impl Counter for DmTimer {
    /// Returns the ticks since the start, modulo 2^32: 3 minutes.
    fn ticks(&self) -> u64 {
        self.registers.count.get().into()
    }

    fn hertz(&self) -> u32 {
        Self::HERTZ
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;

    #[test]
    fn the_timer_starts_anew_undivided() {
        let registers = fake::block::<Registers>(0x400);
        // The timer as U-Boot leaves it: running, divided by 8.
        registers.write(0x38, 0b10_1011);
        registers.write(0x3c, 7);
        registers.write(0x40, 8);
        // SAFETY: the registers are memory, which needs no clock.
        let timer = unsafe { DmTimer::new(registers.mmio()) };
        assert_eq!((registers.read(0x38), registers.read(0x40), registers.read(0x30)), (0b11, 0, 0b111));
        assert_eq!(timer.ticks(), 0);
        registers.write(0x3c, 5);
        assert_eq!(timer.ticks(), 5);
    }

    #[test]
    fn a_write_that_never_settles_does_not_hang() {
        let registers = fake::block::<Registers>(0x400);
        registers.write(0x48, 1);
        // SAFETY: the registers are memory, which needs no clock.
        let timer = unsafe { DmTimer::new(registers.mmio()) };
        assert_eq!(timer.ticks(), 0);
    }
}
