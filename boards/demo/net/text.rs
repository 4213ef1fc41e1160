//! Text of a fixed size, and words of JSON in it.
//!
//! Guarantees: the memory is taken once. What does not fit is refused, and never cut. A string of JSON is well formed
//! whatever the text was (RFC 8259 7).

use alloc::string::String;
use core::fmt::{self, Display, Write};

/// Text of at most a fixed number of bytes.
pub struct Text {
    text: String,
    most: usize,
}

impl Text {
    /// Takes memory for so many bytes.
    pub fn new(most: usize) -> Self {
        Self { text: String::with_capacity(most), most }
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// Forgets the text, and keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.len() + text.len() > self.most {
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

/// Shows a value as a string of JSON.
pub struct Quoted<T>(pub T);

impl<T: Display> Display for Quoted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write!(Escaped(f), "{}", self.0)?;
        f.write_char('"')
    }
}

struct Escaped<'a, 'f>(&'a mut fmt::Formatter<'f>);

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '"' | '\\' => write!(self.0, "\\{letter}")?,
                // Nothing of a page: a name is text wherever it is put.
                '<' | '>' | '&' => write!(self.0, "\\u{:04x}", letter as u32)?,
                _ if letter.is_control() => write!(self.0, "\\u{:04x}", letter as u32)?,
                _ => self.0.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_string_of_json_is_well_formed() {
        assert_eq!(Quoted("camera@0").to_string(), "\"camera@0\"");
        assert_eq!(Quoted("a\"b\\c\n\u{7f}").to_string(), "\"a\\\"b\\\\c\\u000a\\u007f\"");
        assert_eq!(Quoted("<b>&").to_string(), "\"\\u003cb\\u003e\\u0026\"");
        assert_eq!(Quoted("\u{e9}").to_string(), "\"\u{e9}\"");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut text = Text::new(4);
        assert!(text.write_str("abc").is_ok());
        assert!(text.write_str("de").is_err());
        assert!(text.write_str("d").is_ok());
        assert_eq!(text.bytes(), b"abcd");
        text.clear();
        assert_eq!(text.bytes(), b"");
    }
}
