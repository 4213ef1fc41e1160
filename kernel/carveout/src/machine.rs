//! The only seam between this crate and a machine: two unsafe traits.
//!
//! Guarantees: everything above this module is the same code on a board and on the host, where
//! `fake` stands in for MMU, caches and DRAM and is stricter than hardware.

use crate::addr::{FrameRange, PhysAddr, VirtAddr};
use crate::vm::attr::{LeafSize, Shareability};
use crate::vm::mapped::Part;
use crate::vm::user::Asid;
use core::ops::{Add, AddAssign};
use core::ptr::NonNull;

/// The registers that decide what a core's tables mean, as they stand (ARM ARM B4.1). [`crate::vm::walk`] decodes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// SCTLR: MMU, byte order of walks, TEX remap, access flag, writable memory that does not execute.
    pub sctlr: u32,
    /// TTBR0: the table of the lower addresses, and how walks of it go through the caches.
    pub ttbr0: u32,
    /// TTBR1: the table of the upper addresses, and how walks of it go through the caches.
    pub ttbr1: u32,
    /// TTBCR: where the two meet, which of them is walked, and the format of their tables.
    pub ttbcr: u32,
    /// DACR: what each domain is checked for.
    pub dacr: u32,
    /// PRRR: the memory types of the remapped regions, and their shareability. It is 0 where SCTLR.TRE is clear, for it
    /// means nothing then.
    pub prrr: u32,
    /// NMRR: the cacheability of the remapped regions. It is 0 where SCTLR.TRE is clear.
    pub nmrr: u32,
    /// Whether the core has the Multiprocessing Extensions (MPIDR bit 31).
    pub multiprocessing: bool,
    /// Whether the core knows the PXN bit (`ID_MMFR0[3:0]` is 4 or more).
    pub pxn: bool,
    /// ACTLR: coherency and broadcast, among others. Each core's manual says which bits these are. It is only compared
    /// between cores.
    pub actlr: u32,
    /// The bits of ACTLR that this core has set, all of them, while it is coherent with others and has its maintenance
    /// broadcast: SMP, and on Cortex-A5 and Cortex-A9 also FW. It is 0 on a core that has none, or that is not known.
    pub coherency: u32,
}

impl Registers {
    /// Returns the registers of an `MPCore` with one table for both halves: TTBCR.N = 1, walks write-back and
    /// Shareable, domain 0 a client's, no remap and no access flag.
    pub const fn plain(table: PhysAddr) -> Self {
        let ttbr = table.raw() | 0x6a;
        Self {
            // M, C, Z and I are set.
            sctlr: 0x1805,
            ttbr0: ttbr,
            ttbr1: ttbr,
            ttbcr: 1,
            dacr: 1,
            prrr: 0,
            nmrr: 0,
            multiprocessing: true,
            pxn: false,
            // SMP and FW of a Cortex-A9 are set.
            actlr: 0x41,
            coherency: 0x41,
        }
    }

    /// Returns the shareability that Normal memory has on this core: on cores with the Multiprocessing Extensions it is
    /// Shareable (ARM ARM B4.1.106).
    pub const fn shareability(&self) -> Shareability {
        if self.multiprocessing { Shareability::Shareable } else { Shareability::NonShareable }
    }
}

/// A memory management unit and the tables it walks.
///
/// # Safety
///
/// The implementer's duties, on which I1 to I4 rest:
/// - after [`publish`](Self::publish) returns, every walk that starts later reads those words;
/// - after [`invalidate_tlb`](Self::invalidate_tlb) returns, no observer translates an address of the range by
///   anything but the tables as published, and every access made through an older translation is complete;
/// - after [`invalidate_tlb_all`](Self::invalidate_tlb_all) returns, that holds for all addresses;
/// - after [`invalidate_user`](Self::invalidate_user) returns, it holds for the range in that address space, and after
///   [`invalidate_asid`](Self::invalidate_asid) for all addresses that are not global in it;
/// - [`reach`](Self::reach) gives the pointer by which the CPU accesses exactly those addresses. Accesses after it
///   translate by whatever any core published before it. On a machine of several cores, the core that published waited
///   for that, and the core that looks takes note here;
/// - [`table`](Self::table) gives the pointer to exactly that memory, by which words can be read and written for as
///   long as the machine lives.
pub unsafe trait Mmu {
    /// Makes table words visible to the walker: the words at physical address `at` were just written to `words`.
    fn publish(&self, at: PhysAddr, words: &[u32]);

