//! Asking the remote what it has, before a request that may already have been applied is repeated, and after a conflict.
//!
//! | the remote has | and | then |
//! |---|---|---|
//! | the bytes of this operation | | acknowledged |
//! | another version | its feed shows an event with this operation's id, or it knows its content identity | acknowledged; the other version is news |
//! | the version that the edit was based on | | not applied: send |
//! | a version that an earlier operation of ours has written | | rebase on that and send |
//! | any other version | somebody forced the operation | on top of that: send |
//! | any other version | both are text, and what they were changed from is known | the remote is asked to merge them |
//! | any other version | that is not so, or both changed the same lines | conflict; the remote's version takes the path |
//! | no such file | a delete | acknowledged |
//! | no such file | a put that creates, or was forced | send |
//! | no such file | a put of a version | conflict; the local version keeps the path |

use crate::failpoint;
use crate::journal::{Failure, JournalError, Meets, OpKind, Operation, Version};
use crate::path::RemotePath;
use crate::remote::{ErrorKind, Outcome, RemoteError, RemoteFile, classify};
use crate::workspace::Sides;

use super::worker::{Asked, Outgoing, Worker};

/// Pages of the event feed (of 1000 events) that are looked through for an operation.
const FEED_PAGES: usize = 50;

impl Worker {
    pub(super) fn ask(&self, op: &Operation, out: Option<&Outgoing>) -> Asked {
        match self.remote.get(&op.path) {
            Ok(file) => {
                self.circuit.close();
                self.found(op, out, file)
            }
            Err(e) if e.kind == ErrorKind::NotFound => {
                self.circuit.close();
                self.found_nothing(op, out)
            }
            Err(e) => Asked::Done(self.failed(op, &e, out)),
        }
    }

    fn found(&self, op: &Operation, out: Option<&Outgoing>, file: RemoteFile) -> Asked {
        let now = Version { revision: file.revision.clone(), hash: Some(file.hash) };
        if let Some(out) = out.filter(|o| Some(o.hash) == now.hash) {
            log::info!("{}: {} was already at the remote as {}", op.op, op.path, now.revision);
            return Asked::Done(self.contents.acknowledged(op, Some((now, Some(file.content_type.clone()))), None, out.stamp));
        }
        if op.force {
            return self.rebased(op, Some(now));
        }
        if op.base.as_ref().is_some_and(|b| b.same_as(&now)) {
            return Asked::Send(Box::new(op.clone()));
        }
        match self.applied(op, out, Some(&now)) {
            Ok(Some(result)) => return Asked::Done(self.overtaken(op, out, result, Some(&now))),
            Ok(None) => {}
            Err(Refused::Remote(e)) => return Asked::Done(self.failed(op, &e, out)),
            Err(Refused::Journal(e)) => return Asked::Done(Err(e)),
        }
        match self.journal.wrote_before(op, &now) {
            Ok(true) => return self.rebased(op, Some(now)),
            Ok(false) => {}
            Err(e) => return Asked::Done(Err(e)),
        }
        let base = op.base.as_ref().and_then(|b| b.hash).and_then(|hash| self.contents.base(&hash));
        if let (Some(out), Some(base)) = (out, &base)
            && let Some(done) = self.merge(op, out, base, &file)
        {
            return Asked::Done(done);
        }
        let why = format!("the remote has {} now, not the version this edit was based on", now.revision);
        self.set_aside(op, &Sides { base: base.as_deref(), remote: Some(&file.bytes) });
        Asked::Done(self.conflict(op, &why, &Meets::Version(now), out))
    }

    /// Lets the remote merge two texts that were changed from one. `None` when that is not to be had: then it is a conflict.
    fn merge(&self, op: &Operation, out: &Outgoing, base: &[u8], theirs: &RemoteFile) -> Option<Result<(), JournalError>> {
        let (version, ours) = (op.base.as_ref()?, std::str::from_utf8(&out.bytes).ok()?);
        let base_text = std::str::from_utf8(base).ok()?;
        if std::str::from_utf8(&theirs.bytes).is_err() || [base, &out.bytes, &theirs.bytes].iter().any(|b| b.contains(&0)) {
            return None;
        }
        if !op.sent {
            // A merge is a write: from now on one of this operation may have been applied.
            let (id, hash, size, kind) = (op.op.clone(), out.hash, out.bytes.len() as u64, out.content_type.clone());
            if let Err(e) = self.journal.write(move |tx| tx.set_sent(&id, Some((hash, size)), Some(&kind))) {
                return Some(Err(e));
            }
        }
        let sent = Operation { sent: true, payload: Some((out.hash, out.bytes.len() as u64)), ..op.clone() };
        let ask =
            |revision, base_text, ours| self.remote.merge(&op.path, revision, base_text, ours, &theirs.content_type, &op.op);
        let mut answer = ask(&version.revision, base_text, ours);
        if matches!(&answer, Err(e) if e.code == "merge_base_unavailable")
            && let Ok(theirs_text) = std::str::from_utf8(&theirs.bytes)
            && let Ok(together) = diffy::merge(base_text, ours, theirs_text)
        {
            // The remote never had what this edit was made from, or has forgotten it: an edit made from an edit that was merged.
            // It is merged here with what the remote has now, and there with whatever has come since.
            answer = ask(&theirs.revision, theirs_text, &together);
        }
        match answer {
            Ok(merged) => {
                failpoint::hit("merged");
                log::info!("{}: {} was merged with what somebody else has written; now {}", op.op, op.path, merged.revision);
                Some(self.contents.merged(&sent, &Version { revision: merged.revision, hash: None }))
            }
            Err(e) if matches!(classify(e.kind), Outcome::Conflict | Outcome::Permanent) => {
                log::info!("{}: {} cannot be merged: {}", op.op, op.path, e.message);
                None
            }
            Err(e) => Some(self.failed(&sent, &e, Some(out))),
        }
    }

