//! Replays what was committed, by ascending LSN, and finds resources that were given away while they were held and
//! leases that ended too early. Leans on the commit log, into which its tables point instead of copying from it.

use crate::ids::{OperationId, ReservationId, ResourceId, Slot};

use super::commits::{Commit, CommitLog, Effect, ExpiredPairs, Position};
use super::report::Blocker;
use super::table::Table;

/// Replays the commits of a history and returns what is wrong, in the order in which it went wrong.
pub(super) fn replay(commits: &CommitLog) -> Vec<Blocker> {
    let mut replay =
        Replay { commits, held: Table::default(), leases: Table::default(), blockers: Vec::new() };
    commits.survivors(|at, commit| match commit.effect {
        Effect::Reserved => replay.reserve(at, commit),
        Effect::Confirmed => replay.confirm(&commit),
        Effect::Ended => replay.end(commit.reservation_id),
        Effect::Revoked | Effect::TickExpired { slot: None, .. } => {}
        Effect::TickExpired { slot: Some(slot), expired } => replay.tick(slot, expired),
    });
    replay.blockers
}

struct Replay<'a> {
    commits: &'a CommitLog,
    /// For each resource that is held, the commit that reserved it.
    held: Table<ResourceId, Position>,
    leases: Table<ReservationId, Lease>,
    blockers: Vec<Blocker>,
}

/// A lease whose end was not seen yet.
struct Lease {
    /// The commit that made it, the last one if there are several.
    reserved_at: Position,
    /// Whether another lease may have taken one of its members. As long as none has, confirming it needs no look at its
    /// members, of which there can be many.
    contested: bool,
}

