//! Letters and the view: retry, discard, removals, moves and crashes, each in the order that has gone wrong.

use super::*;
use crate::journal::*;
use crate::remote::ErrorKind;

pub(super) fn dead(rig: &Rig) -> Vec<Operation> {
    rig.ws.journal().dead_letters().unwrap()
}
pub(super) fn half(rig: &Rig, path: &str, bytes: &[u8]) {
    let ino = rig.ino(path).unwrap();
    let fh = rig.act(|ws| ws.open(ino, libc::O_RDWR)).unwrap().fh;
    rig.ws.write(fh, 0, bytes).unwrap();
}
pub(super) fn short_drain(rig: &Rig) -> u64 {
    rig.gate.open();
    rig.writeback.drain(std::time::Duration::from_secs(2)).unwrap()
}

#[test]
fn a_letter_of_unflushed_bytes_drops_the_removal_that_waited_for_them() {
    let (dir, first) = rig(&[("/x", b"precious")]);
    let remote = first.remote.clone();
    first.read("/x").unwrap();
    remote.set_down(true);
    first.rename("/x", "/y").unwrap();
    half(&first, "/y", b"ha");
    first.crash();
    remote.set_down(false);
    let second = Rig::start(dir.path(), &remote);
    let left = short_drain(&second);
    let letter = dead(&second)[0].op.clone();
    second.ws.discard(&letter).unwrap();
    second.ws.refresh_noted().unwrap();
    short_drain(&second);
    assert_eq!(left, 0, "stuck");
    assert!(remote.content("/x").is_some(), "the remote's only copy was deleted by discarding a letter");
}

#[test]
fn a_move_over_an_unflushed_letter_does_not_remove_the_source_before_the_content_has_arrived() {
    let (dir, first) = rig(&[("/x", b"precious"), ("/y", b"y")]);
    let remote = first.remote.clone();
    first.read("/x").unwrap();
    half(&first, "/y", b"Y");
    first.crash();
    let second = Rig::start(dir.path(), &remote);
    assert_eq!(dead(&second).len(), 1);
    remote.set_down(true);
    second.rename("/x", "/y").unwrap();
    half(&second, "/y", b"ha");
    second.crash();
    remote.set_down(false);
    let third = Rig::start(dir.path(), &remote);
    short_drain(&third);
    // Under its old name, or under the new one if it was on its way already.
    assert!(remote.files().values().any(|bytes| bytes == b"precious"), "deleted while its content was never uploaded");
}

#[test]
fn a_refused_removal_retried_with_success_leaves_nothing_behind() {
    let (dir, rig) = rig(&[("/x", b"old"), ("/z", b"z")]);
    let remote = rig.remote.clone();
    rig.remote.fail_next(ErrorKind::Rejected, false);
    rig.unlink("/x").unwrap();
    assert_eq!(rig.drain(), 0);
    let d = dead(&rig)[0].clone();
    rig.ws.refresh_noted().unwrap();
    assert!(rig.ino("/x").is_ok());
    rig.ws.retry(&d.op, false).unwrap();
    assert_eq!(rig.drain(), 0);
    assert!(remote.content("/x").is_none());
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    second.ws.refresh_noted().unwrap();
    second.ws.learn(&remote.newest_mark().unwrap()).unwrap();
    let there = second.ino("/x").is_ok();
    assert!(!there, "ghost");
}

#[test]
fn a_refused_removal_retried_after_the_file_was_read_leaves_nothing_behind() {
    let (_dir, rig) = rig(&[("/x", b"old"), ("/z", b"z")]);
    rig.remote.fail_next(ErrorKind::Rejected, false);
    rig.unlink("/x").unwrap();
    assert_eq!(rig.drain(), 0);
    let d = dead(&rig)[0].clone();
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/x").unwrap(), b"old");
    rig.ws.retry(&d.op, false).unwrap();
    assert_eq!(rig.drain(), 0);
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    rig.ws.learn(&rig.remote.newest_mark().unwrap()).unwrap();
    assert!(rig.read("/x").is_err(), "ghost, still readable {:?}", rig.read("/x"));
}

