//! Calls of the operator's own `kubectl`, so that their contexts and credential plugins keep working.
//!
//! No shell is involved. Every call has a deadline, ends early on an interruption, and takes its whole process group with
//! it. What it says is bounded, and made harmless before anybody sees it.

#[path = "kubectl/config.rs"]
mod config;

pub(crate) use config::current_context;

use super::super::child::{Conversation, How, Owned, WaitError, converse, keep};
use super::super::common::escaped;
use super::super::harness_log;
use super::super::interrupt::{Interrupt, Interrupted};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Most bytes of an answer: a pod or a guest as JSON is a few kilobytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Most bytes that are kept of what is said on standard error.
const MAX_COMPLAINT: usize = 4 * 1024;

/// A call that takes longer is worth a word where a credential plugin is configured.
const SLOW: Duration = Duration::from_secs(5);

/// Which cluster and namespace calls are about.
#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    /// For `--kubeconfig`; none leaves it to `kubectl`.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// For `--context`; none leaves it to `kubectl`.
    pub(crate) context: Option<String>,
    /// Given to every call with `-n`.
    pub(crate) namespace: String,
    /// Whether to go on at all.
    pub(crate) interrupt: Interrupt,
    /// When every call has to be over, whatever its own limit.
    pub(crate) deadline: Option<Instant>,
}

/// What a call came to.
#[derive(Debug)]
pub(crate) struct Answer {
    /// How the process ended.
    pub(crate) status: ExitStatus,
    /// What it answered, unchanged.
    pub(crate) stdout: Vec<u8>,
    /// What it complained about, harmless.
    pub(crate) stderr: String,
}

impl Answer {
    /// The status and the complaint, as errors quote them.
    pub(crate) fn failure(&self) -> String {
        format!("status={} stderr={}", self.status, self.stderr)
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The program is not there or cannot be run.
    #[error("{error}{}", hint(.error))]
    Start {
        /// As the system says why no process came of it.
        error: io::Error,
    },
    /// What it was to read could not be written, and yet it claims to have succeeded.
    #[error("{error}; {}", .answer.failure())]
    Input {
        /// As the system says why its input could not be written.
        error: io::Error,
        /// Status and output of the process that did not read it.
        answer: Answer,
    },
    /// It took too long.
    #[error(
        "no answer within {}s from `{call}`; try that call by hand: the cluster may be out of reach, or a credential \
         plugin may wait for somebody{}",
        .limit.as_secs(), said(.stderr)
    )]
    TooLate {
        /// The command line.
        call: String,
        /// How long it was waited for.
        limit: Duration,
        /// What it complained about.
        stderr: String,
    },
    /// It said more than anybody wants to know.
    #[error("`{call}` answered with more than {MAX_ANSWER} bytes")]
    TooLong {
        /// The command line.
        call: String,
    },
    /// Somebody wants the program to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Its output could not be read.
    #[error("{0}")]
    Output(#[from] io::Error),
}

impl From<WaitError> for CallError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            WaitError::System(error) => Self::Output(error),
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "; install kubectl 1.31 or later, or put its folder on PATH",
        ErrorKind::PermissionDenied => "; the kubectl on PATH may not be executed",
        _ => "",
    }
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("; it said: {}", stderr.trim()) }
}

impl Kubectl {
    /// The command line as an operator would type it, harmless.
    fn shown(&self, arguments: &[&OsStr]) -> String {
        let line = self.line(arguments);
        let words = line.iter().map(|word| quoted(&word.to_string_lossy()));
        words.fold("kubectl".to_owned(), |line, word| format!("{line} {word}"))
    }

    fn line(&self, arguments: &[&OsStr]) -> Vec<OsString> {
        let kubeconfig =
            self.kubeconfig.iter().flat_map(|path| [OsString::from("--kubeconfig"), path.into()]);
        let namespace = [OsString::from("-n"), OsString::from(&self.namespace)];
        let context = self.context.iter().flat_map(|context| ["--context".into(), context.into()]);
        kubeconfig
            .chain(context)
            .chain(namespace)
            .chain(arguments.iter().map(|word| (*word).to_owned()))
            .collect()
    }

