//! Random work under a remote that refuses, loses answers and is written to by others, with letters retried, forced and
//! discarded, and crashes in between: nothing is stuck, nothing is applied twice, and no save is nowhere.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::letters::{dead, half};
use super::*;
use crate::delivery::Following;
use crate::ids::ContentHash;
use crate::journal::{OpKind, Retried};
use crate::remote::{DeliveryState, InlineContent, RemoteEvent};

#[derive(Debug, Clone)]
enum Act {
    Save(usize),
    /// A line of what the path shows is changed, as an editor does.
    Edit(usize, usize),
    HalfSave(usize),
    Unlink(usize),
    Rename(usize, usize),
    OtherWrites(usize),
    OtherEdits(usize, usize),
    OtherRemoves(usize),
    /// The next write fails this way, before or after it was applied.
    Fail(ErrorKind, bool),
    /// Nothing is sent until the next drain, so that what follows goes together.
    Hold,
    Drain,
    Crash,
    /// So many events at a time, with their content or without.
    Follow(usize, bool),
    Retry(usize, bool),
    Discard(usize),
    /// The provider takes or refuses what was written last to a path, and that is looked at.
    Deliver(usize, DeliveryState),
}

const PATHS: [&str; 4] = ["/a", "/b", "/d/a", "/d/b"];
/// Lines of the texts that are edited.
const LINES: usize = 9;

