//! Files built here and what is said about them.

use super::*;
use allocdb_node::allocator::payload::{encode_client, encode_internal};
use allocdb_node::allocator::snapshot::{MemberRecord, ReservationRecord};
use allocdb_node::allocator::snapshot_file;
use allocdb_node::allocator::{
    ClientCommand, Command, Fingerprint, OperationRecord, Outcome, PayloadKind, ReservationState,
    ResourceState, ResourceView, ResultCode, Snapshot,
};
use allocdb_node::cluster::layout::Limits;
use allocdb_node::cluster::timeline::{self, Event, EventKind};
use allocdb_node::cluster::{ClusterLayout, FaultState, Network};
use allocdb_node::ids::{
    ClientId, HolderId, LeaseEpoch, Lsn, OperationId, ReplicaId, ReservationId, ResourceId, ShardId, Slot,
    View,
};
use allocdb_node::replica::metadata::{Identity, Metadata, Role, Vote};
use allocdb_node::replica::prepare_log::{self, PreparedEntry};
use allocdb_node::storage::frame::HEADER_LEN;
use allocdb_node::storage::sum::{Sum, SumKind, sum_path};
use allocdb_node::storage::{Frame, RecordType};
use std::net::SocketAddr;

/// What is said about one file of that name with that content, and whether it was clean.
fn said(name: &str, content: &[u8]) -> (String, bool) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let files = [path];
    let mut out = Vec::new();
    let damaged = describe_all(&files, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), damaged.is_empty())
}

fn lines(name: &str, content: &[u8]) -> Vec<String> {
    said(name, content).0.lines().map(str::to_owned).collect()
}

fn last(name: &str, content: &[u8]) -> String {
    lines(name, content).pop().unwrap_or_default()
}

fn create(operation: u128, resource: u128) -> Vec<u8> {
    encode_client(&ClientCommand {
        operation: OperationId(operation),
        client: ClientId(7),
        command: Command::CreateResource { resource: ResourceId(resource) },
    })
}

fn frame(lsn: u64, slot: u64, record: RecordType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame { lsn: Lsn(lsn), slot: Slot(slot), record, payload }.encode(&mut bytes);
    bytes
}

fn client_frame(lsn: u64, slot: u64) -> Vec<u8> {
    frame(lsn, slot, RecordType::Client, &create(9000 + u128::from(lsn), 40 + u128::from(lsn)))
}

/// Two client commands of 80 bytes, an expire of 56, a marker of 31.
fn log() -> Vec<u8> {
    let reserve = encode_client(&ClientCommand {
        operation: OperationId(9002),
        client: ClientId(7),
        command: Command::Reserve { resource: ResourceId(41), holder: HolderId(85), ttl_slots: 20 },
    });
    let expire = encode_internal(&Command::Expire { reservation: ReservationId(2), deadline: Slot(10) });
    [
        client_frame(1, 1),
        frame(2, 3, RecordType::Client, &reserve),
        frame(3, 12, RecordType::Internal, &expire),
        frame(3, 12, RecordType::SnapshotMarker, &[]),
    ]
    .concat()
}

#[test]
fn a_log_is_shown_frame_by_frame_to_its_end() {
    let (text, clean) = said("anything", &log());
    assert!(clean);
    let expected = "\
        offset=0 record=client lsn=1 slot=1 length=80 operation=9001 client=7 command=create_resource resource=41\n\
        offset=80 record=client lsn=2 slot=3 length=104 operation=9002 client=7 command=reserve resource=41 holder=85 ttl_slots=20\n\
        offset=184 record=internal lsn=3 slot=12 length=56 command=expire reservation=2 deadline_slot=10\n\
        offset=240 record=snapshot_marker lsn=3 slot=12 length=31\n\
        end=271 stop=clean_end\n";
    assert_eq!(text, expected);
}

#[test]
fn a_log_says_where_and_why_it_stops() {
    let torn = &log()[..239];
    assert_eq!(last("x", torn), "offset=184 stop=torn_tail");
    assert!(!said("x", torn).1);
    let mut wrong_sum = log()[..240].to_vec();
    wrong_sum[239] ^= 0xff;
    assert_eq!(last("x", &wrong_sum), "offset=184 stop=corruption error=InvalidChecksum");
    let zeros = [log(), vec![0; HEADER_LEN]].concat();
    assert_eq!(last("x", &zeros), "offset=271 stop=corruption error=InvalidMagic(0)");
    let mut early = log();
    early[0] = 0;
    let stop = "offset=0 stop=corruption error=InvalidMagic(1094992384) valid_frame_at=80";
    assert_eq!(lines("state.wal", &early), [stop]);
}

