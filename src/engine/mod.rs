//! Everything of a mount but the kernel: lease, journal, tree, writeback, follower, projections, control socket.
//!
//! A mount is an engine with a FUSE session on top; `relayfile writeback drain` is an engine without one, and `retry` and
//! `discard` on a state directory that nobody has mounted open one that never talks to the remote.

mod board;
mod projection;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use crate::config::{Identity, IdentityFile};
use crate::control::Control;
use crate::deadletter::{self, Shelf, replace};
use crate::delivery::DeliveryFollower;
use crate::events::Follower;
use crate::journal::{Journal, QueueNumbers};
use crate::preflight::{Code, Lease, Problem, shell_word};
use crate::remote::Remote;
use crate::workspace::{Invalidation, Options, Workspace};
use crate::writeback::{Gate, Settings, Writeback};

pub use board::Board;
use projection::Projection;

/// How long a request under way may keep the end waiting, after the drain.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// What an engine is made of.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// It exists, and the caller holds its lease.
    pub state_dir: PathBuf,
    pub identity: Identity,
    /// `None` when nothing is mounted.
    pub mountpoint: Option<PathBuf>,
    /// The remote is the server in this process.
    pub embedded: bool,
    /// How long a path must stand still before it is uploaded.
    pub settle: Duration,
    pub workers: usize,
    pub max_attempts: u32,
    /// Patterns of paths that stay on this machine; `None`: those of the last run.
    pub local_only: Option<Vec<String>>,
}

/// How an engine ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Why nobody knows what is left: the journal cannot be read.
    pub unknown: Option<String>,
    /// Saves that have not reached the remote; the next start takes them up.
    pub pending: u64,
    /// Dead letters.
    pub dead: u64,
    /// Why the mountpoint could not be detached: a dead endpoint is left there.
    pub still_mounted: Option<String>,
}

/// See the module.
pub struct Engine {
    pub workspace: Arc<Workspace>,
    pub board: Arc<Board>,
    journal: Journal,
    remote: Arc<dyn Remote>,
    config: EngineConfig,
    wake: (Sender<()>, Receiver<()>),
    changes: (Sender<Invalidation>, Receiver<Invalidation>),
    threads: Option<Threads>,
    lease: Lease,
}

struct Threads {
    writeback: Arc<Writeback>,
    follower: Arc<Follower>,
    deliveries: DeliveryFollower,
    projection: Projection,
    control: Control,
}

impl Engine {
    /// Opens journal and tree, takes over what older tools left, and makes good what the last run left half done. Nothing is
    /// sent.
    pub fn open(config: EngineConfig, remote: Arc<dyn Remote>, lease: Lease) -> Result<Engine, Problem> {
        check_identity(&config)?;
        let journal = Journal::open(&config.state_dir).map_err(state_problem)?;
        // Half an identity (an older tool's directory) is none: the mount that comes with the whole one writes it down.
        if !config.identity.base_url.is_empty() {
            let file = IdentityFile::new(config.identity.clone(), config.mountpoint.as_deref());
            write_identity(&config, file)?;
        }
        take_over(&config, &journal)?;
        // SAFETY: geteuid and getegid have no preconditions and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let changes = unbounded();
        let wake = bounded(1);
        let options = Options { uid, gid, settle: config.settle, local_only: config.local_only.clone() };
        let loaded =
            Workspace::load(&config.state_dir, journal.clone(), Arc::clone(&remote), options, changes.0.clone(), wake.0.clone());
        let workspace = Arc::new(loaded.map_err(state_problem)?);
        let board = Arc::new(Board::new(&config, Arc::clone(&workspace)));
        Ok(Engine { workspace, board, journal, remote, config, wake, changes, threads: None, lease })
    }

    /// The changes that the kernel must be told of.
    pub fn changes(&self) -> (Sender<Invalidation>, Receiver<Invalidation>) {
        self.changes.clone()
    }

    /// Starts the threads that follow the remote, send, and answer.
    pub fn start(&mut self) -> Result<(), Problem> {
        let failed = |e: std::io::Error| {
            Problem::new(Code::Internal, format!("cannot start a thread: {e}"), "raise the limit of processes: ulimit -u")
        };
        let gate = Arc::new(Gate::new(self.wake.0.clone()));
        let settings = Settings { workers: self.config.workers, max_attempts: self.config.max_attempts };
        let (journal, remote) = (self.journal.clone(), Arc::clone(&self.remote));
        let writeback =
            Writeback::start(&settings, journal, self.workspace.clone(), remote, self.wake.clone(), Arc::clone(&gate))
                .map_err(failed)?;
        let follower =
            Follower::start(Arc::clone(&self.workspace), Arc::clone(&self.remote), Arc::clone(&gate)).map_err(failed)?;
        let (writeback, follower) = (Arc::new(writeback), Arc::new(follower));
        let deliveries = DeliveryFollower::start(self.journal.clone(), Arc::clone(&self.remote), Arc::clone(&writeback), gate)
            .map_err(failed)?;
        self.board.attach(Arc::clone(&writeback), Arc::clone(&follower));
        let shelf = self.shelf();
        let projection =
            Projection::start(&self.config.state_dir, self.journal.clone(), self.board.clone(), shelf).map_err(failed)?;
        let control = Control::start(&self.config.state_dir, self.board.clone()).map_err(|e| {
            Problem::new(
                Code::StateDirUnwritable,
                format!("cannot make control.sock in {}: {e}", self.config.state_dir.display()),
                format!("ls -la {}", shell_word(&self.config.state_dir)),
            )
        })?;
        self.threads = Some(Threads { writeback, follower, deliveries, projection, control });
        Ok(())
    }

