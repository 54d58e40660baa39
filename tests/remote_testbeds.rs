//! What is said of testbeds in virtual machines before anything is reached: their layouts are judged, and a missing key is
//! named.

use crate::support::*;
use std::path::Path;

const NO_FILE: &str = "i/o error: No such file or directory (os error 2)\n";

fn refused(arguments: &[&str], folder: &Path) -> String {
    run(jepsen(arguments).current_dir(folder)).refused()
}

#[test]
fn a_layout_that_is_not_there_or_not_usable_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = ["--workspace", "ws"];
    let run = ["--run-id", "no-run", "--output-root", "out"];
    for (command, testbed) in [
        (["verify-qemu-surface"].as_slice(), "qemu"),
        (&["verify-kubevirt-surface"], "kubevirt"),
        (&["watch-kubevirt", "--output-root", "out"], "kubevirt"),
        (&["watch-qemu", "--output-root", "out"], "qemu"),
        (&[&["run-qemu"], run.as_slice()].concat(), "qemu"),
        (&[&["archive-kubevirt", "--history-file", "absent"], run.as_slice()].concat(), "kubevirt"),
    ] {
        let error = refused(&[command, &at].concat(), folder.path());
        assert_eq!(error, format!("failed to load {testbed} testbed layout: {NO_FILE}"));
    }
    std::fs::create_dir(folder.path().join("ws")).unwrap();
    std::fs::write(folder.path().join("ws/qemu-testbed-layout.txt"), "version=one\n").unwrap();
    let error = refused(&["verify-qemu-surface", "--workspace", "ws"], folder.path());
    assert_eq!(error, "failed to load qemu testbed layout: invalid value for `version`: `one`\n");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_capture_looks_for_the_key_first() {
    let folder = tempfile::tempdir().unwrap();
    let capture = |key: &str| {
        refused(&["capture-kubevirt-layout", "--workspace", "ws", "--ssh-private-key", key], folder.path())
    };
    assert_eq!(capture("absent"), "kubevirt ssh private key absent does not exist\n");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
