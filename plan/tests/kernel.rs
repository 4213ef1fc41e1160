//! What the kernel makes of a plan: its contracts hold in every order of use cases, on the host's fake machine.

use carveout::addr::PhysAddr;
use carveout::dma::{Contract, PlacedSet};
use carveout::fake::Fake;
use carveout::setup::{CARVED, CARVED_BYTES, Setup};
use carveout_plan::errors::Source;
use carveout_plan::problem::{AreaWish, Device, Direction, FRAME, Problem, Set, UseCase, Window};
use carveout_plan::solve::{Effort, plan};
use proptest::prelude::*;

fn problem(sets: &[(usize, u32, u32, u32)], exclusive: &[bool]) -> Problem {
    let start = CARVED.raw() / FRAME;
    let apart = |a: usize, b: usize| a != b && exclusive[a + b - 1];
    Problem {
        source: Source::new("random.toml", " "),
        kernel: 1 << 20,
        free: std::iter::once(start..start + CARVED_BYTES / FRAME).collect(),
        areas: vec![AreaWish { name: "test".to_owned(), lendable: true, fixed: None, within: 0..1 << 20, span: 0..1 }],
        devices: vec![Device {
            name: "device".to_owned(),
            node: None,
            area: 0,
            mask: u32::MAX,
            windows: vec![Window::IDENTITY],
            boundary: None,
            span: 0..1,
        }],
        cases: (0..3)
            .map(|a| UseCase { name: format!("case-{a}"), excludes: (0..3).map(|b| apart(a, b)).collect() })
            .collect(),
        sets: sets
            .iter()
            .map(|&(case, count, frames, order)| Set {
                name: "set".to_owned(),
                device: 0,
                cases: vec![case],
                count,
                bytes: frames * FRAME,
                align: FRAME << order,
                direction: Direction::Both,
                span: 0..1,
            })
            .collect(),
        loans: Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// I7: use cases begin and end in any order that the declarations permit. Each gets all its buffers, in any order
    /// of requests.
    #[test]
    fn i7_contracts_of_a_plan_hold_in_every_order(
        sets in prop::collection::vec((0..3_usize, 1..5_u32, 1..64_u32, 0..6_u32), 1..6),
        exclusive in prop::collection::vec(any::<bool>(), 3),
        steps in prop::collection::vec((0..3_usize, any::<bool>()), 1..30),
    ) {
        let problem = problem(&sets, &exclusive);
        let Ok(packings) = plan(&problem, Effort::Quick) else { return Ok(()) };
        let setup = Setup::new(1);
        let master = setup.master("device");
        let mut running: [Vec<(usize, Contract<Fake>)>; 3] = Default::default();
        for (case, backwards) in steps {
            if !running[case].is_empty() {
                running[case].clear();
                continue;
            }
            if (0..3).any(|other| problem.cases[case].excludes[other] && !running[other].is_empty()) {
                continue;
            }
            for (number, at) in packings[0].slots.iter().filter(|slot| problem.sets[slot.0].cases[0] == case) {
                let set = &problem.sets[*number];
                let at: Vec<PhysAddr> = at.iter().map(|&frame| PhysAddr::new(frame * FRAME)).collect();
                let placed = [PlacedSet { bytes: set.bytes, align: set.align, at: &at }];
                let contract = setup.dma.contract_at(&master, &placed);
                prop_assert!(contract.is_ok(), "{:?}", contract.err());
                running[case].extend(contract.map(|contract| (*number, contract)));
            }
            let mut all: Vec<_> = running.iter().flatten().collect();
            if backwards {
                all.reverse();
            }
            let mut held = Vec::new();
            for (number, contract) in all {
                let set = &problem.sets[*number];
                for _ in 0..set.count {
                    held.push(contract.alloc(set.bytes, set.align).map_err(|error| TestCaseError::fail(error.to_string()))?);
                }
            }
        }
    }
}
