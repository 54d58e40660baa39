//! The verbs of `qemu-testbed`: four virtual machines on this machine, made, started, looked at, worked on and ended.
//!
//! What guests are made of is described in the library; `prepare` makes it, with `micro` and `cloud` for the two kinds of
//! guests, `machines` knows the processes, and `host` this machine's programs. One command at a time works on a testbed.

#[path = "qemu_testbed/cloud.rs"]
mod cloud;
#[path = "qemu_testbed/host.rs"]
mod host;
#[path = "qemu_testbed/libraries.rs"]
mod libraries;
#[path = "qemu_testbed/machines.rs"]
mod machines;
#[path = "qemu_testbed/micro.rs"]
mod micro;
#[path = "qemu_testbed/power.rs"]
mod power;
#[path = "qemu_testbed/prepare.rs"]
mod prepare;
#[path = "qemu_testbed/status.rs"]
mod status;
#[path = "qemu_testbed/workspace.rs"]
mod workspace;

pub(crate) use power::GuestPower;

use super::args::{QemuPrepare, QemuTestbed};
use super::child;
use super::common::print;
use super::interrupt::Interrupt;
use super::progress::Progress;
use allocdb_node::cluster::ReplicaLayout;
use allocdb_node::ids::ReplicaId;
use allocdb_node::testbed::qemu_layout::{FILE_NAME, GuestKind};
use allocdb_node::testbed::qemu_machine::{Accelerator, Machine};
use allocdb_node::testbed::{GUEST_CLUSTER_PROGRAM, GUEST_CONTROL_SCRIPT, GUEST_USER, QemuGuest, QemuLayout};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use machines::{Launcher, State};
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long guests may take to let people in.
const READY: Duration = Duration::from_secs(60);

/// How long guests from a cloud image may take that have begun to boot. At their first start they read megabytes of what
/// they are told with a slow reader, several times.
const CLOUD_READY: Duration = Duration::from_secs(10 * 60);

/// The same without a processor that helps.
const EMULATED_CLOUD_READY: Duration = Duration::from_secs(2 * 60 * 60);

/// How long micro guests may take that have begun to boot, without a processor that helps: their two seconds become minutes where
/// processors of the host are busy with something else.
const EMULATED_MICRO_READY: Duration = Duration::from_secs(4 * 60);

/// How long replicas of micro guests may take to answer. Slower than people expect, not slower than a slow machine is.
const REPLICAS_READY: Duration = Duration::from_secs(120);

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// How long one look may take, and one call of the control script for the status.
const ASK: Duration = Duration::from_secs(30);

/// Carries out one verb.
pub(crate) fn run(command: QemuTestbed, interrupt: &Interrupt) -> Result<()> {
    match command {
        QemuTestbed::Prepare(wanted) => make_ready(&wanted, interrupt),
        QemuTestbed::Start { workspace, guest: None } => start(&workspace, interrupt),
        QemuTestbed::Start { workspace, guest: Some(name) } => start_again(&workspace, &name, interrupt),
        QemuTestbed::Stop { workspace } => stop(&workspace),
        QemuTestbed::Status { workspace, format } => status::status(&workspace, format, interrupt),
        QemuTestbed::SshControl { workspace } => {
            let status = ssh(&load(&workspace)?)?.status().context("failed to run ssh")?;
            ensure!(status.success(), "ssh exited with status {status}");
            Ok(())
        }
        QemuTestbed::Control { workspace, words } => {
            ensure!(
                !words.is_empty(),
                "missing control command\n\nusage:\n  allocdb-jepsen qemu-testbed control --workspace <path> -- \
                 <status|isolate|heal|crash|restart|reboot|export-replica|import-replica|collect-logs> ..."
            );
            let mut command = ssh(&load(&workspace)?)?;
            command.args(["sudo", GUEST_CONTROL_SCRIPT]).args(words.iter().map(|word| shell_word(word)));
            let status = command.status().context("failed to run ssh")?;
            ensure!(status.success(), "control command exited with status {status}");
            Ok(())
        }
    }
}

