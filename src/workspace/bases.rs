//! `bases/`: what the remote had when somebody began to change it, so that the remote can merge a conflict.
//!
//! A base is kept under its hash at the first change of a file that holds just what the remote has, and when such a file goes
//! (an editor that writes a new one in its place removes the old one). Nothing depends on a base being there: without it a
//! conflict is not merged. What no operation and no changed file is based on any more is swept.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, SystemTime};

use crate::ids::{ContentHash, Ino, OpId};
use crate::journal::ContentState;

use super::files::{Store, Working};
use super::tree::{Node, Tree};
use super::{FsResult, Workspace};

/// Longest text that a relayfile server merges, in bytes.
const BASE_MAX: u64 = 512 * 1024;
/// Bytes of bases kept at a time; each counts at least as one block of a disk.
const BASES_MAX: u64 = 64 * 1024 * 1024;
const BLOCK: u64 = 4096;

/// What a conflict is made of, as it is set aside.
pub struct Sides<'a> {
    /// What both were changed from, where it is known.
    pub base: Option<&'a [u8]>,
    /// What the remote has; `None` when it has deleted the file.
    pub remote: Option<&'a [u8]>,
}

impl Store {
    /// Keeps the content of a working file that is about to change, or, with `going`, to be removed.
    fn keep_base(&self, ino: Ino, hash: &ContentHash, going: bool) -> io::Result<()> {
        let to = self.base_path(hash);
        if to.exists() {
            return Ok(());
        }
        let temp = to.with_extension(format!("{ino}.tmp"));
        if going && std::fs::hard_link(self.path(ino), &temp).is_ok() {
            return std::fs::rename(temp, to);
        }
        std::fs::copy(self.path(ino), &temp)?;
        std::fs::rename(temp, to)
    }

    /// Keeps what an operation has sent, from which later saves are made.
    pub fn keep_payload_as_base(&self, op: &OpId, hash: &ContentHash) -> io::Result<()> {
        let temp = self.base_path(hash).with_extension(format!("{op}.tmp"));
        std::fs::hard_link(self.payload_path(op), &temp)?;
        std::fs::rename(temp, self.base_path(hash))
    }

    /// The base of this hash, if it is there and what it should be.
    pub fn base(&self, hash: &ContentHash) -> Option<Vec<u8>> {
        std::fs::read(self.base_path(hash)).ok().filter(|bytes| ContentHash::of(bytes) == *hash)
    }

    /// Writes `conflicts/<op>/`, whole or not at all; what was there is replaced.
    pub fn set_aside(&self, op: &OpId, sides: &Sides<'_>) -> io::Result<()> {
        let (temp, to) = (self.conflicts_dir().join(format!("{op}.tmp")), self.conflict_dir(op));
        for old in [&temp, &to] {
            match std::fs::remove_dir_all(old) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        std::fs::create_dir_all(&temp)?;
        let local = self.payload_path(op);
        if local.exists() && std::fs::hard_link(&local, temp.join("local")).is_err() {
            std::fs::copy(&local, temp.join("local"))?;
        }
        for (name, bytes) in [("base", sides.base), ("remote", sides.remote)] {
            if let Some(bytes) = bytes {
                std::fs::write(temp.join(name), bytes)?;
            }
        }
        std::fs::rename(temp, to)
    }
}

impl Workspace {
    /// Called before the content of an open working file changes, without the tree's lock.
    pub(super) fn about_to_change(&self, ino: Ino, working: &Working) {
        if working.is_changing() {
            return;
        }
        // The tree first: who has it for writing asks the working file too.
        let tree = self.tree.read();
        working.before_first_change(|| self.keep_base(&tree, ino, false));
    }

    /// Keeps what a file holds, if that is a version of the remote that could be a base.
    pub(super) fn keep_base(&self, tree: &Tree, ino: Ino, going: bool) {
        let Some(node) = tree.get(ino).filter(|n| n.size <= BASE_MAX) else { return };
        let Some(f) = node.file().filter(|f| f.content == ContentState::Clean) else { return };
        let Some(hash) = f.version.as_ref().and_then(|v| v.hash) else { return };
        let bytes = node.size.max(BLOCK);
        if self.store.bases_kept() + bytes > BASES_MAX
            || self.journal.is_short_of_room()
            || tree.paths(ino).iter().any(|p| self.policy.is_local_only(p.as_str()))
        {
            return;
        }
        match self.store.keep_base(ino, &hash, going) {
            Ok(()) => self.store.count_base(bytes),
            Err(e) => log::debug!("the base of inode {ino} is not kept, its conflicts will not be merged: {e}"),
        }
    }

    /// Removes the bases, older than `age`, that nothing is based on any more, and what else lies there.
    pub fn sweep_bases(&self, age: Duration) -> FsResult<()> {
        let mut wanted: HashSet<ContentHash> = self.journal.base_hashes()?.into_iter().collect();
        let changed = |n: &Node| n.file().filter(|f| f.content == ContentState::Dirty).and_then(|f| f.version.as_ref()?.hash);
        wanted.extend(self.tree.read().nodes.values().filter_map(changed));
        let mut left = 0;
        for entry in std::fs::read_dir(self.store.bases_dir())? {
            let entry = entry?;
            let hash = entry.file_name().to_str().and_then(ContentHash::from_hex);
            let old = || {
                let changed = entry.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                changed.elapsed().is_ok_and(|e| e >= age)
            };
            match hash.is_some_and(|h| wanted.contains(&h)) {
                false if age.is_zero() || old() => {
                    let _ = std::fs::remove_file(entry.path());
                }
                _ => left += entry.metadata().map_or(0, |m| m.len()).max(BLOCK),
            }
        }
        self.store.recount_bases(left);
        Ok(())
    }
}
