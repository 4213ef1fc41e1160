//! Contiguous areas: which carved frames are free, who gets them, what is promised and what is lent.

pub(crate) mod area;
pub(crate) mod contract;
pub(crate) mod extent;
pub(crate) mod index;
#[cfg(feature = "loans")]
pub(crate) mod loan;
#[cfg(not(feature = "loans"))]
#[path = "loan/left_out.rs"]
pub(crate) mod loan;
pub(crate) mod reach;
pub(crate) mod reserve;

pub use area::Area;
pub use index::{Index, IndexError, MAX_ALIGN_ORDER, MAX_UNITS, Node};
