//! Counts what an event costs, in instructions: hand-overs of a stream, recorded and not recorded.
//!
//! The program needs `-icount shift=0`, where an instruction takes a nanosecond of virtual time (`qemu-run.sh
//! --count`), and the feature `events`. What the same hand-overs cost more while they are recorded is shared among the
//! events. If the program ends with `event_cost: ok`, an event cost no more on the mean than docs/src/events.md says:
//! when it is kept, the clock included, and when it is only counted.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use carveout::addr::FRAME_SIZE;
use carveout::dma::{Bidirectional, Cpu, Stream};
use carveout::events::{EventKind, EventLog};
use carveout_armv7a::mmu::Armv7a;
use carveout_boards::drivers::timer::Counter;
use carveout_boards::kernel::console;
use carveout_boards::kernel::{bring_up, state::Kernel};
use carveout_boards::println;
use carveout_rt::start::BootHandover;
use spin::Once;

carveout_rt::entry!(main);

/// Hand-overs to the device and back that are counted.
const ROUNDS: u32 = 1_000;
/// The events that a ring holds: fewer than there are, so that it wraps.
const KEPT: u32 = 256;
/// The most instructions of an event that is kept, and of one that is counted.
const MOST: [u64; 2] = [80, 25];

static CLOCK: Once<&'static dyn Counter> = Once::new();

fn ticks() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.ticks())
}

fn main(handover: BootHandover) -> ! {
    match measure(bring_up::start(handover)) {
        Ok(()) => {
            println!("event_cost: ok");
            console::exit(0)
        }
        Err(why) => console::die(format_args!("event_cost: {why}")),
    }
}

fn measure(kernel: &'static Kernel) -> Result<(), String> {
    let clock = kernel.clock.as_deref().ok_or("no clock is known here")?;
    CLOCK.call_once(|| clock);
    let master = kernel.master("measured");
    let buffer = kernel.dma.alloc(&master, FRAME_SIZE, 1).map_err(|error| format!("{error}"))?;
    let mut stream = buffer.into_stream::<Bidirectional>();
    // What is done once only is done now.
    (stream, _) = hand_over(stream, clock);
    let (bare, kept, counted);
    (stream, bare) = hand_over(stream, clock);
    let begin = |events| EventLog::begin(events, ticks).map_err(|_| "the heap has no room");
    let log = begin(KEPT)?;
    (stream, kept) = hand_over(stream, clock);
    let counts = begin(0)?;
    (stream, counted) = hand_over(stream, clock);
    EventLog::end();
    drop(stream);
    for (log, (what, cost, most)) in
        [log, counts].into_iter().zip([("kept", kept, MOST[0]), ("counted", counted, MOST[1])])
    {
        let events: u64 = EventKind::ALL.into_iter().map(|kind| u64::from(log.count(kind))).sum();
        let each = cost.saturating_sub(bare).checked_div(events).ok_or("nothing was recorded")?;
        println!("event_cost: {events} events {what}: {each} instructions each, at most {most}");
        if each > most {
            return Err(format!("an event that is {what} costs {each} instructions, more than {most}"));
        }
    }
    Ok(())
}

type Measured = Stream<Armv7a, Bidirectional, Cpu>;

/// Hands the buffer to the device and back many times. Returns the instructions that this took.
fn hand_over(mut stream: Measured, clock: &dyn Counter) -> (Measured, u64) {
    let start = clock.nanos();
    for _ in 0..ROUNDS {
        // SAFETY: no device was told (I4).
        stream = unsafe { stream.for_device().for_cpu() };
    }
    (stream, clock.nanos() - start)
}
