//! Views of runs on guests: through the pod of a KubeVirt testbed with the real `kubectl`, and by the port of a QEMU testbed.
//! Lanes that are dead, gone or not there yet hold up no other, and whoever made a pod removes it if nobody else uses it.

use crate::kubernetes::{Kubernetes, NAMESPACE, TOKEN, missing_kubectl};
use crate::support::ssh_host::{Kind, SshHost, missing_namespaces};
use crate::support::*;
use crate::tmux::{Terminal, missing_tmux};
use std::path::Path;
use std::process::Command;

fn lacks_something() -> bool {
    missing_kubectl() || missing_namespaces()
}

/// Guests behind a Kubernetes API, with their layout and the files of a run.
struct Lane {
    host: SshHost,
    api: Kubernetes,
}

impl Lane {
    fn start() -> Self {
        let host = SshHost::start(Kind::Kubevirt);
        let lane = Self { api: Kubernetes::start(host.sshd()), host };
        lane.host.give_key(Path::new(&lane.path("key")));
        std::fs::create_dir(lane.path("out")).unwrap();
        lane
    }

    /// With its layout written down, and its control guest known.
    fn captured() -> Self {
        let lane = Self::start();
        lane.capture();
        let first = run(&mut lane.watch(&[]));
        assert!(first.stderr.starts_with("first contact with control guest "), "{first:#?}");
        until("the replicas", || run(&mut lane.watch(&[])).ok().stdout.matches(" up ").count() == 3);
        lane.api.cluster().changes.clear();
        lane
    }

    fn capture(&self) {
        let (workspace, key) = (self.path("ws"), self.path("key"));
        let mut command = self.command(&["capture-kubevirt-layout", "--workspace", &workspace]);
        command.args(["--namespace", NAMESPACE, "--ssh-private-key", &key, "--kubeconfig"]);
        run(command.arg(self.api.kubeconfig())).ok();
    }

    fn path(&self, name: &str) -> String {
        self.api.folder().join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = jepsen(arguments);
        self.api.at_home(&mut command).env_remove("ALLOCDB_KEEP_KUBEVIRT_HELPER").env_remove("NO_COLOR");
        command
    }

    fn watch(&self, more: &[&str]) -> Command {
        let (workspace, out) = (self.path("ws"), self.path("out"));
        let mut command = self.command(&["watch-kubevirt", "--workspace", &workspace, "--output-root", &out]);
        command.args(more);
        command
    }

    fn verify(&self) -> Command {
        self.command(&["verify-kubevirt-surface", "--workspace", &self.path("ws")])
    }

    /// How a fleet names it.
    fn named(&self, name: &str) -> String {
        format!("{name},{},{}", self.path("ws"), self.path("out"))
    }

    fn tell(&self, run_id: &str, state: &str) {
        tell(&self.path("out"), run_id, state);
    }

    fn has_pod(&self) -> bool {
        self.api.cluster().pod.is_some()
    }

    /// The pod is gone, and so is everything that was started to reach it.
    fn assert_clean(&self) {
        assert!(!self.has_pod());
        until("the end of everything", || processes_of(self.api.folder()).is_empty());
    }
}

/// Writes the status file and the events of a run.
fn tell(out: &str, run_id: &str, state: &str) {
    let status = format!(
        "version=1\nbackend=kubevirt\nrun_id={run_id}\nstate={state}\nphase=executing\ndetail=executing Jepsen scenario\n\
         started_at_millis=1773500000000\nupdated_at_millis=1773500754321\nelapsed_secs=754\n\
         minimum_fault_window_secs=1800\nhistory_events=6\nhistory_file=none\nartifact_bundle=none\nlogs_archive=none\n\
         release_gate_passed=none\nblockers=none\nlast_error=none\n"
    );
    std::fs::write(
        format!("{out}/{run_id}-events.log"),
        "time_millis=1773500001000 detail=history sequence=1\n",
    )
    .unwrap();
    std::fs::write(format!("{out}/new"), status).unwrap();
    std::fs::rename(format!("{out}/new"), format!("{out}/allocdb-jepsen-latest-status.txt")).unwrap();
}

