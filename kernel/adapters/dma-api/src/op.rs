//! The operations that dma-api asks for.
//!
//! Guarantees: no line of a cache is maintained, for the device is shown coherent memory alone. What a sync leaves to
//! do is a copy, of memory that a driver mapped, and a barrier. A sync of bytes that are not inside does nothing.

use crate::memory::DeviceMemory;
use carveout::addr::FRAME_SIZE;
use carveout::machine::Machine;
use core::alloc::Layout;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use dma_api::{DmaAllocHandle, DmaCoherency, DmaConstraints, DmaDirection, DmaError, DmaMapHandle, DmaOp};

impl<M: Machine> DeviceMemory<M> {
    /// Allocates coherent memory of a layout.
    fn alloc(&self, constraints: &DmaConstraints, layout: Layout) -> Option<DmaAllocHandle> {
        let (at, bus) = self.take(constraints, layout.size(), layout.align()).ok()?;
        // SAFETY: the buffer has so many bytes at both addresses, is mapped at `at` alone (I1), and lives until it is
        // given back.
        Some(unsafe { DmaAllocHandle::new(at, at, bus, layout) })
    }

    fn free(&self, handle: DmaAllocHandle) -> Result<(), DmaError> {
        self.give_back(handle.allocation_ptr(), handle.dma_addr(), handle.size())
    }

    /// Passes the barrier before a read of what the device wrote.
    fn read_barrier(&self) {
        self.dma().machine().dma_rmb();
    }

    /// Passes the barrier before a device may read or write.
    fn device_barrier(&self) {
        self.dma().machine().device_barrier();
    }
}

/// Returns the same part of a driver's bytes and of the copy that the device has, and its length, if it is inside.
fn part(handle: &DmaMapHandle, offset: usize, size: usize) -> Option<(*mut u8, *mut u8, usize)> {
    let copy = handle.bounce_ptr()?;
    let inside = offset.checked_add(size)? <= handle.size();
    let at = |first: NonNull<u8>| first.as_ptr().wrapping_add(offset);
    inside.then(|| (at(handle.as_ptr()), at(copy), size))
}

impl<M: Machine + Send + Sync> DmaOp for DeviceMemory<M> {
    fn page_size(&self) -> usize {
        FRAME_SIZE as usize
    }

    /// Allocates coherent memory. Drivers keep a slice of it while their device works on it, and dma-api has no call by
    /// which a driver says that it writes once more. So no cacheable mapping would be safe (I4).
    unsafe fn alloc_contiguous(&self, constraints: DmaConstraints, layout: Layout) -> Option<DmaAllocHandle> {
        self.alloc(&constraints, layout)
    }

    /// Frees what `alloc_contiguous` gave. What is not named as it was given out goes into quarantine.
    unsafe fn dealloc_contiguous(&self, handle: DmaAllocHandle) {
        let _ = self.free(handle);
    }

    unsafe fn alloc_coherent(&self, constraints: DmaConstraints, layout: Layout) -> Option<DmaAllocHandle> {
        self.alloc(&constraints, layout)
    }

    unsafe fn dealloc_coherent(&self, handle: DmaAllocHandle) -> Result<(), DmaError> {
        self.free(handle)
    }

    /// Makes a copy in coherent memory for the device, which the syncs fill and read. It is zeroed until then.
    unsafe fn map_streaming(
        &self,
        constraints: DmaConstraints,
        addr: NonNull<u8>,
        size: NonZeroUsize,
        _direction: DmaDirection,
    ) -> Result<DmaMapHandle, DmaError> {
        let layout = Layout::from_size_align(size.get(), constraints.align.max(1))?;
        let (copy, bus) = self.take(&constraints, layout.size(), layout.align())?;
        // SAFETY: the driver's bytes live until the mapping ends, as this function demands, and so does the copy, which
        // has as many bytes.
        Ok(unsafe { DmaMapHandle::new(addr, bus, layout, Some(copy)) })
    }

    unsafe fn unmap_streaming(&self, handle: DmaMapHandle) {
        if let Some(copy) = handle.bounce_ptr() {
            let _ = self.give_back(copy, handle.dma_addr(), handle.size());
        }
    }

    /// Passes the barrier to the device. The device sees no memory that has lines.
    fn flush(&self, _addr: NonNull<u8>, _size: usize) {
        self.device_barrier();
    }

    /// Passes the barrier from the device. The device sees no memory that has lines.
    fn invalidate(&self, _addr: NonNull<u8>, _size: usize) {
        self.read_barrier();
    }

    /// Passes the barrier to the device, which orders reads too.
    fn flush_invalidate(&self, _addr: NonNull<u8>, _size: usize) {
        self.device_barrier();
    }

    /// Passes the barrier to the device, in whatever direction: what the CPU wrote before must not arrive after what
    /// the device writes.
    fn sync_alloc_for_device(&self, _handle: &DmaAllocHandle, _offset: usize, _size: usize, _direction: DmaDirection) {
        self.device_barrier();
    }

    fn sync_alloc_for_cpu(&self, _handle: &DmaAllocHandle, _offset: usize, _size: usize, direction: DmaDirection) {
        if direction != DmaDirection::ToDevice {
            self.read_barrier();
        }
    }

    /// Copies a part of the driver's bytes to the device, in whatever direction. So what a device does not write is as
    /// it was when it comes back.
    fn sync_map_for_device(
        &self,
        handle: &DmaMapHandle,
        offset: usize,
        size: usize,
        _direction: DmaDirection,
        _coherency: DmaCoherency,
    ) {
        if let Some((own, copy, size)) = part(handle, offset, size) {
            // SAFETY: a part of the driver's bytes and of the copy of them. Both live as long as the handle, and the
            // device has finished with the copy, or leaves this part alone (I4).
            unsafe { copy.copy_from_nonoverlapping(own, size) };
        }
        self.device_barrier();
    }

    /// Copies a part back from the device, unless the device only reads.
    fn sync_map_for_cpu(
        &self,
        handle: &DmaMapHandle,
        offset: usize,
        size: usize,
        direction: DmaDirection,
        _coherency: DmaCoherency,
    ) {
        if direction == DmaDirection::ToDevice {
            return;
        }
        self.read_barrier();
        if let Some((own, copy, size)) = part(handle, offset, size) {
            // SAFETY: as in `sync_map_for_device`.
            unsafe { own.copy_from_nonoverlapping(copy, size) };
        }
    }
}
