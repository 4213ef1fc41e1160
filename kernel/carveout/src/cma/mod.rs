//! Contiguous areas: which carved frames are free, who gets them, what is promised and what is lent.

pub mod area;
pub mod contract;
pub mod index;
pub mod loan;
pub mod reach;
pub(crate) mod reserve;
