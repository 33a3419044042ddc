//! The remote of a test: a real server process, and the view that other clients have of its workspace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use reqwest::Method;
use reqwest::StatusCode;
use reqwest::blocking::{Client, RequestBuilder};
use ring::hmac;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::{binary, eventually, sys};

/// The workspace that all tests use; each has a server of its own.
pub const WORKSPACE: &str = "ws";

/// A server process with its data. Dropping it ends the process.
pub struct Server {
    dir: tempfile::TempDir,
    url: String,
    token: String,
    process: Option<Child>,
    client: Client,
}

/// A file as the remote has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    pub content: Vec<u8>,
    pub revision: String,
    pub content_type: String,
    /// Whether it travels as base64.
    pub base64: bool,
}

impl RemoteFile {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.content).expect("text at the remote")
    }
}

/// A change that the remote has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `file.created`, `file.updated` or `file.deleted`.
    pub kind: String,
    pub path: String,
    pub revision: String,
    pub correlation_id: String,
    /// SHA-256 of the content in hexadecimal; empty after a deletion.
    pub hash: String,
}

impl Server {
    /// A server with an empty workspace that lets faults be planned.
    pub fn start() -> Server {
        static PROVIDER: Once = Once::new();
        // reqwest makes no client without one, although only http:// is spoken here.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().expect("an HTTP client");
        let dir = tempfile::Builder::new().prefix("relay-srv-").tempdir().expect("a temporary directory");
        let mut server = Server { dir, url: String::new(), token: String::new(), process: None, client };
        server.launch("127.0.0.1:0");
        server
    }

