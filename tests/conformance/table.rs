//! The tables in the READMEs beside recordings, which say what a file holds or what must be answered to it.
//!
//! Reads pipe tables in general; what their columns mean is left to the kinds.

use std::collections::BTreeMap;

/// The cells of every table row, by the code in the row's first cell: a file or case name. A row whose first cell names no
/// file is left out.
pub(crate) fn rows_by_name(markdown: &str) -> BTreeMap<String, Vec<String>> {
    let mut rows = BTreeMap::new();
    for line in markdown.lines() {
        let Some(cells) = cells(line) else { continue };
        if let Some(name) = cells.first().and_then(|cell| code(cell)) {
            rows.insert(name, cells);
        }
    }
    rows
}

/// The cells of a line `| a | b |`. A bar inside code is none that separates.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let mut cells = vec![String::new()];
    // Length of the run of grave accents that opened the code we are in.
    let mut fence = 0;
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        let run = rest.len() - rest.trim_start_matches('`').len();
        let cell = cells.last_mut()?;
        if run > 0 {
            cell.push_str(&rest[..run]);
            fence = if fence == 0 {
                run
            } else if fence == run {
                0
            } else {
                fence
            };
            rest = &rest[run..];
            continue;
        }
        if c == '|' && fence == 0 {
            cells.push(String::new());
        } else {
            cell.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(cells.iter().map(|cell| cell.trim().to_owned()).collect())
}

/// The content of a cell that is code and nothing else.
pub(crate) fn code(cell: &str) -> Option<String> {
    let run = cell.len() - cell.trim_start_matches('`').len();
    let fence = &cell[..run];
    if run == 0 {
        return None;
    }
    let inner = cell[run..].strip_suffix(fence)?;
    // One blank on either side separates code that itself begins or ends with a grave accent.
    let unpadded = inner.strip_prefix(' ').and_then(|inner| inner.strip_suffix(' '));
    let inner = unpadded.filter(|inner| !inner.trim().is_empty()).unwrap_or(inner);
    (!inner.contains(fence)).then(|| inner.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_the_name_in_their_first_cell() {
        let rows = rows_by_name(
            "# Words\n\n| file | bytes | decoded |\n|---|---|---|\n| `a.hex` | 7 | text: `status⏎` |\nmore\n\
             | no name | 1 | x |\n| `b`, `c` | 2 | x |\n",
        );
        assert_eq!(rows.len(), 1);
        assert_eq!(rows["a.hex"], ["`a.hex`", "7", "text: `status⏎`"]);
    }

    #[test]
    fn code_may_hold_bars_and_grave_accents() {
        let rows = rows_by_name("| `x.txt` | `` failed: invalid `a|b` `` |");
        assert_eq!(code(&rows["x.txt"][1]).as_deref(), Some("failed: invalid `a|b`"));
        assert_eq!(code("`a` and `b`"), None);
        assert_eq!(code("plain"), None);
    }
}
