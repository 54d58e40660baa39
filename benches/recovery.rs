//! Opening an engine whose log holds a million frames and whose snapshot is missing.
//!
//! ```text
//! cargo bench --bench recovery
//! ```
//!
//! Prints the time, and how much memory it takes beyond that of an engine without a log: the log is read as a stream, so that
//! must not grow with it.

#[path = "support/mod.rs"]
mod support;

use allocdb_node::cluster::layout::Limits;
use allocdb_node::engine::{Engine, EnginePaths};
use allocdb_node::ids::Lsn;
use allocdb_node::storage::OsDisk;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use support::{Mix, forget_peak_memory, peak_memory};

const FRAMES: u64 = 1_000_000;
const RESOURCES: u32 = 1_024;

fn write_log(path: &Path, frames: u64) -> u64 {
    let mut log = BufWriter::new(File::create(path).expect("a new log"));
    let mut mix = Mix::new(RESOURCES);
    let mut bytes = Vec::new();
    let mut length = 0;
    for _ in 0..frames {
        bytes.clear();
        mix.append_frame(&mut bytes);
        log.write_all(&bytes).expect("room for a log");
        length += bytes.len() as u64;
    }
    log.flush().expect("room for a log");
    length
}

fn recover(folder: &Path) -> Engine {
    let paths = EnginePaths { wal: folder.join("state.wal"), snapshot: folder.join("state.snapshot") };
    let config = Mix::config(RESOURCES);
    Engine::recover(Arc::new(OsDisk), paths, config, Limits::STANDARD.engine, &[]).expect("a sound log")
}

/// Bytes of memory that a recovery takes at most.
fn memory_of_recovery(folder: &Path) -> u64 {
    let before = forget_peak_memory();
    drop(recover(folder));
    peak_memory().saturating_sub(before)
}

fn recovery(criterion: &mut Criterion) {
    let [short, long] = [10_000, FRAMES].map(|frames| {
        let folder =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder below the build folder");
        let length = write_log(&folder.path().join("state.wal"), frames);
        println!(
            "a log of {frames} frames, {:.1} MB: recovery takes {:.1} MB of memory",
            length as f64 / 1e6,
            memory_of_recovery(folder.path()) as f64 / 1e6
        );
        folder
    });
    let mut group = criterion.benchmark_group("recovery");
    group.sample_size(10);
    for (folder, frames) in [(&short, 10_000), (&long, FRAMES)] {
        group.throughput(Throughput::Elements(frames));
        group.bench_function(format!("{frames} frames"), |bencher| {
            bencher.iter(|| {
                let engine = recover(folder.path());
                assert_eq!(engine.allocator().last_applied_lsn(), Some(Lsn(frames)));
                // A log of nothing but refusals would be read faster.
                assert!(engine.allocator().operations_used() as u64 >= 1_000);
                engine
            });
        });
    }
    group.finish();
}

criterion_group!(benches, recovery);
criterion_main!(benches);
