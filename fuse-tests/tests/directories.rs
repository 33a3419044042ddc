//! Directories: made, listed, moved and removed; the remote, which has none, ends with exactly the files below them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use fuse_tests::{Mount, Server, sh, sys};

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// `dir/000` to `dir/NNN`, each with its name as content.
fn seed(server: &Server, dir: &str, count: usize) {
    server.seed((0..count).map(|n| (format!("{dir}/{n:04}"), format!("{dir}/{n:04}"))));
}

#[test]
fn a_file_in_nested_new_directories_reaches_the_remote() {
    let server = Server::start();
    let mount = Mount::start(&server);
    fs::create_dir_all(mount.at("a/b/c")).unwrap();
    fs::write(mount.at("a/b/c/f"), "deep").unwrap();
    mount.wait_clean();
    assert_eq!(server.paths(), ["/a/b/c/f"]);
}

#[test]
fn an_empty_directory_survives_a_remount_and_sends_nothing() {
    let server = Server::start();
    let mut mount = Mount::start(&server);
    fs::create_dir_all(mount.at("empty/inner")).unwrap();
    mount.remount();
    assert!(mount.at("empty/inner").is_dir());
    assert_eq!(server.events(), []);
}

#[test]
fn a_directory_survives_the_removal_of_its_last_file() {
    let server = Server::start();
    server.put("/d/f", "x");
    let mut mount = Mount::start(&server);
    fs::remove_file(mount.at("d/f")).unwrap();
    mount.wait_clean();
    assert!(mount.at("d").is_dir());
    mount.remount();
    assert!(mount.at("d").is_dir());
}

