//! The part that all states of a buffer share. It alone executes the rows of the [`protocol`](crate::protocol).
//!
//! Guarantees: when a buffer is dropped, in whatever state, its frames are freed or kept in quarantine.

use crate::addr::FRAME_SHIFT;
use crate::addr::FrameRange;
use crate::dma::body::Body;
use crate::dma::registry::{BufferSlot, Dma, Stay};
use crate::machine::{Lines, Machine};
use crate::protocol::{Due, Op, Span, Transition};
use crate::vm::ledger::Residue;
use crate::vm::mapped::Part;
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
    /// Does what is due of a transition, in the order of its row.
    ///
    /// The steps are written out and inlined. Each transition is known where it is made, so the compiler keeps only the
    /// steps of its row that may be due. In a loop over the row, the questions would cost as much as the answers.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a matter of hundreds of instructions: BENCH.md")]
    pub(super) fn run(&self, transition: Transition) {
        const { assert!(Transition::LONGEST == 6) };
        let row = transition.row();
        let stay = match transition {
            Transition::IntoStream | Transition::IntoDevice => Stay::InPassing,
            _ => Stay::ToLast,
        };
        self.step(row.first(), stay);
        self.step(row.get(1), stay);
        self.step(row.get(2), stay);
        self.step(row.get(3), stay);
        self.step(row.get(4), stay);
        self.step(row.get(5), stay);
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `run`")]
    fn step(&self, due: Option<&Due>, stay: Stay) {
        if let Some(&(when, op)) = due
            && self.knows.get().due(when)
        {
            self.execute(op, stay);
            self.knows.set(self.knows.get().after(op));
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `run`")]
    fn execute(&self, op: Op, stay: Stay) {
        let knows = self.knows.get();
        match op {
            Op::Map(memory) => {
                let mapped = self.dma.map(self.slot, self, memory, stay);
                self.va.set(mapped.va());
                if stay == Stay::ToLast {
                    self.placed.set(true);
                }
                self.mapped.set(Some(mapped));
                self.map_changes.set(self.map_changes.get() + 1);
            }
            Op::Unmap => {
                // It is missing only while a panic unwinds that began while it was taken.
                if let Some(mapped) = self.mapped.take() {
                    self.dma.unmap(mapped);
                    self.map_changes.set(self.map_changes.get() + 1);
                }
            }
            Op::Clean => {
                let lines = self.maintain(knows.written, M::clean);
                self.dma.counters.cleaned.add(lines);
                self.cleaned.set(self.cleaned.get() + lines);
            }
            Op::Invalidate => self.drop_lines(knows.stale, M::invalidate),
            Op::Discard => self.for_each_residue(|run, residue| {
                if residue > Residue::Nothing {
                    self.drop_lines(self.span_of(run), M::discard);
                }
            }),
            Op::Zero => {
                let start = self.pointer();
                self.for_each_residue(|run, residue| {
                    if residue > Residue::Zeroed {
                        let first = start.wrapping_add(self.span_of(run).start as usize);
                        // SAFETY: the frames are mapped at `va` for their whole length, writable, and this value owns
                        // them.
                        unsafe { self.dma.machine.zero(first, run.bytes() as usize) };
                        self.dma.counters.zeroed.fetch_add(run.bytes(), Ordering::Relaxed);
                    }
                });
            }
            Op::DeviceBarrier => self.dma.machine.device_barrier(),
            Op::Mark(_) => unreachable!("in no row of a buffer: it is `give_back` that tells the ledger"),
            Op::Hold(holder) => {
                // From here on all frames have one residue.
                self.in_ledger.set(false);
                self.dma.standings[self.slot.0].set(holder, knows.residue);
                self.transitions.set(self.transitions.get() + 1);
            }
        }
    }

    /// Calls `each` with runs of frames of one residue. In a fresh buffer each frame has what its own last owner left.
    fn for_each_residue(&self, each: impl FnMut(FrameRange, Residue)) {
        if self.in_ledger.get() {
            self.dma.for_each_residue(self.frames, each);
        } else {
            let mut each = each;
            each(self.frames, self.knows.get().residue);
        }
    }

    fn drop_lines(&self, span: Span, work: impl FnOnce(&M, Part<'_>) -> Lines) {
        let lines = self.maintain(span, work);
        self.dma.counters.invalidated.add(lines);
        self.invalidated.set(self.invalidated.get() + lines);
    }

    fn maintain(&self, span: Span, work: impl FnOnce(&M, Part<'_>) -> Lines) -> Lines {
        let mapped = self.mapped.take().expect("maintenance needs a mapping (I3)");
        let part = mapped.part(span.start, span.end).expect("spans are cut to the buffer");
        let lines = work(self.dma.machine, part);
        self.mapped.set(Some(mapped));
        lines
    }

    /// Returns the bytes of some of its frames.
    fn span_of(&self, run: FrameRange) -> Span {
        let start = (run.start() - self.frames.start()) << FRAME_SHIFT;
        Span { start, end: start + (run.count() << FRAME_SHIFT) }
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
