//! What a judge does at its limits, and with those who do not keep to the rules: it never says that all is well.

use super::*;
use crate::check::Verdict as Proven;
use crate::client::lease::{Ask, Command, Limits};
use crate::client::record::command_fields;
use crate::ids::{OperationId, ResourceId, ShardId, Slot};
use std::borrow::Cow;

const LIMITS: Limits = Limits {
    shard: ShardId(0),
    max_resources: 8,
    max_reservations: 8,
    max_bundle_size: 2,
    max_operations: 1 << 20,
    max_ttl_slots: 16,
    max_client_retry_window_slots: 8,
    reservation_history_window_slots: 4,
    max_expiration_bucket_len: 8,
    max_expirations_per_tick: 8,
};

/// A judge that is told of one event after the other.
struct Feed {
    judge: Judge,
    next: u64,
}

impl Feed {
    fn new() -> Self {
        Self { judge: Judge::new(LIMITS), next: 0 }
    }

    fn stamp(&mut self, process: Process, kind: Kind) -> Stamp {
        self.next += 1;
        Stamp { index: self.next - 1, time: self.next, process, kind, replica: None }
    }

    fn begins(&mut self, process: u64, request: Request) -> Result<(), String> {
        let stamp = self.stamp(Process::Client(process), Kind::Invoke);
        self.judge.begins(&stamp, request)
    }

    fn ends(&mut self, process: u64, kind: Kind, fields: &Fields<'_>) -> Result<(), String> {
        let stamp = self.stamp(Process::Client(process), kind);
        self.judge.ends(&stamp, CREATE, fields)
    }

    /// A process that is told nothing.
    fn loses(&mut self, process: u64, request: Request) {
        self.begins(process, request).unwrap();
        self.ends(process, Kind::Info, &Fields::default()).unwrap();
    }

    /// A process that is told where its command stands.
    fn executes(&mut self, process: u64, request: Request, lsn: u64, code: &str) {
        self.begins(process, request).unwrap();
        self.ends(process, Kind::Ok, &placed(lsn, code)).unwrap();
    }

    fn proven(self) -> (Proven, Vec<String>) {
        let judgement = self.judge.finish(false).judgement;
        (judgement.verdict(), judgement.doubts)
    }
}

const CREATE: &str = "create_resource";

fn placed(lsn: u64, code: &str) -> Fields<'_> {
    Fields { lsn: Some(lsn), code: Some(Cow::Borrowed(code)), ..Fields::default() }
}

/// A resource is created; 5 is the only one there ever is.
fn create(operation: u64, slot: u64) -> Request {
    let ask = Ask::Create { resource: ResourceId(5) };
    Request::Write(Command { operation: Some(OperationId(operation.into())), slot: Slot(slot), ask })
}

/// One request is on its way, so that nobody knows what stands at the first place, and more are answered behind it than may wait.
#[test]
fn more_than_may_wait_behind_an_unknown_place_prove_nothing() {
    let answered = |count: u64| {
        let mut told = Feed::new();
        told.begins(0, create(1, 1)).unwrap();
        for lsn in 2..count + 2 {
            told.executes(1, create(lsn, 1), lsn, "already_exists");
        }
        told
    };
    let most = crate::check::witness::MOST_WAITING as u64;
    let mut some = answered(1_000);
    some.ends(0, Kind::Ok, &placed(1, "ok")).unwrap();
    assert_eq!(some.proven(), (Proven::Valid, Vec::new()));

    let mut all = answered(most + 1);
    let doubts = all.judge.judgement().doubts.clone();
    assert!(
        doubts[0].starts_with("more than 262144 operations wait behind place 1 of the log"),
        "{doubts:?}"
    );
    // What comes afterwards, right or wrong, is not looked at any more.
    all.ends(0, Kind::Ok, &placed(7, "resource_busy")).unwrap();
    assert_eq!(all.proven(), (Proven::Unknown, doubts));
}

