//! Buffers that nobody has, and that stay mapped: how they come to wait, are prepared, begin again and end.
//!
//! Guarantees: their steps are those of the protocol's rows ([`exec`](crate::dma::exec)). What waits is told from what
//! somebody has, in every report. Whoever takes frames calls [`Dma::evict_from`] or the like first, under the lock
//! under which it took them.

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, Frame, FrameRange, VirtAddr};
use crate::dma::body::Body;
use crate::dma::buffer::Coherent;
use crate::dma::exec::{Books, Done, Subject, run};
use crate::dma::kind::Kind;
use crate::dma::master::{AreaId, Master};
use crate::dma::records::{BufferSlot, Entry};
use crate::dma::registry::{Dma, State};
use crate::dma::shelf::{SHARE, Shelved};
use crate::dma::warm::{AfterFree, CAN_KEEP, WARM, WarmBuffer};
use crate::events::{EventKind, note_frames};
use crate::holder::Holder;
use crate::machine::Machine;
use crate::protocol::{Knowledge, Transition};
use crate::vm::ledger::{LedgerPlace, Residue};
use crate::vm::mapped::Mapped;
use core::convert::Infallible;
use core::sync::atomic::Ordering;

/// Frames that nobody has, and their mapping.
struct Idle<'s, M: Machine + 'static> {
    dma: &'s Dma<M>,
    state: &'s mut State,
    place: LedgerPlace,
    mapped: Option<Mapped>,
    knows: Knowledge,
}

impl<M: Machine> Subject<M> for Idle<'_, M> {
    type Refused = Infallible;

    fn dma(&self) -> &Dma<M> {
        self.dma
    }

    fn knows(&self) -> Knowledge {
        self.knows
    }

    fn learn(&mut self, knows: Knowledge) {
        self.knows = knows;
    }

    fn unmap(&mut self, mapped: Mapped) {
        self.dma.unmap(self.state, self.place, mapped);
    }

    fn take_mapping(&mut self) -> Option<Mapped> {
        self.mapped.take()
    }

    fn count(&self, done: Done) {
        done.add_to(&self.dma.counters, 0);
    }
}

/// A coherent buffer that begins or ends, and stays mapped.
struct Staying<'b, M: Machine + 'static> {
    dma: &'static Dma<M>,
    body: &'b Body,
    knows: Knowledge,
}

impl<M: Machine> Subject<M> for Staying<'_, M> {
    type Refused = Infallible;

    #[inline]
    fn dma(&self) -> &Dma<M> {
        self.dma
    }

    #[inline]
    fn knows(&self) -> Knowledge {
        self.knows
    }

    #[inline]
    fn learn(&mut self, knows: Knowledge) {
        self.knows = knows;
    }

    fn take_mapping(&mut self) -> Option<Mapped> {
        self.body.mapped.take()
    }

    fn keep(&mut self, mapped: Mapped) {
        self.body.mapped.set(Some(mapped));
    }

    /// Idle time may have zeroed the first frames.
    fn for_each_residue(&self, frames: FrameRange, mut each: impl FnMut(FrameRange, Residue)) {
        let (done, rest) = frames.split_at(self.body.zeroed.get()).expect("a part of them");
        if !done.is_empty() {
            each(done, Residue::Zeroed);
        }
        if !rest.is_empty() {
            each(rest, self.knows.residue);
        }
    }

    fn count(&self, done: Done) {
        done.add_to(&self.dma.counters, self.body.standing.born());
    }

    #[inline]
    fn hold(&mut self, holder: Holder) {
        self.body.hold(holder, self.knows.residue);
    }
}

/// A warm buffer of which some frames are zeroed.
struct Filling<'b, 'd, M: Machine + 'static> {
    books: &'b mut Books<'d, M>,
    body: &'static mut Body,
    /// The first of the frames, counted from the buffer's, and how many they are.
    start: u32,
    count: u32,
    knows: Knowledge,
}

impl<M: Machine> Subject<M> for Filling<'_, '_, M> {
    type Refused = Infallible;

