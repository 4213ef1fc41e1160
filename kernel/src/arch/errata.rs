//! Errata of the Cortex-A9 that a bit of its diagnostic control register works around, by revision.
//!
//! Guarantees: the head sets what [`diagnostic`] says, by the same table, on every core before its caches are on: where
//! the world it runs in may write the register. A core gets the bits of the errata it has and no others, for each costs
//! speed.

/// An erratum's number, its bits, and the first and the last revision that has it, `variant << 4 | revision`.
struct Erratum {
    #[expect(dead_code, reason = "by what a reader finds it")]
    number: u32,
    bits: u32,
    first: u32,
    last: u32,
}

/// ARM's notices UAN 0004 and UAN 0009, as far as this crate does what they are about: several cores that write whole
/// lines, order their writes by DMB, and invalidate each other's TLBs, in handlers of interrupts too.
const CORTEX_A9: [Erratum; 6] = [
    // A DMB between two writes may be too weak: it becomes a DSB.
    Erratum { number: 742_230, bits: 1 << 4, first: 0x10, last: 0x22 },
    // Two cores at a line that one of them replaces: corrupted data.
    Erratum { number: 742_231, bits: 1 << 12 | 1 << 22, first: 0x20, last: 0x22 },
    // Merging of stores corrupts data.
    Erratum { number: 743_622, bits: 1 << 6, first: 0x20, last: 0x2f },
    // A broadcast operation is lost in a handler that interrupted an ICIALLUIS, which an embedding kernel may use.
    Erratum { number: 751_472, bits: 1 << 11, first: 0x00, last: 0x2f },
    // Whole lines written by two cores, looked at by a third: a deadlock.
    Erratum { number: 761_320, bits: 1 << 21, first: 0x00, last: 0x3f },
    // A dirty line is lost to whole lines written while another core asks for it.
    Erratum { number: 845_369, bits: 1 << 22, first: 0x00, last: 0xff },
];

/// The table as the head reads it: bits, first and last revision of each; bits of 0 end it.
pub(crate) const TABLE: [[u32; 3]; CORTEX_A9.len() + 1] = {
    let mut table = [[0; 3]; CORTEX_A9.len() + 1];
    let mut n = 0;
    while n < CORTEX_A9.len() {
        table[n] = [CORTEX_A9[n].bits, CORTEX_A9[n].first, CORTEX_A9[n].last];
        n += 1;
    }
    table
};

/// What a Cortex-A9 with this MIDR needs set in its diagnostic control register; 0 for any other core.
pub fn diagnostic(midr: u32) -> u32 {
    // The part number; ARM made it, or is said to have.
    if (midr >> 4) & 0xfff != 0xc09 {
        return 0;
    }
    let revision = (midr >> 20 & 0xf) << 4 | midr & 0xf;
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
        // Cortex-A8 r2p0 and r3p2, Cortex-A7, Cortex-A15.
        for midr in [0x412f_c080, 0x413f_c082, 0x410f_c075, 0x412f_c0f1] {
            assert_eq!(diagnostic(midr), 0, "{midr:#x}");
        }
    }
}
