//! Every maintenance operation is necessary: each site is left out in turn, over several programs and machines, and the
//! table says what caught that.
//!
//! A site is a place in the source of the module, with the calls that led there as far as they are inlined: the same in
//! several programs is one site, and it is enough that one of them shows that it is missed. Barriers of other crates,
//! such as those of atomics, are not the module's.

use crate::campaign::{Guest, Run, Settings, in_order};
use crate::image::{MAINTENANCE, Place, Places};
use crate::model::Model;
use crate::pl310::OuterOp;
use crate::report::Outcome;
use std::collections::BTreeMap;

/// Runs that go on for this many times as long as the whole program are stuck.
const PATIENCE: u64 = 4;
/// Where the module's operations are.
const MODULE: [&str; 2] = ["kernel/armv7a/src/", "kernel/carveout/src/cpu.rs"];

/// An instruction, or a store to the outer controller, of one program on one machine.
struct Candidate {
    guest: usize,
    machine: usize,
    at: u32,
    outer: bool,
    executed: u32,
    time: u64,
}

/// The name of a function without its path and its parameters.
fn short(function: &str) -> String {
    let mut depth = 0;
    let plain = function.chars().filter(|&c| {
        depth += i32::from(c == '<');
        let keep = depth == 0;
        depth -= i32::from(c == '>');
        keep
    });
    let plain: String = plain.collect();
    plain.rsplit("::").find(|part| !part.is_empty()).unwrap_or("?").to_owned()
}

/// What a place is called in the table: the operation and the calls inside the module, innermost first; `None` if it is
/// not the module's. A store to a register is inside a crate for registers.
fn name(op: &str, calls: &[Place], register: bool) -> Option<String> {
    // The head is assembly, without lines.
    if let [Place { function, line: None }] = calls {
        return Some(format!("{op}: head.s, {function}"));
    }
    let inside = |place: &&Place| place.line.as_ref().is_some_and(|line| MODULE.iter().any(|part| line.contains(part)));
    let tell = |place: &Place| {
        let line = place.line.as_deref().unwrap_or("?");
        format!("{} {}", short(&place.function), line.rsplit('/').next().unwrap_or(line))
    };
    let before = calls.iter().position(|place| register && inside(&place)).unwrap_or(0);
    let calls: Vec<String> = calls[before..].iter().take_while(inside).map(tell).collect();
    (!calls.is_empty()).then(|| format!("{op}: {}", calls.join(" < ")))
}

const fn outer_name(op: OuterOp) -> &'static str {
    match op {
        OuterOp::Clean => "outer clean",
        OuterOp::Invalidate => "outer invalidate",
        OuterOp::Sync => "outer sync",
    }
}

