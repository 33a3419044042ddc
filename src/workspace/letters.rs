//! Dead letters and the view: what a path shows when its operation dies, when a person retries it, and when one discards it.
//!
//! | the operation | the path shows |
//! |---|---|
//! | a put that the remote refuses | the local version, until it is saved again, retried with success, or discarded |
//! | a put that met another version | the remote's version; ours is in the letter |
//! | a put of a file that was deleted at the remote | the local version; the next save creates the file |
//! | a delete that dies | the remote's file again |
//! | discarded | the last save still on its way, else the remote's version, or nothing if the remote never had it |

use std::ffi::OsStr;

use parking_lot::Mutex;

use crate::changes::{Change, Event};
use crate::failpoint;
use crate::ids::{ContentHash, Ino, OpId};
use crate::journal::{
    ContentState, Discarded, Durability, Failure, JournalError, Meets, OpKind, OpState, Operation, Retried, Version,
};
use crate::path::RemotePath;

use super::batch::Batch;
use super::tree::{Node, Tree};
use super::{FsError, FsResult, Invalidation, Workspace};

impl Workspace {
    pub(super) fn bury_operation(
        &self,
        op: &Operation,
        failure: &Failure,
        meets: &Meets,
        payload: Option<(ContentHash, u64, String)>,
    ) -> Result<(), JournalError> {
        let mut tree = self.tree.write();
        // Changes up to here are before this one in the journal, later ones behind it.
        let number = tree.changes();
        let mut row = None;
        match meets {
            Meets::Version(version) => tree.note(&op.path, Some(version.clone())),
            Meets::Nothing if !op.in_view => tree.note(&op.path, None),
            // There is nothing left that a revision could name.
            Meets::Nothing => {
                if let Some(ino) = op.node
                    && let Some(node) = tree.get_mut(ino).filter(|n| !n.links.is_empty())
                    && let Some(f) = node.file_mut()
                {
                    f.version = None;
                    row = Some(node.row(ino));
                }
            }
            Meets::Refusal => {}
        }
        let slot = std::sync::Arc::new(Mutex::new((Vec::new(), false)));
        let out = std::sync::Arc::clone(&slot);
        let words = (failure.code.clone(), failure.message.clone());
        let (dead, failure, meets) = (op.clone(), failure.clone(), meets.clone());
        let ticket = self.journal.submit(Durability::Process, move |tx| {
            if let Some(row) = &row {
                tx.put_node(row)?;
            }
            let mut dropped = Vec::new();
            for path in tx.bury(&dead, &failure, &meets, payload.clone())? {
                let idle = tx.is_idle(&path)?;
                dropped.push((path, idle));
            }
            *out.lock() = (dropped, tx.is_idle(&dead.path)?);
            Ok(())
        });
        drop(tree);
        ticket.wait()?;
        let (dropped, idle) = std::mem::take(&mut *slot.lock());
        self.changes.tell(Change { failure: Some(words), ..Change::of_operation(Event::Dead, &op.op, &op.path) });
        let mut tree = self.tree.write();
        // The deletes that waited for this put: their files are still at the remote.
        let paths = dropped.into_iter().chain([(op.path.clone(), idle)]);
        for (path, idle) in paths {
            if idle {
                tree.clear_work(&path, number);
                tree.refresh_later(&path);
            } else if op.path != path {
                tree.note(&path, Some(Version::unknown()));
            }
        }
        Ok(())
    }

    /// Retries a dead letter: it is due at once. With `force` it goes on top of whatever the remote has. The deletes that were
    /// dropped when it died come back in the same transaction, unless somebody has worked on their paths since.
    pub fn retry(&self, op: &OpId, force: bool) -> FsResult<Retried> {
        let _one_at_a_time = self.letters.lock();
        let Some(letter) = self.journal.operation(op)? else { return Ok(Retried::Unknown) };
        let needs_payload = letter.state == OpState::Dead && letter.kind == OpKind::Put && letter.sent && !letter.replay;
        if needs_payload && !self.store.payload_path(op).exists() {
            return Ok(Retried::NoPayload);
        }
        let linked = match letter.state {
            OpState::Dead => self.journal.linked_deletes(op)?,
            _ => Vec::new(),
        };
        let mut tree = self.tree.write();
        let (mut batch, mut news, mut returning) = (Batch::default(), Vec::new(), Vec::new());
        // Everything behind this step happens only if the letter was dead.
        let outcome = batch.retry(&mut tree, &letter.path, op.clone(), force);
        for (path, base) in linked {
            if self.take_name_again(&mut tree, &mut batch, &mut news, &path, base.as_ref()) {
                batch.gone(&mut tree, self.rule(path.clone()));
                batch.link_delete(path.clone(), op.clone());
                returning.push(path);
            }
        }
        batch.take_linked(op.clone());
        let pending = self.submit(batch);
        drop(tree);
        news.into_iter().for_each(|n| self.notify(n));
        self.finish(pending)?;
        let outcome = outcome.lock().clone();
        if outcome == Retried::Queued {
            failpoint::hit("retried");
            self.changes.tell(Change::of_operation(Event::Retried, op, &letter.path));
            self.wake_writeback();
        } else {
            // It was settled at this very moment: what was taken from the view comes back.
            let mut tree = self.tree.write();
            returning.iter().for_each(|path| tree.refresh_later(path));
        }
        Ok(outcome)
    }

