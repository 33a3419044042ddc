//! The FUSE session and adapter: request → [`Workspace`](crate::workspace::Workspace) call → reply.
//!
//! | file | owns |
//! |---|---|
//! | `mount` | the mount itself: errors, mounting as root, unmounting; `fusermount` does it without root |
//! | `mountinfo` | what is mounted where |
//! | `session` | INIT, the threads, the end |
//! | `adapter` | the callbacks, about three lines each |
//! | `route` | which requests go to the tree and which to `.relay` |
//! | `waiting` | requests that need something of the remote first |
//! | `notify` | telling the kernel what changed behind its back |
//! | `ttl` | how long the kernel may trust an answer |
//! | `convert` | our values ↔ fuser's |
//!
//! It promises that a panic answers EIO and ends nothing, and that no session thread ever waits for the network. It must
//! never touch a path inside its own mount, nor notify the kernel from a request handler: both deadlock.

mod adapter;
mod convert;
mod fusermount;
pub mod mount;
pub mod mountinfo;
mod notify;
mod route;
mod session;
mod ttl;
mod waiting;
pub mod watchers;

pub use mount::{MountError, is_dead_endpoint, unmount};
pub use mountinfo::{MountEntry, mount_of, mounted_at, mounts, mounts_of};
pub use session::{MountOptions, Session, start, start_with_channel};
pub use ttl::Ttl;
