//! What the files of a dead letter say. The names of the fields are those of the ecosystem's older tools; what we add comes
//! behind, and readers ignore what they do not know.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Identity;
use crate::ids::OpId;
use crate::journal::{Attempt, OpKind, Operation};

/// `<opId>.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Absent in some old records, which then take their file name.
    pub op_id: Option<String>,
    /// The whole path at the remote.
    pub path: String,
    pub attempts: u32,
    pub last_status: Option<u16>,
    pub last_body: Option<String>,
    /// When it died, RFC 3339.
    pub ts: String,
    pub code: Option<String>,
    pub message: Option<String>,
    pub created_at: Option<String>,
    pub last_attempted_at: Option<String>,
    pub replay_url: Option<String>,
    // From here on ours alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    /// The remote's id of an operation that it has accepted, and its provider refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_op: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<PastAttempt>,
    /// The commands that end it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Payload {
    /// Hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PastAttempt {
    pub at: String,
    pub status: Option<u16>,
    pub code: String,
    pub message: String,
}

/// `<opId>.error.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    pub code: SidecarCode,
    pub message: String,
    pub provider_status: Option<u16>,
    pub provider_response: Value,
    /// At least 1.
    pub attempts: u32,
    pub first_attempt_at: String,
    pub last_attempt_at: String,
    pub op_id: String,
}

/// The class of a refusal. The first four are the older tools', the others ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SidecarCode {
    SchemaViolation,
    #[serde(rename = "provider_4xx")]
    Provider4xx,
    #[serde(rename = "provider_5xx_exhausted")]
    Provider5xxExhausted,
    Timeout,
    Conflict,
    PayloadTooLarge,
    Unauthorized,
    /// A writer died in the middle; nothing was sent.
    Unflushed,
    /// The remote has it, and its provider has refused it.
    Delivery,
    /// The bytes cannot be read from this disk.
    LocalIo,
}

impl SidecarCode {
    pub fn of(status: Option<u16>, code: &str) -> SidecarCode {
        match (code, status) {
            ("conflict", _) => SidecarCode::Conflict,
            ("unflushed", _) => SidecarCode::Unflushed,
            ("delivery", _) => SidecarCode::Delivery,
            ("local_io", _) => SidecarCode::LocalIo,
            (_, Some(413)) => SidecarCode::PayloadTooLarge,
            (_, Some(401)) => SidecarCode::Unauthorized,
            (_, Some(408)) | ("timeout", _) => SidecarCode::Timeout,
            (_, Some(409 | 412)) => SidecarCode::Conflict,
            (_, Some(422)) => SidecarCode::SchemaViolation,
            (code, Some(400..=499)) if code.contains("schema") => SidecarCode::SchemaViolation,
            (_, Some(400..=499)) => SidecarCode::Provider4xx,
            _ => SidecarCode::Provider5xxExhausted,
        }
    }
}

/// Longest part of a body that is no JSON object, as the journal keeps it.
const BODY_KEPT: usize = 1024;

/// A dead letter as both of its files tell it.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    pub record: Record,
    pub sidecar: Sidecar,
}

impl Letter {
    /// `place` is how the state is named in the commands to type: a state directory as a shell word.
    pub fn new(op: &Operation, past: &[Attempt], identity: &Identity, place: &str) -> Letter {
        let code = op.last_code.clone().unwrap_or_else(|| "unknown".into());
        let message = op.last_error.clone().unwrap_or_default();
        let (id, last) = (op.op.to_string(), rfc3339(op.updated_at));
        let first = past.first().map_or_else(|| last.clone(), |a| rfc3339(a.at));
        let body = op.last_body.clone().filter(|b| !b.is_empty());
        let attempts = op.attempts.max(1);
        Letter {
            record: Record {
                op_id: Some(id.clone()),
                path: identity.full_path(&op.path),
                attempts,
                last_status: op.last_status,
                last_body: body.clone(),
                ts: last.clone(),
                code: Some(code.clone()),
                message: Some(message.clone()),
                created_at: Some(rfc3339(op.created_at)),
                last_attempted_at: Some(last.clone()),
                replay_url: op.remote_op.as_deref().filter(|_| op.replay).and_then(|id| replay_url(identity, id)),
                kind: Some(op.kind.as_str().to_owned()),
                workspace_id: Some(identity.workspace.clone()),
                base_url: Some(identity.base_url.clone()).filter(|u| !u.is_empty()),
                remote_root: Some(identity.remote_root.clone()),
                base_revision: op.base.as_ref().map(|b| b.revision.to_string()),
                // What the remote has is not kept here as well.
                payload: op.payload.filter(|_| !op.replay).map(|(hash, size)| Payload { sha256: hash.to_string(), size }),
                remote_op: op.remote_op.clone().filter(|_| op.replay),
                history: past.iter().map(PastAttempt::new).collect(),
                next: next_commands(op, place),
            },
            sidecar: Sidecar {
                code: SidecarCode::of(op.last_status, &code),
                message,
                provider_status: op.last_status,
                provider_response: provider_response(body.as_deref()),
                attempts,
                first_attempt_at: first,
                last_attempt_at: last,
                op_id: id,
            },
        }
    }

