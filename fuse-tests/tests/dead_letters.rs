//! What the remote refuses is kept, said, and brought back with one command or one gesture.

use std::fs;
use std::path::Path;

use fuse_tests::{Letter, Mount, Options, Server, output, sh, until};
use serde_json::json;

fn mounted() -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "old");
    let mount = Mount::start(&server);
    (server, mount)
}

/// A mount with one letter: the save of `/f` with "mine" was refused for good.
fn refused() -> (Server, Mount, Letter) {
    let (server, mount) = mounted();
    server.fault(
        json!({ "method": "PUT", "times": 1, "status": 422, "code": "schema_violation", "message": "a title is required" }),
    );
    fs::write(mount.at("f"), "mine").unwrap();
    mount.wait_number("deadLettered", 1);
    let letter = mount.letter();
    (server, mount, letter)
}

/// A mount with one letter: somebody else has changed `/f` under the edit.
fn conflicting() -> (Server, Mount, Letter) {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "delay_ms": 300, "status": 503 }));
    fs::write(mount.at("f"), "mine").unwrap();
    until("the upload is on its way", || server.fault_hits() == 1);
    server.put("/f", "theirs");
    mount.wait_number("deadLettered", 1);
    until("the remote's version has the path", || content(&mount, "f") == "theirs");
    let letter = mount.letter();
    (server, mount, letter)
}

fn content(mount: &Mount, name: &str) -> String {
    fs::read_to_string(mount.at(name)).unwrap_or_else(|e| format!("{e}"))
}

fn xattr(mount: &Mount, name: &str, attribute: &str) -> String {
    sh(&mount.path(), &format!("getfattr --only-values -n user.relayfile.{attribute} {name}"))
}

fn mv_to_retry(mount: &Mount, letter: &Letter) {
    sh(&mount.path(), &format!("mv .relay/dead-letter/{}.json .relay/retry/", letter.id));
}

#[test]
fn a_letter_is_record_sidecar_and_payload_in_the_mount_and_in_the_state_directory() {
    fuse_tests::require(&["getfattr"]);
    let (_server, mount, letter) = refused();
    let (record, sidecar) = (&letter.record, &letter.sidecar);
    assert_eq!(record["opId"], json!(letter.id));
    assert_eq!((&record["path"], &record["attempts"], &record["lastStatus"]), (&json!("/f"), &json!(1), &json!(422)));
    assert!(record["lastBody"].as_str().unwrap().contains("a title is required"), "{record}");
    assert_eq!((&record["workspaceId"], &record["remoteRoot"]), (&json!("ws"), &json!("/")));
    assert_eq!(sidecar["code"], "schema_violation");
    assert_eq!((&sidecar["providerStatus"], &sidecar["attempts"]), (&json!(422), &json!(1)));
    assert_eq!(sidecar["providerResponse"]["message"], "a title is required");
    for time in ["firstAttemptAt", "lastAttemptAt"] {
        assert!(sidecar[time].as_str().is_some_and(|t| t.ends_with('Z')), "{sidecar}");
    }
    assert_eq!(letter.payload().unwrap(), b"mine");
    let dir = mount.state_dir().join("dead-letter");
    until("the same is on disk", || dir.join(format!("{}.json", letter.id)).exists());
    let on_disk = Letter::all_in(&dir).remove(0);
    assert_eq!((&on_disk.record, &on_disk.sidecar, on_disk.payload().unwrap()), (record, sidecar, b"mine".to_vec()));
    assert_eq!((xattr(&mount, "f", "state"), xattr(&mount, "f", "op_id")), ("dead".into(), letter.id.clone()));
    assert_eq!(content(&mount, "f"), "mine", "the edit stays visible");
}

