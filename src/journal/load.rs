//! Reading the whole tree back at start.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use rusqlite::{Connection, OptionalExtension};

use super::rows::{ContentState, NodeRow, Stamp, Version, kind_from_code};
use super::{Journal, JournalError};
use crate::ids::Ino;
use crate::path::RemotePath;
use crate::workspace::Kind;

/// Everything that the view is made of.
pub struct Loaded {
    pub nodes: Vec<NodeRow>,
    pub names: Vec<(Ino, OsString, Ino)>,
    pub xattrs: Vec<(Ino, OsString, Vec<u8>)>,
    /// Paths with local work: open operations, and dead puts whose content the view shows.
    pub work: Vec<RemotePath>,
    /// What the remote was heard to have while local work was open.
    pub seen: Vec<(RemotePath, Option<Version>)>,
}

impl Journal {
    pub fn load(&self) -> Result<Loaded, JournalError> {
        self.read(|db| {
            let mut nodes = Vec::new();
            let mut q = db.prepare(
                "SELECT id, kind, mode, uid, gid, rdev, size, size_known, atime, mtime, ctime, target, content, origin,
                     revision, hash, content_type, stamp_size, stamp_ctime, implied, listed FROM node",
            )?;
            let mut rows = q.query([])?;
            while let Some(r) = rows.next()? {
                let version = match r.get::<_, Option<_>>(14)? {
                    Some(revision) => Some(Version { revision, hash: r.get(15)? }),
                    None => None,
                };
                let stamp = match (r.get::<_, Option<i64>>(17)?, r.get::<_, Option<i64>>(18)?) {
                    (Some(size), Some(ctime_ns)) => Some(Stamp { size: size as u64, ctime_ns }),
                    _ => None,
                };
                nodes.push(NodeRow {
                    ino: r.get(0)?,
                    kind: kind_from_code(r.get(1)?).unwrap_or(Kind::File),
                    mode: r.get(2)?,
                    uid: r.get(3)?,
                    gid: r.get(4)?,
                    rdev: r.get(5)?,
                    size: r.get::<_, i64>(6)? as u64,
                    size_known: r.get(7)?,
                    atime: r.get(8)?,
                    mtime: r.get(9)?,
                    ctime: r.get(10)?,
                    target: r.get(11)?,
                    content: ContentState::from_code(r.get(12)?).unwrap_or(ContentState::Remote),
                    origin: r.get(13)?,
                    version,
                    content_type: r.get(16)?,
                    stamp,
                    implied: r.get(19)?,
                    listed: r.get(20)?,
                });
            }
            let names = db
                .prepare("SELECT parent, name, node FROM name")?
                .query_map([], |r| Ok((r.get(0)?, OsString::from_vec(r.get(1)?), r.get(2)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let xattrs = db
                .prepare("SELECT node, name, value FROM xattr")?
                .query_map([], |r| Ok((r.get(0)?, OsString::from_vec(r.get(1)?), r.get(2)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let work = db
                .prepare(
                    "SELECT DISTINCT path FROM operation
                     WHERE state <= 3 AND replay = 0 OR (state = 4 AND kind = 1 AND in_view = 1)",
                )?
                .query_map([], |r| r.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let seen = seen(db)?;
            Ok(Loaded { nodes, names, xattrs, work, seen })
        })
    }

    /// What the remote was heard to have of paths while local work was open.
    pub fn seen(&self) -> Result<Vec<(RemotePath, Option<Version>)>, JournalError> {
        self.read(seen)
    }

    pub fn meta(&self, key: &str) -> Result<Option<String>, JournalError> {
        self.read(|db| db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0)).optional())
    }

    /// Paths of the remote snapshot strictly below `dir`.
    pub fn remote_paths(&self) -> Result<Vec<RemotePath>, JournalError> {
        self.read(|db| db.prepare("SELECT path FROM remote")?.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>())
    }
}

fn seen(db: &Connection) -> rusqlite::Result<Vec<(RemotePath, Option<Version>)>> {
    db.prepare("SELECT path, revision, hash FROM seen")?
        .query_map([], |r| {
            let version = match r.get::<_, Option<_>>(1)? {
                Some(revision) => Some(Version { revision, hash: r.get(2)? }),
                None => None,
            };
            Ok((r.get(0)?, version))
        })?
        .collect()
}
