//! The area against a naive one; and what its contract slots and loans owe each other.

use super::*;
use crate::addr::FRAME_SIZE;
use crate::cma::extent::Extent;
use crate::cma::loan::{Loan, LoanPlace, LoanPriority, NotOpen, Opening, PageKind, SPARES};
use crate::cma::reach::Reach;
use crate::cma::reserve::Kind;
use core::num::NonZeroU32;
use core::ops::Range;
use proptest::prelude::*;
use std::vec::Vec;

const FIRST: u32 = 0x60000;

/// An area of four frames, all a contract's slot and lent, of which page 2 is to be opened by a closure.
fn contracted(kind: PageKind) -> (Area, FrameRange, Loan, u32) {
    let frames = FrameRange::new(FIRST, 4).unwrap();
    // SAFETY: frames are numbers here; nothing is mapped.
    let mut area = Area::new(unsafe { CarveOut::assume("test", &[frames], true) }).unwrap();
    assert_eq!(area.register("cache", kind, 4, LoanPriority::Low), Ok(0));
    area.prepare_slots().unwrap();
    let slot = Extent::new(0, frames);
    assert!(!area.take_planned(&[slot]));
    area.give_slot_back(slot);
    let loan = area.borrow(0, 4, |_| false).unwrap();
    let opened = area.lending_mut().unwrap().open(0, loan, 2, true);
    let Err(NotOpen::Contracted(frame)) = opened else { panic!("{opened:?}") };
    (area, frames, loan, frame)
}

#[test]
fn a_report_names_what_idle_time_zeroes() {
    let frames = FrameRange::new(FIRST, 8).unwrap();
    // SAFETY: frames are numbers here; nothing is mapped.
    let mut area = Area::new(unsafe { CarveOut::assume("test", &[frames], true) }).unwrap();
    area.set_stock(8);
    let held = area.alloc(None, FRAME_SIZE, 1, |run| core::iter::once(Reachable::unshifted(run))).unwrap();
    assert_eq!(held.extent.frames().start(), FIRST);
    let zeroing = area.begin_zeroing(3, &core::iter::empty()).unwrap();
    let none = core::iter::empty::<FrameRange>;
    let mut at = |first: u32| {
        let rest = FrameRange::between(FIRST + first, frames.end()).unwrap();
        area.occupant(rest, none(), none())
    };
    assert_eq!([at(0), at(1), at(4)], [(Occupant::Held, 1), (Occupant::Zeroing, 3), (Occupant::Idle, 4)]);
    area.end_zeroing(zeroing);
    assert_eq!(area.occupant(frames, none(), none()), (Occupant::Held, 1));
}

#[test]
fn i6_a_window_of_unlike_discardable_loans_is_found() {
    let frames = FrameRange::new(FIRST, 4).unwrap();
    // SAFETY: frames are numbers here; nothing is mapped.
    let mut area = Area::new(unsafe { CarveOut::assume("test", &[frames], true) }).unwrap();
    for (name, priority, cached) in [("stills", LoanPriority::Low, true), ("films", LoanPriority::High, false)] {
        let borrower = area.register(name, PageKind::Discardable, 2, priority).unwrap();
        area.borrow(borrower, 2, |_| cached).unwrap();
    }
    let taken = area.alloc(None, 4 * FRAME_SIZE, 1, |run| core::iter::once(Reachable::unshifted(run))).unwrap();
    assert_eq!((taken.extent.frames(), taken.moves), (frames, false));
}

/// Between the look and the eviction another core had the lock.
#[test]
fn i7_a_page_is_not_evicted_from_a_slot_that_was_taken_meanwhile() {
    for kind in [PageKind::Discardable, PageKind::Movable] {
        let (mut area, frames, _, frame) = contracted(kind);
        assert_eq!(area.take_slot(Extent::new(0, frames)), kind == PageKind::Movable);
        assert!(area.evict(FrameRange::new(frame, 1).unwrap()).is_none(), "the slot's buffer has the frame");
    }
}

#[test]
fn i1_a_page_is_not_evicted_while_a_copy_has_it_open() {
    let (mut area, frames, loan, frame) = contracted(PageKind::Movable);
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
    for kind in [PageKind::Discardable, PageKind::Movable] {
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
        assert!(matches!(opening.place, LoanPlace::Refuge(_)));
        assert_eq!(area.take_slot(Extent::new(0, frames)), kind == PageKind::Movable, "the other three");
        assert_eq!(area.lending().unwrap().left(0, loan), Ok(if kind == PageKind::Movable { 4 } else { 1 }));
    }
}

/// Whoever waits for a slot waits for the copy that is under way, and for none that begins later.
#[test]
fn i7_no_page_of_a_slot_is_opened_or_evicted_while_somebody_waits_for_one() {
    let (mut area, frames, loan, frame) = contracted(PageKind::Discardable);
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
    Area::new(unsafe { CarveOut::assume("test", &runs, lendable) }).unwrap()
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
        if lends { 6 } else { 0 } => (any::<prop::sample::Index>(), 0..60u32)
            .prop_map(|(loan, page)| Op::Open(loan, page)),
        if lends { 2 } else { 0 } => any::<prop::sample::Index>().prop_map(Op::Close),
    ];
    prop::collection::vec(op, 1..60)
}

fn kind(count: u32, order: u32, reach: usize) -> Kind {
    Kind::new(NonZeroU32::new(reach as u32 + 1).unwrap(), count, order as u8)
}

fn idle_step(area: &mut Area) {
    if let Some(frames) = area.begin_zeroing(3, &core::iter::empty()) {
        area.end_zeroing(frames);
    } else {
        area.carry();
        area.foresee();
    }
}

/// The naive area: a flag a frame for each run.
struct Model {
    held: Vec<Extent>,
    open: Vec<u32>,
}

impl Model {
    fn frames() -> impl Iterator<Item = u32> {
        RUNS.into_iter().flat_map(|(start, count)| start..start + count)
    }

    fn is_held(&self, frame: u32) -> bool {
        self.held.iter().any(|held| (held.frames().start()..held.frames().end()).contains(&frame))
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
        no_run == NoRun { wanted, align, reach: Reach::ALL, free, largest, any } && free >= wanted && largest < wanted
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
                        let kind = Some(kind(count, order, reach));
                        let taken = area.alloc(kind, count * FRAME_SIZE, FRAME_SIZE << order, |run| places(reach, run));
                        taken.map(|taken| taken.extent)
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
        let cache = lends.then(|| area.register("cache", PageKind::Discardable, 100, LoanPriority::Low).unwrap());
        area.set_stock(5);
        let mut model = Model { held: Vec::new(), open: Vec::new() };
        let (mut loans, mut opened): (Vec<Loan>, Vec<(Opening, u32)>) = (Vec::new(), Vec::new());
        for op in ops {
            match (op, cache) {
                (Op::Alloc { count, order, reach }, _) => {
                    let kind = Some(kind(count, order, reach));
                    let got = area.alloc(kind, count * FRAME_SIZE, FRAME_SIZE << order, |run| places(reach, run));
                    let got = got.map(|taken| taken.extent);
                    let right = model.judge((count, order, reach), &got.map(Extent::frames));
                    prop_assert!(right, "{:?}, held {:?}, open {:?}", got, model.held, model.open);
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
                    if let Ok(opening @ Opening { place: LoanPlace::Area(frame), .. }) = opening {
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
