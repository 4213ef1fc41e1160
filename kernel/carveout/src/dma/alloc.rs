//! Allocation: from a master's request to frames that are its own, and on to a state.
//!
//! Guarantees: a call that allocates a buffer in a state chooses its place, enters it in the books and maps it in one
//! turn of the lock, unless something has to be zeroed, maintained or moved between.

use crate::cma::area::{AllocError, Area, Taken};
use crate::cpu::interrupts_are_masked;
use crate::dma::body::Body;
use crate::dma::buffer::{Coherent, Contiguous, Cpu, DataDirection, DeviceOnly, Stream, TypedDirection};
use crate::dma::exec::Books;
use crate::dma::kind::Kind;
use crate::dma::lanes::Turn;
use crate::dma::master::{AreaId, Master};
use crate::dma::records::{Entry, Kept, RecordList};
use crate::dma::registry::{Dma, NOT_OURS};
use crate::events::{EventKind, note, note_frames};
use crate::holder::Holder;
use crate::machine::Machine;
use crate::vm::ledger::Residue;

/// A request for a buffer.
struct Request<'m> {
    master: &'m Master,
    bytes: u32,
    align: u32,
    kind: Option<Kind>,
}

impl<'m> Request<'m> {
    #[inline]
    fn of(master: &'m Master, bytes: u32, align: u32) -> Self {
        Self { master, bytes, align, kind: Kind::of(master, bytes, align) }
    }

    /// Takes frames for it.
    #[inline]
    fn take(&self, area: &mut Area) -> Result<Taken, AllocError> {
        area.alloc(self.kind, self.bytes, self.align, |run| self.master.places(run))
    }

    /// Records that it is refused. Returns the error, with the master's limits.
    #[inline]
    fn refused(&self, error: AllocError) -> AllocError {
        note(EventKind::Refusal, self.master.number(), 0, (0, self.bytes));
        error.within(|| self.master.limits())
    }
}

impl<M: Machine> Dma<M> {
    /// Allocates `bytes`, rounded up to whole frames and physically contiguous. They come from the device's area,
    /// within the device's reach and shape. `align` is a power of two in bytes, at most
    /// [`MAX_ALIGN`](super::MAX_ALIGN); 1 means a frame. The address that the device is told is a multiple of it. The
    /// physical address is a multiple too, unless the device's `dma-ranges` shift memory by part of `align`. Places for
    /// such a device are searched run by run.
    ///
    /// If too little is idle, loans are recalled. That takes a bounded time (docs/src/loans.md) and never fails (I6).
    ///
    /// # Errors
    ///
    /// [`AllocError::ZeroSize`] and [`AllocError::Alignment`] if the request itself is wrong. [`AllocError::NoArea`] if
    /// the device has no area, or one of another `Dma`. [`AllocError::NoCapacity`], [`AllocError::Fragmented`],
    /// [`AllocError::OutOfReach`] and [`AllocError::Open`] if there is no such run, with the figures.
    /// [`AllocError::TooManyBuffers`] if all records are in use.
    pub fn alloc(&'static self, master: &Master, bytes: u32, align: u32) -> Result<Contiguous<M>, AllocError> {
        let mut books = Books::locked(self);
        self.place(&mut books, master, bytes, align)
    }

    /// Allocates as [`alloc`](Self::alloc) does, zeroes the buffer and maps it non-cacheable, for CPU and device to
    /// share.
    ///
    /// ```
    /// # let setup = carveout::setup::Setup::new(1);
    /// let mut ring = setup.dma.alloc_coherent(&setup.master("ethernet"), 4096, 1)?;
    /// ring.write_word(0, 7u32);
    /// // SAFETY: no device was told of it (I4).
    /// unsafe { ring.give_up() };
    /// # Ok::<(), carveout::dma::AllocError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`alloc`](Self::alloc).
    pub fn alloc_coherent(&'static self, master: &Master, bytes: u32, align: u32) -> Result<Coherent<M>, AllocError> {
        let request = Request::of(master, bytes, align);
        match self.take_shelved(&request) {
            Some(buffer) => Ok(buffer),
            None => self.alloc_coherent_placed(&request),
        }
    }

