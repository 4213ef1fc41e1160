//! The mock JPEG codec: baseline and progressive files (ITU-T T.81) to pixels.
//!
//! Guarantees: a job that ends without an error has decoded the whole picture. Three kinds of file give an error that
//! names the problem, never half a picture and never a panic: a file that was cut short, a file that is corrupt as far
//! as its format can show, and a file that needs a feature that the decoder does not have. The destination is written
//! only after the whole file has been checked. The memory that the decoder takes from the heap is known beforehand and
//! limited.
//!
//! The format cannot show all damage, because JPEG has no checksum. If damaged data of a scan are still a sequence of
//! Huffman codes, they decode to a damaged picture. In a progressive file, so does a scan whose end is missing, if the
//! end-of-image marker is there.
//!
//! The output is what the scaler takes: pixels of three bytes, red first, without padding. A driver runs
//! [`Driver::parse_header`] first to learn how large a destination [`Driver::decode`] needs.

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use carveout::addr::BusAddr;
use tock_registers::{
    interfaces::{Readable, Writeable},
    register_bitfields,
};
use zune_core::{
    bytestream::{ZByteIoError, ZByteReaderTrait, ZSeekFrom},
    colorspace::ColorSpace,
    options::DecoderOptions,
};
use zune_jpeg::JpegDecoder;

pub use super::jpeg::Feature;
use super::{
    BusMaster, Busy, Job, Register, Window,
    jpeg::{Fault, Header, MAX_PIXELS, Stream},
    scaler::Size,
};

/// Bytes of an output pixel.
pub const OUTPUT_PIXEL: u32 = 3;

const ID: u32 = 0x4a50_0001;

register_bitfields! [u32,
    COMMAND [OPERATION OFFSET(0) NUMBITS(1) [ParseHeader = 0, Decode = 1]],
];

/// The contents of a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Picture {
    /// The size of the decoded picture.
    pub size: Size,
    /// Bytes of the destination that [`Driver::decode`] needs.
    pub output_bytes: u32,
    /// Bytes that the decoder will take from its own memory.
    pub memory: u32,
}

/// Why a job failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The source does not start as a JPEG file does.
    NotJpeg,
    /// The file ends at this byte of the source, before the picture is complete, or only zeros follow.
    Truncated(u32),
    /// The file breaks its format in the segment or scan at this byte of the source.
    Corrupt(u32),
    /// The file is of a kind that the decoder does not have.
    Unsupported(Feature),
    /// The picture has more than 12 Mi pixels.
    TooLarge(Size),
    /// The destination has fewer bytes than the picture.
    DestinationTooSmall {
        /// Bytes of the picture.
        needed: u32,
    },
    /// The decoder's own memory is too small.
    Memory {
        /// Bytes that the file asks for.
        needed: u32,
    },
    /// The bus refused the window that starts here.
    Bus(BusAddr),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJpeg => f.write_str("not a JPEG file"),
            Self::Truncated(at) => {
                write!(f, "the JPEG file is cut short at byte {at}: it ends before the picture does")
            }
            Self::Corrupt(at) => write!(f, "the JPEG file is corrupt in the part that starts at byte {at}"),
            Self::Unsupported(feature) => {
                let feature = match feature {
                    Feature::Process => "neither baseline nor progressive",
                    Feature::Arithmetic => "arithmetic coding",
                    Feature::Lossless => "lossless",
                    Feature::Hierarchical => "hierarchical",
                    Feature::Height => "with another height after its first scan (DNL) than before it",
                    Feature::Precision => "not of 8 bits a sample",
                    Feature::Components => "neither grey nor YCbCr",
                    Feature::Sampling => "not sampled 4:4:4, 4:2:2, 4:4:0 or 4:2:0",
                    Feature::Tables => "unusually large in its tables",
                    Feature::Scans => "baseline with a scan for each component",
                };
                write!(f, "the JPEG file is of an unsupported kind: {feature}")
            }
            Self::TooLarge(size) => write!(f, "the picture is too large: {size}, the codec takes at most {MAX_PIXELS}"),
            Self::DestinationTooSmall { needed } => {
                write!(f, "the destination is too small: the picture has {needed} bytes")
            }
            Self::Memory { needed } => write!(f, "the codec has less memory than the picture needs: {needed} bytes"),
            Self::Bus(at) => write!(f, "bus error at {at}"),
        }
    }
}

impl Error {
    const NOT_JPEG: u8 = 1;
    const TRUNCATED: u8 = 2;
    const CORRUPT: u8 = 3;
    const UNSUPPORTED: u8 = 4;
    const TOO_LARGE: u8 = 5;
    const DESTINATION_TOO_SMALL: u8 = 6;
    const MEMORY: u8 = 7;
    const BUS: u8 = 8;

    /// Returns the error as the device reports it: STATUS.ERROR and DETAIL.
    fn code(self) -> (u8, u32) {
        match self {
            Self::NotJpeg => (Self::NOT_JPEG, 0),
            Self::Truncated(at) => (Self::TRUNCATED, at),
            Self::Corrupt(at) => (Self::CORRUPT, at),
            Self::Unsupported(feature) => (Self::UNSUPPORTED, feature as u32),
            // The sides in a frame header have 16 bits.
            Self::TooLarge(Size { width, height }) => (Self::TOO_LARGE, width << 16 | height),
            Self::DestinationTooSmall { needed } => (Self::DESTINATION_TOO_SMALL, needed),
            Self::Memory { needed } => (Self::MEMORY, needed),
            Self::Bus(at) => (Self::BUS, at.raw()),
        }
    }

