//! System calls that std does not have.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path without NUL")
}

fn done(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// renameat2(2) with `RENAME_NOREPLACE` or `RENAME_EXCHANGE`.
pub fn rename_with(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (from, to) = (c_path(from), c_path(to));
    // SAFETY: both strings end with NUL and outlive the call.
    done(unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) })
}

/// Takes a mount away at once, busy or not. Nothing mounted there is no error.
pub fn detach(path: &Path) {
    let path = c_path(path);
    // SAFETY: the string ends with NUL and outlives the call.
    unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
}

pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill takes integers only. The process is a child that was not waited for, so the number is still its own.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Whether every thread of a process is stopped: state T in proc_pid_stat(5), behind the name in parentheses.
pub fn is_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}

pub fn set_xattr(path: &Path, name: &CStr, value: &[u8]) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the strings end with NUL, the value has the length that is given, and all outlive the call.
    done(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })
}

pub fn get_xattr(path: &Path, name: &CStr) -> io::Result<Vec<u8>> {
    let path = c_path(path);
    let mut value = vec![0; 4096];
    // SAFETY: the strings end with NUL, the buffer has the length that is given, and all outlive the call.
    let n = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error()).map(|n| {
        value.truncate(n);
        value
    })
}

pub fn chown(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
}

/// truncate(2).
pub fn truncate(path: &Path, length: i64) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the string ends with NUL and outlives the call.
    done(unsafe { libc::truncate(path.as_ptr(), length) })
}

/// mknod(2) of a regular file.
pub fn make_file(path: &Path) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the string ends with NUL and outlives the call.
    done(unsafe { libc::mknod(path.as_ptr(), libc::S_IFREG | 0o644, 0) })
}

pub fn make_fifo(path: &Path) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: the string ends with NUL and outlives the call.
    done(unsafe { libc::mkfifo(path.as_ptr(), 0o644) })
}

/// Gives `/dev/fuse` a mode, for the calling thread and the processes that it starts: where it has another one (a machine without
/// udev's rule, many containers), they get a mount namespace of their own with another node there. The machine keeps its own.
/// `dir` is an existing directory, used for a moment.
pub fn fuse_device_with_mode(dir: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let device = Path::new("/dev/fuse").metadata()?;
    if device.mode() & 0o777 == mode {
        return Ok(());
    }
    let node = c_path(&dir.join("fuse"));
    let dir = c_path(dir);
    let mount = |source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong| {
        // SAFETY: the strings end with NUL and outlive the call; there is no data.
        done(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) })
    };
    // SAFETY: unshare takes integers only.
    done(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE)?;
    // Not in `dir` itself: where that lies, devices may not work.
    mount(c"tmpfs", &dir, c"tmpfs", 0)?;
    // SAFETY: the string ends with NUL and outlives the calls.
    done(unsafe { libc::mknod(node.as_ptr(), libc::S_IFCHR, device.rdev()) })?;
    // SAFETY: as above; apart from mknod because of the umask.
    done(unsafe { libc::chmod(node.as_ptr(), mode) })?;
    mount(&node, c"/dev/fuse", c"", libc::MS_BIND)?;
    // SAFETY: the string ends with NUL and outlives the call.
    done(unsafe { libc::umount2(dir.as_ptr(), libc::MNT_DETACH) })
}

/// Takes `/etc/mtab` away for the calling thread and the processes that it starts, which get a mount namespace of their own, as on a
/// machine where nothing has made it. `dir` is an existing directory; it stays in use.
pub fn without_mtab(dir: &Path) -> io::Result<()> {
    // SAFETY: unshare takes integers only.
    done(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let script = r#"set -e; mount --make-rprivate /; mkdir "$1/upper" "$1/work"; mknod "$1/upper/mtab" c 0 0
        mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" /etc; test ! -e /etc/mtab"#;
    // In a process, which shares the namespace of this thread.
    let status = std::process::Command::new("sh").args(["-c", script, "sh"]).arg(dir).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("the script ended with {status}"))) }
}

/// Makes the child of a command die with the thread that starts it, so that an aborted test leaves no process behind.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)));
    }
}
