//! `relayfile unmount`: asks the process behind a mount to stop, waits for it, and says what is left.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::args;
use super::live::{self, Answer, LastStop, LiveState};
use super::{out, report};
use crate::fs::{MountEntry, mounted_at};
use crate::preflight::{self, Code, Exit, Problem, resolve_existing_part, shell_word};

pub fn run(options: &args::Unmount) -> Exit {
    let path = std::path::absolute(&options.mountpoint).unwrap_or_else(|_| options.mountpoint.clone());
    let path = resolve_existing_part(&path);
    unmount(&path, options.timeout.0).unwrap_or_else(|problem| report("relayfile", &problem))
}

fn unmount(path: &Path, timeout: Duration) -> Result<Exit, Problem> {
    let mount = topmost(path)?.ok_or_else(|| not_ours(path, "nothing is mounted there"))?;
    if !mount.is_ours() {
        return Err(not_ours(path, &format!("it is the mountpoint of a {} filesystem", mount.fs_type)));
    }
    let state = match live::ask(path) {
        Answer::State(state) => state,
        Answer::Dead => {
            preflight::detach(path)?;
            out(format_args!(
                "detached the dead endpoint {}: its process had died; saves may still be queued, the next mount sends them",
                path.display()
            ));
            // Nobody is left to ask, so nobody can say that everything has arrived.
            return Ok(Exit::QueueNotEmpty);
        }
        Answer::None(why) => {
            return Err(Problem::new(
                Code::UnmountTimeout,
                format!("cannot ask {} to stop: {why}", path.display()),
                format!("stop its process by hand, then: fusermount3 -u -z {}", shell_word(path)),
            ));
        }
    };
    let process = Process::open(&state).map_err(|e| {
        Problem::new(
            Code::MountpointNotOurs,
            format!("cannot stop process {} behind {}: {e}", state.pid, path.display()),
            "run this as the user, and in the container, that mounted it",
        )
    })?;
    process.terminate().map_err(|e| {
        Problem::new(
            Code::MountpointNotOurs,
            format!("may not stop process {} behind {}: {e}", state.pid, path.display()),
            "run this as the user who mounted it",
        )
    })?;
    let end = Instant::now() + timeout;
    if !process.wait_until(end) {
        return Err(Problem::new(
            Code::UnmountTimeout,
            format!("process {} has not ended after {} s", state.pid, timeout.as_secs_f32()),
            format!("wait longer with --timeout, or: kill -9 {} (queued saves stay queued)", state.pid),
        ));
    }
    wait_until_gone(path, end)?;
    Ok(say_what_is_left(path, &state))
}

fn say_what_is_left(path: &Path, state: &LiveState) -> Exit {
    match LastStop::read(&state.state_dir, state.pid) {
        Some(stop) => {
            out(format_args!("unmounted {}: {}", path.display(), stop.sentence()));
            if let Some(next) = stop.next(&state.state_dir) {
                out(format_args!("  {next}"));
            }
            stop.exit()
        }
        // It was killed while it drained, or its state directory is not ours to read.
        None if state.pending_writeback > 0 => {
            out(format_args!(
                "unmounted {}: at most {} saves are still queued; the next mount sends them",
                path.display(),
                state.pending_writeback
            ));
            Exit::QueueNotEmpty
        }
        None => {
            out(format_args!("unmounted {}", path.display()));
            Exit::Ok
        }
    }
}

fn topmost(path: &Path) -> Result<Option<MountEntry>, Problem> {
    mounted_at(path)
        .map_err(|e| Problem::new(Code::Internal, format!("cannot read /proc/self/mountinfo: {e}"), "is /proc mounted?"))
}

fn not_ours(path: &Path, why: &str) -> Problem {
    Problem::new(
        Code::MountpointNotOurs,
        format!("{} is not a relayfile mount: {why}", path.display()),
        "relayfile mounts lists those that are",
    )
}

/// The process is gone, so its descriptor is closed and the kernel has no one to ask; only a name may be left.
fn wait_until_gone(path: &Path, end: Instant) -> Result<(), Problem> {
    loop {
        match topmost(path)? {
            Some(mount) if mount.is_ours() => {}
            _ => return Ok(()),
        }
        if matches!(live::ask(path), Answer::Dead) {
            return preflight::detach(path);
        }
        if Instant::now() >= end {
            return Err(Problem::new(
                Code::UnmountTimeout,
                format!("{} is still mounted although its process has ended", path.display()),
                format!("fusermount3 -u -z {}", shell_word(path)),
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process held by a descriptor, so that its number cannot come to mean another one meanwhile (pidfd_open(2)).
struct Process {
    pidfd: OwnedFd,
}

impl Process {
    /// Refuses a process that is not a mount: the number comes from a file, and a signal to a stranger cannot be taken back.
    fn open(state: &LiveState) -> io::Result<Process> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, state.pid as libc::pid_t, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let comm = std::fs::read_to_string(PathBuf::from(format!("/proc/{}/comm", state.pid)))?;
        if !comm.starts_with("relayfile") && !holds_lease(state) {
            return Err(io::Error::other(format!("it is {:?} and not a relayfile mount", comm.trim())));
        }
        Ok(Process { pidfd })
    }

    fn terminate(&self) -> io::Result<()> {
        let info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: the descriptor is open, the information pointer may be null (pidfd_send_signal(2)).
        match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), libc::SIGTERM, info, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether the process ended before `end`. A pidfd is readable once its process has ended.
    fn wait_until(&self, end: Instant) -> bool {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: `poll` is one valid pollfd with an open descriptor.
            match unsafe { libc::poll(&mut poll, 1, left.as_millis().min(i32::MAX as u128) as i32) } {
                n if n > 0 => return true,
                0 if left.is_zero() => return false,
                _ => {}
            }
        }
    }
}

/// The mount may run inside another program (a test, an embedder): then the lease vouches for it.
fn holds_lease(state: &LiveState) -> bool {
    let pid = std::fs::read_to_string(state.state_dir.join("mount.pid")).ok().and_then(|t| t.trim().parse().ok());
    pid == Some(state.pid) && preflight::Lease::probe(&state.state_dir).is_err_and(|p| p.code == Code::LeaseHeld)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_relayfile_mount_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let problem = unmount(&dir.path().canonicalize().unwrap(), Duration::from_secs(1)).unwrap_err();
        assert_eq!(problem.code, Code::MountpointNotOurs);
        let problem = unmount(Path::new("/proc"), Duration::from_secs(1)).unwrap_err();
        assert!(problem.what.contains("proc filesystem"), "{problem}");
    }

    #[test]
    fn a_stranger_is_not_signalled() {
        let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let state = LiveState { pid: stranger.id(), state_dir: "/nonexistent".into(), ..LiveState::default() };
        assert!(Process::open(&state).err().unwrap().to_string().contains("sleep"));
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert!(Process::open(&state).is_err(), "and one that has ended is not found");
    }
}
