//! The free-run index: which units of an area are free, kept outside the area.
//!
//! A unit is a frame of an area or a page of a virtual window; the index knows it only by its number. Guarantees:
//!
//! - **Exact.** [`Index::alloc`] fails only if no free run in the range asked for holds the count at the alignment.
//! - **O(log n)** in the units of the index for every call, whatever the fragmentation and whatever the count. One
//!   search takes that for each free run: the search for a bus that shifts the units' numbers by less than the
//!   alignment.
//! - **Refusals change nothing.** A unit is never handed out twice, nor freed twice.
//! - It never touches what it indexes: its nodes lie in memory the caller gives, two bytes a unit.
//!
//! The parts, each of which uses those before it:
//!
//! - `node`: what a block of units knows of its free runs, and how a block follows from its two halves;
//! - `tree`: the nodes over all units, what is asked of them and how they change;
//! - `late`: the last changes, of which the tree is told later;
//! - `fit`: the policies by which a request gets its place.

mod fit;
mod late;
mod node;
mod tree;

#[cfg(test)]
mod tests;

pub use node::{MAX_ALIGN_ORDER, Node};

use arrayvec::ArrayVec;
use core::fmt;
use core::iter;
use core::ops::Range;
pub(crate) use fit::Found;
use fit::{BestRun, Fit, GoodFit, LowestFit, Wanted};
use late::LateTree;
use tree::Tree;

/// Gives the most units an index may hold: 64 GiB of frames.
pub const MAX_UNITS: u32 = 1 << 24;

/// The most free runs beside changes that are looked at before a search is made after all.
const NEW_RUNS: usize = 16;

/// Numbers are counted from a multiple of the largest alignment, so that an aligned offset is an aligned number.
const ORIGIN_MASK: u32 = (1 << MAX_ALIGN_ORDER) - 1;

/// Says why the index refused. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IndexError {
    /// There are no units, more than [`MAX_UNITS`], or numbers past 32 bits.
    Size {
        /// Number of the first unit asked for.
        first: u32,
        /// Units asked for.
        units: u32,
    },
    /// The storage is too small.
    Storage {
        /// Nodes needed.
        needed: usize,
        /// Nodes given.
        given: usize,
    },
    /// The run is empty or not wholly in the index.
    Outside {
        /// Number of the run's first unit.
        start: u32,
        /// Units in the run.
        count: u32,
        /// The index's units.
        index: Range<u32>,
    },
    /// A unit of a run to be claimed is taken.
    NotFree {
        /// Number of the run's first unit.
        start: u32,
        /// Units in the run.
        count: u32,
    },
    /// A unit of a run to be freed is free: a double free, or never allocated.
    NotTaken {
        /// Number of the run's first unit.
        start: u32,
        /// Units in the run.
        count: u32,
    },
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size { first, units } => {
                write!(f, "an index of {units} units from {first:#x} is not possible (1 to {MAX_UNITS} units)")
            }
            Self::Storage { needed, given } => write!(f, "the index needs {needed} nodes of storage, {given} given"),
            Self::Outside { start, count, index } => write!(
                f,
                "{count} units from {start:#x} are not a run inside the index ({:#x} to {:#x})",
                index.start, index.end
            ),
            Self::NotFree { start, count } => write!(f, "{count} units from {start:#x} are not all free"),
            Self::NotTaken { start, count } => write!(f, "{count} units from {start:#x} are not all allocated"),
        }
    }
}

impl core::error::Error for IndexError {}

/// Keeps which units of an area are free, and finds places for requests.
///
/// A search is exact: it fails only if no free run in the range asked for holds the count at the alignment. Each call
/// takes O(log n) in the units of the index.
///
/// ```
/// use carveout::cma::{Index, Node};
///
/// let nodes = Index::nodes_needed(0x64000, 256).expect("as many units as an index holds");
/// let mut nodes = vec![Node::EMPTY; nodes];
/// let mut index = Index::new(0x64000, 256, &mut nodes)?; // 1 MiB of frames
/// index.take(0x64000, 1)?;
///
/// let start = index.alloc(8, 3, index.units()).expect("8 frames from a multiple of 8");
/// assert_eq!(start, 0x64008);
/// index.free(start, 8)?;
/// assert_eq!(index.free_units(), 255);
/// # Ok::<(), carveout::cma::IndexError>(())
/// ```
#[derive(Debug)]
pub struct Index<'a> {
    tree: LateTree<'a>,
    /// Number of offset 0.
    origin: u32,
    free: u32,
}

impl<'a> Index<'a> {
    /// Returns the nodes of storage that an index of `units` units from number `first` needs. Returns `None` if there
    /// can be no such index: it has no units, more than [`MAX_UNITS`], or numbers past 32 bits. A node is 64 bytes.
    /// There are two for 64 units, and at most four more for each doubling.
    pub const fn nodes_needed(first: u32, units: u32) -> Option<usize> {
        if units == 0 || units > MAX_UNITS || first.checked_add(units).is_none() {
            return None;
        }
        let start = first & ORIGIN_MASK;
        Some(Tree::nodes_needed(start, start + units))
    }

