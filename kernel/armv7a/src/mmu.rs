//! The MMU of a core of [`CORES`](crate::ids::CORES), and the caches in front of a bus master, as one machine.
//!
//! Guarantees the duties of [`Mmu`] and [`Cache`] on these cores. All sequences of cp15 operations and barriers are
//! written here and in [`cache`](super::cache). Memory is a clobber of each, so that the compiler moves no access
//! across them. aarch32-cpu gives the register types, for reads that need no such order.

use crate::cache::Caches;
use crate::levels::CacheLevel;
use crate::whole::{OtherCores, UnnamedLevel};
use crate::zeros::{self, NoVectors, Stores, ZeroFrames};
use crate::{cores, errata, ids};
use aarch32_cpu::register::{Actlr, IdMmfr3, Midr};
use carveout::addr::{FRAME_SIZE, FrameRange, PhysAddr, VirtAddr};
use carveout::cpu::{dsb, isb};
use carveout::machine::{Cache, LinearMap, Lines, Mmu, Registers};
use carveout::vm::attr::{LeafSize, MemoryType};
use carveout::vm::mapped::{Mapped, Part};
use carveout::vm::user::Asid;
use core::arch::asm;
use core::fmt;
use core::ptr::NonNull;
use spin::Once;

/// The most leaves whose translations are forgotten one by one. Beyond it the whole TLB is: an operation for each would
/// cost more than the refills.
const TLB_LEAVES: u32 = 32;

/// A core and its caches, of the kind that this runs on.
pub struct Armv7a {
    caches: Caches,
    /// Maintenance reaches the other cores of the inner shareable domain: `ID_MMFR3[15:12]` = 2. Its operations are
    /// UNDEFINED on Cortex-A8.
    broadcast: bool,
    /// The core is one of [`CORES`](crate::ids::CORES). Their TLBs keep its size with each entry, and compare the bits
    /// of an address above it. So any address of a large page or of a section finds its entry (for Cortex-A9 the field
    /// SZ: DDI 0388I, table 4-52). Of another core that is not known.
    whole_leaves: bool,
    /// Table walks look in the data cache: `ID_MMFR3[23:20]` = 1. On Cortex-A8 they do not.
    coherent_walk: bool,
    memory: &'static dyn LinearMap,
    /// What writes zeros, if it was chosen.
    zero: Once<ZeroFrames>,
}

impl fmt::Debug for Armv7a {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Armv7a").field("caches", &self.caches).finish_non_exhaustive()
    }
}

impl Armv7a {
    /// Makes the machine that this runs on. `memory` says where the kernel reaches RAM, by its physical addresses: the
    /// memory that its tables are in, at least. A kernel with a linear map gives a function:
    ///
    /// ```
    /// # #[cfg(target_arch = "arm")]
    /// # fn machine() -> carveout_armv7a::mmu::Armv7a {
    /// use carveout::addr::{FrameRange, VirtAddr};
    /// use carveout_armv7a::mmu::Armv7a;
    ///
    /// /// Where the kernel maps its RAM: all but the carve-outs, at a fixed distance.
    /// fn kernel_address(frames: FrameRange) -> Option<VirtAddr> {
    ///     let ram = FrameRange::within(0x6000_0000, 64 << 20);
    ///     ram.covers(frames).then(|| VirtAddr::new(frames.base().raw() + 0x2000_0000))
    /// }
    ///
    /// // SAFETY: the kernel maps all of that memory there, for good.
    /// unsafe { Armv7a::new(&kernel_address) }
    /// # }
    /// ```
    ///
    /// # Safety
    ///
    /// All memory that `memory` gives an address for is mapped there for good, readable, writable and write-back:
    /// tables are read and written there without another check (I1).
    ///
    /// The core has the Security Extensions, as each of [`CORES`](crate::ids::CORES) has. The lock reads ISR, a
    /// register of theirs (ARM ARM B4.1.83).
    pub unsafe fn new(memory: &'static dyn LinearMap) -> Self {
        let features = IdMmfr3::read().0;
        Self {
            caches: Caches::new(),
            broadcast: (features >> 12) & 0xf >= 2,
            whole_leaves: ids::core(Midr::read().raw_value()).is_some(),
            coherent_walk: (features >> 20) & 0xf == 1,
            memory,
            zero: Once::new(),
        }
    }

    /// Adds the outer cache, which is on, to the caches that are maintained: a [`L2c310`](crate::l2c310::L2c310), or
    /// the embedding kernel's own [`CacheLevel`].
    ///
    /// # Safety
    ///
    /// No [`Dma`](carveout::dma::Dma) was made over this machine yet. Otherwise this cache could hold lines that nobody
    /// maintained, of what a buffer or a device has seen (I3).
    ///
    /// # Panics
    ///
    /// If there is one already: two are on then, and one of them would not be maintained.
    pub unsafe fn set_outer(&self, outer: &'static dyn CacheLevel) {
        self.caches.set_outer(outer);
    }

