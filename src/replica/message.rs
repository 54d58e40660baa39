//! What replicas say to one another, as bytes: a prepare, a commit or a piece of a snapshot, and the acknowledgement of each.
//!
//! Several prepares may travel as one message. Not every implementation knows that one, pieces of a snapshot or claims about
//! the state; who sends them must be ready to hear that the tag is unknown, and send the entries one by one, or nothing.

use super::prepare_log::PreparedEntry;
use crate::allocator::PayloadKind;
use crate::bytes::{FieldError, Reader};
use crate::engine::StateDigest;
use crate::ids::{Lsn, ReplicaId, Slot, View};

/// Tag of a message with several prepares. Far from the tags that every implementation knows.
pub const BATCH_TAG: u8 = 0x83;

/// Entries travel together as long as their messages are no longer than this in sum. Well below what a port reads.
pub const MAX_BATCH_BYTES: usize = 512 * 1024;

/// Tag of a message with a piece of a snapshot, and of its acknowledgement.
pub const SNAPSHOT_TAG: u8 = 0x84;

/// Bytes of a snapshot file that travel as one message, at most.
pub const MAX_PIECE_BYTES: u64 = 512 * 1024;

/// A piece of the primary's snapshot file. Every piece says which file it is a piece of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPiece {
    /// View of the sender.
    pub view: View,
    /// LSN of the snapshot.
    pub lsn: Lsn,
    /// Bytes of the whole file.
    pub length: u64,
    /// CRC-32C of the whole file.
    pub sum: u32,
    /// Where in the file the bytes belong.
    pub offset: u64,
    /// Of the file, from the piece's offset on.
    pub bytes: Vec<u8>,
}

/// Tag of a message that claims what the state is, and of its acknowledgement.
pub const CLAIM_TAG: u8 = 0x86;

/// What the state is as of an LSN, as far as the sender knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateClaim {
    /// View of the sender.
    pub view: View,
    /// The LSN as of which the state is meant.
    pub lsn: Lsn,
    /// Replicas that are known to agree, the sender included.
    pub agreeing: u8,
    /// The digest of the sender's state.
    pub digest: StateDigest,
}

/// What a primary sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerRequest {
    /// Keep this entry, durably.
    Prepare(PreparedEntry),
    /// Keep all these entries, at least one, durably, or none of them. The acknowledgement is that of the last.
    PrepareBatch(Vec<PreparedEntry>),
    /// Commit everything prepared up to and including an LSN.
    Commit {
        /// View of the sender.
        view: View,
        /// The last LSN to be committed.
        lsn: Lsn,
    },
    /// Keep this piece; with the last one, replace your state by the snapshot, durably.
    Snapshot(SnapshotPiece),
    /// Say whether this is your state as well.
    Claim(StateClaim),
}

impl PeerRequest {
    /// View of the sender.
    #[must_use]
    pub fn view(&self) -> View {
        match self {
            PeerRequest::Prepare(entry) => entry.view,
            PeerRequest::PrepareBatch(entries) => entries.last().map_or(View(0), |entry| entry.view),
            PeerRequest::Commit { view, .. } => *view,
            PeerRequest::Snapshot(piece) => piece.view,
            PeerRequest::Claim(claim) => claim.view,
        }
    }

    /// Whether it asks about the state and changes nothing.
    #[must_use]
    pub fn is_claim(&self) -> bool {
        matches!(self, PeerRequest::Claim(_))
    }

