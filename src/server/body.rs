//! Request bodies: bounded, and read as leniently as Go's `encoding/json` reads them, because that is what clients of
//! this API are used to: invalid UTF-8 and lone surrogates become U+FFFD, `null` is absent, a repeated key's last wins.

use std::borrow::Cow;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use super::reply::ApiError;

/// How much of an oversized body is read and thrown away, so that the client gets to read the refusal.
const DRAIN_MAX: u64 = 16 * 1024 * 1024;
/// How long the whole body may take.
const READ_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);

/// Reads the whole body; more than `limit` bytes is 413 and the end of the connection.
pub(crate) async fn read(headers: &HeaderMap, body: Body, limit: u64) -> Result<Bytes, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    let mut oversized = announced.is_some_and(|n| n > limit);
    let mut kept = Vec::with_capacity(body.size_hint().lower().min(limit) as usize);
    let mut seen = 0u64;
    let mut stream = body.into_data_stream();
    let reading = async {
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| ApiError { close: true, ..ApiError::bad_request("failed to read request body") })?;
            seen += chunk.len() as u64;
            if seen > limit {
                oversized = true;
                kept = Vec::new();
            }
            if seen > limit.saturating_add(DRAIN_MAX) {
                break;
            }
            if !oversized {
                kept.extend_from_slice(&chunk);
            }
        }
        Ok::<(), ApiError>(())
    };
    match tokio::time::timeout(READ_TIMEOUT, reading).await {
        Ok(result) => result?,
        Err(_) => {
            let slow = ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the request body did not arrive in time");
            return Err(ApiError { close: true, ..slow });
        }
    }
    if oversized {
        let large = ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "request body exceeds configured limit");
        return Err(ApiError { close: true, ..large });
    }
    Ok(kept.into())
}

/// Parses a JSON body.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let text = go_lossy(bytes);
    if let Ok(value) = serde_json::from_str(&text) {
        return Ok(value);
    }
    // Repeated keys and lone surrogates: rare, so paid for only when the direct way failed.
    let repaired = repair_surrogates(&text);
    serde_json::from_str::<serde_json::Value>(&repaired)
        .and_then(serde_json::from_value)
        .map_err(|_| ApiError::bad_request("invalid json body"))
}

/// Each byte that is not part of valid UTF-8 becomes one U+FFFD.
pub(crate) fn go_lossy(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|_| out.push('\u{fffd}'));
    }
    Cow::Owned(out)
}

/// Writes each `\uD800`–`\uDFFF` escape that is not half of a pair as `\ufffd`.
fn repair_surrogates(text: &str) -> String {
    let bytes = text.as_bytes();
    let unit = |at: usize| -> Option<u16> {
        let hex = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(hex, 16).ok()
    };
    let mut out = String::with_capacity(text.len());
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                out.push_str(&text[copied..at]);
                out.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            Some(_) => at += 6,
            // Any other escape: its second character may be a backslash.
            None => at += 2,
        }
    }
    out.push_str(&text[copied.min(text.len())..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_utf8_becomes_one_replacement_for_each_byte() {
        assert_eq!(go_lossy(b"a\xff\xfeb"), "a\u{fffd}\u{fffd}b");
        assert_eq!(go_lossy(b"\xe2\x82"), "\u{fffd}\u{fffd}");
        assert_eq!(go_lossy("grün".as_bytes()), "grün");
    }

    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Sample {
        content: Option<String>,
    }

    #[test]
    fn lone_surrogates_and_repeated_keys_are_taken() {
        let read = |s: &str| parse::<Sample>(s.as_bytes()).map(|s| s.content.unwrap_or_default()).map_err(|e| e.message);
        assert_eq!(read(r#"{"content":"a\ud800b"}"#), Ok("a\u{fffd}b".into()));
        assert_eq!(read(r#"{"content":"\ud83d\ude00 \udc00"}"#), Ok("😀 \u{fffd}".into()));
        assert_eq!(read(r#"{"content":"\\ud800"}"#), Ok("\\ud800".into()));
        assert_eq!(read(r#"{"content":"a","content":"b"}"#), Ok("b".into()));
        assert_eq!(read(r#"{"content":null}"#), Ok(String::new()));
        assert_eq!(read(r#"{"content":5}"#), Err("invalid json body".into()));
        assert_eq!(read("not json"), Err("invalid json body".into()));
        assert_eq!(read(&"[".repeat(100_000)), Err("invalid json body".into()));
        assert_eq!(read("{} x"), Err("invalid json body".into()));
    }
}
