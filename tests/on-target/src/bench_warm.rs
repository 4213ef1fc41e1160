//! The rows of mappings that stay after a free: shelves, allocations in the same place, and the trace over them.

use super::{
    Armv7a, Bench, Coherent, KIB, LARGEST, MIB, RESERVE, SAMPLES, Series, Vec, console, format, name, println,
};
use carveout::dma::AfterFree;

impl Bench<'_> {
    fn one_call(&self, bytes: u32) -> Coherent<Armv7a> {
        let buffer = self.kernel.dma.alloc_coherent(&self.master, bytes, 1);
        buffer.unwrap_or_else(|error| console::die(format_args!("bench: {error}")))
    }

    pub(super) fn give_up(buffer: Coherent<Armv7a>) {
        // SAFETY: no device was ever told of the buffer.
        unsafe { buffer.give_up() };
    }

    /// Counts pairs of calls, each with one turn of the lock, and nothing left mapped.
    pub(super) fn one_turn(&self) {
        for bytes in [4 * KIB, 64 * KIB, MIB, LARGEST] {
            let (mut alloc, mut free) = (Self::sized("one-alloc", bytes), Self::sized("one-free", bytes));
            for _ in 0..SAMPLES {
                let buffer = self.time(&mut alloc, || self.one_call(bytes));
                self.time(&mut free, || Self::give_up(buffer));
            }
            alloc.print();
            free.print();
        }
    }

    /// Counts buffers that are given up and allocated again, with idle time before each.
    fn pairs(&self, (alloc, free): (&str, &str), bytes: u32) {
        let (mut alloc, mut free) = (Self::sized(alloc, bytes), Self::sized(free, bytes));
        Self::give_up(self.one_call(bytes));
        for _ in 0..SAMPLES {
            self.idle();
            let buffer = self.time(&mut alloc, || self.one_call(bytes));
            self.time(&mut free, || Self::give_up(buffer));
        }
        alloc.print();
        free.print();
    }

    /// Counts buffers from the shelf of this core, zeroed in idle time. The area is empty.
    fn shelf(&self) {
        for bytes in [4 * KIB, 64 * KIB, MIB, LARGEST] {
            self.pairs(("shelf-alloc", "shelf-free"), bytes);
            Self::locks_of(&format!("locks-shelf/{}", name(bytes)), || Self::give_up(self.one_call(bytes)));
            // Here nothing is done in idle time.
            let mut dirty = Self::sized("shelf-dirty", bytes);
            for _ in 0..SAMPLES {
                let buffer = self.time(&mut dirty, || self.one_call(bytes));
                Self::give_up(buffer);
            }
            dirty.print();
        }
    }

    /// Counts buffers at the same place as before, still mapped, and zeroed in idle time. More than half of the area is
    /// in use, so no shelf is used.
    fn same_place(&self) {
        let all = self.kernel.dma.free_bytes(self.area()).0 as u32;
        let most: Vec<_> = (0..all / LARGEST * 5 / 8).map(|_| self.alloc(LARGEST)).collect();
        for bytes in [4 * KIB, 64 * KIB, MIB, LARGEST] {
            self.pairs(("warm-alloc", "warm-free"), bytes);
        }
        drop(most);
    }

    pub(super) fn warm(&self) {
        self.kernel.dma.set_after_free(AfterFree::KeepMapped);
        self.kernel.dma.set_reserve(self.area(), RESERVE.into());
        self.shelf();
        self.same_place();
        for slots in [384, 448, 512] {
            self.warm_trace(slots);
        }
        let stats = self.kernel.dma.stats();
        println!("count warm-reused {}", stats.reused);
        println!("count warm-served {}", stats.served);
        println!("count warm-evicted {}", stats.evicted);
        self.kernel.dma.set_reserve(self.area(), 0);
        self.kernel.dma.set_after_free(AfterFree::Unmap);
    }

    /// Replays the trace, with idle time before each allocation. Each call takes one turn of the lock.
    fn warm_trace(&self, slots: u32) {
        let series = |key: &str| Series::new(format!("{key}-warm/{slots}"));
        let (mut alloc, mut free, mut idle) = (series("trace-alloc"), series("trace-free"), series("trace-idle"));
        let mut refused = series("trace-refused");
        self.replay(
            slots,
            RESERVE,
            |bytes, align| {
                self.time(&mut idle, || self.idle());
                let given = self.time(&mut alloc, || self.kernel.dma.alloc_coherent(&self.master, bytes, align).ok());
                if given.is_none() {
                    refused.costs.extend(alloc.costs.pop());
                }
                given
            },
            |buffer| self.time(&mut free, || Self::give_up(buffer)),
        );
        println!("count trace-ok-warm/{slots} {}", alloc.costs.len());
        println!("count trace-failed-warm/{slots} {}", refused.costs.len());
        for series in [alloc, free, idle, refused] {
            series.print();
        }
    }
}
