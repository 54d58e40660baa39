//! The command line as its users meet it: words in, a command or a text out.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use allocdb_node::ids::ReplicaId;
use allocdb_node::testbed::{self, qemu_layout::Networks};
use clap::Command as Syntax;
use proptest::prelude::*;

use super::table::Menu;
use super::*;

/// Scripts quote these lines; the usage text begins with them, byte for byte.
const PUBLISHED_USAGE: &str = "\
usage:
  allocdb-jepsen plan
  allocdb-jepsen analyze --history-file <path>
  allocdb-jepsen capture-kubevirt-layout --workspace <path> --namespace <name> --ssh-private-key <path> \
[--kubeconfig <path>] [--helper-pod <name>] [--helper-image <image>] [--helper-stage-dir <path>] \
[--control-vm <name>] [--replica-1-vm <name>] [--replica-2-vm <name>] [--replica-3-vm <name>]
  allocdb-jepsen verify-qemu-surface --workspace <path>
  allocdb-jepsen verify-kubevirt-surface --workspace <path>
  allocdb-jepsen run-qemu --workspace <path> --run-id <run-id> --output-root <path>
  allocdb-jepsen run-kubevirt --workspace <path> --run-id <run-id> --output-root <path>
  allocdb-jepsen watch-kubevirt --workspace <path> --output-root <path> [--run-id <run-id>] \
[--refresh-millis <ms>] [--follow]
  allocdb-jepsen watch-kubevirt-fleet --lane <name,workspace,output-root> \
[--lane <name,workspace,output-root> ...] [--refresh-millis <ms>] [--follow]
  allocdb-jepsen archive-qemu --workspace <path> --run-id <run-id> --history-file <path> --output-root <path>
  allocdb-jepsen archive-kubevirt --workspace <path> --run-id <run-id> --history-file <path> --output-root <path>
";

fn parse_words<W: AsRef<OsStr>>(words: &[W]) -> Result<Command, Ended> {
    parse("allocdb-jepsen".as_ref(), words.iter().map(|word| word.as_ref().to_owned()))
}

fn command(words: &[&str]) -> Command {
    parse_words(words).unwrap_or_else(|ended| panic!("{words:?}: {ended:?}"))
}

fn help<W: AsRef<OsStr>>(words: &[W]) -> String {
    match parse_words(words) {
        Err(Ended::Help(text)) => text,
        other => panic!("expected help, got {other:?}"),
    }
}

