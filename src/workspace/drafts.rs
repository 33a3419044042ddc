//! Drafts: the provider has taken a new file and given it a name, and the remote has moved it there. In the feed that is a
//! deletion and a creation by the system, of one revision.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;

use crate::ids::Ino;
use crate::journal::{ContentState, Version};
use crate::path::RemotePath;
use crate::remote::{EventKind, RemoteEvent};

use super::batch::Batch;
use super::tree::{Node, Tree};
use super::{Invalidation, RESERVED_NAME, Workspace};

impl Workspace {
    /// Moves the drafts of a page as a rename would, so that they keep their inodes and what is cached of them. Returns the
    /// ids of the events that are done with; whatever is not as simple as that is left to be applied one by one.
    pub(super) fn move_drafts<'a>(
        &self,
        tree: &mut Tree,
        batch: &mut Batch,
        news: &mut Vec<Invalidation>,
        events: &'a [RemoteEvent],
        latest: &HashMap<&RemotePath, &str>,
    ) -> HashSet<&'a str> {
        let mut done = HashSet::new();
        for pair in events.windows(2) {
            let [gone, come] = pair else { continue };
            let (EventKind::Deleted, EventKind::Created, true) = (gone.kind, come.kind, gone.by_system && come.by_system) else {
                continue;
            };
            let (Some(from), Some(to)) = (&gone.path, &come.path) else { continue };
            let (Some(revision), true) = (&come.revision, gone.revision == come.revision) else { continue };
            let last_words = [(from, gone), (to, come)].iter().all(|(p, e)| latest.get(p) == Some(&e.id.as_str()));
            let version = Version { revision: revision.clone(), hash: come.hash };
            if last_words && self.move_draft(tree, batch, news, from, to, version).is_some() {
                done.extend([gone.id.as_str(), come.id.as_str()]);
            }
        }
        done
    }

    fn move_draft(
        &self,
        tree: &mut Tree,
        batch: &mut Batch,
        news: &mut Vec<Invalidation>,
        from: &RemotePath,
        to: &RemotePath,
        version: Version,
    ) -> Option<Ino> {
        let reserved = to.segments().next() == Some(RESERVED_NAME) || self.policy.is_local_only(to.as_str());
        if reserved || tree.has_work(from) || tree.has_work(to) || tree.resolve(to).is_some() {
            return None;
        }
        let ino = tree.resolve(from)?;
        let (old_parent, new_parent) = (tree.resolve(&from.parent()?)?, tree.resolve(&to.parent()?)?);
        let (old_name, new_name) = (OsStr::new(from.name()?), OsStr::new(to.name()?));
        if tree.get(new_parent).and_then(Node::dir).is_none() || tree.get(ino)?.links.len() != 1 {
            return None;
        }
        let f = tree.get_mut(ino).and_then(Node::file_mut)?;
        let same_bytes = version.hash.is_some() && f.version.as_ref().is_some_and(|v| v.hash == version.hash);
        if !same_bytes || f.content == ContentState::Dirty || f.origin.is_some() {
            return None;
        }
        f.version = Some(version.clone());
        // The new name first: a file without one would go.
        tree.attach(new_parent, new_name, ino);
        batch.put_name(new_parent, new_name, ino);
        self.remove_name(tree, batch, old_parent, old_name, ino);
        batch.put_node(tree, ino);
        batch.delete_remote(from);
        batch.put_remote(to, &version, None);
        for (parent, name) in [(old_parent, old_name), (new_parent, new_name)] {
            news.push(Invalidation::Entry { parent, name: name.into() });
            news.push(Invalidation::Attributes(parent));
        }
        Some(ino)
    }
}
