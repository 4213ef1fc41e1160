//! Who has a lock and who has it next.
//!
//! Guarantees: one place at a time has the lock. Whoever waits at a place gets the lock after at most one turn of each
//! other place: a turn ends by passing the lock to the next place at which somebody waits, in rising order, and from the
//! last place on to the first. A lock that is passed on is not free in between, so nobody overtakes. Leaving a place
//! takes one step at any time, and the lock goes round who left.
//!
//! A place is a core's on the machine. On the host it is that of one wait.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};

/// Places at which somebody can wait.
pub(super) const PLACES: u32 = 31;

/// Set while somebody has the lock. The other bits are the places, each set while somebody waits there.
const HELD: u32 = 1 << PLACES;

/// The word of a lock.
#[derive(Debug)]
pub(super) struct Turns(AtomicU32);

impl Turns {
    /// Nobody has it and nobody waits.
    #[cfg(not(loom))]
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Nobody has it and nobody waits.
    #[cfg(loom)]
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Takes the lock if nobody has it and nobody waits.
    #[inline]
    pub(super) fn take(&self) -> bool {
        self.0.compare_exchange(0, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes the lock if nobody has it, and returns `None`. Otherwise waits at `place`, or at the next one at which nobody
    /// waits, and returns which.
    pub(super) fn join(&self, place: u32) -> Option<u32> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let vacant = !word & !HELD;
            let at = (word & HELD != 0).then(|| first_from(place, vacant));
            let next = match at {
                None => word | HELD,
                // All places are taken. There are more of them than cores.
                Some(None) => {
                    super::relax();
                    word = self.0.load(Ordering::Relaxed);
                    continue;
                }
                Some(Some(at)) => word | 1 << at,
            };
            match self.0.compare_exchange(word, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return at.flatten(),
                Err(now) => word = now,
            }
        }
    }

