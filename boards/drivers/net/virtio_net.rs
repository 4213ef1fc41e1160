//! The network: virtio-net, over the queues of virtio-drivers.
//!
//! Guarantees: a packet goes straight between the device and a block of a pool ([`StreamPool`]) that the device owns.
//! The driver copies no byte of a packet. A packet comes back only after the used ring named the first descriptor of
//! its request (virtio 1.1, 2.6.8), or after the device was reset and said so ([`Guarded`]) (I4). A device that names a
//! request that does not exist is asked nothing more.
//!
//! The network driver of virtio-drivers wants header and packet in one slice of the driver's own, which costs a copy.
//! So this driver uses only that crate's queues. A request has two descriptors: a header, which is bounced, and the
//! packet. The ring's event index is not negotiated: where the crate compares it, the index may not wrap.
//!
//! [`StreamPool`]: carveout::dma::StreamPool

use super::Traffic;
use alloc::boxed::Box;
use alloc::rc::Rc;
use carveout::addr::FRAME_SIZE;
use carveout::dma::{AllocError, Device, Direction, Dma, Master, PoolError, StreamBlock};
use carveout::machine::Cache;
use carveout_armv7a::mmu::Armv7a;
use carveout_smoltcp::{NetDevice, PACKET, Packets, RxPacket, RxQueue, TxPacket, TxQueue};
use carveout_virtio::{DeviceMemory, DmaHal, Guarded, MemoryError, Provider};
use core::array;
use core::cell::RefCell;
use core::fmt;
use spin::Once;
use virtio_drivers::Error;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceStatus, Transport};

/// Descriptors of each queue. A packet takes two.
const DESCRIPTORS: usize = 64;
/// The packets that each queue has room for.
const PACKETS: u32 = DESCRIPTORS as u32 / 2;
/// Bytes that the device keeps after it was stopped, for the headers of its requests.
pub const KEPT: u32 = FRAME_SIZE;
/// Bytes of the header before a packet (virtio 1.1, 5.1.6).
const HEADER: usize = 12;
/// The queues' numbers (virtio 1.1, 5.1.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// The features that this driver takes: the device has an address, and is no legacy device (virtio 1.1, 5.1.3 and 6).
const MAC: u64 = 1 << 5;
const VERSION_1: u64 = 1 << 32;

static MEMORY: Once<DeviceMemory<Armv7a>> = Once::new();

/// The one network device.
struct Own;

// SAFETY: `Nic::open` makes the memory once, for the one device there is, and drives that through `Guarded` (I4).
unsafe impl Provider for Own {
    type Machine = Armv7a;

    fn memory() -> &'static DeviceMemory<Armv7a> {
        MEMORY.get().expect("the network device was opened")
    }
}

fn memory() -> &'static DeviceMemory<Armv7a> {
    Own::memory()
}

type Wire = Guarded<Own, MmioTransport<'static>>;
type Ring = VirtQueue<DmaHal<Own>, DESCRIPTORS>;

/// Why there is no network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetError {
    /// The area has no room for the rings.
    NoRoom(AllocError),
    /// There is no room for the headers.
    NoMemory(MemoryError),
    /// There is no room for the packets.
    NoPackets(PoolError),
    /// The device is older than version 1 of virtio, or has no address.
    Legacy,
    /// The device or the crate's queue refused.
    Device(Error),
}

impl core::error::Error for NetError {}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(error) => error.fmt(f),
            Self::NoMemory(error) => error.fmt(f),
            Self::NoPackets(error) => error.fmt(f),
            Self::Legacy => f.write_str("the device is older than version 1 of virtio, or has no address"),
            Self::Device(error) => error.fmt(f),
        }
    }
}

/// A network device that receives and sends nothing yet.
pub struct Nic {
    wire: Wire,
    rx: Ring,
    tx: Ring,
    mac: [u8; 6],
}

/// A network device for smoltcp.
pub type VirtioNet = NetDevice<Armv7a, Rx, Tx>;

impl Nic {
    /// Opens the device behind a transport, which is `master` as a bus master. There is one such device, so this is
    /// called once.
    ///
    /// # Panics
    ///
    /// If it was called before.
    ///
    /// # Errors
    ///
    /// [`NetError::NoMemory`] and [`NetError::NoRoom`] if there is no room for headers and rings.
    /// [`NetError::Legacy`] and [`NetError::Device`] if the device is not one that this driver can use.
    pub fn open(
        transport: MmioTransport<'static>,
        master: Master,
        dma: &'static Dma<Armv7a>,
    ) -> Result<Self, NetError> {
        assert!(!MEMORY.is_completed(), "there is one network device");
        // A slot of the bounce buffer for the header of each request.
        MEMORY.try_call_once(|| DeviceMemory::new(dma, master, KEPT, PACKET)).map_err(NetError::NoMemory)?;
        let mut wire = Wire::new(transport);
        let rings = rings(&mut wire);
        let (rx, tx, mac) = rings.inspect_err(|_| wire.set_status(DeviceStatus::empty()))?;
        Ok(Self { wire, rx, tx, mac })
    }