    /// Forgets every translation of `[va, va + bytes)` that is no longer published, on every core, and waits until that
    /// is done. Each of them was by a leaf of at least the size `leaf`, of which `va` and `bytes` are multiples. A
    /// pointer to a second-level table counts as a section.
    fn invalidate_tlb(&self, va: VirtAddr, bytes: u32, leaf: LeafSize);

    /// Forgets every translation that is no longer published, at any address and of any address space, on every core.
    /// Waits until that is done. Another program may just have written the tables: its writes come first.
    fn invalidate_tlb_all(&self);

    /// Forgets every translation of `[va, va + bytes)` in a process's address space that is no longer published, on
    /// every core, and waits until that is done. Each of them was by a small page: `va` and `bytes` are multiples of
    /// 4 KiB. A machine that does not say otherwise forgets all.
    fn invalidate_user(&self, asid: Asid, va: VirtAddr, bytes: u32) {
        let _ = (asid, va, bytes);
        self.invalidate_tlb_all();
    }

    /// Forgets every translation in a process's address space that is no longer published, on every core, and waits
    /// until that is done. Pointers to second-level tables count too. A machine that does not say otherwise forgets
    /// all.
    fn invalidate_asid(&self, asid: Asid) {
        let _ = asid;
        self.invalidate_tlb_all();
    }

    /// Returns the pointer with which this program reaches `[va, va + bytes)`.
    fn reach(&self, va: VirtAddr, bytes: u32) -> *mut u8;

    /// Returns the pointer with which this program reaches `va`, for a caller that writes every byte of
    /// `[va, va + bytes)`, whole frames, before it reads any. Lines of them may be stale: what is written takes their
    /// place.
    fn reach_to_overwrite(&self, va: VirtAddr, bytes: u32) -> *mut u8;

    /// Writes zeros to `[at, at + bytes)`, whole frames.
    ///
    /// # Safety
    ///
    /// `at` is valid for writes of `bytes` bytes; both are multiples of 4 KiB.
    unsafe fn zero(&self, at: *mut u8, bytes: usize) {
        // SAFETY: `at` is valid for writes of `bytes` bytes, as this method demands.
        unsafe { at.write_bytes(0, bytes) };
    }

    /// Returns the registers of the core that this runs on.
    fn registers(&self) -> Registers;

    /// Returns the pointer with which this program reaches `bytes` of tables at `at`, or `None` where not all of them
    /// are known memory. `at` and `bytes` are multiples of 4.
    fn table(&self, at: PhysAddr, bytes: u32) -> Option<NonNull<u32>>;

    /// Returns a word of a table, as the walker would read it, or `None` where there is no known memory.
    fn table_word(&self, at: PhysAddr) -> Option<u32> {
        let word = self.table(at, 4)?;
        // SAFETY: the word can be read, by the duty of `table`; volatile, as the tables have other writers.
        Some(unsafe { word.read_volatile() })
    }
}

/// Cache lines maintained, inside and outside of the cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lines {
    /// Lines by MVA, in the cores' own caches.
    pub inner: u64,
    /// Lines by physical address, in all levels outside of the cores.
    pub outer: u64,
}

impl Add for Lines {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self { inner: self.inner + more.inner, outer: self.outer + more.outer }
    }
}

impl AddAssign for Lines {
    fn add_assign(&mut self, more: Self) {
        *self = *self + more;
    }
}

/// The data caches up to the point of coherency with bus masters, every level.
///
/// Each operation takes a [`Part`] of a mapping: the proof that a translation exists, which maintenance by MVA needs
/// (I3). It works on every line that holds a byte of the part.
///
/// # Safety
///
/// The implementer's duties, on which I3 to I5 rest:
/// - After [`clean`](Self::clean), all that the CPU wrote to the range is on its way to memory, and a device barrier
///   waits until it is there: [`protocol::clean`](crate::protocol::clean).
/// - When [`invalidate`](Self::invalidate) returns, no level holds a line of the range that was there when it was
///   called, whatever is speculated meanwhile. The caller says that none is dirty:
///   [`protocol::invalidate`](crate::protocol::invalidate).
/// - When [`discard`](Self::discard) returns, no level holds a line of the range. Their data, which is dead, does not
///   reach memory later. The caller says that no write-back translation of the range exists:
///   [`protocol::discard`](crate::protocol::discard).
/// - When [`flush`](Self::flush) returns, no level of any core holds a line of any frame that had no write-back
///   translation since it was called. What their dirty lines held is in memory:
///   [`protocol::flush`](crate::protocol::flush).
/// - When [`device_barrier`](Self::device_barrier) returns, bus masters see all earlier accesses to Normal memory,
///   non-cacheable ones and cleans included, before any later access to a device.
/// - [`dma_wmb`](Self::dma_wmb) and [`dma_rmb`](Self::dma_rmb) order accesses to coherent memory as bus masters see
///   them.
///
/// All of them order against the compiler too: memory is a clobber.
pub unsafe trait Cache {
    /// Returns the bytes of the largest line of any level, a power of two of at most 4 KiB. No operation touches more
    /// than the aligned blocks of this size that hold a byte of its part, and no level evicts more at a time.
    fn line(&self) -> u32;

