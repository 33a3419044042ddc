//! Following what the remote has accepted to its provider: which operations, when the next look is due, and how it ends.
//!
//! ```text
//! acknowledged ──► followed ── taken by the provider, or nobody can tell ──► no longer followed
//!                     ▲ │
//!      replayed ──────┘ └── refused for good ──► dead, `replay` ── retry ──► queued ──► in flight ──► followed again
//! ```
//!
//! An operation with the mark `replay` was applied: it defends nothing in the view, and a retry of it asks the remote to
//! deliver once more and sends nothing.

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::ops::{OpKind, OpState, Operation};
use super::transitions::Failure;
use super::writer::Tx;
use super::{Journal, JournalError, now_ms};
use crate::ids::OpId;
use crate::path::RemotePath;
use crate::remote::DeliveryState;

/// Operations that are followed at a time; of more, the oldest are given up.
const FOLLOWED_MAX: i64 = 10_000;
/// That limit is enforced at every so many acknowledgements: counting them is not free.
const LIMIT_EVERY: i64 = 64;
/// From the acknowledgement to the first look, in milliseconds: a provider that is asked at once has rarely answered.
const FIRST_LOOK_MS: i64 = 2_000;
/// The first looks are spread over this many milliseconds.
const FIRST_LOOK_SPREAD_MS: i64 = 300;

/// An operation whose delivery is followed. Times in milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    pub op: OpId,
    /// The remote's id of it; `None` where the response that named it was lost.
    pub remote_op: Option<String>,
    pub path: RemotePath,
    pub kind: OpKind,
    /// When it was acknowledged, or replayed.
    pub since: i64,
    /// Looks so far.
    pub checks: u32,
}

/// How deliveries stand, for status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeliveryNumbers {
    /// Followed, and not at their end.
    pub unresolved: u64,
    /// Dead letters of this kind.
    pub refused: u64,
    /// Given up since the beginning without having heard of an end.
    pub lost: u64,
    /// Why the remote does not tell, while it does not.
    pub unknown: Option<String>,
}

