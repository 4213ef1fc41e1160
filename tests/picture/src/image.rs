//! Pictures in memory, three bytes a pixel, and the two file formats.

use jpeg_decoder::PixelFormat;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

/// A picture: rows from the top, pixels from the left, red, green, blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgb: Vec<u8>,
}

impl Image {
    pub(crate) fn black(width: usize, height: usize) -> Self {
        Self { width, height, rgb: vec![0; width * height * 3] }
    }

    pub(crate) fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        let at = (y * self.width + x) * 3;
        [self.rgb[at], self.rgb[at + 1], self.rgb[at + 2]]
    }

    pub(crate) fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        let at = (y * self.width + x) * 3;
        self.rgb[at..at + 3].copy_from_slice(&colour);
    }

    /// Luminance only, in all three channels (JFIF: ITU-R BT.601).
    pub(crate) fn to_grey(&self) -> Self {
        let luma = |p: &[u8]| (299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]) + 500) / 1000;
        Self { rgb: self.rgb.chunks_exact(3).flat_map(|p| [luma(p) as u8; 3]).collect(), ..*self }
    }

    /// From what a display controller reads: words `0x00RRGGBB`, little endian, rows without padding.
    pub(crate) fn from_frame(bytes: &[u8], width: usize, height: usize) -> Result<Self, String> {
        if bytes.len() != width * height * 4 {
            return Err(format!("{} bytes, not {width} x {height} words", bytes.len()));
        }
        Ok(Self { width, height, rgb: bytes.chunks_exact(4).flat_map(|p| [p[2], p[1], p[0]]).collect() })
    }

    /// From a BMP file of 24 bits a pixel, whose rows come from the bottom.
    pub(crate) fn from_bmp(bytes: &[u8]) -> Result<Self, String> {
        let word = |at: usize| match bytes.get(at..at + 4) {
            Some(word) => Ok(u32::from_le_bytes(word.try_into().expect("four bytes")) as usize),
            None => Err(format!("{} bytes: no whole header", bytes.len())),
        };
        let (size, start, width, height) = (word(2)?, word(10)?, word(18)?, word(22)?);
        let form = (&bytes[..2], word(14)?, word(26)?, word(30)?);
        if form != (b"BM", 40, 1 | 24 << 16, 0) {
            return Err(format!("not a BMP of 24 bits a pixel: {form:?}"));
        }
        // Rows are padded to words.
        let row = (width * 3).next_multiple_of(4);
        if size != bytes.len() || row.checked_mul(height).is_none_or(|rows| start.checked_add(rows) != Some(size)) {
            return Err(format!("{} bytes, not {start} and {height} rows of {row}", bytes.len()));
        }
        let rows = bytes[start..].chunks_exact(row).rev();
        let rgb = rows.flat_map(|row| row[..width * 3].chunks_exact(3).flat_map(|p| [p[2], p[1], p[0]])).collect();
        Ok(Self { width, height, rgb })
    }

    pub(crate) fn to_png(&self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
        writer.write_image_data(&self.rgb).map_err(|e| e.to_string())?;
        writer.finish().map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    pub(crate) fn from_png(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().map_err(|e| e.to_string())?;
        let mut rgb = vec![0; reader.output_buffer_size().ok_or("too large")?];
        let info = reader.next_frame(&mut rgb).map_err(|e| e.to_string())?;
        if (info.color_type, info.bit_depth) != (png::ColorType::Rgb, png::BitDepth::Eight) {
            return Err(format!("{:?} of {:?} bits, not RGB of eight", info.color_type, info.bit_depth));
        }
        Ok(Self { width: info.width as usize, height: info.height as usize, rgb })
    }
}

/// How a JPEG stores colour: not at all, or with the chroma at full, half or quarter resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Grey,
    Chroma444,
    Chroma422,
    Chroma440,
    Chroma420,
}

impl Mode {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "grey" => Some(Self::Grey),
            "444" => Some(Self::Chroma444),
            "422" => Some(Self::Chroma422),
            "440" => Some(Self::Chroma440),
            "420" => Some(Self::Chroma420),
            _ => None,
        }
    }
}

