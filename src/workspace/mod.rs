//! The one view of the tree, all of it local: the remote snapshot with local changes on top.
//!
//! Every operation answers from memory and the state directory. What has to come from the remote first is reported as
//! [`FsError::Need`], which [`Workspace::fulfil`] fetches on a worker thread; nothing here waits for the network otherwise.
//!
//! # How a change is made
//!
//! Under the tree's lock: check, change the tree, and submit one [`batch::Batch`] to the journal, whose queue keeps the
//! order. Then the lock is dropped and the commit awaited. So the journal sees changes in the order in which the tree saw
//! them, and no lock is held while a commit runs.
//!
//! Lock order: `letters`, `rules`, `flights`, then `tree`, then `handles` or `dirs`. The lock of the tree is held across `fstat`, `rename` and
//! `unlink` in the state directory (microseconds), never across the journal, the network or a notification to the kernel.

mod arrivals;
mod bases;
mod batch;
mod content;
mod drafts;
mod error;
mod fetch;
mod files;
mod letters;
mod namespace;
mod permission;
mod recover;
mod remote_changes;
mod rules;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod upload;
mod xattr;

pub use bases::Sides;
pub use error::{FsError, FsResult, Need};
pub use rules::{META_FILE, META_OPTIONS};
pub use types::*;

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crossbeam_channel::Sender;
use parking_lot::{Mutex, RwLock};

use crate::changes::Changes;
use crate::ids::Ino;
use crate::journal::{ContentState, Journal};
use crate::path::RemotePath;
use crate::policy::Policy;
use crate::remote::Remote;

use batch::Batch;
use content::Handle;
use fetch::Flight;
use files::Store;
use tree::{Node, Tree};

/// The name in the root that belongs to the mount itself.
pub const RESERVED_NAME: &str = ".relay";

/// Most hidden names that are counted one by one.
const HIDDEN_MAX: usize = 1000;

/// How a workspace is presented.
#[derive(Debug, Clone)]
pub struct Options {
    /// Owner of what the remote has.
    pub uid: u32,
    pub gid: u32,
    /// How long a path must stand still before it is uploaded.
    pub settle: Duration,
    /// Patterns of paths that stay on this machine; `None`: those of the last run.
    pub local_only: Option<Vec<String>>,
}

/// See the module.
pub struct Workspace {
    tree: RwLock<Tree>,
    journal: Journal,
    store: Store,
    remote: Arc<dyn Remote>,
    policy: Policy,
    /// What of the rules file is in force.
    rules: Mutex<rules::InForce>,
    options: Options,
    handles: RwLock<HashMap<u64, Arc<Handle>>>,
    dirs: Mutex<HashMap<u64, Arc<Vec<DirItem>>>>,
    next_fh: AtomicU64,
    flights: Mutex<HashMap<Need, Arc<Flight>>>,
    /// To the notifier thread; unbounded, so that sending never blocks.
    invalidations: Sender<Invalidation>,
    /// The next number of a change that the kernel has to be told of before a file is opened again.
    told: AtomicU64,
    /// Wakes the dispatcher; bounded at one, because the journal is the queue and this only says "look".
    wake: Sender<()>,
    /// The whole tree has been learned.
    known: AtomicBool,
    /// Remote names that cannot be shown, each logged once.
    hidden: Mutex<HashSet<String>>,
    /// Paths acknowledged while a listing runs, which may show them as they were before. Counts the listings.
    fresh: Mutex<(usize, HashSet<RemotePath>)>,
    /// Paths that could not be asked about, with when to try again. A leaf.
    unrefreshed: Mutex<HashMap<RemotePath, std::time::Instant>>,
    /// The last request of the follower was answered.
    reachable: AtomicBool,
    /// Held while a letter is retried or discarded, commit included: one at a time.
    letters: Mutex<()>,
    changes: Arc<Changes>,
    /// Somebody was refused for what the token says; it is logged once.
    refusal_said: AtomicBool,
}

/// Now, with nanoseconds.
fn now() -> Nanos {
    nanos(SystemTime::now())
}

fn nanos(t: SystemTime) -> Nanos {
    match t.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(d) => Nanos(d.as_nanos().min(i64::MAX as u128) as i64),
        Err(e) => Nanos(-(e.duration().as_nanos().min(i64::MAX as u128) as i64)),
    }
}

