//! From one state to the next. Every function here is one transition, part of one transaction.
//!
//! ```text
//!            ┌── join ──┐                                              ┌─ discard ──► discarded
//!            ▼          │                                              │
//!          queued ──────┴─claim──► in flight ── permanent, conflict, ──► dead ── a later save of the path ──► superseded
//!            │ ▲                     │  │  │    budget spent           │
//!            │ └── file being written┘  │  └───────────────────────┐  └─ retry ──► queued
//!            │                          └─ transient, no answer ─► waiting ──claim──► in flight
//!            │                                                      (acknowledged ◄── the remote has it)
//!            └── a later change of the path, nothing sent yet ──► superseded
//! ```

use rusqlite::{OptionalExtension, params};

use super::now_ms;
use super::ops::{COLUMNS, OpKind, OpState, Operation, operation};
use super::rows::Version;
use super::writer::Tx;
use crate::ids::{ContentHash, OpId};
use crate::path::RemotePath;
use crate::remote::{Accepted, FOREIGN};

/// Finished operations kept for questions about the past.
const HISTORY: i64 = 10_000;
/// Failed attempts of one operation that are kept.
const ATTEMPTS_KEPT: i64 = 50;

/// A failed attempt in the remote's words, or in ours where it had none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// `None` when there was no response.
    pub status: Option<u16>,
    pub code: String,
    pub message: String,
    /// At most 1 KiB.
    pub body: String,
}

/// What a file whose put met a conflict looks like at the remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meets {
    /// Not a conflict: the remote refuses, whatever it has. The view keeps the local version.
    Refusal,
    /// The remote has another version, which takes the path in the view.
    Version(Version),
    /// The remote has no such file any more. The view keeps the local version, and the next save creates the file.
    Nothing,
}

/// What an acknowledgement has settled.
#[derive(Debug, Default)]
pub struct Settled {
    /// Nothing of the path is left to do.
    pub idle: bool,
    /// Letters that are none any more.
    pub superseded: Vec<OpId>,
}

