//! What can be typed. The help of each flag names its variable; a test holds it against [`crate::config::ENV`].

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use crate::config::{Flags, Layer, Secret, Span};

// Lines of at most 78 columns: clap breaks longer ones at the width of the terminal, examples in the middle of a command too.
const MOUNT_EXAMPLES: &str = "\
Examples:
  relayfile-mount ~/ws                    mount the embedded server; no account
  cat ~/ws/.relay/status                  how things stand, what to do next
  relayfile unmount ~/ws                  send what is left, then unmount

  export RELAYFILE_BASE_URL=https://relay.example RELAYFILE_WORKSPACE=team
  relayfile-mount --token-file ~/.relay-token ~/ws

A save is on this disk before close() returns and is uploaded in the
background; neither a crash nor a reboot loses one.

Settings come from the flags, else the environment, else the configuration
file (the same names, with _ for -), else the defaults.

Exit codes: 0 done, 2 usage, 3 mountpoint, 4 FUSE, 5 state directory or lease,
6 remote or token, 7 configuration, 8 unmounted with saves still queued,
9 unmounted with dead letters, 70 anything else. Each problem has a stable
[CODE]: see docs/OPERATIONS.md.";

const RELAYFILE_EXAMPLES: &str = "\
Examples:
  relayfile doctor ~/ws          why does it not mount?
  relayfile mounts               what is mounted, and how many saves wait
  relayfile writeback status     what waits, what the remote refused
  relayfile watch ~/ws           every change, as it happens
  relayfile unmount ~/ws         0: all is at the remote; 8: saves are queued
  relayfile serve --data-dir /srv/relayfile --listen 127.0.0.1:8080

Exit codes: 0 done, 1 doctor found a problem, 2 usage, 3 mountpoint, 4 FUSE,
5 state directory or lease, 6 remote or token, 7 configuration, 8 unmounted
with saves still queued, 9 unmounted with dead letters, 70 anything else.
`relayfile writeback` and `relayfile watch` have exit codes of their own: see
their --help.";

const DOCTOR_EXAMPLES: &str = "\
Takes the options of relayfile-mount and makes the checks that it makes, all of
them, changing nothing:
  relayfile doctor
  relayfile doctor --base-url https://relay.example --workspace team \\
      --token-file ~/.relay-token ~/ws

Exit codes: 0 all is well, 1 a problem was found, 2 usage.";

/// Mounts a relayfile workspace as a directory.
#[derive(Debug, Parser)]
#[command(name = "relayfile-mount", version, after_help = MOUNT_EXAMPLES, max_term_width = 120)]
pub struct MountArgs {
    #[command(flatten)]
    pub settings: Settings,

    /// Stay in the foreground and log to stderr; Ctrl-C unmounts
    #[arg(long, short, help_heading = "Start")]
    pub foreground: bool,

    /// The descriptor on which a background process reports that it is ready
    #[arg(long, hide = true, value_name = "FD")]
    pub ready_fd: Option<i32>,
}

