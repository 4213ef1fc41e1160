//! The disk: virtio-blk, whose every byte of memory is a buffer of the DMA API.
//!
//! Guarantees: data goes straight between the device and a [`Stream`] that the device owns, in state and in fact: no
//! mapping of it exists meanwhile (I4). Rings and request headers are coherent buffers. A buffer comes back only after
//! the device has finished with it.
//!
//! What "stopped" means (virtio 1.1):
//! - Of one request: the next entry of the used ring names the request's first descriptor (2.6.8). What else the device
//!   says, and an interrupt, is no proof.
//! - Of the device, after anything else: the driver writes 0 to the status register and reads 0 back; a device that was
//!   reset has forgotten its queues and the requests in them (2.1, 4.2.2).
//!
//! A request that does not end in time resets the device, and the disk is of no use from then on. A device that does
//! not reset keeps the buffer and the rings: they go into quarantine.
//!
//! `virtio-drivers` names memory by slices. A slice of a buffer that is unmapped may not exist, so it is handed a
//! slice of a stand-in, which it does not touch, and [`Hal::share`] answers with the buffer's bus address instead.

use super::{BLOCK, Backing, BlockDevice, BlockError, Writable, on_disk};
use crate::drivers::mmio::Mmio;
use crate::drivers::wait::{Failed, until};
use alloc::boxed::Box;
use alloc::vec::Vec;
use carveout::addr::{BusAddr, FRAME_SIZE};
use carveout::dma::{
    AllocError, Bidirectional, Coherent, Cpu, Device, Direction, Dma, FromDevice, Master, Stream, Yes,
};
use carveout::machine::Cache;
use carveout_armv7a::mmu::Armv7a;
use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::{Mutex, Once};
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of the largest request.
const REQUEST: usize = 64 << 10;
/// Microseconds a request may take.
const PATIENCE: u64 = 10_000_000;
/// Microseconds a reset may take.
const RESET: u64 = 500_000;

/// What the driver's slices are of while the device works on a buffer.
#[repr(align(4096))]
struct StandIn(UnsafeCell<[u8; REQUEST]>);

// SAFETY: only `Disk::transfer` makes a slice of it, one at a time: there is one `Disk`, and that borrows it mutably.
unsafe impl Sync for StandIn {}

static STAND_IN: StandIn = StandIn(UnsafeCell::new([0; REQUEST]));

/// Where the request under way goes.
static TARGET: Mutex<Option<BusAddr>> = Mutex::new(None);

/// Memory of the driver's own.
struct Memory {
    machine: &'static Armv7a,
    dma: &'static Dma<Armv7a>,
    micros: fn() -> u64,
    master: Master,
    rings: Mutex<Vec<Coherent<Armv7a>>>,
    /// The device was reset after it had been told of the rings, and said so.
    stopped: AtomicBool,
    bounce: Mutex<Bounce>,
    /// Why the area gave nothing. The driver passes on no more than that there is no memory.
    refused: Mutex<Option<AllocError>>,
}

static MEMORY: Once<Memory> = Once::new();

/// Bytes of a bounce slot: a request header is 16, a status 1.
const SLOT: usize = 64;

/// Request headers live on the stack, in cacheable memory of odd size: they go through slots of a coherent page.
struct Bounce {
    page: Coherent<Armv7a>,
    used: u64,
}

fn memory() -> &'static Memory {
    MEMORY.get().expect("the disk was opened")
}

/// The hardware abstraction that virtio-drivers asks for.
struct DmaHal;

