//! `relayfile watch`: a line for every change, told by the live mount.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum, ValueHint};

use super::live::{self, Answer};
use super::say;
use super::writeback::plain;
use crate::changes::{ChangeLine, Event};
use crate::config::Span;
use crate::control::{self, Reply};
use crate::fs::{mount_of, mounted_at, mounts};
use crate::preflight::{Code, Problem, resolve_existing_part, shell_word};

const EXAMPLES: &str = "\
Examples:
  relayfile watch                     every change of the mount I stand in
  relayfile watch ~/ws docs/          only those below ~/ws/docs
  relayfile watch --json ~/ws         one JSON object a line, for programs
  relayfile watch -1 ~/ws/inbox       wait for the next change there
  relayfile watch -1 --event acknowledged --timeout 30s report.md
                                      wait until a save has arrived

The first argument may be a mountpoint; without one it is the mount that holds
the first PATH or the current directory, else the only one that runs. It says
on stderr when it has begun: what changes from then on is told.

Exit codes: 0 the change that --once waits for has come, or the reader has
gone; 1 the mount has ended; 2 usage; 3 no mount answers; 4 time is over.";

/// Tell every change of a mount as it happens
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Watch {
    /// The mountpoint, then files and directories (with all below them) to watch; all without any
    #[arg(value_name = "MOUNTPOINT|PATH", value_hint = ValueHint::AnyPath)]
    pub places: Vec<PathBuf>,

    /// Only these events
    #[arg(long = "event", value_name = "EVENT", value_enum)]
    pub events: Vec<Wanted>,

    /// End after the first change
    #[arg(long, short = '1')]
    pub once: bool,

    /// End after this time: 30s, 2m, or a number of seconds
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Span>,

    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// The events that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wanted {
    Created,
    Updated,
    Deleted,
    Renamed,
    /// The remote has taken a save or a removal
    Acknowledged,
    /// The remote has refused one for good
    Dead,
    /// A dead letter is sent again
    Retried,
    /// A dead letter was let go
    Discarded,
}

impl Wanted {
    fn is(self, event: Event) -> bool {
        self.to_possible_value().is_some_and(|v| v.get_name() == event.as_str())
    }
}

/// The exit codes of this command. `docs/OPERATIONS.md` says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// The change that was waited for has come, or nobody reads any more.
    Done = 0,
    MountEnded = 1,
    Usage = 2,
    NoMount = 3,
    TimeOver = 4,
}

pub fn run(options: &Watch) -> ExitCode {
    let exit = watch(options).unwrap_or_else(|problem| {
        say(format_args!("relayfile: {problem}"));
        if problem.code == Code::Usage { Exit::Usage } else { Exit::NoMount }
    });
    ExitCode::from(exit as u8)
}

/// What is watched.
struct Target {
    mountpoint: PathBuf,
    /// Paths in the mount; none means all.
    paths: Vec<String>,
}

fn watch(o: &Watch) -> Result<Exit, Problem> {
    let deadline = o.timeout.map(|t| Instant::now() + t.0);
    let target = target(&o.places)?;
    let at = target.mountpoint.display();
    let silent = |why: String| {
        Problem::new(
            Code::MountpointNotOurs,
            format!("the mount at {at} cannot be watched: {why}"),
            "relayfile mounts lists what runs; relayfile unmount takes away what is dead",
        )
    };
    let state = match live::ask(&target.mountpoint) {
        Answer::State(state) => state,
        Answer::Dead => return Err(silent("its process is dead".into())),
        Answer::None(why) => return Err(silent(why)),
    };
    let (reply, stream) = control::watch(&state.state_dir, target.paths).map_err(|e| silent(e.to_string()))?;
    match reply {
        Reply::Watching { pid } => say(format_args!("watching {at} (pid {pid}); Ctrl-C ends")),
        Reply::Failed { message, .. } => return Err(silent(message)),
        _ => return Err(silent("it answers something else; is it of another version?".into())),
    }
    let mut lines = Lines { stream, unread: Vec::new() };
    loop {
        let line = match lines.next(deadline) {
            Heard::Line(line) => line,
            Heard::End => {
                say(format_args!("relayfile: the mount at {at} has ended without a word; its process has died"));
                return Ok(Exit::MountEnded);
            }
            Heard::ReaderGone => return Ok(Exit::Done),
            Heard::TimeOver => return Ok(Exit::TimeOver),
        };
        let Ok(change) = serde_json::from_str::<ChangeLine>(&line) else { continue };
        let about_no_path = matches!(change.event, Event::Overflow | Event::Unmounted);
        if !about_no_path && !o.events.is_empty() && !o.events.iter().any(|w| w.is(change.event)) {
            continue;
        }
        let shown = if o.json { line } else { human(&change) };
        if print(&shown).is_err() {
            return Ok(Exit::Done);
        }
        match change.event {
            Event::Unmounted => {
                say(format_args!("relayfile: {at} has been unmounted"));
                return Ok(Exit::MountEnded);
            }
            _ if o.once && !about_no_path => return Ok(Exit::Done),
            _ => {}
        }
    }
}

/// Line by line, whatever stdout is.
fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn human(change: &ChangeLine) -> String {
    use crate::changes::Origin;
    let origin = match change.origin {
        Some(Origin::Remote) => "remote",
        Some(Origin::Local) => "local",
        None => "",
    };
    let path = match (&change.from, &change.path) {
        (Some(from), Some(path)) => format!("{} -> {}", plain(from), plain(path)),
        (_, Some(path)) => plain(path),
        (_, None) if change.event == Event::Overflow => "changes were lost here: this watch is too slow".into(),
        _ => String::new(),
    };
    let words = [&change.revision, &change.op_id, &change.correlation_id, &change.code, &change.message];
    let rest: String = words.into_iter().flatten().map(|word| format!("  {}", plain(word))).collect();
    format!("{}  {:<12}  {origin:<6}  {path}{rest}", change.time, change.event.as_str()).trim_end().to_owned()
}

