//! The tree, the journal and writeback together, over a remote in memory.

mod bases;
mod batches;
mod coalescing;
mod delivery;
mod letters;
mod letters_kept;
mod letters_random;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};

use super::*;
use crate::remote::fake::FakeRemote;
use crate::remote::{ErrorKind, FeedMark};
use crate::writeback::{Gate, Settings, Writeback};

const ME: Caller = Caller { uid: 0, gid: 0 };
const SOON: Duration = Duration::from_secs(10);

/// A mount without a kernel. Dropping it is a crash: nothing is closed.
struct Rig {
    ws: Arc<Workspace>,
    writeback: Writeback,
    gate: Arc<Gate>,
    remote: Arc<FakeRemote>,
}

impl Rig {
    fn start(dir: &Path, remote: &Arc<FakeRemote>) -> Rig {
        let rig = Rig::start_without_sending(dir, remote);
        rig.gate.open();
        rig
    }

    /// As a start; but nothing is sent before the first drain.
    fn start_without_sending(dir: &Path, remote: &Arc<FakeRemote>) -> Rig {
        let journal = Journal::open(dir).unwrap();
        let wake = bounded(1);
        let options = Options { uid: 0, gid: 0, settle: Duration::from_millis(0), local_only: None };
        let as_remote: Arc<dyn Remote> = remote.clone();
        let ws = Workspace::load(dir, journal.clone(), as_remote.clone(), options, unbounded().0, wake.0.clone()).unwrap();
        let ws = Arc::new(ws);
        let gate = Arc::new(Gate::new(wake.0.clone()));
        let settings = Settings { workers: 2, max_attempts: 2 };
        let writeback = Writeback::start(&settings, journal, ws.clone(), as_remote, wake, gate.clone()).unwrap();
        Rig { ws, writeback, gate, remote: remote.clone() }
    }

    /// Does an operation as the adapter does: fetches what it needs and repeats it.
    fn act<T>(&self, f: impl Fn(&Workspace) -> FsResult<T>) -> FsResult<T> {
        for _ in 0..8 {
            match f(&self.ws) {
                Err(FsError::Need(need)) => self.ws.fulfil(need)?,
                other => return other,
            }
        }
        panic!("needs never end")
    }

    fn dir(&self, path: &str) -> FsResult<(Ino, String)> {
        let (dir, name) = path.rsplit_once('/').unwrap();
        let mut at = Ino::ROOT;
        for part in dir.split('/').filter(|p| !p.is_empty()) {
            at = self.act(|ws| ws.lookup(at, OsStr::new(part)))?.attr.ino;
        }
        Ok((at, name.to_owned()))
    }

    fn ino(&self, path: &str) -> FsResult<Ino> {
        let (dir, name) = self.dir(path)?;
        Ok(self.act(|ws| ws.lookup(dir, OsStr::new(&name)))?.attr.ino)
    }

    /// open(O_CREAT|O_TRUNC), write, close.
    fn save(&self, path: &str, bytes: &[u8]) -> FsResult<()> {
        let (dir, name) = self.dir(path)?;
        let flags = libc::O_WRONLY | libc::O_TRUNC;
        let fh = match self.act(|ws| ws.lookup(dir, OsStr::new(&name))) {
            Ok(e) => self.act(|ws| ws.open(e.attr.ino, flags))?.fh,
            Err(_) => self.act(|ws| ws.create(ME, dir, OsStr::new(&name), 0o644, flags))?.1.fh,
        };
        self.ws.write(fh, 0, bytes)?;
        self.ws.flush(fh)?;
        self.ws.release(fh);
        Ok(())
    }

    fn read(&self, path: &str) -> FsResult<Vec<u8>> {
        let ino = self.ino(path)?;
        let fh = self.act(|ws| ws.open(ino, libc::O_RDONLY))?.fh;
        let size = self.act(|ws| ws.getattr(ino))?.size;
        let bytes = self.ws.read(fh, 0, size as u32 + 10)?;
        assert_eq!(bytes.len() as u64, size, "stat and read disagree about {path}");
        self.ws.release(fh);
        Ok(bytes)
    }

