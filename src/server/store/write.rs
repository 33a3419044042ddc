//! Changes of files. Each decides first, then changes; what it returns is final once its transaction has committed.

use rusqlite::{OptionalExtension, params};

use super::types::{ContentIdentity, EventRow, EventType, FileRow, OpRow, Origin, Semantics, rev_name};
use super::writer::WriteTx;
use crate::server::paths;

/// The value of `If-Match`: `None` is unconditional, `"0"` is create only, `"*"` is anything, else the exact revision.
pub(crate) type Precondition = Option<String>;

/// One file to write; everything that can be computed outside of the writer thread already is.
#[derive(Debug, Clone)]
pub(crate) struct FileWrite {
    /// Normalised.
    pub path: String,
    pub if_match: Precondition,
    pub content_type: String,
    /// As received: for `base64` the encoded form.
    pub body: String,
    pub base64: bool,
    /// SHA-256 of the decoded bytes.
    pub hash: [u8; 32],
    /// `None` keeps what the file has.
    pub semantics: Option<Semantics>,
    pub correlation_id: String,
    pub identity: Option<ContentIdentity>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub op: i64,
    pub revision: i64,
    pub provider: String,
}

/// Why a change was refused; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejected {
    NotFound,
    Conflict { current: i64, preview: String },
}

/// What a bulk item came to.
#[derive(Debug, Clone)]
pub(crate) enum BulkOutcome {
    Written(Written),
    /// Its content identity was seen before: the first operation, and the content type that the file has now.
    Repeated(Box<OpRow>, Option<String>),
    Rejected(Rejected),
}

/// Longest part of the current content that a conflict shows, in bytes.
const PREVIEW: i64 = 4000;

