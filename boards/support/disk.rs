//! The disk: virtio-blk, whose every byte of memory is a buffer of the DMA API.
//!
//! Guarantees: data goes straight between the device and a [`Stream`] that the device owns, in state and in fact: no
//! mapping of it exists meanwhile (I4). Rings and request headers are coherent buffers.
//!
//! `virtio-drivers` names memory by slices. A slice of a buffer that is unmapped may not exist, so it is handed a
//! slice of a stand-in, which it does not touch, and [`Hal::share`] answers with the buffer's bus address instead.

use super::block_cache::{BLOCK, Backing};
use super::bring_up::Kernel;
use super::devices;
use carveout::addr::{BusAddr, FRAME_SIZE, PhysAddr};
use carveout::arch::Cache;
use carveout::arch::armv7a::mmu::Armv7a;
use carveout::boot::bootinfo::DevicePath;
use carveout::cma::area::AllocError;
use carveout::dma::Dma;
use carveout::dma::buffer::{Bidirectional, Coherent, Device, Direction, Stream};
use carveout::dma::master::Master;
use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::{Mutex, Once};
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes of the largest request.
const REQUEST: usize = 64 << 10;

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
    dma: &'static Dma<Armv7a>,
    machine: &'static Armv7a,
    master: Master,
    rings: Mutex<alloc::vec::Vec<Coherent<Armv7a>>>,
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
        let mut rings = memory().rings.lock();
        let Some(place) = rings.iter().position(|ring| u64::from(ring.bus().raw()) == paddr) else { return -1 };
        // SAFETY: the driver has reset the device, or the queue, before it gives its memory back.
        drop(unsafe { rings.swap_remove(place).release() });
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
            // SAFETY: the caller says the buffer is valid and nobody writes it during this call.
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
            // SAFETY: the caller says the buffer is valid and nobody else uses it during this call.
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

/// The transport, telling the device of the rings only once they are in memory. virtio-drivers leaves it at a DMB, which
/// does not order writes to Normal memory with one to a device's register (ARM ARM A3.8.3; Linux's `writel` has the
/// barrier in it), and does not reach the buffers of an outer controller.
struct Ordered(MmioTransport<'static>);

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
        self.0.queue_set(queue, size, descriptors, driver_area, device_area);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.0.queue_unset(queue);
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
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
        }
    }
}

/// The registers of the first block device on a virtio transport, if there is one, and its node: whoever calls drives it.
pub fn transport(kernel: &Kernel) -> Option<(MmioTransport<'static>, DevicePath<'static>)> {
    let mut found = None;
    devices::find_all(&kernel.info, "virtio,mmio", |device| {
        let Some(block) = device.blocks.first().filter(|_| found.is_none()) else { return };
        found = block_device(kernel, block.at, block.bytes).map(|transport| (transport, device.path));
    });
    found
}

fn block_device(kernel: &Kernel, at: PhysAddr, bytes: u32) -> Option<MmioTransport<'static>> {
    let registers = kernel.registers::<VirtIOHeader>(at, bytes)?;
    // SAFETY: the tree says that these are a virtio transport's; they are mapped for good, and nobody else's: a transport
    // that is not dropped here keeps them.
    let transport = unsafe { MmioTransport::new(registers.pointer(), bytes as usize) }.ok()?;
    (transport.device_type() == DeviceType::Block).then(|| {
        registers.keep();
        transport
    })
}

/// A virtio block device.
pub struct Disk {
    device: VirtIOBlk<DmaHal, Ordered>,
}

impl Disk {
    /// Opens the first block device on a virtio transport, if there is one.
    pub fn open(kernel: &'static Kernel) -> Result<Option<Self>, DiskError> {
        static OPENED: AtomicBool = AtomicBool::new(false);
        if OPENED.swap(true, Ordering::Relaxed) {
            return Ok(None);
        }
        let Some((transport, path)) = transport(kernel) else { return Ok(None) };
        let master = kernel.master_at("virtio-blk", &path);
        let page = kernel.dma.alloc(&master, FRAME_SIZE, 1).map_err(DiskError::NoRoom)?;
        MEMORY.call_once(|| Memory {
            dma: kernel.dma,
            machine: kernel.machine,
            master,
            rings: Mutex::new(alloc::vec::Vec::new()),
            bounce: Mutex::new(Bounce { page: page.into_coherent(), used: 0 }),
            refused: Mutex::new(None),
        });
        let device = VirtIOBlk::new(Ordered(transport)).map_err(|error| {
            let refused = memory().refused.lock().take();
            refused.map_or(DiskError::Device(error), DiskError::NoRoom)
        })?;
        Ok(Some(Self { device }))
    }

