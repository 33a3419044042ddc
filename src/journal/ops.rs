//! Operations: the rows of the writeback queue, and what a change of the view makes of them. What becomes of a row once a
//! worker or a person has taken it up is in `transitions` and `letters`.

use std::collections::HashSet;

use rusqlite::{OptionalExtension, Row, params};

use super::now_ms;
use super::rows::Version;
use super::writer::Tx;
use crate::ids::{ContentHash, Ino, OpId, Revision};
use crate::path::RemotePath;
use crate::writeback::coalesce::{Decision, Now, PathState, Queued, coalesce};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    Put,
    Delete,
}

impl OpKind {
    pub(super) fn code(self) -> i64 {
        match self {
            OpKind::Put => 1,
            OpKind::Delete => 2,
        }
    }

    pub(super) fn from_code(code: i64) -> OpKind {
        if code == 2 { OpKind::Delete } else { OpKind::Put }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            OpKind::Put => "put",
            OpKind::Delete => "delete",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
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
    pub(super) fn code(self) -> i64 {
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
    /// The body of the last refusal, cut at 1 KiB.
    pub last_body: Option<String>,
    /// The view shows what this operation sends. False once the remote's version has taken the path.
    pub in_view: bool,
    /// Goes on top of whatever the remote has, because somebody said so.
    pub force: bool,
    /// How many of the attempts a retry has forgiven.
    pub forgiven: u32,
    /// The revision that an acknowledged put produced.
    pub result_revision: Option<Revision>,
    /// The remote's own id of an acknowledged operation.
    pub remote_op: Option<String>,
    /// The remote has it, and its provider has refused it: a retry asks for another delivery, and sends nothing.
    pub replay: bool,
    /// A request for it was part of a batch, so that only its content identity tells whether that was applied.
    pub batched: bool,
}

impl Operation {
    /// Refusals that count against the budget.
    pub fn spent(&self) -> u32 {
        self.attempts.saturating_sub(self.forgiven)
    }
}

pub(super) const COLUMNS: &str =
    "op_id, kind, path, node, state, generation, base_revision, base_hash, sent, payload_hash, payload_size,
    content_type, attempts, not_before, created_at, updated_at, last_status, last_code, last_error, last_body, in_view, force,
    forgiven, result_revision, remote_op, replay, batched";

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
        kind: OpKind::from_code(r.get(1)?),
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
        last_body: r.get(19)?,
        in_view: r.get(20)?,
        force: r.get(21)?,
        forgiven: r.get(22)?,
        result_revision: r.get(23)?,
        remote_op: r.get(24)?,
        replay: r.get(25)?,
        batched: r.get(26)?,
    })
}

/// A path and whether a rule keeps it from the remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    pub path: RemotePath,
    pub local_only: bool,
}

