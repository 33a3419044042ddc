//! `relayfile writeback` beside a mount: what it says of one, what it asks of one, and what it does without one.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fuse_tests::{Mount, Options, Server, output, until};
use serde_json::{Value, json};

fn mounted(options: Options) -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "old");
    let mount = Mount::with(&server, options);
    (server, mount)
}

/// A mount with `letters` dead letters: `/d0`, `/d1`, …
fn with_letters(letters: u64) -> (Server, Mount) {
    let (server, mount) = mounted(Options::default());
    server.refuse_batches();
    server.fault(json!({ "method": "PUT", "times": letters, "status": 400, "message": "not like this" }));
    for n in 0..letters {
        fs::write(mount.at(&format!("d{n}")), format!("content {n}")).unwrap();
    }
    mount.wait_number("deadLettered", letters);
    (server, mount)
}

fn words(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn a_mount_is_named_by_its_directory_by_something_in_it_and_by_its_state() {
    let (_server, mount) = with_letters(1);
    fs::create_dir(mount.at("sub")).unwrap();
    let state = mount.state_dir().to_owned();
    for place in [mount.path(), mount.at("sub"), state.clone()] {
        let out = output(mount.relayfile().args(["writeback", "status", "--json"]).arg(&place));
        let status: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((status["stateDir"].as_str(), out.status.code()), (state.to_str(), Some(1)), "{}", place.display());
        assert_eq!((&status["live"], &status["pid"]), (&json!(true), &json!(mount.pid())));
    }
    // Without a place: where one stands, and what the environment names.
    let inside = output(mount.relayfile().args(["writeback", "list"]).current_dir(mount.at("sub")));
    assert!(words(&inside).contains("/d0"), "{}", words(&inside));
    let named = output(mount.relayfile().args(["writeback", "list"]).env("RELAYFILE_LOCAL_DIR", mount.path()));
    assert!(words(&named).contains("/d0"), "{}", words(&named));
    let named = output(mount.relayfile().args(["writeback", "list", "ws"]));
    assert!(words(&named).contains("/d0"), "by its workspace: {}", words(&named));
}

#[test]
fn a_dead_endpoint_is_still_a_place() {
    let (_server, mut mount) = with_letters(1);
    until("the letter is on disk", || mount.state_dir().join("dead-letter").is_dir());
    mount.kill9();
    // Only where it was mounted last tells which state it is, so that state is where such are looked for.
    let home = mount.home().join(".local/state/relayfile/ws-12345678");
    fs::create_dir_all(home.parent().unwrap()).unwrap();
    fs::rename(mount.state_dir(), &home).unwrap();
    let out = output(mount.relayfile().args(["writeback", "status", "--json"]).arg(mount.path()));
    let status: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", words(&out)));
    assert_eq!((status["deadLettered"][0]["path"].as_str(), &status["live"]), (Some("/d0"), &json!(false)));
    fs::rename(&home, mount.state_dir()).unwrap();
}

#[test]
fn every_state_is_listed_under_its_name() {
    let (server, mount) = with_letters(1);
    server.fault(json!({ "method": "PUT", "file_path": "/slow", "times": 1, "delay_ms": 2000 }));
    server.fault(json!({ "method": "PUT", "file_path": "/later", "times": 1, "status": 429, "retry_after": 600 }));
    fs::write(mount.at("slow"), "slow").unwrap();
    fs::write(mount.at("later"), "later").unwrap();
    let ids = |state: &str| -> Vec<String> {
        let rows = mount.writeback_json(&["list", "--state", state]);
        rows.as_array().unwrap().iter().map(|r| r["path"].as_str().unwrap().to_owned()).collect()
    };
    until("one is in flight and one waits", || ids("inflight") == ["/slow"] && ids("pending") == ["/later"]);
    assert_eq!((ids("dead"), ids("conflict")), (vec!["/d0".to_owned()], vec![]));
    let slow = mount.writeback_json(&["list", "--state", "inflight"])[0]["id"].as_str().unwrap().to_owned();
    // What is under way is not raced.
    let said = mount.writeback_ends_with(&["retry", "--opId", &slow], 3);
    assert!(said.contains("under way"), "{said}");
    mount.writeback_ends_with(&["discard", &slow], 3);
    let later = mount.writeback_json(&["list", "--state", "pending"])[0].clone();
    assert_eq!((&later["providerStatus"], &later["attempts"]), (&json!(429), &json!(1)));
    mount.writeback_ends_with(&["retry", "--opId", later["id"].as_str().unwrap()], 0);
    assert_eq!(ids("pending"), ["/later"], "what is queued already stays as patient as it was told to be");
    let text = mount.writeback_ends_with(&["list"], 0);
    for path in ["/d0", "/slow", "/later"] {
        assert!(text.contains(path), "{text}");
    }
}

#[test]
fn a_letter_says_everything_and_what_to_type_next() {
    let (_server, mount) = with_letters(1);
    let id = mount.letter().id;
    let shown = mount.writeback_ends_with(&["show", &id], 0);
    for part in [id.as_str(), "/d0", "not like this", "400", "attempts:", "retry --opId", "discard"] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    let json = mount.writeback_json(&["show", &id]);
    assert_eq!(json["history"][0]["status"], 400);
    assert_eq!(fs::read(json["payload"].as_str().unwrap()).unwrap(), b"content 0");
    // What it says to type works as it stands.
    let next = json["next"][0].as_str().unwrap();
    let bin = fuse_tests::binary("relayfile");
    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let out = output(Command::new("bash").args(["-c", next]).env("PATH", path).env("HOME", mount.home()));
    assert_eq!(out.status.code(), Some(0), "{next}: {}", words(&out));
    mount.wait_clean();
}

#[test]
fn all_letters_are_retried_by_one_command() {
    let (server, mount) = with_letters(5);
    let dry = mount.writeback_json(&["retry", "--all", "--dry-run"]);
    assert_eq!(dry.as_array().unwrap().len(), 5);
    assert_eq!(mount.number("deadLettered"), 5, "a dry run moves nothing");
    mount.writeback_ends_with(&["retry", "--all"], 0);
    mount.wait_clean();
    for n in 0..5 {
        assert_eq!(server.text(&format!("/d{n}")), format!("content {n}"));
        assert_eq!(server.history(&format!("/d{n}")), ["file.created"]);
    }
    mount.writeback_ends_with(&["retry", "--all"], 0);
}

#[test]
fn of_many_who_retry_at_once_one_acts_and_all_are_content() {
    for live in [true, false] {
        let (server, mut mount) = with_letters(1);
        let id = mount.letter().id;
        if !live {
            assert_eq!(mount.unmount(), 9);
        }
        let start = || mount.writeback(&["retry", "--opId", &id]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let all: Vec<_> = (0..6).map(|_| start()).collect();
        let outs: Vec<Output> = all.into_iter().map(|c| c.wait_with_output().unwrap()).collect();
        for out in &outs {
            assert_eq!(out.status.code(), Some(0), "{}", words(out));
        }
        let acted = outs.iter().filter(|out| words(out).contains("queued again")).count();
        assert_eq!(acted, 1, "{:?}", outs.iter().map(words).collect::<Vec<_>>());
        if !live {
            assert_eq!(output(&mut mount.drain(&[])).status.code(), Some(0));
        }
        until("it is there", || server.get("/d0").is_some());
        assert_eq!(server.history("/d0"), ["file.created"]);
    }
}

#[test]
fn flush_waits_for_what_was_saved_and_no_longer() {
    let (server, mount) = mounted(Options::never_settle());
    for n in 0..10 {
        fs::write(mount.at(&format!("n{n}")), "x").unwrap();
    }
    assert_eq!(server.paths().len(), 1, "nothing goes by itself");
    let said = mount.writeback_ends_with(&["flush"], 0);
    assert!(said.contains("10 at the remote"), "{said}");
    assert_eq!(server.paths().len(), 11);
    mount.writeback_ends_with(&["flush"], 0);
    server.fault(json!({ "method": "PUT", "delay_ms": 4000 }));
    fs::write(mount.at("slow"), "x").unwrap();
    let start = Instant::now();
    let said = mount.writeback_ends_with(&["flush", "--timeout", "500ms"], 4);
    assert!(said.contains("/slow") && start.elapsed() < Duration::from_secs(3), "{said}");
    server.clear_faults();
    server.fault(json!({ "method": "PUT", "times": 1, "status": 400 }));
    fs::write(mount.at("bad"), "x").unwrap();
    mount.writeback_ends_with(&["flush"], 1);
}

#[test]
fn drain_never_races_a_live_mount() {
    let (server, mut mount) = mounted(Options::never_settle());
    fs::write(mount.at("f"), "new").unwrap();
    let out = output(&mut mount.drain(&[]));
    assert_eq!(out.status.code(), Some(3), "{}", words(&out));
    assert!(words(&out).contains(&format!("process {}", mount.pid())) && words(&out).contains("[LEASE_HELD]"), "{}", words(&out));
    assert_eq!(server.text("/f"), "old");
    mount.kill9();
    let out = output(&mut mount.drain(&["--json"]));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status.code(), report["acknowledged"].as_array().unwrap().len()), (Some(0), 1), "{report}");
    assert_eq!(server.text("/f"), "new");
}