    /// The one disk as a bus master.
    pub fn master() -> &'static Master {
        &memory().master
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        self.device.capacity() * SECTOR_SIZE as u64
    }

    /// Reads from the start of the disk into a buffer that the device owns, as much as the buffer holds.
    pub fn read<D: Direction>(&mut self, buffer: &Stream<Armv7a, D, Device>) -> Result<(), Error> {
        self.read_at(0, buffer.len(), buffer)
    }

    /// Reads `bytes` from a sector on, as many whole sectors as the buffer holds of them.
    pub fn read_at<D: Direction>(
        &mut self,
        sector: usize,
        bytes: usize,
        buffer: &Stream<Armv7a, D, Device>,
    ) -> Result<(), Error> {
        self.transfer(sector, bytes.min(buffer.len()), buffer.bus(), |device, sector, part| {
            device.read_blocks(sector, part)
        })
    }

    /// Writes `bytes` from a sector on, as many whole sectors of them as the buffer holds.
    pub fn write_at<D: Direction>(
        &mut self,
        sector: usize,
        bytes: usize,
        buffer: &Stream<Armv7a, D, Device>,
    ) -> Result<(), Error> {
        self.transfer(sector, bytes.min(buffer.len()), buffer.bus(), |device, sector, part| {
            device.write_blocks(sector, part)
        })
    }

    fn transfer(
        &mut self,
        sector: usize,
        bytes: usize,
        bus: BusAddr,
        request: impl Fn(&mut VirtIOBlk<DmaHal, Ordered>, usize, &mut [u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let bytes = bytes / SECTOR_SIZE * SECTOR_SIZE;
        for offset in (0..bytes).step_by(REQUEST) {
            let length = REQUEST.min(bytes - offset);
            *TARGET.lock() = bus.checked_add(offset as u32);
            // SAFETY: no other slice of the stand-in exists: `self` is the one disk, borrowed mutably, and the slice
            // ends with this request.
            let stand_in = unsafe { &mut *STAND_IN.0.get() };
            let result = request(&mut self.device, sector + offset / SECTOR_SIZE, &mut stand_in[..length]);
            *TARGET.lock() = None;
            result?;
        }
        Ok(())
    }
}

/// The disk by blocks, through a buffer of its own.
pub struct Blocks<'d> {
    disk: &'d mut Disk,
    buffer: Option<Stream<Armv7a, Bidirectional, Device>>,
}

impl<'d> Blocks<'d> {
    /// Takes the buffer for `disk` from its area.
    pub fn new(disk: &'d mut Disk) -> Result<Self, DiskError> {
        let memory = memory();
        let buffer = memory.dma.alloc(&memory.master, REQUEST as u32, 1).map_err(DiskError::NoRoom)?;
        Ok(Self { disk, buffer: Some(buffer.into_stream().for_device()) })
    }

    /// Sectors of `bytes` from a block on that the disk has.
    fn on_disk(&self, first: u32, bytes: usize) -> (usize, usize) {
        let start = first as usize * BLOCK;
        let left = (self.disk.bytes() as usize).saturating_sub(start);
        (start / SECTOR_SIZE, left.min(bytes))
    }
}

impl Backing for Blocks<'_> {
    type Error = Error;

    fn read(&mut self, first: u32, to: &mut [u8]) -> Result<(), Error> {
        for (first, to) in (first..).step_by(REQUEST / BLOCK).zip(to.chunks_mut(REQUEST)) {
            let (sector, there) = self.on_disk(first, to.len());
            let buffer = self.buffer.take().expect("given back by each request");
            let result = self.disk.read_at(sector, there, &buffer);
            // SAFETY: the request was answered.
            let buffer = unsafe { buffer.for_cpu() };
            let (known, beyond) = to.split_at_mut(there);
            if result.is_ok() {
                known.copy_from_slice(&buffer.bytes()[..there]);
                beyond.fill(0);
            }
            self.buffer = Some(buffer.for_device());
            result?;
        }
        Ok(())
    }

    fn write(&mut self, first: u32, from: &[u8]) -> Result<(), Error> {
        for (first, from) in (first..).step_by(REQUEST / BLOCK).zip(from.chunks(REQUEST)) {
            let (sector, there) = self.on_disk(first, from.len());
            let buffer = self.buffer.take().expect("given back by each request");
            // SAFETY: the device does nothing before the next request.
            let mut buffer = unsafe { buffer.for_cpu_part(0..0) };
            if let Some(part) = buffer.part_mut(0..from.len()) {
                part.copy_from_slice(from);
            }
            let buffer = buffer.for_device();
            let result = self.disk.write_at(sector, there, &buffer);
            self.buffer = Some(buffer);
            result?;
        }
        Ok(())
    }
}

impl Drop for Blocks<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            // SAFETY: every request was answered.
            drop(unsafe { buffer.for_cpu() });
        }
    }
}
