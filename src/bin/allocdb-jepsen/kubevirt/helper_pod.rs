//! The pod through which guests in a Kubernetes cluster are reached: found or made, awaited, shared, removed.
//!
//! A pod that a harness made carries the label [`OWNER`]; one without it was made by somebody else, or is to be kept, and is
//! never removed. Whoever uses a pod with an owner notes on it until when that is so, and renews the note. The last to leave
//! removes the pod, and claims it first, on the very version of the pod on which it saw nobody else: who comes between
//! changes the pod, and the claim fails.

use super::super::common::{escaped, now_millis};
use super::super::harness_log::carried;
use super::super::interrupt::Interrupt;
use super::kubectl::{Answer, CallError, Kubectl};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Exactly `1` keeps a pod that is made here.
const KEEP: &str = "ALLOCDB_KEEP_KUBEVIRT_HELPER";

/// Says that a pod is a helper at all.
const NAME_LABEL: (&str, &str) = ("app.kubernetes.io/name", "allocdb-jepsen-helper");

/// Label of a pod that is removed by its last user; its value says who made it.
const OWNER: &str = "jepsen.allocdb.dev/owner";

/// What annotations of users begin with; a user's name follows. The value is the Unix second until which it counts.
const USER: &str = "user.jepsen.allocdb.dev/";

/// Annotation of a pod that somebody is about to remove: who, and the Unix second until which that is believed.
const CLAIM: &str = "jepsen.allocdb.dev/removed-by";

/// How long a user counts that does not renew its note.
const USE_COUNTS: Duration = Duration::from_secs(600);

/// How often notes are renewed.
const RENEW: Duration = Duration::from_secs(120);

/// How long a claim is believed.
const CLAIM_COUNTS: Duration = Duration::from_secs(60);

/// Deadline of calls that ask or change something small.
const SHORT: Duration = Duration::from_secs(30);

/// Deadline of a removal that is waited for.
const REMOVAL: Duration = Duration::from_secs(90);

/// Deadline of the wait for readiness. `kubectl` gives up before, after 180 s.
const READY: Duration = Duration::from_secs(190);

/// How often a preparation starts over because somebody else was at the pod.
const ATTEMPTS: u32 = 5;

/// How often leaving starts over because others leave at the same time; each time at least one of them is gone.
const ATTEMPTS_TO_LEAVE: u32 = 30;

/// How a helper pod is found, or made if it is not there.
#[derive(Debug, Clone)]
pub(crate) struct PodOptions {
    pub(crate) kubectl: Kubectl,
    pub(crate) name: String,
    pub(crate) image: String,
}

/// A helper pod in use. When it is dropped, the use ends, and with the last use the pod.
#[derive(Debug)]
pub(crate) struct HelperPod {
    options: PodOptions,
    /// What this use is called on the pod.
    user: String,
    /// It has an owner, so that uses are noted on it.
    is_shared: bool,
    renewal: Option<(Sender<()>, JoinHandle<()>)>,
}

/// What is asked of a pod's description.
#[derive(Debug, Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    reason: String,
    message: String,
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    r#type: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

#[derive(Debug, Deserialize)]
struct ContainerStatus {
    #[serde(default)]
    state: BTreeMap<String, Explained>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Explained {
    reason: String,
    message: String,
}

impl Pod {
    fn is_helper(&self) -> bool {
        self.metadata.labels.get(NAME_LABEL.0).is_some_and(|value| value == NAME_LABEL.1)
    }

    fn has_owner(&self) -> bool {
        self.metadata.labels.contains_key(OWNER)
    }

