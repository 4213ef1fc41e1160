//! The demo: a JPEG from a disk to the screen, each hop a buffer of the CMA and a bus master.
//!
//! ```text
//! image file --virtio-blk--> JPEG bytes (Stream) --mock JPEG codec--> RGB (DeviceOnly)
//!   --mock scaler--> 640x480x32 (Coherent) --PL111--> screen
//! ```
//!
//! On a board whose disk is a memory card the CPU reads the file into the stream. On one with a DMA controller that
//! copies from the scaler's memory to the display's:
//!
//! ```text
//!   --mock scaler--> 640x480x32 (DeviceOnly) --PL081--> 640x480x32 (Coherent) --PL111--> screen
//! ```
//!
//! and a mock camera that fills a ring of streaming buffers, which the CPU reads back by checksum.
//!
//! With the boot argument `demo=loans` the file comes from a cache in lent frames instead, and then devices with contracts
//! take and free memory that is full of loans: see [`lending`](super::lending). With `demo=coherency` there is no picture:
//! the caches are tried instead, see [`coherency`](super::coherency).

use super::block::{BlockDevice, BlockError};
use super::bring_up::{DeviceRegisters, Kernel};
use super::clock::Clock;
use super::coherency;
use super::console;
use super::copier::{BoardCopier, CopyError};
use super::devices;
use super::interrupts;
use super::irq::IrqId;
use super::lending;
use super::mock::camera::Full;
use super::mock::{Busy, Window, camera, codec, scaler};
use super::pl111::{self, Mode, Pl111, ScanOutError};
use super::pl181::{self, Card, CardError};
use super::port::DevicePort;
use super::report;
use super::wait::Failed;
use crate::println;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::addr::Bytes;
use carveout::arch::Lines;
use carveout::arch::armv7a::mmu::Armv7a;
use carveout::cma::area::AllocError;
use carveout::dma::Dma;
use carveout::dma::buffer::{
    Coherent, Contiguous, Cpu, Device, DeviceOnly, Direction, Effort, FromDevice, Stream, ToDevice,
};
use carveout::dma::master::Master;
use core::fmt;

/// The mock devices' `compatible`.
pub(super) const CODEC: &str = "carveout,mock-codec";
pub(super) const SCALER: &str = "carveout,mock-scaler";
pub(super) const CAMERA: &str = "carveout,mock-camera";
/// The display's.
const DISPLAY: &str = "arm,pl111";

/// Heap that the codec may not have.
const HEAP_MARGIN: usize = 4 << 20;

/// The camera's frames: 640x480 at two bytes a pixel.
const FRAME_BYTES: u32 = 640 * 480 * 2;
const FRAMES: u32 = 12;
const RING: usize = 4;
/// Any seed does; the camera's pictures follow from it.
const SEED: u32 = 2010;
/// Times a device is let work before it is given up.
const PATIENCE: usize = 16;

