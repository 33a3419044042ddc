//! The remote: a tree of files behind the relayfile HTTP API.
//!
//! [`Remote`] is all that the rest of the mount knows of it. Nothing outside this module knows a JSON field name, a header
//! or a status code; nothing inside it knows an inode, the journal or FUSE. Every call blocks its thread for at most the
//! deadline that the implementation was built with, and is therefore made from workers only, never from a FUSE handler.

#[cfg(test)]
mod canned;
mod error;
#[cfg(test)]
pub(crate) mod fake;
mod http;
mod late;
mod live;
mod reply;
mod token;
mod wire;

pub use error::{ErrorKind, FOREIGN, Outcome, RemoteError, classify};
pub use http::{HttpConfig, HttpConfigError, HttpRemote, replay_url};
pub use late::LateRemote;
pub use live::Subscription;
pub use token::{Credentials, Token, TokenError, TokenSource};
use wire::bulk_weight;
pub use wire::usable_op;

use std::sync::Arc;

use crate::access::Access;
use crate::ids::{ContentHash, OpId, Revision};
use crate::path::RemotePath;

/// One file of a listing. What the remote did not say is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    pub path: RemotePath,
    pub revision: Revision,
    pub hash: Option<ContentHash>,
    /// Length in bytes of the *stored* string: for base64 content the encoded length, see [`SizeHint`].
    pub stored_size: u64,
    /// Milliseconds since the epoch; `None` when absent or unreadable.
    pub edited_at_ms: Option<i64>,
}

/// What a stored length says about the decoded length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeHint {
    /// The stored length is the true size: empty, or it cannot be padded base64 because it is no multiple of four.
    Exact(u64),
    /// Could be text of this length or base64 of about three quarters of it: only the content tells.
    Ambiguous(u64),
}

impl ListedFile {
    /// Standard base64 with padding always has a length divisible by four (RFC 4648 §4).
    pub fn size_hint(&self) -> SizeHint {
        match self.stored_size {
            n if n == 0 || n % 4 != 0 => SizeHint::Exact(n),
            n => SizeHint::Ambiguous(n),
        }
    }
}

/// A page of `fs/tree`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreePage {
    pub files: Vec<ListedFile>,
    /// Directories of this page (they have no attributes at the remote).
    pub dirs: Vec<RemotePath>,
    /// Entries whose path cannot be shown, with the reason; for the log, once each.
    pub hidden: Vec<(String, crate::path::InvalidPath)>,
    pub next_cursor: Option<String>,
}

/// How deep a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The direct children only.
    Children,
    /// Down to [`TREE_DEPTH`] levels; what is deeper shows as a directory at that level.
    All,
}

/// The deepest listing that a relayfile server answers.
pub const TREE_DEPTH: usize = 100;

/// A whole file with its decoded, hash-checked bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    pub path: RemotePath,
    pub revision: Revision,
    /// Of `bytes`; verified against what the remote said when it said something.
    pub hash: ContentHash,
    pub content_type: String,
    pub bytes: Vec<u8>,
    pub edited_at_ms: Option<i64>,
}

/// The condition under which a write may be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// The file must not exist (`If-Match: 0`).
    Absent,
    /// The file must be at this revision.
    Revision(Revision),
}

/// One file of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BulkItem<'a> {
    pub path: &'a RemotePath,
    pub bytes: &'a [u8],
    pub content_type: &'a str,
    pub precondition: &'a Precondition,
    /// Sent as the content identity: a repeat gets the answer of the first request and changes nothing.
    pub op: &'a OpId,
}

/// Most files of a batch.
pub const BULK_FILES: usize = 128;
/// A file of more bytes than this goes alone: a batch saves the way to the remote, which a long body hides anyway.
pub const BULK_FILE_MAX: u64 = 64 * 1024;
/// Most bytes of a batch as JSON, by [`BulkItem::weight`]. Remotes usually take 1 MiB.
pub const BULK_BODY_MAX: usize = 700 * 1024;

impl BulkItem<'_> {
    /// Whether this file can be part of a batch. The route takes white space off the ends of a path, and would write another
    /// file.
    pub fn fits(path: &RemotePath, bytes: &[u8]) -> bool {
        bytes.len() as u64 <= BULK_FILE_MAX && path.as_str().trim() == path.as_str()
    }

    /// The most that it adds to the body of a request, in bytes.
    pub fn weight(&self) -> usize {
        bulk_weight(self)
    }
}

/// What the remote answered to an accepted write or delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The remote's own operation id (not ours), for following the delivery.
    pub remote_op: Option<String>,
    /// The revision that this write produced; for a delete, of the tombstone. `None` when the remote did not say.
    pub revision: Option<Revision>,
    /// The remote had already applied this very request (`already_applied`).
    pub repeated: bool,
}