// SAFETY: `dma_alloc` gives whole zeroed pages of a coherent buffer that nothing else names until `dma_dealloc`;
// `share` gives addresses of memory the device may use until `unshare`.
unsafe impl Hal for DmaHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (u64, NonNull<u8>) {
        let memory = memory();
        let bytes = pages as u32 * FRAME_SIZE;
        match memory.dma.alloc(&memory.master, bytes, 1) {
            Ok(buffer) => {
                let buffer = buffer.into_coherent();
                let place = (u64::from(buffer.bus().raw()), buffer.as_ptr());
                memory.rings.lock().push(buffer);
                place
            }
            Err(error) => {
                *memory.refused.lock() = Some(error);
                // An address of 0 says that there is no memory.
                (0, NonNull::dangling())
            }
        }
    }

    unsafe fn dma_dealloc(paddr: u64, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        let memory = memory();
        let mut rings = memory.rings.lock();
        let Some(place) = rings.iter().position(|ring| u64::from(ring.bus().raw()) == paddr) else { return -1 };
        let ring = rings.swap_remove(place);
        drop(rings);
        // Dropped as the device's it goes into quarantine.
        if memory.stopped.load(Ordering::Relaxed) {
            // SAFETY: the device was reset, and its status read 0 (`Ordered::reset`): it forgot the ring (I4).
            drop(unsafe { ring.release() });
        }
        0
    }

    unsafe fn mmio_phys_to_virt(_paddr: u64, _size: usize) -> NonNull<u8> {
        unreachable!("only the PCI transport maps registers")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> u64 {
        let start = buffer.cast::<u8>().addr().get();
        if let Some(offset) = stand_in_offset(start) {
            let target = TARGET.lock().expect("a slice of the stand-in exists during a request only");
            return u64::from(target.raw()) + offset as u64;
        }
        let memory = memory();
        let mut bounce = memory.bounce.lock();
        assert!(buffer.len() <= SLOT, "only headers and statuses are bounced");
        let slot = (!bounce.used).trailing_zeros() as usize;
        assert!(slot < 64, "requests are made one at a time");
        bounce.used |= 1 << slot;
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the contract of `Hal::share`: the buffer is valid, and nobody writes it during this call.
            let bytes = unsafe { buffer.as_ref() };
            bounce.page.write_at(slot * SLOT, bytes);
        }
        memory.machine.device_barrier();
        u64::from(bounce.page.bus().raw()) + (slot * SLOT) as u64
    }

    unsafe fn unshare(paddr: u64, mut buffer: NonNull<[u8]>, direction: BufferDirection) {
        if stand_in_offset(buffer.cast::<u8>().addr().get()).is_some() {
            return;
        }
        let mut bounce = memory().bounce.lock();
        let slot = (paddr - u64::from(bounce.page.bus().raw())) as usize / SLOT;
        if direction != BufferDirection::DriverToDevice {
            // SAFETY: the contract of `Hal::unshare`: the buffer is valid, and nobody else uses it during this call.
            let bytes = unsafe { buffer.as_mut() };
            bounce.page.read_at(slot * SLOT, bytes);
        }
        bounce.used &= !(1 << slot);
    }
}

/// How far into the stand-in an address is.
fn stand_in_offset(at: usize) -> Option<usize> {
    at.checked_sub(STAND_IN.0.get().addr()).filter(|&offset| offset < REQUEST)
}

