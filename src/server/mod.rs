//! The embedded relayfile server: the relayfile HTTP API over one SQLite file.
//!
//! It is what a mount without a remote runs on, what `relayfile serve` runs, and what the tests run against; the SDKs and
//! mounts of the ecosystem work on it unchanged. It promises that what it acknowledges is on disk, and that each event
//! reaches each subscriber once and in order, or the subscriber is told to reconnect.
//!
//! ```text
//! socket ─ listener ─ dispatch ─┬─ files  bulk  listing  export  merge  events  ops  sync   one answer each
//!            (faults, counters, │                    │
//!             auth, acl)        ├─ ws  ◄──── hub ◄───┤ committed events
//!                               └─ admin             ▼
//!                                                  store    all SQL; one writer thread, group commit
//! ```
//!
//! | module | owns |
//! |---|---|
//! | `dispatch` | routes and the order of checks |
//! | `auth`, `acl` | tokens and scopes; access rules in files |
//! | `files`, `bulk`, `merge` | writes and point reads |
//! | `listing`, `export`, `events`, `ops`, `sync` | lists |
//! | `ws`, `hub` | the live event stream |
//! | `store` | the database |
//! | `faults`, `counters`, `admin`, `listener` | what tests and operators see and break |
//! | `datadir` | lock, token, address |
//! | `body`, `query`, `paths`, `reply` | reading requests and writing answers as this API does |

mod acl;
mod admin;
mod auth;
mod body;
mod bulk;
mod counters;
mod datadir;
mod dispatch;
mod events;
mod export;
mod faults;
mod files;
mod hub;
mod listener;
mod listing;
mod merge;
mod ops;
mod paths;
mod query;
mod reply;
mod store;
mod sync;
mod ws;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use store::StoreError;

/// Threads that serve requests.
const WORKERS: usize = 2;
/// Threads for work that blocks, such as exports.
const BLOCKING: usize = 8;
/// How long requests may finish when the server stops.
const GRACE: Duration = Duration::from_secs(3);

/// How a server runs.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where it keeps everything; created (0700) if need be.
    pub data_dir: PathBuf,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Serves `/v1/admin/faults`. For tests.
    pub allow_faults: bool,
    /// Largest request body, in bytes.
    pub body_limit: u64,
    /// Requests in one second, for each workspace and agent; `None` is no limit.
    pub rate_limit: Option<u32>,
    /// What JWTs are signed with (HS256); `None` uses the data directory's own secret.
    pub jwt_secret: Option<String>,
    /// Whether a request without `X-Correlation-Id` is refused, as deployed servers do.
    pub require_correlation_id: bool,
}

impl ServerConfig {
    /// The defaults: a free loopback port, bodies of at most 1 MiB, no rate limit, no faults.
    pub fn new(data_dir: impl Into<PathBuf>) -> ServerConfig {
        ServerConfig {
            data_dir: data_dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            allow_faults: false,
            body_limit: 1_048_576,
            rate_limit: None,
            jwt_secret: None,
            require_correlation_id: true,
        }
    }
}

/// Why a server did not start or stopped badly.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another process serves this directory; it can be used at `url` with the token in the directory.
    #[error("the data directory is in use by a server at {url}")]
    InUse { url: String },
    /// Another process holds the directory and has not said where it listens.
    #[error("the data directory {} is in use by a server that has not started or is stopping: try again", dir.display())]
    Locked { dir: PathBuf },
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("the server's database {}: {source}", path.display())]
    Database { path: PathBuf, source: StoreError },
    #[error("cannot start the server's threads: {0}")]
    Runtime(io::Error),
}

/// A running server. Dropping it stops it as [`ServerHandle::shutdown`] does.
pub struct ServerHandle {
    app: Arc<dispatch::App>,
    stop: watch::Sender<bool>,
    serving: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
    url: String,
    token: String,
    data_dir: PathBuf,
    /// Dropped last: gives the directory to the next server.
    _dir: datadir::DataDir,
}

