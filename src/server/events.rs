//! The event feed (`/fs/events`).

use serde::Serialize;
use tokio::task::block_in_place;

use super::dispatch::Call;
use super::reply::{ApiError, Reply, ok, sequence, timestamp};
use super::store::{EventRow, rev_name};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventBody {
    event_id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    path: String,
    revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_hash: Option<String>,
    origin: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    provider: String,
    correlation_id: String,
    timestamp: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Feed {
    events: Vec<EventBody>,
    next_cursor: Option<String>,
}

/// The name of an event on the wire.
pub(crate) fn event_name(seq: i64) -> String {
    format!("evt_{seq}")
}

impl From<EventRow> for EventBody {
    fn from(event: EventRow) -> EventBody {
        EventBody {
            event_id: event_name(event.seq),
            kind: event.kind.name(),
            revision: rev_name(event.revision),
            content_hash: event.hash.map(hex::encode),
            origin: event.origin.name(),
            timestamp: timestamp(event.at_ns),
            path: event.path,
            provider: event.provider,
            correlation_id: event.correlation_id,
        }
    }
}

pub(crate) async fn feed(call: Call) -> Result<Reply, ApiError> {
    let limit = call.query.bounded("limit", 200, 1, 1000);
    let provider = call.query.get("provider").trim().to_lowercase();
    let direction = call.query.get("direction").trim().to_lowercase();
    let newest_first = match direction.as_str() {
        "" | "asc" => false,
        "desc" => true,
        other => {
            return Err(ApiError::bad_request(format!("unsupported direction {other:?} (must be asc or desc)")));
        }
    };
    // A cursor that no event could have is a position as unknown as one that no event has.
    let cursor = Some(call.query.get("cursor")).filter(|c| !c.is_empty()).map(|c| sequence("evt_", c).unwrap_or(-1));
    let (rows, more) = block_in_place(|| call.app.store.events(&call.workspace, &provider, cursor, limit, newest_first))?;
    let events: Vec<EventBody> = rows.into_iter().map(EventBody::from).collect();
    let next_cursor = if more { events.last().map(|e| e.event_id.clone()) } else { None };
    Ok(ok(&Feed { events, next_cursor }))
}
