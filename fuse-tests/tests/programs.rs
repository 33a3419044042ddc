//! Ordinary programs work in the mount as on a local disk.

use std::fs;
use std::process::Command;

use fuse_tests::{Mount, Server, require, run, sh};

fn mounted() -> (Server, Mount) {
    let server = Server::start();
    let mount = Mount::start(&server);
    (server, mount)
}

/// Runs a Python script in the mount.
#[track_caller]
fn python(mount: &Mount, script: &str) -> String {
    require(&["python3"]);
    run(Command::new("python3").args(["-c", script]).current_dir(mount.path()))
}

#[test]
fn git_works_and_its_directory_never_reaches_the_remote() {
    require(&["git"]);
    let (server, mount) = mounted();
    let git = "git -c user.name=t -c user.email=t@example.org -c init.defaultBranch=main";
    sh(
        &mount.path(),
        &format!(
            "export HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1
             {git} init -q; echo /.relay/ >> .git/info/exclude
             for i in $(seq 30); do echo content $i > file$i; done
             {git} add -A && {git} commit -qm one
             echo changed >> file7 && rm file9 && {git} mv file8 moved
             {git} add -A && {git} commit -qm two
             {git} checkout -q -b side HEAD~1 && {git} checkout -q main
             {git} gc -q
             {git} fsck --strict 2>&1"
        ),
    );
    assert_eq!(sh(&mount.path(), &format!("{git} status --porcelain")), "", "the work tree is clean");
    mount.wait_clean();
    assert!(server.events().iter().all(|e| !e.path.contains("/.git")), ".git is nobody else's business");
    assert_eq!(server.text("/file7"), "content 7\nchanged\n");
    assert_eq!((server.get("/file9"), server.text("/moved")), (None, "content 8\n".to_owned()));
    assert_eq!(server.paths().len(), 29);
}

#[test]
fn git_add_of_everything_leaves_the_relay_directory_out() {
    // It changes all the time: in a repository it would make every work tree dirty for ever.
    require(&["git"]);
    let (_server, mount) = mounted();
    assert_eq!(sh(&mount.path(), "git init -q; echo one > f; git add -A; git ls-files"), "f\n");
}

#[test]
fn a_git_repository_survives_a_remount() {
    require(&["git"]);
    let (_server, mut mount) = mounted();
    let git = "git -c user.name=t -c user.email=t@example.org";
    sh(
        &mount.path(),
        &format!("{git} init -q; echo /.relay/ >> .git/info/exclude; echo one > f; {git} add f; {git} commit -qm one"),
    );
    mount.wait_clean();
    mount.remount();
    assert_eq!(sh(&mount.path(), "git status --porcelain; git fsck --strict 2>&1; git log --format=%s"), "one\n");
}

#[test]
fn a_clone_is_whole_and_its_commits_reach_the_repository_outside() {
    require(&["git"]);
    let (server, mount) = mounted();
    let outside = tempfile::tempdir().unwrap();
    let git = "git -c user.name=t -c user.email=t@example.org -c init.defaultBranch=main";
    let setup = "export HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1";
    let script = format!(
        "{setup}; {git} init -q work; cd work; mkdir -p d/e; for i in $(seq 60); do echo line $i > d/f$i; done; ln -s f1 d/link
         chmod 755 d/f2; head -c 300000 /dev/zero > d/e/zeros; {git} add -A; {git} commit -qm one; {git} clone -q --bare . ../bare.git"
    );
    sh(outside.path(), &script);
    let bare = outside.path().join("bare.git");
    let script = format!(
        "{setup}; {git} clone -q {} clone; cd clone; {git} fsck --strict 2>&1; {git} status --porcelain
         for i in $(seq 5); do echo more >> d/f$i; {git} commit -qam more$i; done
         {git} gc -q --aggressive --prune=now; {git} fsck --full --strict 2>&1; {git} push -q
         {git} checkout -q HEAD~3; {git} checkout -q main; {git} status --porcelain; {git} log --oneline | wc -l",
        bare.display()
    );
    assert_eq!(sh(&mount.path(), &script), "6\n");
    assert_eq!(sh(&bare, &format!("{setup}; git fsck --strict 2>&1; git log --format=%s -1")), "more5\n");
    mount.wait_clean();
    assert!(server.paths().iter().all(|p| p.starts_with("/clone/d/")), "{:?}", server.paths());
    // 60 files and the zeros; the link stays here.
    assert_eq!(server.paths().len(), 61);
    assert_eq!(server.text("/clone/d/f5"), "line 5\nmore\n");
}

