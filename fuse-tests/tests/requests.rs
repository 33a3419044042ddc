//! What the mount asks of the remote: nothing twice, nothing that it knows, nothing about its own doings.

use std::fs;

use fuse_tests::{Mount, Options, Server, sh, until};

/// Requests other than those that follow the remote, whatever is done in the mount: its feed and its stream.
fn asked(server: &Server) -> Vec<(String, u64)> {
    let follows = |route: &str| matches!(route, "GET /fs/events" | "GET /fs/ws");
    server.counts().into_iter().filter(|(route, _)| !follows(route)).collect()
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
fn searching_a_repository_twice_asks_nothing_the_second_time() {
    fuse_tests::require(&["git", "grep"]);
    let (server, mount) = mounted();
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main";
    sh(&mount.path(), &format!("{git} init -q . && {git} add -A && {git} commit -qm first"));
    mount.wait_clean();
    let search = "git status --short; grep -rn 'content 7' d* | sort; find . -name 'f7*' | sort; ls -lR d* > /dev/null";
    let first = sh(&mount.path(), search);
    assert!(first.contains("d7/f7:1:content 7"), "{first}");
    server.reset_counts();
    assert_eq!(sh(&mount.path(), search), first);
    assert_eq!(asked(&server), []);
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

/// Requests that change files, by route, when everything has arrived.
fn writes_of(server: &Server, mount: &Mount, work: impl FnOnce()) -> Vec<(String, u64)> {
    server.reset_counts();
    work();
    mount.wait_clean();
    let is_write = |route: &str| !route.starts_with("GET ");
    asked(server).into_iter().filter(|(route, _)| is_write(route)).collect()
}

#[test]
fn a_save_that_changes_no_byte_a_touch_and_a_chmod_ask_nothing() {
    let (server, mount) = mounted();
    let content = fs::read(mount.at("d1/f1")).unwrap();
    server.reset_counts();
    fs::write(mount.at("d1/f1"), content).unwrap();
    sh(&mount.path(), "touch d1/f1; chmod 600 d1/f1");
    mount.wait_clean();
    assert_eq!(asked(&server), []);
}

#[test]
fn what_is_created_and_deleted_within_the_settle_window_asks_nothing() {
    let server = Server::start();
    let mount = Mount::with(&server, Options::settle_as_shipped());
    assert_eq!(writes_of(&server, &mount, || drop(sh(&mount.path(), "echo x > t; rm t; mkdir d; echo y > d/t; rm -r d"))), []);
}

#[test]
fn a_hundred_saves_of_one_path_within_a_second_are_at_most_three_writes() {
    let server = Server::start();
    server.put("/f", "old");
    let mount = Mount::with(&server, Options::settle_as_shipped());
    let writes = writes_of(&server, &mount, || {
        for n in 0..100 {
            fs::write(mount.at("f"), format!("version {n}")).unwrap();
        }
    });
    assert!(writes.iter().map(|(_, n)| n).sum::<u64>() <= 3, "{writes:?}");
    assert_eq!(server.text("/f"), "version 99");
}

#[test]
fn five_hundred_new_small_files_are_at_most_eight_writes() {
    let server = Server::start();
    let mount = Mount::with(&server, Options::settle_as_shipped());
    let content = "x".repeat(4096);
    let writes = writes_of(&server, &mount, || {
        for n in 0..500 {
            fs::create_dir_all(mount.at(&format!("d{}", n % 10))).unwrap();
            fs::write(mount.at(&format!("d{}/f{n}", n % 10)), &content).unwrap();
        }
    });
    assert!(writes.iter().map(|(_, n)| n).sum::<u64>() <= 8, "{writes:?}");
    assert_eq!(server.paths().len(), 500);
}

#[test]
fn own_batches_that_come_back_as_events_are_not_read() {
    let server = Server::start();
    let mount = Mount::with(&server, Options::settle_as_shipped());
    server.reset_counts();
    for n in 0..50 {
        fs::write(mount.at(&format!("f{n}")), format!("mine {n}")).unwrap();
    }
    mount.wait_clean();
    server.put("/marker", "x");
    until("all events until the marker are seen", || mount.at("marker").exists());
    let is_read = |route: &str| route.starts_with("GET") && !route.starts_with("GET /ops");
    let reads: u64 = asked(&server).iter().filter(|(route, _)| is_read(route)).map(|(_, n)| n).sum();
    // The size of the marker.
    assert!(reads <= 1, "{:?}", asked(&server));
}

#[test]
fn a_file_moves_with_one_write_and_one_delete_and_a_directory_with_batches() {
    let server = Server::start();
    server.seed((0..100).map(|n| (format!("/d/f{n}"), format!("content {n}"))));
    server.put("/a", "one");
    let mount = Mount::with(&server, Options::settle_as_shipped());
    fs::read(mount.at("a")).unwrap();
    let writes = writes_of(&server, &mount, || fs::rename(mount.at("a"), mount.at("b")).unwrap());
    assert_eq!(writes, [("DELETE /fs/file".to_owned(), 1), ("PUT /fs/file".to_owned(), 1)]);
    let writes = writes_of(&server, &mount, || fs::rename(mount.at("d"), mount.at("e")).unwrap());
    let number = |route: &str| writes.iter().filter(|(r, _)| r == route).map(|(_, n)| *n).sum::<u64>();
    assert!(number("DELETE /fs/file") <= 100, "{writes:?}");
    assert!(number("POST /fs/bulk") + number("PUT /fs/file") <= 4, "{writes:?}");
    let moved: Vec<String> = server.paths().into_iter().filter(|p| p.starts_with("/e/f")).collect();
    assert_eq!(moved.len(), 100);
}
