//! Recorded commands on KubeVirt testbeds: what is asked of the Kubernetes API, with which names, in which order.
//!
//! They are replayed with a stand-in for `kubectl` that notes its calls. What carries requests to guests is another thing here
//! than in the recordings, so that it is left out on both sides and fails in the replay: recorded are a key that is copied
//! into the pod and commands that are run there; here it is a relay in the pod, and notes of who uses it. For the same reason
//! a command that succeeded is compared by what it asked for alone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Bench;
use super::program::{Call, SHORT};
use super::recorded::{case_names, read_text, recorded_status};
use super::tally::{Problems, Tally, differing, shown};

/// Where everything was when it was recorded.
const RECORDED_ROOT: &str = "/srv/allocdb";

/// What separates words in the notes of calls.
const SEPARATOR: char = '\u{1f}';

const KUBECTL: &str = r#"#!/bin/sh
{ printf '%s\037' kubectl "$@"; echo; } >>"$STATE/calls"
[ "$1" != --kubeconfig ] || shift 2
[ "$1" != -n ] || shift 2
[ "$1" != apply ] || cat >"$STATE/manifest"
[ "$1" != "$FAILING" ] || { printf '%s\n' "$COMPLAINT" >&2; exit 1; }
case $1 in
get)
    file=$STATE/pod
    [ "$2" != virtualmachineinstances ] || file=$STATE/guest-$3
    [ -e "$file" ] || { printf 'Error from server (NotFound): %s.kubevirt.io "%s" not found\n' "$2" "$3" >&2; exit 1; }
    exec cat "$file" ;;
apply) if grep -q jepsen.allocdb.dev/owner "$STATE/manifest"; then cp "$STATE/owned" "$STATE/pod"; else cp "$STATE/Running" "$STATE/pod"; fi ;;
wait) [ ! -e "$STATE/waits" ] || cp "$STATE/Running" "$STATE/pod" ;;
delete) rm -f "$STATE/pod" ;;
exec) echo 'no way to guests here' >&2; exit 1 ;;
esac
"#;

/// Guests of the recorded cluster with their addresses.
const GUESTS: [(&str, &str); 11] = [
    ("allocdb-control", "10.42.0.10"),
    ("allocdb-replica-1", "10.42.0.11"),
    ("allocdb-replica-2", "10.42.0.12"),
    ("allocdb-replica-3", "10.42.0.13"),
    ("lane-c", "10.42.1.10"),
    ("lane-r1", "10.42.1.11"),
    ("lane-r2", "10.42.1.12"),
    ("lane-r3", "10.42.1.13"),
    ("dup", "10.42.0.11"),
    ("no-ip", ""),
    ("six", "fd00::1"),
];

/// A recorded command with what it called.
struct Case {
    arguments: Vec<String>,
    keeps_pod: bool,
    status: i32,
    stdout: String,
    stderr: String,
    calls: Vec<Recorded>,
}

struct Recorded {
    words: Vec<String>,
    input: Option<String>,
    failed: bool,
}

pub(crate) fn compare(bench: &Bench, folder: &Path, tally: &mut Tally) -> Result<()> {
    for name in case_names(folder, ".jsonl")? {
        bench.program.check()?;
        let case = load(folder, &name);
        if let Ok(case) = &case {
            for reason in case.departures() {
                tally.departs(reason);
            }
        }
        tally.case(&name, || replay(bench, &case?));
    }
    Ok(())
}

fn load(folder: &Path, name: &str) -> Result<Case> {
    let text = read_text(&folder.join(format!("{name}.txt")))?;
    let parts = || {
        let (head, rest) = text.split_once("\nexit: ")?;
        let argv = head.lines().find_map(|line| line.strip_prefix("argv: allocdb-jepsen "))?;
        let (status, rest) = rest.split_once("\n--- stdout\n")?;
        let (stdout, stderr) = rest.split_once("--- stderr\n")?;
        Some((head, argv, status, stdout, stderr))
    };
    let (head, argv, status, stdout, stderr) =
        parts().with_context(|| format!("{name}.txt is no recorded command"))?;
    let calls = read_text(&folder.join(format!("{name}.jsonl")))?;
    let calls = calls.lines().map(|line| {
        let call: Value = serde_json::from_str(line)?;
        let words = serde_json::from_value(call["argv"].clone())?;
        let input = call["stdin"].as_str().map(str::to_owned);
        Ok(Recorded { words, input, failed: call["rc"] != 0 })
    });
    Ok(Case {
        arguments: words_of(argv),
        keeps_pod: head.contains("\nenv: ALLOCDB_KEEP_KUBEVIRT_HELPER=1"),
        status: recorded_status(status.as_bytes())?,
        stdout: stdout.to_owned(),
        stderr: stderr.to_owned(),
        calls: calls.collect::<Result<_>>().with_context(|| format!("{name}.jsonl"))?,
    })
}

