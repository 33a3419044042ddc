//! `.relay`: the reserved directory in the root in which the mount speaks of itself.
//!
//! ```text
//! .relay/README               what this is, for whoever finds it first
//! .relay/.gitignore           keeps all of this out of a repository in the root
//! .relay/status               how things stand, for people
//! .relay/state.json           the same for programs
//! .relay/metrics              the same for Prometheus
//! .relay/log                  the last lines of the log
//! .relay/pending/<opId>.json  one file for each save that has not reached the remote
//! .relay/dead-letter/<opId>.json  <opId>.error.json  <opId>.payload
//! .relay/conflicts/<opId>/    base, local, remote: what a conflict is made of
//! .relay/retry/               moving a letter's .json here retries it; removing it from dead-letter/ discards it
//! ```
//!
//! Owns the virtual inodes and their open handles. Everything is rendered from an [`Operator`] at the moment of the question,
//! so it promises true sizes and never blocks on the network. But for the two gestures it changes nothing, and nothing in it
//! ever becomes an operation. No kernel is needed to test it.

mod metrics;
mod node;
mod render;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::ids::{Ino, OpId};
use crate::journal::{Discarded, Retried};
use crate::status::Operator;
use crate::workspace::{Attr, DirItem, FsError, FsResult, Kind, Nanos};

pub use metrics::render_metrics;
pub use node::{DIR, NAME, owns};
use node::{Node, Part, Side};
pub use render::{render_operation_json, render_state_json, render_status};

/// The virtual directory.
pub struct RelayDir {
    source: Arc<dyn Operator>,
    uid: u32,
    gid: u32,
    since: Nanos,
    /// Guards the two tables below. A leaf in the lock order: never held while `source` is asked.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Nodes of operations whose inode the kernel knows, with its lookup count.
    known: HashMap<Ino, (Node, u64)>,
    handles: HashMap<u64, Handle>,
    last_handle: u64,
}

/// What an open handle serves: the content of the moment of its open.
#[derive(Clone)]
enum Handle {
    File(Arc<[u8]>),
    Dir(Node, Arc<[Child]>),
}

struct Child {
    ino: Ino,
    kind: Kind,
    name: OsString,
}

impl RelayDir {
    /// `uid` and `gid` are shown as the owner of everything in it.
    pub fn new(source: Arc<dyn Operator>, uid: u32, gid: u32) -> RelayDir {
        RelayDir { source, uid, gid, since: now(), inner: Mutex::default() }
    }

