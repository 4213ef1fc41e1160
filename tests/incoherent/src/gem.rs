//! Cadence's Ethernet controller (UG585 chapter 16 and appendix B.18): two bus masters, one that receives and one that
//! sends, each with a ring of descriptors that it and the CPU pass to and fro.
//!
//! Guarantees: each half reads and writes DRAM and nothing else, in pieces, each a random while after the one before. A
//! descriptor is given back only after the last byte of its frame is in memory, or was read from there. A received
//! frame waits, as in the controller's packet buffer, until a descriptor is free for it.
//!
//! Not modelled: checksums by the controller, several queues, statistics. The frame check sequence is always removed.

use crate::cache::{Master, Random};
use crate::devices::{Bus, Device, NEVER};
use crate::report::Rule;
use std::collections::VecDeque;

/// Its number in the interrupt controller.
const INTERRUPT: u32 = 54;
/// Bytes moved at once.
const PIECE: usize = 128;
/// Instructions between two moves, at most.
const PAUSE: u32 = 400;
/// Instructions between two looks at a descriptor that was not free, at most.
const LOOKS: u32 = 2000;

// Registers.
const NET_CONTROL: u32 = 0x00;
const NET_CONFIG: u32 = 0x04;
const NET_STATUS: u32 = 0x08;
const DMA_CONFIG: u32 = 0x10;
const TX_STATUS: u32 = 0x14;
const RX_QUEUE: u32 = 0x18;
const TX_QUEUE: u32 = 0x1c;
const RX_STATUS: u32 = 0x20;
const INTERRUPT_STATUS: u32 = 0x24;
const INTERRUPT_ENABLE: u32 = 0x28;
const INTERRUPT_DISABLE: u32 = 0x2c;
const INTERRUPT_MASK: u32 = 0x30;
const PHY: u32 = 0x34;
const ADDRESS_LOW: u32 = 0x88;
const ADDRESS_HIGH: u32 = 0x8c;

const RX_ENABLE: u32 = 1 << 2;
const TX_ENABLE: u32 = 1 << 3;
const TX_START: u32 = 1 << 9;
const PROMISCUOUS: u32 = 1 << 4;

// Status of either half, and what it raises.
const NOT_FREE: u32 = 1;
const RECEIVED: u32 = 1 << 1;
const TX_GO: u32 = 1 << 3;
const TX_COMPLETE: u32 = 1 << 5;
const RAISE_RECEIVED: u32 = 1 << 1;
const RAISE_RX_NOT_FREE: u32 = 1 << 2;
const RAISE_TX_NOT_FREE: u32 = 1 << 3;
const RAISE_SENT: u32 = 1 << 7;

// Descriptors (UG585 tables 16-2 and 16-3).
const RX_USED: u32 = 1;
const RX_WRAP: u32 = 1 << 1;
const RX_START: u32 = 1 << 14;
const RX_END: u32 = 1 << 15;
const RX_ADDRESS_MATCHED: u32 = 1 << 27;
const RX_BROADCAST: u32 = 1 << 31;
const TX_LENGTH: u32 = 0x3fff;
const TX_LAST: u32 = 1 << 15;
const TX_WRAP: u32 = 1 << 30;
const TX_USED: u32 = 1 << 31;

/// What is at the other end of the cable.
pub trait Network {
    /// A frame came out of the controller.
    fn sent(&mut self, frame: Vec<u8>, now: u64);

    /// When it has a frame for the controller, or something to do before.
    fn due(&self) -> u64;

    /// Its next frame, if it has one.
    fn next(&mut self, now: u64) -> Option<Vec<u8>>;

    /// What it has to complain of.
    fn complaint(&self) -> Option<String>;
}

/// A frame on its way into memory.
struct Filling {
    frame: Vec<u8>,
    done: usize,
    /// Its buffer, the bytes of it that are filled, and whether the ring ends here.
    buffer: u32,
    filled: usize,
    wrap: bool,
}

/// A frame on its way out of memory.
struct Draining {
    frame: Vec<u8>,
    /// Its first descriptor, with its second word.
    first: (u32, u32),
    /// What is left of the buffer under way.
    buffer: u32,
    left: usize,
    last: bool,
}