/// The words of a recorded command line. A value that holds spaces is recorded without quotes, and ends where the next flag
/// begins.
fn words_of(argv: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_value = false;
    for word in argv.split(' ') {
        let is_flag = word.starts_with("--");
        match words.last_mut() {
            Some(last) if is_value && !is_flag => *last += &format!(" {word}"),
            _ => words.push(word.to_owned()),
        }
        is_value = !is_flag && words.len() > 1;
    }
    words
}

/// What was there when a command began.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Absent,
    Running,
    Pending,
}

/// The verb of a call and what it is about, without the flags in front.
fn verb(words: &[String]) -> &[String] {
    let mut rest = words.get(1..).unwrap_or_default();
    for flag in ["--kubeconfig", "-n"] {
        if rest.first().is_some_and(|word| word == flag) {
            rest = rest.get(2..).unwrap_or_default();
        }
    }
    rest
}

/// Resources, names, waits and deletions: all that is asked but what carries requests to guests. That a pod is looked at
/// again is free.
fn asked(calls: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let mut asked: Vec<String> = Vec::new();
    let mut has_looked = false;
    for words in calls {
        let [verb, target, ..] = verb(&words) else { continue };
        let is_pod = target.starts_with("pod/");
        match verb.as_str() {
            // In which form a pod is described is free too.
            "get" if is_pod && has_looked => {}
            "get" if is_pod => {
                has_looked = true;
                let end = words.len() - 2;
                asked.push(words[..end].join(" "));
            }
            "get" | "apply" | "wait" | "delete" => asked.push(words.join(" ")),
            _ => {}
        }
    }
    asked
}

impl Case {
    fn before(&self) -> Before {
        let verbs: Vec<&str> =
            self.calls.iter().filter_map(|call| verb(&call.words).first()).map(String::as_str).collect();
        match verbs[..] {
            ["get", "apply", ..] => Before::Absent,
            ["get", "delete", ..] => Before::Pending,
            _ => Before::Running,
        }
    }

    /// The verb that failed before any guest was to be reached. One look that finds nothing is none.
    fn failing(&self) -> Option<&str> {
        let last = self.calls.last().filter(|call| call.failed)?;
        let verb = verb(&last.words).first()?;
        ["get", "apply", "wait"].contains(&verb.as_str()).then_some(verb)
    }

    fn is_capture(&self) -> bool {
        self.arguments[0] == "capture-kubevirt-layout"
    }

    /// A guest that was recorded to have an address of IPv6 first.
    fn finds_ipv6(&self) -> bool {
        self.is_capture() && self.arguments.iter().any(|word| word == "six")
    }

    /// Arguments that make no run, whatever the testbed is like.
    fn is_refused_for_arguments(&self) -> bool {
        self.stderr.contains("unknown Jepsen run")
    }

    /// What is asked otherwise than recorded, on purpose.
    fn departures(&self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if self.finds_ipv6() {
            reasons.push("a guest whose first address is of IPv6 is asked for all of them; recorded is that it is refused at once");
        }
        if self.is_refused_for_arguments() {
            reasons.push("arguments are judged before anything is reached; recorded is that the pod is asked for first");
        }
        if self.before() == Before::Pending {
            reasons.push("a pending pod is awaited and stays; recorded is that it is deleted and made again");
        }
        if self.before() == Before::Absent && self.failing() == Some("wait") {
            reasons.push(
                "a pod that was made is removed when it does not get ready; recorded is that it is left",
            );
        }
        reasons
    }

