//! The script that carries out the gate on virtual machines starts one testbed for each lane, calls the gate once for all of them, and
//! ends all machines whatever the gate came to. A stand-in for the binary takes note of how it is called.

use crate::support::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

const STAND_IN: &str = r#"#!/bin/sh
echo "$@" >>@LOG@
case "$1" in
qemu-testbed) echo accelerator=none ;;
gate-qemu) echo verdict=said-by-the-gate; exit "$(cat @LOG@.code)" ;;
*) exit 1 ;;
esac
"#;

#[test]
fn one_gate_goes_over_all_lanes_and_no_machine_outlives_it() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/live.sh");
    let has_all = Command::new(&script).arg("--check").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_all.is_ok_and(|status| status.success()) {
        return skipped("what scripts/live.sh --check asks for");
    }
    let folder = tempfile::tempdir().unwrap();
    let (binary, out, log) =
        (folder.path().join("stand-in"), folder.path().join("out"), folder.path().join("log"));
    fs::write(&binary, STAND_IN.replace("@LOG@", log.to_str().unwrap())).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    for code in [0, 2] {
        fs::write(&log, "").unwrap();
        fs::write(folder.path().join("log.code"), code.to_string()).unwrap();
        let mut command = Command::new(&script);
        command.arg("--full").arg("--out").arg(&out).args(["--lanes", "2", "--binary"]).arg(&binary);
        let done = run(command.stdin(Stdio::null()));
        assert_eq!(done.code(), Some(code), "{done:#?}");
        assert!(done.stdout.contains("verdict=said-by-the-gate\n"), "{done:#?}");
        assert_eq!(done.stdout.contains("\nthe gate passed in "), code == 0, "{done:#?}");
        let calls = text(&log);
        let calls: Vec<&str> = calls.lines().collect();
        let gates: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].starts_with("gate-qemu ")).collect();
        let [gate] = gates[..] else { panic!("{calls:#?}") };
        let lanes: Vec<Vec<&str>> =
            calls[gate].split(" --lane ").skip(1).map(|lane| lane.split(',').collect()).collect();
        assert_eq!(lanes.len(), 2, "{calls:#?}");
        assert_ne!(lanes[0], lanes[1]);
        assert!(
            calls[gate].starts_with(&format!("gate-qemu --output-root {} ", out.display())),
            "{calls:#?}"
        );
        for lane in lanes {
            let [name, workspace, output_root] = lane[..] else { panic!("{lane:?}") };
            assert!(Path::new(output_root).starts_with(&out), "{lane:?}");
            let prepare = format!("qemu-testbed prepare --workspace {workspace} --lane {name}");
            let at = |call: &str| {
                calls.iter().position(|other| *other == call).unwrap_or_else(|| panic!("{call}: {calls:#?}"))
            };
            let start = at(&format!("qemu-testbed start --workspace {workspace}"));
            let stop = at(&format!("qemu-testbed stop --workspace {workspace}"));
            assert!(at(&prepare) < start && start < gate && gate < stop, "{calls:#?}");
        }
    }
}
