//! The KubeVirt backend: guests in a Kubernetes cluster, reached through a helper pod there.
//!
//! One SSH session leads to the control guest. Its bytes travel through `kubectl exec` and a relay in the pod, so the private
//! key stays where it is. What happens over the session is the same as on every testbed in virtual machines.

#[path = "kubevirt/helper_pod.rs"]
mod helper_pod;
#[path = "kubevirt/kubectl.rs"]
mod kubectl;

use super::args::{Format, KubevirtCapture};
use super::common::{escaped, print};
use super::harness_log::{self, carried};
use super::interrupt::Interrupt;
use super::remote::{Connection, ControlGuest, GuestTestbed, Transport};
use super::surface::told;
use super::testbed::{Contact, ExternalTestbed, HuntTestbed, claim_in};
use allocdb_node::jepsen::answers;
use allocdb_node::keyvalue::Entry;
use allocdb_node::testbed::KubevirtLayout;
use allocdb_node::testbed::kubevirt_layout::{self, KubevirtGuest};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use helper_pod::{HelperPod, PodOptions};
use kubectl::{CallError, Kubectl, Running, current_context};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Deadline of looking up one guest.
const LOOKUP: Duration = Duration::from_secs(30);

/// How long the SSH server of the control guest has to say its first word, `kubectl` and the pod included.
const GREETING: Duration = Duration::from_secs(20);

/// Programs that join a connection to their standard input and output, with what they want to be told. Helper images have
/// one or another of them.
const RELAYS: [Relay; 3] = [
    Relay { program: "nc", arguments: |addr| vec![addr.to_string(), "22".to_owned()] },
    Relay { program: "socat", arguments: |addr| vec!["-".to_owned(), format!("TCP:{addr}:22")] },
    Relay { program: "ncat", arguments: |addr| vec![addr.to_string(), "22".to_owned()] },
];

struct Relay {
    program: &'static str,
    arguments: fn(Ipv4Addr) -> Vec<String>,
}

/// Looks up the guests of a KubeVirt testbed, writes down where they are, and says it.
///
/// # Errors
/// When the private key does not exist, a guest has no address, or the layout cannot be written; nothing is written then.
pub(crate) fn capture(wanted: KubevirtCapture, interrupt: &Interrupt) -> Result<()> {
    const COMMAND: &str = "capture-kubevirt-layout";
    let format = wanted.format;
    let layout = told(COMMAND, format, captured(wanted, interrupt))?;
    let (control, replicas) = guests(&layout);
    let path = Entry::new("kubevirt_layout", &*layout.path());
    match format {
        Format::Text => print(&Entry::lines([&path, &control].into_iter().chain(&replicas))),
        Format::Json => {
            #[derive(Serialize)]
            struct Captured {
                #[serde(flatten)]
                guests: Entry,
                replicas: [Entry; 3],
            }
            print(&answers::document(COMMAND, Captured { guests: Entry::merged([path, control]), replicas }))
        }
    }
}

fn captured(wanted: KubevirtCapture, interrupt: &Interrupt) -> Result<KubevirtLayout> {
    let key = &wanted.ssh_private_key;
    ensure!(key.exists(), "kubevirt ssh private key {} does not exist", key.display());
    let kubectl = Kubectl {
        kubeconfig: wanted.kubeconfig.clone(),
        context: None,
        namespace: wanted.namespace.clone(),
        interrupt: interrupt.clone(),
        deadline: None,
    };
    let guest = |name: String| look_up(&kubectl, &name).map(|addr| KubevirtGuest { addr, name });
    let control = guest(wanted.control_vm)?;
    let [one, two, three] = wanted.replica_vms;
    let layout = KubevirtLayout {
        workspace_root: wanted.workspace,
        kubeconfig_context: current_context(wanted.kubeconfig.as_deref()),
        kubeconfig_path: wanted.kubeconfig,
        namespace: wanted.namespace,
        helper_pod_name: wanted.helper_pod,
        helper_image: wanted.helper_image,
        helper_stage_dir: wanted.helper_stage_dir.into(),
        ssh_private_key_path: wanted.ssh_private_key,
        control,
        replicas: [guest(one)?, guest(two)?, guest(three)?],
        unknown: Default::default(),
    };
    let layout = keeping_unknown(layout);
    layout.validate().map_err(|error| anyhow!("failed to build kubevirt testbed layout: {error}"))?;
    let layout =
        layout.store().map_err(|error| anyhow!("failed to persist kubevirt testbed layout: {error}"))?;
    if let Some(context) = &layout.kubeconfig_context {
        let note = format!(
            "kubectl will be called with context `{}`, the current one, also when that changes; it is `kubeconfig_context` in \
             the layout",
            escaped(context)
        );
        // Whoever sits there is told; what scripts read stays as it is.
        if std::io::stderr().is_terminal() { harness_log::tell(&note) } else { log::info!("{note}") }
    }
    Ok(layout)
}

