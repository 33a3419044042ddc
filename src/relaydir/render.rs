//! Status as text and as JSON: pure functions, also used for the `state.json` of the state directory.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Serialize;

use crate::journal::DeliveryNumbers;
use crate::status::{Feed, LastError, OperationView, Status};

/// `.relay/README`: one screen for whoever finds it first.
pub(super) const README: &str = "\
This directory is not part of your workspace. It is how the mount speaks of itself: it exists only
here, and nothing in it is ever uploaded.

  status                  how things stand, and what to do next. Start here:  cat .relay/status
  state.json  metrics     the same for programs, and for Prometheus
  log                     the last lines of the mount's log
  pending/<opId>.json     one file for each save that has not reached the remote yet, and why not
  dead-letter/<opId>.json one for each save that the remote has refused, with its words;
                          .error.json says the same by a schema, .payload holds your bytes
  conflicts/<opId>/       base, local and remote of a save that met another version
  retry/                  mv .relay/dead-letter/<opId>.json .relay/retry/   sends that save again
                          rm .relay/dead-letter/<opId>.json                 lets it go: the file returns
                          to the remote's version, and disappears if there is none

What happens when you save a file here: the save is on this disk, safe against a crash, before
close() returns. It is uploaded in the background. While the remote cannot be reached it waits and
is tried again; you lose nothing, and it survives a restart. When the remote refuses it for good it
becomes a dead letter: your bytes are kept, and the file still shows your version. Save the file once
more, corrected, or retry the letter. When somebody else has changed the file meanwhile, the remote
merges the two if they are text and touch different lines. Else it is a conflict: the file shows the
other version, yours is in the letter's .payload and all sides are in conflicts/: bring them together
and save, or put yours on top with --force. What the remote has deleted still shows your version.
When the provider behind the remote refuses what the remote has accepted, that is a letter too;
retrying it asks for another delivery and writes nothing.

  getfattr -n user.relayfile.state FILE    synced, queued, in_flight, waiting, dead, conflict, local
  relayfile writeback status|list|show|retry|discard|flush    the same from outside, with exit codes
  relayfile mounts                         every mount of this machine, with what waits in each
  relayfile unmount DIR                    uploads what waits, unmounts, says what is left
  relayfile doctor                         when the mount itself seems wrong
";

/// What one word says of the whole mount. The first that applies, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// The journal takes no more writes.
    Error,
    /// The disk of the state directory is full.
    Full,
    /// The remote does not answer.
    Offline,
    /// The remote refuses the token.
    Unauthorized,
    /// The tree is still being learned.
    Starting,
    /// A person has to decide something.
    Attention,
    /// Saves are on their way.
    Syncing,
    Ready,
}

impl Condition {
    fn of(s: &Status) -> Condition {
        if s.store_failure.is_some() {
            Condition::Error
        } else if s.short_of_room {
            Condition::Full
        } else if s.feed == Feed::Offline {
            Condition::Offline
        } else if s.token_refused.is_some() {
            Condition::Unauthorized
        } else if s.feed == Feed::Starting || !s.tree_known {
            Condition::Starting
        } else if s.dead > 0 {
            Condition::Attention
        } else if unsent(s) > 0 {
            Condition::Syncing
        } else {
            Condition::Ready
        }
    }

    fn word(self) -> &'static str {
        match self {
            Condition::Error => "error",
            Condition::Full => "full",
            Condition::Offline => "offline",
            Condition::Unauthorized => "unauthorized",
            Condition::Starting => "starting",
            Condition::Attention => "attention",
            Condition::Syncing => "syncing",
            Condition::Ready => "ready",
        }
    }

    fn sentence(self, s: &Status) -> String {
        match self {
            Condition::Error => "the journal cannot be written; saves fail, what was saved before is safe".into(),
            Condition::Full => {
                "the disk of the state directory is full; what needs room fails with ENOSPC, removing works".into()
            }
            Condition::Offline => "the remote does not answer; saves are kept on this disk and go out when it is back".into(),
            Condition::Unauthorized => {
                let words = s.token_refused.as_deref().map(plain).unwrap_or_default();
                format!("the remote refuses the token ({words}); saves are kept on this disk and go out with a new one")
            }
            Condition::Starting if s.feed == Feed::Starting => "not connected to the remote yet".into(),
            Condition::Starting => "learning the tree".into(),
            Condition::Attention if s.delivery.refused >= s.dead => {
                format!("the provider refused {} that the remote has", count(s.dead, "save"))
            }
            Condition::Attention if s.delivery.refused > 0 => {
                format!("the remote or its provider refused {}; nothing is lost", count(s.dead, "save"))
            }
            Condition::Attention => format!("the remote refused {}; the bytes are kept", count(s.dead, "save")),
            Condition::Syncing => format!("{} on the way to the remote", count(unsent(s), "save")),
            Condition::Ready => "everything saved here is at the remote".into(),
        }
    }
}

