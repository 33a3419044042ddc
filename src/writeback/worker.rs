//! One operation from its claim to its next state.
//!
//! | the process dies | left in the journal | at the next start |
//! |---|---|---|
//! | before the claim | queued | taken up as if nothing had been |
//! | after the claim, before `sent` | in flight, not sent | becomes due; a snapshot is taken anew |
//! | after `sent`, before the response | in flight, sent, payload on disk | becomes due; asks the remote before it repeats |
//! | after the response, before the record | the same | asks, finds its bytes at the remote, is acknowledged |
//! | after the record | acknowledged | nothing |

use std::sync::Arc;

use crate::ids::{ContentHash, OpId};
use crate::journal::{Durability, Journal, JournalError, OpKind, Operation, Stamp, Version, now_ms};
use crate::remote::{Accepted, ErrorKind, Outcome, Precondition, Remote, RemoteError, classify};

use super::circuit::{Circuit, CircuitState};
use super::{Contents, Snapshot, SnapshotError, backoff};

/// The wait after local trouble, in milliseconds.
const LOCAL_RETRY_MS: i64 = 5000;

pub(super) struct Worker {
    pub journal: Journal,
    pub contents: Arc<dyn Contents>,
    pub remote: Arc<dyn Remote>,
    pub circuit: Arc<Circuit>,
    pub max_attempts: u32,
}

/// What is about to be sent.
struct Outgoing {
    bytes: Vec<u8>,
    hash: ContentHash,
    content_type: String,
    stamp: Option<Stamp>,
}

impl Worker {
    pub fn run(&self, id: &OpId) -> Result<(), JournalError> {
        let claim = id.clone();
        let Some(op) = self.journal.write(move |tx| tx.claim(&claim))? else {
            self.circuit.probe_ends();
            return Ok(());
        };
        match self.contents.before_change(&op.path) {
            Ok(()) => {}
            Err(SnapshotError::Remote(e)) => return self.failed(&op, &e),
            Err(SnapshotError::Local(why)) => return self.local_trouble(&op, &why),
        }
        match op.kind {
            OpKind::Put => self.put(&op),
            OpKind::Delete => self.delete(&op),
        }
    }

    /// Whatever state an operation was left in by a failure here, it becomes due again. Not awaited: on a full disk the
    /// change waits, behind those that failed, until there is room, and then the operation goes on.
    pub fn let_go(&self, op: &OpId, wait_ms: i64, code: &'static str) {
        let (id, at) = (op.clone(), now_ms() + wait_ms);
        let _ = self.journal.submit(Durability::Process, move |tx| tx.let_go(&id, at, code));
        self.circuit.probe_ends();
    }

    fn put(&self, op: &Operation) -> Result<(), JournalError> {
        let out = if op.sent {
            match self.frozen(op) {
                Ok(out) => out,
                Err(e) => return self.bury_local(op, &format!("the payload cannot be read: {e}")),
            }
        } else {
            match self.contents.snapshot(op) {
                Ok(Snapshot::Ready { bytes, hash, stamp, content_type }) => {
                    let content_type = content_type.unwrap_or_else(|| content_type_of(op.path.as_str(), &bytes));
                    Outgoing { bytes, hash, content_type, stamp: Some(stamp) }
                }
                Ok(Snapshot::Busy) => return self.postpone(op),
                Ok(Snapshot::Vanished) => {
                    self.circuit.probe_ends();
                    return self.contents.superseded(op);
                }
                Err(SnapshotError::Remote(e)) => return self.failed(op, &e),
                Err(SnapshotError::Local(why)) => return self.local_trouble(op, &why),
            }
        };
        if let Some(base) = op.base.as_ref().filter(|b| b.hash == Some(out.hash)) {
            // The same bytes as the remote has: nothing to say.
            self.circuit.probe_ends();
            return self.contents.acknowledged(op, Some((base.clone(), None)), None, out.stamp);
        }
        if op.sent || self.journal.has_note(&op.path)? {
            match self.ask(op, Some(&out)) {
                Asked::Done(result) => return result,
                Asked::SendAgain => {}
            }
        }
        if !op.sent {
            let (id, hash, size, kind) = (op.op.clone(), out.hash, out.bytes.len() as u64, out.content_type.clone());
            self.journal.write(move |tx| tx.set_sent(&id, Some((hash, size)), Some(&kind)))?;
        }
        let precondition = match &op.base {
            Some(base) => Precondition::Revision(base.revision.clone()),
            None => Precondition::Absent,
        };
        match self.remote.put(&op.path, &out.bytes, &out.content_type, &precondition, &op.op) {
            Ok(accepted) => {
                self.circuit.close();
                match accepted.revision.clone() {
                    Some(revision) => self.put_done(op, out, revision, accepted),
                    // An acceptance without a revision: the next edit would have no base, so it is asked for.
                    None => match self.ask(op, Some(&out)) {
                        Asked::Done(result) => result,
                        Asked::SendAgain => self.retry(op, false, None, "bad_response", "accepted without a revision", None),
                    },
                }
            }
            Err(e) if classify(e.kind) == Outcome::Conflict => {
                self.circuit.close();
                // Perhaps an earlier request of this very operation was applied and its response lost.
                match self.ask(op, Some(&out)) {
                    Asked::Done(result) => result,
                    Asked::SendAgain => self.bury(op, &e, "conflict"),
                }
            }
            Err(e) => self.failed(op, &e),
        }
    }

