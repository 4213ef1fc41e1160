//! What the boards share: drivers and mock devices.

pub mod a9_timer;
pub mod gic;
pub mod mock;
pub mod pl011;
pub mod pl111;
pub mod sp804;