#[test]
fn the_corrected_save_resolves_the_letter_and_takes_its_files_away() {
    fuse_tests::require(&["getfattr"]);
    let (server, mount, _) = refused();
    fs::write(mount.at("f"), "corrected").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "corrected");
    assert_eq!(mount.letters().len(), 0);
    for dir in ["dead-letter", "payloads"] {
        until("its files are gone", || fs::read_dir(mount.state_dir().join(dir)).map_or(0, Iterator::count) == 0);
    }
    assert_eq!(xattr(&mount, "f", "state"), "synced");
    mount.writeback_ends_with(&["status"], 0);
}

#[test]
fn refusals_that_were_overcome_are_counted_and_make_no_exit_code() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 2, "status": 503 }));
    fs::write(mount.at("f"), "new").unwrap();
    mount.wait_clean();
    let status = mount.writeback_ends_with(&["status"], 0);
    assert!(status.contains("failed: 2\n") && status.contains("dead-lettered: 0\n"), "{status}");
}

#[test]
fn a_save_that_failed_until_its_budget_was_spent_is_brought_back_by_retry() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 4, "status": 503, "message": "come back later" }));
    fs::write(mount.at("f"), "new").unwrap();
    mount.wait_number("deadLettered", 1);
    let letter = mount.letter();
    assert_eq!((&letter.sidecar["code"], &letter.record["attempts"]), (&json!("provider_5xx_exhausted"), &json!(4)));
    assert_eq!(letter.record["history"].as_array().unwrap().len(), 4);
    mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
    mount.wait_clean();
    assert_eq!(server.text("/f"), "new");
    let own = server.events().into_iter().filter(|e| e.correlation_id == letter.id).count();
    assert_eq!(own, 1, "under the same id, once");
    mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
    assert_eq!(server.history("/f"), ["file.created", "file.updated"], "retrying what has arrived does nothing");
}

#[test]
fn a_retry_that_fails_again_leaves_a_letter_with_its_history() {
    let (server, mount, letter) = refused();
    server.fault(json!({ "method": "PUT", "times": 1, "status": 400, "message": "still not" }));
    mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
    until("it is dead again", || mount.letters().first().is_some_and(|l| l.record["attempts"] == 2));
    let again = mount.letter();
    assert_eq!(again.id, letter.id);
    let messages: Vec<_> = again.record["history"].as_array().unwrap().iter().map(|a| a["message"].clone()).collect();
    assert_eq!(messages, ["a title is required", "still not"]);
    until("and on disk", || {
        let on_disk = Letter::all_in(&mount.state_dir().join("dead-letter"));
        on_disk.first().is_some_and(|l| l.record == again.record && l.sidecar == again.sidecar)
    });
    assert_eq!(again.payload().unwrap(), b"mine");
}

#[test]
fn moving_a_letter_to_retry_sends_it_again() {
    let (server, mount, letter) = refused();
    mv_to_retry(&mount, &letter);
    mount.wait_clean();
    assert_eq!(server.text("/f"), "mine");
    assert_eq!(sh(&mount.path(), "ls .relay/retry; ls .relay/dead-letter"), "");
}

#[test]
fn removing_a_letter_returns_the_file_to_the_remotes_version() {
    let (server, mount, letter) = refused();
    for other in ["error.json", "payload"] {
        assert!(fs::remove_file(mount.at(&format!(".relay/dead-letter/{}.{other}", letter.id))).is_err(), "{other}");
    }
    sh(&mount.path(), &format!("rm .relay/dead-letter/{}.json", letter.id));
    mount.wait_number("deadLettered", 0);
    assert_eq!(content(&mount, "f"), "old");
    assert_eq!(fs::read(mount.state_dir().join(format!("trash/{}.payload", letter.id))).unwrap(), b"mine");
    assert_eq!(server.history("/f"), ["file.created"], "nothing was sent");
    fs::write(mount.at("f"), "next").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "next");
}

#[test]
fn discarding_a_file_that_the_remote_never_had_removes_it() {
    let (server, mut mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "status": 400 }));
    fs::write(mount.at("new"), "mine").unwrap();
    mount.wait_number("deadLettered", 1);
    mount.writeback_ends_with(&["discard", &mount.letter().id], 0);
    assert!(!mount.at("new").exists());
    mount.remount();
    assert!(!mount.at("new").exists());
    assert_eq!(mount.number("deadLettered"), 0);
}