    /// It has ended, and no container of it will start again.
    fn is_dead(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Somebody is about to remove it, or the cluster is.
    fn is_leaving(&self) -> bool {
        self.metadata.deletion_timestamp.is_some() || self.is_claimed()
    }

    fn is_claimed(&self) -> bool {
        let until = self.metadata.annotations.get(CLAIM).and_then(|claim| claim.rsplit_once('.'));
        until.is_some_and(|(_, until)| counts(until))
    }

    /// Whether somebody but `user` uses it.
    fn is_used_by_others(&self, user: &str) -> bool {
        let users = self
            .metadata
            .annotations
            .iter()
            .filter_map(|(key, until)| Some((key.strip_prefix(USER)?, until)));
        users.into_iter().any(|(name, until)| name != user && counts(until))
    }

    /// Why it is not ready, as far as it says.
    fn explanation(&self) -> String {
        let mut parts = vec![format!("phase {}", self.status.phase)];
        let mut add = |reason: &str, message: &str| {
            let text = [reason, message].into_iter().filter(|part| !part.is_empty());
            let text = text.collect::<Vec<_>>().join(": ");
            if !text.is_empty() {
                parts.push(escaped(&text));
            }
        };
        add(&self.status.reason, &self.status.message);
        for condition in self.status.conditions.iter().filter(|condition| condition.status != "True") {
            add(&format!("not {} {}", condition.r#type, condition.reason), &condition.message);
        }
        for state in self.status.container_statuses.iter().flat_map(|container| container.state.values()) {
            add(&state.reason, &state.message);
        }
        parts.join("; ")
    }
}

fn counts(until: &str) -> bool {
    until.parse::<u64>().is_ok_and(|until| until >= now_millis() / 1000)
}

fn in_future(time: Duration) -> u64 {
    now_millis() / 1000 + time.as_secs()
}

/// A name that no other use has, of characters that a label may have.
fn new_user() -> String {
    static USES: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}-{}", std::process::id(), now_millis(), USES.fetch_add(1, Ordering::Relaxed))
}

/// Why a preparation did not succeed.
enum Trouble {
    /// Somebody else was at the pod; it is worth starting over.
    Again(anyhow::Error),
    Final(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

impl PodOptions {
    /// Gets the pod ready and notes that it is in use.
    ///
    /// # Errors
    /// When it cannot be had. A pod that was made on the way is removed again.
    pub(crate) fn prepare(&self) -> Result<HelperPod> {
        let mut pod = HelperPod { options: self.clone(), user: new_user(), is_shared: false, renewal: None };
        pod.get_ready()?;
        Ok(pod)
    }
}

impl HelperPod {
    /// Finds, makes or replaces the pod and waits for it; also when it was lost in the middle.
    pub(crate) fn get_ready(&mut self) -> Result<()> {
        let mut attempt = 1;
        loop {
            match self.try_to_get_ready() {
                Ok(()) => break,
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Again(error)) if attempt == ATTEMPTS => return Err(error),
                Err(Trouble::Again(_)) => attempt += 1,
            }
        }
        if self.is_shared && self.renewal.is_none() {
            self.renewal = Some(renew(self.options.in_its_own_time(), self.user.clone())?);
        }
        Ok(())
    }

    /// The same, given up when the deadline comes.
    pub(crate) fn get_ready_by(&mut self, deadline: Instant) -> Result<()> {
        self.options.kubectl.deadline = Some(deadline);
        let got_ready = self.get_ready();
        self.options.kubectl.deadline = None;
        got_ready
    }

    pub(crate) fn name(&self) -> &str {
        &self.options.name
    }

    /// How it is called in a cluster.
    pub(crate) fn kubectl(&self) -> &Kubectl {
        &self.options.kubectl
    }

    fn try_to_get_ready(&mut self) -> Result<(), Trouble> {
        // Testbeds of one process may share a pod, and are often opened at the same moment.
        static LOOKING: Mutex<()> = Mutex::new(());
        let looking = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.options.query()?;
        if let Some(pod) = &found {
            self.options.ensure_helper(pod)?;
        }
        let usable = match found {
            Some(pod) if pod.is_leaving() => {
                drop(looking);
                self.options.wait_until_gone()?;
                return Err(Trouble::Again(anyhow!("kubevirt helper pod {} is being removed", self.name())));
            }
            Some(pod) if pod.is_dead() => {
                self.replace(&pod)?;
                None
            }
            found => found,
        };
        match usable {
            None => self.make()?,
            Some(pod) => self.is_shared = pod.has_owner(),
        }
        if self.is_shared {
            self.options.note_use(&self.user)?;
        }
        drop(looking);
        self.options.wait_until_ready()?;
        let Some(pod) = self.options.query()? else {
            return Err(Trouble::Again(anyhow!(
                "kubevirt helper pod {} was removed by somebody",
                self.name()
            )));
        };
        self.options.ensure_helper(&pod)?;
        if pod.is_leaving() || pod.is_dead() {
            return Err(Trouble::Again(anyhow!("kubevirt helper pod {} is being removed", self.name())));
        }
        Ok(())
    }

    fn make(&mut self) -> Result<(), Trouble> {
        let keep = std::env::var_os(KEEP).is_some_and(|value| value == "1");
        // From here on the pod may be there, whatever comes back.
        self.is_shared = !keep;
        if !self.options.apply((!keep).then_some(self.user.as_str()))? {
            self.is_shared = false;
            return Err(Trouble::Again(anyhow!(
                "kubevirt helper pod {} was made by somebody else meanwhile",
                self.name()
            )));
        }
        Ok(())
    }

    fn replace(&self, dead: &Pod) -> Result<(), Trouble> {
        if !self.options.claim(dead, &self.user)? {
            return Err(Trouble::Again(anyhow!(
                "kubevirt helper pod {} has ended, and others keep changing it",
                self.name()
            )));
        }
        self.options.delete()?;
        Ok(())
    }

    /// Ends the use; the last one to leave removes the pod.
    fn leave(&mut self) -> Result<()> {
        if let Some((stop, thread)) = self.renewal.take() {
            drop(stop);
            let _ = thread.join();
        }
        if !std::mem::take(&mut self.is_shared) {
            return Ok(());
        }
        // What was begun is put away also when somebody wants the program to end.
        let mut options = self.options.clone();
        options.kubectl.interrupt = Interrupt::default();
        for _ in 0..ATTEMPTS_TO_LEAVE {
            let Some(pod) = options.query()? else { return Ok(()) };
            if !pod.is_helper() || !pod.has_owner() || pod.is_leaving() {
                return Ok(());
            }
            if pod.is_used_by_others(&self.user) {
                // Two that leave at once must not each take the other for somebody who stays.
                if options.forget_use(&pod, &self.user)? {
                    return Ok(());
                }
                continue;
            }
            if options.claim(&pod, &self.user)? {
                return options.delete_at_once();
            }
        }
        bail!("others keep changing it")
    }
}

impl Drop for HelperPod {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            let (name, kubectl) = (&self.options.name, &self.options.kubectl);
            log::warn!(
                "kubevirt helper pod {name} may be left behind: {error:#}; remove it with: {kubectl} delete pod/{name}"
            );
        }
    }
}

/// Renews the note of a use until the sender is dropped.
fn renew(options: PodOptions, user: String) -> Result<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = channel::<()>();
    let work = move || {
        while stopped.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
            // The interruption ends a call that hangs; what ends the use waits for this thread.
            if let Err(error) = options.note_use(&user) {
                log::warn!("the use of kubevirt helper pod {} could not be renewed: {error:#}", options.name);
            }
        }
    };
    let thread = std::thread::Builder::new().name("helper-pod".to_owned()).spawn(carried(work));
    Ok((stop, thread.context("failed to start a thread")?))
}

