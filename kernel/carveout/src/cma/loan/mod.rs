//! Loans: which idle frames are lent, to whom, and how they come back. Pure bookkeeping; [`crate::dma::loan`] maps and
//! copies.
//!
//! A *loan* is a number of *pages*, named by a handle. A page is somewhere: in a frame of the area, in a frame of the
//! *refuge* (memory outside the area, which no device needs), or recalled. Handles are checked at every use, so the
//! area may take its frames back whenever it likes. The protocol, as transitions and what each demands:
//!
//! | transition | demands | afterwards |
//! |---|---|---|
//! | register | an area that is lendable, a budget; all metadata, and the refuge of pages that are moved, from the heap | the budget's pages are vacant |
//! | borrow | vacant pages; idle frames of the area, or free ones of the refuge | the pages are lent and unwritten: they read as zeros |
//! | open | a live handle; the page is lent, not open, not moving | its frame cannot be part of a recall |
//! | close | the page is open | as before; written, if it was open for writing |
//! | forget | the page is lent, of a kind that is forgotten, not open | recalled for ever: the frame is its next owner's |
//! | begin move | the page is lent, of a kind that is moved, or in contract memory and wanted by a closure; not open, not moving | moving: nobody opens it |
//! | end move | moving, and its bytes copied to a frame that was idle or the refuge's | lent, elsewhere; the old frame is its next owner's |
//! | give back | a live handle; no page of it open or moving | vacant; the handle is stale for ever |
//!
//! Guarantees:
//! - **A recall never fails (I6).** It allocates nothing, and a page that is moved always has somewhere to go: each
//!   page of such a budget brought one frame to the refuge, and [`SPARES`] more came with the first borrower. Whatever
//!   else is in the refuge is a guest and is forgotten first; at most `SPARES` guests are open.
//! - **No frame is both lent and held**, except that frames of an idle contract slot count as held for everybody else.
//! - **Contract memory cannot be pinned**: a page in it is moved to the refuge before a closure sees it.
//!
//! The parts, each of which uses those before it:
//!
//! - `kind`: the kinds of loan, a row each;
//! - `cost`: what a recall costs, and which loans a search spares;
//! - `tenant`: who has a frame;
//! - `occupancy`: which frames of the area are held, lent or open, and the searches for a window;
//! - `refuge`: the frames outside the area;
//! - `refusal`: why there is no loan or no page;
//! - `books`: pages, loans and counters of each borrower.

mod books;
mod cost;
mod kind;
mod occupancy;
mod refuge;
mod refusal;
mod tenant;

pub(crate) use books::LoanPlace;
pub use books::{Loan, LoanStats};
pub use kind::{LoanPriority, PageKind};
pub(crate) use occupancy::Runs;
pub use refuge::SPARES;
pub use refusal::{LendError, LoanError};
pub use tenant::{MAX_BORROWERS, MAX_BUDGET};

use crate::addr::FrameRange;
use crate::cma::index::{Index, Node};
use crate::events::{EventKind, note_frames};
use crate::heap::{filled, room};
use crate::name::Name;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use books::{LoanBook, LoanPage};
use core::mem;
use core::ops::Range;
use occupancy::{Occupancy, one};
use refuge::{Refuge, RefugePart};
use tenant::Tenant;

/// Pages moved at a time, under one mapping.
pub(crate) const BATCH: usize = 15;

/// Where a batch of pages goes.
#[derive(Debug)]
pub(crate) enum Target {
    Area(FrameRange),
    Refuge(ArrayVec<u32, BATCH>),
}

/// Pages of one borrower to be moved together, from adjacent frames.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) from: FrameRange,
    pub(crate) to: Target,
    /// All of them hold bytes. Else none does, and there is nothing to copy.
    pub(crate) written: bool,
}

/// What opening a page found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    borrower: usize,
    page: usize,
    pub(crate) place: LoanPlace,
    pub(crate) written: bool,
}

/// Why a page is not open.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotOpen {
    /// It is being moved, or a contract waits for its frame: ask again.
    Moving,
    /// It is in contract memory, in this frame, which a closure may not hold: it is to be moved first.
    Contracted(u32),
    /// It cannot be used.
    Refused(LoanError),
}

