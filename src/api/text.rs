//! Replies in words: what a port says when it has no binary answer.

/// The reply with that message: two lines that no binary reply can be taken for.
#[must_use]
pub fn error_reply(message: &str) -> Vec<u8> {
    // A message is one line; a line end inside it would read as another field.
    let message = message.replace(['\n', '\r'], " ");
    format!("status=error\nmessage={message}\n").into_bytes()
}

/// What an isolated replica says on its client and protocol ports, before reading anything.
pub const ISOLATED: &str = "network isolated by local harness";

/// What a replica whose stored state cannot be trusted says to a request it cannot answer in binary.
pub const FAULTED: &str = "replica faulted";

/// A read or a peer's message that was not looked at, because too many requests wait for the replica.
pub const OVERLOADED: &str = "overloaded";

/// What a replica that is not the primary says to writes and reads.
#[must_use]
pub fn not_primary(role: &str) -> String {
    format!("not primary: role={role}")
}

/// What a replica says, before the LSN, whose state is not that of the others.
pub const STATE_DIFFERS: &str = "state digest differs at lsn ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backups_refusal_has_its_known_bytes() {
        let reply = error_reply(&not_primary("backup"));
        assert_eq!(reply, b"status=error\nmessage=not primary: role=backup\n");
        assert_eq!(reply.len(), 46);
    }

    #[test]
    fn a_message_stays_on_its_line() {
        assert_eq!(error_reply("a\nstatus=ok"), b"status=error\nmessage=a status=ok\n");
    }
}
