//! What the mount asks of the remote: nothing twice, nothing that it knows, nothing about its own doings.

use std::fs;

use fuse_tests::{Mount, Server, sh, until};

/// Requests other than the regular look at the event feed.
fn asked(server: &Server) -> Vec<(String, u64)> {
    server.counts().into_iter().filter(|(route, _)| route != "GET /fs/events").collect()
}

fn mounted() -> (Server, Mount) {
    let server = Server::start();
    server.seed((0..100).map(|n| (format!("/d{}/f{n}", n % 10), format!("content {n}"))));
    let mount = Mount::start(&server);
    (server, mount)
}

#[test]
fn a_listing_with_all_attributes_asks_nothing() {
    let (server, mount) = mounted();
    server.reset_counts();
    sh(&mount.path(), "ls -lR > /dev/null; find . -type f -size +0 > /dev/null; du -a > /dev/null");
    assert_eq!(asked(&server), []);
}

#[test]
fn each_file_is_read_from_the_remote_once() {
    let (server, mut mount) = mounted();
    server.reset_counts();
    sh(&mount.path(), "cat d*/* > /dev/null");
    let reads: u64 = asked(&server).iter().map(|(_, n)| n).sum();
    assert!(reads <= 100, "{reads} requests for 100 files");
    server.reset_counts();
    sh(&mount.path(), "cat d*/* > /dev/null; grep -r nothing d* || true");
    assert_eq!(asked(&server), []);
    mount.remount();
    server.reset_counts();
    sh(&mount.path(), "cat d*/* > /dev/null");
    assert_eq!(asked(&server), [], "the cache survives a remount");
}

#[test]
fn many_readers_of_one_file_cause_one_request() {
    let server = Server::start();
    server.put("/f", "content");
    let mount = Mount::start(&server);
    server.reset_counts();
    server.fault(serde_json::json!({ "method": "GET", "path_prefix": "/fs/file", "delay_ms": 300 }));
    let all = sh(&mount.path(), "for i in $(seq 20); do cat f & done; wait");
    assert_eq!(all, "content".repeat(20));
    assert_eq!(asked(&server), [("GET /fs/file".to_owned(), 1)]);
}

#[test]
fn names_that_do_not_exist_ask_nothing() {
    let (server, mount) = mounted();
    server.reset_counts();
    for n in 0..1000 {
        assert!(fs::metadata(mount.at(&format!("d1/missing{n}"))).is_err());
    }
    assert_eq!(asked(&server), []);
}

#[test]
fn own_writes_that_come_back_as_events_are_not_read() {
    let (server, mount) = mounted();
    server.reset_counts();
    for n in 0..10 {
        fs::write(mount.at(&format!("d{n}/new")), "mine").unwrap();
    }
    mount.wait_clean();
    server.put("/marker", "x");
    until("all events until the marker are seen", || mount.at("marker").exists());
    sh(&mount.path(), "cat d*/new > /dev/null");
    // The marker itself is asked for once: its size is not in the event.
    // What becomes of them behind the remote is looked at; how often is a test of `delivery.rs`.
    let is_read = |route: &str| route.starts_with("GET") && !route.starts_with("GET /ops");
    let reads: u64 = asked(&server).iter().filter(|(route, _)| is_read(route)).map(|(_, n)| n).sum();
    assert!(reads <= 1, "{:?}", asked(&server));
}
