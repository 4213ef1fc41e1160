//! A JPEG encoder (ITU-T T.81) that writes what cameras and other encoders write and common crates do not:
//! factors of any size, no Huffman tables, the height behind the scan, restart intervals, 16-bit quantization tables.
//!
//! Guarantees: files of the layout asked for, legal by annex B. Slow, for it works by the formulas.

use std::f64::consts::PI;
use std::ops::RangeInclusive;
use std::{vec, vec::Vec};

/// The Huffman tables of annex K, as a segment DHT holds them.
pub(crate) struct Tables(Vec<u8>);

impl Tables {
    /// Takes them from a file that has them, such as any encoder writes that does not optimize.
    pub(crate) fn of(file: &[u8]) -> Option<Self> {
        let (mut at, mut tables) = (2, Vec::new());
        loop {
            let &[0xff, marker, high, low] = file.get(at..at + 4)? else { return None };
            let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
            match marker {
                0xc4 => tables.extend(file.get(at + 4..end)?),
                0xda => return (!tables.is_empty()).then_some(Self(tables)),
                _ => {}
            }
            at = end;
        }
    }

    /// Code and length of each symbol of a table (annex C): class 0 for DC, 1 for AC.
    fn codes(&self, class: u8) -> Vec<(u32, u32)> {
        let mut codes = vec![(0, 0); 256];
        let mut rest = &self.0[..];
        while let [header, after @ ..] = rest {
            let (counts, symbols) = after.split_at(16);
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, next) = symbols.split_at(total);
            if *header == class << 4 {
                let (mut code, mut symbols) = (0, symbols.iter());
                for (length, &count) in (1..).zip(counts) {
                    for &symbol in symbols.by_ref().take(count.into()) {
                        codes[usize::from(symbol)] = (code, length);
                        code += 1;
                    }
                    code <<= 1;
                }
            }
            rest = next;
        }
        codes
    }
}

/// What to write.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties of a file")]
pub(crate) struct Shape {
    /// Sampling factors of each component, across and down.
    pub(crate) factors: Vec<(usize, usize)>,
    /// Names of the components.
    pub(crate) ids: Vec<u8>,
    /// With the Huffman tables.
    pub(crate) dht: bool,
    /// With the height in a DNL segment, and 0 in the frame header.
    pub(crate) dnl: bool,
    /// MCUs between restart markers, or 0.
    pub(crate) restart: u16,
    /// With quantization tables of 16 bits: the frame is of the extended process then.
    pub(crate) wide: bool,
    /// With a fill byte before each marker.
    pub(crate) fill: bool,
    /// With a scan of DC coefficients and one for the others of each component.
    pub(crate) progressive: bool,
    /// With an application segment and a comment between any two scans.
    pub(crate) between: bool,
}

struct Bits {
    bytes: Vec<u8>,
    word: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, code: u32, length: u32) {
        for n in (0..length).rev() {
            self.word = self.word << 1 | code >> n & 1;
            self.count += 1;
            if self.count == 8 {
                self.bytes.push(self.word as u8);
                if self.word as u8 == 0xff {
                    self.bytes.push(0);
                }
                (self.word, self.count) = (0, 0);
            }
        }
    }

    fn flush(&mut self) {
        while self.count != 0 {
            self.put(1, 1);
        }
    }

    /// A value's category, and its bits behind the code of `symbol`.
    fn value(&mut self, codes: &[(u32, u32)], run: u32, value: i32) {
        let size = 32 - value.unsigned_abs().leading_zeros();
        let (code, length) = codes[(run << 4 | size) as usize];
        self.put(code, length);
        let bits = if value < 0 { value - 1 } else { value };
        self.put(bits.cast_unsigned() & ((1 << size) - 1), size);
    }
}

/// Natural order of the zigzag sequence (figure A.6).
fn zigzag() -> Vec<(usize, usize)> {
    let mut order: Vec<_> = (0..64).map(|n| (n / 8, n % 8)).collect();
    order.sort_by_key(|&(y, x)| (x + y, if (x + y) % 2 == 0 { x } else { y }));
    order
}

/// Every quantization step.
const STEP: u8 = 3;

