//! Indexed Jobs of Kubernetes without Kubernetes: a manifest as the typed API takes it, and the container's command started as a
//! process for an index, as the pod of that index would.

#![allow(unreachable_pub, reason = "a test file includes it as a private module")]

use crate::support::{BINARY, text};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

/// The text of a manifest that the package has.
pub fn manifest(name: &str) -> String {
    text(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes").join(name))
}

/// The one document of that kind in a manifest, as the typed API takes it. What the types do not know would be lost on the way, so
/// nothing of that kind may be there.
pub fn typed<T: Serialize + DeserializeOwned>(manifest: &str, kind: &str) -> T {
    let documents = serde_yaml_ng::Deserializer::from_str(manifest);
    let documents = documents.map(|document| serde::Deserialize::deserialize(document).unwrap());
    let written: Vec<Value> = documents.filter(|document: &Value| document["kind"] == kind).collect();
    let [written] = &written[..] else { panic!("expected one {kind}, found {}", written.len()) };
    let read: T = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(&serde_json::to_value(&read).unwrap(), written);
    read
}

/// A Job that plays something once for each of its indexes, in a pod of one container.
pub struct IndexedJob {
    pub spec: JobSpec,
}

impl IndexedJob {
    pub fn of(manifest: &str) -> Self {
        let job: Job = typed(manifest, "Job");
        let spec = job.spec.unwrap();
        assert_eq!(spec.completion_mode.as_deref(), Some("Indexed"));
        Self { spec }
    }

    /// How many indexes there are.
    pub fn completions(&self) -> i32 {
        self.spec.completions.unwrap()
    }

    pub fn pod(&self) -> &PodSpec {
        self.spec.template.spec.as_ref().unwrap()
    }

    pub fn container(&self) -> &Container {
        let [container] = &self.pod().containers[..] else { panic!("expected one container") };
        container
    }

    /// The words that the container is started with.
    pub fn words(&self) -> Vec<String> {
        let container = self.container();
        let words = container.command.iter().chain(&container.args);
        words.flatten().cloned().collect()
    }

    /// Gives the container other arguments.
    pub fn set_args(&mut self, args: &[&str]) {
        let pod = self.spec.template.spec.as_mut().unwrap();
        pod.containers[0].args = Some(args.iter().map(|word| (*word).to_owned()).collect());
    }

    /// Where the container sees a volume.
    pub fn mount_path(&self, volume: &str) -> &str {
        let mounts = self.container().volume_mounts.iter().flatten();
        let mount = mounts.clone().find(|mount| mount.name == volume);
        let mount = mount.unwrap_or_else(|| panic!("{volume} is not mounted"));
        assert!(self.pod().volumes.iter().flatten().any(|known| known.name == volume), "no volume {volume}");
        &mount.mount_path
    }

    /// Starts nothing yet: the container's command as the pod of an index has it, with folders in the place of volumes. The program is
    /// found in the path, as in the image.
    pub fn pod_of(&self, index: i32, volumes: &[(&str, &Path)]) -> Command {
        let in_place = |word: String| {
            volumes.iter().fold(word, |word, (volume, folder)| {
                word.replace(self.mount_path(volume), folder.to_str().unwrap())
            })
        };
        let words: Vec<String> = self.words().into_iter().map(in_place).collect();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).env_clear().env("PATH", path());
        for variable in self.container().env.iter().flatten() {
            command.env(&variable.name, variable.value.as_ref().unwrap());
        }
        command.env("JOB_COMPLETION_INDEX", index.to_string());
        command
    }

    /// What the Job does about a pod that ended with this exit code and was not taken away by the cluster.
    pub fn action_on(&self, code: i32) -> &str {
        assert_ne!(code, 0, "it succeeded");
        let rules = self.spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
        let is_meant = |rule: &&k8s_openapi::api::batch::v1::PodFailurePolicyRule| {
            rule.on_exit_codes.as_ref().is_some_and(|exit| match exit.operator.as_str() {
                "In" => exit.values.contains(&code),
                "NotIn" => !exit.values.contains(&code),
                other => panic!("{other} is no operator"),
            })
        };
        rules.clone().find(is_meant).map_or("Count", |rule| &rule.action)
    }
}

/// Where a pod looks for programs.
pub fn path() -> String {
    let folder = Path::new(BINARY).parent().unwrap();
    format!("{}:/usr/bin:/bin", folder.display())
}