    fn from_code(code: u8, detail: u32) -> Self {
        match code {
            Self::NOT_JPEG => Self::NotJpeg,
            Self::TRUNCATED => Self::Truncated(detail),
            Self::CORRUPT => Self::Corrupt(detail),
            Self::UNSUPPORTED => Self::Unsupported(match detail {
                1 => Feature::Process,
                2 => Feature::Precision,
                3 => Feature::Components,
                4 => Feature::Sampling,
                5 => Feature::Tables,
                7 => Feature::Arithmetic,
                8 => Feature::Lossless,
                9 => Feature::Hierarchical,
                10 => Feature::Height,
                _ => Feature::Scans,
            }),
            Self::TOO_LARGE => Self::TooLarge(Size { width: detail >> 16, height: detail & 0xffff }),
            Self::DESTINATION_TOO_SMALL => Self::DestinationTooSmall { needed: detail },
            Self::MEMORY => Self::Memory { needed: detail },
            _ => Self::Bus(BusAddr::new(detail)),
        }
    }
}

impl Error {
    /// Returns the error for a fault that the front end found in `file`.
    fn of(fault: Fault, file: &[u8]) -> Self {
        match fault {
            Fault::NotJpeg => Self::NotJpeg,
            // The rest of the last disk sector is zeros.
            Fault::Truncated => {
                Self::Truncated(file.iter().rposition(|&byte| byte != 0).map_or(0, |last| last as u32 + 1))
            }
            Fault::Corrupt(at) => Self::Corrupt(at as u32),
            Fault::Unsupported(feature) => Self::Unsupported(feature),
            Fault::TooLarge(size) => Self::TooLarge(size),
        }
    }
}

/// The register file.
pub struct Registers {
    id: Register,
    job: Job,
    command: Register<COMMAND::Register>,
    width: Register,
    height: Register,
    memory: Register,
}

impl Registers {
    /// Makes the register file as it is after reset.
    #[expect(clippy::new_without_default, reason = "made in statics")]
    pub const fn new() -> Self {
        Self {
            id: Register::new(),
            job: Job::new(),
            command: Register::new(),
            width: Register::new(),
            height: Register::new(),
            memory: Register::new(),
        }
    }
}

/// The CPU's end.
pub struct Driver<'r> {
    registers: &'r Registers,
}

impl<'r> Driver<'r> {
    /// Returns the driver of a device, or `None` if the ID register is not a codec's.
    pub fn new(registers: &'r Registers) -> Option<Self> {
        (registers.id.get() == ID).then_some(Self { registers })
    }

    /// Starts a job that reads the file at `source` only as far as its first scan. The window is the device's until
    /// [`finish`](Self::finish) returns the result.
    ///
    /// # Errors
    ///
    /// [`Busy`] if the device is still at work.
    pub fn parse_header(&mut self, source: Window) -> Result<(), Busy> {
        let registers = self.registers;
        registers.job.idle()?;
        registers.job.set_source(source);
        registers.command.write(COMMAND::OPERATION::ParseHeader);
        registers.job.start();
        Ok(())
    }

    /// Starts a job that decodes the file at `source` to `destination`. Any bytes may follow the file. Both windows are
    /// the device's until [`finish`](Self::finish) returns the result.
    ///
    /// # Errors
    ///
    /// [`Busy`] if the device is still at work.
    pub fn decode(&mut self, source: Window, destination: Window) -> Result<(), Busy> {
        let registers = self.registers;
        registers.job.idle()?;
        registers.job.set_source(source);
        registers.job.set_destination(destination);
        registers.command.write(COMMAND::OPERATION::Decode);
        registers.job.start();
        Ok(())
    }

    /// Returns whether the device works on nothing: then it accesses no memory until the next job.
    pub fn is_stopped(&self) -> bool {
        self.registers.job.is_stopped()
    }

    /// Returns the result of the job, once, after the interrupt. Returns `None` while no job has ended. After an error
    /// the contents of the destination are undefined.
    pub fn finish(&mut self) -> Option<Result<Picture, Error>> {
        let registers = self.registers;
        let (code, detail) = registers.job.take()?;
        if code != 0 {
            return Some(Err(Error::from_code(code, detail)));
        }
        let size = Size { width: registers.width.get(), height: registers.height.get() };
        Some(Ok(Picture {
            size,
            output_bytes: size.width * size.height * OUTPUT_PIXEL,
            memory: registers.memory.get(),
        }))
    }
}

/// The device's end.
pub struct Hardware<'r> {
    registers: &'r Registers,
    memory: u32,
}

impl<'r> Hardware<'r> {
    /// Powers the device up. It may take `memory` bytes from the heap. The caller makes sure that they are available
    /// whenever a job runs. Baseline files take some rows of samples. Progressive files also take two bytes for each
    /// sample: 36 MiB for 12 Mi pixels of 4:2:0, 72 MiB for 4:4:4.
    pub fn new(registers: &'r Registers, memory: u32) -> Self {
        registers.id.set(ID);
        Self { registers, memory }
    }

