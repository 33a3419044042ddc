//! Content that came along with an event: stored where somebody is likely to read it, so that nobody has to wait for it.
//!
//! First the event is applied, as if it had brought nothing: the file is at the remote only. Then the content is stored like
//! fetched one. So an end of the process in between leaves what it leaves in the middle of a fetch.

use std::collections::HashMap;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::ids::{ContentHash, Ino};
use crate::journal::{ContentState, Version};
use crate::path::RemotePath;
use crate::remote::{RemoteEvent, RemoteFile};

use super::tree::Node;
use super::{FsResult, Invalidation, Workspace};

/// How long the kernel may take to be told; then the content is fetched when it is asked for.
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
    pub(super) fn take_along(&self, events: &[&RemoteEvent]) -> FsResult<()> {
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
                let (sender, receiver) = bounded(1);
                self.notify(Invalidation::Told(sender));
                if receiver.recv_timeout(TOLD_WITHIN).is_err() {
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
            self.store_fetched(ino, path, &file, Some(&version))?;
        }
        Ok(())
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
