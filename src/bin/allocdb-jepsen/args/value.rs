//! The kinds of values that flags take: how each is read, and what is said about one that cannot be.
//!
//! A refused value is described by a whole sentence that quotes it as it was given; the reader shows the sentence as
//! it is. Nothing here looks at the world: a path need not exist and an address need not answer.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use allocdb_node::history::reader;
use allocdb_node::ids::ReplicaId;
use allocdb_node::testbed::{Arch, Lane as TestbedLane};
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};

use super::command::{Format, HistoryFormat, Lane};

/// Any path: the empty one and those that are not UTF-8 included.
pub(super) fn path() -> ValueParser {
    OsStringValueParser::new().map(PathBuf::from).into()
}

/// Free text for `flag`; a [`String`], so it must be UTF-8.
pub(super) fn text(flag: &'static str) -> ValueParser {
    OsStringValueParser::new()
        .try_map(move |given| {
            given.into_string().map_err(|given| format!("{}: not UTF-8", invalid(flag, &given)))
        })
        .into()
}

/// The number of a replica, for `flag`; whether the cluster has such a replica is for its layout to say.
pub(super) fn replica_id(flag: &'static str) -> ValueParser {
    OsStringValueParser::new()
        .try_map(move |given| parsed(&given).map(ReplicaId).ok_or_else(|| invalid(flag, &given)))
        .into()
}

/// A processor architecture, for `flag`.
pub(super) fn arch(flag: &'static str) -> ValueParser {
    OsStringValueParser::new()
        .try_map(move |given| given.to_str().and_then(Arch::from_word).ok_or_else(|| invalid(flag, &given)))
        .into()
}

/// The number of a lane, for `flag`.
pub(super) fn lane_number(flag: &'static str) -> ValueParser {
    OsStringValueParser::new()
        .try_map(move |given| {
            let expected =
                || format!("{}; expected a number from 0 to {}", invalid(flag, &given), TestbedLane::LAST);
            parsed(&given).and_then(TestbedLane::new).ok_or_else(expected)
        })
        .into()
}

/// 64 hexadecimal digits, for `flag`; in lower case.
pub(super) fn sha256(flag: &'static str) -> ValueParser {
    OsStringValueParser::new()
        .try_map(move |given| match given.to_str() {
            Some(digits) if digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                Ok(digits.to_ascii_lowercase())
            }
            _ => Err(format!("{}; expected 64 hexadecimal digits", invalid(flag, &given))),
        })
        .into()
}

/// A numeric `host:port`, for `flag`.
pub(super) fn socket_addr(flag: &'static str) -> ValueParser {
    OsStringValueParser::new()
        .try_map(move |given| parsed::<SocketAddr>(&given).ok_or_else(|| invalid(flag, &given)))
        .into()
}

/// The pause between two screens as a [`Duration`].
pub(super) fn refresh_millis() -> ValueParser {
    OsStringValueParser::new().try_map(|given| read_refresh_millis(&given)).into()
}

/// For whom an answer is: `text` or `json`.
pub(super) fn format() -> ValueParser {
    OsStringValueParser::new()
        .try_map(|given| match given.to_str() {
            Some("text") => Ok(Format::Text),
            Some("json") => Ok(Format::Json),
            _ => Err(format!("{}; expected text or json", invalid("format", &given))),
        })
        .into()
}

/// A format of a history of operations: `edn`, `jsonl` or `trace`.
pub(super) fn history_format() -> ValueParser {
    OsStringValueParser::new()
        .try_map(|given| {
            let format = match given.to_str() {
                Some("trace") => Some(HistoryFormat::Trace),
                other => other.and_then(reader::Format::from_word).map(HistoryFormat::Of),
            };
            format.ok_or_else(|| format!("{}; expected edn, jsonl or trace", invalid("to", &given)))
        })
        .into()
}

/// A [`Lane`] as `<name>,<workspace>,<output-root>`.
pub(super) fn lane() -> ValueParser {
    OsStringValueParser::new().try_map(|given| read_lane(&given)).into()
}

pub(super) fn invalid(flag: &str, given: &OsStr) -> String {
    format!("invalid value for `--{flag}`: `{}`", given.display())
}

fn parsed<T: FromStr>(given: &OsStr) -> Option<T> {
    given.to_str()?.parse().ok()
}

