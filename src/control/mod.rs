//! `control.sock` in the state directory: how the commands ask the holder of the lease for a change.
//!
//! One JSON line each way, one request a connection; only a watch goes on, with a [`crate::changes::ChangeLine`] for each change
//! until one side ends it. Only the holder writes the journal; the socket is 0600 in a directory of
//! 0700, and whoever connects must be its owner or root.
//!
//! ```text
//! {"do":"retry","opId":"op_…","force":false}    {"retried":"queued"}
//! {"do":"discard","opId":"op_…"}                {"discarded":"done"}
//! {"do":"flush"}                                {"flushed":3}
//! {"do":"hello"}                                {"here":{"pid":4242}}
//! {"do":"watch","paths":["/d"]}                 {"watching":{"pid":4242}}, then a line for each change
//! anything that fails                           {"failed":{"message":"…","busy":false}}
//! ```

mod client;
mod server;
mod watching;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ids::OpId;
use crate::journal::{Discarded, Retried};
use crate::workspace::FsError;

pub use client::{Unanswered, ask, watch};
pub use server::Control;

/// The socket in a state directory.
pub const SOCKET: &str = "control.sock";

/// Longest line in bytes, either way.
const LINE_MAX: u64 = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Request {
    #[serde(rename_all = "camelCase")]
    Retry {
        op_id: OpId,
        #[serde(default)]
        force: bool,
    },
    #[serde(rename_all = "camelCase")]
    Discard { op_id: OpId },
    /// Everything that waits for its settle window is due now.
    Flush,
    /// Is somebody here?
    Hello,
    /// What changes from now on at these paths of the mount and below them; everything without any.
    Watch {
        #[serde(default)]
        paths: Vec<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Retried(Retried),
    Discarded(Discarded),
    /// Operations that are open.
    Flushed(u64),
    Here {
        pid: u32,
    },
    /// What follows on the connection are changes.
    Watching {
        pid: u32,
    },
    Failed {
        message: String,
        /// It may work in a moment (a file is open for writing).
        busy: bool,
    },
}

/// A change that could not be made, in words.
pub fn failed(e: &FsError) -> Reply {
    match e {
        FsError::Errno(libc::EBUSY) => {
            Reply::Failed { message: "a program has the file open for writing; close it first".into(), busy: true }
        }
        e => Reply::Failed { message: e.to_string(), busy: false },
    }
}

/// An address that is short enough for a socket (108 bytes, unix(7)) however long the path of the directory is: through a
/// descriptor of the directory, which must stay open as long as the address is used.
fn address(state_dir: &Path) -> std::io::Result<(std::fs::File, PathBuf)> {
    let dir = std::fs::File::open(state_dir)?;
    let direct = state_dir.join(SOCKET);
    if direct.as_os_str().as_bytes().len() < 100 {
        return Ok((dir, direct));
    }
    let through = format!("/proc/self/fd/{}/{SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&dir));
    Ok((dir, through.into()))
}
