//! A node of the index's tree: what one block of units knows of its free runs.
//!
//! A block is 2^height units, and begins at a multiple of its size. Guarantees:
//!
//! - A node gives the most units that can be had in its block at each alignment ([`Node::best`]), exactly.
//! - A node follows from its block's two halves alone ([`Node::join`]), with no search.
//! - A leaf also keeps its 64 units, a bit each.
//!
//! # How two halves are joined
//!
//! ```text
//!      left half                      right half
//!     +------+-----------+----------++---------+-----------+------+
//!     |prefix|    ...    |  suffix  ||  prefix |    ...    |suffix|
//!     +------+-----------+----------++---------+-----------+------+
//!    base                 <-before--><--after->                  end
//!                                   middle
//! ```
//!
//! A free run of the block lies in the left half, or in the right half, or crosses the middle. A node knows the best of
//! its halves from their nodes. The run across the middle has `before` units on the left and `after` on the right. The
//! middle is a multiple of each alignment up to the half's size. So the first multiple of 2^k in that run is at
//! `middle - before`, with `before` rounded down to a multiple of 2^k, and the run gives
//!
//! ```text
//!     (before & !(2^k - 1)) + after
//! ```
//!
//! units at that alignment. At the half's own size only `base` and `middle` are multiples. At the block's size only
//! `base` is, which has `prefix` units.
//!
//! An example, with halves of 8 units for brevity (`.` is free, `#` is taken):
//!
//! ```text
//!     unit      0 1 2 3 4 5 6 7   8 9 10 11 12 13 14 15
//!     state     # . . # # . . .   . .  #  #  .  .  .  #
//!                         before  after
//!                            = 3  = 2
//!
//!     multiple of    left    right   across the middle       best
//!               1       3        3   (3 & !0) + 2 = 5           5    units 5 to 9
//!               2       2        3   (3 & !1) + 2 = 4           4    units 6 to 9
//!               4       0        3   (3 & !3) + 2 = 2           3    units 12 to 14
//!               8       0        2   2, from the middle on      2    units 8 to 9
//!              16                    -                          0    unit 0 is taken
//! ```
//!
//! Often `after` alone is as long as the best of both halves. Then the run across the middle is the best at every
//! alignment, and the node keeps its two lengths instead of one figure for each alignment ([`Node::ACROSS`]).

use core::ops::Range;
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

/// Gives the largest alignment a request may ask for, as a power of two: 2^12 units, 16 MiB of frames.
pub const MAX_ALIGN_ORDER: u8 = 12;

/// log2 of the units in a leaf, one 64-bit word of them.
pub(super) const LEAF_ORDER: u32 = 6;
/// Alignments a node knows: 2^0 to 2^[`MAX_ALIGN_ORDER`] units.
const ORDERS: usize = MAX_ALIGN_ORDER as usize + 1;

/// Describes one block of units. An [`Index`](super::Index) takes its storage as a slice of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Node {
    /// Free units at the block's start.
    pub(super) prefix: u32,
    /// Free units at the block's end.
    pub(super) suffix: u32,
    /// Size classes of the free runs that touch neither end.
    pub(super) classes: u32,
    /// For each order up to the block's own, the most free units in a row that begin at a multiple of 2^order; see
    /// `best`. A leaf has fewer orders, and keeps its units in the words after those; see `bits`.
    longest: [u32; ORDERS],
}

impl Node {
    /// Describes a block of no free unit. Storage is filled with it.
    pub const EMPTY: Self = Self { prefix: 0, suffix: 0, classes: 0, longest: [0; ORDERS] };

    const BITS: usize = LEAF_ORDER as usize + 1;
    /// The word of `longest` that holds [`ACROSS`](Self::ACROSS) if the node has the short form.
    const TAG: usize = ORDERS - 1;
    /// Marks the short form: the run across the middle is the best at every order. `longest` then holds that run's
    /// units, and how many of them lie before the middle, and nothing else.
    const ACROSS: u32 = u32::MAX;
    const BEFORE: usize = 1;

    /// Returns a leaf with these units free, unit 0 in bit 0.
    pub(super) fn leaf(bits: u64) -> Self {
        let mut node = Self { prefix: bits.trailing_ones(), suffix: bits.leading_ones(), ..Self::EMPTY };
        for run in BitRuns(bits) {
            if run.start > 0 && run.end < 1 << LEAF_ORDER {
                node.classes |= class_bit(&run);
            }
            // A run no longer than the worst of the bests improves none of them.
            if run.end - run.start > node.longest[LEAF_ORDER as usize] {
                for (order, longest) in node.longest[..=LEAF_ORDER as usize].iter_mut().enumerate() {
                    *longest = (*longest).max(run.end.saturating_sub(align_up(run.start, order as u32)));
                }
            }
        }
        node.longest[Self::BITS] = bits as u32;
        node.longest[Self::BITS + 1] = (bits >> 32) as u32;
        node
    }

