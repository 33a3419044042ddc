//! `relayfile writeback` on state directories that nobody has mounted: what it says, with which exit code, and what it leaves
//! alone.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::Home;
use serde_json::Value;

const GOOD: &str = "op_01HZX3GOODRECORD";
const WITHOUT_ID: &str = "op_01HZX3WITHOUTID";

fn writeback(home: &Home, args: &[&str]) -> Output {
    home.relayfile().arg("writeback").args(args).output().unwrap()
}

fn words(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[track_caller]
fn ends_with(home: &Home, args: &[&str], code: i32) -> String {
    let out = writeback(home, args);
    assert_eq!(out.status.code(), Some(code), "writeback {args:?}\n{}", words(&out));
    words(&out)
}

#[track_caller]
fn json(home: &Home, args: &[&str]) -> Value {
    let out = writeback(home, args);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("writeback {args:?}: {e}: {}", words(&out)))
}

/// A directory as an older tool leaves it.
fn older(home: &Home) -> PathBuf {
    let dir = home.mkdir("older");
    copy(Path::new("fixtures/older-relay"), &dir);
    dir
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file of a directory with its bytes.
fn bytes(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(bytes(&path));
        } else {
            all.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    all
}

const LEFT_ALONE: [&str; 4] = ["42.json", "op_01HZX3ELSEWHERE.json", "op_01HZX3MALFORMED.json", "op_01HZX3MISNAMED00.json"];

#[track_caller]
fn assert_left_alone(dir: &Path) {
    for name in LEFT_ALONE {
        let ours = std::fs::read(dir.join("dead-letter").join(name)).unwrap();
        assert_eq!(ours, std::fs::read(Path::new("fixtures/older-relay/dead-letter").join(name)).unwrap(), "{name}");
    }
}

#[test]
fn what_is_missing_has_no_failures_and_is_not_created() {
    let home = Home::new();
    let missing = home.path().join("none");
    let before = home.files();
    for place in [missing.to_str().unwrap(), "a-workspace-nobody-has"] {
        let said = ends_with(&home, &["status", place], 0);
        assert!(said.starts_with("workspace: ") && said.contains("no failures"), "{said}");
        assert_eq!(json(&home, &["status", "--json", place])["deadLettered"], serde_json::json!([]));
        assert_eq!(json(&home, &["list", "--json", place]), serde_json::json!([]));
        ends_with(&home, &["retry", "--all", place], 0);
        ends_with(&home, &["discard", "--all", "--yes", place], 0);
        ends_with(&home, &["drain", place], 0);
        ends_with(&home, &["flush", place], 0);
        ends_with(&home, &["retry", "--opId", GOOD, place], 2);
    }
    let out = home.relayfile_alone().args(["writeback", "status"]).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", words(&out));
    assert_eq!(home.files(), before, "nothing was created");
}

#[test]
fn an_older_directory_is_read_as_it_is_and_nothing_is_written() {
    let home = Home::new();
    let dir = older(&home);
    let place = dir.to_str().unwrap();
    let before = bytes(&dir);

    let text = ends_with(&home, &["status", place], 1);
    let lines: Vec<&str> = text.lines().take(4).collect();
    assert_eq!(lines, ["workspace: ws", "pending: 0", "failed: 12", "dead-lettered: 2"]);
    let status = json(&home, &["status", "--json", place]);
    assert_eq!((&status["workspaceId"], &status["failed"], &status["pending"]), (&"ws".into(), &12.into(), &0.into()));
    let dead = status["deadLettered"].as_array().unwrap();
    assert_eq!((&dead[0]["opId"], &dead[0]["path"]), (&GOOD.into(), &"/linear/issues/ENG-1.md".into()));
    assert_eq!((&dead[0]["lastStatus"], &dead[0]["ts"]), (&422.into(), &"2026-03-04T05:06:07Z".into()));
    assert_eq!((&dead[1]["opId"], &dead[1]["path"]), (&WITHOUT_ID.into(), &"/notion/page.md".into()));
    assert_eq!(status["lastErrorByProvider"]["linear"]["message"], "title is required");
    assert_eq!(status["malformed"].as_array().unwrap().len(), 4, "{status}");
    for name in LEFT_ALONE {
        assert!(text.contains(name), "{name} is not reported: {text}");
    }

    let list = json(&home, &["list", "--state", "dead", "--json", place]);
    let row = &list[0];
    for (field, value) in [
        ("id", GOOD),
        ("workspaceId", "ws"),
        ("path", "/linear/issues/ENG-1.md"),
        ("correlationId", GOOD),
        ("state", "dead"),
        ("provider", "linear"),
        ("ts", "2026-03-04T05:06:07Z"),
        ("code", "schema_violation"),
        ("message", "title is required"),
        ("firstAttemptAt", "2026-03-04T05:00:01Z"),
        ("lastAttemptAt", "2026-03-04T05:06:07Z"),
        ("error", "schema_violation"),
    ] {
        assert_eq!(row[field], value, "{field} of {row:#}");
    }
    assert_eq!((&row["attempts"], &row["providerStatus"]), (&4.into(), &422.into()));
    assert_eq!(row["providerResponse"]["message"], "title is required");
    assert_eq!(json(&home, &["list", "--state", "pending", "--json", place]), serde_json::json!([]));

    let shown = ends_with(&home, &["show", GOOD, place], 0);
    assert!(shown.contains("title is required") && shown.contains(&format!("retry --opId {GOOD}")), "{shown}");
    let dry = ends_with(&home, &["retry", "--all", "--dry-run", place], 1);
    assert!(dry.contains("would be sent again"), "{dry}");
    ends_with(&home, &["retry", "--opId", GOOD, "--dry-run", place], 0);
    ends_with(&home, &["discard", GOOD, "--dry-run", place], 0);
    assert_eq!(bytes(&dir), before, "reading writes nothing");
}

#[test]
fn an_older_letter_is_retried_and_those_that_cannot_be_read_are_not_in_the_way() {
    let home = Home::new();
    let dir = older(&home);
    let place = dir.to_str().unwrap();
    // One has no content: that is said, and the others go.
    let said = ends_with(&home, &["retry", "--all", place], 1);
    assert!(said.contains(&format!("{GOOD} /linear/issues/ENG-1.md: queued again")), "{said}");
    assert!(said.contains("its content is not here"), "{said}");
    assert_left_alone(&dir);
    let status = json(&home, &["status", "--json", place]);
    assert_eq!((&status["pending"], &status["failed"]), (&1.into(), &12.into()));
    assert_eq!(status["deadLettered"].as_array().unwrap().len(), 1);
    assert_eq!(json(&home, &["list", "--state", "pending", "--json", place])[0]["id"], GOOD);
    assert!(!dir.join(format!("dead-letter/{GOOD}.json")).exists(), "it is no letter any more");
    // Whoever comes second learns it.
    let again = ends_with(&home, &["retry", "--opId", GOOD, place], 0);
    assert!(again.contains("queued already"), "{again}");
    ends_with(&home, &["discard", WITHOUT_ID, place], 0);
    let status = json(&home, &["status", "--json", place]);
    assert_eq!((status["deadLettered"].as_array().unwrap().len(), &status["failed"]), (0, &12.into()));
    assert_left_alone(&dir);
    // There is work, and nobody has said where it belongs: that is a usage error, and nothing is lost.
    let said = ends_with(&home, &["drain", place], 2);
    assert!(said.contains("--base-url"), "{said}");
    assert_eq!(json(&home, &["status", "--json", place])["pending"], 1);
}

#[test]
fn records_that_cannot_be_used_are_refused_by_name() {
    let home = Home::new();
    let dir = older(&home);
    let place = dir.to_str().unwrap();
    let before = bytes(&dir);
    for (id, why) in [
        ("op_01HZX3MALFORMED", "not a dead-letter record"),
        ("op_01HZX3MISNAMED00", "file name"),
        ("op_01HZX3ELSEWHERE", "workspace"),
    ] {
        for command in [&["retry", "--opId"][..], &["discard"], &["show"]] {
            let said = ends_with(&home, &[command, &[id, place]].concat(), 2);
            assert!(said.contains(why), "{command:?} {id}: {said}");
        }
    }
    assert_eq!(bytes(&dir), before);
}

#[test]
fn an_id_that_is_none_is_refused_before_anything_is_looked_at() {
    let home = Home::new();
    let dir = older(&home);
    home.write("outside.json", r#"{"path":"/x"}"#);
    let before = home.files();
    let bad =
        ["../outside", "/etc/passwd", "", "op_01HZX3GOODRECORD\n", "op_", "op_../../outside", "op_01HZX3GOODRECORD.json", "42"];
    for id in bad {
        for command in [&["retry", "--opId"][..], &["discard"], &["show"]] {
            let said = ends_with(&home, &[command, &[id, "--state-dir", dir.to_str().unwrap()]].concat(), 2);
            assert!(said.contains("[USAGE]"), "{command:?} {id:?}: {said}");
        }
    }
    assert_eq!(home.files(), before);
}

#[test]
fn a_state_that_cannot_be_understood_is_said_and_left_alone() {
    let home = Home::new();
    let dir = older(&home);
    let place = dir.to_str().unwrap();
    std::fs::write(dir.join("state.json"), "{ not json").unwrap();
    let before = bytes(&dir);
    for command in ["status", "list", "flush", "drain"] {
        let said = ends_with(&home, &[command, place], 2);
        assert!(said.contains("state.json") && said.contains("try:"), "{command}: {said}");
    }
    std::fs::remove_file(dir.join("state.json")).unwrap();
    assert_eq!(json(&home, &["status", "--json", place])["failed"], 0, "no counter is no failures");
    let file = home.write("a-file", "x");
    ends_with(&home, &["status", file.to_str().unwrap()], 2);
    assert_eq!(bytes(&dir).len() + 1, before.len());
}

#[test]
fn a_journal_of_a_newer_program_is_not_touched() {
    let home = Home::new();
    let dir = older(&home);
    let place = dir.to_str().unwrap();
    ends_with(&home, &["retry", "--opId", GOOD, place], 0);
    let db = rusqlite::Connection::open(dir.join("journal.sqlite")).unwrap();
    db.pragma_update(None, "user_version", 999).unwrap();
    drop(db);
    let before = bytes(&dir);
    for command in [&["status"][..], &["retry", "--all"], &["drain"]] {
        let said = ends_with(&home, &[command, &[place]].concat(), 2);
        assert!(said.contains("newer"), "{command:?}: {said}");
    }
    assert_eq!(bytes(&dir), before);
}

#[test]
fn without_a_terminal_everything_is_discarded_only_when_that_is_said() {
    let home = Home::new();
    let dir = older(&home);
    let place = dir.to_str().unwrap();
    let said = ends_with(&home, &["discard", "--all", place], 2);
    assert!(said.contains("--yes"), "{said}");
    let lines = json(&home, &["discard", "--all", "--yes", "--json", place]);
    assert_eq!(lines.as_array().unwrap().len(), 2, "{lines}");
    assert_eq!(lines[0]["outcome"], "discarded");
    ends_with(&home, &["status", place], 1); // what cannot be read is still there
    LEFT_ALONE.iter().for_each(|name| std::fs::remove_file(dir.join("dead-letter").join(name)).unwrap());
    ends_with(&home, &["status", place], 0);
}

#[test]
fn a_mirror_with_a_relay_directory_is_found_by_its_root() {
    let home = Home::new();
    copy(Path::new("fixtures/older-relay"), &home.path().join("mirror/.relay"));
    let status = json(&home, &["status", "--json", home.path().join("mirror").to_str().unwrap()]);
    assert_eq!(status["deadLettered"].as_array().unwrap().len(), 2, "{status}");
}

#[test]
fn usage_errors_have_a_code_and_an_exit_code() {
    let home = Home::new();
    for args in
        [&["retry"][..], &["retry", "--all", "--opId", GOOD], &["discard"], &["list", "--state", "odd"], &["show"], &["nothing"]]
    {
        ends_with(&home, args, 2);
    }
}
