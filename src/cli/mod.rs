//! The command lines of both binaries.
//!
//! | file | owns |
//! |---|---|
//! | `args` | what can be typed, and the help that teaches it |
//! | `mount_command` | `relayfile-mount`: check, then background or foreground, then serve, then drain |
//! | `background` | the start in the background: re-exec, the ready pipe, the log |
//! | `signals` | SIGINT, SIGTERM and SIGHUP as a value |
//! | `doctor` `mounts` `unmount` `serve` | the commands of `relayfile` |
//! | `writeback` | the commands for what waits and what was refused |
//! | `watch` | what changes in a mount, line by line |
//! | `live` | asking a running mount how it stands |
//! | `known` | what the state directories know of a mount that cannot be asked |
//! | `connect` | the remote of a configuration, for the checks before a mount |
//! | `usage` | mistakes of the command line, told as the other problems are |
//!
//! Nothing here knows FUSE, HTTP or the journal. Problems go to stderr as `what [CODE]` and a remedy; the exit code is that of
//! [`Exit`](crate::preflight::Exit).

mod args;
mod background;
mod connect;
mod doctor;
mod known;
mod live;
mod logging;
mod mount_command;
mod mounts;
mod serve;
mod signals;
mod unmount;
mod usage;
mod watch;
mod writeback;

pub use args::{MountArgs, RelayfileArgs};
pub use signals::Signals;

use std::process::ExitCode;

use clap::CommandFactory;

use crate::preflight::{Exit, Problem};

/// `relayfile-mount`.
pub fn relayfile_mount() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|a| a == crate::fs::watchers::HELPER_FLAG) {
        crate::fs::watchers::help();
        return ExitCode::SUCCESS;
    }
    usage::parse().map_or_else(|exit| exit, mount_command::run).into()
}

/// `relayfile`.
pub fn relayfile() -> ExitCode {
    usage::parse().map_or_else(Into::into, run)
}

fn run(args: RelayfileArgs) -> ExitCode {
    use args::Command;
    let exit = match args.command {
        Command::Serve(options) => serve::run(&options),
        Command::Doctor(options) => doctor::run(*options),
        Command::Mounts(options) => mounts::run(&options),
        Command::Unmount(options) => unmount::run(&options),
        Command::Completions(options) => completions(&options),
        Command::Watch(options) => return watch::run(&options),
        Command::Writeback(options) => {
            logging::start(log::LevelFilter::Error, None);
            return writeback::run(&options).into();
        }
    };
    exit.into()
}

fn completions(options: &args::Completions) -> Exit {
    use std::io::Write;
    let (mut command, name) = match options.binary {
        args::Binary::Relayfile => (RelayfileArgs::command(), "relayfile"),
        args::Binary::RelayfileMount => (MountArgs::command(), "relayfile-mount"),
    };
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    match std::io::stdout().write_all(&script) {
        Ok(()) => Exit::Ok,
        // `relayfile completions bash | head` is no failure.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(_) => Exit::Internal,
    }
}

/// Says a problem on stderr and returns its exit code.
fn report(program: &str, problem: &Problem) -> Exit {
    say(format_args!("{program}: {problem}"));
    problem.exit()
}

/// One line to stderr. A closed stderr is no reason to die.
fn say(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// One line to stdout; a reader that has gone away (`| head`) is no reason to panic.
fn out(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
