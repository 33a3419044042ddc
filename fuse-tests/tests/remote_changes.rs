//! What others change at the remote shows in the mount, whole; what both changed is a conflict that destroys nothing.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;

use fuse_tests::{Mount, Options, Server, sh, until};

/// A mount whose files have been read and looked at, so that everything is in some cache.
fn mounted(files: &[(&str, &str)]) -> (Server, Mount) {
    let server = Server::start();
    server.seed(files.iter().copied());
    let mount = Mount::start(&server);
    for (path, content) in files {
        assert_eq!(fs::read_to_string(mount.at(&path[1..])).unwrap(), *content);
    }
    (server, mount)
}

#[track_caller]
fn wait_content(mount: &Mount, name: &str, content: &str) {
    until(&format!("{name} holds {content:?}"), || fs::read(mount.at(name)).is_ok_and(|c| c == content.as_bytes()));
    assert_eq!(fs::metadata(mount.at(name)).unwrap().size(), content.len() as u64);
}

#[test]
fn a_new_remote_file_appears_with_its_directories() {
    let (server, mount) = mounted(&[("/old", "x")]);
    assert!(!mount.at("a").exists(), "a miss that could be cached");
    server.put("/a/b/new", "hello");
    wait_content(&mount, "a/b/new", "hello");
    assert_eq!(sh(&mount.path(), "find a -type f"), "a/b/new\n");
}

#[test]
fn a_remote_update_appears_longer_shorter_and_of_the_same_length() {
    let (server, mount) = mounted(&[("/f", "first")]);
    for content in ["second, and longer than the first", "3rd", "4th", "", "not empty again"] {
        server.put("/f", content);
        wait_content(&mount, "f", content);
    }
}

#[test]
fn a_remote_delete_removes_the_file_and_directories_that_only_the_remote_implied() {
    let (server, mount) = mounted(&[("/d/f", "x"), ("/stays", "y")]);
    server.delete("/d/f");
    until("the file is gone", || !mount.at("d/f").exists());
    assert_eq!(fs::read_to_string(mount.at("stays")).unwrap(), "y");
    assert_eq!(sh(&mount.path(), "ls"), "stays\n");
}

#[test]
fn a_file_that_others_replace_over_and_over_is_always_read_whole() {
    // Each version is one letter, repeated; its length says which. A mixture or a cut version is an error.
    let (server, mount) = mounted(&[("/f", "a")]);
    let lengths = [1, 9000, 10, 70_000, 3, 5000, 20_000];
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let content = fs::read(mount.at("f")).unwrap();
                let letter = *content.first().expect("never empty");
                assert!(content.iter().all(|b| *b == letter), "a mixture of versions");
                assert_eq!(content.len(), lengths[(letter - b'a') as usize], "version {} is cut", letter as char);
                reads += 1;
            }
            reads
        });
        for (i, length) in lengths.iter().enumerate().skip(1) {
            let letter = b'a' + i as u8;
            server.put("/f", vec![letter; *length]);
            until("the version shows", || reader.is_finished() || fs::metadata(mount.at("f")).unwrap().size() == *length as u64);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > lengths.len());
    });
}

#[test]
fn a_reader_that_has_the_file_open_keeps_the_version_that_it_opened() {
    let (server, mount) = mounted(&[("/f", "version one")]);
    let mut open = File::open(mount.at("f")).unwrap();
    server.put("/f", "two");
    wait_content(&mount, "f", "two");
    let mut text = String::new();
    open.rewind().unwrap();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "version one");
}

#[test]
fn a_remote_change_of_a_file_with_an_unsent_edit_is_a_conflict_that_destroys_neither_side() {
    let server = Server::start();
    server.put("/f", "base");
    let mut mount = Mount::with(&server, Options::never_settle());
    fs::write(mount.at("f"), "mine").unwrap();
    server.put("/f", "theirs");
    server.put("/marker", "x");
    until("the mount has heard of it", || mount.at("marker").exists());
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "mine", "the local edit is not touched");
    mount.unmount();
    assert_eq!(server.text("/f"), "theirs", "the remote keeps theirs");
    mount.start_again();
    wait_content(&mount, "f", "theirs");
    assert_eq!(mount.number("deadLettered"), 1);
    assert_eq!(mount.letters()[0].payload().unwrap(), b"mine", "mine is in the letter");
    assert_eq!(mount.state()["lastError"]["code"], "conflict");
    let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
    assert!(status.contains("attention") && status.contains("/f"), "{status}");
}

#[test]
fn an_edit_of_a_file_that_others_have_deleted_does_not_bring_it_back() {
    let server = Server::start();
    server.put("/f", "base");
    let mut mount = Mount::with(&server, Options::never_settle());
    fs::write(mount.at("f"), "mine").unwrap();
    server.delete("/f");
    mount.unmount();
    assert_eq!(server.get("/f"), None);
    mount.start_again();
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "mine");
    assert_eq!(mount.number("deadLettered"), 1);
}

#[test]
fn a_removal_of_a_file_that_others_have_edited_does_not_delete_their_edit() {
    let server = Server::start();
    server.put("/f", "base");
    let mut mount = Mount::with(&server, Options::never_settle());
    fs::remove_file(mount.at("f")).unwrap();
    server.put("/f", "theirs");
    mount.unmount();
    assert_eq!(server.text("/f"), "theirs");
    mount.start_again();
    wait_content(&mount, "f", "theirs");
}

#[test]
fn a_file_created_on_both_sides_is_a_conflict() {
    let server = Server::start();
    let mut mount = Mount::with(&server, Options::never_settle());
    fs::write(mount.at("f"), "mine").unwrap();
    server.put("/f", "theirs");
    mount.unmount();
    assert_eq!(server.text("/f"), "theirs");
    mount.start_again();
    wait_content(&mount, "f", "theirs");
    assert_eq!(mount.number("deadLettered"), 1);
    assert_eq!(mount.letters()[0].payload().unwrap(), b"mine");
}

#[test]
fn the_same_content_written_on_both_sides_is_no_conflict() {
    let server = Server::start();
    server.put("/f", "base");
    let mut mount = Mount::with(&server, Options::never_settle());
    fs::write(mount.at("f"), "the same").unwrap();
    server.put("/f", "the same");
    assert_eq!(mount.unmount(), 0);
    mount.start_again();
    assert_eq!(mount.number("deadLettered"), 0);
    assert_eq!(server.history("/f"), ["file.created", "file.updated"]);
}

#[test]
fn what_changed_while_nothing_was_mounted_shows_after_the_next_mount() {
    let (server, mut mount) = mounted(&[("/changed", "1"), ("/deleted", "2"), ("/same", "3")]);
    mount.unmount();
    server.put("/changed", "one");
    server.delete("/deleted");
    server.put("/new", "4");
    mount.start_again();
    wait_content(&mount, "changed", "one");
    wait_content(&mount, "new", "4");
    until("the deleted one is gone", || !mount.at("deleted").exists());
    assert_eq!(fs::read_to_string(mount.at("same")).unwrap(), "3");
}
