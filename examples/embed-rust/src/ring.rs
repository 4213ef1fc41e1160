//! The queues of the Ethernet port: rings of descriptors in coherent memory (UG585 16.3).
//!
//! Guarantees: a packet is in a ring exactly while its descriptor is the controller's. It comes out only after the
//! controller gave the descriptor back (I4). What a descriptor says is in memory before the word that gives it away,
//! and that before the controller is told.

use core::array;

use carveout::addr::BusAddr;
use carveout::dma::{Coherent, Device, Direction, FromDevice, Master, StreamBlock, ToDevice};
use carveout_armv7a::mmu::Armv7a;
use carveout_smoltcp::{PACKET, RxPacket, RxQueue, TxPacket, TxQueue};
use zynq7000::eth::{MmioRegisters, NetworkControl, RxStatus};

use crate::board::LINE;
use crate::memory::Memory;

/// Descriptors of each ring.
pub const RING: usize = 32;

/// The controller is on.
pub const ON: NetworkControl =
    NetworkControl::new_with_raw_value(0).with_rx_enable(true).with_tx_enable(true).with_management_port_enable(true);

/// Bits of a descriptor that receives, in its first word (UG585 table 16-2): the rest is the buffer's address.
const RX_OURS: u32 = 1 << 0;
const RX_WRAP: u32 = 1 << 1;
/// In its second word: the frame begins and ends in this buffer.
const RX_WHOLE: u32 = 1 << 14 | 1 << 15;
const LENGTH: u32 = 0x1fff;
/// Bits of a descriptor that sends, in its second word (UG585 table 16-3).
const TX_LAST: u32 = 1 << 15;
const TX_WRAP: u32 = 1 << 30;
const TX_OURS: u32 = 1 << 31;

/// What went through a queue.
#[derive(Clone, Copy, Default, Debug)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Lines of one cache level that the protocol has maintained for them: cleaned before the controller reads a frame,
    /// and invalidated after it wrote one (`GiveBlock` and `TakeBlock`). A packet begins at a line, and stays mapped.
    /// So lines of it may be cached even if the CPU never looked.
    pub lines: u64,
}

impl Traffic {
    fn count(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
        self.lines += bytes.div_ceil(LINE) as u64;
    }
}

/// A ring: descriptors of two words in coherent memory, and the packets that the controller has.
struct Ring<D: Direction> {
    descriptors: Coherent<Armv7a>,
    packets: [Option<StreamBlock<Armv7a, D, Device>>; RING],
    /// The descriptor that is given next, and the one that comes back next.
    given: usize,
    back: usize,
}

impl<D: Direction> Ring<D> {
    /// Makes a ring in which no descriptor is the controller's.
    fn new(memory: Memory, ours: [u32; 2]) -> Self {
        let master = Master::new("ethernet", Some(memory.area));
        let page = memory.dma.alloc(&master, 4096, 1).unwrap_or_else(|error| panic!("{error}"));
        let mut ring = Self { descriptors: page.into_coherent(), packets: array::from_fn(|_| None), given: 0, back: 0 };
        for n in 0..RING {
            ring.write(n, 0, ours[0]);
            ring.write(n, 1, ours[1]);
        }
        ring
    }

    /// Returns the address of the first descriptor, once all are in memory.
    fn base(&self) -> BusAddr {
        self.descriptors.device_barrier();
        self.descriptors.bus()
    }

    fn read(&self, n: usize, word: usize) -> u32 {
        self.descriptors.read_word(8 * n + 4 * word)
    }

    fn write(&mut self, n: usize, word: usize, value: u32) {
        self.descriptors.write_word(8 * n + 4 * word, value);
    }

    /// Takes all memory back.
    ///
    /// # Safety
    ///
    /// The controller is off (I4).
    unsafe fn stop(self) {
        for packet in self.packets.into_iter().flatten() {
            // SAFETY: the controller is off, as this function demands (I4).
            drop(unsafe { packet.for_cpu() });
        }
        // SAFETY: as above.
        drop(unsafe { self.descriptors.release() });
    }

    /// Keeps a packet while the controller has it. Returns the number of its descriptor.
    fn keep(&mut self, packet: StreamBlock<Armv7a, D, Device>) -> usize {
        let n = self.given;
        assert!(self.packets[n].is_none(), "more packets than descriptors");
        self.packets[n] = Some(packet);
        self.given = (n + 1) % RING;
        n
    }

    /// Returns the packet of the descriptor that came back.
    fn take(&mut self) -> Option<StreamBlock<Armv7a, D, Device>> {
        let packet = self.packets[self.back].take();
        self.back = (self.back + 1) % RING;
        packet
    }
}

