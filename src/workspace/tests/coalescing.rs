//! Whatever programs do between two uploads, only its result is sent: each path at most once and only if it differs, no
//! precondition is stale, and no removal takes the last copy of a content that stays. Against a model with inodes. (A content
//! that was moved to a name which stays here, and back, has left the remote in between as that move says.)

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// Names ending with `~` stay on this machine, and so does what is below them.
const FILES: [&str; 14] =
    ["/a", "/b", "/c", "/d/a", "/d/b", "/d/s/c", "/e/c", "/e/a", "/n/a", "/n/s/c", "/e/m/c", "/l~", "/d/l~", "/k~/a"];
const DIRS: [&str; 6] = ["/d", "/e", "/n", "/d/s", "/e/m", "/k~"];

#[derive(Debug, Clone)]
enum Act {
    Save(usize, u8),
    Burst(usize, u8),
    TruncateAndWrite(usize, u8),
    TemporaryAndRename(usize, u8),
    BackupAndRename(usize, u8),
    LinkedBackup(usize, u8),
    CreateAndUnlink(usize),
    Unlink(usize),
    Rename(usize, usize),
    Cycle(usize, usize, usize),
    Exchange(usize, usize),
    Link(usize, usize),
    Mkdir(usize),
    RenameDir(usize, usize),
    ExchangeDirs(usize, usize),
    Read(usize),
    Drain,
    Crash,
    Follow,
}

fn act() -> impl Strategy<Value = Act> {
    let (f, d, c) = (|| 0..FILES.len(), || 0..DIRS.len(), any::<u8>);
    prop_oneof![
        3 => (f(), c()).prop_map(|(p, c)| Act::Save(p, c)),
        1 => (f(), c()).prop_map(|(p, c)| Act::Burst(p, c)),
        2 => (f(), c()).prop_map(|(p, c)| Act::TruncateAndWrite(p, c)),
        2 => (f(), c()).prop_map(|(p, c)| Act::TemporaryAndRename(p, c)),
        2 => (f(), c()).prop_map(|(p, c)| Act::BackupAndRename(p, c)),
        1 => (f(), c()).prop_map(|(p, c)| Act::LinkedBackup(p, c)),
        1 => f().prop_map(Act::CreateAndUnlink),
        3 => f().prop_map(Act::Unlink),
        5 => (f(), f()).prop_map(|(a, b)| Act::Rename(a, b)),
        2 => (f(), f(), f()).prop_map(|(a, b, c)| Act::Cycle(a, b, c)),
        2 => (f(), f()).prop_map(|(a, b)| Act::Exchange(a, b)),
        2 => (f(), f()).prop_map(|(a, b)| Act::Link(a, b)),
        1 => d().prop_map(Act::Mkdir),
        4 => (d(), d()).prop_map(|(a, b)| Act::RenameDir(a, b)),
        1 => (d(), d()).prop_map(|(a, b)| Act::ExchangeDirs(a, b)),
        1 => f().prop_map(Act::Read),
        2 => Just(Act::Drain),
        1 => Just(Act::Crash),
        1 => Just(Act::Follow),
    ]
}

/// The tree as it must be: what each name is, and what each file holds.
#[derive(Debug, Default)]
struct Model {
    names: BTreeMap<String, u64>,
    content: HashMap<u64, Vec<u8>>,
    dirs: BTreeSet<String>,
    last: u64,
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn is_local(path: &str) -> bool {
    path.split('/').any(|name| name.ends_with('~'))
}

fn moved(path: &str, from: &str, to: &str) -> Option<String> {
    path.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with('/')).map(|rest| format!("{to}{rest}"))
}

impl Model {
    fn of(files: &BTreeMap<String, Vec<u8>>) -> Model {
        let mut model = Model::default();
        for (path, content) in files {
            let mut dir = parent(path);
            while !dir.is_empty() {
                model.dirs.insert(dir.to_owned());
                dir = parent(dir);
            }
            model.save(path, content.clone());
        }
        model
    }

    fn has(&self, path: &str) -> bool {
        self.names.contains_key(path)
    }

    /// Whether a file can be at the path: its directory is there, and it is none itself.
    fn fits(&self, path: &str) -> bool {
        let dir = parent(path);
        (dir.is_empty() || self.dirs.contains(dir)) && !self.dirs.contains(path)
    }