/// The controller.
pub struct Gem<N> {
    network: N,
    random: Random,
    control: u32,
    config: u32,
    dma_config: u32,
    address: [u32; 2],
    /// What the PHY was asked, with its answer.
    phy: u32,
    raised: u32,
    /// The interrupts that reach the core.
    wanted: u32,

    rx_status: u32,
    rx_queue: u32,
    rx_next: u32,
    rx_due: u64,
    /// Turned on, and did not look since.
    rx_told: bool,
    waiting: VecDeque<Vec<u8>>,
    filling: Option<Filling>,

    tx_status: u32,
    tx_queue: u32,
    tx_next: u32,
    tx_due: u64,
    tx_told: bool,
    draining: Option<Draining>,
}

impl<N: Network> Gem<N> {
    /// Off.
    pub fn new(network: N, seed: u64) -> Self {
        Self {
            network,
            random: Random::new(seed.rotate_left(16)),
            control: 0,
            config: 0,
            dma_config: 0,
            address: [0; 2],
            phy: 0,
            raised: 0,
            wanted: 0,
            rx_status: 0,
            rx_queue: 0,
            rx_next: 0,
            rx_due: NEVER,
            rx_told: false,
            waiting: VecDeque::new(),
            filling: None,
            tx_status: 0,
            tx_queue: 0,
            tx_next: 0,
            tx_due: NEVER,
            tx_told: false,
            draining: None,
        }
    }

    /// At once, or after a while.
    fn soon(&mut self, now: u64) -> u64 {
        let while_ = if self.random.below(2) == 0 { 1 } else { PAUSE };
        now + 1 + u64::from(self.random.below(while_))
    }

    fn control(&mut self, value: u32, bus: &mut Bus<'_>) {
        let came_on = value & !self.control;
        self.control = value & !TX_START;
        if came_on & RX_ENABLE != 0 {
            (self.rx_next, self.rx_told, self.rx_due) = (self.rx_queue, true, bus.now + 1);
        }
        if value & RX_ENABLE == 0 {
            (self.filling, self.rx_due) = (None, NEVER);
            bus.caches.poll(Master::Receiver, None);
        }
        if came_on & TX_ENABLE != 0 {
            self.tx_next = self.tx_queue;
        }
        if value & TX_ENABLE == 0 {
            (self.draining, self.tx_due) = (None, NEVER);
            self.tx_status &= !TX_GO;
            bus.caches.poll(Master::Transmitter, None);
        } else if value & TX_START != 0 && self.tx_status & TX_GO == 0 {
            // It looks at once, before the CPU can write down the next frame.
            self.tx_status |= TX_GO;
            (self.tx_told, self.tx_due) = (true, bus.now + 1);
        }
    }

    /// A PHY at address 7, Marvell's 88E1111, whose link is up with 1 Gbit/s.
    fn ask_phy(&mut self, value: u32) {
        let (read, at, register) = (value >> 28 & 3 == 2, value >> 23 & 31, value >> 18 & 31);
        let answer = match (at, register) {
            (7, 0) => 0x1140,
            (7, 1) => 0x796d,
            (7, 2) => 0x0141,
            (7, 3) => 0x0cc2,
            (7, 10) => 0x3800,
            (7, _) => 0,
            _ => 0xffff,
        };
        self.phy = if read { value & 0xffff_0000 | answer } else { value };
    }

    fn wants(&self, frame: &[u8]) -> bool {
        let [low, high] = self.address.map(u32::to_le_bytes);
        self.config & PROMISCUOUS != 0 || frame[..6] == [0xff; 6] || frame[..4] == low && frame[4..6] == high[..2]
    }

