//! Displays: scan-out of one frame in memory.

pub mod pl111;

use carveout::addr::BusAddr;
use core::fmt;

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
    /// The frame that starts here does not start on the 8 bytes that the controller can name.
    Misaligned(BusAddr),
    /// The controller shows something else and does not stop.
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
/// It is a bus master without an IOMMU: the caller keeps the frame contiguous, in the device's hands and coherent for
/// that time.
pub trait Display: Send {
    /// Returns what the table of hops calls it.
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
    /// controller shows something else and does not stop.
    unsafe fn scan_out(&mut self, frame: BusAddr, mode: Mode) -> Result<(), ScanOutError>;

    /// Stops the scan-out, and returns whether it stopped. If not, the frame is still the display's.
    #[must_use]
    fn off(&mut self) -> bool;

    /// Keeps the registers from everybody else, for good: the display was not seen to stop.
    fn keep(&mut self);
}
