//! The executor: it runs the rows of the [`protocol`](crate::protocol) for buffers, blocks of pools, ports, lent
//! pages, mappings that stay, the reserve and areas that come and go.
//!
//! Guarantees: nothing else maps, unmaps, maintains or zeroes carved frames. Each transition does what is due of its
//! row, in the row's order. The lock of the books is given up before lines are maintained, bytes are zeroed or
//! barriers are passed ([`Books`]).

use crate::addr::{FRAME_SHIFT, FrameRange};
use crate::dma::registry::{Counters, Dma, State};
use crate::events::{EventKind, note};
use crate::holder::Holder;
use crate::machine::{Lines, Machine};
use crate::protocol::{Due, Knowledge, Op, Span, Transition};
use crate::sync::Guard;
use crate::vm::attr::MemoryType;
use crate::vm::ledger::Residue;
use crate::vm::mapped::{Mapped, Part};
use core::sync::atomic::Ordering;

/// The part of a step's work that is counted.
#[derive(Clone, Copy)]
pub(super) enum Done {
    /// Lines were cleaned.
    Cleaned(Lines),
    /// Lines were dropped.
    Dropped(Lines),
    /// Whole caches were emptied, of so many lines.
    Flushed(Lines),
    /// Bytes were zeroed.
    Zeroed(u32),
}

impl Done {
    /// Adds it to the counters of a DMA API. `buffer` is the number of the buffer that it was for, or 0.
    #[inline]
    pub(super) fn add_to(self, counters: &Counters, buffer: u64) {
        self.note(buffer);
        match self {
            Self::Cleaned(lines) => counters.cleaned.add(lines),
            Self::Dropped(lines) => counters.invalidated.add(lines),
            Self::Flushed(lines) => {
                counters.invalidated.add(lines);
                counters.flushes.fetch_add(1, Ordering::Relaxed);
            }
            Self::Zeroed(bytes) => {
                counters.zeroed.fetch_add(bytes.into(), Ordering::Relaxed);
            }
        }
    }

    /// Records it as an event.
    #[inline]
    fn note(self, buffer: u64) {
        let all = |lines: Lines| (lines.inner + lines.outer) as u32;
        let (kind, amount) = match self {
            Self::Cleaned(lines) => (EventKind::Clean, all(lines)),
            Self::Dropped(lines) => (EventKind::Invalidate, all(lines)),
            Self::Flushed(lines) => (EventKind::Flush, all(lines)),
            Self::Zeroed(bytes) => (EventKind::Zero, bytes),
        };
        note(kind, 0, buffer, (0, amount));
    }
}

/// Carved frames, or lines of them, that go through a transition.
pub(super) trait Subject<M: Machine + 'static> {
    /// The reason why they may not be mapped.
    type Refused;

    /// Returns the DMA API whose frames they are.
    fn dma(&self) -> &Dma<M>;

    /// Returns what is known of them.
    fn knows(&self) -> Knowledge;

    /// Takes note of what is known of them now.
    fn learn(&mut self, knows: Knowledge);

    /// Maps them.
    fn map(&mut self, _: MemoryType) -> Result<Mapped, Self::Refused> {
        unreachable!("in rows of whole buffers and pages alone");
    }

    /// Ends their mapping.
    fn unmap(&mut self, _: Mapped) {
        unreachable!("in rows of whole buffers and pages alone");
    }

    /// Hands out their mapping, which is kept again after a step or ends.
    fn take_mapping(&mut self) -> Option<Mapped> {
        unreachable!("in rows of whole buffers and pages alone");
    }

    /// Takes their mapping into keeping.
    fn keep(&mut self, _: Mapped) {
        unreachable!("in rows of whole buffers and pages alone");
    }

    /// Works through their mapping, without the lock.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `run`")]
    fn through_mapping(&mut self, work: impl FnOnce(&Self, &Mapped)) {
        self.unlock();
        let mapped = self.take_mapping().expect("lines and bytes need a mapping (I3)");
        work(self, &mapped);
        self.keep(mapped);
    }

    /// Gives up the lock of the books, if it is held: the next step takes long.
    fn unlock(&mut self) {}

    /// Calls `each` with runs of the frames that have the same residue.
    fn for_each_residue(&self, _: FrameRange, _: impl FnMut(FrameRange, Residue)) {
        unreachable!("in rows of whole buffers and pages alone");
    }

    /// Counts what a step did.
    fn count(&self, done: Done);

    /// Records who may touch them.
    fn hold(&mut self, _: Holder) {
        unreachable!("in rows of buffers alone");
    }

    /// Records in the ledger what the caches may hold of them.
    fn mark(&mut self, _: Residue) {
        unreachable!("in rows of frames that are no buffer's");
    }

    /// Ends the kernel's mappings of them.
    fn end_kernels(&mut self) -> Result<(), Self::Refused> {
        unreachable!("in rows of areas that come and go");
    }

    /// Gives users what they may have of them, through this mapping.
    fn map_users(&self, _: &Mapped) {
        unreachable!("in rows of shared buffers");
    }

    /// Takes from users what they have of them.
    fn unmap_users(&mut self) {
        unreachable!("in rows of shared buffers");
    }

    /// Gives the kernel the claim to them.
    fn yield_to_kernel(&mut self) {
        unreachable!("in rows of areas that come and go");
    }
}