/// The text with one line changed; one that is no such text, as a whole one.
fn edited(text: Option<Vec<u8>>, line: usize, new: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(text.unwrap_or_default()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.resize_with(lines.len().max(LINES), || "empty".to_owned());
    lines[line] = String::from_utf8_lossy(new).into_owned();
    lines.join("\n").into_bytes()
}

/// The line that a save was made for: the newest of ours.
fn newest_line(content: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(content);
    let number = |line: &&str| line.strip_prefix("mine ").and_then(|n| n.parse::<u32>().ok());
    text.lines().filter(|l| number(l).is_some()).max_by_key(number).map(str::to_owned)
}

/// Applies what has happened, so many events at a time.
fn follow(rig: &Rig, at_once: usize, inline: bool) {
    let mark = rig.ws.mark().unwrap();
    let ever_had = rig.remote.ever_had();
    let mut events = rig.remote.events(mark.before.as_deref()).unwrap().events;
    for event in events.iter_mut().filter(|_| inline) {
        let bytes = ever_had.iter().find(|c| Some(ContentHash::of(c)) == event.hash);
        event.content = bytes.map(|b| InlineContent { content_type: "text/plain".into(), bytes: b.clone() });
    }
    let seen = usize::from(mark.last.is_some());
    let mut before = seen.checked_sub(1).map(|i| events[i].id.clone());
    for batch in events[seen..].chunks(at_once) {
        let last = batch.last().map(RemoteEvent::print);
        let before_last = batch.len().checked_sub(2).map(|i| batch[i].id.clone()).or(before);
        rig.ws.apply_events(batch, &FeedMark { last, before: before_last }).unwrap();
        before = batch.last().map(|e| e.id.clone());
    }
}

fn act() -> impl Strategy<Value = Act> {
    let p = 0..PATHS.len();
    let state = prop_oneof![
        1 => Just(DeliveryState::Succeeded),
        2 => Just(DeliveryState::DeadLettered),
        1 => Just(DeliveryState::Canceled),
        1 => Just(DeliveryState::Running)
    ];
    let kind = prop_oneof![Just(ErrorKind::Rejected), Just(ErrorKind::Unreachable), Just(ErrorKind::Transient)];
    prop_oneof![
        5 => p.clone().prop_map(Act::Save),
        6 => (p.clone(), 0..LINES).prop_map(|(p, line)| Act::Edit(p, line)),
        1 => p.clone().prop_map(Act::HalfSave),
        2 => p.clone().prop_map(Act::Unlink),
        3 => (p.clone(), p.clone()).prop_map(|(a, b)| Act::Rename(a, b)),
        2 => p.clone().prop_map(Act::OtherWrites),
        4 => (p.clone(), 0..LINES).prop_map(|(p, line)| Act::OtherEdits(p, line)),
        1 => p.clone().prop_map(Act::OtherRemoves),
        3 => (p, state).prop_map(|(p, state)| Act::Deliver(p, state)),
        4 => (kind, any::<bool>()).prop_map(|(k, applied)| Act::Fail(k, applied && k != ErrorKind::Rejected)),
        3 => Just(Act::Hold),
        3 => Just(Act::Drain),
        1 => Just(Act::Crash),
        3 => (1..5usize, any::<bool>()).prop_map(|(n, inline)| Act::Follow(n, inline)),
        2 => (0..4usize, any::<bool>()).prop_map(|(n, force)| Act::Retry(n, force)),
        1 => (0..4usize).prop_map(Act::Discard),
    ]
}

/// What was saved last at each path, as long as nothing that a user did has taken its place.
#[derive(Default)]
struct Saved(BTreeMap<&'static str, Vec<u8>>);

impl Saved {
    /// The user's own act replaces what the path shows, and nothing that only a letter holds.
    fn replaced(&mut self, path: &'static str, shown: Option<&Vec<u8>>) {
        if self.0.get(path) == shown {
            self.0.remove(path);
        }
    }

    /// What is moved onto a path is a save of that path, and settles what a letter holds of it as any save does.
    fn moved(&mut self, from: &'static str, to: &'static str, shown: Option<Vec<u8>>) {
        self.0.remove(to);
        if shown.is_some() && self.0.get(from) == shown.as_ref() {
            let content = self.0.remove(from).unwrap_or_default();
            self.0.insert(to, content);
        }
    }
}

/// Sends what waits. The follower that would find out whether the remote is still the one we know is not there.
fn drain(rig: &Rig) -> u64 {
    let deadline = std::time::Instant::now() + SOON;
    loop {
        rig.gate.open();
        let left = rig.writeback.drain(Duration::from_millis(100)).unwrap();
        if left == 0 || std::time::Instant::now() > deadline {
            return left;
        }
    }
}

fn settle(rig: &Rig) -> u64 {
    // A drain gives up on a remote that does not answer, a worker has its last words behind the journal, and every refresh
    // may show something that was waited for.
    let quiet = || {
        let in_view: HashSet<String> =
            dead(rig).into_iter().filter(|l| l.in_view && l.kind == OpKind::Put).map(|l| l.path.to_string()).collect();
        PATHS.iter().all(|p| rig.ws.has_work(&p.parse().unwrap()) == in_view.contains(*p))
    };
    let deadline = std::time::Instant::now() + SOON;
    let mut quiet_rounds = 0;
    loop {
        let left = drain(rig);
        rig.follow();
        rig.ws.refresh_noted().unwrap();
        quiet_rounds = if left == 0 && quiet() { quiet_rounds + 1 } else { 0 };
        if quiet_rounds == 2 || std::time::Instant::now() > deadline {
            assert!(quiet(), "a path is marked as work, and nothing of it is left to do");
            return left;
        }
        std::thread::yield_now();
    }
}

fn run(acts: Vec<Act>) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let remote = Arc::new(FakeRemote::seeded(&[("/a", b"seed a"), ("/d/a", b"seed d/a")]));
    let mut rig = Rig::start(dir.path(), &remote);
    rig.ws.learn(&remote.newest_mark().unwrap()).unwrap();
    rig.mkdir("/d").ok();
    let (mut saved, mut number) = (Saved::default(), 0);
    let mut content = |who: &str| {
        number += 1;
        format!("{who} {number}").into_bytes()
    };
    for act in acts {
        match act {
            Act::Save(p) => {
                let bytes = content("mine");
                if rig.save(PATHS[p], &bytes).is_ok() {
                    saved.0.insert(PATHS[p], bytes);
                }
            }
            Act::Edit(p, line) => {
                let bytes = edited(rig.read(PATHS[p]).ok(), line, &content("mine"));
                if rig.save(PATHS[p], &bytes).is_ok() {
                    saved.0.insert(PATHS[p], bytes);
                }
            }
            Act::HalfSave(p) => {
                if rig.ino(PATHS[p]).is_ok() && rig.read(PATHS[p]).is_ok() {
                    half(&rig, PATHS[p], b"xxxxxxxxxxxx");
                    saved.0.remove(PATHS[p]); // a writer has begun to replace it, and dies
                    rig.crash();
                    rig = Rig::start(dir.path(), &remote);
                }
            }
            Act::Unlink(p) => {
                let shown = rig.read(PATHS[p]).ok();
                if rig.unlink(PATHS[p]).is_ok() {
                    saved.replaced(PATHS[p], shown.as_ref());
                }
            }
            Act::Rename(a, b) if a != b => {
                let shown = rig.read(PATHS[a]).ok();
                if rig.rename(PATHS[a], PATHS[b]).is_ok() {
                    saved.moved(PATHS[a], PATHS[b], shown);
                }
            }
            Act::Rename(..) => {}
            Act::OtherWrites(p) => remote.write(PATHS[p], &content("theirs")),
            Act::OtherEdits(p, line) => {
                remote.write(PATHS[p], &edited(remote.content(PATHS[p]), line, &content("theirs")));
            }
            Act::OtherRemoves(p) => remote.remove(PATHS[p]),
            Act::Fail(kind, applied) => remote.fail_next(kind, applied),
            Act::Hold => rig.gate.close(),
            Act::Drain => drop(drain(&rig)),
            Act::Crash => {
                rig.crash();
                rig = Rig::start(dir.path(), &remote);
            }
            Act::Follow(at_once, inline) => {
                follow(&rig, at_once, inline);
                let _ = rig.ws.refresh_noted();
            }
            Act::Retry(n, force) => {
                if let Some(letter) = dead(&rig).get(n) {
                    rig.ws.retry(&letter.op, force).unwrap();
                }
            }
            Act::Deliver(p, state) => {
                if remote.delivery_of(PATHS[p]).is_some() {
                    remote.deliver(PATHS[p], state, Some("no"));
                }
                let later = crate::journal::now_ms() + 10 * 60_000;
                Following::new(rig.ws.journal().clone(), remote.clone()).step(later).unwrap();
            }
            Act::Discard(n) => {
                if let Some(letter) = dead(&rig).get(n) {
                    let payload = std::fs::read(rig.ws.payload_path(&letter.op)).ok();
                    if rig.ws.discard(&letter.op).is_ok() {
                        saved.0.retain(|_, content| Some(&*content) != payload.as_ref());
                    }
                }
            }
        }
    }
    remote.clear_faults();
    prop_assert_eq!(settle(&rig), 0, "something is stuck");

    let events = remote.events(None).unwrap().events;
    let mut applied = HashSet::new();
    for op in remote.applied() {
        prop_assert!(applied.insert(op.clone()), "{} was applied twice", op);
    }
    let mut ours = HashSet::new();
    for event in events.iter().filter(|e| e.correlation_id.starts_with("op_")) {
        prop_assert!(ours.insert(event.correlation_id.clone()), "{} was applied twice: {:?}", event.correlation_id, event);
    }
    let arrived: HashSet<ContentHash> = events.iter().filter_map(|e| e.hash).collect();
    let mut letters = HashSet::new();
    for letter in dead(&rig).iter().filter(|l| l.kind == OpKind::Put && !l.replay) {
        let payload = std::fs::read(rig.ws.payload_path(&letter.op));
        prop_assert!(payload.is_ok(), "{} of {} has no payload", letter.op, letter.path);
        letters.insert(ContentHash::of(&payload.unwrap_or_default()));
    }
    for (path, content) in &saved.0 {
        let hash = ContentHash::of(content);
        let line = newest_line(content);
        let merged = |had: &Vec<u8>| line.as_ref().is_some_and(|l| String::from_utf8_lossy(had).lines().any(|h| h == l));
        let somewhere = arrived.contains(&hash) || letters.contains(&hash) || remote.ever_had().iter().any(merged);
        prop_assert!(somewhere, "{:?}, saved at {}, is nowhere", String::from_utf8_lossy(content), path);
    }
    // Where no letter shows through, the view is the remote.
    let shown_letters: HashSet<_> = dead(&rig).into_iter().filter(|l| l.in_view).map(|l| l.path.to_string()).collect();
    for path in PATHS.iter().filter(|p| !shown_letters.contains(**p)) {
        prop_assert_eq!(rig.read(path).ok(), remote.content(path), "{} shows something else than the remote has", path);
    }
    // What is left is ended by force, or by letting it go.
    for letter in dead(&rig) {
        let outcome = rig.ws.retry(&letter.op, true).unwrap();
        let delivery = letter.remote_op.as_ref().filter(|_| letter.replay).map(|id| remote.delivery(id).unwrap());
        let canceled = delivery.is_some_and(|d| d.state == DeliveryState::Canceled);
        if canceled {
            // Nothing brings it back, so that its letter stays one.
            settle(&rig);
            rig.ws.discard(&letter.op).unwrap();
        } else if outcome != Retried::Queued {
            rig.ws.discard(&letter.op).unwrap();
        }
        prop_assert_eq!(settle(&rig), 0, "the forced {} of {} is stuck", letter.kind.as_str(), letter.path);
    }
    prop_assert_eq!(dead(&rig).len(), 0);
    for path in PATHS {
        prop_assert_eq!(rig.read(path).ok(), remote.content(path), "{} at last", path);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_refused_retried_and_discarded_no_save_is_nowhere(acts in prop::collection::vec(act(), 1..25)) {
        run(acts)?;
    }
}
