//! Open files: read, write, and the commit points flush, fsync and release.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::changes::Event;
use crate::failpoint;
use crate::ids::Ino;
use crate::journal::ContentState;

use super::batch::Batch;
use super::files::Working;
use super::tree::{Node, Tree};
use super::{Caller, Entry, FsError, FsResult, Invalidation, Kind, Nanos, Need, Opened, Workspace, errno, now, without_set_ids};

/// An open file description.
pub(super) struct Handle {
    pub ino: Ino,
    pub working: Arc<Working>,
    pub writable: bool,
    /// Opened by execve(2), and kept until the program ends.
    pub executed: bool,
}

/// What the kernel adds to the flags of an open by execve(2) (`__FMODE_EXEC` in include/linux/fs.h).
const FMODE_EXEC: i32 = 0x20;

fn wants_write(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl Workspace {
    fn handle(&self, fh: u64) -> FsResult<Arc<Handle>> {
        self.handles.read().get(&fh).cloned().ok_or(FsError::Errno(libc::EBADF))
    }

    fn writable_handle(&self, fh: u64) -> FsResult<Arc<Handle>> {
        let h = self.handle(fh)?;
        if h.writable { Ok(h) } else { errno(libc::EBADF) }
    }

    /// The open working file of an inode whose bytes are here.
    fn working(&self, tree: &mut Tree, ino: Ino) -> FsResult<Arc<Working>> {
        let f = tree.get_mut(ino).and_then(Node::file_mut).ok_or(FsError::NOT_FOUND)?;
        if let Some(w) = &f.working {
            return Ok(Arc::clone(w));
        }
        let w = Arc::new(Working::new(self.store.open_file(ino)?));
        f.working = Some(Arc::clone(&w));
        Ok(w)
    }

    fn add_handle(&self, tree: &mut Tree, ino: Ino, working: Arc<Working>, flags: i32) -> Opened {
        let fh = self.next_fh.fetch_add(1, Ordering::Relaxed);
        let (writable, executed) = (wants_write(flags), flags & FMODE_EXEC != 0);
        let mut keep_cache = true;
        if let Some(n) = tree.get_mut(ino) {
            n.opens += 1;
            n.writers += u32::from(writable);
            if let Some(f) = n.file_mut() {
                keep_cache = !std::mem::take(&mut f.pages_stale);
                f.running += u32::from(executed);
            }
        }
        self.handles.write().insert(fh, Arc::new(Handle { ino, working, writable, executed }));
        Opened { fh, keep_cache }
    }

    /// `flags` are open(2)'s; O_TRUNC is applied here, and then nothing is fetched. EACCES for writing what the token does not
    /// let be written. ETXTBSY for O_RDONLY with O_TRUNC of a file that is being executed: with write access the kernel says so
    /// before it asks, here only when the file is cut already.
    pub fn open(&self, ino: Ino, flags: i32) -> FsResult<Opened> {
        if flags & libc::O_TRUNC != 0 && !wants_write(flags) {
            if self.tree.read().get(ino).and_then(Node::file).is_some_and(|f| f.running > 0) {
                return errno(libc::ETXTBSY);
            }
            // Linux cuts the file also then (open(2)), and a handle that cannot write will commit nothing.
            self.truncate(ino, 0)?;
        }
        let mut tree = self.tree.write();
        let node = tree.get(ino).ok_or(FsError::NOT_FOUND)?;
        let Some(file) = node.file() else {
            return errno(if node.kind == Kind::Dir { libc::EISDIR } else { libc::ENXIO });
        };
        if wants_write(flags) {
            self.may_write_file(&tree, ino)?;
        }
        let truncate = flags & libc::O_TRUNC != 0 && wants_write(flags);
        if !truncate && (!Self::is_local(file.content) || file.untold > 0) {
            return Err(FsError::Need(Need::Content(ino)));
        }
        let working = if truncate { self.truncate_now(&mut tree, ino, 0)? } else { self.working(&mut tree, ino)? };
        if truncate && let Some(n) = tree.get_mut(ino) {
            n.mode = without_set_ids(n.mode); // as a write does (inode(7))
        }
        Ok(self.add_handle(&mut tree, ino, working, flags))
    }

    pub fn create(&self, caller: Caller, parent: Ino, name: &OsStr, mode: u32, flags: i32) -> FsResult<(Entry, Opened)> {
        let mut tree = self.tree.write();
        let mut batch = Batch::default();
        if tree.child(parent, name).is_none() {
            self.may_write_name(&tree, parent, name)?;
        }
        let ino = self.add_node(&mut tree, &mut batch, caller, parent, name, Kind::File, mode)?;
        let file = match self.store.create_file(ino) {
            Ok(file) => file,
            Err(e) => {
                tree.detach(parent, name);
                tree.drop_unreachable(ino);
                return Err(e.into());
            }
        };
        let working = Arc::new(Working::new(file));
        if let Some(f) = tree.get_mut(ino).and_then(Node::file_mut) {
            f.working = Some(Arc::clone(&working));
            f.unsaved = true;
        }
        batch.put_node(&tree, ino);
        let entry = Self::entry_of(&mut tree, ino)?;
        let opened = self.add_handle(&mut tree, ino, working, flags);
        // Not awaited: the journal keeps the order, so the commit that a later flush waits for includes this one.
        let _ = self.submit(batch);
        Ok((entry, opened))
    }

    /// Cuts or extends the working file, which must be here unless `size` is 0.
    fn truncate_now(&self, tree: &mut Tree, ino: Ino, size: u64) -> FsResult<Arc<Working>> {
        let f = tree.get_mut(ino).and_then(Node::file_mut).ok_or(FsError::NOT_FOUND)?;
        let working = if Self::is_local(f.content) {
            let working = self.working(tree, ino)?;
            working.before_first_change(|| self.keep_base(tree, ino, false));
            working
        } else {
            let file = self.store.create_file(ino)?;
            let working = match &f.working {
                // Readers whose file has grown at the remote, which was not fetched yet, go on with this one.
                Some(working) => {
                    working.go_on_with(file);
                    Arc::clone(working)
                }
                None => Arc::new(Working::new(file)),
            };
            f.working = Some(Arc::clone(&working));
            working
        };
        working.file().set_len(size)?;
        working.note_truncation();
        let at = now();
        if let Some(n) = tree.get_mut(ino) {
            n.size = size;
            n.size_known = true;
            n.mtime = at;
            n.ctime = at;
            if let Some(f) = n.file_mut() {
                f.content = ContentState::Dirty;
                f.unsaved = true;
            }
        }
        tree.unpin_origin(ino);
        Ok(working)
    }

    /// truncate(2) and ftruncate(2). Without an open writer there is no later flush: then this is the commit point.
    pub(super) fn truncate(&self, ino: Ino, size: u64) -> FsResult<()> {
        if size > i64::MAX as u64 {
            return errno(libc::EFBIG);
        }
        let mut tree = self.tree.write();
        let node = tree.get(ino).ok_or(FsError::NOT_FOUND)?;
        let Some(file) = node.file() else {
            return errno(if node.kind == Kind::Dir { libc::EISDIR } else { libc::EINVAL });
        };
        self.may_write_file(&tree, ino)?;
        if size > node.size {
            self.needs_room()?;
        }
        if size != 0 && !Self::is_local(file.content) {
            return Err(FsError::Need(Need::Content(ino)));
        }
        let commit = node.writers == 0;
        self.truncate_now(&mut tree, ino, size)?;
        drop(tree);
        if !commit {
            return Ok(());
        }
        let done = self.commit(ino, false);
        if let Some(n) = self.tree.write().get_mut(ino)
            && n.opens == 0
            && let Some(f) = n.file_mut()
            && f.working.as_ref().is_some_and(|w| !w.has_uncommitted())
        {
            f.working = None; // nobody will release it
        }
        done
    }

    /// At most `size` bytes; fewer only at the end of the file.
    pub fn read(&self, fh: u64, offset: u64, size: u32) -> FsResult<Vec<u8>> {
        let file = self.handle(fh)?.working.file();
        let mut buf = vec![0; size as usize];
        let mut filled = 0;
        while filled < buf.len() {
            match file.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        buf.truncate(filled);
        Ok(buf)
    }

    /// Writes all of `data`. ENOSPC and EDQUOT come from the filesystem of the state directory.
    pub fn write(&self, fh: u64, offset: u64, data: &[u8]) -> FsResult<u32> {
        let h = self.writable_handle(fh)?;
        self.about_to_change(h.ino, &h.working);
        if self.journal.is_short_of_room() && offset + data.len() as u64 > h.working.stamp()?.size {
            return errno(libc::ENOSPC);
        }
        match h.working.file().write_all_at(data, offset) {
            // What only might be needed gives way.
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && self.store.bases_kept() > 0 => {
                self.sweep_bases(std::time::Duration::ZERO)?;
                h.working.file().write_all_at(data, offset)?;
            }
            done => done?,
        }
        h.working.note_write();
        self.grown(h.ino, offset + data.len() as u64);
        Ok(data.len() as u32)
    }

    /// As [`Workspace::write`] of a handle with O_APPEND, where the kernel takes `offset` for the end of the file. When the
    /// remote has just changed the file, it may be wrong: then `data` goes to the true end, and the kernel forgets what it has
    /// put where it thought.
    pub fn append(&self, fh: u64, offset: u64, data: &[u8]) -> FsResult<u32> {
        let h = self.writable_handle(fh)?;
        let end = h.working.stamp()?.size;
        let written = self.write(fh, end, data)?;
        if offset != end {
            self.notify(Invalidation::Content(h.ino));
        }
        Ok(written)
    }

    /// The content changed up to `end`.
    fn grown(&self, ino: Ino, end: u64) {
        let mut tree = self.tree.write();
        if let Some(n) = tree.get_mut(ino) {
            n.size = n.size.max(end);
            n.mtime = now();
            n.ctime = n.mtime;
            n.mode = without_set_ids(n.mode);
            if let Some(f) = n.file_mut() {
                f.content = ContentState::Dirty;
            }
        }
    }

    /// The commit point: when this returns, the save survives the death of this process and will be uploaded.
    pub fn flush(&self, fh: u64) -> FsResult<()> {
        let h = self.handle(fh)?;
        if h.writable { self.commit(h.ino, false) } else { Ok(()) }
    }

    /// Like flush, and the save survives the loss of power as well.
    pub fn fsync(&self, fh: u64, datasync: bool) -> FsResult<()> {
        let h = self.handle(fh)?;
        if datasync {
            h.working.file().sync_data()?
        } else {
            h.working.file().sync_all()?
        }
        if !h.writable {
            return self.barrier();
        }
        self.store.sync_names()?;
        self.commit(h.ino, true)
    }

    /// Records what the working file holds now. Nothing is copied, hashed or sent here.
    fn commit(&self, ino: Ino, power: bool) -> FsResult<()> {
        let mut tree = self.tree.write();
        let Some(node) = tree.get_mut(ino) else { return Ok(()) };
        let named = !node.links.is_empty();
        let Some(f) = node.file_mut() else { return Ok(()) };
        let Some(working) = f.working.clone() else { return Ok(()) };
        let writes = working.writes();
        if !named || !(working.has_uncommitted() || f.unsaved) {
            drop(tree);
            return if power { self.barrier() } else { Ok(()) };
        }
        failpoint::hit("flush");
        let stamp = working.stamp()?;
        let event = if f.stamp.is_none() && f.version.is_none() { Event::Created } else { Event::Updated };
        f.stamp = Some(stamp);
        f.content = ContentState::Dirty;
        f.unsaved = false;
        node.size = stamp.size;
        let is_rules = node.links.iter().any(|(dir, name)| super::rules::is_file(*dir, name));
        let mut batch = Batch::default();
        batch.put_node(&tree, ino);
        self.present(&mut tree, &mut batch, ino);
        if self.changes.is_watched() {
            tree.paths(ino).iter().for_each(|path| self.tell_local(&mut batch, event, path));
        }
        if power {
            batch.survive_power_loss();
        }
        let pending = self.submit(batch);
        drop(tree);
        let done = self.finish(pending);
        failpoint::hit("flushed");
        match &done {
            Ok(()) => {
                working.note_commit(writes);
                if is_rules {
                    self.rules_changed();
                }
            }
            Err(e) => {
                log::error!("a save of inode {ino} was not recorded: {e}");
                if let Some(f) = self.tree.write().get_mut(ino).and_then(Node::file_mut) {
                    f.unsaved = true;
                }
            }
        }
        done
    }

    /// The last close of a handle. Late changes are committed once more; an error has nobody to go to but the log.
    pub fn release(&self, fh: u64) {
        let Some(h) = self.handles.write().remove(&fh) else { return };
        if h.writable
            && let Err(e) = self.commit(h.ino, false)
        {
            log::error!("a change of inode {} after its last flush was not recorded: {e}", h.ino);
        }
        let mut tree = self.tree.write();
        let Some(n) = tree.get_mut(h.ino) else { return };
        n.opens = n.opens.saturating_sub(1);
        n.writers = n.writers.saturating_sub(u32::from(h.writable));
        if let Some(f) = n.file_mut() {
            f.running = f.running.saturating_sub(u32::from(h.executed));
        }
        if n.opens == 0
            && let Some(f) = n.file_mut()
            && f.working.as_ref().is_none_or(|w| !w.has_uncommitted())
        {
            f.working = None;
        }
        if h.writable {
            for path in tree.paths(h.ino) {
                tree.settle_note(&path);
            }
        }
        if tree.drop_unreachable(h.ino) {
            self.store.remove_file(h.ino);
        }
    }

    /// Commits what a writer that never closes has written, once it has been quiet for `quiet_ms` milliseconds. Not a
    /// truncation that nothing was written after.
    pub fn commit_quiet_writers(&self, quiet_ms: i64) {
        let waiting: Vec<Ino> = self
            .handles
            .read()
            .values()
            .filter(|h| {
                h.writable && h.working.has_uncommitted() && !h.working.is_just_truncated() && h.working.quiet_ms() > quiet_ms
            })
            .map(|h| h.ino)
            .collect();
        for ino in waiting {
            if let Err(e) = self.commit(ino, false) {
                log::warn!("inode {ino}, still open, could not be recorded: {e}");
            }
        }
    }

    /// fallocate(2) with its modes, applied to the working file.
    pub fn fallocate(&self, fh: u64, offset: u64, length: u64, mode: i32) -> FsResult<()> {
        let h = self.writable_handle(fh)?;
        let (Ok(off), Ok(len)) = (i64::try_from(offset), i64::try_from(length)) else { return errno(libc::EFBIG) };
        if mode & libc::FALLOC_FL_PUNCH_HOLE == 0 {
            self.needs_room()?;
        }
        self.about_to_change(h.ino, &h.working);
        // SAFETY: fallocate takes no pointers; the descriptor lives in `h`.
        if unsafe { libc::fallocate(h.working.file().as_raw_fd(), mode, off, len) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        h.working.note_write();
        let size = h.working.stamp()?.size;
        self.grown(h.ino, 0);
        if let Some(n) = self.tree.write().get_mut(h.ino) {
            n.size = size;
        }
        Ok(())
    }

    /// SEEK_DATA and SEEK_HOLE on the working file; the kernel answers the others itself.
    pub fn lseek(&self, fh: u64, offset: i64, whence: i32) -> FsResult<i64> {
        let h = self.handle(fh)?;
        // SAFETY: lseek takes no pointers. Moving the shared offset is harmless: all I/O here is positional.
        match unsafe { libc::lseek(h.working.file().as_raw_fd(), offset, whence) } {
            -1 => Err(std::io::Error::last_os_error().into()),
            at => Ok(at),
        }
    }

    /// Copies between working files, sharing blocks where the filesystem can.
    pub fn copy_file_range(&self, fh_in: u64, off_in: u64, fh_out: u64, off_out: u64, len: u64) -> FsResult<u64> {
        let (from, to) = (self.handle(fh_in)?, self.writable_handle(fh_out)?);
        let (mut src, mut dst) = (off_in as i64, off_out as i64);
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(1 << 30);
        self.needs_room()?;
        self.about_to_change(to.ino, &to.working);
        // SAFETY: both offsets point to locals that outlive the call; the descriptors live in the handles.
        let n = unsafe {
            libc::copy_file_range(from.working.file().as_raw_fd(), &mut src, to.working.file().as_raw_fd(), &mut dst, len, 0)
        };
        if n < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        to.working.note_write();
        self.grown(to.ino, off_out + n as u64);
        Ok(n as u64)
    }

    /// For tests and status: when the file was last changed.
    pub fn mtime(&self, ino: Ino) -> Option<Nanos> {
        self.tree.read().get(ino).map(|n| n.mtime)
    }
}
