//! Records a run of the demo, and looks at the trace that is made of it.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::{Check, Job, Kit, Verdict, wrong};
use crate::build::Kind;
use crate::failure::{Context, Result};
use crate::trace;

/// What happens on the cores in the demo.
const KINDS: [&str; 7] = ["alloc", "free", "hold", "map", "unmap", "zero", "invalidate"];
/// The devices that have buffers meanwhile.
const DEVICES: [&str; 3] = ["camera", "codec", "virtio-blk"];

pub(super) fn checks(kit: &'static Kit) -> Vec<Check> {
    vec![
        Check::new("record: the demo's trace", move |job| {
            let wrong = recorded(kit, job)?;
            job.judged(&wrong)
        }),
        Check::new("record: what an event costs", move |job| cost(kit, job)),
    ]
}

/// Counts the instructions of an event.
fn cost(kit: &Kit, job: &mut Job) -> Result<Verdict> {
    let elf = kit.toolchain.on_target_with(Kind::Bin, "event_cost", &["events"])?;
    let (exit, output) = job.output(kit.xtask("boot").arg("--count").arg(elf))?;
    let lines = ["event_cost: * events kept: *", "event_cost: * events counted: *", "event_cost: ok"];
    job.judged(&wrong(exit, &output, 0, &lines.map(str::to_owned)))
}

fn recorded(kit: &Kit, job: &mut Job) -> Result<Vec<String>> {
    let file = job.folder().join("trace.json");
    job.run(kit.xtask("boot").arg("--record").arg(&file))?;
    let text = fs::read_to_string(&file).doing(file.display())?;
    let trace: Value = serde_json::from_str(&text).doing(file.display())?;
    let mut wrong = trace::faults(&trace);
    wrong.truncate(10);
    let events = trace["traceEvents"].as_array().map_or(&[][..], Vec::as_slice);
    let of = |phase: &str| -> BTreeSet<&str> {
        events.iter().filter(|event| event["ph"] == phase).filter_map(|event| event["name"].as_str()).collect()
    };
    let (kinds, spans) = (of("i"), of("b"));
    wrong.extend(KINDS.iter().filter(|kind| !kinds.contains(*kind)).map(|kind| format!("no event is called {kind}")));
    wrong.extend(DEVICES.iter().filter(|name| !spans.contains(*name)).map(|name| format!("{name} has no buffer")));
    if of("C").is_empty() {
        wrong.push("no area has a counter".to_owned());
    }
    Ok(wrong)
}