/// Returns `bit` for the last descriptor, after which the controller begins at the first.
const fn wrap(n: usize, bit: u32) -> u32 {
    if n == RING - 1 { bit } else { 0 }
}

/// The queue that receives.
pub struct Rx {
    registers: MmioRegisters<'static>,
    ring: Ring<FromDevice>,
    /// What was received.
    pub traffic: Traffic,
}

// SAFETY: a packet comes out once the controller set RX_OURS in its descriptor, which it does after its last write to
// the packet (UG585 16.3.3). It wrote the frame, whose length is beside that bit.
unsafe impl RxQueue<Armv7a> for Rx {
    fn post(&mut self, packet: RxPacket<Armv7a>) {
        let bus = packet.bus().raw();
        let n = self.ring.keep(packet);
        self.ring.write(n, 1, 0);
        // It orders reads too: what the CPU read of the packet comes before the word that gives it away.
        self.ring.descriptors.device_barrier();
        self.ring.write(n, 0, bus | wrap(n, RX_WRAP));
    }

    fn received(&mut self) -> Option<(RxPacket<Armv7a>, usize)> {
        loop {
            let n = self.ring.back;
            if self.ring.packets[n].is_none() || self.ring.read(n, 0) & RX_OURS == 0 {
                self.look_again();
                return None;
            }
            self.ring.descriptors.dma_rmb();
            let status = self.ring.read(n, 1);
            let packet = self.ring.take()?;
            if status & RX_WHOLE == RX_WHOLE {
                let bytes = ((status & LENGTH) as usize).min(PACKET);
                self.traffic.count(bytes);
                return Some((packet, bytes));
            }
            // A part of a frame that is larger than a packet: nobody wants it.
            self.post(packet);
        }
    }
}

impl Rx {
    /// Makes a queue without packets.
    pub fn new(memory: Memory, registers: MmioRegisters<'static>) -> Self {
        Self { registers, ring: Ring::new(memory, [RX_OURS, 0]), traffic: Traffic::default() }
    }

    /// Returns the address of the ring, once its descriptors are in memory.
    pub fn base(&self) -> BusAddr {
        self.ring.base()
    }

    /// Takes all memory back.
    ///
    /// # Safety
    ///
    /// The controller is off (I4).
    pub unsafe fn stop(self) {
        // SAFETY: the controller is off, as this function demands (I4).
        unsafe { self.ring.stop() };
    }

    /// Has the controller look at its descriptor again, if it found none of its own.
    fn look_again(&mut self) {
        if self.registers.read_rx_status().buf_not_available() {
            self.registers.write_rx_status(RxStatus::new_with_raw_value(0).with_buf_not_available(true));
            self.ring.descriptors.device_barrier();
            self.registers.write_net_ctrl(ON);
        }
    }
}

/// The queue that sends.
pub struct Tx {
    registers: MmioRegisters<'static>,
    ring: Ring<ToDevice>,
    /// What was sent.
    pub traffic: Traffic,
}

// SAFETY: a packet comes out once the controller set TX_OURS in its descriptor, which it does after it read the packet
// (UG585 16.3.4).
unsafe impl TxQueue<Armv7a> for Tx {
    fn post(&mut self, packet: TxPacket<Armv7a>, bytes: usize) {
        let bus = packet.bus().raw();
        let n = self.ring.keep(packet);
        self.ring.write(n, 0, bus);
        self.ring.descriptors.dma_wmb();
        self.ring.write(n, 1, bytes as u32 & LENGTH | TX_LAST | wrap(n, TX_WRAP));
        self.ring.descriptors.device_barrier();
        self.registers.write_net_ctrl(ON.with_start_tx(true));
        self.traffic.count(bytes);
    }

    fn sent(&mut self) -> Option<TxPacket<Armv7a>> {
        let n = self.ring.back;
        if self.ring.packets[n].is_none() || self.ring.read(n, 1) & TX_OURS == 0 {
            return None;
        }
        self.ring.descriptors.dma_rmb();
        self.ring.take()
    }
}

impl Tx {
    /// Makes a queue without packets.
    pub fn new(memory: Memory, registers: MmioRegisters<'static>) -> Self {
        Self { registers, ring: Ring::new(memory, [0, TX_OURS]), traffic: Traffic::default() }
    }

    /// Returns the address of the ring, once its descriptors are in memory.
    pub fn base(&self) -> BusAddr {
        self.ring.base()
    }

    /// Takes all memory back.
    ///
    /// # Safety
    ///
    /// The controller is off (I4).
    pub unsafe fn stop(self) {
        // SAFETY: the controller is off, as this function demands (I4).
        unsafe { self.ring.stop() };
    }
}