/// The books of an area's loans.
#[derive(Debug)]
pub(crate) struct Lending {
    pub(crate) occupancy: Occupancy,
    books: Vec<LoanBook>,
    refuge: Refuge,
    /// Frames of no contract that pages are being moved into.
    arriving: u32,
    /// How many callers wait until no page of an idle contract slot is open.
    slots_awaited: u32,
}

/// A borrower that is to be registered, and all the memory it will ever take. That is got without the lock.
#[derive(Debug)]
pub(crate) struct Candidate {
    name: Name,
    kind: PageKind,
    high: bool,
    pages: Vec<LoanPage>,
    nodes: Vec<Node>,
    refuge: Option<RefugePart>,
    /// The area's books, if it had none yet.
    lending: Option<Lending>,
}

impl Candidate {
    /// Makes one with a budget of `pages`, for an area of these runs if it has no books yet.
    pub(crate) fn new(
        name: Name,
        kind: PageKind,
        pages: u32,
        priority: LoanPriority,
        runs: Option<Runs>,
    ) -> Result<Self, LendError> {
        if pages == 0 || pages > MAX_BUDGET {
            return Err(LendError::Budget { pages });
        }
        let make = || {
            Ok(Self {
                name,
                kind,
                high: priority == LoanPriority::High,
                pages: filled(pages as usize, LoanPage::VACANT)?,
                nodes: filled(Index::nodes_needed(0, pages).expect("a budget's pages"), Node::EMPTY)?,
                refuge: (!kind.is_forgotten()).then(|| RefugePart::new(pages)).transpose()?,
                lending: runs.map(Lending::new).transpose()?,
            })
        };
        make().map_err(|_: TryReserveError| LendError::Heap { pages })
    }

    /// Takes the area's books that were made with it.
    pub(crate) const fn take_lending(&mut self) -> Option<Lending> {
        self.lending.take()
    }
}

impl Lending {
    /// Makes books for these runs, all held, with room in its lists for the first borrower.
    fn new(runs: Runs) -> Result<Self, TryReserveError> {
        Ok(Self {
            occupancy: Occupancy::new(runs)?,
            books: room(1)?,
            refuge: Refuge::new()?,
            arriving: 0,
            slots_awaited: 0,
        })
    }

    // --- borrowers ---

    /// Returns whether it has as many borrowers as it can.
    pub(crate) const fn is_full(&self) -> bool {
        self.books.len() == MAX_BORROWERS
    }

    /// Adds a borrower and returns its number. Only the lists of borrowers may grow here.
    pub(crate) fn admit(&mut self, candidate: &mut Candidate) -> Result<usize, LendError> {
        if self.is_full() {
            return Err(LendError::TooManyBorrowers);
        }
        let pages = candidate.pages.len() as u32;
        let full = |_| LendError::Heap { pages };
        self.books.try_reserve(1).map_err(full)?;
        self.refuge.reserve().map_err(full)?;
        if let Some(part) = candidate.refuge.take() {
            self.refuge.add(part);
        }
        let nodes = mem::take(&mut candidate.nodes).leak();
        self.books.push(LoanBook {
            name: candidate.name,
            kind: candidate.kind,
            high: candidate.high,
            pages: mem::take(&mut candidate.pages),
            vacant: Index::new(0, pages, nodes).ok().expect("storage as large as asked for"),
            stats: LoanStats::default(),
        });
        Ok(self.books.len() - 1)
    }

    pub(crate) fn stats(&self, borrower: usize) -> LoanStats {
        self.books[borrower].stats
    }

