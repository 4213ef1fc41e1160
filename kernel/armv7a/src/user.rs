//! The switch of address spaces: TTBR0 and CONTEXTIDR of the core that this runs on.
//!
//! Guarantees: no walk goes by the table of one process and the number (ASID) of another (ARM ARM B3.10.4). While no
//! process runs, the number is 0 and TTBR0 is what it was before. So the kernel reaches no address of a process by
//! accident, if nothing is mapped there. The kernel translates its own addresses by TTBR1 alone (TTBCR.N = 1).

use carveout::cpu::{dsb, isb, masked};
use carveout::vm::user::UserRoot;
use core::arch::asm;

/// The bits of a TTBR that say how walks go through the caches (ARM ARM B4.1.154).
const WALKS: u32 = 0x7f;

/// Does `work` while this core translates the lower addresses by `root`. Interrupts are masked meanwhile.
pub fn in_space<R>(root: UserRoot<'_>, work: impl FnOnce() -> R) -> R {
    masked(|| {
        let (outside, kernel, context): (u32, u32, u32);
        // SAFETY: reads TTBR0.
        unsafe { asm!("mrc p15, 0, {0}, c2, c0, 0", out(reg) outside, options(nomem, nostack, preserves_flags)) };
        // SAFETY: reads TTBR1.
        unsafe { asm!("mrc p15, 0, {0}, c2, c0, 1", out(reg) kernel, options(nomem, nostack, preserves_flags)) };
        // SAFETY: reads CONTEXTIDR.
        unsafe { asm!("mrc p15, 0, {0}, c13, c0, 1", out(reg) context, options(nomem, nostack, preserves_flags)) };
        // The table that is in force without a process has no entries that a number could be given to.
        set_context(root.asid().number().into());
        set_table(root.table().raw() | kernel & WALKS);
        let result = work();
        set_table(outside);
        set_context(context);
        result
    })
}

fn set_table(ttbr0: u32) {
    // SAFETY: sets TTBR0 to the table of a `UserRoot`, which lives, or back; the kernel's addresses are TTBR1's.
    unsafe { asm!("mcr p15, 0, {0}, c2, c0, 0", in(reg) ttbr0, options(nostack, preserves_flags)) };
    isb();
}

fn set_context(contextidr: u32) {
    // Erratum 754322 of Cortex-A9.
    dsb();
    // SAFETY: sets CONTEXTIDR to the number of a `UserRoot`, or back. No table with entries of its own is in force.
    unsafe { asm!("mcr p15, 0, {0}, c13, c0, 1", in(reg) contextidr, options(nostack, preserves_flags)) };
    isb();
}
