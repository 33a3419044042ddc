//! Requests that need something of the remote first. They leave the session's threads, which must stay free for what
//! is local, and wait here, grouped by what they wait for: a slow file holds one thread, however many read it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::adapter::guard;
use crate::workspace::{FsResult, Need};

/// Most needs that are fetched at once.
const MOST_THREADS: usize = 32;
/// A thread that had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);

/// Called once when the need is met, or with the errno of why it is not. Dropped uncalled when the session ends.
pub(super) type Waiter = Box<dyn FnOnce(Result<(), i32>) + Send>;

pub(super) struct Waiting {
    shared: Arc<Shared>,
}

struct Shared {
    /// Blocks for at most the remote's deadline.
    fulfil: Box<dyn Fn(Need) -> FsResult<()> + Send + Sync>,
    /// A leaf in the lock order: never held while `fulfil` or a waiter runs.
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// Needs that no thread has taken up yet.
    queue: VecDeque<Need>,
    /// Whoever waits, for needs in the queue and for those being fetched.
    waiters: HashMap<Need, Vec<Waiter>>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Waiting {
    pub(super) fn new(fulfil: impl Fn(Need) -> FsResult<()> + Send + Sync + 'static) -> Waiting {
        Waiting { shared: Arc::new(Shared { fulfil: Box::new(fulfil), state: Mutex::default(), wake: Condvar::new() }) }
    }

    /// Returns at once.
    pub(super) fn wait(&self, need: Need, waiter: Waiter) {
        let mut state = self.shared.state.lock();
        if state.closed {
            return;
        }
        if let Some(group) = state.waiters.get_mut(&need) {
            group.push(waiter);
            return;
        }
        state.waiters.insert(need, vec![waiter]);
        state.queue.push_back(need);
        if state.queue.len() <= state.idle || state.threads == MOST_THREADS {
            self.shared.wake.notify_one();
            return;
        }
        let shared = self.shared.clone();
        let spawned = thread::Builder::new().name(format!("fetch-{}", state.threads)).spawn(move || shared.work());
        match spawned {
            Ok(_) => state.threads += 1,
            Err(e) if state.threads > 0 => log::warn!("no further fetch thread: {e}"),
            Err(e) => {
                log::error!("no fetch thread at all: {e}");
                state.queue.clear();
                let stranded: Vec<Waiter> = state.waiters.drain().flat_map(|(_, group)| group).collect();
                drop(state);
                stranded.into_iter().for_each(|w| w(Err(libc::EAGAIN)));
            }
        }
    }

    /// Drops whoever still waits and ends the threads when they have done what they are at.
    pub(super) fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.queue.clear();
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        self.shared.wake.notify_all();
        drop(waiters);
    }
}

impl Shared {
    fn work(&self) {
        while let Some(need) = self.next() {
            let met = guard("fetch", || (self.fulfil)(need)).map_err(|e| {
                log::info!("{need:?} was not fetched: {e}");
                e.to_errno()
            });
            // Whoever joins from here on makes a new group: its need may be newer than what was just fetched.
            let group = self.state.lock().waiters.remove(&need).unwrap_or_default();
            for waiter in group {
                waiter(met);
            }
        }
    }

