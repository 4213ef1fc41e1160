//! The mock scaler: fits a picture into the screen.
//!
//! Guarantees: the aspect ratio is kept to within half a pixel, and nothing is enlarged. Each output pixel is the exact
//! average of the source area under it, rounded to nearest. There is no intermediate rounding, so a host program
//! reproduces the result bit by bit. Each source byte is read once, in order.
//!
//! This is the rule. For a source of `w` x `h` pixels, [`fit`] gives the size `dw` x `dh` that is shown, at column
//! `floor((640 - dw) / 2)` and row `floor((480 - dh) / 2)` of a black screen. Across, source pixel `(i, j)` covers `[i
//! dw, (i + 1) dw)` and output pixel `(x, y)` covers `[x w, (x + 1) w)`. The same holds downwards. Then the overlaps
//! are integer weights `a` and `b`, and each colour is `floor((sum of a b p + floor(w h / 2)) / (w h))`.
//!
//! The source has `w h` pixels of three bytes, red first, without padding. The destination has 640 x 480 words
//! `0x00RRGGBB`, little endian. All of them are written.

use core::fmt;

use carveout::addr::BusAddr;
use tock_registers::interfaces::{Readable, Writeable};

use super::{BusMaster, Busy, Job, Register, Window};

/// Columns of the screen.
pub const SCREEN_WIDTH: u32 = 640;
/// Rows of the screen.
pub const SCREEN_HEIGHT: u32 = 480;
/// Bytes of the destination.
pub const SCREEN_BYTES: u32 = SCREEN_WIDTH * SCREEN_HEIGHT * 4;
/// Pixels of the largest source: 12 Mi, the size of 4096 x 3072. Sums of `255 w h` then fit in 32 bits.
pub const MAX_PIXELS: u32 = 12 << 20;
/// Bytes of a source pixel.
pub const SOURCE_PIXEL: u32 = 3;

const ID: u32 = 0x5343_0001;

/// A size in pixels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {} pixels", self.width, self.height)
    }
}

/// Returns the size at which `source` is shown. A source that fits the screen keeps its size. Otherwise one side
/// becomes the screen's, and the other is scaled by the same factor, rounded half up, at least 1: if `480 w >= 640 h`
/// then `640` and `max(1, floor((1280 h + w) / 2w))`, else `max(1, floor((960 w + h) / 2h))` and `480`.
///
/// ```
/// # use carveout_boards::demo::mock::scaler::{Size, fit};
/// assert_eq!(fit(Size { width: 4032, height: 3024 }), Size { width: 640, height: 480 });
/// assert_eq!(fit(Size { width: 3000, height: 4001 }), Size { width: 360, height: 480 });
/// ```
pub const fn fit(source: Size) -> Size {
    // 64 bits are enough for any 32-bit size.
    let (w, h) = (source.width as u64, source.height as u64);
    let (screen_w, screen_h) = (SCREEN_WIDTH as u64, SCREEN_HEIGHT as u64);
    if w <= screen_w && h <= screen_h {
        source
    } else if screen_h * w >= screen_w * h {
        Size { width: SCREEN_WIDTH, height: at_least_one((2 * screen_w * h + w) / (2 * w)) }
    } else {
        Size { width: at_least_one((2 * screen_h * w + h) / (2 * h)), height: SCREEN_HEIGHT }
    }
}

const fn at_least_one(n: u64) -> u32 {
    if n == 0 { 1 } else { n as u32 }
}

/// Why a job failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// A side of the source is 0.
    Empty(Size),
    /// The source has more than [`MAX_PIXELS`] pixels.
    TooLarge(Size),
    /// The source window holds fewer bytes than its size says.
    SourceTooSmall {
        /// Bytes of the source.
        needed: u32,
    },
    /// The destination window holds fewer than [`SCREEN_BYTES`] bytes.
    DestinationTooSmall {
        /// Bytes of the window.
        given: u32,
    },
    /// The bus refused the window that starts here.
    Bus(BusAddr),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(size) => write!(f, "nothing to scale: the picture is {size}"),
            Self::TooLarge(size) => {
                write!(f, "the picture is too large: {size}, the scaler takes at most {MAX_PIXELS}")
            }
            Self::SourceTooSmall { needed } => write!(f, "the source is too small: the picture has {needed} bytes"),
            Self::DestinationTooSmall { given } => {
                write!(f, "the destination is too small: {given} bytes, the screen has {SCREEN_BYTES}")
            }
            Self::Bus(at) => write!(f, "bus error at {at}"),
        }
    }
}

