//! The network: the kernel answers ping, and serves a page that shows the memory at work. `demo=net` runs it.
//!
//! Guarantees: packets, sockets and texts are taken before the first frame comes, so whatever a client does takes no
//! memory. Each turn handles a bounded number of frames. The demo ends after `net-seconds=` of the boot arguments, or
//! at a key. All memory is free again then, except what the controller does not give back. It fails if the contract of
//! the camera beside it did not hold.

#[cfg(target_arch = "arm")]
mod load;
pub mod request;
#[cfg(target_arch = "arm")]
mod server;
#[cfg(target_arch = "arm")]
mod service;
#[cfg(target_arch = "arm")]
mod state;
pub mod text;

#[cfg(target_arch = "arm")]
pub(super) use service::run;