fn errno<T>(e: i32) -> FsResult<T> {
    Err(FsError::Errno(e))
}

impl Workspace {
    /// Loads the tree from the journal and compares the working files with it. The caller holds the lease of `state_dir`.
    pub fn load(
        state_dir: &Path,
        journal: Journal,
        remote: Arc<dyn Remote>,
        options: Options,
        invalidations: Sender<Invalidation>,
        wake: Sender<()>,
    ) -> FsResult<Workspace> {
        let store = Store::open(state_dir)?;
        let mut root = Node::new(Kind::Dir, 0o755, options.uid, options.gid, now());
        if let Some(d) = root.dir_mut() {
            d.listed = false;
        }
        let tree = Tree::from_journal(journal.load()?, root);
        let known = journal.meta("tree_known")?.is_some();
        let hidden = journal.meta("hidden")?.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
        let policy = rules::last_known(&journal, options.local_only.as_deref())?;
        let ws = Workspace {
            tree: RwLock::new(tree),
            journal,
            store,
            remote,
            policy,
            rules: Mutex::default(),
            options,
            handles: RwLock::default(),
            dirs: Mutex::default(),
            next_fh: AtomicU64::new(1),
            flights: Mutex::default(),
            invalidations,
            told: AtomicU64::new(1),
            wake,
            known: AtomicBool::new(known),
            hidden: Mutex::new(hidden),
            fresh: Mutex::default(),
            unrefreshed: Mutex::default(),
            reachable: AtomicBool::new(true),
            letters: Mutex::default(),
            changes: Arc::default(),
            refusal_said: AtomicBool::new(false),
        };
        ws.recover()?;
        ws.take_up_rules()?;
        Ok(ws)
    }

