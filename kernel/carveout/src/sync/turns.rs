//! Turns: who has a lock, and who has it next.
//!
//! Guarantees: one place at a time has the lock. A turn ends with an offer of the lock to the next place at which
//! somebody waits, in rising order, and after the last place to the first. Nobody else takes the lock until it is taken
//! there. So whoever waits and comes for the lock gets it after at most one turn of each other place. Leaving a place
//! takes one step at any time, and an offer to it goes on to the next place. Those who wait go round a place that does
//! not come for its offer. That place keeps its position in the order.
//!
//! On the machine each core has one place. On the host each wait has one.

#[cfg(not(all(test, loom)))]
use core::sync::atomic::{AtomicU32, Ordering};
#[cfg(all(test, loom))]
use loom::sync::atomic::{AtomicU32, Ordering};

/// The number of places at which somebody can wait.
pub(super) const PLACES: u32 = 24;

/// The bits of the places. A bit is set while somebody waits there.
const WAITS: u32 = (1 << PLACES) - 1;
/// The lowest bit of the number of the place that the lock is offered to.
const TO: u32 = PLACES;
/// The bit that is set while the lock is offered. Nobody has it then.
const OFFERED: u32 = 1 << 30;
/// The bit that is set while somebody has the lock.
const HELD: u32 = 1 << 31;

/// How often a waiter looks at an offer to another place before it goes round that place. A core that runs comes within
/// a few instructions: it waits with interrupts masked.
const PATIENCE: u32 = if cfg!(all(test, loom)) { 1 } else { 64 };

/// The result of one look at the lock, by somebody who waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Poll {
    /// The lock is the caller's from now on.
    Taken,
    /// The lock is not the caller's yet.
    Waits,
    /// The lock is offered to this place, which does not come for it. The caller may go round it.
    Ignored(u32),
}

/// A wait at a place.
#[derive(Debug)]
pub(super) struct Wait {
    place: u32,
    /// The offer that was seen last, and how often it was seen.
    offer: u32,
    seen: u32,
}

/// The state of a lock: one word.
#[derive(Debug)]
pub(super) struct Turns(AtomicU32);

impl Turns {
    /// Makes a lock that nobody has and nobody waits for.
    #[cfg(not(all(test, loom)))]
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Makes a lock that nobody has and nobody waits for.
    #[cfg(all(test, loom))]
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Takes the lock if nobody has it and nobody waits.
    #[inline]
    pub(super) fn take(&self) -> bool {
        self.0.compare_exchange(0, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes the lock if nobody has it and nobody waits, and returns `None`. Otherwise waits at `place`, or at the next
    /// one at which nobody waits, and returns that wait.
    pub(super) fn join(&self, place: u32) -> Option<Wait> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (next, wait) = if word == 0 {
                (HELD, None)
            } else if let Some(place) = first_from(place, !word & WAITS) {
                (word | 1 << place, Some(Wait { place, offer: 0, seen: 0 }))
            } else {
                // All places are taken. On the machine there are more places than cores.
                relax();
                word = self.0.load(Ordering::Relaxed);
                continue;
            };
            match self.0.compare_exchange(word, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return wait,
                Err(now) => word = now,
            }
        }
    }

    /// Takes the lock if it is offered to the caller's place.
    pub(super) fn poll(&self, wait: &mut Wait) -> Poll {
        let mut word = self.0.load(Ordering::Relaxed);
        while offer(word) == Some(wait.place) {
            let taken = word & WAITS & !(1 << wait.place) | HELD;
            match self.0.compare_exchange(word, taken, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Poll::Taken,
                Err(now) => word = now,
            }
        }
        if word != wait.offer {
            (wait.offer, wait.seen) = (word, 0);
        }
        wait.seen += 1;
        match offer(word) {
            Some(other) if wait.seen > PATIENCE => Poll::Ignored(other),
            _ => Poll::Waits,
        }
    }