    fn dma(&self) -> &Dma<M> {
        self.books.dma()
    }

    fn knows(&self) -> Knowledge {
        self.knows
    }

    fn learn(&mut self, knows: Knowledge) {
        self.knows = knows;
    }

    fn take_mapping(&mut self) -> Option<Mapped> {
        self.body.mapped.take()
    }

    fn keep(&mut self, mapped: Mapped) {
        self.body.mapped.set(Some(mapped));
    }

    fn unlock(&mut self) {
        self.books.unlock();
    }

    fn for_each_residue(&self, frames: FrameRange, mut each: impl FnMut(FrameRange, Residue)) {
        let part = frames.split_at(self.start).and_then(|(_, rest)| rest.split_at(self.count));
        each(part.expect("a part of it").0, self.knows.residue);
    }

    fn count(&self, _: Done) {}

    /// The frames are zeroed, which the buffer's own count says: the ledger is told when the mapping ends.
    fn mark(&mut self, _: Residue) {
        self.body.zeroed.set(self.start + self.count);
    }
}

impl State {
    /// Gives a new buffer the mapping that waited at just these frames, if one did. Returns its record's place.
    #[inline]
    pub(super) fn reuse(&mut self, frames: FrameRange) -> Option<BufferSlot> {
        let at = self.warm.exact(frames)?;
        self.warm.reused += 1;
        Some(self.warm.list.swap_remove(at).slot)
    }

    /// Gives a new buffer the mapping that waited at an idle contract slot, if one did. Returns whether one did.
    #[inline]
    pub(super) fn reuse_slot(&mut self, slot: BufferSlot) -> bool {
        let waited = self.end_wait_at(slot);
        self.warm.reused += u64::from(waited);
        waited
    }

    /// Takes the mapping that waits at an idle contract slot off the count. Returns whether one waits.
    #[inline]
    fn end_wait_at(&mut self, slot: BufferSlot) -> bool {
        let waits = CAN_KEEP && self.warm.slots > 0 && self.records.get(slot).standing.is_spare();
        self.warm.slots -= u32::from(waits);
        waits
    }

    /// Returns whether an address is in a mapping that waits.
    pub(super) fn warm_frame_at(&self, va: VirtAddr) -> Option<Frame> {
        let frame = self.images.frame_at(va)?;
        let in_warm = self.warm.list().iter().any(|warm| {
            let body = self.records.get(warm.slot).body.as_deref();
            body.is_some_and(|body| {
                body.frames().contains(frame)
                    && body.address().is_some_and(|first| {
                        first.raw() + ((frame.number() - body.frames().start()) << FRAME_SHIFT)
                            == va.raw() & !(FRAME_SIZE - 1)
                    })
            })
        });
        in_warm.then_some(frame)
    }
}

impl<M: Machine> Dma<M> {
    /// Says what becomes of the mappings of coherent buffers that are freed from now on. With [`AfterFree::Unmap`], all
    /// that waited end. A recall or idle work that is under way is waited for then.
    pub fn set_after_free(&self, after: AfterFree) {
        let keeps = after.keeps_mapped();
        self.keeps_mapped.store(keeps, Ordering::Relaxed);
        if !keeps {
            // While this core has the turn, nobody has any in hand.
            let _turn = self.work.wait();
            self.empty_shelves();
            let mut state = self.state.lock();
            while !state.warm.is_empty() {
                self.evict(&mut state, 0);
            }
            self.evict_slots(&mut state, |_| true);
        }
    }

    /// Returns whether freed coherent buffers keep their mappings.
    #[inline]
    pub(super) fn keeps_mapped(&self) -> bool {
        CAN_KEEP && self.keeps_mapped.load(Ordering::Relaxed)
    }

