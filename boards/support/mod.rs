//! What the boards share: drivers, mock devices, and the way from the head to a running kernel.

pub mod a9_timer;
#[cfg(target_arch = "arm")]
pub mod ahci;
#[cfg(target_arch = "arm")]
pub mod block;
#[cfg(target_arch = "arm")]
pub mod bring_up;
pub mod clock;
#[cfg(target_arch = "arm")]
pub mod console;
#[cfg(target_arch = "arm")]
pub mod copier;
#[cfg(target_arch = "arm")]
pub mod demo;
pub mod devices;
#[cfg(target_arch = "arm")]
pub mod disk;
pub mod dm_timer;
#[cfg(test)]
mod fake;
pub mod gic;
#[cfg(target_arch = "arm")]
pub mod interrupts;
pub mod irq;
pub mod mock;
pub mod ns16550;
pub mod omap_intc;
pub mod pl011;
pub mod pl081;
pub mod pl111;
pub mod pl181;
#[cfg(target_arch = "arm")]
pub mod port;
#[cfg(target_arch = "arm")]
pub mod report;
pub mod sp804;
pub mod sun4i_intc;
pub mod sun4i_timer;
