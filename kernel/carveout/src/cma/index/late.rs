//! The last change to the units, kept beside the tree.
//!
//! Often the next call undoes a change: a buffer is freed and one like it is allocated. So the tree is told of a change
//! only when somebody else's question or another change needs it. Guarantees:
//!
//! - Nobody reads a tree that has not been told of all: [`LateTree::settle`] is the only way to it.
//! - A change that does not undo the last one, nor falls into the same leaf, tells the tree of the last one first. So
//!   one change is kept at most.

use super::node::{LEAF_MASK, LEAF_ORDER, mask};
use super::tree::Tree;
use core::ops::Range;

/// What changed since the tree was told.
#[derive(Clone, Copy, Debug)]
enum Late {
    /// Units of one leaf, in any number of calls.
    Leaf {
        leaf: u32,
        /// Its free units.
        bits: u64,
        /// Its free units as the tree knows them.
        known: u64,
    },
    /// A run over several leaves, all of it free now or all of it taken.
    Run { lo: u32, hi: u32, free: bool },
}

/// Knows which units are free: a tree, and the last change, of which the tree is told later.
#[derive(Debug)]
pub(super) struct LateTree<'a> {
    tree: Tree<'a>,
    late: Option<Late>,
}

impl<'a> LateTree<'a> {
    pub(super) const fn new(tree: Tree<'a>) -> Self {
        Self { tree, late: None }
    }

    /// Tells the tree what changed, and returns it.
    pub(super) fn settle(&mut self) -> &Tree<'a> {
        if self.late.is_some() {
            self.tell();
        }
        &self.tree
    }

    /// Tells the tree what changed. It is a call of its own, for most searches find the tree told already.
    #[inline(never)]
    fn tell(&mut self) {
        match self.late.take() {
            Some(Late::Leaf { leaf, bits, known }) if bits != known => self.tree.set_leaf(leaf, bits),
            Some(Late::Run { lo, hi, free }) => self.tree.set_run(lo, hi, free),
            Some(Late::Leaf { .. }) | None => {}
        }
    }

    /// Makes the units `[lo, hi)` free, or taken, if all of them are the other. Returns whether they were.
    pub(super) fn change(&mut self, lo: u32, hi: u32, free: bool) -> bool {
        let leaf = lo >> LEAF_ORDER;
        if leaf == (hi - 1) >> LEAF_ORDER {
            let (bits, units) = (self.leaf(leaf), mask(lo & LEAF_MASK, (lo & LEAF_MASK) + (hi - lo)));
            let all = bits & units == if free { 0 } else { units };
            if all {
                self.flip(leaf, bits, units);
            }
            return all;
        }
        let all = self.undoes(lo, hi, free) || self.settle().first(lo, hi, free).is_none();
        if all {
            self.mark(lo, hi, free);
        }
        all
    }

    /// Makes the units `[lo, hi)`, all of them taken or all of them free, the other.
    pub(super) fn mark(&mut self, lo: u32, hi: u32, free: bool) {
        let leaf = lo >> LEAF_ORDER;
        if leaf == (hi - 1) >> LEAF_ORDER {
            let bits = self.leaf(leaf);
            self.flip(leaf, bits, mask(lo & LEAF_MASK, (lo & LEAF_MASK) + (hi - lo)));
        } else if self.undoes(lo, hi, free) {
            self.late = None;
        } else {
            self.settle();
            self.late = Some(Late::Run { lo, hi, free });
        }
    }

    /// Returns the free units of a leaf. Afterwards no other leaf has a change that the tree does not know.
    fn leaf(&mut self, leaf: u32) -> u64 {
        match self.late {
            Some(Late::Leaf { leaf: late, bits, .. }) if late == leaf => bits,
            _ => self.settle().leaf(leaf),
        }
    }

    /// Flips `units` of a leaf whose free units [`leaf`](Self::leaf) has just returned as `bits`.
    fn flip(&mut self, leaf: u32, bits: u64, units: u64) {
        let known = if let Some(Late::Leaf { known, .. }) = self.late { known } else { bits };
        self.late = Some(Late::Leaf { leaf, bits: bits ^ units, known });
    }

    /// Returns the offsets of the units.
    pub(super) const fn units(&self) -> &Range<u32> {
        &self.tree.units
    }

    /// Returns whether this is the last change the other way round.
    fn undoes(&self, lo: u32, hi: u32, free: bool) -> bool {
        matches!(self.late, Some(Late::Run { lo: first, hi: end, free: now }) if (first, end, now) == (lo, hi, !free))
    }
}

#[cfg(test)]
impl LateTree<'_> {
    /// Copies the tree as it is, with its nodes in `nodes`, and the last change beside it.
    pub(super) fn copy<'b>(&self, nodes: &'b mut std::vec::Vec<super::Node>) -> LateTree<'b> {
        LateTree { tree: self.tree.copy(nodes), late: self.late }
    }

    /// Gives every leaf its bits.
    pub(super) fn load(&mut self, bits: impl Fn(u32) -> u64) {
        self.late = None;
        self.tree.load(bits);
    }

    /// Returns how many nodes were looked at since it was asked last.
    pub(super) fn visits(&self) -> u32 {
        self.tree.visits()
    }
}
