//! The holder's end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::watching::Watching;
use super::{LINE_MAX, Reply, Request, SOCKET, address, failed};
use crate::status::Operator;
use crate::workspace::FsResult;

/// Between two tries when no connection can be taken.
const BREATH: Duration = Duration::from_millis(200);
/// How long a client may take for its line, and for reading ours.
const PATIENCE: Duration = Duration::from_secs(5);

/// The thread that answers.
pub struct Control {
    state_dir: PathBuf,
    ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    watching: Arc<Watching>,
}

impl Control {
    /// The caller holds the lease, so a socket that is there is a dead one.
    pub fn start(state_dir: &Path, operator: Arc<dyn Operator>) -> io::Result<Control> {
        let (dir, path) = address(state_dir)?;
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        drop(dir);
        let ending = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ending);
        let watching = Arc::new(Watching::new(operator.changes()));
        let watchers = Arc::clone(&watching);
        let thread = std::thread::Builder::new().name("relayfile-ctl".into()).spawn(move || {
            for stream in listener.incoming() {
                if flag.load(Ordering::Acquire) {
                    return;
                }
                match stream {
                    Ok(stream) => {
                        if let Err(e) = serve(&stream, &*operator, &watchers) {
                            log::debug!("control.sock: {e}");
                        }
                    }
                    // Such as too many open files: whoever asks next may have more luck.
                    Err(e) => {
                        log::warn!("control.sock: {e}");
                        std::thread::sleep(BREATH);
                    }
                }
            }
        })?;
        Ok(Control { state_dir: state_dir.into(), ending, thread, watching })
    }

    /// Takes the socket away and ends the thread.
    pub fn stop(self) {
        self.ending.store(true, Ordering::Release);
        // The thread waits for a client; this is one. If there is no socket any more, nobody can be that client.
        let woken = address(&self.state_dir).and_then(|(_dir, path)| UnixStream::connect(path)).is_ok();
        let _ = std::fs::remove_file(self.state_dir.join(SOCKET));
        if woken {
            let _ = self.thread.join();
        }
        self.watching.end();
    }
}

fn serve(stream: &UnixStream, operator: &dyn Operator, watching: &Arc<Watching>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // SAFETY: geteuid has no preconditions and cannot fail.
    let ours = unsafe { libc::geteuid() };
    let theirs = peer_uid(stream)?;
    if theirs != ours && theirs != 0 {
        return Err(io::Error::other(format!("user {theirs} is not the owner of the mount")));
    }
    let mut line = String::new();
    BufReader::new(stream.take(LINE_MAX)).read_line(&mut line)?;
    if line.is_empty() {
        return Ok(()); // somebody looked whether we are here
    }
    let reply = match serde_json::from_str(&line) {
        Ok(Request::Watch { paths }) => match watching.begin(stream, &paths, &operator.status().local_root)? {
            None => return Ok(()),
            Some(refusal) => refusal,
        },
        Ok(request) => answer(request, operator),
        Err(e) => Reply::Failed { message: format!("not a request: {e}"), busy: false },
    };
    say(stream, &reply)
}

/// One line.
pub(super) fn say(stream: &UnixStream, what: &impl serde::Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string(what)?;
    text.push('\n');
    (&mut { stream }).write_all(text.as_bytes())
}

fn answer(request: Request, operator: &dyn Operator) -> Reply {
    let reply: FsResult<Reply> = match request {
        Request::Retry { op_id, force } => operator.retry(&op_id, force).map(Reply::Retried),
        Request::Discard { op_id } => operator.discard(&op_id).map(Reply::Discarded),
        Request::Flush => operator.flush().map(Reply::Flushed),
        Request::Watch { .. } => Ok(Reply::Failed { message: "a watch was asked for twice".into(), busy: false }),
        Request::Hello => Ok(Reply::Here { pid: std::process::id() }),
    };
    reply.unwrap_or_else(|e| failed(&e))
}

/// Who is at the other end (SO_PEERCRED, unix(7)).
fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and pointer and length describe `peer`, which outlives the call.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut peer).cast(),
            &mut length,
        )
    };
    if done == 0 { Ok(peer.uid) } else { Err(io::Error::last_os_error()) }
}