    /// Allocates a coherent buffer that no shelf has.
    #[inline(never)]
    fn alloc_coherent_placed(&'static self, request: &Request<'_>) -> Result<Coherent<M>, AllocError> {
        let mut books = Books::locked(self);
        let (area, taken) = self.choose(&mut books, request)?;
        if let Some(slot) = books.state().reuse(taken.extent.frames()) {
            let kind = self.kind_to_keep(request);
            return Ok(self.reused(&mut books, slot, request.master, request.bytes, kind));
        }
        let body = self.fresh(&mut books, area, taken, request);
        Ok(Contiguous::new(self, body).coherent_in(&mut books))
    }

    /// Allocates as [`alloc`](Self::alloc) does, and zeroes the buffer, which is the CPU's stream at first.
    ///
    /// # Errors
    ///
    /// As [`alloc`](Self::alloc).
    pub fn alloc_stream<D: TypedDirection>(
        &'static self,
        master: &Master,
        bytes: u32,
        align: u32,
    ) -> Result<Stream<M, D, Cpu>, AllocError> {
        let mut books = Books::locked(self);
        Ok(self.place(&mut books, master, bytes, align)?.stream_in(&mut books, D::default()))
    }

    /// Allocates a stream as [`alloc_stream`](Self::alloc_stream) does, whose direction is a value.
    ///
    /// # Errors
    ///
    /// As [`alloc`](Self::alloc).
    pub fn alloc_stream_of(
        &'static self,
        master: &Master,
        bytes: u32,
        align: u32,
        direction: DataDirection,
    ) -> Result<Stream<M, DataDirection, Cpu>, AllocError> {
        let mut books = Books::locked(self);
        Ok(self.place(&mut books, master, bytes, align)?.stream_in(&mut books, direction))
    }

    /// Allocates as [`alloc`](Self::alloc) does, zeroes the buffer and gives it to devices for good.
    ///
    /// # Errors
    ///
    /// As [`alloc`](Self::alloc).
    pub fn alloc_device(&'static self, master: &Master, bytes: u32, align: u32) -> Result<DeviceOnly<M>, AllocError> {
        let mut books = Books::locked(self);
        Ok(self.place(&mut books, master, bytes, align)?.device_in(&mut books))
    }

    /// Returns a coherent buffer from this core's shelf, if there is one of this kind.
    #[inline]
    fn take_shelved(&'static self, request: &Request<'_>) -> Option<Coherent<M>> {
        let shelved = self.shelves.take(request.kind?)?;
        Some(self.unshelved(shelved, request.master, request.bytes))
    }

    /// Allocates a buffer, in a turn of the lock that the books have.
    #[inline(never)]
    fn place(
        &'static self,
        books: &mut Books<'static, M>,
        master: &Master,
        bytes: u32,
        align: u32,
    ) -> Result<Contiguous<M>, AllocError> {
        let request = Request::of(master, bytes, align);
        let (area, taken) = self.choose(books, &request)?;
        Ok(Contiguous::new(self, self.fresh(books, area, taken, &request)))
    }

    /// Takes frames for a buffer, and makes sure of a free record.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it returns would be copied: BENCH.md")]
    fn choose(
        &'static self,
        books: &mut Books<'static, M>,
        request: &Request<'_>,
    ) -> Result<(AreaId, Taken), AllocError> {
        let (area, state) = (request.master.area()?, books.state());
        let mut refused = false;
        if state.records.are_enough()
            && let Some(memory) = state.area_mut(area)
        {
            match request.take(memory) {
                Ok(taken) => {
                    if self.keeps_mapped() {
                        self.note_idle(state, area.0);
                    }
                    return Ok((area, taken));
                }
                Err(error) if !self.may_help(&error, memory) => return Err(request.refused(error)),
                Err(_) => refused = true,
            }
        }
        Ok((area, self.choose_again(books, area, request, refused)?))
    }