/// The transport, telling the device of the rings only once they are in memory. virtio-drivers leaves it at a DMB,
/// which does not order writes to Normal memory with one to a device's register (ARM ARM A3.8.3; Linux's `writel` has
/// the barrier in it), and does not reach the buffers of an outer controller.
struct Ordered(MmioTransport<'static>);

impl Ordered {
    /// Resets the device, and returns whether it says that it was reset.
    fn reset(&mut self) -> bool {
        self.0.set_status(DeviceStatus::empty());
        until(memory().micros, RESET, || self.0.get_status().is_empty())
    }
}

impl Transport for Ordered {
    fn notify(&mut self, queue: u16) {
        memory().machine.device_barrier();
        self.0.notify(queue);
    }

    fn device_type(&self) -> DeviceType {
        self.0.device_type()
    }

    fn read_device_features(&mut self) -> u64 {
        self.0.read_device_features()
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        self.0.write_driver_features(driver_features);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.0.max_queue_size(queue)
    }

    fn get_status(&self) -> DeviceStatus {
        self.0.get_status()
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.0.set_status(status);
    }

    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.0.set_guest_page_size(guest_page_size);
    }

    fn requires_legacy_layout(&self) -> bool {
        self.0.requires_legacy_layout()
    }

    fn queue_set(&mut self, queue: u16, size: u32, descriptors: u64, driver_area: u64, device_area: u64) {
        memory().stopped.store(false, Ordering::Relaxed);
        self.0.queue_set(queue, size, descriptors, driver_area, device_area);
    }

    /// The last call of a driver that gives up its one queue, before it frees the rings. A device that was not reset is
    /// asked no more: it might never say that the queue is out of use.
    fn queue_unset(&mut self, queue: u16) {
        let stopped = self.reset();
        memory().stopped.store(stopped, Ordering::Relaxed);
        if stopped {
            self.0.queue_unset(queue);
        }
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.0.queue_used(queue)
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.0.ack_interrupt()
    }

    fn read_config_generation(&self) -> u32 {
        self.0.read_config_generation()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Error> {
        self.0.read_config_space(offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Result<(), Error> {
        self.0.write_config_space(offset, value)
    }
}

/// Why the disk is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    /// The area has no room for the rings and the request headers.
    NoRoom(AllocError),
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
            Self::Device(error) => error.fmt(f),
            Self::Silent => f.write_str("a request did not end"),
            Self::Hung => f.write_str("a request did not end, and the device does not reset"),
        }
    }
}

/// Returns the transport behind these registers, `bytes` of them, if its device is a disk. Else they are given back.
pub fn transport(mut registers: Mmio<VirtIOHeader>, bytes: usize) -> Option<MmioTransport<'static>> {
    // SAFETY: registers of a virtio transport, this driver's (contract of `Mmio::new`). A transport that is not dropped
    // here keeps them for good.
    let transport = unsafe { MmioTransport::new(registers.pointer(), bytes) }.ok()?;
    (transport.device_type() == DeviceType::Block).then(|| {
        registers.keep();
        transport
    })
}

/// A virtio block device.
pub struct Disk {
    /// There until a request does not end.
    device: Option<VirtIOBlk<DmaHal, Ordered>>,
    bytes: u64,
}

