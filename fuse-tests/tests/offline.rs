//! While the remote is gone, everything local goes on at local speed; when it is back, what was saved arrives.

use std::fs;
use std::time::{Duration, Instant};

use fuse_tests::{Mount, Options, Server, sh, until};

/// Generous for a busy machine, and far below every deadline of a request.
const LOCAL_SPEED: Duration = Duration::from_secs(1);

#[track_caller]
fn quickly<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = act();
    let took = start.elapsed();
    assert!(took <= LOCAL_SPEED, "{what} took {took:?}");
    done
}

/// A mount with a cached file, whose unmount does not wait long.
fn mounted() -> (Server, Mount) {
    let server = Server::start();
    server.seed([("/cached.txt", "cached"), ("/dir/other.txt", "other")]);
    let mount = Mount::with(&server, Options::default().flag("--drain-timeout=300ms"));
    fs::read(mount.at("cached.txt")).unwrap();
    (server, mount)
}

fn assert_usable(mount: &Mount) {
    assert_eq!(quickly("a cached read", || fs::read_to_string(mount.at("cached.txt")).unwrap()), "cached");
    quickly("ls", || sh(&mount.path(), "ls -l . dir"));
    quickly("a save", || fs::write(mount.at("saved.txt"), "saved").unwrap());
    quickly("an edit", || fs::write(mount.at("dir/other.txt"), "edited").unwrap());
    quickly("mkdir and mv", || sh(&mount.path(), "mkdir -p new; mv saved.txt new/"));
    assert_eq!(quickly("a read of the save", || fs::read_to_string(mount.at("new/saved.txt")).unwrap()), "saved");
    quickly("status", || sh(&mount.path(), "cat .relay/status .relay/state.json; ls .relay/pending"));
}

#[track_caller]
fn assert_arrives(server: &Server, mount: &Mount) {
    mount.wait_clean();
    assert_eq!(server.text("/new/saved.txt"), "saved");
    assert_eq!(server.text("/dir/other.txt"), "edited");
    assert_eq!(server.history("/dir/other.txt"), ["file.created", "file.updated"]);
    assert_eq!(server.history("/new/saved.txt"), ["file.created"]);
    assert_eq!(server.history("/saved.txt"), Vec::<String>::new());
}

#[test]
fn with_the_remote_gone_local_work_goes_on_and_arrives_when_it_is_back() {
    let (mut server, mount) = mounted();
    server.stop();
    assert_usable(&mount);
    until("status says offline", || mount.state()["status"] == "offline");
    assert_usable(&mount);
    server.start_again();
    assert_arrives(&server, &mount);
    until("status says ready", || mount.state()["status"] == "ready");
}

#[test]
fn with_a_remote_that_never_answers_local_work_goes_on_and_arrives_when_it_does() {
    let (server, mount) = mounted();
    server.freeze();
    assert_usable(&mount);
    assert_usable(&mount);
    server.thaw();
    assert_arrives(&server, &mount);
}

#[test]
fn the_status_for_people_says_offline_and_that_nothing_is_lost() {
    let (mut server, mount) = mounted();
    server.stop();
    fs::write(mount.at("saved.txt"), "saved").unwrap();
    until("status says offline", || mount.state()["status"] == "offline");
    let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
    assert!(status.starts_with("state:") && status.lines().next().unwrap().contains("offline"), "{status}");
    assert!(status.contains("1 waiting"), "{status}");
    assert_eq!(mount.number("failedWritebacks"), 0, "no answer is no refusal");
}

#[test]
fn an_unmount_while_offline_says_so_and_the_next_mount_uploads() {
    let (mut server, mut mount) = mounted();
    server.stop();
    fs::write(mount.at("saved.txt"), "saved").unwrap();
    let start = Instant::now();
    assert_eq!(mount.unmount(), 8, "saves are still queued");
    assert!(start.elapsed() < Duration::from_secs(5), "the unmount took {:?}", start.elapsed());
    assert!(mount.log().contains("1 "), "the unmount says how many are left");
    server.start_again();
    mount.start_again();
    mount.wait_clean();
    assert_eq!(server.text("/saved.txt"), "saved");
    assert_eq!(server.history("/saved.txt"), ["file.created"]);
}

#[test]
fn an_unmount_from_a_remote_that_never_answers_does_not_hang() {
    let (server, mut mount) = mounted();
    server.freeze();
    fs::write(mount.at("saved.txt"), "saved").unwrap();
    let start = Instant::now();
    assert_eq!(mount.unmount(), 8);
    assert!(start.elapsed() < Duration::from_secs(8), "the unmount took {:?}", start.elapsed());
    server.thaw();
    mount.start_again();
    mount.wait_clean();
    assert_eq!(server.text("/saved.txt"), "saved");
    assert_eq!(server.history("/saved.txt"), ["file.created"]);
}

#[test]
fn a_mount_that_starts_offline_shows_what_is_known_and_catches_up() {
    let (mut server, mut mount) = mounted();
    assert_eq!(mount.unmount(), 0);
    server.stop();
    let mut offline = mount.command();
    let refused = offline.arg("--foreground").output().unwrap();
    assert_eq!(refused.status.code(), Some(6), "without --offline-ok: {refused:?}");
    drop(offline);
    mount.allow_offline();
    mount.start_again();
    assert_usable(&mount);
    server.start_again();
    assert_arrives(&server, &mount);
}

#[test]
fn a_read_of_what_is_not_cached_fails_and_does_not_hang() {
    let server = Server::start();
    server.put("/far.txt", "far");
    let mount = Mount::with(&server, Options::default().flag("--timeout=1s"));
    server.freeze();
    let start = Instant::now();
    let error = fs::read(mount.at("far.txt")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
    server.thaw();
    until("it can be read again", || fs::read_to_string(mount.at("far.txt")).is_ok_and(|t| t == "far"));
}

#[test]
fn a_listing_with_sizes_does_not_wait_for_each_file_of_a_remote_that_is_silent() {
    let server = Server::start();
    // Lengths that a listing cannot tell from base64, so that the sizes would have to be fetched.
    server.seed((0..60).map(|n| (format!("/d/{n:02}"), "12345678")));
    let mount = Mount::with(&server, Options::default().flag("--timeout").flag("3s"));
    server.freeze();
    let began = Instant::now();
    let listing = sh(&mount.path(), "ls -l d | wc -l");
    let took = began.elapsed();
    server.thaw();
    assert_eq!(listing.trim(), "61");
    assert!(took < Duration::from_secs(12), "it took {took:?}, which is more than one deadline or two");
    until("the sizes are true", || {
        sh(&mount.path(), "ls -l d").lines().skip(1).all(|l| l.split_whitespace().nth(4) == Some("8"))
    });
}