    fn put_done(
        &self,
        op: &Operation,
        out: Outgoing,
        revision: crate::ids::Revision,
        accepted: Accepted,
    ) -> Result<(), JournalError> {
        log::debug!("{}: {} is at the remote as {revision}", op.op, op.path);
        let version = Version { revision, hash: Some(out.hash) };
        self.contents.acknowledged(op, Some((version, Some(out.content_type))), Some(accepted), out.stamp)
    }

    fn frozen(&self, op: &Operation) -> std::io::Result<Outgoing> {
        let bytes = self.contents.payload(&op.op)?;
        let hash = ContentHash::of(&bytes);
        if op.payload.is_some_and(|(h, _)| h != hash) {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "its hash is not the one that was recorded"));
        }
        let content_type = op.content_type.clone().unwrap_or_else(|| content_type_of(op.path.as_str(), &bytes));
        Ok(Outgoing { bytes, hash, content_type, stamp: None })
    }

    fn delete(&self, op: &Operation) -> Result<(), JournalError> {
        let Some(base) = &op.base else {
            self.circuit.probe_ends();
            return self.contents.acknowledged(op, None, None, None); // the remote never had it
        };
        if op.sent || self.journal.has_note(&op.path)? {
            match self.ask(op, None) {
                Asked::Done(result) => return result,
                Asked::SendAgain => {}
            }
        }
        if !op.sent {
            let id = op.op.clone();
            self.journal.write(move |tx| tx.set_sent(&id, None, None))?;
        }
        match self.remote.delete(&op.path, &base.revision, &op.op) {
            Ok(accepted) => {
                self.circuit.close();
                self.contents.acknowledged(op, None, Some(accepted), None)
            }
            Err(e) if e.kind == ErrorKind::NotFound => {
                self.circuit.close();
                self.contents.acknowledged(op, None, None, None)
            }
            Err(e) if classify(e.kind) == Outcome::Conflict => {
                self.circuit.close();
                self.bury(op, &e, "conflict")
            }
            Err(e) => self.failed(op, &e),
        }
    }

    /// Asks the remote what it has, before a request that may already have been applied is repeated.
    fn ask(&self, op: &Operation, out: Option<&Outgoing>) -> Asked {
        match self.remote.get(&op.path) {
            Ok(file) => {
                self.circuit.close();
                if let Some(out) = out.filter(|o| o.hash == file.hash) {
                    log::info!("{}: {} was already at the remote as {}", op.op, op.path, file.revision);
                    let version = Version { revision: file.revision, hash: Some(file.hash) };
                    return Asked::Done(self.contents.acknowledged(
                        op,
                        Some((version, Some(file.content_type))),
                        None,
                        out.stamp,
                    ));
                }
                let now = Version { revision: file.revision, hash: Some(file.hash) };
                if op.base.as_ref().is_some_and(|b| b.same_as(&now)) {
                    return Asked::SendAgain;
                }
                Asked::Done(
                    self.bury_conflict(
                        op,
                        &format!("the remote has {} now, not the version this edit was based on", now.revision),
                    ),
                )
            }
            Err(e) if e.kind == ErrorKind::NotFound => {
                self.circuit.close();
                match (op.kind, &op.base) {
                    (OpKind::Delete, _) => Asked::Done(self.contents.acknowledged(op, None, None, None)),
                    (OpKind::Put, None) => Asked::SendAgain,
                    (OpKind::Put, Some(_)) => Asked::Done(self.bury_conflict(op, "the file was deleted at the remote")),
                }
            }
            Err(e) => Asked::Done(self.failed(op, &e)),
        }
    }

    fn postpone(&self, op: &Operation) -> Result<(), JournalError> {
        self.circuit.probe_ends();
        let (id, at) = (op.op.clone(), now_ms() + self.contents.settle().as_millis().max(50) as i64);
        self.journal.write(move |tx| tx.postpone(&id, at))
    }

    fn failed(&self, op: &Operation, e: &RemoteError) -> Result<(), JournalError> {
        let body: String = e.body.chars().take(1024).collect();
        match classify(e.kind) {
            Outcome::Unreachable => {
                self.circuit.open(CircuitState::Unreachable { why: e.message.clone() });
                self.retry(op, false, None, &e.code, &e.message, None)
            }
            Outcome::Unauthorized => {
                log::warn!("{}: {} status 401: {body}", op.op, op.path);
                self.circuit.open(CircuitState::Unauthorized { why: e.message.clone() });
                self.retry(op, false, e.status, &e.code, &e.message, None)
            }
            Outcome::Transient => {
                self.circuit.close();
                log::warn!("{}: {} status {:?}, attempt {}: {body}", op.op, op.path, e.status, op.attempts + 1);
                if op.attempts + 1 >= self.max_attempts {
                    return self.bury(op, e, &e.code);
                }
                self.retry(op, true, e.status, &e.code, &e.message, e.retry_after)
            }
            Outcome::Conflict => self.bury(op, e, "conflict"),
            Outcome::Permanent => self.bury(op, e, &e.code),
        }
    }

    fn retry(
        &self,
        op: &Operation,
        counts: bool,
        status: Option<u16>,
        code: &str,
        message: &str,
        retry_after: Option<std::time::Duration>,
    ) -> Result<(), JournalError> {
        // While the circuit is open it decides when; the row only has to be due by then.
        let wait = if counts { backoff::delay(op.attempts + 1, retry_after, fastrand::f64()).as_millis() as i64 } else { 0 };
        let (id, code, message) = (op.op.clone(), code.to_owned(), message.to_owned());
        self.journal.write(move |tx| tx.retry_later(&id, now_ms() + wait, counts, status, &code, &message))
    }

    fn bury(&self, op: &Operation, e: &RemoteError, code: &str) -> Result<(), JournalError> {
        self.circuit.close();
        let body: String = e.body.chars().take(1024).collect();
        log::error!(
            "{}: {} of {} refused, status {:?}, attempt {}: {body}; the edit is kept",
            op.op,
            op.kind.as_str(),
            op.path,
            e.status,
            op.attempts + 1
        );
        let (id, status, code, message) = (op.op.clone(), e.status, code.to_owned(), e.message.clone());
        self.journal.write(move |tx| tx.bury(&id, status, &code, &message))?;
        self.contents.buried(op)
    }

    fn bury_conflict(&self, op: &Operation, why: &str) -> Result<(), JournalError> {
        log::error!("{}: {} of {}: conflict: {why}; the edit is kept", op.op, op.kind.as_str(), op.path);
        let (id, why) = (op.op.clone(), why.to_owned());
        self.journal.write(move |tx| tx.bury(&id, Some(409), "conflict", &why))?;
        self.contents.buried(op)
    }

    /// The disk of the state directory is full or failing: nothing was sent, nothing is lost, and it is tried again.
    fn local_trouble(&self, op: &Operation, why: &str) -> Result<(), JournalError> {
        self.circuit.probe_ends();
        log::warn!("{}: {}: {why}; tried again in {} s", op.op, op.path, LOCAL_RETRY_MS / 1000);
        let (id, why) = (op.op.clone(), why.to_owned());
        self.journal.write(move |tx| tx.retry_later(&id, now_ms() + LOCAL_RETRY_MS, false, None, "local_io", &why))
    }

    fn bury_local(&self, op: &Operation, why: &str) -> Result<(), JournalError> {
        self.circuit.probe_ends();
        log::error!("{}: {} of {}: {why}", op.op, op.kind.as_str(), op.path);
        let (id, why) = (op.op.clone(), why.to_owned());
        self.journal.write(move |tx| tx.bury(&id, None, "local_io", &why))
    }
}

