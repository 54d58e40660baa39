//! Messages, one a file, as they cross a socket.
//!
//! Every binary message must decode, encode to the same bytes again, and be no message any more with a byte less or a byte
//! more. What it holds must be what the table in the folder's README says. Texts are compared with what a replica of this
//! build says when it is given cause to.

use std::collections::BTreeMap;
use std::path::Path;

use allocdb_node::allocator::payload::{decode_client, decode_internal, encode_client, encode_internal};
use allocdb_node::allocator::{Command, PayloadKind};
use allocdb_node::api::{self, Request};
use allocdb_node::cluster::ControlStatus;
use allocdb_node::cluster::control::command;
use allocdb_node::ids::Lsn;
use allocdb_node::replica::Role;
use allocdb_node::replica::message::{self, PeerRequest};
use anyhow::{Context as _, Result, bail};

use super::Bench;
use super::fields::{self, Fields, Payload};
use super::recorded::{case_names, from_hex, read, read_text};
use super::table;
use super::tally::{Problems, Tally, differing, differing_text, shown};
use super::texts;

const HEX: &str = ".hex";

/// How the README shows a line end inside a text.
const LINE_END_SIGN: &str = "⏎";

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    let readme = folder.join("README.md");
    let rows = if readme.is_file() { table::rows_by_name(&read_text(&readme)?) } else { BTreeMap::new() };
    if rows.is_empty() {
        tally.note("the decoded values: there is no README.md that lists them");
    }
    let names = case_names(folder, HEX)?;
    let mut said = texts::collect(bench, &names)?;
    for name in names {
        let file = format!("{name}{HEX}");
        let row = rows.get(&file);
        if row.is_none() && !rows.is_empty() {
            tally.note(format!("the values of {file}: README.md does not list it"));
        }
        if name.starts_with("text-") && !said.contains_key(&name) {
            tally.note(format!("{file} with a replica's reply: it is not known what makes one say this"));
        }
        tally.case(&file, || {
            let bytes = from_hex(&read_text(&folder.join(&file))?)?;
            let mut problems = if is_text(&name) {
                compare_text(&name, &bytes, row, said.remove(name.as_str()))
            } else {
                compare_binary(&name, &bytes, row)?
            };
            let length = row.and_then(|row| row.get(1)).and_then(|cell| cell.parse().ok());
            problems.extend(length.and_then(|length: usize| differing("bytes", &length, &bytes.len())));
            Ok(problems)
        });
    }
    for name in case_names(folder, ".txt")? {
        let file = format!("{name}.txt");
        tally.case(&file, || {
            let bytes = read(&folder.join(&file))?;
            let status = ControlStatus::decode(&bytes)?;
            let mut problems = Problems::new();
            problems.extend(differing_text("encoded again", &bytes, status.encode().as_bytes()));
            problems.extend(differing_status(&name, &status));
            Ok(problems)
        });
    }
    Ok(())
}

fn is_text(name: &str) -> bool {
    name.starts_with("text-") || name.starts_with("control-request-")
}

/// A decoded message.
struct Message {
    fields: Fields,
    encoded: Vec<u8>,
    problems: Problems,
}