    /// The half that receives.
    fn receive(&mut self, bus: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        let (caches, now) = (&mut *bus.caches, bus.now);
        let told = core::mem::take(&mut self.rx_told);
        let Some(mut filling) = self.filling.take() else {
            let descriptor = caches.device_read(self.rx_next, 4, told)?;
            if self.waiting.is_empty() {
                self.rx_due = NEVER;
            } else if descriptor & RX_USED != 0 {
                self.rx_status |= NOT_FREE;
                self.raised |= RAISE_RX_NOT_FREE;
                caches.poll(Master::Receiver, Some(self.rx_next));
                self.rx_due = now + 1 + u64::from(self.random.below(LOOKS));
            } else {
                caches.poll(Master::Receiver, None);
                let frame = self.waiting.pop_front().expect("not empty");
                let (buffer, wrap) = (descriptor & !3, descriptor & RX_WRAP != 0);
                self.filling = Some(Filling { frame, done: 0, buffer, filled: 0, wrap });
                self.rx_due = self.soon(now);
            }
            return Ok(());
        };
        let room = ((self.dma_config >> 16 & 0xff) as usize * 64).max(64);
        let begins = filling.done == filling.filled;
        let bytes = PIECE.min(filling.frame.len() - filling.done).min(room - filling.filled);
        let piece = &filling.frame[filling.done..filling.done + bytes];
        caches.device_write(Master::Receiver, filling.buffer + filling.filled as u32, piece)?;
        filling.done += bytes;
        filling.filled += bytes;
        let ends = filling.done == filling.frame.len();
        if !ends && filling.filled < room {
            self.filling = Some(filling);
            self.rx_due = self.soon(now);
            return Ok(());
        }
        let mut word = if ends { filling.frame.len() as u32 | RX_END } else { 0 };
        if begins {
            word |= RX_START;
        }
        word |= if filling.frame[..6] == [0xff; 6] { RX_BROADCAST } else { RX_ADDRESS_MATCHED };
        let wrap = if filling.wrap { RX_WRAP } else { 0 };
        caches.device_write(Master::Receiver, self.rx_next + 4, &word.to_le_bytes())?;
        let first = filling.buffer | wrap | RX_USED;
        caches.device_write(Master::Receiver, self.rx_next, &first.to_le_bytes())?;
        self.rx_next = if filling.wrap { self.rx_queue } else { self.rx_next + 8 };
        if ends {
            self.rx_status |= RECEIVED;
            self.raised |= RAISE_RECEIVED;
        } else {
            // The next descriptor has the rest: it is taken up as a frame's first is.
            let descriptor = caches.device_read(self.rx_next, 4, false)?;
            if descriptor & RX_USED == 0 {
                (filling.buffer, filling.filled) = (descriptor & !3, 0);
                filling.wrap = descriptor & RX_WRAP != 0;
                self.filling = Some(filling);
            }
        }
        self.rx_due = if self.waiting.is_empty() && self.filling.is_none() { NEVER } else { self.soon(now) };
        Ok(())
    }

    /// The half that sends.
    fn transmit(&mut self, bus: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        let (caches, now) = (&mut *bus.caches, bus.now);
        self.tx_due = self.soon(now);
        let Some(mut draining) = self.draining.take() else {
            caches.poll(Master::Transmitter, None);
            let told = core::mem::take(&mut self.tx_told);
            let word = caches.device_read(self.tx_next + 4, 4, told)?;
            if word & TX_USED != 0 {
                self.tx_status = self.tx_status & !TX_GO | NOT_FREE;
                self.raised |= RAISE_TX_NOT_FREE;
                self.tx_due = NEVER;
            } else {
                let buffer = caches.device_read(self.tx_next, 4, true)?;
                let (left, last) = ((word & TX_LENGTH) as usize, word & TX_LAST != 0);
                self.draining = Some(Draining { frame: Vec::new(), first: (self.tx_next, word), buffer, left, last });
                self.tx_next = if word & TX_WRAP != 0 { self.tx_queue } else { self.tx_next + 8 };
            }
            return Ok(());
        };
        let bytes = PIECE.min(draining.left);
        for n in 0..bytes {
            draining.frame.push(caches.device_read(draining.buffer + n as u32, 1, true)? as u8);
        }
        draining.buffer += bytes as u32;
        draining.left -= bytes;
        if draining.left == 0 && draining.last {
            let (at, word) = draining.first;
            caches.device_write(Master::Transmitter, at + 4, &(word | TX_USED).to_le_bytes())?;
            self.tx_status |= TX_COMPLETE;
            self.raised |= RAISE_SENT;
            self.network.sent(draining.frame, now);
            // It looks at the next descriptor, and need not be told: if not at once, when the CPU writes there.
            caches.poll(Master::Transmitter, Some(self.tx_next + 4));
            self.tx_due = now + 1 + u64::from(self.random.below(LOOKS));
            return Ok(());
        }
        if draining.left == 0 {
            // The CPU gives a frame's first descriptor last.
            let word = caches.device_read(self.tx_next + 4, 4, true)?;
            draining.buffer = caches.device_read(self.tx_next, 4, true)?;
            (draining.left, draining.last) = ((word & TX_LENGTH) as usize, word & TX_LAST != 0);
            self.tx_next = if word & TX_WRAP != 0 { self.tx_queue } else { self.tx_next + 8 };
        }
        self.draining = Some(draining);
        Ok(())
    }
}

