//! What replicas say to one another, as bytes: a prepare or a commit, and the acknowledgement of each.

use super::prepare_log::PreparedEntry;
use crate::allocator::PayloadKind;
use crate::bytes::{FieldError, Reader};
use crate::ids::{Lsn, ReplicaId, Slot, View};

/// What a primary sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerRequest {
    /// Keep this entry, durably.
    Prepare(PreparedEntry),
    /// Commit everything prepared up to and including an LSN.
    Commit {
        /// View of the sender.
        view: View,
        /// How far.
        lsn: Lsn,
    },
}

impl PeerRequest {
    /// View of the sender.
    #[must_use]
    pub fn view(&self) -> View {
        match self {
            PeerRequest::Prepare(entry) => entry.view,
            PeerRequest::Commit { view, .. } => *view,
        }
    }

    /// The LSN it is about.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        match self {
            PeerRequest::Prepare(entry) => entry.lsn,
            PeerRequest::Commit { lsn, .. } => *lsn,
        }
    }
}

/// Which request an acknowledgement answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckKind {
    /// A prepare: the entry is durable at the sender of the acknowledgement.
    Prepare,
    /// A commit: everything up to the LSN is committed there.
    Commit,
}

/// What a backup answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Which request it answers.
    pub kind: AckKind,
    /// View of that request.
    pub view: View,
    /// LSN of that request.
    pub lsn: Lsn,
    /// Who answers.
    pub replica: ReplicaId,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The bytes end inside a field.
    #[error("buffer too short")]
    TooShort,
    /// Bytes are left over.
    #[error("trailing bytes")]
    TrailingBytes,
    /// No request has that tag.
    #[error("invalid protocol request tag {0}")]
    RequestTag(u8),
    /// No reply has that tag; 115 is the start of a reply in words.
    #[error("invalid protocol response tag {0}")]
    ResponseTag(u8),
    /// A payload of nobody.
    #[error("invalid protocol prepared kind {0}")]
    PreparedKind(u8),
}

impl From<FieldError> for MessageError {
    fn from(_: FieldError) -> Self {
        MessageError::TooShort
    }
}

/// Encodes a request.
#[must_use]
pub fn encode_request(request: &PeerRequest) -> Vec<u8> {
    match request {
        PeerRequest::Prepare(entry) => {
            let mut out = Vec::with_capacity(30 + entry.payload.len());
            out.extend_from_slice(&[1, entry.kind.number()]);
            out.extend_from_slice(&entry.view.0.to_le_bytes());
            out.extend_from_slice(&entry.lsn.0.to_le_bytes());
            out.extend_from_slice(&entry.slot.0.to_le_bytes());
            out.extend_from_slice(&(entry.payload.len() as u32).to_le_bytes());
            out.extend_from_slice(&entry.payload);
            out
        }
        PeerRequest::Commit { view, lsn } => {
            let mut out = vec![2];
            out.extend_from_slice(&view.0.to_le_bytes());
            out.extend_from_slice(&lsn.0.to_le_bytes());
            out
        }
    }
}

/// Decodes a request. The payload is not looked into.
///
/// # Errors
/// The first field that is not as it must be.
pub fn decode_request(bytes: &[u8]) -> Result<PeerRequest, MessageError> {
    let mut reader = Reader::new(bytes);
    let request = match reader.u8()? {
        1 => {
            let kind = reader.u8()?;
            let kind = PayloadKind::from_number(kind).ok_or(MessageError::PreparedKind(kind))?;
            let view = View(reader.u64()?);
            let lsn = Lsn(reader.u64()?);
            let slot = Slot(reader.u64()?);
            let len = reader.u32()? as usize;
            PeerRequest::Prepare(PreparedEntry {
                kind,
                view,
                lsn,
                slot,
                payload: reader.bytes(len)?.to_vec(),
            })
        }
        2 => PeerRequest::Commit { view: View(reader.u64()?), lsn: Lsn(reader.u64()?) },
        tag => return Err(MessageError::RequestTag(tag)),
    };
    if reader.is_at_end() { Ok(request) } else { Err(MessageError::TrailingBytes) }
}

/// Encodes an acknowledgement.
#[must_use]
pub fn encode_ack(ack: &Ack) -> Vec<u8> {
    let mut out = Vec::with_capacity(25);
    out.push(match ack.kind {
        AckKind::Prepare => 1,
        AckKind::Commit => 2,
    });
    out.extend_from_slice(&ack.view.0.to_le_bytes());
    out.extend_from_slice(&ack.lsn.0.to_le_bytes());
    out.extend_from_slice(&ack.replica.0.to_le_bytes());
    out
}

/// Decodes an acknowledgement.
///
/// # Errors
/// The first field that is not as it must be.
pub fn decode_ack(bytes: &[u8]) -> Result<Ack, MessageError> {
    let mut reader = Reader::new(bytes);
    let kind = match reader.u8()? {
        1 => AckKind::Prepare,
        2 => AckKind::Commit,
        tag => return Err(MessageError::ResponseTag(tag)),
    };
    let ack =
        Ack { kind, view: View(reader.u64()?), lsn: Lsn(reader.u64()?), replica: ReplicaId(reader.u64()?) };
    if reader.is_at_end() { Ok(ack) } else { Err(MessageError::TrailingBytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prepare() -> PeerRequest {
        PeerRequest::Prepare(PreparedEntry {
            kind: PayloadKind::Internal,
            view: View(1),
            lsn: Lsn(2),
            slot: Slot(5),
            payload: vec![6; 25],
        })
    }

    #[test]
    fn messages_have_their_known_lengths_and_survive_the_wire() {
        let commit = PeerRequest::Commit { view: View(1), lsn: Lsn(1) };
        assert_eq!((encode_request(&prepare()).len(), encode_request(&commit).len()), (55, 17));
        for request in [prepare(), commit] {
            let bytes = encode_request(&request);
            assert_eq!(decode_request(&bytes), Ok(request));
            for cut in 0..bytes.len() {
                assert_eq!(decode_request(&bytes[..cut]), Err(MessageError::TooShort));
            }
            assert_eq!(decode_request(&[&bytes[..], &[0]].concat()), Err(MessageError::TrailingBytes));
        }
        let ack = Ack { kind: AckKind::Commit, view: View(1), lsn: Lsn(7), replica: ReplicaId(2) };
        assert_eq!(encode_ack(&ack).len(), 25);
        assert_eq!(decode_ack(&encode_ack(&ack)), Ok(ack));
    }

    #[test]
    fn what_is_no_message_is_named() {
        let named = |bytes: &[u8]| decode_request(bytes).unwrap_err().to_string();
        assert_eq!(named(&[9]), "invalid protocol request tag 9");
        assert_eq!(named(&[1, 3]), "invalid protocol prepared kind 3");
        assert_eq!(named(&[2, 0]), "buffer too short");
        assert_eq!(decode_ack(b"status=error").unwrap_err().to_string(), "invalid protocol response tag 115");
    }

    #[test]
    fn a_payload_length_beyond_the_message_is_refused() {
        let mut bytes = encode_request(&prepare());
        bytes[26..30].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode_request(&bytes), Err(MessageError::TooShort));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(request) = decode_request(&bytes) {
                prop_assert_eq!(encode_request(&request), bytes.clone());
            }
            if let Ok(ack) = decode_ack(&bytes) {
                prop_assert_eq!(encode_ack(&ack), bytes);
            }
        }
    }
}
