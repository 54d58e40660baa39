//! The script that carries out the gate on virtual machines goes on where it stopped, and counts nothing that says nothing about
//! what is judged now. A stand-in for the binary carries out runs in no time.

use crate::support::*;
use allocdb_node::jepsen::plan::RUNS;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

const STAND_IN: &str = r#"#!/bin/sh
case "$1" in
plan) exec @BINARY@ plan ;;
qemu-testbed) echo accelerator=none ;;
run-qemu)
    [ "$4" = --run-id ] && [ "$6" = --output-root ] || exit 1
    bundle=$7/$5-7
    mkdir -p "$bundle"
    echo history_events=3 >"$7/$5-status.txt"
    echo version=1 >"$bundle/manifest.txt"
    echo "  \"executable_sha256\": \"$(sha256sum "$0" | cut -d ' ' -f 1)\"," >"$bundle/evidence.json"
    echo "$5" >>@LOG@
    echo "artifact_bundle=$bundle"
    echo release_gate=passed ;;
*) exit 1 ;;
esac
"#;

#[test]
fn what_was_passed_before_counts_only_for_the_same_binary_and_with_its_bundle() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/live.sh");
    let has_all = Command::new(&script).arg("--check").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_all.is_ok_and(|status| status.success()) {
        return skipped("what scripts/live.sh --check asks for");
    }
    let folder = tempfile::tempdir().unwrap();
    let (binary, out, log) =
        (folder.path().join("stand-in"), folder.path().join("out"), folder.path().join("log"));
    let stand_in = STAND_IN.replace("@BINARY@", BINARY).replace("@LOG@", log.to_str().unwrap());
    fs::write(&binary, &stand_in).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let all = RUNS.len();
    // Returns what it says at its end, and how many runs were carried out.
    let live = || {
        fs::write(&log, "").unwrap();
        let mut command = Command::new(&script);
        command.arg("--full").arg("--out").arg(&out).args(["--lanes", "2", "--binary"]).arg(&binary);
        let done = run(command.stdin(Stdio::null())).ok();
        let last = done.stdout.lines().last().unwrap().to_owned();
        let (_, counts) = last.split_once("s: ").unwrap_or_else(|| panic!("{done:#?}"));
        (counts.to_owned(), text(&log).lines().count(), done.stdout.clone())
    };
    let (counts, made, _) = live();
    assert_eq!((counts, made), (format!("{all} now, 0 before"), all));
    let (counts, made, _) = live();
    assert_eq!((counts, made), (format!("0 now, {all} before"), 0));

    let results = text(out.join("results.tsv"));
    let bundle = |run: &str| {
        let row = results.lines().find(|row| row.split('\t').nth(1) == Some(run)).unwrap();
        out.join(row.rsplit('\t').next().unwrap())
    };
    fs::remove_dir_all(bundle("lease_safety-control")).unwrap();
    let evidence = bundle("lease_safety-crash-restart").join("evidence.json");
    fs::write(&evidence, format!("{}  \"overridden\": true\n", text(&evidence))).unwrap();
    let (counts, made, said) = live();
    assert_eq!((counts, made), (format!("2 now, {} before", all - 2), 2));
    for why in [
        "an earlier lease_safety-control does not count: its bundle is not there any more",
        "an earlier lease_safety-crash-restart does not count: its bundle is of another binary or window",
    ] {
        assert!(said.contains(why), "{said}");
    }

    let other_window = text(out.join("results.tsv")).replace("\t1800\t", "\t1\t");
    fs::write(out.join("results.tsv"), other_window).unwrap();
    let (_, made, said) = live();
    assert!(said.contains("does not count: its fault window was 1\n"), "{said}");
    assert!(made > 5 && made < all, "{made}");

    fs::write(&binary, format!("{stand_in}# another build\n")).unwrap();
    let (counts, made, said) = live();
    assert_eq!((counts, made), (format!("{all} now, 0 before"), all));
    assert!(said.contains("does not count: it was of another binary"), "{said}");
}
