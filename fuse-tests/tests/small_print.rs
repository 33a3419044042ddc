//! Sentences of docs/SEMANTICS.md that no other file tests. `semantics.rs` has them all.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use fuse_tests::{Mount, Options, Server, output, require, run, sh, sys, until};
use serde_json::json;

fn with_file() -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "content");
    let mount = Mount::start(&server);
    server.reset_counts();
    (server, mount)
}

#[test]
fn opening_with_o_trunc_fetches_nothing() {
    let (server, mount) = with_file();
    fs::write(mount.at("f"), "new").unwrap();
    mount.wait_clean();
    assert_eq!(server.text("/f"), "new");
    let routes: Vec<_> = server.counts().into_keys().filter(|r| r == "GET /fs/file").collect();
    // One is this test's own.
    assert_eq!(server.counts()["GET /fs/file"], 1, "{routes:?}");
}

#[test]
fn what_the_remote_says_while_reading_becomes_an_errno() {
    let cases = [
        (403, libc::EACCES),
        (404, libc::ENOENT),
        (409, libc::ESTALE),
        (412, libc::ESTALE),
        (413, libc::EFBIG),
        (429, libc::EIO),
        (500, libc::EIO),
        (503, libc::EIO),
        (507, libc::ENOSPC),
    ];
    let server = Server::start();
    for (status, _) in cases {
        server.put(&format!("/s{status}"), "content");
        let file = format!("/s{status}");
        server.fault(json!({ "method": "GET", "path_prefix": "/fs/file", "file_path": file, "status": status }));
    }
    server.put("/f", "content");
    let mount = Mount::start(&server);
    for (status, errno) in cases {
        let answer = fs::read(mount.at(&format!("s{status}")));
        assert_eq!(answer.map_err(|e| e.raw_os_error()), Err(Some(errno)), "{status}");
    }
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "content", "others are not disturbed");
}

#[test]
fn a_refused_token_while_reading_is_eacces() {
    let (server, mount) = with_file();
    server.fault(json!({ "method": "GET", "path_prefix": "/fs/file", "status": 401 }));
    assert_eq!(fs::read(mount.at("f")).unwrap_err().raw_os_error(), Some(libc::EACCES));
}

#[test]
fn a_writer_that_never_closes_is_taken_after_a_quiet_while() {
    let (server, mount) = with_file();
    let mut file = File::options().append(true).open(mount.at("f")).unwrap();
    file.write_all(b" and more").unwrap();
    until("what was written has arrived", || server.text("/f") == "content and more");
    drop(file);
}

#[test]
fn a_truncation_under_an_open_writer_is_not_uploaded_by_itself() {
    let (server, mount) = with_file();
    let mut file = File::options().write(true).truncate(true).open(mount.at("f")).unwrap();
    // A writer is taken when it was quiet for a while; one that has done the same and written more shows when that is over.
    let mut other = File::create(mount.at("other")).unwrap();
    other.write_all(b"written").unwrap();
    until("the other writer was taken", || server.get("/other").is_some_and(|f| f.text() == "written"));
    assert_eq!(server.text("/f"), "content");
    file.write_all(b"new").unwrap();
    drop(file);
    mount.wait_clean();
    assert_eq!(server.history("/f"), ["file.created", "file.updated"]);
    assert_eq!(server.text("/f"), "new");
}