    fn save(&mut self, path: &str, content: Vec<u8>) {
        self.last += 1;
        let file = *self.names.entry(path.to_owned()).or_insert(self.last);
        self.content.insert(file, content);
    }

    /// As rename(2): of two names of one file nothing happens.
    fn rename(&mut self, from: &str, to: &str) {
        if self.names[from] != self.names.get(to).copied().unwrap_or(0) {
            let file = self.names.remove(from).expect("a name");
            self.names.insert(to.to_owned(), file);
        }
    }

    /// Everything below each of the directories goes below the other.
    fn move_dirs(&mut self, pairs: &[(&str, &str)]) {
        let to = |path: &String| pairs.iter().find_map(|(a, b)| moved(path, a, b)).unwrap_or_else(|| path.clone());
        self.names = self.names.iter().map(|(path, file)| (to(path), *file)).collect();
        self.dirs = self.dirs.iter().map(to).collect();
    }

    fn all(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.names.iter().map(|(path, file)| (path, &self.content[file]))
    }

    /// What the remote is to have.
    fn remote(&self) -> BTreeMap<String, Vec<u8>> {
        self.all().filter(|(path, _)| !is_local(path)).map(|(path, content)| (path.clone(), content.clone())).collect()
    }
}

/// What the requests of one drain did, one after the other.
fn assert_only_the_result_was_sent(
    log: &[String],
    before: &BTreeMap<String, Vec<u8>>,
    after: &BTreeMap<String, Vec<u8>>,
    detours: &HashSet<Vec<u8>>,
) -> Result<(), TestCaseError> {
    let mut now = before.clone();
    let mut seen = BTreeSet::new();
    for line in log {
        let mut words = line.split(' ');
        let (what, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        prop_assert!(before.get(path) != after.get(path), "{} was sent although nothing has changed there: {:?}", line, log);
        prop_assert!(seen.insert(path.to_owned()), "{} is the second request of this path: {:?}", line, log);
        match what {
            "PUT" => {
                now.insert(path.to_owned(), after[path].clone());
            }
            "DELETE" => {
                let gone = now.remove(path);
                let stays = after.values().any(|c| Some(c) == gone.as_ref() && !detours.contains(c));
                let is_there = now.values().any(|c| Some(c) == gone.as_ref());
                prop_assert!(!stays || is_there, "{} took the last copy of a content that stays: {:?}", line, log);
            }
            _ => prop_assert!(false, "{} was refused: {:?}", line, log),
        }
    }
    prop_assert_eq!(&now, after);
    Ok(())
}

/// A mount, the model of it, and whether anything is sent between two drains.
struct Work {
    dir: tempfile::TempDir,
    remote: Arc<FakeRemote>,
    rig: Option<Rig>,
    model: Model,
    sends: bool,
    /// What had a name that stays here since the last drain: leaving the remote was the way to there.
    detours: HashSet<Vec<u8>>,
    /// Makes each content its own.
    count: u32,
}

impl Work {
    fn rig(&self) -> &Rig {
        self.rig.as_ref().expect("a mount that runs")
    }

    fn content(&mut self, seed: u8) -> Vec<u8> {
        self.count += 1;
        // Now and then the same bytes as before, now and then no text.
        if seed < 20 { vec![seed, 0xff] } else { format!("{} {seed}", self.count).into_bytes() }
    }

    fn save(&mut self, path: &str, content: &[u8]) {
        self.rig().save(path, content).unwrap();
        self.model.save(path, content.to_vec());
    }

    fn rename(&mut self, from: &str, to: &str) {
        self.rig().rename(from, to).unwrap();
        self.model.rename(from, to);
    }

    fn unlink(&mut self, path: &str) {
        self.rig().unlink(path).unwrap();
        self.model.names.remove(path);
    }

    fn link(&mut self, from: &str, to: &str) {
        self.rig().link(from, to);
        let file = self.model.names[from];
        self.model.names.insert(to.to_owned(), file);
    }

    fn exchange(&self, a: &str, b: &str) {
        let ((x, m), (y, n)) = (self.rig().dir(a).unwrap(), self.rig().dir(b).unwrap());
        self.rig().act(|ws| ws.rename(x, OsStr::new(&m), y, OsStr::new(&n), RenameMode::Exchange)).unwrap();
    }

    /// Acts that make no sense now are left out: which errno they get is asked elsewhere.
    fn act(&mut self, act: Act) -> Result<(), TestCaseError> {
        match act {
            Act::Save(p, c) if self.model.fits(FILES[p]) => {
                let content = self.content(c);
                self.save(FILES[p], &content);
            }
            Act::Burst(p, c) if self.model.fits(FILES[p]) => {
                for _ in 0..4 {
                    let content = self.content(c);
                    self.save(FILES[p], &content);
                }
            }
            Act::TruncateAndWrite(p, c) if self.model.has(FILES[p]) => {
                let (content, rig) = (self.content(c), self.rig());
                let ino = rig.ino(FILES[p]).unwrap();
                let fh = rig.act(|ws| ws.open(ino, libc::O_RDWR)).unwrap().fh;
                let cut = SetAttr { size: Some(0), ..SetAttr::default() };
                rig.act(|ws| ws.setattr(ME, ino, cut)).unwrap();
                rig.ws.write(fh, 0, &content).unwrap();
                rig.ws.flush(fh).unwrap();
                rig.ws.release(fh);
                self.model.save(FILES[p], content);
            }
            Act::TemporaryAndRename(p, c) if self.model.fits(FILES[p]) => {
                let (content, temporary) = (self.content(c), format!("{}.tmp", FILES[p]));
                self.save(&temporary, &content);
                self.rename(&temporary, FILES[p]);
            }
            Act::BackupAndRename(p, c) if self.model.has(FILES[p]) => {
                // Half of the backups have names that stay here.
                let (content, backup) = (self.content(c), format!("{}{}", FILES[p], if c % 2 == 0 { "~" } else { ".bak" }));
                self.rename(FILES[p], &backup);
                self.save(FILES[p], &content);
                self.unlink(&backup);
            }
            Act::LinkedBackup(p, c) if self.model.has(FILES[p]) => {
                let (content, path) = (self.content(c), FILES[p]);
                self.link(path, &format!("{path}.old"));
                self.save(&format!("{path}.tmp"), &content);
                self.rename(&format!("{path}.tmp"), path);
                self.unlink(&format!("{path}.old"));
            }
            Act::CreateAndUnlink(p) if self.model.fits(FILES[p]) && !self.model.has(FILES[p]) => {
                self.save(FILES[p], b"for a moment");
                self.unlink(FILES[p]);
            }
            Act::Unlink(p) if self.model.has(FILES[p]) => self.unlink(FILES[p]),
            Act::Rename(a, b) if self.model.has(FILES[a]) && self.model.fits(FILES[b]) => self.rename(FILES[a], FILES[b]),
            Act::Cycle(a, b, c) if [a, b, c].iter().all(|p| self.model.has(FILES[*p])) && a != b && b != c && a != c => {
                for (from, to) in [(FILES[a], "/turn"), (FILES[b], FILES[a]), (FILES[c], FILES[b]), ("/turn", FILES[c])] {
                    // Two names of one file stay both.
                    if self.model.has(from) {
                        self.rename(from, to);
                    }
                }
                if self.model.has("/turn") {
                    self.unlink("/turn");
                }
            }
            Act::Exchange(a, b) if self.model.has(FILES[a]) && self.model.has(FILES[b]) => {
                self.exchange(FILES[a], FILES[b]);
                let (x, y) = (self.model.names[FILES[a]], self.model.names[FILES[b]]);
                self.model.names.extend([(FILES[a].to_owned(), y), (FILES[b].to_owned(), x)]);
            }
            Act::Link(a, b) if self.model.has(FILES[a]) && self.model.fits(FILES[b]) && !self.model.has(FILES[b]) => {
                self.link(FILES[a], FILES[b]);
            }
            Act::Mkdir(d) if self.model.fits(DIRS[d]) && !self.model.has(DIRS[d]) => {
                self.rig().mkdir(DIRS[d]).unwrap();
                self.model.dirs.insert(DIRS[d].to_owned());
            }
            Act::RenameDir(a, b)
                if self.model.dirs.contains(DIRS[a]) && self.model.fits(DIRS[b]) && moved(DIRS[b], DIRS[a], "").is_none() =>
            {
                self.rename_dir(DIRS[a], DIRS[b]);
            }
            Act::ExchangeDirs(a, b) if [a, b].iter().all(|d| self.model.dirs.contains(DIRS[*d])) => {
                let (x, y) = (DIRS[a], DIRS[b]);
                if moved(x, y, "").is_none() && moved(y, x, "").is_none() {
                    self.exchange(x, y);
                    self.model.move_dirs(&[(x, y), (y, x)]);
                }
            }
            Act::Read(p) if self.model.has(FILES[p]) => {
                let file = self.model.names[FILES[p]];
                prop_assert_eq!(&self.rig().read(FILES[p]).unwrap(), &self.model.content[&file]);
            }
            Act::Drain => self.drain()?,
            Act::Crash => self.restart(),
            Act::Follow => self.rig().follow(),
            _ => {}
        }
        Ok(())
    }

    fn restart(&mut self) {
        self.rig.take().expect("a mount that runs").crash();
        let rig = Rig::start_without_sending(self.dir.path(), &self.remote);
        if self.sends {
            rig.gate.open();
        }
        self.rig = Some(rig);
    }

    fn rename_dir(&mut self, from: &str, to: &str) {
        self.rig().rename(from, to).unwrap();
        self.model.move_dirs(&[(from, to)]);
    }

    fn drain(&mut self) -> Result<(), TestCaseError> {
        let before = self.remote.files();
        prop_assert_eq!(self.rig().drain(), 0);
        let log = self.remote.take_log();
        if self.sends {
            prop_assert!(!log.iter().any(|l| l.starts_with("409")), "a precondition was stale: {:?}", log);
        } else {
            // A closed gate holds back what is claimed after it; what a thread is just claiming, only its end does.
            self.restart();
            assert_only_the_result_was_sent(&log, &before, &self.model.remote(), &self.detours)?;
        }
        self.detours.clear();
        prop_assert_eq!(self.remote.files(), self.model.remote());
        Ok(())
    }
}

fn work(acts: Vec<Act>, sends: bool) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let seed: [(&str, &[u8]); 7] = [
        ("/a", b"seed a"),
        ("/b", b"seed b"),
        ("/d/a", b"seed d/a"),
        ("/d/b", &[0xff; 9]),
        ("/d/s/c", b"seed d/s/c"),
        ("/e/c", b"seed e/c"),
        ("/e/a", b"seed e/a"),
    ];
    let remote = Arc::new(FakeRemote::seeded(&seed));
    let rig = Rig::start_without_sending(dir.path(), &remote);
    rig.ws.learn(&remote.newest_mark().unwrap()).unwrap();
    if sends {
        rig.gate.open();
    }
    let model = Model::of(&remote.files());
    let mut work = Work { dir, remote, rig: Some(rig), model, sends, detours: HashSet::new(), count: 0 };
    for act in acts {
        work.act(act)?;
        let local = work.model.all().filter(|(path, _)| is_local(path)).map(|(_, content)| content.clone());
        work.detours.extend(local);
    }
    let all: Vec<(String, Vec<u8>)> = work.model.all().map(|(path, content)| (path.clone(), content.clone())).collect();
    for (path, content) in all {
        prop_assert_eq!(work.rig().read(&path).unwrap(), content, "{}", path);
    }
    work.drain()?;
    prop_assert_eq!(work.rig().ws.journal().queue_numbers().unwrap().dead, 0);
    Ok(())
}