    /// The attributes of a name in `.relay` or below. Counts one lookup. ENOENT when there is no such name now.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        let node = self.node(parent)?.child(name)?;
        let attr = self.attr(&node)?;
        if node.is_remembered() {
            let mut inner = self.inner.lock();
            inner.known.entry(attr.ino).or_insert((node, 0)).1 += 1;
        }
        Ok(attr)
    }

    /// The directory itself, as the root's entry of the name [`NAME`].
    pub fn top(&self) -> Attr {
        self.shown(&Node::Dir, 0, self.since)
    }

    pub fn forget(&self, ino: Ino, count: u64) {
        let mut inner = self.inner.lock();
        if let Some((_, lookups)) = inner.known.get_mut(&ino) {
            *lookups = lookups.saturating_sub(count);
            if *lookups == 0 {
                inner.known.remove(&ino);
            }
        }
    }

    pub fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        self.attr(&self.node(ino)?)
    }

    /// Opens a file for reading. Its handle serves the content of this moment. `flags` are open(2)'s.
    pub fn open(&self, ino: Ino, flags: i32) -> FsResult<u64> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            return Err(FsError::Errno(libc::EACCES));
        }
        let (body, _) = self.body(&self.node(ino)?)?;
        Ok(self.keep(Handle::File(body.into())))
    }

    pub fn read(&self, fh: u64, offset: u64, size: u32) -> FsResult<Vec<u8>> {
        let Handle::File(body) = self.handle(fh)? else { return Err(FsError::Errno(libc::EISDIR)) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(body.len());
        let end = start.saturating_add(size as usize).min(body.len());
        Ok(body[start..end].to_vec())
    }

    pub fn opendir(&self, ino: Ino) -> FsResult<u64> {
        let node = self.node(ino)?;
        let children = self.children(&node)?;
        Ok(self.keep(Handle::Dir(node, children)))
    }

    /// Calls `emit` for each entry from `offset` on until it returns false. Offset 0 takes a new snapshot.
    pub fn readdir(&self, fh: u64, offset: u64, emit: &mut dyn FnMut(&DirItem) -> bool) -> FsResult<()> {
        let Handle::Dir(node, mut children) = self.handle(fh)? else { return Err(FsError::Errno(libc::ENOTDIR)) };
        if offset == 0 {
            children = self.children(&node)?;
            self.inner.lock().handles.insert(fh, Handle::Dir(node.clone(), children.clone()));
        }
        let dots = [(node.ino(), "."), (node.parent(), "..")];
        let dots = dots.into_iter().map(|(ino, name)| (ino, Kind::Dir, OsString::from(name)));
        let all = dots.chain(children.iter().map(|c| (c.ino, c.kind, c.name.clone())));
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, (ino, kind, name)) in all.enumerate().skip(from) {
            if !emit(&DirItem { ino, kind, name, next_offset: i as u64 + 1 }) {
                break;
            }
        }
        Ok(())
    }

    /// Closes a handle of `open` or `opendir`.
    pub fn release(&self, fh: u64) {
        self.inner.lock().handles.remove(&fh);
    }

    fn node(&self, ino: Ino) -> FsResult<Node> {
        if let Some(node) = Node::fixed(ino) {
            return Ok(node);
        }
        let inner = self.inner.lock();
        inner.known.get(&ino).map(|(node, _)| node.clone()).ok_or(FsError::Errno(libc::ENOENT))
    }

    fn handle(&self, fh: u64) -> FsResult<Handle> {
        self.inner.lock().handles.get(&fh).cloned().ok_or(FsError::Errno(libc::EBADF))
    }

    fn keep(&self, handle: Handle) -> u64 {
        let mut inner = self.inner.lock();
        inner.last_handle += 1;
        let fh = inner.last_handle;
        inner.handles.insert(fh, handle);
        fh
    }

    /// The content of a file and the time it shows as changed.
    fn body(&self, node: &Node) -> FsResult<(Vec<u8>, Nanos)> {
        match node {
            Node::Dir | Node::Pending | Node::DeadLetter | Node::Retry | Node::Conflicts | Node::Conflict(_) => {
                Err(FsError::Errno(libc::EISDIR))
            }
            Node::Side(op, side) => {
                let file = self.conflict(op)?.join(side.name());
                Ok((std::fs::read(&file)?, modified(&file)?))
            }
            Node::Readme => Ok((render::README.as_bytes().to_vec(), self.since)),
            // What changes all the time would make every repository in the workspace dirty.
            Node::GitIgnore => Ok((b"*\n".to_vec(), self.since)),
            Node::Status => Ok((render_status(&self.source.status()).into_bytes(), now())),
            Node::StateJson => Ok((render_state_json(&self.source.status()), now())),
            Node::Operation(op) => {
                let view = self.source.pending_one(op).ok_or(FsError::Errno(libc::ENOENT))?;
                Ok((render_operation_json(&view), parse_time(&view.updated_at).unwrap_or(self.since)))
            }
            Node::Metrics => Ok((render_metrics(&self.source.status()).into_bytes(), now())),
            Node::Log => Ok((crate::logring::text().into_bytes(), now())),
            Node::Letter(op, part) => {
                let letter = self.source.letter(op).ok_or(FsError::Errno(libc::ENOENT))?;
                let bytes = match part {
                    Part::Record => letter.record,
                    Part::Sidecar => letter.sidecar,
                    Part::Payload => std::fs::read(letter.payload.ok_or(FsError::Errno(libc::ENOENT))?)?,
                };
                Ok((bytes, Nanos(letter.changed_at.saturating_mul(1_000_000))))
            }
        }
    }

    fn attr(&self, node: &Node) -> FsResult<Attr> {
        match node {
            Node::Dir => Ok(self.top()),
            Node::Pending | Node::DeadLetter | Node::Retry | Node::Conflicts => Ok(self.shown(node, 0, now())),
            Node::Conflict(op) => Ok(self.shown(node, 0, modified(&self.conflict(op)?)?)),
            Node::Side(op, side) => {
                let file = self.conflict(op)?.join(side.name());
                let size = std::fs::metadata(&file)?.len();
                Ok(self.shown(node, size, modified(&file)?))
            }
            // Its size is known without reading it.
            Node::Letter(op, Part::Payload) => {
                let letter = self.source.letter(op).ok_or(FsError::Errno(libc::ENOENT))?;
                let size = std::fs::metadata(letter.payload.ok_or(FsError::Errno(libc::ENOENT))?)?.len();
                Ok(self.shown(node, size, Nanos(letter.changed_at.saturating_mul(1_000_000))))
            }
            file => {
                let (body, changed) = self.body(file)?;
                Ok(self.shown(file, body.len() as u64, changed))
            }
        }
    }

    fn shown(&self, node: &Node, size: u64, changed: Nanos) -> Attr {
        let kind = node.kind();
        let (mode, nlink) = match node {
            Node::Dir => (0o555, 6),
            Node::Pending | Node::Conflict(_) => (0o555, 2),
            Node::Conflicts => (0o555, 2 + self.source.conflicts().len() as u32),
            // The two directories of the gestures; rm(1) asks nobody about a file that its owner could write to.
            Node::DeadLetter | Node::Retry => (0o755, 2),
            Node::Letter(_, Part::Record) => (0o644, 1),
            _ => (0o444, 1),
        };
        let blocks = size.div_ceil(512);
        let (uid, gid) = (self.uid, self.gid);
        Attr {
            ino: node.ino(),
            kind,
            mode,
            nlink,
            uid,
            gid,
            rdev: 0,
            size,
            blocks,
            atime: changed,
            mtime: changed,
            ctime: changed,
        }
    }

    fn children(&self, node: &Node) -> FsResult<Arc<[Child]>> {
        let nodes: Vec<Node> = match node {
            Node::Dir => Node::TOP.to_vec(),
            // The source speaks in strings; what is not an operation id has no place in a file name.
            Node::Pending => {
                self.source.pending().iter().filter_map(|view| view.op_id.parse().ok()).map(Node::Operation).collect()
            }
            Node::DeadLetter => self.source.letters()?.into_iter().flat_map(|op| self.parts(&op)).collect(),
            Node::Retry => Vec::new(),
            Node::Conflicts => self.source.conflicts().into_iter().map(Node::Conflict).collect(),
            Node::Conflict(op) => {
                let dir = self.conflict(op)?;
                Side::ALL.into_iter().filter(|s| dir.join(s.name()).exists()).map(|s| Node::Side(op.clone(), s)).collect()
            }
            _ => return Err(FsError::Errno(libc::ENOTDIR)),
        };
        Ok(nodes.iter().map(|n| Child { ino: n.ino(), kind: n.kind(), name: n.name() }).collect())
    }
}

