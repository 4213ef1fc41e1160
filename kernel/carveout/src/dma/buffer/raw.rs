//! The part that all states of a buffer share, and how a buffer goes through a transition
//! ([`exec`](crate::dma::exec)).
//!
//! Guarantees: when a buffer is dropped, in whatever state, its frames are freed or kept in quarantine.

use crate::addr::{FRAME_SHIFT, FrameRange, VirtAddr};
use crate::dma::body::Body;
use crate::dma::buffer::direction::{DataDirection, DirectionError};
use crate::dma::buffer::effort::Effort;
use crate::dma::exec::{Books, Done, Subject, run};
use crate::dma::handle::{BufferState, Handle, HandleError};
use crate::dma::registry::{Dma, Stay};
use crate::events::{EventKind, note_frames};
use crate::holder::Holder;
use crate::machine::Machine;
use crate::protocol::{Knowledge, Span, Transition};
use crate::vm::attr::MemoryType;
use crate::vm::ledger::{LedgerError, Residue};
use crate::vm::mapped::Mapped;
use core::convert::Infallible;
use core::mem;
use core::ops::{Deref, Range};

/// The part that all states share. Its drop frees the frames, or quarantines them if a device may still use them.
pub(super) struct Raw<M: Machine + 'static> {
    pub(super) dma: &'static Dma<M>,
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
        self.run_in(&mut self.books(), transition);
    }

    /// Returns the books, without their lock.
    pub(super) const fn books(&self) -> Books<'static, M> {
        Books::unlocked(self.dma)
    }

    /// Does what is due of a transition, in the turn of the lock that `books` has, if it has one.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `exec::run`")]
    pub(super) fn run_in(&self, books: &mut Books<'static, M>, transition: Transition) {
        let stay = match transition {
            Transition::IntoStream | Transition::IntoDevice => Stay::InPassing,
            _ => Stay::ToLast,
        };
        let mut passage = Passage { raw: self, stay, books };
        let Ok(()) = run(&mut passage, transition);
        // Who called keeps the turn.
        mem::forget(passage);
    }

    /// Takes note whether former owners left so many lines that whole caches are emptied.
    #[inline]
    pub(super) fn weigh(&self, books: &mut Books<'static, M>) {
        if self.knows.get().residue > Residue::Nothing && self.empties_caches_for(self.frames().count()) {
            self.weigh_each(books);
        }
    }

    /// Weighs a buffer that is large enough. Only some of its frames may have lines.
    #[cold]
    #[inline(never)]
    fn weigh_each(&self, books: &mut Books<'static, M>) {
        let frames = if self.in_ledger.get() {
            books.state().ledger.frames_with_lines(self.place)
        } else {
            self.frames().count()
        };
        let many = self.empties_caches_for(frames);
        self.knows.set(Knowledge { many, ..self.knows.get() });
    }

    /// Returns whether whole caches are emptied where all lines of so many frames are due.
    #[inline]
    fn empties_caches_for(&self, frames: u32) -> bool {
        self.dma.empties_caches_for(u64::from(frames) << FRAME_SHIFT)
    }

    /// Maps pages of the buffer, from page `first` on, where they are whenever all of it is mapped.
    ///
    /// # Errors
    ///
    /// The ledger refuses: something else has some of them mapped.
    pub(super) fn map_pages(&self, first: u32, frames: FrameRange, memory: MemoryType) -> Result<Mapped, LedgerError> {
        let mapped = self.dma.map_part(self, frames, memory)?;
        self.va.set(VirtAddr::new(mapped.va().raw() - (first << FRAME_SHIFT)));
        self.placed.set(true);
        self.map_changes.set(self.map_changes.get() + 1);
        Ok(mapped)
    }

    /// Ends a mapping of pages of the buffer.
    pub(super) fn unmap_pages(&self, mapped: Mapped) {
        self.dma.unmap_part(&mut self.dma.state.lock(), mapped);
        self.map_changes.set(self.map_changes.get() + 1);
    }

    /// Puts the buffer away, in this state, under its handle.
    pub(super) fn put_away(mut self, state: BufferState, direction: Option<DataDirection>) -> Handle {
        let body = self.body.take().expect("there until it is dropped");
        let handle = self.dma.put_away(body, state, direction);
        // The drop would free it.
        mem::forget(self);
        handle
    }

    /// Takes a buffer out that was put away, if it is in this state and `accept` takes its direction.
    pub(super) fn take_out<T>(
        dma: &'static Dma<M>,
        handle: Handle,
        state: BufferState,
        accept: impl FnOnce(Option<DataDirection>) -> Result<T, DirectionError>,
    ) -> Result<(Self, T), HandleError> {
        let (body, accepted) = dma.take_out(handle, state, accept)?;
        Ok((Self { dma, body: Some(body) }, accepted))
    }

    /// Returns the bytes that were asked for. No device accesses more.
    pub(super) fn asked(&self) -> Span {
        Span { start: 0, end: self.bytes }
    }

    pub(super) fn pointer(&self) -> *mut u8 {
        self.dma.machine.reach(self.va.get(), self.bytes)
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

    /// Returns whether the buffer's mapping stays when it is freed: it is coherent, so no line is left.
    #[inline]
    fn stays_mapped(&self) -> bool {
        let knows = self.knows.get();
        knows.mapped && knows.residue <= Residue::Nothing && self.dma.keeps_mapped()
    }

    /// Counts what a step did.
    #[inline]
    pub(super) fn count(&self, done: Done) {
        done.add_to(&self.dma.counters, self.standing.born());
        match done {
            Done::Cleaned(lines) => self.cleaned.set(self.cleaned.get() + lines),
            Done::Dropped(lines) | Done::Flushed(lines) => self.invalidated.set(self.invalidated.get() + lines),
            Done::Zeroed(_) => {}
        }
    }

    /// Returns the effort that it took so far.
    pub(super) fn effort(&self) -> Effort {
        Effort {
            transitions: self.transitions.get(),
            map_changes: self.map_changes.get(),
            cleaned: self.cleaned.get(),
            invalidated: self.invalidated.get(),
        }
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
    books: &'r mut Books<'static, M>,
}

/// If a step panics, the lock is given up before the buffer is dropped, which takes it.
impl<M: Machine> Drop for Passage<'_, M> {
    fn drop(&mut self) {
        self.books.unlock();
    }
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
        let &mut Self { raw, stay, ref mut books } = self;
        let mapped = raw.dma.map(books.state(), raw, memory, stay);
        raw.va.set(mapped.va());
        if stay == Stay::ToLast {
            raw.placed.set(true);
        }
        raw.map_changes.set(raw.map_changes.get() + 1);
        Ok(mapped)
    }

    #[inline]
    fn unmap(&mut self, mapped: Mapped) {
        self.raw.dma.unmap(self.books.state(), self.raw.place, mapped);
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

    #[inline]
    fn unlock(&mut self) {
        self.books.unlock();
    }

    /// Calls `each` with runs of frames of one residue. In a fresh buffer each frame has what its own last owner left.
    #[inline]
    fn for_each_residue(&self, frames: FrameRange, mut each: impl FnMut(FrameRange, Residue)) {
        if self.raw.in_ledger.get() {
            self.raw.dma.for_each_residue(frames, each);
            return;
        }
        let (residue, zeroed) = (self.raw.knows.get().residue, self.raw.zeroed.get());
        match frames.split_at(zeroed) {
            // Its mapping waited for it, and idle time zeroed the first frames.
            Some((done, rest)) if zeroed > 0 && residue > Residue::Zeroed && !rest.is_empty() => {
                each(done, Residue::Zeroed);
                each(rest, residue);
            }
            _ => each(frames, residue),
        }
    }

    #[inline]
    fn count(&self, done: Done) {
        self.raw.count(done);
    }

    #[inline]
    fn hold(&mut self, holder: Holder) {
        self.raw.hold(holder, self.raw.knows.get().residue);
    }
}

impl<M: Machine> Drop for Raw<M> {
    #[inline]
    fn drop(&mut self) {
        if self.stays_mapped() && !self.exposed.get() {
            let body = self.body.take().expect("there until it is dropped");
            if let Err(body) = self.dma.shelve(body) {
                self.dma.keep_warm(&mut self.dma.state.lock(), body);
            }
        } else {
            self.end();
        }
    }
}

impl<M: Machine> Raw<M> {
    /// Frees the frames, or quarantines them if a device may still use them. No mapping of them stays.
    #[inline(never)]
    fn end(&mut self) {
        let mut books = self.books();
        if self.exposed.get() {
            self.run_in(&mut books, Transition::Quarantine);
            self.dma.quarantine(books.state(), self.slot, self.knows.get().residue);
            return;
        }
        self.run_in(&mut books, Transition::Free);
        let residue = if self.in_ledger.get() { None } else { Some(self.knows.get().residue) };
        let body = self.body.take().expect("there until it is dropped");
        let area = body.area;
        note_frames(EventKind::Free, 0, body.standing.born(), body.frames());
        books.state().give_back(residue, body);
        if self.dma.keeps_mapped() {
            self.dma.note_idle(books.state(), area.into());
        }
    }
}
