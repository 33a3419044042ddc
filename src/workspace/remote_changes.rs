//! Changes of the remote: listings and events applied to the view.
//!
//! The rule of every change: a path with local work keeps its local version, and the remote's is only noted, for the
//! upload to meet as a conflict. Everything else follows the remote, and the kernel is told.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::time::{Duration, Instant};

use crate::changes::Event;
use crate::ids::Ino;
use crate::journal::{ContentState, Echo, Version};
use crate::path::RemotePath;
use crate::remote::{
    Depth, ErrorKind, EventKind, FeedMark, ListedFile, Outcome, RemoteError, RemoteEvent, RemoteFile, SizeHint, TreePage,
    classify,
};

use super::batch::Batch;
use super::tree::{Body, FileBody, Node, Tree};
use super::{FsError, FsResult, Invalidation, Kind, Nanos, RESERVED_NAME, Workspace, now};

/// How long until a path about which the remote gave no answer that is of use is asked about again.
const REFRESH_AGAIN: Duration = Duration::from_secs(5);

/// A file of the remote as a listing or an event describes it.
pub(super) struct Seen<'a> {
    pub path: &'a RemotePath,
    pub version: Version,
    /// `None`: an event, which does not say.
    pub size: Option<SizeHint>,
    pub edited_at_ms: Option<i64>,
    /// The version that this one begins with, if its content is at hand and does.
    pub extends: Option<&'a Version>,
}

impl Workspace {
    /// Learns the whole tree, or compares it after a gap in the events: what did not change stays cached, what vanished
    /// goes, local work stays. `mark` is the place in the feed from before the listing began.
    pub fn learn(&self, mark: &FeedMark) -> FsResult<()> {
        let mut confirmed: HashSet<Ino> = HashSet::new();
        let own_before: HashSet<RemotePath> = self.journal.remote_paths()?.into_iter().collect();
        self.list_pages(&RemotePath::root(), Depth::All, &mut |inos| confirmed.extend(inos))?;
        let mut tree = self.tree.write();
        let vanished: Vec<RemotePath> = own_before
            .into_iter()
            .filter(|path| !tree.resolve(path).is_some_and(|ino| confirmed.contains(&ino)))
            .filter(|path| !self.fresh.lock().1.contains(path) && !tree.has_work(path))
            .collect();
        let mut batch = Batch::default();
        let mut news = Vec::new();
        for path in &vanished {
            self.apply_deletion(&mut tree, &mut batch, &mut news, path);
        }
        let dirs: Vec<Ino> = tree.nodes.iter().filter(|(_, n)| n.kind == Kind::Dir).map(|(i, _)| *i).collect();
        for dir in dirs {
            if let Some(d) = tree.get_mut(dir).and_then(Node::dir_mut) {
                d.listed = true;
            }
        }
        batch.put_node(&tree, Ino::ROOT);
        batch.all_listed();
        batch.meta("tree_known", "1");
        batch.meta("learned_at", crate::journal::now_ms().to_string());
        batch.meta("mark", serde_json::to_string(mark).unwrap_or_default());
        batch.meta("hidden", self.hidden_as_json());
        let pending = self.submit(batch);
        drop(tree);
        self.finish(pending)?;
        self.known.store(true, std::sync::atomic::Ordering::Release);
        news.into_iter().for_each(|n| self.notify(n));
        self.refresh_rules()
    }

    /// Applies one page; returns the inodes that it confirmed.
    pub(super) fn apply_page(&self, page: TreePage) -> FsResult<Vec<Ino>> {
        for (path, why) in &page.hidden {
            self.hide(path, why);
        }
        let mut tree = self.tree.write();
        let mut batch = Batch::default();
        let mut news = Vec::new();
        let mut confirmed = Vec::with_capacity(page.files.len());
        for dir in &page.dirs {
            self.ensure_dir(&mut tree, &mut batch, &mut news, dir);
        }
        for file in &page.files {
            let ListedFile { path, revision, hash, edited_at_ms, .. } = file;
            let version = Version { revision: revision.clone(), hash: *hash };
            let seen = Seen { path, version, size: Some(file.size_hint()), edited_at_ms: *edited_at_ms, extends: None };
            if self.fresh.lock().1.contains(path) {
                confirmed.extend(tree.resolve(path)); // written by us since the listing began
                continue;
            }
            confirmed.extend(self.apply_file(&mut tree, &mut batch, &mut news, &seen));
        }
        let pending = self.submit(batch);
        drop(tree);
        news.into_iter().for_each(|n| self.notify(n));
        self.finish(pending)?;
        Ok(confirmed)
    }

