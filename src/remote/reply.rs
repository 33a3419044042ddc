//! One request and its answer, and how every failure of it is told. The remote's words are kept but bounded, on one line, and
//! without the token, should it have repeated it.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::token::Token;
use super::{ErrorKind, FOREIGN, RemoteError};
use crate::ids::Revision;

/// Bytes of an error body that are kept in the error.
const ERROR_BODY_MAX: usize = 1024;
/// Bytes of an error body that are read: a conflict brings up to 4000 bytes of the current content.
pub(super) const ERROR_READ_MAX: u64 = 64 * 1024;
/// Characters of a message: about what a person reads of one.
const MESSAGE_MAX: usize = 300;
/// Longest `Retry-After` that is believed. More would switch the queue off, and could not be added to a clock.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// One request, with what its errors need.
pub(super) struct Call<'a> {
    pub method: Method,
    /// The file or route, as errors name it.
    pub path: &'a str,
    pub url: String,
    pub correlation: String,
    /// For everything: connect, send, receive, and once more after a 401.
    pub timeout: Duration,
    /// Bytes of a successful response.
    pub max_body: u64,
}

impl Call<'_> {
    pub fn error(&self, kind: ErrorKind, status: Option<u16>, code: &str, message: String) -> RemoteError {
        RemoteError {
            kind,
            method: match self.method {
                Method::PUT => "PUT",
                Method::DELETE => "DELETE",
                Method::POST => "POST",
                _ => "GET",
            },
            path: self.path.to_owned(),
            status,
            code: code.to_owned(),
            message: one_line(&message),
            body: String::new(),
            current_revision: None,
            retry_after: None,
        }
    }

    pub fn too_late(&self) -> RemoteError {
        let message = format!("no complete answer within {:?}", self.timeout);
        self.error(ErrorKind::Unreachable, None, "timeout", message)
    }

    /// What went wrong before a response was there.
    pub fn transport(&self, e: reqwest::Error) -> RemoteError {
        if e.is_timeout() {
            return if e.is_connect() {
                self.error(ErrorKind::Unreachable, None, "timeout", "no connection in time".into())
            } else {
                self.too_late()
            };
        }
        let (kind, code) = match e.is_builder() {
            true => (ErrorKind::Rejected, "bad_request"),
            false => (ErrorKind::Unreachable, "unreachable"),
        };
        // The innermost cause says what happened ("Connection refused"); the outer ones only that something did.
        let e = e.without_url();
        let mut cause: &dyn std::error::Error = &e;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        self.error(kind, None, code, cause.to_string())
    }

    /// What went wrong between the head of a response and its end.
    pub fn broken_off(&self, e: std::io::Error) -> RemoteError {
        let inner = e.get_ref().and_then(|e| e.downcast_ref::<reqwest::Error>());
        if e.kind() == std::io::ErrorKind::TimedOut || inner.is_some_and(reqwest::Error::is_timeout) {
            return self.too_late();
        }
        let mut cause: &dyn std::error::Error = &e;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        self.error(ErrorKind::Unreachable, None, "unreachable", format!("the response broke off: {cause}"))
    }
}

/// A response that has been read to its end (an error to [`ERROR_READ_MAX`]).
pub(super) struct Reply {
    pub status: reqwest::StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// What the request was sent with.
    pub token: Option<Token>,
}

impl Reply {
    pub fn corrupt(&self, call: &Call<'_>, message: String) -> RemoteError {
        let message = self.redact(message);
        call.error(ErrorKind::Corrupt, Some(self.status.as_u16()), "bad_response", message)
    }

    /// An answer that is not in the API's form.
    pub fn foreign(&self, call: &Call<'_>, why: &str) -> RemoteError {
        let (status, what) = (self.status.as_u16(), self.header("content-type").unwrap_or("no content type"));
        let message = self.redact(format!("the answer (status {status}, {what}) is not from a relayfile server: {why}"));
        call.error(ErrorKind::Foreign, Some(status), FOREIGN, message)
    }

