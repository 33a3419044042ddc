//! A server for one test and a client that sends exactly what it is told, byte for byte.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use relayfile::server::{ServerConfig, ServerHandle, start};
use ring::hmac;
use serde_json::{Value, json};

/// A running server in a directory of its own.
pub struct Server {
    pub handle: ServerHandle,
    pub secret: String,
    pub dir: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Server {
        Server::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ServerConfig)) -> Server {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut config = ServerConfig::new(dir.path().join("data"));
        config.allow_faults = true;
        config.jwt_secret = Some("test secret".into());
        change(&mut config);
        let secret = config.jwt_secret.clone().unwrap_or_default();
        Server { handle: start(config).expect("the server starts"), secret, dir }
    }

    pub fn client(&self) -> Client {
        Client::new(self.handle.url(), self.handle.token())
    }

    /// A client whose JWT holds these scopes on workspace `w`.
    pub fn scoped(&self, agent: &str, scopes: &[&str]) -> Client {
        Client::new(self.handle.url(), &self.jwt("w", agent, scopes, 3600, "relayfile"))
    }

    /// A JWT that expires `ttl` seconds from now.
    pub fn jwt(&self, workspace: &str, agent: &str, scopes: &[&str], ttl: i64, aud: &str) -> String {
        jwt(&self.secret, workspace, agent, scopes, ttl, aud)
    }
}

pub fn jwt(secret: &str, workspace: &str, agent: &str, scopes: &[&str], ttl: i64, aud: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("clock").as_secs() as i64;
    let claims = json!({"workspace_id": workspace, "agent_name": agent, "scopes": scopes, "exp": now + ttl, "aud": aud});
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(&claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// One keep-alive connection, opened when it is needed.
pub struct Client {
    address: String,
    pub token: String,
    connection: RefCell<Option<BufReader<TcpStream>>>,
}

impl Client {
    pub fn new(url: &str, token: &str) -> Client {
        let address = url.trim_start_matches("http://").to_owned();
        Client { address, token: token.into(), connection: RefCell::new(None) }
    }

    /// Sends one request with these headers and no others but the length; an error is that of the connection.
    pub fn raw(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Answer> {
        let mut slot = self.connection.borrow_mut();
        let mut stream = match slot.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(&self.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                BufReader::new(stream)
            }
        };
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n", self.address, body.len());
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        stream.get_mut().write_all(&bytes)?;
        let answer = read_answer(&mut stream, method)?;
        if answer.header("connection") != Some("close") {
            *slot = Some(stream);
        }
        Ok(answer)
    }

    /// Sends a request with the token and a correlation id.
    pub fn try_send(&self, method: &str, target: &str, extra: &[(&str, &str)], body: &str) -> std::io::Result<Answer> {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("Authorization", bearer.as_str()), ("X-Correlation-Id", "corr-test")];
        headers.extend_from_slice(extra);
        self.raw(method, target, &headers, body.as_bytes())
    }

    pub fn send(&self, method: &str, target: &str, extra: &[(&str, &str)], body: &str) -> Answer {
        self.try_send(method, target, extra, body).unwrap_or_else(|e| panic!("{method} {target}: {e}"))
    }

    /// A request below workspace `w`.
    pub fn w(&self, method: &str, route: &str, body: &str) -> Answer {
        self.send(method, &format!("/v1/workspaces/w{route}"), &[], body)
    }

    pub fn get(&self, route: &str) -> Value {
        let answer = self.w("GET", route, "");
        assert_eq!(answer.status, 200, "{route}: {}", answer.text());
        answer.json()
    }

    pub fn put(&self, path: &str, if_match: &str, content: &str) -> Answer {
        let body = json!({"contentType": "text/plain", "content": content}).to_string();
        self.send("PUT", &format!("/v1/workspaces/w/fs/file?path={path}"), &[("If-Match", if_match)], &body)
    }

    pub fn delete(&self, path: &str, if_match: &str) -> Answer {
        self.send("DELETE", &format!("/v1/workspaces/w/fs/file?path={path}"), &[("If-Match", if_match)], "")
    }

    /// Writes files of content `x`, in requests of at most 2000.
    pub fn bulk(&self, paths: impl IntoIterator<Item = String>) {
        let files: Vec<Value> = paths.into_iter().map(|path| json!({"path": path, "content": "x"})).collect();
        for part in files.chunks(2000) {
            let answer = self.w("POST", "/fs/bulk", &json!({"files": part}).to_string());
            assert_eq!(answer.json()["errorCount"], 0, "{}", answer.text());
        }
    }
}

fn read_answer(stream: &mut BufReader<TcpStream>, method: &str) -> std::io::Result<Answer> {
    let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::UnexpectedEof, what.to_owned());
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| bad("no status line"))?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => break,
        }
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if method == "HEAD" || status == 101 {
        return Ok(answer);
    }
    if answer.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| bad("no chunk size"))?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk)?;
            if size == 0 {
                return Ok(answer);
            }
            answer.body.extend_from_slice(&chunk[..size]);
        }
    }
    let length: usize = answer.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    answer.body = vec![0; length];
    stream.read_exact(&mut answer.body)?;
    Ok(answer)
}

/// Waits until `done`, at most 10 seconds.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
