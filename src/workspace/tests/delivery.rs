//! From the remote's acceptance to the provider: what is looked at and when, how a refusal shows, and what a retry does.

use super::letters::dead;
use super::*;
use crate::delivery::Following;
use crate::journal::*;
use crate::remote::DeliveryState;

const MINUTE: i64 = 60_000;

/// A rig whose file has been saved and accepted by the remote, with a follower of deliveries.
fn saved() -> (tempfile::TempDir, Rig, Following) {
    let (dir, rig) = rig(&[("/f", b"old")]);
    rig.save("/f", b"new").unwrap();
    assert_eq!(rig.drain(), 0);
    let following = Following::new(rig.ws.journal().clone(), rig.remote.clone());
    rig.remote.take_log();
    (dir, rig, following)
}

fn numbers(rig: &Rig) -> DeliveryNumbers {
    rig.ws.journal().delivery_numbers().unwrap()
}

/// A letter of the save of `/f`.
fn refused() -> (tempfile::TempDir, Rig, Following, Operation) {
    let (dir, rig, mut following) = saved();
    rig.remote.deliver("/f", DeliveryState::DeadLettered, Some("a title is required"));
    following.step(now_ms() + MINUTE).unwrap();
    let letter = dead(&rig).remove(0);
    rig.remote.take_op_requests();
    (dir, rig, following, letter)
}

#[test]
fn looks_begin_after_two_seconds_and_end_with_the_delivery() {
    let (_dir, rig, mut following) = saved();
    following.step(now_ms()).unwrap();
    assert_eq!((rig.remote.take_op_requests(), numbers(&rig).unresolved), (vec![], 1), "too early to ask");
    following.step(now_ms() + 5_000).unwrap();
    assert_eq!(rig.remote.take_op_requests().len(), 1);
    following.step(now_ms() + 5_500).unwrap();
    assert!(rig.remote.take_op_requests().is_empty(), "asked again before the wait was over");
    rig.remote.deliver("/f", DeliveryState::Succeeded, None);
    following.step(now_ms() + MINUTE).unwrap();
    assert_eq!((rig.remote.take_op_requests().len(), numbers(&rig)), (1, DeliveryNumbers::default()));
    following.step(now_ms() + 100 * MINUTE).unwrap();
    assert!(rig.remote.take_op_requests().is_empty(), "nothing is left to ask about");
}

#[test]
fn a_refusal_is_a_letter_that_defends_nothing_in_the_view() {
    let (_dir, rig, _, letter) = refused();
    assert_eq!((letter.last_code.as_deref(), letter.last_error.as_deref()), (Some("delivery"), Some("a title is required")));
    assert_eq!((letter.in_view, letter.replay, letter.attempts, letter.last_status), (false, true, 1, None));
    assert_eq!((numbers(&rig).unresolved, numbers(&rig).refused), (0, 1));
    assert!(!rig.ws.has_work(&letter.path));
    rig.remote.write("/f", b"theirs");
    rig.follow();
    assert_eq!(rig.read("/f").unwrap(), b"theirs", "the path follows the remote");
}

#[test]
fn a_failed_attempt_of_the_remote_is_no_end() {
    let (_dir, rig, mut following) = saved();
    rig.remote.deliver("/f", DeliveryState::Failed, Some("busy"));
    following.step(now_ms() + MINUTE).unwrap();
    assert_eq!((dead(&rig).len(), numbers(&rig).unresolved), (0, 1));
    rig.remote.deliver("/f", DeliveryState::Canceled, None);
    following.step(now_ms() + 10 * MINUTE).unwrap();
    assert_eq!(dead(&rig)[0].last_error.as_deref(), Some("its delivery to the provider was canceled"));
}

