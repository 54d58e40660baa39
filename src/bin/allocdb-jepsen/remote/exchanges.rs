//! Requests to replicas over an SSH session: the control guest's server connects, or, where it may not, a relay does that is
//! run there. Several requests may be under way at once, each on a channel of its own.

use super::super::common::escaped;
use super::super::harness_log;
use super::marker::Marker;
use super::session::{Failure, GuestSession, Patience, Trouble, Work, read_now, would_wait};
use allocdb_node::api::MAX_MESSAGE_BYTES;
use anyhow::{Result, anyhow, bail, ensure};
use ssh2::Session;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long everything may take together, a new session included.
const EXCHANGE: Duration = Duration::from_secs(30);

/// How long a replica may say nothing.
const ANSWER: Duration = Duration::from_secs(10);

/// How long it may take to find out why a connection fails, and how long that counts.
const EXPLAINING: Duration = Duration::from_secs(5);
const EXPLAINED_FOR: Duration = Duration::from_secs(2);

/// How long a channel that is given up may take to close.
const CLOSING: Duration = Duration::from_secs(5);

/// How often a request is sent to a replica that says each time that it did not come to read it.
const SENDINGS: u32 = 8;

/// A replica waits half a second for a request. Where the way there and back takes longer than this, a request that follows its
/// connection may come too late each time.
const SLOW_WAY: Duration = Duration::from_millis(200);

/// Most bytes that are kept of what a relay complains about.
const MAX_COMPLAINT: usize = 1024;

/// What libssh2 says when the server forbids connections, or knows none.
const FORBIDDEN: [&str; 2] = ["administratively prohibited", "unknown channel type"];

/// How connections are made on a control guest; what was found out once holds for as long as it is driven.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    forwarding_is_forbidden: AtomicBool,
    /// Requests come too late when they follow their connections, so that they have to be there before.
    way_is_slow: AtomicBool,
    /// Hosts that may not even refuse a connection: nobody else waits for one to them.
    silent: Mutex<BTreeSet<IpAddr>>,
    /// Why connections to an address fail, and when that was found out.
    explained: Mutex<BTreeMap<SocketAddr, (Instant, String)>>,
}

/// How long an answer is waited for, and by whom.
pub(crate) struct Waiting<'a> {
    /// How long a replica may say nothing.
    pub(crate) silence: Duration,
    /// Whether somebody still wants the answer.
    pub(crate) is_wanted: &'a dyn Fn() -> bool,
    /// Whether it is worth a command on the control guest to find out why a connection fails.
    pub(crate) is_explained: bool,
}

impl Waiting<'_> {
    /// For an operator, who wants every answer and every reason.
    pub(crate) fn for_operator(silence: Option<Duration>) -> Self {
        Self { silence: silence.unwrap_or(ANSWER), is_wanted: &|| true, is_explained: true }
    }
}

/// Why there is no answer, and whether it is certain that the replica was sent nothing.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) error: anyhow::Error,
    pub(crate) is_unsent: bool,
}

impl Exchanges {
    /// Sends a request, closes the sending side, and reads the reply to its end. Several may do so at once.
    pub(crate) fn ask(
        &self,
        session: &GuestSession,
        addr: SocketAddr,
        request: &[u8],
        waiting: &Waiting<'_>,
    ) -> Result<Vec<u8>, Unanswered> {
        let patience = session.patience(EXCHANGE);
        let mut sending = 1;
        loop {
            let (reply, round_trip) = self.ask_once(session, addr, request, patience, waiting)?;
            if request.is_empty() || !was_not_read(&reply) || sending == SENDINGS || !patience.is_left() {
                return Ok(reply);
            }
            log::info!("what was sent to {addr} came too late to be read, and is sent again");
            if round_trip >= SLOW_WAY {
                self.note_that_way_is_slow(session, round_trip);
            }
            sending += 1;
        }
    }