    /// The LSN that its acknowledgement names.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        match self {
            PeerRequest::Prepare(entry) => entry.lsn,
            PeerRequest::PrepareBatch(entries) => entries.last().map_or(Lsn(0), |entry| entry.lsn),
            PeerRequest::Commit { lsn, .. } => *lsn,
            PeerRequest::Snapshot(piece) => piece.lsn,
            PeerRequest::Claim(claim) => claim.lsn,
        }
    }

    /// What kind of acknowledgement it asks for.
    #[must_use]
    pub fn ack_kind(&self) -> AckKind {
        match self {
            PeerRequest::Prepare(_) | PeerRequest::PrepareBatch(_) => AckKind::Prepare,
            PeerRequest::Commit { .. } => AckKind::Commit,
            PeerRequest::Snapshot(_) => AckKind::Snapshot,
            PeerRequest::Claim(_) => AckKind::Claim,
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
    /// A piece of a snapshot: it is kept until the last one, with which the state as of the LSN is durable there.
    Snapshot,
    /// A claim: the state there, as of the LSN, has that digest too.
    Claim,
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
    /// The replica that answers.
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

/// Bytes of a prepare.
#[must_use]
pub fn prepare_len(entry: &PreparedEntry) -> usize {
    30 + entry.payload.len()
}

fn put_prepare(out: &mut Vec<u8>, entry: &PreparedEntry) {
    out.extend_from_slice(&[1, entry.kind.number()]);
    out.extend_from_slice(&entry.view.0.to_le_bytes());
    out.extend_from_slice(&entry.lsn.0.to_le_bytes());
    out.extend_from_slice(&entry.slot.0.to_le_bytes());
    out.extend_from_slice(&(entry.payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&entry.payload);
}

/// The bytes of one message to a peer: a connection carries one.
#[must_use]
pub fn encode_request(request: &PeerRequest) -> Vec<u8> {
    match request {
        PeerRequest::Prepare(entry) => {
            let mut out = Vec::with_capacity(prepare_len(entry));
            put_prepare(&mut out, entry);
            out
        }
        PeerRequest::PrepareBatch(entries) => {
            let mut out = Vec::with_capacity(1 + entries.iter().map(prepare_len).sum::<usize>());
            out.push(BATCH_TAG);
            entries.iter().for_each(|entry| put_prepare(&mut out, entry));
            out
        }
        PeerRequest::Commit { view, lsn } => {
            let mut out = vec![2];
            out.extend_from_slice(&view.0.to_le_bytes());
            out.extend_from_slice(&lsn.0.to_le_bytes());
            out
        }
        PeerRequest::Snapshot(piece) => {
            let mut out = Vec::with_capacity(41 + piece.bytes.len());
            out.push(SNAPSHOT_TAG);
            out.extend_from_slice(&piece.view.0.to_le_bytes());
            out.extend_from_slice(&piece.lsn.0.to_le_bytes());
            out.extend_from_slice(&piece.length.to_le_bytes());
            out.extend_from_slice(&piece.sum.to_le_bytes());
            out.extend_from_slice(&piece.offset.to_le_bytes());
            out.extend_from_slice(&(piece.bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(&piece.bytes);
            out
        }
        PeerRequest::Claim(claim) => {
            let mut out = vec![CLAIM_TAG];
            out.extend_from_slice(&claim.view.0.to_le_bytes());
            out.extend_from_slice(&claim.lsn.0.to_le_bytes());
            out.push(claim.agreeing);
            out.extend_from_slice(&claim.digest.0.to_le_bytes());
            out
        }
    }
}

/// Reads what follows the tag of a prepare.
fn read_prepare(reader: &mut Reader<'_>) -> Result<PreparedEntry, MessageError> {
    let kind = reader.u8()?;
    let kind = PayloadKind::from_number(kind).ok_or(MessageError::PreparedKind(kind))?;
    let view = View(reader.u64()?);
    let lsn = Lsn(reader.u64()?);
    let slot = Slot(reader.u64()?);
    let len = reader.u32()? as usize;
    Ok(PreparedEntry { kind, view, lsn, slot, payload: reader.bytes(len)?.to_vec() })
}

/// Reads what follows the tag of a piece of a snapshot.
fn read_piece(reader: &mut Reader<'_>) -> Result<SnapshotPiece, MessageError> {
    let (view, lsn) = (View(reader.u64()?), Lsn(reader.u64()?));
    let (length, sum, offset) = (reader.u64()?, reader.u32()?, reader.u64()?);
    let len = reader.u32()? as usize;
    Ok(SnapshotPiece { view, lsn, length, sum, offset, bytes: reader.bytes(len)?.to_vec() })
}

/// Reads what follows the tag of a claim.
fn read_claim(reader: &mut Reader<'_>) -> Result<StateClaim, MessageError> {
    let (view, lsn) = (View(reader.u64()?), Lsn(reader.u64()?));
    Ok(StateClaim { view, lsn, agreeing: reader.u8()?, digest: StateDigest(reader.u128()?) })
}

/// Decodes a request. The payload is not looked into.
///
/// # Errors
/// The first field that is not as it must be.
pub fn decode_request(bytes: &[u8]) -> Result<PeerRequest, MessageError> {
    let mut reader = Reader::new(bytes);
    let request = match reader.u8()? {
        1 => PeerRequest::Prepare(read_prepare(&mut reader)?),
        2 => PeerRequest::Commit { view: View(reader.u64()?), lsn: Lsn(reader.u64()?) },
        BATCH_TAG => {
            let mut entries = Vec::new();
            while !reader.is_at_end() || entries.is_empty() {
                match reader.u8()? {
                    1 => entries.push(read_prepare(&mut reader)?),
                    tag => return Err(MessageError::RequestTag(tag)),
                }
            }
            PeerRequest::PrepareBatch(entries)
        }
        SNAPSHOT_TAG => PeerRequest::Snapshot(read_piece(&mut reader)?),
        CLAIM_TAG => PeerRequest::Claim(read_claim(&mut reader)?),
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
        AckKind::Snapshot => SNAPSHOT_TAG,
        AckKind::Claim => CLAIM_TAG,
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
        SNAPSHOT_TAG => AckKind::Snapshot,
        CLAIM_TAG => AckKind::Claim,
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
    fn a_batch_is_its_prepares_one_after_the_other() {
        let PeerRequest::Prepare(first) = prepare() else { unreachable!() };
        let second = PreparedEntry { lsn: Lsn(3), payload: vec![7; 3], ..first.clone() };
        let batch = PeerRequest::PrepareBatch(vec![first.clone(), second.clone()]);
        assert_eq!((batch.view(), batch.lsn()), (View(1), Lsn(3)));
        let bytes = encode_request(&batch);
        let parts = [first, second].map(|entry| encode_request(&PeerRequest::Prepare(entry)));
        assert_eq!(bytes, [&[BATCH_TAG], &parts[0][..], &parts[1]].concat());
        assert_eq!(decode_request(&bytes), Ok(batch));
        for cut in 0..bytes.len() {
            // Cut between two prepares, it is a batch of fewer.
            assert_eq!(decode_request(&bytes[..cut]).is_ok(), cut == 1 + parts[0].len());
        }
        let named = |bytes: &[u8]| decode_request(bytes).unwrap_err().to_string();
        assert_eq!(named(&[BATCH_TAG]), "buffer too short");
        assert_eq!(named(&[BATCH_TAG, 2]), "invalid protocol request tag 2");
        assert_eq!(named(&[&bytes[..], &[9]].concat()), "invalid protocol request tag 9");
    }

    #[test]
    fn a_piece_of_a_snapshot_says_which_file_it_belongs_to() {
        let bytes = vec![5; 3];
        let piece =
            SnapshotPiece { view: View(1), lsn: Lsn(9), length: 7, sum: 0x0a0b_0c0d, offset: 4, bytes };
        let request = PeerRequest::Snapshot(piece);
        let bytes = encode_request(&request);
        let fields = [1_u64.to_le_bytes(), 9_u64.to_le_bytes(), 7_u64.to_le_bytes()].concat();
        let rest = [&[0x0d, 0x0c, 0x0b, 0x0a][..], &4_u64.to_le_bytes(), &3_u32.to_le_bytes(), &[5; 3]];
        assert_eq!(bytes, [&[SNAPSHOT_TAG][..], &fields, &rest.concat()].concat());
        assert_eq!((request.view(), request.lsn(), request.ack_kind()), (View(1), Lsn(9), AckKind::Snapshot));
        assert_eq!(decode_request(&bytes), Ok(request));
        for cut in 0..bytes.len() {
            assert_eq!(decode_request(&bytes[..cut]), Err(MessageError::TooShort));
        }
        let ack = Ack { kind: AckKind::Snapshot, view: View(1), lsn: Lsn(9), replica: ReplicaId(2) };
        assert_eq!(encode_ack(&ack)[0], SNAPSHOT_TAG);
        assert_eq!(decode_ack(&encode_ack(&ack)), Ok(ack));
    }

    #[test]
    fn a_claim_says_of_which_state_it_is_and_who_agrees() {
        let digest = StateDigest(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
        let claim = PeerRequest::Claim(StateClaim { view: View(1), lsn: Lsn(9), agreeing: 2, digest });
        let bytes = encode_request(&claim);
        let fields = [1_u64.to_le_bytes(), 9_u64.to_le_bytes()].concat();
        assert_eq!(bytes, [&[CLAIM_TAG][..], &fields, &[2], &digest.0.to_le_bytes()].concat());
        assert_eq!(
            (bytes.len(), claim.view(), claim.lsn(), claim.ack_kind()),
            (34, View(1), Lsn(9), AckKind::Claim)
        );
        assert_eq!(decode_request(&bytes), Ok(claim));
        for cut in 0..bytes.len() {
            assert_eq!(decode_request(&bytes[..cut]), Err(MessageError::TooShort));
        }
        let ack = Ack { kind: AckKind::Claim, view: View(1), lsn: Lsn(9), replica: ReplicaId(2) };
        assert_eq!(encode_ack(&ack)[0], CLAIM_TAG);
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
