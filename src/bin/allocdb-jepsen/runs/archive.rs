//! The `archive-*` subcommands: a history that was recorded earlier is judged and archived as that of a run is.

use super::super::args::{Archive, Format};
use super::super::common::{now_millis, print};
use super::super::harness_log;
use super::super::interrupt::Interrupt;
use super::super::sink::{Logs, OutputRoot, create_output_root};
use super::super::surface::{fail_if_blocked, judge_file, open_history, told};
use super::super::testbed::{Contact, Open};
use super::super::tracker::RunFiles;
use super::{find_run, objection, origin, programs};
use allocdb_node::jepsen::analysis::{Analyzer, Report};
use allocdb_node::jepsen::answers;
use allocdb_node::jepsen::artifacts::Bundle;
use allocdb_node::jepsen::evidence::Evidence;
use allocdb_node::jepsen::history::{HistoryReader, HistoryWriter};
use allocdb_node::jepsen::opinion::{Listener, Opinion, second_opinion};
use anyhow::{Result, anyhow};
use std::io;
use std::path::{Path, PathBuf};

/// What was archived, and what the history in it comes to.
#[derive(Debug)]
struct Archived {
    backend: &'static str,
    run_id: &'static str,
    bundle: PathBuf,
    logs: Logs,
    report: Report,
    opinion: Opinion,
}

/// Judges a history that was recorded earlier, archives it with the testbed's logs, and says where.
pub(crate) fn run(wanted: Archive, open: &Open<'_>, interrupt: &Interrupt) -> Result<()> {
    let (demands, format, history_file) = (wanted.demands, wanted.format, wanted.history_file.clone());
    let command = wanted.testbed.archive_command();
    let archived = told(command, format, archive(wanted, open, interrupt))?;
    let Archived { backend, run_id, bundle, logs, report, opinion } = archived;
    let dissent = opinion.dissent(report.passed());
    if let Some(dissent) = &dissent {
        // What archiving prints is fixed for every history there is.
        log::warn!("{dissent}");
    }
    match format {
        Format::Text => {
            print(&format!(
                "artifact_bundle={}\n{backend}_logs_archive={}\n",
                bundle.display(),
                logs.shown()
            ))?;
        }
        Format::Json => {
            let files = answers::RunFiles {
                run_id,
                history_file: history_file.display().to_string(),
                artifact_bundle: bundle.display().to_string(),
                logs_archive: logs.archive.as_ref().map(|archive| archive.display().to_string()),
                dissent: dissent.as_deref(),
            };
            print(&answers::run(command, &files, &report))?;
        }
    }
    fail_if_blocked(&report)?;
    objection(demands, &opinion, &report).map_or(Ok(()), |objection| Err(anyhow!(objection)))
}

fn archive(wanted: Archive, open: &Open<'_>, interrupt: &Interrupt) -> Result<Archived> {
    let Archive { testbed, run_id, history_file, output_root, .. } = wanted;
    let (history_file, output_root) = (&*history_file, &*output_root);
    let mut testbed = open(testbed, Contact::AtBeginning, interrupt)?;
    let run = find_run(&run_id)?;
    origin::check(history_file, run)?;
    let report = judge_file(history_file)?;
    let opinion = open_history(history_file)
        .and_then(second_opinion)
        .map_err(|error| anyhow!("failed to load history: {error}; in {}", history_file.display()))?;
    create_output_root(output_root)?;
    let root = OutputRoot::take(output_root, &format!("archive of {}", run.id))?;
    let files = RunFiles::new(output_root, run.id.as_str());
    testbed.begin(output_root, run)?;
    let logs = root.keep_logs(&*testbed, &files, interrupt)?;
    for missing in &logs.missing {
        harness_log::tell(&format!("missing in the bundle: {missing}"));
    }
    let bundle = Bundle {
        run,
        created_at_millis: u128::from(now_millis()),
        history: &mut |out| copy_history(history_file, (&report, &opinion), out),
        report: &report,
        logs_archive: logs.archive.as_deref(),
        evidence: Evidence {
            harness: programs::own(),
            logs: Some(logs.evidence()),
            second_opinion: Some((&opinion).into()),
            ..Evidence::of_unknown_run(testbed.backend(), run)
        },
    };
    let bundle = root.keep_bundle(bundle)?;
    Ok(Archived { backend: testbed.backend(), run_id: run.id.as_str(), bundle, logs, report, opinion })
}

/// Writes a history file again, in its canonical form. What is archived must be what was judged, so it is judged once more
/// on its way.
fn copy_history(from: &Path, judged: (&Report, &Opinion), out: &mut dyn io::Write) -> io::Result<()> {
    let unreadable = |error: allocdb_node::jepsen::history::HistoryError| io::Error::other(error.to_string());
    let mut reader = HistoryReader::new(open_history(from).map_err(unreadable)?);
    let mut analyzer = Analyzer::new();
    let mut listener = Listener::default();
    let mut writer = HistoryWriter::new(out)?;
    while let Some(event) = reader.next_event().map_err(unreadable)? {
        analyzer.observe(event);
        listener.hear(event);
        writer.write(event)?;
    }
    writer.finish()?;
    if (&analyzer.finish(), &listener.finish()) == judged {
        Ok(())
    } else {
        Err(io::Error::other(format!("{} changed while it was archived", from.display())))
    }
}
