//! The token is in its file and in the requests, and nowhere else: not in a log, a file, an answer to a user or a process list.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fuse_tests::{Mount, Options, Server, binary, eventually, output, sh, sys, until};
use serde_json::json;

/// So much of a token is as telling as all of it.
const PREFIX: usize = 16;

fn unstarted() -> (Server, Mount) {
    let server = Server::start();
    // Every request is logged.
    let mount = Mount::unstarted(&server, Options::default().flag("-vv"));
    (server, mount)
}

fn started() -> (Server, Mount) {
    let (server, mut mount) = unstarted();
    mount.start_again();
    (server, mount)
}

fn prefix(server: &Server) -> String {
    assert!(server.token().len() > PREFIX && server.token().is_ascii(), "the token of the server has another form");
    server.token()[..PREFIX].to_owned()
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// The names and the contents of all files below a directory, without the mount.
fn all_files(dir: &Path, mountpoint: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(dir).expect("a directory of the test") {
        let path = entry.expect("an entry").path();
        let kind = fs::symlink_metadata(&path).map(|m| m.file_type());
        match kind {
            _ if path == mountpoint => {}
            Ok(kind) if kind.is_dir() => all_files(&path, mountpoint, found),
            // A payload may go while this looks.
            Ok(kind) if kind.is_file() => found.extend(fs::read(&path).ok().map(|bytes| (path.clone(), bytes))),
            _ => {}
        }
    }
}

#[track_caller]
fn assert_no_file_holds_it(server: &Server, mount: &Mount) {
    let secret = prefix(server);
    let mut files = Vec::new();
    all_files(mount.home(), &mount.path(), &mut files);
    all_files(server.token_file().parent().expect("the data directory"), &mount.path(), &mut files);
    for name in ["journal.sqlite", "state.json"] {
        assert!(files.iter().any(|(path, _)| path.ends_with(name)), "{name} was not looked at");
    }
    for (path, bytes) in files {
        assert!(!path.to_string_lossy().contains(&secret), "the token is in the name {}", path.display());
        let allowed = path == server.token_file();
        assert_eq!(contains(&bytes, &secret), allowed, "the token is, or is not, in {}", path.display());
    }
}

#[track_caller]
fn assert_relay_does_not_show_it(server: &Server, mount: &Mount) {
    let secret = prefix(server);
    let pending: Vec<_> = fs::read_dir(mount.at(".relay/pending")).unwrap().map(|e| e.unwrap().path()).collect();
    for path in [mount.at(".relay/status"), mount.at(".relay/state.json"), mount.at(".relay/README")].into_iter().chain(pending) {
        // What was pending may have gone.
        let text = fs::read(&path).unwrap_or_default();
        assert!(!contains(&text, &secret), "{}: {}", path.display(), String::from_utf8_lossy(&text));
    }
}

#[track_caller]
fn assert_no_process_shows_it(server: &Server) {
    let secret = prefix(server);
    let pids = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!contains(&line, &secret), "it is in the command line of {pid}: {}", String::from_utf8_lossy(&line));
    }
}

/// Runs a command whose output must not hold the token. Returns the exit code and the output.
#[track_caller]
fn quiet(server: &Server, command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = output(command.stdin(Stdio::null()));
    let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    assert!(!text.contains(&prefix(server)), "{command:?} prints the token: {text}");
    (status.code(), text)
}

/// `relayfile doctor` with the settings of the mount.
fn doctor(server: &Server, mount: &Mount, workspace: &str) -> Command {
    let mut command = mount.relayfile();
    command.args(["doctor", "-vv", "--base-url", server.url(), "--workspace", workspace, "--token-file"]);
    command.arg(server.token_file()).arg("--state-dir").arg(mount.state_dir()).arg(mount.path());
    command
}

