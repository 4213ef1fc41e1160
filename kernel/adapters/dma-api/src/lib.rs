//! Carveout under drivers of [dma-api](dma_api), which are drivers of `NVMe`, SD cards, USB and networks: its
//! [`DmaOp`](dma_api::DmaOp) over a [`Dma`](carveout::dma::Dma).
//!
//! Guarantees:
//!
//! - All that a device is shown is coherent memory: what a driver allocates, whatever it calls it, and a copy of what
//!   it maps. It has one attribute (I1) and is zeroed (I5). No line is maintained, so a driver that forgets a sync
//!   reads no stale one.
//! - Mask, alignment, boundary and largest segment are kept, those of the device and those of the request, or the
//!   request is refused: [`DeviceMemory::take_refusal`] says why.
//! - What a driver frees wrongly is not free: it is in quarantine (I4).
//!
//! A device has a [`DeviceMemory`], and its driver is made with [`DeviceMemory::device`]:
//!
//! ```
//! use carveout::dma::{Dma, Master};
//! use carveout::machine::Machine;
//! use carveout_dma_api::DeviceMemory;
//! use dma_api::{DeviceDma, DmaDirection, DmaError};
//!
//! fn memory<M: Machine + Send + Sync>(dma: &'static Dma<M>) -> DeviceDma {
//!     let master = Master::new("nvme", dma.area("linux,cma"));
//!     // SAFETY: the driver's controller is shut down before the driver is dropped (I4).
//!     let memory = unsafe { DeviceMemory::new(dma, master) };
//!     Box::leak(Box::new(memory)).device()
//! }
//!
//! // What drivers do with it.
//! fn read(device: &DeviceDma, disk: impl Fn(u64)) -> Result<[u8; 512], DmaError> {
//!     let sector = device.contiguous_array_zero::<u8>(512, DmaDirection::FromDevice)?;
//!     sector.prepare_for_device(0..512);
//!     disk(sector.dma_addr().as_u64());
//!     let mut bytes = [0; 512];
//!     sector.copy_from_device_to_slice(&mut bytes);
//!     Ok(bytes)
//! }
//! ```
#![no_std]

mod memory;
mod op;
mod request;

pub use memory::DeviceMemory;
pub use request::Refusal;