    /// Returns the free units of a leaf.
    pub(super) fn bits(&self) -> u64 {
        u64::from(self.longest[Self::BITS]) | u64::from(self.longest[Self::BITS + 1]) << 32
    }

    /// Makes this a block of 2^`height` units, all free or all taken.
    pub(super) fn fill(&mut self, free: bool, height: u32) {
        if height == LEAF_ORDER {
            *self = Self::leaf(if free { u64::MAX } else { 0 });
        } else {
            let half = if free { 1 << (height - 1) } else { 0 };
            self.set_across(2 * half, 2 * half, 0, half, half);
        }
    }

    /// Gives this the short form: the run across the middle, of `before` units and `after`, is the best at every order.
    /// Returns whether the node has changed.
    fn set_across(&mut self, prefix: u32, suffix: u32, classes: u32, before: u32, after: u32) -> bool {
        let longest = &mut self.longest;
        let changed = (self.prefix ^ prefix)
            | (self.suffix ^ suffix)
            | (self.classes ^ classes)
            | (longest[0] ^ (before + after))
            | (longest[Self::BEFORE] ^ before)
            | (longest[Self::TAG] ^ Self::ACROSS);
        (self.prefix, self.suffix, self.classes) = (prefix, suffix, classes);
        (longest[0], longest[Self::BEFORE], longest[Self::TAG]) = (before + after, before, Self::ACROSS);
        changed != 0
    }

    /// Returns the length of the longest free run.
    pub(super) fn longest(&self) -> u32 {
        self.longest[0]
    }

    /// Returns the most free units in a row in this block of 2^`height` units that begin at a multiple of 2^`order`.
    /// The order is at most the height.
    pub(super) fn best(&self, order: u32, height: u32) -> u32 {
        if self.longest[Self::TAG] != Self::ACROSS {
            self.longest[order as usize]
        } else if order == height {
            self.prefix
        } else {
            self.longest[0] - (self.longest[Self::BEFORE] & ((1 << order) - 1))
        }
    }

    /// Returns `best` of the short form below the block's own order, as a function. A join asks a node for its form
    /// once, not at each order.
    fn across(&self) -> impl Fn(usize, u32) -> u32 {
        let (all, before) = (self.longest[0], self.longest[Self::BEFORE]);
        move |_, aligned| all - (before & !aligned)
    }

    /// Returns `best` of the long form, as a function.
    fn written(&self) -> impl Fn(usize, u32) -> u32 {
        |order, _| self.longest[order]
    }

    /// Makes this the block of 2^`height` units of these two halves. Returns whether the node has changed. The
    /// [module](self) has a picture and an example.
    pub(super) fn join(&mut self, left: &Self, right: &Self, height: u32) -> bool {
        let half = 1 << (height - 1);
        let (before, after) = (left.suffix, right.prefix);
        let prefix = if left.prefix == half { half + right.prefix } else { left.prefix };
        let suffix = if right.suffix == half { half + left.suffix } else { right.suffix };
        let mut classes = left.classes | right.classes;
        if before < half && after < half {
            classes |= class_bit(&(0..before + after));
        }
        if after >= left.longest[0].max(right.longest[0]) {
            return self.set_across(prefix, suffix, classes, before, after);
        }
        let mut changed = (self.prefix ^ prefix) | (self.suffix ^ suffix) | (self.classes ^ classes);
        (self.prefix, self.suffix, self.classes) = (prefix, suffix, classes);
        // At the halves' own order, only the block's start and its middle are multiples.
        let at_half = left.prefix.max(right.prefix).max(if before == half { half + after } else { after });
        changed |= match (left.longest[Self::TAG], right.longest[Self::TAG]) {
            (Self::ACROSS, Self::ACROSS) => self.merge(height, before, after, left.across(), right.across()),
            (Self::ACROSS, _) => self.merge(height, before, after, left.across(), right.written()),
            (_, Self::ACROSS) => self.merge(height, before, after, left.written(), right.across()),
            _ => self.merge(height, before, after, left.written(), right.written()),
        };
        let own = height as usize;
        if own < Self::TAG {
            changed |= self.longest[Self::TAG];
            self.longest[Self::TAG] = 0;
        }
        if own <= ORDERS {
            changed |= self.longest[own - 1] ^ at_half;
            self.longest[own - 1] = at_half;
        }
        if own < ORDERS {
            // At the largest order this word is the tag too. A prefix is never `ACROSS`, so it marks the long form.
            changed |= self.longest[own] ^ prefix;
            self.longest[own] = prefix;
        }
        changed != 0
    }

