//! Letters and counters of older tools.
//!
//! They keep a `.relay/` directory with `state.json` and `dead-letter/`: at the root of a local mirror (where a mountpoint may
//! stand now), or named as the state directory itself. Importing is idempotent: a letter that the journal knows is passed
//! over, the counters are added once, and a file is copied under a temporary name and renamed. What cannot be read, or belongs
//! to another workspace, is reported and left where it is; the note that says "done" is made only when nothing was left.
//!
//! Such records come without their content. It is taken from `<opId>.payload` if that is there, else from the file of the
//! mirror that the record is about, which still holds the edit.

use std::io;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::DIR;
use super::record::Record;
use super::shelf::{replace, scan};
use crate::config::Identity;
use crate::failpoint;
use crate::ids::{ContentHash, OpId, Revision};
use crate::journal::{Durability, Failure, ForeignLetter, Journal, JournalError, Version, now_ms};

/// Longest file of a mirror that is taken for the content of a letter.
const CONTENT_MAX: u64 = 64 << 20;

/// What an import did.
#[derive(Debug, Default)]
pub struct Imported {
    pub letters: u64,
    /// File and reason.
    pub left_alone: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The parts of an older `state.json` that count here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OldState {
    workspace_id: Option<String>,
    remote_root: Option<String>,
    local_root: Option<String>,
    failed_writebacks: u64,
    files: std::collections::BTreeMap<String, OldFile>,
    providers: Vec<OldProvider>,
    /// Only our own says it.
    state_dir: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OldFile {
    revision: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OldProvider {
    provider: String,
    last_error: Value,
}

/// Takes over what `from` holds (the state directory itself, or a mirror's `.relay/`). The caller holds the lease.
pub fn import(from: &Path, state_dir: &Path, journal: &Journal, identity: &Identity) -> Result<Imported, ImportError> {
    let mut report = Imported::default();
    let marker = format!("imported {}", from.display());
    if journal.meta(&marker)?.is_some() || !from.is_dir() {
        return Ok(report);
    }
    let state = match std::fs::read(from.join("state.json")) {
        Ok(bytes) => serde_json::from_slice::<OldState>(&bytes).unwrap_or_else(|e| {
            report.left_alone.push(("state.json".into(), format!("it cannot be understood: {e}")));
            OldState::default()
        }),
        Err(_) => OldState::default(),
    };
    let other = |theirs: &Option<String>, ours: &str| theirs.as_ref().is_some_and(|t| t != ours);
    if other(&state.workspace_id, &identity.workspace) || other(&state.remote_root, &identity.remote_root) {
        report.left_alone.push(("state.json".into(), "it is of another workspace or remote root; nothing was taken over".into()));
        return Ok(report);
    }
    import_counters(&state, &format!("counters of {}", from.display()), journal, identity)?;
    let mirror = state.local_root.as_ref().map(std::path::PathBuf::from).or_else(|| from.parent().map(Path::to_owned));
    for letter in scan(from)? {
        let name = letter.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match letter.found {
            Ok((op, record, _)) => {
                match import_letter(from, state_dir, journal, identity, &state, mirror.as_deref(), &op, &record)? {
                    Ok(new) => report.letters += u64::from(new),
                    Err(why) => report.left_alone.push((name, why)),
                }
            }
            Err(why) => report.left_alone.push((name, why)),
        }
        failpoint::hit("import-file");
    }
    for (name, why) in &report.left_alone {
        log::warn!("{}: {name} is left as it is: {why}", from.display());
    }
    if report.left_alone.is_empty() {
        journal.write(move |tx| tx.put_meta(&marker, &now_ms().to_string()))?;
        failpoint::hit("imported");
    }
    Ok(report)
}

/// Adds the lifetime counter, once, and takes over the last words of each provider.
fn import_counters(state: &OldState, marker: &str, journal: &Journal, identity: &Identity) -> Result<(), ImportError> {
    // Our own projection counts what the journal counts; without a journal it is all that is left.
    if journal.meta(marker)?.is_some() || (state.state_dir.is_some() && journal.queue_numbers()?.failed_attempts > 0) {
        return Ok(());
    }
    let (failed, marker) = (state.failed_writebacks, marker.to_owned());
    let errors: Vec<(String, Failure)> = state
        .providers
        .iter()
        .filter(|p| !p.provider.is_empty() && !p.last_error.is_null())
        .map(|p| {
            let text = |field: &str| p.last_error[field].as_str().map(str::to_owned);
            let status = ["status", "providerStatus", "lastStatus"].iter().find_map(|f| p.last_error[f].as_u64());
            let message = text("message").or_else(|| p.last_error.as_str().map(str::to_owned)).unwrap_or_default();
            let code = text("code").unwrap_or_else(|| "unknown".into());
            (
                p.provider.clone(),
                Failure { status: status.and_then(|s| u16::try_from(s).ok()), code, message, body: String::new() },
            )
        })
        .collect();
    let root: crate::path::RemotePath = identity.remote_root.parse().unwrap_or_else(|_| crate::path::RemotePath::root());
    journal
        .submit(Durability::Process, move |tx| {
            if failed > 0 {
                tx.add_failures(failed)?;
            }
            for (provider, failure) in &errors {
                tx.import_provider_error(provider, &root, failure)?;
            }
            tx.put_meta(&marker, &failed.to_string())
        })
        .wait()?;
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn import_letter(
    from: &Path,
    state_dir: &Path,
    journal: &Journal,
    identity: &Identity,
    state: &OldState,
    mirror: Option<&Path>,
    op: &OpId,
    record: &Record,
) -> Result<Result<bool, String>, ImportError> {
    if journal.operation(op)?.is_some() {
        return Ok(Ok(false));
    }
    if let Some(why) = record.differs_from(identity) {
        return Ok(Err(why));
    }
    if record.kind.as_deref() == Some("delete") {
        return Ok(Err("it tells of a delete, which only the journal that made it can repeat".into()));
    }
    let Some(path) = identity.path_in_mount(&record.path) else {
        return Ok(Err(format!("its path {:?} is not below {} or cannot be a path", record.path, identity.remote_root)));
    };
    let content = std::fs::read(from.join(DIR).join(format!("{op}.payload")))
        .ok()
        .or_else(|| mirror.and_then(|root| content_of(root, path.as_str())));
    let payload = content.as_deref().map(|bytes| (ContentHash::of(bytes), bytes.len() as u64));
    if let (Some((hash, _)), Some(said)) = (payload, &record.payload)
        && ContentHash::from_hex(&said.sha256) != Some(hash)
    {
        return Ok(Err("its payload is not the one that it names (another SHA-256)".into()));
    }
    // The content first: a letter that the journal knows can be retried.
    if let Some(bytes) = &content {
        let payloads = state_dir.join("payloads");
        std::fs::create_dir_all(&payloads)?;
        replace(&payloads, op.as_str(), bytes)?;
    }
    if from != state_dir {
        let shelf = state_dir.join(DIR);
        if !shelf.is_dir() {
            crate::preflight::create_private_dir(&shelf)?;
        }
        for suffix in [".error.json", ".json"] {
            let name = format!("{op}{suffix}");
            let taken = shelf.join(&name).symlink_metadata().is_ok();
            if let (false, Ok(bytes)) = (taken, std::fs::read(from.join(DIR).join(&name))) {
                replace(&shelf, &name, &bytes)?;
            }
        }
    }
    let time = |text: &Option<String>| text.as_ref().and_then(|t| t.parse::<jiff::Timestamp>().ok()).map(|t| t.as_millisecond());
    let died = time(&Some(record.ts.clone())).or(time(&record.last_attempted_at)).unwrap_or_else(now_ms);
    let base = record.base_revision.clone().or_else(|| state.files.get(&record.path).and_then(|f| f.revision.clone()));
    let letter = ForeignLetter {
        op: op.clone(),
        path,
        base: base.filter(|b| !b.is_empty()).map(|b| Version { revision: Revision::new(&b), hash: None }),
        payload,
        attempts: record.attempts.max(1),
        created_at: time(&record.created_at).unwrap_or(died),
        updated_at: died,
        failure: Failure {
            status: record.last_status,
            code: record.code.clone().unwrap_or_else(|| "unknown".into()),
            message: record.message.clone().unwrap_or_else(|| "refused, in the time of an older tool".into()),
            body: record.last_body.clone().unwrap_or_default().chars().take(1024).collect(),
        },
        remote_op: record
            .remote_op
            .clone()
            .filter(|_| record.is_ours() && record.code.as_deref() == Some("delivery"))
            .and_then(crate::remote::usable_op),
    };
    Ok(Ok(journal.write(move |tx| tx.import_letter(&letter))?))
}

/// The file of a local mirror, if it is an ordinary one.
fn content_of(mirror: &Path, path: &str) -> Option<Vec<u8>> {
    let file = mirror.join(path.trim_start_matches('/'));
    // Nothing is followed out of the mirror.
    let inside = file.canonicalize().ok()?.starts_with(mirror.canonicalize().ok()?);
    let meta = file.symlink_metadata().ok()?;
    (inside && meta.is_file() && meta.len() <= CONTENT_MAX).then(|| std::fs::read(&file).ok()).flatten()
}