#[test]
fn a_name_that_was_used_again_and_left_again_is_not_deleted_before_its_file_has_arrived() {
    let (_dir, rig) = rig(&[("/d/a", b"content")]);
    rig.gate.close();
    rig.rename("/d/a", "/b").unwrap();
    rig.save("/d/a", b"for a moment").unwrap();
    rig.unlink("/d/a").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.take_log(), ["PUT /b 0", "DELETE /d/a rev_1"]);
}

/// Whatever the workers' race, the order is in the journal: the second of two operations that are linked is not handed out.
fn assert_in_order(rig: &Rig, first: &str, second: &str) {
    rig.remote.fail_next(ErrorKind::Rejected, false);
    rig.gate.open();
    wait_until("the first is refused", || rig.ws.journal().queue_numbers().unwrap().dead == 1);
    wait_until("nothing is left to do", || rig.drain() == 0);
    assert!(rig.remote.take_log().is_empty(), "{second} was sent although {first} had been refused");
}

#[test]
fn the_delete_of_a_name_waits_for_the_file_to_arrive_under_its_other_name() {
    let (_dir, rig) = rig(&[("/a", b"content")]);
    rig.gate.close();
    rig.link("/a", "/b");
    rig.unlink("/a").unwrap();
    assert_in_order(&rig, "PUT /b", "DELETE /a");
    assert_eq!(rig.remote.content("/a").unwrap(), b"content", "the remote's only copy");
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/a").unwrap(), b"content", "what was not deleted shows again");
}

