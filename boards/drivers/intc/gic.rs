//! Generic Interrupt Controller, architecture version 1 (Arm IHI 0048A).
//!
//! Guarantees: after [`Gic::new`] no shared interrupt is enabled or pending. Only interrupts that
//! [`enable`](Gic::enable) named reach the core. Each acknowledged interrupt is ended with the value by which it was
//! acknowledged.
//!
//! This driver is ours for two reasons. arm-gic 0.8 routes no interrupt to a core and raises none. Its CPU interface
//! spans 4 KiB, but that of the Cortex-A9 has 256 bytes, and registers of other devices follow.

use super::InterruptController;
use super::irq::IrqId;
use crate::drivers::mmio::Mmio;

use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields, register_structs,
    registers::{ReadOnly, ReadWrite, WriteOnly},
};

register_bitfields! [u32,
    CTLR [ENABLE OFFSET(0) NUMBITS(1) []],
    TYPER [IT_LINES_NUMBER OFFSET(0) NUMBITS(5) []],
    IAR [ID OFFSET(0) NUMBITS(10) []],
];

register_structs! {
    /// The distributor (IHI 0048A, 4.3): PERIPHBASE + 0x1000 on a Cortex-A9 MPCore.
    pub Distributor {
        (0x000 => ctlr: ReadWrite<u32, CTLR::Register>),
        (0x004 => typer: ReadOnly<u32, TYPER::Register>),
        (0x008 => _reserved0),
        (0x100 => isenabler: [ReadWrite<u32>; 32]),
        (0x180 => icenabler: [ReadWrite<u32>; 32]),
        (0x200 => ispendr: [ReadWrite<u32>; 32]),
        (0x280 => icpendr: [ReadWrite<u32>; 32]),
        (0x300 => _reserved1),
        (0x400 => ipriorityr: [ReadWrite<u8>; 1024]),
        (0x800 => itargetsr: [ReadWrite<u8>; 1024]),
        (0xc00 => _reserved2),
        (0xf00 => sgir: WriteOnly<u32>),
        (0xf04 => @END),
    }
}

register_structs! {
    /// The CPU interface (IHI 0048A, 4.4): PERIPHBASE + 0x100 on a Cortex-A9 MPCore.
    pub CpuInterface {
        (0x000 => ctlr: ReadWrite<u32, CTLR::Register>),
        (0x004 => pmr: ReadWrite<u32>),
        (0x008 => bpr: ReadWrite<u32>),
        (0x00c => iar: ReadOnly<u32, IAR::Register>),
        (0x010 => eoir: WriteOnly<u32>),
        (0x014 => @END),
    }
}

/// An interrupt that the core has acknowledged and not yet ended.
#[derive(Debug)]
#[must_use = "until it is ended no interrupt of its priority or below is delivered"]
struct Active {
    /// IAR as read. For a software interrupt it also names the core that sent it.
    acknowledge: u32,
    id: IrqId,
}

/// The value for core 0 alone in a register of targets.
const BOOT_CORE: u8 = 1;
/// Software interrupts come before devices'.
const SOFTWARE_PRIORITY: u8 = 0x80;
/// The priority of devices' interrupts. An implementation may keep only the upper bits of the eight, at least four (IHI
/// 0048A, 3.3).
const DEVICE_PRIORITY: u8 = 0xa0;

/// The distributor and each core's own interface to it.
pub struct Gic {
    distributor: Mmio<Distributor>,
    cpu: Mmio<CpuInterface>,
}

impl Gic {
    /// Makes the shared interrupts disabled and not pending, then enables both parts.
    ///
    /// Both blocks belong to one GIC. All cores reach their own CPU interface at the same address (IHI 0048A, 4.4).
    pub fn new(distributor: Mmio<Distributor>, cpu: Mmio<CpuInterface>) -> Self {
        distributor.ctlr.write(CTLR::ENABLE::CLEAR);
        let words = distributor.typer.read(TYPER::IT_LINES_NUMBER) as usize + 1;
        for word in 0..words {
            distributor.icenabler[word].set(u32::MAX);
            distributor.icpendr[word].set(u32::MAX);
        }
        // The targets are set before any interrupt is pending, because an interrupt without a target could get lost.
        // The targets in the first word are each core's own, and read-only.
        for id in 32..usize::from(IrqId::LIMIT).min(32 * words) {
            distributor.itargetsr[id].set(BOOT_CORE);
        }
        let mut gic = Self { distributor, cpu };
        gic.start_this_core();
        gic.distributor.ctlr.write(CTLR::ENABLE::SET);
        gic
    }

