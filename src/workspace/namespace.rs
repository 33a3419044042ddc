//! Names: create, remove, rename, link.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

use crate::changes::Event;
use crate::ids::Ino;
use crate::journal::{ContentState, Moved, PathRule};
use crate::path::RemotePath;

use super::batch::Batch;
use super::permission::Renaming;
use super::tree::{Body, Node, Tree};
use super::{Caller, Entry, FsError, FsResult, Kind, Need, RenameMode, Workspace, errno, now};

impl Workspace {
    /// The directory in which a name is about to change: it must exist, still have a name itself, and be listed.
    fn parent_for_change(tree: &Tree, parent: Ino) -> FsResult<()> {
        let node = tree.get(parent).ok_or(FsError::NOT_FOUND)?;
        let dir = node.dir().ok_or(FsError::Errno(libc::ENOTDIR))?;
        if parent != Ino::ROOT && node.links.is_empty() {
            return Err(FsError::NOT_FOUND); // rmdir'ed while somebody stood in it
        }
        if !dir.listed {
            return Err(FsError::Need(Need::Listing(parent)));
        }
        Ok(())
    }

    fn touch_dir(tree: &mut Tree, batch: &mut Batch, dir: Ino) {
        let at = now();
        if let Some(n) = tree.get_mut(dir) {
            n.mtime = at;
            n.ctime = at;
            if let Some(d) = n.dir_mut() {
                // A directory in which somebody worked here stays, also when the remote has nothing left in it.
                d.implied = false;
            }
        }
        batch.put_node(tree, dir);
    }

