//! The board's registers: vexpress-a9's parts that the kernel drives, as far as it drives them.
//!
//! Guarantees: what is not modelled reads zero and ignores writes. Time is instructions: ten to a tick of the global
//! timer, as under QEMU's `-icount shift=0`.

use crate::cache::{Caches, Maintain};
use crate::disk::Disk;

/// Where registers are: first address and bytes.
pub const BLOCKS: [(u32, u32); 2] = [(0x1000_0000, 0x3_0000), (0x1e00_0000, 0x1_0000)];

const PL011: u32 = 0x1000_9000;
/// The last of the board's four virtio transports: QEMU's first device takes it.
const VIRTIO: u32 = 0x1001_3600;
const SCU: u32 = 0x1e00_0000;
const GIC_CPU: u32 = 0x1e00_0100;
const TIMER: u32 = 0x1e00_0200;
const GIC: u32 = 0x1e00_1000;
const PL310: u32 = 0x1e00_a000;

const INSTRUCTIONS_PER_TICK: u64 = 10;
/// What an interrupt controller with nothing to say reads as.
const SPURIOUS: u32 = 1023;

/// What the outer controller does wrong, in place of a kernel that asks it wrongly: planted bugs.
#[derive(Clone, Copy, Default, Debug)]
pub struct OuterPlants {
    /// Cleans are ignored.
    pub no_clean: bool,
    /// Invalidates are ignored, also clean-and-invalidates.
    pub no_invalidate: bool,
}

/// All registers.
#[derive(Default)]
pub struct Devices {
    /// What came out of the UART and over semihosting.
    pub console: Vec<u8>,
    plants: OuterPlants,
    /// The disk, if there is one.
    pub disk: Option<Disk>,
    scu_control: u32,
    timer_control: u32,
    gic: Gic,
    outer_control: u32,
}

#[derive(Default)]
struct Gic {
    on: bool,
    cpu_on: bool,
    enabled: [u32; 32],
    pending: [u32; 32],
    active: Vec<u32>,
    /// Whether `next` has an answer: asked before every instruction.
    raised: bool,
}

impl Gic {
    /// One interrupt at a time, the lowest number first: the kernel gives all one priority.
    fn next(&self) -> Option<u32> {
        if !self.on || !self.cpu_on || !self.active.is_empty() {
            return None;
        }
        (0..32).find_map(|n| {
            let word = self.enabled[n] & self.pending[n];
            (word != 0).then(|| n as u32 * 32 + word.trailing_zeros())
        })
    }
}

impl Devices {
    /// All as after reset.
    pub fn new(plants: OuterPlants, disk: Option<Disk>) -> Self {
        Self { plants, disk, ..Self::default() }
    }

    /// Whether the core's interrupt line is raised.
    pub fn interrupt(&self) -> bool {
        self.gic.raised
    }

    /// A load from a register.
    pub fn read(&mut self, at: u32, instructions: u64) -> u32 {
        let ticks = if self.timer_control & 1 != 0 { instructions / INSTRUCTIONS_PER_TICK } else { 0 };
        match at {
            // FR: transmit FIFO empty, receive FIFO empty.
            _ if at == PL011 + 0x18 => 0x90,
            _ if (VIRTIO..VIRTIO + 0x200).contains(&at) => self.disk.as_ref().map_or(0, |disk| disk.read(at - VIRTIO)),
            SCU => self.scu_control,
            // The configuration: one core.
            _ if at == SCU + 4 => 0,
            _ if at == GIC_CPU + 0x0c => match self.gic.next() {
                None => SPURIOUS,
                Some(id) => {
                    self.gic.pending[id as usize / 32] &= !(1 << (id % 32));
                    self.gic.active.push(id);
                    self.gic.raised = false;
                    id
                }
            },
            TIMER => ticks as u32,
            _ if at == TIMER + 4 => (ticks >> 32) as u32,
            _ if at == TIMER + 8 => self.timer_control,
            // TYPER: 96 interrupts.
            _ if at == GIC + 4 => 2,
            // Cache ID: r3p2. Auxiliary control: 8 ways of 16 KiB.
            PL310 => 0x4100_00c8,
            _ if at == PL310 + 0x100 => self.outer_control,
            _ if at == PL310 + 0x104 => 0x0202_0000,
            _ => 0,
        }
    }

    /// A store to a register.
    pub fn write(&mut self, at: u32, value: u32, instructions: u64, caches: &mut Caches) {
        match at {
            PL011 => self.console.push(value as u8),
            _ if (VIRTIO..VIRTIO + 0x200).contains(&at) => {
                if let Some(disk) = &mut self.disk {
                    disk.write(at - VIRTIO, value, instructions);
                }
            }
            SCU => self.scu_control = value,
            GIC_CPU => self.gic.cpu_on = value & 1 != 0,
            _ if at == GIC_CPU + 0x10 => self.gic.active.retain(|&id| id != value & 0x3ff),
            _ if at == TIMER + 8 => self.timer_control = value,
            GIC => self.gic.on = value & 1 != 0,
            _ if (GIC + 0x100..GIC + 0x300).contains(&at) => {
                let (word, register) = ((at & 0x7f) as usize / 4, (at - GIC) & !0x7f);
                match register {
                    0x100 => self.gic.enabled[word] |= value,
                    0x180 => self.gic.enabled[word] &= !value,
                    0x200 => self.gic.pending[word] |= value,
                    _ => self.gic.pending[word] &= !value,
                }
            }
            _ if (PL310..PL310 + 0x1000).contains(&at) => self.outer(at - PL310, value, caches),
            _ => {}
        }
        self.gic.raised = self.gic.next().is_some();
    }

    /// PL310 (DDI 0246, table 3-1). Line operations are atomic, so they are done when the store is.
    fn outer(&mut self, offset: u32, value: u32, caches: &mut Caches) {
        let (operation, line) = match offset {
            0x100 => {
                self.outer_control = value;
                return caches.set_outer(value & 1 != 0);
            }
            0x770 => (Maintain::Invalidate, true),
            0x77c => (Maintain::Invalidate, false),
            0x7b0 => (Maintain::Clean, true),
            0x7bc => (Maintain::Clean, false),
            0x7f0 => (Maintain::Flush, true),
            0x7fc => (Maintain::Flush, false),
            _ => return,
        };
        let cleans = operation == Maintain::Clean;
        match line {
            _ if cleans && self.plants.no_clean || !cleans && self.plants.no_invalidate => {}
            true => caches.outer_line(operation, value),
            false => caches.outer_all(operation),
        }
    }
}