    /// What people need to bring two versions together. A conflict without it is still one.
    fn set_aside(&self, op: &Operation, sides: &Sides<'_>) {
        if let Err(e) = self.contents.set_aside(&op.op, sides) {
            log::warn!("{}: the sides of the conflict of {} cannot be written down: {e}", op.op, op.path);
        }
        failpoint::hit("set-aside");
    }

    fn found_nothing(&self, op: &Operation, out: Option<&Outgoing>) -> Asked {
        match (op.kind, &op.base) {
            (OpKind::Delete, _) => return Asked::Done(self.contents.acknowledged(op, None, None, None)),
            (OpKind::Put, _) if op.force => return self.rebased(op, None),
            (OpKind::Put, None) if !op.sent => return Asked::Send(Box::new(op.clone())),
            (OpKind::Put, _) => {}
        }
        match self.applied(op, out, None) {
            Ok(Some(result)) => return Asked::Done(self.overtaken(op, out, result, None)),
            Ok(None) if op.base.is_none() => return Asked::Send(Box::new(op.clone())),
            Ok(None) => {}
            Err(Refused::Remote(e)) => return Asked::Done(self.failed(op, &e, out)),
            Err(Refused::Journal(e)) => return Asked::Done(Err(e)),
        }
        let base = op.base.as_ref().and_then(|b| b.hash).and_then(|hash| self.contents.base(&hash));
        self.set_aside(op, &Sides { base: base.as_deref(), remote: None });
        Asked::Done(self.conflict(op, "the file was deleted at the remote", &Meets::Nothing, out))
    }

    fn conflict(&self, op: &Operation, why: &str, meets: &Meets, out: Option<&Outgoing>) -> Result<(), JournalError> {
        // The status that a write would have met.
        let status = if *meets == Meets::Nothing { 404 } else { 409 };
        let failure = Failure { status: Some(status), code: "conflict".into(), message: why.to_owned(), body: String::new() };
        self.bury(op, &failure, meets, out)
    }

    fn rebased(&self, op: &Operation, base: Option<Version>) -> Asked {
        let (id, version) = (op.op.clone(), base.clone());
        match self.journal.write(move |tx| tx.set_base(&id, version.as_ref())) {
            Ok(()) => {
                failpoint::hit("rebased");
                Asked::Send(Box::new(Operation { base, force: false, ..op.clone() }))
            }
            Err(e) => Asked::Done(Err(e)),
        }
    }

    /// The operation was applied and its response lost; what the remote has now came after it.
    fn overtaken(
        &self,
        op: &Operation,
        out: Option<&Outgoing>,
        result: Option<Version>,
        now: Option<&Version>,
    ) -> Result<(), JournalError> {
        if let (Some(result), Some(out)) = (&result, out)
            && result.hash != Some(out.hash)
        {
            log::info!("{}: {} was merged with what somebody else has written; now {}", op.op, op.path, result.revision);
            return self.contents.merged(op, result);
        }
        log::info!("{}: {} was applied, and has been changed by somebody else since", op.op, op.path);
        self.contents.heard_of(&op.path, now)?;
        self.contents.acknowledged(op, result.map(|version| (version, None)), None, None)
    }

    /// Whether an earlier request of this operation was applied, and with what result: by the remote's feed, or, of what was
    /// part of a batch, by its content identity. `now` is what the remote has.
    fn applied(&self, op: &Operation, out: Option<&Outgoing>, now: Option<&Version>) -> Result<Option<Option<Version>>, Refused> {
        if !op.sent {
            return Ok(None);
        }
        if let Some(result) = self.in_feed(op, out)? {
            return Ok(Some(result));
        }
        // A restarted server may have named another content as our base is named: there the precondition would hold.
        let renamed = op.base.as_ref().is_some_and(|b| now.is_some_and(|now| now.revision == b.revision));
        match out.filter(|_| op.batched && !renamed) {
            Some(out) => Ok(self.repeat(op, out).map_err(|e| Refused::Remote(Box::new(e)))?.map(Some)),
            None => Ok(None),
        }
    }

    /// What the remote's feed tells of an operation, by its correlation id.
    fn in_feed(&self, op: &Operation, out: Option<&Outgoing>) -> Result<Option<Option<Version>>, Refused> {
        let mut cursor = match self.journal.applied(op)? {
            Ok(result) => return Ok(Some(result)),
            Err(mark) => mark.before,
        };
        for _ in 0..FEED_PAGES {
            let page = match self.remote.events(cursor.as_deref()) {
                Ok(page) => page,
                // Then nobody can tell, and the other version counts.
                Err(e) if e.kind == ErrorKind::Forbidden => return Ok(None),
                Err(e) => return Err(Refused::Remote(Box::new(e))),
            };
            let ours = |path: &Option<RemotePath>| path.as_ref() == Some(&op.path);
            if let Some(event) = page.events.iter().find(|e| e.correlation_id == op.op.as_str() && ours(&e.path)) {
                let revision = event.revision.clone().filter(|_| op.kind == OpKind::Put);
                let hash = event.hash.or(out.map(|o| o.hash));
                return Ok(Some(revision.map(|revision| Version { revision, hash })));
            }
            match page.next_cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

enum Refused {
    Remote(Box<RemoteError>),
    Journal(JournalError),
}

impl From<JournalError> for Refused {
    fn from(e: JournalError) -> Refused {
        Refused::Journal(e)
    }
}
