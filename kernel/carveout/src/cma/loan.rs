//! Loans: which idle frames are lent, to whom, and how they come back. Pure bookkeeping; [`crate::dma::loan`] maps and
//! copies.
//!
//! A *loan* is a number of *pages*, named by a handle. A page is somewhere: in a frame of the area, in a frame of the
//! *refuge* (memory outside the area, which no device needs), or recalled. Handles are checked at every use, so the area
//! may take its frames back whenever it likes. No two loans have the same number, of whatever borrower, area or machine:
//! a handle is good with the one borrower that got it, until it gives the loan back, and never again. The protocol, as
//! transitions and what each demands:
//!
//! | transition | demands | afterwards |
//! |---|---|---|
//! | register | an area that is lendable, a budget; takes all metadata, and a movable borrower's refuge, from the heap | the budget's pages are vacant |
//! | borrow | vacant pages; idle frames of the area, or free ones of the refuge | the pages are lent and unwritten: they read as zeros |
//! | open | a live handle; the page is lent, not open, not moving | its frame cannot be part of a recall |
//! | close | the page is open | as before; written, if it was open for writing |
//! | discard | lent to a discardable borrower, not open | recalled for ever: the frame is its next owner's |
//! | begin move | lent to a movable borrower, or in contract memory and wanted by a closure; not open, not moving | moving: nobody opens it |
//! | end move | moving, and its bytes copied to a frame that was idle or the refuge's | lent, elsewhere; the old frame is its next owner's |
//! | give back | a live handle; no page of it open or moving | vacant; the handle is stale for ever |
//!
//! Guarantees:
//! - **A recall never fails (I6).** It allocates nothing, and a movable page always has somewhere to go: each page of a
//!   movable borrower's budget brought one frame to the refuge, and [`SPARES`] more came with the first borrower.
//!   Whatever else is in the refuge belongs to discardable borrowers and is forgotten first; at most `SPARES` of those
//!   are open.
//! - **No frame is both lent and held**, except that frames of an idle contract slot count as held for everybody else.
//! - **Contract memory cannot be pinned**: a page in it is moved to the refuge before a closure sees it.

use crate::addr::{FRAME_SIZE, Frame, FrameRange};
use crate::carve_out::CarveOut;
use crate::cma::index::{Index, Node};
use crate::cma::reach::Reachable;
use crate::heap::{filled, room};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::fmt;
use core::iter;
use core::mem;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Frames of refuge beyond the movable borrowers' budgets: as many as can be open at a time.
pub const SPARES: u32 = 7;
/// Borrowers an area can have.
pub const MAX_BORROWERS: usize = 255;
/// Pages one borrower can have.
pub const MAX_BUDGET: u32 = 1 << 24;
/// Pages moved at a time, under one mapping.
pub(crate) const BATCH: usize = 15;

/// What becomes of a borrower's page when its frame is recalled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// It is forgotten: what it held can be had again.
    Discardable,
    /// It is copied elsewhere first.
    Movable,
}

/// Whose frames are recalled first, of two borrowers whose recall costs the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Priority {
    /// These.
    Low,
    /// The other one's.
    High,
}

/// Why a borrower was not registered, or got nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LendError {
    /// There is no such area.
    NoArea,
    /// The area is `no-map` only, not `reusable`.
    NotLendable,
    /// A budget of no pages, or more than [`MAX_BUDGET`].
    Budget {
        /// Pages asked for.
        pages: u32,
    },
    /// [`MAX_BORROWERS`] are registered.
    TooManyBorrowers,
    /// The heap has no room for the books of so many pages or, of a movable borrower, for its refuge.
    Heap {
        /// Pages asked for.
        pages: u32,
    },
    /// All pages of the budget are lent.
    Spent {
        /// The budget.
        pages: u32,
    },
    /// No frame is idle.
    NothingIdle,
}

impl fmt::Display for LendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoArea => write!(f, "there is no such area to borrow from"),
            Self::NotLendable => write!(f, "the area is never lent: it is not reusable"),
            Self::Budget { pages } => write!(f, "a budget of {pages} pages is not possible (1 to {MAX_BUDGET})"),
            Self::TooManyBorrowers => write!(f, "all {MAX_BORROWERS} borrowers of the area are registered"),
            Self::Heap { pages } => write!(f, "no heap left for a borrower of {pages} pages"),
            Self::Spent { pages } => write!(f, "all {pages} pages of the budget are lent"),
            Self::NothingIdle => write!(f, "no frame is idle"),
        }
    }
}

/// Why a page cannot be used. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoanError {
    /// The loan was given back, or is another borrower's.
    Stale,
    /// The page was recalled: its bytes are gone.
    Recalled {
        /// Its number in the loan.
        page: u32,
    },
    /// The loan has fewer pages, or a page fewer bytes.
    Range {
        /// The page.
        page: u32,
        /// The first byte.
        offset: usize,
        /// Bytes asked for.
        len: usize,
    },
    /// The page is open already: a closure runs over it.
    InUse {
        /// Its number in the loan.
        page: u32,
    },
    /// [`SPARES`] pages are open: closures nest too deep.
    TooManyOpen,
}

impl fmt::Display for LoanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale => write!(f, "the loan was given back, or is another borrower's"),
            Self::Recalled { page } => write!(f, "page {page} of the loan was recalled"),
            Self::Range { page, offset, len } => {
                write!(f, "{len} bytes from {offset} of page {page} are not all in the loan")
            }
            Self::InUse { page } => write!(f, "page {page} of the loan is open already"),
            Self::TooManyOpen => write!(f, "{SPARES} pages are open already"),
        }
    }
}

/// The name of a loan. Good until it is given back; its pages may be recalled before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Loan {
    /// No other loan ever has it.
    number: u64,
    first: u32,
    count: u32,
}

/// Loans made so far, by all areas of all machines. At one each nanosecond it would take 500 years to wrap.
static LOANS: AtomicU64 = AtomicU64::new(0);

