//! Counts the cost of recalls, in instructions: 10,000 recalls of random size for each kind of loan, and the worst of
//! them.
//!
//! The program needs `-icount shift=0`, where an instruction takes a nanosecond of virtual time (`qemu-run.sh
//! --count`). It counts `alloc` and `into_device` of memory that is lent, less the same calls for the same memory when
//! it is idle, which is zeroed too. What remains is bookkeeping, copies, and dropping the lines that loans left. If the
//! program ends with `recall: ok`, it guarantees two things. No recall cost more than docs/src/loans.md promises for
//! its kind, its pages and the area's size. The line through all of them rises no faster than promised. With the boot
//! argument `recalls=N` it makes fewer recalls.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::addr::{FRAME_SHIFT, FRAME_SIZE};
use carveout::dma::{Borrower, Discardable, Loan, LoanKind, LoanPriority, Movable, PageKind};
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::demo::random::Random;
use carveout_boards::drivers::timer::Counter;
use carveout_boards::kernel::console;
use carveout_boards::kernel::{bring_up, state::Kernel};
use carveout_boards::println;
use carveout_rt::start::BootHandover;

carveout_rt::entry!(main);

/// Recalls of each kind by default.
const RECALLS: u32 = 10_000;
/// Pages of the largest recall.
const LARGEST: u32 = 512;

/// The promise of docs/src/loans.md for a kind of loan, in instructions, beside [`fixed`].
struct Promise {
    name: &'static str,
    /// The cost of a page.
    rate: u64,
}

/// Returns F, the cost that docs/src/loans.md promises for a recall from an area of so many pages, beside its pages'
/// rates.
const fn fixed(pages: u32) -> u64 {
    4_000 + 90 * pages.div_ceil(32) as u64
}

fn main(handover: BootHandover) -> ! {
    let kernel = bring_up::start(handover);
    let Some(clock) = kernel.clock.as_deref() else { console::die(format_args!("recall: no clock is known here")) };
    match count(kernel, clock) {
        Ok(()) => {
            println!("recall: ok");
            console::exit(0)
        }
        Err(why) => console::die(format_args!("recall: {why}")),
    }
}

fn count(kernel: &'static Kernel, clock: &dyn Counter) -> Result<(), String> {
    let area = kernel.default_area().ok_or("no default area")?;
    let pages = (kernel.dma.free_bytes(area).0 >> FRAME_SHIFT) as u32;
    let refused = |error| format!("{error}");
    println!("recall: {pages} pages in the area; a recall may cost {} instructions and a rate a page", fixed(pages));
    println!(
        "recall: {:<22} {:>7} {:>8} {:>9} {:>6} {:>6} {:>7} {:>9} of pages",
        "instructions", "recalls", "pages", "mean/page", "slope", "rate", "fixed", "worst"
    );
    let fresh = kernel.dma.borrower::<Discardable>(area, "fresh", pages, LoanPriority::Low).map_err(refused)?;
    measure(kernel, clock, &fresh, pages, false, &Promise { name: "discard, not cached", rate: 60 })?;
    let cached = kernel.dma.borrower::<Discardable>(area, "cached", pages, LoanPriority::Low).map_err(refused)?;
    measure(kernel, clock, &cached, pages, true, &Promise { name: "discard, cached", rate: 400 })?;
    let moved = kernel.dma.borrower::<Movable>(area, "moved", pages, LoanPriority::Low).map_err(refused)?;
    measure(kernel, clock, &moved, pages, true, &Promise { name: "move", rate: 1000 })
}

/// The recalls of a kind, with the pages and instructions of each.
#[derive(Default)]
struct Recalls {
    count: u64,
    pages: u64,
    cost: u64,
    pages_squared: u64,
    pages_times_cost: u64,
    /// The smallest fixed part with which the promise holds for every recall.
    fixed: u64,
    /// The most expensive recall, and its pages.
    worst: (u64, u64),
}

