//! The hardware abstraction that virtio-drivers asks for.

use crate::memory::DeviceMemory;
use carveout::machine::Machine;
use core::marker::PhantomData;
use core::ptr::NonNull;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// A type that names the memory of a device: the functions of [`Hal`] have no `self`.
///
/// # Safety
///
/// [`memory`](Self::memory) returns one memory each time, and one device alone uses it. That device is driven through
/// [`Guarded<Self, _>`](crate::Guarded), or never gives a ring up.
pub unsafe trait Provider: 'static {
    /// The machine of the DMA API.
    type Machine: Machine + 'static;

    /// Returns the device's memory.
    fn memory() -> &'static DeviceMemory<Self::Machine>;

    /// Returns where `bytes` bytes of registers at physical address `at` are mapped, as Device memory and for this
    /// device alone, or `None` if they are not. Only the PCI transport asks.
    fn registers(at: PhysAddr, bytes: usize) -> Option<NonNull<u8>> {
        let _ = (at, bytes);
        None
    }
}

/// The [`Hal`] over the memory that `P` names.
#[derive(Debug)]
pub struct DmaHal<P>(PhantomData<fn() -> P>);

// SAFETY: `dma_alloc` gives whole frames of a coherent buffer, zeroed (I5). Nothing else names them until
// `dma_dealloc`, and they are freed only after the device stopped (I4). `share` gives addresses of a stream that the
// device owns, or of slots that are the request's alone until `unshare` (I4). What `registers` gives is as `Provider`
// demands.
unsafe impl<P: Provider> Hal for DmaHal<P> {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // An address of 0 says that there is no memory.
        P::memory().take_ring(pages).unwrap_or((0, NonNull::dangling()))
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        if P::memory().give_ring(paddr) { 0 } else { -1 }
    }

    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        P::registers(paddr, size).unwrap_or_else(|| panic!("no registers are mapped for {paddr:#x}, {size} bytes"))
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        // SAFETY: the contract of this function: the buffer is valid, and nobody else accesses it meanwhile.
        unsafe { P::memory().share(buffer) }
    }

    unsafe fn unshare(paddr: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        // SAFETY: the contract of this function: as above; `share` gave the address for this buffer. A driver calls it
        // for requests that the used ring names.
        unsafe { P::memory().unshare(paddr, buffer, direction != BufferDirection::DriverToDevice) };
    }
}
