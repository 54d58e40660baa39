//! The processes of guests: whether they run, starting them, ending them.
//!
//! A number in a process id file is believed only if the process of that number is the guest's: QEMU's command line names
//! the file, or the process began when the guest was started.

use super::super::child::{self, listen_to};
use super::super::interrupt::Interrupt;
use allocdb_node::cluster::process::{beginning, command_line, is_running};
use allocdb_node::testbed::qemu_machine::{Accelerator, Machine, arguments, board};
use allocdb_node::testbed::{Arch, QemuGuest, QemuLayout};
use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long QEMU may take to become a process in the background.
const LAUNCH: Duration = Duration::from_secs(30);

/// How long a guest may take to end before it is killed.
const SHUTDOWN: Duration = Duration::from_secs(20);

/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(100);

/// What is known of a guest's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// There is no process id file.
    Stopped,
    /// There is one, and no process that it stands for.
    Stale,
    /// This process runs.
    Running(u32),
}

/// Looks at a guest's process.
pub(super) fn state(guest: &QemuGuest) -> Result<State> {
    let path = &guest.pid_path;
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::Stopped),
        Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
    };
    // A machine that went down while QEMU wrote it leaves an empty file.
    if text.trim().is_empty() {
        return Ok(State::Stale);
    }
    let pid: u32 = text.trim().parse().map_err(|error| {
        anyhow!("invalid pid in {}: {error}; if no guest runs, remove that file", path.display())
    })?;
    Ok(if is_running(pid) && is_guest(guest, pid) { State::Running(pid) } else { State::Stale })
}

fn is_guest(guest: &QemuGuest, pid: u32) -> bool {
    let path = guest.pid_path.as_os_str().as_encoded_bytes();
    let is_named =
        command_line(pid).is_some_and(|line| line.split(|byte| *byte == 0).any(|word| word == path));
    let noted = std::fs::read_to_string(&guest.started_path).unwrap_or_default();
    is_named || beginning(pid).is_some_and(|beginning| noted.trim() == format!("{pid} {beginning}"))
}

/// Removes what is left of a guest whose process is gone.
pub(super) fn clear(guest: &QemuGuest) -> Result<()> {
    for path in [&guest.pid_path, &guest.started_path] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("failed to remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// How guests are started.
pub(super) struct Launcher<'a> {
    pub(super) qemu: &'a Path,
    pub(super) layout: &'a QemuLayout,
    pub(super) machine: Machine,
    pub(super) interrupt: &'a Interrupt,
}

impl Launcher<'_> {
    /// Starts a guest and waits until QEMU is in the background.
    pub(super) fn start(&self, guest: &QemuGuest) -> Result<()> {
        let mut command = Command::new(self.qemu);
        command.args(arguments(self.layout, guest, &self.machine));
        let said = listen_to(&mut command, LAUNCH, self.interrupt)
            .with_context(|| format!("failed to start {}", guest.name))?;
        let stderr = said.stderr.trim();
        if !said.status.success() {
            let reason = if stderr.is_empty() { String::new() } else { format!(": {stderr}") };
            bail!("qemu exited with status {} while starting {}{reason}", said.status, guest.name);
        }
        if !stderr.is_empty() {
            let _ = writeln!(io::stderr(), "{stderr}");
        }
        let pid = std::fs::read_to_string(&guest.pid_path).ok().and_then(|text| text.trim().parse().ok());
        if let Some((pid, beginning)) = pid.and_then(|pid: u32| Some((pid, beginning(pid)?))) {
            std::fs::write(&guest.started_path, format!("{pid} {beginning}\n"))
                .with_context(|| format!("failed to write {}", guest.started_path.display()))?;
        }
        Ok(())
    }
}

/// Ends a guest, whatever it takes.
pub(super) fn stop(guest: &QemuGuest) -> Result<()> {
    if let State::Running(pid) = state(guest)? {
        signal(pid, Signal::TERM, "-TERM")?;
        if !is_gone_within(pid, SHUTDOWN) {
            signal(pid, Signal::KILL, "-KILL")?;
            if !is_gone_within(pid, GONE) {
                bail!("guest {} with pid {pid} does not end", guest.name);
            }
        }
    }
    clear(guest)
}

/// Ends a guest as a loss of power does.
pub(super) fn kill(guest: &QemuGuest) -> Result<()> {
    if let State::Running(pid) = state(guest)? {
        signal(pid, Signal::KILL, "-KILL")?;
        if !is_gone_within(pid, GONE) {
            bail!("guest {} with pid {pid} does not end", guest.name);
        }
    }
    clear(guest)
}

fn signal(pid: u32, signal: Signal, word: &str) -> Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.ok_or_else(|| anyhow!("{pid} is no process id"))?;
    match kill_process(raw, signal) {
        Err(_) if !is_running(pid) => Ok(()),
        sent => sent.with_context(|| format!("kill {word} {pid} failed")),
    }
}

/// Whether a process ends. That somebody presses Ctrl-C does not leave a guest half ended.
fn is_gone_within(pid: u32, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while is_running(pid) {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

/// What guests of this architecture are to run on: what the environment says, or else what works here.
pub(super) fn choose_accelerator(arch: Arch, qemu: &Path, interrupt: &Interrupt) -> Result<Accelerator> {
    let asked = std::env::var("QEMU_ACCEL").unwrap_or_default();
    if !asked.trim().is_empty() {
        return Ok(Accelerator(asked.trim().to_owned()));
    }
    let is_own = arch.word() == std::env::consts::ARCH;
    let candidate = match std::env::consts::OS {
        "macos" if is_own => "hvf",
        "linux" if is_own && can_open_kvm() => "kvm",
        _ => return Ok(Accelerator::tcg()),
    };
    let candidate = Accelerator(candidate.to_owned());
    let works = works(&candidate, arch, qemu, interrupt)?;
    Ok(if works { candidate } else { Accelerator::tcg() })
}

fn can_open_kvm() -> bool {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

/// Tries a machine out, as far as its processor. A device that can be opened may still lack what QEMU needs.
fn works(accelerator: &Accelerator, arch: Arch, qemu: &Path, interrupt: &Interrupt) -> Result<bool> {
    let board = board(arch);
    // Somewhere to leave a core file, and QEMU's monitor commands.
    let folder = tempfile::tempdir().context("failed to create a temporary folder")?;
    let mut command = Command::new(qemu);
    command.current_dir(folder.path());
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-m", "64", "-S", "-daemonize"]);
    command.args(["-machine", &format!("{board},accel={}", accelerator.0), "-cpu", accelerator.cpu()]);
    let pid_path = folder.path().join("pid");
    command.arg("-pidfile").arg(&pid_path);
    let tried = child::listen_to(&mut command, LAUNCH, interrupt)?;
    let pid = std::fs::read_to_string(&pid_path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(pid) = pid.filter(|pid| is_running(*pid)) {
        signal(pid, Signal::KILL, "-KILL")?;
        is_gone_within(pid, GONE);
    }
    Ok(tried.status.success())
}
