//! A save whose close() has returned survives the death of the mount and reaches the remote exactly once.

use std::fs::{self, File};
use std::io::Write;

use fuse_tests::{Mount, Options, Server, output, until};
use serde_json::json;

/// Kills the mount and starts it again on the same state.
fn crash(mount: &mut Mount) {
    mount.kill9();
    mount.start_again();
}

#[test]
fn a_new_file_saved_before_the_crash_is_uploaded_once_after_it() {
    let server = Server::start();
    let mut mount = Mount::with(&server, Options::never_settle());
    fs::write(mount.at("new.txt"), "precious").unwrap();
    mount.kill9();
    assert_eq!(server.get("/new.txt"), None, "it must still have been queued");
    mount.start_again();
    assert_eq!(fs::read_to_string(mount.at("new.txt")).unwrap(), "precious", "it is seen before it is uploaded");
    assert_eq!(mount.unmount(), 0);
    assert_eq!(server.text("/new.txt"), "precious");
    assert_eq!(server.history("/new.txt"), ["file.created"]);
}

#[test]
fn an_edit_saved_before_the_crash_is_uploaded_once_after_it() {
    let server = Server::start();
    server.put("/f.txt", "old");
    let mut mount = Mount::with(&server, Options::never_settle());
    fs::write(mount.at("f.txt"), "new").unwrap();
    crash(&mut mount);
    assert_eq!(mount.unmount(), 0);
    assert_eq!(server.text("/f.txt"), "new");
    assert_eq!(server.history("/f.txt"), ["file.created", "file.updated"]);
}

#[test]
fn a_crash_before_the_server_reads_the_request_sends_it_once() {
    // The request lies in the socket of a server that stands still; it goes on after the crash, perhaps with the request.
    let server = Server::start();
    let mut mount = Mount::start(&server);
    server.freeze();
    fs::write(mount.at("f.txt"), "precious").unwrap();
    mount.wait_number("inFlight", 1);
    mount.kill9();
    server.thaw();
    mount.start_again();
    mount.wait_clean();
    assert_eq!(server.text("/f.txt"), "precious");
    assert_eq!(server.history("/f.txt"), ["file.created"]);
}

#[test]
fn a_crash_while_the_server_holds_the_request_back_sends_it_once() {
    let server = Server::start();
    server.put("/f.txt", "old");
    let mut mount = Mount::start(&server);
    server.fault(json!({ "method": "PUT", "times": 1, "delay_ms": 60_000 }));
    fs::write(mount.at("f.txt"), "precious").unwrap();
    until("the upload is on its way", || server.fault_hits() == 1);
    crash(&mut mount);
    mount.wait_clean();
    assert_eq!(server.text("/f.txt"), "precious");
    assert_eq!(server.history("/f.txt"), ["file.created", "file.updated"]);
}

#[test]
fn a_crash_after_a_commit_whose_answer_was_lost_sends_it_once() {
    let server = Server::start();
    server.put("/f.txt", "old");
    let mut mount = Mount::start(&server);
    server.fault(json!({ "method": "PUT", "times": 1, "drop_after_commit": true }));
    // Whatever the mount asks after the lost answer waits until it is killed.
    server.fault(json!({ "path_prefix": "/fs/file", "delay_ms": 60_000, "times": 2 }));
    fs::write(mount.at("f.txt"), "precious").unwrap();
    until("the upload is committed", || server.history("/f.txt").len() == 2);
    mount.kill9();
    server.clear_faults();
    mount.start_again();
    mount.wait_clean();
    assert_eq!(server.text("/f.txt"), "precious");
    assert_eq!(server.history("/f.txt"), ["file.created", "file.updated"]);
}

