//! The proof that memory is not in the direct map.
//!
//! Guarantees I2 by its type. There is one way to make a [`CarveOut`]: an unsafe function whose duty is I2. The plan of
//! the memory calls it for what the plan left out. A kernel that did its own reservation calls it itself.

use crate::addr::FrameRange;
use arrayvec::{ArrayString, ArrayVec};

/// The proof that its frames are absent from the direct map, for ever (I2). It is not `Clone`, so only one
/// [`Area`](crate::cma::Area) can be made of it.
///
/// ```
/// use carveout::addr::FrameRange;
/// use carveout::carve_out::CarveOut;
///
/// let bank = FrameRange::within(0x6400_0000, 64 << 20);
/// // SAFETY: no table of this kernel maps these frames, and no other carve-out has them (I2).
/// let carved = unsafe { CarveOut::assume("camera", &[bank], true) };
/// assert_eq!((carved.name(), carved.bytes()), ("camera", 64 << 20));
/// ```
#[derive(Debug)]
pub struct CarveOut {
    name: ArrayString<{ CarveOut::NAME }>,
    ranges: ArrayVec<FrameRange, { CarveOut::RANGES }>,
    lendable: bool,
}

impl CarveOut {
    /// The most bytes that are kept of a name.
    pub const NAME: usize = 31;
    /// The most carve-outs that there may be.
    pub const MAX: usize = 32;
    /// The most runs that a carve-out may have: one area may span two banks.
    pub const RANGES: usize = 8;
    /// The most runs of all carve-outs together.
    pub const MAX_RANGES: usize = Self::MAX * Self::RANGES;

    /// Makes a carve-out of memory that another kernel reserved. Of `name` the first [`NAME`](Self::NAME) bytes are
    /// kept. `lendable` says whether idle frames may be lent.
    ///
    /// # Safety
    ///
    /// I2 holds for these frames. That means:
    ///
    /// - No translation of any of these frames exists, in any table, through any physical alias, from the instruction
    ///   that turned the MMU on. Nothing but this crate will ever make one.
    /// - No other `CarveOut` holds any of these frames, by whichever of their physical names. No plan of
    ///   `carveout-boot` that is in force holds any.
    /// - `ranges` are disjoint, have the names that RAM's banks have, and are at most [`RANGES`](Self::RANGES).
    pub unsafe fn assume(name: &str, ranges: &[FrameRange], lendable: bool) -> Self {
        let mut short = ArrayString::new();
        for letter in name.chars() {
            if short.try_push(letter).is_err() {
                break;
            }
        }
        Self { name: short, ranges: ranges.iter().copied().collect(), lendable }
    }

    /// Returns its name in the device tree, or `cma` for the area of the command line.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the runs of frames, which are disjoint.
    pub fn ranges(&self) -> &[FrameRange] {
        &self.ranges
    }

    /// Returns whether idle frames may be lent: the memory is `reusable`, not `no-map` only.
    pub const fn is_lendable(&self) -> bool {
        self.lendable
    }

    /// Returns the number of bytes in all runs.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|frames| frames.bytes()).sum()
    }
}
