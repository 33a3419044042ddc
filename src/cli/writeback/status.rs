//! `status`, `list` and `show`: reading only.

use serde::Serialize;
use serde_json::{Value, json};

use super::args;
use super::view::{Row, View};
use super::{Exit, op_id, plain, table, view};
use crate::cli::{out, say};
use crate::journal::{DeliveryNumbers, now_ms};
use crate::preflight::{Code, Problem};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusJson<'a> {
    workspace_id: &'a str,
    pending: u64,
    in_flight: u64,
    failed: u64,
    dead_lettered: Vec<Value>,
    last_error_by_provider: &'a std::collections::BTreeMap<String, super::view::ErrorRow>,
    oldest_pending_at: Option<String>,
    delivery: &'a DeliveryNumbers,
    malformed: Vec<Value>,
    state_dir: String,
    mountpoint: Option<&'a str>,
    /// The process that drives the state now.
    pid: Option<u32>,
    live: bool,
}

/// Providers whose last refusal is shown, the most recent first; `--json` has all.
const ERRORS_SHOWN: usize = 5;

pub fn status(o: &args::Status) -> Result<Exit, Problem> {
    let view = view(&o.place)?;
    if o.json {
        let dead = |l: &Row| json!({"opId": l.id, "path": l.path, "lastStatus": l.provider_status, "ts": l.ts, "code": l.code, "message": l.message});
        let json = StatusJson {
            workspace_id: &view.identity.workspace,
            pending: view.pending,
            in_flight: view.in_flight,
            failed: view.failed,
            dead_lettered: view.letters.iter().map(dead).collect(),
            last_error_by_provider: &view.errors,
            oldest_pending_at: view.oldest_ms.map(crate::deadletter::rfc3339),
            delivery: &view.delivery,
            malformed: view.malformed.iter().map(|(file, why)| json!({"file": file, "why": why})).collect(),
            state_dir: view.place.state_dir.display().to_string(),
            mountpoint: view.mountpoint.as_deref(),
            pid: view.place.holder.flatten(),
            live: view.place.holder.is_some(),
        };
        print_json(&json);
    } else {
        status_text(&view);
    }
    Ok(health(&view))
}

/// Dead letters make an exit code, and so do records that nobody can read: they may be some.
pub(super) fn health(view: &View) -> Exit {
    if view.letters.is_empty() && view.malformed.is_empty() { Exit::Healthy } else { Exit::DeadLetters }
}

fn status_text(view: &View) {
    let name = if view.identity.workspace.is_empty() { "unknown" } else { &view.identity.workspace };
    out(format_args!("workspace: {}", plain(name)));
    out(format_args!("pending: {}", view.pending));
    out(format_args!("failed: {}", view.failed));
    out(format_args!("dead-lettered: {}", view.letters.len()));
    out(format_args!("in flight: {}", view.in_flight));
    let d = &view.delivery;
    if d.unresolved + d.refused + d.lost > 0 || d.unknown.is_some() {
        let unknown = d.unknown.as_deref().map(|why| format!(" ({})", plain(why))).unwrap_or_default();
        let (unresolved, refused, lost) = (d.unresolved, d.refused, d.lost);
        out(format_args!("delivery: {unresolved} on the way to the provider, {refused} refused, {lost} unknown{unknown}"));
    }
    if let Some(at) = view.oldest_ms {
        out(format_args!("oldest: waits for {}", age(at)));
    }
    out(format_args!("state: {}{}", view.place.state_dir.display(), whereabouts(view)));
    if view.failed == 0 && view.letters.is_empty() && view.malformed.is_empty() {
        out(format_args!("no failures"));
    }
    if !view.letters.is_empty() {
        out(format_args!(""));
        letters_table(&view.letters);
    }
    if let Some(words) = super::send::summary(view) {
        out(format_args!("mount: {}", plain(&words)));
    }
    let mut errors: Vec<_> = view.errors.iter().collect();
    errors.sort_by(|a, b| b.1.ts.cmp(&a.1.ts));
    for (provider, e) in errors.into_iter().take(ERRORS_SHOWN) {
        let status = e.status.map(|s| format!("{s} ")).unwrap_or_default();
        out(format_args!(
            "last error of {}: {status}{}: {} ({}, {})",
            plain(provider),
            plain(&e.code),
            plain(&e.message),
            plain(&e.path),
            e.ts
        ));
    }
    report_malformed(view);
    if let Some(letter) = view.letters.last() {
        out(format_args!("next: relayfile writeback show {} {}", letter.id, view.place.word()));
    }
}