#[test]
fn discarding_works_while_the_remote_is_gone() {
    let (mut server, mount, letter) = refused();
    server.stop();
    mount.writeback_ends_with(&["discard", &letter.id], 0);
    mount.wait_number("deadLettered", 0);
    server.start_again();
    until("the remote's version is back", || content(&mount, "f") == "old");
}

#[test]
fn a_letter_is_not_discarded_under_a_program_that_is_writing_the_file() {
    let (_server, mount, letter) = refused();
    let writer = fs::File::options().append(true).open(mount.at("f")).unwrap();
    let said = mount.writeback_ends_with(&["discard", &letter.id], 3);
    assert!(said.contains("open for writing"), "{said}");
    assert_eq!(content(&mount, "f"), "mine");
    drop(writer);
    mount.writeback_ends_with(&["discard", &letter.id], 0);
    assert_eq!(content(&mount, "f"), "old");
}

#[test]
fn a_conflict_gives_the_path_to_the_remote_and_keeps_ours_in_the_letter() {
    fuse_tests::require(&["getfattr"]);
    let (server, mut mount, letter) = conflicting();
    assert_eq!(letter.sidecar["code"], "conflict");
    assert_eq!(letter.payload().unwrap(), b"mine");
    assert_eq!(xattr(&mount, "f", "state"), "conflict");
    mount.remount();
    assert_eq!((content(&mount, "f"), mount.letter().payload().unwrap()), ("theirs".into(), b"mine".to_vec()));
    // Whoever saves now has seen what the path shows.
    fs::write(mount.at("f"), "mine and theirs").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "mine and theirs");
    assert_eq!(mount.letters().len(), 0);
}

#[test]
fn a_conflict_retried_as_it_is_stays_one_and_forced_it_goes_on_top() {
    let (server, mount, letter) = conflicting();
    mv_to_retry(&mount, &letter);
    until("it is a conflict again", || {
        mount.letters().first().is_some_and(|l| l.record["attempts"].as_u64() > letter.record["attempts"].as_u64())
    });
    assert_eq!((server.text("/f"), content(&mount, "f")), ("theirs".into(), "theirs".into()));
    mount.writeback_ends_with(&["retry", "--opId", &letter.id, "--force"], 0);
    mount.wait_clean();
    assert_eq!(server.text("/f"), "mine");
    until("the mount follows", || content(&mount, "f") == "mine");
    fs::write(mount.at("f"), "next").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "next", "the next save is based on it");
}

#[test]
fn a_conflict_let_go_leaves_the_remotes_version() {
    let (server, mount, letter) = conflicting();
    mount.writeback_ends_with(&["discard", &letter.id], 0);
    mount.wait_number("deadLettered", 0);
    assert_eq!((server.text("/f"), content(&mount, "f")), ("theirs".into(), "theirs".into()));
    fs::write(mount.at("f"), "next").unwrap();
    mount.wait_clean();
}

/// A mount with one letter: `/f` was deleted at the remote under the edit.
fn deleted_there() -> (Server, Mount, Letter) {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "delay_ms": 300, "status": 503 }));
    fs::write(mount.at("f"), "mine").unwrap();
    until("the upload is on its way", || server.fault_hits() == 1);
    server.delete("/f");
    mount.wait_number("deadLettered", 1);
    let letter = mount.letter();
    (server, mount, letter)
}

#[test]
fn an_edit_of_a_file_deleted_there_stays_visible_and_the_next_save_creates_it() {
    let (server, mut mount, letter) = deleted_there();
    assert_eq!((letter.sidecar["code"].clone(), server.get("/f")), (json!("conflict"), None));
    mount.remount();
    assert_eq!(content(&mount, "f"), "mine");
    fs::write(mount.at("f"), "again").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "again");
}

