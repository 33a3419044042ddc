//! Which requests go to the tree and which to `.relay`: by inode number, or by the reserved name in the root. Nothing
//! else knows that there are two.
//!
//! Also attaches to each answer how long the kernel may keep it.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use fuser::FopenFlags;

use super::ttl::Ttl;
use crate::ids::Ino;
use crate::relaydir::{self, RelayDir, owns};
use crate::workspace::{Attr, Caller, DirItem, Entry, FsError, FsResult, FsStat, Kind, Opened, RenameMode, SetAttr, Workspace};

/// The cookie behind `.relay`, the last entry of the root. No listing is that long.
const BEHIND_RELAY: u64 = 1 << 62;

/// Everything that can be seen in the mount.
pub(super) struct View {
    ws: Arc<Workspace>,
    relay: RelayDir,
    ttl: Arc<Ttl>,
}

/// An inode as the kernel is to see it.
pub(super) struct Shown {
    pub attr: Attr,
    pub entry_ttl: Duration,
    pub attr_ttl: Duration,
}

/// An open file and how the kernel is to treat it.
pub(super) struct OpenFile {
    pub fh: u64,
    pub flags: FopenFlags,
}

impl View {
    pub(super) fn new(ws: Arc<Workspace>, relay: RelayDir, ttl: Arc<Ttl>) -> View {
        View { ws, relay, ttl }
    }

