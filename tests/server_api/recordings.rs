//! Every recorded exchange with a deployed server, sent to ours: same status, same body.

use std::io::Read as _;

use serde_json::{Value, json};

use crate::{Answer, Client, Server};

const FILES: &str = include_str!("../../fixtures/recordings/files-and-auth.txt");
const BULK: &str = include_str!("../../fixtures/recordings/bulk-events-ops-export-merge.txt");
const ALL_SCOPES: [&str; 8] =
    ["fs:read", "fs:write", "sync:read", "sync:trigger", "ops:read", "ops:replay", "admin:read", "admin:replay"];

/// One recorded exchange.
struct Exchange<'r> {
    section: &'r str,
    command: &'r str,
    status: u16,
    connection_close: bool,
    etag: Option<&'r str>,
    body: String,
}

fn parse(text: &str) -> Vec<Exchange<'_>> {
    let mut out: Vec<Exchange<'_>> = Vec::new();
    let mut section = "";
    let mut in_body = false;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            (section, in_body) = (name, false);
        } else if let Some(command) = line.strip_prefix(">>> ") {
            in_body = false;
            out.push(Exchange { section, command, status: 0, connection_close: false, etag: None, body: String::new() });
        } else if let Some(exchange) = out.last_mut().filter(|e| e.section == section) {
            if in_body {
                exchange.body.push_str(line);
                exchange.body.push('\n');
            } else if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                exchange.status = rest[..3].parse().expect("a status");
            } else if line.is_empty() {
                in_body = true;
            } else if line == "Connection: close" {
                exchange.connection_close = true;
            } else if let Some(etag) = line.strip_prefix("Etag: ") {
                exchange.etag = Some(etag);
            }
        }
    }
    out
}

/// A command as it was typed: method, target, headers, body.
struct Command<'r> {
    method: &'r str,
    target: &'r str,
    headers: Vec<(&'r str, &'r str)>,
    body: Vec<u8>,
}

fn command<'r>(text: &'r str) -> Command<'r> {
    let (head, body) = match text.split_once(" -d ") {
        Some((head, body)) => (head, body.as_bytes().to_vec()),
        None => match text.split_once(" --data-binary @") {
            Some((head, name)) => (head, data(name)),
            None => (text.trim_end_matches(" --head"), Vec::new()),
        },
    };
    let mut parts = head.split(" -H ");
    let mut first = parts.next().unwrap_or("").split(' ');
    let (method, target) = (first.next().unwrap_or(""), first.next().unwrap_or(""));
    let headers = parts.filter_map(|h| h.split_once(": ")).collect();
    Command { method, target, headers, body }
}

/// The files that the recorder sent and did not show.
fn data(name: &str) -> Vec<u8> {
    let padded = |length: usize| {
        let empty = r#"{"content":""}"#.len();
        format!(r#"{{"content":"{}"}}"#, "x".repeat(length - empty)).into_bytes()
    };
    match name {
        "badutf8" => b"{\"contentType\":\"text/plain\",\"content\":\"a\xff\xfeb\"}".to_vec(),
        "big_ok" => padded(1_048_560),
        "big_no" => padded(1_048_620),
        "bulk1500" => {
            let files: Vec<Value> = (0..1500).map(|i| json!({"path": format!("/many/f{i:04}"), "content": "x"})).collect();
            json!({ "files": files }).to_string().into_bytes()
        }
        other => panic!("no data called {other}"),
    }
}

/// The token that the answer implies.
fn token(server: &Server, exchange: &Exchange<'_>) -> Option<String> {
    let all = |ttl, aud| server.jwt("ws_demo", "agent", &ALL_SCOPES, ttl, aud);
    let body = &exchange.body;
    if body.contains("missing or invalid bearer token") {
        return None;
    }
    Some(if body.contains("invalid jwt format") {
        "garbage".into()
    } else if body.contains("jwt signature mismatch") {
        crate::jwt("another secret", "ws_demo", "agent", &ALL_SCOPES, 60, "relayfile")
    } else if body.contains("token expired") {
        all(-60, "relayfile")
    } else if body.contains("invalid aud claim") {
        all(60, "somebody")
    } else if body.contains("missing required scope") {
        server.jwt("ws_demo", "agent", &["fs:read"], 60, "relayfile")
    } else {
        all(60, "relayfile")
    })
}

/// How much of an answer can be compared.
enum Compare {
    Whole,
    /// The recorder cut the body.
    Start,
    /// Only names of members.
    Members,
    Status,
}

fn compare(command: &str) -> Compare {
    if command.contains("/aaaaaaaaaa") || command.ends_with("@bulk1500") {
        return Compare::Start;
    }
    match command.trim_end() {
        "GET /v1/workspaces/ws_demo/fs/tree?path=/&depth=10" | "GET /v1/workspaces/ws_demo/sync/status" => Compare::Start,
        "GET /v1/workspaces/ws_demo/writeback/pending" => Compare::Status,
        "GET /v1/admin/backends" => Compare::Members,
        _ => Compare::Whole,
    }
}

/// Takes the times out.
fn without_times(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(without_times),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if matches!(key.as_str(), "timestamp" | "lastEditedAt" | "updatedAt" | "createdAt" | "completedAt") {
                    let text = value.as_str().unwrap_or("");
                    assert!(text.starts_with("20") && text.ends_with('Z'), "{key} is no time: {value}");
                    *value = "T".into();
                } else {
                    without_times(value);
                }
            }
        }
        _ => {}
    }
}

