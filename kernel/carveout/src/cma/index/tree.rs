//! The index's tree: its nodes in their storage, and what is asked and changed by going down it.
//!
//! Guarantees:
//!
//! - Every walk is O(log n) in the units: it splits at the two edges of a range, and each part goes down one path.
//! - A node agrees with its two halves, unless its block is all free or all taken. Such a node speaks for its whole
//!   block, and what lies below it is stale. So a long run costs its two edges, whatever its length.
//!
//! Units are counted here as *offsets*: from a multiple of the largest alignment, so that an aligned number is an
//! aligned offset.

use super::node::{BitRuns, LEAF_ORDER, Node, mask};
use core::mem;
use core::ops::Range;

/// Heights a tree may have: [`MAX_UNITS`](super::MAX_UNITS) that start anywhere in a block of the largest alignment.
const HEIGHTS: usize = 20;

/// Where the nodes of one height lie.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// Place in the storage of the first node kept.
    at: u32,
    /// Number of that node: its block's offset over its size.
    first: u32,
}

const NO_ROWS: [Row; HEIGHTS] = [Row { at: 0, first: 0 }; HEIGHTS];

/// Lays out a tree over the offsets `[start, end)`. Returns the root's height and the number of nodes. Below the root
/// nodes come in pairs, so each has a sibling. Children lie before their parent.
const fn layout(start: u32, end: u32, rows: &mut [Row; HEIGHTS]) -> (u32, usize) {
    let mut height = LEAF_ORDER;
    let mut at = 0;
    loop {
        let (first, last) = (start >> height, (end - 1) >> height);
        let row = &mut rows[(height - LEAF_ORDER) as usize];
        if first == last {
            *row = Row { at, first };
            return (height, at as usize + 1);
        }
        *row = Row { at, first: first & !1 };
        at += (last | 1) - (first & !1) + 1;
        height += 1;
    }
}

/// Returns the height of the smallest block that holds `[lo, hi)`.
fn height_of(lo: u32, hi: u32) -> u32 {
    (u32::BITS - (lo ^ (hi - 1)).leading_zeros()).max(LEAF_ORDER)
}

/// Returns the most units that a request of `order` can get in the block of this node.
#[inline]
pub(super) fn usable_of(node: &Node, height: u32, number: u32, order: u32) -> u32 {
    if order <= height {
        node.best(order, height)
    } else if (number << height).trailing_zeros() >= order {
        // No unit but the block's first can be aligned.
        node.prefix
    } else {
        0
    }
}

/// Knows which units are free. See the [module](self).
#[derive(Debug)]
pub(super) struct Tree<'a> {
    nodes: &'a mut [Node],
    rows: [Row; HEIGHTS],
    /// The root's height.
    pub(super) height: u32,
    /// The units.
    pub(super) units: Range<u32>,
    /// Nodes looked at.
    #[cfg(test)]
    visits: core::cell::Cell<u32>,
}

impl<'a> Tree<'a> {
    /// Returns the number of nodes of a tree over the offsets `[start, end)`.
    pub(super) const fn nodes_needed(start: u32, end: u32) -> usize {
        let mut rows = NO_ROWS;
        layout(start, end, &mut rows).1
    }

    /// Makes a tree over these units, all taken. The storage has as many nodes as are needed, of any contents.
    pub(super) fn new(units: Range<u32>, nodes: &'a mut [Node]) -> Self {
        let mut rows = NO_ROWS;
        let (height, _) = layout(units.start, units.end, &mut rows);
        let tree = Self {
            nodes,
            rows,
            height,
            units,
            #[cfg(test)]
            visits: core::cell::Cell::new(0),
        };
        // The root speaks for all below it.
        let root = tree.at(height, tree.root());
        tree.nodes[root] = Node::EMPTY;
        tree
    }

    /// Returns where a node lies in the storage.
    fn at(&self, height: u32, number: u32) -> usize {
        #[cfg(test)]
        self.visits.set(self.visits.get() + 1);
        let row = &self.rows[(height - LEAF_ORDER) as usize];
        (row.at + (number - row.first)) as usize
    }

    pub(super) fn node(&self, height: u32, number: u32) -> &Node {
        &self.nodes[self.at(height, number)]
    }

