//! Answers: JSON bodies, errors in the API's own shape, times as it prints them.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};

use super::store::StoreError;

pub(crate) type Reply = Response<Body>;

/// A refusal, as `{"code","correlationId","message"}` and what else belongs to it.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub status: StatusCode,
    pub code: String,
    pub message: String,
    /// Further members of the body.
    pub extra: Vec<(&'static str, Value)>,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u64>,
    /// Ends the connection: the request's body was not read to its end.
    pub close: bool,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { status, code: code.into(), message: message.into(), extra: Vec::new(), retry_after: None, close: false }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// The answer to a value that the API calls invalid without saying which.
    pub(crate) fn invalid_input() -> ApiError {
        ApiError::bad_request("invalid input")
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(crate) fn not_found() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", "not found")
    }

    pub(crate) fn no_route() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", "route not found")
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> ApiError {
        self.extra.push((name, value.into()));
        self
    }

    pub(crate) fn into_reply(self, correlation_id: &str) -> Reply {
        let mut body = json!({ "code": self.code, "message": self.message, "correlationId": correlation_id });
        for (name, value) in self.extra {
            body[name] = value;
        }
        let mut reply = json_reply(self.status, &body);
        if let Some(seconds) = self.retry_after {
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.close {
            reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }
}

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> ApiError {
        if e.is_full() {
            return ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "insufficient_storage", "no space left on the server");
        }
        match e {
            StoreError::Stopped => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server is stopping"),
            e => {
                log::error!("embedded server: {e}");
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", e.to_string())
            }
        }
    }
}

/// A JSON body with its newline.
pub(crate) fn json_reply(status: StatusCode, body: &impl Serialize) -> Reply {
    let mut bytes = Vec::with_capacity(256);
    if let Err(e) = serde_json::to_writer(&mut bytes, body) {
        log::error!("embedded server: an answer could not be written as JSON: {e}");
    }
    bytes.push(b'\n');
    let mut reply = Response::new(Body::from(bytes));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// A page of a list that is called `items`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Items<T> {
    pub items: Vec<T>,
    pub next_cursor: Option<String>,
}

pub(crate) fn ok(body: &impl Serialize) -> Reply {
    json_reply(StatusCode::OK, body)
}

/// RFC 3339 in UTC with as many digits of the second as are needed. `ns` is nanoseconds since 1970.
pub(crate) fn timestamp(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64)
}

/// The number in `prefix_N`, only if it is written as this server writes it.
pub(crate) fn sequence(prefix: &str, name: &str) -> Option<i64> {
    let digits = name.strip_prefix(prefix)?;
    let canonical = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if canonical { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_only_the_digits_they_need() {
        assert_eq!(timestamp(1_795_233_822_651_388_010), "2026-11-21T04:03:42.65138801Z");
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn an_id_is_read_only_in_its_own_spelling() {
        assert_eq!(sequence("evt_", "evt_12"), Some(12));
        for bad in ["evt_012", "evt_", "evt_-1", "op_12", "evt_1x", "evt_99999999999999999999"] {
            assert_eq!(sequence("evt_", bad), None, "{bad}");
        }
    }
}
