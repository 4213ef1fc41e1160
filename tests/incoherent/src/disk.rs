//! A virtio block device on the MMIO transport, version 2 (OASIS virtio 1.1, 4.2 and 5.2): a bus master that is
//! nobody's mock.
//!
//! Guarantees: it reads and writes DRAM and nothing else, in pieces, each a random while after the one before; a
//! request is used only after its last byte is in memory. Sectors are read and written; what is written lasts for the
//! run.

use crate::cache::{Caches, Master, Random};
use crate::devices::{Bus, Device, NEVER};
use crate::report::Rule;

const MAGIC: u32 = 0x7472_6976;
const SECTOR: usize = 512;
/// Bytes moved at once.
const PIECE: usize = 256;
/// Instructions between two looks at the queue, at most.
const LOOKS: u32 = 1000;
const DRIVER_OK: u32 = 4;
/// Entries in the queue, at most.
const QUEUE_MAX: u32 = 64;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// `VIRTIO_BLK_T_OUT`; 0 is the other way.
const TO_DISK: u32 = 1;
const STATUS_OK: u8 = 0;
const STATUS_IO_ERROR: u8 = 1;
const STATUS_UNSUPPORTED: u8 = 2;

/// A request under way.
struct Request {
    head: u16,
    /// What is still to be moved: an address, bytes, their place on the disk.
    pieces: Vec<(u32, usize, usize)>,
    /// From memory to the disk.
    to_disk: bool,
    status_at: u32,
    status: u8,
    written: u32,
}

/// The device.
pub struct Disk {
    content: Vec<u8>,
    random: Random,
    feature_select: u32,
    status: u32,
    interrupt: u32,
    ready: bool,
    size: u32,
    descriptors: u32,
    available: u32,
    used: u32,
    next_available: u16,
    next_used: u16,
    request: Option<Request>,
    /// Whether the CPU said that there is something, and the device did not look since.
    told: bool,
    due: u64,
}

impl Disk {
    /// A disk that holds `content`, rounded up to whole sectors.
    pub fn new(mut content: Vec<u8>, seed: u64) -> Self {
        content.resize(content.len().next_multiple_of(SECTOR), 0);
        Self {
            content,
            random: Random::new(!seed),
            feature_select: 0,
            status: 0,
            interrupt: 0,
            ready: false,
            size: 0,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
            request: None,
            told: false,
            due: NEVER,
        }
    }

    const fn runs(&self) -> bool {
        self.ready && self.status & DRIVER_OK != 0
    }

    /// At once, or after a while.
    fn wait(&mut self, now: u64) {
        let while_ = if self.random.below(2) == 0 { 1 } else { 1000 };
        self.due = now + 1 + u64::from(self.random.below(while_));
    }

    fn take_request(&mut self, caches: &mut Caches) -> Result<Request, (Rule, u32)> {
        let slot = u32::from(self.next_available) % self.size;
        self.next_available = self.next_available.wrapping_add(1);
        let head = caches.device_read(self.available + 4 + 2 * slot, 2, true)? as u16;
        let mut chain = Vec::new();
        let mut next = head;
        loop {
            let at = self.descriptors + 16 * (u32::from(next) % self.size);
            let (address, length) = (caches.device_read(at, 4, true)?, caches.device_read(at + 8, 4, true)?);
            let flags = caches.device_read(at + 12, 2, true)? as u16;
            let following = caches.device_read(at + 14, 2, true)? as u16;
            chain.push((address, length, flags & WRITE != 0));
            if flags & NEXT == 0 || chain.len() as u32 >= self.size {
                break;
            }
            next = following;
        }
        let (header, _, _) = chain[0];
        let (kind, sector) = (caches.device_read(header, 4, true)?, caches.device_read(header + 8, 4, true)?);
        let (status_at, _, _) = chain[chain.len() - 1];
        let to_disk = kind == TO_DISK;
        let mut request = Request { head, pieces: Vec::new(), to_disk, status_at, status: STATUS_OK, written: 0 };
        if kind > TO_DISK {
            request.status = STATUS_UNSUPPORTED;
            return Ok(request);
        }
        let mut place = sector as usize * SECTOR;
        for &(address, length, written) in &chain[1..chain.len() - 1] {
            if written == to_disk || self.content.len() < place + length as usize {
                request.status = STATUS_IO_ERROR;
                return Ok(request);
            }
            for offset in (0..length as usize).step_by(PIECE) {
                let bytes = PIECE.min(length as usize - offset);
                request.pieces.push((address + offset as u32, bytes, place + offset));
            }
            place += length as usize;
        }
        // Taken from the end.
        request.pieces.reverse();
        Ok(request)
    }
}

