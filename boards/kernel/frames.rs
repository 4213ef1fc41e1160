//! Whole frames of ordinary RAM, from the heap, for processes and their tables.
//!
//! Guarantees: frames are zeroed, contiguous, in the direct map for as long as they are held, and nobody else's (I5).

use alloc::alloc::{alloc_zeroed, dealloc};
use carveout::addr::{FRAME_SIZE, Frame, FrameRange, VirtAddr};
use carveout_rt::address_space::direct_map;
use core::alloc::Layout;
use core::ptr::NonNull;

/// Frames that are held until this is dropped.
#[derive(Debug)]
pub struct Frames {
    first: NonNull<u8>,
    layout: Layout,
    range: FrameRange,
}

// SAFETY: the bytes are this value's alone, whatever core has it.
unsafe impl Send for Frames {}
// SAFETY: without `&mut` there are no bytes to reach.
unsafe impl Sync for Frames {}

impl Frames {
    /// Takes `count` frames, the first of them at a multiple of `align` bytes. Returns `None` if the heap has no room.
    ///
    /// # Panics
    ///
    /// If `align` is no power of two.
    pub fn take(count: u32, align: u32) -> Option<Self> {
        let align = align.max(FRAME_SIZE) as usize;
        let layout = Layout::from_size_align((count.max(1) * FRAME_SIZE) as usize, align).expect("a power of two");
        // SAFETY: the layout has at least a frame.
        let first = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let frame = frame_of(VirtAddr::new(first.as_ptr() as u32));
        let range = FrameRange::covering(frame.base().raw().into(), layout.size() as u64);
        Some(Self { first, layout, range })
    }

    /// Returns the frames.
    pub const fn frames(&self) -> FrameRange {
        self.range
    }

    /// Returns the words in them.
    pub const fn words(&mut self) -> &mut [u32] {
        // SAFETY: this value's alone, initialized by `alloc_zeroed` and mapped while it lives; any bytes are words.
        unsafe { core::slice::from_raw_parts_mut(self.first.cast().as_ptr(), self.layout.size() / 4) }
    }
}

/// Returns the frame of an address of the heap. The heap is one run of the direct map.
fn frame_of(va: VirtAddr) -> Frame {
    let frame = direct_map().and_then(|map| map.frame_at(va));
    frame.expect("the heap is in the direct map").0
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: `take` got them with this layout.
        unsafe { dealloc(self.first.as_ptr(), self.layout) };
    }
}
