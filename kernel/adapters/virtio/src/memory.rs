//! A device's memory: its rings, its bounce buffer, its stand-in, and whether the device still has any of it.
//!
//! Guarantees: a ring is freed only after [`Guarded`](crate::Guarded) saw the device reset. Whatever else a driver gave
//! up is in quarantine (I4).

use crate::bounce::Bounce;
use crate::stand_in::{HandError, Handed, HandedMut, StandIn};
use carveout::addr::{BusAddr, FRAME_SIZE};
use carveout::dma::{AllocError, Coherent, Device, Direction, Dma, Master, Stream, StreamBlock};
use carveout::machine::Machine;
use carveout::sync::{Lock, Rank};
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

/// Why a device has no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryError {
    /// The area has no room for the bounce buffer.
    Alloc(AllocError),
    /// The heap has no room for the stand-in, or for the list of slots of the bounce buffer.
    Heap {
        /// The bytes of the stand-in.
        stand_in: usize,
        /// The bytes of the bounce buffer.
        bounce: u32,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alloc(error) => error.fmt(f),
            Self::Heap { stand_in, bounce } => {
                write!(f, "no heap left for a stand-in of {stand_in} bytes and a bounce buffer of {bounce} bytes")
            }
        }
    }
}

impl core::error::Error for MemoryError {}

/// The memory of one virtio device, which lives as long as the device is used.
pub struct DeviceMemory<M: Machine + 'static> {
    dma: &'static Dma<M>,
    master: Master,
    bounce: Bounce<M>,
    stand_in: StandIn,
    /// Whether the device was reset, said so, and was told of nothing since.
    stopped: AtomicBool,
    /// Whether a driver was told an address of this memory.
    told: AtomicBool,
    /// Why the area refused a ring. A driver passes on no more than that there is no memory.
    refused: Lock<Option<AllocError>>,
}

impl<M: Machine> DeviceMemory<M> {
    /// Makes the memory of a device, which is `master` on its bus.
    ///
    /// `bounce` is the size of the bounce buffer in bytes, rounded up to 4 KiB. It must hold all that the driver shares
    /// at a time and that is no stream, each slice rounded up to 64 bytes: headers, statuses, and data in slices of the
    /// driver's own. `stand_in` is the most bytes of a stream in a request. It is taken from the heap, and may be 0.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Alloc`] if the area has no room for the bounce buffer. [`MemoryError::Heap`] if the heap is full.
    pub fn new(dma: &'static Dma<M>, master: Master, bounce: u32, stand_in: usize) -> Result<Self, MemoryError> {
        let heap = MemoryError::Heap { stand_in, bounce };
        let bytes = bounce.checked_next_multiple_of(FRAME_SIZE).unwrap_or(bounce);
        let buffer = dma.alloc_coherent(&master, bytes, 1).map_err(MemoryError::Alloc)?;
        Ok(Self {
            dma,
            bounce: Bounce::new(buffer, &master).ok_or(heap)?,
            stand_in: StandIn::new(stand_in).ok_or(heap)?,
            master,
            stopped: AtomicBool::new(false),
            told: AtomicBool::new(false),
            refused: Lock::new(Rank::DMA, None),
        })
    }

