//! Waiting for a device, and what comes back from it.
//!
//! Guarantees: a wait ends, whatever the device does. A driver takes buffers by value, in the device's state. It gives
//! one back only after it has seen the device stop; what that means stands in each driver's documents. A buffer whose
//! device was not seen to stop is dropped in the device's state, so it goes into quarantine: counted, told, never freed
//! (I4).

#[cfg(target_arch = "arm")]
use super::bring_up::{DeviceRegisters, Kernel};
#[cfg(target_arch = "arm")]
use super::interrupts;
#[cfg(target_arch = "arm")]
use super::irq::IrqId;

/// What a driver waits by: its device's interrupt and a clock.
pub trait Wait {
    /// Lets the interrupt through once, and forgets those that came before.
    fn listen(&self);

    /// Returns whether the interrupt came since this was last asked.
    fn told(&self) -> bool;

    /// Returns the time in microseconds. Without a counter it returns a number that grows at each call.
    fn micros(&self) -> u64;

    /// Keeps the device's registers from everybody else, for good: the device was not seen to stop.
    fn keep_registers(&mut self);
}

/// Waits until `done` returns true, and returns whether it did within so many microseconds.
pub fn until(now: impl Fn() -> u64, micros: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = now();
    loop {
        // The clock first: what is done in time counts, however late this core comes to look.
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

/// A device's interrupt on a board, and its registers, which nobody else gets until this is dropped.
#[cfg(target_arch = "arm")]
pub struct Interrupt<R: 'static> {
    kernel: &'static Kernel,
    irq: IrqId,
    /// `None` once they are kept for good.
    registers: Option<DeviceRegisters<'static, R>>,
}

#[cfg(target_arch = "arm")]
impl<R> Interrupt<R> {
    /// The interrupt `irq` of the device with these registers.
    pub const fn new(kernel: &'static Kernel, irq: IrqId, registers: DeviceRegisters<'static, R>) -> Self {
        Self { kernel, irq, registers: Some(registers) }
    }
}

#[cfg(target_arch = "arm")]
impl<R> Wait for Interrupt<R> {
    fn listen(&self) {
        interrupts::enable_once(self.irq);
    }

    fn told(&self) -> bool {
        interrupts::take(self.irq)
    }

    fn micros(&self) -> u64 {
        self.kernel.micros()
    }

    fn keep_registers(&mut self) {
        self.registers.take().map(DeviceRegisters::keep);
    }
}

/// A transfer that failed.
#[derive(PartialEq, Eq, Debug)]
pub struct Failed<E, B> {
    /// Why.
    pub error: E,
    /// What the device had been given, if the device was seen to stop. Else it is in quarantine.
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
        // This core came to look an hour later: the device had long been done.
        now.set(0);
        let slept = || now.replace(3_600_000_000);
        assert!(until(slept, 10, || true));
    }
}
