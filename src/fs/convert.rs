//! Our values ↔ fuser's. Nothing here decides anything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, RenameFlags, Request, TimeOrNow};

use crate::ids::Ino;
use crate::workspace::{Attr, Caller, FsError, FsResult, Kind, Nanos, RenameMode, SetTime};

pub(super) fn ino(n: INodeNo) -> Ino {
    Ino(n.0)
}

pub(super) fn inode_no(ino: Ino) -> INodeNo {
    INodeNo(ino.0)
}

pub(super) fn errno(e: &FsError) -> Errno {
    Errno::from_i32(e.to_errno())
}

pub(super) fn caller(req: &Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid() }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn file_attr(a: &Attr) -> FileAttr {
    FileAttr {
        ino: inode_no(a.ino),
        size: a.size,
        blocks: a.blocks,
        atime: system_time(a.atime),
        mtime: system_time(a.mtime),
        ctime: system_time(a.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(a.kind),
        perm: (a.mode & 0o7777) as u16,
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// The attributes of inode 0: in an entry reply it means that the name is known not to exist.
pub(super) fn no_attr() -> FileAttr {
    let none = Attr {
        ino: Ino(0),
        kind: Kind::File,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: Nanos(0),
        mtime: Nanos(0),
        ctime: Nanos(0),
    };
    file_attr(&none)
}

fn system_time(t: Nanos) -> SystemTime {
    let distance = Duration::from_nanos(t.0.unsigned_abs());
    if t.0 < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

pub(super) fn set_time(t: TimeOrNow) -> SetTime {
    match t {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(at) => SetTime::At(nanos(at)),
    }
}

/// A time that fuser took from the kernel. Before 1970 the kernel means `-seconds + nanoseconds`; fuser 0.18 makes
/// `-(seconds + nanoseconds)` of it (fixed on its master), so the fraction is added back with the right sign.
fn nanos(t: SystemTime) -> Nanos {
    const SECOND: i128 = 1_000_000_000;
    let exact = match t.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(e) => i128::from(e.duration().subsec_nanos()) - i128::from(e.duration().as_secs()) * SECOND,
    };
    Nanos(exact.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
}

/// renameat2(2)'s flags; EINVAL for whiteouts and for what we do not know.
pub(super) fn rename_mode(flags: RenameFlags) -> FsResult<RenameMode> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(FsError::Errno(libc::EINVAL))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn attr(kind: Kind) -> Attr {
        Attr {
            ino: Ino(9),
            kind,
            mode: 0o4755,
            nlink: 2,
            uid: 1,
            gid: 2,
            rdev: 3,
            size: 1000,
            blocks: 2,
            atime: Nanos(-1),
            mtime: Nanos(1_500_000_000),
            ctime: Nanos(0),
        }
    }

    #[test]
    fn attributes_keep_every_bit() {
        let a = file_attr(&attr(Kind::Fifo));
        assert_eq!((a.ino.0, a.kind, a.perm, a.nlink, a.uid, a.gid, a.rdev), (9, FileType::NamedPipe, 0o4755, 2, 1, 2, 3));
        assert_eq!((a.size, a.blocks), (1000, 2));
        assert_eq!(a.mtime, UNIX_EPOCH + Duration::from_millis(1500));
        assert_eq!(a.atime, UNIX_EPOCH - Duration::from_nanos(1));
    }

    /// What fuser 0.18's `system_time_from_time` does to the kernel's pair.
    fn as_fuser_says(secs: i64, nsecs: u32) -> SystemTime {
        if secs >= 0 {
            UNIX_EPOCH + Duration::new(secs as u64, nsecs)
        } else {
            UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nsecs)
        }
    }

    #[test]
    fn a_time_before_1970_keeps_its_nanoseconds() {
        for t in [0, 1, -1, -1_000_000_000, -1_200_000_000, 1_700_000_000_123_456_789, i64::MIN + 1] {
            let (secs, nsecs) = (t.div_euclid(1_000_000_000), t.rem_euclid(1_000_000_000) as u32);
            assert_eq!(nanos(as_fuser_says(secs, nsecs)), Nanos(t));
        }
    }

    #[test]
    fn a_time_beyond_our_range_is_its_end() {
        assert_eq!(nanos(as_fuser_says(i64::MAX / 2, 0)), Nanos(i64::MAX));
        assert_eq!(nanos(as_fuser_says(-(i64::MAX / 2), 0)), Nanos(i64::MIN));
    }

    #[test]
    fn only_the_known_rename_flags_pass() {
        assert_eq!(rename_mode(RenameFlags::empty()).unwrap(), RenameMode::Replace);
        assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE).unwrap(), RenameMode::NoReplace);
        assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE).unwrap(), RenameMode::Exchange);
        for bad in [RenameFlags::RENAME_WHITEOUT, RenameFlags::all(), RenameFlags::from_bits_retain(8)] {
            assert_eq!(rename_mode(bad).unwrap_err().to_errno(), libc::EINVAL);
        }
    }
}
