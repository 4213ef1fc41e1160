//! An area: the frames of one carve-out and which of them are free.
//!
//! Guarantees: only a [`CarveOut`] becomes an area (I2); frames given out are the caller's alone until given back;
//! a refusal says why and takes nothing from anybody. The index of free frames stands outside the carved memory, which
//! nobody can read while it is idle.
//!
//! Each frame is one of: held by a buffer; idle; being zeroed in idle time, and for that long nobody's;
//! [lent](super::loan); or a contract slot's, and then held, idle or lent for that slot alone. An allocation takes from what is idle, else it recalls the cheapest window of what is idle and
//! lent. Idle time prepares the next ones: it zeroes frames where they lie, and finds places for the last kinds of request.

use crate::addr::{Bytes, FRAME_SHIFT, FRAME_SIZE, Frame, FrameRange, PhysAddr};
use crate::carve_out::CarveOut;
use crate::cma::index::{Index, MAX_ALIGN_ORDER, Node};
use crate::cma::loan::{Batch, Candidate, LendError, Lending, Loan, LoanError, Runs};
use crate::cma::reach::{Reach, Reachable};
use crate::cma::reserve::{Request, Reserve};
use crate::heap::{filled, room};
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use arrayvec::{ArrayString, ArrayVec};
use core::fmt;
use core::ops::Range;

/// The largest alignment an allocation can ask for, in bytes.
pub const MAX_ALIGN: u32 = FRAME_SIZE << MAX_ALIGN_ORDER;

/// Why an allocation was refused. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocError {
    /// No bytes were asked for.
    ZeroSize,
    /// The alignment is not a power of two, or larger than [`MAX_ALIGN`].
    Alignment {
        /// What was asked for, in bytes.
        align: u32,
    },
    /// The device has no area: there is no default one, or, as is said then, it names one that was refused.
    NoArea(Option<&'static str>),
    /// Fewer bytes are free than asked for.
    NoCapacity {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// Bytes free.
        free: u64,
    },
    /// Enough is free, but no run of it is long enough at that alignment, wherever in the area.
    Fragmented(NoRun),
    /// There would be a run, but not one that the device reaches to its last byte, or not without crossing its
    /// boundary, or not one that is aligned where the device sees it.
    OutOfReach(NoRun),
    /// There would be a run but for a frame that is open now: to a closure, or to another core's copy.
    Open {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// Address of the frame.
        frame: PhysAddr,
    },
    /// All that the contract declares for buffers of this size are allocated.
    ContractExceeded {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// Buffers declared for them.
        declared: u32,
    },
    /// The contract declares no buffer as large as this at this alignment.
    NotDeclared {
        /// Bytes asked for, in whole frames.
        wanted: u64,
        /// The alignment asked for, in bytes, at least a frame.
        align: u32,
        /// Bytes of the largest that it declares at that alignment; 0 if there is none.
        largest: u64,
    },
    /// As many buffers exist as there are records for.
    TooManyBuffers {
        /// The number.
        limit: usize,
    },
}

impl AllocError {
    /// Whether more free frames could have changed it.
    pub(crate) const fn is_of_room(&self) -> bool {
        matches!(self, Self::NoCapacity { .. } | Self::Fragmented(_) | Self::OutOfReach(_) | Self::Open { .. })
    }

    /// Notes the limits of the device that asked, where the error tells of them.
    pub(crate) fn within(mut self, reach: impl FnOnce() -> Reach) -> Self {
        if let Self::Fragmented(no_run) | Self::OutOfReach(no_run) = &mut self {
            no_run.reach = reach();
        }
        self
    }
}

/// What was asked for and what there is, of a request that no free run fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRun {
    /// Bytes asked for, in whole frames.
    pub wanted: u64,
    /// The alignment asked for, in bytes, at least a frame: that of the address that the device is told.
    pub align: u32,
    /// What the device reaches.
    pub reach: Reach,
    /// Bytes free.
    pub free: u64,
    /// The largest free run at that alignment that the device reaches, in bytes: the most that would be given.
    pub largest: u64,
    /// The largest free run at any address, in bytes.
    pub any: u64,
}

impl fmt::Display for NoRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self { wanted, align, reach, free, largest, any } = self;
        write!(f, "no run of {}", Bytes(wanted))?;
        let aligned = align > FRAME_SIZE;
        if aligned {
            write!(f, " aligned to {}", Bytes(align.into()))?;
        }
        write!(f, "{reach}: {} free in the area, the largest ", Bytes(free))?;
        match (reach == Reach::ALL, aligned) {
            (true, false) => return write!(f, "run {}", Bytes(largest)),
            (true, true) => write!(f, "run at that alignment")?,
            (false, false) => write!(f, "such run")?,
            (false, true) => write!(f, "such run at that alignment")?,
        }
        write!(f, " {}, the largest of any kind {}", Bytes(largest), Bytes(any))
    }
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ZeroSize => write!(f, "allocation of no bytes"),
            Self::Alignment { align } => {
                let most = Bytes(MAX_ALIGN.into());
                write!(f, "alignment of {align:#x} bytes is not a power of two up to {most}")
            }
            Self::NoArea(None) => write!(f, "the device has no area to allocate from"),
            Self::NoArea(Some(why)) => write!(f, "the device has no area to allocate from: {why}"),
            Self::NoCapacity { wanted, free } => {
                write!(f, "no room for {}: {} free in the area", Bytes(wanted), Bytes(free))
            }
            Self::Fragmented(no_run) | Self::OutOfReach(no_run) => write!(f, "{no_run}"),
            Self::Open { wanted, frame } => {
                write!(f, "no run of {} until the lent frame {frame} is closed, which is open just now", Bytes(wanted))
            }
            Self::NotDeclared { wanted, align, largest } if align > FRAME_SIZE => write!(
                f,
                "no buffer of {} aligned to {} is declared: the contract's largest at that alignment are of {}",
                Bytes(wanted),
                Bytes(align.into()),
                Bytes(largest)
            ),
            Self::NotDeclared { wanted, largest, .. } => write!(
                f,
                "no buffer of {} is declared: the contract's largest are of {}",
                Bytes(wanted),
                Bytes(largest)
            ),
            Self::ContractExceeded { wanted, declared } => {
                write!(f, "no room for {}: all {declared} that the contract declares are allocated", Bytes(wanted))
            }
            Self::TooManyBuffers { limit } => write!(f, "all {limit} buffer records are in use"),
        }
    }
}

/// An index whose nodes are taken from the heap, once and for good.
///
/// # Panics
///
/// If there are no units, or more than an index holds: a carve-out of ARMv7-A has fewer.
fn heap_index(frames: FrameRange) -> Result<Index<'static>, TryReserveError> {
    let (first, units) = (frames.start(), frames.count());
    let nodes = Index::nodes_needed(first, units).expect("a number of units that an index holds");
    let nodes = filled(nodes, Node::EMPTY)?.leak();
    Ok(Index::new(first, units, nodes).expect("storage as large as asked for"))
}

