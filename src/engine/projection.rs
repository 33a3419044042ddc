//! `state.json` and `dead-letter/` in the state directory: projections of the journal, written after the commits that they
//! describe, at most four times a second, temp + rename.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::deadletter::{Shelf, replace};
use crate::failpoint;
use crate::journal::Journal;
use crate::relaydir::render_state_json;
use crate::status::StatusSource;

const INTERVAL: Duration = Duration::from_millis(250);

pub(super) struct Projection {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Projection {
    pub fn start(
        state_dir: &Path,
        journal: Journal,
        source: Arc<dyn StatusSource>,
        mut shelf: Shelf,
    ) -> std::io::Result<Projection> {
        let (stop, stopped) = bounded(1);
        let dir: PathBuf = state_dir.into();
        let thread = std::thread::Builder::new().name("relayfile-proj".into()).spawn(move || {
            let mut written = None;
            loop {
                let ending = !matches!(stopped.recv_timeout(INTERVAL), Err(RecvTimeoutError::Timeout));
                let commits = journal.commits();
                if written != Some(commits) || ending {
                    written = Some(commits);
                    write_once(&dir, &journal, &*source, &mut shelf);
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

/// Brings the files to what the journal says now. What cannot be written is logged; the journal has it all.
pub(super) fn write_once(dir: &Path, journal: &Journal, source: &dyn StatusSource, shelf: &mut Shelf) {
    if let Err(e) = shelf.sync(journal) {
        log::error!("the files in {}/dead-letter could not be written: {e}", dir.display());
    }
    let bytes = render_state_json(&source.status());
    failpoint::hit("state-json");
    if let Err(e) = replace(dir, "state.json", &bytes) {
        log::error!("state.json could not be written: {e}");
    }
}
