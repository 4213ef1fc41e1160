//! Devices that reach no memory: consoles, timers, the snoop control unit. As far as kernels drive them.

use crate::devices::{Bus, Device, NEVER};
use crate::report::Rule;

const INSTRUCTIONS_PER_TICK: u64 = 10;
const INSTRUCTIONS_PER_MICROSECOND: u64 = 1000;

/// ARM's UART (DDI 0183): it takes every byte at once, and none comes in.
pub struct Pl011;

impl Device for Pl011 {
    fn read(&mut self, offset: u32, _: &mut Bus<'_>) -> u32 {
        // FR: transmit FIFO empty, receive FIFO empty.
        if offset == 0x18 { 0x90 } else { 0 }
    }

    fn write(&mut self, offset: u32, value: u32, bus: &mut Bus<'_>) {
        if offset == 0 {
            bus.console.push(value as u8);
        }
    }
}

/// Cadence's UART (UG585, B.33): the same.
pub struct CadenceUart;

impl Device for CadenceUart {
    fn read(&mut self, offset: u32, _: &mut Bus<'_>) -> u32 {
        // Channel_sts: TxFIFO empty, RxFIFO empty.
        if offset == 0x2c { 1 << 3 | 1 << 1 } else { 0 }
    }

    fn write(&mut self, offset: u32, value: u32, bus: &mut Bus<'_>) {
        if offset == 0x30 {
            bus.console.push(value as u8);
        }
    }
}

/// The dual timer (DDI 0271), its first half, which counts microseconds.
pub struct Sp804 {
    interrupt: u32,
    load: u32,
    control: u32,
    /// The instruction at which it began to count.
    began: u64,
    event: bool,
}

impl Sp804 {
    const ON: u32 = 1 << 7;
    const INTERRUPTS: u32 = 1 << 5;
    const ONCE: u32 = 1;

    /// With this interrupt.
    pub const fn new(interrupt: u32) -> Self {
        Self { interrupt, load: 0, control: 0, began: 0, event: false }
    }
}

impl Device for Sp804 {
    fn read(&mut self, offset: u32, bus: &mut Bus<'_>) -> u32 {
        let runs = self.control & Self::ON != 0;
        let count = if runs { (bus.now - self.began) / INSTRUCTIONS_PER_MICROSECOND } else { 0 };
        match offset {
            4 => self.load.wrapping_sub(count as u32),
            0x10 => self.event.into(),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u32, value: u32, bus: &mut Bus<'_>) {
        match offset {
            0 => (self.load, self.began) = (value, bus.now),
            8 => (self.control, self.began) = (value, bus.now),
            0xc => self.event = false,
            _ => {}
        }
    }

    /// Only the first time: nobody here lets it interrupt again and again.
    fn due(&self) -> u64 {
        let counts = self.control & (Self::ON | Self::ONCE) == Self::ON | Self::ONCE && !self.event;
        if counts { self.began + u64::from(self.load) * INSTRUCTIONS_PER_MICROSECOND } else { NEVER }
    }

    fn step(&mut self, _: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        (self.event, self.control) = (true, self.control & !Self::ON);
        Ok(())
    }

    fn interrupts(&self) -> u128 {
        // What it raised stays raised, though it counts no more.
        u128::from(self.event && self.control & Self::INTERRUPTS != 0) << self.interrupt
    }
}

/// The snoop control unit of a Cortex-A9 MPCore (DDI 0407, 2.2).
pub struct Scu {
    control: u32,
    cores: u32,
}

impl Scu {
    /// Of so many cores.
    pub const fn new(cores: usize) -> Self {
        Self { control: 0, cores: cores as u32 }
    }
}

impl Device for Scu {
    fn read(&mut self, offset: u32, _: &mut Bus<'_>) -> u32 {
        match offset {
            0 => self.control,
            4 => self.cores - 1,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u32, value: u32, _: &mut Bus<'_>) {
        if offset == 0 {
            self.control = value;
        }
    }
}

/// A core's private timer (DDI 0407, 4.1), at 100 MHz. There is one for all cores here: the core that started it last
/// has it, and the interrupt.
#[derive(Default)]
pub struct PrivateTimer {
    load: u32,
    control: u32,
    /// The instruction at which it is over, while it counts.
    over: Option<u64>,
    event: bool,
}

impl PrivateTimer {
    const INTERRUPT: u32 = 29;
    const ON: u32 = 1;
    const INTERRUPTS: u32 = 1 << 2;
}

impl Device for PrivateTimer {
    fn read(&mut self, offset: u32, bus: &mut Bus<'_>) -> u32 {
        match offset {
            0 => self.load,
            4 => self.over.map_or(0, |over| (over.saturating_sub(bus.now) / INSTRUCTIONS_PER_TICK) as u32),
            8 => self.control,
            0xc => self.event.into(),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u32, value: u32, bus: &mut Bus<'_>) {
        match offset {
            0 => self.load = value,
            8 => self.control = value,
            0xc if value & 1 != 0 => self.event = false,
            _ => {}
        }
        if matches!(offset, 0 | 8) {
            let on = self.control & Self::ON != 0;
            self.over = on.then(|| bus.now + u64::from(self.load) * INSTRUCTIONS_PER_TICK);
        }
    }

    fn due(&self) -> u64 {
        self.over.unwrap_or(NEVER)
    }

    fn step(&mut self, _: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        (self.over, self.event) = (None, true);
        Ok(())
    }

    fn interrupts(&self) -> u128 {
        u128::from(self.event && self.control & Self::INTERRUPTS != 0) << Self::INTERRUPT
    }
}

/// The global timer of a Cortex-A9 MPCore (DDI 0407, 4.3), at 100 MHz.
#[derive(Default)]
pub struct GlobalTimer {
    control: u32,
    comparator: [u32; 2],
    /// The comparator was reached.
    event: bool,
}

impl GlobalTimer {
    const INTERRUPT: u32 = 27;
    const ON: u32 = 1;
    const COMPARES: u32 = 1 << 1;
    const INTERRUPTS: u32 = 1 << 2;
}

impl Device for GlobalTimer {
    fn read(&mut self, offset: u32, bus: &mut Bus<'_>) -> u32 {
        let ticks = if self.control & Self::ON != 0 { bus.now / INSTRUCTIONS_PER_TICK } else { 0 };
        match offset {
            0 => ticks as u32,
            4 => (ticks >> 32) as u32,
            8 => self.control,
            0xc => self.event.into(),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u32, value: u32, _: &mut Bus<'_>) {
        match offset {
            8 => self.control = value,
            0xc if value & 1 != 0 => self.event = false,
            0x10 => self.comparator[0] = value,
            0x14 => self.comparator[1] = value,
            _ => {}
        }
    }

    fn due(&self) -> u64 {
        let compares = self.control & (Self::ON | Self::COMPARES) == Self::ON | Self::COMPARES;
        let [lower, upper] = self.comparator.map(u64::from);
        if compares && !self.event { (upper << 32 | lower).saturating_mul(INSTRUCTIONS_PER_TICK) } else { NEVER }
    }

    fn step(&mut self, _: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        self.event = true;
        Ok(())
    }

    fn interrupts(&self) -> u128 {
        u128::from(self.event && self.control & Self::INTERRUPTS != 0) << Self::INTERRUPT
    }
}