    /// Frees a coherent buffer, which keeps its mapping. It went through the row [`Transition::Warm`].
    pub(super) fn keep_warm(&self, state: &mut State, body: &'static mut Body) {
        let slot = body.slot;
        note_frames(EventKind::Free, 0, body.standing.born(), body.frames());
        body.zeroed.set(0);
        body.standing.set_spare();
        let record = state.records.get_mut(slot);
        record.body = Some(body);
        let Entry::Used(kept) = &mut record.entry else { unreachable!("a buffer has a record") };
        let (extent, area) = (kept.extent, kept.area);
        if let Some(id) = kept.slot.take()
            && state.contracts[id.contract].give_back(id)
        {
            record.entry = Entry::Promised;
            state.warm.slots += 1;
            state.areas[area.0].give_slot_back(extent);
            return;
        }
        self.add_warm(state, WarmBuffer { slot, extent, area });
        state.areas[area.0].give_back_seen(extent);
        self.note_idle(state, area.0);
    }

    /// Adds a warm buffer, in the place of another one if there are as many as may be.
    #[inline]
    fn add_warm(&self, state: &mut State, warm: WarmBuffer) {
        if state.warm.list.len() == WARM {
            state.warm.next = (state.warm.next + 1) % WARM;
            self.evict(state, state.warm.next);
        }
        state.warm.list.push(warm);
    }

    /// Evicts what is warm of these frames, before somebody else has them. Returns whether anything was.
    #[inline]
    pub(super) fn evict_from(&self, state: &mut State, frames: FrameRange) -> bool {
        !state.warm.is_empty() && self.evict_all_from(state, frames)
    }

    #[inline(never)]
    fn evict_all_from(&self, state: &mut State, frames: FrameRange) -> bool {
        let before = state.warm.list.len();
        while let Some(at) = state.warm.overlapping(frames) {
            self.evict(state, at);
        }
        state.warm.list.len() < before
    }

    /// Ends the warm mapping of that number.
    #[inline(never)]
    fn evict(&self, state: &mut State, at: usize) {
        let WarmBuffer { slot, extent, area } = state.warm.list.swap_remove(at);
        if self.cool(state, slot) {
            state.areas[area.0].note_unseen(extent);
        }
        state.records.give_back(slot);
    }

    /// Ends the mapping of a buffer that nobody has, and tells the ledger what is known of its frames. Returns whether
    /// some are not zeroed.
    fn cool(&self, state: &mut State, slot: BufferSlot) -> bool {
        state.warm.evicted += 1;
        let body = state.records.get_mut(slot).body.as_deref_mut().expect("its record has the body");
        let (place, zeroed, knows) = (body.place, body.zeroed.get(), body.spare_knowledge());
        let mapped = body.mapped.take();
        // Whoever has the record next has nothing mapped.
        body.standing.end();
        let Ok(()) = run(&mut Idle { dma: self, state, place, mapped, knows }, Transition::Evict);
        state.ledger.give_image_at(place);
        let (done, rest) = place.frames().split_at(zeroed).expect("a part of them");
        if !done.is_empty() {
            state.ledger.set_residue(done, Residue::Zeroed);
        }
        if !rest.is_empty() {
            state.ledger.set_residue(rest, Residue::Nothing);
        }
        !rest.is_empty()
    }

    /// Zeroes up to `most` frames of a warm buffer of an area, without the lock. Returns how many. Meanwhile the buffer
    /// is nobody's: no one evicts it. The caller has the work lane.
    pub(super) fn zero_warm(&self, books: &mut Books<'_, M>, area: AreaId, most: u32) -> u32 {
        let state = books.state();
        let records = &state.records;
        let lacks = |warm: &WarmBuffer| {
            let body = records.get(warm.slot).body.as_deref();
            warm.area == area && body.is_some_and(|body| body.zeroed.get() < body.frames().count())
        };
        let Some(at) = state.warm.list().iter().position(lacks) else { return 0 };
        let WarmBuffer { slot, extent, .. } = state.warm.list[at];
        if !state.areas[area.0].begin_zeroing_warm(extent) {
            return 0;
        }
        let warm = state.warm.list.swap_remove(at);
        let body = state.records.get_mut(slot).body.take().expect("its record has the body");
        let (body, count) = zero_part(books, body, most);
        let state = books.state();
        state.records.get_mut(slot).body = Some(body);
        self.add_warm(state, warm);
        state.areas[area.0].end_zeroing(extent);
        count
    }

