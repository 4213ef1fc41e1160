//! The proof that memory is mapped, which maintenance by address needs.
//!
//! Guarantees: a [`Mapped`] is a translation that exists. A [`Part`] borrows one, so no operation on lines comes after
//! the unmap (I3).

use crate::addr::{FRAME_SHIFT, FrameRange, PhysAddr, VirtAddr};
use crate::vm::attr::MemoryType;
use core::sync::atomic::{AtomicU32, Ordering};

/// The proof that `frames` are mapped at `va` with this memory type, and that nothing unmapped them since. It is not
/// `Clone`.
///
/// A [`Region`](super::space::Region) makes one for memory that it mapped, and only that region takes it back.
#[derive(PartialEq, Eq, Debug)]
pub struct Mapped {
    pub(super) va: VirtAddr,
    pub(super) frames: FrameRange,
    pub(super) memory: MemoryType,
    pub(super) by: RegionId,
}

impl Mapped {
    /// Makes the proof for a mapping that no [`Region`](super::space::Region) made.
    ///
    /// # Safety
    ///
    /// The frames are mapped there, with that memory type, for as long as the value lives (I3).
    pub const unsafe fn assume(va: VirtAddr, frames: FrameRange, memory: MemoryType) -> Self {
        Self { va, frames, memory, by: RegionId::NONE }
    }

    /// Returns the first address, a multiple of 4 KiB.
    pub const fn va(&self) -> VirtAddr {
        self.va
    }

    /// Returns the frames behind it, in order.
    pub const fn frames(&self) -> FrameRange {
        self.frames
    }

    /// Returns the number of bytes mapped.
    pub const fn bytes(&self) -> u32 {
        self.frames.count() << FRAME_SHIFT
    }

    /// Returns the memory type.
    pub const fn memory(&self) -> MemoryType {
        self.memory
    }

    /// Returns the whole mapping as a part.
    pub const fn all(&self) -> Part<'_> {
        Part { mapped: self, start: 0, end: self.bytes() }
    }

    /// Returns the bytes `[start, end)` of it, or `None` if they are not in order and inside.
    pub const fn part(&self, start: u32, end: u32) -> Option<Part<'_>> {
        if start <= end && end <= self.bytes() { Some(Part { mapped: self, start, end }) } else { None }
    }
}

/// The number of the region that made a mapping. No two regions ever have one number, on whatever machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RegionId(u32);

impl RegionId {
    /// The number of no region.
    pub(crate) const NONE: Self = Self(0);

    /// Returns it as a number.
    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    /// Returns a number that no region has yet.
    pub(super) fn next() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| last.checked_add(1));
        Self(last.expect("fewer than 2^32 regions since boot") + 1)
    }
}

/// Bytes of a mapping that exists: what maintenance works on (I3). Maintenance goes by whole lines. A mapping is of
/// whole pages, so the lines that it touches hold nothing else. Where a mapping has several owners, each has whole
/// lines ([`Cache::line`](crate::machine::Cache::line)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part<'m> {
    mapped: &'m Mapped,
    start: u32,
    end: u32,
}

impl Part<'_> {
    /// Returns the mapping that it is a part of.
    pub const fn mapped(&self) -> &Mapped {
        self.mapped
    }

    /// Returns the address of the first byte.
    pub const fn va(&self) -> VirtAddr {
        VirtAddr::new(self.mapped.va.raw() + self.start)
    }

    /// Returns the physical address of the first byte.
    pub const fn pa(&self) -> PhysAddr {
        PhysAddr::new(self.mapped.frames.base().raw() + self.start)
    }

    /// Returns the number of bytes.
    pub const fn bytes(&self) -> u32 {
        self.end - self.start
    }
}
