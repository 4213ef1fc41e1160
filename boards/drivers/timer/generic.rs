//! The cores' own Generic Timer (Arm DDI 0406, B8; `arm,armv7-timer`): its virtual count, which all cores share.
//!
//! Guarantees: the count never goes back. The head sets what is taken off it to 0 where it leaves Hyp mode, so it is the
//! physical count there.
//!
//! The crate aarch32-cpu has these registers, and lets a read move across what it measures; here a barrier is before it.

use super::Counter;
use core::arch::asm;

/// The count, at the rate that the firmware said.
pub struct GenericTimer {
    hertz: u32,
}

impl GenericTimer {
    /// Returns the count. Returns `None` if the cores have none (`ID_PFR1`), or if the firmware did not say how fast it
    /// is.
    pub fn new() -> Option<Self> {
        let (features, hertz): (u32, u32);
        // SAFETY: reads an identification register.
        unsafe { asm!("mrc p15, 0, {}, c0, c1, 1", out(reg) features, options(nomem, nostack, preserves_flags)) };
        // Its field of four bits.
        if features & 0xf_0000 == 0 {
            return None;
        }
        // SAFETY: reads CNTFRQ, which cores with the Generic Timer have.
        unsafe { asm!("mrc p15, 0, {}, c14, c0, 0", out(reg) hertz, options(nomem, nostack, preserves_flags)) };
        (hertz > 0).then_some(Self { hertz })
    }
}

impl Counter for GenericTimer {
    fn nanos(&self) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: reads CNTVCT after what comes before it, for `new` found that there is one.
        unsafe {
            asm!("isb", "mrrc p15, 1, {}, {}, c14", out(reg) low, out(reg) high, options(nostack, preserves_flags));
        };
        let ticks = u128::from(high) << 32 | u128::from(low);
        (ticks * 1_000_000_000 / u128::from(self.hertz)) as u64
    }
}
