//! Letters beside the view and on disk: what holds the only copy of something is settled by nothing less than a save.

use super::letters::*;
use super::*;
use crate::journal::*;
use crate::remote::ErrorKind;

#[test]
fn an_import_leaves_a_record_of_the_same_name_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let relay = dir.path().join("mirror/.relay");
    std::fs::create_dir_all(state.join("dead-letter")).unwrap();
    std::fs::create_dir_all(relay.join("dead-letter")).unwrap();
    std::fs::write(state.join("dead-letter/op_0123456789.json"), b"{ torn").unwrap();
    std::fs::write(
        relay.join("dead-letter/op_0123456789.json"),
        br#"{"opId":"op_0123456789","path":"/x","attempts":3,"lastStatus":400,"ts":"2026-01-01T00:00:00Z"}"#,
    )
    .unwrap();
    let journal = Journal::open(&state).unwrap();
    let identity = crate::config::Identity { workspace: "ws".into(), base_url: "http://h".into(), remote_root: "/".into() };
    for from in [&state, &relay] {
        crate::deadletter::import(from, &state, &journal, &identity).unwrap();
    }
    assert_eq!(std::fs::read(state.join("dead-letter/op_0123456789.json")).unwrap(), b"{ torn");
}

#[test]
fn what_cannot_be_read_is_not_swept_away() {
    let (dir, rig) = rig(&[("/x", b"old")]);
    rig.save("/x", b"new").unwrap();
    assert_eq!(rig.drain(), 0);
    let id: String = rig.ws.journal().read(|db| db.query_row("SELECT op_id FROM operation", [], |r| r.get(0))).unwrap();
    let dl = dir.path().join("dead-letter");
    std::fs::create_dir_all(&dl).unwrap();
    std::os::unix::fs::symlink("/nonexistent/target", dl.join(format!("{id}.json"))).unwrap();
    std::fs::create_dir_all(dl.join("op_0123456789AB.json")).unwrap();
    let identity = crate::config::Identity { workspace: "ws".into(), base_url: "http://h".into(), remote_root: "/".into() };
    let mut shelf = crate::deadletter::Shelf::new(dir.path(), identity);
    let _ = shelf.sync(rig.ws.journal());
    assert!(dl.join(format!("{id}.json")).symlink_metadata().is_ok(), "removed");
}

#[test]
fn one_file_that_cannot_be_written_does_not_keep_the_others_back() {
    let (dir, rig) = rig(&[("/x", b"old"), ("/z", b"z")]);
    for p in ["/x", "/z"] {
        rig.remote.fail_next(ErrorKind::Rejected, false);
        rig.save(p, b"refused").unwrap();
        assert_eq!(rig.drain(), 0);
    }
    let l = dead(&rig);
    let dl = dir.path().join("dead-letter");
    std::fs::create_dir_all(dl.join(format!("{}.json", l[0].op))).unwrap();
    let identity = crate::config::Identity { workspace: "ws".into(), base_url: "http://h".into(), remote_root: "/".into() };
    let mut shelf = crate::deadletter::Shelf::new(dir.path(), identity);
    for _ in 0..3 {
        let _ = shelf.sync(rig.ws.journal());
    }
    assert!(dl.join(format!("{}.json", l[1].op)).exists(), "the second letter never gets its files");
}

#[test]
fn an_imported_letter_does_not_hide_unflushed_bytes() {
    let (dir, rig) = rig(&[("/x", b"old")]);
    let remote = rig.remote.clone();
    let relay = dir.path().join("old/.relay");
    std::fs::create_dir_all(relay.join("dead-letter")).unwrap();
    std::fs::write(
        relay.join("dead-letter/op_0123456789.json"),
        br#"{"opId":"op_0123456789","path":"/x","attempts":1,"code":"unflushed","ts":"2026-01-01T00:00:00Z"}"#,
    )
    .unwrap();
    let identity = crate::config::Identity { workspace: "ws".into(), base_url: "http://h".into(), remote_root: "/".into() };
    crate::deadletter::import(&relay, dir.path(), rig.ws.journal(), &identity).unwrap();
    half(&rig, "/x", b"half of my work");
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    assert_eq!(second.read("/x").unwrap(), b"half of my work");
    second.crash();
    let third = Rig::start(dir.path(), &remote);
    remote.write("/x", b"theirs");
    third.follow();
    third.ws.refresh_noted().unwrap();
    let kept = third.read("/x").unwrap() == b"half of my work"
        || dead(&third).iter().any(|l| std::fs::read(third.ws.payload_path(&l.op)).is_ok_and(|b| b == b"half of my work"));
    assert!(kept, "unflushed bytes are gone without a letter");
}

