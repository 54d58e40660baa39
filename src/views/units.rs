//! Numbers, times and foreign text as a frame shows them.
//!
//! Widths count characters, whatever a terminal makes of them; what must fit a terminal is measured by the screen.

use crate::printable::escaped;

/// On one line: white space becomes single spaces, and nothing is left that a terminal would obey.
pub(crate) fn flatten(text: &str) -> String {
    escaped(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A name as it is, on one line, with nothing in it that a terminal would obey.
pub(crate) fn one_line(name: &str) -> String {
    escaped(name).replace('\n', "\\n").replace('\t', "\\t")
}

/// At most `limit` characters; what is longer ends in an ellipsis.
pub(crate) fn truncate(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// A count in at most five characters, rounded down.
pub(crate) fn counter(value: u64) -> String {
    const UNITS: [(u64, char); 4] =
        [(1_000_000_000_000, 'T'), (1_000_000_000, 'B'), (1_000_000, 'M'), (1_000, 'K')];
    match UNITS.into_iter().find(|(unit, _)| value >= *unit) {
        None => value.to_string(),
        Some((unit, suffix)) if value / unit < 100 => {
            format!("{}.{}{suffix}", value / unit, value % unit * 10 / unit)
        }
        Some((unit, suffix)) => format!("{}{suffix}", value / unit),
    }
}

/// So many seconds.
pub(crate) fn duration(secs: u64) -> String {
    let (hours, minutes, seconds) = (secs / 3600, secs / 60 % 60, secs % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m {seconds:02}s"),
        _ => format!("{hours}h {minutes:02}m {seconds:02}s"),
    }
}

/// So much after the start.
pub(crate) fn relative(millis: u64) -> String {
    match millis {
        0..60_000 => format!("+{}.{}s", millis / 1000, millis % 1000 / 100),
        _ => format!("+{}", duration(millis / 1000)),
    }
}

/// What fraction of `total` is `current`, in so many parts; all of them when there is no total.
pub(crate) fn share(current: u64, total: u64, parts: u64) -> u64 {
    if total == 0 {
        return parts;
    }
    let share = u128::from(current.min(total)) * u128::from(parts) / u128::from(total);
    u64::try_from(share).unwrap_or(parts)
}

/// How far something is, in `width` cells.
pub(crate) fn bar(current: u64, total: u64, width: usize) -> String {
    let full = usize::try_from(share(current, total, width as u64)).unwrap_or(width).min(width);
    "█".repeat(full) + &"░".repeat(width - full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_short_and_never_too_large() {
        for (value, shown) in [
            (0, "0"),
            (999, "999"),
            (1000, "1.0K"),
            (1234, "1.2K"),
            (99_999, "99.9K"),
            (100_000, "100K"),
            (999_999, "999K"),
            (12_500_000, "12.5M"),
            (7_200_000_000, "7.2B"),
            (999_999_999_999_999, "999T"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(counter(value), shown);
        }
    }

    #[test]
    fn times_begin_with_their_largest_unit() {
        for (secs, shown) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 00s"),
            (754, "12m 34s"),
            (3600, "1h 00m 00s"),
            (3725, "1h 02m 05s"),
            (u64::MAX, "5124095576030431h 00m 15s"),
        ] {
            assert_eq!(duration(secs), shown);
        }
        for (millis, shown) in [
            (0, "+0.0s"),
            (1240, "+1.2s"),
            (59_950, "+59.9s"),
            (60_000, "+1m 00s"),
            (3_725_999, "+1h 02m 05s"),
        ] {
            assert_eq!(relative(millis), shown);
        }
    }

    #[test]
    fn a_bar_is_never_longer_than_it_should_be() {
        assert_eq!(bar(754, 1800, 18), "███████░░░░░░░░░░░");
        assert_eq!(bar(0, 0, 3), "███");
        assert_eq!(bar(9, 3, 3), "███");
        assert_eq!(bar(u64::MAX - 1, u64::MAX, 4), "███░");
    }

    #[test]
    fn foreign_text_is_one_harmless_line() {
        assert_eq!(flatten("  a\n\t b\u{2003}c "), "a b c");
        assert_eq!(flatten("x\u{1b}[2Jy\u{7}\u{9b}1m\u{202e}"), "x\\u{1b}[2Jy\\u{7}\\u{9b}1m\\u{202e}");
        assert_eq!(one_line("a  b\n\t\u{1b}"), "a  b\\n\\t\\u{1b}");
        assert_eq!(truncate("abcdef", 6), "abcdef");
        assert_eq!(truncate("éééé", 3), "éé…");
    }
}
