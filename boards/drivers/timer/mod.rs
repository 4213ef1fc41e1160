//! Counters: the time since one was started.

pub mod a9_global;
pub mod dm;
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
