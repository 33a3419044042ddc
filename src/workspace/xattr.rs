//! Extended attributes: the user's own, kept in the journal, and `user.relayfile.*`, which tell how a file stands.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::ids::Ino;
use crate::journal::OpState;

use super::batch::Batch;
use super::{FsError, FsResult, Workspace, errno, now};

/// Names below this prefix are read-only and not listed, so that `cp -a` does not try to copy them.
const OWN_PREFIX: &str = "user.relayfile.";
/// Longest value in bytes (`XATTR_SIZE_MAX`).
const VALUE_MAX: usize = 65_536;
/// Longest list of names in bytes (`XATTR_LIST_MAX`).
const LIST_MAX: usize = 65_536;
/// Most bytes of all names and values of one inode: they are in memory as long as the inode is known.
const ALL_MAX: usize = 1 << 20;

impl Workspace {
    /// ENODATA when there is none.
    pub fn getxattr(&self, ino: Ino, name: &OsStr) -> FsResult<Vec<u8>> {
        if let Some(own) = name.to_str().and_then(|n| n.strip_prefix(OWN_PREFIX)) {
            return self.own_xattr(ino, own)?.map(String::into_bytes).ok_or(FsError::Errno(libc::ENODATA));
        }
        let tree = self.tree.read();
        let node = tree.get(ino).ok_or(FsError::NOT_FOUND)?;
        node.xattrs.as_ref().and_then(|x| x.get(name)).cloned().ok_or(FsError::Errno(libc::ENODATA))
    }

    fn own_xattr(&self, ino: Ino, which: &str) -> FsResult<Option<String>> {
        let (path, version, content_type) = {
            let tree = self.tree.read();
            let node = tree.get(ino).ok_or(FsError::NOT_FOUND)?;
            let Some(f) = node.file() else { return Ok(None) };
            (tree.paths(ino).into_iter().next(), f.version.clone(), f.content_type.clone())
        };
        let Some(path) = path else { return Ok(None) };
        let operation = || self.journal.operation_of_path(&path);
        Ok(match which {
            "revision" => version.map(|v| v.revision.to_string()),
            "content_type" => content_type.map(String::from),
            "provider" => Some(path.provider().to_owned()),
            "op_id" => operation()?.map(|o| o.op.to_string()),
            "state" => Some(match operation()? {
                Some(o) if o.state == OpState::Dead && o.last_code.as_deref() == Some("conflict") => "conflict".to_owned(),
                Some(o) => o.state.as_str().to_owned(),
                // The remote has never had it and nothing will bring it there: a rule holds it back, or has held its last save.
                None if version.is_none() => "local".to_owned(),
                None => "synced".to_owned(),
            }),
            _ => None,
        })
    }

    /// `flags`: XATTR_CREATE, XATTR_REPLACE. E2BIG and ENOSPC at the limits of xattr(7), ENOSPC also over [`ALL_MAX`], EPERM
    /// for our own names.
    pub fn setxattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> FsResult<()> {
        self.check_settable(name)?;
        if value.len() > VALUE_MAX {
            return errno(libc::E2BIG);
        }
        self.needs_room()?;
        let mut tree = self.tree.write();
        let node = tree.get_mut(ino).ok_or(FsError::NOT_FOUND)?;
        let xattrs = node.xattrs.get_or_insert_default();
        match xattrs.contains_key(name) {
            true if flags & libc::XATTR_CREATE != 0 => return errno(libc::EEXIST),
            false if flags & libc::XATTR_REPLACE != 0 => return errno(libc::ENODATA),
            _ => {}
        }
        let others = || xattrs.iter().filter(|(k, _)| *k != name);
        let list = others().map(|(k, _)| k.len() + 1).sum::<usize>() + name.len() + 1;
        let all = others().map(|(_, v)| v.len()).sum::<usize>() + value.len() + list;
        if list > LIST_MAX || all > ALL_MAX {
            return errno(libc::ENOSPC);
        }
        xattrs.insert(name.into(), value.into());
        node.ctime = now();
        let mut batch = Batch::default();
        batch.put_xattr(ino, name, value);
        batch.put_node(&tree, ino);
        let pending = self.submit(batch);
        drop(tree);
        self.finish(pending)
    }

    /// NUL-terminated names, one behind the other.
    pub fn listxattr(&self, ino: Ino) -> FsResult<Vec<u8>> {
        let tree = self.tree.read();
        let node = tree.get(ino).ok_or(FsError::NOT_FOUND)?;
        let mut list = Vec::new();
        for name in node.xattrs.iter().flat_map(|x| x.keys()) {
            list.extend_from_slice(name.as_bytes());
            list.push(0);
        }
        Ok(list)
    }

    pub fn removexattr(&self, ino: Ino, name: &OsStr) -> FsResult<()> {
        self.check_settable(name)?;
        let mut tree = self.tree.write();
        let node = tree.get_mut(ino).ok_or(FsError::NOT_FOUND)?;
        if node.xattrs.as_mut().and_then(|x| x.remove(name)).is_none() {
            return errno(libc::ENODATA);
        }
        node.ctime = now();
        let mut batch = Batch::default();
        batch.delete_xattr(ino, name);
        batch.put_node(&tree, ino);
        let pending = self.submit(batch);
        drop(tree);
        self.finish(pending)
    }

    fn check_settable(&self, name: &OsStr) -> FsResult<()> {
        if name.as_bytes().starts_with(OWN_PREFIX.as_bytes()) { errno(libc::EPERM) } else { Ok(()) }
    }
}
