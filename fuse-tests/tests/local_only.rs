//! What stays on this machine: by the built-in rules, by `--local-only`, by `.relayignore`.

use std::fs;

use fuse_tests::{Mount, Options, Server, run, sys, until};
use serde_json::{Value, json};

/// `user.relayfile.state` of a file.
#[track_caller]
fn state(mount: &Mount, name: &str) -> String {
    let value = sys::get_xattr(&mount.at(name), c"user.relayfile.state");
    String::from_utf8(value.unwrap_or_else(|e| panic!("{name}: {e}"))).unwrap()
}

/// Saves a file that uploads and waits for it: whatever was saved before it would be at the remote by then.
#[track_caller]
fn settle(mount: &Mount, server: &Server) {
    fs::write(mount.at("settled"), format!("{:?}", std::time::SystemTime::now())).unwrap();
    mount.wait_clean();
    server.get("/settled").expect("what uploads has arrived");
}

#[test]
fn droppings_that_outlive_the_settle_window_are_never_uploaded() {
    let server = Server::start();
    let mut mount = Mount::start(&server);
    fs::create_dir(mount.at("d")).unwrap();
    let droppings = [
        ".f.swp",
        ".f.swo",
        ".f.txt.swx",
        "4913",
        "f~",
        "f.txt~",
        ".#f",
        "#f#",
        ".DS_Store",
        "x.db-wal",
        "x.db-shm",
        "x.sqlite-journal",
        ".goutputstream-3F8AX2",
        "f.java___jb_tmp___",
        "f.java___jb_old___",
        "f.json.vsctmp",
        ".~lock.f.odt#",
        ".f.txt.kate-swp",
        "~$f.docx",
        "~WRD0001.tmp",
    ];
    for name in droppings {
        fs::write(mount.at(name), "dropping").unwrap();
        fs::write(mount.at("d").join(name), "dropping").unwrap();
    }
    for dir in [".git", ".hg", ".svn", ".bzr", "_darcs", ".jj"] {
        fs::create_dir(mount.at(dir)).unwrap();
        fs::write(mount.at(dir).join("f"), "theirs").unwrap();
    }
    settle(&mount, &server);
    mount.remount();
    for name in droppings {
        assert_eq!(fs::read_to_string(mount.at("d").join(name)).unwrap(), "dropping");
        assert_eq!(state(&mount, name), "local", "{name}");
    }
    // Written once more, and under the names of others.
    fs::write(mount.at("f~"), "again").unwrap();
    fs::rename(mount.at(".f.swp"), mount.at(".f.swn")).unwrap();
    settle(&mount, &server);
    assert_eq!(server.paths(), ["/settled"]);
}

#[test]
fn a_relayignore_saved_here_counts_at_once_and_is_a_file_like_any_other() {
    let server = Server::start();
    let mut mount = Mount::start(&server);
    fs::write(mount.at(".relayignore"), "# mine\n*.log\n!keep.log\n/build/\n").unwrap();
    fs::create_dir_all(mount.at("build/deep")).unwrap();
    fs::create_dir(mount.at("d")).unwrap();
    for name in ["a.log", "d/b.log", "build/x", "build/deep/y", "keep.log", "d/f"] {
        fs::write(mount.at(name), name).unwrap();
    }
    // In another directory it is only a file.
    fs::write(mount.at("d/.relayignore"), "f\n").unwrap();
    fs::write(mount.at("d/f"), "changed").unwrap();
    settle(&mount, &server);
    let uploaded = ["/.relayignore", "/d/.relayignore", "/d/f", "/keep.log", "/settled"];
    assert_eq!(server.paths(), uploaded);
    assert_eq!(server.text("/d/f"), "changed");
    assert_eq!(
        (state(&mount, "d/b.log"), state(&mount, "build/deep/y"), state(&mount, "keep.log")),
        ("local".into(), "local".into(), "synced".into())
    );

    mount.remount();
    fs::write(mount.at("a.log"), "after a remount").unwrap();
    fs::write(mount.at("new.log"), "after a remount").unwrap();
    fs::rename(mount.at("new.log"), mount.at("newer.log")).unwrap();
    settle(&mount, &server);
    assert_eq!(server.paths(), uploaded);
    assert_eq!(fs::read_to_string(mount.at("a.log")).unwrap(), "after a remount");

    // Replaced as editors do: by another file of its name.
    fs::write(mount.at(".relayignore.new"), "*.log\n!keep.log\n/build/\n*.bak\n").unwrap();
    fs::rename(mount.at(".relayignore.new"), mount.at(".relayignore")).unwrap();
    fs::write(mount.at("a.bak"), "").unwrap();
    assert_eq!(state(&mount, "a.bak"), "local");

    // Without it nothing is held back any more; what is there goes with its next save.
    fs::remove_file(mount.at(".relayignore")).unwrap();
    settle(&mount, &server);
    assert!(server.get("/newer.log").is_none(), "nobody has saved it");
    fs::write(mount.at("newer.log"), "saved").unwrap();
    settle(&mount, &server);
    assert_eq!(server.text("/newer.log"), "saved");
    assert!(server.get("/.relayignore").is_none());
}

