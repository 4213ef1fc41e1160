//! The interrupt controller (ARM IHI 0048): what devices raise and what software itself makes pending, one interrupt at
//! a time.

/// What an interrupt controller with nothing to say reads as.
const SPURIOUS: u32 = 1023;

/// What the distributor keeps for each core, and the core's own interface.
#[derive(Clone, Default)]
struct Interface {
    on: bool,
    /// Of the first 32 interrupts, which are each core's own.
    enabled: u32,
    pending: u32,
    /// Who sent each of software's interrupts: a bit for each core.
    senders: [u8; 16],
    active: Vec<u32>,
    /// Whether there is an answer to what is next: asked before every instruction.
    raised: bool,
}

/// Distributor and CPU interfaces.
pub struct Gic {
    cpu_at: u32,
    distributor_at: u32,
    on: bool,
    /// Of the shared interrupts; the first word is not used.
    enabled: [u32; 32],
    pending: [u32; 32],
    /// What devices raise, by level: pending for as long.
    lines: u128,
    cores: Vec<Interface>,
}

impl Gic {
    /// With its CPU interfaces, at one address for all cores, and its distributor at these addresses.
    pub fn new(cpu_at: u32, distributor_at: u32, cores: usize) -> Self {
        Self {
            cpu_at,
            distributor_at,
            on: false,
            enabled: [0; 32],
            pending: [0; 32],
            lines: 0,
            cores: vec![Interface::default(); cores],
        }
    }

    /// What devices raise now, a bit for each interrupt.
    pub fn raise(&mut self, lines: u128) {
        if self.lines != lines {
            self.lines = lines;
            self.look();
        }
    }

    fn look(&mut self) {
        for core in 0..self.cores.len() {
            self.cores[core].raised = self.next(core).is_some();
        }
    }

    /// Whether a core's interrupt line is raised.
    pub fn is_raised(&self, core: usize) -> bool {
        self.cores[core].raised
    }

    /// Whether software sent an interrupt to a core, which a boot monitor waits for.
    pub fn is_called(&self, core: usize) -> bool {
        self.cores[core].pending & 0xffff != 0
    }

    /// One interrupt at a time, the lowest number first: the kernel gives all of a kind one priority. Shared ones, and
    /// those that devices raise, go to core 0.
    fn next(&self, core: usize) -> Option<u32> {
        let own = &self.cores[core];
        if !self.on || !own.on || !own.active.is_empty() {
            return None;
        }
        let lines = if core == 0 { self.lines } else { 0 };
        let first = own.enabled & (own.pending | lines as u32);
        if first != 0 {
            return Some(first.trailing_zeros());
        }
        if core != 0 {
            return None;
        }
        (1..32).find_map(|n| {
            let lines = if n < 4 { (lines >> (32 * n)) as u32 } else { 0 };
            let word = self.enabled[n] & (self.pending[n] | lines);
            (word != 0).then(|| n as u32 * 32 + word.trailing_zeros())
        })
    }

    /// A core's load, if a register of it is at this address.
    pub fn read(&mut self, at: u32, core: usize) -> Option<u32> {
        if at == self.cpu_at + 0x0c {
            let Some(id) = self.next(core) else { return Some(SPURIOUS) };
            let own = &mut self.cores[core];
            own.active.push(id);
            own.raised = false;
            let mut sender = 0;
            if id < 16 {
                let senders = &mut own.senders[id as usize];
                sender = senders.trailing_zeros() % 8;
                *senders &= !(1 << sender);
                if *senders == 0 {
                    own.pending &= !(1 << id);
                }
            } else if id < 32 {
                own.pending &= !(1 << id);
            } else {
                self.pending[id as usize / 32] &= !(1 << (id % 32));
            }
            return Some(id | sender << 10);
        }
        // TYPER: 96 interrupts, and the number of cores.
        (at == self.distributor_at + 4).then(|| 2 | (self.cores.len() as u32 - 1) << 5)
    }

    /// A core's store. Whether a register of it is at this address.
    pub fn write(&mut self, at: u32, value: u32, core: usize) -> bool {
        let register = at.wrapping_sub(self.distributor_at);
        match register {
            0 => self.on = value & 1 != 0,
            0x100..0x300 => {
                let word = (register & 0x7f) as usize / 4;
                let own = &mut self.cores[core];
                let (enabled, pending) = if word == 0 {
                    (&mut own.enabled, &mut own.pending)
                } else {
                    (&mut self.enabled[word], &mut self.pending[word])
                };
                match register & !0x7f {
                    0x100 => *enabled |= value,
                    0x180 => *enabled &= !value,
                    0x200 => *pending |= value,
                    _ => {
                        *pending &= !value;
                        if word == 0 {
                            let cleared = |id: usize| value & 1 << id != 0;
                            (0..16).filter(|&id| cleared(id)).for_each(|id| own.senders[id] = 0);
                        }
                    }
                }
            }
            // SGIR: to the cores that are listed, to all others, or to the sender.
            0xf00 => {
                let id = (value & 15) as usize;
                let to = match value >> 24 & 3 {
                    0 => value >> 16 & 0xff,
                    1 => !(1 << core),
                    _ => 1 << core,
                };
                for (_, other) in self.cores.iter_mut().enumerate().filter(|(n, _)| to & 1 << n != 0) {
                    other.pending |= 1 << id;
                    other.senders[id] |= 1 << core;
                }
            }
            _ => match at.wrapping_sub(self.cpu_at) {
                0 => self.cores[core].on = value & 1 != 0,
                0x10 => self.cores[core].active.retain(|&id| id != value & 0x3ff),
                _ => return false,
            },
        }
        self.look();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IAR: u32 = 0x10c;
    const EOIR: u32 = 0x110;

    fn gic() -> Gic {
        let mut gic = Gic::new(0x100, 0x1000, 2);
        gic.write(0x1000, 1, 0);
        for core in 0..2 {
            gic.write(0x100, 1, core);
            gic.write(0x1100, 0xffff, core);
        }
        gic
    }

    #[test]
    fn software_interrupts_reach_the_cores_that_were_named_with_their_sender() {
        let mut gic = gic();
        gic.write(0x1f00, 2 << 16 | 3, 0);
        gic.write(0x1f00, 2 << 16 | 3, 1);
        assert!(!gic.is_raised(0) && gic.is_raised(1) && gic.is_called(1));
        assert_eq!(gic.read(IAR, 1), Some(3));
        assert_eq!(gic.read(IAR, 1), Some(SPURIOUS), "one at a time");
        gic.write(EOIR, 3, 1);
        assert_eq!(gic.read(IAR, 1), Some(1 << 10 | 3), "each sender's is one");
        gic.write(EOIR, 1 << 10 | 3, 1);
        assert_eq!((gic.read(IAR, 1), gic.is_called(1)), (Some(SPURIOUS), false));
    }

    #[test]
    fn shared_interrupts_go_to_the_first_core() {
        let mut gic = gic();
        gic.write(0x1104, 1 << 8, 1);
        gic.raise(1 << 40);
        assert!(gic.is_raised(0) && !gic.is_raised(1));
        assert_eq!(gic.read(IAR, 0), Some(40));
    }
}
