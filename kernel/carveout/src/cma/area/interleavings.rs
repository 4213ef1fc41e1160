//! Every interleaving of a few threads (crate loom), by `tests/run.sh`.

use super::*;
use crate::addr::FRAME_SIZE;
use crate::cma::loan::{LoanError, LoanPlace, LoanPriority, NotOpen, PageKind};
use crate::sync::{Lock, Rank};
use ::alloc::vec::Vec;
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
        let mut area = Area::new(unsafe { CarveOut::assume("test", &[frames], true) }).unwrap();
        let number = area.register("cache", PageKind::Discardable, FRAMES, LoanPriority::Low).unwrap();
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
                let LoanPlace::Area(frame) = opening.place else { panic!("{:?}", opening.place) };
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
                    .alloc(None, FRAME_SIZE, 1, |run| iter::once(Reachable::unshifted(run)))
                    .expect("a recall never fails");
                taken.extent.frames().iter().for_each(|frame| touch(&memory, frame.number()));
                area.lock().give_back(taken.extent);
            }
        });
        match area.lock().give_loan_back(number, loan) {
            Ok(Some(())) => {}
            Err(LoanError::InUse { page: 0 }) => {}
            other => panic!("{other:?}"),
        }
        let again = area.lock().borrow(number, 1, |_| false);
        if again.is_ok() {
            // The loan has these pages again, under a new number. The old name names none of them.
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
        let mut area = Area::new(unsafe { CarveOut::assume("test", &[frames], false) }).unwrap();
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
                    let Some(extent) = ({ area.lock().begin_zeroing(1, &iter::empty()) }) else { break };
                    touch(&memory, extent.frames());
                    area.lock().end_zeroing(extent);
                }
                area.lock().carry();
                while area.lock().foresee() {}
            }
        });
        let mut turn = None;
        let mut guard = area.lock();
        let all = loop {
            match guard.alloc(None, FRAMES * FRAME_SIZE, 1, |run| iter::once(Reachable::unshifted(run))) {
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
        touch(&memory, all.extent.frames());
        area.lock().give_back(all.extent);
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
