//! One file: read, write, delete (`/fs/file`).

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::dispatch::Call;
use super::reply::{ApiError, Reply, json_reply, ok, timestamp};
use super::store::{FileRow, FileWrite, Rejected, Semantics, Written, rev_name};
use super::{acl::Gate, paths};

/// The content type of a file that was written without one.
pub(crate) const DEFAULT_CONTENT_TYPE: &str = "text/markdown";

/// A whole file on the wire.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileBody {
    path: String,
    revision: String,
    content_hash: String,
    content_type: String,
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    provider: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_object_id: Option<String>,
    last_edited_at: String,
    semantics: Semantics,
}

impl FileBody {
    pub(crate) fn new(file: FileRow, content: String) -> FileBody {
        FileBody {
            revision: rev_name(file.revision),
            content_hash: hex::encode(file.hash),
            encoding: file.base64.then_some("base64"),
            last_edited_at: timestamp(file.edited_ns),
            path: file.path,
            content_type: file.content_type,
            content,
            provider: file.provider,
            provider_object_id: file.object_id,
            semantics: file.semantics,
        }
    }
}

/// The answer to an accepted change.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    op_id: String,
    status: &'static str,
    target_revision: String,
    writeback: Writeback,
}

#[derive(Serialize)]
struct Writeback {
    provider: String,
    state: &'static str,
}

/// The name of an operation on the wire.
pub(crate) fn op_name(seq: i64) -> String {
    format!("op_{seq}")
}

fn accepted(written: Written) -> Reply {
    let body = Accepted {
        op_id: op_name(written.op),
        status: "queued",
        target_revision: rev_name(written.revision),
        writeback: Writeback { provider: written.provider, state: "pending" },
    };
    json_reply(StatusCode::ACCEPTED, &body)
}

fn rejected(rejected: Rejected, expected: &str) -> ApiError {
    match rejected {
        Rejected::NotFound => ApiError::not_found(),
        Rejected::Conflict { current, preview } => {
            let error = ApiError::new(StatusCode::CONFLICT, "revision_conflict", "revision conflict")
                .with("expectedRevision", expected)
                .with("currentRevision", rev_name(current));
            if preview.is_empty() { error } else { error.with("currentContentPreview", preview) }
        }
    }
}

/// The value of `If-Match` without `W/` and quotes; empty if there is none.
pub(crate) fn if_match(headers: &HeaderMap) -> String {
    let value = headers.get(header::IF_MATCH).map(|v| String::from_utf8_lossy(v.as_bytes())).unwrap_or_default();
    let value = value.trim();
    let value = value.strip_prefix("W/").or_else(|| value.strip_prefix("w/")).unwrap_or(value).trim();
    let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    unquoted.map_or(value, str::trim).to_owned()
}

fn required_if_match(headers: &HeaderMap) -> Result<String, ApiError> {
    match if_match(headers) {
        value if value.is_empty() => {
            Err(ApiError::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", "missing If-Match header"))
        }
        value => Ok(value),
    }
}

pub(crate) async fn read(call: Call) -> Result<Reply, ApiError> {
    let path = paths::normalize(call.path()?);
    let (file, content) = call.app.store.file(&call.workspace, &path)?.ok_or_else(ApiError::not_found)?;
    let etag = rev_name(file.revision);
    let mut reply = ok(&FileBody::new(file, content));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        reply.headers_mut().insert(header::ETAG, etag);
    }
    Ok(reply)
}

/// The body of a write.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WriteBody {
    content_type: Option<String>,
    content: Option<String>,
    encoding: Option<String>,
    semantics: Option<SemanticsBody>,
}

#[derive(Deserialize)]
struct SemanticsBody {
    properties: Option<BTreeMap<String, Value>>,
    relations: Option<Vec<Option<String>>>,
    permissions: Option<Vec<Option<String>>>,
    comments: Option<Vec<Option<String>>>,
}

impl SemanticsBody {
    /// Trimmed, sorted, without repetitions; property values become strings.
    fn normalize(self) -> Semantics {
        let list = |list: Option<Vec<Option<String>>>| {
            let mut out: Vec<String> = list.into_iter().flatten().flatten().map(|s| s.trim().to_owned()).collect();
            out.retain(|s| !s.is_empty());
            out.sort();
            out.dedup();
            out
        };
        let properties = self.properties.into_iter().flatten().map(|(k, v)| (k.trim().to_owned(), print(&v).trim().to_owned()));
        Semantics {
            properties: properties.filter(|(k, _)| !k.is_empty()).collect(),
            relations: list(self.relations),
            permissions: list(self.permissions),
            comments: list(self.comments),
        }
    }
}