    /// Returns the DMA API that it comes from.
    pub const fn dma(&self) -> &'static Dma<M> {
        self.dma
    }

    /// Returns the device as a bus master.
    pub const fn master(&self) -> &Master {
        &self.master
    }

    /// Takes the reason for which a ring was last refused: virtio-drivers says no more than
    /// [`DmaError`](virtio_drivers::Error::DmaError).
    pub fn take_refusal(&self) -> Option<AllocError> {
        self.refused.lock().take()
    }

    /// Returns whether the device was reset, said so, and was told of no ring since. So it has nothing of this memory,
    /// and of no stream that it was told of before.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Hands `range` of a stream to a driver whose device reads it, such as a disk that writes. The slice has the
    /// range's length and other bytes.
    ///
    /// The stream may become the CPU's again after the driver said that the request is complete.
    ///
    /// # Errors
    ///
    /// [`HandError::Busy`] while another part is handed out. [`HandError::Outside`] and [`HandError::TooLong`] if the
    /// range is empty, not inside of the stream, or longer than the stand-in.
    pub fn source<'s, D: Direction>(
        &'s self,
        stream: &'s Stream<M, D, Device>,
        range: Range<usize>,
    ) -> Result<Handed<'s>, HandError> {
        self.stand_in.hand(stream.bus(), stream.len(), range)
    }

    /// Hands `range` of a stream to a driver whose device writes it, such as a disk that reads. The slice has the
    /// range's length and other bytes.
    ///
    /// The stream may become the CPU's again after the driver said that the request is complete.
    ///
    /// # Errors
    ///
    /// As [`source`](Self::source), and [`HandError::Direction`] if the device does not write the stream.
    pub fn target<'s, D: Direction>(
        &'s self,
        stream: &'s Stream<M, D, Device>,
        range: Range<usize>,
    ) -> Result<HandedMut<'s>, HandError> {
        self.stand_in.hand_mut(stream.direction(), stream.bus(), stream.len(), range)
    }

    /// Hands `range` of a pool's block to a driver whose device reads it, such as a packet to be sent. It does for a
    /// block what [`source`](Self::source) does for a stream.
    ///
    /// # Errors
    ///
    /// As [`source`](Self::source).
    pub fn source_block<'s, D: Direction>(
        &'s self,
        block: &'s StreamBlock<M, D, Device>,
        range: Range<usize>,
    ) -> Result<Handed<'s>, HandError> {
        self.stand_in.hand(block.bus(), block.len(), range)
    }

    /// Hands `range` of a pool's block to a driver whose device writes it, such as a packet to be received. It does for
    /// a block what [`target`](Self::target) does for a stream.
    ///
    /// # Errors
    ///
    /// As [`target`](Self::target).
    pub fn target_block<'s, D: Direction>(
        &'s self,
        block: &'s StreamBlock<M, D, Device>,
        range: Range<usize>,
    ) -> Result<HandedMut<'s>, HandError> {
        self.stand_in.hand_mut(block.direction(), block.bus(), block.len(), range)
    }

    /// Allocates a ring of so many frames, zeroed. Returns its bus address and its first byte.
    pub(crate) fn take_ring(&self, frames: usize) -> Option<(u64, NonNull<u8>)> {
        let bytes = u32::try_from(frames).unwrap_or(u32::MAX).saturating_mul(FRAME_SIZE);
        let ring = match self.dma.alloc_coherent(&self.master, bytes, 1) {
            Ok(ring) => ring,
            Err(error) => {
                *self.refused.lock() = Some(error);
                return None;
            }
        };
        // An address of 0 means to the drivers that there is no memory.
        if self.master.bus(ring.frames().base())?.raw() == 0 {
            return None;
        }
        let place = (u64::from(ring.bus().raw()), ring.as_ptr());
        ring.into_raw();
        Some(place)
    }

    /// Frees a ring, or puts it into quarantine if the device may still have it. Returns false if there is none at that
    /// bus address.
    pub(crate) fn give_ring(&self, bus: u64) -> bool {
        let bus = u32::try_from(bus).map(BusAddr::new);
        let handle = bus.ok().and_then(|bus| self.dma.handle_on_bus(&self.master, bus));
        let Some(ring) = handle.and_then(|handle| Coherent::from_raw(self.dma, handle).ok()) else { return false };
        // Dropped as the device's it goes into quarantine.
        if self.is_stopped() {
            // SAFETY: the device was reset, said so, and was told of no ring since (I4): it forgot this one.
            unsafe { ring.give_up() };
        }
        true
    }

    /// Returns the bus address at which the device finds a driver's slice.
    ///
    /// # Safety
    ///
    /// `slice` is valid for reads, and nobody writes it meanwhile.
    ///
    /// # Panics
    ///
    /// If the bounce buffer has no room.
    pub(crate) unsafe fn share(&self, slice: NonNull<[u8]>) -> virtio_drivers::PhysAddr {
        if let Some(at) = self.stand_in.target_of(slice) {
            return at.raw().into();
        }
        self.told.store(true, Ordering::Relaxed);
        // SAFETY: as this function demands.
        let at = unsafe { self.bounce.take(slice) };
        self.dma.machine().dma_wmb();
        at.unwrap_or_else(|full| panic!("{full}")).raw().into()
    }

    /// Ends what [`share`](Self::share) began and, if `copy` says so, copies to the slice what the device made of it.
    ///
    /// # Safety
    ///
    /// [`share`](Self::share) gave `bus` for the slice, which is valid for writes, and nobody accesses it meanwhile.
    /// The device has finished with the request.
    pub(crate) unsafe fn unshare(&self, bus: BusAddress, slice: NonNull<[u8]>, copy: bool) {
        if self.stand_in.target_of(slice).is_none() {
            self.dma.machine().dma_rmb();
            // SAFETY: as this function demands.
            unsafe { self.bounce.give_back(bus, slice, copy) };
        }
    }

    /// Makes all that was written visible to the device, before a register tells it to look.
    pub(crate) fn device_barrier(&self) {
        self.dma.machine().device_barrier();
    }

    /// Notes that the device is told of a ring.
    pub(crate) fn device_starts(&self) {
        self.stopped.store(false, Ordering::Release);
    }

    /// Notes that the device was reset and said so. It has forgotten its rings and the requests in them.
    pub(crate) fn device_stopped(&self) {
        self.bounce.forget_all();
        self.stopped.store(true, Ordering::Release);
    }
}

/// An address on the bus, as virtio-drivers has it.
type BusAddress = virtio_drivers::PhysAddr;

impl<M: Machine> Drop for DeviceMemory<M> {
    fn drop(&mut self) {
        if self.told.load(Ordering::Relaxed) && !self.is_stopped() {
            self.bounce.tell();
        }
    }
}

impl<M: Machine> fmt::Debug for DeviceMemory<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMemory")
            .field("master", &self.master)
            .field("stopped", &self.is_stopped())
            .finish_non_exhaustive()
    }
}
