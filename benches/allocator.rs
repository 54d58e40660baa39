//! The allocator alone: how long one command takes, with tables of four sizes, all full.
//!
//! ```text
//! cargo bench --bench allocator
//! ```
//!
//! Commands come in runs, as they do where a log is replayed, and for comparison one by one. What is measured is processor
//! time of this thread, so others who use the machine disturb little.

#[path = "support/mod.rs"]
mod support;

use allocdb_node::allocator::{Allocator, Entry, Outcome, ResultCode};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use support::{Mix, processor_time};

/// Commands made before the clock runs, so that making them is not measured. As many as a recovery decodes before it
/// applies them.
const RUN: u64 = 128;

type Apply = fn(&mut Allocator, &[Entry], &mut Vec<Outcome>);

fn in_runs(allocator: &mut Allocator, run: &[Entry], outcomes: &mut Vec<Outcome>) {
    allocator.apply_run(run, outcomes).expect("commands in order");
}

fn one_by_one(allocator: &mut Allocator, run: &[Entry], outcomes: &mut Vec<Outcome>) {
    outcomes.extend(run.iter().map(|entry| allocator.apply(entry).expect("commands in order")));
}

fn apply(criterion: &mut Criterion) {
    let ways: [(&str, Apply); 2] = [("apply", in_runs), ("apply one by one", one_by_one)];
    for (name, apply) in ways {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        for resources in [1_000, 10_000, 100_000, 1_000_000] {
            // Filled only if it is measured.
            let mut filled = None;
            group.bench_function(BenchmarkId::from_parameter(resources), |bencher| {
                let (allocator, mix) = filled.get_or_insert_with(|| Mix::filled(resources));
                bencher.iter_custom(|count| time(allocator, mix, count, apply));
            });
        }
        group.finish();
    }
}

/// Time that applying `count` commands takes.
fn time(allocator: &mut Allocator, mix: &mut Mix, count: u64, apply: Apply) -> Duration {
    let mut took = Duration::ZERO;
    let mut left = count;
    let mut run = Vec::with_capacity(RUN as usize);
    let mut outcomes = Vec::with_capacity(RUN as usize);
    while left > 0 {
        run.clear();
        outcomes.clear();
        run.extend((0..left.min(RUN)).map(|_| mix.next_entry()));
        left -= run.len() as u64;
        let began = processor_time();
        apply(allocator, &run, &mut outcomes);
        took += processor_time() - began;
        let succeeded = outcomes.iter().filter(|outcome| outcome.code == ResultCode::Ok).count();
        assert_eq!(succeeded, run.len(), "every command of the mix succeeds");
    }
    took
}

criterion_group!(benches, apply);
criterion_main!(benches);
