//! The proof that memory is not in the direct map.
//!
//! Guarantees I2 by its type. There is one way to make a [`CarveOut`] of frames that nothing maps: an unsafe function
//! whose duty is I2. The plan of the memory calls it for what the plan left out. A kernel that did its own reservation
//! calls it itself. A carve-out of frames that the kernel maps is [late](CarveOut::late). No buffer gets a frame of it
//! before [`Dma::take_area`](crate::dma::Dma::take_area), whose duty is I2 then.

use crate::addr::FrameRange;
use crate::name::Name;
use arrayvec::ArrayVec;

/// The proof that its frames are absent from the direct map (I2), or that they are the kernel's until they are
/// [taken](crate::dma::Dma::take_area). It is not `Clone`, so only one [`Area`](crate::cma::Area) can be made of it.
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
    name: Name,
    ranges: ArrayVec<FrameRange, { CarveOut::RANGES }>,
    lendable: bool,
    late: bool,
}

impl CarveOut {
    /// The most carve-outs that there may be.
    pub const MAX: usize = 32;
    /// The most runs that a carve-out may have: one area may span two banks.
    pub const RANGES: usize = 8;
    /// The most runs of all carve-outs together.
    pub const MAX_RANGES: usize = Self::MAX * Self::RANGES;

    /// Makes a carve-out of memory that another kernel reserved. `lendable` says
    /// whether idle frames may be lent.
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
        Self::new(name, ranges, lendable, false)
    }

    /// Makes a carve-out of memory that the kernel maps and uses as its own, until
    /// [`Dma::take_area`](crate::dma::Dma::take_area). Until then no buffer gets a frame of it, and nothing of this
    /// crate touches one. `ranges` are as for [`assume`](Self::assume). `lendable` says whether idle frames may be lent
    /// once they are taken.
    ///
    /// ```
    /// use carveout::addr::FrameRange;
    /// use carveout::carve_out::CarveOut;
    ///
    /// let late = CarveOut::late("video", &[FrameRange::within(0x6800_0000, 32 << 20)], true);
    /// assert!(late.is_late());
    /// ```
    pub fn late(name: &str, ranges: &[FrameRange], lendable: bool) -> Self {
        Self::new(name, ranges, lendable, true)
    }

    fn new(name: &str, ranges: &[FrameRange], lendable: bool, late: bool) -> Self {
        Self { name: name.into(), ranges: ranges.iter().copied().collect(), lendable, late }
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

    /// Returns whether the frames are the kernel's, which maps them.
    pub const fn is_late(&self) -> bool {
        self.late
    }

    /// Returns the number of bytes in all runs.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|frames| frames.bytes()).sum()
    }
}
