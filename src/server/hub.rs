//! Who is told of new events: one bounded queue for each subscriber.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use super::store::EventRow;

/// Events that wait for one slow subscriber before it is cut off.
const QUEUE: usize = 4096;

#[derive(Default)]
pub(crate) struct Hub {
    /// By workspace number. A leaf lock; nothing blocks while it is held.
    subscribers: Mutex<HashMap<i64, Vec<Sender>>>,
}

struct Sender {
    queue: mpsc::Sender<Arc<EventRow>>,
    gap: Arc<Gap>,
}

/// Says that a subscriber has missed an event: what it got before is a complete prefix.
#[derive(Default)]
pub(crate) struct Gap {
    missed: AtomicBool,
    wake: Notify,
}

impl Gap {
    /// Returns when an event was missed.
    pub(crate) async fn missed(&self) {
        let wait = self.wake.notified();
        if !self.missed.load(Ordering::Acquire) {
            wait.await;
        }
    }
}

/// One subscriber's end; dropping it ends the subscription.
pub(crate) struct Subscription {
    pub events: mpsc::Receiver<Arc<EventRow>>,
    pub gap: Arc<Gap>,
}

impl Hub {
    /// From now on every published event of the workspace goes to the returned queue.
    pub(crate) fn subscribe(&self, ws: i64) -> Subscription {
        let (queue, events) = mpsc::channel(QUEUE);
        let gap = Arc::new(Gap::default());
        self.subscribers.lock().entry(ws).or_default().push(Sender { queue, gap: gap.clone() });
        Subscription { events, gap }
    }

    /// Called by the writer, after the commit, in commit order.
    pub(super) fn publish(&self, events: Vec<EventRow>) {
        if events.is_empty() {
            return;
        }
        let mut subscribers = self.subscribers.lock();
        if subscribers.is_empty() {
            return;
        }
        for event in events {
            let Some(list) = subscribers.get_mut(&event.ws) else { continue };
            let event = Arc::new(event);
            list.retain(|sender| match sender.queue.try_send(event.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    // Nothing more goes to it, so that it never sees events with a hole between them.
                    sender.gap.missed.store(true, Ordering::Release);
                    sender.gap.wake.notify_waiters();
                    sender.gap.wake.notify_one();
                    false
                }
            });
        }
        subscribers.retain(|_, list| !list.is_empty());
    }
}