#[test]
fn a_damaged_length_is_told_from_a_torn_tail() {
    let mut bytes = log();
    bytes[80 + 25] = 0x7f;
    let shown = lines("x", &bytes);
    let stop = "offset=80 stop=torn_tail valid_frame_at=184 note=damaged_rather_than_torn";
    assert_eq!((shown.len(), shown[1].as_str()), (2, stop));
}

#[test]
fn frames_that_do_not_follow_are_noted_and_shown_all_the_same() {
    let odd = frame(9, 2, RecordType::Internal, &[99]);
    let bytes = [client_frame(5, 3), client_frame(7, 3), client_frame(7, 4), odd].concat();
    let (text, clean) = said("x", &bytes);
    assert!(!clean);
    let ends: Vec<&str> =
        text.lines().map(|line| line.split_once(" length=").map_or(line, |(_, end)| end)).collect();
    assert_eq!(ends[0], "80 operation=9005 client=7 command=create_resource resource=45");
    assert!(ends[1].ends_with(" resource=47 note=lsn_gap expected_lsn=6"));
    assert!(ends[2].ends_with(" resource=47 note=lsn_repeated"));
    let note = "note=lsn_gap,slot_goes_back,payload_is_no_command expected_lsn=8 error=InvalidCommandTag(99)";
    assert_eq!(ends[3], format!("32 {note}"));
    assert_eq!(ends[4], "end=272 stop=clean_end");
}

fn state() -> Snapshot {
    let id = ReservationId(4);
    Snapshot {
        last_applied_lsn: Some(Lsn(4)),
        last_request_slot: Some(Slot(2)),
        max_retired: None,
        resources: vec![ResourceView {
            id: ResourceId(11),
            state: ResourceState::Reserved,
            current: Some(id),
            version: 1,
        }],
        reservations: vec![ReservationRecord {
            id,
            anchor: ResourceId(11),
            holder: HolderId(85),
            epoch: LeaseEpoch(1),
            state: ReservationState::Reserved,
            created_lsn: Lsn(4),
            deadline: Slot(6),
            released_lsn: None,
            retire_after: None,
            member_count: 1,
        }],
        members: vec![MemberRecord { reservation: id, index: 0, resource: ResourceId(11) }],
        operations: vec![OperationRecord {
            operation: OperationId(101),
            fingerprint: Fingerprint(255),
            outcome: Outcome {
                code: ResultCode::Ok,
                reservation: Some(id),
                epoch: Some(LeaseEpoch(1)),
                deadline: Some(Slot(6)),
            },
            applied_lsn: Lsn(4),
            retire_after: Slot(14),
        }],
        buckets: vec![vec![], vec![id], vec![]],
    }
}

#[test]
fn a_snapshot_is_shown_record_by_record() {
    let bytes = snapshot_file::encode(&state());
    let (text, clean) = said("x", &bytes);
    assert!(clean);
    let expected = "\
        offset=0 version=4 last_applied_lsn=4 last_request_slot=2 max_retired_reservation=none resources=1 reservations=1 members=1 operations=1 buckets=3\n\
        offset=45 record=resource resource=11 state=reserved reservation=4 version=1\n\
        offset=87 record=reservation reservation=4 resource=11 holder=85 epoch=1 state=reserved created_lsn=4 deadline_slot=6 released_lsn=none retire_after_slot=none members=1\n\
        offset=166 record=member reservation=4 index=0 resource=11\n\
        offset=202 record=operation operation=101 fingerprint=000000000000000000000000000000ff result=ok reservation=4 epoch=1 deadline_slot=6 applied_lsn=4 retire_after_slot=14\n\
        offset=290 record=bucket bucket=1 reservations=4\n\
        end=314 stop=clean_end\n";
    assert_eq!(text, expected);
}

