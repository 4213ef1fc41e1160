//! The words of a line: sizes and numbers.
//!
//! Guarantees: a word that is no size or number is refused in one line, which names it and says what is needed.

use alloc::format;
use alloc::string::String;
use carveout_boot::bootargs::read_number;

/// Reads a size of 1 byte to 4 GiB less a byte, as boot arguments have it: `8M`, `64K`, `0x1000`.
pub(super) fn size(word: &str) -> Result<u32, String> {
    let why = match read_number(word, "number") {
        Ok((0, "")) => String::from("it is 0"),
        Ok((bytes, "")) => match u32::try_from(bytes) {
            Ok(bytes) => return Ok(bytes),
            Err(_) => String::from("it is 4 GiB or more"),
        },
        Ok((_, rest)) => format!("'{rest}' follows the number"),
        Err(problem) => format!("{problem}"),
    };
    Err(format!("'{word}' is no size: {why}; 8M and 64K are sizes"))
}

/// Reads a number from 1 to `most`. `what` names it.
pub(super) fn number(word: &str, what: &str, most: u32) -> Result<u32, String> {
    let number = word.parse().ok().filter(|number| (1..=most).contains(number) && !word.starts_with('+'));
    number.ok_or_else(|| format!("'{word}' is no {what}: a number from 1 to {most} is needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_boot_arguments() {
        assert_eq!(["8M", "64k", "4096", "0x1000", "3G"].map(size), [8 << 20, 64 << 10, 4096, 4096, 3 << 30].map(Ok));
        for (word, why) in [
            ("", "the number is missing"),
            ("M", "the number is missing"),
            ("0", "it is 0"),
            ("-1", "the number is missing"),
            ("8Q", "'Q' follows the number"),
            ("8MB", "'B' follows the number"),
            ("4G", "it is 4 GiB or more"),
            ("99999999999999999999", "a number is too large"),
            ("20000000000G", "a number is too large"),
        ] {
            let said = format!("'{word}' is no size: {why}; 8M and 64K are sizes");
            assert_eq!(size(word), Err(said));
        }
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!([number("1", "step", 9), number("9", "step", 9)], [Ok(1), Ok(9)]);
        for word in ["0", "10", "-1", "+1", "1.5", "x", "", "99999999999"] {
            assert_eq!(number(word, "step", 9), Err(format!("'{word}' is no step: a number from 1 to 9 is needed")));
        }
    }
}