    /// Yields name, kind and counters of each borrower.
    pub(crate) fn borrowers(&self) -> impl Iterator<Item = (Name, PageKind, LoanStats)> + '_ {
        self.books.iter().map(|book| (book.name, book.kind, book.stats))
    }

    /// Returns the name of the borrower that has a frame of the area, if one has.
    pub(crate) fn borrower_of(&self, frame: u32) -> Option<Name> {
        let (borrower, _) = self.occupancy.tenant(frame).get()?;
        Some(self.books[borrower].name)
    }

    /// Returns the frames of the refuge: all, and those in use.
    pub(crate) fn refuge(&self) -> (u32, u32) {
        (self.refuge.all, self.refuge.used)
    }

    /// Returns the first byte of a frame of the refuge.
    pub(crate) fn refuge_frame(&mut self, frame: u32) -> *mut u8 {
        self.refuge.pointer(frame)
    }

    // --- borrowing and giving back ---

    /// Begins a loan of up to `count` pages, none of which has a place yet. Returns the pages.
    pub(crate) fn begin(&mut self, borrower: usize, count: u32) -> Result<Range<u32>, LendError> {
        self.books[borrower].begin(count)
    }

    /// Gives frames of the area, idle until now, to the pages from `page` on.
    pub(crate) fn lend(&mut self, borrower: usize, page: u32, frames: FrameRange, cached: bool) {
        let book = &mut self.books[borrower];
        for (n, frame) in (frames.start()..frames.end()).enumerate() {
            book.pages[page as usize + n].place = LoanPlace::Area(frame);
        }
        book.stats.in_area += frames.count();
        book.stats.lent += u64::from(frames.count());
        for (page, tenant) in (page..).zip(self.occupancy.tenants_mut(frames)) {
            *tenant = Tenant::new(borrower, page);
        }
        self.occupancy.enter(frames, book.kind, book.high, cached);
    }

    /// Gives a page a frame of the refuge, if it can have one. A page of a kind that is moved always can.
    pub(crate) fn lend_refuge(&mut self, borrower: usize, page: u32) -> bool {
        let kind = self.books[borrower].kind;
        let frame = if kind.is_forgotten() { self.refuge.take() } else { Some(self.refuge_for_moved()) };
        let Some(frame) = frame else { return false };
        self.refuge.enter(frame, Tenant::new(borrower, page), kind);
        let book = &mut self.books[borrower];
        book.pages[page as usize].place = LoanPlace::Refuge(frame);
        book.stats.in_refuge += 1;
        book.stats.lent += 1;
        true
    }

    /// Takes a frame of the refuge: a free one, or that of a guest, who is forgotten. There is one; see the module.
    fn refuge_for_moved(&mut self) -> u32 {
        if let Some(frame) = self.refuge.take() {
            return frame;
        }
        // At most `SPARES` are open, so this looks at no more than that and one. The refuge holds all pages that are
        // moved and more, so there is one.
        let books = &self.books;
        let mut guests = self.refuge.guests();
        let closed = guests.find(|&(_, (borrower, page))| !books[borrower].pages[page].open);
        let (frame, (borrower, page)) = closed.expect("a guest that is not open");
        drop(guests);
        let book = &mut self.books[borrower];
        book.pages[page].place = LoanPlace::Gone;
        book.stats.forgot_in_refuge();
        self.refuge.leave(frame, book.kind);
        self.refuge.take().expect("just left")
    }

    /// Makes the loan of those of `pages` that got a place: the first `got`.
    pub(crate) fn finish(&mut self, borrower: usize, pages: Range<u32>, got: u32) -> Result<Loan, LendError> {
        self.books[borrower].finish(pages, got)
    }

    /// Returns how many pages of a loan were not recalled.
    pub(crate) fn left(&self, borrower: usize, loan: Loan) -> Result<u32, LoanError> {
        self.books[borrower].left(loan)
    }

    /// Ends a loan. Calls `each` with its frames of the area, as runs that are all held or all not. Returns `None`, and
    /// changes nothing, if a page is moving.
    pub(crate) fn give_back(
        &mut self,
        borrower: usize,
        loan: Loan,
        mut each: impl FnMut(FrameRange, bool),
    ) -> Result<Option<()>, LoanError> {
        let book = &mut self.books[borrower];
        let pages = book.pages_of(loan)?;
        if let Some(page) = book.pages[pages.clone()].iter().position(|page| page.open) {
            return Err(LoanError::InUse { page: page as u32 });
        }
        if book.pages[pages.clone()].iter().any(|page| page.moving) {
            return Ok(None);
        }
        let mut run: Option<(FrameRange, bool)> = None;
        for n in pages {
            let place = mem::replace(&mut book.pages[n].place, LoanPlace::Gone);
            book.pages[n].written = false;
            match place {
                LoanPlace::Gone => {}
                LoanPlace::Refuge(frame) => {
                    book.stats.in_refuge -= 1;
                    self.refuge.leave(frame, book.kind);
                }
                LoanPlace::Area(frame) => {
                    book.stats.in_area -= 1;
                    let occupancy = &mut self.occupancy;
                    let held = occupancy.is_held(frame);
                    occupancy.tenants_mut(one(frame)).fill(Tenant::NONE);
                    occupancy.leave(one(frame));
                    run = match run {
                        Some((frames, same))
                            if same == held && frames.end() == frame && !occupancy.is_run_start(frame) =>
                        {
                            FrameRange::between(frames.start(), frame + 1).map(|frames| (frames, held))
                        }
                        Some((frames, same)) => {
                            each(frames, same);
                            Some((one(frame), held))
                        }
                        None => Some((one(frame), held)),
                    };
                }
            }
        }
        if let Some((frames, held)) = run {
            each(frames, held);
        }
        book.end(loan);
        Ok(Some(()))
    }

    // --- opening and closing ---

    /// Opens a page. For a closure, it does so outside contract memory only.
    pub(crate) fn open(&mut self, borrower: usize, loan: Loan, n: u32, for_closure: bool) -> Result<Opening, NotOpen> {
        let refused = NotOpen::Refused;
        let book = &mut self.books[borrower];
        let pages = book.pages_of(loan).map_err(refused)?;
        if n >= loan.len() {
            return Err(refused(LoanError::Range { page: n, offset: 0, len: 0 }));
        }
        let number = pages.start + n as usize;
        let LoanPage { place, written, open, moving, .. } = book.pages[number];
        match place {
            LoanPlace::Gone => return Err(refused(LoanError::Recalled { page: n })),
            _ if moving => return Err(NotOpen::Moving),
            _ if open => return Err(refused(LoanError::InUse { page: n })),
            // Else a caller that waits for a slot would wait for each page that is opened meanwhile.
            LoanPlace::Area(frame) if self.slots_awaited > 0 && self.occupancy.is_held(frame) => {
                return Err(NotOpen::Moving);
            }
            LoanPlace::Area(frame) if for_closure && self.occupancy.is_held(frame) => {
                return Err(NotOpen::Contracted(frame));
            }
            LoanPlace::Area(frame) => self.occupancy.set_open(one(frame), true),
            LoanPlace::Refuge(_) => {}
        }
        book.pages[number].open = true;
        Ok(Opening { borrower, page: number, place, written })
    }

    /// Closes a page. It holds bytes if it did before, or if it was `written`.
    pub(crate) fn close(&mut self, opening: Opening, written: bool) {
        let page = &mut self.books[opening.borrower].pages[opening.page];
        page.open = false;
        page.written |= written;
        if let LoanPlace::Area(frame) = opening.place {
            self.occupancy.set_open(one(frame), false);
        }
    }

    // --- recall ---

    /// Recalls what is lent of `window`, which is held and of which nothing is open. Pages are forgotten or marked as
    /// moving, as their kind says. Returns whether any is moving: [`next_moving`](Self::next_moving) then names those.
    pub(crate) fn recall(&mut self, window: FrameRange) -> bool {
        note_frames(EventKind::Recall, 0, 0, window);
        let books = &mut self.books;
        let mut moves = false;
        // Pages forgotten so far, of one borrower after another.
        let (mut owner, mut count) = (0, 0);
        self.occupancy.recall(window, |tenant, moving| {
            let (borrower, page) = tenant.of_lent();
            if moving {
                books[borrower].pages[page].moving = true;
                moves = true;
                return;
            }
            if borrower != owner {
                books[owner].stats.forgot_in_area(count);
                (owner, count) = (borrower, 0);
            }
            books[borrower].pages[page].place = LoanPlace::Gone;
            count += 1;
        });
        books[owner].stats.forgot_in_area(count);
        moves
    }

    /// Returns the next adjacent frames of `window` whose pages are to be moved: at most [`BATCH`], all of one
    /// borrower, all written or none.
    pub(crate) fn next_moving(&self, window: FrameRange) -> Option<FrameRange> {
        let lent = self.occupancy.first_lent(window, BATCH as u32)?;
        let tenants = self.occupancy.tenants(lent);
        let (borrower, page) = tenants[0].of_lent();
        let pages = &self.books[borrower].pages;
        let alike = |tenant: &&Tenant| {
            let (other, at) = tenant.of_lent();
            other == borrower && pages[at].written == pages[page].written
        };
        FrameRange::new(lent.start(), tenants.iter().take_while(alike).count() as u32)
    }

    /// Notes that one more caller waits until no page of an idle contract slot is open, or (`false`) that one has
    /// stopped. While anybody waits, no page of a slot is opened.
    pub(crate) const fn await_slots(&mut self, waits: bool) {
        if waits { self.slots_awaited += 1 } else { self.slots_awaited -= 1 }
    }

    /// Begins to move a page out of contract memory. Until [`end_move`](Self::end_move) its frame is open, so nobody
    /// takes its slot. Returns `false`, and changes nothing, if the frame is not lent any more, if its page is open or
    /// moving, or if somebody waits for a slot.
    pub(crate) fn begin_move(&mut self, frame: FrameRange) -> bool {
        if self.slots_awaited > 0 {
            return false;
        }
        let Some((borrower, page)) = self.occupancy.tenant(frame.start()).get() else { return false };
        let page = &mut self.books[borrower].pages[page];
        if page.open || page.moving {
            return false;
        }
        page.moving = true;
        self.occupancy.set_open(frame, true);
        true
    }

    /// Ends that move, once the page is elsewhere.
    pub(crate) fn end_move(&mut self, frame: FrameRange) {
        self.occupancy.set_open(frame, false);
    }

    /// Makes a batch of the pages in these frames, which go to the frames given or to the refuge.
    pub(crate) fn batch(&mut self, from: FrameRange, to: Option<FrameRange>) -> Batch {
        let (borrower, page) = self.occupancy.tenant(from.start()).of_lent();
        let written = self.books[borrower].pages[page].written;
        let Some(to) = to else {
            let to = (0..from.count()).map(|_| self.refuge_for_moved()).collect();
            return Batch { from, to: Target::Refuge(to), written };
        };
        // Neither idle nor lent until the copy is done.
        self.occupancy.set_open(to, true);
        self.arriving += self.arriving_in(to);
        let from = FrameRange::new(from.start(), to.count()).expect("a part of it");
        Batch { from, to: Target::Area(to), written }
    }

    /// Returns how many of these frames an allocation may have once a move to them is done: all, or none of a
    /// contract's.
    fn arriving_in(&self, to: FrameRange) -> u32 {
        if self.occupancy.is_held(to.start()) { 0 } else { to.count() }
    }

    /// Returns how many frames an allocation may have once the moves that are under way are done.
    pub(crate) const fn arriving(&self) -> u32 {
        self.arriving
    }

    /// Notes that a batch's bytes were copied: the pages are in their new places, and nobody has the old frames.
    pub(crate) fn moved(&mut self, batch: &Batch) {
        let Batch { from, to, .. } = batch;
        let (borrower, _) = self.occupancy.tenant(from.start()).of_lent();
        if let Target::Area(to) = to {
            self.arriving -= self.arriving_in(*to);
            let LoanBook { kind, high, .. } = self.books[borrower];
            self.occupancy.set_open(*to, false);
            self.occupancy.enter(*to, kind, high, true);
            self.occupancy.copy_tenants(*from, *to);
        }
        let LoanBook { kind, pages, stats, .. } = &mut self.books[borrower];
        for (n, tenant) in self.occupancy.tenants_mut(*from).iter_mut().enumerate() {
            let tenant = mem::replace(tenant, Tenant::NONE);
            let (_, number) = tenant.of_lent();
            let page = &mut pages[number];
            page.moving = false;
            page.place = match to {
                Target::Area(to) => LoanPlace::Area(to.start() + n as u32),
                Target::Refuge(to) => {
                    self.refuge.enter(to[n], tenant, *kind);
                    LoanPlace::Refuge(to[n])
                }
            };
        }
        let count = from.count();
        if let Target::Refuge(_) = to {
            stats.in_area -= count;
            stats.in_refuge += count;
        }
        stats.recalled += u64::from(count);
        stats.moved += u64::from(count);
        self.occupancy.leave(*from);
    }
}