fn load(workspace: &Path) -> Result<QemuLayout> {
    let root = workspace
        .canonicalize()
        .map_err(|error| anyhow!("failed to resolve workspace {}: {error}", workspace.display()))?;
    QemuLayout::load(&root.join(FILE_NAME)).map_err(|error| anyhow!("failed to load qemu layout: {error}"))
}

/// Keeps other commands away from a testbed's files and processes for as long as it is held. Leaves nothing behind.
fn lock(layout: &QemuLayout) -> Result<File> {
    let folder = &layout.workspace_root;
    let file = File::open(folder).with_context(|| format!("failed to open {}", folder.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another command is at work on the testbed in {}", folder.display())
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("failed to lock {}", folder.display()))
        }
    }
}

fn refuse_if_running<'a>(guests: impl IntoIterator<Item = &'a QemuGuest>) -> Result<()> {
    for guest in guests {
        if let State::Running(_) = machines::state(guest)? {
            bail!("guest {} is already running", guest.name);
        }
    }
    Ok(())
}

fn make_ready(wanted: &QemuPrepare, interrupt: &Interrupt) -> Result<()> {
    let layout = prepare::wanted_layout(wanted)?;
    let _lock = lock(&layout)?;
    refuse_if_running(&layout.all_guests())
        .context("the testbed cannot be prepared again while it runs; stop it first")?;
    let made = prepare::make(&layout, wanted.base_image_sha256.as_deref(), interrupt)?;
    let accelerator = machines::choose_accelerator(layout.arch, &made.qemu, interrupt)?;
    let layout = layout.store().map_err(|error| anyhow!("failed to persist qemu layout: {error}"))?;
    print(&format!(
        "qemu testbed prepared\nworkspace={}\nlayout={}\nbase_image={}\n{}accelerator={}\n",
        layout.workspace_root.display(),
        layout.path().display(),
        layout.base_image_path.display(),
        control_ssh(&layout),
        accelerator.0
    ))
}

fn control_ssh(layout: &QemuLayout) -> String {
    format!(
        "control_ssh=ssh -i {} -p {} {GUEST_USER}@{}\n",
        layout.ssh_private_key_path().display(),
        layout.lane.ssh_port(),
        Ipv4Addr::LOCALHOST
    )
}

fn print_started(layout: &QemuLayout) -> Result<()> {
    print(&format!(
        "qemu testbed started\nworkspace={}\nlayout={}\n{}",
        layout.workspace_root.display(),
        layout.path().display(),
        control_ssh(layout)
    ))
}

fn start(workspace: &Path, interrupt: &Interrupt) -> Result<()> {
    let layout = load(workspace)?;
    let _lock = lock(&layout)?;
    let guests = layout.all_guests();
    refuse_if_running(&guests)?;
    guests.iter().try_for_each(machines::clear)?;
    check_port(&layout)?;
    let made = prepare::make(&layout, None, interrupt)?;
    let machine = made.machine(&layout, interrupt)?;
    let patience = Patience::with(&layout, &machine);
    let launcher = Launcher { qemu: &made.qemu, layout: &layout, machine, interrupt };
    let progress = Progress::start("qemu-testbed start");
    let mut started = Vec::new();
    let begun = guests.iter().try_for_each(|guest| {
        started.push(guest);
        progress.phase(&format!("starting {}", guest.name));
        launcher.start(guest)
    });
    let ready = begun.and_then(|()| wait_until_ready(&layout, &guests, patience, &progress, interrupt));
    progress.end();
    if let Err(error) = ready {
        for guest in started.into_iter().rev() {
            // The first failure is what the operator has to hear of.
            let _ = machines::stop(guest);
        }
        return Err(error);
    }
    print_started(&layout)
}

