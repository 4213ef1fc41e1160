//! The certificate: the places of areas and slots, and the sets that need so much memory, as JSON.
//!
//! Guarantee: it names each set of the use cases once, in their order, with a place for each buffer.

use serde_json::{Value, json};

use crate::problem::{FRAME, Problem};
use crate::solve::Packing;

/// The kind of file, and its form.
pub const KIND: &str = "carveout-plan certificate 1";

/// Returns the certificate of a plan.
pub fn certificate(problem: &Problem, packings: &[Packing]) -> Value {
    let byte = |frame: u32| u64::from(frame) * u64::from(FRAME);
    let areas = packings.iter().map(|packing| {
        let runs: Vec<_> = packing
            .runs
            .iter()
            .map(|run| json!({"base": byte(run.start), "bytes": byte(run.end - run.start)}))
            .collect();
        json!({
            "name": problem.areas[packing.area].name,
            "runs": runs,
            "needs": byte(packing.needed),
            "apart": packing.bound_sets,
        })
    });
    let slots = packings.iter().flat_map(|packing| packing.slots.iter().map(|(set, at)| (*set, packing.area, at)));
    let mut slots: Vec<_> = slots.collect();
    slots.sort_by_key(|slot| slot.0);
    let sets = slots.iter().map(|&(number, area, at)| {
        let set = &problem.sets[number];
        json!({
            "set": set.name,
            "cases": set.cases.iter().map(|&case| problem.cases[case].name.as_str()).collect::<Vec<_>>(),
            "device": problem.devices[set.device].name,
            "area": problem.areas[area].name,
            "bytes": set.bytes,
            "at": at.iter().copied().map(byte).collect::<Vec<_>>(),
        })
    });
    json!({
        "certificate": KIND,
        "areas": areas.collect::<Vec<_>>(),
        "sets": sets.collect::<Vec<_>>(),
    })
}
