//! The KubeVirt backend: guests in a Kubernetes cluster, reached through a helper pod there.
//!
//! One SSH session leads to the control guest. Its bytes travel through `kubectl exec` and a relay in the pod, so the private
//! key stays where it is. What happens over the session is the same as on every testbed in virtual machines.

use super::args::KubevirtCapture;
use super::common::{escaped, print};
use super::guests::{ControlGuest, GuestTestbed, Line, Road};
use super::helper_pod::{HelperPod, Wanted};
use super::interrupt::Interrupt;
use super::kubectl::{CallError, Kubectl, Running};
use super::testbed::{Contact, ExternalTestbed};
use allocdb_node::testbed::KubevirtLayout;
use allocdb_node::testbed::kubevirt_layout::{self, KubevirtGuest};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
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

/// Looks up the guests of a KubeVirt testbed and writes down where they are.
///
/// # Errors
/// When the private key does not exist, a guest has no address, or the layout cannot be written; nothing is written then.
pub(crate) fn capture(wanted: KubevirtCapture, interrupt: &Interrupt) -> Result<()> {
    let key = &wanted.ssh_private_key;
    ensure!(key.exists(), "kubevirt ssh private key {} does not exist", key.display());
    let kubectl = Kubectl {
        kubeconfig: wanted.kubeconfig.clone(),
        namespace: wanted.namespace.clone(),
        interrupt: interrupt.clone(),
        deadline: None,
    };
    ensure!(!wanted.namespace.is_empty(), "invalid kubevirt namespace: it is empty");
    let guest = |name: String| look_up(&kubectl, &name).map(|addr| KubevirtGuest { addr, name });
    let control = guest(wanted.control_vm)?;
    let [one, two, three] = wanted.replica_vms;
    let layout = KubevirtLayout {
        workspace_root: wanted.workspace,
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
    print(&told(&layout))
}

/// What a newer program wrote into a layout that is there already stays in it.
fn keeping_unknown(layout: KubevirtLayout) -> KubevirtLayout {
    let before = KubevirtLayout::load(&layout.path());
    KubevirtLayout { unknown: before.map(|before| before.unknown).unwrap_or_default(), ..layout }
}

fn told(layout: &KubevirtLayout) -> String {
    let control = &layout.control;
    let mut text = format!(
        "kubevirt_layout={}\ncontrol_vm={} control_ip={}\n",
        layout.path().display(),
        control.name,
        control.addr
    );
    for (replica, id) in layout.replicas.iter().zip(1..) {
        text += &format!("replica_vm={} replica_id={id} replica_ip={}\n", replica.name, replica.addr);
    }
    text
}

/// Asks where a guest is.
fn look_up(kubectl: &Kubectl, name: &str) -> Result<Ipv4Addr> {
    let shown = escaped(name);
    // `kubectl` would take it for something else than a name.
    ensure!(
        !name.is_empty() && !name.starts_with('-'),
        "invalid kubevirt vmi name `{shown}`: expected the name of a virtual machine instance"
    );
    let path = "jsonpath={.status.interfaces[0].ipAddress}";
    let answer = kubectl.call(&["get", "virtualmachineinstances", name, "-o", path], &[], LOOKUP);
    let answer = match answer {
        Err(CallError::Interrupted(interrupted)) => return Err(interrupted.into()),
        answer => answer.map_err(|error| anyhow!("failed to query kubevirt vmi {shown}: {error}"))?,
    };
    if !answer.status.success() {
        bail!("failed to query kubevirt vmi {shown}: {}", answer.failure());
    }
    let text = std::str::from_utf8(&answer.stdout)
        .map_err(|error| anyhow!("invalid kubevirt vmi ip output for {shown}: {error}"))?;
    text.trim().parse().map_err(|error| anyhow!("invalid kubevirt vmi ip for {shown}: {error}"))
}

/// The layout in a workspace.
fn load(workspace: &Path) -> Result<KubevirtLayout> {
    let path = workspace.join(kubevirt_layout::FILE_NAME);
    KubevirtLayout::load(&path).map_err(|error| anyhow!("failed to load kubevirt testbed layout: {error}"))
}

/// Gets the helper pod of a testbed ready.
fn helper_pod(layout: &KubevirtLayout, interrupt: &Interrupt) -> Result<HelperPod> {
    let kubectl = Kubectl {
        kubeconfig: layout.kubeconfig_path.clone(),
        namespace: layout.namespace.clone(),
        interrupt: interrupt.clone(),
        deadline: None,
    };
    let wanted = Wanted { kubectl, name: layout.helper_pod_name.clone(), image: layout.helper_image.clone() };
    wanted.prepare()
}

/// The bytes of a connection to the control guest's SSH server, which has said its first word. What carries them ends with
/// this.
#[derive(Debug)]
struct Tunnel {
    stream: UnixStream,
    call: Running,
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
        let (stream, call) = kubectl.open_stream(&words).map_err(|error| match error {
            CallError::Interrupted(interrupted) => interrupted.into(),
            error => anyhow!("failed to run kubevirt remote ssh command: {error}"),
        })?;
        let mut tunnel = Self { stream, call };
        let greeted = tunnel.wait_for_greeting(&kubectl.interrupt, deadline)?;
        Ok(greeted.map(|()| tunnel))
    }

    /// Waits until there is something to read, or the call has ended.
    fn wait_for_greeting(&mut self, interrupt: &Interrupt, deadline: Instant) -> Result<Result<(), String>> {
        let begun = Instant::now();
        let deadline = deadline.min(begun + GREETING);
        let look = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        loop {
            interrupt.check()?;
            let mut stream = [PollFd::new(&self.stream, PollFlags::IN)];
            match poll(&mut stream, Some(&look)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("failed to wait for kubectl"),
            }
            let waiting =
                rustix::io::ioctl_fionread(&self.stream).context("failed to look at kubectl's output")?;
            if waiting > 0 {
                return Ok(Ok(()));
            }
            if let Some(status) = self.call.ended() {
                return Ok(Err(format!("status={status} stderr={}", self.call.complaint())));
            }
            if Instant::now() >= deadline {
                let said = self.call.complaint();
                return Ok(Err(format!("nothing came within {}s {said}", begun.elapsed().as_secs())));
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

impl Line for Tunnel {
    fn stream(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn complaint(&mut self) -> String {
        self.call.complaint()
    }
}

/// Through the helper pod to the control guest.
struct ThroughPod {
    pod: Mutex<HelperPod>,
    control: KubevirtGuest,
    was_used: AtomicBool,
}

impl Road for ThroughPod {
    fn connect(&self, deadline: Instant) -> Result<Box<dyn Line>> {
        let mut pod = self.pod.lock().unwrap_or_else(PoisonError::into_inner);
        // What was carried through it is over; it may be the pod that is.
        if self.was_used.swap(true, Ordering::Relaxed) {
            pod.get_ready_by(deadline)?;
        }
        Ok(Box::new(Tunnel::open(&pod, &self.control, deadline)?))
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
    let layout = load(workspace)?;
    let pod = helper_pod(&layout, interrupt)?;
    let guest = ControlGuest {
        backend: "kubevirt",
        host: layout.control.addr.to_string(),
        private_key: layout.ssh_private_key_path.clone(),
        known_hosts: workspace.join("known_hosts"),
    };
    let label = layout.workspace_root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let cluster = layout.guest_cluster();
    let road = ThroughPod { pod: Mutex::new(pod), control: layout.control, was_used: AtomicBool::new(false) };
    let testbed = GuestTestbed::open(guest, label, cluster, Box::new(road), contact, interrupt.clone())?;
    Ok(Box::new(testbed))
}
