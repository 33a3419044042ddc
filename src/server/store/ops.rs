//! Operations: the delivery of accepted writes to a provider, as far as this server follows it.

use rusqlite::{OptionalExtension, params};

use super::read::workspace_id;
use super::types::{ContentIdentity, EventType, FileRow, OpRow, Origin};
use super::writer::WriteTx;
use super::{Store, StoreError};
use crate::server::paths;

/// Operations that one answer of "what is pending" holds, oldest first.
const PENDING_SHOWN: i64 = 1024;

/// What `GET /ops` can ask for; empty fields ask for nothing.
#[derive(Debug, Default)]
pub(crate) struct OpFilter {
    pub status: String,
    pub action: String,
    pub provider: String,
}

/// A consumer's report of one delivery.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    pub success: bool,
    pub error: Option<String>,
    pub external_id: String,
    pub canonical_path: String,
    /// JSON object, without the reserved `providerRevision`.
    pub provider_result: serde_json::Map<String, serde_json::Value>,
}

/// What an acknowledgement with an external id did to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Draft {
    None,
    Renamed {
        from: String,
        to: String,
    },
    /// The record had already appeared under its own name.
    Removed {
        from: String,
    },
}

/// The result of asking for a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replay {
    Queued,
    NotFound,
    NotDeadLettered,
}

impl Store {
    pub(crate) fn op(&self, workspace: &str, seq: i64) -> Result<Option<OpRow>, StoreError> {
        self.read(|conn| {
            conn.prepare_cached(&format!(
                "SELECT {} FROM ops WHERE seq = ?1 AND ws = (SELECT id FROM workspaces WHERE name = ?2)",
                OpRow::COLUMNS
            ))?
            .query_row(params![seq, workspace], OpRow::from_row)
            .optional()
        })
    }

    /// Operations, newest first, after `cursor`, and whether there are more. `None` if the cursor is not among them.
    pub(crate) fn ops(
        &self,
        workspace: &str,
        filter: &OpFilter,
        cursor: Option<Option<i64>>,
        limit: usize,
    ) -> Result<Option<(Vec<OpRow>, bool)>, StoreError> {
        const MATCH: &str = "(?3 = '' OR status = ?3) AND (?4 = '' OR action = ?4) AND (?5 = '' OR provider = ?5)";
        self.read(|conn| {
            let Some(ws) = workspace_id(conn, workspace)? else { return Ok(cursor.is_none().then(|| (Vec::new(), false))) };
            let before = match cursor {
                None => i64::MAX,
                Some(None) => return Ok(None),
                Some(Some(seq)) => {
                    let known = conn
                        .prepare_cached(&format!("SELECT 1 FROM ops WHERE ws = ?1 AND seq = ?2 AND {MATCH}"))?
                        .exists(params![ws, seq, filter.status, filter.action, filter.provider])?;
                    if !known {
                        return Ok(None);
                    }
                    seq
                }
            };
            let mut rows: Vec<OpRow> = conn
                .prepare_cached(&format!(
                    "SELECT {} FROM ops INDEXED BY ops_ws WHERE ws = ?1 AND seq < ?2 AND {MATCH} ORDER BY seq DESC LIMIT ?6",
                    OpRow::COLUMNS
                ))?
                .query_map(params![ws, before, filter.status, filter.action, filter.provider, limit as i64 + 1], OpRow::from_row)?
                .collect::<Result<_, _>>()?;
            let more = rows.len() > limit;
            rows.truncate(limit);
            Ok(Some((rows, more)))
        })
    }

    /// What waits for a consumer, oldest first, at most 1024.
    pub(crate) fn pending(&self, workspace: &str) -> Result<Vec<OpRow>, StoreError> {
        self.read(|conn| {
            conn.prepare_cached(&format!(
                "SELECT {} FROM ops WHERE ws = (SELECT id FROM workspaces WHERE name = ?1) AND status = 'pending' \
                 ORDER BY seq LIMIT ?2",
                OpRow::COLUMNS
            ))?
            .query_map(params![workspace, PENDING_SHOWN], OpRow::from_row)?
            .collect()
        })
    }

    /// How many operations wait, over all workspaces, counted up to the capacity of one answer.
    pub(crate) fn pending_depth(&self) -> Result<i64, StoreError> {
        self.read(|conn| {
            conn.query_row("SELECT count(*) FROM (SELECT 1 FROM ops WHERE status = 'pending' LIMIT ?1)", [PENDING_SHOWN], |r| {
                r.get(0)
            })
        })
    }

