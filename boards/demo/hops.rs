//! The demo's table: what each hop of the picture cost.

use crate::kernel::{cores, flush};
use crate::println;
use alloc::format;
use carveout::addr::Bytes;
use carveout::dma::{Dma, Effort};
use carveout::machine::Lines;
use carveout_armv7a::mmu::Armv7a;
use core::fmt;

/// A line of the table.
pub(super) struct Hop {
    device: &'static str,
    buffer: &'static str,
    bytes: usize,
    effort: Effort,
    mock_lines: u64,
}

impl Hop {
    pub(super) const fn new(
        device: &'static str,
        buffer: &'static str,
        bytes: usize,
        effort: Effort,
        mock_lines: u64,
    ) -> Self {
        Self { device, buffer, bytes, effort, mock_lines }
    }
}

/// Prints the table, and the cost of all buffers since boot.
pub(super) fn print_table(dma: &Dma<Armv7a>, hops: &[Hop]) {
    println!(
        "{:<11} {:<11} {:>9} {:>7} {:>5} {:>15} {:>15} {:>12}",
        "device", "buffer", "bytes", "states", "maps", "lines cleaned", "invalidated", "mock's lines"
    );
    for hop in hops {
        let Effort { transitions, map_changes, cleaned, invalidated } = hop.effort;
        println!(
            "{:<11} {:<11} {:>9} {:>7} {:>5} {:>15} {:>15} {:>12}",
            hop.device,
            hop.buffer,
            hop.bytes,
            transitions,
            map_changes,
            ByLevel(cleaned),
            ByLevel(invalidated),
            hop.mock_lines
        );
    }
    let stats = dma.stats();
    println!(
        "in all: {} buffers, {} zeroed, {} map changes, {} lines cleaned, {} invalidated, {} in quarantine",
        stats.allocations,
        Bytes(stats.zeroed),
        stats.map_changes,
        ByLevel(stats.cleaned),
        ByLevel(stats.invalidated),
        Bytes(stats.quarantined)
    );
    if stats.flushes > 0 {
        println!("caches emptied: {} times", stats.flushes);
    }
    for core in cores::online() {
        let (times, nanos) = flush::answered(core);
        if times > 0 {
            println!("for others: {core} emptied its caches {times} times, in {} us", nanos / 1000);
        }
    }
    if !dma.is_guarded() {
        println!("guards given up: {} buffers got addresses right beside another's", stats.unguarded);
    }
}

/// Shows the lines of the inner and of the outer cache.
struct ByLevel(Lines);

impl fmt::Display for ByLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}+{}", self.0.inner, self.0.outer))
    }
}
