//! The alternatives to this module: allocators of other projects over memory that is mapped non-cacheable once.
//!
//! They zero nothing, keep no guards, take no lock, and do not detect a double free.

use super::{Bench, SAMPLES, SIZES, Series, name};
use alloc::format;
use alloc::vec::Vec;
use carveout::machine::Mmu;
use carveout_boards::println;
use core::ptr::NonNull;
use peers::{Buddy, FRAME, FRAMES, LARGE_PAGE, Runs, SEED, Segregated, TAKEN, order};

/// Bytes of the whole pool, and of a part that leaves the same room behind it.
const ALL: usize = (FRAMES - TAKEN) as usize * FRAME;
const HALF: usize = 24 << 20;

impl Bench<'_> {
    /// Counts their cost for the pairs and traces by which our module is counted.
    pub(crate) fn peers(&self) {
        let all = self.coherent(FRAMES * FRAME as u32);
        // SAFETY: the address is inside the buffer, which is longer than that.
        let start = unsafe { all.as_ptr().add(TAKEN as usize * FRAME) };
        // SAFETY: the buffer is this function's. A header before `start` is inside the buffer. One allocator at a time
        // has it.
        self.peer("tlsf", &|bytes| unsafe { Segregated::new(start, bytes) }, start);
        // SAFETY: as above.
        self.peer("buddy", &|bytes| unsafe { Buddy::new(start, bytes) }, start);
        Self::free(all);
    }

    fn peer<R: Runs>(&self, peer: &str, fresh: &dyn Fn(usize) -> R, memory: NonNull<u8>) {
        // SAFETY: the address is inside the buffer, which is twice as long.
        let other = unsafe { memory.add(HALF) };
        for bytes in SIZES {
            let (count, of) = (bytes >> 12, name(bytes));
            let order = order(count, LARGE_PAGE);
            let series = |kind: &str| Series::new(format!("{peer}/{kind}/{of}"));
            let (mut alloc, mut free, mut zeroed) = (series("alloc"), series("free"), series("zeroed"));
            let mut runs = fresh(HALF);
            for _ in 0..SAMPLES {
                let at = self.time(&mut alloc, || runs.alloc(count, order)).expect("it is empty");
                self.time(&mut free, || runs.free(at, count, order));
                // Zeroes as this module does, but zeroes other memory, because the block is a header shorter.
                let at = self.time(&mut zeroed, || {
                    let at = runs.alloc(count, order).expect("it is empty");
                    // SAFETY: this is the buffer's other half, which no allocator has.
                    unsafe { self.kernel.dma.machine().zero(other.as_ptr(), bytes as usize) };
                    at
                });
                runs.free(at, count, order);
            }
            alloc.print();
            free.print();
            zeroed.print();
        }
        for slots in [384, 448, 512] {
            let series = |kind: &str| Series::new(format!("{peer}/{kind}/{slots}"));
            let (mut alloc, mut free, mut refused) = (series("trace-alloc"), series("trace-free"), series("refusal"));
            let mut held: Vec<Option<(usize, u32)>> = (0..slots).map(|_| None).collect();
            let runs = core::cell::RefCell::new(fresh(ALL));
            peers::trace(
                SEED,
                &mut held,
                |count| {
                    let mut runs = runs.borrow_mut();
                    let given = self.time(&mut alloc, || runs.alloc(count, order(count, LARGE_PAGE)));
                    if given.is_none() {
                        refused.costs.extend(alloc.costs.pop());
                    }
                    given
                },
                |at, count| {
                    let mut runs = runs.borrow_mut();
                    self.time(&mut free, || runs.free(at, count, order(count, LARGE_PAGE)));
                },
            );
            println!("count {peer}/trace-ok/{slots} {}", alloc.costs.len());
            println!("count {peer}/trace-failed/{slots} {}", refused.costs.len());
            alloc.print();
            free.print();
            refused.print();
        }
    }
}
