//! The writer thread: order, group commit, and what a failed commit means.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::JournalError;
use super::reserve::Reserve;

/// How much a commit must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The death of this process.
    Process,
    /// The loss of power.
    Power,
}

/// Most closures that one transaction takes together.
const GROUP_MAX: usize = 512;

pub(super) type Work = Box<dyn FnMut(&Tx<'_>) -> rusqlite::Result<()> + Send>;

/// The running transaction; its methods are the vocabulary of the journal.
pub struct Tx<'a> {
    pub(super) db: &'a Connection,
}

#[derive(Default)]
struct TicketState {
    done: Mutex<Option<Result<(), JournalError>>>,
    changed: Condvar,
}

/// The promise of a commit.
#[derive(Clone)]
pub struct Ticket(Arc<TicketState>);

impl Ticket {
    fn new() -> Ticket {
        Ticket(Arc::default())
    }

    fn settle(&self, result: Result<(), JournalError>) {
        let mut done = self.0.done.lock();
        // A closure that was reported as not recorded may be recorded later: the last word counts.
        *done = Some(result);
        self.0.changed.notify_all();
    }

    /// Waits until the change is committed, or has failed.
    pub fn wait(&self) -> Result<(), JournalError> {
        let mut done = self.0.done.lock();
        loop {
            if let Some(result) = &*done {
                return result.clone();
            }
            self.0.changed.wait(&mut done);
        }
    }

    pub fn is_committed(&self) -> bool {
        matches!(&*self.0.done.lock(), Some(Ok(())))
    }
}

struct Job {
    durability: Durability,
    work: Work,
    ticket: Ticket,
}

enum Message {
    Job(Job),
    Stop,
}

pub(super) struct Writer {
    queue: Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
    failure: Arc<Mutex<Option<String>>>,
    commits: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn start(db: Connection, reserve: Arc<Reserve>) -> Writer {
        let (queue, jobs) = crossbeam_channel::unbounded();
        let failure = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&failure);
        let commits = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&commits);
        let thread = std::thread::Builder::new()
            .name("relayfile-jrnl".into())
            .spawn(move || {
                Loop { db, jobs, failure: seen, commits: counter, backlog: VecDeque::new(), full: false, reserve }.run()
            })
            .expect("the system has no room for a thread");
        Writer { queue, thread: Mutex::new(Some(thread)), failure, commits }
    }

    pub(super) fn submit(&self, durability: Durability, work: Work) -> Ticket {
        let ticket = Ticket::new();
        let job = Job { durability, work, ticket: ticket.clone() };
        if self.queue.send(Message::Job(job)).is_err() {
            ticket.settle(Err(JournalError::Poisoned("the journal is closed".into())));
        }
        ticket
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    pub(super) fn stop(&self) {
        let _ = self.queue.send(Message::Stop);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    db: Connection,
    jobs: Receiver<Message>,
    failure: Arc<Mutex<Option<String>>>,
    commits: Arc<AtomicU64>,
    /// Not yet committed, oldest first.
    backlog: VecDeque<Job>,
    /// The last commit found no room: what is in the backlog has been reported as failed once.
    full: bool,
    reserve: Arc<Reserve>,
}

impl Loop {
    fn run(mut self) {
        let mut stopping = false;
        while !stopping {
            match self.jobs.recv() {
                Ok(Message::Job(job)) => self.backlog.push_back(job),
                Ok(Message::Stop) | Err(_) => stopping = true,
            }
            while self.backlog.len() < GROUP_MAX {
                match self.jobs.try_recv() {
                    Ok(Message::Job(job)) => self.backlog.push_back(job),
                    Ok(Message::Stop) => stopping = true,
                    Err(_) => break,
                }
            }
            self.commit_backlog();
        }
        let _ = self.db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    fn commit_backlog(&mut self) {
        while !self.backlog.is_empty() {
            if let Some(why) = self.failure.lock().clone() {
                for job in self.backlog.drain(..) {
                    job.ticket.settle(Err(JournalError::Poisoned(why.clone())));
                }
                return;
            }
            let n = self.backlog.len().min(GROUP_MAX);
            match self.commit_first(n) {
                Ok(()) => {
                    self.full = false;
                    self.commits.fetch_add(1, Ordering::Release);
                    for job in self.backlog.drain(..n) {
                        job.ticket.settle(Ok(()));
                    }
                }
                Err(e) if is_full(&self.db, &e) && self.reserve.give() => {
                    log::warn!("the disk of the state directory is full; what needs room fails with ENOSPC until there is some");
                    // What the log holds may have its place in the database already. If not, there is no harm.
                    let _ = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
                }
                Err(e) if is_full(&self.db, &e) => {
                    if !self.full {
                        log::error!("the journal has no room; saves fail with ENOSPC until there is some: {e}");
                    }
                    self.full = true;
                    for job in &self.backlog {
                        job.ticket.settle(Err(JournalError::Full(e.to_string())));
                    }
                    return;
                }
                Err(e) => {
                    log::error!("the journal failed; no more writes are taken until the mount is restarted: {e}");
                    *self.failure.lock() = Some(e.to_string());
                }
            }
        }
    }

    fn commit_first(&mut self, n: usize) -> rusqlite::Result<()> {
        let power = self.backlog.iter().take(n).any(|j| j.durability == Durability::Power);
        if power {
            self.db.pragma_update(None, "synchronous", "full")?;
        }
        let done = (|| {
            let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for job in self.backlog.iter_mut().take(n) {
                (job.work)(&Tx { db: &tx })?;
            }
            if power {
                // A transaction without a change would not reach the log, and then nothing would be synced.
                tx.execute("INSERT OR REPLACE INTO meta(key, value) VALUES('synced_at', ?1)", [super::now_ms().to_string()])?;
            }
            tx.commit()
        })();
        if power {
            self.db.pragma_update(None, "synchronous", "normal")?;
        }
        done
    }
}

/// SQLite says SQLITE_FULL for a write without room, and an I/O error with the errno behind it where it extends its
/// shared-memory file.
fn is_full(db: &Connection, e: &rusqlite::Error) -> bool {
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => true,
        Some(ErrorCode::SystemIoFailure) => {
            // SAFETY: the handle belongs to the open connection that is borrowed here; the call only reads from it.
            let errno = unsafe { rusqlite::ffi::sqlite3_system_errno(db.handle()) };
            matches!(errno, libc::ENOSPC | libc::EDQUOT)
        }
        _ => false,
    }
}
