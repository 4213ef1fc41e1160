//! Counts what a recall costs, in instructions: 10,000 of random size for each kind of loan, and the worst of them.
//!
//! Wants `-icount shift=0`, where an instruction takes a nanosecond of virtual time (`qemu-run.sh --count`). What is
//! counted is `alloc` and `into_device` of memory that is lent, less the same of the same memory when it is idle, which
//! is zeroed too: bookkeeping, copies, and dropping the lines that loans left. For each kind the program finds the least
//! fixed part with which `fixed + pages * rate` holds for all of its recalls, and fails if that is more than docs/loans.md
//! says.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::addr::{FRAME_SHIFT, FRAME_SIZE};
use carveout::arch::armv7a::mmu::Armv7a;
use carveout::arch::armv7a::start::BootHandover;
use carveout::cma::loan::{Kind, Loan, Priority};
use carveout::dma::loan::{Borrower, Discardable, LoanKind, Movable};
use carveout_boards::println;
use carveout_boards::support::bring_up::{self, Kernel};
use carveout_boards::support::clock::Clock;
use carveout_boards::support::console;
use carveout_boards::support::lending::Random;

carveout::entry!(main);

/// Recalls of each kind.
const RECALLS: u32 = 10_000;
/// Pages of the largest.
const LARGEST: u32 = 512;

/// A kind of loan, and what docs/loans.md promises of it: instructions a recall, and a page.
struct Promise {
    name: &'static str,
    fixed: u64,
    rate: u64,
}

fn main(handover: BootHandover) -> ! {
    let kernel = bring_up::start(handover);
    let Some(clock) = &kernel.clock else { console::die(format_args!("recall: no clock is known here")) };
    match count(kernel, clock) {
        Ok(()) => {
            println!("recall: ok");
            console::exit(0)
        }
        Err(why) => console::die(format_args!("recall: {why}")),
    }
}

fn count(kernel: &'static Kernel, clock: &Clock) -> Result<(), String> {
    let area = kernel.default_area().ok_or("no default area")?;
    let pages = (kernel.dma.free_bytes(area).0 >> FRAME_SHIFT) as u32;
    let refused = |error| format!("{error}");
    println!(
        "recall: {:<22} {:>7} {:>8} {:>10} {:>10} {:>10} {:>12}",
        "instructions", "recalls", "pages", "mean/page", "rate/page", "fixed", "worst"
    );
    let fresh = kernel.dma.borrower::<Discardable>(area, "fresh", pages, Priority::Low).map_err(refused)?;
    measure(kernel, clock, &fresh, pages, false, &Promise { name: "discard, not cached", fixed: 16_000, rate: 60 })?;
    let cached = kernel.dma.borrower::<Discardable>(area, "cached", pages, Priority::Low).map_err(refused)?;
    measure(kernel, clock, &cached, pages, true, &Promise { name: "discard, cached", fixed: 16_000, rate: 400 })?;
    let moved = kernel.dma.borrower::<Movable>(area, "moved", pages, Priority::Low).map_err(refused)?;
    measure(kernel, clock, &moved, pages, true, &Promise { name: "move", fixed: 16_000, rate: 1000 })
}

fn measure<K: LoanKind>(
    kernel: &'static Kernel,
    clock: &Clock,
    borrower: &Borrower<Armv7a, K>,
    pages: u32,
    write: bool,
    promise: &Promise,
) -> Result<(), String> {
    let mut random = Random::new(0x5eed);
    let master = kernel.master("recall");
    let mut loans: Vec<Loan> = Vec::new();
    let (mut recalls, mut all, mut total, mut worst, mut fixed) = (0, 0u64, 0u64, 0, 0u64);
    while recalls < RECALLS {
        // The area is full of loans again.
        loans.retain(|&loan| {
            let left = borrower.left(loan).unwrap_or(0);
            left > 0 || borrower.give_back(loan).is_err()
        });
        // What was moved to the refuge stays there until given back: by the loans of the lowest frames, the last ones.
        while K::KIND == Kind::Movable
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
        // As many small ones as large ones.
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
        recalls += 1;
        all += of;
        total += cost;
        worst = cost.max(worst);
        fixed = cost.saturating_sub(of * promise.rate).max(fixed);
    }
    for loan in loans {
        borrower.give_back(loan).map_err(|error| format!("{error}"))?;
    }
    let Promise { name, rate, fixed: promised } = promise;
    println!("recall: {name:<22} {recalls:>7} {all:>8} {:>10} {rate:>10} {fixed:>10} {worst:>12}", total / all);
    if fixed > *promised {
        return Err(format!("{name}: {fixed} instructions beside {rate} a page, more than the {promised} promised"));
    }
    Ok(())
}