/// How an accepted write stands on its way to the provider behind the remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// Nobody has taken it yet. Also a state that this program does not know: it may come to an end that it does.
    Pending,
    Running,
    Succeeded,
    /// An attempt failed, and the remote goes on trying.
    Failed,
    /// Given up; only a replay brings it back.
    DeadLettered,
    Canceled,
}

impl DeliveryState {
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryState::Pending => "pending",
            DeliveryState::Running => "running",
            DeliveryState::Succeeded => "succeeded",
            DeliveryState::Failed => "failed",
            DeliveryState::DeadLettered => "dead_lettered",
            DeliveryState::Canceled => "canceled",
        }
    }
}

/// The delivery of one accepted write, as the remote tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The remote's own operation id.
    pub remote_op: String,
    /// `None` when the remote does not say, or says one that is not of this mount.
    pub path: Option<RemotePath>,
    pub state: DeliveryState,
    /// Attempts of the remote at the provider.
    pub attempts: u32,
    pub last_error: Option<String>,
    /// All that was said about the outcome, as JSON, cut at 1 KiB.
    pub words: String,
    /// The correlation id of the write, or of its replay.
    pub correlation_id: String,
}

/// A page of deliveries, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryPage {
    pub deliveries: Vec<Delivery>,
    pub next_cursor: Option<String>,
}

/// Most deliveries that one page holds.
pub const DELIVERY_PAGE_MAX: usize = 1000;

/// A change of the remote, from its event feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteEvent {
    pub id: String,
    pub kind: EventKind,
    /// `None` when the path cannot be shown in a tree, or lies outside of the mounted directory.
    pub path: Option<RemotePath>,
    /// The path that cannot be shown, and why.
    pub hidden: Option<(String, crate::path::InvalidPath)>,
    pub revision: Option<Revision>,
    pub hash: Option<ContentHash>,
    /// The correlation id of the request that caused it; ours carry the operation id.
    pub correlation_id: String,
    /// The remote itself did it (a draft took the name that its provider gave it), not a client.
    pub by_system: bool,
    pub at_ms: Option<i64>,
    /// What the file holds, where the event brought it along. Its hash is `hash`, checked.
    pub content: Option<InlineContent>,
}

/// The content of a file, as a live event brings it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineContent {
    pub content_type: String,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Created,
    Updated,
    Deleted,
    /// The provider has taken or refused a write of the path.
    Delivery,
    /// An event that is not about the content of a file.
    Other,
    /// An event that is not in the API's form: something has happened, and only a listing can tell what.
    Unreadable,
}

/// A place in the event feed that can be recognised again: a number alone cannot, a restarted server counts anew.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FeedMark {
    /// The event before the last one that was applied; asking behind it brings that one again. `None`: there is none.
    pub before: Option<String>,
    /// What the last applied event says; `None`: none has been applied, the feed was empty.
    pub last: Option<String>,
}

impl EventKind {
    /// Tells what a file of the remote holds.
    pub fn is_content(self) -> bool {
        matches!(self, EventKind::Created | EventKind::Updated | EventKind::Deleted)
    }
}

impl RemoteEvent {
    /// Where the event stands in its feed, if the remote numbers it (`evt_7`).
    pub fn number(&self) -> Option<u64> {
        number_of(&self.id)
    }

    /// Everything of the event that stays the same when it is read again.
    pub fn print(&self) -> String {
        let path = self.path.as_ref().map_or("", |p| p.as_str());
        let revision = self.revision.as_ref().map_or("", |r| r.as_str());
        format!("{} {} {revision} {} {path}", self.id, self.at_ms.unwrap_or(0), self.correlation_id)
    }
}

impl FeedMark {
    /// The id of the last applied event.
    pub fn last_id(&self) -> Option<&str> {
        self.last.as_deref().and_then(|print| print.split(' ').next())
    }

    /// Its number, if the remote numbers its events.
    pub fn last_number(&self) -> Option<u64> {
        self.last_id().and_then(number_of)
    }
}

fn number_of(event: &str) -> Option<u64> {
    event.strip_prefix("evt_")?.parse().ok()
}

/// What the remote made of two versions of a text and what they have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The revision of the merged text.
    pub revision: Revision,
    /// The version of the remote that ours was merged with.
    pub against: Option<Revision>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    pub events: Vec<RemoteEvent>,
    /// `None` on the last page: remember the id of the last event instead.
    pub next_cursor: Option<String>,
}