#[test]
fn unflushed_bytes_written_over_are_told_as_they_are() {
    let (dir, rig) = rig(&[("/x", b"old")]);
    let remote = rig.remote.clone();
    half(&rig, "/x", b"111");
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    half(&second, "/x", b"222");
    second.crash();
    let third = Rig::start(dir.path(), &remote);
    let u = dead(&third)[0].clone();
    assert_eq!(std::fs::read(third.ws.payload_path(&u.op)).unwrap(), b"222");
}

#[test]
fn a_forced_letter_has_a_payload_also_when_it_equals_its_base() {
    let (dir, rig) = rig(&[("/x", b"old")]);
    let remote = rig.remote.clone();
    half(&rig, "/x", b"111");
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    half(&second, "/x", b"old");
    second.crash();
    let third = Rig::start(dir.path(), &remote);
    let u = dead(&third)[0].clone();
    remote.write("/x", b"theirs");
    third.follow();
    remote.fail_next(ErrorKind::Transient, false);
    third.ws.retry(&u.op, true).unwrap();
    short_drain(&third);
    assert_eq!(remote.content("/x").unwrap(), b"old");
}

fn import_letter(dir: &Path, journal: &Journal, op: &str, payload: &[u8]) {
    let relay = dir.join(format!("old-{op}/.relay"));
    std::fs::create_dir_all(relay.join("dead-letter")).unwrap();
    std::fs::write(
        relay.join(format!("dead-letter/{op}.json")),
        format!(r#"{{"opId":"{op}","path":"/x","attempts":1,"lastStatus":400,"ts":"2020-01-01T00:00:00Z"}}"#),
    )
    .unwrap();
    std::fs::write(relay.join(format!("dead-letter/{op}.payload")), payload).unwrap();
    let identity = crate::config::Identity { workspace: "ws".into(), base_url: "http://h".into(), remote_root: "/".into() };
    crate::deadletter::import(&relay, dir, journal, &identity).unwrap();
}

fn f1(force: bool) {
    let (dir, rig) = rig(&[("/x", b"old")]);
    rig.read("/x").unwrap();
    rig.remote.fail_next(ErrorKind::Rejected, false);
    rig.save("/x", b"my later save").unwrap();
    assert_eq!(rig.drain(), 0);
    let b = dead(&rig)[0].clone();
    import_letter(dir.path(), rig.ws.journal(), "op_0123456789", b"from 2020");
    rig.ws.retry(&"op_0123456789".parse().unwrap(), force).unwrap();
    assert_eq!(rig.drain(), 0);
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    let state = rig.ws.journal().operation(&b.op).unwrap().unwrap().state;
    assert_eq!(state, OpState::Dead, "the later save was thrown away by an older letter");
    assert_eq!(rig.read("/x").unwrap(), b"my later save");
}
#[test]
fn an_imported_letter_retried_does_not_settle_a_later_one() {
    f1(false)
}
#[test]
fn an_imported_letter_forced_does_not_settle_a_later_one() {
    f1(true)
}

#[test]
fn a_write_is_not_repeated_while_the_feed_is_being_applied() {
    let mut twice = 0;
    for round in 0..120u64 {
        let (_dir, rig) = rig(&[("/a", b"a")]);
        rig.remote.fail_next(ErrorKind::Unreachable, true);
        rig.save("/x", b"mine").unwrap();
        wait(|| rig.remote.content("/x").is_some());
        wait(|| {
            !rig.ws
                .journal()
                .read(|db| db.query_row("SELECT EXISTS(SELECT 1 FROM operation WHERE state = 2)", [], |r| r.get::<_, bool>(0)))
                .unwrap()
        });
        rig.remote.remove("/x");
        rig.remote.write("/a", b"b");
        rig.remote.write("/a", b"c");
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (j, s) = (rig.ws.journal().clone(), stop.clone());
        let t = std::thread::spawn(move || {
            while !s.load(std::sync::atomic::Ordering::Relaxed) {
                j.read(|_| {
                    std::thread::sleep(std::time::Duration::from_micros(400));
                    Ok(())
                })
                .unwrap();
                std::thread::sleep(std::time::Duration::from_micros(10));
            }
        });
        std::thread::scope(|scope| {
            let d = scope.spawn(|| rig.drain());
            std::thread::sleep(std::time::Duration::from_micros(round % 40 * 150));
            rig.follow();
            d.join().unwrap();
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        t.join().unwrap();
        let log = rig.remote.take_log();
        if log.iter().filter(|l| l.as_str() == "PUT /x 0").count() > 1 {
            twice += 1;
            break;
        }
        rig.crash();
    }
    assert_eq!(twice, 0);
}

#[test]
fn a_write_that_the_feed_tells_of_is_not_repeated_after_a_new_listing() {
    let (dir, rig) = rig(&[("/a", b"a")]);
    let remote = rig.remote.clone();
    remote.fail_next(ErrorKind::Unreachable, true);
    rig.save("/x", b"mine").unwrap();
    wait(|| remote.content("/x").is_some());
    remote.set_down(true);
    rig.crash();
    remote.set_down(false);
    remote.remove("/x");
    remote.write("/a", b"b");
    remote.write("/a", b"c");
    let second = Rig::start(dir.path(), &remote);
    second.ws.learn(&remote.newest_mark().unwrap()).unwrap();
    assert_eq!(second.drain(), 0);
    assert!(remote.content("/x").is_none(), "applied twice, over somebody's deletion");
}

fn conflict(rig: &Rig) -> Operation {
    rig.read("/x").unwrap();
    rig.remote.write("/x", b"theirs");
    rig.save("/x", b"mine").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/x").unwrap(), b"theirs");
    dead(rig)[0].clone()
}
#[test]
fn moving_the_other_version_away_keeps_the_letter_of_a_conflict() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    let a = conflict(&rig);
    rig.rename("/x", "/x.theirs").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.ws.retry(&a.op, true).unwrap(), Retried::Queued);
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/x").unwrap(), b"mine");
}
#[test]
fn a_save_that_changes_nothing_keeps_the_letter_of_a_conflict() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    conflict(&rig);
    rig.save("/x", b"theirs").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(dead(&rig).len(), 1);
}
#[test]
fn a_file_made_and_removed_keeps_an_imported_letter() {
    let (dir, rig) = rig(&[]);
    import_letter(dir.path(), rig.ws.journal(), "op_0123456789", b"from 2020");
    rig.gate.close();
    rig.save("/x", b"scratch").unwrap();
    rig.unlink("/x").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(dead(&rig).len(), 1, "its only copy is gone");
}
#[test]
fn a_file_deleted_there_discarded_and_made_again_there_is_shown() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.read("/x").unwrap();
    rig.gate.close();
    rig.save("/x", b"mine").unwrap();
    rig.remote.remove("/x");
    assert_eq!(rig.drain(), 0);
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/x").unwrap(), b"mine");
    let a = dead(&rig)[0].clone();
    // plain retry: the file is still gone there
    rig.ws.retry(&a.op, false).unwrap();
    assert_eq!(rig.drain(), 0);
    rig.remote.write("/x", b"again");
    rig.follow();
    assert_eq!(rig.read("/x").unwrap(), b"mine");
    rig.ws.discard(&a.op).unwrap();
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/x").unwrap(), b"again");
    rig.save("/x", b"next").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/x").unwrap(), b"next");
}
#[test]
fn a_discard_without_a_remote_survives_a_restart() {
    let (dir, rig) = rig(&[]);
    let remote = rig.remote.clone();
    remote.fail_next(ErrorKind::Rejected, false);
    rig.save("/x", b"mine").unwrap();
    assert_eq!(rig.drain(), 0);
    let a = dead(&rig)[0].clone();
    remote.write("/x", b"theirs"); // its event comes while the letter defends the path
    rig.follow();
    remote.set_down(true);
    rig.ws.discard(&a.op).unwrap();
    rig.crash();
    remote.set_down(false);
    let second = Rig::start(dir.path(), &remote);
    second.follow();
    second.ws.refresh_noted().unwrap();
    assert_eq!(second.read("/x").unwrap(), b"theirs");
}

