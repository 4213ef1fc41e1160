//! Every interleaving of the protocol's steps, for one line of one frame: two cores with TLB, inner and outer cache,
//! an owner, a port on the other core, a device, and an adversary that does all that the architecture permits.
//!
//! The steps, their order and their conditions come from [`carveout::protocol`], which the code executes.
//! `docs/src/protocol.md` says what is modelled and what is found; `--nocapture` prints it.

mod model;

use carveout::dma::Holder;
use carveout::protocol::{Due, LineStep, MapStep, Op, Transition, When};
use carveout::vm::attr::MemoryType::NonCacheable;
use carveout::vm::ledger::Residue;
use model::{Fault, Found, INNER, Judge, Mutation, Protocol, Step, explore, narrate, step_of};
use std::fmt::Write as _;

/// The table as it is, with every fault judged.
const SHIPPED: Protocol = Protocol { judge: Judge::Invariants, mutation: Mutation::None, outer: true };

/// Steps that can be left out, and why they are there all the same.
const IDLE: [(Transition, Op, Step, &str); 9] = [
    (
        Transition::IntoStream,
        Op::Hold(Holder::Cpu),
        Step::Hold(Holder::Cpu),
        "for reports: a port is refused what nobody holds as it is refused what the CPU holds",
    ),
    (
        Transition::Quarantine,
        Op::Unmap,
        Step::Map(MapStep::Release, NonCacheable),
        "for the audit, which finds no mapping: the frames are never claimed again",
    ),
    (
        Transition::Warm,
        Op::Hold(Holder::Nobody),
        Step::Hold(Holder::Nobody),
        "for reports: a port finds no buffer that nobody has",
    ),
    (
        Transition::FillWarm,
        Op::Mark(Residue::Zeroed),
        Step::Mark(Residue::Zeroed),
        "what idle time is for: without it the next owner zeroes the frame again",
    ),
    (
        Transition::OpenPort,
        Op::Discard,
        Step::Line(LineStep::Wait(INNER)),
        "no line of a device's buffer is dirty; the port takes the sequence that serves where some are",
    ),
    (
        Transition::FillReserve,
        Op::Mark(Residue::Zeroed),
        Step::Mark(Residue::Zeroed),
        "what the reserve is for: without it the next owner zeroes the frame again",
    ),
    (
        Transition::GiveBack,
        Op::Yield,
        Step::Yield,
        "for the audit, which takes the frames for ordinary RAM from then on: no area gives them out anyway",
    ),
    (
        Transition::ShowUncached,
        Op::Map(NonCacheable),
        Step::Map(MapStep::Publish, NonCacheable),
        "nobody accesses through the kernel's mapping past the caches: it is there for the claim, which users share (I1)",
    ),
    (Transition::ShowUncached, Op::Map(NonCacheable), Step::Map(MapStep::ForgetTable, NonCacheable), "as above"),
];

/// Ops whose levels may come in the other order, and why.
const REVERSIBLE: [(Transition, Op, &str); 1] = [(Transition::OpenPort, Op::Discard, "as above: no line is dirty")];

/// Steps that may work on one core alone.
const LOCAL: [(Transition, MapStep, &str); 7] = [
    (Transition::IntoStream, MapStep::ForgetTable, "the core that maps is the only one that uses the mapping"),
    (Transition::IntoDevice, MapStep::ForgetTable, "as above"),
    (Transition::OpenPort, MapStep::ForgetTable, "as above, until the port is handed to another core"),
    (Transition::FillReserve, MapStep::ForgetTable, "as above; and what maps lent frames are pages, never sections"),
    (Transition::GiveBack, MapStep::ForgetTable, "the core that maps is the only one that uses the mapping"),
    (
        Transition::Show,
        MapStep::ForgetTable,
        "as above: users have tables of their own; here one core maps and maintains",
    ),
    (Transition::ShowUncached, MapStep::ForgetTable, "nobody accesses through the kernel's mapping past the caches"),
];

