//! Waiting for a device, and what comes back from it.
//!
//! Guarantees: a wait ends, whatever the device does. A driver takes buffers by value, owned by the device. It gives a
//! buffer back only after it has seen the device stop. Each driver's documentation says what that means. A buffer whose
//! device was not seen to stop is dropped while the device owns it. So it goes into quarantine: it is counted and
//! reported, and never freed (I4).

/// The means by which a driver waits: its device's interrupt and a clock.
pub trait Wait {
    /// Lets the interrupt through once, and forgets earlier ones.
    fn listen(&self);

    /// Returns whether the interrupt came since the last call.
    fn told(&self) -> bool;

    /// Returns the time in microseconds. Without a counter it returns a number that grows at each call.
    fn micros(&self) -> u64;
}

/// Waits until `done` returns true, for at most `micros` microseconds. Returns whether `done` returned true.
pub fn until(now: impl Fn() -> u64, micros: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = now();
    loop {
        // The clock is read first. So work that is done in time counts, however late this core looks.
        let late = now().saturating_sub(start) > micros;
        if done() {
            return true;
        }
        if late {
            return false;
        }
        carveout::cpu::relax();
    }
}

/// A transfer that failed.
#[derive(PartialEq, Eq, Debug)]
pub struct Failed<E, B> {
    /// Why.
    pub error: E,
    /// What the device had been given, if the device was seen to stop. Otherwise it is in quarantine.
    pub given: Option<B>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn a_wait_ends_in_time_or_too_late_and_looks_once_more() {
        let now = Cell::new(0);
        let clock = || {
            now.set(now.get() + 1);
            now.get()
        };
        assert!(!until(clock, 10, || false));
        assert_eq!(now.get(), 12);
        // This core looks an hour later, long after the device has finished.
        now.set(0);
        let slept = || now.replace(3_600_000_000);
        assert!(until(slept, 10, || true));
    }
}