#[test]
fn drain_needs_credentials_only_if_there_is_something_to_send() {
    let (server, mut mount) = mounted(Options::never_settle());
    mount.remount();
    mount.unmount();
    // What a configuration file says of some remote asks for no token either.
    let config = mount.home().join(".config/relayfile/mount.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(config, "base_url = \"https://elsewhere.example\"\nworkspace = \"other\"\n").unwrap();
    let no_token = |mount: &Mount| output(&mut mount.writeback(&["drain"]));
    assert_eq!(no_token(&mount).status.code(), Some(0));
    mount.start_again();
    fs::write(mount.at("f"), "new").unwrap();
    mount.kill9();
    mount.detach();
    let out = no_token(&mount);
    assert_eq!(out.status.code(), Some(2), "{}", words(&out));
    assert!(words(&out).contains("[TOKEN_MISSING]"), "{}", words(&out));
    assert_eq!(mount.writeback_json(&["status"])["pending"], 1, "and it is still queued");
    assert_eq!(output(&mut mount.drain(&[])).status.code(), Some(0));
    assert_eq!(server.text("/f"), "new");
}

#[test]
fn a_drain_leaves_each_failure_resumable_or_dead_and_says_the_same_everywhere() {
    let (mut server, mut mount) = mounted(Options::never_settle());
    for name in ["bad", "good", "waits"] {
        fs::write(mount.at(name), name).unwrap();
    }
    mount.kill9();
    mount.detach();
    server.refuse_batches();
    server.fault(json!({ "method": "PUT", "file_path": "/bad", "status": 400, "message": "never" }));
    server.fault(json!({ "method": "PUT", "file_path": "/waits", "times": 1, "status": 429, "retry_after": 600 }));
    let out = output(&mut mount.drain(&["--timeout", "2s", "--json"]));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", words(&out)));
    assert_eq!(out.status.code(), Some(4), "{report}");
    let paths = |part: &str| -> Vec<Value> { report[part].as_array().unwrap().iter().map(|r| r["path"].clone()).collect() };
    assert_eq!((paths("deadLettered"), paths("left")), (vec![json!("/bad")], vec![json!("/waits")]));
    assert_eq!(report["acknowledged"].as_array().unwrap().len(), 1);
    let status = mount.writeback_json(&["status"]);
    assert_eq!((&status["pending"], &status["deadLettered"][0]["path"]), (&json!(1), &json!("/bad")));
    let state: Value = serde_json::from_slice(&fs::read(mount.state_dir().join("state.json")).unwrap()).unwrap();
    assert_eq!(
        (&state["pendingWriteback"], &state["deadLettered"], &state["failedWritebacks"]),
        (&json!(1), &json!(1), &json!(2))
    );
    assert_eq!(server.text("/good"), "good");
    // The words of the first run are there for the second.
    server.stop();
    let out = output(&mut mount.drain(&["--timeout", "1s"]));
    assert_eq!(out.status.code(), Some(4), "{}", words(&out));
    assert!(words(&out).contains("never") && words(&out).contains("/waits"), "{}", words(&out));
    server.start_again();
    server.clear_faults();
    assert_eq!(mount.writeback_json(&["status"])["pending"], 1);
    mount.start_again();
    mount.writeback_ends_with(&["retry", "--all"], 0);
    assert_eq!(mount.number("failedWritebacks"), 2, "the counter is for life");
}