/// Requests that were lost and sent again at another time: nobody is told which of the two was executed, and each may have been.
#[test]
fn more_ways_to_see_a_history_than_are_looked_at_prove_nothing_wrong() {
    let ways = |lost: u64, last: &str| {
        let mut told = Feed::new();
        told.executes(0, create(1_000, 1), 1, "ok");
        for number in 0..lost {
            let (process, slot, lsn) = (3 * number + 1, 2 * number + 1, number + 2);
            told.loses(process, create(number + 1, slot));
            told.loses(process + 1, create(number + 1, slot + 1));
            told.executes(process + 2, create(number + 1, slot + 1), lsn, "already_exists");
        }
        let behind = 3 * lost + 1;
        told.executes(behind, create(2_000, 2 * lost + 1), lost + 2, last);
        told
    };
    for lost in [5, 8] {
        assert_eq!(ways(lost, "already_exists").proven(), (Proven::Valid, Vec::new()), "{lost}");
    }
    // With an answer that is wrong in all of them: of 32 everyone was looked at, of 256 not.
    assert_eq!(ways(5, "resource_busy").proven(), (Proven::Invalid, Vec::new()));
    let (verdict, doubts) = ways(8, "resource_busy").proven();
    assert_eq!(verdict, Proven::Unknown);
    assert!(doubts[0].contains("leave more than 64 ways to see the history"), "{doubts:?}");
}

/// Nobody was told what stands at the second place, and each of many lost requests may: so much is known behind it that each is
/// assumed to, and what is wrong whichever it is is wrong.
#[test]
fn what_is_wrong_whatever_stands_at_a_place_is_found_however_much_may() {
    let told = |lost: u64, known: u64, last: &[&str]| {
        let mut told = Feed::new();
        told.executes(0, create(1_000_000, 1), 1, "ok");
        for number in 1..=lost {
            told.loses(number, create(number, 1));
        }
        let codes = std::iter::repeat_n(&"already_exists", known as usize).chain(last);
        for (number, code) in (0..).zip(codes) {
            told.executes(10_000 + number, create(2_000_000 + number, 1), 3 + number, code);
        }
        told
    };
    // Enough to assume something at once, before the wrong answer and after it.
    for (lost, known) in [(12, 1_020), (12, 3_000), (30, 3_000), (100, 1_020)] {
        let found = told(lost, known, &["resource_busy"]).proven();
        assert_eq!(found, (Proven::Invalid, Vec::new()), "{lost} lost, {known} known");
        let clean = told(lost, known, &["already_exists"]).proven();
        assert_eq!(clean, (Proven::Valid, Vec::new()), "{lost} lost, {known} known");
    }
    // More than are gone on with, and the wrong answer comes when some have been left out.
    let (verdict, doubts) = told(100, 3_000, &["resource_busy"]).proven();
    assert_eq!(verdict, Proven::Unknown);
    assert!(doubts[0].contains("not all of which were looked at"), "{doubts:?}");
    assert_eq!(told(100, 3_000, &[]).proven(), (Proven::Valid, Vec::new()));
}

/// Nobody was ever told what stands at the second place, so that much is known behind it. What stands much later is told when it is asked
/// for again: nothing is assumed about that in the meantime, of which all but one of many ways would be wrong.
#[test]
fn what_will_be_told_is_not_guessed_because_of_what_will_not() {
    let told = |last: &str| {
        let mut told = Feed::new();
        told.executes(0, create(1_000_000, 1), 1, "ok");
        (1..=2).for_each(|number| told.loses(number, create(number, 1)));
        for number in 0..900 {
            told.executes(10_000 + number, create(2_000_000 + number, 1), 3 + number, "already_exists");
        }
        (0..12).for_each(|number| told.loses(100 + number, create(100 + number, 1)));
        for number in 0..300 {
            told.executes(20_000 + number, create(3_000_000 + number, 1), 915 + number, "already_exists");
        }
        for number in 0..12 {
            let code = if number == 11 { last } else { "already_exists" };
            told.executes(30_000 + number, create(100 + number, 1), 914 - number, code);
        }
        told.proven()
    };
    assert_eq!(told("already_exists"), (Proven::Valid, Vec::new()));
    assert_eq!(told("resource_busy"), (Proven::Invalid, Vec::new()));
}

