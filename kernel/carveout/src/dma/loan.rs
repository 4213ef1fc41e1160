//! Borrowers: the CPU uses idle frames of an area until a device wants them. The protocol stands in `cma::loan`.
//!
//! Access is a bounded copy in or out, or a closure over one page, which is mapped write-back in the loan window while
//! it runs. There is no other way to name a lent frame's bytes, so none can be pinned. What this guarantees:
//!
//! - **I1** Only the closure or copy that has a lent frame open maps it. The mapping is claimed in the ledger like any
//!   other.
//! - **I3** The lines that such a mapping leaves are noted in the ledger as residue. The frame's next owner drops them
//!   once, through its own non-cacheable mapping. A recall itself touches no line of a page that it discards. A page's
//!   first opening touches none either: stale lines are written over before anything is read
//!   ([`protocol`](crate::protocol)).
//! - **I5** A page reads as zeros until its borrower writes it, whatever the frame held.
//! - **I6** A recall waits only for other cores' turns of the *work lane*. A turn is a copy of at most `BATCH` pages,
//!   or 31 pages zeroed in idle time. Turns come in the order in which they were asked for, and idle work takes none
//!   that anybody waits for. A core asks for one turn at a time. So of n cores, one waits for at most n - 1 turns
//!   before each turn of its own: [`DmaStats::worst_wait`](crate::dma::DmaStats) has the most that any waited for.
//!   Interrupts are masked from the moment a turn is asked for until it ends, so no handler waits for a turn of the
//!   code that it interrupted. Loans themselves are not for handlers: whoever wants a page that is to be moved waits
//!   for it.
//!
//! A page cannot leave the closure that has it open:
//!
//! ```compile_fail
//! use carveout::{dma::{Borrower, Loan, Movable}, machine::Machine};
//! fn pin<M: Machine>(store: &Borrower<M, Movable>, loan: Loan) -> &[u8; 4096] {
//!     store.with(loan, 0, |page| page).unwrap()
//! }
//! ```

use crate::addr::{FRAME_SIZE, FrameRange};
use crate::cma::loan::{
    BATCH, Batch, LendError, Loan, LoanError, LoanPlace, LoanPriority, LoanStats, NotOpen, Opening, PageKind,
};
use crate::cma::loan::{Candidate, Lending, Target};
use crate::cpu::relax;
use crate::dma::at_lane::AtLane;
use crate::dma::exec::Books;
use crate::dma::lanes::{LANE_PAGES, WORK};
use crate::dma::master::AreaId;
use crate::dma::registry::{Dma, State};
use crate::events::{EventKind, note_frames};
use crate::machine::{Machine, copy_page};
use crate::name::Name;
use crate::protocol::Transition;
use crate::sync::Masked;
use crate::vm::attr::MemoryType;
use crate::vm::ledger::Residue;
use crate::vm::mapped::Mapped;
use arrayvec::ArrayVec;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;

const _: () = assert!(BATCH < LANE_PAGES as usize / 2, "a guard page between the halves of the work lane");

/// The runs of frames of one loan whose warm mappings are ended one by one. Where there are more, all end.
const MAPPED: usize = 8;

/// The bytes of a page of a loan.
pub const LOAN_PAGE: usize = FRAME_SIZE as usize;

mod sealed {
    pub trait Sealed {}
}

/// A [kind](PageKind) of loan as a type: what becomes of a borrower's pages on recall. The set is closed.
pub trait LoanKind: sealed::Sealed {
    /// The kind as a value.
    const KIND: PageKind;
}

/// The kind of pages that are forgotten on recall: a cache of what can be had again.
#[derive(Debug)]
pub enum Discardable {}

impl sealed::Sealed for Discardable {}
impl LoanKind for Discardable {
    const KIND: PageKind = PageKind::Discardable;
}

/// The kind of pages that survive a recall.
#[derive(Debug)]
pub enum Movable {}

impl sealed::Sealed for Movable {}
impl LoanKind for Movable {
    const KIND: PageKind = PageKind::Movable;
}

