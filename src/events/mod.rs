//! Following the remote: learn the tree once, then poll the event feed.
//!
//! The order makes it gapless: the newest event id is taken first, then the tree is listed, then the events after that id
//! are applied; one whose revision the listing already showed changes nothing. A feed that does not continue behind our
//! cursor (the server answers an unknown cursor with the beginning) is a gap, and a gap means listing again and comparing.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;

use crate::remote::{Remote, RemoteEvent};
use crate::status::Feed;
use crate::workspace::{FsError, FsResult, Workspace};

/// Between two questions while the remote answers.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// The longest wait between two tries while it does not.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Among so many polls without an event, one asks whether the feed still knows our cursor.
const NEWEST_EVERY: u32 = 30;

/// How the follower stands.
#[derive(Debug, Clone)]
pub struct FeedState {
    pub feed: Feed,
    pub last_event_at: Option<SystemTime>,
    /// When the view was last known to be the remote's.
    pub last_sync_at: Option<SystemTime>,
}

/// The running follower.
pub struct Follower {
    state: Arc<Mutex<FeedState>>,
    stop: Sender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Follower {
    pub fn start(workspace: Arc<Workspace>, remote: Arc<dyn Remote>) -> std::io::Result<Follower> {
        let state = Arc::new(Mutex::new(FeedState { feed: Feed::Starting, last_event_at: None, last_sync_at: None }));
        let (stop, stopped) = bounded(1);
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("relayfile-feed".into())
            .spawn(move || Loop { workspace, remote, state: shared, failures: 0, quiet_polls: 0 }.run(&stopped))?;
        Ok(Follower { state, stop, thread: Mutex::new(Some(thread)) })
    }

    pub fn state(&self) -> FeedState {
        self.state.lock().clone()
    }

    pub fn stop(&self) {
        let _ = self.stop.try_send(());
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    workspace: Arc<Workspace>,
    remote: Arc<dyn Remote>,
    state: Arc<Mutex<FeedState>>,
    failures: u32,
    quiet_polls: u32,
}

impl Loop {
    fn run(mut self, stopped: &Receiver<()>) {
        loop {
            let wait = match self.step() {
                Ok(()) => {
                    if self.failures > 0 {
                        log::info!("the remote's events are followed again");
                    }
                    self.failures = 0;
                    let mut s = self.state.lock();
                    s.feed = Feed::Polling;
                    s.last_sync_at = Some(SystemTime::now());
                    POLL_EVERY
                }
                Err(e) => {
                    if self.failures == 0 {
                        log::warn!("the remote cannot be followed, what is cached stays usable: {e}");
                    }
                    self.failures = self.failures.saturating_add(1);
                    self.state.lock().feed = Feed::Offline;
                    (POLL_EVERY * 2u32.saturating_pow(self.failures.min(5))).min(RETRY_MAX)
                }
            };
            match stopped.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    }

    fn step(&mut self) -> FsResult<()> {
        if !self.workspace.is_known() {
            return self.learn();
        }
        self.workspace.refresh_noted()?;
        loop {
            let cursor = self.workspace.cursor()?;
            let page = self.remote.events(cursor.as_deref())?;
            if page.events.is_empty() {
                self.quiet_polls += 1;
                return match cursor {
                    // Nothing behind the cursor, or a feed that was emptied, which only the newest event can tell.
                    Some(c)
                        if self.quiet_polls.is_multiple_of(NEWEST_EVERY)
                            && self.remote.newest_event()?.is_none_or(|newest| goes_back(&c, &newest)) =>
                    {
                        self.gap(&c)
                    }
                    _ => Ok(()),
                };
            }
            if let Some(c) = &cursor
                && page.events.iter().any(|e| goes_back(c, &e.id) || e.id == *c)
            {
                return self.gap(c);
            }
            self.apply(&page.events)?;
            if page.next_cursor.is_none() {
                return Ok(());
            }
        }
    }

    fn apply(&self, events: &[RemoteEvent]) -> FsResult<()> {
        self.workspace.apply_events(events)?;
        self.state.lock().last_event_at = Some(SystemTime::now());
        Ok(())
    }

    fn gap(&self, cursor: &str) -> FsResult<()> {
        log::warn!("the remote's event feed does not continue behind {cursor}; the tree is listed again");
        self.learn()
    }

    fn learn(&self) -> FsResult<()> {
        let started = std::time::Instant::now();
        let newest = match self.remote.newest_event() {
            Ok(newest) => newest,
            // A token without read access to the root may not see the feed, but may list.
            Err(e) if e.kind == crate::remote::ErrorKind::Forbidden => None,
            Err(e) => return Err(FsError::from(e)),
        };
        self.workspace.learn(newest.as_deref())?;
        log::info!("learned the tree: {} files in {:.2} s", self.workspace.files_known(), started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// True when `id` is not behind `cursor` in a feed of numbered events (`evt_12`). Ids without a number tell nothing.
fn goes_back(cursor: &str, id: &str) -> bool {
    matches!((number(cursor), number(id)), (Some(c), Some(i)) if i < c)
}

fn number(id: &str) -> Option<u64> {
    let digits = id.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::goes_back;

    #[test]
    fn a_feed_that_starts_over_is_noticed() {
        assert!(goes_back("evt_31", "evt_1"));
        assert!(!goes_back("evt_31", "evt_32"));
        assert!(!goes_back("evt_31", "evt_31"));
        assert!(!goes_back("abc", "def"));
    }
}
