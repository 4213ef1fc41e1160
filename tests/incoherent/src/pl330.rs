//! The PL330 DMA controller (ARM DDI 0424): channels that run programs which they fetch from memory.
//!
//! Guarantees: a channel reads and writes DRAM and nothing else, a burst at a time, each move a random while after the
//! one before. Its stores are late, as far as DMAWMB and DMAEND allow: what DMASEV tells of need not be in memory.
//!
//! Not modelled: peripherals' requests, events that channels wait for, bytes in another order, the manager's own
//! program.

use crate::cache::{Caches, Master, Random};
use crate::devices::{Bus, Device, NEVER};
use crate::report::Rule;
use std::collections::VecDeque;

/// Instructions between two moves, at most.
const PAUSE: u32 = 100;
/// Bytes that a channel's loads may be ahead of its stores.
const FIFO: usize = 1024;
/// Bursts that a channel's stores wait for, at most (Zynq: `CRD.wr_q_dep`).
const LATE: usize = 16;
const CHANNELS: usize = 8;

// Registers.
const INTERRUPT_ENABLE: u32 = 0x20;
const EVENTS: u32 = 0x24;
const INTERRUPTS: u32 = 0x28;
const INTERRUPT_CLEAR: u32 = 0x2c;
const FAULTING: u32 = 0x34;
const FAULT_TYPE: u32 = 0x40;
const STATUS: u32 = 0x100;
const ADDRESSES: u32 = 0x400;
const DEBUG_COMMAND: u32 = 0xd04;
const DEBUG_INSTRUCTION: [u32; 2] = [0xd08, 0xd0c];

/// FTR: an instruction that is not known; DMAST without the data; DMALD that would wait for ever.
const UNDEFINED: u32 = 1;
const NO_DATA: u32 = 1 << 12;
const LOCKED: u32 = 1 << 31;

/// What a channel does, by the numbers of CSR.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Stopped = 0,
    Executing = 1,
    Killing = 8,
    Completing = 9,
    Faulting = 15,
}

struct Channel {
    number: u8,
    state: State,
    fault: u32,
    pc: u32,
    source: u32,
    target: u32,
    control: u32,
    loops: [u32; 2],
    /// What was loaded and not stored yet.
    loaded: VecDeque<u8>,
    /// Stores under way, with their addresses.
    stores: VecDeque<(u32, Vec<u8>)>,
}

impl Channel {
    /// Executes one instruction, or ends a store that it waits for. Returns the event it signals.
    fn step(&mut self, caches: &mut Caches, random: &mut Random) -> Result<Option<u8>, (Rule, u32)> {
        let must_store = self.state != State::Executing || self.stores.len() == LATE;
        if (must_store || random.below(4) == 0)
            && let Some((at, bytes)) = self.stores.pop_front()
        {
            caches.device_write(Master::Channel(self.number), at, &bytes)?;
            return Ok(None);
        }
        if self.state != State::Executing {
            self.state = State::Stopped;
            return Ok(None);
        }
        self.execute(caches)
    }

    /// A byte of the program.
    fn fetch(&mut self, caches: &mut Caches) -> Result<u8, (Rule, u32)> {
        self.pc += 1;
        Ok(caches.device_read(self.pc - 1, 1, true)? as u8)
    }

    fn fails(&mut self, fault: u32) {
        (self.state, self.fault) = (State::Faulting, fault);
    }

    /// A burst: its bytes, and how far its address counts on. `from`: the first bit of its side of CCR.
    const fn burst(&self, from: u32) -> (u32, u32) {
        let side = self.control >> from;
        let bytes = (1 << (side >> 1 & 7)) * ((side >> 4 & 0xf) + 1);
        (bytes, if side & 1 != 0 { bytes } else { 0 })
    }

