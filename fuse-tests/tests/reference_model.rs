//! Random operations on a mount and on a directory of the local disk, which is the reference: both must answer alike and be
//! alike after each step, and the remote at the end. Among them are remounts, kill -9, and writes of others at the remote.
//!
//! `RELAYFILE_MODEL_OPERATIONS` (default 150) and `RELAYFILE_MODEL_SEEDS` (numbers, separated by commas) ask for more;
//! `scripts/model` does. A failure prints its seed and its last steps: it becomes a test of its own.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

use fuse_tests::{Mount, Options, Server, noise, sys, until};

/// Most handles that are open at once.
const HANDLES: usize = 3;
/// The names of which paths are made; `l~` never goes to the remote.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e.txt", "l~"];
const ATTRIBUTE: &std::ffi::CStr = c"user.note";
/// How many of the last steps a failure prints.
const SHOWN: usize = 40;

#[derive(Debug, Clone)]
enum Step {
    Write(String, Vec<u8>),
    Append(String, Vec<u8>),
    WriteAt(String, u64, Vec<u8>),
    Truncate(String, u64),
    Replace(String, Vec<u8>),
    Rename(String, String),
    NoReplace(String, String),
    Exchange(String, String),
    Unlink(String),
    Mkdir(String),
    Rmdir(String),
    Symlink(&'static str, String),
    Link(String, String),
    Chmod(String, u32),
    Utimens(String, u64),
    SetAttribute(String, Vec<u8>),
    Open(String),
    WriteHandle(usize, u64, Vec<u8>),
    TruncateHandle(usize, u64),
    SyncHandle(usize),
    CloseHandle(usize),
    Settle,
    Remount,
    Kill,
    RemoteWrite(String, Vec<u8>),
    RemoteDelete(String),
}

/// SplitMix64 (Steele, Lea, Flood 2014): one seed for one sequence.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.below(from.len())].clone())
    }

    /// Text mostly, so that merges and types have both; short mostly.
    fn content(&mut self) -> Vec<u8> {
        let length = [0, 1, 7, 40, 40, 4096, 5000, 70_000][self.below(8)];
        let seed = self.next();
        match self.below(3) {
            0 => noise(length, seed),
            _ => format!("{seed:x} line\n").into_bytes().into_iter().cycle().take(length).collect(),
        }
    }
}

/// What a path is, as far as both sides must agree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: char,
    mode: u32,
    links: u64,
    content: Vec<u8>,
    attribute: Option<Vec<u8>>,
    /// `None` where it is not compared: each side has its own moment of a change.
    mtime: Option<(i64, i64)>,
}

/// One of both sides: its directory, and the handles that are open there.
struct Side {
    root: std::path::PathBuf,
    handles: Vec<File>,
}

impl Side {
    fn at(&self, path: &str) -> std::path::PathBuf {
        self.root.join(path)
    }

    /// Does a step that programs on this machine do.
    fn act(&mut self, step: &Step) -> io::Result<()> {
        let write = |path: &str| OpenOptions::new().write(true).open(self.at(path));
        match step {
            Step::Write(path, content) => fs::write(self.at(path), content),
            Step::Append(path, content) => OpenOptions::new().append(true).create(true).open(self.at(path))?.write_all(content),
            Step::WriteAt(path, at, content) => write(path)?.write_all_at(content, *at),
            Step::Truncate(path, length) => sys::truncate(&self.at(path), *length as i64),
            Step::Replace(path, content) => {
                let temporary = self.at(&format!("{path}.tmp"));
                fs::write(&temporary, content)?;
                fs::rename(&temporary, self.at(path)).inspect_err(|_| drop(fs::remove_file(&temporary)))
            }
            Step::Rename(from, to) => fs::rename(self.at(from), self.at(to)),
            Step::NoReplace(from, to) => sys::rename_with(&self.at(from), &self.at(to), libc::RENAME_NOREPLACE),
            Step::Exchange(from, to) => sys::rename_with(&self.at(from), &self.at(to), libc::RENAME_EXCHANGE),
            Step::Unlink(path) => fs::remove_file(self.at(path)),
            Step::Mkdir(path) => fs::create_dir(self.at(path)),
            Step::Rmdir(path) => fs::remove_dir(self.at(path)),
            Step::Symlink(target, path) => symlink(target, self.at(path)),
            Step::Link(from, to) => fs::hard_link(self.at(from), self.at(to)),
            Step::Chmod(path, mode) => fs::set_permissions(self.at(path), Permissions::from_mode(*mode)),
            Step::Utimens(path, nanos) => File::open(self.at(path))?.set_modified(UNIX_EPOCH + Duration::from_nanos(*nanos)),
            Step::SetAttribute(path, value) => sys::set_xattr(&self.at(path), ATTRIBUTE, value),
            Step::Open(path) => {
                let file = OpenOptions::new().read(true).write(true).open(self.at(path))?;
                self.handles.push(file);
                Ok(())
            }
            Step::WriteHandle(i, at, content) => self.handles[*i].write_all_at(content, *at),
            Step::TruncateHandle(i, length) => self.handles[*i].set_len(*length),
            Step::SyncHandle(i) => self.handles[*i].sync_all(),
            Step::CloseHandle(i) => {
                drop(self.handles.remove(*i));
                Ok(())
            }
            other => panic!("not a step of a program: {other:?}"),
        }
    }

