//! Which records of the log hold which kind of command: the log knows records only, the allocator commands only.

use crate::allocator::PayloadKind;
use crate::storage::RecordType;

/// The kind of payload in a frame of that type; a marker has none.
#[must_use]
pub fn payload_kind(record: RecordType) -> Option<PayloadKind> {
    match record {
        RecordType::Client => Some(PayloadKind::Client),
        RecordType::Internal => Some(PayloadKind::Internal),
        RecordType::SnapshotMarker => None,
    }
}

/// The type of the frames that hold such payloads.
#[must_use]
pub fn record_of(kind: PayloadKind) -> RecordType {
    match kind {
        PayloadKind::Client => RecordType::Client,
        PayloadKind::Internal => RecordType::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_command_has_a_record_of_its_own_and_a_marker_has_no_command() {
        for kind in [PayloadKind::Client, PayloadKind::Internal] {
            assert_eq!(payload_kind(record_of(kind)), Some(kind));
        }
        assert_ne!(record_of(PayloadKind::Client), record_of(PayloadKind::Internal));
        assert_eq!(payload_kind(RecordType::SnapshotMarker), None);
    }
}
