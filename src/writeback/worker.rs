//! One operation from its claim to its next state. Those of a batch (`batch`) share its request, and nothing else.
//!
//! | the process dies | left in the journal | at the next start |
//! |---|---|---|
//! | before the claim | queued | taken up as if nothing had been |
//! | after the claim, before `sent` | in flight, not sent | becomes due; a snapshot is taken anew |
//! | after `sent`, before the response | in flight, sent, payload on disk | becomes due; asks the remote before it repeats |
//! | after the response, before the record | the same | asks, finds its bytes at the remote, is acknowledged |
//! | after the record | acknowledged, waiting or dead | nothing; files that the record made needless are swept |

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::failpoint;
use crate::ids::{ContentHash, OpId};
use crate::journal::{Durability, Failure, Journal, JournalError, Meets, OpKind, Operation, Stamp, Version, now_ms};
use crate::remote::{Accepted, ErrorKind, Outcome, Precondition, Remote, RemoteError, classify};

use super::circuit::{Circuit, CircuitState};
use super::{Contents, Snapshot, SnapshotError, backoff};

/// The wait after local trouble, in milliseconds.
const LOCAL_RETRY_MS: i64 = 5000;
/// How long one waits that was answered in the remote's place, in milliseconds, while others find out whether that is over.
const FOREIGN_RETRY_MS: i64 = 2000;
/// The wait after the journal could not take a transition, in milliseconds.
const JOURNAL_RETRY_MS: i64 = 5_000;

pub(super) struct Worker {
    pub journal: Journal,
    pub contents: Arc<dyn Contents>,
    pub remote: Arc<dyn Remote>,
    pub circuit: Arc<Circuit>,
    pub max_attempts: u32,
    /// Whether the remote takes batches; shared by all workers, and false from the moment on when it says that it does not.
    pub batches: Arc<AtomicBool>,
}

/// What is about to be sent.
pub(super) struct Outgoing {
    pub bytes: Vec<u8>,
    pub hash: ContentHash,
    pub content_type: String,
    pub stamp: Option<Stamp>,
}

impl Outgoing {
    /// What the journal keeps of it when the operation dies.
    fn payload(&self) -> (ContentHash, u64, String) {
        (self.hash, self.bytes.len() as u64, self.content_type.clone())
    }
}

/// What taking a snapshot has come to.
pub(super) enum Prepared {
    Ready(Outgoing),
    /// The operation has reached its next state.
    Done(Result<(), JournalError>),
}

/// What asking the remote has shown.
pub(super) enum Asked {
    /// The operation has reached its next state.
    Done(Result<(), JournalError>),
    /// The remote is where this operation expects it: the request was not applied.
    Send(Box<Operation>),
}

impl Worker {
    /// One operation; its failure is logged, and it becomes due again.
    pub fn run(&self, id: &OpId) {
        let result = self.run_alone(id);
        self.recorded(id, result);
    }

    fn run_alone(&self, id: &OpId) -> Result<(), JournalError> {
        let claim = id.clone();
        let Some(op) = self.journal.write(move |tx| tx.claim(&claim))? else {
            self.circuit.probe_ends();
            return Ok(());
        };
        failpoint::hit("claimed");
        self.claimed(op)
    }

    /// An operation that is in flight from now on, by itself.
    pub(super) fn claimed(&self, op: Operation) -> Result<(), JournalError> {
        if op.replay {
            return self.replay(&op);
        }
        if let Some(result) = self.not_yet(&op) {
            return result;
        }
        match op.kind {
            OpKind::Put => self.put(op),
            OpKind::Delete => self.delete(op),
        }
    }

    /// Fetches what a change of the path would lose. `Some`: that failed, and the operation has reached its next state.
    pub(super) fn not_yet(&self, op: &Operation) -> Option<Result<(), JournalError>> {
        match self.contents.before_change(&op.path) {
            Ok(()) => None,
            Err(SnapshotError::Remote(e)) => Some(self.failed(op, &e, None)),
            Err(SnapshotError::Local(why)) => Some(self.local_trouble(op, &why)),
        }
    }

