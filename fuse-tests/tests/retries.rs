//! What the remote answers decides what becomes of a save: again, again later, or a dead letter that can be seen. Never lost.

use std::fs;
use std::time::{Duration, Instant};

use fuse_tests::{Mount, Options, Server, until};
use serde_json::json;

fn mounted() -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "old");
    let mount = Mount::start(&server);
    server.reset_counts();
    (server, mount)
}

#[test]
fn a_save_arrives_after_two_failures_which_are_counted() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 2, "status": 503 }));
    fs::write(mount.at("f"), "new").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "new");
    assert_eq!(mount.number("failedWritebacks"), 2);
    assert_eq!(server.writes(), 3);
    assert_eq!(server.history("/f"), ["file.created", "file.updated"]);
}

#[test]
fn retry_after_is_honoured() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "status": 429, "retry_after": 2 }));
    fs::write(mount.at("f"), "new").unwrap();
    until("it was told to wait", || server.fault_hits() == 1);
    let told = Instant::now();
    mount.wait_clean();
    // The poll may have seen the answer a moment after the mount did.
    assert!(told.elapsed() >= Duration::from_millis(1800), "it came again after {:?}", told.elapsed());
    assert_eq!(server.text("/f"), "new");
    assert_eq!(server.writes(), 2);
}

#[test]
fn a_write_whose_answer_was_lost_is_done_once() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "drop_after_commit": true }));
    fs::write(mount.at("f"), "new").unwrap();
    mount.wait_clean();
    assert_eq!(server.fault_hits(), 1);
    assert_eq!(server.history("/f"), ["file.created", "file.updated"]);
    fs::write(mount.at("f"), "newer").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "newer", "the next edit is based on what was written");
}

#[test]
fn a_write_whose_answer_was_cut_is_done_once() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "cut_body": 10 }));
    fs::write(mount.at("f"), "new").unwrap();
    mount.wait_clean();
    assert_eq!(server.fault_hits(), 1);
    assert_eq!(server.history("/f"), ["file.created", "file.updated"]);
}

#[test]
fn a_reset_connection_is_tried_again() {
    let (server, mount) = mounted();
    server.fault(json!({ "path_prefix": "/fs/file", "times": 3, "reset": true }));
    fs::write(mount.at("f"), "new").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "new");
    assert_eq!(server.history("/f"), ["file.created", "file.updated"]);
    assert_eq!(mount.number("failedWritebacks"), 0, "no answer is no refusal");
}

#[test]
fn a_delete_whose_answer_was_lost_is_done_once() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "DELETE", "times": 1, "drop_after_commit": true }));
    fs::remove_file(mount.at("f")).unwrap();
    mount.wait_clean();
    assert_eq!(server.history("/f"), ["file.created", "file.deleted"]);
    assert!(!mount.at("f").exists());
}

#[test]
fn a_refused_save_is_a_dead_letter_and_stays_readable() {
    let (server, mut mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "status": 400, "code": "bad_request", "message": "schema says no" }));
    fs::write(mount.at("f"), "refused").unwrap();
    mount.wait_number("deadLettered", 1);
    assert_eq!(mount.number("pendingWriteback"), 0);
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "refused");
    assert_eq!(server.text("/f"), "old");
    let state = mount.state();
    let error = &state["lastError"];
    assert_eq!((&error["status"], &error["path"], &error["message"]), (&json!(400), &json!("/f"), &json!("schema says no")));
    let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
    assert!(status.contains("schema says no") && status.contains(error["opId"].as_str().unwrap()), "{status}");

    mount.remount();
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "refused", "the bytes are kept across a remount");
    assert_eq!(mount.number("deadLettered"), 1);
}

#[test]
fn the_next_good_save_resolves_a_dead_letter() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "status": 400 }));
    fs::write(mount.at("f"), "refused").unwrap();
    mount.wait_number("deadLettered", 1);
    fs::write(mount.at("f"), "good").unwrap();
    mount.wait_synced();
    mount.wait_number("deadLettered", 0);
    assert_eq!(server.text("/f"), "good");
    assert_eq!(server.history("/f"), ["file.created", "file.updated"]);
}

#[test]
fn a_remote_that_fails_for_good_makes_a_dead_letter_after_the_budget() {
    let server = Server::start();
    let mount = Mount::with(&server, Options::default().flag("--max-attempts=2"));
    server.fault(json!({ "method": "PUT", "status": 500 }));
    fs::write(mount.at("f"), "kept").unwrap();
    mount.wait_number("deadLettered", 1);
    assert_eq!(server.fault_hits(), 2);
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "kept");
}

#[test]
fn a_refused_token_spends_no_attempt() {
    let server = Server::start();
    let mount = Mount::with(&server, Options::default().flag("--max-attempts=1"));
    server.fault(json!({ "method": "PUT", "times": 2, "status": 401 }));
    fs::write(mount.at("f"), "kept").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "kept");
}

#[test]
fn a_file_too_large_for_the_remote_is_kept_here() {
    let (server, mount) = mounted();
    let large = "x".repeat(1_200_000);
    fs::write(mount.at("large"), &large).unwrap();
    mount.wait_number("deadLettered", 1);
    assert_eq!(mount.state()["lastError"]["status"], 413);
    assert_eq!(fs::read_to_string(mount.at("large")).unwrap(), large);
    assert_eq!(server.get("/large"), None);
}

#[test]
fn a_save_during_an_upload_waits_and_is_based_on_it() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "delay_ms": 800 }));
    fs::write(mount.at("f"), "first").unwrap();
    until("the first is on its way", || server.fault_hits() == 1);
    fs::write(mount.at("f"), "second").unwrap();
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "second");
    mount.wait_clean();
    assert_eq!(server.text("/f"), "second");
    assert_eq!(server.history("/f"), ["file.created", "file.updated", "file.updated"]);
}

#[test]
fn a_save_behind_one_that_is_refused_goes_out_in_its_place() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "delay_ms": 800, "status": 400 }));
    fs::write(mount.at("f"), "first").unwrap();
    until("the first is on its way", || server.fault_hits() == 1);
    fs::write(mount.at("f"), "second").unwrap();
    mount.wait_synced();
    mount.wait_number("deadLettered", 0);
    assert_eq!(server.text("/f"), "second");
}

#[test]
fn trouble_with_one_file_does_not_hold_up_the_others() {
    let (server, mount) = mounted();
    server.refuse_batches();
    server.fault(json!({ "file_path": "/f", "method": "PUT", "status": 503 }));
    fs::write(mount.at("f"), "stuck").unwrap();
    for n in 0..20 {
        fs::write(mount.at(&format!("other{n}")), "fine").unwrap();
    }
    until("the others are there", || server.paths().len() == 21);
    assert_eq!(server.text("/f"), "old");
}
