//! The live event stream over HTTP: `GET /fs/ws`, a WebSocket (RFC 6455) whose token travels in the query, because the remote
//! ignores the header there.
//!
//! One thread reads each stream and hands its events on through a bounded channel. A taker that is too slow fills the channel,
//! then the socket, and then the remote closes with 1013: the way back is a new stream behind the last event that was taken. The
//! remote sends no heartbeat, so the thread pings, and a peer that does not answer is dead.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use reqwest::Url;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt as _;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

use super::wire::StreamFrame;
use super::{ErrorKind, RemoteError, RemoteEvent};
use crate::path::RemotePath;

/// Longest frame: an event with 1 MiB of content, its JSON escapes included.
const FRAME_MAX: usize = 8 * 1024 * 1024;
/// Events that wait for the taker before the socket is read no further.
const QUEUE: usize = 16;
/// How often the reader looks at its clock while nothing comes.
const TICK: Duration = Duration::from_secs(1);
/// Between two pings.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A peer that has said nothing for so long after a ping is dead.
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// An open stream. Dropping it closes the connection.
pub struct Subscription {
    /// Events in their order. Disconnected at the end of the stream, after the reason.
    pub events: Receiver<Result<RemoteEvent, RemoteError>>,
    socket: TcpStream,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Where a stream is asked for.
pub(super) struct Target<'a> {
    /// The HTTP address of the route, with its query but without the token.
    pub url: &'a str,
    pub token: &'a str,
    pub correlation: &'a str,
    pub remote_root: RemotePath,
    pub connect_timeout: Duration,
}

/// Plain or in TLS.
enum Transport {
    Plain(Socket),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Socket>>),
}

/// A connection whose handshake has to be over in time, however slowly its bytes trickle in.
struct Socket {
    stream: TcpStream,
    /// Shared with the opener, who lifts it.
    until: Arc<Mutex<Option<Instant>>>,
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.until.lock().is_some_and(|until| Instant::now() >= until) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "no whole answer in time"));
        }
        self.stream.read(buf)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Read for Transport {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(s) => s.read(buf),
            Transport::Tls(s) => s.read(buf),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(s) => s.write(buf),
            Transport::Tls(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(s) => s.flush(),
            Transport::Tls(s) => s.flush(),
        }
    }
}

/// Connects, upgrades and starts the reader. The token is in no error: the address is never shown.
pub(super) fn open(target: &Target<'_>) -> Result<Subscription, RemoteError> {
    let url = Url::parse(target.url).map_err(|e| error(ErrorKind::Rejected, None, "bad_request", e.to_string()))?;
    let socket = connect(&url, target.connect_timeout).map_err(|e| unreachable(&e))?;
    let closer = socket.try_clone().map_err(|e| unreachable(&e))?;
    let until = Arc::new(Mutex::new(Some(Instant::now() + target.connect_timeout)));
    let socket = Socket { stream: socket, until: Arc::clone(&until) };
    let tls = url.scheme() == "https";
    let transport = if tls { in_tls(&url, socket)? } else { Transport::Plain(socket) };

    let mut with_token = url;
    let scheme = if tls { "wss" } else { "ws" };
    // Cannot fail between special schemes that both have a host.
    let _ = with_token.set_scheme(scheme);
    with_token.query_pairs_mut().append_pair("token", target.token);
    let mut request = with_token.as_str().into_client_request().map_err(|_| refused("the address cannot be used"))?;
    if let Ok(value) = HeaderValue::from_str(target.correlation) {
        request.headers_mut().insert("X-Correlation-Id", value);
    }
    let config = WebSocketConfig::default().max_message_size(Some(FRAME_MAX)).max_frame_size(Some(FRAME_MAX));
    let (ws, _) = tungstenite::client::client_with_config(request, transport, Some(config)).map_err(|e| handshake(e, target))?;
    closer.set_read_timeout(Some(TICK)).map_err(|e| unreachable(&e))?;
    *until.lock() = None;

    let (sender, events) = bounded(QUEUE);
    let root = target.remote_root.clone();
    std::thread::Builder::new()
        .name("relayfile-stream".into())
        .spawn(move || Reader { ws, root, sender }.run())
        .map_err(|e| unreachable(&e))?;
    Ok(Subscription { events, socket: closer })
}

/// Each read and write ends within `limit`.
fn connect(url: &Url, limit: Duration) -> io::Result<TcpStream> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(limit))?;
                socket.set_write_timeout(Some(limit))?;
                return Ok(socket);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn in_tls(url: &Url, socket: Socket) -> Result<Transport, RemoteError> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|_| refused("the host cannot be named in a certificate"))?;
    let failed = |e: rustls::Error| error(ErrorKind::Unreachable, None, "unreachable", e.to_string());
    let config = rustls::ClientConfig::with_platform_verifier().map_err(failed)?;
    let connection = rustls::ClientConnection::new(Arc::new(config), name).map_err(failed)?;
    Ok(Transport::Tls(Box::new(rustls::StreamOwned::new(connection, socket))))
}

struct Reader {
    ws: WebSocket<Transport>,
    root: RemotePath,
    sender: Sender<Result<RemoteEvent, RemoteError>>,
}

impl Reader {
    fn run(mut self) {
        let end = self.read();
        // Whoever has dropped the stream does not ask why it ended.
        let _ = self.sender.send(Err(end));
        let _ = self.ws.close(None);
        let _ = self.ws.flush();
    }

