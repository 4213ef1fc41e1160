//! The time since the clock was found: whichever counter the board has.
//!
//! Guarantees: [`Clock::micros`] never goes back, but for an SP804's wrap after 71 minutes.

use super::a9_timer::A9GlobalTimer;
use super::sp804::Sp804;

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
}

impl Clock {
    /// Microseconds since the counter started.
    pub fn micros(&self) -> u64 {
        match self {
            Self::Global { timer, hertz } => {
                let (ticks, hertz) = (u128::from(timer.count()), u128::from((*hertz).max(1)));
                (ticks * 1_000_000 / hertz) as u64
            }
            Self::Sp804(timer) => timer.micros().into(),
        }
    }
}
