//! Filling the reply to a directory read, with or without attributes.

use std::time::Duration;

use fuser::{ReplyDirectory, ReplyDirectoryPlus};

use super::give::GENERATION;
use crate::fs::convert::{file_attr, file_type, inode_no, no_attr};
use crate::fs::route::View;
use crate::ids::Ino;
use crate::workspace::DirItem;

/// Entries that are asked for at a time: as many as fit into a 4 KiB reply without attributes and short names, or into a
/// quarter of the 32 KiB that glibc asks for with them.
pub(super) const CHUNK: usize = 64;

/// A reply that takes entries until it is full.
pub(super) trait Sink {
    /// True when `item` did not fit.
    fn is_full_for(&mut self, view: &View, dir: Ino, item: &DirItem) -> bool;
}

/// Puts `chunk` and what follows it into the reply until that is full or the listing ends.
pub(super) fn fill(view: &View, dir: Ino, fh: u64, mut chunk: Vec<DirItem>, sink: &mut impl Sink) {
    loop {
        if chunk.iter().any(|item| sink.is_full_for(view, dir, item)) {
            return;
        }
        let Some(last) = chunk.last().filter(|_| chunk.len() == CHUNK) else { return };
        chunk = match view.list(dir, fh, last.next_offset, CHUNK) {
            Ok(next) => next,
            // What is in the reply goes out; the kernel asks again from there and then gets the error.
            Err(e) => return log::debug!("readdir: {e}"),
        };
    }
}

impl Sink for ReplyDirectory {
    fn is_full_for(&mut self, _: &View, _: Ino, item: &DirItem) -> bool {
        self.add(inode_no(item.ino), item.next_offset, file_type(item.kind), &item.name)
    }
}

impl Sink for ReplyDirectoryPlus {
    fn is_full_for(&mut self, view: &View, dir: Ino, item: &DirItem) -> bool {
        if item.name == "." || item.name == ".." {
            // The kernel takes only number and type of these two, and they are not counted.
            let mut attr = no_attr();
            attr.ino = inode_no(item.ino);
            attr.kind = file_type(item.kind);
            return self.add(attr.ino, item.next_offset, &item.name, &Duration::ZERO, &attr, GENERATION);
        }
        let found = match view.child(dir, item) {
            Ok(Some(found)) => found,
            Ok(None) => return false,
            Err(e) => {
                log::warn!("readdirplus: {:?} is left out of the listing: {e}", item.name);
                return false;
            }
        };
        // One time for both here too; a name that is looked up again is cheaper than a wrong size.
        let ttl = found.attr_ttl.min(found.entry_ttl);
        let attr = file_attr(&found.attr);
        let full = self.add(attr.ino, item.next_offset, &item.name, &ttl, &attr, GENERATION);
        if full {
            view.forget(found.attr.ino, 1);
        }
        full
    }
}