/// Operations that have not reached the remote and are not given up.
fn unsent(s: &Status) -> u64 {
    s.pending.saturating_add(s.in_flight)
}

/// `.relay/status`: text for people. The first line holds the state, the last ones what to type next.
pub fn render_status(s: &Status) -> String {
    let condition = Condition::of(s);
    let mut out = String::new();
    let mut line = |label: &str, text: &str| writeln!(out, "{label:<13} {text}").expect("a String takes every write");

    line("state:", &format!("{}: {}", condition.word(), condition.sentence(s)));
    line("workspace:", &format!("{}, {} of {}", plain(&s.workspace_id), plain(&s.remote_root), plain(&s.base_url)));
    if s.embedded_server {
        line("", "(the embedded server: nothing leaves this machine)");
    }
    line("mounted at:", &format!("{} since {} (pid {}, version {})", plain(&s.local_root), s.started_at, s.pid, s.version));
    line("state dir:", &plain(&s.state_dir));
    let tree = if s.tree_known { count(s.files_known, "file") } else { format!("{} so far", count(s.files_known, "file")) };
    line("tree:", &tree);
    if let Some(limits) = &s.limits {
        line("access:", &plain(limits));
    }
    line("changes:", &feed_line(s));
    line(
        "queue:",
        &format!("{} waiting, {} in flight, {} not yet at the remote", s.pending, s.in_flight, bytes(s.pending_bytes)),
    );
    if let Some(oldest) = &s.oldest_pending_at {
        line("", &format!("the oldest waits since {oldest}"));
    }
    // Behind the embedded server stands no provider, unless somebody makes one; then it has refused or taken something.
    if !s.embedded_server || s.delivery.refused > 0 {
        line("delivery:", &delivery_line(&s.delivery));
    }
    line("dead letters:", &s.dead.to_string());
    for letter in &s.letters {
        line("", &format!("{} {} {}: {}", plain(&letter.op_id), letter.kind, plain(&letter.path), last_error_line(letter)));
    }
    if s.dead > s.letters.len() as u64 {
        line("", &format!("and {} more: ls .relay/dead-letter", s.dead - s.letters.len() as u64));
    }
    line("failures:", &format!("{} since the beginning", count(s.failed_writebacks, "failed attempt")));
    if s.hidden_names > 0 {
        line("hidden:", &format!("{} of the remote that cannot be a file name here", count(s.hidden_names, "name")));
    }
    if let Some(e) = &s.last_error {
        line("last error:", &last_error_line(e));
        line("", &format!("{} ({}, {})", plain(&e.path), plain(&e.op_id), e.at));
    }
    if let Some(failure) = &s.store_failure {
        line("journal:", &plain(failure));
    }
    for (i, step) in next_steps(condition, s).iter().enumerate() {
        line(if i == 0 { "what to do:" } else { "" }, step);
    }
    out
}

/// What is known of the way from the remote to its provider.
fn delivery_line(d: &DeliveryNumbers) -> String {
    let mut out = match &d.unknown {
        Some(why) => format!("unknown ({}); {} not followed", plain(why), count(d.unresolved, "save")),
        None => format!("{} on the way from the remote to its provider", count(d.unresolved, "save")),
    };
    if d.refused > 0 {
        let _ = write!(out, ", {} refused by it", d.refused);
    }
    if d.lost > 0 {
        let _ = write!(out, ", {} given up without an answer since the beginning", d.lost);
    }
    out
}

fn feed_line(s: &Status) -> String {
    let how = match s.feed {
        Feed::Starting => "not followed yet",
        Feed::Streaming => "followed as they happen",
        Feed::Polling => "followed by polling",
        Feed::Listing => "the tree is listed every half minute, the token may not follow changes",
        Feed::Offline => "not followed, the last request got no answer",
        Feed::Unauthorized => "not followed, the remote refuses the token",
    };
    let event = s.last_event_at.as_deref().map_or("no event yet".into(), |at| format!("last event {at}"));
    let sync = s.last_sync_at.as_deref().map_or("never in step yet".into(), |at| format!("in step at {at}"));
    let stream = match (&s.listener.why_not, s.feed) {
        (Some(why), Feed::Polling | Feed::Listing) => format!(" (no event stream: {})", plain(why)),
        _ => String::new(),
    };
    format!("{how}{stream}; {event}; {sync}")
}

fn last_error_line(e: &LastError) -> String {
    let status = e.status.map(|s| format!("{s} ")).unwrap_or_default();
    format!("{status}{}: {}", plain(&e.code), plain(&e.message))
}

