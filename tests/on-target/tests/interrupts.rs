//! Interrupts reach the core once each, and only those let through; the counter counts.
#![no_std]
#![no_main]

extern crate alloc;

use aarch32_cpu::interrupt;
use aarch32_cpu::register::Cpsr;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::cpu::CoreId;
use carveout::sync::{self, Lock, Rank};
use carveout_boards::drivers::intc::irq::IrqId;
use carveout_boards::kernel::interrupts;
use carveout_boards::kernel::state::Kernel;
use on_target::{Verdict, checks, ensure, ensure_eq};

checks![
    an_interrupt_comes_once,
    an_interrupt_that_is_not_enabled_waits,
    an_interrupt_waits_while_they_are_masked,
    guards_mask_interrupts_until_the_last_is_gone,
    the_counter_never_goes_back,
];

/// Shared interrupts that no device of the board drives: beside register boundaries, and the last one it has.
const SPARE: [u16; 5] = [20, 31, 32, 62, 63];

fn shared(n: u16) -> Result<IrqId, String> {
    IrqId::shared(n).ok_or_else(|| format!("no interrupt {n}"))
}

fn an_interrupt_comes_once(_: &'static Kernel) -> Verdict {
    let ids = SPARE.into_iter().map(shared).collect::<Result<Vec<_>, _>>()?;
    for &id in &ids {
        interrupts::enable(id);
        ensure!(!interrupts::take(id), "{id} came before it was raised");
    }
    for round in 0..1000 {
        let raised = ids[round % ids.len()];
        interrupts::raise(raised);
        for &id in &ids {
            let came = interrupts::take(id);
            ensure!(came == (id == raised), "round {round}: {raised} was raised, {id}: {came}");
        }
        ensure!(!interrupts::take(raised), "round {round}: {raised} came twice");
    }
    // All at once, before any is taken.
    ids.iter().copied().for_each(interrupts::raise);
    for id in ids {
        ensure!(interrupts::take(id), "{id} got lost among the others");
        ensure!(!interrupts::take(id), "{id} came twice");
    }
    Ok(())
}

fn an_interrupt_that_is_not_enabled_waits(_: &'static Kernel) -> Verdict {
    let id = shared(50)?;
    interrupts::raise(id);
    ensure!(!interrupts::take(id), "{id} came though it was not enabled");
    interrupts::enable(id);
    ensure!(interrupts::take(id), "{id} was pending and did not come when enabled");
    Ok(())
}

/// Also that the controller's own critical section leaves them masked.
fn an_interrupt_waits_while_they_are_masked(_: &'static Kernel) -> Verdict {
    let id = shared(51)?;
    interrupts::enable(id);
    interrupt::disable();
    interrupts::raise(id);
    let early = interrupts::take(id);
    // SAFETY: they were unmasked when this check began.
    unsafe { interrupt::enable() };
    ensure!(!early, "{id} came though interrupts were masked");
    ensure!(interrupts::take(id), "{id} did not come when interrupts were unmasked");
    Ok(())
}

fn are_masked() -> bool {
    Cpsr::read().i()
}

/// The ranks that this core holds, by its record.
fn held() -> Vec<usize> {
    let mine = sync::cores().find(|(core, _)| *core == CoreId::current());
    let held = mine.map_or([None; Rank::COUNT], |(_, state)| state.held);
    (0..Rank::COUNT).filter(|&rank| held[rank].is_some()).collect()
}

/// In whatever order they go: as many locks of different ranks as there are, then several of a rank, which were tried.
fn guards_mask_interrupts_until_the_last_is_gone(kernel: &'static Kernel) -> Verdict {
    let area = kernel.default_area().ok_or("no default area")?;
    let locks = [const { Lock::new(Rank::new(2), ()) }; 3];
    let others = [Lock::new(Rank::new(0), ()), Lock::new(Rank::new(1), ()), Lock::new(Rank::new(3), ())];
    ensure!(!are_masked(), "interrupts are masked to begin with");
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for several in [false, true] {
            let mut guards: Vec<_> = if several {
                locks.iter().map(Lock::try_lock).collect()
            } else {
                others.iter().map(|lock| Some(lock.lock())).collect()
            };
            let mut early = 0;
            let mut forgotten = 0;
            for (n, at) in order.into_iter().enumerate() {
                early += u32::from(!are_masked());
                // What masks interrupts for itself leaves them so.
                kernel.dma.idle_work(area, 1);
                early += u32::from(!are_masked());
                let left = if several { 1 } else { 3 - n };
                forgotten += u32::from(guards.iter().any(Option::is_none) != (n > 0) || held().len() != left);
                guards[at] = None;
            }
            let late = are_masked();
            ensure!(early == 0, "{order:?}, several of a rank: {several}: unmasked while a guard lives, {early} times");
            ensure!(!late, "{order:?}, several of a rank: {several}: masked when all are gone");
            ensure!(forgotten == 0, "{order:?}, several of a rank: {several}: a rank is not known to be held");
            ensure_eq!(held(), [], "{order:?}, ranks held in the end");
        }
    }
    // One that is held is refused, and that changes nothing.
    let first = locks[0].lock();
    ensure!(locks[0].try_lock().is_none() && held() == [2], "a lock was taken twice");
    drop(first);
    ensure!(!are_masked() && held().is_empty(), "a refused lock left something behind");
    Ok(())
}

fn the_counter_never_goes_back(kernel: &'static Kernel) -> Verdict {
    let clock = kernel.clock.as_ref().ok_or("no counter")?;
    let first = clock.micros();
    let mut last = first;
    let mut steps = 0;
    for _ in 0..100_000 {
        let now = clock.micros();
        ensure!(now >= last, "the clock went from {last} to {now}");
        steps += u32::from(now > last);
        last = now;
    }
    // Each read is several instructions of the emulator: 100,000 take far more than 100 microseconds.
    ensure!(steps > 10 && last - first > 100, "100,000 reads took {} us in {steps} steps", last - first);
    Ok(())
}
