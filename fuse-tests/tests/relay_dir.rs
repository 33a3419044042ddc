//! `.relay` tells how the mount stands: readable, true in its sizes, and closed to every change.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use fuse_tests::{Mount, Options, Server, sh, until};
use serde_json::{Value, json};

fn mounted() -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "content");
    let mount = Mount::start(&server);
    (server, mount)
}

#[test]
fn it_is_listed_with_its_files() {
    let (_server, mount) = mounted();
    assert_eq!(sh(&mount.path(), "ls -a"), ".\n..\n.relay\nf\n");
    assert_eq!(
        sh(&mount.path(), "ls .relay"),
        "README\nconflicts\ndead-letter\nlog\nmetrics\npending\nretry\nstate.json\nstatus\n"
    );
    assert_eq!(sh(&mount.path(), "ls .relay/pending"), "");
    assert_eq!(
        sh(&mount.path(), "find .relay -type f | sort"),
        ".relay/.gitignore\n.relay/README\n.relay/log\n.relay/metrics\n.relay/state.json\n.relay/status\n"
    );
}

#[test]
fn sizes_are_those_that_are_read() {
    let (_server, mount) = mounted();
    mount.wait_clean();
    until("the status stands still", || {
        ["README", "status", "state.json"].iter().all(|name| {
            let path = mount.at(".relay").join(name);
            let size = fs::metadata(&path).unwrap().size();
            size > 0 && size == fs::read(&path).unwrap().len() as u64
        })
    });
    assert_eq!(sh(&mount.path(), "cat .relay/README"), fs::read_to_string(mount.at(".relay/README")).unwrap());
}

#[test]
fn the_status_starts_with_the_state_and_ends_with_what_to_do() {
    let (server, mount) = mounted();
    until("it is ready", || fs::read_to_string(mount.at(".relay/status")).unwrap().starts_with("state:        ready"));
    let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
    for part in [server.url(), mount.path().to_str().unwrap(), "queue:", "dead letters:", "what to do:"] {
        assert!(status.contains(part), "{part} is not in:\n{status}");
    }
    assert!(!status.contains(server.token()), "the token is nobody's business");
}

#[test]
fn state_json_has_the_fields_that_programs_read() {
    let (server, mount) = mounted();
    until("it is ready", || mount.state()["status"] == "ready");
    let state = mount.state();
    let expected = [
        ("workspaceId", json!("ws")),
        ("remoteRoot", json!("/")),
        ("localRoot", json!(mount.path())),
        ("mode", json!("fuse")),
        ("pendingWriteback", json!(0)),
        ("deadLettered", json!(0)),
        ("failedWritebacks", json!(0)),
        ("treeKnown", json!(true)),
        ("pid", json!(mount.pid())),
    ];
    for (field, value) in expected {
        assert_eq!(state[field], value, "{field}");
    }
    for flag in ["stale", "offline", "syncing", "hasPendingWriteback"] {
        assert_eq!(state["states"][flag], false, "{flag}");
    }
    assert!(!state.to_string().contains(server.token()));
}

#[test]
fn the_state_directory_has_the_same_state() {
    let (_server, mount) = mounted();
    fs::write(mount.at("f"), "edited").unwrap();
    mount.wait_clean();
    until("the projection is written", || {
        let text = fs::read(mount.state_dir().join("state.json")).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).is_ok_and(|s| s["pendingWriteback"] == 0 && s["treeKnown"] == true)
    });
}

