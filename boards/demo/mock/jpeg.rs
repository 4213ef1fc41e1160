//! The structure of a JPEG file (ITU-T T.81, annex B): the codec's front end.
//!
//! Guarantees: the entropy decoder behind this front end sees only files of the following kind. Every marker is where
//! annex B puts it. The decoder is known to decode their process and sampling. They have no metadata, and their height
//! is in the frame header. They have all their scans and restart intervals, up to the end-of-image marker. Bytes after
//! that marker are ignored, because files come in whole disk sectors. A file that was cut short is distinguished from a
//! corrupt one, even if zeros replace the missing rest. A feature that annex B allows but the decoder does not have is
//! named, and never reported as corrupt.

use alloc::vec::Vec;

use super::scaler::Size;

/// Pixels of the largest picture: 12 Mi, which 4096 x 3072 reaches.
pub(super) const MAX_PIXELS: u32 = 12 << 20;
/// The most parts that a file is cut into by its metadata.
const MAX_PARTS: usize = 1024;
/// Bytes of the largest header without its metadata. The tables of a usual header have less than 2 KiB.
const MAX_HEAD: usize = 16 << 10;

mod marker {
    pub(super) const SOF0: u8 = 0xc0;
    pub(super) const SOF2: u8 = 0xc2;
    pub(super) const DHT: u8 = 0xc4;
    pub(super) const JPG: u8 = 0xc8;
    pub(super) const DAC: u8 = 0xcc;
    pub(super) const SOF15: u8 = 0xcf;
    pub(super) const RST0: u8 = 0xd0;
    pub(super) const RST7: u8 = 0xd7;
    pub(super) const SOI: u8 = 0xd8;
    pub(super) const EOI: u8 = 0xd9;
    pub(super) const SOS: u8 = 0xda;
    pub(super) const DQT: u8 = 0xdb;
    pub(super) const DNL: u8 = 0xdc;
    pub(super) const DHP: u8 = 0xde;
    pub(super) const EXP: u8 = 0xdf;
    pub(super) const JPG0: u8 = 0xf0;
    pub(super) const JPG13: u8 = 0xfd;
    pub(super) const DRI: u8 = 0xdd;
    pub(super) const APP0: u8 = 0xe0;
    pub(super) const APP14: u8 = 0xee;
    pub(super) const APP15: u8 = 0xef;
    pub(super) const COM: u8 = 0xfe;
}

/// A feature that a file needs and the decoder does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// A process of another standard, not baseline or progressive DCT. An example is JPEG-LS.
    Process = 1,
    /// Samples of another depth than 8 bits.
    Precision = 2,
    /// Other components than one (grey) or three (`YCbCr`), such as CMYK.
    Components = 3,
    /// Other samplings than 4:4:4, 4:2:2, 4:4:0 and 4:2:0.
    Sampling = 4,
    /// Tables of an unusual size.
    Tables = 5,
    /// A baseline file of several components with a scan for each.
    Scans = 6,
    /// Arithmetic coding.
    Arithmetic = 7,
    /// The lossless process.
    Lossless = 8,
    /// The hierarchical process.
    Hierarchical = 9,
    /// A DNL segment that gives another height than the frame header does.
    Height = 10,
}

/// Why a file is refused. Positions count bytes from the file's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    NotJpeg,
    Truncated,
    Corrupt(usize),
    Unsupported(Feature),
    TooLarge(Size),
}

/// A component of the frame.
#[derive(Clone, Copy)]
struct Component {
    id: u8,
    /// Sampling factors, across and down.
    h: u32,
    v: u32,
}

/// The frame header, and everything before the first scan's data.
pub(super) struct Header {
    pub(super) size: Size,
    progressive: bool,
    components: [Component; 3],
    count: usize,
    /// MCUs between restart markers, or 0.
    restart_interval: u32,
    /// Whether Huffman tables were defined before the first scan.
    tables: bool,
    /// The file up to and with the first scan header, without metadata.
    head: Vec<u8>,
    /// Where the frame header starts in `head`.
    frame: usize,
    /// Where the first scan's header starts.
    scan: usize,
}

