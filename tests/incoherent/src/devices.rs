//! The boards' registers, as far as the kernel drives them.
//!
//! Guarantees: what is not modelled reads zero and ignores writes. Time is instructions, a nanosecond each, as under
//! QEMU's `-icount shift=0`: ten to a tick of the global timer, a thousand to one of the SP804.

use crate::cache::{Caches, Maintain};
use crate::disk::Disk;
use crate::display::Display;
use crate::model::{Model, Outer};
use crate::report::Rule;
use std::collections::BTreeMap;

/// Where registers are: first address and bytes. The same on both boards.
pub const BLOCKS: [(u32, u32); 2] = [(0x1000_0000, 0x3_0000), (0x1e00_0000, 0x1_0000)];

const PL011: u32 = 0x1000_9000;
const SP804: u32 = 0x1001_1000;
/// The last of vexpress-a9's four virtio transports: QEMU's first device takes it.
const VIRTIO: u32 = 0x1001_3600;
const PL111: u32 = 0x1002_0000;
const SCU: u32 = 0x1e00_0000;
const TIMER: u32 = 0x1e00_0200;
const GIC: u32 = 0x1e00_1000;
const PL310: u32 = 0x1e00_a000;

const INSTRUCTIONS_PER_TICK: u64 = 10;
const INSTRUCTIONS_PER_MICROSECOND: u64 = 1000;
/// What an interrupt controller with nothing to say reads as.
const SPURIOUS: u32 = 1023;

/// What a store to the outer controller asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum OuterOp {
    /// Clean, by line or way.
    Clean,
    /// Invalidate, or clean and invalidate, by line or way.
    Invalidate,
    /// Cache sync.
    Sync,
}

/// All registers.
pub struct Devices {
    model: &'static Model,
    /// What came out of the UART and over semihosting.
    pub console: Vec<u8>,
    /// Planted bugs: what the outer controller is not told, by kind or by the address of the store.
    pub without: Vec<OuterOp>,
    /// The same, by the address of the store.
    pub without_site: Option<u32>,
    /// Which stores told the outer controller what, and how often.
    pub outer_sites: BTreeMap<(u32, OuterOp), u32>,
    disk: Option<Disk>,
    display: Display,
    /// When a bus master moves next, in instructions.
    pub due: u64,
    scu_control: u32,
    timer_control: u32,
    /// SP804: load, control, and the instruction at which it began to count.
    sp804: (u32, u32, u64),
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
    pub fn new(model: &'static Model, disk: Option<Disk>, seed: u64) -> Self {
        Self {
            model,
            console: Vec::new(),
            without: Vec::new(),
            without_site: None,
            outer_sites: BTreeMap::new(),
            disk,
            display: Display::new(seed),
            due: u64::MAX,
            scu_control: 0,
            timer_control: 0,
            sp804: (0, 0, 0),
            gic: Gic::default(),
            outer_control: 0,
        }
    }

    /// Whether the core's interrupt line is raised.
    pub const fn interrupt(&self) -> bool {
        self.gic.raised
    }

    /// A load from a register.
    pub fn read(&mut self, at: u32, now: u64, caches: &mut Caches) -> u32 {
        let gic_cpu = self.model.gic_cpu;
        let ticks = if self.timer_control & 1 != 0 { now / INSTRUCTIONS_PER_TICK } else { 0 };
        match at {
            // FR: transmit FIFO empty, receive FIFO empty.
            _ if at == PL011 + 0x18 => 0x90,
            _ if at == SP804 + 4 => {
                let (load, control, began) = self.sp804;
                let count = if control & 1 << 7 != 0 { (now - began) / INSTRUCTIONS_PER_MICROSECOND } else { 0 };
                load.wrapping_sub(count as u32)
            }
            _ if (VIRTIO..VIRTIO + 0x200).contains(&at) => {
                self.disk.as_ref().map_or(0, |disk| disk.read(at - VIRTIO, caches))
            }
            _ if (PL111..PL111 + 0x1000).contains(&at) => self.display.read(at - PL111),
            _ if at == gic_cpu + 0x0c => match self.gic.next() {
                None => SPURIOUS,
                Some(id) => {
                    self.gic.pending[id as usize / 32] &= !(1 << (id % 32));
                    self.gic.active.push(id);
                    self.gic.raised = false;
                    id
                }
            },
            // TYPER: 96 interrupts.
            _ if at == GIC + 4 => 2,
            _ if !self.model.multiprocessing => 0,
            SCU => self.scu_control,
            TIMER => ticks as u32,
            _ if at == TIMER + 4 => (ticks >> 32) as u32,
            _ if at == TIMER + 8 => self.timer_control,
            _ if self.model.outer != Outer::Controller => 0,
            // Cache ID: r3p2. Auxiliary control: 8 ways of 16 KiB.
            PL310 => 0x4100_00c8,
            _ if at == PL310 + 0x100 => self.outer_control,
            _ if at == PL310 + 0x104 => 0x0202_0000,
            // The ways an operation has not ended for.
            _ if [0x77c, 0x7bc, 0x7fc].contains(&at.wrapping_sub(PL310)) => u32::from(caches.poll_ways()) * 0xff,
            _ => 0,
        }
    }

