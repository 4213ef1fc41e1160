//! The body of a buffer: what it has in every state.

use crate::addr::{BusAddr, FrameRange, VirtAddr};
use crate::dma::kind::Kind;
use crate::dma::master::AreaId;
use crate::dma::standing::Standing;
use crate::holder::Holder;
use crate::machine::Lines;
use crate::protocol::Knowledge;
use crate::vm::ledger::{LedgerPlace, Residue};
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
    pub(super) standing: &'static Standing,
    /// The place of its record.
    pub(super) slot: BufferSlot,
    pub(super) cleaned: Cell<Lines>,
    /// Its frames, and where the ledger has them.
    pub(super) place: LedgerPlace,
    /// The address at which it is mapped, or was last.
    pub(super) va: Cell<VirtAddr>,
    pub(super) bytes: u32,
    pub(super) invalidated: Cell<Lines>,
    pub(super) bus: BusAddr,
    /// The kind of request that it serves, unless it is in a contract's slot.
    pub(super) kind: Option<Kind>,
    /// The number of its area.
    pub(super) area: u8,
    pub(super) mapped: Cell<Option<Mapped>>,
    pub(super) knows: Cell<Knowledge>,
    /// Whether the ledger has each frame's residue, and the frames may differ. This is so until the buffer is in a
    /// state.
    pub(super) in_ledger: Cell<bool>,
    /// Whether a device was told the address and not yet made to forget it.
    pub(super) exposed: Cell<bool>,
    /// Whether it has addresses. It is mapped at `va` then, whenever it is mapped.
    pub(super) placed: Cell<bool>,
    /// Of a buffer that nobody has, and that stays mapped: how many of its frames are zeroed, from the first on.
    pub(super) zeroed: Cell<u32>,
    pub(super) transitions: Cell<u32>,
    pub(super) map_changes: Cell<u32>,
}

pub(super) const NO_LINES: Lines = Lines { inner: 0, outer: 0 };

impl Body {
    /// Makes a body of no buffer.
    pub(super) const fn vacant(standing: &'static Standing) -> Self {
        Self {
            standing,
            slot: BufferSlot(0),
            place: LedgerPlace::NONE,
            va: Cell::new(VirtAddr::new(0)),
            bytes: 0,
            bus: BusAddr::new(0),
            kind: None,
            area: 0,
            mapped: Cell::new(None),
            knows: Cell::new(Knowledge::new(Residue::Nothing)),
            in_ledger: Cell::new(true),
            exposed: Cell::new(false),
            placed: Cell::new(false),
            cleaned: Cell::new(NO_LINES),
            invalidated: Cell::new(NO_LINES),
            zeroed: Cell::new(0),
            transitions: Cell::new(0),
            map_changes: Cell::new(0),
        }
    }

    /// Makes this the body of a new buffer.
    #[inline]
    pub(super) fn begin(&mut self, place: LedgerPlace, bytes: u32, area: AreaId, kind: Option<Kind>) {
        (self.place, self.bytes, self.area, self.kind) = (place, bytes, area.0 as u8, kind);
        self.standing.set_va(None);
    }

    /// Returns whether all frames of a buffer that nobody has are zeroed.
    pub(super) fn is_zeroed(&self) -> bool {
        self.zeroed.get() == self.frames().count()
    }

    pub(super) const fn frames(&self) -> FrameRange {
        self.place.frames()
    }

    /// Returns the address at which it is mapped whenever it is mapped, if it has one.
    pub(super) fn address(&self) -> Option<VirtAddr> {
        self.placed.get().then(|| self.va.get())
    }
}

impl Body {
    /// Returns the knowledge of a buffer that nobody has: the first of its frames may be zeroed, or all of them.
    pub(super) fn spare_knowledge(&self) -> Knowledge {
        Knowledge { mapped: true, ..Knowledge::new(if self.is_zeroed() { Residue::Zeroed } else { Residue::Nothing }) }
    }

    /// Makes this the body of a new buffer in no state, which nothing maps. `residue` is the most of any of its
    /// frames, and whether it is that of all.
    #[inline]
    pub(super) fn fresh(&mut self, bus: BusAddr, (residue, alike): (Residue, bool)) {
        self.renew();
        self.bus = bus;
        self.in_ledger.set(!alike);
        self.mapped.set(None);
        self.knows.set(Knowledge::new(residue));
        self.placed.set(false);
        self.zeroed.set(0);
    }

    /// Makes this the body of a new coherent buffer, whose mapping waited for it.
    pub(super) fn reuse(&mut self, bytes: u32, bus: BusAddr) {
        (self.bytes, self.bus) = (bytes, bus);
        self.knows.set(self.spare_knowledge());
        self.renew();
    }

    /// Forgets what the last buffer did.
    #[inline]
    pub(super) fn renew(&self) {
        self.in_ledger.set(false);
        self.exposed.set(false);
        self.cleaned.set(NO_LINES);
        self.invalidated.set(NO_LINES);
        self.transitions.set(0);
        self.map_changes.set(0);
    }

    /// Says who may access the bytes of a buffer that came to be in a state.
    #[inline]
    pub(super) fn hold(&self, holder: Holder, residue: Residue) {
        // From here on all frames have one residue.
        self.in_ledger.set(false);
        self.zeroed.set(0);
        self.standing.set(holder, residue);
        self.transitions.set(self.transitions.get() + 1);
    }
}

/// A buffer's place among the records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BufferSlot(pub(super) usize);

/// What follows the last one in a chain of records. No record has this place.
pub(super) const LAST: u16 = u16::MAX;

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("frames", &self.frames()).finish_non_exhaustive()
    }
}
