//! Routes about the server itself (`/v1/admin`).

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::json;

use super::dispatch::{App, authenticate, check_correlation_id};
use super::faults::Rule;
use super::reply::{ApiError, Reply, json_reply, ok};
use super::{body, ops};

pub(crate) async fn handle(
    app: &App,
    parts: &Parts,
    request_body: Body,
    route: &str,
    correlation_id: &str,
) -> Result<Reply, ApiError> {
    match (parts.method.as_str(), route, route.split('/').collect::<Vec<_>>().as_slice()) {
        ("GET", "backends", _) => {
            if !authenticate(app, &parts.headers)?.is_admin() {
                return Err(ApiError::forbidden("missing required scope: admin:read"));
            }
            check_correlation_id(app, correlation_id)?;
            Ok(ok(&json!({
                "backendProfile": "embedded",
                "stateBackend": "sqlite",
                "envelopeQueue": "none",
                "envelopeQueueDepth": 0,
                "envelopeQueueCapacity": 1024,
                "writebackQueue": "sqlite",
                "writebackQueueDepth": app.store.pending_depth()?,
                "writebackQueueCapacity": 1024,
            })))
        }
        ("POST", _, ["replay", "op" | "ops", id]) => {
            authenticate(app, &parts.headers)?.check_scope("admin:replay", None)?;
            check_correlation_id(app, correlation_id)?;
            ops::replay_in(&app.store, None, id, correlation_id).await
        }
        ("GET", "requests", _) => {
            owner(app, parts)?;
            Ok(ok(&app.counters.snapshot()))
        }
        ("DELETE", "requests", _) => {
            owner(app, parts)?;
            app.counters.reset();
            Ok(ok(&json!({ "status": "ok" })))
        }
        (method @ ("GET" | "POST" | "DELETE"), "faults", _) => {
            let faults = app.faults.as_ref().ok_or_else(ApiError::no_route)?;
            owner(app, parts)?;
            match method {
                "POST" => {
                    let bytes = body::read(&parts.headers, request_body, app.body_limit).await?;
                    let rules: Vec<Rule> = serde_json::from_slice(&bytes)
                        .map_err(|e| ApiError::bad_request(format!("not a list of fault rules: {e}")))?;
                    faults.add(rules)?;
                    Ok(json_reply(StatusCode::CREATED, &faults.list()))
                }
                "DELETE" => {
                    faults.clear();
                    Ok(ok(&faults.list()))
                }
                _ => Ok(ok(&faults.list())),
            }
        }
        _ => Err(ApiError::no_route()),
    }
}

/// Refuses all but the server's own token.
fn owner(app: &App, parts: &Parts) -> Result<(), ApiError> {
    if authenticate(app, &parts.headers)?.owner {
        Ok(())
    } else {
        Err(ApiError::forbidden("only the server's own token may do this"))
    }
}
