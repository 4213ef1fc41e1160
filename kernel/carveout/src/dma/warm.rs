//! Warm mappings: a coherent buffer that was freed keeps its mapping until somebody else gets its frames.
//!
//! Guarantees:
//!
//! - **I1** A warm mapping is non-cacheable, and the ledger has its claim. Whoever takes frames evicts what is warm of
//!   them first. One that forgot to would be refused by the ledger.
//! - **I3** A non-cacheable mapping leaves no lines. The TLB invalidate comes with the eviction.
//! - **I5** The next owner finds zeros: written through the warm mapping, in idle time or at the allocation.
//! - **I6** At most [`WARM`] mappings are warm at a time, so an eviction of all of them is bounded. The slots of
//!   contracts are besides: each keeps its mapping until its frames are lent or the contract ends.
//! - The index knows the frames as idle. So nothing here decides where an allocation goes, nor whether there is room.

use crate::addr::FrameRange;
use crate::cma::extent::Extent;
use crate::cma::reserve::REQUEST_KINDS;
use crate::dma::master::AreaId;
use crate::dma::records::BufferSlot;
use crate::heap::room;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// The most mappings that are warm at a time: one for each kind of request that idle time foresees.
pub(super) const WARM: usize = REQUEST_KINDS;

/// What becomes of a coherent buffer's mapping when the buffer is freed by
/// [`give_up`](crate::dma::Coherent::give_up) or by its drop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AfterFree {
    /// It ends. A pointer that outlived the buffer faults.
    #[default]
    Unmap,
    /// It stays until somebody else gets the frames, so the next coherent buffer there needs none. A pointer that
    /// outlived the buffer still reaches the memory meanwhile.
    #[cfg(feature = "warm")]
    KeepMapped,
}

impl AfterFree {
    /// Returns whether mappings stay.
    pub(super) const fn keeps_mapped(self) -> bool {
        match self {
            Self::Unmap => false,
            #[cfg(feature = "warm")]
            Self::KeepMapped => true,
        }
    }
}

/// Whether a mapping may outlive its buffer in this build. What is asked of lists that stay empty otherwise is then
/// known to the compiler.
pub(super) const CAN_KEEP: bool = cfg!(feature = "warm");

/// A buffer that nobody has, and that is mapped. Its frames are idle, and its record has its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct WarmBuffer {
    pub(super) slot: BufferSlot,
    pub(super) extent: Extent,
    pub(super) area: AreaId,
}

/// The warm buffers.
#[derive(Debug)]
pub(super) struct Warm {
    /// [`WARM`] of them at most, for which it has room.
    pub(super) list: Vec<WarmBuffer>,
    /// The place of the one that goes when there are too many.
    pub(super) next: usize,
    /// Idle contract slots that are mapped.
    pub(super) slots: u32,
    pub(super) reused: u64,
    pub(super) evicted: u64,
}

impl Warm {
    /// The bytes that the list takes of the heap.
    pub(super) const BYTES: usize = if CAN_KEEP { WARM * size_of::<WarmBuffer>() } else { 0 };

    /// Makes an empty list.
    pub(super) fn new() -> Result<Self, TryReserveError> {
        Ok(Self { list: room(if CAN_KEEP { WARM } else { 0 })?, next: 0, slots: 0, reused: 0, evicted: 0 })
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// Returns the warm buffers.
    #[inline]
    pub(super) fn list(&self) -> &[WarmBuffer] {
        if CAN_KEEP { &self.list } else { &[] }
    }

    /// Returns how many mappings wait.
    pub(super) const fn count(&self) -> u32 {
        self.list.len() as u32 + self.slots
    }

    /// Yields the frames of the warm buffers of an area.
    pub(super) fn of(&self, area: AreaId) -> impl Iterator<Item = FrameRange> + Clone {
        self.list().iter().filter(move |warm| warm.area == area).map(|warm| warm.extent.frames())
    }

    #[inline]
    pub(super) fn exact(&self, frames: FrameRange) -> Option<usize> {
        self.list().iter().position(|warm| warm.extent.frames() == frames)
    }

    #[inline]
    pub(super) fn overlapping(&self, frames: FrameRange) -> Option<usize> {
        self.list().iter().position(|warm| warm.extent.frames().overlaps(frames))
    }
}
