//! The part that all states of a buffer share, and how a buffer goes through a transition
//! ([`exec`](crate::dma::exec)).
//!
//! Guarantees: when a buffer is dropped, in whatever state, its frames are freed or kept in quarantine.

use crate::addr::FrameRange;
use crate::dma::body::Body;
use crate::dma::exec::{Done, Subject, run};
use crate::dma::registry::{BufferSlot, Dma, Stay};
use crate::holder::Holder;
use crate::machine::Machine;
use crate::protocol::{Knowledge, Span, Transition};
use crate::vm::attr::MemoryType;
use crate::vm::ledger::Residue;
use crate::vm::mapped::Mapped;
use core::convert::Infallible;
use core::ops::{Deref, Range};
use core::sync::atomic::Ordering;

/// The part that all states share. Its drop frees the frames, or quarantines them if a device may still use them.
pub(super) struct Raw<M: Machine + 'static> {
    pub(super) dma: &'static Dma<M>,
    pub(super) slot: BufferSlot,
    /// The body, which is there until the drop.
    pub(super) body: Option<&'static mut Body>,
}

impl<M: Machine> Deref for Raw<M> {
    type Target = Body;

    fn deref(&self) -> &Body {
        self.body.as_deref().expect("there until it is dropped")
    }
}

impl<M: Machine> Raw<M> {
    /// Does what is due of a transition.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `exec::run`")]
    pub(super) fn run(&self, transition: Transition) {
        let stay = match transition {
            Transition::IntoStream | Transition::IntoDevice => Stay::InPassing,
            _ => Stay::ToLast,
        };
        let Ok(()) = run(&mut Passage { raw: self, stay }, transition);
    }

    /// Returns the bytes that were asked for. No device accesses more.
    pub(super) fn asked(&self) -> Span {
        Span { start: 0, end: self.bytes }
    }

    pub(super) fn pointer(&self) -> *mut u8 {
        self.dma.machine.reach(self.va.get())
    }

    /// Maps the bytes for the CPU to look at. Returns the first one.
    pub(super) fn open(&self) -> *mut u8 {
        self.run(Transition::Look);
        self.pointer()
    }

    /// Maps the bytes for the CPU to write to a span. Returns the buffer's first byte.
    pub(super) fn open_mut(&self, span: Span) -> *mut u8 {
        let bytes = self.open();
        self.knows.set(self.knows.get().writable(span));
        bytes
    }

    /// Returns `range` of the bytes that were asked for, or `None` if it is not in order and inside.
    pub(super) fn inside(&self, range: &Range<usize>) -> Option<Span> {
        let inside = range.start <= range.end && range.end <= self.bytes as usize;
        inside.then_some(Span { start: range.start as u32, end: range.end as u32 })
    }
}

/// A buffer on its way through a transition. It takes the lock only to change its mapping, for its bytes and lines are
/// its own.
struct Passage<'r, M: Machine + 'static> {
    raw: &'r Raw<M>,
    stay: Stay,
}

impl<M: Machine> Subject<M> for Passage<'_, M> {
    type Refused = Infallible;

    #[inline]
    fn dma(&self) -> &Dma<M> {
        self.raw.dma
    }

    #[inline]
    fn knows(&self) -> Knowledge {
        self.raw.knows.get()
    }

    #[inline]
    fn learn(&mut self, knows: Knowledge) {
        self.raw.knows.set(knows);
    }

    #[inline]
    fn map(&mut self, memory: MemoryType) -> Result<Mapped, Infallible> {
        let &mut Self { raw, stay } = self;
        let mapped = raw.dma.map(raw.slot, raw, memory, stay);
        raw.va.set(mapped.va());
        if stay == Stay::ToLast {
            raw.placed.set(true);
        }
        raw.map_changes.set(raw.map_changes.get() + 1);
        Ok(mapped)
    }

    #[inline]
    fn unmap(&mut self, mapped: Mapped) {
        self.raw.dma.unmap(mapped);
        self.raw.map_changes.set(self.raw.map_changes.get() + 1);
    }

    #[inline]
    fn take_mapping(&mut self) -> Option<Mapped> {
        self.raw.mapped.take()
    }

    #[inline]
    fn keep(&mut self, mapped: Mapped) {
        self.raw.mapped.set(Some(mapped));
    }

    /// Calls `each` with runs of frames of one residue. In a fresh buffer each frame has what its own last owner left.
    #[inline]
    fn for_each_residue(&self, frames: FrameRange, mut each: impl FnMut(FrameRange, Residue)) {
        if self.raw.in_ledger.get() {
            self.raw.dma.for_each_residue(frames, each);
        } else {
            each(frames, self.raw.knows.get().residue);
        }
    }

    #[inline]
    fn count(&self, done: Done) {
        let (raw, counters) = (self.raw, &self.raw.dma.counters);
        match done {
            Done::Cleaned(lines) => {
                counters.cleaned.add(lines);
                raw.cleaned.set(raw.cleaned.get() + lines);
            }
            Done::Dropped(lines) => {
                counters.invalidated.add(lines);
                raw.invalidated.set(raw.invalidated.get() + lines);
            }
            Done::Zeroed(bytes) => {
                counters.zeroed.fetch_add(bytes.into(), Ordering::Relaxed);
            }
        }
    }

    #[inline]
    fn hold(&mut self, holder: Holder) {
        let raw = self.raw;
        // From here on all frames have one residue.
        raw.in_ledger.set(false);
        raw.dma.standings[raw.slot.0].set(holder, raw.knows.get().residue);
        raw.transitions.set(raw.transitions.get() + 1);
    }
}

impl<M: Machine> Drop for Raw<M> {
    fn drop(&mut self) {
        if self.exposed.get() {
            self.run(Transition::Quarantine);
            self.dma.quarantine(self.slot, self.knows.get().residue);
        } else {
            self.run(Transition::Free);
            let residue = self.knows.get().residue;
            let body = self.body.take().expect("there until it is dropped");
            let residue = if body.in_ledger.get() { None } else { Some(residue) };
            self.dma.give_back(self.slot, residue, body);
        }
    }
}
