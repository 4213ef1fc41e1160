//! Contiguous areas: which carved frames are free, who gets them, what is promised and what is lent.

pub mod area;
pub mod contract;
pub mod index;
#[cfg(feature = "loans")]
pub mod loan;
#[cfg(not(feature = "loans"))]
#[path = "loan/left_out.rs"]
pub(crate) mod loan;
pub mod reach;
pub(crate) mod reserve;
