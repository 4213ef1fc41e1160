//! The demo: a JPEG goes from a disk to the screen. Each hop is a buffer of the CMA and a bus master.
//!
//! ```text
//! image file --virtio-blk--> JPEG bytes (Stream) --mock JPEG codec--> RGB (DeviceOnly)
//!   --mock scaler--> 640x480x32 (Coherent) --PL111--> screen
//! ```
//!
//! On a board whose disk is a memory card, the CPU reads the file into the stream. If the card's controller is a bus
//! master, the card holds files: `photo.jpg` is shown, and what the screen shows goes back as `SCREEN.BMP`. On a board
//! with a DMA controller, that controller copies from the scaler's memory to the display's:
//!
//! ```text
//!   --mock scaler--> 640x480x32 (DeviceOnly) --PL081--> 640x480x32 (Coherent) --PL111--> screen
//! ```
//!
//! A mock camera fills a ring of streams. The CPU reads each frame and compares checksums.
//!
//! With the boot argument `demo=loans` the file comes from a cache in lent frames instead, and then devices with
//! contracts take and free memory that is full of loans: see `lending`. With `demo=coherency` there is no picture: the
//! caches are tested instead, see `coherency`. With `demo=share` processes run, see `share`. With `demo=shell` the
//! console takes commands, see `shell`. With `demo=net` the kernel serves a page that shows the memory at work, see
//! `net`.

#[cfg(target_arch = "arm")]
pub mod coherency;
#[cfg(target_arch = "arm")]
mod ending;
#[cfg(target_arch = "arm")]
pub mod failure;
#[cfg(target_arch = "arm")]
mod film;
#[cfg(target_arch = "arm")]
mod hops;
#[cfg(target_arch = "arm")]
pub mod lending;
#[cfg(target_arch = "arm")]
mod line;
#[cfg(target_arch = "arm")]
mod memory;
#[cfg(target_arch = "arm")]
mod photo;
#[cfg(target_arch = "arm")]
mod picture;
#[cfg(target_arch = "arm")]
pub mod port;
#[cfg(target_arch = "arm")]
pub mod run;
#[cfg(target_arch = "arm")]
mod share;

pub mod block_cache;
pub mod bmp;
#[cfg(test)]
mod fake;
pub mod mock;
pub mod net;
pub mod random;
mod shell;
pub mod store;
