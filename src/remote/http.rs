//! The HTTP implementation of [`Remote`].

use std::io::Read;
use std::sync::Once;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;

use super::token::TokenSource;
use super::wire::{AcceptedBody, ErrorBody, EventsBody, FileBody, PutBody, TreeBody, below_root};
use super::*;

/// Bytes of an error body that are kept.
const ERROR_BODY_MAX: usize = 1024;
/// Entries asked for in one page.
const PAGE: usize = 1000;

/// Everything but the unreserved characters of RFC 3986 §2.3.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// `http://` or `https://`, without credentials.
    pub base_url: String,
    pub workspace: String,
    /// What the paths of [`Remote`] are relative to.
    pub remote_root: RemotePath,
    pub token: TokenSource,
    /// For a whole request: connect, send, receive.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// Bytes of a response body.
    pub max_body: u64,
}

impl HttpConfig {
    /// A deadline of 30 s and bodies up to 256 MiB.
    pub fn new(base_url: &str, workspace: &str, remote_root: RemotePath, token: TokenSource) -> HttpConfig {
        HttpConfig {
            base_url: base_url.into(),
            workspace: workspace.into(),
            remote_root,
            token,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            max_body: 256 * 1024 * 1024,
        }
    }
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpConfigError {
    #[error("it is no URL: {0}")]
    NotAUrl(String),
    #[error("only http:// and https:// are spoken, not {0}://")]
    Scheme(String),
    #[error("a user or password in the URL would end up in logs")]
    Credentials,
    #[error("{0:?} cannot be a workspace: letters, digits, '-', '_' and '.' only, at most 128")]
    Workspace(String),
    #[error("the HTTP client cannot start: {0}")]
    Client(String),
}

/// A workspace at a relayfile server.
pub struct HttpRemote {
    client: Client,
    base: String,
    health: String,
    config: HttpConfig,
    /// The token of the last request.
    token: Mutex<Option<String>>,
}

impl HttpRemote {
    pub fn new(config: HttpConfig) -> Result<HttpRemote, HttpConfigError> {
        let url = Url::parse(&config.base_url).map_err(|e| HttpConfigError::NotAUrl(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(HttpConfigError::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(HttpConfigError::Credentials);
        }
        let name = &config.workspace;
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 128 || !name.chars().all(valid) {
            return Err(HttpConfigError::Workspace(name.clone()));
        }
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut builder = Client::builder()
            .timeout(config.timeout)
            .connect_timeout(config.connect_timeout.min(config.timeout))
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(60))
            .tcp_nodelay(true)
            .user_agent(concat!("relayfile-mount/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| HttpConfigError::Client(e.without_url().to_string()))?;
        let root = config.base_url.trim_end_matches('/');
        Ok(HttpRemote {
            base: format!("{root}/v1/workspaces/{name}"),
            health: format!("{root}/health"),
            client,
            token: Mutex::new(None),
            config,
        })
    }

    /// The path on the wire.
    fn wire(&self, path: &RemotePath) -> String {
        match (self.config.remote_root.is_root(), path.is_root()) {
            (true, _) => path.to_string(),
            (false, true) => self.config.remote_root.to_string(),
            (false, false) => format!("{}{path}", self.config.remote_root),
        }
    }

    fn url(&self, route: &str, query: &[(&str, &str)]) -> String {
        let mut url = format!("{}{route}", self.base);
        for (i, (key, value)) in query.iter().enumerate() {
            url.push(if i == 0 { '?' } else { '&' });
            url.push_str(key);
            url.push('=');
            url.extend(utf8_percent_encode(value, QUERY_VALUE));
        }
        url
    }

    fn token(&self, call: &Call<'_>) -> Result<String, RemoteError> {
        // Read each time: the file is small, and a renewed token must not wait for the old one to be refused.
        match self.config.token.read() {
            Ok(token) => {
                *self.token.lock() = Some(token.clone());
                Ok(token)
            }
            Err(why) => match self.token.lock().clone() {
                Some(last) => {
                    log::warn!("{why}; the last token is used");
                    Ok(last)
                }
                None => Err(call.error(ErrorKind::Unauthorized, None, "unauthorized", why)),
            },
        }
    }

    /// Sends, once more with another token when the first was refused and the source has a new one.
    fn send(&self, call: &Call<'_>, build: impl Fn(RequestBuilder) -> RequestBuilder) -> Result<Response, RemoteError> {
        let mut token = self.token(call)?;
        loop {
            let started = Instant::now();
            let request = self
                .client
                .request(call.method.clone(), &call.url)
                .bearer_auth(&token)
                .header("X-Correlation-Id", call.correlation.as_str());
            let response = build(request).send().map_err(|e| call.transport(e))?;
            let status = response.status().as_u16();
            log::debug!("{} {} {status} in {} ms", call.method, call.path, started.elapsed().as_millis());
            if response.status().is_success() {
                return Ok(response);
            }
            if status == 401 {
                let again = self.token(call)?;
                if again != token {
                    token = again;
                    continue;
                }
            }
            return Err(self.refusal(call, response));
        }
    }

    fn refusal(&self, call: &Call<'_>, response: Response) -> RemoteError {
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(retry_after);
        let mut raw = Vec::new();
        // What cannot be read of an error body is no second error.
        let _ = response.take(ERROR_BODY_MAX as u64 * 64).read_to_end(&mut raw);
        let parsed: ErrorBody = serde_json::from_slice(&raw).unwrap_or_default();
        let mut body = String::from_utf8_lossy(&raw).into_owned();
        let cut = (0..=ERROR_BODY_MAX.min(body.len())).rev().find(|i| body.is_char_boundary(*i)).unwrap_or(0);
        body.truncate(cut);
        let message = parsed.message.unwrap_or_else(|| match body.trim() {
            "" => format!("the remote answered {status} without a word"),
            text => text.chars().take(200).collect(),
        });
        RemoteError {
            current_revision: parsed.current_revision.map(|r| Revision::new(&r)),
            retry_after,
            body,
            ..call.error(ErrorKind::of_status(status), Some(status), parsed.code.as_deref().unwrap_or("unknown"), message)
        }
    }

    fn json<T: DeserializeOwned>(&self, call: &Call<'_>, response: Response) -> Result<T, RemoteError> {
        let status = response.status().as_u16();
        let mut raw = Vec::new();
        response
            .take(self.config.max_body + 1)
            .read_to_end(&mut raw)
            .map_err(|e| call.error(ErrorKind::Unreachable, None, "unreachable", format!("the response broke off: {e}")))?;
        if raw.len() as u64 > self.config.max_body {
            let message = format!("the response is longer than {} bytes", self.config.max_body);
            return Err(call.error(ErrorKind::Corrupt, Some(status), "bad_response", message));
        }
        serde_json::from_slice(&raw).map_err(|e| {
            call.error(ErrorKind::Corrupt, Some(status), "bad_response", format!("the response makes no sense: {e}"))
        })
    }

    fn get_json<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, RemoteError> {
        let response = self.send(call, |r| r)?;
        self.json(call, response)
    }

    fn accepted(&self, call: &Call<'_>, response: Response) -> Result<Accepted, RemoteError> {
        let body: AcceptedBody = self.json(call, response)?;
        Ok(Accepted {
            repeated: body.status.as_deref() == Some("already_applied"),
            remote_op: body.op_id,
            revision: body.target_revision.or(body.revision).map(|r| Revision::new(&r)),
        })
    }

    fn call<'a>(&self, method: Method, path: &'a str, url: String, op: Option<&OpId>) -> Call<'a> {
        let correlation = op.map_or_else(|| format!("rfm-{}", ulid::Ulid::new()), ToString::to_string);
        Call { method, path, url, correlation }
    }
}

/// One request, with what its errors need.
struct Call<'a> {
    method: Method,
    path: &'a str,
    url: String,
    correlation: String,
}

impl Call<'_> {
    fn error(&self, kind: ErrorKind, status: Option<u16>, code: &str, message: String) -> RemoteError {
        RemoteError {
            kind,
            method: match self.method {
                Method::PUT => "PUT",
                Method::DELETE => "DELETE",
                Method::POST => "POST",
                _ => "GET",
            },
            path: self.path.to_owned(),
            status,
            code: code.to_owned(),
            message,
            body: String::new(),
            current_revision: None,
            retry_after: None,
        }
    }

