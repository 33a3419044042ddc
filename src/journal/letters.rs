//! Dead letters: what a person does with them, and what can be asked about them.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::ops::{COLUMNS, OpState, Operation, operation};
use super::rows::Version;
use super::transitions::Failure;
use super::writer::Tx;
use super::{Journal, JournalError, now_ms};
use crate::ids::{ContentHash, OpId};
use crate::path::RemotePath;
use crate::remote::FeedMark;

/// What became of the wish to retry an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retried {
    /// dead → queued.
    Queued,
    /// It is queued or waiting already: somebody else was first.
    AlreadyQueued,
    /// A request for it may be on its way.
    InFlight,
    Acknowledged,
    Superseded,
    Discarded,
    /// A later save of the path is on its way and will settle this one.
    NewerSave(OpId),
    /// Its content is not here (a record of an older tool), so there is nothing to send.
    NoPayload,
    /// No such operation.
    Unknown,
}

/// What became of the wish to discard an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discarded {
    /// dead → discarded.
    Done,
    AlreadyDone,
    /// Acknowledged or superseded: there is no letter any more.
    Settled(OpState),
    /// Queued, waiting or in flight: not a dead letter.
    Open(OpState),
    Unknown,
}

/// A failed attempt as it was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub at: i64,
    pub status: Option<u16>,
    pub code: String,
    pub message: String,
}

/// The most recent refusal of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderError {
    pub provider: String,
    pub op: String,
    pub path: RemotePath,
    pub status: Option<u16>,
    pub code: String,
    pub message: String,
    pub at: i64,
}

/// A dead letter of another tool or another directory.
#[derive(Debug, Clone)]
pub struct ForeignLetter {
    pub op: OpId,
    pub path: RemotePath,
    pub base: Option<Version>,
    pub payload: Option<(ContentHash, u64)>,
    pub attempts: u32,
    pub created_at: i64,
    pub updated_at: i64,
    pub failure: Failure,
    /// The remote has it, under this id, and its provider refused it.
    pub remote_op: Option<String>,
}

