//! What changes in the view, told to whoever watches: remote changes as they are applied, local ones as they are committed,
//! and what became of the operations.
//!
//! Telling never waits: each watcher has a queue of [`QUEUE_MAX`] changes. One that is too slow loses what does not fit,
//! finds an overflow in its place, and goes on. Nobody watching costs nothing. What stays on this machine (local-only
//! files, attributes, `.relay`) is not told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use crate::ids::{OpId, Revision};
use crate::journal::now_ms;
use crate::path::RemotePath;

/// Changes that wait for one watcher.
pub const QUEUE_MAX: usize = 4096;
/// Watchers at a time.
pub const WATCHERS_MAX: usize = 64;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    Created,
    Updated,
    Deleted,
    Renamed,
    /// The remote has taken a save or a removal.
    Acknowledged,
    /// The remote has refused one for good.
    Dead,
    /// A dead letter is sent again.
    Retried,
    /// A dead letter was let go.
    Discarded,
    /// The watcher was too slow, and changes are missing here.
    Overflow,
    /// The mount has ended in order; nothing follows.
    Unmounted,
}

impl Event {
    /// The word on the wire and for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Event::Created => "created",
            Event::Updated => "updated",
            Event::Deleted => "deleted",
            Event::Renamed => "renamed",
            Event::Acknowledged => "acknowledged",
            Event::Dead => "dead",
            Event::Retried => "retried",
            Event::Discarded => "discarded",
            Event::Overflow => "overflow",
            Event::Unmounted => "unmounted",
        }
    }
}

/// Who made the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    Remote,
    Local,
}

/// One change. Paths are those of the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Milliseconds since the epoch.
    pub at: i64,
    pub event: Event,
    pub origin: Origin,
    pub path: RemotePath,
    /// The old path of what was renamed.
    pub from: Option<RemotePath>,
    pub revision: Option<Revision>,
    /// The operation that brings it, or has brought it, to the remote.
    pub op: Option<OpId>,
    /// Of the request by which somebody else made it.
    pub correlation_id: Option<String>,
    /// Why an operation died: the code and the remote's words.
    pub failure: Option<(String, String)>,
}

impl Change {
    pub fn new(event: Event, origin: Origin, path: RemotePath) -> Change {
        let (from, revision, op, correlation_id, failure) = (None, None, None, None, None);
        Change { at: now_ms(), event, origin, path, from, revision, op, correlation_id, failure }
    }

    /// What became of an operation.
    pub fn of_operation(event: Event, op: &OpId, path: &RemotePath) -> Change {
        Change { op: Some(op.clone()), ..Change::new(event, Origin::Local, path.clone()) }
    }

    /// Whether it is about one of these paths or something below one; about everything when there are none.
    fn touches(&self, paths: &[RemotePath]) -> bool {
        let within = |path: &RemotePath, dir: &RemotePath| path == dir || path.below(dir).is_some();
        let ends = || [Some(&self.path), self.from.as_ref()].into_iter().flatten();
        // Of a renamed directory, everything below it changes its place.
        paths.is_empty()
            || ends().any(|end| paths.iter().any(|p| within(end, p) || (self.event == Event::Renamed && within(p, end))))
    }

    /// As it is told, one JSON line. `mountpoint` makes the local paths; without one there are none.
    pub fn line(&self, mountpoint: &str) -> ChangeLine {
        let local = |path: &RemotePath| (!mountpoint.is_empty()).then(|| format!("{}{path}", mountpoint.trim_end_matches('/')));
        ChangeLine {
            time: crate::deadletter::rfc3339(self.at),
            event: self.event,
            origin: Some(self.origin),
            path: Some(self.path.to_string()),
            local_path: local(&self.path),
            from: self.from.as_ref().map(ToString::to_string),
            local_from: self.from.as_ref().and_then(local),
            revision: self.revision.as_ref().map(ToString::to_string),
            op_id: self.op.as_ref().map(ToString::to_string),
            correlation_id: self.correlation_id.clone(),
            code: self.failure.as_ref().map(|(code, _)| code.clone()),
            message: self.failure.as_ref().map(|(_, message)| message.clone()),
        }
    }
}

/// A change on the wire. What is not known, or means nothing for the event, is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeLine {
    /// RFC 3339 in UTC.
    pub time: String,
    pub event: Event,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl ChangeLine {
    /// An event that is about no path.
    pub fn bare(event: Event) -> ChangeLine {
        ChangeLine {
            time: crate::deadletter::rfc3339(now_ms()),
            event,
            origin: None,
            path: None,
            local_path: None,
            from: None,
            local_from: None,
            revision: None,
            op_id: None,
            correlation_id: None,
            code: None,
            message: None,
        }
    }
}

/// Those who watch one workspace.
#[derive(Default)]
pub struct Changes {
    /// A leaf lock, like that of each queue: held to look through the list.
    watchers: Mutex<Vec<Arc<Watcher>>>,
    count: AtomicUsize,
}

#[derive(Default)]
struct Watcher {
    paths: Vec<RemotePath>,
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Arc<Change>>,
    /// What came behind `waiting` was dropped.
    overflowed: bool,
    ended: bool,
}

/// One who watches; dropping it ends that.
pub struct Watch {
    changes: Arc<Changes>,
    watcher: Arc<Watcher>,
}

/// What comes next for a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Change(Arc<Change>),
    /// Changes were lost here.
    Overflow,
    /// Nothing has changed for as long as was waited.
    Nothing,
    /// Nothing will come any more.
    Ended,
}

