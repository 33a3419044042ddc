//! The operator's commands, as far as they need no mount.

mod common;

use common::{Home, assert_refused, stderr, stdout};

#[test]
fn unmounting_what_is_not_mounted_is_a_clear_error() {
    let home = Home::new();
    home.mkdir("ws");
    let text = assert_refused(&home, home.relayfile().args(["unmount", "ws"]), 3, "MOUNTPOINT_NOT_OURS");
    assert!(text.contains("nothing is mounted there"), "{text}");
    assert_refused(&home, home.relayfile().args(["unmount", "/proc"]), 3, "MOUNTPOINT_NOT_OURS");
}

#[test]
fn the_list_of_mounts_is_json_when_asked() {
    let home = Home::new();
    let output = home.relayfile().args(["mounts", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(list.is_array());
}

#[test]
fn doctor_makes_every_check_and_leaves_nothing_behind() {
    let home = Home::new();
    home.write("ws/kept", "");
    home.write("state", "a file where a directory should be");
    let before = home.files();

    let output = home.relayfile().args(["doctor", "--state-dir", "state", "ws"]).output().unwrap();

    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for line in ["✗ mountpoint", "MOUNTPOINT_NOT_EMPTY", "✗ state directory", "STATE_DIR_UNWRITABLE", "✓ embedded data", "try:"]
    {
        assert!(text.contains(line), "{line} is missing in: {text}");
    }
    assert_eq!(home.files(), before);
}

#[test]
fn doctor_without_a_mountpoint_checks_the_rest() {
    let home = Home::new();
    let output = home.relayfile().arg("doctor").output().unwrap();
    let text = stdout(&output);
    assert!(text.contains("– mountpoint: none given") && text.contains("✓ lease"), "{text}{}", stderr(&output));
    assert!(home.files().is_empty());
}

#[test]
fn both_commands_have_completions() {
    let home = Home::new();
    for (shell, command) in [("bash", "relayfile"), ("zsh", "relayfile-mount"), ("fish", "relayfile-mount")] {
        let output = home.relayfile().args(["completions", shell, "--for", command]).output().unwrap();
        assert!(output.status.success() && stdout(&output).contains(command), "{shell} {command}");
    }
}

#[test]
fn a_wrong_command_line_is_a_problem_like_any_other() {
    let home = Home::new();
    for (line, help) in [
        (&["doctr"][..], "relayfile --help"),
        (&[], "relayfile --help"),
        (&["unmount"], "relayfile unmount --help"),
        (&["serve", "--listen", "x"], "relayfile serve --help"),
        (&["doctor", "--workers=0"], "relayfile doctor --help"),
    ] {
        let text = assert_refused(&home, home.relayfile().args(line), 2, "USAGE");
        assert!(text.ends_with(&format!("[USAGE]\n  try: {help}\n")), "{line:?}: {text}");
    }
    for line in [&["--help"][..], &["--version"], &["help"], &["doctor", "--help"]] {
        let output = home.relayfile().args(line).output().unwrap();
        assert!(output.status.success() && stderr(&output).is_empty() && !output.stdout.is_empty(), "{line:?}");
    }
}

#[test]
fn a_server_that_cannot_listen_leaves_nothing_behind() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let before = home.mkdir("old");
    for dir in ["new", "deep/er", "old"] {
        let text =
            assert_refused(&home, home.relayfile().args(["serve", "--data-dir", dir, "--listen", &address]), 6, "SERVER_FAILED");
        let retry = format!("relayfile serve --data-dir {dir} --listen 127.0.0.1:0");
        assert!(text.contains(&address) && text.contains(&retry), "{text}");
    }
    assert_eq!(before.read_dir().unwrap().count(), 0);

    // Who has the directory is the better answer where both are taken.
    let server = relayfile::server::start(relayfile::server::ServerConfig::new(home.path().join("busy"))).unwrap();
    let text =
        assert_refused(&home, home.relayfile().args(["serve", "--data-dir", "busy", "--listen", &address]), 6, "SERVER_FAILED");
    assert!(text.contains(server.url()) && text.contains("busy/token"), "{text}");
}
