//! Several small puts in one request: each operation is claimed, copied, recorded as sent, and brought to its next state by
//! its own part of the answer exactly as if it had been sent alone.
//!
//! Only a plain put that was never sent is part of a batch. What was sent before, what somebody forced, a path about which
//! something else was heard, a removal and a replay are dealt with one by one, after the batch.
//!
//! # No operation is applied twice, and nobody else's write is taken for ours
//!
//! The events of a batch carry no correlation id, so that the feed cannot tell what became of one whose answer was lost. The
//! remote itself can: every file carries the id of its operation as content identity, and a file whose identity the remote
//! has seen gets the first answer again and is not touched. So an operation with the mark `batched`, about which asking for the
//! file does not decide (`asking`), is sent once more under its identity and its first precondition.
//!
//! | at the remote | the answer to the repeat | then |
//! |---|---|---|
//! | the batch was applied, another version came later | the first answer | acknowledged; the other version is news |
//! | the batch was applied, the file was deleted later | the first answer, the file stays deleted | acknowledged; that is news |
//! | the batch was not applied, another version is there | conflict | as for any operation: rebase, merge or conflict |
//! | the batch was not applied, nothing is there, it creates | written now, once | acknowledged |
//! | the batch was not applied, the file was deleted | conflict | conflict |
//!
//! The same path and the same bytes in the feed prove less: they may be an earlier save of ours, from which the file has
//! moved on and to which this one returns, or somebody else's. Taken for this operation, they would let it end without its
//! bytes being there. The other way round an event is an echo only by the revision that the answer named (`Journal::echo`).
//!
//! The process may die at any of these points: what it leaves is what a single put leaves (`worker`), once for each file.

use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::failpoint;
use crate::ids::OpId;
use crate::journal::{JournalError, OpKind, Operation, Version};
use crate::remote::{BULK_BODY_MAX, BulkItem, Outcome, Precondition, RemoteError, classify};

use super::circuit::CircuitState;
use super::worker::{Outgoing, Prepared, Worker, failure, precondition};

/// Threads that a batch may use for its files: one that was moved before it was ever read is fetched before it is copied, one
/// that met something else is asked about, and none of them has to wait for the others.
const SIDE_BY_SIDE: usize = 8;
/// Fewer files than this are copied, and recorded as acknowledged, one after the other.
const FEW: usize = 16;

/// One operation of a batch with what it sends.
struct Part {
    op: Operation,
    out: Outgoing,
    precondition: Precondition,
}

impl Part {
    fn item(&self) -> BulkItem<'_> {
        BulkItem {
            path: &self.op.path,
            bytes: &self.out.bytes,
            content_type: &self.out.content_type,
            precondition: &self.precondition,
            op: &self.op.op,
        }
    }
}

impl Worker {
    /// Several operations of different paths. What fails is logged, and becomes due again.
    pub fn run_batch(&self, ids: &[OpId]) {
        let claim = ids.to_vec();
        let claimed = self.journal.write(move |tx| {
            let each = claim.iter().filter_map(|id| tx.claim(id).transpose());
            each.collect::<rusqlite::Result<Vec<Operation>>>()
        });
        let ops = match claimed {
            Ok(ops) => ops,
            Err(e) => return ids.iter().for_each(|id| self.recorded(id, Err(e.clone()))),
        };
        failpoint::hit("claimed");
        let plain = |op: &Operation| op.kind == OpKind::Put && !op.sent && !op.force && !op.replay;
        let (together, alone): (Vec<_>, Vec<_>) = ops.into_iter().partition(plain);
        let (parts, unfit) = self.prepare_all(together);
        for chunk in chunks(parts) {
            self.send_together(chunk);
        }
        for Part { op, out, .. } in unfit {
            let id = op.op.clone();
            self.alone(&id, || self.put_alone(op, out));
        }
        for op in alone {
            let id = op.op.clone();
            self.alone(&id, || self.claimed(op));
        }
    }

    /// While the remote gives no answer, an operation of a batch that was not sent yet goes back to the queue: one at a time
    /// finds out when that is over.
    fn alone(&self, id: &OpId, go: impl FnOnce() -> Result<(), JournalError>) {
        let result = match self.circuit.state() {
            CircuitState::Closed => go(),
            _ => self.back(id),
        };
        self.recorded(id, result);
    }

    fn back(&self, id: &OpId) -> Result<(), JournalError> {
        let id = id.clone();
        self.journal.write(move |tx| tx.postpone(&id, 0))
    }

    /// Snapshots of all; those that cannot be part of a batch come second.
    fn prepare_all(&self, ops: Vec<Operation>) -> (Vec<Part>, Vec<Part>) {
        let threads = if ops.len() < FEW { 1 } else { SIDE_BY_SIDE };
        let parts = Mutex::new((Vec::new(), Vec::new()));
        side_by_side(threads, ops, |op| {
            let Some((part, fits)) = self.prepare(&op) else { return };
            let mut parts = parts.lock();
            if fits { parts.0.push(part) } else { parts.1.push(part) }
        });
        parts.into_inner()
    }

