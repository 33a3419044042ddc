//! The process dies at each named place; the next start, or a drain, goes on so that every promise holds.

use std::collections::BTreeSet;
use std::fs;

use fuse_tests::{Letter, Mount, Options, Server, output, until};
use serde_json::json;

/// A workspace with `/f`, mounted once so that its tree is known, and mounted again to die at `place`.
fn about_to_die(place: &str) -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "old");
    let mut mount = Mount::start(&server);
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "old");
    mount.remount();
    mount.unmount();
    mount.set_env("RELAYFILE_FAILPOINT", place);
    (server, mount)
}

/// Brings the mount that died back, without the failpoint.
fn rise(mount: &mut Mount) {
    mount.wait_killed();
    mount.clear_env();
    mount.start_again();
}

fn content(mount: &Mount, name: &str) -> String {
    fs::read_to_string(mount.at(name)).unwrap_or_else(|e| format!("{e}"))
}

/// Nothing on its way, nothing dead, and the remote has been written to once.
#[track_caller]
fn assert_applied_once(place: &str, server: &Server, mount: &Mount) {
    mount.wait_clean();
    assert_eq!((server.text("/f"), content(mount, "f")), ("new".into(), "new".into()), "{place}");
    assert_eq!(server.history("/f"), ["file.created", "file.updated"], "{place}");
    let payloads = fs::read_dir(mount.state_dir().join("payloads")).unwrap().count();
    assert_eq!(payloads, 0, "{place}: payloads of what has ended are left");
}

const WHILE_SENDING: [&str; 6] = ["flushed", "claimed", "payload-written", "sent", "answered", "acknowledged"];

#[test]
fn a_save_is_applied_once_wherever_the_process_dies_while_it_is_sent() {
    for place in WHILE_SENDING {
        let (server, mut mount) = about_to_die(place);
        mount.start_again();
        // At the first place the process dies before close() returns.
        let _ = fs::write(mount.at("f"), "new");
        rise(&mut mount);
        assert_applied_once(place, &server, &mount);
    }
}

#[test]
fn a_save_is_applied_once_when_a_drain_goes_on_where_the_process_died() {
    for place in WHILE_SENDING {
        let (server, mut mount) = about_to_die(place);
        mount.start_again();
        let _ = fs::write(mount.at("f"), "new");
        mount.wait_killed();
        let out = output(&mut mount.drain(&[]));
        assert_eq!(out.status.code(), Some(0), "{place}: {out:?}");
        assert_eq!(server.text("/f"), "new", "{place}");
        mount.clear_env();
        mount.start_again();
        assert_applied_once(place, &server, &mount);
    }
}

#[test]
fn a_drain_that_dies_is_followed_by_another() {
    for place in &WHILE_SENDING[1..] {
        let server = Server::start();
        server.put("/f", "old");
        let mut mount = Mount::with(&server, Options::never_settle());
        fs::write(mount.at("f"), "new").unwrap();
        mount.kill9();
        mount.detach();
        let out = output(mount.drain(&[]).env("RELAYFILE_FAILPOINT", place));
        assert_eq!(out.status.code(), None, "{place}: the drain was to die: {out:?}");
        let out = output(&mut mount.drain(&[]));
        assert_eq!(out.status.code(), Some(0), "{place}: {out:?}");
        mount.start_again();
        assert_applied_once(place, &server, &mount);
    }
}

#[test]
fn a_removal_is_applied_once_wherever_the_process_dies() {
    for place in ["claimed", "sent", "answered", "acknowledged"] {
        let (server, mut mount) = about_to_die(place);
        mount.start_again();
        fs::remove_file(mount.at("f")).unwrap();
        rise(&mut mount);
        mount.wait_clean();
        assert_eq!(server.history("/f"), ["file.created", "file.deleted"], "{place}");
        assert!(!mount.at("f").exists(), "{place}");
    }
}

#[test]
fn what_no_close_had_promised_is_kept_and_not_sent() {
    let (server, mut mount) = about_to_die("flush");
    mount.start_again();
    // close(2) fails; fs::write does not look at that.
    let _ = fs::write(mount.at("f"), "new");
    rise(&mut mount);
    mount.wait_number("deadLettered", 1);
    mount.wait_synced();
    let letter = mount.letter();
    assert_eq!((letter.sidecar["code"].clone(), letter.payload().unwrap()), (json!("unflushed"), b"new".to_vec()));
    assert_eq!((server.text("/f"), content(&mount, "f")), ("old".into(), "new".into()));
    // A person may say that it was meant.
    mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
    assert_applied_once("flush", &server, &mount);
}

