//! Connections that watch: one thread each, which waits for its reader and for nothing else.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::Reply;
use super::server::say;
use crate::changes::{ChangeLine, Changes, Event, Next, Watch};
use crate::path::RemotePath;

/// How often a quiet watch looks whether its reader is still there.
const LOOK: Duration = Duration::from_secs(1);
/// How long the readers may take for the last lines when the mount ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The watchers of one mount.
pub(super) struct Watching {
    changes: Arc<Changes>,
    /// The connections, to cut them off at the end. A leaf lock.
    open: Mutex<Vec<Arc<UnixStream>>>,
    /// Disconnects when no thread is left.
    alive: Mutex<Option<Sender<()>>>,
    ended: Receiver<()>,
}

impl Watching {
    pub fn new(changes: Arc<Changes>) -> Watching {
        let (alive, ended) = bounded(0);
        Watching { changes, open: Mutex::default(), alive: Mutex::new(Some(alive)), ended }
    }

    /// Answers, and goes on telling in a thread of its own. `Some`: why not.
    pub fn begin(self: &Arc<Self>, stream: &UnixStream, paths: &[String], mountpoint: &str) -> io::Result<Option<Reply>> {
        let refuse = |message: String, busy| Ok(Some(Reply::Failed { message, busy }));
        let paths: Vec<RemotePath> = match paths.iter().filter(|p| *p != "/").map(|p| p.parse()).collect() {
            // The root is everything.
            Ok(parsed) if paths.iter().all(|p| p != "/") => parsed,
            Ok(_) => Vec::new(),
            Err(e) => return refuse(format!("not a path: {e}"), false),
        };
        let alive = self.alive.lock().clone();
        let (Some(watch), Some(alive)) = (self.changes.watch(paths), alive) else {
            return refuse("too many watch this mount already".into(), true);
        };
        say(stream, &Reply::Watching { pid: std::process::id() })?;
        // A reader that stands still may stand as long as it likes: it loses changes, and nobody waits for it.
        stream.set_write_timeout(None)?;
        let stream = Arc::new(stream.try_clone()?);
        self.open.lock().push(Arc::clone(&stream));
        let (all, mountpoint) = (Arc::clone(self), mountpoint.to_owned());
        std::thread::Builder::new().name("relayfile-watch".into()).spawn(move || {
            let _alive = alive;
            if let Err(e) = tell(&stream, &watch, &mountpoint) {
                log::debug!("control.sock: a watch ended: {e}");
            }
            drop(watch);
            all.open.lock().retain(|s| !Arc::ptr_eq(s, &stream));
        })?;
        Ok(None)
    }

    /// Tells everybody that the mount has ended. Waits a moment for those who read.
    pub fn end(&self) {
        self.changes.end();
        drop(self.alive.lock().take());
        let _ = self.ended.recv_timeout(LAST_WORDS);
        for stream in self.open.lock().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn tell(stream: &UnixStream, watch: &Watch, mountpoint: &str) -> io::Result<()> {
    loop {
        match watch.next(LOOK) {
            Next::Change(change) => say(stream, &change.line(mountpoint))?,
            Next::Overflow => say(stream, &ChangeLine::bare(Event::Overflow))?,
            Next::Nothing if has_gone(stream) => return Ok(()),
            Next::Nothing => {}
            Next::Ended => return say(stream, &ChangeLine::bare(Event::Unmounted)),
        }
    }
}

fn has_gone(stream: &UnixStream) -> bool {
    let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: `poll` is one entry and outlives the call; the descriptor is open.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) };
    ready > 0 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
}
