//! From a request to its handler, in the API's order of checks: route, token, scope and access rules, correlation id,
//! rate limit, handler. Every answer passes through here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use serde_json::json;

use super::acl::Gate;
use super::auth::{Claims, Verifier};
use super::counters::Counters;
use super::faults::{Faults, Target};
use super::hub::Hub;
use super::listener::Switch;
use super::query::{self, Query};
use super::reply::{self, ApiError, Reply};
use super::store::Store;
use super::{admin, bulk, events, export, files, listing, merge, ops, paths, sync, ws};

/// What all requests share.
pub(crate) struct App {
    pub store: Arc<Store>,
    pub hub: Arc<Hub>,
    pub verifier: Verifier,
    pub counters: Counters,
    /// `None` unless faults are allowed.
    pub faults: Option<Faults>,
    pub limiter: Option<Limiter>,
    /// Bytes.
    pub body_limit: u64,
    pub require_correlation_id: bool,
    /// Turns true when the server stops.
    pub stopping: tokio::sync::watch::Receiver<bool>,
}

/// A request that may be served.
pub(crate) struct Call {
    pub app: Arc<App>,
    pub workspace: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub claims: Claims,
    pub correlation_id: String,
    pub body: Body,
}

impl Call {
    /// The `path` parameter as it came, not empty.
    pub(crate) fn path(&self) -> Result<&str, ApiError> {
        match self.query.get("path") {
            "" => Err(ApiError::bad_request("missing path query")),
            path if path.len() >= paths::PATH_MAX => Err(ApiError::bad_request("path too long")),
            path => Ok(path),
        }
    }

    /// The access rules as they bind this caller; `None` if none can.
    pub(crate) fn gate(&self) -> Option<Gate<'_>> {
        Gate::new(&self.workspace, &self.claims)
    }

    /// The body as JSON.
    pub(crate) async fn json<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, ApiError> {
        let body = std::mem::take(&mut self.body);
        let bytes = super::body::read(&self.headers, body, self.app.body_limit).await?;
        super::body::parse(&bytes)
    }
}

