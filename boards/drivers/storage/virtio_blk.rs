//! The disk: virtio-blk by virtio-drivers, whose every byte of memory is a buffer of the DMA API ([`carveout_virtio`]).
//!
//! Guarantees: data goes straight between the device and a [`Stream`] that the device owns, in state and in fact: no
//! mapping of it exists meanwhile (I4). Rings and request headers are coherent buffers. A buffer comes back only after
//! the device has finished with it.
//!
//! What "stopped" means (virtio 1.1):
//! - Of one request: the next entry of the used ring names the request's first descriptor (2.6.8). What else the device
//!   says, and an interrupt, is no proof.
//! - Of the device, after anything else: it was reset and said so ([`Guarded`]).
//!
//! A request that does not end in time resets the device, and the disk is of no use from then on. A device that does
//! not reset keeps the buffer and the rings: they go into quarantine.

use super::blocks::{Blocks, Moved, Sectors};
use super::{Backing, BlockDevice, BlockError, Writable};
use crate::drivers::mmio::Mmio;
use crate::drivers::wait::{Failed, until};
use alloc::boxed::Box;
use carveout::addr::FRAME_SIZE;
use carveout::dma::{AllocError, Bidirectional, Cpu, Device, Direction, Dma, FromDevice, Master, Stream, Yes};
use carveout_armv7a::mmu::Armv7a;
use carveout_virtio::{DeviceMemory, DmaHal, Guarded, HandError, Handed, HandedMut, MemoryError, Provider};
use core::fmt;
use core::ops::Range;
use spin::Once;
use virtio_drivers::Error;
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};

/// Bytes of the largest request.
const REQUEST: usize = 64 << 10;
/// Microseconds a request may take.
const PATIENCE: u64 = 10_000_000;

static MEMORY: Once<DeviceMemory<Armv7a>> = Once::new();

/// The one disk.
struct Own;

// SAFETY: `Disk::open` makes the memory once, for the one disk there is, and drives that through `Guarded` (I4).
unsafe impl Provider for Own {
    type Machine = Armv7a;

    fn memory() -> &'static DeviceMemory<Armv7a> {
        MEMORY.get().expect("the disk was opened")
    }
}

fn memory() -> &'static DeviceMemory<Armv7a> {
    Own::memory()
}

/// Why the disk is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    /// The area has no room for the rings.
    NoRoom(AllocError),
    /// There is no room for the request headers.
    NoMemory(MemoryError),
    /// A part of a buffer was not handed to the device.
    Hand(HandError),
    /// The device or its driver failed.
    Device(Error),
    /// A request did not end. The device was reset, and is of no use any more.
    Silent,
    /// A request did not end, and the device does not reset.
    Hung,
}

impl core::error::Error for DiskError {}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(error) => error.fmt(f),
            Self::NoMemory(error) => error.fmt(f),
            Self::Hand(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Silent => f.write_str("a request did not end"),
            Self::Hung => {
                f.write_str("a request did not end, and the device does not reset; switch the board off and on")
            }
        }
    }
}

/// Returns the transport behind these registers, `bytes` of them, if its device is of that kind. Else they are given
/// back.
pub fn transport(mut registers: Mmio<VirtIOHeader>, bytes: usize, kind: DeviceType) -> Option<MmioTransport<'static>> {
    // SAFETY: registers of a virtio transport, this driver's (contract of `Mmio::new`). A transport that is not dropped
    // here keeps them for good.
    let transport = unsafe { MmioTransport::new(registers.pointer(), bytes) }.ok()?;
    (transport.device_type() == kind).then(|| {
        registers.keep();
        transport
    })
}

/// A virtio block device.
pub struct Disk {
    /// There until a request does not end.
    device: Option<VirtIOBlk<DmaHal<Own>, Guarded<Own, MmioTransport<'static>>>>,
    bytes: u64,
    micros: fn() -> u64,
}

