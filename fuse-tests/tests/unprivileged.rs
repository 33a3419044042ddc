//! A mount that an ordinary user makes, by fusermount3: the same filesystem, with that user's rights.

use std::fs;
use std::path::Path;

use fuse_tests::{Mount, Options, Server, is_mounted, output, require, run, sys};

fn with_file() -> (Server, Mount) {
    require(&["fusermount3", "python3", "setfattr", "getfattr"]);
    let server = Server::start();
    server.put("/f", "content");
    let mount = Mount::with(&server, Options::unprivileged());
    (server, mount)
}

/// Runs a shell script in the mount as the user who mounted it; each of its commands must succeed.
fn sh(mount: &Mount, script: &str) -> String {
    let mut bash = mount.user_command(Path::new("bash"));
    run(bash.args(["-euo", "pipefail", "-c", script]).current_dir(mount.path()).env("LC_ALL", "C.UTF-8"))
}

fn python(mount: &Mount, script: &str) -> String {
    run(mount.user_command(Path::new("python3")).args(["-c", script]).current_dir(mount.path()))
}

#[test]
fn a_user_reads_edits_creates_moves_and_removes_and_the_remote_follows() {
    let (server, mount) = with_file();
    server.put("/gone", "x");
    fuse_tests::until("the new file is seen", || sh(&mount, "ls").contains("gone"));
    let own = sh(&mount, "stat -c %u f; id -u");
    assert_eq!(own.lines().next(), own.lines().last(), "what the remote has belongs to the user: {own}");
    assert_eq!(sh(&mount, "cat f"), "content");
    sh(&mount, "echo edited > f; mkdir -p a/b; echo new > a/b/n; rm gone; echo moved > m; mv m a/m");
    mount.wait_clean();
    assert_eq!(server.paths(), ["/a/b/n", "/a/m", "/f"]);
    assert_eq!((server.text("/f").as_str(), server.text("/a/m").as_str()), ("edited\n", "moved\n"));
}

#[test]
fn nobody_else_gets_in_not_even_root() {
    let (_server, mount) = with_file();
    assert_eq!(fs::read_dir(mount.path()).unwrap_err().raw_os_error(), Some(libc::EACCES));
}

#[test]
fn a_user_has_only_the_rights_of_a_user() {
    let (_server, mount) = with_file();
    let script = "
import errno, os
def attempt(what, act):
    try:
        act()
        print(what, 'done')
    except OSError as e:
        print(what, errno.errorcode[e.errno])
os.chmod('f', 0)
attempt('read', lambda: open('f').close())
attempt('write', lambda: open('f', 'r+').close())
os.chmod('f', 0o600)
attempt('chown', lambda: os.chown('f', 1, -1))
attempt('chgrp', lambda: os.chown('f', -1, 1))
attempt('device', lambda: os.mknod('d', 0o20600, os.makedev(1, 3)))
os.mkdir('closed', 0o500)
attempt('create', lambda: open('closed/x', 'x').close())
attempt('rmdir', lambda: os.rmdir('closed'))
attempt('relay', lambda: open('.relay/x', 'x').close())
attempt('trusted', lambda: os.setxattr('f', 'trusted.x', b'1'))
";
    let expected = "read EACCES\nwrite EACCES\nchown EPERM\nchgrp EPERM\ndevice EPERM\ncreate EACCES\nrmdir done\nrelay EACCES\n\
                    trusted EPERM\n";
    assert_eq!(python(&mount, script), expected);
}

#[test]
fn what_the_remote_cannot_hold_survives_a_remount() {
    let (_server, mut mount) = with_file();
    sh(
        &mount,
        "chmod 640 f; setfattr -n user.note -v kept f; ln f hard; ln -s f soft; mkfifo pipe; mkdir -m 2750 empty
         touch -d '2001-02-03 04:05:06.123456789 UTC' f",
    );
    let look = "stat -c '%n %F %a %h %Y' f hard soft pipe empty; stat -c %y f; getfattr --only-values -n user.note hard";
    // Of the link only what it is: its own time is that of its making.
    let before = sh(&mount, look);
    assert!(before.contains("hard regular file 640 2 981173106"), "{before}");
    assert!(before.contains("2001-02-03 04:05:06.123456789"), "{before}");
    mount.wait_clean();
    mount.remount();
    assert_eq!(sh(&mount, look), before);
}

