//! Set-user-ID, set-group-ID and sticky bits, and who loses them.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fuse_tests::{Mount, Server, sh, sys};

fn mounted() -> (Server, Mount) {
    let server = Server::start();
    let mount = Mount::start(&server);
    (server, mount)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A file of each kind that is not a directory, by mknod(2).
fn special_files(mount: &Mount) -> Vec<PathBuf> {
    let kinds = [(libc::S_IFREG, "regular"), (libc::S_IFIFO, "fifo"), (libc::S_IFSOCK, "socket"), (libc::S_IFCHR, "device")];
    let make = |(kind, name): (u32, &str)| {
        let path = mount.at(name);
        let c_path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the string ends with NUL and outlives the call.
        assert_eq!(unsafe { libc::mknod(c_path.as_ptr(), kind | 0o644, libc::makedev(1, 3)) }, 0, "{name}");
        path
    };
    kinds.into_iter().map(make).collect()
}

#[test]
fn a_new_owner_takes_the_set_ids_of_everything_but_directories() {
    let (_server, mount) = mounted();
    for path in special_files(&mount) {
        set_mode(&path, 0o6755);
        sys::chown(&path, 65_534, 65_534).unwrap();
        assert_eq!(mode(&path), 0o755, "{}", path.display());
    }
    fs::create_dir(mount.at("d")).unwrap();
    set_mode(&mount.at("d"), 0o6755);
    sys::chown(&mount.at("d"), 65_534, 65_534).unwrap();
    assert_eq!(mode(&mount.at("d")), 0o6755);
}

#[test]
fn special_files_keep_kind_mode_and_number_through_a_remount() {
    let (server, mut mount) = mounted();
    let paths = special_files(&mount);
    for path in &paths {
        set_mode(path, 0o1604);
    }
    let look = |paths: &[PathBuf]| -> Vec<_> {
        paths.iter().map(|p| fs::symlink_metadata(p).map(|m| (m.mode(), m.rdev(), m.ino())).unwrap()).collect()
    };
    let before = look(&paths);
    mount.remount();
    assert_eq!(look(&paths), before);
    assert_eq!(server.paths(), ["/regular"], "only the regular file is uploaded");
}

#[test]
fn a_set_group_id_directory_gives_its_group_also_after_a_remount() {
    let (_server, mut mount) = mounted();
    fs::create_dir(mount.at("d")).unwrap();
    sys::chown(&mount.at("d"), 0, 4321).unwrap();
    set_mode(&mount.at("d"), 0o2775);
    mount.remount();
    sh(&mount.path(), "umask 022; touch d/f; mkdir d/sub; ln -s f d/link; mkfifo d/pipe");
    let group = |name: &str| fs::symlink_metadata(mount.at(name)).unwrap().gid();
    assert_eq!(["d/f", "d/sub", "d/link", "d/pipe"].map(group), [4321; 4]);
    assert_eq!((mode(&mount.at("d/sub")), mode(&mount.at("d/f"))), (0o2755, 0o644));
}

#[test]
fn a_write_and_a_truncation_take_the_set_user_id_bit() {
    let (_server, mount) = mounted();
    let file = mount.at("f");
    for change in ["echo more >> f", ": > f"] {
        sh(&mount.path(), "echo x > f; chmod 4755 f");
        assert_eq!(mode(&file), 0o4755);
        sh(&mount.path(), change);
        assert_eq!(mode(&file), 0o755, "{change}");
    }
}

#[test]
fn in_a_sticky_directory_only_the_owner_removes_and_renames() {
    let server = Server::start();
    let mount = Mount::with(&server, fuse_tests::Options::default().flag("--allow-other"));
    fs::set_permissions(mount.home(), fs::Permissions::from_mode(0o755)).unwrap();
    sh(&mount.path(), "mkdir -m 1777 d; touch d/mine; chmod 666 d/mine");
    let as_nobody = |script: &str| {
        let script = format!("cd {} && {script}", mount.at("d").display());
        fuse_tests::output(
            std::process::Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .args(["bash", "-c", &script]),
        )
        .status
        .success()
    };
    assert!(!as_nobody("rm -f mine"));
    assert!(!as_nobody("mv mine taken"));
    assert!(as_nobody("echo edited > mine && touch theirs && mv theirs other && rm other"));
    assert_eq!(fs::read_to_string(mount.at("d/mine")).unwrap(), "edited\n");
    mount.wait_clean();
    assert_eq!(server.paths(), ["/d/mine"]);
}
