//! The allocator alone: how long one command takes, with tables of three sizes, all full.
//!
//! ```text
//! cargo bench --bench allocator
//! ```
//!
//! What is measured is processor time of this thread, so others who use the machine disturb little. What it costs should not depend on the size of the tables, beyond what leaves the processor's caches.

#[path = "support/mod.rs"]
mod support;

use allocdb_node::allocator::ResultCode;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use support::{Mix, processor_time};

/// Commands made before the clock runs, so that making them is not measured. Few enough to stay in the processor's
/// nearest caches, as commands do that have just been read.
const BLOCK: u64 = 1_024;

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(1));
    for resources in [1_000, 10_000, 100_000, 1_000_000] {
        let (mut allocator, mut mix) = Mix::filled(resources);
        group.bench_function(BenchmarkId::from_parameter(resources), |bencher| {
            bencher.iter_custom(|count| {
                let mut took = Duration::ZERO;
                let mut left = count;
                let mut block = Vec::with_capacity(BLOCK as usize);
                while left > 0 {
                    block.clear();
                    block.extend((0..left.min(BLOCK)).map(|_| mix.next_command()));
                    left -= block.len() as u64;
                    let mut succeeded = 0;
                    let began = processor_time();
                    for (lsn, slot, command) in &block {
                        let outcome =
                            allocator.apply_client(*lsn, *slot, command).expect("commands in order");
                        succeeded += usize::from(outcome.code == ResultCode::Ok);
                    }
                    took += processor_time() - began;
                    assert_eq!(succeeded, block.len(), "every command of the mix succeeds");
                }
                took
            });
        });
    }
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