    pub fn record_bytes(&self) -> Vec<u8> {
        pretty(&self.record)
    }

    pub fn sidecar_bytes(&self) -> Vec<u8> {
        pretty(&self.sidecar)
    }
}

impl PastAttempt {
    pub fn new(a: &Attempt) -> PastAttempt {
        PastAttempt { at: rfc3339(a.at), status: a.status, code: a.code.clone(), message: a.message.clone() }
    }
}

impl Record {
    /// Reads a record. `file_op` is the id in the name of its file, which it must agree with.
    pub fn parse(bytes: &[u8], file_op: &OpId) -> Result<Record, String> {
        let not_one = |e: serde_json::Error| format!("not a dead-letter record: {e}");
        let value: Value = serde_json::from_slice(bytes).map_err(not_one)?;
        if !value.is_object() {
            return Err("not a dead-letter record: it is no JSON object".into());
        }
        let record: Record = serde_json::from_value(value).map_err(not_one)?;
        match &record.op_id {
            Some(id) if id != file_op.as_str() => return Err(format!("it says opId {id:?}, its file name says {file_op}")),
            _ => {}
        }
        if !record.path.starts_with('/') {
            return Err(format!("its path {:?} is not absolute", record.path.chars().take(200).collect::<String>()));
        }
        Ok(Record { op_id: Some(file_op.to_string()), ..record })
    }

    /// Written by this program.
    pub fn is_ours(&self) -> bool {
        self.kind.is_some() && self.workspace_id.is_some()
    }

    /// Whether it was made under another identity than this; says which part differs.
    pub fn differs_from(&self, identity: &Identity) -> Option<String> {
        let parts = [
            ("workspace", &self.workspace_id, &identity.workspace),
            ("base URL", &self.base_url, &identity.base_url),
            ("remote root", &self.remote_root, &identity.remote_root),
        ];
        parts.into_iter().find_map(|(what, theirs, ours)| match theirs {
            // What is not known here differs from nothing.
            Some(theirs) if theirs != ours && !ours.is_empty() => {
                Some(format!("its {what} is {theirs:?}, this state directory's is {ours:?}"))
            }
            _ => None,
        })
    }
}

/// The commands that end a letter, the likeliest first.
fn next_commands(op: &Operation, place: &str) -> Vec<String> {
    let id = &op.op;
    let conflict = op.last_code.as_deref() == Some("conflict");
    let force = if conflict { " --force" } else { "" };
    let mut next = vec![format!("relayfile writeback retry --opId {id}{force} {place}")];
    if op.kind == OpKind::Put || conflict || op.replay {
        next.push(format!("relayfile writeback discard {id} {place}"));
    }
    next
}

/// Where the remote takes the wish to deliver once more; `None` where the base URL is not known.
fn replay_url(identity: &Identity, remote_op: &str) -> Option<String> {
    (!identity.base_url.is_empty()).then(|| crate::remote::replay_url(&identity.base_url, &identity.workspace, remote_op))
}

/// The remote's words as an object: schema-checked readers accept nothing else.
fn provider_response(body: Option<&str>) -> Value {
    match body {
        None => json!({}),
        Some(text) => match serde_json::from_str::<Value>(text) {
            Ok(object @ Value::Object(_)) => object,
            _ => json!({ "raw": text, "truncated": text.len() >= BODY_KEPT }),
        },
    }
}

