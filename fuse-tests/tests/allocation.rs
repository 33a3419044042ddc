//! Holes, preallocation and the room that is left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use fuse_tests::{Mount, Server, output, require, run, sh};

fn mounted() -> (Server, Mount) {
    require(&["fallocate", "python3"]);
    let server = Server::start();
    let mount = Mount::start(&server);
    (server, mount)
}

#[test]
fn preallocation_beyond_the_end_keeps_size_and_content() {
    let (server, mount) = mounted();
    sh(&mount.path(), "printf abc > f; fallocate --keep-size -o 0 -l 100000 f");
    assert_eq!(fs::metadata(mount.at("f")).unwrap().size(), 3);
    mount.wait_clean();
    assert_eq!(server.text("/f"), "abc");
}

#[test]
fn a_zeroed_range_is_zero_here_and_at_the_remote_and_extends_the_file() {
    let (server, mount) = mounted();
    sh(&mount.path(), "printf abcdef > f; fallocate --zero-range -o 4 -l 6 f");
    assert_eq!(fs::read(mount.at("f")).unwrap(), b"abcd\0\0\0\0\0\0");
    mount.wait_clean();
    assert_eq!(server.get("/f").unwrap().content, b"abcd\0\0\0\0\0\0");
}

#[test]
fn a_mode_that_the_kernel_does_not_pass_on_is_refused_and_changes_nothing() {
    let (server, mount) = mounted();
    fs::write(mount.at("f"), vec![b'x'; 16_384]).unwrap();
    for mode in ["--collapse-range", "--insert-range"] {
        let out = output(Command::new("fallocate").args([mode, "-o", "4096", "-l", "4096", "f"]).current_dir(mount.path()));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("not supported"), "{mode}: {said}");
    }
    mount.wait_clean();
    assert_eq!(server.get("/f").unwrap().content, vec![b'x'; 16_384]);
}

#[test]
fn holes_are_found_after_a_remount_and_travel_as_zeros() {
    let (server, mut mount) = mounted();
    sh(&mount.path(), "truncate -s 300000 f; printf middle | dd of=f bs=1 seek=131072 conv=notrunc status=none");
    mount.wait_clean();
    mount.remount();
    let script = "
import os
fd = os.open('f', os.O_RDONLY)
data = os.lseek(fd, 0, os.SEEK_DATA)
hole = os.lseek(fd, data, os.SEEK_HOLE)
print(data, hole <= 139264, os.lseek(fd, 299999, os.SEEK_HOLE))
try:
    os.lseek(fd, 300000, os.SEEK_DATA)
except OSError as e:
    print(e.errno)
";
    let said = run(Command::new("python3").args(["-c", script]).current_dir(mount.path()));
    assert_eq!(said, format!("131072 True 299999\n{}\n", libc::ENXIO));
    let content = server.get("/f").unwrap().content;
    assert_eq!((content.len(), &content[131_072..131_078]), (300_000, &b"middle"[..]));
    assert_eq!(content.iter().filter(|b| **b != 0).count(), 6);
}

#[test]
fn statfs_shows_the_room_of_the_state_directory() {
    let (_server, mount) = mounted();
    let numbers = |dir: &std::path::Path| sh(dir, "stat -f -c '%S %b %c' .");
    assert_eq!(numbers(&mount.path()), numbers(mount.state_dir()), "block size, blocks and inodes");
}
