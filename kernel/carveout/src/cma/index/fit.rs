//! Where a request goes: the policies that choose among the free runs that fit.
//!
//! A policy is a type that implements [`Fit`]. [`Index::find`](super::Index::find) names the two in use: one for a
//! request that may have any unit, and one for a request that may have a part of them only. Guarantees of every policy:
//!
//! - **Exact.** It finds nothing only if no free run holds the request.
//! - It looks at a number of nodes that grows with the logarithm of the units, whatever their state.

use super::node::{BitRuns, LEAF_ORDER, Node, align_up, class, class_bit, shortest_of};
use super::tree::{Tree, usable_of};
use core::mem;
use core::ops::Range;

/// Runs of one size class that good fit looks at before it settles for the best of them. With 16 the bench's trace
/// fares as with true best fit.
const TRIES_OF_CLASS: u32 = 16;
/// Runs that good fit looks at in all before it takes the lowest fit. A block in which it finds no run to look at
/// counts as one.
const TRIES: u32 = 32;

#[cfg(test)]
std::thread_local! {
    /// Blocks that good fit looked into.
    pub(super) static LOOKS: core::cell::Cell<u32> = const { core::cell::Cell::new(0) };
}

/// What is looked for: `count` units from a multiple of 2^`order`, in the offsets `[lo, hi)`. None of the two is empty.
pub(super) struct Wanted {
    pub(super) count: u32,
    pub(super) order: u32,
    pub(super) lo: u32,
    pub(super) hi: u32,
}

impl Wanted {
    /// Returns the first fit in the free run `[start, end)`.
    pub(super) fn fit(&self, start: u32, end: u32) -> Option<u32> {
        let at = align_up(start, self.order);
        (at < end && self.count <= end - at).then_some(at)
    }

    /// Returns whether it fits anywhere in the tree.
    #[inline]
    pub(super) fn fits_in(&self, tree: &Tree<'_>) -> bool {
        tree.usable(tree.height, tree.root(), self.order) >= self.count
    }
}

/// Where a request goes, and in which free run if no other that fits is as short, or as short and lower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(super) at: u32,
    pub(super) best: Option<BestRun>,
}

/// The shortest run that fits a request, and of several the lowest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct BestRun {
    pub(super) length: u32,
    pub(super) start: u32,
}

/// A policy: which of the places that fit a request gets.
pub(super) trait Fit {
    /// Returns the place, or `None` if there is none.
    fn find(tree: &Tree<'_>, wanted: &Wanted) -> Option<Found>;
}

/// Takes the shortest run that fits among the first of each size class, of all units. This is close to best fit. If a
/// bounded number of looks finds no fit, it takes the lowest.
pub(super) enum GoodFit {}

/// Takes the lowest place that fits, of all units or of a part of them.
pub(super) enum LowestFit {}

impl Fit for GoodFit {
    fn find(tree: &Tree<'_>, wanted: &Wanted) -> Option<Found> {
        if !wanted.fits_in(tree) {
            return None;
        }
        let root = tree.node(tree.height, tree.root());
        let start = tree.root() << tree.height;
        let end = start + (1 << tree.height);
        // The runs at the ends of the root's block are in no class of the root's.
        let (prefix, suffix) = (start..start + root.prefix, end - root.suffix..end);
        let mut classes = root.classes | class_bit(&prefix) | class_bit(&suffix);
        classes &= u32::MAX << class(wanted.count);
        let (mut tries, mut exact) = (TRIES, true);
        while classes != 0 && tries > 0 {
            let class = classes & classes.wrapping_neg();
            classes ^= class;
            let least = shortest_of(class.trailing_zeros()).max(wanted.count);
            let mut search = ClassSearch { wanted, class, least, tries: tries.min(TRIES_OF_CLASS), best: None };
            tries -= search.tries;
            search.consider(&prefix);
            if search.is_worth_it(root, tree.height, tree.root()) {
                search.look_into(tree, root, tree.height, tree.root());
            }
            search.consider(&suffix);
            if let Some((best, at)) = search.best {
                exact &= search.tries > 0 || best.length <= least;
                return Some(Found { at, best: exact.then_some(best) });
            }
            exact &= search.tries > 0;
            tries += search.tries;
        }
        Some(Found { at: descend(tree, tree.height, tree.root(), wanted), best: None })
    }
}

/// A search of one size class for its shortest run that fits.
struct ClassSearch<'a> {
    wanted: &'a Wanted,
    /// The class, as a set.
    class: u32,
    /// The shortest that a run of the class could be and fit. None better need be looked for.
    least: u32,
    /// Runs, and blocks without one, that may still be looked at.
    tries: u32,
    /// The shortest run so far that fits, and where in it.
    best: Option<(BestRun, u32)>,
}

