//! A range of bytes, as a device tree or a command line names it.

use carveout::addr::Bytes;
use core::fmt;

/// The bytes `[base, base + size)`, as a node or an argument names them. They need not be whole frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// First byte.
    pub base: u64,
    /// Number of bytes.
    pub size: u64,
}

impl ByteRange {
    /// Returns whether a byte of it lies at 4 GiB or above.
    pub(crate) const fn past_four_gib(self) -> bool {
        self.base.saturating_add(self.size) > 1 << 32
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = u128::from(self.base) + u128::from(self.size);
        write!(f, "{:#010x}-{end:#010x} ({})", self.base, Bytes(self.size))
    }
}
