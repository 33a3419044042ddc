//! The remote has accepted a save; what its provider makes of it shows here too.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use fuse_tests::{Letter, Mount, Options, Server, until};
use serde_json::json;

/// A mount of a workspace with `/linear/f`.
fn mounted() -> (Server, Mount) {
    let server = Server::start();
    server.put("/linear/f", "old");
    server.deliver("/linear/f", json!({ "success": true }));
    let mount = Mount::start(&server);
    (server, mount)
}

/// A mount with one letter: the provider has refused "new" for `/linear/f`.
fn refused() -> (Server, Mount, Letter) {
    let (server, mount) = mounted();
    fs::write(mount.at("linear/f"), "new").unwrap();
    mount.wait_clean();
    server.deliver("/linear/f", json!({ "success": false, "error": "a title is required" }));
    mount.wait_number("deadLettered", 1);
    let letter = mount.letter();
    (server, mount, letter)
}

fn unresolved(mount: &Mount) -> u64 {
    mount.state()["delivery"]["unresolved"].as_u64().expect("a number")
}

fn looks(server: &Server) -> u64 {
    server.counts().iter().filter(|(route, _)| route.starts_with("GET /ops")).map(|(_, n)| n).sum()
}

/// The remote was written to once, with "new".
#[track_caller]
fn assert_written_once(server: &Server) {
    assert_eq!(server.text("/linear/f"), "new");
    assert_eq!(server.history("/linear/f"), ["file.created", "file.updated"]);
}

/// Waits for so long that another look would have come.
fn wait_for_a_look() {
    let after = Instant::now() + Duration::from_secs(4);
    until("a look would have come", || Instant::now() > after);
}

#[test]
fn a_refused_delivery_is_a_letter_with_the_providers_words() {
    let (server, mount, letter) = refused();
    let (record, sidecar) = (&letter.record, &letter.sidecar);
    assert_eq!((&record["path"], &record["code"], &record["attempts"]), (&json!("/linear/f"), &json!("delivery"), &json!(1)));
    assert!(record["replayUrl"].as_str().is_some_and(|u| u.starts_with(server.url()) && u.ends_with("/replay")), "{record}");
    assert_eq!((&sidecar["code"], &sidecar["message"]), (&json!("delivery"), &json!("a title is required")));
    assert_eq!(sidecar["providerResponse"]["lastError"], "a title is required");
    assert!(letter.payload().is_err(), "the remote has the content; it is not kept twice");
    assert_eq!(fs::read_to_string(mount.at("linear/f")).unwrap(), "new");
    let on_disk = mount.state_dir().join("dead-letter").join(format!("{}.json", letter.id));
    until("the letter is on disk", || on_disk.exists());

    let said = mount.writeback_ends_with(&["status"], 1);
    assert!(said.contains("dead-lettered: 1\n") && said.contains("a title is required"), "{said}");
    assert!(said.contains("delivery: 0 on the way to the provider, 1 refused, 0 unknown"), "{said}");
    assert!(said.contains("last error of linear: delivery: a title is required"), "{said}");
    let shown = mount.writeback_ends_with(&["show", &letter.id], 0);
    assert!(shown.contains("delivery: a title is required"), "{shown}");
    assert_eq!(mount.writeback_json(&["list", "--state", "dead"])[0]["error"], "delivery");
    let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
    assert!(status.starts_with("state:        attention: the provider refused 1 save that the remote has"), "{status}");
    assert!(fs::read_to_string(mount.at(".relay/metrics")).unwrap().contains("relayfile_deliveries_refused{"));
    assert_written_once(&server);
}

#[test]
fn a_retry_has_it_delivered_again_and_writes_nothing() {
    let (server, mount, letter) = refused();
    server.reset_counts();
    mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
    mount.wait_clean();
    assert_eq!((server.writes(), server.counts().get("POST /ops/{id}/replay").copied()), (0, Some(1)), "{:?}", server.counts());
    assert_eq!(unresolved(&mount), 1);
    server.deliver("/linear/f", json!({ "success": true, "providerResult": { "id": "X" } }));
    until("the delivery is at its end", || unresolved(&mount) == 0);
    mount.writeback_ends_with(&["status"], 0);
    assert_eq!(mount.letters().len(), 0);
    assert_written_once(&server);
}