/// What an area lends, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LentFrames {
    /// Frames that are lent now.
    pub lent: u32,
    /// Frames that are neither held by a buffer nor lent: idle ones, or an idle contract slot's.
    pub unlent: u32,
    /// Of those, idle frames that are kept from borrowers: the reserve, as far as there are any.
    pub reserve: u32,
    /// Frames of the refuge, and how many of them are in use.
    pub refuge: (u32, u32),
}

/// A user of an area's idle frames. It is registered once, for good.
///
/// ```
/// use carveout::dma::{Discardable, LoanError, LoanPriority};
/// use carveout::setup::Setup;
///
/// let setup = Setup::new(1);
/// let area = setup.dma.area("test").unwrap();
/// let cache = setup.dma.borrower::<Discardable>(area, "cache", 1024, LoanPriority::Low)?;
/// let loan = cache.borrow(1024)?; // all 4 MiB
/// cache.write(loan, 7, 0, b"block 7").unwrap();
/// let mut bytes = [0; 7];
/// cache.read(loan, 7, 0, &mut bytes).unwrap();
/// assert_eq!(&bytes, b"block 7");
///
/// // A device never notices: what it needs comes back.
/// let frame = setup.dma.alloc(&setup.master("camera"), 4 << 20, 1).unwrap();
/// assert_eq!(cache.read(loan, 7, 0, &mut bytes), Err(LoanError::Recalled { page: 7 }));
/// # drop(frame);
/// # Ok::<(), carveout::dma::LendError>(())
/// ```
pub struct Borrower<M: Machine + 'static, K> {
    dma: &'static Dma<M>,
    area: AreaId,
    number: usize,
    kind: PhantomData<fn(K)>,
}

impl<M: Machine, K> fmt::Debug for Borrower<M, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Borrower").field("area", &self.area).field("number", &self.number).finish_non_exhaustive()
    }
}

/// A page that is open. It closes when dropped, also where a closure unwinds.
struct Open<'b, M: Machine + 'static, K> {
    by: &'b Borrower<M, K>,
    opening: Opening,
    lane: u32,
    mapped: Option<Mapped>,
    bytes: *mut u8,
    written: bool,
    /// Interrupts stay masked over a copy: a handler on this core that allocates would wait for it for ever. It is
    /// dropped last.
    _masked: Option<Masked>,
}

impl<M: Machine, K> Drop for Open<'_, M, K> {
    fn drop(&mut self) {
        let mut books = Books::locked(self.by.dma);
        if let Some(mapped) = self.mapped.take() {
            AtLane::close(&mut books, (self.lane, 0), mapped);
        }
        let state = books.state();
        state.lanes.give_back(self.lane);
        if let Some(lending) = state.areas[self.by.area.0].lending_mut() {
            lending.close(self.opening, self.written);
        }
    }
}

/// The purpose for which a page is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    /// Bytes are copied out.
    Read,
    /// All bytes are copied in, or some of them.
    Write { all: bool },
    /// A closure runs over it.
    Closure,
}

impl<M: Machine, K: LoanKind> Borrower<M, K> {
    /// Borrows up to `count` pages, which read as zeros. [`Loan::len`] says how many pages it got.
    ///
    /// # Errors
    ///
    /// [`LendError::Spent`] if all pages of the budget are lent. [`LendError::NothingIdle`] if no frame is idle.
    pub fn borrow(&self, count: u32) -> Result<Loan, LendError> {
        match self.try_borrow(count) {
            Err(LendError::NothingIdle) if self.dma.empty_shelves() => self.try_borrow(count),
            result => result,
        }
    }

    fn try_borrow(&self, count: u32) -> Result<Loan, LendError> {
        let mut guard = self.dma.state.lock();
        let state = &mut *guard;
        let mut mapped: ArrayVec<FrameRange, MAPPED> = ArrayVec::new();
        let mut all = false;
        let State { areas, ledger, .. } = &mut *state;
        let loan = areas[self.area.0].borrow(self.number, count, |frames| {
            if ledger.refusal(frames, MemoryType::WriteBack).is_some() {
                all |= mapped.try_push(frames).is_err();
            }
            ledger.residue(frames) > Residue::Nothing
        });
        for frames in mapped {
            self.dma.evict_for_loan(state, frames);
        }
        if all {
            let runs = state.areas[self.area.0].runs();
            runs.into_iter().for_each(|frames| self.dma.evict_for_loan(state, frames));
        }
        loan
    }