/// Starts a server on its own threads and returns when it listens. Not to be called from async code.
///
/// # Errors
/// [`ServerError::InUse`] if another process serves the directory; the others name the file or address that failed.
pub fn start(config: ServerConfig) -> Result<ServerHandle, ServerError> {
    // The address first: a server that cannot listen makes no directory. Whoever serves an old one already is said before that.
    let failed = |source| ServerError::Listen { addr: config.listen, source };
    let socket = std::net::TcpListener::bind(config.listen).map_err(failed);
    if !datadir::was_used(&config.data_dir)
        && let Err(e) = socket
    {
        return Err(e);
    }
    let dir = datadir::DataDir::lock(&config.data_dir)?;
    let socket = socket?;
    let token = dir.secret("token", "rf_")?;
    let own_secret = dir.secret("jwt-secret", "")?;
    let jwt_secret = config.jwt_secret.unwrap_or(own_secret);
    let hub = Arc::new(hub::Hub::default());
    let database = dir.database();
    let store = store::Store::open(&database, hub.clone()).map_err(|source| ServerError::Database { path: database, source })?;

    socket.set_nonblocking(true).map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_name("relayfile-srv")
        .enable_all()
        .build()
        .map_err(ServerError::Runtime)?;
    let (stop, stopping) = watch::channel(false);
    let app = Arc::new(dispatch::App {
        store: Arc::new(store),
        hub,
        verifier: auth::Verifier::new(token.clone(), &jwt_secret),
        counters: counters::Counters::default(),
        faults: config.allow_faults.then(faults::Faults::default),
        limiter: config.rate_limit.map(dispatch::Limiter::new),
        body_limit: config.body_limit,
        require_correlation_id: config.require_correlation_id,
        stopping: stopping.clone(),
    });
    let listener = {
        let _context = runtime.enter();
        listener::Listener::new(tokio::net::TcpListener::from_std(socket).map_err(failed)?)
    };
    let router = Router::new().fallback(dispatch::handle).with_state(app.clone());
    let service = router.into_make_service_with_connect_info::<listener::Switch>();
    let mut stopped = stopping;
    let serving = runtime.spawn(async move {
        let until = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Err(e) = axum::serve(listener, service).with_graceful_shutdown(until).await {
            log::error!("embedded server: {e}");
        }
    });

    let url = format!("http://{address}");
    dir.publish_url(&url)?;
    Ok(ServerHandle {
        app,
        stop,
        serving: Some(serving),
        runtime: Some(runtime),
        url,
        token,
        data_dir: config.data_dir,
        _dir: dir,
    })
}

impl ServerHandle {
    /// The base URL, `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The bearer token that may do everything.
    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Requests since the start or the last reset, by method and route: `"PUT /fs/file"`.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.app.counters.snapshot()
    }

    /// Sets all request counts to nothing.
    pub fn reset_requests(&self) {
        self.app.counters.reset();
    }

    /// Stops: no new connections, running requests get 3 seconds, streams are closed with 1001, the database is closed.
    /// Returns when all of that is done.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(runtime) = self.runtime.take() {
            if let Some(serving) = self.serving.take() {
                let _ = runtime.block_on(async { tokio::time::timeout(GRACE, serving).await });
            }
            self.app.store.close();
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a server in the foreground until SIGINT or SIGTERM, saying on standard output how to use it.
///
/// # Errors
/// Those of [`start`].
pub fn serve_until_signal(config: ServerConfig) -> Result<(), ServerError> {
    use tokio::signal::unix::{SignalKind, signal};

    let server = start(config)?;
    let dir = server.data_dir().display();
    println!("listening on {}", server.url());
    println!("token: {dir}/token");
    println!("data:  {dir}");
    println!("try:   curl -H \"Authorization: Bearer $(cat {dir}/token)\" -H 'X-Correlation-Id: try-curl' \\");
    println!("         '{}/v1/workspaces/demo/fs/tree?path=/'", server.url());
    let Some(runtime) = &server.runtime else { return Ok(()) };
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServerError::Runtime)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(ServerError::Runtime)?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })?;
    server.shutdown();
    Ok(())
}
