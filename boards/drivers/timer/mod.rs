//! Timers: the time since one was started, and interrupts when some time is over.

pub mod a9_global;
pub mod a9_private;
pub mod dm;
#[cfg(target_arch = "arm")]
pub mod generic;
pub mod sp804;
pub mod sun4i;

use core::any::Any;

/// A counter that runs. It never goes back, unless it has 32 bits and wraps: its driver says after how long.
pub trait Counter: Any + Send + Sync {
    /// Returns the nanoseconds since the counter started, as fine as it counts. In an emulator that takes a nanosecond
    /// for each instruction (`-icount shift=0`) this counts instructions.
    fn nanos(&self) -> u64;

    /// Returns the microseconds since the counter started.
    fn micros(&self) -> u64 {
        self.nanos() / 1000
    }
}

/// A timer that interrupts the core that starts it. Where it is one for all cores, that is core 0.
pub trait Alarm: Send + Sync {
    /// Lets the timer interrupt once, in so many microseconds. What was started before is forgotten. The interrupt
    /// stays until [`stop`](Self::stop).
    fn start(&self, micros: u32);

    /// Returns whether the time is over.
    fn is_over(&self) -> bool;

    /// Stops the timer, and takes its interrupt back.
    fn stop(&self);
}
