//! What stands on a board beside core and memory: where its registers are, and whose move is next.
//!
//! Guarantees: what is not modelled reads zero and ignores writes. Time is instructions, a nanosecond each, as under
//! QEMU's `-icount shift=0`.

use crate::cache::Caches;
use crate::client::Client;
use crate::disk::Disk;
use crate::display::Display;
use crate::gem::Gem;
use crate::gic::Gic;
use crate::model::{Board, Model, Outer};
use crate::pl310::Pl310;
use crate::pl330::Pl330;
use crate::report::Rule;
use crate::small::{CadenceUart, GlobalTimer, Pl011, PrivateTimer, Scu, Sp804};

/// What a device reaches.
pub struct Bus<'a> {
    /// Memory, and what the CPU's caches and buffers hold of it.
    pub caches: &'a mut Caches,
    /// Where a console prints.
    pub console: &'a mut Vec<u8>,
    /// Instructions executed.
    pub now: u64,
}

const SYS_FLAGSSET: u32 = 0x1000_0030;
const SYS_FLAGSCLR: u32 = 0x1000_0034;

/// Never, in instructions.
pub const NEVER: u64 = u64::MAX;

/// A device: its registers, and if it is a bus master its moves.
pub trait Device {
    /// A load from the register at `offset`.
    fn read(&mut self, offset: u32, bus: &mut Bus<'_>) -> u32;

    /// A store to it.
    fn write(&mut self, offset: u32, value: u32, bus: &mut Bus<'_>);

    /// When it moves next, in instructions.
    fn due(&self) -> u64 {
        NEVER
    }

    /// Its next move, which is due.
    fn step(&mut self, _: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        Ok(())
    }

    /// Something came where a device looks for work: this one looks if it has nothing to do.
    fn look(&mut self, _: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        Ok(())
    }

    /// The program has ended: what the device still has to do.
    fn finish(&mut self, _: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        Ok(())
    }

    /// The interrupts it raises now, a bit each.
    fn interrupts(&self) -> u128 {
        0
    }

    /// What is at its other end, and not content with the program.
    fn complaint(&self) -> Option<String> {
        None
    }
}

/// A device and where its registers are.
struct Slot {
    base: u32,
    bytes: u32,
    device: Box<dyn Device>,
}

fn slot(base: u32, bytes: u32, device: impl Device + 'static) -> Slot {
    Slot { base, bytes, device: Box::new(device) }
}

/// All devices of a board.
pub struct Devices {
    /// Where registers are: first address and bytes.
    pub blocks: &'static [(u32, u32)],
    /// What came out of the console and over semihosting.
    pub console: Vec<u8>,
    /// The outer cache's controller.
    pub outer: Pl310,
    /// When a bus master moves next, in instructions.
    pub due: u64,
    gic: Gic,
    /// `SYS_FLAGS` of a Versatile Express.
    flags: u32,
    slots: Vec<Slot>,
}

impl Devices {
    /// All as after reset. `disk` is what the disk holds, if there is one.
    pub fn new(model: &Model, disk: Option<&[u8]>, seed: u64) -> Self {
        let cores = model.cores;
        let (blocks, gic, outer, mut slots): (&'static [_], _, _, _) = match model.board {
            Board::Arm => {
                // The private region of the Cortex-A9; of it realview-pb-a8 has the interrupt controller, elsewhere.
                let mut slots = vec![
                    slot(0x1000_9000, 0x1000, Pl011),
                    slot(0x1001_1000, 0x1000, Sp804::new(36)),
                    slot(0x1001_2000, 0x1000, Sp804::new(37)),
                    slot(0x1002_0000, 0x1000, Display::new(seed)),
                ];
                let mut gic = Gic::new(0x1e00_0000, 0x1e00_1000, cores);
                if model.core.multiprocessing {
                    gic = Gic::new(0x1e00_0100, 0x1e00_1000, cores);
                    slots.push(slot(0x1e00_0000, 0x100, Scu::new(cores)));
                    slots.push(slot(0x1e00_0200, 0x100, GlobalTimer::default()));
                    slots.push(slot(0x1e00_0600, 0x20, PrivateTimer::default()));
                }
                (&[(0x1000_0000, 0x3_0000), (0x1e00_0000, 0x1_0000)], gic, 0x1e00_a000, slots)
            }
            Board::Zynq => {
                let slots = vec![
                    slot(0xe000_0000, 0x1000, CadenceUart),
                    slot(0xe000_1000, 0x1000, CadenceUart),
                    slot(0xe000_b000, 0x1000, Gem::new(Client::new(seed), seed)),
                    slot(0xf800_3000, 0x1000, Pl330::new(seed)),
                    slot(0xf8f0_0000, 0x100, Scu::new(cores)),
                    slot(0xf8f0_0200, 0x100, GlobalTimer::default()),
                ];
                let blocks = &[(0xe000_0000, 0x1_0000), (0xf800_0000, 0x100_0000)];
                (blocks, Gic::new(0xf8f0_0100, 0xf8f0_1000, cores), 0xf8f0_2000, slots)
            }
            Board::Virt => {
                let blocks = &[(0x0800_0000, 0x300_0000)];
                (blocks, Gic::new(0x0801_0000, 0x0800_0000, cores), 0, vec![slot(0x0900_0000, 0x1000, Pl011)])
            }
        };
        // The last of the board's virtio transports: QEMU's first device takes it.
        let transport = match model.board {
            Board::Arm => Some(0x1001_3600),
            Board::Zynq => None,
            Board::Virt => Some(0x0a00_3e00),
        };
        if let (Some(base), Some(content)) = (transport, disk) {
            slots.push(slot(base, 0x200, Disk::new(content.to_vec(), seed)));
        }
        let outer = Pl310::new((model.outer == Outer::Controller).then_some(outer));
        Self { blocks, console: Vec::new(), outer, due: NEVER, gic, flags: 0, slots }
    }

    /// Whether a core's interrupt line is raised.
    pub fn interrupt(&self, core: usize) -> bool {
        self.gic.is_raised(core)
    }

    /// Where a core goes that waits in the boot monitor, if it is sent for: it waits for an interrupt of software's,
    /// and then looks at the flags (DUI 0447, 4.3).
    pub fn sent_for(&self, core: usize) -> Option<u32> {
        (self.flags != 0 && self.gic.is_called(core)).then_some(self.flags)
    }

    fn find(&self, at: u32) -> Option<(usize, u32)> {
        let n = self.slots.iter().position(|slot| at.wrapping_sub(slot.base) < slot.bytes)?;
        Some((n, at - self.slots[n].base))
    }

    /// A load from a register.
    pub fn read(&mut self, at: u32, now: u64, caches: &mut Caches) -> u32 {
        if let Some(value) = self.gic.read(at, caches.core) {
            return value;
        }
        if let Some(value) = self.outer.read(at, caches) {
            return value;
        }
        let Some((n, offset)) = self.find(at) else { return 0 };
        self.slots[n].device.read(offset, &mut Bus { caches, console: &mut self.console, now })
    }

    /// A store to a register.
    pub fn write(&mut self, at: u32, value: u32, now: u64, caches: &mut Caches) {
        match at {
            SYS_FLAGSSET => self.flags |= value,
            SYS_FLAGSCLR => self.flags &= !value,
            _ => {}
        }
        if self.gic.write(at, value, caches.core) || self.outer.write(at, value, caches) {
            return;
        }
        if let Some((n, offset)) = self.find(at) {
            self.slots[n].device.write(offset, value, &mut Bus { caches, console: &mut self.console, now });
            self.look_ahead();
        }
    }

    fn look_ahead(&mut self) {
        self.due = self.slots.iter().map(|slot| slot.device.due()).min().unwrap_or(NEVER);
        self.gic.raise(self.slots.iter().fold(0, |all, slot| all | slot.device.interrupts()));
    }

    fn each(
        &mut self,
        caches: &mut Caches,
        now: u64,
        mut act: impl FnMut(&mut dyn Device, &mut Bus<'_>) -> Result<(), (Rule, u32)>,
    ) -> Result<(), (Rule, u32)> {
        let mut bus = Bus { caches, console: &mut self.console, now };
        self.slots.iter_mut().try_for_each(|slot| act(slot.device.as_mut(), &mut bus))?;
        self.look_ahead();
        Ok(())
    }

    /// The bus masters' next moves that are due.
    pub fn step(&mut self, caches: &mut Caches, now: u64) -> Result<(), (Rule, u32)> {
        self.each(caches, now, |device, bus| if device.due() <= now { device.step(bus) } else { Ok(()) })
    }

    /// Something came where a device looks for work.
    pub fn look(&mut self, caches: &mut Caches, now: u64) -> Result<(), (Rule, u32)> {
        self.each(caches, now, |device, bus| device.look(bus))
    }

    /// The program has ended.
    pub fn finish(&mut self, caches: &mut Caches, now: u64) -> Result<(), (Rule, u32)> {
        self.each(caches, now, |device, bus| device.finish(bus))
    }

    /// What a device's other end has to complain of.
    pub fn complaint(&self) -> Option<String> {
        self.slots.iter().find_map(|slot| slot.device.complaint())
    }
}
