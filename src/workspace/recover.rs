//! The start of a mount: what the last run left is compared with the journal.
//!
//! | found | meaning | done |
//! |---|---|---|
//! | a working file that no inode names | created and never journaled, or unlinked while open | removed |
//! | an inode with local bytes and no working file | power was lost, or somebody deleted it | fetched again, if the remote has it |
//! | a working file of an inode whose bytes are at the remote only | fetched and not recorded, or truncated on opening | removed if it holds the remote's bytes, else as below |
//! | a working file that differs from its stamp | a writer was in the middle when the process died | kept, shown, not uploaded: dead letter `unflushed` |
//! | an operation in flight | its request may have been applied | due at once; its worker asks before it repeats |
//! | a letter discarded, its path not yet returned | a discard was cut short | the path returns |
//! | a payload that no open or dead operation names | the operation ended, its file did not go | removed |

use std::collections::HashSet;

use crate::ids::{ContentHash, Ino};
use crate::journal::{ContentState, Stamp, Version, now_ms};
use crate::path::RemotePath;

use super::batch::Batch;
use super::{FsResult, Nanos, Workspace};

impl Workspace {
    pub(super) fn recover(&self) -> FsResult<()> {
        let power_lost = self.power_was_lost()?;
        let (on_disk, strays) = self.store.scan_files()?;
        for stray in strays {
            let _ = std::fs::remove_file(stray);
        }
        let mut tree = self.tree.write();
        // Numbers of files that are gone must not be given out again while handles to them may be remembered.
        let reserved = self.journal.meta("next_inode")?.and_then(|n| n.parse().ok()).unwrap_or(0);
        tree.reserve(reserved);
        let mut batch = Batch::default();
        batch.meta("next_inode", (tree.next_number() + 1_000_000).to_string());
        batch.put_node(&tree, Ino::ROOT);
        batch.meta("boot_id", boot_id());

        let unnamed: Vec<Ino> =
            tree.nodes.iter().filter(|(i, n)| **i != Ino::ROOT && n.links.is_empty()).map(|(i, _)| *i).collect();
        for ino in unnamed {
            batch.delete_node(ino);
            tree.nodes.remove(&ino);
        }
        let on_disk: HashSet<Ino> = on_disk.into_iter().collect();
        for &ino in on_disk.iter().filter(|i| !tree.nodes.contains_key(i)) {
            self.store.remove_file(ino);
        }
        let with_bytes = |i: &Ino, n: &super::Node| n.file().is_some_and(|f| Self::is_local(f.content) || on_disk.contains(i));
        let local: Vec<Ino> = tree.nodes.iter().filter(|(i, n)| with_bytes(i, n)).map(|(i, _)| *i).collect();
        for ino in local {
            let found = if on_disk.contains(&ino) { Some(self.store.stamp(ino)?) } else { None };
            self.recover_file(&mut tree, &mut batch, ino, found, power_lost);
        }
        self.journal.write(|tx| tx.recover_in_flight())?;
        let pending = self.submit(batch);
        drop(tree);
        self.finish(pending)?;
        self.recover_letters()?;
        self.forget_settled_work()?;
        self.sweep_bases(std::time::Duration::ZERO)?;
        self.sweep_payloads()
    }

    /// Removals that waited for a put which is a letter now have been dropped: their files come back.
    fn forget_settled_work(&self) -> FsResult<()> {
        let marked: Vec<RemotePath> = self.tree.read().work.keys().cloned().collect();
        for path in marked {
            if self.journal.is_idle(&path)? {
                let mut tree = self.tree.write();
                tree.clear_work(&path, u64::MAX);
                tree.refresh_later(&path);
            }
        }
        // What was noted since the tree was loaded.
        let seen = self.journal.seen()?;
        let mut tree = self.tree.write();
        for (path, version) in seen {
            if tree.has_work(&path) { tree.note(&path, version) } else { tree.refresh_later(&path) }
        }
        Ok(())
    }