#[test]
fn a_failed_attempt_is_repeated_wherever_the_process_dies() {
    for place in ["before-retry-later", "retry-later"] {
        let (server, mut mount) = about_to_die(place);
        server.fault(json!({ "method": "PUT", "times": 1, "status": 503 }));
        mount.start_again();
        fs::write(mount.at("f"), "new").unwrap();
        rise(&mut mount);
        assert_applied_once(place, &server, &mount);
    }
}

/// The letter is whole in the mount and on disk, and sends what was saved.
#[track_caller]
fn assert_a_whole_letter(place: &str, server: &Server, mount: &Mount) -> Letter {
    mount.wait_number("deadLettered", 1);
    let letter = mount.letter();
    assert_eq!(letter.payload().unwrap(), b"new", "{place}");
    assert_eq!((server.text("/f"), content(mount, "f")), ("old".into(), "new".into()), "{place}");
    let dir = mount.state_dir().join("dead-letter");
    // Its record comes last.
    until("the letter is on disk", || dir.join(format!("{}.json", letter.id)).exists());
    let on_disk = Letter::all_in(&dir);
    assert_eq!((&on_disk[0].record, on_disk[0].payload().unwrap()), (&letter.record, b"new".to_vec()), "{place}");
    letter
}

#[test]
fn a_refused_save_is_a_whole_letter_wherever_the_process_dies() {
    for place in ["before-bury", "buried", "letter-payload", "letter-sidecar", "letter-record"] {
        let (server, mut mount) = about_to_die(place);
        server.fault(json!({ "method": "PUT", "status": 400 }));
        mount.start_again();
        fs::write(mount.at("f"), "new").unwrap();
        rise(&mut mount);
        let letter = assert_a_whole_letter(place, &server, &mount);
        server.clear_faults();
        mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
        assert_applied_once(place, &server, &mount);
    }
}

/// A mount that was refused a save, started again to die at `place`.
fn with_a_letter(place: &str) -> (Server, Mount, Letter) {
    let (server, mut mount) = about_to_die(place);
    mount.clear_env();
    mount.start_again();
    server.fault(json!({ "method": "PUT", "times": 1, "status": 400 }));
    fs::write(mount.at("f"), "new").unwrap();
    let letter = assert_a_whole_letter(place, &server, &mount);
    mount.unmount();
    mount.set_env("RELAYFILE_FAILPOINT", place);
    mount.start_again();
    (server, mount, letter)
}

#[test]
fn a_retry_goes_on_where_the_process_died() {
    let (server, mut mount, letter) = with_a_letter("retried");
    let _ = fs::rename(
        mount.at(&format!(".relay/dead-letter/{}.json", letter.id)),
        mount.at(&format!(".relay/retry/{}.json", letter.id)),
    );
    rise(&mut mount);
    assert_applied_once("retried", &server, &mount);
}

#[test]
fn a_forced_letter_goes_on_top_although_the_process_died_over_it() {
    let (server, mut mount) = about_to_die("rebased");
    server.fault(json!({ "method": "PUT", "times": 1, "delay_ms": 300, "status": 503 }));
    mount.start_again();
    fs::write(mount.at("f"), "new").unwrap();
    until("the upload is on its way", || server.fault_hits() == 1);
    server.put("/f", "theirs");
    mount.wait_number("deadLettered", 1);
    let letter = mount.letter();
    mount.writeback_ends_with(&["retry", "--opId", &letter.id, "--force"], 0);
    rise(&mut mount);
    mount.wait_clean();
    assert_eq!(server.text("/f"), "new");
    until("the mount shows it", || content(&mount, "f") == "new");
    let own = server.events().into_iter().filter(|e| e.correlation_id == letter.id).count();
    assert_eq!(own, 1, "once");
}

