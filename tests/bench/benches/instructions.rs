//! Instructions on the host, by callgrind: the trace on each allocator, and single calls on a small and a large index
//! that an adversary fragmented.

use bench_report::{Runs, adversary, fresh, trace};
use carveout::cma::Index;
use gungraun::{library_benchmark, library_benchmark_group, main};
use std::hint::black_box;

#[library_benchmark]
#[bench::carveout(fresh("carveout"))]
#[bench::bitmap_allocator(fresh("bitmap-allocator"))]
#[bench::buddy_system_allocator(fresh("buddy_system_allocator"))]
#[bench::rlsf(fresh("rlsf"))]
fn trace_of_512(mut runs: Box<dyn Runs>) -> u32 {
    black_box(trace(&mut *runs, 512).failed)
}

/// Units of 64 MiB and of 16 GiB.
const SMALL: u32 = 16384;
const LARGE: u32 = 4 << 20;

#[library_benchmark]
#[benches::small(args = [(SMALL, 16, 4), (SMALL, 15, 0), (SMALL, 17, 0), (SMALL, 1, 3)], setup = fragmented)]
#[benches::large(args = [(LARGE, 16, 4), (LARGE, 15, 0), (LARGE, 17, 0), (LARGE, 1, 3)], setup = fragmented)]
fn call((mut index, count, order): (Index<'static>, u32, u8)) -> bool {
    // All of it but the first unit, as a device with a mask has it: no shortcut at the root.
    let got = index.alloc(count, order, 1..u32::MAX);
    // Or the free would undo what the tree was never told.
    index.settle();
    let freed = got.is_some_and(|at| index.free(at, count).is_ok());
    index.settle();
    freed
}

fn fragmented(units: u32, count: u32, order: u8) -> (Index<'static>, u32, u8) {
    (adversary(units), count, order)
}

library_benchmark_group!(name = traces, benchmarks = trace_of_512);
library_benchmark_group!(name = growth, benchmarks = call);
main!(library_benchmark_groups = [traces, growth]);