    /// Lets software interrupts, and the interrupts that are enabled for this core, reach the core that this runs on.
    fn start_this_core(&mut self) {
        // The first word, and the priorities of its interrupts, are each core's own.
        self.distributor.icenabler[0].set(u32::MAX << 16);
        self.distributor.icpendr[0].set(u32::MAX);
        for id in 0..16 {
            self.distributor.ipriorityr[id].set(SOFTWARE_PRIORITY);
        }
        self.distributor.isenabler[0].set(u32::MAX >> 16);
        // All priorities pass, and each may preempt every lower priority.
        self.cpu.pmr.set(0xff);
        self.cpu.bpr.set(0);
        self.cpu.ctlr.write(CTLR::ENABLE::SET);
    }

    /// Keeps `id` from the core. A pending interrupt stays pending.
    fn disable(&mut self, id: IrqId) {
        self.distributor.icenabler[id.word()].set(id.bit());
    }

    /// Takes the pending interrupt of the highest priority, if there is one.
    fn ack(&mut self) -> Option<Active> {
        let iar = self.cpu.iar.extract();
        let id = iar.read(IAR::ID) as u16;
        Some(Active { acknowledge: iar.get(), id: IrqId::new(id)? })
    }

    /// Ends an interrupt. Its device must no longer ask for it.
    #[expect(clippy::needless_pass_by_value, reason = "an interrupt is ended once")]
    fn eoi(&mut self, active: Active) {
        self.cpu.eoir.set(active.acknowledge);
    }
}

impl InterruptController for Gic {
    /// Lets `id` interrupt core 0, where all shared interrupts go.
    fn enable(&mut self, id: IrqId) {
        let index = usize::from(id.number());
        self.distributor.ipriorityr[index].set(DEVICE_PRIORITY);
        self.distributor.isenabler[id.word()].set(id.bit());
    }

    fn set_pending(&mut self, id: IrqId) {
        self.distributor.ispendr[id.word()].set(id.bit());
    }

    fn serve(&mut self, came: fn(IrqId) -> bool) -> Option<IrqId> {
        let active = self.ack()?;
        let id = active.id;
        if came(id) {
            self.disable(id);
        }
        self.eoi(active);
        Some(id)
    }

    /// Starts this core's own interface. Call it once on each core except the one that called [`new`](Self::new).
    fn start_core(&mut self) -> bool {
        self.start_this_core();
        true
    }

    /// Does nothing for another kind of interrupt. When the interrupt arrives, the cores see what was written before.
    fn send(&mut self, id: IrqId, cores: u8) -> bool {
        if id.is_software() {
            self.distributor.sgir.set(u32::from(cores) << 16 | u32::from(id.number()));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;

    #[test]
    fn enable_names_the_bit_the_priority_and_the_core() {
        let (distributor, cpu) = (fake::block::<Distributor>(0x1000), fake::block::<CpuInterface>(0x100));
        // 96 interrupts.
        distributor.write(4, 2);
        let mut gic = Gic::new(distributor.mmio(), cpu.mmio());
        let id = IrqId::shared(40).unwrap();
        gic.enable(id);
        assert_eq!(distributor.read(0x108), 1 << 8);
        assert_eq!((distributor.read(0x448), distributor.read(0x848)), (0xa0, 0x0101_0101));
        gic.set_pending(id);
        assert_eq!(distributor.read(0x208), 1 << 8);
        gic.disable(id);
        assert_eq!(distributor.read(0x188), 1 << 8);
        assert_eq!((distributor.read(0), cpu.read(0), cpu.read(4)), (1, 1, 0xff));
        assert!(gic.send(IrqId::new(3).unwrap(), 0b0110));
        assert!(gic.send(id, 0b1000));
        assert_eq!(distributor.read(0xf00), 0x0006_0003, "and a shared one is not software's");
    }

    #[test]
    fn the_special_numbers_are_no_interrupts() {
        let (distributor, cpu) = (fake::block::<Distributor>(0x1000), fake::block::<CpuInterface>(0x100));
        let mut gic = Gic::new(distributor.mmio(), cpu.mmio());
        cpu.write(0x0c, 1023);
        assert!(gic.ack().is_none());
        // Software interrupt 3 from core 1: it is ended as it was acknowledged.
        cpu.write(0x0c, 1 << 10 | 3);
        let active = gic.ack().unwrap();
        assert_eq!(active.id.number(), 3);
        gic.eoi(active);
        assert_eq!(cpu.read(0x10), 1 << 10 | 3);
    }
}