    /// The operation that a content identity names, if it has not expired.
    pub(crate) fn op_with_identity(
        &self,
        workspace: &str,
        identity: &ContentIdentity,
        now_ns: i64,
    ) -> Result<Option<OpRow>, StoreError> {
        self.read(|conn| match workspace_id(conn, workspace)? {
            Some(ws) => by_identity(conn, ws, identity, now_ns),
            None => Ok(None),
        })
    }
}

fn by_identity(conn: &rusqlite::Connection, ws: i64, identity: &ContentIdentity, now_ns: i64) -> rusqlite::Result<Option<OpRow>> {
    if identity.kind.trim().is_empty() || identity.key.trim().is_empty() {
        return Ok(None);
    }
    // The life of an identity is what its first use said.
    conn.prepare_cached(&format!(
        "SELECT {} FROM ops WHERE ws = ?1 AND identity_kind = ?2 AND identity_key = ?3 \
         AND (identity_ttl <= 0 OR created_ns > ?4 - identity_ttl * 1000000000) ORDER BY seq LIMIT 1",
        OpRow::COLUMNS
    ))?
    .query_row(params![ws, identity.kind.trim(), identity.key.trim(), now_ns], OpRow::from_row)
    .optional()
}

impl WriteTx<'_> {
    pub(super) fn op_by_identity(&self, ws: i64, identity: &ContentIdentity) -> rusqlite::Result<Option<OpRow>> {
        by_identity(self.conn, ws, identity, self.now_ns)
    }

    /// Keeps `result` (a JSON object) with an operation.
    pub(crate) fn set_provider_result(&self, op: i64, result: &serde_json::Value) -> rusqlite::Result<()> {
        self.conn
            .prepare_cached("UPDATE ops SET provider_result = ?2 WHERE seq = ?1")?
            .execute(params![op, result.to_string()])?;
        Ok(())
    }

    /// Records a delivery; with an external id the file moves to the name that it gives. `None`: no such operation.
    pub(crate) fn ack(&mut self, workspace: &str, seq: i64, ack: Ack, correlation_id: &str) -> rusqlite::Result<Option<Draft>> {
        let Some(ws) = self.find_workspace(workspace)? else { return Ok(None) };
        let Some(op) = self
            .conn
            .prepare_cached(&format!("SELECT {} FROM ops WHERE seq = ?1 AND ws = ?2", OpRow::COLUMNS))?
            .query_row(params![seq, ws], OpRow::from_row)
            .optional()?
        else {
            return Ok(None);
        };
        let external_id = ack.external_id.trim().to_owned();
        let (status, last_error, result) = if ack.success {
            let mut result = ack.provider_result;
            if !external_id.is_empty() {
                result.insert("externalId".into(), external_id.clone().into());
            }
            result.insert("providerRevision".into(), super::rev_name(op.revision).into());
            ("succeeded", None, Some(serde_json::Value::Object(result).to_string()))
        } else {
            ("dead_lettered", ack.error.filter(|e| !e.is_empty()).or(op.last_error.clone()), op.provider_result.clone())
        };
        self.conn
            .prepare_cached(
                "UPDATE ops SET status = ?2, last_error = ?3, provider_result = ?4, updated_ns = ?5, completed_ns = ?5 WHERE seq = ?1",
            )?
            .execute(params![seq, status, last_error, result, self.now_ns])?;
        if !ack.success || external_id.is_empty() {
            return Ok(Some(Draft::None));
        }
        self.reconcile(ws, &op, &external_id, &ack.canonical_path, correlation_id).map(Some)
    }

    /// Moves an agent's draft to the name that the provider gave it. No operation comes of it: the events say `system`.
    fn reconcile(
        &mut self,
        ws: i64,
        op: &OpRow,
        external_id: &str,
        canonical: &str,
        correlation_id: &str,
    ) -> rusqlite::Result<Draft> {
        if op.action == "file_delete" || op.path == "/" {
            return Ok(Draft::None);
        }
        let Some(file) = self.file(ws, &op.path)? else { return Ok(Draft::None) };
        let provider = if file.provider.trim().is_empty() { op.provider.clone() } else { file.provider.clone() };
        if provider.is_empty() || file.object_id.is_some() {
            return Ok(Draft::None);
        }
        let known: Option<String> = self
            .conn
            .prepare_cached("SELECT path FROM entries WHERE ws = ?1 AND provider = ?2 AND object_id = ?3 AND path <> ?4")?
            .query_row(params![ws, provider, external_id, file.path], |r| r.get(0))
            .optional()?;
        let Some(target) = draft_target(&file.path, &provider, external_id, canonical) else { return Ok(Draft::None) };
        if target == file.path && known.is_none() {
            return Ok(Draft::None);
        }
        let revision = self.next_revision();
        let from = file.path.clone();
        if known.is_some() || self.file(ws, &target)?.is_some() {
            self.remove_file(ws, &file)?;
            self.emit(ws, EventType::Deleted, Origin::System, &from, revision, None, &provider, correlation_id)?;
            return Ok(Draft::Removed { from });
        }
        self.remove_row(ws, &from)?;
        let moved = FileRow {
            path: target.clone(),
            revision,
            provider: provider.clone(),
            object_id: Some(external_id.to_owned()),
            edited_ns: self.now_ns,
            ..file
        };
        self.put_row(ws, &moved, true)?;
        self.emit(ws, EventType::Deleted, Origin::System, &from, revision, None, &provider, correlation_id)?;
        self.emit(ws, EventType::Created, Origin::System, &target, revision, Some(moved.hash), &provider, correlation_id)?;
        Ok(Draft::Renamed { from, to: target })
    }

    /// Puts a dead-lettered operation back in the queue. `workspace` `None` looks in all of them.
    pub(crate) fn replay(&mut self, workspace: Option<&str>, seq: i64, correlation_id: &str) -> rusqlite::Result<Replay> {
        let status: Option<String> = self
            .conn
            .prepare_cached(
                "SELECT status FROM ops WHERE seq = ?1 AND (?2 IS NULL OR ws = (SELECT id FROM workspaces WHERE name = ?2))",
            )?
            .query_row(params![seq, workspace], |r| r.get(0))
            .optional()?;
        match status.as_deref() {
            None => Ok(Replay::NotFound),
            Some("dead_lettered") => {
                self.conn
                    .prepare_cached(
                        "UPDATE ops SET status = 'pending', attempts = 0, last_error = NULL, completed_ns = NULL, \
                         correlation_id = ?2, updated_ns = ?3 WHERE seq = ?1",
                    )?
                    .execute(params![seq, correlation_id, self.now_ns])?;
                Ok(Replay::Queued)
            }
            Some(_) => Ok(Replay::NotDeadLettered),
        }
    }
}

