//! The picture that processes share, and the screen that shows it: a buffer that the scaler and the display have in
//! turns.
//!
//! Guarantees: the scaler writes the screen only while it alone has it, and the display reads it only while it alone
//! has it (I4).

use super::super::failure::Failure;
use super::super::mock::{Window, scaler};
use super::super::picture::display;
use super::super::port::DevicePort;
use crate::drivers::display::{Display, Mode};
use crate::kernel::known::KnownDisplay;
use crate::kernel::state::Kernel;
use alloc::boxed::Box;
use alloc::format;
use carveout::addr::{BusAddr, FRAME_SIZE};
use carveout::dma::{ClientId, DataDirection, DeviceLease, Master, ShareHandle, Shares, UserView};
use carveout_armv7a::mmu::Armv7a;

/// The picture, as processes and the scaler know it: a page of text and flags, then pixels of three bytes.
pub(super) struct Picture;

impl Picture {
    pub(super) const SIZE: scaler::Size = scaler::Size { width: 640, height: 480 };
    const HEAD: u32 = FRAME_SIZE;
    const PIXELS: u32 = Self::SIZE.width * Self::SIZE.height * scaler::SOURCE_PIXEL;
    pub(super) const BYTES: u32 = Self::HEAD + Self::PIXELS;
    pub(super) const PAGES: u32 = Self::BYTES.div_ceil(FRAME_SIZE);
}

/// The display, and the devices that have the screen's pages in turns.
pub(super) struct Screen {
    kernel: &'static Kernel,
    shares: &'static Shares<Armv7a>,
    client: ClientId,
    frame: ShareHandle,
    pages: u32,
    scaler: Master,
    reader: Master,
    hardware: Box<scaler::Hardware<'static>>,
    driver: scaler::Driver<'static>,
    port: DevicePort,
    known: Option<KnownDisplay>,
    display: Option<Box<dyn Display>>,
    /// What the display has.
    shown: Option<DeviceLease<Armv7a>>,
}

impl Screen {
    /// Makes a screen of zeros, which nothing shows yet.
    pub(super) fn new(
        kernel: &'static Kernel,
        shares: &'static Shares<Armv7a>,
        scaler: Master,
    ) -> Result<Self, Failure> {
        static REGISTERS: scaler::Registers = scaler::Registers::new();
        let hardware = Box::new(scaler::Hardware::new(&REGISTERS));
        let driver = scaler::Driver::new(&REGISTERS).ok_or(Failure::NoDevice("scaler"))?;
        // SAFETY: the device works inside of `show` alone, which has leases of its buffers meanwhile (I4).
        let port = unsafe { DevicePort::new(kernel.dma, scaler.clone()) };
        let (known, reader) = display(kernel).map_or((None, scaler.clone()), |(known, reader)| (Some(known), reader));
        let pages = scaler::SCREEN_BYTES / FRAME_SIZE;
        let share = |error| Failure::Share(format!("the screen: {error}"));
        let client = shares.add_client("screen", None, scaler::SCREEN_BYTES.into()).map_err(share)?;
        let view = UserView::WriteCombining;
        let frame = shares.create(client, &reader, scaler::SCREEN_BYTES, view, "frame").map_err(share)?;
        let (display, shown) = (None, None);
        Ok(Self { kernel, shares, client, frame, pages, scaler, reader, hardware, driver, port, known, display, shown })
    }

    fn lease(&self, master: &Master, direction: DataDirection) -> Option<DeviceLease<Armv7a>> {
        self.shares.lend(self.client, self.frame, 0..self.pages, master, direction).ok()
    }

    /// Has the scaler put the picture there on the screen, and the display show it. The scaler has the picture for the
    /// time of this call. Returns whether the picture is in the screen's memory.
    pub(super) fn show(&mut self, picture: BusAddr) -> bool {
        if !self.dark() {
            return false;
        }
        let Some(lease) = self.lease(&self.scaler, DataDirection::FromDevice) else { return false };
        let source = Window { at: BusAddr::new(picture.raw() + Picture::HEAD), len: Picture::PIXELS };
        let screen = Window { at: lease.bus(), len: lease.bytes() };
        let started = self.driver.start(source, Picture::SIZE, screen).is_ok();
        self.hardware.run(&mut self.port, &mut || ());
        let done = started && matches!(self.driver.finish(), Some(Ok(_)));
        // SAFETY: the scaler works inside of `run` alone (I4).
        unsafe { lease.finish() };
        done && self.light()
    }

    /// Has the display read the screen. Returns whether it does, or whether there is none.
    fn light(&mut self) -> bool {
        if self.display.is_none() {
            let Some(known) = &self.known else { return true };
            self.display = known.open(self.kernel);
        }
        let Some(lease) = self.lease(&self.reader, DataDirection::ToDevice) else { return false };
        let Some(display) = &mut self.display else { return false };
        // SAFETY: the lease is kept until the display is off (I4).
        let lit = unsafe { display.scan_out(lease.bus(), Mode::VGA) }.is_ok();
        self.shown = Some(lease);
        lit
    }

    /// Switches the display off. Returns whether nothing reads the screen.
    fn dark(&mut self) -> bool {
        let off = self.display.as_mut().is_none_or(|display| display.off());
        if !off {
            return false;
        }
        if let Some(lease) = self.shown.take() {
            // SAFETY: the display said that it is off (I4).
            unsafe { lease.finish() };
        }
        true
    }

    /// Returns whether a display shows the screen.
    pub(super) const fn is_displayed(&self) -> bool {
        self.shown.is_some()
    }

    /// Ends the screen. The memory of a display that stays on goes into quarantine.
    pub(super) fn off(mut self) {
        if !self.dark()
            && let Some(display) = &mut self.display
        {
            display.keep();
        }
        if let Err(error) = self.shares.remove_client(self.client) {
            log::warn!("{error}");
        }
    }
}
