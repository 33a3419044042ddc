//! Two change one file: what can be merged is merged by the remote, what cannot is set aside, and nothing is destroyed.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use fuse_tests::{Mount, Options, Server, Terminal, output, require, until};
use serde_json::json;

const BASE: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n";
const MINE: &str = "ONE\ntwo\nthree\nfour\nfive\nsix\nseven\n";
const THEIRS: &str = "one\ntwo\nthree\nfour\nfive\nsix\nSEVEN\n";
const BOTH: &str = "ONE\ntwo\nthree\nfour\nfive\nsix\nSEVEN\n";

/// A mount that sends only when it is asked to, with `/f` read and looked at.
fn mounted(content: &str) -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", content);
    let mount = Mount::with(&server, Options::never_settle());
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), content);
    server.reset_counts();
    (server, mount)
}

/// What the mount has heard of up to now includes everything that has happened.
fn wait_heard(server: &Server, mount: &Mount, marker: &str) {
    server.put(&format!("/{marker}"), "");
    until("the mount has heard of it", || mount.at(marker).exists());
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn assert_merged(server: &Server, mount: &Mount) {
    mount.wait_clean();
    assert_eq!(server.text("/f"), BOTH);
    until("the mount shows the merged text", || fs::read_to_string(mount.at("f")).is_ok_and(|t| t == BOTH));
    assert_eq!(server.history("/f"), ["file.created", "file.updated", "file.updated"]);
}

#[test]
fn edits_of_different_lines_are_merged() {
    let (server, mount) = mounted(BASE);
    fs::write(mount.at("f"), MINE).unwrap();
    server.put("/f", THEIRS);
    wait_heard(&server, &mount, "marker");
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), MINE, "the local edit is not touched");
    mount.writeback_ends_with(&["flush"], 0);
    assert_merged(&server, &mount);
    // What is saved now is based on the merged text.
    fs::write(mount.at("f"), "after").unwrap();
    mount.writeback_ends_with(&["flush"], 0);
    assert_eq!(server.text("/f"), "after");
}

#[test]
fn an_editor_that_replaces_the_file_has_a_base_too() {
    for script in ["sed -i s/one/ONE/ f", "cp f f~; mv f .old; sed s/one/ONE/ .old > f; rm .old f~"] {
        let (server, mount) = mounted(BASE);
        fuse_tests::sh(&mount.path(), script);
        server.put("/f", THEIRS);
        mount.writeback_ends_with(&["flush"], 0);
        assert_merged(&server, &mount);
    }
}

#[test]
fn a_merge_that_nobody_heard_of_in_time_is_met_by_the_revision() {
    // The mount learns of the other version only from the answer to its own write.
    let (server, mount) = mounted(BASE);
    server.fault(json!({ "method": "PUT", "times": 1, "delay_ms": 500 }));
    fs::write(mount.at("f"), MINE).unwrap();
    let mut flush = mount.writeback(&["flush"]);
    let mut flush = flush.spawn().unwrap();
    until("the upload is on its way", || server.fault_hits() == 1);
    server.put("/f", THEIRS);
    assert!(flush.wait().unwrap().success());
    assert_merged(&server, &mount);
}

#[test]
fn a_merge_whose_answer_was_lost_is_done_once() {
    let (server, mount) = mounted(BASE);
    fs::write(mount.at("f"), MINE).unwrap();
    server.put("/f", THEIRS);
    wait_heard(&server, &mount, "marker");
    server.fault(json!({ "path_prefix": "/fs/merge", "times": 1, "drop_after_commit": true }));
    mount.writeback_ends_with(&["flush"], 0);
    assert_merged(&server, &mount);
}

#[test]
fn a_save_behind_a_merge_is_merged_again() {
    let (server, mount) = mounted(BASE);
    fs::write(mount.at("f"), MINE).unwrap();
    server.put("/f", THEIRS);
    wait_heard(&server, &mount, "marker");
    server.fault(json!({ "path_prefix": "/fs/merge", "times": 1, "delay_ms": 500 }));
    let mut flush = mount.writeback(&["flush"]).spawn().unwrap();
    until("the merge is on its way", || server.fault_hits() == 1);
    let third = MINE.replace("four", "FOUR");
    fs::write(mount.at("f"), &third).unwrap();
    assert!(flush.wait().unwrap().success());
    mount.writeback_ends_with(&["flush"], 0);
    mount.wait_clean();
    assert_eq!(server.text("/f"), BOTH.replace("four", "FOUR"));
    until("the mount shows it", || fs::read_to_string(mount.at("f")).is_ok_and(|t| t == BOTH.replace("four", "FOUR")));
}

