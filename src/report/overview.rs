//! What several jobs came to on one page: the verdict first, then what is wrong, then each job with a link to the page about it.

use super::contents::JobResult;
use super::page::head;
use crate::check::Verdict;
use maud::{DOCTYPE, html};

/// A job on the page.
#[derive(Debug, Clone)]
pub struct Row {
    /// By which it is called.
    pub name: String,
    /// Its verdict, or that there is none yet.
    pub result: JobResult,
    /// When that was, in a word.
    pub when: String,
    /// How long it took, if that is known.
    pub seconds: Option<f64>,
    /// Why it is not valid, a line each.
    pub why: Vec<String>,
    /// The page about it, seen from this one.
    pub page: Option<String>,
}

/// The text of the page. `facts` are names with what there is to say under each.
#[must_use]
pub fn overview(
    title: &str,
    verdict: Verdict,
    sentence: &str,
    notes: &[String],
    facts: &[(String, String)],
    rows: &[Row],
) -> String {
    // What is wrong comes before what is not known, and both before what is right.
    let mut ordered: Vec<&Row> = rows.iter().collect();
    ordered.sort_by_key(|row| match row.result {
        JobResult::Invalid => 0,
        JobResult::Unknown => 1,
        JobResult::Missing => 2,
        JobResult::Valid => 3,
    });
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            (head(verdict, title))
            body {
                header {
                    h1 { (title) }
                    p class=(format!("verdict {}", verdict.word())) { (sentence) }
                    @for note in notes { p.soft { (note) } }
                }
                main {
                    h2 { "Jobs" }
                    table.stack {
                        thead { tr { th { "job" } th { "verdict" } th { "carried out" } th.number { "seconds" } th { "why" } } }
                        tbody {
                            @for row in ordered {
                                tr id=(format!("job-{}", row.name)) class=[(row.result == JobResult::Invalid).then_some("named")] {
                                    td { @match &row.page { Some(page) => a href=(page) { (row.name) }, None => (row.name) } }
                                    td { (row.result.word()) }
                                    td { (row.when) }
                                    td.number { @if let Some(seconds) = row.seconds { (format!("{seconds:.1}")) } }
                                    td.value { @for why in &row.why { (why) br; } }
                                }
                            }
                        }
                    }
                    h2 { "How it came about" }
                    dl { @for (name, value) in facts { dt { (name) } dd.mono { (value) } } }
                }
            }
        }
    };
    page.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_first_and_leads_to_its_page() {
        let row = |name: &str, result, page: Option<&str>| Row {
            name: name.to_owned(),
            result,
            when: "now".to_owned(),
            seconds: Some(1.25),
            why: vec!["<script>".to_owned()],
            page: page.map(str::to_owned),
        };
        let rows = [
            row("first", JobResult::Valid, Some("lane-1/first.html")),
            row("second", JobResult::Missing, None),
            row("third", JobResult::Invalid, Some("lane-2/third.html")),
        ];
        let page = overview("gate", Verdict::Invalid, "Invalid: 1 of 3 jobs.", &[], &[], &rows);
        let places: Vec<usize> = ["id=\"job-third\"", "id=\"job-second\"", "id=\"job-first\""]
            .map(|id| page.find(id).unwrap())
            .into();
        assert!(places.is_sorted(), "{page}");
        assert!(page.contains("<a href=\"lane-2/third.html\">third</a>"));
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
    }
}