    /// Returns the device's Ethernet address.
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Takes memory for packets, and begins to receive.
    ///
    /// # Errors
    ///
    /// [`NetError::NoPackets`] if there is no room for the packets.
    pub fn start(mut self) -> Result<VirtioNet, NetError> {
        let memory = memory();
        let packets = Packets::new(memory.dma(), memory.master(), PACKETS, PACKETS);
        let packets = packets.map_err(NetError::NoPackets).inspect_err(|_| {
            self.wire.set_status(DeviceStatus::empty());
        })?;
        self.wire.finish_init();
        let wire = Rc::new(RefCell::new(self.wire));
        let rx = Rx(Queue::new(Rc::clone(&wire), self.rx, RECEIVE));
        Ok(NetDevice::new(rx, Tx(Queue::new(wire, self.tx, TRANSMIT)), packets))
    }
}

/// Agrees on features with the device, and makes its queues.
fn rings(wire: &mut Wire) -> Result<(Ring, Ring, [u8; 6]), NetError> {
    // The steps of virtio 1.1, 3.1.1.
    let known = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    wire.set_status(DeviceStatus::empty());
    wire.set_status(known);
    let features = MAC | VERSION_1;
    if wire.read_device_features() & features != features {
        return Err(NetError::Legacy);
    }
    wire.write_driver_features(features);
    wire.set_status(known | DeviceStatus::FEATURES_OK);
    if !wire.get_status().contains(DeviceStatus::FEATURES_OK) {
        return Err(NetError::Legacy);
    }
    let mac = wire.read_config_space(0).map_err(NetError::Device)?;
    let ring = |wire: &mut Wire, number| {
        let refused = |error| memory().take_refusal().map_or(NetError::Device(error), NetError::NoRoom);
        Ring::new(wire, number, false, false).map_err(refused)
    };
    let rx = ring(wire, RECEIVE)?;
    match ring(wire, TRANSMIT) {
        Ok(tx) => Ok((rx, tx, mac)),
        Err(error) => {
            // The first ring is freed below, so the device must have forgotten it.
            wire.set_status(DeviceStatus::empty());
            Err(error)
        }
    }
}

/// Stops the device and takes all its memory back. A device that does not reset keeps it, and it goes into quarantine.
/// Returns what was received and what was sent.
pub fn stop(device: VirtioNet) -> (Traffic, Traffic) {
    let (Rx(rx), Tx(tx)) = device.into_queues();
    let traffic = (rx.traffic, tx.traffic);
    rx.wire.borrow_mut().set_status(DeviceStatus::empty());
    rx.end();
    tx.end();
    traffic
}

/// A packet that the device has, and how many bytes of it the device was told of.
type Given<D> = (StreamBlock<Armv7a, D, Device>, usize);

/// A queue, and the packets that the device has of it.
struct Queue<D: Direction> {
    wire: Rc<RefCell<Wire>>,
    ring: Ring,
    number: u16,
    /// By the number of their request's first descriptor.
    packets: [Option<Given<D>>; DESCRIPTORS],
    /// The header of all requests. The device has copies: it never sees this one.
    header: Box<[u8; HEADER]>,
    /// Whether the device named a request that does not exist.
    broken: bool,
    traffic: Traffic,
}

impl<D: Direction> Queue<D> {
    fn new(wire: Rc<RefCell<Wire>>, mut ring: Ring, number: u16) -> Self {
        // It is polled.
        ring.set_dev_notify(false);
        let packets = array::from_fn(|_| None);
        let (header, traffic) = (Box::new([0; HEADER]), Traffic::default());
        Self { wire, ring, number, packets, header, broken: false, traffic }
    }

    /// Keeps a packet while the device has it, and tells the device.
    fn keep(&mut self, token: u16, packet: StreamBlock<Armv7a, D, Device>, bytes: usize) {
        self.packets[usize::from(token)] = Some((packet, bytes));
        if self.ring.should_notify() {
            self.wire.borrow_mut().notify(self.number);
        }
    }