#[test]
fn a_conflict_retried_after_the_remote_deleted_the_file_leaves_the_view_with_the_remote() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.read("/x").unwrap();
    rig.remote.write("/x", b"theirs");
    rig.save("/x", b"mine").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/x").unwrap(), b"theirs");
    let a = dead(&rig)[0].clone();
    rig.remote.remove("/x");
    rig.ws.retry(&a.op, false).unwrap();
    assert_eq!(rig.drain(), 0);
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    rig.ws.learn(&rig.remote.newest_mark().unwrap()).unwrap();
    let v = rig.read("/x");
    assert!(v.is_err() || v.unwrap() == b"mine", "the view shows a version that neither the remote nor a letter has");
}

#[test]
fn a_refused_removal_shows_the_file_again_after_a_restart() {
    let (dir, rig) = rig(&[("/x", b"old")]);
    let remote = rig.remote.clone();
    remote.fail_next(ErrorKind::Rejected, false);
    rig.unlink("/x").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    second.follow();
    second.ws.refresh_noted().unwrap();
    assert!(second.ino("/x").is_ok(), "the remote's file does not come back");
}

#[test]
fn a_dropped_removal_shows_the_file_again_after_a_restart() {
    let (dir, rig) = rig(&[("/x", b"old")]);
    let remote = rig.remote.clone();
    rig.read("/x").unwrap();
    remote.fail_next(ErrorKind::Rejected, false);
    rig.rename("/x", "/y").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    second.follow();
    second.ws.refresh_noted().unwrap();
    assert!(second.ino("/x").is_ok(), "the remote's file does not come back");
}

#[test]
fn a_revert_by_somebody_else_is_not_overwritten() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.save("/x", b"one").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.save("/x", b"two").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.remote.write("/x", b"one");
    rig.save("/x", b"three").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/x").unwrap(), b"one", "overwrote a revision nobody here has seen");
}

#[test]
fn a_removal_retried_beside_the_view_does_not_spoil_the_next_save() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.read("/x").unwrap();
    rig.gate.close();
    rig.unlink("/x").unwrap();
    rig.remote.write("/x", b"theirs");
    rig.follow();
    assert_eq!(rig.drain(), 0);
    rig.ws.refresh_noted().unwrap();
    assert_eq!(rig.read("/x").unwrap(), b"theirs");
    let d = dead(&rig)[0].clone();
    rig.gate.close();
    rig.ws.retry(&d.op, false).unwrap();
    rig.save("/x", b"mine, on theirs").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/x").unwrap(), b"mine, on theirs", "false conflict");
}

#[test]
fn a_removal_retried_beside_the_view_does_not_swallow_the_next_one() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.read("/x").unwrap();
    rig.unlink("/x").unwrap();
    rig.remote.write("/x", b"theirs");
    rig.drain();
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    assert!(!dead(&rig).is_empty());
    assert_eq!(rig.read("/x").unwrap(), b"theirs");
    let d = dead(&rig)[0].clone();
    rig.gate.close();
    rig.ws.retry(&d.op, false).unwrap();
    rig.unlink("/x").unwrap();
    assert_eq!(rig.drain(), 0);
    assert!(rig.remote.content("/x").is_none(), "removal of what the user saw was swallowed");
}

#[test]
fn half_a_discard_does_not_throw_unflushed_bytes_away() {
    let (dir, rig) = rig(&[("/x", b"old")]);
    let remote = rig.remote.clone();
    rig.read("/x").unwrap();
    remote.fail_next(ErrorKind::Rejected, false);
    rig.save("/x", b"refused").unwrap();
    assert_eq!(rig.drain(), 0);
    let a = dead(&rig)[0].clone();
    let id = a.op.clone();
    // The first commit of Workspace::discard; the process dies before the second.
    rig.ws.journal().write(move |tx| tx.discard(&id)).unwrap();
    half(&rig, "/x", b"new bytes under way");
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    let u = dead(&second);
    assert!(u.iter().any(|l| std::fs::read(second.ws.payload_path(&l.op)).is_ok_and(|b| b == b"new bytes under way")), "lost");
}

