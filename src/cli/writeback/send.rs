//! `flush` and `drain`: until everything is at the remote.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::act::engine_config;
use super::args;
use super::place::{self, Place};
use super::status::{health, print_json, report_malformed};
use super::view::{Row, View};
use super::{Exit, plain};
use crate::cli::{out, say};
use crate::config::{self, Config, Flags, Layer};
use crate::control::{self, Request};
use crate::engine::Engine;
use crate::preflight::{Code, Lease, Problem};
use crate::remote::LateRemote;

/// Between two looks at the journal.
const LOOK_EVERY: Duration = Duration::from_millis(100);

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

pub fn flush(o: &args::Flush) -> Result<Exit, Problem> {
    let place = place::resolve(&o.place, &variable)?;
    let deadline = Instant::now() + o.timeout.0;
    let mut view = View::read(place.clone())?;
    let mut wanted: BTreeSet<String> = view.open.iter().map(|r| r.id.clone()).collect();
    if view.place.holder.is_none() && !wanted.is_empty() {
        say(format_args!(
            "relayfile: nobody has this mounted; send what is left with: relayfile writeback drain {}",
            view.place.word()
        ));
        return Ok(told(&view, &wanted, &BTreeSet::new(), o.json));
    }
    if view.place.holder.is_some() {
        match control::ask(&view.place.state_dir, &Request::Flush) {
            Ok(_) => {}
            // It starts or ends; in both cases it sends by itself.
            Err(e) => log::debug!("{e}"),
        }
        // What was saved between our look and the question counts as well.
        view = View::read(place.clone())?;
        wanted.extend(view.open.iter().map(|r| r.id.clone()));
    }
    let all = wanted.clone();
    let bar = bar(all.len());
    loop {
        let open: BTreeSet<String> = view.open.iter().map(|r| r.id.clone()).collect();
        wanted.retain(|id| open.contains(id));
        bar.set_position((all.len() - wanted.len()) as u64);
        let ended = view.place.holder.is_none();
        if wanted.is_empty() || ended || Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(LOOK_EVERY.min(deadline.saturating_duration_since(Instant::now())));
        let place = Place { holder: Lease::held_by(&place.state_dir), ..place.clone() };
        view = View::read(place)?;
    }
    bar.finish_and_clear();
    Ok(told(&view, &wanted, &all, o.json))
}

pub fn drain(o: &args::Drain) -> Result<Exit, Problem> {
    let place = place::resolve(&o.place, &variable)?;
    let before = View::read(place.clone())?;
    if !before.exists {
        return Ok(told(&before, &BTreeSet::new(), &BTreeSet::new(), o.json));
    }
    let lease = Lease::acquire(&place.state_dir).map_err(|held| match held.code {
        Code::LeaseHeld => Problem::new(held.code, held.what, format!("wait for it: relayfile writeback flush {}", place.word())),
        _ => held,
    })?;
    let remote = Arc::new(LateRemote::default());
    let mut parts = engine_config(&before);
    if parts.identity.base_url.is_empty()
        && let Some(url) = o.base_url.clone().or_else(|| std::env::var("RELAYFILE_BASE_URL").ok())
    {
        // An older tool's directory does not say where it belongs to; the user does.
        parts.identity.base_url = url.trim_end_matches('/').to_owned();
    }
    let identity = parts.identity.clone();
    let mut engine = Engine::open(parts, remote.clone(), lease)?;
    let open = engine
        .journal()
        .open_operations(10_000)
        .map_err(|e| Problem::new(Code::StateDirUnusable, e.to_string(), "see docs/TROUBLESHOOTING.md"))?;
    let all: BTreeSet<String> = open.iter().map(|op| op.op.to_string()).collect();
    let mut server = None;
    if !all.is_empty() {
        // Only now: whoever has nothing to send needs no credentials.
        let ready = credentials(o, &identity).and_then(|config| Ok((crate::mount::connect(&config)?, config)));
        match ready {
            Ok(((running, client), config)) => {
                engine.send_with(config.workers, config.max_attempts);
                server = running;
                remote.set(client);
            }
            Err(problem) => {
                engine.finish();
                return Err(problem);
            }
        }
        engine.start()?;
        send(&engine, all.len(), o.timeout.0);
    }
    let (_, lease) = engine.finish();
    if let Some(server) = server {
        server.shutdown();
    }
    // What is told is what is written down.
    let after = View::read(Place { holder: None, ..place })?;
    drop(lease);
    let left: BTreeSet<String> = after.open.iter().map(|r| r.id.clone()).collect();
    Ok(told(&after, &left, &all, o.json))
}

/// Drains with a progress bar, in steps so that it moves.
fn send(engine: &Engine, all: usize, limit: Duration) {
    let bar = bar(all);
    let deadline = Instant::now() + limit;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| engine.drain(deadline.saturating_duration_since(Instant::now())));
        while !sender.is_finished() {
            let left = engine.journal().queue_numbers().map_or(0, |n| n.pending + n.in_flight);
            bar.set_position((all as u64).saturating_sub(left));
            std::thread::sleep(LOOK_EVERY);
        }
    });
    bar.finish_and_clear();
}

