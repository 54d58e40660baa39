//! Single values of EDN, to and from those of JSON.

use serde_json::{Map, Number, Value};
use std::iter::Peekable;
use std::str::CharIndices;

/// How deep values may be nested: a little deeper than JSON is read, for the map around an event's value.
const MOST_DEPTH: usize = 130;

/// The one value of a line; none if there are only blanks and comments.
pub(super) fn parse(text: &str) -> Result<Option<Value>, String> {
    let mut parser = Parser { text, rest: text.char_indices().peekable() };
    parser.blanks(0)?;
    if parser.rest.peek().is_none() {
        return Ok(None);
    }
    let value = parser.value(0)?;
    parser.blanks(0)?;
    match parser.rest.peek() {
        None => Ok(Some(value)),
        Some(_) => Err(parser.expected("the end of the line")),
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
}

impl<'a> Parser<'a> {
    fn at(&mut self) -> usize {
        self.rest.peek().map_or(self.text.len(), |(at, _)| *at)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, found)| *found)
    }

    fn next(&mut self) -> Option<char> {
        self.rest.next().map(|(_, found)| found)
    }

    /// What is wrong here. Columns are bytes, from 1.
    fn expected(&mut self, what: &str) -> String {
        let column = self.at() + 1;
        match self.peek() {
            Some(found) => format!("column {column}: expected {what}, found {found:?}"),
            None => format!("column {column}: expected {what}, found the end of the line"),
        }
    }

    fn wrong(&self, at: usize, problem: &str) -> String {
        format!("column {}: {problem}", at + 1)
    }

    /// Passes over blanks, comments and values that are marked as left out.
    fn blanks(&mut self, depth: usize) -> Result<(), String> {
        loop {
            match self.peek() {
                Some(';') => while self.next().is_some() {},
                Some(found) if found.is_whitespace() || found == ',' => {
                    self.next();
                }
                Some('#') if self.text.get(self.at()..).is_some_and(|rest| rest.starts_with("#_")) => {
                    self.next();
                    self.next();
                    self.blanks(self.deeper(depth)?)?;
                    self.value(self.deeper(depth)?)?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn deeper(&self, depth: usize) -> Result<usize, String> {
        if depth >= MOST_DEPTH { Err(format!("nested deeper than {MOST_DEPTH}")) } else { Ok(depth + 1) }
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        match self.peek() {
            Some('"') => self.string().map(Value::String),
            Some('{') => {
                self.next();
                self.map(self.deeper(depth)?)
            }
            Some(opening @ ('[' | '(')) => {
                self.next();
                self.sequence(if opening == '[' { ']' } else { ')' }, self.deeper(depth)?)
            }
            Some('#') => {
                self.next();
                if self.peek() == Some('{') {
                    self.next();
                    return self.sequence('}', self.deeper(depth)?);
                }
                // A tag, and what it is said of.
                self.token()?;
                self.blanks(self.deeper(depth)?)?;
                self.value(self.deeper(depth)?)
            }
            Some(':') => {
                self.next();
                self.token().map(|word| Value::String(word.to_owned()))
            }
            Some('\\') => self.character(),
            Some(_) => self.word(),
            None => Err(self.expected("a value")),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, String> {
        let mut map = Map::new();
        loop {
            self.blanks(depth)?;
            let at = self.at();
            let key = match self.peek() {
                Some('}') => {
                    self.next();
                    return Ok(Value::Object(map));
                }
                Some(_) => self.value(depth)?,
                None => return Err(self.expected("a key or `}`")),
            };
            let key = match key {
                Value::String(key) => key,
                Value::Number(number) => number.to_string(),
                _ => return Err(self.wrong(at, "expected a keyword, a string or a number as a key")),
            };
            self.blanks(depth)?;
            let value = self.value(depth)?;
            if map.contains_key(&key) {
                return Err(self.wrong(at, &format!("expected each key once, found {key:?} again")));
            }
            map.insert(key, value);
        }
    }

    fn sequence(&mut self, closing: char, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        loop {
            self.blanks(depth)?;
            match self.peek() {
                Some(found) if found == closing => {
                    self.next();
                    return Ok(Value::Array(items));
                }
                Some(_) => items.push(self.value(depth)?),
                None => return Err(self.expected(&format!("a value or `{closing}`"))),
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.next();
        let mut string = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(string),
                Some('\\') => string.push(self.escape()?),
                Some(found) => string.push(found),
                None => return Err(self.expected("the end of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let at = self.at();
        match self.next() {
            Some(found @ ('"' | '\\' | '/')) => Ok(found),
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            Some('r') => Ok('\r'),
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('u') => {
                let high = self.four_digits()?;
                // Two halves of one character, as Java writes those beyond 16 bits.
                if (0xd800..0xdc00).contains(&high) && self.next() == Some('\\') && self.next() == Some('u') {
                    let low = self.four_digits()?;
                    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400);
                    let whole = low.and_then(|low| char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + low));
                    return whole.ok_or_else(|| self.wrong(at, "expected the other half of a character"));
                }
                char::from_u32(high).ok_or_else(|| self.wrong(at, "expected a character"))
            }
            _ => Err(self.wrong(at, "expected one of \" \\ / n t r b f u after a backslash")),
        }
    }

    fn four_digits(&mut self) -> Result<u32, String> {
        let at = self.at();
        let digits =
            self.text.get(at..at + 4).filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let number = number.ok_or_else(|| self.wrong(at, "expected four hexadecimal digits"))?;
        for _ in 0..4 {
            self.next();
        }
        Ok(number)
    }

    fn character(&mut self) -> Result<Value, String> {
        self.next();
        let at = self.at();
        let first = self.next().ok_or_else(|| self.wrong(at, "expected a character"))?;
        let rest = if is_part_of_word(first) { self.token_after(at)? } else { "" };
        let one = |found: char| Ok(Value::String(found.to_string()));
        match rest {
            "newline" => one('\n'),
            "space" => one(' '),
            "tab" => one('\t'),
            "return" => one('\r'),
            _ if rest.chars().count() <= 1 => one(first),
            other => Err(self.wrong(at, &format!("expected a character, found {other:?}"))),
        }
    }

    /// The letters from a place on that has been read, up to what ends a word.
    fn token_after(&mut self, from: usize) -> Result<&'a str, String> {
        while self.peek().is_some_and(is_part_of_word) {
            self.next();
        }
        let to = self.at();
        self.text.get(from..to).ok_or_else(|| self.expected("a word"))
    }

    fn token(&mut self) -> Result<&'a str, String> {
        let from = self.at();
        let token = self.token_after(from)?;
        if token.is_empty() { Err(self.expected("a word")) } else { Ok(token) }
    }

    fn word(&mut self) -> Result<Value, String> {
        let at = self.at();
        let token = self.token()?;
        match token {
            "nil" => return Ok(Value::Null),
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            _ => {}
        }
        let unsigned = token.strip_prefix(['-', '+']).unwrap_or(token);
        if !unsigned.starts_with(|first: char| first.is_ascii_digit()) {
            return Ok(Value::String(token.to_owned()));
        }
        let wrong = || self.wrong(at, &format!("expected a number of 64 bits, found {token:?}"));
        if unsigned.contains(['.', 'e', 'E']) {
            let number: f64 = token.trim_end_matches('M').parse().map_err(|_| wrong())?;
            return Number::from_f64(number).map(Value::Number).ok_or_else(wrong);
        }
        let digits = token.trim_end_matches('N');
        let natural = digits.parse::<u64>().map(Number::from);
        natural.or_else(|_| digits.parse::<i64>().map(Number::from)).map(Value::Number).map_err(|_| wrong())
    }
}

fn is_part_of_word(found: char) -> bool {
    !found.is_whitespace() && !matches!(found, ',' | ';' | '"' | '(' | ')' | '[' | ']' | '{' | '}' | '\\')
}

/// Writes a value.
pub(super) fn write(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("nil"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { " " } else { "" });
                write(out, item);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (at, (key, item)) in map.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write_word(out, key);
                out.push(' ');
                write(out, item);
            }
            out.push('}');
        }
    }
}

/// Writes a keyword, or a string where it would be none.
pub(super) fn write_word(out: &mut String, word: &str) {
    let begins_well = word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if begins_well && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.?!*+".contains(&byte)) {
        out.push(':');
        out.push_str(word);
    } else {
        write_string(out, word);
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for found in text.chars() {
        match found {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            control if control.is_ascii_control() => out.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let number = prop_oneof![
            any::<u64>().prop_map(Number::from),
            any::<i64>().prop_map(Number::from),
            any::<f64>().prop_filter_map("finite", Number::from_f64),
        ];
        let text = "(?s).{0,12}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            number.prop_map(Value::Number),
            text.prop_map(Value::String),
        ];
        leaf.prop_recursive(6, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::btree_map(text, inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_is_read_as_it_was_written(value in any_json()) {
            let mut text = String::new();
            write(&mut text, &value);
            prop_assert!(!text.contains('\n'));
            prop_assert_eq!(parse(&text), Ok(Some(value)));
        }

        #[test]
        fn garbage_is_refused_or_read_and_nothing_else(text in r#"[\[\](){}"\\#:;_ ,a-f0-9.eEuM+N-]{0,40}|(?s).{0,40}"#) {
            let _ = parse(&text);
        }
    }

    #[test]
    fn depth_is_bounded() {
        for opening in ["[", "{:a ", "#_", "#a ", "(", "#{"] {
            let error = parse(&opening.repeat(100_000)).unwrap_err();
            assert!(error.contains("nested deeper"), "{error}");
        }
        let deep = format!("{}{}", "[".repeat(120), "]".repeat(120));
        assert!(parse(&deep).unwrap().is_some());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_column() {
        for (text, expected) in [
            ("[1 2", "column 5: expected a value or `]`, found the end of the line"),
            ("\"abc", "column 5: expected the end of a string, found the end of the line"),
            ("{:a 1 :a 2}", "column 7: expected each key once, found \"a\" again"),
            ("{[1] 2}", "column 2: expected a keyword, a string or a number as a key"),
            ("1 2", "column 3: expected the end of the line, found '2'"),
            (
                "99999999999999999999",
                "column 1: expected a number of 64 bits, found \"99999999999999999999\"",
            ),
            ("1/2", "column 1: expected a number of 64 bits, found \"1/2\""),
            ("1e999", "column 1: expected a number of 64 bits, found \"1e999\""),
            (r#""\x""#, "column 3: expected one of \" \\ / n t r b f u after a backslash"),
            (r#""\ud800 ""#, "column 3: expected a character"),
            ("]", "column 1: expected a word, found ']'"),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
    }
}
