//! The start in the background.
//!
//! The program executes itself again, in a session of its own, with its output in the log, and waits on a pipe for one line.
//! Re-executing instead of forking means that the process that serves has never had a thread of its parent. The line is either
//! `{"ready":{"pid":…}}` or `{"error":{"code":…,"what":…,"remedy":…}}`; a pipe that closes without one means that it died.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::logging;
use crate::config::Config;
use crate::preflight::{self, Code, Exit, Lease, Mountpoint, Problem, shell_word};

/// What the background process says of its start.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Ready { pid: u32 },
    Error(Problem),
}

/// The child's end of the pipe.
pub struct Ready {
    pipe: File,
}

impl Ready {
    /// Takes over the descriptor that `--ready-fd` names.
    pub fn from_fd(fd: i32) -> Result<Ready, Problem> {
        let refused = |why: &str| Problem::new(Code::Usage, format!("--ready-fd {fd}: {why}"), "leave --ready-fd out");
        // SAFETY: fcntl with F_SETFD touches nothing but the descriptor's flags; an invalid number is an error.
        if fd <= 2 || unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
            return Err(refused("is not an open descriptor of a start"));
        }
        // SAFETY: the descriptor is open (fcntl just succeeded), and this is the only code that knows of it: the parent gave it to
        // this process for this purpose.
        let pipe = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Ready { pipe })
    }

    /// Tells the parent that the mount can be used. An error means that the parent has gone: whoever asked for the mount
    /// has given up.
    pub fn report(self, outcome: Result<(), &Problem>) -> io::Result<()> {
        let line = match outcome {
            Ok(()) => Line::Ready { pid: std::process::id() },
            Err(problem) => Line::Error(problem.clone()),
        };
        let mut text = serde_json::to_string(&line).map_err(io::Error::from)?;
        text.push('\n');
        (&self.pipe).write_all(text.as_bytes())
    }
}

/// Starts the background process and waits until it is ready or has failed.
///
/// `state_dir_is_new` says that the state directory was made for this start; it is taken away again when the start fails.
pub fn start(config: &Config, state_dir_is_new: bool) -> Result<Started, Problem> {
    let result = spawn_and_wait(config);
    if result.is_err() {
        clean_up(config, state_dir_is_new);
    }
    result
}

#[derive(Debug)]
pub struct Started {
    pub pid: u32,
}

