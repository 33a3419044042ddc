//! Many small saves in few requests, and what becomes of them when such a request fails.

use std::collections::HashSet;
use std::fs;

use fuse_tests::{Mount, Options, Server, sh, until};
use serde_json::json;

const FILES: usize = 30;

fn name(n: usize) -> String {
    format!("d/f{n}")
}

/// Saves that become due together, as an unpacked archive does.
fn save_many(mount: &Mount) {
    fs::create_dir_all(mount.at("d")).unwrap();
    for n in 0..FILES {
        fs::write(mount.at(&name(n)), format!("content {n}")).unwrap();
    }
}

#[track_caller]
fn assert_each_written_once(server: &Server, mount: &Mount) {
    mount.wait_clean();
    let events = server.events();
    for n in 0..FILES {
        let path = format!("/{}", name(n));
        let own: Vec<_> = events.iter().filter(|e| e.path == path).collect();
        assert_eq!(own.len(), 1, "{path}: {own:?}");
        assert_eq!(server.text(&path), format!("content {n}"));
    }
    assert_eq!(mount.number("deadLettered"), 0);
}

fn mounted() -> (Server, Mount) {
    let server = Server::start();
    let mount = Mount::with(&server, Options::settle_as_shipped());
    server.reset_counts();
    (server, mount)
}

#[test]
fn a_batch_whose_answer_was_lost_is_written_once() {
    for fault in [json!({ "drop_after_commit": true }), json!({ "cut_body": 40 }), json!({ "reset": true })] {
        let (server, mount) = mounted();
        let mut rule = fault.clone();
        (rule["path_prefix"], rule["times"]) = ("/fs/bulk".into(), 1.into());
        server.fault(rule);
        save_many(&mount);
        assert_each_written_once(&server, &mount);
        assert_eq!(server.fault_hits(), 1, "{fault}");
        assert_eq!(mount.number("failedWritebacks"), 0, "{fault}: no answer is no refusal");
    }
}

#[test]
fn a_file_that_the_remote_stumbles_over_does_not_hold_up_the_rest_of_its_batch() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "POST", "path_prefix": "/fs/bulk", "file_path": "/d/f3", "status": 503 }));
    server.fault(json!({ "method": "PUT", "file_path": "/d/f3", "status": 503 }));
    save_many(&mount);
    until("the others are there", || server.paths().len() == FILES - 1);
    assert!(server.get("/d/f3").is_none());
    server.clear_faults();
    mount.writeback_ends_with(&["flush"], 0);
    assert_each_written_once(&server, &mount);
}

#[test]
fn a_batch_that_is_told_to_wait_waits() {
    let (server, mount) = mounted();
    server.fault(json!({ "path_prefix": "/fs/bulk", "times": 1, "status": 429, "retry_after": 2 }));
    save_many(&mount);
    until("it was told to wait", || server.fault_hits() == 1);
    let told = std::time::Instant::now();
    assert_each_written_once(&server, &mount);
    assert!(told.elapsed() >= std::time::Duration::from_millis(1800), "they came again after {:?}", told.elapsed());
}

#[test]
fn a_batch_that_is_refused_as_a_whole_is_sent_one_by_one() {
    for status in [413, 404, 405] {
        let (server, mount) = mounted();
        server.fault(json!({ "path_prefix": "/fs/bulk", "status": status }));
        save_many(&mount);
        assert_each_written_once(&server, &mount);
        // By a remote that has no such route it is asked for once.
        assert!(status == 413 || server.fault_hits() <= 2, "{status}: {} batches", server.fault_hits());
        assert_eq!(mount.number("failedWritebacks"), 0, "{status}");
    }
}

#[test]
fn one_conflicting_file_among_many_is_the_only_letter() {
    let (server, mount) = mounted();
    server.put("/d/f3", "base");
    until("it is in the mount", || mount.at("d/f3").exists());
    fs::read(mount.at("d/f3")).unwrap();
    let writer = fs::OpenOptions::new().write(true).truncate(true).open(mount.at("d/f3")).unwrap();
    server.put("/d/f3", "theirs, with other bytes");
    server.put("/marker", "");
    until("the mount has heard of it", || mount.at("marker").exists());
    save_many(&mount);
    drop(writer);
    mount.wait_number("deadLettered", 1);
    mount.wait_number("pendingWriteback", 0);
    assert_eq!(mount.letter().record["path"], "/d/f3");
    assert_eq!(server.text("/d/f3"), "theirs, with other bytes");
    for n in (0..FILES).filter(|n| *n != 3) {
        assert_eq!(server.text(&format!("/{}", name(n))), format!("content {n}"));
    }
}

#[test]
fn a_batch_is_written_once_wherever_the_process_dies() {
    // `claimed`, `sent` and `answered` are places of the batch; the others are visited by each of its files.
    for place in ["claimed", "payload-written", "payload-written:7", "sent", "answered", "acknowledged", "acknowledged:7"] {
        for with_drain in [false, true] {
            let server = Server::start();
            let mut mount = Mount::with(&server, Options::settle_as_shipped());
            mount.unmount();
            mount.set_env("RELAYFILE_FAILPOINT", place);
            mount.start_again();
            save_many(&mount);
            mount.wait_killed();
            mount.clear_env();
            if with_drain {
                let out = fuse_tests::output(&mut mount.drain(&[]));
                assert_eq!(out.status.code(), Some(0), "{place}: {out:?}");
            }
            mount.start_again();
            assert_each_written_once(&server, &mount);
            let payloads = fs::read_dir(mount.state_dir().join("payloads")).unwrap().count();
            assert_eq!(payloads, 0, "{place}: payloads of what has ended are left");
        }
    }
}

#[test]
fn the_delivery_of_a_batch_is_followed_although_its_answer_was_lost() {
    let (server, mount) = mounted();
    server.fault(json!({ "path_prefix": "/fs/bulk", "times": 1, "drop_after_commit": true }));
    save_many(&mount);
    assert_each_written_once(&server, &mount);
    for n in 0..FILES {
        server.deliver(&format!("/{}", name(n)), json!({ "success": true }));
    }
    until("every delivery is at its end", || mount.state()["delivery"]["unresolved"] == 0);
    assert_eq!(mount.state()["delivery"]["lost"], 0, "they were found by their identity");
}

#[test]
fn a_batch_of_a_mount_below_a_directory_names_whole_paths() {
    let server = Server::start();
    server.put("/m/old", "");
    let mount = Mount::with(&server, Options::settle_as_shipped().flag("--remote-path=/m"));
    sh(&mount.path(), "for i in 1 2 3 4; do printf $i > n$i; done");
    mount.wait_clean();
    let paths: HashSet<String> = server.paths().into_iter().collect();
    assert!((1..=4).all(|n| paths.contains(&format!("/m/n{n}"))), "{paths:?}");
}
