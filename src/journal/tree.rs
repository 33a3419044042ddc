//! Nodes, names, extended attributes and the remote snapshot.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rusqlite::{OptionalExtension, params};

use super::rows::{NodeRow, Stamp, Version, kind_code};
use super::writer::Tx;
use crate::ids::Ino;
use crate::path::RemotePath;

type Done = rusqlite::Result<()>;

impl Tx<'_> {
    pub fn put_node(&self, n: &NodeRow) -> Done {
        let (revision, hash) = n.version.as_ref().map_or((None, None), |v| (Some(&v.revision), v.hash));
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO node(id, kind, mode, uid, gid, rdev, size, size_known, atime, mtime, ctime, target,
                     content, origin, revision, hash, content_type, stamp_size, stamp_ctime, implied, listed)
                 VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21)",
            )?
            .execute(params![
                n.ino,
                kind_code(n.kind),
                n.mode,
                n.uid,
                n.gid,
                n.rdev,
                n.size as i64,
                n.size_known,
                n.atime,
                n.mtime,
                n.ctime,
                n.target,
                n.content.code(),
                n.origin,
                revision,
                hash,
                n.content_type,
                n.stamp.map(|s| s.size as i64),
                n.stamp.map(|s| s.ctime_ns),
                n.implied,
                n.listed,
            ])?;
        Ok(())
    }

    /// Removes an inode with its extended attributes. Its names are removed on their own.
    pub fn delete_node(&self, ino: Ino) -> Done {
        self.db.prepare_cached("DELETE FROM node WHERE id = ?1")?.execute([ino])?;
        self.db.prepare_cached("DELETE FROM xattr WHERE node = ?1")?.execute([ino])?;
        Ok(())
    }

    pub fn set_listed(&self, ino: Ino) -> Done {
        self.db.prepare_cached("UPDATE node SET listed = 1 WHERE id = ?1")?.execute([ino])?;
        Ok(())
    }

    pub fn set_all_listed(&self) -> Done {
        self.db.execute("UPDATE node SET listed = 1 WHERE kind = 2 AND listed = 0", [])?;
        Ok(())
    }

    pub fn set_stamp(&self, ino: Ino, stamp: Stamp) -> Done {
        self.db.prepare_cached("UPDATE node SET stamp_size = ?2, stamp_ctime = ?3 WHERE id = ?1")?.execute(params![
            ino,
            stamp.size as i64,
            stamp.ctime_ns
        ])?;
        Ok(())
    }

    pub fn put_name(&self, parent: Ino, name: &OsStr, ino: Ino) -> Done {
        self.db.prepare_cached("INSERT OR REPLACE INTO name(parent, name, node) VALUES(?1, ?2, ?3)")?.execute(params![
            parent,
            name.as_bytes(),
            ino
        ])?;
        Ok(())
    }

    pub fn delete_name(&self, parent: Ino, name: &OsStr) -> Done {
        self.db.prepare_cached("DELETE FROM name WHERE parent = ?1 AND name = ?2")?.execute(params![parent, name.as_bytes()])?;
        Ok(())
    }

    pub fn put_xattr(&self, ino: Ino, name: &OsStr, value: &[u8]) -> Done {
        self.db.prepare_cached("INSERT OR REPLACE INTO xattr(node, name, value) VALUES(?1, ?2, ?3)")?.execute(params![
            ino,
            name.as_bytes(),
            value
        ])?;
        Ok(())
    }

    pub fn delete_xattr(&self, ino: Ino, name: &OsStr) -> Done {
        self.db.prepare_cached("DELETE FROM xattr WHERE node = ?1 AND name = ?2")?.execute(params![ino, name.as_bytes()])?;
        Ok(())
    }

    pub fn put_meta(&self, key: &str, value: &str) -> Done {
        self.db.prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)")?.execute(params![key, value])?;
        Ok(())
    }

    pub fn delete_meta(&self, key: &str) -> Done {
        self.db.execute("DELETE FROM meta WHERE key = ?1", [key])?;
        Ok(())
    }

    /// Records the version that the view of `path` is built on.
    pub fn put_remote(&self, path: &RemotePath, version: &Version, content_type: Option<&str>) -> Done {
        self.db
            .prepare_cached(
                "INSERT INTO remote(path, revision, hash, content_type) VALUES(?1, ?2, ?3, ?4)
                 ON CONFLICT(path) DO UPDATE SET revision = ?2, hash = ?3, content_type = coalesce(?4, content_type)",
            )?
            .execute(params![path, version.revision, version.hash, content_type])?;
        Ok(())
    }

    pub fn delete_remote(&self, path: &RemotePath) -> Done {
        self.db.prepare_cached("DELETE FROM remote WHERE path = ?1")?.execute([path])?;
        Ok(())
    }

    pub(super) fn remote(&self, path: &RemotePath) -> rusqlite::Result<Option<Version>> {
        self.db
            .prepare_cached("SELECT revision, hash FROM remote WHERE path = ?1")?
            .query_row([path], |r| Ok(Version { revision: r.get(0)?, hash: r.get(1)? }))
            .optional()
    }

    /// Notes a version (`None`: a deletion) that the remote has while local work on the path is open.
    pub fn put_seen(&self, path: &RemotePath, version: Option<&Version>) -> Done {
        self.db.prepare_cached("INSERT OR REPLACE INTO seen(path, revision, hash) VALUES(?1, ?2, ?3)")?.execute(params![
            path,
            version.map(|v| &v.revision),
            version.and_then(|v| v.hash)
        ])?;
        Ok(())
    }

    /// Notes that the remote has to be asked about a path.
    pub fn note_unsure(&self, path: &RemotePath) -> Done {
        self.put_seen(path, Some(&Version::unknown()))
    }

    pub fn delete_seen(&self, path: &RemotePath) -> Done {
        self.db.prepare_cached("DELETE FROM seen WHERE path = ?1")?.execute([path])?;
        Ok(())
    }
}
