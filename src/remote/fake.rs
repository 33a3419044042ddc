//! A remote in memory, for tests of what stands on the [`Remote`] trait. It keeps the rules of the wire (preconditions,
//! revisions, events, stored sizes) and a log of every write that it applied.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use parking_lot::Mutex;

use super::*;
use crate::ids::ContentHash;

#[derive(Clone)]
struct Stored {
    bytes: Vec<u8>,
    revision: Revision,
    content_type: String,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<String, Stored>,
    events: Vec<RemoteEvent>,
    /// Every content that there ever was.
    contents: Vec<Vec<u8>>,
    revisions: u64,
    /// Applied writes and refused ones: "PUT /a rev_1".
    log: Vec<String>,
    reads: u64,
    /// Operations by id, in order: what the provider has made of them.
    ops: Vec<Delivery>,
    /// Requests about operations: "GET op_1", "GET /ops", "POST op_1".
    op_requests: Vec<String>,
    /// The answer to every request about operations.
    op_fault: Option<ErrorKind>,
    token: u64,
    /// Errors to answer the next writes with; `true`: after applying the write.
    faults: Vec<(ErrorKind, bool)>,
    /// What a content identity was first answered with.
    identities: BTreeMap<String, Accepted>,
    /// The operation of every applied write, in order: a batch leaves no trace of it in the events.
    applied: Vec<String>,
    /// Files of each batch that came.
    batches: Vec<usize>,
    no_batches: bool,
    /// The same for deletes alone, before they are applied.
    delete_faults: Vec<ErrorKind>,
}

#[derive(Default)]
pub struct FakeRemote {
    inner: Mutex<Inner>,
    down: AtomicBool,
    /// The token may not read the feed.
    feed_forbidden: AtomicBool,
}

impl FakeRemote {
    pub fn seeded(files: &[(&str, &[u8])]) -> FakeRemote {
        let fake = FakeRemote::default();
        for (path, bytes) in files {
            fake.write(path, bytes);
        }
        fake
    }

    /// A write by somebody else.
    pub fn write(&self, path: &str, bytes: &[u8]) {
        self.inner.lock().apply(path, Some((bytes.to_vec(), "text/plain".into())), "somebody-else");
    }

    pub fn remove(&self, path: &str) {
        self.inner.lock().apply(path, None, "somebody-else");
    }

    /// The server is started again with the data of another one.
    pub fn become_like(&self, other: &FakeRemote) {
        *self.inner.lock() = std::mem::take(&mut other.inner.lock());
    }

    /// An event that is in nobody's form; with an empty id it has none.
    pub fn say_something_odd(&self, id: &str) {
        let mut inner = self.inner.lock();
        let odd = RemoteEvent { id: id.into(), kind: EventKind::Unreadable, ..inner.events.last().expect("an event").clone() };
        inner.events.push(RemoteEvent { path: None, revision: None, hash: None, correlation_id: String::new(), ..odd });
    }

