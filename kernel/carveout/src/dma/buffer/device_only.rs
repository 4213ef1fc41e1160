//! Buffers of devices alone.

use crate::dma::buffer::raw::Raw;
use crate::machine::Machine;

/// A buffer for devices alone: one device writes it, another reads it, and the CPU never does. It is Linux's
/// `NO_KERNEL_MAPPING`, but it is zeroed when it is made. Dropping it quarantines it once its address was told.
///
/// An owner that keeps it for its next job pays nothing: it is not zeroed again, and no cache line is touched.
///
/// ```
/// # use carveout::{addr::PhysAddr, setup::Setup};
/// # let setup = Setup::new(1);
/// # let codec = setup.master("codec");
/// let picture = setup.dma.alloc(&codec, 1 << 20, 1)?.into_device();
/// let at = PhysAddr::new(picture.bus().raw());
/// setup.fake.device_write(at, &[7; 64]); // the codec
/// assert_eq!(setup.fake.device_read(at, 64), [7; 64]); // the scaler
///
/// // SAFETY: both devices have finished (I4).
/// drop(unsafe { picture.release() });
/// # Ok::<(), carveout::dma::AllocError>(())
/// ```
pub struct DeviceOnly<M: Machine + 'static> {
    pub(super) raw: Raw<M>,
}
