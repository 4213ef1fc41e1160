//! The core that this runs on: its number, its interrupts, its barriers.
//!
//! Guarantees: each barrier and each change of the interrupt mask has memory as a clobber, so that the compiler moves
//! no access across it.

#[cfg(target_arch = "arm")]
use core::arch::asm;
use core::fmt;

/// Cores that have stacks: as many as a Cortex-A9 `MPCore` has at most (MPIDR's CPU ID is two bits wide).
pub const MAX_CORES: usize = 4;

/// A core, by the CPU ID in its MPIDR; 0 boots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreId(u8);

impl CoreId {
    /// The one this runs on. Without the Multiprocessing Extensions (MPIDR bit 31) there is one.
    #[cfg(target_arch = "arm")]
    pub fn current() -> Self {
        let mpidr: u32;
        // SAFETY: reads MPIDR.
        unsafe { asm!("mrc p15, 0, {0}, c0, c0, 5", out(reg) mpidr, options(pure, nomem, nostack, preserves_flags)) };
        if mpidr >> 31 == 1 { Self((mpidr % MAX_CORES as u32) as u8) } else { Self(0) }
    }

    /// The core that a `reg` of `/cpus` means, the affinity bits of its MPIDR: `None` if it has no stacks here.
    pub fn from_reg(reg: u32) -> Option<Self> {
        let id = reg & 0xff;
        // The cluster is the same for all: an MPCore is one.
        (id < MAX_CORES as u32).then_some(Self(id as u8))
    }

    /// All there can be.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_CORES as u8).map(Self)
    }

    /// Counted from 0, below [`MAX_CORES`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Its bit in a mask of cores, such as the GIC's targets.
    pub const fn bit(self) -> u32 {
        1 << self.0
    }
}

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "core {}", self.0)
    }
}

/// Lets time pass in a loop that waits for another core.
///
/// It is a YIELD, at which an emulator goes on with another core, and a DMB, which two errata of Cortex-A9 need in such
/// a loop and which costs nobody but who waits. 754327 (before r2p0): what this core stored before stays in its store
/// buffer, where the other core does not see it, for as long as this one only loads. 761319 (all): of two loads of one
/// word the second may be the older one.
#[inline]
pub fn relax() {
    #[cfg(target_arch = "arm")]
    // SAFETY: a barrier; memory is a clobber.
    unsafe {
        core::arch::asm!("dmb ish", options(nostack, preserves_flags));
    }
    core::hint::spin_loop();
}

/// Waits until all earlier memory accesses and maintenance are complete, for every observer.
#[cfg(target_arch = "arm")]
pub fn dsb() {
    // SAFETY: a barrier; memory is a clobber.
    unsafe { asm!("dsb", options(nostack, preserves_flags)) };
}

/// Sleeps until an interrupt is pending, masked or not, after everything before is complete.
#[cfg(target_arch = "arm")]
pub fn wait_for_interrupt() {
    dsb();
    // SAFETY: it waits; memory is a clobber.
    unsafe { asm!("wfi", options(nostack, preserves_flags)) };
}

/// Has this core take no interrupts, and says whether it took none before.
#[cfg(target_arch = "arm")]
pub(crate) fn mask_interrupts() -> bool {
    let cpsr: u32;
    // SAFETY: reads CPSR.
    unsafe { asm!("mrs {0}, cpsr", out(reg) cpsr, options(nomem, nostack, preserves_flags)) };
    // SAFETY: masking is always allowed; memory is a clobber.
    unsafe { asm!("cpsid i", options(nostack, preserves_flags)) };
    cpsr & (1 << 7) != 0
}

/// Has this core take interrupts again: those who masked them found them unmasked.
#[cfg(target_arch = "arm")]
pub(crate) fn unmask_interrupts() {
    // SAFETY: the critical section that masked them ends here; memory is a clobber.
    unsafe { asm!("cpsie i", options(nostack, preserves_flags)) };
}

/// Returns whether an interrupt is pending for this core, masked or not (ISR.I).
#[cfg(target_arch = "arm")]
pub(crate) fn interrupt_pends() -> bool {
    let isr: u32;
    // SAFETY: reads ISR, which the core has: the head refuses one without it, and who makes the machine says so. Not
    // moved past accesses to memory, for a loop asks again.
    unsafe { asm!("mrc p15, 0, {0}, c12, c1, 0", out(reg) isr, options(nostack, preserves_flags)) };
    isr & (1 << 7) != 0
}

/// What follows is fetched and executed with the context set so far.
#[cfg(target_arch = "arm")]
pub fn isb() {
    // SAFETY: a barrier; memory is a clobber.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}