    /// Returns the reply, and how long the way to the control guest and back takes.
    fn ask_once(
        &self,
        session: &GuestSession,
        addr: SocketAddr,
        request: &[u8],
        patience: Patience<'_>,
        waiting: &Waiting<'_>,
    ) -> Result<(Vec<u8>, Duration), Unanswered> {
        let begun = self.begin(session, addr, request, patience, waiting.is_explained);
        let mut exchange = begun.map_err(|failure| Unanswered { error: failure.error, is_unsent: true })?;
        let round_trip = exchange.work.held.round_trip();
        let closing = patience.within(exchange.work.held.with_way(CLOSING));
        let heard_out = exchange.hear_out(patience, waiting);
        let is_finished = heard_out.is_ok() && exchange.work.wait_until_closed(closing).is_ok();
        let is_unsent = exchange.is_unsent();
        let unanswered = |error| Unanswered { error, is_unsent };
        if is_finished {
            let reply = exchange.reply();
            session.set_aside(exchange.work);
            return Ok((reply.map_err(unanswered)?, round_trip));
        }
        // What is under way on a channel that does not close is not known any more.
        if exchange.work.close(patience.within(exchange.work.held.with_way(CLOSING))).is_err() {
            session.give_up(&exchange.work);
        }
        Ok((heard_out.and_then(|()| exchange.reply()).map_err(unanswered)?, round_trip))
    }

    fn begin<'a>(
        &self,
        session: &GuestSession,
        addr: SocketAddr,
        request: &'a [u8],
        patience: Patience<'_>,
        is_explained: bool,
    ) -> Result<Exchange<'a>, Failure> {
        let (host, port) = (addr.ip().to_string(), addr.port());
        let goes_by_relay = [&self.way_is_slow, &self.forwarding_is_forbidden];
        let is_silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner).contains(&addr.ip());
        if !is_silent && !goes_by_relay.into_iter().any(|found| found.load(Ordering::Relaxed)) {
            let open = |session: &Session| session.channel_direct_tcpip(&host, port, None);
            match session.open_channel(patience, open) {
                Ok(work) => return Ok(Exchange::new(work, request, false)),
                Err(failure) if is_forbidden(&failure) => self.note_that_it_is_forbidden(session),
                Err(failure) if failure.trouble == Trouble::Refused && is_explained => {
                    return Err(match self.explanation(session, addr, patience) {
                        Some(why) => Failure { error: anyhow!("{why}; {:#}", failure.error), ..failure },
                        None => failure,
                    });
                }
                Err(failure) => return Err(failure),
            }
        }
        self.begin_relayed(session, addr, request, patience)
    }

    fn begin_relayed<'a>(
        &self,
        session: &GuestSession,
        addr: SocketAddr,
        request: &'a [u8],
        patience: Patience<'_>,
    ) -> Result<Exchange<'a>, Failure> {
        let mut work = session.open_command(patience)?;
        let marker = work.held.greets().then(Marker::new);
        let mut line = relay_line(addr);
        if self.way_is_slow.load(Ordering::Relaxed) {
            line = format!("{WHOLE_FIRST}; {line}");
        }
        if let Some(marker) = &marker {
            line = marker.before(&line);
        }
        work.exec(patience.within(ANSWER), &line)?;
        Ok(Exchange { marker, ..Exchange::new(work, request, true) })
    }

    /// Takes note whether connections to a host may get no answer of any kind. While the server waits for one it opens no other channel,
    /// so that requests to such a host go through a relay.
    pub(crate) fn set_silent(&self, host: IpAddr, is_silent: bool) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if is_silent {
            silent.insert(host)
        } else {
            silent.remove(&host)
        };
    }

    /// Why the control guest cannot connect to an address. The server knows, but libssh2 does not pass it on; a relay says it.
    fn explanation(
        &self,
        session: &GuestSession,
        addr: SocketAddr,
        patience: Patience<'_>,
    ) -> Option<String> {
        let known = self.explained.lock().unwrap_or_else(PoisonError::into_inner).get(&addr).cloned();
        if let Some((_, why)) = known.filter(|(at, _)| at.elapsed() < EXPLAINED_FOR) {
            return Some(why);
        }
        let patience = patience.within(EXPLAINING);
        let mut exchange = self.begin_relayed(session, addr, &[], patience).ok()?;
        let heard_out = exchange
            .hear_out(patience, &Waiting::for_operator(None))
            .map(|()| exchange.work.wait_until_closed(patience).is_ok());
        let why = reason_in(&String::from_utf8_lossy(&exchange.complaint));
        match heard_out {
            Ok(true) => session.set_aside(exchange.work),
            _ if exchange.work.close(session.patience(CLOSING)).is_err() => session.give_up(&exchange.work),
            _ => {}
        }
        let why = why?;
        let explained = &mut self.explained.lock().unwrap_or_else(PoisonError::into_inner);
        explained.insert(addr, (Instant::now(), why.clone()));
        Some(why)
    }

    /// From now on whole requests are brought to the control guest before it connects.
    fn note_that_way_is_slow(&self, session: &GuestSession, round_trip: Duration) {
        if !self.way_is_slow.swap(true, Ordering::Relaxed) {
            log::info!(
                "the way to control guest {} and back takes {} ms, so that each request is brought there before a replica is \
                 connected to",
                session.guest().host,
                round_trip.as_millis()
            );
        }
    }

    fn note_that_it_is_forbidden(&self, session: &GuestSession) {
        if !self.forwarding_is_forbidden.swap(true, Ordering::Relaxed) {
            harness_log::tell(&format!(
                "the SSH server of control guest {} forbids TCP forwarding, so that every request to a replica goes through \
                 a relay that is started there for it; AllowTcpForwarding in its sshd_config would spare that",
                session.guest().host
            ));
        }
    }
}

