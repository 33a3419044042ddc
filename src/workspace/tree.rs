//! The tree in memory: every inode that has a name, and those that have lost theirs while open or known to the kernel.
//!
//! Pure data: no I/O, no journal, no clock. [`super::Workspace`] guards it with one lock.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use crate::ids::Ino;
use crate::journal::{ContentState, Loaded, NodeRow, Stamp, Version};
use crate::path::RemotePath;

use super::files::Working;
use super::types::{Attr, Kind, Nanos};

pub(super) struct Dir {
    pub children: BTreeMap<Box<OsStr>, Ino>,
    pub subdirs: u32,
    pub implied: bool,
    pub listed: bool,
}

pub(super) struct FileBody {
    pub content: ContentState,
    pub version: Option<Version>,
    pub content_type: Option<Box<str>>,
    pub origin: Option<Box<RemotePath>>,
    pub stamp: Option<Stamp>,
    /// The open working file, while there are handles.
    pub working: Option<Arc<Working>>,
    /// Handles by which the file is being executed.
    pub running: u32,
    /// The kernel may hold pages of an older version: the next open must not keep them.
    pub pages_stale: bool,
    /// Not 0: the kernel has still to be told that the content is another one, and would read the new under the old size. The
    /// number of that change.
    pub untold: u64,
    /// Until when an estimate of the size is good enough (the remote could not be asked).
    pub estimate_until: Option<std::time::Instant>,
    /// The row in the journal does not have the last size or times yet.
    pub unsaved: bool,
}

pub(super) enum Body {
    Dir(Box<Dir>),
    File(Box<FileBody>),
    Symlink(Box<OsStr>),
    Special,
}

pub(super) struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub size: u64,
    pub size_known: bool,
    pub atime: Nanos,
    pub mtime: Nanos,
    pub ctime: Nanos,
    /// The names: (directory, name). A directory has one, except the root, which has none.
    pub links: Vec<(Ino, Box<OsStr>)>,
    pub lookups: u64,
    pub opens: u32,
    pub writers: u32,
    pub xattrs: Option<BTreeMap<OsString, Vec<u8>>>,
    pub body: Body,
}

impl Node {
    pub fn dir(&self) -> Option<&Dir> {
        if let Body::Dir(d) = &self.body { Some(d) } else { None }
    }

    pub fn dir_mut(&mut self) -> Option<&mut Dir> {
        if let Body::Dir(d) = &mut self.body { Some(d) } else { None }
    }

    pub fn file(&self) -> Option<&FileBody> {
        if let Body::File(f) = &self.body { Some(f) } else { None }
    }

    pub fn file_mut(&mut self) -> Option<&mut FileBody> {
        if let Body::File(f) = &mut self.body { Some(f) } else { None }
    }

    pub fn nlink(&self) -> u32 {
        match &self.body {
            // 1 says "not counted": find(1) and others skip directories that claim to have no subdirectory.
            Body::Dir(d) if !d.listed => 1,
            Body::Dir(d) => d.subdirs + 2,
            _ => self.links.len() as u32,
        }
    }

    pub fn attr(&self, ino: Ino) -> Attr {
        let size = match &self.body {
            Body::Dir(_) => 4096,
            Body::Symlink(t) => t.len() as u64,
            _ => self.size,
        };
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            nlink: self.nlink(),
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size,
            blocks: size.div_ceil(512),
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }

    pub fn row(&self, ino: Ino) -> NodeRow {
        let mut row = NodeRow {
            ino,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: self.size,
            size_known: self.size_known,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            target: None,
            content: ContentState::None,
            origin: None,
            version: None,
            content_type: None,
            stamp: None,
            implied: false,
            listed: false,
        };
        match &self.body {
            Body::Dir(d) => {
                row.implied = d.implied;
                row.listed = d.listed;
            }
            Body::File(f) => {
                row.content = f.content;
                row.origin = f.origin.as_deref().cloned();
                row.version = f.version.clone();
                row.content_type = f.content_type.as_deref().map(str::to_owned);
                row.stamp = f.stamp;
            }
            Body::Symlink(t) => row.target = Some(t.as_encoded_bytes().to_vec()),
            Body::Special => {}
        }
        row
    }

    fn from_row(row: NodeRow) -> Node {
        let body = match row.kind {
            Kind::Dir => {
                Body::Dir(Box::new(Dir { children: BTreeMap::new(), subdirs: 0, implied: row.implied, listed: row.listed }))
            }
            Kind::File => Body::File(Box::new(FileBody {
                content: row.content,
                version: row.version,
                content_type: row.content_type.map(Into::into),
                origin: row.origin.map(Box::new),
                stamp: row.stamp,
                working: None,
                running: 0,
                pages_stale: false,
                untold: 0,
                estimate_until: None,
                unsaved: false,
            })),
            Kind::Symlink => {
                use std::os::unix::ffi::OsStringExt;
                Body::Symlink(OsString::from_vec(row.target.unwrap_or_default()).into())
            }
            _ => Body::Special,
        };
        Node {
            kind: row.kind,
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            rdev: row.rdev,
            size: row.size,
            size_known: row.size_known,
            atime: row.atime,
            mtime: row.mtime,
            ctime: row.ctime,
            links: Vec::new(),
            lookups: 0,
            opens: 0,
            writers: 0,
            xattrs: None,
            body,
        }
    }

