//! Errors of the remote, with its own words kept.

/// What kind of answer it was; the one place that looks at a status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No response at all: connection refused, reset, name not found, deadline passed.
    Unreachable,
    /// 408, 425, 429, 5xx.
    Transient,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 409, 412.
    Conflict,
    /// 413.
    TooLarge,
    /// Any other 4xx.
    Rejected,
    /// 507.
    NoSpace,
    /// The body is not what the API promises: not JSON, wrong hash, over the limit, a redirect.
    Corrupt,
}

/// A request that did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{method} {path}: {message}{}", .status.map(|s| format!(" (status {s}, code {})", .code)).unwrap_or_default())]
pub struct RemoteError {
    pub kind: ErrorKind,
    pub method: &'static str,
    /// The file or route that was asked for; never holds a token.
    pub path: String,
    /// `None` when there was no response.
    pub status: Option<u16>,
    /// The remote's `code`, else ours: `unreachable`, `timeout`, `bad_response`.
    pub code: String,
    /// The remote's `message`, else what the transport said.
    pub message: String,
    /// The body, cut at 1 KiB.
    pub body: String,
    /// Of a conflict: the revision that the remote has now.
    pub current_revision: Option<crate::ids::Revision>,
    pub retry_after: Option<std::time::Duration>,
}

impl RemoteError {
    /// The errno of a read that failed this way.
    pub fn to_read_errno(&self) -> i32 {
        match self.kind {
            ErrorKind::Unauthorized | ErrorKind::Forbidden => libc::EACCES,
            ErrorKind::NotFound => libc::ENOENT,
            ErrorKind::Conflict => libc::ESTALE,
            ErrorKind::TooLarge => libc::EFBIG,
            ErrorKind::NoSpace => libc::ENOSPC,
            ErrorKind::Unreachable | ErrorKind::Transient | ErrorKind::Rejected | ErrorKind::Corrupt => libc::EIO,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Transient,
    Unreachable,
    Unauthorized,
    Conflict,
    Permanent,
}
pub fn classify(kind: ErrorKind) -> Outcome {
    match kind {
        ErrorKind::Unreachable => Outcome::Unreachable,
        ErrorKind::Transient | ErrorKind::NoSpace => Outcome::Transient,
        ErrorKind::Unauthorized => Outcome::Unauthorized,
        ErrorKind::NotFound | ErrorKind::Conflict => Outcome::Conflict,
        _ => Outcome::Permanent,
    }
}
