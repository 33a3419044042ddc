//! The one thread that writes, with group commit: what arrives while a commit is on its way to the disk shares the next.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::types::EventRow;
use crate::server::hub::Hub;

/// Writes that may wait for the writer; beyond that, submitters wait.
const QUEUE: usize = 1024;
/// Most writes in one transaction.
const BATCH: usize = 256;
/// Events and operations kept; older ones are pruned.
const EVENTS_KEPT: i64 = 1_000_000;
const OPS_KEPT: i64 = 1_000_000;
/// Pruning runs when this many rows were added since the last time.
const PRUNE_EVERY: i64 = 4096;

/// Tells its submitter how it went; called once, after the commit or its failure.
type Done = Box<dyn FnOnce(Option<StoreError>) + Send>;
type Job = Box<dyn FnOnce(&mut WriteTx<'_>) -> (rusqlite::Result<()>, Done) + Send>;

#[derive(Debug, Clone, Copy)]
pub(super) struct Counters {
    pub revision: i64,
    pub operation: i64,
    pub event: i64,
}

/// The transaction that a write runs in. Only the writer thread has one.
pub(crate) struct WriteTx<'c> {
    pub(super) conn: &'c Connection,
    pub(super) counters: Counters,
    /// To be published when the commit is on disk.
    pub(super) events: Vec<EventRow>,
    pub(super) now_ns: i64,
}

pub(super) struct Writer {
    /// `None` after [`Writer::stop`]. Leaf lock, held to clone or take.
    tx: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(conn: Connection, hub: Arc<Hub>) -> Result<Writer, StoreError> {
        let counters = conn.query_row("SELECT revision, operation, event FROM counters", [], |row| {
            Ok(Counters { revision: row.get(0)?, operation: row.get(1)?, event: row.get(2)? })
        })?;
        let (tx, rx) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("relayfile-db".into())
            .spawn(move || Loop { conn, hub, counters, pruned: counters, poisoned: false }.run(rx))
            .map_err(|e| StoreError::Commit { why: format!("no thread for the database: {e}").into(), full: false })?;
        Ok(Writer { tx: Mutex::new(Some(tx)), thread: Mutex::new(Some(thread)) })
    }

    pub(super) async fn submit<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut WriteTx<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let tx = self.tx.lock().clone().ok_or(StoreError::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |write| match f(write) {
            Ok(value) => {
                let done: Done = Box::new(move |failed| drop(reply.send(failed.map_or(Ok(value), Err))));
                (Ok(()), done)
            }
            Err(e) => {
                let done: Done = Box::new(move |failed| drop(reply.send(Err(failed.unwrap_or(StoreError::Stopped)))));
                (Err(e), done)
            }
        });
        tx.send(job).await.map_err(|_| StoreError::Stopped)?;
        drop(tx);
        answer.await.unwrap_or(Err(StoreError::Stopped))
    }

    pub(super) fn stop(&self) {
        drop(self.tx.lock().take());
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    conn: Connection,
    hub: Arc<Hub>,
    counters: Counters,
    pruned: Counters,
    poisoned: bool,
}