/// Which mount, and where in it.
fn target(places: &[PathBuf]) -> Result<Target, Problem> {
    let usage = |what: String, remedy: &str| Problem::new(Code::Usage, what, remedy);
    let absolute = |path: &Path| resolve_existing_part(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
    let ours = |path: &Path| mount_of(path).ok().flatten().filter(|m| m.is_ours()).map(|m| m.mountpoint);
    let cwd = std::env::current_dir().ok();
    let first = places.first().map(|p| absolute(p));
    let is_mountpoint = |path: &PathBuf| mounted_at(path).is_ok_and(|m| m.is_some_and(|m| m.is_ours()));
    let (mountpoint, rest) = match &first {
        Some(first) if is_mountpoint(first) => (first.clone(), &places[1..]),
        _ => match first.as_deref().and_then(ours).or_else(|| cwd.as_deref().and_then(ours)) {
            Some(mountpoint) => (mountpoint, places),
            None => (only_mount()?, places),
        },
    };
    let stands_inside = cwd.as_deref().is_some_and(|dir| dir.starts_with(&mountpoint));
    let mut paths = Vec::new();
    for place in rest {
        let full =
            if place.is_absolute() || stands_inside { absolute(place) } else { resolve_existing_part(&mountpoint.join(place)) };
        let inside = full.strip_prefix(&mountpoint).ok().and_then(Path::to_str);
        let inside = inside.ok_or_else(|| {
            usage(
                format!("{} is not in the mount at {}", place.display(), mountpoint.display()),
                "name a path in the mount, or its mountpoint first",
            )
        })?;
        paths.push(format!("/{}", inside.trim_end_matches('/')));
    }
    Ok(Target { mountpoint, paths })
}

fn only_mount() -> Result<PathBuf, Problem> {
    let mut found: Vec<PathBuf> =
        mounts().unwrap_or_default().into_iter().filter(|m| m.is_ours()).map(|m| m.mountpoint).collect();
    found.sort();
    found.dedup();
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Problem::new(Code::MountpointNotOurs, "nothing is mounted", "relayfile-mount MOUNTPOINT")),
        several => {
            let list: String = several.iter().map(|m| format!("\n    {}", shell_word(m))).collect();
            Err(Problem::new(
                Code::Usage,
                format!("several mounts run:{list}\n "),
                "name one of them: relayfile watch MOUNTPOINT",
            ))
        }
    }
}

/// The lines of a connection, waited for together with the end of everything else.
struct Lines {
    stream: UnixStream,
    unread: Vec<u8>,
}

enum Heard {
    Line(String),
    /// The other side has closed.
    End,
    /// Nobody reads our output any more.
    ReaderGone,
    TimeOver,
}

impl Lines {
    fn next(&mut self, deadline: Option<Instant>) -> Heard {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Heard::Line(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let patience = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Heard::TimeOver,
                // Rounded up, so that the last wait does not end a moment too early.
                Some(left) => libc::c_int::try_from(left.as_millis() + 1).unwrap_or(libc::c_int::MAX),
                None => -1,
            };
            let watched = |fd, events| libc::pollfd { fd, events, revents: 0 };
            let mut polled = [watched(self.stream.as_raw_fd(), libc::POLLIN), watched(libc::STDOUT_FILENO, 0)];
            // SAFETY: `polled` has two entries and outlives the call.
            if unsafe { libc::poll(polled.as_mut_ptr(), 2, patience) } <= 0 {
                continue; // time is over, or a signal came
            }
            if polled[0].revents != 0 {
                let mut bytes = [0; 8192];
                match self.stream.read(&mut bytes) {
                    Ok(0) => return Heard::End,
                    Ok(n) => self.unread.extend_from_slice(&bytes[..n]),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return Heard::End,
                }
            } else if polled[1].revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 {
                return Heard::ReaderGone;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_aligned_line_in_which_nothing_steers_the_terminal() {
        let line = |json: &str| human(&serde_json::from_str(json).unwrap());
        let head = r#"{"time":"2030-01-01T00:00:00.000Z","#;
        assert_eq!(
            line(&format!(r#"{head}"event":"updated","origin":"remote","path":"/a","revision":"rev_2"}}"#)),
            "2030-01-01T00:00:00.000Z  updated       remote  /a  rev_2"
        );
        assert_eq!(
            line(&format!(r#"{head}"event":"renamed","origin":"local","path":"/b\u001b[m","from":"/a"}}"#)),
            "2030-01-01T00:00:00.000Z  renamed       local   /a -> /b\\u{1b}[m"
        );
    }

    #[test]
    fn every_event_about_a_path_can_be_asked_for() {
        let words: Vec<_> =
            Wanted::value_variants().iter().filter_map(|w| Some(w.to_possible_value()?.get_name().to_owned())).collect();
        for event in [Event::Created, Event::Updated, Event::Deleted, Event::Renamed] {
            assert!(words.iter().any(|w| w == event.as_str()));
        }
        for event in [Event::Acknowledged, Event::Dead, Event::Retried, Event::Discarded] {
            assert!(words.iter().any(|w| w == event.as_str()));
        }
        assert!(EXAMPLES.lines().all(|l| l.len() <= 79));
    }
}
