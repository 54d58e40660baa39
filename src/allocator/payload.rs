//! Commands as bytes: what a client submits, what replicas exchange, what the log and the prepare log keep.
//!
//! A client payload is operation id, client id and command; an internal payload is the bare command. Both are kept
//! and forwarded exactly as received, so decoding looks at them and encoding is needed only where one is made.

use super::command::{ClientCommand, Command};
use crate::bytes::{FieldError, Reader};
use crate::ids::{ClientId, HolderId, LeaseEpoch, OperationId, ReservationId, ResourceId, Slot};

/// Who made a payload, and with that, how its bytes are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PayloadKind {
    /// Sent by a client: operation id, client id, command.
    Client,
    /// Made by the system itself: a bare command.
    Internal,
}

impl PayloadKind {
    /// The number that marks the kind in prepare messages, prepare logs and log frames.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            PayloadKind::Client => 1,
            PayloadKind::Internal => 2,
        }
    }

    /// The kind with that number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(PayloadKind::Client),
            2 => Some(PayloadKind::Internal),
            _ => None,
        }
    }
}

/// Why bytes are no command. The texts are the short names that replicas put into replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The bytes end inside a field.
    #[error("BufferTooShort")]
    BufferTooShort,
    /// No command has that tag.
    #[error("InvalidCommandTag({0})")]
    InvalidCommandTag(u8),
    /// Bytes are left over, or an epoch is neither there nor absent.
    #[error("InvalidLayout")]
    InvalidLayout,
}

impl From<FieldError> for PayloadError {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::TooShort { .. } => PayloadError::BufferTooShort,
            FieldError::Tag { .. } => PayloadError::InvalidLayout,
        }
    }
}

/// Bytes of a bundle after its ids: holder and time to live.
const BUNDLE_TAIL: usize = 24;

/// Decodes what a client submitted.
///
/// # Errors
/// The first field that is not as it must be. Nothing is allocated for ids that are not there.
pub fn decode_client(payload: &[u8]) -> Result<ClientCommand, PayloadError> {
    let mut reader = Reader::new(payload);
    let operation = OperationId(reader.u128()?);
    let client = ClientId(reader.u128()?);
    let command = decode_command(&mut reader)?;
    Ok(ClientCommand { operation, client, command })
}

/// Decodes what the system made itself.
///
/// # Errors
/// As [`decode_client`].
pub fn decode_internal(payload: &[u8]) -> Result<Command, PayloadError> {
    decode_command(&mut Reader::new(payload))
}

fn decode_command(reader: &mut Reader<'_>) -> Result<Command, PayloadError> {
    let command = match reader.u8()? {
        1 => Command::CreateResource { resource: ResourceId(reader.u128()?) },
        2 => Command::Reserve {
            resource: ResourceId(reader.u128()?),
            holder: HolderId(reader.u128()?),
            ttl_slots: reader.u64()?,
        },
        3 => {
            let count = reader.u32()? as usize;
            let present = reader.remaining().saturating_sub(BUNDLE_TAIL) / 16;
            if count > present {
                return Err(PayloadError::BufferTooShort);
            }
            let mut resources = Vec::with_capacity(count);
            for _ in 0..count {
                resources.push(ResourceId(reader.u128()?));
            }
            Command::ReserveBundle { resources, holder: HolderId(reader.u128()?), ttl_slots: reader.u64()? }
        }
        tag @ (4 | 5) => {
            let reservation = ReservationId(reader.u128()?);
            let holder = HolderId(reader.u128()?);
            // Logs older than epochs end here; the first epoch is what they meant.
            let epoch = match reader.remaining() {
                0 => LeaseEpoch(1),
                8 => LeaseEpoch(reader.u64()?),
                _ => return Err(PayloadError::InvalidLayout),
            };
            if tag == 4 {
                Command::Confirm { reservation, holder, epoch }
            } else {
                Command::Release { reservation, holder, epoch }
            }
        }
        6 => Command::Expire { reservation: ReservationId(reader.u128()?), deadline: Slot(reader.u64()?) },
        7 => Command::Revoke { reservation: ReservationId(reader.u128()?) },
        8 => Command::Reclaim { reservation: ReservationId(reader.u128()?) },
        tag => return Err(PayloadError::InvalidCommandTag(tag)),
    };
    if reader.is_at_end() { Ok(command) } else { Err(PayloadError::InvalidLayout) }
}

/// Encodes a client's command.
#[must_use]
pub fn encode_client(command: &ClientCommand) -> Vec<u8> {
    let mut out = Vec::with_capacity(80);
    out.extend_from_slice(&command.operation.0.to_le_bytes());
    out.extend_from_slice(&command.client.0.to_le_bytes());
    encode_command(&mut out, &command.command);
    out
}

/// Encodes a command of the system's own.
#[must_use]
pub fn encode_internal(command: &Command) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    encode_command(&mut out, command);
    out
}

