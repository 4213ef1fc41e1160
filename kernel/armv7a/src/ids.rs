//! What a core says of itself, decoded: which one it is, and what caches it has.
//!
//! Guarantees: nothing is assumed of a core's caches that the core does not say itself. CLIDR says which levels there
//! are, CCSIDR their shape, and CTR the smallest line of them. No register says how a core joins coherency: [`CORES`]
//! lists the cores for which that is known.

use carveout::addr::Bytes;
use core::fmt;

/// The bits of MIDR that name the core: implementer, architecture and part, whatever the revision (ARM ARM B4.1.105).
pub const CORE_MASK: u32 = 0xff0f_fff0;

/// ACTLR.SMP: the core takes part in coherency. It is one bit on all cores of [`CORES`] that have it.
pub const ACTLR_SMP: u32 = 1 << 6;
/// ACTLR.FW of Cortex-A5 and Cortex-A9: maintenance reaches the other cores. Later cores have no such switch.
pub(super) const ACTLR_FW: u32 = 1 << 0;
/// ACTLR.EXCL of Cortex-A5 and Cortex-A9: a clean line that leaves the core goes into the PL310. So a line could turn
/// up in the outer cache after that was invalidated. The order of
/// [`protocol::invalidate`](carveout::protocol::invalidate) is wrong for such a core.
pub const ACTLR_EXCL: u32 = 1 << 7;
/// ACTLR's "write full line of zeros" of Cortex-A9. It is right only while the PL310 has this switch on too.
const ACTLR_ZEROS: u32 = 1 << 3;

/// A core that the head knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Core {
    /// MIDR under [`CORE_MASK`].
    pub midr: u32,
    /// The core's name.
    pub name: &'static str,
    /// Bits of ACTLR that the head sets before the caches are on.
    pub set: u32,
    /// Bits of ACTLR that the head clears. A boot loader may have set them.
    pub clear: u32,
}

/// All cores that the head knows. ARM's reference manuals say what the bits of ACTLR are: they differ from core to
/// core.
pub const CORES: [Core; 7] = [
    Core { midr: 0x410f_c050, name: "Cortex-A5", set: ACTLR_SMP | ACTLR_FW, clear: ACTLR_EXCL },
    Core { midr: 0x410f_c070, name: "Cortex-A7", set: ACTLR_SMP, clear: 0 },
    Core { midr: 0x410f_c080, name: "Cortex-A8", set: 0, clear: 0 },
    Core { midr: 0x410f_c090, name: "Cortex-A9", set: ACTLR_SMP | ACTLR_FW, clear: ACTLR_EXCL | ACTLR_ZEROS },
    Core { midr: 0x410f_c0d0, name: "Cortex-A12", set: ACTLR_SMP, clear: 0 },
    Core { midr: 0x410f_c0e0, name: "Cortex-A17", set: ACTLR_SMP, clear: 0 },
    Core { midr: 0x410f_c0f0, name: "Cortex-A15", set: ACTLR_SMP, clear: 0 },
];

/// The table as the head reads it: for each core its MIDR, the bits to set and the bits to clear. A MIDR of 0 ends the
/// table.
pub const CORE_TABLE: [[u32; 3]; CORES.len() + 1] = {
    let mut table = [[0; 3]; CORES.len() + 1];
    let mut n = 0;
    while n < CORES.len() {
        table[n] = [CORES[n].midr, CORES[n].set, CORES[n].clear];
        n += 1;
    }
    table
};

/// Returns the core with this MIDR, or `None` if the head does not know it.
pub fn core(midr: u32) -> Option<&'static Core> {
    CORES.iter().find(|core| core.midr == midr & CORE_MASK)
}

/// Returns the revision in a MIDR as `variant << 4 | revision`: r3p0 is 0x30.
pub const fn revision(midr: u32) -> u32 {
    (midr >> 20 & 0xf) << 4 | midr & 0xf
}

/// Returns the bytes of the smallest line of any data or unified cache of the core: CTR.DminLine (ARM ARM B4.1.42).
/// Maintenance by address that goes by this step misses no line of any level.
pub const fn data_line(ctr: u32) -> u32 {
    4 << ((ctr >> 16) & 0xf)
}

/// Yields the levels that hold data, from 1 on, up to the level of coherency (CLIDR, ARM ARM B4.1.20). A line of such a
/// level may differ from what a bus master sees.
pub fn data_levels(clidr: u32) -> impl Iterator<Item = u32> {
    let coherency = (clidr >> 24) & 7;
    // 2: data; 3: data and instructions, apart; 4: unified.
    (1..=coherency).filter(move |level| (2..=4).contains(&((clidr >> (3 * (level - 1))) & 7)))
}

