//! The picture: a JPEG goes from a disk to the screen. Each hop is a buffer of the CMA and a bus master.

use super::failure::Failure;
use super::hops::Hop;
use super::line::Line;
use super::memory::{CODEC, SCALER, alloc, master};
use super::mock::{Busy, Window, camera, codec, scaler};
use super::photo;
use super::port::DevicePort;
use crate::drivers::display::{Display, Mode};
use crate::drivers::storage::pl181::Card;
use crate::drivers::storage::{BlockDevice, Writable};
use crate::drivers::wait::Failed;
use crate::kernel::known::{self, BoardCopier, KnownDisplay};
use crate::kernel::state::Kernel;
use crate::println;
use alloc::boxed::Box;
use alloc::vec::Vec;
use carveout::addr::FRAME_SIZE;
use carveout::dma::{Coherent, Cpu, DeviceOnly, Direction, Effort, FromDevice, Master, Stream, ToDevice};
use carveout_armv7a::mmu::Armv7a;

/// Bytes of heap that the codec may not use.
const HEAP_MARGIN: usize = 4 << 20;

/// Where the file comes from.
pub(super) enum Source {
    /// A bus master.
    Disk(known::Disk),
    /// A card whose interface is a bus master. The card has files.
    Photo(known::Disk),
    /// A card whose interface is no bus master, so the CPU reads the bytes.
    Card(Card),
}

impl Source {
    /// Returns the disk for writing, if its driver can write.
    pub(super) fn as_writable(&mut self) -> Option<&mut dyn Writable> {
        match self {
            Self::Disk(disk) => disk.as_writable(),
            // Of a card with files no block is anybody's.
            Self::Photo(_) | Self::Card(_) => None,
        }
    }

    /// Opens the first disk that answers, or the memory card.
    pub(super) fn open(kernel: &'static Kernel) -> Result<Self, Failure> {
        if let Some(disk) = known::disk(kernel).map_err(Failure::Disk)? {
            return Ok(Self::Disk(disk));
        }
        if let Some(mut card) = known::card_disk(kernel).map_err(Failure::Disk)? {
            let is_picture = is_picture(kernel, &mut *card)?;
            return Ok(if is_picture { Self::Disk(card) } else { Self::Photo(card) });
        }
        known::card(kernel).map_err(Failure::Card)?.map(Self::Card).ok_or(Failure::NoDisk)
    }

    /// Opens the memory card that has a photo, for a board whose tree knows nothing of the demo. Other disks are left
    /// alone. A card without a photo is no failure: one line says why it is not used.
    pub(super) fn with_photo(kernel: &'static Kernel) -> Option<Self> {
        let mut card = match known::card_disk(kernel) {
            Ok(card) => card?,
            Err(error) => {
                println!("card: not used: {error}");
                return None;
            }
        };
        match photo::size(&mut card) {
            Ok(_) => Some(Self::Photo(card)),
            Err(failure) => {
                println!("card: not used: {failure}");
                None
            }
        }
    }
}

/// A display that shows a buffer. On a board without a known display, only the buffer.
pub(super) struct Screen {
    display: Option<Box<dyn Display>>,
    frame: Coherent<Armv7a>,
}

impl Screen {
    /// Switches the display off and frees the frame. The frame of a display that stays on goes into quarantine.
    pub(super) fn off(mut self) {
        let off = self.display.as_mut().is_none_or(|display| display.off());
        if off {
            // SAFETY: the display reported that it is off, or there is no display, so nothing reads the frame any more
            // (I4).
            drop(unsafe { self.frame.release() });
        } else if let Some(display) = &mut self.display {
            display.keep();
        }
    }

    /// Returns whether a display shows the frame.
    pub(super) const fn is_displayed(&self) -> bool {
        self.display.is_some()
    }
}

/// Shows the disk's picture until the screen is switched off.
pub(super) fn show_picture(kernel: &'static Kernel, disk: &mut Source, hops: &mut Vec<Hop>) -> Result<Screen, Failure> {
    match disk {
        Source::Disk(disk) => {
            // The CPU looks at the file first. The caches never held a line of it, so this maintains no line.
            let jpeg = read_disk(kernel, &mut **disk)?;
            show_file(kernel, disk.name(), jpeg, hops)
        }
        Source::Photo(card) => {
            let screen = show_file(kernel, card.name(), photo::read(kernel, card)?, hops)?;
            match photo::keep(card, &screen.frame) {
                Ok(()) => Ok(screen),
                Err(failure) => {
                    screen.off();
                    Err(failure)
                }
            }
        }
        Source::Card(card) => show_file(kernel, "SD card", read_card(kernel, card)?, hops),
    }
}