#[test]
fn a_new_rule_cancels_what_is_queued_and_takes_nothing_from_the_remote() {
    let server = Server::start();
    server.put("/old.log", "at the remote");
    let mount = Mount::with(&server, Options::never_settle());
    fs::write(mount.at("new.log"), "queued").unwrap();
    fs::write(mount.at("other"), "queued").unwrap();
    fs::write(mount.at("old.log"), "changed here").unwrap();
    assert_eq!(state(&mount, "new.log"), "queued");

    fs::write(mount.at(".relayignore"), "*.log\n").unwrap();
    assert_eq!(state(&mount, "new.log"), "local");
    assert_eq!(state(&mount, "old.log"), "queued", "the remote has it: it is never held back");
    mount.writeback_ends_with(&["flush"], 0);
    assert_eq!(server.paths(), ["/.relayignore", "/old.log", "/other"]);
    assert_eq!(server.text("/old.log"), "changed here");
    // And it goes on following the remote.
    server.put("/old.log", "changed there");
    until("the change shows", || fs::read_to_string(mount.at("old.log")).unwrap() == "changed there");
    assert_eq!(fs::read_to_string(mount.at("new.log")).unwrap(), "queued");
}

#[test]
fn a_new_rule_does_not_cancel_what_a_removal_waits_for() {
    let server = Server::start();
    server.put("/a", "the only copy");
    let mount = Mount::with(&server, Options::never_settle());
    fs::rename(mount.at("a"), mount.at("a.log")).unwrap();
    fs::write(mount.at(".relayignore"), "*.log\n").unwrap();
    mount.writeback_ends_with(&["flush"], 0);
    assert_eq!(server.paths(), ["/.relayignore", "/a.log"]);
}

#[test]
fn a_rule_of_somebody_else_counts_when_it_arrives() {
    let server = Server::start();
    server.put("/.relayignore", "*.log\n");
    let mut mount = Mount::start(&server);
    fs::write(mount.at("a.log"), "stays").unwrap();
    fs::write(mount.at("a.tmp"), "goes").unwrap();
    settle(&mount, &server);
    assert_eq!(server.paths(), ["/.relayignore", "/a.tmp", "/settled"]);

    server.put("/.relayignore", "*.tmp\n");
    fs::write(mount.at("b.log"), "whatever").unwrap();
    until("the new rule is in force", || {
        fs::write(mount.at("b.tmp"), "whatever").unwrap();
        state(&mount, "b.tmp") == "local"
    });
    fs::write(mount.at("a.log"), "goes now").unwrap();
    settle(&mount, &server);
    assert_eq!((server.text("/a.log").as_str(), server.text("/a.tmp").as_str()), ("goes now", "goes"));

    server.delete("/.relayignore");
    until("no rule is in force", || {
        fs::write(mount.at("c.tmp"), format!("{:?}", std::time::SystemTime::now())).unwrap();
        state(&mount, "c.tmp") != "local"
    });
    mount.remount();
    settle(&mount, &server);
    assert!(server.get("/c.tmp").is_some());
}

#[test]
fn while_a_new_rule_cannot_be_fetched_the_last_ones_stay_in_force_also_after_a_restart() {
    let server = Server::start();
    server.put("/.relayignore", "*.log\n");
    // An event of the stream would bring the rules along.
    server.refuse_streams();
    let mut mount = Mount::start(&server);
    until("the rules are fetched", || mount.log().contains("the rules of .relayignore are in force"));
    server.fault(json!({ "file_path": "/.relayignore", "method": "GET", "status": 503 }));
    server.put("/.relayignore", "*.tmp\n");
    until("the mount has tried", || mount.log().contains("GET /fs/file \"/.relayignore\": 503"));
    fs::write(mount.at("a.log"), "stays").unwrap();
    assert_eq!(state(&mount, "a.log"), "local");
    mount.kill9();
    mount.detach();
    mount.start_again();
    fs::write(mount.at("b.log"), "stays").unwrap();
    assert_eq!(state(&mount, "b.log"), "local", "before anything was fetched");
    settle(&mount, &server);
    assert_eq!(server.paths(), ["/.relayignore", "/settled"]);
    server.clear_faults();
    until("the new rule is in force", || {
        fs::write(mount.at("c.tmp"), "whatever").unwrap();
        state(&mount, "c.tmp") == "local"
    });
}

