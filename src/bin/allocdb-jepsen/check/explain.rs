//! What the name in a result line means: the section about it in the documentation that this program was built with.

use super::super::args::Format;
use super::super::common::print;
use super::super::surface::told;
use allocdb_node::jepsen::answers;
use anyhow::{Result, anyhow};
use serde_json::{Value, json};

const ANOMALIES: &str = include_str!("../../../../docs/anomalies.md");
const BLOCKERS: &str = include_str!("../../../../docs/blockers.md");

/// What a page says about one name.
#[derive(Debug, Clone, Copy)]
struct Section {
    kind: &'static str,
    name: &'static str,
    body: &'static str,
    /// Events that the page's examples begin with, up to the first of their own.
    events_before: &'static str,
}

impl Section {
    fn sentence(&self) -> &'static str {
        self.body.trim().lines().next().unwrap_or_default()
    }
}

fn all() -> impl Iterator<Item = Section> {
    sections("anomaly", ANOMALIES).chain(sections("blocker", BLOCKERS))
}

/// Prints the section about an anomaly or a blocker, or, without a name, all of them with a sentence each; programs get what is
/// said in whole. A name may have the key of its line in front of it.
///
/// # Errors
/// When there is no such name.
pub(crate) fn run(name: Option<&str>, format: Format) -> Result<()> {
    let wanted =
        told("explain", format, name.map_or_else(|| Ok(all().collect()), |name| Ok(vec![find(name)?])))?;
    print(&match (format, name) {
        (Format::Json, _) => answer(&wanted),
        (Format::Text, Some(_)) => wanted.iter().map(rendered).collect(),
        (Format::Text, None) => wanted
            .iter()
            .map(|section| format!("{:<30} {}\n", section.name, section.sentence()))
            .collect::<String>(),
    })
}

fn find(wanted: &str) -> Result<Section> {
    let word = wanted.rsplit_once('=').map_or(wanted, |(_, word)| word);
    all().find(|section| section.name == word).ok_or_else(|| {
        let names: Vec<&str> = all().map(|section| section.name).collect();
        anyhow!("there is no anomaly or blocker `{wanted}`; expected one of {}", names.join(", "))
    })
}

fn answer(sections: &[Section]) -> String {
    let explained = |section: &Section| {
        json!({
            "kind": section.kind,
            "name": section.name,
            "sentence": section.sentence(),
            "text": rendered(section),
        })
    };
    let entries: Vec<Value> = sections.iter().map(explained).collect();
    answers::document("explain", json!({ "entries": entries }))
}

/// The sections of a page whose headings are names.
fn sections(kind: &'static str, page: &'static str) -> impl Iterator<Item = Section> {
    let (head, rest) = page.split_once("\n## ").unwrap_or((page, ""));
    let events_before =
        head.split("```").nth(1).and_then(|block| block.split_once('\n')).map_or("", |(_, text)| text);
    rest.split("\n## ").filter_map(move |text| {
        let (heading, body) = text.split_once('\n')?;
        let name = heading.strip_prefix('`')?.strip_suffix('`')?;
        Some(Section { kind, name, body, events_before })
    })
}

/// The section as it reads on a terminal: blocks of events by indentation, links as their words.
fn rendered(section: &Section) -> String {
    let mut text = format!("{}\n", section.name);
    let (mut is_block, mut is_first) = (false, true);
    for line in section.body.trim_end().lines() {
        if line.starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            if std::mem::take(&mut is_first) {
                let index = |line: &str| line.split(' ').next().and_then(|word| word.parse::<u64>().ok());
                let own = index(line).unwrap_or(0);
                for before in section.events_before.lines().filter(|before| index(before) < Some(own)) {
                    text += &format!("    {before}\n");
                }
            }
            text += &format!("    {line}\n");
        } else {
            text += &without_links(line);
            text.push('\n');
        }
    }
    text
}

/// A line of Markdown with the words of its links in the place of the links.
fn without_links(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, link)) = rest.split_once('[') {
        text += before;
        match link.split_once("](").and_then(|(words, target)| Some((words, target.split_once(')')?.1))) {
            Some((words, behind)) if !words.contains('[') => {
                text += words;
                rest = behind;
            }
            _ => {
                text.push('[');
                rest = link;
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocdb_node::check::AnomalyKind;
    use allocdb_node::jepsen::analysis::BlockerKind;

    #[test]
    fn every_name_that_a_result_can_have_is_explained() {
        let told: Vec<&str> = all().map(|section| section.name).collect();
        let anomalies = AnomalyKind::ALL.iter().map(|kind| kind.word());
        for name in anomalies.chain(BlockerKind::ALL.iter().map(|kind| kind.as_str())) {
            assert_eq!(told.iter().filter(|told| **told == name).count(), 1, "{name}");
        }
        assert_eq!(told.len(), AnomalyKind::ALL.len() + BlockerKind::ALL.len());
    }

    #[test]
    fn a_section_has_the_whole_example_and_no_markup() {
        for section in all() {
            let text = rendered(&section);
            assert!(!text.contains("```") && !text.contains("]("), "{text}");
            let events = text
                .lines()
                .filter(|line| line.starts_with("    0  ") || line.starts_with("    sequence=1 "));
            assert_eq!(events.count(), 1, "{text}");
        }
    }

    #[test]
    fn links_are_their_words_and_other_brackets_stay() {
        assert_eq!(
            without_links("see [a](b.md#c), `[1]`, [two] and [three](d)"),
            "see a, `[1]`, [two] and three"
        );
    }
}