    /// Does a job that the driver started, if there is one, and asks for the interrupt at its end.
    pub fn run(&mut self, port: &mut impl BusMaster, irq: &mut impl FnMut()) {
        let registers = self.registers;
        if !registers.job.started() {
            return;
        }
        let result = if registers.command.matches_all(COMMAND::OPERATION::Decode) {
            self.decode(port)
        } else {
            port.read(registers.job.source(), parse_header).map_err(|refused| Error::Bus(refused.window.at)).flatten()
        };
        let (code, detail) = match result {
            Ok(picture) => {
                registers.width.set(picture.size.width);
                registers.height.set(picture.size.height);
                registers.memory.set(picture.memory);
                (0, 0)
            }
            Err(error) => error.code(),
        };
        registers.job.complete(code, detail);
        irq();
    }

    fn decode(&self, port: &mut impl BusMaster) -> Result<Picture, Error> {
        let (source, destination) = (self.registers.job.source(), self.registers.job.destination());
        port.read_write(source, destination, |file, out| {
            let header = Header::parse(file).map_err(|fault| Error::of(fault, file))?;
            let stream = header.stream(file).map_err(|fault| Error::of(fault, file))?;
            let picture = describe(&header);
            if picture.memory > self.memory {
                return Err(Error::Memory { needed: picture.memory });
            }
            let out = out
                .get_mut(..picture.output_bytes as usize)
                .ok_or(Error::DestinationTooSmall { needed: picture.output_bytes })?;
            let broken = Error::Corrupt(header.scan() as u32);
            let mut decoder = Box::new(JpegDecoder::new_with_options(Feed::new(&stream), options()));
            decoder.decode_into(out).map_err(|_| broken)?;
            Ok(picture)
        })
        .map_err(|refused| Error::Bus(refused.window.at))?
    }
}

fn parse_header(file: &[u8]) -> Result<Picture, Error> {
    Ok(describe(&Header::parse(file).map_err(|fault| Error::of(fault, file))?))
}

fn describe(header: &Header) -> Picture {
    Picture {
        size: header.size,
        output_bytes: header.size.width * header.size.height * OUTPUT_PIXEL,
        memory: header.coefficient_bytes() + header.line_bytes() + DECODER_BYTES,
    }
}

/// Bytes of the decoder without samples and coefficients: its tables, and the file's header.
const DECODER_BYTES: u32 = 128 << 10;

fn options() -> DecoderOptions {
    let side = usize::from(u16::MAX);
    DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(side)
        .set_max_height(side)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
}

/// The bytes that the decoder sees after the data of a single scan. They are set bits, stuffed as data (F.1.2.3), more
/// of them than the decoder reads ahead, and then the end-of-image marker. No Huffman code consists of ones alone
/// (C.2). So a decoder that has run out of data fails here. After the marker alone it would continue with zeros.
const STOP: [u8; 34] = {
    let mut bytes = [0; 34];
    let mut i = 0;
    while i < 34 {
        bytes[i] = 0xff;
        i += 2;
    }
    bytes[33] = 0xd9;
    bytes
};

/// The bytes that the decoder sees: header, data, end.
struct Feed<'s> {
    parts: Vec<&'s [u8]>,
    /// The part that is read, and the total length of the parts before it.
    part: usize,
    before: usize,
    /// The position in the part.
    at: usize,
}

impl<'s> Feed<'s> {
    fn new(stream: &'s Stream<'_>) -> Self {
        let tail = if stream.progressive { &STOP[32..] } else { &STOP[..] };
        let mut parts = Vec::with_capacity(stream.body.len() + 2);
        parts.push(&stream.head[..]);
        parts.extend(&stream.body);
        parts.push(tail);
        Self { parts, part: 0, before: 0, at: 0 }
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    fn position(&self) -> usize {
        self.before + self.at
    }

    /// Returns the next contiguous bytes. There are none at the end.
    #[inline]
    fn next(&mut self) -> &'s [u8] {
        // No part is empty, so one step is enough. The last part is never left.
        if self.at == self.parts[self.part].len() && self.part + 1 < self.parts.len() {
            self.before += self.at;
            (self.part, self.at) = (self.part + 1, 0);
        }
        &self.parts[self.part][self.at..]
    }

    fn seek(&mut self, to: usize) {
        (self.part, self.before, self.at) = (0, 0, 0);
        while to - self.before > self.parts[self.part].len() {
            self.before += self.parts[self.part].len();
            self.part += 1;
        }
        self.at = to - self.before;
    }
}

