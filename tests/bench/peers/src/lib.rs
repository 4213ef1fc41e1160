//! The trace of mixed sizes, and allocators of other people behind it.
//!
//! Guarantees: who counts on the board and who counts on the host replays the same trace, on the same allocators, with
//! the same alignments.
#![no_std]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;
use buddy_system_allocator::Heap;
use core::alloc::Layout;
use core::ptr::NonNull;
use rlsf::Tlsf;

/// Bytes of a frame.
pub const FRAME: usize = 4096;
/// Frames of the area.
pub const FRAMES: u32 = 16384;
/// Of those, taken from the start before the trace begins.
pub const TAKEN: u32 = 64;
/// Steps of the trace.
const STEPS: u32 = 6000;
/// The seed of Linux's published figures.
pub const SEED: u32 = 12345;
/// The seeds over which refusals are counted.
pub const SEEDS: u32 = 40;

/// Returns the `n`th seed.
pub const fn seed(n: u32) -> u32 {
    SEED.wrapping_add(n.wrapping_mul(7919))
}

/// Returns the alignment of a run, as a power of two of frames: that of its size rounded up, `cap` at most.
pub const fn order(count: u32, cap: u8) -> u8 {
    let order = count.next_power_of_two().trailing_zeros() as u8;
    if order < cap { order } else { cap }
}

/// The most alignment that the trace asks for: 64 KiB, in which the board has large pages.
pub const LARGE_PAGE: u8 = 4;
/// What Linux's CMA aligns to at most, as Debian builds it: 1 MiB.
pub const CMA_ALIGNMENT: u8 = 8;

/// Replays the trace: each step takes a slot at random, and frees what it holds or allocates 1 to 375 frames into it.
///
/// A slot whose allocation was refused stays empty. So what is asked for after a refusal depends on who allocates.
pub fn trace<B>(
    seed: u32,
    held: &mut [Option<(B, u32)>],
    mut alloc: impl FnMut(u32) -> Option<B>,
    mut free: impl FnMut(B, u32),
) {
    const SIZES: [u32; 16] = [1, 1, 2, 3, 4, 5, 8, 12, 16, 25, 32, 64, 100, 128, 256, 375];
    let mut x = seed;
    let mut next = || {
        x = x.wrapping_mul(1664525).wrapping_add(1013904223);
        x >> 8
    };
    for _ in 0..STEPS {
        let slot = next() as usize % held.len();
        if let Some((block, count)) = held[slot].take() {
            free(block, count);
            continue;
        }
        let count = SIZES[(next() % 16) as usize];
        held[slot] = alloc(count).map(|block| (block, count));
    }
}

/// An allocator of runs of frames.
pub trait Runs {
    /// Returns where `count` frames are from a multiple of 2^`order` frames on.
    fn alloc(&mut self, count: u32, order: u8) -> Option<usize>;
    /// Gives back what `alloc` returned for the same count and order.
    fn free(&mut self, at: usize, count: u32, order: u8);
}

/// The first run that fits, as Linux looks for one in a bitmap. A frame that is taken knows where its block ends.
pub struct FirstFit {
    ends: Vec<u32>,
    /// Whether blocks are of the size rounded up to a power of two, and aligned to that: a pool that is `no-map`.
    rounded: bool,
}

impl FirstFit {
    /// Makes one of so many frames, of which the first ones are taken for good.
    pub fn new(frames: u32, taken: u32, rounded: bool) -> Self {
        let mut ends = vec![0; frames as usize];
        ends[..taken as usize].fill(taken);
        Self { ends, rounded }
    }

    fn shape(&self, count: u32, order: u8) -> (u32, u32) {
        if self.rounded { (count.next_power_of_two(), count.next_power_of_two()) } else { (count, 1 << order) }
    }
}

impl Runs for FirstFit {
    fn alloc(&mut self, count: u32, order: u8) -> Option<usize> {
        let (count, align) = self.shape(count, order);
        let mut at = 0;
        while at + count <= self.ends.len() as u32 {
            let run = &mut self.ends[at as usize..(at + count) as usize];
            match run.iter().rfind(|&&end| end > 0) {
                Some(end) => at = end.next_multiple_of(align),
                None => {
                    run.fill(at + count);
                    return Some(at as usize);
                }
            }
        }
        None
    }

    fn free(&mut self, at: usize, count: u32, order: u8) {
        let (count, _) = self.shape(count, order);
        self.ends[at..at + count as usize].fill(0);
    }
}

/// An allocator whose books lie in the memory that it manages, with memory of its own.
pub struct Owned<A> {
    allocator: A,
    memory: NonNull<u8>,
    layout: Layout,
}

/// The most that memory of one's own is aligned to.
const MOST_ALIGN: usize = 64 << 20;