impl Header {
    /// Reads the file up to its first scan.
    pub(super) fn parse(file: &[u8]) -> Result<Self, Fault> {
        let mut segments = Segments { file, at: 2 };
        if file.get(..2) != Some(&[0xff, marker::SOI]) {
            return Err(Fault::NotJpeg);
        }
        let mut header = Self {
            size: Size { width: 0, height: 0 },
            progressive: false,
            components: [Component { id: 0, h: 1, v: 1 }; 3],
            count: 0,
            restart_interval: 0,
            tables: false,
            head: Vec::from([0xff, marker::SOI]),
            frame: 0,
            scan: 0,
        };
        let (mut jfif, mut adobe_transform) = (false, None);
        loop {
            let segment = segments.next_segment()?;
            let corrupt = || segments.unless_cut(Fault::Corrupt(segment.start));
            match segment.marker {
                marker::SOS => {
                    header.scan = segment.start;
                    let scan = Scan::parse(&segment, &header).ok_or_else(corrupt)?;
                    if !header.progressive && scan.components().count() < header.count {
                        return Err(Fault::Unsupported(Feature::Scans));
                    }
                    if header.size.height == 0 {
                        header.height_from_dnl(&mut segments)?;
                    }
                    if !header.tables && !header.progressive {
                        header.head.extend(STANDARD_TABLES);
                    }
                    header.keep(&segment)?;
                    break;
                }
                marker::DHT => {
                    header.tables = true;
                    header.keep(&segment)?;
                }
                marker::DQT => header.keep(&segment)?,
                marker::DRI => {
                    header.restart_interval = interval(&segment).ok_or_else(corrupt)?;
                    header.keep(&segment)?;
                }
                marker::DAC => return Err(Fault::Unsupported(Feature::Arithmetic)),
                marker::DHP | marker::EXP => return Err(Fault::Unsupported(Feature::Hierarchical)),
                marker::JPG | marker::JPG0..=marker::JPG13 => return Err(Fault::Unsupported(Feature::Process)),
                marker::SOF0..=marker::SOF15 if header.count == 0 => {
                    header
                        .frame(&segment)
                        .map_err(|fault| segments.unless_cut(fault.unwrap_or(Fault::Corrupt(segment.start))))?;
                }
                marker::APP0 if segment.body.starts_with(b"JFIF\0") => jfif = true,
                marker::APP14 => {
                    if let [b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..] = segment.body {
                        adobe_transform = Some(*transform);
                    }
                }
                marker::APP0..=marker::APP15 | marker::COM => {}
                _ => return Err(corrupt()),
            }
        }
        // Adobe's segment says what three components are. Without that and JFIF's segment, these names say so, as in
        // other decoders.
        let named_rgb = header.components.map(|component| component.id) == *b"RGB";
        let rgb = adobe_transform.map_or(!jfif && named_rgb, |transform| transform != 1);
        if header.count == 3 && rgb {
            return Err(Fault::Unsupported(Feature::Components));
        }
        Ok(header)
    }

    /// Finds the height after the first scan's data. A frame header without a height must be followed by one there
    /// (B.2.5).
    fn height_from_dnl(&mut self, segments: &mut Segments<'_>) -> Result<(), Fault> {
        segments.skip_entropy_coded(None)?;
        let segment = segments.next_segment()?;
        let height = lines(&segment).filter(|&height| height > 0);
        let height = height.ok_or_else(|| segments.unless_cut(Fault::Corrupt(segment.start)))?;
        self.set_height(height)
    }

    fn set_height(&mut self, height: u16) -> Result<(), Fault> {
        self.size.height = height.into();
        if self.size.width * self.size.height > MAX_PIXELS {
            return Err(Fault::TooLarge(self.size));
        }
        // The height follows marker, length and precision.
        let at = self.frame + 5;
        self.head[at..at + 2].copy_from_slice(&height.to_be_bytes());
        Ok(())
    }