impl RelayDir {
    fn conflict(&self, op: &OpId) -> FsResult<std::path::PathBuf> {
        self.source.conflict(op).ok_or(FsError::Errno(libc::ENOENT))
    }

    fn parts(&self, op: &OpId) -> Vec<Node> {
        let has_payload = self.source.letter(op).is_some_and(|l| l.payload.is_some());
        let parts = Part::ALL.into_iter().filter(|p| *p != Part::Payload || has_payload);
        parts.map(|part| Node::Letter(op.clone(), part)).collect()
    }

    /// `mv .relay/dead-letter/<opId>.json .relay/retry/`. EPERM for any other move, EBUSY when the letter cannot be retried
    /// now, ENOENT when there is none, ENODATA when its content is not here.
    pub fn rename(&self, from: (Ino, &OsStr), to: (Ino, &OsStr)) -> FsResult<()> {
        if (from.0, to.0) != (Node::DeadLetter.ino(), Node::Retry.ino()) || from.1 != to.1 {
            return Err(FsError::Errno(libc::EPERM));
        }
        let Node::Letter(op, Part::Record) = Node::DeadLetter.child(from.1)? else {
            return Err(FsError::Errno(libc::EPERM));
        };
        match self.source.retry(&op, false)? {
            Retried::Queued | Retried::AlreadyQueued | Retried::Acknowledged => Ok(()),
            Retried::InFlight | Retried::NewerSave(_) => Err(FsError::Errno(libc::EBUSY)),
            Retried::NoPayload => Err(FsError::Errno(libc::ENODATA)),
            Retried::Superseded | Retried::Discarded | Retried::Unknown => Err(FsError::NOT_FOUND),
        }
    }

    /// `rm .relay/dead-letter/<opId>.json`. EPERM for any other file, EBUSY while its file is open for writing.
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> FsResult<()> {
        if parent != Node::DeadLetter.ino() {
            return Err(FsError::Errno(libc::EPERM));
        }
        let Node::Letter(op, Part::Record) = Node::DeadLetter.child(name)? else {
            return Err(FsError::Errno(libc::EPERM));
        };
        match self.source.discard(&op)? {
            Discarded::Done => Ok(()),
            Discarded::Open(_) => Err(FsError::Errno(libc::EBUSY)),
            Discarded::AlreadyDone | Discarded::Settled(_) | Discarded::Unknown => Err(FsError::NOT_FOUND),
        }
    }
}

fn modified(file: &std::path::Path) -> FsResult<Nanos> {
    let since = std::fs::metadata(file)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)))
}

fn now() -> Nanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

fn parse_time(rfc3339: &str) -> Option<Nanos> {
    let at: jiff::Timestamp = rfc3339.parse().ok()?;
    i64::try_from(at.as_nanosecond()).ok().map(Nanos)
}

#[cfg(test)]
mod tests;
