//! Interrupt controller of the AM335x (TRM SPRUH73, chapter 6; `ti,am33xx-intc`): 128 lines. A line is active while its
//! device holds it or while its software bit is set.
//!
//! Guarantees: after [`OmapIntc::new`] every line is masked and no software bit is set. Only interrupts that
//! [`enable`](OmapIntc::enable) named reach the core. An acknowledged interrupt is ended exactly once.
//!
//! This driver is ours, because a search of the documentation of crates found no driver to use.

use super::InterruptController;
use super::irq::IrqId;
use crate::drivers::mmio::Mmio;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

/// Banks of 32 lines.
const BANKS: usize = 4;

register_bitfields! [u32,
    SIR [ACTIVE OFFSET(0) NUMBITS(7) [], SPURIOUS OFFSET(7) NUMBITS(25) []],
    CONTROL [NEW_IRQ OFFSET(0) NUMBITS(1) []],
];

register_structs! {
    /// One bank (SPRUH73, 6.5.1): 32 lines.
    Bank {
        (0x00 => raw: ReadOnly<u32>),
        (0x04 => mask: ReadWrite<u32>),
        (0x08 => unmask: WriteOnly<u32>),
        (0x0c => mask_more: WriteOnly<u32>),
        (0x10 => raise: ReadWrite<u32>),
        (0x14 => lower: WriteOnly<u32>),
        (0x18 => pending_irq: ReadOnly<u32>),
        (0x1c => pending_fiq: ReadOnly<u32>),
        (0x20 => @END),
    }
}

register_structs! {
    /// The register block (SPRUH73, 6.5.1).
    pub Registers {
        (0x000 => _reserved0),
        (0x040 => sir: ReadOnly<u32, SIR::Register>),
        (0x044 => _reserved1),
        (0x048 => control: WriteOnly<u32, CONTROL::Register>),
        (0x04c => _reserved2),
        (0x068 => threshold: ReadWrite<u32>),
        (0x06c => _reserved3),
        (0x080 => banks: [Bank; BANKS]),
        (0x100 => priorities: [ReadWrite<u32>; BANKS * 32]),
        (0x300 => @END),
    }
}

/// An interrupt that the core has acknowledged and not yet ended.
#[derive(Debug)]
#[must_use = "until it is ended no interrupt is delivered"]
struct Active(IrqId);

/// The controller.
pub struct OmapIntc {
    registers: Mmio<Registers>,
}

impl OmapIntc {
    /// Masks every line, clears the software bits, and switches the priority threshold off.
    pub fn new(registers: Mmio<Registers>) -> Self {
        for bank in &registers.banks {
            bank.mask_more.set(u32::MAX);
            bank.lower.set(u32::MAX);
        }
        registers.threshold.set(0xff);
        // An interrupt that the boot loader acknowledged and never ended would block all others.
        registers.control.write(CONTROL::NEW_IRQ::SET);
        Self { registers }
    }

    fn bank(&self, id: IrqId) -> Option<&Bank> {
        self.registers.banks.get(id.word())
    }

    /// Keeps `id` from the core.
    fn disable(&mut self, id: IrqId) {
        if let Some(bank) = self.bank(id) {
            bank.mask_more.set(id.bit());
        }
    }

    /// Takes the pending interrupt of the highest priority, if there is one. Clears its software bit.
    fn ack(&mut self) -> Option<Active> {
        let sir = self.registers.sir.extract();
        let id = IrqId::new(sir.read(SIR::ACTIVE) as u16)?;
        let bank = self.bank(id)?;
        if sir.read(SIR::SPURIOUS) != 0 || bank.pending_irq.get() & id.bit() == 0 {
            return None;
        }
        bank.lower.set(id.bit());
        Some(Active(id))
    }

    /// Ends an interrupt. Its device must no longer ask for it, or the interrupt must be disabled (SPRUH73, 6.2.2).
    #[expect(clippy::needless_pass_by_value, reason = "an interrupt is ended once")]
    fn eoi(&mut self, active: Active) {
        let Active(id) = active;
        // The read makes sure that the mask or the lowered line has taken effect before the next interrupt is
        // requested.
        let _ = self.bank(id).map(|bank| bank.mask.get());
        self.registers.control.write(CONTROL::NEW_IRQ::SET);
    }
}

impl InterruptController for OmapIntc {
    /// Lets `id` through to IRQ, at the highest priority.
    fn enable(&mut self, id: IrqId) {
        if let Some(bank) = self.bank(id) {
            self.registers.priorities[usize::from(id.number())].set(0);
            bank.unmask.set(id.bit());
        }
    }

    fn set_pending(&mut self, id: IrqId) {
        if let Some(bank) = self.bank(id) {
            bank.raise.set(id.bit());
        }
    }

    fn serve(&mut self, came: fn(IrqId) -> bool) -> Option<IrqId> {
        let active = self.ack()?;
        let Active(id) = active;
        if came(id) {
            self.disable(id);
        }
        self.eoi(active);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;

    #[test]
    fn registers_are_written_as_the_manual_says() {
        let registers = fake::block::<Registers>(0x300);
        let mut intc = OmapIntc::new(registers.mmio());
        for bank in 0..4 {
            let at = 0x80 + 0x20 * bank;
            assert_eq!((registers.read(at + 0x0c), registers.read(at + 0x14)), (u32::MAX, u32::MAX), "bank {bank}");
        }
        assert_eq!((registers.read(0x68), registers.read(0x48)), (0xff, 1));
        // DMTIMER2's line.
        let id = IrqId::new(68).unwrap();
        registers.write(0x100 + 4 * 68, 0xffff_ffff);
        intc.enable(id);
        assert_eq!((registers.read(0xc8), registers.read(0x100 + 4 * 68)), (1 << 4, 0));
        intc.set_pending(id);
        assert_eq!(registers.read(0xd0), 1 << 4);
        intc.disable(id);
        assert_eq!(registers.read(0xcc), 1 << 4);
    }

    #[test]
    fn an_interrupt_is_acknowledged_lowered_and_ended() {
        let registers = fake::block::<Registers>(0x300);
        let mut intc = OmapIntc::new(registers.mmio());
        registers.write(0x48, 0);
        registers.write(0x40, 68);
        registers.write(0xd4, 0);
        assert!(intc.ack().is_none(), "a number without a pending line, as after reset");
        registers.write(0xd8, 1 << 4);
        let active = intc.ack().unwrap();
        assert_eq!((active.0.number(), registers.read(0xd4), registers.read(0x48)), (68, 1 << 4, 0));
        intc.eoi(active);
        assert_eq!(registers.read(0x48), 1);
        registers.write(0x40, 0xffff_ff80 + 68);
        assert!(intc.ack().is_none(), "the spurious flag is set");
    }
}
