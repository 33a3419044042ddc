//! Asking a mount how it stands, and reading how one ended.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::preflight::{Exit, answers_within, shell_word};

/// How long a mount may take to answer before it is called hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// The parts of `.relay/state.json` that the commands need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiveState {
    pub workspace_id: String,
    pub base_url: Option<String>,
    pub status: Option<String>,
    pub pid: u32,
    pub state_dir: PathBuf,
    pub pending_writeback: u64,
    pub dead_lettered: u64,
}

/// What a mount answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    State(LiveState),
    /// Its process is dead.
    Dead,
    /// No answer in time, or one that is none of ours.
    None(String),
}

/// Reads `<mountpoint>/.relay/state.json`.
pub fn ask(mountpoint: &Path) -> Answer {
    let path = mountpoint.join(".relay/state.json");
    match answers_within(ANSWER_WITHIN, move || std::fs::read(path)) {
        None => Answer::None(format!("it does not answer within {} s", ANSWER_WITHIN.as_secs())),
        Some(Err(e)) if e.raw_os_error() == Some(libc::ENOTCONN) => Answer::Dead,
        Some(Err(e)) => Answer::None(format!("its .relay/state.json cannot be read: {e}")),
        Some(Ok(bytes)) => match serde_json::from_slice::<LiveState>(&bytes) {
            Ok(state) if state.pid > 1 => Answer::State(state),
            Ok(_) => Answer::None("its .relay/state.json names no process".into()),
            Err(e) => Answer::None(format!("its .relay/state.json cannot be understood: {e}")),
        },
    }
}

/// How the last mount of a state directory ended, in `mount.ended`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastStop {
    pub pid: u32,
    /// Saves that had not reached the remote.
    pub pending: u64,
    pub dead: u64,
    /// Why the mountpoint could not be detached.
    #[serde(default)]
    pub still_mounted: Option<String>,
}

impl LastStop {
    const FILE: &str = "mount.ended";

    pub fn write(&self, state_dir: &Path) -> io::Result<()> {
        let temporary = state_dir.join(format!("{}.new", Self::FILE));
        std::fs::write(&temporary, serde_json::to_vec(self)?)?;
        std::fs::rename(temporary, state_dir.join(Self::FILE))
    }

    /// How the mount of process `pid` ended; `None` when it did not come to write it down.
    pub fn read(state_dir: &Path, pid: u32) -> Option<LastStop> {
        let bytes = std::fs::read(state_dir.join(Self::FILE)).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|stop: &LastStop| stop.pid == pid)
    }

    /// The exit code of whoever ended the mount.
    pub fn exit(&self) -> Exit {
        match (self.pending, self.dead) {
            (0, 0) if self.still_mounted.is_some() => Exit::Mountpoint,
            (0, 0) => Exit::Ok,
            (0, _) => Exit::DeadLetters,
            _ => Exit::QueueNotEmpty,
        }
    }

    /// What to type next; `None` when nothing is left to do.
    pub fn next(&self, state_dir: &Path) -> Option<String> {
        let dir = shell_word(state_dir);
        match (self.pending, self.dead) {
            (0, 0) => None,
            (_, 0) => Some(format!("send it without a mount: relayfile writeback drain {dir}")),
            _ => Some(format!("look at it: relayfile writeback status {dir}")),
        }
    }

    /// What is left, for people.
    pub fn sentence(&self) -> String {
        let saves = |n: u64| if n == 1 { "1 save".to_owned() } else { format!("{n} saves") };
        let queued = |n| format!("{} still queued, safe on this disk; the next mount sends what is left", saves(n));
        let refused = |n| format!("{} refused by the remote and kept on this disk as dead letters", saves(n));
        match (self.pending, self.dead) {
            (0, 0) => "every save has reached the remote".to_owned(),
            (0, dead) => refused(dead),
            (pending, 0) => queued(pending),
            (pending, dead) => format!("{}; {}", queued(pending), refused(dead)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_mount_is_read_and_unknown_fields_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".relay")).unwrap();
        let write = |text: &str| std::fs::write(dir.path().join(".relay/state.json"), text).unwrap();

        write(r#"{"workspaceId":"ws","pid":4242,"stateDir":"/s","pendingWriteback":2,"counters":{"queued":2}}"#);
        let Answer::State(state) = ask(dir.path()) else { panic!("no state") };
        assert_eq!((state.pid, state.pending_writeback, state.state_dir), (4242, 2, "/s".into()));

        write(r#"{"workspaceId":"ws"}"#);
        assert!(matches!(ask(dir.path()), Answer::None(_)), "pid 0 would be a signal to everyone");
        write("not json");
        assert!(matches!(ask(dir.path()), Answer::None(_)));
    }

    #[test]
    fn how_a_mount_ended_is_read_by_its_own_pid_only() {
        let dir = tempfile::tempdir().unwrap();
        let stop = LastStop { pid: 7, pending: 1, dead: 2, still_mounted: None };
        stop.write(dir.path()).unwrap();
        assert_eq!(LastStop::read(dir.path(), 7), Some(stop.clone()));
        assert_eq!(LastStop::read(dir.path(), 8), None);
        assert_eq!(dir.path().read_dir().unwrap().count(), 1, "no temporary file is left");
        assert!(stop.sentence().starts_with("1 save still queued") && stop.sentence().contains("2 saves refused"));
        assert_eq!((stop.exit(), stop.next(Path::new("/s")).is_some()), (Exit::QueueNotEmpty, true));
        let clean = LastStop { pid: 7, pending: 0, dead: 0, still_mounted: None };
        assert_eq!((clean.exit(), clean.next(Path::new("/s"))), (Exit::Ok, None));
        assert_eq!(LastStop { still_mounted: Some("busy".into()), ..clean.clone() }.exit(), Exit::Mountpoint);
        assert_eq!(LastStop { dead: 1, ..clean }.exit(), Exit::DeadLetters);
    }
}
