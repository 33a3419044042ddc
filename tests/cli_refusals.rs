//! What `relayfile-mount` refuses: with which exit code and words, and that nothing is left behind.

mod common;

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Home, assert_refused, stdout};

fn jwt(claims: &str) -> String {
    let part = |s: &str| URL_SAFE_NO_PAD.encode(s);
    format!("{}.{}.c2ln", part(r#"{"alg":"HS256"}"#), part(claims))
}

/// A mount of a remote that nothing listens at; the address is in a block reserved for documentation.
fn remote_mount(home: &Home) -> Command {
    let mut command = home.mount();
    command.args(["--base-url", "http://127.0.0.1:1", "--workspace", "ws"]).arg(home.path().join("ws"));
    home.mkdir("ws");
    command
}

#[test]
fn a_missing_mountpoint_is_refused_with_the_command_that_makes_it() {
    let home = Home::new();
    let ws = home.path().join("ws");
    let text = assert_refused(&home, home.mount().arg(&ws), 3, "MOUNTPOINT_NOT_FOUND");
    assert!(text.contains(&format!("mkdir -p {}", ws.display())), "{text}");
}

#[test]
fn no_mountpoint_at_all_is_a_usage_error() {
    let home = Home::new();
    assert_refused(&home, &mut home.mount(), 2, "USAGE");
}

#[test]
fn a_file_as_mountpoint_is_refused() {
    let home = Home::new();
    let file = home.write("file", "");
    assert_refused(&home, home.mount().arg(file), 3, "MOUNTPOINT_NOT_A_DIRECTORY");
}

#[test]
fn a_directory_that_is_not_empty_is_refused() {
    let home = Home::new();
    home.write("ws/kept", "precious");
    assert_refused(&home, home.mount().arg("ws"), 3, "MOUNTPOINT_NOT_EMPTY");
}

#[test]
fn a_mountpoint_of_something_else_is_busy() {
    let home = Home::new();
    assert_refused(&home, home.mount().arg("/proc"), 3, "MOUNTPOINT_BUSY");
}

#[test]
fn state_inside_the_mountpoint_is_refused() {
    let home = Home::new();
    home.mkdir("ws");
    let mut command = home.mount();
    assert_refused(&home, command.args(["--state-dir", "ws/state", "ws"]), 5, "STATE_DIR_INSIDE_MOUNTPOINT");
    let mut command = home.mount();
    assert_refused(&home, command.args(["--embedded-dir", "ws/data", "ws"]), 5, "STATE_DIR_INSIDE_MOUNTPOINT");
}

#[test]
fn a_state_directory_in_use_is_refused_with_the_pid() {
    let home = Home::new();
    home.mkdir("ws");
    let state = home.mkdir("state");
    let _lease = relayfile::preflight::Lease::acquire(&state).unwrap();
    let text = assert_refused(&home, home.mount().args(["--state-dir", "state", "ws"]), 5, "LEASE_HELD");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
}

#[test]
fn a_bad_base_url_is_refused() {
    let home = Home::new();
    home.mkdir("ws");
    for bad in ["relay.example", "ftp://relay.example", "http://"] {
        assert_refused(&home, home.mount().args(["--base-url", bad, "--workspace", "w", "ws"]), 6, "BASE_URL_INVALID");
    }
}

#[test]
fn a_workspace_or_a_token_without_a_base_url_is_refused() {
    let home = Home::new();
    home.mkdir("ws");
    let text = assert_refused(&home, home.mount().args(["--workspace", "w", "ws"]), 2, "USAGE");
    assert!(text.contains("--base-url"), "{text}");
    assert_refused(&home, home.mount().env("RELAYFILE_TOKEN", "t").arg("ws"), 2, "USAGE");
}

#[test]
fn a_missing_token_is_refused_with_the_ways_to_give_one() {
    let home = Home::new();
    let text = assert_refused(&home, &mut remote_mount(&home), 6, "TOKEN_MISSING");
    assert!(text.contains("RELAYFILE_TOKEN") && text.contains("--token-file"), "{text}");
    assert_refused(&home, remote_mount(&home).args(["--token-file", "none"]), 6, "TOKEN_MISSING");
}

#[test]
fn an_expired_token_is_refused_before_anyone_is_asked() {
    let home = Home::new();
    let token = jwt(r#"{"workspace_id":"ws","exp":1700000000}"#);
    let text = assert_refused(&home, remote_mount(&home).env("RELAYFILE_TOKEN", &token), 6, "TOKEN_EXPIRED");
    assert!(text.contains("2023-11-14T22:13:20Z"), "{text}");
    assert!(!text.contains(&token));
}

#[test]
fn a_token_of_another_workspace_or_a_cut_one_is_refused() {
    let home = Home::new();
    let other = jwt(r#"{"workspace_id":"other"}"#);
    assert_refused(&home, remote_mount(&home).env("RELAYFILE_TOKEN", &other), 6, "TOKEN_WRONG_WORKSPACE");
    assert_refused(&home, remote_mount(&home).env("RELAYFILE_TOKEN", &other[..40]), 6, "TOKEN_MALFORMED");
}

#[test]
fn a_token_on_the_command_line_is_warned_about_and_not_shown() {
    let home = Home::new();
    let token = jwt(r#"{"workspace_id":"ws","exp":1700000000}"#);
    let text = assert_refused(&home, remote_mount(&home).args(["--token", &token]), 6, "TOKEN_EXPIRED");
    assert!(text.contains("warning: --token"), "{text}");
    assert!(!text.contains(&token));
    let inline = format!("--token={token}");
    assert_refused(&home, remote_mount(&home).arg(inline), 6, "TOKEN_EXPIRED");
}

#[test]
fn an_unknown_key_of_the_configuration_is_named() {
    let home = Home::new();
    home.mkdir("ws");
    home.write(".config/relayfile/mount.toml", "workers = 2\nsetle = 1\n");
    let text = assert_refused(&home, home.mount().arg("ws"), 7, "CONFIG_UNKNOWN_KEY");
    assert!(text.contains("`setle`") && text.contains("line 2"), "{text}");
    assert_refused(&home, home.mount().args(["--config", "none.toml", "ws"]), 7, "CONFIG_UNREADABLE");
}

#[test]
fn a_bad_variable_is_named_and_a_bad_flag_is_a_usage_error() {
    let home = Home::new();
    home.mkdir("ws");
    let text = assert_refused(&home, home.mount().env("RELAYFILE_MOUNT_SETTLE", "soon").arg("ws"), 7, "CONFIG_INVALID");
    assert!(text.contains("RELAYFILE_MOUNT_SETTLE"), "{text}");
    for flag in ["--settle=soon", "--workers=0", "--workers=65", "--nonsense"] {
        let text = assert_refused(&home, home.mount().args([flag, "ws"]), 2, "USAGE");
        assert!(text.starts_with("relayfile-mount: ") && text.ends_with("\n  try: relayfile-mount --help\n"), "{flag}: {text}");
    }
}

#[test]
fn the_help_teaches() {
    let home = Home::new();
    let output = home.mount().arg("--help").output().unwrap();
    let text = stdout(&output);
    assert!(output.status.success());
    for (_, variable) in relayfile::config::ENV {
        assert!(text.contains(variable), "{variable} is missing");
    }
    assert!(text.contains("relayfile-mount ~/ws") && text.contains("Exit codes:"));
}