impl Tx<'_> {
    /// Follows the delivery of what was just acknowledged. What was written to the path before has been replaced at the
    /// remote: its delivery matters to nobody any more.
    pub(super) fn follow(&self, op: &Operation, remote_op: Option<&str>, at: i64) -> rusqlite::Result<()> {
        self.db.prepare_cached("DELETE FROM delivery WHERE path = ?1")?.execute([&op.path])?;
        let first = at + FIRST_LOOK_MS + fastrand::i64(0..FIRST_LOOK_SPREAD_MS);
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO delivery(op_id, remote_op, path, kind, since, next_look, state)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, 'pending')",
            )?
            .execute(params![op.op, remote_op, op.path, op.kind.code(), at, first])?;
        if self.db.last_insert_rowid() % LIMIT_EVERY != 0 {
            return Ok(());
        }
        let dropped = self
            .db
            .prepare_cached("DELETE FROM delivery WHERE seq IN (SELECT seq FROM delivery ORDER BY seq DESC LIMIT -1 OFFSET ?1)")?
            .execute([FOLLOWED_MAX])?;
        self.add_lost(dropped)
    }

    /// The delivery is under way: the next look is due at `next_look`.
    pub fn look_later(&self, f: &Followed, state: DeliveryState, next_look: i64) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "UPDATE delivery SET state = ?3, next_look = ?4, checks = checks + 1, remote_op = coalesce(remote_op, ?5)
                 WHERE op_id = ?1 AND since = ?2",
            )?
            .execute(params![f.op, f.since, state.as_str(), next_look, f.remote_op])?;
        Ok(())
    }

    /// An event tells of the delivery of something at the path: a look is due.
    pub fn look_soon(&self, path: &RemotePath) -> rusqlite::Result<()> {
        self.db.prepare_cached("UPDATE delivery SET next_look = 0 WHERE path = ?1")?.execute([path])?;
        Ok(())
    }

    /// The provider has it, or it is none of ours. Says whether it was followed until now.
    pub fn delivered(&self, f: &Followed) -> rusqlite::Result<bool> {
        let gone =
            self.db.prepare_cached("DELETE FROM delivery WHERE op_id = ?1 AND since = ?2")?.execute(params![f.op, f.since])?;
        Ok(gone == 1)
    }

    /// Nobody can tell what has become of it.
    pub fn delivery_lost(&self, f: &Followed) -> rusqlite::Result<()> {
        let gone = self.delivered(f)?;
        self.add_lost(usize::from(gone))
    }

    fn add_lost(&self, n: usize) -> rusqlite::Result<()> {
        if n > 0 {
            self.db
                .prepare_cached(
                    "INSERT INTO meta(key, value) VALUES('deliveries_lost', ?1)
                     ON CONFLICT(key) DO UPDATE SET value = CAST(value AS INTEGER) + CAST(?1 AS INTEGER)",
                )?
                .execute([n.to_string()])?;
        }
        Ok(())
    }

    /// Why the remote does not tell of deliveries; `None`: it does.
    pub fn set_delivery_unknown(&self, why: Option<&str>) -> rusqlite::Result<()> {
        match why {
            Some(why) => self.put_meta("delivery_unknown", why),
            None => self.delete_meta("delivery_unknown"),
        }
    }

    /// acknowledged → dead: the provider has refused it for good. The file stays as the remote has it, also in the view.
    /// `attempts` are the remote's. False when it is not followed any more: a later save has taken its place meanwhile.
    pub fn refuse_delivery(&self, f: &Followed, failure: &Failure, attempts: u32) -> rusqlite::Result<bool> {
        if !self.delivered(f)? {
            return Ok(false);
        }
        let (at, attempts) = (now_ms(), attempts.max(1));
        let Failure { status, code, message, body } = failure;
        let mut changed = self
            .db
            .prepare_cached(
                "UPDATE operation SET state = 4, in_view = 0, replay = 1, force = 0, forgiven = 0, remote_op = ?2, attempts = ?3,
                     last_status = ?4, last_code = ?5, last_error = ?6, last_body = ?7, updated_at = ?8
                 WHERE op_id = ?1 AND state = 5",
            )?
            .execute(params![f.op, f.remote_op, attempts, status, code, message, body, at])?;
        if changed == 0 {
            // Forgotten by now, as the oldest of what is finished are; what is refused is told all the same.
            changed = self
                .db
                .prepare_cached(
                    "INSERT INTO operation(op_id, kind, path, state, generation, sent, not_before, created_at, in_view, replay,
                         remote_op, attempts, last_status, last_code, last_error, last_body, updated_at)
                     VALUES(?1, ?9, ?10, 4, 1, 1, 0, ?11, 0, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT(op_id) DO NOTHING",
                )?
                .execute(params![f.op, f.remote_op, attempts, status, code, message, body, at, f.kind.code(), f.path, f.since])?;
        }
        if changed == 1 {
            self.write_attempt(&f.op, failure)?;
        }
        Ok(changed == 1)
    }

    /// in flight → acknowledged: the remote delivers it again, or (`follow` is false) has done so already.
    pub fn replayed(&self, op: &Operation, follow: bool) -> rusqlite::Result<()> {
        let at = now_ms();
        self.finish_row(&op.op, OpState::Acknowledged, at)?;
        if follow { self.follow(op, op.remote_op.as_deref(), at) } else { Ok(()) }
    }

    /// in flight → dead, as before: the remote could not be brought to deliver it again. Nothing in the view changes.
    pub fn bury_replay(&self, op: &Operation, failure: &Failure) -> rusqlite::Result<()> {
        self.write_attempt(&op.op, failure)?;
        let Failure { status, code, message, body } = failure;
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 4, attempts = attempts + 1, last_status = ?2, last_code = ?3, last_error = ?4,
                     last_body = ?5, updated_at = ?6 WHERE op_id = ?1",
            )?
            .execute(params![op.op, status, code, message, body, now_ms()])?;
        Ok(())
    }

    /// A save of the path does not wait behind a replay: the letter is a letter again, and that save settles it.
    pub(super) fn call_off_replays(&self, path: &RemotePath) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("UPDATE operation SET state = 4 WHERE path = ?1 AND state IN (1, 3) AND replay = 1")?
            .execute([path])?;
        Ok(())
    }
}

impl Journal {
    /// Followed operations whose next look is due, the longest due first.
    pub fn deliveries_due(&self, now: i64) -> Result<Vec<Followed>, JournalError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT op_id, remote_op, path, kind, since, checks FROM delivery WHERE next_look <= ?1
                 ORDER BY next_look",
            )?
            .query_map([now], |r| {
                Ok(Followed {
                    op: r.get(0)?,
                    remote_op: r.get(1)?,
                    path: r.get(2)?,
                    kind: OpKind::from_code(r.get(3)?),
                    since: r.get(4)?,
                    checks: r.get(5)?,
                })
            })?
            .collect()
        })
    }

    pub fn delivery_numbers(&self) -> Result<DeliveryNumbers, JournalError> {
        self.read(delivery_numbers)
    }
}

pub(super) fn delivery_numbers(db: &Connection) -> rusqlite::Result<DeliveryNumbers> {
    let count = |sql: &str| db.prepare_cached(sql)?.query_row([], |r| r.get::<_, i64>(0)).map(|n| n as u64);
    let meta = |key: &str| -> rusqlite::Result<Option<String>> {
        db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |r| r.get(0)).optional()
    };
    Ok(DeliveryNumbers {
        unresolved: count("SELECT count(*) FROM delivery")?,
        refused: count("SELECT count(*) FROM operation WHERE state = 4 AND replay = 1")?,
        lost: meta("deliveries_lost")?.and_then(|n| n.parse().ok()).unwrap_or(0),
        unknown: meta("delivery_unknown")?,
    })
}