    /// Returns the nodes of a block's two halves.
    #[inline]
    pub(super) fn halves(&self, height: u32, number: u32) -> (&Node, &Node) {
        let left = self.at(height - 1, number * 2);
        let [left, right] = &self.nodes[left..left + 2] else { unreachable!("halves come in pairs") };
        (left, right)
    }

    /// Returns the root's number.
    pub(super) fn root(&self) -> u32 {
        self.units.start >> self.height
    }

    // --- what is free ---

    /// Returns the most units that a request of `order` can get in the block.
    pub(super) fn usable(&self, height: u32, number: u32, order: u32) -> u32 {
        usable_of(self.node(height, number), height, number, order)
    }

    /// Returns the length of the longest free run.
    pub(super) fn longest(&self) -> u32 {
        self.node(self.height, self.root()).longest()
    }

    /// Returns the length of the longest free run of `[lo, hi)`.
    pub(super) fn longest_in(&self, lo: u32, hi: u32) -> u32 {
        self.longest_below(self.height, self.root(), lo, hi, &mut 0)
    }

    /// Returns the length of the longest free run in the part of a block that lies in `[lo, hi)`. `before` is how many
    /// free units in a row end at the start of that part, and becomes how many end at its end.
    fn longest_below(&self, height: u32, number: u32, lo: u32, hi: u32, before: &mut u32) -> u32 {
        let base = number << height;
        let end = base + (1 << height);
        let (lo, hi) = (lo.max(base), hi.min(end));
        if lo >= hi {
            return 0;
        }
        let node = self.node(height, number);
        if node.is_empty() {
            *before = 0;
            return 0;
        }
        if node.is_full(height) {
            *before += hi - lo;
            return *before;
        }
        if hi - lo == 1 << height {
            let longest = node.longest().max(*before + node.prefix);
            *before = node.suffix;
            return longest;
        }
        if height == LEAF_ORDER {
            let mut longest = 0;
            let mut joined = mem::replace(before, 0);
            for run in BitRuns(node.bits() & mask(lo - base, hi - base)) {
                if base + run.start > lo {
                    joined = 0;
                }
                let length = joined + run.end - run.start;
                longest = longest.max(length);
                if base + run.end == hi {
                    *before = length;
                }
            }
            return longest;
        }
        let left = self.longest_below(height - 1, number * 2, lo, hi, before);
        left.max(self.longest_below(height - 1, number * 2 + 1, lo, hi, before))
    }

    /// Returns the first unit of `[lo, hi)` that is free, or that is taken.
    pub(super) fn first(&self, lo: u32, hi: u32, free: bool) -> Option<u32> {
        if lo >= hi {
            return None;
        }
        let lowest = height_of(lo, hi);
        for height in (lowest + 1..=self.height).rev() {
            if let Some(all) = self.node(height, lo >> height).uniform(height) {
                return (all == free).then_some(lo);
            }
        }
        self.first_below(lowest, lo >> lowest, lo, hi, free)
    }

    fn first_below(&self, height: u32, number: u32, lo: u32, hi: u32, free: bool) -> Option<u32> {
        let base = number << height;
        let (lo, hi) = (lo.max(base), hi.min(base + (1 << height)));
        if lo >= hi {
            return None;
        }
        let node = self.node(height, number);
        if let Some(all) = node.uniform(height) {
            return (all == free).then_some(lo);
        }
        if height == LEAF_ORDER {
            let wanted = if free { node.bits() } else { !node.bits() } & mask(lo - base, hi - base);
            return (wanted != 0).then(|| base + wanted.trailing_zeros());
        }
        self.first_below(height - 1, number * 2, lo, hi, free)
            .or_else(|| self.first_below(height - 1, number * 2 + 1, lo, hi, free))
    }

    /// Returns the last unit of `[lo, hi)` that is free, or that is taken.
    fn last(&self, lo: u32, hi: u32, free: bool) -> Option<u32> {
        if lo >= hi {
            return None;
        }
        self.last_below(self.height, self.root(), lo, hi, free)
    }

    fn last_below(&self, height: u32, number: u32, lo: u32, hi: u32, free: bool) -> Option<u32> {
        let base = number << height;
        let (lo, hi) = (lo.max(base), hi.min(base + (1 << height)));
        if lo >= hi {
            return None;
        }
        let node = self.node(height, number);
        if let Some(all) = node.uniform(height) {
            return (all == free).then_some(hi - 1);
        }
        if height == LEAF_ORDER {
            let wanted = if free { node.bits() } else { !node.bits() } & mask(lo - base, hi - base);
            return (wanted != 0).then(|| base + wanted.ilog2());
        }
        self.last_below(height - 1, number * 2 + 1, lo, hi, free)
            .or_else(|| self.last_below(height - 1, number * 2, lo, hi, free))
    }

