//! The JSON of the wire, and its translation. Unknown fields are ignored; what is missing is `None`.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{
    BulkItem, Delivery, DeliveryPage, DeliveryState, Depth, EventKind, EventPage, InlineContent, ListedFile, RemoteEvent,
    RemoteFile, TreePage,
};
use crate::ids::{ContentHash, Revision};
use crate::path::{InvalidPath, RemotePath};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PutBody<'a> {
    pub content_type: &'a str,
    pub content: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
}

impl<'a> PutBody<'a> {
    /// Text goes as it is; the remote silently mangles what is not UTF-8, so that goes as base64.
    pub fn new(bytes: &'a [u8], content_type: &'a str) -> PutBody<'a> {
        match std::str::from_utf8(bytes) {
            // Text stays text, unless its escapes would carry it over a limit that base64 keeps: a control character takes six.
            Ok(text) if escaped_len(text) <= TEXT_JSON_MAX.max(bytes.len().div_ceil(3) * 4) => {
                PutBody { content_type, content: text.into(), encoding: None }
            }
            _ => PutBody { content_type, content: STANDARD.encode(bytes).into(), encoding: Some("base64") },
        }
    }
}

/// Text whose JSON is longer than this goes as base64 where that is shorter. Half of the default limit on a request body.
const TEXT_JSON_MAX: usize = 512 * 1024;

