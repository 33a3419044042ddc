//! Which paths stay on this machine: version-control directories, SQLite's side files, editors' droppings.
//!
//! Such a file is an ordinary file of the mount, kept in the state directory, never uploaded. A path that the remote already
//! has is never local-only, whatever its name.

use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// The default rules, in gitignore syntax.
///
/// SQLite's side files are recognised by the usual extensions of databases and not by `*-journal` alone: a note called
/// `travel-journal` is somebody's work.
const DEFAULT_RULES: &[&str] = &[
    ".git",
    ".hg",
    ".svn",
    ".bzr",
    "_darcs",
    ".jj", //
    "*.db-journal",
    "*.db-wal",
    "*.db-shm",
    "*.sqlite-journal",
    "*.sqlite-wal",
    "*.sqlite-shm", //
    "*.sqlite3-journal",
    "*.sqlite3-wal",
    "*.sqlite3-shm",
    "*.db3-journal",
    "*.db3-wal",
    "*.db3-shm", //
    ".*.sw?",
    ".*.sw",
    "4913",
    "*~",
    ".#*",
    "\\#*\\#",
    ".DS_Store",
];

/// The rules of one mount.
pub struct Policy {
    rules: Gitignore,
}

impl Default for Policy {
    fn default() -> Policy {
        let mut b = GitignoreBuilder::new("/");
        for rule in DEFAULT_RULES {
            b.add_line(None, rule).expect("the default rules are valid gitignore lines");
        }
        Policy { rules: b.build().expect("the default rules build") }
    }
}

impl Policy {
    /// Whether a rule matches the path or one of its parents. `path` is absolute within the workspace.
    pub fn is_local_only(&self, path: &str) -> bool {
        self.rules.matched_path_or_any_parents(Path::new(path), false).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaffolding_stays_and_work_goes() {
        let p = Policy::default();
        for local in [
            "/.git",
            "/a/.git/objects/00/x",
            "/a/.b.txt.swp",
            "/4913",
            "/a/b.md~",
            "/app.db-wal",
            "/.#lock",
            "/#x#",
            "/d/.DS_Store",
        ] {
            assert!(p.is_local_only(local), "{local} would be uploaded");
        }
        for work in
            ["/a.txt", "/.github/workflows/x.yml", "/.gitignore", "/travel-journal", "/swp", "/a/4913.md", "/x.swift", "/#notes"]
        {
            assert!(!p.is_local_only(work), "{work} would be held back");
        }
    }
}