#[test]
fn edits_of_one_line_are_set_aside_and_settled_by_a_person() {
    let (server, mut mount) = mounted("base\n");
    fs::write(mount.at("f"), "mine\n").unwrap();
    server.put("/f", "theirs\n");
    mount.writeback_ends_with(&["flush"], 1);
    until("the remote's version takes the path", || fs::read_to_string(mount.at("f")).is_ok_and(|t| t == "theirs\n"));
    assert_eq!(server.text("/f"), "theirs\n");
    let letter = mount.letter();
    let sides = mount.at(".relay/conflicts").join(&letter.id);
    let read = |side: &str| fs::read_to_string(sides.join(side)).unwrap();
    assert_eq!(names(&mount.at(".relay/conflicts")), [letter.id.as_str()]);
    assert_eq!(names(&sides), ["base", "local", "remote"]);
    assert_eq!((read("base"), read("local"), read("remote")), ("base\n".into(), "mine\n".into(), "theirs\n".into()));
    assert!(fs::write(sides.join("local"), "x").is_err(), "nothing there can be written");
    let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
    assert!(status.contains(&format!(".relay/conflicts/{}/local", letter.id)), "{status}");
    // It survives a remount, and goes when it is settled.
    mount.remount();
    assert_eq!(names(&mount.at(".relay/conflicts").join(&letter.id)), ["base", "local", "remote"]);
    mount.writeback_ends_with(&["retry", "--opId", &letter.id, "--force"], 0);
    mount.writeback_ends_with(&["flush"], 0);
    assert_eq!(server.text("/f"), "mine\n");
    until("what was set aside is gone", || names(&mount.at(".relay/conflicts")).is_empty());
    until("nothing is left of it", || names(&mount.state_dir().join("conflicts")).is_empty());
}

#[test]
fn a_conflict_that_is_let_go_takes_its_sides_with_it() {
    let (server, mount) = mounted("base\n");
    fs::write(mount.at("f"), "mine\n").unwrap();
    server.put("/f", "theirs\n");
    mount.writeback_ends_with(&["flush"], 1);
    let letter = mount.letter();
    fs::remove_file(mount.at(&format!(".relay/dead-letter/{}.json", letter.id))).unwrap();
    until("nothing is left of it", || names(&mount.state_dir().join("conflicts")).is_empty());
    assert_eq!(server.text("/f"), "theirs\n");
    until("the mount shows theirs", || fs::read_to_string(mount.at("f")).is_ok_and(|t| t == "theirs\n"));
}

#[test]
fn what_is_not_text_is_not_merged() {
    let (server, mount) = mounted("base\n");
    fs::write(mount.at("f"), b"mine\n\xff").unwrap();
    server.put("/f", "theirs\nmore\n");
    mount.writeback_ends_with(&["flush"], 1);
    assert_eq!(server.text("/f"), "theirs\nmore\n");
    assert_eq!(mount.letter().payload().unwrap(), b"mine\n\xff");
}

#[test]
fn a_remote_that_cannot_merge_leaves_a_conflict() {
    let (server, mount) = mounted(BASE);
    server.fault(json!({ "path_prefix": "/fs/merge", "status": 404 }));
    fs::write(mount.at("f"), MINE).unwrap();
    server.put("/f", THEIRS);
    mount.writeback_ends_with(&["flush"], 1);
    assert_eq!((server.text("/f"), mount.letter().payload().unwrap()), (THEIRS.to_owned(), MINE.as_bytes().to_vec()));
}

#[test]
fn two_mounts_that_rename_one_file_keep_its_content_under_both_names() {
    let server = Server::start();
    server.put("/f", "content");
    let mounts = [Mount::start(&server), Mount::start(&server)];
    for (mount, name) in mounts.iter().zip(["a", "b"]) {
        fs::rename(mount.at("f"), mount.at(name)).unwrap();
    }
    mounts.iter().for_each(|m| m.wait_synced());
    assert_eq!((server.text("/a"), server.text("/b"), server.get("/f")), ("content".into(), "content".into(), None));
    for mount in &mounts {
        until("both names show", || mount.at("a").exists() && mount.at("b").exists() && !mount.at("f").exists());
    }
}

#[test]
fn a_directory_at_the_remote_and_a_file_here_lose_nothing() {
    let (server, mount) = mounted("x");
    fs::write(mount.at("name"), "a file here").unwrap();
    server.put("/name/below", "a directory there");
    wait_heard(&server, &mount, "marker");
    mount.writeback_ends_with(&["flush"], 0);
    let kept = fs::read_to_string(mount.at("name")).is_ok_and(|t| t == "a file here")
        || server.get("/name").is_some_and(|f| f.content == b"a file here");
    assert!(kept, "the local file is gone");
    assert_eq!(server.text("/name/below"), "a directory there");
}

#[test]
fn vim_warns_before_it_overwrites_what_somebody_else_has_written() {
    require(&["vim"]);
    let server = Server::start();
    server.put("/f.txt", "base\n");
    let mount = Mount::start(&server);
    let mut command = Command::new("vim");
    command.args(["-N", "-u", "NONE", "-i", "NONE"]).arg(mount.at("f.txt")).env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
    let mut vim = Terminal::start(&mut command);
    vim.wait_for("base");
    vim.keys("omine\x1b");
    server.put("/f.txt", "theirs\n");
    until("the mount shows the other version", || fs::read_to_string(mount.at("f.txt")).is_ok_and(|t| t == "theirs\n"));
    vim.keys(":w\r");
    vim.wait_for("changed since");
    vim.keys("n");
    vim.wait_for("Press ENTER");
    vim.keys("\r:q!\r");
    vim.wait();
    mount.wait_clean();
    assert_eq!(server.text("/f.txt"), "theirs\n");
}

#[test]
fn an_open_writer_meets_the_other_version_at_its_save() {
    use std::io::Write;
    let (server, mount) = mounted(BASE);
    let mut file = OpenOptions::new().write(true).open(mount.at("f")).unwrap();
    server.put("/f", THEIRS);
    wait_heard(&server, &mount, "marker");
    file.write_all(b"ONE").unwrap();
    drop(file);
    let out = output(&mut mount.writeback(&["flush"]));
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert_merged(&server, &mount);
}
