//! The kinds of loan: one table, a row each.
//!
//! Guarantee: all that is done differently for one kind than for another follows from its row. To add a kind, write its
//! row here and its public type in [`crate::dma::loan`].
//!
//! `cost` says what a recall of one page takes, in units of about 30 instructions. The rows stand in the order of their
//! cost. The second row costs more than `ROWS[0].cost + CACHED + HIGH`. So a page of the first kind is cheaper than any
//! other page, even if caches may hold lines of it and its borrower's priority is high.
//!
//! A search for a small window (32 frames or fewer) tries kind after kind, so it never recalls a dear page where
//! cheaper ones suffice. A search for a larger window compares sums of costs. It may recall one dear page in place of
//! many cheap ones.
//!
//! A new kind's public type is exported by `dma/mod.rs` and stands in a list of `kernel/rt/tests/threads.rs`. Its
//! promise gets a mistake in `tests/mutants.toml` that breaks it.

/// What the module needs to know of a kind.
struct Row {
    /// What a recall of one of its pages costs, in units of about 30 instructions (docs/src/loans.md).
    cost: u32,
    /// What a recall does with a page.
    recall: Recall,
}

/// What a recall does with a page.
enum Recall {
    /// It forgets the page. In the refuge such a page is a guest: it goes when a page that is moved needs its frame.
    Forget,
    /// It moves the page's bytes to another frame. So each page of a budget brings a frame to the refuge (I6).
    Move,
}

/// Makes [`PageKind`] and the table of its rows.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident: $row:expr,)*) => {
        /// Says what becomes of a borrower's page when its frame is recalled.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum PageKind {
            $($(#[$doc])* $kind,)*
        }

        const ROWS: [Row; [$(PageKind::$kind),*].len()] = [$($row),*];
    };
}

// From the cheapest to the dearest; those that are forgotten first.
kinds! {
    /// It is forgotten: what it held can be had again.
    Discardable: Row { cost: 2, recall: Recall::Forget },
    /// It is copied elsewhere first.
    Movable: Row { cost: 22, recall: Recall::Move },
}

/// Kinds but the first, which is the cheapest. These are the *dear* kinds, counted from 0.
pub(super) const DEAR: usize = ROWS.len() - 1;

/// What a recall of a page of the cheapest kind costs.
pub(super) const CHEAPEST: u32 = ROWS[0].cost;

/// What a recall of a page costs more, in the same units, if caches may hold lines of its frame.
pub(super) const CACHED: u32 = 12;
/// What it costs more if the borrower's priority is high. This breaks ties.
pub(super) const HIGH: u32 = 1;

// A search for a small window tries kind after kind, so the table has the order in which they are recalled.
const _: () = {
    assert!(ROWS[0].recall.forgets(), "the cheapest kind is forgotten");
    assert!(
        DEAR == 0 || ROWS[1].cost > CHEAPEST + CACHED + HIGH,
        "a dear kind costs more than any page of the cheapest"
    );
    let mut n = 1;
    while n < DEAR {
        assert!(ROWS[n].cost < ROWS[n + 1].cost, "in the order of their cost");
        assert!(ROWS[n].recall.forgets() || !ROWS[n + 1].recall.forgets(), "those that are forgotten first");
        n += 1;
    }
};

impl Recall {
    const fn forgets(&self) -> bool {
        matches!(self, Self::Forget)
    }
}

impl PageKind {
    /// Returns whether a recall forgets its pages. Else it moves them.
    pub(super) const fn is_forgotten(self) -> bool {
        ROWS[self as usize].recall.forgets()
    }

    /// Returns its number among the dear kinds, or `None` of the cheapest.
    pub(super) const fn dear(self) -> Option<usize> {
        (self as usize).checked_sub(1)
    }
}

/// Returns whether a recall forgets pages of a dear kind.
pub(super) const fn dear_is_forgotten(dear: usize) -> bool {
    ROWS[dear + 1].recall.forgets()
}

/// Returns what a recall of a page of a dear kind costs more than one of the cheapest.
pub(super) const fn extra(dear: usize) -> u32 {
    ROWS[dear + 1].cost - CHEAPEST
}

/// Says whose frames are recalled first, of two borrowers whose recall costs the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LoanPriority {
    /// Its frames are recalled first.
    Low,
    /// Its frames are recalled last.
    High,
}
