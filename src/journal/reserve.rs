//! Room that is kept back for the journal, so that on a full disk what was promised can still be recorded and what is in the way
//! can still be removed.
//!
//! A file of [`SIZE`] bytes lies beside the journal. When a commit finds no room the file is cut to nothing and the commit made
//! again; from then on the mount is *short of room*: whatever would take up more is refused before it is begun. When there is
//! enough again the file is filled, and the refusals end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes kept back: about a thousand pages of the journal, a hundred of which a removal may touch at worst.
const SIZE: i64 = 4 * 1024 * 1024;

/// See the module.
pub(super) struct Reserve {
    path: PathBuf,
    short: AtomicBool,
    /// The filesystem cannot keep room back.
    useless: AtomicBool,
}

impl Reserve {
    /// Fills the file. On a disk that is full already the mount begins short of room.
    pub fn open(state_dir: &Path) -> Reserve {
        let reserve = Reserve { path: state_dir.join("reserve"), short: AtomicBool::new(false), useless: AtomicBool::new(false) };
        match reserve.fill() {
            Ok(()) => {}
            Err(e) if is_no_room(&e) => reserve.short.store(true, Ordering::Release),
            Err(e) => {
                log::info!("no room can be kept back in {}: {e}", state_dir.display());
                reserve.useless.store(true, Ordering::Relaxed);
            }
        }
        reserve
    }

    fn file(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)
    }

    fn fill(&self) -> io::Result<()> {
        let file = self.file()?;
        // SAFETY: fallocate takes no pointers; the descriptor lives in `file`.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, SIZE) } == 0 {
            return Ok(());
        }
        let e = io::Error::last_os_error();
        let _ = file.set_len(0); // part of it may have been taken
        Err(e)
    }

    /// What would take up more room is to be refused.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// Gives the room to the journal. False when it has been given already.
    pub fn give(&self) -> bool {
        if self.useless.load(Ordering::Relaxed) || self.short.swap(true, Ordering::AcqRel) {
            return false;
        }
        match self.file().and_then(|f| f.set_len(0)) {
            Ok(()) => true,
            Err(e) => {
                log::error!("the room that was kept back cannot be given free: {e}");
                false
            }
        }
    }

    /// Keeps room back again, once there is twice as much. Says whether the shortage has ended with this.
    pub fn take_back(&self) -> bool {
        if !self.is_short() {
            return false;
        }
        let enough = self.file().and_then(|f| free_bytes(&f)).is_ok_and(|free| free >= 2 * SIZE as u64);
        let taken = enough && self.fill().is_ok();
        if taken {
            self.short.store(false, Ordering::Release);
        }
        taken
    }
}

fn free_bytes(file: &File) -> io::Result<u64> {
    // SAFETY: statvfs is plain data; the call fills it for an open descriptor.
    unsafe {
        let mut s: libc::statvfs = std::mem::zeroed();
        if libc::fstatvfs(file.as_raw_fd(), &mut s) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(s.f_bavail * s.f_frsize)
    }
}

fn is_no_room(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}
