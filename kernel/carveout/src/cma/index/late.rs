//! The last changes to the units, kept beside the tree.
//!
//! Often a later call undoes a change: a buffer is freed and one like it is allocated. And often there is time later:
//! after a free, before the next search. So the tree is told of a change only when somebody's question needs it, or
//! when [`MOST`] others came after it. Guarantees:
//!
//! - Nobody reads a tree that has not been told of all: [`LateTree::settle`] is the only way to it, but for a look at
//!   units
//!   that no late change is of.
//! - Late changes have no unit in common. So the tree can be told of them in any order.

use super::tree::Tree;
use arrayvec::ArrayVec;
use core::ops::Range;

/// The most changes that are late.
const MOST: usize = 8;

/// A run that became free, or was taken, since the tree was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Late {
    lo: u32,
    hi: u32,
    free: bool,
}

/// Knows which units are free: a tree, and the last changes, of which the tree is told later.
#[derive(Debug)]
pub(super) struct LateTree<'a> {
    tree: Tree<'a>,
    late: ArrayVec<Late, MOST>,
    /// The version of the units, and that of what the tree was told.
    version: u32,
    told: u32,
    /// The last version that was new.
    newest: u32,
    /// The runs that changed since [`forget_changes`](Self::forget_changes), or `None` if they were more than fit.
    changes: Option<ArrayVec<(u32, u32), MOST>>,
}

impl<'a> LateTree<'a> {
    pub(super) const fn new(tree: Tree<'a>) -> Self {
        Self { tree, late: ArrayVec::new_const(), version: 0, told: 0, newest: 0, changes: None }
    }

    /// Returns a number that tells sets of free units apart. It is that of before again once all changes since the tree
    /// was told of one are undone.
    pub(super) const fn version(&self) -> u32 {
        self.version
    }

    /// Tells the tree what changed, and returns it.
    pub(super) fn settle(&mut self) -> &Tree<'a> {
        if !self.late.is_empty() {
            self.tell();
        }
        &self.tree
    }

    /// Tells the tree what changed. It is a call of its own, for most searches find the tree told already.
    #[inline(never)]
    fn tell(&mut self) {
        self.told = self.version;
        for Late { lo, hi, free } in self.late.drain(..) {
            self.tree.set_run(lo, hi, free);
        }
    }

    /// Tells the tree of one change, so that there is room for another.
    #[cold]
    #[inline(never)]
    fn tell_one(&mut self) {
        let Late { lo, hi, free } = self.late.remove(0);
        self.tree.set_run(lo, hi, free);
        // What the tree knows now, nobody has known before.
        self.told = self.new_version();
    }

    /// Makes the units `[lo, hi)` free, or taken, if all of them are the other. Returns whether they were.
    pub(super) fn change(&mut self, lo: u32, hi: u32, free: bool) -> bool {
        if self.undo(lo, hi, free) {
            return true;
        }
        if self.late.iter().any(|late| late.lo < hi && lo < late.hi) {
            self.settle();
        }
        let all = self.tree.first(lo, hi, free).is_none();
        if all {
            self.add(lo, hi, free);
        }
        all
    }

    /// Makes the units `[lo, hi)`, all of them taken or all of them free, the other.
    #[inline]
    pub(super) fn mark(&mut self, lo: u32, hi: u32, free: bool) {
        if self.undo(lo, hi, free) {
            return;
        }
        if self.late.iter().any(|late| late.lo < hi && lo < late.hi) {
            self.settle();
        }
        self.add(lo, hi, free);
    }

    /// Forgets the late change that this one undoes, if there is one.
    #[inline]
    fn undo(&mut self, lo: u32, hi: u32, free: bool) -> bool {
        let undone = Late { lo, hi, free: !free };
        let Some(at) = self.late.iter().rposition(|&late| late == undone) else { return false };
        self.late.remove(at);
        match &mut self.changes {
            Some(changes) if changes.last() == Some(&(lo, hi)) => drop(changes.pop()),
            _ => self.note(lo, hi),
        }
        self.version = if self.late.is_empty() { self.told } else { self.new_version() };
        true
    }

    #[inline]
    fn add(&mut self, lo: u32, hi: u32, free: bool) {
        if self.late.is_full() {
            self.tell_one();
        }
        self.late.push(Late { lo, hi, free });
        self.note(lo, hi);
        self.version = self.new_version();
    }

    /// Adds a run to those that changed.
    #[inline]
    fn note(&mut self, lo: u32, hi: u32) {
        if let Some(changes) = &mut self.changes
            && changes.try_push((lo, hi)).is_err()
        {
            self.changes = None;
        }
    }

    /// Returns the runs that changed since [`forget_changes`](Self::forget_changes), unless they were too many, with
    /// the tree, which was told of them.
    pub(super) fn changes(&mut self) -> (Option<&[(u32, u32)]>, &Tree<'a>) {
        if !self.late.is_empty() {
            self.tell();
        }
        (self.changes.as_deref(), &self.tree)
    }

    /// Forgets which runs changed.
    pub(super) fn forget_changes(&mut self) {
        self.changes = Some(ArrayVec::new_const());
    }

    #[inline]
    const fn new_version(&mut self) -> u32 {
        self.newest = self.newest.wrapping_add(1);
        self.newest
    }

    /// Returns the offsets of the units.
    pub(super) const fn units(&self) -> &Range<u32> {
        &self.tree.units
    }
}

#[cfg(test)]
impl LateTree<'_> {
    /// Copies the tree as it is, with its nodes in `nodes`, and the late changes beside it.
    pub(super) fn copy<'b>(&self, nodes: &'b mut std::vec::Vec<super::Node>) -> LateTree<'b> {
        let (late, version, told, newest) = (self.late.clone(), self.version, self.told, self.newest);
        LateTree { tree: self.tree.copy(nodes), late, version, told, newest, changes: None }
    }

    /// Gives every leaf its bits.
    pub(super) fn load(&mut self, bits: impl Fn(u32) -> u64) {
        self.late.clear();
        self.tree.load(bits);
    }

    /// Returns how many nodes were looked at since it was asked last.
    pub(super) fn visits(&self) -> u32 {
        self.tree.visits()
    }
}