/// Decodes a message of the kind that the file's name says.
fn decode(name: &str, bytes: &[u8]) -> Result<Message> {
    let mut problems = Problems::new();
    let (fields, encoded) = if name.starts_with("request-") {
        let request = api::decode_request(bytes)?;
        let payload = match &request {
            Request::Submit { payload, .. } => Some(open(PayloadKind::Client, payload, &mut problems)?),
            _ => None,
        };
        (fields::request(&request, payload.as_ref()), api::encode_request(&request))
    } else if name.starts_with("response-") {
        let response = api::decode_response(bytes)?;
        (fields::response(&response), api::encode_response(&response))
    } else if name.starts_with("protocol-") && name.ends_with("-ack") {
        let ack = message::decode_ack(bytes)?;
        (fields::ack(&ack), message::encode_ack(&ack))
    } else if name.starts_with("protocol-") {
        let request = message::decode_request(bytes)?;
        let payload = match &request {
            PeerRequest::Prepare(entry) => Some(open(entry.kind, &entry.payload, &mut problems)?),
            PeerRequest::PrepareBatch(_)
            | PeerRequest::Commit { .. }
            | PeerRequest::Snapshot(_)
            | PeerRequest::Claim(_) => None,
        };
        (fields::peer_request(&request, payload.as_ref()), message::encode_request(&request))
    } else if name.starts_with("internal-command-") {
        let payload = open(PayloadKind::Internal, bytes, &mut problems)?;
        (fields::payload(&payload), encode_internal(&payload.command))
    } else {
        bail!("the name says no kind of message that is known");
    };
    Ok(Message { fields, encoded, problems })
}

/// Looks into a payload. It must encode to the same bytes again, unless it is of before there were epochs: then the epoch is
/// added.
fn open(kind: PayloadKind, bytes: &[u8], problems: &mut Problems) -> Result<Payload> {
    let not_decoded = || "the payload";
    let (mut payload, encoded) = match kind {
        PayloadKind::Client => {
            let client = decode_client(bytes).with_context(not_decoded)?;
            let encoded = encode_client(&client);
            (Payload::from(client), encoded)
        }
        PayloadKind::Internal => {
            let command = decode_internal(bytes).with_context(not_decoded)?;
            let encoded = encode_internal(&command);
            (Payload { command, ids: None, without_epoch: false }, encoded)
        }
    };
    let first_epoch = 1_u64.to_le_bytes();
    payload.without_epoch = matches!(payload.command, Command::Confirm { .. } | Command::Release { .. })
        && encoded.strip_prefix(bytes) == Some(&first_epoch);
    if !payload.without_epoch && encoded != bytes {
        problems.push(format!(
            "payload encoded again: expected {}, found {}",
            shown_hex(bytes),
            shown_hex(&encoded)
        ));
    }
    Ok(payload)
}

fn compare_binary(name: &str, bytes: &[u8], row: Option<&Vec<String>>) -> Result<Problems> {
    let Message { fields, encoded, mut problems } = decode(name, bytes)?;
    if encoded != bytes {
        problems.push(format!("encoded again: expected {}, found {}", shown_hex(bytes), shown_hex(&encoded)));
    }
    let shorter = &bytes[..bytes.len().saturating_sub(1)];
    for (what, changed) in [("a byte less", shorter.to_vec()), ("a byte more", [bytes, &[0]].concat())] {
        if decode(name, &changed).is_ok() {
            problems.push(format!("with {what} it is still a message"));
        }
    }
    if let Some(row) = row {
        problems.extend(differing_fields(row, &fields)?);
    }
    Ok(problems)
}

fn shown_hex(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    shown(hex.join(" ").as_bytes())
}

/// Compares fields with the last cell of a row: `name value` separated by commas.
fn differing_fields(row: &[String], found: &Fields) -> Result<Problems> {
    let listed = row.last().context("the row in README.md is empty")?;
    let mut expected = listed.split(", ").map(without_gloss).collect::<Result<Vec<String>>>()?;
    let mut problems = Problems::new();
    for (name, value) in &found.0 {
        let item = format!("{name} {value}");
        if expected.first() == Some(&item) {
            expected.remove(0);
            continue;
        }
        let wanted = expected.first().map_or("nothing more", String::as_str);
        problems.push(format!("decoded: expected {wanted}, found {item}"));
        return Ok(problems);
    }
    problems.extend(expected.first().map(|item| format!("decoded: expected {item}, found nothing more")));
    Ok(problems)
}

