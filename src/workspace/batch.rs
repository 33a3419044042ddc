//! One change of the tree as the journal records it: a list of steps that become one transaction, in order.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::changes::{Change, Event, Origin};
use crate::ids::{Ino, OpId, Revision};
use crate::journal::{Durability, Moved, NodeRow, PathRule, Retried, Ticket, Tx, Version, now_ms};
use crate::path::RemotePath;
use crate::policy::IGNORE_FILE;

use super::tree::Tree;
use super::{FsResult, Workspace};

enum Step {
    PutNode(Box<NodeRow>),
    DeleteNode(Ino),
    PutName(Ino, OsString, Ino),
    DeleteName(Ino, OsString),
    PutXattr(Ino, OsString, Vec<u8>),
    DeleteXattr(Ino, OsString),
    PutRemote(RemotePath, Version, Option<String>),
    DeleteRemote(RemotePath),
    PutSeen(RemotePath, Option<Version>),
    DeleteSeen(RemotePath),
    Meta(&'static str, String),
    AllListed,
    Present(PathRule, Ino),
    Gone { left: PathRule, others: Vec<RemotePath> },
    ArrivesElsewhere(RemotePath, Vec<RemotePath>),
    Move(Vec<Moved>),
    Unflushed(RemotePath, Ino),
    LinkDelete(RemotePath, OpId),
    TakeLinked(OpId),
    Applied(OpId, Option<Version>),
    Refresh(RemotePath),
    Retry { op: OpId, force: bool, outcome: Arc<Mutex<Retried>> },
    OutOfView(OpId),
    LookSoon(RemotePath),
}

#[derive(Default)]
pub(super) struct Batch {
    steps: Vec<Step>,
    /// Paths whose queue may change, with the numbers of the change.
    marks: Vec<(RemotePath, u64)>,
    power: bool,
    /// What watchers are told after the commit.
    told: Vec<Change>,
    /// The correlation id of the remote event that is being applied.
    pub cause: Option<String>,
}

/// A submitted batch.
pub(super) struct Pending {
    ticket: Ticket,
    marks: Vec<(RemotePath, u64)>,
    /// For each mark: nothing of the path is left to do.
    idle: Arc<Mutex<Vec<bool>>>,
    told: Arc<Mutex<Vec<Change>>>,
}

impl Batch {
    pub fn survive_power_loss(&mut self) {
        self.power = true;
    }

    pub fn put_node(&mut self, tree: &Tree, ino: Ino) {
        if let Some(n) = tree.get(ino) {
            self.steps.push(Step::PutNode(Box::new(n.row(ino))));
        }
    }

    pub fn delete_node(&mut self, ino: Ino) {
        self.steps.push(Step::DeleteNode(ino));
    }

    pub fn put_name(&mut self, parent: Ino, name: &OsStr, ino: Ino) {
        self.steps.push(Step::PutName(parent, name.into(), ino));
    }

    pub fn delete_name(&mut self, parent: Ino, name: &OsStr) {
        self.steps.push(Step::DeleteName(parent, name.into()));
    }

    pub fn put_xattr(&mut self, ino: Ino, name: &OsStr, value: &[u8]) {
        self.steps.push(Step::PutXattr(ino, name.into(), value.into()));
    }

    pub fn delete_xattr(&mut self, ino: Ino, name: &OsStr) {
        self.steps.push(Step::DeleteXattr(ino, name.into()));
    }

    pub fn put_remote(&mut self, path: &RemotePath, version: &Version, content_type: Option<&str>) {
        self.steps.push(Step::PutRemote(path.clone(), version.clone(), content_type.map(str::to_owned)));
    }

    pub fn delete_remote(&mut self, path: &RemotePath) {
        self.steps.push(Step::DeleteRemote(path.clone()));
    }

    /// Notes what the remote has at a path with local work, for when that ends.
    pub fn note(&mut self, tree: &mut Tree, path: &RemotePath, version: Option<&Version>) {
        tree.note(path, version.cloned());
        self.steps.push(Step::PutSeen(path.clone(), version.cloned()));
    }

    pub fn forget_note(&mut self, path: &RemotePath) {
        self.steps.push(Step::DeleteSeen(path.clone()));
    }

    pub fn meta(&mut self, key: &'static str, value: impl Into<String>) {
        self.steps.push(Step::Meta(key, value.into()));
    }

    pub fn all_listed(&mut self) {
        self.steps.push(Step::AllListed);
    }

    /// The view has a file at the path whose content may have changed.
    pub fn present(&mut self, tree: &mut Tree, rule: PathRule, ino: Ino) {
        self.marks.push((rule.path.clone(), tree.mark_work(&rule.path)));
        self.steps.push(Step::Present(rule, ino));
    }

