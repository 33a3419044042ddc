//! What a local change of a path means for its operations. Pure: values in, values out.
//!
//! A path has at most two open operations: one that was sent (its payload and id are frozen until its fate is known) and one
//! behind it, or alone, that was not (later changes join it). The queue is *level-triggered*: a change does not say what
//! happened, only what the view has at the path now, so that any dance of renames ends in the operations that its result
//! needs.

use crate::ids::OpId;
use crate::journal::OpKind;

/// The open operation of a path that was never sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    pub op: OpId,
    pub kind: OpKind,
    /// The remote has a file at the path underneath this operation (its base is a revision, not "absent").
    pub has_base: bool,
}

/// What the journal knows of a path before the change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathState {
    /// The view's base: the remote has a file here.
    pub remote_has: bool,
    /// The operation that was sent and is not finished.
    pub sent: Option<OpKind>,
    pub queued: Option<Queued>,
}

/// What the view has at the path after the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Now {
    /// A file whose content may have changed.
    Present,
    Gone,
}

/// What becomes of the queued operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Nothing,
    /// A new operation, with the base that the path has now (behind a sent one: the base which that one leaves).
    Insert(OpKind),
    /// The queued operation takes the change in: same id, same base, next generation.
    Join(OpId),
    /// The queued operation is superseded and another takes its place with its base.
    Replace(OpId, OpKind),
    /// The queued operation is superseded and nothing is left to do.
    Cancel(OpId),
}

/// Decides. The base revision is never touched here: whatever is queued keeps the base of the first change.
pub fn coalesce(state: &PathState, now: Now) -> Decision {
    match (&state.queued, now) {
        (Some(q), Now::Present) if q.kind == OpKind::Put => Decision::Join(q.op.clone()),
        // Deleted and created again before anything was sent: an update of the record, which keeps its identity.
        (Some(q), Now::Present) => Decision::Replace(q.op.clone(), OpKind::Put),
        (Some(q), Now::Gone) if q.kind == OpKind::Delete => Decision::Nothing,
        (Some(q), Now::Gone) => match (&state.sent, q.has_base) {
            (Some(OpKind::Put), _) | (None, true) => Decision::Replace(q.op.clone(), OpKind::Delete),
            // Behind a delete, or never known to the remote: created and removed again, nothing to say.
            (Some(OpKind::Delete), _) | (None, false) => Decision::Cancel(q.op.clone()),
        },
        (None, Now::Present) => Decision::Insert(OpKind::Put),
        (None, Now::Gone) => match &state.sent {
            Some(OpKind::Put) => Decision::Insert(OpKind::Delete),
            Some(OpKind::Delete) => Decision::Nothing,
            None if state.remote_has => Decision::Insert(OpKind::Delete),
            None => Decision::Nothing,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A remote and a queue of one path, driven by the decisions as the journal does.
    #[derive(Default, Debug)]
    struct Model {
        remote: bool,
        sent: Option<OpKind>,
        queued: Option<Queued>,
        view: bool,
    }

    impl Model {
        fn change(&mut self, now: Now) {
            self.view = now == Now::Present;
            let state = PathState { remote_has: self.remote, sent: self.sent, queued: self.queued.clone() };
            let base = match (&self.queued, self.sent) {
                (Some(q), _) => q.has_base,
                (None, Some(kind)) => kind == OpKind::Put,
                (None, None) => self.remote,
            };
            match coalesce(&state, now) {
                Decision::Nothing => {}
                Decision::Insert(kind) => {
                    assert!(self.queued.is_none());
                    self.queued = Some(Queued { op: OpId::generate(), kind, has_base: base });
                }
                Decision::Join(op) => assert_eq!(self.queued.as_ref().map(|q| &q.op), Some(&op)),
                Decision::Replace(op, kind) => {
                    assert_eq!(self.queued.as_ref().map(|q| &q.op), Some(&op));
                    self.queued = Some(Queued { op: OpId::generate(), kind, has_base: base });
                }
                Decision::Cancel(op) => {
                    assert_eq!(self.queued.take().map(|q| q.op), Some(op));
                }
            }
        }

        fn send(&mut self) {
            if self.sent.is_none()
                && let Some(q) = self.queued.take()
            {
                assert_eq!(q.has_base, self.remote, "the precondition that goes out must hold");
                self.sent = Some(q.kind);
            }
        }

        fn acknowledge(&mut self) {
            if let Some(kind) = self.sent.take() {
                self.remote = kind == OpKind::Put;
                if let Some(q) = &mut self.queued {
                    q.has_base = self.remote;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_the_remote_ends_as_the_view(start in any::<bool>(), steps in prop::collection::vec(0..4u8, 0..40)) {
            let mut m = Model { remote: start, view: start, ..Model::default() };
            for s in steps {
                match s {
                    0 => m.change(Now::Present),
                    1 => m.change(Now::Gone),
                    2 => m.send(),
                    _ => m.acknowledge(),
                }
            }
            for _ in 0..2 { m.send(); m.acknowledge(); }
            prop_assert_eq!(m.remote, m.view);
            prop_assert!(m.queued.is_none() && m.sent.is_none());
        }

        #[test]
        fn a_file_created_and_removed_before_it_was_sent_costs_nothing(saves in 1..20usize) {
            let mut m = Model::default();
            for _ in 0..saves { m.change(Now::Present); }
            m.change(Now::Gone);
            prop_assert!(m.queued.is_none() && m.sent.is_none());
        }
    }
}
