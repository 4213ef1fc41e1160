//! Coherent buffers, which CPU and device share.

use crate::dma::access::coherent_access;
use crate::dma::buffer::raw::Raw;
use crate::dma::word::Bytes;
use crate::machine::Machine;
use crate::protocol::Transition;
use core::ptr::NonNull;

/// A buffer that CPU and device share, Normal non-cacheable: what one writes the other sees, after the barriers below.
/// Writes combine, so it is Linux's `WRITE_COMBINE` too: on ARMv7 the two are one memory type.
///
/// Dropping it frees it, unless a device was told its address. Then it is quarantined, and [`release`](Self::release)
/// is the way to free it.
///
/// ```
/// # use carveout::{addr::PhysAddr, setup::Setup};
/// # let setup = Setup::new(1);
/// # let ethernet = setup.master("ethernet");
/// let mut ring = setup.dma.alloc(&ethernet, 4096, 1)?.into_coherent();
/// ring.write_word(0, 0x6020_0000u32); // a descriptor's address
/// ring.dma_wmb(); // before the word that makes it valid
/// ring.write_word(4, 1u32);
/// ring.device_barrier(); // before the register write that says go
/// assert_eq!(setup.fake.device_read(PhysAddr::new(ring.bus().raw()), 8)[4], 1);
///
/// // SAFETY: the device was reset, and forgot the address (I4).
/// drop(unsafe { ring.release() });
/// # Ok::<(), carveout::dma::AllocError>(())
/// ```
pub struct Coherent<M: Machine + 'static> {
    pub(super) raw: Raw<M>,
}

coherent_access!(Coherent);

impl<M: Machine> Coherent<M> {
    /// Returns the first byte, for drivers that lay out shared structures themselves. It is valid for reads and writes
    /// of [`len`](Self::len) bytes while the buffer lives, by volatile accesses: the device may change any byte.
    ///
    /// # Panics
    ///
    /// If the CPU has the buffer at address 0, where no window may begin.
    pub fn as_ptr(&self) -> NonNull<u8> {
        NonNull::new(self.raw.pointer()).expect("a mapped address is not null")
    }

    fn access(&self) -> Bytes {
        // SAFETY: the buffer is mapped non-cacheable and writable for its whole length while it lives, and this type
        // gives out no reference to its bytes.
        unsafe { Bytes::new(self.raw.pointer(), self.len()) }
    }

    /// Orders two writes that a device polls. It stands between them: Linux's `dma_wmb`.
    pub fn dma_wmb(&self) {
        self.raw.dma.machine.dma_wmb();
    }

    /// Orders two reads of what a device writes. It stands between them: Linux's `dma_rmb`.
    pub fn dma_rmb(&self) {
        self.raw.dma.machine.dma_rmb();
    }

    /// Passes the barrier after which the device sees everything written so far. It stands before the register write
    /// that tells the device to go: Linux's `wmb`.
    pub fn device_barrier(&self) {
        self.raw.run(Transition::Tell);
    }
}
