//! Testbeds in virtual machines, as far as this build goes: their layouts are judged, and that there is no way to the guests
//! is said and not hidden.

mod support;

use std::path::Path;
use support::*;

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
fn with_a_layout_the_missing_transport_is_what_stops_it() {
    let folder = tempfile::tempdir().unwrap();
    let workspace = folder.path().join("ws");
    std::fs::create_dir(&workspace).unwrap();
    let layout = format!(
        "version=1\nworkspace_root={0}/new\narch=x86_64\nbase_image_url=u\nbase_image_path=i\nlocal_cluster_binary_path=b\n",
        folder.path().display()
    );
    std::fs::write(workspace.join("qemu-testbed-layout.txt"), layout).unwrap();
    let error = refused(&["verify-qemu-surface", "--workspace", "ws"], folder.path());
    assert!(error.starts_with("this build has no SSH transport to QEMU guests yet; "), "{error}");
    assert!(folder.path().join("new").is_dir());
    let error = refused(&["watch-kubevirt-fleet", "--lane", "a,b,c"], folder.path());
    assert!(error.starts_with("this build has no SSH transport to KubeVirt guests yet; "), "{error}");
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
