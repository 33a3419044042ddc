//! The fault plan and the request counters: what the tests of clients stand on.

use std::time::Instant;

use serde_json::{Value, json};

use crate::{Client, Server};

fn plan(client: &Client, rules: Value) {
    let answer = client.send("POST", "/v1/admin/faults", &[], &rules.to_string());
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[test]
fn a_rule_answers_in_place_of_the_server_so_many_times() {
    let server = Server::start();
    let client = server.client();
    plan(&client, json!([{"method": "PUT", "path_prefix": "/fs/file", "status": 429, "retry_after": 7, "times": 2, "skip": 1}]));
    let statuses: Vec<u16> = (0..4).map(|_| client.put("/f", "*", "x").status).collect();
    assert_eq!(statuses, [202, 429, 429, 202]);
    let listed = client.send("GET", "/v1/admin/faults", &[], "").json();
    assert_eq!((&listed[0]["matched"], &listed[0]["hits"]), (&json!(3), &json!(2)));
    plan(&client, json!([{"status": 503, "code": "unavailable", "message": "down"}]));
    let answer = client.put("/f", "*", "x");
    assert_eq!((answer.status, answer.json()["message"].clone()), (503, json!("down")));
    assert_eq!(client.send("DELETE", "/v1/admin/faults", &[], "").json(), json!([]));
    assert_eq!(client.put("/f", "*", "x").status, 202);
}

#[test]
fn a_dropped_response_was_committed_and_a_reset_request_was_not() {
    let server = Server::start();
    let client = server.client();
    plan(
        &client,
        json!([{"file_path": "/dropped", "drop_after_commit": true, "times": 1}, {"file_path": "/reset", "reset": true, "times": 1}]),
    );
    let body = r#"{"content":"x"}"#;
    let put = |path: &str| {
        let target = format!("/v1/workspaces/w/fs/file?path={path}");
        server.client().try_send("PUT", &target, &[("If-Match", "*")], body)
    };
    assert!(put("/dropped").is_err());
    assert!(put("/reset").is_err());
    assert_eq!(client.w("GET", "/fs/file?path=/dropped", "").status, 200);
    assert_eq!(client.w("GET", "/fs/file?path=/reset", "").status, 404);
}

#[test]
fn a_bulk_write_is_hit_by_the_files_that_it_holds() {
    let server = Server::start();
    let client = server.client();
    plan(&client, json!([{"file_path": "/b/2", "status": 500, "times": 1}]));
    let bulk = |path: &str| client.w("POST", "/fs/bulk", &json!({"files": [{"path": path, "content": "x"}]}).to_string());
    assert_eq!(bulk("/b/1").status, 202);
    assert_eq!(bulk("/b/2").status, 500);
    assert_eq!(bulk("/b/2").status, 202);
}

#[test]
fn a_cut_body_announces_more_than_it_sends() {
    let server = Server::start();
    let client = server.client();
    client.put("/f", "0", &"x".repeat(5000));
    plan(&client, json!([{"method": "GET", "path_prefix": "/fs/file", "cut_body": 100, "times": 1}]));
    let cut = server.client().try_send("GET", "/v1/workspaces/w/fs/file?path=/f", &[], "");
    assert_eq!(cut.expect_err("half an answer").kind(), std::io::ErrorKind::UnexpectedEof);
    assert_eq!(client.w("GET", "/fs/file?path=/f", "").status, 200);
}

#[test]
fn a_delay_is_waited() {
    let server = Server::start();
    let client = server.client();
    plan(&client, json!([{"method": "GET", "delay_ms": 120, "times": 1}]));
    let started = Instant::now();
    client.get("/fs/tree");
    assert!(started.elapsed().as_millis() >= 120);
}

#[test]
fn faults_do_not_exist_unless_allowed_and_belong_to_the_owner() {
    let server = Server::with(|config| config.allow_faults = false);
    assert_eq!(server.client().send("GET", "/v1/admin/faults", &[], "").status, 404);
    let server = Server::start();
    let agent = server.scoped("agent", &["fs:read", "fs:write", "admin:read"]);
    for route in ["/v1/admin/faults", "/v1/admin/requests"] {
        assert_eq!(agent.send("GET", route, &[], "").status, 403, "{route}");
        assert_eq!(Client::new(server.handle.url(), "x").send("DELETE", route, &[], "").status, 401, "{route}");
    }
    let bad = server.client().send("POST", "/v1/admin/faults", &[], r#"[{"stauts":500}]"#);
    assert_eq!(bad.status, 400, "a misspelt rule is refused: {}", bad.text());
}

#[test]
fn requests_are_counted_by_method_and_route() {
    let server = Server::start();
    let client = server.client();
    client.put("/f", "0", "x");
    client.put("/f", "0", "x");
    client.get("/fs/tree");
    client.w("GET", "/ops/op_1", "");
    client.w("PATCH", "/fs/file", "");
    client.w("MKCOL", "/fs/file", "");
    let counted = client.send("GET", "/v1/admin/requests", &[], "").json();
    let want = json!({"PUT /fs/file": 2, "GET /fs/tree": 1, "GET /ops/{id}": 1, "PATCH other": 1, "OTHER other": 1});
    assert_eq!(counted, want);
    assert_eq!(server.handle.requests()["PUT /fs/file"], 2);
    client.send("DELETE", "/v1/admin/requests", &[], "");
    assert_eq!(client.send("GET", "/v1/admin/requests", &[], "").json(), json!({}));
}
