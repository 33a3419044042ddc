//! The rows of the journal as values.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::ids::{ContentHash, Ino, OpId, Revision};
use crate::path::RemotePath;
use crate::workspace::{Kind, Nanos};

/// A version of a remote file: never a revision alone, because a restarted server may reuse the name. The hash is `None`
/// only where the remote did not say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub revision: Revision,
    pub hash: Option<ContentHash>,
}

impl Version {
    /// What the remote has is not known: equal to no version that there is, so that the remote is asked.
    pub fn unknown() -> Version {
        Version { revision: Revision::new(""), hash: None }
    }

    /// The same content as far as both sides know: equal revisions whose hashes, where both are known, agree.
    pub fn same_as(&self, other: &Version) -> bool {
        self.revision == other.revision && !matches!((self.hash, other.hash), (Some(a), Some(b)) if a != b)
    }
}

/// Where the bytes of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentState {
    /// Not a regular file.
    None,
    /// At the remote only.
    Remote,
    /// The working file holds exactly the node's version.
    Clean,
    /// The working file holds local changes.
    Dirty,
}

impl ContentState {
    pub(super) fn code(self) -> i64 {
        match self {
            ContentState::None => 0,
            ContentState::Remote => 1,
            ContentState::Clean => 2,
            ContentState::Dirty => 3,
        }
    }

    pub(super) fn from_code(code: i64) -> Option<ContentState> {
        Some(match code {
            0 => ContentState::None,
            1 => ContentState::Remote,
            2 => ContentState::Clean,
            3 => ContentState::Dirty,
            _ => return None,
        })
    }
}

/// What tells whether a working file moved: its size and its change time (nanoseconds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub size: u64,
    pub ctime_ns: i64,
}

/// One inode as the journal keeps it.
#[derive(Debug, Clone)]
pub struct NodeRow {
    pub ino: Ino,
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
    pub target: Option<Vec<u8>>,
    pub content: ContentState,
    /// Where the remote has the content, when that is not the node's own path (renamed before it was fetched).
    pub origin: Option<RemotePath>,
    pub version: Option<Version>,
    pub content_type: Option<String>,
    pub stamp: Option<Stamp>,
    /// A directory that exists only because the remote has files below it.
    pub implied: bool,
    /// A directory whose children are all known.
    pub listed: bool,
}

pub(super) fn kind_code(kind: Kind) -> i64 {
    match kind {
        Kind::File => 1,
        Kind::Dir => 2,
        Kind::Symlink => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::CharDevice => 6,
        Kind::BlockDevice => 7,
    }
}

pub(super) fn kind_from_code(code: i64) -> Option<Kind> {
    Some(match code {
        1 => Kind::File,
        2 => Kind::Dir,
        3 => Kind::Symlink,
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDevice,
        7 => Kind::BlockDevice,
        _ => return None,
    })
}

impl ToSql for Ino {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok((self.0 as i64).into())
    }
}

impl FromSql for Ino {
    fn column_result(v: ValueRef<'_>) -> FromSqlResult<Ino> {
        Ok(Ino(v.as_i64()? as u64))
    }
}

impl ToSql for OpId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for OpId {
    fn column_result(v: ValueRef<'_>) -> FromSqlResult<OpId> {
        v.as_str()?.parse().map_err(FromSqlError::other)
    }
}

impl ToSql for Revision {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for Revision {
    fn column_result(v: ValueRef<'_>) -> FromSqlResult<Revision> {
        Ok(Revision::new(v.as_str()?))
    }
}

impl ToSql for RemotePath {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

impl FromSql for RemotePath {
    fn column_result(v: ValueRef<'_>) -> FromSqlResult<RemotePath> {
        v.as_str()?.parse().map_err(FromSqlError::other)
    }
}

impl ToSql for ContentHash {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.as_slice().into())
    }
}

impl FromSql for ContentHash {
    fn column_result(v: ValueRef<'_>) -> FromSqlResult<ContentHash> {
        ContentHash::from_bytes(v.as_blob()?).ok_or(FromSqlError::InvalidType)
    }
}

impl ToSql for Nanos {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.into())
    }
}

impl FromSql for Nanos {
    fn column_result(v: ValueRef<'_>) -> FromSqlResult<Nanos> {
        Ok(Nanos(v.as_i64()?))
    }
}
