//! The heap, outside any carve-out.

use super::rank;
use carveout::sync::Lock;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use linked_list_allocator::Heap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap(Lock::new(rank::HEAP, Heap::empty()));

struct LockedHeap(Lock<Heap>);

// SAFETY: `Heap` gives bytes for a layout to one request until they are freed; the lock keeps cores apart.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.lock().allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let Some(at) = NonNull::new(at) else { return };
        // SAFETY: as `GlobalAlloc::dealloc` asks: `alloc` above gave it, with this layout.
        unsafe { self.0.lock().deallocate(at, layout) };
    }
}

/// Gives the heap its memory.
///
/// # Safety
///
/// This function was not called before.
pub(super) unsafe fn start(bytes: &'static mut [u8]) {
    // SAFETY: the bytes are this call's alone, for good, and the heap starts once (contract of `start`).
    unsafe { HEAP.0.lock().init(bytes.as_mut_ptr(), bytes.len()) };
}

/// Returns how many bytes are free.
pub(super) fn free() -> usize {
    HEAP.0.lock().free()
}