/// Shows a file that `disk` gave, until the screen is switched off.
pub(super) fn show_file<D: Direction>(
    kernel: &'static Kernel,
    disk: &'static str,
    file: Stream<Armv7a, D, Cpu>,
    hops: &mut Vec<Hop>,
) -> Result<Screen, Failure> {
    println!("picture: {} bytes on the disk, checksum {:08x}", file.len(), camera::checksum(file.bytes()));
    let mut codec = Codec::open(kernel)?;
    let mut scaler = Scaler::open(kernel)?;
    let jpeg = file.for_device();
    hops.push(Hop::new(disk, "Stream", jpeg.len(), jpeg.effort(), 0));

    let picture = codec.decode(Window { at: jpeg.bus(), len: jpeg.len() as u32 }, hops);
    // If the codec has not stopped, the file is dropped while the device owns it, so it goes into quarantine. All drops
    // below work in this way.
    if codec.driver.is_stopped() {
        // SAFETY: the codec works on nothing (`is_stopped`), and no other device was told of the file (I4).
        drop(unsafe { jpeg.for_cpu() });
    }
    let (picture, size) = picture?;
    let frame = scaler.fill_screen(Window { at: picture.bus(), len: picture.len() as u32 }, size, hops);
    if scaler.driver.is_stopped() {
        // SAFETY: `decode` returned the picture after the codec had finished. The scaler works on nothing
        // (`is_stopped`) (I4).
        drop(unsafe { picture.release() });
    }
    let frame = frame?;

    let Some((display, _)) = display(kernel) else {
        println!("picture: no display; it is in memory at {}", frame.frames().base());
        return Ok(Screen { display: None, frame });
    };
    scan_out(kernel, &display, frame, hops)
}

/// Has the display show a frame. The writer of a frame has always stopped: `Scaler::fill_screen` and `show_bars` return
/// one only then.
fn scan_out(
    kernel: &'static Kernel,
    known: &KnownDisplay,
    frame: Coherent<Armv7a>,
    hops: &mut Vec<Hop>,
) -> Result<Screen, Failure> {
    let Some(mut display) = known.open(kernel) else {
        // SAFETY: the frame's writer has stopped, and the display was not told of the frame (I4).
        drop(unsafe { frame.release() });
        return Err(Failure::NoDevice("display (arm,pl111)"));
    };
    // SAFETY: the screen owns the frame until the display is off (`Screen::off`). A frame that is dropped earlier goes
    // into quarantine (I4).
    if let Err(error) = unsafe { display.scan_out(frame.bus(), Mode::VGA) } {
        // SAFETY: as above. After an error the display was not told of the frame (I4).
        drop(unsafe { frame.release() });
        return Err(Failure::Display(error));
    }
    hops.push(Hop::new(display.name(), "(the same)", frame.len(), Effort::default(), 0));
    Ok(Screen { display: Some(display), frame })
}

/// Shows colour bars, written by the CPU, on a display that has its own memory in the tree. Returns `None` if there is
/// no such display.
pub(super) fn show_bars(kernel: &'static Kernel, hops: &mut Vec<Hop>) -> Result<Option<Screen>, Failure> {
    const BARS: [u32; 8] = [0xff_ffff, 0xff_ff00, 0x00_ffff, 0x00_ff00, 0xff_00ff, 0xff_0000, 0x00_00ff, 0];
    let Some((display, master)) = display(kernel) else { return Ok(None) };
    let path = &display.found.path;
    if kernel.layout.area_of(path) == Ok(None) {
        return Ok(None);
    }
    let mut frame = alloc(kernel, &master, Mode::VGA.frame_bytes(), "screen")?.into_coherent();
    let pixels = (0..Mode::VGA.horizontal.visible as usize)
        .map(|x| BARS[x * BARS.len() / Mode::VGA.horizontal.visible as usize]);
    let line: Vec<u8> = pixels.flat_map(u32::to_le_bytes).collect();
    for row in 0..Mode::VGA.vertical.visible as usize {
        frame.write_at(row * line.len(), &line);
    }
    frame.device_barrier();
    println!("picture: colour bars at {}, shown by {path}", frame.frames());
    hops.push(Hop::new("CPU", "Coherent", frame.len(), frame.effort(), 0));
    scan_out(kernel, &display, frame, hops).map(Some)
}

/// The codec: from a file in memory to a picture in memory. The CPU sees neither.
struct Codec {
    kernel: &'static Kernel,
    master: Master,
    hardware: codec::Hardware<'static>,
    driver: codec::Driver<'static>,
    port: DevicePort,
    line: Line,
}

