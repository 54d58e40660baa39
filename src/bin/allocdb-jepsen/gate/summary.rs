//! What a gate came to: one verdict over all of its jobs, as lines, as `gate.json`, as `junit.xml` and as a page.

use super::super::args::{Gate, Profile};
use super::super::common::{replace_file, temporary_beside};
use super::jobs::{Job, Programs};
use super::lanes::Came;
use super::record::Record;
use allocdb_node::build_info::BuildInfo;
use allocdb_node::check::Verdict;
use allocdb_node::report::contents::JobResult;
use allocdb_node::report::junit::{Case, junit};
use allocdb_node::report::overview::{Row, overview};
use anyhow::Result;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Name of the summary for programs.
const GATE_FILE: &str = "gate.json";

/// Name of the summary for continuous integration.
const JUNIT_FILE: &str = "junit.xml";

/// Name of the summary for people.
const PAGE_FILE: &str = "gate.html";

/// A job with what it came to, and whether that was now; none if it was not begun.
type Recorded = Option<(Came, bool)>;

/// What a gate came to.
pub(super) struct Summary {
    profile: Profile,
    partition: Option<String>,
    is_some: bool,
    command: &'static str,
    programs: Programs,
    jobs: Vec<(String, Recorded)>,
    /// Why lanes ended before their time.
    ended: Vec<String>,
}

impl Summary {
    pub(super) fn new(
        wanted: &Gate,
        programs: Programs,
        jobs: Vec<Job>,
        results: Vec<Recorded>,
        ended: Vec<String>,
    ) -> Self {
        Self {
            profile: wanted.profile,
            partition: wanted.partition.map(|partition| format!("{}/{}", partition.part, partition.of)),
            is_some: !wanted.only.is_empty(),
            command: wanted.command(),
            programs,
            ended,
            jobs: jobs.into_iter().map(|job| job.id).zip(results).collect(),
        }
    }

    /// What is wrong with one job is wrong with all; what is not known of one is not known of all.
    pub(super) fn verdict(&self) -> Verdict {
        let count = |wanted| self.jobs.iter().filter(|(_, result)| of(result) == wanted).count();
        match (count(JobResult::Invalid), count(JobResult::Valid)) {
            (1.., _) => Verdict::Invalid,
            (0, valid) if valid == self.jobs.len() && valid > 0 => Verdict::Valid,
            _ => Verdict::Unknown,
        }
    }

    /// Whether the harness could not carry out a job, or lost the testbeds that would have had it.
    pub(super) fn has_failed(&self) -> bool {
        let is_left = self.jobs.iter().any(|(_, result)| result.is_none());
        let has_failed = self
            .jobs
            .iter()
            .any(|(_, result)| matches!(result, Some((Err(why), _)) if !why.starts_with("interrupted")));
        has_failed || (is_left && !self.ended.is_empty())
    }

    fn records(&self) -> impl Iterator<Item = (&Record, bool)> {
        self.jobs.iter().filter_map(|(_, result)| match result {
            Some((Ok(record), is_fresh)) => Some((record, *is_fresh)),
            _ => None,
        })
    }

    fn now_and_before(&self) -> (usize, usize) {
        let now = self.records().filter(|(_, is_fresh)| *is_fresh).count();
        (now, self.records().count() - now)
    }

