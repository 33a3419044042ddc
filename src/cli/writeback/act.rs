//! `retry` and `discard`: asked of the process that drives the state, else done here under the lease.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args;
use super::status::{print_json, report_malformed, unknown};
use super::view::{Row, View};
use super::{Exit, op_id, plain, view};
use crate::cli::{out, say};
use crate::control::{self, Reply, Request};
use crate::engine::{Engine, EngineConfig};
use crate::ids::OpId;
use crate::journal::{Discarded, OpState, Retried};
use crate::preflight::{Code, Lease, Problem, shell_word};
use crate::remote::LateRemote;
use crate::status::Operator;
use crate::workspace::{FsError, FsResult};

/// How long a process that is just starting or ending may keep us waiting.
const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// What was done with one letter.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    op_id: String,
    path: String,
    outcome: &'static str,
    message: String,
    #[serde(skip)]
    exit: Exit,
}

pub fn retry(o: &args::Retry) -> Result<Exit, Problem> {
    let id = o.op_id.as_deref().map(op_id).transpose()?;
    let view = view(&o.place)?;
    let chosen = choose(&view, id.as_ref())?;
    if o.dry_run {
        let words = if o.force { "would be sent again, on top of what the remote has" } else { "would be sent again" };
        return Ok(report(&view, chosen.iter().map(|c| c.dry(words, would_retry)).collect(), o.json, o.all));
    }
    if chosen.is_empty() {
        return Ok(report(&view, Vec::new(), o.json, o.all));
    }
    let mut hands = Hands::obtain(&view)?;
    let mut lines = Vec::new();
    for letter in &chosen {
        lines.push(hands.retry(&view, letter, o.force)?);
    }
    hands.done();
    Ok(report(&view, lines, o.json, o.all))
}

pub fn discard(o: &args::Discard) -> Result<Exit, Problem> {
    // With --all the first word is the place.
    let mut place = o.place.clone();
    let mut id = None;
    match (&o.op, o.all) {
        (Some(word), true) if place.place.is_none() && place.state_dir.is_none() => place.place = Some(word.clone()),
        (Some(_), true) => {
            return Err(Problem::new(Code::Usage, "--all and an operation were both given", "leave one of them out"));
        }
        (Some(word), false) => id = Some(op_id(word)?),
        (None, _) => {}
    }
    let view = view(&place)?;
    let chosen = choose(&view, id.as_ref())?;
    if o.dry_run {
        return Ok(report(&view, chosen.iter().map(|c| c.dry(c.after_discard(), would_discard)).collect(), o.json, o.all));
    }
    if chosen.is_empty() {
        return Ok(report(&view, Vec::new(), o.json, o.all));
    }
    if !o.yes && !agreed(&chosen, o.all)? {
        say(format_args!("relayfile: nothing was discarded"));
        return Ok(Exit::DeadLetters);
    }
    let mut hands = Hands::obtain(&view)?;
    let mut lines = Vec::new();
    for letter in &chosen {
        lines.push(hands.discard(&view, letter)?);
    }
    hands.done();
    Ok(report(&view, lines, o.json, o.all))
}

/// An operation that was named, or one of all dead letters.
struct Chosen {
    id: OpId,
    path: String,
    state: &'static str,
    conflict: bool,
    /// The remote has it, and its provider refused it.
    delivery: bool,
    /// Nothing at the remote has ever had this path, as far as is known.
    only_here: bool,
}

impl Chosen {
    fn of(row: &Row) -> Option<Chosen> {
        Some(Chosen {
            id: row.id.parse().ok()?,
            path: row.path.clone(),
            state: row.state,
            conflict: row.code.as_deref() == Some("conflict"),
            delivery: row.code.as_deref() == Some("delivery"),
            only_here: row.kind == "put" && row.base_revision.is_none() && row.code.as_deref() != Some("delivery"),
        })
    }

    fn after_discard(&self) -> &'static str {
        match self.only_here {
            _ if self.delivery => "would be discarded; the remote keeps its file as it is",
            true => "would be discarded; the remote has no such file, so it would disappear",
            false => "would be discarded; its file would return to the remote's version",
        }
    }

    fn dry(&self, words: &str, judge: fn(&str) -> (&'static str, &'static str, Exit)) -> Line {
        let (outcome, message, exit) = judge(self.state);
        let message = if outcome == "would_act" { words.to_owned() } else { message.to_owned() };
        self.line(outcome, message, exit)
    }

    fn line(&self, outcome: &'static str, message: String, exit: Exit) -> Line {
        Line { op_id: self.id.to_string(), path: self.path.clone(), outcome, message, exit }
    }
}

fn choose(view: &View, id: Option<&OpId>) -> Result<Vec<Chosen>, Problem> {
    match id {
        None => Ok(view.letters.iter().filter_map(Chosen::of).collect()),
        Some(id) => match view.find(id)? {
            Some((row, _)) => Ok(Chosen::of(&row).into_iter().collect()),
            None => Err(unknown(view, id)),
        },
    }
}

