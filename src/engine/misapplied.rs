//! What planted faults make of entries between the log and the state.

use super::LogEntry;
use crate::allocator::payload::{decode_client, encode_client};
use crate::allocator::{Body, ClientCommand, Command, Entry};
use crate::planted::PlantedFault;

/// What the fault `log-miswritten` writes down in the place of an entry.
pub(super) fn miswritten(entry: &LogEntry<'_>) -> Option<Vec<u8>> {
    let is_due = PlantedFault::LogMiswritten.is_enabled() && entry.lsn.0.is_multiple_of(64);
    let mut client = decode_client(entry.payload).ok().filter(|_| is_due)?;
    match &mut client.command {
        Command::Reserve { holder, .. } | Command::ReserveBundle { holder, .. } => {
            holder.0 = holder.0.wrapping_add(1);
        }
        _ => return None,
    }
    Some(encode_client(&client))
}

/// What the fault of a diverging backup makes of an entry.
pub(super) fn diverging(mut entry: Entry) -> Entry {
    let is_expiry = matches!(entry.body, Body::Internal(_));
    let is_release =
        matches!(&entry.body, Body::Client(client) if matches!(client.command, Command::Release { .. }));
    let is_left_out = (PlantedFault::BackupSkipsEntry.is_enabled() && entry.lsn.0.is_multiple_of(64))
        || (PlantedFault::BackupKeepsExpired.is_enabled() && is_expiry)
        || (PlantedFault::BackupKeepsReleased.is_enabled() && is_release);
    if is_left_out {
        entry.body = Entry::of_no_effect();
    }
    let (Body::Client(ClientCommand { command, .. }) | Body::Internal(command)) = &mut entry.body;
    if let Command::Reserve { holder, ttl_slots, .. } | Command::ReserveBundle { holder, ttl_slots, .. } =
        command
    {
        if PlantedFault::BackupDiverges.is_enabled() {
            holder.0 = holder.0.wrapping_add(1);
        }
        if PlantedFault::BackupOtherTtl.is_enabled() && *ttl_slots > 1 {
            *ttl_slots -= 1;
        }
    }
    match entry.body {
        Body::Client(client) if PlantedFault::BackupForgetsOperations.is_enabled() => {
            Entry { body: Body::Internal(client.command), ..entry }
        }
        body => Entry { body, ..entry },
    }
}
