//! Looking at a journal from outside, without changing anything in its directory.
//!
//! A journal that somebody drives is read through an ordinary read-only connection. One that nobody drives is read where it
//! lies if its log is empty (`immutable`, so that not even SQLite's side files appear); else journal and log are copied, and
//! the copy is read. So is one of an older schema, whose copy is brought up to date.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::delivery::{DeliveryNumbers, delivery_numbers};
use super::letters::{Attempt, ProviderError, attempts, dead_letters, provider_errors};
use super::ops::Operation;
use super::queue::{QueueNumbers, open_operations, operation_by_id, queue_numbers};
use super::rows::kind_code;
use super::{JournalError, open_reader, schema};
use crate::ids::OpId;
use crate::path::PATH_MAX;
use crate::workspace::Kind;

/// A journal as it was at one moment, or as it is while its holder goes on.
pub struct Look {
    db: Connection,
    /// The copy that is read, if it is one.
    _copy: Option<tempfile::TempDir>,
}

impl Look {
    /// `None` when there is no journal. `held`: somebody has the lease.
    pub fn at(state_dir: &Path, held: bool) -> Result<Option<Look>, JournalError> {
        let path = state_dir.join("journal.sqlite");
        match path.metadata() {
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(unreadable(&path, e)),
            Ok(m) if m.len() == 0 => return Ok(None),
            Ok(_) => {}
        }
        let log_is_empty = !state_dir.join("journal.sqlite-wal").metadata().is_ok_and(|m| m.len() > 0);
        let (db, copy) = match (held, log_is_empty) {
            (true, _) => (open_reader(&path)?, None),
            (false, true) => (open_immutable(&path)?, None),
            (false, false) => copied(state_dir, &path)?,
        };
        let version = |db: &Connection| -> Result<u32, JournalError> {
            db.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(|e| unreadable(&path, e))
        };
        match version(&db)? {
            0 => Ok(None),
            schema::CURRENT => Ok(Some(Look { db, _copy: copy })),
            found if found > schema::CURRENT => {
                Err(JournalError::Newer { path: path.display().to_string(), found, known: schema::CURRENT })
            }
            _ => {
                let dir = tempfile::tempdir().map_err(|e| unreadable(&path, e))?;
                let target = dir.path().join("journal.sqlite");
                db.execute("VACUUM INTO ?1", [target.to_string_lossy()]).map_err(|e| unreadable(&path, e))?;
                let mut db = Connection::open(&target).map_err(|e| unreadable(&path, e))?;
                let _ = schema::migrate(&mut db).map_err(|e| unreadable(&path, e))?;
                Ok(Some(Look { db, _copy: Some(dir) }))
            }
        }
    }

    pub fn numbers(&self) -> Result<QueueNumbers, JournalError> {
        Ok(queue_numbers(&self.db)?)
    }

    pub fn delivery_numbers(&self) -> Result<DeliveryNumbers, JournalError> {
        Ok(delivery_numbers(&self.db)?)
    }

    /// Operations that are queued, in flight or waiting, oldest first.
    pub fn open_operations(&self, limit: usize) -> Result<Vec<Operation>, JournalError> {
        Ok(open_operations(&self.db, limit)?)
    }

    pub fn dead_letters(&self) -> Result<Vec<Operation>, JournalError> {
        Ok(dead_letters(&self.db)?)
    }

    pub fn operation(&self, op: &OpId) -> Result<Option<Operation>, JournalError> {
        Ok(operation_by_id(&self.db, op)?)
    }

    pub fn attempts(&self, op: &OpId) -> Result<Vec<Attempt>, JournalError> {
        Ok(attempts(&self.db, op)?)
    }

    pub fn meta(&self, key: &str) -> Result<Option<String>, JournalError> {
        Ok(self.db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0)).optional()?)
    }

    /// Regular files that the remote does not have: their paths in the mount, which may be no UTF-8, and their sizes in bytes.
    pub fn files_only_here(&self) -> Result<Vec<(OsString, u64)>, JournalError> {
        let mut dirs: HashMap<i64, (i64, Vec<u8>)> = HashMap::new();
        let mut q = self.db.prepare(
            "SELECT name.node, name.parent, name.name FROM name JOIN node ON node.id = name.node WHERE node.kind = ?1",
        )?;
        let mut rows = q.query([kind_code(Kind::Dir)])?;
        while let Some(r) = rows.next()? {
            dirs.insert(r.get(0)?, (r.get(1)?, r.get(2)?));
        }
        let mut found = Vec::new();
        let mut q = self.db.prepare(
            "SELECT name.parent, name.name, node.size FROM name JOIN node ON node.id = name.node
             WHERE node.kind = ?1 AND node.revision IS NULL",
        )?;
        let mut rows = q.query([kind_code(Kind::File)])?;
        while let Some(r) = rows.next()? {
            let (mut at, mut names) = (r.get::<_, i64>(0)?, vec![r.get::<_, Vec<u8>>(1)?]);
            while let Some((parent, name)) = dirs.get(&at) {
                names.push(name.clone());
                // Deeper than any path can be: a circle.
                if names.len() > PATH_MAX {
                    break;
                }
                at = *parent;
            }
            let path = names.iter().rev().flat_map(|n| [b"/", n.as_slice()].concat()).collect();
            found.push((OsString::from_vec(path), r.get::<_, i64>(2)? as u64));
        }
        found.sort();
        Ok(found)
    }

    pub fn provider_errors(&self) -> Result<Vec<ProviderError>, JournalError> {
        Ok(provider_errors(&self.db)?)
    }
}

fn open_immutable(path: &Path) -> Result<Connection, JournalError> {
    let escaped = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags).map_err(|e| unreadable(path, e))
}

fn copied(state_dir: &Path, path: &Path) -> Result<(Connection, Option<tempfile::TempDir>), JournalError> {
    let dir = tempfile::tempdir().map_err(|e| unreadable(path, e))?;
    for name in ["journal.sqlite", "journal.sqlite-wal"] {
        let from: PathBuf = state_dir.join(name);
        std::fs::copy(&from, dir.path().join(name)).map_err(|e| unreadable(&from, e))?;
    }
    let db = Connection::open(dir.path().join("journal.sqlite")).map_err(|e| unreadable(path, e))?;
    Ok((db, Some(dir)))
}

fn unreadable(path: &Path, e: impl std::fmt::Display) -> JournalError {
    JournalError::Open { path: path.display().to_string(), why: e.to_string() }
}
