//! Values out of files as text that is safe in a terminal and does not upset the line it is in.
//!
//! What a file holds may have been put there by anybody. So whatever is no visible character, and the backslash, is shown
//! as an escape, and a value in the middle of a line has no white space either.

use allocdb_node::allocator::payload::{decode_client, decode_internal};
use allocdb_node::allocator::{ClientCommand, Command, PayloadError, PayloadKind};
use std::fmt::{self, Display, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A value with more pairs behind it.
pub(super) struct Word<'a>(pub(super) &'a str);

/// A value that goes on to the end of its line, which may hold blanks.
pub(super) struct Rest<'a>(pub(super) &'a str);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        put(f, self.0, char::is_whitespace)
    }
}

impl Display for Rest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        put(f, self.0, |c| c.is_whitespace() && c != ' ')
    }
}

/// Writes a value run by run, with escapes in place of what must not be shown as it is.
fn put(f: &mut fmt::Formatter<'_>, value: &str, is_refused: impl Fn(char) -> bool) -> fmt::Result {
    let mut from = 0;
    for (at, c) in value.char_indices() {
        if c != '\\' && !is_refused(c) && !c.is_control() && !is_invisible(c) {
            continue;
        }
        f.write_str(&value[from..at])?;
        match c {
            '\\' => f.write_str("\\\\")?,
            _ => write!(f, "{}", c.escape_unicode())?,
        }
        from = at + c.len_utf8();
    }
    f.write_str(&value[from..])
}

/// Characters that show nothing themselves but change how their neighbours are shown.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A path with more pairs behind it. Bytes that are no text are shown as hexadecimal escapes.
pub(super) fn path_word(path: &Path) -> String {
    let mut word = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        // Writing to a string does not fail.
        let _ = write!(word, "{}", Word(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(word, "\\x{byte:02x}");
        }
    }
    word
}

/// Numbers with commas between them; `none` for no number.
pub(super) fn list(numbers: impl IntoIterator<Item = impl Display>) -> String {
    let mut text = String::new();
    for number in numbers {
        let comma = if text.is_empty() { "" } else { "," };
        let _ = write!(text, "{comma}{number}");
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

/// What a log frame or a prepared entry asks for, as pairs.
///
/// # Errors
/// When its payload is no command.
pub(super) fn payload(kind: PayloadKind, bytes: &[u8]) -> Result<String, PayloadError> {
    match kind {
        PayloadKind::Client => {
            let ClientCommand { operation, client, command } = decode_client(bytes)?;
            Ok(format!("operation={operation} client={client} {}", command_pairs(&command)))
        }
        PayloadKind::Internal => Ok(command_pairs(&decode_internal(bytes)?)),
    }
}

fn command_pairs(command: &Command) -> String {
    match command {
        Command::CreateResource { resource } => format!("command=create_resource resource={resource}"),
        Command::Reserve { resource, holder, ttl_slots } => {
            format!("command=reserve resource={resource} holder={holder} ttl_slots={ttl_slots}")
        }
        Command::ReserveBundle { resources, holder, ttl_slots } => {
            let resources = list(resources);
            format!("command=reserve_bundle resources={resources} holder={holder} ttl_slots={ttl_slots}")
        }
        Command::Confirm { reservation, holder, epoch } => {
            format!("command=confirm reservation={reservation} holder={holder} epoch={epoch}")
        }
        Command::Release { reservation, holder, epoch } => {
            format!("command=release reservation={reservation} holder={holder} epoch={epoch}")
        }
        Command::Expire { reservation, deadline } => {
            format!("command=expire reservation={reservation} deadline_slot={deadline}")
        }
        Command::Revoke { reservation } => format!("command=revoke reservation={reservation}"),
        Command::Reclaim { reservation } => format!("command=reclaim reservation={reservation}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocdb_node::allocator::payload::encode_internal;
    use allocdb_node::ids::{HolderId, LeaseEpoch, ReservationId, ResourceId, Slot};
    use std::ffi::OsStr;

    #[test]
    fn nothing_in_a_value_reaches_a_terminal_as_a_command() {
        let value = "a b\t\u{1b}[31m\\\u{9b}\u{202e}\u{feff}é\u{a0}\r";
        let shown = r"a b\u{9}\u{1b}[31m\\\u{9b}\u{202e}\u{feff}é\u{a0}\u{d}";
        assert_eq!(Rest(value).to_string(), shown);
        assert_eq!(Word(value).to_string(), shown.replace(' ', r"\u{20}"));
        let path = Path::new(OsStr::from_bytes(b"/a b/\xff\n"));
        assert_eq!(path_word(path), r"/a\u{20}b/\xff\u{a}");
    }

    #[test]
    fn every_command_is_shown_with_its_fields() {
        let (reservation, holder, epoch) = (ReservationId(9), HolderId(8), LeaseEpoch(2));
        for (command, shown) in [
            (
                Command::ReserveBundle {
                    resources: vec![ResourceId(1), ResourceId(2)],
                    holder,
                    ttl_slots: 3,
                },
                "command=reserve_bundle resources=1,2 holder=8 ttl_slots=3",
            ),
            (
                Command::ReserveBundle { resources: vec![], holder, ttl_slots: 0 },
                "command=reserve_bundle resources=none holder=8 ttl_slots=0",
            ),
            (
                Command::Confirm { reservation, holder, epoch },
                "command=confirm reservation=9 holder=8 epoch=2",
            ),
            (
                Command::Release { reservation, holder, epoch },
                "command=release reservation=9 holder=8 epoch=2",
            ),
            (
                Command::Expire { reservation, deadline: Slot(4) },
                "command=expire reservation=9 deadline_slot=4",
            ),
            (Command::Revoke { reservation }, "command=revoke reservation=9"),
            (Command::Reclaim { reservation }, "command=reclaim reservation=9"),
        ] {
            assert_eq!(payload(PayloadKind::Internal, &encode_internal(&command)).as_deref(), Ok(shown));
        }
        assert_eq!(payload(PayloadKind::Client, b"x"), Err(PayloadError::BufferTooShort));
    }
}
