//! Operations: the rows of the writeback queue and every transition between their states.
//!
//! ```text
//! queued ──claim──► in flight ──► acknowledged
//!   │  ▲               │  │
//!   │  └── join        │  └─ permanent, conflict, budget spent ──► dead ──► superseded by a later acknowledged save
//!   │                  └──── transient, unreachable ──► waiting ──claim──► in flight
//!   └── superseded (a later change of the path replaced it before it was sent)
//! ```

use rusqlite::{OptionalExtension, Row, params};

use super::now_ms;
use super::rows::Version;
use super::writer::Tx;
use crate::ids::{ContentHash, Ino, OpId, Revision};
use crate::path::RemotePath;
use crate::remote::Accepted;
use crate::writeback::coalesce::{Decision, Now, PathState, Queued, coalesce};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    Put,
    Delete,
}

impl OpKind {
    fn code(self) -> i64 {
        match self {
            OpKind::Put => 1,
            OpKind::Delete => 2,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            OpKind::Put => "put",
            OpKind::Delete => "delete",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpState {
    Queued,
    InFlight,
    Waiting,
    Dead,
    Acknowledged,
    Superseded,
    Discarded,
}

impl OpState {
    fn code(self) -> i64 {
        match self {
            OpState::Queued => 1,
            OpState::InFlight => 2,
            OpState::Waiting => 3,
            OpState::Dead => 4,
            OpState::Acknowledged => 5,
            OpState::Superseded => 6,
            OpState::Discarded => 7,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            OpState::Queued => "queued",
            OpState::InFlight => "in_flight",
            OpState::Waiting => "waiting",
            OpState::Dead => "dead",
            OpState::Acknowledged => "acknowledged",
            OpState::Superseded => "superseded",
            OpState::Discarded => "discarded",
        }
    }

    pub(super) fn from_code(code: i64) -> OpState {
        match code {
            1 => OpState::Queued,
            2 => OpState::InFlight,
            3 => OpState::Waiting,
            5 => OpState::Acknowledged,
            6 => OpState::Superseded,
            7 => OpState::Discarded,
            _ => OpState::Dead,
        }
    }
}

/// One operation. Times in milliseconds since the epoch.
#[derive(Debug, Clone)]
pub struct Operation {
    pub op: OpId,
    pub kind: OpKind,
    pub path: RemotePath,
    /// Whose content a put sends.
    pub node: Option<Ino>,
    pub state: OpState,
    /// Rises with every save that joins.
    pub generation: u32,
    /// `None`: create only.
    pub base: Option<Version>,
    /// A request for it may have reached the remote: payload and id are frozen.
    pub sent: bool,
    pub payload: Option<(ContentHash, u64)>,
    pub content_type: Option<String>,
    pub attempts: u32,
    pub not_before: i64,
    pub created_at: i64,
    pub updated_at: i64,
    pub last_status: Option<u16>,
    pub last_code: Option<String>,
    pub last_error: Option<String>,
}

pub(super) const COLUMNS: &str =
    "op_id, kind, path, node, state, generation, base_revision, base_hash, sent, payload_hash, payload_size,
    content_type, attempts, not_before, created_at, updated_at, last_status, last_code, last_error";

pub(super) fn operation(r: &Row<'_>) -> rusqlite::Result<Operation> {
    let base = match r.get::<_, Option<Revision>>(6)? {
        Some(revision) => Some(Version { revision, hash: r.get(7)? }),
        None => None,
    };
    let payload = match (r.get::<_, Option<ContentHash>>(9)?, r.get::<_, Option<i64>>(10)?) {
        (Some(hash), Some(size)) => Some((hash, size as u64)),
        _ => None,
    };
    Ok(Operation {
        op: r.get(0)?,
        kind: if r.get::<_, i64>(1)? == 2 { OpKind::Delete } else { OpKind::Put },
        path: r.get(2)?,
        node: r.get(3)?,
        state: OpState::from_code(r.get(4)?),
        generation: r.get(5)?,
        base,
        sent: r.get(8)?,
        payload,
        content_type: r.get(11)?,
        attempts: r.get(12)?,
        not_before: r.get(13)?,
        created_at: r.get(14)?,
        updated_at: r.get(15)?,
        last_status: r.get(16)?,
        last_code: r.get(17)?,
        last_error: r.get(18)?,
    })
}

/// A path and whether a rule keeps it from the remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    pub path: RemotePath,
    pub local_only: bool,
}

/// Finished operations kept for questions about the past.
const HISTORY: i64 = 10_000;

impl Tx<'_> {
    /// The view has changed at `path`: brings the queue to what that needs. `not_before` is the end of the settle window.
    /// A `local_only` path is left alone unless the remote has it or is about to have it.
    /// Returns the operation that now carries a put of the path, if there is one.
    pub fn change_path(
        &self,
        path: &RemotePath,
        local_only: bool,
        node: Option<Ino>,
        not_before: i64,
    ) -> rusqlite::Result<Option<OpId>> {
        let now = if node.is_some() { Now::Present } else { Now::Gone };
        let open = self.open_operations(path)?;
        let sent = open.iter().find(|o| o.sent || o.state == OpState::InFlight);
        let queued = open.iter().find(|o| !o.sent && o.state != OpState::InFlight);
        let remote = self.remote(path)?;
        if local_only && remote.is_none() && open.is_empty() {
            return Ok(None);
        }
        let state = PathState {
            remote_has: remote.is_some(),
            sent: sent.map(|o| o.kind),
            queued: queued.map(|o| Queued { op: o.op.clone(), kind: o.kind, has_base: o.base.is_some() }),
        };
        // Behind a sent operation the base is what that one leaves; until then it holds the same base as it.
        let at = now_ms();
        if now == Now::Gone && remote.is_none() && sent.is_none() {
            // Whoever removes a file here has decided about the letters of its content too. Where the remote has the file,
            // the acknowledgement of the delete does this.
            self.db
                .prepare_cached("UPDATE operation SET state = 6, updated_at = ?2 WHERE path = ?1 AND state = 4 AND kind = 1")?
                .execute(params![path, at])?;
        }
        let base = queued.or(sent).map_or(remote, |o| o.base.clone());
        match coalesce(&state, now) {
            Decision::Nothing => Ok(queued.filter(|q| q.kind == OpKind::Put).map(|q| q.op.clone())),
            Decision::Join(op) => {
                self.db
                    .prepare_cached(
                        "UPDATE operation SET node = ?2, generation = generation + 1, not_before = ?3, updated_at = ?4,
                             payload_hash = NULL, payload_size = NULL WHERE op_id = ?1",
                    )?
                    .execute(params![op, node, not_before, at])?;
                Ok(Some(op))
            }
            Decision::Insert(kind) => self.insert_operation(kind, path, node, base.as_ref(), not_before, at),
            Decision::Replace(old, kind) => {
                self.finish_row(&old, OpState::Superseded, at)?;
                self.insert_operation(kind, path, node, base.as_ref(), not_before, at)
            }
            Decision::Cancel(old) => {
                self.finish_row(&old, OpState::Superseded, at)?;
                Ok(None)
            }
        }
    }

    /// A file moved: the delete of the old path must not run before the put of the new one is acknowledged. Deletes that
    /// waited for a put of the old path (a chain of renames) now wait for the new one.
    pub fn move_path(&self, from: &PathRule, to: &PathRule, node: Ino, not_before: i64) -> rusqlite::Result<()> {
        let waiting: Vec<OpId> = self
            .db
            .prepare_cached(
                "SELECT d.op_id FROM operation d JOIN operation p ON d.after_op = p.op_id
                 WHERE p.path = ?1 AND p.state IN (1, 3) AND p.sent = 0 AND d.state IN (1, 3)",
            )?
            .query_map([&from.path], |r| r.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let put = self.change_path(&to.path, to.local_only, Some(node), not_before)?;
        self.change_path(&from.path, from.local_only, None, not_before)?;
        let Some(put) = put else { return Ok(()) };
        for op in waiting {
            self.link(&op, &put)?;
        }
        let delete: Option<OpId> = self
            .db
            .prepare_cached("SELECT op_id FROM operation WHERE path = ?1 AND state = 1 AND sent = 0 AND kind = 2")?
            .query_row([&from.path], |r| r.get(0))
            .optional()?;
        if let Some(delete) = delete {
            self.link(&delete, &put)?;
        }
        Ok(())
    }

    fn link(&self, delete: &OpId, put: &OpId) -> rusqlite::Result<()> {
        self.db.prepare_cached("UPDATE operation SET after_op = ?2 WHERE op_id = ?1")?.execute(params![delete, put])?;
        Ok(())
    }

    fn insert_operation(
        &self,
        kind: OpKind,
        path: &RemotePath,
        node: Option<Ino>,
        base: Option<&Version>,
        not_before: i64,
        at: i64,
    ) -> rusqlite::Result<Option<OpId>> {
        let op = OpId::generate();
        self.db
            .prepare_cached(
                "INSERT INTO operation(op_id, kind, path, node, state, generation, base_revision, base_hash, not_before,
                     created_at, updated_at) VALUES(?1, ?2, ?3, ?4, 1, 1, ?5, ?6, ?7, ?8, ?8)",
            )?
            .execute(params![
                op,
                kind.code(),
                path,
                node,
                base.map(|b| &b.revision),
                base.and_then(|b| b.hash),
                not_before,
                at
            ])?;
        Ok((kind == OpKind::Put).then_some(op))
    }

    /// Records local content that no `close` promised (a writer died in the middle): dead until a person or a save decides.
    /// What waited to send the file's content becomes that letter: the content it meant is no longer there, and what is
    /// there must not go out.
    pub fn insert_unflushed(&self, path: &RemotePath, node: Ino) -> rusqlite::Result<()> {
        let known: bool = self
            .db
            .prepare_cached("SELECT EXISTS(SELECT 1 FROM operation WHERE path = ?1 AND state = 4 AND last_code = 'unflushed')")?
            .query_row([path], |r| r.get(0))?;
        let at = now_ms();
        let queued = self.open_operations(path)?.into_iter().find(|o| !o.sent);
        let op = match queued {
            Some(o) if o.kind == OpKind::Put && !known => Some(o.op),
            Some(o) if o.kind == OpKind::Put => return self.finish_row(&o.op, OpState::Superseded, at),
            _ if known => return Ok(()),
            _ => {
                let base = self.remote(path)?;
                self.insert_operation(OpKind::Put, path, Some(node), base.as_ref(), at, at)?
            }
        };
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 4, updated_at = ?2, last_code = 'unflushed', last_error =
                     'the mount ended while a program was writing this file; the bytes written so far are kept' WHERE op_id = ?1",
            )?
            .execute(params![op, at])?;
        Ok(())
    }