    /// The view has nothing at the path any more.
    pub fn gone(&mut self, tree: &mut Tree, rule: PathRule) {
        self.unlinked(tree, rule, Vec::new());
    }

    /// As [`Batch::gone`], of a file that has `others` as names, which are uploaded too.
    pub fn unlinked(&mut self, tree: &mut Tree, left: PathRule, others: Vec<RemotePath>) {
        self.marks.push((left.path.clone(), tree.mark_work(&left.path)));
        self.steps.push(Step::Gone { left, others });
    }

    /// Another file is about to take this name of a file that keeps `others`.
    pub fn arrives_elsewhere(&mut self, left: RemotePath, others: Vec<RemotePath>) {
        self.steps.push(Step::ArrivesElsewhere(left, others));
    }

    /// The content moved from one path to another.
    pub fn moved(&mut self, tree: &mut Tree, from: PathRule, to: PathRule, node: Ino) {
        self.moved_at_once(tree, vec![Moved { from, to, node }]);
    }

    /// Contents that changed places.
    pub fn moved_at_once(&mut self, tree: &mut Tree, moved: Vec<Moved>) {
        for rule in moved.iter().flat_map(|m| [&m.from, &m.to]) {
            self.marks.push((rule.path.clone(), tree.mark_work(&rule.path)));
        }
        self.steps.push(Step::Move(moved));
    }

    pub fn unflushed(&mut self, tree: &mut Tree, path: RemotePath, ino: Ino) {
        tree.mark_work(&path);
        self.steps.push(Step::Unflushed(path, ino));
    }

    /// Retries a letter. The steps behind this one are taken only if it was dead.
    pub fn retry(&mut self, tree: &mut Tree, path: &RemotePath, op: OpId, force: bool) -> Arc<Mutex<Retried>> {
        self.marks.push((path.clone(), tree.mark_work(path)));
        let outcome = Arc::new(Mutex::new(Retried::Unknown));
        self.steps.push(Step::Retry { op, force, outcome: Arc::clone(&outcome) });
        outcome
    }

    /// The delete of the path that is queued by now waits for `put`.
    pub fn link_delete(&mut self, path: RemotePath, put: OpId) {
        self.steps.push(Step::LinkDelete(path, put));
    }

    /// The deletes that were dropped with this put have come back.
    pub fn take_linked(&mut self, put: OpId) {
        self.steps.push(Step::TakeLinked(put));
    }

    /// The remote's feed shows that an operation was applied.
    pub fn applied(&mut self, op: OpId, result: Option<Version>) {
        self.steps.push(Step::Applied(op, result));
    }

    /// The view does not show any longer what this letter holds.
    pub fn out_of_view(&mut self, op: OpId) {
        self.steps.push(Step::OutOfView(op));
    }

    /// The feed tells of a delivery of something at the path.
    pub fn look_soon(&mut self, path: &RemotePath) {
        self.steps.push(Step::LookSoon(path.clone()));
    }

    /// The remote is to be asked about the path, also after a restart.
    pub fn refresh(&mut self, path: &RemotePath) {
        self.steps.push(Step::Refresh(path.clone()));
    }