    /// Offers the lock to the next place after one that did not come, if nothing changed since.
    pub(super) fn go_round(&self, wait: &Wait) {
        if let Some(ignored) = offer(wait.offer) {
            // This frees nothing, for the caller waits. If something changed meanwhile, there is no need to go round.
            let next = after(wait.offer, ignored);
            let _ = self.0.compare_exchange(wait.offer, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Ends a wait in which the lock was not taken. If the lock is offered to this place, it is offered to the next one
    /// or freed.
    #[cfg(any(test, target_arch = "arm"))]
    pub(super) fn leave(&self, place: u32) {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let left = word & !(1 << place);
            let next = if offer(word) == Some(place) { after(left, place) } else { left };
            // Release: if this passes an offer on, it passes on what the last holder did.
            match self.0.compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Frees the lock, which the caller has, if nobody waits.
    #[inline]
    pub(super) fn free(&self) -> bool {
        self.0.compare_exchange(HELD, 0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Ends the turn of whoever has the lock, at `place`: offers it to the next place, or frees it. Changes nothing if
    /// nobody has it.
    #[cold]
    #[inline(never)]
    pub(super) fn pass(&self, place: u32) {
        let mut word = self.0.load(Ordering::Relaxed);
        while word & HELD != 0 {
            match self.0.compare_exchange(word, after(word, place), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }
}

impl Wait {
    /// Returns the place at which it waits.
    pub(super) const fn place(&self) -> u32 {
        self.place
    }
}

/// Lets other cores, or threads, run while this one waits.
pub(super) fn relax() {
    #[cfg(all(test, loom))]
    loom::thread::yield_now();
    #[cfg(all(not(all(test, loom)), not(target_arch = "arm"), any(test, feature = "fake")))]
    std::thread::yield_now();
    #[cfg(all(not(all(test, loom)), not(all(not(target_arch = "arm"), any(test, feature = "fake")))))]
    crate::cpu::relax();
}

/// Returns the place that the lock is offered to.
fn offer(word: u32) -> Option<u32> {
    (word & OFFERED != 0).then_some(word >> TO & 31)
}

/// Returns the word with the lock offered to the next place after `place` at which somebody waits, or free.
fn after(word: u32, place: u32) -> u32 {
    first_from(place + 1, word & WAITS).map_or(0, |next| word & WAITS | next << TO | OFFERED)
}

/// Returns the first of the `places` from `start` on, or else the first from 0 on.
fn first_from(start: u32, places: u32) -> Option<u32> {
    let later = places & u32::MAX << start;
    let first = if later == 0 { places } else { later };
    (first != 0).then(|| first.trailing_zeros())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::array;
    use std::cell::UnsafeCell;
    use std::thread;
    use std::vec::Vec;

    impl Turns {
        fn waiting(&self, place: u32) -> Wait {
            let wait = self.join(place).expect("somebody has the lock");
            assert_eq!(wait.place(), place);
            wait
        }

        fn came_to(&self, wait: &mut Wait) -> bool {
            self.poll(wait) == Poll::Taken
        }
    }

    #[test]
    fn the_lock_goes_round_by_places() {
        let turns = Turns::new();
        assert!(turns.take() && !turns.take());
        let [mut zero, mut two, mut three] = [0, 2, 3].map(|place| turns.waiting(place));
        // From 1, which had it uncontended, on.
        turns.pass(1);
        assert!(!turns.take(), "nobody overtakes");
        assert!(!turns.came_to(&mut zero) && !turns.came_to(&mut three) && turns.came_to(&mut two));
        let mut one = turns.waiting(1);
        turns.pass(2);
        assert!(turns.came_to(&mut three));
        turns.pass(3);
        assert!(!turns.came_to(&mut one) && turns.came_to(&mut zero));
        turns.pass(0);
        assert!(turns.came_to(&mut one));
        assert!(turns.free() && turns.take());
    }

    #[test]
    fn an_offer_goes_on_when_its_place_is_left() {
        let turns = Turns::new();
        assert!(turns.take());
        let (one, mut two) = (turns.waiting(1), turns.waiting(2));
        turns.leave(one.place());
        turns.pass(0);
        assert!(turns.came_to(&mut two));
        let (one, mut three) = (turns.waiting(1), turns.waiting(3));
        turns.pass(0);
        turns.leave(one.place());
        assert!(turns.came_to(&mut three), "it was offered to place 1");
        let four = turns.waiting(4);
        turns.pass(3);
        turns.leave(four.place());
        assert!(turns.take(), "it was offered to the only one who waited");
    }

    /// A core that a hypervisor or an emulator has taken off, or that was stopped for good.
    #[test]
    fn a_place_that_does_not_come_is_gone_round_and_not_forgotten() {
        let turns = Turns::new();
        assert!(turns.take());
        let [mut gone, mut two, mut three] = [1, 2, 3].map(|place| turns.waiting(place));
        turns.pass(0);
        for _ in 0..PATIENCE {
            assert_eq!(turns.poll(&mut three), Poll::Waits);
        }
        assert_eq!(turns.poll(&mut three), Poll::Ignored(1));
        turns.go_round(&three);
        // Once, however many saw it.
        turns.go_round(&three);
        assert!(!turns.came_to(&mut gone) && !turns.came_to(&mut three) && turns.came_to(&mut two));
        turns.pass(2);
        assert!(turns.came_to(&mut three));
        turns.pass(3);
        assert!(turns.came_to(&mut gone));
        assert!(turns.free());
    }

    #[test]
    fn there_are_places_for_all() {
        let turns = Turns::new();
        assert!(turns.take());
        let mut waits: Vec<_> = (0..PLACES).map(|_| turns.join(7).unwrap()).collect();
        assert!(waits.iter().map(Wait::place).eq((0..PLACES).map(|n| (7 + n) % PLACES)));
        let mut place = 19;
        for _ in 0..PLACES {
            turns.pass(place);
            place = (place + 1) % PLACES;
            assert!(waits.iter_mut().all(|wait| turns.came_to(wait) == (wait.place() == place)));
        }
        turns.pass(place);
        turns.pass(place);
        assert!(turns.take());
    }

    /// What the lock is over in the next test.
    struct Book {
        turn: u32,
        /// Of each place, the turn in which it was first seen to wait, and how often it had been gone round.
        seen: [Option<(u32, u32)>; THREADS as usize],
        /// The most turns that one waited which always came, and how many waits there were.
        worst: u32,
        waits: u32,
        /// A wait for more turns than can be, and how often it was gone round. It is looked at in the end, for a holder
        /// that panics passes the lock to nobody.
        wrong: Option<(u32, u32)>,
    }

    struct Shared(Turns, UnsafeCell<Book>, [AtomicU32; THREADS as usize]);
    // SAFETY: the book is used by whoever has the lock alone.
    unsafe impl Sync for Shared {}

    const THREADS: u32 = 4;

    /// The bound in turns, not in time: each thread waits for one turn of each other at most, and for as many again for
    /// each time that it was not there when it was offered the lock.
    #[test]
    fn nobody_waits_for_more_than_a_turn_of_each_other() {
        const TURNS: u32 = 2000;
        let book = Book { turn: 0, seen: [None; THREADS as usize], worst: 0, waits: 0, wrong: None };
        let shared = &Shared(Turns::new(), UnsafeCell::new(book), array::from_fn(|_| AtomicU32::new(0)));
        thread::scope(|scope| {
            for place in 0..THREADS {
                scope.spawn(move || {
                    let Shared(turns, book, gone_round) = shared;
                    for _ in 0..TURNS {
                        if let Some(mut wait) = turns.join(place) {
                            loop {
                                match turns.poll(&mut wait) {
                                    Poll::Taken => break,
                                    Poll::Waits => thread::yield_now(),
                                    Poll::Ignored(other) => {
                                        gone_round[other as usize].fetch_add(1, Ordering::Relaxed);
                                        turns.go_round(&wait);
                                    }
                                }
                            }
                        }
                        // SAFETY: this thread has the lock.
                        let book = unsafe { &mut *book.get() };
                        book.turn += 1;
                        if let Some((turn, gone)) = book.seen[place as usize].take() {
                            let times = gone_round[place as usize].load(Ordering::Relaxed) - gone;
                            if book.turn - turn > (THREADS - 1) * (1 + times) {
                                book.wrong = Some((book.turn - turn, times));
                            }
                            book.waits += 1;
                            if times == 0 {
                                book.worst = book.worst.max(book.turn - turn);
                            }
                        }
                        let word = turns.0.load(Ordering::Relaxed);
                        for other in (0..THREADS).filter(|other| word >> other & 1 == 1) {
                            let times = gone_round[other as usize].load(Ordering::Relaxed);
                            book.seen[other as usize].get_or_insert((book.turn, times));
                        }
                        // Others come and wait.
                        thread::yield_now();
                        if !turns.free() {
                            turns.pass(place);
                        }
                    }
                });
            }
        });
        // SAFETY: all threads ended.
        let book = unsafe { &*shared.1.get() };
        assert_eq!((book.turn, book.wrong), (THREADS * TURNS, None));
        assert!(book.worst < THREADS && book.waits > TURNS / 10, "{} turns, {} waits", book.worst, book.waits);
    }
}

/// The interleavings of a few threads (crate loom), by `tests/run.sh`.
#[cfg(all(test, loom))]
mod interleavings {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    struct Shared(Turns, UnsafeCell<u32>);

    /// Waits for the turn, and takes it; leaves so many times before.
    fn turn(shared: &Shared, place: u32, mut leaves: u32, leave: fn(&Turns, u32)) {
        let Shared(turns, count) = shared;
        'turn: while let Some(mut wait) = turns.join(place) {
            loop {
                match turns.poll(&mut wait) {
                    Poll::Taken => break 'turn,
                    Poll::Waits if leaves > 0 => {
                        leaves -= 1;
                        leave(turns, wait.place());
                        continue 'turn;
                    }
                    Poll::Waits => thread::yield_now(),
                    Poll::Ignored(_) => turns.go_round(&wait),
                }
            }
        }
        // SAFETY: whoever has the lock; loom panics if another is at it.
        count.with_mut(|count| unsafe { *count += 1 });
        if !turns.free() {
            turns.pass(place);
        }
    }

    /// Two threads: a third makes it too many.
    fn explore(leaves: u32, leave: fn(&Turns, u32)) {
        loom::model(move || {
            let shared = Arc::new(Shared(Turns::new(), UnsafeCell::new(0)));
            let other = Arc::clone(&shared);
            let thread = thread::spawn(move || turn(&other, 0, leaves, leave));
            turn(&shared, 2, 0, leave);
            thread.join().unwrap();
            shared.1.with(|count| {
                // SAFETY: all threads ended.
                assert_eq!(unsafe { *count }, 2);
            });
            assert!(shared.0.take(), "free at the end");
        });
    }

    #[test]
    fn one_at_a_time_has_the_lock() {
        explore(0, Turns::leave);
    }

    /// A core leaves its place to take an interrupt; the lock may be offered at that moment.
    #[test]
    fn leaving_loses_no_turn() {
        explore(1, Turns::leave);
    }

    /// The planted bug: who leaves frees the lock, whoever has it.
    #[test]
    #[should_panic(expected = "Causality violation")]
    fn a_lock_that_is_freed_under_its_holder_is_found() {
        explore(1, |turns, _| turns.0.store(0, Ordering::Relaxed));
    }
}
