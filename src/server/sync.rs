//! The state of providers (`/sync`). Nothing flows in from providers here, so its queues are empty by nature.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::block_in_place;

use super::dispatch::Call;
use super::reply::{ApiError, Reply, json_reply, now_ns, ok};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    workspace_id: String,
    providers: Vec<Provider>,
}

#[derive(Serialize)]
struct Provider {
    provider: String,
    status: &'static str,
}

pub(crate) async fn status(call: Call) -> Result<Reply, ApiError> {
    let names = match call.query.get("provider").trim() {
        "" => block_in_place(|| call.app.store.providers(&call.workspace))?,
        one => vec![one.to_lowercase()],
    };
    let providers = names.into_iter().map(|provider| Provider { provider, status: "healthy" }).collect();
    Ok(ok(&Status { workspace_id: call.workspace, providers }))
}

pub(crate) fn ingress(call: &Call) -> Reply {
    ok(&json!({
        "workspaceId": call.workspace,
        "queueDepth": 0,
        "queueCapacity": 1024,
        "queueUtilization": 0,
        "pendingTotal": 0,
        "oldestPendingAgeSeconds": 0,
        "deadLetterTotal": 0,
        "deadLetterByProvider": {},
        "acceptedTotal": 0,
        "droppedTotal": 0,
        "dedupedTotal": 0,
        "coalescedTotal": 0,
        "dedupeRate": 0,
        "coalesceRate": 0,
        "suppressedTotal": 0,
        "staleTotal": 0,
        "ingressByProvider": {},
    }))
}

pub(crate) fn dead_letters() -> Reply {
    ok(&json!({ "items": [], "nextCursor": null }))
}

#[derive(Deserialize)]
struct Refresh {
    provider: Option<String>,
}

pub(crate) async fn refresh(mut call: Call) -> Result<Reply, ApiError> {
    let body: Refresh = call.json().await?;
    if body.provider.is_none_or(|p| p.trim().is_empty()) {
        return Err(ApiError::invalid_input());
    }
    let id = format!("sync_{}", now_ns());
    Ok(json_reply(StatusCode::ACCEPTED, &json!({ "status": "queued", "id": id, "correlationId": call.correlation_id })))
}