/// What a transfer gives.
type Transfer<D> = Result<Stream<Armv7a, D, Cpu>, Failed<DiskError, Stream<Armv7a, D, Cpu>>>;

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
    /// [`DiskError::NoRoom`] if the area has no room for the rings and headers. [`DiskError::Device`] if the device
    /// refuses.
    pub fn open(
        transport: MmioTransport<'static>,
        master: Master,
        machine: &'static Armv7a,
        dma: &'static Dma<Armv7a>,
        micros: fn() -> u64,
    ) -> Result<Self, DiskError> {
        assert!(!MEMORY.is_completed(), "there is one disk");
        let page = dma.alloc(&master, FRAME_SIZE, 1).map_err(DiskError::NoRoom)?;
        MEMORY.call_once(|| Memory {
            machine,
            dma,
            micros,
            master,
            rings: Mutex::new(Vec::new()),
            // Of no ring yet.
            stopped: AtomicBool::new(true),
            bounce: Mutex::new(Bounce { page: page.into_coherent(), used: 0 }),
            refused: Mutex::new(None),
        });
        let device = VirtIOBlk::new(Ordered(transport)).map_err(|error| {
            let refused = memory().refused.lock().take();
            refused.map_or(DiskError::Device(error), DiskError::NoRoom)
        })?;
        let bytes = device.capacity() * SECTOR_SIZE as u64;
        Ok(Self { device: Some(device), bytes })
    }

    /// Reads `bytes` from a sector on into a buffer, as many whole sectors as the buffer holds of them.
    fn read_at<D: Direction>(&mut self, sector: usize, bytes: usize, buffer: Stream<Armv7a, D, Device>) -> Transfer<D> {
        const { assert!(D::DEVICE_WRITES, "the device writes what is read") };
        let result = self.transfer(Way::Read, sector, bytes.min(buffer.len()), buffer.bus());
        // SAFETY: called only if the device finished with the buffer (I4).
        Self::give_back(result, buffer, |buffer| unsafe { buffer.for_cpu() })
    }

    /// Writes `bytes` from a sector on, as many whole sectors of them as the buffer holds.
    fn write_at<D: Direction<CpuWrites = Yes>>(
        &mut self,
        sector: usize,
        bytes: usize,
        buffer: Stream<Armv7a, D, Device>,
    ) -> Transfer<D> {
        let result = self.transfer(Way::Write, sector, bytes.min(buffer.len()), buffer.bus());
        // SAFETY: called only if the device finished with the buffer (I4). It read it and wrote nothing.
        Self::give_back(result, buffer, |buffer| unsafe { buffer.for_cpu_part(0..0) })
    }

    /// Gives a buffer back after its transfer. `take` is called only if the device has finished with it.
    fn give_back<D: Direction>(
        result: Result<(), DiskError>,
        buffer: Stream<Armv7a, D, Device>,
        take: impl FnOnce(Stream<Armv7a, D, Device>) -> Stream<Armv7a, D, Cpu>,
    ) -> Transfer<D> {
        match result {
            Ok(()) => Ok(take(buffer)),
            // Dropped as the device's: into quarantine.
            Err(DiskError::Hung) => Err(Failed { error: DiskError::Hung, given: None }),
            Err(error) => Err(Failed { error, given: Some(take(buffer)) }),
        }
    }

    /// Moves whole sectors. When it returns, the device has finished with the bytes at `bus`, but for
    /// [`DiskError::Hung`].
    fn transfer(&mut self, way: Way, sector: usize, bytes: usize, bus: BusAddr) -> Result<(), DiskError> {
        let bytes = bytes / SECTOR_SIZE * SECTOR_SIZE;
        for offset in (0..bytes).step_by(REQUEST) {
            let length = REQUEST.min(bytes - offset);
            *TARGET.lock() = bus.checked_add(offset as u32);
            let result = self.request(way, sector + offset / SECTOR_SIZE, length);
            *TARGET.lock() = None;
            result?;
        }
        Ok(())
    }

    /// One request for the bytes at [`TARGET`], from its descriptors to its entry in the used ring.
    fn request(&mut self, way: Way, sector: usize, length: usize) -> Result<(), DiskError> {
        // The device was reset: it knows of no request.
        let device = self.device.as_mut().ok_or(DiskError::Silent)?;
        // SAFETY: no other slice of the stand-in exists: `self` is the one disk, borrowed mutably, and the slice ends
        // with this request.
        let stand_in = unsafe { &mut *STAND_IN.0.get() };
        let data = &mut stand_in[..length];
        let (mut header, mut status) = (BlkReq::default(), BlkResp::default());
        let added = match way {
            // SAFETY: the device is told of none of these: `DmaHal::share` names slots and `TARGET` in their place.
            // Nobody touches them before the request is completed.
            Way::Read => unsafe { device.read_blocks_nb(sector, &mut header, data, &mut status) },
            // SAFETY: as above.
            Way::Write => unsafe { device.write_blocks_nb(sector, &mut header, data, &mut status) },
        };
        // Refused before the device was told.
        let token = added.map_err(DiskError::Device)?;
        if !until(memory().micros, PATIENCE, || device.peek_used() == Some(token)) {
            // Its drop resets the device, as `queue_unset` says.
            self.device = None;
            let stopped = memory().stopped.load(Ordering::Relaxed);
            return Err(if stopped { DiskError::Silent } else { DiskError::Hung });
        }
        let answer = match way {
            // SAFETY: the same values as the request was made with.
            Way::Read => unsafe { device.complete_read_blocks(token, &header, data, &mut status) },
            // SAFETY: as above.
            Way::Write => unsafe { device.complete_write_blocks(token, &header, data, &mut status) },
        };
        // The request is out of the ring: what is wrong is its status.
        answer.map_err(DiskError::Device)
    }
}