fn refusal<W: AsRef<OsStr>>(words: &[W]) -> String {
    match parse_words(words) {
        Err(Ended::Refused(message) | Ended::Misused(message)) => message,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Every subcommand with the words that lead to it.
fn every_subcommand() -> Vec<(Vec<String>, Syntax)> {
    fn walk(path: &[String], menu: Menu, found: &mut Vec<(Vec<String>, Syntax)>) {
        let below = |name: &str| [path, &[name.to_owned()]].concat();
        for subcommand in menu.subcommands {
            found.push((below(subcommand.syntax.get_name()), subcommand.syntax));
        }
        for group in menu.groups {
            walk(&below(group.name), group, found);
        }
    }
    let mut found = Vec::new();
    walk(&[], super::menu(), &mut found);
    found
}

/// A value that the flag or positional word accepts.
fn acceptable(id: &str) -> &'static str {
    match id {
        "lane" => "a,b,c",
        "refresh-millis" => "300",
        "replica-id" => "2",
        "addr" => "127.0.0.1:9000",
        "arch" => "aarch64",
        "base-image-sha256" => "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "to" => "edn",
        "shell" => "bash",
        _ => "some value",
    }
}

/// `path` followed by everything the subcommand requires, except `without`.
fn minimal_call(path: &[String], syntax: &Syntax, without: Option<&str>) -> Vec<String> {
    let mut words = path.to_vec();
    for arg in syntax.get_arguments().filter(|arg| arg.is_required_set()) {
        let id = arg.get_id().as_str();
        if without == Some(id) {
            continue;
        }
        words.extend(arg.get_long().map(|long| format!("--{long}")));
        words.push(acceptable(id).to_owned());
    }
    words
}

#[test]
fn every_declaration_is_sound_and_every_flag_is_explained() {
    for (path, syntax) in every_subcommand() {
        assert!(syntax.get_about().is_some(), "{path:?}");
        for arg in syntax.get_arguments() {
            assert!(arg.get_help().is_some(), "{path:?} {}", arg.get_id());
        }
        syntax.debug_assert();
    }
}

#[test]
fn the_usage_text_begins_with_the_published_lines_and_goes_on_with_the_others() {
    let usage = help::<&str>(&[]);
    let further = usage.strip_prefix(PUBLISHED_USAGE).expect("the published lines come first");
    assert_eq!(
        further,
        "  allocdb-jepsen run-local --run-id <run-id> --output-root <path> [--workspace <path>] [--keep-cluster]
  allocdb-jepsen verify-local-surface --workspace <path>
  allocdb-jepsen archive-local --workspace <path> --run-id <run-id> --history-file <path> --output-root <path>
  allocdb-jepsen watch-local --output-root <path> [--workspace <path>] [--run-id <run-id>] [--refresh-millis <ms>] [--follow]
  allocdb-jepsen watch-qemu --workspace <path> --output-root <path> [--run-id <run-id>] [--refresh-millis <ms>] [--follow]
  allocdb-jepsen check --history-file <path>
  allocdb-jepsen history --history-file <path> --to <edn|jsonl|trace>
  allocdb-jepsen explain [<name>]
  allocdb-jepsen repair-qemu --workspace <path> [--dry-run]
  allocdb-jepsen failover-qemu --workspace <path> [--replica-id <id>] [--dry-run]
  allocdb-jepsen rejoin-qemu --workspace <path> --replica-id <id> [--dry-run]
  allocdb-jepsen repair-kubevirt --workspace <path> [--dry-run]
  allocdb-jepsen failover-kubevirt --workspace <path> [--replica-id <id>] [--dry-run]
  allocdb-jepsen rejoin-kubevirt --workspace <path> --replica-id <id> [--dry-run]
  allocdb-jepsen hunt-local --output-root <path> [--workspace <path>] [--workload <name>] [--nemesis <list>] [--nemesis-interval <secs>] [--concurrency <n>] [--rate <n>] [--time-limit <secs>] [--seed <n>] [--test-count <n>] [--slots <mode>] [--keep-going]
  allocdb-jepsen hunt-qemu --output-root <path> --workspace <path> [--workload <name>] [--nemesis <list>] [--nemesis-interval <secs>] [--concurrency <n>] [--rate <n>] [--time-limit <secs>] [--seed <n>] [--test-count <n>] [--slots <mode>] [--keep-going]
  allocdb-jepsen hunt-kubevirt --output-root <path> --workspace <path> [--workload <name>] [--nemesis <list>] [--nemesis-interval <secs>] [--concurrency <n>] [--rate <n>] [--time-limit <secs>] [--seed <n>] [--test-count <n>] [--slots <mode>] [--keep-going]
  allocdb-jepsen simulate [--seeds <from..to>] [--seed <n>] [--shard <i/n>] [--threads <n>] [--trace] [--history-file <path>] [--shrink] [--plan-file <path>] [--plan <path>] [--corpus-file <path>]
  allocdb-jepsen merge <result-file>...
  allocdb-jepsen gate-local --output-root <path> [--lanes <n>] [--profile <name>] [--window <secs>] [--hunt-time-limit <secs>] [--job <job> ...] [--rerun <job> ...] [--partition <i/n>]
  allocdb-jepsen gate-qemu --output-root <path> --lane <name,workspace,output-root> [--lane <name,workspace,output-root> ...] [--profile <name>] [--window <secs>] [--hunt-time-limit <secs>] [--job <job> ...] [--rerun <job> ...] [--partition <i/n>]
  allocdb-jepsen gate-kubevirt --output-root <path> --lane <name,workspace,output-root> [--lane <name,workspace,output-root> ...] [--profile <name>] [--window <secs>] [--hunt-time-limit <secs>] [--job <job> ...] [--rerun <job> ...] [--partition <i/n>]
  allocdb-jepsen merge-gates <gate-file>...
  allocdb-jepsen report <bundle or history> [--output <path>]
  allocdb-jepsen verify-bundle <bundle>
  allocdb-jepsen list --output-root <path>
  allocdb-jepsen show --output-root <path> <id>
  allocdb-jepsen gc --output-root <path> [--keep <n>] [--older-than-days <n>] [--dry-run]
  allocdb-jepsen completions <shell>
  allocdb-jepsen man
  allocdb-jepsen local-cluster <start|stop|status|crash|restart|isolate|heal> ...
  allocdb-jepsen qemu-testbed <prepare|start|stop|status|ssh-control|control> ...

`allocdb-jepsen <subcommand> --help` explains a subcommand and its flags
"
    );
    for words in [&["--help"][..], &["-h"], &["--help", "plan", "--bogus"], &["-h", "--version"]] {
        assert_eq!(help(words), usage, "{words:?}");
    }
}

#[test]
fn the_version_is_a_name_and_a_number_and_tells_builds_apart() {
    let version = help(&["--version"]);
    let build = version.strip_prefix(concat!("allocdb-jepsen ", env!("CARGO_PKG_VERSION"), " (commit "));
    let (commit, how) = build.and_then(|build| build.split_once(", ")).unwrap();
    assert!(!commit.is_empty() && commit.len() <= 16, "{version}");
    let (profile, features) = (cfg!(debug_assertions), cfg!(feature = "planted-faults"));
    let expected =
        [if profile { "debug" } else { "release" }, if features { ", with planted-faults" } else { "" }];
    assert_eq!(how, format!("{})\n", expected.concat()));
    assert_eq!(help(&["-V", "whatever"]), version);
    assert!(refusal(&["analyze", "--version"]).starts_with("unknown argument `--version`\n\n"));
}

#[test]
fn an_unknown_subcommand_is_quoted_before_the_whole_usage() {
    for word in ["wat", "help", "", "--bogus", "Plan", "verify", "start"] {
        let message = refusal(&[word, "--workspace", "x"]);
        assert!(
            message.starts_with(&format!("unknown subcommand `{word}`\n\n{PUBLISHED_USAGE}")),
            "{message}"
        );
    }
}

#[test]
fn plan_takes_nothing_and_quotes_all_of_it() {
    assert_eq!(command(&["plan"]), Command::Plan { format: Format::Text });
    assert_eq!(command(&["plan", "--format", "json"]), Command::Plan { format: Format::Json });
    for (words, quoted) in [
        (&["plan", "--workspace", "x", "a b"][..], "--workspace x a b"),
        (&["plan", "x", "--help"], "x --help"),
        (&["plan", ""], ""),
        (&["plan", "--"], "--"),
    ] {
        let message = refusal(words);
        assert_eq!(message.lines().next(), Some(&*format!("unknown argument `{quoted}`")));
    }
    assert!(
        help(&["plan", "--help", "x"]).contains("\nusage:\n  allocdb-jepsen plan [--format <text|json>]\n")
    );
}

#[test]
fn each_subcommand_explains_itself_wherever_help_is_asked_for() {
    for (path, syntax) in every_subcommand() {
        let page = help(&[&path[..], &["--help".to_owned()]].concat());
        assert_eq!(page, help(&[&path[..], &["-h".to_owned(), "--bogus".to_owned()]].concat()));
        assert!(page.contains(&format!("\nusage:\n  allocdb-jepsen {}", path.join(" "))), "{page}");
        for arg in syntax.get_arguments() {
            assert!(page.contains(&arg.get_help().expect("explained").to_string()), "{page}");
        }
        if syntax.get_arguments().next().is_some() {
            let mut words = minimal_call(&path, &syntax, None);
            words.push("--help".to_owned());
            assert_eq!(help(&words), page);
        }
    }
}

#[test]
fn each_subcommand_is_content_with_what_it_requires() {
    for (path, syntax) in every_subcommand() {
        let words = minimal_call(&path, &syntax, None);
        assert!(parse_words(&words).is_ok(), "{words:?}");
    }
}

#[test]
fn a_missing_value_is_answered_with_the_usage_and_the_flag() {
    for (path, syntax) in every_subcommand() {
        for flag in syntax.get_arguments().filter(|arg| arg.get_action().takes_values()) {
            let Some(long) = flag.get_long() else { continue };
            let message = refusal(&[&path[..], &[format!("--{long}")]].concat());
            assert!(
                message.starts_with(&format!("usage:\n  allocdb-jepsen {} ", path.join(" "))),
                "{message}"
            );
            assert!(message.contains(&format!("\nmissing value: `--{long} <")), "{message}");
        }
    }
}

#[test]
fn a_missing_flag_is_answered_with_the_usage_and_the_flag() {
    for (path, syntax) in every_subcommand() {
        for flag in syntax.get_arguments().filter(|arg| arg.is_required_set()) {
            let Some(long) = flag.get_long().filter(|long| *long != "lane") else { continue };
            let message = refusal(&minimal_call(&path, &syntax, Some(long)));
            assert!(
                message.starts_with(&format!("usage:\n  allocdb-jepsen {} --", path.join(" "))),
                "{message}"
            );
            assert!(message.contains(&format!("\nmissing: `--{long} <")), "{message}");
        }
    }
    assert!(
        refusal(&["run-qemu", "--run-id", "x"])
            .contains("\nmissing: `--workspace <path>`, `--output-root <path>`\n")
    );
}

#[test]
fn a_fleet_needs_a_lane_and_an_inspection_a_file() {
    let lane = "watch-kubevirt-fleet requires at least one --lane <name,workspace,output-root>\n\nusage:\n";
    assert!(refusal(&["watch-kubevirt-fleet"]).starts_with(lane));
    assert!(refusal(&["watch-kubevirt-fleet", "--follow", "--refresh-millis", "5"]).starts_with(lane));
    assert!(
        refusal(&["local-cluster", "inspect"])
            .starts_with("inspect requires at least one <file>\n\nusage:\n")
    );
}

#[test]
fn the_first_problem_counts_and_is_quoted_first() {
    for (words, sentence) in [
        (&["analyze", "--bogus", "value"][..], "unknown argument `--bogus`"),
        (&["analyze", "value"], "unknown argument `value`"),
        (&["analyze", ""], "unknown argument ``"),
        (&["analyze", "--"], "unknown argument `--`"),
        (&["analyze", "--history", "x"], "unknown argument `--history`"),
        (&["analyze", "-history-file", "x"], "unknown argument `-history-file`"),
        (&["analyze", "--bogus=1"], "unknown argument `--bogus=1`"),
        (&["analyze", "--=x"], "unknown argument `--=x`"),
        (&["analyze", "-hv"], "unknown argument `-hv`"),
        (&["analyze", "--help=x"], "unknown argument `--help=x`"),
        (&["analyze", "--history-file", "a", "tail", "--help"], "unknown argument `tail`"),
        (&["watch-kubevirt", "--follow=true"], "unknown argument `--follow=true`"),
        (&["run-qemu", "--keep-cluster"], "unknown argument `--keep-cluster`"),
        (&["run-local", "--bogus", "--run-id"], "unknown argument `--bogus`"),
        (
            &["watch-kubevirt", "--follow", "--refresh-millis", "soon", "--bogus"],
            "invalid --refresh-millis value `soon`: invalid digit found in string",
        ),
        (
            &["watch-kubevirt", "--refresh-millis", "x", "--refresh-millis", "5", "--help"],
            "invalid --refresh-millis value `x`: invalid digit found in string",
        ),
        (
            &["watch-kubevirt", "--refresh-millis=", "--workspace"],
            "invalid --refresh-millis value ``: cannot parse integer from empty string",
        ),
        (
            &["watch-kubevirt-fleet", "--lane", "a,b,c", "--lane", "bad", "--refresh-millis", "x"],
            "invalid --lane value `bad`; expected <name,workspace,output-root>",
        ),
        (&["local-cluster", "wat"], "unknown subcommand `wat`"),
        (&["qemu-testbed", "wat"], "unknown subcommand `wat`"),
        (&["qemu-testbed", "prepare", "--arch", "arm64"], "invalid value for `--arch`: `arm64`"),
        (
            &["qemu-testbed", "prepare", "--lane", "64"],
            "invalid value for `--lane`: `64`; expected a number from 0 to 63",
        ),
        (
            &["qemu-testbed", "prepare", "--base-image-sha256", "abc"],
            "invalid value for `--base-image-sha256`: `abc`; expected 64 hexadecimal digits",
        ),
        (&["local-cluster", "crash", "now"], "unknown argument `now`"),
        (&["local-cluster", "crash", "--replica-id", "one"], "invalid value for `--replica-id`: `one`"),
        (&["local-cluster", "crash", "--replica-id", "-1"], "invalid value for `--replica-id`: `-1`"),
        (&["local-cluster", "control-status", "--addr", "9000"], "invalid value for `--addr`: `9000`"),
        (&["local-cluster", "inspect", "a", "-x"], "unknown argument `-x`"),
    ] {
        let message = refusal(words);
        assert!(message.starts_with(&format!("{sentence}\n\nusage:")), "{words:?}: {message}");
        assert!(!message.ends_with('\n'), "{message:?}");
    }
    let message = refusal(&["watch-kubevirt", "--bogus", "--refresh-millis", "soon"]);
    assert!(message.starts_with("unknown argument `--bogus`"), "{message}");
}

#[test]
fn a_value_may_look_like_a_flag_or_be_empty() {
    for value in ["--help", "-h", "--history-file", "--", "", "=", "a=b", "-"] {
        let expected = Command::Analyze { history_file: value.into(), format: Format::Text };
        assert_eq!(command(&["analyze", "--history-file", value]), expected);
        assert_eq!(command(&["analyze", &format!("--history-file={value}")]), expected);
    }
}

#[test]
fn the_last_of_repeated_flags_counts() {
    assert_eq!(
        command(&["analyze", "--history-file", "bad", "--history-file=", "--history-file", "good"]),
        Command::Analyze { history_file: "good".into(), format: Format::Text }
    );
}

#[test]
fn backends_differ_in_the_testbed_and_nothing_else() {
    let local = || Testbed::Local(LocalTestbed::Existing { workspace: "w".into() });
    let qemu = || Testbed::Qemu { workspace: "w".into() };
    let kubevirt = || Testbed::Kubevirt { workspace: "w".into() };
    for (name, testbed) in [("local", local()), ("qemu", qemu()), ("kubevirt", kubevirt())] {
        assert_eq!(
            command(&[&format!("verify-{name}-surface"), "--workspace", "w"]),
            Command::VerifySurface { testbed: testbed.clone(), format: Format::Text }
        );
        let archive = format!("archive-{name}");
        assert_eq!(
            command(&[
                &archive,
                "--output-root",
                "o",
                "--run-id",
                "r",
                "--workspace",
                "w",
                "--history-file",
                "h"
            ]),
            Command::Archive(Archive {
                testbed,
                run_id: "r".into(),
                history_file: "h".into(),
                output_root: "o".into(),
                format: Format::Text,
                demands: Demands::Gate,
            })
        );
    }
    for (name, testbed) in [("qemu", qemu()), ("kubevirt", kubevirt())] {
        assert_eq!(
            command(&[&format!("run-{name}"), "--workspace", "w", "--run-id", "r", "--output-root", "o"]),
            Command::Run(Run {
                testbed,
                run_id: "r".into(),
                output_root: "o".into(),
                demands: Demands::Gate,
                format: Format::Text,
            })
        );
    }
}

#[test]
fn a_local_run_brings_its_own_cluster() {
    for (further, workspace, keep_cluster) in [
        (&[][..], None, false),
        (&["--keep-cluster"], None, true),
        (&["--keep-cluster", "--workspace", "w", "--keep-cluster"], Some(PathBuf::from("w")), true),
    ] {
        let words = [&["run-local", "--run-id", "r", "--output-root", "o"], further].concat();
        let testbed = Testbed::Local(LocalTestbed::ForOneRun { workspace, keep_cluster });
        assert_eq!(
            command(&words),
            Command::Run(Run {
                testbed,
                run_id: "r".into(),
                output_root: "o".into(),
                demands: Demands::Gate,
                format: Format::Text,
            })
        );
    }
}

#[test]
fn a_run_may_demand_more_than_the_gate_and_no_menu_says_so() {
    let words = ["run-qemu", "--workspace", "w", "--strict", "--run-id", "r", "--output-root", "o"];
    let demanded = |words: &[&str]| match command(words) {
        Command::Run(Run { demands, .. }) | Command::Archive(Archive { demands, .. }) => demands,
        other => panic!("{other:?}"),
    };
    assert_eq!(demanded(&words), Demands::Strict);
    let archive =
        ["archive-local", "--workspace", "w", "--run-id", "r", "--history-file", "h", "--output-root", "o"];
    assert_eq!(demanded(&archive), Demands::Gate);
    assert_eq!(demanded(&[&archive[..], &["--strict"]].concat()), Demands::Strict);
    let page = help(&["run-local", "--help"]);
    assert!(
        page.contains(" [--strict] [--format <text|json>]\n") && page.contains("\n      --strict "),
        "{page}"
    );
    assert!(!help(&["--help"]).contains("--strict"));
}

#[test]
fn a_capture_fills_in_the_usual_names() {
    let mut expected = KubevirtCapture {
        workspace: "w".into(),
        namespace: "kubevirt".into(),
        ssh_private_key: "k".into(),
        kubeconfig: None,
        helper_pod: "allocdb-bootstrap-helper".into(),
        helper_image: "nicolaka/netshoot:latest".into(),
        helper_stage_dir: "/tmp/allocdb-stage".into(),
        control_vm: "allocdb-control".into(),
        replica_vms: ["allocdb-replica-1".into(), "allocdb-replica-2".into(), "allocdb-replica-3".into()],
        format: Format::Text,
    };
    let minimal = ["capture-kubevirt-layout", "--workspace", "w", "--ssh-private-key", "k"];
    assert_eq!(command(&minimal), Command::CaptureKubevirtLayout(expected.clone()));

    expected.namespace = String::new();
    expected.kubeconfig = Some("config".into());
    expected.replica_vms[2] = "third".into();
    let further = ["--namespace", "", "--kubeconfig", "config", "--replica-3-vm", "third"];
    assert_eq!(command(&[&minimal[..], &further].concat()), Command::CaptureKubevirtLayout(expected));
}

#[test]
fn watching_draws_one_screen_every_two_seconds_unless_told_otherwise() {
    let mut expected = Watch {
        testbed: Testbed::Kubevirt { workspace: "w".into() },
        output_root: "o".into(),
        run_id: None,
        refresh: Refresh { interval: Duration::from_secs(2), follow: false },
    };
    let minimal = ["watch-kubevirt", "--workspace", "w", "--output-root", "o"];
    assert_eq!(command(&minimal), Command::Watch(expected.clone()));

    expected.run_id = Some("any text".into());
    expected.refresh = Refresh { interval: Duration::from_millis(250), follow: true };
    let further = ["--run-id", "any text", "--follow", "--refresh-millis", "+7", "--follow"];
    assert_eq!(command(&[&minimal[..], &further].concat()), Command::Watch(expected.clone()));

    let existing = LocalTestbed::Existing { workspace: "w".into() };
    for (name, testbed) in
        [("watch-local", Testbed::Local(existing)), ("watch-qemu", Testbed::Qemu { workspace: "w".into() })]
    {
        let words = [&[name], &minimal[1..], &further].concat();
        assert_eq!(command(&words), Command::Watch(Watch { testbed, ..expected.clone() }));
    }
}

#[test]
fn lanes_collect_in_order() {
    let lane = |name: &str, workspace: &str, output_root: &str| Lane {
        name: name.into(),
        workspace: workspace.into(),
        output_root: output_root.into(),
    };
    assert_eq!(
        command(&[
            "watch-kubevirt-fleet",
            "--lane",
            "b,w,o",
            "--follow",
            "--lane= a , w,o,1",
            "--lane",
            "b,w,o"
        ]),
        Command::WatchFleet(FleetWatch {
            lanes: vec![lane("b", "w", "o"), lane("a", "w", "o,1"), lane("b", "w", "o")],
            refresh: Refresh { interval: Duration::from_secs(2), follow: true },
        })
    );
}

#[test]
fn the_local_cluster_has_its_verbs() {
    use LocalCluster::{ControlStatus, Crash, Heal, Inspect, Isolate, Restart, Start, Status, Stop};
    let workspace = || PathBuf::from("w");
    let second = || Member { workspace: workspace(), replica: ReplicaId(2) };
    for (words, verb) in [
        (&["start", "--workspace", "w"][..], Start { workspace: workspace() }),
        (&["stop", "--workspace", "w"], Stop { workspace: workspace() }),
        (&["status", "--workspace", "w"], Status { workspace: workspace(), format: Format::Text }),
        (&["crash", "--replica-id", "2", "--workspace", "w"], Crash(second())),
        (&["restart", "--workspace", "w", "--replica-id=2"], Restart(second())),
        (&["isolate", "--workspace", "w", "--replica-id", "2"], Isolate(second())),
        (&["heal", "--workspace", "w", "--replica-id", "2"], Heal(second())),
        (
            &["control-status", "--addr", "127.0.0.1:9000"],
            ControlStatus { addr: "127.0.0.1:9000".parse().expect("an address") },
        ),
        (
            &["inspect", "a", "", "--", "--help", "--"],
            Inspect { files: vec!["a".into(), "".into(), "--help".into(), "--".into()] },
        ),
        (
            &["replica-daemon", "--layout-file", "l", "--replica-id", "3", "--tethered"],
            LocalCluster::ReplicaDaemon(ReplicaDaemon {
                layout_file: "l".into(),
                replica: ReplicaId(3),
                new_cluster: false,
                tethered: true,
            }),
        ),
    ] {
        let expected = Command::LocalCluster(verb);
        assert_eq!(command(&[&["local-cluster"], words].concat()), expected);

        let words = words.iter().map(OsString::from);
        assert_eq!(parse("/opt/bin/allocdb-local-cluster".as_ref(), words), Ok(expected));
    }
}

#[test]
fn the_usage_of_a_group_names_the_program_it_was_started_as() {
    let verbs = "<start|stop|status|crash|restart|isolate|heal> ...\n\ncommands:\n";
    let as_group = help(&["local-cluster"]);
    assert!(as_group.starts_with(&format!("usage: allocdb-jepsen local-cluster {verbs}")), "{as_group}");
    assert!(!as_group.contains("replica-daemon"), "{as_group}");
    assert_eq!(help(&["local-cluster", "--help", "wat"]), as_group);

    for program in ["allocdb-local-cluster", "./allocdb-local-cluster", "/x/allocdb-local-cluster.exe"] {
        let Err(Ended::Help(alone)) = parse(program.as_ref(), std::iter::empty()) else {
            panic!("{program}")
        };
        assert_eq!(alone, as_group.replace("allocdb-jepsen local-cluster", "allocdb-local-cluster"));
    }
    for program in ["", "allocdb-jepsen", "renamed", "allocdb-local-cluster/renamed"] {
        let words = ["local-cluster"].map(OsString::from);
        assert_eq!(
            parse(program.as_ref(), words.into_iter()),
            Err(Ended::Help(as_group.clone())),
            "{program}"
        );
    }
}

#[test]
fn words_that_are_not_utf8_are_kept_in_paths_and_refused_elsewhere() {
    let bad = || OsString::from_vec(b"\xffx".to_vec());
    let with = |words: &[&str], last: OsString| -> Vec<OsString> {
        words.iter().map(OsString::from).chain([last]).collect()
    };
    let analyze = Ok(Command::Analyze { history_file: bad().into(), format: Format::Text });
    assert_eq!(parse_words(&with(&["analyze", "--history-file"], bad())), analyze);
    let attached = OsString::from_vec(b"--history-file=\xffx".to_vec());
    assert_eq!(parse_words(&with(&["analyze"], attached)), analyze);

    for (words, sentence) in [
        (with(&[], bad()), "unknown subcommand `\u{fffd}x`"),
        (with(&["plan", "a"], bad()), "unknown argument `a \u{fffd}x`"),
        (with(&["analyze"], OsString::from_vec(b"--\xff=x".to_vec())), "unknown argument `--\u{fffd}=x`"),
        (with(&["run-qemu", "--run-id"], bad()), "invalid value for `--run-id`: `\u{fffd}x`: not UTF-8"),
        (
            with(&["watch-kubevirt", "--refresh-millis"], bad()),
            "invalid --refresh-millis value `\u{fffd}x`: invalid digit found in string",
        ),
        (
            with(&["local-cluster", "heal", "--replica-id"], bad()),
            "invalid value for `--replica-id`: `\u{fffd}x`",
        ),
    ] {
        let message = refusal(&words);
        assert!(message.starts_with(&format!("{sentence}\n\nusage:")), "{message}");
    }
}

proptest! {
    #[test]
    fn any_value_reaches_its_flag_unchanged(value in proptest::collection::vec(1_u8.., 0..12)) {
        let value = OsString::from_vec(value);
        let words = ["analyze".into(), "--history-file".into(), value.clone()];
        prop_assert_eq!(parse_words(&words), Ok(Command::Analyze { history_file: value.into(), format: Format::Text }));
    }

    #[test]
    fn no_words_are_too_odd_to_answer(
        words in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(vec![
                    "plan", "analyze", "run-local", "watch-kubevirt", "watch-kubevirt-fleet", "local-cluster", "inspect",
                    "crash", "--workspace", "--lane", "--refresh-millis", "--follow", "--help", "-h", "--", "-", "=", "a,b,c",
                    "--lane=", "--follow=", "7",
                ]).prop_map(OsString::from),
                proptest::collection::vec(1_u8.., 0..6).prop_map(OsString::from_vec),
            ],
            0..7,
        )
    ) {
        match parse_words(&words) {
            Ok(_) => {}
            Err(Ended::Help(text)) => prop_assert!(text.ends_with('\n')),
            Err(Ended::Refused(message) | Ended::Misused(message)) => prop_assert!(!message.is_empty() && !message.ends_with('\n')),
        }
    }
}

