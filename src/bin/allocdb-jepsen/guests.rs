//! Replicas in virtual machines, driven over one SSH session to their control guest that is held for as long as it works.
//!
//! A request to a replica is a connection that the control guest's SSH server makes; what is done to a replica is a call of
//! the control script. What the session's bytes travel through is a [`Road`], and each backend brings its own. The session
//! is never blocking: every wait has an eye on the clock and on interruptions.

use super::common::{escaped, replace_file, temporary_beside};
use super::interrupt::Interrupt;
use super::testbed::{Contact, ExternalTestbed, Port, Verb};
use allocdb_node::api::MAX_MESSAGE_BYTES;
use allocdb_node::cluster::ClusterLayout;
use allocdb_node::ids::ReplicaId;
use allocdb_node::testbed::{GUEST_CONTROL_HOME, GUEST_CONTROL_SCRIPT, GUEST_USER};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, CheckResult, ErrorCode, KnownHostFileKind, Session};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long handshake and authentication may take.
const LOGIN: Duration = Duration::from_secs(20);

/// How long a channel may take to open. A session on which none opens in time is taken for over.
const OPENING: Duration = Duration::from_secs(10);

/// How long one request to a replica may take.
const EXCHANGE: Duration = Duration::from_secs(10);

/// How long a command on one replica may go without a byte in either direction. A restart takes up to five seconds.
const SHORT_SILENCE: Duration = Duration::from_secs(20);

/// The same for a command that packs files before it sends any.
const LONG_SILENCE: Duration = Duration::from_secs(60);

/// How long a command may take at all, however busy; archives may be large.
const COMMAND: Duration = Duration::from_secs(30 * 60);

/// Most bytes that are kept of what a command complains about.
const MAX_COMPLAINT: usize = 4 * 1024;

/// What libssh2 says when it would have to wait, and when a session is over.
const WOULD_WAIT: i32 = -37;
const REFUSED_CHANNEL: i32 = -21;
const REFUSED_AUTHENTICATION: [i32; 2] = [-18, -19];

/// A way to the SSH server of the control guest.
pub(crate) trait Road: Send + Sync {
    /// Connects. What carries the bytes ends when the line is dropped.
    fn connect(&self) -> Result<Box<dyn Line>>;
}

/// A connection to the SSH server of the control guest.
pub(crate) trait Line: Send {
    /// Its bytes.
    fn stream(&self) -> BorrowedFd<'_>;

    /// What was complained about on the way, if anything.
    fn complaint(&mut self) -> String;
}

/// Whom a session is with.
#[derive(Debug)]
pub(crate) struct ControlGuest {
    /// What the testbed is called in messages, such as `kubevirt`.
    pub(crate) backend: &'static str,
    /// Its name and address in the file of known hosts.
    pub(crate) host: String,
    /// Opens it. Never leaves this machine.
    pub(crate) private_key: PathBuf,
    /// Which key the host has; written at the first contact.
    pub(crate) known_hosts: PathBuf,
}

/// See the module.
pub(crate) struct GuestTestbed {
    guest: ControlGuest,
    label: String,
    cluster: ClusterLayout,
    road: Box<dyn Road>,
    interrupt: Interrupt,
    session: Mutex<Option<Held>>,
}

/// A session that is held, and what carries it. The session is dropped first.
struct Held {
    session: Session,
    line: Box<dyn Line>,
}

/// When one operation has to be over, and who may end it before.
struct Patience<'a> {
    deadline: Instant,
    interrupt: &'a Interrupt,
}

/// A failure of the transport, with whether the session can still be used.
struct Failure {
    error: anyhow::Error,
    is_over: bool,
}

impl Patience<'_> {
    fn of(limit: Duration, interrupt: &Interrupt) -> Patience<'_> {
        Patience { deadline: Instant::now() + limit, interrupt }
    }

    /// Waits a moment for the session's bytes.
    fn wait(&self, held: &Held) -> Result<()> {
        self.interrupt.check()?;
        ensure!(Instant::now() < self.deadline, "the control guest did not answer in time");
        let directions = match held.session.block_directions() {
            BlockDirections::Outbound => PollFlags::OUT,
            BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
        };
        let mut pipes = [PollFd::from_borrowed_fd(held.line.stream(), directions)];
        let look = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        match poll(&mut pipes, Some(&look)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("failed to wait for the SSH session"),
        }
    }

    /// Repeats a step of the session until it is done.
    fn until<T>(&self, held: &Held, mut step: impl FnMut() -> Result<T, ssh2::Error>) -> Result<T, Failure> {
        loop {
            match step() {
                Ok(done) => return Ok(done),
                Err(error) if error.code() == ErrorCode::Session(WOULD_WAIT) => {
                    self.wait(held).map_err(|error| Failure { error, is_over: true })?;
                }
                Err(error) => {
                    let is_over = error.code() != ErrorCode::Session(REFUSED_CHANNEL);
                    return Err(Failure { error: error.into(), is_over });
                }
            }
        }
    }
}

