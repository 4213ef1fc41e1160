//! A driver of virtio-blk (OASIS virtio 1.1, 2.6 and 5.2), one request at a time. The planted bugs need it, because the
//! kernel's own driver, over virtio-drivers, cannot forget a barrier.
//!
//! Guarantees: all memory that the device accesses besides the data is one coherent page. [`Disk::prepare`] ends in the
//! barrier that must come before the device is told. [`Disk::go`] tells the device. [`Disk::wait`] returns when the
//! data is in memory.

use crate::careless::Careless;
use carveout::addr::BusAddr;
use carveout::dma::Coherent;
use carveout_boards::kernel::state::Kernel;
use carveout_boards::kernel::{devices, known};
use on_target::{Verdict, ensure, ensure_eq};
use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};

/// Bytes of a sector.
pub(crate) const SECTOR: u32 = 512;

/// Entries of the queue. A request takes three.
const ENTRIES: u16 = 4;
// The layout of the page.
const DESCRIPTORS: u32 = 0;
const AVAILABLE: u32 = 0x100;
const USED: u32 = 0x200;
const HEADER: u32 = 0x300;
const STATUS: u32 = 0x400;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const VERSION_1: u64 = 1 << 32;
/// The number of polls after which the device is given up. A poll takes a dozen instructions.
const PATIENCE: u32 = 1 << 24;

/// The direction of the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transfer {
    /// From the disk to memory: `VIRTIO_BLK_T_IN`.
    In = 0,
    /// From memory to the disk: `VIRTIO_BLK_T_OUT`.
    Out = 1,
}

/// The device and its queue.
pub(crate) struct Disk {
    transport: MmioTransport<'static>,
    page: Coherent<Careless>,
    requests: u16,
}

impl Disk {
    /// Resets the first block device and gives it `page` for a queue.
    pub(crate) fn open(kernel: &'static Kernel, mut page: Coherent<Careless>) -> Result<Self, &'static str> {
        let mut found = None;
        devices::find_all(&kernel.info, "virtio,mmio", |device| {
            found = found.take().or_else(|| known::virtio_transport(kernel, &device, DeviceType::Block));
        });
        let mut transport = found.ok_or("there is no virtio block device")?;
        transport.set_status(DeviceStatus::empty());
        let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        transport.set_status(status);
        transport.write_driver_features(VERSION_1);
        status |= DeviceStatus::FEATURES_OK;
        transport.set_status(status);
        // The device reports used buffers by an interrupt, which this core has masked.
        page.write_word(AVAILABLE as usize, 0u16);
        page.device_barrier();
        let at = |offset: u32| u64::from(page.bus().raw() + offset);
        transport.queue_set(0, ENTRIES.into(), at(DESCRIPTORS), at(AVAILABLE), at(USED));
        transport.set_status(status | DeviceStatus::DRIVER_OK);
        Ok(Self { transport, page, requests: 0 })
    }

    /// Writes a request for the sectors from the first on, and makes sure that the device will see it.
    pub(crate) fn prepare(&mut self, transfer: Transfer, at: BusAddr, bytes: u32) {
        let device_writes = if transfer == Transfer::In { WRITE } else { 0 };
        let page = self.page.bus().raw();
        let chain =
            [(page + HEADER, 16, NEXT, 1), (at.raw(), bytes, NEXT | device_writes, 2), (page + STATUS, 1, WRITE, 0u16)];
        for (n, (address, length, flags, next)) in (0..).zip(chain) {
            let words = [address, 0, length, u32::from(flags) | u32::from(next) << 16];
            self.put(DESCRIPTORS + 16 * n, words);
        }
        self.put(HEADER, [transfer as u32, 0, 0, 0]);
        self.page.write_word(STATUS as usize, 0xffu8);
        let slot = u32::from(self.requests % ENTRIES);
        self.page.write_word((AVAILABLE + 4 + 2 * slot) as usize, 0u16);
        self.requests = self.requests.wrapping_add(1);
        // The index makes the earlier writes valid.
        self.page.dma_wmb();
        self.page.write_word((AVAILABLE + 2) as usize, self.requests.to_le());
        self.page.device_barrier();
    }

    /// Tells the device.
    pub(crate) fn go(&mut self) {
        self.transport.notify(0);
    }

    /// Waits until the request is done.
    pub(crate) fn wait(&mut self) -> Verdict {
        // This polls the register and not memory, because polling memory would keep the caches' adversary busy with one
        // line.
        let done = (0..PATIENCE).any(|_| self.transport.ack_interrupt().contains(InterruptStatus::QUEUE_INTERRUPT));
        ensure!(done, "the disk does not answer");
        self.page.dma_rmb();
        let used = u16::from_le(self.page.read_word((USED + 2) as usize));
        let status: u8 = self.page.read_word(STATUS as usize);
        ensure_eq!((used, status), (self.requests, 0), "requests done, and the last one's status");
        Ok(())
    }

    /// Resets the device and frees the page. The page of a device that does not reset goes into quarantine.
    pub(crate) fn close(mut self) {
        self.transport.set_status(DeviceStatus::empty());
        if self.transport.get_status().is_empty() {
            // SAFETY: the device reports that it was reset, so it forgot its queues (virtio 1.1, 2.1.2) (I4).
            drop(unsafe { self.page.release() });
        }
    }

    /// Does all three steps.
    pub(crate) fn transfer(&mut self, transfer: Transfer, at: BusAddr, bytes: u32) -> Verdict {
        self.prepare(transfer, at, bytes);
        self.go();
        self.wait()
    }

    fn put(&mut self, at: u32, words: [u32; 4]) {
        for (n, word) in (0..).zip(words) {
            self.page.write_word((at + 4 * n) as usize, word.to_le());
        }
    }
}