impl Recalls {
    fn add(&mut self, pages: u64, cost: u64, rate: u64) {
        self.count += 1;
        self.pages += pages;
        self.cost += cost;
        self.pages_squared += pages * pages;
        self.pages_times_cost += pages * cost;
        self.fixed = cost.saturating_sub(pages * rate).max(self.fixed);
        self.worst = self.worst.max((cost, pages));
    }

    /// Returns the instructions that a further page costs: the slope of the line of least squares.
    const fn slope(&self) -> u64 {
        let Self { count, pages, cost, pages_squared, pages_times_cost, .. } = *self;
        let (rise, run) = (count * pages_times_cost, count * pages_squared - pages * pages);
        match rise.saturating_sub(pages * cost).checked_div(run) {
            Some(slope) => slope,
            None => 0,
        }
    }
}

fn measure<K: LoanKind>(
    kernel: &'static Kernel,
    clock: &dyn Counter,
    borrower: &Borrower<Armv7a, K>,
    pages: u32,
    write: bool,
    promise: &Promise,
) -> Result<(), String> {
    let mut random = Random::new(0x5eed);
    let master = kernel.master("recall");
    let mut loans: Vec<Loan> = Vec::new();
    let Promise { name, rate } = *promise;
    let wanted = kernel.info.bootargs().get("recalls").and_then(|arg| arg.value?.parse().ok()).unwrap_or(RECALLS);
    let mut recalls = Recalls::default();
    while recalls.count < u64::from(wanted) {
        // The area is full of loans again.
        loans.retain(|&loan| {
            let left = borrower.left(loan).unwrap_or(0);
            left > 0 || borrower.give_back(loan).is_err()
        });
        // Pages that were moved to the refuge stay there until they are given back. The last loans, those of the lowest
        // frames, are given back.
        while K::KIND == PageKind::Movable
            && borrower.stats().in_refuge > 0
            && let Some(loan) = loans.pop()
        {
            borrower.give_back(loan).map_err(|error| format!("{error}"))?;
        }
        let mut new = Vec::new();
        while let Ok(loan) = borrower.borrow(32) {
            for n in 0..if write { loan.len() } else { 0 } {
                borrower.write(loan, n, 0, b"written").map_err(|error| format!("{error}"))?;
            }
            new.push(loan);
        }
        loans.extend(new.into_iter().rev());
        // Small recalls are as many as large ones.
        let order = random.below(LARGEST.ilog2() + 1);
        let count = ((1 << order) + random.below(1 << order)).min(LARGEST).min(pages);
        let before = borrower.stats().recalled;
        let timed = || {
            let start = clock.nanos();
            let buffer = kernel.dma.alloc(&master, count * FRAME_SIZE, 1);
            let buffer = buffer.map_err(|error| format!("{count} pages: {error}"))?.into_device();
            Ok::<_, String>((clock.nanos() - start, buffer))
        };
        let (lent, buffer) = timed()?;
        let of = borrower.stats().recalled - before;
        drop(buffer);
        let (idle, buffer) = timed()?;
        drop(buffer);
        if of == 0 {
            continue;
        }
        let cost = lent.saturating_sub(idle);
        recalls.add(of, cost, rate);
        if cost > fixed(pages) + of * rate {
            let most = fixed(pages);
            return Err(format!(
                "{name}: {of} pages cost {cost} instructions, more than {most} + {of} x {rate} promised"
            ));
        }
    }
    for loan in loans {
        borrower.give_back(loan).map_err(|error| format!("{error}"))?;
    }
    let slope = recalls.slope();
    let Recalls { count, pages: all, cost, fixed: least, worst: (worst, of), .. } = recalls;
    let mean = cost / all;
    println!("recall: {name:<22} {count:>7} {all:>8} {mean:>9} {slope:>6} {rate:>6} {least:>7} {worst:>9} of {of}");
    if slope > rate {
        return Err(format!("{name}: a further page costs {slope} instructions, more than the {rate} promised"));
    }
    Ok(())
}
