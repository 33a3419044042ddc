//! Who may do what: scopes with paths, access rules in files, the rate limit.

use serde_json::{Value, json};

use crate::{Client, Server};

#[test]
fn a_scope_with_a_path_opens_that_path_only() {
    let server = Server::start();
    server.client().bulk(["/m/a".into(), "/other/b".into()]);
    let agent = server.scoped("agent", &["relayfile:fs:read:/m/**", "relayfile:fs:write:/m/**"]);
    for (route, want) in [
        ("/fs/tree?path=/", 403),
        ("/fs/tree?path=/m", 200),
        ("/fs/events", 403),
        ("/fs/file?path=/m/a", 200),
        ("/fs/file?path=/other/b", 403),
        ("/fs/export?path=/m", 200),
        ("/fs/query", 403),
        ("/ops", 403),
    ] {
        assert_eq!(agent.w("GET", route, "").status, want, "{route}");
    }
    let bulk =
        agent.w("POST", "/fs/bulk", r#"{"files":[{"path":"/m/c","content":"x"},{"path":"/other/c","content":"x"}]}"#).json();
    assert_eq!((&bulk["written"], &bulk["errorCount"]), (&json!(1), &json!(1)));
    assert_eq!(
        bulk["errors"][0],
        json!({"path": "/other/c", "code": "forbidden", "message": "file access denied by path scope"})
    );
    let none = agent.w("POST", "/fs/bulk", r#"{"files":[{"path":"/other/c","content":"x"}]}"#).json();
    assert_eq!(none["results"], Value::Null);
}

fn put_with(client: &Client, path: &str, permissions: &[&str]) {
    let body = json!({"content": "x", "semantics": {"permissions": permissions}}).to_string();
    let answer = client.send("PUT", &format!("/v1/workspaces/w/fs/file?path={path}"), &[("If-Match", "*")], &body);
    assert_eq!(answer.status, 202, "{}", answer.text());
}

#[test]
fn files_that_the_rules_deny_are_not_listed_and_not_read() {
    let server = Server::start();
    let owner = server.client();
    owner.bulk(["/open".into(), "/secret/deep/f".into()]);
    put_with(&owner, "/secret/.relayfile.acl", &["agent:alice"]);
    put_with(&owner, "/mine", &["deny:agent:bob", "public"]);
    put_with(&owner, "/label", &["role:finance"]);
    let all = ["fs:read", "fs:write"];
    let (alice, bob) = (server.scoped("alice", &all), server.scoped("bob", &all));

    let paths = |client: &Client, route: &str, list: &str| -> Vec<String> {
        let listed = client.get(route);
        let items = if list.is_empty() { listed } else { listed[list].clone() };
        items.as_array().expect("a list").iter().map(|i| i["path"].as_str().unwrap_or("").to_owned()).collect()
    };
    for (route, list) in [("/fs/tree?path=/&depth=9", "entries"), ("/fs/query?path=/", "items"), ("/fs/export?path=/", "")] {
        let seen = paths(&bob, route, list);
        assert!(
            !seen.iter().any(|p| p.starts_with("/secret") && p != "/secret/.relayfile.acl" || p == "/mine"),
            "{route}: {seen:?}"
        );
        assert!(seen.iter().any(|p| p == "/open") && seen.iter().any(|p| p == "/label"), "{route}: {seen:?}");
        assert!(paths(&alice, route, list).iter().any(|p| p == "/secret/deep/f"), "{route}");
        assert!(paths(&owner, route, list).iter().any(|p| p == "/mine"), "{route}");
    }
    assert_eq!(bob.w("GET", "/fs/file?path=/secret/deep/f", "").status, 403);
    assert_eq!(bob.w("GET", "/fs/file?path=/secret//./deep/f", "").status, 403, "dots lead around no marker");
    assert_eq!(bob.w("GET", "/fs/file?path=/mine", "").json()["message"], "access denied by ACL");
    assert_eq!(alice.w("GET", "/fs/file?path=/secret/deep/f", "").status, 200);
    assert_eq!(bob.put("/mine", "*", "x").json()["message"], "file access denied by permission policy");
    assert_eq!(bob.put("/secret/new", "0", "x").json()["message"], "access denied by ACL");
    let bulk = bob.w("POST", "/fs/bulk", r#"{"files":[{"path":"/secret/n","content":"x"}]}"#).json();
    assert_eq!(bulk["errors"][0]["message"], "file access denied by permission policy");
    let total = bob.get("/fs/tree?path=/&depth=1")["totalFiles"].as_u64();
    assert!(total < owner.get("/fs/tree?path=/&depth=1")["totalFiles"].as_u64());
}

#[test]
fn the_rate_limit_says_when_to_come_back() {
    let server = Server::with(|config| config.rate_limit = Some(3));
    let client = server.client();
    let answers: Vec<_> = (0..8).map(|_| client.w("GET", "/fs/tree", "")).collect();
    let limited = answers.iter().find(|a| a.status == 429).expect("a refusal");
    assert_eq!(limited.header("retry-after"), Some("1"));
    assert_eq!(limited.json()["code"], "rate_limited");
}

#[test]
fn workspaces_do_not_see_each_other() {
    let server = Server::start();
    let client = server.client();
    client.put("/f", "0", "x");
    let other = client.send("GET", "/v1/workspaces/other/fs/tree?path=/", &[], "").json();
    assert_eq!(other, json!({"path": "/", "entries": [], "nextCursor": null}));
    assert_eq!(client.send("GET", "/v1/workspaces/other/ops/op_1", &[], "").status, 404);
    assert_eq!(client.send("GET", "/v1/workspaces/a%20b/fs/tree", &[], "").status, 400);
    assert_eq!(client.send("GET", &format!("/v1/workspaces/{}/fs/tree", "a".repeat(129)), &[], "").status, 400);
}
