//! The life of one mount: lease, server, journal, tree, kernel, threads; and the way back.
//!
//! Start: the lease first, the kernel as soon as the tree is loaded, the threads that talk to the remote last, so that a
//! mount serves what it has before it asks anybody anything. Stop: the kernel first, so that no new work comes, then a
//! bounded drain, then the threads, the journal, the server, the lease. What is left in the queue stays in the journal.

mod board;
mod projection;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};

use crate::config::{Config, Identity, RemoteChoice};
use crate::events::Follower;
use crate::fs;
use crate::journal::Journal;
use crate::preflight::{Code, Lease, Problem};
use crate::remote::{HttpConfig, HttpRemote, Remote, TokenSource};
use crate::server::{self, ServerConfig, ServerError, ServerHandle};
use crate::status::Feed;
use crate::workspace::{Options, Workspace};
use crate::writeback::{Gate, Settings, Writeback};

use board::Board;
use projection::Projection;

/// How often writers that never close are looked at, and how long they must have been quiet to be taken.
const QUIET_CHECK: Duration = Duration::from_secs(1);
const QUIET_MS: i64 = 2000;
/// How long a request under way may keep the end waiting, after the drain.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// How long the kernel may take to let go after a lazy unmount; a file still open then is cut off.
const KERNEL_GRACE: Duration = Duration::from_secs(2);

/// A running mount.
pub struct Mount {
    session: fs::Session,
    workspace: Arc<Workspace>,
    writeback: Arc<Writeback>,
    follower: Arc<Follower>,
    projection: Projection,
    server: Option<ServerHandle>,
    drain_timeout: Duration,
    stop: (Sender<()>, Receiver<()>),
    // The last to go.
    _lease: Lease,
}

/// Ends a mount from anywhere.
#[derive(Clone)]
pub struct Stopper(Sender<()>);

impl Stopper {
    /// Returns at once; asking twice does nothing more.
    pub fn stop(&self) {
        let _ = self.0.try_send(());
    }
}

/// How a mount ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Saves that have not reached the remote; the next start takes them up.
    pub pending: u64,
    /// Dead letters.
    pub dead: u64,
}

impl Mount {
    /// Mounts and starts serving. The state directory exists; nothing is left behind on failure but what was there.
    pub fn start(config: &Config) -> Result<Mount, Problem> {
        let lease = Lease::acquire(&config.state_dir)?;
        let (server, remote) = connect(config)?;
        let journal = Journal::open(&config.state_dir).map_err(state_problem)?;
        write_identity(config).map_err(|e| {
            Problem::new(Code::StateDirUnwritable, format!("cannot write identity.json: {e}"), "free some space and start again")
        })?;
        // SAFETY: geteuid and getegid have no preconditions and cannot fail.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let changes = unbounded();
        let wake = bounded(1);
        let options = Options { uid, gid, settle: config.settle };
        let loaded =
            Workspace::load(&config.state_dir, journal.clone(), Arc::clone(&remote), options, changes.0.clone(), wake.0.clone());
        let workspace = Arc::new(loaded.map_err(state_problem)?);
        let board = Arc::new(Board::new(config, Arc::clone(&workspace), server.is_some()));
        let mount_options = fs::MountOptions {
            mountpoint: config.mountpoint.clone(),
            source: format!("relayfile:{}", config.workspace()),
            allow_other: config.allow_other,
            read_only: config.read_only,
            threads: None,
        };
        let session =
            fs::start_with_channel(Arc::clone(&workspace), board.clone(), mount_options, changes).map_err(mount_problem)?;

        let threads = |e: std::io::Error| {
            let _ = fs::unmount(&config.mountpoint, true);
            Problem::new(Code::Internal, format!("cannot start a thread: {e}"), "raise the limit of processes: ulimit -u")
        };
        let gate = Arc::new(Gate::new(wake.0.clone()));
        let settings = Settings { workers: config.workers, max_attempts: config.max_attempts };
        let writeback =
            Writeback::start(&settings, journal.clone(), workspace.clone(), Arc::clone(&remote), wake, Arc::clone(&gate))
                .map_err(threads)?;
        let follower = Follower::start(Arc::clone(&workspace), remote, gate).map_err(threads)?;
        let (writeback, follower) = (Arc::new(writeback), Arc::new(follower));
        board.attach(Arc::clone(&writeback), Arc::clone(&follower));
        let projection = Projection::start(&config.state_dir, journal, board).map_err(threads)?;
        Ok(Mount {
            session,
            workspace,
            writeback,
            follower,
            projection,
            server,
            drain_timeout: config.drain_timeout,
            stop: bounded(1),
            _lease: lease,
        })
    }

    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.0.clone())
    }

    /// Serves until stopped or unmounted from outside, then drains.
    pub fn wait(self) -> Ended {
        let ended = self.session.ended();
        loop {
            select! {
                recv(self.stop.1) -> _ => break,
                recv(ended) -> _ => break,
                default(QUIET_CHECK) => {
                    self.workspace.commit_quiet_writers(QUIET_MS);
                    self.session.ttl().set_followed(self.follower.state().feed == Feed::Polling);
                }
            }
        }
        if !self.session.wait_timeout(Duration::ZERO)
            && let Err(e) = self.session.unmount(true)
        {
            log::warn!("the mountpoint could not be detached: {e}");
        }
        // Programs that still have files open finish their writes within the grace.
        let deadline = Instant::now() + KERNEL_GRACE;
        self.session.wait_timeout(deadline.saturating_duration_since(Instant::now()));
        self.finish()
    }

    fn finish(self) -> Ended {
        let numbers = || self.workspace.journal().queue_numbers().unwrap_or_default();
        let before = numbers();
        if before.pending + before.in_flight > 0 {
            log::info!("uploading what is left: {} operations", before.pending + before.in_flight);
            self.follower.poke();
            if let Err(e) = self.writeback.drain(self.drain_timeout) {
                log::error!("the queue could not be drained: {e}");
            }
        }
        self.writeback.stop(STOP_GRACE);
        self.follower.stop(STOP_GRACE);
        let left = numbers();
        self.projection.stop();
        self.workspace.close();
        if let Some(server) = self.server {
            server.shutdown();
        }
        Ended { pending: left.pending + left.in_flight, dead: left.dead }
    }
}

