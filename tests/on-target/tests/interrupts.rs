//! Interrupts reach the core once each, and only those let through; the counter counts.
#![no_std]
#![no_main]

extern crate alloc;

use aarch32_cpu::interrupt;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout_boards::support::bring_up::Kernel;
use carveout_boards::support::interrupts;
use carveout_boards::support::irq::IrqId;
use on_target::{Verdict, checks, ensure};

checks![
    an_interrupt_comes_once,
    an_interrupt_that_is_not_enabled_waits,
    an_interrupt_waits_while_they_are_masked,
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