    /// Gives a buffer that was on a shelf back to its area: its mapping ends.
    fn unshelve(&self, body: &'static mut Body) {
        let slot = body.slot;
        let mut guard = self.state.lock();
        let (state, knows, mapped) = (&mut *guard, body.spare_knowledge(), body.mapped.take());
        let Ok(()) = run(&mut Idle { dma: self, state, place: body.place, mapped, knows }, Transition::Evict);
        let area = state.kept_mut(slot).area;
        body.standing.end();
        state.give_back(Some(knows.residue), body);
        self.note_idle(state, area.0);
    }

    /// Evicts a warm buffer of an area at which no request is foreseen. Returns whether there was one.
    pub(super) fn evict_unforeseen(&self, state: &mut State, area: AreaId) -> bool {
        let Some(memory) = state.areas.get(area.0) else { return false };
        let unforeseen = |warm: &WarmBuffer| warm.area == area && !memory.foresees(warm.extent.frames());
        let Some(at) = state.warm.list().iter().position(unforeseen) else { return false };
        self.evict(state, at);
        true
    }

    /// Ends the mapping that waits at an idle contract slot, if one does.
    pub(super) fn evict_slot(&self, state: &mut State, slot: BufferSlot) {
        if state.end_wait_at(slot) {
            self.cool(state, slot);
        }
    }

    /// Ends the mappings that wait at idle contract slots whose frames pass a test.
    fn evict_slots(&self, state: &mut State, test: impl Fn(FrameRange) -> bool) {
        for number in 0..state.contracts.len() {
            self.evict_slots_that(state, number, &test);
        }
    }

    /// Ends the mappings that wait at a contract's idle slots.
    pub(super) fn evict_slots_of(&self, state: &mut State, contract: usize) {
        self.evict_slots_that(state, contract, &|_| true);
    }

    fn evict_slots_that(&self, state: &mut State, contract: usize, test: &impl Fn(FrameRange) -> bool) {
        while CAN_KEEP && state.warm.slots > 0 {
            let mapped = |slot: &BufferSlot| state.records.get(*slot).standing.is_spare();
            let slots = state.contracts[contract].idle_slots().filter(|(frames, _)| test(*frames));
            let Some(slot) = slots.map(|(_, slot)| slot).find(mapped) else { return };
            self.evict_slot(state, slot);
        }
    }

    /// Evicts what is warm of frames that loans got, which may be of contracts' slots.
    #[cfg(feature = "loans")]
    pub(super) fn evict_for_loan(&self, state: &mut State, frames: FrameRange) {
        self.evict_from(state, frames);
        self.evict_slots(state, |slot| slot.overlaps(frames));
    }

    /// Begins a coherent buffer in a record whose mapping waited for it. Once the record says so, the lock is given up.
    #[inline]
    pub(super) fn reused(
        &'static self,
        books: &mut Books<'static, M>,
        slot: BufferSlot,
        master: &Master,
        bytes: u32,
        kind: Option<Kind>,
    ) -> Coherent<M> {
        let record = books.state().records.get_mut(slot);
        let body = record.body.take().expect("its record has the body");
        // A master of the same number has the same name, and sees the frames at the same address.
        let (mut bus, same) = (body.bus, kind.is_some_and(|kind| body.kind.is_some_and(|was| was.is_of(kind))));
        if let (false, Entry::Used(kept)) = (same, &mut record.entry) {
            kept.owner = master.name();
            bus = master.bus(body.frames().base()).expect("frames within the reach they were allocated in");
        }
        let born = self.counters.born();
        body.standing.begin(bytes, born);
        body.standing.set(Holder::Nobody, Residue::Nothing);
        note_frames(EventKind::Alloc, master.number(), born, body.frames());
        books.unlock();
        body.kind = kind;
        body.reuse(bytes, bus);
        self.reuse(body, body.knows.get());
        Coherent::new(self, body)
    }

