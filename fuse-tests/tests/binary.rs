//! Bytes that are no text pass through mount and remote unchanged, and their size is true before they are read.

use std::fs;
use std::os::unix::fs::MetadataExt;

use fuse_tests::{Mount, Server, noise, sh};

#[test]
fn a_hundred_thousand_random_bytes_come_back_from_the_remote() {
    let bytes = noise(100_000, 1);
    let server = Server::start();
    server.put("/random", &bytes);
    let mount = Mount::start(&server);
    assert_eq!(fs::read(mount.at("random")).unwrap(), bytes);
}

#[test]
fn a_hundred_thousand_random_bytes_reach_the_remote() {
    let bytes = noise(100_000, 2);
    let server = Server::start();
    let mount = Mount::start(&server);
    fs::write(mount.at("random"), &bytes).unwrap();
    mount.wait_clean();
    let file = server.get("/random").unwrap();
    assert!(file.base64, "text would be mangled by the remote");
    assert_eq!(file.content, bytes);
}

#[test]
fn an_edit_of_a_binary_file_keeps_its_other_bytes() {
    let mut bytes = noise(5000, 3);
    let server = Server::start();
    server.put("/random", &bytes);
    let mount = Mount::start(&server);
    sh(&mount.path(), r"printf '\0\377' | dd of=random bs=1 seek=2500 conv=notrunc status=none");
    mount.wait_clean();
    bytes[2500..2502].copy_from_slice(&[0, 255]);
    assert_eq!(server.get("/random").unwrap().content, bytes);
}

#[test]
fn every_small_size_of_remote_bytes_is_shown_truly() {
    let server = Server::start();
    let contents: Vec<Vec<u8>> = (0..=20).map(|n| vec![0xff; n]).collect();
    server.seed(contents.iter().enumerate().map(|(n, bytes)| (format!("/size-{n:02}"), bytes)));
    let mount = Mount::start(&server);
    for (n, bytes) in contents.iter().enumerate() {
        let path = mount.at(&format!("size-{n:02}"));
        assert_eq!(fs::metadata(&path).unwrap().size(), n as u64, "stat before any read");
        assert_eq!(&fs::read(&path).unwrap(), bytes);
        assert_eq!(fs::metadata(&path).unwrap().size(), n as u64, "stat after the read");
    }
}

#[test]
fn every_small_size_of_local_bytes_reaches_the_remote() {
    let server = Server::start();
    let mount = Mount::start(&server);
    for n in 0..=20 {
        fs::write(mount.at(&format!("size-{n:02}")), noise(n, 40 + n as u64)).unwrap();
    }
    mount.wait_clean();
    for n in 0..=20 {
        assert_eq!(server.get(&format!("/size-{n:02}")).unwrap().content, noise(n, 40 + n as u64), "{n} bytes");
    }
}

#[test]
fn ls_shows_the_decoded_size_of_a_file_that_was_never_read() {
    let server = Server::start();
    server.put("/blob.bin", noise(1000, 4));
    let mount = Mount::start(&server);
    let listing = sh(&mount.path(), "ls -l blob.bin");
    assert_eq!(listing.split_whitespace().nth(4), Some("1000"), "{listing}");
    assert_eq!(sh(&mount.path(), "stat -c %s blob.bin; wc -c < blob.bin"), "1000\n1000\n");
}

#[test]
fn text_with_multibyte_characters_and_control_characters_is_unchanged_both_ways() {
    let text = "größer \u{1F980} \u{0}\u{1}\u{7f} \u{2028}\r\n\u{feff}";
    let server = Server::start();
    server.put("/from", text);
    let mount = Mount::start(&server);
    assert_eq!(fs::read(mount.at("from")).unwrap(), text.as_bytes());
    assert_eq!(fs::metadata(mount.at("from")).unwrap().size(), text.len() as u64);
    fs::write(mount.at("to"), text).unwrap();
    mount.wait_clean();
    assert_eq!(server.get("/to").unwrap().content, text.as_bytes());
}

#[test]
fn a_file_that_turns_from_text_into_bytes_and_back_is_unchanged() {
    let server = Server::start();
    server.put("/f", "text");
    let mount = Mount::start(&server);
    for content in [vec![0xff, 0xfe], b"text again".to_vec()] {
        fs::write(mount.at("f"), &content).unwrap();
        mount.wait_clean();
        assert_eq!(server.get("/f").unwrap().content, content);
        assert_eq!(fs::metadata(mount.at("f")).unwrap().size(), content.len() as u64);
    }
}
