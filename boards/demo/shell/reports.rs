//! The commands that only look.
//!
//! Guarantees: they take nothing and change nothing. What they count is what the map of the module says, frame by
//! frame.

use super::commands::Refused;
use super::map::{Map, place};
use super::session::{AreaOf, Session};
use crate::kernel::report;
use crate::println;
use alloc::format;
use alloc::string::String;
use carveout::addr::Bytes;
use carveout::dma::{ContractSet, Occupant};

pub(super) fn areas(session: &mut Session) {
    println!("{:<16} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}", "area", "bytes", "held", "contract", "lent", "idle", "run");
    for AreaOf { name, id, ranges } in session.areas() {
        let mut bytes = [0; Occupant::ALL.len()];
        session.kernel.dma.for_each_run(id, |frames, occupant| bytes[place(occupant)] += frames.bytes());
        let of = |occupants: &[Occupant]| shown(occupants.iter().map(|&occupant| bytes[place(occupant)]).sum());
        let all = shown(ranges.iter().map(|range| range.bytes()).sum());
        let [held, contract, lent] =
            [Occupant::Held, Occupant::Contract, Occupant::Lent].map(|occupant| of(&[occupant]));
        let idle = of(&[Occupant::Zeroing, Occupant::Warm, Occupant::Idle]);
        let run = shown(session.kernel.dma.free_bytes(id).1);
        println!("{name:<16} {all:>8} {held:>9} {contract:>9} {lent:>9} {idle:>9} {run:>9}");
    }
}

/// Returns bytes in text, which takes a width.
fn shown(bytes: u64) -> String {
    format!("{}", Bytes(bytes))
}

pub(super) fn map(session: &mut Session, words: &[&str]) -> Result<(), Refused> {
    let [name] = words else { return Err(Refused::Usage) };
    let AreaOf { id, ranges, .. } = session.area(name)?;
    let mut map = Map::new(&ranges);
    session.kernel.dma.for_each_run(id, |frames, occupant| map.enter(frames, occupant));
    println!("{map}");
    Ok(())
}

pub(super) fn holders(session: &mut Session) {
    println!("{}", session.kernel.dma.holders());
}

pub(super) fn contracts(session: &mut Session) {
    for promise in &session.promises {
        let set = ContractSet { count: promise.count, bytes: promise.bytes, align: 1 };
        let allocated = session.held.iter().filter(|held| held.promised && held.name == promise.name).count();
        println!("{}: {set}, {allocated} of them allocated", promise.name);
    }
    println!("contracts: {}", session.promises.len());
}

pub(super) fn audit(session: &mut Session) {
    // It prints its own verdict.
    report::audit(session.kernel);
}