    /// Applies one page of events and remembers the place behind it in the same transaction.
    pub fn apply_events(&self, events: &[RemoteEvent], mark: &FeedMark) -> FsResult<()> {
        for (path, why) in events.iter().filter(|e| e.kind != EventKind::Deleted).filter_map(|e| e.hidden.as_ref()) {
            self.hide(path, why);
        }
        // Only the last event of a path in a page says what is there now.
        let of_content = events.iter().filter(|e| e.kind.is_content());
        let latest: HashMap<&RemotePath, &str> = of_content.filter_map(|e| Some((e.path.as_ref()?, e.id.as_str()))).collect();
        let brought: Vec<&RemoteEvent> =
            events.iter().filter(|e| e.path.as_ref().is_some_and(|p| latest.get(p) == Some(&e.id.as_str()))).collect();
        let extensions = self.extensions(&brought);
        let mut tree = self.tree.write();
        let mut batch = Batch::default();
        let mut news = Vec::new();
        let moved = self.move_drafts(&mut tree, &mut batch, &mut news, events, &latest);
        for event in events {
            let Some(path) = &event.path else { continue };
            if event.kind == EventKind::Delivery {
                batch.look_soon(path);
            }
            if !event.kind.is_content() {
                continue;
            }
            if let Ok(op) = event.correlation_id.parse() {
                let revision = event.revision.clone().filter(|_| event.kind != EventKind::Deleted);
                batch.applied(op, revision.map(|revision| Version { revision, hash: event.hash }));
            }
            if latest.get(path) == Some(&event.id.as_str()) && !moved.contains(event.id.as_str()) {
                batch.cause = Some(event.correlation_id.clone());
                self.apply_event(&mut tree, &mut batch, &mut news, path, event, extensions.get(path))?;
            }
        }
        batch.meta("mark", serde_json::to_string(mark).unwrap_or_default());
        if events.iter().any(|e| e.hidden.is_some()) {
            batch.meta("hidden", self.hidden_as_json());
        }
        let pending = self.submit(batch);
        drop(tree);
        news.into_iter().for_each(|n| self.notify(n));
        self.finish(pending)?;
        self.take_along(&brought);
        self.refresh_rules()
    }

    fn apply_event(
        &self,
        tree: &mut Tree,
        batch: &mut Batch,
        news: &mut Vec<Invalidation>,
        path: &RemotePath,
        event: &RemoteEvent,
        extends: Option<&Version>,
    ) -> FsResult<()> {
        let echo = match self.journal.echo(path, event.revision.as_ref(), event.hash.as_ref(), &event.correlation_id)? {
            Echo::Ours => Echo::Ours,
            // With work under way the event of somebody else is noted whatever it is; its end decides.
            _ if tree.has_work(path) => Echo::Foreign,
            echo => echo,
        };
        match (event.kind, &event.revision, echo) {
            (_, _, Echo::Ours | Echo::Older) => {}
            (EventKind::Created | EventKind::Updated, Some(revision), _) => {
                let version = Version { revision: revision.clone(), hash: event.hash };
                let size = event.content.as_ref().map(|c| SizeHint::Exact(c.bytes.len() as u64));
                self.apply_file(tree, batch, news, &Seen { path, version, size, edited_at_ms: event.at_ms, extends });
            }
            (EventKind::Deleted, _, Echo::Touched) => tree.refresh_later(path),
            (EventKind::Deleted, _, _) => self.apply_deletion(tree, batch, news, path),
            _ => {}
        }
        Ok(())
    }

