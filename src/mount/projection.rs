//! `state.json` in the state directory: a projection of the journal, written after the commits that it describes, at most
//! four times a second, temp + rename.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::journal::Journal;
use crate::relaydir::render_state_json;
use crate::status::StatusSource;

const INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Projection {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Projection {
    pub fn start(state_dir: &Path, journal: Journal, source: Arc<dyn StatusSource>) -> std::io::Result<Projection> {
        let (stop, stopped) = bounded(1);
        let dir: PathBuf = state_dir.into();
        let thread = std::thread::Builder::new().name("relayfile-proj".into()).spawn(move || {
            let mut written = None;
            loop {
                let ending = !matches!(stopped.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout));
                let commits = journal.commits();
                if written != Some(commits) || ending {
                    written = Some(commits);
                    if let Err(e) = replace(&dir, "state.json", &render_state_json(&source.status())) {
                        log::warn!("state.json could not be written: {e}");
                    }
                }
                if ending {
                    return;
                }
            }
        })?;
        Ok(Projection { stop, thread })
    }

    /// Writes the last state and ends.
    pub fn stop(self) {
        let _ = self.stop.try_send(());
        let _ = self.thread.join();
    }
}

/// Replaces a file of the state directory in one step.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut temp = tempfile::Builder::new().prefix(name).suffix(".tmp").tempfile_in(dir)?;
    temp.write_all(bytes)?;
    temp.persist(dir.join(name))?;
    Ok(())
}
