//! The gate before the queue: nothing is sent until the follower has made sure that the remote is the one we know.
//!
//! A restarted server may reuse revision names, so that a stale `If-Match` holds for a file that we have never seen. The
//! event feed tells: as long as it has not been found to continue where it was, at start and after every outage, the queue
//! stands still.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::Sender;

pub struct Gate {
    open: AtomicBool,
    /// How often the follower has failed; a drain that sees it rise knows that waiting is in vain.
    failures: AtomicU64,
    wake: Sender<()>,
}

impl Gate {
    /// A closed gate. `wake` wakes the dispatcher.
    pub fn new(wake: Sender<()>) -> Gate {
        Gate { open: AtomicBool::new(false), failures: AtomicU64::new(0), wake }
    }

    /// The view and the remote belong together.
    pub fn open(&self) {
        if !self.open.swap(true, Ordering::AcqRel) {
            let _ = self.wake.try_send(());
        }
    }

    /// The remote was lost; what comes back has to be looked at first.
    pub fn close(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// The follower could not find out.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::AcqRel);
        self.close();
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }
}
