//! The one view of the tree (being built): signatures that the adapter relies on.

mod error;
mod types;

pub use error::{FsError, FsResult, Need};
pub use types::*;

use std::ffi::{OsStr, OsString};

use crate::ids::Ino;

pub struct Workspace {}

impl Workspace {
    /// Fetches what an operation needed. Blocks for at most the remote's deadline; single flight per need.
    pub fn fulfil(&self, _need: Need) -> FsResult<()> {
        unimplemented!()
    }
    pub fn lookup(&self, _parent: Ino, _name: &OsStr) -> FsResult<Entry> {
        unimplemented!()
    }
    /// Entry for an inode that readdirplus reports; counts one lookup. ENOENT when it vanished meanwhile.
    pub fn entry(&self, _ino: Ino) -> FsResult<Entry> {
        unimplemented!()
    }
    pub fn forget(&self, _ino: Ino, _count: u64) {
        unimplemented!()
    }
    pub fn getattr(&self, _ino: Ino) -> FsResult<Attr> {
        unimplemented!()
    }
    /// True while someone has the file open for writing: the kernel must not cache its attributes.
    pub fn is_open_for_write(&self, _ino: Ino) -> bool {
        unimplemented!()
    }
    pub fn setattr(&self, _caller: Caller, _ino: Ino, _set: SetAttr) -> FsResult<Attr> {
        unimplemented!()
    }
    pub fn readlink(&self, _ino: Ino) -> FsResult<OsString> {
        unimplemented!()
    }
    /// `mode` holds the file type and 0o7777 bits with the umask already applied.
    pub fn mknod(&self, _caller: Caller, _parent: Ino, _name: &OsStr, _mode: u32, _rdev: u32) -> FsResult<Entry> {
        unimplemented!()
    }
    pub fn mkdir(&self, _caller: Caller, _parent: Ino, _name: &OsStr, _mode: u32) -> FsResult<Entry> {
        unimplemented!()
    }
    pub fn symlink(&self, _caller: Caller, _parent: Ino, _name: &OsStr, _target: &OsStr) -> FsResult<Entry> {
        unimplemented!()
    }
    pub fn link(&self, _ino: Ino, _parent: Ino, _name: &OsStr) -> FsResult<Entry> {
        unimplemented!()
    }
    pub fn unlink(&self, _parent: Ino, _name: &OsStr) -> FsResult<()> {
        unimplemented!()
    }
    pub fn rmdir(&self, _parent: Ino, _name: &OsStr) -> FsResult<()> {
        unimplemented!()
    }
    pub fn rename(&self, _parent: Ino, _name: &OsStr, _new_parent: Ino, _new_name: &OsStr, _mode: RenameMode) -> FsResult<()> {
        unimplemented!()
    }
    /// `flags` are open(2)'s; O_TRUNC is applied here.
    pub fn open(&self, _ino: Ino, _flags: i32) -> FsResult<Opened> {
        unimplemented!()
    }
    pub fn create(&self, _caller: Caller, _parent: Ino, _name: &OsStr, _mode: u32, _flags: i32) -> FsResult<(Entry, Opened)> {
        unimplemented!()
    }
    /// At most `size` bytes; fewer only at the end of the file.
    pub fn read(&self, _fh: u64, _offset: u64, _size: u32) -> FsResult<Vec<u8>> {
        unimplemented!()
    }
    pub fn write(&self, _fh: u64, _offset: u64, _data: &[u8]) -> FsResult<u32> {
        unimplemented!()
    }
    /// The commit point: 0 means that the save survives the death of this process.
    pub fn flush(&self, _fh: u64) -> FsResult<()> {
        unimplemented!()
    }
    pub fn fsync(&self, _fh: u64, _datasync: bool) -> FsResult<()> {
        unimplemented!()
    }
    pub fn release(&self, _fh: u64) {
        unimplemented!()
    }
    pub fn opendir(&self, _ino: Ino) -> FsResult<u64> {
        unimplemented!()
    }
    /// Calls `emit` for each entry from `offset` on ("." and ".." included) until it returns false. Offset 0 takes a new snapshot.
    pub fn readdir(&self, _fh: u64, _offset: u64, _emit: &mut dyn FnMut(&DirItem) -> bool) -> FsResult<()> {
        unimplemented!()
    }
    pub fn releasedir(&self, _fh: u64) {
        unimplemented!()
    }
    pub fn fsyncdir(&self, _ino: Ino) -> FsResult<()> {
        unimplemented!()
    }
    pub fn statfs(&self) -> FsResult<FsStat> {
        unimplemented!()
    }
    /// Only names of the `user.` namespace reach these (others are EOPNOTSUPP in the adapter).
    pub fn getxattr(&self, _ino: Ino, _name: &OsStr) -> FsResult<Vec<u8>> {
        unimplemented!()
    }
    pub fn setxattr(&self, _ino: Ino, _name: &OsStr, _value: &[u8], _flags: i32) -> FsResult<()> {
        unimplemented!()
    }
    /// NUL-terminated names, one behind the other, as listxattr(2) returns them.
    pub fn listxattr(&self, _ino: Ino) -> FsResult<Vec<u8>> {
        unimplemented!()
    }
    pub fn removexattr(&self, _ino: Ino, _name: &OsStr) -> FsResult<()> {
        unimplemented!()
    }
    pub fn fallocate(&self, _fh: u64, _offset: u64, _length: u64, _mode: i32) -> FsResult<()> {
        unimplemented!()
    }
    /// `whence` is SEEK_DATA or SEEK_HOLE; the kernel answers the others.
    pub fn lseek(&self, _fh: u64, _offset: i64, _whence: i32) -> FsResult<i64> {
        unimplemented!()
    }
    pub fn copy_file_range(&self, _fh_in: u64, _off_in: u64, _fh_out: u64, _off_out: u64, _len: u64) -> FsResult<u64> {
        unimplemented!()
    }
}
