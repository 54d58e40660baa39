//! What a hunt came to as OpenMetrics text, for scrapers that take in files: one sample of each quantity, labelled with the hunt.

use super::timeline::Timeline;
use crate::check::{Anomaly, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Quantiles of the time to an answer that are told.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 1.0];

/// What is told of a hunt besides what its history tells.
#[derive(Debug)]
pub struct Numbers<'a> {
    /// Labels of every sample, by name: which hunt, of what.
    pub labels: &'a [(&'a str, String)],
    /// Labels of the build, which stand on a sample of their own.
    pub build: &'a [(&'a str, String)],
    /// How it was judged.
    pub verdict: Verdict,
    /// Each anomaly that the verdict rests on, in the order of the report; empty for a valid hunt.
    pub anomalies: &'a [Anomaly],
    /// Operations by how they ended, under the words of histories.
    pub operations: [(&'static str, u64); 3],
    /// Length of the whole hunt.
    pub seconds: f64,
    /// The part of it in which clients worked under faults.
    pub main_seconds: f64,
    /// When it ended, in seconds since the epoch.
    pub ended_at: f64,
}

/// The text, which ends as the format wants it.
#[must_use]
pub fn open_metrics(numbers: &Numbers<'_>, timeline: &Timeline) -> String {
    let mut text = Text { out: String::new(), labels: numbers.labels };
    text.family("build", "info", None, "The program that carried the hunt out.");
    let build: Vec<(&str, &str)> =
        numbers.build.iter().map(|(name, value)| (*name, value.as_str())).collect();
    text.sample("build_info", &build, 1.0);
    text.family("verdict", "stateset", None, "What the hunt came to.");
    for verdict in [Verdict::Valid, Verdict::Invalid, Verdict::Unknown] {
        let is_it = f64::from(u8::from(verdict == numbers.verdict));
        text.sample("verdict", &[("allocdb_hunt_verdict", verdict.word())], is_it);
    }
    text.family("operations", "counter", None, "Operations of clients by how they ended.");
    for (ending, count) in numbers.operations {
        text.sample("operations_total", &[("ending", ending)], count as f64);
    }
    text.family("anomalies", "counter", None, "What cannot be right, by its name.");
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    numbers.anomalies.iter().for_each(|found| *kinds.entry(found.kind.word()).or_default() += 1);
    for (kind, count) in kinds {
        text.sample("anomalies_total", &[("anomaly", kind)], count as f64);
    }
    text.family("faults", "counter", None, "Faults, and failovers of operators, by family.");
    let mut families: BTreeMap<&str, u64> = BTreeMap::new();
    timeline.spans.all.iter().for_each(|span| *families.entry(&span.family).or_default() += 1);
    for (family, count) in families {
        text.sample("faults_total", &[("family", family)], count as f64);
    }
    text.family("answer_seconds", "summary", Some("seconds"), "Time from a request to its answer.");
    if let Some(latency) = timeline.latency() {
        for quantile in QUANTILES {
            let seconds = latency.value_at_quantile(quantile) as f64 / 1e6;
            text.sample("answer_seconds", &[("quantile", &quantile.to_string())], seconds);
        }
        text.sample("answer_seconds_count", &[], latency.len() as f64);
    }
    for (name, help, seconds) in [
        ("duration_seconds", "Length of the whole hunt.", numbers.seconds),
        (
            "main_duration_seconds",
            "Length of the phase in which clients work under faults.",
            numbers.main_seconds,
        ),
        ("end_timestamp_seconds", "When it ended, since the epoch.", numbers.ended_at),
    ] {
        text.family(name, "gauge", Some("seconds"), help);
        text.sample(name, &[], seconds);
    }
    text.out + "# EOF\n"
}

struct Text<'a> {
    out: String,
    labels: &'a [(&'a str, String)],
}

impl Text<'_> {
    fn family(&mut self, name: &str, kind: &str, unit: Option<&str>, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "# TYPE allocdb_hunt_{name} {kind}");
        if let Some(unit) = unit {
            let _ = writeln!(self.out, "# UNIT allocdb_hunt_{name} {unit}");
        }
        let _ = writeln!(self.out, "# HELP allocdb_hunt_{name} {help}");
    }

    fn sample(&mut self, name: &str, more: &[(&str, &str)], value: f64) {
        let own = self.labels.iter().map(|(name, value)| (*name, value.as_str()));
        let labels: Vec<String> = own
            .chain(more.iter().copied())
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let _ = writeln!(self.out, "allocdb_hunt_{name}{{{}}} {value}", labels.join(","));
    }
}

/// As the value of a label stands between quotation marks.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Event, Kind, Process};

    #[test]
    fn a_hunt_is_told_in_families_that_end_with_the_end_of_file() {
        let mut timeline = Timeline::new(Default::default(), 2);
        for (index, kind) in [(0, Kind::Invoke), (1, Kind::Ok)] {
            let event = Event {
                index,
                time: index * 2_000_000,
                process: Process::Client(1),
                kind,
                f: "read".to_owned(),
                value: None,
                replica: Some(1),
            };
            timeline.hear(&event);
        }
        timeline.finish();
        let numbers = Numbers {
            labels: &[("hunt_id", "a\"b\\c\nd".to_owned())],
            build: &[("version", "1".to_owned())],
            verdict: Verdict::Unknown,
            anomalies: &[],
            operations: [("ok", 1), ("fail", 0), ("info", 0)],
            seconds: 2.5,
            main_seconds: 1.0,
            ended_at: 1_795_833_690.5,
        };
        let text = open_metrics(&numbers, &timeline);
        let hunt = r#"hunt_id="a\"b\\c\nd""#;
        for line in [
            format!("allocdb_hunt_build_info{{{hunt},version=\"1\"}} 1\n"),
            format!("allocdb_hunt_verdict{{{hunt},allocdb_hunt_verdict=\"unknown\"}} 1\n"),
            format!("allocdb_hunt_verdict{{{hunt},allocdb_hunt_verdict=\"valid\"}} 0\n"),
            format!("allocdb_hunt_operations_total{{{hunt},ending=\"ok\"}} 1\n"),
            format!("allocdb_hunt_answer_seconds_count{{{hunt}}} 1\n"),
            format!("allocdb_hunt_end_timestamp_seconds{{{hunt}}} 1795833690.5\n"),
            "# TYPE allocdb_hunt_anomalies counter\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
    }
}