#[test]
fn a_damaged_snapshot_is_shown_up_to_the_damage() {
    let bytes = snapshot_file::encode(&state());
    let cut = lines("x", &bytes[..200]);
    assert_eq!(cut.len(), 4);
    assert_eq!(cut[3], "offset=198 stop=damaged error=BufferTooShort at offset 198");
    let mut odd = bytes.clone();
    odd[61] = 9;
    assert_eq!(last("x", &odd), "offset=61 stop=damaged error=invalid resource state 9 at offset 61");
    let mut impossible = bytes.clone();
    impossible[25..29].copy_from_slice(&u32::MAX.to_le_bytes());
    let shown = lines("x", &impossible);
    assert_eq!(
        shown[0],
        "offset=0 version=4 last_applied_lsn=4 last_request_slot=2 max_retired_reservation=none"
    );
    assert_eq!(shown[1], "offset=25 stop=damaged error=BufferTooShort at offset 25");
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(last("x", &longer), "offset=314 stop=damaged error=InvalidLayout: 1 bytes left at offset 314");
}

fn metadata() -> Metadata {
    Metadata {
        current_view: View(4),
        role: Role::ViewUncertain,
        last_normal_view: Some(View(4)),
        durable_vote: Some(Vote { view: View(5), voted_for: ReplicaId(1) }),
        ..Metadata::bootstrap(Identity { replica: ReplicaId(2), shard: ShardId(3) }, Some(Lsn(9)), None)
    }
}

#[test]
fn a_sum_says_what_it_covers_and_whether_its_file_is_that() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replica.metadata");
    let old = Metadata { current_view: View(3), ..metadata() };
    let sum = Sum { kind: SumKind::Metadata, covers: vec![old.encode(), metadata().encode()] };
    std::fs::write(sum_path(&file), sum.encode()).unwrap();
    let said = || {
        let mut out = Vec::new();
        assert!(describe_all(&[sum_path(&file)], &mut out).unwrap().is_empty());
        String::from_utf8(out).unwrap()
    };
    let fits = |word: &str| format!("offset=147 of_file={} fits={word}\n", file.display());
    let covered =
        "bytes=66 view=3 role=view_uncertain commit_lsn=9\noffset=77 covered=metadata bytes=66 view=4";
    assert!(said().contains(&format!("offset=0 of=metadata covers=2\noffset=7 covered=metadata {covered}")));
    assert!(said().contains(&fits("missing")));
    std::fs::write(&file, old.encode()).unwrap();
    assert!(said().contains(&fits("yes")));
    std::fs::write(&file, Metadata { role: Role::Backup, ..old }.encode()).unwrap();
    assert!(said().contains(&fits("no")));
    assert_eq!(last("x.sum", b"RSUM\x01\x02"), "offset=0 stop=damaged error=BufferTooShort");
}

#[test]
fn metadata_is_one_line_and_its_damage_has_a_place() {
    let bytes = metadata().encode();
    let line = "offset=0 replica=2 shard=3 view=4 role=view_uncertain commit_lsn=9 active_snapshot_lsn=none \
                last_normal_view=4 vote_view=5 voted_for=1";
    assert_eq!(lines("x", &bytes), [line, "end=66 stop=clean_end"]);
    let damaged = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        last("replica.metadata", &bytes)
    };
    assert_eq!(damaged(0, b'X'), "offset=0 stop=damaged error=InvalidMagic");
    assert_eq!(damaged(4, 1), "offset=4 stop=damaged error=UnsupportedVersion(1)");
    assert_eq!(damaged(29, 9), "offset=29 stop=damaged error=InvalidRole(9)");
    let tag = "error=InvalidOptionTag { kind: \"last_normal_view\", value: 7 }";
    assert_eq!(damaged(40, 7), format!("offset=40 stop=damaged {tag}"));
    assert_eq!(last("x", &bytes[..50]), "offset=50 stop=damaged error=BufferTooShort");
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(last("x", &longer), "offset=66 stop=damaged error=InvalidLayout");
    let long = [&bytes[..], &[0; 256]].concat();
    assert_eq!(lines("x", &long), ["offset=0 stop=unreadable error=322 bytes, expected at most 256"]);
}

fn entry(lsn: u64, payload: Vec<u8>) -> PreparedEntry {
    PreparedEntry { kind: PayloadKind::Client, view: View(1), lsn: Lsn(lsn), slot: Slot(5), payload }
}

