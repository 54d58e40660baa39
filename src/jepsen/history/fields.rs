//! Takes a line of a history apart into its `key=value` pieces. Leans on nothing but the list of keys; what the values
//! mean is left to `decode`.

use super::super::words::words;

words! {
    /// The keys a history line may have, in the order in which they are written. Others are read past.
    pub(super) enum Key {
        Sequence = "sequence" "Count of the event.",
        Process = "process" "Who asked.",
        TimeMillis = "time_millis" "When the answer was in.",
        Operation = "operation" "What was asked.",
        OperationId = "operation_id" "Of the operation.",
        ResourceId = "resource_id" "Of the operation.",
        ResourceIds = "resource_ids" "Of the operation.",
        ReservationId = "reservation_id" "Of the operation.",
        HolderId = "holder_id" "Of the operation.",
        LeaseEpoch = "lease_epoch" "Of the operation.",
        RequiredLsn = "required_lsn" "Of the operation.",
        RequestSlot = "request_slot" "Of the operation.",
        TtlSlots = "ttl_slots" "Of the operation.",
        Outcome = "outcome" "What became of the request.",
        AppliedLsn = "applied_lsn" "Of a committed write.",
        WriteResult = "write_result" "Of a committed write.",
        CommittedReservationId = "committed_reservation_id" "Of a committed write.",
        CommittedHolderId = "committed_holder_id" "Of a committed write.",
        CommittedLeaseEpoch = "committed_lease_epoch" "Of a committed write.",
        ExpiresAtSlot = "expires_at_slot" "Of a committed write.",
        ReleasedLsn = "released_lsn" "Of a committed write.",
        Expired = "expired" "Of a committed write.",
        ReadTarget = "read_target" "Of an answered read.",
        ServedBy = "served_by" "Of an answered read.",
        ServedRole = "served_role" "Of an answered read.",
        ObservedLsn = "observed_lsn" "Of an answered read.",
        ResourceState = "resource_state" "Of an answered read.",
        ReservationState = "reservation_state" "Of an answered read.",
        Reason = "reason" "Of a failure.",
        Version = "version" "Of the text; on the first line only.",
    }
}

/// The values of one line by key. Of a key given twice the last value counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    values: [Option<&'a str>; Key::ALL.len()],
}

impl<'a> Fields<'a> {
    fn none() -> Self {
        Self { values: [None; Key::ALL.len()] }
    }

    /// The value of `key`, if the line has one.
    pub(super) fn get(&self, key: Key) -> Option<&'a str> {
        self.values.get(key as usize).copied().flatten()
    }

    fn set(&mut self, key: Key, value: &'a str) {
        if let Some(slot) = self.values.get_mut(key as usize) {
            *slot = Some(value);
        }
    }
}

/// A line has a piece without `=`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BareWord;

/// Splits lines, and learns from each which key tends to follow which: lines of a history resemble each other, and to
/// see that a key is the expected one takes less time than to find out which one it is.
#[derive(Debug)]
pub(super) struct Splitter {
    /// By key, and at [`START`] what lines tend to begin with: the last key that followed, and the one before that was another.
    followers: [[Key; 2]; Key::ALL.len() + 1],
}

const START: usize = Key::ALL.len();

impl Splitter {
    /// A splitter that has seen no lines.
    pub(super) fn new() -> Self {
        Self { followers: [[Key::Sequence; 2]; Key::ALL.len() + 1] }
    }

    /// Splits a line at white space, and each piece at its first `=`. White space is what Unicode calls so.
    pub(super) fn split<'a>(&mut self, line: &'a str) -> Result<Fields<'a>, BareWord> {
        if line.is_ascii() { self.split_ascii(line) } else { split_any(line) }
    }

    /// Does what [`split_any`] does for the lines that nearly all lines are, several times as fast.
    fn split_ascii<'a>(&mut self, line: &'a str) -> Result<Fields<'a>, BareWord> {
        let mut fields = Fields::none();
        let mut last_key = START;
        let mut at = 0;
        while let Some(&byte) = line.as_bytes().get(at) {
            if is_ascii_white(byte) {
                at += 1;
                continue;
            }
            let rest = line.get(at..).unwrap_or_default();
            let expected = self.followers.get(last_key).copied().unwrap_or([Key::Sequence; 2]);
            let expected = expected.into_iter().find(|key| begins_with(rest, *key));
            let (key, value_at) = if let Some(key) = expected {
                (Some(key), at + key.as_str().len() + 1)
            } else {
                let end =
                    rest.bytes().position(|byte| byte == b'=' || is_ascii_white(byte)).ok_or(BareWord)?;
                let word = rest.get(..end).filter(|word| has_key(rest, word)).ok_or(BareWord)?;
                (Key::from_word(word), at + end + 1)
            };
            let end = white_space_after(line.as_bytes(), value_at);
            if let Some(key) = key {
                fields.set(key, line.get(value_at..end).unwrap_or_default());
                if let Some([last, other]) = self.followers.get_mut(last_key)
                    && *last != key
                {
                    *other = std::mem::replace(last, key);
                }
                last_key = key as usize;
            }
            // Past the white space that ended the value; if it was the end of the line instead, this is past that.
            at = end + 1;
        }
        Ok(fields)
    }
}

/// A key and its `=` as numbers, and which of their bits belong to them.
#[derive(Clone, Copy)]
struct Pattern {
    words: [u64; PATTERN_BYTES / 8],
    masks: [u64; PATTERN_BYTES / 8],
}

/// Enough for every key with its `=`.
const PATTERN_BYTES: usize = 32;

