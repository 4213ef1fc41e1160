//! The plan as Rust: a table that a kernel is built with, and makes its contracts by.
//!
//! Guarantee: the table says what the certificate says. Its words tell who reads them what to do.

use std::fmt::Write as _;

use crate::board::bytes_of;
use crate::problem::{FRAME, Problem, Set, address, frames};
use crate::solve::Packing;

/// Returns the table, as a file of Rust for `carveout::dma::Plan`.
pub fn table(problem: &Problem, packings: &[Packing]) -> String {
    let mut out = String::new();
    let file = problem.source.name.rsplit('/').next().unwrap_or_default();
    let _ = writeln!(out, "// Written by carveout-plan from {file}. Do not edit: run it again.");
    out.push_str(
        "\nuse carveout::addr::PhysAddr;\nuse carveout::dma::{PlacedSet, Plan, PlannedArea, PlannedContract};\n",
    );
    let contracts = contracts(problem, packings);
    let _ = write!(
        out,
        "\n/// Areas and contracts of {file}.\npub(crate) const PLAN: Plan = Plan {{ areas: &AREAS, contracts: &CONTRACTS }};\n"
    );
    let _ = write!(out, "\nconst AREAS: [PlannedArea; {}] = [\n", packings.len());
    for packing in packings {
        let name = &problem.areas[packing.area].name;
        let runs: Vec<String> = packing
            .runs
            .iter()
            .map(|run| format!("(PhysAddr::new({}), {:#x})", address(run.start), bytes_of(run).1))
            .collect();
        let place = packing.runs.first().map_or(0, |run| run.start);
        let size = packing.runs.iter().map(|run| run.end - run.start).sum();
        let words = format!(
            "area {name} was planned at {}, {}: run carveout-plan on this tree and {file}",
            address(place),
            frames(size)
        );
        let _ = writeln!(
            out,
            "    PlannedArea {{\n        name: {name:?},\n        runs: &[{}],\n        words: {words:?},\n    }},",
            runs.join(", ")
        );
    }
    let _ = write!(out, "];\n\nconst CONTRACTS: [PlannedContract; {}] = [\n", contracts.len());
    for contract in contracts {
        let first = &problem.sets[contract[0].0];
        let device = &problem.devices[first.device];
        let cases: Vec<String> = first.cases.iter().map(|&case| format!("{:?}", problem.cases[case].name)).collect();
        let _ = writeln!(
            out,
            "    PlannedContract {{\n        cases: &[{}],\n        device: {:?},\n        area: {:?},\n        sets: &[",
            cases.join(", "),
            device.name,
            problem.areas[device.area].name
        );
        for (number, at) in contract {
            let set = &problem.sets[number];
            let _ = writeln!(out, "            // {}", set.name);
            let _ = writeln!(
                out,
                "            PlacedSet {{\n                bytes: {},\n                align: {},\n                at: &[",
                set.bytes, set.align
            );
            for &start in at {
                let _ =
                    writeln!(out, "                    PhysAddr::new({:#010x}),", u64::from(start) * u64::from(FRAME));
            }
            out.push_str("                ],\n            },\n");
        }
        out.push_str("        ],\n    },\n");
    }
    out.push_str("];\n");
    out
}

/// Returns the contracts: the sets that one device has in the same use cases.
fn contracts<'a>(problem: &Problem, packings: &'a [Packing]) -> Vec<Vec<(usize, &'a [u32])>> {
    let mut all: Vec<_> = packings.iter().flat_map(|packing| &packing.slots).map(|(set, at)| (*set, &at[..])).collect();
    all.sort_by_key(|slot| slot.0);
    let mut contracts: Vec<Vec<(usize, &[u32])>> = Vec::new();
    let key = |set: &Set| (set.device, set.cases.clone());
    for slot in all {
        let same =
            |contract: &&mut Vec<(usize, &[u32])>| key(&problem.sets[contract[0].0]) == key(&problem.sets[slot.0]);
        match contracts.iter_mut().find(same) {
            Some(contract) => contract.push(slot),
            None => contracts.push(vec![slot]),
        }
    }
    contracts
}
