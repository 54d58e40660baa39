//! Reading lines of exactly the form in which they are written, fast: the keys in their order, no white space, no escapes.
//!
//! Whatever looks otherwise is left to the general parser, which is the one that says what is wrong. A property holds the two
//! against each other.

use super::{Kind, Process, Stamp};

/// Printable ASCII but quotation mark and backslash: what stands for itself in a text.
const IS_PLAIN: [bool; 256] = {
    let mut is_plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        is_plain[byte as usize] = byte != b'"' && byte != b'\\';
        byte += 1;
    }
    is_plain
};

/// Text that is read from its beginning. Everything returns none where the text is of another form than expected.
#[derive(Debug, Clone, Copy)]
pub struct Scanner<'a>(&'a str);

impl<'a> Scanner<'a> {
    /// A scanner of all of it.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// The text behind what has been read so far.
    #[must_use]
    pub fn rest(&self) -> &'a str {
        self.0
    }

    /// Takes this text and nothing else.
    #[inline]
    pub fn expect(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    /// Takes one byte.
    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        let first = *self.0.as_bytes().first()?;
        self.0 = self.0.get(1..)?;
        Some(first)
    }

    /// Takes a number of at most 19 digits, so that it fits whatever they are.
    #[inline]
    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        let mut digits = 0;
        for byte in self.0.bytes() {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            digits += 1;
            if digits > 19 {
                return None;
            }
            number = number * 10 + u64::from(digit);
        }
        let is_number = digits == 1 || digits > 1 && !self.0.starts_with('0');
        self.0 = self.0.get(digits..)?;
        is_number.then_some(number)
    }

    /// Takes a text in quotes out of printable ASCII without escapes.
    #[inline]
    pub fn text(&mut self) -> Option<&'a str> {
        self.expect("\"")?;
        let end = self.0.bytes().position(|byte| !IS_PLAIN[usize::from(byte)])?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.strip_prefix('"')?;
        Some(text)
    }
}

/// A line whose value nobody has looked at.
#[derive(Debug, Clone, Copy)]
pub struct Brief<'a> {
    /// When, who, what kind.
    pub stamp: Stamp,
    /// What the operation asks for, as the history calls it.
    pub f: &'a str,
    /// Text of the value. Whether it is one, and only one, is for whoever reads it to find out: if it is not, the line is to be
    /// read by the general parser.
    pub value: Option<&'a str>,
}

/// Reads a line, if it is of the form that is written.
#[must_use]
pub fn brief(line: &[u8]) -> Option<Brief<'_>> {
    let mut scanner = Scanner::new(std::str::from_utf8(line).ok()?);
    scanner.expect("{\"index\":")?;
    let index = scanner.number()?;
    scanner.expect(",\"time\":")?;
    let time = scanner.number()?;
    scanner.expect(",\"process\":")?;
    let process = match scanner.number() {
        Some(number) => Process::Client(number),
        None => {
            scanner.expect("\"nemesis\"")?;
            Process::Nemesis
        }
    };
    scanner.expect(",\"type\":")?;
    let kind = Kind::from_word(scanner.text()?)?;
    scanner.expect(",\"f\":")?;
    let f = scanner.text()?;
    let mut rest = scanner.rest().strip_suffix('}')?;
    let mut replica = None;
    if let Some((value, number)) = split_replica(rest) {
        (rest, replica) = (value, Some(number));
    }
    let value = match rest {
        "" => None,
        _ => Some(rest.strip_prefix(",\"value\":")?),
    };
    Some(Brief { stamp: Stamp { index, time, process, kind, replica }, f, value })
}

/// Cuts `,"replica":N` off the end.
fn split_replica(rest: &str) -> Option<(&str, u64)> {
    let digits = rest.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (before, number) = rest.split_at(rest.len() - digits);
    let before = before.strip_suffix(",\"replica\":")?;
    let mut scanner = Scanner::new(number);
    Some((before, scanner.number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_is_read() {
        let read =
            |text: &str| brief(text.as_bytes()).map(|brief| (brief.stamp.replica, brief.value.is_some()));
        let line =
            |rest: &str| format!(r#"{{"index":0,"time":5,"process":3,"type":"ok","f":"reserve"{rest}}}"#);
        assert_eq!(read(&line("")), Some((None, false)));
        assert_eq!(read(&line(r#","value":{"lsn":1}"#)), Some((None, true)));
        assert_eq!(read(&line(r#","value":{"lsn":1},"replica":2"#)), Some((Some(2), true)));
        assert_eq!(read(&line(r#","replica":2"#)), Some((Some(2), false)));
        for other in [r#","replica":02"#, r#","more":1"#, r#" ,"replica":2"#] {
            assert_eq!(read(&line(other)), None, "{other}");
        }
        assert_eq!(read(&line("").replace("reserve", "res\\u0065rve")), None);
        assert_eq!(read(&line("").replace(":0,", ":00,")), None);
        assert_eq!(read(&line("").replace(":5,", ":18446744073709551615,")), None);
        assert_eq!(read(&line("").replace(":3,", ":-3,")), None);
    }
}
