//! A mount starts usable or not at all, ends in every usual way, and leaves nothing half-made behind.

use std::fs;
use std::process::{Command, Output};

use fuse_tests::{Mount, Options, Server, is_mounted, output, processes_about, require, sh, until};
use serde_json::Value;

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A mount that was started in the background; it is unmounted when it is dropped.
struct Background(Mount);

impl Background {
    #[track_caller]
    fn start(server: &Server, options: Options) -> Background {
        let mount = Mount::unstarted(server, options);
        let started = output(&mut mount.command());
        assert!(started.status.success(), "{}", stderr(&started));
        Background(mount)
    }

    fn pid(&self) -> u32 {
        fs::read_to_string(self.0.state_dir().join("mount.pid")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.0.state_dir().join("mount.pid")) {
            fuse_tests::sys::signal(pid.trim().parse().unwrap(), libc::SIGKILL);
        }
    }
}

/// An orphan that has ended may stay in the process table until whoever adopted it looks; it does nothing any more.
fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[test]
fn a_start_in_the_background_returns_when_the_mount_can_be_used() {
    let server = Server::start();
    server.put("/f", "content");
    let mount = Background::start(&server, Options::default());
    assert!(is_mounted(&mount.0.path()), "at once, without waiting");
    assert_eq!(fs::read_to_string(mount.0.at("f")).unwrap(), "content");
}

#[test]
fn relayfile_unmount_uploads_ends_the_process_and_frees_the_directory() {
    let server = Server::start();
    let mount = Background::start(&server, Options::never_settle());
    let pid = mount.pid();
    fs::write(mount.0.at("f"), "saved").unwrap();
    let done = output(mount.0.relayfile().arg("unmount").arg(mount.0.path()));
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    assert_eq!(server.text("/f"), "saved");
    assert!(!is_mounted(&mount.0.path()), "still mounted");
    assert!(!is_alive(pid), "the process still runs");
    assert!(fs::read_dir(mount.0.path()).unwrap().next().is_none());
}

#[test]
fn relayfile_unmount_of_what_is_not_mounted_is_refused() {
    let server = Server::start();
    let mount = Mount::unstarted(&server, Options::default());
    let done = output(mount.relayfile().arg("unmount").arg(mount.path()));
    assert_eq!(done.status.code(), Some(3));
    assert!(stderr(&done).contains("[MOUNTPOINT_NOT_OURS]"), "{}", stderr(&done));
}

#[test]
fn relayfile_mounts_lists_the_mount_and_what_waits() {
    let server = Server::start();
    let mount = Mount::with(&server, Options::never_settle());
    fs::write(mount.at("f"), "waits").unwrap();
    let listed = output(mount.relayfile().args(["mounts", "--json"]));
    let rows: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let row = rows.as_array().unwrap().iter().find(|r| r["mountpoint"] == mount.path().to_str().unwrap());
    let row = row.unwrap_or_else(|| panic!("the mount is not in {rows:#}"));
    assert_eq!((row["pid"].as_u64(), row["pending"].as_u64()), (Some(u64::from(mount.pid())), Some(1)));
}

#[test]
fn sigterm_and_sigint_upload_and_end_with_0() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let server = Server::start();
        let mut mount = Mount::with(&server, Options::never_settle());
        fs::write(mount.at("f"), "saved").unwrap();
        fuse_tests::sys::signal(mount.pid(), signal);
        assert_eq!(mount.wait_ended(), 0);
        assert_eq!(server.text("/f"), "saved");
    }
}

#[test]
fn umount_and_fusermount_from_outside_upload_and_end_the_process() {
    require(&["fusermount3", "umount"]);
    for program in [&["fusermount3", "-u"][..], &["umount"]] {
        let server = Server::start();
        let mut mount = Mount::with(&server, Options::never_settle());
        fs::write(mount.at("f"), "saved").unwrap();
        fuse_tests::run(Command::new(program[0]).args(&program[1..]).arg(mount.path()));
        assert_eq!(mount.wait_ended(), 0, "{program:?}");
        assert_eq!(server.text("/f"), "saved", "{program:?}");
    }
}

