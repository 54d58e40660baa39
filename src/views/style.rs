//! Text with a colour: what a frame is made of, and the codes that a terminal understands.

/// A colour and weight, as the codes behind `ESC [`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style(&'static [&'static str]);

impl Style {
    pub(crate) const PLAIN: Self = Self(&[]);
    pub(crate) const DIM: Self = Self(&["2m"]);
    pub(crate) const CYAN: Self = Self(&["38;5;51m"]);
    pub(crate) const GREEN: Self = Self(&["38;5;48m"]);
    pub(crate) const YELLOW: Self = Self(&["38;5;220m"]);
    pub(crate) const ORANGE: Self = Self(&["38;5;208m"]);
    pub(crate) const RED: Self = Self(&["38;5;196m"]);
    pub(crate) const MAGENTA: Self = Self(&["38;5;207m"]);
    pub(crate) const WHITE: Self = Self(&["38;5;15m"]);
    pub(crate) const BOLD_CYAN: Self = Self(&["1m", "38;5;51m"]);
    pub(crate) const BOLD_BLUE: Self = Self(&["1m", "38;5;39m"]);
    pub(crate) const BOLD_GREEN: Self = Self(&["1m", "38;5;48m"]);
    pub(crate) const BOLD_YELLOW: Self = Self(&["1m", "38;5;220m"]);
    pub(crate) const BOLD_RED: Self = Self(&["1m", "38;5;196m"]);
    pub(crate) const BOLD_MAGENTA: Self = Self(&["1m", "38;5;207m"]);
    pub(crate) const BOLD_WHITE: Self = Self(&["1m", "38;5;15m"]);
}

/// Text of one style.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub(crate) text: String,
    pub(crate) style: Style,
}

/// A line of a frame, without its line end.
pub type StyledLine = Vec<Span>;

pub(crate) fn span(text: impl Into<String>, style: Style) -> Span {
    Span { text: text.into(), style }
}

pub(crate) fn plain(text: impl Into<String>) -> Span {
    span(text, Style::PLAIN)
}

impl Span {
    /// Filled up to `width` characters, the text at the left. Longer texts stay as they are.
    pub(crate) fn left(mut self, width: usize) -> Self {
        self.text = format!("{:<width$}", self.text);
        self
    }

    /// As [`Span::left`], with the text at the right.
    pub(crate) fn right(mut self, width: usize) -> Self {
        self.text = format!("{:>width$}", self.text);
        self
    }

    /// Adds the text to `out`, between codes if they are wanted and there are any.
    pub(crate) fn write(&self, out: &mut String, colour: bool) {
        let codes = if colour { self.style.0 } else { &[] };
        for code in codes {
            out.push_str("\x1b[");
            out.push_str(code);
        }
        out.push_str(&self.text);
        if !codes.is_empty() {
            out.push_str("\x1b[0m");
        }
    }
}

/// Cells with a single space between two of them.
pub(crate) fn spaced(cells: impl IntoIterator<Item = Span>) -> StyledLine {
    let mut line = StyledLine::new();
    for cell in cells {
        if !line.is_empty() {
            line.push(plain(" "));
        }
        line.push(cell);
    }
    line
}

/// Lines as text, each with a line end.
#[must_use]
pub fn text_of(lines: &[StyledLine], colour: bool) -> String {
    let mut text = String::new();
    for line in lines {
        for span in line {
            span.write(&mut text, colour);
        }
        text.push('\n');
    }
    text
}