    /// A new inode without a name.
    pub fn new(kind: Kind, mode: u32, uid: u32, gid: u32, now: Nanos) -> Node {
        Node::from_row(NodeRow {
            ino: Ino(0),
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            rdev: 0,
            size: 0,
            size_known: true,
            atime: now,
            mtime: now,
            ctime: now,
            target: None,
            content: if kind == Kind::File { ContentState::Dirty } else { ContentState::None },
            origin: None,
            version: None,
            content_type: None,
            stamp: None,
            implied: false,
            listed: true,
        })
    }
}

/// See the module.
pub(super) struct Tree {
    pub nodes: HashMap<Ino, Node>,
    next: u64,
    /// Paths with local work that is not at the remote yet, with the number of the last change. A remote change of such a
    /// path is only noted.
    pub work: HashMap<RemotePath, u64>,
    changes: u64,
    /// Versions (`None`: a deletion) that the remote was heard to have of paths with local work.
    noted: HashMap<RemotePath, Option<Version>>,
    /// Paths to ask the remote about: their local work has ended and something else was noted meanwhile.
    to_refresh: Vec<RemotePath>,
    /// Where at the remote the content of a moved file still is. Before anything at such a path is changed there, the
    /// content is fetched.
    origins: HashMap<RemotePath, Ino>,
}

impl Tree {
    /// A tree with nothing but a root.
    pub fn new(root: Node) -> Tree {
        let mut nodes = HashMap::new();
        nodes.insert(Ino::ROOT, root);
        Tree {
            nodes,
            next: 2,
            work: HashMap::new(),
            changes: 0,
            noted: HashMap::new(),
            to_refresh: Vec::new(),
            origins: HashMap::new(),
        }
    }

    pub fn from_journal(loaded: Loaded, fallback_root: Node) -> Tree {
        let mut tree = Tree::new(fallback_root);
        tree.nodes.reserve(loaded.nodes.len());
        for row in loaded.nodes {
            tree.next = tree.next.max(row.ino.0 + 1);
            if let Some(origin) = &row.origin {
                tree.origins.insert(origin.clone(), row.ino);
            }
            tree.nodes.insert(row.ino, Node::from_row(row));
        }
        for (parent, name, ino) in loaded.names {
            if tree.nodes.contains_key(&ino) && tree.nodes.get(&parent).is_some_and(|n| n.dir().is_some()) {
                tree.attach(parent, &name, ino);
            }
        }
        for (ino, name, value) in loaded.xattrs {
            if let Some(n) = tree.nodes.get_mut(&ino) {
                n.xattrs.get_or_insert_default().insert(name, value);
            }
        }
        tree.work = loaded.work.into_iter().map(|p| (p, 0)).collect();
        for (path, version) in loaded.seen {
            if tree.has_work(&path) {
                tree.note(&path, version);
            } else {
                tree.refresh_later(&path);
            }
        }
        tree
    }

    /// A file that is at the remote only is about to lose its path there.
    pub fn pin_origin(&mut self, ino: Ino, path: &RemotePath) {
        if let Some(f) = self.get_mut(ino).and_then(Node::file_mut)
            && f.content == ContentState::Remote
            && f.origin.is_none()
        {
            f.origin = Some(Box::new(path.clone()));
            self.origins.insert(path.clone(), ino);
        }
    }

    /// The content no longer depends on its origin.
    pub fn unpin_origin(&mut self, ino: Ino) {
        if let Some(origin) = self.get_mut(ino).and_then(Node::file_mut).and_then(|f| f.origin.take()) {
            self.origins.remove(&*origin);
        }
    }

    /// Whose content is still at that path of the remote.
    pub fn pinned_to(&self, path: &RemotePath) -> Option<Ino> {
        self.origins.get(path).copied()
    }