/// Why the demo ended early.
#[derive(Debug)]
pub enum Failure {
    /// No bus master that is known has a disk, and there is no memory card.
    NoDisk,
    /// A device is not in the tree, or not at its place.
    NoDevice(&'static str),
    /// The disk could not be read.
    Disk(BlockError),
    /// The memory card could not be read.
    Card(CardError),
    /// The DMA controller did not copy the picture.
    Copy(CopyError),
    /// The display does not show the picture.
    Display(ScanOutError),
    /// The area has no room for what is to go there.
    NoRoom {
        /// What is.
        what: &'static str,
        /// Why.
        error: AllocError,
    },
    /// The codec refused or could not read the picture.
    Codec(codec::Error),
    /// The scaler refused.
    Scaler(scaler::Error),
    /// The camera failed.
    Camera(camera::Error),
    /// What the CPU read is not what the camera wrote.
    Checksum {
        /// Of which frame.
        frame: u32,
    },
    /// A device never said that it was done.
    NoInterrupt(&'static str),
    /// Maintenance did not reach a core's lines.
    Incoherent,
    /// What lending promised was not kept.
    Lending(String),
    /// The audit found something.
    Audit,
    /// Memory was not given back.
    Leak {
        /// Bytes free in all areas, before and after.
        free: (u64, u64),
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDisk => f.write_str("no disk: none on virtio or SATA, and no memory card"),
            Self::NoDevice(name) => write!(f, "no {name} in the device tree"),
            Self::Disk(error) => write!(f, "disk: {error}"),
            Self::Card(error) => write!(f, "memory card: {error}"),
            Self::Copy(error) => write!(f, "DMA controller: {error}"),
            Self::Display(error) => write!(f, "display: {error}"),
            Self::NoRoom { what, error } => write!(f, "{what}: {error}"),
            Self::Codec(error) => write!(f, "codec: {error}"),
            Self::Scaler(error) => write!(f, "scaler: {error}"),
            Self::Camera(error) => write!(f, "camera: {error}"),
            Self::Checksum { frame } => write!(f, "camera: frame {frame} has another checksum than the camera says"),
            Self::NoInterrupt(name) => write!(f, "{name}: no interrupt came"),
            Self::Incoherent => f.write_str("maintenance through a non-cacheable mapping does not reach every cache"),
            Self::Lending(what) => f.write_str(what),
            Self::Audit => f.write_str("the audit found a violation"),
            Self::Leak { free: (before, after) } => {
                write!(f, "memory was not given back: {} were free before, {} are after", Bytes(*before), Bytes(*after))
            }
        }
    }
}

/// A line of the table.
pub(super) struct Hop {
    device: &'static str,
    buffer: &'static str,
    bytes: usize,
    effort: Effort,
    mock_lines: u64,
}

impl Hop {
    const fn new(device: &'static str, buffer: &'static str, bytes: usize, effort: Effort, mock_lines: u64) -> Self {
        Self { device, buffer, bytes, effort, mock_lines }
    }
}

/// Runs the demo on a booted kernel. However it ends, every buffer goes back, but for those of a device that was not seen
/// to stop: they go into quarantine. With a device tree that knows nothing of mock devices, a distribution's, only the part that needs
/// no disk and no interrupt is run: the camera's ring, and colour bars on a display that has memory of its own.
pub fn run(kernel: &'static Kernel) -> Result<(), Failure> {
    if asked(kernel) == Some("coherency") {
        return coherency::run(kernel);
    }
    let whole = devices::find(&kernel.info, CODEC).is_some();
    // Open until the end: its own memory is neither free before nor after.
    let mut disk = if whole { Some(Source::open(kernel)?) } else { None };
    let before = free_bytes(kernel);
    let micros = || kernel.clock.as_ref().map_or(0, Clock::micros);
    let start = micros();
    let result = match (&mut disk, asked(kernel)) {
        (Some(Source::Disk(BlockDevice::Virtio(disk))), Some("loans")) => lending::demo(kernel, disk),
        (Some(disk), _) => show_and_film(kernel, disk),
        (None, _) => only_film(kernel),
    };
    let after = free_bytes(kernel);
    log::info!("took {} ms of the board's clock", (micros() - start) / 1000);
    // A disk that was given up gave its rings back, too.
    if after >= before {
        return result;
    }
    if let Err(failure) = result {
        println!("demo: {failure}");
    }
    println!("{}", kernel.dma.holders());
    Err(Failure::Leak { free: (before, after) })
}

/// The boot argument `demo=`.
fn asked(kernel: &Kernel) -> Option<&'static str> {
    kernel.info.bootargs().get("demo").and_then(|arg| arg.value)
}

/// Bytes free in all areas.
fn free_bytes(kernel: &Kernel) -> u64 {
    let areas = (0..kernel.layout.areas().len()).filter_map(|area| kernel.dma.area_at(area));
    areas.map(|area| kernel.dma.free_bytes(area).0).sum()
}