const HEALTHY: [&str; 3] = [
    "1 up       primary         1         - on           0         0     0 👑 serving traffic",
    "2 up       backup          1         - on           0         0     0 🛡 hot standby",
    "3 up       backup          1         - on           0         0     0 🛡 hot standby",
];

#[test]
fn one_run_is_shown_and_the_pod_that_was_made_for_it_removed() {
    if lacks_something() {
        return;
    }
    let lane = Lane::captured();
    lane.tell("lease_safety-crash-restart", "running");
    let done = run(&mut lane.watch(&[])).ok();
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[0], "⠼ AllocDB Jepsen KubeVirt Watch ▃");
    assert_eq!(lines[4], "  Run        lease_safety-crash-restart");
    for row in HEALTHY {
        assert!(lines.contains(&&*format!(" {row}")), "{}", done.stdout);
    }
    assert_eq!(lines.last(), Some(&"  📜 +1.0s    history sequence=1"));
    lane.assert_clean();
    assert!(!done.stdout.contains(TOKEN));
    // What runs there is only looked at.
    let created = lane.api.cluster().changes.clone();
    assert_eq!(created.iter().filter(|change| change.starts_with("exec ")).count(), 1, "{created:?}");
}

#[test]
fn a_pod_stays_as_long_as_somebody_uses_it() {
    if lacks_something() {
        return;
    }
    let lane = Lane::captured();
    let out = lane.path("frames");
    let mut watch = lane.watch(&["--follow", "--refresh-millis", "250"]);
    let watch = Running::start(watch.stdout(std::fs::File::create(&out).unwrap()));
    until("a frame", || text(&out).contains(HEALTHY[2]));
    // Others come and go, and the pod of the view stays.
    run(&mut lane.watch(&[])).ok();
    assert_eq!(run(&mut lane.verify()).ok().stdout, "kubevirt_surface=ready\n");
    assert!(lane.has_pod());
    let before = text(&out).len();
    until("another frame", || text(&out)[before..].contains(" 2 up       backup "));
    lane.tell("x", "passed");
    assert_eq!(watch.finish().ok().stdout, "");
    lane.assert_clean();
    assert!(text(&out).contains("✅ PASSED"));
}

#[test]
fn a_view_that_is_interrupted_removes_its_pod() {
    if lacks_something() {
        return;
    }
    for gets_ready in [true, false] {
        let lane = Lane::captured();
        lane.api.cluster().gets_ready = gets_ready;
        lane.api.cluster().watchers = 0;
        let out = lane.path("frames");
        let mut watch = lane.watch(&["--follow"]);
        let watch = Running::start(watch.stdout(std::fs::File::create(&out).unwrap()));
        match gets_ready {
            true => until("a frame", || text(&out).contains(HEALTHY[0])),
            false => until("the wait", || lane.api.cluster().watchers > 0),
        }
        watch.signal("TERM");
        let done = watch.finish();
        assert_eq!((done.code(), &*done.stderr), (Some(1), "interrupted by SIGTERM\n"));
        lane.assert_clean();
    }
}

#[test]
fn a_control_guest_that_is_not_there_is_shown_on_every_replica() {
    if lacks_something() {
        return;
    }
    let lane = Lane::captured();
    lane.api.cluster().relay = ["sh", "-c", "echo no route to host >&2; exit 1"].map(str::to_owned).to_vec();
    lane.tell("x", "running");
    let done = run(&mut lane.watch(&[])).ok();
    for id in 1..=3 {
        let row = format!(" {id} down     down            -         - -            -         -     - ");
        assert!(done.stdout.lines().any(|line| line.starts_with(&row)), "{}", done.stdout);
    }
    assert!(done.stdout.contains("  Run        x\n"), "{}", done.stdout);
    lane.assert_clean();
}

