//! Everything that the server keeps, in one SQLite file. No other module of the server writes SQL.
//!
//! Reads take a connection from a small pool and see the last commit. Writes are closures that run on one thread
//! ([`writer`]), many to a transaction, and are answered only after the commit that holds them is on disk.

mod ops;
mod page;
mod read;
mod schema;
mod types;
mod write;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;

pub(super) use ops::{Ack, Draft, OpFilter, Replay};
pub(super) use page::{QueryFilter, has_rules, permissions_at};
pub(super) use read::workspace_id;
pub(super) use types::{ContentIdentity, EventRow, EventType, FileRow, OpRow, Semantics, TreeRow, rev_name};
pub(super) use write::{BulkOutcome, FileWrite, Rejected, Written};
pub(super) use writer::WriteTx;

use super::hub::Hub;
use writer::Writer;

/// Readers kept open; more may exist for a moment.
const READERS_KEPT: usize = 8;

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the database has schema version {found}, this program knows up to {known}: use a newer program")]
    TooNew { found: i64, known: i64 },
    /// A commit failed; the batch that it held was not acknowledged.
    #[error("commit failed: {why}")]
    Commit {
        why: Arc<str>,
        /// The disk or the quota is full; it may go on when there is room.
        full: bool,
    },
    /// An earlier sync to disk failed: nothing that follows could be called durable.
    #[error("the database refuses writes since a sync to disk failed")]
    Poisoned,
    #[error("the server is stopping")]
    Stopped,
}

impl StoreError {
    /// Whether the disk or the quota is full (HTTP 507).
    pub(super) fn is_full(&self) -> bool {
        match self {
            StoreError::Sqlite(e) => is_full(e),
            StoreError::Commit { full, .. } => *full,
            _ => false,
        }
    }
}

fn is_full(e: &rusqlite::Error) -> bool {
    e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

impl StoreError {
    fn commit(e: &rusqlite::Error) -> StoreError {
        StoreError::Commit { why: e.to_string().into(), full: is_full(e) }
    }
}

pub(super) struct Store {
    path: PathBuf,
    /// Idle readers. A leaf lock: held only to push or pop.
    readers: Mutex<Vec<Connection>>,
    writer: Writer,
}

impl Store {
    /// Opens or creates the database at `path`; committed events go to `hub` in commit order.
    pub(super) fn open(path: &Path, hub: Arc<Hub>) -> Result<Store, StoreError> {
        let conn = schema::open_writer(path)?;
        let writer = Writer::start(conn, hub)?;
        Ok(Store { path: path.to_owned(), readers: Mutex::new(Vec::new()), writer })
    }

    /// Runs `f` on a reading connection, in one read transaction: a consistent view of the last commit.
    pub(super) fn read<T>(&self, f: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let pooled = self.readers.lock().pop();
        let conn = match pooled {
            Some(conn) => conn,
            None => schema::open_reader(&self.path)?,
        };
        let tx = conn.unchecked_transaction()?;
        let out = f(&tx);
        drop(tx);
        let out = out?;
        let mut readers = self.readers.lock();
        if readers.len() < READERS_KEPT {
            readers.push(conn);
        }
        Ok(out)
    }

    /// Runs `f` on the writer thread and returns after its transaction is on disk.
    ///
    /// `f` must decide before it changes anything: what it returns is kept even if that is a refusal. A SQLite error
    /// undoes what `f` did, and nothing else.
    pub(super) async fn write<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut WriteTx<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.submit(f).await
    }

    /// Stops the writer after what it was given, and closes the file. Later writes fail with [`StoreError::Stopped`].
    pub(super) fn close(&self) {
        self.writer.stop();
        self.readers.lock().clear();
    }
}