impl Held {
    /// Opens a session that is known to be with the right host.
    fn open(guest: &ControlGuest, road: &dyn Road, interrupt: &Interrupt) -> Result<Self> {
        check_key(&guest.private_key)?;
        let line = road.connect()?;
        let mut session = Session::new().context("failed to start an SSH session")?;
        session.set_blocking(false);
        session.set_tcp_stream(line.stream().try_clone_to_owned().context("failed to start an SSH session")?);
        let mut held = Self { session, line };
        let patience = Patience::of(LOGIN, interrupt);
        held.log_in(guest, &patience).map_err(|error| {
            let complaint = held.line.complaint();
            if complaint.is_empty() { error } else { anyhow!("{error:#}; {}", complaint.trim()) }
        })?;
        Ok(held)
    }

    fn log_in(&mut self, guest: &ControlGuest, patience: &Patience<'_>) -> Result<()> {
        let host = &guest.host;
        let mut session = self.session.clone();
        patience.until(self, || session.handshake()).map_err(|failure| {
            failure
                .error
                .context(format!("the SSH handshake with control guest {host} failed; check its sshd"))
        })?;
        check_host(guest, &session)?;
        let key = &guest.private_key;
        let entered = patience.until(self, || session.userauth_pubkey_file(GUEST_USER, None, key, None));
        entered.map_err(|failure| {
            let code = failure.error.downcast_ref::<ssh2::Error>().map(ssh2::Error::code);
            match code {
                Some(ErrorCode::Session(code)) if REFUSED_AUTHENTICATION.contains(&code) => anyhow!(
                    "control guest {host} does not accept the key {} for user {GUEST_USER}; check that its public half is \
                     in that user's authorized_keys there",
                    key.display()
                ),
                _ => failure.error.context(format!(
                    "the key {} does not open control guest {host}; it must be a private key without a passphrase",
                    key.display()
                )),
            }
        })?;
        Ok(())
    }
}

/// The key must be there, and nobody else may read it.
fn check_key(path: &Path) -> Result<()> {
    let found = std::fs::metadata(path);
    let found = found.with_context(|| format!("there is no usable SSH private key at {}", path.display()))?;
    let mode = found.permissions().mode() & 0o777;
    ensure!(
        mode & 0o077 == 0,
        "the SSH private key {0} may be read by others (mode {mode:03o}); run: chmod 600 {0}",
        path.display()
    );
    Ok(())
}

/// Compares the host's key with the one of the first contact, or writes it down if this is the first.
fn check_host(guest: &ControlGuest, session: &Session) -> Result<()> {
    let (host, file) = (&guest.host, &guest.known_hosts);
    let mut known = session.known_hosts().context("failed to read known hosts")?;
    if file.exists() {
        known
            .read_file(file, KnownHostFileKind::OpenSSH)
            .with_context(|| format!("{} is no file of known hosts", file.display()))?;
    }
    let (key, kind) = session.host_key().ok_or_else(|| anyhow!("control guest {host} showed no host key"))?;
    match known.check(host, key) {
        CheckResult::Match => Ok(()),
        CheckResult::NotFound => {
            known.add(host, key, "", kind.into()).context("failed to note the host key")?;
            let lines = known.hosts().context("failed to note the host key")?;
            let lines = lines.iter().map(|host| known.write_string(host, KnownHostFileKind::OpenSSH));
            let lines = lines.collect::<Result<String, _>>().context("failed to note the host key")?;
            replace_file(file, &temporary_beside(file), |out| out.write_all(lines.as_bytes()))?;
            log::warn!(
                "first contact with control guest {host}: its key is in {} from now on",
                file.display()
            );
            Ok(())
        }
        CheckResult::Mismatch => bail!(
            "control guest {host} has another host key than at the first contact; if it was made anew, remove its line from \
             {}, otherwise somebody else answers in its place",
            file.display()
        ),
        CheckResult::Failure => bail!("the host key of control guest {host} could not be compared"),
    }
}