#[test]
fn a_mount_that_is_busy_ends_on_sigterm_and_keeps_what_was_saved() {
    let server = Server::start();
    let mut mount = Mount::start(&server);
    let mut inside = Command::new("sleep").arg("60").current_dir(mount.path()).spawn().unwrap();
    let open = fs::File::create(mount.at("f")).unwrap();
    std::io::Write::write_all(&mut &open, b"saved").unwrap();
    open.sync_all().unwrap();
    assert_eq!(mount.unmount(), 0);
    inside.kill().unwrap();
    inside.wait().unwrap();
    assert_eq!(server.text("/f"), "saved");
}

#[test]
fn two_mounts_of_one_workspace_see_each_other() {
    let server = Server::start();
    let (one, two) = (Mount::start(&server), Mount::start(&server));
    fs::write(one.at("f"), "from one").unwrap();
    until("two has it", || fs::read_to_string(two.at("f")).is_ok_and(|t| t == "from one"));
    fs::write(two.at("f"), "from two").unwrap();
    until("one has it", || fs::read_to_string(one.at("f")).is_ok_and(|t| t == "from two"));
    assert_eq!(server.history("/f"), ["file.created", "file.updated"]);
}

/// Starts in both modes must be refused, changing nothing and leaving nothing.
#[track_caller]
fn assert_refused(mount: &Mount, exit: i32, code: &str) {
    let all_files = || sh(mount.home(), "find . -printf '%p %y %T@\n' | sort");
    for mode in [None, Some("--foreground")] {
        let before = all_files();
        let out = output(mount.command().args(mode));
        assert_eq!(out.status.code(), Some(exit), "{mode:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(&format!("[{code}]")), "{mode:?}: {code} is not in: {}", stderr(&out));
        assert!(stderr(&out).contains("\n  try: "), "no remedy: {}", stderr(&out));
        assert_eq!(all_files(), before, "something was changed");
        assert!(!is_mounted(&mount.path()));
        assert_eq!(processes_about(&mount.path()), Vec::<u32>::new(), "a process is left");
    }
}

fn unstarted() -> (Server, Mount) {
    let server = Server::start();
    let mount = Mount::unstarted(&server, Options::default());
    (server, mount)
}

#[test]
fn a_missing_mountpoint_is_refused() {
    let (_server, mount) = unstarted();
    fs::remove_dir(mount.path()).unwrap();
    assert_refused(&mount, 3, "MOUNTPOINT_NOT_FOUND");
}

#[test]
fn a_file_as_mountpoint_is_refused() {
    let (_server, mount) = unstarted();
    fs::remove_dir(mount.path()).unwrap();
    fs::write(mount.path(), "").unwrap();
    assert_refused(&mount, 3, "MOUNTPOINT_NOT_A_DIRECTORY");
}

#[test]
fn a_url_that_is_none_is_refused() {
    let (_server, mut mount) = unstarted();
    mount.set_url("no-url");
    assert_refused(&mount, 6, "BASE_URL_INVALID");
}

#[test]
fn an_unreachable_remote_is_refused() {
    let (mut server, mount) = unstarted();
    server.stop();
    assert_refused(&mount, 6, "REMOTE_UNREACHABLE");
}

#[test]
fn a_token_that_the_remote_refuses_is_refused() {
    let (server, mount) = unstarted();
    fs::write(server.token_file(), "rf_wrong").unwrap();
    assert_refused(&mount, 6, "TOKEN_REJECTED");
}

#[test]
fn a_missing_token_is_refused() {
    let (server, mount) = unstarted();
    fs::remove_file(server.token_file()).unwrap();
    assert_refused(&mount, 6, "TOKEN_MISSING");
}

#[test]
fn a_state_directory_that_another_mount_has_is_refused() {
    let (server, mut mount) = unstarted();
    let holder = Mount::start(&server);
    mount.set_state_dir(holder.state_dir());
    assert_refused(&mount, 5, "LEASE_HELD");
    fs::write(holder.at("f"), "the holder is not disturbed").unwrap();
    holder.wait_clean();
}

#[test]
fn a_mountpoint_that_is_mounted_already_is_refused() {
    let server = Server::start();
    let mut mount = Mount::start(&server);
    let other = mount.home().join("other-state");
    mount.set_state_dir(&other);
    let out = output(&mut mount.command());
    assert_eq!(out.status.code(), Some(3), "{}", stderr(&out));
    assert!(stderr(&out).contains("[MOUNTPOINT_BUSY]"), "{}", stderr(&out));
    assert!(!other.exists());
    assert!(mount.at(".relay/status").exists(), "the first is not disturbed");
}
