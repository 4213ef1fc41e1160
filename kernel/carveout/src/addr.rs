//! Addresses and frames, one newtype for each address space.
//!
//! Guarantees: a [`PhysAddr`] becomes a [`VirtAddr`] or a [`BusAddr`] only by a function whose name says so. A
//! [`FrameRange`] is half-open, ordered and inside the 32-bit physical space of ARMv7-A without LPAE (ARM ARM B3.5,
//! short descriptors). So arithmetic on it cannot overflow.

use core::fmt;

/// Bytes in a frame, the smallest unit that the short-descriptor format maps (a small page).
pub const FRAME_SIZE: u32 = 4096;
/// The binary logarithm of [`FRAME_SIZE`].
pub const FRAME_SHIFT: u32 = 12;
/// Bytes that a section descriptor maps.
pub const SECTION_SIZE: u32 = 1 << 20;
/// The number after the last frame's: there are 4 GiB of frames.
const FRAMES: u32 = 1 << (32 - FRAME_SHIFT);

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u32);

        impl $name {
            /// Makes the address of this number.
            pub const fn new(raw: u32) -> Self {
                Self(raw)
            }

            /// Returns the number that a register or a descriptor takes.
            pub const fn raw(self) -> u32 {
                self.0
            }

            /// Returns the address `bytes` further on, or `None` past the end of the space.
            pub const fn checked_add(self, bytes: u32) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }

            /// Returns whether the address is a multiple of `align`, a power of two in bytes.
            pub const fn is_aligned(self, align: u32) -> bool {
                self.0 & (align - 1) == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#010x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#010x})"), self.0)
            }
        }
    };
}

address! {
    /// A physical address, as descriptors and outer cache controllers use it.
    PhysAddr
}
address! {
    /// A virtual address, as the CPU and its maintenance operations by MVA use it.
    VirtAddr
}
address! {
    /// An address as a bus master sees it. Only such a number may be programmed into a device.
    BusAddr
}

/// A physical frame of [`FRAME_SIZE`] bytes, by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Frame(u32);

impl Frame {
    /// Returns the frame that holds `addr`.
    pub const fn containing(addr: PhysAddr) -> Self {
        Self(addr.0 >> FRAME_SHIFT)
    }

    /// Returns the frame of this number, or `None` past 4 GiB.
    pub const fn from_number(number: u32) -> Option<Self> {
        if number < FRAMES { Some(Self(number)) } else { None }
    }

    /// Returns the frame's number: its address in units of [`FRAME_SIZE`].
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Returns the address of the frame's first byte.
    pub const fn base(self) -> PhysAddr {
        PhysAddr(self.0 << FRAME_SHIFT)
    }
}

/// A half-open run of frames `[start, end)`. A run may be empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameRange {
    start: u32,
    end: u32,
}

impl FrameRange {
    /// The run of no frames.
    pub const EMPTY: Self = Self { start: 0, end: 0 };
    /// The run of all frames that a short descriptor can name.
    pub const ALL: Self = Self { start: 0, end: FRAMES };

    /// Makes the run of `count` frames from number `start` on. Returns `None` if it ends past 4 GiB.
    pub const fn new(start: u32, count: u32) -> Option<Self> {
        match start.checked_add(count) {
            Some(end) if end <= FRAMES => Some(Self { start, end }),
            _ => None,
        }
    }

    /// Makes the run of the frames `[start, end)`, by number. Returns `None` if they are out of order or end past 4
    /// GiB.
    pub const fn between(start: u32, end: u32) -> Option<Self> {
        if start <= end && end <= FRAMES { Some(Self { start, end }) } else { None }
    }

    /// Returns the frames that lie wholly within `size` bytes from `base`, as memory is rounded: inward. The part past
    /// 4 GiB is cut off.
    pub const fn within(base: u64, size: u64) -> Self {
        let end = min(base.saturating_add(size), 1 << 32) >> FRAME_SHIFT;
        let start = base.saturating_add(FRAME_SIZE as u64 - 1) >> FRAME_SHIFT;
        if start < end { Self { start: start as u32, end: end as u32 } } else { Self::EMPTY }
    }

    /// Returns the frames that `size` bytes from `base` touch, as reservations are rounded: outward. The part past 4
    /// GiB is cut off.
    pub const fn covering(base: u64, size: u64) -> Self {
        let end = min(base.saturating_add(size), 1 << 32).saturating_add(FRAME_SIZE as u64 - 1) >> FRAME_SHIFT;
        let start = base >> FRAME_SHIFT;
        if size > 0 && start < end { Self { start: start as u32, end: end as u32 } } else { Self::EMPTY }
    }