    /// Reads the frame header (B.2.2). The error is `None` for a corrupt header.
    fn frame(&mut self, segment: &Segment<'_>) -> Result<(), Option<Fault>> {
        let unsupported = |feature| Err(Some(Fault::Unsupported(feature)));
        // SOF1 with 8-bit samples differs from SOF0 only in that it allows four tables of each kind. The others are
        // those of table B.1.
        match segment.marker {
            0xc3 | 0xcb => return unsupported(Feature::Lossless),
            0xc5..=0xc7 | 0xcd..=0xcf => return unsupported(Feature::Hierarchical),
            0xc9 | 0xca => return unsupported(Feature::Arithmetic),
            _ => {}
        }
        let &[precision, h1, h0, w1, w0, count, ref components @ ..] = segment.body else { return Err(None) };
        let size = Size { width: u16::from_be_bytes([w1, w0]).into(), height: u16::from_be_bytes([h1, h0]).into() };
        if components.len() != 3 * usize::from(count) || size.width == 0 {
            return Err(None);
        }
        if precision != 8 {
            return unsupported(Feature::Precision);
        }
        if count != 1 && count != 3 {
            return unsupported(Feature::Components);
        }
        if size.width * size.height > MAX_PIXELS {
            return Err(Some(Fault::TooLarge(size)));
        }
        self.size = size;
        self.progressive = segment.marker == marker::SOF2;
        self.count = count.into();
        for (i, bytes) in components.chunks_exact(3).enumerate() {
            let (h, v) = (u32::from(bytes[1] >> 4), u32::from(bytes[1] & 15));
            if !(1..=4).contains(&h) || !(1..=4).contains(&v) || bytes[2] > 3 {
                return Err(None);
            }
            if self.components[..i].iter().any(|c| c.id == bytes[0]) {
                return Err(None);
            }
            self.components[i] = Component { id: bytes[0], h, v };
        }
        let start = self.head.len();
        self.frame = start;
        self.keep(segment).map_err(Some)?;
        if self.count == 1 {
            // The factors of a single component mean nothing (A.2.2). Every decoder has been tried with 1 x 1.
            self.components[0] = Component { h: 1, v: 1, ..self.components[0] };
            // Marker, length, six bytes, component identifier.
            self.head[start + 11] = 0x11;
            return Ok(());
        }
        // Only ratios count (A.1.1): the number of luma samples for each chroma sample, across and down.
        let [luma, blue, red] = self.components;
        let ratios = (luma.h / blue.h, luma.v / blue.v);
        let whole = luma.h % blue.h == 0 && luma.v % blue.v == 0 && (red.h, red.v) == (blue.h, blue.v);
        // The decoder has been tried with these factors. A file with an MCU of more than ten blocks needs separate
        // scans (B.2.3).
        let tried = matches!(luma.h, 1 | 2 | 4) && luma.v <= 2;
        let blocks = luma.h * luma.v + 2 * blue.h * blue.v;
        if !whole || ratios.0 > 2 || ratios.1 > 2 || !tried || blocks > 10 {
            return unsupported(Feature::Sampling);
        }
        Ok(())
    }

    fn keep(&mut self, segment: &Segment<'_>) -> Result<(), Fault> {
        if self.head.len() + segment.body.len() > MAX_HEAD {
            return Err(Fault::Unsupported(Feature::Tables));
        }
        self.head.extend([0xff, segment.marker]);
        self.head.extend((segment.body.len() as u16 + 2).to_be_bytes());
        self.head.extend(segment.body);
        Ok(())
    }

    /// Returns where the first scan's header starts.
    pub(super) fn scan(&self) -> usize {
        self.scan
    }

    /// Returns the bytes of the coefficients that must be kept before the first row of pixels can be made. A baseline
    /// file has none, because its MCUs are complete when they have been read.
    pub(super) fn coefficient_bytes(&self) -> u32 {
        if !self.progressive {
            return 0;
        }
        let Component { h, v, .. } = self.components[0];
        let blocks: u32 = self.components[..self.count].iter().map(|c| c.h * c.v).sum();
        let mcus = self.size.width.div_ceil(8 * h) * self.size.height.div_ceil(8 * v);
        mcus * blocks * 64 * 2
    }

    /// Returns the bytes of the lines of samples between coefficients and pixels, rounded up generously.
    pub(super) fn line_bytes(&self) -> u32 {
        let Component { h, v, .. } = self.components[0];
        let columns = self.size.width.next_multiple_of(8 * h) + 8 * h;
        // For each component: a row of decoded MCUs, that row upsampled, and the rows that are kept for the next one.
        let rows = 8 * v + 8 * v * 2 + 16;
        columns * rows * self.count as u32 * 2
    }