    /// What is to be known about the verdict, and is not in it.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.profile == Profile::Short {
            notes.push("profile short plays seconds of everything: this is no release gate".to_owned());
        }
        if let Some(partition) = &self.partition {
            notes.push(format!("only part {partition} of the jobs: the others have verdicts of their own"));
        }
        if self.is_some {
            notes.push("only the jobs that were named: nothing is said of others".to_owned());
        }
        notes.extend(self.ended.iter().cloned());
        notes
    }

    /// The lines of standard output.
    pub(super) fn text(&self, root: &Path) -> String {
        let mut text = String::new();
        for (id, result) in &self.jobs {
            // Writing to a string does not fail.
            let _ = writeln!(text, "result={id} verdict={} when={}", of(result).word(), when(result));
            for why in why(result) {
                let _ = writeln!(text, "why={id}: {}", one_line(why));
            }
            if let (Some((Ok(record), _)), true) = (result, of(result) != JobResult::Valid) {
                let _ = writeln!(text, "bundle={}", root.join(&record.bundle).display());
                if let Some(page) = &record.page {
                    let _ = writeln!(text, "html_report={}", root.join(page).display());
                }
            }
        }
        let (now, before) = self.now_and_before();
        let count = |wanted| self.jobs.iter().filter(|(_, result)| of(result) == wanted).count();
        let _ = write!(
            text,
            "profile={}\nbinary_sha256={}\n{}jobs={}\nnow={now}\nbefore={before}\nvalid={}\ninvalid={}\nunknown={}\nmissing={}\n",
            self.profile.word(),
            self.programs.executable,
            self.replicas_line(),
            self.jobs.len(),
            count(JobResult::Valid),
            count(JobResult::Invalid),
            count(JobResult::Unknown),
            count(JobResult::Missing),
        );
        let _ = writeln!(
            text,
            "gate_file={}\njunit_file={}",
            root.join(GATE_FILE).display(),
            root.join(JUNIT_FILE).display()
        );
        for note in self.notes() {
            let _ = writeln!(text, "note={note}");
        }
        let _ = writeln!(text, "verdict={}", self.verdict().word());
        text
    }

    /// What the replicas of testbeds run, if there are any.
    fn replicas_line(&self) -> String {
        let told = self.programs.replicas.as_ref();
        told.map_or_else(String::new, |sum| format!("replica_sha256={sum}\n"))
    }

    /// The same for programs.
    pub(super) fn document(&self) -> Value {
        let info = BuildInfo::own();
        let (now, before) = self.now_and_before();
        let job = |(id, result): &(String, Recorded)| {
            let record = match result {
                Some((Ok(record), _)) => Some(record),
                _ => None,
            };
            json!({
                "id": id,
                "verdict": of(result).word(),
                "why": why(result),
                "recorded": record.map(|_| if matches!(result, Some((_, true))) { "now" } else { "before" }),
                "lane": record.map(|record| record.lane),
                "lane_name": record.map(|record| &record.lane_name),
                "flags": record.map(|record| &record.identity.flags),
                "started_at_millis": record.map(|record| record.started_at_millis),
                "seconds": record.map(|record| record.seconds),
                "iterations": record.and_then(|record| record.iterations),
                "operations": record.map(|record| record.operations),
                "ok": record.map(|record| record.ok),
                "seed": record.and_then(|record| record.seed),
                "bundle": record.map(|record| &record.bundle),
                "evidence_sha256": record.map(|record| &record.evidence_sha256),
                "html_report": record.and_then(|record| record.page.as_ref()),
            })
        };
        json!({
            "version": 1,
            "command": self.command,
            "profile": self.profile.word(),
            "partition": self.partition,
            "binary": {
                "version": info.version,
                "commit": info.commit,
                "executable_sha256": self.programs.executable,
                "replica_sha256": self.programs.replicas,
                "planted_fault": info.planted_fault,
            },
            "verdict": self.verdict().word(),
            "notes": self.notes(),
            "now": now,
            "before": before,
            "jobs": self.jobs.iter().map(job).collect::<Vec<_>>(),
        })
    }

    /// The same as a page for people, with links to those about each job.
    fn page(&self) -> String {
        let row = |(id, result): &(String, Recorded)| {
            let record = match result {
                Some((Ok(record), _)) => Some(record),
                _ => None,
            };
            let page = record.and_then(|record| record.page.as_ref());
            Row {
                name: id.clone(),
                result: of(result),
                when: when(result).to_owned(),
                seconds: record.map(|record| record.seconds),
                why: why(result).into_iter().map(str::to_owned).collect(),
                page: page.map(|page| page.display().to_string()),
            }
        };
        let rows: Vec<Row> = self.jobs.iter().map(row).collect();
        let valid = rows.iter().filter(|row| row.result == JobResult::Valid).count();
        let (now, before) = self.now_and_before();
        let verdict = self.verdict();
        let sentence = format!(
            "The gate is {}: {valid} of {} jobs are valid, {now} done now, {before} before.",
            verdict.word(),
            rows.len()
        );
        let mut facts = vec![
            ("profile".to_owned(), self.profile.word().to_owned()),
            ("binary_sha256".to_owned(), self.programs.executable.clone()),
        ];
        let replicas = self.programs.replicas.clone();
        facts.extend(replicas.map(|sum| ("replica_sha256".to_owned(), sum)));
        overview(self.command, verdict, &sentence, &self.notes(), &facts, &rows)
    }

    /// Writes all files into a gate's output root.
    ///
    /// # Errors
    /// When one of them cannot be written.
    pub(super) fn write(&self, root: &Path) -> Result<()> {
        let cases: Vec<Case> = self.jobs.iter().map(|(id, result)| case(id, result, root)).collect();
        let text = junit(self.command, &cases)?;
        for (name, text) in
            [(PAGE_FILE, self.page()), (GATE_FILE, format!("{:#}\n", self.document())), (JUNIT_FILE, text)]
        {
            let path = root.join(name);
            replace_file(&path, &temporary_beside(&path), |file| file.write_all(text.as_bytes()))?;
        }
        Ok(())
    }
}

fn of(result: &Recorded) -> JobResult {
    match result {
        Some((Ok(record), _)) if record.verdict == Verdict::Valid.word() => JobResult::Valid,
        Some((Ok(record), _)) if record.verdict == Verdict::Invalid.word() => JobResult::Invalid,
        Some((Ok(_), _)) => JobResult::Unknown,
        Some((Err(_), _)) | None => JobResult::Missing,
    }
}

fn when(result: &Recorded) -> &'static str {
    match result {
        Some((_, true)) => "now",
        Some((_, false)) => "before",
        None => "never",
    }
}

fn why(result: &Recorded) -> Vec<&str> {
    match result {
        Some((Ok(record), _)) => record.why.iter().map(String::as_str).collect(),
        Some((Err(why), _)) => vec![why],
        None => vec!["it was not begun"],
    }
}

fn case(id: &str, result: &Recorded, root: &Path) -> Case {
    let record = match result {
        Some((Ok(record), _)) => Some(record),
        _ => None,
    };
    // A job that the harness could not carry out is no job that was left out.
    let outcome = match (of(result), result) {
        (JobResult::Missing, Some(_)) => JobResult::Unknown,
        (outcome, _) => outcome,
    };
    let bundle = record.map(|record| format!("bundle={}", root.join(&record.bundle).display()));
    let page = record.and_then(|record| record.page.as_ref());
    let page = page.map(|page| format!("html_report={}", root.join(page).display()));
    Case {
        name: id.to_owned(),
        outcome,
        took: Duration::try_from_secs_f64(record.map_or(0.0, |record| record.seconds)).unwrap_or_default(),
        why: why(result).into_iter().map(str::to_owned).collect(),
        evidence: bundle.into_iter().chain(page).collect(),
    }
}

fn one_line(text: &str) -> String {
    text.trim().replace(['\n', '\r'], " ")
}