impl Loan {
    /// Pages lent, each of 4 KiB.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub const fn len(self) -> u32 {
        self.count
    }
}

/// Counters of a borrower since it was registered, and what it has now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoanStats {
    /// Pages it has in the area.
    pub in_area: u32,
    /// Pages it has in the refuge.
    pub in_refuge: u32,
    /// Pages ever lent.
    pub lent: u64,
    /// Pages whose frame was recalled: discarded or moved.
    pub recalled: u64,
    /// Pages forgotten.
    pub discarded: u64,
    /// Pages copied elsewhere.
    pub moved: u64,
}

/// Who has a frame: nobody, or a page of a borrower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Tenant(u32);

impl Tenant {
    const NONE: Self = Self(0);

    const fn new(borrower: usize, page: u32) -> Self {
        Self((borrower as u32 + 1) << 24 | page)
    }

    const fn get(self) -> Option<(usize, usize)> {
        if self.0 == 0 { None } else { Some(((self.0 >> 24) as usize - 1, (self.0 & (MAX_BUDGET - 1)) as usize)) }
    }
}

/// Where a page's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LoanPlace {
    /// Nowhere: not lent, or recalled.
    Gone,
    /// In this frame of the area.
    Area(u32),
    /// In this frame of the refuge.
    Refuge(u32),
}

#[derive(Clone, Copy, Debug)]
struct Page {
    place: LoanPlace,
    /// If a loan begins here: its number. Else 0.
    loan: u64,
    /// It was given bytes. If not, it reads as zeros, whatever the frame holds (I5).
    written: bool,
    open: bool,
    moving: bool,
}

impl Page {
    const VACANT: Self = Self { place: LoanPlace::Gone, loan: 0, written: false, open: false, moving: false };
}

#[derive(Debug)]
struct Book {
    name: &'static str,
    kind: Kind,
    high: bool,
    pages: Vec<Page>,
    /// Pages of no loan.
    vacant: Index<'static>,
    stats: LoanStats,
}

/// 32 frames, a bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// A buffer's or a contract's: no allocation can have it, lent or not.
    held: u32,
    lent: u32,
    /// Of those lent: to a movable borrower.
    movable: u32,
    /// Of those lent: the caches may hold lines.
    cached: u32,
    /// Of those lent: to a borrower of high priority.
    high: u32,
    /// Of those lent: open.
    open: u32,
    /// What recalling all that is lent of it costs.
    cost: u32,
    /// The levels of [`Spare`] after the first, a bit each, that have something of it which those before have not.
    levels: u32,
}

/// What it costs to recall a page, in units of about 30 instructions (docs/loans.md): to discard it; if it may be cached;
/// if it must be moved; and, to break ties, if its borrower's priority is high.
const COST: [u32; 4] = [2, 12, 20, 1];

impl Block {
    fn available(&self) -> u32 {
        !(self.held | self.open)
    }

    /// What an allocation can have of it that leaves these kinds of loan alone.
    fn but(&self, spare: Spare) -> u32 {
        let Spare { movable, cached, high, both } = spare;
        self.available()
            & !(self.movable & movable | self.cached & cached | self.high & high | self.movable & self.high & both)
    }

    /// After a change of what is lent, or how.
    fn settle(&mut self) {
        self.cost = self.cost_of(u32::MAX);
        let Self { movable, cached, high, .. } = *self;
        let more = [
            high & !(movable | cached),
            cached & !(movable | high),
            cached & high & !movable,
            movable & !high,
            movable & high,
        ];
        self.levels = more.iter().zip(1..).fold(0, |set, (&bits, level)| set | u32::from(bits != 0) << level);
    }

    fn cost_of(&self, mask: u32) -> u32 {
        let [discard, cached, moved, high] = COST;
        (self.lent & mask).count_ones() * discard
            + (self.cached & mask).count_ones() * cached
            + (self.movable & mask).count_ones() * moved
            + (self.high & mask).count_ones() * high
    }
}

/// Kinds of loan to leave alone, the dearer ones: all bits of a word are set, or none.
#[derive(Clone, Copy)]
struct Spare {
    movable: u32,
    cached: u32,
    high: u32,
    /// Movable ones of high priority.
    both: u32,
}

impl Spare {
    const fn at(level: u32) -> Self {
        let (movable, cached, high, both) = match level {
            0 => (ALL, ALL, ALL, 0),
            1 => (ALL, ALL, 0, 0),
            2 => (ALL, 0, ALL, 0),
            3 => (ALL, 0, 0, 0),
            4 => (0, 0, 0, ALL),
            _ => (0, 0, 0, 0),
        };
        Self { movable, cached, high, both }
    }
}

const ALL: u32 = u32::MAX;

/// Levels of [`Spare`]; at the last, nothing is spared.
const LEVELS: u32 = 6;
/// The last level at which nothing is moved.
const DISCARDS: u32 = 3;

/// Frames outside the area. A frame's number is its part's in the upper eight bits, and its own in that part.
#[derive(Debug)]
struct Refuge {
    /// [`SPARES`] frames, then those of each movable borrower.
    parts: Vec<Part>,
    /// Parts before this one have no frame that was never lent.
    fresh: usize,
    /// Frames that were lent before, from the one that was left last.
    left: u32,
    /// Frames lent to discardable borrowers, from the one lent first.
    first_guest: u32,
    last_guest: u32,
    all: u32,
    used: u32,
}

/// Frames of refuge that came together.
#[derive(Debug)]
struct Part {
    berths: Vec<Berth>,
    /// How many were ever lent.
    lent: u32,
    /// Room for a page each. They are reached by pointers, by whoever has the page open or moves it; a page that was never
    /// written is not read.
    memory: Vec<HeapPage>,
}

/// What is known of a frame of refuge.
#[derive(Clone, Copy, Debug)]
struct Berth {
    tenant: Tenant,
    /// Of a frame that was left, or a guest's: the next such.
    next: u32,
    /// Of a guest's: the one before.
    before: u32,
}

/// The end of a list of frames of refuge.
const END: u32 = u32::MAX;