/// Many requests are lost, many places belong to one of them, and what is answered behind these is wrong whichever they are: there
/// are more ways to see this than anybody can try. Whoever looks for one falls no further behind for each request that follows.
#[test]
fn what_cannot_be_explained_is_not_looked_for_without_end() {
    let tried = |behind: usize| {
        let mut told = Feed::new();
        told.executes(0, create(1_000_000, 1), 1, "ok");
        for number in 1..=30 {
            told.loses(number, create(number, 1));
        }
        let places = (3..).filter(|place| *place > 30 || place % 3 != 0).take(behind);
        for (number, place) in (0..).zip(places) {
            let code = if place == 31 { "resource_busy" } else { "already_exists" };
            told.executes(10_000 + number, create(2_000_000 + number, 1), place, code);
        }
        assert!(told.judge.judgement().anomalies.is_empty());
        told.judge.checker.tried()
    };
    // As many at first, and three times a few; before it goes on with a copy it may not know what that costs.
    let copies = tried(4_200);
    assert!((2_000..3_000).contains(&copies), "{copies} copies");
}

#[test]
fn who_asks_or_is_told_out_of_turn_is_refused_with_the_reason() {
    let nothing = Fields::default();
    let refused = |what: &str, expected: &str, misuse: fn(&mut Feed, &Fields<'_>) -> Result<(), String>| {
        let mut told = Feed::new();
        let problem = misuse(&mut told, &nothing).expect_err(what);
        assert!(problem.contains(expected), "{what}: {problem}");
        // Whoever goes on all the same has proven nothing.
        let process = 1_000;
        told.executes(process, create(1_000, 1), 1, "ok");
        let (verdict, doubts) = told.proven();
        assert_eq!(verdict, Proven::Unknown, "{what}");
        assert_eq!(doubts[0], format!("an event was refused: {problem}"), "{what}");
    };
    refused(
        "an answer to nobody",
        "process 3 is told of `create_resource`, which it did not begin",
        |told, _| told.ends(3, Kind::Ok, &placed(1, "ok")),
    );
    refused("an answer to somebody else", "process 4 is told of", |told, _| {
        told.begins(3, create(1, 1))?;
        told.ends(4, Kind::Ok, &placed(1, "ok"))
    });
    refused("a second request", "process 3 begins something while its operation at 0 is open", |told, _| {
        told.begins(3, create(1, 1))?;
        told.begins(3, create(2, 1))
    });
    refused("a request after what is not known", "process 3 goes on after an operation", |told, _| {
        told.loses(3, create(1, 1));
        told.begins(3, create(2, 1))
    });
    refused("an answer as a request", "expected an invocation of a client", |told, _| {
        told.begins(3, create(1, 1))?;
        let stamp = told.stamp(Process::Client(3), Kind::Ok);
        told.judge.begins(&stamp, create(1, 1))
    });
    refused("a request as an answer", "expected a completion of a client", |told, nothing| {
        let stamp = told.stamp(Process::Client(3), Kind::Invoke);
        told.judge.ends(&stamp, CREATE, nothing)
    });
    refused("the nemesis as a client", "expected an invocation of a client", |told, _| {
        let stamp = told.stamp(Process::Nemesis, Kind::Invoke);
        told.judge.begins(&stamp, create(1, 1))
    });
    refused("an answer to the nemesis", "expected a completion of a client", |told, nothing| {
        let stamp = told.stamp(Process::Nemesis, Kind::Ok);
        told.judge.ends(&stamp, CREATE, nothing)
    });
    refused("another operation's answer", "is told of `create_resource`", |told, _| {
        told.begins(3, Request::Tick { slot: Slot(1) })?;
        told.ends(3, Kind::Ok, &placed(1, "ok"))
    });
    refused("no answer", "`value.", |told, nothing| {
        told.begins(3, create(1, 1))?;
        told.ends(3, Kind::Ok, nothing)
    });
}

/// A command that nobody asked for cannot be told of by the same way.
#[test]
fn a_log_is_told_by_the_nemesis_alone() {
    let mut told = Feed::new();
    told.executes(0, create(1, 1), 1, "ok");
    let Request::Write(command) = create(2, 1) else { return };
    let fields = Fields { lsn: Some(2), f: Some(CREATE.into()), ..command_fields(&command) };
    let stamp = told.stamp(Process::Client(0), Kind::Ok);
    let problem = told.judge.ends(&stamp, LOG, &fields).unwrap_err();
    assert!(problem.contains("is told of `log`, which it did not begin"), "{problem}");
}
