//! Following the remote: learn the tree once, then hear of every change.
//!
//! The order makes it gapless: the newest event id is taken first, then the tree is listed, then the events after that id
//! are applied; one whose revision the listing already showed changes nothing. Every question is asked behind the event
//! *before* the last one that was applied, so that the answer begins with that one, recognised by all that it says. An answer
//! that does not is a gap (a restarted server, an emptied feed, an unknown cursor, which the feed answers with the beginning
//! and the stream with silence), and a gap means listing again and comparing. Uploads wait behind the [`Gate`] until the feed
//! is known to continue.
//!
//! | state | how changes are heard of | until |
//! |---|---|---|
//! | streaming | the live stream, as they happen; the feed is asked once a minute whether it knows more | the stream ends or misses something |
//! | polling | the feed, every second; the stream is tried again with growing pauses | the stream answers |
//! | listing | a token that may read neither: the tree, every half minute | the stream answers |
//! | offline | not at all; what is cached stays usable | the feed answers |
//!
//! A stream begins behind the event before the last applied one like everything else. When it ends, the feed is asked before
//! anything else happens: it tells whether the remote is still the one that was followed.

mod live;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded, select_biased};
use parking_lot::Mutex;

use crate::remote::{ErrorKind, EventKind, FeedMark, Place, Remote, RemoteError, RemoteEvent, Subscription};
use crate::status::Feed;
use crate::workspace::{FsError, FsResult, Workspace};
use crate::writeback::Gate;

/// Between two questions while the remote answers and there is no stream.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// The longest wait between two tries while it does not.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Between two listings of a tree that can be followed in no other way.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// The pause after a stream that ended, doubled after each that did not come about, and the longest.
const STREAM_AGAIN: Duration = Duration::from_millis(250);
const STREAM_AGAIN_MAX: Duration = Duration::from_secs(60);

/// How the follower stands.
#[derive(Debug, Clone)]
pub struct FeedState {
    pub feed: Feed,
    /// The words of the last failure, while it lasts.
    pub why: Option<String>,
    pub last_event_at: Option<SystemTime>,
    /// When the view was last known to be the remote's.
    pub last_sync_at: Option<SystemTime>,
    pub stream: StreamState,
}

/// How the stream stands.
#[derive(Debug, Clone, Default)]
pub struct StreamState {
    /// Why there is none, while there is none.
    pub why_not: Option<String>,
    pub last_connected_at: Option<SystemTime>,
    pub last_attempt_at: Option<SystemTime>,
    pub next_attempt_at: Option<SystemTime>,
}

impl FeedState {
    /// Before anything was asked.
    pub fn starting() -> FeedState {
        FeedState { feed: Feed::Starting, why: None, last_event_at: None, last_sync_at: None, stream: StreamState::default() }
    }
}

/// The running follower.
pub struct Follower {
    state: Arc<Mutex<FeedState>>,
    stop: Sender<()>,
    poke: Sender<()>,
    /// Disconnects when the thread has ended.
    ended: Receiver<()>,
}

impl Follower {
    pub fn start(workspace: Arc<Workspace>, remote: Arc<dyn Remote>, gate: Arc<Gate>) -> std::io::Result<Follower> {
        let state = Arc::new(Mutex::new(FeedState::starting()));
        let (stop, stopped) = bounded(1);
        let (poke, poked) = bounded(1);
        let shared = Arc::clone(&state);
        let (alive, ended) = bounded::<()>(0);
        std::thread::Builder::new().name("relayfile-feed".into()).spawn(move || {
            let _alive = alive;
            Loop::new(workspace, remote, shared, gate).run(&stopped, &poked);
        })?;
        Ok(Follower { state, stop, poke, ended })
    }

    /// Looks at the feed now instead of at the next poll.
    pub fn poke(&self) {
        let _ = self.poke.try_send(());
    }

    pub fn state(&self) -> FeedState {
        self.state.lock().clone()
    }

    /// Asks the thread to end and waits at most `limit` for a request under way; what it learns later is learned again by
    /// the next start.
    pub fn stop(&self, limit: Duration) {
        let _ = self.stop.try_send(());
        let _ = self.ended.recv_timeout(limit);
    }
}

struct Loop {
    workspace: Arc<Workspace>,
    remote: Arc<dyn Remote>,
    state: Arc<Mutex<FeedState>>,
    gate: Arc<Gate>,
    /// Questions in a row that were not answered.
    failures: u32,
    /// The token may not read the feed.
    no_feed: bool,
    listed_at: Option<Instant>,
    stream_at: Instant,
    stream_failures: u32,
    /// How many events without an id stand behind the last one that was applied: what they tell was listed.
    nameless: usize,
}

impl Loop {
    fn new(workspace: Arc<Workspace>, remote: Arc<dyn Remote>, state: Arc<Mutex<FeedState>>, gate: Arc<Gate>) -> Loop {
        Loop {
            workspace,
            remote,
            state,
            gate,
            failures: 0,
            no_feed: false,
            listed_at: None,
            stream_at: Instant::now(),
            stream_failures: 0,
            nameless: 0,
        }
    }

