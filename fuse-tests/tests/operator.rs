//! What the operator's commands say of mounts that run, have died, or are on their way out.

use std::fs;
use std::process::Output;

use fuse_tests::{Mount, Options, Server, is_mounted, output, until};
use serde_json::Value;

fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Waits until the one save is in the file that outlives the process.
fn wait_counted(mount: &Mount) {
    let path = mount.state_dir().join("state.json");
    let pending = || serde_json::from_slice::<Value>(&fs::read(&path).ok()?).ok()?["pendingWriteback"].as_u64();
    until("the save is counted", || pending() == Some(1));
}

/// `relayfile doctor` with the settings of a mount.
fn doctor(mount: &Mount) -> Output {
    output(mount.relayfile().arg("doctor").args(mount.command().get_args()))
}

#[test]
fn doctor_finds_a_mount_that_runs_well() {
    let server = Server::start();
    let mut mount = Mount::start(&server);
    let done = doctor(&mount);
    let text = stdout(&done);
    assert_eq!(done.status.code(), Some(0), "{text}");
    let mounted = format!("✓ mountpoint: {} is mounted (pid {})\n", mount.path().display(), mount.pid());
    assert!(
        text.contains(&mounted) && text.contains("✓ lease: ") && text.contains("✓ remote: ") && !text.contains('✗'),
        "{text}"
    );

    // What is mounted there from another state directory is in the way.
    let own = mount.state_dir().to_owned();
    mount.set_state_dir(&mount.home().join("other"));
    let done = doctor(&mount);
    assert_eq!(done.status.code(), Some(1));
    assert!(stdout(&done).contains("✗ mountpoint") && stdout(&done).contains("[MOUNTPOINT_BUSY]"), "{}", stdout(&done));

    // And so is a lease that another mount holds.
    mount.set_state_dir(&own);
    fs::write(own.join("mount.pid"), "1\n").unwrap();
    let done = doctor(&mount);
    assert_eq!(done.status.code(), Some(1));
    assert!(stdout(&done).contains("[LEASE_HELD]"), "{}", stdout(&done));
}

#[test]
fn a_mountpoint_inside_a_mount_is_refused_also_when_that_is_dead() {
    let server = Server::start();
    let mut outer = Mount::start(&server);
    fs::create_dir(outer.at("inner")).unwrap();
    let mut inner = Mount::unstarted(&server, Options::default());
    inner.set_path(&outer.at("inner"));
    let assert_refused = || {
        let done = output(&mut inner.command());
        assert_eq!(done.status.code(), Some(3), "{}", stderr(&done));
        assert!(stderr(&done).contains("[MOUNTPOINT_INSIDE_MOUNT]"), "{}", stderr(&done));
        assert!(!inner.state_dir().exists() && !is_mounted(&inner.path()), "something was made");
    };
    assert_refused();
    outer.kill9();
    assert_refused();
}

#[test]
fn a_start_during_the_drain_of_the_mount_before_says_that_it_ends() {
    let server = Server::start();
    let mut mount = Mount::with(&server, Options::never_settle().flag("--drain-timeout=60s"));
    fs::write(mount.at("f"), "saved").unwrap();
    wait_counted(&mount);
    server.freeze();
    fuse_tests::sys::signal(mount.pid(), libc::SIGTERM);
    until("it is unmounted", || !is_mounted(&mount.path()));

    let done = output(&mut mount.command());

    let text = stderr(&done);
    assert_eq!(done.status.code(), Some(5), "{text}");
    assert!(text.contains("[LEASE_HELD]") && text.contains(&format!("process {} ", mount.pid())), "{text}");
    assert!(text.contains("is uploading what is left") && text.contains("in a moment"), "{text}");
    server.thaw();
    assert_eq!(mount.wait_ended(), 0);
}

/// What `relayfile mounts --json` says of a mount.
fn row(mount: &Mount) -> Value {
    let listed = output(mount.relayfile().args(["mounts", "--json"]));
    let rows: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    rows.into_iter().find(|r| r["mountpoint"] == mount.path().to_str().unwrap()).expect("a row for the mount")
}

#[test]
fn what_is_known_of_a_dead_mount_is_listed() {
    let server = Server::start();
    let mut mount = Mount::unstarted(&server, Options::never_settle());
    let state_dir = mount.home().join(".local/state/relayfile/ws-01234567");
    mount.set_state_dir(&state_dir);
    mount.start_again();
    fs::write(mount.at("f"), "saved").unwrap();
    wait_counted(&mount);
    mount.kill9();
    let found = row(&mount);
    let known = [&found["status"], &found["workspace"], &found["stateDir"]].map(|v| v.as_str().unwrap());
    assert_eq!(known, ["dead", "ws", state_dir.to_str().unwrap()]);
    assert_eq!((found["pending"].as_u64(), found["deadLettered"].as_u64()), (Some(1), Some(0)), "{found}");
    assert!(found["pid"].is_null(), "{found}");
}

#[test]
fn of_a_dead_mount_with_its_state_elsewhere_the_workspace_is_known() {
    let server = Server::start();
    let mut mount = Mount::start(&server);
    mount.kill9();
    let found = row(&mount);
    assert_eq!((&found["status"], &found["workspace"]), (&"dead".into(), &"ws".into()), "{found}");
    assert!(found["stateDir"].is_null(), "{found}");
}
