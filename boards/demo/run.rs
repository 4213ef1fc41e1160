//! Chooses the demo, runs it, and checks that it gave all memory back.

use super::ending::end;
use super::failure::Failure;
use super::film::film;
use super::hops::{Hop, print_table};
use super::memory::{CODEC, free_bytes};
use super::picture::{Source, show_bars, show_picture};
use super::{coherency, lending, net, share, shell};
use crate::drivers::net::virtio_net::KEPT;
use crate::kernel::devices;
use crate::kernel::state::Kernel;
use crate::println;
use alloc::vec::Vec;

/// Runs the demo on a booted kernel. At the end every buffer goes back, even after a failure. Only buffers of a device
/// that was not seen to stop go into quarantine. The device tree of a distribution has no mock devices. With such a
/// tree, the only disk that is used is a memory card with a photo. Without a photo, only the part runs that needs no
/// disk and no interrupt: the camera's ring, and colour bars on a display that has its own memory.
///
/// # Errors
///
/// The failure that ended the demo early. [`Failure::Leak`] if the demo did not give its memory back.
pub fn run(kernel: &'static Kernel) -> Result<(), Failure> {
    match asked(kernel) {
        Some("coherency") => return coherency::run(kernel),
        Some("share") => return share::run(kernel),
        Some("shell") => return shell::run(kernel),
        Some("net") => return serve(kernel),
        _ => {}
    }
    let whole = devices::find(&kernel.info, CODEC).is_some();
    // The disk stays open until the end, so its own memory is free neither before nor after the demo.
    let mut disk = if whole { Some(Source::open(kernel)?) } else { Source::with_photo(kernel) };
    let before = free_bytes(kernel);
    let micros = || kernel.clock.as_ref().map_or(0, |clock| clock.micros());
    let start = micros();
    let result = match &mut disk {
        Some(disk) => match disk.as_writable().filter(|_| asked(kernel) == Some("loans")) {
            Some(disk) => lending::demo(kernel, disk),
            None => show_and_film(kernel, disk),
        },
        None => only_film(kernel),
    };
    log::info!("took {} ms of the board's clock", (micros() - start) / 1000);
    without_leak(kernel, before, result)
}

/// Serves the page. The controller keeps some memory.
fn serve(kernel: &'static Kernel) -> Result<(), Failure> {
    let before = free_bytes(kernel);
    let result = net::run(kernel);
    without_leak(kernel, before.saturating_sub(KEPT.into()), result)
}

/// Returns the demo's result, or the leak if less is free than before.
fn without_leak(kernel: &'static Kernel, before: u64, result: Result<(), Failure>) -> Result<(), Failure> {
    let after = free_bytes(kernel);
    // More may be free than before, because a device that was given up gave its rings back, too.
    if after >= before {
        return result;
    }
    if let Err(failure) = result {
        println!("demo: {failure}");
    }
    println!("{}", kernel.dma.holders());
    Err(Failure::Leak { free: (before, after) })
}

/// Returns the value of the boot argument `demo=`.
fn asked(kernel: &Kernel) -> Option<&'static str> {
    kernel.info.bootargs().get("demo").and_then(|arg| arg.value)
}

fn show_and_film(kernel: &'static Kernel, disk: &mut Source) -> Result<(), Failure> {
    let mut hops = Vec::new();
    let screen = show_picture(kernel, disk, &mut hops)?;
    let result = while_shown(kernel, screen.is_displayed(), &mut hops);
    screen.off();
    result
}

fn only_film(kernel: &'static Kernel) -> Result<(), Failure> {
    println!("demo: no mock devices in the device tree, and no memory card with a photo, so only the memory part runs");
    let mut hops = Vec::new();
    let screen = show_bars(kernel, &mut hops)?;
    let result = while_shown(kernel, screen.is_some(), &mut hops);
    if let Some(screen) = screen {
        screen.off();
    }
    result
}

/// What happens while the display reads the picture.
fn while_shown(kernel: &'static Kernel, displayed: bool, hops: &mut Vec<Hop>) -> Result<(), Failure> {
    film(kernel, hops)?;
    print_table(kernel.dma, hops);
    end(kernel, displayed)
}
