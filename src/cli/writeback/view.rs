//! How a state stands, read from outside: from the journal where there is one, else from `state.json` and `dead-letter/`.
//! Nothing is changed, nothing is asked of the remote, and no credentials are needed.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::place::Place;
use crate::config::{Identity, IdentityFile};
use crate::deadletter::{self, Letter, PastAttempt, Record, Sidecar, SidecarCode, rfc3339};
use crate::ids::OpId;
use crate::journal::{DeliveryNumbers, JournalError, Look, OpState, Operation};
use crate::path::RemotePath;
use crate::policy::Policy;
use crate::preflight::{Code, Problem, shell_word};
use crate::workspace::{META_FILE, META_OPTIONS};

/// Most operations that are listed.
const LIST_MAX: usize = 10_000;

/// See the module.
pub struct View {
    pub place: Place,
    /// What is known of the identity; the base URL is empty where only an older tool's files are.
    pub identity: Identity,
    /// Something is there at all.
    pub exists: bool,
    pub mountpoint: Option<String>,
    pub pending: u64,
    pub in_flight: u64,
    /// Refusals since the beginning.
    pub failed: u64,
    pub oldest_ms: Option<i64>,
    pub open: Vec<Row>,
    pub letters: Vec<Row>,
    pub errors: BTreeMap<String, ErrorRow>,
    /// What has become of what the remote has accepted.
    pub delivery: DeliveryNumbers,
    /// Files in `dead-letter/` that are no records, or of another state: name and reason.
    pub malformed: Vec<(String, String)>,
    look: Option<Look>,
}

/// One operation, with the fields that the ecosystem's tools know.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub id: String,
    pub workspace_id: String,
    /// The whole path at the remote.
    pub path: String,
    pub revision: Option<String>,
    pub correlation_id: String,
    /// `pending`, `inflight` or `dead`.
    pub state: &'static str,
    pub provider: String,
    pub ts: String,
    pub code: Option<String>,
    pub message: Option<String>,
    pub provider_status: Option<u16>,
    pub provider_response: Value,
    pub attempts: u32,
    pub first_attempt_at: Option<String>,
    pub last_attempt_at: Option<String>,
    /// The class of the refusal, as in the sidecar.
    pub error: Option<SidecarCode>,
    pub kind: String,
    pub created_at: Option<String>,
    pub base_revision: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
}

/// A file that stays on this machine, and why.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalRow {
    /// Where it would be at the remote.
    pub path: String,
    pub state: &'static str,
    /// `None`: no rule holds it back any more, and its next save is uploaded.
    pub rule: Option<String>,
    /// `built-in`, `--local-only` or `.relayignore`.
    pub source: Option<&'static str>,
    /// Bytes.
    pub size: u64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorRow {
    pub op_id: String,
    pub path: String,
    pub status: Option<u16>,
    pub code: String,
    pub message: String,
    pub ts: String,
}

/// The parts of `state.json` that count where there is no journal.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StateFile {
    workspace_id: Option<String>,
    remote_root: Option<String>,
    local_root: Option<String>,
    pending_writeback: u64,
    failed_writebacks: u64,
    providers: Vec<StateProvider>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StateProvider {
    provider: String,
    last_error: Value,
}