    /// A store to a register.
    pub fn write(&mut self, at: u32, value: u32, now: u64, caches: &mut Caches) {
        let gic_cpu = self.model.gic_cpu;
        match at {
            PL011 => self.console.push(value as u8),
            SP804 => (self.sp804.0, self.sp804.2) = (value, now),
            _ if at == SP804 + 8 => (self.sp804.1, self.sp804.2) = (value, now),
            _ if (VIRTIO..VIRTIO + 0x200).contains(&at) => {
                if let Some(disk) = &mut self.disk {
                    disk.write(at - VIRTIO, value, now);
                }
                self.look_ahead();
            }
            _ if (PL111..PL111 + 0x1000).contains(&at) => {
                self.display.write(at - PL111, value, now);
                self.look_ahead();
            }
            _ if at == gic_cpu => self.gic.cpu_on = value & 1 != 0,
            _ if at == gic_cpu + 0x10 => self.gic.active.retain(|&id| id != value & 0x3ff),
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
            _ if !self.model.multiprocessing => {}
            SCU => self.scu_control = value,
            _ if at == TIMER + 8 => self.timer_control = value,
            _ if (PL310..PL310 + 0x1000).contains(&at) && self.model.outer == Outer::Controller => {
                self.outer(at - PL310, value, caches);
            }
            _ => {}
        }
        self.gic.raised = self.gic.next().is_some();
    }

    /// PL310 (DDI 0246, 3.3.10 and table 3-1): operations by line are atomic, those by way go on in the background, a
    /// sync is complete when all buffers are empty.
    fn outer(&mut self, offset: u32, value: u32, caches: &mut Caches) {
        let (operation, kind) = match offset {
            0x100 => {
                self.outer_control = value;
                return caches.set_outer(value & 1 != 0);
            }
            0x730 => (Maintain::Clean, OuterOp::Sync),
            0x770 | 0x77c => (Maintain::Invalidate, OuterOp::Invalidate),
            0x7b0 | 0x7bc => (Maintain::Clean, OuterOp::Clean),
            0x7f0 | 0x7fc => (Maintain::Flush, OuterOp::Invalidate),
            _ => return,
        };
        *self.outer_sites.entry((caches.pc, kind)).or_insert(0) += 1;
        if self.without.contains(&kind) || self.without_site == Some(caches.pc) {
            return;
        }
        match offset {
            0x730 => caches.order_sync(),
            0x770 | 0x7b0 | 0x7f0 => caches.order_line(operation, value),
            _ => caches.order_ways(operation),
        }
    }

    fn look_ahead(&mut self) {
        self.due = self.disk.as_ref().map_or(u64::MAX, |disk| disk.due).min(self.display.due);
    }

    /// The bus masters' next move, which is due.
    pub fn step(&mut self, caches: &mut Caches, now: u64) -> Result<(), (Rule, u32)> {
        if let Some(disk) = &mut self.disk
            && disk.due <= now
        {
            disk.step(caches, now)?;
        }
        if self.display.due <= now {
            self.display.step(caches, now)?;
        }
        self.look_ahead();
        Ok(())
    }

    /// Something came where the disk looks for work.
    pub fn look(&mut self, caches: &mut Caches, now: u64) -> Result<(), (Rule, u32)> {
        if let Some(disk) = &mut self.disk {
            disk.look(caches, now)?;
        }
        self.look_ahead();
        Ok(())
    }

    /// The program has ended: what the display still has to read.
    pub fn finish(&mut self, caches: &mut Caches) -> Result<(), (Rule, u32)> {
        self.display.finish(caches)
    }
}
