//! Waking those who watch files with inotify(7).
//!
//! The kernel tells watchers of what programs do through the mount, and of nothing that the mount tells the kernel (measured on
//! 6.18: no event comes out of an invalidation). An editor would go on showing the old text. So a helper sets the times of what
//! has changed to what they are, through the mount, like any program: that makes the kernel say IN_MODIFY and IN_ATTRIB. The
//! request comes back to us, is recognised by the helper's process id, and changes nothing.
//!
//! The helper is a process of its own, this program executed once more. A thread that waits for its own mount when the process
//! is killed would wait for ever: the process could not end, so the kernel's end of the mount would not be closed, so nobody
//! would end the wait.

use std::ffi::{CString, OsStr};
use std::io::{self, BufRead, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::workspace::{Invalidation, Workspace};

/// The only argument of the helper.
pub const HELPER_FLAG: &str = "--wake-watchers";
/// Changes that wait to be announced; what comes while it is full is not announced. A watcher that is told of thousands of
/// changes looks at everything anyway.
const QUEUE: usize = 1024;

/// The helper's process id; 0 while there is none.
static HELPER: AtomicU32 = AtomicU32::new(0);

/// Whether a request was made by our own helper.
pub(super) fn is_helper(pid: u32) -> bool {
    pid != 0 && pid == HELPER.load(Ordering::Relaxed)
}

/// Where the notifier leaves what it has told the kernel.
pub(super) struct Watchers(Sender<Invalidation>);

impl Watchers {
    /// Starts the helper and the thread that feeds it; both end with the last sender. `device` is the mount's in the form of
    /// mountinfo (`0:52`).
    pub fn start(ws: Arc<Workspace>, mountpoint: &Path, device: &str) -> io::Result<Watchers> {
        let mut helper = Command::new("/proc/self/exe")
            .arg(HELPER_FLAG)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        HELPER.store(helper.id(), Ordering::Relaxed);
        let mut pipe = helper.stdin.take().ok_or_else(|| io::Error::other("the helper has no input"))?;
        // Not as arguments: whoever looks for what holds on to a mountpoint should not find this one.
        record(&mut pipe, b'm', mountpoint.as_os_str())?;
        record(&mut pipe, b'd', OsStr::new(device))?;
        let (sender, changes) = bounded(QUEUE);
        thread::Builder::new().name("watchers".into()).spawn(move || feed(&ws, helper, pipe, &changes))?;
        Ok(Watchers(sender))
    }

    /// Never blocks.
    pub fn wake(&self, change: Invalidation) {
        if let Err(TrySendError::Full(change)) = self.0.try_send(change) {
            log::debug!("watchers are not woken for {change:?}");
        }
    }
}

/// One record of the helper's input: what it is, its bytes, NUL.
fn record(pipe: &mut ChildStdin, what: u8, value: &OsStr) -> io::Result<()> {
    pipe.write_all(&[&[what], value.as_bytes(), &[0]].concat())
}

fn feed(ws: &Workspace, mut helper: Child, mut pipe: ChildStdin, changes: &Receiver<Invalidation>) {
    for change in changes {
        let (path, what) = match &change {
            Invalidation::Content(ino) => (ws.path_in_view(*ino), b'c'),
            Invalidation::Entry { parent, name } => {
                let dir = ws.path_in_view(*parent);
                // Of a name that went, its directory tells.
                (dir.map(|d| if ws.has_name(*parent, name) { d.join(name) } else { d }), b'n')
            }
            Invalidation::Attributes(_) | Invalidation::Told(_) => continue,
        };
        if let Some(path) = path
            && let Err(e) = record(&mut pipe, what, path.as_os_str())
        {
            log::warn!("programs that watch files are not told of remote changes any more: {e}");
            break;
        }
    }
    HELPER.store(0, Ordering::Relaxed);
    drop(pipe);
    let _ = helper.wait();
}

/// The helper's whole life: does what its input says until that ends.
pub fn help() {
    let mut touch = Touch { mountpoint: PathBuf::new(), device: String::new() };
    for record in io::stdin().lock().split(0) {
        let Ok(record) = record else { return };
        let Some((what, value)) = record.split_first() else { continue };
        let value = OsStr::from_bytes(value);
        match what {
            b'm' => touch.mountpoint = value.into(),
            b'd' => touch.device = value.to_string_lossy().into_owned(),
            // It may be gone by now; nobody is waiting for an answer.
            what => drop(touch.touch(Path::new(value), *what == b'c')),
        }
    }
}

struct Touch {
    mountpoint: PathBuf,
    device: String,
}

impl Touch {
    fn touch(&self, path: &Path, is_content: bool) -> io::Result<()> {
        let full = CString::new(self.mountpoint.join(path).as_os_str().as_bytes())?;
        // SAFETY: the string ends with NUL and outlives the call.
        let fd = unsafe { libc::open(full.as_ptr(), libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // What the kernel knows is good enough: asking us could mean to fetch a file for its size.
        // SAFETY: statx is plain data, which the call fills for an open descriptor; the empty path names that.
        let stat = unsafe {
            let mut stat: libc::statx = std::mem::zeroed();
            let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
            let wanted = libc::STATX_MTIME | libc::STATX_ATIME;
            if libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, wanted, &mut stat) != 0 {
                return Err(io::Error::last_os_error());
            }
            stat
        };
        // Something else may have been mounted over us, and its files are none of our business.
        if format!("{}:{}", stat.stx_dev_major, stat.stx_dev_minor) != self.device {
            return Ok(());
        }
        let time = |t: libc::statx_timestamp| libc::timespec { tv_sec: t.tv_sec, tv_nsec: i64::from(t.tv_nsec) };
        let (mtime, atime) = (time(stat.stx_mtime), time(stat.stx_atime));
        let unchanged = libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT };
        // fsnotify: the time of modification alone means IN_MODIFY, both times mean IN_ATTRIB.
        let both = [[unchanged, mtime], [atime, mtime]];
        for times in &both[usize::from(!is_content)..] {
            // SAFETY: the empty path names the descriptor itself; the array of two times outlives the call.
            if unsafe { libc::utimensat(fd.as_raw_fd(), c"".as_ptr(), times.as_ptr(), libc::AT_EMPTY_PATH) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}
