//! Seeds that are worth playing again: each has met something that none before it had met.
//!
//! A corpus is a text of one seed, or one range of seeds, a line; `#` begins a line for people. Seeds are added as sweeps meet new
//! combinations of [what operations can meet](super::coverage), and never taken away.

use super::coverage::Coverage;
use super::sweep::{Seeds, parse_digits};
use crate::printable::escaped;
use std::fmt::Write as _;
use std::ops::Range;

/// Most bytes of a corpus.
pub const MOST_BYTES: u64 = 16 << 20;

/// Most seeds in a corpus.
pub const MOST_SEEDS: u64 = 10_000_000;

/// Characters of a line that is none that are shown.
const MOST_SHOWN: usize = 80;

/// What a new corpus says of itself.
const HEADER: &str = "# Seeds that have each met something that none before them had met, and seeds that are always played.\n\
                      # `allocdb-jepsen simulate --corpus-file` plays them, and with `--seeds` adds to them.\n";

/// A list of seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// Lines for people, each with its line feed.
    remarks: String,
    /// Ascending, apart from each other, none empty.
    ranges: Vec<Range<u64>>,
}

impl Default for Corpus {
    fn default() -> Self {
        Self { remarks: HEADER.to_owned(), ranges: Vec::new() }
    }
}

impl Corpus {
    /// Reads a corpus.
    ///
    /// # Errors
    /// The line, what stands there and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut corpus = Self { remarks: String::new(), ranges: Vec::new() };
        for (line, number) in text.lines().zip(1..) {
            let expected = |what: &str| {
                let found: String = line.chars().take(MOST_SHOWN).collect();
                format!("{number}: expected {what}, found `{}`", escaped(&found))
            };
            if line.starts_with('#') {
                corpus.remarks += line;
                corpus.remarks.push('\n');
                continue;
            }
            let words = line.trim();
            if words.is_empty() {
                continue;
            }
            let range = parse_range(words)
                .ok_or_else(|| expected("a seed, or <from>..<to> with <from> below <to>"))?;
            let is_above = corpus.ranges.last().is_none_or(|last| last.end <= range.start);
            if !is_above {
                return Err(expected("seeds above those before"));
            }
            corpus.ranges.push(range);
            if corpus.count() > MOST_SEEDS {
                return Err(expected(&format!("at most {MOST_SEEDS} seeds in all")));
            }
        }
        Ok(corpus)
    }

    /// The text that [`Corpus::parse`] reads.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = self.remarks.clone();
        for Range { start, end } in &self.ranges {
            // Writing to a string does not fail.
            let _ =
                if end - start == 1 { writeln!(text, "{start}") } else { writeln!(text, "{start}..{end}") };
        }
        text
    }

    /// How many seeds it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.end - range.start))
    }

    /// The seed with that number, counted from 0.
    #[must_use]
    pub fn get(&self, mut number: u64) -> Option<u64> {
        for Range { start, end } in &self.ranges {
            if number < end - start {
                return Some(start + number);
            }
            number -= end - start;
        }
        None
    }

    /// Whether a seed is in it.
    #[must_use]
    pub fn contains(&self, seed: u64) -> bool {
        self.ranges.iter().any(|range| range.contains(&seed))
    }

    /// Adds the seeds that were the first to meet something which is not known yet, and says how many these are.
    pub fn add(&mut self, met: &Coverage, known: &Coverage) -> usize {
        let mut seeds = met.first_beyond(known);
        seeds.retain(|seed| !self.contains(*seed));
        self.ranges.extend(seeds.iter().map(|seed| *seed..seed.saturating_add(1)));
        self.ranges.sort_by_key(|range| range.start);
        seeds.len()
    }
}

fn parse_range(words: &str) -> Option<Range<u64>> {
    match Seeds::parse(words) {
        Some(Seeds { first, end, .. }) => Some(first..end),
        None => parse_digits(words).and_then(|seed| Some(seed..seed.checked_add(1)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::play;

    fn met(seeds: &[u64]) -> Coverage {
        let mut met = Coverage::default();
        seeds.iter().for_each(|seed| met.add(&play(*seed).coverage));
        met
    }

    #[test]
    fn a_corpus_is_read_as_it_was_written() {
        let text = "# for people\n3..5\n7\n10..12\n";
        let corpus = Corpus::parse(text).unwrap();
        assert_eq!(corpus.to_text(), text);
        let seeds: Vec<u64> = (0..).map_while(|number| corpus.get(number)).collect();
        assert_eq!((seeds, corpus.count()), (vec![3, 4, 7, 10, 11], 5));
        assert_eq!(Corpus::parse(&Corpus::default().to_text()).unwrap(), Corpus::default());
    }

    #[test]
    fn what_is_no_seed_is_told_with_its_line() {
        for (text, expected) in [
            ("1\nx\n", "2: expected a seed, or <from>..<to> with <from> below <to>, found `x`"),
            ("5..5", "1: expected a seed"),
            ("\x1b[2J", "1: expected a seed, or <from>..<to> with <from> below <to>, found `\\u{1b}[2J`"),
            ("+1", "1: expected a seed"),
            ("18446744073709551615", "1: expected a seed"),
            ("7\n3..5\n", "2: expected seeds above those before, found `3..5`"),
            ("3..5\n4\n", "2: expected seeds above those before"),
            ("0..18446744073709551615", "1: expected at most 10000000 seeds in all"),
        ] {
            let problem = Corpus::parse(text).unwrap_err();
            assert!(problem.starts_with(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn only_who_met_something_new_is_added() {
        let mut corpus = Corpus::default();
        let known = met(&[3]);
        let added = corpus.add(&met(&[3, 5, 4]), &known);
        assert!((1..=2).contains(&added) && !corpus.contains(3), "{corpus:?}");
        let seeds: Vec<u64> = (0..).map_while(|number| corpus.get(number)).collect();
        assert!(seeds.is_sorted() && seeds.iter().all(|seed| [4, 5].contains(seed)), "{seeds:?}");
        // Nobody is added twice, and nobody for what is known.
        assert_eq!(corpus.clone().add(&met(&[3, 5, 4]), &known), 0);
        assert_eq!(Corpus::default().add(&met(&[3]), &known), 0);
        assert_eq!(Corpus::parse(&corpus.to_text()).unwrap(), corpus);
    }
}