    fn transport(&self, e: reqwest::Error) -> RemoteError {
        let code = if e.is_timeout() { "timeout" } else { "unreachable" };
        // The innermost cause says what happened ("Connection refused"); the outer ones only that something did.
        let e = e.without_url();
        let mut cause: &dyn std::error::Error = &e;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let message = if e.is_timeout() { format!("no answer in time ({cause})") } else { cause.to_string() };
        self.error(ErrorKind::Unreachable, None, code, message)
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3).
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(value.trim()).ok()?.timestamp();
    let wait = at.as_millisecond() - jiff::Timestamp::now().as_millisecond();
    Some(Duration::from_millis(wait.max(0) as u64))
}

impl Remote for HttpRemote {
    fn health(&self) -> Result<(), RemoteError> {
        let call = self.call(Method::GET, "/health", self.health.clone(), None);
        let response = self.client.get(&call.url).send().map_err(|e| call.transport(e))?;
        if response.status().is_success() { Ok(()) } else { Err(self.refusal(&call, response)) }
    }

    fn tree(&self, dir: &RemotePath, depth: Depth, cursor: Option<&str>) -> Result<TreePage, RemoteError> {
        let wire = self.wire(dir);
        let depth = match depth {
            Depth::Children => 1,
            Depth::All => TREE_DEPTH,
        }
        .to_string();
        let mut query = vec![("path", wire.as_str()), ("depth", depth.as_str())];
        query.extend(cursor.map(|c| ("cursor", c)));
        let call = self.call(Method::GET, dir.as_str(), self.url("/fs/tree", &query), None);
        let body: TreeBody = self.get_json(&call)?;
        let page = body.into_page(&self.config.remote_root);
        if page.next_cursor.is_some() && page.next_cursor.as_deref() == cursor {
            let message = format!("the listing of {dir} does not advance behind {:?}", cursor.unwrap_or_default());
            return Err(call.error(ErrorKind::Corrupt, Some(200), "bad_response", message));
        }
        Ok(page)
    }

