//! The retry of an operation that the remote has, and that its provider has refused: the remote is asked to deliver it once
//! more. Nothing is written a second time, and nothing of the view depends on it.

use crate::delivery::refusal;
use crate::failpoint;
use crate::journal::{Failure, JournalError, Operation};
use crate::remote::{DeliveryState, ErrorKind, Outcome, RemoteError, classify};

use super::circuit::CircuitState;
use super::worker::{Worker, failure};

/// The code of every letter of this kind.
const CODE: &str = "delivery";

impl Worker {
    pub(super) fn replay(&self, op: &Operation) -> Result<(), JournalError> {
        let Some(remote_op) = &op.remote_op else {
            let message = "the remote never named this operation, so it cannot be asked to deliver it again".to_owned();
            return self.stays_dead(op, &Failure { code: CODE.into(), message, ..Failure::default() });
        };
        let answer = self.remote.replay(remote_op, &op.op);
        failpoint::hit("replay-asked");
        match answer {
            Ok(()) => self.delivered_again(op, true),
            // It is not dead there: delivered meanwhile, or an earlier request of ours was heard and its answer lost.
            Err(e) if e.kind == ErrorKind::Conflict => match self.remote.delivery(remote_op) {
                Ok(d) => match d.state {
                    DeliveryState::Succeeded => self.delivered_again(op, false),
                    DeliveryState::Pending | DeliveryState::Running | DeliveryState::Failed => self.delivered_again(op, true),
                    DeliveryState::DeadLettered | DeliveryState::Canceled => self.stays_dead(op, &refusal(&d)),
                },
                // Whatever it is, it is not refused; who may not look goes on as everybody who may not.
                Err(e) if e.kind == ErrorKind::Forbidden => self.delivered_again(op, true),
                Err(e) => self.not_asked(op, &e),
            },
            Err(e) => self.not_asked(op, &e),
        }
    }

    fn delivered_again(&self, op: &Operation, follow: bool) -> Result<(), JournalError> {
        self.circuit.close();
        log::info!(
            "{}: {} {}",
            op.op,
            op.path,
            if follow { "is to be delivered once more" } else { "had been delivered already" }
        );
        let done = op.clone();
        self.journal.write(move |tx| tx.replayed(&done, follow))
    }

    /// The remote did not take the wish.
    fn not_asked(&self, op: &Operation, e: &RemoteError) -> Result<(), JournalError> {
        let words = match e.kind {
            ErrorKind::NotFound => "the remote no longer knows this operation; save the file once more".to_owned(),
            _ => format!("the remote was asked to deliver it again: {}", e.message),
        };
        let told = Failure { message: words, ..failure(e, CODE) };
        match classify(e.kind) {
            Outcome::Unreachable => {
                self.circuit.open(CircuitState::Unreachable { why: e.message.clone() });
                self.retry(op, false, &told, None)
            }
            Outcome::Unauthorized => {
                self.log_refusal(op, e);
                self.circuit.open(CircuitState::Unauthorized { why: e.message.clone() });
                self.retry(op, false, &told, None)
            }
            Outcome::Transient if op.spent() + 1 < self.max_attempts => {
                self.log_refusal(op, e);
                self.circuit.close();
                self.retry(op, true, &told, e.retry_after)
            }
            Outcome::Transient | Outcome::Conflict | Outcome::Permanent => {
                self.log_refusal(op, e);
                self.stays_dead(op, &told)
            }
        }
    }

    fn stays_dead(&self, op: &Operation, failure: &Failure) -> Result<(), JournalError> {
        self.circuit.close();
        log::error!("{}: {} stays a dead letter: {}", op.op, op.path, failure.message);
        let (dead, failure) = (op.clone(), failure.clone());
        self.journal.write(move |tx| tx.bury_replay(&dead, &failure))
    }
}
