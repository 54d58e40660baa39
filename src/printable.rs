//! Text from elsewhere, made harmless for whoever reads it.

/// Text with its control characters spelled out, so that no terminal obeys it. Line breaks and tabs stay.
#[must_use]
pub fn escaped(text: &str) -> String {
    let spell = |c: char| -> String {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\n' && c != '\t') || turns {
            c.escape_default().collect()
        } else {
            c.into()
        }
    };
    text.chars().map(spell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_steers_no_terminal() {
        assert_eq!(escaped("a\x1b[2J\x07\n\tb\r"), "a\\u{1b}[2J\\u{7}\n\tb\\r");
        assert_eq!(escaped("back\u{202e}ward"), "back\\u{202e}ward");
    }
}
