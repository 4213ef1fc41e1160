//! Counts what allocators refuse of the trace, over its seeds, on the host.
//!
//! Guarantees: all replay the same trace on 16,384 frames of which the first 64 are taken, and align alike. The models
//! of Linux's allocators refuse just what Linux was seen to refuse, for each seed that it was run with.
//!
//! `refusals LINUX.CSV [SEEDS]` prints `bench ALLOCATOR/refused-CAP/SLOTS COUNT...`, a count a seed: with alignment to the
//! size rounded up to a power of two, to CAP at most. `count ALLOCATOR/refused-CAP-first/SLOTS` is that of the first
//! seed. There are 40 seeds by default.

mod machine;

use carveout::cma::{Index, Node};
use carveout::dma::AfterFree;
use machine::Module;
use peers::{
    Buddy, CMA_ALIGNMENT, FRAME, FRAMES, FirstFit, LARGE_PAGE, Runs, SEEDS, Segregated, TAKEN, order, seed, trace,
};
use std::alloc::Layout;
use std::error::Error;
use std::ptr::NonNull;

/// Our index alone.
struct FreeRuns(Index<'static>);

impl Runs for FreeRuns {
    fn alloc(&mut self, count: u32, order: u8) -> Option<usize> {
        self.0.alloc(count, order, 0..u32::MAX).map(|at| at as usize)
    }

    fn free(&mut self, at: usize, count: u32, _: u8) {
        self.0.free(at as u32, count).expect("frames that were allocated");
    }
}

/// Memory for allocators that keep their books in it, aligned as the area is. It is never given back.
fn memory() -> NonNull<u8> {
    let layout = Layout::from_size_align(FRAMES as usize * FRAME, 64 << 20).expect("a layout");
    // SAFETY: the layout is not empty.
    NonNull::new(unsafe { std::alloc::alloc(layout) }).expect("memory")
}

/// The allocators, by name.
const NAMES: [&str; 9] = ["module", "module-idle", "module-warm", "index", "E", "F", "G", "tlsf", "buddy"];

fn fresh(name: &str, memory: NonNull<u8>) -> Box<dyn Runs> {
    let start = TAKEN as usize * FRAME;
    let bytes = FRAMES as usize * FRAME - start;
    // SAFETY: inside the memory.
    let first = unsafe { memory.add(start) };
    match name {
        "module" | "module-idle" | "module-warm" => {
            let after_free = if name == "module-warm" { AfterFree::KeepMapped } else { AfterFree::Unmap };
            let mut module = Module::new(if name == "module" { 0 } else { RESERVE }, after_free);
            // As the others have it, for good.
            module.alloc(TAKEN, 0).expect("it is empty");
            Box::new(module)
        }
        "index" => {
            let nodes = Index::nodes_needed(0, FRAMES).expect("an index that can be");
            let mut index = Index::new(0, FRAMES, vec![Node::EMPTY; nodes].leak()).expect("storage as asked for");
            index.take(0, TAKEN).expect("a fresh index is free");
            Box::new(FreeRuns(index))
        }
        // They differ in what alignment the trace asks of them.
        "E" | "G" => Box::new(FirstFit::new(FRAMES, TAKEN, false)),
        "F" => Box::new(FirstFit::new(FRAMES, TAKEN, true)),
        // SAFETY: one allocator at a time has the memory, and a header fits before `first`.
        "tlsf" => Box::new(unsafe { Segregated::new(first, bytes) }),
        // SAFETY: one allocator at a time has the memory.
        _ => Box::new(unsafe { Buddy::new(first, bytes) }),
    }
}

/// Bytes that idle time keeps zeroed, as the board's bench program has it.
const RESERVE: u64 = 12 << 20;

/// Returns how many allocations of the trace are refused.
fn refused(runs: &mut dyn Runs, seed: u32, slots: u32, cap: u8) -> u32 {
    let mut refused = 0;
    let mut held: Vec<Option<(usize, u32)>> = vec![None; slots as usize];
    let runs = std::cell::RefCell::new(runs);
    trace(
        seed,
        &mut held,
        |count| {
            let given = runs.borrow_mut().alloc(count, order(count, cap));
            refused += u32::from(given.is_none());
            given
        },
        |at, count| runs.borrow_mut().free(at, count, order(count, cap)),
    );
    refused
}

/// The alignment that Linux itself caps at in one of its allocators.
fn own_cap(name: &str) -> u8 {
    if name == "E" { CMA_ALIGNMENT } else { u8::MAX }
}

/// Checks a model of one of Linux's allocators against what was seen: lines `NAME/refused/SLOTS/SEED;COUNT;...`.
fn check(linux: &str, memory: NonNull<u8>) -> Result<u32, Box<dyn Error>> {
    let mut runs = 0;
    for line in linux.lines() {
        let Some((key, seen)) = line.split_once(';') else { continue };
        let [name, "refused", slots, seed] = key.split('/').collect::<Vec<_>>()[..] else { continue };
        let (slots, seed, seen) = (slots.parse()?, seed.parse()?, seen.split(';').next().unwrap_or_default().parse()?);
        let model = refused(&mut *fresh(name, memory), seed, slots, own_cap(name));
        if model != seen {
            return Err(
                format!("Linux {name}, {slots} slots, seed {seed}: {seen} refused, by the model {model}").into()
            );
        }
        runs += 1;
    }
    Ok(runs)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let linux = args.next().ok_or("usage: refusals LINUX.CSV [SEEDS]")?;
    let seeds = args.next().map_or(Ok(SEEDS), |seeds| seeds.parse())?;
    let memory = memory();
    let runs = check(&std::fs::read_to_string(linux)?, memory)?;
    println!("count linux/runs-as-modelled {runs}");
    for (name, cap) in NAMES.into_iter().flat_map(|name| [LARGE_PAGE, CMA_ALIGNMENT].map(|cap| (name, cap))) {
        let (cap, said) = match (name, cap) {
            ("G", LARGE_PAGE) => (u8::MAX, "own"),
            ("F" | "buddy", LARGE_PAGE) => (cap, "own"),
            ("F" | "G" | "buddy" | "module" | "module-idle" | "module-warm", CMA_ALIGNMENT) => continue,
            (_, LARGE_PAGE) => (cap, "64K"),
            _ => (cap, "1M"),
        };
        for slots in [384, 448, 512] {
            let counts = (0..seeds).map(|n| refused(&mut *fresh(name, memory), seed(n), slots, cap).to_string());
            let counts: Vec<String> = counts.collect();
            println!("bench {name}/refused-{said}/{slots} {}", counts.join(" "));
            println!("count {name}/refused-{said}-first/{slots} {}", counts[0]);
        }
    }
    Ok(())
}
