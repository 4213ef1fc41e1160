//! The solver against all arrangements, on problems that are small enough to try them all.

mod random;

use std::ops::Range;

use carveout_plan::certificate::certificate;
use carveout_plan::check;
use carveout_plan::problem::{FRAME, Problem, Set};
use carveout_plan::solve::{Effort, Packing, plan};
use proptest::prelude::*;
use random::problem;

/// Returns whether a buffer of this set may lie at a frame: written anew, in bytes.
fn may_lie(problem: &Problem, set: &Set, at: u32) -> bool {
    let device = &problem.devices[set.device];
    let window = device.windows[0];
    let (first, bytes) = (u64::from(at * FRAME), u64::from(set.frames() * FRAME));
    let bus = u64::from(window.bus) + first - u64::from(window.phys);
    let last = bus + bytes - 1;
    last <= u64::from(device.mask)
        && bus % u64::from(set.align) == 0
        && device.boundary.is_none_or(|boundary| bus / u64::from(boundary) == last / u64::from(boundary))
}

/// Returns the fewest frames from `base` on that hold all slots, by trying everything.
fn fewest(problem: &Problem, run: &Range<u32>) -> Option<u32> {
    fn place(problem: &Problem, slots: &[usize], n: usize, placed: &mut Vec<(usize, u32)>, run: &Range<u32>) -> bool {
        let Some(&number) = slots.get(n) else { return true };
        let set = &problem.sets[number];
        for at in run.start..=run.end.saturating_sub(set.frames()).max(run.start) {
            let clear = placed.iter().all(|&(other, start)| {
                !problem.together(number, other)
                    || at + set.frames() <= start
                    || start + problem.sets[other].frames() <= at
            });
            if at + set.frames() <= run.end && clear && may_lie(problem, set, at) {
                placed.push((number, at));
                if place(problem, slots, n + 1, placed, run) {
                    return true;
                }
                placed.pop();
            }
        }
        false
    }
    let slots: Vec<usize> =
        (0..problem.sets.len()).flat_map(|set| (0..problem.sets[set].count).map(move |_| set)).collect();
    (1..=run.end - run.start)
        .find(|&frames| place(problem, &slots, 0, &mut Vec::new(), &(run.start..run.start + frames)))
}

fn random() -> impl Strategy<Value = Problem> {
    let device = (
        proptest::option::weighted(0.3, 4_u32..14),
        prop::sample::select(vec![0, 1, 4]),
        proptest::option::weighted(0.3, 2_u32..4),
    );
    let set = (0..2_usize, 0..3_usize, 1..3_u32, 1..5_u32, 0..3_u32);
    let devices = prop::collection::vec(device, 1..3);
    (8..20_u32, devices, prop::collection::vec(any::<bool>(), 3), prop::collection::vec(set, 1..4))
        .prop_map(|(room, devices, exclusive, sets)| problem(room, &devices, &exclusive, &sets))
}

fn certified(problem: &Problem, packings: &[Packing]) -> std::result::Result<usize, String> {
    check::check(problem, &certificate(problem, packings).to_string())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// A plan is the shortest from its base on, it is certified, and where there is none, there is none.
    #[test]
    fn a_plan_is_the_shortest(problem in random()) {
        let Ok(packings) = plan(&problem, Effort::Full) else {
            prop_assert_eq!(fewest(&problem, &problem.free[0]), None);
            return Ok(());
        };
        let packing = &packings[0];
        prop_assert!(packing.proven);
        let run = packing.runs[0].start..problem.free[0].end;
        prop_assert_eq!(fewest(&problem, &run), Some(packing.needed));
        prop_assert!(packing.bound <= packing.needed);
        let slots = packing.slots.iter().map(|slot| slot.1.len()).sum();
        prop_assert_eq!(certified(&problem, &packings), Ok(slots));
    }
}
