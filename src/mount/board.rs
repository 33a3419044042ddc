//! How the mount stands, collected from whoever knows.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use crate::config::Config;
use crate::events::{FeedState, Follower};
use crate::ids::OpId;
use crate::journal::{OpState, Operation};
use crate::status::{Feed, LastError, OperationView, Status, StatusSource};
use crate::workspace::Workspace;
use crate::writeback::{CircuitState, Writeback};

/// Most operations that are listed.
const LIST_MAX: usize = 10_000;

pub(super) struct Board {
    workspace: Arc<Workspace>,
    started_at: SystemTime,
    embedded: bool,
    workspace_id: String,
    base_url: String,
    remote_root: String,
    local_root: String,
    state_dir: String,
    threads: OnceLock<(Arc<Writeback>, Arc<Follower>)>,
}

impl Board {
    pub fn new(config: &Config, workspace: Arc<Workspace>, embedded: bool) -> Board {
        let identity = config.identity();
        Board {
            workspace,
            started_at: SystemTime::now(),
            embedded,
            workspace_id: identity.workspace,
            base_url: identity.base_url,
            remote_root: identity.remote_root,
            local_root: config.mountpoint.display().to_string(),
            state_dir: config.state_dir.display().to_string(),
            threads: OnceLock::new(),
        }
    }

    pub fn attach(&self, writeback: Arc<Writeback>, follower: Arc<Follower>) {
        let _ = self.threads.set((writeback, follower));
    }

    fn circuit(&self) -> CircuitState {
        self.threads.get().map_or(CircuitState::Closed, |(w, _)| w.circuit())
    }

    fn feed(&self) -> FeedState {
        let starting = FeedState { feed: Feed::Starting, last_event_at: None, last_sync_at: None };
        self.threads.get().map_or(starting, |(_, f)| f.state())
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

    fn why(&self, op: &Operation) -> String {
        match (op.state, self.circuit()) {
            (OpState::InFlight, _) => "being sent".to_owned(),
            (_, CircuitState::Unreachable { why }) => format!("the remote cannot be reached: {why}"),
            (_, CircuitState::Unauthorized { why }) => format!("the remote refuses the token: {why}"),
            (OpState::Waiting, _) => match &op.last_error {
                Some(e) => format!("attempt {} failed: {e}", op.attempts),
                None => "interrupted; it is resolved with the remote before it is repeated".to_owned(),
            },
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
        let offline = matches!(self.circuit(), CircuitState::Unreachable { .. });
        Status {
            workspace_id: self.workspace_id.clone(),
            base_url: self.base_url.clone(),
            remote_root: self.remote_root.clone(),
            local_root: self.local_root.clone(),
            state_dir: self.state_dir.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
            started_at: time(self.started_at),
            embedded_server: self.embedded,
            feed: if offline { Feed::Offline } else { feed.feed },
            last_event_at: feed.last_event_at.map(time),
            last_sync_at: feed.last_sync_at.map(time),
            tree_known: self.workspace.is_known(),
            files_known: self.workspace.files_known(),
            pending: numbers.pending,
            in_flight: numbers.in_flight,
            dead: numbers.dead,
            conflicts: numbers.conflicts,
            pending_bytes: self.workspace.pending_bytes(),
            failed_writebacks: numbers.failed_attempts,
            oldest_pending_at: numbers.oldest_created_at.map(time_ms),
            last_error: journal.last_failed().ok().flatten().map(|op| LastError {
                op_id: op.op.to_string(),
                path: op.path.to_string(),
                status: op.last_status,
                code: op.last_code.unwrap_or_default(),
                message: op.last_error.unwrap_or_default(),
                at: time_ms(op.updated_at),
            }),
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
}

fn time(t: SystemTime) -> String {
    jiff::Timestamp::try_from(t).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

fn time_ms(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}