impl<A> Owned<A> {
    /// Makes one of so many frames. `make` gets their first byte, behind which a header fits, and their bytes.
    /// Returns `None` if there is no such memory.
    fn of(frames: u32, make: impl FnOnce(NonNull<u8>, usize) -> A) -> Option<Self> {
        let bytes = frames as usize * FRAME;
        let align = bytes.next_power_of_two().min(MOST_ALIGN);
        let layout = Layout::from_size_align(bytes + align, align).ok()?;
        // SAFETY: the layout is not empty, for the alignment is in it.
        let memory = NonNull::new(unsafe { alloc::alloc::alloc(layout) })?;
        // SAFETY: inside the memory.
        let start = unsafe { memory.add(align) };
        Some(Self { allocator: make(start, bytes), memory, layout })
    }
}

impl Owned<Segregated> {
    /// Makes one of so many frames. Returns `None` if there is no such memory.
    pub fn segregated(frames: u32) -> Option<Self> {
        // SAFETY: the memory is its own, with an alignment's bytes before the start.
        Self::of(frames, |start, bytes| unsafe { Segregated::new(start, bytes) })
    }
}

impl Owned<Buddy> {
    /// Makes one of so many frames. Returns `None` if there is no such memory.
    pub fn buddy(frames: u32) -> Option<Self> {
        // SAFETY: the memory is its own.
        Self::of(frames, |start, bytes| unsafe { Buddy::new(start, bytes) })
    }
}

impl<A: Runs> Runs for Owned<A> {
    fn alloc(&mut self, count: u32, order: u8) -> Option<usize> {
        self.allocator.alloc(count, order)
    }

    fn free(&mut self, at: usize, count: u32, order: u8) {
        self.allocator.free(at, count, order);
    }
}

impl<A> Drop for Owned<A> {
    fn drop(&mut self) {
        // SAFETY: it was allocated so, and the allocator over it ends here.
        unsafe { alloc::alloc::dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// Two-level segregated fit, 16 classes to an octave (crate rlsf). Its headers stand in the memory that it manages, so
/// each block is a header shorter than the frames asked for: blocks then pack as everybody's do.
pub struct Segregated(Tlsf<'static, u32, u16, 23, 16>);

/// Bytes of rlsf's header, and of its alignment.
pub const HEADER: usize = rlsf::GRANULARITY;

impl Segregated {
    /// Makes one of the memory from a header before `start` on.
    ///
    /// # Safety
    ///
    /// The memory is the caller's, and nobody else names it while this lives.
    pub unsafe fn new(start: NonNull<u8>, bytes: usize) -> Self {
        let mut tlsf = Tlsf::new();
        // SAFETY: the header before it is the caller's, too (contract).
        let first = unsafe { start.sub(HEADER) };
        // SAFETY: the memory is the caller's and this one's alone (contract).
        unsafe { tlsf.insert_free_block_ptr(NonNull::slice_from_raw_parts(first, bytes)) };
        Self(tlsf)
    }
}

impl Runs for Segregated {
    fn alloc(&mut self, count: u32, order: u8) -> Option<usize> {
        let layout = Layout::from_size_align(count as usize * FRAME - HEADER, FRAME << order).ok()?;
        self.0.allocate(layout).map(|at| at.addr().get())
    }

    fn free(&mut self, at: usize, _: u32, order: u8) {
        let at = NonNull::new(core::ptr::with_exposed_provenance_mut(at)).expect("not null");
        // SAFETY: `alloc` gave out this address, with that alignment.
        unsafe { self.0.deallocate(at, FRAME << order) };
    }
}

/// Buddies (crate buddy_system_allocator): counts are rounded up to a power of two, which aligns them as well. Its
/// lists run through the free memory.
pub struct Buddy(Heap<28>);

impl Buddy {
    /// Makes one of the memory from `start` on.
    ///
    /// # Safety
    ///
    /// The memory is the caller's, and nobody else names it while this lives.
    pub unsafe fn new(start: NonNull<u8>, bytes: usize) -> Self {
        let mut heap = Heap::empty();
        // SAFETY: the memory is the caller's and this one's alone (contract).
        unsafe { heap.init(start.as_ptr().expose_provenance(), bytes) };
        Self(heap)
    }
}

/// Returns what a run of frames is to an allocator of bytes.
fn layout(count: u32, order: u8) -> Option<Layout> {
    Layout::from_size_align(count as usize * FRAME, FRAME << order).ok()
}

impl Runs for Buddy {
    fn alloc(&mut self, count: u32, order: u8) -> Option<usize> {
        self.0.alloc(layout(count, order)?).ok().map(|at| at.addr().get())
    }

    fn free(&mut self, at: usize, count: u32, order: u8) {
        let at = NonNull::new(core::ptr::with_exposed_provenance_mut(at)).expect("not null");
        let layout = layout(count, order).expect("it was allocated");
        // SAFETY: `alloc` gave out this address for the same layout.
        unsafe { self.0.dealloc(at, layout) };
    }
}
