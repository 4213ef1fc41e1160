//! The events of the memory work, at the console.
//!
//! Guarantees: a record that the boot arguments began is not ended. A kernel without events says how to get one.

use super::commands::Refused;
use super::session::Session;
use alloc::string::String;

/// What is missing in this build.
#[cfg(not(feature = "events"))]
pub(super) fn trace(_: &mut Session, words: &[&str]) -> Result<(), Refused> {
    match words {
        [] | ["on" | "off"] => Err(String::from(
            "this kernel records no events; ./qemu-run.sh --record OUT.json --append demo=shell boots one that does",
        )
        .into()),
        _ => Err(Refused::Usage),
    }
}

#[cfg(feature = "events")]
pub(super) use recorded::trace;

#[cfg(feature = "events")]
mod recorded {
    use super::{Refused, Session, String};
    use crate::kernel::record;
    use crate::println;
    use alloc::format;
    use alloc::vec::Vec;
    use carveout::cpu::CoreId;
    use carveout::events::{Event, EventLog};

    /// The events of each core that are kept, and those that are shown.
    const KEPT: u32 = 256;
    const SHOWN: usize = 16;

    pub(in super::super) fn trace(session: &mut Session, words: &[&str]) -> Result<(), Refused> {
        let log = EventLog::current();
        match (words, log) {
            (["on"], None) => {
                let begun = record::start(session.kernel, KEPT);
                begun.map_err(|_| String::from("the heap has no room for the events"))?;
                session.traces = true;
                println!("trace: on; each core keeps its last {KEPT} events");
            }
            (["on"], Some(_)) => println!("trace: on already"),
            (["off"], Some(log)) if session.traces => {
                EventLog::end();
                session.traces = false;
                println!("trace: off: {}", record::Counts(log));
            }
            (["off"], Some(_)) => {
                return Err(String::from("the boot argument events= began the record, which ends with exit").into());
            }
            ([] | ["off"], None) => println!("trace: off; trace on begins"),
            ([], Some(log)) => show(log),
            _ => return Err(Refused::Usage),
        }
        Ok(())
    }

    /// Prints the last events of all cores, by time.
    fn show(log: &EventLog) {
        let mut events: Vec<(u64, String)> = Vec::new();
        for core in CoreId::all().map(CoreId::index) {
            log.for_each(core, |event| events.push((event.time, line(core, &event))));
        }
        events.sort_by_key(|(time, _)| *time);
        for (_, line) in &events[events.len().saturating_sub(SHOWN)..] {
            println!("{line}");
        }
        println!("trace: on: {}", record::Counts(log));
    }

    fn line(core: usize, event: &Event) -> String {
        let Event { kind, buffer, frames, amount, .. } = event;
        let time = record::nanos(event.time);
        let what = if kind.is_of_frames() { format!("{frames}") } else { format!("{amount}") };
        format!("{time:>12} ns core {core} {kind:<10} buffer {buffer:<6} {what}")
    }
}
