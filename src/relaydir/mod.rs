//! `.relay`: the reserved directory in the root in which the mount speaks of itself.
//!
//! ```text
//! .relay/README               what this is, for whoever finds it first
//! .relay/.gitignore           keeps all of this out of a repository in the root
//! .relay/status               how things stand, for people
//! .relay/state.json           the same for programs
//! .relay/pending/<opId>.json  one file for each save that has not reached the remote
//! ```
//!
//! Owns the virtual inodes and their open handles. Everything is rendered from a [`StatusSource`] at the moment of the
//! question, so it promises true sizes and never blocks on the network. It must never write, and nothing in it ever
//! becomes an operation. No kernel is needed to test it.

mod node;
mod render;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::ids::{Ino, OpId};
use crate::status::StatusSource;
use crate::workspace::{Attr, DirItem, FsError, FsResult, Kind, Nanos};

use node::Node;
pub use node::{DIR, NAME, owns};
pub use render::{render_operation_json, render_state_json, render_status};

/// The virtual directory.
pub struct RelayDir {
    source: Arc<dyn StatusSource>,
    uid: u32,
    gid: u32,
    since: Nanos,
    /// Guards the two tables below. A leaf in the lock order: never held while `source` is asked.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Operations whose inode the kernel knows, with its lookup count.
    known: HashMap<Ino, (OpId, u64)>,
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
    pub fn new(source: Arc<dyn StatusSource>, uid: u32, gid: u32) -> RelayDir {
        RelayDir { source, uid, gid, since: now(), inner: Mutex::default() }
    }

    /// The attributes of a name in `.relay` or below. Counts one lookup. ENOENT when there is no such name now.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Attr> {
        let node = self.node(parent)?.child(name)?;
        let attr = self.attr(&node)?;
        if let Node::Operation(op) = node {
            let mut inner = self.inner.lock();
            inner.known.entry(attr.ino).or_insert((op, 0)).1 += 1;
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
        let (op, _) = inner.known.get(&ino).ok_or(FsError::Errno(libc::ENOENT))?;
        Ok(Node::Operation(op.clone()))
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
            Node::Dir | Node::Pending => Err(FsError::Errno(libc::EISDIR)),
            Node::Readme => Ok((render::README.as_bytes().to_vec(), self.since)),
            // What changes all the time would make every repository in the workspace dirty.
            Node::GitIgnore => Ok((b"*\n".to_vec(), self.since)),
            Node::Status => Ok((render_status(&self.source.status()).into_bytes(), now())),
            Node::StateJson => Ok((render_state_json(&self.source.status()), now())),
            Node::Operation(op) => {
                let view = self.source.pending_one(op).ok_or(FsError::Errno(libc::ENOENT))?;
                Ok((render_operation_json(&view), parse_time(&view.updated_at).unwrap_or(self.since)))
            }
        }
    }

    fn attr(&self, node: &Node) -> FsResult<Attr> {
        match node {
            Node::Dir => Ok(self.top()),
            Node::Pending => Ok(self.shown(node, 0, now())),
            file => {
                let (body, changed) = self.body(file)?;
                Ok(self.shown(file, body.len() as u64, changed))
            }
        }
    }

    fn shown(&self, node: &Node, size: u64, changed: Nanos) -> Attr {
        let kind = node.kind();
        let (mode, nlink) = match node {
            Node::Dir => (0o555, 3),
            Node::Pending => (0o555, 2),
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
            _ => return Err(FsError::Errno(libc::ENOTDIR)),
        };
        Ok(nodes.iter().map(|n| Child { ino: n.ino(), kind: n.kind(), name: n.name() }).collect())
    }
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