    /// Walks through all scans, and splits the file into parts for the entropy decoder.
    pub(super) fn stream<'f>(&self, file: &'f [u8]) -> Result<Stream<'f>, Fault> {
        let mut segments = Segments { file, at: self.scan };
        let mut segment = segments.next_segment()?;
        let mut restart_interval = self.restart_interval;
        // The components whose first scan has been seen, a bit each. In a baseline file it is the only scan.
        let mut seen = 0u8;
        let mut scans = 0u32;
        // The parts for the decoder, and where the present part begins. Metadata separate parts.
        let (mut body, mut start) = (Vec::new(), segments.at);
        loop {
            let corrupt = || Fault::Corrupt(segment.start);
            match segment.marker {
                marker::SOS => {
                    let scan = Scan::parse(&segment, self).ok_or_else(|| segments.unless_cut(corrupt()))?;
                    if scan.first {
                        if seen & scan.components != 0 {
                            return Err(segments.unless_cut(corrupt()));
                        }
                        seen |= scan.components;
                    } else if seen & scan.components != scan.components {
                        return Err(segments.unless_cut(corrupt()));
                    }
                    let mcus = self.mcus(scan);
                    let restarts = (mcus - 1).checked_div(restart_interval).unwrap_or(0);
                    segments.skip_entropy_coded(Some(restarts))?;
                    scans += 1;
                }
                marker::DRI => {
                    restart_interval = interval(&segment).ok_or_else(|| segments.unless_cut(corrupt()))?;
                }
                marker::DHT | marker::DQT => {}
                marker::DAC => return Err(Fault::Unsupported(Feature::Arithmetic)),
                marker::DNL | marker::APP0..=marker::APP15 | marker::COM => {
                    if segment.marker == marker::DNL {
                        // This segment is only allowed after the first scan's data.
                        let height = lines(&segment).filter(|_| scans == 1);
                        let height = height.ok_or_else(|| segments.unless_cut(corrupt()))?;
                        if u32::from(height) != self.size.height {
                            return Err(Fault::Unsupported(Feature::Height));
                        }
                    }
                    // The decoder does not get this segment.
                    push(&mut body, &file[start..segment.start])?;
                    start = segments.at;
                }
                _ => return Err(segments.unless_cut(corrupt())),
            }
            if segments.peek_marker()? == marker::EOI {
                break;
            }
            segment = segments.next_segment()?;
        }
        push(&mut body, &file[start..segments.at])?;
        if seen != (1 << self.count) - 1 {
            return Err(Fault::Truncated);
        }
        Ok(Stream { head: self.head.clone(), body, progressive: self.progressive })
    }

    /// Returns the number of MCUs of a scan (A.2). With one component an MCU is a single block. Otherwise the frame's
    /// sampling gives its size.
    fn mcus(&self, scan: Scan) -> u32 {
        let Size { width, height } = self.size;
        let Component { h: h_max, v: v_max, .. } = self.components[0];
        if scan.components().count() > 1 {
            return width.div_ceil(8 * h_max) * height.div_ceil(8 * v_max);
        }
        let Component { h, v, .. } = self.components[scan.components().next().unwrap_or(0)];
        (width * h).div_ceil(8 * h_max) * (height * v).div_ceil(8 * v_max)
    }
}

/// An application segment of AVI, which makes the decoder use the tables of annex K for missing ones. Frames of AVI
/// files and of UVC cameras have no tables.
const STANDARD_TABLES: [u8; 9] = *b"\xff\xe0\0\x07AVI1\0";

/// Adds a part for the decoder, if it is not empty.
fn push<'f>(body: &mut Vec<&'f [u8]>, part: &'f [u8]) -> Result<(), Fault> {
    if body.len() == MAX_PARTS {
        return Err(Fault::Unsupported(Feature::Tables));
    }
    if !part.is_empty() {
        body.push(part);
    }
    Ok(())
}

/// Returns the height of a DNL segment (B.2.5).
fn lines(segment: &Segment<'_>) -> Option<u16> {
    let &[high, low] = segment.body else { return None };
    (segment.marker == marker::DNL).then(|| u16::from_be_bytes([high, low]))
}

/// Returns the restart interval of a DRI segment (B.2.4.4).
fn interval(segment: &Segment<'_>) -> Option<u32> {
    let &[high, low] = segment.body else { return None };
    Some(u16::from_be_bytes([high, low]).into())
}

/// A scan header (B.2.3) that fits its frame.
#[derive(Clone, Copy)]
struct Scan {
    /// The frame's components in the scan, by bit.
    components: u8,
    /// Whether this is the first scan of these components. It holds the upper bits of their DC coefficients.
    first: bool,
}

