//! Errata that a bit of a register works around, by revision. The table in `armv7a` says what is done about all others.
//!
//! Guarantees: the head sets what [`diagnostic`] says, by this table, on every Cortex-A9 before its caches are on. It
//! does so in the secure world, which alone may write the register. A core gets the bits of the errata it has and no
//! others, for each costs speed. A PL310 is turned on with what [`outer_prefetch`] says, or it is refused.

use super::ids;

/// An erratum's number, its bits, and the first and the last revision that has it, `variant << 4 | revision`.
struct Erratum {
    #[cfg_attr(not(test), expect(dead_code, reason = "by what a reader finds it"))]
    number: u32,
    bits: u32,
    first: u32,
    last: u32,
}

/// ARM's notices UAN 0004 and UAN 0009, as far as they concern what this crate does: several cores write whole lines,
/// order their writes by DMB, and invalidate each other's TLBs, in interrupt handlers too.
const CORTEX_A9: [Erratum; 6] = [
    // A DMB between two writes may be too weak. The bit makes it a DSB.
    Erratum { number: 742_230, bits: 1 << 4, first: 0x10, last: 0x22 },
    // Data is corrupted if two cores access a line that one of them replaces.
    Erratum { number: 742_231, bits: 1 << 12 | 1 << 22, first: 0x20, last: 0x22 },
    // Merging of stores corrupts data.
    Erratum { number: 743_622, bits: 1 << 6, first: 0x20, last: 0x2f },
    // A broadcast operation is lost in a handler that interrupted an ICIALLUIS, which an embedding kernel may use.
    Erratum { number: 751_472, bits: 1 << 11, first: 0x00, last: 0x2f },
    // The cores deadlock if two of them write whole lines and a third looks at these.
    Erratum { number: 761_320, bits: 1 << 21, first: 0x00, last: 0x3f },
    // A dirty line is lost if another core asks for it while whole lines are written.
    Erratum { number: 845_369, bits: 1 << 22, first: 0x00, last: 0xff },
];

/// The table as the head reads it: for each erratum its bits, its first and its last revision. Bits of 0 end the table.
pub const TABLE: [[u32; 3]; CORTEX_A9.len() + 1] = {
    let mut table = [[0; 3]; CORTEX_A9.len() + 1];
    let mut n = 0;
    while n < CORTEX_A9.len() {
        table[n] = [CORTEX_A9[n].bits, CORTEX_A9[n].first, CORTEX_A9[n].last];
        n += 1;
    }
    table
};

/// MIDR of a Cortex-A9, without its revision.
const CORTEX_A9_MIDR: u32 = 0x410f_c090;
/// MIDR of a Cortex-A15, without its revision.
const CORTEX_A15_MIDR: u32 = 0x410f_c0f0;

/// Returns whether a core with this MIDR has erratum 798181 (Cortex-A15 r0p0 to r3p2): other cores may still use a
/// translation when a broadcast TLB invalidate and its DSB have ended.
pub fn loses_tlb_invalidates(midr: u32) -> bool {
    midr & ids::CORE_MASK == CORTEX_A15_MIDR && ids::revision(midr) <= 0x32
}

/// Returns whether a core with this MIDR has erratum 720789 (Cortex-A9 before r2p0): a TLB invalidate that names an
/// ASID is broadcast with a wrong one.
pub fn broadcasts_a_wrong_asid(midr: u32) -> bool {
    midr & ids::CORE_MASK == CORTEX_A9_MIDR && ids::revision(midr) < 0x20
}

/// RTL release r2p0 of the PL310, as its cache ID register has it (DDI 0246 3.3.1).
pub const PL310_R2P0: u32 = 0x4;
/// RTL release r3p0 of the PL310.
pub const PL310_R3P0: u32 = 0x5;
/// RTL release r3p2 of the PL310.
pub const PL310_R3P2: u32 = 0x8;

/// The bit of the PL310's prefetch control register that turns double linefill on.
const DOUBLE_LINEFILL: u32 = 1 << 30;
/// The field of the PL310's prefetch control register that says how far ahead it prefetches: in lines, less one.
const PREFETCH_OFFSET: u32 = 0x1f;

/// Returns what a PL310 of this release must hold in its prefetch control register in place of `prefetch`.
pub const fn outer_prefetch(release: u32, prefetch: u32) -> u32 {
    let mut right = prefetch;
    // 752271, r3p0 to r3p1: the second half of a double linefill may take the place of a dirty line, which is lost.
    if release >= PL310_R3P0 && release < PL310_R3P2 {
        right &= !DOUBLE_LINEFILL;
    }
    // 765569, all releases: with this offset a prefetch may cross into the next 4 KiB, a frame of another attribute
    // (I1).
    if right & PREFETCH_OFFSET == 23 {
        right = right & !PREFETCH_OFFSET | 15;
    }
    right
}