    /// True once the whole tree has been learned; from then on no listing is asked for.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    pub fn files_known(&self) -> u64 {
        self.tree.read().nodes.values().filter(|n| n.kind == Kind::File).count() as u64
    }

    pub fn hidden_names(&self) -> u64 {
        self.hidden.lock().len() as u64
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Where what changes here is told.
    pub fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    /// Bytes of files with local changes that are not at the remote.
    pub fn pending_bytes(&self) -> u64 {
        let tree = self.tree.read();
        tree.work.keys().filter_map(|p| tree.resolve(p)).filter_map(|i| tree.get(i)).map(|n| n.size).sum()
    }

    /// Whether the remote answers, as far as is known. While it does not, sizes are estimates and nobody waits for better ones.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::Release);
    }

    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::Acquire)
    }

    /// ENOSPC when the disk of the state directory is full, for what would take up more of it.
    fn needs_room(&self) -> FsResult<()> {
        if self.journal.is_short_of_room() { errno(libc::ENOSPC) } else { Ok(()) }
    }

    fn check_name(name: &OsStr) -> FsResult<()> {
        match name.len() {
            0 => errno(libc::ENOENT),
            n if n > crate::path::NAME_MAX => errno(libc::ENAMETOOLONG),
            _ => Ok(()),
        }
    }

    fn entry_of(tree: &mut Tree, ino: Ino) -> FsResult<Entry> {
        let node = tree.get_mut(ino).ok_or(FsError::NOT_FOUND)?;
        node.lookups += 1;
        Ok(Entry { attr: node.attr(ino), size_known: node.size_known })
    }

    /// ENOENT means that the name is known not to exist. Counts one lookup.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Entry> {
        Self::check_name(name)?;
        let mut tree = self.tree.write();
        let dir = tree.get(parent).ok_or(FsError::NOT_FOUND)?.dir().ok_or(FsError::Errno(libc::ENOTDIR))?;
        match dir.children.get(name).copied() {
            Some(ino) => Self::entry_of(&mut tree, ino),
            None if !dir.listed => Err(FsError::Need(Need::Listing(parent))),
            None => Err(FsError::NOT_FOUND),
        }
    }

    /// Where an inode is, relative to the mountpoint, by the first of its names. `None` when it has none.
    pub fn path_in_view(&self, ino: Ino) -> Option<std::path::PathBuf> {
        let tree = self.tree.read();
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let (parent, name) = tree.get(at)?.links.first()?;
            names.push(name.clone());
            at = *parent;
        }
        Some(names.iter().rev().map(|name| Path::new(&**name)).collect())
    }

    /// Whether the view has a name in a directory. Counts no lookup and asks nobody.
    pub fn has_name(&self, parent: Ino, name: &OsStr) -> bool {
        self.tree.read().child(parent, name).is_some()
    }

    /// The entry of an inode that a listing reports; counts one lookup. ENOENT when it vanished meanwhile.
    pub fn entry(&self, ino: Ino) -> FsResult<Entry> {
        Self::entry_of(&mut self.tree.write(), ino)
    }

    /// The kernel forgets `count` lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        let mut tree = self.tree.write();
        if let Some(n) = tree.get_mut(ino) {
            n.lookups = n.lookups.saturating_sub(count);
        }
        if tree.drop_unreachable(ino) {
            self.store.remove_file(ino);
        }
    }

    pub fn getattr(&self, ino: Ino) -> FsResult<Attr> {
        let tree = self.tree.read();
        let node = tree.get(ino).ok_or(FsError::NOT_FOUND)?;
        if !node.size_known {
            let recently = |f: &tree::FileBody| f.estimate_until.is_some_and(|t| t > std::time::Instant::now());
            if !node.file().is_some_and(recently) {
                return Err(FsError::Need(Need::Size(ino)));
            }
        }
        Ok(node.attr(ino))
    }

    /// False while only an estimate of the size is known.
    pub fn size_is_known(&self, ino: Ino) -> bool {
        self.tree.read().get(ino).is_none_or(|n| n.size_known)
    }

    /// True while someone has the file open for writing: the kernel must not cache its attributes.
    pub fn is_open_for_write(&self, ino: Ino) -> bool {
        self.tree.read().get(ino).is_some_and(|n| n.writers > 0)
    }

    /// Changes attributes. EFBIG over 2^63-1; EACCES for another size when the token does not let the file be written;
    /// [`Need::Content`] when a file that is not here is cut to a length other than 0.
    pub fn setattr(&self, caller: Caller, ino: Ino, set: SetAttr) -> FsResult<Attr> {
        if let Some(size) = set.size {
            self.truncate(ino, size)?;
        }
        let mut tree = self.tree.write();
        let at = now();
        let node = tree.get_mut(ino).ok_or(FsError::NOT_FOUND)?;
        let before = (node.mode, node.uid, node.gid, node.atime, node.mtime);
        if let Some(mode) = set.mode {
            node.mode = mode & 0o7777;
        }
        if set.uid.is_some() || set.gid.is_some() {
            node.uid = set.uid.unwrap_or(node.uid);
            node.gid = set.gid.unwrap_or(node.gid);
            // chown(2): what is not a directory loses set-user-ID and set-group-ID when its owner changes.
            if node.kind != Kind::Dir && set.mode.is_none() {
                node.mode = without_set_ids(node.mode);
            }
        } else if set.size.is_some() && caller.uid != 0 {
            node.mode = without_set_ids(node.mode);
        }
        let time = |t: SetTime| if let SetTime::At(n) = t { n } else { at };
        node.atime = set.atime.map_or(node.atime, time);
        node.mtime = set.mtime.map_or(node.mtime, time);
        let changed = before != (node.mode, node.uid, node.gid, node.atime, node.mtime);
        let asked = set.mode.is_some() || set.uid.is_some() || set.gid.is_some() || set.atime.is_some() || set.mtime.is_some();
        if asked {
            node.ctime = at;
        }
        let attr = node.attr(ino);
        if !(changed || asked) || (node.links.is_empty() && ino != Ino::ROOT) {
            return Ok(attr);
        }
        let mut batch = Batch::default();
        batch.put_node(&tree, ino);
        let pending = self.submit(batch);
        drop(tree);
        self.finish(pending)?;
        Ok(attr)
    }

    pub fn readlink(&self, ino: Ino) -> FsResult<OsString> {
        match &self.tree.read().get(ino).ok_or(FsError::NOT_FOUND)?.body {
            tree::Body::Symlink(target) => Ok(target.to_os_string()),
            _ => errno(libc::EINVAL),
        }
    }

    /// A snapshot of the directory for this handle.
    pub fn opendir(&self, ino: Ino) -> FsResult<u64> {
        let items = self.dir_items(ino)?;
        let fh = self.next_fh.fetch_add(1, Ordering::Relaxed);
        self.dirs.lock().insert(fh, Arc::new(items));
        Ok(fh)
    }

    fn dir_items(&self, ino: Ino) -> FsResult<Vec<DirItem>> {
        let tree = self.tree.read();
        let node = tree.get(ino).ok_or(FsError::NOT_FOUND)?;
        let dir = node.dir().ok_or(FsError::Errno(libc::ENOTDIR))?;
        if !dir.listed {
            return Err(FsError::Need(Need::Listing(ino)));
        }
        let parent = node.links.first().map_or(ino, |(p, _)| *p);
        let mut items = Vec::with_capacity(dir.children.len() + 2);
        items.push(DirItem { ino, kind: Kind::Dir, name: ".".into(), next_offset: 1 });
        items.push(DirItem { ino: parent, kind: Kind::Dir, name: "..".into(), next_offset: 2 });
        for (name, &child) in &dir.children {
            let kind = tree.get(child).map_or(Kind::File, |n| n.kind);
            let next_offset = items.len() as u64 + 1;
            items.push(DirItem { ino: child, kind, name: name.to_os_string(), next_offset });
        }
        Ok(items)
    }

    /// Calls `emit` for each entry from `offset` on, "." and ".." included, until it returns false. Offset 0 (a rewind) takes
    /// a new snapshot, so that a directory is never shown as it was before its own opening.
    pub fn readdir(&self, ino: Ino, fh: u64, offset: u64, emit: &mut dyn FnMut(&DirItem) -> bool) -> FsResult<()> {
        let items = if offset == 0 {
            let items = Arc::new(self.dir_items(ino)?);
            self.dirs.lock().insert(fh, Arc::clone(&items));
            items
        } else {
            self.dirs.lock().get(&fh).cloned().ok_or(FsError::Errno(libc::EBADF))?
        };
        for item in items.iter().skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if !emit(item) {
                break;
            }
        }
        Ok(())
    }

    pub fn releasedir(&self, fh: u64) {
        self.dirs.lock().remove(&fh);
    }

    /// Makes everything committed so far survive a loss of power.
    pub fn fsyncdir(&self, _ino: Ino) -> FsResult<()> {
        self.barrier()
    }

    fn barrier(&self) -> FsResult<()> {
        Ok(self.journal.submit(crate::journal::Durability::Power, |_| Ok(())).wait()?)
    }

    /// The numbers of the filesystem that holds the state directory: that is what a save needs.
    pub fn statfs(&self) -> FsResult<FsStat> {
        let dir = std::fs::File::open(self.journal.path())?;
        // SAFETY: statvfs is plain data; the call fills it for an open descriptor.
        let s = unsafe {
            let mut s: libc::statvfs = std::mem::zeroed();
            if libc::fstatvfs(std::os::fd::AsRawFd::as_raw_fd(&dir), &mut s) != 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            s
        };
        Ok(FsStat {
            block_size: s.f_frsize as u32,
            blocks: s.f_blocks,
            blocks_free: s.f_bfree,
            blocks_available: s.f_bavail,
            files: s.f_files,
            files_free: s.f_ffree,
        })
    }

    fn hide(&self, path: &str, why: &dyn std::fmt::Display) {
        // Long enough to tell two names apart; a hostile remote chooses the length.
        let shown: String = path.chars().take(200).collect();
        let mut hidden = self.hidden.lock();
        if hidden.len() < HIDDEN_MAX && hidden.insert(shown.clone()) {
            log::warn!("hidden: the remote has {shown:?}, which cannot be shown: {why}");
        }
    }

    /// The hidden names as the journal keeps them, so that they are counted without a new listing.
    fn hidden_as_json(&self) -> String {
        serde_json::to_string(&*self.hidden.lock()).unwrap_or_default()
    }

    fn notify(&self, what: Invalidation) {
        let _ = self.invalidations.send(what);
    }

    fn wake_writeback(&self) {
        let _ = self.wake.try_send(());
    }

    /// Whether the file's bytes are here.
    fn is_local(content: ContentState) -> bool {
        matches!(content, ContentState::Clean | ContentState::Dirty)
    }
}

/// setuid always, setgid only on what is executable by the group (without that it means mandatory locking).
fn without_set_ids(mode: u32) -> u32 {
    let sgid = if mode & libc::S_IXGRP != 0 { libc::S_ISGID } else { 0 };
    mode & !(libc::S_ISUID | sgid)
}
