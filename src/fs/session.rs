//! The life of one mount in the kernel: mount, INIT, threads, end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::adapter::Adapter;
use super::mount::{self, MountError, Spec};
use super::route::View;
use super::ttl::Ttl;
use super::watchers::Watchers;
use super::{mountinfo, notify};
use crate::relaydir::RelayDir;
use crate::status::Operator;
use crate::workspace::{Invalidation, Workspace};

/// What to mount and how.
#[derive(Debug, Clone)]
pub struct MountOptions {
    pub mountpoint: PathBuf,
    /// The first column of `mount`'s output.
    pub source: String,
    /// Other users may enter, as far as modes let them.
    pub allow_other: bool,
    pub read_only: bool,
    /// Those who watch files with inotify are told of remote changes.
    pub wake_watchers: bool,
    /// Threads that read requests; 4 to 8 by the number of processors when `None`.
    pub threads: Option<usize>,
}

/// A running mount. Dropping it neither unmounts nor ends anything.
pub struct Session {
    mountpoint: PathBuf,
    /// Of our filesystem, to recognise it among what is mounted on the path.
    device: Option<String>,
    changes: Sender<Invalidation>,
    ttl: Arc<Ttl>,
    ended: Receiver<()>,
    thread: JoinHandle<io::Result<()>>,
}

/// Mounts and serves. When this returns, the mount is usable.
pub fn start(ws: Arc<Workspace>, status: Arc<dyn Operator>, options: MountOptions) -> Result<Session, MountError> {
    start_with_channel(ws, status, options, unbounded())
}

/// As [`start`], for a workspace that was given the sending end before there was a mount. The channel must be unbounded:
/// whoever sends must never wait for the kernel.
pub fn start_with_channel(
    ws: Arc<Workspace>,
    status: Arc<dyn Operator>,
    options: MountOptions,
    (changes, to_tell): (Sender<Invalidation>, Receiver<Invalidation>),
) -> Result<Session, MountError> {
    let mountpoint = mount::check_mountpoint(&options.mountpoint)?;
    let device_fd = mount::mount(&Spec {
        mountpoint: &mountpoint,
        source: &options.source,
        allow_other: options.allow_other,
        read_only: options.read_only,
    })?;
    let mounted = Mounted(Some(&mountpoint));

    let ttl = Arc::new(Ttl::new());
    // SAFETY: geteuid and getegid have no preconditions and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let view = View::new(ws.clone(), RelayDir::new(status, uid, gid), ttl.clone());
    let mut config = fuser::Config::default();
    config.n_threads = Some(options.threads.unwrap_or_else(default_threads).max(1));
    config.clone_fd = mount::can_clone(&device_fd);
    // The kernel lets in whom it should (allow_other); fuser's own check would also refuse the FLUSH of a program that
    // changed its user after it opened a file.
    let acl = fuser::SessionACL::All;
    let session =
        fuser::Session::from_fd(Adapter::new(ws.clone(), view), device_fd, acl, config).map_err(MountError::Handshake)?;

    let (stop, stopped) = bounded::<()>(0);
    let (end, ended) = bounded::<()>(0);
    let device = mountinfo::mounted_at(&mountpoint).unwrap_or_default().map(|m| m.device);
    let watchers = match &device {
        Some(device) if options.wake_watchers && !options.read_only => {
            let started = Watchers::start(ws, &mountpoint, device);
            started.inspect_err(|e| log::warn!("programs that watch files are not told of remote changes: {e}")).ok()
        }
        _ => None,
    };
    notify::spawn(session.notifier(), to_tell, stopped, watchers).map_err(MountError::Threads)?;
    let thread = thread::Builder::new()
        .name("fuse-session".into())
        .spawn(move || {
            let outcome = session.run().or_else(clean_end);
            if let Err(e) = &outcome {
                log::error!("the FUSE session ended: {e}");
            }
            drop((stop, end));
            outcome
        })
        .map_err(MountError::Threads)?;

    mounted.keep();
    Ok(Session { mountpoint, device, changes, ttl, ended, thread })
}

impl Session {
    /// The path with its symlinks resolved.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Where changes that did not come through the mount are to be sent. Never blocks; after the end of the session
    /// sending fails, which means only that there is nobody left to tell.
    pub fn notifier_sender(&self) -> Sender<Invalidation> {
        self.changes.clone()
    }

    /// How long the kernel may trust what it is told; to be dropped while remote changes are not heard of.
    pub fn ttl(&self) -> Arc<Ttl> {
        self.ttl.clone()
    }

    /// Disconnected when the session has ended, by whatever means; never holds a message. For `select!`.
    pub fn ended(&self) -> Receiver<()> {
        self.ended.clone()
    }

    /// True when the session ended within `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.ended.recv_timeout(timeout) == Err(RecvTimeoutError::Disconnected)
    }

    /// Waits for the end: an unmount, here or from outside, and the close of the last open file.
    pub fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the FUSE session panicked")))
    }

    /// Takes the mount away, if it is still ours: what someone mounted there since stays. Lazily: the name is gone at
    /// once, and the session ends when the last open file is closed. See [`mount::unmount`] for the errors.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        let now = mountinfo::mounted_at(&self.mountpoint).map(|m| m.map(|m| m.device)).unwrap_or_else(|e| {
            log::warn!("/proc/self/mountinfo cannot be read: {e}");
            self.device.clone()
        });
        let ours = match (&now, &self.device) {
            (Some(now), Some(ours)) => now == ours,
            (now, _) => now.is_some(),
        };
        if ours { mount::unmount(&self.mountpoint, lazy) } else { Ok(()) }
    }
}

/// A mount that goes away again when what follows fails.
struct Mounted<'a>(Option<&'a Path>);

impl Mounted<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0
            && let Err(e) = mount::unmount(path, true)
        {
            log::error!("a mount that could not be served stays behind: {e}");
        }
    }
}

/// An aborted connection is how some unmounts look from here.
fn clean_end(e: io::Error) -> io::Result<()> {
    match e.raw_os_error() {
        Some(libc::ECONNABORTED | libc::ENODEV | libc::ENOTCONN) => Ok(()),
        _ => Err(e),
    }
}

fn default_threads() -> usize {
    thread::available_parallelism().map_or(4, |n| n.get().clamp(4, 8))
}
