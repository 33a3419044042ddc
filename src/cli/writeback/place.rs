//! From what was typed to a state directory.

use std::path::{Path, PathBuf};

use super::args;
use crate::cli::live::{self, Answer};
use crate::config::IdentityFile;
use crate::fs;
use crate::preflight::{Code, Lease, Problem, resolve_existing_part, shell_word};

/// A state directory, which need not exist.
#[derive(Debug, Clone)]
pub struct Place {
    pub state_dir: PathBuf,
    /// Somebody has the lease; with the process id, where it is known.
    pub holder: Option<Option<u32>>,
}

impl Place {
    fn new(state_dir: PathBuf) -> Place {
        let holder = Lease::held_by(&state_dir);
        Place { state_dir, holder }
    }

    /// The place as one word of a command.
    pub fn word(&self) -> String {
        shell_word(&self.state_dir)
    }
}

/// `variable` looks a variable of the environment up.
pub fn resolve(typed: &args::Place, variable: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Result<Place, Problem> {
    let set = |name: &str| variable(name).filter(|v| !v.is_empty());
    if let Some(dir) = &typed.state_dir {
        return Ok(Place::new(absolute(dir)));
    }
    let homes = Homes { root: state_home(variable) };
    if let Some(place) = &typed.place {
        return if looks_like_a_path(place) { of_path(Path::new(place), &homes) } else { of_workspace(place, &homes) };
    }
    if let Some(dir) = set("RELAYFILE_MOUNT_STATE_DIR") {
        return Ok(Place::new(absolute(Path::new(&dir))));
    }
    if let Some(dir) = set("RELAYFILE_LOCAL_DIR") {
        return of_path(Path::new(&dir), &homes);
    }
    if let Some(name) = set("RELAYFILE_WORKSPACE") {
        return of_workspace(&name.to_string_lossy(), &homes);
    }
    if let Some(dir) = std::env::current_dir().ok().and_then(|dir| live_state_dir(&dir)) {
        return Ok(Place::new(dir));
    }
    let all = homes.known_and_live();
    match &all[..] {
        [] => Ok(Place::new(homes.root.join("none"))),
        [(dir, _)] => Ok(Place::new(dir.clone())),
        several => Err(ambiguous("several state directories are there", several)),
    }
}

fn looks_like_a_path(text: &str) -> bool {
    text.is_empty() || text.contains('/') || text == "." || text == ".." || Path::new(text).exists()
}

fn absolute(path: &Path) -> PathBuf {
    resolve_existing_part(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

/// A mountpoint, something in a mount, a state directory, or a mirror that has one in it.
fn of_path(path: &Path, homes: &Homes) -> Result<Place, Problem> {
    let path = absolute(path);
    if let Some(dir) = live_state_dir(&path) {
        return Ok(Place::new(dir));
    }
    if fs::mount_of(&path).is_ok_and(|m| m.is_some_and(|m| m.is_ours())) {
        // A dead or silent endpoint: where it was mounted is known all the same.
        return homes.mounted_last_at(&path).map(Place::new).ok_or_else(|| {
            Problem::new(
                Code::MountpointNotOurs,
                format!("the mount at {} does not answer, and no state directory says that it was mounted there", path.display()),
                "name its state directory: --state-dir DIR",
            )
        });
    }
    if has_state(&path) {
        return Ok(Place::new(path));
    }
    if has_state(&path.join(".relay")) {
        return Ok(Place::new(path.join(".relay")));
    }
    Ok(Place::new(homes.mounted_last_at(&path).unwrap_or(path)))
}

fn of_workspace(name: &str, homes: &Homes) -> Result<Place, Problem> {
    let mut found = homes.known_and_live();
    found.retain(|(dir, file)| file.workspace_id == name || dir.file_name().is_some_and(|n| n == name));
    match &found[..] {
        [] => Ok(Place::new(homes.root.join(name))),
        [(dir, _)] => Ok(Place::new(dir.clone())),
        several => Err(ambiguous(&format!("the workspace {name} has several state directories"), several)),
    }
}

fn ambiguous(what: &str, several: &[(PathBuf, IdentityFile)]) -> Problem {
    let list: Vec<String> = several
        .iter()
        .map(|(dir, file)| {
            let mounted = file.mountpoint.as_deref().map(|m| format!(", mounted last at {m}")).unwrap_or_default();
            format!("\n    {}  ({} at {} {}{mounted})", shell_word(dir), file.workspace_id, file.base_url, file.remote_root)
        })
        .collect();
    Problem::new(Code::Usage, format!("{what}:{}\n ", list.concat()), "name one of them, or its mountpoint")
}

/// The state directory of the mount that a path lies in, if that mount answers.
fn live_state_dir(path: &Path) -> Option<PathBuf> {
    let mount = fs::mount_of(path).ok()?.filter(|m| m.is_ours())?;
    match live::ask(&mount.mountpoint) {
        Answer::State(state) => Some(state.state_dir),
        Answer::Dead | Answer::None(_) => None,
    }
}

fn has_state(dir: &Path) -> bool {
    ["journal.sqlite", "state.json", "dead-letter", IdentityFile::NAME].iter().any(|name| dir.join(name).exists())
}

/// `$XDG_STATE_HOME/relayfile`, where state directories are unless told otherwise.
fn state_home(variable: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> PathBuf {
    let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || absolute("HOME").or_else(std::env::home_dir).unwrap_or_else(|| "/".into()).join(".local/state");
    absolute("XDG_STATE_HOME").unwrap_or_else(home).join("relayfile")
}

struct Homes {
    root: PathBuf,
}

impl Homes {
    fn known(&self) -> Vec<(PathBuf, IdentityFile)> {
        let mut dirs: Vec<PathBuf> =
            std::fs::read_dir(&self.root).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path())).collect();
        dirs.sort();
        dirs.into_iter().filter_map(|dir| IdentityFile::read(&dir).ok().flatten().map(|file| (dir, file))).collect()
    }

    /// With those of live mounts whose state is elsewhere.
    fn known_and_live(&self) -> Vec<(PathBuf, IdentityFile)> {
        let mut found = self.known();
        for mount in fs::mounts().unwrap_or_default().into_iter().filter(|m| m.is_ours()) {
            if let Some(dir) = live_state_dir(&mount.mountpoint)
                && let Ok(Some(file)) = IdentityFile::read(&dir)
                && !found.iter().any(|(known, _)| *known == dir)
            {
                found.push((dir, file));
            }
        }
        found
    }

    fn mounted_last_at(&self, mountpoint: &Path) -> Option<PathBuf> {
        let here = |file: &IdentityFile| file.mountpoint.as_deref().is_some_and(|m| Path::new(m) == mountpoint);
        let mut found: Vec<PathBuf> = self.known().into_iter().filter(|(_, file)| here(file)).map(|(dir, _)| dir).collect();
        // Of several the one that was used last speaks for the place.
        found.sort_by_key(|dir| dir.join(IdentityFile::NAME).metadata().and_then(|m| m.modified()).ok());
        found.pop()
    }
}