fn would_retry(state: &str) -> (&'static str, &'static str, Exit) {
    match state {
        "dead" => ("would_act", "", Exit::Healthy),
        "pending" => ("already_queued", "is queued already", Exit::Healthy),
        "inflight" => ("in_flight", "a request for it is under way", Exit::Blocked),
        "acknowledged" => ("acknowledged", "is at the remote already", Exit::Healthy),
        "superseded" => ("superseded", "a later save of the same path has taken its place", Exit::Healthy),
        _ => ("discarded", "was discarded", Exit::DeadLetters),
    }
}

fn would_discard(state: &str) -> (&'static str, &'static str, Exit) {
    match state {
        "dead" => ("would_act", "", Exit::Healthy),
        "discarded" => ("already_done", "is discarded already", Exit::Healthy),
        "pending" | "inflight" => ("open", "is no dead letter: it is on its way", Exit::Blocked),
        _ => ("settled", "is settled: there is no letter any more", Exit::Healthy),
    }
}

/// Asks on a terminal. Without one a named letter needs no question, and all of them need `--yes`.
fn agreed(chosen: &[Chosen], all: bool) -> Result<bool, Problem> {
    if !std::io::stdin().is_terminal() {
        if all {
            return Err(Problem::new(Code::Usage, "there is no terminal to ask on", "add --yes to discard all dead letters"));
        }
        return Ok(true);
    }
    for letter in chosen {
        let warning = if letter.only_here { "  (the remote has no such file: it disappears)" } else { "" };
        say(format_args!("  {}  {}{warning}", letter.id, plain(&letter.path)));
    }
    let noun = if chosen.len() == 1 { "this dead letter; its file returns" } else { "these dead letters; their files return" };
    let _ = write!(std::io::stderr(), "Discard {noun} to the remote's version? [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|e| Problem::new(Code::Usage, format!("the answer cannot be read: {e}"), "add --yes"))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn report(view: &View, lines: Vec<Line>, json: bool, all: bool) -> Exit {
    report_malformed(view);
    let mut exit = lines.iter().map(|l| l.exit).max().unwrap_or(Exit::Healthy);
    // Whoever said "all" must hear that some could not be.
    if all && !view.malformed.is_empty() {
        exit = exit.max(Exit::DeadLetters);
    }
    if json {
        print_json(&lines);
    } else if lines.is_empty() {
        out(format_args!("no dead letters"));
    } else {
        for line in &lines {
            out(format_args!("{} {}: {}", line.op_id, plain(&line.path), line.message));
        }
    }
    exit
}

/// Who makes the change.
enum Hands {
    /// The process that has the lease.
    Live(PathBuf),
    /// This process, which has taken it.
    Own(Box<Engine>),
}

impl Hands {
    /// Two commands at once, or a mount that is just starting: whoever comes second waits a moment.
    fn obtain(view: &View) -> Result<Hands, Problem> {
        let dir = &view.place.state_dir;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Lease::acquire(dir) {
                Ok(lease) => return open_engine(view, lease).map(|e| Hands::Own(Box::new(e))),
                Err(problem) if problem.code != Code::LeaseHeld => return Err(problem),
                Err(problem) => {
                    if matches!(control::ask(dir, &Request::Hello), Ok(Reply::Here { .. })) {
                        return Ok(Hands::Live(dir.clone()));
                    }
                    if Instant::now() >= deadline {
                        return Err(Problem::new(
                            Code::LeaseHeld,
                            format!("{}, and it does not answer: it may be starting or ending", problem.what),
                            format!("try again in a moment; or look at: tail {}", shell_word(&dir.join("mount.log"))),
                        ));
                    }
                    std::thread::sleep(BETWEEN_TRIES);
                }
            }
        }
    }

    fn retry(&mut self, view: &View, letter: &Chosen, force: bool) -> Result<Line, Problem> {
        let id = letter.id.clone();
        let reply = match self {
            Hands::Live(dir) => control::ask(dir, &Request::Retry { op_id: id, force }),
            Hands::Own(engine) => Ok(local(engine.board.retry(&id, force).map(Reply::Retried))),
        };
        let outcome = match reply.map_err(|e| unanswered(view, &e))? {
            Reply::Retried(outcome) => outcome,
            other => return Ok(letter.failed(other)),
        };
        let place = view.place.word();
        let line = |outcome, message: String, exit| Ok(letter.line(outcome, message, exit));
        match outcome {
            Retried::Queued if letter.conflict && !force => line(
                "queued",
                format!(
                    "{}; it stays a conflict unless the remote is back where the edit was made: --force puts it on top",
                    self.when_it_goes(&place)
                ),
                Exit::Healthy,
            ),
            Retried::Queued if letter.delivery => line(
                "queued",
                match self {
                    Hands::Live(_) => "the remote is asked now to deliver it again; nothing is written a second time".into(),
                    Hands::Own(_) => format!(
                        "the remote will be asked to deliver it again with the next mount, or with: relayfile writeback drain {place}"
                    ),
                },
                Exit::Healthy,
            ),
            Retried::Queued => line("queued", self.when_it_goes(&place), Exit::Healthy),
            Retried::AlreadyQueued => line("already_queued", "is queued already".into(), Exit::Healthy),
            Retried::InFlight => line(
                "in_flight",
                format!("a request for it is under way; wait for it: relayfile writeback flush {place}"),
                Exit::Blocked,
            ),
            Retried::Acknowledged => line("acknowledged", "is at the remote already".into(), Exit::Healthy),
            Retried::Superseded => line("superseded", "a later save of the same path has taken its place".into(), Exit::Healthy),
            Retried::NewerSave(newer) => line(
                "newer_save",
                format!("a later save of the same path ({newer}) is on its way and settles this one"),
                Exit::Healthy,
            ),
            Retried::Discarded => line("discarded", "was discarded; there is nothing left to send".into(), Exit::DeadLetters),
            Retried::NoPayload => line(
                "no_payload",
                format!(
                    "its content is not here (the record comes from an older tool); write the file anew, then: relayfile writeback discard {} {place}",
                    letter.id
                ),
                Exit::DeadLetters,
            ),
            Retried::Unknown => line("unknown", unusable(view, letter), Exit::Unusable),
        }
    }

    fn discard(&mut self, view: &View, letter: &Chosen) -> Result<Line, Problem> {
        let id = letter.id.clone();
        let reply = match self {
            Hands::Live(dir) => control::ask(dir, &Request::Discard { op_id: id }),
            Hands::Own(engine) => Ok(local(engine.board.discard(&id).map(Reply::Discarded))),
        };
        let outcome = match reply.map_err(|e| unanswered(view, &e))? {
            Reply::Discarded(outcome) => outcome,
            other => return Ok(letter.failed(other)),
        };
        let line = |outcome, message: String, exit| Ok(letter.line(outcome, message, exit));
        match outcome {
            Discarded::Done if letter.delivery => {
                line("discarded", "discarded; the remote keeps its file as it is".into(), Exit::Healthy)
            }
            Discarded::Done => {
                let trash = view.place.state_dir.join("trash").join(format!("{}.payload", letter.id));
                line("discarded", format!("discarded; until the next start its content is {}", shell_word(&trash)), Exit::Healthy)
            }
            Discarded::AlreadyDone => line("already_done", "is discarded already".into(), Exit::Healthy),
            Discarded::Settled(OpState::Acknowledged) => line("settled", "is at the remote already".into(), Exit::Healthy),
            Discarded::Settled(_) => line("settled", "a later save of the same path has taken its place".into(), Exit::Healthy),
            Discarded::Open(_) => line("open", "is no dead letter: it is on its way".into(), Exit::Blocked),
            Discarded::Unknown => line("unknown", unusable(view, letter), Exit::Unusable),
        }
    }

    fn when_it_goes(&self, place: &str) -> String {
        match self {
            Hands::Live(_) => "queued again; it is sent now".into(),
            Hands::Own(_) => format!("queued again; it goes out with the next mount, or with: relayfile writeback drain {place}"),
        }
    }

    fn done(self) {
        if let Hands::Own(engine) = self {
            engine.finish();
        }
    }
}

