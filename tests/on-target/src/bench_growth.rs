//! Counts what grows with the area: metadata, the index on arrangements that adversaries made, and recalls of loans.
//!
//! The index is counted without the module, because the board does not have the memory for such areas. The index only
//! manages numbers, and an index for 16 GiB fits in the heap. Recalls and metadata are those of the whole module, in an
//! area of the size that the board was booted with.

use super::{Bench, KIB, LARGEST, Series};
use alloc::format;
use alloc::vec::Vec;
use carveout::addr::{FRAME_SHIFT, FrameRange};
use carveout::carve_out::CarveOut;
use carveout::cma::{Index, Node};
use carveout::dma::{Borrower, Contiguous, Discardable, Loan, LoanKind, Movable};
use carveout::embed::{Builder, Needs};
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::println;

/// Sizes of areas, in MiB.
const AREAS: [u32; 6] = [16, 64, 256, 1024, 4096, 16384];
/// Frames of the largest area that is lent page by page, which takes the emulator some time.
const MOST_LENT: u32 = 128 << (20 - FRAME_SHIFT);
/// Steps of a trace on the index.
const STEPS: u32 = 512;

/// An arrangement of free runs that an adversary made. Each keeps the last 1,024 frames free.
#[derive(Clone, Copy)]
enum Adversary {
    /// In every 64 frames there is a run of 16 to 31 frames without 16 aligned ones. A request for 16 aligned frames
    /// looks at each such run in vain.
    NearMisses,
    /// In every 1,024 frames there are 64 of which every second one is taken.
    Checkerboard,
    /// Runs of 1 to 64 frames, with random lengths, are taken and free in turn.
    Random,
}

impl Adversary {
    fn arrange(self, index: &mut Index<'_>, frames: u32) {
        let mut x = 12345u32;
        let mut take = |at: u32, count: u32| index.take(at, count).expect("free");
        match self {
            Self::NearMisses => {
                for block in (0..frames).step_by(64) {
                    take(block, 1);
                    take(block + 16, 1);
                    let end = 32 + (block / 64) % 15;
                    take(block + end, 64 - end);
                }
            }
            Self::Checkerboard => {
                for block in (0..frames).step_by(1024) {
                    (block..block + 64).step_by(2).for_each(|at| take(at, 1));
                    take(block + 64, 1024 - 64);
                }
            }
            Self::Random => {
                let mut at = 0;
                while at < frames {
                    x = x.wrapping_mul(1664525).wrapping_add(1013904223);
                    let (taken, free) = (1 + (x >> 8) % 64, 1 + (x >> 16) % 64);
                    take(at, taken.min(frames - at));
                    at += taken + free;
                }
            }
        }
    }
}