    /// Everything below the root but `.relay`.
    fn look(&self) -> BTreeMap<String, Seen> {
        let mut seen = BTreeMap::new();
        let mut left = vec![String::new()];
        while let Some(dir) = left.pop() {
            let entries = fs::read_dir(self.at(&dir)).unwrap_or_else(|e| panic!("readdir of {dir:?}: {e}"));
            for entry in entries {
                let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
                if dir.is_empty() && name == ".relay" {
                    continue;
                }
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                let full = self.at(&path);
                let m = full.symlink_metadata().unwrap_or_else(|e| panic!("{path} is listed, and stat says {e}"));
                let (kind, content) = match m.file_type() {
                    t if t.is_dir() => ('d', Vec::new()),
                    t if t.is_symlink() => ('l', fs::read_link(&full).expect("a link").into_os_string().into_encoded_bytes()),
                    _ => ('f', fs::read(&full).unwrap_or_else(|e| panic!("{path} is listed, and reading says {e}"))),
                };
                if kind == 'f' {
                    assert_eq!(m.len(), content.len() as u64, "stat and read disagree about {path}");
                }
                if kind == 'd' {
                    left.push(path.clone());
                }
                let attribute = if kind == 'l' { None } else { sys::get_xattr(&full, ATTRIBUTE).ok() };
                // The number of links of a directory is the filesystem's own affair: 1 where it does not count.
                let links = if kind == 'd' { 0 } else { m.nlink() };
                let mtime = Some((m.mtime(), m.mtime_nsec()));
                seen.insert(path, Seen { kind, mode: m.mode() & 0o7777, links, content, attribute, mtime });
            }
        }
        seen
    }
}

/// A mount and the directory that it is compared with.
struct Pair {
    server: Server,
    mount: Mount,
    ours: Side,
    reference: Side,
    _dir: tempfile::TempDir,
    /// Times that were set. A file of the reference that has one was not changed since.
    set_times: HashSet<(i64, i64)>,
    steps: Vec<String>,
    /// How many steps of programs succeeded.
    done: usize,
    seed: u64,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.steps.len().saturating_sub(SHOWN);
            eprintln!("--- seed {}, step {}; the last steps:\n{}", self.seed, self.steps.len(), self.steps[from..].join("\n"));
        }
    }
}

/// A step on one line, with contents cut short.
fn brief(step: &Step) -> String {
    fn cut(text: &str) -> String {
        let mut out = String::new();
        for (i, part) in text.split('[').enumerate() {
            if i == 0 {
                out += part;
                continue;
            }
            let (bytes, rest) = part.split_once(']').unwrap_or((part, ""));
            out += &format!("[{} bytes]{rest}", bytes.split(',').filter(|b| !b.trim().is_empty()).count());
        }
        out
    }
    cut(&format!("{step:?}"))
}

impl Pair {
    fn new(seed: u64, settle: &'static str) -> Pair {
        let server = Server::start();
        let dir = tempfile::tempdir().expect("a directory");
        for (path, content) in [("a", "at the start\n"), ("d/a", "below\n"), ("d/b/c", "deep\n"), ("e.txt", "text\n")] {
            server.put(&format!("/{path}"), content);
            let file = dir.path().join(path);
            fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            fs::write(file, content).expect("a file");
        }
        let mount = Mount::with(&server, Options { settle, ..Options::default() });
        let ours = Side { root: mount.path(), handles: Vec::new() };
        let reference = Side { root: dir.path().to_owned(), handles: Vec::new() };
        // What the remote implies has modes of its own choice: from here on they are those of the reference.
        for path in ["a", "d", "d/a", "d/b", "d/b/c", "e.txt"] {
            let mode = if path.ends_with(['d', 'b']) { 0o755 } else { 0o644 };
            for side in [&ours, &reference] {
                fs::set_permissions(side.at(path), Permissions::from_mode(mode)).expect("a mode");
            }
        }
        Pair { server, mount, ours, reference, _dir: dir, set_times: HashSet::new(), steps: Vec::new(), done: 0, seed }
    }