/// Replaces each RFC 3339 time in a text that was cut and so is no JSON.
fn blank_times(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("At\":\"20") {
        let (head, tail) = rest.split_at(at + 5);
        out.push_str(head);
        out.push('T');
        rest = &tail[tail.find('"').unwrap_or(tail.len())..];
    }
    out + rest
}

fn check(exchange: &Exchange<'_>, answer: &Answer) {
    let what = &exchange.command[..exchange.command.len().min(120)];
    assert_eq!(answer.status, exchange.status, "{what}: {}", answer.text());
    assert_eq!(answer.header("etag"), exchange.etag, "{what}");
    if exchange.connection_close {
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
    }
    match compare(exchange.command) {
        Compare::Status => {}
        Compare::Start => {
            // Stop before a time or a name that the cut may have gone through.
            let want = blank_times(exchange.body.lines().next().unwrap_or(""));
            let length = want.rfind("At\":").unwrap_or(want.len());
            let got = blank_times(&answer.text());
            assert!(got.starts_with(&want[..length]), "{what}\nwant {}\ngot  {}", &want[..length], got);
        }
        Compare::Members => {
            let keys = |v: Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>());
            assert_eq!(keys(answer.json()), keys(serde_json::from_str(&exchange.body).expect("recorded JSON")), "{what}");
        }
        Compare::Whole => match serde_json::from_str::<Value>(&exchange.body) {
            Ok(mut want) => {
                let mut got = answer.json();
                without_times(&mut want);
                without_times(&mut got);
                assert_eq!(got, want, "{what}");
            }
            Err(_) => assert_eq!(answer.text().trim_end(), exchange.body.trim_end(), "{what}"),
        },
    }
}

fn replay(server: &Server, exchange: &Exchange<'_>) {
    let client = Client::new(server.handle.url(), "");
    let long = format!("PUT /v1/workspaces/ws_demo/fs/file?path=/{} -H If-Match: 0 -d {{\"content\":\"p\"}}", "a".repeat(3000));
    let completed = format!("{}nt\":\"rel\"}}]}}", exchange.command);
    let text = if exchange.command.contains("/aaaaaaaaaa") {
        &long
    } else if exchange.command.ends_with(r#"{"path":"b/rel.txt","conte"#) {
        &completed
    } else {
        exchange.command
    };
    let command = command(text);
    let mut headers = command.headers.clone();
    let bearer = token(server, exchange).map(|t| format!("Bearer {t}"));
    if let Some(bearer) = &bearer {
        headers.push(("Authorization", bearer));
    }
    if !exchange.body.contains("missing X-Correlation-Id") {
        headers.push(("X-Correlation-Id", "corr-1"));
    }
    let answer = client
        .raw(command.method, command.target, &headers, &command.body)
        .unwrap_or_else(|e| panic!("{}: {e}", exchange.command));
    check(exchange, &answer);
}

#[test]
fn every_recorded_exchange_gets_the_recorded_answer() {
    let server = Server::start();
    let mut replayed = 0;
    for exchange in parse(FILES).iter().chain(&parse(BULK)) {
        if exchange.command == "export tar" {
            check_tar(&server, exchange);
        } else {
            replay(&server, exchange);
        }
        replayed += 1;
    }
    // The recorder printed only figures of these two pages.
    let all = Client::new(server.handle.url(), &server.jwt("ws_demo", "agent", &ALL_SCOPES, 60, "relayfile"));
    let page = |cursor: &str| {
        all.send("GET", &format!("/v1/workspaces/ws_demo/fs/tree?path=/many&depth=1&cursor={cursor}"), &[], "").json()
    };
    let first = page("");
    assert_eq!(
        (first["entries"].as_array().map(Vec::len), &first["nextCursor"], &first["totalFiles"]),
        (Some(1000), &json!("/many/f0999"), &json!(1500))
    );
    let second = page("/many/f0999");
    assert_eq!(
        (second["entries"].as_array().map(Vec::len), &second["nextCursor"], &second["totalFiles"]),
        (Some(500), &json!(null), &json!(1500))
    );
    assert!(replayed > 100, "only {replayed} exchanges were found in the recordings");
}

fn check_tar(server: &Server, exchange: &Exchange<'_>) {
    let all = Client::new(server.handle.url(), &server.jwt("ws_demo", "agent", &ALL_SCOPES, 60, "relayfile"));
    let answer = all.send("GET", "/v1/workspaces/ws_demo/fs/export?format=tar&path=/b", &[], "");
    assert_eq!(answer.header("content-type"), Some("application/gzip"));
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"workspace-export.tar.gz\""));
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(answer.body.as_slice()).read_to_end(&mut plain).expect("gzip");
    let mut archive = tar::Archive::new(plain.as_slice());
    let got: Vec<String> = archive
        .entries()
        .expect("tar")
        .map(|entry| {
            let entry = entry.expect("an entry");
            format!("{} {}", entry.size(), entry.path().expect("a name").display())
        })
        .collect();
    let fields = |line: &str| {
        let parts: Vec<&str> = line.split_whitespace().collect();
        format!("{} {}", parts[2], parts[5])
    };
    let want: Vec<String> = exchange.body.lines().filter(|l| l.starts_with("-rw")).map(fields).collect();
    assert_eq!(got, want);
    assert!(!want.is_empty());
}