impl Scan {
    fn parse(segment: &Segment<'_>, header: &Header) -> Option<Self> {
        let (&count, rest) = segment.body.split_first()?;
        let count = usize::from(count);
        if count == 0 || count > header.count || rest.len() != 2 * count + 3 {
            return None;
        }
        let (selectors, parameters) = rest.split_at(2 * count);
        let mut components = 0;
        for selector in selectors.chunks_exact(2) {
            let index = header.components[..header.count].iter().position(|c| c.id == selector[0])?;
            // The components must be in the frame's order, each once. Tables are numbered 0 to 3.
            if components >> index != 0 || selector[1] & 0xcc != 0 {
                return None;
            }
            components |= 1 << index;
        }
        let &[start, end, approximation] = parameters else { return None };
        let (high, low) = (approximation >> 4, approximation & 15);
        if !header.progressive {
            // These parameters have one legal value each, and most decoders ignore them.
            return Some(Self { components, first: true });
        }
        // A scan has DC or AC coefficients, AC has one component at a time, and a refinement adds one bit (G.1.1.1).
        let band = if start == 0 { end == 0 } else { start <= end && end <= 63 && count == 1 };
        let bits = low <= 13 && (high == 0 || high == low + 1);
        (band && bits).then_some(Self { components, first: start == 0 && high == 0 })
    }

    /// Returns indices into the frame's components.
    fn components(self) -> impl Iterator<Item = usize> {
        (0..3).filter(move |i| self.components >> i & 1 != 0)
    }
}

/// A marker with its parameters.
struct Segment<'f> {
    marker: u8,
    /// Where the marker starts.
    start: usize,
    /// The parameters, without the length.
    body: &'f [u8],
}

/// The marker segments of a file, one after the other.
struct Segments<'f> {
    file: &'f [u8],
    at: usize,
}

impl<'f> Segments<'f> {
    /// Returns `fault` if anything but zeros follows. Otherwise the file was cut before this point and padded.
    fn unless_cut(&self, fault: Fault) -> Fault {
        let rest = self.file.get(self.at..).unwrap_or(&[]);
        if rest.iter().all(|&byte| byte == 0) { Fault::Truncated } else { fault }
    }

    fn byte(&self, at: usize) -> Result<u8, Fault> {
        self.file.get(at).copied().ok_or(Fault::Truncated)
    }

    /// Goes to the next marker, past its fill bytes (B.1.1.2), so that 0xff and the code returned are next.
    fn peek_marker(&mut self) -> Result<u8, Fault> {
        if self.byte(self.at)? != 0xff {
            return Err(self.unless_cut(Fault::Corrupt(self.at)));
        }
        while self.byte(self.at + 1)? == 0xff {
            self.at += 1;
        }
        self.byte(self.at + 1)
    }

    fn next_segment(&mut self) -> Result<Segment<'f>, Fault> {
        let marker = self.peek_marker()?;
        let start = self.at;
        // Markers without parameters (table B.1) are not allowed between segments. That includes EOI here, because no
        // picture follows it.
        if matches!(marker, 0..=0xbf | marker::RST0..=marker::EOI) {
            self.at += 2;
            return Err(self.unless_cut(Fault::Corrupt(start)));
        }
        let length = usize::from(u16::from_be_bytes([self.byte(start + 2)?, self.byte(start + 3)?]));
        if length < 2 {
            self.at += 4;
            return Err(self.unless_cut(Fault::Corrupt(start)));
        }
        let body = self.file.get(start + 4..start + 2 + length).ok_or(Fault::Truncated)?;
        self.at = start + 2 + length;
        Ok(Segment { marker, start, body })
    }

    /// Skips a scan's data, up to the marker after it. The data must have exactly `restarts` restart markers, or any
    /// number of them if that is `None`. These are numbered in turn (B.2.1).
    fn skip_entropy_coded(&mut self, restarts: Option<u32>) -> Result<(), Fault> {
        let mut seen = 0;
        loop {
            let rest = self.file.get(self.at..).unwrap_or(&[]);
            let skipped = rest.iter().position(|&byte| byte == 0xff).ok_or(Fault::Truncated)?;
            self.at += skipped;
            match self.peek_marker()? {
                // This is a stuffed 0xff of the data.
                0 => self.at += 2,
                code @ marker::RST0..=marker::RST7 => {
                    if Some(seen) == restarts || u32::from(code & 7) != seen % 8 {
                        return Err(Fault::Corrupt(self.at));
                    }
                    seen += 1;
                    self.at += 2;
                }
                _ if restarts.is_some_and(|restarts| seen < restarts) => return Err(Fault::Corrupt(self.at)),
                _ => return Ok(()),
            }
        }
    }
}

/// A file in the form that the entropy decoder gets.
pub(super) struct Stream<'f> {
    /// Up to and with the first scan header.
    pub(super) head: Vec<u8>,
    /// From the first scan's data to the end of the last scan's data, without metadata.
    pub(super) body: Vec<&'f [u8]>,
    /// Whether a picture needs several scans to be complete.
    pub(super) progressive: bool,
}
