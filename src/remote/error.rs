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

/// What a failed write means for its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Repeat later; spends an attempt.
    Transient,
    /// No answer: wait for the remote to come back; spends no attempt.
    Unreachable,
    /// The token is refused: wait for another; spends no attempt.
    Unauthorized,
    /// The remote is not where the edit was based.
    Conflict,
    /// Repeating cannot help.
    Permanent,
}

/// The one place that decides. A 404 answers a write whose file vanished meanwhile, which is a conflict; a body that makes no
/// sense says nothing about whether the write was applied, so it is asked again.
pub fn classify(kind: ErrorKind) -> Outcome {
    match kind {
        ErrorKind::Unreachable => Outcome::Unreachable,
        ErrorKind::Transient | ErrorKind::NoSpace | ErrorKind::Corrupt => Outcome::Transient,
        ErrorKind::Unauthorized => Outcome::Unauthorized,
        ErrorKind::NotFound | ErrorKind::Conflict => Outcome::Conflict,
        ErrorKind::Forbidden | ErrorKind::TooLarge | ErrorKind::Rejected => Outcome::Permanent,
    }
}

impl ErrorKind {
    /// The kind of a response that is no success.
    pub fn of_status(status: u16) -> ErrorKind {
        match status {
            401 => ErrorKind::Unauthorized,
            403 => ErrorKind::Forbidden,
            404 => ErrorKind::NotFound,
            409 | 412 => ErrorKind::Conflict,
            413 => ErrorKind::TooLarge,
            507 => ErrorKind::NoSpace,
            408 | 425 | 429 | 500..=599 => ErrorKind::Transient,
            400..=499 => ErrorKind::Rejected,
            _ => ErrorKind::Corrupt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_outcome() {
        for (status, outcome) in [
            (400, Outcome::Permanent),
            (401, Outcome::Unauthorized),
            (403, Outcome::Permanent),
            (404, Outcome::Conflict),
            (408, Outcome::Transient),
            (409, Outcome::Conflict),
            (412, Outcome::Conflict),
            (413, Outcome::Permanent),
            (422, Outcome::Permanent),
            (425, Outcome::Transient),
            (429, Outcome::Transient),
            (500, Outcome::Transient),
            (503, Outcome::Transient),
            (507, Outcome::Transient),
        ] {
            assert_eq!(classify(ErrorKind::of_status(status)), outcome, "{status}");
        }
        assert_eq!(classify(ErrorKind::Unreachable), Outcome::Unreachable);
    }
}
