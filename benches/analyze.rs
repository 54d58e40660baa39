//! Judging long histories: `allocdb-jepsen analyze` on a million events and on ten, reading included.
//!
//! ```text
//! cargo bench --bench analyze
//! cargo bench --bench analyze -- 1000000
//! ```
//!
//! The histories are those of the example `generate_history`: leases of a thousand resources over and over, every operation id
//! distinct. Prints time, events a second and peak memory of the whole process. The files are written just before, so they are
//! read from the page cache.

#[allow(dead_code, reason = "its command line is not used here")]
#[path = "../examples/generate_history.rs"]
mod generate_history;
#[path = "support/mod.rs"]
mod support;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 3;

fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder below the build folder");
    let wanted: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let wanted = if wanted.is_empty() { vec![1_000_000, 10_000_000] } else { wanted };
    for events in wanted {
        let path = folder.path().join("history.txt");
        let file = File::create(&path).expect("a new file");
        generate_history::generate(file, events, 1).expect("room for a history");
        let length = path.metadata().expect("a file").len();
        for _ in 0..RUNS {
            let (took, memory) = judge(&path);
            println!(
                "{events:>10} events, {:7.1} MB: {:6.2} s, {:4.2} million events a second, peak memory {:6.1} MB, {:2.0} % of the file",
                length as f64 / 1e6,
                took.as_secs_f64(),
                events as f64 / took.as_secs_f64() / 1e6,
                memory as f64 / 1e6,
                memory as f64 / length as f64 * 100.0
            );
        }
    }
}

/// How long the whole process took, and its peak memory.
fn judge(history: &Path) -> (Duration, u64) {
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_allocdb-jepsen"))
        .args(["analyze", "--history-file"])
        .arg(history)
        .stdout(Stdio::null())
        .spawn()
        .expect("a process");
    let pid = child.id().to_string();
    let mut memory = 0;
    loop {
        // It never falls, and is read for the last time shortly before the end.
        memory = support::peak_memory_of(&pid).unwrap_or(0).max(memory);
        if let Some(status) = child.try_wait().expect("a child") {
            assert!(status.success(), "there is nothing wrong with the history");
            return (began.elapsed(), memory);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