    fn open_operations(&self, path: &RemotePath) -> rusqlite::Result<Vec<Operation>> {
        self.db
            .prepare_cached(&format!("SELECT {COLUMNS} FROM operation WHERE path = ?1 AND state <= 3 ORDER BY seq"))?
            .query_map([path], operation)?
            .collect()
    }

    /// queued or waiting → in flight. `None` when it is no longer due (replaced, cancelled, or its path is busy).
    pub fn claim(&self, op: &OpId) -> rusqlite::Result<Option<Operation>> {
        let changed = self
            .db
            .prepare_cached(
                "UPDATE operation SET state = 2, updated_at = ?2 WHERE op_id = ?1 AND state IN (1, 3)
                     AND NOT EXISTS(SELECT 1 FROM operation o WHERE o.path = operation.path AND o.state = 2)",
            )?
            .execute(params![op, now_ms()])?;
        if changed == 0 {
            return Ok(None);
        }
        self.db
            .prepare_cached(&format!("SELECT {COLUMNS} FROM operation WHERE op_id = ?1"))?
            .query_row([op], operation)
            .optional()
    }

    /// in flight → queued, nothing was sent: the file is being written, look again at `not_before`.
    pub fn postpone(&self, op: &OpId, not_before: i64) -> rusqlite::Result<()> {
        // A change that came meanwhile was queued behind this one as if it had been sent; the older one gives way to it.
        let path: RemotePath =
            self.db.prepare_cached("SELECT path FROM operation WHERE op_id = ?1")?.query_row([op], |r| r.get(0))?;
        let newer: Option<OpId> = self
            .db
            .prepare_cached("SELECT op_id FROM operation WHERE path = ?1 AND state IN (1, 3) AND op_id <> ?2")?
            .query_row(params![path, op], |r| r.get(0))
            .optional()?;
        if let Some(newer) = newer {
            self.finish_row(op, OpState::Superseded, now_ms())?;
            self.db
                .prepare_cached("UPDATE operation SET after_op = ?2 WHERE after_op = ?1 AND state IN (1, 3)")?
                .execute(params![op, newer])?;
            return Ok(());
        }
        self.db
            .prepare_cached("UPDATE operation SET state = 1, not_before = ?2 WHERE op_id = ?1")?
            .execute(params![op, not_before])?;
        Ok(())
    }

