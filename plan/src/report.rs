//! What a plan says, for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::certificate::certificate;
use crate::cost::{Recall, ToLend, needs, recall, refuge, to_lend};
use crate::nodes::{argument, new_areas, source};
use crate::problem::{FRAME, Problem, address, bytes, frames};
use crate::solve::Packing;

fn cases(problem: &Problem, cases: &[usize]) -> String {
    let names: Vec<&str> = cases.iter().map(|&case| problem.cases[case].name.as_str()).collect();
    names.join(" + ")
}

fn size(packing: &Packing) -> u32 {
    packing.runs.iter().map(|run| run.end - run.start).sum()
}

/// Returns how good an area is, in words.
fn verdict(packing: &Packing) -> String {
    if packing.proven {
        "no smaller area serves".to_owned()
    } else {
        let gap = f64::from(packing.needed - packing.bound) / f64::from(packing.bound.max(1)) * 100.0;
        format!("at least {} are needed: a gap of {gap:.1} %", frames(packing.bound))
    }
}

/// Returns the plan for people to read.
pub fn text(problem: &Problem, packings: &[Packing]) -> String {
    let mut out = String::new();
    for packing in packings {
        area(&mut out, problem, packing);
    }
    let needs = needs(problem, packings);
    let _ = writeln!(
        out,
        "books: {} of heap in {} blocks, by 64-bit pointers; window: {} MiB of addresses ({} MiB at least), {} of tables",
        bytes(needs.heap_bytes as u64),
        needs.heap_blocks,
        needs.sections,
        needs.least_sections,
        bytes(needs.table_bytes().into())
    );
    let new = new_areas(problem, packings);
    let nodes = source(&new);
    if !nodes.is_empty() {
        let _ = write!(out, "\ninto the board's tree:\n\n{nodes}");
    }
    if let Some(argument) = argument(&new) {
        let _ = writeln!(out, "\ninto the boot arguments: {argument}");
    }
    out
}

fn area(out: &mut String, problem: &Problem, packing: &Packing) {
    let wish = &problem.areas[packing.area];
    let runs: Vec<String> =
        packing.runs.iter().map(|run| format!("{}-{}", address(run.start), address(run.end))).collect();
    let _ = writeln!(
        out,
        "area {}: {} at {}, {}",
        wish.name,
        frames(size(packing)),
        runs.join(" and "),
        if wish.lendable { "reusable" } else { "no-map" }
    );
    if wish.fixed.is_some() {
        let _ = writeln!(out, "    the place is the tree's; {} of it are needed", frames(packing.needed));
    }
    let _ = writeln!(out, "    all buffers together: {}; {}", frames(packing.sum), verdict(packing));
    if packing.sum > packing.needed {
        let _ = writeln!(out, "    use cases share it: only the contracts of this plan may allocate here");
    }
    for (number, at) in &packing.slots {
        let set = &problem.sets[*number];
        let device = &problem.devices[set.device];
        let _ = writeln!(
            out,
            "    {} x {} for {}, {} ({})",
            set.count,
            frames(set.frames()),
            device.name,
            set.name,
            cases(problem, &set.cases)
        );
        for line in places(at, set.frames()) {
            let _ = writeln!(out, "        {line}");
        }
    }
    if let Some(ToLend { least: (least, running), most }) = to_lend(problem, packing) {
        let _ = writeln!(
            out,
            "    to lend: {} with {}, {} with nothing running",
            frames(least),
            cases(problem, &running),
            frames(most)
        );
        for loan in problem.loans.iter().filter(|loan| loan.area == packing.area) {
            let kind = if loan.movable { "movable" } else { "discardable" };
            let always = loan.pages.min(least);
            let _ = writeln!(
                out,
                "    a {kind} loan of {}: {} of it always, {} with nothing running",
                frames(loan.pages),
                frames(always),
                frames(loan.pages.min(most))
            );
        }
    }
    if let Some(Recall { frames: pages, moved, instructions }) = recall(problem, packing) {
        let _ = writeln!(
            out,
            "    dearest recall: {instructions} instructions for {}, {moved} of its pages moved",
            frames(pages)
        );
    }
    let refuge = refuge(problem, packing);
    if refuge > 0 {
        let _ = writeln!(out, "    refuge of its movable loans, in ordinary memory: {}", frames(refuge));
    }
    out.push('\n');
}

/// Returns slots as lines: those that touch are one run.
fn places(at: &[u32], each: u32) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = at;
    while let Some(&first) = rest.first() {
        let touching = (0..rest.len() as u32).take_while(|&n| rest[n as usize] == first + n * each).count();
        let end = first + touching as u32 * each;
        let times = if touching > 1 { format!(", {touching} side by side") } else { String::new() };
        lines.push(format!("{}-{}{times}", address(first), address(end)));
        rest = &rest[touching..];
    }
    lines
}

/// Returns the plan for programs to read, with the certificate.
pub fn json(problem: &Problem, packings: &[Packing]) -> Value {
    let byte = |frame: u32| u64::from(frame) * u64::from(FRAME);
    let new = new_areas(problem, packings);
    let areas = packings.iter().map(|packing| {
        let lend = to_lend(problem, packing);
        let name = |cases: &[usize]| cases.iter().map(|&case| problem.cases[case].name.clone()).collect::<Vec<_>>();
        json!({
            "name": problem.areas[packing.area].name,
            "bytes": byte(size(packing)),
            "needed": byte(packing.needed),
            "lower_bound": byte(packing.bound),
            "sum_of_buffers": byte(packing.sum),
            "proven": packing.proven,
            "least_to_lend": lend.as_ref().map(|lend| byte(lend.least.0)),
            "least_while": lend.as_ref().map(|lend| name(&lend.least.1)),
            "most_to_lend": lend.as_ref().map(|lend| byte(lend.most)),
            "dearest_recall_instructions": recall(problem, packing).map(|recall| recall.instructions),
            "refuge": byte(refuge(problem, packing)),
        })
    });
    let needs = needs(problem, packings);
    json!({
        "areas": areas.collect::<Vec<_>>(),
        "heap_bytes": needs.heap_bytes,
        "heap_blocks": needs.heap_blocks,
        "window_mib": needs.sections,
        "window_mib_at_least": needs.least_sections,
        "table_bytes": needs.table_bytes(),
        "nodes": source(&new),
        "argument": argument(&new),
        "certificate": certificate(problem, packings),
    })
}