    fn rename(&self, from: &str, to: &str) -> FsResult<()> {
        let ((a, x), (b, y)) = (self.dir(from)?, self.dir(to)?);
        self.act(|ws| ws.rename(a, OsStr::new(&x), b, OsStr::new(&y), RenameMode::Replace))
    }

    fn unlink(&self, path: &str) -> FsResult<()> {
        let (dir, name) = self.dir(path)?;
        self.act(|ws| ws.unlink(dir, OsStr::new(&name)))
    }

    fn mkdir(&self, path: &str) -> FsResult<()> {
        let (dir, name) = self.dir(path)?;
        self.act(|ws| ws.mkdir(ME, dir, OsStr::new(&name), 0o755)).map(drop)
    }

    fn link(&self, from: &str, to: &str) {
        let (ino, (dir, name)) = (self.ino(from).unwrap(), self.dir(to).unwrap());
        self.act(|ws| ws.link(ino, dir, OsStr::new(&name))).unwrap();
    }

    fn drain(&self) -> u64 {
        self.gate.open();
        self.writeback.drain(SOON).unwrap()
    }

    fn follow(&self) {
        let mark = self.ws.mark().unwrap();
        let page = self.remote.events(mark.before.as_deref()).unwrap();
        let seen = usize::from(mark.last.is_some());
        self.ws.apply_events(&page.events[seen..], &self.remote.newest_mark().unwrap()).unwrap();
    }

    /// Stops the threads; the state directory stays as a crash would leave it, but for requests under way.
    fn crash(self) {
        assert!(self.writeback.stop(SOON));
    }
}

fn rig(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Rig) {
    let dir = tempfile::tempdir().unwrap();
    let remote = Arc::new(FakeRemote::seeded(files));
    let rig = Rig::start(dir.path(), &remote);
    rig.ws.learn(&remote.newest_mark().unwrap()).unwrap();
    (dir, rig)
}

#[test]
fn a_save_reaches_the_remote_once_with_the_revision_it_was_based_on() {
    let (_dir, rig) = rig(&[("/a/x.md", b"old")]);
    assert_eq!(rig.read("/a/x.md").unwrap(), b"old");
    rig.save("/a/x.md", b"new").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.take_log(), ["PUT /a/x.md rev_1"]);
    assert_eq!(rig.remote.content("/a/x.md").unwrap(), b"new");
    rig.follow();
    assert_eq!(rig.read("/a/x.md").unwrap(), b"new");
    assert_eq!(rig.remote.reads(), 1, "the echo of our own write was fetched");
}

#[test]
fn our_own_writes_coming_back_late_change_nothing() {
    let (_dir, rig) = rig(&[("/x", b"old"), ("/y", b"old")]);
    for content in [b"one", b"two"] {
        rig.save("/x", content).unwrap();
        assert_eq!(rig.drain(), 0);
    }
    rig.unlink("/y").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.save("/y", b"again").unwrap();
    assert_eq!(rig.drain(), 0);
    let inos = (rig.ino("/x").unwrap(), rig.ino("/y").unwrap());
    // One event at a time, as a slow poll would see them.
    for event in rig.remote.events(None).unwrap().events.split_off(2) {
        rig.ws.apply_events(&[event], &FeedMark::default()).unwrap();
        assert_eq!((rig.read("/x").unwrap(), rig.read("/y").unwrap()), (b"two".to_vec(), b"again".to_vec()));
        assert_eq!((rig.ino("/x").unwrap(), rig.ino("/y").unwrap()), inos);
    }
    assert_eq!(rig.remote.reads(), 0);
}

#[test]
fn a_change_that_was_heard_of_during_an_upload_is_shown_afterwards() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.remote.set_down(true);
    rig.save("/x", b"mine").unwrap();
    rig.remote.set_down(false);
    rig.drain();
    rig.remote.write("/x", b"theirs, later");
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/x").unwrap(), b"theirs, later");
}

#[test]
fn a_revision_name_that_a_restarted_server_uses_again_is_news() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.save("/x", b"mine").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.follow();
    // The server comes back with an older copy of its data, which is listed and compared, and counts on from there.
    let restored = FakeRemote::seeded(&[("/x", b"old")]);
    rig.remote.become_like(&restored);
    rig.ws.learn(&rig.remote.newest_mark().unwrap()).unwrap();
    assert_eq!(rig.read("/x").unwrap(), b"old");
    rig.remote.write("/x", b"theirs");
    rig.follow();
    assert_eq!(rig.read("/x").unwrap(), b"theirs", "its revision has the name that our save had");
}

