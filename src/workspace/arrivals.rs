//! Content that came along with an event: stored where somebody is likely to read it, so that nobody has to wait for it.
//!
//! First the event is applied, as if it had brought nothing: the file is at the remote only. Then the content is stored like
//! fetched one. So an end of the process in between leaves what it leaves in the middle of a fetch.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::failpoint;
use crate::ids::{ContentHash, Ino};
use crate::journal::{ContentState, Version};
use crate::path::RemotePath;
use crate::remote::{RemoteEvent, RemoteFile};

use super::tree::{Node, Tree};
use super::{Invalidation, Workspace};

/// How long the kernel may take to be told. Then content that came along is fetched when it is asked for, and whoever opens a
/// file asks again.
const TOLD_WITHIN: Duration = Duration::from_millis(500);

impl Workspace {
    /// The open files that the given events only append to, with the version that each has now.
    pub(super) fn extensions(&self, events: &[&RemoteEvent]) -> HashMap<RemotePath, Version> {
        let mut found = HashMap::new();
        for event in events {
            let (Some(path), Some(content)) = (&event.path, &event.content) else { continue };
            let open = {
                let tree = self.tree.read();
                let node = tree.resolve(path).and_then(|i| tree.get(i)).filter(|n| n.opens > 0 && n.writers == 0);
                node.and_then(Node::file)
                    .filter(|f| f.content == ContentState::Clean)
                    .and_then(|f| Some((f.working.clone()?, f.version.clone()?)))
            };
            let Some((working, version)) = open else { continue };
            let Ok(size) = working.stamp().map(|s| s.size) else { continue };
            // The hash of the version tells that the bytes are all there, and are what the remote had.
            let begins = usize::try_from(size).ok().and_then(|n| content.bytes.get(..n));
            if size > 0 && begins.is_some_and(|b| version.hash == Some(ContentHash::of(b))) {
                found.insert(path.clone(), version);
            }
        }
        found
    }

    /// Stores what the events brought of files that somebody has looked at. The kernel has to know of a change before its
    /// content can be read: it would cut a longer one to the length that it remembers.
    ///
    /// What cannot be stored is fetched by whoever asks for it, who is then told why that fails.
    pub(super) fn take_along(&self, events: &[&RemoteEvent]) {
        let mut told = false;
        for event in events {
            let (Some(path), Some(content), Some(hash), Some(revision)) =
                (&event.path, &event.content, event.hash, &event.revision)
            else {
                continue;
            };
            let version = Version { revision: revision.clone(), hash: Some(hash) };
            let Some((ino, grows)) = self.waiting_for(path, &version) else { continue };
            if !grows && !told {
                if !self.kernel_is_told() {
                    continue;
                }
                told = true;
            }
            let file = RemoteFile {
                path: path.clone(),
                revision: revision.clone(),
                hash,
                content_type: content.content_type.clone(),
                bytes: content.bytes.clone(),
                edited_at_ms: event.at_ms,
            };
            failpoint::hit("brought");
            if let Err(e) = self.store_fetched(ino, path, &file, Some(&version)) {
                log::info!("what the event brought of {path} is not stored: {e}");
            }
        }
    }

    /// The content of an inode that the kernel knows was replaced: the kernel has to forget its pages and its size. Sent with
    /// the tree's lock held, so that whoever finds the mark and waits for the kernel waits for this.
    pub(super) fn content_is_another(&self, tree: &mut Tree, ino: Ino) {
        let Some(node) = tree.get_mut(ino) else { return };
        let known = node.lookups > 0;
        let Some(f) = node.file_mut() else { return };
        f.pages_stale = true;
        if known {
            f.untold = self.told.fetch_add(1, Ordering::Relaxed);
        }
        self.notify(Invalidation::Content(ino));
    }

    /// Waits until the kernel has been told of everything up to now; false if it was not in time.
    pub(super) fn kernel_is_told(&self) -> bool {
        let (sender, receiver) = bounded(1);
        self.notify(Invalidation::Told(sender));
        // Disconnected: there is no kernel to be told, or not any more.
        receiver.recv_timeout(TOLD_WITHIN) != Err(RecvTimeoutError::Timeout)
    }

    /// Waits for the kernel before the new content of a file is opened: it would read it under the size of the old one.
    pub(super) fn wait_until_told(&self, ino: Ino) {
        let untold = |tree: &Tree| tree.get(ino).and_then(Node::file).map_or(0, |f| f.untold);
        let number = untold(&self.tree.read());
        if number == 0 || !self.kernel_is_told() {
            return;
        }
        if let Some(f) = self.tree.write().get_mut(ino).and_then(Node::file_mut)
            && f.untold == number
        {
            f.untold = 0;
        }
    }

    /// The file at the path, if it was looked at and waits for the content of this version; and whether readers go on with it.
    fn waiting_for(&self, path: &RemotePath, version: &Version) -> Option<(Ino, bool)> {
        let tree = self.tree.read();
        let ino = tree.resolve(path)?;
        let node = tree.get(ino).filter(|n| n.lookups > 0)?;
        let f = node.file().filter(|f| f.content == ContentState::Remote)?;
        f.version.as_ref()?.same_as(version).then(|| (ino, f.working.is_some()))
    }
}
