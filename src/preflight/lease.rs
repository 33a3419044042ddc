//! The lease: the right to drive one state directory, held by at most one process.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::{Code, Problem, shell_word};
use crate::fs;

pub const LOCK_FILE: &str = "mount.lock";
pub const PID_FILE: &str = "mount.pid";

/// A probe of another process holds the lock for microseconds; an owner for as long as it lives.
const TRIES: u32 = 5;
const BETWEEN_TRIES: Duration = Duration::from_millis(40);

/// An exclusive `flock` on `mount.lock`. The kernel takes it back when the process dies, however it dies.
#[derive(Debug)]
pub struct Lease {
    lock: File,
    pid_file: PathBuf,
}

impl Lease {
    /// Takes the lease of an existing state directory and writes this process's id to `mount.pid`.
    pub fn acquire(state_dir: &Path) -> Result<Lease, Problem> {
        let path = state_dir.join(LOCK_FILE);
        let unusable = |e: io::Error| {
            Problem::new(
                Code::StateDirUnwritable,
                format!("cannot take the lease {}: {e}", path.display()),
                format!("ls -ld {}", shell_word(state_dir)),
            )
        };
        for attempt in 1.. {
            let lock = open(&path, true).map_err(unusable)?;
            match try_lock(&lock) {
                Ok(()) if still_at(&lock, &path) => {
                    let pid_file = state_dir.join(PID_FILE);
                    write_pid(&pid_file).map_err(unusable)?;
                    return Ok(Lease { lock, pid_file });
                }
                // A failed start removed the file between our open and our lock.
                Ok(()) => continue,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(unusable(e)),
                Err(_) if attempt >= TRIES => return Err(held(state_dir)),
                Err(_) => std::thread::sleep(BETWEEN_TRIES),
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Whether [`Lease::acquire`] would succeed now, without creating or keeping anything.
    pub fn probe(state_dir: &Path) -> Result<(), Problem> {
        let Ok(lock) = open(&state_dir.join(LOCK_FILE), false) else { return Ok(()) };
        match try_lock(&lock) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(held(state_dir)),
            _ => Ok(()),
        }
    }

    /// Who has the lease: `None` nobody, `Some(pid)` somebody, whose process id may not be known. Creates and keeps nothing.
    pub fn held_by(state_dir: &Path) -> Option<Option<u32>> {
        Lease::probe(state_dir).is_err().then(|| Lease::holder(state_dir))
    }

    /// The process that wrote its id there last. It holds the lease only if [`Lease::probe`] says that somebody does.
    pub fn holder(state_dir: &Path) -> Option<u32> {
        std::fs::read_to_string(state_dir.join(PID_FILE)).ok()?.trim().parse().ok()
    }

    /// Releases the lease and takes its files away, for a start that failed in a directory that it had created itself.
    pub fn remove(self, state_dir: &Path) {
        // Removed while the lock is held: whoever opened the old file meanwhile sees in `still_at` that it is gone.
        let _ = std::fs::remove_file(state_dir.join(LOCK_FILE));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.pid_file);
        // Closing would release it as well, but a child that is being spawned may hold a copy for a moment.
        // SAFETY: the descriptor is open as long as `self.lock` lives.
        unsafe { libc::flock(self.lock.as_raw_fd(), libc::LOCK_UN) };
    }
}

/// Rust opens every file with O_CLOEXEC, so fusermount3 and other children do not inherit the lease.
fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` lives.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn write_pid(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    writeln!(file, "{}", std::process::id())
}

fn held(state_dir: &Path) -> Problem {
    let pid = Lease::holder(state_dir);
    let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    if let Some(mountpoint) = pid.and_then(|pid| unmounted_by(state_dir, pid)) {
        return Problem::new(
            Code::LeaseHeld,
            format!(
                "{holder} is using the state directory {}: it has unmounted {mountpoint}, is uploading what is left, and ends \
                 within its drain timeout",
                state_dir.display()
            ),
            "the same again in a moment",
        );
    }
    let remedy = pid.map_or_else(
        || "find its mount with: relayfile mounts".to_owned(),
        |pid| format!("find its mount with: relayfile mounts; or stop it with: kill {pid}"),
    );
    Problem::new(
        Code::LeaseHeld,
        format!("{holder} is using the state directory {} (this workspace is mounted already)", state_dir.display()),
        remedy,
    )
}

/// Where process `pid`, which holds the lease, was mounted and is no more. `None` also when that cannot be known.
fn unmounted_by(state_dir: &Path, pid: u32) -> Option<String> {
    /// Of `state.json`, which a process writes only once it has mounted: one that is still starting is not taken for one that ends.
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mounted {
        pid: u32,
        local_root: String,
    }
    let bytes = std::fs::read(state_dir.join("state.json")).ok()?;
    let mounted = serde_json::from_slice::<Mounted>(&bytes).ok().filter(|m| m.pid == pid && !m.local_root.is_empty())?;
    let seen = fs::mounts_of(pid).ok().filter(|seen| !seen.is_empty())?;
    let there = seen.iter().any(|m| m.is_ours() && m.mountpoint.to_string_lossy() == mounted.local_root);
    (!there).then_some(mounted.local_root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lease_is_refused_with_the_holders_pid_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Lease::acquire(dir.path()).unwrap();

        // A second open file description contends exactly as a second process does.
        for problem in [Lease::acquire(dir.path()).unwrap_err(), Lease::probe(dir.path()).unwrap_err()] {
            assert_eq!(problem.code, Code::LeaseHeld);
            assert!(problem.what.contains(&format!("process {}", std::process::id())), "{problem}");
        }
        drop(lease);

        assert!(!dir.path().join(PID_FILE).exists());
        assert_eq!(Lease::probe(dir.path()), Ok(()));
        Lease::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_holder_that_has_unmounted_is_said_to_be_ending() {
        let dir = tempfile::tempdir().unwrap();
        let _lease = Lease::acquire(dir.path()).unwrap();
        let said = |pid: u32, mountpoint: &str| {
            let state = serde_json::json!({ "pid": pid, "localRoot": mountpoint, "pendingWriteback": 1 });
            std::fs::write(dir.path().join("state.json"), state.to_string()).unwrap();
            Lease::probe(dir.path()).unwrap_err()
        };
        let me = std::process::id();
        let problem = said(me, "/mnt/not-mounted");
        assert_eq!(problem.code, Code::LeaseHeld);
        assert!(problem.what.contains(&format!("process {me}")) && problem.what.contains("drain timeout"), "{problem}");
        assert!(problem.what.contains("/mnt/not-mounted") && problem.remedy.contains("in a moment"), "{problem}");
        // What an earlier process has left behind says nothing of one that is starting.
        let problem = said(me + 1, "/mnt/not-mounted");
        assert!(problem.what.contains("mounted already"), "{problem}");
    }

    #[test]
    fn a_probe_creates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lease::probe(dir.path()), Ok(()));
        assert_eq!(Lease::probe(&dir.path().join("none")), Ok(()));
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_removed_lease_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        Lease::acquire(dir.path()).unwrap().remove(dir.path());
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_lock_on_a_file_that_was_taken_away_is_no_lease() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK_FILE);
        let file = open(&path, true).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!still_at(&file, &path));
        open(&path, true).unwrap();
        assert!(!still_at(&file, &path));
    }
}
