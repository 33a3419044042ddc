//! Traces: the system calls by which programs save a file, to be repeated anywhere. The format is in
//! `fixtures/traces/README.md`.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::sys;

/// The file that every trace edits.
pub const EDITED: &str = "doc.txt";

/// The system calls of one save.
pub struct Trace {
    pub name: String,
    lines: Vec<String>,
}

/// What the edited file is before and after.
#[derive(Debug, Clone, Copy)]
pub struct Edit<'a> {
    pub old: &'a [u8],
    pub new: &'a [u8],
}

impl Trace {
    /// `fixtures/traces/NAME.trace`.
    #[track_caller]
    pub fn load(name: &str) -> Trace {
        let file = Trace::directory().join(format!("{name}.trace"));
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect();
        Trace { name: name.to_owned(), lines }
    }

    /// The names of all traces that there are.
    pub fn all() -> BTreeSet<String> {
        let dir = Trace::directory();
        let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let names = entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"));
        names.filter_map(|n| n.strip_suffix(".trace").map(str::to_owned)).collect()
    }

    fn directory() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/traces")
    }

    /// Makes what was there before the program began, apart from the edited file.
    #[track_caller]
    pub fn prepare(&self, dir: &Path) {
        for line in &self.lines {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["given", kind, name] = words[..] {
                let path = dir.join(name);
                fs::create_dir_all(path.parent().expect("a path below the directory")).expect("a directory");
                match kind {
                    "dir" => fs::create_dir_all(path).expect("a directory"),
                    _ => fs::write(path, "given").expect("a file"),
                }
            }
        }
    }

    /// Repeats the calls in a directory, and after each that changes something does `pause`. What the program left open is
    /// closed at its end.
    #[track_caller]
    pub fn replay(&self, dir: &Path, edit: Edit, mut pause: impl FnMut()) {
        let mut replay = Replay { dir, edit, handles: HashMap::new() };
        for line in self.lines.iter().filter(|l| !l.starts_with("given ")) {
            let words: Vec<&str> = line.split(' ').collect();
            replay.call(&words).unwrap_or_else(|e| panic!("{}: {line}: {e}", self.name));
            if !matches!(words[0], "read" | "seek") {
                pause();
            }
        }
    }
}

struct Replay<'a> {
    dir: &'a Path,
    edit: Edit<'a>,
    handles: HashMap<String, File>,
}