/// A value as Go's `%v` prints it.
fn print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => match n.as_f64() {
            Some(f) if f != 0.0 && !(1e-4..1e21).contains(&f.abs()) => {
                let text = format!("{f:e}");
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
                format!("{digits}e{sign}{exponent:0>2}")
            }
            Some(f) => f.to_string(),
            None => n.to_string(),
        },
        Value::String(s) => s.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            format!("map[{}]", map.iter().map(|(k, v)| format!("{k}:{}", print(v))).collect::<Vec<_>>().join(" "))
        }
    }
}

/// Why content cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadContent {
    Encoding,
    Base64,
}

/// Checks `encoding` and `content`: whether it is base64, and the hash of the decoded bytes.
pub(crate) fn check_content(content: &str, encoding: &str) -> Result<(bool, [u8; 32]), BadContent> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "utf-8" | "utf8" => Ok((false, Sha256::digest(content.as_bytes()).into())),
        "base64" => {
            let bytes = decode_base64(content).ok_or(BadContent::Base64)?;
            Ok((true, Sha256::digest(&bytes).into()))
        }
        _ => Err(BadContent::Encoding),
    }
}

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
const PADDED: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const BARE: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireNone));

/// Standard alphabet, padded or bare; line ends are skipped.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|b| b == b'\n' || b == b'\r') {
        let joined: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        return PADDED.decode(&joined).or_else(|_| BARE.decode(&joined)).ok();
    }
    PADDED.decode(text).or_else(|_| BARE.decode(text)).ok()
}

/// Refuses a caller that the rules of an existing file, or of the directories above a new one, do not admit.
fn check_policy(call: &Call, path: &str) -> Result<(), ApiError> {
    match call.gate().map(|gate: Gate<'_>| gate.admits(&call.app.store, path, true)).transpose()? {
        Some(false) => Err(ApiError::forbidden("file access denied by permission policy")),
        _ => Ok(()),
    }
}

pub(crate) async fn write(mut call: Call) -> Result<Reply, ApiError> {
    let path = paths::normalize(call.path()?);
    let if_match = required_if_match(&call.headers)?;
    check_policy(&call, &path)?;
    let body: WriteBody = call.json().await?;
    let content = body.content.unwrap_or_default();
    let (base64, hash) =
        check_content(&content, body.encoding.as_deref().unwrap_or("")).map_err(|_| ApiError::invalid_input())?;
    let content_type = body.content_type.filter(|t| !t.is_empty()).unwrap_or_else(|| DEFAULT_CONTENT_TYPE.into());
    let file = FileWrite {
        path,
        if_match: Some(if_match.clone()),
        content_type,
        body: content,
        base64,
        hash,
        semantics: body.semantics.map(SemanticsBody::normalize),
        correlation_id: call.correlation_id,
        identity: None,
    };
    let workspace = call.workspace;
    let outcome = call.app.store.write(move |tx| tx.put(&workspace, file)).await?;
    outcome.map(accepted).map_err(|r| rejected(r, &if_match))
}

pub(crate) async fn delete(call: Call) -> Result<Reply, ApiError> {
    let path = paths::normalize(call.path()?);
    let if_match = required_if_match(&call.headers)?;
    check_policy(&call, &path)?;
    let (workspace, expected, correlation_id) = (call.workspace, if_match.clone(), call.correlation_id);
    let outcome = call.app.store.write(move |tx| tx.delete(&workspace, &path, &expected, correlation_id)).await?;
    outcome.map(accepted).map_err(|r| rejected(r, &if_match))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_if_match_may_be_weak_and_quoted() {
        let header = |v: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, HeaderValue::from_str(v).expect("header"));
            if_match(&headers)
        };
        assert_eq!(header("rev_1"), "rev_1");
        assert_eq!(header("\"rev_1\""), "rev_1");
        assert_eq!(header("W/\"rev_1\""), "rev_1");
        assert_eq!(header("*"), "*");
        assert_eq!(header("  "), "");
    }

    #[test]
    fn base64_is_taken_padded_bare_and_folded() {
        for (text, want) in
            [("AAECA/8=", Some(5)), ("AAECA/8", Some(5)), ("AAEC\r\nA/8=", Some(5)), ("@@@", None), ("A", None), ("", Some(0))]
        {
            assert_eq!(decode_base64(text).map(|b| b.len()), want, "{text:?}");
        }
        assert_eq!(check_content("x", "gzip"), Err(BadContent::Encoding));
        assert_eq!(check_content("@@@", "BASE64"), Err(BadContent::Base64));
    }

    #[test]
    fn property_values_print_as_go_prints_them() {
        let parsed = |s: &str| print(&serde_json::from_str(s).expect("json"));
        for (json, want) in [
            ("5", "5"),
            ("1.5", "1.5"),
            ("true", "true"),
            ("null", "<nil>"),
            ("1e21", "1e+21"),
            ("[1,\"a\"]", "[1 a]"),
            ("{\"a\":1}", "map[a:1]"),
        ] {
            assert_eq!(parsed(json), want);
        }
    }
}
