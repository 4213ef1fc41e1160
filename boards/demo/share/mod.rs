//! Processes that share buffers: one paints, one reads the text of the picture and writes it on the picture, the scaler
//! and the display have picture and screen in turns. Two processes touch what they must not. One process reads what a
//! device has, and is not waited for. The boot argument `demo=share` runs them.
//!
//! Guarantees: what the processes did is compared with what they must do. All memory that they had is free again.

mod calls;
mod screen;

use self::calls::{Seen, ShareCalls};
use self::screen::Screen;
use super::ending::end;
use super::failure::Failure;
use super::memory::{SCALER, master};
use crate::kernel::process::Process;
use crate::kernel::schedule::{self, Counts};
use crate::kernel::state::Kernel;
use crate::println;
use alloc::boxed::Box;
use alloc::format;
use carveout::addr::FRAME_SIZE;
use carveout::dma::{ShareLimits, Shares};
use carveout_armv7a::mmu::Armv7a;
use core::arch::global_asm;
use core::sync::atomic::Ordering;
use spin::Once;

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

/// The processes, in the order of their numbers.
const NAMES: [&str; 5] = ["painter", "viewer", "intruder", "burglar", HASTY];
/// The process that is killed if it faults in a page of a device.
const HASTY: &str = "hasty";
/// The pictures that are painted.
const PICTURES: u32 = 3;
/// How long the burglar sleeps, in microseconds.
const LURKS: u32 = 3_000;
/// How often the hasty process looks.
const LOOKS: u32 = 1 << 20;
/// The exit code of a process that was killed.
const KILLED: Option<u32> = Some(255);
/// One client more than processes: the screen.
const LIMITS: ShareLimits = ShareLimits { clients: 8, grants: 16, buffers: 4 };

/// Returns the shares, which are made once.
fn shares(kernel: &'static Kernel) -> Result<&'static Shares<Armv7a>, Failure> {
    static SHARES: Once<&'static Shares<Armv7a>> = Once::new();
    let make = || Shares::new(kernel.dma, LIMITS).map(|shares| &*Box::leak(Box::new(shares)));
    let made = SHARES.try_call_once(make).copied();
    made.map_err(|_| Failure::Share("no memory for the books of shared buffers".into()))
}

/// Runs the demo.
pub(super) fn run(kernel: &'static Kernel) -> Result<(), Failure> {
    let shares = shares(kernel)?;
    let before = kernel.heap_free();
    let scaler = master(kernel, SCALER, "scaler");
    let screen = Screen::new(kernel, shares, scaler.clone())?;
    let calls = ShareCalls::new(kernel, shares, scaler, screen);
    let result = processes(kernel, &calls);
    let (screen, seen) = calls.end();
    let Seen { waited, served, shown, effort, audited } = seen;
    let stats = shares.stats();
    println!(
        "share: {shown} pictures; domains changed {} times, asked for as they were {} times; runs of users' pages mapped \
         {}, unmapped {}",
        stats.changes, stats.free, stats.mapped, stats.unmapped
    );
    println!(
        "share: {waited} faults waited for a device, {served} made pages the CPU's; lines of the picture cleaned {}, \
         invalidated {}",
        effort.cleaned.inner, effort.invalidated.inner
    );
    let ended = result.and_then(|()| end(kernel, screen.is_displayed()));
    screen.off();
    ended?;
    if shown != PICTURES || waited == 0 || audited != Some(true) {
        return Err(Failure::Share(format!(
            "{shown} pictures were shown, {waited} faults waited, audited {audited:?}"
        )));
    }
    let after = kernel.heap_free();
    if after < before {
        return Err(Failure::Share(format!("{} bytes of heap were not given back", before - after)));
    }
    Ok(())
}

/// Runs the processes.
fn processes(kernel: &'static Kernel, calls: &ShareCalls) -> Result<(), Failure> {
    // The kernel's own, which the burglar wants.
    let secret = kernel.dma.alloc(&kernel.master("secret"), FRAME_SIZE, 1);
    let secret = secret.map_err(|error| Failure::NoRoom { what: "the secret", error })?.into_coherent();
    let at = secret.as_ptr().addr().get() as u32;
    let programs = [
        (program!(carveout_painter, carveout_painter_end), [PICTURES, 0, 0, 0]),
        (program!(carveout_viewer, carveout_viewer_end), [PICTURES, 0, 0, 0]),
        (program!(carveout_intruder, carveout_intruder_end), [0; 4]),
        (program!(carveout_burglar, carveout_burglar_end), [at, LURKS, 0, 0]),
        (program!(carveout_hasty, carveout_hasty_end), [LOOKS, 0, 0, 0]),
    ];
    for (name, (program, args)) in NAMES.into_iter().zip(programs) {
        let spawned = Process::new(kernel, name, program, args).is_some_and(|process| schedule::spawn(process).is_ok());
        if !spawned {
            return Err(Failure::Share(format!("no memory for the process {name}")));
        }
    }
    let counts = Counts::default();
    let codes = schedule::run(kernel, calls, &counts);
    let [preempted, called, killed] =
        [&counts.preempted, &counts.calls, &counts.killed].map(|count| count.load(Ordering::Relaxed));
    println!("share: {called} calls, {preempted} times preempted, {killed} killed");
    // SAFETY: no device was told.
    drop(unsafe { secret.release() });
    if codes[..NAMES.len()] != [Some(PICTURES), Some(PICTURES), KILLED, KILLED, KILLED] {
        return Err(Failure::Share(format!("the processes ended with {codes:?}")));
    }
    Ok(())
}
