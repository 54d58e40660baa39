//! What comparing one kind of recordings came to: how many cases, which of them differ and in what, and what was left out.
//!
//! Differences are shown cut to a bounded length, however long the recorded texts are. Finding them is left to the kinds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Result;

/// Cases of one kind that are listed when they differ.
const LISTED_CASES: usize = 20;

/// Problems of one case that are listed.
const LISTED_PROBLEMS: usize = 5;

/// Characters of a recorded or found text that are shown.
const SHOWN_CHARS: usize = 200;

/// Characters in front of the first difference of two lines that are shown.
const SHOWN_BEFORE: usize = 50;

/// What is different about one case, one sentence each; empty if nothing is.
pub(crate) type Problems = Vec<String>;

/// See the module.
pub(crate) struct Tally {
    kind: String,
    compared: usize,
    differing: Vec<(String, Problems)>,
    /// Why something else than the recorded answer was demanded, and how often.
    departures: BTreeMap<&'static str, usize>,
    /// What else was counted.
    counted: Vec<String>,
    notes: Vec<String>,
}

impl Tally {
    /// Nothing compared yet.
    pub(crate) fn new(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            compared: 0,
            differing: Vec::new(),
            departures: BTreeMap::new(),
            counted: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Compares one case. A comparison that cannot be made, or panics, is a difference too.
    pub(crate) fn case(&mut self, name: &str, compare: impl FnOnce() -> Result<Problems>) {
        let problems = match catch_unwind(AssertUnwindSafe(compare)) {
            Ok(Ok(problems)) => problems,
            Ok(Err(error)) => vec![format!("could not be compared: {error:#}")],
            Err(_) => vec!["the comparison panicked; the message is on standard error".to_owned()],
        };
        self.compared += 1;
        if !problems.is_empty() {
            self.differing.push((name.to_owned(), problems));
        }
    }

    /// Says that a case was compared with what this program decided to do in place of the recorded answer.
    pub(crate) fn departs(&mut self, reason: &'static str) {
        *self.departures.entry(reason).or_default() += 1;
    }

    /// Says what was counted beside the cases, for the first line.
    pub(crate) fn counts(&mut self, counted: impl Into<String>) {
        self.counted.push(counted.into());
    }

    /// Says what was left out, and why.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Whether a difference was found. A folder in which there is nothing to compare counts as one.
    pub(crate) fn differs(&self) -> bool {
        self.compared == 0 || !self.differing.is_empty()
    }

    /// The lines for people: one that counts, then differences and notes.
    pub(crate) fn render(&self) -> String {
        let agreeing = self.compared - self.differing.len();
        let mut text = format!("{}: {} compared, {agreeing} agree", self.kind, self.compared);
        for counted in &self.counted {
            text += &format!("; {counted}");
        }
        if self.compared == 0 {
            text += "; the folder holds nothing that could be compared";
        }
        let mut line = |line: std::fmt::Arguments<'_>| {
            // Writing to a string does not fail.
            let _ = write!(text, "\n  {line}");
        };
        for (reason, count) in &self.departures {
            line(format_args!("{count} of them by a rule that replaces the recorded answer: {reason}"));
        }
        for (name, problems) in self.differing.iter().take(LISTED_CASES) {
            line(format_args!("differs: {name}"));
            for problem in problems.iter().take(LISTED_PROBLEMS) {
                line(format_args!("  {problem}"));
            }
            if let Some(more) = problems.len().checked_sub(LISTED_PROBLEMS).filter(|more| *more > 0) {
                line(format_args!("  and {more} more"));
            }
        }
        if let Some(more) = self.differing.len().checked_sub(LISTED_CASES).filter(|more| *more > 0) {
            line(format_args!("and {more} more cases differ"));
        }
        for note in &self.notes {
            line(format_args!("not compared: {note}"));
        }
        text + "\n"
    }
}

/// A text for people: one line, of bounded length, with what cannot be seen escaped.
pub(crate) fn shown(bytes: &[u8]) -> String {
    shown_from(bytes, 0)
}