impl Error {
    const EMPTY: u8 = 1;
    const TOO_LARGE: u8 = 2;
    const SOURCE_TOO_SMALL: u8 = 3;
    const DESTINATION_TOO_SMALL: u8 = 4;
    const BUS: u8 = 5;

    /// Returns the error as the device reports it: STATUS.ERROR and DETAIL.
    const fn code(self) -> (u8, u32) {
        match self {
            Self::Empty(_) => (Self::EMPTY, 0),
            Self::TooLarge(_) => (Self::TOO_LARGE, 0),
            Self::SourceTooSmall { needed } => (Self::SOURCE_TOO_SMALL, needed),
            Self::DestinationTooSmall { given } => (Self::DESTINATION_TOO_SMALL, given),
            Self::Bus(at) => (Self::BUS, at.raw()),
        }
    }
}

/// The register file.
pub struct Registers {
    id: Register,
    job: Job,
    source_width: Register,
    source_height: Register,
    shown_width: Register,
    shown_height: Register,
}

impl Registers {
    /// Makes the register file as it is after reset.
    #[expect(clippy::new_without_default, reason = "made in statics")]
    pub const fn new() -> Self {
        Self {
            id: Register::new(),
            job: Job::new(),
            source_width: Register::new(),
            source_height: Register::new(),
            shown_width: Register::new(),
            shown_height: Register::new(),
        }
    }
}

/// The CPU's end.
pub struct Driver<'r> {
    registers: &'r Registers,
}

impl<'r> Driver<'r> {
    /// Returns the driver of a device, or `None` if the ID register is not a scaler's.
    pub fn new(registers: &'r Registers) -> Option<Self> {
        (registers.id.get() == ID).then_some(Self { registers })
    }

    /// Starts a job that scales the picture of `size` at `source` onto the screen at `destination`. Both windows are
    /// the device's until [`finish`](Self::finish) returns the result.
    ///
    /// # Errors
    ///
    /// [`Busy`] if the device is still at work.
    pub fn start(&mut self, source: Window, size: Size, destination: Window) -> Result<(), Busy> {
        let registers = self.registers;
        registers.job.idle()?;
        registers.job.set_source(source);
        registers.job.set_destination(destination);
        registers.source_width.set(size.width);
        registers.source_height.set(size.height);
        registers.job.start();
        Ok(())
    }

    /// Returns whether the device works on nothing: then it accesses no memory until the next job.
    pub fn is_stopped(&self) -> bool {
        self.registers.job.is_stopped()
    }

    /// Returns the size that is shown, once, after the interrupt. Returns `None` while no job has ended.
    pub fn finish(&mut self) -> Option<Result<Size, Error>> {
        let registers = self.registers;
        let (code, detail) = registers.job.take()?;
        let source = Size { width: registers.source_width.get(), height: registers.source_height.get() };
        Some(match code {
            0 => Ok(Size { width: registers.shown_width.get(), height: registers.shown_height.get() }),
            Error::EMPTY => Err(Error::Empty(source)),
            Error::TOO_LARGE => Err(Error::TooLarge(source)),
            Error::SOURCE_TOO_SMALL => Err(Error::SourceTooSmall { needed: detail }),
            Error::DESTINATION_TOO_SMALL => Err(Error::DestinationTooSmall { given: detail }),
            _ => Err(Error::Bus(BusAddr::new(detail))),
        })
    }
}

/// The device's end.
pub struct Hardware<'r> {
    registers: &'r Registers,
    lines: Lines,
}

impl<'r> Hardware<'r> {
    /// Powers the device up.
    pub fn new(registers: &'r Registers) -> Self {
        registers.id.set(ID);
        Self { registers, lines: Lines { row: [[0; 3]; COLUMNS], sum: [[0; 3]; COLUMNS] } }
    }

    /// Does a job that the driver started, if there is one, and asks for the interrupt at its end.
    pub fn run(&mut self, port: &mut impl BusMaster, irq: &mut impl FnMut()) {
        let registers = self.registers;
        if !registers.job.started() {
            return;
        }
        let (code, detail) = match self.scale(port) {
            Ok(shown) => {
                registers.shown_width.set(shown.width);
                registers.shown_height.set(shown.height);
                (0, 0)
            }
            Err(error) => error.code(),
        };
        registers.job.complete(code, detail);
        irq();
    }