    fn run(mut self, stopped: &Receiver<()>, poked: &Receiver<()>) {
        loop {
            let wait = match self.step() {
                Ok(()) => {
                    self.in_step(if self.no_feed { Feed::Listing } else { Feed::Polling });
                    if self.stream_at <= Instant::now() {
                        match self.stream(stopped, poked) {
                            live::End::Stopped => return,
                            // The feed tells what the stream did not.
                            live::End::Lost => continue,
                            live::End::None => {}
                        }
                    }
                    POLL_EVERY.min(self.stream_at.saturating_duration_since(Instant::now()).max(Duration::from_millis(50)))
                }
                Err(e) => self.out_of_step(&e),
            };
            select_biased! {
                recv(stopped) -> _ => return,
                recv(poked) -> message => if message.is_err() { return },
                default(wait) => {}
            }
        }
    }

    /// The view is the remote's.
    fn in_step(&mut self, feed: Feed) {
        self.gate.open();
        self.workspace.set_reachable(true);
        if self.failures > 0 {
            log::info!("the remote's events are followed again");
        }
        self.failures = 0;
        let mut s = self.state.lock();
        s.feed = feed;
        s.why = None;
        s.last_sync_at = Some(SystemTime::now());
    }

    /// The remote could not be asked. Returns how long to wait.
    fn out_of_step(&mut self, e: &FsError) -> Duration {
        self.gate.failed();
        self.workspace.set_reachable(false);
        if self.failures == 0 {
            log::warn!("the remote cannot be followed, what is cached stays usable: {e}");
        }
        self.failures = self.failures.saturating_add(1);
        self.listed_at = self.listed_at.filter(|_| !self.no_feed);
        // When it is back, the stream is asked for at once.
        self.stream_at = Instant::now();
        let mut s = self.state.lock();
        (s.feed, s.why) = match e {
            FsError::Remote(e) if e.kind == ErrorKind::Unauthorized => (Feed::Unauthorized, Some(e.message.clone())),
            e => (Feed::Offline, Some(e.to_string())),
        };
        (POLL_EVERY * 2u32.saturating_pow(self.failures.min(5))).min(RETRY_MAX)
    }

    fn step(&mut self) -> FsResult<()> {
        if !self.workspace.is_known() {
            return self.learn();
        }
        loop {
            let mark = self.workspace.mark()?;
            let page = match self.remote.events(mark.before.as_deref()) {
                Ok(page) => page,
                Err(e) if e.kind == ErrorKind::Forbidden => return self.without_feed(),
                Err(e) => return Err(e.into()),
            };
            self.no_feed = false;
            let Some(news) = news_of(&page.events, &mark) else { return self.gap() };
            let nameless = nameless(news);
            if news.iter().any(|e| e.kind == EventKind::Unreadable && !e.id.is_empty()) || nameless != self.nameless {
                log::warn!("the remote's event feed holds an event that cannot be read; the tree is listed again and compared");
                self.learn()?;
                self.nameless = nameless;
                return self.workspace.refresh_noted();
            }
            let news: Vec<RemoteEvent> = news.iter().filter(|e| !e.id.is_empty()).cloned().collect();
            if news.is_empty() {
                return self.workspace.refresh_noted();
            }
            self.apply(&mark, &news)?;
            self.nameless = 0;
            if page.next_cursor.is_none() {
                return self.workspace.refresh_noted();
            }
        }
    }

    /// A token that may not read the feed: the stream may tell, of what lies below the mounted directory. Without it the
    /// tree is listed again every now and then.
    fn without_feed(&mut self) -> FsResult<()> {
        if !std::mem::replace(&mut self.no_feed, true) {
            log::info!("the token may not read the event feed of the whole workspace");
        }
        if self.listed_at.is_none_or(|at| at.elapsed() >= LIST_EVERY) {
            self.learn()?;
        }
        self.workspace.refresh_noted()
    }

    /// Applies events behind `mark`, which they follow; with the place behind them in the same transaction.
    fn apply(&self, mark: &FeedMark, news: &[RemoteEvent]) -> FsResult<()> {
        let next = FeedMark {
            last: news.last().map(RemoteEvent::print),
            before: match news.len().checked_sub(2) {
                Some(i) => Some(news[i].id.clone()),
                None => mark.last_id().map(str::to_owned),
            },
        };
        self.workspace.apply_events(news, &next)?;
        self.state.lock().last_event_at = Some(SystemTime::now());
        Ok(())
    }

    fn gap(&mut self) -> FsResult<()> {
        log::warn!("the remote's event feed does not continue where it was; the tree is listed again and compared");
        self.learn()?;
        self.workspace.refresh_noted()
    }