/// Returns whether [`data_levels`] names every level up to the level of coherency.
pub fn names_all_levels(clidr: u32) -> bool {
    data_levels(clidr).count() == (clidr >> 24 & 7) as usize
}

/// The shape of one cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// The level, from 1 on.
    pub level: u32,
    /// The number of sets.
    pub sets: u32,
    /// The number of lines in a set.
    pub ways: u32,
    /// The bytes of a line.
    pub line: u32,
}

impl Geometry {
    /// Decodes CCSIDR, read while CSSELR selected the data or unified cache of `level` (ARM ARM B4.1.19).
    pub const fn of(level: u32, ccsidr: u32) -> Self {
        let (sets, ways) = ((ccsidr >> 13) & 0x7fff, (ccsidr >> 3) & 0x3ff);
        Self { level, sets: sets + 1, ways: ways + 1, line: 16 << (ccsidr & 7) }
    }

    /// Returns the number of the cache's lines.
    pub const fn lines(&self) -> u32 {
        self.sets * self.ways
    }

    /// Returns the bits that name a way in operations by set and way: the topmost (ARM ARM B4.2.1). The set stands
    /// above the line's bits.
    pub const fn way_bits(&self, way: u32) -> u32 {
        // With one way there are no such bits.
        if self.ways == 1 { 0 } else { way << (self.ways - 1).leading_zeros() }
    }

    /// Returns the cache's size in bytes.
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

    /// The auxiliary control registers of DDI 0433 4.3.10, DDI 0464 4.3.31, DDI 0388 4.3.10 and DDI 0438 4.3.28.
    #[test]
    fn a_core_is_known_by_maker_and_part() {
        for (midr, name, set, clear) in [
            (0x410f_c051, "Cortex-A5", 0x41, 0x80),
            (0x410f_c075, "Cortex-A7", 0x40, 0),
            (0x413f_c082, "Cortex-A8", 0, 0),
            (0x412f_c09a, "Cortex-A9", 0x41, 0x88),
            (0x410f_c0d1, "Cortex-A12", 0x40, 0),
            (0x411f_c0e1, "Cortex-A17", 0x40, 0),
            (0x412f_c0f1, "Cortex-A15", 0x40, 0),
        ] {
            let core = core(midr).expect(name);
            assert_eq!((core.name, core.set, core.clear), (name, set, clear));
        }
        // Another maker's part of the same number, Marvell's PJ4B, Qualcomm's Krait, a Cortex-A53.
        for midr in [0x420f_c090, 0x562f_5842, 0x512f_06f0, 0x410f_d034, 0] {
            assert_eq!(core(midr), None, "{midr:#x}");
        }
    }

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

    /// ARM ARM B4.2.1: the way stands in the topmost bits, as many as it needs.
    #[test]
    fn a_way_is_named_by_the_topmost_bits() {
        let (a9, a8) = (Geometry::of(1, 0x701f_e019), Geometry::of(2, 0xf03f_e03a));
        assert_eq!([0, 1, 3].map(|way| a9.way_bits(way)), [0, 0x4000_0000, 0xc000_0000]);
        assert_eq!([1, 7].map(|way| a8.way_bits(way)), [0x2000_0000, 0xe000_0000]);
        assert_eq!((a9.lines(), a8.lines()), (1024, 4096));
        // Three ways need two bits, and one way none.
        let of_ways = |ways| Geometry { level: 1, sets: 64, ways, line: 64 };
        assert_eq!((of_ways(3).way_bits(2), of_ways(1).way_bits(0)), (0x8000_0000, 0));
    }

    /// A Cortex-A9, a Cortex-A15, and the Cortex-A8 of an emulator: its second level is before the point of coherency,
    /// and has no name.
    #[test]
    fn a_level_without_a_name_is_seen() {
        assert!(names_all_levels(0x0920_0003) && names_all_levels(0x0a20_0023));
        assert!(!names_all_levels(0x0a00_0003));
    }

    #[test]
    fn what_holds_no_data_or_lies_past_coherency_is_left_out() {
        assert_eq!(levels(0), Vec::<u32>::new());
        assert_eq!(levels(0x0100_0001), Vec::<u32>::new(), "instructions alone");
        assert_eq!(levels(0x0100_0023), [1], "the second level is coherent with bus masters");
        assert_eq!(levels(0x0700_0000 | 0o4_444_432), [1, 2, 3, 4, 5, 6, 7]);
    }
}
