//! Lanes: the last part of the window, where lent frames are mapped while somebody accesses them. And tickets: whose
//! turn it is to use the work lane.
//!
//! Guarantees: turns of the work lane come in the order in which they were asked for (I6).

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, SECTION_SIZE, VirtAddr};
use crate::cma::loan::SPARES;
use crate::cpu::relax;
use crate::sync::Masked;
use crate::vm::range::VirtRange;
use core::sync::atomic::{AtomicU32, Ordering};

/// Addresses for lent frames: lanes of 32 pages. One lane is for recalls and idle work. Each other lane is for one
/// page.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) range: VirtRange,
    /// The free lanes, a bit each. The first lane is not among them: [`Tickets`] give it out.
    #[cfg(feature = "loans")]
    free: u32,
}

/// Tickets of the work lane. Turns come in the order of their numbers.
///
/// A ticket is not a place at a lock ([`sync`](crate::sync)). There a core leaves its place to take an interrupt, and
/// others go round a core that does not come. A ticket keeps its number whatever happens, so a recall waits for at most
/// one turn of each other core (I6). That is why interrupts are masked over the whole wait. The ticket of an
/// interrupted core would keep all later ones waiting, also those of its own handler.
#[derive(Debug)]
pub(super) struct Tickets {
    /// The number of the next ticket.
    next: AtomicU32,
    /// The number whose turn it is.
    now: AtomicU32,
    /// The most turns that passed while one was waited for.
    worst: AtomicU32,
}

/// A turn of the work lane, until it is dropped. Nobody holds the lock while waiting for one.
pub(super) struct Turn<'t> {
    tickets: &'t Tickets,
    /// It is dropped last.
    _masked: Masked,
}

impl Tickets {
    pub(super) const fn new() -> Self {
        Self { next: AtomicU32::new(0), now: AtomicU32::new(0), worst: AtomicU32::new(0) }
    }

    /// Takes a ticket and waits for its turn.
    pub(super) fn wait(&self) -> Turn<'_> {
        let masked = Masked::new();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let since = self.now.load(Ordering::Relaxed);
        while self.now.load(Ordering::Acquire) != number {
            relax();
        }
        self.worst.fetch_max(number.wrapping_sub(since), Ordering::Relaxed);
        Turn { tickets: self, _masked: masked }
    }

    /// Takes a turn if nobody has one or waits for one.
    pub(super) fn try_take(&self) -> Option<Turn<'_>> {
        let masked = Masked::new();
        let now = self.now.load(Ordering::Acquire);
        self.next.compare_exchange(now, now.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed).ok()?;
        Some(Turn { tickets: self, _masked: masked })
    }

    /// Returns the most turns that passed while one was waited for.
    pub(super) fn worst_wait(&self) -> u32 {
        self.worst.load(Ordering::Relaxed)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Nobody else writes it during a turn.
        let now = self.tickets.now.load(Ordering::Relaxed);
        self.tickets.now.store(now.wrapping_add(1), Ordering::Release);
    }
}

pub(super) const LANE_PAGES: u32 = 32;
/// The number of the work lane, for recalls and idle work. Pages are copied from its first half to its second half.
pub(super) const WORK: u32 = 0;

impl Lanes {
    /// The sections of window that all lanes take. No more pages are open at a time, whatever the areas hold.
    pub(super) const SECTIONS: u32 = ((SPARES + 1) * LANE_PAGES * FRAME_SIZE).div_ceil(SECTION_SIZE);

    /// Makes the lanes of a range that has [`SECTIONS`](Self::SECTIONS).
    pub(super) fn new(range: VirtRange) -> Self {
        Self {
            range,
            #[cfg(feature = "loans")]
            free: (1 << (SPARES + 1)) - (1 << (WORK + 1)),
        }
    }

    pub(super) fn va(&self, lane: u32, page: u32) -> VirtAddr {
        VirtAddr::new(self.range.start().raw() + ((lane * LANE_PAGES + page) << FRAME_SHIFT))
    }
}

#[cfg(feature = "loans")]
impl Lanes {
    /// Takes a lane for a page.
    pub(super) fn take(&mut self) -> Option<u32> {
        let lane = self.free.trailing_zeros();
        (self.free != 0).then(|| {
            self.free &= self.free - 1;
            lane
        })
    }

    pub(super) fn give_back(&mut self, lane: u32) {
        self.free |= 1 << lane;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::thread;
    use std::vec::Vec;

    /// I6: whoever wants the lane next gets it: not idle work, which takes it again at once, and not who came later.
    #[test]
    fn i6_turns_of_the_work_lane_are_had_in_the_order_they_were_asked_for() {
        const OTHERS: u32 = 3;
        let (tickets, order) = (Tickets::new(), Mutex::new(Vec::new()));
        for _ in 0..100 {
            order.lock().unwrap().clear();
            let first = tickets.try_take().expect("nobody has it");
            let asked = tickets.next.load(Ordering::Relaxed);
            thread::scope(|scope| {
                for n in 0..OTHERS {
                    let (tickets, order) = (&tickets, &order);
                    scope.spawn(move || {
                        let _turn = tickets.wait();
                        order.lock().unwrap().push(n);
                    });
                    while tickets.next.load(Ordering::Relaxed) == asked + n {
                        thread::yield_now();
                    }
                }
                drop(first);
                // Until all that wait have had theirs there is none for idle work.
                while tickets.try_take().is_none() {
                    thread::yield_now();
                }
                assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
            });
        }
        assert_eq!(tickets.worst_wait(), OTHERS);
    }
}