#[test]
fn an_edit_of_a_file_deleted_there_is_recreated_by_force_only() {
    let (server, mount, letter) = deleted_there();
    mv_to_retry(&mount, &letter);
    until("it is a conflict again", || {
        mount.letters().first().is_some_and(|l| l.record["attempts"].as_u64() > letter.record["attempts"].as_u64())
    });
    assert_eq!(server.get("/f"), None);
    mount.writeback_ends_with(&["retry", "--opId", &letter.id, "--force"], 0);
    mount.wait_clean();
    assert_eq!((server.text("/f"), content(&mount, "f")), ("mine".into(), "mine".into()));
}

#[test]
fn a_rename_that_is_refused_leaves_the_old_file_at_the_remote_and_its_retry_moves_it() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "PUT", "times": 1, "status": 400 }));
    fs::rename(mount.at("f"), mount.at("g")).unwrap();
    mount.wait_number("deadLettered", 1);
    mount.wait_synced();
    assert_eq!(server.paths(), ["/f"]);
    until("the old name is shown again", || content(&mount, "f") == "old");
    assert_eq!(content(&mount, "g"), "old");
    mv_to_retry(&mount, &mount.letter());
    mount.wait_clean();
    assert_eq!(server.paths(), ["/g"]);
    until("the old name is gone", || !mount.at("f").exists());
    assert_eq!(content(&mount, "g"), "old");
}

#[test]
fn a_removal_that_is_refused_brings_the_file_back_and_can_be_retried() {
    let (server, mount) = mounted();
    server.fault(json!({ "method": "DELETE", "times": 1, "status": 403, "message": "not yours" }));
    fs::remove_file(mount.at("f")).unwrap();
    mount.wait_number("deadLettered", 1);
    until("it is back", || content(&mount, "f") == "old");
    let letter = mount.letter();
    assert_eq!((&letter.record["kind"], letter.payload().is_err()), (&json!("delete"), true));
    mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
    mount.wait_clean();
    assert_eq!(server.get("/f"), None);
    until("it is gone here too", || !mount.at("f").exists());
}

#[test]
fn a_removal_refused_behind_a_refused_save_brings_the_file_back() {
    let (server, mount, _) = refused();
    server.put("/f", "theirs");
    fs::remove_file(mount.at("f")).unwrap();
    until("the remote's version is back", || content(&mount, "f") == "theirs");
    assert_eq!(server.text("/f"), "theirs");
}

#[test]
fn a_write_whose_answer_was_lost_counts_although_somebody_else_wrote_after_it() {
    let (server, mount) = mounted();
    // Its answer is lost, and it is asked about only after somebody else has written.
    server.fault(json!({ "method": "PUT", "times": 1, "drop_after_commit": true }));
    server.fault(json!({ "method": "GET", "path_prefix": "/fs/file", "times": 2, "status": 503 }));
    fs::write(mount.at("f"), "mine").unwrap();
    until("it is applied", || server.history("/f").len() == 2);
    server.put("/f", "theirs");
    mount.wait_clean();
    until("the newer version shows", || content(&mount, "f") == "theirs");
    assert_eq!(server.history("/f").len(), 3, "it was not sent again");
}

#[test]
fn a_new_token_in_its_file_lets_the_queue_go_on_and_no_attempt_was_spent() {
    let server = Server::start();
    let mut mount = Mount::unstarted(&server, Options::default().flag("--max-attempts=1"));
    let token_file = mount.home().join("token");
    fs::copy(server.token_file(), &token_file).unwrap();
    mount.set_token_file(&token_file);
    mount.start_again();
    fs::write(&token_file, "no-longer-good").unwrap();
    fs::write(mount.at("f"), "kept").unwrap();
    until("the status says so", || {
        fs::read_to_string(mount.at(".relay/status")).unwrap().starts_with("state:        unauthorized")
    });
    assert_eq!((mount.number("deadLettered"), mount.number("pendingWriteback")), (0, 1));
    fs::copy(server.token_file(), &token_file).unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "kept");
}