/// Ops that may change places with the next.
const COMMUTE: [(Transition, Op, &str); 19] = [
    (Transition::IntoCoherent, Op::DeviceBarrier, "no driver opens a port before the call returns that gives it leave"),
    (Transition::IntoStream, Op::Unmap, "as above"),
    (Transition::IntoDevice, Op::DeviceBarrier, "a barrier needs no mapping"),
    (Transition::IntoDevice, Op::Unmap, "no driver opens a port before the call returns"),
    (Transition::Grant, Op::Flush, "it waits for itself, to the last level"),
    (Transition::Grant, Op::DeviceBarrier, "no driver opens a port before the call returns"),
    (Transition::IntoContiguous, Op::Unmap, "as above"),
    (Transition::Reuse, Op::DeviceBarrier, "as for IntoCoherent"),
    (Transition::FillWarm, Op::DeviceBarrier, "nobody gets the frame before it is idle again"),
    (Transition::ClosePort, Op::DeviceBarrier, "a barrier needs no mapping"),
    (
        Transition::OpenNewPage,
        Op::Mark(Residue::Dirty),
        "an open page is not recalled, so nobody asks before it is closed",
    ),
    (Transition::OpenPage, Op::Mark(Residue::Dirty), "as above"),
    (Transition::FillReserve, Op::DeviceBarrier, "a barrier needs no mapping"),
    (Transition::FillReserve, Op::Unmap, "nobody gets the frame before it is idle again"),
    (Transition::Take, Op::Break, "as above"),
    (Transition::GiveBack, Op::DeviceBarrier, "a barrier needs no mapping"),
    (Transition::Show, Op::UnmapUsers, "where users have pages the kernel has them mapped, so the next is not due"),
    (Transition::ShowUncached, Op::UnmapUsers, "as above"),
    (Transition::Hide, Op::UnmapUsers, "nobody else claims the frames before the call is over"),
];

const DOCUMENT: &str = include_str!("../../../../docs/src/protocol.md");

/// Prints what was found, which the document must say, line by line.
fn documented(lines: &str) {
    println!("{lines}");
    let lacks: Vec<_> = lines.lines().filter(|line| !DOCUMENT.lines().any(|known| known == *line)).collect();
    assert!(lacks.is_empty(), "docs/src/protocol.md lacks these lines:\n{}", lacks.join("\n"));
}

/// Each op of each row, with its number.
fn ops() -> impl Iterator<Item = (Transition, u8, Op)> {
    let row = |transition: Transition| (0..).zip(transition.row()).map(move |(n, &(_, op))| (transition, n, op));
    Transition::ALL.into_iter().flat_map(row)
}

/// Each step of each op, with its number.
fn steps() -> impl Iterator<Item = (Transition, u8, Op, u8, Step)> {
    let of_op = |(transition, n, op)| (0..).map_while(move |k| Some((transition, n, op, k, step_of(op, k.into())?)));
    ops().flat_map(of_op)
}

#[test]
fn the_table_is_the_documented_one() {
    let due = |&(when, op): &Due| match when {
        When::Always => format!("{op:?}"),
        when => format!("{op:?} if {when:?}"),
    };
    let row = |transition: Transition| {
        let row: Vec<_> = transition.row().iter().map(due).collect();
        format!("| {transition:?} | {} |\n", row.join(", "))
    };
    documented(&Transition::ALL.map(row).concat());
}

#[test]
fn every_interleaving_holds() {
    let mut lines = String::new();
    for judge in [Judge::Invariants, Judge::Careless] {
        for outer in [true, false] {
            let model = Protocol { judge, outer, ..SHIPPED };
            let found = explore(model);
            if let Some(path) = &found.path {
                panic!("{model:?}\n{}", narrate(model, path));
            }
            let caches = if outer { "inner and outer" } else { "inner" };
            let Found { states, transitions, depth, .. } = found;
            writeln!(lines, "| {judge:?} | {caches} | {states} | {transitions} | {depth} |").expect("a string");
        }
    }
    documented(&lines);
}

/// Whether a change of the table goes wrong: by the invariants, or else with a careless driver. Prints the shortest
/// trace to it and, where that is longer, to what a program sees of it.
fn goes_wrong(what: &str, mutation: Mutation) -> bool {
    let print = |judge| {
        let model = Protocol { judge, mutation, ..SHIPPED };
        let path = explore(model).path?;
        let (fault, actions) = (path.last_state().fault?, path.clone().into_actions().len());
        println!("{what}: {judge:?}: {fault:?} after {actions} actions\n{}", narrate(model, &path));
        Some(fault)
    };
    match print(Judge::Invariants) {
        Some(Fault::I1 | Fault::I3Line | Fault::I4) => print(Judge::Consequences).is_some(),
        Some(_) => true,
        None => print(Judge::Careless).is_some(),
    }
}

