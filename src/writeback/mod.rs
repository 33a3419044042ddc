//! Writeback: brings journaled operations to the remote, each exactly once.
//!
//! ```text
//! journal ──(wake: bounded at 1)──► dispatcher ──(bounded at the number of workers)──► workers ──► remote
//!    ▲                                  ▲                                                 │
//!    └──────────── transitions ─────────┴───────────────────── done ◄────────────────────┘
//! ```
//!
//! The rows of the journal are the queue. The channels carry operation ids and wake-ups, never bytes, and losing one loses
//! nothing: the dispatcher looks at the journal again at the latest when the next operation becomes due.
//!
//! This module knows neither the kernel nor inodes: it takes operations from the [`Journal`](crate::journal::Journal), bytes
//! from [`Contents`], and talks to a [`Remote`](crate::remote::Remote).

pub mod coalesce;

mod asking;
mod backoff;
mod batch;
mod circuit;
mod dispatcher;
mod gate;
mod replay;
mod worker;

pub use circuit::CircuitState;
pub use dispatcher::{Settings, Writeback};
pub use gate::Gate;

use crate::ids::{ContentHash, OpId};
use crate::journal::{Failure, JournalError, Meets, Operation, Stamp, Version};
use crate::path::RemotePath;
use crate::remote::{Accepted, RemoteError};
use crate::workspace::Sides;

/// What an operation would send.
pub enum Snapshot {
    /// `bytes` stood still while they were read; if they differ from the base they are in the operation's payload file.
    Ready { bytes: Vec<u8>, hash: ContentHash, stamp: Stamp, content_type: Option<String> },
    /// Somebody is writing; look again after the settle window.
    Busy,
    /// There is nothing left to send.
    Vanished,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The content had to be fetched first (a file renamed before it was ever read).
    #[error(transparent)]
    Remote(Box<RemoteError>),
    #[error("the content cannot be read: {0}")]
    Local(String),
}

/// The side that has the bytes.
pub trait Contents: Send + Sync {
    fn snapshot(&self, op: &Operation) -> Result<Snapshot, SnapshotError>;

    /// The remote's file at `path` is about to be replaced or deleted: whatever still has to be fetched from there (a file
    /// that was moved before it was ever read) is fetched now.
    fn before_change(&self, path: &RemotePath) -> Result<(), SnapshotError>;

    /// The payload of an operation that was sent before.
    fn payload(&self, op: &OpId) -> std::io::Result<Vec<u8>>;

    /// The remote has what the operation wanted: records it, in one transaction with what follows from it. `result` is the
    /// version at the path now with its content type, `None` after a delete; `stamp` is the snapshot's.
    fn acknowledged(
        &self,
        op: &Operation,
        result: Option<(Version, Option<String>)>,
        accepted: Option<Accepted>,
        stamp: Option<Stamp>,
    ) -> Result<(), JournalError>;

    /// The remote has merged what the operation wanted with what it had, and has `version` now. What waits behind it was made
    /// from what the operation has sent, and takes that as its base. The view follows.
    fn merged(&self, op: &Operation, version: &Version) -> Result<(), JournalError>;

    /// What the remote had when the edit of this base began, if it was kept.
    fn base(&self, hash: &ContentHash) -> Option<Vec<u8>>;

    /// Writes down the sides of a conflict, for people. The local side is the operation's payload.
    fn set_aside(&self, op: &OpId, sides: &Sides<'_>) -> std::io::Result<()>;

    /// The operation dies: records it, in one transaction with what follows from it. After a delete the remote's file comes
    /// back; after a put the local content stays, unless another version of the remote takes the path.
    fn bury(
        &self,
        op: &Operation,
        failure: &Failure,
        meets: &Meets,
        payload: Option<(ContentHash, u64, String)>,
    ) -> Result<(), JournalError>;

    /// The remote was found to have this version at a path with local work (`None`: nothing); the view follows it when the
    /// work ends.
    fn heard_of(&self, path: &RemotePath, version: Option<&Version>) -> Result<(), JournalError>;

    /// What the operation should have sent is gone.
    fn superseded(&self, op: &Operation) -> Result<(), JournalError>;

    /// How long a path must stand still.
    fn settle(&self) -> std::time::Duration;
}
