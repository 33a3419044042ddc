//! Which paths stay on this machine: version-control directories, SQLite's side files, editors' droppings, what `--local-only`
//! names, and what the file `.relayignore` in the root of the mount names, all in the syntax of gitignore(5).
//!
//! Such a file is an ordinary file of the mount, kept in the state directory, never uploaded. A path that the remote already
//! has is never held back, whatever its name: that is the business of whoever asks, as for a file that git tracks.

use std::path::Path;
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use parking_lot::RwLock;

/// The file with rules, in the root of the mount. It is never held back itself. Those in other directories mean nothing.
pub const IGNORE_FILE: &str = "/.relayignore";
/// Longest rules file that is taken, in bytes: somebody else may have written it.
pub const IGNORE_FILE_MAX: u64 = 64 * 1024;

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
    ".DS_Store", //
    // GLib's programs, JetBrains', VS Code's, LibreOffice's, Kate's and Microsoft Office's, as in fixtures/traces.
    ".goutputstream-??????",
    "*___jb_tmp___",
    "*___jb_old___",
    "*___jb_bak___",
    "*.vsctmp",
    ".~lock.*\\#",
    ".*.kate-swp",
    "~$*",
    "~WR[DL]????.tmp",
];

/// Where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    BuiltIn,
    /// `--local-only`
    Option,
    /// `.relayignore`
    IgnoreFile,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Source::BuiltIn => "built-in",
            Source::Option => "--local-only",
            Source::IgnoreFile => ".relayignore",
        }
    }
}

/// The rule that holds a path back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// As it was written.
    pub rule: String,
    pub source: Source,
}

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPattern(String);

/// The rules of one mount.
pub struct Policy {
    /// The built-in ones and those of the options. No later rule takes anything from them.
    fixed: [(Source, Gitignore); 2],
    /// A leaf lock, held for a look-up.
    file: RwLock<Arc<File>>,
}

struct File {
    text: String,
    rules: Gitignore,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy::new(&[], "").expect("the built-in rules are valid")
    }
}

impl Policy {
    /// The built-in rules with `options` and with those of a rules file.
    pub fn new(options: &[String], file: &str) -> Result<Policy, BadPattern> {
        let built_in: Vec<String> = DEFAULT_RULES.iter().map(ToString::to_string).collect();
        let fixed = [(Source::BuiltIn, compile(&built_in)?), (Source::Option, compile(options)?)];
        let policy = Policy { fixed, file: RwLock::new(Arc::new(File { text: String::new(), rules: Gitignore::empty() })) };
        policy.set_file(file);
        Ok(policy)
    }

    /// Takes the rules of the file. A line that is no pattern is left out and logged. Says whether they are other ones.
    pub fn set_file(&self, text: &str) -> bool {
        if self.file.read().text == text {
            return false;
        }
        let mut builder = GitignoreBuilder::new("/");
        for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if let Err(e) = builder.add_line(None, line) {
                log::warn!("line {} of .relayignore is left out: {e}", i + 1);
            }
        }
        let rules = builder.build().unwrap_or_else(|e| {
            log::warn!(".relayignore cannot be used: {e}");
            Gitignore::empty()
        });
        *self.file.write() = Arc::new(File { text: text.to_owned(), rules });
        true
    }

    /// Whether a rule matches the path or one of its parents. `path` is absolute within the mount.
    pub fn is_local_only(&self, path: &str) -> bool {
        path != IGNORE_FILE && (self.fixed.iter().any(|(_, rules)| holds(rules, path)) || holds(&self.file.read().rules, path))
    }

    /// The rule that holds a path back; `None` when none does.
    pub fn why(&self, path: &str) -> Option<Held> {
        if path == IGNORE_FILE {
            return None;
        }
        let file = Arc::clone(&self.file.read());
        let all = self.fixed.iter().map(|(source, rules)| (*source, rules)).chain([(Source::IgnoreFile, &file.rules)]);
        all.into_iter().find_map(|(source, rules)| {
            let rule = match rules.matched_path_or_any_parents(Path::new(path), false) {
                ignore::Match::Ignore(glob) => glob.original().to_owned(),
                _ => return None,
            };
            Some(Held { rule, source })
        })
    }
}

fn holds(rules: &Gitignore, path: &str) -> bool {
    !rules.is_empty() && rules.matched_path_or_any_parents(Path::new(path), false).is_ignore()
}

fn compile(patterns: &[String]) -> Result<Gitignore, BadPattern> {
    let mut builder = GitignoreBuilder::new("/");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|e| BadPattern(e.to_string()))?;
    }
    builder.build().map_err(|e| BadPattern(e.to_string()))
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
            "/.goutputstream-3F8AX2",
            "/a/B.java___jb_tmp___",
            "/a/B.java___jb_old___",
            "/settings.json.vsctmp",
            "/a/.~lock.b.odt#",
            "/.b.txt.kate-swp",
            "/~$b.docx",
            "/~WRD0001.tmp",
        ] {
            assert!(p.is_local_only(local), "{local} would be uploaded");
        }
        for work in [
            "/a.txt",
            "/.github/workflows/x.yml",
            "/.gitignore",
            "/travel-journal",
            "/swp",
            "/a/4913.md",
            "/x.swift",
            "/#notes",
            "/~WRITE.tmp",
            "/goutputstream-notes",
        ] {
            assert!(!p.is_local_only(work), "{work} would be held back");
        }
    }

    #[test]
    fn options_and_the_file_add_to_the_built_in_rules_and_each_is_named() {
        let options = ["*.log".to_owned(), "/build/".to_owned()];
        let p = Policy::new(&options, "# notes\n*.tmp\n!keep.tmp\nout/\n!*~\n!*.log\n").unwrap();
        let why = |path: &str| p.why(path).map(|h| (h.rule, h.source.as_str()));
        for (path, rule, source) in [
            ("/a/x~", "*~", "built-in"),
            ("/a/x.log", "*.log", "--local-only"),
            ("/build/deep/x", "/build/", "--local-only"),
            ("/a/x.tmp", "*.tmp", ".relayignore"),
            ("/a/out/x", "out/", ".relayignore"),
        ] {
            assert_eq!(why(path), Some((rule.to_owned(), source)), "{path}");
            assert!(p.is_local_only(path));
        }
        for path in ["/keep.tmp", "/build", "/a/build/x", "/out", "/a.txt"] {
            assert_eq!(why(path), None, "{path}");
            assert!(!p.is_local_only(path));
        }
    }

    #[test]
    fn the_rules_file_is_never_held_back_and_a_bad_line_of_it_costs_only_itself() {
        let p = Policy::new(&[".*".to_owned()], "").unwrap();
        assert!(p.set_file("*\n[z-a]\n!keep\n") && !p.set_file("*\n[z-a]\n!keep\n"), "the same again");
        assert!(!p.is_local_only(IGNORE_FILE) && p.is_local_only("/d/.relayignore"));
        assert!(p.is_local_only("/x") && !p.is_local_only("/keep"));
        assert!(p.set_file("") && !p.is_local_only("/x"));
        assert!(Policy::new(&["[z-a]".to_owned()], "").is_err());
    }
}