impl Replay<'_> {
    fn reserve(&mut self, at: Position, commit: Commit<'_>) {
        for resource_id in commit.members {
            if let Some(holder) = self.held.insert(resource_id, at) {
                let holder = self.commits.get(holder);
                self.clash(resource_id, holder.operation_id, commit.operation_id);
                if let Some(robbed) = self.leases.get_mut(&holder.reservation_id) {
                    robbed.contested = true;
                }
            }
        }
        self.leases.insert(commit.reservation_id, Lease { reserved_at: at, contested: false });
    }

    fn confirm(&mut self, commit: &Commit<'_>) {
        let Some(Lease { reserved_at, contested: true }) = self.leases.get(&commit.reservation_id) else {
            return;
        };
        for resource_id in self.commits.get(*reserved_at).members {
            let Some(holder) = self.held.get(&resource_id) else { continue };
            let holder = self.commits.get(*holder);
            if holder.reservation_id != commit.reservation_id {
                self.clash(resource_id, holder.operation_id, commit.operation_id);
            }
        }
    }

    /// Ends a lease and frees those of its members that are held under it.
    fn end(&mut self, lease: ReservationId) {
        let Some(Lease { reserved_at, .. }) = self.leases.remove(&lease) else { return };
        for resource_id in self.commits.get(reserved_at).members {
            let held_under_it = |holder: &Position| {
                *holder == reserved_at || self.commits.get(*holder).reservation_id == lease
            };
            if self.held.get(&resource_id).is_some_and(held_under_it) {
                self.held.remove(&resource_id);
            }
        }
    }

    fn tick(&mut self, slot: Slot, expired: ExpiredPairs<'_>) {
        for (resource_id, reservation_id) in expired {
            let Some(holder) = self.held.get(&resource_id) else { continue };
            let holder = self.commits.get(*holder);
            if holder.reservation_id != reservation_id {
                continue;
            }
            if slot < holder.expires_at_slot {
                self.blockers.push(Blocker::EarlyExpirationRelease {
                    resource_id,
                    reservation_id,
                    expires_at_slot: holder.expires_at_slot,
                    released_at_slot: slot,
                });
            }
            self.end(reservation_id);
        }
    }

    fn clash(&mut self, resource_id: ResourceId, existing: OperationId, conflicting: OperationId) {
        self.blockers.push(Blocker::DoubleAllocation {
            resource_id,
            existing_operation_id: existing,
            conflicting_operation_id: conflicting,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::{bundled, confirmed, findings, reclaimed, released, reserved, revoked, ticked};

    const NOTHING: [&str; 0] = [];

    fn double(resource: u64, existing: u64, conflicting: u64) -> String {
        format!(
            "double_allocation resource_id={resource} existing_operation_id={existing} \
             conflicting_operation_id={conflicting}"
        )
    }

    fn early(resource: u64, reservation: u64, deadline: u64, slot: u64) -> String {
        format!(
            "early_expiration_release resource_id={resource} reservation_id={reservation} \
             expires_at_slot={deadline} released_at_slot={slot}"
        )
    }

    #[test]
    fn a_resource_is_held_by_one_lease_at_a_time() {
        assert_eq!(findings([reserved(1, 11, 201, 1, 9), reserved(2, 11, 202, 2, 9)]), [double(11, 1, 2)]);
        assert_eq!(findings([reserved(1, 11, 201, 1, 9), reserved(2, 12, 202, 2, 9)]), NOTHING);
        let same_lease = [reserved(1, 11, 201, 1, 9), reserved(2, 11, 201, 2, 9)];
        assert_eq!(findings(same_lease), [double(11, 1, 2)], "being the same lease is no excuse");
    }

    #[test]
    fn whoever_reserved_last_is_the_holder() {
        let lines = [1, 2, 3].map(|n| reserved(n, 11, 200 + n, n, 9));
        assert_eq!(findings(lines), [double(11, 1, 2), double(11, 2, 3)]);
    }

    #[test]
    fn the_log_decides_what_came_first() {
        assert_eq!(findings([reserved(1, 11, 201, 8, 9), reserved(2, 11, 202, 4, 9)]), [double(11, 2, 1)]);
        let backwards = [reserved(3, 11, 203, 9, 9), released(2, 11, 201, 5), reserved(1, 11, 201, 1, 9)];
        assert_eq!(findings(backwards), NOTHING);
    }

    #[test]
    fn of_several_commits_at_one_lsn_the_last_of_the_file_survives() {
        assert_eq!(findings([reserved(1, 11, 201, 4, 9), reserved(2, 11, 202, 4, 9)]), NOTHING);
        let hidden = [reserved(1, 11, 201, 4, 9), reserved(2, 11, 202, 5, 9), revoked(3, 999, 4)];
        assert_eq!(findings(hidden), NOTHING, "an unrelated commit at lsn 4 replaces the first reservation");
    }

    #[test]
    fn members_clash_one_by_one_in_the_order_of_the_later_list() {
        let lines = [bundled(1, "1,2,3", 201, 1, 9), bundled(2, "3,4,1", 202, 2, 9)];
        assert_eq!(findings(lines), [double(3, 1, 2), double(1, 1, 2)]);
        assert_eq!(findings([bundled(1, "7,8,7,7", 201, 1, 9)]), [double(7, 1, 1), double(7, 1, 1)]);
    }

    #[test]
    fn with_a_list_the_single_resource_is_no_member() {
        assert_eq!(findings([bundled(1, "1,2", 201, 1, 9), reserved(2, 999, 202, 2, 9)]), NOTHING);
        assert_eq!(findings([bundled(1, "", 201, 1, 9), reserved(2, 999, 202, 2, 9)]), [double(999, 1, 2)]);
    }

    #[test]
    fn confirming_a_lease_whose_resource_is_held_under_another_one_is_a_clash() {
        let robbed = [reserved(1, 11, 201, 1, 9), reserved(2, 11, 202, 2, 9), confirmed(3, 11, 201, 3)];
        assert_eq!(findings(&robbed), [double(11, 1, 2), double(11, 2, 3)]);
        let robber = [&robbed[..2], &[confirmed(3, 11, 202, 3)]].concat();
        assert_eq!(findings(robber), [double(11, 1, 2)]);
        let given_back = [&robbed[..2], &[released(4, 11, 202, 3), confirmed(3, 11, 201, 4)]].concat();
        assert_eq!(findings(given_back), [double(11, 1, 2)], "nobody holds it any more");
        assert_eq!(findings([confirmed(1, 11, 201, 1), reserved(2, 11, 202, 2, 9)]), NOTHING);
    }

    #[test]
    fn confirming_looks_at_every_member_every_time() {
        let lines = [
            bundled(1, "1,2,1", 201, 1, 9),
            reserved(2, 1, 202, 2, 9),
            confirmed(3, 1, 201, 3),
            confirmed(4, 1, 201, 4),
        ];
        let clash = [double(1, 2, 3), double(1, 2, 3), double(1, 2, 4), double(1, 2, 4)];
        assert_eq!(findings(lines), [&[double(1, 1, 1), double(1, 1, 2)][..], &clash].concat());
    }

    #[test]
    fn release_and_reclaim_free_the_members_and_revoke_does_not() {
        for (between, free) in [
            (released(2, 1, 201, 2), true),
            (reclaimed(2, 201, 2), true),
            (revoked(2, 201, 2), false),
            (released(2, 1, 999, 2), false),
        ] {
            let lines = [bundled(1, "1,2", 201, 1, 9), between, bundled(3, "1,2", 203, 3, 9)];
            let clashes = vec![double(1, 1, 3), double(2, 1, 3)];
            assert_eq!(findings(lines), if free { vec![] } else { clashes });
        }
    }

    #[test]
    fn a_lease_gives_back_only_what_it_still_holds() {
        let lines = [
            reserved(1, 11, 201, 1, 9),
            reserved(2, 11, 202, 2, 9),
            released(3, 11, 201, 3),
            reserved(4, 11, 204, 4, 9),
        ];
        assert_eq!(findings(lines), [double(11, 1, 2), double(11, 2, 4)]);
    }

    #[test]
    fn a_tick_frees_at_the_deadline_and_is_early_before_it() {
        for (slot, found) in [(0, vec![early(11, 201, 9, 0)]), (8, vec![early(11, 201, 9, 8)]), (9, vec![])] {
            let lines =
                [reserved(1, 11, 201, 1, 9), ticked(2, slot, 2, &[(11, 201)]), reserved(3, 11, 203, 3, 99)];
            assert_eq!(findings(lines), found, "at {slot}; either way the resource is free afterwards");
        }
    }

    #[test]
    fn a_tick_without_slot_frees_nothing() {
        let tick = ticked(2, 99, 2, &[(11, 201)]).replace(" request_slot=99", "");
        assert_eq!(
            findings([reserved(1, 11, 201, 1, 9), tick, reserved(3, 11, 203, 3, 9)]),
            [double(11, 1, 3)]
        );
    }

    #[test]
    fn a_tick_ignores_what_is_not_held_under_the_lease_it_names() {
        let lines = [
            reserved(1, 11, 201, 1, 9),
            ticked(2, 3, 2, &[(12, 201), (11, 202)]),
            reserved(3, 11, 203, 3, 9),
        ];
        assert_eq!(findings(lines), [double(11, 1, 3)]);
    }

    #[test]
    fn the_first_entry_of_a_lease_ends_all_of_it() {
        let lines = [
            bundled(1, "1,2", 201, 1, 9),
            ticked(2, 8, 2, &[(2, 201), (1, 201)]),
            bundled(3, "1,2", 203, 3, 9),
        ];
        assert_eq!(findings(lines), [early(2, 201, 9, 8)]);
    }

    #[test]
    fn entries_of_one_tick_are_judged_in_their_order() {
        let lines =
            [reserved(1, 1, 201, 1, 9), reserved(2, 2, 202, 2, 8), ticked(3, 5, 3, &[(2, 202), (1, 201)])];
        assert_eq!(findings(lines), [early(2, 202, 8, 5), early(1, 201, 9, 5)]);
    }

    #[test]
    fn confirming_does_not_change_the_deadline() {
        let lines =
            |slot| [reserved(1, 11, 201, 1, 9), confirmed(2, 11, 201, 2), ticked(3, slot, 3, &[(11, 201)])];
        assert_eq!(findings(lines(8)), [early(11, 201, 9, 8)]);
        assert_eq!(findings(lines(1000)), NOTHING, "that a lease in use expired late is not judged");
    }

    #[test]
    fn a_lease_made_twice_leaves_the_members_of_its_first_list_held_for_good() {
        let lines = [
            reserved(1, 1, 201, 1, 9),
            reserved(2, 2, 201, 2, 9),
            released(3, 2, 201, 3),
            ticked(4, 5, 4, &[(1, 201)]),
            ticked(5, 6, 5, &[(1, 201), (2, 201)]),
            reserved(6, 1, 206, 6, 9),
            reserved(7, 2, 207, 7, 9),
        ];
        assert_eq!(findings(lines), [early(1, 201, 9, 5), early(1, 201, 9, 6), double(1, 1, 6)]);
    }
}
