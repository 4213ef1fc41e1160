//! Drivers, by kind of device. Each kind has a folder. If a kernel can use several drivers of a kind in the same way,
//! the kind's `mod.rs` has the trait that they implement.
//!
//! A driver knows its registers, and the memory that the DMA API gives it. It knows neither the device tree nor the
//! kernel: `kernel/known.rs` is the table that maps a node's `compatible` to a driver. So a new driver is a file here
//! and a row there.

#[cfg(test)]
pub(crate) mod fake;
pub mod mmio;
pub mod wait;

pub mod display;
pub mod dma;
pub mod intc;
#[cfg(target_arch = "arm")]
pub mod net;
pub mod smp;
pub mod storage;
pub mod timer;
pub mod uart;