#[test]
fn the_gesture_replays_too_and_a_second_refusal_is_a_letter_again() {
    let (server, mount, letter) = refused();
    let name = format!("{}.json", letter.id);
    fs::rename(mount.at(&format!(".relay/dead-letter/{name}")), mount.at(&format!(".relay/retry/{name}"))).unwrap();
    mount.wait_clean();
    server.deliver("/linear/f", json!({ "success": false, "error": "still not" }));
    mount.wait_number("deadLettered", 1);
    let again = mount.letter();
    assert_eq!((&again.id, &again.sidecar["message"]), (&letter.id, &json!("still not")));
    assert_eq!(again.record["history"].as_array().unwrap().len(), 2, "{}", again.record);
    assert_written_once(&server);
}

#[test]
fn the_corrected_save_settles_the_letter() {
    let (server, mount, _) = refused();
    fs::write(mount.at("linear/f"), "corrected").unwrap();
    mount.wait_clean();
    server.deliver("/linear/f", json!({ "success": true }));
    until("the delivery is at its end", || unresolved(&mount) == 0);
    assert_eq!((server.text("/linear/f"), mount.letters().len()), ("corrected".into(), 0));
    mount.writeback_ends_with(&["status"], 0);
}

#[test]
fn a_discarded_letter_leaves_the_file_alone() {
    let (server, mount, letter) = refused();
    fs::remove_file(mount.at(&format!(".relay/dead-letter/{}.json", letter.id))).unwrap();
    mount.writeback_ends_with(&["status"], 0);
    assert_eq!(fs::read_to_string(mount.at("linear/f")).unwrap(), "new");
    assert_written_once(&server);
}

#[test]
fn a_retry_without_a_mount_is_asked_for_by_the_drain() {
    let (server, mut mount, letter) = refused();
    mount.unmount();
    server.reset_counts();
    let said = mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
    assert!(said.contains("deliver it again"), "{said}");
    assert_eq!(server.counts().get("POST /ops/{id}/replay"), None, "a retry without a mount asks nobody");
    let out = fuse_tests::output(&mut mount.drain(&[]));
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert_eq!((server.undelivered().len(), server.writes()), (1, 0));
    assert_written_once(&server);
}

#[test]
fn following_survives_kill_9() {
    let (server, mut mount) = mounted();
    fs::write(mount.at("linear/f"), "new").unwrap();
    mount.wait_clean();
    mount.kill9();
    mount.detach();
    server.deliver("/linear/f", json!({ "success": false, "error": "no" }));
    mount.start_again();
    mount.wait_number("deadLettered", 1);
    let letter = mount.letter();
    mount.kill9();
    mount.detach();
    mount.start_again();
    assert_eq!(mount.letter().id, letter.id);
    assert_written_once(&server);
}

#[test]
fn an_unmount_and_a_flush_do_not_wait_for_delivery() {
    let (server, mut mount) = mounted();
    fs::write(mount.at("linear/f"), "new").unwrap();
    mount.writeback_ends_with(&["flush"], 0);
    mount.wait_clean();
    assert_eq!(unresolved(&mount), 1);
    assert_eq!(mount.unmount(), 0);
    assert_eq!(server.undelivered().len(), 1, "nobody has taken it");
}

#[test]
fn a_token_that_may_not_read_operations_leaves_delivery_unknown_and_says_so_once() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "GET", "path_prefix": "/ops", "status": 403, "code": "forbidden", "message": "missing required scope: ops:read" }));
    fs::write(mount.at("linear/f"), "new").unwrap();
    mount.wait_clean();
    until("delivery is unknown", || mount.state()["delivery"]["unknown"].is_string());
    fs::write(mount.at("linear/g"), "another").unwrap();
    mount.wait_clean();
    wait_for_a_look();
    assert_eq!(server.fault_hits(), 1, "one request told it");
    assert_eq!(mount.log().matches("may not read operations, so nobody here knows").count(), 1);
    let said = mount.writeback_ends_with(&["status"], 0);
    assert!(said.contains("2 on the way to the provider") && said.contains("missing required scope: ops:read"), "{said}");
    let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
    assert!(status.contains("delivery:     unknown (the token may not read operations"), "{status}");
}