/// What `relayfile-mount` and `relayfile doctor` both take.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// The directory to mount at: it must exist and be empty [env: RELAYFILE_LOCAL_DIR]
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath, conflicts_with = "local_dir")]
    pub mountpoint: Option<PathBuf>,

    /// Base URL of the relayfile server; without one the embedded server is mounted [env: RELAYFILE_BASE_URL]
    #[arg(long, value_name = "URL", help_heading = "Remote", value_hint = ValueHint::Url)]
    base_url: Option<String>,

    /// Workspace at the server [env: RELAYFILE_WORKSPACE]
    #[arg(long, value_name = "NAME", help_heading = "Remote")]
    workspace: Option<String>,

    /// The directory of the workspace to mount [env: RELAYFILE_REMOTE_PATH] [default: /]
    #[arg(long, value_name = "PATH", help_heading = "Remote")]
    remote_path: Option<String>,

    /// File that holds the token and nothing else; read again when it changes [env: RELAYFILE_TOKEN_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Remote", value_hint = ValueHint::FilePath, conflicts_with_all = ["token", "creds_file"])]
    token_file: Option<PathBuf>,

    /// JSON file {"token": "…"} kept fresh by a launcher; read again when it changes [env: RELAYFILE_MOUNT_CREDS_FILE]
    #[arg(long, value_name = "FILE", help_heading = "Remote", value_hint = ValueHint::FilePath)]
    creds_file: Option<PathBuf>,

    /// The token itself; everyone on this machine can read it in the process list, so better set RELAYFILE_TOKEN
    /// [env: RELAYFILE_TOKEN]
    #[arg(long, value_name = "TOKEN", help_heading = "Remote")]
    pub token: Option<Secret>,

    /// Deadline of one request: 30s, 500ms, or a number of seconds [env: RELAYFILE_MOUNT_TIMEOUT] [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Remote")]
    timeout: Option<Span>,

    /// Mount although the remote does not answer; saves go out when it is back [env: RELAYFILE_MOUNT_OFFLINE_OK]
    #[arg(long, help_heading = "Remote")]
    offline_ok: bool,

    /// Data of the embedded server [env: RELAYFILE_EMBEDDED_DIR] [default: $XDG_DATA_HOME/relayfile/embedded]
    #[arg(long, value_name = "DIR", help_heading = "Remote", value_hint = ValueHint::DirPath)]
    embedded_dir: Option<PathBuf>,

    /// The mountpoint, as a flag [env: RELAYFILE_LOCAL_DIR]
    #[arg(long, value_name = "DIR", help_heading = "Mount", value_hint = ValueHint::DirPath)]
    local_dir: Option<PathBuf>,

    /// Let other users see the mount; without root /etc/fuse.conf must say user_allow_other
    /// [env: RELAYFILE_MOUNT_ALLOW_OTHER]
    #[arg(long, help_heading = "Mount")]
    allow_other: bool,

    /// Mount over a directory that is not empty; what is in it is hidden until the unmount
    #[arg(long, help_heading = "Mount")]
    allow_nonempty: bool,

    /// Refuse every change [env: RELAYFILE_MOUNT_READ_ONLY]
    #[arg(long, help_heading = "Mount")]
    read_only: bool,

    /// Do not tell programs that watch files with inotify of remote changes [env: RELAYFILE_MOUNT_NO_WATCH_EVENTS]
    #[arg(long, help_heading = "Mount")]
    no_watch_events: bool,

    /// Where journal, cache and queue live [env: RELAYFILE_MOUNT_STATE_DIR]
    /// [default: $XDG_STATE_HOME/relayfile/<workspace>-<hash>]
    #[arg(long, value_name = "DIR", help_heading = "State", value_hint = ValueHint::DirPath)]
    state_dir: Option<PathBuf>,

    /// Where to log [env: RELAYFILE_MOUNT_LOG_FILE] [default: mount.log in the state directory; stderr in the foreground]
    #[arg(long, value_name = "FILE", help_heading = "State", value_hint = ValueHint::FilePath)]
    log_file: Option<PathBuf>,

    /// A file must stand still this long before it is uploaded [env: RELAYFILE_MOUNT_SETTLE] [default: 500ms]
    #[arg(long, value_name = "TIME", help_heading = "Writeback")]
    settle: Option<Span>,

    /// Paths that stay on this machine, a pattern as in .gitignore; may be repeated. Beside it counts .relayignore in the
    /// root of the mount [env: RELAYFILE_LOCAL_ONLY, with commas between]
    #[arg(long, value_name = "PATTERN", help_heading = "Writeback")]
    local_only: Vec<String>,

    /// Uploads at a time, 1 to 64 [env: RELAYFILE_MOUNT_WORKERS] [default: 4]
    #[arg(long, value_name = "N", help_heading = "Writeback", value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: Option<u32>,

    /// Refusals that make a save a dead letter; no answer at all counts none [env: RELAYFILE_MOUNT_MAX_ATTEMPTS]
    /// [default: 4]
    #[arg(long, value_name = "N", help_heading = "Writeback", value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_attempts: Option<u32>,

    /// How long an unmount waits for uploads; what is left stays queued [env: RELAYFILE_MOUNT_DRAIN_TIMEOUT] [default: 5s]
    #[arg(long, value_name = "TIME", help_heading = "Writeback")]
    drain_timeout: Option<Span>,

    /// Configuration file (TOML) [env: RELAYFILE_MOUNT_CONFIG] [default: $XDG_CONFIG_HOME/relayfile/mount.toml if it is there]
    #[arg(long, value_name = "FILE", help_heading = "Start", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,

    /// Log more: -v what is done, -vv every request; RUST_LOG overrides it
    #[arg(long, short, action = clap::ArgAction::Count, help_heading = "Start", conflicts_with = "quiet")]
    verbose: u8,

    /// Log warnings and errors only
    #[arg(long, short, help_heading = "Start")]
    quiet: bool,
}

impl Settings {
    pub fn into_flags(self, foreground: bool) -> Flags {
        // A switch that is absent is not "false": the environment or the file may still set it.
        let switch = |on: bool| on.then_some(true);
        Flags {
            layer: Layer {
                local_dir: self.mountpoint.or(self.local_dir),
                base_url: self.base_url,
                workspace: self.workspace,
                remote_path: self.remote_path,
                token: self.token,
                token_file: self.token_file,
                creds_file: self.creds_file,
                embedded_dir: self.embedded_dir,
                state_dir: self.state_dir,
                log_file: self.log_file,
                timeout: self.timeout,
                settle: self.settle,
                drain_timeout: self.drain_timeout,
                workers: self.workers,
                max_attempts: self.max_attempts,
                local_only: Some(self.local_only).filter(|patterns| !patterns.is_empty()),
                allow_other: switch(self.allow_other),
                allow_nonempty: switch(self.allow_nonempty),
                read_only: switch(self.read_only),
                no_watch_events: switch(self.no_watch_events),
                offline_ok: switch(self.offline_ok),
            },
            config: self.config,
            foreground,
            log_level: match (self.quiet, self.verbose) {
                (true, _) => Some(log::LevelFilter::Warn),
                (false, 0) => None,
                (false, 1) => Some(log::LevelFilter::Debug),
                (false, _) => Some(log::LevelFilter::Trace),
            },
        }
    }
}