    /// Asks the remote about the paths whose local work has ended while something else was heard of them. An answer that is of
    /// no use says nothing about other paths: that one is asked about again after a while. Without an answer nobody else is.
    pub fn refresh_noted(&self) -> FsResult<()> {
        self.refresh_rules()?;
        let mut paths = self.tree.write().take_to_refresh();
        let now = Instant::now();
        let again: HashSet<RemotePath> = self.unrefreshed.lock().extract_if(|_, at| *at <= now).map(|(path, _)| path).collect();
        paths.extend(again.iter().cloned());
        while let Some(path) = paths.pop() {
            let e = match self.refresh(&path) {
                Ok(()) => continue,
                Err(e) => e,
            };
            // Who answers in the remote's place for one path may do so for this one only; the feed tells whether it is for all.
            let of_this_path = |e: &RemoteError| {
                e.kind == ErrorKind::Foreign || !matches!(classify(e.kind), Outcome::Unreachable | Outcome::Unauthorized)
            };
            match &e {
                FsError::Remote(why) if of_this_path(why) => {
                    let level = if again.contains(&path) { log::Level::Debug } else { log::Level::Warn };
                    log::log!(level, "{path} is shown as it was, what the remote has now cannot be told: {why}");
                    self.unrefreshed.lock().insert(path, now + REFRESH_AGAIN);
                }
                _ => {
                    let mut tree = self.tree.write();
                    tree.refresh_later(&path);
                    paths.iter().for_each(|p| tree.refresh_later(p));
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// The place in the feed up to which the view is known to be right.
    pub fn mark(&self) -> FsResult<FeedMark> {
        Ok(self.journal.meta("mark")?.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default())
    }

    /// Asks the remote what it has at a path and follows it, unless there is local work.
    fn refresh(&self, path: &RemotePath) -> FsResult<()> {
        // What we write and get acknowledged while the answer is on its way is newer than the answer.
        self.fresh.lock().0 += 1;
        let result = self.refresh_guarded(path);
        let mut fresh = self.fresh.lock();
        fresh.0 -= 1;
        if fresh.0 == 0 {
            fresh.1.clear();
        }
        result
    }

    /// Shows what was fetched as any other change of the remote.
    pub(super) fn follow(&self, path: &RemotePath, file: &RemoteFile) -> FsResult<()> {
        let mut tree = self.tree.write();
        let (mut batch, mut news) = (Batch::default(), Vec::new());
        let version = Version { revision: file.revision.clone(), hash: Some(file.hash) };
        let size = Some(SizeHint::Exact(file.bytes.len() as u64));
        let seen = Seen { path, version, size, edited_at_ms: file.edited_at_ms, extends: None };
        self.apply_file(&mut tree, &mut batch, &mut news, &seen);
        let pending = self.submit(batch);
        drop(tree);
        news.into_iter().for_each(|n| self.notify(n));
        self.finish(pending)
    }

    fn refresh_guarded(&self, path: &RemotePath) -> FsResult<()> {
        let answer = match self.remote.get(path) {
            Ok(file) => Some(file),
            Err(e) if e.kind == ErrorKind::NotFound => None,
            Err(e) => return Err(e.into()),
        };
        let mut tree = self.tree.write();
        if self.fresh.lock().1.contains(path) {
            return Ok(());
        }
        let (mut batch, mut news) = (Batch::default(), Vec::new());
        batch.forget_note(path);
        match answer {
            Some(file) => {
                let version = Version { revision: file.revision.clone(), hash: Some(file.hash) };
                let size = Some(SizeHint::Exact(file.bytes.len() as u64));
                self.apply_file(
                    &mut tree,
                    &mut batch,
                    &mut news,
                    &Seen { path, version, size, edited_at_ms: file.edited_at_ms, extends: None },
                );
            }
            None => self.apply_deletion(&mut tree, &mut batch, &mut news, path),
        }
        let pending = self.submit(batch);
        drop(tree);
        news.into_iter().for_each(|n| self.notify(n));
        self.finish(pending)
    }

    /// The remote no longer has a file.
    pub(super) fn remote_deleted(&self, path: &RemotePath) -> FsResult<()> {
        let mut tree = self.tree.write();
        let (mut batch, mut news) = (Batch::default(), Vec::new());
        batch.forget_note(path);
        self.apply_deletion(&mut tree, &mut batch, &mut news, path);
        let pending = self.submit(batch);
        drop(tree);
        news.into_iter().for_each(|n| self.notify(n));
        self.finish(pending)
    }

    /// Somebody deleted a file at the remote that was moved here and never fetched: there is nothing left to show.
    pub(super) fn origin_lost(&self, ino: Ino) -> FsResult<()> {
        let mut tree = self.tree.write();
        let Some(node) = tree.get(ino).filter(|n| n.file().is_some_and(|f| f.origin.is_some())) else { return Ok(()) };
        let links = node.links.clone();
        let (mut batch, mut news) = (Batch::default(), Vec::new());
        for (parent, name) in links {
            if let Some(path) = tree.path_of_name(parent, &name) {
                self.tell_remote(&mut batch, Event::Deleted, &path, None);
                batch.gone(&mut tree, self.rule(path));
            }
            self.remove_name(&mut tree, &mut batch, parent, &name, ino);
            news.push(Invalidation::Entry { parent, name: name.into() });
        }
        let pending = self.submit(batch);
        drop(tree);
        news.into_iter().for_each(|n| self.notify(n));
        self.finish(pending)
    }

    fn is_reserved(path: &RemotePath) -> bool {
        path.segments().next() == Some(RESERVED_NAME)
    }

    /// The directory at a path, made if it is not there. `None` when a local file stands in the way.
    fn ensure_dir(&self, tree: &mut Tree, batch: &mut Batch, news: &mut Vec<Invalidation>, path: &RemotePath) -> Option<Ino> {
        if Self::is_reserved(path) {
            self.hide(path.as_str(), &"the name .relay in the root belongs to the mount");
            return None;
        }
        let mut at = Ino::ROOT;
        for name in path.segments() {
            let name = OsStr::new(name);
            let child = tree.child(at, name);
            at = match child.and_then(|c| tree.get(c).map(|n| (c, n))) {
                Some((c, n)) if n.kind == Kind::Dir => c,
                Some((c, n)) => {
                    let replaceable =
                        n.writers == 0 && n.file().is_some_and(|f| f.version.is_some() && f.content != ContentState::Dirty);
                    if !replaceable {
                        self.hide(path.as_str(), &"a local file stands where the remote has a directory");
                        return None;
                    }
                    // A file and a directory of one name: the directory is shown.
                    self.hide(path.as_str(), &"it is a file and a directory at once; the directory is shown");
                    self.remove_name(tree, batch, at, name, c);
                    self.add_implied_dir(tree, batch, news, at, name)
                }
                None => self.add_implied_dir(tree, batch, news, at, name),
            };
        }
        Some(at)
    }

    fn add_implied_dir(&self, tree: &mut Tree, batch: &mut Batch, news: &mut Vec<Invalidation>, at: Ino, name: &OsStr) -> Ino {
        let mut node = Node::new(Kind::Dir, 0o755, self.options.uid, self.options.gid, now());
        if let Some(d) = node.dir_mut() {
            d.implied = true;
            // Once the tree is known, the events tell of everything that appears in a new directory.
            d.listed = self.is_known();
        }
        let ino = tree.insert(node);
        tree.attach(at, name, ino);
        batch.put_node(tree, ino);
        batch.put_name(at, name, ino);
        self.announce(tree, news, at, name);
        ino
    }

    /// Tells the kernel about a name, unless nobody can have seen the directory yet.
    fn announce(&self, tree: &Tree, news: &mut Vec<Invalidation>, parent: Ino, name: &OsStr) {
        if tree.get(parent).is_some_and(|n| n.lookups > 0 || parent == Ino::ROOT) {
            news.push(Invalidation::Entry { parent, name: name.into() });
            news.push(Invalidation::Attributes(parent));
        }
    }

    pub(super) fn remove_name(&self, tree: &mut Tree, batch: &mut Batch, parent: Ino, name: &OsStr, ino: Ino) {
        tree.detach(parent, name);
        batch.delete_name(parent, name);
        if tree.get(ino).is_some_and(|n| n.links.is_empty()) {
            batch.delete_node(ino);
            if tree.drop_unreachable(ino) {
                self.store.remove_file(ino);
            }
        }
    }

    /// Shows a file as the remote has it. Returns its inode when the view now agrees with the remote or has local work.
    fn apply_file(&self, tree: &mut Tree, batch: &mut Batch, news: &mut Vec<Invalidation>, seen: &Seen<'_>) -> Option<Ino> {
        let path = seen.path;
        if Self::is_reserved(path) {
            self.hide(path.as_str(), &"the name .relay in the root belongs to the mount");
            return None;
        }
        let existing = tree.resolve(path);
        let shown = existing.and_then(|i| tree.get(i)).and_then(Node::file);
        let mut same = shown.and_then(|f| f.version.as_ref()).is_some_and(|v| v.same_as(&seen.version));
        let changed_here = shown.is_some_and(|f| f.content == ContentState::Dirty);
        if !same && existing.and_then(|i| tree.get(i)).is_some_and(|n| n.links.len() > 1) {
            // One file under several names has a version at each of them; the inode remembers the last one only.
            same = self.journal.remote_version(path).ok().flatten().is_some_and(|v| v.same_as(&seen.version));
        }
        if tree.has_work(path) {
            if !same {
                batch.note(tree, path, Some(&seen.version));
            }
            return existing;
        }
        // Local bytes that no work defends (the remote's version has taken the path) are not that version. Of a file with several
        // names one may have arrived while the others are still on their way: they are one file all the same.
        same &= !changed_here || existing.is_some_and(|i| tree.paths(i).iter().any(|p| tree.has_work(p)));
        let (name, parent_path) = (path.name()?, path.parent()?);
        let parent = self.ensure_dir(tree, batch, news, &parent_path)?;
        let name = OsStr::new(name);
        match existing {
            Some(ino) if same => {
                self.learn_details(tree, batch, ino, seen);
                Some(ino)
            }
            None => {
                let ino = self.insert_remote_file(tree, parent, name, seen);
                batch.put_node(tree, ino);
                batch.put_name(parent, name, ino);
                batch.put_remote(path, &seen.version, None);
                self.tell_remote(batch, Event::Created, path, Some(&seen.version.revision));
                self.announce(tree, news, parent, name);
                Some(ino)
            }
            Some(ino) => self.replace_content(tree, batch, news, parent, name, ino, seen),
        }
    }

    /// The version is the one we have; a listing may still tell its hash.
    fn learn_details(&self, tree: &mut Tree, batch: &mut Batch, ino: Ino, seen: &Seen<'_>) {
        let Some(f) = tree.get_mut(ino).and_then(Node::file_mut) else { return };
        if f.version.as_ref().is_some_and(|v| v.hash.is_none()) && seen.version.hash.is_some() {
            f.version = Some(seen.version.clone());
            batch.put_node(tree, ino);
            batch.put_remote(seen.path, &seen.version, None);
        }
    }

    fn insert_remote_file(&self, tree: &mut Tree, parent: Ino, name: &OsStr, seen: &Seen<'_>) -> Ino {
        let at = seen.edited_at_ms.map_or_else(now, |ms| Nanos(ms.saturating_mul(1_000_000)));
        let mut node = Node::new(Kind::File, 0o644, self.options.uid, self.options.gid, at);
        set_size(&mut node, seen.size);
        if let Some(f) = node.file_mut() {
            f.content = ContentState::Remote;
            f.version = Some(seen.version.clone());
        }
        let ino = tree.insert(node);
        tree.attach(parent, name, ino);
        ino
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn replace_content(
        &self,
        tree: &mut Tree,
        batch: &mut Batch,
        news: &mut Vec<Invalidation>,
        parent: Ino,
        name: &OsStr,
        ino: Ino,
        seen: &Seen<'_>,
    ) -> Option<Ino> {
        let node = tree.get_mut(ino)?;
        match &node.body {
            Body::Dir(_) => {
                self.hide(seen.path.as_str(), &"it is a file and a directory at once; the directory is shown");
                return None;
            }
            Body::File(f) if f.version.is_none() && self.policy.is_local_only(seen.path.as_str()) => {
                self.hide(seen.path.as_str(), &"a local-only file has its name");
                return None;
            }
            Body::File(_) => {}
            _ => {
                self.hide(seen.path.as_str(), &"a local symlink or special file has its name");
                return None;
            }
        }
        self.tell_remote(batch, Event::Updated, seen.path, Some(&seen.version.revision));
        let single = node.links.len() == 1;
        let open_at =
            |f: &FileBody, v: &Version| f.content == ContentState::Clean && f.version.as_ref().is_some_and(|now| now.same_as(v));
        if single
            && node.opens > 0
            && node.writers == 0
            && let Some(f) = node.file_mut()
            && seen.extends.is_some_and(|v| open_at(f, v))
        {
            // Nothing that a reader has seen changes: it goes on with the longer file, as with a local writer that appends.
            f.content = ContentState::Remote;
            f.version = Some(seen.version.clone());
            f.stamp = None;
            f.pages_stale = true;
            self.store.remove_file(ino);
            batch.put_node(tree, ino);
            batch.put_remote(seen.path, &seen.version, None);
            return Some(ino);
        }
        if node.opens > 0 || !single {
            // An open handle keeps the version that it opened; the name means a new inode, as after a rename over it.
            let (mode, uid, gid) = (node.mode, node.uid, node.gid);
            let xattrs = node.xattrs.clone();
            self.remove_name(tree, batch, parent, name, ino);
            let fresh = self.insert_remote_file(tree, parent, name, seen);
            if let Some(n) = tree.get_mut(fresh) {
                (n.mode, n.uid, n.gid) = (mode, uid, gid);
                for (k, v) in xattrs.iter().flat_map(|x| x.iter()) {
                    batch.put_xattr(fresh, k, v);
                }
                n.xattrs = xattrs;
            }
            batch.put_node(tree, fresh);
            batch.put_name(parent, name, fresh);
            batch.put_remote(seen.path, &seen.version, None);
            news.push(Invalidation::Entry { parent, name: name.into() });
            return Some(fresh);
        }
        tree.unpin_origin(ino);
        let node = tree.get_mut(ino)?;
        node.mtime = seen.edited_at_ms.map_or_else(now, |ms| Nanos(ms.saturating_mul(1_000_000)));
        node.ctime = now();
        set_size(node, seen.size);
        let f = node.file_mut()?;
        f.content = ContentState::Remote;
        f.version = Some(seen.version.clone());
        f.working = None;
        f.stamp = None;
        f.estimate_until = None;
        self.store.remove_file(ino);
        self.content_is_another(tree, ino);
        batch.put_node(tree, ino);
        batch.put_remote(seen.path, &seen.version, None);
        Some(ino)
    }

    fn apply_deletion(&self, tree: &mut Tree, batch: &mut Batch, news: &mut Vec<Invalidation>, path: &RemotePath) {
        if tree.has_work(path) {
            batch.note(tree, path, None);
            return;
        }
        let (Some(name), Some(parent_path)) = (path.name(), path.parent()) else { return };
        let (Some(parent), Some(ino)) = (tree.resolve(&parent_path), tree.resolve(path)) else { return };
        // A file that the remote never had is none of its business, unless a letter holds what it shows: it was to give way to
        // a version that is gone by now.
        let given_up = |f: &FileBody| f.content == ContentState::Dirty && !self.policy.is_local_only(path.as_str());
        if !tree.get(ino).and_then(Node::file).is_some_and(|f| f.version.is_some() || given_up(f)) {
            return;
        }
        batch.delete_remote(path);
        self.tell_remote(batch, Event::Deleted, path, None);
        self.remove_name(tree, batch, parent, OsStr::new(name), ino);
        news.push(Invalidation::Entry { parent, name: name.into() });
        news.push(Invalidation::Attributes(parent));
        self.prune_implied(tree, batch, news, &parent_path);
    }

    /// Directories that were there only because of files below them go with the last one.
    fn prune_implied(&self, tree: &mut Tree, batch: &mut Batch, news: &mut Vec<Invalidation>, dir: &RemotePath) {
        let mut path = dir.clone();
        while let (Some(name), Some(up)) = (path.name(), path.parent()) {
            let (Some(ino), Some(parent)) = (tree.resolve(&path), tree.resolve(&up)) else { return };
            if !tree.get(ino).and_then(Node::dir).is_some_and(|d| d.implied && d.children.is_empty()) {
                return;
            }
            self.remove_name(tree, batch, parent, OsStr::new(name), ino);
            news.push(Invalidation::Entry { parent, name: name.into() });
            path = up;
        }
    }
}

fn set_size(node: &mut Node, hint: Option<SizeHint>) {
    match hint {
        Some(SizeHint::Exact(n)) => (node.size, node.size_known) = (n, true),
        Some(SizeHint::Ambiguous(n)) => (node.size, node.size_known) = (n, false),
        None => node.size_known = false,
    }
}