/// The remote of a configuration; for the embedded one, the server is started, or joined when another mount runs it.
fn connect(config: &Config) -> Result<(Option<ServerHandle>, Arc<dyn Remote>), Problem> {
    let (server, base_url, token) = match &config.remote {
        RemoteChoice::Embedded { data_dir } => {
            let (server, url, token) = embedded(data_dir)?;
            (server, url, TokenSource::Literal(token))
        }
        RemoteChoice::Http { base_url, token, .. } => (None, base_url.clone(), token.source()),
    };
    Ok((server, Arc::new(http_remote(config, &base_url, token)?)))
}

/// The client for the workspace of a configuration. Nothing is sent yet.
pub fn http_remote(config: &Config, base_url: &str, token: TokenSource) -> Result<HttpRemote, Problem> {
    let http = HttpConfig {
        timeout: config.timeout,
        ..HttpConfig::new(base_url, config.workspace(), config.remote_root.clone(), token)
    };
    HttpRemote::new(http)
        // Without the URL: it may hold the password for which it is refused.
        .map_err(|e| {
            Problem::new(Code::BaseUrlInvalid, format!("the remote cannot be used: {e}"), "check --base-url and --workspace")
        })
}

fn embedded(data_dir: &Path) -> Result<(Option<ServerHandle>, String, String), Problem> {
    let failed = |what: String| {
        Problem::new(Code::ServerFailed, what, format!("check the directory: ls -la {}", crate::preflight::shell_word(data_dir)))
    };
    match server::start(ServerConfig::new(data_dir)) {
        Ok(server) => {
            let (url, token) = (server.url().to_owned(), server.token().to_owned());
            Ok((Some(server), url, token))
        }
        Err(ServerError::InUse { url }) => {
            let token = std::fs::read_to_string(data_dir.join("token"))
                .map_err(|e| failed(format!("the embedded server at {url} runs, but its token cannot be read: {e}")))?;
            log::info!("joining the embedded server that already runs at {url}");
            Ok((None, url, token.trim().to_owned()))
        }
        Err(e) => Err(failed(format!("the embedded server cannot start: {e}"))),
    }
}

fn write_identity(config: &Config) -> std::io::Result<()> {
    let Identity { workspace, base_url, remote_root } = config.identity();
    let json = serde_json::json!({
        "workspaceId": workspace,
        "baseUrl": base_url,
        "remoteRoot": remote_root,
        "mountpoint": config.mountpoint.display().to_string(),
    });
    projection::replace(&config.state_dir, "identity.json", format!("{json:#}\n").as_bytes())
}

fn state_problem(e: impl std::fmt::Display) -> Problem {
    Problem::new(Code::StateDirUnwritable, e.to_string(), "see docs/TROUBLESHOOTING.md, or choose another with --state-dir DIR")
}

fn mount_problem(e: fs::MountError) -> Problem {
    let code = match &e {
        fs::MountError::DeadEndpoint(_) => Code::MountpointDead,
        fs::MountError::Busy(_) => Code::MountpointBusy,
        fs::MountError::FusermountNotFound => Code::FusermountNotFound,
        fs::MountError::AllowOtherRefused => Code::AllowOtherForbidden,
        _ => Code::MountFailed,
    };
    Problem::new(code, e.to_string(), e.remedy())
}
