//! Files that are open while their names change, and opens with unusual flags.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::Command;

use fuse_tests::{Mount, Server, sys};

fn with_file() -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "content");
    let mount = Mount::start(&server);
    (server, mount)
}

#[test]
fn what_is_written_after_a_rename_goes_to_the_new_name() {
    let (server, mount) = with_file();
    let mut file = OpenOptions::new().append(true).open(mount.at("f")).unwrap();
    file.write_all(b" before").unwrap();
    fs::rename(mount.at("f"), mount.at("g")).unwrap();
    file.write_all(b" after").unwrap();
    drop(file);
    assert_eq!(fs::read_to_string(mount.at("g")).unwrap(), "content before after");
    mount.wait_clean();
    assert_eq!((server.paths(), server.text("/g")), (vec!["/g".to_owned()], "content before after".to_owned()));
}

#[test]
fn a_file_that_is_renamed_over_while_open_keeps_its_content_for_its_handles() {
    let (server, mount) = with_file();
    let mut old = File::open(mount.at("f")).unwrap();
    fs::write(mount.at("new"), "replacement").unwrap();
    fs::rename(mount.at("new"), mount.at("f")).unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), old.metadata().unwrap().nlink()), ("content", 0));
    assert_eq!(fs::read_to_string(mount.at("f")).unwrap(), "replacement");
    mount.wait_clean();
    assert_eq!((server.paths(), server.text("/f")), (vec!["/f".to_owned()], "replacement".to_owned()));
}

#[test]
fn handles_follow_their_files_through_an_exchange() {
    let (server, mount) = with_file();
    fs::write(mount.at("g"), "other").unwrap();
    let mut f = OpenOptions::new().append(true).open(mount.at("f")).unwrap();
    sys::rename_with(&mount.at("f"), &mount.at("g"), libc::RENAME_EXCHANGE).unwrap();
    f.write_all(b" and more").unwrap();
    drop(f);
    mount.wait_clean();
    assert_eq!((server.text("/f").as_str(), server.text("/g").as_str()), ("other", "content and more"));
}

#[test]
fn an_unlinked_file_is_cut_written_and_read_by_its_handles() {
    let (server, mount) = with_file();
    let mut file = OpenOptions::new().read(true).write(true).open(mount.at("f")).unwrap();
    fs::remove_file(mount.at("f")).unwrap();
    file.set_len(3).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b"!").unwrap();
    file.sync_all().unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), file.metadata().unwrap().size()), ("con!", 4));
    drop(file);
    mount.wait_clean();
    assert!(server.paths().is_empty());
}

fn open_cutting(mount: &Mount, name: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_TRUNC).open(mount.at(name))
}

#[test]
fn opening_for_reading_with_o_trunc_cuts_the_file_as_linux_does() {
    let (server, mount) = with_file();
    let mut text = String::new();
    open_cutting(&mount, "f").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), fs::read_to_string(mount.at("f")).unwrap().as_str()), ("", ""));
    mount.wait_clean();
    assert_eq!(server.text("/f"), "");
}

#[test]
fn a_program_that_runs_is_not_cut() {
    let (_server, mount) = with_file();
    fs::copy("/bin/sleep", mount.at("program")).unwrap();
    let whole = fs::read(mount.at("program")).unwrap();
    let mut running = Command::new(mount.at("program")).arg("60").spawn().unwrap();
    let writing = || OpenOptions::new().write(true).open(mount.at("program"));
    for attempt in (0..20).flat_map(|_| [open_cutting(&mount, "program"), writing()]) {
        assert_eq!(attempt.unwrap_err().raw_os_error(), Some(libc::ETXTBSY));
    }
    assert!(running.try_wait().unwrap().is_none(), "the program still runs");
    assert_eq!(fs::read(mount.at("program")).unwrap(), whole);
    running.kill().unwrap();
    running.wait().unwrap();
    // The kernel tells the end of the program behind its back.
    fuse_tests::until("the file is free", || open_cutting(&mount, "program").is_ok());
}

#[test]
fn a_file_opened_exclusively_is_created_once() {
    let (_server, mount) = with_file();
    let create = |name: &str| OpenOptions::new().write(true).create_new(true).open(mount.at(name));
    assert_eq!(create("f").unwrap_err().raw_os_error(), Some(libc::EEXIST));
    std::os::unix::fs::symlink("nowhere", mount.at("dangling")).unwrap();
    assert_eq!(create("dangling").unwrap_err().raw_os_error(), Some(libc::EEXIST));
    let made = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| create("race").is_ok())).collect();
        racers.into_iter().map(|r| r.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(made, 1);
}
