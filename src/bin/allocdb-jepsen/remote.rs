//! Replicas in virtual machines, driven over one SSH session to their control guest that is held for as long as it works.
//!
//! A request to a replica is a connection that the control guest's SSH server makes; what is done to a replica is a call of
//! the control script, whose input and output stream.

#[path = "remote/channel.rs"]
mod channel;
#[path = "remote/exchanges.rs"]
mod exchanges;
#[path = "remote/hunts.rs"]
mod hunts;
#[path = "remote/keys.rs"]
mod keys;
#[path = "remote/marker.rs"]
mod marker;
#[path = "remote/session.rs"]
mod session;

pub(crate) use session::{Connection, ControlGuest, Transport};

use super::common::escaped;
use super::interrupt::Interrupt;
use super::testbed::{
    AlreadyStopped, Contact, ExternalTestbed, Links, Machines, Port, Power, Processes, Reach, ReplicaFiles,
    Verb,
};
use allocdb_node::build_info::sha256;
use allocdb_node::cluster::ClusterLayout;
use allocdb_node::cluster::runner::says_already_stopped;
use allocdb_node::ids::ReplicaId;
use allocdb_node::jepsen::evidence::GuestImage;
use allocdb_node::jepsen::plan::RunSpec;
use allocdb_node::testbed::{GUEST_CONTROL_HOME, GUEST_CONTROL_SCRIPT, GUEST_USER};
use anyhow::{Context as _, Result, anyhow, ensure};
use exchanges::{Exchanges, Waiting};
use hunts::Hunted;
use marker::{Behind, Marker};
use session::{GuestSession, Patience, Work, read_now};
use ssh2::Channel;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long it may take until a command can be given, a new session included.
const BEGINNING: Duration = Duration::from_secs(30);

/// How long a command on one replica may go without a byte in either direction. A restart takes up to five seconds.
const SHORT_SILENCE: Duration = Duration::from_secs(20);

/// The same for a command that packs files before it sends any.
const LONG_SILENCE: Duration = Duration::from_secs(60);

/// The same for collecting logs, which says nothing before the last replica's guest was asked: each of the three may take 10
/// seconds to be reached, a minute to send and some seconds to tell its status. What one of them does not send in its
/// time is missing from the archive; the archive of the others must not be.
const LOGS_SILENCE: Duration = Duration::from_secs(300);

/// After how much silence the control guest is asked for a sign, so that nothing on the way takes the session for abandoned.
const SIGN: Duration = Duration::from_secs(10);

/// How long a command may take at all, however busy; archives may be large.
const COMMAND: Duration = Duration::from_secs(30 * 60);

/// Most bytes that are kept of what a command complains about.
const MAX_COMPLAINT: usize = 4 * 1024;

/// Three replicas in virtual machines, and the control guest through which they are reached.
pub(crate) struct GuestTestbed {
    session: GuestSession,
    exchanges: Exchanges,
    label: String,
    cluster: ClusterLayout,
    /// What the guests were made from, if that is known.
    pub(crate) image: Option<GuestImage>,
    /// How long a control port may say nothing, if not as long as any other.
    control_silence: Option<Duration>,
    /// Switches the guests of replicas off and on, where this machine is theirs.
    pub(crate) power: Option<Box<dyn Power>>,
    /// There while a hunt has the testbed for itself.
    hunted: Option<Hunted>,
}

impl GuestTestbed {
    /// A testbed behind a control guest.
    pub(crate) fn open(
        guest: ControlGuest,
        label: String,
        cluster: ClusterLayout,
        transport: Box<dyn Transport>,
        contact: Contact,
        interrupt: Interrupt,
    ) -> Result<Self> {
        let session = GuestSession::new(guest, transport, interrupt)?;
        if contact == Contact::AtOnce {
            session.connect()?;
        }
        let (exchanges, image) = Default::default();
        Ok(Self {
            session,
            exchanges,
            label,
            cluster,
            image,
            control_silence: None,
            power: None,
            hunted: None,
        })
    }

