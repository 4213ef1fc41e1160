//! A machine that does nothing, under the whole module: on the host it tells where buffers go, and what is refused.
//!
//! Guarantees: tables have words, as the module reads and writes them; memory has none. Nothing may read a buffer.

#[macro_use]
#[path = "../../../kernel/carveout/tests/uncached/mod.rs"]
mod uncached;

use carveout::addr::{FrameRange, PhysAddr, VirtAddr};
use carveout::carve_out::CarveOut;
use carveout::dma::{AfterFree, Coherent, Dma, Master};
use carveout::embed::{Builder, Needs, Roots, Window};
use carveout::machine::{Mmu, Registers};
use carveout::vm::attr::LeafSize;
use carveout::vm::range::VirtRange;
use peers::{FRAME, FRAMES, Runs};
use std::ptr::NonNull;

/// Where tables stand, how many bytes of them, and the carve-out behind them.
const TABLES: u32 = 0x6000_0000;
const TABLE_BYTES: u32 = 1 << 20;
const L1: PhysAddr = PhysAddr::new(TABLES + 0x4000);
const L2: PhysAddr = PhysAddr::new(TABLES + 0x1_0000);
const CARVED: u32 = 0x6400_0000;
const WINDOW: u32 = 0xc000_0000;

/// Tables, and one page that stands for all memory.
pub(crate) struct Idle {
    tables: NonNull<u32>,
    page: NonNull<u8>,
}

// SAFETY: what the pointers point to lives for ever, and one thread uses it.
unsafe impl Sync for Idle {}

// SAFETY: nobody walks these tables, no cache or TLB is behind this machine, and no pointer of `reach` is used: buffers
// are neither read nor written, and zeroing is left out.
unsafe impl Mmu for Idle {
    fn publish(&self, _: PhysAddr, _: &[u32]) {}

    fn invalidate_tlb(&self, _: VirtAddr, _: u32, _: LeafSize) {}

    fn invalidate_tlb_all(&self) {}

    fn reach(&self, _: VirtAddr, _: u32) -> *mut u8 {
        self.page.as_ptr()
    }

    fn reach_to_overwrite(&self, _: VirtAddr, _: u32) -> *mut u8 {
        self.page.as_ptr()
    }

    unsafe fn zero(&self, _: *mut u8, _: usize) {}

    fn registers(&self) -> Registers {
        Registers::plain(L1)
    }

    fn table(&self, at: PhysAddr, bytes: u32) -> Option<NonNull<u32>> {
        let offset = at.raw().checked_sub(TABLES).filter(|offset| offset + bytes <= TABLE_BYTES)?;
        // SAFETY: inside the tables.
        Some(unsafe { self.tables.add(offset as usize / 4) })
    }
}

uncached!(Idle);

/// The whole module, with an area as the board's bench program has it.
pub(crate) struct Module {
    dma: &'static Dma<Idle>,
    master: Master,
    held: Vec<Option<Coherent<Idle>>>,
    /// Whether idle time prepares before each allocation.
    idle: bool,
}

impl Module {
    /// Makes one whose idle time keeps so many bytes zeroed, and what becomes of mappings. It is never given back.
    pub(crate) fn new(reserve: u64, after_free: AfterFree) -> Self {
        let tables = vec![0u32; TABLE_BYTES as usize / 4].leak();
        let page = vec![0u8; FRAME].leak();
        let machine: &'static Idle = Box::leak(Box::new(Idle { tables: first(tables), page: first(page) }));
        let frames = FrameRange::within(CARVED.into(), u64::from(FRAMES) * FRAME as u64);
        // SAFETY: this machine maps nothing at all (I2).
        let carved = [unsafe { CarveOut::assume("default", &[frames], true) }];
        let range = VirtRange::new(WINDOW, Needs::of(&carved, Builder::RECORDS).sections);
        // SAFETY: nobody else uses these addresses or tables.
        let window = unsafe { Window::assume(range, Roots::One, L2) };
        let dma: &'static Dma<Idle> =
            Box::leak(Box::new(Builder::new(machine, carved, window).build().expect("a window as large as needed")));
        let area = dma.area("default").expect("the area");
        dma.set_after_free(after_free);
        dma.set_reserve(area, reserve);
        Self { dma, master: Master::new("bench", Some(area)), held: Vec::new(), idle: reserve > 0 }
    }
}

fn first<T>(slice: &'static mut [T]) -> NonNull<T> {
    NonNull::from(slice).cast()
}

impl Runs for Module {
    fn alloc(&mut self, count: u32, order: u8) -> Option<usize> {
        let area = self.dma.area("default").expect("the area");
        while self.idle && self.dma.idle_work(area, 64) > 0 {}
        let buffer = self.dma.alloc_coherent(&self.master, count * FRAME as u32, (FRAME as u32) << order).ok()?;
        let free = self.held.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.held.push(None);
            self.held.len() - 1
        });
        self.held[at] = Some(buffer);
        Some(at)
    }

    fn free(&mut self, at: usize, _: u32, _: u8) {
        let buffer = self.held[at].take().expect("it was allocated");
        // SAFETY: there is no device.
        unsafe { buffer.give_up() };
    }
}