    /// Takes the name of a dropped delete from the view again. False when the path is somebody's work by now, or shows another
    /// version than the delete was meant for.
    fn take_name_again(
        &self,
        tree: &mut Tree,
        batch: &mut Batch,
        news: &mut Vec<Invalidation>,
        path: &RemotePath,
        base: Option<&Version>,
    ) -> bool {
        if tree.has_work(path) {
            return false;
        }
        let Some(ino) = tree.resolve(path) else { return true };
        let as_it_was = tree.get(ino).and_then(Node::file).is_some_and(|f| {
            f.content != ContentState::Dirty && matches!((&f.version, base), (Some(now), Some(then)) if now.same_as(then))
        });
        if let (true, Some(name), Some(parent)) = (as_it_was, path.name(), path.parent().and_then(|p| tree.resolve(&p))) {
            self.remove_name(tree, batch, parent, OsStr::new(name), ino);
            news.push(Invalidation::Entry { parent, name: name.into() });
            news.push(Invalidation::Attributes(parent));
        }
        as_it_was
    }

    /// Lets a dead letter go: the path returns to the remote's version, or goes if the remote has none. EBUSY while a program
    /// has the file open for writing.
    ///
    /// First the letter is discarded, then the path returns; an end of the process between the two is made good by
    /// [`Workspace::recover`].
    pub fn discard(&self, op: &OpId) -> FsResult<Discarded> {
        let _one_at_a_time = self.letters.lock();
        let Some(letter) = self.journal.operation(op)? else { return Ok(Discarded::Unknown) };
        let tree = self.tree.write();
        if letter.state == OpState::Dead && letter.in_view && Self::is_being_written(&tree, &letter.path) {
            return Err(FsError::Errno(libc::EBUSY));
        }
        let number = tree.work.get(&letter.path).copied();
        let slot = std::sync::Arc::new(Mutex::new(Discarded::Unknown));
        let (out, id) = (std::sync::Arc::clone(&slot), op.clone());
        let ticket = self.journal.submit(Durability::Process, move |tx| {
            *out.lock() = tx.discard(&id)?;
            Ok(())
        });
        drop(tree);
        ticket.wait()?;
        let outcome = slot.lock().clone();
        if outcome == Discarded::Done {
            failpoint::hit("discarded");
            self.let_path_return(&letter, number)?;
            self.changes.tell(Change::of_operation(Event::Discarded, op, &letter.path));
            self.store.trash_payload(op);
        }
        Ok(outcome)
    }

    /// The second half of a discard. `number` is that of the last local change of the path which the letter tells of; after
    /// a later one the path belongs to that.
    pub(super) fn let_path_return(&self, letter: &Operation, number: Option<u64>) -> FsResult<()> {
        let mut tree = self.tree.write();
        let (mut batch, mut news) = (Batch::default(), Vec::new());
        let path = &letter.path;
        let untouched = tree.work.get(path).copied() == number && !Self::is_being_written(&tree, path);
        let shows_it = letter.kind == OpKind::Put && letter.in_view;
        if shows_it && untouched {
            match self.journal.saved_before(&letter.op)? {
                _ if self.journal.is_idle(path)? => self.return_to_remote(&mut tree, &mut batch, &mut news, path)?,
                Some(op) => self.return_to_save(&mut tree, &mut batch, &mut news, &op)?,
                // A later save shows.
                None => {}
            }
        }
        batch.out_of_view(letter.op.clone());
        let pending = self.submit(batch);
        drop(tree);
        news.into_iter().for_each(|n| self.notify(n));
        self.finish(pending)
    }