#[repr(align(4096))]
#[expect(dead_code, reason = "a layout; its bytes are reached by pointers")]
#[derive(Debug)]
struct HeapPage([u8; FRAME_SIZE as usize]);

impl Part {
    fn new(frames: u32) -> Result<Self, TryReserveError> {
        let berth = Berth { tenant: Tenant::NONE, next: END, before: END };
        Ok(Self { berths: filled(frames as usize, berth)?, lent: 0, memory: room(frames as usize)? })
    }
}

impl Refuge {
    /// One of [`SPARES`] frames, with room in the list for another part.
    fn new() -> Result<Self, TryReserveError> {
        let mut parts = room(2)?;
        parts.push(Part::new(SPARES)?);
        Ok(Self { parts, fresh: 0, left: END, first_guest: END, last_guest: END, all: SPARES, used: 0 })
    }

    /// The list has room for it.
    fn add(&mut self, part: Part) {
        self.all += part.berths.len() as u32;
        self.parts.push(part);
    }

    fn berth(&mut self, frame: u32) -> &mut Berth {
        &mut self.parts[(frame >> 24) as usize].berths[(frame & (MAX_BUDGET - 1)) as usize]
    }

    /// The first byte of a frame.
    fn pointer(&mut self, frame: u32) -> *mut u8 {
        let memory = self.parts[(frame >> 24) as usize].memory.as_mut_ptr();
        memory.wrapping_add((frame & (MAX_BUDGET - 1)) as usize).cast()
    }

    /// Takes a frame that nobody has.
    fn take(&mut self) -> Option<u32> {
        if self.left != END {
            let frame = self.left;
            self.left = self.berth(frame).next;
            self.used += 1;
            return Some(frame);
        }
        while let Some(part) = self.parts.get_mut(self.fresh) {
            if (part.lent as usize) < part.berths.len() {
                part.lent += 1;
                self.used += 1;
                return Some((self.fresh as u32) << 24 | (part.lent - 1));
            }
            self.fresh += 1;
        }
        None
    }

    /// A frame that was taken is a page's.
    fn enter(&mut self, frame: u32, tenant: Tenant, kind: Kind) {
        let last = self.last_guest;
        let berth = self.berth(frame);
        berth.tenant = tenant;
        if kind == Kind::Discardable {
            (berth.next, berth.before) = (END, last);
            self.last_guest = frame;
            match last {
                END => self.first_guest = frame,
                last => self.berth(last).next = frame,
            }
        }
    }

    /// A page's frame is nobody's.
    fn leave(&mut self, frame: u32, kind: Kind) {
        let left = self.left;
        let berth = self.berth(frame);
        let Berth { next, before, .. } = *berth;
        (berth.tenant, berth.next) = (Tenant::NONE, left);
        self.left = frame;
        self.used -= 1;
        if kind == Kind::Discardable {
            match before {
                END => self.first_guest = next,
                before => self.berth(before).next = next,
            }
            match next {
                END => self.last_guest = before,
                next => self.berth(next).before = before,
            }
        }
    }
}

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
    /// All of them hold bytes; else none does, and there is nothing to copy.
    pub(crate) written: bool,
}

/// What opening a page found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    pub(crate) borrower: usize,
    pub(crate) page: usize,
    pub(crate) place: LoanPlace,
    pub(crate) written: bool,
}

/// Why a page is not open.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotOpen {
    /// It is being moved, or a contract waits for its frame: ask again.
    Moving,
    /// It is in contract memory, which a closure may not hold: to be moved first.
    Contracted(u32),
    /// For good.
    Refused(LoanError),
}

/// The books of an area's loans.
#[derive(Debug)]
pub(crate) struct Lending {
    /// Each run of the area, and the position of its first frame.
    runs: ArrayVec<(FrameRange, u32), { CarveOut::RANGES }>,
    tenants: Vec<Tenant>,
    blocks: Vec<Block>,
    books: Vec<Book>,
    refuge: Refuge,
    lent: u32,
    /// Of those, frames that an allocation may have.
    lent_available: u32,
    /// Frames of no contract that pages are being moved into.
    arriving: u32,
    /// Who waits until no page of an idle contract slot is open.
    slots_awaited: u32,
}

/// A borrower that is to be registered, and all the memory it will ever take: got without the lock.
#[derive(Debug)]
pub(crate) struct Candidate {
    name: &'static str,
    kind: Kind,
    high: bool,
    pages: Vec<Page>,
    nodes: Vec<Node>,
    refuge: Option<Part>,
    /// The area's books, where it had none yet.
    lending: Option<Lending>,
}

impl Candidate {
    /// One with a budget of `pages`, for an area of these runs if it has no books yet.
    pub(crate) fn new(
        name: &'static str,
        kind: Kind,
        pages: u32,
        priority: Priority,
        runs: Option<Runs>,
    ) -> Result<Self, LendError> {
        if pages == 0 || pages > MAX_BUDGET {
            return Err(LendError::Budget { pages });
        }
        let make = || {
            Ok(Self {
                name,
                kind,
                high: priority == Priority::High,
                pages: filled(pages as usize, Page::VACANT)?,
                nodes: filled(Index::nodes_needed(0, pages).expect("a budget's pages"), Node::EMPTY)?,
                refuge: (kind == Kind::Movable).then(|| Part::new(pages)).transpose()?,
                lending: runs.map(Lending::new).transpose()?,
            })
        };
        make().map_err(|_: TryReserveError| LendError::Heap { pages })
    }

    /// The area's books, made with it.
    pub(crate) const fn take_lending(&mut self) -> Option<Lending> {
        self.lending.take()
    }
}

/// The runs of an area.
pub(crate) type Runs = ArrayVec<FrameRange, { CarveOut::RANGES }>;

