//! The 128-bit value by which a repeated operation is recognised as the same command.
//!
//! It is stored in snapshots, so it is part of the format: the same words in the same order through the same mixing,
//! for ever. The first word is a numbering of its own, not the command tag of the wire.

use super::command::Command;
use crate::planted::PlantedFault;
use std::fmt;

/// Identifies a command without its operation id, client id and slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u128);

impl fmt::Display for Fingerprint {
    /// 32 hexadecimal digits, most significant first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

struct Mixer(u128);

impl Mixer {
    const START: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const ADD: u128 = 0x9e37_79b9_7f4a_7c15_6eed_0e9d_a4d9_4a4f;
    const MULTIPLY: u128 = 0x94d0_49bb_1331_11eb;

    fn absorb(&mut self, word: u128) {
        let mixed = (self.0 ^ word.wrapping_add(Self::ADD)).rotate_left(29);
        self.0 = mixed.wrapping_mul(Self::MULTIPLY);
    }

    fn absorb_all(words: &[u128]) -> Fingerprint {
        let mut mixer = Mixer(Self::START);
        for word in words {
            mixer.absorb(*word);
        }
        Fingerprint(mixer.0)
    }
}

/// The fingerprint of a command.
#[must_use]
pub fn fingerprint(command: &Command) -> Fingerprint {
    match command {
        Command::Reserve { resource, ttl_slots, .. }
            if PlantedFault::ConflictOfHoldersUnseen.is_enabled() =>
        {
            Mixer::absorb_all(&[2, resource.0, u128::from(*ttl_slots)])
        }
        Command::ReserveBundle { resources, .. } if PlantedFault::ConflictOfOrderUnseen.is_enabled() => {
            Mixer::absorb_all(&[3, resources.iter().fold(0, |all, resource| all ^ resource.0)])
        }
        Command::Confirm { reservation, .. } | Command::Release { reservation, .. }
            if PlantedFault::ConflictOfEpochsUnseen.is_enabled() =>
        {
            let kind = u128::from(matches!(command, Command::Release { .. }));
            Mixer::absorb_all(&[4 + kind, reservation.0])
        }
        Command::CreateResource { resource } => Mixer::absorb_all(&[1, resource.0]),
        Command::Reserve { resource, holder, ttl_slots } => {
            Mixer::absorb_all(&[2, resource.0, holder.0, u128::from(*ttl_slots)])
        }
        Command::ReserveBundle { resources, holder, ttl_slots } => {
            let mut mixer = Mixer(Mixer::START);
            mixer.absorb(3);
            mixer.absorb(resources.len() as u128);
            for resource in resources {
                mixer.absorb(resource.0);
            }
            mixer.absorb(holder.0);
            mixer.absorb(u128::from(*ttl_slots));
            Fingerprint(mixer.0)
        }
        Command::Confirm { reservation, holder, epoch } => {
            Mixer::absorb_all(&[4, reservation.0, holder.0, u128::from(epoch.0)])
        }
        Command::Release { reservation, holder, epoch } => {
            Mixer::absorb_all(&[5, reservation.0, holder.0, u128::from(epoch.0)])
        }
        Command::Revoke { reservation } => Mixer::absorb_all(&[6, reservation.0]),
        Command::Reclaim { reservation } => Mixer::absorb_all(&[7, reservation.0]),
        Command::Expire { reservation, deadline } => {
            Mixer::absorb_all(&[8, reservation.0, u128::from(deadline.0)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{HolderId, LeaseEpoch, ReservationId, ResourceId, Slot};

    #[test]
    fn known_commands_have_their_known_fingerprints() {
        let reservation = ReservationId((3 << 64) + 7);
        let holder = HolderId(0x55);
        let cases = [
            (Command::CreateResource { resource: ResourceId(0x29) }, "6f78453d19d5622140f2996148f0044f"),
            (
                Command::Reserve { resource: ResourceId(0x29), holder, ttl_slots: 20 },
                "42aa838dfe4cd8e1f8ae77087b5c91d2",
            ),
            (
                Command::ReserveBundle {
                    resources: vec![ResourceId(0x29), ResourceId(0x2a)],
                    holder,
                    ttl_slots: 20,
                },
                "c785b0c1d6de5c408caaf875b8a59838",
            ),
            (
                Command::Confirm { reservation, holder, epoch: LeaseEpoch(1) },
                "674dd0df5c13a3bf395687fc3a631081",
            ),
            (
                Command::Release { reservation, holder, epoch: LeaseEpoch(2) },
                "db4754df270de4e6607ed322e7117a03",
            ),
            (Command::Revoke { reservation }, "f13f3e1e358f81f00698725a08f0044f"),
            (Command::Reclaim { reservation }, "7b465e0de07598fa0a98725a08f0044f"),
            (Command::Expire { reservation, deadline: Slot(0x1234) }, "706413f53eead9586f306213faaba234"),
        ];
        for (command, expected) in cases {
            assert_eq!(fingerprint(&command).to_string(), expected, "{command:?}");
        }
    }

    #[test]
    fn a_bundle_of_one_is_not_a_reserve() {
        let bundle =
            Command::ReserveBundle { resources: vec![ResourceId(1)], holder: HolderId(2), ttl_slots: 3 };
        let single = Command::Reserve { resource: ResourceId(1), holder: HolderId(2), ttl_slots: 3 };
        assert_ne!(fingerprint(&bundle), fingerprint(&single));
    }
}
