//! What comes from the remote when somebody asks for it: listings and contents, each once however many wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::failpoint;
use crate::ids::Ino;
use crate::journal::{ContentState, JournalError, Stamp, Version};
use crate::path::RemotePath;
use crate::remote::{Depth, ErrorKind, RemoteError, RemoteFile, TREE_DEPTH};

use super::batch::Batch;
use super::tree::{FileBody, Node};
use super::{FsError, FsResult, Invalidation, Nanos, Need, Workspace};

/// Pages of one listing, 1000 entries each: a remote that never ends is a fault, not a reason to fill the disk.
const PAGES_MAX: usize = 20_000;
/// How long an estimated size is good enough when the remote cannot be asked.
const ESTIMATE_FOR: Duration = Duration::from_secs(5);
/// How long a file that changes all the time is asked for again before whoever waits has to.
const CHANGING_FOR: Duration = Duration::from_secs(5);
/// Siblings whose size is fetched along with the one that was asked for, and how many at a time.
const SIBLINGS_MAX: usize = 256;
const SIBLINGS_AT_ONCE: usize = 8;
/// A file larger than this (stored bytes) is not fetched only because a sibling was asked for.
const SIBLING_SIZE_MAX: u64 = 256 * 1024;

/// One fetch under way.
pub(super) struct Flight {
    done: Mutex<Option<Result<(), Failure>>>,
    ended: Condvar,
}

/// How a fetch failed, for everybody who waited for it.
#[derive(Clone)]
enum Failure {
    Errno(i32),
    Remote(Box<RemoteError>),
    Journal(JournalError),
}

impl From<&FsError> for Failure {
    fn from(e: &FsError) -> Failure {
        match e {
            FsError::Remote(e) => Failure::Remote(e.clone()),
            FsError::Journal(e) => Failure::Journal(e.clone()),
            other => Failure::Errno(other.to_errno()),
        }
    }
}

impl From<Failure> for FsError {
    fn from(f: Failure) -> FsError {
        match f {
            Failure::Errno(e) => FsError::Errno(e),
            Failure::Remote(e) => FsError::Remote(e),
            Failure::Journal(e) => FsError::Journal(e),
        }
    }
}

impl Workspace {
    /// Fetches what an operation needed. Blocks for at most the remote's deadlines; call it on a worker only.
    pub fn fulfil(&self, need: Need) -> FsResult<()> {
        let flight = {
            let mut flights = self.flights.lock();
            if let Some(running) = flights.get(&need) {
                let running = Arc::clone(running);
                drop(flights);
                let mut done = running.done.lock();
                loop {
                    match &*done {
                        Some(Ok(())) => return Ok(()),
                        Some(Err(failure)) => return Err(failure.clone().into()),
                        None => running.ended.wait(&mut done),
                    }
                }
            }
            let flight = Arc::new(Flight { done: Mutex::new(None), ended: Condvar::new() });
            flights.insert(need, Arc::clone(&flight));
            flight
        };
        let result = self.fetch(need);
        self.flights.lock().remove(&need);
        *flight.done.lock() = Some(result.as_ref().copied().map_err(Failure::from));
        flight.ended.notify_all();
        result
    }

    fn fetch(&self, need: Need) -> FsResult<()> {
        match need {
            Need::Listing(dir) => self.list_dir(dir, Depth::Children),
            Need::Subtree(dir) => self.list_dir(dir, Depth::All),
            Need::Content(ino) => self.make_ready(ino),
            Need::Size(ino) => {
                self.find_size(ino);
                Ok(())
            }
        }
    }

    fn list_dir(&self, dir: Ino, depth: Depth) -> FsResult<()> {
        let path = self.tree.read().dir_path(dir);
        // A directory whose name is not UTF-8 can have nothing at the remote.
        if let Some(path) = path {
            self.list_pages(&path, depth, &mut |_| {})?;
        }
        let mut tree = self.tree.write();
        let mut batch = Batch::default();
        let mut dirs = vec![dir];
        if depth == Depth::All {
            dirs.extend(tree.descendants(dir));
        }
        for d in dirs {
            if let Some(body) = tree.get_mut(d).and_then(Node::dir_mut)
                && !body.listed
            {
                body.listed = true;
                batch.put_node(&tree, d);
            }
        }
        let pending = self.submit(batch);
        drop(tree);
        self.finish(pending)
    }

    /// Applies every page of a listing; `each` hears of the inodes that the listing confirmed.
    pub(super) fn list_pages(&self, dir: &RemotePath, depth: Depth, each: &mut dyn FnMut(&[Ino])) -> FsResult<()> {
        self.fresh.lock().0 += 1;
        let result = self.list_pages_guarded(dir, depth, each);
        let mut fresh = self.fresh.lock();
        fresh.0 -= 1;
        if fresh.0 == 0 {
            fresh.1.clear();
        }
        result
    }

