//! How the mount stands: one value, collected once, shown as text, as JSON and (later) as metrics.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::changes::Changes;
use crate::ids::OpId;
use crate::journal::{DeliveryNumbers, Discarded, Retried};
use crate::workspace::FsResult;

/// How the mount hears of remote changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Feed {
    /// Not connected yet.
    Starting,
    /// Events come as they happen.
    Streaming,
    /// The event feed is polled.
    Polling,
    /// The tree is listed again every now and then, because the token may read neither feed nor stream.
    Listing,
    /// The last request got no answer.
    Offline,
    /// The remote refuses the token.
    Unauthorized,
}

impl Feed {
    /// Changes of the remote are heard of, soon enough that the kernel may trust what it was told.
    pub fn is_followed(self) -> bool {
        matches!(self, Feed::Streaming | Feed::Polling)
    }
}

/// How the mount listens to the remote's event stream. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Listener {
    /// Why there is no stream, while there is none.
    pub why_not: Option<String>,
    pub last_connected_at: Option<String>,
    pub last_attempt_at: Option<String>,
    pub next_attempt_at: Option<String>,
}

/// The state of the whole mount. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub workspace_id: String,
    pub base_url: String,
    pub remote_root: String,
    pub local_root: String,
    pub state_dir: String,
    pub pid: u32,
    pub version: &'static str,
    pub started_at: String,
    pub embedded_server: bool,
    pub feed: Feed,
    pub listener: Listener,
    pub last_event_at: Option<String>,
    pub last_sync_at: Option<String>,
    /// False while the tree is still being learned.
    pub tree_known: bool,
    pub files_known: u64,
    /// Operations that wait for their first or next attempt, without those in flight.
    pub pending: u64,
    pub in_flight: u64,
    pub dead: u64,
    /// Of the dead, those that met another version at the remote.
    pub conflicts: u64,
    /// What has become, behind the remote, of what it has accepted.
    pub delivery: DeliveryNumbers,
    /// Bytes not yet at the remote.
    pub pending_bytes: u64,
    /// Lifetime count of failed attempts.
    pub failed_writebacks: u64,
    pub oldest_pending_at: Option<String>,
    pub last_error: Option<LastError>,
    /// The first dead letters, at most [`LETTERS_SHOWN`], newest first.
    pub letters: Vec<LastError>,
    /// The most recent refusal of each provider.
    pub provider_errors: Vec<(String, LastError)>,
    /// What the token does not allow here, by its own scopes; `None` when it allows everything.
    pub limits: Option<String>,
    /// No file here may be written.
    pub read_only: bool,
    /// Why the remote refuses the token, while it does.
    pub token_refused: Option<String>,
    /// The disk of the state directory is full.
    pub short_of_room: bool,
    /// Set when the journal can take no more writes: what failed.
    pub store_failure: Option<String>,
    /// Remote names that cannot be shown.
    pub hidden_names: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct LastError {
    pub op_id: String,
    /// `put` or `delete`; empty where that is not known.
    pub kind: &'static str,
    pub path: String,
    pub status: Option<u16>,
    pub code: String,
    pub message: String,
    pub at: String,
}

/// One operation as people and programs see it.
#[derive(Debug, Clone, Serialize)]
pub struct OperationView {
    pub op_id: String,
    /// `put` or `delete`.
    pub kind: String,
    pub path: String,
    /// `queued`, `in_flight`, `waiting`, `dead`, …
    pub state: String,
    pub base_revision: Option<String>,
    pub attempts: u32,
    pub size: Option<u64>,
    pub created_at: String,
    pub updated_at: String,
    pub next_attempt_at: Option<String>,
    pub last_status: Option<u16>,
    pub last_code: Option<String>,
    pub last_error: Option<String>,
    /// Why it is not done yet, in one sentence.
    pub why: String,
}

/// Dead letters that status names one by one.
pub const LETTERS_SHOWN: usize = 5;

/// The files of one dead letter.
#[derive(Debug, Clone)]
pub struct LetterView {
    pub record: Vec<u8>,
    pub sidecar: Vec<u8>,
    /// Where its content is; there may be none (a delete).
    pub payload: Option<PathBuf>,
    /// Milliseconds since the epoch.
    pub changed_at: i64,
}

/// Where `.relay` and the control socket get their answers from. Never blocks on the network.
pub trait StatusSource: Send + Sync {
    fn status(&self) -> Status;
    /// Operations that are queued, in flight or waiting, oldest first, at most 10 000.
    fn pending(&self) -> Vec<OperationView>;
    fn pending_one(&self, op_id: &OpId) -> Option<OperationView>;
    /// Every dead letter, oldest first. EIO when the journal cannot be read: no letters is another answer.
    fn letters(&self) -> FsResult<Vec<OpId>>;
    fn letter(&self, op_id: &OpId) -> Option<LetterView>;
    /// The conflicts whose sides were set aside, oldest first.
    fn conflicts(&self) -> Vec<OpId>;
    /// Where the files `base`, `local` and `remote` of a conflict are, as far as there are such.
    fn conflict(&self, op_id: &OpId) -> Option<PathBuf>;
}

/// What a person may do with operations, from wherever it is asked.
pub trait Operator: StatusSource {
    fn retry(&self, op_id: &OpId, force: bool) -> FsResult<Retried>;
    fn discard(&self, op_id: &OpId) -> FsResult<Discarded>;
    /// Everything that waits for its settle window is due now. Returns how many operations are open.
    fn flush(&self) -> FsResult<u64>;
    /// Where what changes is told.
    fn changes(&self) -> Arc<Changes>;
}