    fn recover_file(&self, tree: &mut super::Tree, batch: &mut Batch, ino: Ino, found: Option<Stamp>, power_lost: bool) {
        let paths = tree.paths(ino);
        let Some(node) = tree.get_mut(ino) else { return };
        let Some(f) = node.file_mut() else { return };
        let clean = f.content == ContentState::Clean;
        match found {
            // A cached file was never synced: after a loss of power its bytes prove nothing.
            Some(_) if clean && power_lost => {
                f.content = ContentState::Remote;
                f.stamp = None;
                self.store.remove_file(ino);
                batch.put_node(tree, ino);
            }
            Some(stamp) if f.stamp == Some(stamp) => {}
            // Fetched, but not yet recorded; anything else was opened for truncation and is somebody's work.
            Some(_) if f.content == ContentState::Remote && self.holds_version(ino, f.version.as_ref()) => {
                self.store.remove_file(ino);
            }
            Some(stamp) => {
                log::warn!("inode {ino} ({paths:?}) was being written when the last run ended; its bytes are kept, not uploaded");
                f.content = ContentState::Dirty;
                f.stamp = Some(stamp);
                node.size = stamp.size;
                node.size_known = true;
                node.mtime = Nanos(stamp.ctime_ns);
                batch.put_node(tree, ino);
                for path in paths {
                    if !self.policy.is_local_only(path.as_str()) {
                        batch.unflushed(tree, path, ino);
                    }
                }
            }
            // The remote's bytes are the best there are; an empty file in their place would be uploaded over them.
            None if f.version.is_some() => {
                if !clean {
                    log::error!("the working file of inode {ino} ({paths:?}) is missing from the state directory");
                }
                f.content = ContentState::Remote;
                f.stamp = None;
                batch.put_node(tree, ino);
            }
            None => {
                log::error!("the working file of inode {ino} ({paths:?}) is missing from the state directory");
                if let Ok(file) = self.store.create_file(ino) {
                    f.stamp = super::files::stamp_of(&file).ok();
                    node.size = 0;
                    batch.put_node(tree, ino);
                    for path in paths {
                        batch.unflushed(tree, path, ino);
                    }
                }
            }
        }
    }

    fn holds_version(&self, ino: Ino, version: Option<&Version>) -> bool {
        let Some(hash) = version.and_then(|v| v.hash) else { return false };
        std::fs::read(self.store.path(ino)).is_ok_and(|bytes| ContentHash::of(&bytes) == hash)
    }

    /// True when the machine was started anew since the last run and that run did not end properly.
    fn power_was_lost(&self) -> FsResult<bool> {
        let clean = self.journal.meta("clean_shutdown")?.is_some();
        let boot = self.journal.meta("boot_id")?;
        self.journal.write(|tx| tx.delete_meta("clean_shutdown"))?;
        Ok(!clean && boot.is_some_and(|b| b != boot_id()))
    }

    /// The last words of a run that ended properly.
    pub fn close(&self) {
        let next = self.tree.read().next_number();
        let done = self.journal.write(move |tx| {
            tx.put_meta("next_inode", &next.to_string())?;
            tx.put_meta("clean_shutdown", &now_ms().to_string())
        });
        if let Err(e) = done {
            log::warn!("the proper end of this run could not be recorded: {e}");
        }
        self.journal.close();
    }

    fn sweep_payloads(&self) -> FsResult<()> {
        for op in self.store.scan_payloads()? {
            let wanted = self.journal.operation(&op)?.is_some_and(|o| {
                use crate::journal::OpState::{Acknowledged, Discarded, Superseded};
                !matches!(o.state, Acknowledged | Superseded | Discarded)
            });
            if !wanted {
                self.store.remove_payload(&op);
            }
        }
        Ok(())
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|s| s.trim().to_owned()).unwrap_or_default()
}
