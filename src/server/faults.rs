//! A plan of faults for tests: rules that make chosen requests fail in chosen ways. Only with `--allow-faults`.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse as _;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::listener::Switch;
use super::reply::{ApiError, Reply};

/// Rules that a plan may have.
const RULES_MAX: usize = 1000;
/// Longest delay of a rule.
const DELAY_MAX: Duration = Duration::from_secs(600);
/// Between the part of a cut body that is sent and the end of the connection.
const CUT_PAUSE: Duration = Duration::from_millis(50);

/// One rule. It applies to a request that all of `method`, `path_prefix` and `file_path` match; absent matches all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Start of the route below the workspace, such as `/fs/file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// The file that the request is about; for a bulk write, one of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_path: Option<String>,
    /// Requests that it hits; absent is without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Matching requests that it lets pass first.
    pub skip: u64,
    /// Answers with this status instead of serving.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// With `status`: this instead of an error in the API's form, as from a gateway or a captive portal. HTML when it begins with
    /// `<`, else called JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Seconds, for the `Retry-After` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// Waits before anything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Serves the request, then closes the connection without a response.
    pub drop_after_commit: bool,
    /// Serves the request, then ends the response after so many bytes of its body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_body: Option<usize>,
    /// Resets the connection without serving.
    pub reset: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Active {
    #[serde(flatten)]
    rule: Rule,
    matched: u64,
    hits: u64,
}

/// What a request is, for matching.
pub(crate) struct Target<'r> {
    pub method: &'r str,
    pub route: &'r str,
    pub files: &'r [String],
}

#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<Active>>);

impl Faults {
    /// Appends rules. The first that matches a request and has hits left decides.
    pub(crate) fn add(&self, rules: Vec<Rule>) -> Result<(), ApiError> {
        let mut plan = self.0.lock();
        if plan.len() + rules.len() > RULES_MAX {
            return Err(ApiError::bad_request(format!("a fault plan has at most {RULES_MAX} rules")));
        }
        if let Some(bad) = rules.iter().filter_map(|r| r.status).find(|s| !(200..=599).contains(s)) {
            return Err(ApiError::bad_request(format!("status {bad} is not between 200 and 599")));
        }
        plan.extend(rules.into_iter().map(|rule| Active { rule, matched: 0, hits: 0 }));
        Ok(())
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// The rules with `matched` (requests they fit) and `hits` (requests they broke).
    pub(crate) fn list(&self) -> serde_json::Value {
        serde_json::to_value(&*self.0.lock()).unwrap_or_default()
    }

    /// Whether a rule looks at files, so that a bulk body has to be read before it can match.
    pub(crate) fn looks_at_files(&self) -> bool {
        self.0.lock().iter().any(|active| active.rule.file_path.is_some())
    }

    /// The rule that this request hits, counted.
    pub(crate) fn hit(&self, target: &Target<'_>) -> Option<Rule> {
        let mut plan = self.0.lock();
        for active in plan.iter_mut() {
            let rule = &active.rule;
            let fits = rule.method.as_deref().is_none_or(|m| m.eq_ignore_ascii_case(target.method))
                && rule.path_prefix.as_deref().is_none_or(|p| target.route.starts_with(p))
                && rule.file_path.as_deref().is_none_or(|f| target.files.iter().any(|file| file == f));
            if !fits || rule.times.is_some_and(|times| active.hits >= times) {
                continue;
            }
            active.matched += 1;
            if active.matched > rule.skip {
                active.hits += 1;
                return Some(active.rule.clone());
            }
        }
        None
    }
}

impl Rule {
    /// What happens before the request is served; `Some` is the answer instead of serving.
    pub(crate) async fn before(&self, switch: &Switch, correlation_id: &str) -> Option<Reply> {
        if let Some(ms) = self.delay_ms {
            tokio::time::sleep(Duration::from_millis(ms).min(DELAY_MAX)).await;
        }
        if self.reset {
            switch.reset();
            return Some(Reply::default());
        }
        let status = StatusCode::from_u16(self.status?).ok()?;
        if let Some(body) = &self.body {
            let kind = if body.starts_with('<') { "text/html" } else { "application/json" };
            return Some((status, [(header::CONTENT_TYPE, kind)], body.clone()).into_response());
        }
        let (code, message) = defaults(status);
        let error = ApiError {
            retry_after: self.retry_after,
            ..ApiError::new(
                status,
                self.code.clone().unwrap_or_else(|| code.into()),
                self.message.clone().unwrap_or_else(|| message.into()),
            )
        };
        Some(error.into_reply(correlation_id))
    }

    /// What happens to the answer of a request that was served.
    pub(crate) async fn after(&self, switch: &Switch, reply: Reply) -> Reply {
        if self.drop_after_commit {
            switch.close();
            return reply;
        }
        match self.cut_body {
            Some(keep) => cut(reply, keep).await,
            None => reply,
        }
    }
}

/// The announced length stays, the bytes stop.
async fn cut(reply: Reply, keep: usize) -> Reply {
    let (mut parts, body) = reply.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else { return Reply::from_parts(parts, Body::empty()) };
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let kept = bytes.slice(..keep.min(bytes.len()));
    // The pause lets what is kept reach the peer before the break does.
    let chunks = stream::once(std::future::ready(Ok::<Bytes, std::io::Error>(kept))).chain(stream::once(async {
        tokio::time::sleep(CUT_PAUSE).await;
        Err(std::io::Error::other("cut by a fault rule"))
    }));
    Reply::from_parts(parts, Body::from_stream(chunks))
}

fn defaults(status: StatusCode) -> (&'static str, &'static str) {
    match status.as_u16() {
        400 => ("bad_request", "invalid input"),
        401 => ("unauthorized", "token expired"),
        403 => ("forbidden", "access denied by ACL"),
        404 => ("not_found", "not found"),
        409 => ("revision_conflict", "revision conflict"),
        412 => ("precondition_failed", "missing If-Match header"),
        413 => ("payload_too_large", "request body exceeds configured limit"),
        429 => ("rate_limited", "rate limit exceeded"),
        503 => ("unavailable", "injected fault"),
        _ => ("internal_error", "injected fault"),
    }
}
