//! Names are bytes: similar, long and unusual ones stay themselves on both sides.

use std::fs;

use fuse_tests::{Mount, Server};

#[test]
fn removing_one_of_two_files_that_differ_in_their_extension_keeps_the_other() {
    let server = Server::start();
    server.seed([("/main.c", "c"), ("/main.h", "h")]);
    let mount = Mount::start(&server);
    fs::remove_file(mount.at("main.h")).unwrap();
    mount.wait_clean();
    assert_eq!(server.paths(), ["/main.c"]);
    assert_eq!(fs::read_to_string(mount.at("main.c")).unwrap(), "c");
    assert!(!mount.at("main.h").exists());
}

#[test]
fn names_that_differ_in_case_or_in_their_beginning_are_different_files() {
    let names = ["a", "A", "a.", "a.b", "a.b.c", "ab", "a-b", "a b", " a", "a ", "ä", "a\u{308}"];
    let server = Server::start();
    let mount = Mount::start(&server);
    for name in names {
        fs::write(mount.at(name), name).unwrap();
    }
    mount.wait_clean();
    for name in names {
        assert_eq!(server.text(&format!("/{name}")), name);
        assert_eq!(fs::read_to_string(mount.at(name)).unwrap(), name);
    }
    assert_eq!(fs::read_dir(mount.path()).unwrap().count() - usize::from(lists_relay(&mount)), names.len());
}

fn lists_relay(mount: &Mount) -> bool {
    fs::read_dir(mount.path()).unwrap().any(|e| e.unwrap().file_name() == ".relay")
}

const UNUSUAL: [&str; 14] = [
    "with space",
    "100%",
    "%41",
    "a+b",
    "#hash",
    "a&b=c",
    "question?",
    "quote'\"",
    "back\\slash",
    "new\nline",
    "tab\tend",
    "héllo wörld",
    "日本語 🦀",
    "-rf",
];

#[test]
fn unusual_names_written_here_reach_the_remote() {
    let server = Server::start();
    let mount = Mount::start(&server);
    for name in UNUSUAL {
        fs::write(mount.at(name), name).unwrap();
    }
    mount.wait_clean();
    for name in UNUSUAL {
        assert_eq!(server.get(&format!("/{name}")).map(|f| f.content), Some(name.as_bytes().to_vec()), "{name:?}");
    }
    assert_eq!(server.paths().len(), UNUSUAL.len());
}

#[test]
fn unusual_names_of_the_remote_can_be_read_edited_and_removed() {
    let server = Server::start();
    server.seed(UNUSUAL.iter().map(|name| (format!("/dir/{name}"), name)));
    let mount = Mount::start(&server);
    assert_eq!(fs::read_dir(mount.at("dir")).unwrap().count(), UNUSUAL.len());
    for name in UNUSUAL {
        assert_eq!(fs::read_to_string(mount.at("dir").join(name)).unwrap(), name);
    }
    for (i, name) in UNUSUAL.iter().enumerate() {
        let path = mount.at("dir").join(name);
        if i % 2 == 0 { fs::remove_file(path).unwrap() } else { fs::write(path, "edited").unwrap() }
    }
    mount.wait_clean();
    for (i, name) in UNUSUAL.iter().enumerate() {
        let expected = if i % 2 == 0 { None } else { Some(b"edited".to_vec()) };
        assert_eq!(server.get(&format!("/dir/{name}")).map(|f| f.content), expected, "{name:?}");
    }
}

#[test]
fn a_name_of_255_bytes_works_and_one_of_256_is_refused() {
    let server = Server::start();
    let mount = Mount::start(&server);
    let longest = "x".repeat(255);
    fs::write(mount.at(&longest), "long").unwrap();
    mount.wait_clean();
    assert_eq!(server.text(&format!("/{longest}")), "long");
    let error = fs::write(mount.at(&"x".repeat(256)), "longer").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
    let error = fs::metadata(mount.at(&"y".repeat(256))).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn a_name_of_255_bytes_in_characters_of_three_bytes_survives_a_remount() {
    let server = Server::start();
    let name = "語".repeat(85);
    server.put(&format!("/{name}"), "long");
    let mut mount = Mount::start(&server);
    assert_eq!(fs::read_to_string(mount.at(&name)).unwrap(), "long");
    mount.remount();
    assert_eq!(fs::read_to_string(mount.at(&name)).unwrap(), "long");
}
