//! What the operator's commands say of mounts that run, have died, or are on their way out.

use std::fs;
use std::process::Output;

use fuse_tests::{Mount, Options, Server, is_mounted, output, until};

fn stdout(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
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
    let path = mount.state_dir().join("state.json");
    until("the save is counted", || fs::read_to_string(&path).is_ok_and(|t| t.contains("\"pendingWriteback\": 1")));
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
