//! The journal: SQLite in WAL mode, the only durable truth of a mount.
//!
//! All SQL of the mount stands in this module. Everybody else submits closures over a [`Tx`], whose methods name what they
//! do. One writer thread runs them in the order of submission and commits what has queued up as one transaction (group
//! commit); a [`Ticket`] tells when, and whether, its closure is durable.
//!
//! # What a commit means
//!
//! An ordinary commit (`synchronous=NORMAL`) survives the death of this process. A commit asked for as [`Durability::Power`]
//! (`synchronous=FULL`) survives the loss of power, and with it everything committed before.
//!
//! # When a commit fails
//!
//! * No room (`SQLITE_FULL`, ENOSPC, EDQUOT): first the room that was kept back is used (`reserve`). When that is used up too,
//!   the closures stay at the head of the queue, in order. Their tickets report
//!   [`JournalError::Full`]; the next submission tries them again first. So what a caller was told has failed may still be
//!   recorded once there is room, and what was told to be recorded always was.
//! * Anything else (I/O error): the store is poisoned. An fsync that failed once is never retried and called durable: every
//!   later submission fails with [`JournalError::Poisoned`] until the process is started again.

mod delivery;
mod letters;
mod load;
mod look;
mod ops;
mod queue;
mod reserve;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod transitions;
mod tree;
mod writer;

pub use delivery::{DeliveryNumbers, Followed};
pub use letters::{Attempt, Discarded, ForeignLetter, ProviderError, Retried};
pub use load::Loaded;
pub use look::Look;
pub use ops::{Moved, OpKind, OpState, Operation, PathRule};
pub use queue::{Due, DueOp, Echo, QueueNumbers};
pub use rows::{ContentState, NodeRow, Stamp, Version};
pub use transitions::{Failure, Meets};
pub use writer::{Durability, Ticket, Tx};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};

/// Why the journal could not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    #[error("no room for the journal: {0}")]
    Full(String),
    #[error("the journal failed and takes no more writes until the mount is restarted: {0}")]
    Poisoned(String),
    #[error("the journal at {path} cannot be opened: {why}")]
    Open { path: String, why: String },
    #[error("the journal at {path} was written by a newer version (schema {found}, this program knows {known})")]
    Newer { path: String, found: u32, known: u32 },
    #[error("the journal cannot be read: {0}")]
    Read(String),
}

impl JournalError {
    /// The positive errno of a file operation that failed this way.
    pub fn to_errno(&self) -> i32 {
        match self {
            JournalError::Full(_) => libc::ENOSPC,
            _ => libc::EIO,
        }
    }
}

impl From<rusqlite::Error> for JournalError {
    fn from(e: rusqlite::Error) -> JournalError {
        JournalError::Read(e.to_string())
    }
}

/// The open journal of one mount. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    writer: Arc<writer::Writer>,
    reader: Arc<Mutex<Connection>>,
    path: Arc<PathBuf>,
    reserve: Arc<reserve::Reserve>,
}

impl Journal {
    /// Opens or creates `journal.sqlite` in `state_dir` and starts the writer thread. The caller holds the lease.
    pub fn open(state_dir: &Path) -> Result<Journal, JournalError> {
        let path = state_dir.join("journal.sqlite");
        let failed = |e: rusqlite::Error| JournalError::Open { path: path.display().to_string(), why: e.to_string() };
        let mut db = Connection::open(&path).map_err(failed)?;
        db.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
        db.pragma_update(None, "synchronous", "normal").map_err(failed)?;
        db.pragma_update(None, "wal_autocheckpoint", 4000).map_err(failed)?;
        db.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
        db.set_prepared_statement_cache_capacity(128);
        if let Err(found) = schema::migrate(&mut db).map_err(failed)? {
            return Err(JournalError::Newer { path: path.display().to_string(), found, known: schema::CURRENT });
        }
        let reader = open_reader(&path)?;
        let reserve = Arc::new(reserve::Reserve::open(state_dir));
        let writer = Arc::new(writer::Writer::start(db, Arc::clone(&reserve)));
        Ok(Journal { writer, reader: Arc::new(Mutex::new(reader)), path: Arc::new(path), reserve })
    }

    /// Queues a change. Never blocks; closures run in the order of submission. The closure must be repeatable: after a
    /// rolled back group it runs again.
    pub fn submit(&self, durability: Durability, work: impl FnMut(&Tx<'_>) -> rusqlite::Result<()> + Send + 'static) -> Ticket {
        self.writer.submit(durability, Box::new(work))
    }

    /// Queues a change and waits for its commit.
    pub fn write<T: Send + 'static>(
        &self,
        mut work: impl FnMut(&Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, JournalError> {
        let slot = Arc::new(Mutex::new(None));
        let out = Arc::clone(&slot);
        self.submit(Durability::Process, move |tx| {
            *out.lock() = Some(work(tx)?);
            Ok(())
        })
        .wait()?;
        let value = slot.lock().take();
        value.ok_or_else(|| JournalError::Read("a committed change left no result".into()))
    }

    /// Reads the state of the last commit.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, JournalError> {
        Ok(work(&self.reader.lock())?)
    }

    /// What poisoned the store, if something did.
    pub fn failure(&self) -> Option<String> {
        self.writer.failure()
    }

    /// The disk of the state directory is full: what would take up more room is to be refused with ENOSPC before it is begun.
    /// What gives room free, and what was promised, can still be recorded.
    pub fn is_short_of_room(&self) -> bool {
        self.reserve.is_short()
    }

    /// Looks whether there is room again; to be called now and then.
    pub fn look_for_room(&self) {
        if self.reserve.take_back() {
            log::info!("there is room again in the state directory");
            // What had to wait is tried again with whatever comes next.
            let _ = self.submit(Durability::Process, |_| Ok(()));
        }
    }

    /// How many transactions have been committed: a change of it means that status may have changed.
    pub fn commits(&self) -> u64 {
        self.writer.commits()
    }

    /// Commits what is queued, ends the writer thread and checkpoints the log.
    pub fn close(&self) {
        self.writer.stop();
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A read-only connection to a journal, for the mount itself and for tools that look at it from outside.
pub fn open_reader(path: &Path) -> Result<Connection, JournalError> {
    let failed = |e: rusqlite::Error| JournalError::Open { path: path.display().to_string(), why: e.to_string() };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(std::time::Duration::from_secs(5)).map_err(failed)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// Milliseconds since the epoch, as the journal stores times of operations.
pub fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