/// Does what is due of a transition, in the order of its row, up to a mapping that is refused.
///
/// The steps are written out and inlined. Each transition is known where it is made, so the compiler keeps only the
/// steps of its row that may be due. In a loop over the row, the questions would cost as much as the answers.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a matter of hundreds of instructions: BENCH.md")]
pub(super) fn run<M: Machine + 'static, S: Subject<M>>(
    subject: &mut S,
    transition: Transition,
) -> Result<(), S::Refused> {
    const { assert!(Transition::LONGEST == 7) };
    let row = transition.row();
    step(subject, row.first())?;
    step(subject, row.get(1))?;
    step(subject, row.get(2))?;
    step(subject, row.get(3))?;
    step(subject, row.get(4))?;
    step(subject, row.get(5))?;
    step(subject, row.get(6))
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "as in `run`")]
fn step<M: Machine + 'static, S: Subject<M>>(subject: &mut S, due: Option<&Due>) -> Result<(), S::Refused> {
    if let Some(&(when, op)) = due
        && subject.knows().due(when)
    {
        execute(subject, op)?;
        subject.learn(subject.knows().after(op));
    }
    Ok(())
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "as in `run`")]
fn execute<M: Machine + 'static, S: Subject<M>>(subject: &mut S, op: Op) -> Result<(), S::Refused> {
    match op {
        Op::Map(memory) => {
            let mapped = subject.map(memory)?;
            subject.keep(mapped);
        }
        Op::Unmap => {
            // It is missing only while a panic unwinds that began while it was taken.
            if let Some(mapped) = subject.take_mapping() {
                subject.unmap(mapped);
            }
        }
        Op::Clean => {
            let span = subject.knows().written;
            subject.through_mapping(|subject, mapped| {
                let lines = subject.dma().machine.clean(part_of(mapped, span));
                subject.count(Done::Cleaned(lines));
            });
        }
        Op::Invalidate => {
            let span = subject.knows().stale;
            subject.through_mapping(|subject, mapped| {
                let lines = subject.dma().machine.invalidate(part_of(mapped, span));
                subject.count(Done::Dropped(lines));
            });
        }
        Op::Discard => subject.through_mapping(|subject, mapped| {
            subject.for_each_residue(mapped.frames(), |run, residue| {
                if residue > Residue::Nothing {
                    let lines = subject.dma().machine.discard(part_of(mapped, span_of(mapped, run)));
                    subject.count(Done::Dropped(lines));
                }
            });
        }),
        Op::Flush => {
            subject.unlock();
            let lines = subject.dma().machine.flush();
            subject.count(Done::Flushed(lines));
        }
        Op::Zero => subject.through_mapping(|subject, mapped| {
            subject.for_each_residue(mapped.frames(), |run, residue| {
                if residue > Residue::Zeroed {
                    let (machine, part) = (subject.dma().machine, part_of(mapped, span_of(mapped, run)));
                    let first = machine.reach_to_overwrite(part.va(), part.bytes());
                    // SAFETY: the part is mapped, writable, and whoever goes through the transition has its frames for
                    // itself (I4).
                    unsafe { machine.zero(first, part.bytes() as usize) };
                    subject.count(Done::Zeroed(part.bytes()));
                }
            });
        }),
        Op::DeviceBarrier => {
            subject.unlock();
            subject.dma().machine.device_barrier();
        }
        Op::Hold(holder) => subject.hold(holder),
        Op::Mark(residue) => subject.mark(residue),
        Op::Break => subject.end_kernels()?,
        Op::Yield => subject.yield_to_kernel(),
        Op::MapUsers => subject.through_mapping(Subject::map_users),
        Op::UnmapUsers => {
            subject.unlock();
            subject.unmap_users();
        }
    }
    Ok(())
}

fn part_of(mapped: &Mapped, span: Span) -> Part<'_> {
    mapped.part(span.start, span.end).expect("spans are cut to the mapping")
}

/// Returns the bytes of some of a mapping's frames.
fn span_of(mapped: &Mapped, run: FrameRange) -> Span {
    let start = (run.start() - mapped.frames().start()) << FRAME_SHIFT;
    Span { start, end: start + (run.count() << FRAME_SHIFT) }
}

/// The books during a transition. The first step that needs them takes the lock, and a step that takes long gives it
/// up.
pub(super) struct Books<'d, M: 'static> {
    dma: &'d Dma<M>,
    guard: Option<Guard<'d, State>>,
}

impl<'d, M> Books<'d, M> {
    /// Takes the lock of the books.
    #[track_caller]
    #[inline]
    pub(super) fn locked(dma: &'d Dma<M>) -> Self {
        Self { dma, guard: Some(dma.state.lock()) }
    }

    /// Begins without the lock of the books.
    pub(super) const fn unlocked(dma: &'d Dma<M>) -> Self {
        Self { dma, guard: None }
    }

    /// Returns the DMA API whose books they are.
    pub(super) const fn dma(&self) -> &'d Dma<M> {
        self.dma
    }

    /// Returns the books. Takes their lock, unless it is held.
    #[track_caller]
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `run`")]
    pub(super) fn state(&mut self) -> &mut State {
        match &mut self.guard {
            Some(guard) => guard,
            none => none.insert(self.dma.state.lock()),
        }
    }

    /// Gives up the lock, if it is held.
    #[inline]
    pub(super) fn unlock(&mut self) {
        self.guard = None;
    }
}