    /// The number of the next inode, for a journal that remembers numbers of files long gone.
    pub fn reserve(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    pub fn next_number(&self) -> u64 {
        self.next
    }

    pub fn get(&self, ino: Ino) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    pub fn get_mut(&mut self, ino: Ino) -> Option<&mut Node> {
        self.nodes.get_mut(&ino)
    }

    pub fn child(&self, parent: Ino, name: &OsStr) -> Option<Ino> {
        self.get(parent)?.dir()?.children.get(name).copied()
    }

    pub fn insert(&mut self, node: Node) -> Ino {
        let ino = Ino(self.next);
        self.next += 1;
        self.nodes.insert(ino, node);
        ino
    }

    /// Gives an inode a name. The name must be free.
    pub fn attach(&mut self, parent: Ino, name: &OsStr, ino: Ino) {
        let is_dir = self.get(ino).is_some_and(|n| n.kind == Kind::Dir);
        if let Some(d) = self.get_mut(parent).and_then(Node::dir_mut) {
            d.children.insert(name.into(), ino);
            d.subdirs += u32::from(is_dir);
        }
        if let Some(n) = self.get_mut(ino) {
            n.links.push((parent, name.into()));
        }
    }

    /// Takes a name away; the inode stays.
    pub fn detach(&mut self, parent: Ino, name: &OsStr) -> Option<Ino> {
        let ino = self.get_mut(parent)?.dir_mut()?.children.remove(name)?;
        if let Some(n) = self.get_mut(ino) {
            n.links.retain(|(p, x)| !(*p == parent && &**x == name));
            if n.kind == Kind::Dir
                && let Some(d) = self.get_mut(parent).and_then(Node::dir_mut)
            {
                d.subdirs -= 1;
            }
        }
        Some(ino)
    }

    /// Forgets an inode that nobody can reach any more. Says whether it did.
    pub fn drop_unreachable(&mut self, ino: Ino) -> bool {
        let gone = ino != Ino::ROOT && self.get(ino).is_some_and(|n| n.links.is_empty() && n.opens == 0 && n.lookups == 0);
        if gone {
            self.unpin_origin(ino);
            self.nodes.remove(&ino);
        }
        gone
    }

    pub fn is_ancestor(&self, ancestor: Ino, mut of: Ino) -> bool {
        loop {
            if of == ancestor {
                return true;
            }
            match self.get(of).and_then(|n| n.links.first()) {
                Some((parent, _)) => of = *parent,
                None => return false,
            }
        }
    }

    /// The path of a directory; `None` when a name on the way is not UTF-8 or it has been removed.
    pub fn dir_path(&self, dir: Ino) -> Option<RemotePath> {
        let mut names = Vec::new();
        let mut at = dir;
        while at != Ino::ROOT {
            let (parent, name) = self.get(at)?.links.first()?;
            names.push(name.to_str()?);
            at = *parent;
        }
        let mut path = RemotePath::root();
        for name in names.iter().rev() {
            path = path.join(name).ok()?;
        }
        Some(path)
    }

    pub fn path_of_name(&self, parent: Ino, name: &OsStr) -> Option<RemotePath> {
        self.dir_path(parent)?.join(name.to_str()?).ok()
    }

    /// Every path of an inode that the remote could have.
    pub fn paths(&self, ino: Ino) -> Vec<RemotePath> {
        let Some(n) = self.get(ino) else { return Vec::new() };
        n.links.iter().filter_map(|(p, name)| self.path_of_name(*p, name)).collect()
    }

    pub fn resolve(&self, path: &RemotePath) -> Option<Ino> {
        path.segments().try_fold(Ino::ROOT, |at, name| self.child(at, OsStr::new(name)))
    }

    /// The number of the last change of any path.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Notes that local work on a path is under way, and gives it a number.
    pub fn mark_work(&mut self, path: &RemotePath) -> u64 {
        self.changes += 1;
        self.work.insert(path.clone(), self.changes);
        self.changes
    }

    /// Ends the note, unless a later change has been made meanwhile.
    pub fn clear_work(&mut self, path: &RemotePath, number: u64) {
        if self.work.get(path).is_some_and(|&n| n <= number) {
            self.work.remove(path);
            self.settle_note(path);
        }
    }

    /// What was noted of a path counts now, if no local work is left there.
    pub fn settle_note(&mut self, path: &RemotePath) {
        if self.has_work(path) {
            return;
        }
        let Some(noted) = self.noted.remove(path) else { return };
        let shown = self.resolve(path).and_then(|i| self.get(i)).and_then(Node::file).and_then(|f| f.version.as_ref());
        let same = match (&noted, shown) {
            (Some(noted), Some(shown)) => noted.same_as(shown),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.to_refresh.push(path.clone());
        }
    }

    /// Remembers what the remote was heard to have at a path with local work.
    pub fn note(&mut self, path: &RemotePath, version: Option<Version>) {
        self.noted.insert(path.clone(), version);
    }

    /// The remote must be asked about a path.
    pub fn refresh_later(&mut self, path: &RemotePath) {
        self.to_refresh.push(path.clone());
    }

    pub fn take_to_refresh(&mut self) -> Vec<RemotePath> {
        std::mem::take(&mut self.to_refresh)
    }

    /// Local changes of the path are under way, or somebody has it open for writing and is about to make some.
    pub fn has_work(&self, path: &RemotePath) -> bool {
        let being_written = |n: &Node| {
            let changed = |f: &FileBody| f.unsaved || f.working.as_ref().is_some_and(|w| w.has_uncommitted());
            n.writers > 0 || n.file().is_some_and(changed)
        };
        self.work.contains_key(path) || self.resolve(path).and_then(|i| self.get(i)).is_some_and(being_written)
    }

    /// All inodes below a directory, itself not included, parents before children.
    pub fn descendants(&self, dir: Ino) -> Vec<Ino> {
        let mut out = Vec::new();
        let mut todo = vec![dir];
        while let Some(at) = todo.pop() {
            if let Some(d) = self.get(at).and_then(Node::dir) {
                for &c in d.children.values() {
                    out.push(c);
                    if self.get(c).is_some_and(|n| n.kind == Kind::Dir) {
                        todo.push(c);
                    }
                }
            }
        }
        out
    }
}