#[test]
fn cargo_builds_runs_and_builds_again_only_what_has_changed() {
    require(&["cargo", "cc"]);
    let (server, mount) = mounted();
    let crate_files = r#"
        echo /target/ > .relayignore; mkdir -p src tests
        printf '[package]\nname = "small"\nversion = "0.1.0"\nedition = "2021"\n' > Cargo.toml
        echo 'pub fn answer() -> u32 { 42 }' > src/lib.rs
        echo 'fn main() { println!("{}", small::answer()); }' > src/main.rs
        printf '#[test]\nfn answers() { assert_eq!(small::answer(), 42); }\n' > tests/answers.rs
    "#;
    sh(&mount.path(), crate_files);
    let cargo = |what: &str| sh(&mount.path(), &format!("unset ${{!CARGO@}} RUSTFLAGS; cargo {what} --offline 2>&1"));
    assert!(cargo("build").contains("Compiling small"));
    assert_eq!(sh(&mount.path(), "target/debug/small"), "42\n");
    assert!(cargo("test").contains("1 passed"));
    assert!(!cargo("build").contains("Compiling"), "nothing has changed");
    sh(&mount.path(), "sed -i s/42/43/ src/lib.rs");
    assert!(cargo("build").contains("Compiling small"));
    assert_eq!(sh(&mount.path(), "target/debug/small"), "43\n");
    mount.wait_clean();
    assert_eq!(
        server.paths(),
        ["/.relayignore", "/Cargo.lock", "/Cargo.toml", "/src/lib.rs", "/src/main.rs", "/tests/answers.rs"]
    );
}

fn sqlite(mode: &str) {
    require(&["sqlite3"]);
    let (server, mut mount) = mounted();
    let sql = format!(
        "PRAGMA journal_mode={mode};
         CREATE TABLE t(id INTEGER PRIMARY KEY, body TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) INSERT INTO t SELECT i, hex(randomblob(50)) FROM n;
         BEGIN; DELETE FROM t WHERE id%2; ROLLBACK;
         BEGIN; DELETE FROM t WHERE id%5=0; COMMIT;"
    );
    run(Command::new("sqlite3").args(["app.db", &sql]).current_dir(mount.path()));
    // Two at once: the locks work.
    sh(
        &mount.path(),
        "for who in a b; do (for i in $(seq 10); do sqlite3 -cmd '.timeout 20000' app.db \"INSERT INTO t(body) VALUES('$who')\"; done) & done; wait",
    );
    let check = "PRAGMA integrity_check; SELECT count(*) FROM t";
    let look = |mount: &Mount| run(Command::new("sqlite3").args(["app.db", check]).current_dir(mount.path()));
    assert_eq!(look(&mount), "ok\n420\n");
    mount.wait_clean();
    mount.remount();
    assert_eq!(look(&mount), "ok\n420\n");
    mount.wait_clean();
    assert_eq!(server.paths(), ["/app.db"], "no side file");
    assert!(server.events().iter().all(|e| e.path == "/app.db"));
    assert_eq!(server.get("/app.db").unwrap().content, fs::read(mount.at("app.db")).unwrap());
}

#[test]
fn sqlite_with_a_rollback_journal() {
    sqlite("DELETE");
}

#[test]
fn sqlite_with_a_write_ahead_log() {
    sqlite("WAL");
}