/// Why a contract's slots were not planned.
#[derive(Debug)]
pub(crate) enum PlanError {
    /// The heap has no room to plan them in.
    Heap,
    /// One has no place.
    Slot(usize, AllocError),
}

impl From<TryReserveError> for PlanError {
    fn from(_: TryReserveError) -> Self {
        Self::Heap
    }
}

/// One run of an area.
#[derive(Debug)]
struct Run {
    frames: FrameRange,
    /// Frames that are neither held, lent, being zeroed, nor a contract's.
    idle: Index<'static>,
    /// All that became idle since idle time went through it lies in here.
    unseen: Range<u32>,
    /// Frames of idle contract slots that are not lent. There once a contract is, if the area is lendable.
    spare: Option<Index<'static>>,
}

impl Run {
    fn index_mut(&mut self, contracted: bool) -> &mut Index<'static> {
        if contracted { self.spare.as_mut().expect("made with the first contract") } else { &mut self.idle }
    }
}

/// What an allocation got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) frames: FrameRange,
    /// They are known to be zeroed.
    pub(crate) zeroed: bool,
    /// Loans among them are to be moved before their first use.
    pub(crate) moves: bool,
}

/// An allocation's count of frames, and the order of its alignment in frames.
pub(crate) fn shape(bytes: u32, align: u32) -> Result<(u32, u8), AllocError> {
    if bytes == 0 {
        return Err(AllocError::ZeroSize);
    }
    if !align.is_power_of_two() || align > MAX_ALIGN {
        return Err(AllocError::Alignment { align });
    }
    Ok((bytes.div_ceil(FRAME_SIZE), (align.trailing_zeros().max(FRAME_SHIFT) - FRAME_SHIFT) as u8))
}

/// The frames of one carve-out, and who has them.
#[derive(Debug)]
pub struct Area {
    name: ArrayString<{ CarveOut::NAME }>,
    runs: ArrayVec<Run, { CarveOut::RANGES }>,
    lendable: bool,
    reserve: Reserve,
    /// There once a borrower is registered.
    lending: Option<Lending>,
}

impl Area {
    /// Makes a carve-out allocatable. The index is taken from the heap once, here, and never given back.
    ///
    /// # Errors
    ///
    /// The heap has no room for the index.
    pub fn new(carved: &CarveOut) -> Result<Self, TryReserveError> {
        let run = |&frames: &FrameRange| {
            let idle = heap_index(frames)?;
            Ok::<_, TryReserveError>(Run { frames, unseen: idle.units(), idle, spare: None })
        };
        let mut name = ArrayString::new();
        name.push_str(carved.name());
        let runs = carved.ranges().iter().map(run).collect::<Result<_, _>>()?;
        Ok(Self { name, runs, lendable: carved.is_lendable(), reserve: Reserve::default(), lending: None })
    }

    /// What the device tree or `cma=` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether idle frames may be lent.
    pub const fn is_lendable(&self) -> bool {
        self.lendable
    }

