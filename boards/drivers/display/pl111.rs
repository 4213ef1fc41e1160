//! PL111 colour LCD controller (Arm DDI 0293): scan-out of one frame in memory.
//!
//! Guarantees: the controller reads only the frame it was given, from [`scan_out`](Pl111::scan_out) until it has
//! stopped. It writes nothing. It is a bus master without an IOMMU. For that time the caller keeps the frame
//! contiguous, coherent, and owned by the device.
//!
//! "Stopped" means that `LCDControl.LcdEn` reads 0 after the driver cleared it (DDI 0293, 3.2). The read follows the
//! write to the controller, so the write has arrived. No status bit shows the bus master itself: a burst that was on
//! the bus may end after that. It only reads, and nothing shows its words, so the next owner of the memory loses
//! nothing.
//!
//! This driver is ours, because a search of the documentation of crates found no driver to use.

use super::{Display, Mode, ScanOutError};
use crate::drivers::mmio::Mmio;
use carveout::addr::BusAddr;
use tock_registers::{
    interfaces::{ReadWriteable, Readable, Writeable},
    register_bitfields, register_structs,
    registers::ReadWrite,
};

register_bitfields! [u32,
    TIMING0 [
        PPL OFFSET(2) NUMBITS(6) [], HSW OFFSET(8) NUMBITS(8) [], HFP OFFSET(16) NUMBITS(8) [],
        HBP OFFSET(24) NUMBITS(8) []
    ],
    TIMING1 [
        LPP OFFSET(0) NUMBITS(10) [], VSW OFFSET(10) NUMBITS(6) [], VFP OFFSET(16) NUMBITS(8) [],
        VBP OFFSET(24) NUMBITS(8) []
    ],
    TIMING2 [
        IVS OFFSET(11) NUMBITS(1) [], IHS OFFSET(12) NUMBITS(1) [], CPL OFFSET(16) NUMBITS(10) [],
        BCD OFFSET(26) NUMBITS(1) []
    ],
    CONTROL [
        LCD_EN OFFSET(0) NUMBITS(1) [],
        LCD_BPP OFFSET(1) NUMBITS(3) [Unpacked24 = 0b101],
        LCD_TFT OFFSET(5) NUMBITS(1) [],
        BGR OFFSET(8) NUMBITS(1) [],
        LCD_PWR OFFSET(11) NUMBITS(1) []
    ],
];

register_structs! {
    /// The register block (DDI 0293, 3.2). On the older PL110 the control register is at 0x1c instead.
    pub Registers {
        (0x000 => timing0: ReadWrite<u32, TIMING0::Register>),
        (0x004 => timing1: ReadWrite<u32, TIMING1::Register>),
        (0x008 => timing2: ReadWrite<u32, TIMING2::Register>),
        (0x00c => timing3: ReadWrite<u32>),
        (0x010 => upbase: ReadWrite<u32>),
        (0x014 => lpbase: ReadWrite<u32>),
        (0x018 => control: ReadWrite<u32, CONTROL::Register>),
        (0x01c => imsc: ReadWrite<u32>),
        (0x020 => @END),
    }
}

/// A display controller.
pub struct Pl111 {
    registers: Mmio<Registers>,
}

impl Pl111 {
    /// Takes the controller over, switches it off, and masks its interrupts.
    pub fn new(registers: Mmio<Registers>) -> Self {
        registers.imsc.set(0);
        let mut controller = Self { registers };
        // The driver checks again that it is off before it shows a frame.
        let _ = controller.off();
        controller
    }
}

impl Display for Pl111 {
    fn name(&self) -> &'static str {
        "PL111"
    }

    /// Enable and power are set without the pause between them that a bare panel needs (DDI 0293, 2.6), because the
    /// boards here drive a DVI transmitter.
    unsafe fn scan_out(&mut self, frame: BusAddr, mode: Mode) -> Result<(), ScanOutError> {
        if !frame.is_aligned(8) {
            // LCDUPBASE has no such bits (DDI 0293, 3.2.5).
            return Err(ScanOutError::Misaligned(frame));
        }
        if !self.off() {
            // The controller still reads the frame of its former user.
            self.keep();
            return Err(ScanOutError::Hung);
        }
        let Mode { horizontal: h, vertical: v } = mode;
        let registers = &*self.registers;
        registers.timing0.write(
            TIMING0::PPL.val(h.visible / 16 - 1)
                + TIMING0::HSW.val(h.sync - 1)
                + TIMING0::HFP.val(h.front_porch - 1)
                + TIMING0::HBP.val(h.back_porch - 1),
        );
        registers.timing1.write(
            TIMING1::LPP.val(v.visible - 1)
                + TIMING1::VSW.val(v.sync - 1)
                + TIMING1::VFP.val(v.front_porch)
                + TIMING1::VBP.val(v.back_porch),
        );
        registers
            .timing2
            .write(TIMING2::IVS::SET + TIMING2::IHS::SET + TIMING2::CPL.val(h.visible - 1) + TIMING2::BCD::SET);
        registers.timing3.set(0);
        registers.upbase.set(frame.raw());
        registers.lpbase.set(0);
        // Without BGR the controller takes red from bits 7:0.
        registers
            .control
            .write(CONTROL::LCD_EN::SET + CONTROL::LCD_BPP::Unpacked24 + CONTROL::LCD_TFT::SET + CONTROL::BGR::SET);
        registers.control.modify(CONTROL::LCD_PWR::SET);
        Ok(())
    }

    fn off(&mut self) -> bool {
        self.registers.control.modify(CONTROL::LCD_PWR::CLEAR);
        self.registers.control.modify(CONTROL::LCD_EN::CLEAR);
        !self.registers.control.is_set(CONTROL::LCD_EN)
    }

    fn keep(&mut self) {
        self.registers.keep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::fake;
    use std::format;

    #[test]
    fn vga_is_pinned_to_the_manual() {
        let block = fake::block::<Registers>(0x20);
        let registers = block.mmio();
        let mut controller = Pl111::new(block.mmio());
        // SAFETY: the registers are memory, not a controller: nothing is read.
        let mut show = |at| unsafe { controller.scan_out(BusAddr::new(at), Mode::VGA) };
        let misaligned = show(0x6000_0004).unwrap_err();
        assert_eq!(format!("{misaligned}"), "the frame at 0x60000004 is not aligned to 8 bytes");
        assert_eq!(registers.control.get(), 0);
        show(0x6000_0008).unwrap();
        assert_eq!(registers.timing0.get(), 0x2f0f_5f9c);
        assert_eq!(registers.timing1.get(), 0x210a_05df);
        assert_eq!(registers.timing2.get(), 0x067f_1800);
        assert_eq!(registers.upbase.get(), 0x6000_0008);
        assert_eq!(registers.control.get(), 0x0000_092b);
        assert!(controller.off());
        assert_eq!(registers.control.get() & 0x801, 0);
        assert_eq!(Mode::VGA.frame_bytes(), 640 * 480 * 4);
    }
}