/// The routes below a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'p> {
    Tree,
    WebSocket,
    Bulk,
    Merge,
    Export,
    ReadFile,
    WriteFile,
    DeleteFile,
    Events,
    Query,
    SyncStatus,
    SyncIngress,
    DeadLetters,
    DeadLetter,
    DeadLetterAction,
    SyncRefresh,
    Ops,
    Op(&'p str),
    OpReplay(&'p str),
    Pending,
    Ack(&'p str),
}

impl<'p> Route<'p> {
    /// The route, the scope that it needs, and its name for the counters.
    fn find(method: &str, parts: &[&'p str]) -> Option<(Route<'p>, &'static str, &'static str)> {
        Some(match (method, parts) {
            ("GET", ["fs", "tree"]) => (Route::Tree, "fs:read", "/fs/tree"),
            ("GET", ["fs", "ws"]) => (Route::WebSocket, "fs:read", "/fs/ws"),
            ("POST", ["fs", "bulk"]) => (Route::Bulk, "fs:write", "/fs/bulk"),
            ("POST", ["fs", "merge"]) => (Route::Merge, "fs:write", "/fs/merge"),
            ("GET", ["fs", "export"]) => (Route::Export, "fs:read", "/fs/export"),
            ("GET", ["fs", "file"]) => (Route::ReadFile, "fs:read", "/fs/file"),
            ("PUT", ["fs", "file"]) => (Route::WriteFile, "fs:write", "/fs/file"),
            ("DELETE", ["fs", "file"]) => (Route::DeleteFile, "fs:write", "/fs/file"),
            ("GET", ["fs", "events"]) => (Route::Events, "fs:read", "/fs/events"),
            ("GET", ["fs", "query"]) => (Route::Query, "fs:read", "/fs/query"),
            ("GET", ["sync", "status"]) => (Route::SyncStatus, "sync:read", "/sync/status"),
            ("GET", ["sync", "ingress"]) => (Route::SyncIngress, "sync:read", "/sync/ingress"),
            ("GET", ["sync", "dead-letter"]) => (Route::DeadLetters, "sync:read", "/sync/dead-letter"),
            ("GET", ["sync", "dead-letter", _]) => (Route::DeadLetter, "sync:read", "/sync/dead-letter/{id}"),
            ("POST", ["sync", "dead-letter", _, "ack" | "replay"]) => {
                (Route::DeadLetterAction, "sync:trigger", "/sync/dead-letter/{id}/{action}")
            }
            ("POST", ["sync", "refresh"]) => (Route::SyncRefresh, "sync:trigger", "/sync/refresh"),
            ("GET", ["ops"]) => (Route::Ops, "ops:read", "/ops"),
            ("GET", ["ops", id]) => (Route::Op(id), "ops:read", "/ops/{id}"),
            ("POST", ["ops", id, "replay"]) => (Route::OpReplay(id), "ops:replay", "/ops/{id}/replay"),
            ("GET", ["writeback", "pending"]) => (Route::Pending, "sync:read", "/writeback/pending"),
            ("POST", ["writeback", id, "ack"]) => (Route::Ack(id), "sync:trigger", "/writeback/{id}/ack"),
            _ => return None,
        })
    }

    /// The path that the scope must cover; `None` if any will do.
    fn scope_path(self, query: &Query) -> Option<String> {
        match self {
            Route::Tree | Route::Export | Route::Query => Some(paths::normalize_trimmed(query.get("path"))),
            Route::ReadFile | Route::WriteFile | Route::DeleteFile | Route::Merge => Some(query.get("path").trim().to_owned()),
            Route::Events => Some("/".to_owned()),
            _ => None,
        }
    }

    /// Whether the path of the query is checked against the access rules here, and if so with the file's own.
    fn acl(self, headers: &HeaderMap) -> Option<bool> {
        match self {
            Route::ReadFile | Route::DeleteFile | Route::Merge => Some(true),
            Route::WriteFile => Some(!matches!(files::if_match(headers).as_str(), "" | "*")),
            Route::Tree | Route::Query => Some(false),
            _ => None,
        }
    }
}

pub(crate) async fn handle(State(app): State<Arc<App>>, ConnectInfo(switch): ConnectInfo<Switch>, request: Request) -> Reply {
    let (mut parts, mut body) = request.into_parts();
    let correlation_id = correlation_id(&parts.headers);
    let method = parts.method.as_str().to_owned();
    let Some(path) = query::decode(parts.uri.path(), false) else {
        return ApiError::bad_request("malformed path").into_reply(&correlation_id);
    };
    if method == "GET" && path == "/health" {
        return reply::ok(&json!({ "status": "ok" }));
    }
    if let Some(rest) = path.strip_prefix("/v1/admin/") {
        let served = admin::handle(&app, &parts, body, rest, &correlation_id).await;
        return served.unwrap_or_else(|e| e.into_reply(&correlation_id));
    }
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let found = match segments[..] {
        ["v1", "workspaces", workspace, ref rest @ ..] => Route::find(&method, rest).map(|found| (workspace, found)),
        _ => None,
    };
    let Some((workspace, (route, scope, name))) = found else {
        app.counters.count(&method, "other");
        return ApiError::no_route().into_reply(&correlation_id);
    };
    app.counters.count(&method, name);
    let query = Query::parse(parts.uri.query().unwrap_or(""));

    let rule = match &app.faults {
        None => None,
        Some(faults) => {
            let below = format!("/{}", segments[3..].join("/"));
            match fault_files(&app, faults, route, &query, &parts, body).await {
                Ok((files, untouched)) => {
                    body = untouched;
                    faults.hit(&Target { method: &method, route: &below, files: &files })
                }
                Err(e) => return e.into_reply(&correlation_id),
            }
        }
    };
    if let Some(rule) = &rule
        && let Some(instead) = rule.before(&switch, &correlation_id).await
    {
        return instead;
    }
    let served = if route == Route::WebSocket {
        ws::handle(&app, workspace, &query, &mut parts).await.map_err(|e| (e, String::new()))
    } else {
        serve(&app, workspace, route, scope, query, parts, body, &correlation_id).await.map_err(|e| (e, correlation_id))
    };
    let reply = served.unwrap_or_else(|(e, correlation_id)| e.into_reply(&correlation_id));
    match rule {
        Some(rule) => rule.after(&switch, reply).await,
        None => reply,
    }
}

/// The files that a request is about, and its body unread.
async fn fault_files(
    app: &App,
    faults: &Faults,
    route: Route<'_>,
    query: &Query,
    parts: &Parts,
    body: Body,
) -> Result<(Vec<String>, Body), ApiError> {
    if route == Route::Bulk && faults.looks_at_files() {
        let bytes = super::body::read(&parts.headers, body, app.body_limit).await?;
        return Ok((bulk::paths_of(&bytes), Body::from(bytes)));
    }
    Ok((vec![paths::normalize(query.get("path"))], body))
}

#[allow(clippy::too_many_arguments)]
async fn serve(
    app: &Arc<App>,
    workspace: &str,
    route: Route<'_>,
    scope: &str,
    query: Query,
    parts: Parts,
    body: Body,
    correlation_id: &str,
) -> Result<Reply, ApiError> {
    let claims = authenticate(app, &parts.headers)?;
    claims.check_workspace(workspace)?;
    claims.check_scope(scope, route.scope_path(&query).as_deref())?;
    if let Some(own) = route.acl(&parts.headers)
        && let Some(gate) = Gate::new(workspace, &claims)
        && !query.get("path").trim().is_empty()
        && !gate.admits(&app.store, query.get("path"), own)?
    {
        return Err(ApiError::forbidden("access denied by ACL"));
    }
    check_correlation_id(app, correlation_id)?;
    check_rate(app, workspace, &claims)?;
    check_name(workspace)?;
    let call = Call {
        app: app.clone(),
        workspace: workspace.to_owned(),
        query,
        headers: parts.headers,
        claims,
        correlation_id: correlation_id.to_owned(),
        body,
    };
    match route {
        Route::Tree => listing::tree(call).await,
        Route::Query => listing::query(call).await,
        Route::Export => export::export(call).await,
        Route::ReadFile => files::read(call).await,
        Route::WriteFile => files::write(call).await,
        Route::DeleteFile => files::delete(call).await,
        Route::Bulk => bulk::write(call).await,
        Route::Merge => merge::merge(call).await,
        Route::Events => events::feed(call).await,
        Route::Ops => ops::list(call).await,
        Route::Op(id) => ops::get(call, id).await,
        Route::OpReplay(id) => ops::replay(call, id).await,
        Route::Pending => ops::pending(call).await,
        Route::Ack(id) => ops::ack(call, id).await,
        Route::SyncStatus => sync::status(call).await,
        Route::SyncIngress => Ok(sync::ingress(&call)),
        Route::DeadLetters => Ok(sync::dead_letters()),
        Route::DeadLetter | Route::DeadLetterAction => Err(ApiError::not_found()),
        Route::SyncRefresh => sync::refresh(call).await,
        // Has its own way in, because its token is in the query.
        Route::WebSocket => Err(ApiError::no_route()),
    }
}

/// The claims of the `Authorization` header.
pub(crate) fn authenticate(app: &App, headers: &HeaderMap) -> Result<Claims, ApiError> {
    let header = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or("");
    app.verifier.verify(header, reply::now_ns() / 1_000_000_000)
}

pub(crate) fn check_correlation_id(app: &App, correlation_id: &str) -> Result<(), ApiError> {
    if correlation_id.is_empty() && app.require_correlation_id {
        return Err(ApiError::bad_request("missing X-Correlation-Id header"));
    }
    Ok(())
}

/// Counts the request against the caller's allowance.
pub(crate) fn check_rate(app: &App, workspace: &str, claims: &Claims) -> Result<(), ApiError> {
    match &app.limiter {
        Some(limiter) if !limiter.allow(workspace, &claims.agent) => {
            let limited = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "rate limit exceeded");
            Err(ApiError { retry_after: Some(1), ..limited })
        }
        _ => Ok(()),
    }
}

/// Workspace names are 1 to 128 of `A-Z a-z 0-9 _ . -`.
pub(crate) fn check_name(workspace: &str) -> Result<(), ApiError> {
    let valid = (1..=128).contains(&workspace.len())
        && workspace.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if valid { Ok(()) } else { Err(ApiError::bad_request("invalid workspace name")) }
}

fn correlation_id(headers: &HeaderMap) -> String {
    let value = headers.get("x-correlation-id").map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    value.unwrap_or_default()
}

/// At most so many requests in each second, for each workspace and agent.
pub(crate) struct Limiter {
    per_second: u32,
    /// The second that is being counted, and its counts.
    window: Mutex<(Instant, HashMap<String, u32>)>,
}

impl Limiter {
    pub(crate) fn new(per_second: u32) -> Limiter {
        Limiter { per_second, window: Mutex::new((Instant::now(), HashMap::new())) }
    }

    fn allow(&self, workspace: &str, agent: &str) -> bool {
        let mut window = self.window.lock();
        if window.0.elapsed().as_secs() >= 1 {
            *window = (Instant::now(), HashMap::new());
        }
        let count = window.1.entry(format!("{workspace}|{agent}")).or_default();
        *count += 1;
        *count <= self.per_second
    }
}
