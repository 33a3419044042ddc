//! The mount itself. fuser's own would unmount the *path* once more when its session ends, and so remove a newer mount
//! there (0.18, fixed on its master); here only [`unmount`] unmounts, and only when asked.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::fusermount;

const DEV_FUSE: &str = "/dev/fuse";

/// Why there is no mount, or why it is still there.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("the mountpoint {}: {source}", path.display())]
    Mountpoint { path: PathBuf, source: io::Error },
    #[error("{} is what an earlier mount left behind when its process died", .0.display())]
    DeadEndpoint(PathBuf),
    #[error("/dev/fuse cannot be used: {0}")]
    FuseUnavailable(#[source] io::Error),
    #[error("neither fusermount3 nor fusermount is installed")]
    FusermountNotFound,
    #[error("allow_other is refused to ordinary users on this machine")]
    AllowOtherRefused,
    #[error("no permission to mount on {}: {detail}", path.display())]
    PermissionDenied { path: PathBuf, detail: String },
    #[error("{} is busy: a program has a file open or its working directory in it", .0.display())]
    Busy(PathBuf),
    #[error("{what} failed on {}: {detail}", path.display())]
    Failed { what: &'static str, path: PathBuf, detail: String },
    #[error("the kernel and this program did not agree on a session: {0}")]
    Handshake(#[source] io::Error),
    #[error("the threads of the session cannot be started: {0}")]
    Threads(#[source] io::Error),
}

impl MountError {
    /// A stable name for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            MountError::Mountpoint { source, .. } if source.kind() == io::ErrorKind::NotFound => "MOUNTPOINT_NOT_FOUND",
            MountError::Mountpoint { .. } => "MOUNTPOINT_UNUSABLE",
            MountError::DeadEndpoint(_) => "MOUNTPOINT_DEAD",
            MountError::FuseUnavailable(_) => "FUSE_UNAVAILABLE",
            MountError::FusermountNotFound => "FUSERMOUNT_NOT_FOUND",
            MountError::AllowOtherRefused => "ALLOW_OTHER_REFUSED",
            MountError::PermissionDenied { .. } => "MOUNT_PERMISSION_DENIED",
            MountError::Busy(_) => "MOUNTPOINT_BUSY",
            MountError::Failed { .. } => "MOUNT_FAILED",
            MountError::Handshake(_) => "FUSE_HANDSHAKE_FAILED",
            MountError::Threads(_) => "THREADS_UNAVAILABLE",
        }
    }

    /// What to do about it, in one sentence.
    pub fn remedy(&self) -> &'static str {
        match self {
            MountError::Mountpoint { .. } => "Create an empty directory that you can write to and name it.",
            MountError::DeadEndpoint(_) => "Unmount it first: umount -l MOUNTPOINT, or fusermount3 -u -z MOUNTPOINT.",
            MountError::FuseUnavailable(_) => {
                "Load the kernel module (modprobe fuse); in a container, pass --device /dev/fuse --cap-add SYS_ADMIN."
            }
            MountError::FusermountNotFound => "Install the package fuse3, or run as root.",
            MountError::AllowOtherRefused => "Add the line user_allow_other to /etc/fuse.conf, or leave out --allow-other.",
            MountError::PermissionDenied { .. } => "Mount on a directory that you own, or run as root.",
            MountError::Busy(_) => "Close those programs (fuser -vm MOUNTPOINT lists them), or unmount lazily.",
            MountError::Failed { .. } => "See the message above; relayfile doctor checks the usual causes.",
            MountError::Handshake(_) => "Check that the kernel is 5.4 or later.",
            MountError::Threads(_) => "Raise the limit of processes (ulimit -u).",
        }
    }
}

/// What the kernel is told of the mount.
#[derive(Debug, Clone)]
pub(super) struct Spec<'a> {
    pub mountpoint: &'a Path,
    pub source: &'a str,
    pub allow_other: bool,
    pub read_only: bool,
}

/// Mounts and returns the device on which the kernel will speak. As root directly, else (and where a root without
/// CAP_SYS_ADMIN is refused) by the setuid helper.
pub(super) fn mount(spec: &Spec) -> Result<OwnedFd, MountError> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return fusermount::mount(spec);
    }
    match mount_as_root(spec) {
        Err(MountError::PermissionDenied { .. }) => fusermount::mount(spec),
        other => other,
    }
}