impl GuestTestbed {
    /// A testbed behind a control guest.
    pub(crate) fn open(
        guest: ControlGuest,
        label: String,
        cluster: ClusterLayout,
        road: Box<dyn Road>,
        contact: Contact,
        interrupt: Interrupt,
    ) -> Result<Self> {
        let testbed = Self { guest, label, cluster, road, interrupt, session: Mutex::default() };
        if contact == Contact::AtOnce {
            testbed.connected(&mut testbed.held())?;
        }
        Ok(testbed)
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected<'a>(&self, held: &'a mut Option<Held>) -> Result<&'a mut Held> {
        if held.is_none() {
            *held = Some(Held::open(&self.guest, &*self.road, &self.interrupt)?);
        }
        held.as_mut().ok_or_else(|| anyhow!("there is no SSH session"))
    }

    /// Does something over a channel. A session that turns out to be over before the channel is there is opened again,
    /// once; what was begun is not repeated.
    fn over_channel<T>(
        &self,
        limit: Duration,
        open: impl Fn(&Session) -> Result<Channel, ssh2::Error>,
        work: impl FnOnce(&Held, &Patience<'_>, &mut Channel) -> Result<T>,
    ) -> Result<T> {
        self.interrupt.check()?;
        let mut guard = self.held();
        let was_held = guard.is_some();
        let mut opened = self.try_to_open(&mut guard, &open);
        if was_held && opened.as_ref().is_err_and(|failure| failure.is_over) {
            self.interrupt.check()?;
            log::warn!("the SSH session to control guest {} is over, and is opened again", self.guest.host);
            *guard = None;
            opened = self.try_to_open(&mut guard, &open);
        }
        let mut channel = match opened {
            Ok(channel) => channel,
            Err(failure) => {
                if failure.is_over {
                    *guard = None;
                }
                return Err(failure.error);
            }
        };
        let held = self.connected(&mut guard)?;
        let patience = Patience::of(limit, &self.interrupt);
        let worked = work(held, &patience, &mut channel);
        let closed = worked.is_ok() && patience.until(held, || channel.close()).is_ok();
        drop(channel);
        if !closed {
            // What is under way on it is not known any more.
            *guard = None;
        }
        worked
    }

    fn try_to_open(
        &self,
        held: &mut Option<Held>,
        open: &impl Fn(&Session) -> Result<Channel, ssh2::Error>,
    ) -> Result<Channel, Failure> {
        let held = self.connected(held).map_err(|error| Failure { error, is_over: true })?;
        let session = held.session.clone();
        Patience::of(OPENING, &self.interrupt).until(held, || open(&session))
    }

    /// Runs a command line on the control guest.
    fn execute(
        &self,
        line: &str,
        silence: Duration,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<()> {
        let backend = self.guest.backend;
        let ended = self.over_channel(
            COMMAND,
            |session| session.channel_session(),
            |held, patience, channel| {
                let mut command = Remote {
                    held,
                    patience,
                    channel,
                    silence,
                    heard_at: Instant::now(),
                    complaint: Vec::new(),
                };
                command.run(line, input, output)
            },
        );
        let (status, complaint) =
            ended.with_context(|| format!("failed to run {backend} remote ssh command"))?;
        ensure!(
            status == 0,
            "{backend} remote command failed: status=exit status: {status} stderr={}",
            escaped(&String::from_utf8_lossy(&complaint))
        );
        Ok(())
    }

    fn control_line(verb: &str, replica: ReplicaId) -> String {
        format!("sudo {GUEST_CONTROL_SCRIPT} {verb} {replica}")
    }

    fn address(&self, replica: ReplicaId, port: Port) -> Result<SocketAddr> {
        let replica =
            self.cluster.replica(replica).ok_or_else(|| anyhow!("there is no replica {replica}"))?;
        Ok(match port {
            Port::Control => replica.control_addr,
            Port::Client => replica.client_addr,
            Port::Protocol => replica.protocol_addr,
        })
    }
}

/// A command under way.
struct Remote<'a> {
    held: &'a Held,
    patience: &'a Patience<'a>,
    channel: &'a mut Channel,
    silence: Duration,
    heard_at: Instant,
    complaint: Vec<u8>,
}

