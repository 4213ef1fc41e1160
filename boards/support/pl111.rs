//! PL111 colour LCD controller (Arm DDI 0293): scan-out of one frame in memory.
//!
//! Guarantees: the controller reads only the frame it was given, from [`Pl111::scan_out`] until it has stopped. It writes
//! nothing. It is a bus master without an IOMMU: the caller keeps the frame contiguous, in the device's hands and coherent
//! for that time.
//!
//! What "stopped" means: `LCDControl.LcdEn` reads 0 after the driver cleared it (DDI 0293, 3.2). The read follows the
//! write to the controller, so the write has arrived. No status tells of the bus master itself: a burst that was on the
//! bus may end after that. It only reads, and nothing shows its words, so the next owner of the memory loses nothing.

use core::{fmt, ptr::NonNull};

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
    /// The register block (DDI 0293, 3.2). On the older PL110 the control register stands at 0x1c instead.
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

/// A display mode of 32-bit pixels `0x00RRGGBB`, little endian, rows without padding. The pixel clock is CLCDCLK,
/// undivided: the board supplies it. Both sync pulses are active low.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// Horizontal timing in pixels.
    pub horizontal: Timing,
    /// Vertical timing in lines.
    pub vertical: Timing,
}

/// One direction's timing, each part at least 1 except the vertical porches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Visible pixels (a multiple of 16, at most 1024) or lines (at most 1024).
    pub visible: u32,
    /// After the visible part and before the pulse.
    pub front_porch: u32,
    /// Length of the sync pulse.
    pub sync: u32,
    /// After the pulse.
    pub back_porch: u32,
}

impl Mode {
    /// 640 x 480 at 60 Hz with a pixel clock of 25.175 MHz.
    pub const VGA: Self = Self {
        horizontal: Timing { visible: 640, front_porch: 16, sync: 96, back_porch: 48 },
        vertical: Timing { visible: 480, front_porch: 10, sync: 2, back_porch: 33 },
    };

    /// Bytes of a frame.
    pub const fn frame_bytes(self) -> u32 {
        self.horizontal.visible * self.vertical.visible * 4
    }
}

/// Why nothing is shown. The controller was not told of the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanOutError {
    /// The frame that starts here does not start on the 8 bytes that LCDUPBASE can name (DDI 0293, 3.2.5).
    Misaligned(BusAddr),
    /// The controller shows something else and does not stop.
    Hung,
}

impl fmt::Display for ScanOutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned(frame) => write!(f, "the frame at {frame} is not aligned to 8 bytes"),
            Self::Hung => f.write_str("the display does not switch off"),
        }
    }
}

/// A display controller.
pub struct Pl111 {
    registers: &'static Registers,
}

// SAFETY: the block belongs to this driver alone (contract of `new`), whichever core runs it.
unsafe impl Send for Pl111 {}

impl Pl111 {
    /// Takes the controller over, switched off and with its interrupts masked.
    ///
    /// # Safety
    /// `base` is a device mapping of a PL111 that lasts for ever and that this driver alone uses.
    pub unsafe fn new(base: NonNull<Registers>) -> Self {
        // SAFETY: a mapping that lasts and is this driver's alone (contract of `new`).
        let registers = unsafe { base.as_ref() };
        registers.imsc.set(0);
        let mut controller = Self { registers };
        // Whether it is off is asked again before a frame is shown.
        let _ = controller.off();
        controller
    }

    /// Shows the `mode.frame_bytes()` bytes at `frame` from now on.
    ///
    /// Enable and power come without the pause that a bare panel asks for between them (DDI 0293, 2.6): the boards
    /// here drive a DVI transmitter.
    ///
    /// # Safety
    ///
    /// The frame is the display's until [`off`](Self::off) returns true (I4).
    pub unsafe fn scan_out(&mut self, frame: BusAddr, mode: Mode) -> Result<(), ScanOutError> {
        if !frame.is_aligned(8) {
            return Err(ScanOutError::Misaligned(frame));
        }
        if !self.off() {
            return Err(ScanOutError::Hung);
        }
        let Mode { horizontal: h, vertical: v } = mode;
        let registers = self.registers;
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

    /// Stops the scan-out, and returns whether it stopped: if not, the frame is still the display's.
    #[must_use]
    pub fn off(&mut self) -> bool {
        self.registers.control.modify(CONTROL::LCD_PWR::CLEAR);
        self.registers.control.modify(CONTROL::LCD_EN::CLEAR);
        !self.registers.control.is_set(CONTROL::LCD_EN)
    }
}

#[cfg(test)]
mod tests {
    use std::{boxed::Box, format};

    use super::*;

    #[test]
    fn vga_is_pinned_to_the_manual() {
        let words = Box::leak(Box::new([0u32; 8]));
        let base = NonNull::from(words).cast::<Registers>();
        // SAFETY: registers are cells of integers, for which zeros are valid, and the memory is leaked.
        let registers = unsafe { base.as_ref() };
        // SAFETY: the block is memory that lasts for ever.
        let mut controller = unsafe { Pl111::new(base) };
        // SAFETY: memory is no controller: nothing is read.
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