    /// What is to be asked.
    fn wanted(&self) -> Vec<String> {
        if self.is_refused_for_arguments() {
            return Vec::new();
        }
        let mut wanted = asked(self.calls.iter().map(|call| call.words.clone()));
        if self.finds_ipv6() {
            let all = wanted
                .iter()
                .filter(|line| line.contains(" six "))
                .map(|line| line.replace(".ipAddress}", ".ipAddresses}"));
            let all: Vec<String> = all.collect();
            wanted.extend(all);
        }
        let is = |verb: &'static str| move |line: &String| line.contains(&format!(" {verb} "));
        if self.before() == Before::Pending {
            wanted.retain(|line| !is("delete")(line) && !is("apply")(line));
        }
        let is_left = self.before() == Before::Absent && self.failing() != Some("apply");
        if !self.is_capture() && is_left && !self.keeps_pod && !wanted.iter().any(is("delete")) {
            let base = wanted.first().and_then(|line| line.split_once(" get "));
            let removal = base.map(|(base, pod)| {
                format!("{base} delete {pod} --ignore-not-found=true --force --grace-period=0")
            });
            wanted.extend(removal);
        }
        wanted
    }
}

fn replay(bench: &Bench, case: &Case) -> Result<Problems> {
    let place = TempDir::new()?;
    let root = place.path();
    let moved = |text: &str| text.replace(RECORDED_ROOT, &root.display().to_string());
    let state = root.join("state");
    lay_out(root, &state, case)?;
    let mut environment = vec![
        ("PATH", format!("{}:/usr/bin:/bin", state.display()).into()),
        ("STATE", state.clone().into()),
        ("FAILING", if case.is_capture() { "" } else { case.failing().unwrap_or_default() }.into()),
        ("COMPLAINT", case.stderr.split("stderr=").last().unwrap_or_default().trim_end().into()),
    ];
    if case.keeps_pod {
        environment.push(("ALLOCDB_KEEP_KUBEVIRT_HELPER", "1".into()));
    }
    let arguments = case.arguments.iter().map(|word| moved(word).into()).collect();
    let answer = bench.program.call(Call { arguments, folder: root, environment, limit: SHORT })?;
    let calls = fs::read_to_string(state.join("calls")).unwrap_or_default();
    let calls = calls.lines().map(|line| {
        line.trim_end_matches(SEPARATOR).split(SEPARATOR).map(str::to_owned).collect::<Vec<String>>()
    });
    let wanted: Vec<String> = case.wanted().iter().map(|line| moved(line)).collect();
    let mut problems = Problems::new();
    problems.extend(differing("what was asked", &wanted, &asked(calls)));
    problems.extend(manifest_differs(case, &state)?);
    if case.is_capture() || case.failing().is_some() {
        problems.extend(differing("status", &Some(case.status), &answer.status));
        let stdout = String::from_utf8_lossy(&answer.stdout).into_owned();
        problems.extend(differing("stdout", &moved(&case.stdout), &stdout));
        // What kubectl said by itself comes before the sentence, and more that helps behind it.
        let sentence = case.stderr.trim_end().lines().last().unwrap_or_default();
        if !answer.stderr.starts_with(moved(sentence).as_bytes()) {
            problems.push(format!("stderr: expected `{sentence}` first, found {}", shown(&answer.stderr)));
        }
    }
    Ok(problems)
}