/// Bytes of a text as a JSON string (RFC 8259 §7), without its quotes.
fn escaped_len(text: &str) -> usize {
    let escaped = |b: u8| match b {
        b'"' | b'\\' | 0x08 | b'\t' | b'\n' | 0x0c | b'\r' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

/// The JSON around one file of a batch, its path, type and content aside; generously.
const BULK_ITEM_JSON: usize = 256;

/// See [`BulkItem::weight`].
pub(super) fn bulk_weight(item: &BulkItem<'_>) -> usize {
    let body = PutBody::new(item.bytes, item.content_type);
    let words = escaped_len(item.path.as_str()) + escaped_len(item.content_type) + escaped_len(&body.content);
    words + BULK_ITEM_JSON
}

#[derive(Serialize)]
pub(super) struct BulkBody<'a> {
    pub files: Vec<BulkFile<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BulkFile<'a> {
    pub path: String,
    #[serde(flatten)]
    pub body: PutBody<'a>,
    pub if_match: &'a str,
    pub content_identity: Identity<'a>,
}

#[derive(Deserialize)]
pub(super) struct BulkReplyBody {
    /// Absent or null when none was written.
    pub results: Option<Vec<BulkResult>>,
    pub errors: Option<Vec<BulkError>>,
    /// Without repeats.
    pub written: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BulkResult {
    pub path: String,
    pub revision: Option<String>,
    pub op_id: Option<String>,
    pub content_identity: Option<OpIdentity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BulkError {
    pub path: String,
    pub code: Option<String>,
    pub message: Option<String>,
    pub current_revision: Option<String>,
}

/// The content identity of an operation, as the remote repeats it.
#[derive(Deserialize)]
pub(super) struct OpIdentity {
    pub kind: Option<String>,
    pub key: Option<String>,
}

impl OpIdentity {
    /// The operation of ours that a batch has sent under this identity.
    pub fn batched(self) -> Option<String> {
        self.key.filter(|_| self.kind.as_deref() == Some(BULK_IDENTITY))
    }
}

/// The kind of content identity of a file in a batch. Not that of a merge: an operation may have asked for both, and the two
/// have different results.
pub(super) const BULK_IDENTITY: &str = "relayfile-mount-save";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AcceptedBody {
    pub op_id: Option<String>,
    pub status: Option<String>,
    pub code: Option<String>,
    pub target_revision: Option<String>,
    /// Of deployments that answer a repeat.
    pub revision: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileBody {
    pub path: Option<String>,
    pub revision: String,
    pub content_hash: Option<String>,
    pub content_type: Option<String>,
    #[serde(default)]
    pub content: String,
    pub encoding: Option<String>,
    pub last_edited_at: Option<String>,
}

impl FileBody {
    /// Decodes and checks; `Err` says what is wrong.
    pub fn into_file(self, path: RemotePath) -> Result<RemoteFile, String> {
        let bytes = match self.encoding.as_deref() {
            None | Some("" | "utf-8" | "utf8" | "text") => self.content.into_bytes(),
            Some("base64") => decode(self.content).map_err(|e| format!("its base64 is broken: {e}"))?,
            Some(other) => return Err(format!("its encoding {other:?} is unknown")),
        };
        let hash = ContentHash::of(&bytes);
        if let Some(said) = self.content_hash.filter(|h| !h.is_empty()) {
            let expected = ContentHash::from_hex(said.strip_prefix("sha256:").unwrap_or(&said))
                .ok_or_else(|| format!("its contentHash {said:?} is no SHA-256"))?;
            if expected != hash {
                return Err(format!("its bytes have the hash {hash}, but the remote says {expected}"));
            }
        }
        Ok(RemoteFile {
            path,
            revision: Revision::new(&self.revision),
            hash,
            content_type: self.content_type.filter(|t| !t.is_empty()).unwrap_or_else(|| "text/markdown".into()),
            bytes,
            edited_at_ms: self.last_edited_at.as_deref().and_then(millis),
        })
    }
}

/// The remote keeps base64 as it was sent, and decodes as Go does: line breaks are skipped, spare bits of the end are ignored.
fn decode(mut content: String) -> Result<Vec<u8>, base64::DecodeError> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    if content.contains(['\r', '\n']) {
        content.retain(|c| !matches!(c, '\r' | '\n'));
    }
    LENIENT.decode(content)
}

/// An element of a list that is used if it is what it should be; another one costs itself, not the list.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Perhaps<T> {
    Is(T),
    IsNot(IgnoredAny),
}

/// Of a list that may be null, but has to be there: without it the answer is somebody else's.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(from)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TreeBody {
    #[serde(deserialize_with = "present")]
    pub entries: Option<Vec<Perhaps<TreeEntry>>>,
    pub next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TreeEntry {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    revision: Option<String>,
    content_hash: Option<String>,
    size: Option<u64>,
    updated_at: Option<String>,
}

impl TreeBody {
    /// What the page shows below `dir`, both as the mount names them. Entries of unknown types, and those that were not asked
    /// for, are left out.
    pub fn into_page(self, root: &RemotePath, dir: &RemotePath, depth: Depth) -> TreePage {
        let mut page = TreePage { next_cursor: self.next_cursor.filter(|c| !c.is_empty()), ..TreePage::default() };
        for e in self.entries.unwrap_or_default() {
            let Perhaps::Is(e) = e else {
                log::warn!("an entry of the listing of {dir} makes no sense and is left out");
                continue;
            };
            let path = match below_root(root, &e.path) {
                Ok(Some(path)) => path,
                Ok(None) => continue,
                Err(_) if e.kind == "dir" && e.path == root.as_str() => continue,
                Err(why) => {
                    page.hidden.push((e.path, why));
                    continue;
                }
            };
            match path.below(dir) {
                Some(rest) if depth == Depth::All || !rest.contains('/') => {}
                _ => continue,
            }
            match (e.kind.as_str(), e.revision) {
                ("dir", _) => page.dirs.push(path),
                ("file", Some(revision)) => page.files.push(ListedFile {
                    path,
                    revision: Revision::new(&revision),
                    hash: e.content_hash.as_deref().and_then(ContentHash::from_hex),
                    stored_size: e.size.unwrap_or(0),
                    edited_at_ms: e.updated_at.as_deref().and_then(millis),
                }),
                _ => {}
            }
        }
        page
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventsBody {
    #[serde(deserialize_with = "present")]
    pub events: Option<Vec<EventBody>>,
    pub next_cursor: Option<String>,
}

/// An event, whatever its fields are: one that cannot be read must not take those around it along.
#[derive(Deserialize)]
#[serde(from = "Value")]
pub(super) struct EventBody {
    /// Empty when it has none that can be used.
    event_id: String,
    kind: String,
    path: Option<String>,
    revision: Option<String>,
    content_hash: Option<String>,
    origin: Option<String>,
    correlation_id: Option<String>,
    timestamp: Option<String>,
    /// A field that tells what has happened is not what the API says. Only a listing can tell then.
    odd: bool,
}

impl From<Value> for EventBody {
    fn from(said: Value) -> EventBody {
        let text = |key: &str| said.get(key).and_then(Value::as_str).map(str::to_owned);
        let is_odd = |key: &str| said.get(key).is_some_and(|v| !v.is_null() && !v.is_string());
        let (event_id, kind) = (text("eventId").unwrap_or_default(), text("type").unwrap_or_default());
        EventBody {
            odd: event_id.is_empty() || kind.is_empty() || ["path", "revision"].into_iter().any(is_odd),
            event_id,
            kind,
            path: text("path"),
            revision: text("revision"),
            content_hash: text("contentHash"),
            origin: text("origin"),
            correlation_id: text("correlationId"),
            timestamp: text("timestamp"),
        }
    }
}

impl EventsBody {
    pub fn into_page(self, root: &RemotePath) -> EventPage {
        let events = self.events.unwrap_or_default().into_iter().map(|e| e.into_event(root)).collect();
        EventPage { events, next_cursor: self.next_cursor.filter(|c| !c.is_empty()) }
    }
}

impl EventBody {
    fn into_event(self, root: &RemotePath) -> RemoteEvent {
        let (path, hidden) = match self.path.map(|p| (below_root(root, &p), p)) {
            Some((Ok(path), _)) => (path, None),
            Some((Err(why), wire)) => (None, Some((wire, why))),
            None => (None, None),
        };
        RemoteEvent {
            hidden,
            id: self.event_id,
            kind: match self.kind.as_str() {
                _ if self.odd => EventKind::Unreadable,
                "file.created" => EventKind::Created,
                "file.updated" => EventKind::Updated,
                "file.deleted" => EventKind::Deleted,
                "writeback.succeeded" | "writeback.failed" => EventKind::Delivery,
                _ => EventKind::Other,
            },
            path,
            revision: self.revision.map(|r| Revision::new(&r)),
            hash: self.content_hash.as_deref().and_then(ContentHash::from_hex),
            correlation_id: self.correlation_id.unwrap_or_default(),
            by_system: self.origin.as_deref() == Some("system"),
            at_ms: self.timestamp.as_deref().and_then(millis),
            content: None,
        }
    }
}

/// A frame of the live stream: an event, perhaps with the content of the file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StreamFrame {
    #[serde(flatten)]
    event: EventBody,
    #[serde(default)]
    inline_content: bool,
    #[serde(default)]
    content: String,
    encoding: Option<String>,
    content_type: Option<String>,
}

impl StreamFrame {
    /// `None` for a frame that is no event. Content without the promised hash is left out: it is fetched when it is needed.
    pub fn into_event(self, root: &RemotePath) -> Option<RemoteEvent> {
        // A pong, and what is not known, is only a sign of life.
        if self.event.event_id.is_empty() && !self.event.kind.starts_with("file.") {
            return None;
        }
        let mut event = self.event.into_event(root);
        if self.inline_content
            && let (Some(hash), Some(path)) = (event.hash, &event.path)
        {
            let body = FileBody {
                path: None,
                revision: String::new(),
                content_hash: Some(hash.to_string()),
                content_type: self.content_type,
                content: self.content,
                encoding: self.encoding,
                last_edited_at: None,
            };
            match body.into_file(path.clone()) {
                Ok(file) => event.content = Some(InlineContent { content_type: file.content_type, bytes: file.bytes }),
                Err(why) => log::warn!("the content of {} in event {} is not used: {why}", path, event.id),
            }
        }
        Some(event)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MergeBody<'a> {
    pub strategy: &'static str,
    pub base_revision: &'a str,
    pub base_content: &'a str,
    pub content: &'a str,
    pub content_type: &'a str,
    pub content_identity: Identity<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity<'a> {
    pub kind: &'static str,
    pub key: &'a str,
    pub ttl_seconds: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MergedBody {
    pub target_revision: String,
    pub merged_against_revision: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpsBody {
    #[serde(deserialize_with = "present")]
    pub items: Option<Vec<Perhaps<OpBody>>>,
    pub next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpBody {
    op_id: String,
    path: Option<String>,
    status: String,
    attempt_count: Option<Value>,
    last_error: Option<Value>,
    provider_result: Option<Value>,
    correlation_id: Option<String>,
    content_identity: Option<OpIdentity>,
}

impl OpsBody {
    pub fn into_page(self, root: &RemotePath) -> DeliveryPage {
        let told = |item| match item {
            Perhaps::Is(op) => Some(OpBody::into_delivery(op, root)),
            Perhaps::IsNot(_) => None,
        };
        DeliveryPage {
            deliveries: self.items.unwrap_or_default().into_iter().filter_map(told).collect(),
            next_cursor: self.next_cursor.filter(|c| !c.is_empty()),
        }
    }
}

impl OpBody {
    pub fn into_delivery(self, root: &RemotePath) -> Delivery {
        let mut words = serde_json::Map::new();
        words.insert("status".into(), self.status.clone().into());
        let said =
            [("attemptCount", &self.attempt_count), ("lastError", &self.last_error), ("providerResult", &self.provider_result)];
        words.extend(said.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?))));
        let mut words = Value::Object(words).to_string();
        words.truncate(words.floor_char_boundary(WORDS_MAX));
        Delivery {
            remote_op: self.op_id,
            path: self.path.and_then(|p| below_root(root, &p).ok().flatten()),
            state: match self.status.as_str() {
                "running" => DeliveryState::Running,
                "succeeded" => DeliveryState::Succeeded,
                "failed" => DeliveryState::Failed,
                "dead_lettered" => DeliveryState::DeadLettered,
                "canceled" => DeliveryState::Canceled,
                _ => DeliveryState::Pending,
            },
            attempts: self.attempt_count.and_then(|n| n.as_u64()).map_or(0, |n| n.try_into().unwrap_or(u32::MAX)),
            last_error: self.last_error.and_then(|e| match e {
                Value::Null => None,
                Value::String(text) => Some(text).filter(|t| !t.trim().is_empty()),
                other => Some(other.to_string()),
            }),
            words,
            // What a batch has written carries our id as its content identity alone.
            correlation_id: match self.correlation_id.filter(|id| !id.is_empty()) {
                Some(id) => id,
                None => self.content_identity.and_then(OpIdentity::batched).unwrap_or_default(),
            },
        }
    }
}

/// Bytes of what a provider has said that are kept.
const WORDS_MAX: usize = 1024;

/// An operation id of the remote that can be asked for: it becomes a segment of a URL, where dots would be resolved away.
pub fn usable_op(id: String) -> Option<String> {
    let usable = !id.is_empty() && id.len() <= 256 && !id.bytes().all(|b| b == b'.') && !id.chars().any(char::is_control);
    usable.then_some(id)
}

/// The path as the mount names it, below the remote root. `None`: outside of it. The root itself cannot be shown as an entry
/// of itself: a file of that name is hidden.
pub(super) fn below_root(root: &RemotePath, wire: &str) -> Result<Option<RemotePath>, InvalidPath> {
    let path: RemotePath = wire.parse()?;
    match path.below(root) {
        Some(rest) => format!("/{rest}").parse().map(Some),
        None if path == *root => Err(InvalidPath::EmptySegment),
        None => Ok(None),
    }
}

pub(super) fn millis(rfc3339: &str) -> Option<i64> {
    rfc3339.parse::<jiff::Timestamp>().ok().map(|t| t.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_come_back_as_they_went(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let body = serde_json::to_value(PutBody::new(&bytes, "x/y")).unwrap();
            let file = FileBody {
                path: None,
                revision: "r".into(),
                content_hash: Some(ContentHash::of(&bytes).to_string()),
                content_type: None,
                content: body["content"].as_str().unwrap().into(),
                encoding: body.get("encoding").map(|e| e.as_str().unwrap().into()),
                last_edited_at: None,
            };
            prop_assert_eq!(file.into_file("/p".parse().unwrap()).unwrap().bytes, bytes);
        }
    }

    #[test]
    fn bytes_that_do_not_have_the_promised_hash_are_refused() {
        let body = r#"{"revision":"rev_1","content":"x","contentHash":"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"}"#;
        let file: FileBody = serde_json::from_str(body).unwrap();
        assert!(file.into_file("/p".parse().unwrap()).unwrap_err().contains("hash"));
    }

    #[test]
    fn paths_are_shown_below_the_remote_root() {
        let root: RemotePath = "/m/n".parse().unwrap();
        assert_eq!(below_root(&root, "/m/n/a/b").unwrap().unwrap().as_str(), "/a/b");
        assert_eq!(below_root(&root, "/m/x").unwrap(), None);
        assert!(below_root(&root, "/m/n/../a").is_err());
        assert!(below_root(&RemotePath::root(), "/").is_err());
    }
}