#[test]
fn a_discard_goes_on_where_the_process_died() {
    let (server, mut mount, letter) = with_a_letter("discarded");
    let _ = fs::remove_file(mount.at(&format!(".relay/dead-letter/{}.json", letter.id)));
    rise(&mut mount);
    mount.wait_clean();
    assert_eq!((content(&mount, "f"), server.text("/f")), ("old".into(), "old".into()));
    until("its files are gone", || fs::read_dir(mount.state_dir().join("dead-letter")).unwrap().count() == 0);
    fs::write(mount.at("f"), "new").unwrap();
    assert_applied_once("discarded", &server, &mount);
}

#[test]
fn a_letter_that_was_settled_goes_although_the_process_died_over_it() {
    let (server, mut mount, _) = with_a_letter("letter-removed");
    until("the new process has looked at the letter", || {
        let state = fs::read(mount.state_dir().join("state.json")).unwrap_or_default();
        serde_json::from_slice::<serde_json::Value>(&state).is_ok_and(|s| s["pid"] == mount.pid())
    });
    fs::write(mount.at("f"), "newer").unwrap();
    rise(&mut mount);
    mount.wait_clean();
    assert_eq!(server.text("/f"), "newer");
    until("its files are gone", || fs::read_dir(mount.state_dir().join("dead-letter")).unwrap().count() == 0);
    mount.writeback_ends_with(&["status"], 0);
}

#[test]
fn a_merge_is_done_once_wherever_the_process_dies() {
    for place in ["merged", "acknowledged"] {
        let (server, mut mount) = about_to_die(place);
        server.put("/f", "1\n2\n3\n4\n5\n");
        mount.start_again();
        until("the text is here", || content(&mount, "f").starts_with('1'));
        let writer = fs::OpenOptions::new().write(true).open(mount.at("f")).unwrap();
        server.put("/f", "1\n2\n3\n4\nfive\n");
        server.put("/marker", "");
        until("the mount has heard of it", || mount.at("marker").exists());
        std::os::unix::fs::FileExt::write_all_at(&writer, b"o", 0).unwrap();
        drop(writer);
        rise(&mut mount);
        mount.wait_clean();
        let both = "o\n2\n3\n4\nfive\n";
        assert_eq!(server.text("/f"), both, "{place}");
        until("the mount shows it", || content(&mount, "f") == both);
        assert_eq!(server.history("/f").len(), 4, "{place}: {:?}", server.events());
    }
}

#[test]
fn content_that_an_event_brought_is_stored_or_fetched_wherever_the_process_dies() {
    for (place, content_now) in [("brought", "old and more"), ("fetched", "old and more"), ("brought", "new"), ("fetched", "new")]
    {
        let (server, mut mount) = about_to_die(place);
        mount.start_again();
        until("the stream is open", || mount.state()["eventListener"]["status"] == "streaming");
        let reader = fs::File::open(mount.at("f")).unwrap();
        if content_now == "new" {
            drop(reader); // else the name would get a new inode, which nobody has looked at
        }
        assert!(fs::metadata(mount.at("f")).is_ok());
        server.put("/f", content_now);
        rise(&mut mount);
        until("the change shows", || content(&mount, "f") == content_now);
        mount.wait_clean();
        assert_eq!(mount.letters().len(), 0, "{place}: what an event brought is taken for somebody's work");
        assert_eq!(server.history("/f"), ["file.created", "file.updated"], "{place}");
    }
}

#[test]
fn the_sides_of_a_conflict_are_whole_wherever_the_process_dies() {
    for place in ["set-aside", "buried"] {
        let (server, mut mount) = about_to_die(place);
        mount.start_again();
        let writer = fs::OpenOptions::new().write(true).open(mount.at("f")).unwrap();
        server.put("/f", "theirs");
        server.put("/marker", "");
        until("the mount has heard of it", || mount.at("marker").exists());
        std::os::unix::fs::FileExt::write_all_at(&writer, b"new", 0).unwrap();
        drop(writer);
        rise(&mut mount);
        mount.wait_number("deadLettered", 1);
        let letter = mount.letter();
        let side = |name: &str| fs::read_to_string(mount.at(".relay/conflicts").join(&letter.id).join(name)).unwrap();
        assert_eq!((side("base"), side("local"), side("remote")), ("old".into(), "new".into(), "theirs".into()), "{place}");
        assert_eq!(server.text("/f"), "theirs", "{place}");
    }
}