#[test]
fn rmdir_removes_an_empty_directory_and_refuses_a_full_one() {
    let server = Server::start();
    server.put("/full/f", "x");
    let mount = Mount::start(&server);
    fs::create_dir(mount.at("empty")).unwrap();
    fs::remove_dir(mount.at("empty")).unwrap();
    assert!(!mount.at("empty").exists());
    assert_eq!(fs::remove_dir(mount.at("full")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    assert_eq!(fs::create_dir(mount.at("full")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    assert_eq!(fs::remove_dir(mount.at("full/f")).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
}

#[test]
fn rm_rf_deletes_every_file_at_the_remote_and_nothing_else() {
    let server = Server::start();
    seed(&server, "/d/one", 40);
    seed(&server, "/d/two/three", 40);
    server.put("/dd", "keep");
    let mount = Mount::start(&server);
    sh(&mount.path(), "rm -rf d");
    assert!(!mount.at("d").exists());
    mount.wait_clean();
    assert_eq!(server.paths(), ["/dd"]);
}

#[test]
fn two_thousand_new_files_in_one_directory_are_all_listed_and_all_arrive() {
    let server = Server::start();
    let mount = Mount::start(&server);
    sh(&mount.path(), "mkdir many; cd many; for i in $(seq 2000); do echo $i > f$i; done");
    let expected: BTreeSet<String> = (1..=2000).map(|i| format!("f{i}")).collect();
    assert_eq!(names(&mount.at("many")), expected);
    mount.wait_clean();
    let remote: BTreeSet<String> = server.paths().into_iter().collect();
    assert_eq!(remote, expected.iter().map(|n| format!("/many/{n}")).collect());
    assert_eq!(server.text("/many/f1234"), "1234\n");
}

#[test]
fn a_remote_directory_of_more_than_two_pages_is_listed_whole() {
    let server = Server::start();
    seed(&server, "/big", 2500);
    let mount = Mount::start(&server);
    assert_eq!(names(&mount.at("big")), (0..2500).map(|n| format!("{n:04}")).collect());
    assert_eq!(sh(&mount.path(), "ls big | wc -l; ls -l big | tail -n +2 | wc -l"), "2500\n2500\n");
    assert_eq!(fs::read_to_string(mount.at("big/2499")).unwrap(), "/big/2499");
}

#[test]
fn a_moved_directory_of_files_that_were_never_read_arrives_whole() {
    let server = Server::start();
    seed(&server, "/old/sub", 100);
    let mount = Mount::start(&server);
    server.reset_counts();
    fs::rename(mount.at("old"), mount.at("new")).unwrap();
    assert!(!mount.at("old").exists());
    assert_eq!(fs::read_to_string(mount.at("new/sub/0042")).unwrap(), "/old/sub/0042");
    mount.wait_clean();
    assert_eq!(server.paths(), (0..100).map(|n| format!("/new/sub/{n:04}")).collect::<Vec<_>>());
    for n in 0..100 {
        assert_eq!(server.text(&format!("/new/sub/{n:04}")), format!("/old/sub/{n:04}"));
    }
}

#[test]
fn the_files_of_a_moved_directory_are_written_before_they_are_deleted() {
    let server = Server::start();
    seed(&server, "/old", 20);
    let mount = Mount::start(&server);
    fs::rename(mount.at("old"), mount.at("new")).unwrap();
    mount.wait_clean();
    let events = server.events();
    let position = |kind: &str, path: String| events.iter().position(|e| e.kind == kind && e.path == path).unwrap();
    for n in 0..20 {
        let (created, deleted) =
            (position("file.created", format!("/new/{n:04}")), position("file.deleted", format!("/old/{n:04}")));
        assert!(created < deleted, "{n}: there was a moment without the content: {events:#?}");
    }
}

#[test]
fn a_directory_moved_there_and_back_changes_nothing_at_the_remote() {
    let server = Server::start();
    seed(&server, "/d", 5);
    let mount = Mount::with(&server, fuse_tests::Options::settle_as_shipped());
    server.reset_counts();
    sh(&mount.path(), "mv d e; mv e d");
    mount.wait_clean();
    assert_eq!(server.writes(), 0, "{:?}", server.counts());
    assert_eq!(server.paths().len(), 5);
    assert_eq!(fs::read_to_string(mount.at("d/0003")).unwrap(), "/d/0003");
}

#[test]
fn a_moved_file_is_one_write_and_one_delete() {
    let server = Server::start();
    server.put("/a.txt", "content");
    let mount = Mount::start(&server);
    server.reset_counts();
    sh(&mount.path(), "mv a.txt b.txt");
    mount.wait_clean();
    assert_eq!(server.writes(), 2, "{:?}", server.counts());
    assert_eq!(server.paths(), ["/b.txt"]);
    assert_eq!(server.text("/b.txt"), "content");
}

#[test]
fn a_directory_replaces_an_empty_one_and_not_a_full_one() {
    let server = Server::start();
    server.seed([("/from/f", "1"), ("/full/g", "2")]);
    let mount = Mount::start(&server);
    fs::create_dir(mount.at("empty")).unwrap();
    let error = fs::rename(mount.at("from"), mount.at("full")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY));
    let error = fs::rename(mount.at("from"), mount.at("from/below")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    fs::rename(mount.at("from"), mount.at("empty")).unwrap();
    mount.wait_clean();
    assert_eq!(server.paths(), ["/empty/f", "/full/g"]);
}

#[test]
fn rename_noreplace_refuses_what_exists_and_moves_what_does_not() {
    let server = Server::start();
    server.seed([("/a", "1"), ("/b", "2")]);
    let mount = Mount::start(&server);
    let error = sys::rename_with(&mount.at("a"), &mount.at("b"), libc::RENAME_NOREPLACE).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    sys::rename_with(&mount.at("a"), &mount.at("c"), libc::RENAME_NOREPLACE).unwrap();
    mount.wait_clean();
    assert_eq!((server.paths(), server.text("/c")), (vec!["/b".to_owned(), "/c".to_owned()], "1".to_owned()));
}

#[test]
fn rename_exchange_swaps_two_files() {
    let server = Server::start();
    server.seed([("/a", "1"), ("/b", "2")]);
    let mount = Mount::start(&server);
    sys::rename_with(&mount.at("a"), &mount.at("b"), libc::RENAME_EXCHANGE).unwrap();
    let here = |name: &str| fs::read_to_string(mount.at(name)).unwrap();
    assert_eq!((here("a").as_str(), here("b").as_str()), ("2", "1"));
    mount.wait_clean();
    assert_eq!((server.text("/a").as_str(), server.text("/b").as_str()), ("2", "1"));
    assert!(server.events().iter().all(|e| e.kind != "file.deleted"), "a swap deletes nothing: {:?}", server.events());
}

#[test]
fn rename_exchange_swaps_two_directories() {
    let server = Server::start();
    server.seed([("/a/only-a", "1"), ("/b/only-b", "2")]);
    let mount = Mount::start(&server);
    sys::rename_with(&mount.at("a"), &mount.at("b"), libc::RENAME_EXCHANGE).unwrap();
    mount.wait_clean();
    assert_eq!(server.paths(), ["/a/only-b", "/b/only-a"]);
}
