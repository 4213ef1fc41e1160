//! Interrupt controller of the Allwinner A10 (A10 User Manual V1.20, chapter 13; `allwinner,sun4i-a10-ic`): 96 lines. A
//! line is active while its device holds it.
//!
//! Guarantees: after [`Sun4iIntc::new`] every line is masked and none is a fast interrupt. Only interrupts that
//! [`enable`](Sun4iIntc::enable) named reach the core. There is nothing to acknowledge or end: a line stays pending
//! until its device lowers it or it is masked.
//!
//! This driver is ours, because a search of the documentation of crates found no driver to use.

use super::InterruptController;
use super::irq::IrqId;
use crate::drivers::mmio::Mmio;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_structs,
    registers::{ReadOnly, ReadWrite},
};

/// Registers with a bit for each line.
const WORDS: usize = 3;

register_structs! {
    /// The register block.
    pub Registers {
        (0x00 => vector: ReadOnly<u32>),
        (0x04 => base: ReadWrite<u32>),
        (0x08 => protect: ReadWrite<u32>),
        (0x0c => nmi_control: ReadWrite<u32>),
        (0x10 => pending: [ReadOnly<u32>; WORDS]),
        (0x1c => _reserved0),
        (0x30 => fast: [ReadWrite<u32>; WORDS]),
        (0x3c => _reserved1),
        (0x40 => enable: [ReadWrite<u32>; WORDS]),
        (0x4c => _reserved2),
        (0x50 => mask: [ReadWrite<u32>; WORDS]),
        (0x5c => @END),
    }
}

/// The controller.
pub struct Sun4iIntc {
    registers: Mmio<Registers>,
    /// Lines that software raised. The controller has no register for that. So these lines do not interrupt the core,
    /// and code that waits asks for them.
    raised: [u32; WORDS],
}

impl Sun4iIntc {
    /// Masks every line and routes all of them to IRQ.
    pub fn new(registers: Mmio<Registers>) -> Self {
        for word in 0..WORDS {
            registers.enable[word].set(0);
            registers.mask[word].set(u32::MAX);
            registers.fast[word].set(0);
        }
        Self { registers, raised: [0; WORDS] }
    }

    /// Keeps `id` from the core.
    fn disable(&mut self, id: IrqId) {
        if let (Some(enable), Some(mask)) = (self.registers.enable.get(id.word()), self.registers.mask.get(id.word())) {
            mask.set(mask.get() | id.bit());
            enable.set(enable.get() & !id.bit());
        }
    }

    /// Takes the first pending line that is let through, and clears it if software raised it. The driver reads the
    /// pending bits, because the vector register says 0 both for line 0 and for no line.
    fn take(&mut self) -> Option<IrqId> {
        let Registers { pending, mask, .. } = &*self.registers;
        let bits = |word: usize| (pending[word].get() | self.raised[word]) & !mask[word].get();
        let word = (0..WORDS).find(|&word| bits(word) != 0)?;
        let id = IrqId::new((word * 32) as u16 + bits(word).trailing_zeros() as u16)?;
        self.raised[word] &= !id.bit();
        Some(id)
    }
}

impl InterruptController for Sun4iIntc {
    fn enable(&mut self, id: IrqId) {
        if let (Some(enable), Some(mask)) = (self.registers.enable.get(id.word()), self.registers.mask.get(id.word())) {
            enable.set(enable.get() | id.bit());
            mask.set(mask.get() & !id.bit());
        }
    }

    fn set_pending(&mut self, id: IrqId) {
        if let Some(raised) = self.raised.get_mut(id.word()) {
            *raised |= id.bit();
        }
    }

    fn serve(&mut self, came: fn(IrqId) -> bool) -> Option<IrqId> {
        let id = self.take()?;
        if came(id) {
            self.disable(id);
        }
        Some(id)
    }

    fn must_be_asked(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;

    #[test]
    fn only_what_is_enabled_and_pending_is_told() {
        let registers = fake::block::<Registers>(0x60);
        registers.write(0x30, 0xffff_ffff);
        let mut intc = Sun4iIntc::new(registers.mmio());
        assert_eq!((registers.read(0x58), registers.read(0x40), registers.read(0x30)), (u32::MAX, 0, 0));
        let sata = IrqId::new(56).unwrap();
        // Line 1 is pending too, but is not enabled.
        registers.write(0x10, 1 << 1);
        registers.write(0x14, 1 << 24);
        assert_eq!(intc.take(), None);
        intc.enable(sata);
        assert_eq!((registers.read(0x44), registers.read(0x54)), (1 << 24, !(1 << 24)));
        assert_eq!(intc.take(), Some(sata));
        intc.disable(sata);
        assert_eq!(intc.take(), None);
        assert_eq!((registers.read(0x44), registers.read(0x54)), (0, u32::MAX));
    }

    #[test]
    fn what_software_raised_waits_for_the_mask_and_is_told_once() {
        let registers = fake::block::<Registers>(0x60);
        let mut intc = Sun4iIntc::new(registers.mmio());
        let codec = IrqId::new(93).unwrap();
        intc.set_pending(codec);
        assert_eq!(intc.take(), None);
        intc.enable(codec);
        assert_eq!((intc.take(), intc.take()), (Some(codec), None));
    }

    #[test]
    fn the_last_line_is_95() {
        let registers = fake::block::<Registers>(0x60);
        let mut intc = Sun4iIntc::new(registers.mmio());
        intc.enable(IrqId::new(96).unwrap());
        intc.set_pending(IrqId::new(96).unwrap());
        intc.enable(IrqId::new(95).unwrap());
        registers.write(0x18, u32::MAX);
        assert_eq!(intc.take(), IrqId::new(95));
    }
}
