//! The dispatcher thread and the pool of workers.
//!
//! What is due goes to a worker at once, small puts as one batch. Only when another put is about to become due do those that
//! could go with it wait for it, so that a lone save is never delayed and a burst of saves is few requests.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select_biased, unbounded};
use parking_lot::{Condvar, Mutex};

use crate::ids::OpId;
use crate::journal::{DueOp, Journal, JournalError, now_ms};
use crate::remote::{BULK_FILE_MAX, BULK_FILES, Remote};

use super::Contents;
use super::circuit::{Circuit, CircuitState, Permit};
use super::gate::Gate;
use super::worker::Worker;

#[derive(Debug, Clone)]
pub struct Settings {
    /// Uploads at a time, 1 to 64.
    pub workers: usize,
    /// Responses that an operation may be refused with before it is dead.
    pub max_attempts: u32,
}

/// The wait after a panic of a worker, in milliseconds.
const PANIC_RETRY_MS: i64 = 60_000;
/// The longest the dispatcher sleeps without looking at the journal.
const LOOK_AT_LEAST: Duration = Duration::from_secs(2);
/// What becomes due within so many milliseconds is waited for, to go together with what is due already.
const GATHER_MS: i64 = 80;
/// While that is waited for, the journal is looked at so often.
const GATHER_LOOK: Duration = Duration::from_millis(10);
/// But what is due waits no longer than this.
const GATHER_MAX: Duration = Duration::from_secs(1);
/// Most operations that are read from the journal at a time to be put together; more are read when a worker has ended.
const READ_AHEAD: usize = 8 * BULK_FILES;
/// Most bytes of the files of one batch; what they take as JSON is looked at when they are sent.
const BATCH_BYTES: u64 = 600 * 1024;

/// The running writeback.
pub struct Writeback {
    journal: Journal,
    circuit: Arc<Circuit>,
    gate: Arc<Gate>,
    stop: Sender<()>,
    wake: Sender<()>,
    /// How many jobs the workers have finished.
    progress: Arc<(Mutex<u64>, Condvar)>,
    /// How many they were given.
    given: Arc<AtomicU64>,
    /// Disconnects when every thread has ended.
    ended: Receiver<()>,
}

impl Writeback {
    /// `wake` is the pair of a channel bounded at one; whoever changes the queue sends to it.
    pub fn start(
        settings: &Settings,
        journal: Journal,
        contents: Arc<dyn Contents>,
        remote: Arc<dyn Remote>,
        wake: (Sender<()>, Receiver<()>),
        gate: Arc<Gate>,
    ) -> std::io::Result<Writeback> {
        let circuit = Arc::new(Circuit::new(Arc::clone(&gate)));
        let (stop, stopped) = bounded(1);
        let (jobs, next_job) = bounded::<Job>(settings.workers);
        let (report, done) = unbounded::<Job>();
        let batches = Arc::new(AtomicBool::new(true));
        let progress = Arc::new((Mutex::new(0), Condvar::new()));
        let given = Arc::new(AtomicU64::new(0));
        let (alive, ended) = bounded::<()>(0);
        for n in 0..settings.workers {
            let worker = Worker {
                journal: journal.clone(),
                contents: Arc::clone(&contents),
                remote: Arc::clone(&remote),
                circuit: Arc::clone(&circuit),
                max_attempts: settings.max_attempts,
                batches: Arc::clone(&batches),
            };
            let (next_job, report, progress) = (next_job.clone(), report.clone(), Arc::clone(&progress));
            let alive = alive.clone();
            std::thread::Builder::new().name(format!("relayfile-up{n}")).spawn(move || {
                let _alive = alive;
                for job in next_job {
                    let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match job.as_slice() {
                        [op] => worker.run(op),
                        ops => worker.run_batch(ops),
                    }));
                    if run.is_err() {
                        for op in &job {
                            log::error!("{op}: the worker panicked; the operation is tried again");
                            worker.let_go(op, PANIC_RETRY_MS, "internal");
                        }
                    }
                    *progress.0.lock() += 1;
                    progress.1.notify_all();
                    if report.send(job).is_err() {
                        return;
                    }
                }
            })?;
        }
        let dispatcher = Dispatcher {
            journal: journal.clone(),
            circuit: Arc::clone(&circuit),
            gate: Arc::clone(&gate),
            free: settings.workers,
            out: HashSet::new(),
            jobs,
            clock: Clock::new(),
            given: Arc::clone(&given),
            batches,
            gathering: None,
        };
        let woken = wake.1;
        std::thread::Builder::new().name("relayfile-disp".into()).spawn(move || {
            let _alive = alive;
            dispatcher.run(&stopped, &woken, &done);
        })?;
        Ok(Writeback { journal, circuit, gate, stop, wake: wake.0, progress, given, ended })
    }

    /// Looks at the queue now; a remote that did not answer is tried at once.
    pub fn wake(&self) {
        self.circuit.probe_now();
        let _ = self.wake.try_send(());
    }

    pub fn circuit(&self) -> CircuitState {
        self.circuit.state()
    }

    /// Makes everything due and waits until nothing is queued or in flight, the remote is found unreachable, or `limit` has
    /// passed. Returns how many operations are left.
    pub fn drain(&self, limit: Duration) -> Result<u64, JournalError> {
        let deadline = Instant::now() + limit;
        self.journal.write(|tx| tx.make_all_due())?;
        self.circuit.probe_now();
        let _ = self.wake.try_send(());
        let mut seen = self.progress.0.lock();
        let (seen_before, failures_before) = (*seen, self.gate.failures());
        loop {
            let n = self.journal.queue_numbers()?;
            let left = n.pending + n.in_flight;
            // Only what was tried since this began says that the remote is not there.
            let refused = *seen > seen_before && self.circuit.state() != CircuitState::Closed;
            let not_there = !self.gate.is_open() && self.gate.failures() > failures_before;
            let given_up = n.in_flight == 0 && (refused || not_there);
            // What a worker does after it has recorded an end belongs to that.
            let at_rest = *seen == self.given.load(Ordering::Acquire);
            if at_rest && (left == 0 || given_up) || Instant::now() >= deadline {
                return Ok(left);
            }
            let step = deadline.min(Instant::now() + Duration::from_millis(100));
            self.progress.1.wait_until(&mut seen, step);
        }
    }

    /// Asks the threads to end and waits at most `limit` for requests under way. One that takes longer is left alone: its
    /// operation stays in flight in the journal, and the next start asks the remote what became of it. Says whether all
    /// have ended.
    pub fn stop(&self, limit: Duration) -> bool {
        let _ = self.stop.try_send(());
        matches!(self.ended.recv_timeout(limit), Err(RecvTimeoutError::Disconnected))
    }
}