fn mount_as_root(spec: &Spec) -> Result<OwnedFd, MountError> {
    let device = open_device().map_err(MountError::FuseUnavailable)?;
    // SAFETY: getuid and getgid have no preconditions and cannot fail.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let mut options =
        format!("fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions,subtype=relayfile", device.as_raw_fd());
    if spec.allow_other {
        options.push_str(",allow_other");
    }
    let mut flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOATIME;
    if spec.read_only {
        flags |= libc::MS_RDONLY;
    }
    let failed = |e: io::Error| mount_error(spec.mountpoint, e);
    let source = c_string(OsStr::new(spec.source)).map_err(failed)?;
    let target = c_string(spec.mountpoint.as_os_str()).map_err(failed)?;
    let options = c_string(OsStr::new(&options)).map_err(failed)?;
    // SAFETY: all pointers are NUL-terminated strings that outlive the call.
    let rc = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), c"fuse".as_ptr(), flags, options.as_ptr().cast()) };
    if rc == 0 { Ok(device.into()) } else { Err(failed(io::Error::last_os_error())) }
}

fn mount_error(path: &Path, e: io::Error) -> MountError {
    let path = path.to_owned();
    match e.raw_os_error() {
        Some(libc::EPERM) => MountError::PermissionDenied { path, detail: e.to_string() },
        Some(libc::ENODEV) => MountError::FuseUnavailable(e),
        Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::ENOTCONN) => MountError::Mountpoint { path, source: e },
        _ => MountError::Failed { what: "mount", path, detail: e.to_string() },
    }
}

/// Takes away what is mounted on `path`. Lazily: the name is gone at once, open files live on until they are closed.
/// Otherwise [`MountError::Busy`] when something is still in use. An error when nothing is mounted there.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    let target = c_string(path.as_os_str()).map_err(|source| MountError::Mountpoint { path: path.into(), source })?;
    // SAFETY: the pointer is a NUL-terminated string that outlives the call.
    if unsafe { libc::umount2(target.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        Some(libc::EPERM) => fusermount::unmount(path, lazy),
        Some(libc::EBUSY) => Err(MountError::Busy(path.into())),
        Some(libc::ENOENT) => Err(MountError::Mountpoint { path: path.into(), source: e }),
        _ => Err(MountError::Failed { what: "unmount", path: path.into(), detail: e.to_string() }),
    }
}

/// True when `path` is what an earlier mount left behind when its process died: only an unmount can help it.
///
/// Asks statfs(2), which always goes to the filesystem; stat(2) may be answered from attributes that the kernel was told
/// to keep for an hour.
pub fn is_dead_endpoint(path: &Path) -> bool {
    let Ok(path) = c_string(path.as_os_str()) else { return false };
    let mut answer = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path is NUL-terminated and the answer has room for one statfs; it is not read.
    let rc = unsafe { libc::statfs(path.as_ptr(), answer.as_mut_ptr()) };
    rc != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOTCONN)
}

/// The path with its symlinks resolved, when something can be mounted on it.
pub(super) fn check_mountpoint(path: &Path) -> Result<PathBuf, MountError> {
    // The kernel would mount on top of a dead endpoint without a word.
    if is_dead_endpoint(path) {
        return Err(MountError::DeadEndpoint(path.into()));
    }
    let usable = path
        .canonicalize()
        .and_then(|real| if real.metadata()?.is_dir() { Ok(real) } else { Err(io::Error::from_raw_os_error(libc::ENOTDIR)) });
    usable.map_err(|source| MountError::Mountpoint { path: path.into(), source })
}

fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEV_FUSE)
}

/// True when each session thread can have its own channel to the kernel: not where only the setuid helper may open the
/// device. fuser finds out too late, when its session is already consumed.
pub(super) fn can_clone(device: &OwnedFd) -> bool {
    const FUSE_DEV_IOC_CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;
    let Ok(clone) = open_device() else { return false };
    let original = device.as_raw_fd() as u32;
    // SAFETY: FUSE_DEV_IOC_CLONE reads one u32 behind the pointer, which is alive.
    unsafe { libc::ioctl(clone.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const original) == 0 }
}

fn c_string(s: &OsStr) -> io::Result<CString> {
    CString::new(s.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_mountpoint_has_its_own_code() {
        let e = mount_error(Path::new("/x"), io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(e.code(), "MOUNTPOINT_NOT_FOUND");
        let e = mount_error(Path::new("/x"), io::Error::from_raw_os_error(libc::ENODEV));
        assert_eq!(e.code(), "FUSE_UNAVAILABLE");
    }

    #[test]
    fn unmounting_what_is_not_mounted_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unmount(dir.path(), true).is_err());
        assert!(!is_dead_endpoint(dir.path()));
        assert!(!is_dead_endpoint(&dir.path().join("missing")));
    }

    #[test]
    fn only_a_directory_is_a_mountpoint() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(check_mountpoint(&file).unwrap_err().code(), "MOUNTPOINT_UNUSABLE");
        assert_eq!(check_mountpoint(&dir.path().join("missing")).unwrap_err().code(), "MOUNTPOINT_NOT_FOUND");
        std::os::unix::fs::symlink(".", dir.path().join("link")).unwrap();
        let real = dir.path().canonicalize().unwrap();
        assert_eq!(check_mountpoint(&dir.path().join("link")).unwrap(), real);
    }
}