    fn command(&self, arguments: &[&OsStr]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(self.line(arguments));
        command
    }

    /// Makes one call and waits for its end.
    pub(crate) fn call(
        &self,
        arguments: &[&str],
        input: &[u8],
        limit: Duration,
    ) -> Result<Answer, CallError> {
        self.interrupt.check()?;
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let limit = left.map_or(limit, |left| left.min(limit));
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let mut command = self.command(&arguments);
        let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Owned::start_group(&mut command).map_err(|error| CallError::Start { error })?;
        let begun = Instant::now();
        let said = Conversation { input, stdout_limit: MAX_ANSWER, stderr_limit: MAX_COMPLAINT };
        let ended = converse(&mut child, said, begun + limit, &self.interrupt)?;
        self.note_if_slow(begun.elapsed());
        let stderr = harmless(&ended.stderr);
        match ended.how {
            How::Status(status) => concluded(Answer { status, stdout: ended.stdout, stderr }, ended.sent),
            How::TooLate => Err(CallError::TooLate { call: self.shown(&arguments), limit, stderr }),
            How::TooLong => Err(CallError::TooLong { call: self.shown(&arguments) }),
        }
    }

    /// Says once that calls take long, and what makes them.
    fn note_if_slow(&self, took: Duration) {
        static SAID: AtomicBool = AtomicBool::new(false);
        let hint = if took >= SLOW { self.plugin_hint() } else { String::new() };
        if !hint.is_empty() && !SAID.swap(true, Ordering::Relaxed) {
            harness_log::tell(&format!("kubectl took {}s for one call{hint}", took.as_secs()));
        }
    }

    /// What to do about a slow credential plugin, as the end of a sentence; nothing if none is configured.
    pub(crate) fn plugin_hint(&self) -> String {
        let plugin = config::credential_plugin(self.kubeconfig.as_deref());
        plugin.map_or_else(String::new, |plugin| {
            format!(
                "; the configuration of kubectl has the credential plugin `{}`, which every call waits for: call it by hand, and let \
                 it keep what it gets, or the way to the control guest takes as long each time",
                escaped(&plugin)
            )
        })
    }

    /// Starts a call whose standard input and output are a stream that is handed out.
    pub(crate) fn open_stream(&self, arguments: &[&str]) -> Result<(UnixStream, Running), CallError> {
        self.interrupt.check()?;
        let (ours, theirs) = UnixStream::pair()?;
        // A socket holds a bounded number of bytes, so nobody has to read along; more than that only blocks who says it.
        let (complaints, said) = UnixStream::pair()?;
        complaints.set_nonblocking(true)?;
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let mut command = self.command(&arguments);
        let output = OwnedFd::from(theirs.try_clone()?);
        command.stdin(OwnedFd::from(theirs)).stdout(output).stderr(OwnedFd::from(said));
        let child = Owned::start_group(&mut command).map_err(|error| CallError::Start { error })?;
        Ok((ours, Running { child, complaints, heard: Vec::new() }))
    }
}

/// A call that goes on.
#[derive(Debug)]
pub(crate) struct Running {
    child: Owned,
    complaints: UnixStream,
    heard: Vec<u8>,
}

impl Running {
    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.ended()
    }

    /// What it complained about so far, harmless.
    pub(crate) fn complaint(&mut self) -> String {
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = self.complaints.read(&mut buffer) {
            keep(&mut self.heard, &buffer[..count], MAX_COMPLAINT);
        }
        harmless(&self.heard)
    }
}

/// One that fails before it has read everything says itself what is wrong.
fn concluded(answer: Answer, sent: io::Result<()>) -> Result<Answer, CallError> {
    match sent {
        Err(error) if answer.status.success() => Err(CallError::Input { error, answer }),
        _ => Ok(answer),
    }
}

/// A word of a command line, in quotes if a shell would see more than a word in it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", escaped(word).replace('\'', "'\"'\"'"))
}

/// What a program said, without what would steer a terminal and without what would open a door.
fn harmless(said: &[u8]) -> String {
    let text = escaped(&String::from_utf8_lossy(said));
    let mut kept = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        in_key |= line.contains("-----BEGIN");
        if !in_key {
            kept += &without_secrets(line);
        } else if line.contains("-----END") {
            in_key = false;
            kept += "(a key)\n";
        }
    }
    kept
}

