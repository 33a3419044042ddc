//! Questions about operations: what is due, what is open, what an event means.

use rusqlite::{Connection, OptionalExtension, params};

use super::ops::{COLUMNS, OpState, Operation, operation};
use super::{Journal, JournalError};
use crate::ids::{ContentHash, OpId, Revision};
use crate::path::RemotePath;

/// What is due, and when to look again.
#[derive(Debug, Default)]
pub struct Due {
    /// The longest due first; no two of one path.
    pub ops: Vec<DueOp>,
    /// The earliest time at which something else becomes due; `None` when nothing waits.
    pub next_at: Option<i64>,
    /// Another put that was never sent becomes due within the time that was asked about.
    pub more_soon: bool,
}

/// An operation that may start now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueOp {
    pub op: OpId,
    /// The size of the file in bytes, of a plain put that was never sent; another operation goes alone.
    pub plain_put: Option<u64>,
}

/// How an event of the remote relates to our own operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// The event of a write of ours that is acknowledged, or about to be.
    Ours,
    /// A version that a write of ours was based on: older than what we have.
    Older,
    /// Somebody else's, of a path that we have written: before or after ours, the event does not tell.
    Touched,
    Foreign,
}

/// Counts for status.
#[derive(Debug, Clone, Default)]
pub struct QueueNumbers {
    pub pending: u64,
    pub in_flight: u64,
    pub dead: u64,
    /// Of the dead, those that met another version at the remote.
    pub conflicts: u64,
    pub failed_attempts: u64,
    pub oldest_created_at: Option<i64>,
}

impl Journal {
    /// Operations that may start now: their time has come, nothing of their path is in flight or queued before them, and
    /// what they wait for is done. `soon` is in milliseconds from `now`.
    pub fn due(&self, now: i64, soon: i64, limit: usize) -> Result<Due, JournalError> {
        self.read(|db| {
            let ops = db
                .prepare_cached(
                    "SELECT o.op_id, o.kind = 1 AND o.sent = 0 AND o.force = 0 AND o.replay = 0, coalesce(n.size, 0)
                     FROM operation o LEFT JOIN node n ON n.id = o.node WHERE o.state IN (1, 3) AND o.not_before <= ?1
                         AND NOT EXISTS(SELECT 1 FROM operation e WHERE e.path = o.path AND e.state <= 3 AND e.seq < o.seq)
                         AND (o.after_op IS NULL OR o.kind = 1 OR NOT EXISTS(
                             SELECT 1 FROM operation p WHERE p.op_id = o.after_op AND p.state <= 4 AND p.replay = 0))
                     ORDER BY o.not_before, o.seq LIMIT ?2",
                )?
                .query_map(params![now, limit as i64], |r| {
                    let size = r.get::<_, i64>(2)?.max(0) as u64;
                    Ok(DueOp { op: r.get(0)?, plain_put: r.get::<_, bool>(1)?.then_some(size) })
                })?
                .collect::<rusqlite::Result<_>>()?;
            let more_soon = db
                .prepare_cached(
                    "SELECT EXISTS(SELECT 1 FROM operation WHERE state IN (1, 3) AND not_before > ?1 AND not_before <= ?2
                         AND kind = 1 AND sent = 0)",
                )?
                .query_row([now, now + soon], |r| r.get(0))?;
            let next_at = db
                .prepare_cached("SELECT min(not_before) FROM operation WHERE state IN (1, 3) AND not_before > ?1")?
                .query_row([now], |r| r.get(0))?;
            Ok(Due { ops, next_at, more_soon })
        })
    }

    /// Operations that are queued, in flight or waiting, oldest first.
    pub fn open_operations(&self, limit: usize) -> Result<Vec<Operation>, JournalError> {
        self.read(|db| open_operations(db, limit))
    }

    pub fn operation(&self, op: &OpId) -> Result<Option<Operation>, JournalError> {
        self.read(|db| operation_by_id(db, op))
    }

    /// Whether an event at `path` with this revision, content and correlation id is news.
    ///
    /// The events of a batch carry no correlation id. Such an event is ours by its revision, once the answer has told which
    /// one the operation produced, and never by its content alone: somebody else may have written the same bytes, and then
    /// their revision is the one that the next save has to name. An event that comes before the answer is noted like a
    /// stranger's; the acknowledgement takes the note away if it is of the revision that was answered.
    pub fn echo(
        &self,
        path: &RemotePath,
        revision: Option<&Revision>,
        hash: Option<&ContentHash>,
        correlation: &str,
    ) -> Result<Echo, JournalError> {
        self.read(|db| {
            let answered = db
                .prepare_cached(
                    "SELECT EXISTS(SELECT 1 FROM operation WHERE path = ?1 AND batched = 1 AND (state = 5 OR replay = 1)
                         AND result_revision = ?2 AND payload_hash = ?3)",
                )?
                .query_row(params![path, revision, hash], |r| r.get(0))?;
            if answered {
                return Ok(Echo::Ours);
            }
            if let Ok(op) = correlation.parse::<OpId>() {
                let ours = db
                    .prepare_cached(
                        "SELECT EXISTS(SELECT 1 FROM operation WHERE op_id = ?1 AND (path = ?2 OR replay = 1)
                             AND (state = 5 OR replay = 1 OR state <= 3 AND sent = 1 AND in_view = 1))",
                    )?
                    .query_row(params![op, path], |r| r.get(0))?;
                if ours {
                    return Ok(Echo::Ours);
                }
            }
            db.prepare_cached(
                // A restarted server may give a revision's name to another content.
                "SELECT count(*), coalesce(sum(?2 IS NOT NULL
                     AND (base_revision = ?2 AND coalesce(base_hash = ?3, 1) OR result_revision = ?2 AND coalesce(payload_hash = ?3, 1))), 0)
                 FROM operation WHERE path = ?1 AND (state = 5 OR replay = 1)",
            )?
            .query_row(params![path, revision, hash], |r| {
                Ok(match (r.get::<_, i64>(0)?, r.get::<_, i64>(1)?) {
                    (0, _) => Echo::Foreign,
                    (_, 0) => Echo::Touched,
                    _ => Echo::Older,
                })
            })
        })
    }

    /// Whether the remote was heard to have something else at the path than the view is built on.
    pub fn has_note(&self, path: &RemotePath) -> Result<bool, JournalError> {
        self.read(|db| db.prepare_cached("SELECT EXISTS(SELECT 1 FROM seen WHERE path = ?1)")?.query_row([path], |r| r.get(0)))
    }

    /// The operation of a path that speaks for its state: open before dead.
    pub fn operation_of_path(&self, path: &RemotePath) -> Result<Option<Operation>, JournalError> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM operation WHERE path = ?1 AND state <= 4 ORDER BY state = 4, seq DESC LIMIT 1"
            ))?
            .query_row([path], operation)
            .optional()
        })
    }

    /// The operation whose last attempt failed most recently, among those not finished.
    pub fn last_failed(&self) -> Result<Option<Operation>, JournalError> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM operation WHERE state IN (3, 4) AND last_error IS NOT NULL ORDER BY updated_at DESC LIMIT 1"
            ))?
            .query_row([], operation)
            .optional()
        })
    }

    pub fn queue_numbers(&self) -> Result<QueueNumbers, JournalError> {
        self.read(queue_numbers)
    }
}

