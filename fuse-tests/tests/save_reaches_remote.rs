//! A save of any kind reaches the remote as one write, based on the revision that was edited.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use fuse_tests::{Mount, Options, Server, sh};
use serde_json::json;

/// A mounted workspace that has one file, which has been read.
fn with_file(content: &str) -> (Server, Mount) {
    let server = Server::start();
    server.put("/f.txt", content);
    let mount = Mount::start(&server);
    assert_eq!(fs::read_to_string(mount.at("f.txt")).unwrap(), content);
    server.reset_counts();
    (server, mount)
}

/// The remote has exactly this after exactly one write, which was an update of the record.
#[track_caller]
fn assert_one_update(server: &Server, mount: &Mount, content: &str) {
    mount.wait_clean();
    assert_eq!(server.writes(), 1, "{:?}", server.counts());
    assert_eq!(server.text("/f.txt"), content);
    assert_eq!(server.history("/f.txt"), ["file.created", "file.updated"]);
    assert_eq!(server.paths(), ["/f.txt"]);
}

#[test]
fn a_new_file_is_created_at_the_remote_with_one_write() {
    let server = Server::start();
    let mount = Mount::start(&server);
    server.reset_counts();
    fs::write(mount.at("new.md"), "hello\n").unwrap();
    mount.wait_clean();
    assert_eq!(server.writes(), 1);
    assert_eq!(server.text("/new.md"), "hello\n");
    assert_eq!(server.history("/new.md"), ["file.created"]);
}

#[test]
fn an_empty_new_file_reaches_the_remote() {
    let server = Server::start();
    let mount = Mount::start(&server);
    File::create(mount.at("empty")).unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/empty"), "");
}

#[test]
fn an_overwrite_is_one_update() {
    let (server, mount) = with_file("old\n");
    fs::write(mount.at("f.txt"), "new\n").unwrap();
    assert_one_update(&server, &mount, "new\n");
}

#[test]
fn an_overwrite_of_a_file_that_was_never_read_is_one_update() {
    let server = Server::start();
    server.put("/f.txt", "old\n");
    let mount = Mount::start(&server);
    server.reset_counts();
    fs::write(mount.at("f.txt"), "new\n").unwrap();
    assert_one_update(&server, &mount, "new\n");
}

#[test]
fn an_append_is_one_update() {
    let (server, mount) = with_file("one\n");
    OpenOptions::new().append(true).open(mount.at("f.txt")).unwrap().write_all(b"two\n").unwrap();
    assert_one_update(&server, &mount, "one\ntwo\n");
}

#[test]
fn an_append_to_a_file_that_was_never_read_keeps_its_beginning() {
    let server = Server::start();
    server.put("/f.txt", "one\n");
    let mount = Mount::start(&server);
    server.reset_counts();
    sh(&mount.path(), "echo two >> f.txt");
    assert_one_update(&server, &mount, "one\ntwo\n");
}

#[test]
fn a_truncation_to_nothing_is_one_update() {
    let (server, mount) = with_file("something\n");
    sh(&mount.path(), ": > f.txt");
    assert_one_update(&server, &mount, "");
}

#[test]
fn a_truncation_by_path_is_one_update() {
    let (server, mount) = with_file("0123456789");
    sh(&mount.path(), "truncate -s 4 f.txt");
    assert_one_update(&server, &mount, "0123");
}

#[test]
fn a_truncation_beyond_the_end_adds_zeros() {
    let (server, mount) = with_file("ab");
    sh(&mount.path(), "truncate -s 4 f.txt");
    assert_one_update(&server, &mount, "ab\0\0");
}

#[test]
fn a_write_in_the_middle_is_one_update() {
    let (server, mount) = with_file("0123456789");
    sh(&mount.path(), "printf XY | dd of=f.txt bs=1 seek=4 conv=notrunc status=none");
    assert_one_update(&server, &mount, "0123XY6789");
}

#[test]
fn each_edit_of_a_series_is_one_update_on_top_of_the_last() {
    let (server, mount) = with_file("0");
    for n in 1..=3 {
        fs::write(mount.at("f.txt"), n.to_string()).unwrap();
        mount.wait_clean();
        assert_eq!((server.writes(), server.text("/f.txt")), (n, n.to_string()));
    }
}

#[test]
fn a_hundred_saves_within_the_settle_window_are_few_writes() {
    let server = Server::start();
    let mount = Mount::with(&server, Options::settle_as_shipped());
    server.reset_counts();
    for n in 0..100 {
        fs::write(mount.at("f.txt"), n.to_string()).unwrap();
    }
    mount.wait_clean();
    assert!(server.writes() <= 3, "{:?}", server.counts());
    assert_eq!(server.text("/f.txt"), "99");
}

#[test]
fn a_file_created_and_removed_within_the_settle_window_is_never_sent() {
    let server = Server::start();
    let mount = Mount::with(&server, Options::settle_as_shipped());
    server.reset_counts();
    fs::write(mount.at("scratch"), "x").unwrap();
    fs::remove_file(mount.at("scratch")).unwrap();
    mount.wait_clean();
    assert_eq!(server.writes(), 0);
    assert_eq!(server.events(), []);
}

#[test]
fn a_save_that_changes_no_byte_sends_nothing() {
    let (server, mount) = with_file("same\n");
    fs::write(mount.at("f.txt"), "same\n").unwrap();
    mount.wait_clean();
    assert_eq!(server.writes(), 0);
    assert_eq!(server.history("/f.txt"), ["file.created"]);
}

#[test]
fn touch_and_chmod_send_nothing() {
    let (server, mount) = with_file("same\n");
    sh(&mount.path(), "touch f.txt; touch -d 2001-02-03 f.txt");
    fs::set_permissions(mount.at("f.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    // A real save afterwards shows that the queue was looked at.
    fs::write(mount.at("other"), "x").unwrap();
    mount.wait_clean();
    assert_eq!(server.writes(), 1, "only the other file: {:?}", server.counts());
    assert_eq!(server.history("/f.txt"), ["file.created"]);
}

#[test]
fn a_write_that_nobody_knew_of_is_never_overwritten() {
    // The mount learns of remote changes after a moment; the revision that its write carries must protect until then.
    let server = Server::start();
    server.put("/f.txt", "base");
    server.refuse_streams();
    let mount = Mount::with(&server, Options { settle: "0ms", ..Options::default() });
    fs::read(mount.at("f.txt")).unwrap();
    server.fault(json!({ "path_prefix": "/fs/events", "delay_ms": 3000 }));
    server.put("/f.txt", "theirs");
    fs::write(mount.at("f.txt"), "mine").unwrap();
    mount.wait_synced();
    assert_eq!(server.text("/f.txt"), "theirs");
    assert_eq!(fs::read_to_string(mount.at("f.txt")).unwrap(), "mine");
    assert_eq!(mount.number("deadLettered"), 1);
}
