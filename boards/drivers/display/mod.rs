//! Displays: scan-out of one frame in memory.

pub mod pl111;

use carveout::addr::BusAddr;
use core::fmt;

/// A display mode. Pixels are 32-bit words `0x00RRGGBB`, little endian, and rows have no padding. The pixel clock is
/// CLCDCLK, undivided, which the board supplies. Both sync pulses are active low.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// Horizontal timing in pixels.
    pub horizontal: Timing,
    /// Vertical timing in lines.
    pub vertical: Timing,
}

/// The timing of one direction. Each part is at least 1, except the vertical porches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Visible pixels (a multiple of 16, at most 1024) or lines (at most 1024).
    pub visible: u32,
    /// Pixels or lines after the visible part and before the pulse.
    pub front_porch: u32,
    /// Length of the sync pulse.
    pub sync: u32,
    /// Pixels or lines after the pulse.
    pub back_porch: u32,
}

impl Mode {
    /// 640 x 480 at 60 Hz with a pixel clock of 25.175 MHz.
    pub const VGA: Self = Self {
        horizontal: Timing { visible: 640, front_porch: 16, sync: 96, back_porch: 48 },
        vertical: Timing { visible: 480, front_porch: 10, sync: 2, back_porch: 33 },
    };

    /// Returns the bytes of a frame.
    pub const fn frame_bytes(self) -> u32 {
        self.horizontal.visible * self.vertical.visible * 4
    }
}

/// Why nothing is shown. The controller was not told about the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanOutError {
    /// The frame starts at this address, which is not a multiple of the 8 bytes that the controller can name.
    Misaligned(BusAddr),
    /// The controller shows another frame and does not stop.
    Hung,
}

impl fmt::Display for ScanOutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misaligned(frame) => write!(f, "the frame at {frame} is not aligned to 8 bytes"),
            Self::Hung => f.write_str("the display does not switch off; reset the board"),
        }
    }
}

impl core::error::Error for ScanOutError {}

/// A display controller. It reads only the frame it was given, until it has stopped, and writes nothing.
///
/// It is a bus master without an IOMMU. For that time the caller keeps the frame contiguous, coherent, and owned by the
/// device.
pub trait Display: Send {
    /// Returns the name for the table of hops.
    fn name(&self) -> &'static str;

    /// Shows the `mode.frame_bytes()` bytes at `frame` from now on.
    ///
    /// # Safety
    ///
    /// The frame is the display's until [`off`](Self::off) returns true (I4).
    ///
    /// # Errors
    ///
    /// [`ScanOutError::Misaligned`] if the controller cannot name the frame's address. [`ScanOutError::Hung`] if the
    /// controller shows another frame and does not stop.
    unsafe fn scan_out(&mut self, frame: BusAddr, mode: Mode) -> Result<(), ScanOutError>;

    /// Stops the scan-out, and returns whether it stopped. If not, the frame is still the display's.
    #[must_use]
    fn off(&mut self) -> bool;

    /// Keeps the registers for ever, so that nobody else gets them. Called if the display was not seen to stop.
    fn keep(&mut self);
}