impl Codec {
    fn open(kernel: &'static Kernel) -> Result<Self, Failure> {
        static REGISTERS: codec::Registers = codec::Registers::new();
        let budget = kernel.heap_free().saturating_sub(HEAP_MARGIN) as u32;
        let hardware = codec::Hardware::new(&REGISTERS, budget);
        let driver = codec::Driver::new(&REGISTERS).ok_or(Failure::NoDevice("codec"))?;
        let master = master(kernel, CODEC, "codec");
        // SAFETY: the device works inside `Line::wait` alone, and `show_file` owns its buffers meanwhile (I4).
        let port = unsafe { DevicePort::new(kernel.dma, master.clone()) };
        let line = Line::of(kernel, CODEC, "codec")?;
        Ok(Self { kernel, master, hardware, driver, port, line })
    }

    /// Lets the codec work until its job is done.
    fn wait(&mut self) -> Result<codec::Picture, Failure> {
        let Self { hardware, driver, port, line, .. } = self;
        line.wait(|mut irq| hardware.run(port, &mut irq), || driver.finish())?.map_err(Failure::Codec)
    }

    /// Decodes a file into a buffer. The codec has finished with the buffer when it is returned.
    fn decode(&mut self, file: Window, hops: &mut Vec<Hop>) -> Result<(DeviceOnly<Armv7a>, scaler::Size), Failure> {
        self.driver.parse_header(file).map_err(|Busy| self.line.silent())?;
        let picture = self.wait()?;
        let rgb = alloc(self.kernel, &self.master, picture.output_bytes, "decoded picture")?.into_device();
        let decoded = Window { at: rgb.bus(), len: picture.output_bytes };
        let started = self.driver.decode(file, decoded).map_err(|Busy| self.line.silent());
        let result = started.and_then(|()| self.wait());
        hops.push(Hop::new("codec", "DeviceOnly", rgb.len(), rgb.effort(), self.port.lines()));
        match result {
            Ok(_) => Ok((rgb, picture.size)),
            Err(failure) => {
                if self.driver.is_stopped() {
                    // SAFETY: the codec works on nothing (`is_stopped`), and no other device was told of it (I4).
                    drop(unsafe { rgb.release() });
                }
                Err(failure)
            }
        }
    }
}

/// The scaler: from a picture in memory to a screen in memory.
struct Scaler {
    kernel: &'static Kernel,
    master: Master,
    /// 15 KiB of accumulators: too much for the stack.
    hardware: Box<scaler::Hardware<'static>>,
    driver: scaler::Driver<'static>,
    port: DevicePort,
    line: Line,
}

impl Scaler {
    fn open(kernel: &'static Kernel) -> Result<Self, Failure> {
        static REGISTERS: scaler::Registers = scaler::Registers::new();
        let hardware = Box::new(scaler::Hardware::new(&REGISTERS));
        let driver = scaler::Driver::new(&REGISTERS).ok_or(Failure::NoDevice("scaler"))?;
        let master = master(kernel, SCALER, "scaler");
        // SAFETY: the device works inside `Line::wait` alone, and `show_file` owns its buffers meanwhile (I4).
        let port = unsafe { DevicePort::new(kernel.dma, master.clone()) };
        let line = Line::of(kernel, SCALER, "scaler")?;
        Ok(Self { kernel, master, hardware, driver, port, line })
    }

    /// Scales the picture into the screen buffer.
    fn fit(&mut self, picture: Window, size: scaler::Size, screen: Window) -> Result<(), Failure> {
        let Self { hardware, driver, port, line, .. } = self;
        driver.start(picture, size, screen).map_err(|Busy| line.silent())?;
        let shown = line.wait(|mut irq| hardware.run(port, &mut irq), || driver.finish())?;
        println!("picture: {size}, shown as {}", shown.map_err(Failure::Scaler)?);
        Ok(())
    }

    /// Returns the screen buffer, ready to be shown. The scaler writes it in the display's memory, or it is copied
    /// there.
    fn fill_screen(
        &mut self,
        picture: Window,
        size: scaler::Size,
        hops: &mut Vec<Hop>,
    ) -> Result<Coherent<Armv7a>, Failure> {
        let kernel = self.kernel;
        let display = display(kernel).map(|(_, display)| display);
        if let Some(copier) = known::copier(kernel).map_err(Failure::Copy)? {
            let display = display.unwrap_or_else(|| kernel.master("display"));
            return self.copied(picture, size, copier, &display, hops);
        }
        // The display may read from its own memory.
        let reader = display.as_ref().unwrap_or(&self.master);
        let frame = alloc(kernel, reader, scaler::SCREEN_BYTES, "screen")?.into_coherent();
        let fitted = self.fit(picture, size, Window { at: frame.bus(), len: scaler::SCREEN_BYTES });
        hops.push(Hop::new("scaler", "Coherent", frame.len(), frame.effort(), self.port.lines()));
        match fitted {
            Ok(()) => Ok(frame),
            Err(failure) => {
                if self.driver.is_stopped() {
                    // SAFETY: the scaler works on nothing (`is_stopped`), and no other device was told of it (I4).
                    drop(unsafe { frame.release() });
                }
                Err(failure)
            }
        }
    }