impl<N: Network> Device for Gem<N> {
    fn read(&mut self, offset: u32, bus: &mut Bus<'_>) -> u32 {
        let mut tell = |received: bool, sent: bool| {
            for (told, master) in [(received, Master::Receiver), (sent, Master::Transmitter)] {
                if told {
                    bus.caches.know(master);
                }
            }
        };
        match offset {
            NET_CONTROL => self.control,
            NET_CONFIG => self.config,
            // The PHY answers at once.
            NET_STATUS => 1 << 2,
            DMA_CONFIG => self.dma_config,
            TX_STATUS => {
                tell(false, self.tx_status & TX_COMPLETE != 0);
                self.tx_status
            }
            RX_QUEUE => self.rx_next,
            TX_QUEUE => self.tx_next,
            RX_STATUS => {
                tell(self.rx_status & RECEIVED != 0, false);
                self.rx_status
            }
            INTERRUPT_STATUS => {
                tell(self.raised & RAISE_RECEIVED != 0, self.raised & RAISE_SENT != 0);
                self.raised
            }
            INTERRUPT_MASK => !self.wanted,
            PHY => self.phy,
            ADDRESS_LOW => self.address[0],
            ADDRESS_HIGH => self.address[1],
            _ => 0,
        }
    }

    fn write(&mut self, offset: u32, value: u32, bus: &mut Bus<'_>) {
        match offset {
            NET_CONTROL => self.control(value, bus),
            NET_CONFIG => self.config = value,
            DMA_CONFIG => self.dma_config = value,
            TX_STATUS => self.tx_status &= !(value & !TX_GO),
            RX_QUEUE => (self.rx_queue, self.rx_next) = (value & !3, value & !3),
            TX_QUEUE => (self.tx_queue, self.tx_next) = (value & !3, value & !3),
            RX_STATUS => self.rx_status &= !value,
            INTERRUPT_STATUS => self.raised &= !value,
            INTERRUPT_ENABLE => self.wanted |= value,
            INTERRUPT_DISABLE => self.wanted &= !value,
            PHY => self.ask_phy(value),
            ADDRESS_LOW => self.address[0] = value,
            ADDRESS_HIGH => self.address[1] = value,
            _ => {}
        }
    }

    fn due(&self) -> u64 {
        // The cable is in while it listens.
        let network = if self.control & RX_ENABLE != 0 { self.network.due() } else { NEVER };
        self.rx_due.min(self.tx_due).min(network)
    }

    fn step(&mut self, bus: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        if self.control & RX_ENABLE != 0 && self.network.due() <= bus.now {
            while let Some(frame) = self.network.next(bus.now) {
                if self.wants(&frame) {
                    self.waiting.push_back(frame);
                }
            }
            if self.rx_due == NEVER && !self.waiting.is_empty() {
                self.rx_due = self.soon(bus.now);
            }
        }
        if self.rx_due <= bus.now {
            self.receive(bus)?;
        }
        if self.tx_due <= bus.now { self.transmit(bus) } else { Ok(()) }
    }

    fn look(&mut self, bus: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        if self.rx_due != NEVER && self.filling.is_none() {
            self.receive(bus)?;
        }
        if self.tx_due != NEVER && self.draining.is_none() { self.transmit(bus) } else { Ok(()) }
    }

    fn interrupts(&self) -> u128 {
        u128::from(self.raised & self.wanted != 0) << INTERRUPT
    }

    fn complaint(&self) -> Option<String> {
        self.network.complaint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Caches, Maintain};
    use crate::model;

    const BASE: u32 = 0x6000_0000;
    const RX_RING: u32 = BASE;
    const TX_RING: u32 = BASE + 0x1000;
    const BUFFER: u32 = BASE + 0x2000;
    const ON: u32 = RX_ENABLE | TX_ENABLE;

