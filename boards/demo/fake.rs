//! Helpers for the demo's tests.

use carveout::dma::{Borrower, Loan, LoanPriority, Movable, SPARES};
use carveout::fake::Fake;
use carveout::setup::Setup;

/// Runs `run` while the largest possible number of lent pages is open.
pub(crate) fn with_all_open(setup: &Setup, run: &mut dyn FnMut()) {
    fn nest(other: &Borrower<Fake, Movable>, loan: Loan, page: u32, run: &mut dyn FnMut()) {
        if page == SPARES {
            run();
        } else {
            other.with(loan, page, |_| nest(other, loan, page + 1, run)).unwrap();
        }
    }
    let area = setup.dma.area("test").unwrap();
    let other = setup.dma.borrower(area, "other", SPARES, LoanPriority::Low).unwrap();
    nest(&other, other.borrow(SPARES).unwrap(), 0, run);
}
