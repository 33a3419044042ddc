//! relayfile-mount: a relayfile workspace as a real filesystem.
//!
//! # The data flow
//!
//! ```text
//! kernel ── fuser session threads ──► fs            request → Workspace call → reply
//!                                      │
//!                                      ▼
//!                                  workspace         the one view of the tree, all of it local
//!                                      │      ▲
//!                                      ▼      │      remote changes: events → apply → notifier → kernel
//!                                  journal           SQLite, the only durable truth
//!                                      │
//!                                      ▼
//!                                  writeback         settle, order per path, upload, retry
//!                                      │
//!                                      ▼
//!                                  remote            HTTP; knows no FUSE
//! ```
//!
//! # The map
//!
//! | module | owns |
//! |---|---|
//! | [`ids`] | [`ids::Ino`], [`ids::OpId`], [`ids::Revision`], [`ids::ContentHash`]: values that cannot be wrong |
//! | [`path`] | [`path::RemotePath`]: a path that cannot hold `..` |
//! | [`access`] | what a token allows, by its own words |
//! | [`remote`] | the [`remote::Remote`] trait, its HTTP implementation, outcome classification |
//! | [`server`] | the embedded relayfile server |
//! | [`journal`] | all SQL of a mount: nodes, names, remote snapshot, operations |
//! | [`workspace`] | the tree, the working files, learning and applying remote changes |
//! | [`writeback`] | coalescing, dispatcher, upload workers, backoff |
//! | [`changes`] | what changes, told to whoever watches |
//! | [`control`] | the socket by which commands ask a live mount for a change |
//! | [`deadletter`] | the files of dead letters, and those of older tools |
//! | [`delivery`] | following what the remote has accepted to its provider |
//! | [`events`] | following the remote's event feed |
//! | [`status`] | what the mount says of itself |
//! | [`relaydir`] | the virtual `.relay` directory |
//! | [`fs`] | the FUSE session and adapter |
//! | [`config`] | flags, environment, file → one configuration |
//! | [`preflight`] | checks before anything is created, with stable codes |
//! | [`engine`] | everything of a mount but the kernel |
//! | [`logring`] | the last lines of the log, for `.relay/log` |
//! | [`mount`] | the life of one mount: engine, kernel, and the way back |
//! | [`failpoint`] | named places at which a test lets the process die |
//! | [`cli`] | the command lines of both binaries |

pub mod access;
pub mod changes;
pub mod cli;
pub mod config;
pub mod control;
pub mod deadletter;
pub mod delivery;
pub mod engine;
pub mod events;
pub mod failpoint;
pub mod fs;
pub mod ids;
pub mod journal;
pub mod logring;
pub mod mount;
pub mod path;
pub mod policy;
pub mod preflight;
pub mod relaydir;
pub mod remote;
pub mod server;
pub mod status;
pub mod workspace;
pub mod writeback;