impl PodOptions {
    fn target(&self) -> String {
        format!("pod/{}", self.name)
    }

    /// The pod as it is, if it is there.
    fn query(&self) -> Result<Option<Pod>> {
        let name = &self.name;
        let answer = self
            .kubectl
            .call(&["get", &self.target(), "-o", "json"], &[], SHORT)
            .map_err(|error| said("failed to query kubevirt helper pod", error))?;
        if !answer.status.success() {
            let is_missing =
                answer.stderr.contains("NotFound") || answer.stderr.to_lowercase().contains("not found");
            ensure!(is_missing, "failed to query kubevirt helper pod {name}: {}", answer.failure());
            return Ok(None);
        }
        // What was answered instead may be anything, so it is not quoted.
        let pod = serde_json::from_slice(&answer.stdout).map_err(|error| {
            anyhow!(
                "invalid helper pod answer for {name}: expected a pod as JSON, found {} bytes that are none (line {}, \
                 column {})",
                answer.stdout.len(),
                error.line(),
                error.column()
            )
        })?;
        Ok(Some(pod))
    }

    fn ensure_helper(&self, pod: &Pod) -> Result<()> {
        let (key, value) = NAME_LABEL;
        ensure!(
            pod.is_helper(),
            "pod {} in namespace {} is no kubevirt helper pod: it has no label {key}={value}; use another name \
             (capture-kubevirt-layout --helper-pod <name>), or remove the pod if nobody needs it",
            escaped(&self.name),
            escaped(&self.kubectl.namespace)
        );
        Ok(())
    }

    /// The same without a common deadline of its calls.
    fn in_its_own_time(&self) -> Self {
        let kubectl = Kubectl { deadline: None, ..self.kubectl.clone() };
        Self { kubectl, ..self.clone() }
    }