    fn choose(&self, chance: &mut Chance) -> Step {
        let seen = self.reference.look();
        let of = |kind: char| seen.iter().filter(|(_, s)| s.kind == kind).map(|(p, _)| p.clone()).collect::<Vec<_>>();
        let (files, mut dirs) = (of('f'), of('d'));
        dirs.retain(|d| d.matches('/').count() < 3);
        dirs.push(String::new());
        let any: Vec<String> = seen.keys().cloned().collect();
        let somewhere = |chance: &mut Chance| {
            let dir = chance.pick(&dirs).unwrap_or_default();
            let name = NAMES[chance.below(NAMES.len())];
            if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
        };
        let path = |chance: &mut Chance, from: &[String]| match chance.below(4) {
            0 => somewhere(chance),
            _ => chance.pick(from).unwrap_or_else(|| "a".into()),
        };
        let open = self.ours.handles.len();
        loop {
            return match chance.below(60) {
                0..=5 => Step::Write(somewhere(chance), chance.content()),
                6..=8 => Step::Write(path(chance, &files), chance.content()),
                9..=11 => Step::Append(path(chance, &files), chance.content()),
                12 | 13 => Step::WriteAt(path(chance, &files), chance.below(9000) as u64, chance.content()),
                14 | 15 => Step::Truncate(path(chance, &files), [0, 3, 100, 10_000][chance.below(4)]),
                16..=18 => Step::Replace(path(chance, &files), chance.content()),
                19..=21 => Step::Rename(path(chance, &files), somewhere(chance)),
                22..=24 => Step::Rename(path(chance, &any), path(chance, &any)),
                25 => Step::NoReplace(path(chance, &any), somewhere(chance)),
                26 | 27 => Step::Exchange(path(chance, &any), path(chance, &any)),
                28..=30 => Step::Unlink(path(chance, &files)),
                31 => Step::Unlink(path(chance, &any)),
                32..=34 => Step::Mkdir(somewhere(chance)),
                35 | 36 => Step::Rmdir(path(chance, &dirs[..dirs.len() - 1])),
                37 => Step::Symlink(NAMES[chance.below(NAMES.len())], somewhere(chance)),
                38 | 39 => Step::Link(path(chance, &files), somewhere(chance)),
                40 | 41 => Step::Chmod(path(chance, &any), [0o600, 0o644, 0o640, 0o755, 0o444][chance.below(5)]),
                42 | 43 => Step::Utimens(path(chance, &files), chance.next() % 2_000_000_000_000_000_000),
                44 => Step::SetAttribute(path(chance, &any), noise(chance.below(30), chance.next())),
                45 | 46 if open < HANDLES => Step::Open(path(chance, &files)),
                47 | 48 if open > 0 => Step::WriteHandle(chance.below(open), chance.below(5000) as u64, chance.content()),
                49 if open > 0 => Step::TruncateHandle(chance.below(open), chance.below(5000) as u64),
                50 if open > 0 => Step::SyncHandle(chance.below(open)),
                51 | 52 if open > 0 => Step::CloseHandle(chance.below(open)),
                53 => Step::Settle,
                54 => Step::Remount,
                55 => Step::Kill,
                56 | 57 => Step::RemoteWrite(path(chance, &files), chance.content()),
                58 => Step::RemoteWrite(somewhere(chance), chance.content()),
                59 => Step::RemoteDelete(path(chance, &files)),
                _ => continue,
            };
        }
    }

    /// Whether others can change this path at the remote, and the reference still be right: a file of one name, or none, that
    /// is not kept on this machine.
    fn is_others_too(&self, path: &str) -> bool {
        let is_local = path.split('/').any(|name| name.ends_with('~'));
        let free = match self.reference.at(path).symlink_metadata() {
            Ok(m) => m.is_file() && m.nlink() == 1,
            Err(_) => self.reference.at(path).parent().is_some_and(|p| p.symlink_metadata().is_ok_and(|m| m.is_dir())),
        };
        !is_local && free
    }

    fn close_all(&mut self) {
        self.ours.handles.clear();
        self.reference.handles.clear();
    }

    fn step(&mut self, step: &Step) {
        self.steps.push(brief(step));
        match step {
            Step::Settle => {
                self.close_all();
                self.mount.wait_clean();
            }
            Step::Remount => {
                self.close_all();
                self.mount.remount();
            }
            Step::Kill => {
                self.close_all();
                self.mount.kill9();
                self.mount.detach();
                self.mount.start_again();
            }
            Step::RemoteWrite(path, content) if self.is_others_too(path) => {
                self.close_all();
                self.mount.wait_clean();
                self.server.put(&format!("/{path}"), content);
                fs::write(self.reference.at(path), content).expect("the reference");
                until("the write of somebody else shows", || fs::read(self.ours.at(path)).is_ok_and(|c| c == *content));
            }
            Step::RemoteDelete(path) if self.is_others_too(path) && self.reference.at(path).exists() => {
                self.close_all();
                self.mount.wait_clean();
                self.server.delete(&format!("/{path}"));
                fs::remove_file(self.reference.at(path)).expect("the reference");
                until("the removal by somebody else shows", || !self.ours.at(path).exists());
            }
            Step::RemoteWrite(..) | Step::RemoteDelete(..) => {}
            local => self.local(local),
        }
        self.compare();
    }

