//! Buffers of devices alone.

use crate::dma::buffer::raw::Raw;
use crate::machine::Machine;

/// A buffer for devices alone: one device writes it, another reads it, and the CPU never does. It is Linux's
/// `NO_KERNEL_MAPPING`, but it is zeroed when it is made. Dropping it quarantines it once its address was told.
///
/// An owner that keeps it for its next job pays nothing: it is not zeroed again, and no cache line is touched.
pub struct DeviceOnly<M: Machine + 'static> {
    pub(super) raw: Raw<M>,
}
