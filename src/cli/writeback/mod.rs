//! `relayfile writeback`: what waits for the remote, what it refused, and what to do with it.
//!
//! | file | owns |
//! |---|---|
//! | `args` | what can be typed |
//! | `place` | from a mountpoint, a workspace or a directory to a state directory |
//! | `view` | how a state stands, read from outside |
//! | `status` | `status`, `list` and `show` |
//! | `act` | `retry` and `discard`, through a live mount or without one |
//! | `send` | `flush` and `drain` |

pub mod args;

mod act;
mod place;
mod send;
mod status;
mod table;
mod view;

use crate::ids::OpId;
use crate::preflight::{Code, Problem};

/// The exit codes of these commands. `docs/OPERATIONS.md` says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Healthy, or done. However often something failed before.
    Healthy = 0,
    /// Dead letters are present, or something that was asked for could not be done.
    DeadLetters = 1,
    /// The command line is wrong, or the state cannot be read.
    Unusable = 2,
    /// A live mount, a held lease or a request under way is in the way.
    Blocked = 3,
    /// Time is over and work is left.
    WorkLeft = 4,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}

pub fn run(options: &args::Writeback) -> Exit {
    use args::Command;
    let result = match &options.command {
        Command::Status(o) => status::status(o),
        Command::List(o) => status::list(o),
        Command::Show(o) => status::show(o),
        Command::Retry(o) => act::retry(o),
        Command::Discard(o) => act::discard(o),
        Command::Flush(o) => send::flush(o),
        Command::Drain(o) => send::drain(o),
    };
    result.unwrap_or_else(|problem| {
        super::say(format_args!("relayfile: {problem}"));
        if problem.code == Code::LeaseHeld { Exit::Blocked } else { Exit::Unusable }
    })
}

fn view(typed: &args::Place) -> Result<view::View, Problem> {
    view::View::read(place::resolve(typed, &|name| std::env::var_os(name))?)
}

/// An operation id as it was typed: checked before any path is made of it.
fn op_id(text: &str) -> Result<OpId, Problem> {
    text.parse()
        .map_err(|e: crate::ids::InvalidOpId| Problem::new(Code::Usage, e.to_string(), "relayfile writeback list shows the ids"))
}

/// Remote words are hostile input: no control characters reach a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().take(300).flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}