    pub fn json<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, RemoteError> {
        serde_json::from_slice(&self.body).map_err(|e| self.foreign(call, &e.to_string()))
    }

    /// The error that a response which is no success stands for.
    pub fn refusal(&self, call: &Call<'_>) -> RemoteError {
        let status = self.status.as_u16();
        // Fields of the wrong type are no reason to lose the others.
        let said: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = |key: &str| said.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
        let raw = String::from_utf8_lossy(&self.body);
        let (kind, no_code) = match text("code") {
            Some(_) => (ErrorKind::of_status(status), "bad_response"),
            None => match ErrorKind::of_foreign_status(status) {
                ErrorKind::Foreign => (ErrorKind::Foreign, FOREIGN),
                kind => (kind, "bad_response"),
            },
        };
        let message = match text("message").or_else(|| text("error")) {
            Some(message) => message.to_owned(),
            None if self.status.is_redirection() => self.redirect(),
            // A page of HTML says less than the name of its status.
            None if raw.trim().is_empty() || raw.trim_start().starts_with('<') || said.is_object() => self.status.to_string(),
            None => raw.trim().to_owned(),
        };
        let message = match kind {
            ErrorKind::Foreign => self.foreign(call, &message).message,
            _ => message,
        };
        let mut body = self.redact(raw.into_owned());
        body.truncate(body.floor_char_boundary(ERROR_BODY_MAX));
        // Redacted before it is cut: a part of a secret is a secret too.
        let code = one_line(&self.redact(text("code").unwrap_or(no_code).to_owned()));
        RemoteError {
            current_revision: text("currentRevision").map(|r| Revision::new(&self.redact(r.to_owned()))),
            retry_after: self.header("retry-after").and_then(|v| retry_after(v, self.now())),
            body,
            ..call.error(kind, Some(status), &code, self.redact(message))
        }
    }

    fn redirect(&self) -> String {
        // The query of the new place may hold anything; a scheme, a host and a path are enough to find the mistake.
        let to = self.header("location").unwrap_or("nowhere");
        let to = to.split(['?', '#']).next().unwrap_or_default();
        let to = match (to.find("://"), to.rfind('@')) {
            (Some(scheme), Some(at)) => format!("{}{}", &to[..scheme + 3], &to[at + 1..]),
            _ => to.to_owned(),
        };
        format!("the remote redirects to {to}, which is not followed; is it the base URL?")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The remote's clock where it tells it, so that a difference between the clocks does not stretch a wait.
    fn now(&self) -> Timestamp {
        self.header("date").and_then(http_date).unwrap_or_else(Timestamp::now)
    }

    pub fn redact(&self, text: String) -> String {
        match &self.token {
            Some(token) => token.redact(text),
            None => text,
        }
    }
}

/// Without control characters, which could forge lines of a log or move a terminal's cursor, and bounded.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().take(MESSAGE_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MESSAGE_MAX).is_some() {
        line.push('…');
    }
    line
}

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), at most a day.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => Duration::try_from(http_date(value)?.duration_since(now)).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// A date in one of the three forms that a recipient must accept (RFC 9110 §5.6.7).
fn http_date(value: &str) -> Option<Timestamp> {
    if let Ok(at) = jiff::fmt::rfc2822::parse(value) {
        return Some(at.timestamp());
    }
    ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"].into_iter().find_map(|form| {
        let at = jiff::civil::DateTime::strptime(form, value).ok()?;
        at.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_all_its_forms_and_bounded() {
        let now: Timestamp = "1994-11-06T08:49:30Z".parse().unwrap();
        for (value, seconds) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(7)),
            ("Sun Nov  6 08:49:37 1994", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("18446744073709551615", Some(86_400)),
            ("Sat, 06 Nov 2094 08:49:00 GMT", Some(86_400)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn a_message_stays_on_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[2Jc\u{9b}"), "a b [2Jc ");
        assert_eq!(one_line(&"é".repeat(400)).chars().count(), MESSAGE_MAX + 1);
    }
}