    fn execute(&mut self, caches: &mut Caches) -> Result<Option<u8>, (Rule, u32)> {
        let at = self.pc;
        let code = self.fetch(caches)?;
        match code {
            // DMAEND
            0x00 => self.state = State::Completing,
            // DMAKILL
            0x01 => self.state = State::Killing,
            // DMALD
            0x04 => {
                let (bytes, on) = self.burst(0);
                if self.loaded.len() + bytes as usize > FIFO {
                    self.fails(LOCKED);
                    return Ok(None);
                }
                for n in (0..bytes).step_by(4) {
                    let size = (bytes - n).min(4);
                    let word = caches.device_read(self.source + n, size, true)?;
                    self.loaded.extend(&word.to_le_bytes()[..size as usize]);
                }
                self.source = self.source.wrapping_add(on);
            }
            // DMAST
            0x08 => {
                let (bytes, on) = self.burst(14);
                if self.loaded.len() < bytes as usize {
                    self.fails(NO_DATA);
                    return Ok(None);
                }
                let bytes = self.loaded.drain(..bytes as usize).collect();
                self.stores.push_back((self.target, bytes));
                self.target = self.target.wrapping_add(on);
            }
            // DMARMB: loads are never late. DMANOP.
            0x12 | 0x18 => {}
            // DMAWMB: again, until no store is late.
            0x13 => {
                if !self.stores.is_empty() {
                    self.pc = at;
                }
            }
            // DMALP
            0x20 | 0x22 => self.loops[usize::from(code >> 1 & 1)] = self.fetch(caches)?.into(),
            // DMALPEND
            0x38 | 0x3c => {
                let back = u32::from(self.fetch(caches)?);
                let left = &mut self.loops[usize::from(code >> 2 & 1)];
                if *left > 0 {
                    *left -= 1;
                    self.pc = at - back;
                }
            }
            // DMASEV
            0x34 => return Ok(Some(self.fetch(caches)? >> 3)),
            // DMAMOV
            0xbc => {
                let register = self.fetch(caches)?;
                let mut value = [0; 4];
                for byte in &mut value {
                    *byte = self.fetch(caches)?;
                }
                match register {
                    0 => self.source = u32::from_le_bytes(value),
                    1 => self.control = u32::from_le_bytes(value),
                    2 => self.target = u32::from_le_bytes(value),
                    _ => self.fails(UNDEFINED),
                }
            }
            _ => self.fails(UNDEFINED),
        }
        Ok(None)
    }
}

/// The controller.
pub struct Pl330 {
    channels: [Channel; CHANNELS],
    random: Random,
    due: u64,
    wanted: u32,
    /// Events that interrupt, and whose they are.
    raised: u32,
    raised_by: [u8; 32],
    debug: [u32; 2],
}

impl Pl330 {
    /// All channels stopped.
    pub fn new(seed: u64) -> Self {
        Self {
            channels: core::array::from_fn(|n| Channel {
                number: n as u8,
                state: State::Stopped,
                fault: 0,
                pc: 0,
                source: 0,
                target: 0,
                control: 0,
                loops: [0; 2],
                loaded: VecDeque::new(),
                stores: VecDeque::new(),
            }),
            random: Random::new(seed.rotate_left(48)),
            due: NEVER,
            wanted: 0,
            raised: 0,
            raised_by: [0; 32],
            debug: [0; 2],
        }
    }

    /// An instruction that the CPU has a thread execute.
    fn instruct(&mut self, now: u64) {
        let [first, rest] = self.debug;
        let (of_channel, number) = (first & 1 != 0, first >> 8 & 7);
        match (first >> 16 & 0xff, of_channel) {
            // DMAGO
            (0xa0 | 0xa2, false) => {
                let channel = &mut self.channels[(first >> 24 & 7) as usize];
                if channel.state == State::Stopped {
                    (channel.state, channel.pc, channel.fault) = (State::Executing, rest, 0);
                }
            }
            // DMAKILL
            (0x01, true) => {
                let channel = &mut self.channels[number as usize];
                channel.loaded.clear();
                if channel.state != State::Stopped {
                    channel.state = State::Killing;
                }
            }
            _ => {}
        }
        // It begins at once, before the CPU can write anything else.
        self.due = now + 1;
    }
}

