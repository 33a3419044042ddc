//! What the remote cannot hold, modes, owners, times, links, extended attributes, is kept here and survives a remount.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use fuse_tests::{Mount, Server, sh, sys};

fn with_file() -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "content");
    let mount = Mount::start(&server);
    (server, mount)
}

#[test]
fn a_mode_survives_an_upload_and_a_remount() {
    let (_server, mut mount) = with_file();
    fs::set_permissions(mount.at("f"), fs::Permissions::from_mode(0o4751)).unwrap();
    assert_eq!(fs::metadata(mount.at("f")).unwrap().mode(), 0o104751);
    fs::set_permissions(mount.at("f"), fs::Permissions::from_mode(0o750)).unwrap();
    sh(&mount.path(), "echo more >> f");
    mount.wait_clean();
    mount.remount();
    assert_eq!(fs::metadata(mount.at("f")).unwrap().mode(), 0o100750);
    assert_eq!(sh(&mount.path(), "printf '#!/bin/sh\\necho ran\\n' > s; chmod +x s; ./s"), "ran\n");
}

#[test]
fn an_owner_survives_a_remount() {
    let (_server, mut mount) = with_file();
    sys::chown(&mount.at("f"), 1234, 5678).unwrap();
    mount.remount();
    let m = fs::metadata(mount.at("f")).unwrap();
    assert_eq!((m.uid(), m.gid()), (1234, 5678));
}

#[test]
fn the_mode_of_a_new_file_follows_the_umask() {
    let (_server, mount) = with_file();
    sh(&mount.path(), "umask 027; touch g; mkdir d");
    assert_eq!(sh(&mount.path(), "stat -c %a g d"), "640\n750\n");
}

#[test]
fn times_keep_their_nanoseconds_through_a_remount() {
    let (_server, mut mount) = with_file();
    sh(&mount.path(), "touch -d '2001-02-03 04:05:06.123456789 UTC' f");
    mount.remount();
    let m = fs::metadata(mount.at("f")).unwrap();
    assert_eq!((m.mtime(), m.mtime_nsec()), (981_173_106, 123_456_789));
    assert_eq!((m.atime(), m.atime_nsec()), (981_173_106, 123_456_789));
}

#[test]
fn the_time_of_a_save_is_not_moved_by_its_upload() {
    let (server, mount) = with_file();
    fs::write(mount.at("f"), "edited").unwrap();
    let saved = fs::metadata(mount.at("f")).unwrap();
    mount.wait_clean();
    // A change by somebody else arrives only after everything of ours has come back as an event.
    server.put("/marker", "x");
    fuse_tests::until("the marker is seen", || mount.at("marker").exists());
    let uploaded = fs::metadata(mount.at("f")).unwrap();
    assert_eq!((uploaded.mtime(), uploaded.mtime_nsec()), (saved.mtime(), saved.mtime_nsec()));
    assert_eq!(uploaded.ino(), saved.ino());
}

#[test]
fn a_time_set_before_the_upload_is_kept_after_it() {
    let (_server, mount) = with_file();
    sh(&mount.path(), "echo edited > f; touch -d '2001-02-03 04:05:06.5 UTC' f");
    mount.wait_clean();
    let m = fs::metadata(mount.at("f")).unwrap();
    assert_eq!((m.mtime(), m.mtime_nsec()), (981_173_106, 500_000_000));
}

#[test]
fn a_save_moves_the_time_forward() {
    let (_server, mount) = with_file();
    sh(&mount.path(), "touch -d 2001-02-03 f");
    let before = SystemTime::now() - Duration::from_secs(2);
    fs::write(mount.at("f"), "edited").unwrap();
    assert!(fs::metadata(mount.at("f")).unwrap().modified().unwrap() >= before);
}

#[test]
fn a_symbolic_link_survives_a_remount_and_is_not_uploaded() {
    let (server, mut mount) = with_file();
    symlink("f", mount.at("link")).unwrap();
    symlink("/nowhere/at all", mount.at("dangling")).unwrap();
    mount.remount();
    assert_eq!(fs::read_link(mount.at("link")).unwrap().to_str(), Some("f"));
    assert_eq!(fs::read_link(mount.at("dangling")).unwrap().to_str(), Some("/nowhere/at all"));
    assert_eq!(fs::read_to_string(mount.at("link")).unwrap(), "content");
    assert_eq!(server.paths(), ["/f"]);
}

#[test]
fn an_edit_through_a_symbolic_link_reaches_the_file_at_the_remote() {
    let (server, mount) = with_file();
    symlink("f", mount.at("link")).unwrap();
    fs::write(mount.at("link"), "edited").unwrap();
    mount.wait_clean();
    assert_eq!((server.paths(), server.text("/f")), (vec!["/f".to_owned()], "edited".to_owned()));
}

#[test]
fn a_hard_link_is_one_file_with_two_names_also_after_a_remount() {
    let (server, mut mount) = with_file();
    fs::hard_link(mount.at("f"), mount.at("g")).unwrap();
    mount.wait_clean();
    mount.remount();
    let (f, g) = (fs::metadata(mount.at("f")).unwrap(), fs::metadata(mount.at("g")).unwrap());
    assert_eq!((f.ino(), f.nlink()), (g.ino(), 2));
    fs::write(mount.at("g"), "edited").unwrap();
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "edited");
    mount.wait_clean();
    assert_eq!((server.text("/f").as_str(), server.text("/g").as_str()), ("edited", "edited"));
    fs::remove_file(mount.at("f")).unwrap();
    mount.wait_clean();
    assert_eq!(server.paths(), ["/g"]);
    assert_eq!(fs::metadata(mount.at("g")).unwrap().nlink(), 1);
}

#[test]
fn extended_attributes_survive_a_save_and_a_remount() {
    let (_server, mut mount) = with_file();
    sys::set_xattr(&mount.at("f"), c"user.note", b"kept\0whole").unwrap();
    sh(&mount.path(), "echo edited > f");
    mount.wait_clean();
    mount.remount();
    assert_eq!(sys::get_xattr(&mount.at("f"), c"user.note").unwrap(), b"kept\0whole");
    let error = sys::get_xattr(&mount.at("f"), c"user.other").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODATA));
}

#[test]
fn a_fifo_carries_data_and_survives_a_remount() {
    let (server, mut mount) = with_file();
    sys::make_fifo(&mount.at("pipe")).unwrap();
    assert_eq!(sh(&mount.path(), "echo through > pipe & cat pipe; wait"), "through\n");
    mount.remount();
    assert!(fs::metadata(mount.at("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(server.paths(), ["/f"]);
}

#[test]
fn inode_numbers_survive_a_remount() {
    let (_server, mut mount) = with_file();
    let before = fs::metadata(mount.at("f")).unwrap().ino();
    mount.remount();
    assert_eq!(fs::metadata(mount.at("f")).unwrap().ino(), before);
}

#[test]
fn statfs_shows_room() {
    let (_server, mount) = with_file();
    let line = sh(&mount.path(), "stat -f -c '%S %b %f %l' .");
    let numbers: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert!(numbers[0] >= 512 && numbers[1] > 0 && numbers[2] > 0, "block size, blocks, free blocks: {line}");
    assert_eq!(numbers[3], 255, "longest name");
}