/// Where a draft belongs: the path that the consumer gave, if the provider is the same, else the external id beside the
/// draft, with the draft's extension.
fn draft_target(draft: &str, provider: &str, external_id: &str, canonical: &str) -> Option<String> {
    if !canonical.trim().is_empty() {
        let path = paths::normalize(canonical.trim());
        if path != "/" && path.len() <= paths::PATH_MAX && paths::provider_of(&path) == provider {
            return Some(path);
        }
    }
    let safe = external_id.replace(['/', '\\', ' '], "_");
    let safe = safe.trim_matches('.');
    if safe.is_empty() {
        return None;
    }
    let (dir, name) = draft.rsplit_once('/').unwrap_or(("", draft));
    let extension = name.rfind('.').map_or(".json", |at| &name[at..]);
    let extension = if extension == "." { ".json" } else { extension };
    let path = format!("{dir}/{safe}{extension}");
    (path.len() <= paths::PATH_MAX).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::draft_target;

    #[test]
    fn a_draft_takes_the_external_id_as_its_name() {
        assert_eq!(draft_target("/ws/draft.json", "ws", "X9", ""), Some("/ws/X9.json".into()));
        assert_eq!(draft_target("/dir/a.txt", "dir", "EXT1", ""), Some("/dir/EXT1.txt".into()));
        assert_eq!(draft_target("/dir/a", "dir", "a/../b", ""), Some("/dir/a_.._b.json".into()));
        assert_eq!(draft_target("/dir/a", "dir", "..", ""), None);
        assert_eq!(draft_target("/dir/a", "dir", "x", "/dir/deep/x.md"), Some("/dir/deep/x.md".into()));
        assert_eq!(draft_target("/dir/a.md", "dir", "x", "/other/x.md"), Some("/dir/x.md".into()));
    }
}