    /// Calls `each` with each free run that has a unit of `[lo, hi)`, whole.
    pub(super) fn runs_at(&self, lo: u32, hi: u32, mut each: impl FnMut(Range<u32>)) {
        let Range { start, end } = self.units;
        let (mut from, to) = (lo.max(start), hi.min(end));
        while let Some(at) = self.first(from, to, true) {
            let first = if at > from { at } else { self.last(start, at, false).map_or(start, |taken| taken + 1) };
            from = self.first(at, end, false).unwrap_or(end);
            each(first..from);
        }
    }

    // --- changes ---

    /// Makes the units `[lo, hi)`, all of them taken or all of them free, the other.
    pub(super) fn set_run(&mut self, lo: u32, hi: u32, free: bool) {
        let lowest = height_of(lo, hi);
        self.refresh_path(lowest, lo);
        self.set_below(lowest, lo >> lowest, lo, hi, free);
        self.rejoin_path(lowest, lo);
    }

    fn set_below(&mut self, height: u32, number: u32, lo: u32, hi: u32, free: bool) {
        let base = number << height;
        let (lo, hi) = (lo.max(base), hi.min(base + (1 << height)));
        if lo >= hi {
            return;
        }
        if hi - lo == 1 << height {
            let at = self.at(height, number);
            self.nodes[at].fill(free, height);
        } else if height == LEAF_ORDER {
            let at = self.at(height, number);
            self.nodes[at] = Node::leaf(self.nodes[at].bits() ^ mask(lo - base, hi - base));
        } else {
            self.refresh(height, number);
            self.set_below(height - 1, number * 2, lo, hi, free);
            self.set_below(height - 1, number * 2 + 1, lo, hi, free);
            self.rejoin(height, number);
        }
    }

    /// Refreshes the halves of all blocks that hold the unit `at` and are higher than `height`.
    fn refresh_path(&mut self, height: u32, at: u32) {
        for height in (height + 1..=self.height).rev() {
            self.refresh(height, at >> height);
        }
    }

    /// Gives the two halves of a block that is all free or all taken, which are stale, its state.
    fn refresh(&mut self, height: u32, number: u32) {
        let Some(all) = self.node(height, number).uniform(height) else { return };
        let left = self.at(height - 1, number * 2);
        self.nodes[left..left + 2].iter_mut().for_each(|child| child.fill(all, height - 1));
    }

    /// Makes all blocks that hold the unit `at` and are higher than `height` agree with their halves.
    fn rejoin_path(&mut self, height: u32, at: u32) {
        for height in height + 1..=self.height {
            if !self.rejoin(height, at >> height) {
                break;
            }
        }
    }

    /// Makes a node agree with its halves. Returns whether it has changed.
    fn rejoin(&mut self, height: u32, number: u32) -> bool {
        let (at, left) = (self.at(height, number), self.at(height - 1, number * 2));
        let (below, above) = self.nodes.split_at_mut(at);
        above[0].join(&below[left], &below[left + 1], height)
    }
}

#[cfg(test)]
impl Tree<'_> {
    /// Copies the tree, with its nodes in `nodes`.
    pub(super) fn copy<'b>(&self, nodes: &'b mut std::vec::Vec<Node>) -> Tree<'b> {
        *nodes = self.nodes.to_vec();
        Tree { nodes, rows: self.rows, height: self.height, units: self.units.clone(), visits: self.visits.clone() }
    }

    /// Gives every leaf its bits, and makes all nodes above agree.
    pub(super) fn load(&mut self, bits: impl Fn(u32) -> u64) {
        for number in 0..self.units.end >> LEAF_ORDER {
            let at = self.at(LEAF_ORDER, number);
            self.nodes[at] = Node::leaf(bits(number));
        }
        for height in LEAF_ORDER + 1..=self.height {
            for number in 0..self.units.end >> height {
                self.rejoin(height, number);
            }
        }
    }

    /// Returns how many nodes were looked at since it was asked last.
    pub(super) fn visits(&self) -> u32 {
        self.visits.take()
    }
}