    /// `None` when the name is known not to exist, which the kernel may remember.
    pub(super) fn lookup(&self, parent: Ino, name: &OsStr) -> FsResult<Option<Shown>> {
        if is_relay(parent, name) {
            return Ok(Some(virtual_node(self.relay.top())));
        }
        if owns(parent) {
            return self.relay.lookup(parent, name).map(virtual_node).map(Some);
        }
        match self.ws.lookup(parent, name) {
            Ok(entry) => Ok(Some(self.shown(entry))),
            Err(FsError::Errno(libc::ENOENT)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What a listing entry means; counts one lookup. `None` when it vanished since the listing was taken.
    pub(super) fn child(&self, dir: Ino, item: &DirItem) -> FsResult<Option<Shown>> {
        let child = if owns(dir) || is_relay(dir, &item.name) {
            return self.lookup(dir, &item.name).or_else(gone);
        } else {
            self.ws.entry(item.ino)
        };
        child.map(|entry| Some(self.shown(entry))).or_else(gone)
    }

    /// How long the kernel may remember a name.
    pub(super) fn name_ttl(&self) -> Duration {
        self.ttl.entry()
    }

    pub(super) fn forget(&self, ino: Ino, count: u64) {
        if owns(ino) { self.relay.forget(ino, count) } else { self.ws.forget(ino, count) }
    }

    pub(super) fn getattr(&self, ino: Ino) -> FsResult<(Attr, Duration)> {
        if owns(ino) {
            return Ok((self.relay.getattr(ino)?, Duration::ZERO));
        }
        let attr = self.ws.getattr(ino)?;
        Ok((attr, self.attr_ttl(&attr, true)))
    }

    pub(super) fn setattr(&self, caller: Caller, ino: Ino, set: SetAttr) -> FsResult<(Attr, Duration)> {
        if owns(ino) {
            // truncate(2) is a write and fails as open(2) for writing does.
            return refuse(if set.size.is_some() { libc::EACCES } else { libc::EPERM });
        }
        let attr = self.ws.setattr(caller, ino, set)?;
        Ok((attr, self.attr_ttl(&attr, self.ws.size_is_known(ino))))
    }

    pub(super) fn readlink(&self, ino: Ino) -> FsResult<OsString> {
        if owns(ino) { refuse(libc::EINVAL) } else { self.ws.readlink(ino) }
    }

    pub(super) fn mknod(&self, caller: Caller, parent: Ino, name: &OsStr, mode: u32, rdev: u32) -> FsResult<Shown> {
        may_create(parent, name)?;
        self.ws.mknod(caller, parent, name, mode, rdev).map(|e| self.shown(e))
    }

    pub(super) fn mkdir(&self, caller: Caller, parent: Ino, name: &OsStr, mode: u32) -> FsResult<Shown> {
        may_create(parent, name)?;
        self.ws.mkdir(caller, parent, name, mode).map(|e| self.shown(e))
    }

    pub(super) fn symlink(&self, caller: Caller, parent: Ino, name: &OsStr, target: &OsStr) -> FsResult<Shown> {
        may_create(parent, name)?;
        self.ws.symlink(caller, parent, name, target).map(|e| self.shown(e))
    }

    pub(super) fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> FsResult<Shown> {
        may_create(parent, name)?;
        if owns(ino) {
            return refuse(libc::EPERM);
        }
        self.ws.link(ino, parent, name).map(|e| self.shown(e))
    }

    pub(super) fn unlink(&self, parent: Ino, name: &OsStr) -> FsResult<()> {
        if owns(parent) {
            return self.relay.unlink(parent, name);
        }
        may_change(parent, name)?;
        self.ws.unlink(parent, name)
    }

    pub(super) fn rmdir(&self, parent: Ino, name: &OsStr) -> FsResult<()> {
        may_change(parent, name)?;
        self.ws.rmdir(parent, name)
    }

    pub(super) fn rename(&self, from: (Ino, &OsStr), to: (Ino, &OsStr), mode: RenameMode) -> FsResult<()> {
        if owns(from.0) && owns(to.0) && mode != RenameMode::Exchange {
            return self.relay.rename(from, to);
        }
        may_change(from.0, from.1)?;
        may_change(to.0, to.1)?;
        self.ws.rename(from.0, from.1, to.0, to.1, mode)
    }

    pub(super) fn open(&self, ino: Ino, flags: i32) -> FsResult<OpenFile> {
        if owns(ino) {
            let fh = self.relay.open(ino, flags)?;
            // Direct: the length of a snapshot is not the length that stat saw a moment ago.
            return Ok(OpenFile { fh, flags: FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH });
        }
        self.ws.open(ino, flags).map(|opened| open_file(opened, flags))
    }

    pub(super) fn create(&self, caller: Caller, parent: Ino, name: &OsStr, mode: u32, flags: i32) -> FsResult<(Shown, OpenFile)> {
        may_create(parent, name)?;
        let (entry, opened) = self.ws.create(caller, parent, name, mode, flags)?;
        Ok((self.shown(entry), open_file(opened, flags)))
    }

    pub(super) fn read(&self, ino: Ino, fh: u64, offset: u64, size: u32) -> FsResult<Vec<u8>> {
        if owns(ino) { self.relay.read(fh, offset, size) } else { self.ws.read(fh, offset, size) }
    }

    /// `append`: the handle has O_APPEND now.
    pub(super) fn write(&self, ino: Ino, fh: u64, offset: u64, data: &[u8], append: bool) -> FsResult<u32> {
        match (owns(ino), append) {
            (true, _) => refuse(libc::EBADF),
            (false, true) => self.ws.append(fh, offset, data),
            (false, false) => self.ws.write(fh, offset, data),
        }
    }

    pub(super) fn flush(&self, ino: Ino, fh: u64) -> FsResult<()> {
        if owns(ino) { Ok(()) } else { self.ws.flush(fh) }
    }

    pub(super) fn fsync(&self, ino: Ino, fh: u64, datasync: bool) -> FsResult<()> {
        if owns(ino) { Ok(()) } else { self.ws.fsync(fh, datasync) }
    }

    pub(super) fn release(&self, ino: Ino, fh: u64) {
        if owns(ino) { self.relay.release(fh) } else { self.ws.release(fh) }
    }

    pub(super) fn opendir(&self, ino: Ino) -> FsResult<u64> {
        if owns(ino) { self.relay.opendir(ino) } else { self.ws.opendir(ino) }
    }

    /// At most `most` entries from `offset` on; fewer only at the end. Collected first, so that what is asked of each
    /// entry afterwards happens without whatever `readdir` holds.
    pub(super) fn list(&self, dir: Ino, fh: u64, offset: u64, most: usize) -> FsResult<Vec<DirItem>> {
        let mut items = Vec::new();
        if offset == BEHIND_RELAY {
            return Ok(items);
        }
        let mut emit = |item: &DirItem| {
            let room = items.len() < most;
            if room {
                items.push(item.clone());
            }
            room
        };
        if owns(dir) {
            self.relay.readdir(fh, offset, &mut emit)?
        } else {
            self.ws.readdir(dir, fh, offset, &mut emit)?
        };
        if dir == Ino::ROOT && items.len() < most {
            items.push(DirItem { ino: relaydir::DIR, kind: Kind::Dir, name: relaydir::NAME.into(), next_offset: BEHIND_RELAY });
        }
        Ok(items)
    }

    pub(super) fn releasedir(&self, ino: Ino, fh: u64) {
        if owns(ino) { self.relay.release(fh) } else { self.ws.releasedir(fh) }
    }

    pub(super) fn fsyncdir(&self, ino: Ino) -> FsResult<()> {
        if owns(ino) { Ok(()) } else { self.ws.fsyncdir(ino) }
    }

    pub(super) fn statfs(&self) -> FsResult<FsStat> {
        self.ws.statfs()
    }

    /// Names outside `user.` do not exist here at all: `ls -l` then stops asking for ACLs and labels (FUSE round trips
    /// per file otherwise).
    pub(super) fn getxattr(&self, ino: Ino, name: &OsStr) -> FsResult<Vec<u8>> {
        only_user(name)?;
        if owns(ino) { refuse(libc::ENODATA) } else { self.ws.getxattr(ino, name) }
    }

    pub(super) fn setxattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> FsResult<()> {
        only_user(name)?;
        if owns(ino) { refuse(libc::EPERM) } else { self.ws.setxattr(ino, name, value, flags) }
    }

    pub(super) fn listxattr(&self, ino: Ino) -> FsResult<Vec<u8>> {
        if owns(ino) { Ok(Vec::new()) } else { self.ws.listxattr(ino) }
    }

    pub(super) fn removexattr(&self, ino: Ino, name: &OsStr) -> FsResult<()> {
        only_user(name)?;
        if owns(ino) { refuse(libc::EPERM) } else { self.ws.removexattr(ino, name) }
    }

    pub(super) fn fallocate(&self, ino: Ino, fh: u64, offset: u64, length: u64, mode: i32) -> FsResult<()> {
        if owns(ino) { refuse(libc::EBADF) } else { self.ws.fallocate(fh, offset, length, mode) }
    }

    pub(super) fn lseek(&self, ino: Ino, fh: u64, offset: i64, whence: i32) -> FsResult<i64> {
        if owns(ino) { refuse(libc::EINVAL) } else { self.ws.lseek(fh, offset, whence) }
    }

    /// `from` and `to` are inode, handle and offset. EOPNOTSUPP makes the kernel copy by itself.
    pub(super) fn copy_file_range(&self, from: (Ino, u64, u64), to: (Ino, u64, u64), len: u64) -> FsResult<u64> {
        if owns(from.0) || owns(to.0) {
            return refuse(libc::EOPNOTSUPP);
        }
        self.ws.copy_file_range(from.1, from.2, to.1, to.2, len)
    }

    fn shown(&self, entry: Entry) -> Shown {
        let attr_ttl = self.attr_ttl(&entry.attr, entry.size_known);
        Shown { attr: entry.attr, entry_ttl: self.ttl.entry(), attr_ttl }
    }

    fn attr_ttl(&self, attr: &Attr, size_known: bool) -> Duration {
        let open_for_write = attr.kind == Kind::File && self.ws.is_open_for_write(attr.ino);
        self.ttl.attr(attr, size_known, open_for_write)
    }
}

fn is_relay(parent: Ino, name: &OsStr) -> bool {
    parent == Ino::ROOT && name == relaydir::NAME
}

fn may_change(parent: Ino, name: &OsStr) -> FsResult<()> {
    if owns(parent) || is_relay(parent, name) { refuse(libc::EPERM) } else { Ok(()) }
}

fn may_create(parent: Ino, name: &OsStr) -> FsResult<()> {
    if is_relay(parent, name) { refuse(libc::EEXIST) } else { may_change(parent, name) }
}

fn only_user(name: &OsStr) -> FsResult<()> {
    if name.as_encoded_bytes().starts_with(b"user.") { Ok(()) } else { refuse(libc::EOPNOTSUPP) }
}

fn refuse<T>(errno: i32) -> FsResult<T> {
    Err(FsError::Errno(errno))
}

fn gone<T>(e: FsError) -> FsResult<Option<T>> {
    match e {
        FsError::Errno(libc::ENOENT) => Ok(None),
        e => Err(e),
    }
}

/// What `.relay` shows may be different at the next question.
fn virtual_node(attr: Attr) -> Shown {
    Shown { attr, entry_ttl: Duration::ZERO, attr_ttl: Duration::ZERO }
}

fn open_file(opened: Opened, flags: i32) -> OpenFile {
    let mut how = FopenFlags::empty();
    if opened.keep_cache {
        how |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    // A handle that cannot have changed anything has nothing to commit at close: one round trip less for each reader.
    if flags & libc::O_ACCMODE == libc::O_RDONLY && flags & libc::O_TRUNC == 0 {
        how |= FopenFlags::FOPEN_NOFLUSH;
    }
    OpenFile { fh: opened.fh, flags: how }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(result: FsResult<()>) -> Option<i32> {
        result.err().map(|e| e.to_errno())
    }

    #[test]
    fn the_reserved_name_is_reserved_in_the_root_only() {
        let relay = OsStr::new(".relay");
        assert_eq!(errno(may_create(Ino::ROOT, relay)), Some(libc::EEXIST));
        assert_eq!(errno(may_change(Ino::ROOT, relay)), Some(libc::EPERM));
        assert_eq!(errno(may_create(Ino(2), relay)), None);
        assert_eq!(errno(may_change(Ino::ROOT, OsStr::new(".relay2"))), None);
    }

    #[test]
    fn nothing_is_made_or_changed_inside_relay() {
        assert_eq!(errno(may_create(relaydir::DIR, OsStr::new("x"))), Some(libc::EPERM));
        assert_eq!(errno(may_change(Ino(relaydir::DIR.0 + 4), OsStr::new("x"))), Some(libc::EPERM));
    }

    #[test]
    fn only_the_user_namespace_has_attributes() {
        assert_eq!(errno(only_user(OsStr::new("user.x"))), None);
        for name in ["security.capability", "system.posix_acl_access", "trusted.x", "userx", ""] {
            assert_eq!(errno(only_user(OsStr::new(name))), Some(libc::EOPNOTSUPP), "{name}");
        }
    }

    #[test]
    fn only_handles_that_may_have_changed_something_are_flushed() {
        let flags = |open: i32| open_file(Opened { fh: 1, keep_cache: false }, open).flags;
        assert_eq!(flags(libc::O_RDONLY), FopenFlags::FOPEN_NOFLUSH);
        assert_eq!(flags(libc::O_RDONLY | libc::O_TRUNC), FopenFlags::empty());
        assert_eq!(flags(libc::O_WRONLY), FopenFlags::empty());
        assert_eq!(flags(libc::O_RDWR), FopenFlags::empty());
        assert_eq!(open_file(Opened { fh: 1, keep_cache: true }, libc::O_RDWR).flags, FopenFlags::FOPEN_KEEP_CACHE);
    }
}
