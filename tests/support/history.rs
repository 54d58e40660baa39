//! Histories compared with those that were recorded of the first implementation, event by event.

/// One event as `key=value` pieces.
type Pieces<'a> = Vec<(&'a str, &'a str)>;

fn pieces(line: &str) -> Pieces<'_> {
    line.split(' ').map(|piece| piece.split_once('=').unwrap()).collect()
}

fn number(pieces: &Pieces<'_>, key: &str) -> Option<u128> {
    pieces.iter().find(|(known, _)| *known == key).map(|(_, value)| value.parse().unwrap())
}

/// Events without times, with ids relative to the first resource and absolute slots relative to the slot base.
fn normalised(lines: &[&str]) -> Vec<String> {
    let events: Vec<Pieces<'_>> = lines.iter().map(|line| pieces(line)).collect();
    let first = events.iter().find_map(|event| number(event, "resource_id")).unwrap();
    let base = events
        .iter()
        .find_map(|event| {
            let ttl = number(event, "ttl_slots")?;
            Some(number(event, "expires_at_slot")? - number(event, "request_slot")? - ttl)
        })
        .unwrap();
    let id = |value: &str| format!("r+{}", value.parse::<u128>().unwrap() - first);
    let slot = |value: &str| match value.parse::<u128>().unwrap() {
        absolute if absolute > 1_000_000_000 => format!("ns+{}", absolute - base),
        relative => relative.to_string(),
    };
    let parts = |value: &str, change: &dyn Fn(usize, &str) -> String| {
        let parts: Vec<String> = value.split(':').enumerate().map(|(at, part)| change(at, part)).collect();
        parts.join(":")
    };
    let value = |key: &str, value: &str| match key {
        "operation_id" | "resource_id" => id(value),
        "resource_ids" => value.split(',').map(id).collect::<Vec<_>>().join(","),
        "expires_at_slot" | "request_slot" => slot(value),
        "expired" => parts(value, &|at, part| if at == 0 { id(part) } else { part.to_owned() }),
        "reservation_state" if value.starts_with("active:") => parts(value, &|at, part| match at {
            1 => id(part),
            3 => slot(part),
            _ => part.to_owned(),
        }),
        "reservation_state" => parts(value, &|at, part| if at == 1 { id(part) } else { part.to_owned() }),
        _ => value.to_owned(),
    };
    let line = |event: &Pieces<'_>| {
        let kept = event.iter().filter(|(key, _)| *key != "time_millis");
        kept.map(|(key, text)| format!("{key}={}", value(key, text))).collect::<Vec<_>>().join(" ")
    };
    events.iter().map(line).collect()
}

/// What stays the same in every iteration: neither LSNs nor leases nor who happens to be primary.
fn shape(normalised: &str) -> String {
    let pieces = pieces(normalised);
    let kept = pieces.iter().map(|(key, value)| match *key {
        "sequence"
        | "applied_lsn"
        | "released_lsn"
        | "required_lsn"
        | "observed_lsn"
        | "reservation_id"
        | "committed_reservation_id"
        | "served_by" => format!("{key}=#"),
        "process" => format!("process={}", value.trim_end_matches(|c: char| c.is_ascii_digit())),
        "expired" => format!("expired={}", value.split(':').take(2).collect::<Vec<_>>().join(":")),
        "reservation_state" if value.starts_with("released:") => {
            format!("reservation_state={}", value.rsplit_once(':').unwrap().0)
        }
        _ => format!("{key}={value}"),
    });
    kept.collect::<Vec<_>>().join(" ")
}

/// A recorded history is what every run of that name comes to, but for ids and times.
pub fn assert_history(run_id: &str, history: &str) {
    let lines: Vec<&str> = history.lines().skip(1).collect();
    let path = format!("{}/tests/expected/{run_id}.txt", env!("CARGO_MANIFEST_DIR"));
    // Of a run that is new, its first file is what it came to, once somebody has read it.
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{path}: {error}; the run came to:\n{}", normalised(&lines).join("\n"))
    });
    let expected: Vec<&str> = expected.lines().collect();
    assert_eq!(lines.len() % expected.len(), 0, "{run_id}: {} events", lines.len());
    for (at, iteration) in lines.chunks(expected.len()).enumerate() {
        let found = normalised(iteration);
        if at == 0 {
            assert_eq!(found, expected, "{run_id}");
        } else {
            let shapes = |lines: &[String]| lines.iter().map(|line| shape(line)).collect::<Vec<_>>();
            let expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
            assert_eq!(shapes(&found), shapes(&expected), "{run_id}, iteration {}", at + 1);
        }
    }
}