#[test]
fn a_prepare_log_is_shown_entry_by_entry() {
    let bytes = prepare_log::encode([entry(8, create(1, 41)), entry(9, vec![0])].iter());
    let (text, clean) = said("x", &bytes);
    assert!(clean);
    let expected = "\
        offset=0 entries=2\n\
        offset=13 record=client view=1 lsn=8 slot=5 length=82 operation=1 client=7 command=create_resource resource=41\n\
        offset=95 record=client view=1 lsn=9 slot=5 length=34 note=payload_is_no_command error=BufferTooShort\n\
        end=129 stop=clean_end\n";
    assert_eq!(text, expected);
}

#[test]
fn a_damaged_prepare_log_is_shown_up_to_the_damage() {
    let bytes = prepare_log::encode([entry(8, create(1, 41)), entry(8, create(2, 42))].iter());
    assert_eq!(last("x", &bytes), "offset=177 stop=damaged error=InvalidLayout: two entries have one LSN");
    assert_eq!(last("x", &bytes[..170]), "offset=95 stop=damaged error=BufferTooShort");
    let mut endless = bytes.clone();
    endless[5..13].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(last("x", &endless).starts_with("offset=5 stop=damaged error=EntryCountExceedsLimit"));
    let zeros = lines("replica.metadata.prepare", &[0; 13]);
    assert_eq!(zeros, ["offset=0 stop=damaged error=InvalidMagic"]);
}

fn cluster_layout() -> ClusterLayout {
    let address = SocketAddr::from(([127, 0, 0, 1], 17000));
    ClusterLayout::in_workspace(Path::new("/srv/two words"), Limits::STANDARD, [[address; 3]; 3])
}

#[test]
fn a_layout_is_shown_field_by_field() {
    let text = cluster_layout().encode();
    let shown = lines("x", text.as_bytes());
    assert_eq!((shown.len(), shown[1].as_str()), (47, "line=2 workspace_root=/srv/two words"));
    assert_eq!(shown[46], format!("end={} stop=clean_end", text.len()));
}

#[test]
fn a_damaged_layout_names_the_line() {
    let text = cluster_layout().encode();
    let damaged = |from: &str, to: &str| last("x", text.replacen(from, to, 1).as_bytes());
    assert_eq!(
        damaged("replica_count=3", "replica_count=5"),
        "line=4 stop=damaged error=unsupported replica count `5`"
    );
    assert_eq!(
        damaged("replica.1.role=primary", "replica.1.role=lea\u{7}der"),
        r"line=17 stop=damaged error=invalid value for `replica.1.role`: `lea\u{7}der`"
    );
    assert_eq!(
        damaged("core.max_ttl_slots=256\n", ""),
        "line=45 stop=damaged error=missing layout field `core.max_ttl_slots`"
    );
    assert_eq!(damaged("core.shard_id=0", "shard"), "line=5 stop=damaged error=invalid layout line `shard`");
    assert_eq!(
        damaged("core.shard_id=0", "current_view=2"),
        "line=5 stop=damaged error=duplicate layout field `current_view`"
    );
    let bytes = [text.as_bytes(), b"x=\xff\n"].concat();
    assert_eq!(last("x", &bytes), "line=47 stop=damaged error=the line is not UTF-8");
    assert_eq!(lines("x", &bytes).len(), 47);
}

#[test]
fn a_fault_file_is_shown_field_by_field() {
    let mut state = FaultState::healthy(Path::new("/srv/\u{1b}[2J"));
    state.set(ReplicaId(2), Network::Isolated);
    let text = state.encode();
    let shown = lines("x", text.as_bytes());
    assert_eq!(shown[1], r"line=2 workspace_root=/srv/\u{1b}[2J");
    assert_eq!(shown[3], "line=4 replica.2.network=isolated");
    let odd = text.replace("isolated", "down");
    assert_eq!(
        last("x", odd.as_bytes()),
        "line=4 stop=damaged error=invalid value for `replica.2.network`: `down`"
    );
}