#[test]
fn a_save_of_the_same_bytes_sends_nothing() {
    let (_dir, rig) = rig(&[("/x", b"same")]);
    rig.save("/x", b"same").unwrap();
    assert_eq!(rig.drain(), 0);
    assert!(rig.remote.take_log().is_empty());
    assert!(!rig.ws.has_work(&"/x".parse().unwrap()));
}

#[test]
fn a_temporary_file_renamed_over_its_target_is_one_update_of_the_target() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.gate.close(); // nothing is sent before the drain opens it
    rig.save("/x.tmp", b"new").unwrap();
    rig.rename("/x.tmp", "/x").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.take_log(), ["PUT /x rev_1"]);
}

#[test]
fn a_backup_rename_and_a_new_file_are_one_update() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.gate.close(); // nothing is sent before the drain opens it
    rig.rename("/x", "/x~").unwrap();
    rig.save("/x", b"new").unwrap();
    rig.unlink("/x~").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.take_log(), ["PUT /x rev_1"]);
}

#[test]
fn a_file_created_and_removed_before_its_upload_costs_nothing() {
    let (_dir, rig) = rig(&[]);
    rig.gate.close(); // nothing is sent before the drain opens it
    rig.save("/x", b"1").unwrap();
    rig.unlink("/x").unwrap();
    assert_eq!(rig.drain(), 0);
    assert!(rig.remote.take_log().is_empty());
}

#[test]
fn a_directory_moves_with_files_that_were_never_fetched() {
    let (_dir, rig) = rig(&[("/d/a", b"1"), ("/d/e/b", b"2"), ("/d/e/c", b"33")]);
    rig.rename("/d", "/n").unwrap();
    assert_eq!(rig.drain(), 0);
    let log = rig.remote.take_log();
    assert_eq!(log.len(), 6, "{log:?}");
    let expected: std::collections::BTreeMap<String, Vec<u8>> =
        [("/n/a", "1"), ("/n/e/b", "2"), ("/n/e/c", "33")].map(|(p, c)| (p.to_owned(), c.into())).into();
    assert_eq!(rig.remote.files(), expected);
    for (put, delete) in [("PUT /n/a 0", "DELETE /d/a rev_1"), ("PUT /n/e/b 0", "DELETE /d/e/b rev_2")] {
        let at = |what: &str| log.iter().position(|l| l == what).unwrap_or_else(|| panic!("{what} not in {log:?}"));
        assert!(at(put) < at(delete), "deleted before it was put: {log:?}");
    }
    assert_eq!(rig.read("/n/e/c").unwrap(), b"33");
}

#[test]
fn a_save_survives_a_crash_before_its_upload_and_arrives_once() {
    let (dir, first) = rig(&[("/x", b"old")]);
    let remote = first.remote.clone();
    remote.set_down(true);
    first.save("/x", b"new").unwrap();
    first.save("/y", b"created").unwrap();
    first.crash();
    remote.set_down(false);
    let second = Rig::start(dir.path(), &remote);
    assert_eq!(second.read("/x").unwrap(), b"new");
    assert_eq!(second.drain(), 0);
    let mut log = remote.take_log();
    log.sort();
    assert_eq!(log, ["PUT /x rev_1", "PUT /y 0"]);
}

#[test]
fn a_response_that_was_lost_does_not_apply_the_write_twice() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.remote.fail_next(ErrorKind::Unreachable, true);
    rig.save("/x", b"new").unwrap();
    wait_until("the lost response is resolved", || rig.drain() == 0);
    assert_eq!(rig.remote.take_log(), ["PUT /x rev_1"]);
    rig.save("/x", b"newer").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.take_log(), ["PUT /x rev_2"]);
}

