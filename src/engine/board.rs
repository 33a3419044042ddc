//! How the mount stands, collected from whoever knows.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::changes::Changes;
use crate::config::Identity;
use crate::deadletter::{Letter, rfc3339 as time_ms};
use crate::events::{FeedState, Follower};
use crate::ids::OpId;
use crate::journal::{Discarded, OpState, Operation, ProviderError, Retried};
use crate::path::RemotePath;
use crate::preflight::shell_word;
use crate::status::{Feed, LETTERS_SHOWN, LastError, LetterView, Listener, OperationView, Operator, Status, StatusSource};
use crate::workspace::{FsResult, Workspace};
use crate::writeback::{CircuitState, Writeback};

use super::EngineConfig;

/// Most operations that are listed.
const LIST_MAX: usize = 10_000;

/// See the module.
pub struct Board {
    workspace: Arc<Workspace>,
    started_at: SystemTime,
    embedded: bool,
    identity: Identity,
    local_root: String,
    state_dir: PathBuf,
    threads: OnceLock<(Arc<Writeback>, Arc<Follower>)>,
}

impl Board {
    pub(super) fn new(config: &EngineConfig, workspace: Arc<Workspace>) -> Board {
        Board {
            workspace,
            started_at: SystemTime::now(),
            embedded: config.embedded,
            identity: config.identity.clone(),
            local_root: config.mountpoint.as_ref().map(|m| m.display().to_string()).unwrap_or_default(),
            state_dir: config.state_dir.clone(),
            threads: OnceLock::new(),
        }
    }

    pub(super) fn attach(&self, writeback: Arc<Writeback>, follower: Arc<Follower>) {
        let _ = self.threads.set((writeback, follower));
    }

    fn circuit(&self) -> CircuitState {
        self.threads.get().map_or(CircuitState::Closed, |(w, _)| w.circuit())
    }

    fn feed(&self) -> FeedState {
        self.threads.get().map_or_else(FeedState::starting, |(_, f)| f.state())
    }

    fn view(&self, op: &Operation) -> OperationView {
        OperationView {
            op_id: op.op.to_string(),
            kind: op.kind.as_str().to_owned(),
            path: op.path.to_string(),
            state: op.state.as_str().to_owned(),
            base_revision: op.base.as_ref().map(|b| b.revision.to_string()),
            attempts: op.attempts,
            size: op.payload.map(|(_, size)| size),
            created_at: time_ms(op.created_at),
            updated_at: time_ms(op.updated_at),
            next_attempt_at: matches!(op.state, OpState::Queued | OpState::Waiting).then(|| time_ms(op.not_before)),
            last_status: op.last_status,
            last_code: op.last_code.clone(),
            last_error: op.last_error.clone(),
            why: self.why(op),
        }
    }

    fn error_of(&self, op: &Operation) -> LastError {
        LastError {
            op_id: op.op.to_string(),
            kind: op.kind.as_str(),
            path: op.path.to_string(),
            status: op.last_status,
            code: op.last_code.clone().unwrap_or_default(),
            message: op.last_error.clone().unwrap_or_default(),
            at: time_ms(op.updated_at),
        }
    }

    fn why(&self, op: &Operation) -> String {
        match (op.state, self.circuit()) {
            (OpState::InFlight, _) => "being sent".to_owned(),
            (_, CircuitState::Unreachable { why }) => format!("the remote cannot be reached: {why}"),
            (_, CircuitState::Unauthorized { why }) => format!("the remote refuses the token: {why}"),
            (OpState::Waiting, _) => match &op.last_error {
                Some(e) => format!("attempt {} failed: {e}", op.attempts),
                None => "interrupted; it is resolved with the remote before it is repeated".to_owned(),
            },
            _ if !matches!(self.feed().feed, Feed::Streaming | Feed::Polling | Feed::Listing) => match self.feed().why {
                Some(why) => format!("the remote cannot be followed: {why}"),
                None => "waits until the remote is known to be where it was left".to_owned(),
            },
            _ if op.replay => "the remote is to be asked to deliver it once more".to_owned(),
            _ => "waits until the path has stood still for the settle window, or behind an earlier operation".to_owned(),
        }
    }
}