    /// Ends a loan, whatever was recalled of it. Its handle is stale afterwards.
    ///
    /// # Errors
    ///
    /// [`LoanError::Stale`] if the loan was given back before or is another borrower's. [`LoanError::InUse`] if a
    /// closure runs over a page of it.
    pub fn give_back(&self, loan: Loan) -> Result<(), LoanError> {
        loop {
            let mut state = self.dma.state.lock();
            if let Some(()) = state.areas[self.area.0].give_loan_back(self.number, loan)? {
                return Ok(());
            }
            drop(state);
            relax();
        }
    }

    /// Returns how many pages of the loan were not recalled.
    ///
    /// # Errors
    ///
    /// [`LoanError::Stale`] if the loan was given back before or is another borrower's.
    pub fn left(&self, loan: Loan) -> Result<u32, LoanError> {
        let state = self.dma.state.lock();
        state.areas[self.area.0].lending().ok_or(LoanError::Stale)?.left(self.number, loan)
    }

    /// Copies bytes out of a page, from byte `offset` on.
    ///
    /// # Errors
    ///
    /// [`LoanError::Stale`] if the loan was given back before or is another borrower's. [`LoanError::Recalled`] if the
    /// page was recalled. [`LoanError::Range`] if the loan has no such page, or the page no such bytes.
    /// [`LoanError::InUse`] if a closure runs over the page. [`LoanError::TooManyOpen`] if as many pages are open as
    /// can be.
    pub fn read(&self, loan: Loan, page: u32, offset: usize, to: &mut [u8]) -> Result<(), LoanError> {
        let Range { start, end } = Self::inside(page, offset, to.len())?;
        let open = self.open(loan, page, For::Read)?;
        if open.bytes.is_null() {
            to.fill(0);
        } else {
            let from = open.bytes.wrapping_add(start);
            // SAFETY: `inside` found the bytes in the page, which `open` alone maps (I1); `to` is a slice of as many.
            unsafe { from.copy_to_nonoverlapping(to.as_mut_ptr(), end - start) };
        }
        Ok(())
    }

