//! The HTTP implementation of [`Remote`]: where requests are made and bounded.
//!
//! Each call is one request; only a 401 is answered by one more, when the source of the token has another one. The deadline of
//! a call covers all of it. Nothing is repeated here: that is the queue's decision, which knows what a repeat would mean.

use std::hash::{Hash, Hasher};
use std::io::Read;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::blocking::{Client, ClientBuilder, RequestBuilder, Response};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;

use super::reply::{Call, ERROR_READ_MAX, Reply};
use super::token::{Token, TokenError, TokenSource, Tokens};
use super::wire::{
    AcceptedBody, EventsBody, FileBody, Identity, MergeBody, MergedBody, OpBody, OpsBody, PutBody, TreeBody, below_root,
    usable_op,
};
use super::*;

/// Entries asked for in one page.
const PAGE: usize = 1000;
/// Events that are asked for to find the newest two.
const NEWEST: &str = "16";
/// A request body of this many bytes may be over the remote's limit: 1 MiB of JSON is the usual one.
const LARGE_BODY: usize = 512 * 1024;
/// Longest deadline; a longer one could not be added to a clock.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest name of a workspace, in bytes.
const WORKSPACE_MAX: usize = 128;

/// Everything but the unreserved characters of RFC 3986 §2.3, and the slash, which a query may hold as it is (§3.4).
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The same without the slash: one segment of a path.
const SEGMENT: &AsciiSet = &QUERY_VALUE.add(b'/');

#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// `http://` or `https://`, without credentials, query and fragment. May have a path.
    pub base_url: String,
    pub workspace: String,
    /// What the paths of [`Remote`] are relative to.
    pub remote_root: RemotePath,
    pub token: TokenSource,
    /// For a whole call: connect, send, receive.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// For a whole write, until the remote has accepted it; `None`: as `timeout`.
    pub accept_timeout: Option<Duration>,
    /// Bytes of a response body. A file whose JSON is longer cannot be read.
    pub max_body: u64,
    /// The same for an export, which holds many files.
    pub max_export_body: u64,
}

impl HttpConfig {
    /// A deadline of 30 s, 10 s of it to connect; bodies up to 64 MiB, exports up to 256 MiB.
    pub fn new(base_url: &str, workspace: &str, remote_root: RemotePath, token: TokenSource) -> HttpConfig {
        HttpConfig {
            base_url: base_url.into(),
            workspace: workspace.into(),
            remote_root,
            token,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            accept_timeout: None,
            max_body: 64 * 1024 * 1024,
            max_export_body: 256 * 1024 * 1024,
        }
    }
}

/// Why no client can be made. Never shows the URL, which might hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpConfigError {
    #[error("it is no URL: {0}")]
    NotAUrl(String),
    #[error("only http:// and https:// are spoken, not {0}://")]
    Scheme(String),
    #[error("a user or password in the URL would end up in logs")]
    Credentials,
    #[error("the base URL cannot have a query or a fragment")]
    Query,
    #[error("{0:?} cannot be a workspace: letters, digits, '-', '_' and '.' only, at most 128, and not only dots")]
    Workspace(String),
    #[error(transparent)]
    Token(TokenError),
    #[error("the HTTP client cannot start: {0}")]
    Client(String),
}

/// The address to which a wish for another delivery is posted.
pub fn replay_url(base_url: &str, workspace: &str, remote_op: &str) -> String {
    let root = base_url.trim_end_matches('/');
    format!("{root}/v1/workspaces/{workspace}{}", replay_route(remote_op))
}

fn replay_route(remote_op: &str) -> String {
    format!("/ops/{}/replay", utf8_percent_encode(remote_op, SEGMENT))
}

/// A workspace at a relayfile server.
pub struct HttpRemote {
    client: Client,
    /// `…/v1/workspaces/<name>`
    base: String,
    health: String,
    config: HttpConfig,
    tokens: Tokens,
}

