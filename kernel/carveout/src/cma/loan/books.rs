//! Books: what each borrower has. Pages, loans and counters.
//!
//! Guarantees: a page is of one loan at most. No two loans have the same number, of whatever borrower, area or machine.
//! So a handle is good with the one borrower that got it, until it gives the loan back, and never again. All memory of
//! a book was taken from the heap when the borrower was registered.

use super::kind::PageKind;
use super::refusal::{LendError, LoanError};
use crate::cma::index::Index;
use crate::name::Name;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Names a loan. The name is good until the loan is given back. The loan's pages may be recalled before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Loan {
    /// No other loan ever has it.
    number: u64,
    first: u32,
    count: u32,
}

/// Loans made so far, by all areas of all machines. At one each nanosecond it would take 500 years to wrap.
static LOANS: AtomicU64 = AtomicU64::new(0);

impl Loan {
    /// Returns how many pages are lent, each of 4 KiB.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub const fn len(self) -> u32 {
        self.count
    }
}

/// Counts what a borrower has now, and what became of its pages since it was registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoanStats {
    /// Pages it has in the area.
    pub in_area: u32,
    /// Pages it has in the refuge.
    pub in_refuge: u32,
    /// Pages ever lent.
    pub lent: u64,
    /// Pages whose frame was recalled: discarded or moved.
    pub recalled: u64,
    /// Pages forgotten.
    pub discarded: u64,
    /// Pages copied elsewhere.
    pub moved: u64,
}

/// Where a page's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LoanPlace {
    /// Nowhere: the page is not lent, or was recalled.
    Gone,
    /// In this frame of the area.
    Area(u32),
    /// In this frame of the refuge.
    Refuge(u32),
}

/// What is known of a page of a budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoanPage {
    pub(super) place: LoanPlace,
    /// The number of the loan that begins here, or 0.
    loan: u64,
    /// It was given bytes. If not, it reads as zeros, whatever the frame holds (I5).
    pub(super) written: bool,
    pub(super) open: bool,
    pub(super) moving: bool,
}

impl LoanPage {
    /// A page of no loan.
    pub(super) const VACANT: Self =
        Self { place: LoanPlace::Gone, loan: 0, written: false, open: false, moving: false };
}

/// The book of one borrower.
#[derive(Debug)]
pub(super) struct LoanBook {
    pub(super) name: Name,
    pub(super) kind: PageKind,
    pub(super) high: bool,
    pub(super) pages: Vec<LoanPage>,
    /// Pages of no loan.
    pub(super) vacant: Index<'static>,
    pub(super) stats: LoanStats,
}

impl LoanBook {
    /// Begins a loan of up to `count` pages, none of which has a place yet. Returns the pages.
    pub(super) fn begin(&mut self, count: u32) -> Result<Range<u32>, LendError> {
        let spent = LendError::Spent { pages: self.pages.len() as u32 };
        let count = count.min(self.vacant.largest_run());
        let first = self.vacant.alloc(count, 0, 0..u32::MAX).ok_or(spent)?;
        Ok(first..first + count)
    }

    /// Makes the loan of those of `pages` that got a place: the first `got`.
    pub(super) fn finish(&mut self, pages: Range<u32>, got: u32) -> Result<Loan, LendError> {
        let unused = pages.end - pages.start - got;
        if unused > 0 {
            self.vacant.free(pages.start + got, unused).ok().expect("pages just taken");
        }
        if got == 0 {
            return Err(LendError::NothingIdle);
        }
        let number = LOANS.fetch_add(1, Ordering::Relaxed) + 1;
        self.pages[pages.start as usize].loan = number;
        Ok(Loan { number, first: pages.start, count: got })
    }

    /// Returns the pages of a loan, if its name is good.
    pub(super) fn pages_of(&self, loan: Loan) -> Result<Range<usize>, LoanError> {
        match self.pages.get(loan.first as usize) {
            Some(head) if head.loan == loan.number => Ok(loan.first as usize..(loan.first + loan.count) as usize),
            _ => Err(LoanError::Stale),
        }
    }

    /// Returns how many pages of a loan were not recalled.
    pub(super) fn left(&self, loan: Loan) -> Result<u32, LoanError> {
        let left = self.pages[self.pages_of(loan)?].iter().filter(|page| page.place != LoanPlace::Gone);
        Ok(left.count() as u32)
    }

    /// Ends a loan, whose pages have no place any more. Its name is stale from now on.
    pub(super) fn end(&mut self, loan: Loan) {
        self.pages[loan.first as usize].loan = 0;
        self.vacant.free(loan.first, loan.count).ok().expect("the loan's own pages");
    }
}

impl LoanStats {
    /// Counts pages in the area that were forgotten.
    pub(super) fn forgot_in_area(&mut self, count: u32) {
        self.in_area -= count;
        self.forgot(count);
    }

    /// Counts a guest of the refuge that was forgotten.
    pub(super) fn forgot_in_refuge(&mut self) {
        self.in_refuge -= 1;
        self.forgot(1);
    }

    fn forgot(&mut self, count: u32) {
        self.recalled += u64::from(count);
        self.discarded += u64::from(count);
    }
}
