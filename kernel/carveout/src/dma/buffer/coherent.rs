//! Coherent buffers, which CPU and device share.

use crate::dma::buffer::raw::Raw;
use crate::dma::word::{Bytes, Word};
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

    /// Reads the word at `offset` by one access. So it is never half old and half new where the device writes it.
    ///
    /// # Panics
    ///
    /// If the word is not inside of the buffer, or its address is not a multiple of its size.
    pub fn read_word<W: Word>(&self, offset: usize) -> W {
        self.access().read_word(offset)
    }

    /// Writes the word at `offset` by one access. So the device never sees it half written.
    ///
    /// # Panics
    ///
    /// If the word is not inside of the buffer, or its address is not a multiple of its size.
    pub fn write_word<W: Word>(&mut self, offset: usize, word: W) {
        self.access().write_word(offset, word);
    }

    /// Copies bytes out, from `offset` on, up to the end of the buffer or of `to`. Returns how many. This is for bytes
    /// in bulk, and goes by words wherever words fit. Use [`read_word`](Self::read_word) for a word that the CPU polls
    /// and the device writes.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> usize {
        self.access().read_at(offset, to)
    }

    /// Copies bytes in, from `offset` on, up to the end of the buffer or of `from`. Returns how many. This is for bytes
    /// in bulk, and goes by words wherever words fit. Use [`write_word`](Self::write_word) for a word that the device
    /// polls.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> usize {
        self.access().write_at(offset, from)
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
