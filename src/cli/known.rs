//! What the state directories know of a mount that cannot be asked.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;

use super::live::LiveState;
use crate::preflight::Lease;

/// What was mounted at a place last.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    pub workspace: String,
    pub state_dir: PathBuf,
    /// The process that holds the lease; `None` when none does.
    pub pid: Option<u32>,
    /// From `state.json`, which is written a moment after what it tells of.
    pub pending: Option<u64>,
    pub dead_lettered: Option<u64>,
}

/// The parts of `identity.json`, which each start writes anew, that are needed here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    workspace_id: String,
    mountpoint: String,
}

/// Looks through the state directories in `root` for the one that was mounted at `mountpoint` last; only those of `workspace`
/// if the kernel's table names it.
pub fn last_at(root: &Path, mountpoint: &Path, workspace: Option<&str>) -> Option<Known> {
    let place = mountpoint.to_string_lossy();
    let dirs = std::fs::read_dir(root).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let found = dirs.filter_map(|dir| {
        let (identity, written) = identity(&dir)?;
        let fits = identity.mountpoint == place && workspace.is_none_or(|name| name == identity.workspace_id);
        fits.then_some((written, dir, identity.workspace_id))
    });
    let (_, state_dir, workspace) = found.max_by_key(|(written, ..)| *written)?;
    let state = std::fs::read(state_dir.join("state.json")).ok().and_then(|b| serde_json::from_slice::<LiveState>(&b).ok());
    Some(Known {
        workspace,
        pid: Lease::probe(&state_dir).is_err().then(|| Lease::holder(&state_dir)).flatten(),
        pending: state.as_ref().map(|s| s.pending_writeback),
        dead_lettered: state.as_ref().map(|s| s.dead_lettered),
        state_dir,
    })
}

fn identity(dir: &Path) -> Option<(Identity, SystemTime)> {
    let path = dir.join("identity.json");
    let written = path.metadata().and_then(|m| m.modified()).ok()?;
    Some((serde_json::from_slice(&std::fs::read(path).ok()?).ok()?, written))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_newest_state_directory_of_a_place_is_found() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, workspace: &str, age: u64| {
            let dir = root.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            let identity = serde_json::json!({ "workspaceId": workspace, "mountpoint": "/mnt/ws", "baseUrl": "u" });
            std::fs::write(dir.join("identity.json"), identity.to_string()).unwrap();
            let file = std::fs::File::open(dir.join("identity.json")).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            dir
        };
        let (old, new) = (write("old", "a", 100), write("new", "b", 10));
        std::fs::write(root.path().join("no-directory"), "").unwrap();
        std::fs::write(new.join("state.json"), r#"{"pid":7,"pendingWriteback":2,"deadLettered":1}"#).unwrap();
        let at = |place: &str, workspace| last_at(root.path(), Path::new(place), workspace);

        let known = at("/mnt/ws", None).unwrap();
        assert_eq!((known.workspace.as_str(), &known.state_dir, known.pid), ("b", &new, None), "nobody holds the lease");
        assert_eq!((known.pending, known.dead_lettered), (Some(2), Some(1)));
        let known = at("/mnt/ws", Some("a")).unwrap();
        assert_eq!((known.state_dir, known.pending), (old, None));
        assert_eq!((at("/mnt/other", None), at("/mnt/ws", Some("c"))), (None, None));
        let _lease = Lease::acquire(&new).unwrap();
        assert_eq!(at("/mnt/ws", None).unwrap().pid, Some(std::process::id()));
    }
}
