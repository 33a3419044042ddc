//! Tokens that allow less than everything: what may be read is there, what may not be written is refused at open(), and why
//! is said.

use std::fs;
use std::io;
use std::path::Path;

use fuse_tests::{Mount, Options, Server, output, sys, until};

/// A mount with a token of these scopes, not started.
fn unstarted(server: &Server, scopes: &[&str], options: Options) -> Mount {
    let mut mount = Mount::unstarted(server, options);
    let file = mount.home().join("scoped-token");
    fs::write(&file, server.token_for("bob", scopes)).unwrap();
    mount.set_token_file(&file);
    mount
}

fn mounted(server: &Server, scopes: &[&str]) -> Mount {
    let mut mount = unstarted(server, scopes, Options::default());
    mount.start_again();
    mount
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(what: &str, result: io::Result<T>) {
    match result {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => {}
        other => panic!("{what}: {other:?} instead of EACCES"),
    }
}

fn append(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().append(true).open(path)
}

#[test]
fn with_a_token_that_only_reads_every_write_is_refused_before_anything_changes() {
    let server = Server::start();
    server.seed([("/a", "one"), ("/d/b", "two")]);
    let mount = mounted(&server, &["fs:read"]);
    server.reset_counts();

    let (a, b) = (mount.at("a"), mount.at("d/b"));
    assert_refused("open for writing", append(&a));
    assert_refused("open with O_TRUNC", fs::File::create(&a));
    assert_refused("create", fs::File::create(mount.at("new")));
    assert_refused("truncate", fs::OpenOptions::new().write(true).open(&a).and_then(|f| f.set_len(1)));
    assert_refused("truncate by name", sys::truncate(&a, 1));
    assert_refused("mknod", sys::make_file(&mount.at("node")));
    assert_refused("unlink", fs::remove_file(&a));
    assert_refused("rename", fs::rename(&a, mount.at("c")));
    assert_refused("rename over a file", fs::rename(&a, &b));
    assert_refused("rename of a directory", fs::rename(mount.at("d"), mount.at("e")));
    assert_refused("link", fs::hard_link(&a, mount.at("c")));

    assert_eq!(fs::read_to_string(&a).unwrap(), "one");
    assert_eq!(fs::read_to_string(&b).unwrap(), "two");
    let mut names: Vec<_> = fs::read_dir(mount.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".relay", "a", "d"]);
    assert_eq!((mount.number("pendingWriteback"), server.writes()), (0, 0));
    let refusals = mount.log().matches("the token does not allow it").count();
    assert_eq!(refusals, 1, "it is said once");
}

