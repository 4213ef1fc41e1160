//! Contiguous areas: which carved frames are free, and who gets them.

pub mod area;
pub mod index;
