//! Children of this process that are waited for: each has a deadline, ends when somebody wants the program to end, and has an
//! owner that ends it.
//!
//! What is said to them and by them goes through pipes ([`Conversation`]), which are bounded, or through files ([`listen_to`]),
//! which nobody has to empty and nothing that a child has left behind holds open.

use super::interrupt::{Interrupt, Interrupted};
use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Shortest and longest wait between two looks at the clock, the interruption and a child that says nothing.
const SHORTEST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(20);

/// How long output is waited for once a child has ended; something it started may hold the pipes open.
const AFTER_END: Duration = Duration::from_millis(500);

/// Most bytes that [`listen_to`] keeps of what a program says, of either kind.
const MAX_SAID: u64 = 64 * 1024;

/// A child that ends when this is dropped, with whatever it started if it leads a process group.
#[derive(Debug)]
pub(crate) struct Owned {
    child: Child,
    leads_group: bool,
}

impl Owned {
    /// Starts a child in the group of this process: Ctrl-C on a terminal reaches it too.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.spawn()?, leads_group: false })
    }

    /// Starts a child in a group of its own, so that what it starts ends with it, and so that Ctrl-C on a terminal reaches the
    /// harness alone, which ends things in order.
    pub(crate) fn start_group(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.process_group(0).spawn()?, leads_group: true })
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Whether it has ended. Its number stays its own until it is waited for.
    fn has_ended(&self) -> io::Result<bool> {
        let Some(pid) = self.pid() else { return Ok(true) };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(pid), options) {
            Ok(ended) => Ok(ended.is_some()),
            // Waited for already.
            Err(rustix::io::Errno::CHILD) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends it. To be called before it is waited for.
    fn kill(&mut self) {
        match self.pid() {
            Some(group) if self.leads_group => drop(kill_process_group(group, Signal::KILL)),
            _ => drop(self.child.kill()),
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if matches!(self.has_ended(), Ok(false)) {
            self.kill();
        }
        let _ = self.child.wait();
    }
}

/// What is said to a child through its pipes, and how much of what it says is kept. Streams that are no pipes are left alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conversation<'a> {
    /// Sent as the child takes it; its standard input ends behind it.
    pub(crate) input: &'a [u8],
    /// Bytes of standard output; a child that says more is not listened to any further.
    pub(crate) stdout_limit: usize,
    /// Bytes of standard error; the rest is passed over.
    pub(crate) stderr_limit: usize,
}

impl Conversation<'_> {
    /// Nothing is said, and nothing listened to.
    const SILENT: Self = Self { input: &[], stdout_limit: 0, stderr_limit: 0 };
}

/// How waiting for a child ended. Unless it is with a status, the child goes on until its owner is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Status(ExitStatus),
    /// The deadline came first.
    TooLate,
    /// It said more on standard output than is kept.
    TooLong,
}

/// What a conversation came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) how: How,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Whether the child took all of the input.
    pub(crate) sent: io::Result<()>,
}

/// Why waiting for a child was given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WaitError {
    /// Somebody wants the program to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The system would not tell of the child or its pipes.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Feeds a child and listens to it until it has ended or has to.
pub(crate) fn converse(
    child: &mut Owned,
    said: Conversation<'_>,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Result<Ended, WaitError> {
    let Conversation { mut input, stdout_limit, stderr_limit } = said;
    let mut stdin = child.child.stdin.take();
    let mut stdout = child.child.stdout.take();
    let mut stderr = child.child.stderr.take();
    let pipes = [
        stdin.as_ref().map(|pipe| pipe.as_fd()),
        stdout.as_ref().map(|pipe| pipe.as_fd()),
        stderr.as_ref().map(|pipe| pipe.as_fd()),
    ];
    for pipe in pipes.into_iter().flatten() {
        let flags = fcntl_getfl(pipe).map_err(io::Error::from)?;
        fcntl_setfl(pipe, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
    }
    let mut ended = Ended { how: How::TooLate, stdout: Vec::new(), stderr: Vec::new(), sent: Ok(()) };
    let mut last_look = None;
    let mut look = SHORTEST_LOOK;
    loop {
        interrupt.check()?;
        feed(&mut stdin, &mut input, &mut ended.sent);
        if !listen(&mut stdout, &mut ended.stdout, stdout_limit)? {
            ended.how = How::TooLong;
            return Ok(ended);
        }
        listen(&mut stderr, &mut ended.stderr, stderr_limit)?;
        if child.has_ended()? {
            let until = *last_look.get_or_insert_with(|| Instant::now() + AFTER_END);
            let is_heard_out = stdout.is_none() && stderr.is_none();
            if is_heard_out || Instant::now() >= until {
                // Whoever holds the pipes open was started by it.
                if !is_heard_out {
                    child.kill();
                }
                ended.how = How::Status(child.child.wait()?);
                return Ok(ended);
            }
        } else if Instant::now() >= deadline {
            return Ok(ended);
        }
        let readers = [stdout.as_ref().map(|pipe| pipe.as_fd()), stderr.as_ref().map(|pipe| pipe.as_fd())];
        pause(stdin.as_ref().map(|pipe| pipe.as_fd()), readers, look)?;
        look = (look * 2).min(LONGEST_LOOK);
    }
}

fn feed(stdin: &mut Option<ChildStdin>, input: &mut &[u8], sent: &mut io::Result<()>) {
    while let Some(pipe) = stdin {
        match pipe.write(input) {
            Ok(count) => *input = &input[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                *sent = Err(error);
                *stdin = None;
            }
        }
        if input.is_empty() {
            *stdin = None;
        }
    }
}

/// Adds bytes up to a limit. Returns whether all of them fitted.
pub(crate) fn keep(kept: &mut Vec<u8>, bytes: &[u8], limit: usize) -> bool {
    let room = limit.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
    room == bytes.len()
}

/// Takes what has come through a pipe, which is closed at its end. Returns whether it stayed within the limit.
fn listen<R: Read>(pipe: &mut Option<R>, kept: &mut Vec<u8>, limit: usize) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    let mut fitted = true;
    while let Some(open) = pipe {
        match open.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => fitted &= keep(kept, &buffer[..count], limit),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(fitted)
}

/// Waits until a pipe is ready, or it is time for a look at other things.
fn pause(
    writer: Option<BorrowedFd<'_>>,
    readers: [Option<BorrowedFd<'_>>; 2],
    look: Duration,
) -> io::Result<()> {
    let writer = writer.into_iter().map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::OUT));
    let readers = readers.into_iter().flatten().map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN));
    let mut pipes: Vec<PollFd<'_>> = writer.chain(readers).collect();
    let look = Timespec { tv_sec: 0, tv_nsec: i64::from(look.subsec_nanos()) };
    match poll(&mut pipes, Some(&look)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a program came to, and the beginning of what it said.
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program that is given no input, and listens to it. Ends it when it takes too long or is not wanted any more.
pub(crate) fn listen_to(command: &mut Command, limit: Duration, interrupt: &Interrupt) -> Result<Said> {
    let failed = || format!("failed to run {}", shown(command.get_program()));
    let said = || tempfile::tempfile().with_context(failed);
    let (mut stdout, mut stderr) = (said()?, said()?);
    let out = stdout.try_clone().with_context(failed)?;
    let err = stderr.try_clone().with_context(failed)?;
    let status = run(command.stdout(out).stderr(err), limit, interrupt)?;
    let read = |file: &mut std::fs::File| -> Result<String> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.take(MAX_SAID).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Said { status, stdout: read(&mut stdout)?, stderr: read(&mut stderr)? })
}