    /// Gives one frame, and keeps what comes.
    struct Other {
        gives: Option<Vec<u8>>,
        came: Vec<Vec<u8>>,
    }

    impl Network for Other {
        fn sent(&mut self, frame: Vec<u8>, _: u64) {
            self.came.push(frame);
        }

        fn due(&self) -> u64 {
            if self.gives.is_some() { 0 } else { NEVER }
        }

        fn next(&mut self, _: u64) -> Option<Vec<u8>> {
            self.gives.take()
        }

        fn complaint(&self) -> Option<String> {
            None
        }
    }

    struct Bench {
        gem: Gem<Other>,
        caches: Caches,
        now: u64,
    }

    impl Bench {
        /// Rings of two descriptors, none of which is the controller's, and buffers of 192 bytes.
        fn new(seed: u64, gives: Option<Vec<u8>>) -> Self {
            let caches = Caches::new(model::find("a9").unwrap(), 16 << 12, seed, 1 << 30);
            let gem = Gem::new(Other { gives, came: Vec::new() }, seed);
            let mut bench = Self { gem, caches, now: 0 };
            for (ring, first, second, last) in
                [(RX_RING, RX_USED, 0, (RX_USED | RX_WRAP, 0)), (TX_RING, 0, TX_USED, (0, TX_USED | TX_WRAP))]
            {
                bench.caches.put(ring, &[first, second, last.0, last.1].map(u32::to_le_bytes).concat());
            }
            bench.write(RX_QUEUE, RX_RING);
            bench.write(TX_QUEUE, TX_RING);
            bench.write(DMA_CONFIG, 3 << 16);
            bench.write(NET_CONFIG, PROMISCUOUS);
            bench
        }

        fn write(&mut self, offset: u32, value: u32) {
            let bus = &mut Bus { caches: &mut self.caches, console: &mut Vec::new(), now: self.now };
            self.gem.write(offset, value, bus);
        }

        fn read(&mut self, offset: u32) -> u32 {
            let bus = &mut Bus { caches: &mut self.caches, console: &mut Vec::new(), now: self.now };
            self.gem.read(offset, bus)
        }

        /// A store past the caches.
        fn put(&mut self, pa: u32, word: u32) {
            self.caches.access(pa, 4, Some(word.into()), false, true).unwrap();
        }

        fn barrier(&mut self) {
            let (gem, now) = (&mut self.gem, self.now);
            let mut look = |caches: &mut Caches| gem.look(&mut Bus { caches, console: &mut Vec::new(), now });
            self.caches.complete(&mut look).unwrap();
        }

        fn run(&mut self, instructions: u64) -> Result<(), (Rule, u32)> {
            let end = self.now + instructions;
            while self.gem.due() < end {
                self.now = self.now.max(self.gem.due());
                self.gem.step(&mut Bus { caches: &mut self.caches, console: &mut Vec::new(), now: self.now })?;
            }
            self.now = end;
            Ok(())
        }

        fn memory(&mut self, pa: u32, len: u32) -> Vec<u8> {
            (pa..pa + len).map(|pa| self.caches.device_read(pa, 1, true).unwrap() as u8).collect()
        }
    }