impl Changes {
    /// Whether anybody would hear.
    pub fn is_watched(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Tells everybody. Never waits.
    pub fn tell(&self, change: Change) {
        if !self.is_watched() {
            return;
        }
        let change = Arc::new(change);
        for watcher in self.watchers.lock().iter().filter(|w| change.touches(&w.paths)) {
            let mut queue = watcher.queue.lock();
            // Behind an overflow nothing is kept until the watcher has come to it.
            if queue.overflowed || queue.waiting.len() >= QUEUE_MAX {
                queue.overflowed = true;
            } else {
                queue.waiting.push_back(Arc::clone(&change));
            }
            watcher.filled.notify_one();
        }
    }

    /// Watches these paths and what is below them, or everything. `None` when too many watch already.
    pub fn watch(self: &Arc<Self>, paths: Vec<RemotePath>) -> Option<Watch> {
        let mut watchers = self.watchers.lock();
        if watchers.len() >= WATCHERS_MAX {
            return None;
        }
        let watcher = Arc::new(Watcher { paths, ..Watcher::default() });
        watchers.push(Arc::clone(&watcher));
        self.count.store(watchers.len(), Ordering::Relaxed);
        Some(Watch { changes: Arc::clone(self), watcher })
    }

    /// Nothing will change any more. Whoever watches hears what waits, and then that.
    pub fn end(&self) {
        for watcher in self.watchers.lock().iter() {
            watcher.queue.lock().ended = true;
            watcher.filled.notify_one();
        }
    }
}

impl Watch {
    /// Waits at most `patience`.
    pub fn next(&self, patience: Duration) -> Next {
        let deadline = Instant::now() + patience;
        let mut queue = self.watcher.queue.lock();
        loop {
            if let Some(change) = queue.waiting.pop_front() {
                return Next::Change(change);
            }
            if std::mem::take(&mut queue.overflowed) {
                return Next::Overflow;
            }
            if queue.ended {
                return Next::Ended;
            }
            if self.watcher.filled.wait_until(&mut queue, deadline).timed_out() && queue.waiting.is_empty() && !queue.ended {
                return Next::Nothing;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.changes.watchers.lock();
        watchers.retain(|w| !Arc::ptr_eq(w, &self.watcher));
        self.changes.count.store(watchers.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RemotePath {
        text.parse().unwrap()
    }

    fn updated(text: &str) -> Change {
        Change::new(Event::Updated, Origin::Local, path(text))
    }

    fn next(watch: &Watch) -> Option<String> {
        match watch.next(Duration::ZERO) {
            Next::Change(change) => Some(change.path.to_string()),
            _ => None,
        }
    }

    #[test]
    fn each_watcher_hears_what_it_asked_for() {
        let changes = Arc::new(Changes::default());
        changes.tell(updated("/before"));
        let (all, some) = (changes.watch(Vec::new()).unwrap(), changes.watch(vec![path("/d"), path("/f")]).unwrap());
        for at in ["/d", "/d/x/y", "/dd", "/f", "/ff"] {
            changes.tell(updated(at));
        }
        let heard = |w: &Watch| std::iter::from_fn(|| next(w)).collect::<Vec<_>>();
        assert_eq!(heard(&all), ["/d", "/d/x/y", "/dd", "/f", "/ff"]);
        assert_eq!(heard(&some), ["/d", "/d/x/y", "/f"]);
        drop((all, some));
        assert!(!changes.is_watched());
    }

    #[test]
    fn a_rename_concerns_both_names_and_a_renamed_directory_all_in_it() {
        let rename =
            |from: &str, to: &str| Change { from: Some(path(from)), ..Change::new(Event::Renamed, Origin::Local, path(to)) };
        assert!(rename("/a", "/b").touches(&[path("/a")]) && rename("/a", "/b").touches(&[path("/b")]));
        assert!(rename("/dir", "/other").touches(&[path("/dir/f")]));
        assert!(!rename("/dir", "/other").touches(&[path("/dirs")]));
        assert!(!updated("/dir").touches(&[path("/dir/f")]));
    }

    #[test]
    fn a_slow_watcher_finds_one_overflow_where_changes_are_missing() {
        let changes = Arc::new(Changes::default());
        let watch = changes.watch(Vec::new()).unwrap();
        for i in 0..QUEUE_MAX + 10 {
            changes.tell(updated(&format!("/{i}")));
        }
        for i in 0..QUEUE_MAX {
            assert_eq!(next(&watch), Some(format!("/{i}")));
        }
        assert_eq!(watch.next(Duration::ZERO), Next::Overflow);
        assert_eq!(watch.next(Duration::ZERO), Next::Nothing);
        changes.tell(updated("/later"));
        assert_eq!(next(&watch), Some("/later".into()));
    }

    #[test]
    fn at_the_end_what_waits_is_heard_first() {
        let changes = Arc::new(Changes::default());
        let watch = changes.watch(Vec::new()).unwrap();
        changes.tell(updated("/last"));
        changes.end();
        assert_eq!(next(&watch), Some("/last".into()));
        assert_eq!(watch.next(Duration::from_secs(60)), Next::Ended);
    }

    #[test]
    fn the_number_of_watchers_is_bounded() {
        let changes = Arc::new(Changes::default());
        let mut all: Vec<_> = (0..WATCHERS_MAX).map(|_| changes.watch(Vec::new()).unwrap()).collect();
        assert!(changes.watch(Vec::new()).is_none());
        all.pop();
        assert!(changes.watch(Vec::new()).is_some());
    }

    #[test]
    fn a_line_names_both_paths_and_leaves_out_what_is_not_known() {
        let line = Change { at: 0, ..updated("/a/b") }.line("/mnt/ws");
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"time":"1970-01-01T00:00:00.000Z","event":"updated","origin":"local","path":"/a/b","localPath":"/mnt/ws/a/b"}"#
        );
    }
}
