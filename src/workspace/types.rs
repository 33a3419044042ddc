//! The values that cross the border between the FUSE adapter and the [`Workspace`](super::Workspace).

use std::ffi::OsString;

use crate::ids::Ino;

/// Nanoseconds since the epoch; negative before 1970. Covers the years 1678 to 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub i64);

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// The attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    pub ino: Ino,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: 0o7777.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub atime: Nanos,
    pub mtime: Nanos,
    pub ctime: Nanos,
}

/// A name's inode. Each one handed out counts as one lookup, to be given back by `forget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub attr: Attr,
    /// False while only an estimate of the size is known: the kernel must then not cache the attributes, so that a `stat`
    /// asks `getattr`, which finds out.
    pub size_known: bool,
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// What `setattr` changes; `None` leaves alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// 0o7777
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Nanos),
}

/// An open file.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    pub fh: u64,
    /// The kernel may keep its pages: the content is the one of the last open.
    pub keep_cache: bool,
}

/// One entry of a directory listing.
#[derive(Debug, Clone)]
pub struct DirItem {
    pub ino: Ino,
    pub kind: Kind,
    pub name: OsString,
    /// To be passed to continue behind this entry.
    pub next_offset: u64,
}

/// Numbers for statfs(2).
#[derive(Debug, Clone, Copy)]
pub struct FsStat {
    /// Bytes of one block.
    pub block_size: u32,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
}

/// How `rename` treats an existing target (renameat2(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    Replace,
    /// `RENAME_NOREPLACE`
    NoReplace,
    /// `RENAME_EXCHANGE`
    Exchange,
}

/// A change that did not come from the kernel and that the kernel's caches must learn. Sent to the notifier thread.
#[derive(Debug, Clone)]
pub enum Invalidation {
    /// A name was added, removed or now means another inode.
    Entry { parent: Ino, name: OsString },
    /// Attributes and cached pages of a file.
    Content(Ino),
    /// Attributes only (a directory whose entries changed, a size that became known).
    Attributes(Ino),
    /// Not a change: the sender wants to know when everything before it has been told.
    Told(crossbeam_channel::Sender<()>),
}