fn pretty(value: &impl Serialize) -> Vec<u8> {
    let mut out = serde_json::to_vec_pretty(value).expect("strings and numbers always serialize");
    out.push(b'\n');
    out
}

/// Milliseconds since the epoch as RFC 3339 in UTC.
pub fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> OpId {
        "op_0123456789".parse().unwrap()
    }

    #[test]
    fn an_old_record_without_an_id_takes_its_file_name() {
        let record =
            Record::parse(br#"{"path":"/a","attempts":3,"lastStatus":400,"lastBody":"no","ts":"t","x":1}"#, &id()).unwrap();
        assert_eq!(record.op_id.as_deref(), Some("op_0123456789"));
        assert_eq!((record.attempts, record.last_status, record.is_ours()), (3, Some(400), false));
    }

    #[test]
    fn what_is_not_a_record_is_refused_with_the_reason() {
        for (bytes, word) in [
            (&b"{"[..], "not a dead-letter record"),
            (b"[]", "not a dead-letter record"),
            (b"\xff", "not a dead-letter record"),
            (br#"{"path":"/a","attempts":"many"}"#, "not a dead-letter record"),
            (br#"{"opId":"op_9876543210","path":"/a"}"#, "file name"),
            (br#"{"opId":"op_0123456789"}"#, "not absolute"),
            (br#"{"path":"../../etc/passwd"}"#, "not absolute"),
        ] {
            assert!(Record::parse(bytes, &id()).unwrap_err().contains(word), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_record_of_another_workspace_is_recognised() {
        let ours = Identity { workspace: "ws".into(), base_url: "http://h".into(), remote_root: "/".into() };
        let record = |field: &str| Record::parse(format!(r#"{{"path":"/a",{field}}}"#).as_bytes(), &id()).unwrap();
        assert_eq!(record(r#""workspaceId":"ws","baseUrl":"http://h","remoteRoot":"/""#).differs_from(&ours), None);
        assert_eq!(record(r#""ts":"t""#).differs_from(&ours), None, "an old record does not say");
        for field in [r#""workspaceId":"other""#, r#""baseUrl":"http://elsewhere""#, r#""remoteRoot":"/linear""#] {
            assert!(record(field).differs_from(&ours).is_some(), "{field}");
        }
    }

    #[test]
    fn every_refusal_has_its_class() {
        use SidecarCode as C;
        for (status, code, class) in [
            (Some(400), "bad_request", C::Provider4xx),
            (Some(400), "schema_violation", C::SchemaViolation),
            (Some(401), "unauthorized", C::Unauthorized),
            (Some(403), "forbidden", C::Provider4xx),
            (Some(408), "timeout", C::Timeout),
            (Some(409), "revision_conflict", C::Conflict),
            (None, "conflict", C::Conflict),
            (Some(413), "payload_too_large", C::PayloadTooLarge),
            (Some(422), "invalid", C::SchemaViolation),
            (Some(429), "rate_limited", C::Provider4xx),
            (Some(503), "unavailable", C::Provider5xxExhausted),
            (None, "unflushed", C::Unflushed),
            (None, "local_io", C::LocalIo),
        ] {
            assert_eq!(SidecarCode::of(status, code), class, "{status:?} {code}");
        }
        let names: Vec<String> = [C::SchemaViolation, C::Provider4xx, C::Provider5xxExhausted, C::Timeout]
            .iter()
            .map(|c| serde_json::to_string(c).unwrap())
            .collect();
        assert_eq!(names, ["\"schema_violation\"", "\"provider_4xx\"", "\"provider_5xx_exhausted\"", "\"timeout\""]);
    }

    #[test]
    fn a_body_is_always_an_object() {
        assert_eq!(provider_response(None), json!({}));
        assert_eq!(provider_response(Some(r#"{"code":"x"}"#)), json!({"code": "x"}));
        assert_eq!(provider_response(Some("<html>")), json!({"raw": "<html>", "truncated": false}));
        assert_eq!(provider_response(Some("[1]"))["raw"], "[1]");
    }
}