    /// What the pod is to be.
    fn manifest(&self, owner: Option<&str>) -> Vec<u8> {
        let mut labels = BTreeMap::from([NAME_LABEL]);
        labels.extend(owner.map(|owner| (OWNER, owner)));
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": self.name, "namespace": self.kubectl.namespace, "labels": labels },
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "helper",
                    "image": self.image,
                    "command": ["/bin/sh", "-lc", "sleep infinity"],
                    "resources": {
                        "requests": { "cpu": "10m", "memory": "16Mi" },
                        "limits": { "cpu": "500m", "memory": "128Mi" }
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "capabilities": { "drop": ["ALL"] },
                        "privileged": false,
                        "seccompProfile": { "type": "RuntimeDefault" }
                    }
                }]
            }
        });
        manifest.to_string().into_bytes()
    }

    /// Makes the pod. Returns whether it was still missing.
    fn apply(&self, owner: Option<&str>) -> Result<bool> {
        let answer = self.kubectl.call(&["apply", "-f", "-"], &self.manifest(owner), SHORT);
        let answer = answer.map_err(|error| match error {
            CallError::Input { .. } => said("failed to write kubevirt helper manifest", error),
            CallError::Output(_) => said("failed to wait for kubevirt helper apply", error),
            _ => said("failed to create kubevirt helper pod", error),
        })?;
        let is_late = answer.stderr.contains("AlreadyExists") || answer.stderr.contains("already exists");
        ensure!(
            answer.status.success() || is_late,
            "failed to apply kubevirt helper pod: {}",
            answer.failure()
        );
        Ok(answer.status.success())
    }

    fn wait_until_ready(&self) -> Result<()> {
        let name = &self.name;
        let arguments = ["wait", &self.target(), "--for=condition=Ready", "--timeout=180s"];
        let answer = self
            .kubectl
            .call(&arguments, &[], READY)
            .map_err(|error| said("failed to wait for kubevirt helper pod", error))?;
        if answer.status.success() {
            return Ok(());
        }
        let now = match self.query() {
            Ok(Some(pod)) => pod.explanation(),
            Ok(None) => "it is gone".to_owned(),
            Err(_) => "how it is now is not known".to_owned(),
        };
        bail!(
            "kubevirt helper pod {name} did not become ready: {}; {now}; see: {} describe {}",
            answer.stderr.trim(),
            self.kubectl,
            self.target()
        )
    }

    /// Waits for the end of a pod that somebody else removes.
    fn wait_until_gone(&self) -> Result<()> {
        let mut deadline = Instant::now() + REMOVAL;
        deadline = self.kubectl.deadline.map_or(deadline, |sooner| sooner.min(deadline));
        while self.query()?.is_some_and(|pod| pod.is_leaving()) {
            ensure!(
                Instant::now() < deadline,
                "kubevirt helper pod {} is being removed and does not go; see: {} describe {}",
                self.name,
                self.kubectl,
                self.target()
            );
            self.kubectl.interrupt.pause(Duration::from_millis(500))?;
        }
        Ok(())
    }

    fn note_use(&self, user: &str) -> Result<()> {
        let note = format!("{USER}{user}={}", in_future(USE_COUNTS));
        let answer = self.annotate(&[&note, "--overwrite"])?;
        ensure!(
            answer.status.success(),
            "failed to note the use of kubevirt helper pod {}: {}",
            self.name,
            answer.failure()
        );
        Ok(())
    }

    /// Takes the note of a use away, provided that nobody changed the pod since it was looked at. Returns whether that is so.
    fn forget_use(&self, pod: &Pod, user: &str) -> Result<bool> {
        self.annotate_unchanged(pod, &[&format!("{USER}{user}-")])
    }

    /// Announces that the pod is about to be removed, provided that nobody changed it since it was looked at. Returns
    /// whether that is so.
    fn claim(&self, pod: &Pod, user: &str) -> Result<bool> {
        let claim = format!("{CLAIM}={user}.{}", in_future(CLAIM_COUNTS));
        self.annotate_unchanged(pod, &[&claim, "--overwrite"])
    }

    fn annotate_unchanged(&self, pod: &Pod, more: &[&str]) -> Result<bool> {
        let version = format!("--resource-version={}", pod.metadata.resource_version);
        let answer = self.annotate(&[more, &[&version]].concat())?;
        let is_late = answer.stderr.contains("Conflict") || answer.stderr.contains("has been modified");
        let is_late = is_late || answer.stderr.contains("NotFound");
        ensure!(
            answer.status.success() || is_late,
            "failed to annotate kubevirt helper pod: {}",
            answer.failure()
        );
        Ok(answer.status.success())
    }

    fn annotate(&self, more: &[&str]) -> Result<Answer> {
        let target = self.target();
        let arguments: Vec<&str> = ["annotate", &target].into_iter().chain(more.iter().copied()).collect();
        let answer = self.kubectl.call(&arguments, &[], SHORT);
        answer.map_err(|error| said("failed to annotate kubevirt helper pod", error))
    }

    fn delete(&self) -> Result<()> {
        let arguments = ["delete", &self.target(), "--ignore-not-found=true", "--wait=true"];
        let answer = self.kubectl.call(&arguments, &[], REMOVAL);
        let answer = answer.map_err(|error| said("failed to delete kubevirt helper pod", error))?;
        ensure!(
            answer.status.success(),
            "failed to delete kubevirt helper pod {}: {}",
            self.name,
            answer.failure()
        );
        Ok(())
    }

    fn delete_at_once(&self) -> Result<()> {
        let arguments = ["delete", &self.target(), "--ignore-not-found=true", "--force", "--grace-period=0"];
        let answer = self.kubectl.call(&arguments, &[], SHORT)?;
        ensure!(answer.status.success(), "{}", answer.failure());
        Ok(())
    }
}

