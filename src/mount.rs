//! The life of one mount: lease, server, journal, tree, kernel, threads; and the way back.
//!
//! Start: the lease first, the kernel as soon as the tree is loaded, the threads that talk to the remote last, so that a
//! mount serves what it has before it asks anybody anything. Stop: the kernel first, so that no new work comes, then a
//! bounded drain, then the threads, the journal, the server, the lease. What is left in the queue stays in the journal.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::config::{Config, RemoteChoice};
use crate::engine::{Ended, Engine, EngineConfig};
use crate::fs;
use crate::preflight::{Code, Lease, Problem};
use crate::remote::{HttpConfig, HttpRemote, Remote, TokenSource};
use crate::server::{self, ServerConfig, ServerError, ServerHandle};

/// How often writers that never close are looked at, and how long they must have been quiet to be taken.
const QUIET_CHECK: Duration = Duration::from_secs(1);
const QUIET_MS: i64 = 2000;
/// How often what edits were based on is swept, and how old it must be.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How long the kernel may take to let go after a lazy unmount; a file still open then is cut off.
const KERNEL_GRACE: Duration = Duration::from_secs(2);

/// A running mount.
pub struct Mount {
    session: fs::Session,
    engine: Engine,
    server: Option<ServerHandle>,
    drain_timeout: Duration,
    stop: (Sender<()>, Receiver<()>),
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

impl Mount {
    /// Mounts and starts serving. The state directory exists; nothing is left behind on failure but what was there.
    pub fn start(config: &Config) -> Result<Mount, Problem> {
        let lease = Lease::acquire(&config.state_dir)?;
        let (server, remote) = connect(config)?;
        let parts = EngineConfig {
            state_dir: config.state_dir.clone(),
            identity: config.identity(),
            mountpoint: Some(config.mountpoint.clone()),
            embedded: server.is_some(),
            settle: config.settle,
            workers: config.workers,
            max_attempts: config.max_attempts,
            local_only: Some(config.local_only.clone()),
        };
        let mut engine = Engine::open(parts, remote.into(), lease)?;
        let mount_options = fs::MountOptions {
            mountpoint: config.mountpoint.clone(),
            source: format!("relayfile:{}", config.workspace()),
            allow_other: config.allow_other,
            read_only: config.read_only,
            wake_watchers: config.wake_watchers,
            threads: None,
        };
        let (workspace, board) = (Arc::clone(&engine.workspace), engine.board.clone());
        let session = fs::start_with_channel(workspace, board, mount_options, engine.changes()).map_err(mount_problem)?;
        engine.start().inspect_err(|_| {
            let _ = fs::unmount(&config.mountpoint, true);
        })?;
        Ok(Mount { session, engine, server, drain_timeout: config.drain_timeout, stop: bounded(1) })
    }

    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.0.clone())
    }

    /// Serves until stopped or unmounted from outside, then drains.
    pub fn wait(self) -> Ended {
        let ended = self.session.ended();
        let mut swept = Instant::now();
        loop {
            select! {
                recv(self.stop.1) -> _ => break,
                recv(ended) -> _ => break,
                default(QUIET_CHECK) => {
                    self.engine.workspace.commit_quiet_writers(QUIET_MS);
                    self.engine.workspace.look_at_token();
                    self.look_for_room();
                    self.session.ttl().set_followed(self.engine.is_followed());
                    if swept.elapsed() >= SWEEP_EVERY {
                        swept = Instant::now();
                        if let Err(e) = self.engine.workspace.sweep_bases(SWEEP_EVERY) {
                            log::warn!("what edits were based on cannot be swept: {e}");
                        }
                    }
                }
            }
        }
        let mut still_mounted = None;
        if !self.session.wait_timeout(Duration::ZERO)
            && let Err(e) = self.session.unmount(true)
        {
            log::error!("the mountpoint could not be detached: {e}");
            still_mounted = Some(e.to_string());
        }
        // Programs that still have files open finish their writes within the grace.
        let deadline = Instant::now() + KERNEL_GRACE;
        self.session.wait_timeout(deadline.saturating_duration_since(Instant::now()));
        Ended { still_mounted, ..self.finish() }
    }

    /// On a full disk: gives free what only might be needed, and ends the refusals when there is room again.
    fn look_for_room(&self) {
        let workspace = &self.engine.workspace;
        if workspace.journal().is_short_of_room() {
            if let Err(e) = workspace.sweep_bases(Duration::ZERO) {
                log::debug!("what edits were based on cannot be swept: {e}");
            }
            workspace.journal().look_for_room();
        }
    }

    fn finish(self) -> Ended {
        self.engine.drain(self.drain_timeout);
        let (ended, lease) = self.engine.finish();
        if let Some(server) = self.server {
            server.shutdown();
        }
        drop(lease);
        ended
    }
}

/// The remote of a configuration; for the embedded one, the server is started, or joined when another mount runs it.
pub fn connect(config: &Config) -> Result<(Option<ServerHandle>, Box<dyn Remote>), Problem> {
    let (server, base_url, token) = match &config.remote {
        RemoteChoice::Embedded { data_dir } => {
            let (server, url, token) = embedded(data_dir)?;
            (server, url, TokenSource::Literal(token))
        }
        RemoteChoice::Http { base_url, token, .. } => (None, base_url.clone(), token.source()),
    };
    Ok((server, Box::new(http_remote(config, &base_url, token)?)))
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