#[test]
fn a_conflict_destroys_neither_side() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.read("/x").unwrap();
    rig.remote.write("/x", b"theirs");
    rig.save("/x", b"mine").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/x").unwrap(), b"theirs");
    rig.follow();
    assert_eq!(rig.read("/x").unwrap(), b"theirs", "the remote's version has the path");
    let letters = rig.ws.journal().dead_letters().unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(std::fs::read(rig.ws.payload_path(&letters[0].op)).unwrap(), b"mine", "and the letter has ours");
    // The next save is based on what the path shows.
    rig.save("/x", b"both").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/x").unwrap(), b"both");
    let numbers = rig.ws.journal().queue_numbers().unwrap();
    assert_eq!((numbers.dead, numbers.pending), (0, 0));
}

#[test]
fn a_remote_change_shows_and_an_open_handle_keeps_its_version() {
    let (_dir, rig) = rig(&[("/x", b"one")]);
    let ino = rig.ino("/x").unwrap();
    let fh = rig.act(|ws| ws.open(ino, libc::O_RDONLY)).unwrap().fh;
    rig.remote.write("/x", b"second version");
    rig.follow();
    assert_eq!(rig.read("/x").unwrap(), b"second version");
    assert_eq!(rig.ws.read(fh, 0, 100).unwrap(), b"one");
    rig.ws.release(fh);
    rig.remote.remove("/x");
    rig.follow();
    assert_eq!(rig.read("/x").unwrap_err().to_errno(), libc::ENOENT);
}

#[test]
fn bytes_that_no_close_promised_are_kept_and_not_sent() {
    let (dir, first) = rig(&[("/x", b"old")]);
    let remote = first.remote.clone();
    let ino = first.ino("/x").unwrap();
    let fh = first.act(|ws| ws.open(ino, libc::O_RDWR)).unwrap().fh;
    first.ws.write(fh, 0, b"half").unwrap();
    first.crash();
    let second = Rig::start(dir.path(), &remote);
    assert_eq!(second.read("/x").unwrap(), b"half");
    assert_eq!(second.drain(), 0);
    assert!(remote.take_log().is_empty());
    assert_eq!(second.ws.journal().queue_numbers().unwrap().dead, 1);
    second.save("/x", b"whole").unwrap();
    assert_eq!(second.drain(), 0);
    assert_eq!(remote.take_log(), ["PUT /x rev_1"]);
    assert_eq!(second.ws.journal().queue_numbers().unwrap().dead, 0, "a proper save resolves the letter");
}

#[test]
fn a_write_that_died_on_top_of_a_queued_save_is_not_sent_in_its_place() {
    let (dir, first) = rig(&[("/x", b"old")]);
    let remote = first.remote.clone();
    remote.set_down(true);
    first.save("/x", b"saved").unwrap();
    let ino = first.ino("/x").unwrap();
    let fh = first.act(|ws| ws.open(ino, libc::O_WRONLY)).unwrap().fh;
    first.ws.write(fh, 0, b"ha").unwrap();
    first.crash();
    remote.set_down(false);
    let second = Rig::start(dir.path(), &remote);
    assert_eq!(second.drain(), 0);
    assert!(remote.take_log().is_empty(), "bytes that no close promised were sent");
    assert_eq!(second.read("/x").unwrap(), b"haved");
    assert_eq!(second.ws.journal().queue_numbers().unwrap().dead, 1);
    second.save("/x", b"whole").unwrap();
    assert_eq!(second.drain(), 0);
    assert_eq!(second.ws.journal().queue_numbers().unwrap().dead, 0);
    assert_eq!(remote.take_log(), ["PUT /x rev_1"]);
}

#[test]
fn a_remote_change_under_an_open_writer_does_not_swallow_the_save() {
    let (_dir, rig) = rig(&[("/x", b"base"), ("/gone", b"base"), ("/idle", b"base")]);
    let open = |path: &str| {
        let ino = rig.ino(path).unwrap();
        rig.act(|ws| ws.open(ino, libc::O_RDWR)).unwrap().fh
    };
    let (x, gone, idle) = (open("/x"), open("/gone"), open("/idle"));
    rig.remote.write("/x", b"theirs");
    rig.remote.remove("/gone");
    rig.remote.write("/idle", b"theirs, and nobody minds");
    rig.follow();
    for fh in [x, gone] {
        rig.ws.write(fh, 0, b"mine").unwrap();
        rig.ws.flush(fh).unwrap();
    }
    for fh in [x, gone, idle] {
        rig.ws.release(fh);
    }
    assert_eq!(rig.drain(), 0);
    assert_eq!((rig.read("/x").unwrap(), rig.read("/gone").unwrap()), (b"mine".to_vec(), b"mine".to_vec()));
    assert_eq!(rig.remote.content("/x").unwrap(), b"theirs");
    assert_eq!(rig.ws.journal().queue_numbers().unwrap().conflicts, 2);
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/idle").unwrap(), b"theirs, and nobody minds");
}