    /// The payload is in `payloads/<op>`; from now on a request may be on its way.
    pub fn set_sent(&self, op: &OpId, payload: Option<(ContentHash, u64)>, content_type: Option<&str>) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "UPDATE operation SET sent = 1, payload_hash = ?2, payload_size = ?3, content_type = ?4 WHERE op_id = ?1",
            )?
            .execute(params![op, payload.map(|p| p.0), payload.map(|p| p.1 as i64), content_type])?;
        Ok(())
    }

    /// in flight → waiting: a failed attempt that will be repeated. `counts` is false when no response came, which spends
    /// no attempt.
    pub fn retry_later(
        &self,
        op: &OpId,
        not_before: i64,
        counts: bool,
        status: Option<u16>,
        code: &str,
        error: &str,
    ) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 3, not_before = ?2, attempts = attempts + ?3, last_status = ?4, last_code = ?5,
                     last_error = ?6, updated_at = ?7 WHERE op_id = ?1",
            )?
            .execute(params![op, not_before, counts, status, code, error, now_ms()])?;
        self.count_failure(counts)
    }

    /// in flight → waiting, if it still is: its worker could not finish.
    pub fn let_go(&self, op: &OpId, not_before: i64, code: &str) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("UPDATE operation SET state = 3, not_before = ?2, last_code = ?3 WHERE op_id = ?1 AND state = 2")?
            .execute(params![op, not_before, code])?;
        Ok(())
    }

    /// in flight → dead.
    pub fn bury(&self, op: &OpId, status: Option<u16>, code: &str, error: &str) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 4, attempts = attempts + 1, last_status = ?2, last_code = ?3, last_error = ?4,
                     updated_at = ?5 WHERE op_id = ?1",
            )?
            .execute(params![op, status, code, error, now_ms()])?;
        self.count_failure(true)
    }

    fn count_failure(&self, counts: bool) -> rusqlite::Result<()> {
        if counts {
            self.db
                .prepare_cached(
                    "INSERT INTO meta(key, value) VALUES('failed_writebacks', '1')
                     ON CONFLICT(key) DO UPDATE SET value = CAST(value AS INTEGER) + 1",
                )?
                .execute([])?;
        }
        Ok(())
    }

    /// in flight → acknowledged. `result` is what the remote has at the path now (`None` after a delete). What waits behind
    /// it takes that as its base, and dead operations of the path that are older are superseded. Returns whether nothing of the
    /// path is left to do.
    pub fn acknowledge(
        &self,
        op: &OpId,
        path: &RemotePath,
        result: Option<&Version>,
        content_type: Option<&str>,
        accepted: Option<&Accepted>,
    ) -> rusqlite::Result<bool> {
        let at = now_ms();
        match result {
            Some(version) => self.put_remote(path, version, content_type)?,
            None => self.delete_remote(path)?,
        }
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 5, updated_at = ?2, remote_op = ?3, result_revision = ?4 WHERE op_id = ?1",
            )?
            .execute(params![op, at, accepted.and_then(|a| a.remote_op.as_deref()), result.map(|v| &v.revision)])?;
        self.db
            .prepare_cached(
                "UPDATE operation SET base_revision = ?2, base_hash = ?3 WHERE path = ?1 AND state IN (1, 3) AND sent = 0",
            )?
            .execute(params![path, result.map(|v| &v.revision), result.and_then(|v| v.hash)])?;
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 6, updated_at = ?3 WHERE path = ?1 AND state = 4
                     AND seq < (SELECT seq FROM operation WHERE op_id = ?2)",
            )?
            .execute(params![path, op, at])?;
        self.db
            .prepare_cached(
                "DELETE FROM operation WHERE seq IN (SELECT seq FROM operation WHERE state >= 5 ORDER BY seq DESC LIMIT 16 OFFSET ?1)",
            )?
            .execute([HISTORY])?;
        self.is_idle(path)
    }

    /// in flight → superseded: what it should have sent is gone.
    pub fn supersede(&self, op: &OpId) -> rusqlite::Result<()> {
        self.finish_row(op, OpState::Superseded, now_ms())
    }

    /// Nothing local is left to defend at the path: no open operation, and no dead put, whose content the view still shows. A
    /// dead delete defends nothing: the remote's file comes back.
    pub fn is_idle(&self, path: &RemotePath) -> rusqlite::Result<bool> {
        self.db
            .prepare_cached(
                "SELECT NOT EXISTS(SELECT 1 FROM operation WHERE path = ?1 AND (state <= 3 OR (state = 4 AND kind = 1)))",
            )?
            .query_row([path], |r| r.get(0))
    }

    fn finish_row(&self, op: &OpId, state: OpState, at: i64) -> rusqlite::Result<()> {
        self.db.prepare_cached("UPDATE operation SET state = ?2, updated_at = ?3 WHERE op_id = ?1")?.execute(params![
            op,
            state.code(),
            at
        ])?;
        Ok(())
    }

    /// At start: what was in flight when the process died may or may not have reached the remote. It becomes due at once;
    /// its `sent` mark makes the worker ask before it repeats.
    pub fn recover_in_flight(&self) -> rusqlite::Result<usize> {
        self.db.execute("UPDATE operation SET state = 3, not_before = 0 WHERE state = 2", [])
    }

    /// Makes everything that waits due now (unmount, `writeback flush`).
    pub fn make_all_due(&self) -> rusqlite::Result<usize> {
        self.db.execute("UPDATE operation SET not_before = 0 WHERE state IN (1, 3) AND not_before > 0", [])
    }
}
