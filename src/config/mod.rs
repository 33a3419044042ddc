//! Flags, environment and file → one [`Config`].
//!
//! Flags win over the environment, the environment over the file, the file over the defaults. What comes out is typed and
//! complete: every path absolute, every number within its limits, and no secret in its `Debug`. Nothing here creates a file.

mod duration;
mod identity;
mod layer;
mod resolve;
mod secret;

use std::path::PathBuf;
use std::time::Duration;

pub use duration::{InvalidSpan, Span};
pub use identity::{Identity, IdentityFile};
pub use layer::{ENV, Layer, Lookup};
pub use resolve::{Flags, NO_MOUNTPOINT, load, resolve, states};
pub use secret::{Secret, TokenChoice};

use crate::path::RemotePath;

/// The workspace of the embedded server.
pub const EMBEDDED_WORKSPACE: &str = "default";

/// Everything that a mount needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Absolute; symbolic links of its parent resolved.
    pub mountpoint: PathBuf,
    pub remote: RemoteChoice,
    /// The directory of the remote that the mountpoint shows.
    pub remote_root: RemotePath,
    /// Absolute. Not created yet; [`crate::preflight::create_state_dir`] does that.
    pub state_dir: PathBuf,
    /// Where the background process logs: absolute, `<state dir>/mount.log` unless told otherwise.
    pub log_file: PathBuf,
    /// `--log-file` was given, so the foreground logs there too.
    pub log_file_given: bool,
    /// Deadline of one request to the remote.
    pub timeout: Duration,
    /// How long a path must stand still before it is uploaded.
    pub settle: Duration,
    /// Upload workers, 1 to 64.
    pub workers: usize,
    /// Responses that one operation may get before it is a dead letter, 1 to 1000.
    pub max_attempts: u32,
    /// How long an unmount waits for uploads.
    pub drain_timeout: Duration,
    /// Patterns (gitignore syntax) of paths that stay on this machine; each is valid.
    pub local_only: Vec<String>,
    pub allow_other: bool,
    pub allow_nonempty: bool,
    pub read_only: bool,
    /// Those who watch files with inotify are told of remote changes.
    pub wake_watchers: bool,
    /// Start although the remote does not answer.
    pub offline_ok: bool,
    pub foreground: bool,
    pub log_level: log::LevelFilter,
}

/// The remote that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteChoice {
    /// The server inside this process, workspace [`EMBEDDED_WORKSPACE`].
    Embedded {
        /// Absolute; not created yet.
        data_dir: PathBuf,
    },
    Http {
        /// `http://` or `https://`, a host, no trailing slash, no query, no user.
        base_url: String,
        workspace: String,
        token: TokenChoice,
    },
}

impl Config {
    pub fn workspace(&self) -> &str {
        match &self.remote {
            RemoteChoice::Embedded { .. } => EMBEDDED_WORKSPACE,
            RemoteChoice::Http { workspace, .. } => workspace,
        }
    }

    pub fn is_embedded(&self) -> bool {
        matches!(self.remote, RemoteChoice::Embedded { .. })
    }

    pub fn identity(&self) -> Identity {
        Identity::new(&self.remote, &self.remote_root)
    }
}