/// The data of a request.
enum Data<'s> {
    /// The disk reads into these.
    Read(HandedMut<'s>),
    /// The disk writes these.
    Write(Handed<'s>),
}

impl Disk {
    /// Opens the disk behind a transport. `master` is what it is as a bus master, `micros` the time. There is one such
    /// disk, so this is called once.
    ///
    /// # Panics
    ///
    /// If it was called before.
    ///
    /// # Errors
    ///
    /// [`DiskError::NoMemory`] and [`DiskError::NoRoom`] if there is no room for headers and rings.
    /// [`DiskError::Device`] if the device refuses.
    pub fn open(
        transport: MmioTransport<'static>,
        master: Master,
        dma: &'static Dma<Armv7a>,
        micros: fn() -> u64,
    ) -> Result<Self, DiskError> {
        assert!(!MEMORY.is_completed(), "there is one disk");
        MEMORY.try_call_once(|| DeviceMemory::new(dma, master, FRAME_SIZE, REQUEST)).map_err(DiskError::NoMemory)?;
        let device = VirtIOBlk::new(Guarded::new(transport))
            .map_err(|error| memory().take_refusal().map_or(DiskError::Device(error), DiskError::NoRoom))?;
        let bytes = device.capacity() * SECTOR_SIZE as u64;
        Ok(Self { device: Some(device), bytes, micros })
    }

    /// Gives a buffer back after its transfer. `take` is called only if the device has finished with it.
    fn give_back<D: Direction>(
        result: Result<(), DiskError>,
        buffer: Stream<Armv7a, D, Device>,
        take: impl FnOnce(Stream<Armv7a, D, Device>) -> Stream<Armv7a, D, Cpu>,
    ) -> Moved<DiskError, Armv7a, D> {
        match result {
            Ok(()) => Ok(take(buffer)),
            // Dropped as the device's: into quarantine.
            Err(DiskError::Hung) => Err(Failed { error: DiskError::Hung, given: None }),
            Err(error) => Err(Failed { error, given: Some(take(buffer)) }),
        }
    }

    /// Moves whole sectors, of which `part` gives some at a time. When it returns, the device has finished with them,
    /// but for [`DiskError::Hung`].
    fn transfer<'s>(
        &mut self,
        sector: u64,
        bytes: usize,
        part: impl Fn(Range<usize>) -> Result<Data<'s>, HandError>,
    ) -> Result<(), DiskError> {
        let bytes = bytes / SECTOR_SIZE * SECTOR_SIZE;
        if bytes == 0 {
            return Ok(());
        }
        // A sector is refused whose number virtio-drivers cannot say.
        let last = usize::try_from(sector.saturating_add((bytes / SECTOR_SIZE) as u64));
        last.map_err(|_| DiskError::Device(Error::InvalidParam))?;
        let sector = sector as usize;
        for offset in (0..bytes).step_by(REQUEST) {
            let data = part(offset..bytes.min(offset + REQUEST)).map_err(DiskError::Hand)?;
            self.request(sector + offset / SECTOR_SIZE, data)?;
        }
        Ok(())
    }

    /// One request, from its descriptors to its entry in the used ring.
    fn request(&mut self, sector: usize, mut data: Data<'_>) -> Result<(), DiskError> {
        // The device was reset: it knows of no request.
        let device = self.device.as_mut().ok_or(DiskError::Silent)?;
        let (mut header, mut status) = (BlkReq::default(), BlkResp::default());
        let added = match &mut data {
            // SAFETY: nobody touches these before the request is completed. If it is not, the device was told of none
            // of them, but of copies and of the stream (I4).
            Data::Read(to) => unsafe { device.read_blocks_nb(sector, &mut header, to, &mut status) },
            // SAFETY: as above.
            Data::Write(from) => unsafe { device.write_blocks_nb(sector, &mut header, from, &mut status) },
        };
        // Refused before the device was told.
        let token = added.map_err(DiskError::Device)?;
        if !until(self.micros, PATIENCE, || device.peek_used() == Some(token)) {
            // Its drop resets the device.
            self.device = None;
            return Err(if memory().is_stopped() { DiskError::Silent } else { DiskError::Hung });
        }
        let answer = match &mut data {
            // SAFETY: the same values as the request was made with.
            Data::Read(to) => unsafe { device.complete_read_blocks(token, &header, to, &mut status) },
            // SAFETY: as above.
            Data::Write(from) => unsafe { device.complete_write_blocks(token, &header, from, &mut status) },
        };
        // The request is out of the ring: what is wrong is its status.
        answer.map_err(DiskError::Device)
    }
}

impl Sectors<Armv7a> for Disk {
    type Error = DiskError;

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at<D: Direction>(
        &mut self,
        sector: u64,
        bytes: usize,
        buffer: Stream<Armv7a, D, Device>,
    ) -> Moved<DiskError, Armv7a, D> {
        let part = |range| memory().target(&buffer, range).map(Data::Read);
        let result = self.transfer(sector, bytes.min(buffer.len()), part);
        // SAFETY: called only if the device finished with the buffer (I4).
        Self::give_back(result, buffer, |buffer| unsafe { buffer.for_cpu() })
    }

    fn write_at<D: Direction<CpuWrites = Yes>>(
        &mut self,
        sector: u64,
        bytes: usize,
        buffer: Stream<Armv7a, D, Device>,
    ) -> Moved<DiskError, Armv7a, D> {
        let part = |range| memory().source(&buffer, range).map(Data::Write);
        let result = self.transfer(sector, bytes.min(buffer.len()), part);
        // SAFETY: called only if the device finished with the buffer (I4). It read it and wrote nothing.
        Self::give_back(result, buffer, |buffer| unsafe { buffer.for_cpu_part(0..0) })
    }
}

impl BlockDevice<Armv7a> for Disk {
    fn name(&self) -> &'static str {
        "virtio-blk"
    }

    fn master(&self) -> &Master {
        memory().master()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(
        &mut self,
        buffer: Stream<Armv7a, FromDevice, Device>,
    ) -> Result<Stream<Armv7a, FromDevice, Cpu>, BlockError> {
        self.read_at(0, buffer.len(), buffer).map_err(|failed| Box::new(failed.error).into())
    }

    fn as_writable(&mut self) -> Option<&mut dyn Writable> {
        Some(self)
    }
}

impl Writable for Disk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn blocks(&mut self) -> Result<Box<dyn Backing<Error = BlockError> + '_>, BlockError> {
        let memory = memory();
        let buffer = memory.dma().alloc(memory.master(), REQUEST as u32, 1).map_err(DiskError::NoRoom)?;
        Ok(Box::new(Blocks::new(self, buffer.into_stream::<Bidirectional>())))
    }
}