    fn local(&mut self, step: &Step) {
        let (expected, answer) = (self.reference.act(step), self.ours.act(step));
        let code = |r: &io::Result<()>| r.as_ref().err().map(|e| e.raw_os_error().unwrap_or(-1));
        assert_eq!(code(&answer), code(&expected), "the answer to {} (here, on disk)", brief(step));
        self.done += usize::from(expected.is_ok());
        if let (Step::Utimens(path, _), Ok(())) = (step, expected) {
            let m = self.reference.at(path).metadata().expect("the reference");
            self.set_times.insert((m.mtime(), m.mtime_nsec()));
        }
    }

    #[track_caller]
    fn compare(&self) {
        let (mut here, mut there) = (self.ours.look(), self.reference.look());
        for (path, seen) in &mut there {
            if !seen.mtime.is_some_and(|t| self.set_times.contains(&t)) {
                seen.mtime = None;
                here.entry(path.clone()).and_modify(|s| s.mtime = None);
            }
        }
        assert_same("here", &here, "on disk", &there);
        for (i, (a, b)) in self.ours.handles.iter().zip(&self.reference.handles).enumerate() {
            let (m, n) = (a.metadata().expect("fstat"), b.metadata().expect("fstat"));
            assert_eq!((m.len(), m.nlink()), (n.len(), n.nlink()), "size and links of handle {i} (here, on disk)");
            let read = |f: &File| {
                let mut bytes = vec![0; n.len() as usize];
                f.read_exact_at(&mut bytes, 0).map(|()| bytes).expect("reading by a handle")
            };
            assert!(read(a) == read(b), "handle {i} reads something else here than on disk");
        }
    }

    /// The remote has each name of each file, and another machine sees them.
    #[track_caller]
    fn finish(mut self) {
        self.close_all();
        self.mount.wait_clean();
        self.compare();
        eprintln!("{} steps of programs succeeded, {} files and directories at the end", self.done, self.reference.look().len());
        let is_local = |path: &str| path.split('/').any(|name| name.ends_with('~'));
        let expected: BTreeMap<String, Vec<u8>> = (self.reference.look().into_iter())
            .filter(|(path, s)| s.kind == 'f' && !is_local(path))
            .map(|(path, s)| (format!("/{path}"), s.content))
            .collect();
        let paths = self.server.paths();
        let remote: BTreeMap<String, Vec<u8>> =
            paths.into_iter().map(|p| (p.clone(), self.server.get(&p).expect("a listed file").content)).collect();
        assert_same("at the remote", &remote, "on disk", &expected);
        let other = Mount::start(&self.server);
        for (path, content) in &expected {
            assert!(fs::read(other.at(&path[1..])).is_ok_and(|c| c == *content), "another mount shows {path} otherwise");
        }
    }
}

#[track_caller]
fn assert_same<T: PartialEq + Debug>(one: &str, a: &BTreeMap<String, T>, other: &str, b: &BTreeMap<String, T>) {
    let short = |value: Option<&T>| value.map(|v| format!("{v:?}").chars().take(300).collect::<String>());
    for path in a.keys().chain(b.keys()) {
        let (x, y) = (a.get(path), b.get(path));
        assert!(x == y, "{path}\n{one}: {:?}\n{other}: {:?}", short(x), short(y));
    }
}

fn numbers(name: &str, otherwise: u64) -> Vec<u64> {
    let Ok(asked) = std::env::var(name) else { return vec![otherwise] };
    asked.split(',').map(|n| n.trim().parse().unwrap_or_else(|_| panic!("{name} has no number: {n:?}"))).collect()
}

#[track_caller]
fn random_steps(seed: u64, settle: &'static str) {
    let steps = numbers("RELAYFILE_MODEL_OPERATIONS", 150)[0];
    for seed in numbers("RELAYFILE_MODEL_SEEDS", seed) {
        eprintln!("seed {seed}, {steps} steps, settle {settle}");
        let mut chance = Chance(seed);
        let mut pair = Pair::new(seed, settle);
        pair.compare();
        for _ in 0..steps {
            let step = pair.choose(&mut chance);
            pair.step(&step);
        }
        pair.finish();
    }
}

#[test]
fn random_steps_while_uploads_run_between_them() {
    random_steps(1, "1ms");
}

#[test]
fn random_steps_that_are_coalesced() {
    random_steps(2, "1s");
}

#[test]
fn random_steps_with_some_of_each() {
    random_steps(3, "100ms");
}
