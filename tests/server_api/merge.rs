//! Merging on the server: one merged version, or nothing.

use serde_json::{Value, json};

use crate::{Answer, Client, Server};

const BASE: &str = "a\nb\nc\nd\ne\n";

fn merge(client: &Client, path: &str, base_revision: &Value, base: &str, mine: &str) -> Answer {
    let body = json!({"strategy": "three-way-lines-v1", "baseRevision": base_revision, "baseContent": base, "content": mine,
        "contentType": "text/markdown"});
    client.w("POST", &format!("/fs/merge?path={path}"), &body.to_string())
}

#[test]
fn edits_apart_merge_into_one_new_revision() {
    let server = Server::start();
    let client = server.client();
    let base = client.put("/m/t.md", "0", BASE).json()["targetRevision"].clone();
    let theirs = client.put("/m/t.md", "*", "A\nb\nc\nd\ne\n").json()["targetRevision"].clone();
    let answer = merge(&client, "/m/t.md", &base, BASE, "a\nb\nc\nd\nE\n");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let merged = answer.json();
    assert_eq!((&merged["baseRevision"], &merged["mergedAgainstRevision"]), (&base, &theirs));
    assert_eq!(merged["strategy"], "three-way-lines-v1");
    let file = client.get("/fs/file?path=/m/t.md");
    assert_eq!((&file["content"], &file["revision"]), (&json!("A\nb\nc\nd\nE\n"), &merged["targetRevision"]));
}

#[test]
fn edits_of_one_line_conflict_and_change_nothing() {
    let server = Server::start();
    let client = server.client();
    let base = client.put("/t", "0", BASE).json()["targetRevision"].clone();
    let theirs = client.put("/t", "*", "a\nb\nY\nd\ne\n").json()["targetRevision"].clone();
    let answer = merge(&client, "/t", &base, BASE, "a\nb\nX\nd\ne\n");
    assert_eq!(answer.status, 409);
    let error = answer.json();
    assert_eq!((&error["code"], &error["currentRevision"]), (&json!("merge_conflict"), &theirs));
    assert_eq!(error["conflicts"].as_array().map(Vec::len), Some(1));
    assert_eq!((&error["conflicts"][0]["mine"], &error["conflicts"][0]["theirs"]), (&json!("X\n"), &json!("Y\n")));
    assert_eq!(client.get("/fs/file?path=/t")["revision"], theirs);
}

#[test]
fn a_base_that_the_server_cannot_confirm_is_refused() {
    let server = Server::start();
    let client = server.client();
    let base = client.put("/t", "0", BASE).json()["targetRevision"].clone();
    client.put("/other", "0", BASE);
    for (path, revision, content) in [
        ("/t", json!("rev_77"), BASE),
        ("/t", base.clone(), "something else"),
        ("/t", json!("rev_2"), BASE),
        ("/t", json!("x"), BASE),
    ] {
        let answer = merge(&client, path, &revision, content, "mine");
        assert_eq!((answer.status, &answer.json()["code"]), (409, &json!("merge_base_unavailable")), "{path} {revision}");
    }
    assert_eq!(merge(&client, "/t", &json!(""), BASE, "mine").status, 400);
}

#[test]
fn what_cannot_be_merged_is_422() {
    let server = Server::start();
    let client = server.client();
    let base = client.put("/t", "0", BASE).json()["targetRevision"].clone();
    let body = json!({"strategy": "go-top-level-functions-v1", "baseRevision": base, "baseContent": BASE, "content": "x"});
    let answer = client.w("POST", "/fs/merge?path=/t", &body.to_string());
    assert_eq!((answer.status, &answer.json()["code"]), (422, &json!("merge_ineligible")));
    client.delete("/t", "*");
    let gone = merge(&client, "/t", &base, BASE, "mine");
    assert_eq!((gone.status, &gone.json()["reason"]), (422, &json!("live file no longer exists")));
}

#[test]
fn a_repeat_with_the_same_identity_gets_the_first_answer() {
    let server = Server::start();
    let client = server.client();
    let base = client.put("/t", "0", BASE).json()["targetRevision"].clone();
    let body = json!({"strategy": "three-way-lines-v1", "baseRevision": base, "baseContent": BASE, "content": "A\nb\nc\nd\ne\n",
        "contentIdentity": {"kind": "op", "key": "op_1"}});
    let first = client.w("POST", "/fs/merge?path=/t", &body.to_string()).json();
    let again = client.w("POST", "/fs/merge?path=/t", &body.to_string()).json();
    assert_eq!(first, again);
    assert_eq!(client.get("/fs/file?path=/t")["revision"], first["targetRevision"]);
}
