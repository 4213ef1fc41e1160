//! The screen's picture as a file that every viewer opens: a BMP of 24 bits a pixel.
//!
//! Guarantees: the file has a header of 54 bytes and then the rows from the bottom, as its oldest readers want them.
//! It is ours because it is forty lines; the crates found read BMP only, or need `std`.

use alloc::vec::Vec;

/// Bytes of the header.
pub const HEADER: usize = 54;

/// Returns the header of a picture whose width is a multiple of four.
pub fn header(width: u32, height: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let data = 3 * width * height;
    // The file's size, where its rows begin; the size of what follows, width and height; one plane of 24 bits; the size
    // of the rows; pixels a metre, 72 an inch.
    for (at, value) in [(2, HEADER as u32 + data), (10, HEADER as u32), (14, 40), (18, width), (22, height)] {
        put(at, value);
    }
    for (at, value) in [(26, 1 | 24 << 16), (34, data), (38, 2835), (42, 2835)] {
        put(at, value);
    }
    bytes[..2].copy_from_slice(b"BM");
    bytes
}

/// Returns a row of the file from the words `0x00RRGGBB`, little endian, that a display reads.
pub fn row(words: &[u8]) -> Vec<u8> {
    words.chunks_exact(4).flat_map(|word| [word[0], word[1], word[2]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_the_file_has() {
        let bytes = header(640, 480);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((&bytes[..2], word(2), word(10)), (&b"BM"[..], 54 + 640 * 480 * 3, 54));
        assert_eq!((word(14), word(18), word(22), word(26), word(30)), (40, 640, 480, 0x18_0001, 0));
    }

    #[test]
    fn a_row_has_blue_first_and_no_fourth_byte() {
        assert_eq!(row(&[3, 2, 1, 0, 6, 5, 4, 0]), [3, 2, 1, 6, 5, 4]);
    }
}