#[test]
fn half_a_discard_does_not_throw_a_later_save_away() {
    let (dir, rig) = rig(&[("/x", b"old")]);
    let remote = rig.remote.clone();
    remote.fail_next(ErrorKind::Rejected, false);
    rig.save("/x", b"refused").unwrap();
    assert_eq!(rig.drain(), 0);
    let id = dead(&rig)[0].op.clone();
    rig.ws.journal().write(move |tx| tx.discard(&id)).unwrap();
    remote.fail_next(ErrorKind::Rejected, false);
    rig.save("/x", b"later save").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    second.ws.refresh_noted().unwrap();
    assert_eq!(second.read("/x").unwrap(), b"later save");
}

#[test]
fn a_letter_of_a_moved_file_does_not_hide_its_old_path() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.remote.fail_next(ErrorKind::Rejected, false);
    rig.save("/x", b"edit").unwrap();
    assert_eq!(rig.drain(), 0);
    let a = dead(&rig)[0].clone();
    rig.remote.fail_next(ErrorKind::Rejected, false);
    rig.rename("/x", "/y").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.ws.refresh_noted().unwrap();
    rig.ws.retry(&a.op, false).unwrap();
    assert_eq!(rig.drain(), 0);
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    assert!(rig.ino("/x").is_ok(), "the remote has /x, the view never shows it");
}

#[test]
fn two_letters_of_a_path_do_not_settle_each_other_by_waiting() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.read("/x").unwrap();
    for (t, m) in [(b"theirs1", b"mine1"), (b"theirs2", b"mine2")] {
        rig.gate.close();
        rig.save("/x", m).unwrap();
        rig.remote.write("/x", t);
        assert_eq!(rig.drain(), 0);
        rig.follow();
        rig.ws.refresh_noted().unwrap();
        assert_eq!(rig.read("/x").unwrap(), t);
    }
    let l = dead(&rig);
    assert_eq!(l.len(), 2);
    rig.gate.close();
    rig.ws.retry(&l[0].op, true).unwrap();
    let second = rig.ws.retry(&l[1].op, true).unwrap();
    assert_eq!(rig.drain(), 0);
    assert!(
        dead(&rig).is_empty() || !matches!(second, Retried::NewerSave(_)),
        "told that a later save settles it; it is still dead"
    );
}

#[test]
fn a_forced_letter_is_shown_also_when_the_process_dies_behind_it() {
    let (dir, rig) = rig(&[("/x", b"old")]);
    let remote = rig.remote.clone();
    rig.read("/x").unwrap();
    remote.write("/x", b"theirs");
    rig.save("/x", b"mine").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.follow();
    rig.ws.refresh_noted().unwrap();
    rig.read("/x").unwrap();
    let a = dead(&rig)[0].clone();
    rig.ws.retry(&a.op, true).unwrap();
    assert_eq!(rig.drain(), 0);
    rig.crash();
    let second = Rig::start(dir.path(), &remote);
    second.follow();
    second.ws.refresh_noted().unwrap();
    assert_eq!(second.read("/x").unwrap(), b"mine");
    second.save("/x", b"next").unwrap();
    assert_eq!(second.drain(), 0);
    assert_eq!(remote.content("/x").unwrap(), b"next");
}

pub(super) fn wait(mut f: impl FnMut() -> bool) {
    let t = std::time::Instant::now();
    while !f() {
        assert!(t.elapsed().as_secs() < 5);
        std::thread::yield_now();
    }
}