fn whereabouts(view: &View) -> String {
    match (&view.place.holder, &view.mountpoint) {
        _ if !view.exists => " (nothing there)".into(),
        (Some(pid), mountpoint) => {
            let pid = pid.map(|p| format!("process {p}")).unwrap_or_else(|| "another process".into());
            let at = mountpoint.as_deref().map(|m| format!(", mounted at {m}")).unwrap_or_default();
            format!(" (driven by {pid}{at})")
        }
        (None, Some(mountpoint)) => format!(" (not mounted; last at {mountpoint})"),
        (None, None) => " (not mounted)".into(),
    }
}

pub(super) fn report_malformed(view: &View) {
    for (file, why) in &view.malformed {
        say(format_args!("relayfile: dead-letter/{}: {}; left as it is", plain(file), plain(why)));
    }
    if !view.malformed.is_empty() {
        say(format_args!("  try: look at them in {}/dead-letter; repair or remove them by hand", view.place.word()));
    }
}

fn letters_table(letters: &[Row]) {
    let rows: Vec<Vec<String>> = letters
        .iter()
        .map(|l| {
            let status = l.provider_status.map_or_else(|| "-".into(), |s| s.to_string());
            let words = l.message.as_deref().or(l.code.as_deref()).unwrap_or_default();
            vec![l.id.clone(), plain(&l.path), status, plain(l.code.as_deref().unwrap_or("-")), l.ts.clone(), plain(words)]
        })
        .collect();
    table::print(&["OPERATION", "PATH", "STATUS", "CODE", "SINCE", "MESSAGE"], &rows);
}

pub fn list(o: &args::List) -> Result<Exit, Problem> {
    let view = view(&o.place)?;
    if o.state == Some(args::State::Local) {
        return local_files(&view, o.json);
    }
    let wanted = |r: &&Row| match o.state {
        Some(args::State::Local) => false,
        None => true,
        Some(args::State::Pending) => r.state == "pending",
        Some(args::State::Inflight) => r.state == "inflight",
        Some(args::State::Dead) => r.state == "dead",
        Some(args::State::Conflict) => r.state == "dead" && r.code.as_deref() == Some("conflict"),
    };
    let rows: Vec<&Row> = view.open.iter().chain(&view.letters).filter(wanted).collect();
    if o.json {
        print_json(&rows);
    } else if rows.is_empty() {
        out(format_args!("nothing"));
    } else {
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|r| {
                let words = r.message.as_deref().or(r.code.as_deref()).unwrap_or("-");
                vec![
                    r.id.clone(),
                    r.state.into(),
                    r.kind.clone(),
                    plain(&r.path),
                    r.attempts.to_string(),
                    r.ts.clone(),
                    plain(words),
                ]
            })
            .collect();
        table::print(&["OPERATION", "STATE", "KIND", "PATH", "ATTEMPTS", "SINCE", "LAST ERROR"], &cells);
    }
    report_malformed(&view);
    Ok(Exit::Healthy)
}