#[test]
fn a_state_file_is_never_half_written() {
    let (server, mut mount) = about_to_die("state-json");
    let before = fs::read(mount.state_dir().join("state.json")).unwrap();
    mount.start_to_die();
    mount.wait_killed();
    assert_eq!(fs::read(mount.state_dir().join("state.json")).unwrap(), before);
    mount.clear_env();
    mount.start_again();
    fs::write(mount.at("f"), "new").unwrap();
    assert_applied_once("state-json", &server, &mount);
}

#[test]
fn an_import_that_died_is_finished_and_counts_once() {
    for place in ["import-file", "imported"] {
        let server = Server::start();
        server.put("/f", "old");
        let mut mount = Mount::unstarted(&server, Options::default());
        let letters = mount.state_dir().join("dead-letter");
        fs::create_dir_all(&letters).unwrap();
        fs::write(mount.state_dir().join("state.json"), r#"{"workspaceId":"ws","remoteRoot":"/","failedWritebacks":7}"#).unwrap();
        for id in ["op_aaaaaaaaaa", "op_bbbbbbbbbb"] {
            let record = json!({ "opId": id, "path": format!("/{id}"), "attempts": 3, "lastStatus": 400, "lastBody": "no", "ts": "2026-01-01T00:00:00Z" });
            fs::write(letters.join(format!("{id}.json")), record.to_string()).unwrap();
            fs::write(letters.join(format!("{id}.payload")), id).unwrap();
        }
        mount.set_env("RELAYFILE_FAILPOINT", place);
        mount.start_to_die();
        rise(&mut mount);
        assert_eq!((mount.number("failedWritebacks"), mount.number("deadLettered")), (7, 2), "{place}");
        mount.writeback_ends_with(&["retry", "--all"], 0);
        mount.wait_clean();
        assert_eq!(server.text("/op_aaaaaaaaaa"), "op_aaaaaaaaaa", "{place}");
        until("they show in the mount", || content(&mount, "op_bbbbbbbbbb") == "op_bbbbbbbbbb");
        mount.remount();
        assert_eq!((mount.number("failedWritebacks"), mount.number("deadLettered")), (7, 0), "{place}");
    }
}

/// Nothing was written a second time, and the provider takes it in the end.
#[track_caller]
fn assert_delivered_once(place: &str, server: &Server, mount: &Mount) {
    mount.wait_clean();
    server.deliver("/f", json!({ "success": true }));
    until("the delivery is at its end", || mount.state()["delivery"]["unresolved"] == 0);
    assert_applied_once(place, server, mount);
}

#[test]
fn a_refused_delivery_is_a_letter_wherever_the_process_dies() {
    for place in ["delivery-looked", "delivery-refused"] {
        let (server, mut mount) = about_to_die(place);
        mount.start_again();
        fs::write(mount.at("f"), "new").unwrap();
        until("it is at the remote", || server.text("/f") == "new");
        server.deliver("/f", json!({ "success": false, "error": "no" }));
        rise(&mut mount);
        mount.wait_number("deadLettered", 1);
        let letter = mount.letter();
        assert_eq!((&letter.sidecar["code"], &letter.sidecar["message"]), (&json!("delivery"), &json!("no")), "{place}");
        mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
        assert_delivered_once(place, &server, &mount);
    }
}

#[test]
fn a_replay_that_was_heard_is_followed_although_the_process_died_over_it() {
    for with_drain in [false, true] {
        let (server, mut mount) = about_to_die("replay-asked");
        mount.start_again();
        fs::write(mount.at("f"), "new").unwrap();
        until("it is at the remote", || server.text("/f") == "new");
        server.deliver("/f", json!({ "success": false, "error": "no" }));
        mount.wait_number("deadLettered", 1);
        // The mount may die before it answers.
        let _ = output(&mut mount.writeback(&["retry", "--all"]));
        mount.wait_killed();
        mount.clear_env();
        if with_drain {
            assert_eq!(output(&mut mount.drain(&[])).status.code(), Some(0));
        }
        mount.start_again();
        assert_delivered_once("replay-asked", &server, &mount);
    }
}

#[test]
fn every_failpoint_of_the_program_is_died_at_here() {
    let here = include_str!("failpoints.rs");
    let missing: BTreeSet<_> = relayfile::failpoint::ALL.iter().filter(|name| !here.contains(&format!("\"{name}\""))).collect();
    assert!(missing.is_empty(), "no test dies at {missing:?}");
}
