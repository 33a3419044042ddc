//! A remote that is named later, or never: for work on a state directory that may turn out to need no request.

use std::sync::OnceLock;

use super::*;

/// Answers "unreachable" to everything until it is given the remote to ask.
#[derive(Default)]
pub struct LateRemote(OnceLock<Box<dyn Remote>>);

impl LateRemote {
    /// The first remote that is given counts.
    pub fn set(&self, remote: Box<dyn Remote>) {
        let _ = self.0.set(remote);
    }

    fn ask<T>(
        &self,
        method: &'static str,
        path: &str,
        request: impl FnOnce(&dyn Remote) -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        match self.0.get() {
            Some(remote) => request(&**remote),
            None => Err(RemoteError {
                kind: ErrorKind::Unreachable,
                method,
                path: path.to_owned(),
                status: None,
                code: "unreachable".into(),
                message: "this command does not talk to the remote".into(),
                body: String::new(),
                current_revision: None,
                retry_after: None,
            }),
        }
    }
}

impl Remote for LateRemote {
    fn health(&self) -> Result<(), RemoteError> {
        self.ask("GET", "/health", |r| r.health())
    }

    fn tree(&self, dir: &RemotePath, depth: Depth, cursor: Option<&str>) -> Result<TreePage, RemoteError> {
        self.ask("GET", dir.as_str(), |r| r.tree(dir, depth, cursor))
    }

    fn get(&self, path: &RemotePath) -> Result<RemoteFile, RemoteError> {
        self.ask("GET", path.as_str(), |r| r.get(path))
    }

    fn export(&self, dir: &RemotePath) -> Result<Vec<RemoteFile>, RemoteError> {
        self.ask("GET", dir.as_str(), |r| r.export(dir))
    }

    fn put(
        &self,
        path: &RemotePath,
        bytes: &[u8],
        content_type: &str,
        precondition: &Precondition,
        op: &OpId,
    ) -> Result<Accepted, RemoteError> {
        self.ask("PUT", path.as_str(), |r| r.put(path, bytes, content_type, precondition, op))
    }

    fn bulk(&self, items: &[BulkItem<'_>]) -> Result<Vec<Result<Accepted, RemoteError>>, RemoteError> {
        self.ask("POST", "/fs/bulk", |r| r.bulk(items))
    }

    fn delete(&self, path: &RemotePath, revision: &Revision, op: &OpId) -> Result<Accepted, RemoteError> {
        self.ask("DELETE", path.as_str(), |r| r.delete(path, revision, op))
    }

    fn events(&self, cursor: Option<&str>) -> Result<EventPage, RemoteError> {
        self.ask("GET", "/fs/events", |r| r.events(cursor))
    }

    fn newest_mark(&self) -> Result<FeedMark, RemoteError> {
        self.ask("GET", "/fs/events", |r| r.newest_mark())
    }

    fn access(&self) -> Arc<Access> {
        self.0.get().map(|r| r.access()).unwrap_or_default()
    }

    fn look_at_token(&self) {
        if let Some(remote) = self.0.get() {
            remote.look_at_token();
        }
    }

    fn may_write(&self, path: &RemotePath) -> bool {
        self.0.get().is_none_or(|r| r.may_write(path))
    }

    fn subscribe(&self, place: Place<'_>) -> Result<Subscription, RemoteError> {
        self.ask("GET", "/fs/ws", |r| r.subscribe(place))
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
        self.ask("POST", path.as_str(), |r| r.merge(path, base, base_text, ours, content_type, op))
    }

    fn delivery(&self, remote_op: &str) -> Result<Delivery, RemoteError> {
        self.ask("GET", remote_op, |r| r.delivery(remote_op))
    }

    fn deliveries(&self, cursor: Option<&str>, limit: usize) -> Result<DeliveryPage, RemoteError> {
        self.ask("GET", "/ops", |r| r.deliveries(cursor, limit))
    }

    fn replay(&self, remote_op: &str, op: &OpId) -> Result<(), RemoteError> {
        self.ask("POST", remote_op, |r| r.replay(remote_op, op))
    }

    fn token_mark(&self) -> u64 {
        self.0.get().map_or(0, |r| r.token_mark())
    }
}
