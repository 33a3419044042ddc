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
    /// The remote answered, and the content is not what it promises: a wrong hash, over the limit.
    Corrupt,
    /// An answer that is not in the API's own form: of a gateway, a captive portal, another program. Whatever its status is, the
    /// remote has said nothing.
    Foreign,
}

/// The code of an answer that is [`ErrorKind::Foreign`].
pub const FOREIGN: &str = "foreign_answer";

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
            ErrorKind::Unreachable | ErrorKind::Transient | ErrorKind::Rejected | ErrorKind::Corrupt | ErrorKind::Foreign => {
                libc::EIO
            }
        }
    }
}

/// What a failed write means for its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Repeat later; spends an attempt.
    Transient,
    /// No answer, or somebody else's: wait for the remote to come back; spends no attempt.
    Unreachable,
    /// The token is refused: wait for another; spends no attempt.
    Unauthorized,
    /// The remote is not where the edit was based.
    Conflict,
    /// Repeating cannot help.
    Permanent,
}

/// The one place that decides what a failed write means.
///
/// - A 404 answers a write whose file vanished meanwhile: a conflict.
/// - An answer that is not the remote's ([`ErrorKind::Foreign`]) is none: a gateway during a deployment, a portal, a redirect.
/// - A response that makes no sense ([`ErrorKind::Corrupt`]) says nothing about whether the write was applied: it is asked
///   about and then repeated, within the attempt budget.
/// - A full remote (507) may be emptied: transient.
pub fn classify(kind: ErrorKind) -> Outcome {
    match kind {
        ErrorKind::Unreachable | ErrorKind::Foreign => Outcome::Unreachable,
        ErrorKind::Transient | ErrorKind::NoSpace | ErrorKind::Corrupt => Outcome::Transient,
        ErrorKind::Unauthorized => Outcome::Unauthorized,
        ErrorKind::NotFound | ErrorKind::Conflict => Outcome::Conflict,
        ErrorKind::Forbidden | ErrorKind::TooLarge | ErrorKind::Rejected => Outcome::Permanent,
    }
}

impl ErrorKind {
    /// The kind of a refusal that is not in the API's form. Who stands before the remote may refuse a token and a length for it,
    /// and that holds; nothing else does.
    pub fn of_foreign_status(status: u16) -> ErrorKind {
        match status {
            401 => ErrorKind::Unauthorized,
            413 => ErrorKind::TooLarge,
            _ => ErrorKind::Foreign,
        }
    }

    /// The kind of a response of the remote that is no success.
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

/// The status with which a single request would have been refused where a file of a batch was refused with this `code`.
/// `None`: a code that this program does not know, which says nothing.
pub(super) fn status_of_code(code: &str) -> Option<u16> {
    Some(match code {
        "conflict" | "revision_conflict" => 409,
        "precondition_failed" => 412,
        "not_found" => 404,
        "unauthorized" => 401,
        "forbidden" => 403,
        "payload_too_large" => 413,
        "bad_request" | "invalid_content" | "invalid_encoding" | "invalid_path" | "invalid_input" => 400,
        "rate_limited" => 429,
        "internal_error" => 500,
        "unavailable" => 503,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_batch_is_refused_as_it_would_have_been_alone() {
        use ErrorKind as K;
        for (code, kind) in [
            ("conflict", K::Conflict),
            ("precondition_failed", K::Conflict),
            ("not_found", K::NotFound),
            ("forbidden", K::Forbidden),
            ("payload_too_large", K::TooLarge),
            ("invalid_content", K::Rejected),
            ("rate_limited", K::Transient),
            ("unavailable", K::Transient),
        ] {
            assert_eq!(status_of_code(code).map(ErrorKind::of_status), Some(kind), "{code}");
        }
        assert_eq!(status_of_code("something_else"), None);
    }

    #[test]
    fn every_status_has_its_kind_and_its_outcome() {
        use ErrorKind as K;
        for (status, kind, outcome) in [
            (302, K::Corrupt, Outcome::Transient),
            (400, K::Rejected, Outcome::Permanent),
            (401, K::Unauthorized, Outcome::Unauthorized),
            (403, K::Forbidden, Outcome::Permanent),
            (404, K::NotFound, Outcome::Conflict),
            (405, K::Rejected, Outcome::Permanent),
            (408, K::Transient, Outcome::Transient),
            (409, K::Conflict, Outcome::Conflict),
            (410, K::Rejected, Outcome::Permanent),
            (412, K::Conflict, Outcome::Conflict),
            (413, K::TooLarge, Outcome::Permanent),
            (422, K::Rejected, Outcome::Permanent),
            (425, K::Transient, Outcome::Transient),
            (429, K::Transient, Outcome::Transient),
            (499, K::Rejected, Outcome::Permanent),
            (500, K::Transient, Outcome::Transient),
            (503, K::Transient, Outcome::Transient),
            (507, K::NoSpace, Outcome::Transient),
            (599, K::Transient, Outcome::Transient),
            (999, K::Corrupt, Outcome::Transient),
        ] {
            assert_eq!(ErrorKind::of_status(status), kind, "{status}");
            assert_eq!(classify(kind), outcome, "{status}");
        }
        assert_eq!(classify(K::Unreachable), Outcome::Unreachable);
        for (status, kind) in [(401, K::Unauthorized), (413, K::TooLarge)] {
            assert_eq!(ErrorKind::of_foreign_status(status), kind, "{status}");
        }
        for status in [302, 400, 403, 404, 405, 407, 408, 409, 412, 429, 500, 502, 503, 504, 511] {
            assert_eq!(classify(ErrorKind::of_foreign_status(status)), Outcome::Unreachable, "{status}");
        }
    }

    #[test]
    fn an_error_reads_like_a_sentence() {
        let mut e = RemoteError {
            kind: ErrorKind::Conflict,
            method: "PUT",
            path: "/a/b".into(),
            status: Some(409),
            code: "revision_conflict".into(),
            message: "revision conflict".into(),
            body: String::new(),
            current_revision: None,
            retry_after: None,
        };
        assert_eq!(e.to_string(), "PUT /a/b: revision conflict (status 409, code revision_conflict)");
        e.status = None;
        e.message = "Connection refused (os error 111)".into();
        assert_eq!(e.to_string(), "PUT /a/b: Connection refused (os error 111)");
    }
}
