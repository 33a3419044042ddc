//! The circuit: when the remote gives no answer, or refuses the token, the queue stands still and one operation at a time
//! finds out whether it is over. No attempt is spent on that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::backoff;
use super::gate::Gate;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CircuitState {
    Closed,
    /// The last request got no response.
    Unreachable {
        why: String,
    },
    /// The remote refuses the token (401).
    Unauthorized {
        why: String,
    },
}

struct Inner {
    state: CircuitState,
    failures: u32,
    next_probe: Instant,
    probing: bool,
}

pub(super) struct Circuit {
    inner: Mutex<Inner>,
    gate: Arc<Gate>,
}

/// Whether an operation may go out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Permit {
    All,
    /// One operation, as a probe.
    Probe,
    /// Nothing before this moment.
    NotBefore(Instant),
}

impl Circuit {
    pub fn new(gate: Arc<Gate>) -> Circuit {
        let inner = Inner { state: CircuitState::Closed, failures: 0, next_probe: Instant::now(), probing: false };
        Circuit { inner: Mutex::new(inner), gate }
    }

    pub fn state(&self) -> CircuitState {
        self.inner.lock().state.clone()
    }

    pub fn permit(&self) -> Permit {
        let inner = self.inner.lock();
        match inner.state {
            CircuitState::Closed => Permit::All,
            _ if inner.probing => Permit::NotBefore(Instant::now() + Duration::from_secs(1)),
            _ if inner.next_probe <= Instant::now() => Permit::Probe,
            _ => Permit::NotBefore(inner.next_probe),
        }
    }

    pub fn probe_starts(&self) {
        self.inner.lock().probing = true;
    }

    /// An answer came.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        if inner.state != CircuitState::Closed {
            log::info!("the remote answers again");
        }
        inner.state = CircuitState::Closed;
        inner.failures = 0;
        inner.probing = false;
    }

    pub fn open(&self, state: CircuitState) {
        if matches!(state, CircuitState::Unreachable { .. }) {
            self.gate.close();
        }
        let mut inner = self.inner.lock();
        if inner.state == CircuitState::Closed {
            log::warn!("writeback stands still: {state:?}; saves stay queued");
        }
        inner.failures = inner.failures.saturating_add(1);
        inner.probing = false;
        inner.next_probe = Instant::now() + backoff::delay(inner.failures, None, fastrand::f64());
        inner.state = state;
    }

    /// A probe ended without saying anything about the remote.
    pub fn probe_ends(&self) {
        self.inner.lock().probing = false;
    }

    /// The next operation may go out at once (the token changed, the user asked).
    pub fn probe_now(&self) {
        self.inner.lock().next_probe = Instant::now();
    }
}