#[test]
fn many_saves_are_looked_at_with_few_requests() {
    let (server, mount) = mounted();
    server.reset_counts();
    for n in 0..100 {
        fs::write(mount.at(&format!("linear/n{n}")), "x").unwrap();
    }
    mount.wait_clean();
    for (_, path) in server.undelivered() {
        server.deliver(&path, json!({ "success": true }));
    }
    until("every delivery is at its end", || unresolved(&mount) == 0);
    assert!(looks(&server) <= 20, "{} looks for 100 saves", looks(&server));
    let after = looks(&server);
    wait_for_a_look();
    assert_eq!(looks(&server), after, "nothing is left to ask about");
}

#[test]
fn a_draft_takes_the_name_that_its_provider_gave_it() {
    let (server, mount) = mounted();
    fs::write(mount.at("linear/draft.json"), "{}").unwrap();
    mount.wait_clean();
    let ino = fs::metadata(mount.at("linear/draft.json")).unwrap().ino();
    let mut reader = File::open(mount.at("linear/draft.json")).unwrap();
    let report = server.deliver("/linear/draft.json", json!({ "success": true, "externalId": "ENG-1" }));
    assert_eq!(report["draft"]["to"], "/linear/ENG-1.json", "{report}");
    until("the new name appears", || mount.at("linear/ENG-1.json").exists());
    until("the old name is gone", || !mount.at("linear/draft.json").exists());
    assert_eq!(fs::read_to_string(mount.at("linear/ENG-1.json")).unwrap(), "{}");
    assert_eq!(fs::metadata(mount.at("linear/ENG-1.json")).unwrap().ino(), ino, "it is the same file");
    let mut content = String::new();
    reader.rewind().unwrap();
    reader.read_to_string(&mut content).unwrap();
    assert_eq!(content, "{}", "an open handle goes on reading");
    fs::write(mount.at("linear/ENG-1.json"), "{\"title\":1}").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/linear/ENG-1.json"), "{\"title\":1}");
    assert_eq!(server.paths(), ["/linear/ENG-1.json", "/linear/f"]);
    until("the first delivery is at its end", || unresolved(&mount) <= 1);
}

#[test]
fn a_draft_that_was_moved_while_nobody_was_mounted_shows_under_its_new_name() {
    let (server, mut mount) = mounted();
    fs::write(mount.at("linear/draft.json"), "{}").unwrap();
    mount.wait_clean();
    mount.unmount();
    server.deliver("/linear/draft.json", json!({ "success": true, "externalId": "ENG-2" }));
    mount.start_again();
    until("the new name appears", || fs::read_to_string(mount.at("linear/ENG-2.json")).is_ok_and(|c| c == "{}"));
    until("the old name is gone", || !mount.at("linear/draft.json").exists());
    until("its delivery is at its end", || unresolved(&mount) == 0);
}

#[test]
fn a_save_does_not_wait_for_a_replay() {
    let server = Server::start();
    server.put("/linear/f", "old");
    let mount = Mount::with(&server, Options::default().flag("--max-attempts=8"));
    fs::write(mount.at("linear/f"), "new").unwrap();
    mount.wait_clean();
    server.deliver("/linear/f", json!({ "success": false, "error": "no" }));
    mount.wait_number("deadLettered", 1);
    let letter = mount.letter();
    server.fault(json!({ "method": "POST", "path_prefix": "/ops", "status": 503 }));
    mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
    until("the replay was tried", || server.fault_hits() >= 1);
    fs::write(mount.at("linear/f"), "corrected").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/linear/f"), "corrected");
}
