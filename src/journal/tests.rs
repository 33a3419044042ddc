use std::ffi::OsStr;

use super::*;
use crate::ids::Ino;

fn names(journal: &Journal) -> Vec<String> {
    let mut names: Vec<String> = journal.load().unwrap().names.iter().map(|(_, n, _)| n.to_string_lossy().into()).collect();
    names.sort();
    names
}

#[test]
fn what_was_committed_is_there_after_the_process_died() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.submit(Durability::Process, |tx| tx.put_name(Ino(1), OsStr::new("a"), Ino(2))).wait().unwrap();
    // Not closed: as after kill -9.
    std::mem::forget(journal);
    assert_eq!(names(&Journal::open(dir.path()).unwrap()), ["a"]);
}

#[test]
fn changes_are_committed_in_the_order_of_their_submission() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let mut last = None;
    for i in 0..2000 {
        last = Some(journal.submit(Durability::Process, move |tx| tx.put_meta("n", &i.to_string())));
    }
    last.unwrap().wait().unwrap();
    assert_eq!(journal.meta("n").unwrap().as_deref(), Some("1999"));
}

#[test]
fn a_full_disk_is_said_and_does_not_poison_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let limit = |pages: u32| {
        journal.submit(Durability::Process, move |tx| tx.db.pragma_update(None, "max_page_count", pages)).wait().unwrap();
    };
    limit(1); // no more than there is now
    let big = "x".repeat(100_000);
    let full = journal.submit(Durability::Process, move |tx| tx.put_meta("big", &big));
    assert!(matches!(full.wait(), Err(JournalError::Full(_))));
    let behind = journal.submit(Durability::Process, |tx| tx.put_name(Ino(1), OsStr::new("behind"), Ino(3)));
    assert!(matches!(behind.wait(), Err(JournalError::Full(_))));
    assert_eq!(JournalError::Full(String::new()).to_errno(), libc::ENOSPC);
    assert!(journal.failure().is_none(), "no room is no reason to poison the store");
}

#[test]
fn a_journal_of_a_newer_program_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    Journal::open(dir.path()).unwrap().close();
    let path = dir.path().join("journal.sqlite");
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 999).unwrap();
    assert!(matches!(Journal::open(dir.path()), Err(JournalError::Newer { found: 999, .. })));
}

#[test]
fn what_waits_is_due_as_it_would_have_been_although_the_clock_was_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let (hour, now) = (3_600_000, now_ms());
    journal.write(move |tx| tx.change_path(&"/a".parse().unwrap(), false, Some(Ino(2)), now + hour + 500)).unwrap();
    assert!(journal.due(now + 600, 0, 9).unwrap().ops.is_empty());
    journal.write(move |tx| tx.clock_set_back(hour)).unwrap();
    assert_eq!(journal.due(now + 600, 0, 9).unwrap().ops.len(), 1);
    assert!(journal.due(now + 400, 0, 9).unwrap().ops.is_empty());
}