#[test]
fn removing_a_file_settles_the_letter_of_its_content() {
    let (dir, first) = rig(&[]);
    let remote = first.remote.clone();
    let (_, fh) =
        first.act(|ws| ws.create(ME, Ino::ROOT, OsStr::new("x"), 0o644, libc::O_WRONLY)).map(|(e, o)| (e, o.fh)).unwrap();
    first.ws.write(fh, 0, b"half").unwrap();
    first.ws.barrier().unwrap();
    first.crash();
    let second = Rig::start(dir.path(), &remote);
    assert_eq!(second.ws.journal().queue_numbers().unwrap().dead, 1);
    second.ws.learn(&remote.newest_mark().unwrap()).unwrap();
    second.unlink("/x").unwrap();
    assert_eq!(second.ws.journal().queue_numbers().unwrap().dead, 0);
    assert!(!second.ws.has_work(&"/x".parse().unwrap()));
    assert_eq!(second.drain(), 0);
    assert!(remote.take_log().is_empty());
}

#[test]
fn a_size_that_could_be_base64_is_found_out() {
    let (_dir, rig) = rig(&[("/bin", &[0xff; 9]), ("/text", b"12 chars txt")]);
    for (path, size) in [("/bin", 9), ("/text", 12)] {
        let ino = rig.ino(path).unwrap();
        assert_eq!(rig.act(|ws| ws.getattr(ino)).unwrap().size, size, "{path}");
    }
}

#[test]
fn empty_directories_modes_links_and_xattrs_survive_a_remount() {
    let (dir, first) = rig(&[]);
    let remote = first.remote.clone();
    first.mkdir("/empty").unwrap();
    first.save("/f", b"x").unwrap();
    let f = first.ino("/f").unwrap();
    first.ws.setattr(ME, f, SetAttr { mode: Some(0o600), mtime: Some(SetTime::At(Nanos(5))), ..SetAttr::default() }).unwrap();
    first.ws.symlink(ME, Ino::ROOT, OsStr::new("s"), OsStr::new("f")).unwrap();
    first.ws.setxattr(f, OsStr::new("user.k"), b"v", 0).unwrap();
    first.drain();
    first.crash();
    let second = Rig::start(dir.path(), &remote);
    assert_eq!(second.ino("/f").unwrap(), f, "inode numbers are stable");
    let attr = second.ws.getattr(f).unwrap();
    assert_eq!((attr.mode, attr.mtime), (0o600, Nanos(5)));
    assert!(second.ino("/empty").is_ok());
    let s = second.ino("/s").unwrap();
    assert_eq!(second.ws.readlink(s).unwrap(), "f");
    assert_eq!(second.ws.getxattr(f, OsStr::new("user.k")).unwrap(), b"v");
}

#[test]
fn a_later_rename_of_a_sent_file_follows_it() {
    let (_dir, rig) = rig(&[]);
    rig.save("/a", b"1").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.rename("/a", "/b").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.rename("/b", "/c").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.files().into_keys().collect::<Vec<_>>(), ["/c"]);
}