impl WriteTx<'_> {
    /// The row of a workspace; the first write makes it.
    pub(crate) fn workspace(&self, name: &str) -> rusqlite::Result<i64> {
        let found = self.find_workspace(name)?;
        if let Some(id) = found {
            return Ok(id);
        }
        self.conn.prepare_cached("INSERT INTO workspaces (name) VALUES (?1) RETURNING id")?.query_row([name], |r| r.get(0))
    }

    pub(super) fn find_workspace(&self, name: &str) -> rusqlite::Result<Option<i64>> {
        self.conn.prepare_cached("SELECT id FROM workspaces WHERE name = ?1")?.query_row([name], |r| r.get(0)).optional()
    }

    pub(super) fn file(&self, ws: i64, path: &str) -> rusqlite::Result<Option<FileRow>> {
        super::read::file_row(self.conn, ws, path)
    }

    /// Creates or updates one file.
    pub(crate) fn put(&mut self, workspace: &str, write: FileWrite) -> rusqlite::Result<Result<Written, Rejected>> {
        let ws = self.workspace(workspace)?;
        let existing = self.file(ws, &write.path)?;
        if let Some(refusal) = self.check(write.if_match.as_deref(), existing.as_ref())? {
            return Ok(Err(refusal));
        }
        self.apply(ws, existing, write).map(Ok)
    }

    /// Writes many files, each with its own precondition; one refusal does not stop the others.
    pub(crate) fn bulk(&mut self, workspace: &str, writes: Vec<FileWrite>) -> rusqlite::Result<Vec<BulkOutcome>> {
        let ws = self.workspace(workspace)?;
        let mut out = Vec::with_capacity(writes.len());
        for write in writes {
            if let Some(identity) = &write.identity
                && let Some(op) = self.op_by_identity(ws, identity)?
            {
                let content_type = self.file(ws, &op.path)?.map(|f| f.content_type);
                out.push(BulkOutcome::Repeated(Box::new(op), content_type));
                continue;
            }
            let existing = self.file(ws, &write.path)?;
            out.push(match self.check(write.if_match.as_deref(), existing.as_ref())? {
                Some(refusal) => BulkOutcome::Rejected(refusal),
                None => BulkOutcome::Written(self.apply(ws, existing, write)?),
            });
        }
        Ok(out)
    }

    /// Removes one file.
    pub(crate) fn delete(
        &mut self,
        workspace: &str,
        path: &str,
        if_match: &str,
        correlation_id: String,
    ) -> rusqlite::Result<Result<Written, Rejected>> {
        let Some(ws) = self.find_workspace(workspace)? else { return Ok(Err(Rejected::NotFound)) };
        let Some(existing) = self.file(ws, path)? else { return Ok(Err(Rejected::NotFound)) };
        if let Some(refusal) = self.check(Some(if_match), Some(&existing))? {
            return Ok(Err(refusal));
        }
        self.remove_file(ws, &existing)?;
        let revision = self.next_revision();
        let provider = existing.provider;
        let op = self.record(ws, path, revision, EventType::Deleted, None, &provider, &correlation_id, None)?;
        Ok(Ok(Written { op, revision, provider }))
    }

    fn check(&self, if_match: Option<&str>, existing: Option<&FileRow>) -> rusqlite::Result<Option<Rejected>> {
        match (if_match, existing) {
            (None | Some("*"), _) | (Some("0"), None) => Ok(None),
            (Some(_), None) => Ok(Some(Rejected::NotFound)),
            (Some(want), Some(file)) if want == rev_name(file.revision) => Ok(None),
            (Some(_), Some(file)) => {
                let head: Vec<u8> = self
                    .conn
                    .prepare_cached("SELECT substr(CAST(body AS BLOB), 1, ?2) FROM contents WHERE id = ?1")?
                    .query_row([file.content, PREVIEW], |r| r.get(0))?;
                let preview = crate::server::body::go_lossy(&head).into_owned();
                Ok(Some(Rejected::Conflict { current: file.revision, preview }))
            }
        }
    }

    fn apply(&mut self, ws: i64, existing: Option<FileRow>, write: FileWrite) -> rusqlite::Result<Written> {
        let revision = self.next_revision();
        let created = existing.is_none();
        let file = match existing {
            Some(old) => {
                self.conn
                    .prepare_cached("UPDATE contents SET body = ?2 WHERE id = ?1")?
                    .execute(params![old.content, write.body])?;
                let provider = if old.provider.is_empty() { paths::provider_of(&write.path) } else { old.provider.clone() };
                let semantics = write.semantics.filter(|s| !s.is_empty()).unwrap_or_else(|| old.semantics.clone());
                FileRow { provider, semantics, ..old }
            }
            None => FileRow {
                content: self
                    .conn
                    .prepare_cached("INSERT INTO contents (body) VALUES (?1) RETURNING id")?
                    .query_row([&write.body], |r| r.get(0))?,
                provider: paths::provider_of(&write.path),
                semantics: write.semantics.unwrap_or_default(),
                object_id: None,
                path: write.path.clone(),
                revision,
                hash: write.hash,
                size: 0,
                base64: write.base64,
                edited_ns: 0,
                content_type: String::new(),
            },
        };
        let file = FileRow {
            revision,
            hash: write.hash,
            size: write.body.len() as u64,
            base64: write.base64,
            edited_ns: self.now_ns,
            content_type: write.content_type,
            ..file
        };
        self.put_row(ws, &file, created)?;
        let event = if created { EventType::Created } else { EventType::Updated };
        let op = self.record(
            ws,
            &file.path,
            revision,
            event,
            Some(file.hash),
            &file.provider,
            &write.correlation_id,
            write.identity.as_ref(),
        )?;
        Ok(Written { op, revision, provider: file.provider })
    }

    /// Stores the row of a file; for a new one also the directories and totals above it.
    pub(super) fn put_row(&mut self, ws: i64, file: &FileRow, created: bool) -> rusqlite::Result<()> {
        let acl = !file.semantics.permissions.is_empty() || file.path.ends_with("/.relayfile.acl");
        self.conn
            .prepare_cached(
                "INSERT OR REPLACE INTO entries (ws, path, kind, revision, hash, size, base64, edited_ns, content, acl, \
                 content_type, provider, object_id, semantics) VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                ws,
                file.path,
                file.revision,
                file.hash,
                file.size as i64,
                file.base64,
                file.edited_ns,
                file.content,
                acl,
                file.content_type,
                file.provider,
                file.object_id,
                file.semantics.to_column(),
            ])?;
        if created {
            self.conn.prepare_cached("UPDATE workspaces SET file_count = file_count + 1 WHERE id = ?1")?.execute([ws])?;
            let mut add = self.conn.prepare_cached(
                "INSERT INTO entries (ws, path, kind, files_below) VALUES (?1, ?2, 1, 1) \
                 ON CONFLICT DO UPDATE SET files_below = files_below + 1",
            )?;
            for dir in paths::directories(&file.path) {
                add.execute(params![ws, dir])?;
            }
        }
        Ok(())
    }

    /// Removes the row of a file, and its directories where it was the last file; its content goes too.
    pub(super) fn remove_file(&mut self, ws: i64, file: &FileRow) -> rusqlite::Result<()> {
        self.remove_row(ws, &file.path)?;
        self.conn.prepare_cached("DELETE FROM contents WHERE id = ?1")?.execute([file.content])?;
        Ok(())
    }

    /// Like [`WriteTx::remove_file`], but leaves the content for another row to hold.
    pub(super) fn remove_row(&mut self, ws: i64, path: &str) -> rusqlite::Result<()> {
        self.conn.prepare_cached("DELETE FROM entries WHERE ws = ?1 AND path = ?2 AND kind = 0")?.execute(params![ws, path])?;
        self.conn.prepare_cached("UPDATE workspaces SET file_count = file_count - 1 WHERE id = ?1")?.execute([ws])?;
        let mut less = self.conn.prepare_cached(
            "UPDATE entries SET files_below = files_below - 1 WHERE ws = ?1 AND path = ?2 AND kind = 1 RETURNING files_below",
        )?;
        let mut gone =
            self.conn.prepare_cached("DELETE FROM entries WHERE ws = ?1 AND path = ?2 AND kind = 1 AND files_below <= 0")?;
        for dir in paths::directories(path) {
            if less.query_row(params![ws, dir], |r| r.get::<_, i64>(0)).optional()? == Some(0) {
                gone.execute(params![ws, dir])?;
            }
        }
        Ok(())
    }

    pub(super) fn next_revision(&mut self) -> i64 {
        self.counters.revision += 1;
        self.counters.revision
    }

    /// The operation and the event of an accepted change; returns the operation's number.
    #[allow(clippy::too_many_arguments)]
    fn record(
        &mut self,
        ws: i64,
        path: &str,
        revision: i64,
        event: EventType,
        hash: Option<[u8; 32]>,
        provider: &str,
        correlation_id: &str,
        identity: Option<&ContentIdentity>,
    ) -> rusqlite::Result<i64> {
        self.counters.operation += 1;
        let op = self.counters.operation;
        let action = if event == EventType::Deleted { "file_delete" } else { "file_upsert" };
        self.conn
            .prepare_cached(
                "INSERT INTO ops (seq, ws, path, revision, action, provider, status, identity_kind, identity_key, identity_ttl, \
                 correlation_id, created_ns, updated_ns) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'pending', ?7, ?8, ?9, ?10, ?11, ?11)",
            )?
            .execute(params![
                op,
                ws,
                path,
                revision,
                action,
                provider,
                identity.map(|i| &i.kind),
                identity.map(|i| &i.key),
                identity.map(|i| i.ttl_seconds),
                correlation_id,
                self.now_ns,
            ])?;
        if !provider.is_empty() {
            self.conn
                .prepare_cached("INSERT OR IGNORE INTO providers (ws, name) VALUES (?1, ?2)")?
                .execute(params![ws, provider])?;
        }
        self.emit(ws, event, Origin::AgentWrite, path, revision, hash, provider, correlation_id)?;
        Ok(op)
    }

    /// Appends one event; it is published after the commit.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn emit(
        &mut self,
        ws: i64,
        kind: EventType,
        origin: Origin,
        path: &str,
        revision: i64,
        hash: Option<[u8; 32]>,
        provider: &str,
        correlation_id: &str,
    ) -> rusqlite::Result<()> {
        self.counters.event += 1;
        let event = EventRow {
            seq: self.counters.event,
            ws,
            kind,
            origin,
            path: path.to_owned(),
            revision,
            hash,
            provider: provider.to_owned(),
            correlation_id: correlation_id.to_owned(),
            at_ns: self.now_ns,
        };
        self.conn
            .prepare_cached(
                "INSERT INTO events (seq, ws, type, origin, path, revision, hash, provider, correlation_id, at_ns) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                event.seq,
                ws,
                kind.code(),
                i64::from(origin == Origin::System),
                path,
                revision,
                hash,
                provider,
                correlation_id,
                self.now_ns
            ])?;
        self.events.push(event);
        Ok(())
    }
}