#[test]
fn rename_whiteout_is_einval() {
    let (_server, mount) = with_file();
    let answer = sys::rename_with(&mount.at("f"), &mount.at("g"), libc::RENAME_WHITEOUT);
    assert_eq!(answer.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert!(mount.at("f").exists() && !mount.at("g").exists());
}

#[test]
fn what_the_remote_cannot_hold_is_recorded_before_the_call_returns_and_nothing_is_sent() {
    require(&["setfattr", "getfattr"]);
    let (server, mut mount) = with_file();
    fs::create_dir(mount.at("dir")).unwrap();
    fs::create_dir(mount.at("gone")).unwrap();
    fs::remove_dir(mount.at("gone")).unwrap();
    symlink("f", mount.at("soft")).unwrap();
    sys::make_fifo(&mount.at("fifo")).unwrap();
    fs::set_permissions(mount.at("f"), fs::Permissions::from_mode(0o640)).unwrap();
    sys::chown(&mount.at("f"), 12, 34).unwrap();
    sh(&mount.path(), "touch -d '2001-02-03 04:05:06.123456789 UTC' f");
    sys::set_xattr(&mount.at("f"), c"user.note", b"kept").unwrap();
    // No flush, no pause, no orderly end: what has returned is there.
    mount.kill9();
    mount.detach();
    mount.start_again();
    let look = "stat -c '%F %a %u %g %y' f; stat -c %F dir fifo; readlink soft; getfattr --only-values -n user.note f; ls";
    let expected = "regular file 640 12 34 2001-02-03 04:05:06.123456789 +0000\ndirectory\nfifo\nf\nkeptdir\nf\nfifo\nsoft\n";
    assert_eq!(sh(&mount.path(), &format!("export TZ=UTC; {look}")), expected);
    mount.wait_clean();
    assert_eq!(server.writes(), 0, "{:?}", server.counts());
}

#[test]
fn a_new_hard_link_of_a_file_uploads_under_its_name() {
    let (server, mount) = with_file();
    fs::hard_link(mount.at("f"), mount.at("g")).unwrap();
    mount.wait_clean();
    assert_eq!((server.text("/f").as_str(), server.text("/g").as_str()), ("content", "content"));
    assert_eq!(server.writes(), 1, "{:?}", server.counts());
}

#[test]
fn reading_does_not_move_the_access_time_and_holes_count_as_blocks() {
    let (_server, mount) = with_file();
    sh(&mount.path(), "touch -a -d '2001-02-03 04:05:06.5 UTC' f; cat f > /dev/null");
    let m = fs::metadata(mount.at("f")).unwrap();
    assert_eq!((m.atime(), m.atime_nsec()), (981_173_106, 500_000_000));
    File::create(mount.at("hole")).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(fs::metadata(mount.at("hole")).unwrap().blocks(), (1 << 20) / 512);
}

#[test]
fn a_file_has_more_names_than_any_disk_would_allow() {
    let server = Server::start();
    // ext4 ends at 65 000; that many would only be slow here.
    let mount = Mount::with(&server, Options::never_settle());
    fs::create_dir(mount.at("l~")).unwrap();
    fs::write(mount.at("l~/f"), "one file").unwrap();
    for n in 0..2000 {
        fs::hard_link(mount.at("l~/f"), mount.at(&format!("l~/{n}"))).unwrap();
    }
    assert_eq!(fs::metadata(mount.at("l~/1999")).unwrap().nlink(), 2001);
    require(&["getconf"]);
    assert_eq!(sh(&mount.path(), "getconf LINK_MAX ."), "127\n", "what the C library says of a filesystem that it does not know");
}

#[test]
fn one_pass_over_a_directory_shows_what_stays_once() {
    let server = Server::start();
    let mount = Mount::with(&server, Options::never_settle());
    let names: BTreeSet<String> = (0..3000).map(|n| format!("a file with a long enough name {n:05}")).collect();
    for name in &names {
        fs::write(mount.at(name), "").unwrap();
    }
    let mut pass = fs::read_dir(mount.path()).unwrap();
    let name = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut seen: BTreeSet<String> = pass.by_ref().take(10).map(name).collect();
    let gone: Vec<_> = names.iter().step_by(2).collect();
    for name in &gone {
        fs::remove_file(mount.at(name)).unwrap();
    }
    fs::write(mount.at("a new file"), "").unwrap();
    let mut count = seen.len();
    for entry in pass {
        seen.insert(name(entry));
        count += 1;
    }
    assert_eq!(count, seen.len(), "no name twice");
    let missed: Vec<_> = names.iter().filter(|n| !gone.contains(n) && !seen.contains(*n)).collect();
    assert!(missed.is_empty(), "what stays is shown: {missed:?}");
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), names.len() - gone.len() + 2, "the next pass sees what there is");
}

#[test]
fn our_own_attributes_can_be_read_are_not_listed_and_cannot_be_set() {
    require(&["getfattr"]);
    let (_server, mount) = with_file();
    // The listing does not tell the type; the file does.
    fs::read(mount.at("f")).unwrap();
    for name in [c"user.relayfile.state", c"user.relayfile.revision", c"user.relayfile.content_type", c"user.relayfile.provider"]
    {
        assert!(sys::get_xattr(&mount.at("f"), name).is_ok(), "{name:?}");
    }
    assert_eq!(sys::get_xattr(&mount.at("f"), c"user.relayfile.state").unwrap(), b"synced");
    assert_eq!(sh(&mount.path(), "getfattr -m - f"), "");
    assert!(sys::set_xattr(&mount.at("f"), c"user.relayfile.state", b"x").is_err());
    let other = sys::set_xattr(&mount.at("f"), c"trusted.x", b"x").unwrap_err();
    assert_eq!(other.raw_os_error(), Some(libc::EOPNOTSUPP));
}

