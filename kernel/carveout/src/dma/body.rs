//! What a buffer consists of, in whatever state.

use crate::addr::{BusAddr, FrameRange, VirtAddr};
use crate::machine::Lines;
use crate::protocol::Knowledge;
use crate::vm::ledger::Residue;
use crate::vm::mapped::Mapped;
use core::cell::Cell;
use core::fmt;

/// What a buffer consists of. It stays where it is while the buffer moves from state to state, or each move would copy
/// it.
///
/// In this order no two counters of lines are next to each other: zeroing them is a store each, and no call that fills
/// memory.
#[repr(C)]
pub(super) struct Body {
    pub(super) cleaned: Cell<Lines>,
    pub(super) frames: FrameRange,
    /// Where it is mapped, or was last.
    pub(super) va: Cell<VirtAddr>,
    pub(super) bytes: u32,
    pub(super) invalidated: Cell<Lines>,
    pub(super) bus: BusAddr,
    pub(super) mapped: Cell<Option<Mapped>>,
    pub(super) knows: Cell<Knowledge>,
    /// The ledger has each frame's residue, which need not be the same: until it is in a state.
    pub(super) in_ledger: Cell<bool>,
    /// A device was told the address and not yet made to forget it.
    pub(super) exposed: Cell<bool>,
    /// It has addresses: those of `va`, whenever it is mapped.
    pub(super) placed: Cell<bool>,
    pub(super) transitions: Cell<u32>,
    pub(super) map_changes: Cell<u32>,
}

pub(super) const NO_LINES: Lines = Lines { inner: 0, outer: 0 };

impl Body {
    /// Nobody's.
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

    /// Of a new buffer from now on.
    pub(super) const fn place(&mut self, frames: FrameRange, bytes: u32) {
        (self.frames, self.bytes) = (frames, bytes);
    }

    pub(super) const fn frames(&self) -> FrameRange {
        self.frames
    }

    /// Where it is mapped whenever it is.
    pub(super) fn address(&self) -> Option<VirtAddr> {
        self.placed.get().then(|| self.va.get())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("frames", &self.frames).finish_non_exhaustive()
    }
}