    /// An operation whose state could not be recorded becomes due again.
    pub(super) fn recorded(&self, op: &OpId, result: Result<(), JournalError>) {
        if let Err(e) = result {
            log::error!("{op}: its state could not be recorded: {e}");
            self.let_go(op, JOURNAL_RETRY_MS, "journal");
        }
    }

    /// Whatever state an operation was left in by a failure here, it becomes due again. Not awaited: on a full disk the
    /// change waits, behind those that failed, until there is room, and then the operation goes on.
    pub fn let_go(&self, op: &OpId, wait_ms: i64, code: &'static str) {
        let (id, at) = (op.clone(), now_ms() + wait_ms);
        let _ = self.journal.submit(Durability::Process, move |tx| tx.let_go(&id, at, code));
        self.circuit.probe_ends();
    }

    fn put(&self, op: Operation) -> Result<(), JournalError> {
        if op.sent {
            return match self.frozen(&op) {
                Ok(out) => self.put_alone(op, out),
                Err(e) => self.bury_local(&op, &format!("the payload cannot be read: {e}")),
            };
        }
        match self.snapshot(&op) {
            Prepared::Ready(out) => self.put_alone(op, out),
            Prepared::Done(result) => result,
        }
    }

    /// What an operation that was never sent is to send, unless that ends it or has to wait.
    pub(super) fn snapshot(&self, op: &Operation) -> Prepared {
        Prepared::Done(match self.contents.snapshot(op) {
            Ok(Snapshot::Ready { bytes, hash, stamp, content_type }) => {
                let content_type = content_type.unwrap_or_else(|| content_type_of(op.path.as_str(), &bytes));
                return Prepared::Ready(Outgoing { bytes, hash, content_type, stamp: Some(stamp) });
            }
            Ok(Snapshot::Busy) => self.postpone(op),
            Ok(Snapshot::Vanished) => {
                self.circuit.probe_ends();
                self.contents.superseded(op)
            }
            Err(SnapshotError::Remote(e)) => self.failed(op, &e, None),
            Err(SnapshotError::Local(why)) => self.local_trouble(op, &why),
        })
    }

    /// Whether the remote has these very bytes already, as far as is known: then there is nothing to say.
    pub(super) fn same_as_base(op: &Operation, out: &Outgoing) -> Option<Version> {
        op.base.clone().filter(|b| !op.force && b.hash == Some(out.hash))
    }

    /// One put in a request of its own.
    pub(super) fn put_alone(&self, mut op: Operation, out: Outgoing) -> Result<(), JournalError> {
        failpoint::hit("payload-written");
        if let Some(base) = Self::same_as_base(&op, &out) {
            self.circuit.probe_ends();
            return self.contents.acknowledged(&op, Some((base, None)), None, out.stamp);
        }
        if op.force || op.sent || self.journal.has_note(&op.path)? {
            match self.ask(&op, Some(&out)) {
                Asked::Done(result) => return result,
                Asked::Send(next) => op = *next,
            }
        }
        if !op.sent {
            let (id, hash, size, kind) = (op.op.clone(), out.hash, out.bytes.len() as u64, out.content_type.clone());
            self.journal.write(move |tx| tx.set_sent(&id, Some((hash, size)), Some(&kind)))?;
        }
        self.send(op, out)
    }

    /// The request for a put that is recorded as sent.
    pub(super) fn send(&self, op: Operation, out: Outgoing) -> Result<(), JournalError> {
        failpoint::hit("sent");
        let answer = self.remote.put(&op.path, &out.bytes, &out.content_type, &precondition(&op), &op.op);
        failpoint::hit("answered");
        self.answered(&op, out, answer)
    }

