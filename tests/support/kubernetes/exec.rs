//! `kubectl exec` over a WebSocket: the channels of `v5.channel.k8s.io`, joined to a process.

use super::http::Request;
use super::{CONTROL, Cluster, NAMESPACE, POD, lock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Error, Message, WebSocket};

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// Upgrades the connection, runs the relay that was asked for, and tells how it ended.
pub fn serve(mut stream: TcpStream, request: &Request, cluster: &Mutex<Cluster>) {
    let asked: Vec<&str> =
        request.query.iter().filter(|(key, _)| key == "command").map(|(_, word)| word.as_str()).collect();
    let is_expected = request.line() == format!("GET /api/v1/namespaces/{NAMESPACE}/pods/{POD}/exec")
        && request.header("sec-websocket-protocol").split(", ").any(|offered| offered == PROTOCOL)
        && request.query("stdin") == Some("true")
        && request.query("tty").is_none();
    let accept = derive_accept_key(request.header("sec-websocket-key").as_bytes());
    let upgrade = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
    );
    if stream.write_all(upgrade.as_bytes()).is_err() {
        return;
    }
    let (relay, has_program) = {
        let mut cluster = lock(cluster);
        cluster.changes.push(format!("exec {}", asked.join(" ")));
        let known = match asked.as_slice() {
            ["nc" | "ncat", addr, "22"] => *addr == CONTROL,
            ["socat", "-", to] => *to == format!("TCP:{CONTROL}:22"),
            _ => false,
        };
        if !known || !is_expected {
            cluster.unexpected.push(format!("exec {asked:?} {:?}", request.headers));
        }
        (cluster.relay.clone(), cluster.programs.contains(&asked[0]))
    };
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    let ended = if has_program {
        let mut process = Process::start(&relay);
        join(&mut socket, &mut process.stream, cluster);
        let (code, complaint) = process.end();
        let mut said = vec![STDERR];
        said.extend(complaint);
        let _ = send(&mut socket, Message::binary(said));
        if code == 0 { json!({ "metadata": {}, "status": "Success" }) } else { failed("relay", code) }
    } else {
        failed(&format!("exec: \"{}\": executable file not found in $PATH", asked[0]), 127)
    };
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let mut status = vec![STATUS];
    status.extend(ended.to_string().as_bytes());
    let _ = send(&mut socket, Message::binary(status)).and_then(|()| socket.close(Some(normal)));
    let _ = socket.get_ref().set_nonblocking(false);
    let _ = socket.get_ref().set_read_timeout(Some(Duration::from_secs(10)));
    while socket.read().is_ok() {}
}

fn failed(message: &str, code: i32) -> serde_json::Value {
    let message = format!("{message}: command terminated with exit code {code}");
    json!({ "metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500 })
}

/// What runs in the pod.
struct Process {
    child: Child,
    stream: UnixStream,
    complaints: UnixStream,
}

impl Process {
    fn start(words: &[String]) -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let (complaints, complaining) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        complaints.set_nonblocking(true).unwrap();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stderr(OwnedFd::from(complaining));
        command.stdin(OwnedFd::from(theirs.try_clone().unwrap())).stdout(OwnedFd::from(theirs));
        Self { child: command.spawn().unwrap(), stream, complaints }
    }

    /// Its status and what it complained about.
    fn end(mut self) -> (i32, Vec<u8>) {
        drop(self.stream);
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        let mut complaint = Vec::new();
        // Whoever still holds it open has nothing more to say.
        let _ = self.complaints.read_to_end(&mut complaint);
        (status.code().unwrap_or(137), complaint)
    }
}

/// Waits until one of two streams has something, for a moment.
fn wait(first: &impl AsFd, second: &impl AsFd) {
    let mut both = [PollFd::new(first, PollFlags::IN), PollFd::new(second, PollFlags::IN)];
    let look = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    let _ = poll(&mut both, Some(&look));
}

fn send(socket: &mut WebSocket<TcpStream>, message: Message) -> Result<(), Error> {
    let mut sent = socket.send(message);
    while matches!(&sent, Err(Error::Io(error)) if is_nothing_yet(error)) {
        std::thread::sleep(Duration::from_millis(1));
        sent = socket.flush();
    }
    sent
}

fn write_all(target: &mut UnixStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match target.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if is_nothing_yet(&error) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How long a receiver that has nothing to say lets an acknowledgement wait.
const ACKNOWLEDGED_AFTER: Duration = Duration::from_millis(40);

/// The way from a relay to the SSH server: it may let a packet wait as long as an earlier one is not acknowledged, which an
/// answer does at once, and silence after a while.
#[derive(Default)]
struct Packets {
    unacknowledged: Option<Instant>,
    waiting: Vec<u8>,
    was_held: bool,
}

impl Packets {
    fn add(&mut self, bytes: &[u8], cluster: &Mutex<Cluster>) {
        if !lock(cluster).delays_small_packets {
            self.unacknowledged = None;
        }
        self.was_held |= self.is_held();
        self.waiting.extend_from_slice(bytes);
    }

    fn is_held(&self) -> bool {
        self.unacknowledged.is_some_and(|sent| sent.elapsed() < ACKNOWLEDGED_AFTER)
    }

    fn send(&mut self, target: &mut UnixStream, cluster: &Mutex<Cluster>) -> std::io::Result<()> {
        if self.waiting.is_empty() || self.is_held() {
            return Ok(());
        }
        // No answer has set it free.
        if std::mem::take(&mut self.was_held) && self.unacknowledged.is_some() {
            lock(cluster).delayed += 1;
        }
        write_all(target, &self.waiting)?;
        self.waiting.clear();
        self.unacknowledged = Some(Instant::now());
        Ok(())
    }
}

/// Carries bytes both ways until the process is done, `kubectl` is gone, or the pod.
fn join(socket: &mut WebSocket<TcpStream>, target: &mut UnixStream, cluster: &Mutex<Cluster>) {
    let mut buffer = [0; 16 * 1024];
    buffer[0] = STDOUT;
    let mut packets = Packets::default();
    while !lock(cluster).is_over && lock(cluster).pod.is_some() {
        let mut is_idle = false;
        match socket.read() {
            Ok(Message::Binary(frame)) => match frame.first() {
                Some(&STDIN) => packets.add(&frame[1..], cluster),
                Some(&CLOSE) => drop(target.shutdown(Shutdown::Write)),
                other => panic!("bytes on channel {other:?}"),
            },
            Ok(Message::Close(_)) => return,
            Ok(_) => {}
            Err(Error::Io(error)) if is_nothing_yet(&error) => is_idle = true,
            Err(_) => return,
        }
        if packets.send(target, cluster).is_err() {
            return;
        }
        is_idle &= packets.waiting.is_empty();
        match target.read(&mut buffer[1..]) {
            Ok(0) => return,
            Ok(count) => {
                packets.unacknowledged = None;
                if send(socket, Message::binary(buffer[..=count].to_vec())).is_err() {
                    return;
                }
            }
            Err(error) if is_nothing_yet(&error) && is_idle => wait(socket.get_ref(), target),
            Err(error) if is_nothing_yet(&error) => std::thread::sleep(Duration::from_micros(100)),
            Err(_) => return,
        }
    }
}

fn is_nothing_yet(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
