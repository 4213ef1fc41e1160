//! The proof that memory is not in the direct map.
//!
//! Guarantees I2 by its type: there is one way to make a [`CarveOut`], which is unsafe and states I2 as its duty. The
//! plan of the memory makes them of what it left out; a kernel that did its own reservation makes one itself.

use crate::addr::FrameRange;
use arrayvec::{ArrayString, ArrayVec};

/// The proof that its frames are absent from the direct map, for ever (I2). Not `Clone`: only one
/// [`Area`](crate::cma::area::Area) can be made of it.
#[derive(Debug)]
pub struct CarveOut {
    name: ArrayString<{ CarveOut::NAME }>,
    ranges: ArrayVec<FrameRange, { CarveOut::RANGES }>,
    lendable: bool,
}

impl CarveOut {
    /// Bytes kept of a name.
    pub const NAME: usize = 31;
    /// Carve-outs that there may be.
    pub const MAX: usize = 32;
    /// Runs a carve-out may span: one area over two banks, say.
    pub const RANGES: usize = 8;
    /// Runs of all carve-outs.
    pub const MAX_RANGES: usize = Self::MAX * Self::RANGES;

    /// A carve-out of another kernel's making.
    ///
    /// # Safety
    ///
    /// I2 holds for these frames: no translation of any of these frames exists, in any table, through any physical
    /// alias, from the instruction that turned the MMU on; none will be made but by this crate; and no other `CarveOut`
    /// holds any of them, by whichever of their physical names, nor does a plan of `carveout-boot` that is in force.
    /// `ranges` are disjoint, named by the names that RAM's banks have, and at most [`RANGES`](Self::RANGES).
    pub unsafe fn assume(name: &str, ranges: &[FrameRange], lendable: bool) -> Self {
        let mut short = ArrayString::new();
        for letter in name.chars() {
            if short.try_push(letter).is_err() {
                break;
            }
        }
        Self { name: short, ranges: ranges.iter().copied().collect(), lendable }
    }

    /// What the device tree or `cma=` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The frames, ascending and disjoint.
    pub fn ranges(&self) -> &[FrameRange] {
        &self.ranges
    }

    /// Whether idle frames may be lent: `reusable`, not `no-map`.
    pub const fn is_lendable(&self) -> bool {
        self.lendable
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|frames| frames.bytes()).sum()
    }
}
