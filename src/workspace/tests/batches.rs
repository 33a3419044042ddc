//! Small saves that go together in one request: each ends by its own answer, and once.

use super::letters::dead;
use super::*;
use crate::journal::Operation;

const NAMES: [&str; 5] = ["/a", "/b", "/c", "/d", "/e"];

/// Saves all of [`NAMES`] so that they go in one batch with the next drain.
fn save_all(rig: &Rig) {
    rig.gate.close();
    for name in NAMES {
        rig.save(name, format!("mine at {name}").as_bytes()).unwrap();
    }
}

fn assert_all_there_once(rig: &Rig) {
    for name in NAMES {
        assert_eq!(rig.remote.content(name).unwrap(), format!("mine at {name}").into_bytes());
    }
    let applied = rig.remote.applied();
    assert_eq!(applied.len(), applied.iter().collect::<std::collections::HashSet<_>>().len(), "applied twice: {applied:?}");
    assert_eq!(applied.len(), NAMES.len());
}

fn the_one_letter(rig: &Rig) -> Operation {
    let mut letters = dead(rig);
    assert_eq!(letters.len(), 1, "{letters:?}");
    letters.remove(0)
}

#[test]
fn saves_that_are_due_together_are_one_request() {
    let (_dir, rig) = rig(&[("/a", b"old")]);
    save_all(&rig);
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.take_batches(), [5]);
    let mut log = rig.remote.take_log();
    log.sort();
    assert_eq!(log, ["PUT /a rev_1", "PUT /b 0", "PUT /c 0", "PUT /d 0", "PUT /e 0"]);
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.remote.reads(), 0, "own writes that came back were read");
    assert_all_there_once(&rig);
    // The answers have told the revisions: the next edit has a base.
    rig.save("/b", b"again").unwrap();
    assert_eq!(rig.drain(), 0);
    assert!(rig.remote.take_log()[0].starts_with("PUT /b rev_"));
}

#[test]
fn a_lone_save_is_no_batch_and_neither_is_a_large_file_nor_a_name_that_the_route_would_change() {
    let (_dir, rig) = rig(&[]);
    rig.save("/x", b"1").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.gate.close();
    let large = vec![b'x'; crate::remote::BULK_FILE_MAX as usize + 1];
    for (name, content) in [("/1", &b"1"[..]), ("/2", b"2"), ("/large", &large), ("/white ", b"3")] {
        rig.save(name, content).unwrap();
    }
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.take_batches(), [2]);
    assert_eq!(rig.remote.content("/large").unwrap(), large);
    assert_eq!(rig.remote.content("/white ").unwrap(), b"3");
}

#[test]
fn a_batch_whose_answer_was_lost_is_applied_once() {
    for (kind, applied) in [(ErrorKind::Unreachable, true), (ErrorKind::Unreachable, false), (ErrorKind::Corrupt, true)] {
        let (_dir, rig) = rig(&[("/a", b"old")]);
        save_all(&rig);
        rig.remote.fail_next(kind, applied);
        wait_until("the lost answer is resolved", || rig.drain() == 0);
        assert_all_there_once(&rig);
        assert!(dead(&rig).is_empty());
        rig.follow();
        rig.ws.refresh_noted().unwrap();
        for name in NAMES {
            assert_eq!(rig.read(name).unwrap(), format!("mine at {name}").into_bytes());
        }
    }
}

#[test]
fn a_lost_answer_is_known_by_its_identity_where_others_have_written_since() {
    let (_dir, rig) = rig(&[("/a", b"old")]);
    save_all(&rig);
    rig.remote.fail_next(ErrorKind::Unreachable, true);
    rig.drain();
    rig.gate.close();
    rig.remote.write("/a", b"theirs, later");
    rig.remote.remove("/b");
    wait_until("the lost answer is resolved", || rig.drain() == 0);
    assert_eq!(rig.remote.applied().len(), NAMES.len(), "nothing is written again, and what was deleted stays so");
    assert!(dead(&rig).is_empty(), "{:?}", dead(&rig));
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/a").unwrap(), b"theirs, later");
    assert!(rig.read("/b").is_err());
}

#[test]
fn a_batch_that_never_arrived_meets_what_others_have_written() {
    let (_dir, rig) = rig(&[("/a", b"old"), ("/b", b"old")]);
    save_all(&rig);
    rig.remote.fail_next(ErrorKind::Unreachable, false);
    rig.drain();
    rig.gate.close();
    rig.remote.write("/a", b"theirs");
    rig.remote.remove("/b");
    wait_until("all are at an end", || rig.drain() == 0);
    let letters: Vec<String> =
        dead(&rig).iter().map(|l| format!("{} {}", l.path, l.last_code.as_deref().unwrap_or(""))).collect();
    assert_eq!(letters, ["/a conflict", "/b conflict"]);
    assert_eq!(rig.remote.content("/a").unwrap(), b"theirs");
    assert!(rig.remote.content("/b").is_none());
}