    fn list_pages_guarded(&self, dir: &RemotePath, depth: Depth, each: &mut dyn FnMut(&[Ino])) -> FsResult<()> {
        let mut cursor: Option<String> = None;
        // Directories at the end of what one listing shows: they are listed on their own.
        let mut deeper = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = self.remote.tree(dir, depth, cursor.as_deref())?;
            let next = page.next_cursor.clone();
            let at_the_end = |d: &&RemotePath| d.segments().count() == dir.segments().count() + TREE_DEPTH;
            deeper.extend(page.dirs.iter().filter(at_the_end).cloned());
            each(&self.apply_page(page)?);
            match next {
                Some(c) => cursor = Some(c),
                None => {
                    // Bounded by the longest path that can be shown.
                    return deeper.iter().try_for_each(|d| self.list_pages_guarded(d, depth, each));
                }
            }
        }
        Err(FsError::from(RemoteError {
            kind: ErrorKind::Corrupt,
            method: "GET",
            path: dir.to_string(),
            status: None,
            code: "bad_response".into(),
            message: format!("the listing did not end within {PAGES_MAX} pages"),
            body: String::new(),
            current_revision: None,
            retry_after: None,
        }))
    }

    /// Where the content of a file is at the remote, if it has to come from there.
    fn source_of(&self, ino: Ino) -> FsResult<Option<RemotePath>> {
        let tree = self.tree.read();
        let node = tree.get(ino).ok_or(FsError::NOT_FOUND)?;
        match node.file() {
            Some(f) if f.content == ContentState::Remote => Ok(Some(match &f.origin {
                Some(origin) => (**origin).clone(),
                // Its name means another inode by now, or nothing, which the kernel has to look up.
                None => tree.paths(ino).into_iter().next().ok_or(FsError::Errno(libc::ESTALE))?,
            })),
            _ => Ok(None),
        }
    }

    fn version_of(&self, ino: Ino) -> Option<Version> {
        self.tree.read().get(ino).and_then(Node::file).and_then(|f| f.version.clone())
    }

    /// Fetches the bytes of a file and waits for the kernel, again while the remote goes on changing it.
    fn make_ready(&self, ino: Ino) -> FsResult<()> {
        let until = Instant::now() + CHANGING_FOR;
        loop {
            self.materialise(ino)?;
            self.wait_until_told(ino);
            let waits = |f: &FileBody| !Self::is_local(f.content) || f.untold > 0;
            if !self.tree.read().get(ino).and_then(Node::file).is_some_and(waits) || Instant::now() >= until {
                return Ok(());
            }
        }
    }

    fn materialise(&self, ino: Ino) -> FsResult<()> {
        let Some(path) = self.source_of(ino)? else { return Ok(()) };
        let asked_for = self.version_of(ino);
        let file = match self.remote.get(&path) {
            Ok(file) => file,
            Err(e) if e.kind == ErrorKind::NotFound => {
                log::info!("{path} is gone at the remote");
                self.remote_deleted(&path)?;
                self.origin_lost(ino)?;
                return Err(FsError::NOT_FOUND);
            }
            Err(e) => {
                log::warn!("{path} cannot be fetched: {e}");
                return Err(e.into());
            }
        };
        self.store_fetched(ino, &path, &file, asked_for.as_ref())
    }

    /// Makes fetched bytes the working file, unless somebody replaced the content while they were on their way.
    pub(super) fn store_fetched(
        &self,
        ino: Ino,
        source: &RemotePath,
        file: &RemoteFile,
        asked_for: Option<&Version>,
    ) -> FsResult<()> {
        self.needs_room()?;
        let staged = self.store.stage(ino, &file.bytes)?;
        let mut tree = self.tree.write();
        let own_path = tree.paths(ino).contains(source);
        let has_work = tree.has_work(source);
        let Some(node) = tree.get_mut(ino) else {
            let _ = std::fs::remove_file(&staged);
            return Err(FsError::NOT_FOUND);
        };
        let Some(f) = node.file_mut().filter(|f| f.content == ContentState::Remote) else {
            let _ = std::fs::remove_file(&staged);
            return Ok(()); // truncated or replaced meanwhile
        };
        let version = Version { revision: file.revision.clone(), hash: Some(file.hash) };
        if f.version.as_ref() != asked_for && !f.version.as_ref().is_some_and(|v| v.same_as(&version)) {
            // An event overtook the answer, which is older than what the view knows of by now: ask again.
            let _ = std::fs::remove_file(&staged);
            return Ok(());
        }
        if f.working.is_some() && !f.version.as_ref().is_some_and(|v| v.same_as(&version)) {
            // Readers have the beginning of the version that was heard of. This one need not begin with that.
            let _ = std::fs::remove_file(&staged);
            drop(tree);
            return self.follow(source, file);
        }
        let stamp = self.store.publish(ino, &staged)?;
        let grown = f.working.clone();
        if let Some(working) = &grown {
            // Readers had the version that this one begins with.
            working.go_on_with(self.store.open_file(ino)?);
        }
        let newer = f.version.as_ref().is_none_or(|v| !v.same_as(&version));
        f.content = ContentState::Clean;
        f.version = Some(version.clone());
        f.content_type = Some(file.content_type.as_str().into());
        f.stamp = Some(stamp);
        f.estimate_until = None;
        let size_before = node.size;
        let size_changed = size_before != stamp.size || !node.size_known;
        // A size that was an estimate, the kernel does not rely on.
        let told_otherwise = node.size_known && size_changed;
        node.size = stamp.size;
        node.size_known = true;
        if newer && let Some(ms) = file.edited_at_ms {
            node.mtime = Nanos(ms.saturating_mul(1_000_000));
        }
        tree.unpin_origin(ino);
        let mut batch = Batch::default();
        batch.put_node(&tree, ino);
        if own_path && !has_work {
            batch.put_remote(source, &version, Some(&file.content_type));
        }
        failpoint::hit("fetched");
        let pending = self.submit(batch);
        if grown.is_some() {
            // The kernel must not hear of the new size while it has the last page of the old content, which it has filled
            // with zeros.
            if let Some(node) = tree.get_mut(ino) {
                node.size = size_before;
            }
            self.content_is_another(&mut tree, ino);
            drop(tree);
            self.kernel_is_told();
            self.show_size(ino, stamp);
        } else if told_otherwise {
            self.content_is_another(&mut tree, ino);
            drop(tree);
        } else {
            if size_changed {
                self.notify(Invalidation::Attributes(ino));
            }
            drop(tree);
        }
        self.finish(pending)
    }

    /// The size of what was stored, unless it has been changed since.
    fn show_size(&self, ino: Ino, stored: Stamp) {
        let mut tree = self.tree.write();
        let Some(node) = tree.get_mut(ino) else { return };
        if node.file().is_some_and(|f| f.content == ContentState::Clean && f.stamp == Some(stored)) {
            node.size = stored.size;
            self.content_is_another(&mut tree, ino);
        }
    }

    /// Finds the true size of a file by fetching it, and of its small siblings with it, because a listing of attributes
    /// asks for all of them next. Never fails: without an answer the estimate stands for a while.
    fn find_size(&self, ino: Ino) {
        if !self.reachable.load(Ordering::Acquire) {
            return self.estimate(ino);
        }
        let siblings = self.unsized_siblings(ino);
        let jobs = Mutex::new(siblings.into_iter());
        std::thread::scope(|scope| {
            let extra = SIBLINGS_AT_ONCE.min(jobs.lock().len());
            for _ in 0..extra {
                scope.spawn(|| {
                    loop {
                        let Some(next) = jobs.lock().next().filter(|_| self.reachable.load(Ordering::Acquire)) else { break };
                        self.find_one_size(next);
                    }
                });
            }
            self.find_one_size(ino);
        });
    }

    fn find_one_size(&self, ino: Ino) {
        if let Err(e) = self.fulfil(Need::Content(ino)) {
            log::debug!("the size of inode {ino} stays an estimate: {e}");
            if matches!(&e, FsError::Remote(e) if e.kind == ErrorKind::Unreachable) {
                // Others need not find that out by waiting as long.
                self.set_reachable(false);
            }
            self.estimate(ino);
        }
    }

    fn estimate(&self, ino: Ino) {
        if let Some(f) = self.tree.write().get_mut(ino).and_then(Node::file_mut) {
            f.estimate_until = Some(Instant::now() + ESTIMATE_FOR);
        }
    }

    fn unsized_siblings(&self, ino: Ino) -> Vec<Ino> {
        let tree = self.tree.read();
        let Some((dir, name)) = tree.get(ino).and_then(|n| n.links.first()) else { return Vec::new() };
        let Some(d) = tree.get(*dir).and_then(Node::dir) else { return Vec::new() };
        // In the order in which a listing will ask: from this name on.
        d.children
            .range::<std::ffi::OsStr, _>((std::ops::Bound::Excluded(&**name), std::ops::Bound::Unbounded))
            .map(|(_, &c)| c)
            .filter(|c| tree.get(*c).is_some_and(|n| !n.size_known && n.size <= SIBLING_SIZE_MAX))
            .take(SIBLINGS_MAX)
            .collect()
    }
}