impl ZByteReaderTrait for Feed<'_> {
    #[inline]
    fn read_byte_no_error(&mut self) -> u8 {
        match self.next() {
            [byte, ..] => {
                self.at += 1;
                *byte
            }
            [] => 0,
        }
    }

    #[inline]
    fn read_exact_bytes(&mut self, buf: &mut [u8]) -> Result<(), ZByteIoError> {
        if let Some(bytes) = self.next().get(..buf.len()) {
            buf.copy_from_slice(bytes);
            self.at += buf.len();
            return Ok(());
        }
        let start = self.position();
        let read = self.read_bytes(buf)?;
        if read < buf.len() {
            self.seek(start);
            return Err(ZByteIoError::NotEnoughBytes(read, buf.len()));
        }
        Ok(())
    }

    fn read_bytes(&mut self, buf: &mut [u8]) -> Result<usize, ZByteIoError> {
        let start = self.position();
        for byte in &mut *buf {
            let [next, ..] = self.next() else { break };
            *byte = *next;
            self.at += 1;
        }
        Ok(self.position() - start)
    }

    fn peek_bytes(&mut self, buf: &mut [u8]) -> Result<usize, ZByteIoError> {
        let start = self.position();
        let read = self.read_bytes(buf);
        self.seek(start);
        read
    }

    fn peek_exact_bytes(&mut self, buf: &mut [u8]) -> Result<(), ZByteIoError> {
        let start = self.position();
        let read = self.read_exact_bytes(buf);
        self.seek(start);
        read
    }

    fn z_seek(&mut self, from: ZSeekFrom) -> Result<u64, ZByteIoError> {
        let to = match from {
            ZSeekFrom::Start(offset) => Some(offset),
            ZSeekFrom::End(offset) => (self.len() as u64).checked_add_signed(offset),
            ZSeekFrom::Current(offset) => (self.position() as u64).checked_add_signed(offset),
        };
        match to {
            Some(to) if to <= self.len() as u64 => {
                self.seek(to as usize);
                Ok(to)
            }
            _ => Err(ZByteIoError::SeekError("outside the stream")),
        }
    }

    fn is_eof(&mut self) -> Result<bool, ZByteIoError> {
        Ok(self.next().is_empty())
    }

    fn z_position(&mut self) -> Result<u64, ZByteIoError> {
        Ok(self.position() as u64)
    }

    fn read_remaining(&mut self, sink: &mut alloc::vec::Vec<u8>) -> Result<usize, ZByteIoError> {
        let start = self.position();
        while let bytes @ [_, ..] = self.next() {
            sink.extend(bytes);
            self.at += bytes.len();
        }
        Ok(self.position() - start)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        alloc::{GlobalAlloc, Layout, System},
        cell::Cell,
        format, vec,
    };

    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
    use proptest::prelude::*;

    use super::super::encoder::{self, Shape, Tables};
    use super::{
        super::testing::{Bus, Grant},
        *,
    };

    std::thread_local! {
        static IN_USE: Cell<usize> = const { Cell::new(0) };
        static PEAK: Cell<usize> = const { Cell::new(0) };
    }

    /// Counts the bytes that each thread has taken, for the guarantee about the decoder's memory.
    struct Counting;

    #[global_allocator]
    static HEAP: Counting = Counting;

    // SAFETY: `System` does the work, and counting allocates nothing.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let now = IN_USE.get().wrapping_add(layout.size());
            IN_USE.set(now);
            PEAK.set(PEAK.get().max(now));
            // SAFETY: `GlobalAlloc::alloc` asks the same of its caller.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            IN_USE.set(IN_USE.get().wrapping_sub(layout.size()));
            // SAFETY: as `GlobalAlloc::dealloc` asks, `System` gave it, in `alloc`, with this layout.
            unsafe { System.dealloc(at, layout) }
        }
    }

    const SOURCE: u32 = 0x1000_0000;
    const OUTPUT: u32 = 0x2000_0000;
    const MEMORY: u32 = 64 << 20;

    enum Operation {
        Header,
        Decode(usize),
    }

    /// Runs one job on a fresh device. Returns the result and the destination.
    fn run(file: &[u8], operation: &Operation, memory: u32) -> (Result<Picture, Error>, Vec<u8>) {
        let registers = Registers::new();
        assert!(Driver::new(&registers).is_none(), "a device without power has no ID");
        let mut hardware = Hardware::new(&registers, memory);
        let mut driver = Driver::new(&registers).unwrap();
        let mut bus = Bus::default();
        let source = bus.grant(SOURCE, Grant::Read, file);
        let len = if let Operation::Decode(len) = operation { *len } else { 0 };
        let output = bus.grant(OUTPUT, Grant::Write, &vec![0xa5; len]);
        let mut interrupts = 0;
        hardware.run(&mut bus, &mut || interrupts += 1);
        assert_eq!((interrupts, driver.finish()), (0, None));
        match operation {
            Operation::Header => driver.parse_header(source).unwrap(),
            Operation::Decode(_) => driver.decode(source, output).unwrap(),
        }
        assert_eq!(driver.parse_header(source), Err(Busy));
        hardware.run(&mut bus, &mut || interrupts += 1);
        hardware.run(&mut bus, &mut || interrupts += 1);
        assert_eq!(interrupts, 1);
        assert_eq!(driver.decode(source, output), Err(Busy), "the result has not been taken");
        let result = driver.finish().unwrap();
        assert_eq!(driver.finish(), None);
        (result, bus.bytes(output).to_vec())
    }

    /// Decodes as a driver does that knows nothing of the file.
    fn decode(file: &[u8]) -> Result<(Picture, Vec<u8>), Error> {
        let header = run(file, &Operation::Header, MEMORY).0?;
        let (result, output) = run(file, &Operation::Decode(header.output_bytes as usize), MEMORY);
        let untouched = output.iter().all(|&byte| byte == 0xa5);
        match result {
            Ok(picture) => {
                assert_eq!(picture, header);
                Ok((picture, output))
            }
            Err(Error::Corrupt(_)) => Err(result.unwrap_err()),
            Err(error) => {
                assert!(untouched, "written before it was refused: {error}");
                Err(error)
            }
        }
    }

    #[derive(Clone, Copy, Debug)]
    #[expect(clippy::struct_excessive_bools, reason = "independent properties of a file")]
    struct Kind {
        grey: bool,
        sampling: SamplingFactor,
        progressive: bool,
        /// A scan for each component.
        apart: bool,
        restart: u16,
        flat: bool,
    }

    const PLAIN: Kind = Kind {
        grey: false,
        sampling: SamplingFactor::F_2_2,
        progressive: false,
        apart: false,
        restart: 0,
        flat: false,
    };

    /// A smooth picture, which survives subsampling.
    fn picture(size: Size, kind: Kind) -> Vec<u8> {
        let mut pixels = Vec::new();
        for y in 0..size.height {
            for x in 0..size.width {
                let (x, y) = if kind.flat { (1, 1) } else { (x, y) };
                let wave = |phase: u32| (phase % 512).abs_diff(256) / 2;
                let pixel = [60 + wave(x * 2 + y), 200 - wave(x + y * 2), 90 + wave(x + y) / 2];
                let pixel = pixel.map(|p| p as u8);
                pixels.extend(if kind.grey { &pixel[..1] } else { &pixel[..] });
            }
        }
        pixels
    }

    fn encode(size: Size, kind: Kind) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, 95);
        encoder.set_sampling_factor(kind.sampling);
        encoder.set_progressive(kind.progressive);
        encoder.set_optimized_huffman_tables(kind.apart);
        encoder.set_restart_interval(kind.restart);
        encoder.add_app_segment(1, vec![0xff; 300]).unwrap();
        let color = if kind.grey { ColorType::Luma } else { ColorType::Rgb };
        encoder.encode(&picture(size, kind), size.width as u16, size.height as u16, color).unwrap();
        file
    }

    fn kinds() -> impl Iterator<Item = Kind> {
        use SamplingFactor::{F_1_1, F_1_2, F_2_1, F_2_2};
        let mut kinds = Vec::new();
        for (grey, sampling) in [(true, F_1_1), (false, F_1_1), (false, F_2_1), (false, F_1_2), (false, F_2_2)] {
            for (progressive, apart) in [(false, false), (false, true), (true, false)] {
                // The encoder cannot do this, and the decoder refuses it.
                let restarts: &[u16] = if apart { &[0] } else { &[0, 1, 3] };
                for &restart in restarts.iter().filter(|_| !apart || grey) {
                    for flat in [false, true] {
                        kinds.push(Kind { grey, sampling, progressive, apart, restart, flat });
                    }
                }
            }
        }
        kinds.into_iter()
    }

    fn check_whole(size: Size, kind: Kind) {
        let mut file = encode(size, kind);
        // A file from a disk ends in a whole sector.
        file.resize(file.len().next_multiple_of(512), 0);
        let (decoded, output) = decode(&file).unwrap_or_else(|e| panic!("{kind:?} {size}: {e}"));
        assert_eq!(decoded.size, size);
        let original = picture(size, kind);
        for (i, (&got, pixel)) in output.iter().zip(0..).enumerate() {
            let want = original[if kind.grey { pixel / 3 } else { i }];
            assert!(got.abs_diff(want) <= 24, "{kind:?} {size}: byte {i} is {got}, not {want}");
        }
    }

    #[test]
    fn every_kind_is_decoded_whole() {
        for kind in kinds() {
            for (width, height) in [(1, 1), (8, 8), (16, 16), (17, 33), (47, 5), (3, 70), (100, 75)] {
                check_whole(Size { width, height }, kind);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn odd_sizes(width in 1..200u32, height in 1..200u32, kind in prop::sample::select(kinds().collect::<Vec<_>>())) {
            check_whole(Size { width, height }, kind);
        }
    }

    const SMALL: Size = Size { width: 70, height: 50 };

    /// Returns the end of the first scan's header in the file.
    fn scan_start(file: &[u8]) -> usize {
        let at = file.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
        at + 2 + usize::from(u16::from_be_bytes([file[at + 2], file[at + 3]]))
    }

    #[test]
    fn a_cut_file_is_truncated_wherever_it_is_cut() {
        for kind in [PLAIN, Kind { progressive: true, restart: 2, ..PLAIN }, Kind { grey: true, restart: 1, ..PLAIN }] {
            let file = encode(SMALL, kind);
            for end in 2..file.len() {
                let cut = &file[..end];
                let error = run(cut, &Operation::Decode(20000), MEMORY).0.unwrap_err();
                assert!(matches!(error, Error::Truncated(at) if at as usize <= end), "{kind:?} cut at {end}: {error}");
                let mut padded = cut.to_vec();
                padded.resize(end.next_multiple_of(512) + 512, 0);
                let error = run(&padded, &Operation::Decode(20000), MEMORY).0.unwrap_err();
                assert!(matches!(error, Error::Truncated(at) if at as usize <= end), "{kind:?} cut at {end}: {error}");
            }
        }
    }

    /// With an end-of-image marker after the cut, only the number of MCUs shows the damage.
    #[test]
    fn a_scan_that_ends_early_is_corrupt() {
        for restart in [0, 1, 7] {
            let file = encode(SMALL, Kind { restart, ..PLAIN });
            for end in scan_start(&file)..file.len() - 4 {
                // A cut after 0xff would make a marker together with the next byte.
                if file[end - 1] == 0xff {
                    continue;
                }
                let cut = [&file[..end], &[0xff, 0xd9]].concat();
                let error = run(&cut, &Operation::Decode(20000), MEMORY).0.unwrap_err();
                assert!(
                    matches!(error, Error::Corrupt(_)),
                    "restart {restart}, cut at {end} of {}: {error}",
                    file.len()
                );
            }
        }
        // In a progressive file, a lost restart interval or a lost component shows.
        let file = encode(SMALL, Kind { progressive: true, restart: 2, ..PLAIN });
        let cut = [&file[..scan_start(&file) + 20], &[0xff, 0xd9]].concat();
        assert!(matches!(run(&cut, &Operation::Decode(20000), MEMORY).0, Err(Error::Corrupt(_))));
    }

    #[test]
    fn a_lost_restart_interval_is_corrupt() {
        for progressive in [false, true] {
            let file = encode(SMALL, Kind { restart: 2, progressive, ..PLAIN });
            let first = file.windows(2).position(|w| w == [0xff, 0xd0]).unwrap();
            let second = file.windows(2).position(|w| w == [0xff, 0xd1]).unwrap();
            let lost = [&file[..first], &file[second..]].concat();
            let error = run(&lost, &Operation::Decode(20000), MEMORY).0.unwrap_err();
            assert_eq!(error, Error::Corrupt(first as u32));
        }
    }

    #[test]
    fn the_decoder_takes_no_more_memory_than_it_says() {
        let mut files = Vec::new();
        for (width, height) in [(1, 1), (333, 250), (1500, 40), (5, 2000)] {
            let size = Size { width, height };
            files.extend(kinds().map(|kind| (format!("{kind:?} {size}"), encode(size, kind))));
            for factors in [[(2, 1); 3], [(1, 2); 3], [(4, 1), (2, 1), (2, 1)], [(2, 2), (2, 1), (2, 1)]] {
                for progressive in [false, true] {
                    let shape = Shape { progressive, between: true, ..shape(&factors) };
                    files.push((format!("{shape:?} {size}"), unusual(&shape, size)));
                }
            }
        }
        for (name, file) in files {
            {
                let (picture, mut output) = decode(&file).unwrap();
                let header = Header::parse(&file).unwrap();
                let before = IN_USE.get();
                PEAK.set(before);
                let stream = header.stream(&file).unwrap();
                let mut decoder = Box::new(JpegDecoder::new_with_options(Feed::new(&stream), options()));
                decoder.decode_into(&mut output).unwrap();
                let taken = PEAK.get() - before;
                assert!(taken <= picture.memory as usize, "{name}: {taken} > {}", picture.memory);
            }
        }
    }

    /// Replaces the first marker `from` by other bytes.
    fn patched(file: &[u8], from: u8, offset: usize, to: &[u8]) -> Vec<u8> {
        let mut file = file.to_vec();
        let at = (2..file.len()).find(|&at| file[at..].starts_with(&[0xff, from])).unwrap() + offset;
        file[at..at + to.len()].copy_from_slice(to);
        file
    }

    #[test]
    fn each_refusal_has_its_line() {
        let file = encode(SMALL, PLAIN);
        let shown = |file: &[u8]| format!("{}", decode(file).unwrap_err());
        let unsupported = |why| format!("the JPEG file is of an unsupported kind: {why}");
        assert_eq!(shown(b"\xff"), "not a JPEG file");
        assert_eq!(shown(&[0; 512]), "not a JPEG file");
        assert_eq!(shown(b"\x89PNG\r\n"), "not a JPEG file");
        assert_eq!(shown(&file[..600]), "the JPEG file is cut short at byte 600: it ends before the picture does");
        assert_eq!(shown(&patched(&file, 0xc4, 0, &[0])), {
            let at = file.windows(2).position(|w| w == [0xff, 0xc4]).unwrap();
            format!("the JPEG file is corrupt in the part that starts at byte {at}")
        });
        assert_eq!(shown(&patched(&file, 0xc0, 1, &[0xc9])), unsupported("arithmetic coding"));
        assert_eq!(shown(&patched(&file, 0xc0, 4, &[12])), unsupported("not of 8 bits a sample"));
        assert_eq!(shown(&patched(&file, 0xc0, 11, &[0x41])), unsupported("not sampled 4:4:4, 4:2:2, 4:4:0 or 4:2:0"));
        let mut cmyk = Vec::new();
        Encoder::new(&mut cmyk, 90).encode(&[7; 64], 4, 4, ColorType::Cmyk).unwrap();
        assert_eq!(shown(&cmyk), unsupported("neither grey nor YCbCr"));
        let adobe_rgb = [&file[..2], b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0", &file[2..]].concat();
        assert_eq!(shown(&adobe_rgb), unsupported("neither grey nor YCbCr"));
        assert_eq!(
            shown(&encode(SMALL, Kind { apart: true, ..PLAIN })),
            unsupported("baseline with a scan for each component")
        );
        let table = [&[0xff, 0xdb, 0xff, 0xff][..], &vec![0; 65533]].concat();
        assert_eq!(shown(&[&file[..2], &table, &file[2..]].concat()), unsupported("unusually large in its tables"));
        let (width, height) = (4097u16.to_be_bytes(), 3072u16.to_be_bytes());
        assert_eq!(
            shown(&patched(&file, 0xc0, 5, &[height, width].concat())),
            "the picture is too large: 4097 x 3072 pixels, the codec takes at most 12582912"
        );
        assert_eq!(
            format!("{}", run(&file, &Operation::Decode(70 * 50 * 3 - 1), MEMORY).0.unwrap_err()),
            "the destination is too small: the picture has 10500 bytes"
        );
        let progressive = encode(SMALL, Kind { progressive: true, ..PLAIN });
        let needed = decode(&progressive).unwrap().0.memory;
        assert!(run(&progressive, &Operation::Decode(10500), needed).0.is_ok());
        assert_eq!(
            format!("{}", run(&progressive, &Operation::Decode(10500), needed - 1).0.unwrap_err()),
            format!("the codec has less memory than the picture needs: {needed} bytes")
        );
    }

    #[test]
    fn the_largest_picture_passes() {
        let side = [3072u16.to_be_bytes(), 4096u16.to_be_bytes()].concat();
        let file = patched(&encode(SMALL, PLAIN), 0xc0, 5, &side);
        let picture = run(&file, &Operation::Header, 0).0.unwrap();
        assert_eq!((picture.size, picture.output_bytes), (Size { width: 4096, height: 3072 }, 36 << 20));
    }

    #[test]
    fn what_is_not_granted_is_a_bus_error() {
        let registers = Registers::new();
        let mut hardware = Hardware::new(&registers, MEMORY);
        let mut driver = Driver::new(&registers).unwrap();
        let mut bus = Bus::default();
        let source = bus.grant(SOURCE, Grant::Read, &encode(SMALL, PLAIN));
        let output = bus.grant(OUTPUT, Grant::Write, &[3; 10500]);
        driver.parse_header(output).unwrap();
        hardware.run(&mut bus, &mut || ());
        assert_eq!(driver.finish(), Some(Err(Error::Bus(output.at))));
        driver.decode(source, Window { len: output.len + 1, ..output }).unwrap();
        hardware.run(&mut bus, &mut || ());
        assert_eq!(format!("{}", driver.finish().unwrap().unwrap_err()), "bus error at 0x20000000");
        assert!(bus.bytes(output).iter().all(|&b| b == 3));
    }

    #[test]
    fn metadata_is_skipped() {
        // The metadata are larger than the decoder's memory, and hold the end of a thumbnail.
        let file = encode(SMALL, PLAIN);
        let segment = [&[0xff, 0xe2, 0xff, 0xff][..], &[0xff, 0xd9].repeat(32766), &[0]].concat();
        let stuffed = [&file[..2], &segment.repeat(40), &file[2..]].concat();
        assert_eq!(decode(&stuffed), decode(&file));
        let cut = &stuffed[..stuffed.len() - 2];
        assert!(matches!(decode(cut), Err(Error::Truncated(_))));
    }

    /// Makes files as cameras and other encoders write them, with unusual features.
    fn unusual(shape: &Shape, size: Size) -> Vec<u8> {
        let tables = Tables::of(&encode(SMALL, Kind { grey: true, ..PLAIN })).unwrap();
        let grey = shape.factors.len() == 1;
        let original = picture(size, Kind { grey, ..PLAIN });
        let side = (size.width as usize, size.height as usize);
        encoder::encode(side, shape, &tables, |component, x, y| {
            let at = y * side.0 + x;
            if grey {
                return f64::from(original[at]);
            }
            // The conversion of JFIF.
            let [r, g, b] = [0, 1, 2].map(|n| f64::from(original[at * 3 + n]));
            match component {
                0 => 0.299 * r + 0.587 * g + 0.114 * b,
                1 => 128.0 - 0.168_736 * r - 0.331_264 * g + 0.5 * b,
                _ => 128.0 + 0.5 * r - 0.418_688 * g - 0.081_312 * b,
            }
        })
    }

    const USUAL: [(usize, usize); 3] = [(2, 2), (1, 1), (1, 1)];

    fn shape(factors: &[(usize, usize)]) -> Shape {
        let ids = vec![1, 2, 3][..factors.len()].to_vec();
        Shape {
            factors: factors.to_vec(),
            ids,
            dht: true,
            dnl: false,
            restart: 0,
            wide: false,
            fill: false,
            progressive: false,
            between: false,
        }
    }

    #[track_caller]
    fn check_unusual(shape: &Shape, size: Size) {
        let mut file = unusual(shape, size);
        // A file from a disk ends in a whole sector, here with old bytes of that sector.
        file.resize(file.len().next_multiple_of(512), 0xff);
        let (decoded, output) = decode(&file).unwrap_or_else(|e| panic!("{shape:?} {size}: {e}"));
        assert_eq!(decoded.size, size);
        let grey = shape.factors.len() == 1;
        let original = picture(size, Kind { grey, ..PLAIN });
        for (i, &got) in output.iter().enumerate() {
            let want = original[if grey { i / 3 } else { i }];
            assert!(got.abs_diff(want) <= 24, "{shape:?} {size}: byte {i} is {got}, not {want}");
        }
    }

    #[test]
    fn what_is_legal_and_unusual_is_decoded() {
        for (width, height) in [(1, 1), (70, 50), (33, 17)] {
            let size = Size { width, height };
            for factors in [&USUAL[..], &[(1, 1)]] {
                let plain = shape(factors);
                check_unusual(&plain, size);
                check_unusual(&Shape { dht: false, ..plain.clone() }, size);
                check_unusual(&Shape { wide: true, ..plain.clone() }, size);
                check_unusual(&Shape { restart: 2, fill: true, ..plain.clone() }, size);
                check_unusual(&Shape { dnl: true, ..plain.clone() }, size);
                check_unusual(&Shape { dnl: true, restart: 3, dht: false, fill: true, ..plain.clone() }, size);
            }
            check_unusual(&Shape { ids: vec![0, 1, 2], ..shape(&USUAL) }, size);
            check_unusual(&Shape { ids: vec![7, 200, 3], ..shape(&USUAL) }, size);
        }
    }

    #[test]
    fn sampling_is_judged_by_ratios() {
        for size in [Size { width: 70, height: 50 }, Size { width: 1, height: 1 }, Size { width: 17, height: 33 }] {
            let mut decoded = 0;
            let factors = |most| (1..=most).flat_map(move |h| (1..=most).map(move |v| (h, v)));
            for (luma, chroma) in factors(4).flat_map(|luma| factors(4).map(move |chroma| (luma, chroma))) {
                let ratios = (luma.0 / chroma.0.max(1), luma.1 / chroma.1.max(1));
                let whole = luma.0 % chroma.0 == 0 && luma.1 % chroma.1 == 0;
                if !whole || luma.0 * luma.1 + 2 * chroma.0 * chroma.1 > 10 {
                    continue;
                }
                let shape = shape(&[luma, chroma, chroma]);
                if ratios.0 <= 2 && ratios.1 <= 2 && luma.0 != 3 && luma.1 <= 2 {
                    check_unusual(&shape, size);
                    check_unusual(&Shape { progressive: true, between: true, restart: 3, ..shape.clone() }, size);
                    decoded += 1;
                } else {
                    let refused = decode(&unusual(&shape, size)).unwrap_err();
                    assert_eq!(refused, Error::Unsupported(Feature::Sampling), "{shape:?}");
                }
            }
            assert_eq!(decoded, 9, "1x1, 2x1 and 1x2 each in two ways, 2x2 in three, 4x1 over 2x1");
        }
    }

    #[test]
    fn what_stands_between_scans_is_skipped() {
        let plain = shape(&USUAL);
        for progressive in
            [Shape { progressive: true, ..plain.clone() }, Shape { progressive: true, dnl: true, ..plain }]
        {
            let between = Shape { between: true, fill: true, ..progressive.clone() };
            check_unusual(&between, SMALL);
            assert_eq!(decode(&unusual(&between, SMALL)).unwrap(), decode(&unusual(&progressive, SMALL)).unwrap());
        }
    }

    #[test]
    fn what_is_legal_and_not_supported_is_named() {
        let shown = |file: &[u8]| format!("{}", decode(file).unwrap_err());
        let unsupported = |why| format!("the JPEG file is of an unsupported kind: {why}");
        let file = encode(SMALL, PLAIN);
        for (frame, why) in [
            (0xc3, "lossless"),
            (0xc5, "hierarchical"),
            (0xc6, "hierarchical"),
            (0xc7, "hierarchical"),
            (0xc9, "arithmetic coding"),
            (0xca, "arithmetic coding"),
            (0xcb, "lossless"),
            (0xcd, "hierarchical"),
            (0xcf, "hierarchical"),
            (0xde, "hierarchical"),
            // JPEG-LS.
            (0xf7, "neither baseline nor progressive"),
        ] {
            assert_eq!(shown(&patched(&file, 0xc0, 1, &[frame])), unsupported(why), "{frame:#x}");
        }
        let named_rgb = Shape { ids: b"RGB".to_vec(), ..shape(&[(1, 1); 3]) };
        assert_eq!(shown(&unusual(&named_rgb, SMALL)), unsupported("neither grey nor YCbCr"));
        // The height after the first scan: another height, a height in another place, and no height.
        let dnl = unusual(&Shape { dnl: true, ..shape(&USUAL) }, SMALL);
        let both = patched(&dnl, 0xc0, 5, &48u16.to_be_bytes());
        assert_eq!(shown(&both), unsupported("with another height after its first scan (DNL) than before it"));
        assert!(decode(&patched(&dnl, 0xc0, 5, &50u16.to_be_bytes())).is_ok());
        let none = patched(&unusual(&shape(&USUAL), SMALL), 0xc0, 5, &[0, 0]);
        assert!(matches!(decode(&none), Err(Error::Corrupt(_) | Error::Truncated(_))));
        assert!(matches!(decode(&dnl[..dnl.len() - 5]), Err(Error::Truncated(_))));
        // The height has more rows than the scan.
        let tall = patched(&dnl, 0xdc, 4, &500u16.to_be_bytes());
        assert!(matches!(decode(&tall), Err(Error::Corrupt(_))));
        let huge = patched(&dnl, 0xdc, 4, &[0xff, 0xff]);
        let wide = patched(&huge, 0xc0, 7, &[0xff, 0xff]);
        assert!(matches!(decode(&wide), Err(Error::TooLarge(Size { width: 65535, height: 65535 }))));
    }

    fn mutation() -> impl Strategy<Value = (prop::sample::Index, u8, u8)> {
        (any::<prop::sample::Index>(), any::<u8>(), 0..4u8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_bytes_make_it_panic(
            kind in prop::sample::select(kinds().collect::<Vec<_>>()),
            (width, height) in (1..80u32, 1..60u32),
            mutations in prop::collection::vec(mutation(), 1..12),
        ) {
            let mut file = encode(Size { width, height }, kind);
            for (at, value, how) in mutations {
                let at = at.index(file.len());
                match how {
                    0 => file[at] = value,
                    1 => file[at] ^= 1 << (value % 8),
                    2 => file.insert(at, value),
                    _ => drop(file.remove(at)),
                }
            }
            if let Ok((picture, output)) = decode(&file) {
                prop_assert_eq!(picture.output_bytes as usize, output.len());
            }
        }

        #[test]
        fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let file = [&[0xff, 0xd8][..], &bytes].concat();
            prop_assert!(decode(&file).is_err());
        }
    }
}
