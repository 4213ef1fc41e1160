//! Names of devices, borrowers and carve-outs, as reports show them.
//!
//! Guarantees: a [`Name`] is a copy of its own, of at most [`MAX`](Name::MAX) bytes. So it outlives the text that it
//! was made of, and takes no heap.

use arrayvec::ArrayString;
use core::fmt;
use core::ops::Deref;

/// A short name. It is for reports alone: nothing is found by it.
///
/// ```
/// use carveout::name::Name;
///
/// let n = 3;
/// let name = Name::new(&format!("camera {n}"));
/// assert_eq!(name, "camera 3");
/// assert_eq!(Name::new("a name of more than thirty-one bytes"), "a name of more than thirty-one ");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name(ArrayString<{ Name::MAX }>);

impl Name {
    /// The most bytes of a name: as many as a device tree permits for a node's (Devicetree Specification 2.2.1).
    pub const MAX: usize = 31;

    /// Makes a name of as many letters of `text`, from the first on, as fit into [`MAX`](Self::MAX) bytes.
    pub fn new(text: &str) -> Self {
        let mut name = ArrayString::new();
        for letter in text.chars() {
            if name.try_push(letter).is_err() {
                break;
            }
        }
        Self(name)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn a_name_is_cut_between_letters() {
        let long = "ä".repeat(20);
        assert_eq!(Name::new(&long), &*"ä".repeat(15), "30 bytes; the next letter has two");
        assert_eq!(Name::new(&"x".repeat(31)).len(), 31);
        assert_eq!(format!("{:<6}|{:?}", Name::new("dsp"), Name::new("a\"b")), "dsp   |\"a\\\"b\"");
    }
}