#[test]
fn a_save_that_waits_is_shown_with_its_reason_and_goes_away_with_its_arrival() {
    let (server, mount) = mounted();
    let revision = server.get("/f").unwrap().revision;
    server.fault(json!({ "method": "PUT", "times": 1, "delay_ms": 1500 }));
    fs::write(mount.at("f"), "edited").unwrap();
    until("the upload is on its way", || server.fault_hits() == 1);
    let names: Vec<_> = fs::read_dir(mount.at(".relay/pending")).unwrap().map(|e| e.unwrap().path()).collect();
    let [pending] = &names[..] else { panic!("one operation is pending, not {names:?}") };
    let text = fs::read(pending).unwrap();
    let op: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&op["path"], &op["kind"], &op["baseRevision"]), (&json!("/f"), &json!("put"), &json!(revision)));
    assert_eq!(pending.file_stem().unwrap().to_str(), op["opId"].as_str());
    assert!(op["why"].as_str().is_some_and(|why| !why.is_empty()), "{op}");
    assert_eq!(mount.state()["states"]["hasPendingWriteback"], true);
    mount.wait_clean();
    until("it is gone", || !pending.exists());
    let own = server.events().into_iter().filter(|e| e.correlation_id == op["opId"].as_str().unwrap()).count();
    assert_eq!(own, 1, "the remote knows the write by the same id");
}

#[test]
fn nothing_in_it_can_be_changed() {
    let (server, mount) = mounted();
    let before = fs::read_to_string(mount.at(".relay/README")).unwrap();
    let at = |name: &str| mount.at(".relay").join(name);
    let attempts = [
        ("write", fs::write(at("README"), "x")),
        ("append", fs::File::options().append(true).open(at("status")).map(drop)),
        ("truncate", fs::File::options().write(true).open(at("status")).and_then(|f| f.set_len(0))),
        ("create", fs::write(at("new"), "x")),
        ("create in pending", fs::write(at("pending/op_x.json"), "x")),
        ("mkdir", fs::create_dir(at("dir"))),
        ("symlink", symlink("x", at("link"))),
        ("link into it", fs::hard_link(mount.at("f"), at("f"))),
        ("link out of it", fs::hard_link(at("README"), mount.at("r")).and(Ok(()))),
        ("remove", fs::remove_file(at("README"))),
        ("rmdir", fs::remove_dir(at("pending"))),
        ("rmdir itself", fs::remove_dir(mount.at(".relay"))),
        ("rename inside", fs::rename(at("README"), at("READYOU"))),
        ("rename out", fs::rename(at("README"), mount.at("README"))),
        ("rename into", fs::rename(mount.at("f"), at("f"))),
        ("rename itself", fs::rename(mount.at(".relay"), mount.at("relay"))),
        ("chmod", fs::set_permissions(at("README"), std::os::unix::fs::PermissionsExt::from_mode(0o777))),
        ("chown", fuse_tests::sys::chown(&at("README"), 1, 1)),
        ("setxattr", fuse_tests::sys::set_xattr(&at("README"), c"user.x", b"x")),
    ];
    for (what, result) in attempts {
        let errno = result.expect_err(what).raw_os_error().unwrap();
        let refused = [libc::EPERM, libc::EACCES, libc::EXDEV, libc::EBUSY, libc::EROFS, libc::ENOTSUP];
        assert!(refused.contains(&errno), "{what}: errno {errno}");
    }
    assert_eq!(fs::read_to_string(mount.at(".relay/README")).unwrap(), before);
    assert_eq!(
        sh(&mount.path(), "ls -a; ls .relay"),
        ".\n..\n.relay\nf\nREADME\nconflicts\ndead-letter\nlog\nmetrics\npending\nretry\nstate.json\nstatus\n"
    );
    mount.wait_clean();
    assert_eq!(server.events().len(), 1, "nothing reached the remote");
}

#[test]
fn the_name_is_reserved_in_the_root_only() {
    let (server, mount) = mounted();
    assert!(fs::create_dir(mount.at(".relay")).is_err());
    sh(&mount.path(), "mkdir sub; mkdir sub/.relay; echo mine > sub/.relay/status");
    mount.wait_clean();
    assert_eq!(server.text("/sub/.relay/status"), "mine\n");
}

#[test]
fn looking_at_it_sends_nothing() {
    let server = Server::start();
    let mount = Mount::with(&server, Options::default());
    server.reset_counts();
    sh(&mount.path(), "for i in 1 2 3; do find .relay -type f -exec cat {} + > /dev/null; done");
    let counts = server.counts();
    assert!(counts.keys().all(|route| route == "GET /fs/events"), "only the feed is followed: {counts:?}");
}