#[test]
fn unflushed_bytes_let_go_give_way_to_the_save_that_is_on_its_way() {
    let (dir, rig) = rig(&[]);
    let remote = rig.remote.clone();
    remote.fail_next(ErrorKind::Unreachable, true);
    rig.save("/b", b"saved").unwrap();
    short_drain(&rig);
    half(&rig, "/b", b"a writer that dies");
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    assert_eq!(second.read("/b").unwrap(), b"a writer that dies");
    second.ws.discard(&dead(&second)[0].op).unwrap();
    assert_eq!(second.read("/b").unwrap(), b"saved");
    assert_eq!(second.drain(), 0);
    assert_eq!(second.read("/b").unwrap(), b"saved");
    assert_eq!(remote.content("/b").unwrap(), b"saved");
}

#[test]
fn unflushed_bytes_over_a_removed_file_let_go_leave_it_removed() {
    let (dir, rig) = rig(&[("/b", b"old")]);
    let remote = rig.remote.clone();
    remote.fail_next(ErrorKind::Unreachable, false);
    rig.unlink("/b").unwrap();
    short_drain(&rig);
    assert!(rig.save("/b", b"").is_ok());
    half(&rig, "/b", b"a writer that dies");
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    second.ws.discard(&dead(&second)[0].op).unwrap();
    assert_eq!(second.read("/b").ok(), None);
    assert_eq!(second.drain(), 0);
    assert_eq!(remote.content("/b"), None);
}

