//! Following what the remote has accepted to its end at the provider.
//!
//! The remote's acceptance of a write is not yet the provider's (Linear, Notion, …). Each acknowledged operation whose id the
//! remote named is looked at until the provider has it or has refused it; a refusal for good becomes a dead letter of code
//! `delivery`. Nobody waits for this: a save is done when the remote has accepted it, and so are unmount, flush and drain.
//!
//! The rows of the journal say what is followed and when the next look is due, so that a restart goes on where it was. The
//! looks come after 2, 4, 8 … seconds, then every minute or two, after an hour every ten to twenty minutes, and end after a
//! week. A page of the newest operations answers for many at once; nothing is asked while nothing is due, or while the remote
//! does not answer.

mod round;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::journal::{Failure, Followed, Journal, JournalError, now_ms};
use crate::remote::{Delivery, ErrorKind, Remote, RemoteError};
use crate::writeback::{CircuitState, Gate, Writeback};

use round::Round;

/// Between two looks at the journal.
const TICK: Duration = Duration::from_secs(1);
/// Requests in one tick.
const REQUESTS_MAX: u32 = 16;
/// The longest wait after a look that failed.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a token that may not read operations is not asked with again.
const FORBIDDEN_FOR: Duration = Duration::from_secs(3600);

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// After this, what is still pending is given up.
const GIVEN_UP_AFTER_MS: i64 = 7 * 24 * HOUR_MS;

/// The wait before the next look at a delivery that is under way, `age` milliseconds after the acknowledgement; `random` is
/// in 0..1. As long as it has taken so far, so that the waits double; the jitter is a fifth either way.
fn next_wait(age: i64, random: f64) -> i64 {
    let wait = if age < HOUR_MS { age.clamp(2_000, MINUTE_MS) } else { 10 * MINUTE_MS };
    (wait as f64 * (0.8 + 0.4 * random.clamp(0.0, 1.0))).min(10.0 * MINUTE_MS as f64) as i64
}

/// `at`, moved on to the next of the moments at which this process looks at what has been pending for long: together, so that
/// a page answers for all of them. `phase` keeps the processes apart.
fn together(at: i64, age: i64, phase: i64) -> i64 {
    let period = match age {
        HOUR_MS.. => 10 * MINUTE_MS,
        MINUTE_MS.. => MINUTE_MS,
        _ => return at,
    };
    at + (phase - at).rem_euclid(period)
}

/// What a delivery that was refused for good says, as the last words of its operation.
pub fn refusal(d: &Delivery) -> Failure {
    let words = match (&d.last_error, d.state) {
        (Some(words), _) => words.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect(),
        (None, crate::remote::DeliveryState::Canceled) => "its delivery to the provider was canceled".to_owned(),
        (None, _) => "the provider refused it, and gave no reason".to_owned(),
    };
    Failure { status: None, code: "delivery".into(), message: words, body: d.words.clone() }
}

/// The running follower.
pub struct DeliveryFollower {
    stop: Sender<()>,
    /// Disconnects when the thread has ended.
    ended: Receiver<()>,
}

impl DeliveryFollower {
    pub fn start(
        journal: Journal,
        remote: Arc<dyn Remote>,
        writeback: Arc<Writeback>,
        gate: Arc<Gate>,
    ) -> std::io::Result<DeliveryFollower> {
        let (stop, stopped) = bounded(1);
        let (alive, ended) = bounded::<()>(0);
        std::thread::Builder::new().name("relayfile-dlvr".into()).spawn(move || {
            let _alive = alive;
            let mut following = Following::new(journal, remote);
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
                if !gate.is_open() || writeback.circuit() != CircuitState::Closed {
                    continue;
                }
                if let Err(e) = following.step(now_ms()) {
                    log::error!("what is known of deliveries could not be recorded: {e}");
                }
            }
        })?;
        Ok(DeliveryFollower { stop, ended })
    }

    /// Asks the thread to end and waits at most `limit` for a request under way; what it would have said is asked again by
    /// the next start.
    pub fn stop(&self, limit: Duration) {
        let _ = self.stop.try_send(());
        let _ = self.ended.recv_timeout(limit);
    }
}

/// What the thread knows beside the journal.
pub(crate) struct Following {
    journal: Journal,
    remote: Arc<dyn Remote>,
    /// Looks in a row that failed.
    failures: u32,
    /// Nothing is asked before this moment.
    not_before: Option<Instant>,
    /// The token that may not read operations, and until when it is believed to be so.
    forbidden: Option<(u64, Instant)>,
    /// The token with which that was said in the log.
    said: Option<u64>,
    /// Milliseconds, see [`together`].
    phase: i64,
}

impl Following {
    pub(crate) fn new(journal: Journal, remote: Arc<dyn Remote>) -> Following {
        Following {
            journal,
            remote,
            failures: 0,
            not_before: None,
            forbidden: None,
            said: None,
            phase: fastrand::i64(0..10 * MINUTE_MS),
        }
    }

