//! The client against a server that answers what the real one was seen to answer.

use super::*;
use crate::remote::canned::{Canned, Reply as Say};
use proptest::prelude::*;

const SECRET: &str = "s3cr3t.token";

fn config(url: &str) -> HttpConfig {
    HttpConfig::new(url, "ws_demo", RemotePath::root(), TokenSource::Literal(SECRET.into()))
}

fn remote(server: &Canned) -> HttpRemote {
    HttpRemote::new(config(&server.url)).unwrap()
}

fn rooted(server: &Canned, root: &str) -> HttpRemote {
    HttpRemote::new(HttpConfig { remote_root: path(root), ..config(&server.url) }).unwrap()
}

fn hasty(server: &Canned, millis: u64) -> HttpRemote {
    HttpRemote::new(HttpConfig { timeout: Duration::from_millis(millis), ..config(&server.url) }).unwrap()
}

fn path(s: &str) -> RemotePath {
    s.parse().unwrap()
}

fn at(revision: &str) -> Precondition {
    Precondition::Revision(Revision::new(revision))
}

const QUEUED: &str =
    r#"{"opId":"op_2","status":"queued","targetRevision":"rev_2","writeback":{"provider":"dir","state":"pending"}}"#;

mod requests {
    use super::*;

    #[test]
    fn a_write_carries_its_precondition_its_operation_and_its_text() {
        let server = Canned::new([Say::json(202, QUEUED)]);
        let op = OpId::generate();
        let accepted = remote(&server).put(&path("/dir/a.txt"), b"second\n", "text/plain", &at("rev_1"), &op).unwrap();
        assert_eq!(
            accepted,
            Accepted { remote_op: Some("op_2".into()), revision: Some(Revision::new("rev_2")), repeated: false }
        );
        let sent = server.request();
        assert_eq!(sent.line, "PUT /v1/workspaces/ws_demo/fs/file?path=/dir/a.txt HTTP/1.1");
        assert_eq!(sent.header("authorization"), Some("Bearer s3cr3t.token"));
        assert_eq!(sent.header("x-correlation-id"), Some(op.as_str()));
        assert_eq!(sent.header("if-match"), Some("rev_1"));
        assert_eq!(sent.header("content-type"), Some("application/json"));
        assert_eq!(sent.header("accept-encoding"), None);
        assert_eq!(sent.json(), serde_json::json!({"contentType": "text/plain", "content": "second\n"}));
    }

    #[test]
    fn a_create_asks_for_absence_and_binary_goes_as_base64() {
        let server = Canned::new([Say::json(202, QUEUED)]);
        let bytes = [0, 1, 2, 3, 255];
        remote(&server)
            .put(&path("/dir/bin"), &bytes, "application/octet-stream", &Precondition::Absent, &OpId::generate())
            .unwrap();
        let sent = server.request();
        assert_eq!(sent.header("if-match"), Some("0"));
        let body = serde_json::json!({"contentType": "application/octet-stream", "content": "AAECA/8=", "encoding": "base64"});
        assert_eq!(sent.json(), body);
    }

