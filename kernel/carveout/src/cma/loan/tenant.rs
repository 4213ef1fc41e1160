//! Tenants: who has a frame of an area or of its refuge.
//!
//! Guarantee: a tenant is one word, for a frame has one always.

/// Gives the most borrowers an area can have.
pub const MAX_BORROWERS: usize = 255;
/// Gives the most pages one borrower can have.
pub const MAX_BUDGET: u32 = 1 << 24;

/// Who has a frame: nobody, or a page of a borrower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tenant(u32);

impl Tenant {
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn new(borrower: usize, page: u32) -> Self {
        Self((borrower as u32 + 1) << 24 | page)
    }

    /// Returns the borrower's number and the page's, if somebody has the frame.
    pub(super) const fn get(self) -> Option<(usize, usize)> {
        if self.0 == 0 { None } else { Some(((self.0 >> 24) as usize - 1, (self.0 & (MAX_BUDGET - 1)) as usize)) }
    }

    /// Returns the borrower's number and the page's, of a frame that somebody has.
    pub(super) const fn of_lent(self) -> (usize, usize) {
        self.get().expect("a lent frame has a tenant")
    }
}
