//! What the token does not let anybody write is refused here, before anything changes: EACCES.
//!
//! Asked is only the token itself (see [`crate::access`]), never the network. What stays on this machine anyway is not the
//! remote's business and stays allowed: local-only paths, names that are not UTF-8, modes, times, extended attributes,
//! directories, symlinks and special files.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::access::Access;
use crate::ids::Ino;
use crate::journal::PathRule;
use crate::path::RemotePath;

use super::tree::{Node, Tree};
use super::{FsResult, Kind, Workspace, errno};

/// The two names of a rename with what they mean now.
pub(super) struct Renaming<'a> {
    pub from: (Ino, &'a OsStr),
    pub to: (Ino, &'a OsStr),
    pub source: Ino,
    pub target: Option<Ino>,
    /// The files at and below the source, and those of the target when the two change places.
    pub moves: &'a [(Ino, PathRule)],
    pub comes_back: &'a [(Ino, PathRule)],
}

impl Workspace {
    /// What the token allows, by its own words.
    pub fn access(&self) -> Arc<Access> {
        self.remote.access()
    }

    /// Takes up another token, if there is one by now.
    pub fn look_at_token(&self) {
        self.remote.look_at_token();
    }

    /// EACCES when the path would be sent and may not be written.
    pub(super) fn may_write(&self, tree: &Tree, path: &RemotePath) -> FsResult<()> {
        if self.remote.may_write(path) {
            return Ok(());
        }
        let at_remote = tree.resolve(path).and_then(|i| tree.get(i)).and_then(Node::file).is_some_and(|f| f.version.is_some());
        if !at_remote && self.policy.is_local_only(path.as_str()) {
            return Ok(());
        }
        if !self.refusal_said.swap(true, Ordering::Relaxed) {
            log::warn!("{path} was not opened for writing: the token does not allow it (EACCES; said once)");
        }
        errno(libc::EACCES)
    }

    pub(super) fn may_write_name(&self, tree: &Tree, parent: Ino, name: &OsStr) -> FsResult<()> {
        tree.path_of_name(parent, name).map_or(Ok(()), |path| self.may_write(tree, &path))
    }

    /// A file is sent under each of its names.
    pub(super) fn may_write_file(&self, tree: &Tree, ino: Ino) -> FsResult<()> {
        if self.remote.access().writes_everywhere() {
            return Ok(());
        }
        tree.paths(ino).iter().try_for_each(|path| self.may_write(tree, path))
    }

    /// A rename writes each new name of a file and removes each old one.
    pub(super) fn may_rename(&self, tree: &Tree, r: &Renaming<'_>) -> FsResult<()> {
        if self.remote.access().writes_everywhere() {
            return Ok(());
        }
        let is_file = |ino: Ino| tree.get(ino).is_some_and(|n| n.kind == Kind::File);
        let (from, to) = (tree.path_of_name(r.from.0, r.from.1), tree.path_of_name(r.to.0, r.to.1));
        if is_file(r.source) || r.target.is_some_and(is_file) {
            self.may_write_name(tree, r.to.0, r.to.1)?;
        }
        if is_file(r.source) || (!r.comes_back.is_empty() && r.target.is_some_and(is_file)) {
            self.may_write_name(tree, r.from.0, r.from.1)?;
        }
        for (files, old_top, new_top) in [(r.moves, &from, &to), (r.comes_back, &to, &from)] {
            let Some(old_top) = old_top else { continue };
            // Other hard links of a file that moves stay where they are, and are not below it.
            for (_, rule) in files {
                let Some(rest) = rule.path.below(old_top) else { continue };
                self.may_write(tree, &rule.path)?;
                if let Some(new) = new_top.as_ref().and_then(|top| format!("{top}/{rest}").parse().ok()) {
                    self.may_write(tree, &new)?;
                }
            }
        }
        Ok(())
    }
}
