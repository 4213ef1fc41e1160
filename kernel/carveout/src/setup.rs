//! A fake machine with one area, with which tests and examples begin.

use crate::addr::{FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::carve_out::CarveOut;
use crate::dma::Dma;
use crate::dma::master::Master;
use crate::fake::Fake;
use crate::machine::Cache;
use crate::vm::alias::Aliases;
use crate::vm::attr::Shareability;
use crate::vm::audit::{Expect, Findings, Report};
use crate::vm::desc::{L1Desc, L2_ENTRIES, L2_TABLE_SIZE, L2Desc, L2Table};
use crate::vm::range::VirtRange;
use crate::vm::space::Region;
use std::boxed::Box;
use std::vec;

/// The first byte of RAM.
pub const RAM: PhysAddr = PhysAddr::new(0x6000_0000);
/// The size of RAM in bytes.
pub const RAM_BYTES: u32 = 8 << 20;
/// The first byte of the carved part of RAM.
pub const CARVED: PhysAddr = PhysAddr::new(0x6020_0000);
/// The size of the carved part in bytes, unless a test wants fewer.
pub const CARVED_BYTES: u32 = 4 << 20;
/// The address of the first-level table.
pub const L1: PhysAddr = PhysAddr::new(0x6000_4000);
/// The address at which the window's second-level tables begin.
pub const L2: PhysAddr = PhysAddr::new(0x6001_0000);

/// The window for lent frames.
const LOAN_WINDOW: VirtRange = VirtRange::new(0xefe0_0000, 1);

/// The address at which the areas' window begins.
pub const WINDOW: VirtAddr = VirtAddr::new(0xc000_0000);

/// Makes a window whose second-level tables begin at `tables`.
fn region(fake: &Fake, range: VirtRange, tables: PhysAddr) -> Region<'static> {
    let count = range.sections() as usize;
    let l1: &'static mut [L1Desc] = vec![L1Desc::FAULT; count].leak();
    let l2: &'static mut [L2Table] = vec![[L2Desc::FAULT; L2_ENTRIES]; count].leak();
    let at = PhysAddr::new(L1.raw() + 4 * (range.start().raw() / SECTION_SIZE));
    // SAFETY: the fake judges I1; nothing else uses these tables.
    unsafe { Region::one_each(fake, range, Shareability::Shareable, l1, at, l2, tables) }.expect("heap for the region")
}

/// A machine, and the DMA API over it. The memory that it takes is never given back.
pub struct Setup {
    /// The machine: memory as devices see it, and the adversary.
    pub fake: &'static Fake,
    /// One area, named `test`.
    pub dma: &'static Dma<Fake>,
}

impl Setup {
    /// Makes a machine with an area of [`CARVED_BYTES`], whose adversary goes by `seed`.
    pub fn new(seed: u64) -> Self {
        Self::with_area(seed, CARVED_BYTES)
    }

    /// Makes a machine whose area has `bytes`, a multiple of 4 KiB and at most [`CARVED_BYTES`]. The adversary goes by
    /// `seed`.
    ///
    /// # Panics
    ///
    /// If `bytes` is less than 4 KiB: an area has at least one frame.
    pub fn with_area(seed: u64, bytes: u32) -> Self {
        let fake: &'static Fake = Box::leak(Box::new(Fake::new(RAM, RAM_BYTES, L1, seed)));
        let frames = FrameRange::within(CARVED.raw().into(), bytes.min(CARVED_BYTES).into());
        // SAFETY: the fake maps nothing but what this window maps.
        let carved = unsafe { CarveOut::assume("test", &[frames], true) };
        let sections = Dma::<Fake>::window_sections([&carved].into_iter());
        let window = region(fake, VirtRange::new(WINDOW.raw(), sections), L2);
        let loans = region(fake, LOAN_WINDOW, PhysAddr::new(L2.raw() + sections * L2_TABLE_SIZE));
        let dma = Dma::new(fake, [carved].into_iter(), Aliases::default(), window, loans);
        let dma: &'static Dma<Fake> = Box::leak(Box::new(dma.expect("windows as large as asked for")));
        fake.device_barrier();
        Self { fake, dma }
    }

    /// Makes a bus master that allocates from the area.
    pub fn master(&self, name: &'static str) -> Master {
        Master::new(name, self.dma.area("test"))
    }

    /// Returns the bytes that are free in the area.
    pub fn free_bytes(&self) -> u64 {
        self.dma.area("test").map_or(0, |area| self.dma.free_bytes(area).0)
    }

    /// Walks the tables and compares them with the ledger.
    ///
    /// # Errors
    ///
    /// The first finding, and how many there are of each kind.
    pub fn audit(&self) -> Result<Report, Findings> {
        let ram = [FrameRange::within(RAM.raw().into(), RAM_BYTES.into())];
        let share = Shareability::Shareable;
        let expect = Expect { ram: &ram, firmware: &[], text: FrameRange::EMPTY, share, roots: &[], cores: &[] };
        self.dma.audit(&expect, |_| {})
    }
}
