//! Working files: one private file per inode in `files/`, what the kernel reads and writes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::ids::{ContentHash, Ino, OpId};
use crate::journal::{Stamp, now_ms};

/// An open working file, shared by all handles of its inode, so that writers see each other.
pub(super) struct Working {
    /// Replaced only by a longer version of the remote that begins with what this one holds.
    file: RwLock<Arc<File>>,
    /// Counts changes of the content.
    writes: AtomicU64,
    /// The count at the last commit.
    committed: AtomicU64,
    /// The last change was a truncation: a writer is probably about to write.
    truncated: AtomicBool,
    /// The content has begun to change since it was a version of the remote. Held while that version is kept, by somebody who
    /// has the tree's lock already.
    changing: Mutex<bool>,
    last_write_ms: AtomicI64,
}

impl Working {
    pub fn new(file: File) -> Working {
        Working {
            file: RwLock::new(Arc::new(file)),
            writes: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            truncated: AtomicBool::new(false),
            changing: Mutex::new(false),
            last_write_ms: AtomicI64::new(0),
        }
    }

    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file.read())
    }

    /// From now on every handle reads this file.
    pub fn go_on_with(&self, file: File) {
        *self.file.write() = Arc::new(file);
    }

    pub fn note_write(&self) {
        self.truncated.store(false, Ordering::Relaxed);
        self.last_write_ms.store(now_ms(), Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Release);
    }

    pub fn is_changing(&self) -> bool {
        *self.changing.lock()
    }

    /// Calls `keep` if nothing has been changed since the content was a version of the remote.
    pub fn before_first_change(&self, keep: impl FnOnce()) {
        let mut changing = self.changing.lock();
        if !std::mem::replace(&mut *changing, true) {
            keep();
        }
    }

    /// The content is a version of the remote.
    pub fn is_clean_now(&self) {
        *self.changing.lock() = false;
    }

    pub fn note_truncation(&self) {
        self.note_write();
        self.truncated.store(true, Ordering::Relaxed);
    }

    /// The count to pass to [`Working::note_commit`] when what is there now has been committed.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Acquire)
    }

    pub fn note_commit(&self, writes: u64) {
        self.committed.fetch_max(writes, Ordering::AcqRel);
    }

    pub fn has_uncommitted(&self) -> bool {
        self.writes() != self.committed.load(Ordering::Acquire)
    }

    pub fn is_just_truncated(&self) -> bool {
        self.truncated.load(Ordering::Relaxed)
    }

    /// Milliseconds since the last change, for a writer that never closes.
    pub fn quiet_ms(&self) -> i64 {
        now_ms() - self.last_write_ms.load(Ordering::Relaxed)
    }

    pub fn stamp(&self) -> io::Result<Stamp> {
        stamp_of(&self.file())
    }
}

pub(super) fn stamp_of(file: &File) -> io::Result<Stamp> {
    Ok(stamp(&file.metadata()?))
}

fn stamp(m: &std::fs::Metadata) -> Stamp {
    Stamp { size: m.size(), ctime_ns: m.ctime() * 1_000_000_000 + m.ctime_nsec() }
}

/// The directories of the state directory that hold bytes.
pub(super) struct Store {
    files: PathBuf,
    payloads: PathBuf,
    trash: PathBuf,
    bases: PathBuf,
    conflicts: PathBuf,
    staged: AtomicU64,
    bases_kept: AtomicU64,
}

impl Store {
    /// Creates the directories where they are missing.
    pub fn open(state_dir: &Path) -> io::Result<Store> {
        let store = Store {
            files: state_dir.join("files"),
            payloads: state_dir.join("payloads"),
            trash: state_dir.join("trash"),
            bases: state_dir.join("bases"),
            conflicts: state_dir.join("conflicts"),
            staged: AtomicU64::new(0),
            bases_kept: AtomicU64::new(0),
        };
        for dir in [&store.files, &store.payloads, &store.trash, &store.bases, &store.conflicts] {
            std::fs::create_dir_all(dir)?;
        }
        Ok(store)
    }

    pub fn path(&self, ino: Ino) -> PathBuf {
        self.files.join(ino.to_string())
    }