#[test]
fn a_file_of_two_names_stays_one_while_only_one_of_them_has_arrived() {
    let (_dir, rig) = rig(&[]);
    rig.save("/x", b"one").unwrap();
    rig.link("/x", "/y");
    assert_eq!(rig.drain(), 0);
    let ino = rig.ino("/x").unwrap();
    rig.gate.close();
    rig.save("/x", b"two").unwrap();
    let late = rig.ws.journal().operation_of_path(&"/y".parse().unwrap()).unwrap().expect("both names are to be sent").op;
    rig.ws.journal().write(move |tx| tx.postpone(&late, i64::MAX / 2)).unwrap();
    rig.gate.open();
    wait_until("one name has arrived", || rig.remote.content("/x").unwrap() == b"two");
    wait_until("that is recorded", || !rig.ws.has_work(&"/x".parse().unwrap()));
    rig.ws.learn(&rig.remote.newest_mark().unwrap()).unwrap();
    assert_eq!((rig.ino("/x").unwrap(), rig.ino("/y").unwrap()), (ino, ino), "one file under both names");
    assert_eq!(rig.remote.content("/y").unwrap(), b"one");
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/y").unwrap(), b"two");
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + SOON;
    while !done() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

mod random {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone)]
    enum Act {
        Save(usize, u8),
        Unlink(usize),
        Rename(usize, usize),
        Exchange(usize, usize),
        Drain,
        Crash,
        Follow,
    }

    const PATHS: [&str; 6] = ["/a", "/b", "/d/a", "/d/b", "/e/a", "/e/c"];

    fn act() -> impl Strategy<Value = Act> {
        let p = 0..PATHS.len();
        prop_oneof![
            4 => (p.clone(), any::<u8>()).prop_map(|(p, c)| Act::Save(p, c)),
            2 => p.clone().prop_map(Act::Unlink),
            3 => (p.clone(), p.clone()).prop_map(|(a, b)| Act::Rename(a, b)),
            1 => (p.clone(), p).prop_map(|(a, b)| Act::Exchange(a, b)),
            1 => Just(Act::Drain),
            1 => Just(Act::Crash),
            1 => Just(Act::Follow),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn after_any_work_the_remote_is_the_view(acts in prop::collection::vec(act(), 1..30)) {
            let dir = tempfile::tempdir().unwrap();
            let remote = Arc::new(FakeRemote::seeded(&[("/a", b"seed a"), ("/d/a", b"seed d/a"), ("/e/c", b"seed")]));
            let mut rig = Rig::start(dir.path(), &remote);
            rig.ws.learn(&remote.newest_mark().unwrap()).unwrap();
            rig.mkdir("/e").ok();
            let mut model: BTreeMap<String, Vec<u8>> = remote.files();
            for act in acts {
                match act {
                    Act::Save(p, c) => {
                        rig.save(PATHS[p], &[c, 0xff]).unwrap();
                        model.insert(PATHS[p].into(), vec![c, 0xff]);
                    }
                    Act::Unlink(p) => {
                        let had = model.remove(PATHS[p]).is_some();
                        prop_assert_eq!(rig.unlink(PATHS[p]).is_ok(), had);
                    }
                    Act::Rename(a, b) => {
                        let done = rig.rename(PATHS[a], PATHS[b]);
                        prop_assert_eq!(done.is_ok(), model.contains_key(PATHS[a]));
                        if a != b && let Some(content) = model.remove(PATHS[a]) {
                            model.insert(PATHS[b].into(), content);
                        }
                    }
                    Act::Exchange(a, b) => {
                        let ((pa, na), (pb, nb)) = (rig.dir(PATHS[a]).unwrap(), rig.dir(PATHS[b]).unwrap());
                        let done = rig.act(|ws| ws.rename(pa, OsStr::new(&na), pb, OsStr::new(&nb), RenameMode::Exchange));
                        let both = model.contains_key(PATHS[a]) && model.contains_key(PATHS[b]);
                        prop_assert_eq!(done.is_ok(), both);
                        if both {
                            let (x, y) = (model[PATHS[a]].clone(), model[PATHS[b]].clone());
                            model.insert(PATHS[a].into(), y);
                            model.insert(PATHS[b].into(), x);
                        }
                    }
                    Act::Drain => { rig.drain(); }
                    Act::Crash => {
                        rig.crash();
                        rig = Rig::start(dir.path(), &remote);
                    }
                    Act::Follow => rig.follow(),
                }
            }
            for (path, content) in &model {
                prop_assert_eq!(&rig.read(path).unwrap(), content, "{}", path);
            }
            prop_assert_eq!(rig.drain(), 0);
            prop_assert_eq!(remote.files(), model);
            prop_assert_eq!(rig.ws.journal().queue_numbers().unwrap().dead, 0);
            prop_assert!(!remote.take_log().iter().any(|l| l.starts_with("409")), "a precondition was stale");
        }
    }
}
