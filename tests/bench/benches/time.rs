//! Time on the host: the trace on each allocator.

use bench_report::{NAMES, fresh, trace};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

fn traces(criterion: &mut Criterion) {
    for name in NAMES {
        criterion.bench_function(&format!("trace of 512 slots/{name}"), |bencher| {
            bencher.iter_batched(|| fresh(name), |mut runs| trace(&mut *runs, 512), BatchSize::PerIteration);
        });
    }
}

criterion_group!(benches, traces);
criterion_main!(benches);