    pub fn payload_path(&self, op: &OpId) -> PathBuf {
        self.payloads.join(op.as_str())
    }

    pub fn bases_dir(&self) -> &Path {
        &self.bases
    }

    pub fn base_path(&self, hash: &ContentHash) -> PathBuf {
        self.bases.join(hash.to_string())
    }

    /// How many bytes the bases have, about.
    pub fn bases_kept(&self) -> u64 {
        self.bases_kept.load(Ordering::Relaxed)
    }

    pub fn count_base(&self, bytes: u64) {
        self.bases_kept.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn recount_bases(&self, bytes: u64) {
        self.bases_kept.store(bytes, Ordering::Relaxed);
    }

    pub fn conflicts_dir(&self) -> &Path {
        &self.conflicts
    }

    pub fn conflict_dir(&self, op: &OpId) -> PathBuf {
        self.conflicts.join(op.as_str())
    }

    pub fn open_file(&self, ino: Ino) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(self.path(ino))
    }

    /// An empty working file.
    pub fn create_file(&self, ino: Ino) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(self.path(ino))
    }

    /// Writes fetched content beside the working files; [`Store::publish`] makes it the working file.
    pub fn stage(&self, ino: Ino, bytes: &[u8]) -> io::Result<PathBuf> {
        // Two may fetch the same file at once, from an event and from a request.
        let path = self.files.join(format!("{ino}.{}.fetch", self.staged.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        match file.write_all_at(bytes, 0) {
            Ok(()) => Ok(path),
            Err(e) => {
                remove(&path);
                Err(e)
            }
        }
    }

    pub fn publish(&self, ino: Ino, staged: &Path) -> io::Result<Stamp> {
        let path = self.path(ino);
        std::fs::rename(staged, &path)?;
        Ok(stamp(&std::fs::symlink_metadata(&path)?))
    }

    pub fn stamp(&self, ino: Ino) -> io::Result<Stamp> {
        Ok(stamp(&std::fs::symlink_metadata(self.path(ino))?))
    }

    pub fn remove_file(&self, ino: Ino) {
        remove(&self.path(ino));
    }

    pub fn remove_payload(&self, op: &OpId) {
        remove(&self.payload_path(op));
    }

    /// Keeps the payload of a letter that was let go until the next start.
    pub fn trash_payload(&self, op: &OpId) {
        let (from, to) = (self.payload_path(op), self.trash.join(format!("{op}.payload")));
        if let Err(e) = std::fs::rename(&from, to)
            && e.kind() != io::ErrorKind::NotFound
        {
            log::warn!("cannot move {} to the trash: {e}", from.display());
        }
    }

    /// Empties the trash, at start.
    pub fn empty_trash(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.trash)? {
            remove(&entry?.path());
        }
        Ok(())
    }

    /// Copies the working file of a letter that was never sent to where its payload would be.
    pub fn copy_to_payload(&self, ino: Ino, op: &OpId) -> io::Result<()> {
        // Beside it and renamed: the old one may have a second name.
        let temp = self.payloads.join(format!("{op}.new"));
        std::fs::copy(self.path(ino), &temp)?;
        std::fs::rename(temp, self.payload_path(op))
    }

    /// Makes the names in `files/` survive a loss of power.
    pub fn sync_names(&self) -> io::Result<()> {
        File::open(&self.files)?.sync_all()
    }

    /// The inodes that have a working file, and the paths of anything else that lies there.
    pub fn scan_files(&self) -> io::Result<(Vec<Ino>, Vec<PathBuf>)> {
        let (mut inodes, mut strays) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&self.files)? {
            let entry = entry?;
            match entry.file_name().to_str().and_then(|n| n.parse().ok()) {
                Some(n) => inodes.push(Ino(n)),
                None => strays.push(entry.path()),
            }
        }
        Ok((inodes, strays))
    }

    /// The operations that have a payload.
    pub fn scan_payloads(&self) -> io::Result<Vec<OpId>> {
        let mut ops = Vec::new();
        for entry in std::fs::read_dir(&self.payloads)? {
            if let Some(op) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) {
                ops.push(op);
            }
        }
        Ok(ops)
    }
}

fn remove(path: &Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {e}; it is swept at the next start", path.display());
    }
}