#[test]
fn an_unflushed_letter_is_based_on_what_our_own_removal_left() {
    let (dir, rig) = rig(&[("/x", b"old")]);
    let remote = rig.remote.clone();
    remote.fail_next(ErrorKind::Unreachable, true);
    rig.unlink("/x").unwrap();
    wait(|| remote.content("/x").is_none());
    remote.set_down(true);
    let fh = rig.act(|ws| ws.create(ME2, Ino::ROOT, std::ffi::OsStr::new("x"), 0o644, libc::O_WRONLY)).unwrap().1.fh;
    rig.ws.write(fh, 0, b"half").unwrap();
    rig.ws.barrier().unwrap();
    rig.crash();
    remote.set_down(false);
    let second = Rig::start(dir.path(), &remote);
    second.follow();
    assert_eq!(second.drain(), 0);
    let u = dead(&second)[0].clone();
    second.ws.retry(&u.op, false).unwrap();
    assert_eq!(second.drain(), 0);
    assert_eq!(remote.content("/x").unwrap(), b"half", "conflict with our own delete");
}
const ME2: Caller = Caller { uid: 0, gid: 0 };

#[test]
fn the_death_of_a_move_leaves_the_mark_of_a_later_change_alone() {
    let mut hit = 0;
    for _ in 0..150 {
        let (_dir, rig) = rig(&[("/x", b"precious"), ("/z", b"z")]);
        rig.read("/x").unwrap();
        rig.read("/z").unwrap();
        rig.gate.close();
        rig.rename("/x", "/y").unwrap();
        rig.remote.fail_next(ErrorKind::Rejected, false);
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (ws, s) = (rig.ws.clone(), stop.clone());
        let t = std::thread::spawn(move || {
            while !s.load(std::sync::atomic::Ordering::Relaxed) {
                let g = ws.tree.write();
                std::thread::sleep(std::time::Duration::from_micros(300));
                drop(g);
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
        });
        rig.gate.open();
        wait(|| rig.ws.journal().queue_numbers().unwrap().dead == 1);
        rig.remote.set_down(true);
        rig.rename("/z", "/x").unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        t.join().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let x: crate::path::RemotePath = "/x".parse().unwrap();
        let open = rig.ws.journal().operation_of_path(&x).unwrap().is_some_and(|o| o.state != OpState::Dead);
        if open && !rig.ws.has_work(&x) {
            hit += 1;
            rig.remote.set_down(false);
            rig.remote.write("/x", b"theirs");
            rig.follow();

            break;
        }
        rig.crash();
    }
    assert_eq!(hit, 0);
}

#[test]
fn discarding_a_refused_move_leaves_the_source_at_the_remote() {
    let (_dir, rig) = rig(&[("/x", b"precious")]);
    rig.read("/x").unwrap();
    rig.remote.fail_next(ErrorKind::Rejected, false);
    rig.rename("/x", "/y").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.ws.refresh_noted().unwrap();
    let p = dead(&rig)[0].clone();
    rig.ws.discard(&p.op).unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.read("/x").unwrap(), b"precious");
    assert!(rig.ino("/y").is_err());
}

#[test]
fn a_refused_removal_retried_does_not_spoil_the_next_save() {
    let (_dir, rig) = rig(&[("/x", b"old")]);
    rig.remote.fail_next(ErrorKind::Rejected, false);
    rig.unlink("/x").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.ws.refresh_noted().unwrap();
    rig.read("/x").unwrap();
    // somebody changes it, the view follows
    rig.remote.write("/x", b"theirs");
    rig.follow();
    assert_eq!(rig.read("/x").unwrap(), b"theirs");
    let d = dead(&rig)[0].clone();
    rig.gate.close();
    rig.ws.retry(&d.op, false).unwrap();
    rig.save("/x", b"on theirs").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/x").unwrap(), b"on theirs", "false conflict");
}

#[test]
fn a_refused_removal_retried_does_not_spoil_a_move_over_its_path() {
    let (_dir, rig) = rig(&[("/x", b"old"), ("/z", b"z")]);
    rig.read("/z").unwrap();
    rig.remote.fail_next(ErrorKind::Rejected, false);
    rig.unlink("/x").unwrap();
    assert_eq!(rig.drain(), 0);
    rig.ws.refresh_noted().unwrap();
    rig.read("/x").unwrap();
    let d = dead(&rig)[0].clone();
    rig.gate.close();
    rig.ws.retry(&d.op, false).unwrap();
    // the path shows r1; the user renames it away while the delete is queued again
    rig.rename("/x", "/n").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.content("/n").unwrap(), b"old");
}