    fn scale(&mut self, port: &mut impl BusMaster) -> Result<Size, Error> {
        let registers = self.registers;
        let size = Size { width: registers.source_width.get(), height: registers.source_height.get() };
        let (mut source, mut destination) = (registers.job.source(), registers.job.destination());
        if size.width == 0 || size.height == 0 {
            return Err(Error::Empty(size));
        }
        let pixels = size.width.checked_mul(size.height).filter(|&n| n <= MAX_PIXELS).ok_or(Error::TooLarge(size))?;
        let needed = pixels * SOURCE_PIXEL;
        if source.len < needed {
            return Err(Error::SourceTooSmall { needed });
        }
        if destination.len < SCREEN_BYTES {
            return Err(Error::DestinationTooSmall { given: destination.len });
        }
        source.len = needed;
        destination.len = SCREEN_BYTES;
        let shown = fit(size);
        port.read_write(source, destination, |from, to| self.lines.scale(from, size, shown, to))
            .map_err(|refused| Error::Bus(refused.window.at))?;
        Ok(shown)
    }
}

const COLUMNS: usize = SCREEN_WIDTH as usize;

/// The line memory. It has the sums of one output row, for any size of source.
struct Lines {
    /// A source row, averaged across. Each sum has the weight `w`.
    row: [[u32; 3]; COLUMNS],
    /// The output row so far. At its end each sum has the weight `w h`.
    sum: [[u32; 3]; COLUMNS],
}

impl Lines {
    /// Scales `from`, the pixels of a picture of `size`, to `to`, the screen's bytes. `shown` is `fit(size)`.
    fn scale(&mut self, from: &[u8], size: Size, shown: Size, to: &mut [u8]) {
        to.fill(0);
        let columns = shown.width as usize;
        let (h, dh) = (size.height, shown.height);
        let area = Divisor::new(size.width * h);
        let left = (SCREEN_WIDTH - shown.width) as usize / 2;
        let top = (SCREEN_HEIGHT - dh) as usize / 2;
        let mut output = to.chunks_exact_mut(COLUMNS * 4).skip(top);

        self.sum[..columns].fill([0; 3]);
        // The part of the output row that is still missing, in units of which a source row has `dh` and an output row
        // has `h`.
        let mut lacking = h;
        for source in from.chunks_exact((size.width * SOURCE_PIXEL) as usize) {
            average_across(source, size.width, shown.width, &mut self.row[..columns]);
            let weight = dh.min(lacking);
            let rest = dh - weight;
            lacking -= weight;
            for (sum, row) in self.sum[..columns].iter_mut().zip(&self.row) {
                for (sum, row) in sum.iter_mut().zip(row) {
                    *sum += weight * row;
                }
            }
            if lacking > 0 {
                continue;
            }
            let Some(line) = output.next() else { return };
            let pixels = line.chunks_exact_mut(4).skip(left);
            for ((sum, row), pixel) in self.sum[..columns].iter_mut().zip(&self.row).zip(pixels) {
                let [r, g, b] = sum.map(|s| area.rounded(s));
                pixel.copy_from_slice(&[b, g, r, 0]);
                *sum = row.map(|row| rest * row);
            }
            lacking = h - rest;
        }
    }
}

/// A number that many sums are divided by. The Cortex-A9 has no instruction for a division, so it is done once.
#[derive(Clone, Copy)]
struct Divisor {
    by: u32,
    /// 2^32 times its reciprocal, too small by at most 1.
    reciprocal: u32,
}

impl Divisor {
    const fn new(by: u32) -> Self {
        Self { by, reciprocal: u32::MAX / by }
    }

    /// Returns the nearest byte to a sum of at most 255 times the number, divided by it.
    const fn rounded(self, sum: u32) -> u8 {
        let sum = sum + self.by / 2;
        // The product is too small by less than 1.
        let quotient = ((sum as u64 * self.reciprocal as u64) >> 32) as u32;
        (quotient + (sum - quotient * self.by >= self.by) as u32) as u8
    }
}

