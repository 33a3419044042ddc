//! Operations and their delivery (`/ops`, `/writeback`).

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::task::block_in_place;

use super::dispatch::Call;
use super::files::op_name;
use super::reply::{ApiError, Items, Reply, json_reply, ok, sequence, timestamp};
use super::store::{Ack, ContentIdentity, Draft, OpFilter, OpRow, Replay, rev_name};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OpBody {
    op_id: String,
    path: String,
    revision: String,
    action: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    provider: String,
    status: String,
    attempt_count: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_identity: Option<ContentIdentity>,
    #[serde(skip_serializing_if = "String::is_empty")]
    correlation_id: String,
    created_at: String,
    updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
}

impl From<OpRow> for OpBody {
    fn from(op: OpRow) -> OpBody {
        OpBody {
            op_id: op_name(op.seq),
            revision: rev_name(op.revision),
            attempt_count: op.attempts,
            provider_result: op.provider_result.and_then(|text| serde_json::from_str(&text).ok()),
            created_at: timestamp(op.created_ns),
            updated_at: timestamp(op.updated_ns),
            completed_at: op.completed_ns.map(timestamp),
            path: op.path,
            action: op.action,
            provider: op.provider,
            status: op.status,
            last_error: op.last_error,
            content_identity: op.identity,
            correlation_id: op.correlation_id,
        }
    }
}

pub(crate) async fn list(call: Call) -> Result<Reply, ApiError> {
    let limit = call.query.bounded("limit", 100, 1, 1000);
    let cursor = Some(call.query.get("cursor")).filter(|c| !c.is_empty()).map(|c| sequence("op_", c));
    let filter = OpFilter {
        status: call.query.get("status").to_owned(),
        action: call.query.get("action").to_owned(),
        provider: call.query.get("provider").trim().to_lowercase(),
    };
    let (rows, more) =
        block_in_place(|| call.app.store.ops(&call.workspace, &filter, cursor, limit))?.ok_or_else(ApiError::invalid_input)?;
    let items: Vec<OpBody> = rows.into_iter().map(OpBody::from).collect();
    let next_cursor = if more { items.last().map(|op| op.op_id.clone()) } else { None };
    Ok(ok(&Items { items, next_cursor }))
}

fn number(id: &str) -> Result<i64, ApiError> {
    sequence("op_", id).ok_or_else(ApiError::not_found)
}

pub(crate) async fn get(call: Call, id: &str) -> Result<Reply, ApiError> {
    let op = call.app.store.op(&call.workspace, number(id)?)?.ok_or_else(ApiError::not_found)?;
    Ok(ok(&OpBody::from(op)))
}

/// Answers a replay of `id`, in `workspace` or in any.
pub(crate) async fn replay_in(
    store: &super::store::Store,
    workspace: Option<String>,
    id: &str,
    correlation_id: &str,
) -> Result<Reply, ApiError> {
    let seq = number(id)?;
    let cause = correlation_id.to_owned();
    match store.write(move |tx| tx.replay(workspace.as_deref(), seq, &cause)).await? {
        Replay::NotFound => Err(ApiError::not_found()),
        Replay::NotDeadLettered => Err(ApiError::new(StatusCode::CONFLICT, "invalid_state", "invalid state")),
        Replay::Queued => Ok(json_reply(
            StatusCode::ACCEPTED,
            &json!({ "status": "queued", "id": op_name(seq), "correlationId": correlation_id }),
        )),
    }
}

pub(crate) async fn replay(call: Call, id: &str) -> Result<Reply, ApiError> {
    replay_in(&call.app.store, Some(call.workspace), id, &call.correlation_id).await
}

pub(crate) async fn pending(call: Call) -> Result<Reply, ApiError> {
    let rows = block_in_place(|| call.app.store.pending(&call.workspace))?;
    let items: Vec<Value> = rows
        .into_iter()
        .map(|op| {
            let mut item = json!({
                "id": op_name(op.seq),
                "workspaceId": call.workspace,
                "path": op.path,
                "revision": rev_name(op.revision),
                "correlationId": op.correlation_id,
            });
            if let Some(identity) = op.identity {
                item["contentIdentity"] = json!(identity);
            }
            item
        })
        .collect();
    Ok(ok(&items))
}

pub(crate) async fn ack(mut call: Call, id: &str) -> Result<Reply, ApiError> {
    let body: Map<String, Value> = call.json().await?;
    let Some(success) = body.get("success").and_then(Value::as_bool) else {
        return Err(ApiError::bad_request("success must be a boolean"));
    };
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut provider_result = body.get("providerResult").and_then(Value::as_object).cloned().unwrap_or_default();
    // Ours to say, not the consumer's.
    provider_result.remove("providerRevision");
    let ack = Ack {
        success,
        error: body.get("error").and_then(Value::as_str).map(str::to_owned),
        external_id: text("externalId"),
        canonical_path: text("canonicalPath"),
        provider_result,
    };
    let seq = number(id)?;
    let (workspace, cause) = (call.workspace, call.correlation_id.clone());
    let reports_draft = success && !ack.external_id.trim().is_empty();
    let draft = call.app.store.write(move |tx| tx.ack(&workspace, seq, ack, &cause)).await?.ok_or_else(ApiError::not_found)?;
    let mut reply = json!({
        "status": "acknowledged",
        "id": op_name(seq),
        "correlationId": call.correlation_id,
        "success": success,
    });
    if reports_draft {
        reply["draft"] = match draft {
            Draft::None => json!({ "action": "none" }),
            Draft::Renamed { from, to } => json!({ "action": "renamed", "from": from, "to": to }),
            Draft::Removed { from } => json!({ "action": "removed", "from": from }),
        };
    }
    Ok(ok(&reply))
}