/// What the system says when there is nobody to connect to.
const UNCONNECTED: [&str; 4] =
    ["Connection refused", "No route to host", "Host is unreachable", "Network is unreachable"];

/// The system's sentence in what a relay complains about.
fn reason_in(complaint: &str) -> Option<String> {
    let others = ["Connection timed out", "Connection reset by peer", "timed out"];
    let mut sentences = UNCONNECTED.into_iter().chain(others);
    let complaint = complaint.to_lowercase();
    sentences.find(|sentence| complaint.contains(&sentence.to_lowercase())).map(str::to_owned)
}

/// Takes the whole request before what follows connects.
const WHOLE_FIRST: &str = "f=$(mktemp) && cat >\"$f\" && exec <\"$f\" && rm -f \"$f\" || exit 1";

/// Whether a replica says that no whole request came before it lost patience. What was not read was not executed, so that it
/// may be sent again.
fn was_not_read(reply: &[u8]) -> bool {
    let said = reply.strip_prefix(b"status=error\nmessage=failed to read ").unwrap_or_default();
    ["client", "control", "protocol"]
        .iter()
        .any(|port| said.starts_with(format!("{port} request: ").as_bytes()))
}

fn is_forbidden(failure: &Failure) -> bool {
    let said = failure.error.to_string();
    failure.trouble == Trouble::Refused && FORBIDDEN.iter().any(|sign| said.contains(sign))
}

/// Runs whatever the control guest has that connects, passes on the end of its input, and waits for the end of the reply.
/// Of programs called `nc` some pass on the end by themselves, and the others have a flag for it.
fn relay_line(addr: SocketAddr) -> String {
    let (host, port) = (addr.ip(), addr.port());
    let limit = ANSWER.as_secs();
    let python = "import socket,sys; s=socket.create_connection((sys.argv[1],int(sys.argv[2])),float(sys.argv[3])); \
                  s.sendall(sys.stdin.buffer.read()); s.shutdown(socket.SHUT_WR); \
                  [sys.stdout.buffer.write(b) for b in iter(lambda: s.recv(65536), bytes())]";
    format!(
        "has() {{ command -v \"$1\" >/dev/null 2>&1; }}; \
         if has socat; then exec socat -t {limit} - TCP:{host}:{port},connect-timeout={limit}; \
         elif has ncat; then exec ncat -w {limit} {host} {port}; \
         elif has nc; then if nc -h 2>&1 | grep -q -e '-N'; then exec nc -N -w {limit} {host} {port}; else exec nc -w {limit} {host} {port}; fi; \
         elif has python3; then exec python3 -c '{python}' {host} {port} {limit}; \
         else echo 'the control guest has none of socat, ncat, nc and python3' >&2; exit 127; fi"
    )
}

