//! What a core says of its caches, decoded.
//!
//! Guarantees: nothing is assumed of a core that it does not say itself: which levels there are is CLIDR's word, their
//! shape CCSIDR's, and the smallest line of them CTR's.

use crate::addr::Bytes;
use core::fmt;

/// Bytes of the smallest line of any data or unified cache of the core: CTR.DminLine (ARM ARM B4.1.42). Maintenance by
/// address goes by this step, and so misses no line of any level.
pub const fn data_line(ctr: u32) -> u32 {
    4 << ((ctr >> 16) & 0xf)
}

/// The levels that hold data, from 1 on, up to the level of coherency (CLIDR, ARM ARM B4.1.20): those of which a line
/// may differ from what a bus master sees.
pub fn data_levels(clidr: u32) -> impl Iterator<Item = u32> {
    let coherency = (clidr >> 24) & 7;
    // 2: data; 3: data and instructions, apart; 4: unified.
    (1..=coherency).filter(move |level| (2..=4).contains(&((clidr >> (3 * (level - 1))) & 7)))
}

/// The shape of one cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Which level, from 1 on.
    pub level: u32,
    /// Sets.
    pub sets: u32,
    /// Lines in each.
    pub ways: u32,
    /// Bytes in each of those.
    pub line: u32,
}

impl Geometry {
    /// As CCSIDR has it while CSSELR selects the level's data or unified cache (ARM ARM B4.1.19).
    pub const fn of(level: u32, ccsidr: u32) -> Self {
        let (sets, ways) = ((ccsidr >> 13) & 0x7fff, (ccsidr >> 3) & 0x3ff);
        Self { level, sets: sets + 1, ways: ways + 1, line: 16 << (ccsidr & 7) }
    }

    /// Bytes in all.
    pub const fn bytes(&self) -> u32 {
        self.sets * self.ways * self.line
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{} {}, {} ways, lines of {} bytes", self.level, Bytes(self.bytes().into()), self.ways, self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec::Vec;

    fn levels(clidr: u32) -> Vec<u32> {
        data_levels(clidr).collect()
    }

    /// The registers' values are those of the manuals' tables: DDI 0344K 3.2.3, 3.2.21, 3.2.23.
    #[test]
    fn a_cortex_a8_has_two_levels_of_64_byte_lines() {
        assert_eq!(data_line(0x8204_8004), 64);
        assert_eq!(levels(0x0a00_0023), [1, 2], "LoC 2, a unified second level");
        // A core built without a second level, which is what QEMU 7.2 plays, still has an LoC of 2.
        assert_eq!(levels(0x0a00_0003), [1]);
        for (ccsidr, shape) in [
            (0xe007_e01a, "L1 16 KiB, 4 ways, lines of 64 bytes"),
            (0xe00f_e01a, "L1 32 KiB, 4 ways, lines of 64 bytes"),
        ] {
            assert_eq!(Geometry::of(1, ccsidr).to_string(), shape);
        }
        for (ccsidr, shape) in [
            (0xf01f_e03a, "L2 128 KiB, 8 ways, lines of 64 bytes"),
            (0xf03f_e03a, "L2 256 KiB, 8 ways, lines of 64 bytes"),
            (0xf07f_e03a, "L2 512 KiB, 8 ways, lines of 64 bytes"),
            (0xf0ff_e03a, "L2 1 MiB, 8 ways, lines of 64 bytes"),
        ] {
            assert_eq!(Geometry::of(2, ccsidr).to_string(), shape);
        }
    }

    /// DDI 0388I 4.3.5, 4.3.6: the outer cache is none of the core's.
    #[test]
    fn a_cortex_a9_has_one_level_of_32_byte_lines() {
        assert_eq!(data_line(0x8333_8003), 32);
        assert_eq!(levels(0x0920_0003), [1]);
        for (ccsidr, bytes) in [(0x700f_e019, 16 << 10), (0x701f_e019, 32 << 10), (0x703f_e019, 64 << 10)] {
            let geometry = Geometry::of(1, ccsidr);
            assert_eq!((geometry.bytes(), geometry.ways, geometry.line), (bytes, 4, 32));
        }
    }

    #[test]
    fn what_holds_no_data_or_lies_past_coherency_is_left_out() {
        assert_eq!(levels(0), Vec::<u32>::new());
        assert_eq!(levels(0x0100_0001), Vec::<u32>::new(), "instructions alone");
        assert_eq!(levels(0x0100_0023), [1], "the second level is coherent with bus masters");
        assert_eq!(levels(0x0700_0000 | 0o4_444_432), [1, 2, 3, 4, 5, 6, 7]);
    }
}
