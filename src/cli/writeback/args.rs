//! What can be typed after `relayfile writeback`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use crate::config::Span;

const EXAMPLES: &str = "\
Examples:
  relayfile writeback status ~/ws           how many saves wait, which died
  relayfile writeback list --state dead     one line for each dead letter
  relayfile writeback list --state local    what stays here, and by which rule
  relayfile writeback show OP               what, when, and why, in full
  relayfile writeback retry --opId OP       send it again
  relayfile writeback retry --opId OP --force   … on top of what is there
  relayfile writeback discard OP            let it go
  relayfile writeback flush ~/ws            wait until all is at the remote
  relayfile writeback drain                 send what is left, without a mount

PLACE is a mountpoint, a workspace or a state directory. It may be left out
inside a mount, with RELAYFILE_LOCAL_DIR, RELAYFILE_WORKSPACE or
RELAYFILE_MOUNT_STATE_DIR set, or when this user has only one.

Exit codes: 0 healthy, or done; 1 dead letters are present, or something could
not be done; 2 usage, or a state that cannot be read; 3 blocked by a live mount,
a held lease or a request under way; 4 time is over and work is left.";

/// What waits for the remote, what it refused, and what to do with it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Writeback {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Counts, dead letters, and the last refusal of each provider
    Status(Status),
    /// One line for each operation that is not finished
    List(List),
    /// Everything about one operation, and the command to type next
    Show(Show),
    /// Send dead letters again
    Retry(Retry),
    /// Let dead letters go: their files return to the remote's version
    Discard(Discard),
    /// Wait until everything saved so far is at the remote
    Flush(Flush),
    /// Send what is left, without a mount
    Drain(Drain),
}

/// Whose state.
#[derive(Debug, Clone, Default, Args)]
pub struct Place {
    /// Mountpoint, workspace or state directory
    #[arg(value_name = "PLACE", value_hint = ValueHint::AnyPath)]
    pub place: Option<String>,

    /// The state directory, as a flag [env: RELAYFILE_MOUNT_STATE_DIR]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "place")]
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    pub place: Place,

    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    pub place: Place,

    /// Only operations in this state
    #[arg(long, value_enum)]
    pub state: Option<State>,

    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Waits for its first or next attempt
    Pending,
    /// Being sent
    Inflight,
    /// Refused for good, its bytes kept
    Dead,
    /// Of the dead, those that met another version at the remote
    Conflict,
    /// No operations, but the files that stay on this machine, each with the rule that keeps it here
    Local,
}

#[derive(Debug, Args)]
pub struct Show {
    /// The operation
    #[arg(value_name = "OP")]
    pub op: String,

    #[command(flatten)]
    pub place: Place,

    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Retry {
    /// The dead letter to send again
    #[arg(long = "opId", alias = "op-id", value_name = "OP", required_unless_present = "all", conflicts_with = "all")]
    pub op_id: Option<String>,

    /// All dead letters
    #[arg(long)]
    pub all: bool,

    #[command(flatten)]
    pub place: Place,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Put it on top of whatever the remote has now, also where the file was deleted there
    #[arg(long)]
    pub force: bool,

    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Discard {
    /// The dead letter to let go
    #[arg(value_name = "OP", required_unless_present = "all")]
    pub op: Option<String>,

    /// All dead letters
    #[arg(long)]
    pub all: bool,

    #[command(flatten)]
    pub place: Place,

    /// Do not ask. Needed for --all when there is no terminal to ask on
    #[arg(long, short)]
    pub yes: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Flush {
    #[command(flatten)]
    pub place: Place,

    /// How long to wait: 30s, 2m, or a number of seconds
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub timeout: Span,

    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Drain {
    #[command(flatten)]
    pub place: Place,

    /// How long to go on: 30s, 2m, or a number of seconds
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub timeout: Span,

    /// File that holds the token and nothing else [env: RELAYFILE_TOKEN_FILE; the token itself: RELAYFILE_TOKEN]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,

    /// JSON file {"token": "…"} kept fresh by a launcher [env: RELAYFILE_MOUNT_CREDS_FILE]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "token_file")]
    pub creds_file: Option<PathBuf>,

    /// Base URL, for a state directory that does not say it [env: RELAYFILE_BASE_URL]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub base_url: Option<String>,

    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}