impl StatusSource for Board {
    fn status(&self) -> Status {
        let journal = self.workspace.journal();
        let mut unreadable = None;
        let numbers = journal.queue_numbers().unwrap_or_else(|e| {
            unreadable = Some(e.to_string());
            Default::default()
        });
        let feed = self.feed();
        let (offline, mut token_refused) = match self.circuit() {
            CircuitState::Unreachable { .. } => (true, None),
            CircuitState::Unauthorized { why } => (false, Some(why)),
            CircuitState::Closed => (false, None),
        };
        if let (None, Feed::Unauthorized) = (&token_refused, feed.feed) {
            token_refused = feed.why.clone().or(Some("unauthorized".into()));
        }
        let shown = match (offline, &token_refused) {
            (true, _) => Feed::Offline,
            (false, Some(_)) => Feed::Unauthorized,
            (false, None) => feed.feed,
        };
        let letters = journal.dead_letters().unwrap_or_default();
        let access = self.workspace.access();
        let remote_root = self.identity.remote_root.parse().unwrap_or_else(|_| RemotePath::root());
        Status {
            workspace_id: self.identity.workspace.clone(),
            base_url: self.identity.base_url.clone(),
            remote_root: self.identity.remote_root.clone(),
            local_root: self.local_root.clone(),
            state_dir: self.state_dir.display().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
            started_at: time(self.started_at),
            embedded_server: self.embedded,
            feed: shown,
            listener: Listener {
                why_not: feed.stream.why_not,
                last_connected_at: feed.stream.last_connected_at.map(time),
                last_attempt_at: feed.stream.last_attempt_at.map(time),
                next_attempt_at: feed.stream.next_attempt_at.map(time),
            },
            last_event_at: feed.last_event_at.map(time),
            last_sync_at: feed.last_sync_at.map(time),
            tree_known: self.workspace.is_known(),
            files_known: self.workspace.files_known(),
            pending: numbers.pending,
            in_flight: numbers.in_flight,
            dead: numbers.dead,
            conflicts: numbers.conflicts,
            delivery: journal.delivery_numbers().unwrap_or_default(),
            pending_bytes: self.workspace.pending_bytes(),
            failed_writebacks: numbers.failed_attempts,
            oldest_pending_at: numbers.oldest_created_at.map(time_ms),
            last_error: journal.last_failed().ok().flatten().map(|op| self.error_of(&op)),
            letters: letters.iter().rev().take(LETTERS_SHOWN).map(|op| self.error_of(op)).collect(),
            provider_errors: journal
                .provider_errors()
                .unwrap_or_default()
                .into_iter()
                .map(|e| (self.identity.provider(&e.path), provider_error(&self.identity, e)))
                .collect(),
            limits: access.limits(&remote_root),
            read_only: access.is_read_only(&remote_root),
            token_refused,
            short_of_room: journal.is_short_of_room(),
            store_failure: journal.failure().or(unreadable),
            hidden_names: self.workspace.hidden_names(),
        }
    }

    fn pending(&self) -> Vec<OperationView> {
        let ops = self.workspace.journal().open_operations(LIST_MAX).unwrap_or_default();
        ops.iter().map(|op| self.view(op)).collect()
    }

    fn pending_one(&self, op_id: &OpId) -> Option<OperationView> {
        let op = self.workspace.journal().operation(op_id).ok().flatten()?;
        matches!(op.state, OpState::Queued | OpState::InFlight | OpState::Waiting).then(|| self.view(&op))
    }

    fn letters(&self) -> FsResult<Vec<OpId>> {
        Ok(self.workspace.journal().dead_letters()?.into_iter().map(|op| op.op).collect())
    }

    fn conflicts(&self) -> Vec<OpId> {
        let letters = self.workspace.journal().dead_letters().unwrap_or_default();
        letters.into_iter().map(|op| op.op).filter(|op| self.workspace.conflict_dir(op).is_some()).collect()
    }

    fn conflict(&self, op_id: &OpId) -> Option<PathBuf> {
        let op = self.workspace.journal().operation(op_id).ok().flatten().filter(|op| op.state == OpState::Dead)?;
        self.workspace.conflict_dir(&op.op)
    }

    fn letter(&self, op_id: &OpId) -> Option<LetterView> {
        let journal = self.workspace.journal();
        let op = journal.operation(op_id).ok().flatten().filter(|op| op.state == OpState::Dead)?;
        let past = journal.attempts(op_id).unwrap_or_default();
        let letter = Letter::new(&op, &past, &self.identity, &shell_word(&self.state_dir));
        let payload = self.workspace.payload_path(op_id);
        Some(LetterView {
            record: letter.record_bytes(),
            sidecar: letter.sidecar_bytes(),
            payload: payload.exists().then_some(payload),
            changed_at: op.updated_at,
        })
    }
}

impl Operator for Board {
    fn retry(&self, op_id: &OpId, force: bool) -> FsResult<Retried> {
        let outcome = self.workspace.retry(op_id, force);
        log::info!("{op_id}: retry{}: {outcome:?}", if force { " with force" } else { "" });
        outcome
    }

    fn discard(&self, op_id: &OpId) -> FsResult<Discarded> {
        let outcome = self.workspace.discard(op_id);
        log::info!("{op_id}: discard: {outcome:?}");
        outcome
    }

    fn changes(&self) -> Arc<Changes> {
        Arc::clone(self.workspace.changes())
    }

    fn flush(&self) -> FsResult<u64> {
        let journal = self.workspace.journal();
        journal.write(|tx| tx.make_all_due())?;
        if let Some((writeback, follower)) = self.threads.get() {
            writeback.wake();
            follower.poke();
        }
        let numbers = journal.queue_numbers()?;
        Ok(numbers.pending + numbers.in_flight)
    }
}

fn provider_error(identity: &Identity, e: ProviderError) -> LastError {
    LastError {
        op_id: e.op,
        kind: "",
        path: identity.full_path(&e.path),
        status: e.status,
        code: e.code,
        message: e.message,
        at: if e.at > 0 { time_ms(e.at) } else { String::new() },
    }
}

fn time(t: SystemTime) -> String {
    jiff::Timestamp::try_from(t).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}