/// An interruption stays one; everything else gets the words of the step that failed.
fn said(step: &str, error: CallError) -> anyhow::Error {
    match error {
        CallError::Interrupted(interrupted) => interrupted.into(),
        error => anyhow!("{step}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(metadata: &serde_json::Value) -> Pod {
        let pod = json!({ "metadata": metadata, "status": { "phase": "Running" } });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_note_counts_until_its_time() {
        let now = now_millis() / 1000;
        for (until, others) in
            [((now + 60).to_string(), true), ((now - 60).to_string(), false), ("soon".to_owned(), false)]
        {
            let pod = pod(&json!({ "resourceVersion": "1", "annotations": { format!("{USER}a"): until } }));
            assert_eq!(pod.is_used_by_others("b"), others, "{until}");
            assert!(!pod.is_used_by_others("a"));
        }
    }

    #[test]
    fn a_pod_that_is_stuck_says_why() {
        let stuck = json!({
            "metadata": { "resourceVersion": "1" },
            "status": {
                "phase": "Pending",
                "conditions": [
                    { "type": "PodScheduled", "status": "True" },
                    { "type": "Ready", "status": "False", "reason": "ContainersNotReady" }
                ],
                "containerStatuses": [
                    { "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no \u{1b}[1mimage" } } }
                ]
            }
        });
        let stuck: Pod = serde_json::from_value(stuck).unwrap();
        assert_eq!(
            stuck.explanation(),
            "phase Pending; not Ready ContainersNotReady; ImagePullBackOff: no \\u{1b}[1mimage"
        );
    }

    #[test]
    fn a_claim_is_believed_for_a_while() {
        let now = now_millis() / 1000;
        for (claim, leaving) in
            [(format!("a.{}", now + 60), true), (format!("a.{}", now - 60), false), ("a".to_owned(), false)]
        {
            let pod = pod(&json!({ "resourceVersion": "1", "annotations": { CLAIM: claim } }));
            assert_eq!(pod.is_leaving(), leaving, "{claim}");
        }
        let going = json!({ "resourceVersion": "1", "deletionTimestamp": "2026-01-01T00:00:00Z" });
        assert!(pod(&going).is_leaving());
    }

    #[test]
    fn the_manifest_keeps_odd_names_in_their_place() {
        let kubectl = Kubectl {
            kubeconfig: None,
            context: None,
            namespace: "a: b".to_owned(),
            interrupt: Interrupt::default(),
            deadline: None,
        };
        let image = "x\"\n  privileged: true".to_owned();
        let options = PodOptions { kubectl, name: "$(p)".to_owned(), image: image.clone() };
        let manifest: serde_json::Value = serde_json::from_slice(&options.manifest(None)).unwrap();
        assert_eq!(manifest["spec"]["containers"][0]["image"], image);
        assert_eq!(manifest["metadata"]["name"], "$(p)");
        assert_eq!(manifest["metadata"]["namespace"], "a: b");
        assert_eq!(manifest["metadata"]["labels"], json!({ NAME_LABEL.0: NAME_LABEL.1 }));
    }
}
