//! What the kernel makes of a plan: its contracts hold in every order of use cases, on the host's fake machine.

mod random;

use carveout::addr::PhysAddr;
use carveout::dma::{Contract, PlacedSet};
use carveout::fake::Fake;
use carveout::setup::{CARVED, CARVED_BYTES, Setup};
use carveout_plan::problem::FRAME;
use carveout_plan::solve::{Effort, plan};
use proptest::prelude::*;
use random::{START, problem};

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// I7: use cases begin and end in any order that the declarations permit. Each gets all its buffers, in any order
    /// of requests.
    #[test]
    fn i7_contracts_of_a_plan_hold_in_every_order(
        sets in prop::collection::vec((Just(0_usize), 0..3_usize, 1..5_u32, 1..64_u32, 0..6_u32), 1..6),
        exclusive in prop::collection::vec(any::<bool>(), 3),
        steps in prop::collection::vec((0..3_usize, any::<bool>()), 1..30),
    ) {
        assert_eq!(START, CARVED.raw() / FRAME);
        let problem = problem(CARVED_BYTES / FRAME, &[(None, 0, None)], &exclusive, &sets);
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