/// Files as they were where it was recorded, and the stand-in with what it answers.
fn lay_out(root: &Path, state: &Path, case: &Case) -> Result<()> {
    for folder in ["state", "keys", "ws", "ws2"] {
        fs::create_dir(root.join(folder))?;
    }
    let write = |path: &Path, text: &str, mode: u32| -> Result<()> {
        fs::write(path, text)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
    };
    write(&state.join("kubectl"), KUBECTL, 0o755)?;
    write(&root.join("keys/id_ed25519"), "a key\n", 0o600)?;
    for (guest, addr) in GUESTS {
        fs::write(state.join(format!("guest-{guest}")), addr)?;
    }
    let pod = |phase: &str, owner: Option<&str>| {
        let mut labels = json!({ "app.kubernetes.io/name": "allocdb-jepsen-helper" });
        if let Some(owner) = owner {
            labels["jepsen.allocdb.dev/owner"] = json!(owner);
        }
        json!({ "metadata": { "resourceVersion": "1", "labels": labels }, "status": { "phase": phase } })
            .to_string()
    };
    fs::write(state.join("Running"), pod("Running", None))?;
    fs::write(state.join("owned"), pod("Running", Some("somebody")))?;
    match case.before() {
        Before::Absent => {}
        Before::Running => fs::write(state.join("pod"), pod("Running", None))?,
        Before::Pending => {
            fs::write(state.join("pod"), pod("Pending", None))?;
            fs::write(state.join("waits"), "")?;
        }
    }
    let event = "version=1\nsequence=1 process=p time_millis=1 operation=reserve operation_id=5 outcome=";
    fs::write(root.join("history.txt"), format!("{event}definite_failure reason=busy\n"))?;
    fs::write(root.join("blocked.txt"), format!("{event}ambiguous reason=timeout\n"))?;
    let r = root.display();
    let layout = |ws: &str, kubeconfig: &str, names: [&str; 3], network: &str| {
        let [namespace, pod, image] = names;
        let replica = |id: u8| format!("replica.{id}.name=r{id}\nreplica.{id}.addr={network}.1{id}\n");
        format!(
            "version=1\nworkspace_root={r}/{ws}\n{kubeconfig}namespace={namespace}\nhelper_pod_name={pod}\n\
             helper_image={image}\nhelper_stage_dir=/tmp/allocdb-stage\n\
             ssh_private_key_path={r}/keys/id_ed25519\ncontrol.name=c\ncontrol.addr={network}.10\n{}{}{}",
            replica(1),
            replica(2),
            replica(3)
        )
    };
    let kubeconfig = format!("kubeconfig_path={r}/kube.yaml\n");
    let standard = layout(
        "ws",
        &kubeconfig,
        ["jepsen", "allocdb-bootstrap-helper", "nicolaka/netshoot:latest"],
        "10.42.0",
    );
    fs::write(root.join("ws/kubevirt-testbed-layout.txt"), standard)?;
    let custom = layout("ws2", "", ["lanes", "lane-helper", "registry.example/helper:1"], "10.42.1");
    Ok(fs::write(root.join("ws2/kubevirt-testbed-layout.txt"), custom)?)
}

/// What the recorded manifest says has to be in the one that was applied; more may be.
fn manifest_differs(case: &Case, state: &Path) -> Result<Problems> {
    let recorded =
        case.calls.iter().find(|call| verb(&call.words).first().is_some_and(|verb| verb == "apply"));
    let Some(recorded) = recorded.filter(|_| case.before() == Before::Absent) else {
        return Ok(Problems::new());
    };
    let applied: Value = serde_json::from_str(&read_text(&state.join("manifest"))?)?;
    let meta = &applied["metadata"];
    let container = &applied["spec"]["containers"][0];
    let said = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let recorded = recorded.input.as_deref().unwrap_or_default();
    let value = |key: &str, nth: usize| {
        let values =
            recorded.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key));
        values
            .filter_map(|rest| rest.strip_prefix(": "))
            .map(|value| value.trim_matches('"').to_owned())
            .nth(nth)
    };
    let pairs = [
        ("apiVersion", value("apiVersion", 0), said(&applied["apiVersion"])),
        ("kind", value("kind", 0), said(&applied["kind"])),
        ("name of the pod", value("name", 0), said(&meta["name"])),
        ("namespace", value("namespace", 0), said(&meta["namespace"])),
        ("label", value("app.kubernetes.io/name", 0), said(&meta["labels"]["app.kubernetes.io/name"])),
        ("restartPolicy", value("restartPolicy", 0), said(&applied["spec"]["restartPolicy"])),
        ("name of the container", value("name", 1), said(&container["name"])),
        ("image", value("image", 0), said(&container["image"])),
    ];
    let compared =
        pairs.into_iter().filter_map(|(what, recorded, applied)| differing(what, &recorded, &Some(applied)));
    Ok(compared.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_value_with_a_space_stays_one_word() {
        assert_eq!(words_of("verb --a b c --d e"), ["verb", "--a", "b c", "--d", "e"]);
    }

    #[test]
    fn what_carries_requests_is_left_out() {
        let calls = [
            "kubectl -n x get pod/p -o jsonpath={}",
            "kubectl -n x apply -f -",
            "kubectl -n x annotate pod/p a=b",
            "kubectl -n x get pod/p -o json",
            "kubectl -n x exec p -- sh",
            "kubectl cp a b",
            "kubectl -n x delete pod/p",
        ];
        let left = asked(calls.into_iter().map(words));
        assert_eq!(left, ["kubectl -n x get pod/p", "kubectl -n x apply -f -", "kubectl -n x delete pod/p"]);
    }
}