/// As [`shown`], without so many characters at the beginning.
fn shown_from(bytes: &[u8], left_out: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.chars().skip(left_out);
    let shown: String = rest.by_ref().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    let [before, behind] = [left_out > 0, rest.next().is_some()].map(|cut| if cut { "…" } else { "" });
    format!("\"{before}{shown}{behind}\"")
}

/// `what: expected …, found …` if the two differ.
pub(crate) fn differing<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &T,
    found: &T,
) -> Option<String> {
    (expected != found).then(|| {
        let cut = |value: &T| format!("{value:?}").chars().take(SHOWN_CHARS).collect::<String>();
        format!("{what}: expected {}, found {}", cut(expected), cut(found))
    })
}

/// The first line in which two texts differ, if they do.
pub(crate) fn differing_text(what: &str, expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    let is_line_end = |byte: &u8| *byte == b'\n';
    let (mut lines, mut found_lines) = (expected.split(is_line_end), found.split(is_line_end));
    for number in 1.. {
        let pair = (lines.next(), found_lines.next());
        if pair.0 != pair.1 {
            let same = pair.0.zip(pair.1).map_or(0, |(one, other)| common_chars(one, other));
            let shown = |line: Option<&[u8]>| match line {
                Some(line) => shown_from(line, same.saturating_sub(SHOWN_BEFORE)),
                None => "the end".to_owned(),
            };
            return Some(format!(
                "{what}, line {number}: expected {}, found {}",
                shown(pair.0),
                shown(pair.1)
            ));
        }
    }
    None
}

/// How many characters two lines have in common at their beginning.
fn common_chars(one: &[u8], other: &[u8]) -> usize {
    let (one, other) = (String::from_utf8_lossy(one), String::from_utf8_lossy(other));
    one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_in_which_all_agrees_is_one_line() {
        let mut tally = Tally::new("wire");
        assert!(tally.differs());
        tally.case("a", || Ok(vec![]));
        assert!(!tally.differs());
        assert_eq!(tally.render(), "wire: 1 compared, 1 agree\n");
    }

    #[test]
    fn differences_departures_and_notes_are_listed() {
        let mut tally = Tally::new("cli");
        tally.departs("help after a subcommand");
        tally.case("a", || Ok(vec![]));
        tally.case("b", || Ok((1..=7).map(|number| format!("problem {number}")).collect()));
        tally.case("c", || anyhow::bail!("no such file"));
        tally.note("traces: nobody writes them");
        assert_eq!(
            tally.render(),
            "cli: 3 compared, 1 agree\n  1 of them by a rule that replaces the recorded answer: help after a \
             subcommand\n  differs: b\n    problem 1\n    problem 2\n    problem 3\n    problem 4\n    problem 5\n    \
             and 2 more\n  differs: c\n    could not be compared: no such file\n  not compared: traces: nobody writes \
             them\n"
        );
    }

    #[test]
    fn the_first_line_that_differs_is_shown_escaped_and_cut() {
        assert_eq!(differing_text("stdout", b"a\nb", b"a\nb"), None);
        assert_eq!(
            differing_text("stdout", b"a\nb\r\n", b"a\n").as_deref(),
            Some("stdout, line 2: expected \"b\\r\", found \"\"")
        );
        assert_eq!(
            differing_text("stdout", b"a", b"a\n").as_deref(),
            Some("stdout, line 2: expected the end, found \"\"")
        );
        let long = |end: &str| format!("{}{end}", "x".repeat(300));
        let difference = differing_text("stdout", long("1").as_bytes(), long("2").as_bytes()).unwrap();
        let common = "x".repeat(SHOWN_BEFORE);
        let wanted = format!("stdout, line 1: expected \"…{common}1\", found \"…{common}2\"");
        assert_eq!(difference, wanted);
        assert_eq!(shown(&[b'x'; 500]).chars().count(), SHOWN_CHARS + 3);
        assert_eq!(differing("status", &1, &0).as_deref(), Some("status: expected 1, found 0"));
    }
}
