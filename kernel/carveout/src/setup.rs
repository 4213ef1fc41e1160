//! A fake machine with one area, with which tests and examples begin.

use crate::addr::{FRAME_SHIFT, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::carve_out::CarveOut;
use crate::dma::Dma;
use crate::dma::master::Master;
use crate::embed::{Builder, Needs, Roots, Window};
use crate::fake::Fake;
use crate::machine::{Machine, Mmu};
use crate::vm::attr::{Access, MemoryType, Shareability};
use crate::vm::audit::{Expect, Findings, KernelMap, Report};
use crate::vm::desc::{L1Desc, L2_TABLE_SIZE, L2Desc};
use crate::vm::range::VirtRange;
use core::convert::Infallible;
use std::boxed::Box;
use std::vec;
use std::vec::Vec;

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

/// The address at which the kernel's direct map would have the first byte of RAM. Nothing is mapped there at first.
pub const DIRECT: VirtAddr = VirtAddr::new(0x8000_0000);
/// The address of the second-level tables of the direct map, one for each section of RAM.
const DIRECT_L2: PhysAddr = PhysAddr::new(0x6018_0000);

/// The address at which the areas' window begins.
pub const WINDOW: VirtAddr = VirtAddr::new(0xc000_0000);

/// Makes the DMA API over a machine that passes every call on to a fake one, with an area of `bytes` as
/// [`Setup::with_area`] has it. It is the only one of that fake machine.
///
/// # Panics
///
/// As [`Setup::with_area`].
pub fn dma_over<M: Machine>(machine: &'static M, bytes: u32) -> &'static Dma<M> {
    over(machine, test_area(bytes))
}

/// Returns the area of so many bytes.
fn test_area(bytes: u32) -> CarveOut {
    let frames = FrameRange::within(CARVED.raw().into(), bytes.min(CARVED_BYTES).into());
    // SAFETY: the fake maps nothing but what its window maps (I2).
    unsafe { CarveOut::assume("test", &[frames], true) }
}

/// Makes the DMA API over a machine, with one carve-out.
fn over<M: Machine>(machine: &'static M, carved: CarveOut) -> &'static Dma<M> {
    let carved = [carved];
    let range = VirtRange::new(WINDOW.raw(), Needs::of(&carved, Builder::RECORDS).sections);
    // SAFETY: the fake judges I1; nothing else uses these addresses or tables.
    let window = unsafe { Window::assume(range, Roots::One, L2) };
    let dma = Builder::new(machine, carved, window).build();
    machine.device_barrier();
    Box::leak(Box::new(dma.expect("a window as large as asked for")))
}

/// Frames of a section.
const SECTION_FRAMES: u32 = SECTION_SIZE >> FRAME_SHIFT;

/// Yields the parts of some frames that lie in one section each.
fn sections_of(frames: FrameRange) -> impl Iterator<Item = FrameRange> {
    let first = frames.start() / SECTION_FRAMES..frames.end().div_ceil(SECTION_FRAMES);
    let section = |n| FrameRange::new(n * SECTION_FRAMES, SECTION_FRAMES).expect("below 4 GiB");
    first.map(move |n| section(n).intersection(frames))
}

/// Returns where the second-level table stands that the direct map has for a section of RAM, and the first-level entry.
fn direct_words(part: FrameRange) -> (PhysAddr, PhysAddr) {
    let section = (part.base().raw() - RAM.raw()) / SECTION_SIZE;
    let entry = L1.raw() + 4 * (DIRECT.raw() / SECTION_SIZE + section);
    (PhysAddr::new(DIRECT_L2.raw() + section * L2_TABLE_SIZE), PhysAddr::new(entry))
}

/// Returns where the word of a part's first page stands in the table of its section.
fn page_word(part: FrameRange) -> PhysAddr {
    PhysAddr::new(direct_words(part).0.raw() + 4 * (part.start() % SECTION_FRAMES))
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
        Self::with_carve_out(seed, test_area(bytes))
    }

    /// Makes a machine with this carve-out, which has frames of the [carved](CARVED) part of RAM alone. The adversary
    /// goes by `seed`.
    ///
    /// # Panics
    ///
    /// If the carve-out has no frames, or frames of the part of RAM where tables are.
    pub fn with_carve_out(seed: u64, carved: CarveOut) -> Self {
        let fake: &'static Fake = Box::leak(Box::new(Fake::new(RAM, RAM_BYTES, L1, seed)));
        let all = FrameRange::within(CARVED.raw().into(), CARVED_BYTES.into());
        assert!(carved.ranges().iter().all(|run| all.covers(*run)));
        Self { fake, dma: over(fake, carved) }
    }

    /// Makes a bus master that allocates from the area.
    pub fn master(&self, name: &str) -> Master {
        Master::new(name, self.dma.area("test"))
    }

    /// Returns the bytes that are free in the area.
    pub fn free_bytes(&self) -> u64 {
        self.dma.area("test").map_or(0, |area| self.dma.free_bytes(area).0)
    }

    /// Maps frames of RAM write-back in the direct map, as a kernel maps RAM that is its own: by sections where they
    /// are whole. Returns their address. Nothing of them is mapped there yet.
    pub fn kernel_maps(&self, frames: FrameRange) -> VirtAddr {
        let (memory, access, share) = (MemoryType::WriteBack, Access::ReadWrite, Shareability::Shareable);
        for part in sections_of(frames) {
            let (table, entry) = direct_words(part);
            if part.count() == SECTION_FRAMES {
                self.fake.publish(entry, &[L1Desc::section(part.base(), memory, access, share).raw()]);
                continue;
            }
            let pages: Vec<_> =
                part.iter().map(|frame| L2Desc::small(frame.base(), memory, access, share).raw()).collect();
            self.fake.publish(page_word(part), &pages);
            self.fake.publish(entry, &[L1Desc::table(table).raw()]);
        }
        VirtAddr::new(DIRECT.raw() + (frames.base().raw() - RAM.raw()))
    }

    /// Ends what [`kernel_maps`](Self::kernel_maps) mapped, of the same frames, and invalidates no TLB: what
    /// [`Dma::take_area`] asks for.
    ///
    /// # Errors
    ///
    /// None.
    pub fn kernel_unmaps(&self, frames: FrameRange) -> Result<(), Infallible> {
        for part in sections_of(frames) {
            if part.count() == SECTION_FRAMES {
                self.fake.publish(direct_words(part).1, &[L1Desc::FAULT.raw()]);
            } else {
                self.fake.publish(page_word(part), &vec![L2Desc::FAULT.raw(); part.count() as usize]);
            }
        }
        Ok(())
    }

    /// Walks the tables and compares them with the ledger.
    ///
    /// # Errors
    ///
    /// The first finding, and how many there are of each kind.
    pub fn audit(&self) -> Result<Report, Findings> {
        let ram = [FrameRange::within(RAM.raw().into(), RAM_BYTES.into())];
        let expect = Expect { kernel: Some(KernelMap { ram: &ram, text: FrameRange::EMPTY }), ..Expect::CARVED };
        self.dma.audit(&expect, |_| {})
    }
}