#[test]
fn a_write_through_a_shared_mapping_reaches_the_remote() {
    let (server, mount) = mounted();
    fs::write(mount.at("mapped"), vec![b'.'; 10_000]).unwrap();
    mount.wait_clean();
    let script = "
import mmap
with open('mapped', 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0, mmap.MAP_SHARED)
    m[5000:5005] = b'HELLO'
    m.flush()
    m.close()
";
    python(&mount, script);
    let mut expected = vec![b'.'; 10_000];
    expected[5000..5005].copy_from_slice(b"HELLO");
    assert_eq!(fs::read(mount.at("mapped")).unwrap(), expected);
    mount.wait_clean();
    assert_eq!(server.get("/mapped").unwrap().content, expected);
}

#[test]
fn a_write_through_a_mapping_that_outlives_its_descriptor_reaches_the_remote() {
    let (server, mount) = mounted();
    fs::write(mount.at("mapped"), vec![b'.'; 10_000]).unwrap();
    mount.wait_clean();
    let script = "
import mmap, os
fd = os.open('mapped', os.O_RDWR)
m = mmap.mmap(fd, 0, mmap.MAP_SHARED)
os.close(fd)
m[0:5] = b'HELLO'
m.close()
";
    python(&mount, script);
    fuse_tests::until("the remote has it", || server.get("/mapped").unwrap().content.starts_with(b"HELLO...."));
}

#[test]
fn flock_and_record_locks_exclude_other_processes() {
    let (_server, mount) = mounted();
    let script = "
import fcntl, os, subprocess, sys
probe = '''
import fcntl, os, sys
fd = os.open('lock', os.O_RDWR)
try:
    getattr(fcntl, sys.argv[1])(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print('taken')
except BlockingIOError:
    print('held')
'''
fd = os.open('lock', os.O_RDWR | os.O_CREAT)
for kind in 'flock', 'lockf':
    ask = lambda: subprocess.check_output([sys.executable, '-c', probe, kind], text=True).strip()
    getattr(fcntl, kind)(fd, fcntl.LOCK_EX)
    print(kind, ask())
    getattr(fcntl, kind)(fd, fcntl.LOCK_UN)
    print(kind, ask())
";
    assert_eq!(python(&mount, script), "flock held\nflock taken\nlockf held\nlockf taken\n");
}

#[test]
fn fallocate_and_holes_are_as_on_disk_and_travel_as_zeros() {
    require(&["fallocate"]);
    let (server, mount) = mounted();
    let script = "
import os
fd = os.open('sparse', os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b'start', 0)
os.pwrite(fd, b'end', 100000)
hole = os.lseek(fd, 0, os.SEEK_HOLE)
data = os.lseek(fd, hole, os.SEEK_DATA)
print(hole < 100000, hole < data <= 100000, os.fstat(fd).st_size)
os.close(fd)
";
    assert_eq!(python(&mount, script), "True True 100003\n");
    sh(&mount.path(), "fallocate -l 5000 allocated; printf abc > punched; fallocate -o 1 -l 1 --punch-hole punched");
    assert_eq!(sh(&mount.path(), "stat -c %s allocated punched"), "5000\n3\n");
    mount.wait_clean();
    assert_eq!(server.get("/allocated").unwrap().content, vec![0; 5000]);
    assert_eq!(server.text("/punched"), "a\0c");
    let mut expected = vec![0; 100_003];
    expected[..5].copy_from_slice(b"start");
    expected[100_000..].copy_from_slice(b"end");
    assert_eq!(server.get("/sparse").unwrap().content, expected);
}

#[test]
fn a_file_that_is_removed_while_open_can_be_used_and_never_reaches_the_remote() {
    let (server, mount) = mounted();
    let script = "
import os
fd = os.open('temporary', os.O_RDWR | os.O_CREAT)
os.write(fd, b'before ')
os.unlink('temporary')
os.write(fd, b'after')
print(os.pread(fd, 100, 0).decode(), os.fstat(fd).st_nlink)
os.close(fd)
";
    assert_eq!(python(&mount, script), "before after 0\n");
    mount.wait_clean();
    assert_eq!(server.events(), []);
}
