//! Many files in one request (`/fs/bulk`): each item stands or falls by itself.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::dispatch::Call;
use super::files::{BadContent, DEFAULT_CONTENT_TYPE, check_content, op_name};
use super::paths;
use super::reply::{ApiError, Reply, json_reply};
use super::store::{BulkOutcome, ContentIdentity, FileWrite, Rejected, rev_name};

#[derive(Deserialize)]
struct BulkBody {
    files: Option<Vec<Item>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    path: Option<String>,
    content_type: Option<String>,
    content: Option<String>,
    encoding: Option<String>,
    if_match: Option<String>,
    content_identity: Option<ContentIdentity>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemError {
    path: String,
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_revision: Option<String>,
}

impl ItemError {
    fn new(path: String, code: &'static str, message: impl Into<String>) -> ItemError {
        ItemError { path, code, message: message.into(), expected_revision: None, current_revision: None }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemResult {
    path: String,
    revision: String,
    content_type: String,
    op_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_identity: Option<ContentIdentity>,
    writeback: Writeback,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BulkReply {
    correlation_id: String,
    error_count: usize,
    errors: Vec<ItemError>,
    /// `None` when the caller may write none of the files.
    results: Option<Vec<ItemResult>>,
    /// Without repeats.
    written: u64,
}

#[derive(Serialize)]
struct Writeback {
    #[serde(skip_serializing_if = "String::is_empty")]
    provider: String,
    state: String,
}

/// The files that a bulk body names; none if it cannot be read.
pub(crate) fn paths_of(body: &[u8]) -> Vec<String> {
    let items = super::body::parse::<BulkBody>(body).ok().and_then(|b| b.files).unwrap_or_default();
    items.into_iter().map(|item| paths::normalize_trimmed(&item.path.unwrap_or_default())).collect()
}

pub(crate) async fn write(mut call: Call) -> Result<Reply, ApiError> {
    let body: BulkBody = call.json().await?;
    let items = body.files.unwrap_or_default();
    if items.is_empty() {
        return Err(ApiError::bad_request("missing files"));
    }
    // Refusals of access come first in the answer, then those of the items in their order.
    let mut errors = Vec::new();
    let mut allowed = Vec::new();
    for item in items {
        let path = paths::normalize_trimmed(item.path.as_deref().unwrap_or(""));
        if !call.claims.holds_on("fs:write", &path) {
            errors.push(ItemError::new(path, "forbidden", "file access denied by path scope"));
        } else if let Some(gate) = call.gate()
            && !gate.admits(&call.app.store, &path, true)?
        {
            errors.push(ItemError::new(path, "forbidden", "file access denied by permission policy"));
        } else {
            allowed.push((path, item));
        }
    }
    let any_allowed = !allowed.is_empty();
    // What each allowed item came to before the store: its write, or its error.
    let prepared: Vec<Result<FileWrite, ItemError>> = allowed.into_iter().map(|(path, item)| prepare(path, item)).collect();
    let writes: Vec<FileWrite> = prepared.iter().filter_map(|p| p.as_ref().ok().cloned()).collect();
    let workspace = call.workspace.clone();
    let outcomes =
        if writes.is_empty() { Vec::new() } else { call.app.store.write(move |tx| tx.bulk(&workspace, writes)).await? };
    let mut outcomes = outcomes.into_iter();
    let mut results = Vec::new();
    let mut written = 0;
    for item in prepared {
        let file = match item {
            Ok(file) => file,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        match outcomes.next() {
            Some(BulkOutcome::Written(done)) => {
                written += 1;
                results.push(ItemResult {
                    path: file.path,
                    revision: rev_name(done.revision),
                    content_type: file.content_type,
                    op_id: op_name(done.op),
                    content_identity: file.identity,
                    writeback: Writeback { provider: done.provider, state: "pending".into() },
                });
            }
            Some(BulkOutcome::Repeated(op, content_type)) => results.push(ItemResult {
                path: op.path,
                revision: rev_name(op.revision),
                content_type: content_type.unwrap_or(file.content_type),
                op_id: op_name(op.seq),
                content_identity: op.identity,
                writeback: Writeback { provider: op.provider, state: op.status },
            }),
            Some(BulkOutcome::Rejected(refusal)) => errors.push(conflict(file, refusal)),
            None => errors.push(ItemError::new(file.path, "internal_error", "no outcome")),
        }
    }
    let body = BulkReply {
        correlation_id: call.correlation_id,
        error_count: errors.len(),
        errors,
        results: any_allowed.then_some(results),
        written,
    };
    Ok(json_reply(StatusCode::ACCEPTED, &body))
}

fn prepare(path: String, item: Item) -> Result<FileWrite, ItemError> {
    if path.len() > paths::PATH_MAX {
        return Err(ItemError::new(path.chars().take(200).collect(), "invalid_path", "path too long"));
    }
    let content = item.content.unwrap_or_default();
    let (base64, hash) = match check_content(&content, item.encoding.as_deref().unwrap_or("")) {
        Ok(checked) => checked,
        Err(BadContent::Encoding) => return Err(ItemError::new(path, "invalid_encoding", "invalid input")),
        Err(BadContent::Base64) => return Err(ItemError::new(path, "invalid_content", "invalid input")),
    };
    let trimmed = |s: Option<String>| s.map(|s| s.trim().to_owned()).filter(|s| !s.is_empty());
    Ok(FileWrite {
        path,
        if_match: trimmed(item.if_match),
        content_type: trimmed(item.content_type).unwrap_or_else(|| DEFAULT_CONTENT_TYPE.into()),
        body: content,
        base64,
        hash,
        semantics: None,
        // As the deployed servers do: the items of a bulk write do not carry the request's id.
        correlation_id: String::new(),
        identity: item.content_identity.map(ContentIdentity::trimmed),
    })
}

fn conflict(file: FileWrite, refusal: Rejected) -> ItemError {
    let want = file.if_match.unwrap_or_default();
    let (message, current) = match refusal {
        Rejected::NotFound => (format!("expected revision {want:?} but {} does not exist", file.path), None),
        Rejected::Conflict { current, .. } => {
            let current = rev_name(current);
            (format!("expected revision {want:?} but current revision is {current:?}"), Some(current))
        }
    };
    let error = ItemError::new(file.path, "conflict", message);
    ItemError { expected_revision: Some(want), current_revision: current, ..error }
}
