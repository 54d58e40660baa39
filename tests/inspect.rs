//! `local-cluster inspect` from outside: exit status, streams, and that looking changes nothing.

use crate::support::*;
use allocdb_node::ids::{Lsn, Slot};
use allocdb_node::storage::{Frame, RecordType};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

/// A log of three commands of 56 bytes.
fn log() -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 1..=3u8 {
        let payload = [&[6][..], &[number; 24]].concat();
        let lsn = Lsn(number.into());
        Frame { lsn, slot: Slot(1), record: RecordType::Internal, payload: &payload }.encode(&mut bytes);
    }
    bytes
}

fn inspect(files: &[&Path]) -> Done {
    let mut command = jepsen(&["local-cluster", "inspect"]);
    run(command.args(files))
}

#[test]
fn sound_files_are_shown_and_nothing_is_said_on_standard_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.wal");
    fs::write(&file, log()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    let done = inspect(&[&file]).ok();
    assert_eq!(done.stdout.lines().count(), 4);
    assert!(done.stdout.starts_with("offset=0 record=internal lsn=1 slot=1 length=56 command=expire "));
    assert!(done.stdout.ends_with("\nend=168 stop=clean_end\n"));
}

#[test]
fn what_can_be_shown_is_shown_before_the_damaged_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (sound, torn, absent) = (path("sound.wal"), path("torn.wal"), path("absent"));
    fs::write(&sound, log()).unwrap();
    fs::write(&torn, &log()[..100]).unwrap();
    let done = inspect(&[&torn, &absent, &sound]);
    assert_eq!(done.code(), Some(1));
    let headings = done.stdout.lines().filter(|line| line.starts_with("file=")).count();
    assert_eq!(headings, 3, "{done:#?}");
    assert!(done.stdout.contains("\noffset=56 stop=torn_tail\n"));
    assert!(done.stdout.ends_with("\nend=168 stop=clean_end\n"));
    let named = format!("damaged, unreadable or not recognised: {}, {}\n", torn.display(), absent.display());
    assert_eq!(done.stderr, named);
    assert_eq!(fs::read(&torn).unwrap(), &log()[..100]);
}

#[test]
fn an_output_that_takes_nothing_is_an_error_and_no_crash() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.wal");
    fs::write(&file, log().repeat(2000)).unwrap();
    let command = || {
        let mut command = jepsen(&["local-cluster", "inspect"]);
        command.arg(&file).stderr(Stdio::piped());
        command
    };
    if let Ok(full) = OpenOptions::new().write(true).open("/dev/full") {
        let done = finish(command().stdout(full).spawn().unwrap());
        let sentence = "failed to write to standard output: No space left on device (os error 28)\n";
        assert_eq!((done.code(), done.stderr.as_str()), (Some(1), sentence));
    }
    let mut child = command().stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let done = finish(child);
    assert_eq!(done.code(), Some(1));
    assert!(done.stderr.starts_with("failed to write to standard output: "), "{done:#?}");
    assert!(File::open(&file).is_ok());
}

#[test]
fn the_files_of_a_cluster_that_ran_are_all_sound() {
    let cluster = Cluster::started();
    cluster.create(1, 1, 1).unwrap();
    cluster.operate("stop", &[]).ok();
    let layout = cluster.layout();
    let mut files =
        vec![cluster.path().join("cluster-layout.txt"), layout.faults_path(), layout.timeline_path()];
    for replica in &layout.replicas {
        files.extend([
            replica.wal_path.clone(),
            replica.metadata_path.clone(),
            replica.paths().prepare_log(),
        ]);
    }
    let files: Vec<&Path> = files.iter().map(AsRef::as_ref).collect();
    let done = inspect(&files).ok();
    for kind in ["cluster_layout", "cluster_faults", "cluster_timeline", "wal", "metadata", "prepare_log"] {
        assert!(done.stdout.contains(&format!(" kind={kind} bytes=")), "{kind} in {}", done.stdout);
    }
    assert!(done.stdout.contains(" command=create_resource resource=1\n"), "{}", done.stdout);
}