    /// Takes frames for a buffer as [`choose`](Self::choose) does, where few records are free, or the area refused.
    #[cold]
    #[inline(never)]
    fn choose_again(
        &'static self,
        books: &mut Books<'static, M>,
        area: AreaId,
        request: &Request<'_>,
        refused: bool,
    ) -> Result<Taken, AllocError> {
        let mut turn = None;
        if refused {
            turn = Some(self.turn_of_work(books));
        } else if books.state().records.are_few() {
            books.unlock();
            // Without room in the heap, the records that are left must do.
            if !interrupts_are_masked()
                && let Ok(list) = RecordList::further()
            {
                books.state().records.add(list);
            }
        }
        loop {
            let state = books.state();
            if !state.records.any_free() {
                let limit = state.records.count();
                books.unlock();
                if self.empty_shelves() {
                    continue;
                }
                return Err(request.refused(AllocError::TooManyBuffers { limit }));
            }
            let Some(memory) = state.area_mut(area) else { return Err(NOT_OURS) };
            match request.take(memory) {
                Err(error) if turn.is_none() && self.may_help(&error, memory) => turn = Some(self.turn_of_work(books)),
                Err(error) => return Err(request.refused(error)),
                Ok(taken) => {
                    drop(turn);
                    if self.keeps_mapped() {
                        self.note_idle(books.state(), area.0);
                    }
                    return Ok(taken);
                }
            }
        }
    }

    /// Returns whether a turn of the work lane may help after this refusal.
    fn may_help(&self, error: &AllocError, area: &Area) -> bool {
        error.is_of_room() && (area.has_in_hand() || self.keeps_mapped())
    }

    /// Waits for a turn of the work lane, without the lock, and gives back what is on shelves. While this core has the
    /// turn, nobody has frames in hand, nor a buffer of a shelf.
    fn turn_of_work(&self, books: &mut Books<'static, M>) -> Turn<'_> {
        books.unlock();
        let turn = self.work.wait();
        self.empty_shelves();
        turn
    }

    /// Makes the body of a buffer of frames that were taken, in the turn of the lock in which they were.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as in `choose`")]
    fn fresh(
        &'static self,
        books: &mut Books<'static, M>,
        area: AreaId,
        taken: Taken,
        request: &Request<'_>,
    ) -> &'static mut Body {
        let state = books.state();
        let Taken { extent, moves, zeroed } = taken;
        let place = state.ledger.place(extent.frames()).expect("frames of an area, of one run");
        let evicted = self.evict_from(state, extent.frames());
        let residue = if zeroed && !evicted { (Residue::Zeroed, true) } else { state.ledger.residue_at(place) };
        let record = state.records.take().expect("one that was free under this lock");
        record.entry = Entry::Used(Kept::new(extent, request.master.name(), area, None));
        let body = record.body.take().expect("a free record has its body");
        body.begin(place, request.bytes, area, self.kind_to_keep(request));
        self.hand_out(books, body, request.master, residue, moves);
        body
    }

    /// Returns the kind of a request, if its buffer may stay mapped when it is freed.
    #[inline]
    fn kind_to_keep(&self, request: &Request<'_>) -> Option<Kind> {
        if self.keeps_mapped() { request.kind } else { None }
    }

    /// Makes the body that of a new buffer, once what was lent of its frames has moved away. `residue` is the most of
    /// any of its frames, and whether it is that of all.
    #[inline]
    pub(super) fn hand_out(
        &'static self,
        books: &mut Books<'static, M>,
        body: &mut Body,
        master: &Master,
        mut residue: (Residue, bool),
        moves: bool,
    ) {
        let born = self.counters.born();
        body.standing.begin(body.bytes, born);
        body.standing.set(Holder::Nobody, residue.0);
        note_frames(EventKind::Alloc, master.number(), born, body.frames());
        if moves {
            let area = AreaId(body.area.into(), books.state().window.id());
            books.unlock();
            self.move_out(area, body.frames());
            // Reading the pages left lines behind.
            residue = books.state().ledger.residue_at(body.place);
        }
        let bus = master.bus(body.frames().base()).expect("frames within the reach it was allocated in");
        body.fresh(bus, residue);
    }
}
