//! 16550-style UARTs: the console's bytes, polled. The crate `uart_16550` drives them. The device tree gives the layout
//! of the registers.
//!
//! Guarantees: no byte is lost on the way out. A write waits until the transmitter is empty, with or without a FIFO.
//! The line keeps the baud rate and frame format that the boot loader chose, because the driver never writes the
//! divisor or the line control. On an AM335x this also keeps the mode register, which a 16550 does not have.

use super::Uart;
use crate::drivers::mmio::Mmio;
use core::ptr::NonNull;
use uart_16550::Uart16550;
use uart_16550::backend::Backend;
use uart_16550::spec::NUM_REGISTERS;
use uart_16550::spec::registers::IER;

/// Where the registers are, and how wide an access to one must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wiring {
    /// `reg-shift`: registers are `1 << shift` bytes apart.
    pub shift: u8,
    /// Whether `reg-io-width` is 4: then the bus takes words only. Otherwise it takes bytes.
    pub words: bool,
}

impl Wiring {
    /// Returns the bytes of all registers. Returns `None` for a spacing in which a word does not fit, or that no bus
    /// has.
    pub const fn bytes(self) -> Option<u32> {
        match self.shift {
            0..=1 if self.words => None,
            0..=3 => Some((NUM_REGISTERS as u32) << self.shift),
            _ => None,
        }
    }
}

struct Wired {
    registers: Mmio<u8>,
    wiring: Wiring,
}

impl Wired {
    fn at(&self, register: u8) -> NonNull<u8> {
        // SAFETY: there are `Wiring::bytes` of registers (contract of `Ns16550::new`), and the crate names these only.
        unsafe { self.registers.pointer().add(usize::from(register) << self.wiring.shift) }
    }
}

impl Backend for Wired {
    unsafe fn read(&mut self, register: u8) -> u8 {
        let at = self.at(register);
        if self.wiring.words {
            // SAFETY: a register of the device mapping (contract of `Ns16550::new`).
            (unsafe { at.cast::<u32>().read_volatile() }) as u8
        } else {
            // SAFETY: as above.
            unsafe { at.read_volatile() }
        }
    }

    unsafe fn write(&mut self, register: u8, value: u8) {
        let at = self.at(register);
        if self.wiring.words {
            // SAFETY: a register of the device mapping (contract of `Ns16550::new`).
            unsafe { at.cast::<u32>().write_volatile(value.into()) };
        } else {
            // SAFETY: as above.
            unsafe { at.write_volatile(value) };
        }
    }
}

/// A UART that the boot loader, or an emulator, has set up.
pub struct Ns16550(Uart16550<Wired>);

impl Ns16550 {
    /// Takes the UART over, and masks every interrupt.
    ///
    /// # Safety
    ///
    /// `registers` is the first of [`Wiring::bytes`] bytes of a 16550's registers. They are aligned to a word, and this
    /// value owns all of them.
    pub unsafe fn new(registers: Mmio<u8>, wiring: Wiring) -> Self {
        // SAFETY: a 16550's registers, all of them this driver's (contract of `new`).
        let mut uart = unsafe { Uart16550::new_with_backend(Wired { registers, wiring }) };
        uart.disable_interrupts(IER::all());
        Self(uart)
    }
}

impl Uart for Ns16550 {
    // The crate waits until the byte before has been sent.
    fn write_byte(&mut self, byte: u8) {
        self.0.send_bytes_exact(&[byte]);
    }

    fn try_read(&mut self) -> Option<u8> {
        self.0.try_receive_byte().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;

    /// Line status: transmitter empty, data ready.
    const STATUS: u32 = 0x21;

    #[test]
    fn words_go_where_reg_shift_says() {
        let registers = fake::block::<u8>(0x400);
        registers.write(4, 0xff);
        registers.write(4 * 5, STATUS);
        let wiring = Wiring { shift: 2, words: true };
        // SAFETY: the block is memory that lasts for ever.
        let mut uart = unsafe { Ns16550::new(registers.mmio(), wiring) };
        assert_eq!(registers.read(4) & 0x0f, 0, "no interrupt");
        registers.write(0, 0xdead_be00);
        uart.write_byte(b'x');
        assert_eq!(registers.read(0), b'x'.into(), "the whole word is written");
        registers.write(0, b'y'.into());
        assert_eq!(uart.try_read(), Some(b'y'));
        registers.write(4 * 5, 0x20);
        assert_eq!(uart.try_read(), None);
        let untouched = [2, 3, 4, 6, 7].map(|register| registers.read(4 * register));
        assert_eq!(untouched, [0; 5], "FIFO, line and modem control stay the boot loader's");
    }

    #[test]
    fn bytes_leave_the_rest_of_the_word_alone() {
        let registers = fake::block::<u8>(0x1000);
        registers.write(4 * 5, STATUS);
        registers.write(0, 0xdead_be00);
        let wiring = Wiring { shift: 2, words: false };
        // SAFETY: the block is memory that lasts for ever.
        let mut uart = unsafe { Ns16550::new(registers.mmio(), wiring) };
        uart.write_byte(b'x');
        assert_eq!(registers.read(0), 0xdead_be00 | u32::from(b'x'));
    }

    #[test]
    fn a_spacing_that_cannot_be_is_refused() {
        assert_eq!(Wiring { shift: 2, words: true }.bytes(), Some(32));
        assert_eq!(Wiring { shift: 0, words: false }.bytes(), Some(8));
        assert_eq!(Wiring { shift: 0, words: true }.bytes(), None);
        assert_eq!(Wiring { shift: 1, words: true }.bytes(), None);
        assert_eq!(Wiring { shift: 4, words: false }.bytes(), None);
    }
}