fn read_refresh_millis(given: &OsString) -> Result<Duration, String> {
    /// Every refresh asks every replica; more often than this would only keep them busy.
    const SHORTEST: Duration = Duration::from_millis(250);
    // Bytes that are not UTF-8 become replacement characters: invalid digits, as they should be.
    match given.to_string_lossy().parse() {
        Ok(millis) => Ok(Duration::from_millis(millis).max(SHORTEST)),
        Err(why) => Err(format!("invalid --refresh-millis value `{}`: {why}", given.display())),
    }
}

fn read_lane(given: &OsString) -> Result<Lane, String> {
    // Three parts at most, so an output root may contain commas; an empty part leaves fewer than three.
    let mut parts =
        given.as_bytes().splitn(3, |byte| *byte == b',').map(trimmed).filter(|part| !part.is_empty());
    let lane = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(workspace), Some(output_root)) => std::str::from_utf8(name).ok().map(|name| Lane {
            name: name.to_owned(),
            workspace: OsStr::from_bytes(workspace).into(),
            output_root: OsStr::from_bytes(output_root).into(),
        }),
        _ => None,
    };
    lane.ok_or_else(|| {
        format!("invalid --lane value `{}`; expected <name,workspace,output-root>", given.display())
    })
}

/// Without leading and trailing Unicode white space. Works on bytes because a path need not be UTF-8.
fn trimmed(part: &[u8]) -> &[u8] {
    let leading =
        part.utf8_chunks().next().map_or(0, |chunk| chunk.valid().len() - chunk.valid().trim_start().len());
    let part = &part[leading..];
    let trailing = part
        .utf8_chunks()
        .last()
        .filter(|chunk| chunk.invalid().is_empty())
        .map_or(0, |chunk| chunk.valid().len() - chunk.valid().trim_end().len());
    &part[..part.len() - trailing]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_is_an_unsigned_number_of_milliseconds_and_never_under_250() {
        for (given, millis) in [
            ("2000", 2000),
            ("+300", 300),
            ("000251", 251),
            ("0", 250),
            ("249", 250),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(read_refresh_millis(&given.into()), Ok(Duration::from_millis(millis)), "{given:?}");
        }
    }

    #[test]
    fn a_refused_refresh_says_why() {
        for (given, why) in [
            ("", "cannot parse integer from empty string"),
            ("18446744073709551616", "number too large to fit in target type"),
            ("99999999999999999999x", "number too large to fit in target type"),
            ("18446744073709551615x", "invalid digit found in string"),
            ("soon", "invalid digit found in string"),
            ("-1", "invalid digit found in string"),
            ("+", "invalid digit found in string"),
            ("++1", "invalid digit found in string"),
            (" 5", "invalid digit found in string"),
            ("1_000", "invalid digit found in string"),
            ("٣", "invalid digit found in string"),
        ] {
            let expected = format!("invalid --refresh-millis value `{given}`: {why}");
            assert_eq!(read_refresh_millis(&given.into()), Err(expected));
        }
    }

    #[test]
    fn a_lane_is_split_at_two_commas_and_trimmed() {
        for (given, name, workspace, output_root) in [
            ("a,ws,out", "a", "ws", "out"),
            (" lane a , ws ,out,1", "lane a", "ws", "out,1"),
            ("\u{2003}a\u{a0},\tb\n,c,", "a", "b", "c,"),
            ("a,b,,", "a", "b", ","),
        ] {
            let lane =
                Lane { name: name.into(), workspace: workspace.into(), output_root: output_root.into() };
            assert_eq!(read_lane(&given.into()), Ok(lane), "{given:?}");
        }
    }

    #[test]
    fn a_lane_with_an_empty_or_missing_part_is_refused_as_it_was_given() {
        for given in
            ["", "a", "a,b", "a,,c", ",b,c", "a,b,", "a,b, ", " ,b,c", "a,\u{3000},c", ",,", "a,,b,c"]
        {
            let expected = format!("invalid --lane value `{given}`; expected <name,workspace,output-root>");
            assert_eq!(read_lane(&given.into()), Err(expected));
        }
    }

    #[test]
    fn the_paths_of_a_lane_need_not_be_utf8_but_its_name_must_be() {
        let given = OsStr::from_bytes(b"a, \xffws ,out\xff\xe2\x80\x83").to_owned();
        let lane = read_lane(&given).unwrap();
        assert_eq!(lane.workspace.as_os_str().as_bytes(), b"\xffws");
        assert_eq!(lane.output_root.as_os_str().as_bytes(), b"out\xff");

        let given = OsStr::from_bytes(b"a\xff,ws,out").to_owned();
        assert!(
            read_lane(&given).unwrap_err().starts_with("invalid --lane value `a\u{fffd},ws,out`; expected")
        );
    }
}