/// The ledger refuses whoever takes frames that stayed mapped and forgot to evict them.
#[test]
fn a_forgotten_eviction_is_found() {
    let model = Protocol { mutation: Mutation::ForgetEviction, ..SHIPPED };
    let path = explore(model).path.expect("a fault");
    assert_eq!(path.last_state().fault, Some(Fault::Refused), "{}", narrate(model, &path));
}

/// Whole caches are emptied once nothing maps the frames, and dirty lines are written.
#[test]
fn a_wrong_way_to_empty_whole_caches_is_found() {
    assert!(goes_wrong("whole caches emptied before the unmap", Mutation::FlushMapped));
    assert!(goes_wrong("whole caches emptied by DCISW", Mutation::FlushDrops));
}

/// A user's page has the attribute of the kernel's mapping (I1).
#[test]
fn another_attribute_for_users_is_found() {
    let model = Protocol { mutation: Mutation::OtherAttribute, ..SHIPPED };
    let path = explore(model).path.expect("a fault");
    assert_eq!(path.last_state().fault, Some(Fault::I1), "{}", narrate(model, &path));
}

/// The sample in the document.
const SAMPLE: Mutation = Mutation::Drop(Transition::ForDevice, 1, 1);

#[test]
fn every_step_is_necessary() {
    let mut idle = Vec::new();
    let mut count = 0;
    for (transition, n, op, k, step) in steps() {
        count += 1;
        if !goes_wrong(&format!("{transition:?} without {op:?}: {step:?}"), Mutation::Drop(transition, n, k)) {
            idle.push((transition, op, step));
        }
    }
    assert_eq!(idle, IDLE.map(|(transition, op, step, _)| (transition, op, step)), "left out without harm");
    documented(&format!("Of {count} steps, {} go wrong when left out.", count - idle.len()));
    let model = Protocol { mutation: SAMPLE, ..SHIPPED };
    let found = explore(model);
    documented(&narrate(model, &found.path.expect("a trace")));
}

#[test]
fn every_core_and_every_order_is_necessary() {
    let broadcast = |step: &Step| {
        let map = [MapStep::ForgetTable, MapStep::InvalidateTlb];
        let line = [LineStep::Clean(INNER), LineStep::Invalidate(INNER), LineStep::Flush(INNER)];
        matches!(step, Step::Map(step, _) | Step::Users(step) if map.contains(step))
            || matches!(step, Step::Line(step) if line.contains(step))
    };
    let mut local = Vec::new();
    for (transition, n, op, k, step) in steps().filter(|(.., step)| broadcast(step)) {
        let what = format!("{transition:?} with {op:?}: {step:?} on one core");
        if !goes_wrong(&what, Mutation::Local(transition, n, k)) {
            let (Step::Map(step, _) | Step::Users(step)) = step else { panic!("{what}: lines stay elsewhere") };
            local.push((transition, step));
        }
    }
    assert_eq!(local, LOCAL.map(|(transition, step, _)| (transition, step)));

    let mut reversible = Vec::new();
    for (transition, n, op) in
        ops().filter(|(.., op)| matches!(op, Op::Clean | Op::Invalidate | Op::Discard | Op::Flush))
    {
        if !goes_wrong(&format!("{transition:?} with {op:?} reversed"), Mutation::Reverse(transition, n)) {
            reversible.push((transition, op));
        }
    }
    assert_eq!(reversible, REVERSIBLE.map(|(transition, op, _)| (transition, op)));

    let mut commute = Vec::new();
    for (transition, n, op) in ops().filter(|(transition, n, _)| usize::from(*n) + 1 < transition.row().len()) {
        if !goes_wrong(&format!("{transition:?} with {op:?} after the next"), Mutation::Swap(transition, n)) {
            commute.push((transition, op));
        }
    }
    assert_eq!(commute, COMMUTE.map(|(transition, op, _)| (transition, op)));
}
