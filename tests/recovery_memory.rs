//! Opening an engine takes memory by its configuration, not by its log. A file of its own, because what is measured is the
//! memory of the whole process.

#[path = "../benches/support/mod.rs"]
mod support;

use allocdb_node::cluster::layout::Limits;
use allocdb_node::engine::{Engine, EnginePaths};
use allocdb_node::ids::Lsn;
use allocdb_node::storage::OsDisk;
use std::sync::Arc;
use support::{Mix, forget_peak_memory, peak_memory};

const RESOURCES: u32 = 1_000;
const MIB: u64 = 1024 * 1024;

#[test]
fn p5_recovery_reads_the_log_as_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let paths =
        EnginePaths { wal: folder.path().join("state.wal"), snapshot: folder.path().join("state.snapshot") };
    let (mut mix, mut log) = (Mix::new(RESOURCES), Vec::new());
    let frames = 300_000;
    for _ in 0..frames {
        mix.append_frame(&mut log);
    }
    std::fs::write(&paths.wal, &log).unwrap();
    let length = log.len() as u64;
    assert!(length > 24 * MIB, "{length} bytes");
    // What held the log is used again before anything new is, so it has to be counted as in use.
    let held = log;
    let before = forget_peak_memory();
    let config = Mix::config(RESOURCES);
    let engine = Engine::recover(Arc::new(OsDisk), paths, config, Limits::STANDARD.engine, &[]).unwrap();
    let taken = peak_memory() - before;
    assert_eq!(engine.allocator().last_applied_lsn(), Some(Lsn(frames)));
    assert!(taken < 8 * MIB, "{taken} bytes for a log of {length}");
    drop(held);
}
