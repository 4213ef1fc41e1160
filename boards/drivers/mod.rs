//! Drivers, by kind of device. A kind is a folder, and its `mod.rs` has the trait that its drivers implement.
//!
//! A driver knows its registers, and memory as the DMA API gives it. It knows neither the device tree nor the kernel:
//! [`known`](crate::kernel::known) is the table that maps a node's `compatible` to a driver. So a new driver is a file here
//! and a row there.

#[cfg(test)]
pub(crate) mod fake;
pub mod mmio;
pub mod wait;

pub mod display;
pub mod dma;
pub mod intc;
pub mod smp;
pub mod storage;
pub mod timer;
pub mod uart;
