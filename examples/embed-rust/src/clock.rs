//! The global timer: the time since it was turned on, and an alarm.
//!
//! Guarantees: the time never goes back.

use smoltcp::time::{Duration, Instant};
use zynq7000::gtc::{Control, InterruptStatus, MmioRegisters, Registers};

use crate::board::TICKS_PER_MS;

/// The timer. It counts while it exists.
pub struct Clock(MmioRegisters<'static>);

const COUNTING: Control = Control::new_with_raw_value(0).with_enable(true);

impl Clock {
    /// Turns the timer on.
    ///
    /// # Safety
    ///
    /// This is called once.
    pub unsafe fn start() -> Self {
        // SAFETY: nothing else uses the timer: this is called once.
        let mut timer = unsafe { Registers::new_mmio_fixed() };
        timer.write_control(COUNTING);
        Self(timer)
    }

    /// Returns the ticks so far. The halves are read until they belong together (DDI 0407 4.4.1).
    fn ticks(&self) -> u64 {
        loop {
            let upper = self.0.read_count_upper();
            let lower = self.0.read_count_lower();
            if upper == self.0.read_count_upper() {
                return u64::from(upper) << 32 | u64::from(lower);
            }
        }
    }

    /// Returns the time.
    pub fn now(&self) -> Instant {
        Instant::from_millis((self.ticks() / TICKS_PER_MS) as i64)
    }

    /// Raises the timer's interrupt after a while, and forgets the alarm before it.
    pub fn wake_after(&mut self, delay: Duration) {
        let at = self.ticks() + delay.total_millis() * TICKS_PER_MS;
        // The comparator is off while its halves are written (DDI 0407 4.4.2).
        self.0.write_control(COUNTING);
        self.0.write_interrupt_status(InterruptStatus::new_with_raw_value(0).with_event_flag(true));
        self.0.write_comparator_lower(at as u32);
        self.0.write_comparator_upper((at >> 32) as u32);
        self.0.write_control(COUNTING.with_comparator_enable(true).with_irq_enable(true));
    }
}