static PATTERNS: [Pattern; Key::ALL.len()] = {
    let mut patterns =
        [Pattern { words: [0; PATTERN_BYTES / 8], masks: [0; PATTERN_BYTES / 8] }; Key::ALL.len()];
    let mut at = 0;
    while at < patterns.len() {
        let key = Key::ALL[at].as_str().as_bytes();
        let mut byte = 0;
        while byte <= key.len() {
            let value = if byte < key.len() { key[byte] } else { b'=' };
            patterns[at].words[byte / 8] |= (value as u64) << (byte % 8 * 8);
            patterns[at].masks[byte / 8] |= 0xFF << (byte % 8 * 8);
            byte += 1;
        }
        at += 1;
    }
    patterns
};

/// Whether the text begins with this key and its `=`, mostly found out in a few steps whatever the key.
fn begins_with(text: &str, key: Key) -> bool {
    let chunk = text.as_bytes().first_chunk::<PATTERN_BYTES>();
    let (Some(chunk), Some(pattern)) = (chunk, PATTERNS.get(key as usize)) else {
        return has_key(text, key.as_str());
    };
    let (words, _) = chunk.as_chunks::<8>();
    let mut differs = 0;
    for ((word, expected), mask) in words.iter().zip(pattern.words).zip(pattern.masks) {
        differs |= (u64::from_le_bytes(*word) ^ expected) & mask;
    }
    differs == 0
}

/// Whether the text begins with this key and its `=`.
fn has_key(text: &str, key: &str) -> bool {
    text.strip_prefix(key).is_some_and(|value| value.starts_with('='))
}

fn split_any(line: &str) -> Result<Fields<'_>, BareWord> {
    let mut fields = Fields::none();
    for piece in line.split_whitespace() {
        let (key, value) = piece.split_once('=').ok_or(BareWord)?;
        if let Some(key) = Key::from_word(key) {
            fields.set(key, value);
        }
    }
    Ok(fields)
}

/// Where the first white space at or after `from` is in an ASCII text, or the length of the text.
fn white_space_after(text: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(chunk) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let candidates = no_higher_than_blank(u64::from_le_bytes(*chunk));
        if candidates == 0 {
            at += 8;
            continue;
        }
        at += candidates.trailing_zeros() as usize / 8;
        if text.get(at).is_some_and(|byte| is_ascii_white(*byte)) {
            return at;
        }
        at += 1;
    }
    let rest = text.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| is_ascii_white(*byte)).unwrap_or(rest.len())
}

/// Marks the highest bit of those of eight ASCII bytes that are a blank or below, all at once.
fn no_higher_than_blank(bytes: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = EACH * 0x80;
    !((bytes | HIGHEST) - EACH * (b' ' as u64 + 1)) & HIGHEST
}

/// The white space of Unicode that is ASCII; unlike in [`u8::is_ascii_whitespace`], the vertical tab is part of it.
fn is_ascii_white(byte: u8) -> bool {
    byte <= b' ' && (byte == b' ' || matches!(byte, b'\t'..=b'\r'))
}

/// Whether a line holds nothing but white space.
pub(super) fn is_blank(line: &str) -> bool {
    line.chars().all(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(line: &str) -> Fields<'_> {
        Splitter::new().split(line).unwrap_or_else(|_| panic!("{line:?} is a good line"))
    }

    #[test]
    fn any_unicode_white_space_separates_and_nothing_else_does() {
        for blank in "\t\n\u{b}\u{c}\r \u{85}\u{a0}\u{1680}\u{2000}\u{2005}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}"
            .chars()
        {
            let line = format!("{blank}sequence=1{blank}{blank}process=p{blank}");
            assert_eq!(split(&line).get(Key::Sequence), Some("1"), "{blank:?}");
            assert_eq!(split(&line).get(Key::Process), Some("p"), "{blank:?}");
        }
        for other in ['\u{1c}', '\u{1f}', '\0', '\u{7f}', '\u{200b}', '\u{feff}'] {
            let line = format!("sequence=1{other}process=p");
            assert_eq!(split(&line).get(Key::Process), None, "{other:?}");
            assert_eq!(split(&line).get(Key::Sequence), line.strip_prefix("sequence="), "{other:?}");
        }
    }

    #[test]
    fn the_first_equals_sign_ends_the_key_and_the_last_value_of_a_key_counts() {
        let line = "process=a=b= colour=blue =nothing sequence= sequence=2 expired= operation_ID=7";
        let fields = split(line);
        assert_eq!(fields.get(Key::Process), Some("a=b="));
        assert_eq!(fields.get(Key::Sequence), Some("2"));
        assert_eq!(fields.get(Key::Expired), Some(""));
        assert_eq!(fields.get(Key::OperationId), None);
    }

    #[test]
    fn what_followed_a_key_before_need_not_follow_it_again() {
        let mut splitter = Splitter::new();
        for line in [
            "operation=a resource_id=1",
            "operation=b resource_ids=2",
            "operation=c resource_id=3",
            "operation_id=4",
        ] {
            assert_eq!(splitter.split(line), split_any(line), "{line:?}");
        }
    }

    #[test]
    fn a_piece_without_equals_sign_spoils_the_line() {
        for line in
            ["word", "sequence=1 word", "word sequence=1", "sequence =1", "sequence= 1", "é sequence=1"]
        {
            assert_eq!(Splitter::new().split(line), Err(BareWord), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_way_through_ascii_finds_what_the_slow_way_finds(
            lines in proptest::collection::vec(
                "((sequence|process|expired|reason|x)?=?[a-z0-9=,:]{0,20}[ \t\n\u{b}\u{c}\r\u{1c}\0]{0,2}){0,6}",
                1..4,
            )
        ) {
            let mut splitter = Splitter::new();
            for line in &lines {
                prop_assert_eq!(splitter.split_ascii(line), split_any(line));
            }
        }
    }
}