impl Loop {
    fn run(mut self, mut rx: mpsc::Receiver<Job>) {
        let mut batch = VecDeque::with_capacity(BATCH);
        while let Some(first) = rx.blocking_recv() {
            batch.push_back(first);
            while batch.len() < BATCH {
                match rx.try_recv() {
                    Ok(job) => batch.push_back(job),
                    Err(_) => break,
                }
            }
            while !batch.is_empty() {
                self.transaction(&mut batch, &mut rx);
            }
        }
        // Leaves the log empty for the next start; a failure costs only time there.
        let _ = self.conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    /// Runs what is in `batch`, and what arrives meanwhile, in one transaction. What it leaves in `batch` is for the next.
    fn transaction(&mut self, batch: &mut VecDeque<Job>, rx: &mut mpsc::Receiver<Job>) {
        if self.poisoned {
            return fail_all(&self.conn, batch, self.counters, || StoreError::Poisoned);
        }
        if let Err(e) = self.conn.execute_batch("BEGIN IMMEDIATE") {
            return fail_all(&self.conn, batch, self.counters, || StoreError::commit(&e));
        }
        let mut done: Vec<Done> = Vec::with_capacity(batch.len());
        let mut write = WriteTx { conn: &self.conn, counters: self.counters, events: Vec::new(), now_ns: 0 };
        let mut taken = 0;
        while let Some(job) = batch.pop_front() {
            taken += 1;
            let full = run_one(&mut write, job, &mut done);
            // A full disk or a failed read may roll back everything, not only the one write that met it
            // (https://www.sqlite.org/lang_transaction.html, "Response to errors within a transaction"). What follows
            // would then run outside of any transaction.
            if self.conn.is_autocommit() {
                let why: Arc<str> = "the database rolled the transaction back".into();
                done.into_iter().for_each(|d| d(Some(StoreError::Commit { why: why.clone(), full })));
                return;
            }
            // The later ones of a burst arrive while the first ones run.
            if batch.is_empty()
                && taken < BATCH
                && let Ok(job) = rx.try_recv()
            {
                batch.push_back(job);
            }
        }
        let WriteTx { counters, events, .. } = write;
        match self.commit(counters) {
            Ok(()) => {
                self.counters = counters;
                self.hub.publish(events);
                done.into_iter().for_each(|d| d(None));
                self.prune();
            }
            Err(e) => {
                log::error!("embedded server: commit failed: {e}");
                let _ = self.conn.execute_batch("ROLLBACK");
                // After a failed fsync the kernel may have dropped the pages: no later success would mean anything
                // (https://www.sqlite.org/atomiccommit.html; "fsyncgate").
                self.poisoned = is_io_error(&e);
                done.into_iter().for_each(|d| d(Some(StoreError::commit(&e))));
            }
        }
    }

    fn commit(&self, counters: Counters) -> rusqlite::Result<()> {
        self.conn.prepare_cached("UPDATE counters SET revision = ?1, operation = ?2, event = ?3")?.execute((
            counters.revision,
            counters.operation,
            counters.event,
        ))?;
        self.conn.execute_batch("COMMIT")
    }

    fn prune(&mut self) {
        if self.counters.event - self.pruned.event >= PRUNE_EVERY {
            self.pruned.event = self.counters.event;
            let _ = self.conn.execute("DELETE FROM events WHERE seq <= ?1", [self.counters.event - EVENTS_KEPT]);
        }
        if self.counters.operation - self.pruned.operation >= PRUNE_EVERY {
            self.pruned.operation = self.counters.operation;
            let _ = self.conn.execute("DELETE FROM ops WHERE seq <= ?1", [self.counters.operation - OPS_KEPT]);
        }
    }
}

/// Runs one write in a savepoint of its own. Returns whether it failed because the disk is full.
fn run_one(write: &mut WriteTx<'_>, job: Job, done: &mut Vec<Done>) -> bool {
    let (counters, events) = (write.counters, write.events.len());
    write.now_ns = now_ns();
    if let Err(e) = write.conn.prepare_cached("SAVEPOINT job").and_then(|mut s| s.execute([])) {
        log::error!("embedded server: savepoint failed: {e}");
    }
    // A panic in one write must not take the others with it.
    let outcome = catch_unwind(AssertUnwindSafe(|| job(&mut *write)));
    let (failed, answer) = match outcome {
        Ok((Ok(()), answer)) => (None, Some(answer)),
        Ok((Err(e), answer)) => (Some(StoreError::Sqlite(e)), Some(answer)),
        Err(_) => (Some(StoreError::Stopped), None),
    };
    match failed {
        None => {
            let _ = write.conn.prepare_cached("RELEASE job").and_then(|mut s| s.execute([]));
            done.extend(answer);
            false
        }
        Some(e) => {
            let full = e.is_full();
            log::error!("embedded server: a write failed: {e}");
            let _ = write.conn.execute_batch("ROLLBACK TO job; RELEASE job");
            write.counters = counters;
            write.events.truncate(events);
            if let Some(answer) = answer {
                answer(Some(e));
            }
            full
        }
    }
}

fn fail_all(conn: &Connection, batch: &mut VecDeque<Job>, counters: Counters, why: impl Fn() -> StoreError) {
    // A job gives its reply only by running; with `query_only` it cannot change anything while it does.
    let _ = conn.pragma_update(None, "query_only", true);
    for job in batch.drain(..) {
        let mut write = WriteTx { conn, counters, events: Vec::new(), now_ns: now_ns() };
        if let Ok((_, done)) = catch_unwind(AssertUnwindSafe(|| job(&mut write))) {
            done(Some(why()));
        }
    }
    let _ = conn.pragma_update(None, "query_only", false);
}

fn is_io_error(e: &rusqlite::Error) -> bool {
    matches!(e, rusqlite::Error::SqliteFailure(f, _) if f.code == rusqlite::ErrorCode::SystemIoFailure)
}

/// Nanoseconds since 1970.
fn now_ns() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64)
}
