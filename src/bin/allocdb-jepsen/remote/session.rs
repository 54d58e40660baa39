//! One SSH session to a control guest, held open for as long as it is needed: how it comes about, that it is with the right
//! host, that it stays, and that it is opened again when it breaks.
//!
//! What the session's bytes travel through is a [`Transport`], and each backend brings its own. The session is never blocking:
//! every wait has an eye on the clock and on interruptions. Several threads may work on it at once, each on a channel of its
//! own; only opening channels goes one after another. libssh2 cannot give up a channel that it has begun to open, so that a
//! session on which one does not open in time has to go; what is under way on it is finished all the same.

use super::super::harness_log;
use super::super::interrupt::Interrupt;
use super::channel::OwnChannel;
use super::keys::{check_host, check_key};
use allocdb_node::testbed::GUEST_USER;
use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, ErrorCode, Session};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long connecting, handshake and authentication may take together.
const LOGIN: Duration = Duration::from_secs(20);

/// How long a channel may take to open, besides what the way there takes.
const OPENING: Duration = Duration::from_secs(5);

/// So many times to the control guest and back may opening or closing a channel take.
const ROUND_TRIPS: u32 = 4;

/// Pause until a session that the server had no room for is asked for again.
const FULL: Duration = Duration::from_millis(20);

/// Most bytes that are kept of what a login shell says by itself.
const MAX_GREETING: usize = 1024;

/// How long nothing goes over the session before it is tried whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Longest wait between two looks at what has come, alone and where several are at work.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_AMONG_OTHERS: Duration = Duration::from_millis(2);

/// Waits between attempts to reach a control guest that was there before: the first, and the longest.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// What libssh2 says when it would have to wait, when a channel or a request on one is refused, and when a login is.
const WOULD_WAIT: ErrorCode = ErrorCode::Session(-37);
const REFUSED_REQUEST: [ErrorCode; 2] = [ErrorCode::Session(-21), ErrorCode::Session(-22)];
const REFUSED_LOGIN: [ErrorCode; 2] = [ErrorCode::Session(-18), ErrorCode::Session(-19)];

/// What libssh2 says when the connection can no longer be written, has been closed, or can no longer be read.
const LOST_CONNECTION: [ErrorCode; 3] =
    [ErrorCode::Session(-7), ErrorCode::Session(-13), ErrorCode::Session(-43)];

/// What is said first of a session whose connection is gone, whoever notices.
const BROKE: &str = "the SSH session to the control guest broke";

/// A way to the SSH server of the control guest.
pub(crate) trait Transport: Send + Sync {
    /// Gets ready what it leads through, which may take as long as that has to itself.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Connects before the deadline. What carries the bytes ends when the connection is dropped.
    fn connect(&self, deadline: Instant) -> Result<Box<dyn Connection>>;
}

/// A connection to the SSH server of the control guest.
pub(crate) trait Connection: Send {
    /// The socket or pipe that carries its bytes, to be waited for.
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

/// When something has to be over, and who may end it before.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'a> {
    begun: Instant,
    deadline: Instant,
    interrupt: &'a Interrupt,
}

/// What a failure means for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It can be used as before.
    Refused,
    /// The control guest answers, but nothing more can be begun on the session.
    Stuck,
    /// A new session has to be opened.
    Over,
}

/// A failure of the transport.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: anyhow::Error,
    pub(crate) trouble: Trouble,
}

impl<'a> Patience<'a> {
    pub(crate) fn of(limit: Duration, interrupt: &'a Interrupt) -> Self {
        let begun = Instant::now();
        Self { begun, deadline: begun + limit, interrupt }
    }

    /// The same for a part, which has a limit of its own too.
    pub(crate) fn within(self, limit: Duration) -> Self {
        Self { deadline: self.deadline.min(Instant::now() + limit), ..self }
    }