/// A listed field without the number in hexadecimal that may stand behind it. Both must be the same number.
fn without_gloss(item: &str) -> Result<String> {
    let Some((plain, gloss)) = item.strip_suffix(')').and_then(|item| item.split_once(" (0x")) else {
        return Ok(item.to_owned());
    };
    let number = plain.rsplit(' ').next().and_then(|number| number.parse::<u128>().ok());
    if u128::from_str_radix(gloss, 16).ok() != number {
        bail!("README.md: {item}: the two numbers are not the same");
    }
    Ok(plain.to_owned())
}

/// Compares a text with the README and with what a replica or the library says.
fn compare_text(name: &str, bytes: &[u8], row: Option<&Vec<String>>, said: Option<Vec<u8>>) -> Problems {
    let mut problems = Problems::new();
    let listed = row.and_then(|row| row.last()).and_then(|cell| cell.strip_prefix("text: "));
    if let Some(text) = listed.and_then(table::code) {
        problems.extend(differing_text("text", text.replace(LINE_END_SIGN, "\n").as_bytes(), bytes));
    }
    match (name, said) {
        ("control-request-status", _) => problems.extend(differing_command(bytes, command::STATUS)),
        ("control-request-stop", _) => problems.extend(differing_command(bytes, command::STOP)),
        (_, Some(said)) => problems.extend(differing_text("a replica's reply", bytes, &said)),
        (_, None) => {}
    }
    problems
}

/// Compares what the status replies known by name hold.
fn differing_status(name: &str, status: &ControlStatus) -> Option<String> {
    let (role, commit_lsn, fault) = match name {
        "control-response-status" => (Role::Primary, Some(Lsn(10)), None),
        "control-response-status-faulted" => {
            (Role::Faulted, None, Some("MetadataLoad(Decode(InvalidMagic))"))
        }
        _ => return None,
    };
    let expected = (fault.is_none(), role, commit_lsn, fault);
    let found = (status.is_active, status.role, status.commit_lsn, status.fault_reason.as_deref());
    differing("status", &expected, &found)
}

fn differing_command(bytes: &[u8], word: &str) -> Option<String> {
    differing_text("command", format!("{word}\n").as_bytes(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(decoded: &str) -> Vec<String> {
        vec!["`x.hex`".to_owned(), "9".to_owned(), decoded.to_owned()]
    }

    #[test]
    fn a_message_is_compared_field_by_field() {
        let bytes = [4, 100, 0, 0, 0, 0, 0, 0, 0];
        let problems =
            |decoded: &str| compare_binary("request-get-metrics", &bytes, Some(&row(decoded))).unwrap();
        assert_eq!(problems("request tag GetMetrics, current_wall_clock_slot 100 (0x64)"), [""; 0]);
        assert_eq!(
            problems("request tag GetMetrics, current_wall_clock_slot 101 (0x65)"),
            ["decoded: expected current_wall_clock_slot 101, found current_wall_clock_slot 100"]
        );
        assert_eq!(
            problems("request tag GetMetrics"),
            ["decoded: expected nothing more, found current_wall_clock_slot 100"]
        );
        assert_eq!(
            problems("request tag GetMetrics, current_wall_clock_slot 100, more 1"),
            ["decoded: expected more 1, found nothing more"]
        );
        assert!(decode("strange-name", &bytes).is_err());
    }

    #[test]
    fn the_two_numbers_of_a_gloss_must_agree() {
        assert_eq!(without_gloss("operation_id 9001 (0x2329)").unwrap(), "operation_id 9001");
        assert_eq!(without_gloss("kind client").unwrap(), "kind client");
        assert!(without_gloss("operation_id 9001 (0x232a)").is_err());
    }

    #[test]
    fn a_payload_without_epoch_is_known_by_what_is_added_to_it() {
        let mut problems = Problems::new();
        let old = [&[4][..], &[2; 32]].concat();
        assert!(open(PayloadKind::Internal, &old, &mut problems).unwrap().without_epoch);
        let new = [&old[..], &1_u64.to_le_bytes()].concat();
        assert!(!open(PayloadKind::Internal, &new, &mut problems).unwrap().without_epoch);
        assert_eq!(problems, [""; 0]);
    }
}