pub(super) fn open_operations(db: &Connection, limit: usize) -> rusqlite::Result<Vec<Operation>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM operation WHERE state <= 3 ORDER BY seq LIMIT ?1"))?
        .query_map([limit as i64], operation)?
        .collect()
}

pub(super) fn operation_by_id(db: &Connection, op: &OpId) -> rusqlite::Result<Option<Operation>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM operation WHERE op_id = ?1"))?.query_row([op], operation).optional()
}

pub(super) fn queue_numbers(db: &Connection) -> rusqlite::Result<QueueNumbers> {
    let mut n = QueueNumbers::default();
    let mut q = db.prepare_cached("SELECT state, count(*) FROM operation WHERE state <= 4 GROUP BY state")?;
    let mut rows = q.query([])?;
    while let Some(r) = rows.next()? {
        let count = r.get::<_, i64>(1)? as u64;
        match OpState::from_code(r.get(0)?) {
            OpState::Queued | OpState::Waiting => n.pending += count,
            OpState::InFlight => n.in_flight = count,
            _ => n.dead = count,
        }
    }
    n.conflicts = db
        .prepare_cached("SELECT count(*) FROM operation WHERE state = 4 AND last_code = 'conflict'")?
        .query_row([], |r| r.get::<_, i64>(0))? as u64;
    n.oldest_created_at =
        db.prepare_cached("SELECT min(created_at) FROM operation WHERE state <= 3")?.query_row([], |r| r.get(0))?;
    n.failed_attempts = db
        .prepare_cached("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'failed_writebacks'")?
        .query_row([], |r| r.get::<_, i64>(0))
        .optional()?
        .unwrap_or(0) as u64;
    Ok(n)
}
