//! FUSE itself: the device, and the permission to mount.

use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::problem::{Code, Problem};

/// Opens the device and closes it again, which has no effect on anything.
pub fn check_fuse(device: &Path) -> Result<(), Problem> {
    let unavailable = |words: &str, remedy: &str| {
        Err(Problem::new(Code::FuseUnavailable, format!("{} cannot be used: {words}", device.display()), remedy))
    };
    match std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(device) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            unavailable("it does not exist", "modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN")
        }
        // fusermount3 is setuid root, and opens the device with the rights of its user all the same.
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => unavailable("only root may open it", "chmod 666 /dev/fuse"),
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            unavailable(&e.to_string(), "the container forbids the device: start it with --device /dev/fuse --cap-add SYS_ADMIN")
        }
        Err(e) => unavailable(&e.to_string(), "modprobe fuse, then: ls -l /dev/fuse"),
    }
}

/// Without CAP_SYS_ADMIN a mount needs the setuid program fusermount3.
pub fn check_fusermount(privileged: bool) -> Result<(), Problem> {
    if privileged || find_fusermount().is_some() {
        return Ok(());
    }
    Err(Problem::new(
        Code::FusermountNotFound,
        "fusermount3 is not in PATH, and without root a mount needs it",
        "sudo apt-get install fuse3",
    ))
}

/// What a user types to unmount and will not work here. fusermount3 keeps to /etc/mtab, which Debian makes by systemd-tmpfiles: a
/// container may be without.
pub fn mtab_warning(privileged: bool, mtab: &Path) -> Option<String> {
    if privileged || mtab.exists() {
        return None;
    }
    let mtab = mtab.display();
    Some(format!(
        "{mtab} is missing, so that fusermount3 -u does not work for users; relayfile unmount does. To mend it: \
         sudo ln -s /proc/self/mounts {mtab}"
    ))
}

/// `FUSERMOUNT_PATH` if set, else `fusermount3` or `fusermount` in `PATH`.
pub fn find_fusermount() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FUSERMOUNT_PATH") {
        return Some(PathBuf::from(path)).filter(|p| is_executable(p));
    }
    let path = std::env::var_os("PATH")?;
    let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    ["fusermount3", "fusermount"].iter().find_map(|name| dirs.iter().map(|d| d.join(name)).find(|p| is_executable(p)))
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// fusermount3 refuses `allow_other` to users unless fuse.conf allows it (mount.fuse3(8)).
pub fn check_allow_other(privileged: bool, fuse_conf: &Path) -> Result<(), Problem> {
    let allowed = || std::fs::read_to_string(fuse_conf).is_ok_and(|text| text.lines().any(|l| l.trim() == "user_allow_other"));
    if privileged || allowed() {
        return Ok(());
    }
    Err(Problem::new(
        Code::AllowOtherForbidden,
        format!("--allow-other is forbidden to users: {} has no line user_allow_other", fuse_conf.display()),
        format!("echo user_allow_other | sudo tee -a {}, or leave --allow-other out", fuse_conf.display()),
    ))
}

/// Whether this process may call mount(2) itself; the user id alone says nothing in a container.
pub fn has_cap_sys_admin() -> bool {
    const CAP_SYS_ADMIN: u64 = 21;
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
            u64::from_str_radix(hex.trim(), 16).ok()
        })
        .is_some_and(|caps| caps & (1 << CAP_SYS_ADMIN) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_says_what_to_load() {
        let problem = check_fuse(Path::new("/nonexistent/fuse")).unwrap_err();
        assert_eq!(problem.code, Code::FuseUnavailable);
        assert!(problem.remedy.contains("modprobe fuse"));
    }

    #[test]
    fn a_missing_mtab_is_said_to_users() {
        let dir = tempfile::tempdir().unwrap();
        let mtab = dir.path().join("mtab");
        assert!(mtab_warning(false, &mtab).unwrap().contains("ln -s /proc/self/mounts"));
        assert_eq!(mtab_warning(true, &mtab), None, "root calls umount(2)");
        std::os::unix::fs::symlink("/proc/self/mounts", &mtab).unwrap();
        assert_eq!(mtab_warning(false, &mtab), None);
    }

    #[test]
    fn allow_other_needs_the_line_in_fuse_conf() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("fuse.conf");
        assert_eq!(check_allow_other(false, &conf).unwrap_err().code, Code::AllowOtherForbidden);
        std::fs::write(&conf, "#user_allow_other\n").unwrap();
        assert!(check_allow_other(false, &conf).is_err());
        assert!(check_allow_other(true, &conf).is_ok());
        std::fs::write(&conf, "mount_max = 10\nuser_allow_other\n").unwrap();
        assert!(check_allow_other(false, &conf).is_ok());
    }
}