impl Replay<'_> {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn handle(&self, name: &str) -> &File {
        self.handles.get(name).unwrap_or_else(|| panic!("the handle {name} is not open"))
    }

    fn call(&mut self, words: &[&str]) -> io::Result<()> {
        match *words {
            ["open", handle, name, flags] => self.open(handle, name, flags, 0),
            ["open", handle, name, flags, mode] => self.open(handle, name, flags, octal(mode)),
            ["close", handle] => {
                self.handles.remove(handle).unwrap_or_else(|| panic!("the handle {handle} is not open"));
                Ok(())
            }
            ["dup", handle, of] => {
                let file = self.handle(of).try_clone()?;
                self.handles.insert(handle.to_owned(), file);
                Ok(())
            }
            ["read", handle] => match self.handle(handle).read_to_end(&mut Vec::new()) {
                // Of a directory its names were read.
                Err(e) if e.kind() == io::ErrorKind::IsADirectory => Ok(()),
                other => other.map(drop),
            },
            ["write", handle, ref what @ ..] => self.handle(handle).write_all(&self.bytes(what)),
            ["pwrite", handle, offset, ref what @ ..] => self.handle(handle).write_all_at(&self.bytes(what), number(offset)),
            ["seek", handle, offset] => self.handle(handle).seek(SeekFrom::Start(number(offset))).map(drop),
            ["ftruncate", handle, length] => self.handle(handle).set_len(self.length(length)),
            ["truncate", name, length] => sys::truncate(&self.at(name), self.length(length) as i64),
            ["fsync", handle] => self.handle(handle).sync_all(),
            ["fdatasync", handle] => self.handle(handle).sync_data(),
            ["fchmod", handle, mode] => self.handle(handle).set_permissions(Permissions::from_mode(octal(mode) & 0o7777)),
            ["chmod", name, mode] => fs::set_permissions(self.at(name), Permissions::from_mode(octal(mode) & 0o7777)),
            ["fchown", handle] => std::os::unix::fs::fchown(self.handle(handle), Some(0), Some(0)),
            ["chown", name] => std::os::unix::fs::lchown(self.at(name), Some(0), Some(0)),
            ["futimens", handle] => self.handle(handle).set_modified(SystemTime::UNIX_EPOCH),
            ["utimens", name] => File::open(self.at(name))?.set_modified(SystemTime::UNIX_EPOCH),
            ["rename", from, to] => fs::rename(self.at(from), self.at(to)),
            ["rename", from, to, "RENAME_EXCHANGE"] => sys::rename_with(&self.at(from), &self.at(to), libc::RENAME_EXCHANGE),
            ["rename", from, to, "RENAME_NOREPLACE"] => sys::rename_with(&self.at(from), &self.at(to), libc::RENAME_NOREPLACE),
            ["link", from, to] => fs::hard_link(self.at(from), self.at(to)),
            ["symlink", to, name] => std::os::unix::fs::symlink(to, self.at(name)),
            ["unlink", name] => fs::remove_file(self.at(name)),
            ["mkdir", name] => fs::create_dir(self.at(name)),
            ["rmdir", name] => fs::remove_dir(self.at(name)),
            _ => panic!("not a call of a trace: {words:?}"),
        }
    }

    fn open(&mut self, handle: &str, name: &str, flags: &str, mode: u32) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut custom = 0;
        for flag in flags.split('|') {
            match flag {
                "O_RDONLY" => options.read(true),
                "O_WRONLY" => options.write(true),
                "O_RDWR" => options.read(true).write(true),
                other => {
                    custom |= flag_of(other);
                    &mut options
                }
            };
        }
        // Not by `OpenOptions::create`: O_CREAT has to go out exactly where the program gave it.
        let file = options.mode(mode & 0o7777).custom_flags(custom).open(self.at(name))?;
        self.handles.insert(handle.to_owned(), file);
        Ok(())
    }

    /// `new`, `old`, a part of one (`new[16:]`), or `junk N`: N bytes that are nobody's content.
    fn bytes(&self, what: &[&str]) -> Vec<u8> {
        if let ["junk", length] = what {
            return vec![b'#'; number(length) as usize];
        }
        let [what] = what else { panic!("not bytes: {what:?}") };
        let (whole, range) = what.split_once('[').unwrap_or((what, ":]"));
        let whole = match whole {
            "new" => self.edit.new,
            "old" => self.edit.old,
            other => panic!("not bytes: {other}"),
        };
        let (from, to) = range.trim_end_matches(']').split_once(':').unwrap_or_else(|| panic!("not a range: {range}"));
        let place =
            |text: &str, otherwise: usize| if text.is_empty() { otherwise } else { number(text) as usize }.min(whole.len());
        whole[place(from, 0)..place(to, whole.len())].to_vec()
    }

    fn length(&self, text: &str) -> u64 {
        match text {
            "|new|" => self.edit.new.len() as u64,
            "|old|" => self.edit.old.len() as u64,
            other => number(other),
        }
    }
}

fn flag_of(name: &str) -> i32 {
    match name {
        "O_CREAT" => libc::O_CREAT,
        "O_EXCL" => libc::O_EXCL,
        "O_TRUNC" => libc::O_TRUNC,
        "O_APPEND" => libc::O_APPEND,
        "O_NOFOLLOW" => libc::O_NOFOLLOW,
        "O_DIRECTORY" => libc::O_DIRECTORY,
        "O_SYNC" => libc::O_SYNC,
        "O_DSYNC" => libc::O_DSYNC,
        other => panic!("not a flag of a trace: {other}"),
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn octal(text: &str) -> u32 {
    u32::from_str_radix(text, 8).unwrap_or_else(|_| panic!("not a mode: {text}"))
}