enum Asked {
    /// The operation has reached its next state.
    Done(Result<(), JournalError>),
    /// The remote is where the operation expects it: the request was not applied.
    SendAgain,
}

/// A new file's content type, by its name, else by its bytes (the remote would call everything text/markdown).
fn content_type_of(path: &str, bytes: &[u8]) -> String {
    let by_name = match path.rsplit_once('.').map(|(_, ext)| ext.to_ascii_lowercase()).as_deref() {
        Some("md" | "markdown") => Some("text/markdown"),
        Some("json") => Some("application/json"),
        Some("html" | "htm") => Some("text/html"),
        Some("css") => Some("text/css"),
        Some("csv") => Some("text/csv"),
        Some("xml") => Some("application/xml"),
        Some("yaml" | "yml") => Some("application/yaml"),
        Some("toml") => Some("application/toml"),
        Some("js" | "mjs") => Some("text/javascript"),
        Some("svg") => Some("image/svg+xml"),
        Some("png") => Some("image/png"),
        Some("jpg" | "jpeg") => Some("image/jpeg"),
        Some("gif") => Some("image/gif"),
        Some("webp") => Some("image/webp"),
        Some("pdf") => Some("application/pdf"),
        Some("zip") => Some("application/zip"),
        Some("gz" | "tgz") => Some("application/gzip"),
        _ => None,
    };
    match by_name {
        Some(known) => known.to_owned(),
        None if std::str::from_utf8(bytes).is_ok() => "text/plain; charset=utf-8".to_owned(),
        None => "application/octet-stream".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::content_type_of;

    #[test]
    fn a_new_file_gets_its_type_by_name_then_by_its_bytes() {
        assert_eq!(content_type_of("/a/B.JSON", b"{}"), "application/json");
        assert_eq!(content_type_of("/a/Makefile", b"all:\n"), "text/plain; charset=utf-8");
        assert_eq!(content_type_of("/a/core", &[0xff, 0xfe]), "application/octet-stream");
    }
}
