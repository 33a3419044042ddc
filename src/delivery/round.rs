//! One round of looks: which requests answer for what is due, and what the answers mean.

use std::collections::HashMap;

use crate::journal::{Failure, Followed};
use crate::remote::{DELIVERY_PAGE_MAX, Delivery, DeliveryState, ErrorKind, Remote, RemoteError};

use super::refusal;

/// Up to this many are asked for one by one; more by pages.
const SINGLES: usize = 4;
/// Operations of a page at the least: others write too.
const PAGE_MIN: usize = 100;

/// What a look has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Delivered,
    UnderWay(DeliveryState),
    /// For good, with the provider's words and the remote's attempts.
    Refused(Failure, u32),
    /// The remote does not know it, or not any more.
    Forgotten,
}

impl Verdict {
    /// The one place that says which state is an end.
    fn of(d: &Delivery) -> Verdict {
        match d.state {
            DeliveryState::Succeeded => Verdict::Delivered,
            // A failed attempt is no end: the remote says dead_lettered when it has given up.
            DeliveryState::Pending | DeliveryState::Running | DeliveryState::Failed => Verdict::UnderWay(d.state),
            DeliveryState::DeadLettered | DeliveryState::Canceled => Verdict::Refused(refusal(d), d.attempts),
        }
    }
}

/// See the module.
pub(super) struct Round<'a> {
    remote: &'a dyn Remote,
    /// The longest due first; `None` once it is answered.
    due: Vec<Option<Followed>>,
    left: usize,
    requests_left: u32,
    /// The remote has told of an operation, or that it does not know one.
    heard: bool,
    verdicts: Vec<(Followed, Verdict)>,
}

impl<'a> Round<'a> {
    pub fn new(remote: &'a dyn Remote, due: Vec<Followed>, requests: u32) -> Round<'a> {
        let left = due.len();
        let due = due.into_iter().map(Some).collect();
        Round { remote, due, left, requests_left: requests, heard: false, verdicts: Vec::new() }
    }

    /// Asks until everything due is answered or no request is left. What was found out before an error counts.
    pub fn ask(&mut self) -> Result<(), RemoteError> {
        // What has no name can be found in a page only.
        if self.left > SINGLES || self.due.iter().flatten().any(|f| f.remote_op.is_none()) {
            self.ask_pages()?;
        }
        for at in 0..self.due.len() {
            let Some(f) = &self.due[at] else { continue };
            let Some(id) = f.remote_op.clone() else { continue };
            if self.requests_left == 0 {
                return Ok(());
            }
            self.requests_left -= 1;
            let verdict = match self.remote.delivery(&id) {
                // A restarted server may have given the id to another write.
                Ok(d) if d.path.as_ref().is_none_or(|p| *p == f.path) => Verdict::of(&d),
                Ok(_) => Verdict::Forgotten,
                Err(e) if e.kind == ErrorKind::NotFound => Verdict::Forgotten,
                Err(e) => return Err(e),
            };
            self.heard = true;
            self.answer(at, verdict);
        }
        Ok(())
    }

    /// The newest operations, page by page, as long as a page answers for more than a single request would.
    fn ask_pages(&mut self) -> Result<(), RemoteError> {
        let (mut named, mut unnamed) = (HashMap::new(), HashMap::new());
        for (at, f) in self.due.iter().enumerate() {
            let Some(f) = f else { continue };
            match &f.remote_op {
                Some(id) => named.insert(id.clone(), at),
                None => unnamed.insert(f.op.to_string(), at),
            };
        }
        let mut cursor = None;
        while self.requests_left > 0 {
            self.requests_left -= 1;
            let limit = (self.left * 2).clamp(PAGE_MIN, DELIVERY_PAGE_MAX);
            let page = match self.remote.deliveries(cursor.as_deref(), limit) {
                Ok(page) => page,
                // A remote without this route may have the other one; and a cursor may be gone.
                Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::Rejected) => break,
                Err(e) => return Err(e),
            };
            self.heard = true;
            let before = self.left;
            for d in &page.deliveries {
                let Some(&at) = named.get(&d.remote_op).or_else(|| unnamed.get(&d.correlation_id)) else { continue };
                let Some(f) = self.due[at].as_mut().filter(|f| d.path.as_ref().is_none_or(|p| *p == f.path)) else { continue };
                f.remote_op = Some(d.remote_op.clone());
                self.answer(at, Verdict::of(d));
            }
            cursor = page.next_cursor;
            if cursor.is_none() || before - self.left < 2 || self.left <= SINGLES {
                break;
            }
        }
        // The id was never heard, and what is newest does not have it: it is too long ago, or what the remote has are the
        // same bytes of somebody else.
        unnamed.into_values().for_each(|at| self.answer(at, Verdict::Forgotten));
        Ok(())
    }

    /// Nothing if it is answered already.
    fn answer(&mut self, at: usize, verdict: Verdict) {
        if let Some(f) = self.due[at].take() {
            self.left -= 1;
            self.verdicts.push((f, verdict));
        }
    }

    pub fn heard(&self) -> bool {
        self.heard
    }

    pub fn into_verdicts(self) -> Vec<(Followed, Verdict)> {
        self.verdicts
    }
}