#[test]
fn the_patterns_of_the_command_line_and_the_environment_hold_back_too() {
    let server = Server::start();
    let mut mount = Mount::with(&server, Options::default().flag("--local-only=*.log").flag("--local-only").flag("/build/"));
    fs::create_dir(mount.at("build")).unwrap();
    for name in ["a.log", "build/x", "a.tmp"] {
        fs::write(mount.at(name), name).unwrap();
    }
    // No later rule takes anything from them.
    fs::write(mount.at(".relayignore"), "!a.log\n").unwrap();
    fs::write(mount.at("a.log"), "again").unwrap();
    settle(&mount, &server);
    assert_eq!(server.paths(), ["/.relayignore", "/a.tmp", "/settled"]);

    assert_eq!(mount.unmount(), 0);
    let mut mount = Mount::unstarted(&server, Options::default());
    mount.set_env("RELAYFILE_LOCAL_ONLY", "*.tmp,*.bak");
    mount.start_again();
    for name in ["b.tmp", "b.bak", "b.log"] {
        fs::write(mount.at(name), name).unwrap();
    }
    settle(&mount, &server);
    assert_eq!(server.paths(), ["/.relayignore", "/a.tmp", "/b.log", "/settled"]);
}

#[test]
fn a_rename_across_the_border_uploads_or_deletes() {
    let server = Server::start();
    server.seed([("/a", "one"), ("/d/b", "two"), ("/d/e/c", "three")]);
    let mount = Mount::start(&server);
    fs::write(mount.at(".relayignore"), "*.log\n/kept/\n").unwrap();
    settle(&mount, &server);

    fs::rename(mount.at("a"), mount.at("a.log")).unwrap();
    fs::rename(mount.at("d"), mount.at("kept")).unwrap();
    settle(&mount, &server);
    assert_eq!(server.paths(), ["/.relayignore", "/settled"], "they have left the remote");
    assert_eq!(fs::read_to_string(mount.at("a.log")).unwrap(), "one");
    assert_eq!(fs::read_to_string(mount.at("kept/e/c")).unwrap(), "three");

    fs::write(mount.at("a.log"), "changed").unwrap();
    fs::rename(mount.at("a.log"), mount.at("a.txt")).unwrap();
    fs::rename(mount.at("kept"), mount.at("back")).unwrap();
    settle(&mount, &server);
    assert_eq!(server.paths(), ["/.relayignore", "/a.txt", "/back/b", "/back/e/c", "/settled"]);
    assert_eq!((server.text("/a.txt").as_str(), server.text("/back/e/c").as_str()), ("changed", "three"));
}

#[test]
fn the_list_of_what_stays_here_names_the_rule_of_each_file_and_where_it_stands() {
    let server = Server::start();
    server.put("/old.log", "at the remote");
    let mut mount = Mount::with(&server, Options::default().flag("--local-only=/build/"));
    fs::create_dir_all(mount.at("build/deep")).unwrap();
    fs::write(mount.at(".relayignore"), "*.log\n").unwrap();
    for name in ["a.log", "build/deep/x", "f~", "uploaded"] {
        fs::write(mount.at(name), "1234").unwrap();
    }
    mount.wait_clean();
    let row = |path: &str, rule: &str, source: &str| json!({ "path": path, "state": "local", "rule": rule, "source": source, "size": 4 });
    let expected: Value = json!([
        row("/a.log", "*.log", ".relayignore"),
        row("/build/deep/x", "/build/", "--local-only"),
        row("/f~", "*~", "built-in"),
    ]);
    assert_eq!(mount.writeback_json(&["list", "--state", "local"]), expected);
    let text = run(&mut mount.writeback(&["list", "--state=local"]));
    assert!(text.lines().any(|l| l.split_whitespace().eq(["4", ".relayignore", "*.log", "/a.log"])), "{text}");
    assert_eq!(mount.writeback_json(&["list"]), json!([]), "they are no operations");
    // What nothing holds back any more waits for its next save.
    fs::write(mount.at(".relayignore"), "").unwrap();
    mount.wait_clean();
    let listed = mount.writeback_json(&["list", "--state", "local"]);
    assert_eq!((&listed[0]["path"], &listed[0]["rule"], &listed[0]["source"]), (&json!("/a.log"), &Value::Null, &Value::Null));
    assert_eq!(state(&mount, "a.log"), "local");
    fs::write(mount.at(".relayignore"), "*.log\n").unwrap();
    assert_eq!(mount.unmount(), 0);
    assert_eq!(mount.writeback_json(&["list", "--state", "local"]), expected, "without the mount");
}