struct Dispatcher {
    journal: Journal,
    circuit: Arc<Circuit>,
    gate: Arc<Gate>,
    free: usize,
    /// Handed to a worker and not reported back.
    out: HashSet<OpId>,
    jobs: Sender<Job>,
    clock: Clock,
    given: Arc<AtomicU64>,
    /// The remote takes batches.
    batches: Arc<AtomicBool>,
    /// Since when something due has been waiting for what will be.
    gathering: Option<Instant>,
}

/// What one worker gets at a time: one operation, or several that go in one request.
type Job = Vec<OpId>;

/// Jobs of what is due, in its order: small plain puts together, up to the bounds of a batch, everything else alone. The
/// second value is the place of a batch that still has room.
fn group(due: Vec<DueOp>, batches: bool) -> (Vec<Job>, Option<usize>) {
    let (mut jobs, mut open): (Vec<Job>, Option<(usize, u64)>) = (Vec::new(), None);
    for DueOp { op, plain_put } in due {
        match (plain_put.filter(|size| batches && *size <= BULK_FILE_MAX), open) {
            (Some(size), Some((at, bytes))) if jobs[at].len() < BULK_FILES && bytes + size <= BATCH_BYTES => {
                jobs[at].push(op);
                open = Some((at, bytes + size));
            }
            (Some(size), _) => {
                open = Some((jobs.len(), size));
                jobs.push(vec![op]);
            }
            (None, _) => jobs.push(vec![op]),
        }
    }
    let room = open.filter(|(at, _)| jobs[*at].len() < BULK_FILES).map(|(at, _)| at);
    (jobs, room)
}

/// Notices that the time of day was set back: due times are times of day, because they outlive this process.
struct Clock {
    wall_ms: i64,
    since: Instant,
}

/// Less than this is how clocks are kept right.
const CLOCK_SLACK_MS: i64 = 1000;

impl Clock {
    fn new() -> Clock {
        Clock { wall_ms: now_ms(), since: Instant::now() }
    }

    /// By how many milliseconds the time of day was set back since the last look.
    fn set_back(&mut self, wall_ms: i64, now: Instant) -> Option<i64> {
        let expected = self.wall_ms + now.duration_since(self.since).as_millis() as i64;
        *self = Clock { wall_ms, since: now };
        Some(expected - wall_ms).filter(|ms| *ms > CLOCK_SLACK_MS)
    }
}

impl Dispatcher {
    fn run(mut self, stopped: &Receiver<()>, woken: &Receiver<()>, done: &Receiver<Job>) {
        loop {
            let wait = match self.dispatch() {
                Ok(wait) => wait.min(LOOK_AT_LEAST),
                Err(e) => {
                    log::error!("the queue cannot be read: {e}");
                    LOOK_AT_LEAST
                }
            };
            select_biased! {
                recv(stopped) -> _ => return,
                recv(done) -> job => match job {
                    Ok(job) => {
                        self.took_back(&job);
                        done.try_iter().for_each(|job| self.took_back(&job));
                    }
                    Err(_) => return,
                },
                recv(woken) -> message => if message.is_err() { return },
                default(wait) => {}
            }
        }
    }