    /// Runs a command line on the control guest.
    fn execute(
        &self,
        line: &str,
        silence: Duration,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<()> {
        let backend = self.session.guest().backend;
        let ended = self.try_to_execute(line, silence, input, output);
        let (status, complaint) =
            ended.with_context(|| format!("failed to run {backend} remote ssh command"))?;
        if status == 0 {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&complaint);
        let message = format!(
            "{backend} remote command failed: status=exit status: {status} stderr={}",
            escaped(&complaint)
        );
        Err(if says_already_stopped(&complaint) { AlreadyStopped(message).into() } else { anyhow!(message) })
    }

    /// Returns its status and what it complained about. What was begun is not repeated.
    fn try_to_execute(
        &self,
        line: &str,
        silence: Duration,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<(i32, Vec<u8>)> {
        let opened = self.session.open_command(self.session.patience(BEGINNING));
        let mut command = Remote {
            work: opened.map_err(|failure| failure.error)?,
            patience: self.session.patience(COMMAND),
            silence,
            heard_at: Instant::now(),
            asked_at: Instant::now(),
            complaint: Vec::new(),
        };
        let marker = command.work.held.greets().then(Marker::new);
        let line = marker.as_ref().map_or_else(|| line.to_owned(), |marker| marker.before(line));
        let ended = command.run(&line, input, &mut Behind::new(marker.as_ref(), output));
        if ended.is_err() {
            // What is under way on it is not known any more.
            self.session.give_up(&command.work);
        } else {
            self.session.set_aside(command.work);
        }
        ended
    }

    fn control_line(verb: &str, replica: ReplicaId) -> String {
        format!("sudo {GUEST_CONTROL_SCRIPT} {verb} {replica}")
    }

    fn control(&self, verb: Verb, replica: ReplicaId) -> Result<()> {
        let line = Self::control_line(&verb.to_string(), replica);
        self.execute(&line, SHORT_SILENCE, &mut io::empty(), &mut io::sink())
    }

    fn address(&self, replica: ReplicaId, port: Port) -> Result<SocketAddr> {
        let replica =
            self.cluster.replica(replica).ok_or_else(|| anyhow!("there is no replica {replica}"))?;
        Ok(replica.addr(port))
    }
}

/// A command under way.
struct Remote<'a> {
    work: Work,
    patience: Patience<'a>,
    silence: Duration,
    heard_at: Instant,
    asked_at: Instant,
    complaint: Vec<u8>,
}

impl Remote<'_> {
    /// Feeds it and listens to it until it has ended. Returns its status and what it complained about.
    fn run(&mut self, line: &str, input: &mut dyn Read, output: &mut dyn Write) -> Result<(i32, Vec<u8>)> {
        let begun = self.work.exec(self.patience.within(self.silence), line);
        begun.map_err(|failure| failure.error)?;
        let mut buffer = vec![0; 32 * 1024];
        let mut is_fed = true;
        while is_fed {
            let count =
                input.read(&mut buffer).context("failed to read what a remote command is to be sent")?;
            is_fed = count > 0;
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                match self.work.channel.write(rest) {
                    Ok(count) => {
                        rest = &rest[count..];
                        self.heard_at = Instant::now();
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        // It may be over before it has taken everything; how it ended says more than that.
                        if self.work.channel.eof() {
                            rest = &[];
                            is_fed = false;
                        }
                        self.listen(output)?;
                        self.wait()?;
                    }
                    Err(_) if self.work.channel.eof() => (rest, is_fed) = (&[], false),
                    Err(error) => return Err(error).context("failed to write remote ssh stdin"),
                }
            }
        }
        self.step(Channel::send_eof)?;
        while !self.work.channel.eof() {
            if !self.listen(output)? {
                self.wait()?;
            }
        }
        self.listen(output)?;
        let closed = self.work.wait_until_closed(self.patience.within(self.silence));
        closed.map_err(|failure| failure.error)?;
        let status = self.work.channel.exit_status().context("the remote command told no status")?;
        Ok((status, std::mem::take(&mut self.complaint)))
    }

    /// Carries out a step that takes no longer than the command may be silent.
    fn step(&mut self, step: impl FnMut(&mut Channel) -> Result<(), ssh2::Error>) -> Result<()> {
        let stepped = self.work.until(self.patience.within(self.silence), step);
        stepped.map_err(|failure| failure.error)
    }

    fn wait(&mut self) -> Result<()> {
        ensure!(
            self.heard_at.elapsed() < self.silence,
            "the remote command said nothing for {}s",
            self.silence.as_secs()
        );
        if self.heard_at.max(self.asked_at).elapsed() >= SIGN {
            self.work.held.ask_for_a_sign();
            self.asked_at = Instant::now();
        }
        self.work.wait(self.patience)
    }

    /// Takes what has come. Returns whether anything has.
    fn listen(&mut self, output: &mut dyn Write) -> Result<bool> {
        let mut buffer = [0; 32 * 1024];
        let mut heard = false;
        while let Some(count) = read_now(&mut *self.work.channel, &mut buffer)? {
            output.write_all(&buffer[..count]).context("failed to write what a remote command sent")?;
            heard = true;
        }
        while let Some(count) = read_now(&mut self.work.channel.stderr(), &mut buffer)? {
            let room = MAX_COMPLAINT.saturating_sub(self.complaint.len()).min(count);
            self.complaint.extend_from_slice(&buffer[..room]);
            heard = true;
        }
        if heard {
            self.heard_at = Instant::now();
        }
        Ok(heard)
    }
}

