//! A virtio device (virtio 1.1, split rings) behind a [`Transport`], whose every access to memory is the fake's.

use carveout::addr::{BusAddr, PhysAddr};
use carveout::dma::{Dma, Master};
use carveout::fake::Fake;
use carveout::setup::Setup;
use carveout_virtio::{DeviceMemory, MemoryError};
use std::cell::RefCell;
use std::rc::Rc;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of the disk.
pub(crate) const DISK: usize = 1 << 20;

/// What the device is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A disk.
    Disk,
    /// A source of entropy that gives at most so many bytes a request, each of them 0x5a.
    Entropy(usize),
    /// A network device. It takes packets, and none comes.
    Network,
}

/// One queue, as the driver set it.
#[derive(Clone, Copy, Default)]
struct Queue {
    size: u32,
    descriptors: u64,
    driver: u64,
    device: u64,
    next: u16,
}

pub(crate) struct Device {
    fake: &'static Fake,
    master: Master,
    kind: Kind,
    status: DeviceStatus,
    queues: [Queue; 2],
    /// The queue that the device lacks.
    pub(crate) lacks: Option<u16>,
    /// What is on the disk.
    pub(crate) disk: Vec<u8>,
    /// Whether it does what it is notified of.
    pub(crate) works: bool,
    /// Whether a reset resets it.
    pub(crate) resets: bool,
    /// How many times a queue was taken out of use.
    pub(crate) unset: u32,
    /// How many of the descriptors were indirect.
    pub(crate) indirect: u32,
    /// The addresses of the data of the last request.
    pub(crate) data_at: Vec<u64>,
}

/// A descriptor of a request.
#[derive(Clone, Copy)]
struct Part {
    at: u64,
    len: usize,
    written: bool,
}

impl Device {
    pub(crate) fn new(fake: &'static Fake, master: Master, kind: Kind) -> Rc<RefCell<Self>> {
        let disk = (0..DISK).map(|n| (n / 512 * 7 + n % 251) as u8).collect();
        let (status, queues) = (DeviceStatus::empty(), [Queue::default(); 2]);
        Rc::new(RefCell::new(Self {
            fake,
            master,
            kind,
            status,
            queues,
            lacks: None,
            disk,
            works: true,
            resets: true,
            unset: 0,
            indirect: 0,
            data_at: Vec::new(),
        }))
    }

    fn phys(&self, at: u64) -> PhysAddr {
        let bus = BusAddr::new(u32::try_from(at).expect("an address of 32 bits"));
        self.master.phys(bus).expect("an address that the device reaches")
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        self.fake.device_read(self.phys(at), len)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.fake.device_write(self.phys(at), bytes);
    }

    fn read_u16(&self, at: u64) -> u16 {
        u16::read_from_bytes(&self.read(at, 2)).unwrap()
    }

    /// The chain of descriptors that begins at `head`.
    fn chain(&mut self, queue: Queue, head: u16) -> Vec<Part> {
        let (mut parts, mut next) = (Vec::new(), Some(head));
        while let Some(n) = next {
            let descriptor = self.read(queue.descriptors + 16 * u64::from(n), 16);
            let (at, rest) = u64::read_from_prefix(&descriptor).unwrap();
            let (len, rest) = u32::read_from_prefix(rest).unwrap();
            let (flags, rest) = u16::read_from_prefix(rest).unwrap();
            let follows = u16::read_from_prefix(rest).unwrap().0;
            self.indirect += u32::from(flags & 4 != 0);
            parts.push(Part { at, len: len as usize, written: flags & 2 != 0 });
            next = (flags & 1 != 0).then_some(follows);
        }
        parts
    }

    /// Does what one request asks for. Returns the bytes written.
    fn serve(&mut self, parts: &[Part]) -> usize {
        match self.kind {
            Kind::Network => 0,
            Kind::Entropy(most) => {
                let part = parts[0];
                assert!(part.written && parts.len() == 1);
                let len = part.len.min(most);
                self.write(part.at, &vec![0x5a; len]);
                len
            }
            Kind::Disk => {
                let (header, rest) = parts.split_first().unwrap();
                let (status, data) = rest.split_last().unwrap();
                assert!(!header.written && status.written && status.len == 1);
                let bytes = self.read(header.at, header.len);
                let (kind, sector) = (bytes[0], u64::read_from_bytes(&bytes[8..16]).unwrap() as usize);
                let (mut place, mut written) = (sector * 512, 1);
                self.data_at = data.iter().map(|part| part.at).collect();
                let mut answer = 0;
                for part in data {
                    match (kind, part.written) {
                        (0, true) => {
                            let bytes = self.disk[place..place + part.len].to_vec();
                            self.write(part.at, &bytes);
                            written += part.len;
                        }
                        (1, false) => {
                            let bytes = self.read(part.at, part.len);
                            self.disk[place..place + part.len].copy_from_slice(&bytes);
                        }
                        (8, true) => self.write(part.at, b"a disk\0"),
                        // Unsupported.
                        _ => answer = 2,
                    }
                    place += part.len;
                }
                self.write(status.at, &[answer]);
                written
            }
        }
    }

