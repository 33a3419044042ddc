//! The disk of the state directory is full: what was promised is kept, what cannot be promised says so, what is in the way can be
//! removed, and it goes on when there is room.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fuse_tests::{Mount, Options, Server, run, until};

/// A filesystem of some size for a state directory; taken away at the end.
struct Disk(PathBuf);

impl Disk {
    fn of(mebibytes: u32, mount: &Mount) -> Disk {
        let at = mount.home().join("disk");
        fs::create_dir(&at).unwrap();
        let size = format!("size={mebibytes}m");
        run(std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "small-disk"]).arg(&at));
        Disk(at)
    }

    /// Everything but the last `left` bytes is taken.
    fn fill(&self, left: u64) -> PathBuf {
        let ballast = self.0.join("ballast");
        let free = free(&self.0);
        let file = fs::File::create(&ballast).unwrap();
        let taken = free.saturating_sub(left);
        assert_eq!(fallocate(&file, taken), 0, "{}", io::Error::last_os_error());
        ballast
    }
}

fn fallocate(file: &fs::File, bytes: u64) -> i32 {
    use std::os::fd::AsRawFd;
    // SAFETY: fallocate takes no pointers; the descriptor is open.
    unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as i64) }
}

fn free(path: &Path) -> u64 {
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: the path ends with NUL, and statvfs is plain data that the call fills.
    unsafe {
        let mut s: libc::statvfs = std::mem::zeroed();
        assert_eq!(libc::statvfs(name.as_ptr(), &mut s), 0);
        s.f_bavail * s.f_frsize
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        fuse_tests::sys::detach(&self.0);
    }
}

fn no_room<T>(result: io::Result<T>) -> bool {
    matches!(result, Err(e) if e.raw_os_error() == Some(libc::ENOSPC))
}

fn small(server: &Server, mebibytes: u32) -> (Mount, Disk) {
    let mut mount = Mount::unstarted(server, Options::never_settle());
    let disk = Disk::of(mebibytes, &mount);
    mount.set_state_dir(&disk.0.join("state"));
    mount.start_again();
    (mount, disk)
}

/// Saves small files until one is refused; returns those that were promised.
fn save_until_refused(mount: &Mount, prefix: &str) -> Vec<String> {
    let mut saved = Vec::new();
    for n in 0..20_000 {
        let name = format!("{prefix}-{n}");
        match fs::write(mount.at(&name), content(&name)) {
            Ok(()) => saved.push(name),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{name}: {e}");
                return saved;
            }
        }
    }
    panic!("the disk is never full");
}

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(6000).collect()
}

#[test]
fn what_was_promised_is_kept_what_is_in_the_way_can_be_removed_and_it_goes_on() {
    let server = Server::start();
    server.put("/there", "already");
    let (mut mount, disk) = small(&server, 48);
    assert_eq!(fs::read_to_string(mount.at("there")).unwrap(), "already");
    let ballast = disk.fill(2 * 1024 * 1024);
    let saved = save_until_refused(&mount, "a");
    assert!(saved.len() > 10, "{}", saved.len());
    // A directory that was refused is not made later either.
    until("the journal is short of room", || {
        let refused = no_room(fs::create_dir(mount.at("refused")));
        let _ = fs::remove_dir(mount.at("refused"));
        refused
    });
    assert!(no_room(fs::create_dir(mount.at("refused"))));
    let status = fs::read_to_string(mount.at(".relay/status")).unwrap();
    assert!(status.starts_with("state:        full:"), "{status}");
    // Everything that a close() has promised can be read, and what is in the way can be removed.
    for name in &saved {
        assert_eq!(fs::read(mount.at(name)).unwrap(), content(name), "{name}");
    }
    let (gone, kept) = saved.split_at(5);
    gone.iter().for_each(|name| fs::remove_file(mount.at(name)).unwrap());
    assert_eq!(fs::read_to_string(mount.at("there")).unwrap(), "already");

    fs::remove_file(ballast).unwrap();
    until("there is room again", || fs::write(mount.at("after"), "room").is_ok());
    until("status says so", || !fs::read_to_string(mount.at(".relay/status")).unwrap().contains("full:"));
    assert!(!mount.at("refused").exists(), "what was refused was done later");
    assert!(fs::create_dir(mount.at("refused")).is_ok());
    mount.writeback_ends_with(&["flush"], 0);
    for name in kept {
        assert_eq!(server.text(&format!("/{name}")).into_bytes(), content(name), "{name}");
    }
    assert!(gone.iter().all(|name| server.get(&format!("/{name}")).is_none()));
    assert_eq!(mount.number("deadLettered"), 0);
    mount.remount();
    assert_eq!(fs::read_to_string(mount.at("after")).unwrap(), "room");
}

#[test]
fn a_kill_on_a_full_disk_loses_nothing_that_was_promised() {
    let server = Server::start();
    let (mut mount, disk) = small(&server, 48);
    let ballast = disk.fill(2 * 1024 * 1024);
    let saved = save_until_refused(&mount, "b");
    mount.kill9();
    mount.detach();
    fs::remove_file(ballast).unwrap();
    mount.start_again();
    for name in &saved {
        assert_eq!(fs::read(mount.at(name)).unwrap(), content(name), "{name}");
    }
    mount.writeback_ends_with(&["flush"], 0);
    for name in &saved {
        assert_eq!(server.text(&format!("/{name}")).into_bytes(), content(name), "{name}");
    }
}
