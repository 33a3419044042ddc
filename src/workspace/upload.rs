//! What writeback needs of the tree: a consistent copy to send, and a place to record what became of it.

use std::io::Read;

use crate::changes::{Change, Event};
use crate::failpoint;
use crate::ids::{ContentHash, OpId};
use crate::journal::{ContentState, Durability, Failure, JournalError, Meets, OpKind, Operation, Stamp, Version};
use crate::path::RemotePath;
use crate::remote::Accepted;
use crate::writeback::{Contents, Snapshot, SnapshotError};

use super::bases::Sides;
use super::batch::Batch;
use super::tree::Node;
use super::{FsError, Need, Workspace};

impl Contents for Workspace {
    /// Reads the working file and writes the immutable payload, if the file stands still meanwhile.
    fn snapshot(&self, op: &Operation) -> Result<Snapshot, SnapshotError> {
        let Some(ino) = op.node else { return Ok(Snapshot::Vanished) };
        match self.fulfil(Need::Content(ino)) {
            Ok(()) => {}
            Err(FsError::Remote(e)) => return Err(SnapshotError::Remote(e)),
            Err(FsError::Errno(libc::ENOENT | libc::ESTALE)) => return Ok(Snapshot::Vanished),
            Err(e) => return Err(SnapshotError::Local(e.to_string())),
        }
        let (working, content_type) = {
            let tree = self.tree.read();
            let Some(node) = tree.get(ino) else { return Ok(Snapshot::Vanished) };
            let Some(f) = node.file() else { return Ok(Snapshot::Vanished) };
            if let Some(w) = &f.working
                && (w.has_uncommitted() || (node.writers > 0 && w.is_just_truncated()))
            {
                return Ok(Snapshot::Busy);
            }
            (f.working.clone(), f.content_type.as_deref().map(str::to_owned))
        };
        let local = |e: std::io::Error| SnapshotError::Local(e.to_string());
        let before = self.store.stamp(ino).map_err(local)?;
        let mut bytes = Vec::with_capacity(before.size as usize);
        self.store.open_file(ino).map_err(local)?.read_to_end(&mut bytes).map_err(local)?;
        let after = self.store.stamp(ino).map_err(local)?;
        if before != after || bytes.len() as u64 != after.size || working.is_some_and(|w| w.has_uncommitted()) {
            return Ok(Snapshot::Busy);
        }
        let hash = ContentHash::of(&bytes);
        if op.force || op.base.as_ref().and_then(|b| b.hash) != Some(hash) {
            std::fs::write(self.store.payload_path(&op.op), &bytes).map_err(local)?;
        }
        Ok(Snapshot::Ready { bytes, hash, stamp: after, content_type })
    }

    fn before_change(&self, path: &RemotePath) -> Result<(), SnapshotError> {
        let Some(ino) = self.tree.read().pinned_to(path) else { return Ok(()) };
        match self.fulfil(Need::Content(ino)) {
            Ok(()) | Err(FsError::Errno(libc::ENOENT | libc::ESTALE)) => Ok(()),
            Err(FsError::Remote(e)) => Err(SnapshotError::Remote(e)),
            Err(e) => Err(SnapshotError::Local(e.to_string())),
        }
    }

    fn payload(&self, op: &OpId) -> std::io::Result<Vec<u8>> {
        std::fs::read(self.store.payload_path(op))
    }

    fn acknowledged(
        &self,
        op: &Operation,
        result: Option<(Version, Option<String>)>,
        accepted: Option<Accepted>,
        stamp: Option<Stamp>,
    ) -> Result<(), JournalError> {
        let (version, content_type) = match result {
            Some((version, content_type)) => (Some(version), content_type),
            None => (None, None),
        };
        let mut tree = self.tree.write();
        if op.in_view {
            let mut fresh = self.fresh.lock();
            if fresh.0 > 0 {
                fresh.1.insert(op.path.clone());
            }
        } else {
            // What the view shows is another version; it follows when nothing of the path is left to do.
            tree.note(&op.path, version.clone());
        }
        let mut row = None;
        // Under another name the same bytes may still be on their way.
        let only_path = op.node.is_none_or(|ino| tree.paths(ino).iter().all(|p| *p == op.path || !tree.has_work(p)));
        if op.in_view
            && let (OpKind::Put, Some(ino), Some(version)) = (op.kind, op.node, &version)
            && let Some(node) = tree.get_mut(ino)
            && let Some(f) = node.file_mut()
        {
            let unchanged = f.working.as_ref().is_none_or(|w| !w.has_uncommitted()) && !f.unsaved;
            if f.content == ContentState::Dirty && only_path && unchanged && stamp.is_some() && f.stamp == stamp {
                f.content = ContentState::Clean;
                f.working.iter().for_each(|w| w.is_clean_now());
            }
            f.version = Some(version.clone());
            if content_type.is_some() {
                f.content_type = content_type.as_deref().map(Into::into);
            }
            row = (!node.links.is_empty()).then(|| node.row(ino));
        }
        let number = tree.work.get(&op.path).copied().unwrap_or(0);
        let revision = version.as_ref().map(|v| v.revision.clone());
        let done = op.clone();
        let slot = std::sync::Arc::new(parking_lot::Mutex::new(None));
        let out = std::sync::Arc::clone(&slot);
        let ticket = self.journal.submit(Durability::Process, move |tx| {
            if let Some(row) = &row {
                tx.put_node(row)?;
            }
            *out.lock() = Some(tx.acknowledge(&done, version.as_ref(), content_type.as_deref(), accepted.as_ref())?);
            Ok(())
        });
        drop(tree);
        ticket.wait()?;
        failpoint::hit("acknowledged");
        self.changes.tell(Change { revision, ..Change::of_operation(Event::Acknowledged, &op.op, &op.path) });
        self.store.remove_payload(&op.op);
        let settled = slot.lock().take().unwrap_or_default();
        settled.superseded.iter().for_each(|letter| self.store.remove_payload(letter));
        if settled.idle {
            self.path_is_done(op, number);
        }
        Ok(())
    }

