//! The trace of mixed sizes: the cost of its allocations and frees, and the number of refusals.

use super::{Bench, Series};
use alloc::format;
use alloc::vec::Vec;
use carveout::addr::FRAME_SIZE;
use carveout::dma::Coherent;
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::println;
use peers::{LARGE_PAGE, SEED, TAKEN, order};

impl Bench<'_> {
    /// Replays the trace. With a reserve, idle time prepares for it before each allocation.
    pub(crate) fn trace(&self, slots: u32, reserve: u32) {
        let kind = if reserve > 0 { "-reserve" } else { "" };
        let series = |key: &str| Series::new(format!("{key}{kind}/{slots}"));
        let (mut alloc, mut free) = (series("trace-alloc"), series("trace-free"));
        let (mut refused, mut idle) = (series("trace-refused"), series("trace-idle"));
        self.replay(
            slots,
            reserve,
            |bytes, align| {
                if reserve > 0 {
                    self.time(&mut idle, || self.idle());
                }
                let given = self.time(&mut alloc, || self.try_coherent(bytes, align));
                if given.is_none() {
                    refused.costs.extend(alloc.costs.pop());
                }
                given
            },
            |buffer| self.time(&mut free, || Self::free(buffer)),
        );
        println!("count trace-ok{kind}/{slots} {}", alloc.costs.len());
        println!("count trace-failed{kind}/{slots} {}", refused.costs.len());
        alloc.print();
        refused.print();
        idle.print();
        free.print();
    }

    /// Replays the trace with these two calls.
    pub(crate) fn replay(
        &self,
        slots: u32,
        reserve: u32,
        mut alloc: impl FnMut(u32, u32) -> Option<Coherent<Armv7a>>,
        mut free: impl FnMut(Coherent<Armv7a>),
    ) {
        let dma = self.kernel.dma;
        dma.set_reserve(self.area(), 0);
        let taken = self.alloc(TAKEN * FRAME_SIZE);
        dma.set_reserve(self.area(), reserve.into());
        let mut held: Vec<Option<(Coherent<Armv7a>, u32)>> = (0..slots).map(|_| None).collect();
        let align = |count| FRAME_SIZE << order(count, LARGE_PAGE);
        peers::trace(SEED, &mut held, |count| alloc(count * FRAME_SIZE, align(count)), |buffer, _| free(buffer));
        held.into_iter().flatten().for_each(|(buffer, _)| Self::free(buffer));
        drop(taken);
    }
}