    #[test]
    fn a_repeat_that_was_applied_before_is_a_success() {
        let server = Canned::new([
            Say::json(200, r#"{"opId":"op_7","status":"already_applied","targetRevision":"rev_7"}"#),
            Say::json(200, r#"{"code":"already_applied","revision":"rev_7"}"#),
        ]);
        let client = remote(&server);
        let put = || client.put(&path("/a"), b"", "text/plain", &Precondition::Absent, &OpId::generate()).unwrap();
        for op in [Some("op_7"), None] {
            let revision = Some(Revision::new("rev_7"));
            assert_eq!(put(), Accepted { remote_op: op.map(Into::into), revision, repeated: true });
        }
    }

    #[test]
    fn a_delete_names_the_revision_and_has_no_body() {
        let server = Canned::new([Say::json(202, QUEUED)]);
        let op = OpId::generate();
        let accepted = remote(&server).delete(&path("/dir/star.txt"), &Revision::new("rev_5"), &op).unwrap();
        assert_eq!(accepted.revision, Some(Revision::new("rev_2")));
        let sent = server.request();
        assert_eq!(sent.line, "DELETE /v1/workspaces/ws_demo/fs/file?path=/dir/star.txt HTTP/1.1");
        assert_eq!((sent.header("if-match"), sent.header("x-correlation-id")), (Some("rev_5"), Some(op.as_str())));
        assert!(sent.body.is_empty());
    }

    #[test]
    fn a_revision_that_would_match_anything_is_never_sent() {
        let server = Canned::new([]);
        let client = remote(&server);
        for name in ["*", "\"*\"", "W/\"*\"", "0", "\"0\"", "", "\"\"", "a b", "a\r\nX: y", "ré"] {
            let revision = Revision::new(name);
            let error = client.delete(&path("/a"), &revision, &OpId::generate()).unwrap_err();
            assert_eq!((error.kind, error.status), (ErrorKind::Rejected, None), "{name:?}");
            assert!(client.put(&path("/a"), b"", "", &Precondition::Revision(revision), &OpId::generate()).is_err());
        }
        for name in ["rev_1", "\"rev_1\"", "W/\"rev_1\"", "7", "a*"] {
            let call = client.call(Method::PUT, "/a", String::new(), None);
            assert_eq!(if_match(&call, &Revision::new(name)).unwrap(), name);
        }
        assert!(server.requests().is_empty());
    }

    #[test]
    fn reads_carry_a_correlation_id_of_their_own() {
        let server = Canned::new([Say::json(404, r#"{"code":"not_found"}"#), Say::json(404, "")]);
        let client = remote(&server);
        let _ = client.get(&path("/a"));
        let _ = client.get(&path("/a"));
        let ids: Vec<String> = server.requests().iter().map(|r| r.header("x-correlation-id").unwrap().to_owned()).collect();
        assert!(ids.iter().all(|id| (8..=128).contains(&id.len())), "{ids:?}");
        assert_ne!(ids[0], ids[1]);
    }

    #[test]
    fn connections_are_kept() {
        let server = Canned::new((0..20).map(|_| Say::json(200, r#"{"events":[],"nextCursor":null}"#)));
        let client = remote(&server);
        for _ in 0..20 {
            client.events(None).unwrap();
        }
        assert_eq!(server.connections(), 1);
    }

    #[test]
    fn health_needs_no_token() {
        let server = Canned::new([
            Say::json(200, r#"{"status":"ok"}"#),
            Say::raw("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 6\r\n\r\n<html>"),
            Say::json(503, r#"{"code":"unavailable"}"#),
        ]);
        let client = remote(&server);
        client.health().unwrap();
        let sent = server.request();
        assert_eq!(sent.line, "GET /health HTTP/1.1");
        assert_eq!(sent.header("authorization"), None);
        assert_eq!(client.health().unwrap_err().kind, ErrorKind::Foreign);
        assert_eq!(client.health().unwrap_err().kind, ErrorKind::Transient);
    }

    #[test]
    fn a_base_url_may_have_a_path_and_a_slash() {
        let server = Canned::new([Say::json(200, r#"{"events":[]}"#), Say::json(200, "{}")]);
        let client = HttpRemote::new(config(&format!("{}/relay//", server.url))).unwrap();
        client.events(None).unwrap();
        client.health().unwrap();
        let lines: Vec<String> = server.requests().into_iter().map(|r| r.line).collect();
        assert_eq!(lines[0], "GET /relay/v1/workspaces/ws_demo/fs/events?limit=1000&direction=asc HTTP/1.1");
        assert_eq!(lines[1], "GET /relay/health HTTP/1.1");
    }

    #[test]
    fn every_character_of_a_path_survives_the_query() {
        let client = HttpRemote::new(config("http://h/")).unwrap();
        let url = client.url("/fs/file", &[("path", "/a b/ü+%2F#&?=\n.md")]);
        assert_eq!(url, "http://h/v1/workspaces/ws_demo/fs/file?path=/a%20b/%C3%BC%2B%252F%23%26%3F%3D%0A.md");
    }

    proptest! {
        #[test]
        fn any_path_survives_the_url(s in "(/[^/\\x00]{1,12}){1,4}", cursor in "\\PC{0,20}") {
            let Ok(p) = s.parse::<RemotePath>() else { return Ok(()) };
            let client = super::offline();
            let url = Url::parse(&client.url("/fs/tree", &[("path", p.as_str()), ("cursor", &cursor)])).unwrap();
            let read: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            prop_assert_eq!(url.path(), "/v1/workspaces/ws_demo/fs/tree");
            prop_assert_eq!(url.fragment(), None);
            prop_assert_eq!(read, vec![("path".into(), s), ("cursor".into(), cursor)]);
        }
    }
}

/// A client that is never used to send; one for all cases of a property.
fn offline() -> &'static HttpRemote {
    static CLIENT: std::sync::OnceLock<HttpRemote> = std::sync::OnceLock::new();
    CLIENT.get_or_init(|| HttpRemote::new(config("http://127.0.0.1:1")).unwrap())
}

mod reads {
    use super::*;

    const HELLO: &str = r#"{"path":"/dir/a.txt","revision":"rev_1","contentHash":"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03","contentType":"text/plain","content":"hello\n","provider":"dir","lastEditedAt":"2026-11-21T04:02:44.904108149Z","semantics":{}}"#;

    #[test]
    fn a_file_arrives_whole_and_checked() {
        let server = Canned::new([Say::json(200, HELLO)]);
        let file = remote(&server).get(&path("/dir/a.txt")).unwrap();
        assert_eq!(server.request().line, "GET /v1/workspaces/ws_demo/fs/file?path=/dir/a.txt HTTP/1.1");
        assert_eq!((file.bytes.as_slice(), file.revision.as_str()), (&b"hello\n"[..], "rev_1"));
        assert_eq!((file.path.as_str(), file.content_type.as_str()), ("/dir/a.txt", "text/plain"));
        assert_eq!((file.hash, file.edited_at_ms), (ContentHash::of(b"hello\n"), Some(1_795_233_764_904)));
    }

    #[test]
    fn base64_is_decoded_as_the_remote_would() {
        for content in ["AAECA/8=", "AAEC\\r\\nA/8=\\n", "AAECA/8", "AAECA/9="] {
            let server = Canned::new([Say::json(
                200,
                &format!(
                    r#"{{"path":"/b","revision":"rev_7","contentHash":"ff5d8507b6a72bee2debce2c0054798deaccdc5d8a1b945b6280ce8aa9cba52e","content":"{content}","encoding":"base64"}}"#
                ),
            )]);
            let file = remote(&server).get(&path("/b")).unwrap();
            assert_eq!(file.bytes, [0, 1, 2, 3, 255], "{content}");
            assert_eq!(file.content_type, "text/markdown", "the default of a file without a type");
        }
    }

    #[test]
    fn what_is_no_file_is_corrupt() {
        for (body, word) in [
            (HELLO.replace("hello", "jello"), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"),
            (HELLO.replace("hello", "jello"), &ContentHash::of(b"jello\n").to_string()),
            (HELLO.replace("5891b5", "short"), "contentHash"),
            (r#"{"revision":"r","content":"@@@","encoding":"base64"}"#.into(), "base64"),
            (r#"{"revision":"r","content":"x","encoding":"gzip"}"#.into(), "gzip"),
        ] {
            let server = Canned::new([Say::json(200, &body)]);
            let error = remote(&server).get(&path("/a")).unwrap_err();
            assert_eq!((error.kind, error.code.as_str()), (ErrorKind::Corrupt, "bad_response"), "{error}");
            assert!(error.message.contains(word), "{error}");
        }
    }

    #[test]
    fn a_file_without_a_hash_gets_one() {
        let server = Canned::new([Say::json(200, r#"{"revision":"r","content":"x","contentHash":"","extra":[1]}"#)]);
        assert_eq!(remote(&server).get(&path("/a")).unwrap().hash, ContentHash::of(b"x"));
    }

    #[test]
    fn an_export_brings_what_can_be_shown() {
        let body = r#"[{"path":"/b/1.txt","revision":"rev_26","contentHash":"7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed","contentType":"text/plain","content":"one"},
            {"path":"/b/2.bin","revision":"rev_27","contentType":"application/octet-stream","content":"AAEC","encoding":"base64"},
            {"path":"/b/../y","revision":"rev_12","content":"p"},{"path":"/b","revision":"rev_1","content":"p"},
            {"path":"/elsewhere","revision":"rev_1","content":"p"},
            {"path":"/b/bad","revision":"rev_1","content":"p","contentHash":"00"}]"#;
        let server = Canned::new([Say::json(200, body)]);
        let files = remote(&server).export(&path("/b")).unwrap();
        assert_eq!(server.request().line, "GET /v1/workspaces/ws_demo/fs/export?format=json&path=/b HTTP/1.1");
        let shown: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.bytes.as_slice())).collect();
        assert_eq!(shown, [("/b/1.txt", &b"one"[..]), ("/b/2.bin", &[0, 1, 2][..])]);
    }
}

mod batches;
mod listings;

mod operations;

mod refusals;

/// A long body that meets a reset, then a health check.
fn reset_under(bytes: usize, health: Say) -> RemoteError {
    let server = Canned::new([Say::early(""), health]);
    let error = remote(&server)
        .put(&path("/big"), &vec![b'x'; bytes], "text/plain", &Precondition::Absent, &OpId::generate())
        .unwrap_err();
    assert_eq!((error.code.as_str(), error.status), ("unreachable", None));
    error
}

#[test]
fn a_reset_under_a_long_body_counts_as_an_attempt_if_the_remote_is_there() {
    let error = reset_under(16 * 1024 * 1024, Say::json(200, r#"{"status":"ok"}"#));
    assert_eq!(error.kind, ErrorKind::Transient);
    assert!(error.message.contains("16777216 bytes"), "{error}");
    assert_eq!(reset_under(16 * 1024 * 1024, Say::Close).kind, ErrorKind::Unreachable, "the remote is gone");
    assert_eq!(reset_under(16, Say::json(200, "{}")).kind, ErrorKind::Unreachable, "no limit is so low");
}

mod transport {
    use super::*;

    fn get(client: &HttpRemote) -> RemoteError {
        client.get(&path("/a b?")).unwrap_err()
    }

    #[test]
    fn nobody_there_is_unreachable() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = get(&HttpRemote::new(config(&format!("http://{closed}"))).unwrap());
        assert_eq!((error.kind, error.code.as_str(), error.status), (ErrorKind::Unreachable, "unreachable", None));
        assert!(error.to_string().starts_with("GET /a b?: Connection refused"), "{error}");
    }

    #[test]
    fn a_server_that_never_answers_costs_the_deadline() {
        let server = Canned::new([Say::Silence]);
        let started = Instant::now();
        let error = get(&hasty(&server, 200));
        assert_eq!((error.kind, error.code.as_str(), error.status), (ErrorKind::Unreachable, "timeout", None));
        assert!((200..3000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    }

    #[test]
    fn a_server_that_trickles_costs_no_more_than_the_deadline() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
            "HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX-Long: ",
        ] {
            let server = Canned::new([Say::trickle(head)]);
            let started = Instant::now();
            let error = get(&hasty(&server, 300));
            if head.contains("500") {
                assert_eq!((error.kind, error.status), (ErrorKind::Foreign, Some(500)));
            } else {
                assert_eq!((error.kind, error.code.as_str()), (ErrorKind::Unreachable, "timeout"), "{error}");
            }
            assert!((300..3000).contains(&started.elapsed().as_millis()), "{head:?} {:?}", started.elapsed());
        }
    }

    #[test]
    fn a_write_has_a_deadline_of_its_own() {
        let server = Canned::new([Say::Silence]);
        let accept_timeout = Some(Duration::from_millis(200));
        let client = HttpRemote::new(HttpConfig { accept_timeout, ..config(&server.url) }).unwrap();
        let started = Instant::now();
        let error = client.delete(&path("/a"), &Revision::new("r"), &OpId::generate()).unwrap_err();
        assert_eq!(error.code, "timeout");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_connection_that_breaks_is_unreachable() {
        for reply in [
            Say::Reset,
            Say::Close,
            Say::cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"revision\":"),
            Say::cut("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"rev\r\n"),
            Say::cut("HTTP/1.1 200"),
        ] {
            let server = Canned::new([reply]);
            let error = get(&remote(&server));
            assert_eq!((error.kind, error.code.as_str()), (ErrorKind::Unreachable, "unreachable"), "{error}");
            assert_eq!(server.requests().len(), 1, "repeating is the caller's decision");
        }
    }

    #[test]
    fn a_body_over_the_limit_is_not_read() {
        let limited = |server: &Canned| {
            HttpRemote::new(HttpConfig { max_body: 100, max_export_body: 1000, ..config(&server.url) }).unwrap()
        };
        let long = format!("[{}]", " ".repeat(150));
        let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
        // The second announces more than it ever sends: only its length is needed.
        for reply in [Say::raw(&chunked), Say::cut("HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\n{")] {
            let server = Canned::new([reply]);
            let error = get(&limited(&server));
            assert_eq!((error.kind, error.status), (ErrorKind::Corrupt, Some(200)), "{error}");
            assert!(error.message.contains("longer than 100 bytes"), "{error}");
        }
        let server = Canned::new([Say::json(200, &long)]);
        assert!(limited(&server).export(&RemotePath::root()).unwrap().is_empty(), "exports have their own bound");
    }

    #[test]
    fn a_compressed_response_is_not_unfolded() {
        let server =
            Canned::new([Say::raw("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x0b\x08\x00")]);
        let error = get(&remote(&server));
        assert!(error.kind == ErrorKind::Corrupt && error.message.contains("gzip"), "{error}");
    }

    #[test]
    fn no_error_shows_the_token_or_the_url() {
        let server = Canned::new([Say::Close]);
        let error = get(&remote(&server));
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(SECRET) && !shown.contains("http://") && !shown.contains("path="), "{shown}");
    }
}

mod tokens {
    use super::*;

    const UNAUTHORIZED: &str = r#"{"code":"unauthorized","correlationId":"corr-1","message":"token expired"}"#;

    fn with_file(server: &Canned, file: &std::path::Path) -> HttpRemote {
        HttpRemote::new(HttpConfig { token: TokenSource::File(file.into()), ..config(&server.url) }).unwrap()
    }

    fn sent(server: &Canned) -> Vec<String> {
        server.requests().iter().map(|r| r.header("authorization").unwrap().to_owned()).collect()
    }

    #[test]
    fn after_a_401_the_new_token_of_the_file_is_tried_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "old").unwrap();
        let renewed = file.clone();
        let server = Canned::new([
            Say::then(Say::json(401, UNAUTHORIZED), move || std::fs::write(&renewed, r#"{"token":"new"}"#).unwrap()),
            Say::json(202, QUEUED),
        ]);
        let op = OpId::generate();
        with_file(&server, &file).put(&path("/a"), b"x", "text/plain", &at("r"), &op).unwrap();
        assert_eq!(sent(&server), ["Bearer old", "Bearer new"]);
        let [first, second] = &server.requests()[..] else { panic!() };
        assert_eq!((&first.body, first.header("x-correlation-id")), (&second.body, second.header("x-correlation-id")));
        assert_eq!(second.header("if-match"), Some("r"));
    }

    #[test]
    fn the_same_token_is_not_tried_again_and_a_third_never() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "t0").unwrap();
        let server = Canned::new([Say::json(401, UNAUTHORIZED)]);
        let error = with_file(&server, &file).get(&path("/a")).unwrap_err();
        assert_eq!(error.to_string(), "GET /a: token expired (status 401, code unauthorized)");
        assert_eq!(sent(&server), ["Bearer t0"]);

        let server = Canned::new((1..4).map(|n| {
            let file = file.clone();
            Say::then(Say::json(401, UNAUTHORIZED), move || std::fs::write(&file, format!("t{n}")).unwrap())
        }));
        assert_eq!(with_file(&server, &file).get(&path("/a")).unwrap_err().kind, ErrorKind::Unauthorized);
        assert_eq!(sent(&server), ["Bearer t0", "Bearer t1"]);
    }

    #[test]
    fn without_a_token_nothing_is_sent() {
        let server = Canned::new([]);
        let error = with_file(&server, std::path::Path::new("/nonexistent/token")).get(&path("/a")).unwrap_err();
        assert_eq!((error.kind, error.status), (ErrorKind::Unauthorized, None));
        assert!(error.message.contains("/nonexistent/token"), "{error}");
        assert!(server.requests().is_empty());
    }
}

mod configuration {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        let refused = |config: HttpConfig| HttpRemote::new(config).err().map(|e| e.to_string());
        for (url, word) in [
            ("", "no URL"),
            ("nonsense", "no URL"),
            ("//host", "no URL"),
            ("http://", "no URL"),
            ("ftp://x", "ftp://"),
            ("file:///etc", "file://"),
            ("http://user:hunter2@host", "password"),
            ("http://user@host", "password"),
            ("http://host?token=hunter2", "query"),
            ("http://host/#x", "query"),
        ] {
            let why = refused(config(url)).unwrap_or_else(|| panic!("{url} was accepted"));
            assert!(why.contains(word) && !why.contains("hunter2"), "{url}: {why}");
        }
        for workspace in ["", ".", "..", "../x", "a/b", "a b", "a?b", "é", &"x".repeat(129)] {
            assert!(refused(HttpConfig { workspace: workspace.into(), ..config("http://h") }).is_some(), "{workspace}");
        }
        for token in ["", " ", "a b", "a\nb", "a\0"] {
            let why = refused(HttpConfig { token: TokenSource::Literal(token.into()), ..config("http://h") }).unwrap();
            assert!(why.contains("token"), "{why}");
        }
        for url in ["http://h", "https://h", "HTTP://h:8080/", "https://[::1]:1/base/"] {
            assert_eq!(refused(config(url)), None, "{url}");
        }
        assert!(!format!("{:?}", config("http://h")).contains(SECRET));
    }

    #[test]
    fn loopback_is_known_in_all_its_forms() {
        for (url, loopback) in [
            ("http://127.0.0.1:80", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:80", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("http://localhost", true),
            ("http://LOCALHOST.", true),
            ("http://a.localhost:1", true),
            ("http://localhost.example", false),
            ("http://10.0.0.1", false),
            ("http://notlocalhost", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), loopback, "{url}");
        }
    }

    #[test]
    fn an_https_server_without_a_trusted_certificate_is_not_talked_to() {
        // A plain TCP server: whatever it says is no handshake, and the request must never be seen in the clear.
        let server = Canned::new([Say::Close]);
        let client = HttpRemote::new(config(&server.url.replace("http://", "https://"))).unwrap();
        let error = client.get(&path("/a")).unwrap_err();
        assert_eq!((error.kind, error.status), (ErrorKind::Unreachable, None));
        assert!(server.requests().is_empty());
    }
}