/// What kind of JPEG to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding {
    pub(crate) mode: Mode,
    pub(crate) progressive: bool,
    pub(crate) quality: u8,
}

impl Encoding {
    pub(crate) fn encode(self, image: &Image) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, self.quality);
        encoder.set_progressive(self.progressive);
        encoder.set_sampling_factor(match self.mode {
            Mode::Grey | Mode::Chroma444 => SamplingFactor::F_1_1,
            Mode::Chroma422 => SamplingFactor::F_2_1,
            Mode::Chroma440 => SamplingFactor::F_1_2,
            Mode::Chroma420 => SamplingFactor::F_2_2,
        });
        let luma: Vec<u8>;
        let (samples, colour) = if self.mode == Mode::Grey {
            luma = image.to_grey().rgb.into_iter().step_by(3).collect();
            (&luma, ColorType::Luma)
        } else {
            (&image.rgb, ColorType::Rgb)
        };
        let too_large = || format!("a JPEG is at most 65535 wide and high, not {}x{}", image.width, image.height);
        let width = u16::try_from(image.width).map_err(|_| too_large())?;
        let height = u16::try_from(image.height).map_err(|_| too_large())?;
        encoder.encode(samples, width, height, colour).map_err(|e| e.to_string())?;
        Ok(bytes)
    }
}

/// The picture in a JPEG, greyscale spread over the three channels; EXIF's orientation is not looked at.
pub(crate) fn decode_jpeg(bytes: &[u8]) -> Result<Image, String> {
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    let samples = decoder.decode().map_err(|e| e.to_string())?;
    let info = decoder.info().ok_or("no frame header")?;
    let rgb = match info.pixel_format {
        PixelFormat::RGB24 => samples,
        PixelFormat::L8 => samples.into_iter().flat_map(|luma| [luma; 3]).collect(),
        other => return Err(format!("pixel format {other:?}")),
    };
    Ok(Image { width: info.width.into(), height: info.height.into(), rgb })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn png_keeps_every_byte() {
        let mut image = Image::black(3, 2);
        for (i, byte) in image.rgb.iter_mut().enumerate() {
            *byte = (i * 14) as u8;
        }
        assert_eq!(Image::from_png(&image.to_png().unwrap()).unwrap(), image);
        assert!(Image::from_png(b"not a PNG").is_err());
    }

    #[test]
    fn a_frame_has_blue_first() {
        let image = Image::from_frame(&[3, 2, 1, 0, 6, 5, 4, 0], 2, 1).unwrap();
        assert_eq!(image, Image { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6] });
        assert_eq!(Image::from_frame(&[0; 7], 2, 1).unwrap_err(), "7 bytes, not 2 x 1 words");
    }

    #[test]
    fn a_bmp_has_its_last_row_first() {
        let mut bytes = vec![0; 54];
        bytes[..2].copy_from_slice(b"BM");
        for (at, value) in [(2, 70), (10, 54), (14, 40), (18, 2), (22, 2), (26, 0x18_0001)] {
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
        }
        // Two pixels a row, and two bytes of padding.
        bytes.extend([9, 8, 7, 12, 11, 10, 0, 0, 3, 2, 1, 6, 5, 4, 0, 0]);
        let image = Image::from_bmp(&bytes).unwrap();
        assert_eq!(image, Image { width: 2, height: 2, rgb: (1..=12).collect() });
        bytes.pop();
        assert_eq!(Image::from_bmp(&bytes).unwrap_err(), "69 bytes, not 54 and 2 rows of 8");
        assert!(Image::from_bmp(&bytes[..20]).is_err());
        bytes[28] = 32;
        assert!(Image::from_bmp(&bytes).unwrap_err().starts_with("not a BMP of 24 bits a pixel"));
    }

    #[test]
    fn luminance_is_that_of_jfif() {
        let image = Image { width: 3, height: 1, rgb: vec![255, 0, 0, 0, 255, 0, 0, 0, 255] };
        assert_eq!(image.to_grey().rgb, [76, 76, 76, 150, 150, 150, 29, 29, 29]);
    }
}