    /// At start: what the last run left half done.
    pub(super) fn recover_letters(&self) -> FsResult<()> {
        // What a letter of unflushed bytes would send is what the file holds now.
        for letter in self.journal.dead_letters()? {
            if let Some(ino) = letter.node.filter(|_| letter.last_code.as_deref() == Some("unflushed") && !letter.sent)
                && let Err(e) = self.store.copy_to_payload(ino, &letter.op)
            {
                log::warn!("{}: the bytes of {} cannot be copied: {e}", letter.op, letter.path);
            }
        }
        for letter in self.journal.half_discarded()? {
            let number = self.tree.read().work.get(&letter.path).copied();
            self.let_path_return(&letter, number)?;
        }
        Ok(self.store.empty_trash()?)
    }

    fn is_being_written(tree: &Tree, path: &RemotePath) -> bool {
        let node = tree.resolve(path).and_then(|i| tree.get(i));
        node.is_some_and(|n| {
            n.writers > 0 || n.file().is_some_and(|f| f.unsaved || f.working.as_ref().is_some_and(|w| w.has_uncommitted()))
        })
    }

    /// Shows what the view was built on before the local change; the remote is asked as soon as it answers.
    fn return_to_remote(
        &self,
        tree: &mut Tree,
        batch: &mut Batch,
        news: &mut Vec<Invalidation>,
        path: &RemotePath,
    ) -> FsResult<()> {
        let base = self.journal.remote_version(path)?;
        tree.work.remove(path);
        tree.refresh_later(path);
        batch.refresh(path);
        let (Some(name), Some(parent_path)) = (path.name(), path.parent()) else { return Ok(()) };
        let (Some(parent), Some(ino)) = (tree.resolve(&parent_path), tree.resolve(path)) else { return Ok(()) };
        let name = OsStr::new(name);
        match base {
            Some(version) => self.show_version(tree, batch, news, (parent, name), ino, path, version),
            None => {
                self.remove_name(tree, batch, parent, name, ino);
                news.push(Invalidation::Entry { parent, name: name.into() });
                news.push(Invalidation::Attributes(parent));
            }
        }
        Ok(())
    }

    /// Shows what the last save of the path holds, which is still on its way to the remote.
    fn return_to_save(&self, tree: &mut Tree, batch: &mut Batch, news: &mut Vec<Invalidation>, op: &Operation) -> FsResult<()> {
        if op.kind == OpKind::Put && !op.sent {
            // What it will send is what the file holds now: it was saved after the letter.
            return Ok(());
        }
        let (Some(name), Some(parent_path)) = (op.path.name(), op.path.parent()) else { return Ok(()) };
        let (Some(parent), Some(ino)) = (tree.resolve(&parent_path), tree.resolve(&op.path)) else { return Ok(()) };
        if op.kind == OpKind::Delete {
            self.remove_name(tree, batch, parent, OsStr::new(name), ino);
            news.push(Invalidation::Entry { parent, name: name.into() });
            news.push(Invalidation::Attributes(parent));
            return Ok(());
        }
        let staged = match std::fs::read(self.store.payload_path(&op.op)) {
            Ok(bytes) => self.store.stage(ino, &bytes)?,
            // It has been acknowledged at this very moment; what the remote has is asked for.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return self.return_to_remote(tree, batch, news, &op.path),
            Err(e) => return Err(e.into()),
        };
        let stamp = self.store.publish(ino, &staged)?;
        let Some(node) = tree.get_mut(ino) else { return Ok(()) };
        (node.size, node.size_known, node.mtime) = (stamp.size, true, super::Nanos(stamp.ctime_ns));
        if let Some(f) = node.file_mut() {
            (f.content, f.stamp, f.working) = (ContentState::Dirty, Some(stamp), None);
        }
        self.content_is_another(tree, ino);
        batch.put_node(tree, ino);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn show_version(
        &self,
        tree: &mut Tree,
        batch: &mut Batch,
        news: &mut Vec<Invalidation>,
        (parent, name): (Ino, &OsStr),
        ino: Ino,
        path: &RemotePath,
        version: Version,
    ) {
        let seen = super::remote_changes::Seen { path, version, size: None, edited_at_ms: None, extends: None };
        self.replace_content(tree, batch, news, parent, name, ino, &seen);
    }
}
