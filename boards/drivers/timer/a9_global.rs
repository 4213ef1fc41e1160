//! Cortex-A9 `MPCore` global timer (Arm DDI 0407, 4.4): a 64-bit count that all cores share.
//!
//! Guarantees: [`A9GlobalTimer::count`] never goes back. It is the value of one moment, although its halves are read
//! one after the other.
//!
//! This driver is ours. The crate zynq7000 has these registers for one chip only, and no other crate was found.

use super::Counter;
use crate::drivers::mmio::Mmio;
use tock_registers::{
    interfaces::{ReadWriteable, Readable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite},
};

register_bitfields! [u32,
    CONTROL [ENABLE OFFSET(0) NUMBITS(1) []],
];

register_structs! {
    /// The timer's registers at PERIPHBASE + 0x200 that a counter needs.
    pub Registers {
        (0x000 => count_low: ReadOnly<u32>),
        (0x004 => count_high: ReadOnly<u32>),
        (0x008 => control: ReadWrite<u32, CONTROL::Register>),
        (0x00c => @END),
    }
}

/// A running global timer.
pub struct A9GlobalTimer {
    registers: Mmio<Registers>,
    hertz: u32,
}

// SAFETY: after `new` the driver only reads the count, which any core may do at any time.
unsafe impl Sync for A9GlobalTimer {}

impl A9GlobalTimer {
    /// Lets the timer run, from its present count and with its present prescaler (1 after reset).
    ///
    /// `hertz` is the rate of PERIPHCLK, which the timer counts.
    pub fn new(registers: Mmio<Registers>, hertz: u32) -> Self {
        registers.control.modify(CONTROL::ENABLE::SET);
        Self { registers, hertz: hertz.max(1) }
    }
}

impl Counter for A9GlobalTimer {
    /// Returns the ticks of PERIPHCLK. The halves are read again until the upper one does not change (DDI 0407, 4.4.1).
    fn ticks(&self) -> u64 {
        let mut high = self.registers.count_high.get();
        loop {
            let low = self.registers.count_low.get();
            let again = self.registers.count_high.get();
            if again == high {
                return u64::from(high) << 32 | u64::from(low);
            }
            high = again;
        }
    }

    fn hertz(&self) -> u32 {
        self.hertz
    }
}