    fn took_back(&mut self, job: &Job) {
        for op in job {
            self.out.remove(op);
        }
        self.free += 1;
    }

    /// Hands out what is due; returns how long nothing else will be.
    fn dispatch(&mut self) -> Result<Duration, JournalError> {
        if self.free == 0 || !self.gate.is_open() {
            return Ok(LOOK_AT_LEAST);
        }
        let now = now_ms();
        if let Some(ms) = self.clock.set_back(now, Instant::now()) {
            log::warn!("the clock of this machine was set back by {:.1} s", ms as f64 / 1000.0);
            self.journal.write(move |tx| tx.clock_set_back(ms))?;
        }
        let limit = match self.circuit.permit() {
            Permit::All => self.free,
            Permit::Probe if self.out.is_empty() => 1,
            Permit::Probe => return Ok(Duration::from_millis(100)),
            Permit::NotBefore(at) => return Ok(at.saturating_duration_since(Instant::now())),
        };
        let probe = self.circuit.permit() == Permit::Probe;
        let batches = self.batches.load(Ordering::Acquire) && !probe;
        let most = if batches { (limit * BULK_FILES).min(READ_AHEAD) } else { limit };
        let mut due = self.journal.due(now, GATHER_MS, most + self.out.len())?;
        due.ops.retain(|d| !self.out.contains(&d.op));
        let (mut jobs, room) = group(due.ops, batches);
        let mut at_least = Duration::from_millis(1);
        match room {
            // A lone save is never delayed: without anything that is about to follow, it goes.
            Some(at) if due.more_soon && self.gathering.get_or_insert_with(Instant::now).elapsed() < GATHER_MAX => {
                jobs.remove(at);
                // Each of the files that follow would be a reason to look.
                at_least = GATHER_LOOK;
            }
            _ => self.gathering = None,
        }
        for job in jobs.into_iter().take(limit) {
            if self.circuit.permit() == Permit::Probe {
                self.circuit.probe_starts();
            }
            self.out.extend(job.iter().cloned());
            self.free -= 1;
            self.given.fetch_add(1, Ordering::AcqRel);
            // Never blocks: there is room for as many as there are free workers.
            if self.jobs.send(job).is_err() {
                break;
            }
        }
        Ok(due.next_at.map_or(LOOK_AT_LEAST, |at| Duration::from_millis(at.saturating_sub(now).max(0) as u64)).max(at_least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(size: u64) -> DueOp {
        DueOp { op: OpId::generate(), plain_put: Some(size) }
    }

    fn sizes(due: Vec<DueOp>, batches: bool) -> (Vec<usize>, Option<usize>) {
        let (jobs, room) = group(due, batches);
        (jobs.iter().map(Vec::len).collect(), room)
    }

    #[test]
    fn small_puts_go_together_up_to_the_bounds_and_everything_else_alone() {
        let alone = || DueOp { op: OpId::generate(), plain_put: None };
        assert_eq!(sizes(vec![put(1), alone(), put(2), put(BULK_FILE_MAX + 1), put(3)], true), (vec![3, 1, 1], Some(0)));
        assert_eq!(sizes(vec![alone(), alone()], true), (vec![1, 1], None));
        assert_eq!(sizes(vec![put(1), put(2)], false), (vec![1, 1], None), "the remote takes no batches");
        let many = (0..300).map(|_| put(10)).collect();
        assert_eq!(sizes(many, true), (vec![128, 128, 44], Some(2)));
        let full = (0..BULK_FILES).map(|_| put(10)).collect();
        assert_eq!(sizes(full, true), (vec![128], None), "a full batch waits for nothing");
        let heavy = (0..20).map(|_| put(BULK_FILE_MAX)).collect();
        assert_eq!(sizes(heavy, true), (vec![9, 9, 2], Some(2)));
    }

    #[test]
    fn a_clock_that_is_set_back_is_noticed_and_one_that_goes_is_not() {
        let (mut clock, began) = (Clock { wall_ms: 1_000_000, since: Instant::now() }, Instant::now());
        let after = |s: u64| began + Duration::from_secs(s);
        assert_eq!(clock.set_back(1_010_000, after(10)), None, "it goes");
        assert_eq!(clock.set_back(1_019_500, after(20)), None, "it is kept right");
        assert_eq!(clock.set_back(9_000_000, after(30)), None, "the machine has slept");
        let back = clock.set_back(9_000_000 - 3_600_000, after(40)).expect("it was set back");
        assert!((3_609_000..3_611_000).contains(&back), "{back}");
        assert_eq!(clock.set_back(9_000_000 - 3_590_000, after(50)), None, "once");
    }
}
