//! Traces of the allocator and the engine: every step must come out as recorded. Replaying them is shared with the tool
//! that replays single traces; here is only which files there are.

use std::path::Path;

use anyhow::Result;

use super::Bench;
use super::recorded::{case_names, read_text};
use super::semantics::replay;
use super::tally::Tally;

const TRACE: &str = ".txt";

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    let mut steps = 0;
    for name in case_names(folder, TRACE)? {
        bench.program.check()?;
        let file = format!("{name}{TRACE}");
        tally.case(&file, || {
            Ok(match replay(&read_text(&folder.join(&file))?, &bench.program.interrupted) {
                Ok(replayed) => {
                    steps += replayed;
                    vec![]
                }
                Err(failure) => vec![failure.to_string()],
            })
        });
    }
    tally.counts(format!("{steps} steps replayed"));
    Ok(())
}
