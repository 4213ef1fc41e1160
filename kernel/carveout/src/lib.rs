//! Carveout: a contiguous memory allocator for ARMv7-A that is `no-map` *and* `reusable`.
//!
//! Guarantees, each named where it is defended:
//!
//! - **I1 One frame, one attribute.** All valid translations of a physical frame carry the same memory type,
//!   cacheability and shareability.
//! - **I2 Carved frames are never in the direct map**, from the instruction that turns the MMU on.
//! - **I3 No line survives a change.** When a frame changes attribute or owner: unmap, DSB, TLB invalidate, DSB, then
//!   maintenance to the point of coherency through the new mapping, before its first use.
//! - **I4 The device's buffer is not the CPU's.** While a device owns a buffer no CPU code can name its bytes, and no
//!   mapping of them exists.
//! - **I5 No leaks between owners.** Whoever gets a frame reads zeros or its own data.
//! - **I6 A recall never fails.** Taking back a loan allocates nothing and waits for nobody but a bounded copy.
//! - **I7 A contract holds.** A set of buffers declared up front (count x size) can always be allocated.
//!
//! Data flows one way; each step consumes what the one before it made:
//!
//! ```text
//! a plan of the memory -> CarveOut -> cma::area
//!     -> embed -> dma (Contiguous, then a buffer in a state) -> device -> back
//! ```
//!
//! The crate `carveout-boot` plans the memory by a device tree, and `carveout-rt` boots by that plan. A kernel that did
//! its own reservation begins at [`carve_out::CarveOut::assume`]. Such a kernel implements [`machine::Mmu`] and
//! [`machine::Cache`], or takes the crate `carveout-armv7a`. It gives [`embed::Builder`] a window of addresses that
//! belongs to this crate alone. The crate needs a global allocator for its metadata: at that call, and when a contract,
//! a borrower or a pool is made.
//!
//! An example, on the host's fake machine:
//!
//! ```
//! use carveout::addr::PhysAddr;
//! use carveout::dma::FromDevice;
//! use carveout::setup::Setup;
//!
//! let machine = Setup::new(1); // on a board: the kernel's machine and its `Dma`
//! let camera = machine.master("camera");
//! let buffer = machine.dma.alloc(&camera, 640 * 480 * 2, 1).expect("one contiguous run");
//!
//! let frame = buffer.into_stream::<FromDevice>().for_device(); // the device's: nothing maps it now
//! machine.fake.device_write(PhysAddr::new(frame.bus().raw()), b"a picture");
//!
//! // SAFETY: the camera has stopped (I4).
//! let frame = unsafe { frame.for_cpu() };
//! assert_eq!(&frame.bytes()[..9], b"a picture");
//! ```
#![no_std]

extern crate alloc;

#[cfg(any(test, feature = "fake"))]
extern crate std;

pub mod addr;
pub mod carve_out;
pub mod cma;
pub mod cpu;
pub mod dma;
pub mod embed;
pub mod events;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod heap;
pub mod holder;
pub mod machine;
pub mod name;
pub mod protocol;
#[cfg(any(test, feature = "fake"))]
pub mod setup;
pub mod sync;
pub mod vm;
