//! Refusals: why an outer cache is not used.
//!
//! Guarantees a line for a person, which says what would help.

use core::fmt;

/// Why a controller cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// This build has no code for it: feature `pl310`.
    LeftOut,
    /// Its cache ID register is none of a PL310's. Where a controller is not there at all, many buses read zeros.
    Absent {
        /// What the register reads.
        id: u32,
    },
    /// It is off, and the non-secure world may not turn it on. Only speed is lost: it caches nothing.
    Off,
    /// It was left on, exclusive of the core's own level. A line that the core drops would go into it after it was
    /// invalidated.
    Exclusive,
    /// It was left on with a prefetch control register that errata 752271 or 765569 make wrong.
    Prefetch {
        /// What it holds.
        has: u32,
        /// What it must hold.
        needs: u32,
    },
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeftOut => f.write_str("a PL310, whose feature `pl310` this build of carveout-armv7a leaves out"),
            Self::Absent { id } => {
                write!(
                    f,
                    "no PL310 answers there: its ID reads {id:#010x}, not 0x410000c0 to 0x410000ff; do without it"
                )
            }
            Self::Off => {
                f.write_str("off, and the non-secure world may not turn it on: the secure world's firmware must")
            }
            Self::Exclusive => f.write_str("left on, exclusive of the core's cache: the boot loader must turn it off"),
            Self::Prefetch { has, needs } => write!(
                f,
                "left on with prefetch control {has:#010x}, where errata 752271 and 765569 need {needs:#010x}: the boot \
                 loader must turn it off"
            ),
        }
    }
}

impl core::error::Error for Unusable {}
