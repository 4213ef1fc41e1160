//! The MMU of Cortex-A8 and Cortex-A9, and the caches in front of a bus master, as one machine.
//!
//! Guarantees the duties of [`Mmu`] and [`Cache`] on these cores. All sequences of cp15 operations and barriers are
//! written here and in [`cache`](super::cache). Memory is a clobber of each, so that the compiler moves no access
//! across them. aarch32-cpu gives the register types, for reads that need no such order.

use crate::cache::Caches;
use crate::cores;
use crate::l2c310::L2c310;
use aarch32_cpu::register::{Actlr, IdMmfr3, Midr, Mpidr};
use carveout::addr::{FRAME_SIZE, FrameRange, PhysAddr, VirtAddr};
use carveout::cpu::{dsb, isb};
use carveout::machine::{Cache, LinearMap, Lines, Mmu, Registers};
use carveout::vm::attr::{MemoryType, Shareability};
use carveout::vm::mapped::{Mapped, Part};
use core::arch::asm;
use spin::Once;

/// The most pages whose translations are forgotten one by one. Beyond it the whole TLB is: an operation for each page
/// would cost more than the refills.
const TLB_PAGES: u32 = 32;

/// A Cortex-A8 or Cortex-A9 and its caches.
#[derive(Debug)]
pub struct Armv7a {
    caches: Caches,
    /// Maintenance reaches the other cores of the inner shareable domain: `ID_MMFR3[15:12]` = 2. Its operations are
    /// UNDEFINED on Cortex-A8.
    broadcast: bool,
    /// Table walks look in the data cache: `ID_MMFR3[23:20]` = 1. On Cortex-A8 they do not.
    coherent_walk: bool,
    /// What is added to an address in the image to get the physical one.
    image_offset: u32,
    /// The part of the image that is mapped without a gap.
    image: FrameRange,
    linear: Once<&'static dyn LinearMap>,
}

impl Armv7a {
    /// Makes the machine that this runs on. `image` are frames of the kernel's image. `image_offset` is what is added
    /// to a linked address to get the physical one.
    ///
    /// # Safety
    ///
    /// All of `image` is mapped for good at its linked addresses, readable and write-back: tables there are read
    /// without another check. Guard pages are not mapped, so none of them is in `image`.
    ///
    /// The core has the Security Extensions, as each of [`CORES`](crate::ids::CORES) has. The lock reads ISR, a
    /// register of theirs (ARM ARM B4.1.83). The head refuses a core without them.
    pub unsafe fn new(image: FrameRange, image_offset: u32) -> Self {
        let features = IdMmfr3::read().0;
        Self {
            caches: Caches::new(),
            broadcast: (features >> 12) & 0xf >= 2,
            coherent_walk: (features >> 20) & 0xf == 1,
            image_offset,
            image,
            linear: Once::new(),
        }
    }

    /// Takes note of mapped memory beside the image. Tables in it can be read from then on. Only the first call counts.
    ///
    /// # Safety
    ///
    /// All of that memory is mapped where `map` says, write-back, for good: tables are read there (I1).
    pub unsafe fn set_linear_map(&self, map: &'static dyn LinearMap) {
        self.linear.call_once(|| map);
    }

    /// Adds the outer cache, which is on, to the caches that are maintained.
    ///
    /// # Safety
    ///
    /// No [`Dma`](carveout::dma::Dma) was made over this machine yet. Otherwise this cache could hold lines that nobody
    /// maintained, of what a buffer or a device has seen (I3).
    ///
    /// # Panics
    ///
    /// If there is one already: two are on then, and one of them would not be maintained.
    pub unsafe fn set_outer(&self, outer: L2c310) {
        self.caches.set_outer(outer);
    }

    /// Returns whether Normal memory is Shareable here: on cores with the Multiprocessing Extensions it is (ARM ARM
    /// B4.1.106).
    pub fn shareability() -> Shareability {
        if Mpidr::read().0 >> 31 == 1 { Shareability::Shareable } else { Shareability::NonShareable }
    }

    /// Returns the core's name, its variant and its revision, from MIDR.
    pub fn core() -> (&'static str, u32, u32) {
        let midr = Midr::read().raw_value();
        let (variant, revision) = ((midr >> 20) & 0xf, midr & 0xf);
        let name = match (midr >> 4) & 0xfff {
            0xc08 => "Cortex-A8",
            0xc09 => "Cortex-A9",
            _ => "unknown core",
        };
        (name, variant, revision)
    }

    /// Returns whether the core's own second level is on. It is off on a Cortex-A8 if a secure world left ACTLR.L2EN
    /// clear and does not let others set it (DDI 0344K 3.2.26). Other cores here have no such switch.
    pub fn second_level_is_on(&self) -> bool {
        Self::core().0 != "Cortex-A8" || Actlr::read().0 & 1 << 1 != 0
    }

    /// Returns the caches.
    pub const fn caches(&self) -> &Caches {
        &self.caches
    }

    /// Writes a word of the image or of the direct map, to the point of coherency. Returns `false`, and writes nothing,
    /// if the word is in neither.
    ///
    /// # Safety
    ///
    /// `at` is a multiple of 4, and no Rust reference to the word there is alive.
    ///
    /// # Panics
    ///
    /// If the word crosses the end of a page. At a multiple of 4 it cannot.
    pub unsafe fn write_through(&self, at: PhysAddr, word: u32) -> bool {
        let Some(va) = self.virt_of(at) else { return false };
        // SAFETY: image and direct map are mapped for good, and what a cold core is told lies in neither text nor
        // constants; no reference to it is alive, by this function's contract.
        unsafe { (va.raw() as *mut u32).write_volatile(word) };
        let offset = at.raw() % FRAME_SIZE;
        let page = VirtAddr::new(va.raw() - offset);
        // SAFETY: image and direct map are mapped write-back for good.
        let mapped = unsafe { Mapped::assume(page, FrameRange::covering(at.raw().into(), 4), MemoryType::WriteBack) };
        let part = mapped.part(offset, offset + 4).expect("in its page");
        self.caches.clean(part);
        true
    }