fn next_steps(condition: Condition, s: &Status) -> Vec<String> {
    let mut steps: Vec<String> = match condition {
        Condition::Error => {
            vec!["look at the disk of the state directory, then unmount and mount again:".into(), "relayfile doctor".into()]
        }
        Condition::Full => {
            let dir = crate::preflight::shell_word(std::path::Path::new(&s.state_dir));
            vec!["make room on this disk, here or elsewhere; it goes on by itself:".into(), format!("  df -h {dir}")]
        }
        Condition::Offline => vec!["nothing, if the network is known to be down; else:  relayfile doctor".into()],
        Condition::Unauthorized => vec![
            "write a new token to the token file; it is read again by itself (a token from the environment needs a remount)"
                .into(),
        ],
        Condition::Starting | Condition::Syncing => vec!["nothing, only wait; .relay/pending/ shows for what".into()],
        Condition::Attention => Vec::new(),
        Condition::Ready => vec!["nothing".into()],
    };
    let is_conflict = |e: &&LastError| e.code == "conflict";
    let is_delivery = |e: &&LastError| e.code == "delivery";
    let is_delete = |e: &&LastError| e.kind == "delete" && !is_delivery(e);
    let at =
        crate::preflight::shell_word(std::path::Path::new(if s.local_root.is_empty() { &s.state_dir } else { &s.local_root }));
    if let Some(letter) = s.letters.iter().find(is_delivery) {
        let (id, path) = (plain(&letter.op_id), plain(&letter.path));
        steps.push(format!("the remote has {path} as you left it, its provider refused that; correct and save it once more;"));
        steps.push("  or, when the provider takes it now, have it delivered again:".into());
        steps.push(format!("  mv .relay/dead-letter/{id}.json .relay/retry/"));
    }
    if let Some(letter) = s.letters.iter().find(is_delete) {
        let (id, path) = (plain(&letter.op_id), plain(&letter.path));
        steps.push(format!("the removal of {path} was refused, and the file is back; to try it again:"));
        steps.push(format!("  mv .relay/dead-letter/{id}.json .relay/retry/"));
    }
    if let Some(letter) = s.letters.iter().find(|e| !is_conflict(e) && !is_delete(e) && !is_delivery(e)) {
        let (id, path) = (plain(&letter.op_id), plain(&letter.path));
        steps.push(format!("correct {path}, which still shows your version, and save it once more; or send it as it is:"));
        steps.push(format!("  mv .relay/dead-letter/{id}.json .relay/retry/"));
    }
    if let Some(letter) = s.letters.iter().find(|e| is_conflict(e) && !is_delete(e)) {
        let (id, path) = (plain(&letter.op_id), plain(&letter.path));
        let force = format!("relayfile writeback retry --opId {id} --force {at}");
        if letter.status == Some(404) {
            steps.push(format!("{path} was deleted at the remote, and still shows your version; save it once more, or:"));
            steps.push(format!("  {force}"));
        } else {
            steps.push(format!("{path} was changed by somebody else; your version is .relay/conflicts/{id}/local"));
            steps.push(format!("  bring the two together and save; or put yours on top:  {force}"));
        }
    }
    if let Some(letter) = s.letters.iter().find(|e| !is_delivery(e)) {
        steps.push(format!(
            "or let a letter go:  rm .relay/dead-letter/{}.json  (its file returns to the remote's version, if there is one)",
            plain(&letter.op_id)
        ));
    }
    steps
}

