//! Plan files as they are written and read: what is in one is bounded, so that it can be played.

use super::*;
use crate::ids::{ReservationId, Slot};

fn plan() -> Plan {
    let planned = Planned {
        id: 7,
        at: 1_000,
        client: 2,
        replica: 3,
        request: Request::GetLease { lease: ReservationId(5), slot: Slot(9), fence: None },
        lease_of: Some(3),
        fence_above: Some(1),
        again: None,
    };
    Plan {
        seed: 4,
        planted_fault: Some("reserve-taken".to_owned()),
        setup: Setup {
            checkpoint_bytes: 200,
            slow: Some(2),
            old_builds: vec![1],
            old_tools: true,
            clocks: vec![-7, 0, 30],
            tables: Tables { operations: 3, expirations_per_tick: 2 },
        },
        noise: Noise::Recorded(vec![vec![Some(3), None]]),
        calm: 5_000,
        operations: vec![planned],
        faults: vec![
            Timed { at: 10, fault: Fault::LosePower { replica: 1, torn: u64::MAX } },
            Timed { at: 20, fault: Fault::CutLink { from: 1, to: 0 } },
            Timed { at: 30, fault: Fault::FailOver { primary: 2, supporting: 3 } },
            Timed { at: 40, fault: Fault::FairWeather },
        ],
    }
}

#[test]
fn a_plan_is_read_as_it_was_written() {
    for noise in [Noise::Steady, Noise::Seeded(9), plan().noise] {
        let plan = Plan { noise, ..plan() };
        assert_eq!(Plan::parse(&plan.to_text().unwrap()), Ok(plan));
    }
    assert_eq!((plan().clients(), plan().harms()), (1, 3));
}

#[test]
fn what_cannot_be_played_is_refused_with_its_place_and_what_was_expected() {
    let text = plan().to_text().unwrap();
    for (part, other, told) in [
        ("\"version\": 1", "\"version\": 2", "`version`: expected 1, found 2"),
        ("\"replica\": 3", "\"replica\": 4", "`operations[0]`: `replica`: expected 1 to 3, found 4"),
        ("\"client\": 2", "\"client\": 64", "`operations[0]`: `client`: expected 0 to 63, found 64"),
        ("\"at\": 1000", "\"at\": 99999999999999", "`operations[0]`: `at`: expected 0 to 86400000000"),
        ("\"get_lease\"", "\"get_leases\"", "`operations[0]`: "),
        ("\"lease\":\"5\"", "\"lease\":\"five\"", "`operations[0]`: `value.lease`: expected"),
        ("\"supporting\": 3", "\"supporting\": 2", "`faults[2]`: expected two replicas, found 2 twice"),
        ("\"primary\": 2", "\"primary\": 0", "`faults[2]`: `replica`: expected 1 to 3, found 0"),
        ("\"slow\": 2", "\"slow\": 9", "`setup`: expected 1 to 3, found 9"),
        ("\"operations\": 3", "\"operations\": 65", "`tables.operations`: expected 1 to 64, found 65"),
        (
            "\"expirations_per_tick\": 2",
            "\"expirations_per_tick\": 0",
            "`tables.expirations_per_tick`: expected 1",
        ),
        ("\"calm\": 5000", "\"calm\": 99999999999999", "`calm`: expected 0 to 86400000000"),
        ("fair-weather", "foul-weather", "expected a plan: unknown variant `foul-weather`"),
    ] {
        let changed = text.replacen(part, other, 1);
        assert_ne!(changed, text, "{part} is not in {text}");
        let problem = Plan::parse(&changed).unwrap_err();
        assert!(problem.contains(told), "{told}: {problem}");
    }
    for nonsense in ["", "{}", "[1]", "plan"] {
        assert!(Plan::parse(nonsense).unwrap_err().starts_with("expected a plan"), "{nonsense}");
    }
}
