//! An HTTP server for tests that says what it is told to, one reply for each request, and remembers what it was asked.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// What to do when a request has come.
pub(crate) enum Reply {
    /// Sends these bytes; the connection stays open.
    Raw(Vec<u8>),
    /// Sends these bytes, then closes.
    Cut(Vec<u8>),
    /// Sends these bytes before the body of the request is read, and never reads it. None: resets at once.
    Early(Vec<u8>),
    /// Sends these bytes, then one space every 20 ms until the client is gone.
    Trickle(Vec<u8>),
    /// Keeps the connection open and says nothing.
    Silence,
    /// Closes with a FIN.
    Close,
    /// Closes with a RST.
    Reset,
    /// Does something between the request and the reply.
    Then(Box<Reply>, Box<dyn FnOnce() + Send>),
}

impl Reply {
    pub fn json(status: u16, body: &str) -> Reply {
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        Reply::Raw((head + body).into())
    }

    pub fn raw(text: &str) -> Reply {
        Reply::Raw(text.into())
    }

    pub fn cut(text: &str) -> Reply {
        Reply::Cut(text.into())
    }

    pub fn early(text: &str) -> Reply {
        Reply::Early(text.into())
    }

    pub fn trickle(text: &str) -> Reply {
        Reply::Trickle(text.into())
    }

    pub fn then(reply: Reply, action: impl FnOnce() + Send + 'static) -> Reply {
        Reply::Then(Box::new(reply), Box::new(action))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// `GET /path?query HTTP/1.1`
    pub line: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn query(&self) -> String {
        let target = self.line.split(' ').nth(1).unwrap();
        target.split_once('?').map_or("", |(_, q)| q).to_owned()
    }
}

#[derive(Default)]
struct Seen {
    replies: VecDeque<Reply>,
    requests: Vec<Request>,
    connections: usize,
}

pub(crate) struct Canned {
    pub url: String,
    seen: Arc<Mutex<Seen>>,
}

impl Canned {
    /// Serves on a free port until the process ends; a request more than there are replies is answered with 599.
    pub fn new(replies: impl IntoIterator<Item = Reply>) -> Canned {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Seen { replies: replies.into_iter().collect(), ..Seen::default() }));
        let shared = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                shared.lock().connections += 1;
                let seen = shared.clone();
                std::thread::spawn(move || drop(serve(stream, &seen)));
            }
        });
        Canned { url, seen }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().requests.clone()
    }

    /// The last request.
    pub fn request(&self) -> Request {
        self.requests().pop().expect("a request came")
    }

    pub fn connections(&self) -> usize {
        self.seen.lock().connections
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Seen>) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 || !line.ends_with("HTTP/1.1\r\n") {
            return Ok(());
        }
        let mut request = Request { line: line.trim_end().into(), headers: Vec::new(), body: Vec::new() };
        loop {
            let mut header = String::new();
            input.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            request.headers.push((name.to_ascii_lowercase(), value.into()));
        }
        let length = request.header("content-length").map_or(0, |v| v.parse().unwrap());
        let mut seen_now = seen.lock();
        let mut reply = seen_now.replies.pop_front().unwrap_or_else(|| Reply::json(599, "unexpected"));
        if !matches!(reply, Reply::Early(_)) {
            drop(seen_now);
            request.body.resize(length, 0);
            input.read_exact(&mut request.body)?;
            seen_now = seen.lock();
        }
        seen_now.requests.push(request);
        drop(seen_now);
        if let Reply::Then(then, action) = reply {
            action();
            reply = *then;
        }
        match reply {
            Reply::Raw(bytes) => out.write_all(&bytes)?,
            Reply::Cut(bytes) => {
                out.write_all(&bytes)?;
                return out.shutdown(Shutdown::Both);
            }
            Reply::Early(bytes) if bytes.is_empty() => return reset(out),
            Reply::Early(bytes) => {
                out.write_all(&bytes)?;
                out.shutdown(Shutdown::Write)?;
                // Go waits so long before it closes, so that the reset does not overtake the response.
                std::thread::sleep(Duration::from_millis(500));
                return Ok(());
            }
            Reply::Trickle(bytes) => {
                out.write_all(&bytes)?;
                loop {
                    std::thread::sleep(Duration::from_millis(20));
                    out.write_all(b" ")?;
                }
            }
            // Until the client is gone.
            Reply::Silence => drop(input.read(&mut [0])),
            Reply::Close => return out.shutdown(Shutdown::Both),
            Reply::Reset => return reset(out),
            Reply::Then(..) => unreachable!("one action for each reply"),
        }
    }
}

/// Closes with a RST: a linger of no time (socket(7)).
fn reset(stream: TcpStream) -> std::io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the length of the call, and the pointer is to a `linger` of the given size.
    let rc = unsafe { libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size) };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
