//! Rows as the rest of the server sees them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The name of revision `n` on the wire.
pub(crate) fn rev_name(n: i64) -> String {
    format!("rev_{n}")
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Semantics {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relations: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comments: Vec<String>,
}

impl Semantics {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Semantics::default()
    }

    /// The stored form; `None` for nothing.
    pub(super) fn to_column(&self) -> Option<String> {
        if self.is_empty() { None } else { serde_json::to_string(self).ok() }
    }

    pub(super) fn from_column(text: Option<String>) -> Semantics {
        text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default()
    }
}

/// A file without its content.
#[derive(Debug, Clone)]
pub(crate) struct FileRow {
    pub path: String,
    pub revision: i64,
    pub hash: [u8; 32],
    /// Length in bytes of the stored string: for base64 content the encoded length.
    pub size: u64,
    pub base64: bool,
    pub edited_ns: i64,
    pub(super) content: i64,
    pub content_type: String,
    pub provider: String,
    pub object_id: Option<String>,
    pub semantics: Semantics,
}

impl FileRow {
    pub(super) const COLUMNS: &'static str =
        "path, revision, hash, size, base64, edited_ns, content, content_type, provider, object_id, semantics";

    pub(super) fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<FileRow> {
        Ok(FileRow {
            path: row.get(0)?,
            revision: row.get(1)?,
            hash: row.get(2)?,
            size: row.get::<_, i64>(3)? as u64,
            base64: row.get(4)?,
            edited_ns: row.get(5)?,
            content: row.get(6)?,
            content_type: row.get(7)?,
            provider: row.get(8)?,
            object_id: row.get(9)?,
            semantics: Semantics::from_column(row.get(10)?),
        })
    }
}

/// One line of a tree listing.
#[derive(Debug, Clone)]
pub(crate) enum TreeRow {
    Dir(String),
    File(Box<FileRow>),
}

impl TreeRow {
    pub(crate) fn path(&self) -> &str {
        match self {
            TreeRow::Dir(path) => path,
            TreeRow::File(file) => &file.path,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventType {
    Created,
    Updated,
    Deleted,
}

impl EventType {
    pub(crate) fn name(self) -> &'static str {
        match self {
            EventType::Created => "file.created",
            EventType::Updated => "file.updated",
            EventType::Deleted => "file.deleted",
        }
    }

    pub(super) fn code(self) -> i64 {
        self as i64
    }

    fn from_code(code: i64) -> EventType {
        match code {
            0 => EventType::Created,
            1 => EventType::Updated,
            _ => EventType::Deleted,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    AgentWrite,
    System,
}

impl Origin {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Origin::AgentWrite => "agent_write",
            Origin::System => "system",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct EventRow {
    pub seq: i64,
    pub ws: i64,
    pub kind: EventType,
    pub origin: Origin,
    pub path: String,
    pub revision: i64,
    pub hash: Option<[u8; 32]>,
    pub provider: String,
    pub correlation_id: String,
    pub at_ns: i64,
}

impl EventRow {
    pub(super) const COLUMNS: &'static str = "seq, ws, type, origin, path, revision, hash, provider, correlation_id, at_ns";

    pub(super) fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<EventRow> {
        Ok(EventRow {
            seq: row.get(0)?,
            ws: row.get(1)?,
            kind: EventType::from_code(row.get(2)?),
            origin: if row.get::<_, i64>(3)? == 0 { Origin::AgentWrite } else { Origin::System },
            path: row.get(4)?,
            revision: row.get(5)?,
            hash: row.get(6)?,
            provider: row.get(7)?,
            correlation_id: row.get(8)?,
            at_ns: row.get(9)?,
        })
    }
}

/// An idempotency key of a write. Repeats within `ttlSeconds` (absent or 0: for ever) return the first result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContentIdentity {
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub key: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ttl_seconds: i64,
}

impl ContentIdentity {
    /// Without white space around its parts, as it is compared.
    pub(crate) fn trimmed(self) -> ContentIdentity {
        ContentIdentity { kind: self.kind.trim().to_owned(), key: self.key.trim().to_owned(), ..self }
    }
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[derive(Debug, Clone)]
pub(crate) struct OpRow {
    pub seq: i64,
    pub path: String,
    pub revision: i64,
    pub action: String,
    pub provider: String,
    pub status: String,
    pub attempts: i64,
    pub last_error: Option<String>,
    pub provider_result: Option<String>,
    pub identity: Option<ContentIdentity>,
    pub correlation_id: String,
    pub created_ns: i64,
    pub updated_ns: i64,
    pub completed_ns: Option<i64>,
}

impl OpRow {
    pub(super) const COLUMNS: &'static str = "seq, path, revision, action, provider, status, attempts, last_error, \
         provider_result, identity_kind, identity_key, identity_ttl, correlation_id, created_ns, updated_ns, completed_ns";

    pub(super) fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<OpRow> {
        let key: Option<String> = row.get(10)?;
        let identity = match key {
            Some(key) => Some(ContentIdentity {
                kind: row.get::<_, Option<String>>(9)?.unwrap_or_default(),
                key,
                ttl_seconds: row.get::<_, Option<i64>>(11)?.unwrap_or(0),
            }),
            None => None,
        };
        Ok(OpRow {
            seq: row.get(0)?,
            path: row.get(1)?,
            revision: row.get(2)?,
            action: row.get(3)?,
            provider: row.get(4)?,
            status: row.get(5)?,
            attempts: row.get(6)?,
            last_error: row.get(7)?,
            provider_result: row.get(8)?,
            identity,
            correlation_id: row.get(12)?,
            created_ns: row.get(13)?,
            updated_ns: row.get(14)?,
            completed_ns: row.get(15)?,
        })
    }
}