    fn read(&mut self) -> RemoteError {
        let mut heard = Instant::now();
        let mut pinged: Option<Instant> = None;
        loop {
            match self.ws.read() {
                Ok(message) => {
                    (heard, pinged) = (Instant::now(), None);
                    let bytes = match &message {
                        Message::Text(text) => text.as_bytes(),
                        Message::Binary(bytes) => bytes,
                        Message::Close(frame) => {
                            let why = frame.as_ref().map_or("no reason given".to_owned(), |f| format!("{} {}", f.code, f.reason));
                            return unreachable(&io::Error::other(format!("the remote closed the stream: {why}")));
                        }
                        _ => continue,
                    };
                    let event = match serde_json::from_slice::<StreamFrame>(bytes) {
                        Ok(frame) => frame.into_event(&self.root),
                        // A pong, and what is not known, is only a sign of life.
                        Err(_) if !seems_an_event(bytes) => None,
                        // Passed over, it would be missed for ever: the feed has to tell.
                        Err(e) => {
                            return error(ErrorKind::Corrupt, None, "bad_response", format!("an event makes no sense: {e}"));
                        }
                    };
                    let Some(event) = event else { continue };
                    if self.sender.send(Ok(event)).is_err() {
                        return unreachable(&io::Error::other("nobody takes the events"));
                    }
                    // The time that the taker needed is not the peer's silence.
                    heard = Instant::now();
                }
                Err(tungstenite::Error::Io(e)) if is_timeout(&e) => {}
                Err(tungstenite::Error::Io(e)) => return unreachable(&e),
                Err(e) => return unreachable(&io::Error::other(e.to_string())),
            }
            match pinged {
                Some(at) if at.elapsed() >= PONG_WITHIN => {
                    return unreachable(&io::Error::other(format!("no sign of life for {} s", heard.elapsed().as_secs())));
                }
                None if heard.elapsed() >= PING_EVERY => {
                    if let Err(e) = self.ws.send(Message::text(r#"{"type":"ping"}"#)) {
                        return unreachable(&io::Error::other(e.to_string()));
                    }
                    pinged = Some(Instant::now());
                }
                _ => {}
            }
        }
    }
}

/// Whether a frame that cannot be read is nevertheless about a change.
fn seems_an_event(frame: &[u8]) -> bool {
    match serde_json::from_slice::<serde_json::Value>(frame) {
        Ok(said) => said.get("eventId").is_some() || said["type"].as_str().is_some_and(|t| t.starts_with("file.")),
        Err(_) => true,
    }
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn handshake(e: tungstenite::HandshakeError<impl tungstenite::handshake::HandshakeRole>, target: &Target<'_>) -> RemoteError {
    match e {
        tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response)) => {
            let status = response.status().as_u16();
            let body = response.body().as_deref().map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default();
            let said: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let text = |key: &str| said[key].as_str().map(|s| s.replace(target.token, "[token]"));
            let kind = ErrorKind::of_status(status);
            let message = text("message").unwrap_or_else(|| format!("the event stream was answered with status {status}"));
            error(kind, Some(status), &text("code").unwrap_or_else(|| "bad_response".into()), message)
        }
        tungstenite::HandshakeError::Failure(tungstenite::Error::Io(e)) => unreachable(&e),
        tungstenite::HandshakeError::Failure(e) => error(ErrorKind::Corrupt, None, "bad_response", e.to_string()),
        tungstenite::HandshakeError::Interrupted(_) => {
            error(ErrorKind::Unreachable, None, "timeout", "no answer to the request for the event stream in time".into())
        }
    }
}

fn error(kind: ErrorKind, status: Option<u16>, code: &str, message: String) -> RemoteError {
    RemoteError {
        kind,
        method: "GET",
        path: "/fs/ws".into(),
        status,
        code: code.into(),
        message: message.chars().take(300).collect(),
        body: String::new(),
        current_revision: None,
        retry_after: None,
    }
}

fn unreachable(e: &io::Error) -> RemoteError {
    error(ErrorKind::Unreachable, None, "unreachable", e.to_string())
}

fn refused(why: &str) -> RemoteError {
    error(ErrorKind::Rejected, None, "bad_request", why.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_what_tells_of_no_change_is_passed_over() {
        for (frame, event) in [
            (r#"{"type":"pong"}"#, false),
            (r#"{"type":"sync.status","state":"ready"}"#, false),
            (r#"{"eventId":"evt_7","type":null,"path":"/f"}"#, true),
            (r#"{"type":"file.updated","path":"/f"}"#, true),
            (r#"{"eventId":"evt_7","type":"file.upd"#, true),
        ] {
            assert_eq!(seems_an_event(frame.as_bytes()), event, "{frame}");
        }
    }

    #[test]
    fn a_handshake_that_trickles_ends_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/ws", listener.local_addr().unwrap());
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nX: ").unwrap();
            // One byte, then another, each long before the limit of a read.
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let limit = Duration::from_millis(300);
        let root = RemotePath::root();
        let target = Target { url: &url, token: "t", correlation: "correlation", remote_root: root, connect_timeout: limit };
        let began = Instant::now();
        assert!(open(&target).is_err());
        assert!(began.elapsed() >= limit, "it was something else: {:?}", began.elapsed());
        assert!(began.elapsed() < limit * 10, "it took {:?}", began.elapsed());
        peer.join().unwrap();
    }
}