    /// Returns the next request that the device has finished with: its number, its packet, and how many bytes of that
    /// the device was told of.
    fn finished(&mut self) -> Option<(u16, StreamBlock<Armv7a, D, Device>, usize)> {
        if self.broken {
            return None;
        }
        let token = self.ring.peek_used()?;
        let packet = self.packets.get_mut(usize::from(token)).and_then(Option::take);
        if packet.is_none() {
            log::error!("virtio-net: the device ended request {token} of queue {}, which does not exist", self.number);
            self.broken = true;
        }
        let (packet, bytes) = packet?;
        Some((token, packet, bytes))
    }

    /// Takes the packets back, if the device was reset.
    fn end(self) {
        for (packet, _) in self.packets.into_iter().flatten() {
            if memory().is_stopped() {
                // SAFETY: the device was reset and said so: it forgot this packet (I4).
                drop(unsafe { packet.for_cpu() });
            }
        }
    }
}

/// The queue that receives.
pub struct Rx(Queue<carveout::dma::FromDevice>);

impl Rx {
    /// Returns what was received.
    pub const fn traffic(&self) -> Traffic {
        self.0.traffic
    }
}

// SAFETY: a packet comes out once the used ring named its request. The device wrote as many bytes as that ring says,
// the header among them (virtio 1.1, 2.6.8; I4).
unsafe impl RxQueue<Armv7a> for Rx {
    fn post(&mut self, packet: RxPacket<Armv7a>) {
        let Queue { ring, header, .. } = &mut self.0;
        // What the CPU read of the packet comes before the word that gives it away.
        memory().dma().machine().device_barrier();
        let mut target = memory().target_block(&packet, 0..PACKET).expect("one hand-over at a time");
        // SAFETY: the device is told of a copy of the header, and of the packet, which is its own. So nobody touches
        // the driver's bytes before the request ends (I4).
        let token = unsafe { ring.add(&[], &mut [&mut header[..], &mut target]) };
        drop(target);
        self.0.keep(token.expect("no more packets than the queue has room for"), packet, PACKET);
    }

    fn received(&mut self) -> Option<(RxPacket<Armv7a>, usize)> {
        loop {
            let (token, packet, told) = self.0.finished()?;
            let Queue { ring, header, .. } = &mut self.0;
            let mut target = memory().target_block(&packet, 0..told).expect("one hand-over at a time");
            // SAFETY: `keep` kept this packet and this length under the token, so these are the bytes of the request. The
            // device has finished with it: the used ring names the token (I4).
            let used = unsafe { ring.pop_used(token, &[], &mut [&mut header[..], &mut target]) };
            drop(target);
            memory().dma().machine().dma_rmb();
            match used.ok().and_then(|used| (used as usize).checked_sub(HEADER)) {
                Some(bytes) if (1..=PACKET).contains(&bytes) => {
                    self.0.traffic.count(bytes);
                    return Some((packet, bytes));
                }
                // Nothing that can be a frame.
                _ => self.post(packet),
            }
        }
    }
}

/// The queue that sends.
pub struct Tx(Queue<carveout::dma::ToDevice>);

impl Tx {
    /// Returns what was sent.
    pub const fn traffic(&self) -> Traffic {
        self.0.traffic
    }
}

// SAFETY: a packet comes out once the used ring named its request (I4).
unsafe impl TxQueue<Armv7a> for Tx {
    fn post(&mut self, packet: TxPacket<Armv7a>, bytes: usize) {
        let Queue { ring, header, .. } = &mut self.0;
        let source = memory().source_block(&packet, 0..bytes).expect("a frame that is inside of its packet");
        // SAFETY: the device is told of a copy of the header, and of the packet, which is its own. So nobody touches
        // the driver's bytes before the request ends (I4).
        let token = unsafe { ring.add(&[&header[..], &source], &mut []) };
        drop(source);
        self.0.traffic.count(bytes);
        self.0.keep(token.expect("no more packets than the queue has room for"), packet, bytes);
    }

    fn sent(&mut self) -> Option<TxPacket<Armv7a>> {
        let (token, packet, told) = self.0.finished()?;
        let Queue { ring, header, .. } = &mut self.0;
        let source = memory().source_block(&packet, 0..told).expect("one hand-over at a time");
        // SAFETY: `keep` kept this packet and this length under the token, so these are the bytes of the request. The
        // device has finished with it: the used ring names the token (I4).
        let used = unsafe { ring.pop_used(token, &[&header[..], &source], &mut []) };
        drop(source);
        used.ok().map(|_| packet)
    }
}
