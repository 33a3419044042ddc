//! Answers that are no success keep the remote's words.

use super::*;

fn refused(reply: Say) -> RemoteError {
    let server = Canned::new([reply]);
    remote(&server).put(&path("/a/b"), b"x", "text/plain", &at("rev_1"), &OpId::generate()).unwrap_err()
}

#[test]
fn a_conflict_tells_the_revision_that_stands() {
    let error = refused(Say::json(
        409,
        r#"{"code":"revision_conflict","correlationId":"corr-1","currentContentPreview":"hello\n","currentRevision":"rev_5","expectedRevision":"rev_1","message":"revision conflict"}"#,
    ));
    assert_eq!(error.to_string(), "PUT /a/b: revision conflict (status 409, code revision_conflict)");
    assert_eq!((error.kind, error.current_revision.clone()), (ErrorKind::Conflict, Some(Revision::new("rev_5"))));
    assert!(error.body.contains("currentContentPreview"));
}

#[test]
fn errors_keep_the_remotes_words_whatever_their_form() {
    let html = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html>x</html";
    for (reply, kind, text) in [
        (
            Say::json(403, r#"{"code":"forbidden","message":"missing required scope: fs:write"}"#),
            ErrorKind::Forbidden,
            "PUT /a/b: missing required scope: fs:write (status 403, code forbidden)",
        ),
        (
            Say::json(500, "it broke\n here"),
            ErrorKind::Foreign,
            "PUT /a/b: the answer (status 500, application/json) is not from a relayfile server: it broke  here \
             (status 500, code foreign_answer)",
        ),
        (
            Say::raw(html),
            ErrorKind::Foreign,
            "PUT /a/b: the answer (status 502, text/html) is not from a relayfile server: 502 Bad Gateway \
             (status 502, code foreign_answer)",
        ),
        (
            Say::json(404, ""),
            ErrorKind::Foreign,
            "PUT /a/b: the answer (status 404, application/json) is not from a relayfile server: 404 Not Found \
             (status 404, code foreign_answer)",
        ),
        (
            Say::json(422, r#"{"error":"no","code":5,"currentRevision":7}"#),
            ErrorKind::Foreign,
            "PUT /a/b: the answer (status 422, application/json) is not from a relayfile server: no \
             (status 422, code foreign_answer)",
        ),
        (Say::json(413, ""), ErrorKind::TooLarge, "PUT /a/b: 413 Payload Too Large (status 413, code bad_response)"),
        (Say::json(401, ""), ErrorKind::Unauthorized, "PUT /a/b: 401 Unauthorized (status 401, code bad_response)"),
        (
            Say::json(422, r#"{"error":"no","code":"odd","currentRevision":7}"#),
            ErrorKind::Rejected,
            "PUT /a/b: no (status 422, code odd)",
        ),
        (
            Say::json(507, r#"{"code":"full","message":"disk\u001b[2J full"}"#),
            ErrorKind::NoSpace,
            "PUT /a/b: disk [2J full (status 507, code full)",
        ),
    ] {
        let error = refused(reply);
        assert_eq!((error.kind, error.to_string().as_str()), (kind, text));
    }
}

#[test]
fn a_long_error_body_is_cut_between_characters() {
    let error = refused(Say::json(500, &format!("x{}", "é".repeat(100_000))));
    assert_eq!(error.body.len(), 1023);
    assert!(error.message.chars().count() <= 301);
}

#[test]
fn retry_after_is_understood_in_seconds_and_as_a_date() {
    let with = |head: &str| {
        refused(Say::raw(&format!("HTTP/1.1 429 Too Many Requests\r\n{head}Content-Length: 2\r\n\r\n{{}}"))).retry_after
    };
    assert_eq!(with("Retry-After: 3\r\n"), Some(Duration::from_secs(3)));
    let date = "Date: Wed, 21 Oct 2015 07:28:00 GMT\r\nRetry-After: Wed, 21 Oct 2015 07:28:09 GMT\r\n";
    assert_eq!(with(date), Some(Duration::from_secs(9)), "by the remote's own clock");
    assert_eq!(with("Retry-After: soon\r\n"), None);
    assert_eq!(with(""), None);
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Canned::new([Say::json(200, QUEUED)]);
    for status in [301, 302, 303, 307, 308] {
        let to = elsewhere.url.replace("http://", "http://user:pw@");
        let error =
            refused(Say::raw(&format!("HTTP/1.1 {status} Moved\r\nLocation: {to}/login?token=abc\r\nContent-Length: 0\r\n\r\n")));
        assert_eq!((error.kind, error.status), (ErrorKind::Foreign, Some(status)));
        assert!(error.message.contains(&format!("{}/login", elsewhere.url)), "{error}");
        assert!(!error.message.contains("abc") && !error.message.contains("pw"), "{error}");
    }
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn a_token_that_the_remote_repeats_is_not_shown() {
    let error = refused(Say::json(400, &format!(r#"{{"code":"bad {SECRET}","message":"odd header Bearer {SECRET}"}}"#)));
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    assert!(error.message.contains("[token]"));
    let server = Canned::new([Say::json(200, &format!(r#"{{"revision":"r","encoding":"{SECRET}"}}"#))]);
    let error = remote(&server).get(&path("/a")).unwrap_err();
    assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
}

#[test]
fn a_refusal_of_a_body_still_being_sent_is_heard() {
    // As the real server does: it answers, closes its side and does not read on.
    let error = {
        let server = Canned::new([Say::early(
            "HTTP/1.1 413 Request Entity Too Large\r\nConnection: close\r\nContent-Length: 59\r\n\r\n{\"code\":\"payload_too_large\",\"message\":\"exceeds the limit.\"}",
        )]);
        let bytes = vec![b'x'; 16 * 1024 * 1024];
        remote(&server).put(&path("/big"), &bytes, "text/plain", &Precondition::Absent, &OpId::generate()).unwrap_err()
    };
    assert_eq!((error.kind, error.code.as_str()), (ErrorKind::TooLarge, "payload_too_large"), "{error}");
}
