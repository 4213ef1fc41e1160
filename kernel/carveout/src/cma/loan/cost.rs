//! What a recall costs: 32 frames of an area, and by how much each of its loans is to be spared.
//!
//! Guarantees: a frame's cost follows from the kind of its loan, from whether caches may hold lines of it, and from its
//! borrower's priority. The *levels* of a search go from the cheapest loans to the dearest: at level 0 all loans are
//! spared, and at the last none. They are
//!
//! ```text
//!     level      loans that may be recalled, beside those of the levels before
//!     0          those of the cheapest kind that cost nothing extra
//!     1          also if their borrower's priority is high
//!     2          instead if caches may hold lines of them
//!     3          also if both
//!     4, 5       those of the first dear kind: of low priority, of high priority
//!     6, 7 ...   those of the next dear kind, likewise
//! ```

use super::kind::{CACHED, CHEAPEST, DEAR, HIGH, PageKind, dear_is_forgotten, extra};

/// The first level of the dear kinds.
const FIRST_DEAR: u32 = 4;
/// The number of levels.
pub(super) const LEVELS: u32 = FIRST_DEAR + 2 * DEAR as u32;
/// The last level at which nothing is moved.
pub(super) const FORGETS: u32 = {
    let (mut last, mut dear) = (FIRST_DEAR - 1, 0);
    while dear < DEAR && dear_is_forgotten(dear) {
        last += 2;
        dear += 1;
    }
    last
};
const _: () = assert!(LEVELS <= u32::BITS, "a bit each");

const ALL: u32 = u32::MAX;

/// Loans that a search spares: of each word all bits are set, or none.
#[derive(Clone, Copy)]
pub(super) struct Spared {
    dear: [u32; DEAR],
    /// Of dear kinds, those of high priority.
    high_dear: [u32; DEAR],
    cached: u32,
    high: u32,
}

impl Spared {
    /// Returns what is spared at a level.
    pub(super) const fn at(level: u32) -> Self {
        let (cached, high) = match level {
            0 => (ALL, ALL),
            1 => (ALL, 0),
            2 => (0, ALL),
            _ => (0, 0),
        };
        let mut spared = Self { dear: [0; DEAR], high_dear: [0; DEAR], cached, high };
        let mut n = 0;
        while n < DEAR {
            let low = FIRST_DEAR + 2 * n as u32;
            spared.dear[n] = if level < low { ALL } else { 0 };
            spared.high_dear[n] = if level == low { ALL } else { 0 };
            n += 1;
        }
        spared
    }
}

/// What is known of 32 frames, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameBits {
    /// A buffer's or a contract's: no allocation can have it, lent or not.
    pub(super) held: u32,
    pub(super) lent: u32,
    /// Of those lent: loans of each dear kind.
    dear: [u32; DEAR],
    /// Of those lent: caches may hold lines of it.
    cached: u32,
    /// Of those lent: the borrower's priority is high.
    high: u32,
    /// Of those lent: open.
    pub(super) open: u32,
    /// What a recall of all that is lent costs.
    pub(super) cost: u32,
    /// The levels after the first, a bit each, at which one of these frames can be had and not before.
    pub(super) levels: u32,
}

impl FrameBits {
    /// Frames that are all held.
    pub(super) fn all_held() -> Self {
        Self { held: ALL, ..Self::default() }
    }

    /// Returns the frames that an allocation can have.
    pub(super) fn available(&self) -> u32 {
        !(self.held | self.open)
    }

    /// Returns the frames that an allocation can have which spares these loans.
    pub(super) fn but(&self, spared: Spared) -> u32 {
        let mut keep = self.cached & spared.cached | self.high & spared.high;
        for (n, dear) in self.dear.iter().enumerate() {
            keep |= dear & spared.dear[n] | dear & self.high & spared.high_dear[n];
        }
        self.available() & !keep
    }

    /// Returns the lent frames whose pages a recall forgets.
    pub(super) fn forgotten(&self) -> u32 {
        let moved = self.dear.iter().enumerate().filter(|&(n, _)| !dear_is_forgotten(n));
        self.lent & !moved.fold(0, |moved, (_, dear)| moved | dear)
    }

    /// Lends the frames of `mask`.
    pub(super) fn enter(&mut self, mask: u32, kind: PageKind, high: bool, cached: bool) {
        self.lent |= mask;
        for (n, dear) in self.dear.iter_mut().enumerate() {
            *dear |= if kind.dear() == Some(n) { mask } else { 0 };
        }
        self.high |= if high { mask } else { 0 };
        self.cached |= if cached { mask } else { 0 };
        self.settle();
    }

    /// Ends the loans of the frames of `mask`.
    pub(super) fn leave(&mut self, mask: u32) {
        self.lent &= !mask;
        for dear in &mut self.dear {
            *dear &= !mask;
        }
        self.high &= !mask;
        self.cached &= !mask;
        self.settle();
    }

    /// Notes that caches may hold lines of the lent frames of `mask`.
    pub(super) fn set_cached(&mut self, mask: u32) {
        self.cached |= mask;
        self.settle();
    }

    /// Makes cost and levels agree with the loans.
    fn settle(&mut self) {
        self.cost = self.cost_of(ALL);
        let Self { dear, cached, high, .. } = *self;
        let any = dear.iter().fold(0, |any, dear| any | dear);
        let bit = |bits: u32, level: u32| u32::from(bits != 0) << level;
        self.levels = bit(high & !(cached | any), 1) | bit(cached & !(high | any), 2) | bit(cached & high & !any, 3);
        for (level, dear) in (FIRST_DEAR..).step_by(2).zip(dear) {
            self.levels |= bit(dear & !high, level) | bit(dear & high, level + 1);
        }
    }

    /// Returns what a recall of what is lent of `mask` costs.
    pub(super) fn cost_of(&self, mask: u32) -> u32 {
        let mut cost = (self.lent & mask).count_ones() * CHEAPEST
            + (self.cached & mask).count_ones() * CACHED
            + (self.high & mask).count_ones() * HIGH;
        for (n, dear) in self.dear.iter().enumerate() {
            cost += (dear & mask).count_ones() * extra(n);
        }
        cost
    }
}