/// Remote text is hostile input: no control characters reach a terminal, and no novel either.
fn plain(text: &str) -> Cow<'_, str> {
    const LONGEST: usize = 500;
    if text.len() <= LONGEST && !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for c in text.chars() {
        if out.len() >= LONGEST {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return count(n, "byte");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `state.json`: pretty JSON with a newline at its end. The field names are those that older tools of the ecosystem
/// write and read; what we cannot know is `null`, and a field whose shape we do not share is left out, because a typed
/// reader would refuse the whole file.
pub fn render_state_json(s: &Status) -> Vec<u8> {
    let condition = Condition::of(s);
    json(&StateJson {
        workspace_id: &s.workspace_id,
        remote_root: &s.remote_root,
        local_root: &s.local_root,
        mode: "fuse",
        status: condition.word(),
        summary: condition.sentence(s),
        states: States {
            stale: !s.feed.is_followed() || !s.tree_known,
            offline: s.feed == Feed::Offline,
            syncing: unsent(s) > 0 || !s.tree_known,
            has_conflicts: s.conflicts > 0,
            has_pending_writeback: unsent(s) > 0,
            has_dead_letters: s.dead > 0,
            store_failed: s.store_failure.is_some(),
            read_only: s.read_only,
        },
        access: s.limits.as_deref(),
        last_reconcile_at: s.last_sync_at.as_deref(),
        last_successful_reconcile_at: s.last_sync_at.as_deref(),
        last_event_at: s.last_event_at.as_deref(),
        pending_writeback: unsent(s),
        pending_conflicts: s.conflicts,
        dead_lettered: s.dead,
        failed_writebacks: s.failed_writebacks,
        oldest_pending_at: s.oldest_pending_at.as_deref(),
        last_error: s.last_error.as_ref().map(error_json),
        providers: s.provider_errors.iter().map(|(provider, e)| Provider { provider, last_error: error_json(e) }).collect(),
        store_failure: s.store_failure.as_deref(),
        delivery: &s.delivery,
        counters: Counters {
            queued: s.pending,
            in_flight: s.in_flight,
            dead: s.dead,
            pending_bytes: s.pending_bytes,
            failed_writebacks: s.failed_writebacks,
            files_known: s.files_known,
            hidden_names: s.hidden_names,
        },
        event_listener: ListenerJson {
            mode: if s.feed == Feed::Streaming { "websocket" } else { "polling" },
            status: s.feed,
            heartbeat_at: s.last_sync_at.as_deref(),
            last_connected_at: s.listener.last_connected_at.as_deref(),
            last_attempt_at: s.listener.last_attempt_at.as_deref(),
            next_attempt_at: s.listener.next_attempt_at.as_deref(),
            last_error: s.listener.why_not.as_deref(),
        },
        base_url: &s.base_url,
        state_dir: &s.state_dir,
        embedded_server: s.embedded_server,
        tree_known: s.tree_known,
        pid: s.pid,
        version: s.version,
        started_at: &s.started_at,
    })
}

/// `.relay/pending/<opId>.json`.
pub fn render_operation_json(op: &OperationView) -> Vec<u8> {
    json(&OperationJson {
        op_id: &op.op_id,
        kind: &op.kind,
        path: &op.path,
        state: &op.state,
        why: &op.why,
        base_revision: op.base_revision.as_deref(),
        size: op.size,
        attempts: op.attempts,
        created_at: &op.created_at,
        updated_at: &op.updated_at,
        next_attempt_at: op.next_attempt_at.as_deref(),
        last_status: op.last_status,
        last_code: op.last_code.as_deref(),
        last_error: op.last_error.as_deref(),
    })
}

fn error_json(e: &LastError) -> ErrorJson<'_> {
    ErrorJson { op_id: &e.op_id, path: &e.path, status: e.status, code: &e.code, message: &e.message, at: &e.at }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut out = serde_json::to_vec_pretty(value).expect("strings, numbers and flags always serialize");
    out.push(b'\n');
    out
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateJson<'a> {
    workspace_id: &'a str,
    remote_root: &'a str,
    local_root: &'a str,
    mode: &'a str,
    status: &'a str,
    /// The same in a sentence.
    summary: String,
    states: States,
    /// What the token does not allow.
    access: Option<&'a str>,
    last_reconcile_at: Option<&'a str>,
    last_successful_reconcile_at: Option<&'a str>,
    last_event_at: Option<&'a str>,
    pending_writeback: u64,
    pending_conflicts: u64,
    dead_lettered: u64,
    failed_writebacks: u64,
    oldest_pending_at: Option<&'a str>,
    last_error: Option<ErrorJson<'a>>,
    providers: Vec<Provider<'a>>,
    store_failure: Option<&'a str>,
    delivery: &'a DeliveryNumbers,
    counters: Counters,
    event_listener: ListenerJson<'a>,
    base_url: &'a str,
    state_dir: &'a str,
    embedded_server: bool,
    tree_known: bool,
    pid: u32,
    version: &'a str,
    started_at: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct States {
    stale: bool,
    offline: bool,
    syncing: bool,
    has_conflicts: bool,
    has_pending_writeback: bool,
    has_dead_letters: bool,
    store_failed: bool,
    read_only: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorJson<'a> {
    op_id: &'a str,
    path: &'a str,
    status: Option<u16>,
    code: &'a str,
    message: &'a str,
    at: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Provider<'a> {
    provider: &'a str,
    last_error: ErrorJson<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counters {
    queued: u64,
    in_flight: u64,
    dead: u64,
    pending_bytes: u64,
    failed_writebacks: u64,
    files_known: u64,
    hidden_names: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListenerJson<'a> {
    mode: &'a str,
    status: Feed,
    heartbeat_at: Option<&'a str>,
    last_connected_at: Option<&'a str>,
    last_attempt_at: Option<&'a str>,
    next_attempt_at: Option<&'a str>,
    /// Why there is no stream.
    last_error: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OperationJson<'a> {
    op_id: &'a str,
    kind: &'a str,
    path: &'a str,
    state: &'a str,
    why: &'a str,
    base_revision: Option<&'a str>,
    size: Option<u64>,
    attempts: u32,
    created_at: &'a str,
    updated_at: &'a str,
    next_attempt_at: Option<&'a str>,
    last_status: Option<u16>,
    last_code: Option<&'a str>,
    last_error: Option<&'a str>,
}