fn spawn_and_wait(config: &Config) -> Result<Started, Problem> {
    let failed = |what: &str, e: io::Error| {
        Problem::new(Code::StartFailed, format!("{what}: {e}"), "try --foreground to see what happens".to_owned())
    };
    let log = logging::open(&config.log_file).map_err(|e| {
        Problem::new(
            Code::StateDirUnwritable,
            format!("cannot open the log {}: {e}", config.log_file.display()),
            "choose another with --log-file FILE",
        )
    })?;
    let log_start = log.metadata().map(|m| m.len()).unwrap_or(0);
    let (reader, writer) = io::pipe().map_err(|e| failed("cannot make a pipe", e))?;
    let second = log.try_clone().map_err(|e| failed("cannot copy a descriptor", e))?;

    let mut command = Command::new(own_program().map_err(|e| failed("cannot find this program", e))?);
    let ready_fd = writer.as_raw_fd();
    command
        .args(std::env::args_os().skip(1).take_while(|a| a != "--"))
        .arg("--foreground")
        .arg(format!("--ready-fd={ready_fd}"))
        .args(std::env::args_os().skip(1).skip_while(|a| a != "--"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(second);
    // SAFETY: between fork and exec only system calls are made, and they are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // What the caller left open must not stay open as long as the mount lives: whoever waits for the end of such a pipe
            // would wait for ever. Kernels before 5.11 do not know it; there the descriptors stay as they are.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            // A session of its own: no terminal, so that closing one sends it no SIGHUP.
            if libc::setsid() < 0 || libc::fcntl(ready_fd, libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(|e| failed("cannot start the background process", e))?;
    // Our copy of the writing end must go, else the pipe would never end.
    drop(writer);

    let deadline = start_deadline(config);
    match read_line(reader, deadline) {
        Ok(Some(Line::Ready { pid })) => Ok(Started { pid }),
        Ok(Some(Line::Error(problem))) => {
            // It is about to end by itself; its exit code is the problem's.
            reap(&mut child, Duration::from_secs(5));
            Err(problem)
        }
        Ok(None) => {
            reap(&mut child, Duration::from_secs(5));
            let tail = logging::tail(&config.log_file, log_start);
            let tail = if tail.is_empty() { String::new() } else { format!("; its last words:\n{}", indent(&tail)) };
            Err(Problem::new(
                Code::StartFailed,
                format!("the background process ended before it was ready{tail}"),
                "relayfile-mount --foreground … shows the whole log",
            ))
        }
        Err(_) => {
            reap(&mut child, Duration::ZERO);
            Err(Problem::new(
                Code::StartTimeout,
                format!("the mount was not ready after {} s; it was stopped", deadline.as_secs()),
                format!("tail {}", shell_word(&config.log_file)),
            ))
        }
    }
}

/// The checks of the remote and the first requests are bounded by the request deadline; the rest is local and quick.
fn start_deadline(config: &Config) -> Duration {
    Duration::from_secs(30) + 3 * config.timeout
}

/// The program that runs now. After an upgrade in place its old path may be gone; the kernel's link still leads to it.
fn own_program() -> io::Result<std::path::PathBuf> {
    let path = std::env::current_exe()?;
    Ok(if path.exists() { path } else { "/proc/self/exe".into() })
}

/// One line within `deadline`; `None` when the pipe ended first or the line is not ours.
fn read_line(mut pipe: PipeReader, deadline: Duration) -> io::Result<Option<Line>> {
    let end = Instant::now() + deadline;
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd { fd: pipe.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid pollfd, and its descriptor is open as long as `pipe` lives.
        match unsafe { libc::poll(&mut poll, 1, left.as_millis().min(i32::MAX as u128) as i32) } {
            0 => return Err(io::ErrorKind::TimedOut.into()),
            n if n < 0 => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => continue,
                e => return Err(e),
            },
            _ => {}
        }
        match pipe.read(&mut chunk)? {
            0 => return Ok(None),
            n => text.extend_from_slice(&chunk[..n]),
        }
        if let Some(newline) = text.iter().position(|b| *b == b'\n') {
            return Ok(serde_json::from_slice(&text[..newline]).ok());
        }
    }
}

/// Waits for the child to end by itself, then asks it, then kills it.
fn reap(child: &mut Child, patience: Duration) {
    let ended = |child: &mut Child, patience: Duration| {
        let end = Instant::now() + patience;
        loop {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    if ended(child, patience) {
        return;
    }
    // SAFETY: the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    if !ended(child, Duration::from_secs(5)) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Takes away what a failed start has left: a dead endpoint, and the state directory if it was new and holds nothing but the
/// log and the lock.
fn clean_up(config: &Config, state_dir_is_new: bool) {
    if let Ok(Mountpoint::Dead) = preflight::check_mountpoint(&config.mountpoint, true) {
        let _ = preflight::detach(&config.mountpoint);
    }
    if state_dir_is_new {
        remove_new_state_dir(config);
    }
}

/// Removes a state directory that holds nothing of value. Whoever has taken it over meanwhile keeps it.
pub fn remove_new_state_dir(config: &Config) {
    let dir = &config.state_dir;
    let worthless = |name: &std::ffi::OsStr| name == "mount.log" || name == "mount.lock" || name == "mount.pid";
    let only_worthless =
        std::fs::read_dir(dir).is_ok_and(|mut entries| entries.all(|e| e.is_ok_and(|e| worthless(&e.file_name()))));
    if !only_worthless {
        return;
    }
    let Ok(lease) = Lease::acquire(dir) else { return };
    let _ = std::fs::remove_file(dir.join("mount.log"));
    lease.remove(dir);
    let _ = std::fs::remove_dir(dir);
    // The directory above the default one; it goes only when it is empty.
    if let Some(parent) = dir.parent().filter(|p| p.file_name().is_some_and(|n| n == "relayfile")) {
        let _ = std::fs::remove_dir(parent);
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|l| format!("    {l}")).collect::<Vec<_>>().join("\n")
}

/// What the parent prints when the mount is ready.
pub fn announce(config: &Config, started: &Started) -> Exit {
    super::out(format_args!(
        "mounted {} at {} (pid {}, state {}, log {})",
        config.workspace(),
        config.mountpoint.display(),
        started.pid,
        config.state_dir.display(),
        config.log_file.display()
    ));
    Exit::Ok
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(text: &str) -> io::Result<Option<Line>> {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        drop(writer);
        read_line(reader, Duration::from_secs(5))
    }

    #[test]
    fn the_ready_line_and_the_error_line_are_told_apart() {
        assert!(matches!(line_of("{\"ready\":{\"pid\":7}}\n"), Ok(Some(Line::Ready { pid: 7 }))));
        let error = r#"{"error":{"code":"LEASE_HELD","what":"w","remedy":"r","exit":5}}"#;
        let Ok(Some(Line::Error(problem))) = line_of(&format!("{error}\n")) else { panic!("not an error") };
        assert_eq!(problem.exit(), Exit::State);
    }

    #[test]
    fn a_pipe_that_ends_without_a_line_means_that_the_process_died() {
        assert!(matches!(line_of(""), Ok(None)));
        assert!(matches!(line_of("{\"ready\""), Ok(None)));
    }

    #[test]
    fn a_silent_process_is_given_up() {
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(read_line(reader, Duration::from_millis(20)).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
