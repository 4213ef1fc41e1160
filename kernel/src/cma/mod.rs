//! Contiguous areas.

pub mod index;
