//! Random work with buffers, of which each byte is looked at.
//!
//! Guarantees: a run that ends well found zeros in each fresh buffer (I5), in each hand-over what the other side wrote,
//! and nothing in the audit. It frees all that it took. Where it does not end well it says at which step and why.

use super::commands::Refused;
use super::session::Session;
use super::words::number;
use crate::demo::random::Random;
use crate::kernel::report;
use crate::println;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use carveout::addr::FRAME_SIZE;
use carveout::dma::{Bidirectional, Cpu, Master, Port, Stream};
use carveout_armv7a::mmu::Armv7a;

/// The most steps of a run, the most buffers that it has at a time, and the most frames of one.
const STEPS: u32 = 1_000_000;
const BUFFERS: usize = 32;
const FRAMES: u32 = 64;

/// What a run did.
#[derive(Default)]
struct Tally {
    allocated: u32,
    freed: u32,
    handed_over: u32,
    refused: u32,
}

/// A stream that the CPU has, and the byte that its bytes begin with.
struct Filled {
    stream: Stream<Armv7a, Bidirectional, Cpu>,
    first: u8,
}

pub(super) fn stress(session: &mut Session, words: &[&str]) -> Result<(), Refused> {
    let [word] = words else { return Err(Refused::Usage) };
    let steps = number(word, "number of steps", STEPS)?;
    session.stresses += 1;
    let (seed, master) = (session.stresses, &session.requesters[0].master);
    let Tally { allocated, freed, handed_over, refused } = work(session, master, steps, seed)?;
    println!(
        "stress: {steps} steps by seed {seed}: {allocated} allocated, {freed} freed, {handed_over} handed over and back"
    );
    println!("stress: {refused} refused; each byte was as it must be");
    if report::audit(session.kernel) { Ok(()) } else { Err(String::from("the audit found a violation").into()) }
}

fn work(session: &Session, master: &Master, steps: u32, seed: u32) -> Result<Tally, String> {
    let dma = session.kernel.dma;
    // SAFETY: `hand_over` opens a stream that the device has, drops the view, and takes the stream back (I4).
    let port = unsafe { Port::new(dma, master.clone()) };
    let (mut random, mut tally, mut filled) = (Random::new(seed), Tally::default(), Vec::new());
    for step in 0..steps {
        let at = |why: String| format!("stress: step {step} of seed {seed}: {why}");
        let which = random.below(BUFFERS as u32) as usize;
        if which >= filled.len() {
            let bytes = 1 + random.below(FRAMES * FRAME_SIZE);
            let Ok(stream) = dma.alloc_stream::<Bidirectional>(master, bytes, 1) else {
                tally.refused += 1;
                continue;
            };
            tally.allocated += 1;
            if let Some(wrong) = stream.bytes().iter().position(|&byte| byte != 0) {
                return Err(at(format!("a fresh buffer is not zeroed at byte {wrong:#x}")));
            }
            let mut fresh = Filled { stream, first: 0 };
            fill(fresh.stream.bytes_mut(), fresh.first);
            filled.push(fresh);
        } else if random.below(3) == 0 {
            let Filled { stream, first } = filled.swap_remove(which);
            check(stream.bytes(), first).map_err(at)?;
            tally.freed += 1;
        } else {
            let before = filled.swap_remove(which);
            filled.push(hand_over(&port, before, random.below(256) as u8).map_err(at)?);
            tally.handed_over += 1;
        }
    }
    for Filled { stream, first } in filled.drain(..) {
        check(stream.bytes(), first)?;
        tally.freed += 1;
    }
    Ok(tally)
}

/// Has the device read what the CPU wrote, and the CPU what the device writes, which begins with `first`.
fn hand_over(port: &Port<Armv7a>, filled: Filled, first: u8) -> Result<Filled, String> {
    let bytes = filled.stream.len() as u32;
    let stream = filled.stream.for_device();
    let seen = port.open(stream.bus(), bytes).map_err(|error| format!("{error}")).and_then(|mut open| {
        check(open.bytes(), filled.first)?;
        fill(open.bytes_mut(), first);
        Ok(())
    });
    // SAFETY: the device is the port, whose view is dropped (I4).
    let stream = unsafe { stream.for_cpu() };
    seen?;
    check(stream.bytes(), first)?;
    Ok(Filled { stream, first })
}

/// Writes bytes of which each is one more than the byte before, modulo 251, so that no two pages are alike.
fn fill(bytes: &mut [u8], first: u8) {
    let mut next = first % 251;
    for byte in bytes {
        *byte = next;
        next = if next == 250 { 0 } else { next + 1 };
    }
}

/// Looks at each byte that [`fill`] wrote.
fn check(bytes: &[u8], first: u8) -> Result<(), String> {
    let mut next = first % 251;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte != next {
            return Err(format!("byte {at:#x} is {byte:#04x}, not {next:#04x}"));
        }
        next = if next == 250 { 0 } else { next + 1 };
    }
    Ok(())
}