/// The transform of A.3.3, rows first, quantized, in zigzag order.
fn block(samples: &[[f64; 8]; 8], waves: &[[f64; 8]; 8]) -> Vec<i32> {
    let mut rows = [[0.0; 8]; 8];
    for (row, samples) in rows.iter_mut().zip(samples) {
        for (value, wave) in row.iter_mut().zip(waves) {
            *value = samples.iter().zip(wave).map(|(sample, wave)| (sample - 128.0) * wave).sum();
        }
    }
    let coefficient = |(v, u): (usize, usize)| {
        let sum: f64 = rows.iter().zip(waves[v]).map(|(row, wave)| row[u] * wave).sum();
        (sum / f64::from(STEP)).round() as i32
    };
    zigzag().into_iter().map(coefficient).collect()
}

/// The scaled cosines, by frequency and place.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn waves() -> [[f64; 8]; 8] {
    core::array::from_fn(|n| {
        let scale = if n == 0 { 0.125f64.sqrt() } else { 0.5 };
        core::array::from_fn(|at| ((2 * at + 1) as f64 * n as f64 * PI / 16.0).cos() * scale)
    })
}

/// A picture cut into MCUs (A.2).
struct Grid<'s> {
    shape: &'s Shape,
    side: (usize, usize),
    /// The largest factors.
    most: (usize, usize),
    /// MCUs, across and down.
    mcus: (usize, usize),
}

impl<'s> Grid<'s> {
    fn new(side: (usize, usize), shape: &'s Shape) -> Self {
        let most = |of: fn(&(usize, usize)) -> usize| shape.factors.iter().map(of).max().unwrap_or(1);
        let most = (most(|f| f.0), most(|f| f.1));
        Self { shape, side, most, mcus: (side.0.div_ceil(8 * most.0), side.1.div_ceil(8 * most.1)) }
    }

    /// The coefficients of a component's blocks, in rows of whole MCUs.
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn plane(&self, component: usize, sample: impl Fn(usize, usize) -> f64) -> Vec<Vec<i32>> {
        let (h, v) = self.shape.factors[component];
        let (wide, tall) = (self.most.0 / h, self.most.1 / v);
        let across = self.mcus.0 * h;
        let waves = waves();
        let blocks = (0..across * self.mcus.1 * v).map(|n| {
            let (left, top) = (n % across * 8, n / across * 8);
            // Each sample is the mean of the pixels it stands for; the edges are repeated.
            let mut samples = [[0.0; 8]; 8];
            for (y, row) in samples.iter_mut().enumerate() {
                for (x, value) in row.iter_mut().enumerate() {
                    for n in 0..wide * tall {
                        let x = ((left + x) * wide + n % wide).min(self.side.0 - 1);
                        let y = ((top + y) * tall + n / wide).min(self.side.1 - 1);
                        *value += sample(x, y) / (wide * tall) as f64;
                    }
                }
            }
            block(&samples, &waves)
        });
        blocks.collect()
    }

    /// The blocks of each MCU of a scan: a component, and the place in its plane.
    fn scan(&self, components: &[usize]) -> Vec<Vec<(usize, usize)>> {
        let (columns, rows) = self.mcus;
        // A component on its own has no MCUs: its blocks come in rows, without those that only pad an MCU (A.2.3).
        if let &[component] = components {
            let (h, v) = self.shape.factors[component];
            let side = |side: usize, of: usize, most: usize| (side * of).div_ceil(most).div_ceil(8);
            let (across, down) = (side(self.side.0, h, self.most.0), side(self.side.1, v, self.most.1));
            return (0..across * down).map(|n| vec![(component, n / across * columns * h + n % across)]).collect();
        }
        let blocks = |mcu: usize| {
            let of = |&component: &usize| {
                let (h, v) = self.shape.factors[component];
                let place =
                    move |part: usize| (mcu / columns * v + part / h) * columns * h + mcu % columns * h + part % h;
                (0..h * v).map(move |part| (component, place(part)))
            };
            components.iter().flat_map(of).collect()
        };
        (0..columns * rows).map(blocks).collect()
    }
}