#[test]
fn lanes_are_watched_together_whatever_becomes_of_one() {
    if lacks_something() {
        return;
    }
    let (first, second) = (Lane::captured(), Lane::start());
    first.tell("reservation_contention-crash-restart", "running");
    let out = first.path("frames");
    let mut watch = first.command(&["watch-kubevirt-fleet", "--follow", "--refresh-millis", "250"]);
    for lane in [first.named("one"), second.named("two"), "three,/absent,/absent".to_owned()] {
        watch.args(["--lane", &lane]);
    }
    let watch = Running::start(watch.stdout(std::fs::File::create(&out).unwrap()));
    let last = || {
        let text = text(&out);
        // The last frame may not be whole.
        text.rsplit("AllocDB Jepsen KubeVirt Fleet Watch").nth(1).unwrap_or_default().to_owned()
    };
    let waiting =
        "waiting    waiting            - warming up              - -     failed to load kubevirt tes…\n";
    until("a frame", || last().contains(&format!("one    {}", HEALTHY[0])));
    assert!(last().contains("lanes=3   refresh=250ms   mode=follow   use one output root per lane\n"));
    assert!(last().contains("one   reservation_contention-crash-re… 🟢 RUNNING"), "{}", last());
    assert!(last().contains(&format!("three <waiting>                        {waiting}")), "{}", last());
    assert!(last().contains(&format!("two   <waiting>                        {waiting}")), "{}", last());
    // A lane appears, and its run becomes another one.
    second.capture();
    until("the second lane", || last().matches("two    ").count() == 3 && last().contains("two    1 up "));
    second.tell("lease_safety-control", "failed");
    until("its run", || last().contains("two   lease_safety-control             💥 FAILED"));
    second.tell("failover_read_fences-control", "running");
    until("its next run", || last().contains("  two   failover_read_fences-control\n    📜 +1.0s "));
    // It goes silent, and the other goes on.
    second.host.stall_connections();
    second.api.cluster().relay = vec!["cat".to_owned()];
    until("the loss of the second lane", || last().contains("two    1 down "));
    first.tell("expiration_and_recovery-control", "running");
    until("the next run of the first", || last().contains("one   expiration_and_recovery-control "));
    assert!(last().contains(&format!("one    {}", HEALTHY[0])));
    // Its run is told all the same.
    second.tell("lease_safety-control", "passed");
    until("the run of the lost lane", || last().contains("two   lease_safety-control             ✅ PASSED"));
    watch.signal("INT");
    let done = watch.finish();
    assert_eq!(done.code(), Some(1));
    let told: Vec<&str> = done.stderr.lines().collect();
    assert!(told[0].starts_with("first contact with control guest 10.42.0.10: "), "{told:#?}");
    assert_eq!(told[1..], ["interrupted by SIGINT"]);
    first.assert_clean();
    second.assert_clean();
}

#[test]
fn a_fleet_looks_right_at_80_120_and_200_columns() {
    if lacks_something() || missing_tmux() {
        return;
    }
    let lane = Lane::captured();
    lane.tell("expiration_and_recovery-partition-heal", "failed");
    // The next contact is the first again, which is told on standard error, and must not be drawn over.
    std::fs::remove_file(lane.path("ws/known_hosts")).unwrap();
    for columns in [80, 120, 200] {
        let mut watch = lane.command(&["watch-kubevirt-fleet", "--follow", "--refresh-millis", "250"]);
        watch.args([
            "--lane",
            &lane.named("lane-a"),
            "--lane",
            &lane.named("漢字"),
            "--lane",
            "c,/absent,/absent",
        ]);
        let terminal = Terminal::run(columns, 40, &watch);
        let shown = terminal.until("both lanes", |shown| {
            let count = |note| shown.iter().filter(|line| line.contains(note)).count();
            count("hot standby") == 4 && count("serving traffic") == 2
        });
        assert!(shown[0][3..].starts_with(" AllocDB Jepsen KubeVirt Fleet Watch "), "{shown:#?}");
        assert!(shown[4].starts_with("lane   "), "{shown:#?}");
        let rows = |start: &str| shown.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!((rows("lane-a"), rows("漢字")), (4, 4), "{shown:#?}");
        let lead = column(&shown[4], "lead");
        let lanes: Vec<&String> = shown[5..].iter().filter(|line| line.contains("💥 FAILED")).collect();
        assert_eq!(lanes.len(), 2, "{shown:#?}");
        for line in lanes {
            assert_eq!(column(line, "r1"), lead, "{shown:#?}");
            assert_eq!(column(line, "███░░░░░  41%"), column(&shown[4], "window"), "{shown:#?}");
        }
        let header = shown.iter().find(|line| line.contains(" id health ")).unwrap();
        for line in shown.iter().filter(|line| line.contains("hot standby")) {
            assert_eq!(column(line, "🛡"), column(header, "note"), "{shown:#?}");
        }
        let feed = shown.iter().position(|line| line == "Lane Feed").unwrap();
        assert_eq!(shown[feed + 2], "    📜 +1.0s       history sequence=1");
        assert!(shown.iter().any(|line| line.contains("failed to load kubevirt testbed layout: ")));
        assert!(!shown.iter().any(|line| line.contains("first contact")), "{shown:#?}");
        terminal.keys(&["q"]);
        let after = terminal.ended(0).concat();
        assert_eq!(after.contains("first contact with control guest 10.42.0.10: "), columns == 80, "{after}");
        lane.assert_clean();
    }
}

