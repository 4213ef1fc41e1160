//! A buffer of devices alone.

use crate::dma::buffer::raw::Raw;
use crate::machine::Machine;

/// A buffer for devices alone: one writes it, another reads it, the CPU never does: Linux's `NO_KERNEL_MAPPING`, but
/// zeroed when it is made. Dropping quarantines it once its address was told.
///
/// Kept for the next job of the same owner it is not zeroed again, and no line is touched: that is the way to do
/// without zeroing.
pub struct DeviceOnly<M: Machine + 'static> {
    pub(super) raw: Raw<M>,
}
