//! A machine that cores share in name: dma-api wants that, and the fake machine is one core's.

use carveout::addr::{PhysAddr, VirtAddr};
use carveout::fake::Fake;
use carveout::machine::{Cache, Lines, Mmu, Registers};
use carveout::setup::{L1, RAM, RAM_BYTES};
use carveout::vm::attr::LeafSize;
use carveout::vm::mapped::Part;
use std::ptr::NonNull;
use std::thread::{self, ThreadId};

/// The fake machine, for the thread that made it.
pub(crate) struct Pinned {
    fake: Fake,
    thread: ThreadId,
}

// SAFETY: no other thread gets at the fake: `fake` looks.
unsafe impl Sync for Pinned {}
// SAFETY: as above.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(crate) fn new(seed: u64) -> &'static Self {
        Box::leak(Box::new(Self { fake: Fake::new(RAM, RAM_BYTES, L1, seed), thread: thread::current().id() }))
    }

    pub(crate) fn fake(&self) -> &Fake {
        assert_eq!(thread::current().id(), self.thread, "another thread's machine");
        &self.fake
    }
}

// SAFETY: all is the fake's.
unsafe impl Mmu for Pinned {
    fn publish(&self, at: PhysAddr, words: &[u32]) {
        self.fake().publish(at, words);
    }

    fn invalidate_tlb(&self, va: VirtAddr, bytes: u32, leaf: LeafSize) {
        self.fake().invalidate_tlb(va, bytes, leaf);
    }

    fn invalidate_tlb_all(&self) {
        self.fake().invalidate_tlb_all();
    }

    fn reach(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.fake().reach(va, bytes)
    }

    fn reach_to_overwrite(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.fake().reach_to_overwrite(va, bytes)
    }

    fn registers(&self) -> Registers {
        self.fake().registers()
    }

    fn table(&self, at: PhysAddr, bytes: u32) -> Option<NonNull<u32>> {
        self.fake().table(at, bytes)
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        self.fake().table_word(at)
    }
}

// SAFETY: all is the fake's.
unsafe impl Cache for Pinned {
    fn line(&self) -> u32 {
        self.fake().line()
    }

    fn clean(&self, part: Part<'_>) -> Lines {
        self.fake().clean(part)
    }

    fn invalidate(&self, part: Part<'_>) -> Lines {
        self.fake().invalidate(part)
    }

    fn discard(&self, part: Part<'_>) -> Lines {
        self.fake().discard(part)
    }

    fn device_barrier(&self) {
        self.fake().device_barrier();
    }

    fn dma_wmb(&self) {
        self.fake().dma_wmb();
    }

    fn dma_rmb(&self) {
        self.fake().dma_rmb();
    }
}