impl BlockDevice<Armv7a> for Disk {
    fn name(&self) -> &'static str {
        "virtio-blk"
    }

    fn master(&self) -> &Master {
        &memory().master
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
        Ok(Box::new(Blocks::new(self)?))
    }
}

/// Which way a request's data goes.
#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
}

/// The disk by blocks, through a buffer of its own.
struct Blocks<'d> {
    disk: &'d mut Disk,
    /// There until the device keeps it: then every request is refused.
    buffer: Option<Stream<Armv7a, Bidirectional, Cpu>>,
}

impl<'d> Blocks<'d> {
    /// Takes the buffer for `disk` from its area.
    fn new(disk: &'d mut Disk) -> Result<Self, DiskError> {
        let memory = memory();
        let buffer = memory.dma.alloc(&memory.master, REQUEST as u32, 1).map_err(DiskError::NoRoom)?;
        Ok(Self { disk, buffer: Some(buffer.into_stream()) })
    }

    /// Keeps what came back of a request.
    fn keep(&mut self, result: Transfer<Bidirectional>) -> Result<&Stream<Armv7a, Bidirectional, Cpu>, DiskError> {
        match result {
            Ok(buffer) => Ok(self.buffer.insert(buffer)),
            Err(Failed { error, given }) => {
                self.buffer = given;
                Err(error)
            }
        }
    }

    /// The sector at which a block begins, and how many of `bytes` from there on the disk has. A sector is refused
    /// whose number virtio-drivers cannot say.
    fn on_disk(&self, first: u64, bytes: usize) -> Result<(usize, usize), DiskError> {
        let (sector, there) = on_disk(first, bytes, self.disk.bytes);
        let last = usize::try_from(sector.saturating_add((bytes / SECTOR_SIZE) as u64));
        match last {
            Ok(_) => Ok((sector as usize, there)),
            Err(_) if there == 0 => Ok((0, 0)),
            Err(_) => Err(DiskError::Device(Error::InvalidParam)),
        }
    }
}

impl Backing for Blocks<'_> {
    type Error = BlockError;

    fn read(&mut self, first: u32, to: &mut [u8]) -> Result<(), BlockError> {
        for (first, to) in (u64::from(first)..).step_by(REQUEST / BLOCK).zip(to.chunks_mut(REQUEST)) {
            let (sector, there) = self.on_disk(first, to.len())?;
            let buffer = self.buffer.take().ok_or(DiskError::Hung)?;
            let result = self.disk.read_at(sector, there, buffer.for_device());
            let buffer = self.keep(result)?;
            let (known, beyond) = to.split_at_mut(there);
            known.copy_from_slice(&buffer.bytes()[..there]);
            beyond.fill(0);
        }
        Ok(())
    }

    fn write(&mut self, first: u32, from: &[u8]) -> Result<(), BlockError> {
        for (first, from) in (u64::from(first)..).step_by(REQUEST / BLOCK).zip(from.chunks(REQUEST)) {
            let (sector, there) = self.on_disk(first, from.len())?;
            // Bytes of the last block may lie past the end; a block of them alone would be lost.
            if there.next_multiple_of(BLOCK) < from.len() {
                return Err(DiskError::Device(Error::InvalidParam).into());
            }
            let mut buffer = self.buffer.take().ok_or(DiskError::Hung)?;
            if let Some(part) = buffer.part_mut(0..from.len()) {
                part.copy_from_slice(from);
            }
            let result = self.disk.write_at(sector, there, buffer.for_device());
            self.keep(result)?;
        }
        Ok(())
    }
}
