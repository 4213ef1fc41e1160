//! The minimal kernel: it boots the machine from the head's handover, and runs it.
//!
//! It finds devices in the device tree, gives each to a driver, and knows nothing of the demo.

pub mod devices;

#[cfg(target_arch = "arm")]
pub mod bring_up;
#[cfg(target_arch = "arm")]
pub mod console;
#[cfg(target_arch = "arm")]
pub mod cores;
#[cfg(target_arch = "arm")]
pub mod flush;
#[cfg(target_arch = "arm")]
pub mod frames;
#[cfg(target_arch = "arm")]
mod heap;
#[cfg(target_arch = "arm")]
pub mod interrupts;
#[cfg(target_arch = "arm")]
pub mod known;
#[cfg(target_arch = "arm")]
pub mod process;
#[cfg(target_arch = "arm")]
mod rank;
#[cfg(all(target_arch = "arm", feature = "events"))]
pub mod record;
#[cfg(target_arch = "arm")]
mod registers;
#[cfg(target_arch = "arm")]
pub mod report;
#[cfg(target_arch = "arm")]
pub mod schedule;
#[cfg(target_arch = "arm")]
pub mod state;
#[cfg(target_arch = "arm")]
mod stores;