/// Sums the `w` pixels of `source` into the `dw <= w` pixels of `row`. Each sum has the total weight `w`.
fn average_across(source: &[u8], w: u32, dw: u32, row: &mut [[u32; 3]]) {
    // The code divides only once, because the Cortex-A9 has no instruction for it.
    let (whole_of, part_of) = (w / dw, w % dw);
    let mut rest = source;
    // The part of the last source pixel that lies under this output pixel.
    let mut carry = [0; 3];
    let mut carried = 0;
    for out in row {
        // The part of this output pixel that is still missing, `w - carried`, divided by `dw`.
        let (whole, part) =
            if carried <= part_of { (whole_of, part_of - carried) } else { (whole_of - 1, part_of + dw - carried) };
        let (under, behind) = rest.split_at(3 * whole as usize);
        let [mut r, mut g, mut b] = [0; 3];
        for pixel in under.chunks_exact(3) {
            r += u32::from(pixel[0]);
            g += u32::from(pixel[1]);
            b += u32::from(pixel[2]);
        }
        rest = behind;
        *out = [carry[0] + dw * r, carry[1] + dw * g, carry[2] + dw * b];
        carried = 0;
        if part > 0 {
            let (pixel, behind) = rest.split_at(3);
            rest = behind;
            carried = dw - part;
            for ((out, carry), &pixel) in out.iter_mut().zip(&mut carry).zip(pixel) {
                *out += part * u32::from(pixel);
                *carry = carried * u32::from(pixel);
            }
        } else {
            carry = [0; 3];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{format, vec, vec::Vec};

    use proptest::prelude::*;

    use super::{
        super::testing::{Bus, Grant},
        *,
    };

    const SOURCE: u32 = 0x1000_0000;
    const SCREEN: u32 = 0x2000_0000;

    /// Runs one job. Returns the screen's words and the result that the driver got.
    fn scale(size: Size, pixels: &[u8]) -> (Vec<u32>, Result<Size, Error>) {
        let registers = Registers::new();
        assert!(Driver::new(&registers).is_none(), "a device without power has no ID");
        let mut hardware = Hardware::new(&registers);
        let mut driver = Driver::new(&registers).unwrap();
        let mut bus = Bus::default();
        let source = bus.grant(SOURCE, Grant::Read, pixels);
        let screen = bus.grant(SCREEN, Grant::Write, &vec![0xaa; SCREEN_BYTES as usize]);
        let mut interrupts = 0;
        hardware.run(&mut bus, &mut || interrupts += 1);
        assert_eq!((interrupts, driver.finish()), (0, None));
        assert!(driver.is_stopped());
        driver.start(source, size, screen).unwrap();
        assert!(!driver.is_stopped(), "the device may access its windows (I4)");
        assert_eq!(driver.start(source, size, screen), Err(Busy));
        hardware.run(&mut bus, &mut || interrupts += 1);
        hardware.run(&mut bus, &mut || interrupts += 1);
        assert_eq!(interrupts, 1);
        assert_eq!(driver.start(source, size, screen), Err(Busy), "the result has not been taken");
        assert!(driver.is_stopped(), "whether or not its result was taken");
        let result = driver.finish().unwrap();
        assert_eq!(driver.finish(), None);
        let words = bus.bytes(screen).chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
        (words, result)
    }

    /// Computes the rule of the module's documentation, pixel by pixel, in wide integers.
    #[expect(clippy::cast_sign_loss, clippy::many_single_char_names, reason = "the names of the rule")]
    fn model(size: Size, pixels: &[u8]) -> Vec<u32> {
        let (w, h) = (i128::from(size.width), i128::from(size.height));
        let (dw, dh) = if w <= 640 && h <= 480 {
            (w, h)
        } else if 480 * w >= 640 * h {
            (640, ((1280 * h + w) / (2 * w)).max(1))
        } else {
            (((960 * w + h) / (2 * h)).max(1), 480)
        };
        let overlap = |i: i128, d: i128, x: i128, s: i128| ((i + 1) * d).min((x + 1) * s) - (i * d).max(x * s);
        let mut screen = vec![0; (SCREEN_WIDTH * SCREEN_HEIGHT) as usize];
        for y in 0..dh {
            for x in 0..dw {
                let mut sum = [0; 3];
                for j in y * h / dh..((y + 1) * h + dh - 1) / dh {
                    for i in x * w / dw..((x + 1) * w + dw - 1) / dw {
                        let weight = overlap(i, dw, x, w) * overlap(j, dh, y, h);
                        for (c, sum) in sum.iter_mut().enumerate() {
                            *sum += weight * i128::from(pixels[((j * w + i) * 3) as usize + c]);
                        }
                    }
                }
                let [r, g, b] = sum.map(|s| ((s + w * h / 2) / (w * h)) as u32);
                let at = (y + (480 - dh) / 2) * 640 + x + (640 - dw) / 2;
                screen[at as usize] = r << 16 | g << 8 | b;
            }
        }
        screen
    }

    fn noise(size: Size, seed: u32) -> Vec<u8> {
        (0..size.width * size.height * 3)
            .map(|i| (i.wrapping_add(seed).wrapping_mul(0x9e37_79b1) >> 23) as u8)
            .collect()
    }

    fn agree(size: Size, pixels: &[u8]) {
        let (screen, result) = scale(size, pixels);
        assert_eq!(result, Ok(fit(size)));
        let model = model(size, pixels);
        let wrong = screen.iter().zip(&model).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "of {size}: {:x?}", wrong.map(|i| (screen[i], model[i])));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn equals_the_model(
            (width, height) in prop_oneof![(1..1500u32, 1..900u32), (1..8u32, 1..20000u32), (1..20000u32, 1..8u32)],
            seed: u32,
        ) {
            let size = Size { width, height };
            agree(size, &noise(size, seed));
        }

        #[test]
        fn fits_and_keeps_the_ratio(width in 1..70000u32, height in 1..70000u32) {
            let source = Size { width, height };
            let shown = fit(source);
            prop_assert!((1..=SCREEN_WIDTH).contains(&shown.width) && (1..=SCREEN_HEIGHT).contains(&shown.height));
            prop_assert!(shown.width <= width && shown.height <= height);
            let scale = (640.0 / f64::from(width)).min(480.0 / f64::from(height)).min(1.0);
            for (shown, source) in [(shown.width, width), (shown.height, height)] {
                let ideal = (f64::from(source) * scale).max(1.0);
                prop_assert!((f64::from(shown) - ideal).abs() <= 0.5 + 1e-9, "{shown} for {ideal}");
            }
        }
    }

    #[test]
    fn extreme_sizes() {
        for (width, height) in [(1, 1), (640, 480), (641, 480), (640, 481), (1, 65535), (65535, 1), (1280, 960)] {
            let size = Size { width, height };
            agree(size, &noise(size, 5));
        }
    }

    #[test]
    fn white_stays_white_at_the_largest_size() {
        let size = Size { width: 4096, height: 3072 };
        let (screen, result) = scale(size, &vec![255; (MAX_PIXELS * 3) as usize]);
        assert_eq!(result, Ok(Size { width: 640, height: 480 }));
        assert!(screen.iter().all(|&word| word == 0x00ff_ffff));
    }

    #[test]
    fn a_pixel_is_centred_on_black() {
        let (screen, _) = scale(Size { width: 1, height: 1 }, &[0x12, 0x34, 0x56]);
        let lit: Vec<_> = screen.iter().enumerate().filter(|(_, word)| **word != 0).collect();
        assert_eq!(lit, [(239 * 640 + 319, &0x0012_3456)]);
    }

    #[test]
    fn each_refusal_has_its_line() {
        let shown = |size, bytes: usize| format!("{}", scale(size, &vec![0; bytes]).1.unwrap_err());
        let size = |width, height| Size { width, height };
        assert_eq!(shown(size(0, 7), 1), "nothing to scale: the picture is 0 x 7 pixels");
        assert_eq!(
            shown(size(4097, 3072), 1),
            "the picture is too large: 4097 x 3072 pixels, the scaler takes at most 12582912"
        );
        assert_eq!(
            shown(size(65536, 65536), 1),
            "the picture is too large: 65536 x 65536 pixels, the scaler takes at most 12582912"
        );
        assert_eq!(shown(size(2, 2), 11), "the source is too small: the picture has 12 bytes");
    }

    #[test]
    fn windows_are_checked_before_a_byte_moves() {
        let registers = Registers::new();
        let mut hardware = Hardware::new(&registers);
        let mut driver = Driver::new(&registers).unwrap();
        let mut bus = Bus::default();
        let source = bus.grant(SOURCE, Grant::Read, &[1; 12]);
        let screen = bus.grant(SCREEN, Grant::Write, &vec![9; SCREEN_BYTES as usize]);
        let mut refuse = |source, screen| {
            driver.start(source, Size { width: 2, height: 2 }, screen).unwrap();
            hardware.run(&mut bus, &mut || ());
            format!("{}", driver.finish().unwrap().unwrap_err())
        };
        assert_eq!(
            refuse(source, Window { len: SCREEN_BYTES - 1, ..screen }),
            "the destination is too small: 1228799 bytes, the screen has 1228800"
        );
        let ungranted = Window { at: BusAddr::new(0x3000_0000), len: SCREEN_BYTES };
        assert_eq!(refuse(source, ungranted), "bus error at 0x30000000");
        assert_eq!(refuse(ungranted, screen), "bus error at 0x30000000");
        assert!(bus.bytes(screen).iter().all(|&b| b == 9));
        assert_eq!(bus.transfers, 0);
    }
}
