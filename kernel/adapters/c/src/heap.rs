//! The kernel's memory as the heap of this library.
//!
//! Guarantees: all memory that the library takes, it takes from the kernel's `alloc`. There is no other heap.

use crate::kernel::Functions;
use alloc::alloc::{GlobalAlloc, Layout};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

/// The functions of the kernel whose memory it is, or NULL.
static FUNCTIONS: AtomicPtr<Functions> = AtomicPtr::new(ptr::null_mut());

/// Takes memory by these functions from here on.
pub(crate) fn take_by(functions: &'static Functions) {
    FUNCTIONS.store(ptr::from_ref(functions).cast_mut(), Ordering::Release);
}

/// Returns the functions by which memory is taken.
fn functions() -> Option<&'static Functions> {
    // SAFETY: `take_by` stored a reference that lasts for ever, or nobody stored anything.
    unsafe { FUNCTIONS.load(Ordering::Acquire).as_ref() }
}

/// The heap.
struct KernelHeap;

#[global_allocator]
static HEAP: KernelHeap = KernelHeap;

// SAFETY: the kernel's `alloc` gives memory that nobody else has, of the size and alignment that it is asked for, as
// the header says of it.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        functions().map_or(ptr::null_mut(), |functions| functions.alloc(layout))
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if let Some(functions) = functions() {
            // SAFETY: it was given by `alloc` for this layout, as `GlobalAlloc` demands.
            unsafe { functions.free(memory, layout) };
        }
    }
}