impl View {
    pub fn read(place: Place) -> Result<View, Problem> {
        let dir = &place.state_dir;
        let unusable = |what: String| Problem::new(Code::StateDirUnusable, what, format!("ls -la {}", shell_word(dir)));
        if dir.symlink_metadata().is_ok() && !dir.is_dir() {
            return Err(unusable(format!("{} is not a directory", dir.display())));
        }
        let file = IdentityFile::read(dir).map_err(|e| unusable(format!("cannot read {}/identity.json: {e}", dir.display())))?;
        let look = Look::at(dir, place.holder.is_some()).map_err(journal_problem)?;
        let state = match std::fs::read(dir.join("state.json")) {
            Ok(bytes) => match serde_json::from_slice::<StateFile>(&bytes) {
                Ok(state) => Some(state),
                // Where there is a journal nobody needs it.
                Err(_) if look.is_some() => None,
                Err(e) => return Err(unusable(format!("cannot understand {}/state.json: {e}", dir.display()))),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(unusable(format!("cannot read {}/state.json: {e}", dir.display()))),
        };
        let scanned = deadletter::scan(dir).map_err(|e| unusable(format!("cannot read {}/dead-letter: {e}", dir.display())))?;
        let exists = look.is_some() || state.is_some() || file.is_some() || !scanned.is_empty();
        let state = state.unwrap_or_default();
        let mountpoint = file.as_ref().and_then(|f| f.mountpoint.clone()).or(state.local_root.clone());
        let identity = file.map(|f| f.identity()).unwrap_or_else(|| Identity {
            workspace: state.workspace_id.clone().unwrap_or_default(),
            base_url: String::new(),
            remote_root: state.remote_root.clone().filter(|r| r.starts_with('/')).unwrap_or_else(|| "/".into()),
        });
        let mut identity = identity;
        if identity.base_url.is_empty() {
            identity.base_url = base_url_of(&scanned);
        }
        let mut view = View {
            place,
            identity,
            exists,
            mountpoint,
            pending: state.pending_writeback,
            in_flight: 0,
            failed: state.failed_writebacks,
            oldest_ms: None,
            open: Vec::new(),
            letters: Vec::new(),
            errors: BTreeMap::new(),
            delivery: DeliveryNumbers::default(),
            malformed: Vec::new(),
            look: None,
        };
        match look {
            Some(look) => view.add_journal(look).map_err(journal_problem)?,
            None => view.errors = state.providers.iter().filter_map(|p| error_row(&p.provider, &p.last_error)).collect(),
        }
        view.add_files(scanned).map_err(journal_problem)?;
        Ok(view)
    }

    fn add_journal(&mut self, look: Look) -> Result<(), JournalError> {
        let numbers = look.numbers()?;
        (self.pending, self.in_flight, self.failed) = (numbers.pending, numbers.in_flight, numbers.failed_attempts);
        if self.place.holder.is_none() {
            // Nobody is sending: what was under way when the process died waits to be resolved with the remote.
            self.pending += std::mem::take(&mut self.in_flight);
        }
        self.oldest_ms = numbers.oldest_created_at;
        for op in look.open_operations(LIST_MAX)? {
            self.open.push(self.row(&look, &op)?);
        }
        for op in look.dead_letters()? {
            self.letters.push(self.row(&look, &op)?);
        }
        for e in look.provider_errors()? {
            let provider = self.identity.provider(&e.path);
            let row = ErrorRow {
                op_id: e.op,
                path: self.identity.full_path(&e.path),
                status: e.status,
                code: e.code,
                message: e.message,
                ts: if e.at > 0 { rfc3339(e.at) } else { String::new() },
            };
            self.errors.insert(provider, row);
        }
        self.delivery = look.delivery_numbers()?;
        self.look = Some(look);
        Ok(())
    }

    /// Records that no journal knows: an older tool's, or a journal was lost.
    fn add_files(&mut self, scanned: Vec<deadletter::OnShelf>) -> Result<(), JournalError> {
        for on_shelf in scanned {
            let name = on_shelf.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match on_shelf.found {
                Err(why) => self.malformed.push((name, why)),
                Ok((op, record, sidecar)) => {
                    if let Some(look) = &self.look
                        && look.operation(&op)?.is_some()
                    {
                        continue;
                    }
                    let outside = || {
                        let inside = self.identity.path_in_mount(&record.path).is_some();
                        (!inside).then(|| format!("its path {:?} is not one below {}", record.path, self.identity.remote_root))
                    };
                    match record.differs_from(&self.identity).or_else(outside) {
                        Some(why) => self.malformed.push((name, why)),
                        None => self.letters.push(self.row_of_record(&op, &record, sidecar)),
                    }
                }
            }
        }
        Ok(())
    }

    fn row(&self, look: &Look, op: &Operation) -> Result<Row, JournalError> {
        let past = look.attempts(&op.op)?;
        let letter = Letter::new(op, &past, &self.identity, &self.place.word());
        let tried = op.attempts > 0 || !past.is_empty();
        Ok(Row {
            id: op.op.to_string(),
            workspace_id: self.identity.workspace.clone(),
            path: self.identity.full_path(&op.path),
            revision: op.result_revision.as_ref().or(op.base.as_ref().map(|b| &b.revision)).map(ToString::to_string),
            correlation_id: op.op.to_string(),
            state: match op.state {
                OpState::Queued | OpState::Waiting => "pending",
                OpState::InFlight if self.place.holder.is_none() => "pending",
                OpState::InFlight => "inflight",
                other => other.as_str(),
            },
            provider: self.identity.provider(&op.path),
            ts: rfc3339(op.updated_at),
            code: op.last_code.clone(),
            message: op.last_error.clone(),
            provider_status: op.last_status,
            provider_response: letter.sidecar.provider_response,
            attempts: op.attempts,
            first_attempt_at: tried.then_some(letter.sidecar.first_attempt_at),
            last_attempt_at: tried.then(|| past.last().map_or(letter.sidecar.last_attempt_at, |a| rfc3339(a.at))),
            error: op.last_code.is_some().then_some(letter.sidecar.code),
            kind: op.kind.as_str().to_owned(),
            created_at: Some(rfc3339(op.created_at)),
            base_revision: op.base.as_ref().map(|b| b.revision.to_string()),
            size: op.payload.map(|(_, size)| size),
        })
    }

    fn row_of_record(&self, op: &OpId, record: &Record, sidecar: Option<Sidecar>) -> Row {
        let code = record
            .code
            .clone()
            .or_else(|| sidecar.as_ref().and_then(|s| serde_json::to_value(s.code).ok()?.as_str().map(str::to_owned)));
        let provider = record.path.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
        Row {
            id: op.to_string(),
            workspace_id: record.workspace_id.clone().unwrap_or_else(|| self.identity.workspace.clone()),
            path: record.path.clone(),
            revision: record.base_revision.clone(),
            correlation_id: op.to_string(),
            state: "dead",
            provider,
            ts: record.ts.clone(),
            message: record.message.clone().or(sidecar.as_ref().map(|s| s.message.clone())),
            provider_status: record.last_status,
            provider_response: sidecar.as_ref().map_or_else(|| serde_json::json!({}), |s| s.provider_response.clone()),
            attempts: record.attempts,
            first_attempt_at: sidecar.as_ref().map(|s| s.first_attempt_at.clone()),
            last_attempt_at: record.last_attempted_at.clone().or(sidecar.as_ref().map(|s| s.last_attempt_at.clone())),
            error: sidecar
                .as_ref()
                .map(|s| s.code)
                .or_else(|| Some(SidecarCode::of(record.last_status, code.as_deref().unwrap_or_default()))),
            code,
            kind: record.kind.clone().unwrap_or_else(|| "put".into()),
            created_at: record.created_at.clone(),
            base_revision: record.base_revision.clone(),
            size: record.payload.as_ref().map(|p| p.size),
        }
    }

    /// One operation in any state, with its attempts.
    pub fn find(&self, op: &OpId) -> Result<Option<(Row, Vec<PastAttempt>)>, Problem> {
        if let Some(look) = &self.look
            && let Some(found) = look.operation(op).map_err(journal_problem)?
        {
            let past = look.attempts(op).map_err(journal_problem)?.iter().map(PastAttempt::new).collect();
            return Ok(Some((self.row(look, &found).map_err(journal_problem)?, past)));
        }
        Ok(self.letters.iter().find(|l| l.id == op.as_str()).map(|l| (l.clone(), Vec::new())))
    }

    /// The files that a rule, or their name, keeps on this machine. None where there is no journal.
    pub fn held_back(&self) -> Result<Vec<LocalRow>, Problem> {
        let Some(look) = &self.look else { return Ok(Vec::new()) };
        let options = look.meta(META_OPTIONS).map_err(journal_problem)?;
        let options: Vec<String> = options.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
        let file = look.meta(META_FILE).map_err(journal_problem)?.unwrap_or_default();
        // Options that a newer version wrote and this one does not understand hold nothing back here.
        let policy = Policy::new(&options, &file).or_else(|_| Policy::new(&[], &file)).unwrap_or_default();
        let files = look.files_only_here().map_err(journal_problem)?;
        let underway: HashSet<&str> = self.open.iter().chain(&self.letters).map(|op| op.path.as_str()).collect();
        let rows = files.into_iter().filter_map(|(path, size)| {
            let row = |path: String, rule, source| LocalRow { path, state: "local", rule, source, size };
            let Some(inside) = path.to_str().and_then(|p| p.parse::<RemotePath>().ok()) else {
                let rule = "a name that is not UTF-8".to_owned();
                return Some(row(path.to_string_lossy().into_owned(), Some(rule), Some("built-in")));
            };
            let (held, full) = (policy.why(inside.as_str()), self.identity.full_path(&inside));
            let source = held.as_ref().map(|h| h.source.as_str());
            (!underway.contains(full.as_str())).then(|| row(full, held.map(|h| h.rule), source))
        });
        Ok(rows.collect())
    }

    pub fn payload(&self, op: &str) -> Option<std::path::PathBuf> {
        let dir = &self.place.state_dir;
        [dir.join("dead-letter").join(format!("{op}.payload")), dir.join("payloads").join(op)].into_iter().find(|p| p.exists())
    }
}

/// Where a directory without an identity belongs to, if all of its records that say so agree.
fn base_url_of(scanned: &[deadletter::OnShelf]) -> String {
    let mut said: Vec<&str> =
        scanned.iter().filter_map(|s| s.found.as_ref().ok()).filter_map(|(_, record, _)| record.base_url.as_deref()).collect();
    said.sort_unstable();
    said.dedup();
    match said[..] {
        [one] => one.trim_end_matches('/').to_owned(),
        _ => String::new(),
    }
}

fn error_row(provider: &str, error: &Value) -> Option<(String, ErrorRow)> {
    if provider.is_empty() || error.is_null() {
        return None;
    }
    let text = |names: &[&str]| names.iter().find_map(|n| error[*n].as_str()).unwrap_or_default().to_owned();
    let row = ErrorRow {
        op_id: text(&["opId"]),
        path: text(&["path"]),
        status: ["status", "providerStatus", "lastStatus"]
            .iter()
            .find_map(|n| error[*n].as_u64())
            .and_then(|s| s.try_into().ok()),
        code: text(&["code"]),
        message: error.as_str().map_or_else(|| text(&["message"]), str::to_owned),
        ts: text(&["ts", "at", "lastAttemptAt"]),
    };
    Some((provider.to_owned(), row))
}

fn journal_problem(e: JournalError) -> Problem {
    let remedy = match &e {
        JournalError::Newer { .. } => "use the newer relayfile that wrote it",
        _ => "see docs/TROUBLESHOOTING.md; nothing in the state directory was changed",
    };
    Problem::new(Code::StateDirUnusable, e.to_string(), remedy)
}