/// Leaves out each site, or those whose name has one of `only` in it, and prints what caught it. Whether the programs
/// pass whole.
pub fn table(
    settings: &Settings,
    guests: &[Guest],
    machines: &[(&'static Model, Option<Vec<u8>>)],
    seeds: &[u64],
    only: &[String],
) -> bool {
    let mut sites: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
    let mut good = true;
    for (guest_index, guest) in guests.iter().enumerate() {
        let places = Places::load(&guest.path);
        let image = &guest.image;
        let of = |op| image.sites(op).into_iter().map(move |at| (at, format!("{op:?}")));
        let all: Vec<(u32, String)> = MAINTENANCE.into_iter().flat_map(of).collect();
        for (machine, (model, tree)) in machines.iter().enumerate() {
            let run = Run { image, model, tree: tree.as_deref(), seed: seeds[0], without_site: None };
            let whole = settings.run(&run);
            if !whole.outcome.is_pass() {
                println!("{} on {}: the whole program does not pass: {}", guest.name, model.name, whole.outcome);
                settings.explain(guest, &run, &whole.outcome);
                good = false;
                continue;
            }
            let inner = all.iter().map(|(at, op)| (*at, op.clone(), whole.visits.get(at).copied().unwrap_or(0), false));
            let outer = whole.outer_sites.iter().map(|(&(at, op), &count)| (at, outer_name(op).into(), count, true));
            for (at, op, executed, outer) in inner.chain(outer) {
                let Some(name) = name(&op, &places.find(image, at), outer) else { continue };
                if !only.is_empty() && !only.iter().any(|part| name.contains(part)) {
                    continue;
                }
                let candidates = sites.entry(name).or_default();
                if executed > 0 {
                    let (guest, time) = (guest_index, whole.time);
                    candidates.push(Candidate { guest, machine, at, outer, executed, time });
                }
            }
        }
    }
    // Short programs first; of one program and machine the copy that is executed most, then the others.
    for candidates in sites.values_mut() {
        candidates.sort_by_key(|one| (one.time, u32::MAX - one.executed));
    }
    let sites: Vec<_> = sites.into_iter().collect();
    let (mut caught, mut missed, mut idle) = (0, 0, 0);
    let find = |(_, candidates): &(String, Vec<Candidate>)| {
        candidates.iter().find_map(|one| without(settings, guests, machines, one, seeds))
    };
    in_order(settings.jobs, &sites, find, |n, found| {
        let (name, candidates) = &sites[n];
        match found {
            Some(by) => {
                caught += 1;
                println!("caught      {name}\n              {by}");
            }
            None if candidates.is_empty() => {
                idle += 1;
                println!("not run     {name}");
            }
            None => {
                missed += 1;
                println!("NOT CAUGHT  {name}");
            }
        }
    });
    println!("{} sites: {caught} caught, {missed} not caught, {idle} not run", sites.len());
    good
}

fn without(
    settings: &Settings,
    guests: &[Guest],
    machines: &[(&'static Model, Option<Vec<u8>>)],
    one: &Candidate,
    seeds: &[u64],
) -> Option<String> {
    let ((model, tree), guest) = (&machines[one.machine], &guests[one.guest]);
    let mut image = guest.image.clone();
    if !one.outer {
        image.suppress(one.at);
    }
    let settings = Settings { limit: one.time * PATIENCE, ..settings.clone() };
    seeds.iter().find_map(|&seed| {
        let run = Run { image: &image, model, tree: tree.as_deref(), seed, without_site: one.outer.then_some(one.at) };
        let by = match settings.run(&run).outcome {
            outcome if outcome.is_pass() => return None,
            Outcome::Violation(found) => found.rule.to_string(),
            outcome => format!("the guest: {outcome}"),
        };
        Some(format!("{} on {}, seed {seed}: {by}", guest.name, model.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_named_by_the_calls_inside_the_module() {
        let place = |function: &str, line: &str| Place { function: function.into(), line: Some(line.into()) };
        let calls = [
            place("carveout::cpu::dsb", "kernel/carveout/src/cpu.rs:110"),
            place(
                "<carveout_armv7a::X as carveout_armv7a::levels::CacheLevel>::wait::<u8>",
                "kernel/armv7a/src/levels.rs:3",
            ),
            place("carveout::dma::go", "kernel/carveout/src/dma/mod.rs:1"),
        ];
        assert_eq!(name("Dsb", &calls, false).as_deref(), Some("Dsb: dsb cpu.rs:110 < wait levels.rs:3"));
        assert_eq!(name("Dmb", &calls[2..], false), None);
        let calls = [place("tock_registers::set", "tock/src/x.rs:1"), calls[0].clone()];
        assert_eq!(name("Dmb", &calls, false), None);
        assert_eq!(name("outer sync", &calls, true).as_deref(), Some("outer sync: dsb cpu.rs:110"));
        let head = [Place { function: "levels_done+0x8".into(), line: None }];
        assert_eq!(name("Dsb", &head, false).as_deref(), Some("Dsb: head.s, levels_done+0x8"));
    }
}