/// Starts one guest of a testbed whose others run, or do not.
fn start_again(workspace: &Path, name: &str, interrupt: &Interrupt) -> Result<()> {
    let layout = load(workspace)?;
    let _lock = lock(&layout)?;
    let guests = layout.all_guests();
    let Some(guest) = guests.iter().find(|guest| guest.name == name) else {
        let names: Vec<&str> = guests.iter().map(|guest| guest.name.as_str()).collect();
        bail!("there is no guest `{name}`; the guests are {}", names.join(", "));
    };
    refuse_if_running([guest])?;
    machines::clear(guest)?;
    if guest.replica.is_none() {
        check_port(&layout)?;
    }
    let made = prepare::find_made(&layout, guest)?;
    let machine = made.machine(&layout, interrupt)?;
    let patience = Patience::with(&layout, &machine);
    let launcher = Launcher { qemu: &made.qemu, layout: &layout, machine, interrupt };
    let progress = Progress::start("qemu-testbed start");
    let begun = launcher.start(guest);
    // Without the control guest nobody can ask a replica how it is.
    let control_runs = guest.replica.is_none() || matches!(machines::state(&guests[0])?, State::Running(_));
    let ready = begun.and_then(|()| match control_runs {
        true => wait_until_ready(&layout, std::slice::from_ref(guest), patience, &progress, interrupt),
        false => Ok(()),
    });
    progress.end();
    if let Err(error) = ready {
        let _ = machines::stop(guest);
        return Err(error);
    }
    print_started(&layout)
}

/// The port must be free now. Somebody may still be quicker, but then QEMU says so.
fn check_port(layout: &QemuLayout) -> Result<()> {
    let port = layout.lane.ssh_port();
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bound.map(drop).map_err(|error| {
        anyhow!(
            "port {port} of {}, which is to lead to the control guest, is not free: {error}; end who has it, or prepare \
             another workspace with --lane",
            Ipv4Addr::LOCALHOST
        )
    })
}

/// How much longer than [`READY`] a control guest may take that has begun to boot.
#[derive(Clone, Copy)]
struct Patience(Duration);

impl Patience {
    fn with(layout: &QemuLayout, machine: &Machine) -> Self {
        let is_emulated = machine.accelerator == Accelerator::tcg();
        Self(match layout.guests {
            GuestKind::Micro { .. } if is_emulated => EMULATED_MICRO_READY,
            GuestKind::Micro { .. } => Duration::ZERO,
            GuestKind::Cloud if is_emulated => EMULATED_CLOUD_READY,
            GuestKind::Cloud => CLOUD_READY,
        })
    }
}

/// The control guest has to let people in. Replicas of micro guests have to answer as well; guests from cloud images are
/// still installing theirs.
fn wait_until_ready(
    layout: &QemuLayout,
    guests: &[QemuGuest],
    Patience(more): Patience,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<()> {
    progress.window(None);
    progress.phase("waiting for the control guest to let people in");
    let lets_in = || {
        let mut command = ssh(layout)?;
        Ok(child::listen_to(command.arg("true"), ASK, interrupt)?.status.success())
    };
    let console = layout.control_guest().console_log_path;
    let mut is_ready = wait_for(READY, guests, interrupt, lets_in)?;
    // One whose console says nothing does not boot.
    let boots = || std::fs::metadata(&console).is_ok_and(|console| console.len() > 0);
    if !is_ready && !more.is_zero() && boots() {
        let minutes = more.as_secs() / 60;
        progress.say(&format!("the control guest is booting; it is given {minutes} minutes for that"));
        is_ready = wait_for(more, guests, interrupt, lets_in)?;
    }
    ensure!(is_ready, "control guest ssh did not become ready within timeout; see {}", console.display());
    if layout.guests == GuestKind::Cloud {
        return Ok(());
    }
    let cluster = layout.guest_cluster();
    for id in guests.iter().filter_map(|guest| guest.replica) {
        let Some(replica) = cluster.replica(id) else { continue };
        progress.phase(&format!("waiting for replica {id} to answer"));
        let answers = wait_for(REPLICAS_READY, guests, interrupt, || answers(layout, replica, interrupt))?;
        ensure!(
            answers,
            "replica {id} did not answer on {} within timeout; {}",
            replica.control_addr,
            hint(layout, id)
        );
    }
    Ok(())
}

fn hint(layout: &QemuLayout, id: ReplicaId) -> String {
    let guest = layout.replica_guests().into_iter().find(|guest| guest.replica == Some(id));
    guest.map_or_else(String::new, |guest| format!("see {}", guest.console_log_path.display()))
}

/// Whether a replica answers the control guest.
fn answers(layout: &QemuLayout, replica: &ReplicaLayout, interrupt: &Interrupt) -> Result<bool> {
    let mut command = ssh(layout)?;
    command.args([GUEST_CLUSTER_PROGRAM, "control-status", "--addr", &replica.control_addr.to_string()]);
    Ok(child::listen_to(&mut command, ASK, interrupt)?.status.success())
}

/// Looks again and again until what is waited for is there, and that the guests still run. False when it takes too long.
fn wait_for(
    limit: Duration,
    guests: &[QemuGuest],
    interrupt: &Interrupt,
    mut is_there: impl FnMut() -> Result<bool>,
) -> Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        if is_there()? {
            return Ok(true);
        }
        for guest in guests {
            let is_gone = !matches!(machines::state(guest)?, State::Running(_));
            ensure!(!is_gone, "guest {} has ended; see {}", guest.name, guest.console_log_path.display());
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        interrupt.pause(LOOK)?;
    }
}