    /// Copies bytes into a page, from byte `offset` on.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn write(&self, loan: Loan, page: u32, offset: usize, from: &[u8]) -> Result<(), LoanError> {
        let Range { start, end } = Self::inside(page, offset, from.len())?;
        let open = self.open(loan, page, For::Write { all: from.len() == LOAN_PAGE })?;
        let to = open.bytes.wrapping_add(start);
        // SAFETY: `inside` found the bytes in the page, which `open` alone maps (I1); `from` is a slice of as many.
        unsafe { to.copy_from_nonoverlapping(from.as_ptr(), end - start) };
        Ok(())
    }

    /// Runs a closure over a page, which is mapped write-back while it runs. The page cannot be recalled meanwhile: an
    /// allocation goes round it, whether it comes from the closure or from another core. So the closure must be as
    /// short as a critical section.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read). The closure does not run then.
    pub fn with<R>(&self, loan: Loan, page: u32, run: impl FnOnce(&mut [u8; LOAN_PAGE]) -> R) -> Result<R, LoanError> {
        let open = self.open(loan, page, For::Closure)?;
        // SAFETY: a page mapped for as long as `open` lives, which alone names it; aligned to a page.
        let bytes = unsafe { &mut *open.bytes.cast::<[u8; LOAN_PAGE]>() };
        Ok(run(bytes))
    }

    /// Returns what the borrower has, and what became of its pages.
    pub fn stats(&self) -> LoanStats {
        let state = self.dma.state.lock();
        state.areas[self.area.0].lending().map_or(LoanStats::default(), |lending| lending.stats(self.number))
    }

    fn inside(page: u32, offset: usize, len: usize) -> Result<Range<usize>, LoanError> {
        match offset.checked_add(len) {
            Some(end) if end <= LOAN_PAGE => Ok(offset..end),
            _ => Err(LoanError::Range { page, offset, len }),
        }
    }

    /// Opens a page. Its bytes are null if it is opened for reading and was never written: it is zeros.
    fn open(&self, loan: Loan, page: u32, what: For) -> Result<Open<'_, M, K>, LoanError> {
        let machine = self.dma.machine;
        loop {
            let masked = (what != For::Closure).then(Masked::new);
            let mut books = Books::locked(self.dma);
            let state = books.state();
            let Some(lane) = state.lanes.take() else { return Err(LoanError::TooManyOpen) };
            let lending = state.areas[self.area.0].lending_mut().ok_or(LoanError::Stale)?;
            let opening = match lending.open(self.number, loan, page, what == For::Closure) {
                Ok(opening) => opening,
                Err(refusal) => {
                    if let NotOpen::Contracted(frame) = refusal {
                        books.unlock();
                        // The lane is kept meanwhile. The refuge has a frame for the page if no more than the other
                        // lanes' pages are open.
                        self.dma.evict_page(self.area, frame);
                    }
                    books.state().lanes.give_back(lane);
                    books.unlock();
                    match refusal {
                        NotOpen::Refused(error) => return Err(error),
                        NotOpen::Contracted(_) => {}
                        NotOpen::Moving => relax(),
                    }
                    continue;
                }
            };
            let written = opening.written || what != For::Read;
            let open = |mapped, bytes| Open { by: self, opening, lane, mapped, bytes, written, _masked: masked };
            if !written {
                books.unlock();
                return Ok(open(None, core::ptr::null_mut()));
            }
            let all = what == For::Write { all: true };
            let zero = !opening.written && !all;
            return match opening.place {
                LoanPlace::Area(frame) => {
                    let frames = FrameRange::new(frame, 1).expect("a frame of the area");
                    lending.occupancy.set_cached(frames);
                    let by = if zero && state.ledger.residue(frames) != Residue::Zeroed {
                        Transition::OpenNewPage
                    } else {
                        Transition::OpenPage
                    };
                    let mapped = AtLane::open(&mut books, (lane, 0), frames, by);
                    books.unlock();
                    let va = mapped.va();
                    let bytes =
                        if all { machine.reach_to_overwrite(va, FRAME_SIZE) } else { machine.reach(va, FRAME_SIZE) };
                    Ok(open(Some(mapped), bytes))
                }
                LoanPlace::Refuge(frame) => {
                    let bytes = lending.refuge_frame(frame);
                    books.unlock();
                    if zero {
                        // SAFETY: a page of the refuge, which nobody else names while the borrower's is open.
                        unsafe { machine.zero(bytes, LOAN_PAGE) };
                    }
                    Ok(open(None, bytes))
                }
                LoanPlace::Gone => unreachable!("an open page is somewhere"),
            };
        }
    }
}

impl<M: Machine> Dma<M> {
    /// Registers a borrower of an area, with a budget in pages of 4 KiB. All its metadata is taken from the heap here,
    /// about 28 bytes a page. A movable borrower also brings a refuge, of a page and 12 bytes for each page of the
    /// budget. Its pages go there when devices want all of the area. Discardable borrowers use what is free of the
    /// refuge meanwhile.
    ///
    /// The heap is asked without the lock, so that a large budget keeps nobody waiting.
    ///
    /// # Errors
    ///
    /// [`LendError::NoArea`] if the area is of another `Dma`. [`LendError::NotLendable`] if it is `no-map` only.
    /// [`LendError::Budget`] if `pages` is 0 or too large. [`LendError::TooManyBorrowers`] if the area has as many as
    /// it can. [`LendError::Heap`] if the heap has no room. Nothing has changed then.
    pub fn borrower<K: LoanKind>(
        &'static self,
        area: AreaId,
        name: &str,
        pages: u32,
        priority: LoanPriority,
    ) -> Result<Borrower<M, K>, LendError> {
        let runs = self.state.lock().area_mut(area).ok_or(LendError::NoArea)?.may_lend()?;
        // It is dropped after the guard. It may still hold what another registration made needless.
        let mut candidate = Candidate::new(name.into(), K::KIND, pages, priority, runs)?;
        let number = self.state.lock().areas[area.0].admit(&mut candidate)?;
        Ok(Borrower { dma: self, area, number, kind: PhantomData })
    }