#[test]
fn a_timeline_is_shown_event_by_event() {
    let event = |sequence, kind, replica, detail: &str| Event {
        sequence,
        timestamp_millis: 1_795_423_506_660,
        kind,
        replica,
        detail: Some(detail.to_owned()),
    };
    let events = [
        event(1, EventKind::ClusterStart, None, "cluster_started"),
        event(2, EventKind::ReplicaCrash, Some(ReplicaId(2)), "signal=kill \u{9b}"),
    ];
    let text = timeline::encode(&events);
    let shown = lines("x", text.as_bytes());
    assert_eq!(
        shown[..2],
        [
            "line=3 sequence=1 timestamp_millis=1795423506660 kind=cluster_start replica_id=none detail=cluster_started",
            r"line=9 sequence=2 timestamp_millis=1795423506660 kind=replica_crash replica_id=2 detail=signal=kill \u{9b}",
        ]
    );
    assert_eq!(shown[2], format!("end={} stop=clean_end", text.len()));
    let odd = text.replace("replica_crash", "party");
    assert_eq!(last("x", odd.as_bytes()), "line=9 stop=damaged error=invalid value for `kind`: `party`");
    let mut no_text = text.into_bytes();
    let end = no_text.len() - 2;
    no_text[end] = 0xff;
    let shown = lines("x", &no_text);
    assert_eq!((shown.len(), shown[1].as_str()), (2, "line=13 stop=damaged error=the line is not UTF-8"));
}

const EVENT: &str = "sequence=1 process=p\u{1b}c time_millis=2 operation=reserve operation_id=3 outcome=ambiguous \
                     reason=timeout";

#[test]
fn a_history_is_shown_event_by_event_up_to_a_bad_line() {
    let text = format!("version=1\n\n  {EVENT}  x=y\r\n");
    let event = r"line=3 sequence=1 process=p\u{1b}c time_millis=2 operation=reserve operation_id=3 outcome=ambiguous reason=timeout";
    assert_eq!(lines("x", text.as_bytes()), [event.to_owned(), format!("end={} stop=clean_end", text.len())]);
    let bad = format!("{text}{EVENT}\noperation=reserve \u{7}\n{EVENT}\n");
    let shown = lines("x", bad.as_bytes());
    assert_eq!(shown.len(), 3);
    assert!(
        shown[2].starts_with(r"line=5 stop=damaged error=invalid line `operation=reserve \u{7}`, line 5: ")
    );
}

#[test]
fn an_empty_file_is_what_its_name_says() {
    for name in ["state.wal", "cluster-timeline.log", "run-history.txt"] {
        assert_eq!(said(name, b""), ("end=0 stop=clean_end\n".to_owned(), true), "{name}");
    }
    assert_eq!(lines("state.snapshot", b""), ["offset=0 stop=damaged error=BufferTooShort at offset 0"]);
    assert_eq!(lines("replica.metadata", b""), ["offset=0 stop=damaged error=BufferTooShort"]);
    assert_eq!(
        lines("cluster-faults.txt", b""),
        ["line=0 stop=damaged error=missing fault state field `version`"]
    );
    assert_eq!(
        lines("unknown", b""),
        ["offset=0 stop=not_recognised error=neither content nor name is that of a known file"]
    );
}

#[test]
fn several_files_have_headings_and_the_damaged_ones_are_returned() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("log"), log()).unwrap();
    std::fs::write(path("torn one"), &log()[..100]).unwrap();
    let files = [path("log"), path("absent"), path("torn one"), path(".")];
    let mut out = Vec::new();
    let damaged = describe_all(&files, &mut out).unwrap();
    assert_eq!(damaged, [&files[1], &files[2], &files[3]]);
    let text = String::from_utf8(out).unwrap();
    let shown = |at: usize| path_word(&files[at]);
    for part in [
        format!("file={} kind=wal bytes=271\noffset=0 ", shown(0)),
        format!(
            "file={} kind=none bytes=none\noffset=0 stop=unreadable error=No such file or directory (os error 2)\n",
            shown(1)
        ),
        format!("file={} kind=wal bytes=100\noffset=0 record=client ", shown(2)),
        format!(
            "file={} kind=none bytes=none\noffset=0 stop=unreadable error=not a regular file\n",
            shown(3)
        ),
    ] {
        assert!(text.contains(&part), "{part}\nin\n{text}");
    }
    assert!(shown(2).ends_with(r"/torn\u{20}one"));
}

#[test]
fn an_output_that_is_full_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let files = [folder.path().join("state.wal")];
    std::fs::write(&files[0], log()).unwrap();
    let mut full: &mut [u8] = &mut [0; 100];
    assert_eq!(describe_all(&files, &mut full).unwrap_err().kind(), io::ErrorKind::WriteZero);
}
