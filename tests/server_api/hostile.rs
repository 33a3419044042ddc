//! Input that nobody sane sends: an answer each time, and the server goes on.

use serde_json::json;

use crate::Server;

#[test]
fn malformed_bodies_are_refused() {
    let server = Server::start();
    let client = server.client();
    let deep = format!("{{\"content\":{}1{}}}", "[".repeat(200_000), "]".repeat(200_000));
    for body in ["", "null", "[]", "5", "{", &deep, "{\"content\":{}}", "{\"semantics\":5}", "{\"semantics\":{\"relations\":5}}"]
    {
        let answer = client.send("PUT", "/v1/workspaces/w/fs/file?path=/f", &[("If-Match", "*")], body);
        assert_eq!((answer.status, &answer.json()["message"]), (400, &json!("invalid json body")), "{:.40}", body);
    }
    for body in ["{\"files\":5}", "{\"files\":[5]}", "{\"files\":[{\"path\":5}]}"] {
        assert_eq!(client.w("POST", "/fs/bulk", body).status, 400, "{body}");
    }
    assert_eq!(client.get("/fs/tree"), json!({"path": "/", "entries": [], "nextCursor": null}));
}

#[test]
fn odd_queries_are_answered() {
    let server = Server::start();
    let client = server.client();
    client.put("/f", "0", "x");
    let huge = "p".repeat(60_000);
    for (route, want) in [
        (format!("/fs/file?path=/{huge}"), 400),
        (format!("/fs/tree?path=/{huge}"), 200),
        (format!("/fs/tree?cursor=/{huge}"), 400),
        ("/fs/tree?depth=99999999999999999999".into(), 200),
        ("/fs/query?limit=-5&cursor=".into(), 200),
        ("/fs/query?cursor=/none".into(), 400),
        ("/fs/events?cursor=evt_-1&limit=0".into(), 200),
        ("/fs/events?cursor=evt_99999999999999999999999".into(), 200),
        ("/ops?cursor=op_999".into(), 400),
        ("/ops/op_1%27%20OR%201=1".into(), 404),
        ("/fs/file?path=%zz".into(), 400),
        ("/fs/file?%FF=%FF&path=/f".into(), 200),
    ] {
        assert_eq!(client.w("GET", &route, "").status, want, "{:.60}", route);
    }
    assert_eq!(client.send("GET", "/v1/workspaces/w/fs/%zz", &[], "").status, 400);
    assert_eq!(client.send("GET", "/v1/workspaces/w/../../health", &[], "").status, 404);
}

#[test]
fn a_path_may_hold_anything_and_comes_back_as_it_is() {
    let server = Server::start();
    let client = server.client();
    for path in
        ["/a/b/../c", "/a//b", "//double", "/%00", "/%0A", "/tab%09", "/ü", "/'%3B DROP TABLE entries%3B--", "/a%25b", "/"]
    {
        let path = path.replace(' ', "%20");
        assert_eq!(client.put(&path, "0", &path).status, 202, "{path}");
        assert_eq!(client.get(&format!("/fs/file?path={path}"))["content"], json!(path), "{path}");
    }
    let total = client.get("/fs/tree?path=/&depth=100");
    assert_eq!(total["totalFiles"], 9, "the file at / is below no directory");
    // A tower of directories is bounded, and taking its file away takes all of it away.
    let tower = format!("/t{}", "/d".repeat(3000));
    assert_eq!(client.put(&tower, "0", "x").status, 202);
    assert_eq!(client.delete(&tower, "*").status, 202);
    assert_eq!(client.get("/fs/tree?path=/t&depth=100")["entries"], json!([]));
}

#[test]
fn directories_live_as_long_as_their_files_and_a_file_hides_a_directory() {
    let server = Server::start();
    let client = server.client();
    client.bulk(["/d/e/1".into(), "/d/e/2".into(), "/d-x".into(), "/d.txt".into(), "/d/e".into()]);
    let paths = |route: &str| -> Vec<String> {
        let listed = client.get(route);
        listed["entries"]
            .as_array()
            .expect("entries")
            .iter()
            .map(|e| format!("{} {}", e["type"].as_str().unwrap_or(""), e["path"].as_str().unwrap_or("")))
            .collect()
    };
    assert_eq!(paths("/fs/tree?path=/&depth=1"), ["dir /d", "file /d-x", "file /d.txt"]);
    assert_eq!(paths("/fs/tree?path=/d&depth=1"), ["file /d/e"]);
    assert_eq!(paths("/fs/tree?path=/d"), ["file /d/e", "file /d/e/1", "file /d/e/2"]);
    client.delete("/d/e", "*");
    assert_eq!(paths("/fs/tree?path=/d&depth=1"), ["dir /d/e"]);
    client.delete("/d/e/1", "*");
    client.delete("/d/e/2", "*");
    assert_eq!(paths("/fs/tree?path=/&depth=9"), ["file /d-x", "file /d.txt"]);
}

#[test]
fn an_oversized_body_is_refused_and_the_connection_ends() {
    let server = Server::with(|config| config.body_limit = 1000);
    let client = server.client();
    let answer = client.put("/f", "0", &"x".repeat(200_000));
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
    assert_eq!(client.put("/f", "0", "small").status, 202);
}