#[test]
fn a_save_made_over_unflushed_bytes_stays_when_they_are_let_go() {
    let (dir, rig) = rig(&[("/b", b"old")]);
    let remote = rig.remote.clone();
    half(&rig, "/b", b"a writer that dies");
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    let letter = dead(&second)[0].op.clone();
    second.save("/b", b"saved").unwrap();
    second.ws.discard(&letter).unwrap();
    assert_eq!(second.read("/b").unwrap(), b"saved");
    assert_eq!(second.drain(), 0);
    assert_eq!(remote.content("/b").unwrap(), b"saved");
}

#[test]
fn discarding_a_letter_leaves_a_save_alone_that_was_made_after_it_and_waits() {
    let (_dir, rig) = rig(&[("/f", b"old")]);
    rig.remote.fail_next(ErrorKind::Rejected, false);
    rig.save("/f", b"refused").unwrap();
    assert_eq!((short_drain(&rig), dead(&rig).len()), (0, 1));
    let letter = dead(&rig)[0].op.clone();
    rig.gate.close();
    rig.save("/f", b"corrected").unwrap();
    rig.ws.discard(&letter).unwrap();
    assert_eq!(rig.read("/f").unwrap(), b"corrected");
    assert_eq!(short_drain(&rig), 0);
    assert_eq!(rig.remote.content("/f").unwrap(), b"corrected");
}

#[test]
fn a_new_listing_does_not_take_two_names_of_one_file_apart() {
    let (_dir, rig) = rig(&[]);
    rig.save("/a", b"content").unwrap();
    assert_eq!(rig.drain(), 0);
    let (ino, root) = (rig.ino("/a").unwrap(), crate::ids::Ino::ROOT);
    rig.ws.link(ino, root, std::ffi::OsStr::new("b")).unwrap();
    assert_eq!(rig.drain(), 0);
    rig.save("/a", b"new content").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(
        (rig.remote.content("/a"), rig.remote.content("/b")),
        (Some(b"new content".to_vec()), Some(b"new content".to_vec()))
    );
    rig.ws.learn(&rig.remote.newest_mark().unwrap()).unwrap();
    assert_eq!((rig.ino("/a").unwrap(), rig.ino("/b").unwrap()), (ino, ino));
    // Of somebody else's change only that name follows.
    rig.remote.write("/b", b"theirs");
    rig.follow();
    assert_eq!((rig.read("/a").unwrap(), rig.read("/b").unwrap()), (b"new content".to_vec(), b"theirs".to_vec()));
}

#[test]
fn what_is_taken_back_behind_a_merge_stays_taken_back() {
    let (_dir, rig) = rig(&[("/x", b"a\nb\nc\nd\ne\nf\ng\n")]);
    rig.read("/x").unwrap();
    rig.remote.write("/x", b"a\nb\nc\nd\ne\nf\nTHEIRS\n");
    rig.save("/x", b"MINE\nb\nc\nd\ne\nf\ng\n").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/x").unwrap(), b"MINE\nb\nc\nd\ne\nf\nTHEIRS\n");
    // Made from what the view still shows: the first line is restored, another is new.
    rig.save("/x", b"a\nb\nc\nNEW\ne\nf\ng\n").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/x").unwrap(), b"a\nb\nc\nNEW\ne\nf\nTHEIRS\n");
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/x").unwrap(), b"a\nb\nc\nNEW\ne\nf\nTHEIRS\n");
    assert_eq!(dead(&rig).len(), 0);
}
