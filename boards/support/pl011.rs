//! PL011 UART (Arm DDI 0183): the console's bytes, polled.
//!
//! Guarantees: no byte is lost on the way out (a write waits for room in the FIFO), and the line keeps the baud rate
//! and frame format that the boot loader chose, since `LCR_H` and the divisors are never written.

use core::ptr::NonNull;

use tock_registers::{
    interfaces::{ReadWriteable, Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite},
};

register_bitfields! [u32,
    DR [DATA OFFSET(0) NUMBITS(8) []],
    FR [RXFE OFFSET(4) NUMBITS(1) [], TXFF OFFSET(5) NUMBITS(1) []],
    CR [UARTEN OFFSET(0) NUMBITS(1) [], TXE OFFSET(8) NUMBITS(1) [], RXE OFFSET(9) NUMBITS(1) []],
];

register_structs! {
    /// The register block (DDI 0183, 3.2).
    pub Registers {
        (0x000 => dr: ReadWrite<u32, DR::Register>),
        (0x004 => _reserved0),
        (0x018 => fr: ReadOnly<u32, FR::Register>),
        (0x01c => _reserved1),
        (0x030 => cr: ReadWrite<u32, CR::Register>),
        (0x034 => _reserved2),
        (0x038 => imsc: ReadWrite<u32>),
        (0x03c => @END),
    }
}

/// An enabled UART.
pub struct Pl011 {
    registers: &'static Registers,
}

// SAFETY: the block belongs to this driver alone (contract of `new`), whichever core runs it.
unsafe impl Send for Pl011 {}

impl Pl011 {
    /// Enables both directions and masks every interrupt.
    ///
    /// # Safety
    /// `base` is a device mapping of a PL011 that lasts for ever and that this driver alone uses.
    pub unsafe fn new(base: NonNull<Registers>) -> Self {
        // SAFETY: a mapping that lasts and is this driver's alone (contract of `new`).
        let registers = unsafe { base.as_ref() };
        registers.imsc.set(0);
        registers.cr.modify(CR::UARTEN::SET + CR::TXE::SET + CR::RXE::SET);
        Self { registers }
    }

    /// Sends one byte as it is; waits while the FIFO is full.
    pub fn write_byte(&mut self, byte: u8) {
        while self.registers.fr.is_set(FR::TXFF) {
            carveout::cpu::relax();
        }
        self.registers.dr.write(DR::DATA.val(byte.into()));
    }

    /// The next byte received, if there is one. Line errors are not told apart from data.
    pub fn try_read(&mut self) -> Option<u8> {
        if self.registers.fr.is_set(FR::RXFE) { None } else { Some(self.registers.dr.read(DR::DATA) as u8) }
    }
}