#[test]
fn the_token_is_in_no_log_file_output_or_command_line() {
    let (mut server, mut mount) = unstarted();
    server.put("/there", "from the remote");
    mount.start_again();
    assert_eq!(fs::read_to_string(mount.at("there")).unwrap(), "from the remote");
    fs::write(mount.at("good"), "saved").unwrap();
    fs::write(mount.at("there"), "changed").unwrap();
    mount.wait_clean();

    server.fault(json!({ "method": "PUT", "path_prefix": "/fs/file", "times": 2, "status": 401 }));
    fs::write(mount.at("good"), "saved after the token was refused").unwrap();
    mount.wait_clean();
    until("the token was refused", || server.fault_hits() == 2);

    server.fault(json!({ "file_path": "/bad", "method": "PUT", "times": 1, "status": 400, "message": "schema says no" }));
    fs::write(mount.at("bad"), "refused").unwrap();
    mount.wait_number("deadLettered", 1);

    server.stop();
    fs::write(mount.at("good"), "saved while the remote was away").unwrap();
    until("the remote is missed", || fs::read_to_string(mount.at(".relay/status")).unwrap().contains("offline"));
    let (code, text) = quiet(&server, &mut doctor(&server, &mount, "ws"));
    assert_eq!(code, Some(1), "{text}");
    assert_relay_does_not_show_it(&server, &mount);
    assert_no_process_shows_it(&server);
    server.start_again();
    mount.wait_synced();
    assert_eq!(server.text("/good"), "saved while the remote was away");

    for arguments in [&["mounts"][..], &["mounts", "--json"]] {
        let (code, text) = quiet(&server, mount.relayfile().args(arguments));
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains(mount.path().to_str().unwrap()), "{text}");
    }
    // The mountpoint is busy, but everything else is looked at.
    quiet(&server, &mut doctor(&server, &mount, "ws"));
    assert_relay_does_not_show_it(&server, &mount);
    assert_no_process_shows_it(&server);
    assert_no_file_holds_it(&server, &mount);

    let (code, text) = quiet(&server, mount.relayfile().arg("unmount").arg(mount.path()));
    assert_eq!(code, Some(9), "a letter is left: {text}");
    assert_eq!(mount.wait_ended(), 9);
    let log = mount.log();
    assert!(log.contains("schema says no") && log.contains("401"), "the log is too quiet for this test: {log}");
    assert_no_file_holds_it(&server, &mount);
}

#[test]
fn a_refused_start_does_not_print_the_token() {
    let (mut server, mount) = unstarted();
    let (code, text) = quiet(&server, &mut doctor(&server, &mount, "no such workspace"));
    assert_eq!(code, Some(1), "{text}");
    for status in [401, 403, 404, 500] {
        server.fault(json!({ "path_prefix": "/fs/tree", "status": status }));
        let (code, text) = quiet(&server, &mut mount.command());
        assert_eq!(code, Some(6), "{status}: {text}");
        quiet(&server, mount.command().arg("--foreground"));
        server.clear_faults();
    }
    server.stop();
    let (code, text) = quiet(&server, &mut mount.command());
    assert_eq!(code, Some(6), "{text}");
}

#[test]
fn a_token_file_that_holds_more_than_a_token_is_not_printed() {
    let (server, mount) = unstarted();
    fs::write(server.token_file(), format!("{} and more\n{}\n", server.token(), server.token())).unwrap();
    let (code, text) = quiet(&server, &mut mount.command());
    assert_eq!(code, Some(6), "{text}");
    let creds = mount.home().join("creds");
    fs::write(&creds, format!("{{\"token\": {}", server.token())).unwrap();
    let mut command = mount.relayfile();
    command.args(["doctor", "--base-url", server.url(), "--workspace", "ws", "--creds-file"]).arg(&creds).arg(mount.path());
    let (code, text) = quiet(&server, &mut command);
    assert_eq!(code, Some(1), "{text}");
}

/// A mount in the background that is given the token in another way; it is unmounted when this is dropped.
struct Background(Mount);

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.0.state_dir().join("mount.pid")) {
            sys::signal(pid.trim().parse().unwrap(), libc::SIGKILL);
        }
    }
}