    fn launch(&mut self, listen: &str) {
        let data = self.dir.path();
        let mut command = Command::new(binary("relayfile"));
        command.args(["serve", "--allow-faults", "--listen", listen, "--data-dir"]).arg(data);
        sys::die_with_parent(&mut command);
        let log = std::fs::File::create(data.join("log")).expect("a log file");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut process = command.spawn().expect("the server starts");
        self.url = eventually("the server says where it listens", || {
            if let Some(status) = process.try_wait().expect("the state of the server") {
                panic!("the server ended with {status}: {}", read(&data.join("log")));
            }
            Some(read(&data.join("url")).trim().to_owned()).filter(|url| !url.is_empty())
        });
        self.token = read(&data.join("token")).trim().to_owned();
        self.process = Some(process);
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// A token of an agent that holds these scopes.
    #[track_caller]
    pub fn token_for(&self, agent: &str, scopes: &[&str]) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
        let claims = json!({
            "workspace_id": WORKSPACE, "agent_name": agent, "scopes": scopes, "exp": now + 3600, "aud": "relayfile",
        });
        let secret = read(&self.dir.path().join("jwt-secret"));
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(&claims));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.trim().as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
    }

    /// Writes a file whose permissions decide who may touch it.
    #[track_caller]
    pub fn put_with_permissions(&self, path: &str, content: &str, permissions: &[&str]) {
        let mut body = encoded(content.as_bytes());
        body["semantics"] = json!({ "permissions": permissions });
        let request = self.workspace(Method::PUT, "fs/file").query(&[("path", path)]).header("If-Match", "*").json(&body);
        answer(request, StatusCode::ACCEPTED);
    }

    /// Ends the server in order; connections are refused from now on.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            sys::signal(process.id(), libc::SIGTERM);
            eventually("the server ends", || process.try_wait().expect("the state of the server"));
        }
    }

    /// Starts a stopped server at the same address with the same data.
    pub fn start_again(&mut self) {
        let address = self.url.trim_start_matches("http://").to_owned();
        self.launch(&address);
    }

    /// Starts a stopped server at the same address with an empty workspace, whose revisions and events begin again.
    pub fn start_again_empty(&mut self) {
        for entry in std::fs::read_dir(self.dir.path()).expect("the data directory") {
            let path = entry.expect("an entry").path();
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("server.sqlite")) {
                std::fs::remove_file(path).expect("the database is removed");
            }
        }
        self.start_again();
    }

    /// From now on the server takes connections and never answers, as a machine that is lost in the network.
    pub fn freeze(&self) {
        let pid = self.process.as_ref().expect("a running server").id();
        sys::signal(pid, libc::SIGSTOP);
        // A thread that runs on another processor takes notice at its next entry into the kernel.
        crate::until("every thread of the server stands still", || sys::is_stopped(pid));
    }

    pub fn thaw(&self) {
        sys::signal(self.process.as_ref().expect("a running server").id(), libc::SIGCONT);
    }

    fn request(&self, method: Method, route: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}/v1/{route}", self.url)).bearer_auth(&self.token);
        request.header("X-Correlation-Id", "somebody-else")
    }

    fn workspace(&self, method: Method, route: &str) -> RequestBuilder {
        self.request(method, &format!("workspaces/{WORKSPACE}/{route}"))
    }

    /// Writes a file as another client would, whatever was there. Returns its revision. Not UTF-8 travels as base64.
    #[track_caller]
    pub fn put(&self, path: &str, content: impl AsRef<[u8]>) -> String {
        let body = encoded(content.as_ref());
        let request = self.workspace(Method::PUT, "fs/file").query(&[("path", path)]).header("If-Match", "*").json(&body);
        let answer = answer(request, StatusCode::ACCEPTED);
        text(&answer, "targetRevision")
    }

    #[track_caller]
    pub fn delete(&self, path: &str) {
        let request = self.workspace(Method::DELETE, "fs/file").query(&[("path", path)]).header("If-Match", "*");
        answer(request, StatusCode::ACCEPTED);
    }

    /// Writes many files in few requests.
    #[track_caller]
    pub fn seed<P: AsRef<str>, C: AsRef<[u8]>>(&self, files: impl IntoIterator<Item = (P, C)>) {
        let items: Vec<Value> = files
            .into_iter()
            .map(|(path, content)| {
                let mut item = encoded(content.as_ref());
                item["path"] = path.as_ref().into();
                item
            })
            .collect();
        for chunk in items.chunks(500) {
            let request = self.workspace(Method::POST, "fs/bulk").json(&json!({ "files": chunk }));
            let answer = answer(request, StatusCode::ACCEPTED);
            assert_eq!(answer["errorCount"], 0, "{answer}");
        }
    }

    /// The file, or `None` when the remote has none at the path.
    #[track_caller]
    pub fn get(&self, path: &str) -> Option<RemoteFile> {
        let request = self.workspace(Method::GET, "fs/file").query(&[("path", path)]);
        let response = request.send().expect("an answer");
        if response.status() == StatusCode::NOT_FOUND {
            return None;
        }
        assert_eq!(response.status(), StatusCode::OK, "GET {path}");
        let body: Value = response.json().expect("JSON");
        let base64 = body["encoding"] == "base64";
        let content = text(&body, "content");
        Some(RemoteFile {
            content: if base64 { BASE64.decode(content).expect("base64") } else { content.into_bytes() },
            revision: text(&body, "revision"),
            content_type: text(&body, "contentType"),
            base64,
        })
    }

    /// The content of a file that must be there, as text.
    #[track_caller]
    pub fn text(&self, path: &str) -> String {
        self.get(path).unwrap_or_else(|| panic!("the remote has no {path}")).text().to_owned()
    }

    /// The paths of all files, sorted.
    #[track_caller]
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut cursor = String::new();
        loop {
            let query = [("path", "/"), ("depth", "100"), ("cursor", &cursor)];
            let page = answer(self.workspace(Method::GET, "fs/tree").query(&query), StatusCode::OK);
            let entries = page["entries"].as_array().expect("entries");
            paths.extend(entries.iter().filter(|e| e["type"] == "file").map(|e| text(e, "path")));
            match page["nextCursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        paths.sort();
        paths
    }

    /// Everything that ever happened to the files, in order.
    #[track_caller]
    pub fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut cursor = String::new();
        loop {
            let query = [("limit", "1000"), ("cursor", &cursor)];
            let page = answer(self.workspace(Method::GET, "fs/events").query(&query), StatusCode::OK);
            events.extend(page["events"].as_array().expect("events").iter().map(|e| Event {
                kind: text(e, "type"),
                path: text(e, "path"),
                revision: text(e, "revision"),
                correlation_id: text(e, "correlationId"),
                hash: text(e, "contentHash"),
            }));
            match page["nextCursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => return events,
            }
        }
    }

    /// What happened to one path: `["file.created", "file.updated"]`.
    #[track_caller]
    pub fn history(&self, path: &str) -> Vec<String> {
        self.events().into_iter().filter(|e| e.path == path).map(|e| e.kind).collect()
    }

    /// Whether a path ever had this content.
    #[track_caller]
    pub fn had(&self, path: &str, content: &[u8]) -> bool {
        let hash = hex::encode(sha2::Sha256::digest(content));
        self.events().iter().any(|e| e.path == path && e.hash == hash)
    }

    /// What waits for the provider, as its consumer sees it: id and path, oldest first.
    #[track_caller]
    pub fn undelivered(&self) -> Vec<(String, String)> {
        let waiting = answer(self.workspace(Method::GET, "writeback/pending"), StatusCode::OK);
        waiting.as_array().expect("a list").iter().map(|w| (text(w, "id"), text(w, "path"))).collect()
    }

    /// The consumer reports what became of the one delivery of a path that waits.
    #[track_caller]
    pub fn deliver(&self, path: &str, report: Value) -> Value {
        let waiting =
            eventually(&format!("{path} waits for its delivery"), || self.undelivered().into_iter().rfind(|(_, p)| p == path));
        answer(self.workspace(Method::POST, &format!("writeback/{}/ack", waiting.0)).json(&report), StatusCode::OK)
    }

    /// Requests since the last [`Server::reset_counts`], such as `"PUT /fs/file"`; those of the test itself count too.
    #[track_caller]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let counts = answer(self.request(Method::GET, "admin/requests"), StatusCode::OK);
        counts.as_object().expect("counts").iter().map(|(k, v)| (k.clone(), v.as_u64().unwrap_or(0))).collect()
    }

    /// Requests that change files.
    #[track_caller]
    pub fn writes(&self) -> u64 {
        self.counts().iter().filter(|(route, _)| is_write(route)).map(|(_, n)| n).sum()
    }

    #[track_caller]
    pub fn reset_counts(&self) {
        answer(self.request(Method::DELETE, "admin/requests"), StatusCode::OK);
    }

    /// From now on no event stream can be opened: mounts have to poll the feed.
    pub fn refuse_streams(&self) {
        self.fault(json!({ "path_prefix": "/fs/ws", "status": 404 }));
    }

    /// From now on every save is a request of its own, as with a remote that has no route for batches. For tests of what
    /// becomes of one PUT beside others.
    pub fn refuse_batches(&self) {
        self.fault(json!({ "path_prefix": "/fs/bulk", "status": 404 }));
    }

    /// Adds a rule to the fault plan: the fields of the server's `Rule`.
    #[track_caller]
    pub fn fault(&self, rule: Value) {
        answer(self.request(Method::POST, "admin/faults").json(&json!([rule])), StatusCode::CREATED);
    }

    #[track_caller]
    pub fn clear_faults(&self) {
        answer(self.request(Method::DELETE, "admin/faults"), StatusCode::OK);
    }

    /// How many requests the rules of the plan have broken.
    #[track_caller]
    pub fn fault_hits(&self) -> u64 {
        let rules = answer(self.request(Method::GET, "admin/faults"), StatusCode::OK);
        rules.as_array().expect("rules").iter().filter_map(|r| r["hits"].as_u64()).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            if std::thread::panicking() {
                eprintln!("--- log of the server\n{}", read(&self.dir.path().join("log")));
            }
            // Its data is thrown away, so there is nothing that an orderly end would save.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn is_write(route: &str) -> bool {
    route.starts_with("PUT ") || route.starts_with("DELETE ") || route == "POST /fs/bulk" || route == "POST /fs/merge"
}

fn encoded(content: &[u8]) -> Value {
    match std::str::from_utf8(content) {
        Ok(text) => json!({ "contentType": "text/plain", "content": text }),
        Err(_) => json!({
            "contentType": "application/octet-stream",
            "content": BASE64.encode(content),
            "encoding": "base64",
        }),
    }
}

#[track_caller]
fn answer(request: RequestBuilder, expected: StatusCode) -> Value {
    let response = request.send().expect("an answer of the server");
    let (status, url) = (response.status(), response.url().to_string());
    let body = response.text().expect("a body");
    assert_eq!(status, expected, "{url}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|e| panic!("{url}: {e}: {body}"))
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