    /// Ends a coherent buffer that no device may access, and that has no lines. Puts it on this core's shelf, or
    /// returns the body if it has no place there.
    #[inline]
    pub(super) fn shelve(&'static self, body: &'static mut Body) -> Result<(), &'static mut Body> {
        let (knows, area) = (body.knows.get(), body.area);
        let mut ends = Staying { dma: self, body, knows };
        let Ok(()) = run(&mut ends, Transition::Warm);
        let (Some(kind), plenty) = (body.kind, self.shelves.plenty.load(Ordering::Relaxed)) else { return Err(body) };
        if plenty >> area & 1 == 0 {
            return Err(body);
        }
        body.standing.set_spare();
        note_frames(EventKind::Free, 0, body.standing.born(), body.frames());
        self.shelves.put(kind, self.most_shelved[usize::from(area)], body)
    }

    /// Begins a coherent buffer, in place of one of its kind that waited on a shelf.
    #[inline]
    pub(super) fn unshelved(&'static self, shelved: Shelved, master: &Master, bytes: u32) -> Coherent<M> {
        let body = match shelved {
            Shelved::Zeroed(body) => {
                body.bytes = bytes;
                let knows = Knowledge { mapped: true, ..Knowledge::new(Residue::Zeroed) };
                self.reuse(body, knows);
                body
            }
            Shelved::Used(body) => self.reuse_used(body, bytes),
        };
        let born = self.counters.born();
        body.standing.begin(bytes, born);
        note_frames(EventKind::Alloc, master.number(), born, body.frames());
        Coherent::new(self, body)
    }

    #[cold]
    fn reuse_used(&'static self, body: &'static mut Body, bytes: u32) -> &'static mut Body {
        body.reuse(bytes, body.bus);
        self.reuse(body, body.knows.get());
        body
    }

    /// Makes a buffer that waited coherent.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `exec::run`")]
    fn reuse(&'static self, body: &Body, knows: Knowledge) {
        let mut begins = Staying { dma: self, body, knows };
        let Ok(()) = run(&mut begins, Transition::Reuse);
        body.knows.set(begins.knows);
    }

    /// Gives all that is on shelves back to the areas. Returns whether there was anything.
    #[inline]
    pub(super) fn empty_shelves(&self) -> bool {
        self.shelves.frames() > 0 && self.empty_all()
    }

    #[cold]
    fn empty_all(&self) -> bool {
        let mut any = false;
        while let Some((_, body)) = self.shelves.take_any(true) {
            self.unshelve(body);
            any = true;
        }
        any
    }

    /// Zeroes up to `most` frames of a buffer on a shelf, through its mapping. Returns how many. The caller has the
    /// work lane.
    pub(super) fn zero_shelved(&self, most: u32) -> u32 {
        if self.shelves.frames() == 0 {
            return 0;
        }
        let Some((core, body)) = self.shelves.take_any(false) else { return 0 };
        let (body, done) = zero_part(&mut Books::unlocked(self), body, most);
        if let Some(kind) = body.kind
            && let Err(body) = self.shelves.put_back(core, kind, body)
        {
            self.unshelve(body);
        }
        done
    }

    /// Takes note of how much of an area is idle, for those who put buffers on shelves.
    #[inline]
    pub(super) fn note_idle(&self, state: &State, area: usize) {
        self.shelves.note_idle(area, state.areas[area].idle_frames(), self.most_shelved[area] * SHARE);
    }
}

/// Zeroes up to `most` frames of a buffer that nobody has, through its mapping, without the lock. Returns how many.
fn zero_part<M: Machine>(books: &mut Books<'_, M>, body: &'static mut Body, most: u32) -> (&'static mut Body, u32) {
    let start = body.zeroed.get();
    let count = most.min(body.frames().count() - start);
    let knows = Knowledge { mapped: true, ..Knowledge::new(Residue::Nothing) };
    let mut filling = Filling { books, body, start, count, knows };
    let Ok(()) = run(&mut filling, Transition::FillWarm);
    (filling.body, count)
}