/// What a newer program wrote into a layout that is there already stays in it.
fn keeping_unknown(layout: KubevirtLayout) -> KubevirtLayout {
    let before = KubevirtLayout::load(&layout.path());
    KubevirtLayout { unknown: before.map(|before| before.unknown).unwrap_or_default(), ..layout }
}

/// Where the control guest is, and where each of the others.
fn guests(layout: &KubevirtLayout) -> (Entry, [Entry; 3]) {
    let control = &layout.control;
    let mut id = 0;
    let replicas = layout.replicas.each_ref().map(|replica| {
        id += 1;
        Entry::new("replica_vm", &*replica.name)
            .with("replica_id", id)
            .with("replica_ip", &*replica.addr.to_string())
    });
    (Entry::new("control_vm", &*control.name).with("control_ip", &*control.addr.to_string()), replicas)
}

/// Asks where a guest is.
fn look_up(kubectl: &Kubectl, name: &str) -> Result<Ipv4Addr> {
    let shown = escaped(name);
    // `kubectl` would take it for something else than a name.
    ensure!(
        !name.is_empty() && !name.starts_with('-'),
        "invalid kubevirt vmi name `{shown}`: expected the name of a virtual machine instance"
    );
    let text = ask_vmi(kubectl, name, "jsonpath={.status.interfaces[0].ipAddress}")?;
    let addr = text.trim();
    // A guest that has both kinds of address may have the other one first.
    if addr.parse::<Ipv6Addr>().is_ok() {
        let all = ask_vmi(kubectl, name, "jsonpath={.status.interfaces[0].ipAddresses}")?;
        let all = all.split(|c: char| c.is_whitespace() || "[],\"".contains(c));
        if let Some(first) = all.filter_map(|word| word.parse().ok()).next() {
            return Ok(first);
        }
    }
    addr.parse().map_err(|error| anyhow!("invalid kubevirt vmi ip for {shown}: {error}"))
}

/// Asks for one property of a guest.
fn ask_vmi(kubectl: &Kubectl, name: &str, path: &str) -> Result<String> {
    let shown = escaped(name);
    let answer = kubectl.call(&["get", "virtualmachineinstances", name, "-o", path], &[], LOOKUP);
    let answer = match answer {
        Err(CallError::Interrupted(interrupted)) => return Err(interrupted.into()),
        answer => answer.map_err(|error| anyhow!("failed to query kubevirt vmi {shown}: {error}"))?,
    };
    if !answer.status.success() {
        bail!("failed to query kubevirt vmi {shown}: {}", answer.failure());
    }
    let text = std::str::from_utf8(&answer.stdout);
    text.map(str::to_owned).map_err(|error| anyhow!("invalid kubevirt vmi ip output for {shown}: {error}"))
}

/// The layout in a workspace.
fn load(workspace: &Path) -> Result<KubevirtLayout> {
    let path = workspace.join(kubevirt_layout::FILE_NAME);
    KubevirtLayout::load(&path).map_err(|error| anyhow!("failed to load kubevirt testbed layout: {error}"))
}

/// The helper pod of a testbed, as it has to be.
fn helper_pod(layout: &KubevirtLayout, interrupt: &Interrupt) -> PodOptions {
    let kubectl = Kubectl {
        kubeconfig: layout.kubeconfig_path.clone(),
        context: layout.kubeconfig_context.clone(),
        namespace: layout.namespace.clone(),
        interrupt: interrupt.clone(),
        deadline: None,
    };
    PodOptions { kubectl, name: layout.helper_pod_name.clone(), image: layout.helper_image.clone() }
}

/// The bytes of a connection to the control guest's SSH server, which has said its first word. What carries them ends with
/// this.
#[derive(Debug)]
struct Tunnel {
    stream: UnixStream,
    call: Running,
    _carrier: Carrier,
}

