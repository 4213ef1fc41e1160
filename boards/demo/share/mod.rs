//! Processes: two that take turns on a core, one that waits for another, and one that touches what it must not. The
//! boot argument `demo=share` runs them.
//!
//! Guarantees: what the processes did is compared with what they must do. All memory that they had is free again.

use super::failure::Failure;
use crate::kernel::process::Process;
use crate::kernel::schedule::{self, Counts};
use crate::kernel::state::Kernel;
use crate::println;
use alloc::format;
use carveout::addr::FRAME_SIZE;
use core::arch::global_asm;
use core::sync::atomic::Ordering;

global_asm!(include_str!("programs.s"));

/// Gives the words of a program, which begins at its label and ends at another.
macro_rules! program {
    ($first:ident, $end:ident) => {{
        unsafe extern "C" {
            static $first: u32;
            static $end: u32;
        }
        let (first, end) = (&raw const $first, &raw const $end);
        // SAFETY: the words between the labels, constants of the image.
        unsafe { core::slice::from_raw_parts(first, (end.addr() - first.addr()) / 4) }
    }};
}

/// Lines that a talker prints.
const TURNS: u32 = 5;
/// What it counts to after each: many slices, for an emulator is late with its timers on a busy host.
const STEPS: u32 = 16_000_000;
/// How long the intruder sleeps, in microseconds.
const LURKS: u32 = 3_000;
/// The exit code of a process that was killed.
const KILLED: Option<u32> = Some(255);

/// Runs the demo.
pub(super) fn run(kernel: &'static Kernel) -> Result<(), Failure> {
    let before = kernel.heap_free();
    // The kernel's own, which the intruder wants.
    let secret = kernel.dma.alloc(&kernel.master("secret"), FRAME_SIZE, 1);
    let secret = secret.map_err(|error| Failure::NoRoom { what: "the secret", error })?.into_coherent();
    let at = secret.as_ptr().addr().get() as u32;

    let talker = program!(carveout_talker, carveout_talker_end);
    let waiter = program!(carveout_waiter, carveout_waiter_end);
    let intruder = program!(carveout_intruder, carveout_intruder_end);
    for (name, program, args) in [
        ("painter", talker, [TURNS, STEPS, 0, 0]),
        ("viewer", talker, [TURNS, STEPS, 0, 0]),
        ("intruder", intruder, [at, LURKS, 0, 0]),
        ("waiter", waiter, [0; 4]),
    ] {
        let spawned = Process::new(kernel, name, program, args).is_some_and(|process| schedule::spawn(process).is_ok());
        if !spawned {
            return Err(Failure::Share(format!("no memory for the process {name}")));
        }
    }
    let counts = Counts::default();
    let codes = schedule::run(kernel, &(), &counts);
    let [preempted, calls, killed] =
        [&counts.preempted, &counts.calls, &counts.killed].map(|count| count.load(Ordering::Relaxed));
    println!("share: {calls} calls, {preempted} times preempted, {killed} killed");
    // SAFETY: no device was told.
    drop(unsafe { secret.release() });
    if codes[..4] != [Some(TURNS), Some(TURNS), KILLED, Some(0)] {
        return Err(Failure::Share(format!("the processes ended with {codes:?}")));
    }
    let after = kernel.heap_free();
    if after < before {
        return Err(Failure::Share(format!("{} bytes of heap were not given back", before - after)));
    }
    Ok(())
}
