//! Runs the real binaries in a home of their own.
#![allow(dead_code)] // each test program uses its part

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    /// Creates an empty directory below the home.
    pub fn mkdir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Everything below the home, so that a test can say that nothing was left behind.
    pub fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                into.push(path.clone());
                if path.symlink_metadata().unwrap().is_dir() {
                    walk(&path, into);
                }
            }
        }
        let mut all = Vec::new();
        walk(&self.path(), &mut all);
        all.sort();
        all
    }

    pub fn mount(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_relayfile-mount"))
    }

    pub fn relayfile(&self) -> Command {
        self.command(env!("CARGO_BIN_EXE_relayfile"))
    }

    /// `relayfile` where nothing of relayfile is mounted, whatever else this machine has mounted. Needs root.
    pub fn relayfile_alone(&self) -> Command {
        let alone =
            "grep ' fuse.relayfile ' /proc/mounts | cut -d' ' -f2 | while read -r m; do umount -l \"$m\"; done; exec \"$@\"";
        let mut command = self.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", alone, "sh", env!("CARGO_BIN_EXE_relayfile")]);
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.current_dir(self.path());
        command
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asserts exit code and problem code, and that home is as it was before.
#[track_caller]
pub fn assert_refused(home: &Home, command: &mut Command, exit: i32, code: &str) -> String {
    let before = home.files();
    let output = command.output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(exit), "{text}");
    assert!(text.contains(&format!("[{code}]")), "{code} is not in: {text}");
    assert!(text.contains("\n  try: "), "no remedy in: {text}");
    assert_eq!(home.files(), before, "something was left behind");
    text
}