/// A file that is at another path now.
#[derive(Debug, Clone)]
pub struct Moved {
    pub from: PathRule,
    pub to: PathRule,
    pub node: Ino,
}

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
        self.call_off_replays(path)?;
        // What somebody retries beside the view says nothing about the version that this change was made on.
        let open: Vec<Operation> = self.open_operations(path)?.into_iter().filter(|o| o.in_view).collect();
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
        if now == Now::Gone {
            // Whoever removes a file here has decided about the letter of what it showed; and when it was moved, its content
            // goes on under the new name.
            self.db
                .prepare_cached(
                    "UPDATE operation SET state = 6, updated_at = ?2 WHERE path = ?1 AND state = 4 AND kind = 1 AND in_view = 1",
                )?
                .execute(params![path, at])?;
        }
        let base = queued.or(sent).map_or(remote, |o| o.base.clone());
        match coalesce(&state, now) {
            Decision::Nothing => Ok(queued.filter(|q| q.kind == OpKind::Put).map(|q| q.op.clone())),
            Decision::Join(op) => {
                self.db
                    .prepare_cached(
                        "UPDATE operation SET node = ?2, generation = generation + 1, not_before = ?3, updated_at = ?4,
                             payload_hash = NULL, payload_size = NULL, force = 0 WHERE op_id = ?1",
                    )?
                    .execute(params![op, node, not_before, at])?;
                Ok(Some(op))
            }
            Decision::Insert(kind) => self.insert_operation(kind, path, node, base.as_ref(), not_before, at),
            Decision::Replace(old, kind) => {
                self.finish_row(&old, OpState::Superseded, at)?;
                let put = self.insert_operation(kind, path, node, base.as_ref(), not_before, at)?;
                // What the remote has here may still have to arrive elsewhere: a file moved away, and another one made and
                // removed at its old name. A put only keeps that in mind for the delete that may take its place.
                self.db
                    .prepare_cached(
                        "UPDATE operation SET after_op = (SELECT o.after_op FROM operation o JOIN operation p ON p.op_id = o.after_op
                             WHERE o.op_id = ?1 AND p.state <= 3 AND p.replay = 0) WHERE seq = ?2",
                    )?
                    .execute(params![old, self.db.last_insert_rowid()])?;
                Ok(put)
            }
            Decision::Cancel(old) => {
                self.finish_row(&old, OpState::Superseded, at)?;
                Ok(None)
            }
        }
    }

    /// A file moved: the delete of the old path must not run before the put of the new one is acknowledged. Deletes that
    /// waited for a put of the old path (a chain of renames) now wait for the new one.
    /// Several files may move at once, each to a path of its own, perhaps one that another of them has left.
    pub fn move_paths(&self, moved: &[Moved], not_before: i64) -> rusqlite::Result<()> {
        // Before anything is queued: afterwards a put of a path may be that of the file which has come there.
        let waiting = moved.iter().map(|m| self.waiting_for_put(&m.from.path)).collect::<rusqlite::Result<Vec<_>>>()?;
        let put = |m: &Moved| self.change_path(&m.to.path, m.to.local_only, Some(m.node), not_before);
        let puts = moved.iter().map(put).collect::<rusqlite::Result<Vec<_>>>()?;
        let taken: HashSet<&RemotePath> = moved.iter().map(|m| &m.to.path).collect();
        for m in moved.iter().filter(|m| !taken.contains(&m.from.path)) {
            self.change_path(&m.from.path, m.from.local_only, None, not_before)?;
        }
        for ((m, put), waiting) in moved.iter().zip(puts).zip(waiting) {
            let Some(put) = put else { continue };
            self.wait_for(&waiting, &put)?;
            self.leave_after(&m.from.path, &put)?;
        }
        Ok(())
    }

    /// A name of a file is taken away, and the file lives on under `others`, which are uploaded too. Where it has arrived under
    /// none of them yet, the delete waits for one, and so does what had waited for it to arrive here.
    pub fn leave_path(&self, left: &PathRule, others: &[RemotePath], not_before: i64) -> rusqlite::Result<()> {
        self.arrives_elsewhere(&left.path, others)?;
        self.change_path(&left.path, left.local_only, None, not_before)?;
        match self.arrival(others)? {
            Some(put) => self.leave_after(&left.path, &put),
            None => Ok(()),
        }
    }

    /// A name of a file is given to another one: what had waited for the file to arrive here waits for one of its other names.
    /// Before the put of the path becomes that of the other file.
    pub fn arrives_elsewhere(&self, left: &RemotePath, others: &[RemotePath]) -> rusqlite::Result<()> {
        match self.arrival(others)? {
            Some(put) => self.wait_for(&self.waiting_for_put(left)?, &put),
            None => Ok(()),
        }
    }

    /// The put by which a file that has these names comes to the remote; `None` when it is there under one of them already.
    fn arrival(&self, names: &[RemotePath]) -> rusqlite::Result<Option<OpId>> {
        let mut arriving = None;
        for name in names {
            match self.open_operation(name)? {
                Some(put) => arriving = arriving.or(Some(put)),
                None if self.remote(name)?.is_some() => return Ok(None),
                None => {}
            }
        }
        Ok(arriving)
    }

    fn wait_for(&self, waiting: &[OpId], put: &OpId) -> rusqlite::Result<()> {
        waiting.iter().filter(|op| *op != put).try_for_each(|op| self.link(op, put))
    }

    /// What is queued at a path runs after `put`, unless it waits already: that is for the content which the remote has at the
    /// path; what is put elsewhere now came there later.
    fn leave_after(&self, path: &RemotePath, put: &OpId) -> rusqlite::Result<()> {
        self.db
            .prepare_cached(
                "UPDATE operation SET after_op = ?2 WHERE path = ?1 AND state = 1 AND sent = 0 AND op_id <> ?2
                     AND NOT EXISTS(SELECT 1 FROM operation p WHERE p.op_id = operation.after_op AND p.state <= 3)",
            )?
            .execute(params![path, put])?;
        Ok(())
    }

    /// Deletes that wait for a put of this path which was not sent, and puts that keep that in mind.
    fn waiting_for_put(&self, path: &RemotePath) -> rusqlite::Result<Vec<OpId>> {
        self.db
            .prepare_cached(
                "SELECT d.op_id FROM operation d JOIN operation p ON d.after_op = p.op_id
                 WHERE p.path = ?1 AND p.state IN (1, 3) AND p.sent = 0 AND d.state IN (1, 3)",
            )?
            .query_map([path], |r| r.get(0))?
            .collect()
    }

    pub(super) fn link(&self, delete: &OpId, put: &OpId) -> rusqlite::Result<()> {
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
        let at = now_ms();
        let open: Vec<Operation> = self.open_operations(path)?.into_iter().filter(|o| o.in_view).collect();
        let known: Option<OpId> = self
            .db
            .prepare_cached(
                "SELECT op_id FROM operation
                 WHERE path = ?1 AND state = 4 AND last_code = 'unflushed' AND sent = 0 AND in_view = 1",
            )?
            .query_row([path], |r| r.get(0))
            .optional()?;
        match known {
            Some(_) if open.is_empty() => return Ok(()),
            // A save has taken its place since; it would be settled with that save, and these bytes are newer still.
            Some(older) => self.finish_row(&older, OpState::Superseded, at)?,
            None => {}
        }
        let op = match open.into_iter().find(|o| !o.sent && o.kind == OpKind::Put) {
            Some(o) => Some(o.op),
            None => {
                let base = self.remote(path)?;
                self.insert_operation(OpKind::Put, path, Some(node), base.as_ref(), at, at)?
            }
        };
        self.db.prepare_cached("UPDATE operation SET in_view = 0 WHERE path = ?1 AND state = 4 AND kind = 1")?.execute([path])?;
        self.db
            .prepare_cached(
                "UPDATE operation SET state = 4, updated_at = ?2, last_code = 'unflushed', last_error =
                     'the mount ended while a program was writing this file; the bytes written so far are kept' WHERE op_id = ?1",
            )?
            .execute(params![op, at])?;
        if let Some(op) = &op {
            self.drop_linked(op)?;
        }
        Ok(())
    }

    /// The operation that brings what the view has at the path to the remote, if there is one.
    pub fn open_operation(&self, path: &RemotePath) -> rusqlite::Result<Option<OpId>> {
        self.db
            .prepare_cached(
                "SELECT op_id FROM operation WHERE path = ?1 AND state <= 3 AND in_view = 1 ORDER BY seq DESC LIMIT 1",
            )?
            .query_row([path], |r| r.get(0))
            .optional()
    }

    pub(super) fn open_operations(&self, path: &RemotePath) -> rusqlite::Result<Vec<Operation>> {
        self.db
            .prepare_cached(&format!("SELECT {COLUMNS} FROM operation WHERE path = ?1 AND state <= 3 ORDER BY seq"))?
            .query_map([path], operation)?
            .collect()
    }

    pub(super) fn finish_row(&self, op: &OpId, state: OpState, at: i64) -> rusqlite::Result<()> {
        self.db.prepare_cached("UPDATE operation SET state = ?2, updated_at = ?3 WHERE op_id = ?1")?.execute(params![
            op,
            state.code(),
            at
        ])?;
        Ok(())
    }
}
