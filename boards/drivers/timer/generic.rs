//! The cores' own Generic Timer (ARM ARM B8; `arm,armv7-timer`): its virtual count, which all cores share, and the virtual
//! timer that each core has.
//!
//! Guarantees: the count never goes back. The head sets its offset to 0 where it leaves Hyp mode, so there it is the
//! physical count. Only the core that starts the timer is interrupted, once a start. It is the virtual timer, because one
//! serves both worlds: the secure world has a physical timer of its own, with another interrupt.
//!
//! This driver is ours: the crate aarch32-cpu has these registers, but the compiler may move its reads across what they
//! measure. Here a barrier stands before each read.

use super::{Alarm, Counter};
use carveout::cpu::isb;
use core::arch::asm;

/// `CNTV_CTL` (ARM ARM B8.1.7).
const ENABLE: u32 = 1 << 0;
const OVER: u32 = 1 << 2;

/// The count and the virtual timers, at the rate that the firmware said.
pub struct GenericTimer {
    hertz: u32,
}

impl GenericTimer {
    /// Takes them. Returns `None` if the cores have none (`ID_PFR1`), or if the firmware did not say at what rate they
    /// count (CNTFRQ).
    pub fn new() -> Option<Self> {
        let (features, hertz): (u32, u32);
        // SAFETY: reads an identification register.
        unsafe { asm!("mrc p15, 0, {}, c0, c1, 1", out(reg) features, options(nomem, nostack, preserves_flags)) };
        // The field has four bits.
        if features & 0xf_0000 == 0 {
            return None;
        }
        // SAFETY: reads CNTFRQ, which cores with the Generic Timer have.
        unsafe { asm!("mrc p15, 0, {}, c14, c0, 0", out(reg) hertz, options(nomem, nostack, preserves_flags)) };
        (hertz > 0).then_some(Self { hertz })
    }

    fn control(value: u32) {
        // SAFETY: sets CNTV_CTL, which `new` found to be there. It changes no memory.
        unsafe { asm!("mcr p15, 0, {0}, c14, c3, 1", in(reg) value, options(nostack, preserves_flags)) };
        isb();
    }
}

impl Counter for GenericTimer {
    fn ticks(&self) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: reads CNTVCT after what comes before it, for `new` found that there is one.
        unsafe {
            asm!("isb", "mrrc p15, 1, {}, {}, c14", out(reg) low, out(reg) high, options(nostack, preserves_flags));
        };
        u64::from(high) << 32 | u64::from(low)
    }

    fn hertz(&self) -> u32 {
        self.hertz
    }
}

impl Alarm for GenericTimer {
    fn start(&self, micros: u32) {
        self.stop();
        let ticks = u64::from(micros) * u64::from(self.hertz) / 1_000_000;
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX).clamp(1, i32::MAX as u32);
        // SAFETY: sets CNTV_TVAL, which `new` found to be there. It changes no memory.
        unsafe { asm!("mcr p15, 0, {0}, c14, c3, 0", in(reg) ticks, options(nostack, preserves_flags)) };
        Self::control(ENABLE);
    }

    fn is_over(&self) -> bool {
        let control: u32;
        // SAFETY: reads CNTV_CTL, which `new` found to be there.
        unsafe { asm!("mrc p15, 0, {0}, c14, c3, 1", out(reg) control, options(nostack, preserves_flags)) };
        control & OVER != 0
    }

    fn stop(&self) {
        Self::control(0);
    }
}