#[test]
fn a_lane_that_goes_silent_grows_old_and_holds_up_nothing() {
    if lacks_something() || missing_tmux() {
        return;
    }
    let (first, second) = (Lane::captured(), Lane::captured());
    first.tell("lease_safety-control", "running");
    second.tell("lease_safety-crash-restart", "running");
    let mut watch = first.command(&["watch-kubevirt-fleet", "--follow", "--refresh-millis", "250"]);
    watch.args(["--lane", &first.named("one"), "--lane", &second.named("two")]);
    let terminal = Terminal::run(160, 40, &watch);
    terminal
        .until("all replicas", |shown| shown.iter().filter(|line| line.contains("hot standby")).count() == 4);
    second.host.stall_connections();
    let is_old = |line: &String| line.starts_with("two ") && line.contains("s old: ");
    terminal.until("old replicas", |shown| shown.iter().filter(|line| is_old(line)).count() == 3);
    first.tell("failover_read_fences-control", "running");
    second.tell("failover_read_fences-crash-restart", "running");
    let shown = terminal.until("the next runs", |shown| {
        let run =
            |name: &str, run: &str| shown.iter().any(|line| line.starts_with(name) && line.contains(run));
        run("one ", " failover_read_fences-control ") && run("two ", " failover_read_fences-crash-restart ")
    });
    assert!(!shown.iter().any(|line| line.starts_with("one ") && line.contains(" old: ")), "{shown:#?}");
    terminal.keys(&["q"]);
    terminal.ended(0);
    first.assert_clean();
    second.assert_clean();
}

/// The column at which a text stands in a line.
fn column(line: &str, text: &str) -> usize {
    use unicode_width::UnicodeWidthStr as _;
    line[..line.find(text).unwrap_or_else(|| panic!("no {text} in {line}"))].width()
}

#[test]
fn guests_of_a_qemu_testbed_are_watched_too() {
    if missing_namespaces() {
        return;
    }
    let host = SshHost::start(Kind::Qemu);
    let (workspace, out) = (host.path("qemu-ws"), host.path("out"));
    std::fs::create_dir_all(workspace.join("qemu/ssh")).unwrap();
    std::fs::create_dir(&out).unwrap();
    host.give_key(&workspace.join("qemu/ssh/id_ed25519"));
    let layout = format!(
        "version=1\nworkspace_root={}\narch=x86_64\nbase_image_url=u\nbase_image_path=i\nlocal_cluster_binary_path=b\n",
        workspace.display()
    );
    std::fs::write(workspace.join("qemu-testbed-layout.txt"), layout).unwrap();
    let watch = || {
        let mut command = jepsen(&["watch-qemu", "--workspace"]);
        command.arg(&workspace).arg("--output-root").arg(&out);
        run(&mut host.beside(&command))
    };
    assert!(watch().stderr.starts_with("first contact with control guest [127.0.0.1]:2220: "));
    let mut shown = String::new();
    until("the replicas", || {
        shown = watch().ok().stdout;
        shown.matches(" up ").count() == 3
    });
    assert!(shown[3..].starts_with(" AllocDB Jepsen QEMU Watch ▁\n"), "{shown}");
    assert!(shown.contains("  Hint       start `run-qemu` in another terminal and this view will lock on\n"));
    for row in HEALTHY {
        assert!(shown.contains(&format!(" {row}\n")), "{shown}");
    }
    host.drop_connections();
    let shown = watch().ok().stdout;
    assert_eq!(shown.matches(" down     down ").count(), 3, "{shown}");
    assert!(shown.contains(" - no control guest listens on 127.0.0.1:2220; i…\n"), "{shown}");
}
