//! One way to answer: attempt, and on success give; on a failure refuse; on a need wait elsewhere and attempt again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fuser::{
    Errno, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr,
};

use crate::fs::convert::errno;
use crate::fs::route::View;
use crate::fs::waiting::Waiting;
use crate::workspace::{FsError, FsResult};

/// Most fetches for one request. A path resolves in one or two; more means that two sides undo each other's work.
const ROUNDS: u32 = 8;

/// What every callback works with.
pub(super) struct Core {
    pub(super) view: View,
    pub(super) waiting: Waiting,
}

impl Core {
    /// Calls `attempt` here and now, which must not block on the network, and hands what it found to `give`. When it
    /// needs something of the remote, both are carried away to be repeated when that is there.
    pub(super) fn answer<R: Refuse, T>(
        self: &Arc<Core>,
        op: &'static str,
        reply: R,
        attempt: impl Fn(&View) -> FsResult<T> + Send + 'static,
        give: impl FnOnce(&View, R, T) + Send + 'static,
    ) {
        let outcome = guard(op, || attempt(&self.view));
        self.settle(op, reply, outcome, ROUNDS, attempt, give);
    }

    /// As [`answer`](Core::answer) after its first attempt; `rounds` are left.
    pub(super) fn settle<R: Refuse, T>(
        self: &Arc<Core>,
        op: &'static str,
        reply: R,
        outcome: FsResult<T>,
        rounds: u32,
        attempt: impl Fn(&View) -> FsResult<T> + Send + 'static,
        give: impl FnOnce(&View, R, T) + Send + 'static,
    ) {
        match outcome {
            Ok(found) => {
                // A reply that is dropped by a panic answers EIO by itself.
                let _ = guard(op, || {
                    give(&self.view, reply, found);
                    Ok(())
                });
            }
            Err(FsError::Need(need)) if rounds > 0 => {
                let core = self.clone();
                let again = move |met: Result<(), i32>| {
                    let outcome = match met {
                        Ok(()) => guard(op, || attempt(&core.view)),
                        Err(errno) => Err(FsError::Errno(errno)),
                    };
                    core.settle(op, reply, outcome, rounds - 1, attempt, give);
                };
                self.waiting.wait(need, Box::new(again));
            }
            Err(FsError::Need(need)) => {
                log::error!("{op}: still needs {need:?} after {ROUNDS} fetches");
                reply.refuse(Errno::EIO);
            }
            Err(e) => {
                note(op, &e);
                reply.refuse(errno(&e));
            }
        }
    }

    /// [`answer`](Core::answer) for callbacks that say only whether they succeeded.
    pub(super) fn done(
        self: &Arc<Core>,
        op: &'static str,
        reply: ReplyEmpty,
        attempt: impl Fn(&View) -> FsResult<()> + Send + 'static,
    ) {
        self.answer(op, reply, attempt, |_, reply, ()| reply.ok());
    }
}

/// First of [`Core::settle`]'s rounds, for callbacks that attempt by themselves.
pub(super) const ALL_ROUNDS: u32 = ROUNDS;

fn note(op: &str, e: &FsError) {
    match e {
        FsError::Errno(_) | FsError::Need(_) => log::trace!("{op}: {e}"),
        FsError::Remote(_) => log::info!("{op}: {e}"),
        FsError::Io(_) | FsError::Journal(_) => log::warn!("{op}: {e}"),
    }
}

/// Runs `f`; its panic becomes EIO. A panic that left a session thread would end it, and in time the mount.
pub(in crate::fs) fn guard<T>(op: &str, f: impl FnOnce() -> FsResult<T>) -> FsResult<T> {
    // Our locks do not poison, and no state of this layer is left half-changed by a failed attempt.
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        log::error!("{op}: panicked: {}", said.unwrap_or("(no message)"));
        Err(FsError::Errno(libc::EIO))
    })
}

/// A reply that can carry an errno instead of what it is for.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

/// fuser gives each reply type an `error` of its own and no trait.
macro_rules! refuse_by_error {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse_by_error!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_input_output_error() {
        let outcome: FsResult<()> = guard("test", || panic!("{} went wrong", "something"));
        assert_eq!(outcome.unwrap_err().to_errno(), libc::EIO);
        assert_eq!(guard("test", || Ok(7)).unwrap(), 7);
    }
}