/// Where the file comes from.
#[expect(clippy::large_enum_variant, reason = "there is one")]
enum Source {
    /// A bus master.
    Disk(BlockDevice),
    /// A card whose interface is none: the CPU takes its bytes.
    Card { card: Card, _registers: DeviceRegisters<'static, pl181::Registers> },
}

impl Source {
    fn open(kernel: &'static Kernel) -> Result<Self, Failure> {
        if let Some(disk) = BlockDevice::open(kernel).map_err(Failure::Disk)? {
            return Ok(Self::Disk(disk));
        }
        let block = devices::find(&kernel.info, "arm,pl181").and_then(|found| found.blocks.first().copied());
        let registers = block.and_then(|block| kernel.registers(block.at, block.bytes)).ok_or(Failure::NoDisk)?;
        // SAFETY: the tree says that these are a PL181's; they are mapped for good, and nobody else's until `_registers` is
        // dropped, after the card.
        let card = unsafe { Card::open(registers.pointer()) }.map_err(Failure::Card)?;
        card.map(|card| Self::Card { card, _registers: registers }).ok_or(Failure::NoDisk)
    }
}

fn show_and_film(kernel: &'static Kernel, disk: &mut Source) -> Result<(), Failure> {
    let mut hops = Vec::new();
    let screen = show_picture(kernel, disk, &mut hops)?;
    let result = while_shown(kernel, screen.display.is_some(), &mut hops);
    screen.off();
    result
}

fn only_film(kernel: &'static Kernel) -> Result<(), Failure> {
    println!("demo: no mock devices in the device tree: the memory part only");
    let mut hops = Vec::new();
    let screen = show_bars(kernel, &mut hops)?;
    let result = while_shown(kernel, screen.is_some(), &mut hops);
    if let Some(screen) = screen {
        screen.off();
    }
    result
}

/// What happens while the display reads the picture.
fn while_shown(kernel: &'static Kernel, displayed: bool, hops: &mut Vec<Hop>) -> Result<(), Failure> {
    film(kernel, hops)?;
    print_table(kernel.dma, hops);
    end(kernel, displayed)
}

/// The end of a demo: waits if it shall, and audits.
pub(super) fn end(kernel: &'static Kernel, displayed: bool) -> Result<(), Failure> {
    if kernel.info.bootargs().get("hold").is_some() {
        println!("demo: picture {}, waiting for a key", if displayed { "on screen" } else { "in memory" });
        console::read();
    }
    if report::audit(kernel) { Ok(()) } else { Err(Failure::Audit) }
}

/// The display, showing a buffer; or, on a board without one that is known, the buffer.
pub(super) struct Screen {
    display: Option<(Pl111, DeviceRegisters<'static, pl111::Registers>)>,
    frame: Coherent<Armv7a>,
}

impl Screen {
    /// Switches the display off and frees the frame. The frame of a display that stays on goes into quarantine.
    pub(super) fn off(mut self) {
        let off = self.display.as_mut().is_none_or(|(display, _)| display.off());
        if off {
            // SAFETY: the display said that it is off, or there is none, so nothing reads the frame any more (I4).
            drop(unsafe { self.frame.release() });
        } else if let Some((_, registers)) = self.display {
            registers.keep();
        }
    }
}

fn show_picture(kernel: &'static Kernel, disk: &mut Source, hops: &mut Vec<Hop>) -> Result<Screen, Failure> {
    match disk {
        Source::Disk(disk) => {
            // The CPU looks at the file first: nothing was ever cached of it, so that costs no line.
            let jpeg = read_disk(kernel, disk)?;
            show_file(kernel, disk.name(), jpeg, hops)
        }
        Source::Card { card, .. } => show_file(kernel, "SD card", read_card(kernel, card)?, hops),
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
    // The file of a codec that has not stopped is dropped as the device's: into quarantine. So is all below.
    if codec.driver.is_stopped() {
        // SAFETY: the codec works on nothing (`is_stopped`), and no other device was told of the file (I4).
        drop(unsafe { jpeg.for_cpu() });
    }
    let (picture, size) = picture?;
    let frame = scaler.fill_screen(Window { at: picture.bus(), len: picture.len() as u32 }, size, hops);
    if scaler.driver.is_stopped() {
        // SAFETY: `decode` gave it when the codec had finished; the scaler works on nothing (`is_stopped`) (I4).
        drop(unsafe { picture.release() });
    }
    let frame = frame?;

    let Some((found, _)) = display(kernel) else {
        println!("picture: no display; it is in memory at {}", frame.frames().base());
        return Ok(Screen { display: None, frame });
    };
    scan_out(kernel, &found, frame, hops)
}

/// Has the display show a frame. Whoever wrote it has stopped: only then is there one (`Scaler::fill_screen`, `show_bars`).
fn scan_out(
    kernel: &'static Kernel,
    found: &devices::Found<'static>,
    frame: Coherent<Armv7a>,
    hops: &mut Vec<Hop>,
) -> Result<Screen, Failure> {
    let Some(registers) = found.blocks.first().and_then(|block| kernel.registers(block.at, block.bytes)) else {
        // SAFETY: whoever wrote it has stopped, and the display was not told of it (I4).
        drop(unsafe { frame.release() });
        return Err(Failure::NoDevice("display (arm,pl111)"));
    };
    // SAFETY: the tree says that these are a PL111's; they are mapped for good, and nobody else's while the display, which
    // stands before them in a `Screen`, is there.
    let mut display = unsafe { Pl111::new(registers.pointer()) };
    // SAFETY: the screen owns the frame until the display is off (`Screen::off`); dropped before, it is in quarantine (I4).
    if let Err(error) = unsafe { display.scan_out(frame.bus(), Mode::VGA) } {
        // SAFETY: as above: after an error the display was not told of it (I4).
        drop(unsafe { frame.release() });
        return Err(Failure::Display(error));
    }
    hops.push(Hop::new("PL111", "(the same)", frame.len(), Effort::default(), 0));
    Ok(Screen { display: Some((display, registers)), frame })
}

/// Colour bars, written by the CPU, on a display that the tree gives memory of its own; `None` if there is none.
fn show_bars(kernel: &'static Kernel, hops: &mut Vec<Hop>) -> Result<Option<Screen>, Failure> {
    const BARS: [u32; 8] = [0xff_ffff, 0xff_ff00, 0x00_ffff, 0x00_ff00, 0xff_00ff, 0xff_0000, 0x00_00ff, 0];
    let Some((found, master)) = display(kernel) else { return Ok(None) };
    if kernel.layout.area_of(&found.path) == Ok(None) {
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
    println!("picture: colour bars at {}, shown by {}", frame.frames(), found.path);
    hops.push(Hop::new("CPU", "Coherent", frame.len(), frame.effort(), 0));
    scan_out(kernel, &found, frame, hops).map(Some)
}

/// The codec: from a file in memory to a picture in memory; the CPU sees neither.
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

    /// Decodes a file into a buffer, with which the codec has finished when it is returned.
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

    /// Fits the picture into the screen there.
    fn fit(&mut self, picture: Window, size: scaler::Size, screen: Window) -> Result<(), Failure> {
        let Self { hardware, driver, port, line, .. } = self;
        driver.start(picture, size, screen).map_err(|Busy| line.silent())?;
        let shown = line.wait(|mut irq| hardware.run(port, &mut irq), || driver.finish())?;
        println!("picture: {size}, shown as {}", shown.map_err(Failure::Scaler)?);
        Ok(())
    }

    /// The screen, ready to be shown: written by the scaler where the display reads, or copied there.
    fn fill_screen(
        &mut self,
        picture: Window,
        size: scaler::Size,
        hops: &mut Vec<Hop>,
    ) -> Result<Coherent<Armv7a>, Failure> {
        let kernel = self.kernel;
        let display = display(kernel).map(|(_, display)| display);
        if let Some(copier) = BoardCopier::open(kernel).map_err(Failure::Copy)? {
            let display = display.unwrap_or_else(|| kernel.master("display"));
            return self.copied(picture, size, copier, &display, hops);
        }
        // Where the display reads, which may be memory of its own.
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

    /// The scaler writes its own memory, and the DMA controller copies from there to the display's.
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
                // SAFETY: the scaler gave its result, and `copy` gave it back: both devices have stopped (I4).
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

/// The display, in the device tree, and as a bus master: of several, the first that names memory of its own.
fn display(kernel: &'static Kernel) -> Option<(devices::Found<'static>, Master)> {
    let (mut first, mut own) = (None, None);
    devices::find_all(&kernel.info, DISPLAY, |found| {
        let names_memory = kernel.layout.area_of(&found.path) != Ok(None);
        (if names_memory { &mut own } else { &mut first }).get_or_insert(found);
    });
    let found = own.or(first)?;
    let master = kernel.master_at(found.name, &found.path);
    Some((found, master))
}

/// The camera fills a ring; the CPU reads each frame, compares checksums, and queues the buffer again.
fn film(kernel: &'static Kernel, hops: &mut Vec<Hop>) -> Result<(), Failure> {
    static REGISTERS: camera::Registers = camera::Registers::new();
    let mut hardware = camera::Hardware::new(&REGISTERS);
    let mut driver = camera::Driver::new(&REGISTERS).ok_or(Failure::NoDevice("camera"))?;
    let master = master(kernel, CAMERA, "camera");
    // SAFETY: the device works inside `Line::wait` alone, while the ring owns its buffers (I4).
    let mut port = unsafe { DevicePort::new(kernel.dma, master.clone()) };
    let line = Line::of(kernel, CAMERA, "camera")?;

    // All of them before the camera gets the first, which it would have to give back if there is no room for the next.
    let buffers: Vec<_> =
        (0..RING).map(|_| alloc(kernel, &master, FRAME_BYTES, "camera frame")).collect::<Result<_, _>>()?;
    let mut ring = VecDeque::new();
    for buffer in buffers {
        let buffer = buffer.into_stream::<FromDevice>().for_device();
        driver.queue(Window { at: buffer.bus(), len: FRAME_BYTES }).map_err(|Full| line.silent())?;
        ring.push_back(buffer);
    }
    driver.start(SEED, FRAME_BYTES);
    let mut result = Ok(());
    for _ in 0..FRAMES {
        let done = line.wait(|mut irq| hardware.run(&mut port, &mut irq), || driver.finish())?;
        let buffer = take_back(&mut ring, done.buffer).ok_or_else(|| line.silent())?;
        result = match done.frame {
            Ok(frame) if camera::checksum(buffer.bytes()) == frame.checksum => Ok(()),
            Ok(frame) => Err(Failure::Checksum { frame: frame.number }),
            Err(error) => Err(Failure::Camera(error)),
        };
        let buffer = buffer.for_device();
        driver.queue(Window { at: buffer.bus(), len: FRAME_BYTES }).map_err(|Full| line.silent())?;
        ring.push_back(buffer);
        if result.is_err() {
            break;
        }
    }
    driver.stop();
    let effort = ring.iter().fold(Effort::default(), |sum, buffer| sum + buffer.effort());
    while !ring.is_empty() {
        // The stopped camera gives every buffer back, without a frame. What it keeps goes into quarantine.
        let done = line.wait(|mut irq| hardware.run(&mut port, &mut irq), || driver.finish())?;
        drop(take_back(&mut ring, done.buffer).ok_or_else(|| line.silent())?);
    }
    let bytes = FRAME_BYTES as usize * FRAMES as usize;
    hops.push(Hop::new("camera", "4 x Stream", bytes, effort, port.lines()));
    result
}

/// The buffer of the ring that the camera says it has finished with; `None` if it names another.
fn take_back(
    ring: &mut VecDeque<Stream<Armv7a, FromDevice, Device>>,
    done: Window,
) -> Option<Stream<Armv7a, FromDevice, Cpu>> {
    let place = ring.iter().position(|buffer| buffer.bus() == done.at)?;
    let buffer = ring.remove(place)?;
    // SAFETY: the camera's slot of this very buffer reads `Done`, so it has finished with it (I4).
    Some(unsafe { buffer.for_cpu() })
}

/// The interrupt line of a mock device. One that the tree does not know has none: it is asked after each step.
struct Line {
    device: &'static str,
    id: Option<IrqId>,
}

impl Line {
    /// The line that the device's node names, let through.
    fn of(kernel: &Kernel, compatible: &str, device: &'static str) -> Result<Self, Failure> {
        let Some(found) = devices::find(&kernel.info, compatible) else { return Ok(Self { device, id: None }) };
        let id = found.irq.ok_or(Failure::NoDevice(device))?;
        interrupts::enable(id);
        Ok(Self { device, id: Some(id) })
    }

    /// Lets the device work until the driver has a result: looked for first, since one interrupt may tell of several,
    /// then after each interrupt.
    fn wait<T>(
        &self,
        mut hardware: impl FnMut(&mut dyn FnMut()),
        mut finish: impl FnMut() -> Option<T>,
    ) -> Result<T, Failure> {
        if let Some(result) = finish() {
            return Ok(result);
        }
        for _ in 0..PATIENCE {
            hardware(&mut || self.id.into_iter().for_each(interrupts::raise));
            if self.id.is_none_or(interrupts::take)
                && let Some(result) = finish()
            {
                return Ok(result);
            }
        }
        Err(self.silent())
    }

    const fn silent(&self) -> Failure {
        Failure::NoInterrupt(self.device)
    }
}

fn read_disk(kernel: &'static Kernel, disk: &mut BlockDevice) -> Result<Stream<Armv7a, FromDevice, Cpu>, Failure> {
    let bytes = u32::try_from(disk.bytes()).unwrap_or(u32::MAX);
    let buffer = alloc(kernel, disk.master(), bytes, "JPEG file")?;
    disk.read(buffer.into_stream::<FromDevice>().for_device()).map_err(Failure::Disk)
}

/// The CPU writes what the codec reads: the one hop whose lines are cleaned.
fn read_card(kernel: &'static Kernel, card: &mut Card) -> Result<Stream<Armv7a, ToDevice, Cpu>, Failure> {
    let bytes = u32::try_from(card.bytes()).unwrap_or(u32::MAX);
    let mut buffer = alloc(kernel, &master(kernel, CODEC, "codec"), bytes, "JPEG file")?.into_stream::<ToDevice>();
    card.read(buffer.bytes_mut()).map_err(Failure::Card)?;
    Ok(buffer)
}

/// The bus master that is `compatible`, or one called `name` that the tree knows nothing of.
pub(super) fn master(kernel: &'static Kernel, compatible: &str, name: &'static str) -> Master {
    let found = devices::find(&kernel.info, compatible);
    found.map_or_else(|| kernel.master(name), |found| kernel.master_at(found.name, &found.path))
}

pub(super) fn alloc(
    kernel: &'static Kernel,
    master: &Master,
    bytes: u32,
    what: &'static str,
) -> Result<Contiguous<Armv7a>, Failure> {
    kernel.dma.alloc(master, bytes, 1).map_err(|error| Failure::NoRoom { what, error })
}

pub(super) fn print_table(dma: &Dma<Armv7a>, hops: &[Hop]) {
    println!(
        "{:<11} {:<11} {:>9} {:>7} {:>5} {:>15} {:>15} {:>12}",
        "device", "buffer", "bytes", "states", "maps", "lines cleaned", "invalidated", "mock's lines"
    );
    for hop in hops {
        let Effort { transitions, map_changes, cleaned, invalidated } = hop.effort;
        println!(
            "{:<11} {:<11} {:>9} {:>7} {:>5} {:>15} {:>15} {:>12}",
            hop.device,
            hop.buffer,
            hop.bytes,
            transitions,
            map_changes,
            ByLevel(cleaned),
            ByLevel(invalidated),
            hop.mock_lines
        );
    }
    let stats = dma.stats();
    println!(
        "in all: {} buffers, {} zeroed, {} map changes, {} lines cleaned, {} invalidated, {} in quarantine",
        stats.allocations,
        Bytes(stats.zeroed),
        stats.map_changes,
        ByLevel(stats.cleaned),
        ByLevel(stats.invalidated),
        Bytes(stats.quarantined)
    );
    if !dma.is_guarded() {
        println!("guards given up: {} buffers got addresses right beside another's", stats.unguarded);
    }
}

/// Lines of the inner and of the outer cache.
struct ByLevel(Lines);

impl fmt::Display for ByLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}+{}", self.0.inner, self.0.outer))
    }
}
