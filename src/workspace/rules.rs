//! The rules file `.relayignore`: read when it changes here, fetched when it changes at the remote, and remembered in the
//! journal, so that the rules are in force before the first operation of a start.
//!
//! A change counts for what comes after it. What is queued and has never been at the remote is cancelled where a rule holds it
//! back now; what the remote has stays there and goes on being uploaded. A path that a rule lets go again is uploaded at its
//! next save.

use std::ffi::OsStr;
use std::io::Read;

use crate::ids::{Ino, OpId};
use crate::journal::{ContentState, Durability, Journal, OpKind, Operation, Stamp, Version};
use crate::path::RemotePath;
use crate::policy::{IGNORE_FILE, IGNORE_FILE_MAX, Policy};
use crate::remote::{Outcome, classify};

use super::tree::Node;
use super::{FsError, FsResult, Need, Workspace};

/// Where the journal has the text of the file, and the patterns of the options (a JSON array).
pub const META_FILE: &str = "relayignore";
pub const META_OPTIONS: &str = "local_only";

/// Most queued operations that are looked at after a change.
const QUEUE_MAX: usize = 1_000_000;

/// What the file was when its rules were taken, to know whether it is another one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum InForce {
    /// Those that the journal remembers.
    #[default]
    Remembered,
    /// There is no such file.
    None,
    /// The file with this inode, stamp and version.
    Of(Ino, Option<Stamp>, Option<Version>),
}

/// Whether this name is that of the rules file.
pub(super) fn is_file(dir: Ino, name: &OsStr) -> bool {
    dir == Ino::ROOT && IGNORE_FILE.strip_prefix('/').is_some_and(|file| name == file)
}

/// The rules of the last run, with the options of this one if it has some.
pub(super) fn last_known(journal: &Journal, options: Option<&[String]>) -> FsResult<Policy> {
    let remembered = || -> FsResult<Vec<String>> {
        Ok(journal.meta(META_OPTIONS)?.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default())
    };
    let options = options.map_or_else(remembered, |o| Ok(o.to_vec()))?;
    let file = journal.meta(META_FILE)?.unwrap_or_default();
    let policy = Policy::new(&options, &file).map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e))?;
    let json = serde_json::to_string(&options).unwrap_or_default();
    if journal.meta(META_OPTIONS)?.as_deref().unwrap_or("[]") != json {
        journal.write(move |tx| tx.put_meta(META_OPTIONS, &json))?;
    }
    Ok(policy)
}

impl Workspace {
    /// At start: the file as it is here, and what the rules of this run hold back.
    pub(super) fn take_up_rules(&self) -> FsResult<()> {
        self.read_rules()?;
        self.cancel_held_back()
    }

    /// The file was changed here. Its rules are in force when this returns.
    pub(super) fn rules_changed(&self) {
        if let Err(e) = self.read_rules() {
            log::error!(".relayignore cannot be read, the last rules stay in force: {e}");
        }
    }

    /// Takes the rules up if the file is another one than last time, and fetches it for that. Only for the thread that follows
    /// the remote. Without an answer the last rules stay in force, and the next call tries again.
    pub(super) fn refresh_rules(&self) -> FsResult<()> {
        let Some(Need::Content(ino)) = self.read_rules()? else { return Ok(()) };
        match self.fulfil(Need::Content(ino)) {
            Ok(()) => self.read_rules().map(drop),
            Err(FsError::Remote(e)) if matches!(classify(e.kind), Outcome::Conflict | Outcome::Permanent) => {
                log::warn!(".relayignore cannot be read, the last rules stay in force: {e}");
                *self.rules.lock() = self.rules_file().0;
                Ok(())
            }
            Err(FsError::Remote(_) | FsError::Errno(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// What the view has, and whether its bytes are here; `None`: that is not known yet.
    fn rules_file(&self) -> (InForce, Option<bool>) {
        let tree = self.tree.read();
        let path: RemotePath = IGNORE_FILE.parse().expect("a valid path");
        let Some(ino) = tree.resolve(&path) else {
            let known = tree.get(Ino::ROOT).and_then(Node::dir).is_some_and(|d| d.listed);
            return (InForce::None, known.then_some(true));
        };
        match tree.get(ino).and_then(Node::file) {
            Some(f) => {
                // What somebody is just writing counts when it is committed: a file cut to nothing is not yet a decision.
                let unfinished = f.unsaved || f.working.as_ref().is_some_and(|w| w.has_uncommitted());
                let is_here = f.content != ContentState::Remote;
                (InForce::Of(ino, f.stamp, f.version.clone()), (!unfinished).then_some(is_here))
            }
            None => (InForce::None, Some(true)),
        }
    }

    /// Takes the rules up as far as they are here; says what must be fetched for it. Asks nobody.
    fn read_rules(&self) -> FsResult<Option<Need>> {
        let mut in_force = self.rules.lock();
        let (found, is_here) = self.rules_file();
        let text = match (&found, is_here) {
            _ if found == *in_force => return Ok(None),
            (_, None) => return Ok(None),
            (InForce::Of(ino, ..), Some(false)) => return Ok(Some(Need::Content(*ino))),
            (InForce::Of(ino, ..), Some(true)) => {
                let mut bytes = Vec::new();
                self.store.open_file(*ino)?.take(IGNORE_FILE_MAX + 1).read_to_end(&mut bytes)?;
                if bytes.len() as u64 > IGNORE_FILE_MAX {
                    log::warn!(".relayignore is longer than {IGNORE_FILE_MAX} bytes; the last rules stay in force");
                    *in_force = found;
                    return Ok(None);
                }
                String::from_utf8_lossy(&bytes).into_owned()
            }
            (InForce::None | InForce::Remembered, Some(_)) => String::new(),
        };
        if self.policy.set_file(&text) {
            log::info!("the rules of .relayignore are in force");
            self.journal.write(move |tx| tx.put_meta(META_FILE, &text))?;
            self.cancel_held_back()?;
        }
        *in_force = found;
        Ok(None)
    }

    /// Cancels what is queued, was never at the remote, and is held back by now.
    fn cancel_held_back(&self) -> FsResult<()> {
        let queued = |o: &Operation| o.kind == OpKind::Put && !o.sent && o.base.is_none();
        let open = self.journal.open_operations(QUEUE_MAX)?;
        for op in open.into_iter().filter(|o| queued(o) && self.policy.is_local_only(o.path.as_str())) {
            self.cancel(&op.op, &op.path)?;
        }
        Ok(())
    }

    fn cancel(&self, op: &OpId, path: &RemotePath) -> FsResult<()> {
        let slot = std::sync::Arc::new(parking_lot::Mutex::new(false));
        let (out, id) = (std::sync::Arc::clone(&slot), op.clone());
        let tree = self.tree.write();
        let number = tree.work.get(path).copied().unwrap_or(0);
        let ticket = self.journal.submit(Durability::Process, move |tx| {
            *out.lock() = tx.cancel_creation(&id)?;
            Ok(())
        });
        drop(tree);
        ticket.wait()?;
        if *slot.lock() {
            log::info!("{op}: {path} stays on this machine now and is not uploaded");
            self.tree.write().clear_work(path, number);
            self.store.remove_payload(op);
        }
        Ok(())
    }
}