#[test]
fn a_remote_gone_for_longer_than_any_budget_kills_nothing() {
    let mut server = Server::start();
    let mount = Mount::with(&server, Options::default().flag("--max-attempts=1"));
    server.stop();
    for n in 0..20 {
        fs::write(mount.at(&format!("f{n}")), "kept").unwrap();
    }
    until("it is offline", || mount.state()["status"] == "offline");
    assert_eq!((mount.number("deadLettered"), mount.number("pendingWriteback")), (0, 20));
    mount.writeback_ends_with(&["flush", "--timeout", "1s"], 4);
    assert_eq!(mount.number("deadLettered"), 0);
    server.start_again();
    mount.writeback_ends_with(&["flush"], 0);
    assert_eq!(server.paths().len(), 20);
}

#[test]
fn an_unmount_says_that_letters_are_left() {
    let (server, mut mount, letter) = refused();
    let path = mount.path();
    let out = output(mount.relayfile().arg("unmount").arg(&path));
    assert_eq!(out.status.code(), Some(9));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("1 save refused") && said.contains("relayfile writeback status"), "{said}");
    assert_eq!(mount.wait_ended(), 9);
    mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
    assert_eq!(output(&mut mount.drain(&[])).status.code(), Some(0));
    assert_eq!(server.text("/f"), "mine");
}

#[test]
fn a_letter_without_a_mount_is_retried_and_drained_or_discarded() {
    for discard in [false, true] {
        let (server, mut mount, letter) = refused();
        mount.kill9();
        mount.detach();
        mount.writeback_ends_with(&["status"], 1);
        match discard {
            true => mount.writeback_ends_with(&["discard", &letter.id, "--yes"], 0),
            false => mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0),
        };
        let out = output(&mut mount.drain(&[]));
        assert_eq!(out.status.code(), Some(0), "{out:?}");
        assert_eq!(server.text("/f"), if discard { "old" } else { "mine" });
        mount.start_again();
        assert_eq!(content(&mount, "f"), server.text("/f"));
        assert_eq!(mount.number("deadLettered"), 0);
    }
}

#[test]
fn the_remote_root_of_a_mount_shows_in_the_paths_of_its_letters() {
    let server = Server::start();
    server.put("/linear/issues/1.md", "old");
    let mount = Mount::with(&server, Options::default().flag("--remote-path=/linear"));
    server.fault(json!({ "method": "PUT", "times": 1, "status": 400, "message": "no" }));
    fs::write(mount.at("issues/1.md"), "mine").unwrap();
    mount.wait_number("deadLettered", 1);
    let letter = mount.letter();
    assert_eq!((&letter.record["path"], &letter.record["remoteRoot"]), (&json!("/linear/issues/1.md"), &json!("/linear")));
    let status = mount.writeback_json(&["status"]);
    assert_eq!(status["deadLettered"][0]["path"], "/linear/issues/1.md");
    assert_eq!(status["lastErrorByProvider"]["linear"]["message"], "no", "{status}");
    mount.writeback_ends_with(&["retry", "--opId", &letter.id], 0);
    mount.wait_clean();
    assert_eq!(server.text("/linear/issues/1.md"), "mine");
}

#[test]
fn a_state_directory_is_not_used_for_another_workspace() {
    let (server, mut mount) = mounted();
    mount.unmount();
    let file = mount.state_dir().join("identity.json");
    let ours = fs::read_to_string(&file).unwrap();
    fs::write(&file, ours.replace("\"ws\"", "\"other\"")).unwrap();
    let out = output(mount.command().arg("--foreground"));
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(5), "{text}");
    assert!(text.contains("[STATE_DIR_OTHER_IDENTITY]") && !Path::new(&mount.at(".relay")).exists(), "{text}");
    fs::write(&file, ours).unwrap();
    mount.start_again();
    assert_eq!(server.history("/f"), ["file.created"]);
}