impl Lending {
    /// Books for these runs, all held, with room in its lists for the first borrower.
    fn new(runs: Runs) -> Result<Self, TryReserveError> {
        let mut positions = 0;
        let runs = runs
            .into_iter()
            .map(|frames| {
                let at = positions;
                positions += frames.count().next_multiple_of(32);
                (frames, at)
            })
            .collect();
        Ok(Self {
            runs,
            tenants: filled(positions as usize, Tenant::NONE)?,
            blocks: filled(positions as usize / 32, Block { held: u32::MAX, ..Block::default() })?,
            books: room(1)?,
            refuge: Refuge::new()?,
            lent: 0,
            lent_available: 0,
            arriving: 0,
            slots_awaited: 0,
        })
    }

    /// Whether it has as many borrowers as it can.
    pub(crate) const fn is_full(&self) -> bool {
        self.books.len() == MAX_BORROWERS
    }

    /// Adds a borrower; its number. Only the lists of borrowers may grow here.
    pub(crate) fn admit(&mut self, candidate: &mut Candidate) -> Result<usize, LendError> {
        if self.is_full() {
            return Err(LendError::TooManyBorrowers);
        }
        let pages = candidate.pages.len() as u32;
        let full = |_| LendError::Heap { pages };
        self.books.try_reserve(1).map_err(full)?;
        self.refuge.parts.try_reserve(1).map_err(full)?;
        if let Some(part) = candidate.refuge.take() {
            self.refuge.add(part);
        }
        let nodes = mem::take(&mut candidate.nodes).leak();
        self.books.push(Book {
            name: candidate.name,
            kind: candidate.kind,
            high: candidate.high,
            pages: mem::take(&mut candidate.pages),
            vacant: Index::new(0, pages, nodes).expect("storage as large as asked for"),
            stats: LoanStats::default(),
        });
        Ok(self.books.len() - 1)
    }

    /// Frames of the area that are lent.
    pub(crate) const fn lent(&self) -> u32 {
        self.lent
    }

    /// Of these, frames that no contract holds.
    pub(crate) const fn lent_available(&self) -> u32 {
        self.lent_available
    }

    pub(crate) fn stats(&self, borrower: usize) -> LoanStats {
        self.books[borrower].stats
    }

    pub(crate) fn borrowers(&self) -> impl Iterator<Item = (&'static str, Kind, LoanStats)> + '_ {
        self.books.iter().map(|book| (book.name, book.kind, book.stats))
    }

    /// Frames of the refuge: all, and those in use.
    pub(crate) fn refuge(&self) -> (u32, u32) {
        (self.refuge.all, self.refuge.used)
    }

    /// The first byte of a frame of the refuge.
    pub(crate) fn refuge_frame(&mut self, frame: u32) -> *mut u8 {
        self.refuge.pointer(frame)
    }

    /// The positions of frames, in one run.
    fn positions(&self, frames: FrameRange) -> Range<u32> {
        let (run, first) = self.runs.iter().find(|(run, _)| run.covers(frames)).expect("frames of this area");
        let start = first + (frames.start() - run.start());
        start..start + frames.count()
    }

    /// Each block of a range of positions, with the bits of it that are in the range.
    fn masks(range: Range<u32>) -> impl Iterator<Item = (usize, u32)> {
        let mut at = range.start;
        iter::from_fn(move || {
            let count = (range.end.checked_sub(at).filter(|&left| left > 0)?).min(32 - at % 32);
            let mask = (u32::MAX >> (32 - count)) << (at % 32);
            let block = at / 32;
            at += count;
            Some((block as usize, mask))
        })
    }

    fn mark(&mut self, frames: FrameRange, mark: impl Fn(&mut Block, u32)) {
        for (block, mask) in Self::masks(self.positions(frames)) {
            mark(&mut self.blocks[block], mask);
        }
    }

    /// Frames that no allocation can have from now on, or can again.
    pub(crate) fn set_held(&mut self, frames: FrameRange, held: bool) {
        for (block, mask) in Self::masks(self.positions(frames)) {
            let block = &mut self.blocks[block];
            // None in most cases.
            if block.lent & mask != 0 {
                let others = self.lent_available - (block.lent & mask & !block.held).count_ones();
                self.lent_available = others + if held { 0 } else { (block.lent & mask).count_ones() };
            }
            block.held = block.held & !mask | if held { mask } else { 0 };
        }
    }

    /// The lent frame's caches may hold lines of it.
    pub(crate) fn set_cached(&mut self, frames: FrameRange) {
        self.mark(frames, |block, mask| {
            block.cached |= mask;
            block.settle();
        });
    }

    /// The name of the borrower that has a frame of the area, if one has.
    pub(crate) fn borrower_of(&self, frame: u32) -> Option<&'static str> {
        let (borrower, _) = self.tenants[self.position(frame) as usize].get()?;
        Some(self.books[borrower].name)
    }

    fn position(&self, frame: u32) -> u32 {
        self.positions(FrameRange::new(frame, 1).expect("a frame of the area")).start
    }

    fn bit(&self, frame: u32) -> (&Block, u32) {
        let at = self.position(frame);
        (&self.blocks[at as usize / 32], 1 << (at % 32))
    }

    pub(crate) fn is_held(&self, frame: u32) -> bool {
        let (block, bit) = self.bit(frame);
        block.held & bit != 0
    }

    /// The first position of `[from, to)` whose bit is set in what `bits` makes of its block; else `to`.
    fn next(&self, from: u32, to: u32, bits: impl Fn(&Block) -> u32) -> u32 {
        if from >= to {
            return to;
        }
        let mut wanted = u32::MAX << (from % 32);
        for (n, block) in (from / 32..).zip(&self.blocks[from as usize / 32..to.div_ceil(32) as usize]) {
            let word = bits(block) & wanted;
            if word != 0 {
                return (n * 32 + word.trailing_zeros()).min(to);
            }
            wanted = u32::MAX;
        }
        to
    }

