//! Carveout under [virtio-drivers](virtio_drivers): the [`Hal`](virtio_drivers::Hal) of its drivers over a
//! [`Dma`](carveout::dma::Dma).
//!
//! Guarantees:
//!
//! - Rings are coherent buffers, zeroed (I5), and the device's alone once its driver gave them up: they are freed only
//!   after the device was reset and said so. Otherwise they go into quarantine (I4).
//! - The data of a request may be a stream that the device owns. No mapping of it exists meanwhile (I4), and nothing is
//!   copied: [`DeviceMemory::source`], [`DeviceMemory::target`]. It may be a block of a pool instead, which stays
//!   mapped: [`DeviceMemory::source_block`], [`DeviceMemory::target_block`].
//! - All other memory that a driver shares is bounced. The device sees a copy in coherent memory, and never the
//!   driver's own bytes. So no line of a cache has to be maintained for them, whatever else shares the line.
//! - The device is told of a request only after all of it is in memory ([`Guarded`]).
//!
//! A device has a [`DeviceMemory`]; a type that implements [`Provider`] names it; the driver is made of
//! [`DmaHal`] and [`Guarded`] of that type:
//!
//! ```
//! use carveout::dma::FromDevice;
//! use carveout::fake::Fake;
//! use carveout::setup::Setup;
//! use carveout_virtio::{DeviceMemory, DmaHal, Guarded, Provider};
//! use virtio_drivers::device::blk::VirtIOBlk;
//! use virtio_drivers::transport::Transport;
//!
//! thread_local! {
//!     // On a board: a static, made at boot over the kernel's own `Dma`.
//!     static DISK: &'static DeviceMemory<Fake> = {
//!         let Setup { dma, .. } = Setup::new(1);
//!         let master = carveout::dma::Master::new("disk", dma.area("test"));
//!         Box::leak(Box::new(DeviceMemory::new(dma, master, 4096, 64 << 10).expect("room")))
//!     };
//! }
//!
//! struct Disk;
//!
//! // SAFETY: one device alone uses this memory, through `Guarded<Disk, _>` (I4).
//! unsafe impl Provider for Disk {
//!     type Machine = Fake;
//!     fn memory() -> &'static DeviceMemory<Fake> {
//!         DISK.with(|disk| *disk)
//!     }
//! }
//!
//! fn boot_sector<T: Transport>(transport: T) -> virtio_drivers::Result<[u8; 512]> {
//!     let mut disk = VirtIOBlk::<DmaHal<Disk>, _>::new(Guarded::<Disk, _>::new(transport))?;
//!     let memory = Disk::memory();
//!     let buffer = memory.dma().alloc(memory.master(), 64 << 10, 1).expect("one contiguous run");
//!     let sectors = buffer.into_stream::<FromDevice>().for_device(); // the disk's: nothing maps it now
//!     disk.read_blocks(0, &mut memory.target(&sectors, 0..64 << 10).expect("nobody else asks"))?;
//!     // SAFETY: the request is complete (I4).
//!     let sectors = unsafe { sectors.for_cpu() };
//!     Ok(sectors.values()[0])
//! }
//! ```
#![no_std]

extern crate alloc;

mod bounce;
mod hal;
mod memory;
mod stand_in;
mod transport;

pub use hal::{DmaHal, Provider};
pub use memory::{DeviceMemory, MemoryError};
pub use stand_in::{HandError, Handed, HandedMut};
pub use transport::{Guarded, RESET_POLLS};