#[test]
fn mappings_locks_holes_and_open_files_work() {
    let (server, mount) = with_file();
    let script = "
import fcntl, mmap, os, subprocess, sys
fd = os.open('mapped', os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 100000)
os.pwrite(fd, b'end', 99997)
print(os.lseek(fd, 0, os.SEEK_HOLE), 0 < os.lseek(fd, 0, os.SEEK_DATA) <= 99997)
m = mmap.mmap(fd, 0)
m[0:5] = b'HELLO'
print(os.pread(fd, 5, 0))
fcntl.lockf(fd, fcntl.LOCK_EX)
probe = 'import fcntl\\nwith open(\"mapped\", \"r+\") as f: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)'
print(subprocess.run([sys.executable, '-c', probe], stderr=subprocess.DEVNULL).returncode)
os.rename('mapped', 'renamed')
m[5:6] = b'!'
m.close()
os.close(fd)
fd = os.open('temporary', os.O_RDWR | os.O_CREAT)
os.unlink('temporary')
os.write(fd, b'still here')
print(os.pread(fd, 100, 0))
";
    assert_eq!(python(&mount, script), "0 True\nb'HELLO'\n1\nb'still here'\n");
    mount.wait_clean();
    assert_eq!(server.paths(), ["/f", "/renamed"]);
    let content = server.get("/renamed").unwrap().content;
    assert_eq!((content.len(), &content[..7], &content[99_997..]), (100_000, &b"HELLO!\0"[..], &b"end"[..]));
}

#[test]
fn git_sqlite_tar_rsync_and_editors_work() {
    require(&["git", "sqlite3", "tar", "rsync", "sed"]);
    let (server, mount) = with_file();
    let git = "git -c user.name=t -c user.email=t@example.org -c init.defaultBranch=main";
    let script = format!(
        "export HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1
         mkdir r; cd r; {git} init -q; for i in $(seq 20); do echo $i > f$i; done; {git} add -A; {git} commit -qm one; rm f3
         {git} commit -qam two; {git} gc -q; {git} fsck --strict 2>&1; {git} checkout -q HEAD~1; {git} status --porcelain; cd ..
         {git} clone -q r c; {git} -C c fsck --strict 2>&1
         for mode in delete wal; do
             sqlite3 $mode.db \"PRAGMA journal_mode=$mode; CREATE TABLE t(x); INSERT INTO t VALUES (1),(2); PRAGMA integrity_check\"
         done
         mkdir t; tar -C r --exclude=.git -cf - . | tar -C t -xf -; diff -r --exclude=.git r t
         rsync -a --exclude=.git r/ s; rsync -a --exclude=.git --itemize-changes r/ s
         sed -i s/content/edited/ f"
    );
    assert_eq!(sh(&mount, &script), "delete\nok\nwal\nok\n");
    mount.wait_clean();
    assert_eq!(server.text("/f"), "edited");
    assert_eq!(server.text("/s/f3"), "3\n");
    assert!(server.paths().iter().all(|p| !p.contains("/.git")), "{:?}", server.paths());
}

#[test]
fn a_device_for_root_only_is_said_with_its_remedy() {
    let server = Server::start();
    let mount = Mount::unstarted(&server, Options::unprivileged());
    sys::fuse_device_with_mode(&mount.home().join("dev"), 0o600).unwrap();
    let out = output(mount.command().arg("--foreground"));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success(), "{said}");
    assert!(said.contains("[FUSE_UNAVAILABLE]") && said.contains("chmod 666 /dev/fuse"), "{said}");
    assert!(!is_mounted(&mount.path()) && !mount.state_dir().exists(), "nothing is made");
}

#[test]
fn a_mount_is_taken_away_where_there_is_no_mtab() {
    require(&["fusermount3", "umount"]);
    let server = Server::start();
    let scratch = tempfile::tempdir().unwrap();
    sys::without_mtab(scratch.path()).unwrap();
    let mut mount = Mount::unstarted(&server, Options::unprivileged());
    mount.start_again();
    sh(&mount, "echo saved > f");
    assert_eq!((mount.unmount(), is_mounted(&mount.path())), (0, false));
    assert_eq!(server.text("/f"), "saved\n");
    assert!(mount.log().contains("/etc/mtab is missing"), "{}", mount.log());
}