impl Bench<'_> {
    /// Counts the index alone, for areas of all sizes. Each call updates the tree at once, so that no work is put off
    /// to the next call.
    pub(crate) fn index(&self) {
        for mib in AREAS {
            let frames = mib << (20 - FRAME_SHIFT);
            let needed = Index::nodes_needed(0, frames).expect("an index");
            let mut nodes = Vec::new();
            if nodes.try_reserve_exact(needed).is_err() {
                println!("bench: no heap for an index of {mib} MiB");
                return;
            }
            nodes.resize(needed, Node::EMPTY);
            let series = |kind: &str| Series::new(format!("index-{kind}/{mib}M"));
            let (mut alloc, mut free, mut refused) = (series("alloc"), series("free"), series("refused"));
            for adversary in [Adversary::NearMisses, Adversary::Checkerboard, Adversary::Random] {
                nodes.fill(Node::EMPTY);
                let mut index = Index::new(0, frames, &mut nodes).expect("storage as large as asked for");
                adversary.arrange(&mut index, frames - 1024);
                index.settle();
                // Requests that only the end can serve, that each place can serve, and that look like either.
                for (count, order) in [(256, 4), (16, 4), (15, 0), (17, 0), (8, 3), (1, 3), (1, 0), (2, 0)] {
                    let mut held: Vec<(u32, u32)> = Vec::new();
                    let mut x = 777u32;
                    for _ in 0..STEPS / 8 {
                        x = x.wrapping_mul(1664525).wrapping_add(1013904223);
                        // The search starts after the first frame, as for a device with a mask, so there is no shortcut
                        // at the root.
                        let given = self.time(&mut alloc, || {
                            let at = index.alloc(count, order, 1..u32::MAX);
                            index.settle();
                            at
                        });
                        match given {
                            Some(at) => held.push((at, count)),
                            None => refused.costs.extend(alloc.costs.pop()),
                        }
                        // Two runs stay for each one that is freed. So neighbouring runs come back both separately and
                        // together.
                        if x >> 8 & 1 == 0 && !held.is_empty() {
                            let (at, count) = held.swap_remove((x >> 16) as usize % held.len());
                            self.time(&mut free, || {
                                index.free(at, count).expect("it was taken");
                                index.settle();
                            });
                        }
                    }
                    for (at, count) in held {
                        self.time(&mut free, || {
                            index.free(at, count).expect("it was taken");
                            index.settle();
                        });
                    }
                }
                // Requests for more than the largest run, after all others.
                for count in [2048, 4095] {
                    let given = self.time(&mut refused, || {
                        let at = index.alloc(count, 4, 1..u32::MAX);
                        index.settle();
                        at
                    });
                    assert!(given.is_none(), "there is no such run");
                }
            }
            alloc.print();
            free.print();
            refused.print();
        }
    }

    /// Counts the memory that an area of this size needs beside its frames, in hundredths of a byte a frame: index,
    /// ledger, records and the window's tables.
    pub(crate) fn metadata(&self) {
        let frames = self.free_frames();
        let run = FrameRange::new(0x60000, frames).expect("a run");
        let needs = Needs::of(&[CarveOut::late("counted", &[run], true)], Builder::RECORDS);
        let share = |bytes: usize| bytes * 100 / frames as usize;
        println!("count metadata/heap {}", share(needs.heap_bytes));
        println!("count metadata/tables {}", share(needs.table_bytes() as usize));
        println!("count metadata/all {}", share(needs.heap_bytes + needs.table_bytes() as usize));
    }

    /// Counts the whole module in an area of the size that the board was booted with.
    pub(crate) fn by_area(&self) {
        self.metadata();
        let frames = self.free_frames();
        self.arranged(frames);
        if frames > MOST_LENT {
            return;
        }
        self.worst_recalls("discard", &self.borrower::<Discardable>("cache", frames));
        self.worst_recalls("move", &self.borrower::<Movable>("heap", frames));
    }

    /// Counts allocations and frees by the whole module, in the arrangement that is hardest for the index: near misses
    /// all over the area, and the fitting run at its end. Nothing is mapped or zeroed, because that does not depend on
    /// the area.
    fn arranged(&self, frames: u32) {
        // Each 64 frames have runs that are taken and free in turn. Runs that are shorter than 16 frames follow each
        // other.
        let mut taken: Vec<Contiguous<Armv7a>> = Vec::new();
        let mut free: Vec<Contiguous<Armv7a>> = Vec::new();
        for block in 0..frames / 64 - 16 {
            let more = block % 15;
            let pieces = [
                (1, true),
                (15, false),
                (1, true),
                (15, false),
                (more, false),
                (15 - more, true),
                (15, true),
                (2, true),
            ];
            for (count, stays) in pieces.into_iter().filter(|&(count, _)| count > 0) {
                let buffer = self.alloc(count << FRAME_SHIFT);
                if stays { taken.push(buffer) } else { free.push(buffer) }
            }
        }
        drop(free);
        let (mut alloc, mut free, mut refused) =
            (Self::of_module("alloc"), Self::of_module("free"), Self::of_module("refused"));
        for (count, align) in [(256, 16), (16, 16), (15, 1), (17, 1), (8, 8), (1, 8), (1, 1), (2, 1)] {
            let mut held = Vec::new();
            let mut x = 777u32;
            for _ in 0..STEPS / 8 {
                x = x.wrapping_mul(1664525).wrapping_add(1013904223);
                let ask = || self.kernel.dma.alloc(&self.master, count << FRAME_SHIFT, align << FRAME_SHIFT);
                match self.time(&mut alloc, ask) {
                    Ok(buffer) => held.push(buffer),
                    Err(_) => refused.costs.extend(alloc.costs.pop()),
                }
                if x >> 8 & 1 == 0 && !held.is_empty() {
                    let buffer = held.swap_remove((x >> 16) as usize % held.len());
                    self.time(&mut free, || drop(buffer));
                }
            }
            for buffer in held {
                self.time(&mut free, || drop(buffer));
            }
        }
        for series in [alloc, free, refused] {
            series.print();
        }
    }

    fn of_module(key: &str) -> Series {
        Series::new(format!("module-{key}"))
    }

    /// Counts allocations from an area in which every page is a separate loan. They are lent and given back in an order
    /// after which no two neighbours were lent one after the other.
    fn worst_recalls<K: LoanKind>(&self, kind: &str, borrower: &Borrower<Armv7a, K>) {
        for bytes in [4 * KIB, LARGEST] {
            let mut alloc = Self::sized(&format!("recall-{kind}"), bytes);
            // Lending page by page takes the emulator some time.
            for stride in [1, 7] {
                let mut loans: Vec<Loan> = Vec::new();
                while let Ok(loan) = borrower.borrow(1) {
                    borrower.write(loan, 0, 0, &loans.len().to_le_bytes()).expect("just lent");
                    loans.push(loan);
                }
                // One loan in `stride` is given back and lent again, so that the youngest loans lie between the oldest.
                for n in (0..loans.len()).step_by(stride).filter(|_| stride > 1) {
                    borrower.give_back(loans[n]).expect("a loan");
                }
                for n in (0..loans.len()).step_by(stride).filter(|_| stride > 1) {
                    loans[n] = borrower.borrow(1).expect("as many as were given back");
                    borrower.write(loans[n], 0, 0, &n.to_le_bytes()).expect("just lent");
                }
                let buffer = self.time(&mut alloc, || self.coherent(bytes));
                Self::free(buffer);
                for loan in loans {
                    borrower.give_back(loan).expect("a loan");
                }
            }
            alloc.print();
        }
    }
}