fn bar(all: usize) -> ProgressBar {
    if all == 0 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos} of {len} at the remote, {elapsed}").expect("a valid template");
    ProgressBar::new(all as u64).with_style(style)
}

/// The configuration of the remote that a state directory belongs to, with the token from wherever it is.
fn credentials(o: &args::Drain, identity: &config::Identity) -> Result<Config, Problem> {
    let mut layer = Layer {
        local_dir: Some("/".into()),
        remote_path: Some(identity.remote_root.clone()),
        token_file: o.token_file.clone(),
        creds_file: o.creds_file.clone(),
        ..Layer::default()
    };
    if let Some(data_dir) = identity.base_url.strip_prefix("embedded:") {
        layer.embedded_dir = Some(data_dir.into());
        let hidden = [
            "RELAYFILE_BASE_URL",
            "RELAYFILE_WORKSPACE",
            "RELAYFILE_TOKEN",
            "RELAYFILE_TOKEN_FILE",
            "RELAYFILE_MOUNT_CREDS_FILE",
        ];
        // What the environment and the configuration file say of a remote is about another one.
        let flags = Flags { layer, config: Some("/dev/null".into()), ..Flags::default() };
        return config::resolve(flags, &|name| if hidden.contains(&name) { None } else { variable(name) });
    }
    if identity.base_url.is_empty() {
        return Err(Problem::new(
            Code::Usage,
            "this state directory does not say to which base URL it belongs",
            "add --base-url https://… (or RELAYFILE_BASE_URL)",
        ));
    }
    layer.base_url = Some(o.base_url.clone().unwrap_or_else(|| identity.base_url.clone()));
    layer.workspace = Some(identity.workspace.clone());
    let config = config::load(Flags { layer, ..Flags::default() })?;
    let theirs = config.identity();
    if theirs != *identity {
        return Err(Problem::new(
            Code::StateDirOtherIdentity,
            format!("this state directory belongs to {}, not to {}", identity.base_url, theirs.base_url),
            "leave --base-url out",
        ));
    }
    Ok(config)
}

/// What `state.json` says of the connection, where that is not as it should be.
pub(super) fn summary(view: &View) -> Option<String> {
    let bytes = std::fs::read(view.place.state_dir.join("state.json")).ok()?;
    let state: Value = serde_json::from_slice(&bytes).ok()?;
    match state["status"].as_str()? {
        "offline" | "unauthorized" | "error" => Some(state["summary"].as_str().or(state["status"].as_str())?.to_owned()),
        _ => None,
    }
}

/// What became of everything that was to be sent, and what is left.
fn told(view: &View, left: &BTreeSet<String>, all: &BTreeSet<String>, as_json: bool) -> Exit {
    let dead: Vec<&Row> = view.letters.iter().collect();
    let waiting: Vec<&Row> = view.open.iter().filter(|r| left.contains(&r.id)).collect();
    let died = dead.iter().filter(|r| all.contains(&r.id)).count();
    let arrived = all.len() - all.iter().filter(|id| left.contains(*id)).count() - died;
    let exit = if left.is_empty() { health(view) } else { Exit::WorkLeft };
    if as_json {
        let brief = |r: &&Row| -> Value {
            json!({"opId": r.id, "path": r.path, "attempts": r.attempts, "lastStatus": r.provider_status, "code": r.code, "message": r.message})
        };
        let finished: Vec<&String> = all.iter().filter(|id| !left.contains(*id) && !dead.iter().any(|r| r.id == **id)).collect();
        print_json(&json!({
            "workspaceId": view.identity.workspace,
            "acknowledged": finished,
            "deadLettered": dead.iter().map(brief).collect::<Vec<_>>(),
            "left": waiting.iter().map(brief).collect::<Vec<_>>(),
        }));
        return exit;
    }
    report_malformed(view);
    for r in &dead {
        let mark = if all.contains(&r.id) { "refused" } else { "dead letter" };
        out(format_args!("{mark}: {} {}: {}", r.id, plain(&r.path), plain(r.message.as_deref().unwrap_or_default())));
    }
    for r in &waiting {
        let why = r.message.as_deref().unwrap_or("not sent yet");
        out(format_args!("left: {} {}: {}", r.id, plain(&r.path), plain(why)));
    }
    match (all.len(), left.len(), dead.len()) {
        (0, 0, 0) if !view.malformed.is_empty() => out(format_args!("nothing to send; there are records that cannot be read")),
        (0, 0, 0) => out(format_args!("nothing to send; no failures")),
        (0, 0, dead) => out(format_args!("nothing to send; dead-lettered: {dead}")),
        (_, 0, 0) => out(format_args!("{arrived} at the remote; nothing is left")),
        (_, left, dead) => out(format_args!("{arrived} at the remote; left: {left}; dead-lettered: {dead}")),
    }
    if !left.is_empty() {
        say(format_args!(
            "relayfile: what is left stays queued; look at it with: relayfile writeback list {}",
            view.place.word()
        ));
    } else if let Some(letter) = dead.last() {
        say(format_args!("relayfile: look at it with: relayfile writeback show {} {}", letter.id, view.place.word()));
    }
    exit
}