#[test]
fn the_delete_of_a_name_waits_for_whichever_other_name_is_left() {
    let (_dir, rig) = rig(&[("/a", b"content")]);
    rig.gate.close();
    rig.link("/a", "/b");
    rig.link("/a", "/c");
    rig.unlink("/a").unwrap();
    rig.unlink("/b").unwrap();
    assert_in_order(&rig, "PUT /c", "DELETE /a");
}

#[test]
fn the_delete_of_a_name_follows_a_file_whose_other_name_is_replaced() {
    let (_dir, rig) = rig(&[("/a", b"content"), ("/other", b"other")]);
    rig.gate.close();
    rig.link("/a", "/b");
    rig.link("/a", "/c");
    rig.unlink("/a").unwrap();
    rig.rename("/other", "/b").unwrap();
    assert_eq!(rig.drain(), 0);
    let log = rig.remote.take_log();
    let at = |what: &str| log.iter().position(|l| l == what).unwrap_or_else(|| panic!("{what} not in {log:?}"));
    assert!(at("PUT /c 0") < at("DELETE /a rev_1") && at("PUT /b 0") < at("DELETE /other rev_2"), "{log:?}");
}

#[test]
fn the_delete_of_a_name_does_not_wait_where_the_file_is_at_the_remote_under_another() {
    let (_dir, rig) = rig(&[("/a", b"content")]);
    rig.link("/a", "/b");
    assert_eq!(rig.drain(), 0);
    rig.gate.close();
    rig.link("/a", "/c");
    rig.unlink("/a").unwrap();
    assert_eq!(rig.drain(), 0);
    let mut log = rig.remote.take_log();
    log.sort();
    assert_eq!(log, ["DELETE /a rev_1", "PUT /b 0", "PUT /c 0"]);
}

