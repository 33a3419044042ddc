//! The state directory: writable, local, outside the mountpoint, private.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::problem::{Code, Problem, shell_word};
use crate::fs::mount_of;

/// Below this many free bytes a start warns.
const LITTLE_SPACE: u64 = 256 << 20;

/// Looks at `dir` (absolute, links resolved), which need not exist yet, and changes nothing.
pub fn check_state_dir(dir: &Path, mountpoint: &Path, warnings: &mut Vec<String>) -> Result<(), Problem> {
    if dir.starts_with(mountpoint) {
        return Err(Problem::new(
            Code::StateDirInsideMountpoint,
            format!(
                "{} lies inside the mountpoint {}, so the mount would have to read itself",
                dir.display(),
                mountpoint.display()
            ),
            "put it elsewhere with --state-dir DIR (or --embedded-dir DIR)",
        ));
    }
    let existing = dir.ancestors().find(|p| p.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    check_writable(dir, existing)?;
    let stat = statfs(existing).map_err(|e| unwritable(dir, existing, &e.to_string()))?;
    #[allow(clippy::unnecessary_cast)] // the types of statfs differ between architectures
    let (magic, free) = (stat.f_type as u32, stat.f_bavail as u64 * stat.f_bsize as u64);
    let fs_type = mount_of(existing).ok().flatten().map(|m| m.fs_type).unwrap_or_default();
    if matches!(magic, PROC_MAGIC | SYSFS_MAGIC) {
        // access(2) lets root pass here, mkdir(2) does not.
        return Err(unwritable(dir, existing, "the kernel's own filesystem holds no files of others"));
    }
    if let Some(name) = network_fs(magic, &fs_type) {
        return Err(Problem::new(
            Code::StateDirOnNetworkFs,
            format!("{} is on {name}: locks and fsync cannot be trusted there", dir.display()),
            "name a directory on a local disk with --state-dir DIR (or --embedded-dir DIR)",
        ));
    }
    if matches!(magic, TMPFS_MAGIC | RAMFS_MAGIC) {
        warnings.push(format!("{} is in memory: saves that wait for upload are lost when the machine restarts", dir.display()));
    }
    if free < LITTLE_SPACE {
        warnings.push(format!("{} has only {} MiB of free space", dir.display(), free >> 20));
    }
    Ok(())
}

fn check_writable(dir: &Path, existing: &Path) -> Result<(), Problem> {
    let words = match existing.metadata() {
        Ok(m) if !m.is_dir() => Some("it is not a directory".to_owned()),
        Ok(_) => access(existing, libc::R_OK | libc::W_OK | libc::X_OK).err().map(|e| e.to_string()),
        Err(e) => Some(e.to_string()),
    };
    words.map_or(Ok(()), |words| Err(unwritable(dir, existing, &words)))
}

fn unwritable(dir: &Path, existing: &Path, words: &str) -> Problem {
    let place = if dir == existing { String::new() } else { format!(" ({})", existing.display()) };
    Problem::new(
        Code::StateDirUnwritable,
        format!("cannot write to {}{place}: {words}", dir.display()),
        format!("check it with: ls -ld {}; or choose another with --state-dir DIR (or --embedded-dir DIR)", shell_word(existing)),
    )
}

/// Creates the state directory, 0700 where it is new. Returns whether it is new.
pub fn create_state_dir(dir: &Path) -> Result<bool, Problem> {
    create_private_dir(dir).map_err(|e| unwritable(dir, dir, &e.to_string()))
}

/// Creates `dir` with mode 0700 and its parents with the usual mode. Returns whether it is new. An existing directory keeps
/// its mode: it may be one that the user named and shares.
pub fn create_private_dir(dir: &Path) -> io::Result<bool> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(false),
        Err(e) => Err(e),
    }
}

const PROC_MAGIC: u32 = 0x9fa0;
const SYSFS_MAGIC: u32 = 0x6265_6572;
const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;
const FUSE_MAGIC: u32 = 0x6573_5546;

/// The name of a filesystem that must not hold state; `None` for a local one. Magic numbers: statfs(2), linux/magic.h.
fn network_fs(magic: u32, fs_type: &str) -> Option<String> {
    let name = match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9p",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x564c => "NCP",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        // The kernel gives one number to all of FUSE; these are local disks in disguise.
        FUSE_MAGIC if matches!(fs_type, "virtiofs" | "fuseblk" | "fuse.fuse-overlayfs" | "fuse.lxcfs") => return None,
        FUSE_MAGIC => return Some(format!("a FUSE filesystem ({})", if fs_type.is_empty() { "fuse" } else { fs_type })),
        _ => return None,
    };
    Some(format!("a network filesystem ({name})"))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

fn access(path: &Path, mode: i32) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: `path` is a NUL-terminated string that lives through the call.
    match unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(super) fn statfs(path: &Path) -> io::Result<libc::statfs> {
    let path = c_path(path)?;
    let mut stat = std::mem::MaybeUninit::uninit();
    // SAFETY: `path` is NUL-terminated, `stat` has room for the structure, and it is read only after success.
    unsafe {
        match libc::statfs(path.as_ptr(), stat.as_mut_ptr()) {
            0 => Ok(stat.assume_init()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn check(dir: &Path, mountpoint: &Path) -> Result<(), Code> {
        check_state_dir(dir, mountpoint, &mut Vec::new()).map_err(|p| p.code)
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_passes_and_is_not_created() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        assert_eq!(check(&state, Path::new("/mnt/elsewhere")), Ok(()));
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn a_directory_inside_the_mountpoint_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mnt = dir.path().join("mnt");
        assert_eq!(check(&mnt, &mnt), Err(Code::StateDirInsideMountpoint));
        assert_eq!(check(&mnt.join("state"), &mnt), Err(Code::StateDirInsideMountpoint));
        assert_eq!(check(&dir.path().join("mnt2"), &mnt), Ok(()), "a common prefix of the name is not inside");
    }

    #[test]
    fn a_file_in_its_way_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(check(&file, Path::new("/m")), Err(Code::StateDirUnwritable));
        assert_eq!(check(&file.join("state"), Path::new("/m")), Err(Code::StateDirUnwritable));
    }

    #[test]
    fn the_kernels_own_filesystems_are_refused() {
        for dir in ["/proc/relayfile", "/sys/relayfile/state"] {
            assert_eq!(check(Path::new(dir), Path::new("/m")), Err(Code::StateDirUnwritable), "{dir}");
        }
    }

    #[test]
    fn network_filesystems_are_told_from_local_ones() {
        assert!(network_fs(0x6969, "nfs4").is_some_and(|n| n.contains("NFS")));
        assert!(network_fs(FUSE_MAGIC, "fuse.sshfs").is_some_and(|n| n.contains("fuse.sshfs")));
        assert_eq!(network_fs(FUSE_MAGIC, "virtiofs"), None);
        assert_eq!(network_fs(0xef53, "ext4"), None);
        assert_eq!(network_fs(0x794c_7630, "overlay"), None);
    }

    #[test]
    fn a_new_state_directory_is_private_and_an_old_one_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        assert_eq!(create_state_dir(&state), Ok(true));
        assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(create_state_dir(&state), Ok(false));
        assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    }
}