    /// Looks at what is due, with at most [`REQUESTS_MAX`] requests.
    pub(crate) fn step(&mut self, now: i64) -> Result<(), JournalError> {
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        if let Some((token, until)) = self.forbidden {
            if self.remote.token_mark() == token && Instant::now() < until {
                return Ok(());
            }
            self.forbidden = None;
        }
        let due = self.journal.deliveries_due(now)?;
        if due.is_empty() {
            return Ok(());
        }
        let mut round = Round::new(&*self.remote, due, REQUESTS_MAX);
        let failed = round.ask().err();
        let heard = round.heard();
        self.record(round, now)?;
        match failed {
            None => {
                self.failures = 0;
                self.not_before = None;
                self.allowed(heard)
            }
            Some(e) if e.kind == ErrorKind::Forbidden => self.may_not(&e),
            Some(e) => {
                self.failures = self.failures.saturating_add(1);
                let pause = (TICK * 2u32.saturating_pow(self.failures.min(6))).min(PAUSE_MAX);
                let pause = e.retry_after.map_or(pause, |at_least| at_least.min(FORBIDDEN_FOR).max(pause));
                self.not_before = Some(Instant::now() + pause);
                log::debug!("deliveries are looked at again in {} s: {e}", pause.as_secs());
                self.allowed(heard)
            }
        }
    }

    fn record(&self, round: Round<'_>, now: i64) -> Result<(), JournalError> {
        let verdicts = round.into_verdicts();
        if verdicts.is_empty() {
            return Ok(());
        }
        crate::failpoint::hit("delivery-looked");
        let next = |f: &Followed| together(now + next_wait(now - f.since, fastrand::f64()), now - f.since, self.phase);
        let looks: Vec<i64> = verdicts.iter().map(|(f, _)| next(f)).collect();
        let refused = self.journal.write(move |tx| {
            let mut refused = Vec::new();
            for ((f, verdict), next_look) in verdicts.iter().zip(&looks) {
                match verdict {
                    round::Verdict::Delivered => drop(tx.delivered(f)?),
                    round::Verdict::UnderWay(state) if now - f.since < GIVEN_UP_AFTER_MS => {
                        tx.look_later(f, *state, *next_look)?;
                    }
                    round::Verdict::UnderWay(_) | round::Verdict::Forgotten => tx.delivery_lost(f)?,
                    round::Verdict::Refused(failure, attempts) => {
                        if tx.refuse_delivery(f, failure, *attempts)? {
                            refused.push((f.op.clone(), f.path.clone(), failure.message.clone()));
                        }
                    }
                }
            }
            Ok(refused)
        })?;
        if !refused.is_empty() {
            crate::failpoint::hit("delivery-refused");
        }
        for (op, path, words) in refused {
            log::error!("{op}: {path} is at the remote, but its provider has refused it: {words}");
        }
        Ok(())
    }

    /// The remote tells of operations (again).
    fn allowed(&mut self, heard: bool) -> Result<(), JournalError> {
        if heard && self.journal.meta("delivery_unknown")?.is_some() {
            log::info!("the token may read operations: deliveries are followed");
            self.said = None;
            self.journal.write(|tx| tx.set_delivery_unknown(None))?;
        }
        Ok(())
    }

    fn may_not(&mut self, e: &RemoteError) -> Result<(), JournalError> {
        let token = self.remote.token_mark();
        self.forbidden = Some((token, Instant::now() + FORBIDDEN_FOR));
        if self.said.replace(token) == Some(token) {
            return Ok(());
        }
        log::warn!(
            "the token may not read operations, so nobody here knows what becomes of saves behind the remote: {}",
            e.message
        );
        let why = format!("the token may not read operations: {}", e.message);
        self.journal.write(move |tx| tx.set_delivery_unknown(Some(&why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn looks_double_up_to_a_minute_and_come_every_ten_after_an_hour(age in 0i64..GIVEN_UP_AFTER_MS, random in 0.0f64..1.0) {
            let wait = next_wait(age, random);
            prop_assert!((1_600..=10 * MINUTE_MS).contains(&wait));
            if age < HOUR_MS {
                prop_assert!(wait <= age.max(2_000) * 6 / 5 && wait <= MINUTE_MS * 6 / 5);
            } else {
                prop_assert!(wait >= 8 * MINUTE_MS);
            }
        }
    }

    #[test]
    fn what_has_been_pending_for_long_is_looked_at_together() {
        let at = 1_700_000_000_123;
        assert_eq!(together(at, 59_999, 7), at);
        for (age, period) in [(MINUTE_MS, MINUTE_MS), (HOUR_MS, 10 * MINUTE_MS)] {
            for later in [0, 1, period / 2, period - 1] {
                let look = together(at + later, age, 7);
                assert!((at + later..at + later + period).contains(&look) && look.rem_euclid(period) == 7);
            }
        }
    }

    #[test]
    fn a_refusal_without_words_says_so_and_words_stay_on_one_line() {
        let mut d = Delivery {
            remote_op: "op_1".into(),
            path: None,
            state: crate::remote::DeliveryState::DeadLettered,
            attempts: 3,
            last_error: None,
            words: "{}".into(),
            correlation_id: String::new(),
        };
        assert_eq!(refusal(&d).message, "the provider refused it, and gave no reason");
        d.state = crate::remote::DeliveryState::Canceled;
        assert_eq!(refusal(&d).message, "its delivery to the provider was canceled");
        d.last_error = Some("a\nb\u{1b}[2J".into());
        assert_eq!(refusal(&d).message, "a b [2J");
    }
}