    /// Waits a moment for the session's bytes. Returns whether there are any.
    fn wait(&self, held: &Held) -> Result<bool> {
        self.interrupt.check()?;
        ensure!(Instant::now() < self.deadline, "the control guest did not answer in time");
        let directions = match held.session.block_directions() {
            BlockDirections::Outbound => PollFlags::OUT,
            BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
        };
        let mut pipes = [PollFd::new(&held.stream, directions)];
        // Another thread may have taken this one's bytes out of the stream.
        let look = if held.workers.load(Ordering::Relaxed) > 1 { LOOK_AMONG_OTHERS } else { LOOK };
        let look = Timespec { tv_sec: 0, tv_nsec: i64::from(look.subsec_nanos()) };
        match poll(&mut pipes, Some(&look)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error).context("failed to wait for the SSH session"),
        }
    }

    pub(crate) fn is_left(&self) -> bool {
        self.interrupt.check().is_ok() && Instant::now() < self.deadline
    }

    /// Repeats a step of the session until it is done.
    fn until<T>(&self, held: &Held, mut step: impl FnMut() -> Result<T, ssh2::Error>) -> Result<T, Failure> {
        loop {
            match step() {
                Ok(done) => return Ok(done),
                Err(error) if would_wait(&error) => {
                    self.wait(held).map_err(|error| Failure { error, trouble: Trouble::Over })?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Whether a step of the session is to be repeated when there is something to read or write.
pub(crate) fn would_wait(error: &ssh2::Error) -> bool {
    error.code() == WOULD_WAIT
}

fn failed(error: ssh2::Error) -> Failure {
    let trouble = if REFUSED_REQUEST.contains(&error.code()) { Trouble::Refused } else { Trouble::Over };
    Failure { error: error.into(), trouble }
}

/// The failure of a step on a session that was open, which says so if its connection is gone.
fn broken(failure: Failure) -> Failure {
    let is_lost = |error: &ssh2::Error| LOST_CONNECTION.contains(&error.code());
    match failure.error.downcast_ref().is_some_and(is_lost) {
        true => Failure { error: failure.error.context(BROKE), ..failure },
        false => failure,
    }
}

/// A session that is held, and what carries it. The session is dropped first.
pub(crate) struct Held {
    session: Session,
    stream: OwnedFd,
    connection: Mutex<Box<dyn Connection>>,
    used_at: Mutex<Instant>,
    /// How many work on its channels.
    workers: AtomicUsize,
    /// Held while a command is begun. libssh2 takes what the server says to one that is begun for an answer to any other that waits for
    /// one, and gives that up.
    beginning: Mutex<()>,
    /// What the login shell says on standard output before it runs a command, the beginning of it.
    greeting: OnceLock<String>,
    /// How long the first channel took to open.
    round_trip: OnceLock<Duration>,
}

impl Held {
    /// Opens a session that is known to be with the right host. If it is over at once, it is worth another attempt.
    fn open(
        guest: &ControlGuest,
        transport: &dyn Transport,
        patience: Patience<'_>,
    ) -> Result<Self, Failure> {
        let refused = |error| Failure { error, trouble: Trouble::Refused };
        check_key(&guest.private_key).map_err(refused)?;
        let patience = patience.within(LOGIN);
        let connection = transport.connect(patience.deadline);
        let connection = connection.map_err(|error| Failure { error, trouble: Trouble::Over })?;
        let held = Self::begin(connection).context("failed to start an SSH session").map_err(refused)?;
        held.log_in(guest, patience).map_err(|failure| {
            let complaint = held.complaint();
            let error = failure.error;
            let error = if complaint.is_empty() { error } else { anyhow!("{error:#}; {complaint}") };
            Failure { error, ..failure }
        })?;
        held.ask_for_no_delay(patience)?;
        Ok(held)
    }

    /// Runs a command that does nothing. The usual server lets small packets wait for acknowledgements, some 40 ms each,
    /// until it has been asked for a first command.
    fn ask_for_no_delay(&self, patience: Patience<'_>) -> Result<(), Failure> {
        let run = || {
            let begun = Instant::now();
            let mut channel = self.open_channel(patience, Session::channel_session)?;
            let _ = self.round_trip.set(begun.elapsed());
            patience.until(self, || channel.exec(":"))?;
            let greeting = self.listen(&mut channel, patience)?;
            let _ = self.greeting.set(String::from_utf8_lossy(&greeting).into_owned());
            patience.until(self, || channel.close())
        };
        run().or_else(|failure: Failure| match failure.trouble {
            // It goes without; what needs commands will tell.
            Trouble::Refused => Ok(()),
            _ => Err(failure),
        })
    }

    /// What a command says on standard output until it ends, the beginning of it.
    fn listen(&self, channel: &mut Channel, patience: Patience<'_>) -> Result<Vec<u8>, Failure> {
        let over = |error| Failure { error, trouble: Trouble::Over };
        let (mut said, mut buffer) = (Vec::new(), [0; 1024]);
        while !channel.eof() {
            let mut heard = false;
            while let Some(count) = read_now(channel, &mut buffer).map_err(|error| over(error.into()))? {
                let room = MAX_GREETING.saturating_sub(said.len()).min(count);
                said.extend_from_slice(&buffer[..room]);
                heard = true;
            }
            while read_now(&mut channel.stderr(), &mut buffer).map_err(|error| over(error.into()))?.is_some()
            {
                heard = true;
            }
            if !heard {
                patience.wait(self).map_err(over)?;
            }
        }
        Ok(said)
    }

    /// Whether its login shell says something by itself before it runs a command.
    pub(crate) fn greets(&self) -> bool {
        self.greeting.get().is_some_and(|greeting| !greeting.is_empty())
    }

    /// A limit for something that goes to the control guest and back.
    pub(crate) fn with_way(&self, limit: Duration) -> Duration {
        limit + self.round_trip() * ROUND_TRIPS
    }

    /// How long the way to the control guest and back takes; nothing if that is not known.
    pub(crate) fn round_trip(&self) -> Duration {
        self.round_trip.get().copied().unwrap_or_default()
    }

    fn begin(connection: Box<dyn Connection>) -> Result<Self> {
        let mut session = Session::new()?;
        session.set_blocking(false);
        session.set_tcp_stream(connection.stream().try_clone_to_owned()?);
        let stream = connection.stream().try_clone_to_owned()?;
        let used_at = Mutex::new(Instant::now());
        let connection = Mutex::new(connection);
        let (workers, beginning, greeting, round_trip) = Default::default();
        Ok(Self { session, stream, connection, used_at, workers, beginning, greeting, round_trip })
    }

    fn complaint(&self) -> String {
        lock(&self.connection).complaint().trim().to_owned()
    }

    fn note_use(&self) {
        *lock(&self.used_at) = Instant::now();
    }

    fn is_idle(&self) -> bool {
        self.workers.load(Ordering::Relaxed) == 0 && lock(&self.used_at).elapsed() >= KEEPALIVE
    }

    fn log_in(&self, guest: &ControlGuest, patience: Patience<'_>) -> Result<(), Failure> {
        let host = &guest.host;
        let mut session = self.session.clone();
        patience.until(self, || session.handshake()).map_err(|failure| Failure {
            error: failure
                .error
                .context(format!("the SSH handshake with control guest {host} failed; check that the guest has started and that its sshd serves")),
            trouble: Trouble::Over,
        })?;
        let refused = |error| Failure { error, trouble: Trouble::Refused };
        check_host(host, &guest.known_hosts, &session).map_err(refused)?;
        let key = &guest.private_key;
        let entered = patience.until(self, || session.userauth_pubkey_file(GUEST_USER, None, key, None));
        entered.map_err(|failure| {
            let code = failure.error.downcast_ref::<ssh2::Error>().map(ssh2::Error::code);
            // What the server still asks for, once the key was shown.
            let asked = || session.auth_methods(GUEST_USER).map(str::to_owned);
            let asked = patience.until(self, asked).unwrap_or_default();
            refused(match code {
                Some(code)
                    if REFUSED_LOGIN.contains(&code) && !asked.is_empty() && !asked.contains("publickey") =>
                {
                    anyhow!(
                        "control guest {host} wants more from user {GUEST_USER} than the key {}: it asks for {asked}, which a \
                         program cannot give; let its sshd_config say `AuthenticationMethods publickey` for that user",
                        key.display()
                    )
                }
                Some(code) if REFUSED_LOGIN.contains(&code) => anyhow!(
                    "control guest {host} does not accept the key {} for user {GUEST_USER}; check that its public half is \
                     in that user's authorized_keys there",
                    key.display()
                ),
                _ => failure.error.context(format!(
                    "the key {} does not open control guest {host}; it must be a private key without a passphrase",
                    key.display()
                )),
            })
        })?;
        // The shortest that libssh2 knows; how often it is asked is decided here.
        self.session.set_keepalive(true, 2);
        Ok(())
    }

    /// Asks the server for an answer that means nothing but that it is there.
    pub(crate) fn ask_for_a_sign(&self) {
        // A session that cannot send this has other things on the way, or shows otherwise that it is over.
        let _ = self.session.keepalive_send();
    }

    fn open_channel(
        &self,
        patience: Patience<'_>,
        open: impl Fn(&Session) -> Result<Channel, ssh2::Error>,
    ) -> Result<OwnChannel, Failure> {
        let limit = self.with_way(OPENING);
        let patience = patience.within(limit);
        let begun = Instant::now();
        let (mut is_asked, mut gave_a_sign) = (false, false);
        loop {
            match open(&self.session) {
                Ok(channel) => return Ok(OwnChannel::new(&self.session, channel)),
                Err(error) if would_wait(&error) => {}
                Err(error) => return Err(broken(failed(error))),
            }
            if !is_asked && begun.elapsed() >= limit / 2 {
                self.ask_for_a_sign();
                is_asked = true;
            }
            let waited = patience.wait(self).map_err(|error| match gave_a_sign {
                true => Failure {
                    error: error
                        .context("the control guest answers, but what it was asked to connect to does not"),
                    trouble: Trouble::Stuck,
                },
                false => Failure { error, trouble: Trouble::Over },
            })?;
            gave_a_sign |= waited && is_asked;
        }
    }
}

/// The session to a control guest, and the thread that keeps it alive. It is opened when it is first needed.
pub(crate) struct GuestSession {
    shared: Arc<Shared>,
    keeper: Option<(Sender<()>, JoinHandle<()>)>,
}

struct Shared {
    guest: ControlGuest,
    transport: Box<dyn Transport>,
    interrupt: Interrupt,
    /// Whoever has this opens a channel, or the session.
    current: Mutex<Current>,
    /// What is to be closed when the next channel is opened.
    set_aside: Mutex<Vec<Finished>>,
}

/// A channel that both sides have finished with, and that this side has not closed yet.
struct Finished {
    channel: OwnChannel,
    held: Arc<Held>,
}

/// How it is with the session.
#[derive(Default)]
struct Current {
    held: Option<Arc<Held>>,
    /// It was there when it was last wanted, so that failing to open it again is worth another attempt.
    was_open: bool,
    /// When and why it could not be opened; who waited meanwhile need not find that out again.
    failed: Option<(Instant, String)>,
}

impl GuestSession {
    /// One that is opened as soon as it is needed.
    pub(crate) fn new(
        guest: ControlGuest,
        transport: Box<dyn Transport>,
        interrupt: Interrupt,
    ) -> Result<Self> {
        let (current, set_aside) = Default::default();
        let shared = Shared { guest, transport, interrupt, current, set_aside };
        let shared = Arc::new(shared);
        let (stop, stopped) = channel();
        let kept = shared.clone();
        let keeper = std::thread::Builder::new().name("keepalive".to_owned());
        let keeper = keeper
            .spawn(harness_log::carried(move || kept.keep(&stopped)))
            .context("failed to start a thread")?;
        Ok(Self { shared, keeper: Some((stop, keeper)) })
    }

    /// Opens it, so that what is wrong with the way is said at once.
    pub(crate) fn connect(&self) -> Result<()> {
        let shared = &self.shared;
        shared.transport.prepare()?;
        let connected = shared.connect(&mut lock(&shared.current), self.patience(LOGIN));
        connected.map(|_| ()).map_err(|failure| failure.error)
    }

    /// Takes note that the end is under way, so that ending itself is not interrupted.
    pub(crate) fn go_on(&self) {
        self.shared.interrupt.clear();
    }

    /// Whom it is with.
    pub(crate) fn guest(&self) -> &ControlGuest {
        &self.shared.guest
    }

    /// Patience that begins now.
    pub(crate) fn patience(&self, limit: Duration) -> Patience<'_> {
        Patience::of(limit, &self.shared.interrupt)
    }

    /// Opens a channel. A session that turns out to be over is opened again, once.
    pub(crate) fn open_channel(
        &self,
        patience: Patience<'_>,
        open: impl Fn(&Session) -> Result<Channel, ssh2::Error>,
    ) -> Result<Work, Failure> {
        let mut current = lock(&self.shared.current);
        let was_held = current.held.is_some();
        let opened = self.shared.open_channel(&mut current, patience, &open);
        match opened {
            Err(Failure { error, trouble: Trouble::Over }) if was_held && patience.is_left() => {
                let host = &self.shared.guest.host;
                log::warn!("the SSH session to control guest {host} is over, and is opened again: {error:#}");
                self.shared.open_channel(&mut current, patience, &open)
            }
            opened => opened,
        }
    }

    /// Takes a channel that both sides have finished with, to close it when the next one is opened.
    ///
    /// Nobody answers when a channel is closed. By itself that would be a small packet which is not acknowledged for a while, and
    /// a relay on the way lets the next one wait for that long, some 40 ms. Together with the next one it costs nothing.
    pub(crate) fn set_aside(&self, work: Work) {
        let Work { channel, held, .. } = work;
        lock(&self.shared.set_aside).push(Finished { channel, held });
    }

    /// Opens a channel for a command. A server that has no room for another waits until one of those under way has ended.
    pub(crate) fn open_command(&self, patience: Patience<'_>) -> Result<Work, Failure> {
        let mut is_noted = false;
        loop {
            let failure = match self.open_channel(patience, Session::channel_session) {
                Err(failure) if failure.trouble == Trouble::Refused => failure,
                opened => return opened,
            };
            let host = &self.shared.guest.host;
            if !patience.is_left() {
                let why = format!(
                    "the SSH server of control guest {host} opens no further session; MaxSessions in its sshd_config says how \
                     many it opens at a time"
                );
                return Err(Failure { error: failure.error.context(why), ..failure });
            }
            if !std::mem::replace(&mut is_noted, true) {
                log::info!(
                    "control guest {host} has no room for another session, which waits: {:#}",
                    failure.error
                );
            }
            let over = |error: super::super::interrupt::Interrupted| Failure {
                error: error.into(),
                trouble: Trouble::Over,
            };
            self.shared.interrupt.pause(FULL).map_err(over)?;
        }
    }

    /// Sees to it that nothing more is begun on the session of a channel.
    pub(crate) fn give_up(&self, work: &Work) {
        let mut current = lock(&self.shared.current);
        if current.held.as_ref().is_some_and(|held| Arc::ptr_eq(held, &work.held)) {
            current.held = None;
        }
    }
}

impl Drop for GuestSession {
    fn drop(&mut self) {
        if let Some((stop, keeper)) = self.keeper.take() {
            drop(stop);
            // It only looks; if it has failed nothing is lost.
            let _ = keeper.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Sees to it that there is a session, if need be with several attempts.
    fn connect(&self, current: &mut Current, patience: Patience<'_>) -> Result<Arc<Held>, Failure> {
        let over = |error| Failure { error, trouble: Trouble::Over };
        if let Some(held) = &current.held {
            return Ok(held.clone());
        }
        if let Some((_, why)) = current.failed.take_if(|(at, _)| *at >= patience.begun) {
            current.failed = Some((Instant::now(), why.clone()));
            return Err(over(anyhow!(why)));
        }
        let [mut pause, longest] = BACKOFF;
        loop {
            self.interrupt.check().map_err(|error| over(error.into()))?;
            let failure = match Held::open(&self.guest, &*self.transport, patience) {
                Ok(opened) => {
                    *current = Current { held: Some(Arc::new(opened)), was_open: true, failed: None };
                    return self.connect(current, patience);
                }
                Err(failure) => failure,
            };
            let is_worth_it = failure.trouble == Trouble::Over
                && current.was_open
                && Instant::now() + pause < patience.deadline;
            if !is_worth_it {
                current.was_open = false;
                current.failed = Some((Instant::now(), format!("{:#}", failure.error)));
                return Err(failure);
            }
            log::info!("control guest {} cannot be reached yet: {:#}", self.guest.host, failure.error);
            self.interrupt.pause(pause).map_err(|error| over(error.into()))?;
            pause = (pause * 2).min(longest);
        }
    }

    /// Opens a channel. If nothing more can be begun on the session then, there is none any more.
    fn open_channel(
        &self,
        current: &mut Current,
        patience: Patience<'_>,
        open: &impl Fn(&Session) -> Result<Channel, ssh2::Error>,
    ) -> Result<Work, Failure> {
        let session = self.connect(current, patience)?;
        self.close_set_aside(&session, patience);
        let opened = session.open_channel(patience, open);
        opened.map(|channel| Work::begin(session.clone(), channel)).map_err(|failure| {
            if failure.trouble == Trouble::Refused {
                return failure;
            }
            current.held = None;
            let complaint = session.complaint();
            let error = failure.error;
            let error = if complaint.is_empty() { error } else { anyhow!("{error:#}; {complaint}") };
            Failure { error, ..failure }
        })
    }

    /// Closes what was set aside. What is of an earlier session went with it.
    fn close_set_aside(&self, session: &Arc<Held>, patience: Patience<'_>) {
        let finished = std::mem::take(&mut *lock(&self.set_aside));
        for Finished { mut channel, .. } in
            finished.into_iter().filter(|finished| Arc::ptr_eq(&finished.held, session))
        {
            // One that cannot be closed shows with what is opened next.
            let _ = patience.within(OPENING).until(session, || channel.close());
        }
    }

    /// Keeps the session in use, so that nothing on the way takes it for abandoned, and lets it go when it is over.
    fn keep(&self, stopped: &Receiver<()>) {
        while stopped.recv_timeout(KEEPALIVE) == Err(RecvTimeoutError::Timeout) {
            // Whoever has it uses it.
            let Ok(mut current) = self.current.try_lock() else { continue };
            if !current.held.as_ref().is_some_and(|held| held.is_idle()) {
                continue;
            }
            // What has come, the server's own questions among it, is only read while something is waited for.
            let patience = Patience::of(OPENING, &self.interrupt);
            let tried = self.open_channel(&mut current, patience, &Session::channel_session);
            let tried = tried.and_then(|mut work| work.close(patience));
            if let Err(failure) = tried {
                let (host, error) = (&self.guest.host, failure.error);
                log::warn!("the idle SSH session to control guest {host} is over: {error:#}");
                current.held = None;
            }
        }
    }
}

/// A channel on a session, which stays for as long as somebody works on it.
pub(crate) struct Work {
    pub(crate) channel: OwnChannel,
    pub(crate) held: Arc<Held>,
    _busy: Busy,
}

/// Counts one who works on a session's channels.
struct Busy(Arc<Held>);

impl Work {
    fn begin(held: Arc<Held>, channel: OwnChannel) -> Self {
        held.workers.fetch_add(1, Ordering::Relaxed);
        Self { channel, _busy: Busy(held.clone()), held }
    }

    /// Carries out a step, however often it has to be begun.
    pub(crate) fn until<T>(
        &mut self,
        patience: Patience<'_>,
        mut step: impl FnMut(&mut Channel) -> Result<T, ssh2::Error>,
    ) -> Result<T, Failure> {
        patience.until(&self.held, || step(&mut self.channel)).map_err(broken)
    }

    /// Begins a command.
    pub(crate) fn exec(&mut self, patience: Patience<'_>, line: &str) -> Result<(), Failure> {
        let held = self.held.clone();
        let _alone = lock(&held.beginning);
        self.until(patience, |channel| channel.exec(line))
    }

    /// Waits a moment for the session's bytes.
    pub(crate) fn wait(&self, patience: Patience<'_>) -> Result<()> {
        patience.wait(&self.held).map(|_| ())
    }

    /// Waits until the other side has closed the channel, which has said everything.
    pub(crate) fn wait_until_closed(&mut self, patience: Patience<'_>) -> Result<(), Failure> {
        self.until(patience, Channel::wait_close)
    }

    /// Closes the channel, and waits until the other side has too.
    pub(crate) fn close(&mut self, patience: Patience<'_>) -> Result<(), Failure> {
        self.until(patience, Channel::close)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.note_use();
        self.0.workers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What can be read without waiting, if anything.
pub(crate) fn read_now(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(buffer) {
        Ok(0) => Ok(None),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("{BROKE}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_notices_that_the_connection_is_gone_says_so() {
        let said = |code| {
            let failure = broken(failed(ssh2::Error::new(ErrorCode::Session(code), "as it says")));
            (format!("{:#}", failure.error), failure.trouble)
        };
        for code in [-7, -13, -43] {
            let (error, trouble) = said(code);
            assert_eq!(error, format!("{BROKE}: [Session({code})] as it says"));
            assert_eq!(trouble, Trouble::Over);
        }
        assert_eq!(said(-21), ("[Session(-21)] as it says".to_owned(), Trouble::Refused));
        // A message that cannot be trusted is no connection that is gone.
        assert_eq!(said(-12), ("[Session(-12)] as it says".to_owned(), Trouble::Over));
    }
}