impl Device for Pl330 {
    fn read(&mut self, offset: u32, bus: &mut Bus<'_>) -> u32 {
        match offset {
            INTERRUPT_ENABLE => self.wanted,
            EVENTS | INTERRUPTS => {
                for event in (0..32).filter(|event| self.raised & 1 << event != 0) {
                    bus.caches.know(Master::Channel(self.raised_by[event]));
                }
                self.raised
            }
            FAULTING => {
                let faulting = self.channels.iter().filter(|channel| channel.state == State::Faulting);
                faulting.map(|channel| 1 << channel.number).sum()
            }
            FAULT_TYPE..0x60 => self.channels[(offset - FAULT_TYPE) as usize / 4].fault,
            STATUS..0x140 => {
                let channel = &self.channels[(offset - STATUS) as usize / 8];
                if offset & 4 != 0 {
                    return channel.pc;
                }
                if channel.state == State::Stopped {
                    bus.caches.know(Master::Channel(channel.number));
                }
                channel.state as u32
            }
            ADDRESSES..0x500 => {
                let channel = &self.channels[(offset - ADDRESSES) as usize / 0x20];
                match offset & 0x1f {
                    0x00 => channel.source,
                    0x04 => channel.target,
                    0x08 => channel.control,
                    0x0c => channel.loops[0],
                    0x10 => channel.loops[1],
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn write(&mut self, offset: u32, value: u32, bus: &mut Bus<'_>) {
        match offset {
            INTERRUPT_ENABLE => self.wanted = value,
            INTERRUPT_CLEAR => self.raised &= !value,
            DEBUG_COMMAND if value & 3 == 0 => self.instruct(bus.now),
            _ if offset == DEBUG_INSTRUCTION[0] => self.debug[0] = value,
            _ if offset == DEBUG_INSTRUCTION[1] => self.debug[1] = value,
            _ => {}
        }
    }

    fn due(&self) -> u64 {
        self.due
    }

    fn step(&mut self, bus: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        let while_ = if self.random.below(2) == 0 { 1 } else { PAUSE };
        self.due = bus.now + 1 + u64::from(self.random.below(while_));
        for channel in &mut self.channels {
            if matches!(channel.state, State::Stopped | State::Faulting) {
                continue;
            }
            if let Some(event) = channel.step(bus.caches, &mut self.random)?
                && self.wanted & 1 << event != 0
            {
                self.raised |= 1 << event;
                self.raised_by[usize::from(event)] = channel.number;
            }
        }
        if self.channels.iter().all(|channel| matches!(channel.state, State::Stopped | State::Faulting)) {
            self.due = NEVER;
        }
        Ok(())
    }

    /// Events 0 to 3 and 4 to 7 (UG585 table 7-4).
    fn interrupts(&self) -> u128 {
        u128::from(self.raised & 0xf) << 46 | u128::from(self.raised >> 4 & 0xf) << 72
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Maintain;
    use crate::model;

    const BASE: u32 = 0x6000_0000;
    const PROGRAM: u32 = BASE;
    const FROM: u32 = BASE + 0x1000;
    const TO: u32 = BASE + 0x2000;
    /// Bursts of 4 words at both ends, addresses that count up.
    const CONTROL: u32 = 1 | 2 << 1 | 3 << 4 | 1 << 14 | 2 << 15 | 3 << 18;

    /// Copies 64 bytes by a loop, and signals event 3.
    fn program(barrier: bool) -> Vec<u8> {
        let mut program = Vec::new();
        for (register, value) in [(0, FROM), (2, TO), (1, CONTROL)] {
            program.extend([0xbc, register]);
            program.extend(value.to_le_bytes());
        }
        program.extend([0x20, 3, 0x04, 0x08, 0x38, 2]);
        program.extend(if barrier { &[0x13][..] } else { &[] });
        program.extend([0x34, 3 << 3, 0x00]);
        program
    }

    struct Bench {
        pl330: Pl330,
        caches: Caches,
        now: u64,
    }

    impl Bench {
        fn new(seed: u64, program: &[u8]) -> Self {
            let mut caches = Caches::new(model::find("a9").unwrap(), 16 << 12, seed, 1 << 30);
            caches.put(PROGRAM, program);
            caches.put(FROM, &[7; 64]);
            caches.put(TO, &[0; 64]);
            Self { pl330: Pl330::new(seed), caches, now: 0 }
        }

        fn write(&mut self, offset: u32, value: u32) {
            let bus = &mut Bus { caches: &mut self.caches, console: &mut Vec::new(), now: self.now };
            self.pl330.write(offset, value, bus);
        }

        fn read(&mut self, offset: u32) -> u32 {
            let bus = &mut Bus { caches: &mut self.caches, console: &mut Vec::new(), now: self.now };
            self.pl330.read(offset, bus)
        }

        /// DMAGO of channel 0 at the program.
        fn go(&mut self) {
            self.write(DEBUG_INSTRUCTION[0], 0xa0 << 16);
            self.write(DEBUG_INSTRUCTION[1], PROGRAM);
            self.write(DEBUG_COMMAND, 0);
        }

        /// One move.
        fn step(&mut self) -> Result<(), (Rule, u32)> {
            self.now = self.pl330.due();
            self.pl330.step(&mut Bus { caches: &mut self.caches, console: &mut Vec::new(), now: self.now })
        }

        fn run(&mut self) -> Result<(), (Rule, u32)> {
            while self.pl330.due() != NEVER {
                self.step()?;
            }
            Ok(())
        }

        fn copied(&mut self) -> bool {
            (TO..TO + 64).step_by(4).all(|pa| self.caches.device_read(pa, 4, true).unwrap() == 0x0707_0707)
        }
    }

    #[test]
    fn a_program_copies() {
        for seed in 0..20 {
            let mut bench = Bench::new(seed, &program(true));
            bench.write(INTERRUPT_ENABLE, 1 << 3);
            bench.go();
            assert_eq!(bench.read(STATUS), State::Executing as u32);
            bench.run().unwrap();
            assert!(bench.copied());
            assert_eq!((bench.read(STATUS), bench.read(INTERRUPTS)), (State::Stopped as u32, 1 << 3));
            assert_eq!(bench.pl330.interrupts(), 1 << 49);
            assert_eq!((bench.read(ADDRESSES), bench.read(ADDRESSES + 4)), (FROM + 64, TO + 64));
            bench.write(INTERRUPT_CLEAR, 1 << 3);
            assert_eq!(bench.pl330.interrupts(), 0);
        }
    }

    #[test]
    fn an_event_before_a_barrier_tells_of_nothing() {
        for barrier in [true, false] {
            let late = (0..100).filter(|&seed| {
                let mut bench = Bench::new(seed, &program(barrier));
                bench.write(INTERRUPT_ENABLE, 1 << 3);
                bench.go();
                while bench.read(INTERRUPTS) == 0 {
                    bench.step().unwrap();
                }
                !bench.copied()
            });
            assert_eq!(late.count() > 50, !barrier);
        }
    }

    #[test]
    fn what_a_channel_reads_is_in_memory_and_what_it_writes_is_in_no_dirty_line() {
        let mut bench = Bench::new(1, &program(true));
        bench.caches.access(FROM + 32, 4, Some(1), true, true).unwrap();
        bench.go();
        assert_eq!(bench.run(), Err((Rule::DeviceReadsStale { buffered: false }, FROM + 32)));

        let mut bench = Bench::new(1, &program(true));
        bench.caches.access(TO + 32, 4, Some(1), true, true).unwrap();
        bench.go();
        assert_eq!(bench.run(), Err((Rule::DeviceWritesOverDirty { buffered: false }, TO + 32)));

        let mut bench = Bench::new(1, &program(true));
        bench.caches.access(FROM + 32, 4, Some(0x0707_0707), true, true).unwrap();
        bench.caches.issue(Maintain::Clean, FROM + 32);
        bench.caches.complete(&mut |_| Ok(())).unwrap();
        bench.go();
        bench.run().unwrap();
        assert!(bench.copied());
    }

    #[test]
    fn a_program_that_is_still_in_a_write_buffer_is_told() {
        let mut bench = Bench::new(1, &program(true));
        bench.caches.access(PROGRAM + 8, 4, Some(0), false, true).unwrap();
        bench.go();
        assert_eq!(bench.run(), Err((Rule::DeviceReadsStale { buffered: true }, PROGRAM)));
    }

    #[test]
    fn a_fault_stops_a_channel_until_it_is_killed() {
        // DMAST without a DMALD; an instruction that there is not.
        for (program, fault) in [(&[0x08, 0x00][..], NO_DATA), (&[0xff, 0x00][..], UNDEFINED)] {
            let mut bench = Bench::new(1, program);
            bench.go();
            bench.run().unwrap();
            assert_eq!((bench.read(STATUS), bench.read(FAULTING)), (State::Faulting as u32, 1));
            assert_eq!(bench.read(FAULT_TYPE), fault);
            bench.write(DEBUG_INSTRUCTION[0], 0x01 << 16 | 1);
            bench.write(DEBUG_COMMAND, 0);
            bench.run().unwrap();
            assert_eq!((bench.read(STATUS), bench.read(FAULTING)), (State::Stopped as u32, 0));
        }
    }
}
