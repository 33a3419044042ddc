//! The one error type at the border to the FUSE adapter.

use std::io;

use crate::ids::Ino;
use crate::journal::JournalError;
use crate::remote::RemoteError;

pub type FsResult<T> = Result<T, FsError>;

/// Why an operation of the tree did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// An answer that POSIX defines for this call; holds the positive errno.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Errno(i32),
    /// Not a failure: the answer needs something of the remote first. Call [`super::Workspace::fulfil`] on a worker, then
    /// repeat the operation.
    #[error("needs {0:?}")]
    Need(Need),
    #[error("working file: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Remote(Box<RemoteError>),
}

/// What an operation waits for. Each is fetched once, however many wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// The children of a directory that has not been listed yet.
    Listing(Ino),
    /// Everything below a directory, before it can be moved.
    Subtree(Ino),
    /// The bytes of a file, and that the kernel has forgotten what it knew of other ones.
    Content(Ino),
    /// The true size of a file whose listing could not tell it. Fulfilling it never fails: without an answer of the remote
    /// the estimate stands for a few seconds.
    Size(Ino),
}

impl From<RemoteError> for FsError {
    fn from(e: RemoteError) -> FsError {
        FsError::Remote(Box::new(e))
    }
}

impl FsError {
    pub const NOT_FOUND: FsError = FsError::Errno(libc::ENOENT);

    /// The positive errno that the calling program sees.
    pub fn to_errno(&self) -> i32 {
        match self {
            FsError::Errno(e) => *e,
            FsError::Need(_) => libc::EAGAIN,
            FsError::Io(e) => e.raw_os_error().unwrap_or(libc::EIO),
            FsError::Journal(e) => e.to_errno(),
            FsError::Remote(e) => e.to_read_errno(),
        }
    }
}
