//! Prints how the index and other allocators fare on the trace, as a table in Markdown.

use bench_report::{NAMES, fresh, trace};

fn main() {
    println!("| allocator | 384 slots: failed | 448 | 512 | free when refused, 512 |");
    println!("|---|---|---|---|---|");
    for name in NAMES {
        let outcomes = [384, 448, 512].map(|slots| trace(&mut *fresh(name), slots));
        let failed = outcomes.map(|outcome| format!("{} of {}", outcome.failed, outcome.tried));
        let free = outcomes[2].free_at_failure;
        println!("| {name} | {} | {}.{} % |", failed.join(" | "), free / 10, free % 10);
    }
}
