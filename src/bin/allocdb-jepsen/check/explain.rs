//! What the name in a result line means: the section about it in the documentation that this program was built with.

use super::super::common::print;
use anyhow::{Result, bail};

const ANOMALIES: &str = include_str!("../../../../docs/anomalies.md");
const BLOCKERS: &str = include_str!("../../../../docs/blockers.md");

/// What a page says about one name.
#[derive(Debug, Clone, Copy)]
struct Section {
    name: &'static str,
    body: &'static str,
    /// Events that the page's examples begin with, up to the first of their own.
    events_before: &'static str,
}

/// Prints the section about an anomaly or a blocker, or, without a name, all of them with a sentence each. A name may have the key
/// of its line in front of it.
///
/// # Errors
/// When there is no such name.
pub(crate) fn run(name: Option<&str>) -> Result<()> {
    let sections: Vec<Section> = sections(ANOMALIES).chain(sections(BLOCKERS)).collect();
    let Some(wanted) = name else {
        let lines = sections.iter().map(|section| {
            let sentence = section.body.trim().lines().next().unwrap_or_default();
            format!("{:<30} {sentence}\n", section.name)
        });
        return print(&lines.collect::<String>());
    };
    let word = wanted.rsplit_once('=').map_or(wanted, |(_, word)| word);
    match sections.iter().find(|section| section.name == word) {
        Some(section) => print(&rendered(section)),
        None => {
            let names: Vec<&str> = sections.iter().map(|section| section.name).collect();
            bail!("there is no anomaly or blocker `{wanted}`; expected one of {}", names.join(", "))
        }
    }
}

/// The sections of a page whose headings are names.
fn sections(page: &'static str) -> impl Iterator<Item = Section> {
    let (head, rest) = page.split_once("\n## ").unwrap_or((page, ""));
    let events_before =
        head.split("```").nth(1).and_then(|block| block.split_once('\n')).map_or("", |(_, text)| text);
    rest.split("\n## ").filter_map(move |text| {
        let (heading, body) = text.split_once('\n')?;
        let name = heading.strip_prefix('`')?.strip_suffix('`')?;
        Some(Section { name, body, events_before })
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
        let told: Vec<&str> =
            sections(ANOMALIES).chain(sections(BLOCKERS)).map(|section| section.name).collect();
        let anomalies = AnomalyKind::ALL.iter().map(|kind| kind.word());
        for name in anomalies.chain(BlockerKind::ALL.iter().map(|kind| kind.as_str())) {
            assert_eq!(told.iter().filter(|told| **told == name).count(), 1, "{name}");
        }
        assert_eq!(told.len(), AnomalyKind::ALL.len() + BlockerKind::ALL.len());
    }

    #[test]
    fn a_section_has_the_whole_example_and_no_markup() {
        for section in sections(ANOMALIES).chain(sections(BLOCKERS)) {
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