    /// Runs of positions in `[from, to)` whose bits are set in what `bits` makes of their blocks.
    fn runs_of<'s>(
        &'s self,
        range: Range<u32>,
        bits: impl Fn(&Block) -> u32 + Copy + 's,
    ) -> impl Iterator<Item = Range<u32>> + 's {
        let mut from = range.start;
        iter::from_fn(move || {
            let start = self.next(from, range.end, bits);
            from = self.next(start, range.end, move |block| !bits(block));
            (start < range.end).then_some(start..from)
        })
    }

    /// Frames of `window` that are not lent, as runs, in order.
    pub(crate) fn for_each_unlent(&self, window: FrameRange, mut each: impl FnMut(FrameRange)) {
        let range = self.positions(window);
        for run in self.runs_of(range.clone(), |block| !block.lent) {
            let start = window.start() + (run.start - range.start);
            each(FrameRange::new(start, run.end - run.start).expect("inside the area"));
        }
    }

    /// Runs of frames that an allocation can have: idle or lent.
    pub(crate) fn for_each_available(&self, mut each: impl FnMut(FrameRange)) {
        for &(frames, first) in &self.runs {
            for run in self.runs_of(first..first + frames.count(), Block::available) {
                let start = frames.start() + (run.start - first);
                each(FrameRange::new(start, run.end - run.start).expect("inside the area"));
            }
        }
    }

    /// Frames of the longest run in `place`, from a multiple of 2^`order` of the bus on, that an allocation can have;
    /// O(blocks).
    pub(crate) fn largest_available(&self, place: Reachable, order: u8) -> u32 {
        let range = self.positions(place.frames);
        if order > 0 {
            let runs = self.runs_of(range.clone(), Block::available);
            let frame = |at: u32| place.frames.start() + (at - range.start);
            let length = |run: Range<u32>| frame(run.end).saturating_sub(place.align_up(frame(run.start), order));
            return runs.map(length).max().unwrap_or(0);
        }
        let (mut longest, mut before) = (0, 0);
        for (block, mask) in Self::masks(range) {
            let mut bits = self.blocks[block].available() & mask;
            if bits == u32::MAX {
                before += 32;
                continue;
            }
            longest = longest.max(before + bits.trailing_ones());
            before = bits.leading_ones();
            // What touches neither end of the block is shorter than it.
            while longest < 30 && bits != 0 {
                bits >>= bits.trailing_zeros();
                longest = longest.max(bits.trailing_ones());
                bits = bits.unbounded_shr(bits.trailing_ones());
            }
        }
        longest.max(before)
    }

    /// An open frame without which `place` would hold such a window.
    pub(crate) fn barred_by_open(&self, place: Reachable, count: u32, order: u8) -> Option<Frame> {
        let range = self.positions(place.frames);
        let frame = |at: u32| place.frames.start() + (at - range.start);
        self.runs_of(range.clone(), |block| !block.held).find_map(|run| {
            let window = FrameRange::new(place.align_up(frame(run.start), order), count)?;
            let fits = window.end() <= frame(run.end);
            if fits { self.open_in(window).and_then(Frame::from_number) } else { None }
        })
    }

    /// A page of `window` that is open.
    pub(crate) fn open_in(&self, window: FrameRange) -> Option<u32> {
        let range = self.positions(window);
        let at = self.next(range.start, range.end, |block| block.open);
        (at < range.end).then(|| window.start() + (at - range.start))
    }

    /// What a recall of these frames costs.
    pub(crate) fn cost(&self, frames: FrameRange) -> u32 {
        Self::masks(self.positions(frames)).map(|(block, mask)| self.blocks[block].cost_of(mask)).sum()
    }

    /// Looks in `place` for `count` frames from a multiple of 2^`order` of the bus that are idle or lent: the cheapest to
    /// recall. Exact: there is none if this finds none.
    ///
    /// Up to 32 frames, the first run of the cheapest kind of loan; from there on, the cheapest of windows a block
    /// apart. O(blocks) either way.
    pub(crate) fn search(&self, place: Reachable, count: u32, order: u8) -> Option<(FrameRange, u32)> {
        let Reachable { frames, .. } = place;
        if frames.count() < count {
            return None;
        }
        let range = self.positions(frames);
        let up = |at: u32| place.align_up(frames.start() + (at - range.start), order) - frames.start() + range.start;
        let found = if count <= 32 {
            let first = self.first_window(0, range.clone(), count, up);
            first.or_else(|| {
                let present = self.levels_present(range.clone());
                let mut levels = (1..LEVELS).filter(|level| present & 1 << level != 0);
                levels.find_map(|level| self.first_window(level, range.clone(), count, up))
            })
        } else {
            self.cheapest_window(range.clone(), count, order, up)
        };
        let start = frames.start() + (found? - range.start);
        let window = FrameRange::new(start, count)?;
        Some((window, self.cost(window)))
    }

    /// The first run in `place` of loans that an allocation may have and that are discarded, of the cheapest kind there is.
    pub(crate) fn first_forgotten(&self, place: FrameRange) -> Option<FrameRange> {
        let range = self.positions(place);
        (0..=DISCARDS).find_map(|level| {
            let spare = Spare::at(level);
            let run = self.runs_of(range.clone(), move |block| block.lent & block.but(spare)).next()?;
            FrameRange::new(place.start() + (run.start - range.start), run.end - run.start)
        })
    }

    /// The levels after the first, a bit each, at which there may be more than at all before: loans in contract memory
    /// count too.
    fn levels_present(&self, range: Range<u32>) -> u32 {
        let blocks = &self.blocks[range.start as usize / 32..range.end.div_ceil(32) as usize];
        let levels = blocks.iter().fold(0, |levels, block| levels | block.levels);
        // Neither of the first two has the other's: together they are the third's.
        if levels & 0b110 == 0b110 { levels | 1 << DISCARDS } else { levels }
    }

    fn first_window(&self, level: u32, range: Range<u32>, count: u32, up: impl Fn(u32) -> u32) -> Option<u32> {
        let spare = Spare::at(level);
        let allowed = move |block: &Block| block.but(spare);
        self.runs_of(range, allowed).find_map(|run| {
            let start = up(run.start);
            (start + count <= run.end).then_some(start)
        })
    }

    /// Of each run, the first window and those that begin with a block, by what their blocks cost in all.
    fn cheapest_window(&self, range: Range<u32>, count: u32, order: u8, up: impl Fn(u32) -> u32) -> Option<u32> {
        let sum = |blocks: &[Block]| blocks.iter().map(|block| block.cost).sum::<u32>();
        let blocks_of = |at: u32| at as usize / 32..(at + count).div_ceil(32) as usize;
        // Once one begins with a block, the next such is this far on.
        let step = 32.max(1 << order);
        let mut best: Option<(u32, u32)> = None;
        for run in self.runs_of(range, Block::available) {
            let Some(last) = run.end.checked_sub(count) else { continue };
            let first = up(run.start);
            let second = up((first / 32 + 1) * 32);
            for at in [first, second].into_iter().filter(|&at| at <= last) {
                let cost = sum(&self.blocks[blocks_of(at)]);
                if best.is_none_or(|(least, _)| cost < least) {
                    best = Some((cost, at));
                }
                // Nothing is cheaper than what no move and no line costs.
                if cost <= blocks_of(at).len() as u32 * 32 * COST[0] {
                    return Some(at);
                }
            }
            if second > last {
                continue;
            }
            let Range { start, end } = blocks_of(second);
            let (mut cost, mut at) = (sum(&self.blocks[start..end]), second);
            let leaving = self.blocks[start..].chunks(step as usize / 32);
            for (leaving, entering) in leaving.zip(self.blocks[end..].chunks(step as usize / 32)) {
                at += step;
                if at > last {
                    break;
                }
                cost = cost + sum(entering) - sum(leaving);
                if best.is_none_or(|(least, _)| cost < least) {
                    best = Some((cost, at));
                }
            }
        }
        best.map(|(_, at)| at)
    }

    // --- borrowing and giving back ---

    /// Begins a loan of up to `count` pages, all of them without a place; its first page and how many.
    pub(crate) fn begin(&mut self, borrower: usize, count: u32) -> Result<Range<u32>, LendError> {
        let book = &mut self.books[borrower];
        let spent = LendError::Spent { pages: book.pages.len() as u32 };
        let count = count.min(book.vacant.largest_run());
        let first = book.vacant.alloc(count, 0, 0..u32::MAX).ok_or(spent)?;
        Ok(first..first + count)
    }

    /// Gives frames of the area, idle until now, to the pages from `page` on.
    pub(crate) fn lend(&mut self, borrower: usize, page: u32, frames: FrameRange, cached: bool) {
        let book = &mut self.books[borrower];
        let (movable, high) = (book.kind == Kind::Movable, book.high);
        for (n, frame) in (frames.start()..frames.end()).enumerate() {
            book.pages[page as usize + n].place = LoanPlace::Area(frame);
        }
        book.stats.in_area += frames.count();
        book.stats.lent += u64::from(frames.count());
        let positions = self.positions(frames);
        for (n, at) in positions.enumerate() {
            self.tenants[at as usize] = Tenant::new(borrower, page + n as u32);
        }
        self.enter(frames, movable, high, cached);
    }

    fn enter(&mut self, frames: FrameRange, movable: bool, high: bool, cached: bool) {
        for (block, mask) in Self::masks(self.positions(frames)) {
            let block = &mut self.blocks[block];
            self.lent += mask.count_ones();
            self.lent_available += (mask & !block.held).count_ones();
            block.lent |= mask;
            block.movable |= if movable { mask } else { 0 };
            block.high |= if high { mask } else { 0 };
            block.cached |= if cached { mask } else { 0 };
            block.settle();
        }
    }

    /// The frames are nobody's any more; the tenants' words are the caller's.
    fn leave(&mut self, frames: FrameRange) {
        for (block, mask) in Self::masks(self.positions(frames)) {
            let block = &mut self.blocks[block];
            self.lent -= (block.lent & mask).count_ones();
            self.lent_available -= (block.lent & mask & !block.held).count_ones();
            for bits in [&mut block.lent, &mut block.movable, &mut block.high, &mut block.cached] {
                *bits &= !mask;
            }
            block.settle();
        }
    }

    /// Gives a page a frame of the refuge; a movable borrower always gets one.
    pub(crate) fn lend_refuge(&mut self, borrower: usize, page: u32) -> bool {
        let kind = self.books[borrower].kind;
        let frame = match kind {
            Kind::Discardable => self.refuge.take(),
            Kind::Movable => Some(self.refuge_for_movable()),
        };
        let Some(frame) = frame else { return false };
        self.refuge.enter(frame, Tenant::new(borrower, page), kind);
        let book = &mut self.books[borrower];
        book.pages[page as usize].place = LoanPlace::Refuge(frame);
        book.stats.in_refuge += 1;
        book.stats.lent += 1;
        true
    }

    /// A free frame of the refuge, or that of a guest, who is forgotten. There is one: see the module.
    fn refuge_for_movable(&mut self) -> u32 {
        if let Some(frame) = self.refuge.take() {
            return frame;
        }
        // At most `SPARES` are open, so this looks at no more than that and one. The refuge holds all movable pages and
        // more, so there is one.
        let mut frame = self.refuge.first_guest;
        let (borrower, page) = loop {
            let Berth { tenant, next, .. } = *self.refuge.berth(frame);
            let (borrower, page) = tenant.get().expect("a guest is a tenant");
            if !self.books[borrower].pages[page].open {
                break (borrower, page);
            }
            frame = next;
        };
        let book = &mut self.books[borrower];
        book.pages[page].place = LoanPlace::Gone;
        book.stats.in_refuge -= 1;
        book.stats.recalled += 1;
        book.stats.discarded += 1;
        self.refuge.leave(frame, Kind::Discardable);
        self.refuge.take().expect("just left")
    }

    /// The loan stands, with the pages that got a place: the first `got` of `pages`.
    pub(crate) fn end_borrow(&mut self, borrower: usize, pages: Range<u32>, got: u32) -> Result<Loan, LendError> {
        let book = &mut self.books[borrower];
        let unused = pages.end - pages.start - got;
        if unused > 0 {
            book.vacant.free(pages.start + got, unused).expect("pages just taken");
        }
        if got == 0 {
            return Err(LendError::NothingIdle);
        }
        let number = LOANS.fetch_add(1, Ordering::Relaxed) + 1;
        book.pages[pages.start as usize].loan = number;
        Ok(Loan { number, first: pages.start, count: got })
    }

    /// The pages of a loan.
    fn pages_of(&self, borrower: usize, loan: Loan) -> Result<Range<usize>, LoanError> {
        match self.books[borrower].pages.get(loan.first as usize) {
            Some(head) if head.loan == loan.number => Ok(loan.first as usize..(loan.first + loan.count) as usize),
            _ => Err(LoanError::Stale),
        }
    }

    /// Pages of a loan that were not recalled.
    pub(crate) fn left(&self, borrower: usize, loan: Loan) -> Result<u32, LoanError> {
        let pages = self.pages_of(borrower, loan)?;
        let left = self.books[borrower].pages[pages].iter().filter(|page| page.place != LoanPlace::Gone);
        Ok(left.count() as u32)
    }

    /// Ends a loan. `each` gets the frames of the area, as runs that are all held or all not. `None`: a page is moving.
    pub(crate) fn give_back(
        &mut self,
        borrower: usize,
        loan: Loan,
        mut each: impl FnMut(FrameRange, bool),
    ) -> Result<Option<()>, LoanError> {
        let pages = self.pages_of(borrower, loan)?;
        let book = &self.books[borrower];
        if let Some(page) = book.pages[pages.clone()].iter().position(|page| page.open) {
            return Err(LoanError::InUse { page: page as u32 });
        }
        if book.pages[pages.clone()].iter().any(|page| page.moving) {
            return Ok(None);
        }
        let kind = book.kind;
        let mut run: Option<(FrameRange, bool)> = None;
        for n in pages.clone() {
            let book = &mut self.books[borrower];
            let place = mem::replace(&mut book.pages[n].place, LoanPlace::Gone);
            book.pages[n].written = false;
            match place {
                LoanPlace::Gone => {}
                LoanPlace::Refuge(frame) => {
                    book.stats.in_refuge -= 1;
                    self.refuge.leave(frame, kind);
                }
                LoanPlace::Area(frame) => {
                    book.stats.in_area -= 1;
                    let held = self.is_held(frame);
                    let one = FrameRange::new(frame, 1).expect("a frame of the area");
                    let at = self.positions(one).start;
                    self.tenants[at as usize] = Tenant::NONE;
                    self.leave(one);
                    run = match run {
                        // Two runs of an area may touch in number and be two banks.
                        Some((frames, same)) if same == held && frames.end() == frame && !self.is_run_start(frame) => {
                            FrameRange::between(frames.start(), frame + 1).map(|frames| (frames, held))
                        }
                        Some((frames, held)) => {
                            each(frames, held);
                            Some((one, self.is_held(frame)))
                        }
                        None => Some((one, held)),
                    };
                }
            }
        }
        if let Some((frames, held)) = run {
            each(frames, held);
        }
        let book = &mut self.books[borrower];
        book.pages[loan.first as usize].loan = 0;
        book.vacant.free(loan.first, loan.count).expect("the loan's own pages");
        Ok(Some(()))
    }

    fn is_run_start(&self, frame: u32) -> bool {
        self.runs.iter().any(|(run, _)| run.start() == frame)
    }

    // --- opening and closing ---

    /// Opens a page; for a closure, only outside contract memory.
    pub(crate) fn open(&mut self, borrower: usize, loan: Loan, n: u32, for_closure: bool) -> Result<Opening, NotOpen> {
        let refused = NotOpen::Refused;
        let pages = self.pages_of(borrower, loan).map_err(refused)?;
        if n >= loan.count {
            return Err(refused(LoanError::Range { page: n, offset: 0, len: 0 }));
        }
        let number = pages.start + n as usize;
        let Page { place, written, open, moving, .. } = self.books[borrower].pages[number];
        match place {
            LoanPlace::Gone => return Err(refused(LoanError::Recalled { page: n })),
            _ if moving => return Err(NotOpen::Moving),
            _ if open => return Err(refused(LoanError::InUse { page: n })),
            // Whoever waits for a slot would wait for each of these too.
            LoanPlace::Area(frame) if self.slots_awaited > 0 && self.is_held(frame) => return Err(NotOpen::Moving),
            LoanPlace::Area(frame) if for_closure && self.is_held(frame) => return Err(NotOpen::Contracted(frame)),
            LoanPlace::Area(frame) => {
                let one = FrameRange::new(frame, 1).expect("a frame of the area");
                self.mark(one, |block, mask| block.open |= mask);
            }
            LoanPlace::Refuge(_) => {}
        }
        self.books[borrower].pages[number].open = true;
        Ok(Opening { borrower, page: number, place, written })
    }

    /// Closes a page, which holds bytes now, or as before.
    pub(crate) fn close(&mut self, opening: Opening, written: bool) {
        let page = &mut self.books[opening.borrower].pages[opening.page];
        page.open = false;
        page.written |= written;
        if let LoanPlace::Area(frame) = opening.place {
            let one = FrameRange::new(frame, 1).expect("a frame of the area");
            self.mark(one, |block, mask| block.open &= !mask);
        }
    }

    // --- recall ---

    /// Recalls what is lent of `window`, which is held and none of it open: forgets discardable pages, marks movable ones as moving.
    /// Returns whether there are any of those, which [`next_batch`](Self::next_batch) then names.
    pub(crate) fn recall(&mut self, window: FrameRange) -> bool {
        let mut moves = false;
        // Discards counted so far, of one borrower after another.
        let (mut owner, mut count) = (0, 0);
        for (n, mask) in Self::masks(self.positions(window)) {
            let block = &mut self.blocks[n];
            debug_assert!(block.open & mask == 0 && block.held & mask == mask, "held, and not open");
            let gone = block.lent & mask & !block.movable;
            for bits in [&mut block.lent, &mut block.cached, &mut block.high] {
                *bits &= !gone;
            }
            block.settle();
            self.lent -= gone.count_ones();
            let (mut discard, mut moving) = (gone, block.lent & mask);
            moves |= moving != 0;
            while discard != 0 {
                let at = n * 32 + discard.trailing_zeros() as usize;
                discard &= discard - 1;
                let tenant = mem::replace(&mut self.tenants[at], Tenant::NONE);
                let (borrower, page) = tenant.get().expect("a lent frame has a tenant");
                if borrower != owner {
                    Self::tally_discards(&mut self.books[owner].stats, count);
                    (owner, count) = (borrower, 0);
                }
                self.books[borrower].pages[page].place = LoanPlace::Gone;
                count += 1;
            }
            while moving != 0 {
                let at = n * 32 + moving.trailing_zeros() as usize;
                moving &= moving - 1;
                let (borrower, page) = self.tenants[at].get().expect("a lent frame has a tenant");
                self.books[borrower].pages[page].moving = true;
            }
        }
        Self::tally_discards(&mut self.books[owner].stats, count);
        moves
    }

    fn tally_discards(stats: &mut LoanStats, count: u32) {
        stats.in_area -= count;
        stats.recalled += u64::from(count);
        stats.discarded += u64::from(count);
    }

    fn tenant(&self, at: u32) -> (usize, usize) {
        self.tenants[at as usize].get().expect("a lent frame has a tenant")
    }

    /// The next adjacent frames of `window` whose pages are to be moved, at most [`BATCH`], all of one borrower, all
    /// written or none.
    pub(crate) fn next_moving(&self, window: FrameRange) -> Option<FrameRange> {
        let range = self.positions(window);
        let first = self.next(range.start, range.end, |block| block.lent);
        if first == range.end {
            return None;
        }
        let end = self.next(first, range.end.min(first + BATCH as u32), |block| !block.lent);
        let (borrower, page) = self.tenant(first);
        let pages = &self.books[borrower].pages;
        let alike = |tenant: &&Tenant| {
            tenant.get().is_some_and(|(other, at)| other == borrower && pages[at].written == pages[page].written)
        };
        let same = self.tenants[first as usize..end as usize].iter().take_while(alike).count();
        FrameRange::new(window.start() + (first - range.start), same as u32)
    }

    /// From now on somebody waits until no page of an idle contract slot is open, or does not any more. Meanwhile no page
    /// of a slot is opened.
    pub(crate) const fn await_slots(&mut self, waits: bool) {
        if waits { self.slots_awaited += 1 } else { self.slots_awaited -= 1 }
    }

    /// A page in contract memory is to be moved out of it. Until that is done its frame is open, so that its slot is left
    /// alone. `false`, and nothing changed, if the frame is not lent any more, or open, or moving already, or somebody
    /// waits for a slot.
    pub(crate) fn begin_move(&mut self, frame: FrameRange) -> bool {
        if self.slots_awaited > 0 {
            return false;
        }
        let at = self.positions(frame).start;
        let Some((borrower, page)) = self.tenants[at as usize].get() else { return false };
        let page = &mut self.books[borrower].pages[page];
        if page.open || page.moving {
            return false;
        }
        page.moving = true;
        self.mark(frame, |block, mask| block.open |= mask);
        true
    }

    /// The page was moved.
    pub(crate) fn end_move(&mut self, frame: FrameRange) {
        self.mark(frame, |block, mask| block.open &= !mask);
    }

    /// Pages to be moved from these frames, to the frames given or to the refuge.
    pub(crate) fn batch(&mut self, from: FrameRange, to: Option<FrameRange>) -> Batch {
        let (borrower, page) = self.tenant(self.positions(from).start);
        let written = self.books[borrower].pages[page].written;
        let Some(to) = to else {
            let to = (0..from.count()).map(|_| self.refuge_for_movable()).collect();
            return Batch { from, to: Target::Refuge(to), written };
        };
        // Neither idle nor lent until the copy is done.
        self.mark(to, |block, mask| block.open |= mask);
        self.arriving += self.arriving_in(to);
        let from = FrameRange::new(from.start(), to.count()).expect("a part of it");
        Batch { from, to: Target::Area(to), written }
    }

    /// How many of these frames an allocation may have once a move to them is done: all, or none of a contract's.
    fn arriving_in(&self, to: FrameRange) -> u32 {
        if self.is_held(to.start()) { 0 } else { to.count() }
    }

    /// Frames that an allocation may have once the moves that are under way are done.
    pub(crate) const fn arriving(&self) -> u32 {
        self.arriving
    }

    /// The bytes were copied: the pages are in their new places, the old frames nobody's.
    pub(crate) fn moved(&mut self, batch: &Batch) {
        let Batch { from, to, .. } = batch;
        let left = self.positions(*from);
        let (borrower, _) = self.tenant(left.start);
        let Book { kind, high, .. } = self.books[borrower];
        if let Target::Area(to) = to {
            self.mark(*to, |block, mask| block.open &= !mask);
            self.arriving -= self.arriving_in(*to);
            self.enter(*to, kind == Kind::Movable, high, true);
            let entered = self.positions(*to);
            self.tenants.copy_within(left.start as usize..left.end as usize, entered.start as usize);
        }
        let Book { pages, stats, .. } = &mut self.books[borrower];
        let tenants = &mut self.tenants[left.start as usize..left.end as usize];
        for (n, tenant) in tenants.iter_mut().enumerate() {
            let tenant = mem::replace(tenant, Tenant::NONE);
            let (_, number) = tenant.get().expect("a lent frame has a tenant");
            let page = &mut pages[number];
            page.moving = false;
            page.place = match to {
                Target::Area(to) => LoanPlace::Area(to.start() + n as u32),
                Target::Refuge(to) => {
                    self.refuge.enter(to[n], tenant, kind);
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
        self.leave(*from);
    }
}
