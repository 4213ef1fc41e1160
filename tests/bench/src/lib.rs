//! The free-run index beside other allocators, on the same requests.
//!
//! Each has 64 MiB of frames whose first 64 are taken. buddy_system_allocator rounds counts up to a power of two, which
//! aligns them as well. rlsf keeps its headers in the memory it manages, which for frames that nobody maps is none:
//! here it may, and each of its blocks is a header shorter than the frames asked for, so that they pack as the others'
//! do.

use bitmap_allocator::{BitAlloc, BitAlloc64K};
use buddy_system_allocator::FrameAllocator;
use carveout::cma::{Index, Node};
use rlsf::Tlsf;
use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Frames of the area.
pub const FRAMES: u32 = 16384;
/// Of those, taken from the start.
pub const TAKEN: u32 = 64;

/// An allocator of runs of frames.
pub trait Runs {
    /// `count` frames from a multiple of 2^`order`.
    fn alloc(&mut self, count: u32, order: u8) -> Option<u32>;
    /// Gives them back.
    fn free(&mut self, at: u32, count: u32, order: u8);
}

/// An index over `units` frames, all free.
pub fn index(units: u32) -> Index<'static> {
    let nodes = Index::nodes_needed(0, units).expect("an index that can be");
    Index::new(0, units, vec![Node::EMPTY; nodes].leak()).expect("storage as large as asked for")
}

impl Runs for Index<'_> {
    fn alloc(&mut self, count: u32, order: u8) -> Option<u32> {
        self.alloc(count, order, 0..u32::MAX)
    }

    fn free(&mut self, at: u32, count: u32, _: u8) {
        self.free(at, count).expect("frames that were allocated");
    }
}

/// rcore's bitmap in levels of 16.
pub struct Bitmap(Box<BitAlloc64K>);

impl Runs for Bitmap {
    fn alloc(&mut self, count: u32, order: u8) -> Option<u32> {
        self.0.alloc_contiguous(None, count as usize, order.into()).map(|at| at as u32)
    }

    fn free(&mut self, at: u32, count: u32, _: u8) {
        assert!(self.0.dealloc_contiguous(at as usize, count as usize));
    }
}

/// rcore's buddies.
pub struct Buddy(FrameAllocator<15>);

impl Runs for Buddy {
    fn alloc(&mut self, count: u32, _: u8) -> Option<u32> {
        self.0.alloc(count as usize).map(|at| at as u32)
    }

    fn free(&mut self, at: u32, count: u32, _: u8) {
        self.0.dealloc(at as usize, count as usize);
    }
}

/// Bytes of a frame, and of rlsf's header.
const FRAME: usize = 4096;
const HEADER: usize = 32;

/// Two-level segregated fit, 16 classes to an octave.
pub struct Segregated {
    tlsf: Tlsf<'static, u32, u16, 20, 16>,
    start: usize,
}

impl Runs for Segregated {
    fn alloc(&mut self, count: u32, order: u8) -> Option<u32> {
        let layout = Layout::from_size_align(count as usize * FRAME - HEADER, FRAME << order).expect("a layout");
        let at = self.tlsf.allocate(layout)?;
        Some(((at.as_ptr() as usize - self.start) / FRAME) as u32)
    }

    fn free(&mut self, at: u32, _: u32, order: u8) {
        let at = (self.start + at as usize * FRAME) as *mut u8;
        // SAFETY: `alloc` gave out this address, with that alignment.
        unsafe { self.tlsf.deallocate(NonNull::new(at).expect("not null"), FRAME << order) };
    }
}

/// The allocators, by name.
pub const NAMES: [&str; 4] = ["carveout", "bitmap-allocator", "buddy_system_allocator", "rlsf"];

/// One of them, its first frames taken.
pub fn fresh(name: &str) -> Box<dyn Runs> {
    match name {
        "carveout" => {
            let mut index = index(FRAMES);
            index.take(0, TAKEN).expect("a fresh index is free");
            Box::new(index)
        }
        "bitmap-allocator" => {
            let mut bits = Box::new(BitAlloc64K::DEFAULT);
            bits.insert(TAKEN as usize..FRAMES as usize);
            Box::new(Bitmap(bits))
        }
        "buddy_system_allocator" => {
            let mut buddies = FrameAllocator::new();
            buddies.add_frame(TAKEN as usize, FRAMES as usize);
            Box::new(Buddy(buddies))
        }
        "rlsf" => {
            // One frame more: it starts where a frame's header can stand before it.
            let layout = Layout::from_size_align((FRAMES as usize + 1) * FRAME, 16 << 20).expect("a layout");
            // SAFETY: the layout is not empty.
            let memory = unsafe { std::alloc::alloc(layout) };
            assert!(!memory.is_null(), "no memory");
            let first = TAKEN as usize * FRAME;
            // SAFETY: inside the memory just allocated, which is never given back.
            let pool = unsafe {
                let length = (FRAMES - TAKEN) as usize * FRAME;
                std::slice::from_raw_parts_mut(memory.add(first - HEADER).cast::<MaybeUninit<u8>>(), length)
            };
            let mut tlsf = Tlsf::new();
            tlsf.insert_free_block(pool);
            Box::new(Segregated { tlsf, start: memory as usize })
        }
        _ => panic!("no such allocator: {name}"),
    }
}

/// How an allocator fared.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Allocations tried, and those refused.
    pub tried: u32,
    /// Refused.
    pub failed: u32,
    /// Mean over the refusals of the share of the area that was free then, in thousandths: room that was of no use.
    pub free_at_failure: u32,
}

/// The trace of the peers' figures: counts of 1 to 375 frames, aligned to their next power of two, 64 KiB at most.
pub fn trace(runs: &mut dyn Runs, slots: u32) -> Outcome {
    const SIZES: [u32; 16] = [1, 1, 2, 3, 4, 5, 8, 12, 16, 25, 32, 64, 100, 128, 256, 375];
    let mut held = vec![None; slots as usize];
    let mut x = 12345u32;
    let mut next = || {
        x = x.wrapping_mul(1664525).wrapping_add(1013904223);
        x >> 8
    };
    let (mut tried, mut failed, mut live, mut unused) = (0, 0, 0, 0);
    for _ in 0..6000 {
        let slot: &mut Option<(u32, u32, u8)> = &mut held[(next() % slots) as usize];
        if let Some((at, count, order)) = slot.take() {
            runs.free(at, count, order);
            live -= count;
            continue;
        }
        let count = SIZES[(next() % 16) as usize];
        let order = count.next_power_of_two().ilog2().min(4) as u8;
        tried += 1;
        *slot = runs.alloc(count, order).map(|at| (at, count, order));
        if slot.is_some() {
            live += count;
        } else {
            failed += 1;
            unused += u64::from(FRAMES - TAKEN - live) * 1000 / u64::from(FRAMES);
        }
    }
    for (at, count, order) in held.into_iter().flatten() {
        runs.free(at, count, order);
    }
    Outcome { tried, failed, free_at_failure: (unused / u64::from(failed.max(1))) as u32 }
}

/// An index of `units`, fragmented so that in every block of 64 a request has a run to look at that does not fit.
pub fn adversary(units: u32) -> Index<'static> {
    let mut index = index(units);
    for block in (0..units).step_by(64) {
        // Runs of 16 to 31 units that hold no 16 aligned ones.
        index.take(block, 1).expect("free");
        index.take(block + 16, 1).expect("free");
        let end = 32 + (block / 64) % 15;
        index.take(block + end, 64 - end).expect("free");
    }
    index.settle();
    index
}