impl HttpRemote {
    /// Checks the configuration; nothing is sent. A token file need not exist yet.
    pub fn new(config: HttpConfig) -> Result<HttpRemote, HttpConfigError> {
        let url = Url::parse(&config.base_url).map_err(|e| HttpConfigError::NotAUrl(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(HttpConfigError::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(HttpConfigError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(HttpConfigError::Query);
        }
        let name = &config.workspace;
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        // A segment of dots would be resolved away (RFC 3986 §5.2.4).
        if name.len() > WORKSPACE_MAX || !name.bytes().all(valid) || name.bytes().all(|b| b == b'.') {
            return Err(HttpConfigError::Workspace(name.chars().take(WORKSPACE_MAX).collect()));
        }
        if let TokenSource::Literal(_) = config.token {
            config.token.read().map_err(HttpConfigError::Token)?;
        }
        let root = url.as_str().trim_end_matches('/');
        Ok(HttpRemote {
            base: format!("{root}/v1/workspaces/{name}"),
            health: format!("{root}/health"),
            client: client(&url, &config).map_err(|e| HttpConfigError::Client(e.without_url().to_string()))?,
            tokens: Tokens::new(config.token.clone(), &config.remote_root),
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

    fn call<'a>(&self, method: Method, path: &'a str, url: String, op: Option<&OpId>) -> Call<'a> {
        Call {
            method,
            path,
            url,
            correlation: op.map_or_else(|| format!("rfm-{}", ulid::Ulid::new()), ToString::to_string),
            timeout: op.and(self.config.accept_timeout).unwrap_or(self.config.timeout).min(TIMEOUT_MAX),
            max_body: self.config.max_body,
        }
    }

    /// A successful reply, or the error. After a 401 the request is sent once more if there is another token by then.
    fn send(&self, call: &Call<'_>, build: impl Fn(RequestBuilder) -> RequestBuilder) -> Result<Reply, RemoteError> {
        let deadline = Instant::now() + call.timeout;
        let token = |fresh| {
            let none = |why: TokenError| call.error(ErrorKind::Unauthorized, None, "unauthorized", why.to_string());
            self.tokens.current(fresh).map_err(none)
        };
        let first = token(false)?;
        let mut reply = self.exchange(call, Some(&first), deadline, &build)?;
        if reply.status == 401 {
            let second = token(true)?;
            if second != first {
                reply = self.exchange(call, Some(&second), deadline, &build)?;
            }
        }
        if reply.status.is_success() { Ok(reply) } else { Err(reply.refusal(call)) }
    }

    /// One request and its whole response, whatever its status.
    fn exchange(
        &self,
        call: &Call<'_>,
        token: Option<&Token>,
        deadline: Instant,
        build: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Reply, RemoteError> {
        let started = Instant::now();
        let left = deadline.saturating_duration_since(started);
        if left.is_zero() {
            return Err(call.too_late());
        }
        // The timeout is set on the request: the client's own would be granted again to each read of the body.
        let mut request = self.client.request(call.method.clone(), &call.url).timeout(left);
        request = request.header("X-Correlation-Id", call.correlation.as_str());
        if let Some(token) = token {
            request = request.bearer_auth(token.expose());
        }
        let result = build(request).send().map_err(|e| call.transport(e)).and_then(|r| read(call, r, token));
        // Up to the query: the path stands beside it, readable.
        let route = call.url.split('?').next().unwrap_or_default().trim_start_matches(self.base.as_str());
        let took = started.elapsed().as_millis();
        match &result {
            Ok(r) => log::debug!("{} {route} {:?}: {} in {took} ms", call.method, call.path, r.status.as_u16()),
            Err(e) => log::debug!("{} {route} {:?}: {} in {took} ms: {}", call.method, call.path, e.code, e.message),
        }
        result
    }

    fn get_json<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, RemoteError> {
        self.send(call, |r| r)?.json(call)
    }

    /// `GET /health` within `timeout`.
    fn probe(&self, timeout: Duration) -> Result<(), RemoteError> {
        let call = Call { timeout, ..self.call(Method::GET, "/health", self.health.clone(), None) };
        let reply = self.exchange(&call, None, Instant::now() + timeout, &|r| r)?;
        if !reply.status.is_success() {
            return Err(reply.refusal(&call));
        }
        match reply.header("content-type") {
            // The sign-in page of some network, with the status of a success.
            Some(kind) if kind.starts_with("text/html") => Err(reply.foreign(&call, "a web page answered")),
            _ => Ok(()),
        }
    }

    /// A server that refuses a long body closes without reading on, and the reset can overtake its 413 (RFC 9112 §9.6). Taken
    /// for an unreachable remote, such a write would be repeated for ever and hold up all others. If the remote turns out to be
    /// there, it is a failed attempt like any other.
    fn unheard(&self, mut e: RemoteError, bytes: usize, timeout: Duration) -> RemoteError {
        let broke = e.kind == ErrorKind::Unreachable && e.code == "unreachable";
        if broke && bytes >= LARGE_BODY && self.probe(timeout).is_ok() {
            e.kind = ErrorKind::Transient;
            e.message = format!("the connection broke under a body of {bytes} bytes: over the remote's limit? ({})", e.message);
        }
        e
    }

    fn accepted(&self, call: &Call<'_>, reply: Reply) -> Result<Accepted, RemoteError> {
        let body: AcceptedBody = reply.json(call)?;
        let accepted = Accepted {
            repeated: [&body.status, &body.code].into_iter().any(|s| s.as_deref() == Some("already_applied")),
            remote_op: body.op_id.and_then(usable_op),
            revision: body.target_revision.or(body.revision).filter(|r| !r.is_empty()).map(|r| Revision::new(&r)),
        };
        match &accepted {
            Accepted { remote_op: None, revision: None, repeated: false } => {
                Err(reply.foreign(call, "it names neither an operation nor a revision"))
            }
            _ => Ok(accepted),
        }
    }
}

fn client(url: &Url, config: &HttpConfig) -> reqwest::Result<Client> {
    // reqwest is built without a provider of its own; an earlier choice of the process stands.
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let builder = || {
        let builder = Client::builder()
            .timeout(config.timeout)
            .connect_timeout(config.connect_timeout.min(config.timeout))
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(50)) // common load balancers close at 60 s
            .pool_max_idle_per_host(32)
            .tcp_nodelay(true)
            .user_agent(concat!("relayfile-mount/", env!("CARGO_PKG_VERSION")));
        if is_loopback(url) { builder.no_proxy() } else { builder }
    };
    // Plain HTTP needs no roots, and a container without any must still reach it. (A proxy may be https.)
    let rootless = |b: ClientBuilder| b.tls_certs_only([]).build();
    match url.scheme() {
        "https" => builder().build(),
        _ if is_loopback(url) => rootless(builder()),
        _ => builder().build().or_else(|_| rootless(builder())),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.');
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Reads a response to its end: a success within its bound, an error as far as it is of use.
fn read(call: &Call<'_>, mut response: Response, token: Option<&Token>) -> Result<Reply, RemoteError> {
    let length = response.content_length().unwrap_or(0);
    let headers = std::mem::take(response.headers_mut());
    let mut reply = Reply { status: response.status(), headers, body: Vec::new(), token: token.cloned() };
    if !reply.status.is_success() {
        // What cannot be read of an error body is no second error: the status is known.
        let _ = response.take(ERROR_READ_MAX).read_to_end(&mut reply.body);
        return Ok(reply);
    }
    let too_long = |reply: &Reply| reply.corrupt(call, format!("the response is longer than {} bytes", call.max_body));
    if length > call.max_body {
        return Err(too_long(&reply));
    }
    // We ask for no compression and undo none: a small body must not unfold into a large one.
    if let Some(coding) = reply.header("content-encoding").filter(|c| !c.eq_ignore_ascii_case("identity")) {
        return Err(reply.corrupt(call, format!("the response is encoded as {coding}, which was not asked for")));
    }
    reply.body.reserve_exact(length.min(call.max_body) as usize + 1);
    response.take(call.max_body.saturating_add(1)).read_to_end(&mut reply.body).map_err(|e| call.broken_off(e))?;
    if reply.body.len() as u64 > call.max_body {
        return Err(too_long(&reply));
    }
    Ok(reply)
}

/// The revision as an `If-Match`, if that would mean this revision and nothing else. Servers take off quotes and `W/`, and
/// then `*` is "whatever is there" and `0` is "nothing": a remote that named a revision so could make us overwrite.
fn if_match<'r>(call: &Call<'_>, revision: &'r Revision) -> Result<&'r str, RemoteError> {
    let name = revision.as_str();
    let bare = name.strip_prefix("W/").unwrap_or(name).trim_matches('"');
    if !matches!(bare, "" | "*" | "0") && name.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(name);
    }
    let message = format!("the remote named a revision {name:?}, which cannot be a precondition");
    Err(call.error(ErrorKind::Rejected, None, "bad_response", message))
}

/// Whether a listing goes on from `next` after `cursor`. A cursor that is a path must grow, as the pages are sorted by it; of
/// another one only standing still can be seen.
fn advances(cursor: &str, next: &str) -> bool {
    if cursor.starts_with('/') && next.starts_with('/') { next > cursor } else { next != cursor }
}

impl Remote for HttpRemote {
    fn health(&self) -> Result<(), RemoteError> {
        self.probe(self.config.timeout.min(TIMEOUT_MAX))
    }

    fn tree(&self, dir: &RemotePath, depth: Depth, cursor: Option<&str>) -> Result<TreePage, RemoteError> {
        let wire = self.wire(dir);
        let levels = match depth {
            Depth::Children => 1,
            Depth::All => TREE_DEPTH,
        }
        .to_string();
        let mut query = vec![("path", wire.as_str()), ("depth", levels.as_str())];
        query.extend(cursor.map(|c| ("cursor", c)));
        let call = self.call(Method::GET, dir.as_str(), self.url("/fs/tree", &query), None);
        let body: TreeBody = self.get_json(&call)?;
        let page = body.into_page(&self.config.remote_root, dir, depth);
        if let (Some(cursor), Some(next)) = (cursor, &page.next_cursor)
            && !advances(cursor, next)
        {
            let message = format!("the listing of {dir} does not advance behind {cursor:?}");
            return Err(call.error(ErrorKind::Corrupt, Some(200), "bad_response", message));
        }
        Ok(page)
    }

    fn get(&self, path: &RemotePath) -> Result<RemoteFile, RemoteError> {
        let url = self.url("/fs/file", &[("path", &self.wire(path))]);
        let call = self.call(Method::GET, path.as_str(), url, None);
        let reply = self.send(&call, |r| r)?;
        let body: FileBody = reply.json(&call)?;
        body.into_file(path.clone()).map_err(|why| reply.corrupt(&call, why))
    }

    /// Entries that cannot be shown or are broken are left out, the latter with a warning: which files there are is what
    /// [`Remote::tree`] says, and [`Remote::get`] of a broken one says what is wrong.
    fn export(&self, dir: &RemotePath) -> Result<Vec<RemoteFile>, RemoteError> {
        let url = self.url("/fs/export", &[("format", "json"), ("path", &self.wire(dir))]);
        let call = Call { max_body: self.config.max_export_body, ..self.call(Method::GET, dir.as_str(), url, None) };
        let bodies: Vec<FileBody> = self.get_json(&call)?;
        let mut files = Vec::with_capacity(bodies.len());
        for body in bodies {
            let wire = body.path.clone().unwrap_or_default();
            let Ok(Some(path)) = below_root(&self.config.remote_root, &wire) else { continue };
            if path.below(dir).is_none() {
                continue;
            }
            match body.into_file(path) {
                Ok(file) => files.push(file),
                Err(why) => log::warn!("{wire:?} of an export is left out: {why}"),
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
            Precondition::Revision(r) => if_match(&call, r)?,
        };
        let body = PutBody::new(bytes, content_type);
        let started = Instant::now();
        let reply = self
            .send(&call, |r| r.header("If-Match", if_match).json(&body))
            .map_err(|e| self.unheard(e, bytes.len(), call.timeout.saturating_sub(started.elapsed())))?;
        self.accepted(&call, reply)
    }

    fn bulk(&self, items: &[BulkItem<'_>]) -> Result<Vec<Result<Accepted, RemoteError>>, RemoteError> {
        self.send_batch(items)
    }

    fn delete(&self, path: &RemotePath, revision: &Revision, op: &OpId) -> Result<Accepted, RemoteError> {
        let url = self.url("/fs/file", &[("path", &self.wire(path))]);
        let call = self.call(Method::DELETE, path.as_str(), url, Some(op));
        let if_match = if_match(&call, revision)?;
        let reply = self.send(&call, |r| r.header("If-Match", if_match))?;
        self.accepted(&call, reply)
    }

    fn events(&self, cursor: Option<&str>) -> Result<EventPage, RemoteError> {
        let limit = PAGE.to_string();
        let mut query = vec![("limit", limit.as_str()), ("direction", "asc")];
        query.extend(cursor.map(|c| ("cursor", c)));
        let call = self.call(Method::GET, "/fs/events", self.url("/fs/events", &query), None);
        let body: EventsBody = self.get_json(&call)?;
        let page = body.into_page(&self.config.remote_root);
        if page.next_cursor.is_some() && page.next_cursor.as_deref() == cursor {
            let message = format!("the events do not advance behind {:?}", cursor.unwrap_or_default());
            return Err(call.error(ErrorKind::Corrupt, Some(200), "bad_response", message));
        }
        Ok(page)
    }

    fn delivery(&self, remote_op: &str) -> Result<Delivery, RemoteError> {
        let route = format!("/ops/{}", utf8_percent_encode(remote_op, SEGMENT));
        let call = self.call(Method::GET, &route, self.url(&route, &[]), None);
        let body: OpBody = self.get_json(&call)?;
        Ok(body.into_delivery(&self.config.remote_root))
    }

    fn deliveries(&self, cursor: Option<&str>, limit: usize) -> Result<DeliveryPage, RemoteError> {
        let limit = limit.clamp(1, DELIVERY_PAGE_MAX).to_string();
        let mut query = vec![("limit", limit.as_str())];
        query.extend(cursor.map(|c| ("cursor", c)));
        let call = self.call(Method::GET, "/ops", self.url("/ops", &query), None);
        let body: OpsBody = self.get_json(&call)?;
        let page = body.into_page(&self.config.remote_root);
        if page.next_cursor.is_some() && page.next_cursor.as_deref() == cursor {
            let message = format!("the operations do not advance behind {:?}", cursor.unwrap_or_default());
            return Err(call.error(ErrorKind::Corrupt, Some(200), "bad_response", message));
        }
        Ok(page)
    }

    fn replay(&self, remote_op: &str, op: &OpId) -> Result<(), RemoteError> {
        let route = replay_route(remote_op);
        let call = self.call(Method::POST, &route, self.url(&route, &[]), Some(op));
        self.send(&call, |r| r.header("Content-Length", "0")).map(drop)
    }

    fn token_mark(&self) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        self.tokens.current(false).ok().map(|t| t.expose().to_owned()).hash(&mut hasher);
        hasher.finish()
    }

    fn newest_mark(&self) -> Result<FeedMark, RemoteError> {
        let call =
            self.call(Method::GET, "/fs/events", self.url("/fs/events", &[("direction", "desc"), ("limit", NEWEST)]), None);
        let body: EventsBody = self.get_json(&call)?;
        // One that has no id cannot be asked behind.
        let mut newest = body.into_page(&self.config.remote_root).events.into_iter().filter(|e| !e.id.is_empty());
        let last = newest.next().map(|e| e.print());
        Ok(FeedMark { last, before: newest.next().map(|e| e.id) })
    }

    fn access(&self) -> Arc<Access> {
        self.tokens.access()
    }

    fn look_at_token(&self) {
        // What cannot be read is said where it is needed.
        let _ = self.tokens.current(false);
    }

    fn may_write(&self, path: &RemotePath) -> bool {
        let access = self.tokens.access();
        if access.writes_everywhere() {
            return true;
        }
        let full = self.wire(path);
        // A token that has just been renewed must not refuse until the next request has taken it up.
        access.may_write(&full) || self.tokens.current(false).is_ok() && self.tokens.access().may_write(&full)
    }

    fn subscribe(&self, place: Place<'_>) -> Result<Subscription, RemoteError> {
        let below = match self.config.remote_root.is_root() {
            true => "/**".to_owned(),
            false => format!("{}/**", self.config.remote_root),
        };
        let query: Vec<(&str, &str)> = match place {
            Place::Behind(event) => vec![("cursor", event)],
            Place::Recent => Vec::new(),
            Place::BelowRoot(None) => vec![("from", "now"), ("path", &below)],
            Place::BelowRoot(Some(event)) => vec![("cursor", event), ("path", &below)],
        };
        let call = self.call(Method::GET, "/fs/ws", self.url("/fs/ws", &query), None);
        let open = |fresh| {
            let none = |why: TokenError| call.error(ErrorKind::Unauthorized, None, "unauthorized", why.to_string());
            let token = self.tokens.current(fresh).map_err(none)?;
            let target = live::Target {
                url: &call.url,
                token: token.expose(),
                correlation: &call.correlation,
                remote_root: self.config.remote_root.clone(),
                connect_timeout: self.config.connect_timeout.min(call.timeout),
            };
            live::open(&target)
        };
        open(false).or_else(|e| if e.kind == ErrorKind::Unauthorized { open(true) } else { Err(e) })
    }

    fn merge(
        &self,
        path: &RemotePath,
        base: &Revision,
        base_text: &str,
        ours: &str,
        content_type: &str,
        op: &OpId,
    ) -> Result<Merged, RemoteError> {
        let url = self.url("/fs/merge", &[("path", &self.wire(path))]);
        let call = self.call(Method::POST, path.as_str(), url, Some(op));
        let body = MergeBody {
            strategy: "three-way-lines-v1",
            base_revision: base.as_str(),
            base_content: base_text,
            content: ours,
            content_type,
            content_identity: Identity { kind: "relayfile-mount", key: op.as_str(), ttl_seconds: 7 * 24 * 60 * 60 },
        };
        let reply = self.send(&call, |r| r.json(&body))?;
        let body: MergedBody = reply.json(&call)?;
        Ok(Merged {
            revision: Revision::new(&body.target_revision),
            against: body.merged_against_revision.as_deref().map(Revision::new),
        })
    }
}

mod bulk;
#[cfg(test)]
mod tests;