    fn virt_of(&self, at: PhysAddr) -> Option<VirtAddr> {
        let frames = FrameRange::covering(at.raw().into(), 1);
        if self.image.covers(frames) {
            return Some(VirtAddr::new(at.raw().wrapping_sub(self.image_offset)));
        }
        let page = self.linear.get()?.va_of(frames)?;
        Some(VirtAddr::new(page.raw() + at.raw() % FRAME_SIZE))
    }
}

// SAFETY: publish cleans to the point of unification where walks do not look in the data cache, and ends in a DSB; with
// what follows it in `invalidate_tlb` that is the sequence of ARM ARM B3.10.1: DSB, invalidate, DSB, ISB, in the inner
// shareable form where the core has it (no branch prediction depends on it: what is unmapped is execute-never, or the
// head's page, never fetched again); pointers are virtual addresses, given after an ISB.
unsafe impl Mmu for Armv7a {
    fn publish(&self, _at: PhysAddr, words: &[u32]) {
        if !self.coherent_walk {
            self.caches.clean_to_unification(words);
        }
        dsb();
        isb();
    }

    fn invalidate_tlb(&self, va: VirtAddr, bytes: u32) {
        if bytes / FRAME_SIZE > TLB_PAGES {
            if self.broadcast {
                // SAFETY: TLBIALLIS: forgetting translations is always allowed.
                unsafe { asm!("mcr p15, 0, {0}, c8, c3, 0", in(reg) 0, options(nostack, preserves_flags)) };
            } else {
                // SAFETY: TLBIALL: forgetting translations is always allowed.
                unsafe { asm!("mcr p15, 0, {0}, c8, c7, 0", in(reg) 0, options(nostack, preserves_flags)) };
            }
        } else {
            for page in 0..bytes / FRAME_SIZE {
                let mva = va.raw() + page * FRAME_SIZE;
                if self.broadcast {
                    // By address in all ASIDs: the kernel's mappings are global, and erratum 720789 of Cortex-A9 has
                    // the form with an ASID broadcast a wrong one. SAFETY: TLBIMVAAIS: forgetting translations is
                    // always allowed.
                    unsafe { asm!("mcr p15, 0, {0}, c8, c3, 3", in(reg) mva, options(nostack, preserves_flags)) };
                } else {
                    // SAFETY: TLBIMVA: forgetting translations is always allowed.
                    unsafe { asm!("mcr p15, 0, {0}, c8, c7, 1", in(reg) mva, options(nostack, preserves_flags)) };
                }
            }
        }
        // Only this makes the invalidates complete, here and on other cores, with every access that came before them
        // (ARM ARM B3.10.1).
        dsb();
        isb();
    }

    fn reach(&self, va: VirtAddr) -> *mut u8 {
        // Another core may have made the mapping. Its DSB ordered the descriptors for every walk. But this core may
        // have begun a later access early, and walked for it before that DSB. An access that follows an ISB has not
        // (ARM ARM B3.10.1).
        isb();
        va.raw() as *mut u8
    }

    fn reach_to_overwrite(&self, va: VirtAddr, _: u32) -> *mut u8 {
        self.reach(va)
    }

    unsafe fn zero(&self, at: *mut u8, bytes: usize) {
        if bytes == 0 {
            return;
        }
        // Eight registers a store are a line, which write buffer and bus take as one burst; 34 instructions a KiB. Of
        // the registers a compiler leaves to assembly these are the most that do not split a line. SAFETY: stores to
        // bytes that are valid for them, as `Mmu::zero` demands; the KiB of a turn divides a frame.
        unsafe {
            asm!(
                "2:",
                ".rept 32",
                "stm {at}!, {{r0, r1, r2, r3, r4, r5, r8, r10}}",
                ".endr",
                "cmp {at}, {end}",
                "bne 2b",
                at = inout(reg) at => _,
                end = in(reg) at.wrapping_add(bytes),
                in("r0") 0, in("r1") 0, in("r2") 0, in("r3") 0, in("r4") 0, in("r5") 0, in("r8") 0, in("r10") 0,
                options(nostack)
            );
        }
    }

    fn registers(&self) -> Registers {
        cores::registers()
    }

    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        let va = self.virt_of(at)?;
        // SAFETY: image and direct map are mapped for good, readable; volatile, as the tables have another writer.
        Some(unsafe { (va.raw() as *const u32).read_volatile() })
    }
}

// SAFETY: see `Caches`, which does the work.
unsafe impl Cache for Armv7a {
    fn clean(&self, part: Part<'_>) -> Lines {
        self.caches.clean(part)
    }

    fn invalidate(&self, part: Part<'_>) -> Lines {
        self.caches.invalidate(part)
    }

    fn discard(&self, part: Part<'_>) -> Lines {
        self.caches.discard(part)
    }

    fn device_barrier(&self) {
        self.caches.device_barrier();
    }

    fn dma_wmb(&self) {
        // SAFETY: a barrier; memory is a clobber. Bus masters are outside the inner shareable domain.
        unsafe { asm!("dmb oshst", options(nostack, preserves_flags)) };
    }

    fn dma_rmb(&self) {
        // SAFETY: as in `dma_wmb`.
        unsafe { asm!("dmb osh", options(nostack, preserves_flags)) };
    }
}