#[test]
fn removals_renames_and_directories_survive_the_crash() {
    let server = Server::start();
    server.seed([("/gone.txt", "1"), ("/old-name.txt", "2")]);
    let mut mount = Mount::with(&server, Options::never_settle());
    fs::remove_file(mount.at("gone.txt")).unwrap();
    fs::rename(mount.at("old-name.txt"), mount.at("new-name.txt")).unwrap();
    fs::create_dir(mount.at("empty")).unwrap();
    crash(&mut mount);
    assert!(!mount.at("gone.txt").exists() && !mount.at("old-name.txt").exists());
    assert!(mount.at("empty").is_dir());
    assert_eq!(fs::read_to_string(mount.at("new-name.txt")).unwrap(), "2");
    assert_eq!(mount.unmount(), 0);
    assert_eq!(server.paths(), ["/new-name.txt"]);
}

/// A program and the mount die while the program is in the middle of writing `hal` over `whole`.
fn crash_in_the_middle_of_a_write(server: &Server, cached: bool) -> Mount {
    server.put("/f.txt", "whole");
    let mut mount = Mount::start(server);
    if cached {
        fs::read(mount.at("f.txt")).unwrap();
    }
    let mut file = File::options().write(true).truncate(true).open(mount.at("f.txt")).unwrap();
    file.write_all(b"hal").unwrap();
    mount.kill9();
    drop(file);
    mount.start_again();
    mount
}

#[track_caller]
fn assert_kept_and_not_uploaded(server: &Server, mount: &Mount) {
    mount.wait_synced();
    assert_eq!(fs::read_to_string(mount.at("f.txt")).unwrap(), "hal");
    assert_eq!(server.text("/f.txt"), "whole");
    assert_eq!(mount.number("deadLettered"), 1);
    assert_eq!(mount.state()["lastError"]["code"], "unflushed");
}

#[test]
fn what_a_killed_writer_had_not_flushed_stays_visible_and_is_not_uploaded() {
    let server = Server::start();
    let mount = crash_in_the_middle_of_a_write(&server, true);
    assert_kept_and_not_uploaded(&server, &mount);
}

#[test]
fn what_a_killed_writer_had_not_flushed_stays_visible_also_in_a_file_that_was_never_read() {
    let server = Server::start();
    let mount = crash_in_the_middle_of_a_write(&server, false);
    assert_kept_and_not_uploaded(&server, &mount);
}

#[test]
fn the_next_proper_save_resolves_what_was_unflushed() {
    let server = Server::start();
    let mount = crash_in_the_middle_of_a_write(&server, true);
    assert_kept_and_not_uploaded(&server, &mount);
    fs::write(mount.at("f.txt"), "whole again").unwrap();
    mount.wait_synced();
    mount.wait_number("deadLettered", 0);
    assert_eq!(server.text("/f.txt"), "whole again");
}

#[test]
fn the_endpoint_of_a_killed_mount_is_cleared_by_the_next_start() {
    let server = Server::start();
    server.put("/f.txt", "here");
    let mut mount = Mount::start(&server);
    mount.kill9();
    let error = fs::read_dir(mount.path()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN), "the endpoint must be dead for this test to mean something");
    mount.start_again();
    assert_eq!(fs::read_to_string(mount.at("f.txt")).unwrap(), "here");
}

#[test]
fn unmount_clears_the_endpoint_of_a_killed_mount() {
    let server = Server::start();
    let mut mount = Mount::start(&server);
    mount.kill9();
    let done = output(mount.relayfile().arg("unmount").arg(mount.path()));
    assert_eq!(done.status.code(), Some(8), "nobody can say that all has arrived: {done:?}");
    assert!(fs::read_dir(mount.path()).unwrap().next().is_none());
}

#[test]
fn the_last_of_many_saves_is_the_one_that_survives() {
    let server = Server::start();
    let mut mount = Mount::with(&server, Options { settle: "20ms", ..Options::default() });
    for round in 0..5 {
        for n in 0..20 {
            fs::write(mount.at(&format!("f{}", n % 4)), format!("{round}.{n}")).unwrap();
        }
        crash(&mut mount);
        for n in 16..20 {
            assert_eq!(fs::read_to_string(mount.at(&format!("f{}", n % 4))).unwrap(), format!("{round}.{n}"));
        }
    }
    mount.wait_clean();
    for n in 16..20 {
        assert_eq!(server.text(&format!("/f{}", n % 4)), format!("4.{n}"));
    }
}