    /// Starts to write dirty lines of the part back to the point of coherency.
    fn clean(&self, part: Part<'_>) -> Lines;

    /// Drops lines of the part, none of which is dirty.
    fn invalidate(&self, part: Part<'_>) -> Lines;

    /// Drops lines of the part, dirty ones too, while nothing can fill any.
    fn discard(&self, part: Part<'_>) -> Lines;

    /// Returns how many lines [`flush`](Self::flush) works on, of all levels and all cores together, or `None` if this
    /// machine does not empty whole caches.
    fn flush_lines(&self) -> Option<u32> {
        None
    }

    /// Empties whole caches, on every core. Returns how many lines it asked for. It is called only where
    /// [`flush_lines`](Self::flush_lines) returned a number.
    fn flush(&self) -> Lines {
        unreachable!("this machine does not empty whole caches");
    }

    /// Passes the barrier between memory and a device's registers, before a device is told to go: Linux's `wmb()`, a
    /// DSB and the outer cache's sync. It also stands before a word that the device polls, if that tells of what was
    /// cleaned.
    fn device_barrier(&self);

    /// Passes the barrier between two writes to coherent memory that a device polls, such as a descriptor and the word
    /// that makes it valid: Linux's `dma_wmb()`, a DMB (ARM ARM A3.8.3). What was cleaned may still be in the outer
    /// cache's buffers, and so may both writes: erratum 769419 of the PL310 keeps them there until a
    /// [`device_barrier`](Self::device_barrier). So a device barrier follows where a device polls and is not told.
    ///
    /// This barrier, or a device barrier, stands between a write to a word that a device may take over and the next
    /// write to the same aligned 8 bytes. By erratum 794074 of Cortex-A9 the first of the two writes may be done again
    /// after the second, over what the device wrote meanwhile.
    fn dma_wmb(&self);

    /// Passes the barrier between two reads of coherent memory that a device writes, such as a completion word and what
    /// it says is complete: Linux's `dma_rmb()`, a DMB.
    fn dma_rmb(&self);
}

/// Memory that the CPU reaches at fixed addresses: a kernel's direct map, and its image. A function is one too.
pub trait LinearMap: Sync {
    /// Returns where `frames` are mapped, one after another, or `None` unless all of them are.
    fn va_of(&self, frames: FrameRange) -> Option<VirtAddr>;
}

impl<F: Fn(FrameRange) -> Option<VirtAddr> + Sync> LinearMap for F {
    fn va_of(&self, frames: FrameRange) -> Option<VirtAddr> {
        self(frames)
    }
}

/// Both halves of the seam.
pub trait Machine: Mmu + Cache {}

impl<M: Mmu + Cache> Machine for M {}

/// Copies a page of 4 KiB.
///
/// # Safety
///
/// `from` is valid for reads and `to` for writes of 4 KiB, both aligned to 32 bytes, and they do not overlap.
pub unsafe fn copy_page(to: *mut u8, from: *const u8) {
    const BYTES: usize = crate::addr::FRAME_SIZE as usize;
    #[cfg(target_arch = "arm")]
    // SAFETY: loads and stores of the 4 KiB at `from` and at `to`, which are valid for them, as this function demands;
    // the registers are named, and memory is a clobber.
    unsafe {
        core::arch::asm!(
            "1:",
            crate::sixty_four_times!(
                "ldm {from}!, {{r2, r3, r4, r5, r8, r9, r10, r12}}"
                "stm {to}!, {{r2, r3, r4, r5, r8, r9, r10, r12}}"
            ),
            "cmp {from}, {end}",
            "bne 1b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            end = in(reg) from.wrapping_add(BYTES),
            out("r2") _, out("r3") _, out("r4") _, out("r5") _,
            out("r8") _, out("r9") _, out("r10") _, out("r12") _,
            options(nostack)
        );
    }
    #[cfg(not(target_arch = "arm"))]
    // SAFETY: 4 KiB that are valid, aligned and do not overlap, as this function demands.
    unsafe {
        core::ptr::copy_nonoverlapping(from, to, BYTES);
    }
}