    /// Adds a new inode under a free name; the caller submits the batch.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn add_node(
        &self,
        tree: &mut Tree,
        batch: &mut Batch,
        caller: Caller,
        parent: Ino,
        name: &OsStr,
        kind: Kind,
        mode: u32,
    ) -> FsResult<Ino> {
        Self::check_name(name)?;
        Self::parent_for_change(tree, parent)?;
        self.needs_room()?;
        if tree.child(parent, name).is_some() {
            return errno(libc::EEXIST);
        }
        let dir = tree.get(parent).ok_or(FsError::NOT_FOUND)?;
        // In a set-group-ID directory the group is inherited, and directories pass the bit on (inode(7)).
        let (gid, inherit) = if dir.mode & libc::S_ISGID != 0 {
            (dir.gid, if kind == Kind::Dir { libc::S_ISGID } else { 0 })
        } else {
            (caller.gid, 0)
        };
        let ino = tree.insert(Node::new(kind, mode | inherit, caller.uid, gid, now()));
        tree.attach(parent, name, ino);
        batch.put_name(parent, name, ino);
        Self::touch_dir(tree, batch, parent);
        Ok(ino)
    }

    fn created(&self, mut tree: parking_lot::RwLockWriteGuard<'_, Tree>, batch: Batch, ino: Ino) -> FsResult<Entry> {
        let entry = Self::entry_of(&mut tree, ino)?;
        let pending = self.submit(batch);
        drop(tree);
        self.finish(pending)?;
        Ok(entry)
    }

    /// `mode` holds the file type and the permission bits with the umask already applied.
    pub fn mknod(&self, caller: Caller, parent: Ino, name: &OsStr, mode: u32, rdev: u32) -> FsResult<Entry> {
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => Kind::File,
            libc::S_IFIFO => Kind::Fifo,
            libc::S_IFSOCK => Kind::Socket,
            libc::S_IFCHR => Kind::CharDevice,
            libc::S_IFBLK => Kind::BlockDevice,
            _ => return errno(libc::EINVAL),
        };
        let mut tree = self.tree.write();
        let mut batch = Batch::default();
        if kind == Kind::File && tree.child(parent, name).is_none() {
            self.may_write_name(&tree, parent, name)?;
        }
        let ino = self.add_node(&mut tree, &mut batch, caller, parent, name, kind, mode)?;
        if let Some(n) = tree.get_mut(ino) {
            n.rdev = rdev;
        }
        if kind == Kind::File {
            let file = self.store.create_file(ino)?;
            let stamp = super::files::stamp_of(&file)?;
            if let Some(f) = tree.get_mut(ino).and_then(Node::file_mut) {
                f.stamp = Some(stamp);
            }
            self.present(&mut tree, &mut batch, ino);
            if let Some(path) = tree.path_of_name(parent, name) {
                self.tell_local(&mut batch, Event::Created, &path);
            }
        }
        batch.put_node(&tree, ino);
        self.created(tree, batch, ino)
    }

    pub fn mkdir(&self, caller: Caller, parent: Ino, name: &OsStr, mode: u32) -> FsResult<Entry> {
        let mut tree = self.tree.write();
        let mut batch = Batch::default();
        let ino = self.add_node(&mut tree, &mut batch, caller, parent, name, Kind::Dir, mode)?;
        batch.put_node(&tree, ino);
        self.created(tree, batch, ino)
    }

    pub fn symlink(&self, caller: Caller, parent: Ino, name: &OsStr, target: &OsStr) -> FsResult<Entry> {
        if target.len() > crate::path::PATH_MAX {
            return errno(libc::ENAMETOOLONG);
        }
        let mut tree = self.tree.write();
        let mut batch = Batch::default();
        let ino = self.add_node(&mut tree, &mut batch, caller, parent, name, Kind::Symlink, 0o777)?;
        if let Some(n) = tree.get_mut(ino) {
            n.body = Body::Symlink(target.into());
        }
        batch.put_node(&tree, ino);
        self.created(tree, batch, ino)
    }

    /// A hard link. A file that uploads does so under each of its names.
    pub fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> FsResult<Entry> {
        Self::check_name(name)?;
        let mut tree = self.tree.write();
        Self::parent_for_change(&tree, parent)?;
        if tree.child(parent, name).is_some() {
            return errno(libc::EEXIST);
        }
        self.needs_room()?;
        let node = tree.get(ino).ok_or(FsError::NOT_FOUND)?;
        if node.kind == Kind::Dir {
            return errno(libc::EPERM);
        }
        if node.links.is_empty() {
            return Err(FsError::NOT_FOUND);
        }
        if node.kind == Kind::File {
            self.may_write_name(&tree, parent, name)?;
        }
        if node.file().is_some_and(|f| f.content == ContentState::Remote) {
            // The second name has no content of its own to be fetched from.
            return Err(FsError::Need(Need::Content(ino)));
        }
        let mut batch = Batch::default();
        tree.attach(parent, name, ino);
        if let Some(n) = tree.get_mut(ino) {
            n.ctime = now();
        }
        batch.put_name(parent, name, ino);
        batch.put_node(&tree, ino);
        Self::touch_dir(&mut tree, &mut batch, parent);
        if tree.get(ino).is_some_and(|n| n.kind == Kind::File)
            && let Some(path) = tree.path_of_name(parent, name)
        {
            self.tell_local(&mut batch, Event::Created, &path);
            batch.present(&mut tree, self.rule(path), ino);
        }
        self.created(tree, batch, ino)
    }

    /// Marks every path of a file as changed.
    pub(super) fn present(&self, tree: &mut Tree, batch: &mut Batch, ino: Ino) {
        for path in tree.paths(ino) {
            batch.present(tree, self.rule(path), ino);
        }
    }

    /// Takes one name of an inode away, in tree and batch. The paths' queues are the caller's business.
    fn drop_name(&self, tree: &mut Tree, batch: &mut Batch, parent: Ino, name: &OsStr) -> Option<Ino> {
        let ino = tree.child(parent, name)?;
        if tree.get(ino).is_some_and(|n| n.links.len() == 1) {
            // An editor that writes a new file in the place of this one has made its changes from it.
            self.keep_base(tree, ino, true);
        }
        tree.detach(parent, name);
        batch.delete_name(parent, name);
        let at = now();
        if let Some(n) = tree.get_mut(ino) {
            n.ctime = at;
            if n.links.is_empty() {
                batch.delete_node(ino);
            } else {
                batch.put_node(tree, ino);
            }
        }
        Some(ino)
    }

    /// Forgets an inode whose last name went, unless it is open or known to the kernel, which end it later.
    fn reap(&self, tree: &mut Tree, ino: Ino) {
        if tree.drop_unreachable(ino) {
            self.store.remove_file(ino);
        }
    }

    pub fn unlink(&self, parent: Ino, name: &OsStr) -> FsResult<()> {
        let mut tree = self.tree.write();
        Self::parent_for_change(&tree, parent)?;
        let ino = tree.child(parent, name).ok_or(FsError::NOT_FOUND)?;
        let kind = tree.get(ino).map_or(Kind::File, |n| n.kind);
        if kind == Kind::Dir {
            return errno(libc::EISDIR);
        }
        let path = tree.path_of_name(parent, name);
        if let (Kind::File, Some(path)) = (kind, &path) {
            self.may_write(&tree, path)?;
        }
        let mut batch = Batch::default();
        self.drop_name(&mut tree, &mut batch, parent, name);
        Self::touch_dir(&mut tree, &mut batch, parent);
        if let (Kind::File, Some(path)) = (kind, path) {
            self.tell_local(&mut batch, Event::Deleted, &path);
            let others = self.uploaded_names(&tree, ino);
            batch.unlinked(&mut tree, self.rule(path), others);
        }
        let pending = self.submit(batch);
        drop(tree);
        self.finish(pending)?;
        self.reap(&mut self.tree.write(), ino);
        Ok(())
    }

    /// The names of a file that no rule keeps from the remote.
    fn uploaded_names(&self, tree: &Tree, ino: Ino) -> Vec<RemotePath> {
        tree.paths(ino).into_iter().filter(|path| !self.policy.is_local_only(path.as_str())).collect()
    }

    pub fn rmdir(&self, parent: Ino, name: &OsStr) -> FsResult<()> {
        if name == OsStr::new(".") {
            return errno(libc::EINVAL);
        }
        let mut tree = self.tree.write();
        Self::parent_for_change(&tree, parent)?;
        let ino = tree.child(parent, name).ok_or(FsError::NOT_FOUND)?;
        let dir = tree.get(ino).and_then(Node::dir).ok_or(FsError::Errno(libc::ENOTDIR))?;
        if !dir.listed {
            return Err(FsError::Need(Need::Listing(ino)));
        }
        if !dir.children.is_empty() {
            return errno(libc::ENOTEMPTY);
        }
        let mut batch = Batch::default();
        self.drop_name(&mut tree, &mut batch, parent, name);
        Self::touch_dir(&mut tree, &mut batch, parent);
        let pending = self.submit(batch);
        drop(tree);
        self.finish(pending)?;
        self.reap(&mut self.tree.write(), ino);
        Ok(())
    }

    /// renameat2(2). One transaction, however large the directory.
    pub fn rename(&self, parent: Ino, name: &OsStr, new_parent: Ino, new_name: &OsStr, mode: RenameMode) -> FsResult<()> {
        Self::check_name(new_name)?;
        let mut tree = self.tree.write();
        Self::parent_for_change(&tree, parent)?;
        Self::parent_for_change(&tree, new_parent)?;
        let source = tree.child(parent, name).ok_or(FsError::NOT_FOUND)?;
        let target = tree.child(new_parent, new_name);
        Self::check_rename(&tree, source, target, parent, new_parent, mode)?;
        if target == Some(source) {
            return Ok(()); // two links of one inode: rename(2) does nothing
        }
        if (parent, name) == (new_parent, new_name) {
            return Ok(());
        }

        let mut batch = Batch::default();
        let before = self.files_below(&tree, source)?;
        let swapped = match target {
            Some(t) if mode == RenameMode::Exchange => self.files_below(&tree, t)?,
            _ => Vec::new(),
        };
        let (from, to) = ((parent, name), (new_parent, new_name));
        self.may_rename(&tree, &Renaming { from, to, source, target, moves: &before, comes_back: &swapped })?;
        for &(ino, ref rule) in before.iter().chain(&swapped) {
            tree.pin_origin(ino, &rule.path);
        }

        let replaced_path = tree.path_of_name(new_parent, new_name);
        let replaced_file = target.is_some_and(|t| tree.get(t).is_some_and(|n| n.kind == Kind::File));
        let dropped = match target {
            Some(t) if mode == RenameMode::Exchange => {
                tree.detach(new_parent, new_name);
                tree.detach(parent, name);
                tree.attach(parent, name, t);
                batch.put_name(parent, name, t);
                Self::bump_ctime(&mut tree, &mut batch, t);
                None
            }
            Some(t) => {
                self.drop_name(&mut tree, &mut batch, new_parent, new_name);
                if let (true, Some(path)) = (replaced_file, &replaced_path) {
                    batch.arrives_elsewhere(path.clone(), self.uploaded_names(&tree, t));
                }
                tree.detach(parent, name);
                batch.delete_name(parent, name);
                Some(t)
            }
            None => {
                tree.detach(parent, name);
                batch.delete_name(parent, name);
                None
            }
        };
        tree.attach(new_parent, new_name, source);
        batch.put_name(new_parent, new_name, source);
        Self::bump_ctime(&mut tree, &mut batch, source);
        Self::touch_dir(&mut tree, &mut batch, parent);
        if new_parent != parent {
            Self::touch_dir(&mut tree, &mut batch, new_parent);
        }
        if mode == RenameMode::Exchange {
            self.queue_exchange(&mut tree, &mut batch, (parent, name), (new_parent, new_name), &before, &swapped);
        } else {
            let moved_file = tree.get(source).is_some_and(|n| n.kind == Kind::File);
            self.queue_moves(&mut tree, &mut batch, from, to, source, before);
            if let (true, false, Some(path)) = (replaced_file, moved_file, replaced_path) {
                // A symlink or fifo took the place of a file.
                let others = target.map_or(Vec::new(), |t| self.uploaded_names(&tree, t));
                batch.unlinked(&mut tree, self.rule(path), others);
            }
        }
        let is_told = |ino: Ino| tree.get(ino).is_some_and(|n| matches!(n.kind, Kind::File | Kind::Dir));
        let (old, new) = (tree.path_of_name(parent, name), tree.path_of_name(new_parent, new_name));
        if is_told(source) {
            self.tell_rename(&mut batch, old.clone(), new.clone(), replaced_file);
        }
        if mode == RenameMode::Exchange && target.is_some_and(is_told) {
            self.tell_rename(&mut batch, new, old, true);
        }
        let pending = self.submit(batch);
        drop(tree);
        self.finish(pending)?;
        if let Some(t) = dropped {
            self.reap(&mut self.tree.write(), t);
        }
        Ok(())
    }

    fn check_rename(
        tree: &Tree,
        source: Ino,
        target: Option<Ino>,
        parent: Ino,
        new_parent: Ino,
        mode: RenameMode,
    ) -> FsResult<()> {
        let is_dir = |i: Ino| tree.get(i).is_some_and(|n| n.kind == Kind::Dir);
        if is_dir(source) && tree.is_ancestor(source, new_parent) {
            return errno(libc::EINVAL);
        }
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return errno(libc::EEXIST),
            (RenameMode::Exchange, None) => return Err(FsError::NOT_FOUND),
            (RenameMode::Exchange, Some(t)) if is_dir(t) && tree.is_ancestor(t, parent) => return errno(libc::EINVAL),
            (RenameMode::Replace, Some(t)) if t != source => match (is_dir(source), is_dir(t)) {
                (true, false) => return errno(libc::ENOTDIR),
                (false, true) => return errno(libc::EISDIR),
                (true, true) => {
                    let dir = tree.get(t).and_then(Node::dir).ok_or(FsError::NOT_FOUND)?;
                    if !dir.listed {
                        return Err(FsError::Need(Need::Listing(t)));
                    }
                    if !dir.children.is_empty() {
                        return errno(libc::ENOTEMPTY);
                    }
                }
                (false, false) => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// The regular files at and below an inode with their paths. A subtree that is not known yet is fetched first.
    fn files_below(&self, tree: &Tree, top: Ino) -> FsResult<Vec<(Ino, PathRule)>> {
        let Some(node) = tree.get(top) else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        let mut add = |ino: Ino, n: &Node, within: Option<&(Ino, OsString)>| {
            if n.kind != Kind::File {
                return;
            }
            for (p, x) in &n.links {
                if within.is_some_and(|(wp, wx)| (p, &**x) != (wp, wx.as_os_str())) {
                    continue;
                }
                if let Some(path) = tree.path_of_name(*p, x) {
                    files.push((ino, self.rule(path)));
                }
            }
        };
        if node.kind != Kind::Dir {
            add(top, node, None);
            return Ok(files);
        }
        let mut todo = vec![top];
        while let Some(at) = todo.pop() {
            let Some(d) = tree.get(at).and_then(Node::dir) else { continue };
            if !d.listed {
                return Err(FsError::Need(Need::Subtree(top)));
            }
            for (name, &child) in &d.children {
                match tree.get(child) {
                    Some(n) if n.kind == Kind::Dir => todo.push(child),
                    Some(n) => add(child, n, Some(&(at, name.to_os_string()))),
                    None => {}
                }
            }
        }
        Ok(files)
    }

    fn bump_ctime(tree: &mut Tree, batch: &mut Batch, ino: Ino) {
        if let Some(n) = tree.get_mut(ino) {
            n.ctime = now();
        }
        batch.put_node(tree, ino);
    }

    fn queue_moves(
        &self,
        tree: &mut Tree,
        batch: &mut Batch,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        top: Ino,
        before: Vec<(Ino, PathRule)>,
    ) {
        let is_dir = tree.get(top).is_some_and(|n| n.kind == Kind::Dir);
        if !is_dir {
            // Other hard links of the file stay where they are; only the name that moved counts.
            let new = tree.path_of_name(to.0, to.1);
            let still = tree.paths(top);
            for (ino, old) in before {
                match &new {
                    Some(new) if !still.contains(&old.path) => batch.moved(tree, old, self.rule(new.clone()), ino),
                    None if !still.contains(&old.path) => {
                        let others = self.uploaded_names(tree, ino);
                        batch.unlinked(tree, old, others);
                    }
                    _ => {}
                }
            }
            return;
        }
        let (old_top, new_top) = (tree.path_of_name(from.0, from.1), tree.path_of_name(to.0, to.1));
        for (ino, old) in before {
            batch.put_node(tree, ino); // its origin may have been pinned
            // By its place below the directory: its base name may be that of another link of the same file.
            match old_top.as_ref().zip(new_top.as_ref()).and_then(|(a, b)| below_instead(&old.path, a, b)) {
                Some(new) => batch.moved(tree, old, self.rule(new), ino),
                None => {
                    let others = self.uploaded_names(tree, ino);
                    batch.unlinked(tree, old, others);
                }
            }
        }
    }

    /// As renames in both directions that happen at once: what each leaves is deleted when its content has arrived.
    fn queue_exchange(
        &self,
        tree: &mut Tree,
        batch: &mut Batch,
        a: (Ino, &OsStr),
        b: (Ino, &OsStr),
        from_a: &[(Ino, PathRule)],
        from_b: &[(Ino, PathRule)],
    ) {
        let files = |tree: &Tree, at: (Ino, &OsStr)| {
            tree.child(at.0, at.1).and_then(|i| self.files_below(tree, i).ok()).unwrap_or_default()
        };
        let mut now_there = files(tree, a);
        now_there.extend(files(tree, b));
        let there: HashSet<(Ino, RemotePath)> = now_there.iter().map(|(ino, rule)| (*ino, rule.path.clone())).collect();
        let mut moved = Vec::new();
        if let (Some(a), Some(b)) = (tree.path_of_name(a.0, a.1), tree.path_of_name(b.0, b.1)) {
            for (files, old, new) in [(from_a, &a, &b), (from_b, &b, &a)] {
                for (node, from) in files {
                    // Other hard links of a file stay where they are.
                    let to = below_instead(&from.path, old, new).filter(|to| there.contains(&(*node, to.clone())));
                    moved.extend(to.map(|to| Moved { from: from.clone(), to: self.rule(to), node: *node }));
                }
            }
        }
        let arrived: HashSet<RemotePath> = moved.iter().map(|m| m.to.path.clone()).collect();
        for (ino, rule) in &now_there {
            batch.put_node(tree, *ino);
            if !arrived.contains(&rule.path) {
                batch.present(tree, rule.clone(), *ino);
            }
        }
        batch.moved_at_once(tree, moved);
    }
}

/// The path that `path` has once what is at `old` is at `new`; `None` when it does not lie there, or gets too long.
fn below_instead(path: &RemotePath, old: &RemotePath, new: &RemotePath) -> Option<RemotePath> {
    let rest = path.as_str().strip_prefix(old.as_str()).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
    format!("{new}{rest}").parse().ok()
}