#[test]
fn a_return_to_an_earlier_content_is_not_taken_for_that_earlier_save() {
    let (_dir, rig) = rig(&[]);
    save_all(&rig);
    assert_eq!(rig.drain(), 0);
    rig.save("/a", b"between").unwrap();
    assert_eq!(rig.drain(), 0);
    // The feed, which nobody has read yet, has these bytes at this path, written by a batch.
    save_all(&rig);
    rig.remote.fail_next(ErrorKind::Unreachable, false);
    rig.drain();
    rig.gate.close();
    rig.remote.write("/a", b"theirs");
    wait_until("all are at an end", || rig.drain() == 0);
    let letter = the_one_letter(&rig);
    assert_eq!(std::fs::read(rig.ws.payload_path(&letter.op)).unwrap(), b"mine at /a", "the save is kept");
}

#[test]
fn one_refused_file_among_many_is_a_letter_alone() {
    let (_dir, rig) = rig(&[]);
    save_all(&rig);
    rig.remote.fail_next(ErrorKind::Rejected, false);
    assert_eq!(rig.drain(), 0);
    let letter = the_one_letter(&rig);
    assert_eq!((rig.remote.applied().len(), letter.last_status), (4, Some(400)));
    // Nothing was known under its identity: the retry writes it.
    rig.ws.retry(&letter.op, false).unwrap();
    assert_eq!(rig.drain(), 0);
    assert_all_there_once(&rig);
}

#[test]
fn one_conflicting_file_among_many_is_a_conflict_alone() {
    let (_dir, rig) = rig(&[("/c", b"old")]);
    rig.read("/c").unwrap();
    rig.remote.write("/c", b"theirs");
    save_all(&rig);
    assert_eq!(rig.drain(), 0);
    assert_eq!(the_one_letter(&rig).last_code.as_deref(), Some("conflict"));
    assert_eq!(rig.remote.content("/c").unwrap(), b"theirs");
    assert_eq!(rig.remote.applied().len(), 4);
    let letter = the_one_letter(&rig);
    rig.ws.retry(&letter.op, true).unwrap();
    assert_eq!(rig.drain(), 0);
    assert_all_there_once(&rig);
}

#[test]
fn a_remote_without_the_route_is_asked_once_and_gets_single_requests() {
    let (_dir, rig) = rig(&[]);
    rig.remote.refuse_batches();
    save_all(&rig);
    assert_eq!(rig.drain(), 0);
    assert_all_there_once(&rig);
    assert_eq!(rig.ws.journal().queue_numbers().unwrap().failed_attempts, 0, "that is no failure of a save");
}

#[test]
fn a_batch_refused_as_a_whole_is_sent_one_by_one() {
    let (_dir, rig) = rig(&[]);
    save_all(&rig);
    rig.remote.fail_next(ErrorKind::TooLarge, false);
    assert_eq!(rig.drain(), 0);
    assert_all_there_once(&rig);
    assert!(rig.remote.take_batches().is_empty());
    assert!(dead(&rig).is_empty());
}

#[test]
fn a_batch_that_meets_no_remote_waits_whole_and_spends_no_attempt() {
    let (_dir, rig) = rig(&[]);
    save_all(&rig);
    rig.remote.set_down(true);
    rig.drain();
    assert_eq!(rig.ws.journal().queue_numbers().unwrap().pending, 5);
    rig.remote.set_down(false);
    wait_until("all have arrived", || rig.drain() == 0);
    assert_all_there_once(&rig);
    assert_eq!(rig.ws.journal().queue_numbers().unwrap().failed_attempts, 0);
}

#[test]
fn a_late_echo_of_a_batch_is_no_news_while_a_newer_save_waits() {
    let (_dir, rig) = rig(&[]);
    save_all(&rig);
    assert_eq!(rig.drain(), 0);
    rig.save("/a", b"second").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.gate.close();
    rig.save("/a", b"third").unwrap();
    rig.follow();
    assert!(!rig.ws.journal().has_note(&"/a".parse().unwrap()).unwrap(), "an echo was taken for somebody else's write");
    let reads = rig.remote.reads();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.reads(), reads);
}

#[test]
fn the_same_bytes_of_somebody_else_are_not_taken_for_an_echo() {
    let (_dir, rig) = rig(&[]);
    save_all(&rig);
    assert_eq!(rig.drain(), 0);
    rig.follow();
    rig.remote.write("/a", b"mine at /a");
    rig.follow();
    rig.save("/a", b"next").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/a").unwrap(), b"next", "the next save is based on the revision that is there");
    assert!(dead(&rig).is_empty());
}