impl ClassSearch<'_> {
    fn consider(&mut self, run: &Range<u32>) {
        if self.tries == 0 || class_bit(run) != self.class {
            return;
        }
        self.tries -= 1;
        let length = run.end - run.start;
        if self.best.is_some_and(|(best, _)| best.length <= length) {
            return;
        }
        if let Some(at) = self.wanted.fit(run.start, run.end) {
            self.best = Some((BestRun { length, start: run.start }, at));
            if length <= self.least {
                self.tries = 0;
            }
        }
    }

    /// Considers the inner runs of a block that has some of the class, from the lowest.
    fn look_into(&mut self, tree: &Tree<'_>, node: &Node, height: u32, number: u32) {
        #[cfg(test)]
        LOOKS.with(|looks| looks.set(looks.get() + 1));
        let base = number << height;
        if height == LEAF_ORDER {
            for run in BitRuns::inner(node.bits()) {
                self.consider(&(base + run.start..base + run.end));
            }
            return;
        }
        let tries = self.tries;
        let (half, middle) = (1 << (height - 1), base + (1 << (height - 1)));
        let (left, right) = tree.halves(height, number);
        if self.is_worth_it(left, height - 1, number * 2) {
            self.look_into(tree, left, height - 1, number * 2);
        }
        if left.suffix < half && right.prefix < half {
            self.consider(&(middle - left.suffix..middle + right.prefix));
        }
        if self.is_worth_it(right, height - 1, number * 2 + 1) {
            self.look_into(tree, right, height - 1, number * 2 + 1);
        }
        // What is of the class is in one half, and what can be used in the other.
        if self.tries == tries {
            self.tries -= 1;
        }
    }

    /// Returns whether a block may have an inner run that is better: it has one of the class, and what is in it,
    /// whatever its class, is not too short at that alignment.
    #[inline]
    fn is_worth_it(&self, node: &Node, height: u32, number: u32) -> bool {
        self.tries > 0
            && node.classes & self.class != 0
            && (height == LEAF_ORDER || usable_of(node, height, number, self.wanted.order) >= self.wanted.count)
    }
}

impl Fit for LowestFit {
    fn find(tree: &Tree<'_>, wanted: &Wanted) -> Option<Found> {
        let at = lowest_below(tree, tree.height, tree.root(), wanted, &mut 0)?;
        Some(Found { at, best: None })
    }
}

/// Returns the lowest fit in a block, whose units are all allowed and which has one.
fn descend(tree: &Tree<'_>, mut height: u32, mut number: u32, wanted: &Wanted) -> u32 {
    let Wanted { count, order, .. } = *wanted;
    loop {
        let base = number << height;
        let node = tree.node(height, number);
        if order >= height || node.is_full(height) {
            return base;
        }
        if height == LEAF_ORDER {
            let fit = |run: Range<u32>| wanted.fit(base + run.start, base + run.end);
            return BitRuns(node.bits()).find_map(fit).unwrap_or(base);
        }
        height -= 1;
        number *= 2;
        let (left, right) = (tree.node(height, number), tree.node(height, number + 1));
        if left.best(order, height) >= count {
            continue;
        }
        // The run across the middle, from its first aligned unit on.
        let before = left.suffix >> order << order;
        if before > 0 && before + right.prefix >= count {
            return ((number + 1) << height) - before;
        }
        number += 1;
    }
}

/// Returns the lowest fit in the part of a block that is allowed. `open` is where the free run that ends at the block's
/// start begins, and becomes where the one that ends at the block's end begins.
fn lowest_below(tree: &Tree<'_>, height: u32, number: u32, wanted: &Wanted, open: &mut u32) -> Option<u32> {
    let base = number << height;
    let end = base + (1 << height);
    if end <= wanted.lo || wanted.hi <= base {
        return None;
    }
    let node = tree.node(height, number);
    let (lo, hi) = (wanted.lo.max(base), wanted.hi.min(end));
    if base <= wanted.lo {
        *open = lo;
    }
    if node.is_empty() {
        *open = end;
        return None;
    }
    if node.is_full(height) {
        return wanted.fit(*open, hi);
    }
    if lo == base && hi == end {
        if let Some(at) = wanted.fit(*open, base + node.prefix).filter(|at| *at < base) {
            return Some(at);
        }
        if tree.usable(height, number, wanted.order) >= wanted.count {
            return Some(descend(tree, height, number, wanted));
        }
        *open = end - node.suffix;
        return None;
    }
    if height == LEAF_ORDER {
        let allowed = (u64::MAX << (lo - base)) & (u64::MAX >> (end - hi));
        let before = mem::replace(open, end);
        for run in BitRuns(node.bits() & allowed) {
            let start = if base + run.start == lo { before } else { base + run.start };
            if let Some(at) = wanted.fit(start, base + run.end) {
                return Some(at);
            }
            if base + run.end == end {
                *open = start;
            }
        }
        return None;
    }
    let left = lowest_below(tree, height - 1, number * 2, wanted, open);
    if left.is_some() { left } else { lowest_below(tree, height - 1, number * 2 + 1, wanted, open) }
}