impl Chosen {
    fn failed(&self, reply: Reply) -> Line {
        match reply {
            Reply::Failed { message, busy: true } => self.line("busy", message, Exit::Blocked),
            Reply::Failed { message, .. } => self.line("failed", message, Exit::DeadLetters),
            other => self.line("failed", format!("an answer to another question: {other:?}"), Exit::DeadLetters),
        }
    }
}

/// A record that was seen, and that whoever has the journal did not take over.
fn unusable(view: &View, letter: &Chosen) -> String {
    let file = view.place.state_dir.join("dead-letter").join(format!("{}.json", letter.id));
    format!("its record cannot be used (its payload may be another than it names); look at it: cat {}", shell_word(&file))
}

fn local(result: FsResult<Reply>) -> Reply {
    result.unwrap_or_else(|e: FsError| control::failed(&e))
}

fn unanswered(view: &View, e: &control::Unanswered) -> Problem {
    Problem::new(
        Code::LeaseHeld,
        format!("the process that drives {} did not answer: {e}", view.place.state_dir.display()),
        "try again in a moment",
    )
}

/// An engine that talks to no remote.
fn open_engine(view: &View, lease: Lease) -> Result<Engine, Problem> {
    Engine::open(engine_config(view), Arc::new(LateRemote::default()), lease)
}

pub(super) fn engine_config(view: &View) -> EngineConfig {
    EngineConfig {
        state_dir: view.place.state_dir.clone(),
        identity: view.identity.clone(),
        mountpoint: None,
        embedded: false,
        settle: Duration::from_millis(500),
        workers: 4,
        max_attempts: 4,
        local_only: None,
    }
}