    /// Returns what an area lends.
    pub fn lent(&self, area: AreaId) -> LentFrames {
        let mut state = self.state.lock();
        state.area_mut(area).map_or(LentFrames::default(), |memory| LentFrames {
            lent: memory.lending().map_or(0, |lending| lending.occupancy.lent()),
            unlent: memory.unlent(),
            reserve: memory.reserved(),
            refuge: memory.lending().map_or((0, 0), Lending::refuge),
        })
    }

    /// Calls `each` with every borrower of an area. The lock is not held during a call.
    pub fn for_each_borrower(&self, area: AreaId, each: impl FnMut((Name, PageKind, LoanStats))) {
        let borrower = |number: usize| {
            let mut state = self.state.lock();
            state.area_mut(area).and_then(|memory| memory.lending()).and_then(|lending| lending.borrowers().nth(number))
        };
        (0..).map_while(borrower).for_each(each);
    }

    /// Copies what must survive out of a window that was just taken. Each batch takes a turn of the work lane.
    pub(super) fn move_out(&self, area: AreaId, window: FrameRange) {
        let mut left = window;
        while !left.is_empty() {
            let _turn = self.work.wait();
            let mut books = Books::locked(self);
            let Some(batch) = books.state().areas[area.0].next_batch(left) else { return };
            (_, left) = left.split_at(batch.from.end() - left.start()).expect("a part of it");
            self.carry(&mut books, area, &batch);
        }
    }

    /// Moves a page out of contract memory, to the refuge.
    fn evict_page(&self, area: AreaId, frame: u32) {
        let _turn = self.work.wait();
        let mut books = Books::locked(self);
        let frames = FrameRange::new(frame, 1).expect("a frame of the area");
        if let Some(batch) = books.state().areas[area.0].evict(frames) {
            self.carry(&mut books, area, &batch);
            books.state().areas[area.0].evicted(frames);
        }
    }

    /// Copies a batch, by the work lane, of which the caller has the turn. The lock is not held during the copy.
    fn carry(&self, books: &mut Books<'_, M>, area: AreaId, batch: &Batch) {
        let Batch { from, to, written } = batch;
        match to {
            Target::Area(frames) => {
                note_frames(EventKind::Move, 0, frames.start().into(), *from);
                self.evict_for_loan(books.state(), *frames);
            }
            Target::Refuge(_) => note_frames(EventKind::Move, 0, 0, *from),
        }
        if *written {
            self.copy(books, area, *from, to);
        }
        if let Some(lending) = books.state().areas[area.0].lending_mut() {
            lending.moved(batch);
        }
    }

    fn copy(&self, books: &mut Books<'_, M>, area: AreaId, from: FrameRange, to: &Target) {
        const FROM: (u32, u32) = (WORK, 0);
        const TO: (u32, u32) = (WORK, LANE_PAGES / 2);
        let count = from.count() as usize;
        let source = AtLane::open(books, FROM, from, Transition::OpenPage);
        let mut refuge = [core::ptr::null_mut(); BATCH];
        let target = match to {
            Target::Area(frames) => Some(AtLane::open(books, TO, *frames, Transition::OpenPage)),
            Target::Refuge(frames) => {
                if let Some(lending) = books.state().areas[area.0].lending_mut() {
                    for (pointer, &frame) in refuge.iter_mut().zip(frames) {
                        *pointer = lending.refuge_frame(frame);
                    }
                }
                None
            }
        };
        books.unlock();
        let from = self.machine.reach(source.va(), source.bytes());
        if let Some(target) = &target {
            let start = self.machine.reach_to_overwrite(target.va(), count as u32 * FRAME_SIZE);
            for (n, pointer) in refuge.iter_mut().enumerate() {
                *pointer = start.wrapping_add(n * LOAN_PAGE);
            }
        }
        for (n, &to) in refuge[..count].iter().enumerate() {
            // SAFETY: both pages are mapped and, while the page is moving, nobody else's; two frames.
            unsafe { copy_page(to, from.wrapping_add(n * LOAN_PAGE)) };
        }
        AtLane::close(books, FROM, source);
        if let Some(target) = target {
            AtLane::close(books, TO, target);
        }
    }
}
