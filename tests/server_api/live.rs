//! The event stream: what the recorded one did, and that nothing is lost or doubled where catch-up meets live.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::{Client, Server, wait_until};

type Socket = WebSocket<TcpStream>;

fn connect(server: &Server, query: &str) -> Socket {
    connect_as(server, server.handle.token(), query)
}

fn connect_as(server: &Server, token: &str, query: &str) -> Socket {
    let address = server.handle.url().trim_start_matches("http://").to_owned();
    let stream = TcpStream::connect(&address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let url = format!("ws://{address}/v1/workspaces/w/fs/ws?token={token}{query}");
    tungstenite::client(url, stream).expect("upgrades").0
}

fn next(socket: &mut Socket) -> Value {
    match socket.read().expect("a message") {
        Message::Text(text) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("not a text: {other:?}"),
    }
}

/// Asks for a pong, so that everything before it has been read.
fn drain(socket: &mut Socket) -> Vec<Value> {
    socket.send(Message::text(r#"{"type":"ping"}"#)).expect("sends");
    let mut out = Vec::new();
    loop {
        let message = next(socket);
        if message["type"] == "pong" {
            assert!(message["timestamp"].as_str().is_some_and(|t| t.ends_with('Z')));
            return out;
        }
        out.push(message);
    }
}

fn close_code(socket: &mut Socket) -> u16 {
    loop {
        match socket.read() {
            Ok(Message::Close(Some(frame))) => return frame.code.into(),
            Ok(_) => {}
            Err(e) => panic!("no close frame: {e}"),
        }
    }
}

#[test]
fn the_token_is_taken_from_the_query_only() {
    let server = Server::start();
    let upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for token in ["", "?token=garbage"] {
        let answer = server.client().send("GET", &format!("/v1/workspaces/w/fs/ws{token}"), &upgrade, "");
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json(), json!({"code": "unauthorized", "correlationId": "", "message": "invalid jwt format"}));
    }
    let token = server.handle.token();
    let answer = server.client().send("GET", &format!("/v1/workspaces/w/fs/ws?token={token}"), &[], "");
    assert_eq!(answer.status, 426, "a plain request is no upgrade");
}

#[test]
fn without_a_position_the_last_hundred_events_come_first() {
    let server = Server::start();
    let client = server.client();
    client.bulk((0..150).map(|i| format!("/many/f{i:03}")));
    let mut socket = connect(&server, "");
    let caught_up = drain(&mut socket);
    assert_eq!(caught_up.len(), 100);
    let mut first = caught_up[0].clone();
    assert!(first["timestamp"].take().is_string());
    assert_eq!(
        first,
        json!({"eventId": "evt_51", "type": "file.created", "path": "/many/f050", "revision": "rev_51",
            "contentHash": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "contentType": "text/markdown",
            "content": "x", "inlineContent": true, "origin": "agent_write", "provider": "many", "timestamp": null})
    );
    assert_eq!(caught_up[99]["eventId"], "evt_150");
}

#[test]
fn changes_arrive_with_their_content() {
    let server = Server::start();
    let client = server.client();
    let mut socket = connect(&server, "&from=now");
    assert_eq!(drain(&mut socket), Vec::<Value>::new());

    let created = client.put("/ws/live.txt", "0", "v1").json();
    let event = next(&mut socket);
    assert_eq!(event["revision"], created["targetRevision"]);
    assert_eq!((&event["type"], &event["content"]), (&json!("file.created"), &json!("v1")));
    assert_eq!(event["correlationId"], "corr-test");

    client.put("/ws/live.txt", "*", "v2");
    assert_eq!(next(&mut socket)["type"], "file.updated");

    client.w(
        "POST",
        "/fs/bulk",
        r#"{"files":[{"path":"/ws/b1","content":"x"},{"path":"/ws/b2","content":"AAE=","encoding":"base64"}]}"#,
    );
    assert_eq!(next(&mut socket).get("correlationId"), None, "a bulk item carries no correlation id");
    let binary = next(&mut socket);
    assert_eq!((&binary["content"], &binary["encoding"]), (&json!("AAE="), &json!("base64")));

    client.put("/ws/empty", "0", "");
    let empty = next(&mut socket);
    assert_eq!((empty.get("content"), &empty["inlineContent"]), (None, &json!(true)));

    client.delete("/ws/live.txt", "*");
    let deleted = next(&mut socket);
    assert_eq!(deleted["type"], "file.deleted");
    assert_eq!((deleted.get("contentHash"), deleted.get("inlineContent")), (None, None));

    client.put("/ws/big", "0", &"b".repeat(900_000));
    assert_eq!(next(&mut socket)["content"].as_str().map(str::len), Some(900_000));
}

#[test]
fn an_acknowledged_draft_is_a_deletion_and_a_creation_of_one_revision() {
    let server = Server::start();
    let client = server.client();
    let written = client.put("/ws/draft.json", "0", "{}").json();
    let mut socket = connect(&server, "&from=now");
    drain(&mut socket);
    let op = written["opId"].as_str().expect("an operation");
    let ack = client.w("POST", &format!("/writeback/{op}/ack"), r#"{"success":true,"externalId":"X9"}"#).json();
    assert_eq!(ack["draft"], json!({"action": "renamed", "from": "/ws/draft.json", "to": "/ws/X9.json"}));
    let (deleted, created) = (next(&mut socket), next(&mut socket));
    assert_eq!((&deleted["path"], &deleted["origin"]), (&json!("/ws/draft.json"), &json!("system")));
    assert_eq!((&created["path"], &created["content"]), (&json!("/ws/X9.json"), &json!("{}")));
    assert_eq!(deleted["revision"], created["revision"]);
    assert_eq!(client.get("/fs/file?path=/ws/X9.json")["providerObjectId"], "X9");
}

#[test]
fn a_cursor_resumes_and_an_unknown_one_is_silent() {
    let server = Server::start();
    let client = server.client();
    client.bulk((0..5).map(|i| format!("/c/{i}")));
    let ids = |query: &str| -> Vec<String> {
        let events = drain(&mut connect(&server, query));
        events.iter().map(|e| e["eventId"].as_str().unwrap_or("").to_owned()).collect()
    };
    assert_eq!(ids("&cursor=evt_3"), ["evt_4", "evt_5"]);
    assert_eq!(ids("&cursor=evt_3&from=now"), ["evt_4", "evt_5"]);
    assert_eq!(ids("&cursor=evt_999"), Vec::<String>::new());
    assert_eq!(ids("&cursor=junk"), Vec::<String>::new());
    assert_eq!(ids("&path=/c/1&path=/c/4"), ["evt_2", "evt_5"]);
}

#[test]
fn what_is_not_json_closes_with_1007() {
    let server = Server::start();
    let mut socket = connect(&server, "&from=now");
    socket.send(Message::text(r#"{"type":"what"}"#)).expect("sends");
    assert_eq!(drain(&mut socket), Vec::<Value>::new(), "an unknown message is ignored");
    socket.send(Message::text("not json")).expect("sends");
    assert_eq!(close_code(&mut socket), 1007);
}

#[test]
fn a_scope_with_a_path_subscribes_to_that_path_only() {
    let server = Server::start();
    let token = server.jwt("w", "agent", &["relayfile:fs:read:/m/**"], 60, "relayfile");
    let mut socket = connect_as(&server, &token, "&from=now&path=/m/**");
    let client = server.client();
    client.put("/other", "0", "x");
    client.put("/m/x", "0", "x");
    assert_eq!(next(&mut socket)["path"], "/m/x");
    let refused = server.client().send("GET", &format!("/v1/workspaces/w/fs/ws?token={token}"), &[], "");
    assert_eq!(refused.status, 403);
}

#[test]
fn nothing_is_lost_or_doubled_between_catch_up_and_live() {
    let server = Arc::new(Server::start());
    let stop = Arc::new(AtomicBool::new(false));
    server.client().bulk((0..300).map(|i| format!("/seed/{i}")));
    let writer = {
        let (server, stop) = (server.clone(), stop.clone());
        std::thread::spawn(move || {
            let client = server.client();
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                client.bulk((0..20).map(|i| format!("/live/{n}-{i}")));
                n += 1;
            }
        })
    };
    for round in 0..20 {
        let mut socket = connect(&server, "&cursor=evt_100");
        for want in 101..=900 {
            assert_eq!(next(&mut socket)["eventId"], format!("evt_{want}"), "round {round}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer ends");
}

#[test]
fn a_reader_that_is_too_slow_is_closed_with_1013_after_a_complete_prefix() {
    let server = Server::start();
    let client = server.client();
    let mut socket = connect(&server, "&from=now");
    drain(&mut socket);
    // More than its queue and the sockets' buffers can take.
    let body = "y".repeat(20_000);
    for round in 0..140 {
        let files: Vec<Value> = (0..40).map(|i| json!({"path": format!("/f/{round}-{i}"), "content": body})).collect();
        assert_eq!(client.w("POST", "/fs/bulk", &json!({ "files": files }).to_string()).status, 202);
    }
    let mut want = 1;
    let code = loop {
        match socket.read().expect("a message") {
            Message::Text(text) => {
                let event: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(event["eventId"], format!("evt_{want}"));
                want += 1;
            }
            Message::Close(Some(frame)) => break u16::from(frame.code),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, 1013);
    assert!(want < 5600, "it got everything");
    // And the client can go on from there.
    let mut again = connect(&server, &format!("&cursor=evt_{}", want - 1));
    assert_eq!(next(&mut again)["eventId"], format!("evt_{want}"));
}

#[test]
fn a_stopping_server_says_so() {
    let server = Server::start();
    let mut socket = connect(&server, "&from=now");
    drain(&mut socket);
    let url = server.handle.url().to_owned();
    let Server { handle, .. } = server;
    let stopper = std::thread::spawn(move || handle.shutdown());
    assert_eq!(close_code(&mut socket), 1001);
    // Answers the handshake.
    while socket.read().is_ok() {}
    stopper.join().expect("stops");
    wait_until("the port to be free", || Client::new(&url, "").try_send("GET", "/health", &[], "").is_err());
}