#[test]
fn a_retry_asks_for_another_delivery_and_writes_nothing() {
    let (_dir, rig, mut following, letter) = refused();
    assert_eq!(rig.ws.retry(&letter.op, true).unwrap(), Retried::Queued);
    assert_eq!(rig.drain(), 0);
    assert_eq!(rig.remote.take_op_requests(), [format!("POST {}", letter.remote_op.unwrap())]);
    assert_eq!((rig.remote.take_log(), dead(&rig).len(), numbers(&rig).unresolved), (vec![], 0, 1));
    rig.remote.deliver("/f", DeliveryState::Succeeded, None);
    following.step(now_ms() + MINUTE).unwrap();
    assert_eq!(numbers(&rig), DeliveryNumbers::default());
    assert_eq!(rig.ws.retry(&letter.op, false).unwrap(), Retried::Acknowledged);
}

#[test]
fn a_replay_that_the_remote_does_not_take_is_looked_at() {
    for (state, letters, followed) in [
        (DeliveryState::Succeeded, 0, 0),
        (DeliveryState::Pending, 0, 1),
        (DeliveryState::Running, 0, 1),
        (DeliveryState::Canceled, 1, 0),
    ] {
        let (_dir, rig, _, letter) = refused();
        rig.remote.deliver("/f", state, None);
        rig.ws.retry(&letter.op, false).unwrap();
        rig.drain();
        assert_eq!((dead(&rig).len(), numbers(&rig).unresolved), (letters, followed), "{state:?}");
        assert!(rig.remote.take_log().is_empty(), "{state:?}: written a second time");
    }
}

#[test]
fn a_replay_of_what_the_remote_has_forgotten_stays_a_letter_with_these_words() {
    let (_dir, rig, _, letter) = refused();
    rig.remote.forget_operations();
    rig.ws.retry(&letter.op, false).unwrap();
    rig.drain();
    let letter = dead(&rig).remove(0);
    assert_eq!((letter.last_code.as_deref(), letter.last_status), (Some("delivery"), Some(404)));
    assert!(letter.last_error.as_ref().unwrap().contains("no longer knows this operation"), "{letter:?}");
    assert!(letter.replay, "a later retry still writes nothing");
}

#[test]
fn a_replay_waits_for_the_remote_and_keeps_no_save_waiting() {
    let (_dir, rig, _, letter) = refused();
    rig.remote.set_down(true);
    rig.ws.retry(&letter.op, false).unwrap();
    rig.drain();
    assert_eq!((dead(&rig).len(), rig.ws.journal().queue_numbers().unwrap().pending), (0, 1));
    rig.save("/f", b"corrected").unwrap();
    assert_eq!(dead(&rig).len(), 1, "the letter is one again until the save has arrived");
    rig.remote.set_down(false);
    rig.remote.take_op_requests();
    assert_eq!(rig.drain(), 0);
    assert_eq!((rig.remote.content("/f").unwrap(), dead(&rig).len()), (b"corrected".to_vec(), 0));
    assert!(rig.remote.take_op_requests().is_empty(), "what was replaced is not delivered again");
    assert_eq!(numbers(&rig).unresolved, 1);
}

#[test]
fn what_was_replaced_at_the_remote_is_not_followed_any_more() {
    let (_dir, rig, mut following) = saved();
    rig.save("/f", b"newer").unwrap();
    rig.drain();
    let newer = rig.remote.delivery_of("/f").unwrap().remote_op;
    following.step(now_ms() + MINUTE).unwrap();
    assert_eq!(rig.remote.take_op_requests(), [format!("GET {newer}")]);
}

#[test]
fn a_removal_settles_the_letter_of_a_delivery_when_it_is_accepted() {
    let (_dir, rig, ..) = refused();
    rig.unlink("/f").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!((dead(&rig).len(), numbers(&rig).unresolved), (0, 1), "the removal itself is followed");
}

#[test]
fn a_refused_put_does_not_hold_back_the_removal_of_the_old_name() {
    let (_dir, rig) = rig(&[("/a", b"x")]);
    rig.read("/a").unwrap();
    rig.rename("/a", "/b").unwrap();
    rig.remote.fail_next_delete(ErrorKind::Unreachable);
    assert_eq!(rig.drain(), 1, "the put is accepted, the removal waits");
    rig.remote.deliver("/b", DeliveryState::DeadLettered, Some("no"));
    Following::new(rig.ws.journal().clone(), rig.remote.clone()).step(now_ms() + MINUTE).unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!((rig.remote.content("/a"), dead(&rig).len()), (None, 1));
}