    /// Returns the number of the first frame.
    pub const fn start(self) -> u32 {
        self.start
    }

    /// Returns the number of the frame after the last. It is `0x10_0000` at most, which no [`Frame`] has.
    pub const fn end(self) -> u32 {
        self.end
    }

    /// Returns the number of frames in the run.
    pub const fn count(self) -> u32 {
        self.end - self.start
    }

    /// Returns the number of bytes in the run.
    pub const fn bytes(self) -> u64 {
        (self.count() as u64) << FRAME_SHIFT
    }

    /// Returns the address of the first byte.
    pub const fn base(self) -> PhysAddr {
        PhysAddr(self.start << FRAME_SHIFT)
    }

    /// Returns the address of the last byte, or `None` of an empty run.
    pub const fn last_byte(self) -> Option<PhysAddr> {
        if self.is_empty() { None } else { Some(PhysAddr(((self.end - 1) << FRAME_SHIFT) | (FRAME_SIZE - 1))) }
    }

    /// Returns whether the run holds no frame.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Returns whether `frame` is in the run.
    pub const fn contains(self, frame: Frame) -> bool {
        self.start <= frame.0 && frame.0 < self.end
    }

    /// Returns whether all of `other` is in the run. An empty `other` always is.
    pub const fn covers(self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Returns whether the two runs have a frame in common.
    pub const fn overlaps(self, other: Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// Returns the frames that are in both runs.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        let start = if self.start > other.start { self.start } else { other.start };
        let end = if self.end < other.end { self.end } else { other.end };
        if start < end { Self { start, end } } else { Self::EMPTY }
    }

    /// Splits off the first `count` frames. Returns `None` if there are fewer.
    pub const fn split_at(self, count: u32) -> Option<(Self, Self)> {
        if count > self.count() {
            return None;
        }
        let middle = self.start + count;
        Some((Self { start: self.start, end: middle }, Self { start: middle, end: self.end }))
    }

    /// Returns `count` of the frames, from frame `first` of them on, or `None` if there are fewer.
    pub const fn part(self, first: u32, count: u32) -> Option<Self> {
        let Some((_, rest)) = self.split_at(first) else { return None };
        match rest.split_at(count) {
            Some((part, _)) => Some(part),
            None => None,
        }
    }

    /// Yields the frames, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Frame> {
        (self.start..self.end).map(Frame)
    }
}

const fn min(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

impl fmt::Display for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = u64::from(self.start) << FRAME_SHIFT;
        let end = u64::from(self.end) << FRAME_SHIFT;
        write!(f, "{start:#010x}-{end:#010x} ({})", Bytes(self.bytes()))
    }
}

impl fmt::Debug for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameRange({self})")
    }
}

/// A number of bytes, shown in the largest binary unit that divides it. Past 2^32 of that unit the number is
/// hexadecimal: its decimal digits would take a division of 64 bits, which a kernel may have no other use for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            n if n != 0 && n % (1 << 30) == 0 => (n >> 30, "GiB"),
            n if n != 0 && n % (1 << 20) == 0 => (n >> 20, "MiB"),
            n if n != 0 && n % (1 << 10) == 0 => (n >> 10, "KiB"),
            n => (n, "B"),
        };
        match u32::try_from(value) {
            Ok(value) => write!(f, "{value} {unit}"),
            Err(_) => write!(f, "{value:#x} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_rounds_inward_and_reservations_outward() {
        let within = FrameRange::within(0x6000_0001, 0x2fff);
        let covering = FrameRange::covering(0x6000_0001, 0x2fff);
        assert_eq!((within.start(), within.end()), (0x60001, 0x60003));
        assert_eq!((covering.start(), covering.end()), (0x60000, 0x60003));
        assert!(FrameRange::within(0x6000_0001, 0xffe).is_empty());
        assert!(FrameRange::covering(0x6000_0001, 0).is_empty());
    }

    #[test]
    fn ranges_stop_at_four_gib() {
        assert_eq!(FrameRange::within(0xffff_f000, u64::MAX).last_byte(), Some(PhysAddr::new(0xffff_ffff)));
        assert!(FrameRange::covering(1 << 32, 4096).is_empty());
        assert_eq!(FrameRange::new(0xf_ffff, 2), None);
        assert_eq!(FrameRange::new(u32::MAX, 2), None);
    }

    #[test]
    fn display_is_half_open_with_size() {
        let shown = std::format!("{}", FrameRange::covering(0x6000_0000, 64 << 20));
        assert_eq!(shown, "0x60000000-0x64000000 (64 MiB)");
        let top = std::format!("{}", FrameRange::covering(0xffff_f000, 4096));
        assert_eq!(top, "0xfffff000-0x100000000 (4 KiB)");
    }
}