/// Looks after relayfile mounts: why one does not start, what is mounted, how to take it away.
#[derive(Debug, Parser)]
#[command(name = "relayfile", version, after_help = RELAYFILE_EXAMPLES, max_term_width = 120)]
pub struct RelayfileArgs {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make every check of a mount and say what is wrong, and how to mend it
    Doctor(Box<Doctor>),
    /// List the relayfile mounts of this machine
    Mounts(Mounts),
    /// Send what is left, then unmount
    Unmount(Unmount),
    /// What waits for the remote, what it refused, and what to do with it
    Writeback(super::writeback::args::Writeback),
    /// Tell every change of a mount as it happens
    Watch(super::watch::Watch),
    /// Run the embedded relayfile server on its own
    Serve(Serve),
    /// Print a completion script for a shell
    Completions(Completions),
}

#[derive(Debug, Args)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub struct Doctor {
    #[command(flatten)]
    pub settings: Settings,
}

#[derive(Debug, Args)]
pub struct Mounts {
    /// Print a JSON array instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Unmount {
    /// The directory that is mounted at
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    pub mountpoint: PathBuf,

    /// How long to wait for the mount's process to end: 30s, 2m, or a number of seconds. It drains for at most its own
    /// --drain-timeout and ends then
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub timeout: Span,
}

#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Where the server keeps its data, its token (DIR/token) and its address (DIR/url)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data_dir: PathBuf,

    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Longest request body in bytes
    #[arg(long, value_name = "BYTES", help_heading = "Limits", default_value_t = 1_048_576)]
    pub body_limit: usize,

    /// Requests a minute that one token may make; unlimited without it
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub rate_limit: Option<u32>,

    /// Also accept JWTs signed with the HS256 secret in this file
    #[arg(long, value_name = "FILE", help_heading = "Access", value_hint = ValueHint::FilePath)]
    pub jwt_secret_file: Option<PathBuf>,

    /// Let clients plan faults (for tests): delays, errors, dropped answers
    #[arg(long, help_heading = "Access")]
    pub allow_faults: bool,

    /// Log more: -v what is done, -vv every request; RUST_LOG overrides it
    #[arg(long, short, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Args)]
pub struct Completions {
    pub shell: clap_complete::Shell,

    /// The command to complete
    #[arg(long = "for", value_name = "COMMAND", value_enum, default_value_t = Binary::Relayfile)]
    pub binary: Binary,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Binary {
    Relayfile,
    RelayfileMount,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn both_command_lines_are_sound() {
        MountArgs::command().debug_assert();
        RelayfileArgs::command().debug_assert();
    }

    #[test]
    fn the_help_names_the_variable_of_each_flag() {
        let command = MountArgs::command();
        for (flag, variable) in crate::config::ENV {
            let arg = command.get_arguments().find(|a| a.get_long() == Some(flag)).unwrap_or_else(|| panic!("no --{flag}"));
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains(&format!("[env: {variable}]")) || help.contains(&format!("[env: {variable},")),
                "--{flag} does not name {variable}: {help}"
            );
        }
    }

    #[test]
    fn every_flag_has_a_heading_and_the_examples_are_there() {
        let mut command = MountArgs::command();
        let help = command.render_help().to_string();
        assert!(MOUNT_EXAMPLES.lines().chain(RELAYFILE_EXAMPLES.lines()).chain(DOCTOR_EXAMPLES.lines()).all(|l| l.len() <= 79));
        for heading in ["Remote:", "Mount:", "State:", "Writeback:", "Start:", "Examples:", "Exit codes:"] {
            assert!(help.contains(heading), "{heading} is missing");
        }
        assert!(!help.contains("ready-fd"), "the plumbing is not for people");
    }

    #[test]
    fn an_absent_switch_says_nothing() {
        let args = MountArgs::try_parse_from(["relayfile-mount", "/m", "--read-only", "-vv"]).unwrap();
        let flags = args.settings.into_flags(args.foreground);
        assert_eq!((flags.layer.read_only, flags.layer.allow_other), (Some(true), None));
        assert_eq!(flags.log_level, Some(log::LevelFilter::Trace));
        assert_eq!(flags.layer.local_dir, Some("/m".into()));
    }

    #[test]
    fn parsed_arguments_do_not_show_the_token() {
        let args = MountArgs::try_parse_from(["relayfile-mount", "/m", "--token", "s3cr3t"]).unwrap();
        assert!(!format!("{args:?}").contains("s3cr3t"));
    }
}
