//! The time since the clock was found: whichever counter the board has.
//!
//! Guarantees: [`Clock::micros`] never goes back, but where the counter has 32 bits: an SP804 wraps after
//! 71 minutes, an A10's timer after 23, an AM335x's after 3.

use super::a9_timer::A9GlobalTimer;
use super::dm_timer::DmTimer;
use super::sp804::Sp804;
use super::sun4i_timer::Sun4iTimer;

/// A counter that runs, and its rate.
pub enum Clock {
    /// Cortex-A9 `MPCore`'s, at the rate its node's clock states.
    Global {
        /// The counter.
        timer: A9GlobalTimer,
        /// Ticks a second.
        hertz: u32,
    },
    /// An SP804, at 1 MHz.
    Sp804(Sp804),
    /// The A10's timer 1.
    Sun4i(Sun4iTimer),
    /// An AM335x's.
    Dm(DmTimer),
}

impl Clock {
    /// Nanoseconds since the counter started, as fine as it counts: of the A9's at 100 MHz, tens of them. In an emulator
    /// that takes one for each instruction (`-icount shift=0`) it counts instructions.
    pub fn nanos(&self) -> u64 {
        match self {
            Self::Global { timer, hertz } => {
                let (ticks, hertz) = (u128::from(timer.count()), u128::from((*hertz).max(1)));
                (ticks * 1_000_000_000 / hertz) as u64
            }
            Self::Sp804(timer) => u64::from(timer.micros()) * 1000,
            Self::Sun4i(timer) => u64::from(timer.ticks()) * 1000 / u64::from(Sun4iTimer::PER_MICROSECOND),
            Self::Dm(timer) => u64::from(timer.ticks()) * 1000 / u64::from(DmTimer::PER_MICROSECOND),
        }
    }

    /// Microseconds since the counter started.
    pub fn micros(&self) -> u64 {
        self.nanos() / 1000
    }
}
