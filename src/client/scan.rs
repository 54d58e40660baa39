//! Values of events read fast, where they have the form in which they are written: no white space, no escapes, no key twice.
//!
//! Whatever looks otherwise is left to the general parser, which is the one that says what is wrong. A property holds the two
//! against each other.

use super::record::Fields;
use crate::history::scan::Scanner;
use std::borrow::Cow;

/// Reads a value into fields without any, if it is of the form that is written.
#[must_use]
pub fn fields<'a>(text: &'a str, found: &mut Fields<'a>) -> Option<()> {
    let mut scanner = Scanner::new(text);
    scanner.expect("{")?;
    if scanner.expect("}").is_some() {
        return scanner.is_done().then_some(());
    }
    loop {
        let key = scanner.text()?;
        scanner.expect(":")?;
        match key {
            "op" => set(&mut found.op, word(&mut scanner)?)?,
            "resource" => set(&mut found.resource, word(&mut scanner)?)?,
            "resources" => set(&mut found.resources, words(&mut scanner)?)?,
            "holder" => set(&mut found.holder, word(&mut scanner)?)?,
            "ttl" => set(&mut found.ttl, scanner.number()?)?,
            "slot" => set(&mut found.slot, scanner.number()?)?,
            "fence" => set(&mut found.fence, scanner.number()?)?,
            "lsn" => set(&mut found.lsn, scanner.number()?)?,
            "code" => set(&mut found.code, word(&mut scanner)?)?,
            "state" => set(&mut found.state, word(&mut scanner)?)?,
            "lease" => set(&mut found.lease, word(&mut scanner)?)?,
            "epoch" => set(&mut found.epoch, scanner.number()?)?,
            "deadline" => set(&mut found.deadline, scanner.number()?)?,
            "version" => set(&mut found.version, scanner.number()?)?,
            "created" => set(&mut found.created, scanner.number()?)?,
            "released" => set(&mut found.released, scanner.number()?)?,
            "retire_after" => set(&mut found.retire_after, scanner.number()?)?,
            "members" => set(&mut found.members, words(&mut scanner)?)?,
            "processed" => set(&mut found.processed, scanner.number()?)?,
            "last_lsn" => set(&mut found.last_lsn, scanner.number()?)?,
            "error" => set(&mut found.error, word(&mut scanner)?)?,
            "required" => set(&mut found.required, scanner.number()?)?,
            "last_applied" => set(&mut found.last_applied, scanner.number()?)?,
            "f" => set(&mut found.f, word(&mut scanner)?)?,
            _ => return None,
        }
        match scanner.byte()? {
            b',' => {}
            b'}' => return scanner.is_done().then_some(()),
            _ => return None,
        }
    }
}

#[inline]
fn set<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

#[inline]
fn word<'a>(scanner: &mut Scanner<'a>) -> Option<Cow<'a, str>> {
    scanner.text().map(Cow::Borrowed)
}

fn words<'a>(scanner: &mut Scanner<'a>) -> Option<Vec<Cow<'a, str>>> {
    scanner.expect("[")?;
    let mut found = Vec::new();
    if scanner.expect("]").is_some() {
        return Some(found);
    }
    loop {
        found.push(word(scanner)?);
        match scanner.byte()? {
            b',' => {}
            b']' => return Some(found),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::jsonl::{Reader, write_event};
    use crate::history::{Event, Kind, Process};
    use fastrand::Rng;

    fn number(rng: &mut Rng) -> Option<u64> {
        rng.bool().then(|| rng.u64(..) >> rng.u32(..64))
    }

    fn word(rng: &mut Rng) -> Option<Cow<'static, str>> {
        let words =
            ["", "ok", "resource_busy", "connection lost", "a \"quoted\" word", "two\nlines", "größer"];
        match rng.u8(..4) {
            0 | 1 => None,
            2 => Some(Cow::Owned((rng.u128(..) >> rng.u32(..128)).to_string())),
            _ => Some(Cow::Borrowed(words[rng.usize(..words.len())])),
        }
    }

    fn value(rng: &mut Rng) -> Fields<'static> {
        let words = |rng: &mut Rng| {
            let count = rng.usize(..3);
            rng.bool().then(|| (0..count).filter_map(|_| word(rng)).collect())
        };
        Fields {
            op: word(rng),
            resource: word(rng),
            resources: words(rng),
            holder: word(rng),
            ttl: number(rng),
            slot: number(rng),
            fence: number(rng),
            lsn: number(rng),
            code: word(rng),
            state: word(rng),
            lease: word(rng),
            epoch: number(rng),
            deadline: number(rng),
            version: number(rng),
            created: number(rng),
            released: number(rng),
            retire_after: number(rng),
            members: words(rng),
            processed: number(rng),
            last_lsn: number(rng),
            error: word(rng),
            required: number(rng),
            last_applied: number(rng),
            f: word(rng),
        }
    }

    /// A line as it is written, and often with something changed.
    fn line(rng: &mut Rng) -> Vec<u8> {
        let value = rng.u8(..8) > 0;
        let event = Event {
            index: 0,
            time: number(rng).unwrap_or(7),
            process: if rng.u8(..4) > 0 { Process::Client(rng.u64(..50)) } else { Process::Nemesis },
            kind: Kind::ALL[rng.usize(..4)],
            f: ["reserve", "tick", "cut-link", "x\\y"][rng.usize(..4)].to_owned(),
            value: value.then(|| serde_json::value::to_raw_value(&self::value(rng)).unwrap()),
            replica: rng.bool().then(|| rng.u64(..4)),
        };
        let mut text = Vec::new();
        write_event(&mut text, &event).unwrap();
        text.pop();
        let other = br#"0123456789{}[]",:\ enullxtrueoplsnf-.+"#;
        while rng.u8(..3) == 0 {
            let at = rng.usize(..text.len());
            match rng.u8(..4) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, other[rng.usize(..other.len())]),
                2 => text[at] = other[rng.usize(..other.len())],
                _ => {
                    let part = text[at..text.len().min(at + rng.usize(..20))].to_vec();
                    text.splice(at..at, part);
                }
            }
        }
        text.retain(|byte| *byte != b'\n');
        text
    }

    #[test]
    fn what_is_read_fast_is_what_the_general_parser_reads() {
        let mut rng = Rng::with_seed(1);
        let (mut fast, mut broken) = (0, 0);
        for _ in 0..60_000 {
            let line = line(&mut rng);
            let text = [b"{\"version\":1}\n", &line[..], b"\n"].concat();
            let (_, mut reader) = Reader::new(&text[..]).unwrap();
            assert!(reader.advance().unwrap());
            let brief = reader.brief();
            let quick = brief.and_then(|brief| {
                let mut found = Fields::default();
                if let Some(value) = brief.value {
                    fields(value, &mut found)?;
                }
                Some((brief.stamp, brief.f, found))
            });
            let event = reader.event();
            broken += u32::from(event.is_err());
            let Some((stamp, f, fields)) = quick else { continue };
            let shown = String::from_utf8_lossy(&line);
            let event = event.unwrap_or_else(|error| panic!("{error}: {shown}"));
            assert_eq!((stamp, f), (event.stamp(), event.f.as_str()), "{shown}");
            let general = event.value.as_deref().map_or_else(Fields::default, |value| {
                serde_json::from_str(value.get()).unwrap_or_else(|error| panic!("{error}: {shown}"))
            });
            assert_eq!(fields, general, "{shown}");
            fast += 1;
        }
        // Both kinds are there in numbers, or nothing was compared.
        assert!(fast > 5_000 && broken > 5_000, "{fast} {broken}");
    }
}