impl Reach for GuestTestbed {
    fn backend(&self) -> &'static str {
        self.session.guest().backend
    }

    fn read_lease(&self) -> Duration {
        self.cluster.read_lease()
    }

    fn exchange(&self, replica: ReplicaId, port: Port, request: &[u8]) -> Result<Vec<u8>> {
        let addr = self.address(replica, port)?;
        let silence = self.control_silence.filter(|_| port == Port::Control);
        let reply = self.exchanges.ask(&self.session, addr, request, &Waiting::for_operator(silence));
        let asked = || format!("failed to ask replica {replica} on its {port} port {addr}");
        reply.map_err(|unanswered| unanswered.error).with_context(asked)
    }
}

impl Processes for GuestTestbed {
    fn crash(&self, replica: ReplicaId) -> Result<()> {
        self.control(Verb::Crash, replica)
    }

    fn restart(&self, replica: ReplicaId) -> Result<()> {
        self.control(Verb::Restart, replica)
    }
}

impl Links for GuestTestbed {
    fn isolate(&self, replica: ReplicaId) -> Result<()> {
        self.control(Verb::Isolate, replica)
    }

    fn connect(&self, replica: ReplicaId) -> Result<()> {
        self.control(Verb::Heal, replica)
    }
}

impl ReplicaFiles for GuestTestbed {
    fn export_replica(&self, replica: ReplicaId, archive: &mut dyn Write) -> Result<()> {
        self.execute(&Self::control_line("export-replica", replica), LONG_SILENCE, &mut io::empty(), archive)
    }

    fn import_replica(&self, replica: ReplicaId, archive: &mut dyn Read) -> Result<()> {
        self.execute(&Self::control_line("import-replica", replica), LONG_SILENCE, archive, &mut io::sink())
    }

    fn collect_logs(&self, name: &str, archive: &mut dyn Write) -> Result<Vec<String>> {
        // The name is used as a word of a shell's line, so it has to be one.
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(!name.is_empty() && name.chars().all(is_word), "`{name}` cannot be the name of a log folder");
        let parent = format!("{GUEST_CONTROL_HOME}/log-bundles");
        let line = format!(
            "sudo {GUEST_CONTROL_SCRIPT} collect-logs {parent}/{name} >/dev/null && sudo tar czf - -C {parent} {name}"
        );
        self.execute(&line, LOGS_SILENCE, &mut io::empty(), archive)?;
        Ok(Vec::new())
    }
}

impl Machines for GuestTestbed {
    fn begin(&mut self, _output_root: &Path, _run: &RunSpec) -> Result<()> {
        self.session.connect()
    }

    fn guest_image(&self) -> Option<GuestImage> {
        let image = self.image.clone()?;
        let sha256 = File::open(&image.path).and_then(sha256).ok();
        Some(GuestImage { sha256, ..image })
    }
}

impl ExternalTestbed for GuestTestbed {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn command_line(&self, verb: Verb, replica: ReplicaId) -> String {
        format!(
            "{}, on control guest {} as {GUEST_USER}",
            Self::control_line(&verb.to_string(), replica),
            self.session.guest().host
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collecting_logs_may_be_silent_for_as_long_as_every_guest_may_take() {
        let script = include_str!("../../testbed/guest/control.sh");
        assert!(script.contains("timeout 10 nc ") && script.contains("on 60 \"$id\" \"$line\""));
        let of_one_guest = Duration::from_secs(10 + 60) + Duration::from_secs(5);
        assert!(
            LOGS_SILENCE > 3 * of_one_guest,
            "{LOGS_SILENCE:?} is less than {of_one_guest:?} three times"
        );
    }
}
