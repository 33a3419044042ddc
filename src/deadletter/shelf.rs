//! The directory of dead letters.
//!
//! A letter is there when its record is: its payload and its sidecar are written first and its record last, each in one step,
//! and the record goes first. What the end of the process leaves in between is put right by the next [`Shelf::sync`].

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::record::{Letter, Record};
use super::{DIR, Sidecar};
use crate::config::Identity;
use crate::failpoint;
use crate::ids::OpId;
use crate::journal::{Journal, OpState, Operation};

/// One record of the directory.
#[derive(Debug)]
pub struct OnShelf {
    pub file: PathBuf,
    pub found: Result<(OpId, Record, Option<Sidecar>), String>,
}

/// Keeps the directory in step with the journal.
pub struct Shelf {
    state_dir: PathBuf,
    identity: Identity,
    /// Letters whose files are right, with the time of their last change.
    shown: HashMap<OpId, i64>,
    /// The files that were there at the beginning have been looked at.
    begun: bool,
}

impl Shelf {
    pub fn new(state_dir: &Path, identity: Identity) -> Shelf {
        Shelf { state_dir: state_dir.into(), identity, shown: HashMap::new(), begun: false }
    }

    fn file(&self, op: &OpId, suffix: &str) -> PathBuf {
        self.state_dir.join(DIR).join(format!("{op}{suffix}"))
    }

    /// Brings the files to what the journal says. Files of operations that the journal does not know are left alone.
    pub fn sync(&mut self, journal: &Journal) -> io::Result<()> {
        let letters = journal.dead_letters().map_err(io::Error::other)?;
        let dir = self.state_dir.join(DIR);
        if !dir.is_dir() {
            if letters.is_empty() {
                return self.sweep_conflicts(journal);
            }
            crate::preflight::create_private_dir(&dir)?;
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.sweep(journal, &dir)?;
        }
        let gone: Vec<OpId> = {
            let dead: std::collections::HashSet<&OpId> = letters.iter().map(|l| &l.op).collect();
            self.shown.keys().filter(|op| !dead.contains(op)).cloned().collect()
        };
        for op in gone {
            self.remove(&op)?;
            let settled = journal.operation(&op).map_err(io::Error::other)?;
            if settled.is_none_or(|o| matches!(o.state, OpState::Superseded | OpState::Acknowledged)) {
                remove(&self.state_dir.join("payloads").join(op.as_str()))?;
            }
            self.shown.remove(&op);
        }
        self.sweep_conflicts(journal)?;
        let mut result = Ok(());
        for letter in &letters {
            if self.shown.get(&letter.op) != Some(&letter.updated_at) {
                // One that cannot be written is in nobody's way.
                match self.write(journal, letter) {
                    Ok(()) => drop(self.shown.insert(letter.op.clone(), letter.updated_at)),
                    Err(e) => result = Err(e),
                }
            }
        }
        result
    }

