//! A message that says which cluster and which replica it is from, so that it means nothing to the replicas of another cluster.
//!
//! Not every implementation knows such messages: one is sent only to a peer that has said that it does, or of which nothing
//! is known yet.

use super::message::{MessageError, PeerRequest, decode_request, encode_request};
use crate::bytes::Reader;
use crate::ids::{ClusterId, ReplicaId};

/// Tag of a message with an introduction. Far from the tags that every implementation knows.
pub const INTRODUCTION_TAG: u8 = 0x85;

/// Bytes of an introduction, its tag included.
pub const INTRODUCTION_LEN: usize = 25;

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    /// A replica of another one is refused.
    pub cluster: ClusterId,
    /// Which of its replicas.
    pub sender: ReplicaId,
}

/// Encodes a request with an introduction in front.
#[must_use]
pub fn encode_introduced(introduction: &Introduction, request: &PeerRequest) -> Vec<u8> {
    let request = encode_request(request);
    let mut out = Vec::with_capacity(INTRODUCTION_LEN + request.len());
    out.push(INTRODUCTION_TAG);
    out.extend_from_slice(&introduction.cluster.0.to_le_bytes());
    out.extend_from_slice(&introduction.sender.0.to_le_bytes());
    out.extend_from_slice(&request);
    out
}

/// Decodes a request, with or without an introduction.
///
/// # Errors
/// The first field that is not as it must be.
pub fn decode_introduced(bytes: &[u8]) -> Result<(Option<Introduction>, PeerRequest), MessageError> {
    if bytes.first() != Some(&INTRODUCTION_TAG) {
        return Ok((None, decode_request(bytes)?));
    }
    let mut reader = Reader::new(&bytes[1..]);
    let introduction = Introduction { cluster: ClusterId(reader.u128()?), sender: ReplicaId(reader.u64()?) };
    Ok((Some(introduction), decode_request(&bytes[INTRODUCTION_LEN..])?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Lsn, View};

    #[test]
    fn an_introduction_stands_in_front_of_any_message() {
        let introduction = Introduction { cluster: ClusterId(0x0102), sender: ReplicaId(3) };
        let commit = PeerRequest::Commit { view: View(1), lsn: Lsn(7) };
        let bytes = encode_introduced(&introduction, &commit);
        assert_eq!(bytes[..4], [0x85, 2, 1, 0]);
        assert_eq!(bytes.len(), INTRODUCTION_LEN + 17);
        assert_eq!(decode_introduced(&bytes), Ok((Some(introduction), commit.clone())));
        assert_eq!(decode_introduced(&bytes[INTRODUCTION_LEN..]), Ok((None, commit)));
        for cut in 0..bytes.len() {
            assert_eq!(decode_introduced(&bytes[..cut]), Err(MessageError::TooShort));
        }
        // One is enough.
        let twice = [&bytes[..INTRODUCTION_LEN], &bytes].concat();
        assert_eq!(decode_introduced(&twice), Err(MessageError::RequestTag(INTRODUCTION_TAG)));
        assert_eq!(
            decode_request(&bytes).unwrap_err().to_string(),
            "invalid protocol request tag 133",
            "what others say to it"
        );
    }
}