    /// `None`: the operation has reached its next state. The second value: it can be part of a batch.
    fn prepare(&self, op: &Operation) -> Option<(Part, bool)> {
        let prepared = match self.circuit.state() {
            CircuitState::Closed => self.not_yet(op).map_or_else(|| self.snapshot(op), Prepared::Done),
            _ => Prepared::Done(self.back(&op.op)),
        };
        let done = match prepared {
            Prepared::Done(result) => result,
            Prepared::Ready(out) => match self.journal.has_note(&op.path) {
                Err(e) => Err(e),
                Ok(noted) => {
                    let fits = !noted && Self::same_as_base(op, &out).is_none() && BulkItem::fits(&op.path, &out.bytes);
                    if fits {
                        failpoint::hit("payload-written");
                    }
                    return Some((Part { precondition: precondition(op), op: op.clone(), out }, fits));
                }
            },
        };
        self.recorded(&op.op, done);
        None
    }

    fn send_together(&self, mut parts: Vec<Part>) {
        if parts.len() == 1 {
            let Part { op, out, .. } = parts.remove(0);
            let id = op.op.clone();
            return self.alone(&id, || self.put_alone(op, out));
        }
        if self.circuit.state() != CircuitState::Closed {
            return parts.iter().for_each(|p| self.recorded(&p.op.op, self.back(&p.op.op)));
        }
        let sent: Vec<_> =
            parts.iter().map(|p| (p.op.op.clone(), (p.out.hash, p.out.bytes.len() as u64), p.out.content_type.clone())).collect();
        let marked =
            self.journal.write(move |tx| sent.iter().try_for_each(|(op, what, kind)| tx.set_sent_together(op, *what, kind)));
        if let Err(e) = marked {
            return parts.iter().for_each(|p| self.recorded(&p.op.op, Err(e.clone())));
        }
        failpoint::hit("sent");
        let answers = self.remote.bulk(&parts.iter().map(Part::item).collect::<Vec<_>>());
        failpoint::hit("answered");
        match answers {
            Ok(answers) => {
                let answered: Vec<_> = parts.into_iter().zip(answers).collect();
                let threads = if answered.len() < FEW { 1 } else { SIDE_BY_SIDE };
                side_by_side(threads, answered, |(Part { op, out, .. }, answer)| {
                    self.recorded(&op.op, self.answered(&op, out, answer));
                });
            }
            Err(e) => self.batch_failed(parts, &e),
        }
    }

    /// No file was answered for.
    fn batch_failed(&self, parts: Vec<Part>, e: &RemoteError) {
        let stands_still = match classify(e.kind) {
            Outcome::Unreachable => CircuitState::Unreachable { why: e.message.clone() },
            Outcome::Unauthorized => CircuitState::Unauthorized { why: e.message.clone() },
            Outcome::Transient => {
                return parts.iter().for_each(|p| self.recorded(&p.op.op, self.failed(&p.op, e, Some(&p.out))));
            }
            // It is the batch that was refused, and as a whole: the refusal of a file has to come from a request for that file.
            Outcome::Conflict | Outcome::Permanent => {
                if matches!(e.status, Some(404 | 405)) && self.batches.swap(false, Ordering::AcqRel) {
                    log::info!("this remote takes no batches ({e}); every save is a request of its own");
                } else {
                    log::warn!("a batch of {} saves was refused ({e}); they are sent one by one", parts.len());
                }
                side_by_side(SIDE_BY_SIDE, parts, |Part { op, out, .. }| {
                    let id = op.op.clone();
                    // Recorded as sent: while nobody answers, it waits as such.
                    let result = match self.circuit.state() {
                        CircuitState::Closed => self.send(op, out),
                        _ => self.retry(&op, false, &failure(e, &e.code), None),
                    };
                    self.recorded(&id, result);
                });
                return;
            }
        };
        self.circuit.open(stands_still);
        for p in &parts {
            if e.status.is_some() {
                self.log_refusal(&p.op, e);
            }
            self.recorded(&p.op.op, self.again(&p.op, e));
        }
    }

    /// Sends an operation once more that was part of a batch, and says whether it is applied by now. See the module.
    pub(super) fn repeat(&self, op: &Operation, out: &Outgoing) -> Result<Option<Version>, RemoteError> {
        let item = BulkItem {
            path: &op.path,
            bytes: &out.bytes,
            content_type: &out.content_type,
            precondition: &precondition(op),
            op: &op.op,
        };
        let answer = self.remote.bulk(&[item]).and_then(|answers| match answers.into_iter().next() {
            Some(answer) => answer.map(Some),
            None => Ok(None),
        });
        match answer {
            Ok(accepted) => Ok(accepted.and_then(|a| a.revision).map(|revision| Version { revision, hash: Some(out.hash) })),
            Err(e) if matches!(classify(e.kind), Outcome::Conflict | Outcome::Permanent) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// Does something with each of the items, on as many threads as that is worth.
fn side_by_side<T: Send>(threads: usize, items: Vec<T>, each: impl Fn(T) + Sync) {
    let threads = threads.min(items.len());
    let items = Mutex::new(items.into_iter());
    let work = || {
        loop {
            let Some(item) = items.lock().next() else { return };
            each(item);
        }
    };
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
}

/// Batches whose bodies the remote can be expected to take.
fn chunks(parts: Vec<Part>) -> Vec<Vec<Part>> {
    let (mut chunks, mut size): (Vec<Vec<Part>>, usize) = (Vec::new(), 0);
    for part in parts {
        let weight = part.item().weight();
        match chunks.last_mut() {
            Some(chunk) if size + weight <= BULK_BODY_MAX => {
                chunk.push(part);
                size += weight;
            }
            _ => {
                chunks.push(vec![part]);
                size = weight;
            }
        }
    }
    chunks
}
