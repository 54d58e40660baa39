//! Text by the columns it takes on a terminal.
//!
//! Terminals do not agree on how wide every picture and every mark is. So each cell is put where it belongs by itself, and
//! what stands before it cannot move it.

use super::style::{Span, StyledLine, span};
use unicode_width::UnicodeWidthChar as _;

/// Where a text stands in its cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// A piece of a row, in columns from 0.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) at: usize,
    pub(super) width: usize,
    pub(super) align: Align,
    pub(super) text: StyledLine,
}

/// Cells from left to right; none reaches into another.
pub(super) type Row = Vec<Cell>;

/// Asks for the picture in place of the sign; without it a character has the width that everybody knows.
const PICTURE: char = '\u{fe0f}';

fn width_of(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// Columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

fn line_width(line: &[Span]) -> usize {
    line.iter().map(|span| width(&span.text)).sum()
}

/// As much of a text as there is room for. Marks that take no column of their own are limited too.
fn beginning(text: &str, columns: usize) -> String {
    let mut left = columns;
    let mut marks = 2 * columns + 8;
    let mut kept = String::new();
    for c in text.chars().filter(|c| *c != PICTURE) {
        let wide = width_of(c);
        if wide > left || (wide == 0 && marks == 0) {
            break;
        }
        left -= wide;
        marks -= usize::from(wide == 0);
        kept.push(c);
    }
    kept
}

/// Cut to so many columns; what is cut ends in an ellipsis.
pub(super) fn fitted(line: &[Span], columns: usize) -> StyledLine {
    let is_cut = line_width(line) > columns;
    let mut left = columns.saturating_sub(usize::from(is_cut));
    let mut kept = StyledLine::new();
    for part in line {
        let text = beginning(&part.text, left);
        let is_whole = width(&text) == width(&part.text);
        left -= width(&text);
        kept.push(span(text, part.style));
        if !is_whole {
            break;
        }
    }
    if let Some(last) = kept.last_mut().filter(|_| is_cut && columns > 0) {
        last.text.push('…');
    }
    kept
}

/// A text in at most so many lines, broken between words where that is possible.
pub(super) fn wrapped(text: &str, columns: usize, lines: usize) -> Vec<String> {
    let mut done = Vec::new();
    let mut rest = text;
    while !rest.is_empty() && done.len() + 1 < lines && width(rest) > columns {
        let fits = beginning(rest, columns).chars().count();
        let end = rest.char_indices().nth(fits).map_or(rest.len(), |(at, _)| at);
        let head = &rest[..end];
        let end = head.rfind(' ').filter(|at| width(&head[..*at]) * 2 > columns).unwrap_or(end);
        if end == 0 {
            break;
        }
        done.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    done.push(rest.to_owned());
    done
}

/// The codes that draw a row, from its first column on.
pub(super) fn drawn(row: &[Cell], columns: usize, colour: bool) -> String {
    let mut out = String::new();
    for cell in row.iter().filter(|cell| cell.at < columns) {
        let room = cell.width.min(columns - cell.at);
        let line = fitted(&cell.text, room);
        let left = match cell.align {
            Align::Left => cell.at,
            Align::Right => cell.at + room - line_width(&line).min(room),
        };
        out += &format!("\x1b[{}G", left + 1);
        line.iter().for_each(|span| span.write(&mut out, colour));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::style::{Style, plain};
    use super::*;

    fn fit(text: &str, columns: usize) -> String {
        fitted(&[plain(text)], columns).into_iter().map(|span| span.text).collect()
    }

    #[test]
    fn text_is_cut_by_columns_whatever_its_characters_are() {
        for (text, columns, kept) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("漢字かな", 8, "漢字かな"),
            ("漢字かな", 7, "漢字か…"),
            ("漢字かな", 6, "漢字…"),
            ("e\u{301}e\u{301}e\u{301}", 3, "e\u{301}e\u{301}e\u{301}"),
            ("e\u{301}e\u{301}e\u{301}", 2, "e\u{301}…"),
            ("👑 serving", 6, "👑 se…"),
            ("⚙\u{fe0f} x", 3, "⚙ x"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
            ("", 0, ""),
        ] {
            assert_eq!(fit(text, columns), kept, "{text} in {columns}");
            assert!(width(&fit(text, columns)) <= columns);
        }
        let piled = format!("a{}", "\u{301}".repeat(1000));
        assert_eq!(fit(&piled, 3).chars().count(), 1 + 2 * 3 + 8);
    }

    #[test]
    fn a_cut_goes_through_parts_of_several_styles() {
        let line = [span("ab", Style::RED), plain("cd"), plain("ef")];
        let text = |columns| {
            let parts = fitted(&line, columns).into_iter().map(|span| span.text);
            parts.collect::<Vec<_>>().join("|")
        };
        assert_eq!(text(6), "ab|cd|ef");
        assert_eq!(text(5), "ab|cd|…");
        assert_eq!(text(4), "ab|c…");
        assert_eq!(text(2), "a…");
    }

    #[test]
    fn long_texts_are_broken_between_words() {
        let text = "no answer from the replica within ten seconds";
        assert_eq!(wrapped(text, 20, 3), ["no answer from the", "replica within ten", "seconds"]);
        assert_eq!(wrapped(text, 20, 2), ["no answer from the", "replica within ten seconds"]);
        assert_eq!(wrapped("abcdefgh", 3, 9), ["abc", "def", "gh"]);
        assert_eq!(wrapped("漢字かな", 3, 9), ["漢", "字", "か", "な"]);
        assert_eq!(wrapped("漢", 1, 9), ["漢"]);
        assert_eq!(wrapped("", 3, 9), [""]);
    }

    #[test]
    fn a_cell_stands_where_it_belongs_whatever_stands_before_it() {
        let cell = |at, width, align, text: &str| Cell { at, width, align, text: vec![plain(text)] };
        let row = [
            cell(0, 4, Align::Left, "🛰 long"),
            cell(5, 5, Align::Right, "41"),
            cell(11, 9, Align::Left, "beyond"),
            cell(20, 5, Align::Left, "gone"),
        ];
        assert_eq!(drawn(&row, 14, false), "\u{1b}[1G🛰 l…\u{1b}[9G41\u{1b}[12Gbe…");
    }
}