    /// Makes an index of `units` units, all free, the first of them number `first`. Takes O(log n): what the storage
    /// holds does not matter.
    ///
    /// # Errors
    ///
    /// [`IndexError::Size`] if there can be no such index, [`IndexError::Storage`] if it needs more nodes.
    pub fn new(first: u32, units: u32, storage: &'a mut [Node]) -> Result<Self, IndexError> {
        let Some(needed) = Self::nodes_needed(first, units) else {
            return Err(IndexError::Size { first, units });
        };
        let given = storage.len();
        let Some(nodes) = storage.get_mut(..needed) else {
            return Err(IndexError::Storage { needed, given });
        };
        let start = first & ORIGIN_MASK;
        let tree = LateTree::new(Tree::new(start..start + units, nodes));
        let origin = first & !ORIGIN_MASK;
        let mut index = Self { tree, origin, free: 0 };
        index.tree.mark(start, start + units, true);
        index.count(units, true);
        Ok(index)
    }

    /// Allocates `count` units whose first number is a multiple of 2^`align_order`, all with numbers in `within`.
    /// Returns that number; `None` if there is no such run, `count` is 0 or the order exceeds [`MAX_ALIGN_ORDER`].
    pub fn alloc(&mut self, count: u32, align_order: u8, within: Range<u32>) -> Option<u32> {
        let start = self.find(count, align_order, within)?;
        self.take_found(start, count);
        Some(start)
    }

    /// Returns where [`alloc`](Self::alloc) would put such a request, and takes nothing. It is so whenever the
    /// [`version`](Self::version) is as it is now.
    pub fn find(&mut self, count: u32, align_order: u8, within: Range<u32>) -> Option<u32> {
        self.foresee(count, align_order, within).map(|found| self.place_of(found))
    }

    /// Returns the number of the first unit of a place that was found.
    pub(crate) const fn place_of(&self, found: Found) -> u32 {
        self.origin + found.at
    }

    /// Finds what [`find`](Self::find) returns, in a form that [`carry`](Self::carry) takes.
    pub(crate) fn foresee(&mut self, count: u32, align_order: u8, within: Range<u32>) -> Option<Found> {
        let (wanted, all) = self.wanted(count, align_order, &within)?;
        let tree = self.tree.settle();
        if all { GoodFit::find(tree, &wanted) } else { LowestFit::find(tree, &wanted) }
    }

    /// Returns what a request asks for, and whether it may have any unit, or `None` if no index could give it.
    fn wanted(&self, count: u32, align_order: u8, within: &Range<u32>) -> Option<(Wanted, bool)> {
        let (lo, hi) = self.clip(within);
        let possible = count > 0 && align_order <= MAX_ALIGN_ORDER && lo < hi;
        possible.then(|| (Wanted { count, order: u32::from(align_order), lo, hi }, (lo..hi) == *self.tree.units()))
    }