    /// Permits that whole caches are emptied where a hand-over would maintain many times their lines
    /// ([`FLUSH_FROM`](carveout::protocol::FLUSH_FROM)). Without this call lines go one by one, whatever the buffer's
    /// size. A kernel that can wait for no other core, or whose caches matter more to it than a device's hand-over,
    /// does not call it.
    ///
    /// # Errors
    ///
    /// [`UnnamedLevel`] if CLIDR does not name every level up to the point of coherency. Nothing is permitted then.
    ///
    /// # Safety
    ///
    /// With [`OtherCores::None`], no other core is coherent with this one for as long as the machine lives (I3).
    ///
    /// # Panics
    ///
    /// If it was permitted before.
    pub unsafe fn permit_emptying(&self, others: OtherCores) -> Result<(), UnnamedLevel> {
        self.caches.permit_emptying(others)
    }

    /// Chooses the stores that write zeros. Without a choice they are [`Stores::Core`].
    ///
    /// # Errors
    ///
    /// [`NoVectors`] if this core has no vector registers in use. Nothing is chosen then.
    ///
    /// # Safety
    ///
    /// Whatever takes this core away while zeros are written, an interrupt or a scheduler, gives it back with the
    /// vector registers that it had. Writing zeros itself gives them back too.
    ///
    /// # Panics
    ///
    /// If a choice was made before.
    pub unsafe fn set_stores(&self, stores: Stores) -> Result<(), NoVectors> {
        let zero = zeros::by(stores)?;
        assert!(self.zero.get().is_none(), "a second choice of stores");
        self.zero.call_once(|| zero);
        Ok(())
    }

