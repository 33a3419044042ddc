//! Programs that a test runs in the mount.

use std::path::Path;
use std::process::{Command, Output};

/// Fails the test, with what to install, when one of these programs is not there.
#[track_caller]
pub fn require(programs: &[&str]) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let missing: Vec<_> = programs.iter().filter(|name| !there(name)).collect();
    assert!(missing.is_empty(), "these programs are needed for this test and are not installed: {missing:?}");
}

/// Runs a program and returns what it did, successful or not.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?} cannot be run: {e}"))
}

/// Runs a program that must succeed and returns its standard output.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let out = output(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{command:?}: {}\n{}{}", out.status, text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

/// Runs a shell script in a directory; each of its commands must succeed. Returns its standard output.
#[track_caller]
pub fn sh(dir: &Path, script: &str) -> String {
    run(Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(dir).env("LC_ALL", "C.UTF-8"))
}
