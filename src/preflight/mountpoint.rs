//! The mountpoint: there, a directory, empty, not mounted on.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::problem::{Code, Problem, shell_word};
use crate::fs::{self, MountEntry, mount_of, mounted_at};

/// A mountpoint that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mountpoint {
    Ready,
    /// An earlier process died and left its endpoint; usable after [`detach`].
    Dead,
}

/// How long a FUSE mount may take to answer before it counts as hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Looks at `path` (absolute, links of its parent resolved) and changes nothing.
pub fn check_mountpoint(path: &Path, allow_nonempty: bool) -> Result<Mountpoint, Problem> {
    if let Some(parent) = path.parent()
        && let Ok(Some(mount)) = mount_of(parent)
    {
        check_around(path, &mount)?;
    }
    if let Ok(Some(mount)) = mounted_at(path) {
        return check_mounted(path, &mount);
    }
    let word = shell_word(path);
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            Problem::new(Code::MountpointNotFound, format!("{} does not exist", path.display()), format!("mkdir -p {word}"))
        }
        io::ErrorKind::NotADirectory => not_a_directory(path),
        _ => unreadable(path, &e),
    })?;
    if !metadata.is_dir() {
        return Err(not_a_directory(path));
    }
    let mut entries = std::fs::read_dir(path).map_err(|e| unreadable(path, &e))?;
    if !allow_nonempty && entries.next().is_some() {
        return Err(Problem::new(
            Code::MountpointNotEmpty,
            format!("{} is not empty; a mount would hide what is in it", path.display()),
            format!("use an empty directory, or --allow-nonempty (see: ls -A {word})"),
        ));
    }
    Ok(Mountpoint::Ready)
}

/// Every path of a mount inside another one leads through that, which could not be unmounted alone. Told from the table of
/// mounts, so that a dead or hung one around `path` is not asked.
fn check_around(path: &Path, around: &MountEntry) -> Result<(), Problem> {
    if !around.is_ours() {
        return Ok(());
    }
    Err(Problem::new(
        Code::MountpointInsideMount,
        format!("{} lies inside the relayfile mount {}", path.display(), around.mountpoint.display()),
        format!("use a directory outside of it, or take it away first: relayfile unmount {}", shell_word(&around.mountpoint)),
    ))
}

fn check_mounted(path: &Path, mount: &MountEntry) -> Result<Mountpoint, Problem> {
    let word = shell_word(path);
    let busy = |what: String, remedy: String| Err(Problem::new(Code::MountpointBusy, what, remedy));
    if !mount.is_fuse() {
        return busy(
            format!(
                "{} is already the mountpoint of a {} filesystem ({})",
                path.display(),
                mount.fs_type,
                mount.source.display()
            ),
            format!("use another directory, or: umount {word}"),
        );
    }
    let owned: PathBuf = path.to_owned();
    // statfs(2) always goes to the filesystem; stat(2) may be answered from attributes that the kernel keeps for an hour.
    let answer = answers_within(ANSWER_WITHIN, move || super::state_dir::statfs(&owned).map(|_| ()));
    match answer.map(|r| r.err().and_then(|e| e.raw_os_error())) {
        Some(Some(libc::ENOTCONN)) if mount.is_ours() => Ok(Mountpoint::Dead),
        Some(Some(libc::ENOTCONN)) => Err(Problem::new(
            Code::MountpointDead,
            format!(
                "{} is the dead endpoint of another FUSE filesystem ({}, {})",
                path.display(),
                mount.fs_type,
                mount.source.display()
            ),
            format!("fusermount3 -u -z {word}"),
        )),
        None => busy(
            format!("{} is a {} mount that does not answer", path.display(), mount.fs_type),
            format!("stop its process, then: fusermount3 -u -z {word}"),
        ),
        Some(_) if mount.is_ours() => {
            busy(format!("{} is already a relayfile mount", path.display()), format!("relayfile unmount {word}"))
        }
        Some(_) => busy(
            format!(
                "{} is already the mountpoint of a FUSE filesystem ({}, {})",
                path.display(),
                mount.fs_type,
                mount.source.display()
            ),
            format!("use another directory, or: fusermount3 -u {word}"),
        ),
    }
}

fn not_a_directory(path: &Path) -> Problem {
    Problem::new(
        Code::MountpointNotADirectory,
        format!("{} is not a directory", path.display()),
        "give a directory, for example: mkdir -p ~/ws && relayfile-mount ~/ws",
    )
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let parent = path.parent().unwrap_or(path);
    Problem::new(
        Code::MountpointUnreadable,
        format!("cannot look into {}: {error}", path.display()),
        format!("check its owner and mode: ls -ld {} {}", shell_word(parent), shell_word(path)),
    )
}

/// Runs `question` on a thread of its own and gives up waiting after `deadline`: a call into a hung FUSE mount cannot be
/// interrupted. The thread is left behind then; it ends with the process or with the mount.
pub fn answers_within<T: Send + 'static>(deadline: Duration, question: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = send.send(question());
    });
    receive.recv_timeout(deadline).ok()
}

/// Detaches the mount at `path`, also a dead or busy one.
pub fn detach(path: &Path) -> Result<(), Problem> {
    fs::unmount(path, true).map_err(|e| {
        let remedy = format!("fusermount3 -u -z {}", shell_word(path));
        Problem::new(Code::MountpointDead, format!("cannot detach {}: {e}", path.display()), remedy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(result: Result<Mountpoint, Problem>) -> Code {
        result.expect_err("was accepted").code
    }

    #[test]
    fn an_empty_directory_is_ready() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_mountpoint(dir.path(), false), Ok(Mountpoint::Ready));
    }

    #[test]
    fn what_is_missing_a_file_or_not_empty_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(code(check_mountpoint(&dir.path().join("none"), false)), Code::MountpointNotFound);
        assert_eq!(code(check_mountpoint(&file, false)), Code::MountpointNotADirectory);
        assert_eq!(code(check_mountpoint(&file.join("below"), false)), Code::MountpointNotADirectory);
        assert_eq!(code(check_mountpoint(dir.path(), false)), Code::MountpointNotEmpty);
        assert_eq!(check_mountpoint(dir.path(), true), Ok(Mountpoint::Ready));
    }

    #[test]
    fn a_mountpoint_of_another_filesystem_is_busy() {
        let problem = check_mountpoint(Path::new("/proc"), true).unwrap_err();
        assert_eq!(problem.code, Code::MountpointBusy);
        assert!(problem.what.contains("proc filesystem"), "{problem}");
    }

    #[test]
    fn a_mountpoint_inside_a_relayfile_mount_is_refused_without_asking_that() {
        let around = |fs_type: &str| MountEntry {
            mountpoint: "/mnt/ws".into(),
            fs_type: fs_type.into(),
            source: "relayfile:ws".into(),
            device: "0:41".into(),
        };
        let problem = check_around(Path::new("/mnt/ws/inner"), &around("fuse.relayfile")).unwrap_err();
        assert_eq!(problem.code, Code::MountpointInsideMount);
        assert!(problem.remedy.contains("relayfile unmount /mnt/ws"), "{problem}");
        assert_eq!(check_around(Path::new("/mnt/ws/inner"), &around("ext4")), Ok(()));
    }

    #[test]
    fn a_question_without_an_answer_is_given_up() {
        let (_hold, wait) = std::sync::mpsc::channel::<()>();
        assert_eq!(answers_within(Duration::from_millis(20), move || wait.recv().is_ok()), None);
        assert_eq!(answers_within(Duration::from_secs(5), || 7), Some(7));
    }
}