#[test]
fn a_copy_within_the_mount_is_made_by_copy_file_range() {
    let (server, mount) = with_file();
    let (mut from, mut to) = (File::open(mount.at("f")).unwrap(), File::create(mount.at("copy")).unwrap());
    // std copies between files by copy_file_range(2).
    assert_eq!(std::io::copy(&mut from, &mut to).unwrap(), 7);
    from.seek(SeekFrom::Start(0)).unwrap();
    assert_eq!(std::io::copy(&mut from, &mut to).unwrap(), 7);
    drop(to);
    mount.wait_clean();
    assert_eq!(server.text("/copy"), "contentcontent");
}

#[test]
fn an_inode_number_is_never_given_to_another_file() {
    let server = Server::start();
    let mut mount = Mount::with(&server, Options::never_settle());
    let mut seen = BTreeSet::new();
    for round in 0..3 {
        for n in 0..20 {
            let path = mount.at(&format!("l{n}~"));
            fs::write(&path, "x").unwrap();
            let number = fs::metadata(&path).unwrap().ino();
            assert!(seen.insert(number), "{number} was another file's");
            fs::remove_file(&path).unwrap();
        }
        if round < 2 {
            mount.remount();
        }
    }
}

#[test]
fn a_name_that_is_not_utf_8_stays_here_and_survives_a_remount() {
    let (server, mut mount) = with_file();
    let name = OsStr::from_bytes(b"not \xff utf-8");
    fs::write(mount.path().join(name), "local").unwrap();
    fs::write(mount.at("after"), "x").unwrap();
    until("a later save has arrived", || server.get("/after").is_some());
    mount.wait_clean();
    mount.remount();
    assert_eq!(fs::read_to_string(mount.path().join(name)).unwrap(), "local");
    assert_eq!(server.paths(), ["/after", "/f"]);
}

#[test]
fn rules_below_the_root_and_rules_of_over_64_kib_do_not_count() {
    let (server, mount) = with_file();
    fs::create_dir(mount.at("d")).unwrap();
    fs::write(mount.at("d/.relayignore"), "*\n").unwrap();
    fs::write(mount.at("d/x"), "x").unwrap();
    fs::write(mount.at(".relayignore"), "*.held\n").unwrap();
    let too_long = format!("*.txt\n{}", "#".repeat(64 * 1024));
    fs::write(mount.at(".relayignore"), &too_long).unwrap();
    fs::write(mount.at("a.txt"), "x").unwrap();
    fs::write(mount.at("a.held"), "x").unwrap();
    mount.wait_clean();
    assert_eq!(server.paths(), ["/.relayignore", "/a.txt", "/d/.relayignore", "/d/x", "/f"]);
}

#[test]
fn a_text_too_long_to_merge_is_a_conflict() {
    let server = Server::start();
    let long = |change: &str, at: usize| -> String {
        (0..3200).map(|n| if n == at { format!("{change}\n") } else { format!("line {n}\n") }).collect()
    };
    server.put("/f", long("", 9999));
    let mount = Mount::with(&server, Options::never_settle());
    fs::read(mount.at("f")).unwrap();
    fs::write(mount.at("f"), long("mine", 5)).unwrap();
    server.put("/f", long("theirs", 3000));
    output(&mut mount.writeback(&["flush"]));
    until("the conflict is a letter", || mount.number("deadLettered") == 1);
    until("the remote's version has the path", || fs::read_to_string(mount.at("f")).is_ok_and(|text| text.contains("theirs")));
    assert_eq!(mount.letter().payload().unwrap(), long("mine", 5).into_bytes());
}

#[test]
fn a_file_below_a_mount_cannot_be_a_device_or_gain_rights() {
    let (_server, mount) = with_file();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = mount.path();
    let line = mounts.lines().find(|l| l.split(' ').nth(4) == path.to_str()).unwrap();
    assert!(line.contains("nosuid") && line.contains("nodev") && line.contains("noatime"), "{line}");
    run(Command::new("test").arg("-e").arg(mount.at("f")));
}