    /// Has the scaler write its own memory, and the DMA controller copy from there to the display's memory.
    fn copied(
        &mut self,
        picture: Window,
        size: scaler::Size,
        mut copier: BoardCopier,
        display: &Master,
        hops: &mut Vec<Hop>,
    ) -> Result<Coherent<Armv7a>, Failure> {
        let scaled = alloc(self.kernel, &self.master, scaler::SCREEN_BYTES, "scaled picture")?.into_device();
        let frame = alloc(self.kernel, display, scaler::SCREEN_BYTES, "screen")?.into_coherent();
        let fitted = self.fit(picture, size, Window { at: scaled.bus(), len: scaler::SCREEN_BYTES });
        hops.push(Hop::new("scaler", "DeviceOnly", scaled.len(), scaled.effort(), self.port.lines()));
        if let Err(failure) = fitted {
            if self.driver.is_stopped() {
                // SAFETY: the scaler works on nothing (`is_stopped`), and no other device was told of it (I4).
                drop(unsafe { scaled.release() });
            }
            return Err(failure);
        }
        match copier.copy(scaled, frame) {
            Ok((scaled, frame)) => {
                println!("picture: copied from {} to {}", scaled.frames(), frame.frames());
                hops.push(Hop::new("PL081", "Coherent", frame.len(), frame.effort(), 0));
                // SAFETY: the scaler gave its result, and `copy` gave the buffer back, so both devices have stopped
                // (I4).
                drop(unsafe { scaled.release() });
                Ok(frame)
            }
            Err(Failed { error, given }) => {
                if let Some((scaled, frame)) = given {
                    // SAFETY: as above.
                    drop(unsafe { scaled.release() });
                    // SAFETY: `copy` gave it back, and no other device was told of it (I4).
                    drop(unsafe { frame.release() });
                }
                Err(Failure::Copy(error))
            }
        }
    }
}

/// Returns the display, and the display as a bus master. Of several displays, the first that names its own memory is
/// taken.
pub(super) fn display(kernel: &'static Kernel) -> Option<(KnownDisplay, Master)> {
    let (mut first, mut own) = (None, None);
    for display in known::displays(kernel) {
        let names_memory = kernel.layout.area_of(&display.found.path) != Ok(None);
        (if names_memory { &mut own } else { &mut first }).get_or_insert(display);
    }
    let display = own.or(first)?;
    let master = kernel.master_at(display.found.name, &display.found.path);
    Some((display, master))
}

/// Returns whether a disk begins with a JPEG (ITU-T T.81, B.1.1.3), and so holds no files.
fn is_picture(kernel: &'static Kernel, disk: &mut dyn BlockDevice<Armv7a>) -> Result<bool, Failure> {
    let buffer = alloc(kernel, disk.master(), FRAME_SIZE, "start of the card")?;
    let start = disk.read(buffer.into_stream::<FromDevice>().for_device()).map_err(Failure::Disk)?;
    Ok(start.bytes().starts_with(&[0xff, 0xd8]))
}

fn read_disk(
    kernel: &'static Kernel,
    disk: &mut dyn BlockDevice<Armv7a>,
) -> Result<Stream<Armv7a, FromDevice, Cpu>, Failure> {
    let bytes = u32::try_from(disk.bytes()).unwrap_or(u32::MAX);
    let buffer = alloc(kernel, disk.master(), bytes, "JPEG file")?;
    disk.read(buffer.into_stream::<FromDevice>().for_device()).map_err(Failure::Disk)
}

/// Reads the file from the card. The CPU writes what the codec reads, so this is the only hop whose lines are cleaned.
fn read_card(kernel: &'static Kernel, card: &mut Card) -> Result<Stream<Armv7a, ToDevice, Cpu>, Failure> {
    let bytes = u32::try_from(card.bytes()).unwrap_or(u32::MAX);
    let mut buffer = alloc(kernel, &master(kernel, CODEC, "codec"), bytes, "JPEG file")?.into_stream::<ToDevice>();
    card.read(buffer.bytes_mut()).map_err(Failure::Card)?;
    Ok(buffer)
}