    /// Makes what was found for requests, each with its count and the order of its alignment, hold at this version,
    /// without a search. Each was found since this was called last. `None` becomes of what only a search can tell.
    pub(crate) fn carry<'f>(&mut self, all: impl Iterator<Item = (u32, u8, &'f mut Option<Found>)>) {
        let (changes, tree) = self.tree.changes();
        let mut new: ArrayVec<Range<u32>, NEW_RUNS> = ArrayVec::new();
        let mut known = changes.is_some();
        for &(lo, hi) in changes.unwrap_or(&[]) {
            tree.runs_at(lo.saturating_sub(1), hi + 1, |run| known &= new.contains(&run) || new.try_push(run).is_ok());
        }
        for (count, order, found) in all {
            let touched = |best: BestRun| {
                let end = best.start + best.length;
                changes.unwrap_or(&[]).iter().any(|&(lo, hi)| lo <= end && best.start <= hi)
            };
            let Some(mut best) = found.and_then(|found| found.best).filter(|_| known) else {
                *found = None;
                continue;
            };
            // No run that was there before is better than the best was. A new one may be.
            if touched(best) {
                *found = None;
            }
            let wanted = Wanted { count, order: order.into(), lo: 0, hi: u32::MAX };
            for run in &new {
                let other = BestRun { length: run.end - run.start, start: run.start };
                if other < best
                    && let Some(at) = wanted.fit(run.start, run.end)
                {
                    best = other;
                    *found = Some(Found { at, best: Some(best) });
                }
            }
        }
        self.tree.forget_changes();
    }

    /// Returns where the lowest fit of `count` units begins, all with numbers in `within`, at an alignment that is not
    /// of the units' own numbers. `up` returns the next aligned number from a number on. O(log n) a free run.
    pub(crate) fn find_by(&mut self, count: u32, within: Range<u32>, up: impl Fn(u32) -> u32) -> Option<u32> {
        let mut from = within.start;
        loop {
            let run = self.first_run(from..within.end)?;
            let at = up(run.start);
            if at < run.end && count <= run.end - at {
                return Some(at);
            }
            from = run.end;
        }
    }

    /// Returns a number that tells sets of free units apart: while it is the same, or is the same again, the same units
    /// are free. So what was found can be kept. It is the same again only after a change that undid the last one.
    pub fn version(&self) -> u32 {
        self.tree.version()
    }

    /// Takes what [`find`](Self::find) found at this very [`version`](Self::version).
    #[inline]
    pub(crate) fn take_found(&mut self, start: u32, count: u32) {
        let at = start - self.origin;
        self.tree.mark(at, at + count, false);
        self.count(count, false);
    }

    /// Claims exactly the `count` units from `start`.
    ///
    /// # Errors
    ///
    /// [`IndexError::Outside`], or [`IndexError::NotFree`] unless all of them are free.
    pub fn take(&mut self, start: u32, count: u32) -> Result<(), IndexError> {
        let (lo, hi) = self.offsets(start, count)?;
        if self.change(lo, hi, false) { Ok(()) } else { Err(IndexError::NotFree { start, count }) }
    }

    /// Frees the `count` units from `start`: a run that was allocated, a part of one, or several that touch.
    ///
    /// # Errors
    ///
    /// [`IndexError::Outside`], or [`IndexError::NotTaken`] unless all of them are taken.
    pub fn free(&mut self, start: u32, count: u32) -> Result<(), IndexError> {
        let (lo, hi) = self.offsets(start, count)?;
        if self.change(lo, hi, true) { Ok(()) } else { Err(IndexError::NotTaken { start, count }) }
    }

    /// Returns the numbers of the units.
    pub fn units(&self) -> Range<u32> {
        let Range { start, end } = *self.tree.units();
        self.origin + start..self.origin + end
    }

    /// Returns how many units are free.
    pub fn free_units(&self) -> u32 {
        self.free
    }

    /// Returns the length of the longest free run, in units.
    pub fn largest_run(&mut self) -> u32 {
        self.tree.settle().longest()
    }

    /// Returns the length of the longest free run of the numbers in `range`, in units.
    pub fn largest_run_in(&mut self, range: Range<u32>) -> u32 {
        let (lo, hi) = self.clip(&range);
        self.tree.settle().longest_in(lo, hi)
    }

    /// Returns whether [`find`](Self::find) would find such units. It does not choose among them: O(1) for all units
    /// once the index is settled, O(log n) for a part of them.
    pub fn has(&mut self, count: u32, align_order: u8, within: Range<u32>) -> bool {
        let Some((wanted, all)) = self.wanted(count, align_order, &within) else { return false };
        let tree = self.tree.settle();
        if all { wanted.fits_in(tree) } else { LowestFit::find(tree, &wanted).is_some() }
    }

    /// Returns the lowest free run of the numbers in `range`, as far as it lies in that.
    pub fn first_run(&mut self, range: Range<u32>) -> Option<Range<u32>> {
        let (lo, hi) = self.clip(&range);
        let tree = self.tree.settle();
        let start = tree.first(lo, hi, true)?;
        let end = tree.first(start, hi, false).unwrap_or(hi);
        Some(self.origin + start..self.origin + end)
    }

    /// Yields the free runs, by number, from the lowest; O(log n) each.
    pub fn runs(&mut self) -> impl Iterator<Item = Range<u32>> + '_ {
        let Range { start: mut from, end } = self.units();
        iter::from_fn(move || {
            let run = self.first_run(from..end)?;
            from = run.end;
            Some(run)
        })
    }

    /// Tells the tree of the last changes. Idle time calls it so that the next call need not.
    pub fn settle(&mut self) {
        self.tree.settle();
    }

    /// Returns the part of a range that is in the index, as offsets.
    fn clip(&self, range: &Range<u32>) -> (u32, u32) {
        let all = self.units();
        let lo = range.start.clamp(all.start, all.end);
        (lo - self.origin, range.end.clamp(lo, all.end) - self.origin)
    }

    /// Returns the run's offsets, if it is one of the index.
    fn offsets(&self, start: u32, count: u32) -> Result<(u32, u32), IndexError> {
        let all = self.units();
        match start.checked_add(count) {
            Some(end) if count > 0 && all.start <= start && end <= all.end => {
                Ok((start - self.origin, end - self.origin))
            }
            _ => Err(IndexError::Outside { start, count, index: all }),
        }
    }

    /// Makes the units `[lo, hi)` free, or taken, if all of them are the other. Returns whether they were.
    fn change(&mut self, lo: u32, hi: u32, free: bool) -> bool {
        let all = self.tree.change(lo, hi, free);
        if all {
            self.count(hi - lo, free);
        }
        all
    }

    fn count(&mut self, units: u32, free: bool) {
        self.free = if free { self.free + units } else { self.free - units };
    }
}
