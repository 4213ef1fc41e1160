//! The core that the code runs on: its number, its interrupts, its barriers.
//!
//! Guarantees: each barrier and each change of the interrupt mask has memory as a clobber, so that the compiler moves
//! no access across it.

#[cfg(target_arch = "arm")]
use core::arch::asm;
use core::fmt;

/// The most cores that have stacks. A Cortex-A9 `MPCore` has no more (MPIDR's CPU ID is two bits wide).
pub const MAX_CORES: usize = 4;

/// A core, by the CPU ID in its MPIDR. Core 0 boots.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CoreId(u8);

impl CoreId {
    /// Returns the core that this runs on. Without the Multiprocessing Extensions (MPIDR bit 31) it is core 0.
    #[cfg(target_arch = "arm")]
    pub fn current() -> Self {
        let mpidr: u32;
        // SAFETY: reads MPIDR.
        unsafe { asm!("mrc p15, 0, {0}, c0, c0, 5", out(reg) mpidr, options(pure, nomem, nostack, preserves_flags)) };
        if mpidr >> 31 == 1 { Self((mpidr % MAX_CORES as u32) as u8) } else { Self(0) }
    }

    /// Returns the core that a `reg` of `/cpus` names by the affinity bits of its MPIDR, or `None` if that core has no
    /// stacks here.
    pub fn from_reg(reg: u32) -> Option<Self> {
        let id = reg & 0xff;
        // All cores are of one cluster: an MPCore is one.
        (id < MAX_CORES as u32).then_some(Self(id as u8))
    }

    /// Yields all cores that there can be.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_CORES as u8).map(Self)
    }

    /// Returns the core's number, from 0 to below [`MAX_CORES`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the core's bit in a mask of cores, such as the GIC's targets.
    pub const fn bit(self) -> u32 {
        1 << self.0
    }
}

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "core {}", self.0)
    }
}

/// Returns the number of the core that this runs on. On the host there is one.
#[inline]
pub(crate) fn core_index() -> usize {
    #[cfg(target_arch = "arm")]
    return CoreId::current().index();
    #[cfg(not(target_arch = "arm"))]
    0
}

/// Relaxes the core in a loop that waits for another core.
///
/// This is a YIELD, at which an emulator goes on with another core, and a DMB. Two errata of Cortex-A9 need the DMB in
/// such a loop, and it costs only the core that waits. By erratum 754327 (before r2p0), what this core stored before
/// stays in its store buffer, where the other core does not see it, for as long as this core only loads. By erratum
/// 761319 (all revisions), the second of two loads of one word may give the older value.
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

/// Masks this core's interrupts. Returns whether they were masked before.
#[cfg(target_arch = "arm")]
pub(crate) fn mask_interrupts() -> bool {
    let cpsr: u32;
    // SAFETY: reads CPSR.
    unsafe { asm!("mrs {0}, cpsr", out(reg) cpsr, options(nomem, nostack, preserves_flags)) };
    // SAFETY: masking is always allowed; memory is a clobber.
    unsafe { asm!("cpsid i", options(nostack, preserves_flags)) };
    cpsr & (1 << 7) != 0
}

/// Runs something short with this core's interrupts masked. On the host, which has no interrupts, it just runs it.
#[inline]
pub fn masked<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "arm")]
    {
        let were_masked = mask_interrupts();
        let result = work();
        if !were_masked {
            unmask_interrupts();
        }
        result
    }
    #[cfg(not(target_arch = "arm"))]
    work()
}

/// Returns whether this core's interrupts are masked. The host has none.
pub(crate) fn interrupts_are_masked() -> bool {
    #[cfg(target_arch = "arm")]
    {
        let cpsr: u32;
        // SAFETY: reads CPSR.
        unsafe { asm!("mrs {0}, cpsr", out(reg) cpsr, options(nomem, nostack, preserves_flags)) };
        cpsr & (1 << 7) != 0
    }
    #[cfg(not(target_arch = "arm"))]
    false
}

/// Unmasks this core's interrupts. The caller found them unmasked when it masked them.
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

/// Passes an ISB: the instructions after it are fetched and executed with the context set so far.
#[cfg(target_arch = "arm")]
pub fn isb() {
    // SAFETY: a barrier; memory is a clobber.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

/// Gives lines of assembly eight times, for a loop that is unrolled. A `.rept` would not do: the compiler counts the
/// lines that it sees to know how far away it may put a constant, and on Thumb that is not far.
#[doc(hidden)]
#[macro_export]
macro_rules! eight_times {
    ($($line:literal)*) => {
        concat!(
            $($line, "\n",)* $($line, "\n",)* $($line, "\n",)* $($line, "\n",)*
            $($line, "\n",)* $($line, "\n",)* $($line, "\n",)* $($line, "\n",)*
        )
    };
}

/// Gives lines of assembly sixty-four times, as [`eight_times`](crate::eight_times) does eight times.
#[doc(hidden)]
#[macro_export]
macro_rules! sixty_four_times {
    ($($line:literal)*) => {
        $crate::eight_times!($($line)* $($line)* $($line)* $($line)* $($line)* $($line)* $($line)* $($line)*)
    };
}