#[test]
fn discarding_the_letter_leaves_the_file_as_the_remote_has_it() {
    let (_dir, rig, _, letter) = refused();
    assert_eq!(rig.ws.discard(&letter.op).unwrap(), Discarded::Done);
    assert_eq!((rig.read("/f").unwrap(), rig.remote.content("/f").unwrap()), (b"new".to_vec(), b"new".to_vec()));
    assert_eq!(numbers(&rig), DeliveryNumbers::default());
    assert!(rig.remote.take_log().is_empty());
}

#[test]
fn following_goes_on_after_a_crash() {
    let (dir, rig, following) = saved();
    let remote = rig.remote.clone();
    drop(following);
    rig.crash();
    remote.deliver("/f", DeliveryState::DeadLettered, Some("no"));
    let second = Rig::start(dir.path(), &remote);
    Following::new(second.ws.journal().clone(), remote.clone()).step(now_ms() + MINUTE).unwrap();
    assert_eq!(dead(&second).len(), 1);
    second.crash();
    let third = Rig::start(dir.path(), &remote);
    let letter = dead(&third).remove(0);
    assert!(!third.ws.has_work(&letter.path));
    third.ws.retry(&letter.op, false).unwrap();
    assert_eq!((third.drain(), numbers(&third).unresolved, remote.take_log()), (0, 1, vec![]));
}

#[test]
fn a_delivery_whose_id_was_lost_with_the_response_is_found_by_its_correlation() {
    let (_dir, rig) = rig(&[("/f", b"old")]);
    rig.remote.fail_next(ErrorKind::Transient, true);
    rig.save("/f", b"new").unwrap();
    assert_eq!(rig.drain(), 0);
    assert_eq!(numbers(&rig).unresolved, 1);
    rig.remote.deliver("/f", DeliveryState::DeadLettered, Some("no"));
    Following::new(rig.ws.journal().clone(), rig.remote.clone()).step(now_ms() + MINUTE).unwrap();
    let letter = dead(&rig).remove(0);
    assert_eq!(letter.remote_op, rig.remote.delivery_of("/f").map(|d| d.remote_op));
}

#[test]
fn one_page_answers_for_many_operations_and_a_round_is_bounded() {
    let (_dir, rig) = rig(&[]);
    for n in 0..60 {
        rig.save(&format!("/f{n}"), b"x").unwrap();
    }
    assert_eq!(rig.drain(), 0);
    rig.remote.deliver("/f7", DeliveryState::DeadLettered, Some("no"));
    rig.remote.deliver("/f8", DeliveryState::Succeeded, None);
    let mut following = Following::new(rig.ws.journal().clone(), rig.remote.clone());
    following.step(now_ms() + MINUTE).unwrap();
    assert_eq!(rig.remote.take_op_requests(), ["GET /ops"]);
    let n = numbers(&rig);
    assert_eq!((n.unresolved, n.refused), (58, 1));
    rig.remote.forget_operations();
    following.step(now_ms() + 10 * MINUTE).unwrap();
    assert_eq!(rig.remote.take_op_requests().len(), 16);
    assert_eq!(numbers(&rig).unresolved, 58 - 15);
}

#[test]
fn what_nobody_can_tell_is_given_up_and_counted() {
    let (_dir, rig, mut following) = saved();
    following.step(now_ms() + 8 * 24 * 60 * MINUTE).unwrap();
    assert_eq!((numbers(&rig).unresolved, numbers(&rig).lost), (0, 1));
    rig.save("/f", b"newer").unwrap();
    rig.drain();
    rig.remote.forget_operations();
    following.step(now_ms() + MINUTE).unwrap();
    assert_eq!((numbers(&rig).unresolved, numbers(&rig).lost, dead(&rig).len()), (0, 2, 0));
}