    /// Writes the best of both halves and of the run across the middle, for the orders below the halves' own. Returns
    /// a number that is not 0 if one of them has changed.
    fn merge(
        &mut self,
        height: u32,
        before: u32,
        after: u32,
        left: impl Fn(usize, u32) -> u32,
        right: impl Fn(usize, u32) -> u32,
    ) -> u32 {
        let (mut changed, mut aligned) = (0, u32::MAX);
        for (order, longest) in self.longest[..(height as usize - 1).min(ORDERS)].iter_mut().enumerate() {
            let best = ((before & aligned) + after).max(left(order, aligned)).max(right(order, aligned));
            changed |= *longest ^ best;
            *longest = best;
            aligned <<= 1;
        }
        changed
    }

    pub(super) fn is_full(&self, height: u32) -> bool {
        self.prefix == 1 << height
    }

    pub(super) fn is_empty(&self) -> bool {
        self.longest[0] == 0
    }

    /// Returns `Some(true)` if all units are free, `Some(false)` if all are taken. In both cases the nodes of the
    /// halves are stale.
    pub(super) fn uniform(&self, height: u32) -> Option<bool> {
        if self.is_empty() {
            Some(false)
        } else if self.is_full(height) {
            Some(true)
        } else {
            None
        }
    }
}

/// Returns the size class of a run. Classes are exact to 7 units, then four to an octave, and the last is of all runs
/// from 512 units.
pub(super) fn class(length: u32) -> u32 {
    let length = length.min(512);
    let octave = length.ilog2().saturating_sub(2);
    (octave << 2) + (length >> octave) - 1
}

/// Returns the length of the shortest run of a class.
pub(super) fn shortest_of(class: u32) -> u32 {
    let octave = ((class + 1) >> 2).saturating_sub(1);
    (class + 1 - (octave << 2)) << octave
}

/// Returns the set that holds a run's size class alone. The set of an empty run is empty.
pub(super) fn class_bit(run: &Range<u32>) -> u32 {
    if run.is_empty() { 0 } else { 1 << class(run.end - run.start) }
}

pub(super) fn align_up(unit: u32, order: u32) -> u32 {
    let mask = (1 << order) - 1;
    (unit + mask) & !mask
}

/// Returns a word of the bits `[lo, hi)`, of which there is one at least.
pub(super) fn mask(lo: u32, hi: u32) -> u64 {
    (u64::MAX >> (64 - (hi - lo))) << lo
}

/// Yields the runs of set bits in a word, from bit 0.
pub(super) struct BitRuns(pub(super) u64);

impl BitRuns {
    /// Yields only the runs that touch neither end of the word.
    pub(super) fn inner(bits: u64) -> Self {
        let outer = u64::MAX.checked_shr(64 - bits.trailing_ones()).unwrap_or(0)
            | u64::MAX.checked_shl(64 - bits.leading_ones()).unwrap_or(0);
        Self(bits & !outer)
    }
}

impl Iterator for BitRuns {
    type Item = Range<u32>;

    fn next(&mut self) -> Option<Range<u32>> {
        if self.0 == 0 {
            return None;
        }
        let start = self.0.trailing_zeros();
        let end = start + (self.0 >> start).trailing_ones();
        self.0 &= u64::MAX.checked_shl(end).unwrap_or(0);
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the module's documentation.
    #[test]
    fn the_worked_example_of_a_join_is_right() {
        let half = |prefix, suffix, classes, longest: [u32; 4]| {
            let mut node = Node { prefix, suffix, classes, ..Node::EMPTY };
            node.longest[..4].copy_from_slice(&longest);
            node
        };
        let left = half(0, 3, class_bit(&(1..3)), [3, 2, 0, 0]);
        let right = half(2, 0, class_bit(&(12..15)), [3, 3, 3, 2]);
        let mut whole = Node::EMPTY;
        assert!(whole.join(&left, &right, 4));
        assert_eq!([0, 1, 2, 3, 4].map(|order| whole.best(order, 4)), [5, 4, 3, 2, 0]);
        assert_eq!((whole.prefix, whole.suffix), (0, 0));
        assert_eq!(whole.classes, class_bit(&(1..3)) | class_bit(&(5..10)) | class_bit(&(12..15)));
        assert!(!whole.join(&left, &right, 4), "nothing changed");
    }

    #[test]
    fn the_shortest_run_of_a_class_is_the_first() {
        for class_of in 0..=class(512) {
            let shortest = shortest_of(class_of);
            assert_eq!(class(shortest), class_of);
            assert!(shortest == 1 || class(shortest - 1) < class_of);
        }
    }
}