#[test]
fn what_stays_on_this_machine_needs_no_permission() {
    let server = Server::start();
    server.put("/a", "one");
    let mut mount = mounted(&server, &["fs:read"]);
    fs::create_dir_all(mount.at("empty/.git")).unwrap();
    fs::write(mount.at("empty/.git/HEAD"), "ref").unwrap();
    std::os::unix::fs::symlink("a", mount.at("link")).unwrap();
    fs::set_permissions(mount.at("a"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::File::open(mount.at("a")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    fs::rename(mount.at("empty/.git/HEAD"), mount.at("empty/.git/OLD")).unwrap();
    fs::rename(mount.at("empty"), mount.at("full")).unwrap();
    assert_refused("to a name that uploads", fs::rename(mount.at("full/.git/OLD"), mount.at("full/OLD")));
    mount.remount();
    assert_eq!(fs::read_to_string(mount.at("full/.git/OLD")).unwrap(), "ref");
    assert_eq!(fs::read_to_string(mount.at("link")).unwrap(), "one");
    assert_eq!(server.paths(), ["/a"]);
}

#[test]
fn a_token_for_one_directory_writes_there_and_nowhere_else() {
    let server = Server::start();
    server.seed([("/m/x/a", "one"), ("/m/y/b", "two"), ("/m/x/deep/c", "three")]);
    let mount = mounted(&server, &["fs:read", "relayfile:fs:write:/m/x/**"]);

    fs::write(mount.at("m/x/a"), "changed").unwrap();
    fs::write(mount.at("m/x/new"), "new").unwrap();
    assert_refused("beside it", fs::write(mount.at("m/y/b"), "changed"));
    assert_refused("a new file beside it", fs::write(mount.at("m/xx"), "new"));
    assert_refused("out of it", fs::rename(mount.at("m/x/a"), mount.at("m/y/a")));
    assert_refused("into it", fs::rename(mount.at("m/y/b"), mount.at("m/x/b")));
    assert_refused("a directory out of it", fs::rename(mount.at("m/x/deep"), mount.at("m/deep")));
    assert_refused("an exchange", sys::rename_with(&mount.at("m/x/a"), &mount.at("m/y/b"), libc::RENAME_EXCHANGE));
    assert_refused("a link out of it", fs::hard_link(mount.at("m/x/a"), mount.at("m/y/a")));
    fs::rename(mount.at("m/x/deep"), mount.at("m/x/deeper")).unwrap();
    mount.wait_clean();
    assert_eq!(server.paths(), ["/m/x/a", "/m/x/deeper/c", "/m/x/new", "/m/y/b"]);
    assert_eq!((server.text("/m/x/a").as_str(), server.text("/m/y/b").as_str()), ("changed", "two"));
}

#[test]
fn the_scopes_are_those_of_the_whole_path_at_the_remote() {
    let server = Server::start();
    server.seed([("/m/a", "one"), ("/m/ro/b", "two"), ("/other", "three")]);
    let mut mount = unstarted(
        &server,
        &["relayfile:fs:read:/m/**", "relayfile:fs:write:/m/rw/**"],
        Options::default().flag("--remote-path=/m"),
    );
    mount.start_again();
    assert_eq!(fs::read_to_string(mount.at("a")).unwrap(), "one");
    assert_refused("above it", fs::write(mount.at("a"), "changed"));
    fs::create_dir(mount.at("rw")).unwrap();
    fs::write(mount.at("rw/f"), "new").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/m/rw/f"), "new");
}

#[test]
fn what_the_token_does_not_allow_is_said_at_start_in_the_status_and_by_doctor() {
    let server = Server::start();
    server.put("/m/a", "one");
    for (scopes, said, read_only) in [
        (&["fs:read"][..], "read-only: the token has no fs:write scope", true),
        (&["fs:read", "relayfile:fs:write:/m/**"], "writable only below /m", false),
    ] {
        let mut mount = mounted(&server, scopes);
        assert!(mount.log().contains(said), "the output of the start: {}", mount.log());
        let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
        assert!(status.lines().any(|l| l.starts_with("access:") && l.contains(said)), "{status}");
        let state = mount.state();
        assert_eq!((&state["access"], &state["states"]["readOnly"]), (&said.into(), &read_only.into()), "{state:#}");
        let doctor = output(mount.relayfile().arg("doctor").args(mount.command().get_args()));
        let text = String::from_utf8_lossy(&doctor.stdout);
        assert!(doctor.status.success() && text.contains(&format!("! {said}\n")), "a warning and no failure: {text}");
        assert_eq!(mount.unmount(), 0);
    }
    let mount = Mount::start(&server);
    assert!(mount.state()["access"].is_null() && !fs::read_to_string(mount.at(".relay/status")).unwrap().contains("access:"));
}

#[test]
fn another_token_in_the_file_counts_at_once() {
    let server = Server::start();
    server.put("/a", "one");
    let mount = mounted(&server, &["fs:read"]);
    assert_refused("with the first", fs::write(mount.at("a"), "two"));
    let file = mount.home().join("scoped-token");
    fs::write(mount.home().join("next"), server.token_for("bob", &["fs:read", "fs:write"])).unwrap();
    fs::rename(mount.home().join("next"), &file).unwrap();
    fs::write(mount.at("a"), "two").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/a"), "two");
    assert!(mount.state()["access"].is_null());

    fs::write(mount.home().join("next"), server.token_for("bob", &["fs:read"])).unwrap();
    fs::rename(mount.home().join("next"), &file).unwrap();
    until("the poorer token is taken up", || !mount.state()["access"].is_null());
    assert_refused("with the last", fs::write(mount.at("a"), "three"));
}

#[test]
fn a_mount_of_what_may_not_be_listed_names_what_may() {
    let server = Server::start();
    server.put("/m/a", "one");
    let scopes = ["relayfile:fs:read:/m/**", "relayfile:fs:write:/m/**"];
    let mut mount = unstarted(&server, &scopes, Options::default());
    let done = output(&mut mount.command());
    let text = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(6), "{text}");
    assert!(text.contains("[WORKSPACE_FORBIDDEN]") && text.contains("--remote-path /m\n"), "{text}");
    assert!(!mount.state_dir().exists(), "something was made");

    mount = unstarted(&server, &scopes, Options::default().flag("--remote-path").flag("/m"));
    mount.start_again();
    fs::write(mount.at("a"), "two").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/m/a"), "two");
}

#[test]
fn files_that_access_rules_deny_are_not_there_or_cannot_be_opened() {
    let server = Server::start();
    server.seed([("/open", "for all"), ("/late/f", "not yet denied")]);
    server.put_with_permissions("/mine", "for alice", &["agent:alice"]);
    let mount = mounted(&server, &["fs:read", "fs:write"]);
    assert_eq!(fs::read_to_string(mount.at("open")).unwrap(), "for all");
    assert_eq!(fs::read(mount.at("mine")).unwrap_err().kind(), io::ErrorKind::NotFound, "it is not listed");

    // The mount has listed it, and has not fetched it.
    server.put_with_permissions("/late/.relayfile.acl", "", &["agent:alice"]);
    assert_refused("a file that is denied by now", fs::read(mount.at("late/f")));
    // Only the remote knows its rules: what it refuses is a dead letter.
    fs::write(mount.at("late/new"), "from bob").unwrap();
    mount.wait_number("deadLettered", 1);
    assert_eq!(mount.letter().record["lastStatus"], 403);
}