fn stop(workspace: &Path) -> Result<()> {
    let layout = load(workspace)?;
    let _lock = lock(&layout)?;
    let failures: Vec<String> = layout
        .all_guests()
        .iter()
        .filter_map(|guest| Some(format!("{}: {:#}", guest.name, machines::stop(guest).err()?)))
        .collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    print("qemu testbed stopped\n")
}

/// The way into the control guest. Its host key was written down when the testbed was prepared; where another program did
/// that, the first contact writes it.
fn ssh(layout: &QemuLayout) -> Result<Command> {
    let known = layout.known_hosts_path();
    let path = known.to_str().ok_or_else(|| anyhow!("{} is no UTF-8", known.display()))?;
    // In an option, white space ends a path unless it is quoted.
    let path = if path.contains(char::is_whitespace) { format!("\"{path}\"") } else { path.to_owned() };
    let mut command = Command::new("ssh");
    command.arg("-i").arg(layout.ssh_private_key_path());
    for option in ["BatchMode=yes", "ConnectTimeout=5", "LogLevel=ERROR"] {
        command.args(["-o", option]);
    }
    let checking = if known.exists() { "yes" } else { "accept-new" };
    command.args([
        "-o",
        &format!("StrictHostKeyChecking={checking}"),
        "-o",
        &format!("UserKnownHostsFile={path}"),
    ]);
    command.args(["-p", &layout.lane.ssh_port().to_string()]);
    command.arg(format!("{GUEST_USER}@{}", Ipv4Addr::LOCALHOST));
    Ok(command)
}

/// A word that arrives as it is: the remote end reads it with a shell.
fn shell_word(word: &OsStr) -> std::ffi::OsString {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(byte);
    let bytes = word.as_encoded_bytes();
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return word.to_owned();
    }
    let mut quoted = std::ffi::OsString::from("'");
    for (at, part) in word.to_string_lossy().split('\'').enumerate() {
        if at > 0 {
            quoted.push("'\"'\"'");
        }
        quoted.push(part);
    }
    quoted.push("'");
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_that_boot_slowly_are_waited_for_longer() {
        let text = "version=1\nworkspace_root=/w\narch=x86_64\nbase_image_url=u\nbase_image_path=/a\nlocal_cluster_binary_path=/b\n";
        let patience = |further: &str, accelerator: &str| {
            let layout = QemuLayout::decode(&format!("{text}{further}")).unwrap();
            let accelerator = Accelerator(accelerator.to_owned());
            Patience::with(&layout, &Machine { accelerator, firmware: None, system_len: 0 }).0
        };
        let micro = "guest.kind=micro\nguest.modules_path=/m\n";
        assert_eq!(patience(micro, "kvm"), Duration::ZERO);
        assert!((READY..patience("", "kvm")).contains(&patience(micro, "tcg")));
        assert!(patience("", "kvm") > READY && patience("", "tcg") > patience("", "kvm"));
    }

    #[test]
    fn words_reach_the_remote_shell_as_they_are() {
        for (word, sent) in [
            ("crash", "crash"),
            ("2", "2"),
            ("/var/log/a-b_c.d", "/var/log/a-b_c.d"),
            ("two words", "'two words'"),
            ("", "''"),
            ("$(reboot)", "'$(reboot)'"),
            ("it's", "'it'\"'\"'s'"),
        ] {
            assert_eq!(shell_word(OsStr::new(word)), sent);
        }
    }
}