    fn get(&self, path: &RemotePath) -> Result<RemoteFile, RemoteError> {
        let url = self.url("/fs/file", &[("path", &self.wire(path))]);
        let call = self.call(Method::GET, path.as_str(), url, None);
        let body: FileBody = self.get_json(&call)?;
        body.into_file(path.clone()).map_err(|why| call.error(ErrorKind::Corrupt, Some(200), "bad_response", why))
    }

    fn export(&self, dir: &RemotePath) -> Result<Vec<RemoteFile>, RemoteError> {
        let url = self.url("/fs/export", &[("format", "json"), ("path", &self.wire(dir))]);
        let call = self.call(Method::GET, dir.as_str(), url, None);
        let bodies: Vec<FileBody> = self.get_json(&call)?;
        let mut files = Vec::with_capacity(bodies.len());
        for body in bodies {
            let wire = body.path.clone().unwrap_or_default();
            let Ok(Some(path)) = below_root(&self.config.remote_root, &wire) else { continue };
            match body.into_file(path) {
                Ok(file) => files.push(file),
                Err(why) => log::warn!("{wire} of an export is left out: {why}"),
            }
        }
        Ok(files)
    }

    fn put(
        &self,
        path: &RemotePath,
        bytes: &[u8],
        content_type: &str,
        precondition: &Precondition,
        op: &OpId,
    ) -> Result<Accepted, RemoteError> {
        let url = self.url("/fs/file", &[("path", &self.wire(path))]);
        let call = self.call(Method::PUT, path.as_str(), url, Some(op));
        let if_match = match precondition {
            Precondition::Absent => "0",
            Precondition::Revision(r) => r.as_str(),
        };
        let body = PutBody::new(bytes, content_type);
        let response = self.send(&call, |r| r.header("If-Match", if_match).json(&body))?;
        self.accepted(&call, response)
    }

    fn delete(&self, path: &RemotePath, revision: &Revision, op: &OpId) -> Result<Accepted, RemoteError> {
        let url = self.url("/fs/file", &[("path", &self.wire(path))]);
        let call = self.call(Method::DELETE, path.as_str(), url, Some(op));
        let response = self.send(&call, |r| r.header("If-Match", revision.as_str()))?;
        self.accepted(&call, response)
    }

    fn events(&self, cursor: Option<&str>) -> Result<EventPage, RemoteError> {
        let limit = PAGE.to_string();
        let mut query = vec![("limit", limit.as_str()), ("direction", "asc")];
        query.extend(cursor.map(|c| ("cursor", c)));
        let call = self.call(Method::GET, "/fs/events", self.url("/fs/events", &query), None);
        let body: EventsBody = self.get_json(&call)?;
        Ok(body.into_page(&self.config.remote_root))
    }

    fn newest_mark(&self) -> Result<FeedMark, RemoteError> {
        let call = self.call(Method::GET, "/fs/events", self.url("/fs/events", &[("direction", "desc"), ("limit", "2")]), None);
        let body: EventsBody = self.get_json(&call)?;
        let mut newest = body.into_page(&self.config.remote_root).events.into_iter();
        let last = newest.next().map(|e| e.print());
        Ok(FeedMark { last, before: newest.next().map(|e| e.id) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> HttpConfig {
        HttpConfig::new(url, "ws", RemotePath::root(), TokenSource::Literal("secret-token".into()))
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_with_its_reason() {
        for bad in ["", "nonsense", "ftp://x", "file:///etc", "http://user:pw@host"] {
            assert!(HttpRemote::new(config(bad)).is_err(), "{bad}");
        }
        assert!(HttpRemote::new(HttpConfig { workspace: "../x".into(), ..config("http://127.0.0.1:1") }).is_err());
    }

    #[test]
    fn nobody_there_is_unreachable_and_no_error_shows_the_token() {
        let remote = HttpRemote::new(config("http://127.0.0.1:1")).unwrap();
        let e = remote.get(&"/a b?".parse().unwrap()).unwrap_err();
        assert_eq!((e.kind, e.status), (ErrorKind::Unreachable, None));
        assert!(!format!("{e} {e:?}").contains("secret-token"));
    }

    #[test]
    fn a_server_that_never_answers_costs_no_more_than_the_deadline() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let remote = HttpRemote::new(HttpConfig { timeout: Duration::from_millis(200), ..config(&url) }).unwrap();
        let started = Instant::now();
        let e = remote.get(&"/x".parse().unwrap()).unwrap_err();
        assert_eq!((e.kind, e.code.as_str()), (ErrorKind::Unreachable, "timeout"));
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn every_character_of_a_path_survives_the_query() {
        let remote = HttpRemote::new(config("http://h/")).unwrap();
        let url = remote.url("/fs/file", &[("path", "/a b/ü+%#&?=.md")]);
        assert_eq!(url, "http://h/v1/workspaces/ws/fs/file?path=%2Fa%20b%2F%C3%BC%2B%25%23%26%3F%3D.md");
    }
}
