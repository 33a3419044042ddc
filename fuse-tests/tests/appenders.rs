//! Several processes that append to one file lose nothing of each other.

use std::process::{Child, Command};

use fuse_tests::{Mount, Options, Server};

const LINES: usize = 20;

fn appender(mount: &Mount, who: &str) -> Child {
    let script = format!("for i in $(seq {LINES}); do echo \"{who} $i\" >> log; done");
    Command::new("bash").args(["-euc", &script]).current_dir(mount.path()).spawn().unwrap()
}

fn assert_all_lines(text: &str, who: &[&str]) {
    for who in who {
        let theirs: Vec<_> = text.lines().filter(|l| l.starts_with(who)).map(str::to_owned).collect();
        let expected: Vec<_> = (1..=LINES).map(|i| format!("{who} {i}")).collect();
        assert_eq!(theirs, expected, "the lines of {who}, in their order");
    }
    assert_eq!(text.lines().count(), who.len() * LINES);
}

fn append_together(mount: &Mount, who: &[&str]) {
    let writers: Vec<Child> = who.iter().map(|who| appender(mount, who)).collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
}

#[test]
fn two_appenders_of_a_new_file_keep_all_their_lines() {
    let server = Server::start();
    let mount = Mount::start(&server);
    append_together(&mount, &["a", "b"]);
    assert_all_lines(&std::fs::read_to_string(mount.at("log")).unwrap(), &["a", "b"]);
    mount.wait_clean();
    assert_all_lines(&server.text("/log"), &["a", "b"]);
}

#[test]
fn appenders_keep_all_their_lines_while_uploads_run_between_them() {
    let server = Server::start();
    let mount = Mount::with(&server, Options { settle: "1ms", ..Options::default() });
    append_together(&mount, &["a", "b", "c", "d"]);
    mount.wait_clean();
    let text = std::fs::read_to_string(mount.at("log")).unwrap();
    assert_all_lines(&text, &["a", "b", "c", "d"]);
    assert_eq!(server.text("/log"), text);
}
