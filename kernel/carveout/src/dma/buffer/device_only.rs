//! A buffer of devices alone.

use crate::addr::BusAddr;
use crate::dma::buffer::raw::Raw;
use crate::dma::master::Master;
use crate::dma::segment::{ScatterError, Segment, segments_of};
use crate::machine::Machine;

/// A buffer for devices alone: one writes it, another reads it, the CPU never does: Linux's `NO_KERNEL_MAPPING`, but
/// zeroed when it is made. Dropping quarantines it once its address was told.
///
/// Kept for the next job of the same owner it is not zeroed again, and no line is touched: that is the way to do
/// without zeroing.
pub struct DeviceOnly<M: Machine + 'static> {
    pub(super) raw: Raw<M>,
}

impl<M: Machine> DeviceOnly<M> {
    /// The address to program into the devices. From here on a drop quarantines.
    pub fn bus(&self) -> BusAddr {
        self.raw.exposed.set(true);
        self.raw.bus
    }

    /// The same as a list for a device that takes segments, `master`, as [`Table::segments`](crate::dma::scatter::Table::segments)
    /// gives it: of a buffer that was allocated for another device it says whether `master` reaches it. From here on a
    /// drop quarantines.
    pub fn segments<'m>(&self, master: &'m Master) -> Result<impl Iterator<Item = Segment> + use<'m, M>, ScatterError> {
        let segments = segments_of(master, self.raw.frames, self.len())?;
        self.raw.exposed.set(true);
        Ok(segments)
    }
}