    fn apply(&self, tx: &Tx<'_>, not_before: i64) -> rusqlite::Result<()> {
        for step in &self.steps {
            match step {
                Step::PutNode(row) => tx.put_node(row)?,
                Step::DeleteNode(ino) => tx.delete_node(*ino)?,
                Step::PutName(parent, name, ino) => tx.put_name(*parent, name, *ino)?,
                Step::DeleteName(parent, name) => tx.delete_name(*parent, name)?,
                Step::PutXattr(ino, name, value) => tx.put_xattr(*ino, name, value)?,
                Step::DeleteXattr(ino, name) => tx.delete_xattr(*ino, name)?,
                Step::PutRemote(path, version, kind) => tx.put_remote(path, version, kind.as_deref())?,
                Step::DeleteRemote(path) => tx.delete_remote(path)?,
                Step::PutSeen(path, version) => tx.put_seen(path, version.as_ref())?,
                Step::DeleteSeen(path) => tx.delete_seen(path)?,
                Step::Meta(key, value) => tx.put_meta(key, value)?,
                Step::AllListed => tx.set_all_listed()?,
                Step::Present(rule, ino) => drop(tx.change_path(&rule.path, rule.local_only, Some(*ino), not_before)?),
                Step::Gone { left, others } => tx.leave_path(left, others, not_before)?,
                Step::ArrivesElsewhere(left, others) => tx.arrives_elsewhere(left, others)?,
                Step::Move(moved) => tx.move_paths(moved, not_before)?,
                Step::Unflushed(path, ino) => tx.insert_unflushed(path, *ino)?,
                Step::LinkDelete(path, put) => tx.link_delete(path, put)?,
                Step::TakeLinked(put) => tx.take_linked(put)?,
                Step::Applied(op, result) => tx.note_applied(op, result.as_ref())?,
                Step::Refresh(path) => tx.note_unsure(path)?,
                Step::Retry { op, force, outcome } => {
                    let retried = tx.retry(op, *force)?;
                    let go_on = retried == Retried::Queued;
                    *outcome.lock() = retried;
                    if !go_on {
                        return Ok(());
                    }
                }
                Step::OutOfView(op) => tx.out_of_view(op)?,
                Step::LookSoon(path) => tx.look_soon(path)?,
            }
        }
        Ok(())
    }
}

impl Workspace {
    /// Hands a batch to the journal. Called with the tree's lock held, which keeps the order; never blocks.
    pub(super) fn submit(&self, batch: Batch) -> Pending {
        let idle = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::new(Mutex::new(batch.told.clone()));
        let to_tell = Arc::clone(&told);
        let marks = batch.marks.clone();
        let durability = if batch.power { Durability::Power } else { Durability::Process };
        let not_before = now_ms() + self.options.settle.as_millis() as i64;
        let out = Arc::clone(&idle);
        let ticket = self.journal.submit(durability, move |tx| {
            batch.apply(tx, not_before)?;
            for change in to_tell.lock().iter_mut().filter(|c| c.origin == Origin::Local) {
                change.op = tx.open_operation(&change.path)?;
            }
            *out.lock() = batch.marks.iter().map(|(path, _)| tx.is_idle(path)).collect::<rusqlite::Result<_>>()?;
            Ok(())
        });
        Pending { ticket, marks, idle, told }
    }

    /// Waits for the commit. Called without any lock.
    pub(super) fn finish(&self, pending: Pending) -> FsResult<()> {
        pending.ticket.wait()?;
        pending.told.lock().drain(..).for_each(|change| self.changes.tell(change));
        if pending.marks.iter().any(|(path, _)| path.as_str() == IGNORE_FILE) {
            self.rules_changed();
        }
        if pending.marks.is_empty() {
            return Ok(());
        }
        let idle = pending.idle.lock();
        if idle.iter().any(|&i| i) {
            let mut tree = self.tree.write();
            for ((path, number), idle) in pending.marks.iter().zip(idle.iter()) {
                if *idle {
                    tree.clear_work(path, *number);
                }
            }
        }
        if idle.iter().any(|&i| !i) {
            self.wake_writeback();
        }
        Ok(())
    }

    /// Notes that a file which is not local-only was changed here, to be told after the commit.
    pub(super) fn tell_local(&self, batch: &mut Batch, event: Event, path: &RemotePath) {
        if self.changes.is_watched() && !self.policy.is_local_only(path.as_str()) {
            batch.told.push(Change::new(event, Origin::Local, path.clone()));
        }
    }

    /// Notes that the view now follows the remote at a path. What the first listing shows is no news.
    pub(super) fn tell_remote(&self, batch: &mut Batch, event: Event, path: &RemotePath, revision: Option<&Revision>) {
        if self.changes.is_watched() && self.is_known() {
            let correlation_id = batch.cause.clone().filter(|id| !id.is_empty());
            let revision = revision.cloned();
            batch.told.push(Change { revision, correlation_id, ..Change::new(event, Origin::Remote, path.clone()) });
        }
    }

    /// Notes that something was renamed. Out of, or into, what is not told it has vanished, or appeared.
    pub(super) fn tell_rename(&self, batch: &mut Batch, from: Option<RemotePath>, to: Option<RemotePath>, replaced: bool) {
        let told = |path: &RemotePath| !self.policy.is_local_only(path.as_str());
        if !self.changes.is_watched() {
            return;
        }
        match (from.filter(told), to.filter(told)) {
            (Some(from), Some(to)) => {
                batch.told.push(Change { from: Some(from), ..Change::new(Event::Renamed, Origin::Local, to) })
            }
            (Some(from), None) => self.tell_local(batch, Event::Deleted, &from),
            (None, Some(to)) => self.tell_local(batch, if replaced { Event::Updated } else { Event::Created }, &to),
            (None, None) => {}
        }
    }

    pub(super) fn rule(&self, path: RemotePath) -> PathRule {
        PathRule { local_only: self.policy.is_local_only(path.as_str()), path }
    }
}