    fn notified(&mut self, number: usize) {
        let queue = self.queues[number];
        let (mut next, offered) = (queue.next, self.read_u16(queue.driver + 2));
        while self.works && next != offered {
            let slot = u64::from(next) % u64::from(queue.size);
            let head = self.read_u16(queue.driver + 4 + 2 * slot);
            let parts = self.chain(queue, head);
            let written = self.serve(&parts) as u32;
            let mut entry = u32::from(head).to_le_bytes().to_vec();
            entry.extend(written.to_le_bytes());
            self.write(queue.device + 4 + 8 * slot, &entry);
            next = next.wrapping_add(1);
            self.write(queue.device + 2, &next.to_le_bytes());
        }
        self.queues[number].next = next;
    }
}

/// The transport of a device that the test looks into.
pub(crate) struct Wire(pub(crate) Rc<RefCell<Device>>);

impl Transport for Wire {
    fn device_type(&self) -> DeviceType {
        match self.0.borrow().kind {
            Kind::Disk => DeviceType::Block,
            Kind::Entropy(_) => DeviceType::EntropySource,
            Kind::Network => DeviceType::Network,
        }
    }

    fn read_device_features(&mut self) -> u64 {
        // Indirect descriptors, version 1.
        1 << 28 | 1 << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        assert_eq!(features & 1 << 28, 0, "indirect descriptors were negotiated");
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        if self.0.borrow().lacks == Some(queue) { 0 } else { 64 }
    }

    fn notify(&mut self, queue: u16) {
        self.0.borrow_mut().notified(queue.into());
    }

    fn get_status(&self) -> DeviceStatus {
        self.0.borrow().status
    }

    fn set_status(&mut self, status: DeviceStatus) {
        let mut device = self.0.borrow_mut();
        if !status.is_empty() {
            device.status = status;
        } else if device.resets {
            device.status = status;
            device.queues = Default::default();
        }
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: u64, driver: u64, device: u64) {
        self.0.borrow_mut().queues[usize::from(queue)] = Queue { size, descriptors, driver, device, next: 0 };
    }

    fn queue_unset(&mut self, queue: u16) {
        let mut device = self.0.borrow_mut();
        device.unset += 1;
        device.queues[usize::from(queue)] = Queue::default();
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.borrow().queues[usize::from(queue)].size != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<V: FromBytes + IntoBytes>(&self, offset: usize) -> Result<V> {
        let sectors = (DISK as u64 / 512).to_le_bytes();
        let bytes = [sectors, [0; 8]].concat();
        V::read_from_prefix(&bytes[offset..]).map(|(value, _)| value).map_err(|_| Error::ConfigSpaceTooSmall)
    }

    fn write_config_space<V: IntoBytes + Immutable>(&mut self, _: usize, _: V) -> Result<()> {
        Err(Error::Unsupported)
    }
}

/// A machine, a device, and the device's memory, which is given back with [`Bench::end`].
pub(crate) struct Bench {
    pub(crate) setup: Setup,
    pub(crate) dma: &'static Dma<Fake>,
    pub(crate) device: Rc<RefCell<Device>>,
    pub(crate) memory: &'static DeviceMemory<Fake>,
}

thread_local! {
    static MEMORY: RefCell<Option<&'static DeviceMemory<Fake>>> = const { RefCell::new(None) };
}

/// The memory of this thread's test.
pub(crate) struct Own;

// SAFETY: a thread has one test at a time, whose one device uses it through `Guarded<Own, _>`, unless the test says
// what comes of it otherwise (I4).
unsafe impl carveout_virtio::Provider for Own {
    type Machine = Fake;

    fn memory() -> &'static DeviceMemory<Fake> {
        MEMORY.with_borrow(|memory| memory.expect("the test made it"))
    }
}

impl Bench {
    /// A device on a bus that `bus` describes, with a bounce buffer and a stand-in of so many bytes.
    pub(crate) fn new(
        kind: Kind,
        bus: impl FnOnce(Master) -> Master,
        bounce: u32,
        stand_in: usize,
    ) -> std::result::Result<Self, MemoryError> {
        let setup = Setup::new(17);
        let master = bus(setup.master("virtio"));
        let memory = DeviceMemory::new(setup.dma, master.clone(), bounce, stand_in)?;
        let memory: &'static _ = Box::leak(Box::new(memory));
        MEMORY.set(Some(memory));
        let device = Device::new(setup.fake, master, kind);
        Ok(Self { dma: setup.dma, device, setup, memory })
    }

    /// Further memory, which is that of [`Own`] until it is dropped.
    pub(crate) fn another(&self) -> Another {
        let memory = DeviceMemory::new(self.dma, self.setup.master("virtio"), 4096, 0).unwrap();
        let memory = Box::into_raw(Box::new(memory));
        // SAFETY: it lives until `Another` is dropped, which is after the drivers over it.
        MEMORY.set(Some(unsafe { &*memory }));
        Another(memory)
    }

    pub(crate) fn wire(&self) -> Wire {
        Wire(self.device.clone())
    }

    /// Bytes that are neither free nor in quarantine, and those in quarantine.
    pub(crate) fn out(&self) -> (u64, u64) {
        let lost = self.dma.stats().quarantined;
        (u64::from(carveout::setup::CARVED_BYTES) - self.setup.free_bytes() - lost, lost)
    }

    pub(crate) fn audit(&self) {
        self.setup.audit().expect("the tables are as the ledger says (I1, I2)");
    }
}

pub(crate) struct Another(*mut DeviceMemory<Fake>);

impl Drop for Another {
    fn drop(&mut self) {
        MEMORY.set(None);
        // SAFETY: it was a box, and nothing names it any more.
        drop(unsafe { Box::from_raw(self.0) });
    }
}