    fn merged(&self, op: &Operation, version: &Version) -> Result<(), JournalError> {
        if let Some((hash, _)) = op.payload
            && let Err(e) = self.store.keep_payload_as_base(&op.op, &hash)
        {
            log::debug!("{}: what it has sent is not kept, a save made from it may be a conflict: {e}", op.op);
        }
        let mut tree = self.tree.write();
        tree.note(&op.path, Some(version.clone()));
        let number = tree.work.get(&op.path).copied().unwrap_or(0);
        let slot = std::sync::Arc::new(parking_lot::Mutex::new(None));
        let (out, done, at_remote) = (std::sync::Arc::clone(&slot), op.clone(), version.clone());
        let ticket = self.journal.submit(Durability::Process, move |tx| {
            *out.lock() = Some(tx.acknowledge_merged(&done, &at_remote)?);
            Ok(())
        });
        drop(tree);
        ticket.wait()?;
        failpoint::hit("acknowledged");
        self.store.remove_payload(&op.op);
        let settled = slot.lock().take().unwrap_or_default();
        settled.superseded.iter().for_each(|letter| self.store.remove_payload(letter));
        if settled.idle {
            // What the file holds is in the merged text, which takes its place as soon as it is fetched.
            self.tree.write().clear_work(&op.path, number);
        }
        Ok(())
    }

    fn base(&self, hash: &ContentHash) -> Option<Vec<u8>> {
        self.store.base(hash)
    }

    fn set_aside(&self, op: &OpId, sides: &Sides<'_>) -> std::io::Result<()> {
        self.store.set_aside(op, sides)
    }

    fn bury(
        &self,
        op: &Operation,
        failure: &Failure,
        meets: &Meets,
        payload: Option<(ContentHash, u64, String)>,
    ) -> Result<(), JournalError> {
        self.bury_operation(op, failure, meets, payload)
    }

    fn heard_of(&self, path: &RemotePath, version: Option<&Version>) -> Result<(), JournalError> {
        let mut tree = self.tree.write();
        tree.note(path, version.cloned());
        let (path, version) = (path.clone(), version.cloned());
        let ticket = self.journal.submit(Durability::Process, move |tx| tx.put_seen(&path, version.as_ref()));
        drop(tree);
        ticket.wait()
    }

    fn superseded(&self, op: &Operation) -> Result<(), JournalError> {
        let number = self.tree.read().work.get(&op.path).copied().unwrap_or(0);
        let (id, path) = (op.op.clone(), op.path.clone());
        let idle = self.journal.write(move |tx| {
            tx.supersede(&id)?;
            tx.is_idle(&path)
        })?;
        self.store.remove_payload(&op.op);
        if idle {
            self.tree.write().clear_work(&op.path, number);
        }
        Ok(())
    }

    fn settle(&self) -> std::time::Duration {
        self.options.settle
    }
}

impl Workspace {
    /// Nothing of the path is left to do, unless a change was made after `number`. Then what the working file holds is what
    /// the remote has, also where the operation was repeated and no stamp of its snapshot is known.
    fn path_is_done(&self, op: &Operation, number: u64) {
        let mut tree = self.tree.write();
        tree.clear_work(&op.path, number);
        let Some(ino) = op.node.filter(|_| op.kind == OpKind::Put && op.in_view) else { return };
        if tree.has_work(&op.path) || tree.paths(ino).iter().any(|p| tree.has_work(p)) {
            return;
        }
        let Some(node) = tree.get_mut(ino).filter(|n| !n.links.is_empty()) else { return };
        let Some(f) = node.file_mut() else { return };
        let settled = f.working.as_ref().is_none_or(|w| !w.has_uncommitted()) && !f.unsaved;
        if f.content == ContentState::Dirty && f.version.is_some() && settled {
            f.content = ContentState::Clean;
            f.working.iter().for_each(|w| w.is_clean_now());
            let mut batch = Batch::default();
            batch.put_node(&tree, ino);
            // Not awaited: if it is lost, the next start sees a file with changes that no operation wants, which is harmless.
            let _ = self.submit(batch);
        }
    }

    /// Test and control access: whether local work of a path is open.
    pub fn has_work(&self, path: &RemotePath) -> bool {
        self.tree.read().has_work(path)
    }

    /// Where the payload of an operation is, if it has one.
    pub fn payload_path(&self, op: &OpId) -> std::path::PathBuf {
        self.store.payload_path(op)
    }

    /// Where the sides of a conflict are, if it has been set aside.
    pub fn conflict_dir(&self, op: &OpId) -> Option<std::path::PathBuf> {
        Some(self.store.conflict_dir(op)).filter(|dir| dir.is_dir())
    }

    /// The content type that the view has for a path, if it knows one.
    pub fn content_type(&self, path: &RemotePath) -> Option<String> {
        let tree = self.tree.read();
        let f = tree.resolve(path).and_then(|i| tree.get(i)).and_then(Node::file)?;
        f.content_type.as_deref().map(str::to_owned)
    }
}