    fn frame(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|n| n as u8).collect()
    }

    #[test]
    fn a_frame_waits_for_a_descriptor_and_goes_into_as_many_as_it_takes() {
        for seed in 0..20 {
            let mut bench = Bench::new(seed, Some(frame(300)));
            bench.write(NET_CONTROL, ON);
            bench.run(10_000).unwrap();
            assert_eq!(bench.read(RX_STATUS), NOT_FREE, "it is held");
            for (n, wrap) in [(0, 0), (1, RX_WRAP)] {
                bench.put(RX_RING + 8 * n, (BUFFER + 0x100 * n) | wrap);
            }
            bench.barrier();
            bench.run(100_000).unwrap();
            assert_eq!(bench.read(RX_STATUS), NOT_FREE | RECEIVED);
            assert_eq!(bench.memory(BUFFER, 192), frame(300)[..192]);
            assert_eq!(bench.memory(BUFFER + 0x100, 108), frame(300)[192..]);
            let words = bench.memory(RX_RING, 16);
            let word = |n: usize| u32::from_le_bytes(words[4 * n..][..4].try_into().unwrap());
            assert_eq!((word(0), word(1)), (BUFFER | RX_USED, RX_START | RX_ADDRESS_MATCHED));
            assert_eq!(word(2), (BUFFER + 0x100) | RX_WRAP | RX_USED);
            assert_eq!(word(3), 300 | RX_END | RX_ADDRESS_MATCHED);
            assert_eq!(bench.read(RX_QUEUE), RX_RING, "round the ring");
        }
    }

    #[test]
    fn a_frame_over_a_dirty_line_is_told() {
        let mut bench = Bench::new(1, Some(frame(64)));
        bench.caches.access(BUFFER, 4, Some(0), true, true).unwrap();
        bench.caches.put(RX_RING, &BUFFER.to_le_bytes());
        bench.write(NET_CONTROL, ON);
        let told = Err((Rule::DeviceWritesOverDirty { buffered: false }, BUFFER));
        assert_eq!(bench.run(10_000), told);
    }

    /// The bytes of a frame, in memory or in the cache, and its descriptor.
    fn post(bench: &mut Bench, cleaned: bool) {
        bench.caches.put(BUFFER, &frame(100));
        bench.caches.put(BUFFER, &[0; 4]);
        bench.caches.access(BUFFER, 4, Some(0x0302_0100), true, true).unwrap();
        bench.caches.poke(BUFFER, 0x0302_0100);
        if cleaned {
            bench.caches.issue(Maintain::Clean, BUFFER);
        }
        bench.put(TX_RING, BUFFER);
        bench.caches.fence(true);
        bench.put(TX_RING + 4, 100 | TX_LAST);
    }

    #[test]
    fn a_frame_is_sent_and_its_descriptor_given_back() {
        for seed in 0..20 {
            let mut bench = Bench::new(seed, None);
            bench.write(NET_CONTROL, ON);
            post(&mut bench, true);
            bench.barrier();
            bench.write(NET_CONTROL, ON | TX_START);
            bench.write(INTERRUPT_ENABLE, RAISE_SENT);
            assert_eq!(bench.gem.interrupts(), 0);
            bench.run(100_000).unwrap();
            assert_eq!(bench.gem.network.came, [frame(100)]);
            assert_eq!(bench.memory(TX_RING + 4, 4), (100 | TX_LAST | TX_USED).to_le_bytes());
            assert_eq!(bench.read(TX_STATUS), TX_COMPLETE | NOT_FREE, "and it has stopped");
            assert_eq!(bench.gem.interrupts(), 1 << 54);
            bench.write(INTERRUPT_STATUS, RAISE_SENT);
            assert_eq!(bench.gem.interrupts(), 0);
        }
    }

    #[test]
    fn what_the_controller_is_told_to_send_is_in_memory() {
        for (cleaned, barrier) in [(false, true), (true, false)] {
            let mut bench = Bench::new(3, None);
            bench.write(NET_CONTROL, ON);
            post(&mut bench, cleaned);
            if barrier {
                bench.barrier();
            }
            bench.write(NET_CONTROL, ON | TX_START);
            let told = bench.run(100_000).unwrap_err();
            assert_eq!(told.0, Rule::DeviceReadsStale { buffered: !barrier });
        }
    }

    /// It goes from frame to frame by itself, and so it may look in the middle of what the CPU writes.
    #[test]
    fn a_descriptor_that_is_given_in_the_wrong_order_is_told() {
        let mut told = 0;
        for seed in 0..100 {
            let mut bench = Bench::new(seed, None);
            bench.write(NET_CONTROL, ON);
            post(&mut bench, true);
            bench.barrier();
            bench.write(NET_CONTROL, ON | TX_START);
            while bench.gem.network.came.is_empty() {
                bench.run(10).unwrap();
            }
            // No DMB between the words of the next one.
            bench.put(TX_RING + 8, BUFFER);
            bench.put(TX_RING + 12, 100 | TX_LAST | TX_WRAP);
            let (gem, now) = (&mut bench.gem, bench.now);
            let mut look = |caches: &mut Caches| gem.look(&mut Bus { caches, console: &mut Vec::new(), now });
            told += u32::from(bench.caches.complete(&mut look).is_err());
        }
        assert!((20..80).contains(&told), "{told}");
    }
}