    /// Returns the core's name, its variant and its revision, from MIDR.
    pub fn core() -> (&'static str, u32, u32) {
        let midr = Midr::read().raw_value();
        let (variant, revision) = ((midr >> 20) & 0xf, midr & 0xf);
        (ids::core(midr).map_or("unknown core", |core| core.name), variant, revision)
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

    /// Writes a word of the kernel's memory, to the point of coherency. Returns `false`, and writes nothing, if the
    /// kernel has no address for it.
    ///
    /// # Safety
    ///
    /// `at` is a multiple of 4, and no Rust reference to the word there is alive.
    ///
    /// # Panics
    ///
    /// If the word crosses the end of a page. At a multiple of 4 it cannot.
    pub unsafe fn write_through(&self, at: PhysAddr, word: u32) -> bool {
        let Some(va) = self.va_of(at, 4) else { return false };
        // SAFETY: the kernel's memory is mapped for good, and what a cold core is told lies in neither text nor
        // constants; no reference to it is alive, by this function's contract.
        unsafe { (va.raw() as *mut u32).write_volatile(word) };
        let offset = at.raw() % FRAME_SIZE;
        let page = VirtAddr::new(va.raw() - offset);
        // SAFETY: the kernel's memory is mapped write-back for good (I1).
        let mapped = unsafe { Mapped::assume(page, FrameRange::covering(at.raw().into(), 4), MemoryType::WriteBack) };
        let part = mapped.part(offset, offset + 4).expect("in its page");
        self.caches.clean(part);
        true
    }

    /// Makes code that was just written to `words` visible to instruction fetches, at every address of it and on every
    /// core (ARM ARM B2.2.9).
    pub fn publish_code(&self, words: &[u32]) {
        self.caches.clean_to_unification(words);
        dsb();
        if self.broadcast {
            // SAFETY: ICIALLUIS: forgetting instructions is always allowed.
            unsafe { asm!("mcr p15, 0, {0}, c7, c1, 0", in(reg) 0, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: ICIALLU: forgetting instructions is always allowed.
            unsafe { asm!("mcr p15, 0, {0}, c7, c5, 0", in(reg) 0, options(nostack, preserves_flags)) };
        }
        self.forget_predictions();
        dsb();
        isb();
    }

    /// Starts to forget what branches were predicted, on every core that maintenance reaches.
    fn forget_predictions(&self) {
        if self.broadcast {
            // SAFETY: BPIALLIS: forgetting predictions is always allowed.
            unsafe { asm!("mcr p15, 0, {0}, c7, c1, 6", in(reg) 0, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: BPIALL: forgetting predictions is always allowed.
            unsafe { asm!("mcr p15, 0, {0}, c7, c5, 6", in(reg) 0, options(nostack, preserves_flags)) };
        }
    }

    /// Starts to forget all translations, on every core that maintenance reaches.
    fn forget_all(&self) {
        if self.broadcast {
            // SAFETY: TLBIALLIS: forgetting translations is always allowed.
            unsafe { asm!("mcr p15, 0, {0}, c8, c3, 0", in(reg) 0, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: TLBIALL: forgetting translations is always allowed.
            unsafe { asm!("mcr p15, 0, {0}, c8, c7, 0", in(reg) 0, options(nostack, preserves_flags)) };
        }
    }

    /// Starts to forget translations of `[va, va + bytes)`, by leaves of at least `step` bytes, on every core that
    /// maintenance reaches. They are global, or of address space `asid`.
    fn forget(&self, asid: u32, va: VirtAddr, bytes: u32, step: u32) {
        let (mut mva, mut left) = (va.raw(), bytes);
        while left > 0 {
            if self.broadcast {
                // By address in all ASIDs: erratum 720789 of Cortex-A9 has the form with an ASID broadcast a wrong one.
                // SAFETY: TLBIMVAAIS: forgetting translations is always allowed.
                unsafe { asm!("mcr p15, 0, {0}, c8, c3, 3", in(reg) mva, options(nostack, preserves_flags)) };
            } else {
                // SAFETY: TLBIMVA: forgetting translations is always allowed.
                unsafe { asm!("mcr p15, 0, {0}, c8, c7, 1", in(reg) mva | asid, options(nostack, preserves_flags)) };
            }
            // The last leaf may end with the address space.
            mva = mva.wrapping_add(step);
            left -= step;
        }
    }

    /// Starts to forget all translations of address space `asid` that are not global.
    fn forget_asid(&self, asid: u32) {
        if !self.broadcast {
            // SAFETY: TLBIASID: forgetting translations is always allowed.
            unsafe { asm!("mcr p15, 0, {0}, c8, c7, 2", in(reg) asid, options(nostack, preserves_flags)) };
        } else if !errata::broadcasts_a_wrong_asid(Midr::read().raw_value()) {
            // SAFETY: TLBIASIDIS: forgetting translations is always allowed.
            unsafe { asm!("mcr p15, 0, {0}, c8, c3, 2", in(reg) asid, options(nostack, preserves_flags)) };
        } else {
            self.forget_all();
        }
    }

    /// Returns where the kernel has `bytes` from `at` on, one after another.
    fn va_of(&self, at: PhysAddr, bytes: u32) -> Option<VirtAddr> {
        let page = self.memory.va_of(FrameRange::covering(at.raw().into(), bytes.into()))?;
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

    fn invalidate_tlb(&self, va: VirtAddr, bytes: u32, leaf: LeafSize) {
        let step = if self.whole_leaves { leaf.bytes() } else { FRAME_SIZE };
        if bytes > TLB_LEAVES * step {
            self.forget_all();
        } else {
            self.forget(0, va, bytes, step);
        }
        // Only this makes the invalidates complete, here and on other cores, with every access that came before them
        // (ARM ARM B3.10.1).
        dsb();
        isb();
    }

    fn invalidate_tlb_all(&self) {
        // What another program wrote to the tables comes first.
        dsb();
        self.forget_all();
        // What that program had mapped may have been executable.
        self.forget_predictions();
        // As in `invalidate_tlb`.
        dsb();
        isb();
    }

    fn invalidate_user(&self, asid: Asid, va: VirtAddr, bytes: u32) {
        if bytes > TLB_LEAVES * FRAME_SIZE {
            self.forget_asid(asid.number().into());
        } else {
            self.forget(asid.number().into(), va, bytes, FRAME_SIZE);
        }
        // As in `invalidate_tlb`.
        dsb();
        isb();
    }

    fn invalidate_asid(&self, asid: Asid) {
        self.forget_asid(asid.number().into());
        // As in `invalidate_tlb`.
        dsb();
        isb();
    }

    fn reach(&self, va: VirtAddr, _: u32) -> *mut u8 {
        // Another core may have made the mapping. Its DSB ordered the descriptors for every walk. But this core may
        // have begun a later access early, and walked for it before that DSB. An access that follows an ISB has not
        // (ARM ARM B3.10.1).
        isb();
        va.raw() as *mut u8
    }

    fn reach_to_overwrite(&self, va: VirtAddr, bytes: u32) -> *mut u8 {
        self.reach(va, bytes)
    }

    unsafe fn zero(&self, at: *mut u8, bytes: usize) {
        if bytes > 0 {
            let zero = self.zero.get().copied().unwrap_or(zeros::by_core);
            // SAFETY: whole frames, at least one, that are valid for writes, as `Mmu::zero` demands.
            unsafe { zero(at, bytes) };
        }
    }

    fn registers(&self) -> Registers {
        cores::registers()
    }

    fn table(&self, at: PhysAddr, bytes: u32) -> Option<NonNull<u32>> {
        NonNull::new(self.va_of(at, bytes)?.raw() as *mut u32)
    }
}

// SAFETY: see `Caches`, which does the work.
unsafe impl Cache for Armv7a {
    fn line(&self) -> u32 {
        self.caches.largest_line()
    }

    fn clean(&self, part: Part<'_>) -> Lines {
        self.caches.clean(part)
    }

    fn invalidate(&self, part: Part<'_>) -> Lines {
        self.caches.invalidate(part)
    }

    fn discard(&self, part: Part<'_>) -> Lines {
        self.caches.discard(part)
    }

    fn flush_lines(&self) -> Option<u32> {
        self.caches.all_lines()
    }

    fn flush(&self) -> Lines {
        self.caches.flush()
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
