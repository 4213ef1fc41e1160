//! Time on the host: the trace on each allocator.

use bench_report::{NAMES, fresh, trace};
use criterion::{Criterion, criterion_group, criterion_main};

fn traces(criterion: &mut Criterion) {
    for name in NAMES {
        // The trace ends with all free, as it began: of fresh memory rlsf, whose headers are in it, would count page
        // faults.
        let mut runs = fresh(name);
        criterion.bench_function(&format!("trace of 512 slots/{name}"), |bencher| {
            bencher.iter(|| trace(&mut *runs, 512));
        });
    }
}

criterion_group!(benches, traces);
criterion_main!(benches);
