//! A virtio block device on the MMIO transport, version 2 (OASIS virtio 1.1, 4.2 and 5.2): a bus master that is nobody's
//! mock.
//!
//! Guarantees: it reads and writes DRAM and nothing else, in pieces, each a random while after the one before; a
//! request is used only after its last byte is in memory. It only reads sectors: a disk for a guest that needs a file.

use crate::cache::{Caches, Random};
use crate::report::Rule;

const MAGIC: u32 = 0x7472_6976;
const SECTOR: usize = 512;
/// Bytes moved at once.
const PIECE: usize = 256;
/// Entries in the queue, at most.
const QUEUE_MAX: u32 = 64;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;

/// A request under way.
struct Request {
    head: u16,
    /// What is still to be written, and where.
    pieces: Vec<(u32, Vec<u8>)>,
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
    /// When it moves next, in instructions; never if that is the largest number.
    pub due: u64,
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
            due: u64::MAX,
        }
    }

    /// A load from a register.
    pub fn read(&self, offset: u32) -> u32 {
        match offset {
            0x000 => MAGIC,
            0x004 | 0x008 => 2,
            // The one feature: VIRTIO_F_VERSION_1, bit 32.
            0x010 => u32::from(self.feature_select == 1),
            0x034 => QUEUE_MAX,
            0x044 => u32::from(self.ready),
            0x060 => self.interrupt,
            0x070 => self.status,
            0x100 => (self.content.len() / SECTOR) as u32,
            _ => 0,
        }
    }

    /// A store to a register.
    pub fn write(&mut self, offset: u32, value: u32, now: u64) {
        match offset {
            0x014 => self.feature_select = value,
            0x038 => self.size = value,
            0x044 => self.ready = value & 1 != 0,
            0x050 if self.ready && self.due == u64::MAX => self.wait(now),
            0x064 => self.interrupt &= !value,
            0x070 => {
                self.status = value;
                if value == 0 {
                    (self.ready, self.request, self.due) = (false, None, u64::MAX);
                    (self.next_available, self.next_used) = (0, 0);
                }
            }
            0x080 => self.descriptors = value,
            0x090 => self.available = value,
            0x0a0 => self.used = value,
            _ => {}
        }
    }

    fn wait(&mut self, now: u64) {
        self.due = now + 1 + u64::from(self.random.below(1000));
    }

    /// The device's next move, which is due.
    pub fn step(&mut self, caches: &mut Caches, now: u64) -> Result<(), (Rule, u32)> {
        let Some(mut request) = self.request.take() else {
            let index = caches.device_read(self.available + 2, 2)? as u16;
            if index == self.next_available || self.size == 0 {
                self.due = u64::MAX;
                return Ok(());
            }
            self.request = Some(self.take_request(caches)?);
            self.wait(now);
            return Ok(());
        };
        self.wait(now);
        if let Some((at, bytes)) = request.pieces.pop() {
            caches.device_write(at, &bytes)?;
            request.written += bytes.len() as u32;
            self.request = Some(request);
            return Ok(());
        }
        caches.device_write(request.status_at, &[request.status])?;
        let entry = self.used + 4 + 8 * (u32::from(self.next_used) % self.size);
        caches.device_write(entry, &u32::from(request.head).to_le_bytes())?;
        caches.device_write(entry + 4, &(request.written + 1).to_le_bytes())?;
        self.next_used = self.next_used.wrapping_add(1);
        caches.device_write(self.used + 2, &self.next_used.to_le_bytes())?;
        self.interrupt |= 1;
        Ok(())
    }

    fn take_request(&mut self, caches: &mut Caches) -> Result<Request, (Rule, u32)> {
        let slot = u32::from(self.next_available) % self.size;
        self.next_available = self.next_available.wrapping_add(1);
        let head = caches.device_read(self.available + 4 + 2 * slot, 2)? as u16;
        let mut chain = Vec::new();
        let mut next = head;
        loop {
            let at = self.descriptors + 16 * (u32::from(next) % self.size);
            let (address, length) = (caches.device_read(at, 4)?, caches.device_read(at + 8, 4)?);
            let (flags, following) = (caches.device_read(at + 12, 2)? as u16, caches.device_read(at + 14, 2)? as u16);
            chain.push((address, length, flags & WRITE != 0));
            if flags & NEXT == 0 || chain.len() as u32 >= self.size {
                break;
            }
            next = following;
        }
        let (header, _, _) = chain[0];
        let (kind, sector) = (caches.device_read(header, 4)?, caches.device_read(header + 8, 4)?);
        let (status_at, _, _) = chain[chain.len() - 1];
        let mut request = Request { head, pieces: Vec::new(), status_at, status: STATUS_OK, written: 0 };
        if kind != 0 {
            request.status = STATUS_UNSUPPORTED;
            return Ok(request);
        }
        let mut from = sector as usize * SECTOR;
        for &(address, length, written) in &chain[1..chain.len() - 1] {
            if !written {
                continue;
            }
            let mut offset = 0;
            while offset < length as usize {
                let bytes = PIECE.min(length as usize - offset);
                let piece = self.content.get(from..from + bytes).map_or_else(|| vec![0; bytes], <[u8]>::to_vec);
                request.pieces.push((address + offset as u32, piece));
                (offset, from) = (offset + bytes, from + bytes);
            }
        }
        // Taken from the end.
        request.pieces.reverse();
        Ok(request)
    }
}