    /// Returns whether the lock came to `place`, where the caller waits. From then on the caller has it.
    pub(super) fn came_to(&self, place: u32) -> bool {
        let word = self.0.load(Ordering::Acquire);
        if word >> place & 1 == 0 {
            return true;
        }
        // Free though somebody waits: it was forced. The first to see it takes it.
        let taken = (word | HELD) & !(1 << place);
        word & HELD == 0 && self.0.compare_exchange(word, taken, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends the caller's wait at `place`. Returns whether the lock had come already: then the caller has it.
    #[cfg(any(test, target_arch = "arm"))]
    #[must_use]
    pub(super) fn leave(&self, place: u32) -> bool {
        self.0.fetch_and(!(1 << place), Ordering::Acquire) >> place & 1 == 0
    }

    /// Frees the lock, which the caller has, if nobody waits.
    #[inline]
    pub(super) fn free(&self) -> bool {
        self.0.compare_exchange(HELD, 0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Ends the turn of `place`, which has the lock: passes it on, or frees it.
    #[cold]
    pub(super) fn pass(&self, place: u32) {
        let mut word = self.0.load(Ordering::Relaxed);
        // Not held: it was forced, and is somebody else's to take.
        while word & HELD != 0 {
            let next = match first_from(place + 1, word & !HELD) {
                Some(next) => word & !(1 << next),
                None => 0,
            };
            match self.0.compare_exchange(word, next, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Frees the lock, whoever has it. One of those who wait takes it, or whoever comes first.
    #[cfg(any(test, target_arch = "arm"))]
    pub(super) fn force(&self) {
        self.0.fetch_and(!HELD, Ordering::Release);
    }
}

/// Returns the first of the `places` from `start` on, and from 0 again.
fn first_from(start: u32, places: u32) -> Option<u32> {
    let later = places & u32::MAX << start;
    let first = if later == 0 { places } else { later };
    (first != 0).then(|| first.trailing_zeros())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::UnsafeCell;
    use std::thread;

    /// Waits at `place` until the turn comes.
    fn wait(turns: &Turns, place: u32) {
        if let Some(place) = turns.join(place) {
            while !turns.came_to(place) {
                thread::yield_now();
            }
        }
    }

    #[test]
    fn the_lock_goes_round_by_places() {
        let turns = Turns::new();
        assert!(turns.take() && !turns.take());
        for place in [2, 0, 3] {
            assert_eq!(turns.join(place), Some(place));
        }
        // From 1, which had it uncontended, on.
        turns.pass(1);
        assert_eq!([0, 2, 3].map(|place| turns.came_to(place)), [false, true, false]);
        assert_eq!(turns.join(1), Some(1));
        assert!(!turns.take(), "nobody overtakes");
        turns.pass(2);
        assert!(turns.came_to(3));
        turns.pass(3);
        assert!(turns.came_to(0));
        turns.pass(0);
        assert!(turns.came_to(1));
        assert!(turns.free() && turns.take());
    }

    #[test]
    fn who_left_is_gone_round_and_keeps_what_came_before() {
        let turns = Turns::new();
        assert!(turns.take());
        assert_eq!((turns.join(1), turns.join(2)), (Some(1), Some(2)));
        assert!(!turns.leave(1));
        turns.pass(0);
        assert!(turns.came_to(2) && turns.leave(2), "it is place 2's");
        assert_eq!(turns.join(1), Some(1));
        turns.pass(2);
        assert!(turns.leave(1), "it came in time");
        assert!(turns.free());
    }

    #[test]
    fn a_forced_lock_is_taken_by_one() {
        let turns = Turns::new();
        assert!(turns.take());
        assert_eq!((turns.join(1), turns.join(1)), (Some(1), Some(2)), "one waits at each place");
        turns.force();
        assert!(!turns.take(), "somebody waits");
        assert!(turns.came_to(2) && !turns.came_to(1));
        // The old holder's end changes nothing while it is free, and nobody's wait is lost.
        turns.pass(2);
        assert!(turns.came_to(1));
        turns.force();
        turns.pass(0);
        assert_eq!(turns.join(5), None);
        assert!(turns.free());
    }

    #[test]
    fn there_are_places_for_all() {
        let turns = Turns::new();
        assert!(turns.take());
        for n in 0..PLACES {
            assert_eq!(turns.join(7), Some((7 + n) % PLACES));
        }
        for n in 0..PLACES {
            let place = (20 + n) % PLACES;
            turns.pass((place + PLACES - 1) % PLACES);
            assert!(turns.came_to(place));
        }
        assert!(turns.free());
    }

    /// What the lock is over in the next test.
    struct Book {
        turn: u32,
        /// Of each place, the turn in which it was first seen to wait.
        seen: [Option<u32>; PLACES as usize],
        /// The most turns that one waited.
        worst: u32,
    }

    struct Shared(Turns, UnsafeCell<Book>);
    // SAFETY: the book is used by whoever has the lock alone.
    unsafe impl Sync for Shared {}

    /// The bound in turns, not in time: each thread waits for one turn of each other at most.
    #[test]
    fn nobody_waits_for_more_than_a_turn_of_each_other() {
        const THREADS: u32 = 4;
        const TURNS: u32 = 1000;
        let book = Book { turn: 0, seen: [None; PLACES as usize], worst: 0 };
        let shared = &Shared(Turns::new(), UnsafeCell::new(book));
        thread::scope(|scope| {
            for place in 0..THREADS {
                scope.spawn(move || {
                    for _ in 0..TURNS {
                        wait(&shared.0, place);
                        // SAFETY: this thread has the lock.
                        let book = unsafe { &mut *shared.1.get() };
                        book.turn += 1;
                        if let Some(seen) = book.seen[place as usize].take() {
                            book.worst = book.worst.max(book.turn - seen);
                        }
                        let word = shared.0.0.load(Ordering::Relaxed);
                        for other in (0..THREADS).filter(|other| word >> other & 1 == 1) {
                            book.seen[other as usize].get_or_insert(book.turn);
                        }
                        if !shared.0.free() {
                            shared.0.pass(place);
                        }
                    }
                });
            }
        });
        // SAFETY: all threads ended.
        let book = unsafe { &*shared.1.get() };
        assert_eq!(book.turn, THREADS * TURNS);
        assert!((1..THREADS).contains(&book.worst), "one waited {} turns", book.worst);
    }
}

/// Every interleaving of a few threads (crate loom), by `tests/run.sh`.
#[cfg(all(test, loom))]
mod interleavings {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::thread;

    struct Shared(Turns, UnsafeCell<u32>);

    /// Waits for the turn; `patience` is how often it leaves before.
    fn turn(shared: &Shared, place: u32, mut patience: u32, keeps: bool) {
        'turn: while let Some(place) = shared.0.join(place) {
            while !shared.0.came_to(place) {
                if patience > 0 {
                    patience -= 1;
                    if shared.0.leave(place) && keeps {
                        break 'turn;
                    }
                    continue 'turn;
                }
                thread::yield_now();
            }
            break;
        }
        // SAFETY: whoever has the lock; loom panics if another is at it.
        shared.1.with_mut(|count| unsafe { *count += 1 });
        if !shared.0.free() {
            shared.0.pass(place);
        }
    }

    fn explore(leaves: [u32; 2], keeps: bool) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(4);
        model.check(move || {
            let shared = Arc::new(Shared(Turns::new(), UnsafeCell::new(0)));
            let threads = [0, 1].map(|n| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || turn(&shared, n, leaves[n as usize], keeps))
            });
            turn(&shared, 2, 0, true);
            for thread in threads {
                thread.join().unwrap();
            }
            shared.1.with(|count| {
                // SAFETY: all threads ended.
                assert_eq!(unsafe { *count }, 3);
            });
            assert!(shared.0.take(), "free at the end");
        });
    }

    #[test]
    fn one_at_a_time_has_the_lock() {
        explore([0, 0], true);
    }

    /// A core leaves its place to take an interrupt; the lock may come at that moment.
    #[test]
    fn leaving_loses_no_turn() {
        explore([1, 0], true);
    }

    #[test]
    #[should_panic(expected = "exceeded maximum number of branches")]
    fn a_turn_that_is_lost_is_found() {
        explore([1, 0], false);
    }
}
