//! A remote that comes back without its data, or with other data, uses the names of old revisions and events again.
//! Nothing that the mount has not seen may be overwritten because of that.

use std::fs;

use fuse_tests::{Mount, Options, Server, sh, until};

/// A mount that has read `f` ("one", the remote's first revision), and a server that is stopped.
fn mounted() -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "one");
    let mount = Mount::with(&server, Options::default().flag("--drain-timeout=300ms"));
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "one");
    (server, mount)
}

#[test]
fn an_edit_queued_across_the_restart_does_not_overwrite_another_file_of_the_same_revision() {
    let (mut server, mut mount) = mounted();
    let old = server.get("/f").unwrap().revision;
    server.stop();
    fs::write(mount.at("f"), "mine").unwrap();
    assert_eq!(mount.unmount(), 8);
    server.start_again_empty();
    assert_eq!(server.put("/f", "somebody else's"), old, "the test needs a revision that is used again");
    mount.start_again();
    mount.wait_synced();
    assert_eq!(server.text("/f"), "somebody else's");
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "mine");
    assert_eq!(mount.number("deadLettered"), 1);
}

#[test]
fn an_edit_queued_while_the_mount_lives_does_not_overwrite_another_file_of_the_same_revision() {
    let (mut server, mount) = mounted();
    server.stop();
    fs::write(mount.at("f"), "mine").unwrap();
    until("the mount has noticed", || mount.state()["status"] == "offline");
    server.start_again_empty();
    server.put("/f", "somebody else's");
    mount.wait_synced();
    let history = server.history("/f");
    assert_eq!(server.text("/f"), "somebody else's", "{history:?}");
    assert_eq!(mount.number("deadLettered"), 1);
}

#[test]
fn an_edit_that_was_never_tried_does_not_overwrite_another_file_of_the_same_revision() {
    let mut server = Server::start();
    server.put("/f", "one");
    let mut mount = Mount::with(&server, Options::never_settle());
    fs::write(mount.at("f"), "mine").unwrap();
    mount.kill9();
    server.stop();
    server.start_again_empty();
    server.put("/f", "somebody else's");
    mount.start_again();
    mount.unmount();
    assert_eq!(server.text("/f"), "somebody else's", "{:?}", server.history("/f"));
}

#[test]
fn a_remote_with_fewer_events_than_before_is_listed_again() {
    let mut server = Server::start();
    server.seed([("/a", "a"), ("/b", "b"), ("/c", "c")]);
    let mount = Mount::start(&server);
    assert_eq!(sh(&mount.path(), "cat a b c"), "abc");
    server.stop();
    server.start_again_empty();
    server.put("/new", "new");
    until("the new file shows", || mount.at("new").exists());
    until("the old ones are gone", || sh(&mount.path(), "ls") == "new\n");
    assert_eq!(fs::read_to_string(mount.at("new")).unwrap(), "new");
}

#[test]
fn a_remote_with_as_many_events_as_before_is_listed_again() {
    let (mut server, mount) = mounted();
    server.stop();
    server.start_again_empty();
    server.put("/new", "new");
    until("the new file shows", || mount.at("new").exists());
    until("the old one is gone", || !mount.at("f").exists());
}

#[test]
fn a_remote_with_more_events_than_before_is_listed_again() {
    let (mut server, mount) = mounted();
    server.stop();
    server.start_again_empty();
    server.seed([("/new1", "1"), ("/new2", "2"), ("/new3", "3")]);
    until("the new files show", || sh(&mount.path(), "ls") == "new1\nnew2\nnew3\n");
}

#[test]
fn a_cached_file_of_the_same_revision_shows_its_new_content() {
    let mut server = Server::start();
    server.seed([("/f", "one"), ("/g", "another")]);
    let mount = Mount::start(&server);
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "one");
    server.stop();
    server.start_again_empty();
    server.put("/f", "other content");
    until("the new content shows", || fs::read_to_string(mount.at("f")).is_ok_and(|t| t == "other content"));
}