#[test]
fn a_token_that_may_not_look_is_not_asked_with_again_until_it_changes() {
    let (_dir, rig, mut following) = saved();
    rig.remote.fail_operations(Some(ErrorKind::Forbidden));
    for n in 1..5 {
        following.step(now_ms() + n * MINUTE).unwrap();
    }
    assert_eq!(rig.remote.take_op_requests().len(), 1);
    assert!(numbers(&rig).unknown.unwrap().contains("may not read operations"));
    rig.remote.fail_operations(None);
    rig.remote.change_token();
    following.step(now_ms() + 5 * MINUTE).unwrap();
    assert_eq!((rig.remote.take_op_requests().len(), numbers(&rig).unknown, numbers(&rig).unresolved), (1, None, 1));
}

#[test]
fn a_remote_in_trouble_is_not_asked_again_at_once_and_nothing_is_given_up() {
    for kind in [ErrorKind::Transient, ErrorKind::Unreachable, ErrorKind::Unauthorized, ErrorKind::Corrupt] {
        let (_dir, rig, mut following) = saved();
        rig.remote.fail_operations(Some(kind));
        for n in 1..5 {
            following.step(now_ms() + n * MINUTE).unwrap();
        }
        assert_eq!(rig.remote.take_op_requests().len(), 1, "{kind:?}");
        let n = numbers(&rig);
        assert_eq!((n.unresolved, n.lost, n.unknown), (1, 0, None), "{kind:?}");
    }
}

#[test]
fn an_event_about_a_delivery_makes_its_look_due_and_hides_no_change() {
    let (_dir, rig, mut following) = saved();
    rig.follow();
    rig.remote.deliver("/f", DeliveryState::Succeeded, None);
    rig.remote.write("/f", b"theirs");
    rig.remote.announce_delivery("/f");
    rig.follow();
    assert_eq!(rig.read("/f").unwrap(), b"theirs");
    following.step(now_ms()).unwrap();
    assert_eq!(numbers(&rig).unresolved, 0);
}

#[test]
fn a_draft_takes_its_new_name_and_keeps_its_inode() {
    let (_dir, rig) = rig(&[("/linear/other", b"x")]);
    rig.save("/linear/draft.json", b"{}").unwrap();
    rig.drain();
    rig.follow();
    let ino = rig.ino("/linear/draft.json").unwrap();
    let fh = rig.act(|ws| ws.open(ino, libc::O_RDONLY)).unwrap().fh;
    rig.remote.move_draft("/linear/draft.json", "/linear/ENG-1.json");
    let reads = rig.remote.reads();
    rig.follow();
    assert_eq!(rig.ino("/linear/ENG-1.json").unwrap(), ino);
    assert!(rig.ino("/linear/draft.json").is_err());
    assert_eq!((rig.ws.read(fh, 0, 10).unwrap(), rig.read("/linear/ENG-1.json").unwrap()), (b"{}".to_vec(), b"{}".to_vec()));
    assert_eq!(rig.remote.reads(), reads, "nothing is fetched for a new name");
    rig.save("/linear/ENG-1.json", b"{\"title\":1}").unwrap();
    assert_eq!((rig.drain(), dead(&rig).len()), (0, 0));
    assert_eq!(rig.remote.content("/linear/ENG-1.json").unwrap(), b"{\"title\":1}");
}

#[test]
fn a_draft_with_an_edit_under_way_keeps_the_edit() {
    let (_dir, rig) = rig(&[("/linear/other", b"x")]);
    rig.save("/linear/draft.json", b"{}").unwrap();
    rig.drain();
    rig.follow();
    rig.remote.set_down(true);
    rig.save("/linear/draft.json", b"edited").unwrap();
    rig.remote.set_down(false);
    rig.remote.move_draft("/linear/draft.json", "/linear/ENG-1.json");
    rig.follow();
    assert_eq!(rig.read("/linear/draft.json").unwrap(), b"edited");
    assert_eq!(rig.read("/linear/ENG-1.json").unwrap(), b"{}");
}
