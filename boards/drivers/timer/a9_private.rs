//! Cortex-A9 `MPCore` private timer (Arm DDI 0407, 4.1 and 4.2). Each core has its own, at the same address.
//!
//! Guarantees: a start interrupts the calling core alone, and once.
//!
//! This driver is ours. The crate zynq7000 has these registers for one chip only, and no other crate was found.

use super::Alarm;
use crate::drivers::mmio::Mmio;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite},
};

register_bitfields! [u32,
    CONTROL [ENABLE OFFSET(0) NUMBITS(1) [], INTERRUPT OFFSET(2) NUMBITS(1) []],
    STATUS [OVER OFFSET(0) NUMBITS(1) []],
];

register_structs! {
    /// The timer's registers at PERIPHBASE + 0x600 (DDI 0407, table 4-1).
    pub Registers {
        (0x000 => load: ReadWrite<u32>),
        (0x004 => count: ReadOnly<u32>),
        (0x008 => control: ReadWrite<u32, CONTROL::Register>),
        (0x00c => status: ReadWrite<u32, STATUS::Register>),
        (0x010 => @END),
    }
}

/// The private timers of all cores.
pub struct A9PrivateTimer {
    registers: Mmio<Registers>,
    hertz: u32,
}

// SAFETY: the registers behind the address are the calling core's own.
unsafe impl Sync for A9PrivateTimer {}

impl A9PrivateTimer {
    /// Takes the timers. `hertz` is the rate of PERIPHCLK, which they count.
    pub const fn new(registers: Mmio<Registers>, hertz: u32) -> Self {
        Self { registers, hertz }
    }
}

impl Alarm for A9PrivateTimer {
    fn start(&self, micros: u32) {
        self.stop();
        let ticks = u64::from(micros) * u64::from(self.hertz) / 1_000_000;
        // A write to this register sets the count too.
        self.registers.load.set(u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
        self.registers.control.write(CONTROL::ENABLE::SET + CONTROL::INTERRUPT::SET);
    }

    fn is_over(&self) -> bool {
        self.registers.status.is_set(STATUS::OVER)
    }

    fn stop(&self) {
        self.registers.control.set(0);
        // Writing 1 clears the bit.
        self.registers.status.write(STATUS::OVER::SET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;

    #[test]
    fn it_counts_down_once_and_interrupts() {
        let registers = fake::block::<Registers>(0x10);
        let timer = A9PrivateTimer::new(registers.mmio(), 100_000_000);
        timer.start(5000);
        // Enabled, no reload, interrupt, prescaler 1.
        assert_eq!((registers.read(0), registers.read(8), registers.read(0xc)), (500_000, 0b101, 1));
        assert!(timer.is_over());
        registers.write(0xc, 0);
        assert!(!timer.is_over());
        timer.stop();
        assert_eq!((registers.read(8), registers.read(0xc)), (0, 1));
    }
}