fn encode_command(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::CreateResource { resource } => {
            out.push(1);
            out.extend_from_slice(&resource.0.to_le_bytes());
        }
        Command::Reserve { resource, holder, ttl_slots } => {
            out.push(2);
            out.extend_from_slice(&resource.0.to_le_bytes());
            out.extend_from_slice(&holder.0.to_le_bytes());
            out.extend_from_slice(&ttl_slots.to_le_bytes());
        }
        Command::ReserveBundle { resources, holder, ttl_slots } => {
            out.push(3);
            // A bundle this long cannot be built from a payload, whose size is bounded long before.
            let count = u32::try_from(resources.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&count.to_le_bytes());
            for resource in resources {
                out.extend_from_slice(&resource.0.to_le_bytes());
            }
            out.extend_from_slice(&holder.0.to_le_bytes());
            out.extend_from_slice(&ttl_slots.to_le_bytes());
        }
        Command::Confirm { reservation, holder, epoch } => {
            out.push(4);
            encode_holder_right(out, *reservation, *holder, *epoch);
        }
        Command::Release { reservation, holder, epoch } => {
            out.push(5);
            encode_holder_right(out, *reservation, *holder, *epoch);
        }
        Command::Expire { reservation, deadline } => {
            out.push(6);
            out.extend_from_slice(&reservation.0.to_le_bytes());
            out.extend_from_slice(&deadline.0.to_le_bytes());
        }
        Command::Revoke { reservation } => {
            out.push(7);
            out.extend_from_slice(&reservation.0.to_le_bytes());
        }
        Command::Reclaim { reservation } => {
            out.push(8);
            out.extend_from_slice(&reservation.0.to_le_bytes());
        }
    }
}

fn encode_holder_right(out: &mut Vec<u8>, reservation: ReservationId, holder: HolderId, epoch: LeaseEpoch) {
    out.extend_from_slice(&reservation.0.to_le_bytes());
    out.extend_from_slice(&holder.0.to_le_bytes());
    out.extend_from_slice(&epoch.0.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_command() -> impl Strategy<Value = Command> {
        let resource = any::<u128>().prop_map(ResourceId);
        let reservation = any::<u128>().prop_map(ReservationId);
        let holder = any::<u128>().prop_map(HolderId);
        let epoch = any::<u64>().prop_map(LeaseEpoch);
        prop_oneof![
            resource.clone().prop_map(|resource| Command::CreateResource { resource }),
            (resource.clone(), holder.clone(), any::<u64>())
                .prop_map(|(resource, holder, ttl_slots)| Command::Reserve { resource, holder, ttl_slots }),
            (proptest::collection::vec(resource, 0..5), holder.clone(), any::<u64>()).prop_map(
                |(resources, holder, ttl_slots)| Command::ReserveBundle { resources, holder, ttl_slots }
            ),
            (reservation.clone(), holder.clone(), epoch.clone())
                .prop_map(|(reservation, holder, epoch)| Command::Confirm { reservation, holder, epoch }),
            (reservation.clone(), holder, epoch).prop_map(|(reservation, holder, epoch)| Command::Release {
                reservation,
                holder,
                epoch
            }),
            (reservation.clone(), any::<u64>())
                .prop_map(|(reservation, d)| Command::Expire { reservation, deadline: Slot(d) }),
            reservation.clone().prop_map(|reservation| Command::Revoke { reservation }),
            reservation.prop_map(|reservation| Command::Reclaim { reservation }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_and_nothing_shorter_or_longer_does(
            operation in any::<u128>(), client in any::<u128>(), command in any_command()
        ) {
            let original = ClientCommand { operation: OperationId(operation), client: ClientId(client), command };
            let bytes = encode_client(&original);
            prop_assert_eq!(decode_client(&bytes), Ok(original.clone()));
            prop_assert_eq!(decode_internal(&encode_internal(&original.command)), Ok(original.command.clone()));
            let mut longer = bytes.clone();
            longer.push(0);
            prop_assert!(decode_client(&longer).is_err());
            let has_legacy_form = matches!(original.command, Command::Confirm { .. } | Command::Release { .. });
            for cut in 0..bytes.len() {
                if !(has_legacy_form && cut == bytes.len() - 8) {
                    prop_assert!(decode_client(&bytes[..cut]).is_err());
                }
            }
        }

        #[test]
        fn any_bytes_are_a_command_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_client(&bytes);
            let _ = decode_internal(&bytes);
        }
    }

    #[test]
    fn a_confirm_without_epoch_means_the_first_epoch() {
        let full = encode_internal(&Command::Confirm {
            reservation: ReservationId(2),
            holder: HolderId(0x55),
            epoch: LeaseEpoch(1),
        });
        assert_eq!(decode_internal(&full[..33]), decode_internal(&full));
        assert_eq!(decode_internal(&full[..36]), Err(PayloadError::InvalidLayout));
    }

    #[test]
    fn a_bundle_count_without_its_ids_is_refused_before_any_room_is_made() {
        let mut bytes = vec![3];
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        bytes.extend_from_slice(&[0; 45]);
        assert_eq!(decode_internal(&bytes), Err(PayloadError::BufferTooShort));
    }

    #[test]
    fn the_tag_is_judged_before_what_follows_it() {
        assert_eq!(decode_internal(&[99]), Err(PayloadError::InvalidCommandTag(99)));
        assert_eq!(decode_internal(&[0, 1, 2]), Err(PayloadError::InvalidCommandTag(0)));
        assert_eq!(decode_internal(&[]), Err(PayloadError::BufferTooShort));
        assert_eq!(decode_client(&[0; 32]), Err(PayloadError::BufferTooShort));
    }

    #[test]
    fn a_known_payload_has_its_known_bytes() {
        let bytes = encode_client(&ClientCommand {
            operation: OperationId(9001),
            client: ClientId(7),
            command: Command::ReserveBundle {
                resources: vec![ResourceId(41), ResourceId(42)],
                holder: HolderId(0x55),
                ttl_slots: 20,
            },
        });
        assert_eq!(bytes.len(), 93);
        assert_eq!(&bytes[32..38], &[3, 2, 0, 0, 0, 41]);
        assert_eq!(bytes[85], 20);
    }
}