impl Remote<'_> {
    /// Feeds it and listens to it until it has ended. Returns its status and what it complained about.
    fn run(&mut self, line: &str, input: &mut dyn Read, output: &mut dyn Write) -> Result<(i32, Vec<u8>)> {
        self.step(|channel| channel.exec(line))?;
        let mut buffer = vec![0; 32 * 1024];
        let mut is_fed = true;
        while is_fed {
            let count =
                input.read(&mut buffer).context("failed to read what a remote command is to be sent")?;
            is_fed = count > 0;
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                match self.channel.write(rest) {
                    Ok(count) => {
                        rest = &rest[count..];
                        self.heard_at = Instant::now();
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        // It may be over before it has taken everything; how it ended says more than that.
                        if self.channel.eof() {
                            rest = &[];
                            is_fed = false;
                        }
                        self.listen(output)?;
                        self.wait()?;
                    }
                    Err(_) if self.channel.eof() => (rest, is_fed) = (&[], false),
                    Err(error) => return Err(error).context("failed to write remote ssh stdin"),
                }
            }
        }
        self.step(Channel::send_eof)?;
        while !self.channel.eof() {
            if !self.listen(output)? {
                self.wait()?;
            }
        }
        self.listen(output)?;
        self.step(Channel::close)?;
        self.step(Channel::wait_close)?;
        let status = self.channel.exit_status().context("the remote command told no status")?;
        Ok((status, std::mem::take(&mut self.complaint)))
    }

    /// Carries out a step that takes no longer than the command may be silent.
    fn step(&mut self, mut step: impl FnMut(&mut Channel) -> Result<(), ssh2::Error>) -> Result<()> {
        let patience = Patience::of(self.silence, self.patience.interrupt);
        let stepped = patience.until(self.held, || step(self.channel));
        stepped.map_err(|failure| failure.error)
    }

    fn wait(&mut self) -> Result<()> {
        ensure!(
            self.heard_at.elapsed() < self.silence,
            "the remote command said nothing for {}s",
            self.silence.as_secs()
        );
        self.patience.wait(self.held)
    }

    /// Takes what has come. Returns whether anything has.
    fn listen(&mut self, output: &mut dyn Write) -> Result<bool> {
        let mut buffer = [0; 32 * 1024];
        let mut heard = false;
        while let Some(count) = read_now(self.channel, &mut buffer)? {
            output.write_all(&buffer[..count]).context("failed to write what a remote command sent")?;
            heard = true;
        }
        while let Some(count) = read_now(&mut self.channel.stderr(), &mut buffer)? {
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

/// What can be read without waiting, if anything.
fn read_now(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(buffer) {
        Ok(0) => Ok(None),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends, closes the sending side, and reads to the end.
fn converse(held: &Held, patience: &Patience<'_>, channel: &mut Channel, request: &[u8]) -> Result<Vec<u8>> {
    let mut reply = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let mut rest = request;
    let mut is_closed = false;
    loop {
        if !rest.is_empty() {
            match channel.write(rest) {
                Ok(count) => {
                    rest = &rest[count..];
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // A replica that is cut off answers without reading and closes.
                Err(_) if channel.eof() => rest = &[],
                Err(error) => return Err(error.into()),
            }
        } else if !is_closed {
            let closed = patience.until(held, || channel.send_eof());
            if let Some(failure) = closed.err().filter(|_| !channel.eof()) {
                return Err(failure.error);
            }
            is_closed = true;
        }
        while let Some(count) = read_now(channel, &mut buffer)? {
            reply.extend_from_slice(&buffer[..count]);
            ensure!(reply.len() <= MAX_MESSAGE_BYTES, "the reply is longer than {MAX_MESSAGE_BYTES} bytes");
        }
        if channel.eof() {
            return Ok(reply);
        }
        patience.wait(held)?;
    }
}

impl ExternalTestbed for GuestTestbed {
    fn backend(&self) -> &'static str {
        self.guest.backend
    }

    fn label(&self) -> String {
        self.label.clone()
    }

    fn exchange(&self, replica: ReplicaId, port: Port, request: &[u8]) -> Result<Vec<u8>> {
        let addr = self.address(replica, port)?;
        let host = addr.ip().to_string();
        self.over_channel(
            EXCHANGE,
            |session| session.channel_direct_tcpip(&host, addr.port(), None),
            |held, patience, channel| converse(held, patience, channel, request),
        )
        .with_context(|| format!("failed to ask replica {replica} on its {port} port {addr}"))
    }

    fn command(&self, verb: Verb, replica: ReplicaId) -> Result<()> {
        self.execute(
            &Self::control_line(&verb.to_string(), replica),
            SHORT_SILENCE,
            &mut io::empty(),
            &mut io::sink(),
        )
    }

    fn command_line(&self, verb: Verb, replica: ReplicaId) -> String {
        format!(
            "{}, on control guest {} as {GUEST_USER}",
            Self::control_line(&verb.to_string(), replica),
            self.guest.host
        )
    }

    fn export_replica(&self, replica: ReplicaId, archive: &mut dyn Write) -> Result<()> {
        self.execute(&Self::control_line("export-replica", replica), LONG_SILENCE, &mut io::empty(), archive)
    }

    fn import_replica(&self, replica: ReplicaId, archive: &mut dyn Read) -> Result<()> {
        self.execute(&Self::control_line("import-replica", replica), LONG_SILENCE, archive, &mut io::sink())
    }

    fn collect_logs(&self, name: &str, archive: &mut dyn Write) -> Result<()> {
        // The name is used as a word of a shell's line, so it has to be one.
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        ensure!(!name.is_empty() && name.chars().all(is_word), "`{name}` cannot be the name of a log folder");
        let parent = format!("{GUEST_CONTROL_HOME}/log-bundles");
        let line = format!(
            "sudo {GUEST_CONTROL_SCRIPT} collect-logs {parent}/{name} >/dev/null && sudo tar czf - -C {parent} {name}"
        );
        self.execute(&line, LONG_SILENCE, &mut io::empty(), archive)
    }
}
