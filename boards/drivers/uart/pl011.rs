//! PL011 UART (Arm DDI 0183): the console's bytes, polled, by the crate `arm-pl011-uart`.
//!
//! Guarantees: no byte is lost on the way out, because a write waits for room in the FIFO. The line keeps the baud rate
//! and frame format that the boot loader chose, because the driver never writes `LCR_H` or the divisors. The crate's
//! function to enable a UART writes both, so this driver sets the control register itself.

use super::Uart;
use crate::drivers::mmio::Mmio;
use arm_pl011_uart::{Interrupts, PL011Registers, UniqueMmioPointer};
use tock_registers::{interfaces::ReadWriteable, register_bitfields, register_structs, registers::ReadWrite};

register_bitfields! [u32,
    CR [UARTEN OFFSET(0) NUMBITS(1) [], TXE OFFSET(8) NUMBITS(1) [], RXE OFFSET(9) NUMBITS(1) []],
];

register_structs! {
    /// The control register (DDI 0183, 3.3.8), at its offset.
    Control {
        (0x000 => _others),
        (0x030 => cr: ReadWrite<u32, CR::Register>),
        (0x034 => @END),
    }
}

/// An enabled UART.
pub struct Pl011 {
    uart: arm_pl011_uart::Uart<'static>,
    /// The driver owns the registers as long as it lives.
    _registers: Mmio<PL011Registers>,
}

impl Pl011 {
    /// Enables both directions and masks every interrupt.
    pub fn new(registers: Mmio<PL011Registers>) -> Self {
        let base = registers.pointer();
        // SAFETY: these are a PL011's registers. This driver owns them as long as it lives, because it stores
        // `registers`.
        let mut uart = arm_pl011_uart::Uart::new(unsafe { UniqueMmioPointer::new(base) });
        uart.set_interrupt_masks(Interrupts::empty());
        // SAFETY: as above. The crate keeps no reference to the registers, and its value is not used meanwhile.
        let control = unsafe { base.cast::<Control>().as_ref() };
        control.cr.modify(CR::UARTEN::SET + CR::TXE::SET + CR::RXE::SET);
        Self { uart, _registers: registers }
    }
}

impl Uart for Pl011 {
    fn write_byte(&mut self, byte: u8) {
        while self.uart.is_tx_fifo_full() {
            carveout::cpu::relax();
        }
        self.uart.write_word(byte);
    }

    fn try_read(&mut self) -> Option<u8> {
        // A byte with a line error is dropped.
        self.uart.read_word().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;

    #[test]
    fn the_line_stays_as_the_boot_loader_set_it() {
        let block = fake::block::<PL011Registers>(0x1000);
        for (register, value) in [(0x24, 13), (0x28, 1), (0x2c, 0x70), (0x30, 0xc000), (0x38, 0x7ff), (0x18, 0x90)] {
            block.write(register, value);
        }
        let mut uart = Pl011::new(block.mmio());
        assert_eq!((block.read(0x30), block.read(0x38)), (0xc301, 0), "enabled, with no interrupt");
        uart.write_byte(b'x');
        assert_eq!(block.read(0), b'x'.into());
        assert_eq!(uart.try_read(), None, "its FIFO is empty");
        block.write(0x18, 0x80);
        block.write(0, b'y'.into());
        assert_eq!(uart.try_read(), Some(b'y'));
        assert_eq!([0x24, 0x28, 0x2c].map(|register| block.read(register)), [13, 1, 0x70]);
        drop(uart);
        assert_eq!(block.given_back(), 1);
    }
}