#[test]
fn reading_a_state_that_nobody_drives_changes_no_file_of_it() {
    let (_server, mut mount) = with_letters(2);
    let on_disk = |id: &str| mount.state_dir().join(format!("dead-letter/{id}.json")).exists();
    until("the letters are on disk", || mount.letters().iter().all(|l| on_disk(&l.id)));
    let listing = |mount: &Mount| -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        for dir in [mount.state_dir().to_owned(), mount.state_dir().join("dead-letter"), mount.state_dir().join("payloads")] {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                all.push((path.display().to_string(), fs::read(&path).unwrap_or_default()));
            }
        }
        all.sort();
        all
    };
    for crashed in [false, true] {
        match crashed {
            false => drop(mount.unmount()),
            true => {
                mount.start_again();
                mount.kill9();
                mount.detach();
            }
        }
        let before = listing(&mount);
        let id = mount.writeback_json(&["list"])[0]["id"].as_str().unwrap().to_owned();
        mount.writeback_ends_with(&["status"], 1);
        mount.writeback_ends_with(&["show", &id], 0);
        mount.writeback_ends_with(&["retry", "--all", "--dry-run"], 0);
        mount.writeback_ends_with(&["retry", "--opId", &id, "--force", "--dry-run"], 0);
        mount.writeback_ends_with(&["discard", "--all", "--dry-run"], 0);
        let after = listing(&mount);
        for (b, a) in before.iter().zip(&after) {
            assert_eq!(b.0, a.0, "crashed: {crashed}");
            assert!(b.1 == a.1, "{} has changed (crashed: {crashed})", b.0);
        }
        assert_eq!(before.len(), after.len());
    }
}