impl Tx<'_> {
    /// dead → queued, due at once. What the remote has already is not sent again, so that `force` means nothing for it.
    /// What it sends and its id stay the same; attempts so far are forgiven, not forgotten.
    pub fn retry(&self, op: &OpId, force: bool) -> rusqlite::Result<Retried> {
        let Some(found) = self.operation(op)? else { return Ok(Retried::Unknown) };
        Ok(match found.state {
            OpState::Queued | OpState::Waiting => Retried::AlreadyQueued,
            // Somebody else's retry is under way: what was asked for is being done.
            OpState::InFlight if found.forgiven > 0 && found.spent() == 0 => Retried::AlreadyQueued,
            OpState::InFlight => Retried::InFlight,
            OpState::Acknowledged => Retried::Acknowledged,
            OpState::Superseded => Retried::Superseded,
            OpState::Discarded => Retried::Discarded,
            OpState::Dead => {
                let newer: Option<OpId> = self
                    .db
                    .prepare_cached(
                        "SELECT n.op_id FROM operation o JOIN operation n ON n.path = o.path AND n.seq > o.seq AND n.state <= 3
                         WHERE o.op_id = ?1 ORDER BY n.seq DESC LIMIT 1",
                    )?
                    .query_row([op], |r| r.get(0))
                    .optional()?;
                if let Some(newer) = newer {
                    return Ok(Retried::NewerSave(newer));
                }
                self.db
                    .prepare_cached(
                        "UPDATE operation SET state = 1, not_before = 0, force = (?2 AND replay = 0), forgiven = attempts,
                             updated_at = ?3
                         WHERE op_id = ?1 AND state = 4",
                    )?
                    .execute(params![op, force, now_ms()])?;
                Retried::Queued
            }
        })
    }

    /// dead → discarded.
    pub fn discard(&self, op: &OpId) -> rusqlite::Result<Discarded> {
        let Some(found) = self.operation(op)? else { return Ok(Discarded::Unknown) };
        Ok(match found.state {
            OpState::Dead => {
                self.finish_row(op, OpState::Discarded, now_ms())?;
                Discarded::Done
            }
            OpState::Discarded => Discarded::AlreadyDone,
            done @ (OpState::Acknowledged | OpState::Superseded) => Discarded::Settled(done),
            open => Discarded::Open(open),
        })
    }

    /// The view does not show any longer what this operation would send.
    pub fn out_of_view(&self, op: &OpId) -> rusqlite::Result<()> {
        self.db.prepare_cached("UPDATE operation SET in_view = 0 WHERE op_id = ?1")?.execute([op])?;
        Ok(())
    }

    /// The deletes that were dropped when this put died; they come back with its retry.
    pub fn take_linked(&self, put: &OpId) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("UPDATE operation SET last_code = NULL WHERE after_op = ?1 AND state = 6 AND last_code = 'linked'")?
            .execute([put])?;
        Ok(())
    }

    /// The delete of `path` that is queued now waits for `put`.
    pub fn link_delete(&self, path: &RemotePath, put: &OpId) -> rusqlite::Result<()> {
        self.db
            .prepare_cached("UPDATE operation SET after_op = ?2 WHERE path = ?1 AND state = 1 AND sent = 0 AND kind = 2")?
            .execute(params![path, put])?;
        Ok(())
    }

    /// Takes over the last words of a provider, unless newer ones are known.
    pub fn import_provider_error(&self, provider: &str, path: &RemotePath, failure: &Failure) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "INSERT OR IGNORE INTO provider_error(provider, op_id, path, status, code, message, at)
                 VALUES(?1, '', ?2, ?3, ?4, ?5, 0)",
            )?
            .execute(params![provider, path, failure.status, failure.code, failure.message])?;
        Ok(())
    }

    /// Takes over a dead letter that this journal does not know. Says whether it was new.
    pub fn import_letter(&self, letter: &ForeignLetter) -> rusqlite::Result<bool> {
        let inserted = self
            .db
            .prepare_cached(
                "INSERT INTO operation(op_id, kind, path, state, generation, base_revision, base_hash, sent, payload_hash,
                     payload_size, attempts, not_before, created_at, updated_at, last_status, last_code, last_error, last_body,
                     in_view, remote_op, replay)
                 VALUES(?1, 1, ?2, 4, 1, ?3, ?4, 1, ?5, ?6, ?7, 0, ?8, ?9, ?10, ?11, ?12, ?13, 0, ?14, ?14 IS NOT NULL)
                 ON CONFLICT(op_id) DO NOTHING",
            )?
            .execute(params![
                letter.op,
                letter.path,
                letter.base.as_ref().map(|b| &b.revision),
                letter.base.as_ref().and_then(|b| b.hash),
                letter.payload.map(|p| p.0),
                letter.payload.map(|p| p.1 as i64),
                letter.attempts,
                letter.created_at,
                letter.updated_at,
                letter.failure.status,
                letter.failure.code,
                letter.failure.message,
                letter.failure.body,
                letter.remote_op,
            ])?;
        Ok(inserted == 1)
    }
}

impl Journal {
    pub fn dead_letters(&self) -> Result<Vec<Operation>, JournalError> {
        self.read(dead_letters)
    }

    pub fn attempts(&self, op: &OpId) -> Result<Vec<Attempt>, JournalError> {
        self.read(|db| attempts(db, op))
    }

    pub fn provider_errors(&self) -> Result<Vec<ProviderError>, JournalError> {
        self.read(provider_errors)
    }