/// One request under way.
struct Exchange<'a> {
    work: Work,
    is_relayed: bool,
    /// Where the reply begins, if not at the beginning.
    marker: Option<Marker>,
    rest: &'a [u8],
    /// Bytes of the request that the session took.
    taken: usize,
    is_closed: bool,
    reply: Vec<u8>,
    complaint: Vec<u8>,
    heard_at: Instant,
}

impl<'a> Exchange<'a> {
    fn new(work: Work, request: &'a [u8], is_relayed: bool) -> Self {
        Self {
            work,
            is_relayed,
            marker: None,
            rest: request,
            taken: 0,
            is_closed: false,
            reply: Vec::new(),
            complaint: Vec::new(),
            heard_at: Instant::now(),
        }
    }

    /// Goes on until the reply has ended.
    fn hear_out(&mut self, patience: Patience<'_>, waiting: &Waiting<'_>) -> Result<()> {
        loop {
            self.send()?;
            if self.listen()? {
                return Ok(());
            }
            let silence = waiting.silence;
            ensure!(self.heard_at.elapsed() < silence, "no answer within {}s", silence.as_secs());
            ensure!((waiting.is_wanted)(), "given up");
            self.work.wait(patience)?;
        }
    }

    /// Sends what can be sent without waiting.
    fn send(&mut self) -> Result<()> {
        let channel = &mut self.work.channel;
        while !self.rest.is_empty() {
            match channel.write(self.rest) {
                Ok(count) => {
                    self.rest = &self.rest[count..];
                    self.taken += count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // A replica that is cut off answers without reading and closes.
                Err(_) if channel.eof() => self.rest = &[],
                Err(error) => return Err(error.into()),
            }
        }
        if !self.is_closed {
            match channel.send_eof() {
                Ok(()) => self.is_closed = true,
                Err(error) if would_wait(&error) => {}
                Err(_) if channel.eof() => self.is_closed = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether nothing of the request has left this machine, or a relay says that it could not connect.
    fn is_unsent(&self) -> bool {
        let reason = reason_in(&String::from_utf8_lossy(&self.complaint));
        let is_unconnected = reason.is_some_and(|reason| UNCONNECTED.contains(&&*reason));
        self.taken == 0 || (self.is_relayed && self.reply.is_empty() && is_unconnected)
    }

    /// Takes what has come. Returns whether that was all.
    fn listen(&mut self) -> Result<bool> {
        let channel = &mut self.work.channel;
        let mut buffer = [0; 16 * 1024];
        while let Some(count) = read_now(&mut **channel, &mut buffer)? {
            self.reply.extend_from_slice(&buffer[..count]);
            self.heard_at = Instant::now();
            let length = self.reply.len();
            ensure!(length <= MAX_MESSAGE_BYTES, "the reply is longer than {MAX_MESSAGE_BYTES} bytes");
        }
        while self.is_relayed {
            let Some(count) = read_now(&mut channel.stderr(), &mut buffer)? else { break };
            let room = MAX_COMPLAINT.saturating_sub(self.complaint.len()).min(count);
            self.complaint.extend_from_slice(&buffer[..room]);
        }
        Ok(channel.eof())
    }

    /// What it came to, once the reply has ended and the channel is closed.
    fn reply(&mut self) -> Result<Vec<u8>> {
        if let Some(marker) = self.marker.take() {
            self.reply = marker.behind(&self.reply).unwrap_or_default().to_vec();
        }
        let status = if self.is_relayed { self.work.channel.exit_status()? } else { 0 };
        // A connection that breaks after the reply has begun ends it, as it does without a relay.
        if status != 0 && self.reply.is_empty() {
            let said = escaped(&String::from_utf8_lossy(&self.complaint));
            bail!(
                "the relay on the control guest failed: status=exit status: {status} stderr={}",
                said.trim()
            );
        }
        Ok(std::mem::take(&mut self.reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::{Shutdown, TcpListener};
    use std::process::{Command, Stdio};

    /// Where a program is, if it is installed.
    fn path_of(program: &str) -> Option<String> {
        let look = match program {
            // What is on PATH may be a script that chooses one.
            "python3" => "python3 -c 'import sys; print(sys.executable)'",
            _ => "command -v \"$0\"",
        };
        let found = Command::new("sh").args(["-c", look, program]).stderr(Stdio::null()).output().unwrap();
        let path = String::from_utf8(found.stdout).unwrap().trim().to_owned();
        (!path.is_empty()).then_some(path)
    }

    /// What the relay line comes to where some programs are there, each by its name and its path.
    fn relayed(programs: &[(&str, &str)], addr: SocketAddr, request: &[u8]) -> std::process::Output {
        let folder = tempfile::tempdir().unwrap();
        let grep = path_of("grep").unwrap();
        for (name, path) in [("grep", grep.as_str())].iter().chain(programs) {
            std::os::unix::fs::symlink(path, folder.path().join(name)).unwrap();
        }
        let mut relay = Command::new("/bin/sh");
        relay.args(["-c", &relay_line(addr)]).env("PATH", folder.path());
        relay.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut relay = relay.spawn().unwrap();
        // One that fails at once does not read it.
        let _ = relay.stdin.take().unwrap().write_all(request);
        relay.wait_with_output().unwrap()
    }

    #[test]
    fn a_relay_passes_on_the_end_of_the_request() {
        let relays =
            [("socat", "socat"), ("ncat", "ncat"), ("nc", "nc"), ("nc", "busybox"), ("python3", "python3")];
        let mut tried = 0;
        for (name, program) in relays {
            let Some(path) = path_of(program) else {
                println!("skipped for {program}: it is not installed");
                continue;
            };
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let addr = listener.local_addr().unwrap();
            let replica = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let mut request = Vec::new();
                stream.read_to_end(&mut request).unwrap();
                request.reverse();
                stream.write_all(&request).unwrap();
                stream.shutdown(Shutdown::Both).unwrap();
            });
            let done = relayed(&[(name, &path)], addr, b"abc\0");
            assert_eq!(
                (done.stdout.as_slice(), done.status.code()),
                (b"\0cba".as_slice(), Some(0)),
                "{program}"
            );
            replica.join().unwrap();
            let refused = relayed(&[(name, &path)], addr, b"abc");
            assert!(!refused.status.success() && refused.stdout.is_empty(), "{program}: {refused:?}");
            tried += 1;
        }
        if tried == 0 {
            println!("skipped: needs socat, ncat, nc, busybox or python3");
        }
    }

    #[test]
    fn why_nobody_listens_is_found_in_what_relays_say() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        for program in
            [("socat", "socat"), ("ncat", "ncat"), ("nc", "nc"), ("nc", "busybox"), ("python3", "python3")]
        {
            let Some(path) = path_of(program.1) else { continue };
            let said = relayed(&[(program.0, &path)], addr, b"").stderr;
            let why = reason_in(&String::from_utf8_lossy(&said));
            assert_eq!(
                why.as_deref(),
                Some("Connection refused"),
                "{program:?}: {}",
                String::from_utf8_lossy(&said)
            );
        }
        assert_eq!(
            reason_in("nc: can't connect to remote host (10.0.0.1): No route to host").unwrap(),
            "No route to host"
        );
        assert_eq!(reason_in("ls: nothing"), None);
    }

    #[test]
    fn only_a_request_that_was_not_read_is_sent_again() {
        let says = |message: &str| was_not_read(&allocdb_node::api::text::error_reply(message));
        for port in ["client", "control", "protocol"] {
            assert!(says(&format!(
                "failed to read {port} request: Resource temporarily unavailable (os error 11)"
            )));
        }
        assert!(!says("replica faulted") && !says("failed to read the log") && !was_not_read(b""));
        assert!(!says("not primary: role=backup"));
    }

    #[test]
    fn a_control_guest_without_a_relay_says_so() {
        let done = relayed(&[], "127.0.0.1:1".parse().unwrap(), b"");
        assert_eq!(done.status.code(), Some(127));
        assert_eq!(done.stderr, b"the control guest has none of socat, ncat, nc and python3\n");
    }
}
