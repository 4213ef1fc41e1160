//! A device's memory: what its driver allocates, and the copies of what its driver maps.
//!
//! Guarantees: a buffer is freed only if it is named as it was given out. One that is named otherwise is in quarantine
//! (I4).

use crate::request::{Refusal, Request};
use carveout::addr::BusAddr;
use carveout::dma::{Coherent, Dma, Master};
use carveout::machine::Machine;
use carveout::sync::{Lock, Rank};
use core::fmt;
use core::num::NonZeroU64;
use core::ptr::{self, NonNull};
use dma_api::{DeviceDma, DmaAddr, DmaCoherency, DmaConstraints, DmaDeviceInfo, DmaDomainId, DmaError};

/// The memory of one device: the backend that drivers of dma-api ask. It lives as long as the program, for a driver
/// keeps a reference.
pub struct DeviceMemory<M: Machine + 'static> {
    dma: &'static Dma<M>,
    master: Master,
    /// Why the last request was refused.
    refused: Lock<Option<Refusal>>,
}

impl<M: Machine> DeviceMemory<M> {
    /// Makes the memory of a device, which is `master` on its bus.
    ///
    /// # Safety
    ///
    /// I4: what the driver frees, its device has finished with. A driver of dma-api frees a buffer when its value is
    /// dropped, and is asked nothing then. So the device is stopped before a driver is dropped that does not stop it
    /// itself.
    pub const unsafe fn new(dma: &'static Dma<M>, master: Master) -> Self {
        Self { dma, master, refused: Lock::new(Rank::DMA, None) }
    }

    /// Returns the DMA API that it comes from.
    pub const fn dma(&self) -> &'static Dma<M> {
        self.dma
    }

    /// Returns the device as a bus master.
    pub const fn master(&self) -> &Master {
        &self.master
    }

    /// Takes the reason for which a request was last refused: dma-api says no more than
    /// [`NoMemory`](DmaError::NoMemory).
    pub fn take_refusal(&self) -> Option<Refusal> {
        self.refused.lock().take()
    }

    /// Allocates coherent memory, zeroed, as driver and device want it. Returns its first byte and its bus address.
    pub(crate) fn take(
        &self,
        constraints: &DmaConstraints,
        bytes: usize,
        align: usize,
    ) -> Result<(NonNull<u8>, DmaAddr), Refusal> {
        let taken = Request::new(&self.master, constraints, bytes, align).and_then(|request| {
            self.dma.alloc_coherent(&request.master, request.bytes, request.align).map_err(Refusal::Alloc)
        });
        match taken {
            Ok(buffer) => {
                let place = (buffer.as_ptr(), u64::from(buffer.bus().raw()).into());
                buffer.into_raw();
                Ok(place)
            }
            Err(refusal) => {
                *self.refused.lock() = Some(refusal);
                Err(refusal)
            }
        }
    }

    /// Frees what [`take`](Self::take) gave. If there is such a buffer at this bus address, but not as it is named, it
    /// goes into quarantine.
    ///
    /// # Errors
    ///
    /// [`DmaError::CoherentReleaseFailed`] if nothing was freed.
    pub(crate) fn give_back(&self, at: NonNull<u8>, bus: DmaAddr, bytes: usize) -> Result<(), DmaError> {
        let bus = u32::try_from(bus.as_u64()).map(BusAddr::new);
        let handle = bus.ok().and_then(|bus| self.dma.handle_on_bus(&self.master, bus));
        let buffer = handle.and_then(|handle| Coherent::from_raw(self.dma, handle).ok());
        let buffer = buffer.ok_or(DmaError::CoherentReleaseFailed)?;
        if buffer.as_ptr() != at || buffer.len() != bytes {
            // A device was told of it, so this puts it into quarantine.
            drop(buffer);
            return Err(DmaError::CoherentReleaseFailed);
        }
        // SAFETY: the device has finished with what its driver frees, as `new` demands (I4).
        unsafe { buffer.give_up() };
        Ok(())
    }
}

impl<M: Machine + Send + Sync> DeviceMemory<M> {
    /// Returns what a driver of dma-api is made with: this memory, and what the device can drive.
    ///
    /// The device is not coherent with the CPU's caches, and its memory is a domain of its own. So a buffer that was
    /// prepared for another device is refused: that device may reach other memory.
    pub fn device(&'static self) -> DeviceDma {
        // A reference is not 0.
        let domain =
            NonZeroU64::new(ptr::from_ref(self).addr() as u64).map_or(DmaDomainId::Direct, DmaDomainId::Translated);
        let constraints = DmaConstraints {
            addr_mask: self.master.mask().raw().into(),
            align: 1,
            boundary: self.master.boundary().map(|bytes| bytes as usize),
            max_segment_size: Some(self.master.max_segment() as usize),
        };
        DeviceDma::new(DmaDeviceInfo::new(domain, DmaCoherency::NonCoherent, constraints), self)
    }
}

impl<M: Machine> fmt::Debug for DeviceMemory<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMemory").field("master", &self.master).finish_non_exhaustive()
    }
}