    fn shelf(&self) -> Shelf {
        Shelf::new(&self.config.state_dir, self.config.identity.clone())
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Follows the remote and sends until nothing is left, the remote is found not to answer, or `limit` is over.
    pub fn drain(&self, limit: Duration) {
        let Some(threads) = &self.threads else { return };
        let numbers = self.numbers();
        if numbers.pending + numbers.in_flight == 0 {
            return;
        }
        log::info!("uploading what is left: {} operations", numbers.pending + numbers.in_flight);
        threads.follower.poke();
        if let Err(e) = threads.writeback.drain(limit) {
            log::error!("the queue could not be drained: {e}");
        }
    }

    /// How the uploads of a start that is still to come are made.
    pub fn send_with(&mut self, workers: usize, max_attempts: u32) {
        (self.config.workers, self.config.max_attempts) = (workers, max_attempts);
    }

    pub fn is_followed(&self) -> bool {
        self.threads.as_ref().is_some_and(|t| t.follower.state().feed.is_followed())
    }

    fn numbers(&self) -> QueueNumbers {
        self.journal.queue_numbers().unwrap_or_default()
    }

    /// Ends the threads and writes the last projections. The lease is given back to the caller, who may have something else
    /// to end before the next process may have the state directory.
    pub fn finish(mut self) -> (Ended, Lease) {
        let mut last = None;
        if let Some(threads) = self.threads.take() {
            threads.control.stop();
            threads.writeback.stop(STOP_GRACE);
            threads.follower.stop(STOP_GRACE);
            threads.deliveries.stop(STOP_GRACE);
            last = Some(threads.projection);
        }
        let (left, unknown) = match self.journal.queue_numbers() {
            Ok(left) => (left, None),
            Err(e) => (QueueNumbers::default(), Some(e.to_string())),
        };
        match last {
            Some(projection) => projection.stop(),
            None => projection::write_once(&self.config.state_dir, &self.journal, &*self.board, &mut self.shelf()),
        }
        self.workspace.close();
        (Ended { unknown, pending: left.pending + left.in_flight, dead: left.dead, still_mounted: None }, self.lease)
    }
}

/// A journal belongs to one workspace at one base URL: what is queued in it must not go anywhere else.
fn check_identity(config: &EngineConfig) -> Result<(), Problem> {
    let dir = config.state_dir.display();
    let there = IdentityFile::read(&config.state_dir).map_err(|e| {
        Problem::new(
            Code::StateDirUnusable,
            format!("cannot read {dir}/{}: {e}", IdentityFile::NAME),
            format!("look at it: cat {}", shell_word(&config.state_dir.join(IdentityFile::NAME))),
        )
    })?;
    match there.map(|t| t.identity()) {
        Some(theirs) if theirs != config.identity => Err(Problem::new(
            Code::StateDirOtherIdentity,
            format!(
                "{dir} holds the state of workspace {} at {} ({}), not of {} at {} ({})",
                theirs.workspace,
                theirs.base_url,
                theirs.remote_root,
                config.identity.workspace,
                config.identity.base_url,
                config.identity.remote_root
            ),
            "choose another with --state-dir DIR, or leave --state-dir out",
        )),
        _ => Ok(()),
    }
}

fn write_identity(config: &EngineConfig, mut file: IdentityFile) -> Result<(), Problem> {
    if file.mountpoint.is_none() {
        // Whoever works without a mount does not forget where it was.
        file.mountpoint = IdentityFile::read(&config.state_dir).ok().flatten().and_then(|f| f.mountpoint);
    }
    let json = serde_json::to_string_pretty(&file).unwrap_or_default();
    replace(&config.state_dir, IdentityFile::NAME, format!("{json}\n").as_bytes()).map_err(|e| {
        Problem::new(
            Code::StateDirUnwritable,
            format!("cannot write {}: {e}", IdentityFile::NAME),
            "free some space and start again",
        )
    })
}

/// Letters and counters of older tools: in the state directory itself, and in the `.relay/` of a mirror at the mountpoint.
fn take_over(config: &EngineConfig, journal: &Journal) -> Result<(), Problem> {
    let mut places = vec![config.state_dir.clone()];
    if let Some(mountpoint) = &config.mountpoint {
        let mirror = mountpoint.join(".relay");
        if !crate::fs::mounted_at(mountpoint).is_ok_and(|m| m.is_some()) && mirror.is_dir() {
            places.push(mirror);
        }
    }
    for from in places {
        let done = deadletter::import(&from, &config.state_dir, journal, &config.identity).map_err(state_problem)?;
        if done.letters > 0 {
            log::info!("took over {} dead letters of {}", done.letters, from.display());
        }
    }
    Ok(())
}

fn state_problem(e: impl std::fmt::Display) -> Problem {
    Problem::new(Code::StateDirUnwritable, e.to_string(), "see docs/TROUBLESHOOTING.md, or choose another with --state-dir DIR")
}