/// Writes the picture whose components `sample(component, x, y)` gives, 0 to 255.
pub(crate) fn encode(
    side: (usize, usize),
    shape: &Shape,
    tables: &Tables,
    sample: impl Fn(usize, usize, usize) -> f64,
) -> Vec<u8> {
    let mut file = vec![0xff, 0xd8];
    let segment = |file: &mut Vec<u8>, marker: u8, body: &[u8]| {
        file.extend(shape.fill.then_some(0xff));
        file.extend([0xff, marker]);
        file.extend((body.len() as u16 + 2).to_be_bytes());
        file.extend(body);
    };
    let mut quantization = vec![u8::from(shape.wide) << 4];
    for _ in 0..64 {
        quantization.extend(shape.wide.then_some(0));
        quantization.push(STEP);
    }
    segment(&mut file, 0xdb, &quantization);
    if shape.dht {
        segment(&mut file, 0xc4, &tables.0);
    }
    let (columns, lines) = ((side.0 as u16).to_be_bytes(), (side.1 as u16).to_be_bytes());
    let said = if shape.dnl { [0; 2] } else { lines };
    let mut frame = vec![8, said[0], said[1], columns[0], columns[1], shape.factors.len() as u8];
    for (&(h, v), &id) in shape.factors.iter().zip(&shape.ids) {
        frame.extend([id, (h << 4 | v) as u8, 0]);
    }
    let process = if shape.progressive { 0xc2 } else { 0xc0 + u8::from(shape.wide) };
    segment(&mut file, process, &frame);
    if shape.restart > 0 {
        segment(&mut file, 0xdd, &shape.restart.to_be_bytes());
    }

    let grid = Grid::new(side, shape);
    let all: Vec<usize> = (0..shape.factors.len()).collect();
    let planes: Vec<_> = all.iter().map(|&n| grid.plane(n, |x, y| sample(n, x, y))).collect();
    // The components of each scan and its coefficients.
    let mut scans = vec![(all.clone(), 0, if shape.progressive { 0 } else { 63 })];
    if shape.progressive {
        scans.extend(all.iter().map(|&component| (vec![component], 1, 63)));
    }
    for (n, (components, first, last)) in scans.into_iter().enumerate() {
        if n > 0 && shape.between {
            segment(&mut file, 0xe2, &[1, 2, 3, 4, 5, 6]);
            segment(&mut file, 0xfe, b"between scans");
        }
        let mut scan = vec![components.len() as u8];
        scan.extend(components.iter().flat_map(|&component| [shape.ids[component], 0]));
        scan.extend([first, last, 0]);
        segment(&mut file, 0xda, &scan);
        file.extend(entropy_coded(&grid.scan(&components), &planes, first..=last, shape, tables));
        if n == 0 && shape.dnl {
            segment(&mut file, 0xdc, &lines);
        }
    }
    file.extend(shape.fill.then_some(0xff));
    file.extend([0xff, 0xd9]);
    file
}

/// A scan's data (F.1.2): of each block the coefficients of `band`.
fn entropy_coded(
    mcus: &[Vec<(usize, usize)>],
    planes: &[Vec<Vec<i32>>],
    band: RangeInclusive<u8>,
    shape: &Shape,
    tables: &Tables,
) -> Vec<u8> {
    let (dc, ac) = (tables.codes(0), tables.codes(1));
    let mut bits = Bits { bytes: Vec::new(), word: 0, count: 0 };
    let mut predicted = vec![0; planes.len()];
    let restart = usize::from(shape.restart);
    for (mcu, blocks) in mcus.iter().enumerate() {
        if restart > 0 && mcu > 0 && mcu % restart == 0 {
            bits.flush();
            bits.bytes.extend(shape.fill.then_some(0xff));
            bits.bytes.extend([0xff, 0xd0 + ((mcu / restart - 1) % 8) as u8]);
            predicted.fill(0);
        }
        for &(component, at) in blocks {
            let coefficients = &planes[component][at];
            if *band.start() == 0 {
                bits.value(&dc, 0, coefficients[0] - predicted[component]);
                predicted[component] = coefficients[0];
            }
            let mut run = 0;
            for &value in coefficients.get(1..=usize::from(*band.end())).unwrap_or_default() {
                if value == 0 {
                    run += 1;
                    continue;
                }
                while run > 15 {
                    bits.put(ac[0xf0].0, ac[0xf0].1);
                    run -= 16;
                }
                bits.value(&ac, run, value);
                run = 0;
            }
            if run > 0 {
                bits.put(ac[0].0, ac[0].1);
            }
        }
    }
    bits.flush();
    bits.bytes
}
