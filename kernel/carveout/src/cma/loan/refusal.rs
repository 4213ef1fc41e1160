//! Refusals: why a borrower got nothing, or a page cannot be used.
//!
//! Guarantee: a refusal changed nothing.

use super::refuge::SPARES;
use super::tenant::{MAX_BORROWERS, MAX_BUDGET};
use core::fmt;

/// Says why a borrower was not registered, or got nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LendError {
    /// There is no such area.
    NoArea,
    /// The area is `no-map` only, not `reusable`.
    NotLendable,
    /// The budget has no pages, or more than [`MAX_BUDGET`].
    Budget {
        /// Pages asked for.
        pages: u32,
    },
    /// As many as [`MAX_BORROWERS`] are registered.
    TooManyBorrowers,
    /// The heap has no room for the books of so many pages or, if the pages are moved on recall, for their refuge.
    Heap {
        /// Pages asked for.
        pages: u32,
    },
    /// All pages of the budget are lent.
    Spent {
        /// The budget.
        pages: u32,
    },
    /// No frame is idle.
    NothingIdle,
}

impl fmt::Display for LendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArea => write!(f, "there is no such area to borrow from"),
            Self::NotLendable => {
                write!(f, "the area is never lent: it is not reusable; carve it out as one that may be lent")
            }
            Self::Budget { pages } => write!(f, "a budget of {pages} pages is not possible (1 to {MAX_BUDGET})"),
            Self::TooManyBorrowers => {
                write!(f, "all {MAX_BORROWERS} borrowers of the area are registered; drop one first")
            }
            Self::Heap { pages } => write!(f, "no heap left for a borrower of {pages} pages"),
            Self::Spent { pages } => write!(f, "all {pages} pages of the budget are lent; give some back first"),
            Self::NothingIdle => write!(f, "no frame is idle; try again when buffers were freed"),
        }
    }
}

impl core::error::Error for LendError {}

/// Says why a page cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoanError {
    /// The loan was given back, or is another borrower's.
    Stale,
    /// The page was recalled: its bytes are gone.
    Recalled {
        /// Its number in the loan.
        page: u32,
    },
    /// The loan has fewer pages, or a page fewer bytes.
    Range {
        /// The page.
        page: u32,
        /// The first byte.
        offset: usize,
        /// Bytes asked for.
        len: usize,
    },
    /// The page is open already: a closure runs over it.
    InUse {
        /// Its number in the loan.
        page: u32,
    },
    /// As many as [`SPARES`] pages are open: closures nest too deep.
    TooManyOpen,
}

impl fmt::Display for LoanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale => write!(f, "the loan was given back, or is another borrower's"),
            Self::Recalled { page } => {
                write!(f, "page {page} of the loan was recalled; get what it held from where it came")
            }
            Self::Range { page, offset, len } => {
                write!(f, "{len} bytes from {offset} of page {page} are not all in the loan")
            }
            Self::InUse { page } => write!(f, "page {page} of the loan is open already; close it first"),
            Self::TooManyOpen => write!(f, "{SPARES} pages are open already; close one first"),
        }
    }
}

impl core::error::Error for LoanError {}