    /// What the answer to a put means, whether it was sent alone or together with others.
    pub(super) fn answered(
        &self,
        op: &Operation,
        out: Outgoing,
        answer: Result<Accepted, RemoteError>,
    ) -> Result<(), JournalError> {
        match answer {
            Ok(accepted) => {
                self.circuit.close();
                match accepted.revision.clone() {
                    Some(revision) => self.put_done(op, out, revision, accepted),
                    // An acceptance without a revision: the next edit would have no base, so it is asked for.
                    None => match self.ask(op, Some(&out)) {
                        Asked::Done(result) => result,
                        Asked::Send(op) => {
                            let failure = Failure {
                                code: "bad_response".into(),
                                message: "accepted without a revision".into(),
                                ..Failure::default()
                            };
                            self.retry(&op, true, &failure, None)
                        }
                    },
                }
            }
            Err(e) if classify(e.kind) == Outcome::Conflict => {
                self.circuit.close();
                self.log_refusal(op, &e);
                // Perhaps an earlier request of this very operation was applied and its response lost.
                match self.ask(op, Some(&out)) {
                    Asked::Done(result) => result,
                    // It says conflict, and has what the edit was based on. One of the two will have changed soon.
                    Asked::Send(op) => self.transient(&op, &e, "conflict", Some(&out)),
                }
            }
            Err(e) => self.failed(op, &e, Some(&out)),
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

    fn delete(&self, mut op: Operation) -> Result<(), JournalError> {
        if op.base.is_none() && !op.force {
            self.circuit.probe_ends();
            return self.contents.acknowledged(&op, None, None, None); // the remote never had it
        }
        if op.force || op.sent || self.journal.has_note(&op.path)? {
            match self.ask(&op, None) {
                Asked::Done(result) => return result,
                Asked::Send(next) => op = *next,
            }
        }
        let Some(base) = op.base.clone() else {
            return self.contents.acknowledged(&op, None, None, None);
        };
        if !op.sent {
            let id = op.op.clone();
            self.journal.write(move |tx| tx.set_sent(&id, None, None))?;
        }
        failpoint::hit("sent");
        let answer = self.remote.delete(&op.path, &base.revision, &op.op);
        failpoint::hit("answered");
        match answer {
            Ok(accepted) => {
                self.circuit.close();
                self.contents.acknowledged(&op, None, Some(accepted), None)
            }
            Err(e) if e.kind == ErrorKind::NotFound => {
                self.circuit.close();
                self.contents.acknowledged(&op, None, None, None)
            }
            Err(e) if classify(e.kind) == Outcome::Conflict => {
                self.circuit.close();
                self.log_refusal(&op, &e);
                match self.ask(&op, None) {
                    Asked::Done(result) => result,
                    Asked::Send(op) => self.transient(&op, &e, "conflict", None),
                }
            }
            Err(e) => self.failed(&op, &e, None),
        }
    }

    pub(super) fn postpone(&self, op: &Operation) -> Result<(), JournalError> {
        self.circuit.probe_ends();
        let (id, at) = (op.op.clone(), now_ms() + self.contents.settle().as_millis().max(50) as i64);
        self.journal.write(move |tx| tx.postpone(&id, at))
    }

    /// A request that did not succeed, for any reason but a conflict with what the remote has.
    pub(super) fn failed(&self, op: &Operation, e: &RemoteError, out: Option<&Outgoing>) -> Result<(), JournalError> {
        match classify(e.kind) {
            Outcome::Unreachable => {
                self.circuit.open(CircuitState::Unreachable { why: e.message.clone() });
                self.again(op, e)
            }
            Outcome::Unauthorized => {
                self.log_refusal(op, e);
                self.circuit.open(CircuitState::Unauthorized { why: e.message.clone() });
                self.retry(op, false, &failure(e, &e.code), None)
            }
            Outcome::Transient => {
                self.log_refusal(op, e);
                self.transient(op, e, &e.code, out)
            }
            Outcome::Conflict => {
                self.log_refusal(op, e);
                self.bury(op, &failure(e, "conflict"), &Meets::Refusal, out)
            }
            Outcome::Permanent => {
                self.log_refusal(op, e);
                self.bury(op, &failure(e, &e.code), &Meets::Refusal, out)
            }
        }
    }

    /// Again later, within the budget.
    fn transient(&self, op: &Operation, e: &RemoteError, code: &str, out: Option<&Outgoing>) -> Result<(), JournalError> {
        self.circuit.close();
        if op.spent() + 1 >= self.max_attempts {
            return self.bury(op, &failure(e, code), &Meets::Refusal, out);
        }
        self.retry(op, true, &failure(e, code), e.retry_after)
    }

    /// Again when the remote answers. One that was answered in the remote's place steps back behind the others: it may be the
    /// only one that is (a filter that takes offence at its content).
    pub(super) fn again(&self, op: &Operation, e: &RemoteError) -> Result<(), JournalError> {
        let wait = if e.kind == ErrorKind::Foreign { FOREIGN_RETRY_MS } else { 0 };
        self.wait(op, wait, false, &failure(e, &e.code))
    }

    pub(super) fn log_refusal(&self, op: &Operation, e: &RemoteError) {
        // One line of the log, whatever the remote says.
        let body = e.body.split_whitespace().collect::<Vec<_>>().join(" ");
        let (id, kind, path, attempt) = (&op.op, op.kind.as_str(), &op.path, op.attempts + 1);
        match e.status {
            Some(status) => log::warn!("{id}: {kind} of {path}: status {status}, attempt {attempt}: {body}"),
            None => log::warn!("{id}: {kind} of {path}: attempt {attempt}: {}", e.message),
        }
    }

    pub(super) fn retry(
        &self,
        op: &Operation,
        spends: bool,
        failure: &Failure,
        retry_after: Option<Duration>,
    ) -> Result<(), JournalError> {
        // While the circuit is open it decides when; the row only has to be due by then.
        let wait = if spends { backoff::delay(op.spent() + 1, retry_after, fastrand::f64()).as_millis() as i64 } else { 0 };
        self.wait(op, wait, spends, failure)
    }

    fn wait(&self, op: &Operation, wait: i64, spends: bool, failure: &Failure) -> Result<(), JournalError> {
        let (id, failure) = (op.op.clone(), failure.clone());
        failpoint::hit("before-retry-later");
        self.journal.write(move |tx| tx.retry_later(&id, now_ms() + wait, spends, &failure))?;
        failpoint::hit("retry-later");
        Ok(())
    }

    pub(super) fn bury(
        &self,
        op: &Operation,
        failure: &Failure,
        meets: &Meets,
        out: Option<&Outgoing>,
    ) -> Result<(), JournalError> {
        self.circuit.close();
        let (id, kind, path, words) = (&op.op, op.kind.as_str(), &op.path, &failure.message);
        log::error!("{id}: {kind} of {path} is a dead letter after attempt {}: {words}; the edit is kept", op.attempts + 1);
        failpoint::hit("before-bury");
        self.contents.bury(op, failure, meets, out.map(Outgoing::payload))?;
        failpoint::hit("buried");
        Ok(())
    }

    /// The disk of the state directory is full or failing: nothing was sent, nothing is lost, and it is tried again.
    fn local_trouble(&self, op: &Operation, why: &str) -> Result<(), JournalError> {
        self.circuit.probe_ends();
        log::warn!("{}: {}: {why}; tried again in {} s", op.op, op.path, LOCAL_RETRY_MS / 1000);
        let failure = Failure { code: "local_io".into(), message: why.to_owned(), ..Failure::default() };
        let id = op.op.clone();
        self.journal.write(move |tx| tx.retry_later(&id, now_ms() + LOCAL_RETRY_MS, false, &failure))
    }

    fn bury_local(&self, op: &Operation, why: &str) -> Result<(), JournalError> {
        self.circuit.probe_ends();
        log::error!("{}: {} of {}: {why}", op.op, op.kind.as_str(), op.path);
        let failure = Failure { code: "local_io".into(), message: why.to_owned(), ..Failure::default() };
        self.contents.bury(op, &failure, &Meets::Refusal, None)
    }
}

/// The version that a put replaces.
pub(super) fn precondition(op: &Operation) -> Precondition {
    match &op.base {
        Some(base) => Precondition::Revision(base.revision.clone()),
        None => Precondition::Absent,
    }
}

pub(super) fn failure(e: &RemoteError, code: &str) -> Failure {
    Failure { status: e.status, code: code.to_owned(), message: e.message.clone(), body: e.body.chars().take(1024).collect() }
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
