//! A batch of writes in one request, and which answer is whose.
//!
//! The remote answers 202 whatever became of the files: `results` has those that were written, `errors` the others, both in
//! no order that could be relied on. A file that is in neither, or in both, has not been answered for.

use std::collections::HashMap;
use std::time::Instant;

use reqwest::Method;

use super::super::error::status_of_code;
use super::super::reply::{Call, Reply};
use super::super::wire::{BULK_IDENTITY, BulkBody, BulkError, BulkFile, BulkReplyBody, BulkResult, Identity, PutBody, usable_op};
use super::{Accepted, BulkItem, ErrorKind, HttpRemote, Precondition, RemoteError, Revision, TIMEOUT_MAX, if_match};

/// How long the remote is to know a content identity, in seconds: a week, as for a merge.
const IDENTITY_TTL: u32 = 7 * 24 * 60 * 60;

type Answer = Result<Accepted, RemoteError>;

impl HttpRemote {
    pub(super) fn send_batch(&self, items: &[BulkItem<'_>]) -> Result<Vec<Answer>, RemoteError> {
        let mut call = self.call(Method::POST, "/fs/bulk", self.url("/fs/bulk", &[]), None);
        call.timeout = self.config.accept_timeout.unwrap_or(self.config.timeout).min(TIMEOUT_MAX);
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(items.len());
        let (mut files, mut by_path, mut by_op, mut size) = (Vec::new(), HashMap::new(), HashMap::new(), 0);
        for (at, item) in items.iter().enumerate() {
            let condition = match item.precondition {
                Precondition::Absent => Ok("0"),
                Precondition::Revision(r) => if_match(&call, r),
            };
            answers.push(None);
            let condition = match condition {
                Ok(condition) => condition,
                Err(e) => {
                    answers[at] = Some(Err(RemoteError { path: item.path.to_string(), ..e }));
                    continue;
                }
            };
            let path = self.wire(item.path);
            by_path.insert(path.clone(), at);
            by_op.insert(item.op.as_str(), at);
            size += item.weight();
            files.push(BulkFile {
                path,
                body: PutBody::new(item.bytes, item.content_type),
                if_match: condition,
                content_identity: Identity { kind: BULK_IDENTITY, key: item.op.as_str(), ttl_seconds: IDENTITY_TTL },
            });
        }
        if !files.is_empty() {
            let started = Instant::now();
            let body = BulkBody { files };
            let reply = self
                .send(&call, |r| r.json(&body))
                .map_err(|e| self.unheard(e, size, call.timeout.saturating_sub(started.elapsed())))?;
            let said: BulkReplyBody = reply.json(&call)?;
            if said.results.is_none() && said.errors.is_none() && said.written.is_none() {
                return Err(reply.foreign(&call, "it says nothing of any file"));
            }
            let repeated = said.written == Some(0);
            for result in said.results.unwrap_or_default() {
                // A repeat names the path that its file has by now, which may be another one.
                let BulkResult { path, revision, op_id, content_identity } = result;
                let named = content_identity.and_then(|i| i.batched());
                let at = named.as_deref().and_then(|op| by_op.get(op)).or_else(|| by_path.get(&path));
                let revision = revision.filter(|r| !r.is_empty()).map(|r| Revision::new(&r));
                if let Some(&at) = at {
                    answers[at] = Some(Ok(Accepted { remote_op: op_id.and_then(usable_op), revision, repeated }));
                }
            }
            for error in said.errors.unwrap_or_default() {
                if let Some(&at) = by_path.get(&error.path) {
                    // In both lists: nobody can tell which holds.
                    answers[at] = answers[at].is_none().then(|| Err(refusal(&call, &reply, items[at], error)));
                }
            }
        }
        let unanswered = |item: &BulkItem<'_>| {
            let message = "the answer does not tell what became of this file".to_owned();
            Err(RemoteError { path: item.path.to_string(), ..call.error(ErrorKind::Corrupt, Some(202), "bad_response", message) })
        };
        Ok(answers.into_iter().zip(items).map(|(answer, item)| answer.unwrap_or_else(|| unanswered(item))).collect())
    }
}

/// What the remote says of one file, told as if the file had been sent alone.
fn refusal(call: &Call<'_>, reply: &Reply, item: BulkItem<'_>, said: BulkError) -> RemoteError {
    let code = reply.redact(said.code.unwrap_or_else(|| "bad_response".into()));
    let message = said.message.filter(|m| !m.is_empty()).unwrap_or_else(|| format!("the remote answered {code}"));
    let message = reply.redact(message);
    let (kind, status) = match status_of_code(&code) {
        Some(status) => (ErrorKind::of_status(status), status),
        // It was not written, and a request of its own will tell why.
        None => (ErrorKind::Corrupt, reply.status.as_u16()),
    };
    let mut body = serde_json::json!({ "code": code, "message": message }).to_string();
    body.truncate(body.floor_char_boundary(1024));
    RemoteError {
        path: item.path.to_string(),
        body,
        current_revision: said.current_revision.map(|r| Revision::new(&reply.redact(r))),
        ..call.error(kind, Some(status), &code, message)
    }
}
