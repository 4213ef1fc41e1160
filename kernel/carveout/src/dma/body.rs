//! The body of a buffer: what it has in every state.

use crate::addr::{BusAddr, FrameRange, VirtAddr};
use crate::machine::Lines;
use crate::protocol::Knowledge;
use crate::vm::ledger::Residue;
use crate::vm::mapped::Mapped;
use core::cell::Cell;
use core::fmt;

/// What a buffer has in every state. A body stays at its address while the buffer moves from state to state, or each
/// move would copy it.
///
/// In this order of fields no two counters of lines are neighbours. So the compiler zeroes each by a store, and calls
/// no function that fills memory.
#[repr(C)]
pub(super) struct Body {
    pub(super) cleaned: Cell<Lines>,
    pub(super) frames: FrameRange,
    /// The address at which it is mapped, or was last.
    pub(super) va: Cell<VirtAddr>,
    pub(super) bytes: u32,
    pub(super) invalidated: Cell<Lines>,
    pub(super) bus: BusAddr,
    pub(super) mapped: Cell<Option<Mapped>>,
    pub(super) knows: Cell<Knowledge>,
    /// Whether the ledger has each frame's residue, and the frames may differ. This is so until the buffer is in a
    /// state.
    pub(super) in_ledger: Cell<bool>,
    /// Whether a device was told the address and not yet made to forget it.
    pub(super) exposed: Cell<bool>,
    /// Whether it has addresses. It is mapped at `va` then, whenever it is mapped.
    pub(super) placed: Cell<bool>,
    pub(super) transitions: Cell<u32>,
    pub(super) map_changes: Cell<u32>,
}

pub(super) const NO_LINES: Lines = Lines { inner: 0, outer: 0 };

impl Body {
    /// Makes a body of no buffer.
    pub(super) const fn vacant() -> Self {
        Self {
            frames: FrameRange::EMPTY,
            va: Cell::new(VirtAddr::new(0)),
            bytes: 0,
            bus: BusAddr::new(0),
            mapped: Cell::new(None),
            knows: Cell::new(Knowledge::new(Residue::Nothing)),
            in_ledger: Cell::new(true),
            exposed: Cell::new(false),
            placed: Cell::new(false),
            cleaned: Cell::new(NO_LINES),
            invalidated: Cell::new(NO_LINES),
            transitions: Cell::new(0),
            map_changes: Cell::new(0),
        }
    }

    /// Makes this the body of a new buffer.
    pub(super) const fn place(&mut self, frames: FrameRange, bytes: u32) {
        (self.frames, self.bytes) = (frames, bytes);
    }

    pub(super) const fn frames(&self) -> FrameRange {
        self.frames
    }

    /// Returns the address at which it is mapped whenever it is mapped, if it has one.
    pub(super) fn address(&self) -> Option<VirtAddr> {
        self.placed.get().then(|| self.va.get())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("frames", &self.frames).finish_non_exhaustive()
    }
}