/// How long something small is waited for that may follow something small, so that both travel as one.
const GATHERING: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000 };

/// What is small: such a piece is followed by another at once, as the end of a request follows the request.
const SMALL: usize = 1024;

/// Carries bytes between the session and `kubectl`.
///
/// Relays let a small packet wait while an earlier one is not acknowledged, and the SSH server acknowledges after some 40 ms what
/// it has no answer to. So what is written in pieces goes out as one.
#[derive(Debug)]
struct Carrier {
    ends: [UnixStream; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Carrier {
    /// Begins to carry, and returns the session's end.
    fn start(far: UnixStream) -> std::io::Result<(UnixStream, Self)> {
        let (stream, near) = UnixStream::pair()?;
        near.set_nonblocking(false)?;
        far.set_nonblocking(false)?;
        let mut carrier = Self { ends: [near.try_clone()?, far.try_clone()?], threads: Vec::new() };
        let (there, back) = ((near.try_clone()?, far.try_clone()?), (far, near));
        let named = |name: &str| Builder::new().name(name.to_owned());
        carrier.threads.push(named("to kubectl").spawn(carried(move || carry(there.0, there.1, gathered)))?);
        carrier.threads.push(named("from kubectl").spawn(carried(move || carry(back.0, back.1, piece)))?);
        Ok((stream, carrier))
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        for end in &self.ends {
            // It may be over already, and then nobody waits for it.
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            // It only carries; that something is missing shows at the ends.
            let _ = thread.join();
        }
    }
}

/// Carries bytes until one side ends, and passes on the end.
fn carry(
    mut from: UnixStream,
    mut to: UnixStream,
    read: impl Fn(&mut UnixStream, &mut [u8]) -> std::io::Result<usize>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match read(&mut from, &mut buffer) {
            Ok(count) if count > 0 && to.write_all(&buffer[..count]).is_ok() => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Reads what has come.
fn piece(from: &mut UnixStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    from.read(buffer)
}

/// Reads what has come; if that is small, with what follows at once.
fn gathered(from: &mut UnixStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    let count = from.read(buffer)?;
    if count == 0 || count > SMALL {
        return Ok(count);
    }
    let mut pipes = [PollFd::new(&*from, PollFlags::IN)];
    let follows = matches!(poll(&mut pipes, Some(&GATHERING)), Ok(ready) if ready > 0);
    // An end that follows is found again by whoever reads next.
    Ok(if follows { count + from.read(&mut buffer[count..]).unwrap_or(0) } else { count })
}

impl Tunnel {
    /// Connects by way of whatever relay the pod has.
    fn open(pod: &HelperPod, control: &KubevirtGuest, deadline: Instant) -> Result<Self> {
        for relay in &RELAYS {
            match Self::open_by(relay, pod, control.addr, deadline)? {
                Ok(tunnel) => return Ok(tunnel),
                Err(said) if is_missing_program(&said) => {
                    log::info!("kubevirt helper pod {} has no {}: {said}", pod.name(), relay.program);
                }
                Err(said) => bail!(
                    "the SSH server of control guest {} at {}:22 does not answer through kubevirt helper pod {}: {}; \
                     check that the guest runs and that pods in its namespace may connect to it",
                    escaped(&control.name),
                    control.addr,
                    pod.name(),
                    said.trim()
                ),
            }
        }
        bail!(
            "kubevirt helper pod {} has no program to connect with: none of nc, socat, ncat; choose another image with \
             capture-kubevirt-layout --helper-image",
            pod.name()
        )
    }

    /// Tries one relay. Fails with what was said about it if there is no connection.
    fn open_by(
        relay: &Relay,
        pod: &HelperPod,
        addr: Ipv4Addr,
        deadline: Instant,
    ) -> Result<Result<Self, String>> {
        let target = pod.name();
        let told = (relay.arguments)(addr);
        let mut words = vec!["exec", "-i", target, "--", relay.program];
        words.extend(told.iter().map(String::as_str));
        let kubectl = pod.kubectl();
        let (far, mut call) = kubectl.open_stream(&words).map_err(|error| match error {
            CallError::Interrupted(interrupted) => interrupted.into(),
            error => anyhow!("failed to run kubevirt remote ssh command: {error}"),
        })?;
        if let Err(said) = Self::wait_for_greeting(&far, &mut call, kubectl, deadline)? {
            return Ok(Err(said));
        }
        let (stream, carrier) = Carrier::start(far).context("failed to carry kubectl's bytes")?;
        Ok(Ok(Self { stream, call, _carrier: carrier }))
    }

    /// Waits until there is something to read, or the call has ended.
    fn wait_for_greeting(
        stream: &UnixStream,
        call: &mut Running,
        kubectl: &Kubectl,
        deadline: Instant,
    ) -> Result<Result<(), String>> {
        let begun = Instant::now();
        let deadline = deadline.min(begun + GREETING);
        let look = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        loop {
            kubectl.interrupt.check()?;
            match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&look)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("failed to wait for kubectl"),
            }
            let waiting = rustix::io::ioctl_fionread(stream).context("failed to look at kubectl's output")?;
            if waiting > 0 {
                return Ok(Ok(()));
            }
            if let Some(status) = call.ended() {
                return Ok(Err(format!("status={status} stderr={}", call.complaint())));
            }
            if Instant::now() >= deadline {
                let said = call.complaint();
                let plugin = kubectl.plugin_hint();
                return Ok(Err(format!("nothing came within {}s{plugin} {said}", begun.elapsed().as_secs())));
            }
        }
    }
}

/// Whether a relay failed because it is not in the pod, rather than because of where it was to connect to.
fn is_missing_program(said: &str) -> bool {
    ["executable file not found", "no such file or directory", "exit code 127", "command not found"]
        .iter()
        .any(|sign| said.to_lowercase().contains(sign))
}

impl Connection for Tunnel {
    fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn complaint(&mut self) -> String {
        self.call.complaint()
    }
}

/// Through the helper pod to the control guest.
struct ThroughPod {
    wanted: PodOptions,
    /// `None` until it was asked for.
    pod: Mutex<Option<HelperPod>>,
    control: KubevirtGuest,
    was_used: AtomicBool,
}

impl ThroughPod {
    fn pod(&self) -> MutexGuard<'_, Option<HelperPod>> {
        self.pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for ThroughPod {
    fn prepare(&self) -> Result<()> {
        let mut pod = self.pod();
        if pod.is_none() {
            *pod = Some(self.wanted.prepare()?);
        }
        Ok(())
    }

    fn connect(&self, deadline: Instant) -> Result<Box<dyn Connection>> {
        self.prepare()?;
        let mut pod = self.pod();
        let pod = pod.as_mut().context("the helper pod is not ready")?;
        // What was carried through it is over; it may be the pod that is.
        if self.was_used.swap(true, Ordering::Relaxed) {
            pod.get_ready_by(deadline)?;
        }
        Ok(Box::new(Tunnel::open(pod, &self.control, deadline)?))
    }
}

/// Opens the KubeVirt testbed whose layout is in `workspace`. Its helper pod is removed when it is dropped.
///
/// # Errors
/// When there is no usable layout, or, if it has to be reached at once, no way to its control guest.
pub(crate) fn open(
    workspace: &Path,
    contact: Contact,
    interrupt: &Interrupt,
) -> Result<Box<dyn ExternalTestbed>> {
    Ok(Box::new(open_guests(workspace, contact, interrupt)?))
}

/// The same for a hunt, which has it for itself.
pub(crate) fn open_for_hunt(
    workspace: &Path,
    hunt: &str,
    interrupt: &Interrupt,
) -> Result<Box<dyn HuntTestbed>> {
    let testbed = open_guests(workspace, Contact::AtOnce, interrupt)?;
    Ok(Box::new(testbed.for_hunt(claim_in(workspace, hunt)?)?))
}

fn open_guests(workspace: &Path, contact: Contact, interrupt: &Interrupt) -> Result<GuestTestbed> {
    let layout = load(workspace)?;
    let wanted = helper_pod(&layout, interrupt);
    let guest = ControlGuest {
        backend: "kubevirt",
        host: layout.control.addr.to_string(),
        private_key: layout.ssh_private_key_path.clone(),
        known_hosts: workspace.join("known_hosts"),
    };
    let label = layout.workspace_root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let cluster = layout.guest_cluster();
    let pod = Mutex::default();
    let transport = ThroughPod { wanted, pod, control: layout.control, was_used: AtomicBool::new(false) };
    if contact != Contact::AtBeginning {
        transport.prepare()?;
    }
    GuestTestbed::open(guest, label, cluster, Box::new(transport), contact, interrupt.clone())
}
