//! Histories with the judgement that was passed on them: `analyze` must print the same bytes and end with the same status.
//!
//! What stands on standard error is for people and may say more than was recorded; the recorded sentence must be in it in
//! one piece.

use std::path::Path;

use anyhow::Result;

use super::Bench;
use super::program::{Answer, Call, SHORT};
use super::recorded::{case_names, read, recorded_status, sentence};
use super::tally::{Problems, Tally, differing, differing_text, shown};

const INPUT: &str = ".history.txt";

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    for name in case_names(folder, INPUT)? {
        bench.program.check()?;
        tally.case(&name, || compare_case(bench, folder, &name));
    }
    Ok(())
}

fn compare_case(bench: &Bench, folder: &Path, name: &str) -> Result<Problems> {
    let answer = bench.program.call(Call {
        arguments: vec!["analyze".into(), "--history-file".into(), format!("{name}{INPUT}").into()],
        folder,
        environment: vec![],
        limit: SHORT,
    })?;
    let recorded = |ending: &str| read(&folder.join(format!("{name}{ending}")));
    let status = Some(recorded_status(&recorded(".exit")?)?);
    let stdout = recorded(".stdout")?;
    let mut problems = Problems::new();
    problems.extend(differing("status", &status, &answer.status));
    problems.extend(differing_text("stdout", &stdout, &answer.stdout));
    problems.extend(differing_complaint(&recorded(".stderr")?, &answer));
    Ok(problems)
}

/// The recorded sentence must be in what was said; nothing may be said where nothing was.
fn differing_complaint(recorded: &[u8], answer: &Answer) -> Option<String> {
    let wanted = sentence(recorded);
    let found = &answer.stderr;
    let agrees = if wanted.is_empty() {
        found.is_empty()
    } else {
        found.windows(wanted.len()).any(|piece| piece == wanted)
    };
    (!agrees).then(|| format!("stderr: expected {} in it, found {}", shown(wanted), shown(found)))
}
