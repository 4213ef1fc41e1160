//! PL111 (DDI 0293): scan-out of 32-bit pixels, a bus master that reads the same memory again and again.
//!
//! Guarantees: while it is on, it reads the frame in memory piece by piece from anywhere in it, and all of it when the
//! program ends, so that a picture that never came to memory is seen.

use crate::cache::{Caches, Random};
use crate::devices::{Bus, Device, NEVER};
use crate::report::Rule;

/// Bytes read at once, and the mean number of instructions between.
const PIECE: u32 = 64;
const PAUSE: u32 = 100;

/// The controller.
pub struct Display {
    registers: [u32; 8],
    next: u32,
    random: Random,
    due: u64,
}

const TIMING0: usize = 0;
const TIMING1: usize = 1;
const UPBASE: usize = 4;
const CONTROL: usize = 6;
/// `LCD_EN` and `LCD_PWR`.
const ON: u32 = 1 | 1 << 11;

impl Display {
    /// Off.
    pub fn new(seed: u64) -> Self {
        Self { registers: [0; 8], next: 0, random: Random::new(seed.rotate_left(32)), due: NEVER }
    }

    const fn is_on(&self) -> bool {
        self.registers[CONTROL] & ON == ON
    }

    const fn bytes(&self) -> u32 {
        let width = ((self.registers[TIMING0] >> 2 & 0x3f) + 1) * 16;
        width * ((self.registers[TIMING1] & 0x3ff) + 1) * 4
    }

    fn scan(&self, caches: &mut Caches, from: u32, to: u32) -> Result<(), (Rule, u32)> {
        for offset in (from..to.min(self.bytes())).step_by(4) {
            caches.device_read(self.registers[UPBASE] + offset, 4, true)?;
        }
        Ok(())
    }
}

impl Device for Display {
    fn read(&mut self, offset: u32, _: &mut Bus<'_>) -> u32 {
        self.registers.get(offset as usize / 4).copied().unwrap_or(0)
    }

    fn write(&mut self, offset: u32, value: u32, bus: &mut Bus<'_>) {
        let was_on = self.is_on();
        if let Some(register) = self.registers.get_mut(offset as usize / 4) {
            *register = value;
        }
        if self.is_on() && !was_on {
            self.next = self.random.below(self.bytes().div_ceil(PIECE)) * PIECE;
            self.due = bus.now + 1;
        } else if !self.is_on() {
            self.due = NEVER;
        }
    }

    fn due(&self) -> u64 {
        self.due
    }

    fn step(&mut self, bus: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        self.due = bus.now + 1 + u64::from(self.random.below(2 * PAUSE));
        let from = self.next;
        self.next = if from + PIECE < self.bytes() { from + PIECE } else { 0 };
        self.scan(bus.caches, from, from + PIECE)
    }

    /// What is left to be read: all, if it is on.
    fn finish(&mut self, bus: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        if self.is_on() { self.scan(bus.caches, 0, self.bytes()) } else { Ok(()) }
    }
}
