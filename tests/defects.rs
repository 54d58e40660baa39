//! The table of known traps is complete, and every test that it names exists.

use std::fs;
use std::path::Path;

/// Shown by measuring, which is no matter of tests.
const ONLY_MEASURED: [&str; 1] = ["P3"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Text between grave accents, in order.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Names of the tests in a file.
fn tests_in(path: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut lines = text.lines().map(str::trim);
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if line == "#[test]" {
            let name = lines.find_map(|line| line.strip_prefix("fn ")).unwrap_or_default();
            found.push(name.split(['(', '<']).next().unwrap_or_default().to_owned());
        }
    }
    found
}

#[test]
fn every_trap_has_its_row_and_every_test_that_is_named_exists() {
    let text = fs::read_to_string(root().join("docs/defects.md")).unwrap();
    let expected: Vec<String> = [("S", 17), ("L", 11), ("H", 18), ("P", 6)]
        .into_iter()
        .flat_map(|(letter, count)| (1..=count).map(move |number| format!("{letter}{number}")))
        .collect();
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let row = cells[0].to_owned();
        if !expected.contains(&row) {
            continue;
        }
        let tests = *cells.get(2).unwrap_or_else(|| panic!("{row} names no test"));
        let mut in_file = Vec::new();
        let mut named = 0;
        for quoted in quoted(tests) {
            if quoted.ends_with(".rs") {
                in_file = tests_in(quoted);
                continue;
            }
            assert!(in_file.iter().any(|test| test == quoted), "{row}: there is no test {quoted}");
            named += 1;
        }
        assert!(named > 0 || ONLY_MEASURED.contains(&row.as_str()), "{row} names no test: {line}");
        rows.push(row);
    }
    assert_eq!(rows, expected);
}
