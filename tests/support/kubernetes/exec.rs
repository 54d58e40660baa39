//! `kubectl exec` over a WebSocket: the channels of `v5.channel.k8s.io`, joined to a socket.

use super::http::Request;
use super::{CONTROL, Cluster, NAMESPACE, POD, lock};
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::time::Duration;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role};
use tungstenite::{Error, Message, WebSocket};

const PROTOCOL: &str = "v5.channel.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
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
    let (control, has_program) = {
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
        (cluster.control, cluster.programs.contains(&asked[0]))
    };
    stream.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    let ended = if !has_program {
        failed(&format!("exec: \"{}\": executable file not found in $PATH", asked[0]), 127)
    } else {
        match TcpStream::connect(control) {
            Ok(target) => {
                join(&mut socket, target, cluster);
                json!({ "metadata": {}, "status": "Success" })
            }
            Err(error) => failed(&format!("nc: {error}"), 1),
        }
    };
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let mut status = vec![STATUS];
    status.extend(ended.to_string().as_bytes());
    let _ = socket.send(Message::binary(status)).and_then(|()| socket.close(Some(normal)));
    while socket.read().is_ok() {}
}

fn failed(message: &str, code: u32) -> serde_json::Value {
    let message = format!("{message}: command terminated with exit code {code}");
    json!({ "metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500 })
}

/// Carries bytes both ways until the target is done, `kubectl` is gone, or the cluster.
fn join(socket: &mut WebSocket<TcpStream>, mut target: TcpStream, cluster: &Mutex<Cluster>) {
    target.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let mut buffer = [0; 16 * 1024];
    buffer[0] = STDOUT;
    while !lock(cluster).is_over && lock(cluster).pod.is_some() {
        match socket.read() {
            Ok(Message::Binary(frame)) => match frame.first() {
                Some(&STDIN) if target.write_all(&frame[1..]).is_err() => return,
                Some(&STDIN) => {}
                Some(&CLOSE) => drop(target.shutdown(Shutdown::Write)),
                other => panic!("bytes on channel {other:?}"),
            },
            Ok(Message::Close(_)) => return,
            Ok(_) => {}
            Err(Error::Io(error)) if is_nothing_yet(&error) => {}
            Err(_) => return,
        }
        match target.read(&mut buffer[1..]) {
            Ok(0) => return,
            Ok(count) => {
                if socket.send(Message::binary(buffer[..=count].to_vec())).is_err() {
                    return;
                }
            }
            Err(error) if is_nothing_yet(&error) => {}
            Err(_) => return,
        }
    }
}

fn is_nothing_yet(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