/// The files that no upload will take along.
fn local_files(view: &View, as_json: bool) -> Result<Exit, Problem> {
    let files = view.held_back()?;
    if as_json {
        print_json(&files);
    } else if files.is_empty() {
        out(format_args!("nothing"));
    } else {
        let cells: Vec<Vec<String>> = files
            .iter()
            .map(|f| {
                let (rule, source) = (f.rule.as_deref().unwrap_or("none any more"), f.source.unwrap_or("-"));
                vec![f.size.to_string(), source.into(), plain(rule), plain(&f.path)]
            })
            .collect();
        table::print(&["BYTES", "SOURCE", "RULE", "PATH"], &cells);
    }
    Ok(Exit::Healthy)
}

pub fn show(o: &args::Show) -> Result<Exit, Problem> {
    let id = op_id(&o.op)?;
    let view = view(&o.place)?;
    let Some((row, past)) = view.find(&id)? else { return Err(unknown(&view, &id)) };
    let next = next_command(&view, &row);
    let payload = view.payload(&row.id);
    if o.json {
        let mut json = serde_json::to_value(&row).expect("strings and numbers become JSON");
        json["history"] = json!(past);
        json["payload"] = json!(payload);
        json["next"] = json!(next);
        print_json(&json);
        return Ok(Exit::Healthy);
    }
    let line = |label: &str, text: String| out(format_args!("{label:<12} {text}"));
    line("operation:", format!("{} ({} of {})", row.id, row.kind, plain(&row.path)));
    line("workspace:", plain(&row.workspace_id));
    line("state:", row.state.to_owned());
    if let Some(at) = &row.created_at {
        line("saved:", at.clone());
    }
    line("since:", row.ts.clone());
    line("base:", row.base_revision.clone().unwrap_or_else(|| "none: it creates the file".into()));
    if let Some(size) = row.size {
        line("size:", format!("{size} bytes"));
    }
    line("attempts:", row.attempts.to_string());
    for a in &past {
        let status = a.status.map_or_else(|| "no status".to_owned(), |s| s.to_string());
        line("", format!("{}  {status} {}: {}", a.at, plain(&a.code), plain(&a.message)));
    }
    if let Some(message) = &row.message {
        line("last error:", format!("{}: {}", plain(row.code.as_deref().unwrap_or_default()), plain(message)));
    }
    if row.provider_response.as_object().is_some_and(|o| !o.is_empty()) {
        line("the remote:", plain(&row.provider_response.to_string()));
    }
    if let Some(payload) = payload {
        line("content:", payload.display().to_string());
    }
    for (i, command) in next.iter().enumerate() {
        line(if i == 0 { "next:" } else { "or:" }, command.clone());
    }
    Ok(Exit::Healthy)
}

/// What to type next for an operation.
fn next_command(view: &View, row: &Row) -> Vec<String> {
    let place = view.place.word();
    match row.state {
        "dead" => {
            let force = if row.code.as_deref() == Some("conflict") { " --force" } else { "" };
            vec![
                format!("relayfile writeback retry --opId {}{force} {place}", row.id),
                format!("relayfile writeback discard {} {place}", row.id),
            ]
        }
        "pending" | "inflight" if view.place.holder.is_some() => vec![format!("relayfile writeback flush {place}")],
        "pending" | "inflight" => vec![format!("relayfile writeback drain {place}")],
        _ => Vec::new(),
    }
}

pub(super) fn unknown(view: &View, id: &crate::ids::OpId) -> Problem {
    let file = format!("{id}.json");
    let why = view.malformed.iter().find(|(name, _)| *name == file).map(|(_, why)| format!(": {why}"));
    Problem::new(
        Code::Usage,
        match why {
            Some(why) => {
                format!("the record dead-letter/{file} of {} cannot be used{}", view.place.state_dir.display(), plain(&why))
            }
            None => format!("no operation {id} in {}", view.place.state_dir.display()),
        },
        format!("relayfile writeback list {}", view.place.word()),
    )
}

pub(super) fn print_json(value: &impl Serialize) {
    out(format_args!("{}", serde_json::to_string_pretty(value).expect("strings and numbers become JSON")));
}

fn age(since_ms: i64) -> String {
    let seconds = (now_ms() - since_ms).max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}