    /// The carved frames.
    pub fn ranges(&self) -> impl Iterator<Item = FrameRange> + '_ {
        self.runs.iter().map(|run| run.frames)
    }

    /// Bytes that no buffer and no contract holds: idle, or lent.
    pub fn free_bytes(&self) -> u64 {
        let mut frames = self.idle_frames();
        if let Some(lending) = &self.lending {
            frames += lending.lent_available() + lending.arriving();
        }
        u64::from(frames) << FRAME_SHIFT
    }

    /// Idle frames, those that are being zeroed included.
    fn idle_frames(&self) -> u32 {
        let zeroing = self.reserve.zeroing.map_or(0, FrameRange::count);
        self.runs.iter().map(|run| run.idle.free_units()).sum::<u32>() + zeroing
    }

    /// Bytes of the largest run of them.
    pub fn largest_run(&mut self) -> u64 {
        self.largest_of(0, |run| core::iter::once(Reachable::unshifted(run)))
    }

    /// Returns the largest available run that starts at a multiple of 2^`order` frames of the bus, within places in a run
    /// of the area.
    fn largest_of<P: Iterator<Item = Reachable>>(&mut self, order: u8, places: impl Fn(FrameRange) -> P) -> u64 {
        let lending = self.lending.as_ref().filter(|lending| lending.lent_available() > 0);
        let mut largest = 0;
        for run in &mut self.runs {
            for place in places(run.frames) {
                largest = match lending {
                    Some(lending) => lending.largest_available(place, order).max(largest),
                    None => largest_in(&mut run.idle, place, order, largest),
                };
            }
        }
        u64::from(largest) << FRAME_SHIFT
    }

    /// Runs of frames that an allocation can have.
    fn for_each_available(&mut self, each: impl FnMut(FrameRange)) {
        if let Some(lending) = &self.lending {
            return lending.for_each_available(each);
        }
        let runs = self.runs.iter_mut().flat_map(|run| run.idle.runs());
        runs.filter_map(|free| FrameRange::between(free.start, free.end)).for_each(each);
    }

    /// Takes a run of frames for `bytes`, more than 0, aligned to `align` on the bus, within one of the places that `places`
    /// finds in a run of the area: what the device reaches of it, cut at its boundary. The first that has room is taken.
    ///
    /// Runs of 64 KiB and more are aligned to 64 KiB where that costs nothing, for large pages and sections.
    pub(crate) fn alloc<P: Iterator<Item = Reachable>>(
        &mut self,
        bytes: u32,
        align: u32,
        places: impl Fn(FrameRange) -> P,
    ) -> Result<Taken, AllocError> {
        let (count, order) = shape(bytes, align)?;
        let liked = if count >= 16 { order.max(4) } else { order };
        if let Some(taken) = self.take_foreseen(count, liked, order, &places) {
            return Ok(taken);
        }
        let (wanted, free) = (u64::from(count) << FRAME_SHIFT, self.free_bytes());
        if free < wanted {
            return Err(AllocError::NoCapacity { wanted, free });
        }
        if let Some(frames) = self.take_idle(count, liked, order, &places) {
            self.hold(frames);
            return Ok(Taken { frames, zeroed: false, moves: false });
        }
        match self.window(count, order, false, &places) {
            Some(frames) => Ok(Taken { frames, zeroed: false, moves: self.take_window(frames) }),
            None => Err(self.why_not(count, order, places)),
        }
    }

    /// What [`take_idle`](Self::take_idle) would take, if idle time found it out.
    fn take_foreseen<P: Iterator<Item = Reachable>>(
        &mut self,
        count: u32,
        liked: u8,
        order: u8,
        places: impl Fn(FrameRange) -> P,
    ) -> Option<Taken> {
        if self.reserve.stock == 0 {
            return None;
        }
        let (run, place) = self.runs.iter_mut().find_map(|run| {
            let place = places(run.frames).find(|place| place.frames.count() >= count)?;
            Some((run, place))
        })?;
        if !place.keeps(order) {
            return None;
        }
        let request = Request { count, order: liked, place: place.frames };
        let start = self.reserve.place_of(request, run.idle.version())?;
        run.idle.take(start, count).ok()?;
        let zeroed = run.unseen.is_empty();
        let frames = FrameRange::new(start, count)?;
        self.hold(frames);
        Some(Taken { frames, zeroed, moves: false })
    }

    fn take_idle<P: Iterator<Item = Reachable>>(
        &mut self,
        count: u32,
        liked: u8,
        order: u8,
        places: impl Fn(FrameRange) -> P,
    ) -> Option<FrameRange> {
        let mut find = |liked| {
            self.runs.iter_mut().find_map(|run| {
                let mut large = places(run.frames).filter(|place| place.frames.count() >= count);
                large.find_map(|place| place.take(&mut run.idle, count, liked, order))
            })
        };
        let found = find(liked).or_else(|| if liked == order { None } else { find(order) });
        found.map(|start| FrameRange::new(start, count).expect("inside the area"))
    }

    /// The cheapest window of what is idle and lent, if anything is lent.
    fn window<P: Iterator<Item = Reachable>>(
        &self,
        count: u32,
        order: u8,
        discards: bool,
        places: impl Fn(FrameRange) -> P,
    ) -> Option<FrameRange> {
        let lending = self.lending.as_ref().filter(|lending| lending.lent_available() > 0)?;
        let search = |place| lending.search(place, count, order, discards);
        let found =
            self.runs.iter().filter_map(|run| places(run.frames).filter_map(search).min_by_key(|found| found.1));
        found.min_by_key(|found| found.1).map(|found| found.0)
    }

    /// Takes a window that is idle or lent. Whether loans in it are to be moved.
    fn take_window(&mut self, frames: FrameRange) -> bool {
        self.hold(frames);
        self.reclaim(frames, false)
    }

    /// Takes what is idle of frames, recalls what is lent.
    fn reclaim(&mut self, frames: FrameRange, contracted: bool) -> bool {
        let runs = &mut self.runs;
        let mut take = |unlent: FrameRange| {
            let run = run_mut(runs, unlent);
            run.index_mut(contracted).take(unlent.start(), unlent.count()).expect("frames that are idle");
        };
        let Some(lending) = &mut self.lending else {
            take(frames);
            return false;
        };
        lending.for_each_unlent(frames, take);
        lending.recall(frames)
    }

    fn hold(&mut self, frames: FrameRange) {
        if let Some(lending) = &mut self.lending {
            lending.set_held(frames, true);
        }
    }

    /// Why there is no room, although enough is idle or lent.
    fn why_not<P: Iterator<Item = Reachable>>(
        &mut self,
        count: u32,
        order: u8,
        places: impl Fn(FrameRange) -> P,
    ) -> AllocError {
        let wanted = u64::from(count) << FRAME_SHIFT;
        let lending = self.lending.as_ref().filter(|lending| lending.lent_available() > 0);
        let elsewhere = if let Some(lending) = lending {
            let barred = |place| lending.barred_by_open(place, count, order);
            if let Some(frame) = self.runs.iter().find_map(|run| places(run.frames).find_map(barred)) {
                return AllocError::Open { wanted, frame: frame.base() };
            }
            self.runs.iter().any(|run| lending.search(Reachable::unshifted(run.frames), count, order, false).is_some())
        } else {
            self.runs.iter_mut().any(|run| run.idle.has(count, order))
        };
        let (free, largest, any) = (self.free_bytes(), self.largest_of(order, places), self.largest_run());
        let no_run = NoRun { wanted, align: FRAME_SIZE << order, reach: Reach::ALL, free, largest, any };
        if elsewhere { AllocError::OutOfReach(no_run) } else { AllocError::Fragmented(no_run) }
    }

    /// Gives a run back.
    ///
    /// # Panics
    ///
    /// If the frames are not the area's or not taken: a run is given back once, by the one value that owns it.
    pub(crate) fn give_back(&mut self, frames: FrameRange) {
        to_idle(&mut self.runs, &mut self.lending, frames);
    }

    // --- contracts ---

    /// Finds disjoint runs for buffers of these shapes, (frames, order), the first first: where they could be once all
    /// loans are recalled. Changes nothing; takes scratch memory from the heap. The error says which was refused.
    pub(crate) fn plan<P: Iterator<Item = Reachable>>(
        &mut self,
        shapes: &[(u32, u8)],
        places: impl Fn(FrameRange) -> P,
    ) -> Result<Vec<FrameRange>, PlanError> {
        let mut nodes: ArrayVec<Vec<Node>, { CarveOut::RANGES }> = ArrayVec::new();
        for run in &self.runs {
            let needed = Index::nodes_needed(run.frames.start(), run.frames.count()).expect("as its own index");
            nodes.push(filled(needed, Node::EMPTY)?);
        }
        let mut scratch: ArrayVec<(FrameRange, Index<'_>), { CarveOut::RANGES }> = ArrayVec::new();
        for (run, nodes) in self.runs.iter().zip(&mut nodes) {
            let (start, count) = (run.frames.start(), run.frames.count());
            let mut index = Index::new(start, count, nodes).expect("storage as large as asked for");
            index.take(start, count).expect("a fresh index is free");
            scratch.push((run.frames, index));
        }
        self.for_each_available(|frames| {
            let (_, index) = scratch.iter_mut().find(|(run, _)| run.covers(frames)).expect("frames of this area");
            index.free(frames.start(), frames.count()).expect("each frame is available once");
        });
        let mut planned = room(shapes.len())?;
        for (n, &(count, order)) in shapes.iter().enumerate() {
            let liked = if count >= 16 { order.max(4) } else { order };
            let mut find = |liked| {
                scratch
                    .iter_mut()
                    .find_map(|(run, index)| places(*run).find_map(|place| place.take(index, count, liked, order)))
            };
            let found = find(liked).or_else(|| find(order));
            let Some(start) = found else {
                let wanted = u64::from(count) << FRAME_SHIFT;
                let free = scratch.iter().map(|(_, index)| u64::from(index.free_units())).sum::<u64>() << FRAME_SHIFT;
                if free < wanted {
                    return Err(PlanError::Slot(n, AllocError::NoCapacity { wanted, free }));
                }
                let elsewhere = scratch.iter_mut().any(|(_, index)| index.has(count, order));
                let any = scratch.iter_mut().map(|(_, index)| u64::from(index.largest_run())).max().unwrap_or(0);
                let mut largest = 0;
                for (run, index) in &mut scratch {
                    largest = places(*run).fold(largest, |largest, place| largest_in(index, place, order, largest));
                }
                let (largest, any) = (u64::from(largest) << FRAME_SHIFT, any << FRAME_SHIFT);
                let no_run = NoRun { wanted, align: FRAME_SIZE << order, reach: Reach::ALL, free, largest, any };
                let error = if elsewhere { AllocError::OutOfReach(no_run) } else { AllocError::Fragmented(no_run) };
                return Err(PlanError::Slot(n, error));
            };
            planned.push(FrameRange::new(start, count).expect("inside the area"));
        }
        Ok(planned)
    }

    /// Takes from the heap what an area with contracts needs, once.
    pub(crate) fn prepare_slots(&mut self) -> Result<(), TryReserveError> {
        for run in self.runs.iter_mut().filter(|run| self.lendable && run.spare.is_none()) {
            let mut spare = heap_index(run.frames)?;
            spare.take(run.frames.start(), run.frames.count()).expect("a fresh index is free");
            run.spare = Some(spare);
        }
        Ok(())
    }

    /// Takes planned runs for a contract's slots, for ever. Whether loans in them are to be moved. The slots were
    /// [prepared](Self::prepare_slots).
    pub(crate) fn take_planned(&mut self, planned: &[FrameRange]) -> bool {
        planned.iter().fold(false, |moves, &frames| self.take_window(frames) | moves)
    }

    /// An idle slot's frames, all its own again: from now on they may be lent.
    pub(crate) fn give_slot_back(&mut self, frames: FrameRange) {
        if self.lendable {
            free_in(&mut self.runs, frames, true);
        }
    }

    /// Takes an idle slot's frames, recalling what is lent of them. Whether loans among them are to be moved.
    pub(crate) fn take_slot(&mut self, frames: FrameRange) -> bool {
        self.lendable && self.reclaim(frames, true)
    }

    /// What recalling an idle slot's loans costs; `None` while one of them is open, for a bounded copy.
    pub(crate) fn slot_cost(&self, frames: FrameRange) -> Option<u32> {
        let Some(lending) = &self.lending else { return Some(0) };
        if lending.open_in(frames).is_some() { None } else { Some(lending.cost(frames)) }
    }

    /// Notes that one more caller waits for a slot without open pages, or (`false`) that one waits no more. While anybody
    /// waits, no page of a slot is opened.
    pub(crate) fn await_slots(&mut self, waits: bool) {
        if let Some(lending) = &mut self.lending {
            lending.await_slots(waits);
        }
    }

    /// An idle slot of a contract that ended: its frames are anybody's, and stay lent where they are.
    pub(crate) fn end_slot(&mut self, frames: FrameRange) {
        let (runs, lendable) = (&mut self.runs, self.lendable);
        let mut free = |unlent: FrameRange| {
            if lendable {
                let spare = run_mut(runs, unlent).index_mut(true);
                spare.take(unlent.start(), unlent.count()).expect("frames of an idle slot");
            }
            free_in(runs, unlent, false);
        };
        match &mut self.lending {
            Some(lending) => {
                lending.for_each_unlent(frames, free);
                lending.set_held(frames, false);
            }
            None => free(frames),
        }
    }

    // --- loans ---

    /// Whether a borrower may be added; its runs, if it has no books yet.
    pub(crate) fn may_lend(&self) -> Result<Option<Runs>, LendError> {
        match &self.lending {
            _ if !self.lendable => Err(LendError::NotLendable),
            Some(lending) if lending.is_full() => Err(LendError::TooManyBorrowers),
            Some(_) => Ok(None),
            None => Ok(Some(self.ranges().collect())),
        }
    }

    /// Adds a borrower, which was made for what [`may_lend`](Self::may_lend) said.
    pub(crate) fn admit(&mut self, candidate: &mut Candidate) -> Result<usize, LendError> {
        let runs = &mut self.runs;
        let lending = self.lending.get_or_insert_with(|| {
            let mut lending = candidate.take_lending().expect("made with the first borrower");
            let free = runs.iter_mut().flat_map(|run| run.idle.runs());
            let idle = free.filter_map(|free| FrameRange::between(free.start, free.end));
            // Those being zeroed stay held until they are.
            idle.for_each(|frames| lending.set_held(frames, false));
            lending
        });
        lending.admit(candidate)
    }

    #[cfg(test)]
    fn register(
        &mut self,
        name: &'static str,
        kind: crate::cma::loan::Kind,
        pages: u32,
        priority: crate::cma::loan::Priority,
    ) -> Result<usize, LendError> {
        let mut candidate = Candidate::new(name, kind, pages, priority, self.may_lend()?)?;
        self.admit(&mut candidate)
    }

    /// The books of the loans, if there is a borrower.
    pub(crate) const fn lending(&self) -> Option<&Lending> {
        self.lending.as_ref()
    }

    pub(crate) const fn lending_mut(&mut self) -> Option<&mut Lending> {
        self.lending.as_mut()
    }

    /// The name of the borrower that has a frame; `None` if none has, or it is another area's.
    pub(crate) fn borrower_of(&self, frame: Frame) -> Option<&'static str> {
        self.ranges().find(|run| run.contains(frame))?;
        self.lending.as_ref()?.borrower_of(frame.number())
    }

    /// Lends up to `count` frames: idle ones but for the reserve, then idle contract slots', then the refuge's. `cached`
    /// says of frames whether lines of them may be cached.
    pub(crate) fn borrow(
        &mut self,
        borrower: usize,
        count: u32,
        cached: impl Fn(FrameRange) -> bool,
    ) -> Result<Loan, LendError> {
        let lending = self.lending.as_mut().ok_or(LendError::NoArea)?;
        let pages = lending.begin(borrower, count)?;
        let wanted = pages.end - pages.start;
        let mut got = 0;
        let idle: u32 = self.runs.iter().map(|run| run.idle.free_units()).sum();
        let zeroing = self.reserve.zeroing.map_or(0, FrameRange::count);
        let mut idle = idle.saturating_sub(self.reserve.stock.saturating_sub(zeroing));
        for contracted in [false, true] {
            for run in self.runs.iter_mut().filter(|run| !contracted || run.spare.is_some()) {
                let index = run.index_mut(contracted);
                while got < wanted {
                    let mut count = (wanted - got).min(index.largest_run());
                    if !contracted {
                        count = count.min(idle);
                    }
                    let Some(start) = index.alloc(count, 0, 0..u32::MAX) else { break };
                    if !contracted {
                        idle -= count;
                    }
                    let frames = FrameRange::new(start, count).expect("inside the area");
                    lending.lend(borrower, pages.start + got, frames, cached(frames));
                    got += count;
                }
            }
        }
        while got < wanted && lending.lend_refuge(borrower, pages.start + got) {
            got += 1;
        }
        lending.end_borrow(borrower, pages, got)
    }

    /// Ends a loan. `None` if a page of it is moving.
    pub(crate) fn give_loan_back(&mut self, borrower: usize, loan: Loan) -> Result<Option<()>, LoanError> {
        let lending = self.lending.as_mut().ok_or(LoanError::Stale)?;
        let runs = &mut self.runs;
        lending.give_back(borrower, loan, |frames, contracted| free_in(runs, frames, contracted))
    }

    /// The next pages of `window` to be moved, with a place for them: idle frames, an idle contract slot's, or the
    /// refuge's, which is never full (I6).
    pub(crate) fn next_batch(&mut self, window: FrameRange) -> Option<Batch> {
        let lending = self.lending.as_mut()?;
        let from = lending.next_moving(window)?;
        let to = [false, true].into_iter().find_map(|contracted| {
            self.runs.iter_mut().filter(|run| !contracted || run.spare.is_some()).find_map(|run| {
                let index = run.index_mut(contracted);
                let count = from.count().min(index.largest_run());
                FrameRange::new(index.alloc(count, 0, 0..u32::MAX)?, count)
            })
        });
        Some(lending.batch(from, to))
    }

    /// A page in contract memory that is to leave it, and its place in the refuge; `None` if it has left meanwhile, or is
    /// about to. Until [`evicted`](Self::evicted) its slot is not to be had.
    pub(crate) fn evict(&mut self, frame: FrameRange) -> Option<Batch> {
        let lending = self.lending.as_mut()?;
        lending.begin_move(frame).then(|| lending.batch(frame, None))
    }

    /// The evicted page's old frame is idle again, for its slot.
    pub(crate) fn evicted(&mut self, frame: FrameRange) {
        let Some(lending) = &mut self.lending else { return };
        lending.end_move(frame);
        free_in(&mut self.runs, frame, lending.is_held(frame.start()));
    }

    // --- the reserve ---

    pub(crate) const fn set_stock(&mut self, frames: u32) {
        self.reserve.stock = frames;
    }

    /// Frames neither held by a buffer nor lent.
    pub(crate) fn unlent(&self) -> u32 {
        let spare = |run: &Run| run.spare.as_ref().map_or(0, Index::free_units);
        self.idle_frames() + self.runs.iter().map(spare).sum::<u32>()
    }

    /// Of those, what is kept from borrowers.
    pub(crate) fn reserved(&self) -> u32 {
        self.reserve.stock.min(self.idle_frames())
    }

    /// Whether another core has frames in hand that an allocation may have soon: it zeroes them, or moves pages there.
    /// For that long it has the work lane ([`crate::dma::loan`]): whoever has the lane finds none.
    pub(crate) fn has_in_hand(&self) -> bool {
        self.reserve.zeroing.is_some() || self.lending.as_ref().is_some_and(|lending| lending.arriving() > 0)
    }

    /// The next up to `most` frames that may not be zeroed yet: idle ones or, where fewer are idle than are to be,
    /// discardable loans'. They are nobody's until [`end_zeroing`](Self::end_zeroing).
    pub(crate) fn begin_zeroing(&mut self, most: u32) -> Option<FrameRange> {
        if self.reserve.stock == 0 {
            return None;
        }
        let next = |run: &mut Run| {
            let Some(free) = run.idle.first_run(run.unseen.clone()) else {
                run.unseen = 0..0;
                return None;
            };
            let count = most.min(free.end - free.start);
            run.unseen.start = free.start + count;
            run.idle.take(free.start, count).ok()?;
            FrameRange::new(free.start, count)
        };
        let frames = if let Some(frames) = self.runs.iter_mut().find_map(next) {
            self.hold(frames);
            frames
        } else {
            let count = self.reserve.stock.saturating_sub(self.idle_frames()).min(most);
            if count == 0 {
                return None;
            }
            let lending = self.lending.as_ref()?;
            let found = self.runs.iter().find_map(|run| lending.first_discardable(run.frames))?;
            let (frames, _) = found.split_at(count.min(found.count()))?;
            let moves = self.take_window(frames);
            debug_assert!(!moves, "only discardable loans");
            frames
        };
        self.reserve.zeroing = Some(frames);
        Some(frames)
    }

    /// They are zeroed, and idle.
    pub(crate) fn end_zeroing(&mut self, frames: FrameRange) {
        self.reserve.zeroing = None;
        let idle = &mut run_mut(&mut self.runs, frames).idle;
        idle.free(frames.start(), frames.count()).expect("frames that were taken");
        if let Some(lending) = &mut self.lending {
            lending.set_held(frames, false);
        }
    }

    /// Finds the place for one of the kinds of request that are made; whether one was left to do.
    pub(crate) fn foresee(&mut self) -> bool {
        if self.reserve.stock == 0 {
            return false;
        }
        for kind in &mut self.reserve.kinds {
            let Request { count, order, place } = kind.request;
            let idle = &mut run_mut(&mut self.runs, place).idle;
            if kind.foreseen.is_none_or(|(version, _)| version != idle.version()) {
                kind.foreseen = Some((idle.version(), idle.find(count, order, place.start()..place.end())));
                return true;
            }
        }
        false
    }
}

