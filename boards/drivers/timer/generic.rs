//! The Generic Timer's virtual timer (ARM ARM B8.1; `arm,armv7-timer`): each core has one, behind its own registers.
//!
//! Guarantees: only the core that calls is interrupted, once a start. It is the virtual timer because that is one for
//! both worlds: the physical one is another, with another interrupt, in the secure world.
//!
//! This driver is ours: a search of the documentation of crates found none to use.

use super::Alarm;
use carveout::cpu::isb;
use core::arch::asm;

/// `CNTV_CTL` (ARM ARM B8.1.7).
const ENABLE: u32 = 1 << 0;
const OVER: u32 = 1 << 2;

/// The virtual timers of all cores.
pub struct GenericTimer {
    hertz: u32,
}

impl GenericTimer {
    /// Takes the timers. Returns `None` if firmware did not say at what rate they count (`CNTFRQ`).
    ///
    /// # Safety
    ///
    /// The cores have the Generic Timer Extension, and nobody else uses their virtual timers.
    pub unsafe fn new() -> Option<Self> {
        let hertz: u32;
        // SAFETY: reads CNTFRQ, which the core has (this function's contract).
        unsafe { asm!("mrc p15, 0, {0}, c14, c0, 0", out(reg) hertz, options(nomem, nostack, preserves_flags)) };
        (hertz > 0).then_some(Self { hertz })
    }

    fn control(value: u32) {
        // SAFETY: sets CNTV_CTL, which is this driver's (contract of `new`).
        unsafe { asm!("mcr p15, 0, {0}, c14, c3, 1", in(reg) value, options(nostack, preserves_flags)) };
        isb();
    }
}

impl Alarm for GenericTimer {
    fn start(&self, micros: u32) {
        self.stop();
        let ticks = u64::from(micros) * u64::from(self.hertz) / 1_000_000;
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX).clamp(1, i32::MAX as u32);
        // SAFETY: sets CNTV_TVAL, which is this driver's (contract of `new`).
        unsafe { asm!("mcr p15, 0, {0}, c14, c3, 0", in(reg) ticks, options(nostack, preserves_flags)) };
        Self::control(ENABLE);
    }

    fn is_over(&self) -> bool {
        let control: u32;
        // SAFETY: reads CNTV_CTL, which the core has (contract of `new`).
        unsafe { asm!("mrc p15, 0, {0}, c14, c3, 1", out(reg) control, options(nostack, preserves_flags)) };
        control & OVER != 0
    }

    fn stop(&self) {
        Self::control(0);
    }
}