#[test]
fn every_verb_of_the_qemu_testbed_is_read() {
    let workspace = || PathBuf::from("ws");
    let cases: [(&[&str], QemuTestbed); 8] = [
        (
            &["prepare", "--workspace", "ws"],
            QemuTestbed::Prepare(QemuPrepare {
                workspace: workspace(),
                arch: None,
                base_image_url: None,
                base_image_path: None,
                base_image_sha256: None,
                local_cluster_bin: None,
                kernel: None,
                modules: None,
                lane: testbed::Lane::default(),
                networks: Networks::Separate,
            }),
        ),
        (
            &[
                "prepare",
                "--workspace",
                "ws",
                "--arch",
                "aarch64",
                "--base-image-url",
                "u",
                "--base-image-path",
                "i",
                "--local-cluster-bin",
                "b",
                "--kernel",
                "k",
                "--modules",
                "m",
                "--lane",
                "3",
                "--join-networks",
            ],
            QemuTestbed::Prepare(QemuPrepare {
                workspace: workspace(),
                arch: Some(testbed::Arch::Aarch64),
                base_image_url: Some("u".into()),
                base_image_path: Some("i".into()),
                base_image_sha256: None,
                local_cluster_bin: Some("b".into()),
                kernel: Some("k".into()),
                modules: Some("m".into()),
                lane: testbed::Lane::new(3).unwrap(),
                networks: Networks::Joined,
            }),
        ),
        (&["start", "--workspace", "ws"], QemuTestbed::Start { workspace: workspace(), guest: None }),
        (
            &["start", "--workspace", "ws", "--guest", "g"],
            QemuTestbed::Start { workspace: workspace(), guest: Some("g".into()) },
        ),
        (&["stop", "--workspace", "ws"], QemuTestbed::Stop { workspace: workspace() }),
        (
            &["control", "--workspace", "ws"],
            QemuTestbed::Control { workspace: workspace(), words: Vec::new() },
        ),
        (
            &["control", "--workspace", "ws", "crash", "2"],
            QemuTestbed::Control { workspace: workspace(), words: vec!["crash".into(), "2".into()] },
        ),
        (
            &["control", "--workspace", "ws", "--", "collect-logs", "--help"],
            QemuTestbed::Control {
                workspace: workspace(),
                words: vec!["collect-logs".into(), "--help".into()],
            },
        ),
    ];
    for (words, verb) in cases {
        let expected = Command::QemuTestbed(verb);
        assert_eq!(command(&[&["qemu-testbed"], words].concat()), expected);
        let words = words.iter().map(OsString::from);
        assert_eq!(parse("/opt/bin/allocdb-qemu-testbed".as_ref(), words), Ok(expected));
    }
}