    /// What an earlier run left: files of operations that have ended since, and halves.
    fn sweep(&self, journal: &Journal, dir: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let Some(op) = [".error.json", ".payload", ".json"].iter().find_map(|s| name.strip_suffix(s)) else { continue };
            let Ok(op) = op.parse::<OpId>() else { continue };
            let known = journal.operation(&op).map_err(io::Error::other)?;
            let ended = known.is_some_and(|o| o.state != OpState::Dead);
            if ended && self.may_touch(&op) {
                remove(&dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Takes away what was set aside for conflicts that are none any more.
    fn sweep_conflicts(&self, journal: &Journal) -> io::Result<()> {
        let dir = self.state_dir.join("conflicts");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            let Some(op) = entry.file_name().to_str().and_then(|n| n.parse::<OpId>().ok()) else { continue };
            let known = journal.operation(&op).map_err(io::Error::other)?;
            // One that is still open is being written down, or is about to be.
            let ended = |o: Operation| matches!(o.state, OpState::Acknowledged | OpState::Superseded | OpState::Discarded);
            if known.is_none_or(ended) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// False for a record that cannot be read: whatever it is, it is not ours to take away.
    fn may_touch(&self, op: &OpId) -> bool {
        self.record_there(op).is_none_or(|found| found.is_ok())
    }

    /// The record that is on disk, or why it cannot be read; `None` when nothing has its name.
    fn record_there(&self, op: &OpId) -> Option<Result<Record, String>> {
        let file = self.file(op, ".json");
        match file.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => Some(Err(e.to_string())),
            Ok(m) if !m.is_file() => Some(Err("it is not a regular file".into())),
            Ok(_) => Some(std::fs::read(&file).map_err(|e| e.to_string()).and_then(|bytes| Record::parse(&bytes, op))),
        }
    }

    fn write(&self, journal: &Journal, op: &Operation) -> io::Result<()> {
        let parsed = self.record_there(&op.op);
        if let Some(Err(why)) = &parsed {
            log::warn!("{}: left as it is: {why}", self.file(&op.op, ".json").display());
            return Ok(());
        }
        let past = journal.attempts(&op.op).map_err(io::Error::other)?;
        let place = crate::preflight::shell_word(&self.state_dir);
        let letter = Letter::new(op, &past, &self.identity, &place);
        let payload = self.state_dir.join("payloads").join(op.op.as_str());
        link(&payload, &self.file(&op.op, ".payload"))?;
        failpoint::hit("letter-payload");
        // The words of the tool that made it are better than ours, as long as nothing has happened since.
        let theirs = matches!(&parsed, Some(Ok(r)) if !r.is_ours() && r.attempts.max(1) == op.attempts.max(1));
        if !(theirs && self.file(&op.op, ".error.json").exists()) {
            self.replace_if_other(&op.op, ".error.json", &letter.sidecar_bytes())?;
        }
        failpoint::hit("letter-sidecar");
        if !theirs {
            self.replace_if_other(&op.op, ".json", &letter.record_bytes())?;
        }
        failpoint::hit("letter-record");
        Ok(())
    }

    fn replace_if_other(&self, op: &OpId, suffix: &str, bytes: &[u8]) -> io::Result<()> {
        if std::fs::read(self.file(op, suffix)).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        replace(&self.state_dir.join(DIR), &format!("{op}{suffix}"), bytes)
    }

    fn remove(&self, op: &OpId) -> io::Result<()> {
        if !self.may_touch(op) {
            return Ok(());
        }
        remove(&self.file(op, ".json"))?;
        failpoint::hit("letter-removed");
        remove(&self.file(op, ".error.json"))?;
        remove(&self.file(op, ".payload"))
    }
}

/// Every record of a state directory, by name. Nothing is changed; a directory that is not there is empty.
pub fn scan(state_dir: &Path) -> io::Result<Vec<OnShelf>> {
    let entries = match std::fs::read_dir(state_dir.join(DIR)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut files: Vec<PathBuf> = entries.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>()?;
    files.retain(|f| f.to_str().is_none_or(|f| f.ends_with(".json") && !f.ends_with(".error.json")));
    files.sort();
    Ok(files.into_iter().map(|file| OnShelf { found: look(&file), file }).collect())
}

fn look(file: &Path) -> Result<(OpId, Record, Option<Sidecar>), String> {
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    let op: OpId = stem.parse().map_err(|e| format!("its name is {e}"))?;
    if !file.symlink_metadata().is_ok_and(|m| m.is_file()) {
        return Err("it is not a regular file".into());
    }
    let bytes = std::fs::read(file).map_err(|e| format!("it cannot be read: {e}"))?;
    let record = Record::parse(&bytes, &op)?;
    let sidecar = std::fs::read(file.with_file_name(format!("{op}.error.json"))).ok();
    Ok((op, record, sidecar.and_then(|bytes| serde_json::from_slice(&bytes).ok())))
}

/// Replaces a file of a directory in one step, readable by its owner only.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut temp = tempfile::Builder::new().prefix(name).suffix(".tmp").tempfile_in(dir)?;
    temp.write_all(bytes)?;
    temp.persist(dir.join(name))?;
    Ok(())
}

/// The payload under its second name: a link costs no room. There may be none.
fn link(payload: &Path, to: &Path) -> io::Result<()> {
    let Ok(there) = payload.metadata() else { return Ok(()) };
    if to.metadata().is_ok_and(|m| (m.dev(), m.ino()) == (there.dev(), there.ino())) {
        return Ok(());
    }
    let temp = to.with_extension("payload.tmp");
    remove(&temp)?;
    if std::fs::hard_link(payload, &temp).is_err() {
        std::fs::copy(payload, &temp)?;
    }
    std::fs::rename(temp, to)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