/// Where a stream of events begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// Behind an event: first what was missed, then what happens.
    Behind(&'a str),
    /// With the last events that there are: the whole feed, if it is short.
    Recent,
    /// What happens from now on below the mounted directory, for a token that may not see the rest.
    BelowRoot(Option<&'a str>),
}

/// A relayfile workspace. See the module for the rules of calling.
pub trait Remote: Send + Sync {
    /// `GET /health`, without a token.
    fn health(&self) -> Result<(), RemoteError>;

    /// One page (at most 1000 entries) of the tree below `dir`, sorted bytewise by path.
    fn tree(&self, dir: &RemotePath, depth: Depth, cursor: Option<&str>) -> Result<TreePage, RemoteError>;

    /// A whole file. The hash is checked; a mismatch is [`ErrorKind::Corrupt`].
    fn get(&self, path: &RemotePath) -> Result<RemoteFile, RemoteError>;

    /// Every file below `dir` in one request (`fs/export`). Bounded by the implementation's limit on body length.
    fn export(&self, dir: &RemotePath) -> Result<Vec<RemoteFile>, RemoteError>;

    /// Writes a whole file. Bytes that are not UTF-8 go as base64. `op` is sent as the correlation id.
    fn put(
        &self,
        path: &RemotePath,
        bytes: &[u8],
        content_type: &str,
        precondition: &Precondition,
        op: &OpId,
    ) -> Result<Accepted, RemoteError>;

    /// Writes many whole files in one request, each under its own precondition. The answers are in the order of the items;
    /// one refusal does not stop the others. The events of these writes carry no correlation id.
    ///
    /// [`ErrorKind::NotFound`] with status 404, or status 405: this remote has no such route.
    fn bulk(&self, items: &[BulkItem<'_>]) -> Result<Vec<Result<Accepted, RemoteError>>, RemoteError>;

    /// Deletes a file at a revision. `op` is sent as the correlation id.
    fn delete(&self, path: &RemotePath, revision: &Revision, op: &OpId) -> Result<Accepted, RemoteError>;

    /// Events after `cursor` (from the first when `None`), oldest first, at most 1000.
    ///
    /// The wire answers an unknown cursor with the beginning of the feed; telling that apart is the caller's business.
    fn events(&self, cursor: Option<&str>) -> Result<EventPage, RemoteError>;

    /// The place behind the newest event.
    fn newest_mark(&self) -> Result<FeedMark, RemoteError>;

    /// What the token that was taken up last allows, by its own words. Asks nobody.
    fn access(&self) -> Arc<Access> {
        Arc::default()
    }

    /// Takes up another token, if its file has one by now. Asks nobody; for a remote that is followed without requests.
    fn look_at_token(&self) {}

    /// Whether the token lets this path be written, by its own words. Asks nobody: may be called from a handler.
    fn may_write(&self, _path: &RemotePath) -> bool {
        true
    }

    /// Events as they happen.
    ///
    /// The wire answers an unknown place with silence; the first event tells, see [`Place::Behind`].
    fn subscribe(&self, place: Place<'_>) -> Result<Subscription, RemoteError>;

    /// Lets the remote merge `ours` into what it has, both changed from `base_text`, which is `base`. One write there, or none.
    /// `op` is sent as the correlation id and as the content identity, so that a repeat gets the first answer.
    ///
    /// [`ErrorKind::Conflict`]: both have changed the same lines, or the remote does not know the base any more.
    /// [`ErrorKind::Rejected`] and [`ErrorKind::NotFound`]: this cannot be merged, or not by this remote.
    fn merge(
        &self,
        path: &RemotePath,
        base: &Revision,
        base_text: &str,
        ours: &str,
        content_type: &str,
        op: &OpId,
    ) -> Result<Merged, RemoteError>;

    /// How the delivery of one accepted write stands. `remote_op` is the remote's id of it. [`ErrorKind::Forbidden`]: the
    /// token may not read operations.
    fn delivery(&self, remote_op: &str) -> Result<Delivery, RemoteError>;

    /// The newest deliveries, at most `limit` (1 to [`DELIVERY_PAGE_MAX`]), or those behind `cursor`.
    fn deliveries(&self, cursor: Option<&str>, limit: usize) -> Result<DeliveryPage, RemoteError>;

    /// Has a dead delivery tried again; the file is not written a second time. [`ErrorKind::Conflict`]: it is not dead (or not
    /// any more). `op` is sent as the correlation id.
    fn replay(&self, remote_op: &str, op: &OpId) -> Result<(), RemoteError>;

    /// A number that is another one when the token is another one. Asks nobody.
    fn token_mark(&self) -> u64;
}