/// Units of the longest free run in `place` from a multiple of 2^`order` of the bus on, if that is more than `known`.
fn largest_in(index: &mut Index<'_>, place: Reachable, order: u8, known: u32) -> u32 {
    // At least `least`, at most `most`. What has a run of so many has one of fewer.
    let (mut least, mut most) = (known, index.largest_run_in(place.frames.start()..place.frames.end()));
    while least < most {
        // The first look is whether there are more than are known at all.
        let count = if least == known { known + 1 } else { least + (most - least).div_ceil(2) };
        if place.find(index, count, order).is_some() { least = count } else { most = count - 1 }
    }
    least
}

fn run_mut(runs: &mut [Run], frames: FrameRange) -> &mut Run {
    runs.iter_mut().find(|run| run.frames.covers(frames)).expect("frames of this area")
}

/// Frames that were held are idle.
fn to_idle(runs: &mut [Run], lending: &mut Option<Lending>, frames: FrameRange) {
    free_in(runs, frames, false);
    if let Some(lending) = lending {
        lending.set_held(frames, false);
    }
}

fn free_in(runs: &mut [Run], frames: FrameRange, contracted: bool) {
    let run = run_mut(runs, frames);
    if !contracted {
        let Range { start, end } = run.unseen.clone();
        let all =
            if start < end { start.min(frames.start())..end.max(frames.end()) } else { frames.start()..frames.end() };
        run.unseen = all;
    }
    let index = run.index_mut(contracted);
    index.free(frames.start(), frames.count()).expect("frames that were taken");
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::cma::loan::{Kind, NotOpen, Opening, Place, Priority, SPARES};
    use proptest::prelude::*;
    use std::vec::Vec;

    const FIRST: u32 = 0x60000;

    /// An area of four frames, all a contract's slot and lent, of which page 2 is to be opened by a closure.
    fn contracted(kind: Kind) -> (Area, FrameRange, Loan, u32) {
        let frames = FrameRange::new(FIRST, 4).unwrap();
        // SAFETY: frames are numbers here; nothing is mapped.
        let mut area = Area::new(&unsafe { CarveOut::assume("test", &[frames], true) }).unwrap();
        assert_eq!(area.register("cache", kind, 4, Priority::Low), Ok(0));
        area.prepare_slots().unwrap();
        assert!(!area.take_planned(&[frames]));
        area.give_slot_back(frames);
        let loan = area.borrow(0, 4, |_| false).unwrap();
        let opened = area.lending_mut().unwrap().open(0, loan, 2, true);
        let Err(NotOpen::Contracted(frame)) = opened else { panic!("{opened:?}") };
        (area, frames, loan, frame)
    }

    #[test]
    fn i6_a_window_of_unlike_discardable_loans_is_found() {
        let frames = FrameRange::new(FIRST, 4).unwrap();
        // SAFETY: frames are numbers here; nothing is mapped.
        let mut area = Area::new(&unsafe { CarveOut::assume("test", &[frames], true) }).unwrap();
        for (name, priority, cached) in [("stills", Priority::Low, true), ("films", Priority::High, false)] {
            let borrower = area.register(name, Kind::Discardable, 2, priority).unwrap();
            area.borrow(borrower, 2, |_| cached).unwrap();
        }
        let taken = area.alloc(4 * FRAME_SIZE, 1, |run| core::iter::once(Reachable::unshifted(run))).unwrap();
        assert_eq!((taken.frames, taken.moves), (frames, false));
    }

    /// Between the look and the eviction another core had the lock.
    #[test]
    fn i7_a_page_is_not_evicted_from_a_slot_that_was_taken_meanwhile() {
        for kind in [Kind::Discardable, Kind::Movable] {
            let (mut area, frames, _, frame) = contracted(kind);
            assert_eq!(area.take_slot(frames), kind == Kind::Movable);
            assert!(area.evict(FrameRange::new(frame, 1).unwrap()).is_none(), "the slot's buffer has the frame");
        }
    }

    #[test]
    fn i1_a_page_is_not_evicted_while_a_copy_has_it_open() {
        let (mut area, frames, loan, frame) = contracted(Kind::Movable);
        let one = FrameRange::new(frame, 1).unwrap();
        let opening = area.lending_mut().unwrap().open(0, loan, 2, false).unwrap();
        assert!(area.evict(one).is_none());
        assert_eq!(area.slot_cost(frames), None);
        area.lending_mut().unwrap().close(opening, true);
        assert!(area.evict(one).is_some());
    }

    /// An eviction's copy is made without the lock: until it is done, nobody takes the slot nor ends it.
    #[test]
    fn i7_a_slot_is_left_alone_while_a_page_is_evicted_from_it() {
        for kind in [Kind::Discardable, Kind::Movable] {
            let (mut area, frames, loan, frame) = contracted(kind);
            let one = FrameRange::new(frame, 1).unwrap();
            let batch = area.evict(one).unwrap();
            assert_eq!(area.slot_cost(frames), None);
            assert!(area.evict(one).is_none(), "once");
            let again = area.lending_mut().unwrap().open(0, loan, 2, true);
            assert!(matches!(again, Err(NotOpen::Moving)), "{again:?}");
            area.lending_mut().unwrap().moved(&batch);
            area.evicted(one);
            assert!(area.slot_cost(frames).is_some());
            let opening = area.lending_mut().unwrap().open(0, loan, 2, true).unwrap();
            assert!(matches!(opening.place, Place::Refuge(_)));
            assert_eq!(area.take_slot(frames), kind == Kind::Movable, "the other three");
            assert_eq!(area.lending().unwrap().left(0, loan), Ok(if kind == Kind::Movable { 4 } else { 1 }));
        }
    }

    /// Whoever waits for a slot waits for the copy that is under way, and for none that begins later.
    #[test]
    fn i7_no_page_of_a_slot_is_opened_or_evicted_while_somebody_waits_for_one() {
        let (mut area, frames, loan, frame) = contracted(Kind::Discardable);
        let one = FrameRange::new(frame, 1).unwrap();
        let opening = area.lending_mut().unwrap().open(0, loan, 0, false).unwrap();
        area.await_slots(true);
        area.await_slots(true);
        for for_closure in [false, true] {
            let later = area.lending_mut().unwrap().open(0, loan, 2, for_closure);
            assert!(matches!(later, Err(NotOpen::Moving)), "{later:?}");
        }
        assert!(area.evict(one).is_none());
        area.await_slots(false);
        assert!(area.lending_mut().unwrap().open(0, loan, 1, false).is_err(), "another waits still");
        area.lending_mut().unwrap().close(opening, false);
        assert!(area.slot_cost(frames).is_some());
        area.await_slots(false);
        let opening = area.lending_mut().unwrap().open(0, loan, 1, false).unwrap();
        area.lending_mut().unwrap().close(opening, false);
        assert!(area.evict(one).is_some());
    }

    const RUNS: [(u32, u32); 2] = [(0x60005, 150), (0x70040, 70)];

    fn area(lendable: bool) -> Area {
        let runs = RUNS.map(|(start, count)| FrameRange::new(start, count).unwrap());
        // SAFETY: frames are numbers here; nothing is mapped.
        Area::new(&unsafe { CarveOut::assume("test", &runs, lendable) }).unwrap()
    }

    /// What devices reach: all; a part of it; no run across a multiple of 16 frames; two windows, shifted up and down by
    /// numbers of frames that keep some alignments.
    fn places(reach: usize, run: FrameRange) -> std::vec::IntoIter<Reachable> {
        let part = |start, count| run.intersection(FrameRange::new(start, count).unwrap());
        let places: Vec<_> = match reach {
            0 => std::vec![(run, 0)],
            1 => std::vec![(part(0x60020, 0x10010), 0)],
            2 => (run.start() / 16..run.end().div_ceil(16)).map(|block| (part(block * 16, 16), 0)).collect(),
            _ => std::vec![(part(0x60003, 90), 4), (part(0x6005d, 0x1000d), 0u32.wrapping_sub(0x60002))],
        };
        let places = places.into_iter().map(|(frames, shift)| Reachable { frames, shift });
        places.filter(|place| !place.frames.is_empty()).collect::<Vec<_>>().into_iter()
    }

    fn on_the_bus(place: Reachable, frame: u32, order: u32) -> bool {
        frame.wrapping_add(place.shift).is_multiple_of(1 << order)
    }

    #[derive(Clone, Debug)]
    enum Op {
        Alloc {
            count: u32,
            order: u32,
            reach: usize,
        },
        Free(prop::sample::Index),
        /// So many steps of idle work.
        Idle(usize),
        Borrow(u32),
        Open(prop::sample::Index, u32),
        Close(prop::sample::Index),
    }

    fn ops(lends: bool) -> impl Strategy<Value = Vec<Op>> {
        // Few kinds of request, so that they come again.
        let count = prop_oneof![4 => 1..5u32, 2 => Just(16), 1 => Just(33), 1 => 1..120u32];
        let alloc = (count, 0..6u32, 0..4usize);
        let op = prop_oneof![
            12 => alloc.prop_map(|(count, order, reach)| Op::Alloc { count, order, reach }),
            6 => any::<prop::sample::Index>().prop_map(Op::Free),
            if lends { 1 } else { 6 } => (0..20usize).prop_map(Op::Idle),
            if lends { 4 } else { 0 } => (1..100u32).prop_map(Op::Borrow),
            if lends { 6 } else { 0 } => (any::<prop::sample::Index>(), 0..60u32).prop_map(|(loan, page)| Op::Open(loan, page)),
            if lends { 2 } else { 0 } => any::<prop::sample::Index>().prop_map(Op::Close),
        ];
        prop::collection::vec(op, 1..60)
    }

    fn idle_step(area: &mut Area) {
        match area.begin_zeroing(3) {
            Some(frames) => area.end_zeroing(frames),
            None => drop(area.foresee()),
        }
    }

    /// The naive area: a flag a frame for each run.
    struct Model {
        held: Vec<FrameRange>,
        open: Vec<u32>,
    }

    impl Model {
        fn frames() -> impl Iterator<Item = u32> {
            RUNS.into_iter().flat_map(|(start, count)| start..start + count)
        }

        fn is_held(&self, frame: u32) -> bool {
            self.held.iter().any(|held| (held.start()..held.end()).contains(&frame))
        }

        fn free(&self) -> u64 {
            Self::frames().filter(|&frame| !self.is_held(frame)).count() as u64 * u64::from(FRAME_SIZE)
        }

        fn windows(&self, place: Reachable, count: u32, order: u32) -> impl Iterator<Item = Range<u32>> + '_ {
            let (all, end) = (place.frames.start()..place.frames.end(), place.frames.end());
            let aligned = all.filter(move |&at| on_the_bus(place, at, order));
            let inside = aligned.map(move |at| at..at + count).filter(move |window| window.end <= end);
            inside.filter(|window| window.clone().all(|frame| !self.is_held(frame)))
        }

        fn has_no_open(&self, window: &Range<u32>) -> bool {
            !self.open.iter().any(|frame| window.contains(frame))
        }

        fn largest(&self, reach: usize, order: u32) -> u64 {
            let longest = |place: Reachable| {
                let (mut longest, mut length) = (0, 0);
                for frame in place.frames.start()..place.frames.end() {
                    let free = !self.is_held(frame) && !self.open.contains(&frame);
                    let begins = free && on_the_bus(place, frame, order);
                    length = if free && (length > 0 || begins) { length + 1 } else { 0 };
                    longest = longest.max(length);
                }
                longest
            };
            let runs = RUNS.into_iter().map(|(start, count)| FrameRange::new(start, count).unwrap());
            runs.flat_map(|run| places(reach, run)).map(longest).max().unwrap_or(0) * u64::from(FRAME_SIZE)
        }

        fn is_true(&self, no_run: NoRun, (count, order, reach): (u32, u32, usize)) -> bool {
            let (wanted, free) = (u64::from(count * FRAME_SIZE), self.free());
            let (largest, any) = (self.largest(reach, order), self.largest(0, 0));
            let align = FRAME_SIZE << order;
            no_run == NoRun { wanted, align, reach: Reach::ALL, free, largest, any }
                && free >= wanted
                && largest < wanted
        }

        /// Whether the area's answer is the one to be given.
        fn judge(&self, (count, order, reach): (u32, u32, usize), got: &Result<FrameRange, AllocError>) -> bool {
            let (wanted, free) = (u64::from(count * FRAME_SIZE), self.free());
            let runs = || RUNS.into_iter().map(|(start, count)| FrameRange::new(start, count).unwrap());
            let within: Vec<_> =
                runs().flat_map(|run| places(reach, run)).flat_map(|place| self.windows(place, count, order)).collect();
            let barred = within.iter().all(|window| !self.has_no_open(window));
            let all = |run| self.windows(Reachable::unshifted(run), count, order);
            let anywhere = || runs().flat_map(all).any(|window| self.has_no_open(&window));
            match *got {
                Ok(frames) => {
                    within.iter().any(|window| *window == (frames.start()..frames.end()) && self.has_no_open(window))
                }
                Err(AllocError::NoCapacity { wanted: asked, free: left }) => {
                    (asked, left) == (wanted, free) && free < wanted
                }
                Err(AllocError::Open { wanted: asked, frame }) => {
                    let frame = frame.raw() >> FRAME_SHIFT;
                    asked == wanted
                        && barred
                        && self.open.contains(&frame)
                        && within.iter().any(|window| window.contains(&frame))
                }
                Err(AllocError::OutOfReach(no_run)) => {
                    self.is_true(no_run, (count, order, reach)) && within.is_empty() && anywhere()
                }
                Err(AllocError::Fragmented(no_run)) => {
                    self.is_true(no_run, (count, order, reach)) && within.is_empty() && !anywhere()
                }
                Err(_) => false,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn idle_work_decides_nothing(ops in ops(false)) {
            let (mut without, mut with) = (area(false), area(false));
            with.set_stock(50);
            let mut held = Vec::new();
            for op in ops {
                match op {
                    Op::Alloc { count, order, reach } => {
                        let alloc = |area: &mut Area| {
                            let taken = area.alloc(count * FRAME_SIZE, FRAME_SIZE << order, |run| places(reach, run));
                            taken.map(|taken| taken.frames)
                        };
                        let got = alloc(&mut without);
                        prop_assert_eq!(alloc(&mut with), got);
                        held.extend(got);
                    }
                    Op::Free(nth) if !held.is_empty() => {
                        let frames = held.swap_remove(nth.index(held.len()));
                        without.give_back(frames);
                        with.give_back(frames);
                    }
                    Op::Idle(steps) => (0..steps).for_each(|_| idle_step(&mut with)),
                    _ => {}
                }
                prop_assert_eq!(with.free_bytes(), without.free_bytes());
            }
        }

        #[test]
        fn a_refusal_says_what_a_naive_look_finds(lends in any::<bool>(), ops in ops(true)) {
            let mut area = area(true);
            let cache = lends.then(|| area.register("cache", Kind::Discardable, 100, Priority::Low).unwrap());
            area.set_stock(5);
            let mut model = Model { held: Vec::new(), open: Vec::new() };
            let (mut loans, mut opened): (Vec<Loan>, Vec<(Opening, u32)>) = (Vec::new(), Vec::new());
            for op in ops {
                match (op, cache) {
                    (Op::Alloc { count, order, reach }, _) => {
                        let got = area.alloc(count * FRAME_SIZE, FRAME_SIZE << order, |run| places(reach, run));
                        let got = got.map(|taken| taken.frames);
                        prop_assert!(model.judge((count, order, reach), &got), "{:?}, held {:?}, open {:?}", got, model.held, model.open);
                        model.held.extend(got);
                    }
                    (Op::Free(nth), _) if !model.held.is_empty() => {
                        area.give_back(model.held.swap_remove(nth.index(model.held.len())));
                    }
                    (Op::Idle(steps), _) => (0..steps).for_each(|_| idle_step(&mut area)),
                    (Op::Borrow(count), Some(cache)) => loans.extend(area.borrow(cache, count, |_| false)),
                    (Op::Open(loan, page), Some(cache)) if !loans.is_empty() && opened.len() < SPARES as usize => {
                        let loan = loans[loan.index(loans.len())];
                        let opening = area.lending_mut().unwrap().open(cache, loan, page % loan.len(), true);
                        if let Ok(opening @ Opening { place: Place::Area(frame), .. }) = opening {
                            opened.push((opening, frame));
                            model.open.push(frame);
                        } else if let Ok(opening) = opening {
                            area.lending_mut().unwrap().close(opening, true);
                        }
                    }
                    (Op::Close(nth), Some(_)) if !opened.is_empty() => {
                        let (opening, frame) = opened.swap_remove(nth.index(opened.len()));
                        area.lending_mut().unwrap().close(opening, true);
                        model.open.retain(|&open| open != frame);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Every interleaving of a few threads (crate loom), by `tests/run.sh`.
#[cfg(all(test, loom))]
mod interleavings {
    use super::*;
    use crate::cma::loan::{Kind, NotOpen, Place, Priority};
    use crate::sync::{Lock, Rank};
    use alloc::vec::Vec;
    use core::iter;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    const FIRST: u32 = 0x60000;
    const FRAMES: u32 = 2;

    /// A borrower uses a page, a device takes a frame, and a third gives the loan back and borrows again. `open_while`
    /// says whether the borrower has the page open while it uses it, which is what keeps the device away.
    fn explore(open_while: bool) {
        loom::model(move || {
            let frames = FrameRange::new(FIRST, FRAMES).unwrap();
            // SAFETY: frames are numbers here; nothing is mapped.
            let mut area = Area::new(&unsafe { CarveOut::assume("test", &[frames], true) }).unwrap();
            let number = area.register("cache", Kind::Discardable, FRAMES, Priority::Low).unwrap();
            let loan = area.borrow(number, FRAMES, |_| false).unwrap();
            let area = Arc::new(Lock::new(Rank::DMA, area));
            let memory: Arc<Vec<UnsafeCell<u32>>> = Arc::new((0..FRAMES).map(UnsafeCell::new).collect());
            let touch = |memory: &[UnsafeCell<u32>], frame: u32| {
                // SAFETY: whoever has the frame; loom panics if another is at it now.
                memory[(frame - FIRST) as usize].with_mut(|word| unsafe { *word += 1 });
            };
            let borrower = thread::spawn({
                let (area, memory) = (Arc::clone(&area), Arc::clone(&memory));
                move || {
                    let opened = area.lock().lending_mut().unwrap().open(number, loan, 0, false);
                    let opening = match opened {
                        Ok(opening) => opening,
                        Err(NotOpen::Refused(LoanError::Recalled { .. } | LoanError::Stale)) => return,
                        Err(other) => panic!("{other:?}"),
                    };
                    if !open_while {
                        area.lock().lending_mut().unwrap().close(opening, true);
                    }
                    let Place::Area(frame) = opening.place else { panic!("{:?}", opening.place) };
                    touch(&memory, frame);
                    if open_while {
                        area.lock().lending_mut().unwrap().close(opening, true);
                    }
                }
            });
            let device = thread::spawn({
                let (area, memory) = (Arc::clone(&area), Arc::clone(&memory));
                move || {
                    // One frame is never open, so this cannot fail (I6).
                    let taken = area
                        .lock()
                        .alloc(FRAME_SIZE, 1, |run| iter::once(Reachable::unshifted(run)))
                        .expect("a recall never fails");
                    taken.frames.iter().for_each(|frame| touch(&memory, frame.number()));
                    area.lock().give_back(taken.frames);
                }
            });
            match area.lock().give_loan_back(number, loan) {
                Ok(Some(())) => {}
                Err(LoanError::InUse { page: 0 }) => {}
                other => panic!("{other:?}"),
            }
            let again = area.lock().borrow(number, 1, |_| false);
            if again.is_ok() {
                // The same pages under a new generation: the old name is no name of them.
                let old = area.lock().lending().unwrap().left(number, loan);
                assert_eq!(old, Err(LoanError::Stale));
            }
            borrower.join().unwrap();
            device.join().unwrap();
            assert_eq!(area.lock().free_bytes(), u64::from(FRAMES * FRAME_SIZE));
        });
    }

    /// One core zeroes what is idle, another wants all of it for a device. Who zeroes has the work lane, here a lock; who
    /// waits for it finds no frames in hand.
    fn idle_work(waits: bool) {
        loom::model(move || {
            let frames = FrameRange::new(FIRST, FRAMES).unwrap();
            // SAFETY: frames are numbers here; nothing is mapped.
            let mut area = Area::new(&unsafe { CarveOut::assume("test", &[frames], false) }).unwrap();
            area.set_stock(FRAMES);
            let area = Arc::new(Lock::new(Rank::DMA, area));
            let lane = Arc::new(Lock::new(Rank::DMA, ()));
            let memory: Arc<Vec<UnsafeCell<u32>>> = Arc::new((0..FRAMES).map(UnsafeCell::new).collect());
            let touch = |memory: &[UnsafeCell<u32>], frames: FrameRange| {
                for frame in frames.iter() {
                    // SAFETY: whoever has the frame; loom panics if another is at it now.
                    memory[(frame.number() - FIRST) as usize].with_mut(|word| unsafe { *word += 1 });
                }
            };
            let idle = thread::spawn({
                let (area, lane, memory) = (Arc::clone(&area), Arc::clone(&lane), Arc::clone(&memory));
                move || {
                    while let Some(_turn) = lane.try_lock() {
                        let Some(frames) = ({ area.lock().begin_zeroing(1) }) else { break };
                        touch(&memory, frames);
                        area.lock().end_zeroing(frames);
                    }
                    while area.lock().foresee() {}
                }
            });
            let mut turn = None;
            let mut guard = area.lock();
            let all = loop {
                match guard.alloc(FRAMES * FRAME_SIZE, 1, |run| iter::once(Reachable::unshifted(run))) {
                    Err(error) if waits && error.is_of_room() && guard.has_in_hand() => {
                        assert!(turn.is_none(), "nobody has frames in hand but who has the lane");
                        drop(guard);
                        turn = Some(lane.lock());
                        guard = area.lock();
                    }
                    done => break done.expect("no room"),
                }
            };
            drop(guard);
            drop(turn);
            touch(&memory, all.frames);
            area.lock().give_back(all.frames);
            idle.join().unwrap();
            assert_eq!(area.lock().free_bytes(), u64::from(FRAMES * FRAME_SIZE));
        });
    }

    #[test]
    fn an_allocation_never_fails_because_of_idle_work() {
        idle_work(true);
    }

    #[test]
    #[should_panic(expected = "no room")]
    fn one_that_did_not_wait_is_found() {
        idle_work(false);
    }

    #[test]
    fn no_frame_is_lent_and_held() {
        explore(true);
    }

    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_page_used_after_it_was_closed_is_found() {
        explore(false);
    }
}
