//! Timers: the time since one was started, and interrupts when some time is over.

pub mod a9_global;
pub mod a9_private;
pub mod dm;
#[cfg(target_arch = "arm")]
pub mod generic;
pub mod sp804;
pub mod sun4i;

use core::any::Any;

/// A running counter. It never goes back, except that a counter of 32 bits wraps. Its driver says after how long.
pub trait Counter: Any + Send + Sync {
    /// Returns the ticks since the counter started.
    fn ticks(&self) -> u64;

    /// Returns the ticks of a second, at least 1.
    fn hertz(&self) -> u32;

    /// Returns the nanoseconds since the counter started, at the counter's resolution. In an emulator that takes a
    /// nanosecond for each instruction (`-icount shift=0`) this counts instructions.
    fn nanos(&self) -> u64 {
        self.nanos_of(self.ticks())
    }

    /// Returns the nanoseconds of so many ticks.
    fn nanos_of(&self, ticks: u64) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        let hertz = u64::from(self.hertz());
        // The remainder is below 2^32, so its product fits.
        ticks / hertz * SECOND + ticks % hertz * SECOND / hertz
    }

    /// Returns the microseconds since the counter started.
    fn micros(&self) -> u64 {
        self.nanos() / 1000
    }
}

/// A timer that interrupts the core that starts it. A timer that all cores share interrupts core 0.
pub trait Alarm: Send + Sync {
    /// Lets the timer interrupt once, after `micros` microseconds. This replaces an earlier start. The interrupt stays
    /// until [`stop`](Self::stop).
    fn start(&self, micros: u32);

    /// Returns whether the time is over.
    fn is_over(&self) -> bool;

    /// Stops the timer, and clears its interrupt.
    fn stop(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter that stands.
    struct At {
        ticks: u64,
        hertz: u32,
    }

    impl Counter for At {
        fn ticks(&self) -> u64 {
            self.ticks
        }

        fn hertz(&self) -> u32 {
            self.hertz
        }
    }

    #[test]
    fn ticks_are_nanoseconds_rounded_down_at_any_rate() {
        for hertz in [1, 3, 32_768, 24_000_000, 999_999_937, u32::MAX] {
            for ticks in [0, 1, 2, u64::from(u32::MAX), 1 << 40, (1 << 50) + 12_345] {
                let exact = u128::from(ticks) * 1_000_000_000 / u128::from(hertz);
                if let Ok(exact) = u64::try_from(exact) {
                    assert_eq!(At { ticks, hertz }.nanos(), exact, "{ticks} ticks at {hertz} Hz");
                }
            }
        }
    }
}
