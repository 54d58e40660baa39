//! What several jobs came to in the form that continuous integration reads: JUnit's XML.

use super::contents::JobResult;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite, XmlString};
use std::time::Duration;

/// A job with what it came to.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// How the job ended.
    pub outcome: JobResult,
    /// How long it took.
    pub took: Duration,
    /// Why it did not come to a pass, a line each.
    pub why: Vec<String>,
    /// Where its evidence is, a line each.
    pub evidence: Vec<String>,
}

/// The file: a suite of this name. What is invalid is a failure, what is not known an error, what was not carried out is skipped.
///
/// # Errors
/// When the text cannot be made.
pub fn junit(suite: &str, cases: &[Case]) -> Result<String, quick_junit::SerializeError> {
    let mut report = Report::new("allocdb-jepsen");
    let mut tests = TestSuite::new(suite);
    for case in cases {
        let mut status = match case.outcome {
            JobResult::Valid => TestCaseStatus::success(),
            JobResult::Invalid => TestCaseStatus::non_success(NonSuccessKind::Failure),
            JobResult::Unknown => TestCaseStatus::non_success(NonSuccessKind::Error),
            JobResult::Missing => TestCaseStatus::skipped(),
        };
        if !case.why.is_empty() && case.outcome != JobResult::Valid {
            status.set_message(case.why[0].clone());
            status.set_description(case.why.join("\n"));
        }
        let mut test = TestCase::new(case.name.clone(), status);
        test.set_classname(suite).set_time(case.took);
        if !case.evidence.is_empty() {
            test.system_out = Some(XmlString::new(case.evidence.join("\n")));
        }
        tests.add_test_case(test);
    }
    report.add_test_suite(tests);
    report.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, outcome: JobResult, why: &[&str]) -> Case {
        let why = why.iter().map(|&why| why.to_owned()).collect();
        let took = Duration::from_millis(1_500);
        Case { name: name.to_owned(), outcome, took, why, evidence: vec!["bundle=<a>&\u{1}".to_owned()] }
    }

    #[test]
    fn an_independent_reader_finds_every_case_with_its_outcome() {
        let cases = [
            case("one", JobResult::Valid, &[]),
            case("<two>", JobResult::Invalid, &["stale-read \"x\" ]]>", "more\u{1b}[2J"]),
            case("three", JobResult::Unknown, &["never seen: <b>"]),
            case("four", JobResult::Missing, &[]),
        ];
        let text = junit("gate-local", &cases).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let root = document.root_element();
        assert_eq!((root.tag_name().name(), root.attribute("tests")), ("testsuites", Some("4")));
        assert_eq!((root.attribute("failures"), root.attribute("errors")), (Some("1"), Some("1")));
        let suite = root.children().find(|node| node.has_tag_name("testsuite")).unwrap();
        assert_eq!((suite.attribute("tests"), suite.attribute("skipped")), (Some("4"), Some("1")));
        let told: Vec<(&str, Option<&str>)> = suite
            .children()
            .filter(|node| node.has_tag_name("testcase"))
            .map(|test| {
                let ending =
                    test.children().find(|node| node.is_element() && !node.has_tag_name("system-out"));
                assert_eq!(test.attribute("classname"), Some("gate-local"));
                assert!(test.attribute("time").unwrap().parse::<f64>().unwrap() == 1.5);
                (test.attribute("name").unwrap(), ending.map(|node| node.tag_name().name()))
            })
            .collect();
        let expected =
            [("one", None), ("<two>", Some("failure")), ("three", Some("error")), ("four", Some("skipped"))];
        assert_eq!(told, expected);
        let failure = document.descendants().find(|node| node.has_tag_name("failure")).unwrap();
        assert_eq!(failure.attribute("message"), Some("stale-read \"x\" ]]>"));
        assert!(failure.text().unwrap().starts_with("stale-read \"x\" ]]>\nmore"));
    }
}