impl Tx<'_> {
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
        self.operation(op)
    }

    pub(super) fn operation(&self, op: &OpId) -> rusqlite::Result<Option<Operation>> {
        self.db
            .prepare_cached(&format!("SELECT {COLUMNS} FROM operation WHERE op_id = ?1"))?
            .query_row([op], operation)
            .optional()
    }

    /// in flight → queued, nothing was sent: the file is being written, look again at `not_before`.
    pub fn postpone(&self, op: &OpId, not_before: i64) -> rusqlite::Result<()> {
        if self.give_way(op)? {
            return Ok(());
        }
        self.db
            .prepare_cached("UPDATE operation SET state = 1, not_before = ?2 WHERE op_id = ?1")?
            .execute(params![op, not_before])?;
        Ok(())
    }

    /// A change that came while an operation was in flight was queued behind it as if it had been sent. If it was not, the
    /// older one gives way. Says whether it did.
    fn give_way(&self, op: &OpId) -> rusqlite::Result<bool> {
        let newer: Option<OpId> = self
            .db
            .prepare_cached(
                "SELECT n.op_id FROM operation o JOIN operation n ON n.path = o.path AND n.seq > o.seq AND n.state IN (1, 3)
                 WHERE o.op_id = ?1 AND o.sent = 0 AND n.sent = 0 AND o.in_view = 1 AND n.in_view = 1",
            )?
            .query_row([op], |r| r.get(0))
            .optional()?;
        let Some(newer) = newer else { return Ok(false) };
        self.finish_row(op, OpState::Superseded, now_ms())?;
        self.db
            .prepare_cached("UPDATE operation SET after_op = ?2 WHERE after_op = ?1 AND state IN (1, 3)")?
            .execute(params![op, newer])?;
        Ok(true)
    }

    /// The payload is in `payloads/<op>`; from now on a request may be on its way.
    pub fn set_sent(&self, op: &OpId, payload: Option<(ContentHash, u64)>, content_type: Option<&str>) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "UPDATE operation SET sent = 1, payload_hash = ?2, payload_size = ?3, content_type = coalesce(?4, content_type)
                 WHERE op_id = ?1",
            )?
            .execute(params![op, payload.map(|p| p.0), payload.map(|p| p.1 as i64), content_type])?;
        Ok(())
    }

    /// As [`Tx::set_sent`], for a request that holds this operation among others.
    pub fn set_sent_together(&self, op: &OpId, payload: (ContentHash, u64), content_type: &str) -> rusqlite::Result<()> {
        self.set_sent(op, Some(payload), Some(content_type))?;
        self.db.prepare_cached("UPDATE operation SET batched = 1 WHERE op_id = ?1")?.execute([op])?;
        Ok(())
    }

    /// The version that an operation goes on top of, decided anew: by a person who forced it, or because the one that the
    /// remote has is our own. Any request that was made before is known not to be what the remote has now.
    pub fn set_base(&self, op: &OpId, base: Option<&Version>) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("UPDATE operation SET base_revision = ?2, base_hash = ?3, force = 0 WHERE op_id = ?1")?
            .execute(params![op, base.map(|b| &b.revision), base.and_then(|b| b.hash)])?;
        Ok(())
    }

    /// in flight → waiting: a failed attempt that will be repeated. `spends` is false for what says nothing about the
    /// operation itself: no answer, a refused token, trouble of this machine.
    pub fn retry_later(&self, op: &OpId, not_before: i64, spends: bool, failure: &Failure) -> rusqlite::Result<()> {
        self.note_attempt(op, failure)?;
        if self.give_way(op)? {
            return Ok(());
        }
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 3, not_before = ?2, attempts = attempts + ?3, last_status = ?4, last_code = ?5,
                     last_error = ?6, last_body = ?7, updated_at = ?8 WHERE op_id = ?1",
            )?
            .execute(params![op, not_before, spends, failure.status, failure.code, failure.message, failure.body, now_ms()])?;
        Ok(())
    }

    /// in flight → waiting, if it still is: its worker could not finish.
    pub fn let_go(&self, op: &OpId, not_before: i64, code: &str) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("UPDATE operation SET state = 3, not_before = ?2, last_code = ?3 WHERE op_id = ?1 AND state = 2")?
            .execute(params![op, not_before, code])?;
        Ok(())
    }

    /// in flight → dead. `payload`, where there is one, is in `payloads/<op>` and is what a retry will send. Older letters
    /// of the path whose content this one had replaced in the view are superseded by it. Deletes that waited for this put
    /// are dropped, and come back with its retry; returns their paths.
    pub fn bury(
        &self,
        op: &Operation,
        failure: &Failure,
        meets: &Meets,
        payload: Option<(ContentHash, u64, String)>,
    ) -> rusqlite::Result<Vec<RemotePath>> {
        let (id, at) = (&op.op, now_ms());
        self.note_attempt(id, failure)?;
        if let Some((hash, size, content_type)) = payload.filter(|_| !op.sent) {
            self.set_sent(id, Some((hash, size)), Some(&content_type))?;
        }
        let removed_since: bool = self
            .db
            .prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM operation WHERE path = ?1 AND state IN (1, 3) AND kind = 2 AND in_view = 1)",
            )?
            .query_row([&op.path], |r| r.get(0))?;
        // After a delete that dies, where another version takes the path, and where the file has been removed or moved away
        // meanwhile, the view shows something else.
        let in_view = op.in_view && op.kind == OpKind::Put && !removed_since && !matches!(meets, Meets::Version(_));
        if op.in_view {
            // It had replaced in the view what they hold. What lies beside the view has replaced nothing.
            self.db
                .prepare_cached(
                    "UPDATE operation SET state = 6, updated_at = ?3
                     WHERE path = ?1 AND state = 4 AND (in_view = 1 OR kind = 2 AND replay = 0)
                         AND seq < (SELECT seq FROM operation WHERE op_id = ?2)",
                )?
                .execute(params![op.path, id, at])?;
        }
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 4, attempts = attempts + 1, last_status = ?2, last_code = ?3, last_error = ?4,
                     last_body = ?5, updated_at = ?6, in_view = ?7, force = 0 WHERE op_id = ?1",
            )?
            .execute(params![id, failure.status, failure.code, failure.message, failure.body, at, in_view])?;
        match meets {
            Meets::Version(version) => self.put_seen(&op.path, Some(version))?,
            Meets::Nothing if op.in_view => self.delete_remote(&op.path)?,
            Meets::Nothing => self.put_seen(&op.path, None)?,
            // After a delete the remote's file comes back, and nobody here knows which version that is.
            Meets::Refusal if op.kind == OpKind::Delete => self.note_unsure(&op.path)?,
            Meets::Refusal => {}
        }
        self.drop_linked(id)
    }

    /// Drops the deletes that wait for a put that is dead, because they would take from the remote a content that it has
    /// nowhere else; they come back with its retry. Their files show again. Returns their paths.
    pub(super) fn drop_linked(&self, put: &OpId) -> rusqlite::Result<Vec<RemotePath>> {
        let dropped: Vec<RemotePath> = self
            .db
            .prepare_cached(
                "UPDATE operation SET state = 6, last_code = 'linked', updated_at = ?2 WHERE after_op = ?1 AND kind = 2
                     AND state IN (1, 3) RETURNING path",
            )?
            .query_map(params![put, now_ms()], |r| r.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for path in &dropped {
            self.note_unsure(path)?;
        }
        Ok(dropped)
    }

    /// Writes a failed attempt down. A response raises the lifetime counter; that nobody answers, or somebody else, is no refusal.
    fn note_attempt(&self, op: &OpId, failure: &Failure) -> rusqlite::Result<()> {
        let Failure { status, code, .. } = failure;
        if status.is_none() && code != "conflict" || code == FOREIGN {
            return Ok(());
        }
        self.write_attempt(op, failure)
    }

    /// Writes a refusal down: for its operation, for its provider, and in the lifetime counter.
    pub(super) fn write_attempt(&self, op: &OpId, failure: &Failure) -> rusqlite::Result<()> {
        let Failure { status, code, message, .. } = failure;
        let at = now_ms();
        self.add_failures(1)?;
        self.db
            .prepare_cached("INSERT INTO attempt(op_id, at, status, code, message) VALUES(?1, ?2, ?3, ?4, ?5)")?
            .execute(params![op, at, status, code, message])?;
        self.db
            .prepare_cached(
                "DELETE FROM attempt WHERE rowid IN
                     (SELECT rowid FROM attempt WHERE op_id = ?1 ORDER BY rowid DESC LIMIT 16 OFFSET ?2)",
            )?
            .execute(params![op, ATTEMPTS_KEPT])?;
        let path: Option<RemotePath> =
            self.db.prepare_cached("SELECT path FROM operation WHERE op_id = ?1")?.query_row([op], |r| r.get(0)).optional()?;
        if let Some(path) = path {
            self.db
                .prepare_cached(
                    "INSERT OR REPLACE INTO provider_error(provider, op_id, path, status, code, message, at)
                     VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![path.provider(), op, path, status, code, message, at])?;
        }
        Ok(())
    }

    /// Raises the lifetime counter of refusals.
    pub fn add_failures(&self, n: u64) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "INSERT INTO meta(key, value) VALUES('failed_writebacks', ?1)
                 ON CONFLICT(key) DO UPDATE SET value = CAST(value AS INTEGER) + CAST(?1 AS INTEGER)",
            )?
            .execute([n.to_string()])?;
        Ok(())
    }

    /// in flight → acknowledged. `result` is what the remote has at the path now (`None` after a delete). What waits behind
    /// it takes that as its base, and letters of the path that are older are superseded.
    pub fn acknowledge(
        &self,
        op: &Operation,
        result: Option<&Version>,
        content_type: Option<&str>,
        accepted: Option<&Accepted>,
    ) -> rusqlite::Result<Settled> {
        let (id, path, at) = (&op.op, &op.path, now_ms());
        match result {
            // The view shows another version than the one that was sent: this one is news for it.
            _ if !op.in_view => self.put_seen(path, result)?,
            Some(version) => {
                self.put_remote(path, version, content_type)?;
                // Heard of before, and no news any more.
                self.db
                    .prepare_cached("DELETE FROM seen WHERE path = ?1 AND revision = ?2")?
                    .execute(params![path, version.revision])?;
            }
            None => self.delete_remote(path)?,
        }
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 5, updated_at = ?2, remote_op = ?3, result_revision = ?4 WHERE op_id = ?1",
            )?
            .execute(params![id, at, accepted.and_then(|a| a.remote_op.as_deref()), result.map(|v| &v.revision)])?;
        if op.in_view {
            self.db
                .prepare_cached(
                    "UPDATE operation SET base_revision = ?2, base_hash = ?3
                     WHERE path = ?1 AND state IN (1, 3, 4) AND sent = 0 AND in_view = 1",
                )?
                .execute(params![path, result.map(|v| &v.revision), result.and_then(|v| v.hash)])?;
        }
        // A letter beside the view is settled by nothing less than a save that was sent: it holds the only copy. What the
        // remote has, and could not deliver, is replaced there by whatever was sent.
        let reached = op.sent || accepted.is_some();
        let superseded = if op.in_view { self.supersede_letters(op, reached)? } else { Vec::new() };
        self.db.prepare_cached("DELETE FROM applied WHERE op_id = ?1")?.execute([id])?;
        let remote_op = accepted.and_then(|a| a.remote_op.as_deref());
        // Without a response the id is not known; with one that names none, the remote has no such thing.
        if remote_op.is_some() || (op.sent && accepted.is_none()) {
            self.follow(op, remote_op, at)?;
        }
        self.prune()?;
        Ok(Settled { idle: self.is_idle(path)?, superseded })
    }

    /// in flight → acknowledged, as part of a text that the remote has merged. What waits behind the operation, and what is saved
    /// before the view shows that text, was made from what this operation has sent: that is its base, under the revision of the
    /// old one, which the remote will not take for its own.
    pub fn acknowledge_merged(&self, op: &Operation, merged: &Version) -> rusqlite::Result<Settled> {
        let superseded = if op.in_view { self.supersede_letters(op, true)? } else { Vec::new() };
        if let (true, Some(base), Some((sent, _))) = (op.in_view, &op.base, op.payload) {
            self.put_remote(&op.path, &Version { revision: base.revision.clone(), hash: Some(sent) }, None)?;
            self.db
                .prepare_cached(
                    "UPDATE operation SET base_hash = ?3 WHERE path = ?1 AND base_revision = ?2 AND state IN (1, 3) AND sent = 0
                         AND in_view = 1",
                )?
                .execute(params![op.path, base.revision, sent])?;
        }
        let beside = Operation { in_view: false, ..op.clone() };
        let settled = self.acknowledge(&beside, Some(merged), None, None)?;
        Ok(Settled { superseded, ..settled })
    }

    /// Letters of the path that are older than the operation are none any more; of those beside the view and of refused
    /// deliveries only if it `reached` the remote.
    fn supersede_letters(&self, op: &Operation, reached: bool) -> rusqlite::Result<Vec<OpId>> {
        let was_sent = op.kind == OpKind::Put && reached;
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 6, updated_at = ?3 WHERE path = ?1 AND state = 4
                     AND seq < (SELECT seq FROM operation WHERE op_id = ?2)
                     AND (in_view = 1 OR kind = 2 AND replay = 0 OR ?4 OR replay = 1 AND ?5)
                 RETURNING op_id",
            )?
            .query_map(params![op.path, op.op, now_ms(), was_sent, reached], |r| r.get(0))?
            .collect()
    }

    /// Forgets the oldest of what is finished.
    fn prune(&self) -> rusqlite::Result<()> {
        let old: Vec<(i64, OpId)> = self
            .db
            .prepare_cached("SELECT seq, op_id FROM operation WHERE state >= 5 ORDER BY seq DESC LIMIT 16 OFFSET ?1")?
            .query_map([HISTORY], |r| Ok((r.get(0)?, r.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        for (seq, op) in old {
            self.db.prepare_cached("DELETE FROM operation WHERE seq = ?1")?.execute([seq])?;
            self.db.prepare_cached("DELETE FROM attempt WHERE op_id = ?1")?.execute([op])?;
        }
        Ok(())
    }

    /// in flight → superseded: what it should have sent is gone.
    pub fn supersede(&self, op: &OpId) -> rusqlite::Result<()> {
        self.finish_row(op, OpState::Superseded, now_ms())
    }

    /// queued or waiting → superseded: a file that the remote never had stays here from now on. Not what a removal waits for:
    /// that would take from the remote a content that is nowhere else. Says whether it was.
    pub fn cancel_creation(&self, op: &OpId) -> rusqlite::Result<bool> {
        let changed = self
            .db
            .prepare_cached(
                "UPDATE operation SET state = 6, updated_at = ?2
                 WHERE op_id = ?1 AND kind = 1 AND state IN (1, 3) AND sent = 0 AND in_view = 1 AND base_revision IS NULL
                     AND NOT EXISTS(SELECT 1 FROM operation o WHERE o.path = operation.path AND o.state <= 3 AND o.seq <> operation.seq)
                     AND NOT EXISTS(SELECT 1 FROM operation d WHERE d.after_op = operation.op_id AND d.kind = 2 AND d.state IN (1, 3))",
            )?
            .execute(params![op, now_ms()])?;
        Ok(changed > 0)
    }

    /// The event of an operation was seen in the remote's feed. Matters only as long as its fate is not recorded.
    pub fn note_applied(&self, op: &OpId, result: Option<&Version>) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO applied(op_id, revision, hash)
                 SELECT op_id, ?2, ?3 FROM operation WHERE op_id = ?1 AND state <= 4",
            )?
            .execute(params![op, result.map(|v| &v.revision), result.and_then(|v| v.hash)])?;
        Ok(())
    }

    /// Nothing local is left to defend at the path: no open operation, and no dead put whose content the view shows. A dead
    /// delete defends nothing: the remote's file comes back. Nor does a replay: the remote has its content.
    pub fn is_idle(&self, path: &RemotePath) -> rusqlite::Result<bool> {
        self.db
            .prepare_cached(
                "SELECT NOT EXISTS(SELECT 1 FROM operation
                     WHERE path = ?1 AND (state <= 3 AND replay = 0 OR (state = 4 AND kind = 1 AND in_view = 1)))",
            )?
            .query_row([path], |r| r.get(0))
    }

    /// At start: what was in flight when the process died may or may not have reached the remote. It becomes due at once;
    /// its `sent` mark makes the worker ask before it repeats.
    pub fn recover_in_flight(&self) -> rusqlite::Result<usize> {
        // The clock has been set back since: nobody can tell any more how long they were to wait.
        self.db.execute("UPDATE operation SET not_before = 0 WHERE state IN (1, 3) AND updated_at > ?1", [now_ms()])?;
        self.db.execute("UPDATE operation SET state = 3, not_before = 0 WHERE state = 2", [])
    }

    /// The clock was set back by `ms` milliseconds: what waits, waits as long as it would have.
    pub fn clock_set_back(&self, ms: i64) -> rusqlite::Result<()> {
        self.db.execute(
            "UPDATE operation SET not_before = max(not_before - ?1, 0), updated_at = updated_at - ?1 WHERE state IN (1, 3)",
            [ms],
        )?;
        Ok(())
    }

    /// Makes everything that waits due now (unmount, `writeback flush`), except what the remote has asked to be patient with.
    pub fn make_all_due(&self) -> rusqlite::Result<usize> {
        self.db.execute(
            "UPDATE operation SET not_before = 0 WHERE state IN (1, 3) AND not_before > 0
                 AND (state = 1 OR coalesce(last_status, 0) NOT IN (429, 503))",
            [],
        )
    }
}
