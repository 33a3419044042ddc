//! What happens to a file while an upload of it is on its way.

use std::fs;

use fuse_tests::{Mount, Server, sh, until};
use serde_json::json;

/// A mount with `f`, of which an edit ("first") is on its way and will be served after a moment.
fn with_an_upload_on_its_way() -> (Server, Mount) {
    let server = Server::start();
    server.put("/f", "old");
    let mount = Mount::start(&server);
    server.fault(json!({ "method": "PUT", "times": 1, "delay_ms": 600 }));
    fs::write(mount.at("f"), "first").unwrap();
    until("the upload is on its way", || server.fault_hits() == 1);
    (server, mount)
}

fn contents(server: &Server) -> Vec<(String, String)> {
    server.paths().into_iter().map(|path| (path.clone(), server.text(&path))).collect()
}

/// The remote has exactly these files, and so has the mount, also after a remount.
#[track_caller]
fn assert_ends_with(server: &Server, mount: &mut Mount, expected: &[(&str, &str)]) {
    mount.wait_clean();
    let owned: Vec<_> = expected.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    assert_eq!(contents(server), owned);
    mount.remount();
    let listed = sh(&mount.path(), "find . -path ./.relay -prune -o -type f -printf '/%P\\n' | sort");
    assert_eq!(listed.lines().collect::<Vec<_>>(), expected.iter().map(|(path, _)| *path).collect::<Vec<_>>());
    for (path, text) in expected {
        assert_eq!(fs::read_to_string(mount.at(&path[1..])).unwrap(), *text);
    }
}

#[test]
fn removed_it_is_gone_in_the_end() {
    let (server, mut mount) = with_an_upload_on_its_way();
    fs::remove_file(mount.at("f")).unwrap();
    assert_ends_with(&server, &mut mount, &[]);
}

#[test]
fn removed_and_made_again_it_has_the_new_content() {
    let (server, mut mount) = with_an_upload_on_its_way();
    fs::remove_file(mount.at("f")).unwrap();
    fs::write(mount.at("f"), "second life").unwrap();
    assert_ends_with(&server, &mut mount, &[("/f", "second life")]);
}

#[test]
fn renamed_it_is_under_its_new_name_only() {
    let (server, mut mount) = with_an_upload_on_its_way();
    fs::rename(mount.at("f"), mount.at("g")).unwrap();
    assert_ends_with(&server, &mut mount, &[("/g", "first")]);
}

#[test]
fn renamed_and_back_it_is_where_it_was() {
    let (server, mut mount) = with_an_upload_on_its_way();
    sh(&mount.path(), "mv f g; mv g f");
    assert_ends_with(&server, &mut mount, &[("/f", "first")]);
}

#[test]
fn replaced_by_a_rename_it_has_the_content_of_the_other() {
    let (server, mut mount) = with_an_upload_on_its_way();
    sh(&mount.path(), "printf replaced > f.tmp; mv f.tmp f");
    assert_ends_with(&server, &mut mount, &[("/f", "replaced")]);
    assert_eq!(server.history("/f.tmp"), Vec::<String>::new());
}

#[test]
fn with_its_name_taken_by_another_after_a_rename_both_arrive() {
    let (server, mut mount) = with_an_upload_on_its_way();
    sh(&mount.path(), "mv f g; printf another > f");
    assert_ends_with(&server, &mut mount, &[("/f", "another"), ("/g", "first")]);
}

#[test]
fn edited_back_to_what_it_was_it_is_what_it_was() {
    let (server, mut mount) = with_an_upload_on_its_way();
    fs::write(mount.at("f"), "old").unwrap();
    assert_ends_with(&server, &mut mount, &[("/f", "old")]);
}

#[test]
fn its_directory_moved_it_is_below_the_new_one() {
    let server = Server::start();
    server.put("/d/f", "old");
    let mut mount = Mount::start(&server);
    server.fault(json!({ "method": "PUT", "times": 1, "delay_ms": 600 }));
    fs::write(mount.at("d/f"), "first").unwrap();
    until("the upload is on its way", || server.fault_hits() == 1);
    fs::rename(mount.at("d"), mount.at("e")).unwrap();
    assert_ends_with(&server, &mut mount, &[("/e/f", "first")]);
}

#[test]
fn renamed_before_a_crash_it_is_under_its_new_name_only() {
    let (server, mut mount) = with_an_upload_on_its_way();
    fs::rename(mount.at("f"), mount.at("g")).unwrap();
    mount.kill9();
    mount.start_again();
    assert_ends_with(&server, &mut mount, &[("/g", "first")]);
}

#[test]
fn removed_before_a_crash_it_is_gone_in_the_end() {
    let (server, mut mount) = with_an_upload_on_its_way();
    fs::remove_file(mount.at("f")).unwrap();
    mount.kill9();
    mount.start_again();
    assert_ends_with(&server, &mut mount, &[]);
}

#[test]
fn saved_again_before_a_crash_it_has_the_last_content() {
    let (server, mut mount) = with_an_upload_on_its_way();
    fs::write(mount.at("f"), "second").unwrap();
    mount.kill9();
    mount.start_again();
    assert_ends_with(&server, &mut mount, &[("/f", "second")]);
}