#[test]
fn a_token_of_the_environment_or_the_command_line_does_not_stay_in_the_process_list() {
    for on_the_command_line in [false, true] {
        let (server, mount) = unstarted();
        let mut command = Command::new(binary("relayfile-mount"));
        command.env_clear().env("HOME", mount.home()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.args(["-vv", "--settle", "50ms", "--base-url", server.url(), "--workspace", "ws", "--state-dir"]);
        // The libraries below log too.
        command.arg(mount.state_dir()).arg(mount.path()).current_dir(mount.home()).env("RUST_LOG", "trace");
        match on_the_command_line {
            true => command.args(["--token", server.token()]),
            false => command.env("RELAYFILE_TOKEN", server.token()),
        };
        let done = output(command.stdin(Stdio::null()));
        let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(done.status.success() && !text.contains(&prefix(&server)), "{text}");
        let mount = Background(mount);
        assert_no_process_shows_it(&server);
        fs::write(mount.0.at("f"), "saved").unwrap();
        mount.0.wait_clean();
        until("state.json is there", || mount.0.state_dir().join("state.json").exists());
        assert_no_file_holds_it(&server, &mount.0);
        let (code, text) = quiet(&server, mount.0.relayfile().arg("unmount").arg(mount.0.path()));
        assert_eq!(code, Some(0), "{text}");
        assert_no_file_holds_it(&server, &mount.0);
        let log = fs::read_to_string(mount.0.state_dir().join("mount.log")).unwrap();
        assert!(log.contains(" TRACE "), "the log is too quiet for this test");
    }
}

/// What the remote says is repeated in the log, the journal, the status and to the user.
#[track_caller]
fn assert_an_echo_is_not_repeated(what: &str, fields: impl Fn(&str) -> serde_json::Value) {
    let (server, mount) = started();
    let with = |mut rule: serde_json::Value| {
        rule.as_object_mut().unwrap().extend(fields(server.token()).as_object().unwrap().clone());
        server.fault(rule);
    };
    with(json!({ "method": "PUT", "file_path": "/refused", "times": 1, "status": 400 }));
    with(json!({ "method": "PUT", "file_path": "/waits", "times": 1, "status": 503, "retry_after": 600 }));
    with(json!({ "method": "PUT", "file_path": "/unauthorized", "times": 1, "status": 401 }));
    fs::write(mount.at("refused"), "bytes").unwrap();
    mount.wait_number("deadLettered", 1);
    fs::write(mount.at("waits"), "bytes").unwrap();
    mount.wait_number("failedWritebacks", 2);
    fs::write(mount.at("unauthorized"), "bytes").unwrap();
    eventually("the last of them arrives", || server.get("/unauthorized"));
    assert_eq!(server.fault_hits(), 3);
    assert_relay_does_not_show_it(&server, &mount);
    with(json!({ "path_prefix": "/fs/tree", "status": 403 }));
    quiet(&server, &mut doctor(&server, &mount, "ws"));
    server.clear_faults();
    assert_no_file_holds_it(&server, &mount);
    let log = sh(mount.home(), "cat mount.log");
    assert!(log.contains("/refused"), "{what}: the log is too quiet for this test");
}

#[test]
fn a_message_of_the_remote_that_repeats_the_token_is_kept_without_it() {
    assert_an_echo_is_not_repeated("message", |token| json!({ "message": format!("who are you, Bearer {token}?") }));
}

#[test]
fn a_long_message_that_is_cut_in_the_middle_of_the_token_is_kept_without_it() {
    // Messages are shown to 300 characters, bodies are kept to 1024.
    for filler in [278, 940, 960, 980] {
        assert_an_echo_is_not_repeated("message", |token| json!({ "message": format!("{}{token}", "x".repeat(filler)) }));
    }
}

#[test]
fn a_code_of_the_remote_that_repeats_the_token_is_kept_without_it() {
    assert_an_echo_is_not_repeated("code", |token| json!({ "code": format!("bad_{token}") }));
}

#[test]
fn a_long_code_that_is_cut_in_the_middle_of_the_token_is_kept_without_it() {
    assert_an_echo_is_not_repeated("code", |token| json!({ "code": format!("{}{token}", "x".repeat(278)) }));
}