    pub fn ever_had(&self) -> Vec<Vec<u8>> {
        self.inner.lock().contents.clone()
    }

    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        self.inner.lock().files.get(path).map(|f| f.bytes.clone())
    }

    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.inner.lock().files.iter().map(|(p, f)| (p.clone(), f.bytes.clone())).collect()
    }

    /// Takes the log of writes.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().log)
    }

    pub fn reads(&self) -> u64 {
        self.inner.lock().reads
    }

    pub fn fail_next(&self, kind: ErrorKind, after_applying: bool) {
        self.inner.lock().faults.push((kind, after_applying));
    }

    pub fn fail_next_delete(&self, kind: ErrorKind) {
        self.inner.lock().delete_faults.push(kind);
    }

    /// The operations of all writes that were applied, in order.
    pub fn applied(&self) -> Vec<String> {
        self.inner.lock().applied.clone()
    }

    /// How many files each batch had.
    pub fn take_batches(&self) -> Vec<usize> {
        std::mem::take(&mut self.inner.lock().batches)
    }

    /// As a remote that has no such route.
    pub fn refuse_batches(&self) {
        self.inner.lock().no_batches = true;
    }

    pub fn clear_faults(&self) {
        self.inner.lock().faults.clear();
    }

    /// The provider takes or refuses the newest operation of a path, or leaves it alone for now.
    pub fn deliver(&self, path: &str, state: DeliveryState, error: Option<&str>) {
        let mut inner = self.inner.lock();
        let op = inner.ops.iter_mut().rfind(|o| o.path.as_ref().is_some_and(|p| p.as_str() == path)).expect("an operation");
        (op.state, op.last_error) = (state, error.map(str::to_owned));
        op.words = serde_json::json!({ "status": state.as_str(), "lastError": error }).to_string();
    }

    pub fn delivery_of(&self, path: &str) -> Option<Delivery> {
        self.inner.lock().ops.iter().rfind(|o| o.path.as_ref().is_some_and(|p| p.as_str() == path)).cloned()
    }

    /// The remote forgets every operation.
    pub fn forget_operations(&self) {
        self.inner.lock().ops.clear();
    }

    pub fn take_op_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.lock().op_requests)
    }

    pub fn fail_operations(&self, kind: Option<ErrorKind>) {
        self.inner.lock().op_fault = kind;
    }

    pub fn change_token(&self) {
        self.inner.lock().token += 1;
    }

    fn asked_about(&self, method: &'static str, what: &str) -> Result<parking_lot::MutexGuard<'_, Inner>, RemoteError> {
        let mut inner = self.inner.lock();
        inner.op_requests.push(format!("{method} {what}"));
        self.up(method, what)?;
        match inner.op_fault {
            Some(kind) => Err(error(kind, method, what, None)),
            None => Ok(inner),
        }
    }

    /// An event that tells of a delivery of the path.
    pub fn announce_delivery(&self, path: &str) {
        let mut inner = self.inner.lock();
        let event = RemoteEvent {
            id: format!("evt_{}", inner.events.len() + 1),
            kind: EventKind::Delivery,
            path: path.parse().ok(),
            hidden: None,
            revision: None,
            hash: None,
            correlation_id: String::new(),
            by_system: true,
            at_ms: Some(1_700_000_000_000),
            content: None,
        };
        inner.events.push(event);
    }

    /// A draft takes the name that its provider gave it: one revision for both events.
    pub fn move_draft(&self, from: &str, to: &str) {
        let mut inner = self.inner.lock();
        let file = inner.files.remove(from).expect("a draft");
        inner.revisions += 1;
        let revision = Revision::new(&format!("rev_{}", inner.revisions));
        for (kind, path, hash) in [(EventKind::Deleted, from, None), (EventKind::Created, to, Some(ContentHash::of(&file.bytes)))]
        {
            let event = RemoteEvent {
                id: format!("evt_{}", inner.events.len() + 1),
                kind,
                path: path.parse().ok(),
                hidden: None,
                revision: Some(revision.clone()),
                hash,
                correlation_id: "consumer".into(),
                by_system: true,
                at_ms: Some(1_700_000_000_000 + inner.revisions as i64),
                content: None,
            };
            inner.events.push(event);
        }
        inner.files.insert(to.into(), Stored { revision, ..file });
    }

    pub fn forbid_feed(&self) {
        self.feed_forbidden.store(true, Ordering::Relaxed);
    }

    fn feed(&self) -> Result<(), RemoteError> {
        self.up("GET", "/fs/events")?;
        let forbidden = self.feed_forbidden.load(Ordering::Relaxed);
        if forbidden { Err(error(ErrorKind::Forbidden, "GET", "/fs/events", None)) } else { Ok(()) }
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    fn up(&self, method: &'static str, path: &str) -> Result<(), RemoteError> {
        if self.down.load(Ordering::Relaxed) { Err(error(ErrorKind::Unreachable, method, path, None)) } else { Ok(()) }
    }

    fn change(
        &self,
        method: &'static str,
        path: &RemotePath,
        expected: Option<&Revision>,
        new: Option<(Vec<u8>, String)>,
        op: &OpId,
    ) -> Result<Accepted, RemoteError> {
        self.up(method, path.as_str())?;
        let mut inner = self.inner.lock();
        let fault = (!inner.faults.is_empty()).then(|| inner.faults.remove(0));
        if let Some((kind, false)) = fault {
            return Err(error(kind, method, path.as_str(), None));
        }
        let accepted = inner.change(method, path, expected, new, op, op.as_str())?;
        match fault {
            Some((kind, true)) => Err(error(kind, method, path.as_str(), None)),
            _ => Ok(accepted),
        }
    }
}

impl Inner {
    fn change(
        &mut self,
        method: &'static str,
        path: &RemotePath,
        expected: Option<&Revision>,
        new: Option<(Vec<u8>, String)>,
        op: &OpId,
        correlation: &str,
    ) -> Result<Accepted, RemoteError> {
        let inner = self;
        if new.is_none()
            && let Some(kind) = inner.delete_faults.pop()
        {
            return Err(error(kind, method, path.as_str(), None));
        }
        let current = inner.files.get(path.as_str()).map(|f| f.revision.clone());
        let said = expected.map_or("0".into(), ToString::to_string);
        match (&current, expected) {
            (None, Some(_)) => return Err(error(ErrorKind::NotFound, method, path.as_str(), None)),
            (Some(now), expected) if expected != Some(now) => {
                inner.log.push(format!("409 {method} {path} {said}"));
                return Err(error(ErrorKind::Conflict, method, path.as_str(), current));
            }
            _ => {}
        }
        inner.log.push(format!("{method} {path} {said}"));
        let revision = inner.apply(path.as_str(), new, correlation);
        inner.applied.push(op.to_string());
        let remote_op = format!("op_{}", inner.revisions);
        inner.ops.push(Delivery {
            remote_op: remote_op.clone(),
            path: Some(path.clone()),
            state: DeliveryState::Pending,
            attempts: 0,
            last_error: None,
            words: String::new(),
            correlation_id: op.to_string(),
        });
        Ok(Accepted { remote_op: Some(remote_op), revision: Some(revision), repeated: false })
    }

    fn apply(&mut self, path: &str, new: Option<(Vec<u8>, String)>, correlation: &str) -> Revision {
        self.revisions += 1;
        let revision = Revision::new(&format!("rev_{}", self.revisions));
        let existed = self.files.contains_key(path);
        let kind = match (&new, existed) {
            (None, _) => EventKind::Deleted,
            (Some(_), true) => EventKind::Updated,
            (Some(_), false) => EventKind::Created,
        };
        self.events.push(RemoteEvent {
            id: format!("evt_{}", self.events.len() + 1),
            kind,
            path: path.parse().ok(),
            hidden: None,
            revision: Some(revision.clone()),
            hash: new.as_ref().map(|(b, _)| ContentHash::of(b)),
            correlation_id: correlation.into(),
            by_system: false,
            at_ms: Some(1_700_000_000_000 + self.revisions as i64),
            content: None,
        });
        match new {
            Some((bytes, content_type)) => {
                self.contents.push(bytes.clone());
                self.files.insert(path.into(), Stored { bytes, revision: revision.clone(), content_type });
            }
            None => drop(self.files.remove(path)),
        }
        revision
    }
}

fn error(kind: ErrorKind, method: &'static str, path: &str, current: Option<Revision>) -> RemoteError {
    RemoteError {
        kind,
        method,
        path: path.into(),
        status: match kind {
            ErrorKind::Unreachable => None,
            ErrorKind::Conflict => Some(409),
            ErrorKind::NotFound => Some(404),
            ErrorKind::Rejected => Some(400),
            _ => Some(503),
        },
        code: format!("{kind:?}").to_lowercase(),
        message: format!("{kind:?}"),
        body: String::new(),
        current_revision: current,
        retry_after: None,
    }
}

/// The length that the remote stores: of base64 for what is not UTF-8.
fn stored_size(bytes: &[u8]) -> u64 {
    if std::str::from_utf8(bytes).is_ok() {
        bytes.len() as u64
    } else {
        base64::engine::general_purpose::STANDARD.encode(bytes).len() as u64
    }
}

impl Remote for FakeRemote {
    fn health(&self) -> Result<(), RemoteError> {
        self.up("GET", "/health")
    }

    fn tree(&self, dir: &RemotePath, depth: Depth, cursor: Option<&str>) -> Result<TreePage, RemoteError> {
        self.up("GET", dir.as_str())?;
        let inner = self.inner.lock();
        let mut page = TreePage::default();
        for (path, file) in &inner.files {
            let parsed: RemotePath = match path.parse() {
                Ok(p) => p,
                Err(e) => {
                    page.hidden.push((path.clone(), e));
                    continue;
                }
            };
            let Some(below) = parsed.below(dir) else { continue };
            if depth == Depth::Children
                && let Some((first, _)) = below.split_once('/')
            {
                let sub = dir.join(first).unwrap();
                if !page.dirs.contains(&sub) {
                    page.dirs.push(sub);
                }
                continue;
            }
            if cursor.is_some_and(|c| path.as_str() <= c) {
                continue;
            }
            if page.files.len() == 3 {
                // Small pages, so that tests cross their borders.
                page.next_cursor = page.files.last().map(|f: &ListedFile| f.path.to_string());
                break;
            }
            page.files.push(ListedFile {
                path: parsed.clone(),
                revision: file.revision.clone(),
                hash: Some(ContentHash::of(&file.bytes)),
                stored_size: stored_size(&file.bytes),
                edited_at_ms: Some(1_700_000_000_000),
            });
        }
        Ok(page)
    }

    fn get(&self, path: &RemotePath) -> Result<RemoteFile, RemoteError> {
        self.up("GET", path.as_str())?;
        let mut inner = self.inner.lock();
        inner.reads += 1;
        let file = inner.files.get(path.as_str()).ok_or_else(|| error(ErrorKind::NotFound, "GET", path.as_str(), None))?;
        Ok(RemoteFile {
            path: path.clone(),
            revision: file.revision.clone(),
            hash: ContentHash::of(&file.bytes),
            content_type: file.content_type.clone(),
            bytes: file.bytes.clone(),
            edited_at_ms: Some(1_700_000_000_000),
        })
    }

    fn export(&self, _dir: &RemotePath) -> Result<Vec<RemoteFile>, RemoteError> {
        Err(error(ErrorKind::NotFound, "GET", "/fs/export", None))
    }

    fn put(
        &self,
        path: &RemotePath,
        bytes: &[u8],
        content_type: &str,
        precondition: &Precondition,
        op: &OpId,
    ) -> Result<Accepted, RemoteError> {
        let expected = match precondition {
            Precondition::Absent => None,
            Precondition::Revision(r) => Some(r),
        };
        self.change("PUT", path, expected, Some((bytes.to_vec(), content_type.into())), op)
    }

    fn bulk(&self, items: &[BulkItem<'_>]) -> Result<Vec<Result<Accepted, RemoteError>>, RemoteError> {
        self.up("POST", "/fs/bulk")?;
        let mut inner = self.inner.lock();
        if inner.no_batches {
            return Err(RemoteError { status: Some(404), ..error(ErrorKind::NotFound, "POST", "/fs/bulk", None) });
        }
        let fault = (!inner.faults.is_empty()).then(|| inner.faults.remove(0));
        // A refusal for good is one of the first file, everything else one of the request.
        let refused = fault.filter(|(kind, _)| *kind == ErrorKind::Rejected);
        if let Some((kind, false)) = fault.filter(|_| refused.is_none()) {
            return Err(error(kind, "POST", "/fs/bulk", None));
        }
        inner.batches.push(items.len());
        let mut answers = Vec::new();
        for (at, item) in items.iter().enumerate() {
            if let Some((kind, _)) = refused.filter(|_| at == 0) {
                answers.push(Err(error(kind, "POST", item.path.as_str(), None)));
                continue;
            }
            if let Some(first) = inner.identities.get(item.op.as_str()) {
                answers.push(Ok(Accepted { repeated: true, ..first.clone() }));
                continue;
            }
            let expected = match item.precondition {
                Precondition::Absent => None,
                Precondition::Revision(r) => Some(r),
            };
            let new = (item.bytes.to_vec(), item.content_type.to_owned());
            let answer = match inner.change("PUT", item.path, expected, Some(new), item.op, "") {
                // The route says conflict of a file that is gone, too.
                Err(e) if e.kind == ErrorKind::NotFound => Err(error(ErrorKind::Conflict, "POST", item.path.as_str(), None)),
                answer => answer,
            };
            if let Ok(accepted) = &answer {
                inner.identities.insert(item.op.to_string(), accepted.clone());
            }
            answers.push(answer);
        }
        match fault.filter(|_| refused.is_none()) {
            Some((kind, true)) => Err(error(kind, "POST", "/fs/bulk", None)),
            _ => Ok(answers),
        }
    }

    fn delete(&self, path: &RemotePath, revision: &Revision, op: &OpId) -> Result<Accepted, RemoteError> {
        self.change("DELETE", path, Some(revision), None, op)
    }

    fn events(&self, cursor: Option<&str>) -> Result<EventPage, RemoteError> {
        self.feed()?;
        let inner = self.inner.lock();
        let from = cursor.and_then(|c| inner.events.iter().position(|e| e.id == c)).map_or(0, |i| i + 1);
        Ok(EventPage { events: inner.events[from..].to_vec(), next_cursor: None })
    }

    fn newest_mark(&self) -> Result<FeedMark, RemoteError> {
        self.feed()?;
        let inner = self.inner.lock();
        let mut newest = inner.events.iter().rev().filter(|e| !e.id.is_empty());
        Ok(FeedMark { last: newest.next().map(RemoteEvent::print), before: newest.next().map(|e| e.id.clone()) })
    }

    fn subscribe(&self, _place: Place<'_>) -> Result<Subscription, RemoteError> {
        Err(error(ErrorKind::NotFound, "GET", "/fs/ws", None))
    }

    fn merge(
        &self,
        path: &RemotePath,
        base: &Revision,
        base_text: &str,
        ours: &str,
        content_type: &str,
        op: &OpId,
    ) -> Result<Merged, RemoteError> {
        self.up("POST", path.as_str())?;
        let mut inner = self.inner.lock();
        let refused = |kind| Err(error(kind, "POST", path.as_str(), None));
        let fault = (!inner.faults.is_empty()).then(|| inner.faults.remove(0));
        if let Some((kind, false)) = fault {
            return refused(kind);
        }
        // As with a content identity: a repeat is answered as the first time was.
        let applied = inner.events.iter().find(|e| e.correlation_id == op.as_str() && e.path.as_ref() == Some(path));
        if let Some(revision) = applied.and_then(|e| e.revision.clone()) {
            return Ok(Merged { revision, against: None });
        }
        let hash = Some(ContentHash::of(base_text.as_bytes()));
        let confirmed = |e: &RemoteEvent| e.path.as_ref() == Some(path) && e.revision.as_ref() == Some(base) && e.hash == hash;
        if !inner.events.iter().any(confirmed) {
            let unavailable = "merge_base_unavailable".to_owned();
            return Err(RemoteError { code: unavailable, ..error(ErrorKind::Conflict, "POST", path.as_str(), None) });
        }
        let Some(theirs) = inner.files.get(path.as_str()).and_then(|f| String::from_utf8(f.bytes.clone()).ok()) else {
            return refused(ErrorKind::Rejected);
        };
        let Ok(merged) = diffy::merge(base_text, ours, &theirs) else { return refused(ErrorKind::Conflict) };
        inner.log.push(format!("MERGE {path} {base}"));
        let revision = inner.apply(path.as_str(), Some((merged.into_bytes(), content_type.into())), op.as_str());
        match fault {
            Some((kind, _)) => refused(kind),
            None => Ok(Merged { revision, against: None }),
        }
    }

    fn delivery(&self, remote_op: &str) -> Result<Delivery, RemoteError> {
        let inner = self.asked_about("GET", remote_op)?;
        let found = inner.ops.iter().find(|o| o.remote_op == remote_op).cloned();
        found.ok_or_else(|| error(ErrorKind::NotFound, "GET", remote_op, None))
    }

    fn deliveries(&self, cursor: Option<&str>, limit: usize) -> Result<DeliveryPage, RemoteError> {
        let inner = self.asked_about("GET", "/ops")?;
        let newest: Vec<Delivery> =
            inner.ops.iter().rev().skip_while(|o| cursor.is_some_and(|c| o.remote_op != c)).cloned().collect();
        let mut deliveries: Vec<Delivery> = newest.into_iter().skip(usize::from(cursor.is_some())).collect();
        let more = deliveries.len() > limit;
        deliveries.truncate(limit);
        let next_cursor = deliveries.last().filter(|_| more).map(|o| o.remote_op.clone());
        Ok(DeliveryPage { deliveries, next_cursor })
    }

    fn replay(&self, remote_op: &str, op: &OpId) -> Result<(), RemoteError> {
        let mut inner = self.asked_about("POST", remote_op)?;
        let found = inner.ops.iter_mut().find(|o| o.remote_op == remote_op);
        let found = found.ok_or_else(|| error(ErrorKind::NotFound, "POST", remote_op, None))?;
        if found.state != DeliveryState::DeadLettered {
            return Err(error(ErrorKind::Conflict, "POST", remote_op, None));
        }
        (found.state, found.last_error, found.correlation_id) = (DeliveryState::Pending, None, op.to_string());
        Ok(())
    }

    fn token_mark(&self) -> u64 {
        self.inner.lock().token
    }
}