impl Device for Disk {
    fn read(&mut self, offset: u32, bus: &mut Bus<'_>) -> u32 {
        match offset {
            0x000 => MAGIC,
            0x004 | 0x008 => 2,
            // The one feature: VIRTIO_F_VERSION_1, bit 32.
            0x010 => u32::from(self.feature_select == 1),
            0x034 => QUEUE_MAX,
            0x044 => u32::from(self.ready),
            0x060 => {
                if self.interrupt != 0 {
                    bus.caches.know(Master::Disk);
                }
                self.interrupt
            }
            0x070 => self.status,
            0x100 => (self.content.len() / SECTOR) as u32,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u32, value: u32, bus: &mut Bus<'_>) {
        match offset {
            0x014 => self.feature_select = value,
            0x038 => self.size = value,
            0x044 => self.ready = value & 1 != 0,
            // It looks at once, before the CPU can write down the next request.
            0x050 if self.runs() && self.request.is_none() => (self.told, self.due) = (true, bus.now + 1),
            0x064 => self.interrupt &= !value,
            0x070 => {
                self.status = value;
                if self.runs() {
                    self.wait(bus.now);
                }
                if value == 0 {
                    (self.ready, self.request, self.told, self.due) = (false, None, false, NEVER);
                    (self.next_available, self.next_used) = (0, 0);
                    bus.caches.poll(Master::Disk, None);
                }
            }
            0x080 => self.descriptors = value,
            0x090 => self.available = value,
            0x0a0 => self.used = value,
            _ => {}
        }
    }

    fn due(&self) -> u64 {
        self.due
    }

    fn look(&mut self, bus: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        if self.runs() && self.request.is_none() { self.step(bus) } else { Ok(()) }
    }

    fn step(&mut self, bus: &mut Bus<'_>) -> Result<(), (Rule, u32)> {
        let (caches, now) = (&mut *bus.caches, bus.now);
        let Some(mut request) = self.request.take() else {
            caches.poll(Master::Disk, Some(self.available + 2));
            let index = caches.device_read(self.available + 2, 2, core::mem::take(&mut self.told))? as u16;
            if index == self.next_available || self.size == 0 {
                // It need not be told: it looks now and then.
                self.due = now + 1 + u64::from(self.random.below(LOOKS));
                return Ok(());
            }
            self.request = Some(self.take_request(caches)?);
            self.wait(now);
            return Ok(());
        };
        self.wait(now);
        if let Some((at, bytes, place)) = request.pieces.pop() {
            let content = &mut self.content[place..place + bytes];
            if request.to_disk {
                for (n, byte) in content.iter_mut().enumerate() {
                    *byte = caches.device_read(at + n as u32, 1, true)? as u8;
                }
            } else {
                caches.device_write(Master::Disk, at, content)?;
                request.written += bytes as u32;
            }
            self.request = Some(request);
            return Ok(());
        }
        caches.device_write(Master::Disk, request.status_at, &[request.status])?;
        let entry = self.used + 4 + 8 * (u32::from(self.next_used) % self.size);
        caches.device_write(Master::Disk, entry, &u32::from(request.head).to_le_bytes())?;
        caches.device_write(Master::Disk, entry + 4, &(request.written + 1).to_le_bytes())?;
        self.next_used = self.next_used.wrapping_add(1);
        caches.device_write(Master::Disk, self.used + 2, &self.next_used.to_le_bytes())?;
        self.interrupt |= 1;
        Ok(())
    }
}
