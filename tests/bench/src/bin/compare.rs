//! Prints how the index and other allocators fare on the trace, as a table in Markdown: refusals, and what the
//! harnesses wrote of it.
//!
//! `compare INSTRUCTIONS TIME` reads the output of the benches of those names.

use bench_report::{NAMES, fresh, trace};
use std::error::Error;

/// The first figures behind `label` below the line that names the allocator.
fn figure<'t>(text: &'t str, heading: &str, label: &str) -> Option<&'t str> {
    let below = &text[text.find(heading)?..];
    let behind = &below[below.find(label)? + label.len()..];
    Some(behind.trim_start().split(['|', '\n', ']']).next()?.trim())
}

fn main() -> Result<(), Box<dyn Error>> {
    let [instructions, time] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "usage: compare INSTRUCTIONS TIME")?;
    let (instructions, time) = (std::fs::read_to_string(instructions)?, std::fs::read_to_string(time)?);
    println!(
        "| allocator | 384 slots: failed | 448 | 512 | free when refused, 512 | instructions, 512 | time: low, middle, high |"
    );
    println!("|---|---|---|---|---|---|---|");
    for name in NAMES {
        let outcomes = [384, 448, 512].map(|slots| trace(&mut *fresh(name), slots));
        let failed = outcomes.map(|outcome| format!("{} of {}", outcome.failed, outcome.tried));
        let free = outcomes[2].free_at_failure;
        let counted = figure(&instructions, &format!(" {}:", name.replace('-', "_")), "Instructions:");
        let taken = figure(&time, &format!("trace of 512 slots/{name}"), "time:");
        let (counted, taken) = (counted.ok_or("no count of its instructions")?, taken.ok_or("no time of it")?);
        println!(
            "| {name} | {} | {}.{} % | {counted} | {} |",
            failed.join(" | "),
            free / 10,
            free % 10,
            taken.trim_start_matches('[')
        );
    }
    Ok(())
}