/// Returns what a Cortex-A9 with this MIDR needs set in its diagnostic control register; 0 for any other core.
pub fn diagnostic(midr: u32) -> u32 {
    if midr & ids::CORE_MASK != CORTEX_A9_MIDR {
        return 0;
    }
    let revision = ids::revision(midr);
    let has = |&&[_, first, last]: &&[u32; 3]| (first..=last).contains(&revision);
    TABLE.iter().filter(has).fold(0, |all, [bits, ..]| all | bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MIDR as the manual has it for each release (DDI 0388 4.3.1), and what the notices list for that release.
    #[test]
    fn each_release_gets_the_bits_of_its_errata() {
        let bits = |list: &[u32]| list.iter().fold(0, |all, bit| all | 1 << bit);
        for (midr, release, want) in [
            (0x410f_c090, "r0p0", bits(&[11, 21, 22])),
            (0x410f_c091, "r0p1", bits(&[11, 21, 22])),
            (0x411f_c090, "r1p0", bits(&[4, 11, 21, 22])),
            (0x411f_c091, "r1p1", bits(&[4, 11, 21, 22])),
            (0x411f_c092, "r1p2", bits(&[4, 11, 21, 22])),
            (0x412f_c090, "r2p0", bits(&[4, 6, 11, 12, 21, 22])),
            (0x412f_c091, "r2p1", bits(&[4, 6, 11, 12, 21, 22])),
            (0x412f_c092, "r2p2", bits(&[4, 6, 11, 12, 21, 22])),
            (0x412f_c093, "r2p3", bits(&[6, 11, 21, 22])),
            (0x412f_c09a, "r2p10", bits(&[6, 11, 21, 22])),
            (0x413f_c090, "r3p0", bits(&[21, 22])),
            (0x414f_c090, "r4p0", bits(&[22])),
            (0x414f_c091, "r4p1", bits(&[22])),
        ] {
            assert_eq!(diagnostic(midr), want, "{release}");
        }
    }

    #[test]
    fn other_cores_have_no_such_register() {
        // Cortex-A8 r2p0 and r3p2, Cortex-A7, Cortex-A15, and another maker's part of the same number.
        for midr in [0x412f_c080, 0x413f_c082, 0x410f_c075, 0x412f_c0f1, 0x421f_c090] {
            assert_eq!(diagnostic(midr), 0, "{midr:#x}");
        }
    }

    /// Erratum 752271. Releases as the cache ID register has them: r2p0, r3p0, r3p1, r3p1-50rel0, r3p2, r3p3.
    #[test]
    fn a_pl310_that_loses_dirty_lines_fills_single_ones() {
        for (release, double) in [(4, true), (5, false), (6, false), (7, false), (8, true), (9, true)] {
            let right = outer_prefetch(release, 0x7000_000f);
            assert_eq!(right, if double { 0x7000_000f } else { 0x3000_000f }, "release {release:#x}");
        }
    }

    /// Erratum 765569.
    #[test]
    fn no_pl310_prefetches_across_a_page() {
        for release in 4..=9 {
            assert_eq!(outer_prefetch(release, 0x3000_0017), 0x3000_000f, "release {release:#x}");
            for offset in [0, 1, 7, 15, 31] {
                assert_eq!(outer_prefetch(release, 0x3000_0000 | offset), 0x3000_0000 | offset);
            }
        }
    }

    /// Erratum 798181.
    #[test]
    fn a_cortex_a15_that_loses_tlb_invalidates_is_known() {
        for (midr, has) in [
            (0x410f_c0f0, true),
            (0x412f_c0f1, true),
            (0x413f_c0f2, true),
            (0x413f_c0f3, false),
            (0x414f_c0f0, false),
            (0x410f_c075, false),
        ] {
            assert_eq!(loses_tlb_invalidates(midr), has, "{midr:#x}");
        }
    }

    /// Erratum 720789.
    #[test]
    fn a_cortex_a9_that_broadcasts_a_wrong_asid_is_known() {
        for (midr, has) in
            [(0x410f_c090, true), (0x411f_c092, true), (0x412f_c090, false), (0x413f_c090, false), (0x413f_c082, false)]
        {
            assert_eq!(broadcasts_a_wrong_asid(midr), has, "{midr:#x}");
        }
    }

    /// What the text of armv7a/mod.rs says of errata, each with its number.
    #[test]
    fn every_erratum_of_a_register_stands_in_the_table_of_all() {
        let text = include_str!("lib.rs");
        let row = |number: u32| text.contains(&std::format!("//! | {number} |"));
        for erratum in &CORTEX_A9 {
            assert!(row(erratum.number), "{}", erratum.number);
        }
        for number in
            [643_719, 720_789, 752_271, 753_970, 754_327, 761_319, 764_369, 765_569, 769_419, 794_074, 798_181]
        {
            assert!(row(number), "{number}");
        }
    }
}
