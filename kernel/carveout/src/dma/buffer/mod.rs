//! Buffers in their states: each state a type, each transition a move.
//!
//! Whoever holds a buffer in a state has a proof:
//! - [`Contiguous`]: the frames belong to this value alone, and no mapping exists.
//! - [`Coherent`]: the frames were zeroed and are mapped non-cacheable. CPU and device see the same bytes, after the
//!   barriers named.
//! - [`Stream<_, Cpu>`](Stream): no device accesses the bytes. They are mapped write-back from the first view on.
//! - [`Stream<_, Device>`](Stream) and [`DeviceOnly`]: no mapping exists, so a stray pointer faults (I4).
//!
//! Maintenance is the least that suffices. A stream is mapped only when the CPU first looks at it. So a hand-over from
//! device to device touches no line and no descriptor, and a capture cycle costs one invalidate, at the CPU's first
//! look.
//!
//! ```compile_fail,E0599
//! use carveout::{dma::{Device, FromDevice, Stream}, machine::Machine};
//! fn read_while_the_device_owns_it<M: Machine>(buffer: Stream<M, FromDevice, Device>) {
//!     let _ = buffer.bytes();
//! }
//! ```
//!
//! ```compile_fail,E0599
//! use carveout::{dma::{Cpu, FromDevice, Stream}, machine::Machine};
//! fn write_what_only_the_device_writes<M: Machine>(mut buffer: Stream<M, FromDevice, Cpu>) {
//!     buffer.bytes_mut();
//! }
//! ```
//!
//! ```compile_fail,E0382
//! use carveout::{dma::{Contiguous, ToDevice}, machine::Machine};
//! fn two_owners<M: Machine>(buffer: Contiguous<M>) {
//!     let one = buffer.into_coherent();
//!     let two = buffer.into_stream::<ToDevice>();
//! }
//! ```
//!
//! ```compile_fail,E0505
//! use carveout::{dma::{Cpu, Stream, ToDevice}, machine::Machine};
//! fn keep_a_view_across_the_hand_over<M: Machine>(buffer: Stream<M, ToDevice, Cpu>) -> u8 {
//!     let view = buffer.bytes();
//!     let _device = buffer.for_device();
//!     view[0]
//! }
//! ```
//!
//! ```compile_fail,E0382
//! use carveout::{dma::Coherent, machine::Machine};
//! fn use_after_free<M: Machine>(buffer: Coherent<M>) {
//!     drop(buffer);
//!     buffer.dma_wmb();
//! }
//! ```
//!
//! ```compile_fail,E0599
//! use carveout::{dma::{Cpu, Stream, ToDevice}, machine::Machine};
//! fn tell_a_device_what_the_cpu_owns<M: Machine>(buffer: Stream<M, ToDevice, Cpu>) {
//!     let _ = buffer.bus();
//! }
//! ```
//!
//! ```compile_fail,E0277
//! use carveout::{dma::{Cpu, FromDevice, Stream}, machine::Machine};
//! fn views_of_what_is_not_plain_old_data<M: Machine>(buffer: Stream<M, FromDevice, Cpu>) {
//!     let _ = buffer.values::<bool>();
//! }
//! ```

mod coherent;
mod contiguous;
mod device_only;
pub(in crate::dma) mod direction;
mod effort;
mod pages;
mod raw;
pub(in crate::dma) mod shared;
mod stream;

pub use coherent::Coherent;
pub use contiguous::Contiguous;
pub use device_only::DeviceOnly;
pub use direction::{
    Bidirectional, Cpu, DataDirection, Device, Direction, DirectionError, FromDevice, No, Owner, ToDevice,
    TypedDirection, Yes,
};
pub use effort::Effort;
pub use pages::PagesError;
pub use shared::{MAX_PARTS, ShareDomain, UserView};
pub use stream::Stream;

use crate::addr::{BusAddr, FrameRange};
use crate::dma::handle::{BufferState, Handle, HandleError};
use crate::dma::master::Master;
use crate::dma::registry::Dma;
use crate::dma::segment::{ScatterError, Segment, segments_of};
use crate::machine::Machine;
use core::fmt;
use raw::Raw;

macro_rules! common {
    ($($state:ty: [$($generics:tt)*]),*) => {$(
        impl<M: Machine, $($generics)*> $state {
            /// Returns the bytes that were asked for when it was allocated. The frames go on to the end of the last
            /// page.
            pub fn len(&self) -> usize {
                self.raw.bytes as usize
            }

            /// Returns `false`: an allocation of no bytes is refused.
            pub const fn is_empty(&self) -> bool {
                false
            }

            /// Returns the frames.
            pub fn frames(&self) -> FrameRange {
                self.raw.frames()
            }

            /// Returns the effort that it took so far.
            pub fn effort(&self) -> Effort {
                self.raw.effort()
            }
        }

        impl<M: Machine, $($generics)*> fmt::Debug for $state {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($state)).field("frames", &self.raw.frames()).finish_non_exhaustive()
            }
        }
    )*};
}

common!(Contiguous<M>: [], Coherent<M>: [], DeviceOnly<M>: [], Stream<M, D, O>: [D: Direction, O]);

macro_rules! told {
    ($($state:ty),*) => {$(
        impl<M: Machine> $state {
            /// Returns the address to program into a device. From here on a drop quarantines the buffer.
            pub fn bus(&self) -> BusAddr {
                self.raw.exposed.set(true);
                self.raw.bus
            }

            /// Returns the buffer as a list of segments for `master`, as
            /// [`ScatterTable::segments`](crate::dma::ScatterTable::segments) does. From here on a drop quarantines the
            /// buffer.
            ///
            /// # Errors
            ///
            /// [`ScatterError::OutOfReach`] if `master` does not reach all of it: the buffer was allocated for another
            /// device.
            pub fn segments<'m>(
                &self,
                master: &'m Master,
            ) -> Result<impl Iterator<Item = Segment> + use<'m, M>, ScatterError> {
                let segments = segments_of(master, self.raw.frames(), self.len())?;
                self.raw.exposed.set(true);
                Ok(segments)
            }
        }
    )*};
}

told!(Coherent<M>, DeviceOnly<M>);

macro_rules! put_away {
    ($($name:ident),*) => {$(
        impl<M: Machine> $name<M> {
            /// Puts the buffer away under its handle, as it is.
            pub fn into_raw(self) -> Handle {
                self.raw.put_away(BufferState::$name, None)
            }

            /// Takes out a buffer that was put away in this state.
            ///
            /// # Errors
            ///
            /// [`HandleError`] if no buffer in this state is put away under this handle.
            pub fn from_raw(dma: &'static Dma<M>, handle: Handle) -> Result<Self, HandleError> {
                let (raw, ()) = Raw::take_out(dma, handle, BufferState::$name, |_| Ok(()))?;
                Ok(Self { raw })
            }
        }
    )*};
}

put_away!(Contiguous, Coherent, DeviceOnly);