/// Runs a program that shares this one's output, unless the command says where it goes.
pub(crate) fn run(command: &mut Command, limit: Duration, interrupt: &Interrupt) -> Result<ExitStatus> {
    let program = shown(command.get_program());
    let mut child =
        Owned::start(command.stdin(Stdio::null())).with_context(|| format!("failed to run {program}"))?;
    match converse(&mut child, Conversation::SILENT, Instant::now() + limit, interrupt) {
        Ok(Ended { how: How::Status(status), .. }) => Ok(status),
        Ok(_) => bail!("{program} did not end within {}s", limit.as_secs()),
        Err(WaitError::Interrupted(interrupted)) => Err(interrupted.into()),
        Err(WaitError::System(error)) => Err(error).with_context(|| format!("failed to wait for {program}")),
    }
}

fn shown(program: &OsStr) -> String {
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}

/// A command line as a person would type it, for messages.
pub(crate) fn line(command: &Command) -> String {
    let program = shown(command.get_program());
    command.get_args().fold(program, |line, word| format!("{line} {}", word.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_child_that_takes_too_long_ends_with_all_it_started() {
        let mut command = shell("echo begun; sleep 1000 & wait");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Owned::start_group(&mut command).unwrap();
        let group = child.pid().unwrap();
        let said = Conversation { input: &[], stdout_limit: 100, stderr_limit: 100 };
        let deadline = Instant::now() + Duration::from_millis(300);
        let ended = converse(&mut child, said, deadline, &Interrupt::default()).unwrap();
        assert_eq!((ended.how, ended.stdout.as_slice()), (How::TooLate, b"begun\n".as_slice()));
        drop(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while rustix::process::test_kill_process_group(group).is_ok() {
            assert!(Instant::now() < deadline, "something of the call goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn one_that_says_too_much_is_not_heard_out() {
        let mut command = shell("yes");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Owned::start_group(&mut command).unwrap();
        let said = Conversation { input: &[], stdout_limit: 10, stderr_limit: 10 };
        let deadline = Instant::now() + Duration::from_secs(60);
        let ended = converse(&mut child, said, deadline, &Interrupt::default()).unwrap();
        assert_eq!((ended.how, ended.stdout.len()), (How::TooLong, 10));
    }

    #[test]
    fn a_program_is_listened_to_until_its_deadline_or_an_interruption() {
        let long = Duration::from_secs(60);
        let said =
            listen_to(&mut shell("echo out; echo err >&2; exit 3"), long, &Interrupt::default()).unwrap();
        assert_eq!((said.status.code(), &*said.stdout, &*said.stderr), (Some(3), "out\n", "err\n"));
        let failed = |script: &str, limit, interrupt: &Interrupt| {
            format!("{:#}", listen_to(&mut shell(script), limit, interrupt).map(|_| ()).unwrap_err())
        };
        let late = failed("exec sleep 1000", Duration::from_millis(100), &Interrupt::default());
        assert_eq!(late, "sh did not end within 0s");
        let interrupt = Interrupt::default();
        interrupt.set();
        assert_eq!(failed("exec sleep 1000", long, &interrupt), "interrupted by SIGINT");
        let absent = listen_to(&mut Command::new("/no/such/program"), long, &Interrupt::default());
        assert!(format!("{:#}", absent.map(|_| ()).unwrap_err()).starts_with("failed to run program: "));
    }
}