#[test]
fn a_directory_with_two_links_of_one_base_name_moves_whole() {
    let (_dir, rig) = rig(&[("/d/a", b"content")]);
    rig.mkdir("/d/s").unwrap();
    rig.link("/d/a", "/d/s/a");
    assert_eq!(rig.drain(), 0);
    rig.rename("/d", "/n").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.files().into_keys().collect::<Vec<_>>(), ["/n/a", "/n/s/a"]);
}

#[test]
fn what_exchanged_directories_leave_is_not_deleted_before_it_has_arrived() {
    let (_dir, rig) = rig(&[("/d/a", b"one"), ("/e/b", b"two")]);
    rig.gate.close();
    rig.act(|ws| ws.rename(Ino::ROOT, OsStr::new("d"), Ino::ROOT, OsStr::new("e"), RenameMode::Exchange)).unwrap();
    assert_eq!(rig.drain(), 0);
    let log = rig.remote.take_log();
    let at = |what: &str| log.iter().position(|l| l == what).unwrap_or_else(|| panic!("{what} not in {log:?}"));
    assert!(at("PUT /e/a 0") < at("DELETE /d/a rev_1") && at("PUT /d/b 0") < at("DELETE /e/b rev_2"), "{log:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_work_only_its_result_was_sent(acts in prop::collection::vec(act(), 1..40)) {
        work(acts, false)?;
    }

    #[test]
    fn after_any_work_under_uploads_the_remote_is_the_view(acts in prop::collection::vec(act(), 1..40)) {
        work(acts, true)?;
    }
}