    fn learn(&mut self) -> FsResult<()> {
        let started = Instant::now();
        let newest = match self.remote.newest_mark() {
            Ok(newest) => newest,
            // A token without read access to the root may not see the feed, but may list.
            Err(e) if e.kind == ErrorKind::Forbidden => FeedMark::default(),
            Err(e) => return Err(FsError::from(e)),
        };
        self.workspace.learn(&newest)?;
        self.listed_at = Some(Instant::now());
        log::info!("learned the tree: {} files in {:.2} s", self.workspace.files_known(), started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// The events behind a mark, in a page that was asked for behind the event before it; `None` when the page does not begin
/// with the marked event, so that the feed is not the one we followed.
fn news_of<'a>(page: &'a [RemoteEvent], mark: &FeedMark) -> Option<&'a [RemoteEvent]> {
    match &mark.last {
        None => Some(page),
        Some(last) => match page.split_first() {
            Some((first, news)) if first.print() == *last => Some(news),
            _ => None,
        },
    }
}

/// How many events have no id, so that no mark can be behind them.
fn nameless(news: &[RemoteEvent]) -> usize {
    news.iter().filter(|e| e.id.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::Remote;
    use crate::remote::fake::FakeRemote;

    #[test]
    fn a_feed_that_continues_brings_its_news_and_another_is_noticed() {
        let remote = FakeRemote::seeded(&[("/a", b"1"), ("/b", b"2")]);
        let mark = remote.newest_mark().unwrap();
        let page = |r: &FakeRemote| r.events(mark.before.as_deref()).unwrap().events;
        assert_eq!(news_of(&page(&remote), &mark).map(<[_]>::len), Some(0));
        remote.write("/c", b"3");
        assert_eq!(news_of(&page(&remote), &mark).map(<[_]>::len), Some(1));
        for other in [&[][..], &[("/x", &b"1"[..])], &[("/a", b"1"), ("/y", b"2")], &[("/y", b"1"), ("/b", b"2"), ("/z", b"3")]] {
            let restarted = FakeRemote::seeded(other);
            let noticed = news_of(&page(&restarted), &mark).is_none();
            // The same event at the same time is the same feed as far as anybody can tell.
            assert!(noticed || other.len() == 3, "{other:?}");
        }
    }

    /// A follower of its own; nobody uploads and no kernel is told.
    fn follower(dir: &std::path::Path, remote: &Arc<FakeRemote>) -> Loop {
        let journal = crate::journal::Journal::open(dir).unwrap();
        let (wake, _woken) = bounded(1);
        let options = crate::workspace::Options { uid: 0, gid: 0, settle: Duration::ZERO, local_only: None };
        let (tell, _told) = crossbeam_channel::unbounded();
        let workspace = Workspace::load(dir, journal, remote.clone(), options, tell, wake.clone()).unwrap();
        let state = Arc::new(Mutex::new(FeedState::starting()));
        Loop::new(Arc::new(workspace), remote.clone(), state, Arc::new(Gate::new(wake)))
    }

    #[test]
    fn an_event_that_cannot_be_read_is_made_up_for_by_one_listing() {
        for id in ["evt_odd", ""] {
            let dir = tempfile::tempdir().unwrap();
            let remote = Arc::new(FakeRemote::seeded(&[("/a", b"1"), ("/b", b"2")]));
            let mut follower = follower(dir.path(), &remote);
            follower.step().unwrap();
            follower.step().unwrap();
            remote.say_something_odd(id);
            follower.step().unwrap();
            let listed = follower.listed_at;
            follower.step().unwrap();
            assert_eq!(follower.listed_at, listed, "once is enough, {id:?}");
            remote.write("/c", b"3");
            follower.step().unwrap();
            follower.step().unwrap();
            assert_eq!(follower.workspace.files_known(), 3, "what comes behind it shows, {id:?}");
            remote.write("/d", b"4");
            follower.step().unwrap();
            assert_eq!(follower.workspace.files_known(), 4, "{id:?}");
        }
    }

    #[test]
    fn without_a_feed_an_outage_is_followed_by_a_listing_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let remote = Arc::new(FakeRemote::seeded(&[("/a", b"1")]));
        remote.forbid_feed();
        let mut follower = follower(dir.path(), &remote);
        follower.step().unwrap();
        follower.step().unwrap();
        remote.set_down(true);
        let gone = follower.step().unwrap_err();
        follower.out_of_step(&gone);
        remote.set_down(false);
        // Nobody can tell whether it is the one that went.
        remote.write("/b", b"2");
        follower.step().unwrap();
        assert_eq!(follower.workspace.files_known(), 2, "the gate opens behind this step");
    }

    #[test]
    fn an_empty_feed_has_only_news() {
        let remote = FakeRemote::default();
        let mark = remote.newest_mark().unwrap();
        remote.write("/a", b"1");
        assert_eq!(news_of(&remote.events(None).unwrap().events, &mark).map(<[_]>::len), Some(1));
    }
}
