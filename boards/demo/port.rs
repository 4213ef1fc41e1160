//! The mock devices' way to memory: [`BusMaster`] over the DMA API's port.

use super::mock::{BusError, BusFault, BusMaster, Window};
use carveout::dma::{Dma, Master, Port, PortError, PortView};
use carveout_armv7a::mmu::Armv7a;

/// The port of one mock device.
pub struct DevicePort(Port<Armv7a>);

impl DevicePort {
    /// Makes the port of `master`.
    ///
    /// # Safety
    ///
    /// As for [`Port::new`] (I4). A buffer is open while a method of [`BusMaster`] runs. Until that method returns,
    /// nobody drops, releases or hands back the buffer, or accesses it if it is coherent.
    pub const unsafe fn new(dma: &'static Dma<Armv7a>, master: Master) -> Self {
        // SAFETY: only the methods of `BusMaster` call `open`, and they drop what it gives. The contract of this
        // function covers that time (I4).
        Self(unsafe { Port::new(dma, master) })
    }

    /// Returns the lines that the port dropped from the caches of both levels. This is the cost of the mock.
    pub fn lines(&self) -> u64 {
        let lines = self.0.lines();
        lines.inner + lines.outer
    }

    fn open(&self, window: Window) -> Result<PortView<Armv7a>, BusError> {
        self.0.open(window.at, window.len).map_err(|error| {
            log::debug!("{error}");
            let reason = match error {
                PortError::Length { .. } => BusFault::PastTheEnd,
                PortError::InUse { .. } => BusFault::Overlap,
                _ => BusFault::NotGranted,
            };
            BusError { window, reason }
        })
    }
}

impl BusMaster for DevicePort {
    fn read<R>(&mut self, from: Window, f: impl FnOnce(&[u8]) -> R) -> Result<R, BusError> {
        Ok(f(self.open(from)?.bytes()))
    }

    fn write<R>(&mut self, to: Window, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, BusError> {
        Ok(f(self.open(to)?.bytes_mut()))
    }

    fn read_write<R>(
        &mut self,
        from: Window,
        to: Window,
        f: impl FnOnce(&[u8], &mut [u8]) -> R,
    ) -> Result<R, BusError> {
        let source = self.open(from)?;
        let mut destination = self.open(to)?;
        Ok(f(source.bytes(), destination.bytes_mut()))
    }
}