/// One line without what follows a word that announces a secret, and without web tokens.
fn without_secrets(line: &str) -> String {
    const ANNOUNCE: [&str; 10] = [
        "bearer",
        "token:",
        "password:",
        "client-key-data:",
        "client-certificate-data:",
        "id-token:",
        "refresh-token:",
        "client-secret:",
        "\"token\":",
        "authorization:",
    ];
    let mut announced = false;
    let word = |word: &str| {
        let bare = word.trim().trim_matches(['"', '\'', ',', '}', '{', ')', '(']);
        let lowercase = word.trim().to_ascii_lowercase();
        let lowercase = lowercase.trim_start_matches(['{', '(']);
        let is_announcement = ANNOUNCE.contains(&lowercase);
        let holds_secret = ["token=", "password=", "secret="].iter().any(|key| lowercase.contains(key));
        let is_secret = (announced && !bare.is_empty() && !is_announcement)
            || holds_secret
            || (bare.starts_with("eyJ") && bare.contains('.'));
        announced = is_announcement || (announced && bare.is_empty());
        let end = &word[word.trim_end().len()..];
        if is_secret { format!("(hidden){end}") } else { word.to_owned() }
    };
    line.split_inclusive([' ', '\t', '\n']).map(word).collect()
}

impl fmt::Display for Kubectl {
    /// Its beginning of every command line, for messages that say what to do by hand.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown(&[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_steers_no_terminal() {
        let said = harmless(b"a\x1b[31mred\x07\nnext\tcolumn \xff\x9b\r");
        assert_eq!(said, "a\\u{1b}[31mred\\u{7}\nnext\tcolumn \u{fffd}\u{fffd}\\r");
    }

    #[test]
    fn what_is_said_opens_no_door() {
        for (said, kept) in [
            ("Unauthorized: Bearer abc.def, sorry\n", "Unauthorized: Bearer (hidden) sorry\n"),
            ("  token: s3cr3t\n  name: x\n", "  token: (hidden)\n  name: x\n"),
            ("{\"token\": \"s3cr3t\"}", "{\"token\": (hidden)"),
            ("GET /x?token=s3cr3t failed", "GET (hidden) failed"),
            ("got eyJhbGciOi.eyJzdWIi.c2ln here", "got (hidden) here"),
            ("-----BEGIN KEY-----\nAAAA\n-----END KEY-----\nafter\n", "(a key)\nafter\n"),
            ("-----BEGIN KEY-----\nAAAA\n", ""),
            ("pods \"x\" not found\n", "pods \"x\" not found\n"),
        ] {
            assert_eq!(harmless(said.as_bytes()), kept);
        }
    }

    #[test]
    fn a_command_line_can_be_typed() {
        let kubectl = Kubectl {
            kubeconfig: Some("/two words/it's".into()),
            context: None,
            namespace: "$(x);".to_owned(),
            interrupt: Interrupt::default(),
            deadline: None,
        };
        let expected = "kubectl --kubeconfig '/two words/it'\"'\"'s' -n '$(x);'";
        assert_eq!(kubectl.to_string(), expected);
    }

    #[test]
    fn what_a_failing_call_says_counts_more_than_that_it_did_not_listen() {
        // More than a pipe holds, so that it cannot all be sent.
        let input = vec![b'x'; 1024 * 1024];
        let concluded = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = Owned::start_group(&mut command).unwrap();
            let said = Conversation { input: &input, stdout_limit: 100, stderr_limit: 100 };
            let deadline = Instant::now() + Duration::from_secs(60);
            let ended = converse(&mut child, said, deadline, &Interrupt::default()).unwrap();
            let How::Status(status) = ended.how else { panic!("it did not end") };
            let stderr = harmless(&ended.stderr);
            concluded(Answer { status, stdout: ended.stdout, stderr }, ended.sent)
        };
        let failed = concluded("echo forbidden >&2; exit 3").unwrap();
        assert_eq!(failed.failure(), "status=exit status: 3 stderr=forbidden\n");
        let CallError::Input { error, .. } = concluded("exit 0").unwrap_err() else { panic!() };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