    /// The next need, or `None` when this thread should end.
    fn next(&self) -> Option<Need> {
        let mut state = self.state.lock();
        loop {
            if let Some(need) = state.queue.pop_front() {
                return Some(need);
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let timeout = self.wake.wait_for(&mut state, IDLE);
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

    use super::*;
    use crate::ids::Ino;
    use crate::workspace::FsError;

    const LONG: Duration = Duration::from_secs(20);

    fn waiter(tx: &Sender<Result<(), i32>>) -> Waiter {
        let tx = tx.clone();
        Box::new(move |met| tx.send(met).unwrap())
    }

    /// A `Waiting` whose fetches each take one message from the returned sender.
    fn gated() -> (Waiting, Sender<FsResult<()>>, Receiver<Need>) {
        let (open, gate) = unbounded::<FsResult<()>>();
        let (begun_tx, begun) = unbounded();
        let waiting = Waiting::new(move |need| {
            begun_tx.send(need).unwrap();
            gate.recv().unwrap()
        });
        (waiting, open, begun)
    }

    #[test]
    fn many_who_need_the_same_share_one_fetch() {
        let (waiting, open, begun) = gated();
        let (tx, rx) = unbounded();
        let need = Need::Content(Ino(7));
        for _ in 0..5 {
            waiting.wait(need, waiter(&tx));
        }
        open.send(Ok(())).unwrap();
        for _ in 0..5 {
            assert_eq!(rx.recv_timeout(LONG), Ok(Ok(())));
        }
        assert_eq!(begun.len(), 1);
    }

    #[test]
    fn different_needs_do_not_wait_for_each_other() {
        let (waiting, open, begun) = gated();
        let (tx, rx) = unbounded();
        for i in 0..3 {
            waiting.wait(Need::Listing(Ino(i)), waiter(&tx));
        }
        for _ in 0..3 {
            begun.recv_timeout(LONG).unwrap();
        }
        assert!(rx.is_empty());
        for _ in 0..3 {
            open.send(Ok(())).unwrap();
        }
        for _ in 0..3 {
            rx.recv_timeout(LONG).unwrap().unwrap();
        }
    }

    #[test]
    fn threads_are_bounded_and_the_rest_waits_its_turn() {
        let (waiting, open, begun) = gated();
        let (tx, rx) = unbounded();
        let all = MOST_THREADS + 8;
        for i in 0..all {
            waiting.wait(Need::Content(Ino(i as u64)), waiter(&tx));
        }
        for _ in 0..MOST_THREADS {
            begun.recv_timeout(LONG).unwrap();
        }
        assert_eq!(waiting.shared.state.lock().queue.len(), 8);
        for _ in 0..all {
            open.send(Ok(())).unwrap();
        }
        for _ in 0..all {
            rx.recv_timeout(LONG).unwrap().unwrap();
        }
    }

    #[test]
    fn a_failed_fetch_gives_its_errno_to_all() {
        let (waiting, open, _begun) = gated();
        let (tx, rx) = unbounded();
        waiting.wait(Need::Content(Ino(1)), waiter(&tx));
        waiting.wait(Need::Content(Ino(1)), waiter(&tx));
        open.send(Err(FsError::Errno(libc::ESTALE))).unwrap();
        assert_eq!(rx.recv_timeout(LONG), Ok(Err(libc::ESTALE)));
        assert_eq!(rx.recv_timeout(LONG), Ok(Err(libc::ESTALE)));
    }

    #[test]
    fn a_panic_in_a_fetch_is_an_error_and_the_thread_goes_on() {
        let calls = AtomicUsize::new(0);
        let waiting = Waiting::new(move |_| {
            assert!(calls.fetch_add(1, Ordering::SeqCst) > 0, "first call panics");
            Ok(())
        });
        let (tx, rx) = unbounded();
        waiting.wait(Need::Content(Ino(1)), waiter(&tx));
        assert_eq!(rx.recv_timeout(LONG), Ok(Err(libc::EIO)));
        waiting.wait(Need::Content(Ino(1)), waiter(&tx));
        assert_eq!(rx.recv_timeout(LONG), Ok(Ok(())));
    }

    #[test]
    fn the_end_drops_whoever_waits() {
        let (waiting, open, begun) = gated();
        let (held, dropped) = bounded::<()>(0);
        waiting.wait(Need::Content(Ino(1)), Box::new(move |_| drop(held)));
        begun.recv_timeout(LONG).unwrap();
        waiting.close();
        assert_eq!(dropped.recv_timeout(LONG), Err(crossbeam_channel::RecvTimeoutError::Disconnected));
        open.send(Ok(())).unwrap();
    }
}