    /// The paths of the deletes that were dropped when this put died, with the version that each would have deleted.
    pub fn linked_deletes(&self, put: &OpId) -> Result<Vec<(RemotePath, Option<Version>)>, JournalError> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM operation WHERE after_op = ?1 AND state = 6 AND last_code = 'linked'"
            ))?
            .query_map([put], |r| operation(r).map(|o| (o.path, o.base)))?
            .collect()
        })
    }

    /// Discarded letters whose content the view still shows.
    pub fn half_discarded(&self) -> Result<Vec<Operation>, JournalError> {
        self.read(|db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM operation WHERE state = 7 AND in_view = 1 AND kind = 1"))?
                .query_map([], operation)?
                .collect()
        })
    }

    /// What the remote's feed has told of an operation so far: `Ok(result)` when it was applied, else the place in the feed
    /// up to which that is known. Both of one moment, because the follower moves both at once.
    pub fn applied(&self, op: &Operation) -> Result<Result<Option<Version>, FeedMark>, JournalError> {
        self.read(|db| {
            // One statement, so one snapshot.
            db.prepare_cached(
                "SELECT (SELECT count(*) FROM applied WHERE op_id = ?1), (SELECT revision FROM applied WHERE op_id = ?1),
                     (SELECT hash FROM applied WHERE op_id = ?1), (SELECT value FROM meta WHERE key = 'mark'),
                     (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'learned_at')",
            )?
            .query_row([&op.op], |r| {
                if r.get::<_, i64>(0)? > 0 {
                    let hash = r.get(2)?;
                    return Ok(Ok(r.get::<_, Option<_>>(1)?.map(|revision| Version { revision, hash })));
                }
                let mark: Option<String> = r.get(3)?;
                // A listing jumps over events without looking at them.
                let listed_since = r.get::<_, Option<i64>>(4)?.is_some_and(|at| at >= op.created_at);
                let mark = mark.filter(|_| !listed_since).and_then(|m| serde_json::from_str(&m).ok());
                Ok(Err(mark.unwrap_or_default()))
            })
        })
    }

    /// Whether what the remote has at a path are the bytes that an earlier operation than `op` was to write there: then
    /// `op`, which came after them, has seen them. The same bytes under a revision that is none of ours are somebody's revert.
    pub fn wrote_before(&self, op: &Operation, version: &Version) -> Result<bool, JournalError> {
        let Some(hash) = version.hash else { return Ok(false) };
        self.read(|db| {
            db.prepare_cached(
                "SELECT EXISTS(SELECT 1 FROM operation o WHERE o.path = ?1 AND o.kind = 1
                     AND o.sent = 1 AND (o.in_view = 1 OR o.replay = 1) AND o.payload_hash = ?2
                     AND o.seq < (SELECT seq FROM operation WHERE op_id = ?3)
                     AND ((o.state = 5 OR o.replay = 1) AND o.result_revision = ?4
                          OR o.state IN (4, 6) AND o.replay = 0 AND o.seq > coalesce((SELECT max(a.seq) FROM operation a
                              WHERE a.path = ?1 AND (a.state = 5 OR a.replay = 1)
                                  AND a.seq < (SELECT seq FROM operation WHERE op_id = ?3)), 0)))",
            )?
            .query_row(params![op.path, hash, op.op, version.revision], |r| r.get(0))
        })
    }

    /// The hashes of the versions that unfinished operations are based on.
    pub fn base_hashes(&self) -> Result<Vec<ContentHash>, JournalError> {
        self.read(|db| {
            db.prepare_cached("SELECT DISTINCT base_hash FROM operation WHERE state <= 4 AND base_hash IS NOT NULL")?
                .query_map([], |r| r.get(0))?
                .collect()
        })
    }

    /// Nothing local is left to defend at the path.
    pub fn is_idle(&self, path: &RemotePath) -> Result<bool, JournalError> {
        self.read(|db| Tx { db }.is_idle(path))
    }

    /// The operation on its way to the remote whose result the view showed before the content of this letter took its place.
    /// `None` when there is none, and when a later operation shows by now.
    pub fn saved_before(&self, letter: &OpId) -> Result<Option<Operation>, JournalError> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM operation WHERE seq = (
                     SELECT max(o.seq) FROM operation l JOIN operation o ON o.path = l.path AND o.state <= 3 AND o.in_view = 1
                     WHERE l.op_id = ?1 HAVING max(o.seq) < max(l.seq))"
            ))?
            .query_row([letter], operation)
            .optional()
        })
    }

    /// The version that the view of a path is built on.
    pub fn remote_version(&self, path: &RemotePath) -> Result<Option<Version>, JournalError> {
        self.read(|db| Tx { db }.remote(path))
    }
}

/// Every dead letter, oldest first.
pub(super) fn dead_letters(db: &Connection) -> rusqlite::Result<Vec<Operation>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM operation WHERE state = 4 ORDER BY seq"))?
        .query_map([], operation)?
        .collect()
}

/// The failed attempts of an operation, oldest first.
pub(super) fn attempts(db: &Connection, op: &OpId) -> rusqlite::Result<Vec<Attempt>> {
    db.prepare_cached("SELECT at, status, code, message FROM attempt WHERE op_id = ?1 ORDER BY rowid")?
        .query_map([op], |r| Ok(Attempt { at: r.get(0)?, status: r.get(1)?, code: r.get(2)?, message: r.get(3)? }))?
        .collect()
}

pub(super) fn provider_errors(db: &Connection) -> rusqlite::Result<Vec<ProviderError>> {
    db.prepare_cached("SELECT provider, op_id, path, status, code, message, at FROM provider_error ORDER BY at")?
        .query_map([], |r| {
            Ok(ProviderError {
                provider: r.get(0)?,
                op: r.get(1)?,
                path: r.get(2)?,
                status: r.get(3)?,
                code: r.get(4)?,
                message: r.get(5)?,
                at: r.get(6)?,
            })
        })?
        .collect()
}