#[test]
fn a_journal_that_the_process_before_left_in_an_older_schema_is_read() {
    fuse_tests::require(&["sqlite3"]);
    let (_server, mut mount) = with_letters(1);
    mount.unmount();
    // What the first version wrote: none of the columns and tables of the later ones.
    let journal = mount.state_dir().join("journal.sqlite");
    let back = "ALTER TABLE operation DROP COLUMN batched; DROP TABLE delivery; DROP INDEX operation_path; DROP INDEX operation_refused; ALTER TABLE operation DROP COLUMN replay;
        CREATE INDEX operation_of_path ON operation(path) WHERE state <= 4; CREATE INDEX operation_done ON operation(path) WHERE state = 5;
        DROP TABLE attempt; DROP TABLE provider_error; DROP TABLE applied; DROP INDEX operation_linked; DROP INDEX operation_dead;
        ALTER TABLE operation DROP COLUMN in_view; ALTER TABLE operation DROP COLUMN force; ALTER TABLE operation DROP COLUMN forgiven;
        ALTER TABLE operation DROP COLUMN last_body; CREATE INDEX operation_dead ON operation(last_code) WHERE state = 4;
        PRAGMA user_version = 1;";
    let out = output(Command::new("sqlite3").arg(&journal).arg(back));
    assert!(out.status.success() && out.stderr.is_empty(), "{}", words(&out));
    let before = fs::read(&journal).unwrap();
    assert_eq!(mount.writeback_json(&["status"])["deadLettered"][0]["path"], "/d0");
    assert!(fs::read(&journal).unwrap() == before, "looking does not migrate");
    mount.start_again();
    assert_eq!((mount.number("deadLettered"), mount.number("failedWritebacks")), (1, 1));
    mount.writeback_ends_with(&["retry", "--all"], 0);
    mount.wait_clean();
}

#[test]
fn a_mount_over_an_older_mirror_takes_its_letters_over() {
    let server = Server::start();
    let mut mount = Mount::unstarted(&server, Options::default().flag("--allow-nonempty"));
    let relay = mount.at(".relay");
    fs::create_dir_all(relay.join("dead-letter")).unwrap();
    fs::write(relay.join("state.json"), r#"{"workspaceId":"ws","failedWritebacks":3}"#).unwrap();
    let record = r#"{"opId":"op_fromthemirror","path":"/notes/a.md","attempts":2,"lastStatus":400,"lastBody":"no","ts":"2026-01-01T00:00:00Z"}"#;
    fs::write(relay.join("dead-letter/op_fromthemirror.json"), record).unwrap();
    fs::write(relay.join("dead-letter/op_notreadable.json"), "{").unwrap();
    // The mirror itself still has the edit.
    fs::create_dir(mount.at("notes")).unwrap();
    fs::write(mount.at("notes/a.md"), "edited in the mirror").unwrap();
    for _ in 0..2 {
        mount.start_again();
        assert_eq!((mount.number("deadLettered"), mount.number("failedWritebacks")), (1, 3));
        assert_eq!(mount.unmount(), 9);
    }
    assert_eq!(fs::read_to_string(relay.join("dead-letter/op_notreadable.json")).unwrap(), "{");
    assert_eq!(fs::read_to_string(relay.join("dead-letter/op_fromthemirror.json")).unwrap(), record);
    mount.start_again();
    mount.writeback_ends_with(&["retry", "--all"], 0);
    mount.wait_clean();
    assert_eq!(server.text("/notes/a.md"), "edited in the mirror");
}
