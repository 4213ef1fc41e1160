//! The rings of events: what is recorded of a buffer's life, what a full ring keeps, and that a reader gets whole events
//! while others write.

use carveout::addr::FRAME_SHIFT;
use carveout::dma::{Discardable, FromDevice, LOAN_PAGE, LoanPriority, Movable};
use carveout::events::EventKind::{Alloc, Free, GiveBack, Hold, Loan, Map, Move, Recall, Refusal, Unmap, Zero};
use carveout::events::{Event, EventLog};
use carveout::setup::Setup;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

/// The log is the machine's. The tests of this file take turns.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clock() -> u64 {
    static TIME: AtomicU64 = AtomicU64::new(1 << 33);
    TIME.fetch_add(1, Ordering::Relaxed)
}

fn events(log: &EventLog) -> Vec<Event> {
    let mut all = Vec::new();
    log.for_each(0, |event| all.push(event));
    all
}

#[test]
fn a_streams_life_is_recorded_in_its_order() {
    let _alone = alone();
    let setup = Setup::new(1);
    let camera = setup.master("camera");
    let log = EventLog::begin(64, clock).unwrap();
    let stream = setup.dma.alloc(&camera, 2 << FRAME_SHIFT, 1).unwrap().into_stream::<FromDevice>();
    // SAFETY: the device does nothing (I4).
    let stream = unsafe { stream.for_device().for_cpu() };
    assert_eq!(stream.bytes()[0], 0);
    drop(stream);
    assert!(setup.dma.alloc(&camera, 1 << 30, 1).is_err());
    EventLog::end();
    drop(setup.dma.alloc(&camera, 4096, 1).unwrap());

    let all = events(log);
    let kinds: Vec<_> = all.iter().map(|event| event.kind).collect();
    let expected = [Alloc, Map, Zero, Unmap, Hold, Hold, Hold, Map, Unmap, Free, Refusal];
    assert_eq!(kinds, expected, "{all:#?}");
    assert!(all.is_sorted_by(|a, b| a.time < b.time), "{all:#?}");
    let (alloc, refusal) = (all[0], all[10]);
    assert_eq!(EventLog::master(alloc.detail).unwrap(), "camera");
    assert_eq!((alloc.frames.count(), refusal.amount, refusal.detail), (2, 1 << 30, alloc.detail));
    assert!(all[4..7].iter().all(|event| event.buffer == alloc.buffer));
    assert_eq!((all[9].buffer, all[9].frames), (alloc.buffer, alloc.frames));
    assert_eq!((log.count(Hold), log.count(Zero), log.lost(0)), (3, 1, 0));
}

#[test]
fn a_full_ring_has_the_last_events_and_says_how_many_are_lost() {
    let _alone = alone();
    let setup = Setup::new(1);
    let camera = setup.master("camera");
    let log = EventLog::begin(5, clock).unwrap();
    for _ in 0..3 {
        for _ in 0..10 {
            drop(setup.dma.alloc(&camera, 4096, 1).unwrap());
        }
        let all = events(log);
        assert_eq!(all.len(), 8, "a power of two");
        assert!(all.is_sorted_by(|a, b| a.time < b.time));
    }
    assert_eq!((log.count(Alloc), log.count(Free), log.lost(0)), (30, 30, 52));
    let counts = EventLog::begin(0, clock).unwrap();
    drop(setup.dma.alloc(&camera, 4096, 1).unwrap());
    assert_eq!((counts.count(Alloc), events(counts).len()), (1, 0), "it only counts");
    EventLog::end();
}

#[test]
fn the_events_say_which_frames_are_lent() {
    let _alone = alone();
    let setup = Setup::new(1);
    let (dma, camera) = (setup.dma, setup.master("camera"));
    let area = dma.area("test").unwrap();
    let store = dma.borrower::<Movable>(area, "store", 64, LoanPriority::High).unwrap();
    let cache = dma.borrower::<Discardable>(area, "cache", 1024, LoanPriority::Low).unwrap();
    let log = EventLog::begin(1 << 14, clock).unwrap();
    let mut kinds = BTreeSet::new();
    let mut seen = 0;
    let mut lent = BTreeSet::new();
    let mut agree = |what: &str| {
        let all = events(log);
        for event in &all[seen..] {
            kinds.insert(event.kind.name());
            let frames = event.frames.start()..event.frames.end();
            let to = event.buffer..event.buffer + event.frames.count();
            match event.kind {
                Loan => frames.for_each(|frame| assert!(lent.insert(frame), "{what}: {frame} was lent")),
                Recall => lent.retain(|frame| !frames.contains(frame)),
                GiveBack => frames.for_each(|frame| assert!(lent.remove(&frame), "{what}: {frame} was not lent")),
                Move => {
                    lent.retain(|frame| !frames.contains(frame));
                    lent.extend(to.filter(|_| event.buffer != 0));
                }
                _ => {}
            }
        }
        seen = all.len();
        let pages = store.stats().in_area + cache.stats().in_area;
        assert_eq!(lent.len() as u32, pages, "{what}: frames lent by the events, and pages by the books");
    };
    let kept = store.borrow(64).unwrap();
    for page in 0..64 {
        store.write(kept, page, 0, &[page as u8; LOAN_PAGE]).unwrap();
    }
    agree("a loan that must survive");
    let filler = cache.borrow(600).unwrap();
    agree("and one that is forgotten");
    // Room is left: what is moved goes elsewhere in the area.
    let half = dma.alloc(&camera, 2 << 20, 1).unwrap();
    agree("half of the area recalled");
    let rest: Vec<_> = std::iter::from_fn(|| dma.alloc(&camera, 64 << 10, 1).ok()).collect();
    agree("the rest recalled, to the refuge");
    assert!(store.stats().in_refuge > 0);
    drop((half, rest));
    cache.give_back(filler).unwrap();
    agree("one given back");
    let again = cache.borrow(300).unwrap();
    agree("one after all");
    store.give_back(kept).unwrap();
    cache.give_back(again).unwrap();
    agree("all given back");
    EventLog::end();
    for kind in [Loan, Recall, Move, GiveBack] {
        assert!(kinds.contains(kind.name()), "no {kind}: {kinds:?}");
    }
}

/// On the host all threads are one core: they interrupt each other at any instruction, as no handler can.
#[test]
fn a_reader_gets_whole_events() {
    let _alone = alone();
    let log = EventLog::begin(16, clock).unwrap();
    let stop = AtomicBool::new(false);
    let read = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let setup = Setup::new(1);
                let camera = setup.master("camera");
                while !stop.load(Ordering::Relaxed) {
                    let (small, large) =
                        (setup.dma.alloc(&camera, 4096, 1).unwrap(), setup.dma.alloc(&camera, 3 << 12, 1).unwrap());
                    drop((small, large));
                }
            });
        }
        let mut read = 0;
        while read < 10_000 {
            log.for_each(0, |event| {
                read += 1;
                assert!(matches!(event.kind, Alloc | Free), "{event:?}");
                assert!(matches!(event.frames.count(), 1 | 3) && event.time >> 33 == 1, "{event:?}");
            });
        }
        stop.store(true, Ordering::Relaxed);
        read
    });
    EventLog::end();
    assert!(read >= 10_000 && log.lost(0) > 0, "{read} read, and the ring went round");
}
